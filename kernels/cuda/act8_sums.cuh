/* act8_sums.cuh - the scales that sums of 8-bit codes are multiplied by. */
#ifndef KERNELS_CUDA_ACT8_SUMS_CUH
#define KERNELS_CUDA_ACT8_SUMS_CUH

#include "kernels/cuda/act8.h"
#include "kernels/cuda/matmul_int.h"

struct act8_scales {
    const float *row;    /* [rows] of the activations */
    const uint8_t *w[2]; /* the first group's scales; of w and w_up */
    size_t group_bytes;
};

inline struct act8_scales act8_scales_of(const struct product *p, const struct act8_rows *x)
{
    const size_t codes = act8_codes_bytes(p->in);
    struct act8_scales s = {};
    s.row = x->scale;
    s.w[0] = (const uint8_t *)p->w + codes;
    s.w[1] = (const uint8_t *)(p->w_up ? p->w_up : p->w) + codes;
    s.group_bytes = act8_group_bytes(p->in);
    return s;
}

__device__ __forceinline__ float act8_column_scale(const struct act8_scales &s, int part,
                                                   int column)
{
    return __ldg((const float *)(s.w[part] + (size_t)(column / ACT8_GROUP) * s.group_bytes) +
                 column % ACT8_GROUP);
}

#endif
