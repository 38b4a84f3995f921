/* ranks.c - tells all ranks what rank 0 is told, and runs those that follow from this process. */
#include "engine/ranks.h"

#include <assert.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "engine/runner.h"
#include "kernels/comm.h"

_Static_assert((int)ENGINE_RANKS_MAX == (int)COMM_RANKS_MAX, "what options allow, a group holds");

enum { JOIN_MS_MAX = 580000 }; /* less than an engine may take to load */

enum order { ORDER_SUBMIT = 1, ORDER_RESULT, ORDER_STOP };

typedef void progress_fn(void *ctx, uint64_t n_done, uint64_t n_total);

struct order_record { /* what rank 0 broadcasts; behind SUBMIT come the bytes of the step */
    uint32_t order;
    uint32_t n_bytes;
};

struct follower { /* a rank but the first; its thread owns it until it is joined */
    const struct engine_options *options;
    struct comm *comm;
    struct runner *runner;
    void *step, *result; /* of the most bytes there are */
    size_t step_bytes_max;
    pthread_t thread;
    bool has_thread;
};

struct ranks {
    struct engine_options options;
    int n;
    struct runner *runner;                    /* rank 0's */
    struct comm *comm;                        /* rank 0's; NULL <=> n == 1 */
    void *memory;                             /* of the group */
    struct follower follower[COMM_RANKS_MAX]; /* [n], the first unused */
};

/* --- a follower ----------------------------------------------------------------------------- */

static bool follower_open(struct follower *f, progress_fn *progress, void *ctx, struct status *st)
{
    f->runner = runner_open(f->options, f->comm, progress, ctx, st);
    if (!f->runner)
        return false;
    const struct step_limits *l = &runner_facts(f->runner)->limits;
    f->step_bytes_max = step_bytes_max(l);
    f->step = calloc(1, f->step_bytes_max);
    f->result = calloc(1, step_result_bytes_max(l));
    return (f->step && f->result) || status_fail(st, STATUS_BUSY, "no memory for a step");
}

/* Waits for as long as rank 0 has nothing to do. */
static bool hear_order(struct follower *f, struct order_record *o, struct status *st)
{
    comm_wait_set(f->comm, 0);
    const bool heard = comm_broadcast(f->comm, o, sizeof *o, 0);
    comm_wait_set(f->comm, COMM_WAIT_MS);
    if (!heard)
        return comm_ok(f->comm, st);
    if (o->n_bytes > f->step_bytes_max)
        return status_fail(st, STATUS_CORRUPT, "a step of %u bytes, want at most %zu", o->n_bytes,
                           f->step_bytes_max);
    return comm_broadcast(f->comm, f->step, o->n_bytes, 0) || comm_ok(f->comm, st);
}

static bool obey(struct follower *f, const struct order_record *o, struct status *st)
{
    if (o->order == ORDER_SUBMIT)
        return runner_submit(f->runner, f->step, st);
    return runner_result(f->runner, f->result, st);
}

static bool follow(struct follower *f, struct status *st)
{
    struct order_record o;
    while (hear_order(f, &o, st)) {
        if (o.order == ORDER_STOP)
            return true;
        if (!obey(f, &o, st))
            return false;
    }
    return false;
}

static void *follower_main(void *arg)
{
    struct follower *f = arg;
    struct status st = {0};
    if (!(f->runner || follower_open(f, NULL, NULL, &st)) || !follow(f, &st))
        comm_abort(f->comm, &st);
    return NULL;
}

static void follower_close(struct follower *f)
{
    if (f->has_thread)
        pthread_join(f->thread, NULL);
    runner_close(f->runner);
    comm_close(f->comm);
    free(f->step);
    free(f->result);
}

/* Signals belong to the thread that asks for them. */
static bool follower_start(struct follower *f, struct status *st)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int error = pthread_create(&f->thread, NULL, follower_main, f);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    f->has_thread = error == 0;
    return f->has_thread || status_fail(st, STATUS_IO, "start the thread of rank %d: %s",
                                        comm_rank(f->comm), strerror(error));
}

/* --- all of them ---------------------------------------------------------------------------- */

static bool start_threads(struct ranks *r, struct status *st)
{
    r->memory = comm_memory_take(r->n, 1, st);
    r->comm = r->memory ? comm_open(r->memory, 0, st) : NULL;
    if (!r->comm)
        return false;
    for (int i = 1; i < r->n; i++) {
        struct follower *f = &r->follower[i];
        f->options = &r->options;
        f->comm = comm_open(r->memory, i, st);
        if (!f->comm || !follower_start(f, st))
            return false;
    }
    return true;
}

static bool open_first(struct ranks *r, progress_fn *progress, void *ctx, struct status *st)
{
    const struct engine_options *o = &r->options;
    if (r->n > 1 && !o->rank_group && !start_threads(r, st))
        return false;
    if (r->n > 1 && o->rank_group)
        r->comm = comm_join(o->rank_group, 0, r->n, 1, JOIN_MS_MAX, st);
    if (r->n > 1 && !r->comm)
        return false;
    r->runner = runner_open(o, r->comm, progress, ctx, st);
    return r->runner != NULL;
}

/* This process is another rank than the first: it loads here, and follows in a thread. */
static bool open_other(struct ranks *r, progress_fn *progress, void *ctx, struct status *st)
{
    const struct engine_options *o = &r->options;
    struct follower *f = &r->follower[o->rank];
    f->options = o;
    f->comm = comm_join(o->rank_group, o->rank, r->n, 1, JOIN_MS_MAX, st);
    return f->comm && follower_open(f, progress, ctx, st) && follower_start(f, st);
}

static bool is_other(const struct ranks *r)
{
    return r->options.rank_group && r->options.rank > 0;
}

/* This process's end of the group. */
static struct comm *own_comm(const struct ranks *r)
{
    return is_other(r) ? r->follower[r->options.rank].comm : r->comm;
}

static bool check_options(const struct engine_options *o, struct status *st)
{
    const int n = o->tensor_parallel > 1 ? o->tensor_parallel : 1;
    if (n > COMM_RANKS_MAX)
        return status_fail(st, STATUS_BAD_INPUT, "tensor-parallel: want at most %d, found %d",
                           COMM_RANKS_MAX, n);
    if (o->rank_group && (o->rank < 0 || o->rank >= n))
        return status_fail(st, STATUS_BAD_INPUT, "rank %d is not one of %d", o->rank, n);
    return true;
}

struct ranks *ranks_open(const struct engine_options *o,
                         void (*progress)(void *ctx, uint64_t n_done, uint64_t n_total), void *ctx,
                         struct status *st)
{
    if (!check_options(o, st))
        return NULL;
    struct ranks *r = calloc(1, sizeof *r);
    if (!r) {
        status_fail(st, STATUS_BUSY, "no memory for the ranks");
        return NULL;
    }
    r->options = *o;
    r->n = o->tensor_parallel > 1 ? o->tensor_parallel : 1;
    if (is_other(r) ? open_other(r, progress, ctx, st) : open_first(r, progress, ctx, st))
        return r;
    if (own_comm(r))
        comm_abort(own_comm(r), st);
    ranks_close(r);
    return NULL;
}

static bool tell(struct ranks *r, enum order order, const struct step *step, struct status *st)
{
    struct order_record o = {.order = order, .n_bytes = step ? step->n_bytes : 0};
    return !r->comm ||
           (comm_broadcast(r->comm, &o, sizeof o, 0) &&
            comm_broadcast(r->comm, (void *)(uintptr_t)step, o.n_bytes, 0)) ||
           comm_ok(r->comm, st);
}

/* A failure of rank 0's own is one of all. */
static bool end_call(struct ranks *r, bool ok, const struct status *st)
{
    if (!ok && r->comm)
        comm_abort(r->comm, st);
    return ok;
}

const struct engine_facts *ranks_facts(const struct ranks *r)
{
    return runner_facts(is_other(r) ? r->follower[r->options.rank].runner : r->runner);
}

bool ranks_submit(struct ranks *r, const struct step *step, struct status *st)
{
    assert(!is_other(r));
    return end_call(r, tell(r, ORDER_SUBMIT, step, st) && runner_submit(r->runner, step, st), st);
}

bool ranks_ready(struct ranks *r)
{
    return runner_ready(r->runner);
}

bool ranks_result(struct ranks *r, void *result, struct status *st)
{
    assert(!is_other(r));
    return end_call(r, tell(r, ORDER_RESULT, NULL, st) && runner_result(r->runner, result, st), st);
}

bool ranks_healthy(struct ranks *r, struct status *st)
{
    return !own_comm(r) || comm_look(own_comm(r), st);
}

/* Rank 0 lets the others go; another process's end is the group's. */
static void leave_group(struct ranks *r)
{
    struct status st = {0};
    if (is_other(r)) {
        status_fail(&st, STATUS_DEVICE, "leaves");
        if (own_comm(r))
            comm_abort(own_comm(r), &st);
    } else if (r->comm && !tell(r, ORDER_STOP, NULL, &st)) {
        comm_abort(r->comm, &st);
    }
}

void ranks_close(struct ranks *r)
{
    if (!r)
        return;
    leave_group(r);
    for (int i = 1; i < r->n; i++)
        follower_close(&r->follower[i]);
    ranks_retire(&r->options, r->runner != NULL);
    runner_close(r->runner);
    comm_close(r->comm);
    comm_memory_drop(r->memory);
    free(r);
}

void ranks_retire(const struct engine_options *o, bool for_good)
{
    if (o->rank_group)
        comm_retire(o->rank_group, o->rank, for_good);
}
