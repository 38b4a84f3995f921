/* What scheme_wide_choose promises: the tile that was measured best where they differ, one that the
 * product has, and a plan in which workers have all tiles once. */
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
    return scheme_wide_choose(&s).tile;
}

static struct scheme_wide_cut alone_in(enum scheme_wide_tile tile)
{
    const struct scheme_wide_cut cut = {tile, 1};
    return cut;
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
        {48, 6144, 4096, SCHEME_TILE_64_48},      {64, 6144, 4096, SCHEME_TILE_64_64},
        {65, 4096, 4096, SCHEME_TILE_64_48},      {96, 4096, 14336, SCHEME_TILE_64_48},
        {65, 6144, 4096, SCHEME_TILE_64_80},      {96, 6144, 4096, SCHEME_TILE_64_96},
        {112, 4096, 14336, SCHEME_TILE_64_64},    {128, 4096, 4096, SCHEME_TILE_64_64},
        {128, 6144, 4096, SCHEME_TILE_64_128},    {144, 4096, 14336, SCHEME_TILE_64_80},
        {160, 4096, 4096, SCHEME_TILE_64_80},     {192, 4096, 4096, SCHEME_TILE_64_96},
        {224, 4096, 14336, SCHEME_TILE_64_112},   {256, 4096, 14336, SCHEME_TILE_64_128},
        {144, 6144, 4096, SCHEME_TILE_64_144},    {160, 6144, 4096, SCHEME_TILE_64_160},
        {176, 6144, 4096, SCHEME_TILE_64_176},    {192, 6144, 4096, SCHEME_TILE_128_96},
        {288, 4096, 4096, SCHEME_TILE_64_144},    {320, 4096, 14336, SCHEME_TILE_64_160},
        {352, 4096, 14336, SCHEME_TILE_64_176},   {384, 4096, 4096, SCHEME_TILE_128_96},
        {416, 4096, 4096, SCHEME_TILE_128_112},   {512, 4096, 4096, SCHEME_TILE_128_128},
        {512, 4096, 14336, SCHEME_TILE_128_128},  {704, 4096, 14336, SCHEME_TILE_128_176},
        {896, 4096, 4096, SCHEME_TILE_128_224},   {320, 6144, 4096, SCHEME_TILE_192_80},
        {384, 6144, 4096, SCHEME_TILE_192_96},    {512, 6144, 4096, SCHEME_TILE_192_128},
        {576, 6144, 4096, SCHEME_TILE_128_192},   {65, 28672, 4096, SCHEME_TILE_192_80},
        {144, 28672, 4096, SCHEME_TILE_128_144},  {160, 28672, 4096, SCHEME_TILE_128_160},
        {192, 28672, 4096, SCHEME_TILE_128_192},  {352, 28672, 4096, SCHEME_TILE_128_176},
        {768, 28672, 4096, SCHEME_TILE_128_256},  {1024, 4096, 4096, SCHEME_TILE_128_256},
        {4096, 4096, 14336, SCHEME_TILE_128_256}, {4096, 28672, 4096, SCHEME_TILE_128_256},
    };
    assert_choices(cases, sizeof cases / sizeof cases[0], false);
}

static void a_gated_product_fills_its_rows(void **state)
{
    (void)state;
    static const struct choice cases[] = {
        {48, 14336, 4096, SCHEME_TILE_128_48},    {64, 14336, 4096, SCHEME_TILE_128_64},
        {65, 14336, 4096, SCHEME_TILE_128_80},    {96, 14336, 4096, SCHEME_TILE_128_96},
        {112, 14336, 4096, SCHEME_TILE_128_112},  {128, 14336, 4096, SCHEME_TILE_128_128},
        {144, 14336, 4096, SCHEME_TILE_128_144},  {160, 14336, 4096, SCHEME_TILE_128_160},
        {192, 14336, 4096, SCHEME_TILE_128_192},  {224, 14336, 4096, SCHEME_TILE_128_224},
        {320, 14336, 4096, SCHEME_TILE_128_160},  {352, 14336, 4096, SCHEME_TILE_128_176},
        {448, 14336, 4096, SCHEME_TILE_128_224},  {512, 14336, 4096, SCHEME_TILE_128_256},
        {576, 14336, 4096, SCHEME_TILE_128_192},  {1024, 14336, 4096, SCHEME_TILE_128_256},
        {4096, 14336, 4096, SCHEME_TILE_128_256},
    };
    assert_choices(cases, sizeof cases / sizeof cases[0], true);
}

static void check_plan(const struct scheme_wide_plan *p, int row_tiles, int sms, int *n_sharing)
{
    assert_true(p->tiles > 0 && p->tiles % row_tiles == 0);
    assert_true(p->workers > 0 && p->workers * p->cluster <= sms && p->workers <= p->tiles);
    if (p->whole == p->tiles)
        return;
    const int left = p->tiles - p->whole;
    *n_sharing += 1;
    assert_true(p->whole >= 0 && p->whole % p->workers == 0);
    assert_true(left > p->workers && left < 2 * p->workers);
}

static void tiles_are_whole_or_one_to_two_a_worker(void **state)
{
    (void)state;
    static const int sms[] = {1, 4, 5, 114, SMS}, rows[] = {1, 33, 144, 320, 640, 1500, 2600, 5000},
                     widths[][2] = {
                         {208, 128}, {4096, 4096}, {6144, 4096}, {4096, 14336}, {28672, 640}};
    int n_sharing = 0;
    for (size_t m = 0; m < sizeof sms / sizeof sms[0]; m++)
        for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++)
            for (size_t w = 0; w < sizeof widths / sizeof widths[0]; w++)
                for (enum scheme_wide_tile tile = 0; tile < SCHEME_TILES; tile++) {
                    const bool gated = scheme_wide_has(tile, true) && r % 2;
                    const enum scheme_wide_codes codes = (r + w) % SCHEME_WIDE_CODES;
                    const struct scheme_wide_shape s = {rows[r], widths[w][0], widths[w][1],
                                                        gated,   codes,        sms[m]};
                    const struct scheme_wide_shape column = {rows[r], 16,    128,
                                                             false,   codes, sms[m]};
                    for (int cluster = 1; cluster <= 2 && cluster <= sms[m]; cluster++) {
                        const struct scheme_wide_cut cut = {tile, cluster};
                        const struct scheme_wide_plan p = scheme_wide_plan_of(cut, &s);
                        assert_int_equal(p.cluster, cluster);
                        check_plan(&p, scheme_wide_plan_of(cut, &column).tiles, sms[m], &n_sharing);
                    }
                }
    assert_true(n_sharing > 100);
}

/* Of the line's tiles: all columns once, and in order; a worker takes sums last, gives first, to
 * the next. */
static void check_line(const struct scheme_wide_plan *p, int n_k)
{
    enum { TILES_MAX = 2 * SMS };
    int done[TILES_MAX] = {0}, last_worker[TILES_MAX];
    const int left = p->tiles - p->whole;
    assert_true(left < TILES_MAX);
    for (int worker = 0; worker < p->workers; worker++) {
        int columns = 0, i = 0;
        bool took = false;
        for (; i < SCHEME_WIDE_PARTS; i++) {
            const struct scheme_wide_part part = scheme_wide_line_part(p, n_k, worker, i);
            if (part.first == part.end)
                break;
            const int tile = part.tile - p->whole, n = part.end - part.first;
            assert_true(tile >= 0 && tile < left && n > 0 && part.end <= n_k && !took);
            assert_true(n >= SCHEME_WIDE_PART_MIN || n == n_k);
            assert_int_equal(done[tile], part.first);
            took = part.first > 0;
            if (took)
                assert_int_equal(last_worker[tile], worker - 1);
            if (part.end < n_k)
                assert_int_equal(i, 0);
            done[tile] = part.end;
            last_worker[tile] = worker;
            columns += n;
        }
        assert_true(i < SCHEME_WIDE_PARTS); /* and none after them */
        assert_true(columns >= n_k && columns <= 2 * n_k);
    }
    for (int tile = 0; tile < left; tile++)
        assert_int_equal(done[tile], n_k);
}

static void the_line_has_each_column_once(void **state)
{
    (void)state;
    static const int n_ks[] = {1, 2, 3, 5, 6, 7, 32, 33, 112, 224};
    for (int workers = 1; workers <= SMS; workers++)
        for (int left = workers + 1; left < 2 * workers; left++)
            for (size_t k = 0; k < sizeof n_ks / sizeof n_ks[0]; k++)
                for (int waves = 0; waves <= 2; waves += 2) {
                    const int whole = waves * workers;
                    const struct scheme_wide_plan p = {whole + left, workers, whole, 1};
                    check_line(&p, n_ks[k]);
                }
}

static void without_a_line_a_worker_has_none_of_it(void **state)
{
    (void)state;
    const struct scheme_wide_plan alone = {3 * SMS + 1, SMS, 3 * SMS + 1, 1};
    for (int worker = 0; worker < SMS; worker++)
        for (int i = 0; i < SCHEME_WIDE_PARTS; i++) {
            const struct scheme_wide_part part = scheme_wide_line_part(&alone, 32, worker, i);
            assert_int_equal(part.first, part.end);
        }
}

/* One tile more than there are SMs is shared where k is long, and is a wave where it is short. */
static void a_few_tiles_more_are_shared(void **state)
{
    (void)state;
    for (int in = 128; in <= 16384; in *= 2) {
        const struct scheme_wide_shape s = {128,   (SMS + 1) * 128,    in,
                                            false, SCHEME_WIDE_4_BITS, SMS};
        const struct scheme_wide_plan p = scheme_wide_plan_of(alone_in(SCHEME_TILE_128_128), &s);
        assert_int_equal(p.tiles, SMS + 1);
        assert_int_equal(p.whole, in > 512 ? 0 : SMS + 1);
    }
}

/* 128 rows of an 8B's gate and up are 1.7 waves of integers, and 5 % slower shared. */
static void two_waves_of_the_gated_product_are_not_shared(void **state)
{
    (void)state;
    for (int codes = 0; codes < SCHEME_WIDE_BOOK; codes++) {
        const struct scheme_wide_shape s = {128, 14336, 4096, true, codes, SMS};
        const struct scheme_wide_plan p = scheme_wide_plan_of(alone_in(SCHEME_TILE_128_128), &s);
        assert_int_equal(p.tiles, 224);
        assert_int_equal(p.whole, 224);
    }
}

static int blocks_of(int rows, int n, int in, bool gated, enum scheme_wide_codes codes, int sms)
{
    const struct scheme_wide_shape s = {rows, n, in, gated, codes, sms};
    return scheme_wide_choose(&s).cluster;
}

/* Two blocks that share x are quicker by 1 to 4 % of a step, by the costs, but take 0.6 us to
 * begin. */
static void two_blocks_share_the_rows_of_large_products(void **state)
{
    (void)state;
    for (int codes = 0; codes < SCHEME_WIDE_CODES; codes++) {
        assert_int_equal(blocks_of(1024, 4096, 14336, false, codes, SMS), 2);
        for (int rows = 1; rows <= 96; rows++)
            assert_int_equal(blocks_of(rows, 28672, 4096, false, codes, SMS), 1);
        assert_int_equal(blocks_of(128, 4096, 4096, false, codes, SMS), 1);
        for (int rows = 128; rows <= 4096; rows *= 2)
            assert_int_equal(blocks_of(rows, 14336, 4096, true, codes, SMS), 2);
        assert_int_equal(blocks_of(1024, 4096, 14336, false, codes, 1), 1);
    }
}

/* Their tiles are half as many, each of twice the weights' rows. */
static void two_blocks_have_two_tiles(void **state)
{
    (void)state;
    const struct scheme_wide_cut two = {SCHEME_TILE_128_128, 2};
    for (int extra = 0; extra <= 1; extra++) {
        const struct scheme_wide_shape s = {128,   8 * 128 + extra,    4096,
                                            false, SCHEME_WIDE_4_BITS, SMS};
        const struct scheme_wide_plan p = scheme_wide_plan_of(two, &s);
        assert_int_equal(p.tiles, 4 + extra);
        assert_int_equal(p.workers, 4 + extra);
    }
    const struct scheme_wide_shape odd = {128, 7 * 128, 4096, false, SCHEME_WIDE_4_BITS, 5};
    const struct scheme_wide_plan p = scheme_wide_plan_of(two, &odd);
    assert_int_equal(p.tiles, 4);
    assert_int_equal(p.workers, 2); /* an SM is left over */
}

static void a_product_has_the_tile_it_is_given(void **state)
{
    (void)state;
    for (int gated = 0; gated <= 1; gated++)
        for (int rows = 1; rows <= 8192; rows += rows < 300 ? 1 : 511)
            for (int codes = 0; codes < SCHEME_WIDE_CODES; codes++)
                assert_true(scheme_wide_has(chosen(rows, 14336, 4096, gated, codes), gated));
}

/* One tile at its name's size, two a row of either more. */
static void a_tile_has_the_size_of_its_name(void **state)
{
    (void)state;
#define SIZE(WEIGHTS, ROWS) {SCHEME_TILE_##WEIGHTS##_##ROWS, WEIGHTS, ROWS},
    static const struct {
        enum scheme_wide_tile tile;
        int weights, rows;
    } all[] = {SCHEME_WIDE_TILES(SIZE)};
#undef SIZE
    assert_int_equal(sizeof all / sizeof all[0], SCHEME_TILES);
    for (int i = 0; i < SCHEME_TILES; i++) {
        assert_true(scheme_wide_has(all[i].tile, false));
        for (int more = 0; more < 3; more++) {
            const struct scheme_wide_shape s = {all[i].rows + (more == 1),
                                                all[i].weights + (more == 2),
                                                128,
                                                false,
                                                SCHEME_WIDE_4_BITS,
                                                SMS};
            assert_int_equal(scheme_wide_plan_of(alone_in(all[i].tile), &s).tiles, more ? 2 : 1);
        }
    }
}

static void tiles_of_gated_products_are_those_listed(void **state)
{
    (void)state;
#define HAS(WEIGHTS, ROWS) +scheme_wide_has(SCHEME_TILE_##WEIGHTS##_##ROWS, true)
#define ONE(WEIGHTS, ROWS) +1
    assert_int_equal(0 SCHEME_WIDE_GATED_TILES(HAS), 0 SCHEME_WIDE_GATED_TILES(ONE));
    assert_int_equal(0 SCHEME_WIDE_TILES(HAS), 0 SCHEME_WIDE_GATED_TILES(ONE));
#undef HAS
#undef ONE
}

static void few_rows_take_small_tiles(void **state)
{
    (void)state;
    for (int rows = 1; rows <= 32; rows++)
        for (int codes = 0; codes < SCHEME_WIDE_CODES; codes++) {
            assert_int_equal(chosen(rows, 4096, 4096, false, codes), SCHEME_TILE_64_32);
            assert_int_equal(chosen(rows, 28672, 4096, false, codes),
                             codes == SCHEME_WIDE_BOOK ? SCHEME_TILE_192_64 : SCHEME_TILE_128_32);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_choice_is_the_measured_best),
        cmocka_unit_test(a_gated_product_fills_its_rows),
        cmocka_unit_test(tiles_are_whole_or_one_to_two_a_worker),
        cmocka_unit_test(the_line_has_each_column_once),
        cmocka_unit_test(without_a_line_a_worker_has_none_of_it),
        cmocka_unit_test(a_few_tiles_more_are_shared),
        cmocka_unit_test(two_waves_of_the_gated_product_are_not_shared),
        cmocka_unit_test(two_blocks_share_the_rows_of_large_products),
        cmocka_unit_test(two_blocks_have_two_tiles),
        cmocka_unit_test(a_product_has_the_tile_it_is_given),
        cmocka_unit_test(a_tile_has_the_size_of_its_name),
        cmocka_unit_test(tiles_of_gated_products_are_those_listed),
        cmocka_unit_test(few_rows_take_small_tiles),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
