/* scheme_expand.cuh - codes to fragments in registers, and from chains to sums: scheme_layout.h's
 * rules.
 *
 * An integer of 8 bits is, as the low bits of a 16-bit float, that many of the least subnormal, as
 * subnormals and the first binade above them are spaced evenly; one fma takes it to normal numbers
 * and its zero point away.  E4M3 is shifted to where the wider exponent lies, and multiplied by the
 * difference of the biases; codebooks are looked up by byte permutations, or in shared memory.
 *
 * T is the activation type, __nv_bfloat16 or __half. */
#ifndef KERNELS_CUDA_SCHEME_EXPAND_CUH
#define KERNELS_CUDA_SCHEME_EXPAND_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/ptx_pair.cuh"
#include "kernels/cuda/scheme_layout.h"

/* What kernels are compiled for: a kind, integers with and without zero points apart. */
enum {
    EXPAND_INT4,
    EXPAND_CODEBOOK,
    EXPAND_INT8,
    EXPAND_FP8,
    EXPAND_INT4_ZERO,
    EXPAND_INT8_ZERO,
    EXPANDS
};

inline int expand_of(const struct scheme_layout *l)
{
    if (l->kind == KIND_INT4 && l->operand_bytes)
        return EXPAND_INT4_ZERO;
    return l->kind == KIND_INT8 && l->operand_bytes ? (int)EXPAND_INT8_ZERO : (int)l->kind;
}

__host__ __device__ constexpr bool expand_is_int4(int expand)
{
    return expand == EXPAND_INT4 || expand == EXPAND_INT4_ZERO;
}

__host__ __device__ constexpr int expand_bits(int expand)
{
    return expand_is_int4(expand) || expand == EXPAND_CODEBOOK ? 4 : 8;
}

/* Words of a lane for one step. */
__host__ __device__ constexpr int expand_words(int expand)
{
    return expand_bits(expand) / 4;
}

/* Chains of a tile whose scales or operands are of so many parts, 1 at least. */
__host__ __device__ constexpr int expand_chains(int expand, int parts)
{
    return expand == EXPAND_CODEBOOK ? 1 : parts;
}

/* Of an operand as it lies in a tile: 0 = none; 2 = an activation. */
__host__ __device__ constexpr int expand_operand_bytes(int expand)
{
    return expand == EXPAND_INT4_ZERO                                ? 1
           : expand == EXPAND_CODEBOOK || expand == EXPAND_INT8_ZERO ? 2
                                                                     : 0;
}

struct expand_book { /* a codebook in the activation type: upper and lower bytes of 16 values */
    uint32_t high[4], low[4];
};

/* ---- integers ---- */

/* Pairs of the type of the last argument: what takes `n` least subnormals, shifted left by `shift`,
 * to n / SCHEME_ONES; and -2^log2 / SCHEME_ONES. */
__device__ constexpr uint32_t integer_factor(int shift, __nv_bfloat16)
{
    return (uint32_t)(254 - shift) << 7 | (uint32_t)(254 - shift) << 23;
}

__device__ constexpr uint32_t integer_factor(int shift, __half)
{
    return (uint32_t)(30 - shift) << 10 | (uint32_t)(30 - shift) << 26;
}

__device__ constexpr uint32_t integer_minus(int log2, __nv_bfloat16)
{
    return 0x80008000 | (uint32_t)(121 + log2) << 7 | (uint32_t)(121 + log2) << 23;
}

__device__ constexpr uint32_t integer_minus(int log2, __half)
{
    return 0x80008000 | (uint32_t)(6 + log2) << 10 | (uint32_t)(6 + log2) << 26;
}

__host__ __device__ constexpr bool expand_is_integer(int expand)
{
    return expand != EXPAND_CODEBOOK && expand != EXPAND_FP8;
}

/* scheme_ones, of a type known here. */
__device__ constexpr float integer_ones(__nv_bfloat16)
{
    return SCHEME_ONES_BF16;
}

__device__ constexpr float integer_ones(__half)
{
    return SCHEME_ONES_F16;
}

template <class T, int EXPAND> __device__ constexpr float expand_ones()
{
    return expand_is_integer(EXPAND) ? integer_ones(T()) : 1.0f;
}

/* ---- operands ---- */

enum { INT4_ZEROS = 0x0808 }; /* of INT4 without zero points, two of them as they would lie */

/* Pairs of what is added to values of the lane's rows g and g + 8, or multiplies a codebook's.
 * `stored`: the two operands as they lie in the tile. */
template <class T, int EXPAND>
__device__ __forceinline__ void expand_operands(uint32_t operand[2], uint32_t stored)
{
    if (expand_operand_bytes(EXPAND) == 1) {
        const uint32_t by = integer_factor(0, T()) | 0x80008000;
        operand[0] = pair_mul(bytes_pick(stored, 0, 0x4040), by, T());
        operand[1] = pair_mul(bytes_pick(stored, 0, 0x4141), by, T());
    } else if (expand_operand_bytes(EXPAND) == 2) {
        operand[0] = bytes_pick(stored, 0, 0x1010);
        operand[1] = bytes_pick(stored, 0, 0x3232);
    }
}

/* ---- codes ---- */

/* Four of a step's values, of the selectors and of the flags that choose the table's upper half. */
__device__ __forceinline__ void expand_lookup(uint32_t a[2], uint32_t select, uint32_t upper,
                                              const expand_book &book)
{
    uint32_t high = bits_choose(upper, bytes_pick(book.high[2], book.high[3], select),
                                bytes_pick(book.high[0], book.high[1], select));
    uint32_t low = bits_choose(upper, bytes_pick(book.low[2], book.low[3], select),
                               bytes_pick(book.low[0], book.low[1], select));
    a[0] = bytes_pick(low, high, 0x5140);
    a[1] = bytes_pick(low, high, 0x7362);
}

/* A codebook's values to those of their rows: times the scale. */
template <class T> __device__ __forceinline__ void expand_scale(uint32_t a[4], const uint32_t by[2])
{
#pragma unroll
    for (int i = 0; i < 4; i++)
        a[i] = pair_mul(a[i], by[i % 2], T());
}

/* One byte in 0..7 and one in 16..23 of v: a pair of E4M3's values. */
__device__ __forceinline__ uint32_t expand_e4m3(uint32_t v, __nv_bfloat16 type)
{
    return pair_mul(bits_and_or(v << 8, 0x80008000, v << 4 & 0x07f007f0), 0x7b807b80, type);
}

__device__ __forceinline__ uint32_t expand_e4m3(uint32_t v, __half type)
{
    return pair_mul(bits_and_or(v << 8, 0x80008000, v << 7 & 0x3f803f80), 0x5c005c00, type);
}

/* The A fragment of one step from the lane's words of it. */
template <class T, int EXPAND>
__device__ __forceinline__ void expand_step(uint32_t a[4], const uint32_t *w,
                                            const uint32_t operand[2], const expand_book &book)
{
    if constexpr (expand_is_int4(EXPAND)) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t minus = EXPAND == EXPAND_INT4 ? integer_minus(3, T()) : operand[i % 2];
            const uint32_t nibbles = w[0] >> 8 * (i / 2) & (i % 2 ? 0x00f000f0 : 0x000f000f);
            a[i] = pair_fma(nibbles, integer_factor(4 * (i % 2), T()), minus, T());
        }
    } else if constexpr (EXPAND == EXPAND_CODEBOOK) {
        const uint32_t select = w[0] & 0x77777777, even = w[0] << 4; /* top bits to bytes' own */
        expand_lookup(a, select, bytes_pick(even, w[0], 0xd9c8), book);
        expand_lookup(a + 2, select >> 16, bytes_pick(even, w[0], 0xfbea), book);
        expand_scale<T>(a, operand);
    } else if constexpr (EXPAND == EXPAND_FP8) {
#pragma unroll
        for (int i = 0; i < 4; i++)
            a[i] = expand_e4m3(w[i / 2] >> 8 * (i % 2), T());
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t minus = EXPAND == EXPAND_INT8 ? integer_minus(7, T()) : operand[i % 2];
            const uint32_t bytes = bytes_pick(w[i / 2], 0, i % 2 ? 0x4341 : 0x4240);
            a[i] = pair_fma(bytes, integer_factor(0, T()), minus, T());
        }
    }
}

/* ---- codes by a table ----
 *
 * A byte of codes is the place of their pair of values in a table of 256.  Each lane of a warp has
 * a table of its own, which lies in one bank: no two lanes meet in one.  ROW: bytes from a pair to
 * the next, of which the lanes' take 128: 256, where there is room, make a place of a byte in one
 * instruction. */

enum { TABLE_PAIRS = 256, TABLE_ROW = 32 * 4, TABLE_ROW_WIDE = 256 };

__host__ __device__ constexpr int table_bytes(int row)
{
    return TABLE_PAIRS * row;
}

__device__ __forceinline__ uint32_t table_value(const expand_book &book, int code)
{
    const uint32_t high = book.high[code / 4] >> 8 * (code % 4) & 255;
    const uint32_t low = book.low[code / 4] >> 8 * (code % 4) & 255;
    return high << 8 | low;
}

/* All lanes' tables, by thread `i` of `n`, which are whole warps.  A lane reads one value of the
 * book and has the others from its warp: arguments of a kernel, as the book is, are slow to index.
 */
template <int ROW>
__device__ inline void table_make(uint32_t table, const expand_book &book, int i, int n)
{
    const uint32_t mine = table_value(book, i % 16);
#pragma unroll 4
    for (; i < TABLE_PAIRS * 8; i += n) {
        const uint32_t first = __shfl_sync(~0u, mine, i / 8 % 16);
        const uint32_t second = __shfl_sync(~0u, mine, i / 128);
        const uint32_t v = first | second << 16;
        store_shared_16(table + (uint32_t)(i / 8 * ROW + i % 8 * 16), make_uint4(v, v, v, v));
    }
}

/* The A fragment of one step from the lane's word of it, not scaled yet.  `lane_at`: 4 * lane. */
template <int ROW>
__device__ __forceinline__ void table_look(uint32_t a[4], uint32_t w, uint32_t table,
                                           uint32_t lane_at)
{
    if constexpr (ROW == TABLE_ROW_WIDE) {
#pragma unroll
        for (int i = 0; i < 4; i++) /* the place's bytes: lane_at, byte i of w, 0, 0 */
            a[i] = load_shared_4(table + bytes_pick(w, lane_at, 0x7604 | i << 4));
    } else {
        const uint32_t pair = 255 * ROW;
        a[0] = load_shared_4(table + bits_and_or(w * ROW, pair, lane_at));
        a[1] = load_shared_4(table + bits_and_or(w >> 1, pair, lane_at));
        a[2] = load_shared_4(table + bits_and_or(w >> 9, pair, lane_at));
        a[3] = load_shared_4(table + bits_and_or(w >> 17, pair, lane_at));
    }
}

template <class T, int ROW>
__device__ __forceinline__ void table_step(uint32_t a[4], uint32_t w, const uint32_t operand[2],
                                           uint32_t table, uint32_t lane_at)
{
    table_look<ROW>(a, w, table, lane_at);
    expand_scale<T>(a, operand);
}

/* ---- scales ---- */

/* All three types of scales are a sign, an exponent and a mantissa: moved to where a float has its
 * own, and multiplied by the difference of the biases. */
__host__ __device__ inline uint32_t scale_bits_shift(enum scheme_scale scale)
{
    return scale == SCALE_F16 ? 13 : scale == SCALE_BF16 ? 16 : 14;
}

__host__ __device__ inline float scale_bits_factor(enum scheme_scale scale)
{
    return scale == SCALE_F16 ? 0x1p112f : scale == SCALE_BF16 ? 1.0f : 0x1p82f;
}

/* The upper half of `bits` is the scale. */
__device__ __forceinline__ float scale_from_bits(uint32_t bits, uint32_t shift, float factor)
{
    return __fmul_rn(__uint_as_float((bits & 0x80000000) | (bits >> 16 & 0x7fff) << shift), factor);
}

/* The same of 16 bits with their sign before them, and 1 where a row has one scale: `v` is
 * anything. */
struct scale_reader {
    uint32_t shift, keep, one;
    float by;

    /* ones: expand_ones */
    __device__ scale_reader(enum scheme_scale scale, float ones)
    {
        const bool row = scale == SCALE_ROW;
        shift = scale_bits_shift(scale);
        keep = row ? 0 : 0x80000000 | 0x7fffu << shift;
        one = row ? 0x3f800000 : 0;
        by = row ? 1.0f : scale_bits_factor(scale) * ones;
    }

    __device__ __forceinline__ float value(uint32_t v) const
    {
        return __fmul_rn(__uint_as_float(bits_and_or(v << shift, keep, one)), by);
    }
};

__device__ __forceinline__ float scale_to_f32(uint32_t v, enum scheme_scale scale)
{
    return scale_from_bits(v << 16, scale_bits_shift(scale), scale_bits_factor(scale));
}

#endif
