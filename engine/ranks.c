/* ranks.c - tells all ranks what rank 0 is told, and runs those that follow from this process. */
#include "engine/ranks.h"

#include <assert.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/runner.h"
#include "engine/stage.h"
#include "engine/stages.h"
#include "kernels/backend.h"
#include "kernels/comm.h"

_Static_assert((int)ENGINE_RANKS_MAX == (int)COMM_RANKS_MAX, "what options allow, a group holds");

enum { JOIN_MS_MAX = 580000 }; /* less than an engine may take to load */

struct member { /* a rank of this process; its thread owns it until it is joined */
    const struct ranks *ranks;
    struct comm *whole; /* of all ranks; NULL <=> the only one */
    struct comm *part;  /* of the ranks of its stage, where there are several stages */
    struct stage stage;
    pthread_t thread;
    bool has_thread;
};

struct ranks {
    struct engine_options options; /* layer_split is a number */
    int n, n_tensor, n_stages;
    void *memory;                         /* of a group in this process */
    struct member member[COMM_RANKS_MAX]; /* [n], by rank; of processes each has its own alone */
};

/* --- one rank ------------------------------------------------------------------------------- */

/* Its ends of the groups that it is in. */
static bool member_meet(struct member *m, struct status *st)
{
    const struct ranks *r = m->ranks;
    const int stage = m->whole ? comm_rank(m->whole) / r->n_tensor : 0;
    if (r->n_stages > 1)
        m->part = comm_part(m->whole, st);
    if (r->n_stages > 1 && !m->part)
        return false;
    m->stage = (struct stage){.comm = r->n_stages == 1   ? m->whole
                                      : r->n_tensor == 1 ? NULL
                                                         : m->part,
                              .grid = r->n_stages > 1 ? m->whole : NULL,
                              .is_last = stage == r->n_stages - 1};
    return true;
}

static bool member_load(struct member *m, const struct load_watch *watch, struct status *st)
{
    struct stage *s = &m->stage;
    s->runner = runner_open(&m->ranks->options, s->comm, s->grid, watch, st);
    return s->runner != NULL;
}

static void *follower_main(void *arg)
{
    struct member *m = arg;
    struct status st = {0};
    const bool ok = (m->stage.runner || member_load(m, NULL, &st)) &&
                    stage_follower_init(&m->stage, &st) && stage_follow(&m->stage, &st);
    if (!ok)
        comm_abort(m->whole, &st);
    return NULL;
}

/* Signals belong to the thread that asks for them. */
static bool member_start(struct member *m, struct status *st)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int error = pthread_create(&m->thread, NULL, follower_main, m);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    m->has_thread = error == 0;
    return m->has_thread || status_fail(st, STATUS_IO, "start the thread of rank %d: %s",
                                        comm_rank(m->whole), strerror(error));
}

static void member_close(struct member *m)
{
    if (m->has_thread)
        pthread_join(m->thread, NULL);
    runner_close(m->stage.runner);
    stage_follower_close(&m->stage);
    comm_close(m->part);
    comm_close(m->whole);
}

/* --- all of them ---------------------------------------------------------------------------- */

static bool start_threads(struct ranks *r, struct status *st)
{
    r->memory = comm_memory_take(r->n, r->n_stages, st);
    for (int i = 0; r->memory && i < r->n; i++) {
        struct member *m = &r->member[i];
        m->whole = comm_open(r->memory, i, st);
        if (!m->whole || !member_meet(m, st) || (i > 0 && !member_start(m, st)))
            return false;
    }
    return r->memory != NULL;
}

/* This process's rank meets those of the others. */
static bool join(struct ranks *r, struct status *st)
{
    const struct engine_options *o = &r->options;
    struct member *m = &r->member[o->rank];
    const struct comm_place place = {.group = o->rank_group,
                                     .host = o->rank_host,
                                     .port = o->rank_port,
                                     .secret = {o->rank_secret[0], o->rank_secret[1]}};
    m->whole = o->rank_host ? comm_connect(&place, o->rank, r->n, r->n_stages, JOIN_MS_MAX, st)
                            : comm_join(o->rank_group, o->rank, r->n, r->n_stages, JOIN_MS_MAX, st);
    return m->whole && member_meet(m, st);
}

static bool open_first(struct ranks *r, const struct load_watch *watch, struct status *st)
{
    struct member *first = &r->member[0];
    const bool met = r->n == 1               ? member_meet(first, st)
                     : r->options.rank_group ? join(r, st)
                                             : start_threads(r, st);
    stage_nap_short(&first->stage);
    return met && member_load(first, watch, st);
}

/* This process is another rank than the first: it loads here, and follows in a thread. */
static bool open_other(struct ranks *r, const struct load_watch *watch, struct status *st)
{
    struct member *m = &r->member[r->options.rank];
    return join(r, st) && member_load(m, watch, st) && member_start(m, st);
}

static bool is_other(const struct ranks *r)
{
    return r->options.rank_group && r->options.rank > 0;
}

/* The rank that this process speaks for. */
static const struct member *own(const struct ranks *r)
{
    return &r->member[is_other(r) ? r->options.rank : 0];
}

static bool check_options(const struct ranks *r, struct status *st)
{
    const struct engine_options *o = &r->options;
    if (r->n > COMM_RANKS_MAX)
        return status_fail(st, STATUS_BAD_INPUT,
                           r->n_stages == 1
                               ? "tensor-parallel: want at most %d, found %d"
                               : "layer-split times tensor-parallel: want at most %d, found %d",
                           COMM_RANKS_MAX, r->n);
    if (o->rank_group && (o->rank < 0 || o->rank >= r->n))
        return status_fail(st, STATUS_BAD_INPUT, "rank %d is not one of %d", o->rank, r->n);
    return true;
}

/* Before the others are waited for.  A device that is not there is found later, so that they hear
 * of it. */
static bool check_device(const struct ranks *r, struct status *st)
{
    const struct device_options options = {.index = r->options.device_index};
    struct status unused = {0}, against_cuda;
    const struct backend *b = backend_choose(r->options.device, &options, &against_cuda, &unused);
    return !b || plan_check_ranks(&r->options, b->ops, r->n_tensor, r->n_stages, st);
}

static bool choose_grid(struct ranks *r, struct status *st)
{
    if (!stages_choose(&r->options, &r->n_stages, st))
        return false;
    r->options.layer_split = r->n_stages;
    r->n_tensor = r->options.tensor_parallel > 1 ? r->options.tensor_parallel : 1;
    r->n = r->n_tensor * r->n_stages;
    return check_options(r, st) && (r->n == 1 || check_device(r, st));
}

struct ranks *ranks_open(const struct engine_options *o, const struct load_watch *watch,
                         struct status *st)
{
    struct ranks *r = calloc(1, sizeof *r);
    if (!r) {
        status_fail(st, STATUS_BUSY, "no memory for the ranks");
        return NULL;
    }
    r->options = *o;
    for (int i = 0; i < COMM_RANKS_MAX; i++)
        r->member[i].ranks = r;
    if (!choose_grid(r, st)) {
        free(r);
        return NULL;
    }
    if (is_other(r) ? open_other(r, watch, st) : open_first(r, watch, st))
        return r;
    if (own(r)->whole)
        comm_abort(own(r)->whole, st);
    ranks_close(r);
    return NULL;
}

/* A failure of rank 0's own is one of all. */
static bool end_call(struct ranks *r, bool ok, const struct status *st)
{
    if (!ok && own(r)->whole)
        comm_abort(own(r)->whole, st);
    return ok;
}

const struct engine_facts *ranks_facts(const struct ranks *r)
{
    return runner_facts(own(r)->stage.runner);
}

bool ranks_submit(struct ranks *r, const struct step *step, struct status *st)
{
    assert(!is_other(r));
    return end_call(r, stage_submit(&r->member[0].stage, step, st), st);
}

bool ranks_ready(struct ranks *r)
{
    return stage_ready(&r->member[0].stage);
}

bool ranks_result(struct ranks *r, void *result, struct status *st)
{
    assert(!is_other(r));
    return end_call(r, stage_result(&r->member[0].stage, result, st), st);
}

bool ranks_healthy(struct ranks *r, struct status *st)
{
    return !own(r)->whole || comm_look(own(r)->whole, st);
}

/* Rank 0 lets the others go, for good if it had begun; another process's end is the group's. */
static void leave_group(struct ranks *r)
{
    struct status st = {0};
    struct member *m = &r->member[is_other(r) ? r->options.rank : 0];
    if (!m->whole)
        return;
    if (is_other(r))
        status_fail(&st, STATUS_DEVICE, "leaves");
    if (is_other(r) || !m->stage.runner || !stage_stop(&m->stage, &st))
        comm_abort(m->whole, &st);
    else
        comm_end(m->whole);
}

void ranks_close(struct ranks *r)
{
    if (!r)
        return;
    const bool had_opened = own(r)->stage.runner != NULL;
    leave_group(r);
    for (int i = 1; i < r->n; i++)
        member_close(&r->member[i]);
    ranks_retire(&r->options, getpid(), had_opened && !is_other(r));
    member_close(&r->member[0]);
    comm_memory_drop(r->memory);
    free(r);
}

void ranks_retire(const struct engine_options *o, int64_t pid, bool for_good)
{
    if (o->rank_group && !o->rank_host) /* else its connections have told */
        comm_retire(o->rank_group, o->rank, pid, for_good);
}
