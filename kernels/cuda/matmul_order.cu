/* matmul_order.cu - x with its columns in the order of a weight's: act-order, where each matrix has
 * one.
 *
 * A block brings one row to shared memory, normalised where that is asked for, and writes it column
 * by column as the order says.  The norm's sums are those of norm_row.cuh, so its bits are too. */
#include "kernels/cuda/act_type.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matmul_int.h"

namespace {

struct order_args {
    uint16_t *y;                   /* [rows, width] */
    const uint4 *x;                /* [., width] */
    const struct batch_head *head; /* [rows] or NULL */
    const int32_t *order;          /* [width] */
    int width;
    bool has_norm;
    enum norm_kind kind;
    const float *w, *b; /* [width] or NULL */
    float eps;
};

/* grid: [rows]   block: [NORM_THREADS], a thread makes the chunks that it sums   shared: a row */
template <class PAIR>
__global__ void __launch_bounds__(NORM_THREADS) order_kernel(const order_args a)
{
    DYNAMIC_SHARED(uint4, row);
    __shared__ float warp_sum[NORM_WARPS];
    const int n_chunks = a.width / NORM_CHUNK;
    await_previous();
    const uint4 *x =
        a.x + (size_t)(a.head ? a.head[blockIdx.x].row : (int)blockIdx.x) * (size_t)n_chunks;
    float mean = 0.0f, sum = 0.0f;
    if (a.has_norm && a.kind == NORM_LAYER) {
        for (int i = threadIdx.x; i < n_chunks; i += NORM_THREADS)
            sum = norm_chunk_sum<PAIR>(sum, x[i]);
        mean = norm_mean(norm_block_sum(sum, warp_sum), a.width);
    }
    sum = 0.0f;
    for (int i = threadIdx.x; a.has_norm && i < n_chunks; i += NORM_THREADS)
        sum = norm_chunk_squares<PAIR>(sum, x[i], mean);
    const float scale = norm_scale(norm_block_sum(sum, warp_sum), a.width, a.eps);
    for (int i = threadIdx.x; i < n_chunks; i += NORM_THREADS)
        row[i] = a.has_norm
                     ? norm_chunk<PAIR>(x[i], mean, scale, a.w ? a.w + NORM_CHUNK * i : nullptr,
                                        a.b ? a.b + NORM_CHUNK * i : nullptr)
                     : x[i];
    __syncthreads();
    uint16_t *y = a.y + (size_t)blockIdx.x * (size_t)a.width;
    for (int i = threadIdx.x; i < a.width; i += NORM_THREADS)
        y[i] = ((const uint16_t *)row)[a.order[i]];
}

enum { DEFAULT_SHARED = 48 * 1024 };

} // namespace

void matmul_order(struct device *d, struct product *p)
{
    order_args a = {};
    const size_t row_bytes = (size_t)p->in * 2;
    a.y = (uint16_t *)d->scratch_norm;
    a.x = (const uint4 *)p->x;
    a.head = p->gather;
    a.order = p->order;
    a.width = p->in;
    if ((a.has_norm = p->norm != nullptr)) {
        a.kind = p->norm->kind;
        a.w = p->norm->w;
        a.b = p->norm->b;
        a.eps = p->norm->eps;
    }
    with_act_type(d->act, [&](auto pair) {
        auto kernel = order_kernel<decltype(pair)>;
        if (row_bytes > DEFAULT_SHARED)
            cuda_check(d,
                       cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                            (int)row_bytes),
                       "shared memory of the order of columns");
        launch(d, "order columns", {dim3((unsigned)p->rows), dim3(NORM_THREADS), row_bytes, 0},
               kernel, a);
    });
    p->x = d->scratch_norm;
    p->norm = nullptr;
    p->gather = nullptr;
    p->order = nullptr;
}
