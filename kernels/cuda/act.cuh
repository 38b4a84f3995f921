/* act.cuh - the activation functions, in f32. */
#ifndef KERNELS_CUDA_ACT_CUH
#define KERNELS_CUDA_ACT_CUH

#include "kernels/cuda/ptx.cuh"
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

/* The division is what the compiler makes of x / y, without the branch for those that are very
 * small or large, which keeps others from running beside it: a tile's end has fifty a thread.  y
 * ends at 2^127, whose reciprocal counts as 0: gates below -88 give -0, infinite ones what they did
 * divided. */
__device__ __forceinline__ float silu(float x)
{
    const float y = 1 + exp2_approx(fminf(x * -1.4426950408889634f, 127));
    float r = reciprocal_near(y);
    r = __fmaf_rn(r, __fmaf_rn(-y, r, 1), r);
    const float q = __fmul_rn(x, r);
    return fabsf(x) < INFINITY ? __fmaf_rn(r, __fmaf_rn(-y, q, x), q) : q;
}

__device__ __forceinline__ float activate(enum act_kind kind, float x)
{
    return kind == ACT_SILU ? silu(x) : activate_rare(kind, x);
}

#endif
