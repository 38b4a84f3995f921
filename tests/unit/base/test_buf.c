/* What buf promises: bytes in order up to a limit, a refused write changes nothing and is
 * remembered, and JSON text that is valid whatever the bytes. */
#include "base/buf.h"
#include "base/json_scan.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void a_write_past_the_limit_changes_nothing_and_sticks(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 5);
    assert_true(buf_put_str(&b, "abc"));
    assert_false(buf_put_str(&b, "def"));
    assert_string_equal(b.at, "abc");
    assert_false(buf_put_char(&b, 'x'));
    buf_clear(&b);
    assert_true(buf_put_str(&b, "12345"));
    assert_int_equal(b.n, 5);
    buf_close(&b);
}

static void numbers_are_written_in_full(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 1000);
    buf_put_i64(&b, INT64_MIN);
    buf_put_char(&b, ' ');
    buf_put_i64(&b, INT64_MAX);
    buf_put_char(&b, ' ');
    buf_put_u64(&b, UINT64_MAX);
    buf_printf(&b, " %s-%d", "x", 7);
    assert_string_equal(b.at, "-9223372036854775808 9223372036854775807 18446744073709551615 x-7");
    buf_close(&b);
}

static void a_float_reads_back_as_itself(void **state)
{
    (void)state;
    uint32_t bits = 12345;
    for (int i = 0; i < 20000; i++) {
        bits = bits * 1664525u + 1013904223u;
        float v;
        memcpy(&v, &bits, sizeof v);
        struct buf b;
        buf_init(&b, 64);
        assert_true(buf_put_f32(&b, v));
        if (isfinite(v))
            assert_true(strtof(b.at, NULL) == v);
        else
            assert_string_equal(b.at, "null");
        buf_close(&b);
    }
}

static void any_bytes_become_a_valid_json_string(void **state)
{
    (void)state;
    uint64_t rng = 7;
    for (int i = 0; i < 5000; i++) {
        char bytes[24];
        for (size_t k = 0; k < sizeof bytes; k++) {
            rng = rng * 6364136223846793005u + 1442695040888963407u;
            bytes[k] = (char)(rng >> 56);
        }
        struct buf b;
        buf_init(&b, 1000);
        buf_put_char(&b, '"');
        buf_put_json(&b, bytes, sizeof bytes);
        buf_put_char(&b, '"');
        struct status st = {0};
        enum json_fault fault;
        const bool ok = json_scan(b.at, b.n, &json_limits_default, &fault, &st);
        assert_true(ok ||
                    fault == JSON_NUL); /* a NUL byte becomes \u0000, which requests may not have */
        buf_close(&b);
    }
}

static void json_text_keeps_what_is_valid(void **state)
{
    (void)state;
    static const struct {
        const char *in, *out;
    } rows[] = {
        {"plain", "plain"},
        {"a\"b\\c", "a\\\"b\\\\c"},
        {"\n\r\t\x01\x7f", "\\n\\r\\t\\u0001\\u007f"},
        {"\xc3\xa9\xe4\xb8\xad\xf0\x9f\x98\x80", "\xc3\xa9\xe4\xb8\xad\xf0\x9f\x98\x80"},
        {"a\xff"
         "b",
         "a\xef\xbf\xbd"
         "b"},
        {"data: [DONE]\n\n", "data: [DONE]\\n\\n"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct buf b;
        buf_init(&b, 100);
        buf_put_json(&b, rows[i].in, strlen(rows[i].in));
        assert_string_equal(b.at, rows[i].out);
        buf_close(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_write_past_the_limit_changes_nothing_and_sticks),
        cmocka_unit_test(numbers_are_written_in_full),
        cmocka_unit_test(a_float_reads_back_as_itself),
        cmocka_unit_test(any_bytes_become_a_valid_json_string),
        cmocka_unit_test(json_text_keeps_what_is_valid),
    };
    return cmocka_run_group_tests_name("buf", tests, NULL, NULL);
}
