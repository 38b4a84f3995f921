/* matmul_lt.cu - products of many rows, by cublasLt.
 *
 * Algorithms that split k (or add partial tiles in any other way) are refused: those that remain
 * add one chain over k, as the skinny kernel does (tests/gpu/probe_numerics.cu).  The algorithm for
 * a shape is asked for once; a call then allocates nothing.
 *
 * What cublasLt's epilogues cannot do with our rounding goes through scratch: gates as
 * activations, whatever has a bias or an activation of its own as f32 sums. */
#include "kernels/cuda/matmul_int.h"

namespace
{

struct lt_key { /* all fields are words: no padding, compared as bytes */
    cublasLtHandle_t lt;
    int n, in, rows; /* rows: the bucket's largest */
    int act_f16, y_f32, has_add;
};

struct lt_entry {
    struct lt_key key;
    cublasLtMatmulAlgo_t algo;
    bool known;
};

enum { ENTRIES = 1024, CANDIDATES = 16 };
struct lt_entry entries[ENTRIES]; /* direct mapped: a collision asks again */

struct lt_call { /* y^T[n, rows] = w[n, in] x^T, as cublasLt counts columns first */
    cublasLtMatmulDescOpaque_t desc;
    cublasLtMatrixLayoutOpaque_t w, x, y;
};

/* Rows are bucketed so that shapes repeat: by 64 to 512, then by 512. */
int bucket_of(int rows)
{
    int by = rows <= 512 ? 64 : 512;
    return (rows + by - 1) / by * by;
}

size_t hash_of(const struct lt_key *k)
{
    uint64_t h = (uint64_t)k->n * 0x9e3779b97f4a7c15ull;
    h = (h ^ (uint64_t)k->in) * 0x9e3779b97f4a7c15ull;
    h = (h ^ (uint64_t)k->rows) * 0x9e3779b97f4a7c15ull;
    h = (h ^ (uint64_t)(k->y_f32 * 2 + k->has_add)) * 0x9e3779b97f4a7c15ull;
    return (size_t)(h >> 40) % ENTRIES;
}

bool lt_check(struct device *d, cublasStatus_t e, const char *at)
{
    if (e != CUBLAS_STATUS_SUCCESS)
        cuda_check(d, e == CUBLAS_STATUS_NOT_SUPPORTED ? cudaErrorNotSupported : cudaErrorUnknown,
                   at);
    return e == CUBLAS_STATUS_SUCCESS;
}

bool call_init(struct device *d, struct lt_call *c, const struct product *p, int rows)
{
    cublasOperation_t t = CUBLAS_OP_T;
    cudaDataType_t in = d->act == DT_F16 ? CUDA_R_16F : CUDA_R_16BF;
    cudaDataType_t out = p->y_f32 ? CUDA_R_32F : in;
    uint64_t n = (uint64_t)p->n, k = (uint64_t)p->in, m = (uint64_t)rows;
    return lt_check(d, cublasLtMatmulDescInit(&c->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F),
                    "product's descriptor") &&
           lt_check(
               d,
               cublasLtMatmulDescSetAttribute(&c->desc, CUBLASLT_MATMUL_DESC_TRANSA, &t, sizeof t),
               "product's transposition") &&
           lt_check(d, cublasLtMatrixLayoutInit(&c->w, in, k, n, p->in), "layout of w") &&
           lt_check(d, cublasLtMatrixLayoutInit(&c->x, in, k, m, p->in), "layout of x") &&
           lt_check(d, cublasLtMatrixLayoutInit(&c->y, out, n, m, p->y_stride), "layout of y");
}

bool adds_in_order(const cublasLtMatmulAlgo_t *algo)
{
    int32_t split = 1;
    uint32_t reduction = 0;
    size_t n;
    return cublasLtMatmulAlgoConfigGetAttribute(algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &split,
                                                sizeof split, &n) == CUBLAS_STATUS_SUCCESS &&
           cublasLtMatmulAlgoConfigGetAttribute(algo, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME,
                                                &reduction, sizeof reduction,
                                                &n) == CUBLAS_STATUS_SUCCESS &&
           (split == 0 || split == 1) && reduction == CUBLASLT_REDUCTION_SCHEME_NONE;
}

/* The first proposal that adds in order, for the bucket's largest shape. */
bool algo_ask(struct device *d, const struct product *p, int rows, cublasLtMatmulAlgo_t *algo)
{
    struct lt_call c;
    cublasLtMatmulPreferenceOpaque_t pref;
    cublasLtMatmulHeuristicResult_t found[CANDIDATES];
    uint32_t no_reduction = CUBLASLT_REDUCTION_SCHEME_NONE;
    int n = 0;
    if (!call_init(d, &c, p, rows) ||
        !lt_check(d, cublasLtMatmulPreferenceInit(&pref), "product's preference") ||
        !lt_check(d,
                  cublasLtMatmulPreferenceSetAttribute(&pref,
                                                       CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                       &d->lt_work_bytes, sizeof d->lt_work_bytes),
                  "product's workspace") ||
        !lt_check(d,
                  cublasLtMatmulPreferenceSetAttribute(&pref,
                                                       CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                                       &no_reduction, sizeof no_reduction),
                  "product's reduction") ||
        !lt_check(d,
                  cublasLtMatmulAlgoGetHeuristic(d->lt, &c.desc, &c.w, &c.x, &c.y, &c.y, &pref,
                                                 CANDIDATES, found, &n),
                  "product's algorithm"))
        return false;
    for (int i = 0; i < n; i++)
        if (found[i].state == CUBLAS_STATUS_SUCCESS && adds_in_order(&found[i].algo)) {
            *algo = found[i].algo;
            return true;
        }
    cuda_check(d, cudaErrorNotSupported, "product: no algorithm adds in order");
    return false;
}

const cublasLtMatmulAlgo_t *algo_of(struct device *d, const struct product *p)
{
    struct lt_key key = {
        d->lt, p->n, p->in, bucket_of(p->rows), d->act == DT_F16, p->y_f32, p->add != nullptr};
    struct lt_entry *e = &entries[hash_of(&key)];
    if (e->known && memcmp(&e->key, &key, sizeof key) == 0)
        return &e->algo;
    e->known = algo_ask(d, p, key.rows, &e->algo);
    e->key = key;
    return e->known ? &e->algo : nullptr;
}

/* No bias, no activation: (sum + add) rounded once is what beta = 1 gives. */
void lt_plain(struct device *d, const struct product *p)
{
    struct lt_call c;
    const cublasLtMatmulAlgo_t *algo = algo_of(d, p);
    float one = 1.0f, beta = p->add ? 1.0f : 0.0f;
    if (algo && call_init(d, &c, p, p->rows))
        lt_check(d,
                 cublasLtMatmul(d->lt, &c.desc, &one, p->w, &c.w, p->x, &c.x, &beta,
                                p->add ? p->add : p->y, &c.y, p->y, &c.y, algo, d->lt_work,
                                d->lt_work_bytes, d->stream),
                 "product");
}

/* The rows [first, first + rows) of p. */
struct product rows_of(const struct device *d, const struct product *p, int first, int rows)
{
    struct product part = *p;
    size_t at = (size_t)first * (size_t)p->y_stride;
    (void)d;
    part.rows = rows;
    part.x = (const uint16_t *)p->x + (size_t)first * (size_t)p->in;
    part.y = p->y_f32 ? (void *)((float *)p->y + at) : (void *)((uint16_t *)p->y + at);
    part.add = p->add ? (const uint16_t *)p->add + at : nullptr;
    return part;
}

/* The bare product of p's x and w into scratch. */
struct product bare_of(const struct product *p, void *y, bool y_f32)
{
    struct product bare = {};
    bare.x = p->x;
    bare.rows = p->rows;
    bare.in = p->in;
    bare.w = p->w;
    bare.n = bare.y_stride = p->gated ? 2 * p->n : p->n;
    bare.y = y;
    bare.y_f32 = y_f32;
    return bare;
}

/* By f32 sums, as many rows at a time as scratch holds. */
void lt_by_sums(struct device *d, const struct product *p)
{
    const struct device_limits *l = &d->limits;
    size_t scratch = (size_t)l->step_tokens_max * 2 * (size_t)l->ffn * 2;
    int most = (int)(scratch / ((size_t)(p->gated ? 2 * p->n : p->n) * sizeof(float)));
    if (most < 1) {
        cuda_check(d, cudaErrorInvalidValue, "product's scratch");
        return;
    }
    for (int first = 0; first < p->rows; first += most) {
        int rows = p->rows - first < most ? p->rows - first : most;
        struct product part = rows_of(d, p, first, rows);
        struct product bare = bare_of(&part, d->scratch_gate, true);
        lt_plain(d, &bare);
        matmul_finish(d, &part, (const float *)d->scratch_gate);
    }
}

} // namespace

void matmul_lt(struct device *d, const struct product *p)
{
    if (p->bias || p->bias_up || (!p->gated && p->act != ACT_NONE) || (p->y_f32 && p->add)) {
        lt_by_sums(d, p);
    } else if (p->gated) {
        struct product bare = bare_of(p, d->scratch_gate, false);
        lt_plain(d, &bare);
        matmul_gate(d, p, d->scratch_gate);
    } else {
        lt_plain(d, p);
    }
}
