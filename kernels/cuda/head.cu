/* head.cu - logits of the batch's heads: gather their rows, norm, product to f32; with several ranks
 * each makes those of its tokens, and gets the others'.
 *
 * Few rows are gathered and normalised inside the product; more by one kernel before it.
 * Order of the norm's sums: norm_row.cuh. */
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matmul_int.h"
#include "kernels/cuda/norm_row.cuh"
#include "kernels/cuda/peers.h"

namespace {

struct gather_args {
    void *y;                       /* [n, width] */
    const void *x;                 /* [n_tokens, width] */
    const struct batch_head *head; /* [n] */
    int width;
    bool has_norm;
    enum norm_kind kind;
    const float *w, *b; /* [width] or NULL */
    float eps;
};

/* grid: rows, block: NORM_THREADS; a thread makes the chunks that it sums. */
template <class PAIR>
__global__ void __launch_bounds__(NORM_THREADS) gather_kernel(const gather_args a)
{
    __shared__ float warp_sum[NORM_WARPS];
    int n_chunks = a.width / NORM_CHUNK;
    typedef chunk_of<PAIR> chunk;
    const chunk *x = (const chunk *)a.x + (size_t)a.head[blockIdx.x].row * n_chunks;
    chunk *y = (chunk *)a.y + (size_t)blockIdx.x * n_chunks;
    float mean = 0.0f, sum = 0.0f;
    if (a.has_norm && a.kind == NORM_LAYER) {
        for (int i = threadIdx.x; i < n_chunks; i += NORM_THREADS)
            sum = norm_chunk_sum<PAIR>(sum, x[i]);
        mean = norm_mean(norm_block_sum(sum, warp_sum), a.width);
    }
    sum = 0.0f;
    for (int i = threadIdx.x; a.has_norm && i < n_chunks; i += NORM_THREADS)
        sum = norm_chunk_squares<PAIR>(sum, x[i], mean);
    float scale = norm_scale(norm_block_sum(sum, warp_sum), a.width, a.eps);
    for (int i = threadIdx.x; i < n_chunks; i += NORM_THREADS)
        y[i] = a.has_norm
                   ? norm_chunk<PAIR>(x[i], mean, scale, a.w ? a.w + NORM_CHUNK * i : nullptr,
                                      a.b ? a.b + NORM_CHUNK * i : nullptr)
                   : x[i];
}

void gather(struct device *d, const struct product *p)
{
    gather_args a = {};
    a.y = d->scratch_norm;
    a.x = p->x;
    a.head = p->gather;
    a.width = p->in;
    if ((a.has_norm = p->norm != nullptr)) {
        a.kind = p->norm->kind;
        a.w = p->norm->w;
        a.b = p->norm->b;
        a.eps = p->norm->eps;
    }
    launch_alone(d, "gathering heads", {dim3((unsigned)p->rows), dim3(NORM_THREADS), 0, 0},
                 d->act == DT_F32   ? gather_kernel<float2>
                 : d->act == DT_F16 ? gather_kernel<__half2>
                                    : gather_kernel<__nv_bfloat162>,
                 a);
}

} // namespace

/* ---- the op ---- */

void cuda_head(struct device *d, const struct head_args *a)
{
    struct product p = {};
    p.x = a->x;
    p.rows = a->n;
    matmul_take_weight(d, &p, a->w);
    p.y_stride = a->split ? a->split[d->peers->view.n_ranks] : p.n;
    p.y = a->split ? a->logits + a->split[d->peers->view.rank] : a->logits;
    p.y_f32 = true;
    p.norm = a->norm;
    p.gather = d->batch.head + a->first;
    if (p.order) {
        matmul_order(d, &p);
    } else if (!matmul_fuses_norm(d, &p)) {
        gather(d, &p);
        p.x = d->scratch_norm;
        p.norm = nullptr;
        p.gather = nullptr;
    }
    matmul_product(d, &p);
    if (a->split)
        cuda_gather_rows(d, a->logits, a->n, a->split);
}
