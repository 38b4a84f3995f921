/* shared.cc - where shared memory is, and where its garbage comes from. */
#include "tests/cudasim/shared.h"

#include <link.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cudasim/block.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(at, n)   ((void)(at), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(at, n) ((void)(at), (void)(n))
#endif

namespace sim
{

namespace
{

/* Dynamic memory begins behind the static, at no more than 16 bytes' alignment. */
const uint32_t DYNAMIC_AT = 1024 + 16, STATIC_AT = 1 << 20;
const size_t ALIGN = 1024, ROOM = (DYNAMIC_AT + SHARED_MAX + ALIGN - 1) / ALIGN * ALIGN;

/* What code compiled for a shared object calls: this thread's copy of a module's variables. */
struct tls_index {
    unsigned long module, offset;
};
extern "C" void *__tls_get_addr(tls_index *);

} // namespace

/* Of the module that has statics.code. */
int shared_memory::find_statics(struct dl_phdr_info *module, size_t, void *found)
{
    module_tls *m = static_cast<module_tls *>(found);
    const char *first = NULL, *end = NULL;
    size_t n_bytes = 0;
    for (int i = 0; i < module->dlpi_phnum; i++) {
        const ElfW(Phdr) &p = module->dlpi_phdr[i];
        const char *at = reinterpret_cast<const char *>(module->dlpi_addr + p.p_vaddr);
        if (p.p_type == PT_TLS)
            n_bytes = p.p_memsz;
        if (p.p_type == PT_LOAD && m->code >= at && m->code < at + p.p_memsz) {
            first = at;
            end = at + p.p_memsz;
        }
    }
    if (!first)
        return 0;
    tls_index index = {module->dlpi_tls_modid, 0};
    *m = {first, end, n_bytes ? static_cast<char *>(__tls_get_addr(&index)) : NULL, n_bytes};
    return 1;
}

shared_memory::shared_memory() : n_bytes(0), statics{}
{
    room = static_cast<char *>(aligned_alloc(ALIGN, ROOM));
    if (!room)
        abort();
}

shared_memory::~shared_memory()
{
    ASAN_UNPOISON_MEMORY_REGION(room, ROOM);
    free(room);
}

void shared_memory::begin(const void *code, size_t n)
{
    const char *at = static_cast<const char *>(code);
    if (at < statics.code || at >= statics.code_end) {
        statics.code = at;
        if (!dl_iterate_phdr(find_statics, &statics))
            fail("a kernel's code is in no module");
    }
    n_bytes = n;
    ASAN_UNPOISON_MEMORY_REGION(room, ROOM);
    memset(room, 0xff, DYNAMIC_AT + n);
    ASAN_POISON_MEMORY_REGION(room + DYNAMIC_AT + n, ROOM - DYNAMIC_AT - n);
    memset(statics.at, 0xff, statics.n_bytes);
}

char *shared_memory::dynamic(size_t align) const
{
    return room + (align > 16 ? ALIGN : DYNAMIC_AT);
}

uint32_t shared_memory::address(const void *p) const
{
    const char *at = static_cast<const char *>(p);
    if (at >= room && at < room + ROOM)
        return static_cast<uint32_t>(at - room);
    if (at >= statics.at && at < statics.at + statics.n_bytes)
        return STATIC_AT + static_cast<uint32_t>(at - statics.at);
    fail("%p is not in shared memory", p);
}

char *shared_memory::at(uint32_t address, size_t n) const
{
    if (address >= STATIC_AT && address - STATIC_AT + n <= statics.n_bytes)
        return statics.at + (address - STATIC_AT);
    if (address >= ALIGN && address + n <= DYNAMIC_AT + n_bytes)
        return room + address;
    fail("%zu bytes at %#x are not in the block's shared memory, of %zu", n, address, n_bytes);
}

void *shared_memory::same(const shared_memory &other, const void *p) const
{
    return at(other.address(p), 1);
}

} // namespace sim
