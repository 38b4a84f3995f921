/* choose_act8.c - shape to cut; see choose_act8.h. */
#include "kernels/cuda/choose_act8.h"
#include "kernels/cuda/choose_int.h"

enum { COLUMNS_MAX = 128, WGMMA_ROWS = 64 };

static int rows_tile(int rows)
{
    return rows <= 8 ? 8 : rows <= 16 ? 16 : 32;
}

/* Blocks get units as equal as whole units allow, and passes as equal as these allow. */
static void cut_units(struct act8_choice *c, const struct act8_shape *s)
{
    const int unit_columns = s->gated ? 16 : 8;
    c->n_units = divide_up(s->n, 8);
    c->grid = smaller(c->n_units, s->sm_count);
    const int units = divide_up(c->n_units, c->grid);
    c->units = divide_up(units, divide_up(units, COLUMNS_MAX / unit_columns));
    const int columns = c->units * unit_columns;
    c->columns = columns <= 32 ? 32 : columns <= 64 ? 64 : 128;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Shared memory: barriers and room to align (1 KiB each), the ring, the sums.  wgmma reads 64 rows
 * and all columns, whether they are there or not: behind the last stage something must follow. */
void act8_choose(struct act8_choice *c, const struct act8_shape *s)
{
    *c = (struct act8_choice){.rows_tile = s->planes * rows_tile(s->rows)};
    cut_units(c, s);
    const size_t rows_bytes = (size_t)c->rows_tile * ACT8_CHUNK;
    const size_t chunk_bytes = rows_bytes + (size_t)c->units * (s->gated ? 2 : 1) * ACT8_UNIT_BYTES;
    for (c->span = ACT8_SPAN_MAX; c->span > 1; c->span /= 2)
        if ((size_t)c->span * chunk_bytes <= ACT8_STAGE_BYTES)
            break;
    const size_t span = (size_t)c->span;
    c->stage_bytes = span * chunk_bytes;
    const size_t reads =
        larger(c->stage_bytes - (chunk_bytes - rows_bytes) + (size_t)c->columns * ACT8_CHUNK,
               (span - 1) * rows_bytes + WGMMA_ROWS * ACT8_CHUNK);
    c->sums_bytes = (size_t)c->rows_tile * (size_t)(c->columns + 8) * sizeof(float);
    const size_t fixed = 2 * 1024 + larger(c->sums_bytes + c->stage_bytes, reads) - c->stage_bytes;
    c->stages = smaller(ACT8_STAGES_MAX, (int)((ACT8_SHARED_MAX - fixed) / c->stage_bytes));
    c->shared_bytes = fixed + (size_t)c->stages * c->stage_bytes;
}

int act8_listed_max(int in)
{
    return in > 1 << 16 ? 0 : smaller(ACT8_LIST_MAX, in / 16); /* a column has 16 bits there */
}
