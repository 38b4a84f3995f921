/* scheme_tile.h - tiles of a scheme: what matmul_tile.h, which includes this, has to know of them.
 *
 * INT4 and INT8 meet 8-bit activations as block formats do, with the scale and the zero point of a
 * group held over its blocks; a zero point is an offset times the sum of x.  All else is float:
 * INT4 and INT8 where activations stay wider, and NF4, FP4 and FP8 always.  The values of those are
 * no multiples of a step: in 8 bits a codebook would be wrong by up to 1/254 of the largest value,
 * a twentieth of what lies between its neighbours.  A column becomes scale * (code - zero), to the
 * bit what scheme_dequantize_row makes of it before it rounds to `value`, and is summed as a plain
 * type's. */
#ifndef KERNELS_CPU_SCHEME_TILE_H
#define KERNELS_CPU_SCHEME_TILE_H

/* ---- 8-bit activations ---- */

/* direct_rows of a scheme: the same sums. */
ALWAYS_INLINE void direct_scheme_rows(enum dtype codes, struct quant_traits f,
                                      const struct matmul_tile *t, int tile, int n,
                                      VF (*out)[TILES_TOGETHER])
{
    const struct scheme_at at = scheme_arrays(t, codes, tile);
    const size_t bytes = pack_quants_bytes(codes, LANES), n_blocks = pack_blocks(t->cols);
    const struct act_block *x[MATMUL_DIRECT_MAX];
    VF acc[MATMUL_DIRECT_MAX];
    UNROLL for (int i = 0; i < n; i++)
    {
        x[i] = row_of(t->x, i, t->x_stride);
        acc[i] = vf_set1(0);
    }
    for (size_t b = 0, g = 0; b < n_blocks; g++) {
        const size_t end = b + at.group_blocks;
        VF ds, ms = vf_set1(0);
        scheme_group(codes, f, &at, g, &ds, &ms);
        for (; b < end; b++) {
            VI w[STEPS];
            prefetch(at.quants + b * bytes + PREFETCH_BYTES, bytes);
            read_weights(f.bits, at.quants + b * bytes, w);
            dot_block(f, 1, &(struct block_at){.q = w, .ds = &ds, .ms = &ms}, n, x, acc);
            UNROLL for (int i = 0; i < n; i++) x[i]++;
        }
    }
    UNROLL for (int i = 0; i < n; i++) out[i][tile] = acc[i];
}

ALWAYS_INLINE void direct_scheme(enum dtype codes, struct quant_traits f,
                                 const struct matmul_tile *t, VF (*acc)[TILES_TOGETHER])
{
    for (int tile = 0; tile < t->n_tiles; tile++) {
        if (t->n_rows == 1)
            direct_scheme_rows(codes, f, t, tile, 1, acc);
        else if (t->n_rows == 2)
            direct_scheme_rows(codes, f, t, tile, 2, acc);
        else if (t->n_rows == 3)
            direct_scheme_rows(codes, f, t, tile, 3, acc);
        else
            direct_scheme_rows(codes, f, t, tile, 4, acc);
    }
}

DEFINE_DECODED(low8, low8_traits)

static void direct_int4(const struct matmul_tile *t, VF (*acc)[TILES_TOGETHER])
{
    direct_scheme(DT_INT4, low4_traits, t, acc);
}

static void decode_int4(const struct matmul_tile *t, size_t first, size_t n, struct decoded *to)
{
    decode_scheme(DT_INT4, low4_traits, t, first, n, to);
}

static void direct_int8(const struct matmul_tile *t, VF (*acc)[TILES_TOGETHER])
{
    if (t->scheme->has_zero)
        direct_scheme(DT_INT8, low8_traits, t, acc);
    else
        direct_scheme(DT_INT8, quant_traits[DT_Q8_0], t, acc);
}

static void decode_int8(const struct matmul_tile *t, size_t first, size_t n, struct decoded *to)
{
    decode_scheme(DT_INT8, low8_traits, t, first, n, to);
}

static void int8_rows(const struct decoded *from, size_t n_blocks, const struct matmul_tile *t,
                      const struct act_block *x, VF (*acc)[TILES_TOGETHER])
{
    if (t->scheme->has_zero)
        low8_rows(from, n_blocks, t, x, acc);
    else
        signed8_rows(from, n_blocks, t, x, acc);
}

/* ---- columns as floats ---- */

ALWAYS_INLINE struct book scheme_book(enum dtype codes)
{
    return book_open(codes == DT_FP4 ? scheme_fp4 : scheme_nf4);
}

/* The four columns of a step of the 32 at p. */
ALWAYS_INLINE void scheme_values(enum dtype codes, const struct book *book, const uint8_t *p,
                                 int step, VF ds, VF minus_zero, VF *to)
{
    if (codes == DT_NF4 || codes == DT_FP4)
        book_read(book, vi_load(p + step % 4 * VI_BYTES), step / 4, to);
    UNROLL for (int i = 0; i < 4; i++)
    {
        if (codes <= DT_INT8)
            to[i] = scheme_integer(codes, p, step, i, ds, minus_zero);
        else if (codes == DT_FP8)
            to[i] = vf_mul(ds, vf_from_e4m3(p + (2 * step + i / 2) * LANES * 2, i % 2));
        else
            to[i] = vf_mul(ds, to[i]);
    }
}

/* The scale of a group; of FP8 with what vf_from_e4m3 leaves to it. */
ALWAYS_INLINE VF scheme_value_scale(enum dtype codes, const struct scheme_at *at, size_t g)
{
    VF ds = scheme_scale(at, g);
    return codes == DT_FP8 ? vf_mul(ds, vf_set1(E4M3_UNIT)) : ds;
}

ALWAYS_INLINE void widen_scheme(enum dtype codes, const struct matmul_tile *t, int tile,
                                size_t first, size_t n, VF (*to)[TILES_TOGETHER])
{
    const struct scheme_at at = scheme_arrays(t, codes, tile);
    const size_t bytes = pack_quants_bytes(codes, LANES), end = pack_blocks((int64_t)(first + n));
    const struct book book = scheme_book(codes);
    size_t b = first / QUANT_BLOCK;
    for (size_t g = b / at.group_blocks; b < end; g++) {
        const size_t group_end = (g + 1) * at.group_blocks;
        VF ds = scheme_value_scale(codes, &at, g), zero = scheme_minus_zero(codes, &at, g);
        for (; b < end && b < group_end; b++, to += QUANT_BLOCK) {
            const uint8_t *p = at.quants + b * bytes;
            prefetch(p + PREFETCH_BYTES, bytes);
            UNROLL for (int s = 0; s < STEPS; s++)
            {
                VF w[4];
                scheme_values(codes, &book, p, s, ds, zero, w);
                UNROLL for (int i = 0; i < 4; i++) to[4 * s + i][tile] = w[i];
            }
        }
    }
}

DEFINE_WIDEN(int4, DT_INT4, widen_scheme)
DEFINE_WIDEN(int8, DT_INT8, widen_scheme)
DEFINE_WIDEN(nf4, DT_NF4, widen_scheme)
DEFINE_WIDEN(fp4, DT_FP4, widen_scheme)
DEFINE_WIDEN(fp8, DT_FP8, widen_scheme)

/* One row or two of activations and two tiles: a column is used where it is decoded.  The sums are
 * those of float_rows, in its order. */
ALWAYS_INLINE void direct_wide_rows(enum dtype codes, const struct matmul_tile *t, int n,
                                    VF (*out)[TILES_TOGETHER])
{
    const size_t bytes = pack_quants_bytes(codes, LANES), n_blocks = pack_blocks(t->cols);
    const struct scheme_at at[] = {scheme_arrays(t, codes, 0), scheme_arrays(t, codes, 1)};
    const struct book book = scheme_book(codes);
    const float *x[2];
    VF even[4], odd[4], acc[4], ds[2] = {vf_set1(0), vf_set1(0)};
    UNROLL for (int i = 0; i < n; i++) x[i] = row_of(t->x, i, t->x_stride);
    UNROLL for (int k = 0; k < 2 * n; k++) even[k] = odd[k] = acc[k] = vf_set1(0);
    for (size_t b = 0, g = 0, group_end = 0; b < n_blocks;) {
        if (b == group_end) {
            UNROLL for (int tile = 0; tile < 2; tile++) ds[tile] =
                scheme_value_scale(codes, &at[tile], g);
            group_end += at[0].group_blocks;
            g++;
        }
        UNROLL for (int tile = 0; tile < 2; tile++)
            prefetch(at[tile].quants + b * bytes + PREFETCH_BYTES, bytes);
        UNROLL for (int s = 0; s < STEPS; s++)
        {
            VF w[2][4];
            UNROLL for (int tile = 0; tile < 2; tile++) scheme_values(
                codes, &book, at[tile].quants + b * bytes, s, ds[tile], vf_set1(0), w[tile]);
            UNROLL for (int i = 0; i < 4; i++) UNROLL for (int k = 0; k < 2 * n; k++)
            {
                VF *sum = i % 2 ? &odd[k] : &even[k], xs = vf_set1(x[k / 2][4 * s + i]);
                *sum = vf_fma(w[k % 2][i], xs, *sum);
            }
        }
        UNROLL for (int i = 0; i < n; i++) x[i] += QUANT_BLOCK;
        b++;
        if (b % (FLOAT_COLS / QUANT_BLOCK) == 0 || b == n_blocks)
            UNROLL for (int k = 0; k < 2 * n; k++)
            {
                acc[k] = vf_add(acc[k], vf_add(even[k], odd[k]));
                even[k] = odd[k] = vf_set1(0);
            }
    }
    UNROLL for (int k = 0; k < 2 * n; k++) out[k / 2][k % 2] = acc[k];
}

#define DEFINE_DIRECT_WIDE(name, dtype)                                                            \
    static void direct_##name(const struct matmul_tile *t, VF(*acc)[TILES_TOGETHER])               \
    {                                                                                              \
        if (t->n_rows == 1)                                                                        \
            direct_wide_rows(dtype, t, 1, acc);                                                    \
        else                                                                                       \
            direct_wide_rows(dtype, t, 2, acc);                                                    \
    }

DEFINE_DIRECT_WIDE(nf4, DT_NF4)
DEFINE_DIRECT_WIDE(fp4, DT_FP4)
DEFINE_DIRECT_WIDE(fp8, DT_FP8)

/* Whether the tiles are for one of these: NF4, FP4 or FP8, and whole blocks of x. */
static bool is_direct_wide(const struct matmul_tile *t)
{
    return t->dtype >= DT_NF4 && t->n_rows <= 2 && t->n_tiles == 2 && t->cols % QUANT_BLOCK == 0;
}

#endif
