/* block_choose.h - how a product with weights of a block format of GGUF is cut: pure, of the shape.
 *
 * Few rows: a block gets a contiguous run of units (scheme_layout.h; of a gated pair, a unit of
 * each), `units` of them at a time, a warp each, which walk k together.  `span` tiles of each
 * travel together through a ring of `stages`: a stage is a meeting of the warps and of the one that
 * feeds them, which takes some hundred clocks, so a stage of few units has more tiles.
 *
 * More rows: y in tiles.  A small one is 64 rows of the weights (gated, 32 of each) by 64 or 128 of
 * x; a large one 256 (gated, 128 of each) by 128.
 *
 * A choice changes how fast a product is and never its bits.  Plain C, tested without a GPU.
 * Thread: any. */
#ifndef KERNELS_CUDA_BLOCK_CHOOSE_H
#define KERNELS_CUDA_BLOCK_CHOOSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    BLOCK_ROWS_MAX = 16,
    BLOCK_NORM_ROWS_MAX = 1, /* with more, a norm kernel costs less than a norm in every block */
    BLOCK_WARPS = 8,
    BLOCK_STAGES_MAX = 32,
    BLOCK_SPAN_MAX = 8,
    BLOCK_STAGE_BYTES = 16 * 1024,  /* a stage takes tiles up to here, and one at least */
    BLOCK_SHARED_MAX = 150 * 1024,  /* a block has an SM to itself (scheme_choose.h) */
    BLOCK_RESIDENT_MAX = 32 * 1024, /* x stays whole in shared memory up to here */
};

struct block_shape {
    int rows, in, n; /* n: columns of y */
    bool has_norm, gated;
    uint32_t tile_bytes;
    int sm_count;
};

struct block_choice {
    bool fuse_norm; /* else a norm kernel runs before */
    bool resident;  /* x lies whole in shared memory; else its columns travel with the tiles */
    int row_groups; /* of 8 rows: 1 or 2 */
    int n_units, grid, units, passes, span, stages;
    uint32_t x_box;   /* bytes of x's 64 columns, rows to whole groups */
    uint32_t w_bytes; /* of a stage's units; up's lie behind them */
    uint32_t x_at;    /* in a stage */
    uint32_t stage_bytes, x_bytes;
    size_t shared_bytes;
};

void block_choose(struct block_choice *c, const struct block_shape *s);

enum block_tile_kind { BLOCK_TILE_64_64, BLOCK_TILE_64_128, BLOCK_TILE_256_128 };

enum block_tile_kind block_choose_tile(int rows, int n, int in, bool gated, int sm_count);

#ifdef __cplusplus
}
#endif

#endif
