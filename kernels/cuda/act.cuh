/* act.cuh - activation functions, in f32, each step rounded: the same bits wherever inlined. */
#ifndef KERNELS_CUDA_ACT_CUH
#define KERNELS_CUDA_ACT_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/ops.h"

__device__ inline float act_silu(float x)
{
    return __fdiv_rn(x, __fadd_rn(1.0f, expf(-x)));
}

__device__ inline float act_gelu(float x)
{
    return __fmul_rn(__fmul_rn(0.5f, x), erfcf(__fmul_rn(-0.70710678f, x)));
}

__device__ inline float act_gelu_tanh(float x)
{
    float cube = __fmul_rn(__fmul_rn(x, x), x);
    float inner = __fmul_rn(0.79788456f, __fmaf_rn(0.044715f, cube, x));
    return __fmul_rn(__fmul_rn(0.5f, x), __fadd_rn(1.0f, tanhf(inner)));
}

__device__ inline float act_apply(enum act_kind act, float x)
{
    switch (act) {
    case ACT_SILU:
        return act_silu(x);
    case ACT_GELU:
        return act_gelu(x);
    case ACT_GELU_TANH:
        return act_gelu_tanh(x);
    case ACT_RELU:
        return fmaxf(x, 0.0f);
    default:
        return x;
    }
}

__device__ inline float act_load(__nv_bfloat16 v)
{
    return __bfloat162float(v);
}

__device__ inline float act_load(__half v)
{
    return __half2float(v);
}

__device__ inline void act_store(__nv_bfloat16 *to, float v)
{
    *to = __float2bfloat16_rn(v);
}

__device__ inline void act_store(__half *to, float v)
{
    *to = __float2half_rn(v);
}

/* To the activation type and back. */
template <class T> __device__ inline float act_round(float v)
{
    T t;
    act_store(&t, v);
    return act_load(t);
}

#endif
