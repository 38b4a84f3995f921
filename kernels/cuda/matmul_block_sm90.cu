/* matmul_block_sm90.cu - products of many rows with weights of a block format on Hopper: wgmma.
 *
 * y^T = w x^T: the weights are the 64 rows of wgmma, rows of x its columns.  x lies in shared
 * memory, as the copy engine brings it; a thread fetches it and codes, 128 columns of k a stage, in
 * three or four copies.  Blocks stay and take tile after tile.  Two ways from codes to weights:
 *
 *   small tiles   64 rows of the weights by 64 or 128 of x: other warps write them into shared
 * memory (block_wide_expand.cuh). large tiles   256 by 128: the warps that multiply make fragments
 * in registers (block_wide_sums.cuh), which spares shared memory the traffic.
 *
 * One chain over k either way, as in every product. */
#include "kernels/cuda/block_choose.h"
#include "kernels/cuda/block_store.cuh"
#include "kernels/cuda/block_wide_expand.cuh"
#include "kernels/cuda/block_wide_sums.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/scheme_wide_store.cuh"
#include "kernels/cuda/tensor_map.h"

namespace
{

enum { SHARED_MAX = 227 * 1024 - 1024, ALIGN = 1024 };

/* ---- what both have ---- */

__device__ __forceinline__ void ring_init(const block_wide_ring &r, int n_full, int n_empty)
{
    for (int i = 0; i < r.n; i++) {
        mbarrier_init(r.full + 8 * i, n_full);
        mbarrier_init(r.empty + 8 * i, n_empty);
    }
}

/* ---- large tiles ---- */

enum { LARGE_MATHS = 256, LARGE_WARPS = LARGE_MATHS / 32, LARGE_THREADS = LARGE_MATHS + 128 };

/* grid: [blocks]   block: [LARGE_THREADS]: two warpgroups multiply, a thread of the third fetches
 */
template <class T, int FORMAT, int N, int BLOCKS>
__global__ void __launch_bounds__(LARGE_THREADS, 1)
    large_kernel(const __grid_constant__ block_wide_maps maps,
                 const __grid_constant__ block_wide_args a)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    DYNAMIC_SHARED(uint8_t, shared_raw);
    __shared__ uint64_t bars[2 * BLOCK_WIDE_STAGES_MAX];
    const block_wide_ring r = {(shared_addr(shared_raw) + ALIGN - 1) & ~(ALIGN - 1),
                               shared_addr(bars),
                               shared_addr(bars + BLOCK_WIDE_STAGES_MAX),
                               (uint32_t)a.stage_bytes,
                               a.stages,
                               0,
                               0};
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (threadIdx.x == LARGE_MATHS) {
        tensor_map_prefetch(&maps.w);
        tensor_map_prefetch(&maps.x);
        ring_init(r, 1, LARGE_WARPS);
        fence_mbarrier_init();
    }
    __syncthreads();
    depend_launch();
    if (warp >= LARGE_WARPS) {
        registers_give<24>();
        if (threadIdx.x == LARGE_MATHS)
            block_wide_feeder<8 * BLOCKS, N>{maps, a, r}.run();
    } else {
        registers_take<240>();
        depend_wait();
        block_wide_sums<T, FORMAT, N, BLOCKS> s(a, r, warp, lane);
        const uint32_t piece = r.base + a.stages * a.stage_bytes + warp * STORE_BYTES;
        for (int i = blockIdx.x; i < a.row_tiles * a.col_tiles; i += gridDim.x) {
            const block_wide_place t = block_wide_place_at(a, i, 8 * BLOCKS, N);
            typedef wide_store<T, N, BLOCKS> store;
            store(a.p, piece, t.row, t.unit * UNIT_ROWS, warp, lane).prefetch();
            s.run();
            store(a.p, piece, t.row, t.unit * UNIT_ROWS, warp, lane).run(s.sum);
        }
    }
#endif
}

/* ---- small tiles ---- */

template <int N> struct small {
    static const int EXPANDERS = N == 128 ? 8 : 16; /* warps */
    static const int THREADS = 128 + EXPANDERS * 32 + 32;
    static const int WEIGHTS = N == 128 ? 3 : 4; /* places of their ring */
    static const int UNITS = BLOCK_WEIGHTS_ROWS / UNIT_ROWS;
    static const int X_BYTES = 2 * N * BLOCK_WIDE_BOX * 2;
};

template <class T, int N>
__device__ __forceinline__ void small_store(block_wide_products<T, N> &s, const block_wide_args &a,
                                            const block_wide_place &t, uint32_t piece, int warp,
                                            int lane)
{
    const bool pairs = a.p.w_up != nullptr;
    if (pairs)
        block_store_pairs<T, N>(a.p, piece, t.row, t.unit * UNIT_ROWS, warp, lane).run(s.sum);
    else
        wide_store<T, N, 1>(a.p, piece, t.row, t.unit * UNIT_ROWS, warp, lane).run(s.sum);
}

/* What a warp that expands does: it asks for the format once. */
template <class T, int FORMAT = DT_Q4_0>
__device__ __forceinline__ void expand(enum dtype format, const block_wide_args &a,
                                       const block_wide_ring &codes, const block_wide_ring &weights,
                                       uint32_t x_bytes, int lane, int mine, int by, int n)
{
    if (format == FORMAT)
        block_wide_expander<T, FORMAT>(a, codes, weights, x_bytes, mine % BLOCK_WEIGHTS_PIECES,
                                       lane)
            .run(mine / BLOCK_WEIGHTS_PIECES, by / BLOCK_WEIGHTS_PIECES, n);
    else if constexpr (FORMAT < DT_Q6_K)
        expand<T, FORMAT + 1>(format, a, codes, weights, x_bytes, lane, mine, by, n);
}

/* grid: [blocks]   block: a warpgroup multiplies, EXPANDERS warps expand, one thread fetches */
template <class T, int N>
__global__ void __launch_bounds__(small<N>::THREADS, 1)
    small_kernel(const __grid_constant__ block_wide_maps maps,
                 const __grid_constant__ block_wide_args a)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    using S = small<N>;
    DYNAMIC_SHARED(uint8_t, shared_raw);
    __shared__ uint64_t bars[2 * BLOCK_WIDE_STAGES_MAX + 2 * S::WEIGHTS];
    const uint32_t base = (shared_addr(shared_raw) + ALIGN - 1) & ~(ALIGN - 1);
    const block_wide_ring weights = {base,
                                     shared_addr(bars + 2 * BLOCK_WIDE_STAGES_MAX),
                                     shared_addr(bars + 2 * BLOCK_WIDE_STAGES_MAX + S::WEIGHTS),
                                     BLOCK_WEIGHTS_BYTES,
                                     S::WEIGHTS,
                                     0,
                                     0};
    const block_wide_ring codes = {base + S::WEIGHTS * BLOCK_WEIGHTS_BYTES,
                                   shared_addr(bars),
                                   shared_addr(bars + BLOCK_WIDE_STAGES_MAX),
                                   (uint32_t)a.stage_bytes,
                                   a.stages,
                                   0,
                                   0};
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int tiles = a.row_tiles * a.col_tiles;
    if (threadIdx.x == 0) {
        tensor_map_prefetch(&maps.w);
        tensor_map_prefetch(&maps.x);
        ring_init(codes, 1, 4);
        ring_init(weights, BLOCK_WEIGHTS_PIECES, 4);
        fence_mbarrier_init();
    }
    __syncthreads();
    depend_launch();
    if (warp == 4 + S::EXPANDERS) {
        if (lane == 0)
            block_wide_feeder<S::UNITS, N>{maps, a, codes}.run();
    } else if (warp >= 4) {
        const int mine = warp - 4,
                  n = (tiles - (int)blockIdx.x + (int)gridDim.x - 1) / (int)gridDim.x;
        expand<T>(a.p.blocks, a, codes, weights, S::X_BYTES, lane, mine, S::EXPANDERS, n * a.n_k);
    } else {
        depend_wait();
        block_wide_products<T, N> s(a, codes, weights, lane);
        const uint32_t piece = codes.base + a.stages * a.stage_bytes + warp * STORE_BYTES;
        for (int i = blockIdx.x; i < tiles; i += gridDim.x) {
            const block_wide_place t = block_wide_place_at(a, i, S::UNITS, N);
            s.run();
            small_store<T, N>(s, a, t, piece, warp, lane);
        }
    }
#endif
}

/* ---- launching ---- */

int divide_up(int a, int b)
{
    return (a + b - 1) / b;
}

typedef void wide_function(const block_wide_maps, const block_wide_args);

struct cut { /* what a kernel is launched with */
    wide_function *kernel;
    int units, n; /* of a tile: units of w, rows of x */
    int threads, fixed_bytes;
};

void launch_cut(struct device *d, block_wide_args *a, size_t unit_bytes, const cut &c)
{
    const int box_units = a->p.w_up ? c.units / 2 : c.units;
    const void *up = a->p.w_up ? a->p.w_up : a->p.w;
    block_wide_maps maps;
    a->last_rows = ((a->p.rows - 1) % c.n / 8 + 1) * 8; /* a swizzle atom has 8 */
    tensor_map_2d(d, &maps.x, a->p.x, a->p.in, a->p.rows, a->p.in, BLOCK_WIDE_BOX, c.n);
    tensor_map_2d(d, &maps.x_last, a->p.x, a->p.in, a->p.rows, a->p.in, BLOCK_WIDE_BOX,
                  a->last_rows);
    tensor_map_units(d, &maps.w, a->p.w, a->tile_bytes, a->n_k, unit_bytes, a->n_units, 1,
                     box_units);
    tensor_map_units(d, &maps.w_up, up, a->tile_bytes, a->n_k, unit_bytes, a->n_units, 1,
                     box_units);
    a->row_tiles = divide_up(a->p.rows, c.n);
    a->col_tiles = divide_up(a->n_units, box_units);
    a->up_at = (uint32_t)divide_up(box_units * (int)a->tile_bytes, 128) * 128;
    a->stage_bytes =
        divide_up(2 * c.n * BLOCK_WIDE_BOX * 2 + c.units * (int)a->tile_bytes + 128, ALIGN) * ALIGN;
    const int fixed = ALIGN + LARGE_WARPS * STORE_BYTES + c.fixed_bytes;
    a->stages = (SHARED_MAX - fixed) / a->stage_bytes;
    a->stages = a->stages < BLOCK_WIDE_STAGES_MAX ? a->stages : BLOCK_WIDE_STAGES_MAX;
    cuda_check(
        d, cudaFuncSetAttribute(c.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_MAX),
        "shared memory of matmul");
    const int tiles = a->row_tiles * a->col_tiles;
    launch(d, "run matmul",
           {dim3((unsigned)(tiles < d->sm_count ? tiles : d->sm_count)), dim3((unsigned)c.threads),
            (size_t)(fixed + a->stages * a->stage_bytes), 0},
           c.kernel, maps, *a);
}

template <class T, int N> cut small_cut()
{
    using S = small<N>;
    return {small_kernel<T, N>, S::UNITS, N, S::THREADS, S::WEIGHTS * BLOCK_WEIGHTS_BYTES};
}

template <class T, int FORMAT> cut large_cut()
{
    return {large_kernel<T, FORMAT, 128, 2>, 16, 128, LARGE_THREADS, 0};
}

template <class T> cut cut_of(enum dtype format, enum block_tile_kind tile)
{
    static cut (*const large[])() = {
        large_cut<T, DT_Q4_0>, large_cut<T, DT_Q4_1>, large_cut<T, DT_Q5_0>, large_cut<T, DT_Q5_1>,
        large_cut<T, DT_Q8_0>, large_cut<T, DT_Q2_K>, large_cut<T, DT_Q3_K>, large_cut<T, DT_Q4_K>,
        large_cut<T, DT_Q5_K>, large_cut<T, DT_Q6_K>};
    static_assert(DT_Q6_K - DT_Q4_0 + 1 == sizeof large / sizeof large[0],
                  "one a format, in order");
    return tile == BLOCK_TILE_64_64    ? small_cut<T, 64>()
           : tile == BLOCK_TILE_64_128 ? small_cut<T, 128>()
                                       : large[format - DT_Q4_0]();
}

bool is_aligned(const void *at)
{
    return (uintptr_t)at % 16 == 0;
}

} // namespace

/* What is written and read is 8 values at a time; f32, for logits, one by one. */
bool matmul_block_sm90_fits(const struct device *d, const struct product *p)
{
    return d->cc == 90 && is_aligned(p->x) && p->in % 8 == 0 &&
           (p->y_f32
                ? !p->add && !p->gate_in_y && !p->w_up
                : is_aligned(p->y) && is_aligned(p->add) && p->n % 8 == 0 && p->y_stride % 8 == 0);
}

void matmul_block_sm90(struct device *d, const struct product *p)
{
    struct block_layout l;
    block_layout(&l, p->blocks, p->in);
    const enum block_tile_kind tile =
        block_choose_tile(p->rows, p->n, p->in, p->w_up != nullptr, d->sm_count);
    block_wide_args a = {};
    a.p = *p;
    a.tile_bytes = l.tile_bytes;
    a.n_units = divide_up(p->n, UNIT_ROWS);
    a.n_k = l.n_tiles;
    launch_cut(d, &a, l.unit_bytes,
               d->act == DT_F16 ? cut_of<__half>(p->blocks, tile)
                                : cut_of<__nv_bfloat16>(p->blocks, tile));
}
