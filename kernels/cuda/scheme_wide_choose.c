/* scheme_wide_choose.c - shape to tile; see scheme_wide_choose.h. */
#include "kernels/cuda/scheme_wide_choose.h"

#include <stdint.h>

/* What a tile, plain and gated (0: there is none), and each 128 columns of its k cost an SM, in
 * nanoseconds: INT4, INT8 and NF4, fitted to what every tile took of 17 to 768 rows of five
 * products on an H200 before the power limit takes its clocks.  The largest is 3 % cheaper than
 * that with integers: where it fills its waves the power limit decides, and it has the less to
 * move. */
static const struct tile {
    int weights, rows, plain, gated, step[SCHEME_WIDE_CODES];
} tiles[SCHEME_TILES] = {
    [SCHEME_TILE_64_32] = {64, 32, 1450, 0, {230, 220, 240}},
    [SCHEME_TILE_64_64] = {64, 64, 1800, 0, {255, 262, 300}},
    [SCHEME_TILE_64_128] = {64, 128, 2050, 0, {375, 390, 430}},
    [SCHEME_TILE_64_160] = {64, 160, 2900, 0, {500, 480, 595}},
    [SCHEME_TILE_128_32] = {128, 32, 1550, 0, {332, 320, 650}},
    [SCHEME_TILE_128_64] = {128, 64, 2050, 3250, {425, 430, 520}},
    [SCHEME_TILE_128_128] = {128, 128, 2100, 3650, {680, 695, 825}},
    [SCHEME_TILE_192_64] = {192, 64, 2600, 0, {590, 600, 695}},
    [SCHEME_TILE_192_128] = {192, 128, 3000, 0, {1120, 1110, 1275}},
    [SCHEME_TILE_128_192] = {128, 192, 2250, 5350, {1080, 1110, 1210}},
    [SCHEME_TILE_128_256] = {128, 256, 2900, 6050, {1350, 1375, 1500}},
};

/* Percent of a step that is saved where a quarter of the SMs or more have no tile: 5 to 16 as
 * measured, of tiles of 128 by 64 to 128 by 256. */
enum { IDLE_SAVES = 10 };

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

/* Of a tile in a wave of `busy` SMs. */
static int64_t tile_cost(enum scheme_wide_tile i, const struct scheme_wide_shape *s, int64_t busy)
{
    const struct tile *t = &tiles[i];
    const int64_t step = t->step[s->codes], quarter = divide_up(s->sm_count, 4);
    const int64_t idle = s->sm_count - busy < quarter ? s->sm_count - busy : quarter;
    const int64_t saved = step * IDLE_SAVES * idle / (100 * quarter);
    return (s->gated ? t->gated : t->plain) + divide_up(s->in, 128) * (step - saved);
}

/* Waves, the last of what is left. */
static int64_t waves_cost(enum scheme_wide_tile i, const struct scheme_wide_shape *s, int64_t n)
{
    const int64_t rest = n % s->sm_count;
    return n / s->sm_count * tile_cost(i, s, s->sm_count) + (rest ? tile_cost(i, s, rest) : 0);
}

/* A half costs what a tile of its size does. */
static int64_t tiles_cost(enum scheme_wide_tile i, const struct scheme_wide_shape *s)
{
    const struct tile *t = &tiles[i];
    const int64_t n = s->gated ? 2 * (int64_t)s->n : s->n;
    const int n_tiles = (int)(divide_up(s->rows, t->rows) * divide_up(n, t->weights));
    const int whole = i == SCHEME_TILE_128_256 ? scheme_wide_whole(n_tiles, s->sm_count) : n_tiles;
    return waves_cost(i, s, whole) +
           waves_cost(SCHEME_TILE_128_128, s, 2 * (int64_t)(n_tiles - whole));
}

enum scheme_wide_tile scheme_wide_choose(const struct scheme_wide_shape *s)
{
    enum scheme_wide_tile best = SCHEME_TILE_128_128;
    int64_t best_cost = INT64_MAX;
    for (enum scheme_wide_tile i = 0; i < SCHEME_TILES; i++) {
        if (!scheme_wide_has(i, s->gated))
            continue;
        const int64_t cost = tiles_cost(i, s);
        if (cost < best_cost) {
            best_cost = cost;
            best = i;
        }
    }
    return best;
}
