/* matmul_bench.cuh - what the probe and the benchmark of products share: a device without a model,
 * random matrices, timing in a graph. */
#ifndef TESTS_GPU_MATMUL_BENCH_CUH
#define TESTS_GPU_MATMUL_BENCH_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "kernels/cuda/matmul_int.h"
#include "kernels/cuda/matmul_sm90.h"
#include "kernels/cuda/scheme_wide_plan.h"

#define OK(call)                                                                                   \
    do {                                                                                           \
        cudaError_t e_ = (call);                                                                   \
        if (e_ != cudaSuccess) {                                                                   \
            printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(e_));          \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

void cuda_check(struct device *, cudaError_t e, const char *at)
{
    if (e != cudaSuccess) {
        printf("%s: %s\n", at, cudaGetErrorString(e));
        exit(1);
    }
}

static struct device device_bare(enum dtype act)
{
    struct device d = {};
    cudaDeviceProp prop;
    OK(cudaGetDeviceProperties(&prop, 0));
    d.sm_count = prop.multiProcessorCount;
    d.cc = prop.major * 10 + prop.minor;
    d.act = act;
    OK(cudaStreamCreateWithFlags(&d.stream, cudaStreamNonBlocking));
    OK(cudaMalloc((void **)&d.partials, scheme_wide_sums_bytes(d.sm_count)));
    OK(cudaMalloc((void **)&d.tiles_given, scheme_wide_given_words(d.sm_count) * sizeof(int32_t)));
    OK(cudaMemset(d.tiles_given, 0, scheme_wide_given_words(d.sm_count) * sizeof(int32_t)));
    OK(cudaDeviceSynchronize());
    return d;
}

__device__ inline uint32_t mix(uint64_t v)
{
    v ^= v >> 33;
    v *= 0xff51afd7ed558ccdull;
    v ^= v >> 33;
    v *= 0xc4ceb9fe1a85ec53ull;
    v ^= v >> 33;
    return (uint32_t)v;
}

template <class T> __global__ void fill_kernel(T *to, size_t n, float scale, uint64_t seed)
{
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n;
         i += (size_t)gridDim.x * blockDim.x) {
        float u = (mix(seed * 0x9e3779b97f4a7c15ull + 2 * i) + 1.0f) * 2.3283064e-10f;
        float v = mix(seed * 0x9e3779b97f4a7c15ull + 2 * i + 1) * 2.3283064e-10f;
        to[i] = (T)(scale * sqrtf(-2.0f * logf(fminf(u, 1.0f))) * cospif(2.0f * v));
    }
}

template <class T> static T *take(size_t n)
{
    T *p;
    OK(cudaMalloc(&p, n * sizeof(T)));
    return p;
}

template <class T> static T *random_matrix(size_t n, float scale)
{
    static uint64_t seed = 1;
    T *p = take<T>(n);
    fill_kernel<T><<<1024, 256>>>(p, n, scale, seed++);
    OK(cudaGetLastError());
    OK(cudaDeviceSynchronize());
    return p;
}

/* `n` launches, to be run together. */
template <class F> static cudaGraphExec_t graph_of(cudaStream_t stream, int n, F launch)
{
    cudaGraph_t graph;
    cudaGraphExec_t run;
    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < n; i++)
        launch(i);
    OK(cudaStreamEndCapture(stream, &graph));
    OK(cudaGraphInstantiate(&run, graph, 0));
    OK(cudaGraphDestroy(graph));
    return run;
}

/* Microseconds of one run. */
static double run_us(cudaStream_t stream, cudaGraphExec_t run)
{
    cudaEvent_t from, to;
    float ms;
    OK(cudaEventCreate(&from));
    OK(cudaEventCreate(&to));
    OK(cudaEventRecord(from, stream));
    OK(cudaGraphLaunch(run, stream));
    OK(cudaEventRecord(to, stream));
    OK(cudaEventSynchronize(to));
    OK(cudaEventElapsedTime(&ms, from, to));
    OK(cudaEventDestroy(from));
    OK(cudaEventDestroy(to));
    return 1e3 * ms;
}

/* Microseconds of one of `n` launches recorded into a graph: the best of five runs. */
template <class F> static double graph_us(cudaStream_t stream, int n, F launch)
{
    const cudaGraphExec_t run = graph_of(stream, n, launch);
    double best = 1e30;
    run_us(stream, run);
    for (int i = 0; i < 5; i++)
        best = fmin(best, run_us(stream, run));
    OK(cudaGraphExecDestroy(run));
    return best / n;
}

#endif
