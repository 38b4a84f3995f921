/* choose.c - shape to variant; see choose.h. */
#include "kernels/cuda/choose.h"
#include "kernels/cuda/choose_int.h"

static int rows_tile(int rows)
{
    return rows <= 8 ? 8 : rows <= 16 ? 16 : 32;
}

static size_t resident_bytes(const struct matmul_shape *s)
{
    return (size_t)s->rows * (size_t)divide_up(s->in, SKINNY_CHUNK) * SKINNY_CHUNK * 2;
}

/* Blocks get units as equal as whole units allow, and passes as equal as these allow. */
static void cut_units(struct matmul_choice *c, const struct matmul_shape *s)
{
    c->n_units = divide_up(s->n, 8);
    c->grid = smaller(c->n_units, s->sm_count);
    int units = divide_up(c->n_units, c->grid);
    c->warps = divide_up(units, divide_up(units, SKINNY_WARPS_MAX));
}

/* Shared memory: barriers and room to align (1 KiB each), x if resident and its norm's weights, the
 * ring. */
static void cut_shared(struct matmul_choice *c, const struct matmul_shape *s)
{
    size_t tiles = (size_t)(c->warps * c->unit_tiles) * SKINNY_TILE_BYTES;
    size_t aligned = 1024, fixed = 2 * aligned;
    if (c->resident)
        c->x_bytes = resident_bytes(s) + (c->fuse_norm ? (size_t)s->in * sizeof(float) : 0);
    fixed += c->x_bytes = (c->x_bytes + aligned - 1) / aligned * aligned;
    c->chunk_bytes = tiles + (c->resident ? 0 : (size_t)c->rows_tile * SKINNY_CHUNK * 2);
    c->span = s->in % SKINNY_CHUNK == 0 ? SKINNY_SPAN_MAX : 1;
    while (c->span > 1 && (size_t)c->span * c->chunk_bytes > SKINNY_STAGE_BYTES)
        c->span /= 2;
    const size_t stage_bytes = (size_t)c->span * c->chunk_bytes;
    const bool few =
        c->rows_tile == 8 && fixed + 4 * (size_t)SKINNY_STAGE_BYTES <= SKINNY_SHARED_FEW;
    const size_t most = few ? SKINNY_SHARED_FEW : SKINNY_SHARED_MAX;
    c->stages = smaller(SKINNY_STAGES_MAX, (int)((most - fixed) / stage_bytes));
    c->shared_bytes = fixed + (size_t)c->stages * stage_bytes;
}

void matmul_choose(struct matmul_choice *c, const struct matmul_shape *s)
{
    *c = (struct matmul_choice){.variant = s->cc != 90                 ? MATMUL_TILES
                                           : s->rows > SKINNY_ROWS_MAX ? MATMUL_WIDE
                                                                       : MATMUL_SKINNY};
    if (c->variant != MATMUL_SKINNY)
        return;
    c->rows_tile = rows_tile(s->rows);
    c->resident = c->rows_tile == 8 && resident_bytes(s) <= SKINNY_RESIDENT_MAX;
    c->fuse_norm = s->has_norm && c->resident && s->rows <= SKINNY_NORM_ROWS_MAX;
    c->unit_tiles = s->gated ? 2 : 1;
    cut_units(c, s);
    cut_shared(c, s);
}
