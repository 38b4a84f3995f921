/* shared.h - shared memory of one block, and its addresses of 32 bits.
 *
 * What the launch gives (dynamic) lies in a buffer of its own; what kernels declare (static) is
 * thread-local, since each block of a cluster has a thread of the host.  All of it is garbage, a
 * NaN in every type, when a block begins. */
#ifndef TESTS_CUDASIM_SHARED_H
#define TESTS_CUDASIM_SHARED_H

#include <stddef.h>
#include <stdint.h>

struct dl_phdr_info;

namespace sim
{

const size_t SHARED_MAX = 227 << 10; /* that a block may ask for */

class shared_memory
{
  public:
    shared_memory();
    ~shared_memory();
    shared_memory(const shared_memory &) = delete;
    /* n bytes that the launch gives; `code` is of the module that declares the rest. */
    void begin(const void *code, size_t n_bytes);
    /* Where they are; no more aligned than the kernel says that it wants. */
    char *dynamic(size_t align) const;
    uint32_t address(const void *) const;
    /* n bytes at an address; fails where they are not the block's. */
    char *at(uint32_t address, size_t n_bytes) const;
    /* The same place as `p`, which is `other`'s. */
    void *same(const shared_memory &other, const void *p) const;

  private:
    char *room;
    size_t n_bytes;
    struct module_tls { /* what a module declares as thread-local, on this thread */
        const char *code, *code_end;
        char *at;
        size_t n_bytes;
    } statics;
    static int find_statics(struct dl_phdr_info *, size_t, void *);
};

} // namespace sim

#endif
