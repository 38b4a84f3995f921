/* matmul_epilogue.cuh - from sums to y, two neighbours at a time: the rule of matmul_int.h.
 *
 * T is the activation type.  Additions and products are rounded one by one, so that the bits are
 * those of matmul_sm90.cu wherever this is inlined. */
#ifndef KERNELS_CUDA_MATMUL_EPILOGUE_CUH
#define KERNELS_CUDA_MATMUL_EPILOGUE_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/act.cuh"
#include "kernels/cuda/matmul_int.h"

template <class T> __device__ inline float round_to(float v)
{
    return (float)(T)v;
}

/* `at` is the value's place in y and add. */
template <class T>
__device__ inline float epilogue_value(const struct product &p, float sum, size_t at, int col)
{
    if (p.bias)
        sum = __fadd_rn(sum, p.bias[col]);
    if (p.gate_in_y)
        return __fmul_rn(activate(p.act, (float)((const T *)p.y)[at]), round_to<T>(sum));
    if (p.act != ACT_NONE)
        sum = activate(p.act, round_to<T>(sum));
    if (p.add)
        sum = __fadd_rn(sum, (float)((const T *)p.add)[at]);
    return sum;
}

template <class T>
__device__ inline float epilogue_gated(const struct product &p, float gate, float up, int col)
{
    if (p.bias)
        gate = __fadd_rn(gate, p.bias[col]);
    if (p.bias_up)
        up = __fadd_rn(up, p.bias_up[col]);
    return __fmul_rn(activate(p.act, round_to<T>(gate)), round_to<T>(up));
}

template <class Y> struct pair {
    Y v[2];
};

/* v[0] and, if y's row has it, v[1]; `aligned` <=> the two may be written at once. */
template <class Y>
__device__ inline void store_two(Y *y, const float v[2], bool has_second, bool aligned)
{
    if (has_second && aligned) {
        alignas(2 * sizeof(Y)) pair<Y> both = {{(Y)v[0], (Y)v[1]}};
        if (sizeof(Y) == 4)
            *(uint2 *)y = *(const uint2 *)&both;
        else
            *(uint32_t *)y = *(const uint32_t *)&both;
        return;
    }
    y[0] = (Y)v[0];
    if (has_second)
        y[1] = (Y)v[1];
}

/* One value of y. */
template <class T>
__device__ inline void epilogue_one(const struct product &p, int row, int col, float sum, float up)
{
    if (row >= p.rows || col >= p.n)
        return;
    const size_t at = (size_t)row * p.y_stride + col;
    const float v =
        p.w_up ? epilogue_gated<T>(p, sum, up, col) : epilogue_value<T>(p, sum, at, col);
    if (p.y_f32)
        ((float *)p.y)[at] = v;
    else
        ((T *)p.y)[at] = (T)v;
}

/* Columns col and col + 1 of a row of y, from their sums and, gated, from those of up (else
 * NULL).  Places outside y are left alone. */
template <class T>
__device__ inline void epilogue_two(const struct product &p, int row, int col, const float *sum,
                                    const float *up, bool aligned)
{
    if (row >= p.rows || col >= p.n)
        return;
    size_t at = (size_t)row * p.y_stride + col;
    bool has_second = col + 1 < p.n;
    float v[2] = {};
#pragma unroll
    for (int i = 0; i < 2; i++)
        if (i == 0 || has_second)
            v[i] = up ? epilogue_gated<T>(p, sum[i], up[i], col + i)
                      : epilogue_value<T>(p, sum[i], at + i, col + i);
    if (p.y_f32)
        store_two<float>((float *)p.y + at, v, has_second, aligned);
    else
        store_two<T>((T *)p.y + at, v, has_second, aligned);
}

/* May pairs of y's values be written at once? */
inline bool epilogue_aligned(const struct product *p)
{
    return p->y_stride % 2 == 0 && (uintptr_t)p->y % (p->y_f32 ? 8 : 4) == 0;
}

#endif
