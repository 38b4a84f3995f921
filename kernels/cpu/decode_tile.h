/* decode_tile.h - packed tiles to what a product multiplies, and its sums to where they belong.
 *
 * What the tile multiplies of all instruction sets share; included behind the same definitions as
 * matmul_tile.h, of which it wants LANES, VI, VF, vi_*, vf_* and dot_s_weights. */
#ifndef KERNELS_CPU_DECODE_TILE_H
#define KERNELS_CPU_DECODE_TILE_H

#include "kernels/cpu/matmul_int.h"

/* MATMUL_GENERIC: one copy of everything for all formats, slow but quick to compile.  Under
 * sanitizers the instances for each format would take minutes. */
#if defined MATMUL_GENERIC || defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
#define ALWAYS_INLINE static inline
#define UNROLL
#else
#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define UNROLL        _Pragma("GCC unroll 16")
#endif

enum {
    STEPS = QUANT_BLOCK / 4,
    VI_BYTES = LANES * 4,
    TILES_TOGETHER = MATMUL_TILES_MAX,
    DECODED_COLS = 768, /* two decoded tiles and their scales: 18 KiB, in the first-level cache */
    PREFETCH_BYTES = 2048, /* the processor's own prefetching stops at each page and tile */
};

/* The arrays of a tile, at their first block. */
struct tile_at {
    const uint8_t *quants, *scales, *supers;
};

ALWAYS_INLINE struct tile_at tile_arrays(const struct matmul_tile *t, enum dtype dtype, int tile)
{
    size_t n = (size_t)t->cols / QUANT_BLOCK;
    struct tile_at at = {.quants = t->w + (size_t)tile * t->tile_bytes};
    at.scales = at.quants + n * pack_quants_bytes(dtype, LANES);
    at.supers = at.scales + n * pack_scales_bytes(dtype, LANES);
    return at;
}

ALWAYS_INLINE bool has_low(struct quant_traits f) /* does its dot product need the sum of x? */
{
    return f.has_min || f.offset;
}

ALWAYS_INLINE int groups_of(struct quant_traits f) /* in a block */
{
    return f.group == 32 ? 1 : 2;
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

/* The same, as dot_u or dot_s takes them. */
ALWAYS_INLINE void read_weights(int bits, const uint8_t *p, VI *w)
{
    read_quants(bits, p, w);
    if (bits == 8)
        UNROLL for (int s = 0; s < STEPS; s++) w[s] = dot_s_weights(w[s]);
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
    const int groups = groups_of(f);
    if (f.offset)
        UNROLL for (int g = 0; g < groups; g++) ms[g] = vf_mul(ds[g], vf_set1(-(float)f.offset));
}

ALWAYS_INLINE void prefetch(const uint8_t *p, size_t n_bytes)
{
    UNROLL for (size_t at = 0; at < n_bytes; at += 64) __builtin_prefetch(p + at);
}

/* Many rows: some columns of two tiles are decoded once, and every row meets them. */
struct decoded {
    size_t first;                 /* block */
    const VI *at[TILES_TOGETHER]; /* the q: `q`, or signed bytes where the packed tile has them */
    VI q[TILES_TOGETHER][DECODED_COLS / 4];
    VF ds[TILES_TOGETHER][DECODED_COLS / 16], ms[TILES_TOGETHER][DECODED_COLS / 16];
};

#ifdef MATMUL_SIGNED_IN_PLACE
enum { SIGNED_IN_PLACE = true };
#else
enum { SIGNED_IN_PLACE = false };
#endif

/* The q of n blocks at p. */
ALWAYS_INLINE void decode_quants(int bits, const uint8_t *p, size_t n, int tile, struct decoded *to)
{
    const size_t bytes = (size_t)VI_BYTES * (size_t)bits;
    to->at[tile] = to->q[tile];
    if (bits == 8 && SIGNED_IN_PLACE)
        to->at[tile] = (const void *)p;
    else
        for (size_t b = 0; b < n; b++)
            read_weights(bits, p + b * bytes, to->q[tile] + b * STEPS);
}

ALWAYS_INLINE void decode_cols(enum dtype dtype, const struct matmul_tile *t, size_t first,
                               size_t n, struct decoded *to)
{
    const struct quant_traits f = quant_traits[dtype];
    const size_t groups = (size_t)groups_of(f);
    for (int tile = 0; tile < t->n_tiles; tile++) {
        const struct tile_at at = tile_arrays(t, dtype, tile);
        decode_quants(f.bits, at.quants + first * pack_quants_bytes(dtype, LANES), n, tile, to);
        for (size_t b = 0; b < n; b++)
            read_scales(dtype, at, first + b, to->ds[tile] + b * groups, to->ms[tile] + b * groups);
    }
}

static inline void store_lanes(const struct matmul_tile *t, int row, int tile, VF acc)
{
    const int64_t lane = tile * LANES, at = row * t->y_stride + lane;
    const float *bias = t->bias ? t->bias + lane : NULL, *add = t->add ? t->add + at : NULL;
    if (t->n_lanes - lane >= LANES) {
        if (bias)
            acc = vf_add(acc, vf_load(bias));
        if (add)
            acc = vf_add(acc, vf_load(add));
        vf_store(t->y + at, acc);
        return;
    }
    float sums[LANES];
    vf_store(sums, acc);
    for (int r = 0; r < t->n_lanes - lane; r++) {
        float v = sums[r];
        if (bias)
            v += bias[r];
        if (add)
            v += add[r];
        t->y[at + r] = v;
    }
}

static inline void store_rows(const struct matmul_tile *t, VF (*acc)[TILES_TOGETHER])
{
    for (int i = 0; i < t->n_rows; i += t->n_planes)
        for (int tile = 0; tile < t->n_tiles; tile++) {
            VF sum = t->n_planes == 2 ? vf_add(acc[i][tile], acc[i + 1][tile]) : acc[i][tile];
            store_lanes(t, i / t->n_planes, tile, sum);
        }
}

#include "kernels/cpu/scheme_decode_tile.h"

#endif
