/* fiber.cc - stacks, the switch between them, and what AddressSanitizer is told of it. */
#include "tests/cudasim/fiber.h"

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

/* void sim_fiber_switch(void **save, void *top): keeps the registers that calls keep on this stack,
 * and takes those that lie on the other. */
asm(".text\n"
    ".type sim_fiber_switch, @function\n"
    "sim_fiber_switch:\n"
    "  endbr64\n"
    "  push %rbp\n  push %rbx\n  push %r12\n  push %r13\n  push %r14\n  push %r15\n"
    "  mov %rsp, (%rdi)\n"
    "  mov %rsi, %rsp\n"
    "  pop %r15\n  pop %r14\n  pop %r13\n  pop %r12\n  pop %rbx\n  pop %rbp\n"
    "  ret\n"
    ".size sim_fiber_switch, .-sim_fiber_switch\n"
    /* What a new stack returns to: its function and argument came in two such registers. */
    ".type sim_fiber_entry, @function\n"
    "sim_fiber_entry:\n"
    "  endbr64\n"
    "  mov %r12, %rdi\n"
    "  call *%rbx\n"
    "  ud2\n"
    ".size sim_fiber_entry, .-sim_fiber_entry\n");

extern "C" {
__attribute__((visibility("hidden"))) void sim_fiber_switch(void **save, void *top);
__attribute__((visibility("hidden"))) void sim_fiber_entry();
}

namespace sim
{

namespace
{

#ifdef __SANITIZE_ADDRESS__
const size_t STACK_BYTES = 256 << 10; /* frames have redzones */
#else
const size_t STACK_BYTES = 64 << 10;
#endif
const size_t PAGE_BYTES = 4096;

void tell_start(fiber *from, const fiber *to, bool ends)
{
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(ends ? NULL : &from->fake_stack, to->stack, to->stack_bytes);
#else
    (void)from, (void)to, (void)ends;
#endif
}

void tell_finish(const fiber *now)
{
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(now ? now->fake_stack : NULL, NULL, NULL);
#else
    (void)now;
#endif
}

} // namespace

stacks::stacks(int n) : n(n)
{
    at = static_cast<char *>(mmap(NULL, n * STACK_BYTES, PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (at == MAP_FAILED) {
        perror("take memory for stacks");
        abort();
    }
    for (int i = 0; i < n; i++)
        mprotect(at + i * STACK_BYTES, PAGE_BYTES, PROT_NONE);
}

stacks::~stacks()
{
    munmap(at, n * STACK_BYTES);
}

void stacks::make(fiber *f, int i, void (*entry)(void *), void *arg) const
{
    char *low = at + i * STACK_BYTES;
    /* Stacks that begin at the same place of their pages fight for the same lines of the cache. */
    const size_t skew = static_cast<size_t>(i % 16) * 192;
    void **top = reinterpret_cast<void **>(low + STACK_BYTES - skew - 64);
    top -= 2; /* the entry calls with a stack that is aligned */
    *--top = reinterpret_cast<void *>(sim_fiber_entry);
    *--top = NULL;                            /* rbp */
    *--top = reinterpret_cast<void *>(entry); /* rbx */
    *--top = arg;                             /* r12 */
    for (int r = 13; r <= 15; r++)
        *--top = NULL;
    f->top = top;
    f->stack = low;
    f->stack_bytes = STACK_BYTES;
    f->fake_stack = NULL;
}

void fiber_of_thread(fiber *f)
{
    *f = {};
#ifdef __SANITIZE_ADDRESS__
    pthread_attr_t attributes;
    void *stack = NULL;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &stack, &f->stack_bytes);
    pthread_attr_destroy(&attributes);
    f->stack = stack;
#endif
}

void fiber_switch(fiber *from, fiber *to)
{
    tell_start(from, to, false);
    sim_fiber_switch(&from->top, to->top);
    tell_finish(from);
}

void fiber_end(fiber *from, fiber *to)
{
    tell_start(from, to, true);
    sim_fiber_switch(&from->top, to->top);
    __builtin_unreachable();
}

void fiber_begin()
{
    tell_finish(NULL);
}

} // namespace sim
