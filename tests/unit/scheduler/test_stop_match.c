/* What stop_match promises: the match that ends first is found, the longest of those, however
 * the text is cut; and no byte is called safe that a match could still take back. */
#include "scheduler/stop_match.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

struct found {
    int32_t hit;
    uint64_t at;
};

static struct found find_naive(const struct stop_string *stop, int32_t n_stops, const char *text,
                               size_t n)
{
    struct found f = {-1, 0};
    for (size_t end = 1; end <= n && f.hit < 0; end++)
        for (int32_t i = 0; i < n_stops; i++) {
            const size_t k = (size_t)stop[i].n;
            if (k <= end && memcmp(text + end - k, stop[i].at, k) == 0 &&
                (f.hit < 0 || stop[i].n > stop[f.hit].n))
                f = (struct found){i, end - k};
        }
    return f;
}

/* The longest suffix of the text that is the beginning of a stop string. */
static size_t find_partial(const struct stop_string *stop, int32_t n_stops, const char *text,
                           size_t n)
{
    size_t longest = 0;
    for (int32_t i = 0; i < n_stops; i++)
        for (size_t k = longest + 1; k < (size_t)stop[i].n && k <= n; k++)
            if (memcmp(text + n - k, stop[i].at, k) == 0)
                longest = k;
    return longest;
}

static void the_table_of_cases(void **state)
{
    (void)state;
    static const struct {
        const char *name, *stop[3], *text;
        int32_t hit;
        uint64_t at, safe;
    } row[] = {
        {"nothing to find", {"x"}, "abc", -1, 0, 3},
        {"at the start", {"ab"}, "abc", 0, 0, 0},
        {"at the end", {"bc"}, "abc", 0, 1, 1},
        {"half a match waits", {"bcd"}, "abc", -1, 0, 1},
        {"a match inside its own beginning", {"aab"}, "aaab", 0, 1, 1},
        {"the one that ends first", {"abcd", "bc"}, "abcd", 1, 1, 1},
        {"the longest of two that end together", {"c", "bc"}, "abc", 1, 1, 1},
        {"a newline pair", {"\n\n"}, "a\nb\n\nc", 0, 3, 3},
        {"bytes over 127", {"\xc3\xa9"}, "caf\xc3\xa9!", 0, 3, 3},
    };
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        struct stop_string stop[3];
        int32_t n = 0;
        for (; n < 3 && row[i].stop[n]; n++)
            stop[n] = (struct stop_string){row[i].stop[n], (int32_t)strlen(row[i].stop[n])};
        struct stop_match m;
        stop_match_init(&m, stop, n);
        const bool hit = stop_match_feed(&m, row[i].text, strlen(row[i].text));
        if (hit != (row[i].hit >= 0) || m.hit != row[i].hit || (hit && m.hit_at != row[i].at) ||
            stop_match_safe(&m) != row[i].safe)
            fail_msg("%s: hit %d at %d, safe %d", row[i].name, m.hit, (int)m.hit_at,
                     (int)stop_match_safe(&m));
    }
}

static void no_stop_strings_never_match(void **state)
{
    (void)state;
    struct stop_match m;
    stop_match_init(&m, NULL, 0);
    assert_false(stop_match_feed(&m, "abc", 3));
    assert_int_equal(stop_match_safe(&m), 3);
}

static void a_hit_stays_whatever_follows(void **state)
{
    (void)state;
    const struct stop_string stop[] = {{"b", 1}, {"abc", 3}};
    struct stop_match m;
    stop_match_init(&m, stop, 2);
    assert_true(stop_match_feed(&m, "ab", 2));
    assert_true(stop_match_feed(&m, "abcabc", 6));
    assert_int_equal(m.hit, 0);
    assert_int_equal(m.hit_at, 1);
}

static void the_longest_strings_allowed_are_found(void **state)
{
    (void)state;
    char text[STOP_BYTES_MAX + 1];
    memset(text, 'a', sizeof text);
    const struct stop_string stop = {text, STOP_BYTES_MAX};
    struct stop_match m;
    stop_match_init(&m, &stop, 1);
    assert_false(stop_match_feed(&m, text, STOP_BYTES_MAX - 1));
    assert_int_equal(stop_match_safe(&m), 0);
    assert_true(stop_match_feed(&m, text, 1));
    assert_int_equal(m.hit_at, 0);
}

static uint32_t next(uint64_t *rng)
{
    *rng = *rng * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*rng >> 33);
}

static void random_texts_agree_with_trying_everything(void **state)
{
    (void)state;
    uint64_t rng = 7;
    int n_hits = 0;
    for (int round = 0; round < 20000; round++) {
        char word[STOP_STRINGS_MAX][8], text[64];
        struct stop_string stop[STOP_STRINGS_MAX];
        const int32_t n_stops = 1 + (int32_t)(next(&rng) % 4);
        for (int32_t i = 0; i < n_stops; i++) {
            stop[i] = (struct stop_string){word[i], 1 + (int32_t)(next(&rng) % 7)};
            for (int32_t k = 0; k < stop[i].n; k++)
                word[i][k] = (char)('a' + next(&rng) % 2);
        }
        struct stop_match m;
        stop_match_init(&m, stop, n_stops);
        size_t n = 0;
        bool hit = false;
        while (!hit && n < 48) { /* cut anywhere, as tokens do */
            const size_t piece = next(&rng) % 5;
            for (size_t k = 0; k < piece; k++)
                text[n + k] = (char)('a' + next(&rng) % 2);
            hit = stop_match_feed(&m, text + n, piece);
            n += piece;
            const struct found want = find_naive(stop, n_stops, text, n);
            assert_int_equal(hit, want.hit >= 0);
            if (hit)
                assert_int_equal(m.hit_at, want.at);
            else
                assert_int_equal(stop_match_safe(&m), n - find_partial(stop, n_stops, text, n));
            if (hit)
                assert_int_equal(stop[m.hit].n, stop[want.hit].n);
        }
        n_hits += hit;
    }
    assert_true(n_hits > 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_table_of_cases),
        cmocka_unit_test(no_stop_strings_never_match),
        cmocka_unit_test(a_hit_stays_whatever_follows),
        cmocka_unit_test(the_longest_strings_allowed_are_found),
        cmocka_unit_test(random_texts_agree_with_trying_everything),
    };
    return cmocka_run_group_tests_name("stop_match", tests, NULL, NULL);
}
