/* step_apply.c - carries a plan out: takes the blocks, writes the step record, notes the flight. */
#include <assert.h>

#include "scheduler/scheduler_int.h"

static void take_blocks(struct scheduler *s, struct seq *q, int32_t n)
{
    block_id *table = scheduler_table(s, q->slot);
    for (int32_t i = 0; i < n; i++) {
        uint64_t evicted;
        const block_id id = kv_blocks_take(&s->kv, &evicted);
        assert(id != BLOCK_NONE && q->n_table < s->table_max);
        if (evicted)
            prefix_cache_remove(&s->cache, id);
        table[q->n_table++] = id;
    }
}

/* The slot of a sequence that begins (again); its first n_hit blocks are shared already. */
static void write_slot(struct scheduler *s, struct step_builder *b, const struct seq *q)
{
    const struct request *r = q->request;
    struct step_slot *slot = step_add_slot(b);
    assert(slot);
    seq_tokens(q, 0, q->n_sent, s->tokens);
    *slot = (struct step_slot){
        .slot = q->slot,
        .n_prompt = r->n_prompt,
        .first_history = step_add_history(b, s->tokens, q->n_sent),
        .n_history = q->n_sent,
        .first_bias = step_add_bias(b, r->bias, r->n_bias),
        .n_bias = r->n_bias,
        .params = r->sample,
    };
    assert(slot->first_history >= 0 && slot->first_bias >= 0);
}

static void write_row(struct scheduler *s, struct step_builder *b, const struct plan_row *plan,
                      int32_t block_at)
{
    const struct seq *q = &s->seq[plan->seq];
    struct step_row *row = step_add_row(b);
    assert(row);
    row->slot = q->slot;
    row->flags = plan->flags;
    row->n_tokens = plan->n_tokens;
    row->position = q->n_sent;
    row->next_token = -1;
    row->block_at = block_at;
    row->n_blocks = q->n_table - block_at;
    row->first_block = step_add_blocks(b, scheduler_table(s, q->slot) + block_at, row->n_blocks);
    assert(row->first_block >= 0);
    if (!(plan->flags & ROW_TOKEN_SAMPLED)) {
        seq_tokens(q, q->n_sent, plan->n_tokens, s->tokens);
        row->first_token = step_add_tokens(b, s->tokens, plan->n_tokens);
        assert(row->first_token >= 0);
    }
    const int32_t end = q->n_sent + plan->n_tokens;
    if ((plan->flags & ROW_SCORE_NEXT) && end < q->request->n_prompt)
        row->next_token = q->request->prompt[end];
}

static void note_row(struct scheduler *s, struct flight *f, const struct plan_row *plan)
{
    struct seq *q = &s->seq[plan->seq];
    struct flight_row *row = &f->row[f->n_rows++];
    *row = (struct flight_row){
        .seq = plan->seq,
        .slot = q->slot,
        .position = q->n_sent,
        .n_tokens = plan->n_tokens,
        .flags = plan->flags,
    };
    f->n_decodes += q->decoding;
    q->n_sent += plan->n_tokens;
    q->n_flight++;
    f->n_tokens += plan->n_tokens;
    if (plan->flags & ROW_SCORE_NEXT)
        row->n_scores = plan->n_tokens - (q->n_sent == q->request->n_prompt);
    if (plan->flags & ROW_SAMPLE) {
        q->n_future++;
        q->decoding = true;
    }
}

static void apply_row(struct scheduler *s, struct step_builder *b, const struct plan_row *plan)
{
    struct seq *q = &s->seq[plan->seq];
    const int32_t block_at = plan->is_new ? 0 : q->n_table;
    take_blocks(s, q, plan->n_blocks);
    if (plan->is_new)
        write_slot(s, b, q);
    write_row(s, b, plan, block_at);
    note_row(s, &s->flight[s->n_flights], plan);
}

void step_plan_apply(struct scheduler *s, const struct step_plan *plan, struct step *at)
{
    for (int32_t i = 0; i < plan->n_preempt; i++)
        scheduler_seq_preempt(s, s->run[s->n_run - 1]);
    if (plan->n_rows == 0)
        return;
    /* All hits are held before the first block is taken, which might evict one. */
    for (int32_t i = 0; i < plan->n_rows; i++)
        if (plan->row[i].is_new)
            scheduler_seq_admit(s, plan->row[i].seq, plan->row[i].n_hit);
    struct flight *f = &s->flight[s->n_flights];
    f->step_id = ++s->n_step_ids;
    f->n_rows = f->n_tokens = f->n_decodes = 0;
    struct step_builder b;
    step_begin(&b, at, &s->limits, f->step_id);
    for (int32_t i = 0; i < plan->n_rows; i++)
        apply_row(s, &b, &plan->row[i]);
    step_end(&b);
    s->n_flights++;
}
