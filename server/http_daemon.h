/* http_daemon.h - the listening side of HTTP: opened once, closed once.
 *
 * libmicrohttpd parses requests and writes heads and whole bodies; it runs in external
 * epoll mode, one MHD_run a loop turn.  The bytes of a stream are framed and written here,
 * straight to the socket, while the library's connection is suspended: that costs one system
 * call an event instead of three, and a stream needs no buffer unless its reader is slow.
 *
 * Every wait has an end: heads, bodies and idle connections have absolute deadlines; a client
 * that takes no byte for stall_ms is dropped by the kernel (TCP_USER_TIMEOUT).
 *
 * Thread: the loop thread. */
#ifndef SERVER_HTTP_DAEMON_H
#define SERVER_HTTP_DAEMON_H

#include "server/auth.h"
#include "server/http.h"

struct http;

struct http_options {
    const char *host;        /* address or name to listen on */
    int32_t port;            /* 0 = any free port */
    int listen_fd;           /* a listening socket instead of these two; 0 = none */
    int32_t connections_max; /* one more is answered 503 and closed */
    int32_t per_ip_max;      /* connections of one address that is not loopback; 0 = no limit */
    uint32_t header_ms, body_ms, idle_ms, stall_ms;
    bool log_requests;
    const struct route *routes;
    const struct auth *auth;
    /* Called once the head is known and before the body is read: false with *e set refuses. */
    bool (*admit)(const struct server *sv, const struct route *r, struct api_error *e);
};

struct http *http_open(const struct http_options *o, struct server *sv,
                       struct status *st) MUST_CHECK;
int32_t http_port(const struct http *h);
int32_t
http_n_busy(const struct http *h); /* requests a handler has, or whose answer is on its way */
int32_t http_n_connections(const struct http *h);
/* Takes no new connection from now on: they wait in the listening socket.  For a drain whose socket
 * another process goes on with. */
void http_pause(struct http *h);
bool http_is_loopback(int fd); /* no other machine can reach the socket fd */
/* Ends every exchange: what was not answered is answered with e, a stream gets e as its last
 * event.  Their `gone` is called. */
void http_cut(struct http *h, const struct api_error *e);
void http_stop(
    struct http *h); /* closes every connection and all handles; run the loop once more */
void http_close(struct http *h); /* after the loop has run dry */

#endif
