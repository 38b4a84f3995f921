/* act8_quantize.cu - rows of activations to 8 bits, with the norm before it.
 *
 * One block does one row and keeps it in registers: x comes in once, a byte a value goes out.  A
 * norm's result is rounded to the activation type first, so a row has the same codes with its norm
 * here as behind a norm kernel.  The arithmetic is that of cpu/act_form.c, and so are the bits but
 * for outliers (act8.h); as there magnitudes are compared as integers, which puts NaN above
 * infinity above every number: two activations of 16 bits at a time. */
#include <cuda_fp8.h>
#include <string.h>

#include "kernels/cuda/act8.h"
#include "kernels/cuda/act_type.cuh"
#include "kernels/cuda/launch.cuh"

namespace
{

enum { ROWS_FEW = 256 }; /* they are done at once, and none finds a column noted */

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
    int stride, high_stride;
    uint32_t limit; /* magnitudes of these 16 bits or more are outliers */
    bool crowded;   /* many rows note the same columns in the mask */
};

/* What brings a row's values to codes; `by` is 0 where the row is zero or not finite. */
struct row_scale {
    float step, by;
};

/* Largest magnitudes of a row, the 16 bits of an activation: of what counts for the step, and of
 * all; of the latter n_out are outliers. */
struct row_tops {
    uint32_t top, all;
    int n_out;
};

__device__ inline float act_of_bits(uint32_t bits, __nv_bfloat162)
{
    return __uint_as_float(bits << 16);
}

__device__ inline float act_of_bits(uint32_t bits, __half2)
{
    return __half2float(__ushort_as_half((unsigned short)bits));
}

/* `largest` is `steps` steps. */
__device__ inline row_scale scale_of(float largest, float steps)
{
    const float tiny = 1e-30f; /* below it a row counts as zero */
    if (!(largest < __int_as_float(0x7f800000)))
        return {__int_as_float(0x7fc00000), 0};
    if (largest < tiny)
        return {0, 0};
    return {__fdiv_rn(largest, steps), __fdiv_rn(steps, largest)};
}

/* The step of the values below the threshold, or one with which the outliers fit: their codes 16
 * bits, and sums over them and all others 31. */
template <class PAIR> __device__ inline row_scale act8_row_scale(const row_tops &t)
{
    const row_scale of_codes = scale_of(act_of_bits(t.top, PAIR()), 127);
    if (t.n_out == 0)
        return of_codes;
    const int of_sum = (1 << 30) / 128 / t.n_out;
    const row_scale of_outliers =
        scale_of(act_of_bits(t.all, PAIR()), (float)min((int)ACT8_CODE_MAX, of_sum));
    return of_outliers.step <= of_codes.step ? of_codes : of_outliers;
}

/* Byte `at` of four values. */
template <int AT> __device__ inline uint32_t bytes_of(const uint32_t v[4])
{
    const uint32_t two = AT | (4 + AT) << 4;
    return __byte_perm(__byte_perm(v[0], v[1], two), __byte_perm(v[2], v[3], two), 0x5410);
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

/* Codes, whose low bytes are int8's; *high is the high ones.  A value that 1.5 * 2^23 was added to
 * has the integer that it rounds to as its last bits: conversions have a fraction of an addition's
 * rate. With 128 more the carry of the low byte is in the high one. */
__device__ inline uint2 int8_of(const float v[CHUNK], float by, uint2 *high)
{
    const float one_is_last = 12582912;
    uint32_t q[CHUNK], h[CHUNK];
#pragma unroll
    for (int i = 0; i < CHUNK; i++) {
        const float steps = __fmul_rn(v[i], by);
        q[i] = __float_as_uint(__fadd_rn(steps, one_is_last));
        h[i] = __float_as_uint(__fadd_rn(steps, one_is_last + 128));
    }
    *high = {bytes_of<1>(h), bytes_of<1>(h + 4)};
    return {bytes_of<0>(q), bytes_of<0>(q + 4)};
}

/* A bit for each byte that is not zero. */
__device__ inline uint32_t bytes_used(uint2 v)
{
    const uint32_t low = __vcmpne4(v.x, 0) & 0x08040201, high = __vcmpne4(v.y, 0) & 0x80402010;
    const uint32_t both = low | high;
    return (both | both >> 8 | both >> 16 | both >> 24) & 255;
}

/* Of a block, in every thread; `of_warp` is [NORM_WARPS] in shared memory that nobody else uses. */
template <way WAY> __device__ inline row_tops block_tops(row_tops t, row_tops *of_warp)
{
    t.top = __reduce_max_sync(0xffffffffu, t.top);
    if (WAY == WAY_OUTLIERS) {
        t.all = __reduce_max_sync(0xffffffffu, t.all);
        t.n_out = __reduce_add_sync(0xffffffffu, t.n_out);
    }
    if (threadIdx.x % 32 == 0)
        of_warp[threadIdx.x / 32] = t;
    __syncthreads();
    t = {};
#pragma unroll
    for (int w = 0; w < NORM_WARPS; w++) {
        t.top = max(t.top, of_warp[w].top);
        if (WAY == WAY_OUTLIERS) {
            t.all = max(t.all, of_warp[w].all);
            t.n_out += of_warp[w].n_out;
        }
    }
    return t;
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
        const float *b = a.b ? a.b + CHUNK * c : nullptr;
        if (c < n_chunks && a.w) /* by itself, or `by` would lie in memory */
            row.chunk[i] = norm_chunk<PAIR>(row.chunk[i], mean, scale, by, b);
        else if (c < n_chunks)
            row.chunk[i] = norm_chunk<PAIR>(row.chunk[i], mean, scale, nullptr, b);
    }
}

/* What two activations add to the tops of their halves. */
struct pair_tops {
    uint32_t top, all, n_out;

    template <way WAY> __device__ __forceinline__ void take(uint32_t two, uint32_t below)
    {
        const uint32_t m = two & 0x7fff7fff;
        if (WAY != WAY_OUTLIERS) {
            top = __vmaxu2(top, m);
            return;
        }
        const uint32_t is_out =
            (m + below) >> 15 & 0x00010001; /* no carry: below is 0x8000 - limit */
        top = __vmaxu2(top, m & ~(is_out * 0xffff));
        all = __vmaxu2(all, m);
        n_out += is_out; /* a thread has less than 2^16 */
    }
};

template <class PAIR, way WAY, int CHUNKS>
__device__ inline row_scale row_scale_of(held_row<CHUNKS> &row, const quantize_args &a,
                                         int n_chunks, row_tops *of_warp)
{
    const uint32_t below = (0x8000 - a.limit) * 0x00010001;
    pair_tops p = {};
    row.each(n_chunks, [&](int, uint4 &c) {
        p.take<WAY>(c.x, below);
        p.take<WAY>(c.y, below);
        p.take<WAY>(c.z, below);
        p.take<WAY>(c.w, below);
    });
    const row_tops mine = {max(p.top & 0xffff, p.top >> 16), max(p.all & 0xffff, p.all >> 16),
                           (int)((p.n_out & 0xffff) + (p.n_out >> 16))};
    const row_tops t = block_tops<WAY>(mine, of_warp);
    if (WAY == WAY_OUTLIERS)
        return act8_row_scale<PAIR>(t);
    return scale_of(act_of_bits(t.top, PAIR()), WAY == WAY_INT8 ? 127 : 448);
}

/* Of a row, chunk c's high bytes: those that are not zero, and their columns.  Of many rows one was
 * mostly there before, and to look is cheaper. */
__device__ inline void write_high(const quantize_args &a, int row, int c, uint2 high)
{
    const uint32_t used = bytes_used(high), noted = used << c % 4 * 8;
    uint8_t *to = a.to.high + (int64_t)c * CHUNK * a.high_stride + row;
    for (uint32_t left = used; left; left &= left - 1) {
        const int i = __ffs((int)left) - 1;
        to[(int64_t)i * a.high_stride] = (uint8_t)__byte_perm(high.x, high.y, (uint32_t)i);
    }
    if (!a.crowded || (__ldcg(a.to.mask + c / 4) & noted) != noted)
        atomicOr(a.to.mask + c / 4, noted);
}

template <class PAIR, way WAY>
__device__ inline void write_chunk(const quantize_args &a, const row_scale &s, int row, int c,
                                   uint4 chunk)
{
    uint2 *to = reinterpret_cast<uint2 *>(a.to.codes + (int64_t)row * a.stride) + c, high;
    float v[CHUNK];
    chunk_to_f32<PAIR>(v, s.by == 0 ? uint4() : chunk); /* no NaN * 0 */
    if (WAY == WAY_E4M3) {
        *to = e4m3_of(v, s.by);
        return;
    }
    *to = int8_of(v, s.by, &high);
    if (WAY != WAY_OUTLIERS)
        return;
    if (!a.to.mask)
        to[(int64_t)a.to.rows * a.stride / sizeof *to] = high;
    else if (high.x | high.y)
        write_high(a, row, c, high);
}

/* grid: [rows]   block: [NORM_THREADS] */
template <class PAIR, way WAY, int CHUNKS, bool NORM>
__global__ void __launch_bounds__(NORM_THREADS) quantize_kernel(const quantize_args a)
{
    __shared__ float warp_sum[NORM_WARPS];
    __shared__ row_tops of_warp[NORM_WARPS];
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
    const row_scale s = row_scale_of<PAIR, WAY, CHUNKS>(held, a, n_chunks, of_warp);
    if (threadIdx.x == 0)
        a.to.scale[row] = s.step;
    held.each(n_chunks, [&](int c, uint4 &chunk) { write_chunk<PAIR, WAY>(a, s, row, c, chunk); });
}

/* The least 16 bits whose value is the threshold or more. */
uint32_t limit_of(float threshold, enum dtype act)
{
    uint32_t bits;
    memcpy(&bits, &threshold, sizeof bits);
    return act == DT_F16 ? __half_as_ushort(__float2half_ru(threshold)) : (bits + 0xffff) >> 16;
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
    a.high_stride = act8_high_stride(to->rows);
    if ((a.has_norm = s->norm != nullptr)) {
        a.kind = s->norm->kind;
        a.w = s->norm->w;
        a.b = s->norm->b;
        a.eps = s->norm->eps;
    }
    a.limit = limit_of(s->threshold, d->act);
    a.crowded = to->rows > ROWS_FEW;
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
