/* norm_row.cuh - the norm of one row, and the one order of its sums.
 *
 * A row is summed by 256 threads: thread t takes the chunks t, t + 256, ... of 8 values, each chunk
 * in order, into one f32; then a butterfly in the warp; then the warps in order.  Whoever
 * normalises (norm.cu, and the prologue of matmul_skinny.cu) calls these, so that the bits are the
 * same. Widths are multiples of 8 (plan.c checks).
 *
 * Use: sum the chunks with norm_chunk_sum or norm_chunk_squares, meet in norm_block_sum, then
 * norm_scale, then norm_chunk for each chunk.  NORM_RMS has mean 0. */
#ifndef KERNELS_CUDA_NORM_ROW_CUH
#define KERNELS_CUDA_NORM_ROW_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/ops.h"

enum { NORM_THREADS = 256, NORM_WARPS = NORM_THREADS / 32, NORM_CHUNK = 8 };

__device__ inline float2 pair_to_f32(__nv_bfloat162 v)
{
    return __bfloat1622float2(v);
}

__device__ inline float2 pair_to_f32(__half2 v)
{
    return __half22float2(v);
}

__device__ inline void pair_from_f32(__nv_bfloat162 *to, float a, float b)
{
    *to = __floats2bfloat162_rn(a, b);
}

__device__ inline void pair_from_f32(__half2 *to, float a, float b)
{
    *to = __floats2half2_rn(a, b);
}

__device__ inline float2 pair_to_f32(float2 v)
{
    return v;
}

__device__ inline void pair_from_f32(float2 *to, float a, float b)
{
    *to = make_float2(a, b);
}

/* A chunk in memory: 16 bytes, or 32 of f32. */
struct alignas(16) chunk_f32 {
    float4 half[2];
};
template <class PAIR> struct chunk_type {
    typedef uint4 type;
};
template <> struct chunk_type<float2> {
    typedef chunk_f32 type;
};
template <class PAIR> using chunk_of = typename chunk_type<PAIR>::type;

/* PAIR is __nv_bfloat162, __half2 or float2: two activations. */
template <class PAIR>
__device__ inline void chunk_to_f32(float v[NORM_CHUNK], const chunk_of<PAIR> &chunk)
{
    const PAIR *pair = reinterpret_cast<const PAIR *>(&chunk);
#pragma unroll
    for (int i = 0; i < NORM_CHUNK / 2; i++) {
        float2 f = pair_to_f32(pair[i]);
        v[2 * i] = f.x;
        v[2 * i + 1] = f.y;
    }
}

template <class PAIR> __device__ inline chunk_of<PAIR> chunk_from_f32(const float v[NORM_CHUNK])
{
    chunk_of<PAIR> out;
    PAIR *pair = reinterpret_cast<PAIR *>(&out);
#pragma unroll
    for (int i = 0; i < NORM_CHUNK / 2; i++)
        pair_from_f32(&pair[i], v[2 * i], v[2 * i + 1]);
    return out;
}

template <class PAIR> __device__ inline float norm_chunk_sum(float sum, const chunk_of<PAIR> &chunk)
{
    float v[NORM_CHUNK];
    chunk_to_f32<PAIR>(v, chunk);
#pragma unroll
    for (int i = 0; i < NORM_CHUNK; i++)
        sum = __fadd_rn(sum, v[i]);
    return sum;
}

/* Sum of (x - mean)^2. */
template <class PAIR>
__device__ inline float norm_chunk_squares(float sum, const chunk_of<PAIR> &chunk, float mean)
{
    float v[NORM_CHUNK];
    chunk_to_f32<PAIR>(v, chunk);
#pragma unroll
    for (int i = 0; i < NORM_CHUNK; i++) {
        float d = __fsub_rn(v[i], mean);
        sum = __fmaf_rn(d, d, sum);
    }
    return sum;
}

/* The sum of all lanes, in every lane. */
__device__ inline float norm_warp_sum(float sum)
{
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2)
        sum = __fadd_rn(sum, __shfl_xor_sync(0xffffffffu, sum, lanes));
    return sum;
}

/* The warps' sums in order: `warp_sum` is [NORM_WARPS], written and then met at a barrier. */
__device__ inline float norm_warps_sum(const float *warp_sum)
{
    float sum = warp_sum[0];
#pragma unroll
    for (int w = 1; w < NORM_WARPS; w++)
        sum = __fadd_rn(sum, warp_sum[w]);
    return sum;
}

/* The sum of a block of NORM_THREADS threads, in every thread; `warp_sum` is shared. */
__device__ inline float norm_block_sum(float sum, float *warp_sum)
{
    sum = norm_warp_sum(sum);
    __syncthreads(); /* whoever reads an earlier sum is through */
    if (threadIdx.x % 32 == 0)
        warp_sum[threadIdx.x / 32] = sum;
    __syncthreads();
    return norm_warps_sum(warp_sum);
}

__device__ inline float norm_mean(float sum, int width)
{
    return __fdiv_rn(sum, (float)width);
}

/* What each value is multiplied by. */
__device__ inline float norm_scale(float squares, int width, float eps)
{
    return __frcp_rn(__fsqrt_rn(__fadd_rn(__fdiv_rn(squares, (float)width), eps)));
}

/* ((x - mean) * scale) * w + b, each step rounded to f32.  w and b are [NORM_CHUNK] of the chunk, or
 * NULL. */
template <class PAIR>
__device__ inline void norm_chunk_f32(float v[NORM_CHUNK], const chunk_of<PAIR> &chunk, float mean,
                                      float scale, const float *w, const float *b)
{
    chunk_to_f32<PAIR>(v, chunk);
#pragma unroll
    for (int i = 0; i < NORM_CHUNK; i++) {
        v[i] = __fmul_rn(__fsub_rn(v[i], mean), scale);
        if (w)
            v[i] = __fmul_rn(v[i], w[i]);
        if (b)
            v[i] = __fadd_rn(v[i], b[i]);
    }
}

/* The same, rounded to the activation type. */
template <class PAIR>
__device__ inline chunk_of<PAIR> norm_chunk(const chunk_of<PAIR> &chunk, float mean, float scale,
                                            const float *w, const float *b)
{
    float v[NORM_CHUNK];
    norm_chunk_f32<PAIR>(v, chunk, mean, scale, w, b);
    return chunk_from_f32<PAIR>(v);
}

#endif
