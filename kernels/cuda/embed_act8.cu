/* embed_act8.cu - rows of a token table that lies as act8_layout.h has it, as activations.
 *
 * A thread makes 16 columns of a token's row, which lie together. */
#include <cuda_fp8.h>

#include "kernels/cuda/act8_layout.h"
#include "kernels/cuda/act_type.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/scheme.h"

namespace
{

enum { THREADS = 128, COLUMNS = 16 };

struct embed_act8_args {
    uint16_t *out; /* [n_tokens, cols] */
    const uint8_t *groups;
    const int32_t *ids;
    int cols, first;
    int64_t rows;
    float scale;
};

template <bool FP8> __device__ inline float code_value(uint8_t code)
{
    if (!FP8)
        return (float)(int8_t)code;
    const __half_raw h = __nv_cvt_fp8_to_halfraw(code, __NV_E4M3);
    return __half2float(__half(h));
}

/* grid: [n_tokens, parts of a row]   block: [THREADS] */
template <class T, bool FP8>
__global__ void __launch_bounds__(THREADS) embed_act8_kernel(const embed_act8_args a)
{
    const int col = (int)(blockIdx.y * THREADS + threadIdx.x) * COLUMNS;
    await_previous();
    const int64_t row = (int64_t)a.ids[blockIdx.x] - a.first;
    if (col >= a.cols)
        return;
    T *out = (T *)a.out + (size_t)blockIdx.x * a.cols + col;
    const bool has_row = row >= 0 && row < a.rows;
    const int in_group = has_row ? (int)(row % ACT8_GROUP) : 0;
    const uint8_t *group = a.groups + act8_bytes(has_row ? row - in_group : 0, a.cols);
    const uint4 codes = __ldg((const uint4 *)(group + act8_code_at(in_group, col)));
    const float by = __ldg((const float *)(group + act8_codes_bytes(a.cols)) + in_group);
    for (int i = 0; i < COLUMNS && col + i < a.cols; i++) {
        const float v = code_value<FP8>(reinterpret_cast<const uint8_t *>(&codes)[i]);
        store_f32(out + i, has_row ? by * v * a.scale : 0.0f);
    }
}

} // namespace

void cuda_embed_act8(struct device *d, const struct embed_args *args)
{
    embed_act8_args a = {};
    a.out = (uint16_t *)args->out;
    a.groups = (const uint8_t *)args->table->data;
    a.ids = d->batch.ids;
    a.cols = (int)args->table->cols;
    a.first = args->first;
    a.rows = args->table->rows;
    a.scale = args->scale;
    const bool fp8 = args->table->scheme->codes == DT_FP8;
    const int parts = (a.cols + THREADS * COLUMNS - 1) / (THREADS * COLUMNS);
    with_act_type(d->act, [&](auto pair) {
        typedef typename single_of<decltype(pair)>::type T;
        launch(d, "embed",
               {dim3((unsigned)d->batch.n_tokens, (unsigned)parts), dim3(THREADS), 0, 0},
               fp8 ? embed_act8_kernel<T, true> : embed_act8_kernel<T, false>, a);
    });
}
