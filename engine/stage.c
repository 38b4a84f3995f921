/* stage.c - orders within a stage, steps from stage to stage, samples back to the first. */
#include "engine/stage.h"

#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>

#include "engine/runner.h"
#include "kernels/comm.h"
#include "kernels/ops.h"

enum {
    LOOK_US = 20, /* between looks at a device, when a step may come meanwhile */
    SLACK_NS = 1000
};

enum order { ORDER_SUBMIT = 1, ORDER_WAIT, ORDER_STOP };

struct order_record { /* behind SUBMIT come the bytes of the step */
    uint32_t order;
    uint32_t n_bytes;
};

/* Naps last as long as they say, and not what the kernel may add. */
void stage_nap_short(const struct stage *s)
{
    if (s->grid)
        prctl(PR_SET_TIMERSLACK, SLACK_NS);
}

static bool comm_result(struct comm *c, bool ok, struct status *st)
{
    return ok || comm_ok(c, st);
}

/* ---- among the ranks of a stage ---- */

static bool tell(struct stage *s, enum order order, const struct step *step, struct status *st)
{
    struct order_record o = {.order = order, .n_bytes = step ? step->n_bytes : 0};
    return !s->comm ||
           comm_result(s->comm,
                       comm_broadcast(s->comm, &o, sizeof o, 0) &&
                           comm_broadcast(s->comm, (void *)(uintptr_t)step, o.n_bytes, 0),
                       st);
}

static bool check_size(const struct stage *s, const struct order_record *o, struct status *st)
{
    return o->n_bytes <= s->step_bytes_max ||
           status_fail(st, STATUS_CORRUPT, "a step of %u bytes, want at most %zu", o->n_bytes,
                       s->step_bytes_max);
}

/* Waits for as long as the leader has nothing to do. */
static bool hear_leader(struct stage *s, struct order_record *o, struct status *st)
{
    comm_wait_set(s->comm, 0);
    const bool heard = comm_broadcast(s->comm, o, sizeof *o, 0);
    comm_wait_set(s->comm, COMM_WAIT_MS);
    return comm_result(s->comm, heard, st) && check_size(s, o, st) &&
           comm_result(s->comm, comm_broadcast(s->comm, s->step, o->n_bytes, 0), st);
}

static bool obey(struct stage *s, struct status *st)
{
    for (;;) {
        struct order_record o;
        if (!hear_leader(s, &o, st))
            return false;
        if (o.order == ORDER_STOP)
            return true;
        if (o.order == ORDER_SUBMIT ? !runner_submit(s->runner, s->step, st)
                                    : !runner_wait(s->runner, st))
            return false;
        if (o.order == ORDER_WAIT && s->is_last)
            runner_answered(s->runner);
    }
}

static bool submit_here(struct stage *s, const struct step *step, struct status *st)
{
    return tell(s, ORDER_SUBMIT, step, st) && runner_submit(s->runner, step, st);
}

static bool wait_here(struct stage *s, struct status *st)
{
    return tell(s, ORDER_WAIT, NULL, st) && runner_wait(s->runner, st);
}

/* ---- from stage to stage ---- */

static bool hand_on(struct stage *s, enum order order, const struct step *step, struct status *st)
{
    const struct order_record o = {.order = order, .n_bytes = step ? step->n_bytes : 0};
    return !s->grid || s->is_last ||
           comm_result(s->grid,
                       comm_send(s->grid, &o, sizeof o) && comm_send(s->grid, step, o.n_bytes), st);
}

static bool hear_stage(struct stage *s, struct order_record *o, struct status *st)
{
    return comm_result(s->grid, comm_recv(s->grid, o, sizeof *o), st) && check_size(s, o, st) &&
           comm_result(s->grid, comm_recv(s->grid, s->step, o->n_bytes), st);
}

/* *stopped: it was told to end. */
static bool take_order(struct stage *s, bool *stopped, struct status *st)
{
    struct order_record o;
    if (!hear_stage(s, &o, st))
        return false;
    *stopped = o.order == ORDER_STOP;
    const struct step *step = *stopped ? NULL : s->step;
    if (!hand_on(s, (enum order)o.order, step, st))
        return false;
    return *stopped ? tell(s, ORDER_STOP, NULL, st) : submit_here(s, step, st);
}

/* The step that the device has done; of the last stage its samples begin their way. */
static bool finish_step(struct stage *s, struct status *st)
{
    int32_t n;
    if (!wait_here(s, st))
        return false;
    if (!s->is_last)
        return true;
    s->unsent = (const char *)runner_outs(s->runner, &n);
    s->n_unsent = (size_t)n * sizeof(struct sample_out);
    s->found = (struct found){.id = s->found.id + 1, .n_outs = n};
    s->n_found_unsent = sizeof s->found;
    return true;
}

static bool has_unsent(const struct stage *s)
{
    return s->n_found_unsent > 0 || s->n_unsent > 0;
}

/* As much as there is room for. */
static void send_samples(struct stage *s)
{
    const char *found = (const char *)(&s->found + 1) - s->n_found_unsent;
    s->n_found_unsent -= comm_send_some(s->grid, found, s->n_found_unsent);
    if (s->n_found_unsent == 0) {
        const size_t n = comm_send_some(s->grid, s->unsent, s->n_unsent);
        s->unsent += n;
        s->n_unsent -= n;
    }
    if (!has_unsent(s))
        runner_answered(s->runner);
}

static bool nap(struct stage *s, struct status *st)
{
    nanosleep(&(struct timespec){.tv_nsec = LOOK_US * 1000}, NULL);
    return comm_look(s->grid, st);
}

/* A step that is done is answered first; then the next is taken, which may be while one runs. */
static bool lead_once(struct stage *s, bool *stopped, struct status *st)
{
    const int n_flying = runner_n_flying(s->runner);
    if (has_unsent(s))
        send_samples(s);
    if (n_flying > 0 && !has_unsent(s) && (n_flying == DEVICE_DEPTH || runner_ready(s->runner)))
        return finish_step(s, st);
    const bool may_wait = n_flying == 0 && !has_unsent(s);
    if (n_flying < DEVICE_DEPTH && (may_wait || comm_mail(s->grid) > 0))
        return take_order(s, stopped, st);
    return nap(s, st);
}

static bool lead(struct stage *s, struct status *st)
{
    for (bool stopped = false; !stopped;)
        if (!lead_once(s, &stopped, st))
            return false;
    return true;
}

/* ---- a rank that takes its steps from others ---- */

bool stage_follower_init(struct stage *s, struct status *st)
{
    s->step_bytes_max = step_bytes_max(&runner_facts(s->runner)->limits);
    s->step = calloc(1, s->step_bytes_max);
    return s->step || status_fail(st, STATUS_BUSY, "no memory for a step");
}

void stage_follower_close(struct stage *s)
{
    free(s->step);
    s->step = NULL;
}

bool stage_follow(struct stage *s, struct status *st)
{
    stage_nap_short(s);
    return s->comm && comm_rank(s->comm) > 0 ? obey(s, st) : lead(s, st);
}

/* ---- the first stage ---- */

bool stage_submit(struct stage *s, const struct step *step, struct status *st)
{
    if (s->grid && runner_n_flying(s->runner) == DEVICE_DEPTH && !wait_here(s, st))
        return false;
    return hand_on(s, ORDER_SUBMIT, step, st) && submit_here(s, step, st);
}

/* What is done here makes room, and tells of faults, before the last stage answers it. */
static bool reap(struct stage *s, struct status *st)
{
    while (runner_n_flying(s->runner) > 0 && runner_ready(s->runner))
        if (!wait_here(s, st))
            return false;
    return true;
}

bool stage_ready(struct stage *s)
{
    struct status st = {0};
    if (!s->grid)
        return runner_ready(s->runner);
    return s->fault.code != STATUS_OK || !reap(s, &s->fault) ||
           comm_mail(s->grid) >= sizeof(struct found) || !comm_ok(s->grid, &st);
}

static bool await_samples(struct stage *s, struct status *st)
{
    while (!stage_ready(s))
        if (!nap(s, st))
            return false;
    if (s->fault.code != STATUS_OK)
        *st = s->fault;
    return s->fault.code == STATUS_OK;
}

/* From the last stage, what it found of the oldest step. */
static bool take_samples(struct stage *s, struct status *st)
{
    int32_t n;
    struct found found;
    struct sample_out *outs = runner_outs(s->runner, &n);
    if (!await_samples(s, st) ||
        !comm_result(s->grid, comm_recv(s->grid, &found, sizeof found), st))
        return false;
    if (found.id != ++s->found.id || found.n_outs != n)
        return status_fail(st, STATUS_CORRUPT,
                           "the last stage found %lld samples of its step %llu, want %d of %llu",
                           (long long)found.n_outs, (unsigned long long)found.id, n,
                           (unsigned long long)s->found.id);
    return comm_result(s->grid, comm_recv(s->grid, outs, (size_t)n * sizeof *outs), st);
}

bool stage_result(struct stage *s, void *result, struct status *st)
{
    if (!(s->grid ? take_samples(s, st) : wait_here(s, st)))
        return false;
    return runner_result(s->runner, result, st);
}

bool stage_stop(struct stage *s, struct status *st)
{
    if (s->grid && runner_n_unanswered(s->runner) > 0)
        return status_fail(st, STATUS_CANCELLED, "ends before its steps do");
    return hand_on(s, ORDER_STOP, NULL, st) && tell(s, ORDER_STOP, NULL, st);
}
