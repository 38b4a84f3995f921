/* scheme_wide_choose.c - shape to tile; see scheme_wide_choose.h. */
#include "kernels/cuda/scheme_wide_choose.h"

#include <stdint.h>

/* What a tile, plain and gated (0: there is none), and each 128 columns of its k cost an SM, of
 * integers and of a codebook, in nanoseconds, as measured on an H200 at its own clocks; gated, by
 * cycles on an H100; a codebook's by what they take beside INT4's on an H100. */
static const struct tile {
    int weights, rows, plain, gated, step[2];
} tiles[SCHEME_TILES] = {
    [SCHEME_TILE_128_32] = {128, 32, 700, 0, {428, 627}},
    [SCHEME_TILE_128_64] = {128, 64, 1200, 0, {530, 742}},
    [SCHEME_TILE_128_128] = {128, 128, 1400, 1600, {706, 857}},
    [SCHEME_TILE_192_128] = {192, 128, 1500, 0, {1050, 1179}},
    [SCHEME_TILE_128_256] = {128, 256, 2500, 2800, {1300, 1376}},
};

static int64_t divide_up(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

bool scheme_wide_has(enum scheme_wide_tile tile, bool gated)
{
    return (gated ? tiles[tile].gated : tiles[tile].plain) > 0;
}

int scheme_wide_whole(int n_tiles, int sm_count)
{
    const int rest = n_tiles % sm_count;
    return n_tiles > sm_count && 2 * rest <= sm_count ? n_tiles - rest : n_tiles;
}

static int64_t tile_cost(enum scheme_wide_tile i, int in, bool gated, bool has_book)
{
    const struct tile *t = &tiles[i];
    return (gated ? t->gated : t->plain) + divide_up(in, 128) * t->step[has_book];
}

enum scheme_wide_tile scheme_wide_choose(int rows, int n, int in, bool gated, bool has_book,
                                         int sm_count)
{
    enum scheme_wide_tile best = SCHEME_TILE_128_128;
    int64_t best_cost = INT64_MAX;
    for (enum scheme_wide_tile i = 0; i < SCHEME_TILES; i++) {
        if (!scheme_wide_has(i, gated))
            continue;
        const int n_tiles = (int)(divide_up(rows, tiles[i].rows) *
                                  divide_up(gated ? 2 * (int64_t)n : n, tiles[i].weights));
        const int whole = i == SCHEME_TILE_128_256 ? scheme_wide_whole(n_tiles, sm_count) : n_tiles;
        int64_t cost = divide_up(whole, sm_count) * tile_cost(i, in, gated, has_book);
        if (whole < n_tiles) /* a half costs what a tile of its size does */
            cost += tile_cost(SCHEME_TILE_128_128, in, gated, has_book);
        if (cost < best_cost) {
            best_cost = cost;
            best = i;
        }
    }
    return best;
}
