/* matmul_scheme_sm90.cuh - products of many rows with the weights of a scheme on Hopper: wgmma
 * whose A comes from registers.
 *
 * y^T = w x^T: the weights are the 64 rows of wgmma, rows of x its columns.  A unit's codes lie as
 * the fragments of 16 rows do (scheme_layout.h), so a warp expands them in registers and
 * multiplies; x lies in shared memory, as the copy engine brings it.  A tile is 64 to 192 rows of
 * the weights by 32 to 256 rows of x: one to three warpgroups multiply, a thread of the last
 * fetches 128 columns of k a stage, in two to four copies.  Blocks stay and take tile after tile.
 *
 * Why so.  Chains of 128 columns are scaled and added in f32, so a sum is two accumulators, and
 * what registers hold is 128 by 256 sums with the chains of half of them.  A wgmma of 64 by N
 * takes the tensor cores N / 2 clocks; beside it, measured, a quarter of an SM has no more than N /
 * 4 clocks for other instructions, as the accumulators pass through its registers.  Making the
 * fragment and adding the chain are some 15 (25 when it was decided) and N / 8: fragments made for
 * 128 rows of x bound the products, so the largest tile makes them once for 256
 * (scheme_wide_passes.cuh).  The second-level cache gives 24 to 35 bytes a clock with 4-bit codes
 * (bf16 times bf16 in tiles of 128 by 256: 48).  Other tiles are there so that all SMs have as much
 * to do; for the same the last tiles are shared by the blocks (scheme_wide_share.cuh).  Of what a
 * tile reads x is most, so two blocks that have tiles side by side may bring each half of it for
 * both (scheme_wide_feed.cuh): which do, scheme_wide_choose.c says.
 *
 * Measured: the end of a tile by ordinary loads and stores, which overlapped with nothing, took as
 * long as a tenth to a quarter of its products; so the copy engine carries y (scheme_wide_end.cuh).
 * A warp's number that the compiler does not know to be one for the warp costs 30 registers.  Many
 * copies a stage, each by its own lane, cost 110 cycles each and bounded all tiles.
 *
 * Included by one .cu for each activation type. */
#ifndef KERNELS_CUDA_MATMUL_SCHEME_SM90_CUH
#define KERNELS_CUDA_MATMUL_SCHEME_SM90_CUH

#include <assert.h>

#include "kernels/cuda/choose_int.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/scheme_wide_end.cuh"
#include "kernels/cuda/scheme_wide_feed.cuh"
#include "kernels/cuda/scheme_wide_passes.cuh"
#include "kernels/cuda/scheme_wide_share.cuh"
#include "kernels/cuda/tensor_map.h"

namespace
{

enum {
    SHARED_MAX = 227 * 1024 - 1024,
    ALIGN_BYTES = 1024, /* of a stage, and room to align the first */
    BARRIER_MATHS = 1,  /* of those that multiply */
};

/* ---- shared memory, in bytes ---- */

template <int EXPAND, class TILE> __host__ __device__ constexpr int book_bytes()
{
    return wide_has_table<TILE>(EXPAND) ? table_bytes(wide_table_row<TILE>()) : 0;
}

/* Of a stage with so many bytes of codes. */
template <class TILE> __host__ __device__ constexpr int stage_bytes(int codes)
{
    const int x = 2 * TILE::PASS_ROWS * BOX * 2;
    return (x + codes + ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES;
}

__host__ __device__ constexpr int stages_in(int room, int stage)
{
    return room / stage < STAGES_MAX ? room / stage : STAGES_MAX;
}

/* Pieces of a warpgroup's ring, where a tile is not gated.  In one pass 32 rows and 32 more, and
 * then, up to all of a tile, what costs no stage; in two passes as were measured.  With 64 rows,
 * what is added comes late: an end of 64 by 160 took 4400 clocks, of 128 by 160 5000, where it
 * takes 3000 and 3300 (NF4). */
template <int EXPAND, class TILE, int PARTS> __host__ __device__ constexpr int ring_pieces()
{
    const int rows = piece_rows(TILE::N, false), all = TILE::N / rows;
    const int few = (TILE::BLOCKS + 1) * 32 / rows;
    if (TILE::PASSES == 2)
        return (expand_is_int4(EXPAND) ? 6 : 4) * 32 / rows;
    if (TILE::BLOCKS > 1 || all <= few)
        return few;
    const int piece = TILE::GROUPS * rows * PIECE_COLS * 2; /* of all warpgroups */
    const int stage = stage_bytes<TILE>(TILE::UNITS * wide_chains<EXPAND, PARTS>::TILE_BYTES);
    const int room = SHARED_MAX - ALIGN_BYTES - book_bytes<EXPAND, TILE>() - few * piece;
    const int most = few + (room - stages_in(room, stage) * stage) / piece;
    return most < all ? most : all;
}

/* Rows of an end whose code lies unrolled.  160 whole instead of 32 by 32 take, in 64 by 160, 1 to
 * 3 % less of a product's time (4096 x 4096), in 128 by 160 6 % less with INT4 and 1 % less with
 * NF4, and with INT8 3 % more. */
template <int EXPAND, class TILE> __host__ __device__ constexpr int end_rows()
{
    if (TILE::N % 64 == 0)
        return 64;
    if (TILE::N % 32 == 0 && (TILE::N > 176 || (TILE::GROUPS > 1 && expand_bits(EXPAND) == 8)))
        return 32;
    return TILE::N;
}

template <int EXPAND, class TILE, int PARTS, bool GATED> struct shape {
    typedef wide_pieces<TILE, GATED, ring_pieces<EXPAND, TILE, PARTS>()> pieces;
    static const int END_ROWS = end_rows<EXPAND, TILE>();
    static const int FIXED_BYTES = ALIGN_BYTES + pieces::BYTES + book_bytes<EXPAND, TILE>();
    static const int TILE_BYTES = wide_chains<EXPAND, PARTS>::TILE_BYTES; /* of a unit */
};

/* ---- the warps that multiply ---- */

/* The scales of this lane's two rows, where rows have one each: they lie behind a unit's tiles. */
template <class TILE>
__device__ __forceinline__ const float2 *row_scales(const wide_args &a, const place<TILE> &t, int b,
                                                    int warp, int lane)
{
    const int in_tile = TILE::WARPS * b + warp % TILE::WARPS;
    const bool of_up = a.p.w_up && in_tile >= TILE::UNITS / 2;
    const int unit = min(t.unit + in_tile - (of_up ? TILE::UNITS / 2 : 0), a.n_units - 1);
    const uint8_t *w = (const uint8_t *)(of_up ? a.p.w_up : a.p.w) + unit * a.unit_bytes;
    return (const float2 *)(w + a.row_scales_at) + lane / 4;
}

/* What scale_rows will read: an end waits 400 to 700 clocks longer for it if from memory. */
template <class TILE>
__device__ __forceinline__ void bring_row_scales(const wide_args &a, const place<TILE> &t, int warp,
                                                 int lane)
{
#pragma unroll
    for (int b = 0; b < TILE::BLOCKS; b++)
        prefetch_l1(row_scales<TILE>(a, t, b, warp, lane));
}

template <class TILE>
__device__ __forceinline__ void scale_rows(float (&sum)[TILE::BLOCKS][TILE::N / 2],
                                           const wide_args &a, const place<TILE> &t, int warp,
                                           int lane)
{
#pragma unroll
    for (int b = 0; b < TILE::BLOCKS; b++) {
        const float2 of = *row_scales<TILE>(a, t, b, warp, lane);
        const float2 by = {of.x * a.codes.scale_factor, of.y * a.codes.scale_factor};
#pragma unroll
        for (int i = 0; i < TILE::N / 2; i++)
            sum[b][i] = __fmul_rn(i % 4 < 2 ? by.x : by.y, sum[b][i]);
    }
}

/* A tile's sums to y. */
template <class T, class SHAPE, class TILE, wide_ending ENDING>
__device__ __forceinline__ void
end_tile(float (&sum)[TILE::BLOCKS][TILE::N / 2], const wide_args &a, const place<TILE> &t,
         wide_ring &pieces, const wide_ring &away, int warp, int lane)
{
    const int col = t.unit * UNIT_ROWS;
    if constexpr (ENDING == ENDING_ANY)
        wide_store<T, TILE::N, TILE::BLOCKS>(a.p, pieces.stages + warp * STORE_BYTES, t.row, col,
                                             warp, lane)
            .run(sum);
    else
        wide_end<T, TILE, typename SHAPE::pieces, SHAPE::END_ROWS>{a.p, pieces, away, t.row,
                                                                   col, warp,   lane}
            .run(sum);
}

template <class T, int EXPAND, class TILE, int PARTS, wide_ending ENDING, class SUMS>
__device__ __forceinline__ void multiply(SUMS &s, const wide_args &a, uint32_t line,
                                         wide_ring &pieces, const wide_ring &away, int warp,
                                         int lane)
{
    const bool SHARES = ENDING != ENDING_ANY;
    for (int i = 0;; i++) {
        const scheme_wide_part part = part_of(line, a, i);
        if (part.first == part.end)
            return;
        if (a.codes.row_scale)
            bring_row_scales<TILE>(a, place<TILE>(a, part.tile), warp, lane);
        begin_sums<TILE>(s.sum, a, !SHARES || part.first == 0, warp, lane);
        /* By a shuffle for the compiler, as `warp` below. */
        s.run(__shfl_sync(~0u, part.end - part.first, 0));
        const scheme_wide_part done = part_of(line, a, computed_again(i));
        if (SHARES && done.end < a.n_k) {
            give_sums<TILE>(s.sum, a, warp, lane);
            continue;
        }
        const place<TILE> t(a, done.tile);
        if (a.codes.row_scale)
            scale_rows<TILE>(s.sum, a, t, warp, lane);
        typedef shape<EXPAND, TILE, PARTS, ENDING == ENDING_SILU> in_shared;
        end_tile<T, in_shared, TILE, ENDING>(s.sum, a, t, pieces, away, warp, lane);
    }
}

/* pieces: [groups][states][ring] */
template <class TILE, class PIECES>
__device__ void init_barriers(const wide_ring &stages, uint32_t agreed, uint32_t pieces)
{
    for (int s = 0; s < stages.n; s++) {
        mbarrier_init(stages.full + 8 * s, 1);
        mbarrier_init(stages.empty + 8 * s, TILE::WARPS * 32);
        mbarrier_init(agreed + 8 * s, 1);
    }
    for (int i = 0; i < TILE::GROUPS * PIECES::STATES * PIECES::RING; i++) {
        const bool is_given = i / PIECES::RING % PIECES::STATES == 0;
        mbarrier_init(pieces + 8 * i, is_given ? 1 : 4);
    }
    fence_mbarrier_init();
}

/* A warpgroup's, whose barriers are bars. */
template <class TILE, class PIECES>
__device__ __forceinline__ wide_ring pieces_of(int group, uint32_t first,
                                               uint64_t (&bars)[PIECES::STATES][PIECES::RING])
{
    return {first + group * PIECES::BYTES / TILE::GROUPS,
            shared_addr(bars[0]),
            shared_addr(bars[1]),
            PIECES::PIECE_BYTES,
            PIECES::ring(group),
            0,
            0};
}

/* grid: [blocks]   block: [TILE::THREADS]: warpgroups that multiply; of the last a thread fetches,
 * others carry, a warp brings near */
template <class T, int EXPAND, class TILE, int PARTS, wide_ending ENDING>
__global__ void __launch_bounds__(TILE::THREADS, 1)
    matmul_scheme_kernel(const __grid_constant__ wide_maps maps,
                         const __grid_constant__ wide_args a)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    DYNAMIC_SHARED(uint8_t, shared_raw);
    const bool gated = ENDING == ENDING_SILU;
    using S = shape<EXPAND, TILE, PARTS, gated>;
    typedef typename S::pieces pieces;
    __shared__ uint64_t bars[3 * STAGES_MAX],
        piece_bars[TILE::GROUPS][pieces::STATES][pieces::RING];
    __shared__ uint4 line_parts[SCHEME_WIDE_PARTS];
    const wide_ring r = {(shared_addr(shared_raw) + 1023) & ~1023u,
                         in_register(shared_addr(bars)),
                         in_register(shared_addr(bars + STAGES_MAX)),
                         (uint32_t)a.stage_bytes,
                         a.stages,
                         0,
                         0};
    const uint32_t line = shared_addr(line_parts), agreed = shared_addr(bars + 2 * STAGES_MAX);
    /* From a shuffle, so that the compiler sees that a warp has one, and keeps what follows from it
     * in uniform registers.  At a tile's end it is used % TILE::WARPS, so that the compiler
     * sees how large it is too: without that 128 by 256 takes 10 % longer with INT4, and 128 by 128
     * with NF4. */
    const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
    const int last = warp - TILE::MATHS / 32; /* of the last warpgroup, from 0 */
    /* A warpgroup's, its carrier's; others have no use for it. */
    const int group = last < 0 ? warp / 4 % TILE::GROUPS : min(max(last - 1, 0), TILE::GROUPS - 1);
    const uint32_t behind = r.stages + a.stages * a.stage_bytes, table = behind + pieces::BYTES;
    wide_ring out = pieces_of<TILE, pieces>(group, behind, piece_bars[group]);
    wide_ring away = out; /* the other warpgroup's */
    if (gated && last < 0) {
        away = pieces_of<TILE, pieces>(1 - group, behind, piece_bars[1 - group]);
        out.full = shared_addr(piece_bars[group][pieces::STATES - 1]);
        away.empty = shared_addr(piece_bars[1 - group][pieces::STATES - 1]);
    }
    if (threadIdx.x == TILE::MATHS) {
        tensor_map_prefetch(&maps.w);
        tensor_map_prefetch(&maps.x);
        tensor_map_prefetch(&maps.x_last);
        init_barriers<TILE, pieces>(r, agreed, shared_addr(piece_bars));
    }
    if (threadIdx.x - (TILE::MATHS + 32) < SCHEME_WIDE_PARTS)
        share_line(line, a, threadIdx.x - (TILE::MATHS + 32));
    __syncthreads();
    if (a.plan.cluster == 2)
        cluster_arrive();
    depend_launch();
    if (last >= 0) {
        if constexpr (TILE::GROUPS > 1)
            registers_give<TILE::REGISTERS_LEFT>();
        if (last == 0 && lane == 0)
            feeder<TILE>{maps, a, line, agreed, r}.run();
        else if (TILE::GROUPS <= 2 && last == 3)
            bring_near<T, TILE>(a, line, lane);
        else if (last > 0 && last <= TILE::GROUPS && lane == 0 && ENDING != ENDING_ANY)
            carry<pieces, TILE>(maps, a, line, group, out);
        return;
    }
    if constexpr (TILE::GROUPS > 1)
        registers_take<TILE::REGISTERS>();
    if (wide_has_table<TILE>(EXPAND)) { /* while the first stages are on their way */
        table_make<wide_table_row<TILE>()>(table, a.codes.book, threadIdx.x, TILE::MATHS);
        barrier_sync(BARRIER_MATHS, TILE::MATHS);
    }
    depend_wait();
    wide_sums_of<T, EXPAND, TILE, PARTS> s(a.codes, r, table, warp, lane);
    multiply<T, EXPAND, TILE, PARTS, ENDING>(s, a, line, out, away, warp, lane);
#endif
}

/* ---- launching ---- */

template <class T, int EXPAND, class TILE, int PARTS, wide_ending ENDING>
void launch_kernel(struct device *d, wide_args *a)
{
    using S = shape<EXPAND, TILE, PARTS, ENDING == ENDING_SILU>;
    typedef typename S::pieces pieces;
    auto *kernel = matmul_scheme_kernel<T, EXPAND, TILE, PARTS, ENDING>;
    const int box_units = a->p.w_up ? TILE::UNITS / 2 : TILE::UNITS;
    wide_maps maps;
    a->last_rows = ((a->p.rows - 1) % TILE::PASS_ROWS / 8 + 1) * 8; /* a swizzle atom has 8 */
    tensor_map_2d(d, &maps.x, a->p.x, a->p.in, a->p.rows, a->p.in, BOX, TILE::PASS_ROWS);
    tensor_map_2d(d, &maps.x_last, a->p.x, a->p.in, a->p.rows, a->p.in, BOX, a->last_rows);
    tensor_map_units(d, &maps.w, a->p.w, a->codes.tile_bytes, a->n_k, a->unit_bytes, a->n_units, 1,
                     box_units);
    tensor_map_units(d, &maps.w_up, a->p.w_up ? a->p.w_up : a->p.w, a->codes.tile_bytes, a->n_k,
                     a->unit_bytes, a->n_units, 1, box_units);
    if (ENDING != ENDING_ANY) {
        const void *add = a->p.add ? a->p.add : a->p.y;
        tensor_map_2d(d, &maps.y, a->p.y, a->p.n, a->p.rows, a->p.y_stride, PIECE_COLS,
                      pieces::ROWS);
        tensor_map_2d(d, &maps.add, add, a->p.n, a->p.rows, a->p.y_stride, PIECE_COLS,
                      pieces::ROWS);
    }
    if (ENDING == ENDING_ANY) /* its tiles are not those that are planned */
        a->plan.cluster = 1;
    a->row_tiles = divide_up(a->p.rows, TILE::N);
    a->col_tiles = divide_up(a->n_units, box_units * a->plan.cluster);
    a->codes.up_pad = a->p.w_up ? TILE::UNITS / 2 * a->codes.tile_bytes % 128 : 0;
    a->codes.up_pad = (128 - a->codes.up_pad) % 128;
    a->stage_bytes =
        stage_bytes<TILE>(TILE::UNITS * (int)a->codes.tile_bytes + (int)a->codes.up_pad);
    a->stages = stages_in(SHARED_MAX - S::FIXED_BYTES, a->stage_bytes);
    assert((int)a->codes.tile_bytes == S::TILE_BYTES);
    /* One in hand and the next; of one block, one whose wgmma may still run too. */
    assert(a->stages >= (TILE::BLOCKS == 1 ? 3 : 2));
    static thread_local int ready_on; /* 1 + the device whose function has it; a thread for each */
    if (ready_on != d->index + 1) {
        cuda_check(
            d,
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_MAX),
            "shared memory of matmul");
        ready_on = d->index + 1;
    }
    const int all = a->row_tiles * a->col_tiles;
    if (ENDING == ENDING_ANY) /* the rest of its plan */
        a->plan = {all, all < d->sm_count ? all : d->sm_count, all, 1};
    assert(a->plan.tiles == all);
    static_assert(TILE::MATHS * TILE::BLOCKS * TILE::N / 2 <= SCHEME_WIDE_SUMS &&
                      TILE::WARPS <= SCHEME_WIDE_WARPS,
                  "there is room for what is handed on");
    a->waves = a->plan.whole / a->plan.workers;
    launch(d, "run matmul",
           {dim3((unsigned)(a->plan.workers * a->plan.cluster)), dim3(TILE::THREADS),
            (size_t)(S::FIXED_BYTES + a->stages * a->stage_bytes), a->plan.cluster == 2 ? 2 : 0},
           kernel, maps, *a);
}

template <class T, int EXPAND, int PARTS>
void launch_gated(struct device *d, wide_args *a, enum scheme_wide_tile tile)
{
    switch (tile) {
#define LAUNCH(WEIGHTS, ROWS)                                                                      \
    case SCHEME_TILE_##WEIGHTS##_##ROWS:                                                           \
        return launch_kernel<T, EXPAND, wide_tile<ROWS, WEIGHTS / 64, 1>, PARTS, ENDING_SILU>(d, a);
        SCHEME_WIDE_GATED_TILES(LAUNCH)
#undef LAUNCH
    default:
        assert(!"a tile of gated products");
    }
}

template <class T, int EXPAND, int PARTS>
void launch_plain(struct device *d, wide_args *a, enum scheme_wide_tile tile)
{
    switch (tile) {
#define LAUNCH(WEIGHTS, ROWS)                                                                      \
    case SCHEME_TILE_##WEIGHTS##_##ROWS:                                                           \
        return launch_kernel<T, EXPAND, wide_tile<ROWS, WEIGHTS / 64, 1>, PARTS, ENDING_ADD>(d, a);
        SCHEME_WIDE_TILES(LAUNCH)
#undef LAUNCH
    default:
        assert(!"a tile");
    }
}

template <class T, int EXPAND, int PARTS>
void launch_tile(struct device *d, wide_args *a, enum scheme_wide_tile tile)
{
    const wide_ending ending = wide_ending_of(&a->p);
    if constexpr (wide_is_common(EXPAND, PARTS))
        if (ending != ENDING_ANY)
            return ending == ENDING_SILU ? launch_gated<T, EXPAND, PARTS>(d, a, tile)
                                         : launch_plain<T, EXPAND, PARTS>(d, a, tile);
    launch_kernel<T, EXPAND, wide_tile<128, 2, 2>, PARTS, ENDING_ANY>(d, a);
}

template <class T, int EXPAND>
void launch_parts(struct device *d, wide_args *a, int parts, enum scheme_wide_tile tile)
{
    /* A codebook has 2 or 4; INT8 in several has zero points, and FP8 has one. */
    const bool has_book = EXPAND == EXPAND_CODEBOOK;
    const bool has_many = EXPAND != EXPAND_INT8 && EXPAND != EXPAND_FP8;
    if constexpr (!has_book) {
        if (parts == 0)
            return launch_tile<T, EXPAND, 0>(d, a, tile);
        if (parts == 1)
            return launch_tile<T, EXPAND, 1>(d, a, tile);
    }
    if constexpr (has_many) {
        if (parts == 2)
            return launch_tile<T, EXPAND, 2>(d, a, tile);
        if (parts == 4)
            return launch_tile<T, EXPAND, 4>(d, a, tile);
    }
    assert(!"a layout has a kernel");
}

template <class T>
void launch_expand(struct device *d, wide_args *a, int expand, int parts,
                   enum scheme_wide_tile tile)
{
    switch (expand) {
    case EXPAND_INT4:
        return launch_parts<T, EXPAND_INT4>(d, a, parts, tile);
    case EXPAND_INT4_ZERO:
        return launch_parts<T, EXPAND_INT4_ZERO>(d, a, parts, tile);
    case EXPAND_CODEBOOK:
        return launch_parts<T, EXPAND_CODEBOOK>(d, a, parts, tile);
    case EXPAND_INT8:
        return launch_parts<T, EXPAND_INT8>(d, a, parts, tile);
    case EXPAND_FP8:
        return launch_parts<T, EXPAND_FP8>(d, a, parts, tile);
    default:
        return launch_parts<T, EXPAND_INT8_ZERO>(d, a, parts, tile);
    }
}

} // namespace

#endif
