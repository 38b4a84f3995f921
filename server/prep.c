/* prep.c - work a client can make long, on libuv's threads, with a bound on what waits. */
#include <stdlib.h>
#include <uv.h>

#include "server/server.h"

enum { PREP_LEAST = 256 }; /* jobs that may always wait; at 1 ms each, a quarter second of queue */

struct prep_job {
    uv_work_t work;
    struct server *sv;
    void (*run)(void *ctx);
    void (*done)(void *ctx);
    void *ctx;
};

static void run_job(uv_work_t *w)
{
    struct prep_job *j = w->data;
    j->run(j->ctx);
}

static void end_job(uv_work_t *w, int status)
{
    struct prep_job *j = w->data;
    (void)status; /* jobs are never cancelled: done() always finds its work done */
    j->sv->n_prep--;
    j->done(j->ctx);
    free(j);
}

bool prep_submit(struct server *sv, void (*work)(void *ctx), void (*done)(void *ctx), void *ctx)
{
    const int32_t max = sv->prep_max > PREP_LEAST ? sv->prep_max : PREP_LEAST;
    struct prep_job *j = sv->n_prep < max ? malloc(sizeof *j) : NULL;
    if (!j)
        return false;
    *j = (struct prep_job){.sv = sv, .run = work, .done = done, .ctx = ctx, .work.data = j};
    if (uv_queue_work(sv->loop, &j->work, run_job, end_job) != 0) {
        free(j);
        return false;
    }
    sv->n_prep++;
    return true;
}
