/* act_type.cuh - eight activations as they travel: a chunk in memory, floats in registers. */
#ifndef KERNELS_CUDA_ACT_TYPE_CUH
#define KERNELS_CUDA_ACT_TYPE_CUH

#include "kernels/cuda/norm_row.cuh"

enum { CHUNK = NORM_CHUNK };

/* The type of one activation, for shapes that chunks do not fit. */
template <class PAIR> struct single_of;
template <> struct single_of<__nv_bfloat162> {
    typedef __nv_bfloat16 type;
};
template <> struct single_of<__half2> {
    typedef __half type;
};
template <> struct single_of<float2> {
    typedef float type;
};

__device__ inline float load_f32(const __nv_bfloat16 *p)
{
    return __bfloat162float(*p);
}
__device__ inline float load_f32(const __half *p)
{
    return __half2float(*p);
}
__device__ inline float load_f32(const float *p)
{
    return *p;
}
__device__ inline void store_f32(__nv_bfloat16 *p, float v)
{
    *p = __float2bfloat16_rn(v);
}
__device__ inline void store_f32(__half *p, float v)
{
    *p = __float2half_rn(v);
}
__device__ inline void store_f32(float *p, float v)
{
    *p = v;
}

/* Both kinds of 16 bits run through one launcher: f gets a value of the pair type. */
template <class F> void with_act_type(enum dtype act, F f)
{
    if (act == DT_F16)
        f(__half2());
    else
        f(__nv_bfloat162());
}

/* The same where f32 has the kernel, too. */
template <class F> void with_any_act_type(enum dtype act, F f)
{
    if (act == DT_F32)
        f(float2());
    else
        with_act_type(act, f);
}

#endif
