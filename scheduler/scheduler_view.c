/* scheduler_view.c - what the front may know, handed over whole and without a lock. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "scheduler/scheduler_int.h"

enum { INDEX_MASK = 3, RETRY_S_MAX = 60 };
static const double rate_window_s = 30; /* finishes older than this hardly count any more */

void scheduler_view_init(struct view_box *box)
{
    atomic_init(&box->middle, 0);
    box->back = 1;
    box->front = 2;
}

static double decay(double rate, uint64_t from_ns, uint64_t to_ns)
{
    const double s = to_ns > from_ns ? (double)(to_ns - from_ns) / (double)NS_PER_S : 0;
    return rate * exp(-s / rate_window_s);
}

void scheduler_count_finish(struct scheduler *s, enum finish f)
{
    s->stat.n_finished[f]++;
    if (f == FINISH_ERROR)
        return;
    s->finish_rate = decay(s->finish_rate, s->rate_at_ns, s->now_ns) + 1 / rate_window_s;
    s->rate_at_ns = s->now_ns;
}

static void fill_view(const struct scheduler *s, struct scheduler_view *v)
{
    const struct engine *e = s->engine;
    *v = s->stat;
    v->engine_state = e->state;
    v->engine_epoch = e->epoch;
    v->engine_deaths = e->n_deaths;
    v->engine_pid = e->pid;
    v->engine_given_up = e->given_up;
    v->engine_stalled = e->state == ENGINE_READY && e->stalled;
    memcpy(v->engine_why, e->why.msg, sizeof v->engine_why);
    v->progress = e->progress;
    v->facts = e->facts;
    v->facts.limits = s->limits;
    if (!s->has_tables)
        return;
    v->n_waiting = s->queue.n;
    v->n_running = s->n_run + s->n_leaving;
    v->n_blocks = s->kv.n_blocks;
    v->n_blocks_free = s->kv.n_free;
    v->n_blocks_cached = s->kv.n_cached;
}

void scheduler_view_publish(struct scheduler *s)
{
    static_assert(sizeof s->stat.engine_why == sizeof s->engine->why.msg, "copied whole");
    struct view_box *box = s->box;
    struct published *p = &box->slot[box->back];
    fill_view(s, &p->view);
    p->last_step_ns = s->engine->last_step_ns;
    p->busy = s->n_flights > 0;
    p->finish_rate = s->finish_rate;
    p->rate_at_ns = s->rate_at_ns;
    const uint32_t old = atomic_exchange(&box->middle, box->back | VIEW_FRESH);
    box->back = old & INDEX_MASK;
}

static int32_t guess_retry_s(const struct published *p, uint64_t now_ns)
{
    if (p->view.n_waiting == 0)
        return 1;
    const double rate = decay(p->finish_rate, p->rate_at_ns, now_ns);
    const double s = rate > 0 ? ceil(p->view.n_waiting / rate) : RETRY_S_MAX;
    return s < 1 ? 1 : s > RETRY_S_MAX ? RETRY_S_MAX : (int32_t)s;
}

void scheduler_view(const struct scheduler *s, struct scheduler_view *v)
{
    struct view_box *box = s->box;
    if (atomic_load(&box->middle) & VIEW_FRESH)
        box->front = atomic_exchange(&box->middle, box->front) & INDEX_MASK;
    const struct published *p = &box->slot[box->front];
    const uint64_t now_ns = clock_now(s->clock);
    *v = p->view;
    v->last_step_age_ms =
        p->busy && now_ns > p->last_step_ns ? (now_ns - p->last_step_ns) / NS_PER_MS : 0;
    v->retry_after_s = guess_retry_s(p, now_ns);
}
