/* lt_bench.cuh - cublasLt's time of a layer's product, and a copy's rate: what ours are measured
 * beside. */
#ifndef TESTS_GPU_LT_BENCH_CUH
#define TESTS_GPU_LT_BENCH_CUH

#include <cublasLt.h>

#include "tests/gpu/matmul_bench.cuh"

#define LT(call)                                                                                   \
    do {                                                                                           \
        cublasStatus_t e_ = (call);                                                                \
        if (e_ != CUBLAS_STATUS_SUCCESS) {                                                         \
            printf("%s:%d: %s: status %d\n", __FILE__, __LINE__, #call, (int)e_);                  \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

typedef __nv_bfloat16 bf;
enum { LT_WORK = 64 << 20, ROTATE_MAX = 128 };
static const size_t L2_TIMES = 192 << 20; /* bytes that weights rotate over, at least */

struct layer {
    const char *name;
    int in, n;
    bool gated, add, norm, y_f32;
};

struct bench {
    struct device d;
    cublasLtHandle_t lt;
    void *lt_work;
    bf *x, *y, *add;
    float *norm_w;
    double copy_gbs; /* read + write */
};

static double copy_gbs(struct bench *b)
{
    size_t n = (size_t)1 << 30;
    uint8_t *from = take<uint8_t>(n), *to = take<uint8_t>(n);
    OK(cudaMemset(from, 0x3c, n));
    double us = graph_us(b->d.stream, 4, [&](int) {
        OK(cudaMemcpyAsync(to, from, n, cudaMemcpyDeviceToDevice, b->d.stream));
    });
    OK(cudaFree(from));
    OK(cudaFree(to));
    return 2e-3 * (double)n / us;
}

/* cublasLt's first proposal, of the same bytes: no norm, no activation, residual by beta. */
static double lt_us(struct bench *b, const struct layer *l, int rows, bf *const *w, int n_w,
                    int launches)
{
    cublasLtMatmulDescOpaque_t desc;
    cublasLtMatrixLayoutOpaque_t wl, xl, yl;
    cublasLtMatmulPreferenceOpaque_t pref;
    cublasLtMatmulHeuristicResult_t found;
    cublasOperation_t t = CUBLAS_OP_T;
    size_t work = LT_WORK;
    int n = l->gated ? 2 * l->n : l->n, n_found = 0;
    cudaDataType_t out = l->y_f32 ? CUDA_R_32F : CUDA_R_16BF;
    LT(cublasLtMatmulDescInit(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    LT(cublasLtMatmulDescSetAttribute(&desc, CUBLASLT_MATMUL_DESC_TRANSA, &t, sizeof t));
    LT(cublasLtMatrixLayoutInit(&wl, CUDA_R_16BF, l->in, n, l->in));
    LT(cublasLtMatrixLayoutInit(&xl, CUDA_R_16BF, l->in, rows, l->in));
    LT(cublasLtMatrixLayoutInit(&yl, out, n, rows, n));
    LT(cublasLtMatmulPreferenceInit(&pref));
    LT(cublasLtMatmulPreferenceSetAttribute(&pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &work,
                                            sizeof work));
    if (cublasLtMatmulAlgoGetHeuristic(b->lt, &desc, &wl, &xl, &yl, &yl, &pref, 1, &found,
                                       &n_found) != CUBLAS_STATUS_SUCCESS ||
        n_found < 1)
        return NAN;
    float one = 1, beta = l->add ? 1 : 0;
    return graph_us(b->d.stream, launches, [&](int i) {
        LT(cublasLtMatmul(b->lt, &desc, &one, w[i % n_w], &wl, b->x, &xl, &beta, b->y, &yl, b->y,
                          &yl, &found.algo, b->lt_work, LT_WORK, b->d.stream));
    });
}

static struct bench bench_open(int rows_max)
{
    struct bench b = {};
    b.d = device_bare(DT_BF16);
    LT(cublasLtCreate(&b.lt));
    b.lt_work = take<uint8_t>(LT_WORK);
    b.x = random_matrix<bf>((size_t)rows_max * 14336, 1);
    b.y = take<bf>((size_t)rows_max * 28672);
    b.add = random_matrix<bf>((size_t)rows_max * 8192, 1);
    b.norm_w = random_matrix<float>(14336, 1);
    b.copy_gbs = copy_gbs(&b);
    return b;
}

#endif
