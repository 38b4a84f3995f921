/* norm.cu - RMS norm and layer norm over rows, and what is added to them.
 *
 * One block does one row and keeps it in registers between the sums and the scaling, so no byte
 * is read twice: width values in, width values out, and the weights, which stay in the caches.
 * Order of the sums: norm_row.cuh. */
#include "kernels/cuda/act_type.cuh"
#include "kernels/cuda/launch.cuh"

namespace
{

constexpr int ROW_CHUNKS_MAX = 8; /* of a thread: widths to 16384 */

__device__ inline void load_weights(float v[CHUNK], const float *w, int chunk)
{
    const float4 *from = reinterpret_cast<const float4 *>(w) + 2 * chunk;
    float4 a = __ldg(from), b = __ldg(from + 1);
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
    v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}

/* grid: [rows]   block: [NORM_THREADS]
 * thread t holds chunks t, t + NORM_THREADS, ... of its row; y may be x or add: a thread reads a
 * chunk before it writes it */
template <class PAIR, bool LAYER, int CHUNKS>
__global__ void __launch_bounds__(NORM_THREADS)
    norm_kernel(chunk_of<PAIR> *y, const chunk_of<PAIR> *x, const chunk_of<PAIR> *add,
                const float *w, const float *b, int width, float eps)
{
    __shared__ float warp_sum[NORM_WARPS];
    const int n_chunks = width / CHUNK, t = (int)threadIdx.x;
    const int64_t row = (int64_t)blockIdx.x * n_chunks;
    chunk_of<PAIR> mine[CHUNKS];
    float mean = 0, sum = 0;

    depend_launch(); /* the product behind this fetches weights meanwhile */
    depend_wait();
#pragma unroll
    for (int i = 0; i < CHUNKS; i++)
        mine[i] =
            t + i * NORM_THREADS < n_chunks ? x[row + t + i * NORM_THREADS] : chunk_of<PAIR>();
    if (LAYER) {
#pragma unroll
        for (int i = 0; i < CHUNKS; i++) {
            if (t + i * NORM_THREADS < n_chunks)
                sum = norm_chunk_sum<PAIR>(sum, mine[i]);
        }
        mean = norm_mean(norm_block_sum(sum, warp_sum), width);
        sum = 0;
    }
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
        if (t + i * NORM_THREADS < n_chunks)
            sum = norm_chunk_squares<PAIR>(sum, mine[i], mean);
    }
    const float scale = norm_scale(norm_block_sum(sum, warp_sum), width, eps);
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
        const int c = t + i * NORM_THREADS;
        float weight[CHUNK], bias[CHUNK], v[CHUNK], more[CHUNK];
        if (c >= n_chunks)
            break;
        if (w)
            load_weights(weight, w, c);
        if (LAYER && b)
            load_weights(bias, b, c);
        norm_chunk_f32<PAIR>(v, mine[i], mean, scale, w ? weight : nullptr,
                             LAYER && b ? bias : nullptr);
        if (add) {
            chunk_to_f32<PAIR>(more, add[row + c]);
#pragma unroll
            for (int j = 0; j < CHUNK; j++)
                v[j] = __fadd_rn(v[j], more[j]);
        }
        y[row + c] = chunk_from_f32<PAIR>(v);
    }
}

template <class PAIR, bool LAYER> void launch_norm(struct device *d, const struct norm_args *a)
{
    typedef chunk_of<PAIR> chunk;
    const int chunks = (a->width / CHUNK + NORM_THREADS - 1) / NORM_THREADS;
    auto kernel = chunks <= 1   ? norm_kernel<PAIR, LAYER, 1>
                  : chunks <= 2 ? norm_kernel<PAIR, LAYER, 2>
                  : chunks <= 4 ? norm_kernel<PAIR, LAYER, 4>
                                : norm_kernel<PAIR, LAYER, ROW_CHUNKS_MAX>;
    launch(d, "norm", {dim3((unsigned)a->rows), dim3(NORM_THREADS), 0, 0}, kernel, (chunk *)a->y,
           (const chunk *)a->x, (const chunk *)a->add, a->norm.w, a->norm.b, a->width, a->norm.eps);
}

} /* namespace */

void cuda_norm(struct device *d, const struct norm_args *a)
{
    if (a->rows <= 0)
        return;
    with_any_act_type(d->act, [&](auto pair) {
        if (a->norm.kind == NORM_LAYER)
            launch_norm<decltype(pair), true>(d, a);
        else
            launch_norm<decltype(pair), false>(d, a);
    });
}
