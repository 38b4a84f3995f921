/* What scheme_wide_choose promises: the tile that was measured best where they differ, and one that
 * the product has. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "kernels/cuda/scheme_wide_choose.h"

enum { SMS = 132 };

static enum scheme_wide_tile chosen(int rows, int n, int in, bool gated,
                                    enum scheme_wide_codes codes)
{
    const struct scheme_wide_shape s = {rows, n, in, gated, codes, SMS};
    return scheme_wide_choose(&s);
}

struct choice {
    int rows, n, in;
    enum scheme_wide_tile want; /* of all codes */
};

static void assert_choices(const struct choice *c, size_t n, bool gated)
{
    for (size_t i = 0; i < n; i++)
        for (int codes = 0; codes < SCHEME_WIDE_CODES; codes++)
            assert_int_equal(chosen(c[i].rows, c[i].n, c[i].in, gated, codes), c[i].want);
}

/* Where one tile was ahead of all others by 3 % and more with most codes, or is at the power
 * limit. */
static void the_choice_is_the_measured_best(void **state)
{
    (void)state;
    static const struct choice cases[] = {
        {17, 4096, 4096, SCHEME_TILE_64_32},      {64, 4096, 14336, SCHEME_TILE_64_32},
        {64, 6144, 4096, SCHEME_TILE_64_64},      {64, 28672, 4096, SCHEME_TILE_128_64},
        {65, 4096, 4096, SCHEME_TILE_64_64},      {65, 6144, 4096, SCHEME_TILE_64_128},
        {128, 4096, 4096, SCHEME_TILE_64_64},     {128, 4096, 14336, SCHEME_TILE_64_64},
        {128, 6144, 4096, SCHEME_TILE_64_128},    {128, 28672, 4096, SCHEME_TILE_128_128},
        {144, 4096, 4096, SCHEME_TILE_64_128},    {160, 6144, 4096, SCHEME_TILE_64_160},
        {192, 6144, 4096, SCHEME_TILE_192_64},    {192, 28672, 4096, SCHEME_TILE_128_192},
        {256, 4096, 4096, SCHEME_TILE_64_128},    {256, 4096, 14336, SCHEME_TILE_64_128},
        {320, 4096, 14336, SCHEME_TILE_64_160},   {320, 6144, 4096, SCHEME_TILE_128_64},
        {512, 4096, 4096, SCHEME_TILE_128_128},   {512, 4096, 14336, SCHEME_TILE_128_128},
        {512, 6144, 4096, SCHEME_TILE_192_128},   {640, 6144, 4096, SCHEME_TILE_128_128},
        {768, 4096, 4096, SCHEME_TILE_128_192},   {768, 6144, 4096, SCHEME_TILE_192_64},
        {1024, 4096, 4096, SCHEME_TILE_128_256},  {1024, 6144, 4096, SCHEME_TILE_128_256},
        {4096, 4096, 14336, SCHEME_TILE_128_256}, {4096, 28672, 4096, SCHEME_TILE_128_256},
    };
    assert_choices(cases, sizeof cases / sizeof cases[0], false);
}

/* 448 tiles of 512 rows are three waves and one of halves. */
static void a_gated_product_fills_its_waves(void **state)
{
    (void)state;
    static const struct choice cases[] = {
        {64, 14336, 4096, SCHEME_TILE_128_64},   {65, 14336, 4096, SCHEME_TILE_128_128},
        {128, 14336, 4096, SCHEME_TILE_128_128}, {144, 14336, 4096, SCHEME_TILE_128_192},
        {192, 14336, 4096, SCHEME_TILE_128_192}, {256, 14336, 4096, SCHEME_TILE_128_256},
        {512, 14336, 4096, SCHEME_TILE_128_256}, {640, 14336, 4096, SCHEME_TILE_128_128},
        {768, 14336, 4096, SCHEME_TILE_128_256}, {4096, 14336, 4096, SCHEME_TILE_128_256},
    };
    assert_choices(cases, sizeof cases / sizeof cases[0], true);
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

/* One wave and a little: whole tiles alone would pay two.  Three waves of 192 by 64, where they
 * have all tiles, are less than a wave and its halves. */
static void a_rest_in_halves_keeps_the_largest_tile(void **state)
{
    (void)state;
    for (int rest = 1; rest <= SMS; rest++)
        for (int codes = 0; codes < SCHEME_WIDE_CODES; codes++) {
            const int n = (SMS + rest) * 128, small = (n + 191) / 192 * 4;
            assert_int_equal(chosen(256, n, 4096, false, codes),
                             small <= 3 * SMS ? SCHEME_TILE_192_64 : SCHEME_TILE_128_256);
        }
}

static void a_product_has_the_tile_it_is_given(void **state)
{
    (void)state;
    for (int gated = 0; gated <= 1; gated++)
        for (int rows = 1; rows <= 8192; rows += rows < 300 ? 1 : 511)
            for (int codes = 0; codes < SCHEME_WIDE_CODES; codes++)
                assert_true(scheme_wide_has(chosen(rows, 14336, 4096, gated, codes), gated));
}

static void few_rows_take_small_tiles(void **state)
{
    (void)state;
    for (int rows = 1; rows <= 32; rows++)
        for (int codes = 0; codes < SCHEME_WIDE_CODES; codes++) {
            assert_int_equal(chosen(rows, 4096, 4096, false, codes), SCHEME_TILE_64_32);
            assert_int_equal(chosen(rows, 28672, 4096, false, codes),
                             codes == SCHEME_WIDE_BOOK ? SCHEME_TILE_128_64 : SCHEME_TILE_128_32);
        }
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
