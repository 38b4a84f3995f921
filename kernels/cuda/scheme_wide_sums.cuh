/* scheme_wide_sums.cuh - what a warpgroup multiplies: codes from shared memory to fragments in
 * registers, wgmma with x in shared memory, chains to sums.
 *
 * A warpgroup has BLOCKS times 64 rows of the weights, by N rows of x.  Steps of 16 columns are
 * multiplied in batches: while one runs, the fragments of the next are made.  Where registers
 * allow, a chain is added while the next one runs; else other warpgroups' wgmma fill the gap, or
 * there are none, and scheme_wide_halves.cuh does.
 *
 * One warpgroup a tile is quicker than several that share its columns (down to 64 by 32, 17 rows),
 * as nothing is handed on; what bounds it is not the tensor cores but how long a warp takes from
 * codes to wgmma (64 by 64: 500 clocks for 128 columns, of which 256 are theirs). */
#ifndef KERNELS_CUDA_SCHEME_WIDE_SUMS_CUH
#define KERNELS_CUDA_SCHEME_WIDE_SUMS_CUH

#include "kernels/cuda/scheme_wide_tile.cuh"

/* An instruction that does nothing, over which ptxas moves few others: what is written behind a
 * wgmma stays behind, and is not put between two, of which the second would wait for it. */
__device__ __forceinline__ void schedule_fence()
{
    __syncwarp();
}

template <class T, int EXPAND, class TILE, int PARTS>
struct wide_sums : wide_chains<EXPAND, PARTS> {
    using in_tile = wide_chains<EXPAND, PARTS>;
    static const int N = TILE::N, BLOCKS = TILE::BLOCKS;
    using in_tile::CHAINS, in_tile::HAS_SCALE;
    static const bool HAS_BOOK = EXPAND == EXPAND_CODEBOOK;
    static const bool IS_LARGE = N > 64 && TILE::GROUPS > 1;
    static const int PER_CHAIN = TILE_STEPS / CHAINS; /* steps */
    static const int PER_PART = TILE_STEPS / in_tile::OPERANDS;
    static const int STEPS_OF_WORDS = 4 / expand_words(EXPAND);
    /* Where registers have room: for batches as large as are best (below), and for two accumulators
     * of chains, which of look-ups helps 128 by 96 and no other large tile. */
    static const bool DEEP = BLOCKS == 1 && (TILE::GROUPS <= 2 || N <= (HAS_BOOK ? 96 : 112));
    static const bool TWO =
        DEEP && N <= 128 &&
        (!IS_LARGE || (TILE::GROUPS == 2 && CHAINS == 1 && (!HAS_BOOK || N == 96)));
    /* Rows of x in two halves, each with its own wgmma and accumulator (scheme_wide_halves.cuh). */
    static const bool HALVES = DEEP && !IS_LARGE && N > 128;
    /* Of a batch only the last wgmma runs beside what follows, as a warp waits until the registers
     * of the one before are read; four are better where look-ups wait together, or in large tiles.
     */
    static const int BATCH = DEEP && (HAS_BOOK || IS_LARGE || HALVES) ? 4 : 2;
    static const int DEPTH = 2 * BATCH; /* fragments: of a batch that runs, and of the next */
    static_assert(PER_PART % BATCH == 0, "operands of one part are in hand");
    static_assert(!TWO || PER_CHAIN > BATCH,
                  "a chain is added beside the second batch of the next");
    /* Words are loaded a batch before their fragments are made, and a fence keeps batches apart: 2
     * to 7 % less time with 8 bits and, of few rows, look-ups; 4 % more with INT4. */
    static const bool EARLY =
        !IS_LARGE && DEEP && (HAS_BOOK ? TILE::GROUPS == 1 && N <= 64 : expand_words(EXPAND) == 2);
    static_assert(!EARLY || BLOCKS == 1, "operands are of block 0");
    /* A fence keeps what is behind a batch there: 1 to 4 % less time with INT8 where it is not
     * gated, else 2 % less to 1 % more; in 128 by 128 none. */
    static const bool APART = TWO && IS_LARGE && N < 128 && !HAS_BOOK;
    static const int LOADED = EARLY ? 2 * BATCH : BATCH;
    static const int WORDS =
        (BATCH > STEPS_OF_WORDS ? BATCH / STEPS_OF_WORDS : 1) * (EARLY ? 2 : 1);
    /* Codes are looked up while the wgmma still run whose registers their fragments take: 128 by
     * 128 5 % less time (NF4, 4096 x 14336); of 64 rows up to 3 % more. */
    static const bool LOOKS = IS_LARGE && DEEP && wide_has_table<TILE>(EXPAND);
    static const int UNROLL = TWO ? 2 : 1;   /* stages */
    static const uint32_t X_BYTES = N * 128; /* of half a stage */

    const wide_codes &codes;
    wide_ring ring;
    int lane;
    uint32_t my_tile; /* of block 0, in a stage */
    uint32_t table;   /* a codebook's, in shared memory */
    float sum[BLOCKS][N / 2];
    float chain[TWO || HALVES ? 2 : 1][HALVES ? N / 4 : N / 2];
    uint32_t fragment[DEPTH][4];
    uint4 words[WORDS];
    uint32_t seen[LOOKS ? BATCH : 1][4]; /* the next fragments, not scaled yet */
    uint32_t operand[2];
    float up, down; /* scales of the chain that is not added yet, of rows g and g + 8 */
    int held;       /* the stage before, of which wgmma may still run; -1 = none */

    __device__ __forceinline__ wide_sums(const wide_codes &c, const wide_ring &r, uint32_t table_at,
                                         int warp, int in_warp)
        : codes(c), ring(r), lane(in_warp), table(table_at)
    {
        my_tile = 2 * X_BYTES + warp * c.tile_bytes + (warp < TILE::UNITS / 2 ? 0 : c.up_pad);
    }

    __device__ __forceinline__ uint32_t tile_at(uint32_t stage, int b) const
    {
        return stage + my_tile + b * TILE::WARPS * codes.tile_bytes;
    }

    /* The words of step s of block b of the stage in hand, unless an earlier one's hold it. */
    __device__ __forceinline__ void load(int b, int s)
    {
        if (s % STEPS_OF_WORDS == 0)
            words[s / STEPS_OF_WORDS % WORDS] =
                load_shared_16(tile_at(ring.at(), b) + s / STEPS_OF_WORDS * 512 + lane * 16);
    }

    /* What the fragments of a part are made with, from its first step on. */
    __device__ __forceinline__ void load_operand(uint32_t stage, int b, int s)
    {
        if (s % PER_PART == 0)
            codes.operands<T, EXPAND>(operand, tile_at(stage, b), s / PER_PART, lane);
    }

    __device__ __forceinline__ void expand(int s)
    {
        const uint4 from = words[s / STEPS_OF_WORDS % WORDS];
        const uint32_t w[4] = {from.x, from.y, from.z, from.w};
        wide_fragment<T, EXPAND, TILE>(fragment[s % DEPTH],
                                       w + s % STEPS_OF_WORDS * expand_words(EXPAND), operand,
                                       table, lane, codes.book);
    }

    /* Step s, the i-th of its batch. */
    __device__ __forceinline__ void look(int s, int i)
    {
        const uint4 from = words[s / STEPS_OF_WORDS % WORDS];
        const uint32_t w[4] = {from.x, from.y, from.z, from.w};
        table_look<wide_table_row<TILE>()>(seen[i], w[s % STEPS_OF_WORDS], table, lane * 4);
    }

    __device__ __forceinline__ void expand_seen(int s, int i)
    {
#pragma unroll
        for (int j = 0; j < 4; j++)
            fragment[s % DEPTH][j] = seen[i][j];
        expand_scale<T>(fragment[s % DEPTH], operand);
    }

    template <int R> __device__ __forceinline__ void multiply(float (&to)[R], uint64_t x, int s)
    {
#pragma unroll
        for (int i = s; i < s + BATCH; i++)
            registers_pin(fragment[i % DEPTH]);
        registers_pin(to);
        wgmma_fence();
#pragma unroll
        for (int i = s; i < s + BATCH; i++) {
            wgmma_rows(T(), to, fragment[i % DEPTH], x + (i / 4 * X_BYTES / 16 + i % 4 * 2),
                       i % PER_CHAIN != 0);
        }
        wgmma_commit();
    }

    /* A part of n of a chain to block b's sums from `first` on, each once and in order. */
    template <int n, int R>
    __device__ __forceinline__ void add(int b, float (&from)[R], int part, int first = 0)
    {
        if (part == 0)
            registers_pin(from);
#pragma unroll
        for (int i = 0; i < R; i++)
            if (i >= R * part / n && i < R * (part + 1) / n) {
                float &to = sum[b][first + i];
                to = HAS_SCALE ? __fmaf_rn(i % 4 < 2 ? up : down, from[i], to)
                               : __fadd_rn(to, from[i]);
            }
    }

    __device__ __forceinline__ void load_scales(uint32_t stage, int b, int s)
    {
        if (!HAS_SCALE)
            return;
        const float2 by = codes.scales(tile_at(stage, b), s / PER_CHAIN, lane);
        up = by.x;
        down = by.y;
    }

    __device__ __forceinline__ void release(int stage)
    {
        mbarrier_arrive(ring.empty + 8 * stage);
    }

    /* Fetches what the BATCH steps LOADED ahead of step s of block b are made of, of the next stage
     * if there is one. */
    __device__ __forceinline__ void fetch(int b, int s, bool is_last)
    {
        const int then = (s + LOADED) % TILE_STEPS, block = b + (s + LOADED) / TILE_STEPS;
        if (block == BLOCKS && is_last)
            return;
        if (block == BLOCKS && then == 0) {
            ring.next();
            mbarrier_wait(ring.full + 8 * ring.stage, ring.parity);
        }
#pragma unroll
        for (int i = 0; i < BATCH; i++)
            load(block % BLOCKS, then + i);
        if (!EARLY)
            load_operand(ring.at(), block % BLOCKS, then);
        if constexpr (LOOKS)
#pragma unroll
            for (int i = 0; i < BATCH; i++)
                look(then + i, i);
    }

    /* Makes the fragments a batch ahead of step s of block b, which is of the stage at `stage`. */
    __device__ __forceinline__ void prepare(uint32_t stage, int b, int s, bool is_last)
    {
        const bool is_next = b + (s + BATCH) / TILE_STEPS == BLOCKS;
        if (is_next && is_last)
            return;
        if (EARLY)
            load_operand(is_next ? ring.at() : stage, 0, (s + BATCH) % TILE_STEPS);
#pragma unroll
        for (int i = s + BATCH; i < s + BATCH + BATCH; i++) {
            if constexpr (LOOKS)
                expand_seen(i % TILE_STEPS, i - s - BATCH);
            else
                expand(i % TILE_STEPS);
            registers_pin(fragment[i % DEPTH]); /* now, and not after the next wait */
        }
    }

    /* n stages, the first of which is in hand with its first batch of fragments.  With TWO, chains
     * alternate between two accumulators: one is added from the second batch of the next on, when
     * its last is done and that one's first still runs, if need be in the next call. */
    template <int n> __device__ __forceinline__ void stages(bool is_last)
    {
        const int PARTS_ADDED = TWO ? PER_CHAIN / BATCH - 1 : 1;
#pragma unroll
        for (int i = 0; i < n; i++) {
            const uint32_t at = ring.at();
            const uint64_t x = matrix_descriptor(at, 0, 1024);
            const int mine = ring.stage;
#pragma unroll
            for (int b = 0; b < BLOCKS; b++)
#pragma unroll
                for (int s = 0; s < TILE_STEPS; s += BATCH) {
                    const int nth = (i * BLOCKS + b) * CHAINS + s / PER_CHAIN; /* chain */
                    const int now = TWO ? nth % 2 : 0, nth_batch = s % PER_CHAIN / BATCH;
                    const bool ends = (s + BATCH) % PER_CHAIN == 0,
                               is_final = is_last && i + 1 == n;
                    multiply(chain[now], x, s);
                    if (APART)
                        schedule_fence();
                    if (TWO && nth_batch > 0)
                        add<PARTS_ADDED>(0, chain[1 - now], nth_batch - 1);
                    fetch(b, s, is_final);
                    wgmma_wait<1>();
#pragma unroll
                    for (int j = s + BATCH; j < s + BATCH + BATCH; j++)
                        registers_pin(fragment[j % DEPTH]);
                    if (TWO && s == 0) {
                        if (held >= 0)
                            release(held);
                        held = mine;
                    }
                    if (ends)
                        load_scales(at, b, s);
                    prepare(at, b, s, is_final);
                    if (EARLY)
                        schedule_fence();
                    if (!TWO && ends) {
                        wgmma_wait<0>();
                        if (b + 1 == BLOCKS && s + BATCH == TILE_STEPS)
                            release(mine);
                        add<1>(b, chain[now], 0);
                    }
                }
        }
    }

    /* What stages() left, where the last chain is `of`. */
    __device__ __forceinline__ void settle(float (&of)[N / 2])
    {
        wgmma_wait<0>();
        release(held);
        add<1>(0, of, 0);
    }

    /* The first stage in hand, with its first batch of fragments. */
    __device__ __forceinline__ void begin()
    {
#pragma unroll
        for (int i = 0; i < 4 * BATCH; i++)
            fragment[BATCH + i / 4][i % 4] = 0;
        mbarrier_wait(ring.full + 8 * ring.stage, ring.parity);
        load_operand(ring.at(), 0, 0);
#pragma unroll
        for (int i = 0; i < LOADED; i++) {
            load(0, i);
            if (i < BATCH)
                expand(i);
        }
    }

    /* Adds to sum the products of n_k tiles of a unit, without the scales of rows. */
    __device__ __forceinline__ void run(int n_k)
    {
#pragma unroll
        for (int i = 0; i < N / 2; i++)
            chain[0][i] = chain[TWO][i] = 0; /* the chain before the first adds nothing */
        up = down = -0.0f;                   /* so that a sum of -0 stays one */
        held = -1;
        begin();
#pragma unroll 1
        for (; n_k >= UNROLL; n_k -= UNROLL)
            stages<UNROLL>(n_k == UNROLL);
        if (TWO && n_k > 0) {
            stages<1>(true);
            settle(chain[CHAINS % 2 == 0]);
        } else if (TWO) {
            settle(chain[TWO]);
        }
        ring.next();
    }
};

#endif
