/* matmul_int.h - one product, what becomes of its sums, and the three ways to run it.
 *
 * Each sum is one chain of mma over k, 16 at a time, in order, in f32.  Then, in every way alike,
 * so that a row's bits do not depend on the rows beside it:
 *
 *     v = sum + bias                                 f32
 *     y = v + add, or act(round(v)) + add            f32, rounded once to y's type
 *     y = act(round(v of gate)) * round(v of up)     gated: f32, rounded once */
#ifndef KERNELS_CUDA_MATMUL_INT_H
#define KERNELS_CUDA_MATMUL_INT_H

#include "kernels/cuda/choose.h"
#include "kernels/cuda/cuda_int.h"

struct product { /* y[rows, n] of x[rows, in] and w; one or several weights that lie together */
    const void *x;
    int rows, in, n;
    const void *w, *w_up;        /* [n, in]; w_up NULL <=> not gated */
    const float *bias, *bias_up; /* [n] or NULL */
    enum act_kind act;
    void *y; /* rows y_stride apart; f32 if y_f32, else activations */
    int y_stride;
    bool y_f32;                      /* then neither act nor add */
    const void *add;                 /* as y, or NULL; not when gated */
    const struct norm *norm;         /* of x, or NULL */
    const struct batch_head *gather; /* row i of x is x[gather[i].row]; NULL <=> x[i] */
};

/* matmul_skinny.cu; norm and gather only where the choice fuses the norm. */
void matmul_skinny(struct device *, const struct product *, const struct matmul_choice *);
/* matmul_tiles.cu: any shape on any device, at no great speed; norm and gather are NULL. */
void matmul_tiles(struct device *, const struct product *);

/* matmul.cu: does the kernel that would run p normalise and gather x?  And: run it. */
bool matmul_fuses_norm(const struct device *, const struct product *);
void matmul_product(struct device *, const struct product *);

#endif
