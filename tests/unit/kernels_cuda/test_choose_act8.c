/* What act8_choose promises: units that fit the blocks, columns that fit a wgmma, a ring that fits
 * an SM, and room behind it for what wgmma reads and is not there. And of the layout: no
 * code's place twice. Of act8_listed_max: a list that fits, and that costs less than all columns.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/choose_act8.h"
#include "kernels/cuda/weight_layout.h"

static void every_cut_holds(void **state)
{
    static const int rows[] = {1, 2, 8, 9, 16, 17, 32}, widths[] = {64, 576, 4096, 14336};
    static const int columns[] = {8, 56, 960, 4096, 6144, 14336, 128256};
    (void)state;
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++)
        for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++)
            for (size_t n = 0; n < 2 * sizeof columns / sizeof columns[0]; n++) {
                const struct act8_shape s = {.rows = rows[r],
                                             .planes = 1 + (int)(i % 2),
                                             .in = widths[i],
                                             .n = columns[n / 2],
                                             .gated = n % 2,
                                             .sm_count = 132};
                const int tiles = s.gated ? 2 : 1;
                struct act8_choice c;
                act8_choose(&c, &s);
                assert_true(c.rows_tile >= s.rows * s.planes && c.rows_tile % (8 * s.planes) == 0);
                assert_true(c.rows_tile <= 64);
                assert_true(c.n_units * 8 >= s.n && c.grid <= s.sm_count && c.grid <= c.n_units);
                assert_true(c.units * tiles * 8 <= c.columns && c.columns <= 128);
                assert_true(c.stages >= 2 && c.shared_bytes <= ACT8_SHARED_MAX);
                const size_t ring = 2048 + (size_t)c.stages * c.stage_bytes;
                const size_t row_bytes = (size_t)c.rows_tile * ACT8_CHUNK;
                const size_t last_units = ring - (size_t)(c.units * tiles) * ACT8_UNIT_BYTES;
                const size_t last_rows = ring - c.stage_bytes + (size_t)(c.span - 1) * row_bytes;
                assert_true(last_units + (size_t)c.columns * ACT8_CHUNK <= c.shared_bytes);
                assert_true(last_rows + 64 * ACT8_CHUNK <= c.shared_bytes);
                assert_true(ring + c.sums_bytes <= c.shared_bytes);
            }
}

static void few_columns_are_listed(void **state)
{
    (void)state;
    for (int in = 8; in <= 65536; in += 8) {
        const int most = act8_listed_max(in);
        assert_true(most >= 0 && most <= ACT8_LIST_MAX && most <= in / 16);
        assert_true(most >= act8_listed_max(in > 8 ? in - 8 : in));
    }
    assert_int_equal(act8_listed_max(65536 + 8), 0); /* whose last columns have no number */
    assert_true(act8_listed_max(4096) >= 41 && act8_listed_max(14336) >= 144); /* 1 % */
}

enum { ROWS = 200, COLS = 300 };

static uint8_t code_of(int row, int col)
{
    return (uint8_t)(row * 31 + col * 7 + col / 128);
}

static void give_matrix(uint8_t *codes, float *scales)
{
    for (int row = 0; row < ROWS; row++) {
        scales[row] = (float)row + 0.5f;
        for (int col = 0; col < COLS; col++)
            codes[row * COLS + col] = code_of(row, col) ^ 0x80; /* as a checkpoint has it */
    }
}

/* What the wide kernel's copies bring for rows [first, first + n) of a chunk: whole groups of it,
 * or units of one. */
static void copy_box(const uint8_t *packed, int first, int n, int chunk, uint8_t *tile)
{
    for (int row = first; row < first + n; row += ACT8_UNIT)
        memcpy(tile + (row - first) * ACT8_CHUNK,
               packed + (size_t)(row / ACT8_GROUP) * act8_group_bytes(COLS) +
                   (size_t)chunk * ACT8_TILE_BYTES +
                   (size_t)(row % ACT8_GROUP / ACT8_UNIT) * ACT8_UNIT_BYTES,
               ACT8_UNIT_BYTES);
}

/* wgmma's 128-byte swizzle: bits 4..6 of an address are read xor bits 7..9. */
static uint8_t read_swizzled(const uint8_t *tile, int row, int col)
{
    const int at = row * ACT8_CHUNK + col;
    return tile[at ^ (at >> 7 & 7) << 4];
}

static void copies_bring_what_wgmma_reads(void **state)
{
    static uint8_t codes[ROWS * COLS], tile[128 * ACT8_CHUNK];
    static float scales[ROWS];
    const struct scheme s = {.codes = DT_INT8, .act = ACTS_INT8};
    const struct tensor w = {.rows = ROWS, .cols = COLS, .scheme = &s};
    const struct scheme_rows rows = {codes, scales, NULL};
    (void)state;
    give_matrix(codes, scales);
    uint8_t *packed = malloc(weight_layout_act8.bytes(&w));
    assert_non_null(packed);
    weight_layout_act8.pack(&w, DT_BF16, &rows, ROWS, (void *[]){packed, NULL, NULL});
    for (int first = 0; first < 256; first += 64)
        for (int chunk = 0; chunk < act8_chunks(COLS); chunk++) {
            const int n = first % 128 == 0 ? 128 : 32;
            copy_box(packed, first, n, chunk, tile);
            for (int row = 0; row < n; row++)
                for (int col = 0; col < ACT8_CHUNK; col++) {
                    const int in_row = chunk * ACT8_CHUNK + col;
                    const bool there = first + row < ROWS && in_row < COLS;
                    assert_int_equal(read_swizzled(tile, row, col),
                                     there ? code_of(first + row, in_row) : 0);
                }
        }
    for (int row = 0; row < ROWS; row++) {
        float scale;
        memcpy(&scale,
               packed + (size_t)(row / ACT8_GROUP) * act8_group_bytes(COLS) +
                   act8_codes_bytes(COLS) + (size_t)(row % ACT8_GROUP) * sizeof scale,
               sizeof scale);
        assert_true(scale == scales[row]);
    }
    free(packed);
}

static void parts_lie_where_the_whole_has_them(void **state)
{
    const struct scheme s = {.codes = DT_FP8, .act = ACTS_FP8};
    const struct tensor w = {.rows = ROWS, .cols = COLS, .scheme = &s};
    struct weight_piece piece[WEIGHT_PIECES_MAX];
    (void)state;
    assert_int_equal(weight_layout_act8.pieces(&w, 128, 72, piece), 1);
    assert_int_equal(piece[0].at, 2 * act8_group_bytes(COLS));
    assert_int_equal(piece[0].at + piece[0].n_bytes, weight_layout_act8.bytes(&w));
}

/* Other devices meet such weights with activations as wide as all. */
static void only_hopper_rounds_activations(void **state)
{
    const struct scheme int8 = {.codes = DT_INT8, .act = ACTS_INT8};
    const struct scheme outliers = {.codes = DT_INT8, .act = ACTS_OUTLIERS, .threshold = 6};
    const struct scheme fp8 = {.codes = DT_FP8, .act = ACTS_FP8}, wide = {.codes = DT_INT8};
    const struct scheme groups = {.codes = DT_INT8, .act = ACTS_INT8, .group = 128};
    const struct tensor w = {.rows = ROWS, .cols = COLS, .scheme = &int8};
    (void)state;
    assert_true(weight_has_act8(&int8, 90) && weight_has_act8(&fp8, 90));
    assert_true(weight_has_act8(&outliers, 90));
    assert_false(weight_has_act8(&wide, 90) || weight_has_act8(&groups, 90));
    assert_false(weight_has_act8(&int8, 120));
    assert_ptr_equal(weight_layout_of(&w, 90), &weight_layout_act8);
    assert_ptr_equal(weight_layout_of(&w, 100), &weight_layout_units);
    assert_null(weight_layout_of(&w, 120)); /* too little shared memory for kernels of schemes */
    assert_null(weight_layout_of(&w, 80));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_cut_holds),
        cmocka_unit_test(few_columns_are_listed),
        cmocka_unit_test(copies_bring_what_wgmma_reads),
        cmocka_unit_test(only_hopper_rounds_activations),
        cmocka_unit_test(parts_lie_where_the_whole_has_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
