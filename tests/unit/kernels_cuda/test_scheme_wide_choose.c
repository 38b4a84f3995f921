/* What scheme_wide_choose promises: the tile that was measured best where they differ, and one that
 * the product has. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "kernels/cuda/scheme_wide_choose.h"

enum { SMS = 132 };

static void the_choice_is_the_measured_best(void **state)
{
    (void)state;
    static const struct {
        int rows, n, in;
        enum scheme_wide_tile want; /* whether codes are looked up or not */
    } cases[] = {
        {128, 4096, 4096, SCHEME_TILE_128_32},   {256, 4096, 4096, SCHEME_TILE_128_64},
        {512, 4096, 4096, SCHEME_TILE_128_128},  {4096, 4096, 4096, SCHEME_TILE_128_256},
        {128, 6144, 4096, SCHEME_TILE_128_64},   {256, 6144, 4096, SCHEME_TILE_128_128},
        {512, 6144, 4096, SCHEME_TILE_192_128},  {1024, 6144, 4096, SCHEME_TILE_192_128},
        {128, 4096, 14336, SCHEME_TILE_128_32},  {512, 4096, 14336, SCHEME_TILE_128_128},
        {1024, 4096, 4096, SCHEME_TILE_128_256}, {2048, 6144, 4096, SCHEME_TILE_128_256},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int book = 0; book <= 1; book++)
            assert_int_equal(
                scheme_wide_choose(cases[i].rows, cases[i].n, cases[i].in, false, book, SMS),
                cases[i].want);
    assert_int_equal(scheme_wide_choose(512, 28672, 4096, false, false, SMS), SCHEME_TILE_128_128);
    assert_int_equal(scheme_wide_choose(512, 28672, 4096, false, true, SMS), SCHEME_TILE_128_256);
}

static void a_gated_product_fills_its_waves(void **state)
{
    (void)state;
    static const struct {
        int rows;
        enum scheme_wide_tile want[2]; /* of integers, and of codes that are looked up */
    } cases[] = {
        {65, {SCHEME_TILE_128_128, SCHEME_TILE_128_128}},
        {128, {SCHEME_TILE_128_128, SCHEME_TILE_128_128}},
        {256, {SCHEME_TILE_128_256, SCHEME_TILE_128_256}},
        {512, {SCHEME_TILE_128_128, SCHEME_TILE_128_256}},
        {1024, {SCHEME_TILE_128_256, SCHEME_TILE_128_256}},
        {2048, {SCHEME_TILE_128_256, SCHEME_TILE_128_256}},
        {4096, {SCHEME_TILE_128_256, SCHEME_TILE_128_256}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int book = 0; book <= 1; book++)
            assert_int_equal(scheme_wide_choose(cases[i].rows, 14336, 4096, true, book, SMS),
                             cases[i].want[book]);
}

static void a_product_has_the_tile_it_is_given(void **state)
{
    (void)state;
    for (int gated = 0; gated <= 1; gated++)
        for (int rows = 1; rows <= 8192; rows += rows < 300 ? 1 : 511)
            for (int book = 0; book <= 1; book++)
                assert_true(scheme_wide_has(scheme_wide_choose(rows, 14336, 4096, gated, book, SMS),
                                            gated));
}

static void few_rows_take_small_tiles(void **state)
{
    (void)state;
    for (int rows = 1; rows <= 32; rows++)
        for (int book = 0; book <= 1; book++)
            assert_int_equal(scheme_wide_choose(rows, 4096, 4096, false, book, SMS),
                             SCHEME_TILE_128_32);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_choice_is_the_measured_best),
        cmocka_unit_test(a_gated_product_fills_its_waves),
        cmocka_unit_test(a_product_has_the_tile_it_is_given),
        cmocka_unit_test(few_rows_take_small_tiles),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
