/* What scheme_choose promises: a cut for every shape of few rows, whose warps are there, whose
 * units are all done, and whose shared memory fits an SM, once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "kernels/cuda/scheme_choose.h"
#include "kernels/cuda/scheme_layout.h"

static struct scheme_shape shape(const struct scheme *s, int rows, int in, int n, bool gated)
{
    struct scheme_layout l;
    scheme_layout(&l, s, in);
    return (struct scheme_shape){.rows = rows,
                                 .in = in,
                                 .n = n,
                                 .has_norm = true,
                                 .gated = gated,
                                 .bits = l.bits,
                                 .chains = l.chains,
                                 .has_book = l.kind == KIND_CODEBOOK,
                                 .tile_bytes = l.tile_bytes,
                                 .is_rare = l.parts == 4,
                                 .sm_count = 132};
}

static void check(const struct scheme_shape *s, const struct scheme_choice *c)
{
    const int per_block = (c->n_units + c->grid - 1) / c->grid;
    assert_true(c->n_units * UNIT_ROWS >= s->n);
    assert_true(c->units * c->ways_k * c->ways_rows <= c->warps);
    assert_true(c->warps == SCHEME_WARPS_MANY ||
                (s->rows <= SCHEME_FEW_ROWS && c->row_groups * (s->gated ? 2 : 1) <= 2));
    assert_true(c->units * c->passes >= per_block);
    assert_true(8 * c->row_groups * c->ways_rows >= s->rows);
    assert_true(c->row_groups == 1 || c->row_groups == 2 || c->row_groups == 4);
    assert_int_equal(c->span, c->in_hand * c->ways_k);
    assert_true(c->stages >= SCHEME_STAGES_LEAST && c->stages <= SCHEME_STAGES_MAX);
    assert_true(c->shared_bytes <= SCHEME_SHARED_MAX + c->book_bytes);
    assert_true(c->book_bytes == (s->has_book ? SCHEME_BOOK_BYTES : 0));
    assert_true(2 * c->pairs >= (s->rows < 8 ? s->rows : 8));
    if (c->norm_at)
        assert_true(c->fuse_norm && c->x_bytes >= c->norm_at + (uint32_t)s->in * 4);
    assert_int_equal(c->stage_bytes % 1024, 0);
    assert_int_equal(c->exchange_bytes % 1024, 0);
    assert_false(c->fuse_norm && s->rows > SCHEME_NORM_ROWS_MAX);
    assert_true((c->exchange_bytes > 0) == (c->ways_k > 1));
    assert_true(c->ways_k == 1 || (!s->is_rare && c->row_groups <= 2));
}

static void every_shape_has_a_cut(void **state)
{
    (void)state;
    static const struct scheme schemes[] = {
        {.codes = DT_INT4, .group = 128, .scale = DT_F16, .has_zero = true},
        {.codes = DT_INT4, .group = 32, .scale = DT_F16, .has_zero = true},
        {.codes = DT_NF4, .group = 64},
        {.codes = DT_NF4, .group = 32},
        {.codes = DT_INT8},
        {.codes = DT_INT8, .group = 32, .scale = DT_F16, .has_zero = true},
    };
    static const int in[] = {96, 576, 2048, 4096, 8192, 14336, 28672};
    static const int n[] = {8, 576, 2048, 4096, 6144, 14336, 28672, 128256};
    for (size_t k = 0; k < sizeof schemes / sizeof schemes[0]; k++)
        for (int rows = 1; rows <= SCHEME_ROWS_MAX; rows++)
            for (size_t i = 0; i < sizeof in / sizeof in[0]; i++)
                for (size_t j = 0; j < sizeof n / sizeof n[0]; j++)
                    for (int gated = 0; gated < 2; gated++) {
                        const struct scheme_shape s = shape(&schemes[k], rows, in[i], n[j], gated);
                        struct scheme_choice c;
                        scheme_choose(&c, &s);
                        check(&s, &c);
                    }
}

static struct scheme_choice choice(const struct scheme *s, int rows, int in, int n, bool gated)
{
    const struct scheme_shape of = shape(s, rows, in, n, gated);
    struct scheme_choice c;
    scheme_choose(&c, &of);
    return c;
}

/* An SM's four parts share its warps: three of each, or four but for two. */
static void one_token_keeps_all_warps_busy(void **state)
{
    (void)state;
    static const struct scheme int4 = {.codes = DT_INT4, .group = 128, .scale = DT_F16};
    static const struct {
        int in, n, workers;
        bool gated;
    } of[] = {{4096, 6144, 12, false},
              {4096, 4096, 16, false},
              {4096, 14336, 14, true},
              {4096, 128256, 16, false}};
    for (size_t i = 0; i < sizeof of / sizeof of[0]; i++) {
        const struct scheme_choice c = choice(&int4, 1, of[i].in, of[i].n, of[i].gated);
        assert_int_equal(c.units * c.ways_k * c.ways_rows, of[i].workers);
        assert_true(c.resident && c.fuse_norm);
        assert_true(c.stages >= SCHEME_STAGES_WANTED);
    }
}

/* A second block of the same product beside it would leave another SM without one. */
static void a_block_has_an_sm_to_itself(void **state)
{
    (void)state;
    static const struct scheme int4 = {.codes = DT_INT4, .group = 128, .scale = DT_F16},
                               int8 = {.codes = DT_INT8}, nf4 = {.codes = DT_NF4, .group = 64};
    static const struct scheme *const all[] = {&int4, &int8, &nf4};
    enum { SM_BYTES = 228 * 1024, OF_A_BLOCK = 1024 };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        for (int rows = 1; rows <= 32; rows++) {
            assert_true(2 * (choice(all[i], rows, 4096, 4096, false).shared_bytes + OF_A_BLOCK) >
                        SM_BYTES);
            assert_true(2 * (choice(all[i], rows, 4096, 14336, true).shared_bytes + OF_A_BLOCK) >
                        SM_BYTES);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_shape_has_a_cut),
        cmocka_unit_test(one_token_keeps_all_warps_busy),
        cmocka_unit_test(a_block_has_an_sm_to_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
