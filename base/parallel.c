/* parallel.c - threads that take parts by a counter. */
#include "base/parallel.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

struct work {
    void (*fn)(void *ctx, int64_t part);
    void *ctx;
    int64_t n_parts;
    _Atomic int64_t next;
};

static void *take_parts(void *arg)
{
    struct work *w = arg;
    for (int64_t part; (part = atomic_fetch_add(&w->next, 1)) < w->n_parts;)
        w->fn(w->ctx, part);
    return NULL;
}

static int count_cores(void)
{
    cpu_set_t set;
    const int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return n < PARALLEL_THREADS_MAX ? n : PARALLEL_THREADS_MAX;
}

void parallel_for(int n_threads, int64_t n_parts, void (*fn)(void *ctx, int64_t part), void *ctx)
{
    struct work w = {.fn = fn, .ctx = ctx, .n_parts = n_parts};
    pthread_t thread[PARALLEL_THREADS_MAX];
    int n_started = 0, n = n_threads > 0 ? n_threads : count_cores();
    if (n > PARALLEL_THREADS_MAX)
        n = PARALLEL_THREADS_MAX;
    if (n > n_parts)
        n = (int)n_parts;
    while (n_started < n - 1 && pthread_create(&thread[n_started], NULL, take_parts, &w) == 0)
        n_started++;
    take_parts(&w);
    for (int i = 0; i < n_started; i++)
        pthread_join(thread[i], NULL);
}
