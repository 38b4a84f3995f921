/* What units promise: every code, zero point and scale is found again, rows that were packed apart
 * lie as rows that were packed together, and a matrix takes what the memory plan says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/scheme_layout.h"
#include "kernels/cuda/weight_layout.h"
#include "kernels/half.h"

static const struct form {
    const char *name;
    struct scheme scheme;
    double share_max; /* of the bytes in 16 bits, for a wide matrix */
} forms[] = {
    {"int4", {.codes = DT_INT4, .group = 128, .scale = DT_F16}, 0.258},
    {"int4 asymmetric", {.codes = DT_INT4, .group = 128, .scale = DT_F16, .has_zero = true}, 0.262},
    {"int4 by 32", {.codes = DT_INT4, .group = 32, .scale = DT_BF16}, 0.282},
    {"int4 by 96", {.codes = DT_INT4, .group = 96, .scale = DT_F16}, 0.282},
    {"int4 by 256", {.codes = DT_INT4, .group = 256}, 0.258},
    {"int4 rows", {.codes = DT_INT4, .has_zero = true}, 0.255},
    {"int8 rows", {.codes = DT_INT8}, 0.501},
    {"int8 rows asymmetric", {.codes = DT_INT8, .has_zero = true}, 0.509},
    {"int8 by 128 asymmetric",
     {.codes = DT_INT8, .group = 128, .scale = DT_F16, .has_zero = true},
     0.516},
    {"nf4", {.codes = DT_NF4, .group = 64}, 0.2662},
    {"nf4 by 32", {.codes = DT_NF4, .group = 32, .scale = DT_BF16}, 0.282},
    {"nf4 by 256", {.codes = DT_NF4, .group = 256, .scale = DT_F16}, 0.2662},
    {"fp4", {.codes = DT_FP4, .group = 64, .nested = true}, 0.2662},
    {"fp4 rows", {.codes = DT_FP4}, 0.2662},
    {"fp8 rows", {.codes = DT_FP8}, 0.501},
};
enum { FORMS = sizeof forms / sizeof forms[0] };

static unsigned next_random(void)
{
    static uint64_t x = 88172645463325252ull;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return (unsigned)(x >> 33);
}

struct matrix {
    int64_t rows, cols;
    struct scheme_rows made;
};

static struct matrix make(const struct scheme *s, int64_t rows, int64_t cols)
{
    const size_t n = (size_t)(rows * cols), n_scales = (size_t)(rows * scheme_groups(s, cols));
    struct matrix m = {.rows = rows, .cols = cols};
    m.made.codes = malloc(n);
    m.made.scales = malloc(n_scales * sizeof(float));
    m.made.zeros = s->has_zero ? malloc(n_scales * sizeof(int16_t)) : NULL;
    for (size_t i = 0; i < n; i++) {
        const uint8_t c = (uint8_t)next_random();
        m.made.codes[i] = s->codes == DT_INT8 ? c : s->codes != DT_FP8 ? c & 15 : c & 0x77;
    }
    for (size_t i = 0; i < n_scales; i++) {
        m.made.scales[i] = f32_from_bf16(f32_to_bf16((float)(next_random() % 999 + 1) * 1e-4F));
        if (s->has_zero)
            m.made.zeros[i] = (int16_t)(next_random() % (s->codes == DT_INT4 ? 17 : 257));
    }
    return m;
}

static void drop(struct matrix *m)
{
    free(m->made.codes);
    free(m->made.scales);
    free(m->made.zeros);
}

static bool has_codebook(const struct scheme *s)
{
    return s->codes == DT_NF4 || s->codes == DT_FP4;
}

static float rounded(enum dtype act, float v)
{
    return act == DT_F16 ? f32_from_f16(f32_to_f16(v)) : f32_from_bf16(f32_to_bf16(v));
}

/* A codebook's, scaled up from where f16 has fewer bits. */
static float book_value(const struct scheme *s, enum dtype act, int code, float scale_up)
{
    const float book = s->codes == DT_NF4 ? scheme_nf4[code & 15] : scheme_fp4[code & 15];
    return rounded(act, rounded(act, book) * rounded(act, scale_up));
}

static bool is_value(const struct scheme *s, enum dtype act, int code, int zero, float scale,
                     float v, float by)
{
    if (has_codebook(s))
        return v * by == book_value(s, act, code, scale * 0x1p16F) * 0x1p-16F;
    return by == scale &&
           v == (s->codes == DT_FP8 ? scheme_e4m3((uint8_t)code) : (float)(code - zero));
}

static void check(const struct form *f, enum dtype act, int64_t rows, int64_t cols)
{
    const struct scheme *s = &f->scheme;
    struct matrix m = make(s, rows, cols);
    const int64_t groups = scheme_groups(s, cols);
    uint8_t *units = malloc(scheme_units_bytes(s, rows, cols));
    scheme_pack(s, act, cols, &m.made, rows, units);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++) {
            const int64_t g = r * groups + c / (cols / groups);
            const int zero = s->has_zero ? m.made.zeros[g] : s->codes == DT_INT4 ? 8 : 128;
            float scale;
            const float v = scheme_unpack(s, act, cols, units, r, c, &scale);
            if (!is_value(s, act, m.made.codes[r * cols + c], zero, m.made.scales[g], v, scale))
                fail_msg("%s: row %d, column %d: %g * %g", f->name, (int)r, (int)c, (double)v,
                         (double)scale);
        }
    free(units);
    drop(&m);
}

static void every_value_is_found_again(void **state)
{
    (void)state;
    static const int shapes[][2] = {{16, 128}, {40, 384}, {5, 768}, {33, 96}, {17, 1000}};
    for (int i = 0; i < FORMS; i++)
        for (size_t k = 0; k < sizeof shapes / sizeof shapes[0]; k++) {
            struct status st = {0};
            if (!scheme_check(&forms[i].scheme, shapes[k][1], &st))
                continue;
            check(&forms[i], DT_BF16, shapes[k][0], shapes[k][1]);
            check(&forms[i], DT_F16, shapes[k][0], shapes[k][1]);
        }
}

/* Rows whose scales are as small, as large and as far apart as floats may be; the error as a part
 * of the value, or of the row's largest where the block hardly counts in it. */
static void a_codebook_keeps_scales_of_any_size(void **state)
{
    (void)state;
    static const struct scheme s = {.codes = DT_NF4, .group = 64};
    static const float sizes[] = {0,     1e-24F, 1e-12F, 1e-8F, 1e-6F, 1e-5F,
                                  1e-4F, 0.01F,  1,      300,   1e5F,  1e24F};
    enum { COLS = 256, GROUPS = 4, SIZES = sizeof sizes / sizeof sizes[0] };
    struct matrix m = make(&s, SIZES, COLS);
    uint8_t *units = malloc(scheme_units_bytes(&s, SIZES, COLS));
    for (int r = 0; r < SIZES; r++)
        for (int g = 0; g < GROUPS; g++)
            m.made.scales[r * GROUPS + g] =
                sizes[r] * (0.37F + (float)(next_random() % 999) / 999) * powf(10, (float)(-3 * g));
    for (int f16 = 0; f16 < 2; f16++) {
        const float unit = 3 * (f16 ? 0x1p-11F : 0x1p-8F);
        scheme_pack(&s, f16 ? DT_F16 : DT_BF16, COLS, &m.made, SIZES, units);
        for (int i = 0; i < SIZES * COLS; i++) {
            float scale;
            const float v =
                scheme_unpack(&s, f16 ? DT_F16 : DT_BF16, COLS, units, i / COLS, i % COLS, &scale);
            const float want = m.made.scales[i / 64] * scheme_nf4[m.made.codes[i]];
            if (!(fabsf(v * scale - want) <= unit * fabsf(want) + 0x1p-38F * sizes[i / COLS]))
                fail_msg("f16 %d: %g, want %g", f16, (double)(v * scale), (double)want);
        }
    }
    free(units);
    drop(&m);
}

static void rows_may_be_packed_in_parts(void **state)
{
    (void)state;
    for (int i = 0; i < FORMS; i++) {
        const struct scheme *s = &forms[i].scheme;
        const struct tensor w = {.dtype = s->codes, .rows = 56, .cols = 768, .scheme = s};
        struct matrix m = make(s, w.rows, w.cols);
        const int64_t groups = scheme_groups(s, w.cols);
        const size_t n_bytes = weight_layout_units.bytes(&w);
        uint8_t *whole = malloc(n_bytes), *parts = malloc(n_bytes);
        scheme_pack(s, DT_BF16, w.cols, &m.made, w.rows, whole);
        for (int64_t first = 0; first < w.rows; first += 32) {
            const int64_t n = w.rows - first < 32 ? w.rows - first : 32;
            const struct scheme_rows from = {m.made.codes + first * w.cols,
                                             m.made.scales + first * groups,
                                             m.made.zeros ? m.made.zeros + first * groups : NULL};
            struct weight_piece piece[WEIGHT_PIECES_MAX];
            assert_int_equal(weight_layout_units.pieces(&w, first, n, piece), 1);
            assert_true(piece[0].at + piece[0].n_bytes <= n_bytes);
            void *const to[WEIGHT_PIECES_MAX] = {parts + piece[0].at};
            weight_layout_units.pack(&w, DT_BF16, &from, n, to);
        }
        assert_memory_equal(whole, parts, n_bytes);
        free(whole);
        free(parts);
        drop(&m);
    }
}

static void units_are_small_and_aligned(void **state)
{
    (void)state;
    for (int i = 0; i < FORMS; i++) {
        const int64_t rows = 4096, cols = forms[i].scheme.group == 96 ? 3072 : 4096;
        struct scheme_layout l;
        scheme_layout(&l, &forms[i].scheme, cols);
        assert_int_equal(l.tile_bytes % 16, 0);
        assert_int_equal(l.unit_bytes % 16, 0);
        const double share =
            (double)scheme_units_bytes(&forms[i].scheme, rows, cols) / (double)(rows * cols * 2);
        if (!(share <= forms[i].share_max))
            fail_msg("%s: %.4f of the bytes in 16 bits", forms[i].name, share);
    }
}

static void an_order_lies_behind_the_units(void **state)
{
    (void)state;
    struct scheme s = forms[0].scheme;
    const size_t units = scheme_weight_bytes(&s, 40, 384);
    s.ordered = true;
    assert_int_equal(scheme_weight_bytes(&s, 40, 384), units + 384 * sizeof(int32_t));
    assert_int_equal(scheme_units_bytes(&s, 40, 384) % sizeof(int32_t), 0);
}

static void wide_scales_keep_nine_bits(void **state)
{
    (void)state;
    for (int i = 0; i < 100000; i++) {
        const float v =
            ldexpf((float)(next_random() % 100000 + 100000), (int)(next_random() % 40) - 44);
        const float sign = i % 2 ? -1.0F : 1.0F;
        const float got = scale_wide_to_f32(scale_wide_from_f32(sign * v));
        assert_true(fabsf(got - sign * v) <= 0x1p-10F * v);
    }
    assert_true(scale_wide_to_f32(scale_wide_from_f32(0)) == 0);
    assert_true(scale_wide_to_f32(scale_wide_from_f32(0x1p-50F)) == 0x1p-50F);
    assert_true(scale_wide_to_f32(scale_wide_from_f32(1e30F)) > 5e5F);
}

static void kernels_decide_who_gets_units(void **state)
{
    (void)state;
    const struct tensor plain = {.dtype = DT_BF16, .rows = 16, .cols = 128};
    const struct tensor codes = {
        .dtype = DT_INT4, .rows = 16, .cols = 128, .scheme = &forms[0].scheme};
    assert_null(weight_layout_of(&plain, 90));
    assert_null(weight_layout_of(&codes, 80));
    assert_ptr_equal(weight_layout_of(&codes, 90), &weight_layout_units);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_value_is_found_again),
        cmocka_unit_test(a_codebook_keeps_scales_of_any_size),
        cmocka_unit_test(rows_may_be_packed_in_parts),
        cmocka_unit_test(units_are_small_and_aligned),
        cmocka_unit_test(an_order_lies_behind_the_units),
        cmocka_unit_test(wide_scales_keep_nine_bits),
        cmocka_unit_test(kernels_decide_who_gets_units),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
