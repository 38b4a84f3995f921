/* scheme_wide_choose.c - shape to tile; see scheme_wide_choose.h. */
#include "kernels/cuda/scheme_wide_choose.h"

/* What a tile, plain and gated (0: there is none), and each 128 columns of its k cost an SM, in
 * nanoseconds: INT4, INT8 and NF4, fitted to what the tiles took of 17 to 896 rows of five products
 * on an H200, shared and not, most of it at clocks that the power limit leaves; and again to what
 * a product's likeliest cuts took beside each other, of 144 to 1024 rows, at those clocks.  Tiles
 * of few rows are held near what they were.  Of 2048 and 4096 rows the largest is chosen, which has
 * the least to move; what else is chosen of more than 1024 is not measured. */
static const struct tile {
    int weights, rows, plain, gated, step[SCHEME_WIDE_CODES];
} tiles[SCHEME_TILES] = {
    [SCHEME_TILE_64_32] = {64, 32, 1385, 0, {230, 235, 275}},
    [SCHEME_TILE_64_48] = {64, 48, 1255, 0, {250, 280, 300}},
    [SCHEME_TILE_64_64] = {64, 64, 1205, 0, {275, 315, 340}},
    [SCHEME_TILE_64_80] = {64, 80, 1190, 0, {335, 380, 415}},
    [SCHEME_TILE_64_96] = {64, 96, 930, 0, {370, 410, 455}},
    [SCHEME_TILE_64_112] = {64, 112, 1140, 0, {400, 435, 490}},
    [SCHEME_TILE_64_128] = {64, 128, 1035, 0, {445, 465, 520}},
    [SCHEME_TILE_64_144] = {64, 144, 2335, 0, {495, 510, 555}},
    [SCHEME_TILE_64_160] = {64, 160, 1980, 0, {535, 555, 625}},
    [SCHEME_TILE_64_176] = {64, 176, 2475, 0, {585, 600, 650}},
    [SCHEME_TILE_128_32] = {128, 32, 350, 0, {370, 390, 715}},
    [SCHEME_TILE_128_48] = {128, 48, 905, 2220, {435, 455, 580}},
    [SCHEME_TILE_128_64] = {128, 64, 665, 2040, {500, 530, 605}},
    [SCHEME_TILE_128_80] = {128, 80, 2600, 3585, {565, 590, 685}},
    [SCHEME_TILE_128_96] = {128, 96, 1750, 2850, {630, 680, 735}},
    [SCHEME_TILE_128_112] = {128, 112, 1990, 3320, {690, 720, 810}},
    [SCHEME_TILE_128_128] = {128, 128, 2015, 4100, {745, 770, 865}},
    [SCHEME_TILE_128_144] = {128, 144, 2085, 4700, {895, 940, 960}},
    [SCHEME_TILE_128_160] = {128, 160, 1765, 5205, {920, 995, 1085}},
    [SCHEME_TILE_128_176] = {128, 176, 1585, 4595, {1050, 1045, 1150}},
    [SCHEME_TILE_128_192] = {128, 192, 1760, 5265, {1100, 1170, 1250}},
    [SCHEME_TILE_128_224] = {128, 224, 2585, 6615, {1225, 1260, 1385}},
    [SCHEME_TILE_128_256] = {128, 256, 2210, 6000, {1375, 1450, 1575}},
    [SCHEME_TILE_192_64] = {192, 64, 2750, 0, {630, 705, 735}},
    [SCHEME_TILE_192_80] = {192, 80, 2795, 0, {785, 840, 950}},
    [SCHEME_TILE_192_96] = {192, 96, 2610, 0, {840, 910, 1040}},
    [SCHEME_TILE_192_112] = {192, 112, 1795, 0, {955, 995, 1265}},
    [SCHEME_TILE_192_128] = {192, 128, 1760, 0, {1070, 1160, 1265}},
};

enum {
    /* Percent of a step that is saved where a quarter of the SMs or more have no tile, and that is
     * added where all share them. */
    IDLE_SAVES = 8,
    SHARED_ADDS = 6,
    /* Nanoseconds that two blocks of a cluster take to begin; to so many rows of x, where weights
     * are most of what is brought, they are slower (65 rows of 4096 x 14336, INT4: 9 %), or gated
     * not measured. */
    PAIR_ADDS = 600,
    ALONE_ROWS_MAX = 96,
    ALONE_ROWS_MAX_GATED = 64,
    /* Nanoseconds from one SM's last product of a shared tile to the next one's first, and what
     * 1024 sums add. */
    HAND_ON = 1725,
    HAND_ON_SUMS = 60,
};

/* Percent of a step that is saved where x comes for two blocks at once: fitted with the costs. */
static const struct pair {
    int few, many, gated; /* in tiles of up to 128 rows of x; of more; gated, in all */
} pair_saves[SCHEME_WIDE_CODES] = {{3, 2, 4}, {2, 2, 2}, {3, 1, 2}};

static int64_t divide_up(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

bool scheme_wide_has(enum scheme_wide_tile tile, bool gated)
{
    return (gated ? tiles[tile].gated : tiles[tile].plain) > 0;
}

static int64_t end_cost(struct scheme_wide_cut c, const struct scheme_wide_shape *s)
{
    return s->gated ? tiles[c.tile].gated : tiles[c.tile].plain;
}

/* Of 128 columns. */
static int64_t step_cost(struct scheme_wide_cut c, const struct scheme_wide_shape *s)
{
    const struct tile *t = &tiles[c.tile];
    const struct pair *p = &pair_saves[s->codes];
    const int saved = s->gated ? p->gated : t->rows > 128 ? p->many : p->few;
    return t->step[s->codes] * (c.cluster == 2 ? 100 - saved : 100) / 100;
}

/* Of a tile in a wave of `busy` workers. */
static int64_t tile_cost(struct scheme_wide_cut c, const struct scheme_wide_shape *s, int64_t busy)
{
    const int64_t step = step_cost(c, s), quarter = divide_up(s->sm_count, 4);
    const int64_t rest = s->sm_count - busy * c.cluster, idle = rest < quarter ? rest : quarter;
    const int64_t saved = step * IDLE_SAVES * idle / (100 * quarter);
    return end_cost(c, s) + divide_up(s->in, 128) * (step - saved);
}

/* Waves of so many workers, the last of what is left. */
static int64_t waves_cost(struct scheme_wide_cut c, const struct scheme_wide_shape *s, int64_t n,
                          int workers)
{
    const int64_t rest = n % workers;
    return n / workers * tile_cost(c, s, workers) + (rest ? tile_cost(c, s, rest) : 0);
}

/* Of n tiles that all workers share: each ends two at most, gives sums and takes others. */
static int64_t shared_cost(struct scheme_wide_cut c, const struct scheme_wide_shape *s, int64_t n,
                           int workers)
{
    const struct tile *t = &tiles[c.tile];
    const int64_t handed = HAND_ON + HAND_ON_SUMS * t->weights * t->rows / 1024;
    return 2 * end_cost(c, s) + handed +
           divide_up(n * divide_up(s->in, 128), workers) * step_cost(c, s) * (100 + SHARED_ADDS) /
               100;
}

static int64_t plan_cost(struct scheme_wide_cut c, const struct scheme_wide_shape *s,
                         const struct scheme_wide_plan *p)
{
    return (c.cluster == 2 ? PAIR_ADDS : 0) + waves_cost(c, s, p->whole, p->workers) +
           (p->whole < p->tiles ? shared_cost(c, s, p->tiles - p->whole, p->workers) : 0);
}

struct scheme_wide_plan scheme_wide_plan_of(struct scheme_wide_cut c,
                                            const struct scheme_wide_shape *s)
{
    const struct tile *t = &tiles[c.tile];
    const int64_t n = s->gated ? 2 * (int64_t)s->n : s->n;
    const int all =
        (int)(divide_up(s->rows, t->rows) * divide_up(n, (int64_t)t->weights * c.cluster));
    const int workers = s->sm_count / c.cluster, line = all % workers + workers;
    const struct scheme_wide_plan alone = {all, all < workers ? all : workers, all, c.cluster};
    if (all <= workers || all % workers == 0)
        return alone;
    const struct scheme_wide_plan shares = {all, workers, all - line, c.cluster};
    return plan_cost(c, s, &shares) < plan_cost(c, s, &alone) ? shares : alone;
}

int64_t scheme_wide_cost(struct scheme_wide_cut c, const struct scheme_wide_shape *s)
{
    const struct scheme_wide_plan plan = scheme_wide_plan_of(c, s);
    return plan_cost(c, s, &plan);
}

static bool may_pair(const struct scheme_wide_shape *s)
{
    return s->sm_count >= 2 && s->rows > (s->gated ? ALONE_ROWS_MAX_GATED : ALONE_ROWS_MAX);
}

struct scheme_wide_cut scheme_wide_choose(const struct scheme_wide_shape *s)
{
    struct scheme_wide_cut best = {SCHEME_TILE_128_128, 1};
    int64_t best_cost = INT64_MAX;
    for (int i = 0; i < 2 * SCHEME_TILES; i++) {
        const struct scheme_wide_cut c = {(enum scheme_wide_tile)(i / 2), i % 2 + 1};
        if (!scheme_wide_has(c.tile, s->gated) || (c.cluster == 2 && !may_pair(s)))
            continue;
        const int64_t cost = scheme_wide_cost(c, s);
        if (cost < best_cost) {
            best_cost = cost;
            best = c;
        }
    }
    return best;
}
