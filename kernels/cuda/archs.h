/* archs.h - for which devices a module has code, by the list that it was built with.
 *
 * The list is that of cmake/cuda.cmake, with spaces: "80 90a 100 120".  Code for compute
 * capability X.Y runs on X.Y and later ones of the same X, and with a letter on X.Y alone
 * (CUDA programming guide, "binary compatibility"); there is no PTX for others.  Asking the driver
 * instead would make a context, which takes memory of the device.
 *
 * Thread: any. */
#ifndef KERNELS_CUDA_ARCHS_H
#define KERNELS_CUDA_ARCHS_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* cc: 90 = 9.0. */
bool archs_have(const char *list, int cc);

/* Whether a block may have at most 163 KiB of shared memory (8.0), or 99 (8.6, 8.9, 12.x): kernels
 * that want Hopper's 227 have another form there, or do not run. */
static inline bool arch_is_small(int cc)
{
    return cc < 90 || cc >= 120;
}

#ifdef __cplusplus
}
#endif

#endif
