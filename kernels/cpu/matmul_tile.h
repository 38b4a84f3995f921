/* matmul_tile.h - one tile of weights times some rows of activations, for any vector width.
 *
 * Included once by each matmul_ISA.c, after it has defined:
 *
 *     LANES, MATMUL_TILE        rows in a tile; the name of the function this file ends with
 *     VI, VF                    vectors of LANES x 4 bytes and LANES floats
 *     vi_* vf_*                 what their names say
 *     dot_u(sum, w, x)          sum + w * x, unsigned times signed bytes; `sum` is narrow: it may
 *                               be 16 bits wide, and holds DOT_SPAN(bits of w) calls of it
 *     dot_widen(sum)            a narrow sum as 32-bit numbers, one for each lane
 *     dot_s(sum, w, x)          the same for signed bytes, on 32-bit sums; x is never -128.  w went
 *                               through dot_s_weights, and sum begins as dot_s_start(sum of all x)
 *     vf_from_bf16_of(v, i)     the low (0) or high (1) 16 bits of each lane
 *     vf_from_nibble(v, shift)  of each lane the 4 bits at `shift`
 *     book_open(values)         16 floats, as book_read wants them
 *     book_read(b, v, high, to) to[i] = the values of the low or high 4 bits of byte i of each lane
 *     vf_from_e4m3(p, i)        byte i of each lane's 16 bits, E4M3, in units of E4M3_UNIT
 *
 * Order of summation.  Blocks follow each other in order of columns; within a block the
 * integer sum is exact, and each group then adds d_w d_x (sum of q_w q_x) and, if there is a
 * minimum or an offset, m_w d_x (sum of q_x), in that order, to the one accumulator of its
 * output.  Plain types and exact precision sum 256 columns at a time, even and odd columns
 * apart, and add the parts in order.  None of this depends on how many rows there are, so
 * neither do the bits of a row. */
#ifndef KERNELS_CPU_MATMUL_TILE_H
#define KERNELS_CPU_MATMUL_TILE_H

#include "kernels/cpu/decode_tile.h"

enum {
    ROWS_TOGETHER = LANES == 16 ? 6 : 3, /* for 2 tiles 6 sums, narrow and float: 16 registers */
    SUMS_MAX = TILES_TOGETHER * ROWS_TOGETHER,
    FLOAT_COLS = 256,
};

/* One decoded block of one tile or of two that lie *_step vectors apart. */
struct block_at {
    const VI *q;
    const VF *ds, *ms;
    size_t q_step, scale_step;
};

/* The integer sums of group g of a block: `tiles` vectors of weights, w_step apart, meet n rows. */
ALWAYS_INLINE void dot_group(struct quant_traits f, int g, int tiles, const VI *w, size_t w_step,
                             int n, const struct act_block *const *x, VI *sum)
{
    const int steps = f.group / 4, span = DOT_SPAN(f.bits) < steps ? DOT_SPAN(f.bits) : steps;
    VI part[SUMS_MAX];
    UNROLL for (int k = 0; k < tiles * n; k++) part[k] = sum[k] = vi_set1(0);
    UNROLL for (int s = 0; s < steps; s++)
    {
        const int at = g * steps + s;
        UNROLL for (int k = 0; k < tiles * n; k++)
        {
            VI ws = w[(size_t)(k % tiles) * w_step + (size_t)at];
            VI xs = vi_bcast4(x[k / tiles]->q + 4 * at);
            if (f.bits == 8) {
                sum[k] = dot_s(s == 0 ? dot_s_start(x[k / tiles]->q_sum) : sum[k], ws, xs);
                continue;
            }
            part[k] = dot_u(s % span == 0 ? vi_set1(0) : part[k], ws, xs);
            if (s % span == span - 1)
                sum[k] = s < span ? dot_widen(part[k]) : vi_add32(sum[k], dot_widen(part[k]));
        }
    }
}

/* Adds one block to acc[row * tiles + tile]. */
ALWAYS_INLINE void dot_block(struct quant_traits f, int tiles, const struct block_at *at, int n,
                             const struct act_block *const *x, VF *acc)
{
    const int groups = groups_of(f);
    UNROLL for (int g = 0; g < groups; g++)
    {
        VI sum[SUMS_MAX];
        dot_group(f, g, tiles, at->q, at->q_step, n, x, sum);
        UNROLL for (int k = 0; k < tiles * n; k++)
        {
            const struct act_block *xb = x[k / tiles];
            const size_t scale = (size_t)(k % tiles) * at->scale_step + (size_t)g;
            acc[k] = vf_fma(vf_from_i32(sum[k]), vf_mul(at->ds[scale], vf_set1(xb->d)), acc[k]);
            if (has_low(f))
                acc[k] =
                    vf_fma(at->ms[scale], vf_set1(f.group == 32 ? xb->sum : xb->half[g]), acc[k]);
        }
    }
}

/* A few rows: each block is decoded in registers and used at once. */
ALWAYS_INLINE void direct_rows(enum dtype dtype, const struct matmul_tile *t, int tile, int n,
                               VF (*out)[TILES_TOGETHER])
{
    const struct quant_traits f = quant_traits[dtype];
    const struct tile_at at = tile_arrays(t, dtype, tile);
    const size_t quants_bytes = pack_quants_bytes(dtype, LANES);
    const struct act_block *x[MATMUL_DIRECT_MAX];
    VF acc[MATMUL_DIRECT_MAX];
    UNROLL for (int i = 0; i < n; i++)
    {
        x[i] = row_of(t->x, i, t->x_stride);
        acc[i] = vf_set1(0);
    }
    for (size_t b = 0, end = (size_t)t->cols / QUANT_BLOCK; b < end; b++) {
        VI w[STEPS];
        VF ds[2], ms[2];
        prefetch(at.quants + b * quants_bytes + PREFETCH_BYTES, quants_bytes);
        read_weights(f.bits, at.quants + b * quants_bytes, w);
        read_scales(dtype, at, b, ds, ms);
        dot_block(f, 1, &(struct block_at){.q = w, .ds = ds, .ms = ms}, n, x, acc);
        UNROLL for (int i = 0; i < n; i++) x[i]++;
    }
    UNROLL for (int i = 0; i < n; i++) out[i][tile] = acc[i];
}

ALWAYS_INLINE void direct_tiles(enum dtype dtype, const struct matmul_tile *t,
                                VF (*acc)[TILES_TOGETHER])
{
    for (int tile = 0; tile < t->n_tiles; tile++) {
        if (t->n_rows == 1)
            direct_rows(dtype, t, tile, 1, acc);
        else if (t->n_rows == 2)
            direct_rows(dtype, t, tile, 2, acc);
        else if (t->n_rows == 3)
            direct_rows(dtype, t, tile, 3, acc);
        else
            direct_rows(dtype, t, tile, 4, acc);
    }
}

/* acc[row][tile] */
ALWAYS_INLINE void decoded_rows(struct quant_traits f, const struct decoded *from, size_t n_blocks,
                                int tiles, int n, const struct act_block *x_first, size_t x_stride,
                                VF (*out)[TILES_TOGETHER])
{
    const size_t groups = (size_t)groups_of(f);
    const struct act_block *x[ROWS_TOGETHER];
    struct block_at at = {from->q[0], from->ds[0], from->ms[0], DECODED_COLS / 4,
                          DECODED_COLS / 16};
    VF acc[SUMS_MAX];
    UNROLL for (int i = 0; i < n; i++) x[i] = row_of(x_first, i, x_stride);
    UNROLL for (int k = 0; k < tiles * n; k++) acc[k] = out[k / tiles][k % tiles];
    for (size_t b = 0; b < n_blocks; b++) {
        dot_block(f, tiles, &at, n, x, acc);
        at.q += STEPS;
        at.ds += groups;
        at.ms += groups;
        UNROLL for (int i = 0; i < n; i++) x[i]++;
    }
    UNROLL for (int k = 0; k < tiles * n; k++) out[k / tiles][k % tiles] = acc[k];
}

ALWAYS_INLINE void all_decoded_rows(struct quant_traits f, const struct decoded *from,
                                    size_t n_blocks, int tiles, const struct matmul_tile *t,
                                    const struct act_block *x, VF (*acc)[TILES_TOGETHER])
{
    const size_t stride = t->x_stride;
    int i = 0;
    for (; i + ROWS_TOGETHER <= t->n_rows; i += ROWS_TOGETHER)
        decoded_rows(f, from, n_blocks, tiles, ROWS_TOGETHER, row_of(x, i, stride), stride,
                     acc + i);
    for (; i + 2 <= t->n_rows; i += 2)
        decoded_rows(f, from, n_blocks, tiles, 2, row_of(x, i, stride), stride, acc + i);
    if (i < t->n_rows)
        decoded_rows(f, from, n_blocks, tiles, 1, row_of(x, i, stride), stride, acc + i);
}

/* Once decoded, a format is its bits, its group and whether it needs the sum of x. */
#define DEFINE_DECODED(name, traits)                                                               \
    static void name##_rows(const struct decoded *from, size_t n_blocks,                           \
                            const struct matmul_tile *t, const struct act_block *x,                \
                            VF(*acc)[TILES_TOGETHER])                                              \
    {                                                                                              \
        if (t->n_tiles == 2)                                                                       \
            all_decoded_rows(traits, from, n_blocks, 2, t, x, acc);                                \
        else                                                                                       \
            all_decoded_rows(traits, from, n_blocks, 1, t, x, acc);                                \
    }

DEFINE_DECODED(low4, quant_traits[DT_Q4_1])
DEFINE_DECODED(low5, quant_traits[DT_Q5_1])
DEFINE_DECODED(signed8, quant_traits[DT_Q8_0])
DEFINE_DECODED(half3, quant_traits[DT_Q3_K])
DEFINE_DECODED(half6, quant_traits[DT_Q6_K])

/* Weights as floats, [cols] vectors, two vectors of `to` apart: the bits of dequantize_row. */
ALWAYS_INLINE void widen_quants(enum dtype dtype, const struct matmul_tile *t, int tile,
                                size_t first, size_t n, VF (*to)[TILES_TOGETHER])
{
    const struct quant_traits f = quant_traits[dtype];
    const struct tile_at at = tile_arrays(t, dtype, tile);
    for (size_t b = first / QUANT_BLOCK; b < (first + n) / QUANT_BLOCK; b++) {
        VI w[STEPS];
        VF ds[2], ms[2];
        read_quants(f.bits, at.quants + b * pack_quants_bytes(dtype, LANES), w);
        read_scales(dtype, at, b, ds, ms);
        UNROLL for (int s = 0; s < STEPS; s++)
        {
            const int g = s * 4 / f.group;
            UNROLL for (int i = 0; i < 4; i++)
            {
                VF q = f.bits == 8 ? vf_from_s8_of(w[s], i) : vf_from_u8_of(w[s], i);
                to++[0][tile] = has_low(f) ? vf_fma(ds[g], q, ms[g]) : vf_mul(ds[g], q);
            }
        }
    }
}

ALWAYS_INLINE void widen_bf16_pairs(const struct matmul_tile *t, int tile, size_t first, size_t n,
                                    VF (*to)[TILES_TOGETHER])
{
    const uint8_t *from = t->w + (size_t)tile * t->tile_bytes + first * LANES * 2;
    for (size_t c = 0; c < n; c += 2, from += VI_BYTES) {
        prefetch(from + PREFETCH_BYTES, VI_BYTES);
        to[c][tile] = vf_from_bf16_of(vi_load(from), 0);
        if (c + 1 < n)
            to[c + 1][tile] = vf_from_bf16_of(vi_load(from), 1);
    }
}

ALWAYS_INLINE void widen_plain(enum dtype dtype, const struct matmul_tile *t, int tile,
                               size_t first, size_t n, VF (*to)[TILES_TOGETHER])
{
    const size_t bytes = LANES * (size_t)(dtype == DT_F32 ? 4 : 2);
    const uint8_t *from = t->w + (size_t)tile * t->tile_bytes + first * bytes;
    for (size_t c = 0; c < n; c++, from += bytes) {
        prefetch(from + PREFETCH_BYTES, bytes);
        to[c][tile] = dtype == DT_F32 ? vf_load(from) : vf_from_f16(from);
    }
}

#define DEFINE_WIDEN(name, dtype, how)                                                             \
    static void widen_##name(const struct matmul_tile *t, int tile, size_t first, size_t n,        \
                             VF(*to)[TILES_TOGETHER])                                              \
    {                                                                                              \
        how(dtype, t, tile, first, n, to);                                                         \
    }

#define DEFINE_QUANT(name, dtype)                                                                  \
    static void direct_##name(const struct matmul_tile *t, VF(*acc)[TILES_TOGETHER])               \
    {                                                                                              \
        direct_tiles(dtype, t, acc);                                                               \
    }                                                                                              \
    static void decode_##name(const struct matmul_tile *t, size_t first, size_t n,                 \
                              struct decoded *to)                                                  \
    {                                                                                              \
        decode_cols(dtype, t, first, n, to);                                                       \
    }                                                                                              \
    DEFINE_WIDEN(name, dtype, widen_quants)

DEFINE_WIDEN(f32, DT_F32, widen_plain)
DEFINE_WIDEN(f16, DT_F16, widen_plain)

static void widen_bf16(const struct matmul_tile *t, int tile, size_t first, size_t n,
                       VF (*to)[TILES_TOGETHER])
{
    widen_bf16_pairs(t, tile, first, n, to);
}

DEFINE_QUANT(q4_0, DT_Q4_0)
DEFINE_QUANT(q4_1, DT_Q4_1)
DEFINE_QUANT(q5_0, DT_Q5_0)
DEFINE_QUANT(q5_1, DT_Q5_1)
DEFINE_QUANT(q8_0, DT_Q8_0)
DEFINE_QUANT(q2_k, DT_Q2_K)
DEFINE_QUANT(q3_k, DT_Q3_K)
DEFINE_QUANT(q4_k, DT_Q4_K)
DEFINE_QUANT(q5_k, DT_Q5_K)
DEFINE_QUANT(q6_k, DT_Q6_K)

/* Whether the tiles are for direct_bf16. */
static bool is_direct_bf16(const struct matmul_tile *t)
{
    return t->dtype == DT_BF16 && t->n_rows <= 2;
}

/* One row of bf16 or two: a pair of columns is used where it is widened.  The sums are those of
 * float_rows, in its order. */
ALWAYS_INLINE void direct_pairs(const struct matmul_tile *t, int tiles, int n,
                                VF (*out)[TILES_TOGETHER])
{
    const float *x[2];
    VF even[2 * TILES_TOGETHER], odd[2 * TILES_TOGETHER];
    UNROLL for (int i = 0; i < n; i++) x[i] = row_of(t->x, i, t->x_stride);
    UNROLL for (int k = 0; k < tiles * n; k++)
    {
        even[k] = odd[k] = vf_set1(0);
        out[k / tiles][k % tiles] = vf_set1(0);
    }
    for (int c = 0; c < t->cols; c += 2) {
        UNROLL for (int tile = 0; tile < tiles; tile++)
        {
            const uint8_t *from = t->w + (size_t)tile * t->tile_bytes + (size_t)(c / 2) * VI_BYTES;
            const VI pair = vi_load(from);
            prefetch(from + PREFETCH_BYTES, VI_BYTES);
            UNROLL for (int i = 0; i < n; i++) even[i * tiles + tile] =
                vf_fma(vf_from_bf16_of(pair, 0), vf_set1(x[i][c]), even[i * tiles + tile]);
            if (c + 1 < t->cols)
                UNROLL for (int i = 0; i < n; i++) odd[i * tiles + tile] =
                    vf_fma(vf_from_bf16_of(pair, 1), vf_set1(x[i][c + 1]), odd[i * tiles + tile]);
        }
        if ((c + 2) % FLOAT_COLS == 0 || c + 2 >= t->cols)
            UNROLL for (int k = 0; k < tiles * n; k++)
            {
                VF *to = &out[k / tiles][k % tiles];
                *to = vf_add(*to, vf_add(even[k], odd[k]));
                even[k] = odd[k] = vf_set1(0);
            }
    }
}

static void direct_bf16(const struct matmul_tile *t, VF (*acc)[TILES_TOGETHER])
{
    const bool pair = t->n_tiles == 2;
    if (t->n_rows == 1)
        pair ? direct_pairs(t, 2, 1, acc) : direct_pairs(t, 1, 1, acc);
    else
        pair ? direct_pairs(t, 2, 2, acc) : direct_pairs(t, 1, 2, acc);
}

#include "kernels/cpu/scheme_tile.h"

#define QUANT(name, class)                                                                         \
    {                                                                                              \
        direct_##name, decode_##name, class##_rows, widen_##name                                   \
    }

static const struct {
    void (*direct)(const struct matmul_tile *t, VF (*acc)[TILES_TOGETHER]);
    void (*decode)(const struct matmul_tile *t, size_t first, size_t n, struct decoded *to);
    void (*rows)(const struct decoded *from, size_t n_blocks, const struct matmul_tile *t,
                 const struct act_block *x, VF (*acc)[TILES_TOGETHER]);
    void (*widen)(const struct matmul_tile *t, int tile, size_t first, size_t n,
                  VF (*to)[TILES_TOGETHER]);
} tile_types[DT_ALL_N] = {
    [DT_F32] = {.widen = widen_f32},
    [DT_F16] = {.widen = widen_f16},
    [DT_BF16] = {.direct = direct_bf16, .widen = widen_bf16},
    [DT_Q4_0] = QUANT(q4_0, low4),
    [DT_Q4_1] = QUANT(q4_1, low4),
    [DT_Q5_0] = QUANT(q5_0, low5),
    [DT_Q5_1] = QUANT(q5_1, low5),
    [DT_Q8_0] = QUANT(q8_0, signed8),
    [DT_Q2_K] = QUANT(q2_k, half3),
    [DT_Q3_K] = QUANT(q3_k, half3),
    [DT_Q4_K] = QUANT(q4_k, low4),
    [DT_Q5_K] = QUANT(q5_k, low5),
    [DT_Q6_K] = QUANT(q6_k, half6),
    [DT_INT4] = {direct_int4, decode_int4, low4_rows, widen_int4},
    [DT_INT8] = {direct_int8, decode_int8, int8_rows, widen_int8},
    [DT_NF4] = {.direct = direct_nf4, .widen = widen_nf4},
    [DT_FP4] = {.direct = direct_fp4, .widen = widen_fp4},
    [DT_FP8] = {.direct = direct_fp8, .widen = widen_fp8},
};

static void decoded_tiles(const struct matmul_tile *t, VF (*acc)[TILES_TOGETHER])
{
    const size_t n_blocks = pack_blocks(t->cols), step = DECODED_COLS / QUANT_BLOCK;
    struct decoded decoded;
    for (size_t first = 0; first < n_blocks; first += step) {
        size_t n = n_blocks - first < step ? n_blocks - first : step;
        tile_types[t->dtype].decode(t, first, n, &decoded);
        tile_types[t->dtype].rows(&decoded, n, t, (const struct act_block *)t->x + first, acc);
    }
}

ALWAYS_INLINE void float_rows(VF (*w)[TILES_TOGETHER], size_t n_cols, int tiles, int n,
                              const float *x_first, size_t x_stride, VF (*out)[TILES_TOGETHER])
{
    const float *x[ROWS_TOGETHER];
    VF even[SUMS_MAX], odd[SUMS_MAX];
    UNROLL for (int i = 0; i < n; i++) x[i] = row_of(x_first, i, x_stride);
    UNROLL for (int k = 0; k < tiles * n; k++) even[k] = odd[k] = vf_set1(0);
    size_t c = 0;
    for (; c + 2 <= n_cols; c += 2) {
        UNROLL for (int k = 0; k < tiles * n; k++) even[k] =
            vf_fma(w[c][k % tiles], vf_set1(x[k / tiles][c]), even[k]);
        UNROLL for (int k = 0; k < tiles * n; k++) odd[k] =
            vf_fma(w[c + 1][k % tiles], vf_set1(x[k / tiles][c + 1]), odd[k]);
    }
    if (c < n_cols)
        UNROLL for (int k = 0; k < tiles * n; k++) even[k] =
            vf_fma(w[c][k % tiles], vf_set1(x[k / tiles][c]), even[k]);
    UNROLL for (int k = 0; k < tiles * n; k++)
    {
        VF *to = &out[k / tiles][k % tiles];
        *to = vf_add(*to, vf_add(even[k], odd[k]));
    }
}

ALWAYS_INLINE void all_float_rows(VF (*w)[TILES_TOGETHER], size_t n_cols, int tiles,
                                  const struct matmul_tile *t, const float *x,
                                  VF (*acc)[TILES_TOGETHER])
{
    const size_t stride = t->x_stride;
    int i = 0;
    for (; i + ROWS_TOGETHER <= t->n_rows; i += ROWS_TOGETHER)
        float_rows(w, n_cols, tiles, ROWS_TOGETHER, row_of(x, i, stride), stride, acc + i);
    for (; i + 2 <= t->n_rows; i += 2)
        float_rows(w, n_cols, tiles, 2, row_of(x, i, stride), stride, acc + i);
    if (i < t->n_rows)
        float_rows(w, n_cols, tiles, 1, row_of(x, i, stride), stride, acc + i);
}

static void float_tiles(const struct matmul_tile *t, VF (*acc)[TILES_TOGETHER])
{
    VF w[FLOAT_COLS][TILES_TOGETHER];
    const size_t cols = (size_t)t->cols;
    for (size_t first = 0; first < cols; first += FLOAT_COLS) {
        const float *x = (const float *)t->x + first;
        size_t n = cols - first < FLOAT_COLS ? cols - first : FLOAT_COLS;
        for (int tile = 0; tile < t->n_tiles; tile++)
            tile_types[t->dtype].widen(t, tile, first, n, w);
        if (t->n_tiles == 2)
            all_float_rows(w, n, 2, t, x, acc);
        else
            all_float_rows(w, n, 1, t, x, acc);
    }
}

void MATMUL_TILE(const struct matmul_tile *t)
{
    VF acc[MATMUL_ROWS_MAX][TILES_TOGETHER];
    if (t->is_float ? is_direct_wide(t) || is_direct_bf16(t) : t->n_rows <= MATMUL_DIRECT_MAX) {
        tile_types[t->dtype].direct(t, acc);
    } else {
        for (int i = 0; i < t->n_rows; i++)
            acc[i][0] = acc[i][1] = vf_set1(0);
        if (t->is_float)
            float_tiles(t, acc);
        else
            decoded_tiles(t, acc);
    }
    if (t->x_wide)
        add_outliers(t, acc);
    store_rows(t, acc);
}

#endif
