/* block_wide_ring.cuh - what the warps of a block of the wide product of a block format share: its
 * work, and the ring through which x and codes come.
 *
 * A stage is 128 columns of k: x's in two boxes of 64, then a tile of each unit, gate's before
 * up's. */
#ifndef KERNELS_CUDA_BLOCK_WIDE_RING_CUH
#define KERNELS_CUDA_BLOCK_WIDE_RING_CUH

#include "kernels/cuda/block_expand.cuh"
#include "kernels/cuda/matmul_int.h"
#include "kernels/cuda/ptx_cluster.cuh"

enum {
    BLOCK_WIDE_BOX = 64,       /* columns of x in one copy: 128 bytes */
    BLOCK_WIDE_GROUP_ROWS = 8, /* tiles of rows that run side by side: x and w stay in cache */
    BLOCK_WIDE_STAGES_MAX = 8,
};

struct block_wide_args {
    struct product p;
    uint32_t tile_bytes, up_at; /* up_at: up's tiles, behind gate's, where a copy may write */
    int n_units, n_k;           /* units of each weight; tiles of a unit */
    int row_tiles, col_tiles;   /* of y */
    int last_rows;              /* of x in the last tile of rows; a multiple of 8 */
    int stages, stage_bytes;
};

struct block_wide_maps {
    CUtensorMap x, x_last, w, w_up;
};

struct block_wide_place {
    int row, unit; /* first row of x; first unit of each weight */
};

/* Of a tile of `units` units by n rows: BLOCK_WIDE_GROUP_ROWS tiles of rows, all their columns,
 * then the next. */
__device__ __forceinline__ block_wide_place block_wide_place_at(const block_wide_args &a, int i,
                                                                int units, int n)
{
    const int in_groups = BLOCK_WIDE_GROUP_ROWS * a.col_tiles;
    const int first = i / in_groups * BLOCK_WIDE_GROUP_ROWS, rest = i % in_groups;
    const int height = min(a.row_tiles - first, (int)BLOCK_WIDE_GROUP_ROWS);
    return {(first + rest % height) * n, rest / height * (a.p.w_up ? units / 2 : units)};
}

/* Places of a ring in turn. */
struct block_wide_ring {
    uint32_t base, full, empty; /* barriers [n] */
    uint32_t bytes;             /* of a place */
    int n, at, parity;

    __device__ __forceinline__ void next(int by = 1)
    {
        at += by;
        if (at >= n) {
            at -= n;
            parity ^= 1;
        }
    }
    __device__ __forceinline__ uint32_t here() const
    {
        return base + at * bytes;
    }
    __device__ __forceinline__ void wait_full() const
    {
        mbarrier_wait(full + 8 * at, parity);
    }
    __device__ __forceinline__ void wait_empty() const
    {
        mbarrier_wait(empty + 8 * at, parity ^ 1);
    }
};

/* The thread that fetches.  Few copies, and large: a copy from memory costs its thread about 100
 * cycles whatever its size. */
template <int UNITS, int N> struct block_wide_feeder {
    static const int X_BYTES = N * BLOCK_WIDE_BOX * 2; /* of half a stage */
    const block_wide_maps &maps;
    const block_wide_args &a;
    block_wide_ring r;

    /* All of a tile's rows, or those there are of the last: a copy fills a row that is not there in
     * the time of two or three that are. */
    __device__ __forceinline__ int n_rows(const block_wide_place &t) const
    {
        return t.row + N <= a.p.rows ? N : a.last_rows;
    }

    __device__ __forceinline__ void codes(const block_wide_ring &to, const block_wide_place &t,
                                          int k)
    {
        const uint32_t bar = to.full + 8 * to.at, at = to.here() + 2 * X_BYTES;
        mbarrier_arrive_expect(bar, UNITS * a.tile_bytes + 2 * BLOCK_WIDE_BOX * 2 * n_rows(t));
        tensor_copy_4d(at, &maps.w, bar, 0, 0, k, t.unit);
        if (a.p.w_up)
            tensor_copy_4d(at + a.up_at, &maps.w_up, bar, 0, 0, k, t.unit);
    }

    __device__ __forceinline__ void rows(const block_wide_place &t, int k)
    {
        const CUtensorMap *x = n_rows(t) == N ? &maps.x : &maps.x_last;
#pragma unroll
        for (int half = 0; half < 2; half++)
            tensor_copy_2d(r.here() + half * X_BYTES, x, r.full + 8 * r.at,
                           (2 * k + half) * BLOCK_WIDE_BOX, t.row);
    }

    /* Weights do not wait for the kernel before this one: the first stages' are on their way when x
     * is. */
    __device__ void run()
    {
        for (int i = blockIdx.x; i < a.row_tiles * a.col_tiles; i += gridDim.x) {
            const block_wide_place t = block_wide_place_at(a, i, UNITS, N);
            int k = 0;
            if (i == (int)blockIdx.x) {
                block_wide_ring ahead = r;
                const int n = min(a.stages, a.n_k);
#pragma unroll 1
                for (int j = 0; j < n; j++, ahead.next())
                    codes(ahead, t, j);
                depend_wait();
#pragma unroll 1
                for (; k < n; k++, r.next())
                    rows(t, k);
            }
#pragma unroll 1
            for (; k < a.n_k; k++, r.next()) {
                r.wait_empty();
                codes(r, t, k);
                rows(t, k);
            }
        }
    }
};

#endif
