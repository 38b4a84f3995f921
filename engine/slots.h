/* slots.h - what the engine keeps of each sequence, and the batch that a step becomes.
 *
 * A slot holds how far its sequence is in the cache, and its block table.  Its tokens, its samples
 * and how it samples are the device's: the engine never sees a sample before the next step
 * needs it.  slots_apply() takes a checked step: it sets slots, appends the blocks of each row,
 * lays the rows out as one batch, and lists the heads: what to score and to sample.
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
    bool has_sample;    /* the last row sampled: the next may be ROW_TOKEN_SAMPLED */
    uint64_t last_step; /* the step that had a row for it; a second one there is refused */
    int32_t n_cached;
    int32_t n_prompt;
    int32_t n_blocks;
};

struct slots {
    struct step_limits limits;
    int32_t blocks_per_seq;
    struct seq_slot *slot; /* [seqs_max] */
    int32_t *block_table;  /* [seqs_max, blocks_per_seq] by slot */

    /* The batch of the step in hand, rows in the order of the step. */
    int32_t *token_ids, *positions, *token_seq;     /* [step_tokens_max] */
    int32_t *seq_start;                             /* [seqs_max + 1] */
    int32_t *kv_len, *seq_slot, *n_prompt;          /* [seqs_max] */
    struct batch_slot *set;                         /* [seqs_max] */
    struct batch_block *block;                      /* [seqs_max * blocks_per_seq] */
    struct batch_head *head;                        /* [slots_heads_max] */
};

/* Heads of one step: at most one score for each token, and one sample for each row. */
size_t slots_heads_max(const struct step_limits *limits);

bool slots_bytes(const struct step_limits *limits, size_t *n_bytes) MUST_CHECK;
bool slots_init(struct slots *s, const struct step_limits *limits, struct arena *memory) MUST_CHECK;

/* False with CORRUPT when the step contradicts the slots; they are then half changed.  The batch
 * points into the slots and the step.  Heads are in the order of the rows, of each row its scores
 * and then its sample. */
bool slots_apply(struct slots *s, const struct step *step, struct batch *b,
                 struct status *st) MUST_CHECK;

#endif
