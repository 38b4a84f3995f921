/* act8_multiply.cuh - what a warpgroup multiplies of a tile of the wide 8-bit product: its sums.
 *
 * int8 sums in one go.  E4M3 sums 128 k from zero and adds them in f32 (act8.h): 128 columns of a
 * tile at a time, so that the second accumulator is half as wide as the first; while one warpgroup
 * adds, the other one's products run.
 *
 * High bytes of outliers (act8.h) are products of their own, from zero, whose 256-fold is added:
 * groups of listed columns between stages (act8_high.cuh), or all stages once more. */
#ifndef KERNELS_CUDA_ACT8_MULTIPLY_CUH
#define KERNELS_CUDA_ACT8_MULTIPLY_CUH

#include "kernels/cuda/act8_fragment.cuh"
#include "kernels/cuda/act8_sums.cuh"

namespace
{

struct args8 {
    struct args a;
    struct act8_scales scales;
    high_args high;
};

/* One stage's products of a warpgroup, with as many columns of w as acc has. */
template <class ACC, int R>
__device__ __forceinline__ void multiply_stage(ACC (&acc)[R], uint32_t x_at, uint32_t w_at,
                                               bool adds)
{
    const uint64_t x = matrix_descriptor(x_at, 16, 1024), w = matrix_descriptor(w_at, 16, 1024);
    registers_pin(acc);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < TILE_K / 32; step++) /* 32 bytes within the atom */
        wgmma8(acc, x + 2 * step, w + 2 * step, adds || step > 0);
    wgmma_commit();
}

/* 64 rows of codes times TILE_N rows of w, stages [first, end) of a tile: int8. */
template <class S, int CLUSTER, int R>
__device__ __forceinline__ void multiply(int (&acc)[R], int first, int end, pipe<S> *p,
                                         int warpgroup)
{
    int before = -1;
    for (int k = first; k < end; k++) {
        const uint32_t at = p->wait();
        multiply_stage(acc, at + warpgroup * 64 * TILE_K, at + S::A_BYTES, k > 0);
        wgmma_wait<1>();
        if (before >= 0)
            release<CLUSTER>(p->empty, before);
        before = p->at.stage;
        p->at.template next<S>();
    }
    wgmma_wait<0>();
    registers_pin(acc);
    if (before >= 0)
        release<CLUSTER>(p->empty, before);
}

enum { HIGH_PIECE = 32 }; /* registers of sums that are made apart: 64 columns' */

/* acc += 256 high; in 32 bits, which hold the sum of all parts. */
__device__ __forceinline__ void add_high(int *acc, const int (&high)[HIGH_PIECE])
{
#pragma unroll
    for (int i = 0; i < HIGH_PIECE; i++)
        acc[i] = (int)((uint32_t)acc[i] + ((uint32_t)high[i] << 8));
}

/* ---- groups of high bytes between stages ---- */

/* A group of listed columns: the next of n.
 *
 * Each piece waits for the group again, though it is there: without a branch in between, ptxas
 * moves additions behind the next wgmma, and then serializes all of them. */
template <class S, int R>
__device__ __forceinline__ void multiply_group(int (&acc)[R], int n, high_side<S> *h)
{
    uint32_t x[4];
    h->wait_full();
    fragment_take<S::X_PITCH>(x, h->shared + h->x_at(), n);
#pragma unroll
    for (int i = 0; i < R; i += HIGH_PIECE) {
        int high[HIGH_PIECE];
        h->wait_full();
        registers_pin(acc);
        registers_pin(high);
        registers_pin(x);
        wgmma_fence();
        wgmma8_registers(high, x, matrix_descriptor_32(h->address + h->w_at() + 2 * i * HIGH_GROUP),
                         0);
        wgmma_commit();
        wgmma_wait<0>();
        registers_pin(high);
        registers_pin(x);
        add_high(acc + i, high);
    }
    h->give_back();
}

/* Low bytes, and a group of high ones as soon as its last column has come by, so that the next one
 * can be gathered; the last group at the end.  Nobody waits for the list to be made: the first
 * stages, `ahead`, are there before it, and no more than the ring has, as who gathers may hold all
 * of them until a group is multiplied.  How many columns there are. */
template <class S, int CLUSTER, int R>
__device__ __forceinline__ int multiply_groups(int (&acc)[R], const args8 &a, int ahead, pipe<S> *p,
                                               high_side<S> *h, int warpgroup)
{
    int first = min(ahead, a.a.n_k);
    multiply<S, CLUSTER>(acc, 0, first, p, warpgroup);
    const int found = h->wait_list(), n = found <= a.high.listed_max ? found : 0;
    const int groups = (n + HIGH_GROUP - 1) / HIGH_GROUP;
#pragma unroll 1
    for (int g = 0; g == 0 || g < groups; g++) {
        int end = a.a.n_k;
        if (g + 1 < groups)
            end = h->list()->column[(g + 1) * HIGH_GROUP - 1] / TILE_K + 1;
        end = __shfl_sync(0xffffffffu, max(first, end), 0); /* one for a warp, which wgmma wants */
        multiply<S, CLUSTER>(acc, first, end, p, warpgroup);
        if (groups > 0)
            multiply_group<S>(acc, n - g * HIGH_GROUP, h);
        first = end;
    }
    return found;
}

/* ---- high bytes of all columns ---- */

/* A stage's x is a box of all high bytes, by column. */
template <class S>
__device__ __forceinline__ void take_box(uint32_t (&f)[STEPS][4], const high_side<S> &h,
                                         const pipe<S> &p)
{
    const uint8_t *box = h.shared + (p.wait() - p.stages);
#pragma unroll
    for (int s = 0; s < STEPS; s++)
        fragment_take<S::TILE_M>(f[s], box + s * 32 * S::TILE_M, 32);
}

template <int R>
__device__ __forceinline__ void multiply_box(int (&high)[R], uint32_t (&f)[STEPS][4], uint32_t w_at,
                                             bool adds)
{
    const uint64_t w = matrix_descriptor(w_at, 16, 1024);
    registers_pin(high);
    fragments_pin(f);
    wgmma_fence();
#pragma unroll
    for (int s = 0; s < STEPS; s++)
        wgmma8_registers(high, f[s], w + 2 * s, adds || s > 0);
    wgmma_commit();
    wgmma_wait<0>();
    registers_pin(high);
    fragments_pin(f);
}

/* All of them, whose stages come once more.  Other than wgmma's operands, x is read by each warp
 * for itself: a stage goes back when all have read it. */
template <class S, int CLUSTER, int R>
__device__ __forceinline__ void multiply_all_high(int (&acc)[R], int n_k, pipe<S> *p,
                                                  const high_side<S> &h, int warpgroup)
{
#pragma unroll 1
    for (int k = 0; k < n_k; k++) {
        uint32_t f[STEPS][4];
        take_box<S>(f, h, *p);
#pragma unroll
        for (int i = 0; i < R; i += HIGH_PIECE) {
            int high[HIGH_PIECE];
            const uint32_t w = p->wait() + S::A_BYTES + 2 * i * TILE_K;
            registers_pin(acc);
            multiply_box(high, f, w, false);
            add_high(acc + i, high);
        }
        barrier_sync(1 + warpgroup, 128);
        release<CLUSTER>(p->empty, p->at.stage);
        p->at.template next<S>();
    }
}

template <class S, int CLUSTER, int R>
__device__ __forceinline__ void multiply_outliers(int (&acc)[R], const args8 &a, int ahead,
                                                  pipe<S> *p, high_side<S> *h, int warpgroup)
{
    const int found = multiply_groups<S, CLUSTER>(acc, a, ahead, p, h, warpgroup);
    if (found > a.high.listed_max)
        multiply_all_high<S, CLUSTER>(acc, a.a.n_k, p, *h, warpgroup);
}

/* E4M3: 128 k from zero, then in f32. */
template <class S, int CLUSTER, int R>
__device__ __forceinline__ void multiply(float (&sum)[R], int, int n_k, pipe<S> *p, int warpgroup)
{
    const int PIECE = R < 64 ? R : 64, PIECES = R / PIECE; /* registers of 128 columns */
#pragma unroll
    for (int i = 0; i < R; i++)
        sum[i] = 0;
    for (int k = 0; k < n_k; k++) {
        const uint32_t at = p->wait();
#pragma unroll
        for (int piece = 0; piece < PIECES; piece++) {
            float acc[PIECE];
            multiply_stage(acc, at + warpgroup * 64 * TILE_K,
                           at + S::A_BYTES + piece * 2 * PIECE * TILE_K, false);
            wgmma_wait<0>();
            registers_pin(acc);
            if (piece == PIECES - 1)
                release<CLUSTER>(p->empty, p->at.stage);
#pragma unroll
            for (int i = 0; i < PIECE; i++)
                sum[piece * PIECE + i] = __fadd_rn(sum[piece * PIECE + i], acc[i]);
        }
        p->at.template next<S>();
    }
}

} // namespace

#endif
