/* scheme_wide_end.cuh - the common ends of a tile whose sums are of wgmma with weights as rows:
 * bias and residual, or SiLU of one half times the other.
 *
 * y leaves, and what is added to it comes, by the copy engine, in pieces of 32 rows (of 16 where
 * a tile's, or gated half of them, are no multiple of 32) by the 64 columns of a warpgroup, while
 * the warpgroup is at other pieces or at its next tile.  A thread beside those that multiply, the
 * carrier, gives a piece of shared memory to a warpgroup, with the residual in it where there is
 * one; its warps finish their 16 columns of it, where they lie, and the carrier takes it away:
 *
 *     given   the carrier, or the copy engine -> four warps     mbarrier of one arrival (and bytes)
 *     ready   four warps -> the carrier                         mbarrier of four
 *
 * Gated, gate's rows are one warpgroup's and up's the other's, and each finishes half of the tile's
 * pieces, the first one more if they are odd: it hands its sums of the others over, in the pieces
 * that the other finishes, and SiLU's latency is hidden by two warps of each quarter of an SM:
 *
 *     given   the carrier -> the others' four warps             mbarrier of one
 *     sent    the others' four warps -> four warps              mbarrier of four
 *     ready   four warps -> the carrier                         mbarrier of four
 *
 * Without it, values 16 columns a row at a time straight from and to memory, a tile's end took 5000
 * cycles, with a residual 10 000, whose products take 79 000 (256 by 128, k 4096). */
#ifndef KERNELS_CUDA_SCHEME_WIDE_END_CUH
#define KERNELS_CUDA_SCHEME_WIDE_END_CUH

#include "kernels/cuda/ptx_cluster.cuh"
#include "kernels/cuda/scheme_wide_store.cuh"
#include "kernels/cuda/scheme_wide_tile.cuh"

enum { PIECE_COLS = 64, PART_ROWS = 16 /* of a piece: what a warp moves at once */ };

/* Of a piece. */
__host__ __device__ constexpr int piece_rows(int tile_rows, bool gated)
{
    return tile_rows % (gated ? 64 : 32) ? 16 : 32;
}

/* Pieces of a tile and warpgroup in their order: blocks side by side, then the next rows.  Gated,
 * the first warpgroup may have one more than the second. */
template <class TILE, bool GATED, int MANY> struct wide_pieces {
    static const int N = TILE::N, BLOCKS = TILE::BLOCKS;
    static const bool IS_GATED = GATED;
    static_assert(!GATED || (TILE::GROUPS == 2 && BLOCKS == 1), "one has gate's rows, one up's");
    static const int ROWS = piece_rows(N, GATED); /* of a piece */
    static const int PIECE_BYTES = ROWS * PIECE_COLS * 2;
    /* Of a warpgroup: gated, its half of a tile, the larger.  Else residuals are a thousand cycles
     * away, and MANY are in hand. */
    static const int RING = GATED ? (N / ROWS + 1) / 2 : MANY;
    static const int UPPER = RING * ROWS; /* gated: the first warpgroup's rows */
    static const int BYTES = TILE::GROUPS * RING * PIECE_BYTES;
    static const int STATES = GATED ? 3 : 2; /* given, ready, sent */

    __device__ static int ring(int group) /* of a warpgroup's pieces */
    {
        return GATED && N / ROWS % 2 ? RING - group : RING;
    }
    /* Of a tile with `left` rows of y from its first on, 0 or less before a block's first tile.
     * Gated, all, as each has its place in the ring; else y's. */
    __device__ static int count(int group, int left)
    {
        if (GATED)
            return left > 0 ? ring(group) : 0;
        return (min(left, N) + ROWS - 1) / ROWS * BLOCKS;
    }
    __device__ static int row(int group, int piece)
    {
        return GATED ? group * UPPER + piece * ROWS : piece / BLOCKS * ROWS;
    }
    __device__ static int col(int group, int piece)
    {
        return GATED ? 0 : (piece % BLOCKS * TILE::GROUPS + group) * PIECE_COLS;
    }
};

/* ROWS: whose code lies unrolled; between so many all sums are moved. */
template <class T, class TILE, class PIECES, int ROWS> struct wide_end {
    typedef PIECES pieces;
    static const bool GATED = pieces::IS_GATED;
    static const int N = TILE::N, BLOCKS = TILE::BLOCKS;
    static_assert(N % ROWS == 0, "an end is so many, and so many more");
    static const int SUMS = ROWS / 2;           /* of a lane and block, of so many rows */
    static const int PAIRS = pieces::UPPER / 4; /* gated: of a lane's values in UPPER rows */
    static const int PIECE_PAIRS = pieces::ROWS / 4, PIECE_PARTS = pieces::ROWS / PART_ROWS;
    /* Pieces whose SiLU run side by side. */
    static const int AT_ONCE = pieces::RING % 2 ? pieces::RING : 2;

    const struct product &p;
    wide_ring &ring;       /* of pieces it finishes: full = given, or gated sent; empty = ready */
    const wide_ring &away; /* gated: of pieces it hands over, full = given, empty = sent */
    int row, col;          /* of y: the tile's first */
    int warp, lane;        /* warp: of the tile's */

    __device__ __forceinline__ int my_col() const
    {
        return col + warp % (GATED ? 4 : TILE::WARPS) * 16;
    }

    __device__ __forceinline__ void add_bias(float (&sum)[N / 2], const float *bias, int b) const
    {
        const int first = my_col() + b * PIECE_COLS * TILE::GROUPS + lane / 4;
        const float low = bias[min(first, p.n - 1)], high = bias[min(first + 8, p.n - 1)];
#pragma unroll
        for (int i = 0; i < N / 2; i++)
            sum[i] = __fadd_rn(sum[i], i % 4 < 2 ? low : high);
    }

    /* Where row lane % 8 of matrix lane / 8 lies, of four that are 16 rows by this warp's columns,
     * in the piece at `at`. */
    __device__ __forceinline__ uint32_t place(uint32_t at, int part) const
    {
        const int r = part * PART_ROWS + lane / 16 * 8 + lane % 8,
                  chunk = warp % 4 * 2 + lane / 8 % 2;
        return at + r * 128 + (chunk ^ lane % 8) * 16;
    }

    /* 16 rows of a piece, from 8 sums. */
    template <bool ADDED> __device__ __forceinline__ void put(int half, const float *sum) const
    {
        float v[8];
        uint32_t r[4];
        if (ADDED)
            ldmatrix_x4_trans(r, place(ring.at(), half));
#pragma unroll
        for (int i = 0; i < 8; i++)
            v[i] = ADDED ? __fadd_rn(sum[i], pair_value<T>(r[i / 2], i % 2)) : sum[i];
        stmatrix_4_trans(place(ring.at(), half), pair_of<T>(v[0], v[1]), pair_of<T>(v[2], v[3]),
                         pair_of<T>(v[4], v[5]), pair_of<T>(v[6], v[7]));
    }

    template <bool ADDED>
    __device__ __forceinline__ void put_rows(float (&sum)[BLOCKS][N / 2]) const
    {
#pragma unroll
        for (int q = 0; q < ROWS / pieces::ROWS; q++)
#pragma unroll
            for (int b = 0; b < BLOCKS; b++) {
                if (row + q * pieces::ROWS >= p.rows)
                    return;
                mbarrier_wait(ring.full + 8 * ring.stage, ring.parity);
#pragma unroll
                for (int h = 0; h < PIECE_PARTS; h++)
                    put<ADDED>(h, sum[b] + 8 * (q * PIECE_PARTS + h));
                fence_proxy_async();
                __syncwarp();
                if (lane == 0)
                    mbarrier_arrive(ring.empty + 8 * ring.stage);
                ring.next();
            }
    }

    __device__ __forceinline__ void plain(float (&sum)[BLOCKS][N / 2])
    {
        if (p.bias)
#pragma unroll
            for (int b = 0; b < BLOCKS; b++)
                add_bias(sum[b], p.bias, b);
#pragma unroll 1
        for (int left = N; left > 0; left -= ROWS, row += ROWS) {
            if (p.add)
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

    /* To the other warpgroup, what it finishes. */
    __device__ __forceinline__ void send(const uint32_t (&pairs)[PAIRS]) const
    {
#pragma unroll
        for (int q = 0; q < pieces::RING; q++) {
            const uint32_t at = away.stages + q * pieces::PIECE_BYTES,
                           *from = pairs + q * PIECE_PAIRS;
            if (q == away.n)
                return;
            mbarrier_wait(away.full + 8 * q, ring.parity);
#pragma unroll
            for (int h = 0; h < PIECE_PARTS; h++)
                stmatrix_4_trans(place(at, h), from[4 * h], from[4 * h + 1], from[4 * h + 2],
                                 from[4 * h + 3]);
            __syncwarp();
            if (lane == 0)
                mbarrier_arrive(away.empty + 8 * q);
        }
    }

    /* Pieces from this warpgroup's half of what goes into them; the other's lies in them. */
    __device__ __forceinline__ void finish(uint32_t at, bool is_up, const uint32_t *mine) const
    {
        uint32_t theirs[AT_ONCE * PIECE_PAIRS];
        float v[2 * AT_ONCE * PIECE_PAIRS];
#pragma unroll
        for (int h = 0; h < PIECE_PARTS * AT_ONCE; h++)
            ldmatrix_x4_trans(theirs + 4 * h, place(at, h));
#pragma unroll
        for (int i = 0; i < 2 * AT_ONCE * PIECE_PAIRS; i++)
            v[i] = activate(ACT_SILU, pair_value<T>(is_up ? theirs[i / 2] : mine[i / 2], i % 2));
#pragma unroll
        for (int i = 0; i < 2 * AT_ONCE * PIECE_PAIRS; i++)
            v[i] = __fmul_rn(v[i], pair_value<T>(is_up ? mine[i / 2] : theirs[i / 2], i % 2));
#pragma unroll
        for (int h = 0; h < PIECE_PARTS * AT_ONCE; h++)
            stmatrix_4_trans(place(at, h), pair_of<T>(v[8 * h], v[8 * h + 1]),
                             pair_of<T>(v[8 * h + 2], v[8 * h + 3]),
                             pair_of<T>(v[8 * h + 4], v[8 * h + 5]),
                             pair_of<T>(v[8 * h + 6], v[8 * h + 7]));
    }

    __device__ __forceinline__ void gated(float (&sum)[N / 2])
    {
        const bool is_up = warp >= 4;
        const float *bias = is_up ? p.bias_up : p.bias;
        uint32_t mine[PAIRS], others[PAIRS];
        if (bias)
            add_bias(sum, bias, 0);
#pragma unroll
        for (int i = 0; i < PAIRS; i++) { /* gate's finishes the upper rows */
            const uint32_t upper = pair_of<T>(sum[2 * i], sum[2 * i + 1]);
            const int at = pieces::UPPER / 2 + 2 * i; /* of lower rows, the last may not be there */
            const uint32_t lower = at < N / 2 ? pair_of<T>(sum[at], sum[at + 1]) : 0;
            mine[i] = is_up ? lower : upper;
            others[i] = is_up ? upper : lower;
        }
        send(others);
#pragma unroll 1
        for (int q = 0; q < pieces::RING; q += AT_ONCE) {
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++)
                if (q + i < ring.n)
                    mbarrier_wait(ring.full + 8 * (q + i), ring.parity);
            if (row + pieces::row(is_up, q) < p.rows)
                finish(ring.stages + q * pieces::PIECE_BYTES, is_up, mine);
            fence_proxy_async();
            __syncwarp();
            if (lane < AT_ONCE && q + lane < ring.n)
                mbarrier_arrive(ring.empty + 8 * (q + lane));
#pragma unroll
            for (int j = 0; j + AT_ONCE * PIECE_PAIRS < PAIRS; j++) /* registers have no index */
                mine[j] = mine[j + AT_ONCE * PIECE_PAIRS];
        }
        ring.parity ^= 1;
    }

    __device__ __forceinline__ void run(float (&sum)[BLOCKS][N / 2])
    {
        if constexpr (GATED)
            gated(sum[0]);
        else
            plain(sum);
    }
};

/* The carrier of one warpgroup.  TILES: `bool next()` goes to the block's next tile, `row` and
 * `col` are its first; before the first, row is all rows. */
template <class PIECES, class TILES> struct wide_carrier {
    const struct product &p;
    const CUtensorMap &y, &add;
    int group;

    struct walk { /* over the pieces of all tiles */
        TILES tile;
        wide_ring ring;
        int piece;

        __device__ bool next(int group, int rows)
        {
            if (++piece < PIECES::count(group, rows - tile.row))
                return true;
            piece = 0;
            return tile.next();
        }
    };

    __device__ void give(walk &w) const
    {
        const uint32_t bar = w.ring.full + 8 * w.ring.stage;
        if (p.add) {
            mbarrier_arrive_expect(bar, PIECES::PIECE_BYTES);
            tensor_copy_2d(w.ring.at(), &add, bar, w.tile.col + PIECES::col(group, w.piece),
                           w.tile.row + PIECES::row(group, w.piece));
        } else {
            mbarrier_arrive(bar);
        }
        w.ring.next();
    }

    __device__ void take(walk &w) const
    {
        mbarrier_wait(w.ring.empty + 8 * w.ring.stage, w.ring.parity);
        tensor_store_2d(&y, w.ring.at(), w.tile.col + PIECES::col(group, w.piece),
                        w.tile.row + PIECES::row(group, w.piece));
        store_commit();
        w.ring.next();
    }

    /* A piece is given again when the one after it is on its way out; gated, where all of a tile's
     * must be there before the first is ready, when it is. */
    __device__ void run(const TILES &tiles, const wide_ring &ring) const
    {
        walk given = {tiles, ring, 0}, taken = given;
        bool more = true;
#pragma unroll 1
        for (int i = 0; i < ring.n && more; i++)
            if ((more = given.next(group, p.rows)))
                give(given);
        for (bool first = !PIECES::IS_GATED; taken.next(group, p.rows); first = false) {
            take(taken);
            if (first)
                continue;
            if (PIECES::IS_GATED)
                store_wait_read();
            else
                store_wait_read_but_one();
            if (more && (more = given.next(group, p.rows)))
                give(given);
        }
        store_wait();
    }
};

#endif
