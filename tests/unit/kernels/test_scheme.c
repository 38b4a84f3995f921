/* What schemes are called, what they refuse, and what their codes stand for. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "kernels/scheme.h"

static void names_are_read(void **state)
{
    static const struct {
        const char *text, *says;
    } table[] = {
        {"int8", "int8, a scale a row, f32 scales, activations in 8 bits but outliers"},
        {"int8:threshold=0", "int8, a scale a row, f32 scales, activations in 8 bits"},
        {"w8a16", "int8, a scale a row, f32 scales"},
        {"nf4", "nf4, groups of 64, f32 scales"},
        {"nf4:nested", "nf4, groups of 64, nested scales"},
        {"fp4", "fp4, groups of 64, f32 scales"},
        {"int4", "int4, groups of 128, f16 scales"},
        {"int4:asymmetric:group=32", "int4, groups of 32, f16 scales, zero points"},
        {"fp8", "fp8, a scale a row, f32 scales, activations in fp8"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct scheme s;
        struct status st = {0};
        char text[128];
        assert_true(scheme_parse(&s, table[i].text, &st));
        assert_string_equal(scheme_describe(&s, text, sizeof text), table[i].says);
    }
}

static void what_is_no_name_is_refused(void **state)
{
    static const char *const table[] = {
        "",
        "int",
        "int88",
        "nf4:",
        "nf4:nest",
        "int8:nested",
        "int4:group=48x",
        "int4:group=33",
        "int4:group=0",
        "int4:group=99999999",
        "fp8:nested",
        "w8a16:threshold=6",
        "int8:threshold=",
        "int8:threshold=-1",
        "int8:threshold=nan",
        "int4:group=64:",
        "nf4:nested:nested=1",
    };
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct scheme s;
        struct status st = {0};
        if (scheme_parse(&s, table[i], &st))
            fail_msg("\"%s\" was taken", table[i]);
        assert_int_equal(st.code, STATUS_BAD_INPUT);
        assert_non_null(strstr(st.msg, "want"));
    }
}

static void rows_that_do_not_fit_are_refused(void **state)
{
    struct scheme s = {.codes = DT_INT4, .group = 128};
    struct status st = {0};
    (void)state;
    assert_true(scheme_check(&s, 256, &st));
    assert_false(scheme_check(&s, 576, &st));
    assert_non_null(strstr(st.msg, "128"));
    assert_non_null(strstr(st.msg, "576"));
    st = (struct status){0};
    s.group = 0;
    assert_true(scheme_check(&s, 6, &st));
    assert_false(scheme_check(&s, 7, &st));
    st = (struct status){0};
    s.group = 48;
    assert_false(scheme_check(&s, 96, &st));
    assert_non_null(strstr(st.msg, "48"));
}

/* OCP 8-bit floating point specification, table 1: 448, 2^-6 and 2^-9 are its landmarks. */
static void e4m3_is_the_specified_one(void **state)
{
    (void)state;
    assert_true(scheme_e4m3(0x7e) == 448.0F && scheme_e4m3(0xfe) == -448.0F);
    assert_true(scheme_e4m3(0x08) == 0x1p-6F && scheme_e4m3(0x01) == 0x1p-9F);
    assert_true(scheme_e4m3(0x07) == 7 * 0x1p-9F && scheme_e4m3(0x38) == 1.0F);
    assert_true(scheme_e4m3(0x80) == 0 && signbit(scheme_e4m3(0x80)));
    assert_true(isnan(scheme_e4m3(0x7f)) && isnan(scheme_e4m3(0xff)));
    for (int c = 1; c < 0x7f; c++)
        assert_true(scheme_e4m3((uint8_t)c) > scheme_e4m3((uint8_t)(c - 1)));
}

static void a_row_is_scale_times_code(void **state)
{
    uint8_t codes[8] = {0, 15, 8, 7, 3, 3, 0, 9};
    float scales[2] = {0.5F, 3.0F}, got[8];
    int16_t zeros[2] = {8, 16};
    const struct scheme_rows row = {codes, scales, zeros};
    const struct scheme s = {.codes = DT_INT4, .group = 4, .has_zero = true};
    static const float want[8] = {-4, 3.5F, 0, -0.5F, -39, -39, -48, -21};
    (void)state;
    scheme_dequantize_row(&s, &row, 8, got);
    assert_memory_equal(got, want, sizeof want);
    const struct scheme nf4 = {.codes = DT_NF4, .group = 4, .value = DT_BF16};
    scheme_dequantize_row(&nf4, &row, 8, got);
    assert_true(got[1] == 0.5F && got[0] == -0.5F && got[6] == -3.0F);
    assert_true(got[2] == 0.039794921875F); /* 0.0397901... to 8 bits of mantissa */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_read),
        cmocka_unit_test(what_is_no_name_is_refused),
        cmocka_unit_test(rows_that_do_not_fit_are_refused),
        cmocka_unit_test(e4m3_is_the_specified_one),
        cmocka_unit_test(a_row_is_scale_times_code),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
