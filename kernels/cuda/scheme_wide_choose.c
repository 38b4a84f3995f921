/* scheme_wide_choose.c - shape to tile; see scheme_wide_choose.h. */
#include "kernels/cuda/scheme_wide_choose.h"

#include <stdint.h>

/* What a tile, plain and gated (0: there is none), and each 128 columns of its k cost an SM, in
 * nanoseconds: INT4, INT8 and NF4, fitted to what the tiles took of 17 to 896 rows of five products
 * on an H200, shared and not, most of it at clocks that the power limit leaves.  At 1024, 2048 and
 * 4096 rows they are held so that the largest is chosen for most, which has the least to move;
 * between and beyond those, what they choose is not measured. */
static const struct tile {
    int weights, rows, plain, gated, step[SCHEME_WIDE_CODES];
} tiles[SCHEME_TILES] = {
    [SCHEME_TILE_64_32] = {64, 32, 1385, 0, {230, 235, 275}},
    [SCHEME_TILE_64_48] = {64, 48, 1255, 0, {250, 280, 300}},
    [SCHEME_TILE_64_64] = {64, 64, 1205, 0, {275, 315, 340}},
    [SCHEME_TILE_64_80] = {64, 80, 1205, 0, {330, 360, 395}},
    [SCHEME_TILE_64_96] = {64, 96, 975, 0, {365, 390, 440}},
    [SCHEME_TILE_64_112] = {64, 112, 1840, 0, {395, 425, 460}},
    [SCHEME_TILE_64_128] = {64, 128, 1690, 0, {435, 430, 505}},
    [SCHEME_TILE_64_160] = {64, 160, 2065, 0, {545, 575, 640}},
    [SCHEME_TILE_128_32] = {128, 32, 350, 0, {370, 390, 715}},
    [SCHEME_TILE_128_48] = {128, 48, 905, 2220, {435, 455, 565}},
    [SCHEME_TILE_128_64] = {128, 64, 665, 2040, {500, 520, 605}},
    [SCHEME_TILE_128_80] = {128, 80, 3105, 3720, {530, 575, 605}},
    [SCHEME_TILE_128_96] = {128, 96, 1930, 3360, {625, 670, 710}},
    [SCHEME_TILE_128_112] = {128, 112, 2200, 3205, {685, 725, 805}},
    [SCHEME_TILE_128_128] = {128, 128, 2765, 4285, {710, 725, 880}},
    [SCHEME_TILE_128_144] = {128, 144, 1795, 4065, {925, 970, 985}},
    [SCHEME_TILE_128_160] = {128, 160, 2955, 4225, {950, 1035, 1045}},
    [SCHEME_TILE_128_176] = {128, 176, 2385, 5395, {1000, 1075, 1085}},
    [SCHEME_TILE_128_192] = {128, 192, 3640, 6100, {1045, 1090, 1210}},
    [SCHEME_TILE_128_224] = {128, 224, 3275, 5485, {1285, 1350, 1365}},
    [SCHEME_TILE_128_256] = {128, 256, 2915, 6375, {1320, 1430, 1555}},
    [SCHEME_TILE_192_64] = {192, 64, 2750, 0, {620, 690, 735}},
    [SCHEME_TILE_192_80] = {192, 80, 2565, 0, {790, 850, 890}},
    [SCHEME_TILE_192_96] = {192, 96, 2760, 0, {850, 900, 995}},
    [SCHEME_TILE_192_112] = {192, 112, 2530, 0, {955, 1040, 1265}},
    [SCHEME_TILE_192_128] = {192, 128, 2305, 0, {1105, 1300, 1290}},
};

enum {
    /* Percent of a step that is saved where a quarter of the SMs or more have no tile, and that is
     * added where all share them. */
    IDLE_SAVES = 8,
    SHARED_ADDS = 5,
    /* Nanoseconds from one SM's last product of a shared tile to the next one's first, and what
     * 1024 sums add. */
    HAND_ON = 1725,
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
