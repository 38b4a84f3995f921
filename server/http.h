/* http.h - one HTTP exchange, as a handler sees it.
 *
 * libmicrohttpd runs in external-epoll mode inside the libuv loop; this module owns
 * its daemon and hides it.  By the time a handler is called the request has passed
 * the guard (framing, headers, target), routing, authentication, and its whole body
 * is in memory, within the route's limit.
 *
 * A handler answers exactly once: with a whole body (http_answer), an error
 * (http_fail), or a stream (http_stream).  It may do so later, from the loop thread: the
 * exchange stays valid until the handler's `gone` or the answer's end.  If the client
 * leaves first, `gone(ctx)` is called once, at once, and the exchange must not be touched
 * after it returns.
 *
 * A stream is pulled, not pushed: when the socket has room, `fill` appends what is ready
 * now.  So a reader that is slow holds back only itself, and one that is fast gets several
 * events in one write.
 *
 * Thread: the loop thread, all of it. */
#ifndef SERVER_HTTP_H
#define SERVER_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/hash.h"
#include "base/status.h"

struct exchange;
struct server;

/* What the OpenAI error object needs: {"error":{"message","type","param","code"}}. */
struct api_error {
    int http_status;  /* 400..599 */
    const char *type; /* "invalid_request_error"; NULL = from http_status */
    const char *code; /* "context_length_exceeded" or NULL */
    char param[64];   /* "messages[0].content", "" = null */
    char message[512];
    int32_t retry_after_s; /* 0 = no Retry-After header */
};

void api_error_set(struct api_error *e, int http_status, const char *code, const char *param,
                   const char *fmt, ...) __attribute__((format(printf, 5, 6)));
/* The one table from status codes to HTTP (STYLE: errors). */
void api_error_from_status(struct api_error *e, const struct status *st);
void api_error_write(const struct api_error *e, struct buf *out); /* the JSON object */

enum route_auth { ROUTE_OPEN, ROUTE_KEY };

struct route {
    const char *method; /* "GET", "POST" */
    const char *path;   /* exact; a last segment of "*" takes one segment of any name */
    enum route_auth auth;
    size_t body_max; /* bytes; 0 = no body is read */
    void (*handle)(struct exchange *x, struct server *sv);
};

extern const struct route routes[]; /* routes.c: every path of the daemon; ends with a zero row */

/* The request. */
const char *http_body(const struct exchange *x, size_t *n); /* NUL-terminated */
const char *http_path_rest(const struct exchange *x);       /* what '*' matched, decoded; or "" */
struct hash128 http_domain(const struct exchange *x);       /* trust domain of its key */
uint64_t http_arrived_ns(const struct exchange *x);

/* The answer.  Bodies and headers are taken over or copied. */
void http_set_gone(struct exchange *x, void (*gone)(void *ctx), void *ctx);
void http_answer(struct exchange *x, int status, const char *content_type, struct buf *body);
void http_fail(struct exchange *x, const struct api_error *e);

enum fill { FILL_MORE_LATER, FILL_END };
/* `fill` is called when the socket wants bytes; FILL_MORE_LATER with nothing appended suspends
 * until http_stream_wake.  It should stop appending at `room` bytes. */
void http_stream(struct exchange *x, int status, const char *content_type,
                 enum fill (*fill)(void *ctx, struct buf *out, size_t room), void *ctx);
void http_stream_wake(struct exchange *x); /* cheap, may repeat; acts once per loop turn */

/* What the request's log line says beside method, path, status, bytes and time. */
void http_log_tokens(struct exchange *x, int32_t n_prompt, int32_t n_cached, int32_t n_output,
                     const char *finish);

#endif
