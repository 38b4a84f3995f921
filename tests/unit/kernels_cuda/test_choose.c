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
    assert_true(c.span == 1 || s->in % SKINNY_CHUNK == 0); /* boxes of several chunks hold whole ones */
    assert_true(c.stages >= 3 && c.stages <= SKINNY_STAGES_MAX);
    assert_true(c.chunk_bytes % SKINNY_TILE_BYTES == 0 && c.x_bytes % SKINNY_TILE_BYTES == 0);
    assert_true(2 * 1024 + c.x_bytes + (size_t)c.stages * c.chunk_bytes * (size_t)c.span <= c.shared_bytes);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_decide_the_kernel),
        cmocka_unit_test(other_devices_get_tiles),
        cmocka_unit_test(small_x_stays_and_is_normalised),
        cmocka_unit_test(every_cut_fits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
