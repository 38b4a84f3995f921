/* block_choose.c - shape to cut; see block_choose.h. */
#include "kernels/cuda/block_choose.h"

#include <assert.h>

#include "kernels/cuda/block_layout.h"
#include "kernels/cuda/choose_int.h"

enum { ALIGN = 1024, BARRIERS_BYTES = 1024 };

static uint32_t align(uint32_t n)
{
    return (n + ALIGN - 1) / ALIGN * ALIGN;
}

static int n_tiles(const struct block_shape *s)
{
    return divide_up(s->in, TILE_COLS);
}

static uint32_t resident_bytes(const struct block_shape *s)
{
    return (uint32_t)(s->rows * n_tiles(s) * TILE_COLS * 2);
}

/* Blocks get units as equal as whole units allow, and passes as equal as these allow. */
static void cut_units(struct block_choice *c, const struct block_shape *s)
{
    c->n_units = divide_up(s->n, UNIT_ROWS);
    c->grid = smaller(c->n_units, s->sm_count);
    const int per_block = divide_up(c->n_units, c->grid);
    c->passes = divide_up(per_block, BLOCK_WARPS);
    c->units = divide_up(per_block, c->passes);
}

static void cut_stage(struct block_choice *c, const struct block_shape *s)
{
    const uint32_t tile = (uint32_t)(c->units * (s->gated ? 2 : 1)) * s->tile_bytes +
                          (c->resident ? 0 : 2 * c->x_box);
    c->span = BLOCK_SPAN_MAX;
    while (c->span > 1 &&
           ((uint32_t)c->span * tile > BLOCK_STAGE_BYTES || c->span >= 2 * n_tiles(s)))
        c->span /= 2;
    c->w_bytes = ((uint32_t)(c->units * c->span) * s->tile_bytes + 127) / 128 * 128;
    c->x_at = align(c->w_bytes * (s->gated ? 2 : 1));
    c->stage_bytes = c->x_at + (c->resident ? 0 : (uint32_t)(2 * c->span) * c->x_box);
}

void block_choose(struct block_choice *c, const struct block_shape *s)
{
    *c = (struct block_choice){.row_groups = s->rows <= 8 ? 1 : 2};
    assert(s->rows <= BLOCK_ROWS_MAX);
    cut_units(c, s);
    c->resident = c->row_groups == 1 && resident_bytes(s) <= BLOCK_RESIDENT_MAX;
    c->fuse_norm = s->has_norm && c->resident && s->rows <= BLOCK_NORM_ROWS_MAX;
    c->x_box = (uint32_t)(c->resident ? s->rows : c->row_groups * 8) * 128;
    c->x_bytes = c->resident ? align(resident_bytes(s)) : 0;
    cut_stage(c, s);
    const uint32_t fixed = ALIGN + BARRIERS_BYTES + c->x_bytes; /* room to align; barriers; x */
    c->stages = smaller(BLOCK_STAGES_MAX, (int)((BLOCK_SHARED_MAX - fixed) / c->stage_bytes));
    c->shared_bytes = fixed + (size_t)c->stages * c->stage_bytes;
    assert(c->stages >= 2);
}

/* ---- more rows ---- */

/* What a tile and each 128 columns of its k cost an SM, in nanoseconds: Q4_K's, as measured on an
 * H200. */
static const struct tile {
    int weights, rows, tile, step;
} tiles[] = {
    [BLOCK_TILE_64_64] = {64, 64, 3200, 450},
    [BLOCK_TILE_64_128] = {64, 128, 3500, 620},
    [BLOCK_TILE_256_128] = {256, 128, 6000, 1700},
};

enum block_tile_kind block_choose_tile(int rows, int n, int in, bool gated, int sm_count)
{
    enum block_tile_kind best = BLOCK_TILE_256_128;
    int64_t best_cost = INT64_MAX;
    for (size_t i = 0; i < sizeof tiles / sizeof tiles[0]; i++) {
        const int columns = gated ? 2 * n : n;
        const int64_t n_tiles =
            (int64_t)divide_up(rows, tiles[i].rows) * divide_up(columns, tiles[i].weights);
        const int64_t one = tiles[i].tile + (int64_t)divide_up(in, TILE_COLS) * tiles[i].step;
        const int64_t cost = (n_tiles + sm_count - 1) / sm_count * one;
        if (cost < best_cost) {
            best_cost = cost;
            best = (enum block_tile_kind)i;
        }
    }
    return best;
}
