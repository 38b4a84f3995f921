/* act8_quantize.cu - rows of activations to 8 bits, with the norm before it.
 *
 * One block does one row and keeps it in registers: x comes in once, a byte a value goes out.  A
 * norm's result is rounded to the activation type first, so a row has the same codes with its norm
 * here as behind a norm kernel.  The arithmetic is that of cpu/act_form.c, and so are the bits but
 * for outliers (act8.h); as there magnitudes are compared as integers, which puts NaN above
 * infinity above every number. */
#include <cuda_fp8.h>
#include <string.h>

#include "kernels/cuda/act8.h"
#include "kernels/cuda/act_type.cuh"
#include "kernels/cuda/launch.cuh"

namespace
{

constexpr int ROW_CHUNKS_MAX = 8; /* of a thread, in registers; rows that are wider, which have no
                                     norm (cuda.cu), are read twice */

enum way { WAY_INT8, WAY_OUTLIERS, WAY_E4M3 };

struct quantize_args {
    const uint4 *x; /* [rows, in / 8] */
    const struct batch_head *gather;
    bool has_norm;
    enum norm_kind kind;
    const float *w, *b; /* [in] or NULL */
    float eps;
    struct act8_rows to;
    int stride;
    uint32_t limit; /* magnitudes of these bits or more are outliers */
};

/* What brings a row's values to codes; `by` is 0 where the row is zero or not finite. */
struct row_scale {
    float step, by;
};

/* Largest magnitudes of a row, as bits: of what counts for the step, and of the n outliers. */
struct row_tops {
    uint32_t top, out_top;
    int n_out;
};

/* `top` is `steps` steps. */
__device__ inline row_scale scale_of(uint32_t top, float steps)
{
    const float largest = __uint_as_float(top), tiny = 1e-30f; /* below it a row counts as zero */
    if (top >= 0x7f800000)
        return {__int_as_float(0x7fc00000), 0};
    if (largest < tiny)
        return {0, 0};
    return {__fdiv_rn(largest, steps), __fdiv_rn(steps, largest)};
}

/* The step of the values below the threshold, or one with which the outliers fit: their codes 16
 * bits, and sums over them and all others 31. */
__device__ inline row_scale act8_row_scale(const row_tops &t)
{
    const row_scale of_codes = scale_of(t.top, 127);
    if (t.n_out == 0)
        return of_codes;
    const int of_sum = (1 << 30) / 128 / t.n_out;
    const row_scale of_outliers = scale_of(t.out_top, (float)min((int)ACT8_CODE_MAX, of_sum));
    return of_outliers.step <= of_codes.step ? of_codes : of_outliers;
}

__device__ inline uint32_t pack4(const int v[4])
{
    return (v[0] & 255) | (v[1] & 255) << 8 | (v[2] & 255) << 16 | (uint32_t)v[3] << 24;
}

__device__ inline uint2 e4m3_of(const float v[CHUNK], float by)
{
    uint32_t two[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        two[i] = __nv_cvt_float2_to_fp8x2(
            make_float2(__fmul_rn(v[2 * i], by), __fmul_rn(v[2 * i + 1], by)), __NV_SATFINITE,
            __NV_E4M3);
    return {two[0] | two[1] << 16, two[2] | two[3] << 16};
}

/* Codes, whose low bytes are int8's; *high is the high ones. */
__device__ inline uint2 int8_of(const float v[CHUNK], float by, uint2 *high)
{
    int q[CHUNK], h[CHUNK];
#pragma unroll
    for (int i = 0; i < CHUNK; i++) {
        q[i] = __float2int_rn(__fmul_rn(v[i], by));
        h[i] = (q[i] + 128) >> 8;
    }
    *high = {pack4(h), pack4(h + 4)};
    return {pack4(q), pack4(q + 4)};
}

/* A bit for each byte that is not zero. */
__device__ inline uint32_t bytes_used(uint2 v)
{
    const uint32_t low = __vcmpne4(v.x, 0) & 0x08040201, high = __vcmpne4(v.y, 0) & 0x80402010;
    const uint32_t both = low | high;
    return (both | both >> 8 | both >> 16 | both >> 24) & 255;
}

/* The largest of a block, in every thread; `warp_max` is [NORM_WARPS] in shared memory. */
__device__ inline uint32_t block_max(uint32_t v, uint32_t *warp_max)
{
    v = __reduce_max_sync(0xffffffffu, v);
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        warp_max[threadIdx.x / 32] = v;
    __syncthreads();
#pragma unroll
    for (int w = 0; w < NORM_WARPS; w++)
        v = max(v, warp_max[w]);
    return v;
}

__device__ inline int block_sum(int v, uint32_t *warp_sum)
{
    int sum = 0;
    v = __reduce_add_sync(0xffffffffu, v);
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        warp_sum[threadIdx.x / 32] = (uint32_t)v;
    __syncthreads();
#pragma unroll
    for (int w = 0; w < NORM_WARPS; w++)
        sum += (int)warp_sum[w];
    return sum;
}

/* The row that a block holds: chunk t + i * NORM_THREADS of thread t. */
template <int CHUNKS> struct held_row {
    uint4 chunk[CHUNKS];
    const uint4 *from;

    __device__ __forceinline__ void load(int n_chunks)
    {
#pragma unroll
        for (int i = 0; i < CHUNKS; i++)
            chunk[i] = threadIdx.x + i * NORM_THREADS < n_chunks
                           ? from[threadIdx.x + i * NORM_THREADS]
                           : uint4();
    }
    template <class F> __device__ __forceinline__ void each(int n_chunks, F f)
    {
#pragma unroll
        for (int i = 0; i < CHUNKS; i++)
            if (threadIdx.x + i * NORM_THREADS < n_chunks)
                f(threadIdx.x + i * NORM_THREADS, chunk[i]);
    }
};

/* One too wide for registers. */
template <> struct held_row<0> {
    const uint4 *from;

    __device__ void load(int)
    {
    }
    template <class F> __device__ void each(int n_chunks, F f)
    {
        for (int c = threadIdx.x; c < n_chunks; c += NORM_THREADS) {
            uint4 chunk = from[c];
            f(c, chunk);
        }
    }
};

/* The norm's weights of the same chunks, asked for long before they are wanted. */
template <int CHUNKS> struct held_weights {
    float4 chunk[CHUNKS][2];

    __device__ __forceinline__ void load(const float *w, int n_chunks)
    {
#pragma unroll
        for (int i = 0; i < CHUNKS; i++) {
            const int c = threadIdx.x + i * NORM_THREADS;
#pragma unroll
            for (int half = 0; half < 2; half++)
                chunk[i][half] = c < n_chunks
                                     ? __ldg(reinterpret_cast<const float4 *>(w) + 2 * c + half)
                                     : float4();
        }
    }
};

template <class PAIR, int CHUNKS>
__device__ inline void norm_row(held_row<CHUNKS> &row, const quantize_args &a, int n_chunks,
                                const held_weights<CHUNKS> &w, float *warp_sum)
{
    float mean = 0, sum = 0;
    if (a.kind == NORM_LAYER) {
        row.each(n_chunks, [&](int, uint4 &c) { sum = norm_chunk_sum<PAIR>(sum, c); });
        mean = norm_mean(norm_block_sum(sum, warp_sum), a.to.in);
        sum = 0;
    }
    row.each(n_chunks, [&](int, uint4 &c) { sum = norm_chunk_squares<PAIR>(sum, c, mean); });
    const float scale = norm_scale(norm_block_sum(sum, warp_sum), a.to.in, a.eps);
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
        const int c = threadIdx.x + i * NORM_THREADS;
        const float4 lo = w.chunk[i][0], hi = w.chunk[i][1];
        const float by[CHUNK] = {lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w};
        if (c < n_chunks)
            row.chunk[i] = norm_chunk<PAIR>(row.chunk[i], mean, scale, a.w ? by : nullptr,
                                            a.b ? a.b + CHUNK * c : nullptr);
    }
}

template <class PAIR, way WAY, int CHUNKS>
__device__ inline row_scale row_scale_of(held_row<CHUNKS> &row, const quantize_args &a,
                                         int n_chunks, uint32_t *warp_max)
{
    row_tops t = {};
    row.each(n_chunks, [&](int, uint4 &c) {
        float v[CHUNK];
        chunk_to_f32<PAIR>(v, c);
#pragma unroll
        for (int j = 0; j < CHUNK; j++) {
            const uint32_t m = __float_as_uint(v[j]) & 0x7fffffff;
            const bool is_outlier = WAY == WAY_OUTLIERS && m >= a.limit;
            t.top = max(t.top, is_outlier ? 0 : m);
            if (WAY == WAY_OUTLIERS && is_outlier) {
                t.out_top = max(t.out_top, m);
                t.n_out++;
            }
        }
    });
    t.top = block_max(t.top, warp_max);
    if (WAY == WAY_INT8)
        return scale_of(t.top, 127);
    if (WAY == WAY_E4M3)
        return scale_of(t.top, 448);
    t.n_out = __syncthreads_or(t.n_out) ? block_sum(t.n_out, warp_max) : 0;
    t.out_top = t.n_out ? block_max(t.out_top, warp_max) : 0;
    return act8_row_scale(t);
}

template <class PAIR, way WAY>
__device__ inline void write_chunk(const quantize_args &a, const row_scale &s, int row, int c,
                                   uint4 chunk)
{
    uint2 *to = reinterpret_cast<uint2 *>(a.to.codes + (int64_t)row * a.stride) + c, high;
    float v[CHUNK];
    chunk_to_f32<PAIR>(v, chunk);
#pragma unroll
    for (int j = 0; j < CHUNK; j++)
        v[j] = s.by == 0 ? 0 : v[j]; /* no NaN * 0 */
    if (WAY == WAY_E4M3) {
        *to = e4m3_of(v, s.by);
        return;
    }
    *to = int8_of(v, s.by, &high);
    if (WAY != WAY_OUTLIERS)
        return;
    to[(int64_t)a.to.rows * a.stride / sizeof *to] = high;
    const uint32_t used = bytes_used(high) << c % 4 * 8;
    if (a.to.mask && used && (__ldcg(a.to.mask + c / 4) & used) != used) /* mostly someone was here */
        atomicOr(a.to.mask + c / 4, used);
}

/* grid: [rows]   block: [NORM_THREADS] */
template <class PAIR, way WAY, int CHUNKS, bool NORM>
__global__ void __launch_bounds__(NORM_THREADS) quantize_kernel(const quantize_args a)
{
    __shared__ float warp_sum[NORM_WARPS];
    __shared__ uint32_t warp_max[NORM_WARPS];
    const int n_chunks = a.to.in / CHUNK, row = (int)blockIdx.x;
    held_row<CHUNKS> held;
    held_weights<NORM ? CHUNKS : 1> weights;

    if (NORM && a.w)
        weights.load(a.w, n_chunks);
    depend_launch(); /* at once: what comes next fetches weights while this waits and works */
    depend_wait();
    held.from = a.x + (int64_t)(a.gather ? a.gather[row].row : row) * n_chunks;
    held.load(n_chunks);
    if constexpr (NORM)
        norm_row<PAIR, CHUNKS>(held, a, n_chunks, weights, warp_sum);
    const row_scale s = row_scale_of<PAIR, WAY, CHUNKS>(held, a, n_chunks, warp_max);
    if (threadIdx.x == 0)
        a.to.scale[row] = s.step;
    held.each(n_chunks, [&](int c, uint4 &chunk) { write_chunk<PAIR, WAY>(a, s, row, c, chunk); });
}

template <class PAIR, way WAY, bool NORM>
void launch_kernel(struct device *d, const quantize_args &a)
{
    const int chunks = (a.to.in / CHUNK + NORM_THREADS - 1) / NORM_THREADS;
    auto kernel = chunks <= 1   ? quantize_kernel<PAIR, WAY, 1, NORM>
                  : chunks <= 2 ? quantize_kernel<PAIR, WAY, 2, NORM>
                  : chunks <= 4 ? quantize_kernel<PAIR, WAY, 4, NORM>
                                : quantize_kernel<PAIR, WAY, ROW_CHUNKS_MAX, NORM>;
    if (!NORM && chunks > ROW_CHUNKS_MAX)
        kernel = quantize_kernel<PAIR, WAY, 0, false>;
    launch(d, "quantize activations", {dim3((unsigned)a.to.rows), dim3(NORM_THREADS), 0, 0}, kernel,
           a);
}

template <class PAIR, way WAY> void launch_quantize(struct device *d, const quantize_args &a)
{
    if (a.has_norm)
        launch_kernel<PAIR, WAY, true>(d, a);
    else
        launch_kernel<PAIR, WAY, false>(d, a);
}

} // namespace

/* ---- the launcher ---- */

void act8_quantize(struct device *d, const struct act8_source *s, const struct act8_rows *to)
{
    quantize_args a = {};
    a.x = (const uint4 *)s->x;
    a.gather = s->gather;
    a.to = *to;
    a.stride = act8_stride(to->in);
    if ((a.has_norm = s->norm != nullptr)) {
        a.kind = s->norm->kind;
        a.w = s->norm->w;
        a.b = s->norm->b;
        a.eps = s->norm->eps;
    }
    memcpy(&a.limit, &s->threshold, sizeof a.limit);
    with_act_type(d->act, [&](auto pair) {
        typedef decltype(pair) PAIR;
        if (s->rule == ACTS_FP8)
            launch_quantize<PAIR, WAY_E4M3>(d, a);
        else if (s->rule == ACTS_OUTLIERS)
            launch_quantize<PAIR, WAY_OUTLIERS>(d, a);
        else
            launch_quantize<PAIR, WAY_INT8>(d, a);
    });
}
