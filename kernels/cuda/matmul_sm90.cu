/* matmul_sm90.cu - products of many rows on Hopper: wgmma fed by the copy engine.
 *
 * A tile is 128 or 64 rows of x by TILE_N rows of w.  One thread of a block asks for the operands,
 * 64 columns of k at a time, into a ring of stages; a warpgroup for each 64 rows multiplies them.
 * Tiles that share w run side by side, at one pace: also one whose rows are few multiplies all 128,
 * as w, which it would run ahead with, would have to come again for the others.  Blocks stay and
 * take tile after tile; while one tile's y leaves through shared memory the next one's operands
 * come.
 *
 * Every y is one chain of k16 steps in an f32 accumulator, in order of k, whatever the tile:
 * matmul_skinny.cu gives the same bits.  Columns of k beyond `in` come as zeros and add nothing. */
#include "kernels/cuda/choose.h"
#include "kernels/cuda/launch.cuh"
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

/* The thread that fetches; the first stages' weights before the wait for what x is made of.  Rows
 * behind the last are left as they lie: their y is not stored, and to have the copy engine make
 * them zeros costs more time than to bring real ones. */
template <int TILE_M, int TILE_N, bool GATED>
__device__ void fetch(const operands &o, const args &a, uint32_t stages, uint32_t full,
                      uint32_t empty)
{
    using S = shape<TILE_M, TILE_N>;
    const int OUT_COLUMNS = GATED ? TILE_N / 2 : TILE_N;
    const int n_all = a.row_clusters * a.n_tiles;
    int stage = 0, parity = 1, ahead = min(a.n_k, (int)S::STAGES);
    for (int i = blockIdx.x; i < n_all; i += gridDim.x) {
        const tile t = tile_at<TILE_M, OUT_COLUMNS>(a, i);
        const bool is_short = a.last_bytes > 0 && t.row >= a.last_row;
        const CUtensorMap *x = is_short ? &o.x_last : &o.x;
        const int n_bytes = is_short ? S::B_BYTES + a.last_bytes : S::STAGE_BYTES;
        auto fetch_w = [&](int at, int k) {
            const uint32_t bar = full + at * 8, to = stages + at * S::STAGE_BYTES + S::A_BYTES;
            mbarrier_arrive_expect(bar, n_bytes);
            tensor_copy_2d(to, &o.w[0], bar, k * TILE_K, t.n);
            if (GATED)
                tensor_copy_2d(to + S::B_BYTES / 2, &o.w[1], bar, k * TILE_K, t.n);
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
            tensor_copy_2d(stages + stage * S::STAGE_BYTES, x, full + stage * 8, k * TILE_K, t.row);
            if (++stage == S::STAGES) {
                stage = 0;
                parity ^= 1;
            }
        }
        ahead = 0;
    }
}

/* acc = 64 rows of x times TILE_N rows of w. */
template <typename T, int TILE_M, int TILE_N>
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
            release<1>(empty, before);
        before = r->stage;
        if (++r->stage == S::STAGES) {
            r->stage = 0;
            r->parity ^= 1;
        }
    }
    wgmma_wait<0>();
    registers_pin(acc);
    release<1>(empty, before);
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

/* grid: [blocks]   block: [THREADS]: one or two warpgroups multiply, one fetches */
template <typename T, int TILE_M, int TILE_N, epilogue E>
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

    if (threadIdx.x == 0) {
        for (int s = 0; s < S::STAGES; s++) {
            mbarrier_init(full + 8 * s, 1);
            mbarrier_init(empty + 8 * s, S::MATHS / 128);
        }
        fence_mbarrier_init();
    }
    __syncthreads();
    depend_launch();

    if (warpgroup == S::MATHS / 128) {
        if (TILE_M == TILE_M_MAX)
            registers_give<40>();
        if (threadIdx.x == S::MATHS)
            fetch<TILE_M, TILE_N, is_gated(E)>(o, a, stages, full, empty);
    } else {
        if (TILE_M == TILE_M_MAX)
            registers_take<232>();
        depend_wait(); /* the epilogue reads what x's maker may have written */
        ring r = {0, 0};
        float acc[TILE_N / 2];
        const int n_all = a.row_clusters * a.n_tiles;
        for (int i = blockIdx.x; i < n_all; i += gridDim.x) {
            const tile t = tile_at<TILE_M, OUT_COLUMNS>(a, i);
            added<E, OUT_COLUMNS> add;
            add.load(a, t, warpgroup);
            multiply<T, TILE_M, TILE_N>(acc, a.n_k, stages, full, empty, warpgroup, &r);
            const plain_sums<TILE_N> sums = {acc};
            if constexpr (E == EPILOGUE_F32)
                store_f32<TILE_N>(a, sums, t, warpgroup);
            else
                store<T, OUT_COLUMNS, part_of(OUT_COLUMNS), E>(o, a, sums, add, t, out, warpgroup);
        }
        if (E != EPILOGUE_F32 && threadIdx.x % 128 == 0)
            store_wait();
    }
#endif
}

/* Launching. */

template <typename T, int TILE_M, int TILE_N, epilogue E>
void run_tile(device *d, const operands *o, const args *a)
{
    using S = shape<TILE_M, TILE_N>;
    auto *kernel = matmul_sm90_kernel<T, TILE_M, TILE_N, E>;
    static thread_local int ready_on; /* 1 + the device whose function has it; a thread for each */
    if (ready_on != d->index + 1) {
        cuda_check(d,
                   cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        S::SHARED_BYTES),
                   "shared memory of matmul");
        ready_on = d->index + 1;
    }
    const int tiles = a->row_clusters * a->n_tiles;
    launch(d, "run matmul",
           {dim3(tiles < d->sm_count ? tiles : d->sm_count), dim3(S::THREADS), S::SHARED_BYTES, 0},
           kernel, *o, *a);
}

template <typename T, epilogue E>
void run_plain(device *d, const matmul_tile *t, const operands *o, const args *a)
{
    switch (t->columns) {
    case 256:
        return run_tile<T, 128, 256, E>(d, o, a);
    case 192:
        return run_tile<T, 128, 192, E>(d, o, a);
    case 160:
        return run_tile<T, 128, 160, E>(d, o, a);
    case 128:
        return run_tile<T, 128, 128, E>(d, o, a);
    case 96:
        return run_tile<T, 128, 96, E>(d, o, a);
    default:
        return t->rows == 64 ? run_tile<T, 64, 64, E>(d, o, a) : run_tile<T, 128, 64, E>(d, o, a);
    }
}

template <typename T> void run_gated(device *d, int columns, const operands *o, const args *a)
{
    switch (columns) {
    case 256:
        return run_tile<T, 128, 256, EPILOGUE_GATED>(d, o, a);
    case 224:
        return run_tile<T, 128, 224, EPILOGUE_GATED>(d, o, a);
    default:
        return run_tile<T, 128, 128, EPILOGUE_GATED>(d, o, a);
    }
}

template <typename T>
void run_epilogue(device *d, epilogue e, const matmul_tile *t, const operands *o, const args *a)
{
    switch (e) {
    case EPILOGUE_STORE:
        return run_plain<T, EPILOGUE_STORE>(d, t, o, a);
    case EPILOGUE_ADD:
        return run_plain<T, EPILOGUE_ADD>(d, t, o, a);
    case EPILOGUE_GATED:
        return run_gated<T>(d, t->columns, o, a);
    case EPILOGUE_F32:
        return run_tile<T, 128, TILE_RARE, EPILOGUE_F32>(d, o, a);
    case EPILOGUE_ANY:
        return run_tile<T, 128, TILE_RARE, EPILOGUE_ANY>(d, o, a);
    case EPILOGUE_GATED_ANY:
        return run_tile<T, 128, TILE_RARE, EPILOGUE_GATED_ANY>(d, o, a);
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
    const int w_rows = gated ? t.columns / 2 : t.columns;
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
        .row_clusters = (m->rows + t.rows - 1) / t.rows,
        .n_tiles = (m->n + out_columns - 1) / out_columns,
        .bias = {m->bias[0], m->bias[1]},
        .add = m->add,
        .y = m->y,
        .y_stride = m->y_stride,
        .act = m->act,
    };
    run_epilogue<T>(d, e, &t, &o, &a);
}

void matmul_sm90(device *d, const wide_matmul *m)
{
    if (d->act == DT_F16)
        run<__half>(d, m);
    else
        run<__nv_bfloat16>(d, m);
}
