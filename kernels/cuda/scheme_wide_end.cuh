/* scheme_wide_end.cuh - the common ends of a tile whose sums are of wgmma with weights as rows:
 * bias and residual, or SiLU of one half times the other.
 *
 * y leaves, and what is added to it comes, by the copy engine, in pieces of 32 rows by the 64
 * columns of a warpgroup, while the warpgroup is at other pieces or at its next tile.  A thread
 * beside those that multiply, the carrier, gives a piece of shared memory to a warpgroup, with the
 * residual in it where there is one; its warps finish their 16 columns of it, where they lie, and
 * the carrier takes it away:
 *
 *     given   the carrier, or the copy engine -> four warps     mbarrier of one arrival (and bytes)
 *     ready   four warps -> the carrier                         mbarrier of four
 *
 * Without it, values 16 columns a row at a time straight from and to memory, a tile's end took 5000
 * cycles, with a residual 10 000, whose products take 79 000 (256 by 128, k 4096). */
#ifndef KERNELS_CUDA_SCHEME_WIDE_END_CUH
#define KERNELS_CUDA_SCHEME_WIDE_END_CUH

#include "kernels/cuda/ptx_cluster.cuh"
#include "kernels/cuda/scheme_wide_store.cuh"
#include "kernels/cuda/scheme_wide_sums.cuh"

enum { PIECE_ROWS = 32, PIECE_COLS = 64, PIECE_BYTES = PIECE_ROWS * PIECE_COLS * 2 };

/* Pieces of a tile and warpgroup in their order: blocks side by side, then the next rows. */
template <int N, int BLOCKS, bool GATED> struct wide_pieces {
    static const int OUT = GATED ? 1 : BLOCKS; /* blocks of y */
    static const int RING = BLOCKS + 1;        /* in shared memory, a warpgroup */
    static const int BYTES = 2 * RING * PIECE_BYTES;

    __device__ static int count(int rows_left)
    {
        return (min(rows_left, N) + PIECE_ROWS - 1) / PIECE_ROWS * OUT;
    }
    __device__ static int row(int piece)
    {
        return piece / OUT * PIECE_ROWS;
    }
    __device__ static int col(int piece)
    {
        return piece % OUT * 128;
    }
};

/* x / y rounded to nearest, where neither is very small or large: what the compiler makes of a
 * division, without the question and the branch that keep others from running beside it. */
__device__ __forceinline__ float quotient(float x, float y)
{
    float r = reciprocal_near(y);
    r = __fmaf_rn(r, __fmaf_rn(-y, r, 1), r);
    const float q = __fmul_rn(x, r);
    return __fmaf_rn(r, __fmaf_rn(-y, q, x), q);
}

/* activate(ACT_SILU, v), of eight, to the bit. */
__device__ __forceinline__ void silu_eight(float (&v)[8])
{
    float y[8];
    bool plain = true;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        y[i] = 1 + __expf(-v[i]);
        plain = plain && fabsf(v[i]) > 0x1p-60f && y[i] < 0x1p60f;
    }
    if (__all_sync(~0u, plain))
#pragma unroll
        for (int i = 0; i < 8; i++)
            v[i] = quotient(v[i], y[i]);
    else
#pragma unroll
        for (int i = 0; i < 8; i++)
            v[i] = activate(ACT_SILU, v[i]);
}

template <class T, int N, int BLOCKS, bool GATED> struct wide_end {
    static const int ROWS = N < 64 ? N : 64; /* whose code lies unrolled */
    static const int SUMS = ROWS / 2;        /* of a lane and block, of so many rows */
    static const int OUT = wide_pieces<N, BLOCKS, GATED>::OUT;

    const struct product &p;
    wide_ring &ring; /* of pieces: full = given, empty = ready */
    int row, col;    /* of y, the warp's first */
    int warp, lane;  /* warp: of the warpgroup */

    __device__ __forceinline__ void add_bias(float (&sum)[N / 2], const float *bias, int b) const
    {
        const int first = col + b * 128 + lane / 4;
        const float low = bias[min(first, p.n - 1)], high = bias[min(first + 8, p.n - 1)];
#pragma unroll
        for (int i = 0; i < N / 2; i++)
            sum[i] = __fadd_rn(sum[i], i % 4 < 2 ? low : high);
    }

    /* Gate's to y's values, of the rows at hand. */
    __device__ __forceinline__ void gate(float (&sum)[N / 2], const float (&up)[N / 2]) const
    {
#pragma unroll
        for (int first = 0; first < SUMS; first += 8) {
            float v[8];
#pragma unroll
            for (int i = 0; i < 8; i++)
                v[i] = pair_value<T>(pair_of<T>(sum[first + i / 2 * 2], sum[first + i / 2 * 2 + 1]),
                                     i % 2);
            silu_eight(v);
#pragma unroll
            for (int i = 0; i < 8; i++)
                sum[first + i] = __fmul_rn(
                    v[i], pair_value<T>(
                              pair_of<T>(up[first + i / 2 * 2], up[first + i / 2 * 2 + 1]), i % 2));
        }
    }

    /* Where row lane % 8 of matrix lane / 8 lies, of four that are 16 rows by this warp's columns.
     */
    __device__ __forceinline__ uint32_t place(int half) const
    {
        const int r = half * 16 + lane / 16 * 8 + lane % 8, chunk = warp * 2 + lane / 8 % 2;
        return ring.at() + r * 128 + (chunk ^ lane % 8) * 16;
    }

    /* 16 rows of a piece, from 8 sums. */
    __device__ __forceinline__ void put(int half, const float *sum, bool adds) const
    {
        float v[8];
        uint32_t r[4];
        if (adds)
            ldmatrix_x4_trans(r, place(half));
#pragma unroll
        for (int i = 0; i < 8; i++)
            v[i] = adds ? __fadd_rn(sum[i], pair_value<T>(r[i / 2], i % 2)) : sum[i];
        stmatrix_4_trans(place(half), pair_of<T>(v[0], v[1]), pair_of<T>(v[2], v[3]),
                         pair_of<T>(v[4], v[5]), pair_of<T>(v[6], v[7]));
    }

    template <bool ADDS> __device__ __forceinline__ void put_rows(float (&sum)[BLOCKS][N / 2]) const
    {
#pragma unroll
        for (int q = 0; q < ROWS / PIECE_ROWS; q++)
#pragma unroll
            for (int b = 0; b < OUT; b++) {
                if (row + q * PIECE_ROWS >= p.rows)
                    return;
                mbarrier_wait(ring.full + 8 * ring.stage, ring.parity);
                put(0, sum[b] + 16 * q, ADDS);
                put(1, sum[b] + 16 * q + 8, ADDS);
                fence_proxy_async();
                __syncwarp();
                if (lane == 0)
                    mbarrier_arrive(ring.empty + 8 * ring.stage);
                ring.next();
            }
    }

    __device__ __forceinline__ void run(float (&sum)[BLOCKS][N / 2])
    {
        if (p.bias)
#pragma unroll
            for (int b = 0; b < OUT; b++)
                add_bias(sum[b], p.bias, b);
        if (GATED && p.bias_up)
            add_bias(sum[BLOCKS - 1], p.bias_up, 0);
#pragma unroll 1
        for (int i = 0; i < N / ROWS; i++, row += ROWS) {
            if (GATED)
                gate(sum[0], sum[BLOCKS - 1]);
            if (!GATED && p.add)
                put_rows<true>(sum);
            else
                put_rows<false>(sum);
#pragma unroll
            for (int b = 0; b < BLOCKS; b++)
#pragma unroll
                for (int j = 0; j + SUMS < N / 2; j++) /* registers have no index */
                    sum[b][j] = sum[b][j + SUMS];
        }
    }
};

/* The carrier of one warpgroup.  TILES: `bool next()` goes to the block's next tile, `row` and
 * `col` are its first; before the first, row is all rows. */
template <class PIECES, class TILES> struct wide_carrier {
    const struct product &p;
    const CUtensorMap &y, &add;
    int col; /* the warpgroup's first in a tile */

    struct walk { /* over the pieces of all tiles */
        TILES tile;
        wide_ring ring;
        int piece;

        __device__ bool next(int rows)
        {
            if (++piece < PIECES::count(rows - tile.row))
                return true;
            piece = 0;
            return tile.next();
        }
    };

    __device__ void give(walk &w) const
    {
        const uint32_t bar = w.ring.full + 8 * w.ring.stage;
        if (p.add) {
            mbarrier_arrive_expect(bar, PIECE_BYTES);
            tensor_copy_2d(w.ring.at(), &add, bar, w.tile.col + col + PIECES::col(w.piece),
                           w.tile.row + PIECES::row(w.piece));
        } else {
            mbarrier_arrive(bar);
        }
        w.ring.next();
    }

    __device__ void take(walk &w) const
    {
        mbarrier_wait(w.ring.empty + 8 * w.ring.stage, w.ring.parity);
        tensor_store_2d(&y, w.ring.at(), w.tile.col + col + PIECES::col(w.piece),
                        w.tile.row + PIECES::row(w.piece));
        store_commit();
        w.ring.next();
    }

    /* A piece is given again when the one after it is on its way out. */
    __device__ void run(const TILES &tiles, const wide_ring &ring) const
    {
        walk given = {tiles, ring, 0}, taken = given;
        bool more = true;
        for (int i = 0; i < PIECES::RING && more; i++)
            if ((more = given.next(p.rows)))
                give(given);
        for (bool first = true; taken.next(p.rows); first = false) {
            take(taken);
            if (first)
                continue;
            store_wait_read_but_one();
            if (more && (more = given.next(p.rows)))
                give(given);
        }
        store_wait();
    }
};

#endif
