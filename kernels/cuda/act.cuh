/* act.cuh - the activation functions, in f32. */
#ifndef KERNELS_CUDA_ACT_CUH
#define KERNELS_CUDA_ACT_CUH

#include "kernels/ops.h"

__device__ __forceinline__ float activate(enum act_kind kind, float x)
{
    switch (kind) {
    case ACT_SILU:
        return x / (1 + __expf(-x));
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

#endif
