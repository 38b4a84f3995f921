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
struct lt_product {
    cublasLtMatmulDescOpaque_t desc;
    cublasLtMatrixLayoutOpaque_t w, x, y;
    cublasLtMatmulHeuristicResult_t found;
    float beta;
};

static bool lt_find(struct bench *b, const struct layer *l, int rows, struct lt_product *p)
{
    cublasLtMatmulPreferenceOpaque_t pref;
    cublasOperation_t t = CUBLAS_OP_T;
    size_t work = LT_WORK;
    int n = l->gated ? 2 * l->n : l->n, n_found = 0;
    cudaDataType_t out = l->y_f32 ? CUDA_R_32F : CUDA_R_16BF;
    p->beta = l->add ? 1 : 0;
    LT(cublasLtMatmulDescInit(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    LT(cublasLtMatmulDescSetAttribute(&p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &t, sizeof t));
    LT(cublasLtMatrixLayoutInit(&p->w, CUDA_R_16BF, l->in, n, l->in));
    LT(cublasLtMatrixLayoutInit(&p->x, CUDA_R_16BF, l->in, rows, l->in));
    LT(cublasLtMatrixLayoutInit(&p->y, out, n, rows, n));
    LT(cublasLtMatmulPreferenceInit(&pref));
    LT(cublasLtMatmulPreferenceSetAttribute(&pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &work,
                                            sizeof work));
    return cublasLtMatmulAlgoGetHeuristic(b->lt, &p->desc, &p->w, &p->x, &p->y, &p->y, &pref, 1,
                                          &p->found, &n_found) == CUBLAS_STATUS_SUCCESS &&
           n_found > 0;
}

static void lt_launch(struct bench *b, struct lt_product *p, const bf *w)
{
    const float one = 1;
    LT(cublasLtMatmul(b->lt, &p->desc, &one, w, &p->w, b->x, &p->x, &p->beta, b->y, &p->y, b->y,
                      &p->y, &p->found.algo, b->lt_work, LT_WORK, b->d.stream));
}

static inline double lt_us(struct bench *b, const struct layer *l, int rows, bf *const *w, int n_w,
                           int launches)
{
    struct lt_product p;
    if (!lt_find(b, l, rows, &p))
        return NAN;
    return graph_us(b->d.stream, launches, [&](int i) { lt_launch(b, &p, w[i % n_w]); });
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
