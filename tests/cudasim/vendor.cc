/* vendor.cc - what stands in for the vendor's library in the simulation: a plain product, a thread
 * a value, so that what benchmarks do with one is tested where there is none.
 *
 * kernels/cuda/vendor.cu is left out: a real library would be given a simulated device. */
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdlib.h>

#include "kernels/cuda/cuda_host.h"
#include "kernels/cuda/launch.cuh"

struct vendor {
    struct device *d;
    vendor_product p;
};

namespace
{

enum { THREADS = 64 };

template <typename T>
__global__ void multiply_kernel(void *y, const T *x, const T *w, const vendor_product p)
{
    const int at = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    float sum = 0;
    if (at >= p.rows * p.n)
        return;
    for (int i = 0; i < p.in; i++)
        sum += (float)x[at / p.n * p.in + i] * (float)w[at % p.n * p.in + i];
    if (p.y_f32)
        static_cast<float *>(y)[at] = sum;
    else
        static_cast<T *>(y)[at] = T(sum);
}

vendor *open_vendor(device *d, status *why)
{
    vendor *v = static_cast<vendor *>(calloc(1, sizeof *v));
    if (v)
        v->d = d;
    else
        status_fail(why, STATUS_BUSY, "no memory");
    return v;
}

bool choose(vendor *v, const vendor_product *p)
{
    v->p = *p;
    return true;
}

template <typename T> void run(vendor *v, void *y, const void *x, const void *w)
{
    const unsigned n = (unsigned)(v->p.rows * v->p.n);
    launch_alone(v->d, "the vendor's product",
                 {dim3((n + THREADS - 1) / THREADS), dim3(THREADS), 0, 0}, multiply_kernel<T>, y,
                 static_cast<const T *>(x), static_cast<const T *>(w), v->p);
}

void multiply(vendor *v, void *y, const void *x, const void *w)
{
    if (v->d->act == DT_F16)
        run<__half>(v, y, x, w);
    else
        run<__nv_bfloat16>(v, y, x, w);
}

void close_vendor(vendor *v)
{
    free(v);
}

} // namespace

const struct vendor_ops cuda_vendor = {
    .name = "stand-in",
    .open = open_vendor,
    .choose = choose,
    .multiply = multiply,
    .close = close_vendor,
};
