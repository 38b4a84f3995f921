/* scheme_wide_passes.cuh - what a warpgroup multiplies where a tile has 192 to 256 rows of x:
 * fragments are made once and multiplied twice.
 *
 * A warpgroup has 64 rows of the weights. The fragments of 128 columns lie in registers, and are
 * multiplied with one half of the rows and then with the other, whose x are stages of their own;
 * chains of both halves take turns in one accumulator, or have one each. While the second pass runs
 * its last steps, the first half of the next 128 columns is made; while the next first pass begins,
 * the rest. The other warpgroup's wgmma fill the gaps in which chains are added. */
#ifndef KERNELS_CUDA_SCHEME_WIDE_PASSES_CUH
#define KERNELS_CUDA_SCHEME_WIDE_PASSES_CUH

#include <type_traits>

#include "kernels/cuda/scheme_wide_halves.cuh"

template <class T, int EXPAND, class TILE, int PARTS>
struct wide_passes : wide_chains<EXPAND, PARTS> {
    using in_tile = wide_chains<EXPAND, PARTS>;
    using in_tile::CHAINS, in_tile::HAS_SCALE, in_tile::OPERANDS;
    static const int N = TILE::PASS_ROWS, HALF = TILE_STEPS / 2; /* steps made at once */
    static const int STEPS_OF_WORDS = 4 / expand_words(EXPAND);
    static const uint32_t X_BYTES = N * 128; /* of half a stage */
    static_assert(PARTS <= 2 && TILE::BLOCKS == 1, "what registers hold");

    const wide_codes &codes;
    wide_ring ring;
    int lane;
    uint32_t my_tile, table;
    float sum[1][2 * (N / 2)];
    /* Accumulators of chains: one a pass where registers have room, so that the first pass's chain
     * is added while the second runs: up to 9 % less time in 128 by 192. */
    static const bool TWO = N <= 96 && CHAINS == 1;
    float chain[TWO ? 2 : 1][N / 2];
    uint32_t fragment[TILE_STEPS][4], operand[2];
    float scale[CHAINS][2];

    __device__ __forceinline__ wide_passes(const wide_codes &c, const wide_ring &r,
                                           uint32_t table_at, int warp, int in_warp)
        : codes(c), ring(r), lane(in_warp), table(table_at)
    {
        my_tile = 2 * X_BYTES + warp * c.tile_bytes + (warp < TILE::UNITS / 2 ? 0 : c.up_pad);
    }

    /* Half of the fragments, of the stage in hand. */
    __device__ __forceinline__ void make(int half)
    {
        const uint32_t tile = ring.at() + my_tile;
        if (half == 0 || OPERANDS > 1)
            codes.operands<T, EXPAND>(operand, tile, half * (OPERANDS - 1), lane);
        uint4 words = {};
#pragma unroll
        for (int s = half * HALF; s < half * HALF + HALF; s++) {
            if (s % STEPS_OF_WORDS == 0)
                words = load_shared_16(tile + s / STEPS_OF_WORDS * 512 + lane * 16);
            const uint32_t w[4] = {words.x, words.y, words.z, words.w};
            wide_fragment<T, EXPAND, TILE>(fragment[s],
                                           w + s % STEPS_OF_WORDS * expand_words(EXPAND), operand,
                                           table, lane, codes.book);
            registers_pin(fragment[s]);
        }
    }

    __device__ __forceinline__ void load_scales()
    {
#pragma unroll
        for (int c = 0; HAS_SCALE && c < CHAINS; c++) {
            const float2 by = codes.scales(ring.at() + my_tile, c, lane);
            scale[c][0] = by.x;
            scale[c][1] = by.y;
            registers_pin(scale[c]); /* now, and not behind the wait for the chain */
        }
    }

    /* Half of the steps of a pass, 0 or 1. */
    __device__ __forceinline__ void multiply(int pass, uint64_t x, int half)
    {
        float(&to)[N / 2] = chain[TWO ? pass : 0];
#pragma unroll
        for (int s = half * HALF; s < half * HALF + HALF; s++)
            registers_pin(fragment[s]);
        registers_pin(to);
        wgmma_fence();
#pragma unroll
        for (int s = half * HALF; s < half * HALF + HALF; s++) {
            wgmma_rows(T(), to, fragment[s], x + (half * X_BYTES / 16 + s % HALF * 2),
                       s % (TILE_STEPS / CHAINS) != 0);
        }
        wgmma_commit();
        schedule_fence();
    }

    /* Of pass 0 or 1. */
    __device__ __forceinline__ void add(int pass, int c)
    {
        float(&from)[N / 2] = chain[TWO ? pass : 0];
        registers_pin(from);
#pragma unroll
        for (int i = 0; i < N / 2; i++) {
            float &to = sum[0][pass * (N / 2) + i];
            to = HAS_SCALE ? __fmaf_rn(scale[c][i % 4 / 2], from[i], to) : __fadd_rn(to, from[i]);
        }
    }

    __device__ __forceinline__ void release(int stage)
    {
        mbarrier_arrive(ring.empty + 8 * stage);
    }

    /* x of the stage in hand. */
    __device__ __forceinline__ uint64_t rows() const
    {
        return matrix_descriptor(ring.at(), 0, 1024);
    }

    /* The first pass's last chain, as soon as no more than `running` batches of wgmma run. */
    template <int running> __device__ __forceinline__ void end_first(int stage)
    {
        wgmma_wait<running>();
        release(stage);
        schedule_fence();
        add(0, CHAINS - 1);
    }

    /* 128 columns, the first half of whose fragments is made, by both passes. */
    __device__ __forceinline__ void step(bool is_last)
    {
        uint64_t x = rows();
        multiply(0, x, 0);
        load_scales();
        make(1);
        schedule_fence();
        if (CHAINS == 2) {
            wgmma_wait<0>();
            add(0, 0);
        }
        multiply(0, x, 1);
        schedule_fence(); /* with the one behind: 4096 x 4096, 1024 rows, 50.0 -> 48.1 us */
        const int first = ring.stage;
        if (!TWO)
            end_first<0>(first);
        ring.next();
        mbarrier_wait(ring.full + 8 * ring.stage, ring.parity);
        x = rows();
        multiply(1, x, 0);
        if (TWO) {
            end_first<1>(first);
            schedule_fence();
        }
        const int mine = ring.stage;
        if (CHAINS == 2) {
            wgmma_wait<0>();
            add(1, 0);
        }
        multiply(1, x, 1);
        ring.next();
        if (!is_last)
            mbarrier_wait(ring.full + 8 * ring.stage, ring.parity);
        if (CHAINS == 1)
            wgmma_wait<1>();
        if (!is_last)
            make(0);
        wgmma_wait<0>();
        release(mine);
        add(1, CHAINS - 1);
    }

    /* Adds to sum the products of n_k tiles of a unit, without the scales of rows. */
    __device__ __forceinline__ void run(int n_k)
    {
#pragma unroll
        for (int i = 0; i < N / 2; i++)
            chain[0][i] = chain[TWO][i] = 0;
#pragma unroll
        for (int i = HALF; i < TILE_STEPS; i++)
#pragma unroll
            for (int j = 0; j < 4; j++)
                fragment[i][j] = 0;
        mbarrier_wait(ring.full + 8 * ring.stage, ring.parity);
        make(0);
#pragma unroll 1
        for (; n_k > 0; n_k--)
            step(n_k == 1);
    }
};

/* What multiplies a tile. */
template <class T, int EXPAND, class TILE, int PARTS>
using wide_sums_of = std::conditional_t<
    TILE::PASSES == 2, wide_passes<T, EXPAND, TILE, PARTS>,
    std::conditional_t<wide_sums<T, EXPAND, TILE, PARTS>::HALVES,
                       wide_halves<T, EXPAND, TILE, PARTS>, wide_sums<T, EXPAND, TILE, PARTS>>>;

#endif
