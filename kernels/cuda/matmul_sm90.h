/* matmul_sm90.h - products of many rows on Hopper.
 *
 * Thread: the device's. */
#ifndef KERNELS_CUDA_MATMUL_SM90_H
#define KERNELS_CUDA_MATMUL_SM90_H

#include "kernels/cuda/cuda_int.h"

struct wide_matmul { /* y = x @ w[0]^T, or y = act(x @ w[0]^T) * (x @ w[1]^T) */
    const void *x;   /* [rows, in] 16-byte aligned */
    int rows, in, n; /* in is a multiple of 8; n of each w */
    const void *w[2]; /* [n, in]; w[1] NULL <=> not gated */
    const float *bias[2]; /* [n] or NULL */
    enum act_kind act;
    void *y;         /* [rows, n], rows y_stride apart, y_stride a multiple of 8 unless y_f32 */
    int y_stride;
    bool y_f32;      /* y is f32; neither gated nor with add */
    const void *add; /* as y, or NULL; may be y */
};

void matmul_sm90(struct device *d, const struct wide_matmul *m);

#endif
