/* scheme_wide_choose.c - shape to tile; see scheme_wide_choose.h. */
#include "kernels/cuda/scheme_wide_choose.h"

#include <stdint.h>

/* What a tile, plain and gated (0: there is none), and each 128 columns of its k cost an SM, in
 * nanoseconds: INT4, INT8 and NF4, fitted to what every tile took of 17 to 3072 rows of five
 * products on an H200, shared and not, in turns before the power limit takes its clocks.  The
 * largest is held cheaper than that from 1024 rows on and where it is gated, as it is the best of
 * them at clocks that last: it has the least to move. */
static const struct tile {
    int weights, rows, plain, gated, step[SCHEME_WIDE_CODES];
} tiles[SCHEME_TILES] = {
    [SCHEME_TILE_64_32] = {64, 32, 1485, 0, {225, 235, 275}},
    [SCHEME_TILE_64_64] = {64, 64, 1355, 0, {270, 275, 320}},
    [SCHEME_TILE_64_96] = {64, 96, 1800, 0, {335, 345, 395}},
    [SCHEME_TILE_64_128] = {64, 128, 1780, 0, {405, 410, 480}},
    [SCHEME_TILE_64_160] = {64, 160, 1865, 0, {515, 535, 620}},
    [SCHEME_TILE_128_32] = {128, 32, 1065, 0, {335, 340, 685}},
    [SCHEME_TILE_128_64] = {128, 64, 1640, 3045, {460, 445, 555}},
    [SCHEME_TILE_128_128] = {128, 128, 2345, 4065, {690, 695, 795}},
    [SCHEME_TILE_192_64] = {192, 64, 2500, 0, {600, 600, 695}},
    [SCHEME_TILE_192_96] = {192, 96, 2115, 0, {850, 875, 1090}},
    [SCHEME_TILE_192_128] = {192, 128, 2345, 0, {1120, 1145, 1230}},
    [SCHEME_TILE_128_160] = {128, 160, 2230, 4840, {950, 950, 1000}},
    [SCHEME_TILE_128_192] = {128, 192, 2500, 5340, {1050, 1075, 1160}},
    [SCHEME_TILE_128_256] = {128, 256, 2870, 5500, {1260, 1390, 1400}},
};

enum {
    /* Percent of a step that is saved where a quarter of the SMs or more have no tile, and that is
     * added where all share them. */
    IDLE_SAVES = 8,
    SHARED_ADDS = 5,
    /* Nanoseconds from one SM's last product of a shared tile to the next one's first, and what
     * 1024 sums add. */
    HAND_ON = 1700,
    HAND_ON_SUMS = 60,
};

static int64_t divide_up(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

bool scheme_wide_has(enum scheme_wide_tile tile, bool gated)
{
    return (gated ? tiles[tile].gated : tiles[tile].plain) > 0;
}

static int64_t end_cost(enum scheme_wide_tile i, const struct scheme_wide_shape *s)
{
    return s->gated ? tiles[i].gated : tiles[i].plain;
}

/* Of a tile in a wave of `busy` SMs. */
static int64_t tile_cost(enum scheme_wide_tile i, const struct scheme_wide_shape *s, int64_t busy)
{
    const struct tile *t = &tiles[i];
    const int64_t step = t->step[s->codes], quarter = divide_up(s->sm_count, 4);
    const int64_t idle = s->sm_count - busy < quarter ? s->sm_count - busy : quarter;
    const int64_t saved = step * IDLE_SAVES * idle / (100 * quarter);
    return end_cost(i, s) + divide_up(s->in, 128) * (step - saved);
}

/* Waves of so many blocks, the last of what is left. */
static int64_t waves_cost(enum scheme_wide_tile i, const struct scheme_wide_shape *s, int64_t n,
                          int blocks)
{
    const int64_t rest = n % blocks;
    return n / blocks * tile_cost(i, s, blocks) + (rest ? tile_cost(i, s, rest) : 0);
}

/* Of n tiles that all blocks share: each ends two at most, gives sums and takes others. */
static int64_t shared_cost(enum scheme_wide_tile i, const struct scheme_wide_shape *s, int64_t n,
                           int blocks)
{
    const struct tile *t = &tiles[i];
    const int64_t handed = HAND_ON + HAND_ON_SUMS * t->weights * t->rows / 1024;
    return 2 * end_cost(i, s) + handed +
           divide_up(n * divide_up(s->in, 128), blocks) * t->step[s->codes] * (100 + SHARED_ADDS) /
               100;
}

static int64_t plan_cost(enum scheme_wide_tile i, const struct scheme_wide_shape *s,
                         const struct scheme_wide_plan *p)
{
    return waves_cost(i, s, p->whole, p->blocks) +
           (p->whole < p->tiles ? shared_cost(i, s, p->tiles - p->whole, p->blocks) : 0);
}

struct scheme_wide_plan scheme_wide_plan_of(enum scheme_wide_tile i,
                                            const struct scheme_wide_shape *s)
{
    const int64_t n = s->gated ? 2 * (int64_t)s->n : s->n;
    const int all = (int)(divide_up(s->rows, tiles[i].rows) * divide_up(n, tiles[i].weights));
    const int blocks = s->sm_count, line = all % blocks + blocks;
    const struct scheme_wide_plan alone = {all, all < blocks ? all : blocks, all};
    if (all <= blocks || all % blocks == 0)
        return alone;
    const struct scheme_wide_plan shares = {all, blocks, all - line};
    return plan_cost(i, s, &shares) < plan_cost(i, s, &alone) ? shares : alone;
}

enum scheme_wide_tile scheme_wide_choose(const struct scheme_wide_shape *s)
{
    enum scheme_wide_tile best = SCHEME_TILE_128_128;
    int64_t best_cost = INT64_MAX;
    for (enum scheme_wide_tile i = 0; i < SCHEME_TILES; i++) {
        if (!scheme_wide_has(i, s->gated))
            continue;
        const struct scheme_wide_plan plan = scheme_wide_plan_of(i, s);
        const int64_t cost = plan_cost(i, s, &plan);
        if (cost < best_cost) {
            best_cost = cost;
            best = i;
        }
    }
    return best;
}
