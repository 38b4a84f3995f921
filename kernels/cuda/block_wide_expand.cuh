/* block_wide_expand.cuh - the small tiles: some warps make 16-bit weights of codes in shared
 * memory, and a warpgroup multiplies them from there.
 *
 * With few rows of x what bounds a product is how soon one wgmma follows another in each chain.  So
 * the warpgroup that multiplies does nothing else, and 8 or 16 warps expand 64 rows of weights, 64
 * columns of a unit each, into a ring of their own: as the copy engine would have brought them, in
 * 128-byte swizzled rows. */
#ifndef KERNELS_CUDA_BLOCK_WIDE_EXPAND_CUH
#define KERNELS_CUDA_BLOCK_WIDE_EXPAND_CUH

#include "kernels/cuda/block_wide_ring.cuh"
#include "kernels/cuda/ptx_wgmma.cuh"

enum {
    BLOCK_WEIGHTS_ROWS = 64,                             /* of a tile: 4 units */
    BLOCK_WEIGHTS_HALF_BYTES = BLOCK_WEIGHTS_ROWS * 128, /* 64 columns */
    BLOCK_WEIGHTS_BYTES = 2 * BLOCK_WEIGHTS_HALF_BYTES,  /* of a stage */
    BLOCK_WEIGHTS_PIECES = 8, /* of a stage: a unit's 64 columns, a warp each */
};

/* A warp that expands; `codes`: of x's ring, `weights`: what it fills. */
template <class T, int FORMAT> struct block_wide_expander {
    const block_wide_args &a;
    block_wide_ring codes, weights;
    int lane, half;
    uint32_t tile_at, to; /* in a stage; in its weights, this lane's row of stmatrix */

    /* Rows of gate and up lie 8 by 8 in turn, so that a lane of wgmma has both of a column. */
    __device__ __forceinline__ block_wide_expander(const block_wide_args &of,
                                                   const block_wide_ring &c,
                                                   const block_wide_ring &w, uint32_t x_bytes,
                                                   int piece, int in_warp)
        : a(of), codes(c), weights(w), lane(in_warp), half(piece % 2)
    {
        const int unit = piece / 2, m = lane / 8; /* of the four matrices of a fragment */
        const int row =
            a.p.w_up ? unit % 2 * 32 + m % 2 * 16 + unit / 2 * 8 : unit * 16 + m % 2 * 8;
        tile_at = x_bytes +
                  (a.p.w_up ? unit / 2 * a.up_at + unit % 2 * a.tile_bytes : unit * a.tile_bytes);
        to = half * BLOCK_WEIGHTS_HALF_BYTES + (row + lane % 8) * 128 + ((m / 2 ^ lane % 8) << 4);
    }

    __device__ __forceinline__ void stage()
    {
        const uint32_t tile = codes.here() + tile_at, base = weights.here() + to;
        block_supers<FORMAT> supers;
        block_quarter<T, FORMAT> quarter[2];
        supers.load(tile, lane);
#pragma unroll
        for (int q = 0; q < 2; q++)
            quarter[q].load(tile, 2 * half + q, lane);
        weights.wait_empty();
#pragma unroll
        for (int q = 0; q < 2; q++) {
            const block_rows rows = quarter[q].rows(supers);
#pragma unroll
            for (int s = 0; s < 2; s++) {
                uint32_t f[4];
                quarter[q].fragment(f, rows, q, s);
                stmatrix_4(base ^ ((2 * q + s) * 32), f[0], f[1], f[2], f[3]);
            }
        }
        fence_proxy_async();
        __syncwarp();
        if (lane == 0)
            mbarrier_arrive(weights.full + 8 * weights.at);
    }

    /* Stages `first`, first + by, ... of n. */
    __device__ __forceinline__ void run(int first, int by, int n)
    {
        codes.next(first);
        weights.next(first);
#pragma unroll 1
        for (int i = first; i < n; i += by, codes.next(by), weights.next(by)) {
            codes.wait_full();
            stage();
        }
    }
};

/* The warpgroup that multiplies: 64 rows of the weights by N of x. */
template <class T, int N> struct block_wide_products {
    static const uint32_t X_BYTES = N * 128; /* of half a stage */
    const block_wide_args &a;
    block_wide_ring codes, weights;
    int lane;
    float sum[1][N / 2];

    __device__ __forceinline__ block_wide_products(const block_wide_args &of,
                                                   const block_wide_ring &c,
                                                   const block_wide_ring &w, int in_warp)
        : a(of), codes(c), weights(w), lane(in_warp)
    {
    }

    __device__ __forceinline__ void release(int code, int weight)
    {
        if (lane == 0) {
            mbarrier_arrive(codes.empty + 8 * code);
            mbarrier_arrive(weights.empty + 8 * weight);
        }
    }

    __device__ __forceinline__ void run()
    {
        int code = -1, weight = -1; /* places that may still be read */
#pragma unroll
        for (int i = 0; i < N / 2; i++)
            sum[0][i] = 0;
#pragma unroll 1
        for (int k = 0; k < a.n_k; k++) {
            codes.wait_full();
            weights.wait_full();
            const uint64_t x = matrix_descriptor(codes.here(), 16, 1024);
            const uint64_t w = matrix_descriptor(weights.here(), 16, 1024);
            registers_pin(sum[0]);
            wgmma_fence();
#pragma unroll
            for (int s = 0; s < TILE_STEPS; s++)
                wgmma_shared(T(), sum[0], w + s / 4 * (BLOCK_WEIGHTS_HALF_BYTES / 16) + s % 4 * 2,
                             x + s / 4 * (X_BYTES / 16) + s % 4 * 2, 1);
            wgmma_commit();
            wgmma_wait<1>();
            if (code >= 0)
                release(code, weight);
            code = codes.at;
            weight = weights.at;
            codes.next();
            weights.next();
        }
        wgmma_wait<0>();
        registers_pin(sum[0]);
        release(code, weight);
    }
};

#endif
