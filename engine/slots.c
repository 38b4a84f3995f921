/* slots.c - sequences as the engine sees them, and steps as batches. */
#include "engine/slots.h"

#include <string.h>

#include "base/arena.h"
#include "base/checked.h"

enum { ALIGN = 64, N_ARRAYS = 12 };

struct array {
    void **at; /* NULL while only counting */
    size_t n, elem;
};

static int32_t count_blocks(const struct step_limits *l)
{
    return (l->context_max + l->block_tokens - 1) / l->block_tokens;
}

size_t slots_heads_max(const struct step_limits *limits)
{
    return (size_t)limits->step_tokens_max + (size_t)limits->seqs_max;
}

static void list_arrays(struct slots *s, const struct step_limits *l, struct array list[N_ARRAYS])
{
    const size_t n_seqs = (size_t)l->seqs_max, n_tokens = (size_t)l->step_tokens_max;
    const size_t n_blocks = n_seqs * (size_t)count_blocks(l);
    const struct array all[N_ARRAYS] = {
        {(void **)&s->slot, n_seqs, sizeof *s->slot},
        {(void **)&s->block_table, n_blocks, sizeof(int32_t)},
        {(void **)&s->token_ids, n_tokens, sizeof(int32_t)},
        {(void **)&s->positions, n_tokens, sizeof(int32_t)},
        {(void **)&s->token_seq, n_tokens, sizeof(int32_t)},
        {(void **)&s->seq_start, n_seqs + 1, sizeof(int32_t)},
        {(void **)&s->kv_len, n_seqs, sizeof(int32_t)},
        {(void **)&s->seq_slot, n_seqs, sizeof(int32_t)},
        {(void **)&s->n_prompt, n_seqs, sizeof(int32_t)},
        {(void **)&s->set, n_seqs, sizeof *s->set},
        {(void **)&s->block, n_blocks, sizeof *s->block},
        {(void **)&s->head, slots_heads_max(l), sizeof *s->head},
    };
    memcpy(list, all, sizeof all);
}

static bool array_bytes(const struct array *a, size_t *n_bytes)
{
    return size_mul(a->n, a->elem, n_bytes) && size_align(*n_bytes, ALIGN, n_bytes);
}

bool slots_bytes(const struct step_limits *limits, size_t *n_bytes)
{
    struct slots s;
    struct array list[N_ARRAYS];
    list_arrays(&s, limits, list);
    *n_bytes = 0;
    for (int i = 0; i < N_ARRAYS; i++) {
        size_t n;
        if (!array_bytes(&list[i], &n) || !size_add(*n_bytes, n, n_bytes))
            return false;
    }
    return true;
}

bool slots_init(struct slots *s, const struct step_limits *limits, struct arena *memory)
{
    struct array list[N_ARRAYS];
    *s = (struct slots){.limits = *limits, .blocks_per_seq = count_blocks(limits)};
    list_arrays(s, limits, list);
    for (int i = 0; i < N_ARRAYS; i++) {
        size_t n;
        if (!array_bytes(&list[i], &n))
            return false;
        void *at = arena_take(memory, n, ALIGN);
        if (!at)
            return false;
        memcpy(list[i].at, &at, sizeof at);
    }
    return true;
}

static void set_slot(struct slots *s, const struct step *step, int32_t i)
{
    const struct step_slot *from = &step_slots(step)[i];
    struct seq_slot *to = &s->slot[from->slot];
    to->set = true;
    to->has_sample = false;
    to->n_cached = from->n_history;
    to->n_prompt = from->n_prompt;
    to->n_blocks = 0;
    s->set[i] = (struct batch_slot){
        .slot = from->slot,
        .n_prompt = from->n_prompt,
        .n_history = from->n_history,
        .history = step_history(step) + from->first_history,
        .params = &from->params,
        .bias = step_bias(step) + from->first_bias,
        .n_bias = from->n_bias,
    };
}

static bool check_row(const struct slots *s, const struct step *step, const struct step_row *row,
                      struct status *st)
{
    const struct seq_slot *slot = &s->slot[row->slot];
    if (!slot->set)
        return status_fail(st, STATUS_CORRUPT, "slot %d was never set", row->slot);
    if (slot->last_step == step->id)
        return status_fail(st, STATUS_CORRUPT, "slot %d has two rows", row->slot);
    if (row->position != slot->n_cached)
        return status_fail(st, STATUS_CORRUPT, "slot %d: want position %d, found %d", row->slot,
                           slot->n_cached, row->position);
    if ((row->flags & ROW_TOKEN_SAMPLED) && !slot->has_sample)
        return status_fail(st, STATUS_CORRUPT, "slot %d: there is no sample to go on from",
                           row->slot);
    if (row->block_at != slot->n_blocks)
        return status_fail(st, STATUS_CORRUPT, "slot %d: want a table of %d blocks, found %d",
                           row->slot, slot->n_blocks, row->block_at);
    const int64_t n_room = ((int64_t)slot->n_blocks + row->n_blocks) * s->limits.block_tokens;
    if ((int64_t)row->position + row->n_tokens > n_room)
        return status_fail(st, STATUS_CORRUPT, "slot %d: %d tokens do not fit its %d blocks",
                           row->slot, row->position + row->n_tokens,
                           slot->n_blocks + row->n_blocks);
    if (row->n_blocks > 0 && n_room - s->limits.block_tokens >= (int64_t)row->position + row->n_tokens)
        return status_fail(st, STATUS_CORRUPT, "slot %d: %d tokens do not need its %d blocks",
                           row->slot, row->position + row->n_tokens,
                           slot->n_blocks + row->n_blocks); /* devices plan for no more */
    return true;
}

/* Append the row's blocks to the slot's table. */
static void add_blocks(struct slots *s, const struct step *step, const struct step_row *row,
                       struct batch *b)
{
    struct seq_slot *slot = &s->slot[row->slot];
    int32_t *table = s->block_table + (size_t)row->slot * (size_t)s->blocks_per_seq;
    for (int32_t i = 0; i < row->n_blocks; i++) {
        const int32_t block = step_blocks(step)[row->first_block + i], at = slot->n_blocks++;
        table[at] = block;
        s->block[b->n_blocks++] = (struct batch_block){.slot = row->slot, .at = at, .block = block};
    }
}

static void lay_out_row(struct slots *s, const struct step *step, const struct step_row *row,
                        const struct batch *b)
{
    const int32_t seq = b->n_seqs, first = b->n_tokens;
    struct seq_slot *slot = &s->slot[row->slot];
    for (int32_t i = 0; i < row->n_tokens; i++) {
        s->token_ids[first + i] = row->flags & ROW_TOKEN_SAMPLED
                                      ? TOKEN_SAMPLED
                                      : step_tokens(step)[row->first_token + i];
        s->positions[first + i] = row->position + i;
        s->token_seq[first + i] = seq;
    }
    slot->n_cached += row->n_tokens;
    s->kv_len[seq] = slot->n_cached;
    s->seq_slot[seq] = row->slot;
    s->n_prompt[seq] = slot->n_prompt;
    s->seq_start[seq + 1] = first + row->n_tokens;
}

/* Score, after each position of the row, the prompt token that follows it. */
static void add_scores(struct slots *s, const struct step *step, const struct step_row *row,
                       struct batch *b)
{
    const int32_t n = step_row_scores(row);
    for (int32_t i = 0; i < n; i++) {
        const bool is_last = i == row->n_tokens - 1;
        s->head[b->n_heads++] = (struct batch_head){
            .row = b->n_tokens + i,
            .slot = row->slot,
            .n_history = row->position + i + 1,
            .forced = is_last ? row->next_token : step_tokens(step)[row->first_token + i + 1],
        };
    }
}

static void add_sample(struct slots *s, const struct step_row *row, struct batch *b)
{
    s->head[b->n_heads++] = (struct batch_head){
        .row = b->n_tokens + row->n_tokens - 1,
        .slot = row->slot,
        .n_history = row->position + row->n_tokens,
        .forced = -1,
    };
}

static bool add_row(struct slots *s, const struct step *step, const struct step_row *row,
                    struct batch *b, struct status *st)
{
    struct seq_slot *slot = &s->slot[row->slot];
    if (!check_row(s, step, row, st))
        return status_wrap(st, "step %llu: row %d", (unsigned long long)step->id, b->n_seqs);
    add_blocks(s, step, row, b);
    lay_out_row(s, step, row, b);
    add_scores(s, step, row, b);
    if (row->flags & ROW_SAMPLE)
        add_sample(s, row, b);
    slot->has_sample = row->flags & ROW_SAMPLE;
    slot->last_step = step->id;
    b->n_tokens += row->n_tokens;
    b->n_seqs++;
    return true;
}

bool slots_apply(struct slots *s, const struct step *step, struct batch *b, struct status *st)
{
    *b = (struct batch){
        .n_slots = step->n_slots,
        .token_ids = s->token_ids,
        .positions = s->positions,
        .token_seq = s->token_seq,
        .seq_start = s->seq_start,
        .kv_len = s->kv_len,
        .slot = s->seq_slot,
        .n_prompt = s->n_prompt,
        .block_table = s->block_table,
        .block = s->block,
        .set = s->set,
        .head = s->head,
    };
    for (int32_t i = 0; i < step->n_slots; i++)
        set_slot(s, step, i);
    s->seq_start[0] = 0;
    for (int32_t i = 0; i < step->n_rows; i++)
        if (!add_row(s, step, &step_rows(step)[i], b, st))
            return false;
    return true;
}
