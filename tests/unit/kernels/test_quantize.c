/* Rows become the codes and scales that bitsandbytes and compressed-tensors make of them, bit for
 * bit (tests/golden/quantize), and codes stand for values near those they were made of. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "kernels/half.h"
#include "kernels/quantize.h"

enum { COLS_MAX = 512, GROUPS_MAX = COLS_MAX };

static const char *const schemes[] = {"int8", "nf4", "fp4", "int4", "int4:asymmetric", "fp8"};
enum { N_SCHEMES = sizeof schemes / sizeof *schemes };

struct row {
    uint8_t codes[COLS_MAX];
    float scales[GROUPS_MAX];
    int16_t zeros[GROUPS_MAX];
};

static struct scheme parse(const char *text)
{
    struct scheme s;
    struct status st = {0};
    assert_true(scheme_parse(&s, text, &st));
    return s;
}

static bool quantize(const struct scheme *s, const float *x, int64_t cols, struct row *to)
{
    return quantize_row(
        s, x, cols, &(struct scheme_rows){to->codes, to->scales, s->has_zero ? to->zeros : NULL});
}

/* ---- golden ---- */

struct reader {
    const uint8_t *at, *end;
    const char *name;
};

static const void *take(struct reader *r, size_t n)
{
    const uint8_t *at = r->at;
    assert_true((size_t)(r->end - at) >= n);
    r->at += n;
    return at;
}

/* The values of a record, as floats; the caller frees them. */
static float *take_values(struct reader *r, int32_t head[3])
{
    memcpy(head, take(r, 12), 12);
    const int64_t n = (int64_t)head[1] * head[2];
    const uint8_t *src = take(r, (size_t)n * 2);
    float *x = malloc((size_t)n * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, src + 2 * i, 2);
        x[i] = head[0] == 1 ? f32_from_f16(h) : f32_from_bf16(h);
    }
    return x;
}

static void expect_bytes(const char *what, const char *scheme, const void *got, const void *want,
                         size_t n)
{
    const uint8_t *g = got, *w = want;
    for (size_t i = 0; i < n; i++)
        if (g[i] != w[i])
            fail_msg("%s, %s: byte %zu: got %d, want %d", scheme, what, i, g[i], w[i]);
}

static void check_scheme(struct reader *r, const char *text, const float *x, const int32_t head[3])
{
    const struct scheme s = parse(text);
    const int64_t rows = head[1], cols = head[2], n_groups = scheme_groups(&s, cols);
    const uint8_t *codes = take(r, (size_t)(rows * cols));
    const uint8_t *scales = take(r, (size_t)(rows * n_groups) * sizeof(float));
    const uint8_t *zeros = s.has_zero ? take(r, (size_t)(rows * n_groups)) : NULL;
    for (int64_t i = 0; i < rows; i++) {
        static struct row got;
        assert_true(quantize(&s, x + i * cols, cols, &got));
        expect_bytes("codes", text, got.codes, codes + i * cols, (size_t)cols);
        expect_bytes("scales", text, got.scales, scales + i * n_groups * 4, (size_t)n_groups * 4);
        for (int64_t g = 0; zeros && g < n_groups; g++)
            assert_int_equal(got.zeros[g], zeros[i * n_groups + g]);
    }
}

static void check_nested(struct reader *r, const struct scheme *s, const float *x,
                         const int32_t head[3])
{
    const int64_t rows = head[1], cols = head[2], per = scheme_groups(s, cols), n = rows * per;
    float *scales = malloc((size_t)n * sizeof *scales);
    float *absmax = malloc((size_t)nested_blocks(n) * sizeof *absmax);
    uint8_t *codes = malloc((size_t)n);
    assert_true(scales && absmax && codes);
    for (int64_t i = 0; i < rows; i++)
        assert_true(quantize_row_scales(s, x + i * cols, cols, scales + i * per));
    struct nested nested = {.absmax = absmax};
    nested_make(&nested, scales, n);
    expect_bytes("offset", "nested", &nested.offset, take(r, 4), 4);
    for (int64_t i = 0; i < rows; i++)
        nested_round(&nested, i * per, per, scales + i * per, codes + i * per);
    expect_bytes("codes of scales", "nested", codes, take(r, (size_t)n), (size_t)n);
    expect_bytes("absmax", "nested", absmax, take(r, (size_t)nested_blocks(n) * 4),
                 (size_t)nested_blocks(n) * 4);
    expect_bytes("scales", "nested", scales, take(r, (size_t)n * 4), (size_t)n * 4);
    free(scales);
    free(absmax);
    free(codes);
}

static void codes_and_scales_are_those_of_the_libraries(void **state)
{
    (void)state;
    FILE *f = fopen("tests/golden/quantize/quantize.bin", "rb");
    assert_non_null(f);
    static uint8_t file[1 << 18];
    const size_t n = fread(file, 1, sizeof file, f);
    assert_true(n > 0 && n < sizeof file);
    fclose(f);
    struct reader r = {.at = file, .end = file + n};
    const struct scheme nested = parse("nf4:nested");
    for (int n_records = 0; r.at < r.end; n_records++) {
        int32_t head[3];
        float *x = take_values(&r, head);
        for (int i = 0; n_records < 10 && i < N_SCHEMES; i++)
            check_scheme(&r, schemes[i], x, head);
        if (n_records == 10)
            check_nested(&r, &nested, x, head);
        free(x);
    }
}

/* ---- properties ---- */

static uint64_t random_state = 88172645463325252u;

static double uniform(void) /* (0, 1) */
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return ((double)(random_state >> 11) + 0.5) * 0x1p-53;
}

static float normal(void)
{
    return (float)(sqrt(-2 * log(uniform())) * cos(6.283185307179586 * uniform()));
}

/* How far from a value its code may be: half the widest step between codes, in scales, and what
 * the arithmetic and the scale's rounding add. */
static double error_max(const struct scheme *s, float scale, float value)
{
    switch (s->codes) {
    case DT_NF4:
        return 0.153 * scale; /* between -1 and -0.696 */
    case DT_FP4:
        return 0.168 * scale; /* between 2/3 and 1 */
    case DT_FP8:
        return fabs((double)value) / 15.9 + scale * 0x1p-9;
    case DT_INT4:
        return 0.52 * scale; /* 8 steps up from zero are out of reach: 7.5 are rounded to 7 */
    default:
        return 0.501 * scale;
    }
}

static void codes_are_near_their_values(void **state)
{
    (void)state;
    for (int round = 0; round < 200; round++) {
        const struct scheme s = parse(schemes[round % N_SCHEMES]);
        const float size = ldexpf(1, round % 17 - 10);
        float x[COLS_MAX], got[COLS_MAX];
        static struct row to;
        for (int i = 0; i < COLS_MAX; i++)
            x[i] = size * normal();
        assert_true(quantize(&s, x, COLS_MAX, &to));
        scheme_dequantize_row(&s, &(struct scheme_rows){to.codes, to.scales, to.zeros}, COLS_MAX,
                              got);
        const int64_t width = COLS_MAX / scheme_groups(&s, COLS_MAX);
        for (int i = 0; i < COLS_MAX; i++)
            if (fabs((double)got[i] - (double)x[i]) > error_max(&s, to.scales[i / width], x[i]))
                fail_msg("%s: %a became %a, scale %a", schemes[round % N_SCHEMES], (double)x[i],
                         (double)got[i], (double)to.scales[i / width]);
    }
}

static void zeros_stay_zeros(void **state)
{
    (void)state;
    for (int k = 0; k < N_SCHEMES; k++) {
        const struct scheme s = parse(schemes[k]);
        const float x[COLS_MAX] = {0};
        float got[COLS_MAX];
        static struct row to;
        assert_true(quantize(&s, x, COLS_MAX, &to));
        scheme_dequantize_row(&s, &(struct scheme_rows){to.codes, to.scales, to.zeros}, COLS_MAX,
                              got);
        for (int i = 0; i < COLS_MAX; i++)
            assert_true(got[i] == 0);
    }
}

/* The others of its group vanish; those of other groups do not notice. */
static void one_huge_value_is_kept(void **state)
{
    (void)state;
    for (int k = 0; k < N_SCHEMES; k++) {
        const struct scheme s = parse(schemes[k]);
        const float huge = k == 3 || k == 4 ? 3e5F : 1e30F; /* f16 scales end at 65504 */
        float x[COLS_MAX], got[COLS_MAX];
        static struct row to;
        for (int i = 0; i < COLS_MAX; i++)
            x[i] = normal();
        x[3] = -huge;
        assert_true(quantize(&s, x, COLS_MAX, &to));
        scheme_dequantize_row(&s, &(struct scheme_rows){to.codes, to.scales, to.zeros}, COLS_MAX,
                              got);
        assert_true(fabsf(got[3] + huge) <= 0.07F * huge);
        assert_true(fabsf(got[4]) <= 0.004F * huge);
        if (s.group)
            assert_true(fabsf(got[COLS_MAX - 1] - x[COLS_MAX - 1]) < 0.6F);
    }
}

/* Where the scale's type ends, codes are clamped, not wrapped. */
static void beyond_the_scale_codes_are_clamped(void **state)
{
    (void)state;
    const struct scheme s = parse("int4");
    float x[COLS_MAX] = {0};
    static struct row to;
    x[0] = 1e30F;
    x[1] = -1e30F;
    assert_true(quantize(&s, x, COLS_MAX, &to));
    assert_true(to.scales[0] == 65504);
    assert_int_equal(to.codes[0], 15);
    assert_int_equal(to.codes[1], 0);
    assert_int_equal(to.codes[2], 8);
}

static void a_value_that_is_not_finite_is_told(void **state)
{
    (void)state;
    static const float bad[] = {NAN, -NAN, INFINITY, -INFINITY};
    for (int k = 0; k < N_SCHEMES; k++) {
        const struct scheme s = parse(schemes[k]);
        for (int i = 0; i < 4; i++) {
            float x[COLS_MAX], scales[GROUPS_MAX];
            static struct row to;
            for (int c = 0; c < COLS_MAX; c++)
                x[c] = normal();
            assert_true(quantize_row_scales(&s, x, COLS_MAX, scales));
            x[(size_t)(uniform() * COLS_MAX)] = bad[i];
            assert_false(quantize(&s, x, COLS_MAX, &to));
            assert_false(quantize_row_scales(&s, x, COLS_MAX, scales));
        }
    }
}

/* All 256 codes of E4M3, the middles between neighbours, and what is beyond. */
static void e4m3_is_rounded_to_nearest_even(void **state)
{
    (void)state;
    const struct scheme s = parse("fp8");
    for (int c = 0; c < 0x7e; c++) {
        const float low = scheme_e4m3((uint8_t)c), high = scheme_e4m3((uint8_t)(c + 1));
        const float middle = (low + high) / 2;
        const float x[6] = {448, low, high, middle, nextafterf(middle, 0), -middle};
        static struct row to;
        assert_true(quantize(&s, x, 6, &to));
        assert_true(to.scales[0] == 1);
        const int even = c % 2 == 0 ? c : c + 1;
        const int want[6] = {0x7e, c, c + 1, even, c, even | 0x80};
        for (int i = 0; i < 6; i++)
            if (to.codes[i] != want[i])
                fail_msg("%a: got %d, want %d", (double)x[i], to.codes[i], want[i]);
    }
}

static void nested_scales_are_near_the_scales(void **state)
{
    (void)state;
    enum { N = 5000 };
    static float scales[N], rounded[N], absmax[(N + NESTED_BLOCK - 1) / NESTED_BLOCK];
    for (int i = 0; i < N; i++)
        scales[i] = rounded[i] = fabsf(0.02F * normal()) + 0.03F;
    struct nested x = {.absmax = absmax};
    nested_make(&x, scales, N);
    nested_round(&x, 0, N, rounded, NULL);
    for (int i = 0; i < N; i++)
        assert_true(fabsf(rounded[i] - scales[i]) <= 0.0075F * absmax[i / NESTED_BLOCK]);
    float part[100]; /* in parts as at once */
    memcpy(part, scales + 200, sizeof part);
    nested_round(&x, 200, 100, part, NULL);
    assert_memory_equal(part, rounded + 200, sizeof part);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codes_and_scales_are_those_of_the_libraries),
        cmocka_unit_test(codes_are_near_their_values),
        cmocka_unit_test(zeros_stay_zeros),
        cmocka_unit_test(one_huge_value_is_kept),
        cmocka_unit_test(beyond_the_scale_codes_are_clamped),
        cmocka_unit_test(a_value_that_is_not_finite_is_told),
        cmocka_unit_test(e4m3_is_rounded_to_nearest_even),
        cmocka_unit_test(nested_scales_are_near_the_scales),
    };
    return cmocka_run_group_tests_name("quantize", tests, NULL, NULL);
}
