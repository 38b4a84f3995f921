/* cuda_runtime.h - in place of the toolkit's: its C functions, and its templates for simulated
 * kernels. */
#ifndef TESTS_CUDASIM_CUDA_RUNTIME_H
#define TESTS_CUDASIM_CUDA_RUNTIME_H

#include <cuda_runtime_api.h>
#include <vector_functions.h>
#include <vector_types.h>

#include <tuple>
#include <utility>

#include "tests/cudasim/runtime.h"

template <class T> cudaError_t cudaMalloc(T **at, size_t n_bytes)
{
    return cudaMalloc(reinterpret_cast<void **>(at), n_bytes);
}

namespace sim
{

template <class... PARAMS, size_t... I>
bound_kernel bind_kernel(void (*kernel)(PARAMS...), void **at, std::index_sequence<I...>)
{
    std::tuple<PARAMS...> args(*static_cast<PARAMS *>(at[I])...);
    return [kernel, args = std::move(args)] { std::apply(kernel, args); };
}

} // namespace sim

template <class... PARAMS, class... ARGS>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(PARAMS...),
                               ARGS &&...args)
{
    std::tuple<PARAMS...> values(static_cast<PARAMS>(args)...);
    return std::apply(
        [&](PARAMS &...value) {
            void *at[] = {&value..., NULL};
            return sim::runtime_launch(
                config, reinterpret_cast<const void *>(kernel),
                [kernel](void **from) {
                    return sim::bind_kernel(kernel, from, std::index_sequence_for<PARAMS...>());
                },
                at);
        },
        values);
}

template <class... PARAMS>
cudaError_t cudaFuncSetAttribute(void (*kernel)(PARAMS...), cudaFuncAttribute attribute, int value)
{
    return sim::runtime_allow_shared(reinterpret_cast<const void *>(kernel), attribute, value);
}

inline cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute attribute, int value)
{
    return sim::runtime_allow_shared(kernel, attribute, value);
}

template <class... PARAMS>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *a, void (*)(PARAMS...))
{
    *a = {};
    return cudaSuccess;
}

/* Each SM has room for a block. */
template <class... PARAMS>
cudaError_t cudaOccupancyMaxActiveClusters(int *n, void (*)(PARAMS...), const cudaLaunchConfig_t *)
{
    *n = 1;
    return cudaSuccess;
}

#endif
