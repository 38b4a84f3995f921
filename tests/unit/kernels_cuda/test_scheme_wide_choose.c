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
    const struct scheme_wide_shape s = {rows, n, in, gated, codes, true, SMS};
    return scheme_wide_choose(&s);
}

static void the_choice_is_the_measured_best(void **state)
{
    (void)state;
    static const struct {
        int rows, n, in;
        enum scheme_wide_tile want; /* of all codes */
    } cases[] = {
        {64, 4096, 4096, SCHEME_TILE_64_32},     {64, 6144, 4096, SCHEME_TILE_64_64},
        {128, 4096, 4096, SCHEME_TILE_64_64},    {256, 4096, 4096, SCHEME_TILE_128_64},
        {512, 4096, 4096, SCHEME_TILE_128_128},  {4096, 4096, 4096, SCHEME_TILE_128_256},
        {128, 6144, 4096, SCHEME_TILE_128_64},   {128, 4096, 14336, SCHEME_TILE_64_64},
        {512, 6144, 4096, SCHEME_TILE_192_128},  {1024, 6144, 4096, SCHEME_TILE_128_256},
        {512, 4096, 14336, SCHEME_TILE_128_128}, {1024, 4096, 4096, SCHEME_TILE_128_256},
        {2048, 6144, 4096, SCHEME_TILE_128_256}, {4096, 4096, 14336, SCHEME_TILE_128_256},
        {192, 6144, 4096, SCHEME_TILE_192_64},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int codes = 0; codes < SCHEME_WIDE_CODES; codes++)
            assert_int_equal(chosen(cases[i].rows, cases[i].n, cases[i].in, false, codes),
                             cases[i].want);
}

/* 96 tiles of 128 by 128 leave a quarter of the SMs idle, and with 8 bits are as quick as 128 of 192
 * by 64 (23.4 us) and quicker at the power limit (26.4 for 29.4); with 4 they are slower. */
static void codes_of_8_bits_take_fewer_tiles(void **state)
{
    (void)state;
    for (int codes = 0; codes < SCHEME_WIDE_CODES; codes++)
        assert_int_equal(chosen(256, 6144, 4096, false, codes),
                         codes == SCHEME_WIDE_8_BITS ? SCHEME_TILE_128_128 : SCHEME_TILE_192_64);
}

static void a_gated_product_fills_its_waves(void **state)
{
    (void)state;
    static const struct {
        int rows;
        enum scheme_wide_tile want;
    } cases[] = {
        {65, SCHEME_TILE_128_128},
        {128, SCHEME_TILE_128_128},
        {256, SCHEME_TILE_128_256},
        {512, SCHEME_TILE_128_256},
        {1024, SCHEME_TILE_128_256},
        {2048, SCHEME_TILE_128_256},
        {4096, SCHEME_TILE_128_256},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int codes = 0; codes < SCHEME_WIDE_CODES; codes++)
            assert_int_equal(chosen(cases[i].rows, 14336, 4096, true, codes), cases[i].want);
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

/* One wave and a little: whole tiles alone would pay two, and 192 by 128 was the better.  Three
 * waves of 192 by 64, where they have all tiles, are less than a wave and its halves; of 8 bits the
 * last of them are the same. */
static void a_rest_in_halves_keeps_the_largest_tile(void **state)
{
    (void)state;
    for (int rest = 1; rest <= SMS; rest++)
        for (int codes = 0; codes < SCHEME_WIDE_CODES; codes++) {
            const int n = (SMS + rest) * 128, small = (n + 191) / 192 * 4;
            const enum scheme_wide_tile tile = chosen(256, n, 4096, false, codes);
            if (small <= 3 * SMS && (codes != SCHEME_WIDE_8_BITS || rest <= 12))
                assert_int_equal(tile, SCHEME_TILE_192_64);
            else
                assert_int_equal(tile, SCHEME_TILE_128_256);
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

/* By turns only where a tile of k has one chain, and k enough of them. */
static void turns_are_taken_where_there_are_some(void **state)
{
    (void)state;
    struct scheme_wide_shape s = {64, 4096, 4096, false, SCHEME_WIDE_4_BITS, true, SMS};
    assert_true(scheme_wide_takes_turns(scheme_wide_choose(&s)));
    s.one_chain = false;
    assert_false(scheme_wide_takes_turns(scheme_wide_choose(&s)));
    s.one_chain = true;
    s.gated = true;
    assert_false(scheme_wide_takes_turns(scheme_wide_choose(&s)));
    s.gated = false;
    for (s.in = 64; s.in <= 8192; s.in += 64) {
        assert_int_equal(scheme_wide_has_turns(s.in), s.in > 2 * SCHEME_TURN_COLUMNS);
        assert_true(scheme_wide_has_turns(s.in) ||
                    !scheme_wide_takes_turns(scheme_wide_choose(&s)));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_choice_is_the_measured_best),
        cmocka_unit_test(codes_of_8_bits_take_fewer_tiles),
        cmocka_unit_test(a_gated_product_fills_its_waves),
        cmocka_unit_test(halves_end_where_one_wave_has_them_all),
        cmocka_unit_test(a_rest_in_halves_keeps_the_largest_tile),
        cmocka_unit_test(a_product_has_the_tile_it_is_given),
        cmocka_unit_test(few_rows_take_small_tiles),
        cmocka_unit_test(turns_are_taken_where_there_are_some),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
