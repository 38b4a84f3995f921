/* block_store.cuh - from sums of wgmma to y, where gate and up lie 8 rows by 8 in turn. */
#ifndef KERNELS_CUDA_BLOCK_STORE_CUH
#define KERNELS_CUDA_BLOCK_STORE_CUH

#include "kernels/cuda/scheme_wide_store.cuh"

/* As wide_store, where a warp's rows of wgmma are 8 of gate and, g + 8, the same 8 of up: it has 8
 * columns of y. */
template <class T, int N> struct block_store_pairs {
    const struct product &p;
    uint32_t piece;
    int row, lane, col; /* col: first of 8 of y */
    float bias[2][2];   /* of gate and of up; twice, as store_gated takes it */

    __device__ __forceinline__ block_store_pairs(const struct product &of, uint32_t at,
                                                 int first_row, int first_col, int warp,
                                                 int in_warp)
        : p(of), piece(at), row(first_row), lane(in_warp), col(first_col + warp * 8)
    {
        const int mine = min(col + lane / 4, p.n - 1);
        bias[0][0] = bias[0][1] = p.bias ? p.bias[mine] : 0;
        bias[1][0] = bias[1][1] = p.bias_up ? p.bias_up[mine] : 0;
    }

    /* 32 rows at a time: eight values of gate, eight of up. */
    __device__ __forceinline__ void put(int part, const float (&v)[8])
    {
        stmatrix_4_trans(piece + lane * 16, pair_of<T>(v[0], v[1]), pair_of<T>(v[2], v[3]),
                         pair_of<T>(v[4], v[5]), pair_of<T>(v[6], v[7]));
        __syncwarp();
        const uint4 y = load_shared_16(piece + lane * 16);
        const int at = row + part * 32 + lane;
        if (at < p.rows && col < p.n)
            *(uint4 *)((T *)p.y + (size_t)at * p.y_stride + col) = y;
        __syncwarp();
    }

    __device__ __forceinline__ void run(const float (&sum)[1][N / 2])
    {
#pragma unroll
        for (int part = 0; part < N / 32; part++) {
            float gate[8], up[8];
            if (row + part * 32 >= p.rows)
                return;
#pragma unroll
            for (int i = 0; i < 8; i++) {
                gate[i] = sum[0][16 * part + i / 2 * 4 + i % 2];
                up[i] = sum[0][16 * part + i / 2 * 4 + 2 + i % 2];
            }
            store_gated<T>(p, gate, up, bias[0], bias[1]);
            put(part, gate);
        }
    }
};

#endif
