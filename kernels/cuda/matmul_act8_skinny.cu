/* matmul_act8_skinny.cu - products of few rows of 8-bit codes: every weight crosses the bus once.
 *
 * Rows of codes are the m64 operand of wgmma, weights the other: one warpgroup multiplies, and with
 * so few columns its time is a fraction of the copy engine's.  Rows that are not there are whatever
 * lies in shared memory; nobody reads their sums.  High bytes of outliers (act8.h) are as many rows
 * more.
 *
 * One more warp feeds: chunks of 128 k of the rows and of all units of a pass go into a ring in
 * shared memory, some 140 KiB ahead.  With programmatic dependent launch the weights of the first
 * stages are under way before the kernel before this one has ended. */
#include "kernels/cuda/act8_map.cuh"
#include "kernels/cuda/act8_sums.cuh"
#include "kernels/cuda/choose_act8.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matmul_epilogue.cuh"
#include "kernels/cuda/ptx_wgmma8.cuh"

namespace
{

enum { WORKERS = 128, THREADS = WORKERS + 32, BARRIER_WORKERS = 1, ROWS_OF_WGMMA = 64 };

struct skinny_args {
    struct product p;
    struct act8_scales scales;
    bool is_f16;
    int rows_tile, planes; /* rows of codes of a chunk, and planes among them */
    int n_units, units, stages, span, chunks, stage_bytes;
    size_t group_bytes;
    bool aligned; /* y may be written two values at a time */
};

struct share {            /* what a thread knows of its block's share */
    uint32_t full, empty; /* barriers [stages] */
    uint32_t ring;
    float *sums;                             /* [rows_tile, columns + 8] */
    int first_unit, end_unit, passes, tiles; /* tiles of a unit: 1, or 2 if gated */
};

__device__ share share_of(const skinny_args &a, uint8_t *base)
{
    share s;
    s.full = shared_addr(base);
    s.empty = s.full + ACT8_STAGES_MAX * 8;
    s.ring = s.full + 1024;
    s.sums = (float *)(base + 1024 + (size_t)a.stages * a.stage_bytes);
    s.first_unit = (int)((long long)blockIdx.x * a.n_units / gridDim.x);
    s.end_unit = (int)((long long)(blockIdx.x + 1) * a.n_units / gridDim.x);
    s.passes = (s.end_unit - s.first_unit + a.units - 1) / a.units;
    s.tiles = a.p.w_up ? 2 : 1;
    return s;
}

/* ---- the feeding warp ---- */

struct feed_at { /* a stage: which, and from which chunk of which units */
    int stage;
    uint32_t parity;
    int chunk, unit;

    __device__ void next(const skinny_args &a)
    {
        if (++stage == a.stages) {
            stage = 0;
            parity ^= 1;
        }
        chunk += a.span;
        if (chunk >= a.chunks) {
            chunk = 0;
            unit += a.units;
        }
    }
};

struct skinny_maps {
    CUtensorMap x[2]; /* planes */
};

struct feeder {
    const skinny_maps &maps;
    const skinny_args &a;
    const share &s;
    uint64_t once, often;
    int lane;

    __device__ uint32_t stage_of(const feed_at &at)
    {
        return s.ring + (uint32_t)(at.stage * a.stage_bytes);
    }

    /* Units of a pass that lie in one group lie together.  Lane 8 * i + 4 * part + g loads those of
     * the g-th group, of chunk i; part 1 is up. */
    __device__ void weights(const feed_at &at)
    {
        const int n = min(a.span, a.chunks - at.chunk), units = min(a.units, s.end_unit - at.unit);
        const int i = lane / 8, part = lane / 4 % 2, group = at.unit / ACT8_GROUP_UNITS + lane % 4;
        const int first = max(at.unit, group * ACT8_GROUP_UNITS);
        const int end = min(at.unit + units, (group + 1) * ACT8_GROUP_UNITS);
        const uint32_t bar = s.full + 8 * at.stage;
        const uint32_t to =
            stage_of(at) +
            (uint32_t)(a.span * a.rows_tile * ACT8_CHUNK +
                       ((i * s.tiles + part) * a.units + first - at.unit) * ACT8_UNIT_BYTES);
        if (lane == 0)
            mbarrier_arrive_expect(bar, (uint32_t)(n * (units * s.tiles * ACT8_UNIT_BYTES +
                                                        a.rows_tile * ACT8_CHUNK)));
        __syncwarp();
        if (i < n && part < s.tiles && first < end)
            bulk_load(to,
                      (const uint8_t *)(part ? a.p.w_up : a.p.w) + (size_t)group * a.group_bytes +
                          (size_t)(at.chunk + i) * ACT8_TILE_BYTES +
                          (size_t)(first % ACT8_GROUP_UNITS) * ACT8_UNIT_BYTES,
                      (uint32_t)((end - first) * ACT8_UNIT_BYTES), bar, once);
    }

    __device__ void rows(const feed_at &at)
    {
        const int plane_bytes = a.rows_tile / a.planes * ACT8_CHUNK, plane = lane % 2, i = lane / 2;
        if (i < min(a.span, a.chunks - at.chunk) && plane < a.planes)
            tensor_load_2d(stage_of(at) + (uint32_t)((i * a.planes + plane) * plane_bytes),
                           &maps.x[plane], (at.chunk + i) * ACT8_CHUNK, 0, s.full + 8 * at.stage,
                           often);
    }

    __device__ void run()
    {
        const int steps = s.passes * ((a.chunks + a.span - 1) / a.span);
        const int ahead = min(steps, a.stages);
        const feed_at first = {0, 0, 0, s.first_unit};
        feed_at at = first;
        for (int step = 0; step < ahead; step++, at.next(a))
            weights(at);
        depend_wait();
        at = first;
        for (int step = 0; step < ahead; step++, at.next(a))
            rows(at);
        at.stage = 0;
        at.parity = 0; /* of the first use of each stage */
        for (int step = ahead; step < steps; step++, at.next(a)) {
            mbarrier_wait(s.empty + 8 * at.stage, at.parity);
            weights(at);
            rows(at);
        }
    }
};

/* ---- the warpgroup that multiplies ---- */

struct ring_at {
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

__device__ void release(const share &s, int stage)
{
    if (threadIdx.x % 32 == 0)
        mbarrier_arrive(s.empty + 8 * stage);
}

/* Chunk i of the stage at `at`. */
template <class ACC, int R>
__device__ __forceinline__ void multiply_chunk(ACC (&acc)[R], const skinny_args &a, uint32_t at,
                                               int i, bool adds)
{
    const uint32_t rows_bytes = (uint32_t)(a.rows_tile * ACT8_CHUNK);
    const uint64_t x = matrix_descriptor(at + i * rows_bytes, 16, 1024);
    const uint32_t units_bytes = (uint32_t)(a.units * (a.p.w_up ? 2 : 1) * ACT8_UNIT_BYTES);
    const uint64_t w = matrix_descriptor(at + a.span * rows_bytes + i * units_bytes, 16, 1024);
#pragma unroll
    for (int step = 0; step < ACT8_CHUNK / 32; step++)
        wgmma8(acc, x + 2 * step, w + 2 * step, adds || step > 0);
}

/* Sums of a pass: int8 in one go. */
template <int R>
__device__ void multiply(int (&acc)[R], const skinny_args &a, const share &s, ring_at *r)
{
    int before = -1;
    for (int chunk = 0; chunk < a.chunks; r->next(a.stages)) {
        const int n = min(a.span, a.chunks - chunk), stage = r->stage;
        const uint32_t at = s.ring + (uint32_t)(stage * a.stage_bytes);
        mbarrier_wait(s.full + 8 * stage, r->parity);
        for (int i = 0; i < n; i++, chunk++) {
            registers_pin(acc);
            wgmma_fence();
            multiply_chunk(acc, a, at, i, chunk > 0);
            wgmma_commit();
            wgmma_wait<1>();
            if (before >= 0)
                release(s, before);
            before = -1;
        }
        before = stage;
    }
    wgmma_wait<0>();
    registers_pin(acc);
    release(s, before);
}

/* E4M3: each chunk from zero, the chunks in f32. */
template <int R>
__device__ void multiply(float (&sum)[R], const skinny_args &a, const share &s, ring_at *r)
{
    float acc[R];
#pragma unroll
    for (int i = 0; i < R; i++)
        sum[i] = 0;
    for (int chunk = 0; chunk < a.chunks; chunk += a.span, r->next(a.stages)) {
        const int n = min(a.span, a.chunks - chunk);
        const uint32_t at = s.ring + (uint32_t)(r->stage * a.stage_bytes);
        mbarrier_wait(s.full + 8 * r->stage, r->parity);
        for (int i = 0; i < n; i++) {
            registers_pin(acc);
            wgmma_fence();
            multiply_chunk(acc, a, at, i, false);
            wgmma_commit();
            wgmma_wait<0>();
            registers_pin(acc);
            if (i + 1 == n)
                release(s, r->stage);
#pragma unroll
            for (int k = 0; k < R; k++)
                sum[k] = __fadd_rn(sum[k], acc[k]);
        }
    }
}

/* Accumulators to shared memory, as they are. */
template <class ACC, int R>
__device__ void sums_put(const ACC (&acc)[R], const skinny_args &a, const share &s)
{
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
    const int pitch = 2 * R + 8;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        if (row + 8 * half >= a.rows_tile)
            continue;
        ACC *to = (ACC *)s.sums + (row + 8 * half) * pitch + lane % 4 * 2;
#pragma unroll
        for (int j = 0; j < R / 4; j++) {
            to[8 * j] = acc[4 * j + 2 * half];
            to[8 * j + 1] = acc[4 * j + 2 * half + 1];
        }
    }
}

/* A sum of codes; those of high bytes lie `plane` sums behind, if it is not 0. */
__device__ __forceinline__ float sum_at(const int *at, int plane)
{
    return (float)(plane ? (at[plane] << 8) + at[0] : at[0]);
}

__device__ __forceinline__ float sum_at(const float *at, int)
{
    return at[0];
}

template <class ACC, class T>
__device__ void pass_store(const skinny_args &a, const share &s, int pitch, int unit)
{
    const int units = min(a.units, s.end_unit - unit), pairs = 4 * units;
    const int plane = a.planes > 1 ? a.rows_tile / a.planes * pitch : 0;
    for (int i = threadIdx.x; i < a.p.rows * pairs; i += WORKERS) {
        const int row = i / pairs, c = i % pairs * 2, column = 8 * unit + c;
        const ACC *sums = (const ACC *)s.sums + row * pitch + c;
        const float scale = a.scales.row[row];
        float v[2][2];
#pragma unroll
        for (int part = 0; part < 2; part++)
            if (part < s.tiles)
#pragma unroll
                for (int k = 0; k < 2; k++)
                    v[part][k] =
                        __fmul_rn(__fmul_rn(sum_at(sums + part * 8 * a.units + k, plane), scale),
                                  act8_column_scale(a.scales, part, column + k));
        if (s.tiles == 2)
            epilogue_two<T>(a.p, row, column, v[0], v[1], a.aligned);
        else
            epilogue_two<T>(a.p, row, column, v[0], nullptr, a.aligned);
    }
}

template <class ACC, int R> __device__ void work(const skinny_args &a, const share &s)
{
    ring_at r = {0, 0};
    const int pitch = 2 * R + 8;
    for (int pass = 0; pass < s.passes; pass++) {
        ACC acc[R];
        multiply(acc, a, s, &r);
        barrier_sync(BARRIER_WORKERS, WORKERS); /* the sums before are read */
        sums_put(acc, a, s);
        barrier_sync(BARRIER_WORKERS, WORKERS);
        const int unit = s.first_unit + pass * a.units;
        if (a.is_f16)
            pass_store<ACC, __half>(a, s, pitch, unit);
        else
            pass_store<ACC, __nv_bfloat16>(a, s, pitch, unit);
    }
}

/* grid: blocks of equal shares of units; block: THREADS: a warpgroup that multiplies, a warp that
 * feeds. ACC: int for int8, float for E4M3. */
template <class ACC, int COLUMNS>
__global__ void __launch_bounds__(THREADS, 2)
    skinny_kernel(const __grid_constant__ skinny_maps maps, const __grid_constant__ skinny_args a)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    DYNAMIC_SHARED(uint8_t, shared);
    uint8_t *base = (uint8_t *)(((uintptr_t)shared + 1023) & ~(uintptr_t)1023);
    const share s = share_of(a, base);
    depend_launch();
    if (threadIdx.x == WORKERS) {
        tensor_map_prefetch(&maps.x[0]);
        for (int stage = 0; stage < a.stages; stage++) {
            mbarrier_init(s.full + 8 * stage, 1);
            mbarrier_init(s.empty + 8 * stage, WORKERS / 32);
        }
        fence_mbarrier_init();
    }
    __syncthreads();
    if (threadIdx.x >= WORKERS) {
        feeder{maps, a, s, policy_evict_first(), policy_evict_last(), (int)threadIdx.x % 32}.run();
        return;
    }
    depend_wait();
    work<ACC, COLUMNS / 2>(a, s);
#endif
}

typedef void skinny_function(const skinny_maps, const skinny_args);

skinny_function *kernel_of(struct device *d, bool is_fp8, int columns)
{
    static skinny_function *const kernels[2][3] = {
        {skinny_kernel<int, 32>, skinny_kernel<int, 64>, skinny_kernel<int, 128>},
        {skinny_kernel<float, 32>, skinny_kernel<float, 64>, skinny_kernel<float, 128>}};
    static thread_local int ready_on[2][3]; /* 1 + the device whose function has it */
    const int i = columns == 32 ? 0 : columns == 64 ? 1 : 2;
    skinny_function *kernel = kernels[is_fp8][i];
    if (ready_on[is_fp8][i] != d->index + 1)
        cuda_check(d,
                   cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        ACT8_SHARED_MAX),
                   "shared memory of the skinny 8-bit product");
    ready_on[is_fp8][i] = d->index + 1;
    return kernel;
}

} // namespace

/* ---- the launcher ---- */

void matmul_act8_skinny(struct device *d, const struct product *p, const struct act8_rows *x,
                        enum act_rule rule)
{
    struct act8_shape shape = {};
    shape.rows = x->rows;
    shape.planes = x->planes;
    shape.in = p->in;
    shape.n = p->n;
    shape.gated = p->w_up != nullptr;
    shape.sm_count = d->sm_count;
    struct act8_choice c;
    act8_choose(&c, &shape);

    skinny_args a = {};
    a.p = *p;
    a.scales = act8_scales_of(p, x);
    a.is_f16 = d->act == DT_F16;
    a.rows_tile = c.rows_tile;
    a.planes = x->planes;
    a.n_units = c.n_units;
    a.units = c.units;
    a.stages = c.stages;
    a.span = c.span;
    a.chunks = act8_chunks(p->in);
    a.stage_bytes = (int)c.stage_bytes;
    a.group_bytes = act8_group_bytes(p->in);
    a.aligned = epilogue_aligned(p);
    skinny_maps maps = {};
    for (int plane = 0; plane < x->planes; plane++)
        act8_map_rows(d, &maps.x[plane], x, plane, c.rows_tile / x->planes);

    launch(d, "run the skinny 8-bit product",
           {dim3((unsigned)c.grid), dim3(THREADS), c.shared_bytes, 0},
           kernel_of(d, rule == ACTS_FP8, c.columns), maps, a);
}
