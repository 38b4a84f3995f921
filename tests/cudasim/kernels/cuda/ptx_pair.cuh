/* ptx_pair.cuh - kernels/cuda/ptx_pair.cuh for the simulation. */
#ifndef KERNELS_CUDA_PTX_PAIR_CUH
#define KERNELS_CUDA_PTX_PAIR_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <math.h>

extern "C" {
#include "kernels/half.h"
}

/* ---- arithmetic: each half rounded once ---- */

inline float half_to_f32(uint32_t v, __nv_bfloat16)
{
    return f32_from_bf16((uint16_t)v);
}

inline float half_to_f32(uint32_t v, __half)
{
    return f32_from_f16((uint16_t)v);
}

inline uint32_t half_from_f32(float v, __nv_bfloat16)
{
    return f32_to_bf16(v);
}

inline uint32_t half_from_f32(float v, __half)
{
    return f32_to_f16(v);
}

template <class T, class F> uint32_t each_half(uint32_t a, uint32_t b, T type, F f)
{
    const float low = f(half_to_f32(a, type), half_to_f32(b, type));
    const float high = f(half_to_f32(a >> 16, type), half_to_f32(b >> 16, type));
    return half_from_f32(low, type) | half_from_f32(high, type) << 16;
}

/* f32 holds a product of two, and rounds a difference so that rounding it again changes nothing. */
template <class T> uint32_t pair_sub(uint32_t a, uint32_t b, T type)
{
    return each_half(a, b, type, [](float x, float y) { return x - y; });
}

template <class T> uint32_t pair_mul(uint32_t a, uint32_t b, T type)
{
    return each_half(a, b, type, [](float x, float y) { return x * y; });
}

/* To f32 by rounding to odd, so that rounding to 16 bits afterwards rounds the sum, which a double
 * holds where its parts lie within 53 bits. */
inline float fma_to_odd(float a, float b, float c)
{
    const double exact = (double)a * b + c;
    const float near = (float)exact;
    if (near == exact || (f32_to_bits(near) & 1))
        return near;
    const bool beyond = fabs((double)near) > fabs(exact);
    return f32_from_bits(f32_to_bits(near) + (beyond ? -1u : 1u));
}

template <class T> uint32_t pair_fma(uint32_t a, uint32_t b, uint32_t c, T type)
{
    const float low = fma_to_odd(half_to_f32(a, type), half_to_f32(b, type), half_to_f32(c, type));
    const float high = fma_to_odd(half_to_f32(a >> 16, type), half_to_f32(b >> 16, type),
                                  half_to_f32(c >> 16, type));
    return half_from_f32(low, type) | half_from_f32(high, type) << 16;
}

inline uint32_t pair_from_halves(uint32_t v, __half)
{
    return v;
}

inline uint32_t pair_from_halves(uint32_t v, __nv_bfloat16)
{
    return (uint32_t)f32_to_bf16(f32_from_f16((uint16_t)v)) |
           (uint32_t)f32_to_bf16(f32_from_f16((uint16_t)(v >> 16))) << 16;
}

/* ---- bits and bytes ---- */

inline uint32_t bits_and_or(uint32_t a, uint32_t b, uint32_t c)
{
    return (a & b) | c;
}

inline uint32_t bits_and_xor(uint32_t a, uint32_t b, uint32_t c)
{
    return (a & b) ^ c;
}

inline uint32_t bits_choose(uint32_t where, uint32_t a, uint32_t b)
{
    return (where & a) | (~where & b);
}

inline uint32_t bytes_pick(uint32_t a, uint32_t b, uint32_t select)
{
    const uint64_t both = (uint64_t)b << 32 | a;
    uint32_t d = 0;
    for (int i = 0; i < 4; i++) {
        const uint32_t which = select >> 4 * i & 15,
                       byte = (uint32_t)(both >> (which & 7) * 8 & 0xff);
        d |= (which & 8 ? (byte & 0x80 ? 0xffu : 0) : byte) << 8 * i;
    }
    return d;
}

#endif
