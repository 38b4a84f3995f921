/* What detok promises: whole characters only, U+FFFD for each maximal subpart that cannot become
 * one, and the same bytes in all whatever the cuts. */
#include "engine/tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define BAD "\xEF\xBF\xBD"

static size_t decode(const char *bytes, size_t n, size_t step, char *out)
{
    struct detok d = {0};
    size_t n_out = 0;
    for (size_t at = 0; at < n; at += step)
        n_out += detok_feed(&d, bytes + at, n - at < step ? n - at : step, out + n_out);
    return n_out + detok_finish(&d, out + n_out);
}

static void subparts_become_replacement_characters(void **state)
{
    (void)state;
    static const struct {
        const char *name, *in, *out;
    } rows[] = {
        /* each as Python's bytes.decode(errors="replace") */
        {"ascii", "abc", "abc"},
        {"two, three, four bytes", "é中😀", "é中😀"},
        {"cut short at the end", "a\xF0\x9F\x98", "a" BAD},
        {"cut short by a letter",
         "\xE4\xB8"
         "a",
         BAD "a"},
        {"cut short by a lead", "\xF0\x9F\xC3\xA9", BAD "é"},
        {"a tail alone", "\x80z\xBF", BAD "z" BAD},
        {"overlong two", "\xC0\xAF", BAD BAD},
        {"overlong three", "\xE0\x80\xAF", BAD BAD BAD},
        {"overlong four", "\xF0\x80\x80\xAF", BAD BAD BAD BAD},
        {"surrogate", "\xED\xA0\x80", BAD BAD BAD},
        {"past U+10FFFF", "\xF4\x90\x80\x80", BAD BAD BAD BAD},
        {"never a lead", "\xF5\xFF", BAD BAD},
        {"last of each range", "\xED\x9F\xBF\xF4\x8F\xBF\xBF", "\xED\x9F\xBF\xF4\x8F\xBF\xBF"},
        {"Unicode table 3-11",
         "\xE1\x80\xE2\xF0\x91\x92\xF1\xBF"
         "A",
         BAD BAD BAD BAD "A"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        for (size_t step = 1; step <= strlen(rows[i].in); step++) {
            char out[128] = {0};
            decode(rows[i].in, strlen(rows[i].in), step, out);
            if (strcmp(out, rows[i].out) != 0)
                fail_msg("%s, %zu at a time: got '%s'", rows[i].name, step, out);
        }
    }
}

static unsigned next_random(uint64_t *rng)
{
    *rng = *rng * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(*rng >> 33);
}

static void cuts_do_not_change_the_text(void **state)
{
    (void)state;
    static const unsigned char hot[] = {0xE0, 0xED, 0xF0, 0xF4, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF};
    uint64_t rng = 7;
    for (int round = 0; round < 20000; round++) {
        char in[24], whole[3 * 28], parts[3 * 28];
        const size_t n = 1 + next_random(&rng) % sizeof in;
        for (size_t i = 0; i < n; i++)
            in[i] = (char)(next_random(&rng) % 3 ? hot[next_random(&rng) % sizeof hot]
                                                 : next_random(&rng));
        const size_t n_whole = decode(in, n, n, whole);
        assert_true(n_whole <= DETOK_FACTOR * (n + 4));
        struct detok d = {0};
        size_t n_parts = 0;
        for (size_t at = 0, take; at < n; at += take) {
            take = next_random(&rng) % 5;
            take = take > n - at ? n - at : take;
            n_parts += detok_feed(&d, in + at, take, parts + n_parts);
            struct detok strict = {0}; /* what is out is UTF-8: nothing waits after it */
            char again[3 * 80];
            assert_int_equal(detok_feed(&strict, parts, n_parts, again), n_parts);
            assert_memory_equal(again, parts, n_parts);
            assert_int_equal(strict.n_held, 0);
        }
        n_parts += detok_finish(&d, parts + n_parts);
        assert_int_equal(n_parts, n_whole);
        assert_memory_equal(parts, whole, n_whole);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(subparts_become_replacement_characters),
        cmocka_unit_test(cuts_do_not_change_the_text),
    };
    return cmocka_run_group_tests_name("detok", tests, NULL, NULL);
}
