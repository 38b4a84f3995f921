/* block_expand.cuh - block formats of GGUF in registers: codes, groups and supers to fragments, by
 * block_layout.h's rules, 32 columns of a unit at a time.
 *
 * Arithmetic is on pairs of f16: a code becomes the low mantissa bits of 1024, and what multiplies
 * it takes the 1024 away, exactly.  T is the activation type, FORMAT a dtype. */
#ifndef KERNELS_CUDA_BLOCK_EXPAND_CUH
#define KERNELS_CUDA_BLOCK_EXPAND_CUH

#include "kernels/cuda/block_layout.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/scheme_expand.cuh"

/* ---- pairs of f16 ---- */

static constexpr uint32_t HALF_1024 = 0x64006400, HALF_MINUS_1024 = 0xe400e400,
                          HALF_MINUS_64 = 0xd400d400, HALF_16TH = 0x2c002c00;

/* Byte i of v twice, with 1024 added. */
__device__ __forceinline__ uint32_t half_byte(uint32_t v, int i)
{
    return bytes_pick(v, 0x00000064, 0x4040u | i << 8 | i);
}

/* Signed bytes in 0..7 and 16..23 of v: a pair. */
__device__ __forceinline__ uint32_t half_signed_pair(uint32_t v)
{
    return pair_sub(bits_and_xor(v, 0x00ff00ff, 0x64806480), 0x64806480, __half());
}

/* Byte i of v twice, signed. */
__device__ __forceinline__ uint32_t half_signed_byte(uint32_t v, int i)
{
    return half_signed_pair(bytes_pick(v, 0, 0x4040u | i << 8 | i));
}

/* Half i of v twice. */
__device__ __forceinline__ uint32_t half_twice(uint32_t v, int i)
{
    return bytes_pick(v, 0, i ? 0x3232 : 0x1010);
}

/* n words of shared memory, 1, 2 or 4. */
template <int N> __device__ __forceinline__ void load_words(uint32_t *to, uint32_t at)
{
    if constexpr (N == 4)
        *(uint4 *)to = load_shared_16(at);
    else if constexpr (N == 2)
        *(uint2 *)to = load_shared_8(at);
    else
        to[0] = load_shared_4(at);
}

/* ---- a tile ---- */

/* What K formats' rows g and g + 8 have in common in a tile, as pairs: d, and -m. */
template <int FORMAT> struct block_supers {
    static constexpr enum dtype f = (enum dtype)FORMAT;
    uint32_t d[2], m[2];

    __device__ __forceinline__ void load(uint32_t tile, int lane)
    {
        if constexpr (block_has_super(f)) {
            constexpr int WORDS = (int)block_super_bytes(f) / 4;
            alignas(8) uint32_t w[2];
            load_words<WORDS>(w, tile + block_supers_at(f) +
                                     (uint32_t)(lane / 4) * block_super_bytes(f));
#pragma unroll
            for (int row = 0; row < 2; row++) {
                d[row] = half_twice(w[0], row);
                if constexpr (block_has_min(f))
                    m[row] = half_twice(w[1], row) ^ 0x80008000;
            }
        }
    }
};

/* ---- 32 columns ---- */

/* What multiplies the codes of rows g and g + 8, as pairs; of each 16 columns, or of all 32 in [0].
 * Codes of row g come as 1024 + q, those of row g + 8 as 1024 + 16 * q, which spares a shift: sc is
 * that of q, or a 16th; sc_zero takes the 1024 away. */
struct block_rows {
    uint32_t d[2], m[2][2]; /* scale, and the minimum, which is added */
    uint32_t sc[2][2], sc_zero[2][2];
};

template <class T, int FORMAT> struct block_quarter {
    static constexpr enum dtype f = (enum dtype)FORMAT;
    static constexpr int LOW = block_low_bits(f), HIGH = block_high_bits(f);
    static constexpr bool SUPER = block_has_super(f), MIN = block_has_min(f);
    static constexpr int HALVES = block_has_16(f) ? 2 : 1;
    static constexpr int LOW_WORDS = LOW / 2, GROUP_WORDS = (int)block_group_bytes(f) / 4;
    alignas(16) uint32_t low[LOW_WORDS];
    uint32_t high;
    alignas(8) uint32_t group[GROUP_WORDS];

    /* Of quarter q of the tile at `tile` in shared memory. */
    __device__ __forceinline__ void load(uint32_t tile, int q, int lane)
    {
        load_words<LOW_WORDS>(low, tile + (uint32_t)(q * 32 + lane) * LOW_WORDS * 4);
        if constexpr (HIGH > 0)
            high = load_shared_4(tile + block_high_at(f) +
                                 (uint32_t)((HIGH == 1 ? q / 2 : q) * 32 + lane) * 4);
        load_words<GROUP_WORDS>(group, tile + block_groups_at(f) +
                                           (uint32_t)(q * 8 + lane / 4) * block_group_bytes(f));
    }

    __device__ __forceinline__ uint32_t sc_of(int half, int row) const
    {
        if constexpr (!MIN)
            return half_signed_byte(group[0], 2 * half + row);
        const uint32_t v = f == DT_Q2_K ? group[0] & 0x0f0f0f0f : group[0];
        return pair_sub(half_byte(v, 2 * half + row), HALF_1024, __half());
    }

    __device__ __forceinline__ uint32_t mn_of(int half, int row) const
    {
        const uint32_t v = f == DT_Q2_K ? half_byte(group[0] >> 4 & 0x0f0f0f0f, 2 * half + row)
                                        : half_byte(group[0], 2 + row);
        return pair_sub(v, HALF_1024, __half());
    }

    __device__ __forceinline__ block_rows rows(const block_supers<FORMAT> &super) const
    {
        block_rows r;
#pragma unroll
        for (int row = 0; row < 2; row++) {
            r.d[row] = SUPER ? super.d[row] : half_twice(group[0], row);
            if constexpr (MIN && !SUPER)
                r.m[0][row] = half_twice(group[1], row);
            if constexpr (SUPER)
#pragma unroll
                for (int half = 0; half < HALVES; half++) {
                    const uint32_t sc = sc_of(half, row);
                    r.sc[half][row] = sc;
                    if constexpr (MIN) {
                        if (row == 1)
                            r.sc[half][row] = pair_mul(sc, HALF_16TH, __half());
                        r.sc_zero[half][row] =
                            pair_mul(sc, row ? HALF_MINUS_64 : HALF_MINUS_1024, __half());
                        r.m[half][row] = pair_mul(mn_of(half, row), super.m[row], __half());
                    }
                }
        }
        return r;
    }

    /* Codes of register i of the quarter's step s: 1024 + q, or 1024 + 16 * q. */
    __device__ __forceinline__ uint32_t codes(int q, int s, int i) const
    {
        const int up = i % 2 * 4; /* where q begins */
        const uint32_t w = LOW == 4 ? low[s] >> block_bit_at(4, 0, i / 2 * 2, 0)
                                    : low[0] >> block_bit_at(2, s, i / 2 * 2, 0);
        uint32_t v = bits_and_or(w, (LOW == 4 ? 0x000f000fu : 0x00030003u) << up, HALF_1024);
        if constexpr (HIGH > 0) {
            const int p = HIGH == 1 ? q % 2 * 2 + s : s;
            const int at = block_bit_at(HIGH, p, i / 2 * 2, 0) - LOW;
            const uint32_t h = at >= 0 ? high >> at : high << -at;
            v = bits_and_or(h, (HIGH == 1 ? 0x00010001u : 0x00030003u) << (LOW + up), v);
        }
        return v;
    }

    /* q - offset of codes(). */
    __device__ __forceinline__ uint32_t whole(uint32_t codes, int row) const
    {
        constexpr uint32_t OFF = 0x00010001u * block_offset(f);
        return row == 0 ? pair_sub(codes, HALF_1024 + OFF, __half())
                        : pair_fma(codes, HALF_16TH, HALF_MINUS_64 + 16 * OFF, __half());
    }

    __device__ __forceinline__ uint32_t value(const block_rows &r, int q, int s, int i) const
    {
        const int half = HALVES == 2 ? s : 0, row = i % 2;
        if constexpr (LOW == 8)
            return pair_mul(half_signed_pair(low[2 * s + i / 2] >> 8 * (i % 2)), r.d[row],
                            __half());
        const uint32_t v = codes(q, s, i);
        if constexpr (SUPER && MIN)
            return pair_fma(pair_fma(v, r.sc[half][row], r.sc_zero[half][row], __half()), r.d[row],
                            r.m[half][row], __half());
        if constexpr (MIN)
            return pair_fma(whole(v, row), r.d[row], r.m[0][row], __half());
        if constexpr (SUPER)
            return pair_mul(pair_mul(whole(v, row), r.sc[half][row], __half()), r.d[row], __half());
        return pair_mul(whole(v, row), r.d[row], __half());
    }

    /* The A fragment of step s, 0 or 1, of quarter q: a constant but for its parity. */
    __device__ __forceinline__ void fragment(uint32_t a[4], const block_rows &r, int q, int s) const
    {
#pragma unroll
        for (int i = 0; i < 4; i++)
            a[i] = pair_from_halves(value(r, q, s, i), T());
    }
};

#endif
