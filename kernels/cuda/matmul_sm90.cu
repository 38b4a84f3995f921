/* matmul_sm90.cu - products of many rows on Hopper: wgmma fed by the copy engine.
 *
 * A tile is 128 or 64 rows of x by TILE_N rows of w.  One thread of a block asks for the operands,
 * 64 columns of k at a time, into a ring of stages; a warpgroup for each 64 rows multiplies them.
 * Two blocks of a cluster work on neighbouring tiles of rows: each fetches half of the w they share,
 * for both, which is what keeps the second-level cache ahead of the tensor cores.  Blocks stay
 * and take tile after tile; while one tile's y leaves through shared memory the next one's operands come.
 *
 * Every y is one chain of k16 steps in an f32 accumulator, in order of k, whatever the tile:
 * matmul_skinny.cu gives the same bits.  Columns of k beyond `in` come as zeros and add nothing. */
#include "kernels/cuda/matmul_sm90.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/act.cuh"
#include "kernels/cuda/ptx_cluster.cuh"
#include "kernels/cuda/tensor_map.h"

namespace {

enum {
    TILE_M_MAX = 128,
    TILE_K = 64, /* one 128-byte swizzle atom */
    GROUP_M = 8, /* clusters of rows whose tiles run side by side, so that x and w stay in cache */
};

/* What happens to a tile before it is y.  The common ones hold no more code than they need: an
 * epilogue is unrolled over a tile, and one with every case in it outgrows the instruction cache, at
 * 18 us a tile. */
enum epilogue {
    EPILOGUE_STORE,
    EPILOGUE_ADD,   /* the residual */
    EPILOGUE_GATED, /* SiLU of one half times the other */
    EPILOGUE_F32,   /* the next three: TILE_RARE only */
    EPILOGUE_ANY,   /* bias, any activation, residual */
    EPILOGUE_GATED_ANY,
};
const int TILE_RARE = 128;

__host__ __device__ constexpr bool is_gated(epilogue e)
{
    return e == EPILOGUE_GATED || e == EPILOGUE_GATED_ANY;
}

template <int TILE_M, int TILE_N> struct shape {
    static const int A_BYTES = TILE_M * TILE_K * 2;
    static const int B_BYTES = TILE_N * TILE_K * 2;
    static const int STAGE_BYTES = A_BYTES + B_BYTES;
    static const int STAGES = TILE_N == 256 ? 4 : TILE_N == 128 ? 6 : TILE_M == 128 ? 8 : 12;
    static const int MATHS = 2 * TILE_M; /* threads that multiply: a warpgroup 64 rows */
    static const int THREADS = MATHS + 128;
    static const int OUT_N = TILE_N < 128 ? TILE_N : 128; /* columns that leave at once */
    static const int OUT_BYTES = TILE_M * OUT_N * 2;
    static const int SHARED_BYTES = STAGES * STAGE_BYTES + OUT_BYTES + 1024; /* to align it */
};

struct operands {
    CUtensorMap x, x_last, w[2], y; /* x_last: of the last tile of rows, where it is not whole */
};

struct args {
    int rows, n, n_k; /* n_k: steps of TILE_K */
    int last_row;     /* of x's tiles: the first row of the last one, */
    int last_bytes;   /* and what a stage of it is; 0 <=> it is whole */
    int row_clusters, n_tiles;
    const float *bias[2];
    const void *add;
    void *y;
    int y_stride;
    enum act_kind act;
};

struct tile {
    int row, n; /* first row, first column of y */
};

/* Tiles in order: GROUP_M clusters of rows, all their columns, then the next. */
template <int TILE_M, int OUT_COLUMNS, int CLUSTER>
__device__ tile tile_at(const args &a, int i, int rank)
{
    const int group_tiles = GROUP_M * a.n_tiles;
    const int group = i / group_tiles;
    const int first = group * GROUP_M;
    const int height = min(a.row_clusters - first, GROUP_M);
    const int in_group = i - group * group_tiles;
    const int row_cluster = first + in_group % height;
    return {(row_cluster * CLUSTER + rank) * TILE_M, in_group / height * OUT_COLUMNS};
}

template <typename T> __device__ __forceinline__ float round_act(float x);
template <> __device__ __forceinline__ float round_act<__nv_bfloat16>(float x)
{
    return __bfloat162float(__float2bfloat16_rn(x));
}
template <> __device__ __forceinline__ float round_act<__half>(float x)
{
    return __half2float(__float2half_rn(x));
}

__device__ __forceinline__ uint32_t pack(__nv_bfloat16, float lo, float hi)
{
    const __nv_bfloat162 v = __floats2bfloat162_rn(lo, hi);
    return reinterpret_cast<const uint32_t &>(v);
}
__device__ __forceinline__ uint32_t pack(__half, float lo, float hi)
{
    const __half2 v = __floats2half2_rn(lo, hi);
    return reinterpret_cast<const uint32_t &>(v);
}
__device__ __forceinline__ float2 unpack(__nv_bfloat16, uint32_t v)
{
    return __bfloat1622float2(reinterpret_cast<const __nv_bfloat162 &>(v));
}
__device__ __forceinline__ float2 unpack(__half, uint32_t v)
{
    return __half22float2(reinterpret_cast<const __half2 &>(v));
}

/* A stage of w in halves: gate and up, or one from each block of a cluster. */
template <int TILE_M, int TILE_N, bool GATED, int CLUSTER>
__device__ __forceinline__ void fetch_halves(const operands &o, uint32_t to, uint32_t bar, int k,
                                             int row, int rank)
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const uint32_t at = to + half * shape<TILE_M, TILE_N>::B_BYTES / 2;
        const CUtensorMap *w = &o.w[GATED ? half : 0];
        const int half_row = row + (GATED ? 0 : half * TILE_N / 2);
        if (CLUSTER == 1)
            tensor_copy_2d(at, w, bar, k * TILE_K, half_row);
        else if (rank == half)
            tensor_copy_2d_to_all(at, w, bar, 3, k * TILE_K, half_row);
    }
}

/* The thread that fetches; the first stages' weights before the wait for what x is made of.  Rows behind
 * the last are left as they lie: their y is not stored, and to have the copy engine make them zeros
 * costs more time than to bring real ones. */
template <int TILE_M, int TILE_N, bool GATED, int CLUSTER>
__device__ void fetch(const operands &o, const args &a, uint32_t stages, uint32_t full,
                      uint32_t empty, int rank)
{
    using S = shape<TILE_M, TILE_N>;
    const int OUT_COLUMNS = GATED ? TILE_N / 2 : TILE_N;
    const int n_all = a.row_clusters * a.n_tiles;
    int stage = 0, parity = 1, ahead = min(a.n_k, (int)S::STAGES);
    for (int i = blockIdx.x / CLUSTER; i < n_all; i += gridDim.x / CLUSTER) {
        const tile t = tile_at<TILE_M, OUT_COLUMNS, CLUSTER>(a, i, rank);
        const bool is_short = a.last_bytes > 0 && t.row >= a.last_row;
        const CUtensorMap *x = is_short ? &o.x_last : &o.x;
        const int x_row = min(t.row, a.last_row); /* a cluster's second tile may lie behind all */
        const int n_bytes = is_short ? S::B_BYTES + a.last_bytes : S::STAGE_BYTES;
        auto fetch_w = [&](int at, int k) {
            const uint32_t bar = full + at * 8, to = stages + at * S::STAGE_BYTES + S::A_BYTES;
            mbarrier_arrive_expect(bar, n_bytes);
            if (CLUSTER == 1 && !GATED)
                tensor_copy_2d(to, &o.w[0], bar, k * TILE_K, t.n);
            else
                fetch_halves<TILE_M, TILE_N, GATED, CLUSTER>(o, to, bar, k, t.n, rank);
        };
        if (ahead > 0) {
            for (int k = 0; k < ahead; k++)
                fetch_w(k, k);
            depend_wait();
        }
        for (int k = 0; k < a.n_k; k++) {
            if (k >= ahead) {
                mbarrier_wait(empty + stage * 8, parity);
                fetch_w(stage, k);
            }
            tensor_copy_2d(stages + stage * S::STAGE_BYTES, x, full + stage * 8, k * TILE_K, x_row);
            if (++stage == S::STAGES) {
                stage = 0;
                parity ^= 1;
            }
        }
        ahead = 0;
    }
}

/* Gives a stage back, to each block that writes into it. */
template <int CLUSTER> __device__ __forceinline__ void release(uint32_t empty, int stage)
{
    const int t = threadIdx.x % 128;
    if (CLUSTER == 1) {
        if (t == 0)
            mbarrier_arrive(empty + stage * 8);
    } else if (t < CLUSTER) {
        mbarrier_arrive_at(empty + stage * 8, t);
    }
}

struct ring {
    int stage, parity;
};

/* acc = 64 rows of x times TILE_N rows of w. */
template <typename T, int TILE_M, int TILE_N, int CLUSTER>
__device__ void multiply(float (&acc)[TILE_N / 2], int n_k, uint32_t stages, uint32_t full,
                         uint32_t empty, int warpgroup, ring *r)
{
    using S = shape<TILE_M, TILE_N>;
    int before = -1;
    for (int k = 0; k < n_k; k++) {
        const uint32_t at = stages + r->stage * S::STAGE_BYTES;
        mbarrier_wait(full + r->stage * 8, r->parity);
        const uint64_t x = matrix_descriptor(at + warpgroup * 64 * TILE_K * 2, 16, 1024);
        const uint64_t w = matrix_descriptor(at + S::A_BYTES, 16, 1024);
        registers_pin(acc);
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < TILE_K / 16; step++) /* 32 bytes within the atom */
            wgmma_shared(T(), acc, x + 2 * step, w + 2 * step, k | step);
        wgmma_commit();
        wgmma_wait<1>();
        if (before >= 0)
            release<CLUSTER>(empty, before);
        before = r->stage;
        if (++r->stage == S::STAGES) {
            r->stage = 0;
            r->parity ^= 1;
        }
    }
    wgmma_wait<0>();
    registers_pin(acc);
    release<CLUSTER>(empty, before);
}

/* Values `column` and the next of a row of y, from their sums. */
template <typename T, epilogue E>
__device__ __forceinline__ float2 finish(const args &a, float2 v, int row, int column)
{
    if (E == EPILOGUE_ANY && a.bias[0]) {
        v.x += a.bias[0][min(column, a.n - 1)];
        v.y += a.bias[0][min(column + 1, a.n - 1)];
    }
    if (E == EPILOGUE_ANY && a.act != ACT_NONE)
        v = {activate(a.act, round_act<T>(v.x)), activate(a.act, round_act<T>(v.y))};
    if (E != EPILOGUE_STORE && a.add && row < a.rows && column < a.n) {
        const T *add = static_cast<const T *>(a.add) + (size_t)row * a.y_stride + column;
        const float2 r = unpack(T(), *reinterpret_cast<const uint32_t *>(add));
        v.x += r.x;
        v.y += r.y;
    }
    return v;
}

template <typename T, epilogue E>
__device__ __forceinline__ float2 finish_gated(const args &a, float2 gate, float2 up, int column)
{
    if (E == EPILOGUE_GATED_ANY && a.bias[0]) {
        gate.x += a.bias[0][min(column, a.n - 1)];
        gate.y += a.bias[0][min(column + 1, a.n - 1)];
    }
    if (E == EPILOGUE_GATED_ANY && a.bias[1]) {
        up.x += a.bias[1][min(column, a.n - 1)];
        up.y += a.bias[1][min(column + 1, a.n - 1)];
    }
    const enum act_kind act = E == EPILOGUE_GATED ? ACT_SILU : a.act;
    return {activate(act, round_act<T>(gate.x)) * round_act<T>(up.x),
            activate(act, round_act<T>(gate.y)) * round_act<T>(up.y)};
}

/* Two values of one row of the tile, columns 8 * j + 2 * (lane % 4) and the next. */
template <typename T, int TILE_N, epilogue E>
__device__ __forceinline__ uint32_t value(const args &a, const float (&acc)[TILE_N / 2], int j,
                                          int high, int row, int column)
{
    const float2 v = {acc[4 * j + 2 * high], acc[4 * j + 2 * high + 1]};
    float2 y;
    if constexpr (is_gated(E)) {
        const int up = 4 * (j + TILE_N / 16) + 2 * high;
        y = finish_gated<T, E>(a, v, {acc[up], acc[up + 1]}, column);
    } else {
        y = finish<T, E>(a, v, row, column);
    }
    return pack(T(), y.x, y.y);
}

/* y through shared memory: 64 columns by 64 rows at a time, swizzled as the copy engine wants. */
template <typename T, int TILE_M, int TILE_N, epilogue E>
__device__ void store(const operands &o, const args &a, const float (&acc)[TILE_N / 2], tile t,
                      uint32_t out, int warpgroup)
{
    using S = shape<TILE_M, TILE_N>;
    const int OUT_COLUMNS = is_gated(E) ? TILE_N / 2 : TILE_N;
    const int PART = OUT_COLUMNS < S::OUT_N ? OUT_COLUMNS : S::OUT_N;
    const int lane = threadIdx.x % 32, warp = threadIdx.x % 128 / 32;
    const int row = t.row + warpgroup * 64 + warp * 16 + lane / 4;
    const int to_row = warp * 16 + lane % 16; /* of the matrix row this lane addresses */
    const uint32_t mine = out + warpgroup * 64 * S::OUT_N * 2;
#pragma unroll
    for (int part = 0; part < OUT_COLUMNS / PART; part++) {
        if (threadIdx.x % 128 == 0)
            store_wait_read();
        barrier_sync(1 + warpgroup, 128);
#pragma unroll
        for (int jj = 0; jj < PART / 8; jj += 2) {
            const int j = part * PART / 8 + jj;
            const int column = t.n + j * 8 + lane % 4 * 2;
            const int chunk = jj + lane / 16; /* of 8 columns, that this lane addresses */
            const uint32_t to = mine + chunk / 8 * (64 * 128) + to_row * 128 +
                                ((chunk % 8) ^ (to_row % 8)) * 16;
            stmatrix_4(to, value<T, TILE_N, E>(a, acc, j, 0, row, column),
                       value<T, TILE_N, E>(a, acc, j, 1, row + 8, column),
                       value<T, TILE_N, E>(a, acc, j + 1, 0, row, column + 8),
                       value<T, TILE_N, E>(a, acc, j + 1, 1, row + 8, column + 8));
        }
        fence_proxy_async();
        barrier_sync(1 + warpgroup, 128);
        if (threadIdx.x % 128 == 0) {
#pragma unroll
            for (int c = 0; c < PART; c += 64) {
                const int column = t.n + part * PART + c;
                if (column < a.n && t.row + warpgroup * 64 < a.rows)
                    tensor_store_2d(&o.y, mine + c / 64 * (64 * 128), column,
                                    t.row + warpgroup * 64);
            }
            store_commit();
        }
    }
}

/* y in f32, straight from registers. */
template <int TILE_N>
__device__ void store_f32(const args &a, const float (&acc)[TILE_N / 2], tile t, int warpgroup)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x % 128 / 32;
    const int row = t.row + warpgroup * 64 + warp * 16 + lane / 4;
    float *y = static_cast<float *>(a.y);
#pragma unroll
    for (int j = 0; j < TILE_N / 8; j++) {
        const int column = t.n + j * 8 + lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int r = row + i / 2 * 8, c = column + i % 2;
            if (r < a.rows && c < a.n)
                y[(size_t)r * a.y_stride + c] = acc[4 * j + i] + (a.bias[0] ? a.bias[0][c] : 0);
        }
    }
}

/* grid: [blocks, a multiple of CLUSTER]   block: [THREADS]: one or two warpgroups multiply,
 * one fetches */
template <typename T, int TILE_M, int TILE_N, epilogue E, int CLUSTER>
__global__ void __launch_bounds__(shape<TILE_M, TILE_N>::THREADS, 1)
    matmul_sm90_kernel(const __grid_constant__ operands o, const args a)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) /* choose.c gives other devices matmul_tiles */
    using S = shape<TILE_M, TILE_N>;
    const int OUT_COLUMNS = is_gated(E) ? TILE_N / 2 : TILE_N;
    extern __shared__ uint8_t shared_raw[];
    __shared__ uint64_t bars[2 * S::STAGES];
    const uint32_t stages = (shared_addr(shared_raw) + 1023) & ~1023u;
    const uint32_t out = stages + S::STAGES * S::STAGE_BYTES;
    const uint32_t full = shared_addr(bars), empty = full + 8 * S::STAGES;
    const int warpgroup = threadIdx.x / 128;
    const int rank = CLUSTER == 1 ? 0 : cluster_rank();

    if (threadIdx.x == 0) {
        for (int s = 0; s < S::STAGES; s++) {
            mbarrier_init(full + 8 * s, 1);
            mbarrier_init(empty + 8 * s, CLUSTER * S::MATHS / 128);
        }
        fence_mbarrier_init();
    }
    if (CLUSTER == 1)
        __syncthreads();
    else
        cluster_sync();
    depend_launch();

    if (warpgroup == S::MATHS / 128) {
        if (TILE_M == TILE_M_MAX)
            registers_give<40>();
        if (threadIdx.x == S::MATHS)
            fetch<TILE_M, TILE_N, is_gated(E), CLUSTER>(o, a, stages, full, empty, rank);
    } else {
        if (TILE_M == TILE_M_MAX)
            registers_take<232>();
        depend_wait(); /* the epilogue reads what x's maker may have written */
        ring r = {0, 0};
        float acc[TILE_N / 2];
        const int n_all = a.row_clusters * a.n_tiles;
        for (int i = blockIdx.x / CLUSTER; i < n_all; i += gridDim.x / CLUSTER) {
            const tile t = tile_at<TILE_M, OUT_COLUMNS, CLUSTER>(a, i, rank);
            multiply<T, TILE_M, TILE_N, CLUSTER>(acc, a.n_k, stages, full, empty, warpgroup, &r);
            if constexpr (E == EPILOGUE_F32)
                store_f32<TILE_N>(a, acc, t, warpgroup);
            else
                store<T, TILE_M, TILE_N, E>(o, a, acc, t, out, warpgroup);
        }
        if (E != EPILOGUE_F32 && threadIdx.x % 128 == 0)
            store_wait();
    }
    if (CLUSTER > 1) {
        __syncwarp();
        cluster_sync(); /* nobody leaves while a neighbour may still write to or arrive at it */
    }
#endif
}

/* Launching. */

int cluster_of(int rows, int tile_m)
{
    return rows > tile_m ? 2 : 1;
}

/* Of the narrowest tiles there are fewer than SMs, each at the speed at which an SM takes in its two
 * operands: low ones take less of x. */
int tile_height(int rows, int tile_n)
{
    return tile_n == 64 && rows <= TILE_M_MAX ? 64 : TILE_M_MAX;
}

template <typename T, int TILE_M, int TILE_N, epilogue E, int CLUSTER>
void launch_cluster(device *d, const operands *o, const args *a)
{
    auto *kernel = matmul_sm90_kernel<T, TILE_M, TILE_N, E, CLUSTER>;
    const int bytes = shape<TILE_M, TILE_N>::SHARED_BYTES;
    static thread_local int ready_on; /* 1 + the device whose function has it; a thread for each */
    if (ready_on != d->index + 1) {
        cuda_check(d, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
                   "shared memory of matmul");
        ready_on = d->index + 1;
    }
    const int tiles = a->row_clusters * a->n_tiles * CLUSTER;
    const int most = d->sm_count / CLUSTER * CLUSTER;
    cudaLaunchAttribute attribute[2] = {};
    attribute[0].id = cudaLaunchAttributeClusterDimension;
    attribute[0].val.clusterDim = {CLUSTER, 1, 1};
    attribute[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute[1].val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(tiles < most ? tiles : most);
    config.blockDim = dim3(shape<TILE_M, TILE_N>::THREADS);
    config.dynamicSmemBytes = bytes;
    config.stream = d->stream;
    config.attrs = attribute;
    config.numAttrs = 2;
    cuda_check(d, cudaLaunchKernelEx(&config, kernel, *o, *a), "run matmul");
}

template <typename T, int TILE_M, int TILE_N, epilogue E>
void launch_tiles(device *d, const operands *o, args *a)
{
    const int cluster = cluster_of(a->rows, TILE_M);
    a->row_clusters = (a->rows + TILE_M * cluster - 1) / (TILE_M * cluster);
    if (cluster == 2)
        launch_cluster<T, TILE_M, TILE_N, E, 2>(d, o, a);
    else
        launch_cluster<T, TILE_M, TILE_N, E, 1>(d, o, a);
}

template <typename T, int TILE_N, epilogue E> void launch(device *d, const operands *o, args *a)
{
    launch_tiles<T, TILE_M_MAX, TILE_N, E>(d, o, a);
}

template <typename T, epilogue E> void launch_plain(device *d, int tile_n, const operands *o, args *a)
{
    if (tile_n == 256)
        launch<T, 256, E>(d, o, a);
    else if (tile_n == 128)
        launch<T, 128, E>(d, o, a);
    else if (tile_height(a->rows, tile_n) == 64)
        launch_tiles<T, 64, 64, E>(d, o, a);
    else
        launch<T, 64, E>(d, o, a);
}

template <typename T>
void launch_epilogue(device *d, epilogue e, int tile_n, const operands *o, args *a)
{
    switch (e) {
    case EPILOGUE_STORE:
        return launch_plain<T, EPILOGUE_STORE>(d, tile_n, o, a);
    case EPILOGUE_ADD:
        return launch_plain<T, EPILOGUE_ADD>(d, tile_n, o, a);
    case EPILOGUE_GATED:
        return tile_n == 256 ? launch<T, 256, EPILOGUE_GATED>(d, o, a)
                             : launch<T, 128, EPILOGUE_GATED>(d, o, a);
    case EPILOGUE_F32:
        return launch<T, TILE_RARE, EPILOGUE_F32>(d, o, a);
    case EPILOGUE_ANY:
        return launch<T, TILE_RARE, EPILOGUE_ANY>(d, o, a);
    case EPILOGUE_GATED_ANY:
        return launch<T, TILE_RARE, EPILOGUE_GATED_ANY>(d, o, a);
    }
}

epilogue choose_epilogue(const wide_matmul *m)
{
    if (m->y_f32)
        return EPILOGUE_F32;
    if (m->w[1])
        return m->act == ACT_SILU && !m->bias[0] && !m->bias[1] ? EPILOGUE_GATED
                                                                : EPILOGUE_GATED_ANY;
    if (m->act != ACT_NONE || m->bias[0])
        return EPILOGUE_ANY;
    return m->add ? EPILOGUE_ADD : EPILOGUE_STORE;
}

} // namespace

/* A tile costs its columns and a part that they share; a wave costs its tiles' time. */
int matmul_sm90_tile(int rows, int n, bool gated, int sm_count)
{
    static const int tiles[] = {256, 128, 64};
    const int TILE_COST = 32;
    const int row_tiles = (rows + TILE_M_MAX - 1) / TILE_M_MAX;
    int best = 0;
    int64_t best_cost = INT64_MAX;
    for (int i = 0; i < (gated ? 2 : 3); i++) {
        const int columns = gated ? tiles[i] / 2 : tiles[i];
        const int64_t n_tiles = (int64_t)row_tiles * ((n + columns - 1) / columns);
        const int64_t waves = (n_tiles + sm_count - 1) / sm_count;
        const int64_t cost = waves * (tiles[i] + TILE_COST);
        if (cost < best_cost) {
            best_cost = cost;
            best = tiles[i];
        }
    }
    return best;
}

template <typename T> static void run(device *d, const wide_matmul *m)
{
    const bool gated = m->w[1] != NULL;
    const epilogue e = choose_epilogue(m);
    const int tile_n =
        e >= EPILOGUE_F32 ? TILE_RARE : matmul_sm90_tile(m->rows, m->n, gated, d->sm_count);
    const int out_columns = gated ? tile_n / 2 : tile_n;
    const int tile_m = tile_height(m->rows, tile_n);
    const int w_rows = gated || cluster_of(m->rows, tile_m) == 2 ? tile_n / 2 : tile_n;
    const int last_rows = (m->rows % tile_m + 7) / 8 * 8; /* a swizzle atom has 8 */
    operands o;
    if (last_rows > 0)
        tensor_map_2d(d, &o.x_last, m->x, m->in, m->rows, m->in, TILE_K, last_rows);
    tensor_map_2d(d, &o.x, m->x, m->in, m->rows, m->in, TILE_K, tile_m);
    tensor_map_2d(d, &o.w[0], m->w[0], m->in, m->n, m->in, TILE_K, w_rows);
    tensor_map_2d(d, &o.w[1], gated ? m->w[1] : m->w[0], m->in, m->n, m->in, TILE_K, w_rows);
    if (!m->y_f32)
        tensor_map_2d(d, &o.y, m->y, m->n, m->rows, m->y_stride, 64, 64);
    args a = {
        .rows = m->rows,
        .n = m->n,
        .n_k = (m->in + TILE_K - 1) / TILE_K,
        .last_row = (m->rows - 1) / tile_m * tile_m,
        .last_bytes = last_rows * TILE_K * 2,
        .row_clusters = 0,
        .n_tiles = (m->n + out_columns - 1) / out_columns,
        .bias = {m->bias[0], m->bias[1]},
        .add = m->add,
        .y = m->y,
        .y_stride = m->y_stride,
        .act = m->act,
    };
    launch_epilogue<T>(d, e, tile_n, &o, &a);
}

void matmul_sm90(device *d, const wide_matmul *m)
{
    if (d->act == DT_F16)
        run<__half>(d, m);
    else
        run<__nv_bfloat16>(d, m);
}
