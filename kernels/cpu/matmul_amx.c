/* matmul_amx.c - the tile multiply for AMX: many rows of 8-bit activations.
 *
 * A packed tile is what the matrix unit wants of its second operand: four columns of 16 rows in
 * each 64 bytes.  It multiplies one group of columns - 32 or 16, which share a scale - by 16 rows
 * of activations at once, and leaves whole numbers in memory; their scaling takes vector
 * instructions, as everywhere, and more time than the products.  So the unit works a block ahead.
 *
 * The whole numbers are exact and are scaled and added as matmul_tile.h does it: the bits are those
 * of AVX-512 with VNNI, which multiplies the few rows and all floats. */
#include "kernels/cpu/matmul_int.h"

#if defined(__AMX_INT8__) || defined(__AMXINT8__) /* clang names it so, to 15 */
#define MATMUL_SIGNED_IN_PLACE
#include "kernels/cpu/matmul_lanes16.h"

#include "kernels/cpu/decode_tile.h"

enum { GROUPS_AHEAD = 4 };

struct unit_shape { /* what LDTILECFG reads */
    uint8_t palette, start_row, zeros[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

/* Registers 0 to 3 for sums, 4 and 5 for 16 rows of activations, 6 and 7 for weights. */
static void shape_unit(int group)
{
    const uint8_t rows = ACT_PANEL_ROWS, steps = (uint8_t)(group / 4);
    const uint16_t row = (uint16_t)group;
    const struct unit_shape shape = {
        .palette = 1,
        .row_bytes = {VI_BYTES, VI_BYTES, VI_BYTES, VI_BYTES, row, row, VI_BYTES, VI_BYTES},
        .rows = {rows, rows, rows, rows, rows, rows, steps, steps}};
    /* gcc's intrinsic names 8 of the 64 bytes it reads: the others need not be there without this.
     */
    __asm__ volatile("" : : "r"(&shape) : "memory");
    _tile_loadconfig(&shape);
}

/* Registers are named in the instructions themselves. */
#define MULTIPLY_GROUP(f, q, w, sum, a, b)                                                         \
    do {                                                                                           \
        _tile_zero(sum);                                                                           \
        _tile_loadd(a, q, QUANT_BLOCK);                                                            \
        _tile_loadd(b, w, VI_BYTES);                                                               \
        if ((f).bits == 8)                                                                         \
            _tile_dpbssd(sum, a, b);                                                               \
        else                                                                                       \
            _tile_dpbsud(sum, a, b);                                                               \
    } while (0)

/* The whole-number sums of n <= GROUPS_AHEAD groups from `first` on, left in the unit. */
ALWAYS_INLINE void multiply_groups(struct quant_traits f, const struct act_panel *x, const VI *w,
                                   size_t first, size_t n)
{
    const size_t groups = (size_t)groups_of(f), steps = f.group / 4;
    const int8_t *q[GROUPS_AHEAD];
    w += first * steps;
    UNROLL for (size_t k = 0; k < GROUPS_AHEAD; k++) q[k] =
        x[(first + k) / groups].q[0] + (first + k) % groups * f.group;
    MULTIPLY_GROUP(f, q[0], w, 0, 4, 6);
    if (n > 1)
        MULTIPLY_GROUP(f, q[1], w + steps, 1, 5, 7);
    if (n > 2)
        MULTIPLY_GROUP(f, q[2], w + 2 * steps, 2, 4, 6);
    if (n > 3)
        MULTIPLY_GROUP(f, q[3], w + 3 * steps, 3, 5, 7);
}

ALWAYS_INLINE void store_groups(size_t n, VI (*sums)[ACT_PANEL_ROWS])
{
    _tile_stored(0, sums[0], VI_BYTES);
    if (n > 1)
        _tile_stored(1, sums[1], VI_BYTES);
    if (n > 2)
        _tile_stored(2, sums[2], VI_BYTES);
    if (n > 3)
        _tile_stored(3, sums[3], VI_BYTES);
}

ALWAYS_INLINE void scale_group(struct quant_traits f, const VI *sums, const float *d,
                               const float *low, VF ds, VF ms, VF *acc)
{
    UNROLL for (int i = 0; i < ACT_PANEL_ROWS; i++)
    {
        acc[i] = vf_fma(vf_from_i32(vi_load(sums + i)), vf_mul(ds, vf_set1(d[i])), acc[i]);
        if (has_low(f))
            acc[i] = vf_fma(ms, vf_set1(low[i]), acc[i]);
    }
}

static inline size_t smaller_of(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* The bytes behind these tiles, which are the next ones, on their way to the cache: without that
 * the first panel waits for each line of them. */
struct ahead {
    const uint8_t *at;
    size_t n_bytes; /* with each GROUPS_AHEAD groups */
};

/* Adds n_blocks blocks of 16 rows and one tile to out[row][tile]. */
ALWAYS_INLINE void panel_rows(struct quant_traits f, const struct decoded *from, int tile,
                              size_t n_blocks, const struct act_panel *x, struct ahead *ahead,
                              VF (*out)[TILES_TOGETHER])
{
    const size_t groups = (size_t)groups_of(f), n_groups = n_blocks * groups;
    VI sums[GROUPS_AHEAD][ACT_PANEL_ROWS];
    VF acc[ACT_PANEL_ROWS];
    UNROLL for (int i = 0; i < ACT_PANEL_ROWS; i++) acc[i] = out[i][tile];
    size_t n = smaller_of(n_groups, GROUPS_AHEAD), n_next;
    multiply_groups(f, x, from->at[tile], 0, n);
    store_groups(n, sums);
    for (size_t first = 0; first < n_groups; first += n, n = n_next) {
        const size_t next = first + n;
        n_next = smaller_of(n_groups - next, GROUPS_AHEAD);
        if (n_next)
            multiply_groups(f, x, from->at[tile], next, n_next);
        for (size_t at = 0; at < ahead->n_bytes; at += 64)
            __builtin_prefetch(ahead->at + at, 0, 3);
        ahead->at += ahead->n_bytes;
        for (size_t k = 0; k < n; k++) {
            const size_t g = first + k;
            const struct act_panel *block = x + g / groups;
            const float *low = f.group == 32 ? block->sum : block->half[g % groups];
            scale_group(f, sums[k], block->d, low, from->ds[tile][g], from->ms[tile][g], acc);
        }
        if (n_next)
            store_groups(n_next, sums);
    }
    UNROLL for (int i = 0; i < ACT_PANEL_ROWS; i++) out[i][tile] = acc[i];
}

/* What to fetch while all rows meet n_blocks blocks, from->first on, of a pair of tiles. */
static struct ahead plan_ahead(const struct matmul_tile *t, const struct decoded *from,
                               size_t n_blocks, size_t n_groups)
{
    const size_t bytes = t->tile_bytes * (size_t)t->n_tiles, all = pack_blocks(t->cols);
    const size_t panels = (size_t)(t->n_rows + ACT_PANEL_ROWS - 1) / ACT_PANEL_ROWS;
    const size_t runs = (n_groups + GROUPS_AHEAD - 1) / GROUPS_AHEAD * panels * (size_t)t->n_tiles;
    const size_t each = bytes * n_blocks / all / runs;
    return (struct ahead){.at = t->w + bytes + bytes * from->first / all / 64 * 64,
                          .n_bytes = (each + 63) / 64 * 64};
}

ALWAYS_INLINE void all_panel_rows(struct quant_traits f, const struct decoded *from,
                                  size_t n_blocks, const struct matmul_tile *t,
                                  const struct act_panel *x, VF (*acc)[TILES_TOGETHER])
{
    const size_t panel_blocks = pack_blocks(t->cols), n_groups = n_blocks * (size_t)groups_of(f);
    struct ahead ahead = plan_ahead(t, from, n_blocks, n_groups);
    shape_unit(f.group);
    for (int i = 0; i < t->n_rows; i += ACT_PANEL_ROWS, x += panel_blocks)
        for (int tile = 0; tile < t->n_tiles; tile++)
            panel_rows(f, from, tile, n_blocks, x, &ahead, acc + i);
}

#define DEFINE_ROWS(name, traits)                                                                  \
    static void name##_rows(const struct decoded *from, size_t n_blocks,                           \
                            const struct matmul_tile *t, const struct act_panel *x,                \
                            VF(*acc)[TILES_TOGETHER])                                              \
    {                                                                                              \
        all_panel_rows(traits, from, n_blocks, t, x, acc);                                         \
    }

DEFINE_ROWS(low, low4_traits)
DEFINE_ROWS(signed8, quant_traits[DT_Q8_0])
DEFINE_ROWS(low8, low8_traits)
DEFINE_ROWS(half, quant_traits[DT_Q6_K])

static void int8_rows(const struct decoded *from, size_t n_blocks, const struct matmul_tile *t,
                      const struct act_panel *x, VF (*acc)[TILES_TOGETHER])
{
    if (t->scheme->has_zero)
        low8_rows(from, n_blocks, t, x, acc);
    else
        signed8_rows(from, n_blocks, t, x, acc);
}

#define DEFINE_DECODE(name, how, ...)                                                              \
    static void decode_##name(const struct matmul_tile *t, size_t first, size_t n,                 \
                              struct decoded *to)                                                  \
    {                                                                                              \
        how(__VA_ARGS__, t, first, n, to);                                                         \
    }

DEFINE_DECODE(q4_0, decode_cols, DT_Q4_0)
DEFINE_DECODE(q4_1, decode_cols, DT_Q4_1)
DEFINE_DECODE(q5_0, decode_cols, DT_Q5_0)
DEFINE_DECODE(q5_1, decode_cols, DT_Q5_1)
DEFINE_DECODE(q8_0, decode_cols, DT_Q8_0)
DEFINE_DECODE(q2_k, decode_cols, DT_Q2_K)
DEFINE_DECODE(q3_k, decode_cols, DT_Q3_K)
DEFINE_DECODE(q4_k, decode_cols, DT_Q4_K)
DEFINE_DECODE(q5_k, decode_cols, DT_Q5_K)
DEFINE_DECODE(q6_k, decode_cols, DT_Q6_K)
DEFINE_DECODE(int4, decode_scheme, DT_INT4, low4_traits)
DEFINE_DECODE(int8, decode_scheme, DT_INT8, low8_traits)

static const struct {
    void (*decode)(const struct matmul_tile *t, size_t first, size_t n, struct decoded *to);
    void (*rows)(const struct decoded *from, size_t n_blocks, const struct matmul_tile *t,
                 const struct act_panel *x, VF (*acc)[TILES_TOGETHER]);
} unit_types[DT_ALL_N] = {
    [DT_Q4_0] = {decode_q4_0, low_rows},     [DT_Q4_1] = {decode_q4_1, low_rows},
    [DT_Q5_0] = {decode_q5_0, low_rows},     [DT_Q5_1] = {decode_q5_1, low_rows},
    [DT_Q8_0] = {decode_q8_0, signed8_rows}, [DT_Q2_K] = {decode_q2_k, half_rows},
    [DT_Q3_K] = {decode_q3_k, half_rows},    [DT_Q4_K] = {decode_q4_k, low_rows},
    [DT_Q5_K] = {decode_q5_k, low_rows},     [DT_Q6_K] = {decode_q6_k, half_rows},
    [DT_INT4] = {decode_int4, low_rows},     [DT_INT8] = {decode_int8, int8_rows},
};

/* Outputs lie a row apart, each in a page of its own, and what is added to them too. */
static void fetch_outputs(const struct matmul_tile *t)
{
    for (int row = 0; row < t->n_rows / t->n_planes; row++)
        for (int lane = 0; lane < t->n_tiles * LANES; lane += LANES)
            __builtin_prefetch(t->y + row * t->y_stride + lane, 1, 2);
}

void matmul_tile_amx(const struct matmul_tile *t)
{
    if (!t->panels || t->n_rows <= MATMUL_DIRECT_MAX) {
        matmul_tile_avx512vnni(t);
        return;
    }
    const size_t n_blocks = pack_blocks(t->cols), step = DECODED_COLS / QUANT_BLOCK;
    VF acc[MATMUL_ROWS_MAX][TILES_TOGETHER];
    struct decoded decoded;
    fetch_outputs(t);
    for (int i = 0; i < t->n_rows + ACT_PANEL_ROWS - 1 && i < MATMUL_ROWS_MAX; i++)
        acc[i][0] = acc[i][1] = vf_set1(0);
    for (size_t first = 0; first < n_blocks; first += step) {
        const size_t n = n_blocks - first < step ? n_blocks - first : step;
        decoded.first = first;
        unit_types[t->dtype].decode(t, first, n, &decoded);
        __asm__ volatile("" : : "r"(&decoded) : "memory"); /* gcc's loads of tiles name no memory */
        unit_types[t->dtype].rows(&decoded, n, t, t->panels + first, acc);
    }
    _tile_release(); /* or each switch of threads saves 8 KiB */
    if (t->x_wide)
        add_outliers(t, acc);
    store_rows(t, acc);
}
#endif
