/* attention_decode_codes.cuh - attention_decode_rows.cuh for a cache of 8 bits.
 *
 * Keys, and then values, are the 16 rows of a product and heads its 8 columns: the other way round
 * half of the rows would be empty, and the sums twice as many.
 *
 * Codes of keys are what they are: the query becomes 15 bits of its largest magnitude, in two
 * digits of 8, and sums are integers.  Codes of values become numbers of 16 bits, exactly, in the
 * registers of the lane that gives them, and their scales go to the weights.
 *
 * With g = lane / 4 and t = lane % 4: a lane has columns 4t .. 4t + 3 of each 16 of key g and g +
 * 8, and of head g's query.  Values come transposed, two columns of two keys in a register: columns
 * 2g of 16 are rows g of the product, columns 2g + 1 rows g + 8. */
#ifndef KERNELS_CUDA_ATTENTION_DECODE_CODES_CUH
#define KERNELS_CUDA_ATTENTION_DECODE_CODES_CUH

#include "kernels/cuda/attention_decode_rows.cuh"

namespace
{

/* What weights are multiplied by: with the scale of a value's row they would be small, where half
 * floats lose bits.  Those of rows below some 1e-4 still do; they lose 2^-25 of 64 at most. */
template <class T> constexpr __host__ __device__ float value_unit()
{
    return 1.0f;
}

template <> constexpr __host__ __device__ float value_unit<__half>()
{
    return 64.0f; /* a row of V has values of at most 65504, so a scale times this is one too */
}

__device__ __forceinline__ float2 unpack(uint32_t two, __nv_bfloat16)
{
    return __bfloat1622float2(*(const __nv_bfloat162 *)&two);
}

__device__ __forceinline__ float2 unpack(uint32_t two, __half)
{
    return __half22float2(*(const __half2 *)&two);
}

/* Of two pairs; NaN if there is one. */
__device__ __forceinline__ uint32_t max_magnitudes(uint32_t a, uint32_t b, __nv_bfloat16)
{
    const __nv_bfloat162 v =
        __hmax2_nan(__habs2(*(const __nv_bfloat162 *)&a), __habs2(*(const __nv_bfloat162 *)&b));
    return *(const uint32_t *)&v;
}

__device__ __forceinline__ uint32_t max_magnitudes(uint32_t a, uint32_t b, __half)
{
    const __half2 v = __hmax2_nan(__habs2(*(const __half2 *)&a), __habs2(*(const __half2 *)&b));
    return *(const uint32_t *)&v;
}

/* A lane's heads are 8n + 2t and the next. */
template <class T, int HEAD_DIM, bool HALF> struct code_rows {
    static constexpr int N = HALF ? 1 : 2; /* times 8 heads */
    uint32_t q[HEAD_DIM / 16][N][2];       /* of head 8n + g: high digits, low digits */
    float unit[N][2];                      /* a query is this, times 128 high and low */
    float out[HEAD_DIM / 16][N][4];        /* columns 16c + 2g of both heads, then 16c + 2g + 1 */
    float top[N][2], sum[N][2]; /* running maximum in powers of 2; the lane's part of the sum */
    float slope[N][2];          /* of ALiBi, in powers of 2 */
};

/* The largest magnitude of a head's query, which its four lanes share; NaN if it is not finite. */
template <class T, int PIECES> __device__ __forceinline__ float query_top(const uint2 q[PIECES])
{
    uint32_t two = 0;
#pragma unroll
    for (int i = 0; i < PIECES; i++)
        two = max_magnitudes(max_magnitudes(two, q[i].x, T()), q[i].y, T());
    two = max_magnitudes(two, __shfl_xor_sync(~0u, two, 1), T());
    two = max_magnitudes(two, __shfl_xor_sync(~0u, two, 2), T());
    const float2 v = unpack(two, T());
    const float top = fmaxf(v.x, v.y);
    return v.x <= FLT_MAX && v.y <= FLT_MAX ? top : NAN;
}

/* Two values as integers of 16 bits, at most QUERY_TOP. */
template <class T> __device__ __forceinline__ uint32_t query_pair(uint32_t two, float per_unit)
{
    constexpr float SHIFT = 12582912.0f; /* 1.5 * 2^23: the last bits are an integer's */
    const float2 v = unpack(two, T());
    return __byte_perm(__float_as_uint(fmaf(v.x, per_unit, SHIFT)),
                       __float_as_uint(fmaf(v.y, per_unit, SHIFT)), 0x5410);
}

/* Four values: v = 128 high + low, low from 0 to 127. */
template <class T>
__device__ __forceinline__ void make_digits(uint32_t digits[2], uint2 four, float per_unit)
{
    const uint32_t a = query_pair<T>(four.x, per_unit), b = query_pair<T>(four.y, per_unit);
    digits[0] = __byte_perm(a >> 7, b >> 7, 0x6420);
    digits[1] = __byte_perm(a, b, 0x6420) & 0x7f7f7f7fu;
}

/* Head 8n + g's. */
template <class T, int HEAD_DIM, bool HALF>
__device__ __forceinline__ void load_head(struct code_rows<T, HEAD_DIM, HALF> *r, int n, const T *q,
                                          bool there)
{
    constexpr int PIECES = HEAD_DIM / 16;
    constexpr float QUERY_TOP = 127 * 128, LEAST = 1e-30f; /* less is 0 */
    uint2 four[PIECES];
#pragma unroll
    for (int i = 0; i < PIECES; i++)
        four[i] = there ? *(const uint2 *)(q + i * 16) : make_uint2(0, 0);
    const float top = query_top<T, PIECES>(four);
    const float unit = top < LEAST ? 0.0f : top / QUERY_TOP;
    const float per_unit = top < LEAST ? 0.0f : QUERY_TOP / top;
#pragma unroll
    for (int i = 0; i < PIECES; i++)
        make_digits<T>(r->q[i][n], four[i], per_unit);
#pragma unroll
    for (int j = 0; j < 2; j++)
        r->unit[n][j] = __shfl_sync(~0u, unit, threadIdx.x % 4 * 8 + 4 * j);
}

template <class T, int HEAD_DIM, bool HALF>
__device__ __forceinline__ void load_q(struct code_rows<T, HEAD_DIM, HALF> *r,
                                       const struct decode_params &p, const struct task &task)
{
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const struct heads h = heads_of(p, task.part);
    const T *q = (const T *)p.q + (size_t)task.item.token * p.q_stride + h.first * HEAD_DIM + t * 4;
#pragma unroll
    for (int n = 0; n < r->N; n++) {
        load_head(r, n, q + (8 * n + g) * HEAD_DIM, 8 * n + g < h.n);
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const int head = 8 * n + 2 * t + j;
            r->slope[n][j] = p.alibi && head < h.n ? p.alibi[h.first + head] * LOG2_E : 0.0f;
        }
    }
}

template <class T, int HEAD_DIM, bool HALF>
__device__ __forceinline__ void clear_rows(struct code_rows<T, HEAD_DIM, HALF> *r)
{
#pragma unroll
    for (int n = 0; n < r->N; n++) {
#pragma unroll
        for (int c = 0; c < HEAD_DIM / 16; c++) {
#pragma unroll
            for (int j = 0; j < 4; j++)
                r->out[c][n][j] = 0.0f;
        }
        r->top[n][0] = r->top[n][1] = -INFINITY;
        r->sum[n][0] = r->sum[n][1] = 0.0f;
    }
}

/* Sums of 16 keys: s[n] is key g with both heads, then key g + 8. */
template <class T, int HEAD_DIM, bool HALF>
__device__ __forceinline__ void
make_code_scores(float s[][4], const struct code_rows<T, HEAD_DIM, HALF> *r, const char *codes)
{
    using L = layout<HEAD_DIM, true>;
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    int32_t sum[r->N][2][4] = {}; /* of high digits, of low ones */
#pragma unroll
    for (int i = 0; i < L::CODE_PIECES; i += 2) {
        const bool has_second = i + 1 < L::CODE_PIECES;
        const int second = has_second ? i + 1 : i;
        const char *at[2] = {codes + L::code_at(g, i) + t * 4,
                             codes + L::code_at(g, second) + t * 4};
        uint32_t k[4];
#pragma unroll
        for (int j = 0; j < 4; j++) /* g + 8 turns its pieces as g does */
            k[j] = j < 2 || has_second
                       ? *(const uint32_t *)(at[j / 2] + j % 2 * 8 * L::CODE_ROW_BYTES)
                       : 0;
#pragma unroll
        for (int n = 0; n < r->N; n++) {
#pragma unroll
            for (int digit = 0; digit < 2; digit++) {
                const uint32_t q[2] = {r->q[i][n][digit], has_second ? r->q[second][n][digit] : 0};
                mma_16832_s8(sum[n][digit], k, q);
            }
        }
    }
#pragma unroll
    for (int n = 0; n < r->N; n++) {
#pragma unroll
        for (int j = 0; j < 4; j++)
            s[n][j] = (float)(sum[n][0][j] * 128 + sum[n][1][j]);
    }
}

/* Times the units of the queries and the scales of the keys, and finished. */
template <class T, int HEAD_DIM, bool HALF>
__device__ __forceinline__ void
finish_code_scores(float s[][4], const struct code_rows<T, HEAD_DIM, HALF> *r,
                   const struct decode_params &p, const float *scales, int key,
                   const struct keys &k, int position)
{
    const int g = threadIdx.x % 32 / 4;
    const float scale[2] = {scales[g], scales[g + 8]};
#pragma unroll
    for (int n = 0; n < r->N; n++) {
#pragma unroll
        for (int j = 0; j < 4; j++)
            s[n][j] = finish_score(__fmul_rn(__fmul_rn(s[n][j], r->unit[n][j % 2]), scale[j / 2]),
                                   p, r->slope[n][j % 2], key + g + j / 2 * 8, k, position);
    }
}

/* Over the lanes of a head. */
__device__ __forceinline__ float max_of_keys(float x)
{
#pragma unroll
    for (int step = 4; step < 32; step *= 2)
        x = fmaxf(x, __shfl_xor_sync(~0u, x, step));
    return x;
}

__device__ __forceinline__ float sum_of_keys(float x)
{
#pragma unroll
    for (int step = 4; step < 32; step *= 2)
        x += __shfl_xor_sync(~0u, x, step);
    return x;
}

/* Weights of 8 heads from their scores; what was summed before is scaled to the new maxima. */
template <class T, int HEAD_DIM, bool HALF>
__device__ __forceinline__ void weigh_codes(struct code_rows<T, HEAD_DIM, HALF> *r, int n,
                                            float s[4])
{
    float decay[2];
#pragma unroll
    for (int j = 0; j < 2; j++) {
        const float top = fmaxf(max_of_keys(fmaxf(s[j], s[j + 2])), r->top[n][j]);
        decay[j] = exp2_approx(r->top[n][j] - top);
        r->top[n][j] = top;
        s[j] = exp2_approx(s[j] - top);
        s[j + 2] = exp2_approx(s[j + 2] - top);
        r->sum[n][j] = fmaf(r->sum[n][j], decay[j], s[j] + s[j + 2]);
    }
    if (__all_sync(~0u, decay[0] == 1.0f && decay[1] == 1.0f))
        return;
#pragma unroll
    for (int c = 0; c < HEAD_DIM / 16; c++) {
#pragma unroll
        for (int j = 0; j < 4; j++)
            r->out[c][n][j] *= decay[j % 2];
    }
}

/* Weights times the scales of the values, as the product takes them: keys 2t and the next of head
 * 8n + g, then those 8 behind. */
template <class T>
__device__ __forceinline__ void make_weights(uint32_t weights[2], const float s[4],
                                             const float *scales)
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float by = scales[threadIdx.x % 32 / 4 + 8 * half] * value_unit<T>();
        weights[half] = transpose_8x8(pack<T>(s[2 * half] * by, s[2 * half + 1] * by));
    }
}

template <bool E4M3, class T, int HEAD_DIM, bool HALF>
__device__ __forceinline__ void add_code_values(struct code_rows<T, HEAD_DIM, HALF> *r,
                                                const uint32_t weights[][2], uint32_t codes)
{
    using L = layout<HEAD_DIM, true>;
    const int lane = threadIdx.x % 32;
    uint32_t m[4]; /* of two pieces; of the last one where their number is odd */
#pragma unroll
    for (int c = 0; c < L::CODE_PIECES; c++) {
        const int piece = min(c / 2 * 2 + lane / 16, L::CODE_PIECES - 1);
        if (c % 2 == 0)
            ldmatrix_x4_trans(m, codes + L::code_at(lane % 16, piece));
        const uint32_t *two = m + c % 2 * 2;
        const uint32_t v[4] = {
            value_pair<E4M3, 0, 2>(two[0], T()), value_pair<E4M3, 1, 3>(two[0], T()),
            value_pair<E4M3, 0, 2>(two[1], T()), value_pair<E4M3, 1, 3>(two[1], T())};
#pragma unroll
        for (int n = 0; n < r->N; n++)
            mma_16816(r->out[c][n], v, weights[n], T());
    }
}

/* This warp's 16 keys of a stage that has arrived: `codes` and behind them scales. */
template <class T, int HEAD_DIM, bool HALF>
__device__ __forceinline__ void compute_codes(struct code_rows<T, HEAD_DIM, HALF> *r,
                                              const struct decode_params &p, const struct keys &k,
                                              int stage, int position, const char *codes)
{
    using L = layout<HEAD_DIM, true>;
    const int key = stage_key(k, stage);
    if (key >= k.end || key + WARP_KEYS <= k.seen)
        return;
    const float *scales = (const float *)(codes + L::SCALES_AT);
    float s[r->N][4] = {};
    uint32_t weights[r->N][2];
    make_code_scores(s, r, codes);
    finish_code_scores(s, r, p, scales, key, k, position);
#pragma unroll
    for (int n = 0; n < r->N; n++) {
        weigh_codes(r, n, s[n]);
        make_weights<T>(weights[n], s[n], scales + WARP_KEYS);
    }
    if (p.values_e4m3)
        add_code_values<true>(r, weights, shared_addr(codes) + L::CODE_BYTES);
    else
        add_code_values<false>(r, weights, shared_addr(codes) + L::CODE_BYTES);
}

} // namespace

#endif
