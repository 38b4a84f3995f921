/* scheme_wide_choose.h - how y of many rows is cut into tiles: a pure function of the shape.
 *
 * A choice changes how fast a product is and never its bits.  Plain C, tested without a GPU.
 * Thread: any. */
#ifndef KERNELS_CUDA_SCHEME_WIDE_CHOOSE_H
#define KERNELS_CUDA_SCHEME_WIDE_CHOOSE_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/cuda/scheme_wide_plan.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Rows of the weights by rows of x: the smaller, the more blocks.  A gated product, half of whose
 * weights' rows are the gate's and half up's, has those of 128 from 48 rows of x on. */
/* clang-format off */
#define SCHEME_WIDE_GATED_TILES(OF)                                                                \
    OF(128, 48) OF(128, 64) OF(128, 80) OF(128, 96) OF(128, 112) OF(128, 128)                      \
    OF(128, 144) OF(128, 160) OF(128, 176) OF(128, 192) OF(128, 224) OF(128, 256)
#define SCHEME_WIDE_TILES(OF)                                                                      \
    OF(64, 32) OF(64, 48) OF(64, 64) OF(64, 80) OF(64, 96) OF(64, 112) OF(64, 128) OF(64, 144)     \
    OF(64, 160) OF(64, 176) OF(128, 32) SCHEME_WIDE_GATED_TILES(OF)                                \
    OF(192, 64) OF(192, 80) OF(192, 96) OF(192, 112) OF(192, 128)
/* clang-format on */

enum scheme_wide_tile {
#define SCHEME_WIDE_NAME(WEIGHTS, ROWS) SCHEME_TILE_##WEIGHTS##_##ROWS,
    SCHEME_WIDE_TILES(SCHEME_WIDE_NAME) SCHEME_TILES
#undef SCHEME_WIDE_NAME
};

bool scheme_wide_has(enum scheme_wide_tile tile, bool gated);

/* What a tile's codes cost: of 4 or 8 bits, or looked up, for which small tiles have less time. */
enum scheme_wide_codes {
    SCHEME_WIDE_4_BITS,
    SCHEME_WIDE_8_BITS,
    SCHEME_WIDE_BOOK,
    SCHEME_WIDE_CODES
};

struct scheme_wide_shape {
    int rows, n, in; /* of x; of the weights: rows, each of gate and up; columns */
    bool gated;
    enum scheme_wide_codes codes;
    int sm_count;
};

/* How y is cut. */
struct scheme_wide_cut {
    enum scheme_wide_tile tile;
    int cluster; /* blocks that have tiles side by side: 1 or, on two SMs at least, 2 */
};

struct scheme_wide_cut scheme_wide_choose(const struct scheme_wide_shape *);

/* Nanoseconds that a cut is thought to take, by which one is chosen: what a benchmark compares. */
int64_t scheme_wide_cost(struct scheme_wide_cut, const struct scheme_wide_shape *);

/* Tiles are shared where that is quicker. */
struct scheme_wide_plan scheme_wide_plan_of(struct scheme_wide_cut,
                                            const struct scheme_wide_shape *);

#ifdef __cplusplus
}
#endif

#endif
