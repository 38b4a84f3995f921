/* What bench_response promises: any cut of an answer's bytes is read alike, an answer ends where
 * HTTP says it does, and what is not HTTP is seen.  And of bench_hist: a quantile is never below
 * the true one, and at most one part in 64 above it. */
#include "server/bench_response.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/hash.h"
#include "server/bench_hist.h"

#define HEAD    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
#define CHUNKED HEAD "Transfer-Encoding: chunked\r\n\r\n"

static const struct answer {
    const char *name, *bytes;
    enum response_state state; /* after the last byte, then after the close */
    bool ends_by_close;
    int status;
    uint32_t n_events;
    bool done, has_error, closes;
    int32_t n_tokens; /* that usage says, or 0 for none */
} answers[] = {
    {"an event a chunk",
     CHUNKED "a\r\ndata: {1}\n\r\n1\r\n\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n", RESPONSE_END,
     false, 200, 1, true, false, false, 0},
    {"events across chunks",
     CHUNKED "3\r\ndat\r\n9\r\na: {1}\n\nd\r\nB\r\nata: {2}\n\n:\r\n0\r\n\r\n", RESPONSE_END, false,
     200, 2, false, false, false, 0},
    {"a trailer and an extension", CHUNKED "a;x=y\r\ndata: {1}\n\r\n0\r\nDigest: none\r\n\r\n",
     RESPONSE_END, false, 200, 1, false, false, false, 0},
    {"how it ended and usage are no text",
     HEAD "Connection: close\r\n\r\n"
          "data: {\"choices\":[{\"text\":\"\",\"finish_reason\":null}],\"usage\":null}\n\n"
          "data: {\"choices\": [{\"text\": \"b\", \"finish_reason\": \"length\"}]}\n\n"
          "data: {\"choices\":[{\"text\":\"\",\"finish_reason\":\"length\"}],\"usage\":null}\n\n"
          "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":31}}\n\n",
     RESPONSE_STREAM, true, 200, 2, false, false, true, 31},
    {"an error event", HEAD "Content-Length: 26\r\n\r\ndata: {\"error\":{\"a\":\"b\"}}\n",
     RESPONSE_END, false, 200, 0, false, true, false, 0},
    {"an answer with a length",
     "HTTP/1.1 503 Busy\r\ncontent-length: 2\r\nConnection: close\r\n\r\n{}", RESPONSE_END, false,
     503, 0, false, false, true, 0},
    {"an answer without a body", "HTTP/1.1 429 Later\r\nContent-Length: 0\r\n\r\n", RESPONSE_END,
     false, 429, 0, false, false, false, 0},
    {"a body until the close", "HTTP/1.0 200 OK\r\n\r\ndata: {1}\n\ndata: {2}\n\n", RESPONSE_STREAM,
     true, 200, 2, false, false, true, 0},
    {"100 before 200", "HTTP/1.1 100 Continue\r\n\r\n" HEAD "Content-Length: 0\r\n\r\n",
     RESPONSE_END, false, 200, 0, false, false, false, 0},
    {"no HTTP", "SSH-2.0-OpenSSH\r\n", RESPONSE_BROKEN, false, 0, 0, false, false, false, 0},
    {"a chunk without a size", CHUNKED "\r\n", RESPONSE_BROKEN, false, 200, 0, false, false, false, 0},
    {"an answer cut short", CHUNKED "a\r\ndata:", RESPONSE_CHUNK, false, 200, 0, false, false,
     false, 0},
};
enum { N_ANSWERS = sizeof answers / sizeof *answers };

static void check(const struct answer *a, struct response *r)
{
    const bool as_told = r->state == a->state && r->status == a->status &&
                         r->n_events == a->n_events && r->done == a->done &&
                         r->has_error == a->has_error && r->closes == a->closes &&
                         r->n_tokens == (a->n_tokens ? a->n_tokens : -1);
    if (!as_told)
        fail_msg("%s: state %d, status %d, %u events", a->name, (int)r->state, r->status,
                 r->n_events);
    assert_int_equal(response_closed(r), a->state == RESPONSE_END || a->ends_by_close);
}

/* From memory of exactly these bytes, so that reading past them is seen. */
static size_t feed(struct response *r, const char *bytes, size_t n)
{
    char *copy = malloc(n ? n : 1);
    memcpy(copy, bytes, n);
    const size_t n_read = response_feed(r, copy, n);
    free(copy);
    return n_read;
}

static void every_cut_of_an_answer_is_read_alike(void **state)
{
    (void)state;
    for (int i = 0; i < N_ANSWERS; i++) {
        const char *bytes = answers[i].bytes;
        const size_t n = strlen(bytes);
        for (size_t cut = 0; cut <= n; cut++) {
            struct response r;
            response_init(&r);
            feed(&r, bytes, cut);
            feed(&r, bytes + cut, n - cut);
            check(&answers[i], &r);
        }
        struct response r;
        response_init(&r);
        for (size_t at = 0; at < n; at++)
            feed(&r, bytes + at, 1);
        check(&answers[i], &r);
    }
}

static void bytes_after_the_end_are_not_read(void **state)
{
    (void)state;
    static const char bytes[] = HEAD "Content-Length: 2\r\n\r\n{}HTTP/1.1 200";
    struct response r;
    response_init(&r);
    assert_int_equal(feed(&r, bytes, sizeof bytes - 1), sizeof bytes - 1 - strlen("HTTP/1.1 200"));
    assert_int_equal(r.state, RESPONSE_END);
}

static int compare(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void a_quantile_is_at_most_a_64th_above_the_true_one(void **state)
{
    (void)state;
    enum { N = 5000 };
    static struct hist h;
    static uint64_t ns[N];
    for (uint64_t i = 0; i < N; i++) {
        ns[i] = hash64_mix(i + 1) >> (i % 64); /* every magnitude */
        hist_add(&h, ns[i]);
    }
    qsort(ns, N, sizeof *ns, compare);
    for (int i = 1; i <= N; i++) {
        const uint64_t truth = ns[i - 1], told = hist_quantile(&h, ((double)i - 0.5) / N);
        assert_true(told >= truth && told - truth <= truth / 64);
    }
}

static void a_quantile_of_nothing_is_zero(void **state)
{
    (void)state;
    static struct hist h;
    assert_int_equal(hist_quantile(&h, 0.5), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_cut_of_an_answer_is_read_alike),
        cmocka_unit_test(bytes_after_the_end_are_not_read),
        cmocka_unit_test(a_quantile_is_at_most_a_64th_above_the_true_one),
        cmocka_unit_test(a_quantile_of_nothing_is_zero),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
