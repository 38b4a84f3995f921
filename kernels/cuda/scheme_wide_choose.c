/* scheme_wide_choose.c - shape to tile; see scheme_wide_choose.h. */
#include "kernels/cuda/scheme_wide_choose.h"

#include <stdint.h>

/* What a tile, plain and gated (0: there is none), and each 128 columns of its k cost an SM, of
 * integers and of a codebook, in nanoseconds: INT4 and NF4 as measured on an H200 at its own
 * clocks, k 4096 and 14336, a wave or less; gated, by the cycles that its end took longer on an
 * H100.  INT8, which takes 2 to 13 % longer than INT4, has the same best tiles or tiles within 2 %
 * of them. */
static const struct tile {
    int weights, rows, plain, gated, step[2];
    bool turns;
} tiles[SCHEME_TILES] = {
    [SCHEME_TILE_64_32] = {64, 32, 2000, 0, {262, 254}, true},
    [SCHEME_TILE_64_64] = {64, 64, 3400, 0, {292, 326}, true},
    [SCHEME_TILE_128_32] = {128, 32, 2700, 0, {355, 609}},
    [SCHEME_TILE_128_64] = {128, 64, 2000, 0, {455, 512}},
    [SCHEME_TILE_128_128] = {128, 128, 2500, 2700, {700, 832}},
    [SCHEME_TILE_192_64] = {192, 64, 2800, 0, {640, 683}},
    [SCHEME_TILE_192_128] = {192, 128, 2500, 0, {1060, 1157}},
    [SCHEME_TILE_128_256] = {128, 256, 2800, 3100, {1290, 1390}},
};

static int64_t divide_up(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

bool scheme_wide_has(enum scheme_wide_tile tile, bool gated)
{
    return (gated ? tiles[tile].gated : tiles[tile].plain) > 0;
}

bool scheme_wide_takes_turns(enum scheme_wide_tile tile)
{
    return tiles[tile].turns;
}

bool scheme_wide_has_turns(int in)
{
    return divide_up(in, SCHEME_TURN_COLUMNS) >= SCHEME_WAYS;
}

int scheme_wide_whole(int n_tiles, int sm_count)
{
    const int rest = n_tiles % sm_count;
    return n_tiles > sm_count && 2 * rest <= sm_count ? n_tiles - rest : n_tiles;
}

static int64_t tile_cost(enum scheme_wide_tile i, const struct scheme_wide_shape *s)
{
    const struct tile *t = &tiles[i];
    return (s->gated ? t->gated : t->plain) + divide_up(s->in, 128) * t->step[s->has_book];
}

/* Waves; a half costs what a tile of its size does. */
static int64_t tiles_cost(enum scheme_wide_tile i, const struct scheme_wide_shape *s)
{
    const struct tile *t = &tiles[i];
    const int64_t n = s->gated ? 2 * (int64_t)s->n : s->n;
    const int n_tiles = (int)(divide_up(s->rows, t->rows) * divide_up(n, t->weights));
    const int whole = i == SCHEME_TILE_128_256 ? scheme_wide_whole(n_tiles, s->sm_count) : n_tiles;
    const int64_t cost = divide_up(whole, s->sm_count) * tile_cost(i, s);
    return whole == n_tiles ? cost : cost + tile_cost(SCHEME_TILE_128_128, s);
}

enum scheme_wide_tile scheme_wide_choose(const struct scheme_wide_shape *s)
{
    enum scheme_wide_tile best = SCHEME_TILE_128_128;
    int64_t best_cost = INT64_MAX;
    for (enum scheme_wide_tile i = 0; i < SCHEME_TILES; i++) {
        if (!scheme_wide_has(i, s->gated) ||
            (tiles[i].turns && !(s->one_chain && scheme_wide_has_turns(s->in))))
            continue;
        const int64_t cost = tiles_cost(i, s);
        if (cost < best_cost) {
            best_cost = cost;
            best = i;
        }
    }
    return best;
}
