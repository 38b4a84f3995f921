/* act.cuh - the activation functions, in f32. */
#ifndef KERNELS_CUDA_ACT_CUH
#define KERNELS_CUDA_ACT_CUH

#include "kernels/ops.h"

/* Not inlined: an unrolled epilogue that holds them at each value outgrows the instruction cache
 * (a tile of matmul_sm90 then takes 18 us longer). */
static __device__ __noinline__ float activate_rare(enum act_kind kind, float x)
{
    switch (kind) {
    case ACT_GELU:
        return 0.5f * x * (1 + erff(x * 0.70710678f));
    case ACT_GELU_TANH:
        return 0.5f * x * (1 + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
    case ACT_RELU:
        return fmaxf(x, 0);
    default:
        return x;
    }
}

__device__ __forceinline__ float activate(enum act_kind kind, float x)
{
    return kind == ACT_SILU ? x / (1 + __expf(-x)) : activate_rare(kind, x);
}

#endif
