/* What api_text promises: whole characters, nothing of a stop string or after it, and the same
 * text whatever tokens it came in. */
#include "server/api_text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/hash.h"
#include "base/json_scan.h"
#include "fake_tokenizer.h"

static uint64_t rng = 7;

static uint32_t draw(uint32_t n)
{
    rng++;
    return (uint32_t)(hash64_mix(rng) % n);
}

/* The text of raw bytes, cut before the stop string whose end comes first (the longest of those),
 * looked for from byte `from` on: by trying every place. */
static void write_expected(const char *raw, size_t n, size_t from, const struct stop_string *stop,
                           int n_stops, struct buf *out)
{
    size_t cut = n;
    for (size_t end = from + 1; end <= n && cut == n; end++)
        for (int i = 0; i < n_stops; i++) {
            const size_t len = (size_t)stop[i].n;
            if (len <= end - from && memcmp(raw + end - len, stop[i].at, len) == 0 &&
                end - len < cut)
                cut = end - len;
        }
    struct detok d = {0};
    char *text = malloc(DETOK_FACTOR * (cut + 4));
    buf_put(out, text, detok_feed(&d, raw, cut, text));
    buf_put(out, text, detok_finish(&d, text));
    free(text);
}

static void any_tokens_give_the_text_of_their_bytes_up_to_the_stop(void **state)
{
    (void)state;
    static const struct stop_string all[] = {{"stop", 4},         {" stop", 5},       {"aab", 3},
                                             {"\xe2\x82\xac", 3}, {"\n", 1},          {"b", 1},
                                             {"op\"", 3},         {"hello world", 11}};
    static const int32_t ids[] = {'a', 'b', 's', 't', 'o', 'p', 0xe2, 0x82, 0xac,    258,
                                  259, 260, 261, 262, 263, 264, 265,  266,  267,     268,
                                  269, 270, 271, 272, 273, 274, 275,  276,  FAKE_END};
    int n_stopped = 0;
    for (int trial = 0; trial < 20000; trial++) {
        struct stop_string stop[3];
        const int n_stops = (int)draw(4);
        for (int i = 0; i < n_stops; i++)
            stop[i] = all[draw(sizeof all / sizeof all[0])];
        const int n_min = draw(3) ? 0 : (int)draw(6);
        struct api_text t;
        struct buf got, raw, want;
        buf_init(&got, 65536);
        buf_init(&raw, 65536);
        buf_init(&want, 65536);
        api_text_init(&t, &fake_tokenizer, n_min, stop, n_stops);
        size_t from = 0, n_whole = 0;
        const int n_tokens = (int)draw(40);
        for (int i = 0; i < n_tokens; i++) {
            const int32_t id = ids[draw(sizeof ids / sizeof ids[0])];
            size_t n;
            const char *bytes = tokenizer_bytes(&fake_tokenizer, id, false, &n);
            buf_put(&raw, bytes, n);
            if (i < n_min)
                from = raw.n;
            api_text_feed(&t, id, &got);
            assert_true(utf8_valid(got.at ? got.at + n_whole : "", got.n - n_whole));
            n_whole = got.n;
        }
        const size_t n_before = got.n;
        api_text_finish(&t, &got);
        write_expected(raw.at ? raw.at : "", raw.n, from, stop, n_stops, &want);
        assert_int_equal(got.n, want.n);
        if (got.n)
            assert_memory_equal(got.at, want.at, got.n);
        assert_true(n_before <= want.n);
        n_stopped += api_text_stopped(&t);
        buf_close(&got);
        buf_close(&raw);
        buf_close(&want);
    }
    assert_true(n_stopped > 1000 && n_stopped < 19000);
}

static void a_stop_string_of_the_longest_kind_is_held_back_whole(void **state)
{
    (void)state;
    char text[STOP_BYTES_MAX];
    memset(text, 'a', sizeof text);
    const struct stop_string stop = {text, STOP_BYTES_MAX};
    struct api_text t;
    struct buf got;
    buf_init(&got, 65536);
    api_text_init(&t, &fake_tokenizer, 0, &stop, 1);
    for (int i = 0; i < STOP_BYTES_MAX - 1; i++)
        api_text_feed(&t, 'a', &got);
    assert_int_equal(got.n, 0);
    api_text_feed(&t, 'b', &got);
    assert_int_equal(got.n, STOP_BYTES_MAX);
    for (int i = 0; i < STOP_BYTES_MAX; i++)
        api_text_feed(&t, 'a', &got);
    api_text_finish(&t, &got);
    assert_int_equal(got.n, STOP_BYTES_MAX);
    assert_true(api_text_stopped(&t));
    buf_close(&got);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_tokens_give_the_text_of_their_bytes_up_to_the_stop),
        cmocka_unit_test(a_stop_string_of_the_longest_kind_is_held_back_whole),
    };
    return cmocka_run_group_tests_name("api_text", tests, NULL, NULL);
}
