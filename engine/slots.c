/* slots.c - sequences as the engine sees them: history, blocks, parameters. */
#include "engine/slots.h"

#include <string.h>

#include "base/arena.h"
#include "base/checked.h"

enum { ALIGN = 64, N_ARRAYS = 10 };

struct array {
    void **at; /* NULL while only counting */
    size_t n, elem;
};

struct sequences { /* the arrays that the slots divide among themselves */
    int32_t *history, *block;
    struct sample_bias *bias;
};

static int32_t count_blocks(const struct step_limits *l)
{
    return (l->context_max + l->block_tokens - 1) / l->block_tokens;
}

static void list_arrays(struct slots *s, struct sequences *seqs, const struct step_limits *l,
                        struct array list[N_ARRAYS])
{
    const size_t n_seqs = (size_t)l->seqs_max, n_tokens = (size_t)l->step_tokens_max;
    const size_t n_blocks = n_seqs * (size_t)count_blocks(l);
    const struct array all[N_ARRAYS] = {
        {(void **)&s->slot, n_seqs, sizeof *s->slot},
        {(void **)&seqs->history, n_seqs * ((size_t)l->context_max + 1), sizeof(int32_t)},
        {(void **)&seqs->block, n_blocks, sizeof(int32_t)},
        {(void **)&seqs->bias, n_seqs * STEP_BIAS_MAX, sizeof(struct sample_bias)},
        {(void **)&s->token_ids, n_tokens, sizeof(int32_t)},
        {(void **)&s->positions, n_tokens, sizeof(int32_t)},
        {(void **)&s->token_seq, n_tokens, sizeof(int32_t)},
        {(void **)&s->seq_start, n_seqs + 1, sizeof(int32_t)},
        {(void **)&s->kv_len, n_seqs, sizeof(int32_t)},
        {(void **)&s->block_table, n_blocks, sizeof(int32_t)},
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
    struct sequences seqs;
    struct array list[N_ARRAYS];
    list_arrays(&s, &seqs, limits, list);
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
    struct sequences seqs;
    struct array list[N_ARRAYS];
    *s = (struct slots){.limits = *limits, .blocks_per_seq = count_blocks(limits)};
    list_arrays(s, &seqs, limits, list);
    for (int i = 0; i < N_ARRAYS; i++) {
        size_t n;
        if (!array_bytes(&list[i], &n))
            return false;
        void *at = arena_take(memory, n, ALIGN);
        if (!at)
            return false;
        memcpy(list[i].at, &at, sizeof at);
    }
    for (int32_t i = 0; i < limits->seqs_max; i++)
        s->slot[i] = (struct seq_slot){
            .history = seqs.history + (size_t)i * ((size_t)limits->context_max + 1),
            .block = seqs.block + (size_t)i * (size_t)s->blocks_per_seq,
            .bias = seqs.bias + (size_t)i * STEP_BIAS_MAX,
        };
    return true;
}

static void set_slot(struct slots *s, const struct step *step, const struct step_slot *from)
{
    struct seq_slot *to = &s->slot[from->slot];
    to->set = true;
    to->has_sample = false;
    to->n_cached = from->n_history;
    to->n_prompt = from->n_prompt;
    to->n_blocks = 0;
    to->n_bias = from->n_bias;
    to->params = from->params;
    memcpy(to->history, step_history(step) + from->first_history,
           (size_t)from->n_history * sizeof *to->history);
    memcpy(to->bias, step_bias(step) + from->first_bias, (size_t)from->n_bias * sizeof *to->bias);
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
    return true;
}

/* Append to the slot what the row brings. */
static void extend_slot(struct slots *s, const struct step *step, const struct step_row *row)
{
    struct seq_slot *slot = &s->slot[row->slot];
    if (!(row->flags & ROW_TOKEN_SAMPLED))
        memcpy(slot->history + row->position, step_tokens(step) + row->first_token,
               (size_t)row->n_tokens * sizeof *slot->history);
    memcpy(slot->block + slot->n_blocks, step_blocks(step) + row->first_block,
           (size_t)row->n_blocks * sizeof *slot->block);
    slot->n_blocks += row->n_blocks;
    slot->n_cached += row->n_tokens;
    slot->has_sample = false;
    slot->last_step = step->id;
}

static void lay_out_row(struct slots *s, const struct step_row *row, int32_t seq, int32_t first)
{
    const struct seq_slot *slot = &s->slot[row->slot];
    for (int32_t i = 0; i < row->n_tokens; i++) {
        s->token_ids[first + i] = slot->history[row->position + i];
        s->positions[first + i] = row->position + i;
        s->token_seq[first + i] = seq;
    }
    s->kv_len[seq] = slot->n_cached;
    s->seq_start[seq + 1] = first + row->n_tokens;
    memcpy(s->block_table + (size_t)seq * (size_t)s->blocks_per_seq, slot->block,
           (size_t)slot->n_blocks * sizeof *slot->block);
}

bool slots_apply(struct slots *s, const struct step *step, struct batch *b, struct status *st)
{
    const struct step_slot *set = step_slots(step);
    const struct step_row *row = step_rows(step);
    for (int32_t i = 0; i < step->n_slots; i++)
        set_slot(s, step, &set[i]);
    int32_t n_tokens = 0;
    s->seq_start[0] = 0;
    for (int32_t i = 0; i < step->n_rows; i++) {
        if (!check_row(s, step, &row[i], st))
            return status_wrap(st, "step %llu: row %d", (unsigned long long)step->id, i);
        extend_slot(s, step, &row[i]);
        lay_out_row(s, &row[i], i, n_tokens);
        n_tokens += row[i].n_tokens;
    }
    *b = (struct batch){
        .n_tokens = n_tokens,
        .n_seqs = step->n_rows,
        .token_ids = s->token_ids,
        .positions = s->positions,
        .token_seq = s->token_seq,
        .seq_start = s->seq_start,
        .kv_len = s->kv_len,
        .block_table = s->block_table,
        .table_stride = s->blocks_per_seq,
    };
    return true;
}

void slots_put_sample(struct slots *s, int32_t slot, int32_t id)
{
    struct seq_slot *to = &s->slot[slot];
    to->history[to->n_cached] = id;
    to->has_sample = true;
}
