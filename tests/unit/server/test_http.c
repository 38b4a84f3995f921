/* What the HTTP front promises: one answer for each request and none for what hides behind it;
 * a client that leaves is noticed at once; one that is slow holds back only itself; every wait
 * ends. Real sockets on loopback, against routes of the fixture. */
#include <dirent.h>

#include "http_fixture.h"
static int setup(void **state)
{
    struct daemon *d = test_calloc(1, sizeof *d);
    atomic_store(&n_smuggled, 0);
    atomic_store(&n_gone, 0);
    atomic_store(&n_posted, 0);
    daemon_start(d, NULL);
    *state = d;
    return 0;
}

static int teardown(void **state)
{
    daemon_stop(*state);
    test_free(*state);
    return 0;
}

static struct heard heard; /* large: not on the stack */

static const struct heard *ask(struct daemon *d, const char *bytes, size_t n)
{
    int fd = dial(d);
    say(fd, bytes, n);
    hear(fd, &heard, NULL, 400);
    close(fd);
    return &heard;
}

/* ---- what is answered ---- */

static void a_request_is_answered_and_its_connection_kept(void **state)
{
    int fd = dial(*state);
    for (int i = 0; i < 3; i++) {
        say_str(fd, "GET /items/a%20b HTTP/1.1\r\nHost: x\r\nx-request-id: abc-1\r\n\r\n");
        hear(fd, &heard, "plain a b", 2000);
        assert_int_equal(status_of(&heard), 200);
        assert_non_null(strstr(heard.text, "x-request-id: abc-1\r\n"));
    }
    close(fd);
}

static void a_body_reaches_its_handler(void **state)
{
    static const char whole[] = "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Type: application/json; "
                                "charset=utf-8\r\nContent-Length: 11\r\n\r\n{\"a\": true}";
    static const char pieces[] = "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
                                 "\r\n3\r\n{\"a\r\n8\r\n\": true}\r\n0\r\n\r\n";
    assert_non_null(strstr(ask(*state, whole, sizeof whole - 1)->text, "\r\n\r\n{\"a\": true}"));
    assert_non_null(strstr(ask(*state, pieces, sizeof pieces - 1)->text, "\r\n\r\n{\"a\": true}"));
    assert_int_equal(atomic_load(&n_posted), 2);
}

static void an_answer_may_come_later(void **state)
{
    int fd = dial(*state);
    for (int i = 0; i < 3; i++) {
        say_str(fd, "GET /later HTTP/1.1\r\nHost: x\r\n\r\n");
        hear(fd, &heard, "later", 2000);
        assert_int_equal(status_of(&heard), 200);
    }
    close(fd);
    assert_int_equal(atomic_load(&n_gone), 0);
}

static void a_thousand_pipelined_requests_are_answered_in_order(void **state)
{
    enum { N = 1000 };
    int fd = dial(*state);
    char line[96];
    int got = 0;
    for (int i = 0; i < N; i++)
        say(fd, line,
            (size_t)snprintf(line, sizeof line, "GET /items/n%04d HTTP/1.1\r\nHost: x\r\n\r\n", i));
    hear(fd, &heard, "plain n0999", 3000);
    for (const char *s = heard.text; (s = strstr(s, "plain n")); s++)
        assert_int_equal(atoi(s + 7), got++);
    assert_int_equal(got, N);
    close(fd);
}

static void a_stream_ends_and_its_connection_is_kept(void **state)
{
    int fd = dial(*state);
    for (int i = 0; i < 2; i++) {
        say_str(fd, "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
        hear(fd, &heard, "\r\n0\r\n\r\n", 2000);
        assert_int_equal(status_of(&heard), 200);
        assert_int_equal(count_of(&heard, "data: "), 20);
        assert_non_null(strstr(heard.text, "data: 19 "));
    }
    close(fd);
    assert_int_equal(atomic_load(&n_gone), 0);
}

static void a_stream_to_http_1_0_is_closed_at_its_end(void **state)
{
    int fd = dial(*state);
    say_str(fd, "GET /stream HTTP/1.0\r\n\r\n");
    hear(fd, &heard, NULL, 2000);
    assert_true(heard.closed);
    assert_int_equal(count_of(&heard, "data: "), 20);
    assert_null(strstr(heard.text, "\r\n0\r\n"));
    close(fd);
}

/* ---- what is refused ---- */

#define SMUGGLED       "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
#define POST           "POST /echo HTTP/1.1\r\nHost: x\r\n"
#define GET(target)    "GET " target " HTTP/1.1\r\nHost: x\r\n\r\n"
#define GET_WITH(line) "GET /plain HTTP/1.1\r\nHost: x\r\n" line "\r\n\r\n"
#define CASE(name, bytes, status)                                                                  \
    {                                                                                              \
        name, bytes, sizeof(bytes) - 1, status                                                     \
    }

static const struct refusal {
    const char *name, *bytes;
    size_t n;
    int status; /* 0: closed, and nothing need be said */
} refusals[] = {
    CASE("two equal lengths", POST "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}" SMUGGLED,
         400),
    CASE("two lengths", POST "Content-Length: 2\r\nContent-Length: 40\r\n\r\n{}" SMUGGLED, 400),
    CASE("two lengths, other way",
         POST "Content-Length: 40\r\nContent-Length: 2\r\n\r\n{}" SMUGGLED, 400),
    CASE("length and coding",
         POST "Content-Length: 40\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" SMUGGLED, 400),
    CASE("coding and length",
         POST "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" SMUGGLED, 400),
    CASE("space before colon", POST "Content-Length : 36\r\n\r\n" SMUGGLED, 400),
    CASE("coding with space before colon",
         POST "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" SMUGGLED, 400),
    CASE("unknown coding", POST "Transfer-Encoding: gzip\r\n\r\n" SMUGGLED, 501),
    CASE("two codings in one", POST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" SMUGGLED,
         501),
    CASE("xchunked", POST "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" SMUGGLED, 501),
    CASE("two coding headers",
         POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" SMUGGLED,
         400),
    CASE("coding on 1.0",
         "POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" SMUGGLED, 400),
    CASE("negative length", POST "Content-Length: -1\r\n\r\n" SMUGGLED, 400),
    CASE("signed length", POST "Content-Length: +2\r\n\r\n{}" SMUGGLED, 400),
    CASE("hex length", POST "Content-Length: 0x2\r\n\r\n{}" SMUGGLED, 400),
    CASE("list of lengths", POST "Content-Length: 2, 2\r\n\r\n{}" SMUGGLED, 400),
    CASE("empty length", POST "Content-Length:\r\n\r\n" SMUGGLED, 400),
    CASE("huge length", POST "Content-Length: 9223372036854775808\r\n\r\n" SMUGGLED, 413),
    CASE("length over the limit", POST "Content-Length: 65537\r\n\r\n{}" SMUGGLED, 413),
    CASE("two spaces before the target", "GET  /plain HTTP/1.1\r\nHost: x\r\n\r\n" SMUGGLED, 400),
    CASE("space in the target", GET("/plain x") SMUGGLED, 400),
    CASE("space behind the target", "GET /plain  HTTP/1.1\r\nHost: x\r\n\r\n" SMUGGLED, 400),
    CASE("two hosts", GET_WITH("Host: y"), 400),
    CASE("host with space", "GET /plain HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    CASE("host with slash", "GET /plain HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    CASE("no host", "GET /plain HTTP/1.1\r\nX: y\r\n\r\n", 400),
    CASE("two keys", GET_WITH("Authorization: Bearer a\r\nAuthorization: Bearer b"), 400),
    CASE("two types",
         POST "Content-Type: application/json\r\nContent-Type: text/plain\r\n"
              "Content-Length: 2\r\n\r\n{}" SMUGGLED,
         400),
    CASE("folded line", GET_WITH("X: a\r\n b") SMUGGLED, 400),
    CASE("bare LF after a header", "GET /plain HTTP/1.1\r\nHost: x\nX: y\r\n\r\n" SMUGGLED, 400),
    CASE("bare LF after the request line", "GET /plain HTTP/1.1\nHost: x\r\n\r\n" SMUGGLED, 400),
    CASE("bare CR", GET_WITH("X: a\rb") SMUGGLED, 400),
    CASE("NUL in a value", GET_WITH("X: a\0b") SMUGGLED, 400),
    CASE("NUL in a name", GET_WITH("X\0Y: b") SMUGGLED, 400),
    CASE("control in a value", GET_WITH("X: a\001b") SMUGGLED, 400),
    CASE("DEL in a value", GET_WITH("X: a\177b") SMUGGLED, 400),
    CASE("control in a name", GET_WITH("X\001: b") SMUGGLED, 400),
    CASE("parenthesis in a name", GET_WITH("X(: b") SMUGGLED, 400),
    CASE("%00", GET("/plain%00") SMUGGLED, 400),
    CASE("raw NUL in target", GET("/plain\0x") SMUGGLED, 400),
    CASE("bad escape", GET("/plain%zz") SMUGGLED, 400),
    CASE("cut escape", GET("/plain%2") SMUGGLED, 400),
    CASE("overlong slash", GET("/%c0%af") SMUGGLED, 400),
    CASE("dot segments", GET("/a/../plain") SMUGGLED, 400),
    CASE("escaped dot segments", GET("/a/%2e%2e/plain") SMUGGLED, 400),
    CASE("fragment", GET("/plain#x") SMUGGLED, 400),
    CASE("absolute form", GET("http://x/plain") SMUGGLED, 400),
    CASE("raw 8-bit target", GET("/pl\303\244in") SMUGGLED, 400),
    CASE("expectation", POST "Expect: 200-ok\r\nContent-Length: 2\r\n\r\n{}" SMUGGLED, 417),
    CASE("lower-case method", "get /plain HTTP/1.1\r\nHost: x\r\n\r\n" SMUGGLED, 400),
    CASE("broken method", "G(T /plain HTTP/1.1\r\nHost: x\r\n\r\n" SMUGGLED, 400),
    CASE("unknown method", "BREW /plain HTTP/1.1\r\nHost: x\r\n\r\n" SMUGGLED, 501),
    CASE("HTTP/1.9", "GET /plain HTTP/1.9\r\nHost: x\r\n\r\n" SMUGGLED, 505),
    CASE("TLS hello", "\026\003\001\002\0\001\0\001\374\003\003", 0),
};

static void what_is_ambiguous_is_refused_and_closed(void **state)
{
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        const struct refusal *r = &refusals[i];
        const struct heard *h = ask(*state, r->bytes, r->n);
        if (status_of(h) != r->status || (!h->closed && r->status))
            fail_msg("%s: want %d and close, got %d%s: %.300s", r->name, r->status, status_of(h),
                     h->closed ? " and close" : ", open", h->text);
        if (atomic_load(&n_smuggled) != 0)
            fail_msg("%s: the hidden request was served", r->name);
    }
    assert_int_equal(atomic_load(&n_posted), 0);
}

static void what_is_refused_after_the_guard_is_json(void **state)
{
    static const struct refusal table[] = {
        CASE("unknown path", GET("/nothing"), 404),
        CASE("two slashes", GET("//plain"), 404),
        CASE("wrong method", "DELETE /plain HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        CASE("foreign origin", "OPTIONS /echo HTTP/1.1\r\nHost: x\r\nOrigin: http://y\r\n\r\n",
             403),
        CASE("text", POST "Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}", 415),
        CASE("form", POST "Content-Type: multipart/form-data\r\nContent-Length: 2\r\n\r\n{}", 415),
        CASE("utf-16",
             POST "Content-Type: application/json; charset=utf-16\r\n"
                  "Content-Length: 2\r\n\r\n{}",
             415),
        CASE("packed", POST "Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}", 415),
        CASE("too large", POST "Content-Length: 70000\r\n\r\n{", 413),
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        const struct heard *h = ask(*state, table[i].bytes, table[i].n);
        if (status_of(h) != table[i].status || !strstr(h->text, "{\"error\":{\"message\":"))
            fail_msg("%s: want %d, got %.300s", table[i].name, table[i].status, h->text);
        if (table[i].status == 405)
            assert_non_null(strstr(h->text, "Allow: GET\r\n"));
    }
}

static void a_chunked_body_is_cut_at_the_limit(void **state)
{
    char chunk[1024 + 16];
    int n = snprintf(chunk, sizeof chunk, "400\r\n%01024d\r\n", 0);
    int fd = dial(*state);
    say_str(fd, POST "Transfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < 65; i++)
        say(fd, chunk, (size_t)n);
    hear(fd, &heard, NULL, 3000);
    assert_int_equal(status_of(&heard), 413);
    assert_non_null(strstr(heard.text, "65536 bytes"));
    assert_true(heard.closed);
    close(fd);
    assert_int_equal(atomic_load(&n_posted), 0);
}

static void a_body_of_too_many_chunks_is_cut(void **state)
{
    static char bytes[65537 * 6];
    for (size_t i = 0; i < 65537; i++)
        memcpy(bytes + i * 6, "1\r\n \r\n", 6);
    struct daemon *d = *state;
    int fd = dial(d);
    say_str(fd, "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    say(fd, bytes, sizeof bytes);
    hear(fd, &heard, NULL, 3000);
    assert_int_equal(status_of(&heard), 413);
    close(fd);
}

static void a_large_refused_body_does_not_reset_the_answer(void **state)
{
    static char body[1 << 20];
    memset(body, ' ', sizeof body);
    for (int i = 0; i < 5; i++) {
        int fd = dial(*state);
        say_str(fd, POST "Content-Length: 1048576\r\n\r\n");
        say(fd, body, sizeof body);
        hear(fd, &heard, NULL, 3000);
        assert_int_equal(status_of(&heard), 413);
        close(fd);
    }
}

/* ---- clients that leave, or are slow ---- */

static int count_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int n = 0;
    assert_non_null(dir);
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

/* The end is in the socket with the last bytes, before the daemon reads any of them. */
static void an_end_that_comes_with_the_last_bytes_is_seen(void **state)
{
    static const char *const said[] = {
        "GET /pl",
        POST "Content-Length: 10\r\n\r\n",
        POST "Content-Length: 10\r\n\r\n{",
        POST "Transfer-Encoding: chunked\r\n\r\n5",
        POST "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: y",
        GET("/plain"),
        GET("/plain") GET("/plain") "GET /pl",
    };
    struct daemon *d = *state;
    int before = count_fds();
    for (size_t i = 0; i < sizeof said / sizeof *said; i++) {
        int fd[60];
        for (int k = 0; k < 60; k++)
            fd[k] = dial(d);
        for (int k = 0; k < 60; k++) {
            say_str(fd[k], said[i]);
            close(fd[k]);
        }
        /* Sockets are accepted in their order: once one more is answered, all of these were. */
        assert_int_equal(status_of(ask(d, "GET /plain HTTP/1.0\r\n\r\n", 23)), 200);
        uint64_t t = now_ns();
        while (count_fds() > before && now_ns() - t < 3000 * NS_PER_MS)
            sleep_ms(5);
        if (count_fds() > before)
            fail_msg("%d connections stay after \"%s\"", count_fds() - before, said[i]);
    }
}

static void wait_gone(int n, int ms)
{
    for (int i = 0; i < ms && atomic_load(&n_gone) < n; i++)
        sleep_ms(1);
    assert_int_equal(atomic_load(&n_gone), n);
}

static void a_client_that_leaves_while_waiting_is_noticed(void **state)
{
    int fd = dial(*state);
    say_str(fd, "GET /never HTTP/1.1\r\nHost: x\r\n\r\n");
    sleep_ms(50);
    assert_int_equal(atomic_load(&n_gone), 0);
    uint64_t t = now_ns();
    close(fd);
    wait_gone(1, 1000);
    assert_true(atomic_load(&gone_at_ns) - t < 100 * NS_PER_MS);
}

static void a_client_that_resets_mid_stream_is_noticed(void **state)
{
    const struct linger now = {1, 0};
    int fd = dial(*state);
    say_str(fd, "GET /endless HTTP/1.1\r\nHost: x\r\n\r\n");
    hear(fd, &heard, "data: 1", 2000);
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    uint64_t t = now_ns();
    close(fd);
    wait_gone(1, 1000);
    assert_true(atomic_load(&gone_at_ns) - t < 100 * NS_PER_MS);
}

static void a_client_may_leave_after_any_byte(void **state)
{
    static const char request[] = POST "Content-Length: 2\r\n\r\n{}";
    static const char stream[] = "GET /endless HTTP/1.1\r\nHost: x\r\n\r\n";
    struct daemon *d = *state;
    const int n_fds = count_fds();
    for (size_t n = 0; n < sizeof request; n++) {
        int fd = dial(d);
        say(fd, request, n);
        close(fd);
        fd = dial(d);
        say(fd, stream, n < sizeof stream ? n : sizeof stream - 1);
        close(fd);
    }
    const struct heard *h = ask(d, request, sizeof request - 1);
    assert_int_equal(status_of(h), 200);
    assert_true(h->text[h->n - 1] == '}');
    for (int i = 0; i < 1000 && count_fds() > n_fds; i++)
        sleep_ms(1); /* far below the deadlines of the fixture */
    assert_int_equal(count_fds(), n_fds);
}

static void a_slow_reader_holds_back_only_itself(void **state)
{
    struct daemon *d = *state;
    int small = 4096;
    int slow = dial(d);
    setsockopt(slow, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    say_str(slow, "GET /flood HTTP/1.1\r\nHost: x\r\n\r\n");
    sleep_ms(200); /* its socket is full now */
    int fd = dial(d);
    uint64_t t = now_ns();
    say_str(fd, "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
    hear(fd, &heard, "\r\n0\r\n\r\n", 2000);
    assert_int_equal(count_of(&heard, "data: "), 20);
    assert_true(now_ns() - t < 1000 * NS_PER_MS);
    close(fd);
    /* And it loses nothing: what it reads is whole events, in whole chunks. */
    for (int i = 0; i < 20; i++) {
        hear(slow, &heard, "data: ", 1000);
        assert_true(heard.n > 0);
    }
    assert_int_equal(atomic_load(&n_gone), 0);
    close(slow);
    wait_gone(1, 1000);
}

static void a_thousand_streams_run_at_once(void **state)
{
    enum { N = 1000 };
    static int fd[N];
    for (int i = 0; i < N; i++) {
        fd[i] = dial(*state);
        say_str(fd[i], "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
    }
    for (int i = 0; i < N; i++) {
        hear(fd[i], &heard, "\r\n0\r\n\r\n", 10000);
        assert_int_equal(count_of(&heard, "data: "), 20);
        close(fd[i]);
    }
    assert_int_equal(atomic_load(&n_gone), 0);
}

static void a_stream_cut_before_its_head_is_out_still_says_why(void **state)
{
    struct daemon *d = *state;
    static const char *const requests[] = {"GET /cut HTTP/1.1\r\nHost: x\r\n\r\n",
                                           "GET /cut HTTP/1.0\r\n\r\n"};
    for (int i = 0; i < 2; i++) {
        int fd = dial(d);
        say_str(fd, requests[i]);
        hear(fd, &heard, "cut\"", 2000);
        assert_non_null(strstr(heard.text, "data: {\"error\":{\"message\":\"cut\""));
        close(fd);
    }
}

static void an_answer_past_its_limit_is_an_error_object(void **state)
{
    struct daemon *d = *state;
    int fd = dial(d);
    say_str(fd, "GET /too-large HTTP/1.1\r\nHost: x\r\n\r\n");
    hear(fd, &heard, "}}", 2000);
    assert_int_equal(status_of(&heard), 500);
    assert_non_null(strstr(heard.text, "\"code\":\"internal_error\"}}"));
    close(fd);
}

static void a_cut_ends_every_exchange_with_an_error(void **state)
{
    struct daemon *d = *state;
    int waiting = dial(d), streaming = dial(d);
    say_str(waiting, "GET /never HTTP/1.1\r\nHost: x\r\n\r\n");
    say_str(streaming, "GET /endless HTTP/1.1\r\nHost: x\r\n\r\n");
    hear(streaming, &heard, "data: 1", 2000);
    uv_async_send(&d->cut);
    hear(streaming, &heard, "\r\n0\r\n\r\n", 2000);
    assert_non_null(strstr(heard.text, "data: {\"error\":{\"message\":\"cut\""));
    hear(waiting, &heard, "}}", 2000);
    assert_int_equal(status_of(&heard), 503);
    wait_gone(2, 1000);
    close(waiting);
    close(streaming);
}

/* ---- limits of time and number ---- */

static struct daemon *restart(struct daemon *d, const struct http_options *o)
{
    daemon_stop(d);
    memset(d, 0, sizeof *d);
    d->o = *o;
    daemon_start(d, NULL);
    return d;
}

static int64_t ms_until_closed(int fd)
{
    uint64_t t = now_ns();
    hear(fd, &heard, NULL, 5000);
    return heard.closed ? (int64_t)((now_ns() - t) / NS_PER_MS) : -1;
}

static void a_chunk_line_that_never_ends_is_refused_soon(void **state)
{
    static char line[100000];
    int fd = dial(*state);
    memset(line, 'a', sizeof line);
    say_str(fd, POST "Transfer-Encoding: chunked\r\n\r\n5;");
    say(fd, line, sizeof line);
    assert_in_range(ms_until_closed(fd), 0, 4000);
    assert_int_equal(status_of(&heard), 400);
    close(fd);
}

static void every_wait_for_a_client_ends(void **state)
{
    static const struct http_options quick = {.header_ms = 200, .body_ms = 200, .idle_ms = 200};
    struct daemon *d = restart(*state, &quick);
    int silent = dial(d), head = dial(d), body = dial(d), idle = dial(d);
    say_str(head, "GET /plain HTTP/1.1\r\nHo");
    say_str(body, POST "Content-Length: 10\r\n\r\n{");
    say_str(idle, GET("/plain"));
    assert_in_range(ms_until_closed(silent), 0, 600);
    ms_until_closed(head);
    assert_int_equal(status_of(&heard), 408);
    assert_true(heard.closed);
    ms_until_closed(body);
    assert_int_equal(status_of(&heard), 408);
    assert_true(heard.closed);
    ms_until_closed(idle);
    assert_int_equal(status_of(&heard), 200);
    assert_true(heard.closed);
    close(silent), close(head), close(body), close(idle);
}

static void a_byte_now_and_then_does_not_move_a_deadline(void **state)
{
    static const struct http_options quick = {.header_ms = 300};
    struct daemon *d = restart(*state, &quick);
    int fd = dial(d);
    uint64_t t = now_ns();
    say_str(fd, "GET /plain HTTP/1.1\r\nX: ");
    for (int i = 0; i < 40 && now_ns() - t < 2000 * NS_PER_MS; i++) {
        char c;
        say_str(fd, "a");
        sleep_ms(50);
        if (recv(fd, &c, 1, MSG_DONTWAIT | MSG_PEEK) >= 0)
            break;
    }
    assert_true(now_ns() - t < 1000 * NS_PER_MS);
    close(fd);
}

static void a_reader_that_takes_nothing_is_dropped(void **state)
{
    static const struct http_options quick = {.stall_ms = 500};
    struct daemon *d = restart(*state, &quick);
    int small = 4096;
    int fd = dial(d);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    say_str(fd, "GET /flood HTTP/1.1\r\nHost: x\r\n\r\n");
    wait_gone(1, 5000);
    close(fd);
}

static void connections_over_the_limit_get_503(void **state)
{
    static const struct http_options few = {.connections_max = 4};
    struct daemon *d = restart(*state, &few);
    int fd[5];
    for (int i = 0; i < 4; i++) {
        fd[i] = dial(d);
        say_str(fd[i], GET("/plain"));
        hear(fd[i], &heard, "plain", 2000);
        assert_int_equal(status_of(&heard), 200);
    }
    fd[4] = dial(d);
    say_str(fd[4], GET("/plain"));
    hear(fd[4], &heard, NULL, 2000);
    assert_int_equal(status_of(&heard), 503);
    assert_true(heard.closed);
    for (int i = 0; i < 5; i++)
        close(fd[i]);
    sleep_ms(100);
    int again = dial(d);
    say_str(again, GET("/plain"));
    hear(again, &heard, "plain", 2000);
    assert_int_equal(status_of(&heard), 200);
    close(again);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_request_is_answered_and_its_connection_kept),
        TEST(a_body_reaches_its_handler),
        TEST(an_answer_may_come_later),
        TEST(a_thousand_pipelined_requests_are_answered_in_order),
        TEST(a_stream_ends_and_its_connection_is_kept),
        TEST(a_stream_to_http_1_0_is_closed_at_its_end),
        TEST(what_is_ambiguous_is_refused_and_closed),
        TEST(what_is_refused_after_the_guard_is_json),
        TEST(a_chunked_body_is_cut_at_the_limit),
        TEST(a_body_of_too_many_chunks_is_cut),
        TEST(a_large_refused_body_does_not_reset_the_answer),
        TEST(an_end_that_comes_with_the_last_bytes_is_seen),
        TEST(a_client_that_leaves_while_waiting_is_noticed),
        TEST(a_client_that_resets_mid_stream_is_noticed),
        TEST(a_client_may_leave_after_any_byte),
        TEST(a_slow_reader_holds_back_only_itself),
        TEST(a_thousand_streams_run_at_once),
        TEST(a_cut_ends_every_exchange_with_an_error),
        TEST(a_stream_cut_before_its_head_is_out_still_says_why),
        TEST(an_answer_past_its_limit_is_an_error_object),
        TEST(a_chunk_line_that_never_ends_is_refused_soon),
        TEST(every_wait_for_a_client_ends),
        TEST(a_byte_now_and_then_does_not_move_a_deadline),
        TEST(a_reader_that_takes_nothing_is_dropped),
        TEST(connections_over_the_limit_get_503),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
