/* probe_numerics.cu - which products give the same bits as one chain of mma.sync over k?
 *
 * The chain: acc = mma.m16n8k16(acc, x, w) for k = 0, 16, 32, ..., f32 accumulator from 0.  Against
 * it: operands swapped, k permuted inside each 16, wgmma, and the algorithms that cublasLt
 * proposes. A program for people, run when hardware or cublasLt is new: matmul's rules rest on its
 * answers.
 *
 *     nvcc -O3 -gencode=arch=compute_90a,code=sm_90a probe_numerics.cu -lcublasLt
 *     probe_numerics [details-file] */
#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#define CUDA(call)                                                                                 \
    do {                                                                                           \
        cudaError_t e_ = (call);                                                                   \
        if (e_ != cudaSuccess) {                                                                   \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(e_)); \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)
#define LT(call)                                                                                   \
    do {                                                                                           \
        cublasStatus_t e_ = (call);                                                                \
        if (e_ != CUBLAS_STATUS_SUCCESS) {                                                         \
            fprintf(stderr, "%s:%d: %s: status %d\n", __FILE__, __LINE__, #call, (int)e_);         \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

namespace {

enum { M_MAX = 8192, N = 4096, K_MAX = 14336, RESULTS = 8, WORK_BYTES = 64 << 20 };
FILE *details;

/* ---- inputs ---- */

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

template <class T> __global__ void fill_kernel(T *to, size_t n, float scale, uint64_t seed)
{
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n;
         i += (size_t)gridDim.x * blockDim.x)
        to[i] = (T)(scale * normal(seed, i));
}

/* ---- the chain, and its variants ---- */

__device__ void mma(float d[4], const uint32_t a[4], const uint32_t b[2], __nv_bfloat16)
{
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ void mma(float d[4], const uint32_t a[4], const uint32_t b[2], __half)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
                 "{%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <class T> __device__ uint32_t two(const T *p)
{
    return *(const uint32_t *)p;
}

enum chain { CHAIN_PLAIN, CHAIN_SWAPPED, CHAIN_PERMUTED };

/* grid: (n / 32, m / 16), block: 128; a warp owns a tile of 16 x rows and 8 w rows, or with
 * operands swapped 8 x rows (twice) and 16 w rows: then grid (n / 64, m / 16). */
template <class T, chain CHAIN>
__global__ void chain_kernel(float *y, const T *x, const T *w, int k_end, int n_cols)
{
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    int m0 = blockIdx.y * 16;
    if (CHAIN == CHAIN_SWAPPED) {
        int n0 = (blockIdx.x * 4 + warp) * 16;
        for (int half = 0; half < 2; half++) {
            float d[4] = {};
            const T *b = x + (size_t)(m0 + 8 * half + g) * k_end;
            const T *a0 = w + (size_t)(n0 + g) * k_end, *a1 = a0 + (size_t)8 * k_end;
            for (int k = 2 * t; k < k_end; k += 16) {
                uint32_t a[4] = {two(a0 + k), two(a1 + k), two(a0 + k + 8), two(a1 + k + 8)};
                uint32_t bb[2] = {two(b + k), two(b + k + 8)};
                mma(d, a, bb, T());
            }
            for (int i = 0; i < 4; i++)
                y[(size_t)(m0 + 8 * half + 2 * t + i % 2) * n_cols + n0 + g + 8 * (i / 2)] = d[i];
        }
        return;
    }
    int n0 = (blockIdx.x * 4 + warp) * 8;
    float d[4] = {};
    const T *b = w + (size_t)(n0 + g) * k_end;
    const T *a0 = x + (size_t)(m0 + g) * k_end, *a1 = a0 + (size_t)8 * k_end;
    /* Permuted: thread t of four holds k 4t..4t+3 of each 16 instead of 2t, 2t+1, 2t+8, 2t+9. */
    int first = CHAIN == CHAIN_PERMUTED ? 4 * t : 2 * t, second = CHAIN == CHAIN_PERMUTED ? 2 : 8;
    for (int k = first; k < k_end; k += 16) {
        uint32_t a[4] = {two(a0 + k), two(a1 + k), two(a0 + k + second), two(a1 + k + second)};
        uint32_t bb[2] = {two(b + k), two(b + k + second)};
        mma(d, a, bb, T());
    }
    for (int i = 0; i < 4; i++)
        y[(size_t)(m0 + g + 8 * (i / 2)) * n_cols + n0 + 2 * t + i % 2] = d[i];
}

/* Descriptor of a K-major operand without swizzle: 8 rows of 16 bytes lie together (a core
 * matrix); `k_bytes` to the next one along k, 128 to the next one along the rows. */
__device__ uint64_t wgmma_desc(const void *at, uint32_t k_bytes)
{
    uint64_t addr = (uint64_t)__cvta_generic_to_shared(at);
    return (addr & 0x3ffff) >> 4 | (uint64_t)(k_bytes >> 4) << 16 | (uint64_t)(128 >> 4) << 32;
}

#define WGMMA_TYPES(F, SHAPE, OUT, DA, DB, P)                                                      \
    "{\n.reg .pred p;\nsetp.ne.b32 p, " P ", 0;\nwgmma.mma_async.sync.aligned." SHAPE ".f32." F    \
    "." F " {" OUT "}, " DA ", " DB ", p, 1, 1, 0, 0;\n}\n"

template <class T> struct wgmma8;
template <> struct wgmma8<__nv_bfloat16> {
    static __device__ void run(float *d, uint64_t a, uint64_t b, int add)
    {
        asm volatile(WGMMA_TYPES("bf16", "m64n8k16", "%0,%1,%2,%3", "%4", "%5", "%6")
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "l"(a), "l"(b), "r"(add));
    }
};
template <> struct wgmma8<__half> {
    static __device__ void run(float *d, uint64_t a, uint64_t b, int add)
    {
        asm volatile(WGMMA_TYPES("f16", "m64n8k16", "%0,%1,%2,%3", "%4", "%5", "%6")
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "l"(a), "l"(b), "r"(add));
    }
};

#define F8(i)                                                                                      \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]),    \
        "+f"(d[i + 6]), "+f"(d[i + 7])
#define OUT64                                                                                      \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,"   \
    "%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47," \
    "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"

template <class T> struct wgmma128;
template <> struct wgmma128<__nv_bfloat16> {
    static __device__ void run(float *d, uint64_t a, uint64_t b, int add)
    {
        asm volatile(WGMMA_TYPES("bf16", "m64n128k16", OUT64, "%64", "%65", "%66")
                     : F8(0), F8(8), F8(16), F8(24), F8(32), F8(40), F8(48), F8(56)
                     : "l"(a), "l"(b), "r"(add));
    }
};
template <> struct wgmma128<__half> {
    static __device__ void run(float *d, uint64_t a, uint64_t b, int add)
    {
        asm volatile(WGMMA_TYPES("f16", "m64n128k16", OUT64, "%64", "%65", "%66")
                     : F8(0), F8(8), F8(16), F8(24), F8(32), F8(40), F8(48), F8(56)
                     : "l"(a), "l"(b), "r"(add));
    }
};

template <class T> __device__ void load_tile(T *to, const T *from, int rows, int k, int k_end)
{
    for (int i = threadIdx.x; i < rows * 2; i += blockDim.x) {
        int row = i / 2, half = i % 2;
        uint4 v = *(const uint4 *)(from + (size_t)row * k_end + k + 8 * half);
        *(uint4 *)(to + half * rows * 8 + row * 8) = v;
    }
}

/* grid: (b rows / COLS, a rows / 64), block: 128.  y[b row, a row] when `transposed`, else y[a row,
 * b row]; ld is y's row length. */
template <class T, int COLS>
__global__ void wgmma_kernel(float *y, const T *a, const T *b, int k_end, int ld, bool transposed)
{
    __shared__ alignas(128) T a_tile[64 * 16];
    __shared__ alignas(128) T b_tile[COLS * 16];
    float d[COLS / 2];
    for (int i = 0; i < COLS / 2; i++)
        d[i] = 0.0f;
    for (int k = 0; k < k_end; k += 16) {
        load_tile(a_tile, a + (size_t)blockIdx.y * 64 * k_end, 64, k, k_end);
        load_tile(b_tile, b + (size_t)blockIdx.x * COLS * k_end, COLS, k, k_end);
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        __syncthreads();
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
        uint64_t da = wgmma_desc(a_tile, 64 * 16), db = wgmma_desc(b_tile, COLS * 16);
        if constexpr (COLS == 8)
            wgmma8<T>::run(d, da, db, 1);
        else
            wgmma128<T>::run(d, da, db, 1);
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
        __syncthreads();
    }
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int i = 0; i < COLS / 2; i++) {
        int row = blockIdx.y * 64 + warp * 16 + lane / 4 + 8 * (i / 2 % 2);
        int col = blockIdx.x * COLS + i / 4 * 8 + lane % 4 * 2 + i % 2;
        y[transposed ? (size_t)col * ld + row : (size_t)row * ld + col] = d[i];
    }
}

/* ---- comparing ---- */

struct diff {
    unsigned long long equal, equal_twice; /* equal_twice: rounded before the addition, too */
    float max_rel;
};

__device__ bool same_bits(float a, float b)
{
    return __float_as_uint(a) == __float_as_uint(b);
}

/* y against want (+ add), rounded to T as y is. */
template <class T, class Y>
__global__ void compare_kernel(diff *out, const Y *y, const float *want, const T *add, size_t n)
{
    unsigned long long equal = 0, twice = 0;
    float rel = 0.0f;
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n;
         i += (size_t)gridDim.x * blockDim.x) {
        float a = add ? (float)add[i] : 0.0f, sum = add ? want[i] + a : want[i];
        float got = (float)y[i], once = (float)(Y)sum, rounded = (float)(Y)((float)(Y)want[i] + a);
        equal += same_bits(got, once) || (got == 0.0f && once == 0.0f);
        twice += same_bits(got, rounded) || (got == 0.0f && rounded == 0.0f);
        rel = fmaxf(rel, got == got ? fabsf(got - once) : INFINITY);
    }
    atomicAdd(&out->equal, equal);
    atomicAdd(&out->equal_twice, twice);
    atomicMax((int *)&out->max_rel, __float_as_int(rel));
}

diff *diff_device;

template <class T, class Y> diff compare(const Y *y, const float *want, const T *add, size_t n)
{
    diff d;
    CUDA(cudaMemset(diff_device, 0, sizeof d));
    compare_kernel<T, Y><<<1024, 256>>>(diff_device, y, want, add, n);
    CUDA(cudaGetLastError());
    CUDA(cudaMemcpy(&d, diff_device, sizeof d, cudaMemcpyDeviceToHost));
    return d;
}

/* ---- cublasLt ---- */

struct config {
    int id, tile, stages, splitk, reduction, swizzle, custom, inner, cluster;
};

template <class V>
int config_get(const cublasLtMatmulAlgo_t *algo, cublasLtMatmulAlgoConfigAttributes_t what)
{
    V v = 0;
    size_t n = 0;
    if (cublasLtMatmulAlgoConfigGetAttribute(algo, what, &v, sizeof v, &n) != CUBLAS_STATUS_SUCCESS)
        return -99;
    return (int)v;
}

config config_of(const cublasLtMatmulAlgo_t *a)
{
    return {config_get<int32_t>(a, CUBLASLT_ALGO_CONFIG_ID),
            config_get<uint32_t>(a, CUBLASLT_ALGO_CONFIG_TILE_ID),
            config_get<uint32_t>(a, CUBLASLT_ALGO_CONFIG_STAGES_ID),
            config_get<int32_t>(a, CUBLASLT_ALGO_CONFIG_SPLITK_NUM),
            config_get<uint32_t>(a, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME),
            config_get<uint32_t>(a, CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING),
            config_get<uint32_t>(a, CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION),
            config_get<uint16_t>(a, CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID),
            config_get<uint16_t>(a, CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID)};
}

struct product { /* y[m, N] = x[m, k] w[N, k]^T (+ y) */
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t w, x, y;
};

product product_make(cudaDataType_t in, cudaDataType_t out, int m, int k)
{
    product p;
    cublasOperation_t t = CUBLAS_OP_T;
    LT(cublasLtMatmulDescCreate(&p.desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    LT(cublasLtMatmulDescSetAttribute(p.desc, CUBLASLT_MATMUL_DESC_TRANSA, &t, sizeof t));
    LT(cublasLtMatrixLayoutCreate(&p.w, in, k, N, k));
    LT(cublasLtMatrixLayoutCreate(&p.x, in, k, m, k));
    LT(cublasLtMatrixLayoutCreate(&p.y, out, N, m, N));
    return p;
}

void product_free(product *p)
{
    LT(cublasLtMatrixLayoutDestroy(p->w));
    LT(cublasLtMatrixLayoutDestroy(p->x));
    LT(cublasLtMatrixLayoutDestroy(p->y));
    LT(cublasLtMatmulDescDestroy(p->desc));
}

int heuristics(cublasLtHandle_t lt, const product *p, bool split,
               cublasLtMatmulHeuristicResult_t *result)
{
    cublasLtMatmulPreference_t pref;
    size_t bytes = WORK_BYTES;
    uint32_t mask = split ? CUBLASLT_REDUCTION_SCHEME_MASK : CUBLASLT_REDUCTION_SCHEME_NONE;
    LT(cublasLtMatmulPreferenceCreate(&pref));
    LT(cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes,
                                            sizeof bytes));
    LT(cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &mask,
                                            sizeof mask));
    int n = 0;
    cublasStatus_t e = cublasLtMatmulAlgoGetHeuristic(lt, p->desc, p->w, p->x, p->y, p->y, pref,
                                                      RESULTS, result, &n);
    LT(cublasLtMatmulPreferenceDestroy(pref));
    return e == CUBLAS_STATUS_SUCCESS ? n : 0;
}

template <class T> struct buffers {
    T *x, *w, *y_half, *add;
    float *want, *y;
    void *work;
};

template <class T, class Y> struct lt_case {
    cublasLtHandle_t lt;
    const buffers<T> *b;
    const char *type;
    int m, k;
    bool add; /* beta = 1, in place */
};

/* Runs one algorithm and compares; microseconds by ten runs in *us. */
template <class T, class Y>
bool lt_run(const lt_case<T, Y> *c, const product *p, const cublasLtMatmulAlgo_t *algo, Y *y,
            diff *d, float *us)
{
    const buffers<T> *b = c->b;
    size_t n = (size_t)c->m * N;
    float alpha = 1.0f, beta = c->add ? 1.0f : 0.0f;
    CUDA(cudaMemset(y, 0xff, n * sizeof(Y)));
    if (c->add)
        CUDA(cudaMemcpy(y, b->add, n * sizeof(T), cudaMemcpyDeviceToDevice));
    cublasStatus_t e = cublasLtMatmul(c->lt, p->desc, &alpha, b->w, p->w, b->x, p->x, &beta, y,
                                      p->y, y, p->y, algo, b->work, WORK_BYTES, 0);
    CUDA(cudaDeviceSynchronize());
    if (e != CUBLAS_STATUS_SUCCESS)
        return false;
    *d = compare<T, Y>(y, b->want, c->add ? b->add : nullptr, n);
    cudaEvent_t from, to;
    CUDA(cudaEventCreate(&from));
    CUDA(cudaEventCreate(&to));
    CUDA(cudaEventRecord(from));
    for (int i = 0; i < 10; i++)
        (void)cublasLtMatmul(c->lt, p->desc, &alpha, b->w, p->w, b->x, p->x, &beta, y, p->y, y,
                             p->y, algo, b->work, WORK_BYTES, 0);
    CUDA(cudaEventRecord(to));
    CUDA(cudaEventSynchronize(to));
    CUDA(cudaEventElapsedTime(us, from, to));
    *us *= 100.0f;
    CUDA(cudaEventDestroy(from));
    CUDA(cudaEventDestroy(to));
    return true;
}

/* One line: of the proposed algorithms, how many agree in every bit, and the configurations of
 * those that do not. */
template <class T, class Y>
void lt_probe(const lt_case<T, Y> *c, Y *y, cudaDataType_t in, cudaDataType_t out)
{
    product p = product_make(in, out, c->m, c->k);
    for (int split = 0; split < 2; split++) {
        cublasLtMatmulHeuristicResult_t r[RESULTS];
        int n = heuristics(c->lt, &p, split, r), n_ran = 0, n_equal = 0;
        char bad[512] = "";
        size_t used = 0;
        float first_us = 0.0f, best_us = 1e9f, best_equal_us = 1e9f;
        for (int i = 0; i < n; i++) {
            diff d;
            float us;
            config f = config_of(&r[i].algo);
            if (r[i].state != CUBLAS_STATUS_SUCCESS || !lt_run(c, &p, &r[i].algo, y, &d, &us)) {
                if (details)
                    fprintf(details, "%s k%d m%d: algo %d did not run\n", c->type, c->k, c->m,
                            f.id);
                continue;
            }
            size_t total = (size_t)c->m * N;
            bool equal = d.equal == total;
            n_ran++;
            n_equal += equal;
            first_us = i ? first_us : us;
            best_us = us < best_us ? us : best_us;
            best_equal_us = equal && us < best_equal_us ? us : best_equal_us;
            if (details)
                fprintf(details,
                        "%s %s add%d %s k%d m%d #%d: equal %llu/%zu twice %llu maxdiff %g %.1fus "
                        "work %zu | id %d "
                        "tile %d stages %d splitk %d red %d swz %d custom %d inner %d cluster %d\n",
                        c->type, sizeof(Y) == 4 ? "f32" : "16", c->add, split ? "any" : "nosplit",
                        c->k, c->m, i, d.equal, total, d.equal_twice, d.max_rel, us,
                        r[i].workspaceSize, f.id, f.tile, f.stages, f.splitk, f.reduction,
                        f.swizzle, f.custom, f.inner, f.cluster);
            if (!equal && used < sizeof bad - 64)
                used += (size_t)snprintf(
                    bad + used, sizeof bad - used, " [%d t%d s%d k%d r%d c%d %.3f%s]", f.id, f.tile,
                    f.stages, f.splitk, f.reduction, f.custom, (double)d.equal / (double)total,
                    c->add && d.equal_twice == total ? " =twice" : "");
        }
        printf("%-4s %-3s %s k%-5d m%-4d %-7s %d/%d  first %.1f best %.1f best equal %.1f us%s\n",
               c->type, sizeof(Y) == 4 ? "f32" : "16", c->add ? "+y" : "  ", c->k, c->m,
               split ? "any" : "nosplit", n_equal, n_ran, first_us, n_ran ? best_us : 0.0f,
               n_equal ? best_equal_us : 0.0f, bad);
    }
    product_free(&p);
}

/* ---- the table ---- */

void say(const char *type, int k, const char *what, diff d, size_t n)
{
    printf("%-4s k%-5d %-28s equal %llu/%zu%s maxdiff %g\n", type, k, what, d.equal, n,
           d.equal == n ? " ALL" : "", d.max_rel);
}

template <class T> void chains(const buffers<T> *b, const char *type, int k)
{
    size_t n = (size_t)256 * N;
    const T *none = nullptr;
    chain_kernel<T, CHAIN_PLAIN><<<dim3(N / 32, M_MAX / 16), 128>>>(b->want, b->x, b->w, k, N);
    CUDA(cudaGetLastError());
    chain_kernel<T, CHAIN_SWAPPED><<<dim3(N / 64, 16), 128>>>(b->y, b->x, b->w, k, N);
    CUDA(cudaGetLastError());
    say(type, k, "mma operands swapped", compare<T, float>(b->y, b->want, none, n), n);
    chain_kernel<T, CHAIN_PERMUTED><<<dim3(N / 32, 16), 128>>>(b->y, b->x, b->w, k, N);
    CUDA(cudaGetLastError());
    say(type, k, "mma k permuted inside 16", compare<T, float>(b->y, b->want, none, n), n);
    wgmma_kernel<T, 8><<<dim3(N / 8, 256 / 64), 128>>>(b->y, b->x, b->w, k, N, false);
    CUDA(cudaGetLastError());
    say(type, k, "wgmma n8, x is A", compare<T, float>(b->y, b->want, none, n), n);
    wgmma_kernel<T, 128><<<dim3(N / 128, 256 / 64), 128>>>(b->y, b->x, b->w, k, N, false);
    CUDA(cudaGetLastError());
    say(type, k, "wgmma n128, x is A", compare<T, float>(b->y, b->want, none, n), n);
    wgmma_kernel<T, 8><<<dim3(256 / 8, N / 64), 128>>>(b->y, b->w, b->x, k, N, true);
    CUDA(cudaGetLastError());
    say(type, k, "wgmma n8, w is A", compare<T, float>(b->y, b->want, none, n), n);
    wgmma_kernel<T, 128><<<dim3(256 / 128, N / 64), 128>>>(b->y, b->w, b->x, k, N, true);
    CUDA(cudaGetLastError());
    say(type, k, "wgmma n128, w is A", compare<T, float>(b->y, b->want, none, n), n);
}

template <class T> void probe(cublasLtHandle_t lt, const char *type, cudaDataType_t in)
{
    static const int ks[] = {576, 2048, 4096, 14336};
    static const int ms[] = {1, 8, 16, 64, 65, 128, 256, 512, 2048, 8192};
    buffers<T> b;
    CUDA(cudaMalloc(&b.x, (size_t)M_MAX * K_MAX * sizeof(T)));
    CUDA(cudaMalloc(&b.w, (size_t)N * K_MAX * sizeof(T)));
    CUDA(cudaMalloc(&b.y_half, (size_t)M_MAX * N * sizeof(T)));
    CUDA(cudaMalloc(&b.add, (size_t)M_MAX * N * sizeof(T)));
    CUDA(cudaMalloc(&b.want, (size_t)M_MAX * N * sizeof(float)));
    CUDA(cudaMalloc(&b.y, (size_t)M_MAX * N * sizeof(float)));
    CUDA(cudaMalloc(&b.work, WORK_BYTES));
    for (int k : ks) {
        fill_kernel<T><<<1024, 256>>>(b.x, (size_t)M_MAX * k, 1.0f, 11 + k);
        fill_kernel<T><<<1024, 256>>>(b.w, (size_t)N * k, 0.03f, 12 + k);
        fill_kernel<T><<<1024, 256>>>(b.add, (size_t)M_MAX * N, 1.0f, 13 + k);
        CUDA(cudaGetLastError());
        chains<T>(&b, type, k);
        CUDA(cudaDeviceSynchronize());
        for (int m : ms) {
            lt_case<T, T> half = {lt, &b, type, m, k, false}, add = half;
            add.add = true;
            lt_case<T, float> wide = {lt, &b, type, m, k, false};
            lt_probe<T, T>(&half, b.y_half, in, in);
            lt_probe<T, float>(&wide, b.y, in, CUDA_R_32F);
            lt_probe<T, T>(&add, b.y_half, in, in);
            fflush(stdout);
        }
    }
    CUDA(cudaFree(b.x));
    CUDA(cudaFree(b.w));
    CUDA(cudaFree(b.y_half));
    CUDA(cudaFree(b.add));
    CUDA(cudaFree(b.want));
    CUDA(cudaFree(b.y));
    CUDA(cudaFree(b.work));
}

} // namespace

int main(int argc, char **argv)
{
    if (argc > 1 && !(details = fopen(argv[1], "w"))) {
        perror(argv[1]);
        return 1;
    }
    cublasLtHandle_t lt;
    LT(cublasLtCreate(&lt));
    CUDA(cudaMalloc(&diff_device, sizeof(diff)));
    printf("cublasLt %zu; n = %d\n", cublasLtGetVersion(), N);
    probe<__nv_bfloat16>(lt, "bf16", CUDA_R_16BF);
    probe<__half>(lt, "f16", CUDA_R_16F);
    CUDA(cudaFree(diff_device));
    LT(cublasLtDestroy(lt));
    return details ? fclose(details) != 0 : 0;
}
