/* matmul_scheme_sm90.h - products of many rows with the weights of a scheme, on Hopper.
 *
 * The bits are those of any other kernel of schemes: scheme_layout.h has the order.
 *
 * Thread: the device's. */
#ifndef KERNELS_CUDA_MATMUL_SCHEME_SM90_H
#define KERNELS_CUDA_MATMUL_SCHEME_SM90_H

#include "kernels/cuda/matmul_int.h"
#include "kernels/cuda/scheme_wide_choose.h"

/* Can it write p's results, and is it the faster way?  On compute capability 9.0 only. */
bool matmul_scheme_sm90_fits(const struct device *, const struct product *p);

/* What the tiles are chosen by, and the tiles it takes. */
struct scheme_wide_shape matmul_scheme_sm90_shape(const struct device *, const struct product *p);
struct scheme_wide_cut matmul_scheme_sm90_chosen(const struct device *, const struct product *p);

/* Does it fit, and is it the faster way from fewer rows of x on, as what is not gated is? */
bool matmul_scheme_sm90_fits_few(const struct device *, const struct product *p);

/* p has neither norm, gather nor order; any number of rows. */
void matmul_scheme_sm90(struct device *, const struct product *p);

/* The same with tiles that the caller chose of those that p has (scheme_wide_has); where its
 * scheme has none of them, with others: what a benchmark compares. */
void matmul_scheme_sm90_cut(struct device *, const struct product *p, struct scheme_wide_cut);

#endif
