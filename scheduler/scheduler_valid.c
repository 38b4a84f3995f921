/* scheduler_valid.c - every invariant of the books, checked from scratch. */
#include <string.h>

#include "scheduler/scheduler_int.h"

static bool fault(struct status *st, const char *what, int32_t id)
{
    return status_fail(st, STATUS_CORRUPT, "invariant: %s (%d)", what, id);
}

static bool has_slot(const struct seq *q)
{
    return q->state == SEQ_RUNNING || q->state == SEQ_LEAVING || q->state == SEQ_ENDED;
}

static int32_t count_rows(const struct scheduler *s, int32_t id)
{
    int32_t n = 0;
    for (int32_t i = 0; i < s->n_flights; i++)
        for (int32_t k = 0; k < s->flight[i].n_rows; k++)
            n += s->flight[i].row[k].seq == id;
    return n;
}

static bool check_counts(const struct scheduler *s, int32_t id, struct status *st)
{
    const struct seq *q = &s->seq[id];
    const struct request *r = q->request;
    if (q->n_done < 0 || q->n_done > q->n_sent || q->n_future < 0)
        return fault(st, "counts of a sequence are out of order", id);
    if (q->n_sealed * s->limits.block_tokens > q->n_done)
        return fault(st, "a block was sealed before its step was answered", id);
    if (q->n_table != seq_blocks_for(q->n_sent, s->limits.block_tokens))
        return fault(st, "a table is not as long as its tokens need", id);
    if (q->n_flight != count_rows(s, id))
        return fault(st, "rows in flight are miscounted", id);
    if (!r)
        return true;
    const int32_t n_out = atomic_load_explicit(&r->n_out, memory_order_relaxed);
    if (n_out > r->n_max || n_out + q->n_future > r->n_max)
        return fault(st, "more tokens than asked for", id);
    if (q->n_sent > seq_n_known(q) + q->n_future)
        return fault(st, "tokens were sent that nobody knows", id);
    return true;
}

static bool check_state(const struct scheduler *s, int32_t id, struct status *st)
{
    const struct seq *q = &s->seq[id];
    if ((q->request != NULL) != (q->state != SEQ_FREE && q->state != SEQ_ENDED))
        return fault(st, "a sequence without its request, or with one too many", id);
    if (q->request && q->request->seq != q)
        return fault(st, "a request of another sequence", id);
    if (has_slot(q) != (q->slot != SEQ_NONE) || (q->slot != SEQ_NONE && s->slot_seq[q->slot] != id))
        return fault(st, "a slot and its sequence disagree", id);
    if ((q->state == SEQ_ENDED || q->state == SEQ_LEAVING) && q->n_flight == 0)
        return fault(st, "an ended or leaving sequence waits for no step", id);
    if (!has_slot(q) && (q->n_table || q->n_flight || q->n_sent || q->n_future))
        return fault(st, "a sequence without slot owns something", id);
    return !has_slot(q) || check_counts(s, id, st);
}

static bool check_totals(const struct scheduler *s, struct status *st)
{
    int32_t n[SEQ_ENDED + 1] = {0};
    for (int32_t id = 0; id < s->n_seqs; id++)
        n[s->seq[id].state]++;
    if (n[SEQ_WAITING] != s->queue.n || n[SEQ_RUNNING] != s->n_run ||
        n[SEQ_LEAVING] != s->n_leaving || n[SEQ_ENDED] != s->n_ended)
        return fault(st, "the sum over the states is wrong", s->queue.n);
    if (s->n_free_slots + s->n_run + s->n_leaving + s->n_ended != s->n_slots)
        return fault(st, "a slot is lost", s->n_free_slots);
    for (int32_t i = 0; i < s->n_run; i++) {
        if (s->seq[s->run[i]].state != SEQ_RUNNING)
            return fault(st, "the run list has one that does not run", s->run[i]);
        if (i > 0 && !seq_ranks_before(&s->seq[s->run[i - 1]], &s->seq[s->run[i]]))
            return fault(st, "the run list is out of order", s->run[i]);
    }
    return true;
}

/* How many tables hold a block, counted anew. */
static bool check_refs(const struct scheduler *s, struct status *st)
{
    int64_t n_refs = 0, n_entries = 0;
    for (block_id id = 0; id < s->kv.n_blocks; id++) {
        const struct kv_block *b = &s->kv.block[id];
        n_refs += b->n_refs;
        if ((b->hash != 0) != s->cache.used[id])
            return fault(st, "a block and the prefix cache disagree", id);
        if (b->hash == 0 && b->n_refs > 1)
            return fault(st, "a block that may be written is shared", id);
    }
    for (int32_t slot = 0; slot < s->n_slots; slot++) {
        if (s->slot_seq[slot] == SEQ_NONE)
            continue;
        const struct seq *q = &s->seq[s->slot_seq[slot]];
        const block_id *table = scheduler_table(s, slot);
        n_entries += q->n_table;
        for (int32_t i = 0; i < q->n_table; i++) {
            if (s->kv.block[table[i]].n_refs < 1)
                return fault(st, "a table holds a free block", table[i]);
            if (i >= q->n_sealed && s->kv.block[table[i]].hash)
                return fault(st, "a block that is being written is in the cache", table[i]);
        }
    }
    if (n_refs != n_entries)
        return fault(st, "references and tables differ", (int32_t)(n_refs - n_entries));
    return true;
}

/* The blocks that a sequence shares are those of its own tokens, in its own trust domain. */
static bool check_content(const struct scheduler *s, const struct seq *q, struct status *st)
{
    const int32_t block_tokens = s->limits.block_tokens;
    const block_id *table = scheduler_table(s, q->slot);
    struct hash128 hash = prefix_cache_root(&s->cache, q->request->domain);
    for (int32_t i = 0; i < q->n_sealed; i++) {
        seq_tokens(q, i * block_tokens, block_tokens, s->tokens);
        hash = prefix_cache_next(&s->cache, hash, s->tokens);
        if (s->cache.used[table[i]] && !hash128_equal(s->cache.hash[table[i]], hash))
            return fault(st, "a cached block has other tokens than its sequence", table[i]);
    }
    return q->n_sealed == 0 || hash128_equal(hash, q->chain) ||
           fault(st, "the hash chain of a sequence is wrong", q->slot);
}

bool scheduler_valid(const struct scheduler *s, struct status *st)
{
    if (!s->has_tables)
        return true;
    if (!kv_blocks_valid(&s->kv))
        return fault(st, "the free list of blocks", s->kv.n_free);
    if (!prefix_cache_valid(&s->cache))
        return fault(st, "the table of the prefix cache", s->cache.n_used);
    if (!queue_valid(&s->queue))
        return fault(st, "the queue", s->queue.n);
    for (int32_t id = 0; id < s->n_seqs; id++)
        if (!check_state(s, id, st))
            return false;
    if (!check_totals(s, st) || !check_refs(s, st))
        return false;
    for (int32_t slot = 0; slot < s->n_slots; slot++) {
        const struct seq *q = s->slot_seq[slot] == SEQ_NONE ? NULL : &s->seq[s->slot_seq[slot]];
        if (q && q->request && !check_content(s, q, st))
            return false;
    }
    return true;
}
