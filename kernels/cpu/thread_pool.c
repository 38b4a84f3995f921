/* thread_pool.c - runs the parts of one piece of work on a fixed set of threads.
 *
 * The caller is thread 0 and works too.  A job is a function and a number of parts; threads take
 * parts, the last one first, from one 64-bit ticket, which holds the number of the job above the
 * count of untaken parts.  Moving the ticket from (job, n) to (job, n - 1) takes part n - 1, and
 * succeeds only while that very job has untaken parts: the job's fields, read just before, are
 * then the right ones, because the caller changes them only after all parts of the job are done.
 * So no thread has to check in, and a sleeping or preempted worker that took no part delays
 * nobody.
 *
 * A worker that finds nothing spins for SPIN_NS and then sleeps on `epoch`.  A decode step has a
 * parallel region every few tens of microseconds, and a futex wake-up costs about as much as such
 * a region; an idle daemon burns nothing.
 *
 * Thread: one caller; the workers are the pool's own. */
#include "kernels/cpu/cpu_int.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
    SPIN_NS = 50000,
    SPINS_PER_LOOK = 64,       /* pauses between two looks at the clock */
    SPINS_BEFORE_YIELD = 4096, /* the caller's wait for the last parts; then it gives way */
    LINE = 64,
};

typedef void part_fn(void *ctx, int part, int thread);

struct worker {
    struct thread_pool *pool;
    pthread_t thread;
    int index;
};

struct thread_pool {
    /* Caller writes, workers read. */
    _Alignas(LINE) _Atomic(part_fn *) fn;
    _Atomic(void *) ctx;
    _Atomic bool stop;
    int n_threads;

    /* All threads write. */
    _Alignas(LINE) _Atomic uint64_t ticket; /* job << 32 | untaken parts */
    _Alignas(LINE) _Atomic int n_done;
    _Alignas(LINE) _Atomic uint32_t epoch; /* the futex: changes with each job */
    _Atomic int n_asleep;

    int n_started;          /* workers that thread_pool_close must join */
    struct worker worker[]; /* [n_threads - 1] */
};

static void wait_epoch(_Atomic uint32_t *word, uint32_t seen)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void wake_epoch(_Atomic uint32_t *word, int n)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Takes and runs parts until the current job has none left to take. */
static void run_parts(struct thread_pool *p, int thread)
{
    uint64_t ticket = atomic_load_explicit(&p->ticket, memory_order_acquire);
    uint32_t n_left;
    while ((n_left = (uint32_t)ticket) > 0) {
        part_fn *fn = atomic_load_explicit(&p->fn, memory_order_relaxed);
        void *ctx = atomic_load_explicit(&p->ctx, memory_order_relaxed);
        if (!atomic_compare_exchange_weak_explicit(&p->ticket, &ticket, ticket - 1,
                                                   memory_order_acq_rel, memory_order_acquire))
            continue;
        fn(ctx, (int)n_left - 1, thread);
        atomic_fetch_add_explicit(&p->n_done, 1, memory_order_release);
        ticket = atomic_load_explicit(&p->ticket, memory_order_acquire);
    }
}

/* Returns once the epoch is not `seen`: spinning first, then asleep. */
static void await_job(struct thread_pool *p, uint32_t seen)
{
    uint64_t end = now_ns() + SPIN_NS;
    do {
        for (int i = 0; i < SPINS_PER_LOOK; i++) {
            if (atomic_load_explicit(&p->epoch, memory_order_acquire) != seen)
                return;
            __builtin_ia32_pause();
        }
    } while (now_ns() < end);
    /* The count rises before the kernel looks at the epoch, and the caller moves the epoch before
     * it looks at the count: one of the two sees the other. */
    atomic_fetch_add(&p->n_asleep, 1);
    while (atomic_load(&p->epoch) == seen)
        wait_epoch(&p->epoch, seen);
    atomic_fetch_sub(&p->n_asleep, 1);
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct thread_pool *p = w->pool;
    uint32_t seen = 0; /* the epoch before the first job */
    for (;;) {
        await_job(p, seen);
        seen = atomic_load_explicit(&p->epoch, memory_order_acquire);
        if (atomic_load_explicit(&p->stop, memory_order_acquire))
            return NULL;
        run_parts(p, w->index);
    }
}

static void announce(struct thread_pool *p, int n_wanted)
{
    atomic_fetch_add(&p->epoch, 1);
    if (atomic_load(&p->n_asleep) > 0)
        wake_epoch(&p->epoch, n_wanted);
}

void thread_pool_run(struct thread_pool *p, part_fn *fn, void *ctx, int n_parts)
{
    if (n_parts <= 1 || p->n_threads == 1) {
        for (int part = 0; part < n_parts; part++)
            fn(ctx, part, 0);
        return;
    }
    uint64_t job = (atomic_load_explicit(&p->ticket, memory_order_relaxed) >> 32) + 1;
    atomic_store_explicit(&p->fn, fn, memory_order_relaxed);
    atomic_store_explicit(&p->ctx, ctx, memory_order_relaxed);
    atomic_store_explicit(&p->n_done, 0, memory_order_relaxed);
    atomic_store_explicit(&p->ticket, job << 32 | (uint32_t)n_parts, memory_order_release);
    announce(p, n_parts - 1 < p->n_threads - 1 ? n_parts - 1 : p->n_threads - 1);
    run_parts(p, 0);
    int n_spins = 0;
    while (atomic_load_explicit(&p->n_done, memory_order_acquire) != n_parts) {
        if (++n_spins < SPINS_BEFORE_YIELD)
            __builtin_ia32_pause();
        else
            sched_yield();
    }
}

struct thread_pool *thread_pool_open(int n_threads, struct status *st)
{
    int n_workers = n_threads - 1;
    size_t n_bytes = sizeof(struct thread_pool) + (size_t)n_workers * sizeof(struct worker);
    n_bytes = (n_bytes + LINE - 1) / LINE * LINE;
    struct thread_pool *p = aligned_alloc(LINE, n_bytes);
    if (!p) {
        status_fail(st, STATUS_IO, "no memory for a pool of %d threads", n_threads);
        return NULL;
    }
    memset(p, 0, n_bytes);
    p->n_threads = n_threads;
    /* Signals belong to the thread that asks for them, never to a worker. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = 0;
    while (p->n_started < n_workers && !error) {
        struct worker *w = &p->worker[p->n_started];
        *w = (struct worker){.pool = p, .index = p->n_started + 1};
        error = pthread_create(&w->thread, NULL, worker_main, w);
        p->n_started += !error;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error) {
        status_fail(st, STATUS_IO, "start compute thread %d of %d: %s", p->n_started + 2, n_threads,
                    strerror(error));
        st->sys = error;
        thread_pool_close(p);
        return NULL;
    }
    return p;
}

void thread_pool_close(struct thread_pool *p)
{
    if (!p)
        return;
    atomic_store_explicit(&p->stop, true, memory_order_release);
    announce(p, INT_MAX);
    for (int i = 0; i < p->n_started; i++)
        pthread_join(p->worker[i].thread, NULL);
    free(p);
}
