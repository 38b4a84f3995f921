/* comm_net_mail.c - mail over a connection of its own: what waits, waits in the sockets. */
#include <errno.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "kernels/comm_net.h"

/* One wait, for as long as it takes or the group stands. */
struct wait {
    int other;
    short events;
    uint64_t suspect_ns, broken_ns;
};

static int mail_fd(const struct comm *c, int rank)
{
    return c->net->fd[WIRE_MAIL][rank];
}

/* Bytes that went or came; 0 = not now, or the connection broke. */
static size_t moved(struct wait *w, ssize_t n)
{
    if (n > 0)
        return (size_t)n;
    if ((n == 0 || (errno != EAGAIN && errno != EINTR)) && w->broken_ns == 0)
        w->broken_ns = clock_now(&clock_real);
    return 0;
}

/* Some time; false: the group has failed. */
static bool wait_some(struct comm *c, struct wait *w)
{
    struct pollfd p = {.fd = w->broken_ns ? -1 : mail_fd(c, w->other), .events = w->events};
    struct status gone = {0};
    if (poll(&p, 1, COMM_LOOK_MS) > 0)
        return !comm_has_failed(c);
    if (comm_net_is_cut(c, w->other, w->broken_ns, &gone) ||
        !comm_is_alive(c, w->other, &w->suspect_ns, &gone))
        comm_abort(c, &gone);
    return !comm_has_failed(c);
}

size_t comm_net_send_some(struct comm *c, int to, const void *p, size_t n)
{
    struct wait w = {.other = to}; /* who broke it is for the pulse to say */
    return comm_has_failed(c) || n == 0
               ? 0
               : moved(&w, send(mail_fd(c, to), p, n, MSG_DONTWAIT | MSG_NOSIGNAL));
}

bool comm_net_send(struct comm *c, int to, const void *p, size_t n)
{
    struct wait w = {.other = to, .events = POLLOUT};
    for (size_t done = 0; done < n;) {
        const size_t n_sent = moved(&w, send(mail_fd(c, to), (const char *)p + done, n - done,
                                             MSG_DONTWAIT | MSG_NOSIGNAL));
        done += n_sent;
        if (n_sent == 0 && !wait_some(c, &w))
            return false;
    }
    return !comm_has_failed(c);
}

bool comm_net_recv(struct comm *c, int from, void *p, size_t n)
{
    struct wait w = {.other = from, .events = POLLIN};
    for (size_t done = 0; done < n;) {
        const size_t n_got =
            moved(&w, recv(mail_fd(c, from), (char *)p + done, n - done, MSG_DONTWAIT));
        done += n_got;
        if (n_got == 0 && !wait_some(c, &w))
            return false;
    }
    return !comm_has_failed(c);
}

size_t comm_net_mail(const struct comm *c, int from)
{
    int n = 0;
    return ioctl(mail_fd(c, from), FIONREAD, &n) == 0 && n > 0 ? (size_t)n : 0;
}
