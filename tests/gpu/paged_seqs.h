/* paged_seqs.h - sequences of a test of attention: their tokens in a step, and their keys in blocks
 * of a cache that are not in order. */
#ifndef TESTS_GPU_PAGED_SEQS_H
#define TESTS_GPU_PAGED_SEQS_H

#include "tests/gpu/cuda_device.h"

enum { TOKENS_MAX = 400, SEQS_MAX = 12, CONTEXT = 4608 };

struct seq { /* the last n_new of kv_len tokens are in the step; those from n_prompt on were
                generated */
    int32_t kv_len, n_new, n_prompt;
};

#define SEQS(list) list, sizeof list / sizeof *list

/* What attention is asked for, of which sequences. */
struct shape {
    int head_dim, n_heads, n_kv_heads, block_tokens, window;
    float soft_cap;
    bool alibi, bidirectional;
    const struct seq *seq;
    int n_seqs;
};

struct step {
    struct batch batch;
    int32_t ids[TOKENS_MAX], positions[TOKENS_MAX], token_seq[TOKENS_MAX];
    int32_t seq_start[SEQS_MAX + 1], kv_len[SEQS_MAX], slot[SEQS_MAX], n_prompt[SEQS_MAX];
};

static inline int slot_of(int seq)
{
    return (seq * 5 + 2) % SEQS_MAX;
}

static inline void step_open(struct step *st, const int32_t *table)
{
    *st = (struct step){0};
    st->batch = (struct batch){.token_ids = st->ids,
                               .positions = st->positions,
                               .token_seq = st->token_seq,
                               .seq_start = st->seq_start,
                               .kv_len = st->kv_len,
                               .slot = st->slot,
                               .n_prompt = st->n_prompt,
                               .block_table = table};
}

/* New tokens [first, end) of a sequence. */
static inline void step_add(struct step *st, const struct seq *q, int slot, int first, int end)
{
    const int at = st->batch.n_seqs++;
    st->slot[at] = slot;
    st->n_prompt[at] = q->n_prompt;
    st->kv_len[at] = q->kv_len - q->n_new + end;
    for (int i = first; i < end; i++) {
        st->token_seq[st->batch.n_tokens] = at;
        st->positions[st->batch.n_tokens++] = q->kv_len - q->n_new + i;
    }
    st->seq_start[at + 1] = st->batch.n_tokens;
}

/* The blocks of a cache that the sequences of a shape have: [SEQS_MAX][CONTEXT / block_tokens],
 * and what a step says to make the device's table so. */
struct pages {
    const struct shape *s;
    int n_blocks; /* of a layer, some of them nobody's */
    int32_t *table;
    struct batch_block *block;
    int n_table_blocks;
};

static inline struct pages pages_of(const struct shape *s)
{
    const int stride = CONTEXT / s->block_tokens;
    struct pages p = {.s = s};
    int n = 0;
    for (int i = 0; i < s->n_seqs; i++)
        n += (s->seq[i].kv_len + s->block_tokens - 1) / s->block_tokens;
    p.n_blocks = n + 3;
    while (p.n_blocks % 7 == 0)
        p.n_blocks++; /* blocks are 7 apart */
    p.table = take_host((size_t)(SEQS_MAX * stride) * sizeof *p.table);
    p.block = take_host((size_t)n * sizeof *p.block);
    memset(p.table, 0x3f, (size_t)(SEQS_MAX * stride) * sizeof *p.table);
    for (int i = 0; i < s->n_seqs; i++)
        for (int at = 0; at * s->block_tokens < s->seq[i].kv_len; at++) {
            const int32_t id = (p.n_table_blocks * 7 + 5) % p.n_blocks;
            p.table[slot_of(i) * stride + at] = id;
            p.block[p.n_table_blocks++] = (struct batch_block){slot_of(i), at, id};
        }
    return p;
}

static inline void pages_free(struct pages *p)
{
    free(p->table);
    free(p->block);
}

/* Rows of a layer's cache, and that of a key of a sequence. */
static inline size_t pages_rows(const struct pages *p)
{
    return (size_t)(p->n_blocks * p->s->n_kv_heads * p->s->block_tokens);
}

static inline size_t pages_row(const struct pages *p, int slot, int kv_head, int key)
{
    const struct shape *s = p->s;
    const int stride = CONTEXT / s->block_tokens;
    const size_t block = (size_t)p->table[slot * stride + key / s->block_tokens];
    return (block * (size_t)s->n_kv_heads + (size_t)kv_head) * (size_t)s->block_tokens +
           (size_t)(key % s->block_tokens);
}

#endif
