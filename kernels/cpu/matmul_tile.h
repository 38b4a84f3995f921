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
 *     dot_s(sum, w, x)          the same for signed bytes, on 32-bit sums; x is never -128
 *
 * Order of summation.  Blocks follow each other in order of columns; within a block the
 * integer sum is exact, and each group then adds d_w d_x (sum of q_w q_x) and, if there is a
 * minimum or an offset, m_w d_x (sum of q_x), in that order, to the one accumulator of its
 * output.  Plain types and exact precision sum 256 columns at a time, even and odd columns
 * apart, and add the parts in order.  None of this depends on how many rows there are, so
 * neither do the bits of a row. */
#ifndef KERNELS_CPU_MATMUL_TILE_H
#define KERNELS_CPU_MATMUL_TILE_H

#include "kernels/cpu/matmul_int.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define UNROLL        _Pragma("GCC unroll 8")

enum {
    STEPS = QUANT_BLOCK / 4,
    VI_BYTES = LANES * 4,
    DECODED_COLS = 1536, /* a decoded tile and its scales stay in the first-level cache */
    FLOAT_COLS = 256,
};

/* The arrays of a tile, at its first block. */
struct tile_at {
    const uint8_t *quants, *scales, *supers;
};

ALWAYS_INLINE struct tile_at tile_arrays(const struct matmul_tile *t, enum dtype dtype)
{
    size_t n = (size_t)t->cols / QUANT_BLOCK;
    struct tile_at at = {.quants = t->w};
    at.scales = at.quants + n * pack_quants_bytes(dtype, LANES);
    at.supers = at.scales + n * pack_scales_bytes(dtype, LANES);
    return at;
}

ALWAYS_INLINE bool has_low(struct quant_traits f) /* does its dot product need the sum of x? */
{
    return f.has_min || f.offset;
}

ALWAYS_INLINE const void *row_of(const void *x, int row, size_t stride)
{
    return (const char *)x + (size_t)row * stride;
}

/* The 8 vectors of q of one block. */
ALWAYS_INLINE void read_quants(int bits, const uint8_t *p, VI *w)
{
    const int low = bits == 8 ? 8 : bits >= 4 ? 4 : 2;
    UNROLL for (int s = 0; s < STEPS; s++)
    {
        if (low == 8)
            w[s] = vi_load(p + s * VI_BYTES);
        else if (low == 4)
            w[s] = vi_and(vi_shr16(vi_load(p + s % 4 * VI_BYTES), s / 4 * 4), vi_set1(15));
        else
            w[s] = vi_and(vi_shr16(vi_load(p + s / 4 * VI_BYTES), s % 4 * 2), vi_set1(3));
    }
    p += low * VI_BYTES;
    if (bits == 6) {
        UNROLL for (int s = 0; s < STEPS; s++)
        {
            VI high = vi_shr16(vi_load(p + s / 4 * VI_BYTES), s % 4 * 2 - 4);
            w[s] = vi_or(w[s], vi_and(high, vi_set1(0x30)));
        }
    } else if (bits - low == 1) {
        UNROLL for (int s = 0; s < STEPS; s++)
        {
            VI high = vi_shr16(vi_load(p), s - low);
            w[s] = vi_or(w[s], vi_and(high, vi_set1((char)(1 << low))));
        }
    }
}

/* What the sums of each group of block b are multiplied by. */
ALWAYS_INLINE void read_scales(enum dtype dtype, struct tile_at at, size_t b, VF *ds, VF *ms)
{
    const struct quant_traits f = quant_traits[dtype];
    const uint8_t *p = at.scales + b * pack_scales_bytes(dtype, LANES);
    if (!f.has_sc) {
        ds[0] = vf_from_f16(p);
        if (f.has_min)
            ms[0] = vf_from_f16(p + 2 * LANES);
    } else {
        const uint8_t *super = at.supers + b / 8 * pack_supers_bytes(dtype, LANES);
        VF d = vf_from_f16(super), m = vf_set1(0);
        if (f.has_min)
            m = vf_mul(vf_from_f16(super + 2 * LANES), vf_set1(-1));
        if (f.group == 32) {
            ds[0] = vf_mul(d, vf_from_u8(p));
            ms[0] = vf_mul(m, vf_from_u8(p + LANES));
        } else {
            UNROLL for (int g = 0; g < 2; g++)
            {
                const uint8_t *sc = p + g * LANES;
                ds[g] = vf_mul(d, f.has_min ? vf_from_u4(sc, 0) : vf_from_i8(sc));
                ms[g] = vf_mul(m, vf_from_u4(sc, 4));
            }
        }
    }
    if (f.offset)
        UNROLL for (int g = 0; g < QUANT_BLOCK / f.group; g++) ms[g] =
            vf_mul(ds[g], vf_set1(-(float)f.offset));
}

/* The integer sums of group g of a block with n rows of activations. */
ALWAYS_INLINE void dot_group(struct quant_traits f, const VI *w, int g, int n,
                             const struct act_block *const *x, VI *sum)
{
    const int steps = f.group / 4, span = DOT_SPAN(f.bits) < steps ? DOT_SPAN(f.bits) : steps;
    VI part[MATMUL_DIRECT_MAX];
    UNROLL for (int s = 0; s < steps; s++)
    {
        const int at = g * steps + s;
        VI ws = w[at];
        UNROLL for (int i = 0; i < n; i++)
        {
            VI xs = vi_bcast4(x[i]->q + 4 * at);
            if (f.bits == 8) {
                sum[i] = dot_s(s == 0 ? vi_set1(0) : sum[i], ws, xs);
                continue;
            }
            part[i] = dot_u(s % span == 0 ? vi_set1(0) : part[i], ws, xs);
            if (s % span == span - 1)
                sum[i] = s < span ? dot_widen(part[i]) : vi_add32(sum[i], dot_widen(part[i]));
        }
    }
}

ALWAYS_INLINE void dot_block(struct quant_traits f, const VI *w, const VF *ds, const VF *ms, int n,
                             const struct act_block *const *x, VF *acc)
{
    UNROLL for (int g = 0; g < QUANT_BLOCK / f.group; g++)
    {
        VI sum[MATMUL_DIRECT_MAX];
        dot_group(f, w, g, n, x, sum);
        UNROLL for (int i = 0; i < n; i++)
        {
            acc[i] = vf_fma(vf_from_i32(sum[i]), vf_mul(ds[g], vf_set1(x[i]->d)), acc[i]);
            if (has_low(f))
                acc[i] = vf_fma(ms[g], vf_set1(f.group == 32 ? x[i]->sum : x[i]->half[g]), acc[i]);
        }
    }
}

/* A few rows: each block is decoded in registers and used at once. */
ALWAYS_INLINE void direct_rows(enum dtype dtype, const struct matmul_tile *t, int n, VF *out)
{
    const struct quant_traits f = quant_traits[dtype];
    const struct tile_at at = tile_arrays(t, dtype);
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
        read_quants(f.bits, at.quants + b * pack_quants_bytes(dtype, LANES), w);
        read_scales(dtype, at, b, ds, ms);
        dot_block(f, w, ds, ms, n, x, acc);
        UNROLL for (int i = 0; i < n; i++) x[i]++;
    }
    UNROLL for (int i = 0; i < n; i++) out[i] = acc[i];
}

/* Many rows: some columns of the tile are decoded once, and every row meets them. */
struct decoded {
    VI q[DECODED_COLS / 4];
    VF ds[DECODED_COLS / 16], ms[DECODED_COLS / 16];
};

ALWAYS_INLINE void decode_cols(enum dtype dtype, struct tile_at at, size_t first, size_t n,
                               struct decoded *to)
{
    const struct quant_traits f = quant_traits[dtype];
    const size_t groups = QUANT_BLOCK / f.group;
    for (size_t b = 0; b < n; b++) {
        read_quants(f.bits, at.quants + (first + b) * pack_quants_bytes(dtype, LANES),
                    to->q + b * STEPS);
        read_scales(dtype, at, first + b, to->ds + b * groups, to->ms + b * groups);
    }
}

ALWAYS_INLINE void decoded_rows(struct quant_traits f, const struct decoded *from, size_t n_blocks,
                                int n, const struct act_block *x_first, size_t x_stride, VF *out)
{
    const size_t groups = QUANT_BLOCK / f.group;
    const struct act_block *x[MATMUL_DIRECT_MAX];
    VF acc[MATMUL_DIRECT_MAX];
    UNROLL for (int i = 0; i < n; i++)
    {
        x[i] = row_of(x_first, i, x_stride);
        acc[i] = out[i];
    }
    for (size_t b = 0; b < n_blocks; b++) {
        dot_block(f, from->q + b * STEPS, from->ds + b * groups, from->ms + b * groups, n, x, acc);
        UNROLL for (int i = 0; i < n; i++) x[i]++;
    }
    UNROLL for (int i = 0; i < n; i++) out[i] = acc[i];
}

ALWAYS_INLINE void decoded_tile(enum dtype dtype, const struct matmul_tile *t, VF *acc)
{
    const struct quant_traits f = quant_traits[dtype];
    const struct tile_at at = tile_arrays(t, dtype);
    const size_t n_blocks = (size_t)t->cols / QUANT_BLOCK, step = DECODED_COLS / QUANT_BLOCK;
    struct decoded decoded;
    for (int i = 0; i < t->n_rows; i++)
        acc[i] = vf_set1(0);
    for (size_t first = 0; first < n_blocks; first += step) {
        size_t n = n_blocks - first < step ? n_blocks - first : step;
        decode_cols(dtype, at, first, n, &decoded);
        const struct act_block *x = (const struct act_block *)t->x + first;
        int i = 0;
        for (; i + 4 <= t->n_rows; i += 4)
            decoded_rows(f, &decoded, n, 4, row_of(x, i, t->x_stride), t->x_stride, acc + i);
        for (; i < t->n_rows; i++)
            decoded_rows(f, &decoded, n, 1, row_of(x, i, t->x_stride), t->x_stride, acc + i);
    }
}

#define DEFINE_QUANT(name, dtype)                                                                  \
    static void direct_##name(const struct matmul_tile *t, VF *acc)                                \
    {                                                                                              \
        switch (t->n_rows) {                                                                       \
        case 1:                                                                                    \
            direct_rows(dtype, t, 1, acc);                                                         \
            break;                                                                                 \
        case 2:                                                                                    \
            direct_rows(dtype, t, 2, acc);                                                         \
            break;                                                                                 \
        case 3:                                                                                    \
            direct_rows(dtype, t, 3, acc);                                                         \
            break;                                                                                 \
        default:                                                                                   \
            direct_rows(dtype, t, 4, acc);                                                         \
        }                                                                                          \
    }                                                                                              \
    static void decoded_##name(const struct matmul_tile *t, VF *acc)                               \
    {                                                                                              \
        decoded_tile(dtype, t, acc);                                                               \
    }                                                                                              \
    static void widen_##name(const struct matmul_tile *t, size_t first, size_t n, VF *to)          \
    {                                                                                              \
        widen_quants(dtype, t, first, n, to);                                                      \
    }

/* Weights as floats, [cols][LANES]: the bits of dequantize_row. */
ALWAYS_INLINE void widen_quants(enum dtype dtype, const struct matmul_tile *t, size_t first,
                                size_t n, VF *to)
{
    const struct quant_traits f = quant_traits[dtype];
    const struct tile_at at = tile_arrays(t, dtype);
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
                *to++ = has_low(f) ? vf_fma(ds[g], q, ms[g]) : vf_mul(ds[g], q);
            }
        }
    }
}

static void widen_f32(const struct matmul_tile *t, size_t first, size_t n, VF *to)
{
    const uint8_t *from = t->w + first * LANES * 4;
    for (size_t c = 0; c < n; c++)
        to[c] = vf_load(from + c * LANES * 4);
}

static void widen_f16(const struct matmul_tile *t, size_t first, size_t n, VF *to)
{
    const uint8_t *from = t->w + first * LANES * 2;
    for (size_t c = 0; c < n; c++)
        to[c] = vf_from_f16(from + c * LANES * 2);
}

static void widen_bf16(const struct matmul_tile *t, size_t first, size_t n, VF *to)
{
    const uint8_t *from = t->w + first * LANES * 2;
    for (size_t c = 0; c < n; c++)
        to[c] = vf_from_bf16(from + c * LANES * 2);
}

ALWAYS_INLINE void float_rows(const VF *w, size_t n_cols, int n, const float *x_first,
                              size_t x_stride, VF *out)
{
    const float *x[4];
    VF even[4], odd[4];
    UNROLL for (int i = 0; i < n; i++)
    {
        x[i] = row_of(x_first, i, x_stride);
        even[i] = odd[i] = vf_set1(0);
    }
    size_t c = 0;
    for (; c + 2 <= n_cols; c += 2) {
        UNROLL for (int i = 0; i < n; i++) even[i] = vf_fma(w[c], vf_set1(x[i][c]), even[i]);
        UNROLL for (int i = 0; i < n; i++) odd[i] = vf_fma(w[c + 1], vf_set1(x[i][c + 1]), odd[i]);
    }
    if (c < n_cols)
        UNROLL for (int i = 0; i < n; i++) even[i] = vf_fma(w[c], vf_set1(x[i][c]), even[i]);
    UNROLL for (int i = 0; i < n; i++) out[i] = vf_add(out[i], vf_add(even[i], odd[i]));
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

#define QUANT(name)                                                                                \
    {                                                                                              \
        direct_##name, decoded_##name, widen_##name                                                \
    }

static const struct {
    void (*direct)(const struct matmul_tile *t, VF *acc);  /* n_rows <= MATMUL_DIRECT_MAX */
    void (*decoded)(const struct matmul_tile *t, VF *acc); /* any n_rows */
    void (*widen)(const struct matmul_tile *t, size_t first, size_t n, VF *to);
} tile_types[DT_N] = {
    [DT_F32] = {.widen = widen_f32},   [DT_F16] = {.widen = widen_f16},
    [DT_BF16] = {.widen = widen_bf16}, [DT_Q4_0] = QUANT(q4_0),
    [DT_Q4_1] = QUANT(q4_1),           [DT_Q5_0] = QUANT(q5_0),
    [DT_Q5_1] = QUANT(q5_1),           [DT_Q8_0] = QUANT(q8_0),
    [DT_Q2_K] = QUANT(q2_k),           [DT_Q3_K] = QUANT(q3_k),
    [DT_Q4_K] = QUANT(q4_k),           [DT_Q5_K] = QUANT(q5_k),
    [DT_Q6_K] = QUANT(q6_k),
};

static void float_tile(const struct matmul_tile *t, VF *acc)
{
    VF w[FLOAT_COLS];
    const size_t cols = (size_t)t->cols;
    for (int i = 0; i < t->n_rows; i++)
        acc[i] = vf_set1(0);
    for (size_t first = 0; first < cols; first += FLOAT_COLS) {
        size_t n = cols - first < FLOAT_COLS ? cols - first : FLOAT_COLS;
        tile_types[t->dtype].widen(t, first, n, w);
        const float *x = (const float *)t->x + first;
        int i = 0;
        for (; i + 4 <= t->n_rows; i += 4)
            float_rows(w, n, 4, row_of(x, i, t->x_stride), t->x_stride, acc + i);
        for (; i < t->n_rows; i++)
            float_rows(w, n, 1, row_of(x, i, t->x_stride), t->x_stride, acc + i);
    }
}

static void store_row(const struct matmul_tile *t, int row, VF acc)
{
    const int64_t at = row * t->y_stride;
    if (t->n_lanes == LANES) {
        if (t->bias)
            acc = vf_add(acc, vf_load(t->bias));
        if (t->add)
            acc = vf_add(acc, vf_load(t->add + at));
        vf_store(t->y + at, acc);
        return;
    }
    float lane[LANES];
    vf_store(lane, acc);
    for (int r = 0; r < t->n_lanes; r++) {
        float v = lane[r];
        if (t->bias)
            v += t->bias[r];
        if (t->add)
            v += t->add[at + r];
        t->y[at + r] = v;
    }
}

void MATMUL_TILE(const struct matmul_tile *t)
{
    VF acc[MATMUL_ROWS_MAX];
    if (t->is_float)
        float_tile(t, acc);
    else if (t->n_rows <= MATMUL_DIRECT_MAX)
        tile_types[t->dtype].direct(t, acc);
    else
        tile_types[t->dtype].decoded(t, acc);
    for (int i = 0; i < t->n_rows; i++)
        store_row(t, i, acc[i]);
}

#endif
