/* What choose promises: a kernel for every shape, and for few rows a cut whose units fit the blocks
 * and whose ring fits an SM. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "kernels/cuda/choose.h"

static struct matmul_shape shape(int rows, int in, int n)
{
    return (struct matmul_shape){
        .rows = rows, .in = in, .n = n, .has_norm = true, .sm_count = 132, .cc = 90};
}

static struct matmul_choice choose(struct matmul_shape s)
{
    struct matmul_choice c;
    matmul_choose(&c, &s);
    return c;
}

static void rows_decide_the_kernel(void **state)
{
    (void)state;
    assert_int_equal(choose(shape(1, 4096, 4096)).variant, MATMUL_SKINNY);
    assert_int_equal(choose(shape(32, 4096, 4096)).variant, MATMUL_SKINNY);
    assert_int_equal(choose(shape(33, 4096, 4096)).variant, MATMUL_WIDE);
}

static void other_devices_get_tiles(void **state)
{
    (void)state;
    static const int other[] = {80, 86, 89, 100, 120};
    for (size_t i = 0; i < sizeof other / sizeof other[0]; i++) {
        struct matmul_shape s = shape(1, 4096, 4096);
        s.cc = other[i];
        assert_int_equal(choose(s).variant, MATMUL_TILES);
        assert_false(choose(s).fuse_norm);
    }
}

static void small_x_stays_and_is_normalised(void **state)
{
    (void)state;
    assert_true(choose(shape(1, 14336, 4096)).resident);
    assert_false(choose(shape(2, 14336, 4096)).resident);
    assert_true(choose(shape(2, 4096, 6144)).fuse_norm);
    assert_false(choose(shape(3, 2048, 6144)).fuse_norm);
    struct matmul_shape bare = shape(1, 4096, 4096);
    bare.has_norm = false;
    assert_false(choose(bare).fuse_norm);
}

static int divide_up(int a, int b)
{
    return (a + b - 1) / b;
}

static void check_cut(const struct matmul_shape *s)
{
    struct matmul_choice c = choose(*s);
    int columns = 8; /* of a unit */
    assert_true(c.rows_tile >= s->rows);
    assert_true(c.n_units * columns >= s->n && (c.n_units - 1) * columns < s->n);
    assert_true(c.grid >= 1 && c.grid <= s->sm_count && c.grid <= c.n_units);
    assert_true(c.warps >= 1 && c.warps <= SKINNY_WARPS_MAX);
    assert_int_equal(c.unit_tiles, s->gated ? 2 : 1);
    assert_true(c.warps * columns <= 256); /* rows of a box that the copy engine brings */
    assert_true(c.span == 1 ||
                s->in % SKINNY_CHUNK == 0); /* boxes of several chunks hold whole ones */
    assert_true(c.stages >= 3 && c.stages <= SKINNY_STAGES_MAX);
    assert_true(c.chunk_bytes % SKINNY_TILE_BYTES == 0 && c.x_bytes % SKINNY_TILE_BYTES == 0);
    assert_true(2 * 1024 + c.x_bytes + (size_t)c.stages * c.chunk_bytes * (size_t)c.span <=
                c.shared_bytes);
    assert_true(c.shared_bytes <= SKINNY_SHARED_MAX);
    /* The last pass of the fullest block is not much emptier than the others. */
    int units = divide_up(c.n_units, c.grid), passes = divide_up(units, c.warps);
    assert_true(passes * c.warps - units < passes);
}

static void every_cut_fits(void **state)
{
    (void)state;
    for (int rows = 1; rows <= SKINNY_ROWS_MAX; rows++)
        for (int in = 8; in <= 32768; in += in < 64 ? 8 : in / 3 / 8 * 8)
            for (int n = 1; n <= 200000; n += 1 + n / 3)
                for (int gated = 0; gated < 2; gated++) {
                    struct matmul_shape s = shape(rows, in, n);
                    s.gated = gated;
                    check_cut(&s);
                }
}

static void check_tile(int rows, int n, bool gated, int want_rows, int want_columns)
{
    const struct matmul_tile t = matmul_choose_tile(WIDE_16_BITS, rows, n, gated, 132);
    assert_int_equal(t.rows, want_rows);
    assert_int_equal(t.columns, want_columns);
}

static void tiles_fill_their_last_wave(void **state)
{
    (void)state;
    check_tile(256, 4096, false, 128, 64); /* 128 tiles of 132 */
    check_tile(512, 4096, false, 128, 128);
    check_tile(512, 6144, false, 128, 192); /* 128, where 256 columns are 96 of 132 */
    check_tile(512, 5120, false, 128, 160);
    check_tile(256, 6144, false, 128, 96);
    check_tile(256, 14336, true, 128, 224); /* 256 in two waves, where 256 columns are 224 */
    check_tile(384, 4096, false, 128, 96);  /* 129 */
    check_tile(300, 8192, false, 128, 192);
    check_tile(640, 4096, false, 128, 160); /* 130 */
    check_tile(8192, 14336, true, 128, 256);
    check_tile(8192, 4096, false, 128, 256);
}

static void low_tiles_are_for_one_wave(void **state)
{
    (void)state;
    check_tile(64, 4096, false, 64, 64);
    check_tile(128, 4096, false, 64, 64);  /* 128 of 132 */
    check_tile(128, 6144, false, 128, 64); /* 96, where 64 rows are 192 */
}

static bool has_kernel_8(const struct matmul_tile *t, int rows, bool gated)
{
    if (gated)
        return t->rows == 128 && (t->columns == 128 || t->columns == 256);
    return (t->rows == 128 && (t->columns == 64 || t->columns == 128 || t->columns == 256)) ||
           (t->rows == 64 && t->columns == 64 && rows <= 128);
}

static bool has_kernel_16(const struct matmul_tile *t, int rows, bool gated)
{
    if (gated)
        return t->rows == 128 && (t->columns == 128 || t->columns == 224 || t->columns == 256);
    if (t->columns % 64 == 32 || t->columns == 192)
        return t->rows == 128 && t->columns <= 192;
    return t->rows == 128 || (t->rows == 64 && t->columns == 64 && rows <= 128);
}

static void every_tile_has_a_kernel(void **state)
{
    (void)state;
    for (int rows = 33; rows < 3000; rows += 1 + rows / 7)
        for (int n = 8; n < 40000; n += 8 * (1 + n / 40))
            for (int gated = 0; gated < 2; gated++) {
                struct matmul_tile t = matmul_choose_tile(WIDE_16_BITS, rows, n, gated, 132);
                assert_true(has_kernel_16(&t, rows, gated));
                t = matmul_choose_tile(WIDE_8_BITS, rows, n, gated, 78);
                assert_true(has_kernel_8(&t, rows, gated));
            }
}

static bool chooses_heads(struct matmul_shape s, struct heads_shape h)
{
    const struct matmul_choice c = choose(s);
    return heads_choose(&c, &h);
}

static void products_of_few_rows_end_in_the_cache(void **state)
{
    (void)state;
    const struct heads_shape llama = {
        .head_dim = 64, .rope_dims = 64, .cache_is_act = true, .aligned = true};
    assert_true(chooses_heads(shape(1, 2048, 3072), llama));
    assert_true(chooses_heads(shape(32, 2048, 3072), llama));
    assert_false(chooses_heads(shape(33, 2048, 3072), llama));
    assert_false(chooses_heads(shape(1, 2056, 3072), llama)); /* no whole chunks */
    struct heads_shape other[5] = {llama, llama, llama, llama, llama};
    other[0].rope_dims = 32; /* half a head on are other pairs */
    other[1].has_norm = true;
    other[2].cache_is_act = false;
    other[3].aligned = false;
    other[4].head_dim = other[4].rope_dims = 20;
    for (size_t i = 0; i < sizeof other / sizeof other[0]; i++)
        assert_false(chooses_heads(shape(1, 2048, 3072), other[i]));
}

/* The kernels there are for it. */
static void stages_of_whole_chunks_have_several(void **state)
{
    (void)state;
    for (int rows = 1; rows <= SKINNY_ROWS_MAX; rows++)
        for (int in = SKINNY_CHUNK; in <= 32768; in += SKINNY_CHUNK)
            for (int n = 64; n <= 20000; n += 64 * 3)
                assert_true(choose(shape(rows, in, n)).span > 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_decide_the_kernel),
        cmocka_unit_test(other_devices_get_tiles),
        cmocka_unit_test(small_x_stays_and_is_normalised),
        cmocka_unit_test(every_cut_fits),
        cmocka_unit_test(tiles_fill_their_last_wave),
        cmocka_unit_test(low_tiles_are_for_one_wave),
        cmocka_unit_test(every_tile_has_a_kernel),
        cmocka_unit_test(products_of_few_rows_end_in_the_cache),
        cmocka_unit_test(stages_of_whole_chunks_have_several),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
