/* scheme_wide_choose.c - shape to tile; see scheme_wide_choose.h. */
#include "kernels/cuda/scheme_wide_choose.h"

#include <stdint.h>

/* What a tile and each 128 columns of its k cost an SM, in nanoseconds, as measured on an H100. */
static const struct tile {
    int weights, rows, tile, step;
} tiles[SCHEME_TILES] = {
    [SCHEME_TILE_128_32] = {128, 32, 700, 416},
    [SCHEME_TILE_128_64] = {128, 64, 1200, 494},
    [SCHEME_TILE_128_128] = {128, 128, 1400, 730},
    [SCHEME_TILE_256_128] = {256, 128, 3300, 1433},
};

static int64_t divide_up(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

enum scheme_wide_tile scheme_wide_choose(int rows, int n, int in, bool gated, int sm_count)
{
    enum scheme_wide_tile best = SCHEME_TILE_256_128;
    int64_t best_cost = INT64_MAX;
    for (int i = gated ? SCHEME_TILE_256_128 : 0; i < SCHEME_TILES; i++) {
        const int64_t n_tiles = divide_up(rows, tiles[i].rows) *
                                divide_up(gated ? 2 * (int64_t)n : n, tiles[i].weights);
        const int64_t one = tiles[i].tile + divide_up(in, 128) * tiles[i].step;
        const int64_t cost = divide_up(n_tiles, sm_count) * one;
        if (cost < best_cost) {
            best_cost = cost;
            best = (enum scheme_wide_tile)i;
        }
    }
    return best;
}
