/* matmul_skinny.cu - products of few rows: every weight crosses the bus once, at its full speed.
 *
 * The weights' 8 rows are the n8 operand of mma.m16n8k16, rows of x the m16 one.  A warp owns a
 * unit of 8 or 16 weight rows and walks all of k, so that a value of y is one chain of mma, k = 0,
 * 16, 32, ...; nothing is split along k.  A thread of one more warp feeds the others: the copy
 * engine brings chunks of 64 k for all units of a pass into a ring in shared memory, up to 200 KiB
 * ahead.  A stage of the ring holds `span` chunks: each costs the feeder and the workers a meeting
 * of some 400 clocks, in which a block of few units would move too little.
 *
 * With programmatic dependent launch the ring fills before the kernel before this one has ended:
 * its results are x and add, never weights.
 *
 * x lies whole in shared memory when it is small (and is normalised there), else each stage of the
 * ring holds x's chunk too.  Bytes: weights once; x once a block (resident) or once a pass.
 *
 * Where y is q, k and v, a unit may take its rows from two places of a head, and ends with rope and
 * the cache: matmul_heads.cuh. */
#include "kernels/cuda/matmul_epilogue.cuh"
#include "kernels/cuda/matmul_heads.cuh"
#include "kernels/cuda/matmul_rows.cuh"
#include "kernels/cuda/tensor_map.h"

namespace
{

enum {
    THREADS = (SKINNY_WARPS_MAX + 1) * 32,
    WORKERS = SKINNY_WARPS_MAX * 32, /* the last warp feeds */
    CHUNK_STEPS = SKINNY_CHUNK / 16,
    ROW_BYTES = SKINNY_CHUNK * 2,
    SUMS_AT = 2 * SKINNY_STAGES_MAX * 8, /* in the first KiB, behind the barriers */
    ZEROS_AT = SUMS_AT + 2 * SKINNY_NORM_ROWS_MAX * NORM_WARPS * 4, /* 16 bytes for ldmatrix */
};
static_assert((int)WORKERS == (int)ROWS_THREADS, "the workers bring the rows");
static_assert(ZEROS_AT % 16 == 0 && ZEROS_AT + 16 <= 1024, "barriers, sums and zeros fit");

struct skinny_args : rows_args {
    int n_units, warps, stages, stage_bytes, x_bytes;
    bool aligned; /* y may be written two values at a time */
    struct rope_job heads;
};

enum kind { PLAIN, GATED, HEADS };

template <kind KIND> constexpr int tiles_of = KIND == GATED ? 2 : 1;

/* Boxes of the units of a whole pass, and of a last one of blocks with more and with fewer units;
 * of heads all are of one unit. */
enum { PASS_WHOLE, PASS_LAST, PASS_LESS, N_PASSES };

struct skinny_maps {
    CUtensorMap w[2][N_PASSES], x; /* w[1]: up */
    int units[N_PASSES];
};

/* What a thread knows of its block's share. */
struct share {
    uint32_t full, empty;    /* barriers [stages] */
    uint32_t zeros, x, ring; /* shared memory */
    int first_unit, end_unit, passes;
};

__device__ share share_of(const skinny_args &a, uint32_t base)
{
    share s;
    s.full = base;
    s.empty = base + SKINNY_STAGES_MAX * 8;
    s.zeros = base + ZEROS_AT;
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

/* ---- the feeding thread ---- */

struct feed_at { /* a step: where in the ring, from which chunk of which units */
    ring_at ring;
    int chunk, unit;
};

/* A stage takes one copy of all units of its pass, or two, gate and up, and one of x.  A copy costs
 * the engine some 80 clocks, however small: one for each unit and chunk, 1 KiB, bounded an SM at 12
 * bytes a clock.  Of heads each unit has its own, which is 2 or 4 KiB. */
template <int ROWS, kind KIND, bool RESIDENT, int SPAN> struct feeder {
    enum { TILES = tiles_of<KIND> };
    const skinny_maps &maps;
    const skinny_args &a;
    const share &s;
    uint64_t once, often;

    __device__ void next(feed_at *at)
    {
        at->ring.next(a.stages);
        at->chunk += SPAN;
        if (at->chunk >= a.chunks) {
            at->chunk = 0;
            at->unit += a.warps;
        }
    }

    __device__ uint32_t stage_of(const feed_at &at)
    {
        return s.ring + (uint32_t)(at.ring.stage * a.stage_bytes);
    }

    __device__ void load(uint32_t to, const CUtensorMap *map, int chunk, int row, uint32_t bar,
                         uint64_t policy)
    {
        if (SPAN == 1)
            tensor_load_2d(to, map, chunk * SKINNY_CHUNK, row, bar, policy);
        else
            tensor_load_3d(to, map, 0, row, chunk, bar, policy);
    }

    __device__ void pass(const feed_at &at, uint32_t bar, int units)
    {
        const int box = units == maps.units[PASS_WHOLE]  ? PASS_WHOLE
                        : units == maps.units[PASS_LAST] ? PASS_LAST
                                                         : PASS_LESS;
#pragma unroll
        for (int tile = 0; tile < TILES; tile++)
            load(stage_of(at) + (uint32_t)(tile * SPAN * a.warps * SKINNY_TILE_BYTES),
                 &maps.w[tile][box], at.chunk, 8 * at.unit, bar, once);
    }

    __device__ void heads(const feed_at &at, uint32_t bar, int units)
    {
        head_at u(a.heads, at.unit);
        for (int i = 0; i < units; i++, u.next(a.heads))
            tensor_load_4d(stage_of(at) + (uint32_t)(i * SPAN * SKINNY_TILE_BYTES),
                           &maps.w[0][PASS_WHOLE], 0, u.part * head_run(a.heads),
                           u.head * head_runs(a.heads), at.chunk, bar, once);
    }

    __device__ void weights(const feed_at &at)
    {
        const int units = min(a.warps, s.end_unit - at.unit);
        const uint32_t bar = s.full + 8 * at.ring.stage;
        mbarrier_arrive_expect(bar, (uint32_t)(SPAN * (units * TILES * SKINNY_TILE_BYTES +
                                                       (RESIDENT ? 0 : ROWS * ROW_BYTES))));
        if constexpr (KIND == HEADS)
            heads(at, bar, units);
        else
            pass(at, bar, units);
    }

    /* x lies behind the tiles. */
    __device__ void rows(const feed_at &at)
    {
        if (!RESIDENT)
            load(stage_of(at) + (uint32_t)(SPAN * a.warps * TILES * SKINNY_TILE_BYTES), &maps.x,
                 at.chunk, 0, s.full + 8 * at.ring.stage, often);
    }

    __device__ void run()
    {
        int steps = s.passes * ((a.chunks + SPAN - 1) / SPAN), ahead = min(steps, a.stages);
        const feed_at first = {{0, 0}, 0, s.first_unit};
        feed_at at = first;
        for (int step = 0; step < ahead; step++, next(&at))
            weights(at);
        depend_wait();
        at = first;
        for (int step = 0; step < ahead; step++, next(&at))
            rows(at);
        at.ring = {0, 0}; /* parity of the first use of each stage */
        for (int step = ahead; step < steps; step++, next(&at)) {
            mbarrier_wait_inside(s.empty + 8 * at.ring.stage, at.ring.parity);
            weights(at);
            rows(at);
        }
    }
};

/* ---- the workers ---- */

/* What a warp holds of one chunk: CHUNK_STEPS steps of x and of its tiles. */
template <int ROWS, int TILES> struct fragments {
    enum { GROUPS = ROWS == 8 ? 1 : ROWS / 16 };
    uint32_t x[GROUPS][CHUNK_STEPS][4];
    uint32_t w[TILES][CHUNK_STEPS / 2][4]; /* two steps share a load */
};

/* Where a lane reads a chunk.  Of 8 rows and of rows past the last, the other half of mma's 16 are
 * zeros that ldmatrix brings: to put them beside x in registers would cost more than to load them.
 */
template <int ROWS, kind KIND, bool RESIDENT, int SPAN> struct reader {
    enum { TILES = tiles_of<KIND> };
    uint32_t w_offset[2], x_offset[CHUNK_STEPS];
    uint32_t tiles, chunk_tiles; /* bytes of the units of a stage; from one chunk to the next */
    uint32_t w, x;               /* of the chunk */
    bool zero;

    __device__ reader(const skinny_args &a, int warp, int lane)
    {
        const int matrix = lane / 8, row = ROWS == 8 ? lane % 8 : 8 * (matrix % 2) + lane % 8;
        zero = ROWS == 8 && (matrix % 2 == 1 || (RESIDENT && row >= a.p.rows));
        tiles = (uint32_t)(SPAN * a.warps * SKINNY_TILE_BYTES);
#pragma unroll
        for (int half = 0; half < 2; half++)
            w_offset[half] =
                piece_at((uint32_t)(warp * (KIND == HEADS ? SPAN : 1) * SKINNY_TILE_BYTES),
                         lane % 8, 4 * half + matrix);
#pragma unroll
        for (int step = 0; step < CHUNK_STEPS; step++)
            x_offset[step] = zero ? 0 : piece_at(0, row, 2 * step + matrix / 2);
    }

    __device__ void go(const skinny_args &a, const share &s, int chunk, uint32_t stage,
                       int in_stage)
    {
        w = stage + in_stage * chunk_tiles;
        x = RESIDENT ? s.x + (uint32_t)(chunk * a.p.rows * ROW_BYTES)
                     : stage + TILES * tiles + (uint32_t)(in_stage * ROWS * ROW_BYTES);
        if (zero)
            x = s.zeros;
    }

    /* In place of what mma of that step took; w's two steps lie together. */
    __device__ void read(fragments<ROWS, TILES> *f, int step)
    {
#pragma unroll
        for (int group = 0; group < fragments<ROWS, TILES>::GROUPS; group++)
            ldmatrix_x4(f->x[group][step], x + x_offset[step] + group * 16 * ROW_BYTES);
#pragma unroll
        for (int tile = 0; step % 2 == 1 && tile < TILES; tile++)
            ldmatrix_x4(f->w[tile][step / 2], w + w_offset[step / 2] + tile * tiles);
    }
};

template <class T, int ROWS, int TILES>
__device__ void fragments_mma(float sum[TILES][fragments<ROWS, TILES>::GROUPS][4],
                              const fragments<ROWS, TILES> *f, int step)
{
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
            if (TILES == 2 && a.p.w_up) {
                epilogue_two<T>(a.p, row, 8 * unit + col, sum[0][group] + 2 * half,
                                sum[TILES - 1][group] + 2 * half, a.aligned);
                continue;
            }
#pragma unroll
            for (int tile = 0; tile < TILES; tile++)
                epilogue_two<T>(a.p, row, 8 * (TILES * unit + tile) + col,
                                sum[tile][group] + 2 * half, nullptr, a.aligned);
        }
}

/* The mma of a chunk wait for each other: between them the next chunk is read, into the registers
 * that the last one is through with. */
template <class T, int ROWS, kind KIND, bool RESIDENT, int SPAN> struct worker {
    enum { TILES = tiles_of<KIND> };
    typedef fragments<ROWS, TILES> chunk_of;
    const skinny_args &a;
    const share &s;
    reader<ROWS, KIND, RESIDENT, SPAN> r;
    ring_at at; /* what is computed */
    chunk_of f;
    float sum[TILES][chunk_of::GROUPS][4];

    __device__ void wait(const ring_at &stage)
    {
        mbarrier_wait_inside(s.full + 8 * stage.stage, stage.parity);
    }

    __device__ void go(int stage, int in_stage, int chunk)
    {
        r.go(a, s, chunk, s.ring + (uint32_t)(stage * a.stage_bytes), in_stage);
    }

    __device__ void read_first()
    {
        wait(at);
        go(0, 0, 0);
#pragma unroll
        for (int step = 0; step < CHUNK_STEPS; step++)
            r.read(&f, step);
    }

    /* At the end of all the next chunk is the present one, for nothing. */
    __device__ void compute(int next_chunk, int in_stage, bool ends_stage, bool is_end)
    {
        ring_at from = at;
        int next_in_stage = in_stage + !is_end;
        fragments_mma<T, ROWS, TILES>(sum, &f, 0);
        if (ends_stage && !is_end) {
            from.next(a.stages);
            next_in_stage = 0;
            wait(from);
        }
        go(from.stage, next_in_stage, next_chunk);
        r.read(&f, 0);
#pragma unroll
        for (int step = 1; step < CHUNK_STEPS; step++) {
            fragments_mma<T, ROWS, TILES>(sum, &f, step);
            r.read(&f, step);
        }
    }

    __device__ void leave_stage(int lane)
    {
        if (lane == 0)
            mbarrier_arrive(s.empty + 8 * at.stage);
        at.next(a.stages);
    }

    /* IS_INNER <=> more stages come behind: nothing to ask. */
    template <bool IS_INNER> __device__ void stage(int first, int lane, bool is_last_pass)
    {
#pragma unroll
        for (int i = 0; i < SPAN; i++) {
            const bool is_last = !IS_INNER && first + i + 1 == a.chunks;
            if (!IS_INNER && first + i >= a.chunks)
                break;
            compute(is_last ? 0 : first + i + 1, i, i == SPAN - 1 || is_last,
                    is_last && is_last_pass);
        }
        leave_stage(lane);
    }

    __device__ void pass(int units, int lane, bool is_last)
    {
        int first = 0;
        r.chunk_tiles = (uint32_t)((KIND == HEADS ? 1 : units) * SKINNY_TILE_BYTES);
        for (; first + SPAN < a.chunks; first += SPAN)
            stage<true>(first, lane, false);
        stage<false>(first, lane, is_last);
    }
};

/* What a unit ends with, and knows before it begins. */
template <class T, int ROWS, kind KIND> struct end_of {
    __device__ void find(const skinny_args &, int, int)
    {
    }

    __device__ void store(const skinny_args &a, int unit, int lane,
                          float sum[tiles_of<KIND>][fragments<ROWS, tiles_of<KIND>>::GROUPS][4])
    {
        sums_store<T, ROWS, tiles_of<KIND>>(a, unit, lane, sum);
    }
};

template <class T, int ROWS> struct end_of<T, ROWS, HEADS> {
    head_end<T, ROWS> heads;

    __device__ void find(const skinny_args &a, int unit, int lane)
    {
        heads.find(a.p, a.heads, unit, lane);
    }

    __device__ void store(const skinny_args &a, int, int,
                          float sum[1][fragments<ROWS, 1>::GROUPS][4])
    {
#pragma unroll
        for (int n = 0; n < ROWS / 8; n++)
            heads.store(a.p, a.heads, n, sum[0][n / 2] + n % 2 * 2);
    }
};

/* `end`: of the first unit. */
template <class T, int ROWS, kind KIND, bool RESIDENT, int SPAN>
__device__ void work(const skinny_args &a, const share &s, int warp, int lane,
                     end_of<T, ROWS, KIND> *end)
{
    worker<T, ROWS, KIND, RESIDENT, SPAN> w = {a, s, {a, warp, lane}, {0, 0}, {}, {}};
    w.read_first();
    for (int pass = 0; pass < s.passes; pass++) {
#pragma unroll
        for (int tile = 0; tile < w.TILES; tile++)
#pragma unroll
            for (int group = 0; group < w.f.GROUPS; group++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    w.sum[tile][group][i] = 0;
        const int first = s.first_unit + pass * a.warps, unit = first + warp;
        if (pass > 0 && unit < s.end_unit)
            end->find(a, unit, lane);
        w.pass(min(a.warps, s.end_unit - first), lane, pass + 1 == s.passes);
        if (unit < s.end_unit)
            end->store(a, unit, lane, w.sum);
    }
}

/* grid: blocks of equal shares of units; block: THREADS, of which warps [0, a.warps) own units.
 * 112 registers leave room for blocks of the small kernels between products. */
template <class T, int ROWS, kind KIND, bool RESIDENT, int SPAN>
__global__ void __maxnreg__(112)
    skinny_kernel(const __grid_constant__ skinny_maps maps, const __grid_constant__ skinny_args a)
{
#if __CUDA_ARCH__ == 900 /* choose.c gives other devices matmul_tiles */
    DYNAMIC_SHARED(uint8_t, shared);
    uint8_t *base = (uint8_t *)(((uintptr_t)shared + 1023) & ~(uintptr_t)1023);
    share s = share_of(a, shared_addr(base));
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t norm_w_at = (uint32_t)(a.p.rows * a.chunks * ROW_BYTES); /* behind x */
    const bool has_norm_w = RESIDENT && a.p.norm && a.norm_w;
    depend_launch();
    if (has_norm_w && warp < SKINNY_WARPS_MAX) /* they would wait behind all that the ring takes */
        norm_weights_load(s.x + norm_w_at, a);
    if (warp == SKINNY_WARPS_MAX && lane < tiles_of<KIND> * N_PASSES &&
        maps.units[lane % N_PASSES] > 0)
        tensor_map_prefetch(&maps.w[lane / N_PASSES][lane % N_PASSES]);
    if (threadIdx.x == WORKERS) {
        for (int stage = 0; stage < a.stages; stage++) {
            mbarrier_init(s.full + 8 * stage, 1);
            mbarrier_init(s.empty + 8 * stage, (uint32_t)a.warps);
        }
        fence_mbarrier_init();
        *(uint4 *)(base + ZEROS_AT) = make_uint4(0, 0, 0, 0);
    }
    __syncthreads();
    if (warp == SKINNY_WARPS_MAX) {
        if (lane == 0)
            feeder<ROWS, KIND, RESIDENT, SPAN>{maps, a, s, policy_evict_first(),
                                               policy_evict_last()}
                .run();
        return;
    }
    end_of<T, ROWS, KIND> end;
    if (s.first_unit + warp < s.end_unit)
        end.find(a, s.first_unit + warp, lane);
    depend_wait();
    if (RESIDENT) {
        x_load(s.x, a);
        if (a.p.norm)
            x_norm<typename pair_of<T>::type>(
                base + 1024, a, has_norm_w ? (const float *)(base + 1024 + norm_w_at) : nullptr,
                (float(*)[NORM_WARPS])(base + SUMS_AT));
        barrier_sync(ROWS_BARRIER, WORKERS);
    }
    if (warp < a.warps)
        work<T, ROWS, KIND, RESIDENT, SPAN>(a, s, warp, lane, &end);
#endif
}

typedef void skinny_function(const skinny_maps, const skinny_args);

struct variant {
    int rows_tile;
    enum kind kind;
    bool resident;
    int span;
    skinny_function *kernel[2]; /* bf16, f16 */
};

#define VARIANT(ROWS, KIND, RESIDENT, SPAN)                                                        \
    {                                                                                              \
        ROWS, KIND, RESIDENT, SPAN,                                                                \
        {                                                                                          \
            skinny_kernel<__nv_bfloat16, ROWS, KIND, RESIDENT, SPAN>,                              \
                skinny_kernel<__half, ROWS, KIND, RESIDENT, SPAN>                                  \
        }                                                                                          \
    }
#define VARIANTS_WIDE(ROWS, KIND, RESIDENT)                                                        \
    VARIANT(ROWS, KIND, RESIDENT, 2), VARIANT(ROWS, KIND, RESIDENT, 4)
#define VARIANTS(ROWS, KIND, RESIDENT)                                                             \
    VARIANT(ROWS, KIND, RESIDENT, 1), VARIANTS_WIDE(ROWS, KIND, RESIDENT)
const variant variants[] = {
    VARIANTS(8, PLAIN, true),        VARIANTS(8, GATED, true),
    VARIANTS(8, PLAIN, false),       VARIANTS(8, GATED, false),
    VARIANTS(16, PLAIN, false),      VARIANTS(16, GATED, false),
    VARIANTS(32, PLAIN, false),      VARIANTS(32, GATED, false),
    VARIANTS_WIDE(8, HEADS, true),   VARIANTS_WIDE(8, HEADS, false),
    VARIANTS_WIDE(16, HEADS, false), VARIANTS_WIDE(32, HEADS, false),
};
enum { N_VARIANTS = sizeof variants / sizeof variants[0] };

enum kind kind_of(const struct product *p)
{
    return p->heads ? HEADS : p->w_up ? GATED : PLAIN;
}

skinny_function *kernel_of(struct device *d, const struct product *p, const struct matmul_choice *c)
{
    static thread_local int
        ready_on[N_VARIANTS][2]; /* 1 + the device whose function has it; a thread for each */
    int f16 = d->act == DT_F16, i = 0;
    while (variants[i].rows_tile != c->rows_tile || variants[i].kind != kind_of(p) ||
           variants[i].resident != c->resident || variants[i].span != c->span)
        i++;
    skinny_function *kernel = variants[i].kernel[f16];
    if (ready_on[i][f16] != d->index + 1)
        cuda_check(d,
                   cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        SKINNY_SHARED_MAX),
                   "shared memory of the skinny product");
    ready_on[i][f16] = d->index + 1;
    return kernel;
}

skinny_args args_of(const struct product *p, const struct matmul_choice *c)
{
    skinny_args a = {};
    rows_take(&a, p, (p->in + SKINNY_CHUNK - 1) / SKINNY_CHUNK);
    a.n_units = c->n_units;
    a.warps = c->warps;
    a.stages = c->stages;
    a.stage_bytes = (int)c->chunk_bytes * c->span;
    a.x_bytes = (int)c->x_bytes;
    a.aligned = epilogue_aligned(p);
    if (p->heads)
        a.heads = *p->heads;
    return a;
}

/* Boxes of `span` chunks of so many rows. */
void map_boxes(struct device *d, const struct matmul_choice *c, CUtensorMap *map, const void *at,
               int in, int rows, int box_rows)
{
    if (c->span == 1)
        tensor_map_2d(d, map, at, in, rows, in, SKINNY_CHUNK, box_rows);
    else
        tensor_map_chunks(d, map, at, in, rows, c->span, box_rows);
}

/* A unit's, of heads. */
void map_heads(struct device *d, const struct product *p, const struct matmul_choice *c,
               CUtensorMap *map)
{
    struct head_rows h = {};
    h.at = p->w;
    h.columns = p->in;
    h.rows = p->n;
    h.apart = p->heads->head_dim / head_runs(*p->heads);
    h.box_chunks = c->span;
    h.box_run = head_run(*p->heads);
    h.box_runs = head_runs(*p->heads);
    tensor_map_heads(d, map, &h);
}

/* All passes', of weights whose units lie one behind the other. */
void map_passes(struct device *d, const struct product *p, const struct matmul_choice *c,
                skinny_maps *m)
{
    const int most =
        (c->n_units + c->grid - 1) / c->grid; /* units of a block; others have one less */
    m->units[PASS_LAST] = (most - 1) % c->warps + 1;
    m->units[PASS_LESS] = m->units[PASS_LAST] - 1;
    for (int i = 0; i < N_PASSES; i++) {
        if (m->units[i] == 0)
            continue;
        map_boxes(d, c, &m->w[0][i], p->w, p->in, p->n, 8 * m->units[i]);
        if (p->w_up)
            map_boxes(d, c, &m->w[1][i], p->w_up, p->in, p->n, 8 * m->units[i]);
    }
}

skinny_maps maps_of(struct device *d, const struct product *p, const struct matmul_choice *c)
{
    skinny_maps m = {};
    m.units[PASS_WHOLE] = c->warps;
    if (p->heads)
        map_heads(d, p, c, &m.w[0][PASS_WHOLE]);
    else
        map_passes(d, p, c, &m);
    if (!c->resident)
        map_boxes(d, c, &m.x, p->x, p->in, p->rows, c->rows_tile);
    return m;
}

} // namespace

/* ---- the launcher ---- */

void matmul_skinny(struct device *d, const struct product *p, const struct matmul_choice *c)
{
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)c->grid);
    config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes = c->shared_bytes;
    config.stream = d->stream;
    config.attrs = &early;
    config.numAttrs = 1;
    cuda_check(d, cudaLaunchKernelEx(&config, kernel_of(d, p, c), maps_of(d, p, c), args_of(p, c)),
               "run the skinny product");
}
