/* comm_pulse.c - the thread that tells the other ranks that this one lives, and hears them.
 *
 * It beats on each control connection, notes when the others beat, and passes on why a group ends:
 * a connection that closes without a word is a process that is gone.  A farewell names the rank
 * that gave the reason, so that it may come by any way.  A rank that leaves has said all that the
 * calls it was in want of it; whoever waits for more will find its other connections closed. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/event.h"
#include "kernels/comm_dial.h"
#include "kernels/comm_net.h"

enum {
    BEAT_MS = 200,
    PARTING_MS = 300,  /* for the others to take a farewell */
    LEAVING_MS = 1000, /*   and that this rank leaves, which fails them if it is lost */
    BROKEN_MS = 1000,  /* to hear why a connection broke */
    RECORDS_MAX = 64,  /* heard of one rank before the others have their turn */
    BY_SHIFT = 8       /* of a farewell's number: its code, and above it the rank of the reason */
};

/* --- saying --------------------------------------------------------------------------------- */

static void say(struct comm *c, const void *record, size_t n)
{
    for (int r = 0; r < c->n_ranks; r++) {
        struct status st = {0};
        const int fd = c->net->fd[WIRE_CONTROL][r];
        const ssize_t put = fd < 0 ? 0 : send(fd, record, n, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (put <= 0 || (size_t)put == n)
            continue; /* full or closed: what comes from it, or does not, will tell */
        status_fail(&st, STATUS_DEVICE, "rank %d takes no more bytes", r);
        comm_abort(c, &st);
    }
}

static void say_word(struct comm *c, enum wire_kind kind)
{
    unsigned char record[WIRE_HEAD_BYTES];
    wire_put_head(record, &(struct wire_head){.kind = kind});
    say(c, record, sizeof record);
}

static void say_farewell(struct comm *c)
{
    unsigned char record[NET_CONTROL_BYTES];
    const uint32_t failed = atomic_load(&c->group->failed);
    const uint32_t by = failed <= (uint32_t)c->n_ranks ? failed - 1 : 0;
    const bool ended = failed == COMM_ENDED;
    const struct mailbox *box = &c->group->box[by];
    const char *why = ended ? "" : box->why;
    const uint32_t code = ended ? STATUS_CANCELLED : box->code;
    const struct wire_head head = {.kind = WIRE_FAREWELL,
                                   .n_bytes = (uint32_t)strnlen(why, WIRE_TEXT_MAX),
                                   .number = code | by << BY_SHIFT};
    wire_put_head(record, &head);
    memcpy(record + WIRE_HEAD_BYTES, why, head.n_bytes);
    say(c, record, WIRE_HEAD_BYTES + head.n_bytes);
}

/* --- hearing -------------------------------------------------------------------------------- */

static void end_group(struct comm *c, uint32_t failed)
{
    uint32_t none = 0;
    atomic_compare_exchange_strong(&c->group->failed, &none, failed);
}

static void hear_farewell(struct comm *c, int rank, const struct wire_head *head)
{
    struct wire_head reason = *head;
    struct status st = {0};
    uint32_t by = head->number >> BY_SHIFT;
    reason.number = head->number & ((1u << BY_SHIFT) - 1);
    wire_get_text(&reason, c->net->inbox[rank].bytes + WIRE_HEAD_BYTES, &st);
    if (st.code == STATUS_CANCELLED) {
        end_group(c, COMM_ENDED);
        return;
    }
    if (by >= (uint32_t)c->n_ranks || by == (uint32_t)c->rank) /* its own mailbox is the rank's */
        by = (uint32_t)rank;
    c->group->box[by].code = (uint32_t)st.code;
    memcpy(c->group->box[by].why, st.msg, COMM_WHY_BYTES - 1);
    end_group(c, by + 1);
}

/* It reads on until this side says no more. */
static void hear_leave(struct comm *c, int rank)
{
    atomic_store(&c->group->beat_ns[rank], 0); /* has no heart to miss */
    atomic_store(&c->net->left_ns[rank], clock_now(&clock_real));
    shutdown(c->net->fd[WIRE_CONTROL][rank], SHUT_WR);
}

static void take_record(struct comm *c, int rank, const struct wire_head *head)
{
    if (head->kind == WIRE_FAREWELL)
        hear_farewell(c, rank, head);
    else if (head->kind == WIRE_LEAVE)
        hear_leave(c, rank);
    c->net->inbox[rank].n = 0;
}

static bool is_for_pulse(enum wire_kind kind)
{
    return kind == WIRE_BEAT || kind == WIRE_LEAVE || kind == WIRE_FAREWELL;
}

/* One record, or a part of it; false: there is no more now. */
static bool hear_record(struct comm *c, int rank, struct status *st)
{
    struct inbox *in = &c->net->inbox[rank];
    struct wire_head head = {0};
    const bool has_head = in->n >= WIRE_HEAD_BYTES;
    if (has_head && !wire_get_head(in->bytes, &head, st))
        return false;
    if (has_head && !is_for_pulse(head.kind))
        return status_fail(st, STATUS_CORRUPT, "a record of kind %d as a beat", (int)head.kind);
    const size_t want = WIRE_HEAD_BYTES + head.n_bytes;
    if (has_head && in->n == want) {
        take_record(c, rank, &head);
        return atomic_load(&c->net->left_ns[rank]) == 0;
    }
    const ssize_t got =
        recv(c->net->fd[WIRE_CONTROL][rank], in->bytes + in->n, want - in->n, MSG_DONTWAIT);
    if (got > 0) {
        atomic_store(&c->group->beat_ns[rank], clock_now(&clock_real));
        in->n += (size_t)got;
        return true;
    }
    if (got == 0 || (errno != EAGAIN && errno != EINTR))
        return status_fail(st, STATUS_DEVICE, "the process of rank %d is gone", rank);
    return false;
}

static void hear(struct comm *c, int rank)
{
    struct status st = {0};
    for (int i = 0; i < RECORDS_MAX && !comm_has_failed(c) && hear_record(c, rank, &st); i++)
        ;
    if (st.code != STATUS_OK)
        comm_abort(c, &st);
}

/* Until something comes, or the time is over. */
static void listen_to_all(struct comm *c, int ms)
{
    struct pollfd p[COMM_RANKS_MAX + 1];
    for (int r = 0; r < COMM_RANKS_MAX; r++)
        p[r] = (struct pollfd){.fd = atomic_load(&c->net->left_ns[r]) ? -1
                                                                      : c->net->fd[WIRE_CONTROL][r],
                               .events = POLLIN};
    p[COMM_RANKS_MAX] = (struct pollfd){.fd = c->net->wake_fd, .events = POLLIN};
    if (poll(p, COMM_RANKS_MAX + 1, ms) <= 0)
        return;
    for (int r = 0; r < c->n_ranks; r++)
        if (p[r].fd >= 0 && p[r].revents)
            hear(c, r);
    event_drain(c->net->wake_fd);
}

/* --- the thread ----------------------------------------------------------------------------- */

/* Closed with bytes unread, a connection is reset, and what it had to say may be lost. */
static void part(struct comm *c, uint64_t ms)
{
    char rest[256];
    const uint64_t end_ns = clock_now(&clock_real) + ms * NS_PER_MS;
    for (int r = 0; r < c->n_ranks; r++)
        if (c->net->fd[WIRE_CONTROL][r] >= 0)
            shutdown(c->net->fd[WIRE_CONTROL][r], SHUT_WR);
    for (int r = 0; r < c->n_ranks; r++)
        while (c->net->fd[WIRE_CONTROL][r] >= 0 &&
               dial_read(c->net->fd[WIRE_CONTROL][r], rest, 1, end_ns))
            ;
}

static void *pulse(void *arg)
{
    struct comm *c = arg;
    uint64_t beat_ns = 0;
    while (!c->net->stop && !comm_has_failed(c)) {
        const uint64_t now = clock_now(&clock_real);
        if (now >= beat_ns) {
            say_word(c, WIRE_BEAT);
            beat_ns = now + BEAT_MS * NS_PER_MS;
        }
        listen_to_all(c, (int)((beat_ns - now) / NS_PER_MS) + 1);
    }
    const bool has_failed = comm_has_failed(c);
    if (has_failed)
        say_farewell(c);
    else
        say_word(c, WIRE_LEAVE);
    part(c, has_failed ? PARTING_MS : LEAVING_MS);
    return NULL;
}

static bool is_over(uint64_t since_ns, int64_t ms)
{
    return since_ns && clock_now(&clock_real) - since_ns >= (uint64_t)ms * NS_PER_MS;
}

bool comm_net_is_cut(const struct comm *c, int rank, uint64_t broken_ns, struct status *why)
{
    const uint64_t left_ns = atomic_load(&c->net->left_ns[rank]);
    if ((left_ns && broken_ns) || is_over(left_ns, LEAVING_MS + BROKEN_MS))
        return !status_fail(why, STATUS_DEVICE, "rank %d has left", rank);
    if (is_over(broken_ns, BROKEN_MS))
        return !status_fail(why, STATUS_DEVICE, "the connection to rank %d broke", rank);
    return false;
}

bool comm_net_start(struct comm *c, struct status *st)
{
    sigset_t all, before;
    for (int r = 0; r < c->n_ranks; r++)
        atomic_store(&c->group->beat_ns[r], clock_now(&clock_real));
    c->net->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int error = c->net->wake_fd < 0 ? errno : pthread_create(&c->net->pulse, NULL, pulse, c);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    c->net->has_pulse = error == 0;
    return c->net->has_pulse || status_fail(st, STATUS_IO, "start the heartbeat of rank %d: %s",
                                            c->rank, strerror(error));
}

void comm_net_wake(struct comm *c)
{
    event_wake(c->net->wake_fd);
}

void comm_net_close(struct comm *c)
{
    struct net *n = c->net;
    n->stop = true;
    if (n->has_pulse) {
        comm_net_wake(c);
        pthread_join(n->pulse, NULL);
    }
    for (int channel = 0; channel < WIRE_CHANNELS; channel++)
        for (int r = 0; r < COMM_RANKS_MAX; r++)
            dial_close(&n->fd[channel][r]);
    dial_close(&n->listen_fd);
    dial_close(&n->wake_fd);
    free(n);
}
