/* scheme_wide_share.cuh - a block's parts of a wide product of quantized weights: tiles that it has
 * alone, and those that it shares with the blocks beside it.
 *
 * Where tiles are no multiple of blocks, the last wave would leave some without work; so the last
 * tiles are shared, one to two for each block (Stream-K: Osama et al., 2023, arXiv 2301.03598;
 * scheme_wide_plan.h).  There sums of a tile's parts are added; here the next block begins with
 * the sums of the one before, so that bits do not depend on who has which.  For that a block takes
 * what it has of the line from the last tile to the first: what the next block waits for is done
 * first, and what it waits for itself last.  It has no less than a tile, so at equal speed nobody
 * waits, and no tile has three blocks.
 *
 * A block waits only for one of a lower number, which gives before it waits itself; blocks start in
 * the order of their numbers, and on a GPU of its own a grid that is no larger than its SMs runs
 * all at once.
 *
 * Two blocks of a cluster have the same columns of the line, and tiles side by side: all this is
 * said of each of them and of the block of its rank in the clusters before and behind. */
#ifndef KERNELS_CUDA_SCHEME_WIDE_SHARE_CUH
#define KERNELS_CUDA_SCHEME_WIDE_SHARE_CUH

#include "kernels/cuda/scheme_wide_args.cuh"

namespace
{

__device__ __forceinline__ int worker_of(const wide_args &a)
{
    return a.plan.cluster == 2 ? blockIdx.x / 2 : blockIdx.x;
}

/* In its cluster, of at most two along x of the grid. */
__device__ __forceinline__ int rank_of(const wide_args &a)
{
    return a.plan.cluster == 2 ? blockIdx.x % 2 : 0;
}

/* The i-th part of the line that this block has, to shared memory: once, as it takes divisions. */
__device__ __forceinline__ void share_line(uint32_t line, const wide_args &a, int i)
{
    const scheme_wide_part of = scheme_wide_line_part(&a.plan, a.n_k, worker_of(a), i);
    store_shared_16(line + i * (int)sizeof(uint4), make_uint4(of.tile, of.first, of.end, 0));
}

/* The i-th of this block. */
__device__ __forceinline__ scheme_wide_part part_of(uint32_t line, const wide_args &a, int i)
{
    const int tile = i * a.plan.workers + worker_of(a);
    if (tile < a.plan.whole)
        return {tile, 0, a.n_k};
    const uint4 of = load_shared_16(line + (i - a.waves) * (int)sizeof(uint4));
    return {(int)of.x, (int)of.y, (int)of.z};
}

template <class TILE> struct place { /* first row of x; first unit of each weight */
    int row, unit;

    __device__ __forceinline__ place(const wide_args &a, int tile)
    {
        const int in_groups = SCHEME_WIDE_GROUP * a.col_tiles;
        const int first = tile / in_groups * SCHEME_WIDE_GROUP, rest = tile % in_groups;
        const int height = min(a.row_tiles - first, SCHEME_WIDE_GROUP);
        row = (first + rest % height) * TILE::N;
        const int col = rest / height * a.plan.cluster + rank_of(a);
        unit = col * (a.p.w_up ? TILE::UNITS / 2 : TILE::UNITS); /* of one weight */
    }
};

/* ---- sums from one block to the next ---- */

/* Values that a thread moves at once.  More than one must lie in registers side by side, for which
 * the loop of a single pass takes 40 more of them, and up to 10 % longer. */
template <class TILE> struct handed {
    static const int VALUES = TILE::PASSES == 2 ? 4 : 1;
    struct alignas(4 * VALUES) type {
        float v[VALUES];
    };
};

/* Where a thread's sums of the tile lie that `block` begins and the next one ends. */
template <class TILE>
__device__ __forceinline__ typename handed<TILE>::type *shared_sums(const wide_args &a, int block,
                                                                    int warp, int lane)
{
    typedef typename handed<TILE>::type type;
    const uint32_t sums = TILE::MATHS * TILE::BLOCKS * TILE::N / 2;
    return (type *)a.shared_sums +
           (block * sums / handed<TILE>::VALUES + warp * 32 + computed_again(lane));
}

template <class TILE>
__device__ __forceinline__ void give_sums(const float (&sum)[TILE::BLOCKS][TILE::N / 2],
                                          const wide_args &a, int warp, int lane)
{
    const int VALUES = handed<TILE>::VALUES;
    auto *to = shared_sums<TILE>(a, blockIdx.x, warp, lane);
#pragma unroll
    for (int b = 0; b < TILE::BLOCKS; b++)
#pragma unroll
        for (int i = 0; i < TILE::N / 2; i += VALUES, to += TILE::MATHS) {
            typename handed<TILE>::type v;
#pragma unroll
            for (int j = 0; j < VALUES; j++)
                v.v[j] = sum[b][i + j];
            *to = v;
        }
    __syncwarp();
    if (lane == 0)
        store_release(a.shared_given + blockIdx.x * TILE::WARPS + warp, 1);
}

/* sum = 0 where a tile begins, or what the block before gave. */
template <class TILE>
__device__ __forceinline__ void begin_sums(float (&sum)[TILE::BLOCKS][TILE::N / 2],
                                           const wide_args &a, bool begins_tile, int warp, int lane)
{
    const int VALUES = handed<TILE>::VALUES, from_block = (int)blockIdx.x - a.plan.cluster;
    const auto *from = shared_sums<TILE>(a, from_block, warp, lane);
    if (!begins_tile) {
        int32_t *given = a.shared_given + from_block * TILE::WARPS + warp;
        while (load_acquire(given) == 0) {
        }
        __syncwarp();
        if (lane == 0)
            *given = 0;
    }
#pragma unroll
    for (int b = 0; b < TILE::BLOCKS; b++)
#pragma unroll
        for (int i = 0; i < TILE::N / 2; i += VALUES, from += TILE::MATHS) {
            typename handed<TILE>::type v = {};
            if (!begins_tile)
                v = *from;
#pragma unroll
            for (int j = 0; j < VALUES; j++)
                sum[b][i + j] = v.v[j];
        }
}

} // namespace

#endif
