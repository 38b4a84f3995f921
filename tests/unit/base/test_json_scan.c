/* What json_scan promises: RFC 8259 and nothing more, within limits, for any bytes, reading none
 * past the end.  Every text is tried whole, and every valid one at each truncation, against an
 * unreadable page. */
#include "base/json_scan.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

static const struct row {
    const char *name, *text;
    size_t n; /* 0 = strlen */
    enum json_fault fault;
} table[] = {
    {"null", "null", 0, JSON_OK},
    {"nested", " { \"a\" : [ 1 , -0.5e+3 , true , { } , [ ] ] , \"b\" : \"\" } ", 0, JSON_OK},
    {"escapes", "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\ud83d\\ude00\"", 0, JSON_OK},
    {"utf8", "\"\xc3\xa9\xe4\xb8\xad\xf0\x9f\x98\x80\"", 0, JSON_OK},
    {"negative zero", "-0", 0, JSON_OK},
    {"same key in siblings", "[{\"a\":1},{\"a\":1},{\"b\":{\"a\":2},\"a\":1}]", 0, JSON_OK},
    {"empty", "", 0, JSON_SYNTAX},
    {"spaces", "  ", 0, JSON_SYNTAX},
    {"leading zero", "01", 0, JSON_SYNTAX},
    {"bare point", "2.", 0, JSON_SYNTAX},
    {"point first", ".5", 0, JSON_SYNTAX},
    {"plus", "+1", 0, JSON_SYNTAX},
    {"empty exponent", "1e", 0, JSON_SYNTAX},
    {"zero then exponent", "0.e1", 0, JSON_SYNTAX},
    {"infinite", "1e999", 0, JSON_NUMBER},
    {"long number", "11111111111111111111111111111111111111111111111111111111111111111", 0,
     JSON_NUMBER},
    {"nan", "NaN", 0, JSON_SYNTAX},
    {"trailing comma", "[1,]", 0, JSON_SYNTAX},
    {"leading comma", "[,1]", 0, JSON_SYNTAX},
    {"object comma", "{\"a\":1,}", 0, JSON_SYNTAX},
    {"comment", "/**/1", 0, JSON_SYNTAX},
    {"single quotes", "{'a':1}", 0, JSON_SYNTAX},
    {"text after", "{} x", 0, JSON_SYNTAX},
    {"two documents", "1 2", 0, JSON_SYNTAX},
    {"wrong bracket", "[1}", 0, JSON_SYNTAX},
    {"bom", "\xef\xbb\xbf{}", 0, JSON_SYNTAX},
    {"form feed", "\f1", 0, JSON_SYNTAX},
    {"nul after", "1\0", 2, JSON_SYNTAX},
    {"nul in string", "\"a\0b\"", 5, JSON_NUL},
    {"escaped nul", "\"\\u0000\"", 0, JSON_NUL},
    {"control", "\"\x01\"", 0, JSON_SYNTAX},
    {"bad escape", "\"\\x\"", 0, JSON_SYNTAX},
    {"bad hex", "\"\\u12g4\"", 0, JSON_SYNTAX},
    {"lone high", "\"\\ud800\"", 0, JSON_UTF8},
    {"lone low", "\"\\udc00\"", 0, JSON_UTF8},
    {"swapped", "\"\\udc00\\ud800\"", 0, JSON_UTF8},
    {"high then letter", "\"\\ud800\\u0041\"", 0, JSON_UTF8},
    {"overlong", "\"\xc0\xaf\"", 0, JSON_UTF8},
    {"encoded surrogate", "\"\xed\xa0\x80\"", 0, JSON_UTF8},
    {"too large", "\"\xf4\x90\x80\x80\"", 0, JSON_UTF8},
    {"cut character", "\"\xe4\xb8\"", 0, JSON_UTF8},
    {"duplicate", "{\"n\":1,\"n\":2}", 0, JSON_DUPLICATE_KEY},
    {"duplicate escaped", "{\"n\":1,\"\\u006e\":2}", 0, JSON_DUPLICATE_KEY},
    {"duplicate two bytes", "{\"\xc3\xa9\":1,\"\\u00e9\":2}", 0, JSON_DUPLICATE_KEY},
    {"duplicate three bytes", "{\"\xe4\xb8\xad\":1,\"\\u4e2d\":2}", 0, JSON_DUPLICATE_KEY},
    {"duplicate four bytes", "{\"\xf0\x9f\x98\x80\":1,\"\\ud83d\\ude00\":2}", 0,
     JSON_DUPLICATE_KEY},
    {"duplicate after nested", "{\"a\":{\"b\":1,\"c\":2},\"b\":0,\"a\":1}", 0, JSON_DUPLICATE_KEY},
    {"case differs", "{\"a\":1,\"A\":2}", 0, JSON_OK},
    {"unterminated object", "{\"1\":1,", 0, JSON_SYNTAX},
};

/* The text right before an unreadable page. */
static char *guarded(const char *text, size_t n, char **map)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t span = (n + page - 1) / page * page;
    *map = mmap(NULL, span + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(*map != MAP_FAILED && mprotect(*map + span, page, PROT_NONE) == 0);
    return memcpy(*map + span - n, text, n);
}

static void unguard(char *map, size_t n)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    munmap(map, (n + page - 1) / page * page + page);
}

static enum json_fault scan(const char *text, size_t n)
{
    struct status st = {0};
    enum json_fault fault;
    char *map;
    const bool ok = json_scan(guarded(text, n, &map), n, &json_limits_default, &fault, &st);
    assert_int_equal(ok, fault == JSON_OK);
    assert_int_equal(ok, st.code == STATUS_OK);
    unguard(map, n);
    return fault;
}

static void each_text_gets_its_answer(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        const struct row *r = &table[i];
        const enum json_fault fault = scan(r->text, r->n ? r->n : strlen(r->text));
        if (fault != r->fault)
            print_error("%s\n", r->name);
        assert_string_equal(json_fault_code(fault), json_fault_code(r->fault));
    }
}

static void no_strict_prefix_of_a_container_or_string_is_valid(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        const struct row *r = &table[i];
        const size_t n = strlen(r->text);
        if (r->fault != JSON_OK || !strchr("{[\"", r->text[0]))
            continue;
        for (size_t cut = 0; cut < n; cut++)
            assert_int_not_equal(scan(r->text, cut), JSON_OK);
    }
}

static char *repeat(const char *unit, int times)
{
    char *text = malloc(strlen(unit) * (size_t)times + 1);
    char *at = text;
    for (int i = 0; i < times; i++)
        at = stpcpy(at, unit);
    *at = '\0';
    return text;
}

static void depth_is_allowed_to_its_limit_and_not_past_it(void **state)
{
    (void)state;
    for (int depth = 63; depth <= 65; depth++) {
        char *open = repeat("[", depth), *close = repeat("]", depth);
        char *text = malloc(2 * (size_t)depth + 1);
        stpcpy(stpcpy(text, open), close);
        assert_int_equal(scan(text, strlen(text)), depth <= 64 ? JSON_OK : JSON_TOO_DEEP);
        free(open);
        free(close);
        free(text);
    }
    char *deep = repeat("[", 100000);
    assert_int_equal(scan(deep, 100000), JSON_TOO_DEEP);
    free(deep);
}

static char *object_of_keys(int n_keys)
{
    char *text = malloc(16 * (size_t)n_keys + 3);
    char *at = text;
    *at++ = '{';
    for (int i = 0; i < n_keys; i++)
        at += snprintf(at, 16, "%s\"%d\":0", i ? "," : "", i);
    stpcpy(at, "}");
    return text;
}

static void keys_are_counted_per_object(void **state)
{
    (void)state;
    for (int n = 1023; n <= 1025; n++) {
        char *text = object_of_keys(n);
        assert_int_equal(scan(text, strlen(text)), n <= 1024 ? JSON_OK : JSON_TOO_MANY_KEYS);
        free(text);
    }
    char *one = object_of_keys(1024), *many = malloc(strlen(one) * 50 + 100);
    char *at = stpcpy(many, "[");
    for (int i = 0; i < 50; i++)
        at = stpcpy(stpcpy(at, i ? "," : ""), one);
    stpcpy(at, "]");
    assert_int_equal(scan(many, strlen(many)), JSON_OK);
    free(one);
    free(many);
}

static void values_are_counted(void **state)
{
    (void)state;
    const struct json_limits limits = {
        .depth_max = 64, .values_max = 10, .keys_max = 8, .number_max = 8};
    for (int n = 8; n <= 10; n++) { /* the array itself is a value */
        char text[64] = "[";
        for (int i = 0; i < n; i++)
            strncat(text, i ? ",1" : "1", 3);
        strncat(text, "]", 2);
        struct status st = {0};
        enum json_fault fault;
        assert_int_equal(json_scan(text, strlen(text), &limits, &fault, &st), n <= 9);
        assert_int_equal(fault, n <= 9 ? JSON_OK : JSON_TOO_MANY_VALUES);
        if (n == 10)
            assert_non_null(strstr(st.msg, "more than 10 values"));
    }
}

static void utf8_complete_holds_back_only_what_more_bytes_could_finish(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t whole;
    } rows[] = {
        {"", 0},         {"abc", 3},           {"a\xc3", 1},         {"a\xc3\xa9", 3},
        {"\xe4\xb8", 0}, {"\xe4\xb8\xad", 3},  {"x\xf0\x9f\x98", 1}, {"\xf0\x9f\x98\x80", 4},
        {"\x80", 1},     {"\xff", 1},          {"\xe4\x20", 2},      {"\xed\xa0", 2},
        {"\xc0", 1},     {"a\x80\x80\x80", 4},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_int_equal(utf8_complete(rows[i].text, strlen(rows[i].text)), rows[i].whole);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_text_gets_its_answer),
        cmocka_unit_test(no_strict_prefix_of_a_container_or_string_is_valid),
        cmocka_unit_test(depth_is_allowed_to_its_limit_and_not_past_it),
        cmocka_unit_test(keys_are_counted_per_object),
        cmocka_unit_test(values_are_counted),
        cmocka_unit_test(utf8_complete_holds_back_only_what_more_bytes_could_finish),
    };
    return cmocka_run_group_tests_name("json_scan", tests, NULL, NULL);
}
