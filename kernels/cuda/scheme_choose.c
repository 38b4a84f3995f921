/* scheme_choose.c - shape to cut; see scheme_choose.h. */
#include "kernels/cuda/scheme_choose.h"

#include <assert.h>

#include "kernels/cuda/choose_int.h"
#include "kernels/cuda/scheme_layout.h"

enum { ALIGN = 1024, BARRIERS_BYTES = 1024, CHAIN_BYTES = 512 /* of 16 x 8 values */ };

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

/* Whether there is a kernel for so many ways along k. */
static bool has_ways(const struct scheme_choice *c, const struct scheme_shape *s)
{
    if (c->ways_k == 1)
        return true;
    if (s->is_rare)
        return false;
    return c->ways_k == 2 ? c->row_groups == 1 : c->row_groups <= 2 && !s->gated;
}

/* Blocks get units as equal as whole units allow, and passes as equal as these allow. */
static void cut_units(struct scheme_choice *c, const struct scheme_shape *s)
{
    c->n_units = divide_up(s->n, UNIT_ROWS);
    c->grid = smaller(c->n_units, s->sm_count);
    const int per_block = divide_up(c->n_units, c->grid);
    c->passes = divide_up(per_block, SCHEME_WARPS / (c->ways_k * c->ways_rows));
    c->units = divide_up(per_block, c->passes);
}

static void cut_rows(struct scheme_choice *c, const struct scheme_shape *s)
{
    const int groups = divide_up(divide_up(s->rows, 8), c->ways_rows);
    c->row_groups = groups == 3 ? 4 : groups;
    const int slots = scheme_slots(s->bits, c->row_groups);
    c->in_hand = slots > s->chains ? slots / s->chains : 1;
    c->span = c->in_hand * c->ways_k;
    c->exchange_bytes = c->ways_k == 1 ? 0
                                       : (uint32_t)(2 * c->units * c->ways_rows * c->span *
                                                    s->chains * c->row_groups * CHAIN_BYTES) *
                                             (s->gated ? 2 : 1);
}

/* Shared memory: barriers and room to align, chains, x if resident, the ring. */
static bool cut_shared(struct scheme_choice *c, const struct scheme_shape *s)
{
    uint32_t fixed = ALIGN + BARRIERS_BYTES + c->exchange_bytes;
    c->resident = s->rows <= 8 && resident_bytes(c, s) <= SCHEME_RESIDENT_MAX;
    c->fuse_norm = s->has_norm && c->resident && s->rows <= SCHEME_NORM_ROWS_MAX;
    c->x_box = c->resident ? (uint32_t)(s->rows * 128)
                           : (uint32_t)(c->ways_rows * c->row_groups * 8 * 128);
    c->x_bytes = c->resident ? align(resident_bytes(c, s)) : 0;
    c->w_bytes = ((uint32_t)(c->units * c->span) * s->tile_bytes + 127) / 128 * 128;
    c->x_at = align(c->w_bytes * (s->gated ? 2 : 1));
    c->stage_bytes = c->x_at + (c->resident ? 0 : (uint32_t)(2 * c->span) * c->x_box);
    fixed += c->x_bytes;
    if (fixed + 2 * c->stage_bytes > SCHEME_SHARED_MAX)
        return false;
    c->stages = smaller(SCHEME_STAGES_MAX, (int)((SCHEME_SHARED_MAX - fixed) / c->stage_bytes));
    c->shared_bytes = fixed + (size_t)c->stages * c->stage_bytes;
    return true;
}

bool scheme_choose_ways(struct scheme_choice *c, const struct scheme_shape *s, int ways_k,
                        int ways_rows)
{
    *c = (struct scheme_choice){.ways_k = ways_k, .ways_rows = ways_rows};
    cut_units(c, s);
    cut_rows(c, s);
    return ways_rows <= divide_up(s->rows, 8) && c->row_groups <= 4 && has_ways(c, s) &&
           c->exchange_bytes <= SCHEME_EXCHANGE_MAX && cut_shared(c, s);
}

/* Fewer passes over x first; then no more than two row groups a warp, whose registers are few. */
static bool is_better(const struct scheme_choice *a, const struct scheme_choice *b)
{
    if (a->passes != b->passes)
        return a->passes < b->passes;
    return a->row_groups <= 2 && b->row_groups > 2;
}

void scheme_choose(struct scheme_choice *c, const struct scheme_shape *s)
{
    /* Many ways first; of as many, along k first: they read x and expand codes once. */
    static const int ways[][2] = {{4, 2}, {1, 8}, {4, 1}, {2, 2}, {1, 4}, {2, 1}, {1, 2}, {1, 1}};
    struct scheme_choice one;
    bool has = false;
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++)
        if (scheme_choose_ways(&one, s, ways[i][0], ways[i][1]) && (!has || is_better(&one, c))) {
            *c = one;
            has = true;
        }
    assert(has);
}
