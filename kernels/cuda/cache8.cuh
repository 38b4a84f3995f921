/* cache8.cuh - keys and values of 8 bits: from codes to numbers and back (ops.h has the format). */
#ifndef KERNELS_CUDA_CACHE8_CUH
#define KERNELS_CUDA_CACHE8_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <float.h>
#include <math.h>
#include <stdint.h>

/* Exactly: with its sign turned over, a code is 128 too large, and these are the last bits of a
 * float from 2^23 on. */
__device__ __forceinline__ void int8x4_to_f32(float v[4], uint32_t codes)
{
    const uint32_t bytes = codes ^ 0x80808080u;
#pragma unroll
    for (int i = 0; i < 4; i++)
        v[i] = __uint_as_float(__byte_perm(bytes, 0x4b000000u, 0x7440 + i)) - 8388736.0f;
}

__device__ __forceinline__ void e4m3x4_to_f32(float v[4], uint32_t codes)
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const __half2_raw pair =
            __nv_cvt_fp8x2_to_halfraw2((__nv_fp8x2_storage_t)(codes >> 16 * i & 0xffff), __NV_E4M3);
        const float2 two = __half22float2(__half2(pair));
        v[2 * i] = two.x;
        v[2 * i + 1] = two.y;
    }
}

/* Eight neighbours of a row of K, without the row's scale. */
__device__ __forceinline__ void keys8_to_f32(float v[8], uint2 codes)
{
    int8x4_to_f32(v, codes.x);
    int8x4_to_f32(v + 4, codes.y);
}

/* Eight neighbours of a row of V, with it. */
__device__ __forceinline__ void values8_to_f32(float v[8], uint2 codes, float scale, bool is_e4m3)
{
    if (is_e4m3) {
        e4m3x4_to_f32(v, codes.x);
        e4m3x4_to_f32(v + 4, codes.y);
    } else {
        keys8_to_f32(v, codes);
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
        v[i] = __fmul_rn(v[i], scale);
}

/* Codes I and J of four as two numbers of 16 bits, exactly. */

/* Behind the exponent of 2^7 the last 7 bits of a code are those of a bf16 from 128 on; its sign,
 * the bit before them, makes that twice as much.  Less 128, or 256, it is the code. */
template <int I, int J> __device__ __forceinline__ uint32_t int8_pair(uint32_t codes, __nv_bfloat16)
{
    const uint32_t x = __byte_perm(codes, 0x43434343u, 0x4040 + (J << 8) + I);
    const uint32_t low = x & 0xff7fff7fu, from = x & 0xff80ff80u;
    const __nv_bfloat162 v = __hsub2(*(const __nv_bfloat162 *)&low, *(const __nv_bfloat162 *)&from);
    return *(const uint32_t *)&v;
}

/* With its sign turned over a code is 128 too large, and the last bits of a half float from 1024
 * on. */
template <int I, int J> __device__ __forceinline__ uint32_t int8_pair(uint32_t codes, __half)
{
    const uint32_t x = __byte_perm(codes ^ 0x80808080u, 0x64646464u, 0x4040 + (J << 8) + I);
    const __half2 v = __hsub2(*(const __half2 *)&x, __float2half2_rn(1152.0f));
    return *(const uint32_t *)&v;
}

/* The bits of a code as those of a bf16, 120 powers of 2 below. */
template <int I, int J> __device__ __forceinline__ uint32_t e4m3_pair(uint32_t codes, __nv_bfloat16)
{
    const uint32_t x = __byte_perm(codes, 0, 0x0404 + (J << 12) + (I << 4));
    const uint32_t bits = (x & 0x80008000u) | (x >> 4 & 0x07f007f0u);
    const __nv_bfloat162 v =
        __hmul2(*(const __nv_bfloat162 *)&bits, __float2bfloat162_rn(0x1p120f));
    return *(const uint32_t *)&v;
}

template <int I, int J> __device__ __forceinline__ uint32_t e4m3_pair(uint32_t codes, __half)
{
    const uint32_t two = __byte_perm(codes, 0, 0x4400 + (J << 4) + I);
    const __half2_raw v = __nv_cvt_fp8x2_to_halfraw2((__nv_fp8x2_storage_t)two, __NV_E4M3);
    return (uint32_t)v.y << 16 | v.x;
}

template <bool E4M3, int I, int J, class T>
__device__ __forceinline__ uint32_t value_pair(uint32_t codes, T type)
{
    if constexpr (E4M3)
        return e4m3_pair<I, J>(codes, type);
    else
        return int8_pair<I, J>(codes, type);
}

/* The scale of a row from its largest magnitude; `is_finite`: all of it. */
__device__ __forceinline__ float row_scale(float top, bool is_finite, bool is_e4m3)
{
    const float scale = __fdiv_rn(top, is_e4m3 ? 448.0f : 127.0f);
    return !is_finite ? NAN : scale < FLT_MIN ? 0.0f : scale;
}

__device__ __forceinline__ uint8_t code_of(float x, float scale, bool is_e4m3)
{
    if (!(scale > 0))
        return 0;
    const float code = __fdiv_rn(x, scale);
    return is_e4m3 ? (uint8_t)__nv_cvt_float_to_fp8(code, __NV_SATFINITE, __NV_E4M3)
                   : (uint8_t)__float2int_rn(code);
}

#endif
