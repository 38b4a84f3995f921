/* matmul_epilogue.cuh - from a sum to a value of y: the rule of matmul_int.h, for one value.
 *
 * T is the activation type.  Each step is rounded by itself, so that the bits are the same
 * wherever this is inlined. */
#ifndef KERNELS_CUDA_MATMUL_EPILOGUE_CUH
#define KERNELS_CUDA_MATMUL_EPILOGUE_CUH

#include "kernels/cuda/act.cuh"
#include "kernels/cuda/matmul_int.h"

/* (sum + bias) + add; `at` is the place in y. */
template <class T>
__device__ inline float epilogue_value(const struct product &p, float sum, size_t at, int col)
{
    if (p.bias)
        sum = __fadd_rn(sum, p.bias[col]);
    if (p.add)
        sum = __fadd_rn(sum, act_load(((const T *)p.add)[at]));
    return p.act == ACT_NONE ? sum : act_apply(p.act, act_round<T>(sum));
}

/* Both already rounded to T. */
__device__ inline float epilogue_gate(enum act_kind act, float gate, float up)
{
    return __fmul_rn(act_apply(act, gate), up);
}

/* gate and up are sums. */
template <class T>
__device__ inline float epilogue_gated(const struct product &p, float gate, float up, int col)
{
    if (p.bias)
        gate = __fadd_rn(gate, p.bias[col]);
    if (p.bias_up)
        up = __fadd_rn(up, p.bias_up[col]);
    return epilogue_gate(p.act, act_round<T>(gate), act_round<T>(up));
}

#endif
