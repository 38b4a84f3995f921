/* scheme_wide_turns.cuh - what a warpgroup multiplies where several take the tiles of k in turn.
 *
 * Few rows of x leave few tiles of y, of 64 rows of the weights each, and what bounds a tile is not
 * the tensor cores but the time in which a warp makes fragments, waits for their products and adds
 * them.  So WAYS warpgroups share a tile.  A turn is two tiles of k: a warpgroup makes both chains,
 * and when its turn comes adds them to sums in shared memory, which so go round in order of k:
 *
 *     turn   the warp whose chains are before -> the warp of the next     mbarrier of 32
 *
 * Warps with the same 16 rows of the weights have turns of their own, and each lane its own sums:
 * each says for itself that they are there, which costs nothing, and racecheck of compute-sanitizer
 * sees (it does not see that a warp has met before one lane speaks for it).
 * Turns go round over all tiles of y of a block: the warpgroup with a tile's last turn ends it,
 * while the others multiply the next.  A tile has WAYS turns at least, so that no two are ended at
 * once: the pieces in which y leaves are given in order.  A warpgroup holds one stage while it
 * waits for the one 2 WAYS - 1 ahead, so that there are 2 WAYS at least, or all would wait for
 * ever.
 *
 * Measured against one tile of k a turn by four warpgroups, which read and write the sums twice as
 * often (H200, 4096 x 14336): 64 by 64 takes 1 % less time with INT4 and 10 % with NF4, 64 by 32 7
 * % more. */
#ifndef KERNELS_CUDA_SCHEME_WIDE_TURNS_CUH
#define KERNELS_CUDA_SCHEME_WIDE_TURNS_CUH

#include "kernels/cuda/scheme_wide_tile.cuh"

struct wide_turn {
    uint32_t sums;       /* of this lane: 16 bytes, then each 512 behind those before */
    uint32_t mine, next; /* barriers: this warp's turn, the next one's */
    int way;             /* this warpgroup's place among those that take turns */
};

template <class T, int EXPAND, class TILE, int PARTS>
struct wide_turns : wide_chains<EXPAND, PARTS> {
    using in_tile = wide_chains<EXPAND, PARTS>;
    using in_tile::HAS_SCALE, in_tile::OPERANDS;
    static const int N = TILE::N, WAYS = TILE::WAYS, HALF = TILE_STEPS / 2; /* steps made at once */
    static const int STEPS_OF_WORDS = 4 / expand_words(EXPAND), WORDS = HALF / STEPS_OF_WORDS;
    static const int AT_ONCE = 16;           /* sums of a lane that are on their way */
    static const uint32_t X_BYTES = N * 128; /* of half a stage */
    static_assert(in_tile::CHAINS == 1 && TILE::BLOCKS == 1 && TILE::SIDES == 1, "a chain a tile of k");

    const wide_codes &codes;
    wide_ring ring;
    const wide_turn &turn;
    int lane, parity; /* of the turn */
    uint32_t my_tile, table;
    float chain[2][N / 2]; /* of a turn's tiles of k */
    float2 scale[2];       /* of rows g and g + 8 */
    uint32_t fragment[TILE_STEPS][4];

    __device__ __forceinline__ wide_turns(const wide_codes &c, const wide_ring &r,
                                          const wide_turn &of, uint32_t table_at, int warp,
                                          int in_warp)
        : codes(c), ring(r), turn(of), lane(in_warp), parity(of.way == 0), table(table_at)
    { /* the first turn is the first warpgroup's: it waits for the phase before all */
        my_tile = 2 * X_BYTES + warp % TILE::SIDE_WARPS * c.tile_bytes;
    }

    /* Half of the fragments, of the stage in hand. */
    __device__ __forceinline__ void make(int half)
    {
        const uint32_t tile = ring.at() + my_tile;
        uint32_t operand[2] = {};
        codes.operands<T, EXPAND>(operand, tile, half * (OPERANDS - 1), lane);
        uint4 words[WORDS];
#pragma unroll
        for (int i = 0; i < WORDS; i++)
            words[i] = load_shared_16(tile + (half * WORDS + i) * 512 + lane * 16);
#pragma unroll
        for (int i = 0; i < HALF; i++) {
            uint32_t(&to)[4] = fragment[half * HALF + i];
            const uint4 from = words[i / STEPS_OF_WORDS];
            const uint32_t w[4] = {from.x, from.y, from.z, from.w};
            wide_fragment<T, EXPAND, TILE>(to, w + i % STEPS_OF_WORDS * expand_words(EXPAND),
                                           operand, table, lane, codes.book);
            registers_pin(to); /* now, and not behind the wait for a chain */
        }
    }

    /* Of the stage in hand, of rows g and g + 8. */
    __device__ __forceinline__ float2 load_scales()
    {
        if (!HAS_SCALE)
            return {1, 1};
        return codes.scales(ring.at() + my_tile, 0, lane);
    }

    __device__ __forceinline__ void multiply(float (&to)[N / 2], int half)
    {
#pragma unroll
        for (int s = half * HALF; s < half * HALF + HALF; s++)
            registers_pin(fragment[s]);
        registers_pin(to);
        wgmma_fence();
#pragma unroll
        for (int s = half * HALF; s < half * HALF + HALF; s++) {
            const uint64_t x = matrix_descriptor(ring.at(), 0, 1024);
            wgmma_rows(T(), to, fragment[s], x + (half * X_BYTES / 16 + s % HALF * 2), s != 0);
        }
        wgmma_commit();
    }

    /* Gives the stage back, whose products are made. */
    __device__ __forceinline__ void release(int stage)
    {
        mbarrier_arrive(ring.empty + 8 * stage);
    }

    /* To the stage that is `by` ahead, and the first half of its fragments; unless it is 0.  What
     * was there before, another warpgroup's, must be given back: a parity tells a phase from the
     * one next to it alone. */
    __device__ __forceinline__ void go_on(int by)
    {
        if (by > 0) {
            ring.skip(by);
            mbarrier_wait(ring.empty + 8 * ring.stage, ring.parity ^ 1);
            mbarrier_wait(ring.full + 8 * ring.stage, ring.parity);
        }
        wgmma_wait<1>();
        if (by > 0)
            make(0);
    }

    /* The chain of the stage in hand, the first half of whose fragments is made; the second half of
     * its products may still run. */
    __device__ __forceinline__ void begin(int nth)
    {
        multiply(chain[nth], 0);
        scale[nth] = load_scales();
        make(1);
        multiply(chain[nth], 1);
    }

    /* Of a turn's first tile of k and of its second; then of the next turn's first, `ahead` of it.
     */
    __device__ __forceinline__ void make_two(int ahead)
    {
        const int first = ring.stage;
        begin(0);
        go_on(1);
        const int second = ring.stage;
        multiply(chain[1], 0);
        wgmma_wait<1>();
        release(first);
        scale[1] = load_scales();
        make(1);
        multiply(chain[1], 1);
        go_on(ahead);
        wgmma_wait<0>();
        release(second);
    }

    __device__ __forceinline__ void make_one(int ahead)
    {
        const int only = ring.stage;
        begin(0);
        go_on(ahead);
        wgmma_wait<0>();
        release(only);
    }

    /* The sum with the turn's n chains, in order of k. */
    template <int n> __device__ __forceinline__ float plus(float sum, int i) const
    {
#pragma unroll
        for (int c = 0; c < n; c++)
            sum = HAS_SCALE ? __fmaf_rn(i % 4 < 2 ? scale[c].x : scale[c].y, chain[c][i], sum)
                            : __fadd_rn(sum, chain[c][i]);
        return sum;
    }

    /* The turn: sums stay in shared memory, or where the tile's last chain is among them, in
     * chain[0]. */
    template <int n> __device__ __forceinline__ void add(bool is_first, bool is_last)
    {
#pragma unroll
        for (int c = 0; c < n; c++)
            registers_pin(chain[c]);
        mbarrier_wait(turn.mine, parity);
        parity ^= 1;
#pragma unroll
        for (int at = 0; at < N / 2; at += AT_ONCE) {
            uint4 sum[AT_ONCE / 4] = {};
            if (!is_first)
#pragma unroll
                for (int i = 0; i < AT_ONCE / 4; i++)
                    sum[i] = load_shared_16(turn.sums + (at / 4 + i) * 512);
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                const uint32_t words[4] = {sum[i / 4].x, sum[i / 4].y, sum[i / 4].z, sum[i / 4].w};
                chain[0][at + i] = plus<n>(__uint_as_float(words[i % 4]), at + i);
            }
            if (!is_last)
#pragma unroll
                for (int i = 0; i < AT_ONCE; i += 4)
                    store_shared(turn.sums + (at + i) / 4 * 512, chain[0] + at + i);
        }
        mbarrier_arrive(turn.next);
    }

    /* TILES: count() of the block's tiles of y, each of n_k tiles of k, and end(i, sums of the i-th
     * without the scales of rows). */
    template <class TILES> __device__ __forceinline__ void run(TILES &tiles, int n_k)
    {
        const int turns = (n_k + 1) / 2; /* of a tile */
        int left = tiles.count() * turns - turn.way;
        int i = turn.way / turns, k = turn.way % turns * 2; /* tile of y, tile of k */
        if (left <= 0)
            return;
        ring.skip(i * n_k + k);
        mbarrier_wait(ring.full + 8 * ring.stage, ring.parity);
        make(0);
#pragma unroll 1
        for (; left > 0; left -= WAYS) {
            const bool has_two = k + 1 < n_k, is_last = k + 2 >= n_k;
            int next_i = i, next_k = k + 2 * WAYS;
            for (; next_k >= 2 * turns; next_k -= 2 * turns)
                next_i++;
            const int by = (next_i - i) * n_k + next_k - k - has_two;
            const int ahead = left > WAYS ? by : 0;
            if (has_two) {
                make_two(ahead);
                add<2>(k == 0, is_last);
            } else {
                make_one(ahead);
                add<1>(k == 0, is_last);
            }
            if (is_last)
                tiles.end(i, chain[0]);
            i = next_i;
            k = next_k;
        }
    }
};

#endif
