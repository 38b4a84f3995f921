/* scheme_wide_feed.cuh - those of a block's last warpgroup, which multiply nothing: a thread that
 * fetches, those that carry y, and a warp that brings near what is added.
 *
 * Two blocks of a cluster have the same rows of x at the same time, and the thread of each fetches
 * one half of every stage's for both.  So a stage is filled when both have it empty, which the two
 * threads tell each other (the `agreed` barriers); those that multiply know nothing of it.  A block
 * may end when its own work is done: what the other still sends was waited for. */
#ifndef KERNELS_CUDA_SCHEME_WIDE_FEED_CUH
#define KERNELS_CUDA_SCHEME_WIDE_FEED_CUH

#include "kernels/cuda/ptx_cluster.cuh"
#include "kernels/cuda/scheme_wide_end.cuh"
#include "kernels/cuda/scheme_wide_share.cuh"

namespace
{

enum {
    BOX = 64, /* columns of x in one copy: 128 bytes */
    STAGES_MAX = 8,
};

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
    uint32_t line, agreed;
    wide_ring r;
    int is_reused = 0; /* are stages filled again? */

    __device__ __forceinline__ int first_row(const place<TILE> &t, unsigned j) const
    {
        return t.row + j % TILE::PASSES * TILE::PASS_ROWS;
    }

    /* Of stage j of a tile: a pass of 128 columns, the first of them with the codes. */
    __device__ __forceinline__ void codes(const wide_ring &at, const place<TILE> &t, unsigned j)
    {
        const uint32_t bar = at.full + 8 * at.stage, to = at.at() + 2 * X_BYTES;
        const int k = j / TILE::PASSES;
        const int x_bytes = 2 * BOX * 2 * pass_rows<TILE>(a, first_row(t, j));
        if (j % TILE::PASSES != 0) {
            mbarrier_arrive_expect(bar, x_bytes);
            return;
        }
        mbarrier_arrive_expect(bar, TILE::UNITS * a.codes.tile_bytes + x_bytes);
        tensor_copy_4d(to, &maps.w, bar, 0, 0, k, t.unit);
        if (a.p.w_up)
            tensor_copy_4d(to + TILE::UNITS / 2 * a.codes.tile_bytes + a.codes.up_pad, &maps.w_up,
                           bar, 0, 0, k, t.unit);
    }

    __device__ __forceinline__ void rows(const place<TILE> &t, unsigned j)
    {
        const int k = j / TILE::PASSES, row = first_row(t, j), n = pass_rows<TILE>(a, row);
        const CUtensorMap *x = n == TILE::PASS_ROWS ? &maps.x : &maps.x_last;
        if (n == 0)
            return;
        if (a.plan.cluster == 2) {
            const int rank = rank_of(a);
            tensor_copy_2d_to_all(r.at() + rank * X_BYTES, x, r.full + 8 * r.stage, 3,
                                  (2 * k + rank) * BOX, row);
            return;
        }
#pragma unroll
        for (int half = 0; half < 2; half++)
            tensor_copy_2d(r.at() + half * X_BYTES, x, r.full + 8 * r.stage, (2 * k + half) * BOX,
                           row);
    }

    /* The stage in hand is empty here, and when this returns in the other block of a cluster too:
     * each brings one half of x for both. */
    __device__ __forceinline__ void agree()
    {
        is_reused |= r.parity;
        if (a.plan.cluster == 1 || !is_reused)
            return;
        mbarrier_arrive_at(agreed + 8 * r.stage, rank_of(a) ^ 1);
        mbarrier_wait(agreed + 8 * r.stage, r.parity ^ 1);
    }

    /* Weights do not wait for the kernel before this one: the first stages' are on their way when x
     * is. */
    __device__ void run()
    {
        for (int i = 0;; i++) {
            const scheme_wide_part part = part_of(line, a, i);
            if (part.first == part.end)
                return;
            const place<TILE> t(a, part.tile);
            const unsigned end = part.end * TILE::PASSES;
            unsigned j = part.first * TILE::PASSES;
            if (i == 0) {
                wide_ring ahead = r;
                const unsigned n = min(j + a.stages, end);
#pragma unroll 1
                for (unsigned early = j; early < n; early++, ahead.next())
                    codes(ahead, t, early);
                depend_wait();
                if (a.plan.cluster == 2)
                    cluster_wait(); /* the other's barriers are there */
#pragma unroll 1
                for (; j < n; j++, r.next())
                    rows(t, j);
            }
#pragma unroll 1
            for (; j < end; j++, r.next()) {
                mbarrier_wait(r.empty + 8 * r.stage, r.parity ^ 1);
                codes(r, t, j);
                agree();
                rows(t, j);
            }
        }
    }
};

/* ---- beside it: those that carry y, and one that brings near ---- */

template <class TILE> struct block_tiles { /* that this block ends, from before its first */
    const wide_args &a;
    uint32_t line;
    int i, row, col; /* row, col: first of y */

    __device__ bool next()
    {
        for (;;) {
            const scheme_wide_part part = part_of(line, a, ++i);
            if (part.first == part.end)
                return false;
            if (part.end < a.n_k)
                continue;
            const place<TILE> t(a, part.tile);
            row = t.row;
            col = t.unit * UNIT_ROWS;
            return true;
        }
    }
};

template <class TILE> __device__ block_tiles<TILE> tiles_of(const wide_args &a, uint32_t line)
{
    return {a, line, -1, a.p.rows, 0};
}

/* What one warpgroup finishes of y, by one thread. */
template <class PIECES, class TILE>
__device__ void carry(const wide_maps &maps, const wide_args &a, uint32_t line, int group,
                      const wide_ring &out)
{
    typedef block_tiles<TILE> tiles;
    depend_wait();
    wide_carrier<PIECES, tiles>{a.p, maps.y, maps.add, group}.run(tiles_of<TILE>(a, line), out);
}

/* Into the second-level cache: what a block's tiles will have added to them. */
template <class T, class TILE>
__device__ void bring_near(const wide_args &a, uint32_t line, int lane)
{
    enum { LINE = 64 }; /* values of 128 bytes */
    const T *from = (const T *)(a.p.gate_in_y ? a.p.y : a.p.add);
    if (!from)
        return;
    depend_wait();
    for (block_tiles<TILE> t = tiles_of<TILE>(a, line); t.next();)
        for (int at = lane; at < TILE::N * TILE::UNITS / 4; at += 32) {
            const int r = t.row + at / (TILE::UNITS / 4), c = t.col + at % (TILE::UNITS / 4) * LINE;
            if (r < a.p.rows && c < a.p.n)
                prefetch_l2(from + (size_t)r * a.p.y_stride + c);
        }
}

} // namespace

#endif
