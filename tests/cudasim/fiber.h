/* fiber.h - a stack to run a function on, and the switch from one to another.
 *
 * Switches save what the System V ABI of x86-64 says that a call keeps, and no signal mask: a few
 * nanoseconds, where swapcontext makes two system calls.
 *
 * Thread: a fiber is switched to by the thread that made it. */
#ifndef TESTS_CUDASIM_FIBER_H
#define TESTS_CUDASIM_FIBER_H

#include <stddef.h>

namespace sim
{

struct fiber {
    void *top;         /* of its stack while it does not run */
    const void *stack; /* lowest byte; NULL: the thread's own */
    size_t stack_bytes;
    void *fake_stack; /* AddressSanitizer's, while it does not run */
};

/* Memory for n stacks, each behind a page that faults. */
class stacks
{
  public:
    explicit stacks(int n);
    ~stacks();
    stacks(const stacks &) = delete;
    /* A fiber on stack i that will call entry(arg), which never returns. */
    void make(fiber *f, int i, void (*entry)(void *), void *arg) const;
    int count() const
    {
        return n;
    }

  private:
    int n;
    char *at;
};

/* What the calling thread runs on itself. */
void fiber_of_thread(fiber *);
/* Until somebody switches back to `from`. */
void fiber_switch(fiber *from, fiber *to);
/* The same, of a fiber that will not run again. */
void fiber_end(fiber *from, fiber *to);
/* A fiber calls it first. */
void fiber_begin();

} // namespace sim

#endif
