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

/* What one warp does.  HAND: tiles of a step, whose chains run side by side. */
template <class T, int EXPAND, int ROWG, int TILES, int HAND> struct scheme_worker {
    enum { WORDS = expand_words(EXPAND), BITS = expand_bits(EXPAND) };
    const scheme_args &a;
    const scheme_share &s;
    int lane, mine, way, row_way;
    float chain[HAND][TILES][ROWG][4];
    float sum[TILES][ROWG][4]; /* exchanging: of this warp's share of the values */

    __device__ scheme_worker(const scheme_args &args, const scheme_share &share, int warp, int lane_)
        : a(args), s(share), lane(lane_)
    {
        const int ways = a.c.ways_k * a.c.ways_rows;
        mine = warp / ways;
        way = warp % ways % a.c.ways_k;
        row_way = warp % ways / a.c.ways_k;
    }

    /* Tile `tile` of the pair, the first of a step's. */
    __device__ uint32_t tiles_at(uint32_t stage, int tile)
    {
        return stage + (uint32_t)((mine * TILES + tile) * a.c.span) * a.l.tile_bytes;
    }

    __device__ uint32_t chain_at(uint32_t buffer, int tile, int i, int c, int r)
    {
        const int part = (mine * a.c.ways_rows + row_way) * TILES + tile;
        return buffer +
               (uint32_t)(((part * a.c.span + i) * a.l.chains + c) * ROWG + r) * CHAIN_BYTES;
    }

    __device__ float scale_of(uint32_t tile, int c, int place)
    {
        return scale_to_f32(load_shared_2(tile + a.l.scales_at + (uint32_t)(c * UNIT_ROWS + place) * 2),
                            a.l.scale);
    }

    __device__ void zeros_load(uint32_t zero[2], uint32_t tile, int c)
    {
        uint32_t stored = 0;
        const uint32_t at = tile + a.l.zeros_at + (uint32_t)((c * UNIT_ROWS + lane / 4 * 2) * a.l.zero_bytes);
        if (EXPAND == EXPAND_INT4 && a.l.zero_bytes)
            stored = load_shared_2(at);
        if (EXPAND == EXPAND_INT8_ZERO)
            stored = load_shared_4(at);
        expand_zeros<T, EXPAND>(zero, a.l.zero_bytes != 0, stored);
    }

    /* A chain has ended: to its sum, or to where the unit's warps meet. */
    __device__ void flush(uint32_t tile_addr, uint32_t buffer, int hand, int tile, int c)
    {
        if (a.c.exchange) {
#pragma unroll
            for (int r = 0; r < ROWG; r++)
                store_shared(chain_at(buffer, tile, way * HAND + hand, c, r) + (uint32_t)lane * 16,
                             chain[hand][tile][r]);
        } else {
            const bool row_scale = a.l.scale == SCALE_ROW;
            float up = 0, down = 0;
            if (!row_scale) {
                const uint32_t both = load_shared_4(tile_addr + a.l.scales_at +
                                                    (uint32_t)(c * UNIT_ROWS + lane / 4 * 2) * 2);
                up = scale_to_f32(both & 0xffff, a.l.scale);
                down = scale_to_f32(both >> 16, a.l.scale);
            }
#pragma unroll
            for (int r = 0; r < ROWG; r++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    sum[tile][r][i] = chain_add(sum[tile][r][i], chain[hand][tile][r][i],
                                                i < 2 ? up : down, row_scale);
        }
#pragma unroll
        for (int r = 0; r < ROWG; r++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                chain[hand][tile][r][i] = 0;
    }

    /* The chains of `n` <= HAND tiles from tile `way * HAND` of the step on. */
    __device__ void chains(uint32_t stage, uint32_t x, uint32_t buffer, int n)
    {
        uint32_t words[HAND][TILES][4], zero[HAND][TILES][2];
        const int per_chain = a.l.chain_k / 32;
#pragma unroll
        for (int quarter = 0; quarter < 4; quarter++) { /* 32 k */
            const int c = quarter / per_chain;
            const bool begins = quarter % per_chain == 0, ends = (quarter + 1) % per_chain == 0;
#pragma unroll
            for (int hand = 0; hand < HAND; hand++) {
                const int i = way * HAND + min(hand, n - 1);
                uint32_t xs[ROWG][4];
#pragma unroll
                for (int r = 0; r < ROWG; r++) {
                    /* Rows past the last repeat it: their sums are not stored. */
                    const int row = min(8 * (row_way * ROWG + r) + lane % 8, a.p.rows - 1);
                    ldmatrix_x4(xs[r], piece_at(x + (uint32_t)(2 * i + quarter / 2) * a.c.x_box, row,
                                                4 * (quarter % 2) + lane / 8));
                }
#pragma unroll
                for (int tile = 0; tile < TILES; tile++) {
                    const uint32_t at = tiles_at(stage, tile) + (uint32_t)i * a.l.tile_bytes;
                    uint32_t *w = words[hand][tile];
                    if (BITS == 8 || quarter % 2 == 0)
                        *(uint4 *)w = load_shared_16(
                            at + (uint32_t)((BITS == 8 ? quarter : quarter / 2) * 512 + lane * 16));
                    if (begins)
                        zeros_load(zero[hand][tile], at, c);
#pragma unroll
                    for (int step = 0; step < 2; step++) {
                        uint32_t f[4];
                        expand_step<T, EXPAND>(
                            f, w + (BITS == 8 ? 2 * step : quarter % 2 * 2 + step), zero[hand][tile],
                            a.book);
#pragma unroll
                        for (int r = 0; r < ROWG; r++)
                            mma_16816(chain[hand][tile][r], f, xs[r] + 2 * step, T());
                    }
                }
            }
            if (!ends)
                continue;
#pragma unroll
            for (int hand = 0; hand < HAND; hand++)
#pragma unroll
                for (int tile = 0; tile < TILES; tile++)
                    if (hand < n)
                        flush(tiles_at(stage, tile) +
                                  (uint32_t)(way * HAND + hand) * a.l.tile_bytes,
                              buffer, hand, tile, c);
        }
    }

    /* Value `j` of this warp's share of a chain's 128: where it lies, as (weight row, row of x). */
    __device__ int share_value(int j)
    {
        return way * (128 / a.c.ways_k) + j * 32 + lane;
    }

    /* Adds the chains of the step's n tiles, which all lie in `buffer`, in order. */
    __device__ void reduce(uint32_t stage, uint32_t buffer, int n)
    {
        const bool row_scale = a.l.scale == SCALE_ROW;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            if (j >= 4 / a.c.ways_k)
                break;
            const int value = share_value(j);
            const int place = value / 16 * 2 + value % 4 / 2;
#pragma unroll
            for (int tile = 0; tile < TILES; tile++)
                for (int i = 0; i < n; i++)
                    for (int c = 0; c < a.l.chains; c++) {
                        const float scale =
                            row_scale ? 0
                                      : scale_of(tiles_at(stage, tile) + (uint32_t)i * a.l.tile_bytes,
                                                 c, place);
#pragma unroll
                        for (int r = 0; r < ROWG; r++)
                            sum[tile][r][j] = chain_add(
                                sum[tile][r][j],
                                __uint_as_float(load_shared_4(chain_at(buffer, tile, i, c, r) +
                                                              (uint32_t)value * 4)),
                                scale, row_scale);
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
#pragma unroll
        for (int j = 0; j < 4; j++) {
            if (a.c.exchange && j >= 4 / a.c.ways_k)
                break;
            /* The value's lane and register. */
            const int from = a.c.exchange ? share_value(j) / 4 : lane;
            const int i = a.c.exchange ? lane % 4 : j;
            const int place = from / 4 * 2 + i / 2;
            const int col = unit * UNIT_ROWS + from / 4 + i / 2 * 8;
            float scale[TILES];
#pragma unroll
            for (int tile = 0; tile < TILES; tile++)
                scale[tile] = a.l.scale == SCALE_ROW
                                  ? row_scale_of(tile ? a.p.w_up : a.p.w, unit, place)
                                  : 1;
#pragma unroll
            for (int r = 0; r < ROWG; r++)
                epilogue_one<T>(a.p, 8 * (row_way * ROWG + r) + from % 4 * 2 + i % 2, col,
                                __fmul_rn(scale[0], sum[0][r][j]),
                                __fmul_rn(scale[TILES - 1], sum[TILES - 1][r][j]));
        }
    }

    __device__ void step(uint32_t stage, uint32_t x, uint32_t buffer, int first, bool active)
    {
        const int in_step = min(a.c.span, a.l.n_tiles - first);
        const int n = min(HAND, in_step - way * HAND);
        if (active && n > 0)
            chains(stage, x, buffer, n);
        if (!a.c.exchange)
            return;
        if (a.c.ways_k > 1)
            barrier_sync(BARRIER_UNITS + mine * a.c.ways_rows + row_way, 32 * a.c.ways_k);
        else
            __syncwarp();
        if (active)
            reduce(stage, buffer, in_step);
    }

    __device__ void run()
    {
        scheme_place at = {0, 0};
        uint32_t odd = 0;
#pragma unroll
        for (int i = 0; i < HAND * TILES * ROWG * 4; i++)
            (&chain[0][0][0][0])[i] = 0;
        for (int pass = 0; pass < s.passes; pass++) {
            const int unit = s.first_unit + pass * a.c.units + mine;
            const bool active = unit < s.end_unit;
#pragma unroll
            for (int i = 0; i < TILES * ROWG * 4; i++)
                (&sum[0][0][0])[i] = 0;
            for (int first = 0; first < a.l.n_tiles; first += a.c.span, odd ^= 1) {
                const uint32_t stage = s.ring + (uint32_t)at.stage * a.c.stage_bytes;
                const uint32_t x = a.c.resident ? s.x + (uint32_t)(2 * first) * a.c.x_box
                                                : stage + a.c.x_at;
                mbarrier_wait_inside(s.full + 8 * at.stage, at.parity);
                step(stage, x, s.exchange + odd * (a.c.exchange_bytes / 2), first, active);
                __syncwarp();
                if (lane == 0)
                    mbarrier_arrive(s.empty + 8 * at.stage);
                at.next(a.c.stages);
            }
            if (active)
                store(unit);
        }
    }
};

/* grid: blocks of equal shares of units; block: SCHEME_THREADS. */
template <class T, int EXPAND, int ROWG, int TILES, int HAND>
__global__ void __launch_bounds__(SCHEME_THREADS, ROWG * TILES > 4 ? 1 : 2)
    scheme_skinny_kernel(const __grid_constant__ CUtensorMap x, const __grid_constant__ scheme_args a)
{
#if __CUDA_ARCH__ >= 900 /* weight_layout_of gives other devices 16-bit weights */
    extern __shared__ uint8_t shared[];
    uint8_t *base = (uint8_t *)(((uintptr_t)shared + 1023) & ~(uintptr_t)1023);
    const scheme_share s = scheme_share_of(a, shared_addr(base));
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int workers = a.c.units * a.c.ways_k * a.c.ways_rows;
    depend_launch();
    if (threadIdx.x == SCHEME_WARPS * 32) {
        tensor_map_prefetch(&x);
        for (int i = 0; i < a.c.stages; i++) {
            mbarrier_init(s.full + 8 * i, 1);
            mbarrier_init(s.empty + 8 * i, (uint32_t)workers);
        }
        fence_mbarrier_init();
    }
    __syncthreads();
    if (warp == SCHEME_WARPS) {
        scheme_feeder<TILES>{x, a, s, policy_evict_first(), policy_evict_last(), lane}.run();
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
        scheme_worker<T, EXPAND, ROWG, TILES, HAND>(a, s, warp, lane).run();
#endif
}

typedef void scheme_function(const CUtensorMap, const scheme_args);

/* By row groups of a warp (1 with one or two tiles in hand, 2, 4), and by whether there is a gate. */
struct scheme_kernels {
    scheme_function *one, *two_in_hand, *two, *four;
};

#define KERNELS(T, EXPAND, TILES)                                                                  \
    {                                                                                              \
        scheme_skinny_kernel<T, EXPAND, 1, TILES, 1>,                                              \
            expand_bits(EXPAND) == 4 && TILES == 1                                                 \
                ? scheme_skinny_kernel<T, EXPAND, 1, 1, expand_bits(EXPAND) == 4 ? 2 : 1>          \
                : nullptr,                                                                         \
            scheme_skinny_kernel<T, EXPAND, 2, TILES, 1>,                                          \
            scheme_skinny_kernel<T, EXPAND, 4, TILES, 1>                                           \
    }
#define OF_EXPAND(EXPAND)                                                                          \
    {                                                                                              \
        {KERNELS(__nv_bfloat16, EXPAND, 1), KERNELS(__nv_bfloat16, EXPAND, 2)},                    \
        {                                                                                          \
            KERNELS(__half, EXPAND, 1), KERNELS(__half, EXPAND, 2)                                 \
        }                                                                                          \
    }
const scheme_kernels kernels[EXPANDS][2][2] = {OF_EXPAND(EXPAND_INT4), OF_EXPAND(EXPAND_CODEBOOK),
                                               OF_EXPAND(EXPAND_INT8), OF_EXPAND(EXPAND_FP8),
                                               OF_EXPAND(EXPAND_INT8_ZERO)};

scheme_function *kernel_of(const struct device *d, const scheme_args *a)
{
    const scheme_kernels *k = &kernels[expand_of(&a->l)][d->act == DT_F16][a->p.w_up != nullptr];
    switch (a->c.row_groups) {
    case 1:
        return a->c.in_hand == 2 ? k->two_in_hand : k->one;
    case 2:
        return k->two;
    default:
        return k->four;
    }
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

} // namespace

/* ---- the launchers ---- */

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
    CUtensorMap x = {};
    scheme_layout(&a.l, p->scheme, p->in);
    const struct scheme_shape s = shape_of(d, p, &a.l);
    scheme_choose(&a.c, &s);
    rows_take(&a, p, 2 * a.l.n_tiles);
    a.book = scheme_book(d->act, p->scheme);
    if (!a.c.resident)
        tensor_map_2d(d, &x, p->x, p->in, p->rows, p->in, 64, p->rows);
    scheme_function *kernel = kernel_of(d, &a);
    cuda_check(d,
               cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    SCHEME_SHARED_MAX),
               "shared memory of the skinny product of a scheme");
    launch(d, "run the skinny product of a scheme",
           {dim3((unsigned)a.c.grid), dim3(SCHEME_THREADS), a.c.shared_bytes, 0}, kernel, x, a);
}
