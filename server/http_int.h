/* http_int.h - the parts of a connection and an exchange, for http*.c alone.
 *
 *     accept ─► CONN_HEAD ─► CONN_BODY ─► CONN_BUSY ─► CONN_IDLE ─► CONN_HEAD ...
 *                  └───────────┴─► CONN_DOOMED: answered by raw bytes, input is dropped
 *
 * conn_enter() performs each arrow and sets the deadline of the new phase. */
#ifndef SERVER_HTTP_INT_H
#define SERVER_HTTP_INT_H

#include <microhttpd.h>
#include <sys/queue.h>
#include <uv.h>

#include "server/http_daemon.h"
#include "server/http_guard.h"
#include "server/server.h"

enum conn_phase { CONN_HEAD, CONN_BODY, CONN_BUSY, CONN_IDLE, CONN_DOOMED };

struct conn { /* from accept to close */
    struct http *http;
    int fd; /* the library's; it closes it after on_connection says CLOSED */
    enum conn_phase phase;
    uint64_t deadline_ns; /* of the phase; 0 = none */
    uint8_t addr[16];     /* IPv6, or IPv4 mapped */
    struct exchange *x;   /* the request in flight, or NULL */
    uv_poll_t *watch;     /* made when first needed; frees itself */
    int watched;          /* events it is started for; 0 = stopped */
    int n_unread;         /* bytes in the socket when its end was last looked at */
    uint64_t stuck_mark;  /* where the body stood at the last sweep that found input waiting */
    int n_stuck;          /* sweeps that found it there */
    int n_looks;          /* at the end, with as many bytes still unread */
    bool linger;          /* an answer went out while the client may still be sending */
    LIST_ENTRY(conn) all;
};

struct exchange { /* from the request line to the end of the answer */
    struct conn *conn;
    struct http *http;
    struct MHD_Connection *mhd;
    const struct route *route; /* NULL: none matched */
    char method[8];
    char path[GUARD_PATH_MAX];
    const char *rest; /* in path: what '*' matched */
    char id[129];
    const char *target_at; /* in the library's buffer; compared, never read */
    enum guard_fault target_fault;
    struct hash128 domain;
    uint64_t arrived_ns;
    struct buf body;
    int32_t n_chunks; /* calls that brought body bytes */
    bool chunked_body, is_http_1_0, refused;

    bool handled;     /* the handler was called */
    bool in_callback; /* inside the library: an answer is queued on return */
    bool suspended;   /* MHD_suspend_connection is in force */
    bool dead;        /* the client left, or the exchange was cut */
    bool woken;       /* on http.wakes */
    TAILQ_ENTRY(exchange) wake;
    LIST_ENTRY(exchange) all;

    void (*gone)(void *ctx); /* NULL: nobody to tell */
    void *gone_ctx;
    int status;
    struct MHD_Response *response; /* NULL: not answered yet */
    bool queued;                   /* the library has it too */
    uint64_t n_sent;               /* body bytes */

    enum fill (*fill)(void *ctx, struct buf *out, size_t room); /* NULL: ended, or no stream */
    void *fill_ctx;
    bool streams;      /* the answer is a stream */
    bool direct;       /* its head is out: bytes go straight to the socket */
    bool stream_done;  /* every byte of it is out */
    bool blocked;      /* the socket is full: waiting for UV_WRITABLE */
    struct buf unsent; /* what the socket did not take */
    size_t unsent_at;

    int32_t n_prompt, n_cached, n_output; /* -1 = not a generation */
    const char *finish;
};

struct lingerer { /* a socket the library is done with, read until its client stops sending */
    uv_poll_t poll;
    struct http *http;
    int fd;
    uint64_t deadline_ns;
    size_t n_read;
    LIST_ENTRY(lingerer) all;
};

struct http {
    struct http_options o;
    struct server *sv;
    struct MHD_Daemon *mhd;
    int32_t port, n_conns, n_busy, n_lingering;
    bool stopping, trusts_layout;
    struct hash_key id_key; /* request ids: unguessable, no system call each */
    uint64_t id_counter;
    LIST_HEAD(, conn) conns;
    LIST_HEAD(, exchange) exchanges;
    LIST_HEAD(, lingerer) lingers;
    TAILQ_HEAD(wakes, exchange) wakes;
    struct buf scratch; /* one stream's events, between fill and send */

    uv_poll_t epoll; /* the library's epoll fd */
    uv_check_t check;
    uv_idle_t idle; /* active <=> the next turn must not wait */
    uv_timer_t sweep;
    bool due; /* MHD_run has something to do */
};

/* http.c */
void conn_enter(struct conn *c, enum conn_phase phase);
void exchange_schedule(struct exchange *x); /* look at it in this turn, or the next */
void exchange_leave(struct exchange *x);    /* tells the handler, once, that it is over */
void exchange_kill(struct exchange *x, int status);
void exchange_suspend(struct exchange *x);
void exchange_resume(struct exchange *x);
/* An answer in raw bytes, for where the library can not give one; then input is dropped. */
void conn_doom(struct conn *c, int status, const struct api_error *e);

/* http_conn.c */
void conn_watch(struct conn *c, int events); /* 0 stops */
void on_connection(void *cls, struct MHD_Connection *mhd, void **socket_context,
                   enum MHD_ConnectionNotificationCode code);
void sweep_deadlines(uv_timer_t *t);
void linger_stop(struct http *h);

/* http_stream.c */
void stream_pump(struct exchange *x);
void stream_cut(struct exchange *x, const struct api_error *e);

/* http_loop.c */
bool loop_start(struct http *h, struct status *st) MUST_CHECK;
void loop_kick(struct http *h);
void loop_stop(struct http *h);

/* http_listen.c */
/* The socket and its port: opened, or the one that the options bring. */
int listen_open(const struct http_options *o, int32_t *port, struct status *st);

#endif
