/* What bench_rows_read promises: the rows that were asked for, in their order, or an error that
 * says what they look like. */
#include "server/bench_table.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

static void rows_are_read_in_their_order(void **state)
{
    struct bench_rows rows;
    struct status st = {0};
    (void)state;
    assert_true(bench_rows_read(&rows, "64x1024,8x128,512x65536", true, &st));
    assert_int_equal(rows.n, 3);
    assert_int_equal(rows.at[0].batch, 64);
    assert_int_equal(rows.at[0].tokens, 1024);
    assert_int_equal(rows.at[1].batch, 8);
    assert_int_equal(rows.at[2].tokens, 65536);
    assert_true(bench_rows_read(&rows, "8192", false, &st));
    assert_int_equal(rows.n, 1);
    assert_int_equal(rows.at[0].batch, 1);
    assert_int_equal(rows.at[0].tokens, 8192);
}

static void what_is_no_row_is_refused(void **state)
{
    static const struct {
        const char *text;
        bool have_batch;
    } table[] = {
        {"", true},
        {"64", true},
        {"64x", true},
        {"x64", true},
        {"64x1,", true},
        {"0x64", true},
        {"64x65537", true},
        {"64x1;64x2", true},
        {"-1", false},
        {"1x2", false},
        {NULL, false},
        {"1,,2", false},
        {"9999999999999999999", false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct bench_rows rows;
        struct status st = {0};
        if (bench_rows_read(&rows, table[i].text, table[i].have_batch, &st))
            fail_msg("\"%s\": accepted", table[i].text);
        assert_non_null(strstr(st.msg, "want "));
    }
}

static void more_rows_than_a_table_holds_are_refused(void **state)
{
    char text[4 * BENCH_ROWS_MAX] = "";
    struct bench_rows rows;
    struct status st = {0};
    (void)state;
    for (int i = 0; i < BENCH_ROWS_MAX; i++)
        strcat(text, i ? ",8" : "8");
    assert_true(bench_rows_read(&rows, text, false, &st));
    assert_int_equal(rows.n, BENCH_ROWS_MAX);
    strcat(text, ",8");
    assert_false(bench_rows_read(&rows, text, false, &st));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_read_in_their_order),
        cmocka_unit_test(what_is_no_row_is_refused),
        cmocka_unit_test(more_rows_than_a_table_holds_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
