/* act8_ring.cuh - a block's share of the wide 8-bit product in shared memory: the ring of stages,
 * what lies behind it, and who may touch a stage when.
 *
 * A stage is filled by the copy engine (its `full` barrier), and given back by each warpgroup that
 * multiplies, and by the warp that gathers its columns where HIGH, of each block of the cluster
 * (its `empty` barrier). */
#ifndef KERNELS_CUDA_ACT8_RING_CUH
#define KERNELS_CUDA_ACT8_RING_CUH

#include "kernels/cuda/act8.h"
#include "kernels/cuda/choose_act8.h"
#include "kernels/cuda/matmul_sm90.cuh"

namespace
{

enum {
    TILE_K = 128,   /* one 128-byte swizzle atom */
    HIGH_GROUP = 32 /* listed columns that are multiplied together: one wgmma */
};

/* The columns of x with high bytes, ascending. */
struct high_list {
    int n; /* > the listed_max of the product <=> they are not listed */
    uint16_t column[ACT8_LIST_MAX];
};

template <int TILE_M_, int TILE_N_, bool GATED, bool HIGH> struct shape {
    static const int TILE_M = TILE_M_, TILE_N = TILE_N_;
    static const int A_BYTES = TILE_M * TILE_K;
    static const int B_BYTES = TILE_N * TILE_K;
    static const int STAGE_BYTES = A_BYTES + B_BYTES;
    static const int STAGES = TILE_N == 256 ? 4 : TILE_N == 128 ? 6 : TILE_M == 128 ? 8 : 12;
    static const int MATHS = 2 * TILE_M; /* threads that multiply: a warpgroup 64 rows */
    static const int THREADS = MATHS + 128;
    static const int GATHERERS = 2;                 /* warps that gather listed columns of w */
    static const int RELEASES = MATHS / 128 + HIGH; /* of a stage, by a block */
    /* Of a thread beside those that multiply, and of one of them, where these are two warpgroups.
     */
    static const int REGISTERS_FEW = HIGH ? 56 : 40, REGISTERS_MANY = HIGH ? 224 : 232;
    static const int OUT_COLUMNS = GATED ? TILE_N / 2 : TILE_N;
    /* Columns that leave at once; fewer make room for the listed ones. */
    static const int PART = HIGH || OUT_COLUMNS < 128 ? 64 : 128;
    /* Groups of listed columns that are there at once, and bytes from one column of x to the next:
     * lanes that read four of them together want other banks. */
    static const int GROUPS = TILE_N == 64 ? 2 : 1, X_PITCH = TILE_M + 16;
    static const int OUT_AT = STAGES * STAGE_BYTES;
    static const int W_HIGH_BYTES = TILE_N * HIGH_GROUP, X_HIGH_BYTES = HIGH_GROUP * X_PITCH;
    static const int W_HIGH_AT = OUT_AT + TILE_M * PART * 2;
    static const int X_HIGH_AT = W_HIGH_AT + HIGH * GROUPS * W_HIGH_BYTES;
    static const int SCALES_AT =
        X_HIGH_AT + HIGH * GROUPS * X_HIGH_BYTES; /* [MATHS / 128][TILE_N] */
    static const int LIST_AT = SCALES_AT + MATHS / 128 * TILE_N * 4;
    static const int BARS_AT = LIST_AT + HIGH * (int)((sizeof(high_list) + 7) / 8 * 8);
    static const int HIGH_BARS_AT = BARS_AT + 2 * STAGES * 8;
    static const int SHARED_BYTES = HIGH_BARS_AT + HIGH * (1 + 2 * GROUPS) * 8;
    static_assert(OUT_COLUMNS % PART == 0, "parts are whole");
    static_assert(STAGES % GATHERERS == 0, "a place of the ring is always the same warp's");
    static_assert(SHARED_BYTES <= 227 * 1024, "a block fits an SM");
};

struct stage_at { /* a place in the ring, and the parity of its use */
    int stage;
    uint32_t parity;

    template <class S> __device__ __forceinline__ void next()
    {
        if (++stage == S::STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }
};

template <class S> struct pipe { /* the ring as one who reads stages sees it */
    uint32_t stages, full, empty;
    stage_at at;

    __device__ __forceinline__ uint32_t wait() const
    {
        mbarrier_wait(full + at.stage * 8, at.parity);
        return stages + at.stage * S::STAGE_BYTES;
    }
};

} // namespace

#endif
