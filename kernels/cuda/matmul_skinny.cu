/* matmul_skinny.cu - products of few rows: every weight crosses the bus once, at its full speed.
 *
 * The weights' 8 rows are the n8 operand of mma.m16n8k16, rows of x the m16 one.  A warp owns a
 * unit of 8 weight rows (gated, 8 of each weight) and walks all of k, so that a value of y is one
 * chain of mma, k = 0, 16, 32, ...; nothing is split along k.  One more warp feeds the others: the
 * copy engine brings a chunk of 64 k for all units of a pass into a ring in shared memory, about
 * 100 KiB ahead.
 *
 * With programmatic dependent launch a block starts while kernels before it run: their results are
 * x and add, never weights, so its ring fills, and the copy engine is asked to bring what follows
 * the ring to L2, and stays as far ahead of the ring until the end.  Thus memory works through the
 * borders between kernels, and the time lost there is made up from L2.
 *
 * x lies whole in shared memory when it is small (and is normalised there), else each stage of the
 * ring holds x's chunk too.  Bytes: weights once; x once a block (resident) or once a pass. */
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matmul_epilogue.cuh"
#include "kernels/cuda/norm_row.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/tensor_map.h"

namespace
{

enum {
    THREADS = (SKINNY_WARPS_MAX + 1) * 32,
    WORKERS = SKINNY_WARPS_MAX * 32, /* the last warp feeds */
    CHUNK_STEPS = SKINNY_CHUNK / 16,
    ROW_BYTES = SKINNY_CHUNK * 2,
    BARRIER_WORKERS = 1,
    GROUP = 4, /* chunks that are fetched to L2 at once: 512 bytes of a row */
    SUMS_AT = 2 * SKINNY_STAGES_MAX * 8, /* in the first KiB, behind the barriers */
};
static_assert((int)WORKERS == (int)NORM_THREADS, "the workers sum a row as norm.cu does");
static_assert(SUMS_AT + 2 * SKINNY_NORM_ROWS_MAX * NORM_WARPS * 4 <= 1024, "barriers and sums fit");

struct skinny_args {
    struct product p;
    enum norm_kind norm_kind; /* of p.norm, which is host memory: non-NULL says that there is one */
    const float *norm_w, *norm_b;
    float norm_eps;
    int n_units, warps, stages, chunks, stage_bytes, x_bytes;
    int ahead;    /* steps that L2 is ahead of the ring */
    bool aligned; /* y may be written two values at a time */
};

struct skinny_maps {
    CUtensorMap w[2];     /* a tile: 8 rows of a chunk; [1]: up */
    CUtensorMap pass[2];  /* all tiles of a pass, where it is full */
    CUtensorMap ahead[2]; /* the same rows of GROUP chunks */
    CUtensorMap x;
};

/* What a thread knows of its block's share. */
struct share {
    uint32_t full, empty; /* barriers [stages] */
    uint32_t x, ring;     /* shared memory */
    int first_unit, end_unit, passes;
};

__device__ share share_of(const skinny_args &a, uint32_t base)
{
    share s;
    s.full = base;
    s.empty = base + SKINNY_STAGES_MAX * 8;
    s.x = base + 1024;
    s.ring = s.x + (uint32_t)a.x_bytes;
    s.first_unit = (int)((long long)blockIdx.x * a.n_units / gridDim.x);
    s.end_unit = (int)((long long)(blockIdx.x + 1) * a.n_units / gridDim.x);
    s.passes = (s.end_unit - s.first_unit + a.warps - 1) / a.warps;
    return s;
}

struct ring_at { /* a place in the ring, and the parity of its use */
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

/* ---- x in shared memory ----
 *
 * Chunks of [rows][128 bytes]; the 16-byte piece j of row r lies at j ^ (r % 8), as the copy
 * engine's 128-byte swizzle has it: ldmatrix meets no bank twice. */

__device__ uint32_t piece_at(uint32_t chunk, int row, int piece)
{
    return chunk + (uint32_t)(row * ROW_BYTES + ((piece ^ (row & 7)) << 4));
}

/* Where piece `piece` of a whole row lies in x. */
__device__ uint32_t x_piece_at(uint32_t x, const skinny_args &a, int row, int piece)
{
    return piece_at(x + (uint32_t)(piece / 8 * a.p.rows * ROW_BYTES), row, piece % 8);
}

__device__ uint4 *x_piece(uint8_t *x, const skinny_args &a, int row, int piece)
{
    return (uint4 *)(x + x_piece_at(0, a, row, piece));
}

/* Each thread brings the pieces that norm_row.cuh gives it; past the last k they are zero. */
__device__ void x_load(uint32_t x, const skinny_args &a)
{
    for (int row = 0; row < a.p.rows; row++) {
        int from_row = a.p.gather ? a.p.gather[row].row : row;
        const uint4 *from = (const uint4 *)((const uint16_t *)a.p.x + (size_t)from_row * a.p.in);
        for (int i = threadIdx.x; i < a.chunks * 8; i += WORKERS) {
            bool inside = i * 8 < a.p.in;
            cp_async_16(x_piece_at(x, a, row, i), inside ? from + i : from, inside ? 16 : 0);
        }
    }
    cp_async_commit();
    cp_async_wait<0>();
}

/* Piece i of all rows: ROWS is 1 or SKINNY_NORM_ROWS_MAX, and rows past the last repeat it, so that
 * the rows' sums and shuffles fill each other's waits. */
template <int ROWS>
__device__ __forceinline__ void x_pieces(uint4 piece[ROWS], uint8_t *x, const skinny_args &a, int i)
{
#pragma unroll
    for (int row = 0; row < ROWS; row++)
        piece[row] = *x_piece(x, a, min(row, a.p.rows - 1), i);
}

/* Sums of x, or of (x - mean)^2, of each row by all workers. */
template <class PAIR, int ROWS>
__device__ __forceinline__ void x_sums(float sum[ROWS], const float *mean, uint8_t *x,
                                       const skinny_args &a, float (*warp_sum)[NORM_WARPS])
{
    float s[ROWS] = {};
    for (int i = threadIdx.x; i * 8 < a.p.in; i += WORKERS) {
        uint4 piece[ROWS];
        x_pieces<ROWS>(piece, x, a, i);
#pragma unroll
        for (int row = 0; row < ROWS; row++)
            s[row] = mean ? norm_chunk_squares<PAIR>(s[row], piece[row], mean[row])
                          : norm_chunk_sum<PAIR>(s[row], piece[row]);
    }
#pragma unroll
    for (int row = 0; row < ROWS; row++)
        s[row] = norm_warp_sum(s[row]);
#pragma unroll
    for (int row = 0; row < ROWS; row++)
        if (threadIdx.x % 32 == 0)
            warp_sum[row][threadIdx.x / 32] = s[row];
    barrier_sync(BARRIER_WORKERS, WORKERS);
#pragma unroll
    for (int row = 0; row < ROWS; row++)
        sum[row] = norm_warps_sum(warp_sum[row]);
}

struct weights_of_piece { /* of a norm; absent ones change no bit */
    float w[NORM_CHUNK], b[NORM_CHUNK];
};

__device__ __forceinline__ void load_piece(float v[NORM_CHUNK], const float *from, int i,
                                           float none)
{
    const float4 *at = (const float4 *)from + 2 * i;
    const float4 absent = make_float4(none, none, none, none);
    float4 low = from ? __ldg(at) : absent, high = from ? __ldg(at + 1) : absent;
    v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w;
    v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
}

__device__ __forceinline__ void load_weights(weights_of_piece *to, const skinny_args &a, int i)
{
    bool inside = i * 8 < a.p.in;
    load_piece(to->w, inside ? a.norm_w : nullptr, i, 1.0f);
    load_piece(to->b, inside ? a.norm_b : nullptr, i, -0.0f);
}

template <class PAIR, int ROWS>
__device__ __forceinline__ void x_scale(uint8_t *x, const skinny_args &a, int i, const float *mean,
                                        const float *by, const weights_of_piece &weights)
{
    uint4 piece[ROWS];
    if (i * 8 >= a.p.in)
        return;
    x_pieces<ROWS>(piece, x, a, i);
#pragma unroll
    for (int row = 0; row < ROWS; row++)
        *x_piece(x, a, min(row, a.p.rows - 1), i) =
            norm_chunk<PAIR>(piece[row], mean[row], by[row], weights.w, weights.b);
}

/* `first` is of the thread's first piece, loaded before x was there. */
template <class PAIR, int ROWS>
__device__ __forceinline__ void x_norm(uint8_t *x, const skinny_args &a,
                                       float (*warp_sum)[NORM_WARPS], const weights_of_piece &first)
{
    float mean[ROWS] = {}, by[ROWS];
    weights_of_piece now = first, next;
    load_weights(&next, a, threadIdx.x + WORKERS);
    if (a.norm_kind == NORM_LAYER) {
        x_sums<PAIR, ROWS>(mean, nullptr, x, a, warp_sum);
#pragma unroll
        for (int row = 0; row < ROWS; row++)
            mean[row] = norm_mean(mean[row], a.p.in);
        warp_sum += ROWS;
    }
    x_sums<PAIR, ROWS>(by, mean, x, a, warp_sum);
#pragma unroll
    for (int row = 0; row < ROWS; row++)
        by[row] = norm_scale(by[row], a.p.in, a.norm_eps);
    for (int i = threadIdx.x; i * 8 < a.p.in; i += WORKERS) {
        x_scale<PAIR, ROWS>(x, a, i, mean, by, now);
        now = next;
        load_weights(&next, a, i + 2 * WORKERS);
    }
}

/* ---- the feeding warp ---- */

struct feed_at { /* a step: where in the ring, which chunk of which units */
    ring_at ring;
    int chunk, unit;

    __device__ void next(const skinny_args &a)
    {
        ring.next(a.stages);
        if (++chunk == a.chunks) {
            chunk = 0;
            unit += a.warps;
        }
    }
};

struct fetch_at { /* what is fetched to L2 next: chunks of units, and the step they are for */
    int chunk, unit, step;

    __device__ void next(const skinny_args &a)
    {
        int n = min((int)GROUP, a.chunks - chunk);
        step += n;
        chunk += n;
        if (chunk == a.chunks) {
            chunk = 0;
            unit += a.warps;
        }
    }
};

/* A stage holds a pass's tiles, up's behind the gate's. */
__device__ uint32_t tile_at(const skinny_args &a, uint32_t stage, int unit, int tile)
{
    return stage + (uint32_t)((tile * a.warps + unit) * SKINNY_TILE_BYTES);
}

template <int ROWS, int TILES, bool RESIDENT> struct feeder {
    const skinny_maps &maps;
    const skinny_args &a;
    const share &s;
    uint64_t once, often;
    int lane;

    /* A full pass is one copy of each weight; else lane i loads tile i. */
    __device__ void weights(const feed_at &at)
    {
        int units = min(a.warps, s.end_unit - at.unit), k = at.chunk * SKINNY_CHUNK;
        uint32_t bar = s.full + 8 * at.ring.stage;
        uint32_t to = s.ring + (uint32_t)(at.ring.stage * a.stage_bytes);
        if (lane == 0)
            mbarrier_arrive_expect(bar, (uint32_t)(units * TILES * SKINNY_TILE_BYTES +
                                                   (RESIDENT ? 0 : ROWS * ROW_BYTES)));
        __syncwarp();
        if (units == a.warps) {
            if (lane < TILES)
                tensor_load_2d(tile_at(a, to, 0, lane), &maps.pass[lane], k, 8 * at.unit, bar,
                               once);
        } else if (lane < units * TILES) {
            int unit = lane / TILES, tile = lane % TILES;
            tensor_load_2d(tile_at(a, to, unit, tile), &maps.w[tile], k, 8 * (at.unit + unit), bar,
                           once);
        }
    }

    /* The chunk of x lies behind the tiles. */
    __device__ void rows(const feed_at &at)
    {
        uint32_t to = s.ring + (uint32_t)(at.ring.stage * a.stage_bytes +
                                          a.warps * TILES * SKINNY_TILE_BYTES);
        if (!RESIDENT && lane == 0)
            tensor_load_2d(to, &maps.x, at.chunk * SKINNY_CHUNK, 0, s.full + 8 * at.ring.stage,
                           often);
    }

    /* Fetches to L2 up to step `end`, from the first whole group behind `first`. */
    __device__ void fetch(fetch_at *at, int first, int end)
    {
        for (; at->step < end; at->next(a))
            if (at->step >= first && lane < TILES)
                tensor_prefetch_2d(&maps.ahead[lane], at->chunk * SKINNY_CHUNK, 8 * at->unit);
    }

    __device__ void run()
    {
        int steps = s.passes * a.chunks, ahead = min(steps, a.stages);
        feed_at first = {{0, 0}, 0, s.first_unit}, at = first;
        fetch_at l2 = {0, s.first_unit, 0};
        for (int step = 0; step < ahead; step++, at.next(a))
            weights(at);
        fetch(&l2, ahead, min(steps, ahead + a.ahead));
        depend_wait();
        at = first;
        for (int step = 0; step < ahead; step++, at.next(a))
            rows(at);
        at.ring = {0, 0}; /* parity of the first use of each stage */
        for (int step = ahead; step < steps; step++, at.next(a)) {
            mbarrier_wait(s.empty + 8 * at.ring.stage, at.ring.parity);
            weights(at);
            rows(at);
            fetch(&l2, step, min(steps, step + a.ahead));
        }
    }
};

/* ---- the workers ---- */

/* What a warp holds of one chunk: CHUNK_STEPS steps of x and of its tiles. */
template <int ROWS, int TILES> struct fragments {
    enum { GROUPS = ROWS == 8 ? 1 : ROWS / 16 };
    uint32_t x[GROUPS][CHUNK_STEPS][4];
    uint32_t w[TILES][2][4];
};

template <int ROWS, int TILES, bool RESIDENT>
__device__ void fragments_load(fragments<ROWS, TILES> *f, const skinny_args &a, const share &s,
                               int chunk, int stage, int warp, int lane)
{
    uint32_t tiles = s.ring + (uint32_t)(stage * a.stage_bytes);
    uint32_t x = RESIDENT ? s.x + (uint32_t)(chunk * a.p.rows * ROW_BYTES)
                          : tiles + (uint32_t)(a.warps * TILES * SKINNY_TILE_BYTES);
    int row = lane % 8, matrix = lane / 8;
#pragma unroll
    for (int tile = 0; tile < TILES; tile++)
#pragma unroll
        for (int half = 0; half < 2; half++)
            ldmatrix_x4(f->w[tile][half],
                        piece_at(tile_at(a, tiles, warp, tile), row, 4 * half + matrix));
            /* Rows past the last, and of 8 the second 8, repeat others: their sums are not stored.
             */
#pragma unroll
    for (int group = 0; group < fragments<ROWS, TILES>::GROUPS; group++) {
        int x_row = ROWS == 8 ? (RESIDENT ? min(row, a.p.rows - 1) : row)
                              : 16 * group + 8 * (matrix % 2) + row;
#pragma unroll
        for (int step = 0; step < CHUNK_STEPS; step++)
            ldmatrix_x4(f->x[group][step], piece_at(x, x_row, 2 * step + matrix / 2));
    }
}

template <class T, int ROWS, int TILES>
__device__ __forceinline__ void fragments_mma(float sum[TILES][fragments<ROWS, TILES>::GROUPS][4],
                                              const fragments<ROWS, TILES> *f, int first, int end)
{
#pragma unroll
    for (int step = first; step < end; step++)
#pragma unroll
        for (int group = 0; group < fragments<ROWS, TILES>::GROUPS; group++)
#pragma unroll
            for (int tile = 0; tile < TILES; tile++)
                mma_16816(sum[tile][group], f->x[group][step], f->w[tile][step / 2] + step % 2 * 2,
                          T());
}

template <class T, int ROWS, int TILES>
__device__ void sums_store(const skinny_args &a, int unit, int lane,
                           float sum[TILES][fragments<ROWS, TILES>::GROUPS][4])
{
    int col = lane % 4 * 2;
#pragma unroll
    for (int group = 0; group < fragments<ROWS, TILES>::GROUPS; group++)
#pragma unroll
        for (int half = 0; half < (ROWS == 8 ? 1 : 2); half++) {
            int row = 16 * group + 8 * half + lane / 4;
            epilogue_two<T>(a.p, row, 8 * unit + col, sum[0][group] + 2 * half,
                            TILES == 2 ? sum[TILES - 1][group] + 2 * half : nullptr, a.aligned);
        }
}

/* One warp's walk over its units.  Few rows: a chunk's sums wait for each other, so the next chunk
 * is loaded while they do, and its barrier is asked for a chunk earlier; with more rows, there are
 * sums enough to fill the wait and no registers to spare. */
template <class T, int ROWS, int TILES, bool RESIDENT> struct worker {
    typedef fragments<ROWS, TILES> chunk_parts;

    const skinny_args &a;
    const share &s;
    int warp, lane;
    ring_at load_at, free_at;
    int chunk;  /* loaded next, of the pass */
    bool there; /* and was seen to have arrived */
    float sum[TILES][chunk_parts::GROUPS][4];

    __device__ __forceinline__ void load(chunk_parts *f)
    {
        if (!there)
            mbarrier_wait(s.full + 8 * load_at.stage, load_at.parity);
        there = false;
        fragments_load<ROWS, TILES, RESIDENT>(f, a, s, chunk++, load_at.stage, warp, lane);
        load_at.next(a.stages);
    }

    __device__ __forceinline__ void free_oldest()
    {
        if (lane == 0)
            mbarrier_arrive(s.empty + 8 * free_at.stage);
        free_at.next(a.stages);
    }

    __device__ __forceinline__ void add(const chunk_parts *f)
    {
        fragments_mma<T, ROWS, TILES>(sum, f, 0, CHUNK_STEPS);
        free_oldest();
    }

    __device__ __forceinline__ void add_and_load(const chunk_parts *f, chunk_parts *next)
    {
        fragments_mma<T, ROWS, TILES>(sum, f, 0, 1);
        load(next);
        fragments_mma<T, ROWS, TILES>(sum, f, 1, CHUNK_STEPS);
        there = mbarrier_test(s.full + 8 * load_at.stage, load_at.parity);
        free_oldest();
    }

    __device__ __forceinline__ void pass_ahead()
    {
        chunk_parts even, odd;
        load(&even);
        while (chunk + 1 < a.chunks) {
            add_and_load(&even, &odd);
            add_and_load(&odd, &even);
        }
        if (chunk < a.chunks) {
            add_and_load(&even, &odd);
            add(&odd);
        } else {
            add(&even);
        }
    }

    __device__ __forceinline__ void pass_plain()
    {
        while (chunk < a.chunks) {
            chunk_parts f;
            load(&f);
            add(&f);
        }
    }

    __device__ void run()
    {
        constexpr bool AHEAD = ROWS == 8 || (ROWS == 16 && TILES == 1);
        for (int pass = 0; pass < s.passes; pass++) {
            chunk = 0;
            memset(sum, 0, sizeof sum);
            if constexpr (AHEAD)
                pass_ahead();
            else
                pass_plain();
            int unit = s.first_unit + pass * a.warps + warp;
            if (unit < s.end_unit)
                sums_store<T, ROWS, TILES>(a, unit, lane, sum);
        }
    }
};

template <class T> struct pair_of;
template <> struct pair_of<__nv_bfloat16> {
    typedef __nv_bfloat162 type;
};
template <> struct pair_of<__half> {
    typedef __half2 type;
};

/* x to shared memory, all of it. */
template <class PAIR> __device__ void prepare_x(uint8_t *base, uint32_t x, const skinny_args &a)
{
    float(*warp_sum)[NORM_WARPS] = (float(*)[NORM_WARPS])(base + SUMS_AT);
    weights_of_piece first;
    if (a.p.norm)
        load_weights(&first, a, threadIdx.x);
    depend_wait();
    x_load(x, a);
    if (a.p.norm && a.p.rows == 1)
        x_norm<PAIR, 1>(base + 1024, a, warp_sum, first);
    else if (a.p.norm)
        x_norm<PAIR, SKINNY_NORM_ROWS_MAX>(base + 1024, a, warp_sum, first);
    barrier_sync(BARRIER_WORKERS, WORKERS);
}

/* grid: blocks of equal shares of units; block: THREADS, of which warps [0, a.warps) own units. */
template <class T, int ROWS, int TILES, bool RESIDENT>
__global__ void __launch_bounds__(THREADS, 2)
    skinny_kernel(const __grid_constant__ skinny_maps maps, const __grid_constant__ skinny_args a)
{
    extern __shared__ uint8_t shared[];
    uint8_t *base = (uint8_t *)(((uintptr_t)shared + 1023) & ~(uintptr_t)1023);
    share s = share_of(a, shared_addr(base));
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    depend_launch();
    if (threadIdx.x == WORKERS) {
        for (int tile = 0; tile < TILES; tile++)
            tensor_map_prefetch(&maps.pass[tile]);
        for (int stage = 0; stage < a.stages; stage++) {
            mbarrier_init(s.full + 8 * stage, 1);
            mbarrier_init(s.empty + 8 * stage, (uint32_t)a.warps);
        }
        fence_mbarrier_init();
    }
    __syncthreads();
    if (warp == SKINNY_WARPS_MAX) {
        feeder<ROWS, TILES, RESIDENT>{maps, a, s, policy_evict_first(), policy_evict_last(), lane}
            .run();
        return;
    }
    if (RESIDENT)
        prepare_x<typename pair_of<T>::type>(base, s.x, a);
    else
        depend_wait();
    if (warp < a.warps)
        worker<T, ROWS, TILES, RESIDENT>{a, s, warp, lane}.run();
}

typedef void skinny_function(const skinny_maps, const skinny_args);

struct variant {
    int rows_tile, unit_tiles;
    bool resident;
    skinny_function *kernel[2]; /* bf16, f16 */
};

#define VARIANT(ROWS, TILES, RESIDENT)                                                             \
    {                                                                                              \
        ROWS, TILES, RESIDENT,                                                                     \
        {                                                                                          \
            skinny_kernel<__nv_bfloat16, ROWS, TILES, RESIDENT>,                                   \
                skinny_kernel<__half, ROWS, TILES, RESIDENT>                                       \
        }                                                                                          \
    }
const variant variants[] = {
    VARIANT(8, 1, true),   VARIANT(8, 2, true),   VARIANT(8, 1, false),  VARIANT(8, 2, false),
    VARIANT(16, 1, false), VARIANT(16, 2, false), VARIANT(32, 1, false), VARIANT(32, 2, false),
};
enum { N_VARIANTS = sizeof variants / sizeof variants[0] };

skinny_function *kernel_of(struct device *d, const struct matmul_choice *c)
{
    static bool ready[N_VARIANTS][2]; /* one device thread; the attribute is of the function */
    int f16 = d->act == DT_F16, i = 0;
    while (variants[i].rows_tile != c->rows_tile || variants[i].unit_tiles != c->unit_tiles ||
           variants[i].resident != c->resident)
        i++;
    skinny_function *kernel = variants[i].kernel[f16];
    if (!ready[i][f16])
        cuda_check(d,
                   cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        SKINNY_SHARED_MAX),
                   "shared memory of the skinny product");
    ready[i][f16] = true;
    return kernel;
}

skinny_args args_of(const struct product *p, const struct matmul_choice *c)
{
    skinny_args a = {};
    a.p = *p;
    if (p->norm) {
        a.norm_kind = p->norm->kind;
        a.norm_w = p->norm->w;
        a.norm_b = p->norm->b;
        a.norm_eps = p->norm->eps;
    }
    a.n_units = c->n_units;
    a.warps = c->warps;
    a.stages = c->stages;
    a.chunks = (p->in + SKINNY_CHUNK - 1) / SKINNY_CHUNK;
    a.stage_bytes = (int)c->stage_bytes;
    a.ahead = SKINNY_AHEAD_BYTES / (c->warps * c->unit_tiles * SKINNY_TILE_BYTES);
    a.x_bytes = (int)c->x_bytes;
    a.aligned = epilogue_aligned(p);
    return a;
}

skinny_maps maps_of(struct device *d, const struct product *p, const struct matmul_choice *c)
{
    skinny_maps m = {};
    const void *w[2] = {p->w, p->w_up};
    int rows = 8 * c->warps; /* of a pass */
    for (int i = 0; i < c->unit_tiles; i++) {
        tensor_map_2d(d, &m.w[i], w[i], p->in, p->n, p->in, SKINNY_CHUNK, 8);
        tensor_map_2d(d, &m.pass[i], w[i], p->in, p->n, p->in, SKINNY_CHUNK, rows);
        tensor_map_2d_l2(d, &m.ahead[i], w[i], p->in, p->n, p->in, GROUP * SKINNY_CHUNK, rows);
    }
    if (!c->resident)
        tensor_map_2d(d, &m.x, p->x, p->in, p->rows, p->in, SKINNY_CHUNK, c->rows_tile);
    return m;
}

} // namespace

/* ---- the launcher ---- */

void matmul_skinny(struct device *d, const struct product *p, const struct matmul_choice *c)
{
    launch(d, "run the skinny product",
           {dim3((unsigned)c->grid), dim3(THREADS), c->shared_bytes, 0}, kernel_of(d, c),
           maps_of(d, p, c), args_of(p, c));
}
