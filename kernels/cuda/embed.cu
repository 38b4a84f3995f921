/* embed.cu - rows of the token table, as activations; zeros for tokens of other ranks.
 *
 * A table of 16 bits or f32 lies row after row; a row is read and written once.  A quantized one:
 * embed_scheme.cu, embed_block.cu. */
#include "kernels/cuda/act_type.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/weight_layout.h"

namespace
{

constexpr int THREADS = 256;

template <class PAIR> __device__ inline void load_chunk(float v[CHUNK], const PAIR *row, int chunk)
{
    chunk_to_f32<PAIR>(v, __ldg(reinterpret_cast<const uint4 *>(row) + chunk));
}

__device__ inline void load_chunk(float v[CHUNK], const float *row, int chunk)
{
#pragma unroll
    for (int i = 0; i < CHUNK; i++)
        v[i] = __ldg(row + chunk * CHUNK + i);
}

/* grid: [n_tokens, parts of a row]   block: [THREADS]
 * FROM is the table's type: float, or a pair of activations. */
template <class PAIR, class FROM>
__global__ void __launch_bounds__(THREADS)
    embed_kernel(chunk_of<PAIR> *out, const char *table, const int32_t *ids, int width,
                 size_t row_bytes, float scale, int first, int rows)
{
    const int n_chunks = width / CHUNK, chunk = (int)(blockIdx.y * THREADS + threadIdx.x);
    await_previous();
    if (chunk >= n_chunks)
        return;
    const int row = ids[blockIdx.x] - first;
    float v[CHUNK] = {};
    if (row >= 0 && row < rows)
        load_chunk(v, (const FROM *)(table + (size_t)row * row_bytes), chunk);
#pragma unroll
    for (int i = 0; i < CHUNK; i++)
        v[i] *= scale;
    out[(int64_t)blockIdx.x * n_chunks + chunk] = chunk_from_f32<PAIR>(v);
}

template <class PAIR, class FROM> void launch_embed(struct device *d, const struct embed_args *a)
{
    const int width = (int)a->table->cols;
    const size_t value_bytes = a->table->dtype == DT_F32 ? 4 : 2;
    const dim3 grid((unsigned)d->batch.n_tokens,
                    (unsigned)((width / CHUNK + THREADS - 1) / THREADS));
    launch(d, "embed", {grid, dim3(THREADS), 0, 0}, embed_kernel<PAIR, FROM>,
           (chunk_of<PAIR> *)a->out, (const char *)a->table->data, (const int32_t *)d->batch.ids,
           width, (size_t)width * value_bytes, a->scale, a->first, (int)a->table->rows);
}

} /* namespace */

void cuda_embed(struct device *d, const struct embed_args *a)
{
    if (d->batch.n_tokens <= 0)
        return;
    if (a->table->scheme) {
        const bool act8 = weight_has_act8(a->table->scheme, d->cc);
        (act8 ? cuda_embed_act8 : cuda_embed_scheme)(d, a);
        return;
    }
    if (a->table->layout == LAYOUT_PACKED) {
        cuda_embed_block(d, a);
        return;
    }
    with_any_act_type(d->act, [&](auto pair) {
        typedef decltype(pair) act;
        if (a->table->dtype == DT_F32)
            launch_embed<act, float>(d, a);
        else if (a->table->dtype == DT_F16)
            launch_embed<act, __half2>(d, a);
        else
            launch_embed<act, __nv_bfloat162>(d, a);
    });
}
