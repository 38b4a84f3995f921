/* launch.cuh - launches that may begin before the kernel in front of them has ended.
 *
 * A kernel started by launch() calls await_previous() before it touches what an earlier one wrote
 * or still reads, and then lets the next be scheduled: that one waits in turn until this grid is
 * complete and its writes are visible (programmatic dependent launch; CUDA programming guide,
 * PTX ISA griddepcontrol).  Whoever launches with that attribute must wait, or its successor would
 * not be ordered behind its predecessor; a kernel launched without it is ordered on both sides.
 * Below compute capability 9.0 all of this is an ordinary launch.
 *
 * A kernel may let the next be scheduled before it waits itself, if what that one reads before its own
 * wait is older than all of this: a product then fetches weights while two kernels in front still run.
 * The batch in hand is older: the kernel that a step begins with lets none begin before (slots.cu). */
#ifndef KERNELS_CUDA_LAUNCH_CUH
#define KERNELS_CUDA_LAUNCH_CUH

#include "kernels/cuda/cuda_int.h"
#include "kernels/cuda/ptx.cuh"

__device__ __forceinline__ void await_previous()
{
    depend_wait();
    depend_launch();
}

struct launch_shape {
    dim3 grid, block;
    size_t shared_bytes;
    int cluster; /* blocks of a cluster; 0 = none */
};

/* Ordered behind all kernels before it, and before all after it. */
template <class... PARAMS, class... ARGS>
void launch_alone(struct device *d, const char *what, const struct launch_shape &shape,
                  void (*kernel)(PARAMS...), ARGS... args)
{
    cudaLaunchConfig_t config = {};
    config.gridDim = shape.grid;
    config.blockDim = shape.block;
    config.dynamicSmemBytes = shape.shared_bytes;
    config.stream = d->stream;
    cuda_check(d, cudaLaunchKernelEx(&config, kernel, static_cast<PARAMS>(args)...), what);
}

/* May begin before the kernel in front has ended. */
template <class... PARAMS, class... ARGS>
void launch(struct device *d, const char *what, const struct launch_shape &shape,
            void (*kernel)(PARAMS...), ARGS... args)
{
    cudaLaunchAttribute attribute[3] = {};
    cudaLaunchConfig_t config = {};
    config.gridDim = shape.grid;
    config.blockDim = shape.block;
    config.dynamicSmemBytes = shape.shared_bytes;
    config.stream = d->stream;
    config.attrs = attribute;
    if (d->cc >= 90) {
        attribute[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attribute[config.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
        /* As the products split an SM's memory: a block of another split waits until it is empty.
         */
        attribute[config.numAttrs].id = cudaLaunchAttributePreferredSharedMemoryCarveout;
        attribute[config.numAttrs++].val.sharedMemCarveout = cudaSharedmemCarveoutMaxShared;
    }
    if (shape.cluster > 0) {
        attribute[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
        attribute[config.numAttrs].val.clusterDim.x = (unsigned)shape.cluster;
        attribute[config.numAttrs].val.clusterDim.y = 1;
        attribute[config.numAttrs++].val.clusterDim.z = 1;
    }
    cuda_check(d, cudaLaunchKernelEx(&config, kernel, static_cast<PARAMS>(args)...), what);
}

#endif
