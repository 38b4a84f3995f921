/* matmul_act8_sm90.cu - products of many rows of 8-bit codes on Hopper: matmul_sm90.cu for bytes.
 *
 * The same tiles, ring and way to y; a stage holds 128 k.  Two blocks of a cluster work on
 * neighbouring tiles of rows: each fetches half of the w they share, for both.  Sums are
 * act8_multiply.cuh's; beside who fetches, other warps bring high bytes of outliers
 * (act8_high.cuh). */
#include "kernels/cuda/act8_map.cuh"
#include "kernels/cuda/act8_multiply.cuh"
#include "kernels/cuda/choose.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matmul_sm90.cuh"
#include "kernels/cuda/ptx_wgmma8.cuh"

namespace
{

enum kind { KIND_INT8, KIND_OUTLIERS, KIND_E4M3 };

template <kind K> struct of_kind {
    typedef int sum;
};
template <> struct of_kind<KIND_E4M3> {
    typedef float sum;
};

template <kind K, int TILE_M, int TILE_N, epilogue E>
using shape_of = shape<TILE_M, TILE_N, is_gated(E), K == KIND_OUTLIERS>;

/* The scales of a tile's columns on their way to shared memory, where each warpgroup has its own: a
 * thread holds some while the tile is multiplied. */
template <int TILE_N, bool GATED> struct column_scales {
    static const int EACH = (TILE_N + 127) / 128;
    float held[EACH];

    __device__ __forceinline__ void load(const args8 &a, const tile &t)
    {
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int at = threadIdx.x % 128 + 128 * i, part = GATED && at >= TILE_N / 2;
            const int column = t.n + at - (part ? TILE_N / 2 : 0);
            held[i] = at < TILE_N ? act8_column_scale(a.scales, part, min(column, a.a.n - 1)) : 0;
        }
    }

    __device__ __forceinline__ void put(float *to) const
    {
#pragma unroll
        for (int i = 0; i < EACH; i++)
            if (TILE_N % 128 == 0 || threadIdx.x % 128 + 128 * i < TILE_N)
                to[threadIdx.x % 128 + 128 * i] = held[i];
    }
};

/* Sums of codes, and what they are multiplied by. */
template <class SUM, int TILE_N> struct scaled_sums {
    const SUM (&sum)[TILE_N / 2];
    const float *scale; /* [TILE_N] of the columns, in shared memory */
    float row[2];       /* of the lower and the higher row */

    __device__ __forceinline__ float2 two(int part, int j, int high) const
    {
        const int unit = j + part * (TILE_N / 16), at = 4 * unit + 2 * high;
        const float2 by = *reinterpret_cast<const float2 *>(scale + 8 * unit + threadIdx.x % 4 * 2);
        return {__fmul_rn(__fmul_rn((float)sum[at], row[high]), by.x),
                __fmul_rn(__fmul_rn((float)sum[at + 1], row[high]), by.y)};
    }
};

/* The thread that fetches: as matmul_sm90.cu's, weights before the wait for what x is made of, and
 * no rows behind the last. */
template <class S, kind K, int TILE_M, int TILE_N, bool GATED, int CLUSTER> struct fetcher {
    const operands &o;
    const CUtensorMap &x_high;
    const args8 &a;
    uint32_t stages, full, empty;
    int rank;

    /* 128 k of the tile's columns, in halves: gate and up, or one from each block of a cluster. */
    __device__ __forceinline__ void weights(const stage_at &at, const tile &t, int k, int n_bytes)
    {
        const uint32_t to = stages + at.stage * S::STAGE_BYTES + S::A_BYTES;
        const uint32_t bar = full + at.stage * 8;
        mbarrier_arrive_expect(bar, n_bytes);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const CUtensorMap *w = &o.w[GATED ? half : 0];
            const int row = t.n + (GATED ? 0 : half * (TILE_N / 2));
            const int unit = row % ACT8_GROUP / ACT8_UNIT, group = row / ACT8_GROUP;
            if (CLUSTER == 1)
                tensor_copy_4d(to + half * S::B_BYTES / 2, w, bar, 0, unit, k, group);
            else if (rank == half)
                tensor_copy_4d_to_all(to + half * S::B_BYTES / 2, w, bar, 3, 0, unit, k, group);
        }
    }

    /* All columns again, for their high bytes. */
    __device__ __forceinline__ void all_high(stage_at *at, const tile &t)
    {
#pragma unroll 1
        for (int k = 0; k < a.a.n_k; k++) {
            mbarrier_wait(empty + at->stage * 8, at->parity);
            weights(*at, t, k, S::STAGE_BYTES);
            tensor_copy_2d(stages + at->stage * S::STAGE_BYTES, &x_high, full + at->stage * 8,
                           t.row, k * TILE_K);
            at->next<S>();
        }
    }

    __device__ void run(const high_side<S> &high)
    {
        stage_at at = {0, 1};
        int ahead = min(a.a.n_k, (int)S::STAGES);
        const int n_all = a.a.row_clusters * a.a.n_tiles;
        for (int i = blockIdx.x / CLUSTER; i < n_all; i += gridDim.x / CLUSTER) {
            const tile t = tile_at<TILE_M, S::OUT_COLUMNS, CLUSTER>(a.a, i, rank);
            const bool is_short = a.a.last_bytes > 0 && t.row >= a.a.last_row;
            const CUtensorMap *x = is_short ? &o.x_last : &o.x;
            const int n_bytes = is_short ? S::B_BYTES + a.a.last_bytes : S::STAGE_BYTES;
            if (ahead > 0) {
                for (int k = 0; k < ahead; k++)
                    weights({k, 0}, t, k, n_bytes);
                depend_wait();
            }
            for (int k = 0; k < a.a.n_k; k++) {
                if (k >= ahead) {
                    mbarrier_wait(empty + at.stage * 8, at.parity);
                    weights(at, t, k, n_bytes);
                }
                tensor_copy_2d(stages + at.stage * S::STAGE_BYTES, x, full + at.stage * 8,
                               k * TILE_K, t.row);
                at.next<S>();
            }
            if (K == KIND_OUTLIERS && high.wait_count() > a.high.listed_max)
                all_high(&at, t);
            ahead = 0;
        }
    }
};

/* A warpgroup's 64 rows of all tiles of the block. */
template <class S, typename T, kind K, int TILE_M, int TILE_N, epilogue E, int CLUSTER>
__device__ __forceinline__ void multiply_tiles(const operands &o, const args8 &a, uint8_t *shared,
                                               pipe<S> p, high_side<S> high, int rank)
{
    const int warpgroup = threadIdx.x / 128;
    float *scales = reinterpret_cast<float *>(shared + S::SCALES_AT) + warpgroup * TILE_N;
    const int in_tile = warpgroup * 64 + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
    const int n_all = a.a.row_clusters * a.a.n_tiles;
    typedef typename of_kind<K>::sum SUM;
    int ahead = S::STAGES / 2;
    for (int i = blockIdx.x / CLUSTER; i < n_all; i += gridDim.x / CLUSTER) {
        const tile t = tile_at<TILE_M, S::OUT_COLUMNS, CLUSTER>(a.a, i, rank);
        SUM sum[TILE_N / 2];
        column_scales<TILE_N, is_gated(E)> columns;
        columns.load(a, t);
        if constexpr (K == KIND_OUTLIERS)
            multiply_outliers<S, CLUSTER>(sum, a, ahead, &p, &high, warpgroup);
        else
            multiply<S, CLUSTER>(sum, 0, a.a.n_k, &p, warpgroup);
        ahead = 0;
        columns.put(scales); /* read behind a barrier of store's */
        const scaled_sums<SUM, TILE_N> sums = {
            sum,
            scales,
            {a.scales.row[min(t.row + in_tile, a.a.rows - 1)],
             a.scales.row[min(t.row + in_tile + 8, a.a.rows - 1)]}};
        if constexpr (E == EPILOGUE_F32) {
            barrier_sync(1 + warpgroup, 128);
            store_f32<TILE_N>(a.a, sums, t, warpgroup);
            barrier_sync(1 + warpgroup, 128);
        } else {
            added<E, S::OUT_COLUMNS> add;
            add.load(a.a, t, warpgroup);
            store<T, S::OUT_COLUMNS, S::PART, E>(o, a.a, sums, add, t,
                                                 shared_addr(shared + S::OUT_AT), warpgroup);
        }
    }
    if (E != EPILOGUE_F32 && threadIdx.x % 128 == 0)
        store_wait();
}

/* The warps beside the fetcher: one brings x's high bytes, two gather w's columns, the last of
 * which makes the list. */
template <class S, int CLUSTER>
__device__ __forceinline__ void gather_tiles(const args8 &a, high_side<S> high, pipe<S> p, int rank)
{
    const int warp = threadIdx.x % 128 / 32, n_all = a.a.row_clusters * a.a.n_tiles;
    depend_wait();
    if (warp == 3) {
        list_make(high.list(), a.high);
        mbarrier_arrive(high.listed());
    }
    const int found = high.wait_list(), n = found <= a.high.listed_max ? found : 0;
    for (int i = blockIdx.x / CLUSTER; i < n_all; i += gridDim.x / CLUSTER) {
        const int row = tile_at<S::TILE_M, S::OUT_COLUMNS, CLUSTER>(a.a, i, rank).row;
        if (warp > 1) {
            gather_w<S, CLUSTER>(&high, &p, n, a.a.n_k, n == found ? 1 : 2, warp - 2);
            if (n < found)
                clear_all<S>(a.high, row, warp - 2);
        } else if (n > 0) {
            bring_x<S>(&high, a.high, n, row);
            clear_tile<S>(a.high, high.list(), 0, n, row, 0);
        }
    }
    if (warp == 3)
        mask_clear(a.high);
}

/* grid: [blocks, a multiple of CLUSTER]   block: [THREADS]: one or two warpgroups multiply, one
 * fetches. */
template <typename T, kind K, int TILE_M, int TILE_N, epilogue E, int CLUSTER>
__global__ void __launch_bounds__(shape_of<K, TILE_M, TILE_N, E>::THREADS, 1)
    matmul_act8_kernel(const __grid_constant__ operands o,
                       const __grid_constant__ CUtensorMap x_high, const __grid_constant__ args8 a)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    using S = shape_of<K, TILE_M, TILE_N, E>;
    DYNAMIC_SHARED(__align__(1024) uint8_t, shared);
    const uint32_t stages = shared_addr(shared), full = stages + S::BARS_AT;
    const uint32_t empty = full + 8 * S::STAGES;
    const int rank = CLUSTER == 1 ? 0 : cluster_rank();
    const high_side<S> high(shared);
    if (threadIdx.x == 0) {
        if (stages % 1024 != 0)
            __trap(); /* swizzled tiles would lie elsewhere */
        for (int s = 0; s < S::STAGES; s++) {
            mbarrier_init(full + 8 * s, 1);
            mbarrier_init(empty + 8 * s, CLUSTER * S::RELEASES);
        }
        if (K == KIND_OUTLIERS)
            high.init();
        fence_mbarrier_init();
    }
    if (CLUSTER == 1)
        __syncthreads();
    else
        cluster_sync();
    depend_launch();

    if (threadIdx.x >= S::MATHS) {
        if (TILE_M == TILE_M_MAX)
            registers_give<S::REGISTERS_FEW>();
        if (threadIdx.x == S::MATHS)
            fetcher<S, K, TILE_M, TILE_N, is_gated(E), CLUSTER>{o,    x_high, a,   stages,
                                                                full, empty,  rank}
                .run(high);
        else if (K == KIND_OUTLIERS && threadIdx.x >= S::MATHS + 32)
            gather_tiles<S, CLUSTER>(a, high, pipe<S>{stages, full, empty, {0, 0}}, rank);
    } else {
        if (TILE_M == TILE_M_MAX)
            registers_take<S::REGISTERS_MANY>();
        depend_wait(); /* scales of rows; and what the epilogue reads */
        multiply_tiles<S, T, K, TILE_M, TILE_N, E, CLUSTER>(
            o, a, shared, pipe<S>{stages, full, empty, {0, 0}}, high, rank);
    }
    if (CLUSTER > 1) {
        __syncwarp();
        cluster_sync(); /* nobody leaves while a neighbour may still write to or arrive at it */
    }
#endif
}

/* ---- launching ---- */

template <typename T, kind K, int TILE_M, int TILE_N, epilogue E, int CLUSTER>
void launch_cluster(device *d, const operands *o, const CUtensorMap *x_high, const args8 *a)
{
    using S = shape_of<K, TILE_M, TILE_N, E>;
    auto *kernel = matmul_act8_kernel<T, K, TILE_M, TILE_N, E, CLUSTER>;
    static thread_local int ready_on; /* 1 + the device whose function has it; a thread for each */
    if (ready_on != d->index + 1) {
        cuda_check(d,
                   cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        S::SHARED_BYTES),
                   "shared memory of the 8-bit product");
        ready_on = d->index + 1;
    }
    const int tiles = a->a.row_clusters * a->a.n_tiles * CLUSTER;
    const int most = d->sm_count / CLUSTER * CLUSTER;
    launch(
        d, "run the 8-bit product",
        {dim3((unsigned)(tiles < most ? tiles : most)), dim3(S::THREADS), S::SHARED_BYTES, CLUSTER},
        kernel, *o, *x_high, *a);
}

/* Blocks that share w: two of neighbouring rows, unless one of them would have none. */
int cluster_of(int rows, int tile_m)
{
    return (rows + tile_m - 1) / tile_m % 2 == 0 ? 2 : 1;
}

/* What depends on the tile: its boxes and their number. */
template <typename T, kind K, int TILE_M, int TILE_N, epilogue E>
void launch_tile(device *d, const product *p, const act8_rows *x, operands *o, args8 *a)
{
    using S = shape_of<K, TILE_M, TILE_N, E>;
    const int cluster = cluster_of(p->rows, TILE_M);
    const int last_rows = (p->rows % TILE_M + 7) / 8 * 8; /* a swizzle atom has 8 */
    act8_map_rows(d, &o->x, x, 0, TILE_M);
    if (last_rows > 0)
        act8_map_rows(d, &o->x_last, x, 0, last_rows);
    act8_map_weights(d, &o->w[0], p->w, p->in, p->n, TILE_N / 2);
    act8_map_weights(d, &o->w[1], p->w_up ? p->w_up : p->w, p->in, p->n, TILE_N / 2);
    CUtensorMap x_high = {};
    if (K == KIND_OUTLIERS)
        act8_map_high(d, &x_high, x, TILE_M);
    a->a.last_row = (p->rows - 1) / TILE_M * TILE_M;
    a->a.last_bytes = last_rows * TILE_K;
    a->a.row_clusters = (p->rows + TILE_M * cluster - 1) / (TILE_M * cluster);
    a->a.n_tiles = (p->n + S::OUT_COLUMNS - 1) / S::OUT_COLUMNS;
    a->high.n_readers = a->a.n_tiles;
    if (cluster == 2)
        launch_cluster<T, K, TILE_M, TILE_N, E, 2>(d, o, &x_high, a);
    else
        launch_cluster<T, K, TILE_M, TILE_N, E, 1>(d, o, &x_high, a);
}

template <typename T, kind K, epilogue E>
void launch_plain(device *d, const matmul_tile *t, const product *p, const act8_rows *x,
                  operands *o, args8 *a)
{
    if (t->columns == 256)
        launch_tile<T, K, 128, 256, E>(d, p, x, o, a);
    else if (t->columns == 128)
        launch_tile<T, K, 128, 128, E>(d, p, x, o, a);
    else if (t->rows == 64)
        launch_tile<T, K, 64, 64, E>(d, p, x, o, a);
    else
        launch_tile<T, K, 128, 64, E>(d, p, x, o, a);
}

template <typename T, kind K>
void launch_epilogue(device *d, epilogue e, const matmul_tile *t, const product *p,
                     const act8_rows *x, operands *o, args8 *a)
{
    switch (e) {
    case EPILOGUE_STORE:
        return launch_plain<T, K, EPILOGUE_STORE>(d, t, p, x, o, a);
    case EPILOGUE_ADD:
        return launch_plain<T, K, EPILOGUE_ADD>(d, t, p, x, o, a);
    case EPILOGUE_GATED:
        return t->columns == 256 ? launch_tile<T, K, 128, 256, EPILOGUE_GATED>(d, p, x, o, a)
                                 : launch_tile<T, K, 128, 128, EPILOGUE_GATED>(d, p, x, o, a);
    case EPILOGUE_F32:
        return launch_tile<T, K, 128, TILE_RARE, EPILOGUE_F32>(d, p, x, o, a);
    case EPILOGUE_ANY:
        return launch_tile<T, K, 128, TILE_RARE, EPILOGUE_ANY>(d, p, x, o, a);
    case EPILOGUE_GATED_ANY:
        return launch_tile<T, K, 128, TILE_RARE, EPILOGUE_GATED_ANY>(d, p, x, o, a);
    }
}

high_args high_of(const act8_rows *x)
{
    high_args h = {};
    h.columns = x->high;
    h.tile_readers = x->readers + 1;
    h.mask = x->mask;
    h.readers = x->readers;
    h.in = x->in;
    h.stride = act8_high_stride(x->rows);
    h.chunks = act8_chunks(x->in);
    h.listed_max = act8_listed_max(x->in);
    return h;
}

template <kind K> void run(device *d, const product *p, const act8_rows *x)
{
    const bool gated = p->w_up != NULL;
    wide_matmul m = {};
    m.w[1] = p->w_up;
    m.bias[0] = p->bias;
    m.bias[1] = p->bias_up;
    m.act = p->act;
    m.y_f32 = p->y_f32;
    m.add = p->add;
    const matmul_tile t = matmul_choose_tile(WIDE_8_BITS, p->rows, p->n, gated, d->sm_count);
    operands o;
    if (!p->y_f32)
        tensor_map_2d(d, &o.y, p->y, p->n, p->rows, p->y_stride, 64, 64);
    args8 a = {};
    a.a.rows = p->rows;
    a.a.n = p->n;
    a.a.n_k = act8_chunks(p->in);
    a.a.bias[0] = p->bias;
    a.a.bias[1] = p->bias_up;
    a.a.add = p->add;
    a.a.y = p->y;
    a.a.y_stride = p->y_stride;
    a.a.act = p->act;
    a.scales = act8_scales_of(p, x);
    a.high = high_of(x);
    if (d->act == DT_F16)
        launch_epilogue<__half, K>(d, choose_epilogue(&m), &t, p, x, &o, &a);
    else
        launch_epilogue<__nv_bfloat16, K>(d, choose_epilogue(&m), &t, p, x, &o, &a);
}

} // namespace

void matmul_act8_sm90(struct device *d, const struct product *p, const struct act8_rows *x,
                      enum act_rule rule)
{
    if (rule == ACTS_FP8)
        run<KIND_E4M3>(d, p, x);
    else if (x->mask)
        run<KIND_OUTLIERS>(d, p, x);
    else
        run<KIND_INT8>(d, p, x);
}
