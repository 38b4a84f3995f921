/* http_conn.c - connections: their number, their deadlines, and noticing that a client left. */
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "server/http_int.h"

enum {
    LINGERS_MAX = 256,
    LINGER_BYTES_MAX = 4 << 20,
    LINGER_MS = 2000,
    LOOKS_MAX = 8,
    STUCK_SWEEPS = 3
};

/* ---- the watch ----
 * The library's epoll set is edge-triggered, and a suspended connection is in none.  An end of
 * input that arrives with the bytes before it is no edge of its own: the library takes the bytes,
 * and waits for what never comes.  So each connection is watched here for its end, by level. */

static void free_handle(uv_handle_t *h)
{
    free(h);
}

/* The client says no more.  What it said before is the library's to read first; then it is told of
 * the end again. */
static void look_at_end(struct conn *c)
{
    int n = 0;
    bool reads = ioctl(c->fd, FIONREAD, &n) == 0 && n > 0;
    if (reads && (n != c->n_unread || c->n_looks++ < LOOKS_MAX)) {
        c->n_unread = n;
        return;
    }
    conn_watch(c, 0);
    shutdown(c->fd, SHUT_RD); /* an edge for the library; an answer may still go out */
}

static void on_watch(uv_poll_t *p, int status, int events)
{
    struct conn *c = p->data;
    struct exchange *x = c->x;
    bool ended = status < 0 || (events & UV_DISCONNECT);
    if (ended && x && x->suspended) {
        conn_watch(c, 0);
        exchange_kill(x, 499);
    } else if (ended && status == 0 && c->phase != CONN_BUSY) {
        look_at_end(c);
    } else if (ended) {
        conn_watch(c, 0); /* the library is writing, and sees for itself */
    } else if (x && (events & UV_WRITABLE)) {
        conn_watch(c, UV_DISCONNECT);
        exchange_schedule(x); /* x->blocked is cleared by what sends the rest */
    }
}

static bool make_watch(struct conn *c)
{
    uv_poll_t *w = malloc(sizeof *w);
    if (!w || uv_poll_init(c->http->sv->loop, w, c->fd) != 0) {
        free(w);
        return false; /* without a watch a client that leaves is noticed at a deadline or a write */
    }
    w->data = c;
    c->watch = w;
    return true;
}

void conn_watch(struct conn *c, int events)
{
    if (events == c->watched || (events && !c->watch && !make_watch(c)))
        return;
    c->watched = events;
    if (events)
        uv_poll_start(c->watch, events, on_watch);
    else
        uv_poll_stop(c->watch);
}

/* ---- lingering close ----
 * Closing a socket with unread bytes resets it, and the reset can overtake the answer.  So a second
 * descriptor keeps the socket open and reads what still comes, within limits. */

static void on_linger_closed(uv_handle_t *handle)
{
    struct lingerer *l = handle->data;
    close(l->fd);
    free(l);
}

static void linger_end(struct lingerer *l)
{
    LIST_REMOVE(l, all);
    l->http->n_lingering--;
    uv_poll_stop(&l->poll);
    uv_close((uv_handle_t *)&l->poll, on_linger_closed);
}

static void on_linger(uv_poll_t *p, int status, int events)
{
    struct lingerer *l = p->data;
    char dropped[16384];
    (void)events;
    for (int i = 0; i < 8 && status == 0; i++) {
        ssize_t n = recv(l->fd, dropped, sizeof dropped, MSG_DONTWAIT);
        if (n < 0)
            return;
        l->n_read += (size_t)n;
        if (n == 0 || l->n_read > LINGER_BYTES_MAX)
            status = -1;
    }
    if (status != 0)
        linger_end(l);
}

static void linger_begin(struct conn *c)
{
    struct http *h = c->http;
    struct lingerer *l = h->n_lingering < LINGERS_MAX && !h->stopping ? calloc(1, sizeof *l) : NULL;
    if (!l)
        return;
    l->fd = dup(c->fd);
    if (l->fd < 0 || uv_poll_init(h->sv->loop, &l->poll, l->fd) != 0) {
        if (l->fd >= 0)
            close(l->fd);
        free(l);
        return;
    }
    l->http = h;
    l->poll.data = l;
    l->deadline_ns = clock_now(h->sv->clock) + LINGER_MS * NS_PER_MS;
    LIST_INSERT_HEAD(&h->lingers, l, all);
    h->n_lingering++;
    uv_poll_start(&l->poll, UV_READABLE | UV_DISCONNECT, on_linger);
}

void linger_stop(struct http *h)
{
    while (!LIST_EMPTY(&h->lingers))
        linger_end(LIST_FIRST(&h->lingers));
}

/* ---- accept and close ---- */

static bool read_peer(struct conn *c)
{
    struct sockaddr_storage ss;
    socklen_t n = sizeof ss;
    if (getpeername(c->fd, (struct sockaddr *)&ss, &n) != 0)
        return false;
    if (ss.ss_family == AF_INET6) {
        memcpy(c->addr, &((struct sockaddr_in6 *)&ss)->sin6_addr, 16);
    } else if (ss.ss_family == AF_INET) {
        c->addr[10] = c->addr[11] = 0xff;
        memcpy(c->addr + 12, &((struct sockaddr_in *)&ss)->sin_addr, 4);
    }
    return true;
}

static bool is_loopback(const struct conn *c)
{
    static const uint8_t v6[16] = {[15] = 1};
    static const uint8_t v4[13] = {[10] = 0xff, [11] = 0xff, [12] = 127};
    return memcmp(c->addr, v6, sizeof v6) == 0 || memcmp(c->addr, v4, sizeof v4) == 0;
}

static int32_t count_same_address(const struct conn *c)
{
    int32_t n = 0;
    const struct conn *other;
    LIST_FOREACH(other, &c->http->conns, all)
    n += memcmp(other->addr, c->addr, sizeof c->addr) == 0;
    return n;
}

static void admit_connection(struct conn *c)
{
    struct http *h = c->http;
    struct api_error e;
    if (h->n_conns > h->o.connections_max) {
        api_error_set(&e, 503, "too_many_connections", NULL,
                      "the server has %d connections, its limit", (int)h->o.connections_max);
        conn_doom(c, 503, &e);
    } else if (h->o.per_ip_max > 0 && !is_loopback(c) && count_same_address(c) > h->o.per_ip_max) {
        api_error_set(&e, 429, "too_many_connections", NULL,
                      "this address has %d connections, the limit", (int)h->o.per_ip_max);
        conn_doom(c, 429, &e);
    }
}

static void conn_open(struct http *h, struct MHD_Connection *mhd, void **socket_context)
{
    const union MHD_ConnectionInfo *i =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct conn *c = i ? calloc(1, sizeof *c) : NULL;
    *socket_context = c; /* NULL: on_target makes no exchange and the request is closed */
    if (!c)
        return;
    c->http = h;
    c->fd = i->connect_fd;
    LIST_INSERT_HEAD(&h->conns, c, all);
    h->n_conns++;
    conn_enter(c, CONN_HEAD);
    conn_watch(c, UV_DISCONNECT);
    if (read_peer(c))
        admit_connection(c);
}

static void conn_close(struct conn *c)
{
    if (c->linger)
        linger_begin(c);
    if (c->watch) {
        conn_watch(c, 0);
        uv_close((uv_handle_t *)c->watch, free_handle);
    }
    LIST_REMOVE(c, all);
    c->http->n_conns--;
    free(c);
}

void on_connection(void *cls, struct MHD_Connection *mhd, void **socket_context,
                   enum MHD_ConnectionNotificationCode code)
{
    if (code == MHD_CONNECTION_NOTIFY_STARTED)
        conn_open(cls, mhd, socket_context);
    else if (*socket_context)
        conn_close(*socket_context);
}

/* ---- deadlines ---- */

static void expire(struct conn *c)
{
    struct api_error e;
    bool has_request = c->phase == CONN_BODY || (c->phase == CONN_HEAD && c->x);
    if (has_request) {
        api_error_set(&e, 408, "request_timeout", NULL, "the %s took longer than %u ms",
                      c->phase == CONN_BODY ? "body" : "head",
                      c->phase == CONN_BODY ? c->http->o.body_ms : c->http->o.header_ms);
        conn_doom(c, 408, &e);
    } else {
        c->deadline_ns = 0;
    }
    shutdown(c->fd, SHUT_RDWR); /* the library sees the end of input, and closes */
}

/* Input waits and the library takes none of it, sweep after sweep: one line of a chunked body has
 * filled its buffer, and it would try again, at full speed, until the deadline. */
static bool is_stuck(struct conn *c)
{
    int n = 0;
    if (c->phase != CONN_BODY || !c->x || ioctl(c->fd, FIONREAD, &n) != 0 || n <= 0) {
        c->n_stuck = 0;
        return false;
    }
    uint64_t mark = (uint64_t)c->x->body.n << 32 | (unsigned)n;
    c->n_stuck = mark == c->stuck_mark ? c->n_stuck + 1 : 0;
    c->stuck_mark = mark;
    return c->n_stuck >= STUCK_SWEEPS;
}

static void refuse_stuck(struct conn *c)
{
    struct api_error e;
    api_error_set(&e, 400, "bad_framing", NULL, "a line between chunks is too long");
    conn_doom(c, 400, &e);
    shutdown(c->fd, SHUT_RDWR);
}

void sweep_deadlines(uv_timer_t *t)
{
    struct http *h = t->data;
    uint64_t now = clock_now(h->sv->clock);
    struct conn *c;
    LIST_FOREACH(c, &h->conns, all)
    {
        if (c->deadline_ns && now >= c->deadline_ns)
            expire(c);
        else if (is_stuck(c))
            refuse_stuck(c);
    }
    struct lingerer *l, *next;
    for (l = LIST_FIRST(&h->lingers); l; l = next) {
        next = LIST_NEXT(l, all);
        if (now >= l->deadline_ns)
            linger_end(l);
    }
}
