/* attention_decode_join.cuh - the end of an item: its warps' rows in order, and, in the last item
 * of a token, all partials in order of position. */
#ifndef KERNELS_CUDA_ATTENTION_DECODE_JOIN_CUH
#define KERNELS_CUDA_ATTENTION_DECODE_JOIN_CUH

#include "kernels/cuda/attention_decode_codes.cuh"

namespace
{

/* Where 8-byte and 16-byte accesses of 4 rows meet different banks. */
__device__ __forceinline__ int join_column(int row, int column)
{
    return column ^ (row & 3) << 3;
}

/* Rows [8 HALF_INDEX, + 8) of this warp to shared memory. */
template <int HALF_INDEX, class T, int HEAD_DIM, bool HALF>
__device__ __forceinline__ void put_rows(struct rows<T, HEAD_DIM, HALF> *r, int n_rows, float *join,
                                         struct shared_state *st)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = lane / 4;
    float sum = r->sum[HALF_INDEX];
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    if (row >= n_rows)
        return;
    float *to = join + (warp * MERGE_ROWS + row) * layout<HEAD_DIM>::JOIN_STRIDE;
#pragma unroll
    for (int i = 0; i < HEAD_DIM / 8; i++)
        *(float2 *)&to[join_column(row, 8 * i + lane % 4 * 2)] =
            make_float2(r->out[i][2 * HALF_INDEX], r->out[i][2 * HALF_INDEX + 1]);
    if (lane % 4 == 0)
        st->sums[warp][row] = make_float2(r->top[HALF_INDEX], sum);
}

/* Head j of the lane's two. */
template <int HALF_INDEX, class T, int HEAD_DIM, bool HALF>
__device__ __forceinline__ void put_code_row(const struct code_rows<T, HEAD_DIM, HALF> *r, int j,
                                             int row, float sum, float *join,
                                             struct shared_state *st)
{
    constexpr float UNIT = 1.0f / value_unit<T>();
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4;
    float *to = join + (warp * MERGE_ROWS + row) * layout<HEAD_DIM>::JOIN_STRIDE;
#pragma unroll
    for (int c = 0; c < HEAD_DIM / 16; c++)
        *(float2 *)&to[join_column(row, 16 * c + 2 * g)] =
            make_float2(r->out[c][HALF_INDEX][j] * UNIT, r->out[c][HALF_INDEX][j + 2] * UNIT);
    if (g == 0)
        st->sums[warp][row] = make_float2(r->top[HALF_INDEX][j], sum);
}

template <int HALF_INDEX, class T, int HEAD_DIM, bool HALF>
__device__ __forceinline__ void put_rows(struct code_rows<T, HEAD_DIM, HALF> *r, int n_rows,
                                         float *join, struct shared_state *st)
{
    const int first = threadIdx.x % 4 * 2;
    const float sum[2] = {sum_of_keys(r->sum[HALF_INDEX][0]), sum_of_keys(r->sum[HALF_INDEX][1])};
#pragma unroll
    for (int j = 0; j < 2; j++) {
        if (first + j < n_rows)
            put_code_row<HALF_INDEX>(r, j, first + j, sum[j], join, st);
    }
}

struct joined { /* 4 columns of a row, relative to the maximum `top` */
    float4 v;
    float top, sum;
};

/* What is fused is said here: wherever this is done, the bits are the same. */
__device__ __forceinline__ void join_add(struct joined *j, float4 v, float2 top_sum)
{
    const float top = fmaxf(j->top, top_sum.x);
    const float a = exp2_approx(j->top - top), b = exp2_approx(top_sum.x - top);
    j->v.x = fmaf(j->v.x, a, v.x * b);
    j->v.y = fmaf(j->v.y, a, v.y * b);
    j->v.z = fmaf(j->v.z, a, v.z * b);
    j->v.w = fmaf(j->v.w, a, v.w * b);
    j->sum = fmaf(j->sum, a, top_sum.y * b);
    j->top = top;
}

template <class T>
__device__ __forceinline__ void put_out(const struct decode_params &p, size_t at,
                                        const struct joined &j)
{
    const float scale = 1.0f / j.sum;
    /* With a sum: whether a zero has a sign would depend on the cut. */
    const float x = fmaf(j.v.x, scale, 0.0f), y = fmaf(j.v.y, scale, 0.0f);
    const float z = fmaf(j.v.z, scale, 0.0f), w = fmaf(j.v.w, scale, 0.0f);
    const uint2 v = make_uint2(pack<T>(x, y), pack<T>(z, w));
    *(uint2 *)((T *)p.out + at) = v;
}

/* The warps' rows, in order, to the output or to the split's partial. */
template <class T, int HEAD_DIM>
__device__ __forceinline__ void
join_warps(const struct decode_params &p, const struct attention_split &s, bool alone,
           int first_head, int n_rows, const float *join, const struct shared_state *st)
{
    constexpr int QUADS = HEAD_DIM / 4, STRIDE = layout<HEAD_DIM>::JOIN_STRIDE;
    for (int i = threadIdx.x; i < n_rows * QUADS; i += THREADS) {
        const int row = i / QUADS, column = i % QUADS * 4, head = first_head + row;
        float top = st->sums[0][row].x;
#pragma unroll
        for (int w = 1; w < WARPS; w++)
            top = fmaxf(top, st->sums[w][row].x);
        struct joined j = {make_float4(0.0f, 0.0f, 0.0f, 0.0f), top, 0.0f};
#pragma unroll
        for (int w = 0; w < WARPS; w++)
            join_add(
                &j,
                *(const float4 *)&join[(w * MERGE_ROWS + row) * STRIDE + join_column(row, column)],
                st->sums[w][row]);
        if (alone) {
            put_out<T>(p, ((size_t)s.token * p.n_heads + head) * HEAD_DIM + column, j);
        } else {
            const size_t at = (size_t)s.partial * p.n_heads + head;
            *(float4 *)&p.values[at * HEAD_DIM + column] = j.v;
            if (column == 0)
                p.sums[at] = make_float2(j.top, j.sum);
        }
    }
}

/* All partials of a token, in order of position, to the output.  They are read past L1, which may
 * hold lines of neighbours from before. */
template <class T, int HEAD_DIM>
__device__ __forceinline__ void join_splits(const struct decode_params &p,
                                            const struct attention_split &s, int n_skipped,
                                            const struct heads &h)
{
    constexpr int QUADS = HEAD_DIM / 4;
    for (int i = threadIdx.x; i < h.n * QUADS; i += THREADS) {
        const int head = h.first + i / QUADS, column = i % QUADS * 4;
        struct joined j = {make_float4(0.0f, 0.0f, 0.0f, 0.0f), -INFINITY, 0.0f};
        size_t at = (size_t)(s.first_partial + n_skipped) * p.n_heads + head;
#pragma unroll 8
        for (int split = n_skipped; split < s.n_splits; split++) {
            join_add(&j, __ldcg((const float4 *)&p.values[at * HEAD_DIM + column]),
                     __ldcg(&p.sums[at]));
            at += p.n_heads;
        }
        put_out<T>(p, ((size_t)s.token * p.n_heads + head) * HEAD_DIM + column, j);
    }
}

/* True for all threads <=> this item is the last of its token and heads. */
__device__ __forceinline__ bool arrive_last(const struct decode_params &p,
                                            const struct attention_split &s, int n_active,
                                            int first_head, struct shared_state *st)
{
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        int32_t *counter = &p.counters[ATTENTION_QUEUE + s.merge * p.n_heads + first_head];
        st->is_last = atomicAdd(counter, 1) == n_active - 1;
        if (st->is_last)
            *counter = 0;
    }
    __syncthreads();
    __threadfence();
    return st->is_last != 0;
}

/* R: rows, or code_rows. */
template <class T, int HEAD_DIM, bool HALF, class R>
__device__ __forceinline__ void
end_item(R *r, const struct decode_params &p, const struct attention_split &s, int seen,
         const struct heads &h, float *join, struct shared_state *st)
{
    const int n_skipped = seen / s.size, n_active = s.n_splits - n_skipped;
    if constexpr (layout<HEAD_DIM>::WIDE)
        __syncthreads(); /* all have read the queries, which lie where rows go */
    put_rows<0>(r, min(h.n, MERGE_ROWS), join, st);
    __syncthreads();
    join_warps<T, HEAD_DIM>(p, s, n_active == 1, h.first, min(h.n, MERGE_ROWS), join, st);
    if constexpr (!HALF) {
        if (h.n > MERGE_ROWS) {
            __syncthreads();
            put_rows<1>(r, h.n - MERGE_ROWS, join, st);
            __syncthreads();
            join_warps<T, HEAD_DIM>(p, s, n_active == 1, h.first + MERGE_ROWS, h.n - MERGE_ROWS,
                                    join, st);
        }
    }
    if (n_active == 1)
        __syncthreads();
    else if (arrive_last(p, s, n_active, h.first, st))
        join_splits<T, HEAD_DIM>(p, s, n_skipped, h);
}

} // namespace

#endif
