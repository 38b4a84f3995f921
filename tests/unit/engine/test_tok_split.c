/* What tok_split promises: the pieces of the published regular expressions, which together are the
 * text; and no byte outside the text is read, whatever it holds. */
#include "engine/tok_split.h"
#include "tests/unit/engine/token_golden.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

static const char *const names[] = {"gpt-2", "smollm", "llama-bpe", "qwen2"};

static void texts_are_cut_as_the_expressions_say(void **state)
{
    (void)state;
    static const struct {
        const char *pre, *text, *pieces; /* joined by | */
    } rows[] = {
        {"gpt-2", "Hello world  it's 2024!", "Hello| world| | it|'s| 2024|!"},
        {"gpt-2", "I'LL we'll 'tis", "I|'|LL| we|'ll| '|tis"},
        {"gpt-2", "a \n b  ", "a| \n| b|  "},
        {"smollm", "x 12  3", "x| |1|2|  |3"},
        {"smollm", "v1.0 $5", "v|1|.|0| $|5"},
        {"llama-bpe", "I'LL 12345\r\n\r\n  x", "I|'LL| |123|45|\r\n\r\n| | x"},
        {"llama-bpe", "f(x)\n\n \ty;\n", "f|(x|)\n\n| |\ty|;\n"},
        {"llama-bpe", "'\xC5\xBFo", "'\xC5\xBF|o"},
        {"qwen2", "a 123", "a| |1|2|3"},
        {"gpt-2", "\xE4\xB8\xAD\xE6\x96\x87\xE3\x80\x82 \xCE\xB1",
         "\xE4\xB8\xAD\xE6\x96\x87|"
         "\xE3\x80\x82| \xCE\xB1"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const struct tok_split *split = tok_split_find(rows[i].pre, strlen(rows[i].pre));
        const size_t n = strlen(rows[i].text);
        char joined[256];
        size_t n_joined = 0;
        for (size_t at = 0, end; at < n; at = end) {
            end = split->next(rows[i].text, n, at);
            if (at)
                joined[n_joined++] = '|';
            memcpy(joined + n_joined, rows[i].text + at, end - at);
            n_joined += end - at;
        }
        joined[n_joined] = 0;
        if (strcmp(joined, rows[i].pieces) != 0)
            fail_msg("%s of '%s': got '%s'", rows[i].pre, rows[i].text, joined);
    }
}

static void sample_is_cut_as_by_the_reference(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const struct tok_split *split = tok_split_find(names[i], strlen(names[i]));
        char file[64];
        snprintf(file, sizeof file, "split-%s", names[i]);
        struct golden g;
        assert_true(golden_open(&g, file));
        while (golden_next(&g)) {
            const size_t n = g.end - g.first;
            uint64_t h = golden_hash_start;
            int64_t count = 0;
            for (size_t at = 0; at < n; count++)
                h = golden_hash(h, at = split->next(g.sample + g.first, n, at));
            if (count != g.count || h != g.hash)
                fail_msg("%s: piece at byte %zu has other cuts", names[i], g.first);
        }
        assert_int_equal(g.end, g.n_sample);
        golden_close(&g);
    }
}

static void random_bytes_and_cut_texts_stay_inside(void **state)
{
    (void)state;
    uint64_t rng = 3;
    for (int round = 0; round < 40000; round++) {
        const size_t n = 1 + (size_t)round % 17;
        char *text = malloc(n); /* exact, so that a sanitizer sees one byte too many */
        for (size_t i = 0; i < n; i++) {
            rng = rng * 6364136223846793005u + 1442695040888963407u;
            text[i] = rng >> 63 ? (char)(rng >> 40) : "' \n\rslL1\xF0\xE4\xC5\xBF"[rng >> 40 & 7];
        }
        for (size_t k = 0; k < sizeof names / sizeof names[0]; k++) {
            const struct tok_split *split = tok_split_find(names[k], strlen(names[k]));
            for (size_t at = 0, end; at < n; at = end) {
                end = split->next(text, n, at);
                assert_true(end > at && end <= n);
            }
        }
        free(text);
    }
}

static void an_unknown_name_is_not_found(void **state)
{
    (void)state;
    assert_null(tok_split_find("gpt-", 4));
    assert_null(tok_split_find("gpt-22", 6));
    assert_null(tok_split_find("", 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_are_cut_as_the_expressions_say),
        cmocka_unit_test(sample_is_cut_as_by_the_reference),
        cmocka_unit_test(random_bytes_and_cut_texts_stay_inside),
        cmocka_unit_test(an_unknown_name_is_not_found),
    };
    return cmocka_run_group_tests_name("tok_split", tests, NULL, NULL);
}
