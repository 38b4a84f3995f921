/* all_reduce.cu - where the ranks' GPUs meet: sums of activations, and rows of logits.
 *
 * y = round(add + ((x0 + x1) + x2) + ...) in f32, in order of rank, in every way below; so bits
 * depend on the number of ranks, and neither on the size of a step nor on what carries the values.
 *
 *   one trip    each rank writes its x to all others, and each sums everything.  The fastest way
 * for few bytes, and with two ranks for any number: each link carries n bytes. two trips   each
 * rank is sent its share of all x, sums it, and writes the result to all: of 2 (N
 *               - 1) / N n bytes a link the least that there can be.
 *   NCCL        carries the same words where GPUs do not reach each other; a kernel sums them.
 *
 * The residual is added in passing.  The norm that follows is the next product's own (few rows), or
 * reads what is in the second-level cache.
 *
 * A thread waits for the very words that it needs, so nothing in here is a barrier between ranks.
 * It writes a batch ahead before it waits, which keeps the links full. */
#include "kernels/cuda/act_type.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/nccl.h"
#include "kernels/cuda/peer.cuh"

namespace
{

constexpr int THREADS = 256;
constexpr int ONE_TRIP_BYTES = 256 << 10; /* with more than two ranks */

template <int N> constexpr int batch_of()
{
    return N == 2 ? 4 : N <= 4 ? 2 : 1;
}

/* ---- sums ---- */

/* All of v's ranks in order; N == 0: any number, one behind the other. */
template <class PAIR> struct summed {
    float v[CHUNK];

    __device__ void first(uint4 chunk)
    {
        chunk_to_f32<PAIR>(v, chunk);
    }
    __device__ void plus(uint4 chunk)
    {
        float more[CHUNK];
        chunk_to_f32<PAIR>(more, chunk);
#pragma unroll
        for (int i = 0; i < CHUNK; i++)
            v[i] = __fadd_rn(v[i], more[i]);
    }
    /* The residual comes first, as in the sum of one rank. */
    __device__ uint4 rounded(const uint4 *add, uint4 residual)
    {
        if (add)
            plus(residual);
        return chunk_from_f32<PAIR>(v);
    }
};

/* ---- one trip ---- */

/* Chunks at, at + stride, ... of x, to all others. */
template <int B>
__device__ __forceinline__ void send_batch(const peer_view &v, uint32_t turn, uint4 mine[B],
                                           const uint4 *x, int at, int stride, int n)
{
#pragma unroll
    for (int b = 0; b < B; b++)
        if (at + b * stride < n)
            mine[b] = not_empty(x[at + b * stride], NAN_ACTS);
    for (int i = 1; i < v.n_ranks; i++) {
        const int to = v.rank + i < v.n_ranks ? v.rank + i : v.rank + i - v.n_ranks;
        uint4 *inbox = letters<uint4>(v, turn, to, v.rank, n);
#pragma unroll
        for (int b = 0; b < B; b++)
            if (at + b * stride < n)
                peer_store(inbox + at + b * stride, mine[b]);
    }
}

/* Chunk i of every rank in `from` (this rank's own is `mine`), in order; what was read is emptied.
 */
template <class PAIR, int N>
__device__ __forceinline__ void sum_chunk(summed<PAIR> *sum, const peer_view &v, uint32_t turn,
                                          const uint4 got[], uint4 mine, int i, int pitch)
{
    const int n_ranks = N ? N : v.n_ranks;
#pragma unroll
    for (int r = 0; r < n_ranks; r++) {
        uint4 chunk = mine;
        if (r != v.rank) {
            uint4 *at = letters<uint4>(v, turn, v.rank, r, pitch) + i;
            chunk = await_word(v, r, at, N ? got[r] : peer_load(at));
            empty(at);
        }
        if (r == 0)
            sum->first(chunk);
        else
            sum->plus(chunk);
    }
}

/* A first look at chunk i of all others, all at once; with N == 0 there is none. */
template <int N>
__device__ __forceinline__ void look_at_chunk(uint4 got[], const peer_view &v, uint32_t turn, int i,
                                              int pitch)
{
#pragma unroll
    for (int r = 0; r < N; r++)
        if (r != v.rank)
            got[r] = peer_load(letters<uint4>(v, turn, v.rank, r, pitch) + i);
}

template <class PAIR, int N, int B>
__device__ __forceinline__ void sum_batch(const peer_view &v, uint32_t turn, const uint4 mine[B],
                                          uint4 *y, const uint4 *add, int at, int stride, int n)
{
    uint4 residual[B], got[B][N ? N : 1];
#pragma unroll
    for (int b = 0; b < B; b++) {
        if (at + b * stride < n) {
            residual[b] = add ? add[at + b * stride] : uint4();
            look_at_chunk<N>(got[b], v, turn, at + b * stride, n);
        }
    }
#pragma unroll
    for (int b = 0; b < B; b++) {
        const int i = at + b * stride;
        summed<PAIR> sum;
        if (i >= n)
            break;
        sum_chunk<PAIR, N>(&sum, v, turn, got[b], mine[b], i, n);
        y[i] = sum.rounded(add, residual[b]);
    }
}

/* grid: any   block: [THREADS]   x, y, add: [n] chunks; y may be x or add: a thread reads a chunk
 * before it writes it, and no other does */
template <class PAIR, int N, int B>
__global__ void __launch_bounds__(THREADS)
    one_trip_kernel(const __grid_constant__ peer_view v, uint4 *y, const uint4 *x, const uint4 *add,
                    int n)
{
    const int stride = (int)gridDim.x * THREADS;
    int at = (int)(blockIdx.x * THREADS + threadIdx.x);
    uint4 mine[B], ahead[B];
    await_previous();
    const uint32_t turn = turn_of(v);
    send_batch<B>(v, turn, ahead, x, at, stride, n);
    turn_taken(v, turn);
    for (; at < n; at += B * stride) {
#pragma unroll
        for (int b = 0; b < B; b++)
            mine[b] = ahead[b];
        send_batch<B>(v, turn, ahead, x, at + B * stride, stride, n);
        sum_batch<PAIR, N, B>(v, turn, mine, y, add, at, stride, n);
    }
}

/* ---- two trips ---- */

/* Rank r sums the chunks [share(r), share(r + 1)). */
__device__ __forceinline__ int share(const peer_view &v, int r, int n)
{
    return (int)((int64_t)n * r / v.n_ranks);
}

/* Results lie behind the parts of sums, which take (n_ranks - 1) * pitch chunks; chunk i at i. */
__device__ __forceinline__ uint4 *results(const peer_view &v, uint32_t turn, int to, int pitch)
{
    char *half = v.inbox[to] + (turn & 1) * PEER_HALF_BYTES;
    return reinterpret_cast<uint4 *>(half) + (int64_t)(v.n_ranks - 1) * pitch;
}

template <int B>
__device__ __forceinline__ void send_share(const peer_view &v, uint32_t turn, const uint4 *x,
                                           int to, int n, int pitch, int at, int stride)
{
    const int first = share(v, to, n), end = share(v, to + 1, n);
    uint4 *inbox = letters<uint4>(v, turn, to, v.rank, pitch) - first;
    for (int i = first + at; i < end; i += B * stride) {
        uint4 mine[B];
#pragma unroll
        for (int b = 0; b < B; b++)
            if (i + b * stride < end)
                mine[b] = x[i + b * stride];
#pragma unroll
        for (int b = 0; b < B; b++)
            if (i + b * stride < end)
                peer_store(inbox + i + b * stride, not_empty(mine[b], NAN_ACTS));
    }
}

/* This rank's share: summed, kept, and sent to all others. */
template <class PAIR, int N, int B>
__device__ __forceinline__ void sum_share(const peer_view &v, uint32_t turn, uint4 *y,
                                          const uint4 *x, const uint4 *add, int n, int pitch,
                                          int at, int stride)
{
    const int first = share(v, v.rank, n), end = share(v, v.rank + 1, n);
    for (int i = first + at; i < end; i += B * stride) {
        uint4 mine[B], residual[B], got[B][N ? N : 1];
#pragma unroll
        for (int b = 0; b < B; b++) {
            const int c = i + b * stride;
            if (c < end) {
                mine[b] = not_empty(x[c], NAN_ACTS);
                residual[b] = add ? add[c] : uint4();
                look_at_chunk<N>(got[b], v, turn, c - first, pitch);
            }
        }
#pragma unroll
        for (int b = 0; b < B; b++) {
            const int c = i + b * stride;
            summed<PAIR> sum;
            if (c >= end)
                break;
            sum_chunk<PAIR, N>(&sum, v, turn, got[b], mine[b], c - first, pitch);
            const uint4 out = not_empty(sum.rounded(add, residual[b]), NAN_ACTS);
            for (int j = 1; j < v.n_ranks; j++)
                peer_store(results(v, turn, (v.rank + j) % v.n_ranks, pitch) + c, out);
            y[c] = out;
        }
    }
}

template <int B>
__device__ __forceinline__ void take_share(const peer_view &v, uint32_t turn, uint4 *y, int from,
                                           int n, int pitch, int at, int stride)
{
    const int first = share(v, from, n), end = share(v, from + 1, n);
    uint4 *inbox = results(v, turn, v.rank, pitch);
    for (int i = first + at; i < end; i += B * stride) {
        uint4 got[B];
#pragma unroll
        for (int b = 0; b < B; b++)
            if (i + b * stride < end)
                got[b] = peer_load(inbox + i + b * stride);
#pragma unroll
        for (int b = 0; b < B; b++) {
            const int c = i + b * stride;
            if (c >= end)
                break;
            y[c] = await_word(v, from, inbox + c, got[b]);
            empty(inbox + c);
        }
    }
}

/* grid: any   block: [THREADS]   as above; y may be x: each chunk is sent before it is written, by
 * the thread that writes it */
template <class PAIR, int N, int B>
__global__ void __launch_bounds__(THREADS)
    two_trips_kernel(const __grid_constant__ peer_view v, uint4 *y, const uint4 *x,
                     const uint4 *add, int n)
{
    const int stride = (int)gridDim.x * THREADS, pitch = (n + v.n_ranks - 1) / v.n_ranks;
    const int at = (int)(blockIdx.x * THREADS + threadIdx.x);
    await_previous();
    const uint32_t turn = turn_of(v);
    for (int i = 1; i < v.n_ranks; i++)
        send_share<4>(v, turn, x, (v.rank + i) % v.n_ranks, n, pitch, at, stride);
    turn_taken(v, turn);
    sum_share<PAIR, N, B>(v, turn, y, x, add, n, pitch, at, stride);
    for (int i = 1; i < v.n_ranks; i++)
        take_share<4>(v, turn, y, (v.rank + i) % v.n_ranks, n, pitch, at, stride);
}

/* ---- rows ---- */

struct row_parts { /* in words */
    int first[COMM_RANKS_MAX + 1];
    int n_rows;
};

/* grid: any   block: [THREADS]   W: four f32s, or one where parts do not begin at a multiple of
 * four */
template <class W>
__global__ void __launch_bounds__(THREADS)
    rows_kernel(const __grid_constant__ peer_view v, W *rows,
                const __grid_constant__ row_parts parts, int pitch)
{
    const int stride = (int)gridDim.x * THREADS;
    const int start = (int)(blockIdx.x * THREADS + threadIdx.x);
    const int row_words = parts.first[v.n_ranks];
    await_previous();
    const uint32_t turn = turn_of(v);
    const int own = parts.first[v.rank], width = parts.first[v.rank + 1] - own;
    for (int i = start; i < width * parts.n_rows; i += stride) {
        const W word = not_empty(rows[(int64_t)(i / width) * row_words + own + i % width], NAN_F32);
        for (int j = 1; j < v.n_ranks; j++)
            peer_store(letters<W>(v, turn, (v.rank + j) % v.n_ranks, v.rank, pitch) + i, word);
    }
    turn_taken(v, turn);
    for (int j = 1; j < v.n_ranks; j++) {
        const int from = (v.rank + j) % v.n_ranks;
        const int first = parts.first[from], n = parts.first[from + 1] - first;
        W *inbox = letters<W>(v, turn, v.rank, from, pitch);
        for (int i = start; i < n * parts.n_rows; i += stride) {
            rows[(int64_t)(i / n) * row_words + first + i % n] =
                await_word(v, from, inbox + i, peer_load(inbox + i));
            empty(inbox + i);
        }
    }
}

/* ---- NCCL ---- */

struct sum_sources {
    const uint4 *x[COMM_RANKS_MAX];
    int n_ranks;
};

/* grid: chunks / THREADS   block: [THREADS] */
template <class PAIR>
__global__ void __launch_bounds__(THREADS)
    sum_kernel(uint4 *y, const __grid_constant__ sum_sources from, const uint4 *add, int n)
{
    const int i = (int)(blockIdx.x * THREADS + threadIdx.x);
    await_previous();
    if (i >= n)
        return;
    summed<PAIR> sum;
    sum.first(from.x[0][i]);
    for (int r = 1; r < from.n_ranks; r++)
        sum.plus(from.x[r][i]);
    y[i] = sum.rounded(add, add ? add[i] : uint4());
}

void exchange(struct device *d, const nccl_part *part)
{
    status st = {};
    if (d->fault == cudaSuccess && !nccl_exchange(d->peers->nccl, part, d->stream, &st))
        cuda_check(d, cudaErrorUnknown, st.msg);
}

/* Shares of x to those who sum them, then the sums to all; the parts come into the own inbox. */
void reduce_by_nccl(struct device *d, uint4 *y, const uint4 *x, const uint4 *add, int n)
{
    const int rank = d->peers->view.rank, n_ranks = d->peers->view.n_ranks;
    const int pitch = (n + n_ranks - 1) / n_ranks;
    nccl_part part[COMM_RANKS_MAX] = {};
    sum_sources from = {};
    int first[COMM_RANKS_MAX + 1];
    from.n_ranks = n_ranks;
    for (int r = 0; r <= n_ranks; r++)
        first[r] = (int)((int64_t)n * r / n_ranks);
    const int n_own = first[rank + 1] - first[rank];
    for (int r = 0; r < n_ranks; r++) {
        uint4 *to = static_cast<uint4 *>(d->peers->own) + (int64_t)r * pitch;
        part[r] = {x + first[r], (size_t)(first[r + 1] - first[r]) * sizeof *x, to,
                   (size_t)n_own * sizeof *x};
        from.x[r] = r == rank ? x + first[rank] : to;
    }
    exchange(d, part);
    with_act_type(d->act, [&](auto pair) {
        if (n_own > 0)
            launch(d, "sum",
                   {dim3((unsigned)((n_own + THREADS - 1) / THREADS)), dim3(THREADS), 0, 0},
                   sum_kernel<decltype(pair)>, y + first[rank], from,
                   add ? add + first[rank] : nullptr, n_own);
    });
    for (int r = 0; r < n_ranks; r++)
        part[r] = {y + first[rank], (size_t)n_own * sizeof *y, y + first[r],
                   (size_t)(first[r + 1] - first[r]) * sizeof *y};
    exchange(d, part);
}

/* Parts are packed at the front of the inbox, and those of others come behind. */
void gather_by_nccl(struct device *d, float *rows, int n_rows, const int32_t *split)
{
    const int rank = d->peers->view.rank, n_ranks = d->peers->view.n_ranks;
    const size_t row = (size_t)split[n_ranks] * sizeof *rows;
    nccl_part part[COMM_RANKS_MAX] = {};
    char *packed[COMM_RANKS_MAX], *at = static_cast<char *>(d->peers->own);
    size_t width[COMM_RANKS_MAX];
    for (int r = 0; r < n_ranks; r++) {
        width[r] = (size_t)(split[r + 1] - split[r]) * sizeof *rows;
        packed[r] = at;
        at += width[r] * (size_t)n_rows;
    }
    cuda_check(d,
               cudaMemcpy2DAsync(packed[rank], width[rank], rows + split[rank], row, width[rank],
                                 (size_t)n_rows, cudaMemcpyDeviceToDevice, d->stream),
               "pack logits");
    for (int r = 0; r < n_ranks; r++)
        part[r] = {packed[rank], width[rank] * (size_t)n_rows, packed[r],
                   width[r] * (size_t)n_rows};
    exchange(d, part);
    for (int r = 0; r < n_ranks; r++)
        if (r != rank)
            cuda_check(d,
                       cudaMemcpy2DAsync(rows + split[r], row, packed[r], width[r], width[r],
                                         (size_t)n_rows, cudaMemcpyDeviceToDevice, d->stream),
                       "unpack logits");
}

/* ---- launching ---- */

/* f gets the number of ranks as a type; 0 stands for those that have no kernel of their own. */
template <int N> struct ranks_are {
    static constexpr int n = N;
};

template <class F> void with_ranks(int n, F f)
{
    if (n == 2)
        f(ranks_are<2>());
    else if (n == 3)
        f(ranks_are<3>());
    else if (n == 4)
        f(ranks_are<4>());
    else if (n == 8)
        f(ranks_are<8>());
    else
        f(ranks_are<0>());
}

/* Few chunks are spread over as many multiprocessors as they fill; many are done by as many threads
 * as the links want. */
unsigned blocks_for(const struct device *d, int n)
{
    const int wanted = (n + THREADS - 1) / THREADS, most = 2 * d->sm_count;
    return (unsigned)(wanted < most ? wanted : most);
}

bool takes_one_trip(const peer_view *v, int n)
{
    return v->n_ranks == 2 || (size_t)n * sizeof(uint4) <= ONE_TRIP_BYTES;
}

/* Chunks of one launch: a half holds n of the other rank's; or, of two trips, n - 1 shares and all
 * results. */
int chunks_max(const peer_view *v)
{
    const int64_t half = PEER_HALF_BYTES / sizeof(uint4), n = v->n_ranks;
    return (int)(n == 2 ? half : (half - COMM_RANKS_MAX) * n / (2 * n - 1));
}

void reduce(struct device *d, uint4 *y, const uint4 *x, const uint4 *add, int n)
{
    const peer_view *v = &d->peers->view;
    const launch_shape shape = {dim3(blocks_for(d, n)), dim3(THREADS), 0, 0};
    with_act_type(d->act, [&](auto pair) {
        typedef decltype(pair) PAIR;
        with_ranks(v->n_ranks, [&](auto ranks) {
            constexpr int N = decltype(ranks)::n, B = batch_of<N>();
            if (takes_one_trip(v, n))
                launch(d, "all_reduce", shape, one_trip_kernel<PAIR, N, B>, *v, y, x, add, n);
            else
                launch(d, "all_reduce", shape, two_trips_kernel<PAIR, N, B>, *v, y, x, add, n);
        });
    });
}

template <class W> void gather(struct device *d, W *rows, int n_rows, const int32_t *split)
{
    const peer_view *v = &d->peers->view;
    const int word = (int)(sizeof(W) / sizeof(float));
    row_parts parts = {};
    int widest = 1;
    for (int r = 0; r <= v->n_ranks; r++)
        parts.first[r] = split[r] / word;
    for (int r = 0; r < v->n_ranks; r++)
        if (parts.first[r + 1] - parts.first[r] > widest)
            widest = parts.first[r + 1] - parts.first[r];
    const int at_once = (int)(PEER_HALF_BYTES / sizeof(W)) / (v->n_ranks - 1) / widest;
    for (int i = 0; i < n_rows; i += at_once) {
        parts.n_rows = n_rows - i < at_once ? n_rows - i : at_once;
        launch(d, "gather", {dim3(blocks_for(d, widest * parts.n_rows)), dim3(THREADS), 0, 0},
               rows_kernel<W>, *v, rows + (int64_t)i * parts.first[v->n_ranks], parts,
               widest * parts.n_rows);
    }
}

bool fits_four(const float *rows, const int32_t *split, int n_ranks)
{
    bool fits = (uintptr_t)rows % sizeof(uint4) == 0;
    for (int r = 0; r <= n_ranks; r++)
        fits = fits && split[r] % 4 == 0;
    return fits;
}

} /* namespace */

/* ---- the ops ---- */

void cuda_all_reduce(struct device *d, const struct all_reduce_args *a)
{
    const int64_t n = (int64_t)a->rows * a->width / CHUNK, max = chunks_max(&d->peers->view);
    const int64_t launches = (n + max - 1) / max,
                  most = launches ? (n + launches - 1) / launches : 1;
    for (int64_t i = 0; i < n; i += most) {
        uint4 *y = (uint4 *)a->y + i;
        const uint4 *x = (const uint4 *)a->x + i, *add = a->add ? (const uint4 *)a->add + i : NULL;
        const int part = (int)(n - i < most ? n - i : most);
        if (d->peers->nccl)
            reduce_by_nccl(d, y, x, add, part);
        else
            reduce(d, y, x, add, part);
    }
}

void cuda_gather_rows(struct device *d, float *rows, int n_rows, const int32_t *split)
{
    const int n_ranks = d->peers->view.n_ranks;
    if (d->peers->nccl) {
        const int most = (int)(2 * PEER_HALF_BYTES / sizeof *rows / (size_t)split[n_ranks]);
        for (int i = 0; i < n_rows; i += most)
            gather_by_nccl(d, rows + (int64_t)i * split[n_ranks],
                           n_rows - i < most ? n_rows - i : most, split);
    } else if (fits_four(rows, split, n_ranks)) {
        gather(d, (uint4 *)rows, n_rows, split);
    } else {
        gather(d, (uint32_t *)rows, n_rows, split);
    }
}
