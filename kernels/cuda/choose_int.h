/* choose_int.h - arithmetic that the choices of kernels share.
 *
 * Arguments are positive. Thread: any; pure. */
#ifndef KERNELS_CUDA_CHOOSE_INT_H
#define KERNELS_CUDA_CHOOSE_INT_H

static inline int divide_up(int a, int b)
{
    return (a + b - 1) / b;
}

static inline int smaller(int a, int b)
{
    return a < b ? a : b;
}

#endif
