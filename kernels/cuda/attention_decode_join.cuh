/* attention_decode_join.cuh - the end of a split: its warps' rows in order; of a run, what its
 * splits gave, in order; and, in the last item of a token, all partials in order of position, by
 * runs. */
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

__device__ __forceinline__ struct joined join_nothing()
{
    return {make_float4(0.0f, 0.0f, 0.0f, 0.0f), -INFINITY, 0.0f};
}

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

/* One quad of the warps' rows, in order. */
template <int HEAD_DIM>
__device__ __forceinline__ struct joined join_warps(int row, int column, const float *join,
                                                    const struct shared_state *st)
{
    constexpr int STRIDE = layout<HEAD_DIM>::JOIN_STRIDE;
    float top = st->sums[0][row].x;
#pragma unroll
    for (int w = 1; w < WARPS; w++)
        top = fmaxf(top, st->sums[w][row].x);
    struct joined j = {make_float4(0.0f, 0.0f, 0.0f, 0.0f), top, 0.0f};
#pragma unroll
    for (int w = 0; w < WARPS; w++)
        join_add(&j,
                 *(const float4 *)&join[(w * MERGE_ROWS + row) * STRIDE + join_column(row, column)],
                 st->sums[w][row]);
    return j;
}

/* One quad of a task to the output, or to the item's partial. */
template <class T, int HEAD_DIM>
__device__ __forceinline__ void put_quad(const struct decode_params &p,
                                         const struct attention_item &it, bool alone, int head,
                                         int column, const struct joined &j)
{
    if (alone) {
        put_out<T>(p, ((size_t)it.token * p.n_heads + head) * HEAD_DIM + column, j);
    } else {
        const size_t at = (size_t)it.partial * p.n_heads + head;
        *(float4 *)&p.values[at * HEAD_DIM + column] = j.v;
        if (column == 0)
            p.sums[at] = make_float2(j.top, j.sum);
    }
}

/* ---- Items of one split. ---- */

template <class T, int HEAD_DIM>
__device__ __forceinline__ void
join_rows(const struct decode_params &p, const struct attention_item &it, bool alone,
          int first_head, int n_rows, const float *join, const struct shared_state *st)
{
    constexpr int QUADS = HEAD_DIM / 4;
    for (int i = threadIdx.x; i < n_rows * QUADS; i += THREADS) {
        const int row = i / QUADS, column = i % QUADS * 4;
        const struct joined j = join_warps<HEAD_DIM>(row, column, join, st);
        put_quad<T, HEAD_DIM>(p, it, alone, first_head + row, column, j);
    }
}

/* ---- Runs. ---- */

/* What a thread has of its run: of quad threadIdx.x + i THREADS of each 8 rows. */
template <int HEAD_DIM, bool HALF> struct run_sums {
    static constexpr int HALVES = HALF ? 1 : 2, QUADS = HEAD_DIM / 4;
    static constexpr int N = (MERGE_ROWS * QUADS + THREADS - 1) / THREADS;
    struct joined of[HALVES][N];
};

template <int HEAD_DIM, bool HALF>
__device__ __forceinline__ void clear_sums(struct run_sums<HEAD_DIM, HALF> *sums)
{
#pragma unroll
    for (int half = 0; half < sums->HALVES; half++) {
#pragma unroll
        for (int i = 0; i < sums->N; i++)
            sums->of[half][i] = join_nothing();
    }
}

/* Rows [8 HALF_INDEX, + n_rows) of a split, to the run's. */
template <int HALF_INDEX, int HEAD_DIM, bool HALF>
__device__ __forceinline__ void add_rows(struct run_sums<HEAD_DIM, HALF> *sums, int n_rows,
                                         const float *join, const struct shared_state *st)
{
    constexpr int QUADS = HEAD_DIM / 4;
#pragma unroll
    for (int i = 0; i < sums->N; i++) {
        const int at = i * THREADS + threadIdx.x;
        if (at < n_rows * QUADS) {
            const struct joined j = join_warps<HEAD_DIM>(at / QUADS, at % QUADS * 4, join, st);
            join_add(&sums->of[HALF_INDEX][i], j.v, make_float2(j.top, j.sum));
        }
    }
}

/* The end of a split: the warps' rows go to the run's.  A barrier must follow. */
template <int HEAD_DIM, bool HALF, class R>
__device__ __forceinline__ void end_split(R *r, struct run_sums<HEAD_DIM, HALF> *sums, int n_rows,
                                          float *join, struct shared_state *st)
{
    if constexpr (layout<HEAD_DIM>::WIDE)
        __syncthreads(); /* all have read the queries, which lie where rows go */
    put_rows<0>(r, min(n_rows, MERGE_ROWS), join, st);
    __syncthreads();
    add_rows<0>(sums, min(n_rows, MERGE_ROWS), join, st);
    if constexpr (!HALF) {
        if (n_rows > MERGE_ROWS) {
            __syncthreads();
            put_rows<1>(r, n_rows - MERGE_ROWS, join, st);
            __syncthreads();
            add_rows<1>(sums, n_rows - MERGE_ROWS, join, st);
        }
    }
}

/* The run's rows to the output, or to its partial. */
template <class T, int HEAD_DIM, bool HALF>
__device__ __forceinline__ void
put_sums(const struct decode_params &p, const struct attention_item &it, bool alone,
         const struct run_sums<HEAD_DIM, HALF> *sums, const struct heads &h)
{
    constexpr int QUADS = HEAD_DIM / 4;
#pragma unroll
    for (int half = 0; half < sums->HALVES; half++) {
#pragma unroll
        for (int i = 0; i < sums->N; i++) {
            const int quad = i * THREADS + threadIdx.x, row = half * MERGE_ROWS + quad / QUADS;
            const int column = quad % QUADS * 4, head = h.first + row;
            const struct joined &j = sums->of[half][i];
            if (quad >= MERGE_ROWS * QUADS || row >= h.n)
                continue;
            put_quad<T, HEAD_DIM>(p, it, alone, head, column, j);
        }
    }
}

/* One quad of all partials of a token, in order of position, by runs of 2048 keys that have
 * `per_run` of them.  They are read past L1, which may hold lines of neighbours from before. */
template <int HEAD_DIM>
__device__ __forceinline__ struct joined
join_partials(const struct decode_params &p, const struct attention_item &it, int n_skipped,
              int per_run, int head, int column)
{
    constexpr int AT_ONCE = ATTENTION_RUN / ATTENTION_SPLIT_MIN;
    struct joined all = join_nothing(), run = join_nothing();
    for (int first = n_skipped / AT_ONCE * AT_ONCE; first < it.n_items; first += AT_ONCE) {
        float4 v[AT_ONCE];
        float2 top_sum[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const int item = min(max(first + i, n_skipped), it.n_items - 1);
            const size_t at = (size_t)(it.first_partial + item) * p.n_heads + head;
            v[i] = __ldcg((const float4 *)&p.values[at * HEAD_DIM + column]);
            top_sum[i] = __ldcg(&p.sums[at]);
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const int item = first + i;
            if (item < n_skipped || item >= it.n_items)
                continue;
            join_add(&run, v[i], top_sum[i]);
            if (((item + 1) & (per_run - 1)) == 0 || item + 1 == it.n_items) {
                join_add(&all, run.v, make_float2(run.top, run.sum));
                run = join_nothing();
            }
        }
    }
    return all;
}

/* All partials of a token, to the output. */
template <class T, int HEAD_DIM>
__device__ __forceinline__ void join_items(const struct decode_params &p,
                                           const struct attention_item &it, int n_skipped,
                                           const struct heads &h)
{
    constexpr int QUADS = HEAD_DIM / 4;
    const int per_run = ATTENTION_RUN >> (31 - __clz(keys_of_item(it))); /* powers of 2 */
    for (int i = threadIdx.x; i < h.n * QUADS; i += THREADS) {
        const int head = h.first + i / QUADS, column = i % QUADS * 4;
        const struct joined j = join_partials<HEAD_DIM>(p, it, n_skipped, per_run, head, column);
        put_out<T>(p, ((size_t)it.token * p.n_heads + head) * HEAD_DIM + column, j);
    }
}

/* ---- The end of a task. ---- */

/* True for all threads <=> this item is the last of its token and heads.  With RUNS one thread
 * fences for all: a fence of each would wait for the copies that are on their way. */
template <bool RUNS>
__device__ __forceinline__ bool arrive_last(const struct decode_params &p,
                                            const struct attention_item &it, int n_active,
                                            int first_head, struct shared_state *st)
{
    if (!RUNS)
        __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        int32_t *counter = &p.counters[ATTENTION_QUEUE + it.merge * p.n_heads + first_head];
        st->is_last =
            (RUNS ? atomic_add_acq_rel(counter, 1) : atomicAdd(counter, 1)) == n_active - 1;
        if (st->is_last)
            *counter = 0;
    }
    __syncthreads();
    if (!RUNS)
        __threadfence();
    return st->is_last != 0;
}

/* Of an item of one split.  R: rows, or code_rows. */
template <class T, int HEAD_DIM, bool HALF, class R>
__device__ __forceinline__ void
end_item(R *r, const struct decode_params &p, const struct attention_item &it, int seen,
         const struct heads &h, float *join, struct shared_state *st)
{
    const int n_skipped = seen / it.size, n_active = it.n_items - n_skipped;
    if constexpr (layout<HEAD_DIM>::WIDE)
        __syncthreads(); /* all have read the queries, which lie where rows go */
    put_rows<0>(r, min(h.n, MERGE_ROWS), join, st);
    __syncthreads();
    join_rows<T, HEAD_DIM>(p, it, n_active == 1, h.first, min(h.n, MERGE_ROWS), join, st);
    if constexpr (!HALF) {
        if (h.n > MERGE_ROWS) {
            __syncthreads();
            put_rows<1>(r, h.n - MERGE_ROWS, join, st);
            __syncthreads();
            join_rows<T, HEAD_DIM>(p, it, n_active == 1, h.first + MERGE_ROWS, h.n - MERGE_ROWS,
                                   join, st);
        }
    }
    if (n_active == 1)
        __syncthreads();
    else if (arrive_last<false>(p, it, n_active, h.first, st))
        join_items<T, HEAD_DIM>(p, it, n_skipped, h);
}

/* Of a run, whose last split has ended. */
template <class T, int HEAD_DIM, bool HALF>
__device__ __forceinline__ void
end_run(const struct decode_params &p, const struct attention_item &it, int seen,
        const struct run_sums<HEAD_DIM, HALF> *sums, const struct heads &h, struct shared_state *st)
{
    const int n_skipped = seen / keys_of_item(it), n_active = it.n_items - n_skipped;
    put_sums<T>(p, it, n_active == 1, sums, h);
    if (n_active == 1)
        __syncthreads();
    else if (arrive_last<true>(p, it, n_active, h.first, st))
        join_items<T, HEAD_DIM>(p, it, n_skipped, h);
}

} // namespace

#endif
