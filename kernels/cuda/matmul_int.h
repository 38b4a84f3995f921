/* matmul_int.h - one product, what becomes of its sums, and the ways to run it.
 *
 * In f32 each sum is what matmul_f32.cu says.  With 16-bit weights, and those of a block format of GGUF, it is
 * one chain of mma over k, 16 at a time, in order, in f32; with those of a scheme it is what their layout says
 * (scheme_layout.h).  Then, in every way alike, so that a row's bits do not depend on the rows beside it:
 *
 *     v = sum + bias                                 f32
 *     y = v + add, or act(round(v)) + add            f32, rounded once to y's type
 *     y = act(round(v of gate)) * round(v of up)     gated: f32, rounded once; or, where gate ran
 *                                                    before and left y = round(v of gate): the same */
#ifndef KERNELS_CUDA_MATMUL_INT_H
#define KERNELS_CUDA_MATMUL_INT_H

#include "kernels/cuda/choose.h"
#include "kernels/cuda/cuda_int.h"

struct product { /* y[rows, n] of x[rows, in] and w; one or several weights that lie together */
    const void *x;
    int rows, in, n;
    const void *w, *w_up;        /* [n, in]; w_up NULL <=> not gated */
    const struct scheme *scheme; /* of both; NULL <=> activations' type, or blocks */
    bool act8;                   /* its activations are rounded to 8 bits: weight_has_act8 */
    size_t w_bytes;              /* of w, without its order */
    const int32_t *order;        /* [in] column i of w meets x[order[i]]; NULL <=> x[i] */
    bool gate_in_y;              /* y = act(y) * round(v); not with w_up or add */
    const float *bias, *bias_up; /* [n] or NULL */
    enum act_kind act;
    void *y; /* rows y_stride apart; f32 if y_f32, else activations */
    int y_stride;
    bool y_f32;                      /* then neither act nor add */
    const void *add;                 /* as y, or NULL; not when gated */
    const struct norm *norm;         /* of x, or NULL */
    const struct batch_head *gather; /* row i of x is x[gather[i].row]; NULL <=> x[i] */
    enum dtype blocks;               /* of w and w_up: a block format (block_layout.h); DT_F32 <=> none */
    const struct rope_job *heads;    /* y is q, k and v, to be turned and written by it; or NULL */
};

/* matmul_skinny.cu; norm and gather only where the choice fuses the norm, heads only where
 * heads_choose says so. */
void matmul_skinny(struct device *, const struct product *, const struct matmul_choice *);
/* matmul_tiles.cu: any shape on any device, at no great speed; norm and gather are NULL. */
void matmul_tiles(struct device *, const struct product *);
/* matmul_f32.cu: all in f32, any shape on any device; w_up, norm, gather and heads are NULL. */
void matmul_f32(struct device *, const struct product *);

/* Weights of a scheme with wide activations, as units (scheme_layout.h); order is NULL. */
enum { SCHEME_SKINNY_ROWS_MAX = 64 };
/* matmul_scheme_skinny.cu: at most so many rows; norm and gather only where fuses_norm says so. */
bool matmul_scheme_pairs(const struct scheme *, int in); /* may gate and up be one product? */
bool matmul_scheme_fuses_norm(const struct device *, const struct product *);
void matmul_scheme_skinny(struct device *, const struct product *);
/* matmul_scheme.cu: any number. */
void matmul_scheme(struct device *, const struct product *);
/* Weights of a block format, as units (block_layout.h).  matmul_block.cu: any number of rows; norm and
 * gather only where fuses_norm says so.  matmul_block_sm90.cu: many rows; can it write p's results? */
bool matmul_block_fuses_norm(const struct device *, const struct product *);
void matmul_block(struct device *, const struct product *);
bool matmul_block_sm90_fits(const struct device *, const struct product *p);
void matmul_block_sm90(struct device *, const struct product *);
/* matmul_act8.cu: schemes that round activations to 8 bits (weight_has_act8), on their way through
 * norm and gather; order is NULL.  In d->scratch_norm. */
void matmul_act8(struct device *, const struct product *);

/* matmul_order.cu: p's x gathered, normalised and its columns ordered as p says, in d->scratch_norm;
 * which then is p's x, with nothing left to do to it. */
void matmul_order(struct device *, struct product *p);

/* matmul.cu: can the kernels of many rows write p's y?  What the copy engine writes is aligned, f32 is
 * for logits, and no tile reads y. */
bool matmul_fits_sm90(const struct product *p);

/* matmul.cu: the weight w as p's; does the kernel that would run p normalise and gather x?  And: run
 * it. */
void matmul_take_weight(const struct device *, struct product *p, const struct tensor *w);
bool matmul_fuses_norm(const struct device *, const struct product *);
void matmul_product(struct device *, const struct product *);

/* matmul.cu: q, k and v of a call, turned and written by the job; false, and nothing done, where no
 * kernel does all of it. */
bool matmul_heads(struct device *, const struct matmul_args *, const struct rope_job *);

#endif
