/* matmul_scheme_skinny.cu - products of few rows with weights of a scheme: each byte crosses the bus once.
 *
 * Units of 16 weight rows are the m16 operand of mma.m16n8k16, eight rows of x the n8 one; codes become
 * fragments in registers.  Order of the sums: scheme_layout.h.  A warp owns tiles of a unit in turn with
 * the unit's other warps, and rows of x; chains that do not come in order meet in shared memory, where
 * each of the unit's warps adds its share of the 16 x 8 values, chain after chain.
 *
 * The buffer of chains is double: a warp that writes the chains of step i + 2 has met the others at step
 * i + 1, so they have read those of step i. */
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matmul_epilogue.cuh"
#include "kernels/cuda/scheme_book.cuh"
#include "kernels/cuda/scheme_skinny.cuh"
#include "kernels/cuda/tensor_map.h"

namespace {

enum { CHAIN_BYTES = 512, BARRIER_UNITS = 2 /* and the ids behind it: one a unit and part of the rows */ };

static_assert(SCHEME_SUMS_AT + 2 * ROWS_NORM_MAX * NORM_WARPS * 4 <= 1024, "barriers and sums fit");
static_assert((int)SCHEME_WARPS * 32 == (int)ROWS_THREADS, "the workers bring the rows");
static_assert((int)SCHEME_NORM_ROWS_MAX == (int)ROWS_NORM_MAX, "as many rows are normalised");

/* What one warp does.  CHAINS: of a tile.  SLOTS: chains that run side by side, which come one after the
 * other in k; they are those of HAND tiles, or a part of one's. */
template <class T, int EXPAND, int CHAINS, int ROWG, int TILES> struct scheme_worker {
    enum {
        BITS = expand_bits(EXPAND),
        SLOTS = scheme_slots(BITS, ROWG),
        HAND = SLOTS > CHAINS ? SLOTS / CHAINS : 1,
        GROUPS = HAND * CHAINS / SLOTS,  /* of slots, in a step */
        QUARTERS = 4 / CHAINS,           /* of a tile, 32 k, in a chain */
    };
    const scheme_args &a;
    const scheme_share &s;
    int lane, mine, way, row_way;
    uint32_t w_at, x_at;      /* of this lane, in a stage's weights and in 64 columns of x */
    uint32_t scale_shift;     /* scale_to_f32's, by the scales' type */
    float scale_by;
    float sum[TILES][ROWG][4]; /* with several ways along k: of this warp's share of the values */

    __device__ scheme_worker(const scheme_args &args, const scheme_share &share, int warp, int lane_)
        : a(args), s(share), lane(lane_)
    {
        const int ways = a.c.ways_k * a.c.ways_rows;
        mine = warp / ways;
        way = warp % ways % a.c.ways_k;
        row_way = warp % ways / a.c.ways_k;
        w_at = (uint32_t)(mine * a.c.span + way * HAND) * a.l.tile_bytes;
        /* Resident: rows past the last repeat it; their sums are not stored. */
        const int row = a.c.resident ? min(lane % 8, a.p.rows - 1) : row_way * ROWG * 8 + lane % 8;
        x_at = (uint32_t)(2 * way * HAND) * a.c.x_box + piece_at(0, row, lane / 8);
        scale_shift = scale_bits_shift(a.l.scale);
        scale_by = scale_bits_factor(a.l.scale);
    }

    __device__ uint32_t chain_at(uint32_t buffer, int tile, int i, int c, int r)
    {
        const int part = (mine * a.c.ways_rows + row_way) * TILES + tile;
        return buffer + (uint32_t)(((part * a.c.span + i) * CHAINS + c) * ROWG + r) * CHAIN_BYTES;
    }

    __device__ void zeros_load(uint32_t zero[2], uint32_t tile, int c)
    {
        const uint32_t at =
            tile + a.l.zeros_at + (uint32_t)((c * UNIT_ROWS + lane / 4 * 2) * a.l.zero_bytes);
        uint32_t stored = 0;
        if (EXPAND == EXPAND_INT4 && a.l.zero_bytes)
            stored = load_shared_2(at);
        if (EXPAND == EXPAND_INT8_ZERO)
            stored = load_shared_4(at);
        expand_zeros<T, EXPAND>(zero, a.l.zero_bytes != 0, stored);
    }

    /* A chain has ended, of tile `i` of the step, at `tile_at`. */
    __device__ void flush(const float chain[ROWG][4], uint32_t tile_at, uint32_t buffer, int tile, int i,
                          int c)
    {
        if (a.c.ways_k > 1) {
#pragma unroll
            for (int r = 0; r < ROWG; r++)
                store_shared(chain_at(buffer, tile, i, c, r) + (uint32_t)lane * 16, chain[r]);
            return;
        }
        float up = 1, down = 1;
        if (a.l.scale != SCALE_ROW) {
            const uint32_t both = load_shared_4(tile_at + a.l.scales_at +
                                                (uint32_t)(c * UNIT_ROWS + lane / 4 * 2) * 2);
            up = scale_from_bits(both << 16, scale_shift, scale_by);
            down = scale_from_bits(both, scale_shift, scale_by);
        }
#pragma unroll
        for (int r = 0; r < ROWG; r++)
#pragma unroll
            for (int j = 0; j < 4; j++)
                sum[tile][r][j] = __fmaf_rn(j < 2 ? up : down, chain[r][j], sum[tile][r][j]);
    }

    /* The chains of this warp's `n` <= HAND tiles of a step. */
    __device__ void chains(uint32_t stage, uint32_t x, uint32_t buffer, int n)
    {
        /* A step's second tile, where there is none, is the first again. */
        const uint32_t next_w = n > 1 ? a.l.tile_bytes : 0, next_x = n > 1 ? 2 * a.c.x_box : 0;
        stage += w_at;
        x += x_at;
#pragma unroll
        for (int group = 0; group < GROUPS; group++) {
            float chain[SLOTS][TILES][ROWG][4] = {};
            uint32_t words[SLOTS][TILES][4], zero[SLOTS][TILES][2];
#pragma unroll
            for (int part = 0; part < QUARTERS; part++)
#pragma unroll
                for (int slot = 0; slot < SLOTS; slot++) {
                    const int hand = (group * SLOTS + slot) / CHAINS, c = (group * SLOTS + slot) % CHAINS;
                    const int quarter = c * QUARTERS + part;
                    uint32_t xs[ROWG][4];
#pragma unroll
                    for (int r = 0; r < ROWG; r++)
                        ldmatrix_x4(xs[r], ((x + (uint32_t)hand * next_x + quarter / 2 * a.c.x_box) ^
                                            (uint32_t)(quarter % 2 * 64)) +
                                               (uint32_t)(r * 1024));
#pragma unroll
                    for (int tile = 0; tile < TILES; tile++) {
                        const uint32_t at = stage + (uint32_t)tile * a.c.w_bytes + (uint32_t)hand * next_w;
                        uint32_t *w = words[slot][tile];
                        if (BITS == 8 || quarter % 2 == 0 || part == 0)
                            *(uint4 *)w = load_shared_16(
                                at + (uint32_t)(lane * 16 + (BITS == 8 ? quarter : quarter / 2) * 512));
                        if (part == 0)
                            zeros_load(zero[slot][tile], at, c);
#pragma unroll
                        for (int step = 0; step < 2; step++) {
                            uint32_t f[4];
                            expand_step<T, EXPAND>(
                                f, w + (BITS == 8 ? 2 * step : quarter % 2 * 2 + step),
                                zero[slot][tile], a.book);
#pragma unroll
                            for (int r = 0; r < ROWG; r++)
                                mma_16816(chain[slot][tile][r], f, xs[r] + 2 * step, T());
                        }
                    }
                }
#pragma unroll
            for (int slot = 0; slot < SLOTS; slot++) {
                const int hand = (group * SLOTS + slot) / CHAINS, c = (group * SLOTS + slot) % CHAINS;
#pragma unroll
                for (int tile = 0; tile < TILES; tile++)
                    if (hand == 0 || n > 1)
                        flush(chain[slot][tile],
                              stage + (uint32_t)tile * a.c.w_bytes + (uint32_t)hand * next_w, buffer, tile,
                              way * HAND + hand, c);
            }
        }
    }

    /* Value `j` of this warp's share of a chain's 128, as they lie in the exchange. */
    __device__ int share_value(int j)
    {
        return way * (128 / a.c.ways_k) + j * 32 + lane;
    }

    /* Adds the chains of the step's n tiles, which all lie in `buffer`, in order. */
    __device__ void reduce(uint32_t stage, uint32_t buffer, int n)
    {
        const int value = share_value(0), shares = 4 / a.c.ways_k;
        const uint32_t scale_at =
            a.l.scales_at + (uint32_t)(value / 16 * 2 + value % 4 / 2) * 2; /* share j: 4 rows on */
        const bool row_scale = a.l.scale == SCALE_ROW;
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
            uint32_t from = chain_at(buffer, tile, 0, 0, 0) + (uint32_t)value * 4;
            uint32_t at = stage + (uint32_t)tile * a.c.w_bytes +
                          (uint32_t)(mine * a.c.span) * a.l.tile_bytes + scale_at;
#pragma unroll 4
            for (int i = 0; i < n; i++, at += a.l.tile_bytes)
#pragma unroll
                for (int c = 0; c < CHAINS; c++, from += ROWG * CHAIN_BYTES)
#pragma unroll
                    for (int j = 0; j < 2; j++) { /* at least two ways */
                        if (j >= shares)
                            break;
                        const float scale =
                            row_scale ? 1
                                      : scale_from_bits(load_shared_2(at + (uint32_t)(c * UNIT_ROWS * 2 +
                                                                                      j * 8))
                                                            << 16,
                                                        scale_shift, scale_by);
#pragma unroll
                        for (int r = 0; r < ROWG; r++)
                            sum[tile][r][j] = __fmaf_rn(
                                scale,
                                __uint_as_float(load_shared_4(from + (uint32_t)(r * CHAIN_BYTES + j * 128))),
                                sum[tile][r][j]);
                    }
        }
    }

    __device__ float row_scale_of(const void *w, int unit, int place)
    {
        return __ldg((const float *)((const uint8_t *)w + (size_t)unit * a.l.unit_bytes +
                                     a.l.row_scales_at) +
                     place);
    }

    __device__ void store(int unit)
    {
        const bool shared = a.c.ways_k > 1;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            if (shared && j >= 4 / a.c.ways_k)
                break;
            /* The value's lane and register. */
            const int from = shared ? share_value(j) / 4 : lane, i = shared ? lane % 4 : j;
            const int place = from / 4 * 2 + i / 2, row = from % 4 * 2 + i % 2;
            const int col = unit * UNIT_ROWS + from / 4 + i / 2 * 8;
            float scale[TILES];
            if (row >= a.p.rows)
                continue;
#pragma unroll
            for (int tile = 0; tile < TILES; tile++)
                scale[tile] = a.l.scale == SCALE_ROW
                                  ? row_scale_of(tile ? a.p.w_up : a.p.w, unit, place)
                                  : 1;
#pragma unroll
            for (int r = 0; r < ROWG; r++)
                epilogue_one<T>(a.p, 8 * (row_way * ROWG + r) + row, col,
                                __fmul_rn(scale[0], sum[0][r][j]),
                                __fmul_rn(scale[TILES - 1], sum[TILES - 1][r][j]));
        }
    }

    __device__ void step(uint32_t stage, uint32_t x, uint32_t buffer, int first, bool active)
    {
        const int in_step = min(a.c.span, a.l.n_tiles - first);
        const int n = min((int)HAND, in_step - way * HAND);
        if (active && n > 0)
            chains(stage, x, buffer, n);
        if (a.c.ways_k == 1)
            return;
        barrier_sync(BARRIER_UNITS + mine * a.c.ways_rows + row_way, 32 * a.c.ways_k);
        if (active)
            reduce(stage, buffer, in_step);
    }

    __device__ void run()
    {
        scheme_place at = {0, 0};
        uint32_t buffer = s.exchange, other = s.exchange + a.c.exchange_bytes / 2;
        for (int pass = 0; pass < s.passes; pass++) {
            const int unit = s.first_unit + pass * a.c.units + mine;
            const bool active = unit < s.end_unit;
#pragma unroll
            for (int i = 0; i < TILES * ROWG * 4; i++)
                (&sum[0][0][0])[i] = 0;
            for (int first = 0; first < a.l.n_tiles; first += a.c.span) {
                const uint32_t stage = s.ring + (uint32_t)at.stage * a.c.stage_bytes;
                const uint32_t x = a.c.resident ? s.x + (uint32_t)(2 * first) * a.c.x_box
                                                : stage + a.c.x_at;
                mbarrier_wait_inside(s.full + 8 * at.stage, at.parity);
                step(stage, x, buffer, first, active);
                __syncwarp();
                if (lane == 0)
                    mbarrier_arrive(s.empty + 8 * at.stage);
                at.next(a.c.stages);
                const uint32_t used = buffer;
                buffer = other;
                other = used;
            }
            if (active)
                store(unit);
        }
    }
};

/* grid: blocks of equal shares of units; block: SCHEME_THREADS. */
template <class T, int EXPAND, int CHAINS, int ROWG, int TILES>
__global__ void __launch_bounds__(SCHEME_THREADS, ROWG * TILES >= 4 ? 1 : 2)
    scheme_skinny_kernel(const __grid_constant__ scheme_maps maps, const __grid_constant__ scheme_args a)
{
#if __CUDA_ARCH__ >= 900 /* weight_layout_of gives other devices 16-bit weights */
    extern __shared__ uint8_t shared[];
    uint8_t *base = (uint8_t *)(((uintptr_t)shared + 1023) & ~(uintptr_t)1023);
    const scheme_share s = scheme_share_of(a, shared_addr(base));
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int workers = a.c.units * a.c.ways_k * a.c.ways_rows;
    depend_launch();
    if (threadIdx.x == SCHEME_WARPS * 32) {
        tensor_map_prefetch(&maps.w[0]);
        for (int i = 0; i < a.c.stages; i++) {
            mbarrier_init(s.full + 8 * i, 1);
            mbarrier_init(s.empty + 8 * i, (uint32_t)workers);
        }
        fence_mbarrier_init();
    }
    __syncthreads();
    if (warp == SCHEME_WARPS) {
        if (lane == 0)
            scheme_feeder<TILES>{maps, a, s, policy_evict_first(), policy_evict_last()}.run();
        return;
    }
    depend_wait();
    if (a.c.resident) {
        x_load(s.x, a);
        if (a.p.norm)
            x_norm<typename pair_of<T>::type>(base + 1024, a,
                                              (float(*)[NORM_WARPS])(base + SCHEME_SUMS_AT));
        barrier_sync(ROWS_BARRIER, ROWS_THREADS);
    }
    if (warp < workers)
        scheme_worker<T, EXPAND, CHAINS, ROWG, TILES>(a, s, warp, lane).run();
#endif
}

typedef void scheme_function(const scheme_maps, const scheme_args);

/* By row groups of a warp: 1, 2 or 4. */
struct scheme_kernels {
    int expand, chains;
    bool pairs; /* there is a kernel for a gate and its up */
    scheme_function *kernel[2][2][3]; /* bf16, f16; alone, pairs */
};

#define OF_ROWS(T, EXPAND, CHAINS, TILES)                                                          \
    {                                                                                              \
        scheme_skinny_kernel<T, EXPAND, CHAINS, 1, TILES>,                                         \
            scheme_skinny_kernel<T, EXPAND, CHAINS, 2, TILES>,                                     \
            scheme_skinny_kernel<T, EXPAND, CHAINS, 4, TILES>                                      \
    }
#define OFTEN(EXPAND, CHAINS)                                                                      \
    {                                                                                              \
        EXPAND, CHAINS, true,                                                                      \
        {                                                                                          \
            {OF_ROWS(__nv_bfloat16, EXPAND, CHAINS, 1), OF_ROWS(__nv_bfloat16, EXPAND, CHAINS, 2)}, \
            {                                                                                      \
                OF_ROWS(__half, EXPAND, CHAINS, 1), OF_ROWS(__half, EXPAND, CHAINS, 2)             \
            }                                                                                      \
        }                                                                                          \
    }
#define RARELY(EXPAND, CHAINS)                                                                     \
    {                                                                                              \
        EXPAND, CHAINS, false,                                                                     \
        {                                                                                          \
            {OF_ROWS(__nv_bfloat16, EXPAND, CHAINS, 1)},                                           \
            {                                                                                      \
                OF_ROWS(__half, EXPAND, CHAINS, 1)                                                 \
            }                                                                                      \
        }                                                                                          \
    }
const scheme_kernels kernels[] = {
    OFTEN(EXPAND_INT4, 1),       OFTEN(EXPAND_INT4, 2),       RARELY(EXPAND_INT4, 4),
    OFTEN(EXPAND_CODEBOOK, 2),   RARELY(EXPAND_CODEBOOK, 1),  RARELY(EXPAND_CODEBOOK, 4),
    OFTEN(EXPAND_INT8, 1),       OFTEN(EXPAND_FP8, 1),        RARELY(EXPAND_INT8_ZERO, 1),
    RARELY(EXPAND_INT8_ZERO, 2), RARELY(EXPAND_INT8_ZERO, 4),
};

/* There is one for every layout: of 8 bits, several chains have zero points, and FP8 has one. */
const scheme_kernels *kernels_of(const struct scheme_layout *l)
{
    const scheme_kernels *k = kernels;
    while (k->expand != expand_of(l) || k->chains != l->chains)
        k++;
    return k;
}

scheme_function *kernel_of(const struct device *d, const scheme_args *a)
{
    return kernels_of(&a->l)
        ->kernel[d->act == DT_F16][a->p.w_up != nullptr][a->c.row_groups / 2];
}

struct scheme_shape shape_of(const struct device *d, const struct product *p,
                             const struct scheme_layout *l)
{
    struct scheme_shape s = {};
    s.rows = p->rows;
    s.in = p->in;
    s.n = p->n;
    s.has_norm = p->norm != nullptr;
    s.gated = p->w_up != nullptr;
    s.bits = l->bits;
    s.chains = l->chains;
    s.tile_bytes = l->tile_bytes;
    s.sm_count = d->sm_count;
    return s;
}

scheme_maps maps_of(struct device *d, scheme_args *a)
{
    const struct scheme_choice *c = &a->c;
    const int rows = (int)c->x_box / 128;
    scheme_maps m = {};
    tensor_map_units(d, &m.w[0], a->p.w, a->l.tile_bytes, a->l.n_tiles, a->l.unit_bytes, c->n_units,
                     c->span, c->units);
    if (a->p.w_up)
        tensor_map_units(d, &m.w[1], a->p.w_up, a->l.tile_bytes, a->l.n_tiles, a->l.unit_bytes,
                         c->n_units, c->span, c->units);
    if (c->resident)
        return m;
    a->x_copies = a->p.in % 64 == 0 ? 1 : 2 * c->span;
    if (a->x_copies == 1)
        tensor_map_chunks(d, &m.x, a->p.x, a->p.in, a->p.rows, 2 * c->span, rows);
    else
        tensor_map_2d(d, &m.x, a->p.x, a->p.in, a->p.rows, a->p.in, 64, rows);
    return m;
}

} // namespace

/* ---- the launchers ---- */

bool matmul_scheme_pairs(const struct scheme *s, int in)
{
    struct scheme_layout l;
    scheme_layout(&l, s, in);
    return kernels_of(&l)->pairs;
}

bool matmul_scheme_fuses_norm(const struct device *d, const struct product *p)
{
    struct scheme_layout l;
    struct scheme_choice c;
    if (p->rows > SCHEME_NORM_ROWS_MAX)
        return false;
    scheme_layout(&l, p->scheme, p->in);
    const struct scheme_shape s = shape_of(d, p, &l);
    scheme_choose(&c, &s);
    return c.fuse_norm;
}

void matmul_scheme_skinny(struct device *d, const struct product *p)
{
    scheme_args a = {};
    scheme_layout(&a.l, p->scheme, p->in);
    const struct scheme_shape s = shape_of(d, p, &a.l);
    scheme_choose(&a.c, &s);
    rows_take(&a, p, 2 * a.l.n_tiles);
    a.book = scheme_book(d->act, p->scheme);
    const scheme_maps maps = maps_of(d, &a);
    scheme_function *kernel = kernel_of(d, &a);
    cuda_check(d,
               cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    SCHEME_SHARED_MAX),
               "shared memory of the skinny product of a scheme");
    launch(d, "run the skinny product of a scheme",
           {dim3((unsigned)a.c.grid), dim3(SCHEME_THREADS), a.c.shared_bytes, 0}, kernel, maps, a);
}
