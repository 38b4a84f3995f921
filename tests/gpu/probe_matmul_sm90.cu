/* probe_matmul_sm90.cu - the Hopper product alone: right, one chain to the bit, and how fast.
 *
 *     nvcc -std=c++17 -O3 -gencode=arch=compute_90a,code=sm_90a -I. tests/gpu/probe_matmul_sm90.cu
 * \ kernels/cuda/matmul_sm90.cu kernels/cuda/tensor_map.cu -lcublasLt */
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include <cublasLt.h>
#include <cuda_bf16.h>

#include "kernels/cuda/act.cuh"
#include "kernels/cuda/choose.h"
#include "kernels/cuda/matmul_sm90.h"

#define OK(call)                                                                                   \
    do {                                                                                           \
        cudaError_t e_ = (call);                                                                   \
        if (e_ != cudaSuccess) {                                                                   \
            printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(e_));          \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

typedef __nv_bfloat16 bf;

void cuda_check(device *d, cudaError_t e, const char *at)
{
    if (e != cudaSuccess && d->fault == cudaSuccess) {
        d->fault = e;
        printf("fault: %s: %s\n", at, cudaGetErrorString(e));
    }
}

__device__ uint32_t mix(uint64_t v)
{
    v ^= v >> 33;
    v *= 0xff51afd7ed558ccdull;
    v ^= v >> 33;
    v *= 0xc4ceb9fe1a85ec53ull;
    v ^= v >> 33;
    return (uint32_t)v;
}
__device__ float normal(uint64_t seed, uint64_t i)
{
    float u = (mix(seed * 0x9e3779b97f4a7c15ull + 2 * i) + 1.0f) * 2.3283064e-10f;
    float v = mix(seed * 0x9e3779b97f4a7c15ull + 2 * i + 1) * 2.3283064e-10f;
    return sqrtf(-2.0f * logf(fminf(u, 1.0f))) * cospif(2.0f * v);
}
__global__ void fill(bf *to, size_t n, float scale, uint64_t seed)
{
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n;
         i += (size_t)gridDim.x * blockDim.x)
        to[i] = (bf)(scale * normal(seed, i));
}
__global__ void reference(const bf *x, const bf *w, double *y, int rows, int n, int k)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x, r = blockIdx.y;
    if (i >= n)
        return;
    double sum = 0;
    for (int c = 0; c < k; c++)
        sum += (double)(float)x[(size_t)r * k + c] * (double)(float)w[(size_t)i * k + c];
    y[(size_t)r * n + i] = sum;
}
/* One warp: 16 rows x 8 columns, mma.sync chain. */
__global__ void chain(const bf *x, const bf *w, float *y, int rows, int n, int k)
{
    const int lane = threadIdx.x, r0 = blockIdx.y * 16, n0 = blockIdx.x * 8;
    float c[4] = {0, 0, 0, 0};
    auto at = [&](const bf *m, int row, int col, int rows_) -> uint32_t {
        if (row >= rows_ || col >= k)
            return 0;
        return *(const uint32_t *)(m + (size_t)row * k + col);
    };
    for (int kk = 0; kk < k; kk += 16) {
        uint32_t a0 = at(x, r0 + lane / 4, kk + lane % 4 * 2, rows),
                 a1 = at(x, r0 + lane / 4 + 8, kk + lane % 4 * 2, rows),
                 a2 = at(x, r0 + lane / 4, kk + 8 + lane % 4 * 2, rows),
                 a3 = at(x, r0 + lane / 4 + 8, kk + 8 + lane % 4 * 2, rows);
        uint32_t b0 = at(w, n0 + lane / 4, kk + lane % 4 * 2, n),
                 b1 = at(w, n0 + lane / 4, kk + 8 + lane % 4 * 2, n);
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, "
                     "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
    }
    for (int i = 0; i < 4; i++) {
        int r = r0 + lane / 4 + i / 2 * 8, col = n0 + lane % 4 * 2 + i % 2;
        if (r < rows && col < n)
            y[(size_t)r * n + col] = c[i];
    }
}

static device dev;
static cublasLtHandle_t lt;
static void *lt_work;
static size_t lt_work_bytes;
static bool failed;

template <typename T> static T *take(size_t n)
{
    T *p;
    OK(cudaMalloc(&p, n * sizeof(T)));
    return p;
}
static bf *random_matrix(size_t n, float scale, uint64_t seed)
{
    bf *p = take<bf>(n);
    fill<<<1024, 256>>>(p, n, scale, seed);
    OK(cudaDeviceSynchronize());
    return p;
}

static void check(int rows, int n, int k, bool gated, bool add)
{
    bf *x = random_matrix((size_t)rows * k, 1, 1), *w = random_matrix((size_t)n * k, 0.05f, 2),
       *u = random_matrix((size_t)n * k, 0.05f, 3), *r = random_matrix((size_t)rows * n, 1, 4);
    double *ref = take<double>((size_t)rows * n), *ref_u = take<double>((size_t)rows * n);
    float *c = take<float>((size_t)rows * n), *y32 = take<float>((size_t)rows * n);
    bf *y = take<bf>((size_t)rows * n + 4096);
    OK(cudaMemset(y, 0xff, ((size_t)rows * n + 4096) * 2));
    OK(cudaMemset(y32, 0xff, (size_t)rows * n * 4));
    reference<<<dim3((n + 127) / 128, rows), 128>>>(x, w, ref, rows, n, k);
    reference<<<dim3((n + 127) / 128, rows), 128>>>(x, u, ref_u, rows, n, k);
    chain<<<dim3((n + 7) / 8, (rows + 15) / 16), 32>>>(x, w, c, rows, n, k);
    OK(cudaDeviceSynchronize());
    wide_matmul m = {};
    m.x = x, m.rows = rows, m.in = k, m.n = n, m.w[0] = w, m.w[1] = gated ? u : NULL;
    m.act = gated ? ACT_SILU : ACT_NONE, m.y = y, m.y_stride = n, m.add = add ? r : NULL;
    matmul_sm90(&dev, &m);
    if (!gated && !add) {
        m.y = y32, m.y_f32 = true;
        matmul_sm90(&dev, &m);
    }
    OK(cudaDeviceSynchronize());
    size_t N = (size_t)rows * n;
    std::vector<bf> hy(N + 4096), hr(N);
    std::vector<double> href(N), hu(N);
    std::vector<float> hc(N), h32(N);
    OK(cudaMemcpy(hy.data(), y, (N + 4096) * 2, cudaMemcpyDeviceToHost));
    OK(cudaMemcpy(hr.data(), r, N * 2, cudaMemcpyDeviceToHost));
    OK(cudaMemcpy(href.data(), ref, N * 8, cudaMemcpyDeviceToHost));
    OK(cudaMemcpy(hu.data(), ref_u, N * 8, cudaMemcpyDeviceToHost));
    OK(cudaMemcpy(hc.data(), c, N * 4, cudaMemcpyDeviceToHost));
    OK(cudaMemcpy(h32.data(), y32, N * 4, cudaMemcpyDeviceToHost));
    double num = 0, den = 0;
    size_t same = 0, nan = 0, over = 0;
    for (size_t i = 0; i < N; i++) {
        double want = href[i];
        if (gated)
            want = want / (1 + exp(-want)) * hu[i];
        if (add)
            want += (double)(float)hr[i];
        double got = (float)hy[i];
        if (!(got == got))
            nan++;
        num += (got - want) * (got - want);
        den += want * want;
        same += memcmp(&h32[i], &hc[i], 4) == 0;
    }
    for (size_t i = N; i < N + 4096; i++) {
        uint16_t b;
        memcpy(&b, &hy[i], 2);
        over += b != 0xffff;
    }
    double err = sqrt(num / den);
    bool good = err < 6e-3 && nan == 0 && over == 0 && (gated || add || same == N);
    failed |= !good;
    printf("%5d x %6d x %5d %s%s tile %3d: err %.2e nan %zu over %zu chain %s %s\n", rows, n, k,
           gated ? "gated " : "", add ? "add " : "",
           matmul_choose_tile(WIDE_16_BITS, rows, n, gated, dev.sm_count).columns, err, nan, over,
           gated || add ? "-"
           : same == N  ? "equal"
                        : "DIFFERS",
           good ? "" : "FAIL");
    if (!gated && !add && same != N)
        printf("      equal %zu of %zu\n", same, N);
    for (void *p : {(void *)x, (void *)w, (void *)u, (void *)r, (void *)ref, (void *)ref_u,
                    (void *)c, (void *)y, (void *)y32})
        cudaFree(p);
}

static double median_us(std::vector<float> &t)
{
    std::sort(t.begin(), t.end());
    return t[t.size() / 2] * 1000;
}

template <typename F> static double time_us(F f)
{
    cudaEvent_t a, b;
    OK(cudaEventCreate(&a));
    OK(cudaEventCreate(&b));
    std::vector<float> t;
    for (int i = 0; i < 3; i++)
        f(i);
    for (int i = 0; i < 15; i++) {
        OK(cudaEventRecord(a, dev.stream));
        for (int j = 0; j < 4; j++)
            f(4 * i + j);
        OK(cudaEventRecord(b, dev.stream));
        OK(cudaEventSynchronize(b));
        float ms;
        OK(cudaEventElapsedTime(&ms, a, b));
        t.push_back(ms / 4);
    }
    return median_us(t);
}

struct lt_product {
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulHeuristicResult_t r[8];
    int n;
};

static void lt_open(lt_product *p, int rows, int n, int k)
{
    cublasOperation_t t = CUBLAS_OP_T;
    cublasLtMatmulDescCreate(&p->op, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_TRANSA, &t, sizeof t);
    cublasLtMatrixLayoutCreate(&p->a, CUDA_R_16BF, k, n, k);
    cublasLtMatrixLayoutCreate(&p->b, CUDA_R_16BF, k, rows, k);
    cublasLtMatrixLayoutCreate(&p->c, CUDA_R_16BF, n, rows, n);
    cublasLtMatmulPreference_t pref;
    cublasLtMatmulPreferenceCreate(&pref);
    size_t bytes = lt_work_bytes;
    cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes,
                                         sizeof bytes);
    cublasLtMatmulAlgoGetHeuristic(lt, p->op, p->a, p->b, p->c, p->c, pref, 8, p->r, &p->n);
}

static void bench(int rows, int n, int k, bool gated)
{
    const int copies = 3;
    const int n_lt = gated ? 2 * n : n;
    std::vector<bf *> w(copies);
    for (int i = 0; i < copies; i++)
        w[i] = random_matrix((size_t)n_lt * k, 0.02f, 10 + i);
    bf *x = random_matrix((size_t)rows * k, 1, 1), *y = take<bf>((size_t)rows * n_lt);
    wide_matmul m = {};
    m.x = x, m.rows = rows, m.in = k, m.n = n, m.y = y, m.y_stride = n;
    m.act = gated ? ACT_SILU : ACT_NONE;
    auto ours = [&](int i) {
        m.w[0] = w[i % copies];
        m.w[1] = gated ? w[i % copies] + (size_t)n * k : NULL;
        matmul_sm90(&dev, &m);
    };
    lt_product p;
    lt_open(&p, rows, n_lt, k);
    const float one = 1, zero = 0;
    double best_lt = 1e30;
    auto theirs = [&](int i, int algo) {
        cublasLtMatmul(lt, p.op, &one, w[i % copies], p.a, x, p.b, &zero, y, p.c, y, p.c,
                       &p.r[algo].algo, lt_work, lt_work_bytes, dev.stream);
    };
    double a1 = time_us(ours);
    for (int i = 0; i < std::min(p.n, 4); i++)
        best_lt = std::min(best_lt, time_us([&](int j) { theirs(j, i); }));
    double first_lt = time_us([&](int j) { theirs(j, 0); });
    double a2 = time_us(ours);
    double us = std::min(a1, a2), flop = 2.0 * rows * n_lt * k;
    printf(
        "%5d x %6d x %5d %s tile %3d: %8.1f us %6.1f TF | lt first %8.1f best %8.1f us %6.1f TF | "
        "ratio %.3f\n",
        rows, n_lt, k, gated ? "gated" : "     ",
        matmul_choose_tile(WIDE_16_BITS, rows, n, gated, dev.sm_count).columns, us, flop / us / 1e6,
        first_lt, best_lt, flop / best_lt / 1e6, best_lt / us);
    for (bf *q : w)
        cudaFree(q);
    cudaFree(x);
    cudaFree(y);
}

int main()
{
    cudaDeviceProp prop;
    OK(cudaGetDeviceProperties(&prop, 0));
    dev.sm_count = prop.multiProcessorCount;
    dev.cc = 90;
    dev.act = DT_BF16;
    OK(cudaStreamCreateWithFlags(&dev.stream, cudaStreamNonBlocking));
    cublasLtCreate(&lt);
    lt_work_bytes = 64 << 20;
    lt_work = take<char>(lt_work_bytes);
    printf("%s\n", prop.name);
    check(128, 256, 64, false, false);
    check(100, 128, 576, false, false);
    check(128, 4096, 4096, false, false);
    check(257, 960, 576, false, false);
    check(300, 576, 1536, false, true);
    check(65, 1536, 576, true, false);
    check(700, 14336, 512, true, false);
    check(1000, 6144, 4096, false, false);
    check(2048, 4096, 14336, false, true);
    check(129, 49152, 576, false, false);
    if (failed)
        return 1;
    const int shapes[][3] = {{6144, 4096, 0}, {4096, 4096, 0}, {14336, 4096, 1}, {4096, 14336, 0}};
    for (int rows : {128, 256, 512, 2048, 8192})
        for (auto &s : shapes)
            bench(rows, s[0], s[1], s[2]);
    bench(8192, 8192, 8192, false);
    return failed || dev.fault != cudaSuccess;
}
