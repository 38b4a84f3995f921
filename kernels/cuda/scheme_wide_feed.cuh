/* scheme_wide_feed.cuh - a block's tiles of a wide product of quantized weights, and those of its
 * last warpgroup, which multiply nothing: a thread that fetches, those that carry y, and a warp
 * that brings near what is added. */
#ifndef KERNELS_CUDA_SCHEME_WIDE_FEED_CUH
#define KERNELS_CUDA_SCHEME_WIDE_FEED_CUH

#include "kernels/cuda/ptx_cluster.cuh"
#include "kernels/cuda/scheme_wide_args.cuh"
#include "kernels/cuda/scheme_wide_end.cuh"

namespace
{

enum {
    BOX = 64, /* columns of x in one copy: 128 bytes */
    STAGES_MAX = 8,
    GROUP_ROWS = 8, /* tiles of rows that run side by side, so that x and w stay in cache */
};

struct place {     /* of a tile, or half of one */
    int row, unit; /* first row of x; first unit of each weight */
};

/* Of the i-th: two of PASS_ROWS each, or one. */
template <class TILE> __device__ __forceinline__ int passes_at(const wide_args &a, int i)
{
    return TILE::PASSES == 2 && i >= a.whole ? 1 : TILE::PASSES;
}

/* GROUP_ROWS tiles of rows, all their columns, then the next; the last ones' halves side by side.
 */
template <class TILE> __device__ place place_at(const wide_args &a, int i)
{
    const int units = a.p.w_up ? TILE::UNITS / 2 : TILE::UNITS; /* of one weight */
    const int half = TILE::PASSES == 2 ? max(i - a.whole, 0) : 0;
    const int tile = i - (half + 1) / 2;
    const int in_groups = GROUP_ROWS * a.col_tiles;
    const int first = tile / in_groups * GROUP_ROWS, rest = tile % in_groups;
    const int height = min(a.row_tiles - first, GROUP_ROWS);
    const int row = (first + rest % height) * TILE::N + half % 2 * TILE::PASS_ROWS;
    return {row, rest / height * units};
}

/* Rows of x from `row` on that a pass has: all of its own, those there are, or none.  A copy fills
 * a row that is not there in the time of two or three that are. */
template <class TILE> __device__ __forceinline__ int pass_rows(const wide_args &a, int row)
{
    const int left = a.p.rows - row;
    return left >= TILE::PASS_ROWS ? TILE::PASS_ROWS : left > 0 ? a.last_rows : 0;
}

/* ---- the thread that fetches ---- */

struct wide_maps {
    CUtensorMap x, x_last, w, w_up, y, add;
};

/* Few copies, and large: a copy from memory costs its thread about 100 cycles whatever its size. */
template <class TILE> struct feeder {
    static const int X_BYTES = TILE::PASS_ROWS * BOX * 2; /* of half a stage's */
    const wide_maps &maps;
    const wide_args &a;
    wide_ring r;
    int more; /* passes of the tile in hand after its first: 0 or 1 */

    __device__ __forceinline__ int first_row(const place &t, int j) const
    {
        return t.row + (j & more) * TILE::PASS_ROWS;
    }

    /* Of stage j of a tile: a pass of 128 columns, the first of them with the codes. */
    __device__ __forceinline__ void codes(const wide_ring &at, const place &t, int j)
    {
        const uint32_t bar = at.full + 8 * at.stage, to = at.at() + 2 * X_BYTES;
        const int k = j >> more;
        const int x_bytes = 2 * BOX * 2 * pass_rows<TILE>(a, first_row(t, j));
        if (j & more) {
            mbarrier_arrive_expect(bar, x_bytes);
            return;
        }
        mbarrier_arrive_expect(bar, TILE::UNITS * a.codes.tile_bytes + x_bytes);
        tensor_copy_4d(to, &maps.w, bar, 0, 0, k, t.unit);
        if (a.p.w_up)
            tensor_copy_4d(to + TILE::UNITS / 2 * a.codes.tile_bytes + a.codes.up_pad, &maps.w_up,
                           bar, 0, 0, k, t.unit);
    }

    __device__ __forceinline__ void rows(const place &t, int j)
    {
        const int k = j >> more, row = first_row(t, j), n = pass_rows<TILE>(a, row);
        const CUtensorMap *x = n == TILE::PASS_ROWS ? &maps.x : &maps.x_last;
        if (n == 0)
            return;
#pragma unroll
        for (int half = 0; half < 2; half++)
            tensor_copy_2d(r.at() + half * X_BYTES, x, r.full + 8 * r.stage, (2 * k + half) * BOX,
                           row);
    }

    /* Weights do not wait for the kernel before this one: the first stages' are on their way when x
     * is. */
    __device__ void run()
    {
        for (int i = blockIdx.x; i < a.n_places; i += gridDim.x) {
            const place t = place_at<TILE>(a, i);
            more = passes_at<TILE>(a, i) - 1;
            const int all = a.n_k << more;
            int j = 0;
            if (i == (int)blockIdx.x) {
                wide_ring ahead = r;
                const int n = min(a.stages, all);
#pragma unroll 1
                for (int first = 0; first < n; first++, ahead.next())
                    codes(ahead, t, first);
                depend_wait();
#pragma unroll 1
                for (; j < n; j++, r.next())
                    rows(t, j);
            }
#pragma unroll 1
            for (; j < all; j++, r.next()) {
                mbarrier_wait(r.empty + 8 * r.stage, r.parity ^ 1);
                codes(r, t, j);
                rows(t, j);
            }
        }
    }
};

/* ---- beside it: those that carry y, and one that brings near ---- */

template <class TILE>
struct block_tiles { /* of this block, from before its first; with rows of y */
    const wide_args &a;
    int i, row, col; /* first of y */

    __device__ bool next()
    {
        i += gridDim.x;
        if (i >= a.n_places)
            return false;
        const place t = place_at<TILE>(a, i);
        row = t.row;
        col = t.unit * UNIT_ROWS;
        return row < a.p.rows; /* a half, which is a block's last, may have none */
    }
    __device__ int rows() const
    {
        return passes_at<TILE>(a, i) * TILE::PASS_ROWS;
    }
};

template <class TILE> __device__ block_tiles<TILE> tiles_of(const wide_args &a)
{
    return {a, (int)blockIdx.x - (int)gridDim.x, a.p.rows, 0};
}

/* What one warpgroup finishes of y, by one thread. */
template <class PIECES, class TILE>
__device__ void carry(const wide_maps &maps, const wide_args &a, int group, const wide_ring &out)
{
    typedef block_tiles<TILE> tiles;
    depend_wait();
    wide_carrier<PIECES, tiles>{a.p, maps.y, maps.add, group}.run(tiles_of<TILE>(a), out);
}

/* Into the second-level cache: what a block's tiles will have added to them. */
template <class T, class TILE> __device__ void bring_near(const wide_args &a, int lane)
{
    enum { LINE = 64 }; /* values of 128 bytes */
    const T *from = (const T *)(a.p.gate_in_y ? a.p.y : a.p.add);
    if (!from)
        return;
    depend_wait();
    for (block_tiles<TILE> t = tiles_of<TILE>(a); t.next();)
        for (int at = lane; at < t.rows() * TILE::UNITS / 4; at += 32) {
            const int r = t.row + at / (TILE::UNITS / 4), c = t.col + at % (TILE::UNITS / 4) * LINE;
            if (r < a.p.rows && c < a.p.n)
                prefetch_l2(from + (size_t)r * a.p.y_stride + c);
        }
}

} // namespace

#endif
