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
        {512, 6144, 4096, SCHEME_TILE_192_128},  {1024, 6144, 4096, SCHEME_TILE_128_256},
        {128, 4096, 14336, SCHEME_TILE_128_32},  {512, 4096, 14336, SCHEME_TILE_128_128},
        {1024, 4096, 4096, SCHEME_TILE_128_256}, {2048, 6144, 4096, SCHEME_TILE_128_256},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int book = 0; book <= 1; book++)
            assert_int_equal(
                scheme_wide_choose(cases[i].rows, cases[i].n, cases[i].in, false, book, SMS),
                cases[i].want);
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
        {512, {SCHEME_TILE_128_256, SCHEME_TILE_128_256}},
        {1024, {SCHEME_TILE_128_256, SCHEME_TILE_128_256}},
        {2048, {SCHEME_TILE_128_256, SCHEME_TILE_128_256}},
        {4096, {SCHEME_TILE_128_256, SCHEME_TILE_128_256}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int book = 0; book <= 1; book++)
            assert_int_equal(scheme_wide_choose(cases[i].rows, 14336, 4096, true, book, SMS),
                             cases[i].want[book]);
}

static void halves_end_where_one_wave_has_them_all(void **state)
{
    (void)state;
    static const struct {
        int n_tiles, whole;
    } cases[] = {
        {1, 1},
        {SMS - 1, SMS - 1}, /* no whole wave */
        {SMS, SMS},
        {2 * SMS, 2 * SMS}, /* no rest */
        {SMS + 1, SMS},
        {448, 3 * SMS}, /* 512 rows of 28672 weights: 104 halves */
        {192, SMS},     /* 1024 of 6144: 120 */
        {2 * SMS + SMS / 2, 2 * SMS},
        {2 * SMS + SMS / 2 + 1, 2 * SMS + SMS / 2 + 1}, /* two waves of halves are no less */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(scheme_wide_whole(cases[i].n_tiles, SMS), cases[i].whole);
    for (int sms = 1; sms <= 20; sms++)
        for (int n = 1; n <= 100; n++) {
            const int whole = scheme_wide_whole(n, sms), halves = 2 * (n - whole);
            assert_true(whole <= n && halves <= sms && (halves == 0 || whole % sms == 0));
            assert_true(whole > 0);
        }
}

/* One wave and a little: whole tiles alone would pay two, and 192 by 128 was the better. */
static void a_rest_in_halves_keeps_the_largest_tile(void **state)
{
    (void)state;
    for (int rest = 1; rest <= SMS; rest++)
        for (int book = 0; book <= 1; book++)
            assert_int_equal(scheme_wide_choose(256, (SMS + rest) * 128, 4096, false, book, SMS),
                             SCHEME_TILE_128_256);
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
        cmocka_unit_test(halves_end_where_one_wave_has_them_all),
        cmocka_unit_test(a_rest_in_halves_keeps_the_largest_tile),
        cmocka_unit_test(a_product_has_the_tile_it_is_given),
        cmocka_unit_test(few_rows_take_small_tiles),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
