/* matmul_rows.cuh - few rows of x, whole in shared memory, normalised there: what skinny products
 * share.
 *
 * The 256 working threads of a block bring the rows and meet at a barrier; each then sums and
 * scales the pieces that norm_row.cuh gives it, so that the bits are norm.cu's. */
#ifndef KERNELS_CUDA_MATMUL_ROWS_CUH
#define KERNELS_CUDA_MATMUL_ROWS_CUH

#include "kernels/cuda/matmul_int.h"
#include "kernels/cuda/norm_row.cuh"
#include "kernels/cuda/ptx.cuh"

enum {
    ROWS_THREADS = NORM_THREADS,
    ROWS_BARRIER = 1,       /* of these threads */
    ROWS_CHUNK_BYTES = 128, /* of a row: 64 values */
    ROWS_NORM_MAX = SKINNY_NORM_ROWS_MAX,
};

struct rows_args {
    struct product p;
    enum norm_kind norm_kind; /* of p.norm, which is host memory: non-NULL says that there is one */
    const float *norm_w, *norm_b;
    float norm_eps;
    int chunks; /* of a row in shared memory; past the last value it is zero */
};

inline void rows_take(rows_args *a, const struct product *p, int chunks)
{
    a->p = *p;
    a->chunks = chunks;
    if (!p->norm)
        return;
    a->norm_kind = p->norm->kind;
    a->norm_w = p->norm->w;
    a->norm_b = p->norm->b;
    a->norm_eps = p->norm->eps;
}

template <class T> struct pair_of;
template <> struct pair_of<__nv_bfloat16> {
    typedef __nv_bfloat162 type;
};
template <> struct pair_of<__half> {
    typedef __half2 type;
};

/* ---- places ----
 *
 * Chunks of [rows][128 bytes]; the 16-byte piece j of row r lies at j ^ (r % 8), as the copy
 * engine's 128-byte swizzle has it: ldmatrix meets no bank twice. */

__device__ inline uint32_t piece_at(uint32_t chunk, int row, int piece)
{
    return chunk + (uint32_t)(row * ROWS_CHUNK_BYTES + ((piece ^ (row & 7)) << 4));
}

/* Where piece `piece` of a whole row lies in x. */
__device__ inline uint32_t x_piece_at(uint32_t x, const rows_args &a, int row, int piece)
{
    return piece_at(x + (uint32_t)(piece / 8 * a.p.rows * ROWS_CHUNK_BYTES), row, piece % 8);
}

__device__ inline uint4 *x_piece(uint8_t *x, const rows_args &a, int row, int piece)
{
    return (uint4 *)(x + x_piece_at(0, a, row, piece));
}

/* Each thread brings the pieces that norm_row.cuh gives it; past the last k they are zero. */
__device__ inline void x_load(uint32_t x, const rows_args &a)
{
    for (int row = 0; row < a.p.rows; row++) {
        int from_row = a.p.gather ? a.p.gather[row].row : row;
        const uint4 *from = (const uint4 *)((const uint16_t *)a.p.x + (size_t)from_row * a.p.in);
        for (int i = threadIdx.x; i < a.chunks * 8; i += ROWS_THREADS) {
            bool inside = i * 8 < a.p.in;
            cp_async_16(x_piece_at(x, a, row, i), inside ? from + i : from, inside ? 16 : 0);
        }
    }
    cp_async_commit();
    cp_async_wait<0>();
}

/* The norm's weights to shared memory, each thread those of its pieces; x_load waits for them. */
__device__ inline void norm_weights_load(uint32_t to, const rows_args &a)
{
    for (int i = threadIdx.x; i * 8 < a.p.in; i += ROWS_THREADS) {
        cp_async_16(to + 32 * i, a.norm_w + 8 * i);
        cp_async_16(to + 32 * i + 16, a.norm_w + 8 * i + 4);
    }
    cp_async_commit();
}

/* Sum of x, or of (x - mean)^2, of all rows by all workers. */
template <class PAIR>
__device__ inline void x_sums(float sum[], const float *mean, uint8_t *x, const rows_args &a,
                              float (*warp_sum)[NORM_WARPS])
{
#pragma unroll
    for (int row = 0; row < ROWS_NORM_MAX; row++) {
        if (row >= a.p.rows)
            break;
        float s = 0.0f;
        for (int i = threadIdx.x; i * 8 < a.p.in; i += ROWS_THREADS) {
            uint4 piece = *x_piece(x, a, row, i);
            s = mean ? norm_chunk_squares<PAIR>(s, piece, mean[row])
                     : norm_chunk_sum<PAIR>(s, piece);
        }
        s = norm_warp_sum(s);
        if (threadIdx.x % 32 == 0)
            warp_sum[row][threadIdx.x / 32] = s;
    }
    barrier_sync(ROWS_BARRIER, ROWS_THREADS);
#pragma unroll
    for (int row = 0; row < ROWS_NORM_MAX; row++)
        sum[row] = row < a.p.rows ? norm_warps_sum(warp_sum[row]) : 0.0f;
}

/* How often these threads meet in x_norm. */
__device__ inline int x_norm_barriers(const rows_args &a)
{
    return a.norm_kind == NORM_LAYER ? 2 : 1;
}

/* `norm_w`: the norm's weights, or NULL. */
template <class PAIR>
__device__ inline void x_norm(uint8_t *x, const rows_args &a, const float *norm_w,
                              float (*warp_sum)[NORM_WARPS])
{
    float mean[ROWS_NORM_MAX] = {}, scale[ROWS_NORM_MAX];
    if (a.norm_kind == NORM_LAYER) {
        x_sums<PAIR>(mean, nullptr, x, a, warp_sum);
#pragma unroll
        for (int row = 0; row < ROWS_NORM_MAX; row++)
            mean[row] = norm_mean(mean[row], a.p.in);
        warp_sum += ROWS_NORM_MAX;
    }
    x_sums<PAIR>(scale, mean, x, a, warp_sum);
#pragma unroll
    for (int row = 0; row < ROWS_NORM_MAX; row++) {
        if (row >= a.p.rows)
            break;
        float by = norm_scale(scale[row], a.p.in, a.norm_eps);
        for (int i = threadIdx.x; i * 8 < a.p.in; i += ROWS_THREADS) {
            uint4 *piece = x_piece(x, a, row, i);
            *piece = norm_chunk<PAIR>(*piece, mean[row], by, norm_w ? norm_w + 8 * i : nullptr,
                                      a.norm_b ? a.norm_b + 8 * i : nullptr);
        }
    }
}

template <class PAIR>
__device__ inline void x_norm(uint8_t *x, const rows_args &a, float (*warp_sum)[NORM_WARPS])
{
    x_norm<PAIR>(x, a, a.norm_w, warp_sum);
}

#endif
