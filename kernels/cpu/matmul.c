/* matmul.c - activations times weights: rounds the activations once, cuts the outputs into parts.
 *
 * A part is some tiles of one weight with some rows of activations.  Its size follows from
 * the shapes alone: large enough that taking a part costs little, small enough that threads
 * end together, and so that the rows of a part stay in the second-level cache while its
 * tiles pass.  The arithmetic is in matmul_tile.h. */
#include "kernels/cpu/matmul_int.h"

enum {
    PART_BYTES = 48 * 1024,        /* of weights, with few rows: some 4 us of reading */
    PART_MULTIPLIES = 2 << 20,     /* with many rows: some 30 us */
    ROWS_CACHE_BYTES = 320 * 1024, /* of activations that many rows keep in the cache */
    QUANTIZE_PART_VALUES = 16384,  /* fewer than this are not worth waking a thread for */
    PLANES_MAX = 2,
};

struct matmul {
    const struct matmul_args *args;
    void (*tile)(const struct matmul_tile *t);
    void (*quantize)(const float *x, int cols, struct act_block *out);
    struct act_block *blocks; /* [rows, n_planes, cols / 32] */
    int n_planes;             /* 2: the second has what the rounding of the first left */
    int cols, lanes;
    int rows_per_part, n_row_parts;
    int rows_per_quantize;
    bool exact;
    struct matmul_slice {
        size_t tile_bytes;
        int n_tiles, tiles_per_part;
        int first_part; /* its parts follow: row parts within tile parts */
    } slice[MATMUL_OUTS_MAX];
};

static const struct {
    void (*tile)(const struct matmul_tile *t);
    void (*quantize)(const float *x, int cols, struct act_block *out);
} isa_functions[ISA_N] = {
    [ISA_SCALAR] = {matmul_tile_scalar, act_quantize_scalar},
    [ISA_AVX2] = {matmul_tile_avx2, act_quantize_avx2},
    [ISA_AVX512] = {matmul_tile_avx512, act_quantize_avx2},
    [ISA_AVX512VNNI] = {matmul_tile_avx512vnni, act_quantize_avx2},
};

static int ceil_div(int64_t a, int64_t b)
{
    return (int)((a + b - 1) / b);
}

static int clamp(size_t n, int low, int high)
{
    return n < (size_t)low ? low : n > (size_t)high ? high : (int)n;
}

size_t cpu_matmul_scratch_bytes(const struct device *d, int rows_max, int in_max)
{
    (void)d;
    return (size_t)rows_max * PLANES_MAX * (size_t)ceil_div(in_max, QUANT_BLOCK) *
           sizeof(struct act_block);
}

static bool is_float(const struct matmul *m, const struct tensor *w)
{
    return m->exact || quant_traits[w->dtype].bits == 0;
}

/* What is left of x after rounding is at most half a step, and takes steps 1/254 as large. */
static void quantize_rest(const struct matmul *m, const float *x, const struct act_block *high,
                          struct act_block *low)
{
    for (int b = 0; b < m->cols / QUANT_BLOCK; b++, x += QUANT_BLOCK) {
        float rest[QUANT_BLOCK];
        for (int i = 0; i < QUANT_BLOCK; i++)
            rest[i] = x[i] - high[b].d * (float)high[b].q[i];
        m->quantize(rest, QUANT_BLOCK, low + b);
    }
}

static void quantize_part(void *ctx, int part, int thread)
{
    const struct matmul *m = ctx;
    (void)thread;
    const size_t n_blocks = (size_t)(m->cols / QUANT_BLOCK);
    int row = part * m->rows_per_quantize, end = row + m->rows_per_quantize;
    for (; row < end && row < m->args->rows; row++) {
        const float *x = (const float *)m->args->x + (size_t)row * (size_t)m->cols;
        struct act_block *high = m->blocks + (size_t)(row * m->n_planes) * n_blocks;
        m->quantize(x, m->cols, high);
        if (m->n_planes == 2)
            quantize_rest(m, x, high, high + n_blocks);
    }
}

static void multiply_part(void *ctx, int part, int thread)
{
    const struct matmul *m = ctx;
    int o = 0;
    (void)thread;
    while (o + 1 < m->args->n_outs && part >= m->slice[o + 1].first_part)
        o++;
    const struct matmul_slice *slice = &m->slice[o];
    const struct matmul_out *out = &m->args->out[o];
    part -= slice->first_part;
    int first_row = part % m->n_row_parts * m->rows_per_part;
    int tile = part / m->n_row_parts * slice->tiles_per_part, end = tile + slice->tiles_per_part;
    struct matmul_tile t = {.dtype = out->w->dtype,
                            .cols = m->cols,
                            .y_stride = out->y_stride ? out->y_stride : out->w->rows};
    t.is_float = is_float(m, out->w);
    t.n_planes = t.is_float ? 1 : m->n_planes;
    t.n_rows = m->args->rows - first_row;
    if (t.n_rows > m->rows_per_part)
        t.n_rows = m->rows_per_part;
    t.n_rows *= t.n_planes;
    t.x_stride = t.is_float ? (size_t)m->cols * sizeof(float)
                            : (size_t)(m->cols / QUANT_BLOCK) * sizeof(struct act_block);
    t.x = (t.is_float ? (const char *)m->args->x : (const char *)m->blocks) +
          (size_t)(first_row * t.n_planes) * t.x_stride;
    t.tile_bytes = slice->tile_bytes;
    end = end < slice->n_tiles ? end : slice->n_tiles;
    for (; tile < end; tile += t.n_tiles) {
        t.n_tiles = end - tile < MATMUL_TILES_MAX ? end - tile : MATMUL_TILES_MAX;
        int64_t lane = (int64_t)tile * m->lanes, at = first_row * t.y_stride + lane;
        t.w = (const uint8_t *)out->w->data + (size_t)tile * slice->tile_bytes;
        t.y = (float *)out->y + at;
        t.bias = out->bias ? out->bias + lane : NULL;
        t.add = out->add ? (const float *)out->add + at : NULL;
        t.n_lanes = clamp((size_t)(out->w->rows - lane), 1, t.n_tiles * m->lanes);
        m->tile(&t);
    }
}

/* Sets rows and tiles per part; returns the number of parts. */
static int cut_parts(struct matmul *m)
{
    int rows = m->args->rows, n_parts = 0;
    size_t row_bytes = (size_t)(m->cols * m->n_planes) * 3 / 2; /* of act_blocks */
    m->rows_per_part =
        clamp(ROWS_CACHE_BYTES / row_bytes / 4 * 4, 16, MATMUL_ROWS_MAX / m->n_planes);
    m->n_row_parts = ceil_div(rows, m->rows_per_part);
    for (int o = 0; o < m->args->n_outs; o++) {
        const struct tensor *w = m->args->out[o].w;
        struct matmul_slice *slice = &m->slice[o];
        int part_rows = rows < m->rows_per_part ? rows : m->rows_per_part;
        size_t tile_work = (size_t)(part_rows * m->n_planes) * (size_t)m->cols * (size_t)m->lanes;
        slice->tile_bytes = pack_tile_bytes(w->dtype, w->cols, m->lanes);
        slice->n_tiles = ceil_div(w->rows, m->lanes);
        size_t by_bytes = PART_BYTES / slice->tile_bytes, by_work = PART_MULTIPLIES / tile_work;
        slice->tiles_per_part = clamp(by_bytes < by_work ? by_bytes : by_work, 2, 1 << 20);
        slice->first_part = n_parts;
        n_parts += ceil_div(slice->n_tiles, slice->tiles_per_part) * m->n_row_parts;
    }
    return n_parts;
}

void cpu_matmul(struct device *d, const struct matmul_args *a)
{
    struct matmul m = {.args = a, .lanes = pack_lanes(d), .blocks = d->scratch};
    bool quantized = false;
    m.tile = isa_functions[d->isa].tile;
    m.quantize = isa_functions[d->isa].quantize;
    m.exact = d->precision == PRECISION_EXACT;
    m.n_planes = a->fine && !m.exact ? 2 : 1;
    m.cols = (int)a->out[0].w->cols;
    for (int o = 0; o < a->n_outs; o++)
        quantized |= !is_float(&m, a->out[o].w);
    if (quantized) {
        m.rows_per_quantize = ceil_div(QUANTIZE_PART_VALUES, m.cols);
        cpu_parallel(d, quantize_part, &m, ceil_div(a->rows, m.rows_per_quantize));
    }
    cpu_parallel(d, multiply_part, &m, cut_parts(&m));
}
