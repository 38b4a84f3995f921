/* scheme_decode_tile.h - the same of a scheme: its groups, its columns, and the outliers of x. */
#ifndef KERNELS_CPU_SCHEME_DECODE_TILE_H
#define KERNELS_CPU_SCHEME_DECODE_TILE_H

/* The arrays of a tile, and what a group takes of each. */
struct scheme_at {
    const uint8_t *quants, *scales, *zeros;
    size_t scale_bytes, zero_bytes; /* zero_bytes = 0 <=> no zero points */
    size_t group_blocks;
    enum dtype scale;
};

ALWAYS_INLINE struct scheme_at scheme_arrays(const struct matmul_tile *t, enum dtype codes,
                                             int tile)
{
    const struct scheme *s = t->scheme;
    const size_t n_blocks = pack_blocks(t->cols);
    struct scheme_at at = {.quants = t->w + (size_t)tile * t->tile_bytes,
                           .scale_bytes = pack_group_scale_bytes(s, LANES),
                           .zero_bytes = pack_group_zero_bytes(s, LANES),
                           .scale = s->nested ? DT_F32 : s->scale};
    at.group_blocks = s->group ? (size_t)s->group / QUANT_BLOCK : n_blocks;
    at.scales = at.quants + n_blocks * pack_quants_bytes(codes, LANES);
    at.zeros = at.scales + (size_t)scheme_groups(s, t->cols) * at.scale_bytes;
    return at;
}

ALWAYS_INLINE VF scheme_scale(const struct scheme_at *at, size_t g)
{
    const uint8_t *p = at->scales + g * at->scale_bytes;
    return at->scale == DT_F32   ? vf_load(p)
           : at->scale == DT_F16 ? vf_from_f16(p)
                                 : vf_from_bf16(p);
}

/* Minus the zero point, of INT8 as its signed bytes have it. */
ALWAYS_INLINE VF scheme_minus_zero(enum dtype codes, const struct scheme_at *at, size_t g)
{
    const uint8_t *p = at->zeros + g * at->zero_bytes;
    if (at->zero_bytes == 0)
        return vf_set1(codes == DT_INT4 ? -8 : 0);
    return vf_mul(codes == DT_INT4 ? vf_from_u8(p) : vf_from_bf16(p), vf_set1(-1));
}

/* What read_scales gives for a block format, of a group. */
ALWAYS_INLINE void scheme_group(enum dtype codes, struct quant_traits f, const struct scheme_at *at,
                                size_t g, VF *ds, VF *ms)
{
    *ds = scheme_scale(at, g);
    if (has_low(f))
        *ms = vf_mul(*ds, scheme_minus_zero(codes, at, g));
}

/* INT4's code is unsigned and always has an offset; INT8's has one if there are zero points. */
static const struct quant_traits low4_traits = {.bits = 4, .group = 32, .has_min = true};
static const struct quant_traits low8_traits = {.bits = 8, .group = 32, .has_min = true};

/* decode_cols of a scheme: a group's scale for each of its blocks. */
ALWAYS_INLINE void decode_scheme(enum dtype codes, struct quant_traits f,
                                 const struct matmul_tile *t, size_t first, size_t n,
                                 struct decoded *to)
{
    const size_t bytes = pack_quants_bytes(codes, LANES);
    for (int tile = 0; tile < t->n_tiles; tile++) {
        const struct scheme_at at = scheme_arrays(t, codes, tile);
        size_t g = first / at.group_blocks, end = (g + 1) * at.group_blocks;
        VF ds, ms = vf_set1(0);
        decode_quants(f.bits, at.quants + first * bytes, n, tile, to);
        scheme_group(codes, f, &at, g, &ds, &ms);
        for (size_t b = first; b < first + n; b++) {
            if (b == end) {
                end += at.group_blocks;
                scheme_group(codes, f, &at, ++g, &ds, &ms);
            }
            to->ds[tile][b - first] = ds;
            to->ms[tile][b - first] = ms;
        }
    }
}

/* Column 4 step + byte of the 32 at p, of INT4 or INT8. */
ALWAYS_INLINE VF scheme_integer(enum dtype codes, const uint8_t *p, int step, int byte, VF ds,
                                VF minus_zero)
{
    VF code = codes == DT_INT8
                  ? vf_from_s8_of(vi_load(p + step * VI_BYTES), byte)
                  : vf_from_nibble(vi_load(p + step % 4 * VI_BYTES), 8 * byte + step / 4 * 4);
    return vf_mul(ds, vf_add(code, minus_zero));
}

static inline VF outlier_column(const struct matmul_tile *t, int tile, int b, int c)
{
    const enum dtype codes = t->dtype;
    const struct scheme_at at = scheme_arrays(t, codes, tile);
    const size_t g = (size_t)b / at.group_blocks;
    const uint8_t *p = at.quants + (size_t)b * pack_quants_bytes(codes, LANES);
    VF ds = scheme_scale(&at, g), zero = scheme_minus_zero(codes, &at, g);
    return codes == DT_INT4 ? scheme_integer(DT_INT4, p, c / 4, c % 4, ds, zero)
                            : scheme_integer(DT_INT8, p, c / 4, c % 4, ds, zero);
}

/* The activations that are not in the blocks of their row, in order of columns, after all blocks.
 * Their columns alone are read again, from a tile that has just passed through the cache. */
static inline void add_outliers(const struct matmul_tile *t, VF (*acc)[TILES_TOGETHER])
{
    const size_t blocks_bytes = pack_blocks(t->cols) * sizeof(struct act_block);
    for (int i = 0; i < t->n_rows; i++) {
        const struct act_outliers *o =
            (const void *)((const char *)row_of(t->x, i, t->x_stride) + blocks_bytes);
        const float *x = t->x_wide + (size_t)i * (size_t)t->cols;
        for (int k = 0; k < o->n; k++)
            for (uint32_t mask = o->at[k].mask; mask; mask &= mask - 1) {
                const int c = __builtin_ctz(mask), at = o->at[k].block * QUANT_BLOCK + c;
                VF xs = vf_set1(x[t->order ? t->order[at] : at]);
                for (int tile = 0; tile < t->n_tiles; tile++)
                    acc[i][tile] =
                        vf_fma(outlier_column(t, tile, o->at[k].block, c), xs, acc[i][tile]);
            }
    }
}

#endif
