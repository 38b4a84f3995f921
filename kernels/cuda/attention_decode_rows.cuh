/* attention_decode_rows.cuh - one warp's keys of a stage: scores, weights, sums of values, for the
 * rows of a tile. */
#ifndef KERNELS_CUDA_ATTENTION_DECODE_ROWS_CUH
#define KERNELS_CUDA_ATTENTION_DECODE_ROWS_CUH

#include "kernels/cuda/attention_decode.cuh"

namespace
{

template <class T> __device__ __forceinline__ uint32_t pack(float a, float b);

template <> __device__ __forceinline__ uint32_t pack<__nv_bfloat16>(float a, float b)
{
    const __nv_bfloat162 v = __floats2bfloat162_rn(a, b);
    return *(const uint32_t *)&v;
}

template <> __device__ __forceinline__ uint32_t pack<__half>(float a, float b)
{
    const __half2 v = __floats2half2_rn(a, b);
    return *(const uint32_t *)&v;
}

/* Rows g and g + 8 of the tile are lane 4g..4g+3's.  With no more than 8 heads (HALF) the second
 * do not exist. */
template <class T, int HEAD_DIM, bool HALF> struct rows {
    uint32_t q[layout<HEAD_DIM>::WIDE ? 1 : HEAD_DIM / 16][4]; /* else in shared memory */
    float out[HEAD_DIM / 8][4]; /* columns 8i + 2(lane % 4) and the next of both rows */
    float top[2], sum[2];       /* running maximum in powers of 2; the lane's part of the sum */
    float slope[2];             /* of ALiBi, in powers of 2 */
};

template <class T, int HEAD_DIM, bool HALF>
__device__ __forceinline__ void load_q(struct rows<T, HEAD_DIM, HALF> *r,
                                       const struct decode_params &p, const struct task &task)
{
    const int lane = threadIdx.x % 32, g = lane / 4;
    const struct heads h = heads_of(p, task.part);
    const T *q =
        (const T *)p.q + (size_t)task.item.token * p.q_stride + h.first * HEAD_DIM + lane % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = g + 8 * half;
        const bool there = !(HALF && half) && row < h.n;
        r->slope[half] = there && p.alibi ? p.alibi[h.first + row] * LOG2_E : 0.0f;
        if constexpr (!layout<HEAD_DIM>::WIDE) {
#pragma unroll
            for (int i = 0; i < HEAD_DIM / 16; i++) {
                const T *at = q + row * HEAD_DIM + i * 16;
                r->q[i][half] = there ? *(const uint32_t *)at : 0;
                r->q[i][half + 2] = there ? *(const uint32_t *)(at + 8) : 0;
            }
        }
    }
}

/* A wide head's queries to shared memory, where the warps joined and nobody does now. */
template <class T, int HEAD_DIM>
__device__ __forceinline__ void share_q(char *to, const struct decode_params &p,
                                        const struct task &task)
{
    using L = layout<HEAD_DIM>;
    const struct heads h = heads_of(p, task.part);
    const T *q = (const T *)p.q + (size_t)task.item.token * p.q_stride + h.first * HEAD_DIM;
    for (int i = threadIdx.x; i < ROWS * L::PIECES; i += THREADS) {
        const int row = i / L::PIECES, piece = i % L::PIECES;
        *(uint4 *)(to + L::at(row, piece)) =
            row < h.n ? *(const uint4 *)(q + i * 8) : make_uint4(0, 0, 0, 0);
    }
    __syncthreads();
}

template <class T, int HEAD_DIM, bool HALF>
__device__ __forceinline__ void clear_rows(struct rows<T, HEAD_DIM, HALF> *r)
{
#pragma unroll
    for (int i = 0; i < HEAD_DIM / 8; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++)
            r->out[i][j] = 0.0f;
    }
    r->top[0] = r->top[1] = -INFINITY;
    r->sum[0] = r->sum[1] = 0.0f;
}

/* Scores of 16 keys: s[i] is keys 8i + 2(lane % 4) and the next, of rows g and g + 8. */
template <class T, int HEAD_DIM, bool HALF>
__device__ __forceinline__ void make_scores(float s[2][4], const struct rows<T, HEAD_DIM, HALF> *r,
                                            uint32_t shared_q, uint32_t k)
{
    using L = layout<HEAD_DIM>;
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < HEAD_DIM / 16; i++) {
        uint32_t m[4], wide[4];
        const uint32_t *q = r->q[L::WIDE ? 0 : i];
        if constexpr (L::WIDE) {
            ldmatrix_x4(wide, shared_q + L::at(lane % 16, 2 * i + lane / 16));
            q = wide;
        }
        ldmatrix_x4(m, k + L::at(lane / 16 * 8 + lane % 8, 2 * i + lane / 8 % 2));
        mma_16816(s[0], q, m, T());
        mma_16816(s[1], q, m + 2, T());
    }
}

/* What is fused with a sum is said in all of attention_decode*.cuh, and what is not: both kernels
 * have the same bits, whatever a compiler would choose in either. */

/* cap * tanh(x); tanh.approx would be off by more than the rounding of weights. */
__device__ __forceinline__ float cap_score(float x, float cap)
{
    const float e = exp2_approx(__fmul_rn(x, 2.0f * LOG2_E));
    return __fsub_rn(cap, __fdiv_rn(2.0f * cap, __fadd_rn(1.0f, e)));
}

/* A score in powers of 2, -infinity of a key that is not seen. */
__device__ __forceinline__ float finish_score(float x, const struct decode_params &p, float slope,
                                              int key, const struct keys &k, int position)
{
    x = __fmul_rn(x, p.scale);
    if (p.cap > 0.0f)
        x = cap_score(x, p.cap);
    if (p.alibi)
        x = fmaf(slope, (float)(key - position), x);
    return key < k.end && key >= k.seen ? x : -INFINITY;
}

/* `key` is that of s[0][0]. */
template <bool HALF>
__device__ __forceinline__ void finish_scores(float s[2][4], const struct decode_params &p,
                                              const float slope[2], int key, const struct keys &k,
                                              int position)
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
#pragma unroll
        for (int j = 0; j < (HALF ? 2 : 4); j++)
            s[i][j] = finish_score(s[i][j], p, slope[j / 2], key + 8 * i + j % 2, k, position);
    }
}

/* One row's weights from its scores; what was summed before is scaled to the new maximum. */
template <class T, int HEAD_DIM, bool HALF, int HALF_INDEX>
__device__ __forceinline__ void weigh(struct rows<T, HEAD_DIM, HALF> *r, float s[2][4])
{
    constexpr int A = 2 * HALF_INDEX, B = A + 1;
    float top = fmaxf(fmaxf(s[0][A], s[0][B]), fmaxf(s[1][A], s[1][B]));
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
    top = fmaxf(top, r->top[HALF_INDEX]);
    const float decay = exp2_approx(r->top[HALF_INDEX] - top);
    r->top[HALF_INDEX] = top;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        s[i][A] = exp2_approx(s[i][A] - top);
        s[i][B] = exp2_approx(s[i][B] - top);
    }
    r->sum[HALF_INDEX] = fmaf(r->sum[HALF_INDEX], decay, (s[0][A] + s[0][B]) + (s[1][A] + s[1][B]));
#pragma unroll
    for (int i = 0; i < HEAD_DIM / 8; i++) {
        r->out[i][A] *= decay;
        r->out[i][B] *= decay;
    }
}

template <class T, int HEAD_DIM, bool HALF>
__device__ __forceinline__ void add_values(struct rows<T, HEAD_DIM, HALF> *r, const float s[2][4],
                                           uint32_t v)
{
    const int lane = threadIdx.x % 32;
    const uint32_t weights[4] = {pack<T>(s[0][0], s[0][1]), HALF ? 0 : pack<T>(s[0][2], s[0][3]),
                                 pack<T>(s[1][0], s[1][1]), HALF ? 0 : pack<T>(s[1][2], s[1][3])};
#pragma unroll
    for (int i = 0; i < HEAD_DIM / 16; i++) {
        uint32_t m[4];
        ldmatrix_x4_trans(m, v + layout<HEAD_DIM>::at(lane % 16, 2 * i + lane / 16));
        mma_16816(r->out[2 * i], weights, m, T());
        mma_16816(r->out[2 * i + 1], weights, m + 2, T());
    }
}

/* This warp's 16 keys of a stage that has arrived. */
template <class T, int HEAD_DIM, bool HALF>
__device__ __forceinline__ void
compute_stage(struct rows<T, HEAD_DIM, HALF> *r, const struct decode_params &p,
              const struct keys &k, int stage, int position, uint32_t shared_q, uint32_t tile)
{
    const int key = stage_key(k, stage);
    if (key >= k.end || key + WARP_KEYS <= k.seen)
        return;
    float s[2][4] = {};
    make_scores(s, r, shared_q, tile);
    finish_scores<HALF>(s, p, r->slope, key + threadIdx.x % 4 * 2, k, position);
    weigh<T, HEAD_DIM, HALF, 0>(r, s);
    if constexpr (!HALF)
        weigh<T, HEAD_DIM, HALF, 1>(r, s);
    add_values(r, s, tile + layout<HEAD_DIM>::TILE_BYTES);
}

} // namespace

#endif
