/* matmul_scheme_skinny.cuh - the skinny product of a scheme: what its warps do, and a kernel for
 * each case.
 *
 * Units of 16 weight rows are the m16 operand of mma.m16n8k16, eight rows of x the n8 one; codes
 * become fragments in registers, a codebook's mostly by a table in shared memory.  Order of the
 * sums: scheme_layout.h.  A warp owns tiles of a unit in turn with the unit's other warps, and rows
 * of x; chains that do not come in order meet in shared memory, where slices of their values are
 * added, chain after chain, each by one of the unit's warps.  Of one row, a slice is all: one warp
 * adds it.
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
    PAIR_BYTES = 128, /* of a chain: 16 x 2 values */
    SLICE_BYTES = 128,
    BARRIER_UNITS = 2, /* and the ids behind it: one a unit and part of the rows */
    BARRIER_OTHERS = 14,
    BARRIER_X = 15,    /* x and the table are there */
    PERMUTED_EVERY = 4 /* of a codebook's steps: by permutations, the others by the table, which
                          takes shared memory's time and not the instructions' */
};

static_assert(SCHEME_SUMS_AT + 2 * ROWS_NORM_MAX * NORM_WARPS * 4 <= 1024, "barriers and sums fit");
static_assert((int)SCHEME_WARPS_MANY * 32 >= (int)ROWS_THREADS, "workers bring the rows");
static_assert((int)SCHEME_NORM_ROWS_MAX <= (int)ROWS_NORM_MAX, "as many rows are normalised");
static_assert(BARRIER_UNITS + (int)SCHEME_WARPS_FEW / 2 <= (int)BARRIER_OTHERS,
              "ids of units that meet");
static_assert(table_bytes(TABLE_ROW) == (int)SCHEME_BOOK_BYTES, "the table has its place");

/* What one warp does.  PARTS, CHAINS: of a tile.  SLOTS: chains that run side by side, which come
 * one after the other in k.  WAYS: warps that take a unit's tiles in turn; each adds at most SLICES
 * slices of a row group's values, 32 at a time. */
template <class T, int EXPAND, int PARTS, int ROWG, int TILES, int WAYS> struct scheme_worker {
    enum {
        CHAINS = expand_chains(EXPAND, PARTS),
        BITS = expand_bits(EXPAND),
        HAND = scheme_in_hand(BITS, ROWG, TILES),
        SLOTS = HAND,
        GROUPS = HAND * CHAINS / SLOTS, /* of slots, in a step */
        QUARTERS = 4 / CHAINS,          /* of a tile, 32 k, in a chain */
        SPAN = HAND * WAYS,             /* tiles of a step */
        SLICES = (ROWG * 4 + WAYS - 1) / WAYS,
        VALUES = WAYS == 1 ? ROWG * 4 : SLICES, /* of y, of a lane and tile */
    };
    const scheme_args &a;
    const scheme_share &s;
    scale_reader scales;
    int lane, mine, row_way, first_slice, slices; /* slices: of this warp */
    bool puts; /* this lane has values of a chain that are asked for */
    /* Of this lane: in a stage's weights, in 64 columns of x; of scales and operands of its two
     * rows, from its words of a tile; of its values' scales, from a stage. */
    uint32_t w_at, x_at, pair_at, operand_at, share_at[SLICES];
    uint32_t operand_keep, operand_fixed; /* INT4's: (stored & keep) | fixed */
    uint32_t tile_bytes;
    /* The exchange: bytes of a chain, of a tile's, of a step's; this lane's places in this warp's
     * chains and in its first slice. */
    uint32_t chain_bytes, tile_chains, step_chains, put_at, get_at;
    float sum[TILES][VALUES], row_scales[TILES][WAYS == 1 ? 2 : SLICES];

    /* Where there are registers, made once. */
    template <class V> __device__ static V held(V v)
    {
        return ROWG * TILES <= 4 ? in_register(v) : v;
    }

    __device__ scheme_worker(const scheme_args &args, const scheme_share &share, int warp,
                             int lane_)
        : a(args), s(share), scales(args.l.scale, expand_ones<T, EXPAND>()), lane(lane_)
    {
        const int ways = WAYS * a.c.ways_rows, way = warp % ways % WAYS;
        scales.shift = held(scales.shift);
        scales.keep = held(scales.keep);
        scales.one = held(scales.one);
        scales.by = held(scales.by);
        mine = warp / ways;
        row_way = warp % ways / WAYS;
        tile_bytes = a.l.tile_bytes;
        w_at = held((uint32_t)(mine * SPAN + way * HAND) * tile_bytes + (uint32_t)(lane * 16));
        /* Resident: rows past the last repeat it; their sums are not stored. */
        const int row = a.c.resident ? min(lane % 8, a.p.rows - 1) : row_way * ROWG * 8 + lane % 8;
        x_at = held((uint32_t)(2 * way * HAND) * a.c.x_box + piece_at(0, row, lane / 8));
        pair_at = held(scales_from() + (uint32_t)(lane / 4 * 4 - lane * 16));
        operand_at = held((a.l.operand_bytes ? a.l.operands_at : 0) +
                          (uint32_t)(lane / 4 * 2 * a.l.operand_bytes - lane * 16));
        operand_keep = held(a.l.operand_bytes ? 0xffffu : 0u);
        operand_fixed = held(a.l.operand_bytes ? 0u : (uint32_t)INT4_ZEROS);
        exchange_init(way);
    }

    /* Of a tile's scales; where a row has one, of whatever is there. */
    __device__ uint32_t scales_from()
    {
        return a.l.scale == SCALE_ROW ? 0 : a.l.scales_at;
    }

    __device__ void exchange_init(int way)
    {
        const int pairs = a.c.pairs;
        chain_bytes = held((uint32_t)(ROWG * pairs * PAIR_BYTES));
        tile_chains = CHAINS * chain_bytes;
        step_chains = SPAN * tile_chains;
        /* Units' first slices, of one row all, are added by warps of different parts of the SM. */
        first_slice = (way + mine * WAYS / 4) % WAYS;
        slices = (ROWG * pairs - first_slice + WAYS - 1) / WAYS;
        puts = lane % 4 < pairs;
        const uint32_t part =
            s.exchange + (uint32_t)((mine * a.c.ways_rows + row_way) * TILES) * step_chains;
        put_at = held(part + (uint32_t)(way * HAND) * tile_chains +
                      (uint32_t)((lane / 4 * pairs + lane % 4) * 16));
        get_at = held(part + (uint32_t)(first_slice * SLICE_BYTES + lane * 4));
#pragma unroll
        for (int i = 0; i < SLICES; i++)
            share_at[i] = held((uint32_t)(mine * SPAN) * tile_bytes + scales_from() +
                               (uint32_t)(scale_place(place_of(i).unit_row) * 2));
    }

    /* ---- a lane's values ---- */

    /* Of a unit's 16 rows and of the row group's 8 of x; the row group. */
    struct place {
        int group, unit_row, x_row;
    };

    /* With WAYS 1 they are those of the fragment, else those of a slice. */
    __device__ place place_of(int value)
    {
        if (WAYS == 1)
            return {value / 4, lane / 4 + value % 4 / 2 * 8, lane % 4 * 2 + value % 2};
        const int slice = first_slice + value * WAYS, part = slice % a.c.pairs * 8 + lane / 4;
        return {slice / a.c.pairs, part / a.c.pairs + lane % 4 / 2 * 8,
                part % a.c.pairs * 2 + lane % 2};
    }

    /* Of a unit's row, among scales. */
    __device__ static int scale_place(int unit_row)
    {
        return unit_row % 8 * 2 + unit_row / 8;
    }

    __device__ bool has_value(int value)
    {
        return WAYS == 1 || value < slices;
    }

    /* ---- chains ---- */

    __device__ void operands_load(uint32_t operand[2], uint32_t tile, int part)
    {
        const uint32_t at = tile + operand_at;
        if (expand_operand_bytes(EXPAND) == 1)
            expand_operands<T, EXPAND>(
                operand,
                bits_and_or(load_shared_2(at + (uint32_t)(part * UNIT_ROWS) * a.l.operand_bytes),
                            operand_keep, operand_fixed));
        if (expand_operand_bytes(EXPAND) == 2)
            expand_operands<T, EXPAND>(operand,
                                       load_shared_4(at + (uint32_t)(part * UNIT_ROWS * 2)));
    }

    __device__ __forceinline__ void fragment(uint32_t f[4], const uint32_t *w,
                                             const uint32_t operand[2], int step)
    {
        const bool permuted = ROWG * TILES <= 4 && step % PERMUTED_EVERY == PERMUTED_EVERY - 1;
        if (EXPAND == EXPAND_CODEBOOK && !permuted)
            table_step<T, TABLE_ROW>(f, w[0], operand, s.book, (uint32_t)(4 * lane));
        else
            expand_step<T, EXPAND>(f, w, operand, a.book);
    }

    __device__ float chain_scale(uint32_t at)
    {
        return EXPAND == EXPAND_CODEBOOK ? 1 : scales.value(load_shared_2_signed(at));
    }

    /* A chain has ended, of the step's tile at `tile_at`. */
    __device__ void flush(const float chain[ROWG][4], uint32_t tile_at, uint32_t to, int tile,
                          int c)
    {
        if (WAYS > 1) {
#pragma unroll
            for (int r = 0; r < ROWG; r++)
                if (puts)
                    store_shared(to + (uint32_t)(r * a.c.pairs * PAIR_BYTES), chain[r]);
            return;
        }
        const uint32_t at = tile_at + pair_at + (uint32_t)(c * UNIT_ROWS * 2);
        const float up = chain_scale(at), down = chain_scale(at + 2);
#pragma unroll
        for (int r = 0; r < ROWG; r++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float &v = sum[tile][(4 * r + j) % VALUES];
                v = __fmaf_rn(j < 2 ? up : down, chain[r][j], v);
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
            uint32_t words[SLOTS][TILES][4], operand[SLOTS][TILES][2];
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
                                at + (uint32_t)((BITS == 8 ? quarter : quarter / 2) * 512));
                        if (quarter * PARTS % 4 == 0)
                            operands_load(operand[slot][tile], at, quarter * PARTS / 4);
#pragma unroll
                        for (int step = 0; step < 2; step++) {
                            uint32_t f[4];
                            fragment(f, w + (BITS == 8 ? 2 * step : quarter % 2 * 2 + step),
                                     operand[slot][tile], 2 * quarter + step);
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
                          buffer + put_at + (uint32_t)tile * step_chains +
                              (uint32_t)hand * tile_chains + (uint32_t)c * chain_bytes,
                          tile, c);
            }
        }
    }

    /* Adds a slice of the chains of a step's tiles, which all lie in `buffer`, in order. */
    __device__ void reduce_slice(uint32_t stage, uint32_t buffer, int value)
    {
        const uint32_t scale_at = stage + share_at[value];
        const uint32_t slice_at = buffer + get_at + (uint32_t)(value * WAYS * SLICE_BYTES);
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
            uint32_t at = scale_at + (uint32_t)tile * a.c.w_bytes,
                     from = slice_at + (uint32_t)tile * step_chains;
            float v = sum[tile][value];
#pragma unroll
            for (int i = 0; i < SPAN; i++, at += tile_bytes)
#pragma unroll
                for (int c = 0; c < CHAINS; c++, from += chain_bytes)
                    v = __fmaf_rn(chain_scale(at + (uint32_t)(c * UNIT_ROWS * 2)),
                                  __uint_as_float(load_shared_4(from)), v);
            sum[tile][value] = v;
        }
    }

    __device__ void reduce(uint32_t stage, uint32_t buffer)
    {
#pragma unroll
        for (int value = 0; value < VALUES; value++)
            if (has_value(value))
                reduce_slice(stage, buffer, value);
    }

    /* ---- y ---- */

    /* Early: they come from far. */
    __device__ void row_scales_load(int unit)
    {
#pragma unroll
        for (int tile = 0; tile < TILES; tile++)
#pragma unroll
            for (int i = 0; i < (WAYS == 1 ? 2 : SLICES); i++)
                row_scales[tile][i] =
                    a.l.scale != SCALE_ROW || !has_value(i)
                        ? 1
                        : expand_ones<T, EXPAND>() *
                              __ldg((const float *)((const uint8_t *)(tile ? a.p.w_up : a.p.w) +
                                                    (size_t)unit * a.l.unit_bytes +
                                                    a.l.row_scales_at) +
                                    scale_place(place_of(WAYS == 1 ? 2 * i : i).unit_row));
    }

    __device__ void store(int unit)
    {
#pragma unroll
        for (int value = 0; value < VALUES; value++) {
            const place at = place_of(value);
            const int i = WAYS == 1 ? value % 4 / 2 : value;
            if (has_value(value))
                epilogue_one<T>(a.p, 8 * (row_way * ROWG + at.group) + at.x_row,
                                unit * UNIT_ROWS + at.unit_row,
                                __fmul_rn(row_scales[0][i], sum[0][value]),
                                __fmul_rn(row_scales[TILES - 1][i], sum[TILES - 1][value]));
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
            for (int i = 0; i < TILES * VALUES; i++)
                (&sum[0][0])[i] = 0;
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

/* What of x a block keeps, by the first workers. */
template <class T>
__device__ inline void scheme_x(uint8_t *base, const scheme_args &a, bool has_norm_w)
{
    x_load(shared_addr(base + 1024), a);
    if (a.p.norm)
        x_norm<typename pair_of<T>::type>(
            base + 1024, a, has_norm_w ? (const float *)(base + 1024 + a.c.norm_at) : a.norm_w,
            (float(*)[NORM_WARPS])(base + SCHEME_SUMS_AT));
}

/* Workers that bring no rows meet as often as those that do.  Nothing needs it but racecheck of
 * compute-sanitizer, which knows a warp by the number of barriers it has passed: at BARRIER_X it
 * would take the rows' writers and these for unordered. */
__device__ inline void meet_as_often(const scheme_args &a)
{
    const int others = a.c.warps * 32 - ROWS_THREADS;
    for (int i = 0; a.p.norm && i < x_norm_barriers(a); i++)
        barrier_sync(BARRIER_OTHERS, others);
}

/* grid: blocks of equal shares of units; block: a.c.warps that may work, and one that feeds. */
template <class T, int EXPAND, int PARTS, int ROWG, int TILES, int WAYS>
__global__ void
__launch_bounds__(ROWG *TILES <= 2 ? SCHEME_THREADS_MAX : (SCHEME_WARPS_MANY + 1) * 32, 1)
    scheme_skinny_kernel(const __grid_constant__ scheme_maps maps,
                         const __grid_constant__ scheme_args a)
{
#if __CUDA_ARCH__ >= 900 &&                                                                        \
    __CUDA_ARCH__ < 1200 /* weight_layout_of gives other devices 16-bit weights */
    DYNAMIC_SHARED(uint8_t, shared);
    uint8_t *base = (uint8_t *)(((uintptr_t)shared + 1023) & ~(uintptr_t)1023);
    const scheme_share s = scheme_share_of(a, shared_addr(base));
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int workers = a.c.units * WAYS * a.c.ways_rows;
    const bool brings = a.c.resident && threadIdx.x < ROWS_THREADS;
    const bool has_norm_w = brings && a.c.norm_at && a.norm_w;
    depend_launch();
    if (has_norm_w) /* they would wait behind all that the ring takes */
        norm_weights_load(s.x + a.c.norm_at, a);
    if (threadIdx.x == a.c.warps * 32) {
        tensor_map_prefetch(&maps.w[0]);
        if (TILES == 2)
            tensor_map_prefetch(&maps.w[1]);
        for (int i = 0; i < a.c.stages; i++) {
            mbarrier_init(s.full + 8 * i, 1);
            mbarrier_init(s.empty + 8 * i, (uint32_t)workers);
        }
        fence_mbarrier_init();
    }
    __syncthreads();
    if (warp == a.c.warps) {
        if (lane == 0)
            scheme_feeder<TILES>{maps, a, s, policy_evict_first(), policy_evict_last()}.run();
        return;
    }
    if (EXPAND == EXPAND_CODEBOOK)
        table_make<TABLE_ROW>(s.book, a.book, threadIdx.x, a.c.warps * 32);
    depend_wait();
    if (brings)
        scheme_x<T>(base, a, has_norm_w);
    else if (a.c.resident)
        meet_as_often(a);
    if (EXPAND == EXPAND_CODEBOOK || a.c.resident)
        barrier_sync(BARRIER_X, a.c.warps * 32);
    if (warp < workers)
        scheme_worker<T, EXPAND, PARTS, ROWG, TILES, WAYS>(a, s, warp, lane).run();
#endif
}

/* ---- the kernels ---- */

/* NULL where scheme_choose has no such cut.  RARE: formats that few models have do with fewer. */
template <class T, int EXPAND, int PARTS, int TILES, bool RARE>
scheme_function *scheme_kernel_of(const struct scheme_choice *c)
{
    switch (c->row_groups * 16 + c->ways_k) {
    case 16 + 1:
        return scheme_skinny_kernel<T, EXPAND, PARTS, 1, TILES, 1>;
    case 32 + 1:
        return scheme_skinny_kernel<T, EXPAND, PARTS, 2, TILES, 1>;
    case 64 + 1:
        return scheme_skinny_kernel<T, EXPAND, PARTS, 4, TILES, 1>;
    }
    if constexpr (!RARE)
        switch (c->row_groups * 16 + c->ways_k) {
        case 16 + 2:
            return scheme_skinny_kernel<T, EXPAND, PARTS, 1, TILES, 2>;
        case 16 + 4:
            return scheme_skinny_kernel<T, EXPAND, PARTS, 1, 1, 4>;
        case 16 + 8:
            return scheme_skinny_kernel<T, EXPAND, PARTS, 1, 1, 8>;
        case 32 + 4:
            return scheme_skinny_kernel<T, EXPAND, PARTS, 2, 1, 4>;
        case 32 + 8:
            return scheme_skinny_kernel<T, EXPAND, PARTS, 2, 1, 8>;
        }
    return nullptr;
}

template <class T, int EXPAND, int PARTS>
scheme_function *scheme_kernel_often(const struct scheme_choice *c, bool gated)
{
    return gated ? scheme_kernel_of<T, EXPAND, PARTS, 2, false>(c)
                 : scheme_kernel_of<T, EXPAND, PARTS, 1, false>(c);
}

/* There is one for every layout: of 8 bits, several parts have zero points, and FP8 has one.  That
 * of INT4 with zero points serves INT4 without. */
template <class T>
scheme_function *scheme_kernel(const struct scheme_layout *l, const struct scheme_choice *c,
                               bool gated)
{
    const int expand = expand_of(l);
    switch ((expand == EXPAND_INT4 ? (int)EXPAND_INT4_ZERO : expand) * 8 + l->parts) {
    case EXPAND_INT4_ZERO * 8 + 1:
        return scheme_kernel_often<T, EXPAND_INT4_ZERO, 1>(c, gated);
    case EXPAND_INT4_ZERO * 8 + 2:
        return scheme_kernel_often<T, EXPAND_INT4_ZERO, 2>(c, gated);
    case EXPAND_INT4_ZERO * 8 + 4:
        return scheme_kernel_of<T, EXPAND_INT4_ZERO, 4, 1, true>(c);
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
