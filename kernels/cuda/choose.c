/* choose.c - shape to variant; see choose.h. */
#include <stdint.h>

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

/* Clocks of an SM for 128 bytes of k, in quarters: the tensor cores take 128 rows by 4 columns in
 * 16, an SM takes in some 50 bytes in one, and 8 stand for a tile's beginning and end. */
static int tile_cost(const struct matmul_tile *t, int rows)
{
    const int sums = t->rows * t->columns / 128;
    const int taken = (smaller(t->rows, rows) + t->columns) * 5 / 8;
    return (sums > taken ? sums : taken) + 8;
}

/* A wave costs its tiles' time: widths between the powers of two are for shapes of which those
 * would leave the last wave half empty. */
static int64_t waves_cost(const struct matmul_tile *t, int rows, int columns, int sm_count)
{
    const int64_t n_tiles = (int64_t)divide_up(rows, t->rows) * columns;
    return (n_tiles + sm_count - 1) / sm_count * tile_cost(t, rows);
}

struct matmul_tile matmul_choose_tile(enum wide_kernels kernels, int rows, int n, bool gated,
                                      int sm_count)
{
    enum { FEW = 1, MANY = 2, ANY = FEW | MANY, PLAIN = 4, GATED = 8, EIGHT = 16 };
    static const struct {
        struct matmul_tile tile;
        int is_for;
    } all[] = {
        {{128, 256}, ANY | PLAIN | GATED | EIGHT},
        {{128, 224}, ANY | GATED},
        {{128, 192}, ANY | PLAIN},
        {{128, 160}, ANY | PLAIN},
        {{128, 128}, ANY | PLAIN | GATED | EIGHT},
        {{128, 96}, ANY | PLAIN},
        {{64, 64}, FEW | PLAIN | EIGHT},
        {{128, 64}, ANY | PLAIN | EIGHT},
    };
    const int wanted =
        (rows > 128 ? MANY : FEW) | (gated ? GATED : PLAIN) | (kernels == WIDE_8_BITS ? EIGHT : 0);
    struct matmul_tile best = {0};
    int64_t best_cost = INT64_MAX;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        const struct matmul_tile *t = &all[i].tile;
        const int columns = divide_up(n, gated ? t->columns / 2 : t->columns);
        const int64_t cost = waves_cost(t, rows, columns, sm_count);
        if ((all[i].is_for & wanted) == wanted && cost < best_cost) {
            best_cost = cost;
            best = *t;
        }
    }
    return best;
}

/* Stages of one chunk are for widths that are no whole chunks: no kernel of those ends so. */
bool heads_choose(const struct matmul_choice *c, const struct heads_shape *s)
{
    const int unit = 8;
    return c->variant == MATMUL_SKINNY && c->unit_tiles == 1 && c->span > 1 &&
           s->head_dim % unit == 0 && s->rope_dims == s->head_dim && !s->has_norm &&
           s->cache_is_act && s->aligned;
}
