/* scheduler_seq.c - the arrows of seq.h: how a sequence comes, runs, yields and goes. */
#include <assert.h>
#include <string.h>

#include "scheduler/scheduler_int.h"

int32_t scheduler_seq_take(struct scheduler *s, struct request *r)
{
    const int32_t id = s->free_seq;
    assert(id != SEQ_NONE); /* n_seqs covers all that can be lent, and all slots */
    struct seq *q = &s->seq[id];
    s->free_seq = q->next;
    *q = (struct seq){
        .state = SEQ_WAITING,
        .request = r,
        .ticket = ++s->n_tickets,
        .slot = SEQ_NONE,
    };
    r->seq = q;
    if (r->score_prompt) {
        r->score[0].id = r->prompt[0];
        r->score[0].logprob = 0;
        q->n_scored = 1;
    }
    queue_insert(&s->queue, id);
    return id;
}

static void free_seq(struct scheduler *s, int32_t id)
{
    s->seq[id] = (struct seq){.slot = SEQ_NONE, .next = s->free_seq};
    s->free_seq = id;
}

static void run_insert(struct scheduler *s, int32_t id)
{
    int32_t i = s->n_run++;
    for (; i > 0 && seq_ranks_before(&s->seq[id], &s->seq[s->run[i - 1]]); i--)
        s->run[i] = s->run[i - 1];
    s->run[i] = id;
}

static void run_remove(struct scheduler *s, int32_t id)
{
    int32_t i = s->n_run - 1;
    while (s->run[i] != id)
        i--;
    s->n_run--;
    memmove(&s->run[i], &s->run[i + 1], (size_t)(s->n_run - i) * sizeof s->run[0]);
}

/* Take references to the first n_hit blocks of q's tokens; the plan found them there. */
static void share_hits(struct scheduler *s, struct seq *q, int32_t n_hit)
{
    const int32_t block_tokens = s->limits.block_tokens;
    block_id *table = scheduler_table(s, q->slot);
    q->chain = prefix_cache_root(&s->cache, q->request->domain);
    for (int32_t i = 0; i < n_hit; i++) {
        seq_tokens(q, i * block_tokens, block_tokens, s->tokens);
        q->chain = prefix_cache_next(&s->cache, q->chain, s->tokens);
        table[i] = prefix_cache_find(&s->cache, q->chain, s->tokens);
        assert(table[i] != BLOCK_NONE);
        kv_blocks_share(&s->kv, table[i]);
    }
    q->n_table = q->n_sealed = n_hit;
    q->n_sent = q->n_done = n_hit * block_tokens;
}

static void count_admission(struct scheduler *s, struct seq *q)
{
    struct request *r = q->request;
    if (s->options.prefix_cache && seq_may_share(q)) {
        s->stat.prefix_queries_tokens += (uint64_t)seq_n_known(q);
        s->stat.prefix_hits_tokens += (uint64_t)q->n_sent;
    }
    if (r->scheduled_ns)
        return;
    r->scheduled_ns = s->now_ns;
    r->n_cached = q->n_sent;
}

/* Text that may stop the answer: what came after the first n_min tokens. */
static void feed_text(struct scheduler *s, struct seq *q)
{
    const struct request *r = q->request;
    struct stop_match *m = &s->match[q->slot];
    stop_match_init(m, r->stop, s->text.bytes ? r->n_stops : 0);
    const int32_t n_out = atomic_load_explicit(&r->n_out, memory_order_relaxed);
    for (int32_t i = r->n_min; i < n_out && m->n_stops > 0; i++) {
        size_t n;
        const char *bytes = s->text.bytes(s->text.ctx, r->out[i].id, &n);
        stop_match_feed(m, bytes, n);
    }
}

void scheduler_seq_admit(struct scheduler *s, int32_t id, int32_t n_hit)
{
    struct seq *q = &s->seq[id];
    assert(q->state == SEQ_WAITING && s->n_free_slots > 0);
    queue_remove(&s->queue, id);
    q->state = SEQ_RUNNING;
    q->slot = s->free_slot[--s->n_free_slots];
    s->slot_seq[q->slot] = id;
    share_hits(s, q, n_hit);
    feed_text(s, q);
    count_admission(s, q);
    run_insert(s, id);
}

/* Give up slot and blocks.  The last block first: of a cached chain, the end is then evicted before
 * the beginning, without which it is of no use. */
static void release(struct scheduler *s, struct seq *q)
{
    assert(q->n_flight == 0);
    const block_id *table = scheduler_table(s, q->slot);
    for (int32_t i = q->n_table; i-- > 0;)
        kv_blocks_drop(&s->kv, table[i]);
    s->slot_seq[q->slot] = SEQ_NONE;
    s->free_slot[s->n_free_slots++] = q->slot;
    q->slot = SEQ_NONE;
    q->n_table = q->n_done = q->n_sent = q->n_future = q->n_sealed = 0;
    q->decoding = false;
}

static void wait_again(struct scheduler *s, int32_t id)
{
    s->seq[id].state = SEQ_WAITING;
    queue_insert(&s->queue, id);
}

void scheduler_seq_preempt(struct scheduler *s, int32_t id)
{
    struct seq *q = &s->seq[id];
    assert(q->state == SEQ_RUNNING);
    run_remove(s, id);
    q->request->n_preempted++;
    s->stat.n_preemptions++;
    if (q->n_flight > 0) {
        q->state = SEQ_LEAVING;
        s->n_leaving++;
        return;
    }
    release(s, q);
    wait_again(s, id);
}

void scheduler_seq_landed(struct scheduler *s, int32_t id)
{
    struct seq *q = &s->seq[id];
    assert(q->n_flight > 0);
    if (--q->n_flight > 0)
        return;
    if (q->state == SEQ_ENDED) {
        s->n_ended--;
        release(s, q);
        free_seq(s, id);
    } else if (q->state == SEQ_LEAVING) {
        s->n_leaving--;
        release(s, q);
        wait_again(s, id);
    }
}

void scheduler_seq_finish(struct scheduler *s, int32_t id, enum finish f, const struct status *why)
{
    struct seq *q = &s->seq[id];
    struct request *r = q->request;
    if (q->state == SEQ_WAITING)
        queue_remove(&s->queue, id);
    else if (q->state == SEQ_RUNNING)
        run_remove(s, id);
    else
        s->n_leaving--;
    r->seq = NULL;
    if (why)
        r->why = *why;
    r->finished_ns = s->now_ns;
    scheduler_count_finish(s, f);
    q->request = NULL;
    if (q->n_flight > 0) {
        q->state = SEQ_ENDED;
        s->n_ended++;
    } else {
        if (q->slot != SEQ_NONE)
            release(s, q);
        free_seq(s, id);
    }
    /* The last use of r: its owner may free it once it has taken this cell. */
    struct news_cell *cell = ring_put_begin(s->news);
    assert(cell); /* two cells for each request that can be lent */
    *cell = (struct news_cell){.request = r, .finish = f};
    ring_put_end(s->news);
    s->has_news = true;
}

void scheduler_news_put(struct scheduler *s, struct request *r)
{
    if (atomic_exchange(&r->noted, true))
        return;
    struct news_cell *cell = ring_put_begin(s->news);
    assert(cell);
    *cell = (struct news_cell){.request = r, .finish = FINISH_NONE};
    ring_put_end(s->news);
    s->has_news = true;
}

/* Deaths in a row that found it in flight; the second one ends it. */
static bool note_crash(struct scheduler *s, int32_t id, bool in_flight)
{
    struct seq *q = &s->seq[id];
    q->n_crashes = in_flight ? q->n_crashes + 1 : 0;
    if (q->n_crashes < 2)
        return true;
    struct status why = {0};
    status_fail(&why, STATUS_DEVICE, "request was running when the engine died twice");
    scheduler_seq_finish(s, id, FINISH_ERROR, &why);
    return false;
}

void scheduler_seq_lost(struct scheduler *s, int32_t id)
{
    struct seq *q = &s->seq[id];
    const bool in_flight = q->n_flight > 0;
    q->n_flight = 0;
    if (q->state == SEQ_WAITING) {
        if (s->n_flights > 0)
            note_crash(s, id, false);
        return;
    }
    if (q->state == SEQ_ENDED) {
        s->n_ended--;
        release(s, q);
        free_seq(s, id);
        return;
    }
    if (s->n_flights > 0 && !note_crash(s, id, in_flight))
        return;
    q->request->n_replayed++;
    s->stat.n_replays++;
    if (q->state == SEQ_RUNNING)
        run_remove(s, id);
    else
        s->n_leaving--;
    release(s, q);
    wait_again(s, id);
}

void scheduler_seq_seal(struct scheduler *s, struct seq *q)
{
    const int32_t block_tokens = s->limits.block_tokens;
    while ((q->n_sealed + 1) * block_tokens <= q->n_done) {
        seq_tokens(q, q->n_sealed * block_tokens, block_tokens, s->tokens);
        q->chain = prefix_cache_next(&s->cache, q->chain, s->tokens);
        const block_id id = scheduler_table(s, q->slot)[q->n_sealed++];
        if (prefix_cache_add(&s->cache, q->chain, s->tokens, id))
            kv_blocks_seal(&s->kv, id, q->chain.lo ? q->chain.lo : 1);
    }
}
