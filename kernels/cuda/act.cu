/* act.cu - activation functions, with or without a gate's partner: y = act(gate) * up.
 *
 * Computed in f32 from the rounded inputs; two values in, one out, all in chunks of 16 bytes. */
#include "kernels/cuda/act_type.cuh"
#include "kernels/cuda/launch.cuh"

namespace
{

constexpr int THREADS = 256;

template <enum act_kind KIND> __device__ inline float act_one(float x)
{
    switch (KIND) {
    case ACT_SILU:
        return __fdividef(
            x, 1.0f + __expf(-x)); /* 0 where the exponential is infinite or above 2^126 */
    case ACT_GELU:
        return 0.5f * x * erfcf(-0.70710678f * x);
    case ACT_GELU_TANH: /* x/2 (1 + tanh u) = x / (1 + exp(-2u)) */
        return __fdividef(x, 1.0f + __expf(-1.5957691f * x * (1.0f + 0.044715f * x * x)));
    case ACT_RELU:
        return x < 0 ? 0.0f : x; /* NaN stays */
    default:
        return x;
    }
}

/* grid: [parts of a row, rows]   block: [THREADS]; y may be gate when their strides agree */
template <class PAIR, enum act_kind KIND>
__global__ void __launch_bounds__(THREADS)
    act_kernel(uint4 *y, const uint4 *gate, const uint4 *up, int n_chunks, int gate_chunks)
{
    const int chunk = (int)(blockIdx.x * THREADS + threadIdx.x);
    await_previous();
    if (chunk >= n_chunks)
        return;
    const int64_t from = (int64_t)blockIdx.y * gate_chunks + chunk;
    const uint4 raw = gate[from], raw_up = up ? up[from] : uint4();
    float v[CHUNK], u[CHUNK];
    chunk_to_f32<PAIR>(v, raw);
    chunk_to_f32<PAIR>(u, raw_up);
#pragma unroll
    for (int i = 0; i < CHUNK; i++)
        v[i] = up ? act_one<KIND>(v[i]) * u[i] : act_one<KIND>(v[i]);
    y[(int64_t)blockIdx.y * n_chunks + chunk] = chunk_from_f32<PAIR>(v);
}

template <class PAIR> auto choose_kernel(enum act_kind kind)
{
    switch (kind) {
    case ACT_SILU:
        return act_kernel<PAIR, ACT_SILU>;
    case ACT_GELU:
        return act_kernel<PAIR, ACT_GELU>;
    case ACT_GELU_TANH:
        return act_kernel<PAIR, ACT_GELU_TANH>;
    case ACT_RELU:
        return act_kernel<PAIR, ACT_RELU>;
    default:
        return act_kernel<PAIR, ACT_NONE>;
    }
}

} /* namespace */

void cuda_act(struct device *d, void *y, const void *gate, const void *up, int rows, int width,
              enum act_kind kind, int gate_stride)
{
    if (rows <= 0)
        return;
    const int n_chunks = width / CHUNK;
    const dim3 grid((unsigned)((n_chunks + THREADS - 1) / THREADS), (unsigned)rows);
    with_act_type(d->act, [&](auto pair) {
        launch(d, "act", {grid, dim3(THREADS), 0, 0}, choose_kernel<decltype(pair)>(kind),
               (uint4 *)y, (const uint4 *)gate, (const uint4 *)up, n_chunks, gate_stride / CHUNK);
    });
}
