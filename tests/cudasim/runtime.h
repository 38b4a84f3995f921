/* runtime.h - what the runtime's templates end in: a kernel as a function without arguments, and
 * what makes one of arguments by address.
 *
 * Thread: any. */
#ifndef TESTS_CUDASIM_RUNTIME_H
#define TESTS_CUDASIM_RUNTIME_H

#include <functional>

#include <cuda_runtime_api.h>

namespace sim
{

using bound_kernel = std::function<void()>;
using kernel_binder = std::function<bound_kernel(void **args)>; /* copies them */

/* `code`: the kernel's address, which says which one it is. */
cudaError_t runtime_launch(const cudaLaunchConfig_t *, const void *code, const kernel_binder &,
                           void **args);
cudaError_t runtime_allow_shared(const void *kernel, cudaFuncAttribute, int n_bytes);

} // namespace sim

#endif
