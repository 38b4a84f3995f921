/* What units of block formats promise: every value is found again exactly, rows that were packed
 * apart lie as rows that were packed together, and a matrix takes the bits that its format has. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/block_layout.h"
#include "kernels/cuda/weight_layout.h"
#include "tests/unit/kernels_cuda/random_blocks.h"

static const struct form {
    enum dtype dtype;
    double bits_max; /* of a weight, scales and all */
} forms[] = {
    {DT_Q4_0, 4.5},  {DT_Q4_1, 5},    {DT_Q5_0, 5.5},  {DT_Q5_1, 6},    {DT_Q8_0, 8.5},
    {DT_Q2_K, 2.75}, {DT_Q3_K, 3.63}, {DT_Q4_K, 4.75}, {DT_Q5_K, 5.75}, {DT_Q6_K, 6.63},
};
enum { FORMS = sizeof forms / sizeof forms[0] };

static const int shapes[][2] = {{16, 128}, {40, 576}, {5, 768}, {33, 96}, {17, 1024}, {3, 256}};

static void every_value_is_found_again(void **state)
{
    (void)state;
    for (int i = 0; i < FORMS; i++)
        for (size_t k = 0; k < sizeof shapes / sizeof shapes[0]; k++) {
            const enum dtype f = forms[i].dtype;
            const int rows = shapes[k][0], cols = shapes[k][1];
            size_t n_bytes, row_bytes;
            if (!tensor_file_bytes(f, rows, cols, &n_bytes) ||
                !tensor_file_bytes(f, 1, cols, &row_bytes))
                continue;
            uint8_t *file = random_blocks(f, n_bytes, 0.01F);
            uint8_t *units = malloc(block_units_bytes(f, rows, cols));
            float *want = malloc((size_t)cols * sizeof *want);
            block_pack(f, cols, file, rows, units);
            for (int r = 0; r < rows; r++) {
                dequantize_row(f, file + (size_t)r * row_bytes, want, cols);
                for (int c = 0; c < cols; c++)
                    if (block_unpack(f, cols, units, r, c) != want[c])
                        fail_msg("%s, %d columns: row %d, column %d: %g, want %g",
                                 dtype_traits[f].name, cols, r, c,
                                 (double)block_unpack(f, cols, units, r, c), (double)want[c]);
            }
            free(file);
            free(units);
            free(want);
        }
}

/* What rounding a value to 16 bits costs, and, with minima of K formats, 2^-11 of the largest of
 * them. */
static double allowed(enum dtype f, const struct quant_block *b, double v)
{
    const bool has_min = quant_traits[f].has_sc && quant_traits[f].has_min;
    const int most = b->mn[0] > b->mn[1] ? b->mn[0] : b->mn[1];
    return 0x1p-11 * fabs(v) + 0x1p-25 + (f == DT_Q6_K ? 0x1p-11 * fabs(v) : 0) +
           (has_min ? 0x1p-11 * fabs((double)f32_from_f16(b->m)) * most + 0x1p-25 : 0);
}

static void values_are_as_near_as_the_layout_says(void **state)
{
    (void)state;
    for (int i = 0; i < FORMS; i++) {
        const enum dtype f = forms[i].dtype;
        size_t n_bytes;
        assert_true(tensor_file_bytes(f, 1, 65536, &n_bytes));
        uint8_t *row = random_blocks(f, n_bytes, 0.01F);
        float *want = malloc(65536 * sizeof *want), *got = malloc(65536 * sizeof *got);
        dequantize_row(f, row, want, 65536);
        random_blocks_values(f, false, row, 65536, got);
        for (int64_t k = 0; k < 65536; k++) {
            struct quant_block b;
            quant_block_read(f, row, k / QUANT_BLOCK, &b);
            if (!(fabs((double)got[k] - (double)want[k]) <= allowed(f, &b, (double)want[k])))
                fail_msg("%s: %g, want %g", dtype_traits[f].name, (double)got[k], (double)want[k]);
        }
        free(row);
        free(want);
        free(got);
    }
}

static void what_is_not_there_is_zero(void **state)
{
    (void)state;
    size_t n_bytes;
    assert_true(tensor_file_bytes(DT_Q4_1, 3, 96, &n_bytes));
    uint8_t *file = random_blocks(DT_Q4_1, n_bytes, 0.01F);
    uint8_t *units = malloc(block_units_bytes(DT_Q4_1, 3, 96));
    block_pack(DT_Q4_1, 96, file, 3, units);
    for (int r = 0; r < 16; r++)
        for (int c = r < 3 ? 96 : 0; c < 128; c++)
            assert_true(block_unpack(DT_Q4_1, 96, units, r, c) == 0);
    free(file);
    free(units);
}

static void rows_may_be_packed_in_parts(void **state)
{
    (void)state;
    for (int i = 0; i < FORMS; i++) {
        const struct tensor w = {.dtype = forms[i].dtype, .rows = 56, .cols = 768};
        const struct weight_layout *way = weight_layout_of(&w, 90);
        size_t file_bytes, row_bytes;
        assert_true(tensor_file_bytes(w.dtype, w.rows, w.cols, &file_bytes));
        row_bytes = file_bytes / (size_t)w.rows;
        uint8_t *file = random_blocks(w.dtype, file_bytes, 0.01F);
        const size_t n_bytes = way->bytes(&w);
        uint8_t *whole = malloc(n_bytes), *parts = malloc(n_bytes);
        block_pack(w.dtype, w.cols, file, w.rows, whole);
        for (int64_t first = 0; first < w.rows; first += 32) {
            const int64_t n = w.rows - first < 32 ? w.rows - first : 32;
            struct weight_piece piece[WEIGHT_PIECES_MAX];
            assert_int_equal(way->pieces(&w, first, n, piece), 1);
            assert_true(piece[0].at + piece[0].n_bytes <= n_bytes);
            void *const to[WEIGHT_PIECES_MAX] = {parts + piece[0].at};
            way->pack_file(&w, file + (size_t)first * row_bytes, n, to);
        }
        assert_memory_equal(whole, parts, n_bytes);
        free(file);
        free(whole);
        free(parts);
    }
}

static void units_are_small_and_aligned(void **state)
{
    (void)state;
    for (int i = 0; i < FORMS; i++) {
        struct block_layout l;
        block_layout(&l, forms[i].dtype, 4096);
        assert_int_equal(l.tile_bytes % 16, 0);
        assert_int_equal(l.unit_bytes % 16, 0);
        const double bits = 8.0 * (double)l.unit_bytes / (16 * 4096);
        if (!(bits <= forms[i].bits_max))
            fail_msg("%s: %.3f bits", dtype_traits[forms[i].dtype].name, bits);
    }
}

static void block_formats_stay_as_they_are_on_hopper_alone(void **state)
{
    (void)state;
    for (int f = 0; f < DT_N; f++) {
        const struct tensor w = {.dtype = (enum dtype)f, .rows = 16, .cols = 256};
        assert_ptr_equal(weight_layout_of(&w, 90), f >= DT_Q4_0 ? &weight_layout_blocks : NULL);
        assert_null(weight_layout_of(&w, 80));
        assert_null(weight_layout_of(&w, 120));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_value_is_found_again),
        cmocka_unit_test(values_are_as_near_as_the_layout_says),
        cmocka_unit_test(what_is_not_there_is_zero),
        cmocka_unit_test(rows_may_be_packed_in_parts),
        cmocka_unit_test(units_are_small_and_aligned),
        cmocka_unit_test(block_formats_stay_as_they_are_on_hopper_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
