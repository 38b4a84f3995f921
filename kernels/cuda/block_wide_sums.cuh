/* block_wide_sums.cuh - the large tiles: a warpgroup makes fragments in registers and multiplies
 * them by x in shared memory.
 *
 * A warpgroup has BLOCKS times 64 rows of the weights, by N rows of x.  Fragments of four steps are
 * in registers: two are made ahead of the wgmma that runs, and the one before it may still run. */
#ifndef KERNELS_CUDA_BLOCK_WIDE_SUMS_CUH
#define KERNELS_CUDA_BLOCK_WIDE_SUMS_CUH

#include "kernels/cuda/block_wide_ring.cuh"
#include "kernels/cuda/ptx_wgmma.cuh"

template <class T, int FORMAT, int N, int BLOCKS> struct block_wide_sums {
    static const int DEPTH = 4;               /* fragments in registers */
    static const int AHEAD = 2;               /* of them, made before their turn */
    static const int RUNNING = DEPTH - AHEAD; /* wgmma that may still run */
    static const uint32_t X_BYTES = N * 128;  /* of half a stage */

    const block_wide_args &a;
    block_wide_ring ring;
    int lane;
    uint32_t my_tile; /* of block 0, in a stage */
    float sum[BLOCKS][N / 2];
    uint32_t fragment[DEPTH][4];
    block_quarter<T, FORMAT> quarter;
    block_supers<FORMAT> supers;
    block_rows rows;

    __device__ __forceinline__ block_wide_sums(const block_wide_args &of, const block_wide_ring &r,
                                               int warp, int in_warp)
        : a(of), ring(r), lane(in_warp)
    {
        my_tile = 2 * X_BYTES + warp * a.tile_bytes;
    }

    /* What step s of block b of the stage in hand needs that earlier ones did not. */
    __device__ __forceinline__ void load(int b, int s)
    {
        const uint32_t tile = ring.here() + my_tile + b * 8 * a.tile_bytes;
        if (s == 0)
            supers.load(tile, lane);
        if (s % 2 == 0) {
            quarter.load(tile, s / 2, lane);
            rows = quarter.rows(supers);
        }
    }

    __device__ __forceinline__ void expand(int s)
    {
        quarter.fragment(fragment[s % DEPTH], rows, s / 2, s % 2);
    }

    __device__ __forceinline__ void multiply(float (&to)[N / 2], uint32_t stage, int s)
    {
        const uint64_t x = matrix_descriptor(stage + s / 4 * X_BYTES, 16, 1024) + s % 4 * 2;
        registers_pin(fragment[s % DEPTH]);
        registers_pin(to);
        wgmma_fence();
        wgmma_rows(T(), to, fragment[s % DEPTH], x, 1);
        wgmma_commit();
    }

    __device__ __forceinline__ void release(int place)
    {
        if (lane == 0)
            mbarrier_arrive(ring.empty + 8 * place);
    }

    /* Makes the fragment AHEAD steps after step s of block b, of the next stage if there is one. */
    __device__ __forceinline__ void prepare(int b, int s, bool is_last)
    {
        const int then = (s + AHEAD) % TILE_STEPS, block = b + (s + AHEAD) / TILE_STEPS;
        if (block == BLOCKS && is_last)
            return;
        if (block == BLOCKS && then == 0) {
            ring.next();
            ring.wait_full();
        }
        load(block % BLOCKS, then);
        expand(then);
        registers_pin(fragment[then % DEPTH]); /* now, and not after the next wait */
    }

    /* The stage in hand, whose first AHEAD fragments are made; `before` is the place of the one
     * that may still be read. */
    __device__ __forceinline__ void stage(bool is_last, int before)
    {
        const uint32_t at = ring.here();
#pragma unroll
        for (int b = 0; b < BLOCKS; b++)
#pragma unroll
            for (int s = 0; s < TILE_STEPS; s++) {
                multiply(sum[b], at, s);
                wgmma_wait<RUNNING>();
                registers_pin(fragment[(s + AHEAD) % DEPTH]);
                if (b == 0 && s == RUNNING - 1 && before >= 0)
                    release(before);
                prepare(b, s, is_last);
            }
    }

    /* sum = the tile's sums. */
    __device__ __forceinline__ void run()
    {
#pragma unroll
        for (int i = 0; i < N / 2; i++)
#pragma unroll
            for (int b = 0; b < BLOCKS; b++)
                sum[b][i] = 0;
#pragma unroll
        for (int i = 0; i < 4 * RUNNING; i++)
            fragment[AHEAD + i / 4][i % 4] = 0;
        ring.wait_full();
#pragma unroll
        for (int s = 0; s < AHEAD; s++) {
            load(0, s);
            expand(s);
        }
        int before = -1;
#pragma unroll 1
        for (int k = 0; k < a.n_k; k++) {
            const int mine = ring.at;
            stage(k + 1 == a.n_k, before);
            before = mine;
        }
        wgmma_wait<0>();
#pragma unroll
        for (int b = 0; b < BLOCKS; b++)
            registers_pin(sum[b]);
        release(before);
        ring.next();
    }
};

#endif
