/* scheme_choose.c - shape to cut; see scheme_choose.h. */
#include "kernels/cuda/scheme_choose.h"

#include <assert.h>

#include "kernels/cuda/choose_int.h"
#include "kernels/cuda/scheme_layout.h"

enum {
    ALIGN = 1024,
    BARRIERS_BYTES = 1024,
    PAIR_BYTES = 128, /* a chain's 16 x 2 values */
};

static uint32_t align(uint32_t n)
{
    return (n + ALIGN - 1) / ALIGN * ALIGN;
}

static int n_tiles(const struct scheme_shape *s)
{
    return divide_up(s->in, TILE_COLS);
}

/* To whole steps: there is no other x behind the last column. */
static uint32_t resident_bytes(const struct scheme_choice *c, const struct scheme_shape *s)
{
    return (uint32_t)(s->rows * divide_up(n_tiles(s), c->span) * c->span * TILE_COLS * 2);
}

static int tiles(const struct scheme_shape *s)
{
    return s->gated ? 2 : 1;
}

/* Whether there is a kernel for so many ways along k. */
static bool has_ways(const struct scheme_choice *c, const struct scheme_shape *s)
{
    if (c->ways_k == 1)
        return true;
    if (s->is_rare || c->row_groups > 2)
        return false;
    if (s->gated)
        return c->ways_k == 2 && c->row_groups == 1;
    return c->ways_k == 2 ? c->row_groups == 1 : c->ways_k == 4 || c->ways_k == 8;
}

/* Blocks get units as equal as whole units allow, and passes as equal as these allow. */
static void cut_units(struct scheme_choice *c, int passes)
{
    const int per_block = divide_up(c->n_units, c->grid);
    c->passes = passes;
    c->units = divide_up(per_block, passes);
}

static void cut_rows(struct scheme_choice *c, const struct scheme_shape *s)
{
    const int groups = divide_up(divide_up(s->rows, 8), c->ways_rows);
    c->row_groups = groups == 3 ? 4 : groups;
    c->pairs = smaller(4, divide_up(s->rows, 2));
    c->in_hand = scheme_in_hand(s->bits, c->row_groups, tiles(s));
    c->span = c->in_hand * c->ways_k;
    c->warps = s->rows <= SCHEME_FEW_ROWS && c->ways_rows == 1 && c->row_groups * tiles(s) <= 2
                   ? SCHEME_WARPS_FEW
                   : SCHEME_WARPS_MANY;
}

static void cut_exchange(struct scheme_choice *c, const struct scheme_shape *s)
{
    const int chains = c->units * c->ways_rows * c->span * s->chains * tiles(s);
    if (c->ways_k > 1)
        c->exchange_bytes = align((uint32_t)(2 * chains * c->row_groups * c->pairs * PAIR_BYTES));
}

static void cut_x(struct scheme_choice *c, const struct scheme_shape *s)
{
    c->resident = s->rows <= 8 && resident_bytes(c, s) <= SCHEME_RESIDENT_MAX;
    c->fuse_norm = s->has_norm && c->resident && s->rows <= SCHEME_NORM_ROWS_MAX;
    c->x_box = c->resident ? (uint32_t)(s->rows * 128)
                           : (uint32_t)(c->ways_rows * c->row_groups * 8 * 128);
    if (!c->resident)
        return;
    const uint32_t x = resident_bytes(c, s), norm = c->fuse_norm ? (uint32_t)s->in * 4 : 0;
    c->norm_at = norm > 0 && norm <= SCHEME_NORM_MAX ? x : 0;
    c->x_bytes = align(x + (c->norm_at ? norm : 0));
}

/* Shared memory: barriers and room to align, chains, x if resident and its norm's weights, a
 * codebook's pairs, the ring. */
static bool cut_shared(struct scheme_choice *c, const struct scheme_shape *s, int stages)
{
    cut_exchange(c, s);
    cut_x(c, s);
    c->book_bytes = s->has_book ? SCHEME_BOOK_BYTES : 0;
    c->w_bytes = ((uint32_t)(c->units * c->span) * s->tile_bytes + 127) / 128 * 128;
    c->x_at = align(c->w_bytes * (uint32_t)tiles(s));
    c->stage_bytes = c->x_at + (c->resident ? 0 : (uint32_t)(2 * c->span) * c->x_box);
    const uint32_t fixed = ALIGN + BARRIERS_BYTES + c->exchange_bytes + c->x_bytes + c->book_bytes;
    const uint32_t most = SCHEME_SHARED_MAX + c->book_bytes;
    if (c->exchange_bytes > SCHEME_EXCHANGE_MAX || fixed + (uint32_t)stages * c->stage_bytes > most)
        return false;
    c->stages = smaller(SCHEME_STAGES_MAX, (int)((most - fixed) / c->stage_bytes));
    c->shared_bytes = fixed + (size_t)c->stages * c->stage_bytes;
    return true;
}

/* As few passes as leave room for so many stages. */
static bool cut_passes(struct scheme_choice *c, const struct scheme_shape *s, int stages)
{
    const int per_block = divide_up(c->n_units, c->grid);
    const int first = divide_up(per_block, c->warps / (c->ways_k * c->ways_rows));
    for (int passes = first; passes <= per_block; passes++) {
        cut_units(c, passes);
        if (cut_shared(c, s, stages))
            return true;
    }
    return false;
}

static bool cut(struct scheme_choice *c, const struct scheme_shape *s, const int ways[2],
                int stages)
{
    *c = (struct scheme_choice){.ways_k = ways[0], .ways_rows = ways[1]};
    if (c->ways_rows > divide_up(s->rows, 8))
        return false;
    cut_rows(c, s);
    c->n_units = divide_up(s->n, UNIT_ROWS);
    c->grid = smaller(c->n_units, s->sm_count);
    return c->row_groups <= 4 && has_ways(c, s) && c->ways_k * c->ways_rows <= c->warps &&
           cut_passes(c, s, stages);
}

bool scheme_choose_ways(struct scheme_choice *c, const struct scheme_shape *s, int ways_k,
                        int ways_rows)
{
    const int ways[2] = {ways_k, ways_rows};
    return cut(c, s, ways, SCHEME_STAGES_WANTED) || cut(c, s, ways, SCHEME_STAGES_LEAST);
}

/* Fewer passes over x first; then no more than two row groups a warp, whose registers are few. */
static bool is_better(const struct scheme_choice *a, const struct scheme_choice *b)
{
    if (a->passes != b->passes)
        return a->passes < b->passes;
    return a->row_groups <= 2 && b->row_groups > 2;
}

/* Many ways first; of as many, along k first: they read x and expand codes once. */
static bool choose_of(struct scheme_choice *c, const struct scheme_shape *s, int stages)
{
    static const int ways[][2] = {{8, 1}, {4, 2}, {1, 8}, {4, 1}, {2, 2},
                                  {1, 4}, {2, 1}, {1, 2}, {1, 1}};
    struct scheme_choice one;
    bool has = false;
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++)
        if (cut(&one, s, ways[i], stages) && (!has || is_better(&one, c))) {
            *c = one;
            has = true;
        }
    return has;
}

void scheme_choose(struct scheme_choice *c, const struct scheme_shape *s)
{
    const bool has = choose_of(c, s, SCHEME_STAGES_WANTED) || choose_of(c, s, SCHEME_STAGES_LEAST);
    assert(has);
}
