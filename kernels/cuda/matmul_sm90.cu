/* matmul_sm90.cu - products of many rows on Hopper: wgmma fed by the copy engine.
 *
 * A tile is 128 or 64 rows of x by TILE_N rows of w.  One thread of a block asks for the operands,
 * 64 columns of k at a time, into a ring of stages; a warpgroup for each 64 rows multiplies them.
 * Two blocks of a cluster work on neighbouring tiles of rows: each fetches half of the w they
 * share, for both, which is what keeps the second-level cache ahead of the tensor cores.  Blocks
 * stay and take tile after tile; while one tile's y leaves through shared memory the next one's
 * operands come.
 *
 * Every y is one chain of k16 steps in an f32 accumulator, in order of k, whatever the tile:
 * matmul_skinny.cu gives the same bits.  Columns of k beyond `in` come as zeros and add nothing. */
#include "kernels/cuda/choose.h"
#include "kernels/cuda/matmul_sm90.cuh"

namespace
{

enum {
    TILE_K = 64, /* one 128-byte swizzle atom */
    SHARED_MAX = 226 * 1024,
};

template <int TILE_M, int TILE_N> struct shape {
    static const int A_BYTES = TILE_M * TILE_K * 2;
    static const int B_BYTES = TILE_N * TILE_K * 2;
    static const int STAGE_BYTES = A_BYTES + B_BYTES;
    static const int MATHS = 2 * TILE_M; /* threads that multiply: a warpgroup 64 rows */
    static const int THREADS = MATHS + 128;
    static const int OUT_N = part_of(TILE_N); /* columns that leave at once, at most */
    static const int OUT_BYTES = TILE_M * OUT_N * 2;
    static const int STAGES_FIT = (SHARED_MAX - OUT_BYTES - 1024) / STAGE_BYTES;
    static const int STAGES = STAGES_FIT < 12 ? STAGES_FIT : 12;
    static const int SHARED_BYTES = STAGES * STAGE_BYTES + OUT_BYTES + 1024; /* to align it */
};

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

/* The thread that fetches; the first stages' weights before the wait for what x is made of.  Rows
 * behind the last are left as they lie: their y is not stored, and to have the copy engine make
 * them zeros costs more time than to bring real ones. */
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

/* Sums as they lie in the accumulators of wgmma. */
template <int TILE_N> struct plain_sums {
    const float (&acc)[TILE_N / 2];

    __device__ __forceinline__ float2 two(int part, int j, int high) const
    {
        const int at = 4 * (j + part * (TILE_N / 16)) + 2 * high;
        return {acc[at], acc[at + 1]};
    }
};

/* grid: [blocks, a multiple of CLUSTER]   block: [THREADS]: one or two warpgroups multiply,
 * one fetches */
template <typename T, int TILE_M, int TILE_N, epilogue E, int CLUSTER>
__global__ void __launch_bounds__(shape<TILE_M, TILE_N>::THREADS, 1)
    matmul_sm90_kernel(const __grid_constant__ operands o, const args a)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) /* choose.c gives other devices matmul_tiles */
    using S = shape<TILE_M, TILE_N>;
    const int OUT_COLUMNS = is_gated(E) ? TILE_N / 2 : TILE_N;
    DYNAMIC_SHARED(uint8_t, shared_raw);
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
            added<E, OUT_COLUMNS> add;
            add.load(a, t, warpgroup);
            multiply<T, TILE_M, TILE_N, CLUSTER>(acc, a.n_k, stages, full, empty, warpgroup, &r);
            const plain_sums<TILE_N> sums = {acc};
            if constexpr (E == EPILOGUE_F32)
                store_f32<TILE_N>(a, sums, t, warpgroup);
            else
                store<T, OUT_COLUMNS, part_of(OUT_COLUMNS), E>(o, a, sums, add, t, out, warpgroup);
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

template <typename T, int TILE_M, int TILE_N, epilogue E, int CLUSTER>
void launch_cluster(device *d, const operands *o, const args *a)
{
    auto *kernel = matmul_sm90_kernel<T, TILE_M, TILE_N, E, CLUSTER>;
    const int bytes = shape<TILE_M, TILE_N>::SHARED_BYTES;
    static thread_local int ready_on; /* 1 + the device whose function has it; a thread for each */
    if (ready_on != d->index + 1) {
        cuda_check(d,
                   cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
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
void launch(device *d, const operands *o, args *a)
{
    const int cluster = cluster_of(a->rows, TILE_M);
    a->row_clusters = (a->rows + TILE_M * cluster - 1) / (TILE_M * cluster);
    if (cluster == 2)
        launch_cluster<T, TILE_M, TILE_N, E, 2>(d, o, a);
    else
        launch_cluster<T, TILE_M, TILE_N, E, 1>(d, o, a);
}

/* Of a width that is for more than 128 rows. */
template <typename T, int TILE_N, epilogue E>
void launch_pairs(device *d, const operands *o, args *a)
{
    a->row_clusters = (a->rows + 2 * TILE_M_MAX - 1) / (2 * TILE_M_MAX);
    launch_cluster<T, TILE_M_MAX, TILE_N, E, 2>(d, o, a);
}

template <typename T, epilogue E>
void launch_plain(device *d, const matmul_tile *t, const operands *o, args *a)
{
    switch (t->columns) {
    case 256:
        return launch<T, 128, 256, E>(d, o, a);
    case 192:
        return launch_pairs<T, 192, E>(d, o, a);
    case 160:
        return launch_pairs<T, 160, E>(d, o, a);
    case 128:
        return launch<T, 128, 128, E>(d, o, a);
    case 96:
        return launch_pairs<T, 96, E>(d, o, a);
    default:
        return t->rows == 64 ? launch<T, 64, 64, E>(d, o, a) : launch<T, 128, 64, E>(d, o, a);
    }
}

template <typename T> void launch_gated(device *d, int columns, const operands *o, args *a)
{
    switch (columns) {
    case 256:
        return launch<T, 128, 256, EPILOGUE_GATED>(d, o, a);
    case 224:
        return launch<T, 128, 224, EPILOGUE_GATED>(d, o, a);
    default:
        return launch<T, 128, 128, EPILOGUE_GATED>(d, o, a);
    }
}

template <typename T>
void launch_epilogue(device *d, epilogue e, const matmul_tile *t, const operands *o, args *a)
{
    switch (e) {
    case EPILOGUE_STORE:
        return launch_plain<T, EPILOGUE_STORE>(d, t, o, a);
    case EPILOGUE_ADD:
        return launch_plain<T, EPILOGUE_ADD>(d, t, o, a);
    case EPILOGUE_GATED:
        return launch_gated<T>(d, t->columns, o, a);
    case EPILOGUE_F32:
        return launch<T, 128, TILE_RARE, EPILOGUE_F32>(d, o, a);
    case EPILOGUE_ANY:
        return launch<T, 128, TILE_RARE, EPILOGUE_ANY>(d, o, a);
    case EPILOGUE_GATED_ANY:
        return launch<T, 128, TILE_RARE, EPILOGUE_GATED_ANY>(d, o, a);
    }
}

} // namespace

template <typename T> static void run(device *d, const wide_matmul *m)
{
    const bool gated = m->w[1] != NULL;
    const epilogue e = choose_epilogue(m);
    matmul_tile t = {TILE_M_MAX, TILE_RARE};
    if (e < EPILOGUE_F32)
        t = matmul_choose_tile(WIDE_16_BITS, m->rows, m->n, gated, d->sm_count);
    const int out_columns = gated ? t.columns / 2 : t.columns;
    const int w_rows = gated || cluster_of(m->rows, t.rows) == 2 ? t.columns / 2 : t.columns;
    const int last_rows = (m->rows % t.rows + 7) / 8 * 8; /* a swizzle atom has 8 */
    operands o;
    if (last_rows > 0)
        tensor_map_2d(d, &o.x_last, m->x, m->in, m->rows, m->in, TILE_K, last_rows);
    tensor_map_2d(d, &o.x, m->x, m->in, m->rows, m->in, TILE_K, t.rows);
    tensor_map_2d(d, &o.w[0], m->w[0], m->in, m->n, m->in, TILE_K, w_rows);
    tensor_map_2d(d, &o.w[1], gated ? m->w[1] : m->w[0], m->in, m->n, m->in, TILE_K, w_rows);
    if (!m->y_f32)
        tensor_map_2d(d, &o.y, m->y, m->n, m->rows, m->y_stride, box_of(part_of(out_columns)), 64);
    args a = {
        .rows = m->rows,
        .n = m->n,
        .n_k = (m->in + TILE_K - 1) / TILE_K,
        .last_row = (m->rows - 1) / t.rows * t.rows,
        .last_bytes = last_rows * TILE_K * 2,
        .row_clusters = 0,
        .n_tiles = (m->n + out_columns - 1) / out_columns,
        .bias = {m->bias[0], m->bias[1]},
        .add = m->add,
        .y = m->y,
        .y_stride = m->y_stride,
        .act = m->act,
    };
    launch_epilogue<T>(d, e, &t, &o, &a);
}

void matmul_sm90(device *d, const wide_matmul *m)
{
    if (d->act == DT_F16)
        run<__half>(d, m);
    else
        run<__nv_bfloat16>(d, m);
}
