/* scheme_wide_choose.h - how y of many rows is cut into tiles: a pure function of the shape.
 *
 * A choice changes how fast a product is and never its bits.  Plain C, tested without a GPU.
 * Thread: any. */
#ifndef KERNELS_CUDA_SCHEME_WIDE_CHOOSE_H
#define KERNELS_CUDA_SCHEME_WIDE_CHOOSE_H

#include <stdbool.h>

#include "kernels/cuda/scheme_wide_plan.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Rows of the weights by rows of x: the smaller, the more blocks.  A gated product, half of whose
 * weights' rows are the gate's and half up's, has two of them. */
enum scheme_wide_tile {
    SCHEME_TILE_64_32,
    SCHEME_TILE_64_64,
    SCHEME_TILE_64_96,
    SCHEME_TILE_64_128,
    SCHEME_TILE_64_160,
    SCHEME_TILE_128_32,
    SCHEME_TILE_128_64,
    SCHEME_TILE_128_128,
    SCHEME_TILE_192_64,
    SCHEME_TILE_192_96,
    SCHEME_TILE_192_128,
    SCHEME_TILE_128_160,
    SCHEME_TILE_128_192,
    SCHEME_TILE_128_256,
    SCHEME_TILES
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

enum scheme_wide_tile scheme_wide_choose(const struct scheme_wide_shape *);

/* Tiles are shared where that is quicker. */
struct scheme_wide_plan scheme_wide_plan_of(enum scheme_wide_tile,
                                            const struct scheme_wide_shape *);

#ifdef __cplusplus
}
#endif

#endif
