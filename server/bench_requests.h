/* bench_requests.h - requests of random ids straight to the scheduler, for `bench engine`.
 *
 * Greedy, and nothing but their length ends them.  Prompts differ, and the prefix cache is off.
 *
 * Thread: main's, in the place of the loop thread. */
#ifndef SERVER_BENCH_REQUESTS_H
#define SERVER_BENCH_REQUESTS_H

#include "scheduler/scheduler.h"

struct bench_source { /* where requests come from, and go to */
    struct scheduler *sched;
    struct engine_facts facts;
    uint64_t random;
};

struct bench_requests {
    struct request *at; /* [n] */
    int n;
    int32_t *prompts;            /* [n, n_prompt] */
    struct sample_out_slim *out; /* [n, n_max] */
    uint64_t start_ns;           /* when they were submitted */
};

bool bench_requests_make(struct bench_requests *r, struct bench_source *from, int n,
                         int32_t n_prompt, int32_t n_max, struct status *st) MUST_CHECK;
void bench_requests_close(struct bench_requests *r);

struct bench_watch { /* sees each news of a request; may cancel */
    void (*fn)(void *ctx, struct request *r);
    void *ctx;
};

/* Submits all, and hears the scheduler until all have finished.  False when one ends otherwise than
 * by its length, or by being cancelled. */
bool bench_requests_run(struct bench_requests *r, struct bench_source *to,
                        const struct bench_watch *watch, struct status *st) MUST_CHECK;

#endif
