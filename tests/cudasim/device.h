/* device.h - included before each source of kernels/cuda: what nvcc would know by itself.
 *
 * The toolkit's headers come first, as a host compiler sees them; then the words that they make
 * empty get their meaning here, and code for devices is that of compute capability 9.0a, or of what
 * INFERD_CUDASIM_ARCH says. */
#ifndef TESTS_CUDASIM_DEVICE_H
#define TESTS_CUDASIM_DEVICE_H

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cudasim/block.h"

/* ---- words ---- */

#undef __launch_bounds__
#undef __maxnreg__
#undef __shared__
#undef __noinline__
#undef __grid_constant__
#define __launch_bounds__(...)
#define __maxnreg__(n)
#define __shared__ static __thread /* a block has a thread of the host: shared.h */
#define __noinline__
#define __grid_constant__

#define __CUDACC__    1
#define __CUDA_ARCH__ CUDASIM_ARCH
#if CUDASIM_ARCH == 900
#define __CUDA_ARCH_FEAT_SM90_ALL 1
#endif

#include "tests/cudasim/device_index.h"
#include "tests/cudasim/device_math.h"
#include "tests/cudasim/device_memory.h"
#include "tests/cudasim/device_warp.h"

#endif
