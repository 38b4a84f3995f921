/* rates.cu - what this device does at best: a copy within its memory, and a product of our own.
 *
 * The product is of random values, whose bits switch as those of real activations do: zeros would
 * run cooler and faster. */
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/cuda_host.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matmul_int.h"

namespace {

const size_t COPY_BYTES = (size_t)2 << 30;
enum { EDGE = 8192, REPEATS = 9, PRODUCTS = 3, THREADS = 256 };

__device__ uint32_t mix(uint32_t v)
{
    v = (v ^ (v >> 16)) * 0x7feb352du;
    v = (v ^ (v >> 15)) * 0x846ca68bu;
    return v ^ (v >> 16);
}

/* Uniform in (-1, 1). */
template <typename T>
__global__ void fill_kernel(T *to, uint32_t n, uint32_t seed)
{
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        to[i] = T(((float)(mix(i ^ seed) >> 8) + 0.5f) * 0x1p-23f - 1.0f);
}

void fill(device *d, void *to, uint32_t n, uint32_t seed)
{
    const launch_shape shape = {dim3((n + THREADS - 1) / THREADS), dim3(THREADS), 0, 0};
    if (d->act == DT_F32)
        launch_alone(d, "random values", shape, fill_kernel<float>, static_cast<float *>(to), n,
                     seed);
    else if (d->act == DT_F16)
        launch_alone(d, "random values", shape, fill_kernel<__half>, static_cast<__half *>(to), n,
                     seed);
    else
        launch_alone(d, "random values", shape, fill_kernel<__nv_bfloat16>,
                     static_cast<__nv_bfloat16 *>(to), n, seed);
}

void copy(device *d, char *at)
{
    cuda_check(d, cudaMemcpyAsync(at + COPY_BYTES, at, COPY_BYTES, cudaMemcpyDeviceToDevice,
                                  d->stream),
               "copy");
}

void products(device *d, char *at)
{
    const size_t n_bytes = (size_t)EDGE * EDGE * dtype_traits[d->act].block_bytes;
    struct product p = {};
    p.x = at;
    p.w = at + n_bytes;
    p.y = at + 2 * n_bytes;
    p.rows = p.in = p.n = p.y_stride = EDGE;
    for (int i = 0; i < PRODUCTS; i++)
        matmul_product(d, &p);
}

/* The least of some times, after one that does not count. */
float least_ms(device *d, void (*run)(device *, char *), char *at)
{
    cudaEvent_t start = NULL, stop = NULL;
    float least = 0;
    cuda_check(d, cudaEventCreate(&start), "make an event");
    cuda_check(d, cudaEventCreate(&stop), "make an event");
    for (int i = 0; i <= REPEATS && d->fault == cudaSuccess; i++) {
        float ms = 0;
        cuda_check(d, cudaEventRecord(start, d->stream), "time");
        run(d, at);
        cuda_check(d, cudaEventRecord(stop, d->stream), "time");
        cuda_check(d, cudaEventSynchronize(stop), "time");
        cuda_check(d, cudaEventElapsedTime(&ms, start, stop), "time");
        if (i == 1 || (i > 1 && ms < least))
            least = ms;
    }
    if (start)
        cudaEventDestroy(start);
    if (stop)
        cudaEventDestroy(stop);
    return least;
}

} // namespace

bool cuda_rates(struct device *d, double *copy_bytes_s, double *matmul_flops, struct status *st)
{
    char *at = NULL;
    const cudaError_t e = cudaMalloc((void **)&at, 2 * COPY_BYTES);
    if (e != cudaSuccess) {
        cudaGetLastError(); /* running out is not sticky */
        return status_fail(st, STATUS_TOO_LARGE, "take 4 GiB to measure a copy: %s",
                           cudaGetErrorString(e));
    }
    fill(d, at, 2u * EDGE * EDGE, 1);
    const float copy_ms = least_ms(d, copy, at);
    const float product_ms = least_ms(d, products, at);
    cudaFree(at);
    if (d->fault != cudaSuccess)
        return status_fail(st, STATUS_DEVICE, "measure rates: %s: %s", d->fault_at,
                           cudaGetErrorString(d->fault));
    *copy_bytes_s = 2.0 * (double)COPY_BYTES / (copy_ms * 1e-3);
    *matmul_flops = 2.0 * PRODUCTS * (double)EDGE * EDGE * EDGE / (product_ms * 1e-3);
    return true;
}
