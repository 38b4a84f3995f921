/* What the guard promises: a head passes only if every reader would take it alike.  Each byte of
 * a target and of a header is tried, and each prefix. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/http_guard.h"

static void a_target_is_decoded_or_refused(void **state)
{
    static const struct {
        const char *raw, *path;
        enum guard_fault fault;
    } table[] = {
        {"/", "/", GUARD_OK},
        {"/v1/models", "/v1/models", GUARD_OK},
        {"/v1/models/a%20b%2Fc", "/v1/models/a b/c", GUARD_OK},
        {"/caf%C3%A9", "/caf\303\251", GUARD_OK},
        {"/a?b=%41&c=/../x", "/a", GUARD_OK},
        {"/a?", "/a", GUARD_OK},
        {"/a%3Fb", "/a?b", GUARD_OK},
        {"/a?b?c", "/a", GUARD_OK},
        {"*", "*", GUARD_OK},
        {"/...", "/...", GUARD_OK},
        {"/.a/b.", "/.a/b.", GUARD_OK},
        {"//v1//models", "//v1//models", GUARD_OK},
        {"", "", GUARD_BAD_TARGET},
        {"v1", "", GUARD_BAD_TARGET},
        {"**", "", GUARD_BAD_TARGET},
        {"http://h/p", "", GUARD_BAD_TARGET},
        {"h:80", "", GUARD_BAD_TARGET},
        {"/a%00", "", GUARD_BAD_TARGET},
        {"/a%0d%0ab", "", GUARD_BAD_TARGET},
        {"/a%7f", "", GUARD_BAD_TARGET},
        {"/a%", "", GUARD_BAD_TARGET},
        {"/a%4", "", GUARD_BAD_TARGET},
        {"/a%g0", "", GUARD_BAD_TARGET},
        {"/a%0g", "", GUARD_BAD_TARGET},
        {"/%c0%af", "", GUARD_BAD_TARGET},
        {"/%ff", "", GUARD_BAD_TARGET},
        {"/%ed%a0%80", "", GUARD_BAD_TARGET},
        {"/..", "", GUARD_BAD_TARGET},
        {"/.", "", GUARD_BAD_TARGET},
        {"/a/../b", "", GUARD_BAD_TARGET},
        {"/%2e%2e/b", "", GUARD_BAD_TARGET},
        {"/a/%2E./b", "", GUARD_BAD_TARGET},
        {"/a%2f..%2fb", "", GUARD_BAD_TARGET},
        {"/a#b", "", GUARD_BAD_TARGET},
        {"/a?b=%zz", "", GUARD_BAD_TARGET},
        {"/a?b=%00", "", GUARD_BAD_TARGET},
    };
    char path[GUARD_PATH_MAX];
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        size_t n = strlen(table[i].raw);
        char *exact = malloc(n ? n : 1); /* no byte behind it may be read */
        memcpy(exact, table[i].raw, n);
        enum guard_fault f = guard_target(exact, n, path);
        if (f != table[i].fault || strcmp(path, table[i].path) != 0)
            fail_msg("%s: fault %d, path \"%s\"", table[i].raw, f, path);
        free(exact);
    }
}

static void lengths_of_targets_are_held(void **state)
{
    static char raw[GUARD_TARGET_MAX + 2];
    char path[GUARD_PATH_MAX];
    (void)state;
    memset(raw, 'a', sizeof raw);
    raw[0] = '/';
    assert_int_equal(guard_target(raw, GUARD_PATH_MAX - 1, path), GUARD_OK);
    assert_int_equal(strlen(path), GUARD_PATH_MAX - 1);
    assert_int_equal(guard_target(raw, GUARD_PATH_MAX, path), GUARD_NO_ROUTE);
    assert_int_equal(guard_target(raw, GUARD_TARGET_MAX, path), GUARD_NO_ROUTE);
    assert_int_equal(guard_target(raw, GUARD_TARGET_MAX + 1, path), GUARD_TARGET_TOO_LONG);
    raw[2] = '?'; /* a long query is none of a path's business */
    assert_int_equal(guard_target(raw, GUARD_TARGET_MAX, path), GUARD_OK);
    assert_string_equal(path, "/a");
}

static void every_byte_in_every_place_is_judged(void **state)
{
    char path[GUARD_PATH_MAX];
    (void)state;
    for (int c = 0; c < 256; c++) {
        char target[4] = {'/', (char)c, 'b', 0}, value[2] = {(char)c, 'v'},
             name[2] = {'n', (char)c};
        bool visible = c > 0x20 && c < 0x7f;
        bool in_target = visible && !strchr("#\"<>\\^`{|}%", c);
        bool in_name = visible && !strchr("\"(),/:;<=>?@[\\]{}", c);
        bool in_value = (c >= 0x20 && c != 0x7f) || c == '\t';
        struct guard g = {0}, h = {0};
        assert_int_equal(guard_target(target, 3, path) == GUARD_OK, in_target);
        assert_int_equal(guard_header(&g, name, 2, "v", 1) == GUARD_OK, in_name);
        assert_int_equal(guard_header(&h, "n", 1, value, 2) == GUARD_OK, in_value);
    }
}

struct line {
    const char *name, *value;
};

static enum guard_fault judge(const struct line *lines, const char *version)
{
    struct guard g = {0};
    for (; lines->name; lines++) {
        enum guard_fault f =
            guard_header(&g, lines->name, strlen(lines->name), lines->value, strlen(lines->value));
        if (f != GUARD_OK)
            return f;
    }
    return guard_finish(&g, version);
}

static void framing_must_have_one_meaning(void **state)
{
    static const struct {
        const char *name, *version;
        struct line lines[5];
        enum guard_fault fault;
    } table[] = {
        {"plain", "HTTP/1.1", {{"Host", "x:80"}, {"Content-Length", "12"}}, GUARD_OK},
        {"trailing blank", "HTTP/1.1", {{"Host", "x "}, {"Content-Length", "12 \t"}}, GUARD_OK},
        {"any case", "HTTP/1.1", {{"hOST", "x"}, {"TRANSFER-encoding", "CHUNKED"}}, GUARD_OK},
        {"1.0 without host", "HTTP/1.0", {{"A", "b"}}, GUARD_OK},
        {"1.1 without host", "HTTP/1.1", {{"A", "b"}}, GUARD_BAD_HOST},
        {"IPv6 host", "HTTP/1.1", {{"Host", "[::1]:8080"}}, GUARD_OK},
        {"empty host", "HTTP/1.1", {{"Host", ""}}, GUARD_OK},
        {"8-bit host", "HTTP/1.1", {{"Host", "\344"}}, GUARD_BAD_HOST},
        {"two lengths",
         "HTTP/1.1",
         {{"Host", "x"}, {"Content-Length", "1"}, {"content-length", "1"}},
         GUARD_BAD_FRAMING},
        {"length and coding",
         "HTTP/1.1",
         {{"Host", "x"}, {"Content-Length", "1"}, {"Transfer-Encoding", "chunked"}},
         GUARD_BAD_FRAMING},
        {"two codings",
         "HTTP/1.1",
         {{"Host", "x"}, {"Transfer-Encoding", "chunked"}, {"Transfer-Encoding", "chunked"}},
         GUARD_BAD_FRAMING},
        {"coding on 1.0", "HTTP/1.0", {{"Transfer-Encoding", "chunked"}}, GUARD_BAD_FRAMING},
        {"identity", "HTTP/1.1", {{"Transfer-Encoding", "identity"}}, GUARD_BAD_TRANSFER_CODING},
        {"list",
         "HTTP/1.1",
         {{"Transfer-Encoding", "chunked, chunked"}},
         GUARD_BAD_TRANSFER_CODING},
        {"negative", "HTTP/1.1", {{"Content-Length", "-1"}}, GUARD_BAD_FRAMING},
        {"blank inside", "HTTP/1.1", {{"Content-Length", "3 4"}}, GUARD_BAD_FRAMING},
        {"hex", "HTTP/1.1", {{"Content-Length", "0x3"}}, GUARD_BAD_FRAMING},
        {"empty", "HTTP/1.1", {{"Content-Length", ""}}, GUARD_BAD_FRAMING},
        {"expectation", "HTTP/1.1", {{"Expect", "100-continue"}, {"Host", "x"}}, GUARD_OK},
        {"other expectation", "HTTP/1.1", {{"Expect", "200-ok"}}, GUARD_BAD_EXPECT},
        {"two keys",
         "HTTP/1.1",
         {{"Authorization", "a"}, {"authorization", "a"}},
         GUARD_DUPLICATE_HEADER},
        {"two of another", "HTTP/1.1", {{"X", "a"}, {"X", "a"}, {"Host", "x"}}, GUARD_OK},
    };
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        enum guard_fault f = judge(table[i].lines, table[i].version);
        if (f != table[i].fault)
            fail_msg("%s: want fault %d, got %d", table[i].name, table[i].fault, f);
    }
}

static void a_length_beyond_any_integer_stays_beyond_any_limit(void **state)
{
    static const char *const lengths[] = {"18446744073709551615", "18446744073709551616",
                                          "99999999999999999999999999999999",
                                          "184467440737095516160"};
    (void)state;
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        struct guard g = {0};
        assert_int_equal(guard_header(&g, "Content-Length", 14, lengths[i], strlen(lengths[i])),
                         GUARD_OK);
        assert_true(g.length == UINT64_MAX);
    }
}

static void numbers_and_sizes_of_headers_are_held(void **state)
{
    static char value[GUARD_HEADER_BYTES_MAX];
    struct guard g = {0}, h = {0};
    (void)state;
    for (int i = 0; i < GUARD_HEADERS_MAX; i++)
        assert_int_equal(guard_header(&g, "X", 1, "y", 1), GUARD_OK);
    assert_int_equal(guard_header(&g, "X", 1, "y", 1), GUARD_TOO_MANY_HEADERS);
    memset(value, 'a', sizeof value);
    assert_int_equal(guard_header(&h, "X", 1, value, sizeof value - 1), GUARD_OK);
    assert_int_equal(guard_header(&h, "X", 1, value, sizeof value), GUARD_HEADER_TOO_LARGE);
}

static void every_fault_has_an_answer(void **state)
{
    (void)state;
    for (int f = GUARD_OK + 1; f < GUARD_N; f++) {
        const struct guard_answer *a = guard_answer((enum guard_fault)f);
        assert_in_range(a->http_status, 400, 505);
        assert_non_null(a->code);
        assert_true(strlen(a->message) > 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_target_is_decoded_or_refused),
        cmocka_unit_test(lengths_of_targets_are_held),
        cmocka_unit_test(every_byte_in_every_place_is_judged),
        cmocka_unit_test(framing_must_have_one_meaning),
        cmocka_unit_test(a_length_beyond_any_integer_stays_beyond_any_limit),
        cmocka_unit_test(numbers_and_sizes_of_headers_are_held),
        cmocka_unit_test(every_fault_has_an_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
