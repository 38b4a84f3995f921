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
#include "kernels/cuda/scheme_wide_tile.cuh"

enum { PIECE_ROWS = 32, PIECE_COLS = 64, PIECE_BYTES = PIECE_ROWS * PIECE_COLS * 2 };

/* Pieces of a tile and warpgroup in their order: blocks side by side, then the next rows. */
template <class TILE, bool GATED> struct wide_pieces {
    static const int N = TILE::N;
    /* Gate's rows are one warpgroup's, up's the other's, which hands them over as pieces. */
    static const bool PAIR = GATED && TILE::BLOCKS == 1;
    static const int OUT = GATED ? 1 : TILE::BLOCKS; /* blocks of y */
    static const int CARRIERS = PAIR ? 1 : TILE::GROUPS;
    /* Of a carrier.  Residuals are a thousand cycles away: four pieces of 256 rows' eight. */
    static const int RING = PAIR ? N / PIECE_ROWS + 1 : N > 128 ? 4 : TILE::BLOCKS + 1;
    static const int BYTES = CARRIERS * RING * PIECE_BYTES;

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
        return piece % OUT * PIECE_COLS * TILE::GROUPS;
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

/* What of a piece goes into y's values. */
enum wide_rest { REST_NONE, REST_ADDED, REST_UP };

template <class T, class TILE, bool GATED> struct wide_end {
    typedef wide_pieces<TILE, GATED> pieces;
    static const int N = TILE::N, BLOCKS = TILE::BLOCKS, OUT = pieces::OUT;
    static const int ROWS = N % 64 ? 32 : 64; /* whose code lies unrolled */
    static const int SUMS = ROWS / 2;         /* of a lane and block, of so many rows */

    const struct product &p;
    wide_ring &ring; /* of pieces: full = given, empty = ready */
    int row, col;    /* of y, the tile's first */
    int warp, lane;  /* warp: of the tile's */

    __device__ __forceinline__ int my_col() const
    {
        return col + (pieces::PAIR ? warp % 4 : warp) * 16;
    }

    __device__ __forceinline__ void add_bias(float (&sum)[N / 2], const float *bias, int b) const
    {
        const int first = my_col() + b * PIECE_COLS * TILE::GROUPS + lane / 4;
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
        const int r = half * 16 + lane / 16 * 8 + lane % 8, chunk = warp % 4 * 2 + lane / 8 % 2;
        return ring.at() + r * 128 + (chunk ^ lane % 8) * 16;
    }

    /* 16 rows of a piece, from 8 sums. */
    template <wide_rest REST> __device__ __forceinline__ void put(int half, const float *sum) const
    {
        float v[8];
        uint32_t r[4];
        if (REST != REST_NONE)
            ldmatrix_x4_trans(r, place(half));
#pragma unroll
        for (int i = 0; i < 8; i++)
            v[i] = REST == REST_UP
                       ? pair_value<T>(pair_of<T>(sum[i / 2 * 2], sum[i / 2 * 2 + 1]), i % 2)
                       : sum[i];
        if (REST == REST_UP)
            silu_eight(v);
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (REST == REST_UP)
                v[i] = __fmul_rn(v[i], pair_value<T>(r[i / 2], i % 2));
            else if (REST == REST_ADDED)
                v[i] = __fadd_rn(v[i], pair_value<T>(r[i / 2], i % 2));
        stmatrix_4_trans(place(half), pair_of<T>(v[0], v[1]), pair_of<T>(v[2], v[3]),
                         pair_of<T>(v[4], v[5]), pair_of<T>(v[6], v[7]));
    }

    template <wide_rest REST>
    __device__ __forceinline__ void put_rows(float (&sum)[BLOCKS][N / 2]) const
    {
#pragma unroll
        for (int q = 0; q < ROWS / PIECE_ROWS; q++)
#pragma unroll
            for (int b = 0; b < OUT; b++) {
                if (row + q * PIECE_ROWS >= p.rows)
                    return;
                mbarrier_wait(ring.full + 8 * ring.stage, ring.parity);
                put<REST>(0, sum[b] + 16 * q);
                put<REST>(1, sum[b] + 16 * q + 8);
                fence_proxy_async();
                __syncwarp();
                if (lane == 0)
                    mbarrier_arrive(ring.empty + 8 * ring.stage);
                ring.next();
            }
    }

    __device__ __forceinline__ void run(float (&sum)[BLOCKS][N / 2])
    {
        const bool is_up = pieces::PAIR && warp >= 4;
        const float *bias = is_up ? p.bias_up : p.bias;
        if (bias)
#pragma unroll
            for (int b = 0; b < OUT; b++)
                add_bias(sum[b], bias, b);
        if (GATED && !pieces::PAIR && p.bias_up)
            add_bias(sum[BLOCKS - 1], p.bias_up, 0);
#pragma unroll 1
        for (int i = 0; i < N / ROWS; i++, row += ROWS) {
            if (GATED && !pieces::PAIR)
                gate(sum[0], sum[BLOCKS - 1]);
            if (pieces::PAIR && !is_up)
                put_rows<REST_UP>(sum);
            else if (!GATED && p.add)
                put_rows<REST_ADDED>(sum);
            else
                put_rows<REST_NONE>(sum);
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
