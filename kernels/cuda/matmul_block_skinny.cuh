/* matmul_block_skinny.cuh - the skinny product of a block format: what its warps do, and a kernel
 * for each case.
 *
 * Units of 16 weight rows are the m16 operand of mma.m16n8k16, eight rows of x the n8 one; codes
 * become fragments in registers.  A warp owns a unit and walks all of k, so a value of y is one
 * chain of mma; nothing is split along k.  The mma of a chain wait for each other: what the next 32
 * columns need is read between those of the 32 before.
 *
 * Included by one .cu for each activation type. */
#ifndef KERNELS_CUDA_MATMUL_BLOCK_SKINNY_CUH
#define KERNELS_CUDA_MATMUL_BLOCK_SKINNY_CUH

#include "kernels/cuda/block_skinny.cuh"
#include "kernels/cuda/matmul_epilogue.cuh"

static_assert(BLOCK_SUMS_AT + 2 * ROWS_NORM_MAX * NORM_WARPS * 4 <= 1024, "barriers and sums fit");
static_assert((int)BLOCK_WARPS * 32 == (int)ROWS_THREADS, "the workers bring the rows");
static_assert((int)BLOCK_NORM_ROWS_MAX <= (int)ROWS_NORM_MAX, "as many rows are normalised");

/* What one warp does.  TILES: 2 where gate and up come in pairs. */
template <class T, int FORMAT, int ROWG, int TILES> struct block_worker {
    enum { QUARTERS = 4 }; /* of a tile: two steps each */
    const block_args &a;
    const block_share &s;
    int lane, mine;
    uint32_t x_lane;  /* this lane's place in 64 columns of x */
    uint32_t tile, x; /* in shared memory: of the tile that is read */
    uint32_t stage, full, parity;
    int in_stage, tile_index;
    /* What was read: of the quarter in hand, and of the next. */
    uint32_t xs[2][ROWG][4];
    block_quarter<T, FORMAT> quarter[2][TILES];
    block_supers<FORMAT> supers[TILES];
    float sum[TILES][ROWG][4];

    __device__ block_worker(const block_args &args, const block_share &share, int warp, int lane_)
        : a(args), s(share), lane(lane_), mine(warp), stage(share.ring), full(share.full), parity(0)
    {
        /* Resident: rows past the last repeat it; their sums are not stored. */
        x_lane = piece_at(0, a.c.resident ? min(lane % 8, a.p.rows - 1) : lane % 8, lane / 8);
    }

    /* ---- reading ---- */

    /* Quarter q of the tile at hand. */
    __device__ __forceinline__ void read(int q)
    {
#pragma unroll
        for (int r = 0; r < ROWG; r++)
            ldmatrix_x4(xs[q % 2][r],
                        ((x + (uint32_t)(q / 2) * a.c.x_box) ^ (uint32_t)(q % 2 * 64)) +
                            (uint32_t)(r * 1024));
#pragma unroll
        for (int t = 0; t < TILES; t++) {
            const uint32_t at = tile + (uint32_t)t * a.c.w_bytes;
            quarter[q % 2][t].load(at, q, lane);
            if (q == 0)
                supers[t].load(at, lane);
        }
    }

    __device__ __forceinline__ void go(int chunk)
    {
        tile = stage + (uint32_t)(mine * a.c.span + in_stage) * a.l.tile_bytes;
        x = x_lane + (a.c.resident ? s.x + (uint32_t)(2 * chunk) * a.c.x_box
                                   : stage + a.c.x_at + (uint32_t)(2 * in_stage) * a.c.x_box);
    }

    __device__ __forceinline__ void advance()
    {
        stage += a.c.stage_bytes;
        full += 8;
        if (full == s.full + 8 * (uint32_t)a.c.stages) {
            stage = s.ring;
            full = s.full;
            parity ^= 1;
        }
    }

    __device__ __forceinline__ void next_stage()
    {
        advance();
        in_stage = 0;
        mbarrier_wait_inside(full, parity);
    }

    /* The next tile, of the next stage where this one has no more; the last is read again, for
     * nothing. */
    __device__ __forceinline__ bool next_tile()
    {
        const bool is_last = tile_index + 1 == a.l.n_tiles;
        const bool leaves = is_last || in_stage + 1 == a.c.span;
        if (!leaves)
            in_stage++;
        else if (!is_last)
            next_stage();
        tile_index += !is_last;
        go(tile_index);
        return leaves;
    }

    __device__ __forceinline__ void leave(uint32_t full_of_stage)
    {
        __syncwarp();
        if (lane == 0)
            mbarrier_arrive(full_of_stage + BLOCK_STAGES_MAX * 8);
    }

    /* ---- multiplying ---- */

    /* What multiplies quarter q's codes: before the next tile is read. */
    __device__ __forceinline__ void prepare(block_rows (&rows)[TILES], int q)
    {
#pragma unroll
        for (int t = 0; t < TILES; t++)
            rows[t] = quarter[q % 2][t].rows(supers[t]);
    }

    __device__ __forceinline__ void multiply(const block_rows (&rows)[TILES], int q)
    {
#pragma unroll
        for (int step = 0; step < 2; step++)
#pragma unroll
            for (int t = 0; t < TILES; t++) {
                uint32_t f[4];
                quarter[q % 2][t].fragment(f, rows[t], q, step);
#pragma unroll
                for (int r = 0; r < ROWG; r++)
                    mma_16816(sum[t][r], f, xs[q % 2][r] + 2 * step, T());
            }
    }

    /* All of k, from the stage in hand; it is left, and the next is not waited for. */
    __device__ __forceinline__ void pass()
    {
        in_stage = tile_index = 0;
        mbarrier_wait_inside(full, parity);
        go(0);
        read(0);
#pragma unroll 1
        for (int i = 0; i < a.l.n_tiles; i++) {
            block_rows rows[TILES];
#pragma unroll
            for (int q = 0; q < QUARTERS - 1; q++) {
                read(q + 1);
                prepare(rows, q);
                multiply(rows, q);
            }
            prepare(rows, QUARTERS - 1);
            const uint32_t from = full;
            const bool leaves = next_tile();
            read(0);
            multiply(rows, QUARTERS - 1);
            if (leaves)
                leave(from);
        }
        advance();
    }

    /* ---- y ---- */

    __device__ void store(int unit)
    {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int row = lane % 4 * 2 + j % 2, col = unit * UNIT_ROWS + lane / 4 + j / 2 * 8;
#pragma unroll
            for (int r = 0; r < ROWG; r++)
                epilogue_one<T>(a.p, 8 * r + row, col, sum[0][r][j], sum[TILES - 1][r][j]);
        }
    }

    __device__ void run()
    {
        for (int i = 0; i < s.passes; i++) {
            const int unit = s.first_unit + i * a.c.units + mine;
#pragma unroll
            for (int j = 0; j < TILES * ROWG * 4; j++)
                (&sum[0][0][0])[j] = 0;
            pass();
            if (unit < s.end_unit)
                store(unit);
        }
    }
};

/* grid: blocks of equal shares of units; block: BLOCK_THREADS. */
template <class T, int FORMAT, int ROWG, int TILES>
__global__ void __launch_bounds__(BLOCK_THREADS, 2)
    block_skinny_kernel(const __grid_constant__ block_maps maps,
                        const __grid_constant__ block_args a)
{
#if __CUDA_ARCH__ == 900 /* weight_layout_of gives other devices 16-bit weights */
    DYNAMIC_SHARED(uint8_t, shared);
    uint8_t *base = (uint8_t *)(((uintptr_t)shared + 1023) & ~(uintptr_t)1023);
    const block_share s = block_share_of(a, shared_addr(base));
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    depend_launch();
    if (threadIdx.x == BLOCK_WARPS * 32) {
        tensor_map_prefetch(&maps.w[0]);
        for (int i = 0; i < a.c.stages; i++) {
            mbarrier_init(s.full + 8 * i, 1);
            mbarrier_init(s.empty + 8 * i, (uint32_t)a.c.units);
        }
        fence_mbarrier_init();
    }
    __syncthreads();
    if (warp == BLOCK_WARPS) {
        if (lane == 0)
            block_feeder<TILES>{maps, a, s, policy_evict_first(), policy_evict_last()}.run();
        return;
    }
    depend_wait();
    if (a.c.resident) {
        x_load(s.x, a);
        if (a.p.norm)
            x_norm<typename pair_of<T>::type>(base + 1024, a,
                                              (float(*)[NORM_WARPS])(base + BLOCK_SUMS_AT));
        barrier_sync(ROWS_BARRIER, ROWS_THREADS);
    }
    if (warp < a.c.units)
        block_worker<T, FORMAT, ROWG, TILES>(a, s, warp, lane).run();
#endif
}

/* ---- the kernels ---- */

template <class T, int FORMAT> block_function *block_kernel_of(int row_groups, bool gated)
{
    if (gated)
        return row_groups == 1 ? block_skinny_kernel<T, FORMAT, 1, 2>
                               : block_skinny_kernel<T, FORMAT, 2, 2>;
    return row_groups == 1 ? block_skinny_kernel<T, FORMAT, 1, 1>
                           : block_skinny_kernel<T, FORMAT, 2, 1>;
}

template <class T> block_function *block_kernel(enum dtype format, int row_groups, bool gated)
{
    static block_function *(*const of[])(int, bool) = {
        block_kernel_of<T, DT_Q4_0>, block_kernel_of<T, DT_Q4_1>, block_kernel_of<T, DT_Q5_0>,
        block_kernel_of<T, DT_Q5_1>, block_kernel_of<T, DT_Q8_0>, block_kernel_of<T, DT_Q2_K>,
        block_kernel_of<T, DT_Q3_K>, block_kernel_of<T, DT_Q4_K>, block_kernel_of<T, DT_Q5_K>,
        block_kernel_of<T, DT_Q6_K>};
    static_assert(DT_Q6_K - DT_Q4_0 + 1 == sizeof of / sizeof of[0], "one a format, in order");
    return of[format - DT_Q4_0](row_groups, gated);
}

#endif
