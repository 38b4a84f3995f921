/* step.c - what a CPU device keeps between its ops: work memory, slots, the batch in hand.
 *
 * The ops run at the call.  So a step's tokens are resolved and remembered when it begins, and a
 * sample is in its slot before the next step can ask for it. */
#include "kernels/cpu/cpu_int.h"

#include "base/checked.h"
#include "kernels/comm.h"

#include <assert.h>
#include <string.h>

enum { ALIGN = 64, N_ARRAYS = 15 + DEVICE_DEPTH };

struct work { /* the arrays that step.c lays out; the slots divide history and bias */
    int32_t *history;
    struct sample_bias *bias;
    int32_t *ids, *positions, *token_seq, *seq_start, *kv_len, *n_prompt, *slot_of, *table;
    struct batch_head *head;
};

struct array {
    void **at; /* NULL while only counting */
    size_t n, elem;
};

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static size_t count_scratch(const struct device *d, const struct device_limits *l)
{
    const int rows = l->heads_max > l->step_tokens_max ? l->heads_max : l->step_tokens_max;
    size_t n = cpu_matmul_scratch_bytes(d, rows, l->in_max);
    n = larger(n, cpu_attention_scratch_bytes(d, l->seqs_max));
    return larger(n, cpu_sample_scratch_bytes(d, l->vocab));
}

static void list_arrays(struct device *d, struct work *w, const struct device_limits *l,
                        struct array list[N_ARRAYS])
{
    const size_t seqs = (size_t)l->seqs_max, tokens = (size_t)l->step_tokens_max;
    const size_t rows = larger(tokens, (size_t)l->heads_max);
    const struct array all[N_ARRAYS] = {
        {&d->scratch, count_scratch(d, l), 1},
        {(void **)&d->normed, rows * (size_t)l->in_max, sizeof(float)},
        {(void **)&d->up, tokens * (size_t)l->ffn, sizeof(float)},
        {(void **)&d->slot, seqs, sizeof *d->slot},
        {(void **)&w->history, seqs * (size_t)l->context_max, sizeof(int32_t)},
        {(void **)&w->bias, seqs * (size_t)l->bias_slot_max, sizeof(struct sample_bias)},
        {(void **)&w->ids, tokens, sizeof(int32_t)},
        {(void **)&w->positions, tokens, sizeof(int32_t)},
        {(void **)&w->token_seq, tokens, sizeof(int32_t)},
        {(void **)&w->seq_start, seqs + 1, sizeof(int32_t)},
        {(void **)&w->kv_len, seqs, sizeof(int32_t)},
        {(void **)&w->n_prompt, seqs, sizeof(int32_t)},
        {(void **)&w->slot_of, seqs, sizeof(int32_t)},
        {(void **)&w->table, seqs * (size_t)l->table_stride, sizeof(int32_t)},
        {(void **)&w->head, (size_t)l->step_heads_max, sizeof(struct batch_head)},
        {(void **)&d->flight[0].out, (size_t)l->step_heads_max, sizeof(struct sample_out)},
        {(void **)&d->flight[1].out, (size_t)l->step_heads_max, sizeof(struct sample_out)},
    };
    _Static_assert(DEVICE_DEPTH == 2, "each flight has its array");
    memcpy(list, all, sizeof all);
}

static size_t array_bytes(const struct array *a)
{
    size_t n;
    return size_mul(a->n, a->elem, &n) && size_align(n, ALIGN, &n) ? n : SIZE_MAX;
}

size_t cpu_work_bytes(const struct device *d, const struct device_limits *l)
{
    struct device unused = *d;
    struct work w;
    struct array list[N_ARRAYS];
    size_t n = 0;
    list_arrays(&unused, &w, l, list);
    for (int i = 0; i < N_ARRAYS; i++)
        if (!size_add(n, array_bytes(&list[i]), &n))
            return SIZE_MAX;
    return n;
}

bool cpu_work_set(struct device *d, const struct device_limits *l, void *work, struct status *st)
{
    struct work w;
    struct array list[N_ARRAYS];
    char *at = work;
    (void)st;
    d->limits = *l;
    d->scratch_bytes = count_scratch(d, l);
    list_arrays(d, &w, l, list);
    for (int i = 0; i < N_ARRAYS; i++) {
        memcpy(list[i].at, &at, sizeof at);
        at += array_bytes(&list[i]);
    }
    for (int32_t i = 0; i < l->seqs_max; i++) {
        d->slot[i].history = w.history + (size_t)i * (size_t)l->context_max;
        d->slot[i].bias = w.bias + (size_t)i * (size_t)l->bias_slot_max;
    }
    d->batch = (struct batch){.token_ids = w.ids,
                              .positions = w.positions,
                              .token_seq = w.token_seq,
                              .seq_start = w.seq_start,
                              .kv_len = w.kv_len,
                              .n_prompt = w.n_prompt,
                              .slot = w.slot_of,
                              .block_table = w.table,
                              .head = w.head};
    return true;
}

static void set_slot(struct device *d, const struct batch_slot *from)
{
    struct cpu_slot *to = &d->slot[from->slot];
    to->params = *from->params;
    to->n_prompt = from->n_prompt;
    to->n_bias = from->n_bias;
    to->sampled = 0;
    if (from->n_history > 0)
        memcpy(to->history, from->history, (size_t)from->n_history * sizeof *to->history);
    if (from->n_bias > 0)
        memcpy(to->bias, from->bias, (size_t)from->n_bias * sizeof *to->bias);
}

/* Copy into one of the batch's arrays, which are const to the ops alone. */
static void keep(const void *to, const void *from, size_t n, size_t elem)
{
    if (n > 0)
        memcpy((void *)(uintptr_t)to, from, n * elem);
}

static void keep_rows(struct batch *to, const struct batch *from)
{
    const size_t n_tokens = (size_t)from->n_tokens, n_seqs = (size_t)from->n_seqs;
    keep(to->positions, from->positions, n_tokens, sizeof *to->positions);
    keep(to->token_seq, from->token_seq, n_tokens, sizeof *to->token_seq);
    keep(to->seq_start, from->seq_start, n_seqs + 1, sizeof *to->seq_start);
    keep(to->kv_len, from->kv_len, n_seqs, sizeof *to->kv_len);
    keep(to->n_prompt, from->n_prompt, n_seqs, sizeof *to->n_prompt);
    keep(to->slot, from->slot, n_seqs, sizeof *to->slot);
    keep(to->head, from->head, (size_t)from->n_heads, sizeof *to->head);
}

static void keep_table(const struct device *d, const struct batch *b, int seq)
{
    const size_t at = (size_t)b->slot[seq] * (size_t)d->limits.table_stride;
    const int n = (b->kv_len[seq] + d->limits.block_tokens - 1) / d->limits.block_tokens;
    keep(d->batch.block_table + at, b->block_table + at, (size_t)n, sizeof *b->block_table);
}

/* Resolve the ids of one sequence, and append them to its slot. */
static void note_tokens(const struct device *d, const struct batch *b, int seq)
{
    struct cpu_slot *slot = &d->slot[b->slot[seq]];
    for (int t = b->seq_start[seq]; t < b->seq_start[seq + 1]; t++) {
        const int32_t id = b->token_ids[t] == TOKEN_SAMPLED ? slot->sampled : b->token_ids[t];
        keep(d->batch.token_ids + t, &id, 1, sizeof id);
        slot->history[b->positions[t]] = id;
    }
}

bool cpu_step_begin(struct device *d, const struct batch *b, uint64_t shape)
{
    struct batch *to = &d->batch;
    (void)shape;
    assert(d->n_begun - d->n_waited < DEVICE_DEPTH);
    for (int i = 0; i < b->n_slots; i++)
        set_slot(d, &b->set[i]);
    to->n_tokens = b->n_tokens;
    to->n_seqs = b->n_seqs;
    to->n_heads = b->n_heads;
    d->flight[d->n_begun++ % DEVICE_DEPTH].n_heads = b->n_heads;
    keep_rows(to, b);
    for (int seq = 0; seq < b->n_seqs; seq++) {
        keep_table(d, b, seq);
        note_tokens(d, b, seq);
    }
    return false;
}

struct sample_out *cpu_step_out(struct device *d)
{
    return d->flight[(d->n_begun - 1) % DEVICE_DEPTH].out;
}

bool cpu_step_wait(struct device *d, struct sample_out *out, struct status *st)
{
    assert(d->n_waited < d->n_begun);
    const struct cpu_flight *f = &d->flight[d->n_waited++ % DEVICE_DEPTH];
    keep(out, f->out, (size_t)f->n_heads, sizeof *out);
    const bool meets = d->grid || d->comm;
    return !meets || comm_ok(d->grid ? d->grid : d->comm, st);
}
