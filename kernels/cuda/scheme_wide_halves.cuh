/* scheme_wide_halves.cuh - what a warpgroup multiplies that has a tile of 144 to 176 rows of x to
 * itself: two halves of the rows by turns, so that one's chain is added while the other's wgmma
 * run.
 *
 * No other warpgroup fills the gap in which a chain is added, and registers do not hold two chains
 * of all rows.  A batch of fragments is multiplied with one half of the rows and then with the
 * other; behind a chain's last batch the first half is added beside the second's wgmma, and the
 * second beside those with which the first half's next chain begins. */
#ifndef KERNELS_CUDA_SCHEME_WIDE_HALVES_CUH
#define KERNELS_CUDA_SCHEME_WIDE_HALVES_CUH

#include "kernels/cuda/scheme_wide_sums.cuh"

template <class T, int EXPAND, class TILE, int PARTS>
struct wide_halves : wide_sums<T, EXPAND, TILE, PARTS> {
    using base = wide_sums<T, EXPAND, TILE, PARTS>;
    using base::N, base::BATCH, base::DEPTH, base::PER_CHAIN, base::EARLY, base::X_BYTES;
    using base::ring, base::chain, base::fragment;
    static_assert(base::HALVES, "accumulators are halves");

    using base::base;

    /* Half 0 or 1 of the rows. */
    __device__ __forceinline__ void multiply_half(int half, uint64_t x, int s)
    {
        this->multiply(chain[half], x + half * X_BYTES / 2 / 16, s);
    }

    __device__ __forceinline__ void add_half(int half)
    {
        this->template add<1>(0, chain[half], 0, half * (N / 4));
    }

    /* Behind a chain's last batch.  ptxas serializes all wgmma (C7514) where what is sent next
     * waits for the second half, or more than one batch is left running. */
    __device__ __forceinline__ void end_chain()
    {
        wgmma_wait<1>();
        add_half(0);
        wgmma_wait<0>();
    }

    /* The first batch of the chain behind that one. */
    __device__ __forceinline__ void begin_chain(uint64_t x, int s)
    {
        multiply_half(0, x, s);
        add_half(1);
        multiply_half(1, x, s);
    }

    /* Adds to sum the products of n_k tiles of a unit, without the scales of rows. */
    __device__ __forceinline__ void run(int n_k)
    {
        this->begin();
        uint32_t at = ring.at();
        uint64_t x = matrix_descriptor(at, 0, 1024);
        int mine = ring.stage;
        multiply_half(0, x, 0);
        multiply_half(1, x, 0);
#pragma unroll 1
        for (;; n_k--) { /* from a stage's first batch, which runs, to the next one's */
            const bool is_last = n_k == 1;
#pragma unroll
            for (int s = 0; s < TILE_STEPS; s += BATCH) {
                const int then = s + BATCH;
                const bool ends = then % PER_CHAIN == 0;
                this->fetch(0, s, is_last);
                wgmma_wait<1>();
#pragma unroll
                for (int j = then; j < then + BATCH; j++)
                    registers_pin(fragment[j % DEPTH]);
                if (ends)
                    this->load_scales(at, 0, s);
                this->prepare(at, 0, s, is_last);
                if (EARLY)
                    schedule_fence();
                if (then == TILE_STEPS)
                    break;
                if (ends) {
                    end_chain();
                    begin_chain(x, then);
                } else {
                    multiply_half(0, x, then);
                    multiply_half(1, x, then);
                }
            }
            if (is_last)
                break;
            end_chain();
            this->release(mine);
            mine = ring.stage;
            at = ring.at();
            x = matrix_descriptor(at, 0, 1024);
            begin_chain(x, 0);
        }
        wgmma_wait<0>();
        this->release(mine);
        add_half(0);
        add_half(1);
        ring.next();
    }
};

#endif
