/* choose_act8.h - how a product of 8-bit activations of few rows is cut: a pure function of the
 * shape.
 *
 * A block gets a contiguous run of units (8 columns of y), `units` of them at a time, which walk k
 * together in chunks of 128; one warpgroup multiplies them with 64 rows of codes, of which
 * rows_tile are there.  A stage of the ring holds `span` chunks of the rows, then of the units.
 *
 * Plain C, tested without a GPU.  Thread: any. */
#ifndef KERNELS_CUDA_CHOOSE_ACT8_H
#define KERNELS_CUDA_CHOOSE_ACT8_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/cuda/act8_layout.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    ACT8_SKINNY_ROWS_MAX = 32, /* with more, the tiles of the wide kernel are faster */
    ACT8_STAGES_MAX = 32,
    ACT8_SPAN_MAX = 4,
    ACT8_STAGE_BYTES = 24 * 1024, /* a stage takes chunks up to here */
    ACT8_SHARED_MAX = 150 * 1024, /* a block has an SM to itself (scheme_choose.h) */
    ACT8_LIST_MAX = 1024,
};

struct act8_shape {
    int rows, planes; /* planes: of codes, 1 or 2 */
    int in, n;        /* n: columns of y */
    bool gated;
    int sm_count;
};

struct act8_choice {
    int rows_tile; /* 8, 16 or 32 for each plane */
    int columns;   /* of a wgmma: 32, 64 or 128 >= 8 * units * (1 or 2) */
    int n_units, grid, units, stages, span;
    size_t stage_bytes, sums_bytes, shared_bytes;
};

void act8_choose(struct act8_choice *c, const struct act8_shape *s);

/* A product of many rows lists columns with high bytes up to here; with more of them all columns
 * meet high bytes.  A group of 32 is fetched and multiplied in the time of four chunks of w or
 * less. */
int act8_listed_max(int in);

#ifdef __cplusplus
}
#endif

#endif
