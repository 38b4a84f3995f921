/* scheme_skinny.cuh - what a block of the skinny product of a scheme knows, and the warp that feeds
 * it.
 *
 * One thread brings a stage's tiles by one tensor copy, as they lie, and x's columns beside them
 * where x is not resident: a copy costs its thread some 100 clocks, whatever it brings, and lanes
 * that copy at once wait for each other.  The ring fills before the kernel in front of this one has
 * ended: its results are x and add, never weights. */
#ifndef KERNELS_CUDA_SCHEME_SKINNY_CUH
#define KERNELS_CUDA_SCHEME_SKINNY_CUH

#include "kernels/cuda/matmul_rows.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/scheme_choose.h"
#include "kernels/cuda/scheme_expand.cuh"

enum {
    SCHEME_THREADS_MAX = (SCHEME_WARPS_FEW + 1) * 32, /* the last warp feeds */
    SCHEME_SUMS_AT = 2 * SCHEME_STAGES_MAX * 8,       /* in the first KiB, behind the barriers */
};

struct scheme_args : rows_args {
    struct scheme_layout l;
    struct scheme_choice c;
    expand_book book;
    int x_copies; /* of a stage: 1, or each 64 columns of x by themselves */
};

struct scheme_maps {
    CUtensorMap w[2], x; /* w[1]: up */
};

typedef void scheme_function(const scheme_maps, const scheme_args);

/* matmul_scheme_skinny_bf16.cu and _f16.cu */
scheme_function *scheme_kernel_bf16(const struct scheme_layout *, const struct scheme_choice *,
                                    bool gated);
scheme_function *scheme_kernel_f16(const struct scheme_layout *, const struct scheme_choice *,
                                   bool gated);

/* What a thread knows of its block's share. */
struct scheme_share {
    uint32_t full, empty;             /* barriers [stages] */
    uint32_t x, exchange, book, ring; /* shared memory */
    int first_unit, end_unit, passes;
    int steps; /* of a pass */
};

__device__ inline scheme_share scheme_share_of(const scheme_args &a, uint32_t base)
{
    scheme_share s;
    s.full = base;
    s.empty = base + SCHEME_STAGES_MAX * 8;
    s.x = base + 1024;
    s.exchange = s.x + a.c.x_bytes;
    s.book = s.exchange + a.c.exchange_bytes;
    s.ring = s.book + a.c.book_bytes;
    s.first_unit = (int)((long long)blockIdx.x * a.c.n_units / gridDim.x);
    s.end_unit = (int)((long long)(blockIdx.x + 1) * a.c.n_units / gridDim.x);
    s.passes = (s.end_unit - s.first_unit + a.c.units - 1) / a.c.units;
    s.steps = (a.l.n_tiles + a.c.span - 1) / a.c.span;
    return s;
}

/* A place in the ring, and the parity of its use. */
struct scheme_place {
    int stage;
    uint32_t parity;

    __device__ void next(int stages)
    {
        if (++stage == stages) {
            stage = 0;
            parity ^= 1;
        }
    }
};

/* TILES: 2 where gate and up come in pairs. */
template <int TILES> struct scheme_feeder {
    const scheme_maps &maps;
    const scheme_args &a;
    const scheme_share &s;
    uint64_t once, often;

    struct step {
        int unit, tile; /* the first */
        scheme_place at;
    };

    __device__ void next(step &i)
    {
        i.at.next(a.c.stages);
        i.tile += a.c.span;
        if (i.tile >= a.l.n_tiles) {
            i.tile = 0;
            i.unit += a.c.units;
        }
    }

    /* Tiles and units past the last are zero, and are counted. */
    __device__ void weights(const step &i)
    {
        const uint32_t bar = s.full + 8 * i.at.stage,
                       part = (uint32_t)(a.c.units * a.c.span) * a.l.tile_bytes;
        const uint32_t to = s.ring + (uint32_t)i.at.stage * a.c.stage_bytes;
        mbarrier_arrive_expect(bar, TILES * part +
                                        (a.c.resident ? 0 : (uint32_t)(2 * a.c.span) * a.c.x_box));
#pragma unroll
        for (int tile = 0; tile < TILES; tile++)
            tensor_load_4d(to + (uint32_t)tile * a.c.w_bytes, &maps.w[tile], 0, 0, i.tile, i.unit,
                           bar, once);
    }

    __device__ void rows(const step &i)
    {
        const uint32_t to = s.ring + (uint32_t)i.at.stage * a.c.stage_bytes + a.c.x_at;
        const uint32_t bar = s.full + 8 * i.at.stage;
        if (a.c.resident)
            return;
        if (a.x_copies == 1)
            tensor_load_3d(to, &maps.x, 0, 0, 2 * i.tile, bar, often);
        for (int k = 0; a.x_copies > 1 && k < a.x_copies; k++)
            tensor_load_2d(to + (uint32_t)k * a.c.x_box, &maps.x, (2 * i.tile + k) * 64, 0, bar,
                           often);
    }

    __device__ void run()
    {
        const int n = s.passes * s.steps, ahead = min(n, a.c.stages);
        const step first = {s.first_unit, 0, {0, 0}};
        step i = first;
        for (int k = 0; k < ahead; k++, next(i))
            weights(i);
        depend_wait();
        i = first;
        for (int k = 0; k < ahead; k++, next(i))
            rows(i);
        i.at = {0, 0}; /* parity of the first use of each stage */
        for (int k = ahead; k < n; k++, next(i)) {
            mbarrier_wait_inside(s.empty + 8 * i.at.stage, i.at.parity);
            weights(i);
            rows(i);
        }
    }
};

#endif
