/* http_fixture.h - a daemon in a thread of the test, with routes that show what reached them. */
#ifndef TESTS_HTTP_FIXTURE_H
#define TESTS_HTTP_FIXTURE_H

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

#include "base/log.h"
#include "server/http_daemon.h"
#include "server/server.h"

static atomic_int n_smuggled, n_gone, n_posted;
static atomic_ullong gone_at_ns;
static struct http *fixture_http; /* the daemon's, once it runs; for its own thread */

static uint64_t now_ns(void)
{
    return clock_now(&clock_real);
}

static void sleep_ms(int ms)
{
    struct timespec t = {ms / 1000, (long)(ms % 1000) * 1000000};
    nanosleep(&t, NULL);
}

/* ---- routes ---- */

static void on_echo(struct exchange *x, struct server *sv)
{
    size_t n;
    struct buf body;
    (void)sv;
    buf_init(&body, 1 << 20);
    const char *text = http_body(x, &n);
    buf_put(&body, text, n);
    atomic_fetch_add(&n_posted, 1);
    http_answer(x, 200, "application/json", &body);
}

static void on_plain(struct exchange *x, struct server *sv)
{
    struct buf body;
    (void)sv;
    buf_init(&body, 1 << 20);
    buf_printf(&body, "plain %s", http_path_rest(x));
    http_answer(x, 200, "text/plain", &body);
}

static void on_smuggled(struct exchange *x, struct server *sv)
{
    atomic_fetch_add(&n_smuggled, 1);
    on_plain(x, sv);
}

static void count_gone(void *ctx)
{
    (void)ctx;
    atomic_store(&gone_at_ns, now_ns());
    atomic_fetch_add(&n_gone, 1);
}

static void on_never(struct exchange *x, struct server *sv)
{
    (void)sv;
    http_set_gone(x, count_gone, x);
}

struct ticker { /* one stream: an event every `ms`, `left` times; left < 0 = for ever */
    uv_timer_t timer;
    struct exchange *x;
    int ready, left, seq;
    size_t pad;
};

static void free_ticker(uv_handle_t *h)
{
    free(h->data);
}

static void ticker_gone(void *ctx)
{
    struct ticker *t = ctx;
    count_gone(NULL);
    uv_close((uv_handle_t *)&t->timer, free_ticker);
}

static void on_tick(uv_timer_t *timer)
{
    struct ticker *t = timer->data;
    t->ready++;
    http_stream_wake(t->x);
}

static enum fill fill_ticks(void *ctx, struct buf *out, size_t room)
{
    struct ticker *t = ctx;
    while (t->ready > 0 && t->left != 0 && out->n < room) {
        buf_printf(out, "data: %d %*s\n\n", t->seq++, (int)t->pad, "");
        t->ready--;
        t->left -= t->left > 0;
    }
    if (t->left != 0)
        return FILL_MORE_LATER;
    uv_close((uv_handle_t *)&t->timer, free_ticker);
    return FILL_END;
}

static void start_ticker(struct exchange *x, struct server *sv, int ms, int n, size_t pad)
{
    struct ticker *t = calloc(1, sizeof *t);
    *t = (struct ticker){.x = x, .left = n, .pad = pad};
    uv_timer_init(sv->loop, &t->timer);
    t->timer.data = t;
    uv_timer_start(&t->timer, on_tick, (uint64_t)ms, (uint64_t)ms);
    http_set_gone(x, ticker_gone, t);
    http_stream(x, 200, "text/event-stream", fill_ticks, t);
}

static void on_stream(struct exchange *x, struct server *sv)
{
    start_ticker(x, sv, 5, 20, 0);
}

static void on_endless(struct exchange *x, struct server *sv)
{
    start_ticker(x, sv, 20, -1, 0);
}

static void on_cut_at_once(struct exchange *x, struct server *sv)
{
    struct api_error e;
    (void)sv;
    start_ticker(x, sv, 20, -1, 0);
    api_error_set(&e, 503, "server_shutting_down", NULL, "cut");
    http_cut(fixture_http, &e); /* before the head is out */
}

static void on_too_large(struct exchange *x, struct server *sv)
{
    struct buf body;
    (void)sv;
    buf_init(&body, 8);
    buf_put_str(&body, "more than eight bytes");
    http_answer(x, 200, "text/plain", &body);
}

static enum fill fill_always(void *ctx, struct buf *out, size_t room)
{
    (void)ctx;
    while (out->n < room)
        buf_put_str(out, "data: 0123456789012345678901234567890123456789\n\n");
    return FILL_MORE_LATER;
}

static void on_flood(struct exchange *x, struct server *sv)
{
    (void)sv;
    http_set_gone(x, count_gone, x);
    http_stream(x, 200, "text/event-stream", fill_always, x);
}

struct later {
    uv_timer_t timer;
    struct exchange *x;
};

static void free_later(uv_handle_t *h)
{
    free(h->data);
}

static void answer_later(uv_timer_t *timer)
{
    struct later *l = timer->data;
    struct buf body;
    buf_init(&body, 64);
    buf_put_str(&body, "later");
    http_answer(l->x, 200, "text/plain", &body);
    uv_close((uv_handle_t *)timer, free_later);
}

static void later_gone(void *ctx)
{
    struct later *l = ctx;
    count_gone(NULL);
    uv_close((uv_handle_t *)&l->timer, free_later);
}

static void on_later(struct exchange *x, struct server *sv)
{
    struct later *l = calloc(1, sizeof *l);
    l->x = x;
    uv_timer_init(sv->loop, &l->timer);
    l->timer.data = l;
    http_set_gone(x, later_gone, l);
    uv_timer_start(&l->timer, answer_later, 20, 0);
}

static const struct route test_routes[] = {
    {"POST", "/echo", ROUTE_OPEN, 65536, on_echo},
    {"POST", "/locked", ROUTE_KEY, 65536, on_echo},
    {"GET", "/locked", ROUTE_KEY, 0, on_plain},
    {"GET", "/plain", ROUTE_OPEN, 0, on_plain},
    {"GET", "/items/*", ROUTE_OPEN, 0, on_plain},
    {"GET", "/smuggled", ROUTE_OPEN, 0, on_smuggled},
    {"GET", "/never", ROUTE_OPEN, 0, on_never},
    {"GET", "/later", ROUTE_OPEN, 0, on_later},
    {"GET", "/stream", ROUTE_OPEN, 0, on_stream},
    {"GET", "/endless", ROUTE_OPEN, 0, on_endless},
    {"GET", "/flood", ROUTE_OPEN, 0, on_flood},
    {"GET", "/cut", ROUTE_OPEN, 0, on_cut_at_once},
    {"GET", "/too-large", ROUTE_OPEN, 0, on_too_large},
    {0},
};

/* ---- the daemon ---- */

struct daemon {
    uv_loop_t loop;
    uv_async_t stop, cut;
    struct server sv;
    struct http *http;
    struct auth *auth;
    pthread_t thread;
    int port;
    struct http_options o;
};

static void on_stop(uv_async_t *a)
{
    struct daemon *d = a->data;
    http_stop(d->http);
    uv_close((uv_handle_t *)&d->stop, NULL);
    uv_close((uv_handle_t *)&d->cut, NULL);
}

static void on_cut(uv_async_t *a)
{
    struct daemon *d = a->data;
    struct api_error e;
    api_error_set(&e, 503, "server_shutting_down", NULL, "cut");
    http_cut(d->http, &e);
}

static void *run_loop(void *arg)
{
    struct daemon *d = arg;
    uv_run(&d->loop, UV_RUN_DEFAULT);
    return NULL;
}

static bool admit_unless_draining(const struct server *sv, const struct route *r,
                                  struct api_error *e)
{
    (void)r;
    if (sv->draining)
        api_error_set(e, 503, "draining", NULL, "draining");
    return !sv->draining;
}

static void daemon_start(struct daemon *d, const char *key_file)
{
    struct status st = {0};
    struct http_options o = {.host = "127.0.0.1",
                             .connections_max = 4000,
                             .header_ms = 10000,
                             .body_ms = 60000,
                             .idle_ms = 75000,
                             .stall_ms = 60000,
                             .routes = test_routes,
                             .admit = admit_unless_draining};
    if (d->o.connections_max)
        o.connections_max = d->o.connections_max;
    if (d->o.header_ms)
        o.header_ms = d->o.header_ms;
    if (d->o.body_ms)
        o.body_ms = d->o.body_ms;
    if (d->o.idle_ms)
        o.idle_ms = d->o.idle_ms;
    if (d->o.stall_ms)
        o.stall_ms = d->o.stall_ms;
    signal(SIGPIPE, SIG_IGN);
    log_init(LOG_ERROR, LOG_TEXT);
    d->auth = auth_open(key_file, &st);
    if (!d->auth)
        fail_msg("%s", st.msg);
    o.auth = d->auth;
    uv_loop_init(&d->loop);
    d->sv.loop = &d->loop;
    d->sv.clock = &clock_real;
    d->sv.limits.body_bytes_max = 65536;
    uv_async_init(&d->loop, &d->stop, on_stop);
    uv_async_init(&d->loop, &d->cut, on_cut);
    d->stop.data = d->cut.data = d;
    d->http = http_open(&o, &d->sv, &st);
    if (!d->http)
        fail_msg("%s", st.msg);
    d->port = http_port(d->http);
    fixture_http = d->http;
    pthread_create(&d->thread, NULL, run_loop, d);
}

static void daemon_stop(struct daemon *d)
{
    uv_async_send(&d->stop);
    pthread_join(d->thread, NULL);
    assert_int_equal(uv_loop_close(&d->loop), 0);
    http_close(d->http);
    auth_close(d->auth);
}

/* ---- a client that says exactly these bytes ---- */

static int dial(const struct daemon *d)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)d->port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

static void say(int fd, const char *bytes, size_t n)
{
    while (n > 0) {
        ssize_t sent = send(fd, bytes, n, MSG_NOSIGNAL);
        if (sent < 0)
            return; /* the daemon closed already: what it answered is what counts */
        bytes += sent;
        n -= (size_t)sent;
    }
}

static void say_str(int fd, const char *s)
{
    say(fd, s, strlen(s));
}

struct heard {
    char text[1 << 20];
    size_t n;
    bool closed;
};

/* Reads until `until` was heard (NULL: never), the peer closes, or quiet_ms pass in silence. */
static void hear(int fd, struct heard *h, const char *until, int quiet_ms)
{
    memset(h, 0, offsetof(struct heard, n) > 256 ? 256 : 1);
    h->n = 0;
    h->closed = false;
    while (h->n < sizeof h->text - 1) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (poll(&p, 1, quiet_ms) <= 0)
            return;
        ssize_t n = recv(fd, h->text + h->n, sizeof h->text - 1 - h->n, 0);
        if (n <= 0) {
            h->closed = true;
            return;
        }
        h->n += (size_t)n;
        h->text[h->n] = '\0';
        if (until && strstr(h->text, until))
            return;
    }
}

static int status_of(const struct heard *h)
{
    int status = 0;
    return sscanf(h->text, "HTTP/1.%*d %d", &status) == 1 ? status : 0;
}

static int count_of(const struct heard *h, const char *needle)
{
    int n = 0;
    for (const char *s = h->text; (s = strstr(s, needle)); s++)
        n++;
    return n;
}

#endif
