/* matmul_scheme_skinny.cuh - the skinny product of a scheme: what its warps do, and a kernel for
 * each case.
 *
 * Units of 16 weight rows are the m16 operand of mma.m16n8k16, eight rows of x the n8 one; codes
 * become fragments in registers.  Order of the sums: scheme_layout.h.  A warp owns tiles of a unit
 * in turn with the unit's other warps, and rows of x; chains that do not come in order meet in
 * shared memory, where each of the unit's warps adds its share of the 16 x 8 values, chain after
 * chain.
 *
 * The buffer of chains is double: a warp that writes the chains of step i + 2 has met the others at
 * step i + 1, so they have read those of step i.  Tiles past the last are zero, and so is x there:
 * they are computed like others and change no sum.
 *
 * Included by one .cu for each activation type. */
#ifndef KERNELS_CUDA_MATMUL_SCHEME_SKINNY_CUH
#define KERNELS_CUDA_MATMUL_SCHEME_SKINNY_CUH

#include "kernels/cuda/matmul_epilogue.cuh"
#include "kernels/cuda/scheme_skinny.cuh"

enum {
    CHAIN_BYTES = 512,
    BARRIER_UNITS = 2 /* and the ids behind it: one a unit and part of the rows */
};

static_assert(SCHEME_SUMS_AT + 2 * ROWS_NORM_MAX * NORM_WARPS * 4 <= 1024, "barriers and sums fit");
static_assert((int)SCHEME_WARPS * 32 == (int)ROWS_THREADS, "the workers bring the rows");
static_assert((int)SCHEME_NORM_ROWS_MAX <= (int)ROWS_NORM_MAX, "as many rows are normalised");

/* What one warp does.  CHAINS: of a tile.  SLOTS: chains that run side by side, which come one
 * after the other in k; they are those of HAND tiles, or a part of one's.  WAYS: warps that take a
 * unit's tiles in turn; each adds VALUES of a lane's four. */
template <class T, int EXPAND, int CHAINS, int ROWG, int TILES, int WAYS> struct scheme_worker {
    enum {
        BITS = expand_bits(EXPAND),
        SLOTS = scheme_slots(BITS, ROWG),
        HAND = SLOTS > CHAINS ? SLOTS / CHAINS : 1,
        GROUPS = HAND * CHAINS / SLOTS, /* of slots, in a step */
        QUARTERS = 4 / CHAINS,          /* of a tile, 32 k, in a chain */
        SPAN = HAND * WAYS,             /* tiles of a step */
        VALUES = 4 / WAYS,
        TILE_CHAINS = CHAINS * ROWG * CHAIN_BYTES, /* in the exchange */
        STEP_CHAINS = SPAN * TILE_CHAINS,
    };
    const scheme_args &a;
    const scheme_share &s;
    int lane, mine, way, row_way;
    uint32_t w_at, x_at;        /* of this lane, in a stage's weights and in 64 columns of x */
    uint32_t pair_at;           /* of a lane's two rows' scales, in a tile */
    uint32_t put_at, get_at;    /* in the exchange: this warp's chains, its share of all */
    uint32_t unit_at, share_at; /* the unit's tiles in a stage; its share's scales in a tile */
    uint32_t tile_bytes, scale_shift;
    float scale_by;
    bool row_scale;
    float sum[TILES][ROWG][VALUES], row_scales[TILES][VALUES];

    __device__ scheme_worker(const scheme_args &args, const scheme_share &share, int warp,
                             int lane_)
        : a(args), s(share), lane(lane_)
    {
        const int ways = WAYS * a.c.ways_rows;
        mine = warp / ways;
        way = warp % ways % WAYS;
        row_way = warp % ways / WAYS;
        tile_bytes = a.l.tile_bytes;
        unit_at = (uint32_t)(mine * SPAN) * tile_bytes;
        w_at = unit_at + (uint32_t)(way * HAND) * tile_bytes;
        /* Resident: rows past the last repeat it; their sums are not stored. */
        const int row = a.c.resident ? min(lane % 8, a.p.rows - 1) : row_way * ROWG * 8 + lane % 8;
        x_at = (uint32_t)(2 * way * HAND) * a.c.x_box + piece_at(0, row, lane / 8);
        row_scale = a.l.scale == SCALE_ROW; /* then what is read as a scale is not used */
        const uint32_t scales_at = row_scale ? 0 : a.l.scales_at;
        pair_at = scales_at + (uint32_t)(lane / 4 * 4);
        const uint32_t part =
            s.exchange + (uint32_t)((mine * a.c.ways_rows + row_way) * TILES * STEP_CHAINS);
        put_at = part + (uint32_t)(way * HAND * TILE_CHAINS + lane * 16);
        get_at = part + (uint32_t)(share_value(0) * 4);
        share_at = scales_at + (uint32_t)(place_of(share_value(0) / 4, lane % 4) * 2);
        scale_shift = scale_bits_shift(a.l.scale);
        scale_by = scale_bits_factor(a.l.scale);
    }

    /* Value `j` of this warp's share of a chain's 128, as they lie in the exchange. */
    __device__ int share_value(int j)
    {
        return way * (VALUES * 32) + j * 32 + lane;
    }

    /* Of a lane's register i: its row's place among scales. */
    __device__ int place_of(int from, int i)
    {
        return from / 4 * 2 + i / 2;
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

    /* A scale of the upper half of `bits`; where a row has one, it waits until the end. */
    __device__ float scale_of(uint32_t bits)
    {
        const float v = scale_from_bits(bits, scale_shift, scale_by);
        return row_scale ? 1.0f : v;
    }

    /* A chain has ended, of the step's tile at `tile_at`. */
    __device__ void flush(const float chain[ROWG][4], uint32_t tile_at, uint32_t to, int tile,
                          int c)
    {
        if constexpr (WAYS > 1) {
#pragma unroll
            for (int r = 0; r < ROWG; r++)
                store_shared(to + (uint32_t)r * CHAIN_BYTES, chain[r]);
        } else {
            const uint32_t both = load_shared_4(tile_at + pair_at + (uint32_t)(c * UNIT_ROWS * 2));
            const float up = scale_of(both << 16), down = scale_of(both);
#pragma unroll
            for (int r = 0; r < ROWG; r++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    sum[tile][r][j] = __fmaf_rn(j < 2 ? up : down, chain[r][j], sum[tile][r][j]);
        }
    }

    /* The chains of this warp's HAND tiles of a step. */
    __device__ void chains(uint32_t stage, uint32_t x, uint32_t buffer)
    {
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
                    const int hand = (group * SLOTS + slot) / CHAINS,
                              c = (group * SLOTS + slot) % CHAINS;
                    const int quarter = c * QUARTERS + part;
                    uint32_t xs[ROWG][4];
#pragma unroll
                    for (int r = 0; r < ROWG; r++)
                        ldmatrix_x4(xs[r], ((x + (uint32_t)(2 * hand + quarter / 2) * a.c.x_box) ^
                                            (uint32_t)(quarter % 2 * 64)) +
                                               (uint32_t)(r * 1024));
#pragma unroll
                    for (int tile = 0; tile < TILES; tile++) {
                        const uint32_t at =
                            stage + (uint32_t)tile * a.c.w_bytes + (uint32_t)hand * tile_bytes;
                        uint32_t *w = words[slot][tile];
                        if (BITS == 8 || quarter % 2 == 0 || part == 0)
                            *(uint4 *)w = load_shared_16(
                                at +
                                (uint32_t)(lane * 16 + (BITS == 8 ? quarter : quarter / 2) * 512));
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
                const int hand = (group * SLOTS + slot) / CHAINS,
                          c = (group * SLOTS + slot) % CHAINS;
#pragma unroll
                for (int tile = 0; tile < TILES; tile++)
                    flush(chain[slot][tile],
                          stage + (uint32_t)tile * a.c.w_bytes + (uint32_t)hand * tile_bytes,
                          buffer + put_at +
                              (uint32_t)(tile * STEP_CHAINS + hand * TILE_CHAINS +
                                         c * ROWG * CHAIN_BYTES),
                          tile, c);
            }
        }
    }

    /* Adds the chains of a step's tiles, which all lie in `buffer`, in order. */
    __device__ void reduce(uint32_t stage, uint32_t buffer)
    {
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
            uint32_t at = stage + unit_at + (uint32_t)tile * a.c.w_bytes + share_at;
#pragma unroll
            for (int i = 0; i < SPAN; i++, at += tile_bytes)
#pragma unroll
                for (int c = 0; c < CHAINS; c++)
#pragma unroll
                    for (int j = 0; j < VALUES; j++) { /* two lanes' rows further each */
                        const float scale = scale_of(
                            load_shared_2(at + (uint32_t)(c * UNIT_ROWS * 2 + j * 8)) << 16);
                        const uint32_t from = buffer + get_at +
                                              (uint32_t)(tile * STEP_CHAINS + i * TILE_CHAINS +
                                                         c * ROWG * CHAIN_BYTES + j * 128);
#pragma unroll
                        for (int r = 0; r < ROWG; r++)
                            sum[tile][r][j] = __fmaf_rn(
                                scale,
                                __uint_as_float(load_shared_4(from + (uint32_t)(r * CHAIN_BYTES))),
                                sum[tile][r][j]);
                    }
        }
    }

    /* The lane and register whose value j is. */
    __device__ int lane_of(int j)
    {
        return WAYS > 1 ? share_value(j) / 4 : lane;
    }

    __device__ int register_of(int j)
    {
        return WAYS > 1 ? lane % 4 : j;
    }

    /* Early: they come from far. */
    __device__ void row_scales_load(int unit)
    {
#pragma unroll
        for (int tile = 0; tile < TILES; tile++)
#pragma unroll
            for (int j = 0; j < VALUES; j++)
                row_scales[tile][j] =
                    !row_scale
                        ? 1
                        : __ldg((const float *)((const uint8_t *)(tile ? a.p.w_up : a.p.w) +
                                                (size_t)unit * a.l.unit_bytes + a.l.row_scales_at) +
                                place_of(lane_of(j), register_of(j)));
    }

    __device__ void store(int unit)
    {
#pragma unroll
        for (int j = 0; j < VALUES; j++) {
            const int from = lane_of(j), i = register_of(j);
            const int row = from % 4 * 2 + i % 2, col = unit * UNIT_ROWS + from / 4 + i / 2 * 8;
#pragma unroll
            for (int r = 0; r < ROWG; r++)
                epilogue_one<T>(a.p, 8 * (row_way * ROWG + r) + row, col,
                                __fmul_rn(row_scales[0][j], sum[0][r][j]),
                                __fmul_rn(row_scales[TILES - 1][j], sum[TILES - 1][r][j]));
        }
    }

    __device__ void run()
    {
        const uint32_t x_step = (uint32_t)(2 * SPAN) * a.c.x_box, stage_bytes = a.c.stage_bytes;
        const uint32_t ring_end = s.ring + (uint32_t)a.c.stages * stage_bytes;
        const int barrier = BARRIER_UNITS + mine * a.c.ways_rows + row_way;
        uint32_t stage = s.ring, full = s.full, parity = 0, buffer = 0;
        for (int pass = 0; pass < s.passes; pass++) {
            const int unit = s.first_unit + pass * a.c.units + mine;
            uint32_t x = s.x;
            if (unit < s.end_unit)
                row_scales_load(unit);
#pragma unroll
            for (int i = 0; i < TILES * ROWG * VALUES; i++)
                (&sum[0][0][0])[i] = 0;
            for (int step = 0; step < s.steps; step++) {
                mbarrier_wait_inside(full, parity);
                chains(stage, a.c.resident ? x : stage + a.c.x_at, buffer);
                if (WAYS > 1) {
                    barrier_sync(barrier, 32 * WAYS);
                    reduce(stage, buffer);
                    buffer ^= a.c.exchange_bytes / 2;
                }
                __syncwarp();
                if (lane == 0)
                    mbarrier_arrive(full + SCHEME_STAGES_MAX * 8);
                x += x_step;
                stage += stage_bytes;
                full += 8;
                if (stage == ring_end) {
                    stage = s.ring;
                    full = s.full;
                    parity ^= 1;
                }
            }
            if (unit < s.end_unit)
                store(unit);
        }
    }
};

/* grid: blocks of equal shares of units; block: SCHEME_THREADS. */
template <class T, int EXPAND, int CHAINS, int ROWG, int TILES, int WAYS>
__global__ void __launch_bounds__(SCHEME_THREADS, ROWG *TILES >= 4 ? 1 : 2)
    scheme_skinny_kernel(const __grid_constant__ scheme_maps maps,
                         const __grid_constant__ scheme_args a)
{
#if __CUDA_ARCH__ >= 900 /* weight_layout_of gives other devices 16-bit weights */
    DYNAMIC_SHARED(uint8_t, shared);
    uint8_t *base = (uint8_t *)(((uintptr_t)shared + 1023) & ~(uintptr_t)1023);
    const scheme_share s = scheme_share_of(a, shared_addr(base));
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int workers = a.c.units * WAYS * a.c.ways_rows;
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
        scheme_worker<T, EXPAND, CHAINS, ROWG, TILES, WAYS>(a, s, warp, lane).run();
#endif
}

/* ---- the kernels ---- */

/* NULL where scheme_choose has no such cut.  RARE: formats that few models have do with fewer. */
template <class T, int EXPAND, int CHAINS, int TILES, bool RARE>
scheme_function *scheme_kernel_of(const struct scheme_choice *c)
{
    switch (c->row_groups * 8 + c->ways_k) {
    case 8 + 1:
        return scheme_skinny_kernel<T, EXPAND, CHAINS, 1, TILES, 1>;
    case 16 + 1:
        return scheme_skinny_kernel<T, EXPAND, CHAINS, 2, TILES, 1>;
    case 32 + 1:
        return scheme_skinny_kernel<T, EXPAND, CHAINS, 4, TILES, 1>;
    }
    if constexpr (!RARE)
        switch (c->row_groups * 8 + c->ways_k) {
        case 8 + 2:
            return scheme_skinny_kernel<T, EXPAND, CHAINS, 1, TILES, 2>;
        case 8 + 4:
            return scheme_skinny_kernel<T, EXPAND, CHAINS, 1, 1, 4>;
        case 16 + 4:
            return scheme_skinny_kernel<T, EXPAND, CHAINS, 2, 1, 4>;
        }
    return nullptr;
}

template <class T, int EXPAND, int CHAINS>
scheme_function *scheme_kernel_often(const struct scheme_choice *c, bool gated)
{
    return gated ? scheme_kernel_of<T, EXPAND, CHAINS, 2, false>(c)
                 : scheme_kernel_of<T, EXPAND, CHAINS, 1, false>(c);
}

/* There is one for every layout: of 8 bits, several chains have zero points, and FP8 has one. */
template <class T>
scheme_function *scheme_kernel(const struct scheme_layout *l, const struct scheme_choice *c,
                               bool gated)
{
    switch (expand_of(l) * 8 + l->chains) {
    case EXPAND_INT4 * 8 + 1:
        return scheme_kernel_often<T, EXPAND_INT4, 1>(c, gated);
    case EXPAND_INT4 * 8 + 2:
        return scheme_kernel_often<T, EXPAND_INT4, 2>(c, gated);
    case EXPAND_INT4 * 8 + 4:
        return scheme_kernel_of<T, EXPAND_INT4, 4, 1, true>(c);
    case EXPAND_CODEBOOK * 8 + 1:
        return scheme_kernel_of<T, EXPAND_CODEBOOK, 1, 1, true>(c);
    case EXPAND_CODEBOOK * 8 + 2:
        return scheme_kernel_often<T, EXPAND_CODEBOOK, 2>(c, gated);
    case EXPAND_CODEBOOK * 8 + 4:
        return scheme_kernel_of<T, EXPAND_CODEBOOK, 4, 1, true>(c);
    case EXPAND_INT8 * 8 + 1:
        return scheme_kernel_often<T, EXPAND_INT8, 1>(c, gated);
    case EXPAND_FP8 * 8 + 1:
        return scheme_kernel_of<T, EXPAND_FP8, 1, 1, true>(c);
    case EXPAND_INT8_ZERO * 8 + 1:
        return scheme_kernel_of<T, EXPAND_INT8_ZERO, 1, 1, true>(c);
    case EXPAND_INT8_ZERO * 8 + 2:
        return scheme_kernel_of<T, EXPAND_INT8_ZERO, 2, 1, true>(c);
    case EXPAND_INT8_ZERO * 8 + 4:
        return scheme_kernel_of<T, EXPAND_INT8_ZERO, 4, 1, true>(c);
    }
    return nullptr;
}

#endif
