/* http_stream.c - the body of a stream: pulled from its handler, framed, and sent from here.
 *
 * The library writes the head.  When it asks for the first body byte, the head is in the kernel and
 * its own buffer is empty; from then on its connection stays suspended and this file sends
 * chunks to the socket.  At the end the library is resumed and writes the last chunk. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "base/log.h"
#include "server/http_int.h"

enum {
    ROOM = 16384,       /* bytes asked for at once: several events when behind */
    FILLS_PER_TURN = 4, /* then other streams have their turn */
};

/* Sends what waits.  True when nothing waits any more. */
static bool flush_unsent(struct exchange *x)
{
    while (x->unsent_at < x->unsent.n) {
        ssize_t n = send(x->conn->fd, x->unsent.at + x->unsent_at, x->unsent.n - x->unsent_at,
                         MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            x->blocked = true;
            conn_watch(x->conn, UV_DISCONNECT | UV_WRITABLE);
            return false;
        }
        if (n < 0) {
            exchange_kill(x, 499);
            return false;
        }
        x->unsent_at += (size_t)n;
    }
    buf_close(&x->unsent);
    x->unsent_at = 0;
    if (x->blocked) {
        x->blocked = false;
        conn_watch(x->conn, UV_DISCONNECT);
    }
    return true;
}

/* Sends head, n bytes and tail; what the socket does not take waits in `unsent`. */
static void send_framed(struct exchange *x, const char *bytes, size_t n)
{
    char head[24];
    int n_head = x->is_http_1_0 ? 0 : snprintf(head, sizeof head, "%zx\r\n", n);
    size_t n_tail = x->is_http_1_0 ? 0 : 2;
    struct iovec iov[3] = {{head, (size_t)n_head}, {(void *)(uintptr_t)bytes, n}, {"\r\n", n_tail}};
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 3};
    ssize_t sent = sendmsg(x->conn->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
        exchange_kill(x, 499);
        return;
    }
    x->n_sent += n;
    size_t skip = sent > 0 ? (size_t)sent : 0;
    for (int i = 0; i < 3; i++) {
        size_t part = skip < iov[i].iov_len ? skip : iov[i].iov_len;
        if (part < iov[i].iov_len)
            buf_put(&x->unsent, (char *)iov[i].iov_base + part, iov[i].iov_len - part);
        skip -= part;
    }
    if (x->unsent.failed)
        exchange_kill(x, 500);
    else if (x->unsent.n > 0)
        flush_unsent(x);
}

static void finish_stream(struct exchange *x)
{
    x->stream_done = true;
    conn_watch(x->conn, 0); /* who leaves now has heard it all */
    exchange_resume(x);
}

void stream_pump(struct exchange *x)
{
    if (!x->direct || x->stream_done || !flush_unsent(x))
        return;
    struct buf *out = &x->http->scratch;
    for (int i = 0; i < FILLS_PER_TURN && x->fill; i++) {
        buf_clear(out);
        enum fill more = x->fill(x->fill_ctx, out, ROOM);
        if (more == FILL_END) {
            x->fill = NULL;
            x->gone = NULL;
        }
        if (out->failed) {
            log_event(LOG_ERROR, "an event passed the limit of a stream", LOG_S("id", x->id));
            exchange_kill(x, 500);
            return;
        }
        if (out->n == 0 && x->fill)
            return; /* until http_stream_wake */
        if (out->n > 0)
            send_framed(x, out->at, out->n);
        if (x->dead || x->blocked)
            return;
    }
    if (x->fill)
        exchange_schedule(x);
    else
        finish_stream(x);
}

/* The library asks for body bytes: its head is out. */
static ssize_t on_read(void *cls, uint64_t pos, char *at, size_t max)
{
    struct exchange *x = cls;
    (void)pos, (void)max;
    if (x->dead) {
        /* After END_WITH_ERROR here, 0.9.75 keeps the closed connection until chance looks at it
         * again.  A byte that cannot be sent makes it close and clean up. */
        shutdown(x->conn->fd, SHUT_RDWR);
        *at = ' ';
        return 1;
    }
    if (x->stream_done)
        return MHD_CONTENT_READER_END_OF_STREAM;
    x->direct = true;
    exchange_suspend(x);
    exchange_schedule(x);
    return 0;
}

void http_stream(struct exchange *x, int status, const char *content_type,
                 enum fill (*fill)(void *ctx, struct buf *out, size_t room), void *ctx)
{
    if (x->dead || x->response || x->streams)
        return;
    struct MHD_Response *r =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 256, on_read, x, NULL);
    x->fill = fill;
    x->fill_ctx = ctx;
    x->streams = true;
    if (r) {
        MHD_add_response_header(r, "Cache-Control", "no-cache");
        MHD_add_response_header(r, "X-Accel-Buffering", "no");
        MHD_add_response_header(r, "Content-Type", content_type);
        MHD_add_response_header(r, "x-request-id", x->id);
        if (x->http->sv->draining)
            MHD_add_response_header(r, "Connection", "close");
    }
    x->response = r;
    x->status = status;
    if (!r)
        exchange_kill(x, 500);
    else if (!x->in_callback)
        exchange_schedule(x);
}

void http_stream_wake(struct exchange *x)
{
    if (!x->blocked && x->streams && !x->woken)
        exchange_schedule(x);
}

void stream_cut(struct exchange *x, const struct api_error *e)
{
    if (!x->fill)
        return; /* its end is on the way already */
    struct buf event;
    exchange_leave(x);
    buf_init(&event, 8192);
    buf_put_str(&event, "data: ");
    api_error_write(e, &event);
    buf_put_str(&event, "\n\n");
    if (x->blocked || !x->direct) { /* the head is not out yet: the first pump sends it */
        char head[24];
        snprintf(head, sizeof head, "%zx\r\n", event.n);
        if (!x->is_http_1_0)
            buf_put_str(&x->unsent, head);
        buf_put(&x->unsent, event.at, event.n);
        if (!x->is_http_1_0)
            buf_put_str(&x->unsent, "\r\n");
    } else {
        send_framed(x, event.at, event.n);
    }
    buf_close(&event);
    exchange_schedule(x);
}
