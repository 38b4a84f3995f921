/* scheduler_front.c - the loop thread's side: submit, cancel, news. */
#include <assert.h>
#include <string.h>

#include "base/event.h"
#include "scheduler/scheduler_int.h"

static bool check_size(const struct request *r, const struct step_limits *l, struct status *st)
{
    const int64_t n = (int64_t)r->n_prompt + r->n_max;
    if (r->n_prompt < 1 || r->n_max < 0)
        return status_fail(st, STATUS_BAD_INPUT, "a request needs at least one prompt token");
    if (n > l->context_max)
        return status_fail(st, STATUS_TOO_LARGE,
                           "%d prompt tokens and %d to generate are %lld; the context is %d",
                           r->n_prompt, r->n_max, (long long)n, l->context_max);
    const int64_t n_blocks = (n + l->block_tokens - 1) / l->block_tokens;
    if (n_blocks > l->n_blocks)
        return status_fail(st, STATUS_TOO_LARGE,
                           "%d prompt tokens and %d to generate need %lld blocks of KV cache; "
                           "there are %d",
                           r->n_prompt, r->n_max, (long long)n_blocks, l->n_blocks);
    if (r->n_bias > l->bias_max)
        return status_fail(st, STATUS_TOO_LARGE, "%d logit biases; the limit is %d", r->n_bias,
                           l->bias_max);
    return true;
}

static bool check_ids(const struct request *r, const struct step_limits *l, struct status *st)
{
    for (int32_t i = 0; i < r->n_prompt; i++)
        if (r->prompt[i] < 0 || r->prompt[i] >= l->vocab)
            return status_fail(st, STATUS_BAD_INPUT, "prompt token %d is %d; the vocabulary has %d",
                               i, r->prompt[i], l->vocab);
    return true;
}

static void clear_results(struct request *r)
{
    atomic_store_explicit(&r->n_out, 0, memory_order_relaxed);
    atomic_store_explicit(&r->finish, FINISH_NONE, memory_order_relaxed);
    atomic_store_explicit(&r->noted, false, memory_order_relaxed);
    r->why = (struct status){0};
    r->n_cached = r->n_preempted = r->n_replayed = 0;
    r->stop_index = r->stop_token = -1;
    r->scheduled_ns = r->first_token_ns = r->finished_ns = 0;
    r->seq = NULL;
}

bool scheduler_submit(struct scheduler *s, struct request *r, struct status *st)
{
    struct scheduler_view v;
    scheduler_view(s, &v);
    const struct step_limits *l = &v.facts.limits;
    if (l->seqs_max == 0)
        return status_fail(st, STATUS_BUSY, "the model is not loaded yet");
    if (s->n_lent >= s->lent_max)
        return status_fail(st, STATUS_BUSY, "the queue is full: %d requests wait, the limit is %d",
                           v.n_waiting, s->options.queue_max);
    if (!check_size(r, l, st) || !check_ids(r, l, st))
        return false;
    clear_results(r);
    struct request **cell = ring_put_begin(s->inbox);
    assert(cell); /* lent_max cells */
    *cell = r;
    ring_put_end(s->inbox);
    s->n_lent++;
    s->has_lent = true;
    ring_wake(s->inbox, s->wake_fd);
    return true;
}

void scheduler_cancel(struct scheduler *s, struct request *r)
{
    if (atomic_exchange(&r->cancelled, true))
        return;
    atomic_fetch_add(&s->n_cancels, 1);
    event_wake(s->wake_fd);
}

int scheduler_news_fd(const struct scheduler *s)
{
    return s->news_fd;
}

struct request *scheduler_news(struct scheduler *s)
{
    if (s->n_lent == 0)
        return NULL; /* the rings may not even exist */
    const struct news_cell *cell = ring_take_begin(s->news);
    if (!cell)
        return NULL;
    struct request *r = cell->request;
    const enum finish f = cell->finish;
    ring_take_end(s->news);
    if (f == FINISH_NONE) {
        atomic_exchange(&r->noted, false);
        return r;
    }
    s->n_lent--;
    atomic_store_explicit(&r->finish, f, memory_order_release);
    return r;
}

void scheduler_news_done(struct scheduler *s)
{
    if (!s->has_lent)
        return; /* nothing can have made the fd readable */
    ring_sleep_end(s->news, s->news_fd);
    if (!ring_sleep_begin(s->news))
        event_wake(s->news_fd);
}
