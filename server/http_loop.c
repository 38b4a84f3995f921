/* http_loop.c - libmicrohttpd inside libuv: at most one MHD_run in a loop turn.
 *
 * All work is done in the check phase, after every callback of the turn has said what it wants, so
 * that a thousand wakes cost one pass.  A turn that must not wait is asked for with an active
 * idle handle: a timer of 0 ms re-armed by itself never lets libuv 1.44 go. */
#include <string.h>

#include "server/http_int.h"

static void on_epoll(uv_poll_t *p, int status, int events)
{
    struct http *h = p->data;
    (void)status, (void)events;
    h->due = true;
}

static void on_idle(uv_idle_t *i)
{
    (void)i; /* its being active is all that is wanted */
}

void loop_kick(struct http *h)
{
    if (!h->stopping && !uv_is_active((uv_handle_t *)&h->idle))
        uv_idle_start(&h->idle, on_idle);
}

static void look_at_woken(struct http *h)
{
    struct wakes now = TAILQ_HEAD_INITIALIZER(now);
    struct exchange *x;
    TAILQ_CONCAT(&now, &h->wakes, wake);
    while ((x = TAILQ_FIRST(&now))) {
        TAILQ_REMOVE(&now, x, wake);
        x->woken = false;
        if (x->dead || !x->direct)
            exchange_resume(x);
        else
            stream_pump(x);
    }
}

static void on_check(uv_check_t *c)
{
    struct http *h = c->data;
    MHD_UNSIGNED_LONG_LONG ms = 1;
    if (!h->due && TAILQ_EMPTY(&h->wakes))
        return;
    look_at_woken(h);
    if (h->due) {
        h->due = false;
        MHD_run(h->mhd);
        h->due = MHD_get_timeout(h->mhd, &ms) == MHD_YES && ms == 0;
    }
    if (h->due || !TAILQ_EMPTY(&h->wakes))
        loop_kick(h);
    else
        uv_idle_stop(&h->idle);
}

bool loop_start(struct http *h, struct status *st)
{
    const union MHD_DaemonInfo *i = MHD_get_daemon_info(h->mhd, MHD_DAEMON_INFO_EPOLL_FD);
    const uint32_t limits[] = {h->o.header_ms, h->o.body_ms, h->o.idle_ms};
    uint64_t sweep_ms = 500;
    uv_loop_t *loop = h->sv->loop;
    if (!i || uv_poll_init(loop, &h->epoll, i->epoll_fd) != 0)
        return status_fail(st, STATUS_IO, "cannot watch libmicrohttpd's epoll descriptor");
    for (size_t n = 0; n < sizeof limits / sizeof *limits; n++)
        if (limits[n] && limits[n] / 4 < sweep_ms)
            sweep_ms = limits[n] / 4 > 10 ? limits[n] / 4 : 10;
    uv_check_init(loop, &h->check);
    uv_idle_init(loop, &h->idle);
    uv_timer_init(loop, &h->sweep);
    h->epoll.data = h->check.data = h->idle.data = h->sweep.data = h;
    uv_poll_start(&h->epoll, UV_READABLE, on_epoll);
    uv_check_start(&h->check, on_check);
    uv_timer_start(&h->sweep, sweep_deadlines, sweep_ms, sweep_ms);
    h->due = true; /* the first run puts the listening socket into the epoll set */
    loop_kick(h);
    return true;
}

void loop_stop(struct http *h)
{
    uv_poll_stop(&h->epoll);
    uv_close((uv_handle_t *)&h->epoll, NULL);
    uv_close((uv_handle_t *)&h->check, NULL);
    uv_close((uv_handle_t *)&h->idle, NULL);
    uv_close((uv_handle_t *)&h->sweep, NULL);
}
