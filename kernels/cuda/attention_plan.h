/* attention_plan.h - the work lists of attention, made once a step and used by every layer.
 *
 * Prompt tokens are cut into tiles of consecutive queries of one sequence; keys of each generated
 * token are summed by splits, at multiples of a size, these in order by runs of 2048 keys, and runs
 * in order.  Which list a token is in, and the size of its splits, depend on its position and the
 * model alone.  Whether its items are splits or whole runs depends on the batch, but not what is
 * summed in which order; so a token's bits never depend on the batch.
 *
 * A token with one item writes its output; one with more writes a partial (running maximum, sum,
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
    ATTENTION_TILE = 128,          /* queries of a tile */
    ATTENTION_SPLIT_MIN = 256,     /* keys of a split: enough to hide what its end costs */
    ATTENTION_SPLIT_MAX = 1024,    /* and few enough that the last one to run is short */
    ATTENTION_RUN = 2048,          /* keys of a run: its splits are summed in order, then runs */
    ATTENTION_TASK_HEADS = 16,     /* query heads of a kv head that a block takes together */
    ATTENTION_RUNS_HEAD_DIM = 128, /* wider heads leave registers for runs ... */
    ATTENTION_RUNS_HEADS = 8,      /* if a kv head has no more than these */
    ATTENTION_PLACES = 256, /* blocks that a GPU runs at once, about; a token's splits times kv
                               heads stay below, while splits can grow: few to merge */
    ATTENTION_PARTIALS_MAX = 16384,
    ATTENTION_WAVES_MAX = 256,
};

struct attention_tile { /* prompt tokens [first_token, first_token + n_tokens) of the batch */
    int32_t slot;
    int32_t first_token, n_tokens;
    int32_t position; /* of the first */
    int32_t
        prompt_len; /* of the sequence, as far as it is cached: what a bidirectional token sees */
};

struct attention_item { /* keys [first_key, end_key) for one token: a split, or a run of them */
    int32_t slot;
    int32_t token; /* of the batch */
    int32_t first_key, end_key;
    int32_t kv_len;   /* = position + 1: keys the token sees in all */
    int32_t old_keys; /* of the sequence, in the cache before this step */
    int32_t size;     /* keys of the token's splits, but for the last */
    int32_t partial;  /* where this item's partial goes; -1 <=> the token has one item */
    int32_t first_partial;
    int32_t n_items; /* of the token: splits, or runs, which are fewer than kv_len / size */
    int32_t merge;   /* counters of the token, zero between launches: the last item merges */
};

struct attention_wave { /* items [first_item, end_item): one launch */
    int32_t first_item, end_item;
};

struct attention_counts { /* first in the buffer that goes to the device */
    int32_t n_tiles, n_items, n_waves;
    struct attention_wave wave[ATTENTION_WAVES_MAX];
};

struct attention_plan { /* views of one buffer, host or device, and what stays on the host */
    struct attention_counts *counts;
    struct attention_tile *tile; /* [tiles_max], those with most keys to see first */
    struct attention_item *item; /* [items_max], a wave after the other, longest first */
    bool has_runs; /* items may be runs, which chooses a kernel: by the model and the batch's number
                      of tokens alone */
};

/* Keys of the splits of a token that sees kv_len. */
int32_t attention_split_size(int32_t kv_len, int32_t n_kv_heads);
int32_t attention_items_max(const struct device_limits *l);

/* Bytes of the buffer; it is copied to the device as it is. */
size_t attention_plan_bytes(const struct device_limits *l);
/* Partials of the workspace, each n_heads * (head_dim + 2) f32: those of seqs_max full sequences
 * (up to ATTENTION_PARTIALS_MAX), so that a decode step is one wave, and enough that a step of
 * nothing but generated tokens has ATTENTION_WAVES_MAX at most. */
int32_t attention_partials_max(const struct device_limits *l);
/* Counters that are zero between launches: ATTENTION_QUEUE of the work list, then n_heads for each
 * token that can merge in a wave. */
enum { ATTENTION_QUEUE = 2 };
int32_t attention_merges_max(const struct device_limits *l);
/* Lay the views over a buffer. */
void attention_plan_view(struct attention_plan *p, const struct device_limits *l, void *at);
/* Fill it for a batch.  Returns the bytes in use, which is what must be copied. */
size_t attention_plan_make(struct attention_plan *p, const struct device_limits *l,
                           const struct batch *b);

#ifdef __cplusplus
}
#endif

#endif
