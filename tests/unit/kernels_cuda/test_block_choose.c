/* What block_choose promises: a cut for every shape of few rows, whose warps are there, whose units
 * are all done, and whose shared memory fits an SM; and larger tiles for more work. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "kernels/cuda/block_choose.h"
#include "kernels/cuda/block_layout.h"

static void check(const struct block_shape *s)
{
    struct block_choice c;
    block_choose(&c, s);
    const int per_block = (c.n_units + c.grid - 1) / c.grid;
    assert_true(c.n_units * UNIT_ROWS >= s->n);
    assert_true(c.units >= 1 && c.units <= BLOCK_WARPS);
    assert_true(c.units * c.passes >= per_block);
    assert_true(8 * c.row_groups >= s->rows && c.row_groups <= 2);
    assert_true(c.span >= 1 && c.span <= BLOCK_SPAN_MAX);
    assert_true(c.stages >= 2 && c.stages <= BLOCK_STAGES_MAX);
    assert_true(c.shared_bytes <= BLOCK_SHARED_MAX);
    assert_int_equal(c.stage_bytes % 1024, 0);
    assert_int_equal(c.w_bytes % 128, 0);
    assert_false(c.fuse_norm && (s->rows > BLOCK_NORM_ROWS_MAX || !s->has_norm));
}

static void every_shape_has_a_cut(void **state)
{
    (void)state;
    static const int in[] = {96, 576, 2048, 4096, 8192, 14336, 28672};
    static const int n[] = {8, 576, 2048, 4096, 6144, 14336, 28672, 128256};
    for (int f = DT_Q4_0; f <= DT_Q6_K; f++)
        for (int rows = 1; rows <= BLOCK_ROWS_MAX; rows++)
            for (size_t i = 0; i < sizeof in / sizeof in[0]; i++)
                for (size_t j = 0; j < sizeof n / sizeof n[0]; j++)
                    for (int gated = 0; gated < 2; gated++)
                        check(&(struct block_shape){.rows = rows,
                                                    .in = in[i],
                                                    .n = n[j],
                                                    .has_norm = true,
                                                    .gated = gated,
                                                    .tile_bytes = block_tile_bytes((enum dtype)f),
                                                    .sm_count = 132});
}

static void many_rows_take_large_tiles_and_few_rows_small_ones(void **state)
{
    (void)state;
    assert_int_equal(block_choose_tile(17, 4096, 4096, false, 132), BLOCK_TILE_64_64);
    assert_int_equal(block_choose_tile(8192, 14336, 4096, true, 132), BLOCK_TILE_256_128);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_shape_has_a_cut),
        cmocka_unit_test(many_rows_take_large_tiles_and_few_rows_small_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
