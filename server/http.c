/* http.c - one exchange from request line to log line: guard, route, key, body, handler, answer. */
#include "server/http_int.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "server/metrics.h"

enum {
    CHUNKS_MAX = 65536,     /* pieces of one chunked body */
    DRAIN_BYTES_MAX = 65536 /* of a body that no route wants */
};

static uint64_t now_ns(const struct http *h)
{
    return clock_now(h->sv->clock);
}

/* ---- phases of a connection ---- */

void conn_enter(struct conn *c, enum conn_phase phase)
{
    const struct http_options *o = &c->http->o;
    const uint32_t limit_ms[] = {[CONN_HEAD] = o->header_ms,
                                 [CONN_BODY] = o->body_ms,
                                 [CONN_BUSY] = 0,
                                 [CONN_IDLE] = o->idle_ms,
                                 [CONN_DOOMED] = 1000};
    c->phase = phase;
    c->deadline_ns = limit_ms[phase] ? now_ns(c->http) + limit_ms[phase] * NS_PER_MS : 0;
}

void conn_doom(struct conn *c, int status, const struct api_error *e)
{
    char head[256];
    struct buf body;
    buf_init(&body, 4096);
    api_error_write(e, &body);
    int n = snprintf(head, sizeof head,
                     "HTTP/1.1 %d Refused\r\nConnection: close\r\n"
                     "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
                     status, body.n);
    struct iovec iov[2] = {{head, (size_t)n}, {body.at, body.n}};
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};
    ssize_t sent = sendmsg(c->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
    (void)sent; /* a client that cannot take 300 bytes gets none */
    shutdown(c->fd, SHUT_WR);
    buf_close(&body);
    if (c->http->sv->metrics)
        metrics_rejected(c->http->sv->metrics, e->code);
    if (c->x) {
        c->x->refused = true;
        c->x->status = status;
    }
    conn_enter(c, CONN_DOOMED);
}

/* ---- one exchange ---- */

void exchange_schedule(struct exchange *x)
{
    if (!x->woken) {
        x->woken = true;
        TAILQ_INSERT_TAIL(&x->http->wakes, x, wake);
    }
    loop_kick(x->http);
}

void exchange_leave(struct exchange *x)
{
    void (*gone)(void *) = x->gone;
    x->gone = NULL;
    x->fill = NULL;
    if (gone)
        gone(x->gone_ctx);
}

void exchange_kill(struct exchange *x, int status)
{
    if (x->dead)
        return;
    x->dead = true;
    x->status = status;
    exchange_leave(x);
    exchange_schedule(x);
}

void exchange_suspend(struct exchange *x)
{
    MHD_suspend_connection(x->mhd);
    x->suspended = true;
    conn_watch(x->conn, UV_DISCONNECT);
}

void exchange_resume(struct exchange *x)
{
    if (!x->suspended)
        return;
    x->suspended = false;
    x->http->due = true;
    MHD_resume_connection(x->mhd);
}

static void make_id(struct exchange *x)
{
    struct http *h = x->http;
    uint64_t n = ++h->id_counter;
    struct hash128 id = siphash128(&h->id_key, &n, sizeof n);
    snprintf(x->id, sizeof x->id, "%016" PRIx64 "%016" PRIx64, id.hi, id.lo);
}

static void take_id(struct exchange *x)
{
    const char *id = MHD_lookup_connection_value(x->mhd, MHD_HEADER_KIND, "x-request-id");
    if (!id)
        return;
    size_t n = strspn(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-");
    if (n >= 1 && n < sizeof x->id && id[n] == '\0')
        memcpy(x->id, id, n + 1);
}

/* The request line is in.  What is returned becomes *context of on_request. */
static void *on_target(void *cls, const char *uri, struct MHD_Connection *mhd)
{
    struct http *h = cls;
    const union MHD_ConnectionInfo *i =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct conn *c = i ? i->socket_context : NULL;
    struct exchange *x = c ? calloc(1, sizeof *x) : NULL;
    if (!x)
        return NULL; /* on_request closes */
    *x = (struct exchange){.conn = c, .http = h, .mhd = mhd, .n_prompt = -1};
    x->rest = "";
    x->target_at = uri;
    x->arrived_ns = now_ns(h);
    buf_init(&x->unsent, SIZE_MAX / 2);
    make_id(x);
    size_t n = uri ? strlen(uri) : 0;
    x->target_fault = guard_target(uri ? uri : "", n, x->path);
    /* The library cuts the line at a NUL; then the version does not follow the target. */
    if (h->trusts_layout && uri && strncmp(uri + n + 1, "HTTP/", 5) != 0)
        x->target_fault = GUARD_BAD_TARGET;
    LIST_INSERT_HEAD(&h->exchanges, x, all);
    c->x = x;
    if (c->phase != CONN_DOOMED)
        conn_enter(c, CONN_HEAD);
    return x;
}

/* ---- guard ---- */

struct head_walk {
    struct guard guard;
    enum guard_fault fault;
    bool trusts_layout;
};

/* libmicrohttpd 0.9 cuts lines in place: CR LF becomes two NULs, a bare LF one, and a folded line
 * is glued to the header's name.  So the bytes around a header tell what its line was. */
static bool line_was_clean(const char *name, size_t n_name, const char *value, size_t n_value)
{
    const char *gap = name + n_name + 1;
    if (value < gap || value - gap > GUARD_HEADER_BYTES_MAX)
        return false;
    for (; gap < value; gap++)
        if (*gap != ' ' && *gap != '\t')
            return false;
    return value[n_value + 1] == '\0';
}

static enum MHD_Result check_header(void *cls, enum MHD_ValueKind kind, const char *name,
                                    size_t n_name, const char *value, size_t n_value)
{
    struct head_walk *w = cls;
    (void)kind;
    w->fault = value ? guard_header(&w->guard, name, n_name, value, n_value) : GUARD_BAD_HEADER;
    if (w->fault == GUARD_OK && w->trusts_layout && !line_was_clean(name, n_name, value, n_value))
        w->fault = GUARD_BAD_HEADER;
    return w->fault == GUARD_OK ? MHD_YES : MHD_NO;
}

static enum guard_fault check_head(struct exchange *x, const char *method, const char *version,
                                   struct guard *out)
{
    struct head_walk w = {.trusts_layout = x->http->trusts_layout};
    enum guard_fault fault = x->target_fault;
    if (fault == GUARD_OK || fault == GUARD_NO_ROUTE) {
        enum guard_fault f = guard_version(version);
        if (f == GUARD_OK)
            f = guard_method(method);
        if (f == GUARD_OK && w.trusts_layout &&
            (version[strlen(version) + 1] != '\0' || x->target_at != method + strlen(method) + 1))
            f = GUARD_BAD_HEADER; /* a bare LF behind the version; two spaces before the target */
        if (f != GUARD_OK)
            return f;
    }
    MHD_get_connection_values_n(x->mhd, MHD_HEADER_KIND, check_header, &w);
    if (w.fault == GUARD_OK)
        w.fault = guard_finish(&w.guard, version);
    *out = w.guard;
    return w.fault != GUARD_OK ? w.fault : fault;
}

/* ---- route ---- */

/* Does the path match, and what does a last "*" take? */
static bool route_matches(const struct route *r, const char *path, const char **rest)
{
    size_t n = strlen(r->path);
    if (n == 0 || r->path[n - 1] != '*')
        return strcmp(r->path, path) == 0;
    if (strncmp(r->path, path, n - 1) != 0 || path[n - 1] == '\0')
        return false;
    *rest = path + n - 1;
    return true;
}

static bool method_matches(const struct route *r, const char *method)
{
    return strcmp(r->method, method) == 0 ||
           (strcmp(method, "HEAD") == 0 && strcmp(r->method, "GET") == 0);
}

/* The route, or NULL with `allow` listing the methods of a known path ("" = unknown). */
static const struct route *find_route(struct exchange *x, char *allow, size_t allow_max)
{
    size_t n = 0;
    allow[0] = '\0';
    for (const struct route *r = x->http->o.routes; r->method; r++) {
        const char *rest = "";
        if (!route_matches(r, x->path, &rest))
            continue;
        if (method_matches(r, x->method)) {
            x->rest = rest;
            return r;
        }
        int wrote = snprintf(allow + n, allow_max - n, "%s%s", n ? ", " : "", r->method);
        if (wrote > 0 && (size_t)wrote < allow_max - n)
            n += (size_t)wrote;
    }
    return NULL;
}

static bool is_json(const char *type)
{
    static const char want[] = "application/json";
    if (strncasecmp(type, want, sizeof want - 1) != 0)
        return false;
    type += sizeof want - 1;
    type += strspn(type, " \t");
    if (*type == '\0')
        return true;
    if (*type != ';')
        return false;
    type += 1 + strspn(type + 1, " \t");
    if (strncasecmp(type, "charset=", 8) != 0)
        return *type == '\0';
    type += 8;
    type += *type == '"';
    return strncasecmp(type, "utf-8", 5) == 0 && (type[5] == '\0' || strcmp(type + 5, "\"") == 0);
}

static size_t body_max(const struct exchange *x)
{
    if (!x->route || x->route->body_max == 0)
        return DRAIN_BYTES_MAX;
    size_t own = (size_t)x->http->sv->limits.body_bytes_max;
    return own < x->route->body_max ? own : x->route->body_max;
}

static void body_too_large(const struct exchange *x, struct api_error *e)
{
    api_error_set(e, 413, "body_too_large", NULL, "the body has more than %zu bytes", body_max(x));
}

/* Everything that can be refused before the body is read. */
static bool may_proceed(struct exchange *x, const struct guard *g, struct api_error *e, char *allow,
                        size_t allow_max)
{
    struct http *h = x->http;
    if (strcmp(x->method, "OPTIONS") == 0 &&
        MHD_lookup_connection_value(x->mhd, MHD_HEADER_KIND, "Origin")) {
        api_error_set(e, 403, "cors_not_allowed", NULL, "requests from other origins are refused");
        return false;
    }
    x->route = find_route(x, allow, allow_max);
    bool open = x->route && x->route->auth == ROUTE_OPEN;
    const char *key = MHD_lookup_connection_value(x->mhd, MHD_HEADER_KIND, "Authorization");
    if (!open && !auth_check(h->o.auth, key, &x->domain)) {
        api_error_set(e, 401, "invalid_api_key", NULL,
                      "this server wants \"Authorization: Bearer KEY\" with a valid key");
        return false;
    }
    if (!x->route && allow[0]) {
        api_error_set(e, 405, "method_not_allowed", NULL, "this path takes %s", allow);
        return false;
    }
    if (!x->route) {
        api_error_set(e, 404, "unknown_url", NULL, "no such path");
        return false;
    }
    if (h->o.admit && !h->o.admit(h->sv, x->route, e))
        return false;
    const char *type = MHD_lookup_connection_value(x->mhd, MHD_HEADER_KIND, "Content-Type");
    if (x->route->body_max > 0 && type && !is_json(type)) {
        api_error_set(e, 415, "unsupported_media_type", NULL,
                      "Content-Type must be application/json in UTF-8");
        return false;
    }
    if (MHD_lookup_connection_value(x->mhd, MHD_HEADER_KIND, "Content-Encoding")) {
        api_error_set(e, 415, "unsupported_media_type", NULL,
                      "a body with Content-Encoding is not supported");
        return false;
    }
    if (g->length > body_max(x)) {
        body_too_large(x, e);
        return false;
    }
    return true;
}

/* ---- answers ---- */

static void add_header(struct exchange *x, const char *name, const char *value)
{
    if (x->response)
        MHD_add_response_header(x->response, name, value);
}

static void set_response(struct exchange *x, int status, const char *content_type,
                         struct MHD_Response *r)
{
    x->response = r;
    x->status = status;
    if (!r) { /* no memory: the connection is closed */
        exchange_kill(x, 500);
        return;
    }
    if (content_type)
        add_header(x, "Content-Type", content_type);
    add_header(x, "x-request-id", x->id);
    if (x->http->sv->draining)
        add_header(x, "Connection", "close");
    if (!x->in_callback)
        exchange_schedule(x);
}

void http_answer(struct exchange *x, int status, const char *content_type, struct buf *body)
{
    if (x->dead || x->response || x->streams) {
        buf_close(body);
        return;
    }
    x->gone = NULL;
    x->n_sent = body->n;
    if (body->failed) { /* no http_fail here: it may be what could not be written */
        static char too_large[] =
            "{\"error\":{\"message\":\"the answer is too large, or memory is out\","
            "\"type\":\"server_error\",\"param\":null,"
            "\"code\":\"internal_error\"}}";
        buf_close(body);
        x->n_sent = sizeof too_large - 1;
        set_response(x, 500, "application/json",
                     MHD_create_response_from_buffer(sizeof too_large - 1, too_large,
                                                     MHD_RESPMEM_PERSISTENT));
        return;
    }
    struct MHD_Response *r = MHD_create_response_from_buffer(
        body->n, body->at, body->at ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT);
    if (!r)
        free(body->at);
    *body = (struct buf){.n_max = body->n_max};
    set_response(x, status, content_type, r);
}

void http_fail(struct exchange *x, const struct api_error *e)
{
    struct buf body;
    if (x->dead || x->response || x->streams)
        return;
    buf_init(&body, 8192);
    api_error_write(e, &body);
    if (x->http->sv->metrics)
        metrics_rejected(x->http->sv->metrics, e->code ? e->code : "error");
    http_answer(x, e->http_status, "application/json", &body);
    if (e->http_status == 401)
        add_header(x, "WWW-Authenticate", "Bearer");
    if (e->retry_after_s > 0) {
        char text[16];
        snprintf(text, sizeof text, "%d", (int)e->retry_after_s);
        add_header(x, "Retry-After", text);
    }
}

void http_set_gone(struct exchange *x, void (*gone)(void *ctx), void *ctx)
{
    x->gone = gone;
    x->gone_ctx = ctx;
}

/* Hands the finished response to the library. */
static enum MHD_Result queue_response(struct exchange *x)
{
    x->queued = true;
    return MHD_queue_response(x->mhd, (unsigned)x->status, x->response);
}

/* ---- the library's calls ---- */

/* Answering before the body is read makes the library close the connection.  With nothing to read
 * that can wait for the next call, and the connection is kept. */
static enum MHD_Result refuse(struct exchange *x, const struct api_error *e, const char *allow,
                              bool must_close)
{
    x->handled = x->refused = x->in_callback = true;
    x->http->n_busy++;
    http_fail(x, e);
    x->in_callback = false;
    if (e->http_status == 405)
        add_header(x, "Allow", allow);
    x->conn->linger = must_close;
    conn_enter(x->conn, CONN_BUSY);
    if (!x->response)
        return MHD_NO;
    return must_close ? queue_response(x) : MHD_YES;
}

static enum MHD_Result on_head(struct exchange *x, const char *method, const char *version)
{
    struct guard g = {0};
    struct api_error e;
    char allow[64] = "";
    snprintf(x->method, sizeof x->method, "%s", method);
    x->is_http_1_0 = strcmp(version, "HTTP/1.0") == 0;
    enum guard_fault fault = check_head(x, method, version, &g);
    x->chunked_body = g.chunked;
    take_id(x);
    if (fault != GUARD_OK) {
        const struct guard_answer *a = guard_answer(fault);
        api_error_set(&e, a->http_status, a->code, NULL, "%s", a->message);
        return refuse(x, &e, "", true);
    }
    if (!may_proceed(x, &g, &e, allow, sizeof allow))
        return refuse(x, &e, allow, g.chunked || g.length > 0);
    buf_init(&x->body, body_max(x));
    conn_enter(x->conn, CONN_BODY);
    return MHD_YES;
}

static void on_body(struct exchange *x, const char *bytes, size_t n)
{
    struct api_error e;
    if (x->conn->phase == CONN_DOOMED)
        return;
    if (x->chunked_body && ++x->n_chunks > CHUNKS_MAX) {
        api_error_set(&e, 413, "too_many_chunks", NULL, "the body has more than %d chunks",
                      CHUNKS_MAX);
        conn_doom(x->conn, 413, &e);
    } else if (!buf_put(&x->body, bytes, n)) {
        body_too_large(x, &e);
        conn_doom(x->conn, 413, &e);
    }
}

static enum MHD_Result on_whole(struct exchange *x)
{
    if (x->conn->phase == CONN_DOOMED || x->dead)
        return MHD_NO;
    if (!x->handled) {
        x->handled = true;
        x->http->n_busy++;
        conn_enter(x->conn, CONN_BUSY);
        if (x->route->body_max == 0)
            buf_close(&x->body);
        x->in_callback = true;
        x->route->handle(x, x->http->sv);
        x->in_callback = false;
    }
    if (x->dead)
        return MHD_NO;
    if (x->response && !x->queued)
        return queue_response(x);
    exchange_suspend(x);
    return MHD_YES;
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *mhd, const char *url,
                                  const char *method, const char *version, const char *upload,
                                  size_t *n_upload, void **context)
{
    struct exchange *x = *context;
    (void)cls, (void)mhd, (void)url;
    if (!x || (x->conn->phase == CONN_DOOMED && *n_upload == 0))
        return MHD_NO;
    if (x->method[0] == '\0')
        return on_head(x, method, version);
    if (*n_upload > 0) {
        on_body(x, upload, *n_upload);
        *n_upload = 0;
        return MHD_YES;
    }
    return on_whole(x);
}

static void log_exchange(const struct exchange *x, uint64_t ns)
{
    const char *finish = x->finish ? x->finish : "";
    char path[128];
    snprintf(path, sizeof path, "%.127s", x->path);
    if (x->n_prompt < 0)
        log_event(LOG_INFO, "request", LOG_S("id", x->id), LOG_S("method", x->method),
                  LOG_S("path", path), LOG_I("status", x->status), LOG_F("ms", (double)ns / 1e6),
                  LOG_I("bytes", x->n_sent));
    else
        log_event(LOG_INFO, "request", LOG_S("id", x->id), LOG_S("method", x->method),
                  LOG_S("path", path), LOG_I("status", x->status), LOG_F("ms", (double)ns / 1e6),
                  LOG_I("bytes", x->n_sent), LOG_I("prompt", x->n_prompt),
                  LOG_I("cached", x->n_cached), LOG_I("output", x->n_output),
                  LOG_S("finish", finish));
}

static void on_completed(void *cls, struct MHD_Connection *mhd, void **context,
                         enum MHD_RequestTerminationCode code)
{
    struct http *h = cls;
    struct exchange *x = *context;
    (void)mhd;
    *context = NULL;
    if (!x)
        return;
    bool answered = x->refused || x->stream_done;
    if (!x->dead && code != MHD_REQUEST_TERMINATED_COMPLETED_OK && !answered)
        x->status = 499; /* the client left; nobody saw a status */
    exchange_leave(x);
    uint64_t ns = now_ns(h) - x->arrived_ns;
    if (x->method[0] && h->sv->metrics)
        metrics_http(h->sv->metrics, x->route ? x->route->path : "other", x->method, x->status, ns);
    if (x->method[0] && h->o.log_requests)
        log_exchange(x, ns);
    if (x->response)
        MHD_destroy_response(x->response);
    if (x->woken)
        TAILQ_REMOVE(&h->wakes, x, wake);
    LIST_REMOVE(x, all);
    h->n_busy -= x->handled;
    x->conn->x = NULL;
    conn_watch(x->conn, UV_DISCONNECT);
    if (x->conn->phase != CONN_DOOMED)
        conn_enter(x->conn, CONN_IDLE);
    buf_close(&x->body);
    buf_close(&x->unsent);
    free(x);
}

/* ---- what handlers ask ---- */

const char *http_body(const struct exchange *x, size_t *n)
{
    *n = x->body.n;
    return x->body.at ? x->body.at : "";
}

const char *http_path_rest(const struct exchange *x)
{
    return x->rest;
}

struct hash128 http_domain(const struct exchange *x)
{
    return x->domain;
}

uint64_t http_arrived_ns(const struct exchange *x)
{
    return x->arrived_ns;
}

void http_log_tokens(struct exchange *x, int32_t n_prompt, int32_t n_cached, int32_t n_output,
                     const char *finish)
{
    x->n_prompt = n_prompt;
    x->n_cached = n_cached;
    x->n_output = n_output;
    x->finish = finish;
}

/* ---- open and close ---- */

static void ignore_library_log(void *cls, const char *fmt, va_list ap)
{
    char text[200];
    (void)cls;
    vsnprintf(text, sizeof text, fmt, ap);
    text[strcspn(text, "\n")] = '\0';
    log_event(LOG_DEBUG, "libmicrohttpd", LOG_S("said", text));
}

static bool start_daemon(struct http *h, int fd, struct status *st)
{
    /* Strictness is the guard's: what the library refuses itself, it refuses in HTML.
     * One spare connection above the limit is not enough: many may be waiting for their 503. */
    unsigned limit = (unsigned)h->o.connections_max + 64;
    h->mhd = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL, on_request, h,
        MHD_OPTION_EXTERNAL_LOGGER, ignore_library_log, NULL, MHD_OPTION_LISTEN_SOCKET, fd,
        MHD_OPTION_NOTIFY_CONNECTION, on_connection, h, MHD_OPTION_NOTIFY_COMPLETED, on_completed,
        h, MHD_OPTION_URI_LOG_CALLBACK, on_target, h, MHD_OPTION_CONNECTION_LIMIT, limit,
        MHD_OPTION_CONNECTION_TIMEOUT, 0u, MHD_OPTION_STRICT_FOR_CLIENT, 0,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)32768, MHD_OPTION_END);
    if (h->mhd)
        return true;
    close(fd);
    return status_fail(st, STATUS_IO, "libmicrohttpd did not start");
}

struct http *http_open(const struct http_options *o, struct server *sv, struct status *st)
{
    struct http *h = calloc(1, sizeof *h);
    if (!h || !hash_key_random(&h->id_key)) {
        free(h);
        status_fail(st, STATUS_BUSY, "no memory for the HTTP front");
        return NULL;
    }
    h->o = *o;
    h->sv = sv;
    h->trusts_layout = strncmp(MHD_get_version(), "0.9.", 4) == 0;
    LIST_INIT(&h->conns);
    LIST_INIT(&h->exchanges);
    LIST_INIT(&h->lingers);
    TAILQ_INIT(&h->wakes);
    buf_init(&h->scratch, (size_t)4 << 20);
    int fd = listen_open(o, &h->port, st);
    if (fd < 0 || !start_daemon(h, fd, st) || !loop_start(h, st)) {
        if (h->mhd)
            MHD_stop_daemon(h->mhd);
        free(h);
        return NULL;
    }
    return h;
}

int32_t http_port(const struct http *h)
{
    return h->port;
}

int32_t http_n_busy(const struct http *h)
{
    return h->n_busy;
}

int32_t http_n_connections(const struct http *h)
{
    return h->n_conns;
}

void http_pause(struct http *h)
{
    int fd = MHD_quiesce_daemon(h->mhd);
    if (fd >= 0)
        close(fd); /* whoever handed it over has it too */
}

void http_cut(struct http *h, const struct api_error *e)
{
    struct exchange *x;
    LIST_FOREACH(x, &h->exchanges, all)
    {
        if (x->dead || !x->handled)
            continue;
        if (x->streams) {
            stream_cut(x, e);
        } else if (!x->response) {
            exchange_leave(x);
            http_fail(x, e);
        }
    }
}

void http_stop(struct http *h)
{
    struct exchange *x, *next;
    struct conn *c;
    if (h->stopping)
        return;
    h->stopping = true;
    int fd = MHD_quiesce_daemon(h->mhd);
    if (fd >= 0)
        close(fd);
    for (x = LIST_FIRST(&h->exchanges); x; x = next) {
        next = LIST_NEXT(x, all);
        exchange_kill(x, x->status ? x->status : 503);
        exchange_resume(x);
    }
    /* Suspended connections make MHD_stop_daemon abort: let each run once and end. */
    for (int i = 0; i < 3; i++)
        MHD_run(h->mhd);
    LIST_FOREACH(c, &h->conns, all)
    conn_watch(c, 0);
    loop_stop(h);
    MHD_stop_daemon(h->mhd);
    h->mhd = NULL;
    linger_stop(h);
}

void http_close(struct http *h)
{
    if (!h)
        return;
    buf_close(&h->scratch);
    free(h);
}
