/* scheduler.c - opens, turns and closes: the one loop that everything else hangs on. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/log.h"
#include "scheduler/scheduler_int.h"

enum { CHECK_EVERY_MS = 1000 }; /* of the invariants, in production */

static bool check_options(const struct scheduler_options *o, struct status *st)
{
    if (o->queue_max < -1)
        return status_fail(st, STATUS_BAD_INPUT, "queue_max is %d", o->queue_max);
    if (o->prefill_chunk_max < 0)
        return status_fail(st, STATUS_BAD_INPUT, "prefill_chunk_max is %d", o->prefill_chunk_max);
    if (o->mixed_tokens_max < 0)
        return status_fail(st, STATUS_BAD_INPUT, "mixed_tokens_max is %d", o->mixed_tokens_max);
    return true;
}

struct scheduler *scheduler_open_text(const struct scheduler_options *o, struct engine *e,
                                      const struct token_text *text, const struct clock *clock,
                                      struct status *st)
{
    struct scheduler *s = calloc(1, sizeof *s);
    if (!s) {
        e->vt->close(e);
        status_fail(st, STATUS_TOO_LARGE, "no memory for the scheduler");
        return NULL;
    }
    s->options = *o;
    s->engine = e;
    s->clock = clock;
    if (text)
        s->text = *text;
    s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    s->news_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    s->box = calloc(1, sizeof *s->box);
    if (s->wake_fd < 0 || s->news_fd < 0) {
        status_fail(st, STATUS_IO, "eventfd: %s", strerror(errno));
        goto fail;
    }
    if (!s->box) {
        status_fail(st, STATUS_TOO_LARGE, "no memory for the scheduler");
        goto fail;
    }
    if (!check_options(o, st))
        goto fail;
    scheduler_view_init(s->box);
    return s;

fail:
    scheduler_close(s);
    return NULL;
}

/* Take what was lent before the thread saw it, so that one path finishes everything. */
static void drain_inbox(struct scheduler *s)
{
    for (struct request *const *cell; (cell = ring_take_begin(s->inbox));) {
        struct request *r = *cell;
        ring_take_end(s->inbox);
        const int32_t id = scheduler_seq_take(s, r);
        if (r->n_max == 0 && !r->score_prompt)
            scheduler_seq_finish(s, id, FINISH_LENGTH, NULL); /* nothing was asked for */
        else if (atomic_load_explicit(&r->cancelled, memory_order_relaxed))
            scheduler_seq_finish(s, id, FINISH_CANCELLED, NULL);
        else
            s->queue_deadline_ns = 0;
    }
}

static void finish_all(struct scheduler *s, const struct status *why)
{
    for (int32_t id = 0; id < s->n_seqs; id++)
        if (s->seq[id].request)
            scheduler_seq_finish(s, id, FINISH_ERROR, why);
}

void scheduler_close(struct scheduler *s)
{
    if (!s)
        return;
    if (s->has_tables) {
        struct status why = {0};
        status_fail(&why, STATUS_CANCELLED, "the server is shutting down");
        drain_inbox(s);
        finish_all(s, &why);
        while (scheduler_news(s))
            ;
    }
    scheduler_tables_close(s);
    if (s->engine)
        s->engine->vt->close(s->engine);
    if (s->wake_fd >= 0)
        close(s->wake_fd);
    if (s->news_fd >= 0)
        close(s->news_fd);
    free(s->box);
    free(s);
}

static void drop_cancelled(struct scheduler *s)
{
    const uint32_t n = atomic_load(&s->n_cancels);
    if (n == s->n_cancels_seen)
        return;
    s->n_cancels_seen = n;
    for (int32_t id = 0; id < s->n_seqs; id++) {
        const struct request *r = s->seq[id].request;
        if (r && atomic_load_explicit(&r->cancelled, memory_order_relaxed))
            scheduler_seq_finish(s, id, FINISH_CANCELLED, NULL);
    }
}

static void drop_expired(struct scheduler *s)
{
    const uint64_t limit_ns = s->options.queue_wait_ms_max * NS_PER_MS;
    if (limit_ns == 0 || (s->queue_deadline_ns && s->now_ns < s->queue_deadline_ns))
        return;
    s->queue_deadline_ns = UINT64_MAX;
    for (int32_t id = s->queue.head, next; id != SEQ_NONE; id = next) {
        const struct request *r = s->seq[id].request;
        next = s->seq[id].next;
        if (r->scheduled_ns)
            continue; /* it ran already; its client has waited and is being served */
        const uint64_t deadline_ns = r->arrived_ns + limit_ns;
        if (s->now_ns < deadline_ns) {
            if (deadline_ns < s->queue_deadline_ns)
                s->queue_deadline_ns = deadline_ns;
            continue;
        }
        struct status why = {0};
        status_fail(&why, STATUS_BUSY, "waited %llu ms in the queue; the limit is %llu ms",
                    (unsigned long long)((s->now_ns - r->arrived_ns) / NS_PER_MS),
                    (unsigned long long)s->options.queue_wait_ms_max);
        scheduler_seq_finish(s, id, FINISH_ERROR, &why);
    }
}

/* The engine's life is over: all that it knew is void, all that we know is not. */
static void lose_engine(struct scheduler *s)
{
    for (int32_t id = 0; id < s->n_seqs; id++)
        if (s->seq[id].state != SEQ_FREE)
            scheduler_seq_lost(s, id);
    s->n_flights = 0;
    s->epoch = 0;
    kv_blocks_reset(&s->kv);
    prefix_cache_flush(&s->cache);
}

static void kill_engine(struct scheduler *s, const char *why)
{
    log_event(LOG_ERROR, "engine killed by the scheduler", LOG_S("why", why));
    s->sick_epoch = s->engine->epoch;
    s->engine->vt->kill(s->engine, why);
    if (s->epoch)
        lose_engine(s);
}

static bool same_limits(const struct step_limits *a, const struct step_limits *b)
{
    return memcmp(a, b, sizeof *a) == 0; /* int32_t alone: no padding */
}

/* A new life is READY: begin its epoch. */
static void meet_engine(struct scheduler *s)
{
    const struct engine *e = s->engine;
    struct status st = {0};
    if (!s->has_tables && !scheduler_tables_open(s, &e->facts.limits, &st)) {
        kill_engine(s, st.msg);
        return;
    }
    if (!same_limits(&s->limits, &e->facts.limits)) {
        kill_engine(s, "the engine came back with other limits");
        return;
    }
    s->epoch = e->epoch;
    s->n_step_ids = 0;
}

static void follow_engine(struct scheduler *s)
{
    struct engine *e = s->engine;
    const enum engine_state state = e->vt->poll(e, s->now_ns);
    const bool live = state == ENGINE_READY && e->epoch != s->sick_epoch;
    if (s->epoch && (!live || e->epoch != s->epoch))
        lose_engine(s);
    if (live && !s->epoch)
        meet_engine(s);
    if (state == ENGINE_DOWN && e->given_up && s->has_tables) {
        struct status why = {0};
        status_fail(&why, STATUS_DEVICE, "the engine is down: %s", e->why.msg);
        finish_all(s, &why);
    }
}

static void take_results(struct scheduler *s)
{
    struct engine *e = s->engine;
    for (const struct step_result *r; s->epoch && (r = e->vt->result(e));) {
        struct status st = {0};
        const bool ok = scheduler_take_result(s, r, &st);
        e->vt->result_done(e);
        if (!ok)
            kill_engine(s, st.msg);
    }
}

static void run_steps(struct scheduler *s)
{
    struct engine *e = s->engine;
    while (s->epoch && s->n_flights < s->depth) {
        struct step *at = e->vt->step_room(e);
        if (!at)
            return;
        step_plan_make(s, &s->plan);
        step_plan_apply(s, &s->plan, at);
        if (s->plan.n_rows > 0)
            e->vt->submit(e);
        else if (s->plan.n_preempt == 0)
            return;
    }
}

/* A fault in the books is no reason to end: rebuild them, as after a death. */
static void check_books(struct scheduler *s)
{
    if (!s->epoch || s->now_ns < s->checked_ns + CHECK_EVERY_MS * NS_PER_MS)
        return;
    s->checked_ns = s->now_ns;
    struct status st = {0};
    if (scheduler_valid(s, &st))
        return;
    s->stat.n_invariant_faults++;
    kill_engine(s, st.msg);
}

void scheduler_turn(struct scheduler *s)
{
    s->now_ns = clock_now(s->clock);
    if (s->has_tables) {
        drain_inbox(s);
        drop_cancelled(s);
    }
    follow_engine(s);
    take_results(s);
    if (s->has_tables) {
        drop_expired(s);
        check_books(s);
        run_steps(s);
    }
    scheduler_view_publish(s);
    if (s->has_news) {
        s->has_news = false;
        ring_wake(s->news, s->news_fd);
    }
}

int64_t scheduler_idle_ms(const struct scheduler *s)
{
    const uint64_t now_ns = clock_now(s->clock);
    const int64_t ms = s->engine->vt->wait_ms(s->engine, now_ns);
    if (s->queue.n == 0 || s->options.queue_wait_ms_max == 0 || s->queue_deadline_ns == UINT64_MAX)
        return ms;
    const int64_t left = s->queue_deadline_ns > now_ns
                             ? (int64_t)((s->queue_deadline_ns - now_ns) / NS_PER_MS) + 1
                             : 0;
    return ms < 0 || left < ms ? left : ms;
}
