/* slots.h - what the engine keeps of each sequence, and how a step changes it.
 *
 * A slot holds the tokens of its sequence, how many of them are in the cache, its block
 * table, and how it samples.  slots_apply() takes a checked step: it sets slots, appends
 * the tokens and blocks of each row, and lays the rows out as one batch.
 *
 *     history   t0 t1 t2 ... t(n_cached - 1) | sampled
 *               in the cache after this step | what the next ROW_TOKEN_SAMPLED takes
 *
 * A row that names a token where a sample waits puts its own in the sample's place.
 *
 * Thread: one. */
#ifndef ENGINE_SLOTS_H
#define ENGINE_SLOTS_H

#include "base/status.h"
#include "engine/step.h"
#include "kernels/ops.h"

struct arena;

struct seq_slot {
    bool set;
    bool has_sample;    /* history[n_cached] is the last sample, not yet in the cache */
    uint64_t last_step; /* the step that had a row for it; a second one there is refused */
    int32_t n_cached;
    int32_t n_prompt;
    int32_t n_blocks;
    int32_t n_bias;
    int32_t *history;         /* [context_max + 1] */
    int32_t *block;           /* [blocks_per_seq] */
    struct sample_bias *bias; /* [STEP_BIAS_MAX] */
    struct sample_params params;
};

struct slots {
    struct step_limits limits;
    int32_t blocks_per_seq;
    struct seq_slot *slot; /* [seqs_max] */

    /* The batch of the step in hand, rows in the order of the step. */
    int32_t *token_ids, *positions, *token_seq; /* [step_tokens_max] */
    int32_t *seq_start;                         /* [seqs_max + 1] */
    int32_t *kv_len;                            /* [seqs_max] */
    int32_t *block_table;                       /* [seqs_max, blocks_per_seq] */
};

bool slots_bytes(const struct step_limits *limits, size_t *n_bytes) MUST_CHECK;
bool slots_init(struct slots *s, const struct step_limits *limits, struct arena *memory) MUST_CHECK;

/* False with CORRUPT when the step contradicts the slots; they are then half changed. */
bool slots_apply(struct slots *s, const struct step *step, struct batch *b,
                 struct status *st) MUST_CHECK;
void slots_put_sample(struct slots *s, int32_t slot, int32_t id);

#endif
