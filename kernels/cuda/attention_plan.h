/* attention_plan.h - the work lists of attention, made once a step and used by every layer.
 *
 * Prompt tokens are cut into tiles of consecutive queries of one sequence; each generated token
 * is cut into splits of ATTENTION_SPLIT keys at fixed positions.  Which list a token is in
 * depends on its position alone (below n_prompt or not), and a split's or a key tile's borders
 * are multiples of fixed sizes, so a token's bits never depend on the batch.
 *
 * A token with one split writes its output; one with more writes a partial (running maximum, sum,
 * weighted values) for each, which are merged in order of position.  Partials live in a workspace
 * of a fixed number; a step that needs more runs in waves.
 *
 * Plain C, pure, tested without a GPU.
 * Thread: the device's. */
#ifndef KERNELS_CUDA_ATTENTION_PLAN_H
#define KERNELS_CUDA_ATTENTION_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    ATTENTION_TILE = 128,  /* queries of a tile */
    ATTENTION_SPLIT = 512, /* keys of a split */
    ATTENTION_PARTIALS_MAX = 16384,
    ATTENTION_WAVES_MAX = 64,
};

struct attention_tile { /* prompt tokens [first_token, first_token + n_tokens) of the batch */
    int32_t slot;
    int32_t first_token, n_tokens;
    int32_t position; /* of the first */
    int32_t kv_len;   /* of the sequence: what a bidirectional token sees */
};

struct attention_split { /* keys [first_key, end_key) for one token */
    int32_t slot;
    int32_t token; /* of the batch */
    int32_t first_key, end_key;
    int32_t kv_len;   /* = position + 1: keys the token sees in all */
    int32_t partial;  /* where this split's partial goes; -1 <=> the token has one split */
    int32_t first_partial, n_splits; /* of the token */
    int32_t merge;    /* counter of the token, zero between launches: the last split merges */
};

struct attention_wave { /* splits [first_split, end_split): one launch */
    int32_t first_split, end_split;
};

struct attention_counts { /* first in the buffer that goes to the device */
    int32_t n_tiles, n_splits, n_waves;
    struct attention_wave wave[ATTENTION_WAVES_MAX];
};

struct attention_plan { /* views of one buffer, host or device */
    struct attention_counts *counts;
    struct attention_tile *tile;   /* [tiles_max], those with most keys to see first */
    struct attention_split *split; /* [splits_max], a wave after the other */
};

/* Bytes of the buffer; it is copied to the device as it is.  And of the partials' workspace:
 * ATTENTION_PARTIALS_MAX or as many as the limits can need, each n_heads * (head_dim + 2) f32,
 * then the merge counters. */
size_t attention_plan_bytes(const struct device_limits *l);
int32_t attention_partials_max(const struct device_limits *l);
int32_t attention_merges_max(const struct device_limits *l);
/* Lay the views over a buffer. */
void attention_plan_view(struct attention_plan *p, const struct device_limits *l, void *at);
/* Fill it for a batch.  Returns the bytes in use, which is what must be copied. */
size_t attention_plan_make(struct attention_plan *p, const struct device_limits *l, const struct batch *b);

#ifdef __cplusplus
}
#endif

#endif
