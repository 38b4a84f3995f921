/* matmul_int.h - what a product does to its sums, and the two ways to run it.
 *
 * Rounding, the same in both ways, so that a row's bits do not depend on the rows beside it:
 *
 *     v = round((sum + bias) + add)      f32 inside, one rounding to y's type
 *     y = v, or round(act(v)), or gated: round(act(v of gate) * v of up)      f32 inside */
#ifndef KERNELS_CUDA_MATMUL_INT_H
#define KERNELS_CUDA_MATMUL_INT_H

#include "kernels/cuda/choose.h"
#include "kernels/cuda/cuda_int.h"

struct product { /* y[rows, n] of x[rows, in] and w; one or several weights that lie together */
    const void *x;
    int rows, in, n;
    const void *w; /* [n, in]; gated: [2 * n, in], gates first */
    void *y;       /* rows y_stride apart; f32 if y_f32, else activations */
    int y_stride;
    bool y_f32, gated;
    enum act_kind act;
    const float *bias;               /* [n] or NULL */
    const float *bias_up;            /* [n] or NULL; gated only */
    const void *add;                 /* rows y_stride apart, or NULL; never when y_f32 */
    const struct norm *norm;         /* of x, or NULL */
    const struct batch_head *gather; /* row i of x is x[gather[i].row]; NULL: x[i] */
};

/* matmul_skinny.cu: norm and gather only where the choice fuses the norm. */
void matmul_skinny(struct device *, const struct product *, const struct matmul_choice *);
/* matmul_lt.cu: norm and gather are NULL. */
void matmul_lt(struct device *, const struct product *);

/* matmul_epilogue.cu: from sums in f32, [rows, n] or gated [rows, 2 * n], to p->y by the rule
 * above; p->rows rows. */
void matmul_finish(struct device *, const struct product *p, const float *sums);
/* From gate and up in the activation type, [rows, 2 * n], to p->y. */
void matmul_gate(struct device *, const struct product *p, const void *gate_up);

/* matmul.cu: does the kernel that would run p normalise and gather x?  And: run it. */
bool matmul_fuses_norm(const struct device *, const struct product *);
void matmul_product(struct device *, const struct product *);

#endif
