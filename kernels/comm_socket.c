/* comm_socket.c - a round over sockets: each rank's letter and data to all that want it.
 *
 * One pass tries to write and read on every connection without waiting, until all is out and in.
 * A rank may be a round ahead of another, never two: what it sent waits in the socket.
 *
 * What comes is taken on this rank's terms: it knows what the others must say, and how many bytes.
 * A letter that differs ends the group before its data is looked at. */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "base/clock.h"
#include "kernels/comm_net.h"

enum {
    SPINS = 40,       /* passes before a waiter gives way: some 20 us */
    YIELDS = 40,      /*   and before it sleeps */
};

struct round { /* the one in hand */
    struct comm *c;
    const struct letter *mine;
    const char *what;
    const struct parcel *parcel;
    uint64_t start_ns;
    uint64_t suspect_ns[COMM_RANKS_MAX];
};

/* In a part ranks are numbered from its first. */
static struct flow *flow_of(const struct comm *c, int rank)
{
    return &c->net->flow[c->first + rank];
}

static void flow_begin(const struct round *r, int rank)
{
    struct flow *f = flow_of(r->c, rank);
    const struct wire_head head = {
        .kind = WIRE_ROUND, .n_bytes = (uint32_t)r->parcel->out[rank].n, .number = r->c->round};
    f->n_out = f->n_in = 0;
    f->is_checked = false;
    wire_put_head(f->out, &head);
    wire_put_letter(f->out + WIRE_HEAD_BYTES, &(struct wire_letter){.call = r->mine->call,
                                                                    .root = r->mine->root,
                                                                    .n_bytes = r->mine->n_bytes,
                                                                    .value = r->mine->value});
}

/* What is left, after `done` bytes, of a head and the span of a piece behind it. */
static int lay_out(struct iovec iov[2], void *head, void *data, size_t n_data, size_t done)
{
    const size_t in_head = done < NET_ROUND_BYTES ? done : NET_ROUND_BYTES;
    const size_t in_data = done - in_head;
    iov[0] = (struct iovec){(char *)head + in_head, NET_ROUND_BYTES - in_head};
    iov[1] = (struct iovec){(char *)data + in_data, n_data - in_data};
    return 2;
}

/* Bytes that went or came; 0 = not now. */
static size_t moved(struct flow *f, ssize_t n)
{
    if (n > 0)
        return (size_t)n;
    if (n == 0 || (errno != EAGAIN && errno != EINTR))
        f->broken_ns = clock_now(&clock_real);
    return 0;
}

static size_t send_some(const struct round *r, int rank)
{
    const struct comm *c = r->c;
    struct flow *f = flow_of(c, rank);
    const struct span *s = &r->parcel->out[rank];
    struct iovec iov[2];
    struct msghdr m = {.msg_iov = iov};
    m.msg_iovlen = (size_t)lay_out(iov, f->out, (char *)comm_piece(c, c->rank, c->round) + s->at,
                                   s->n, f->n_out);
    const size_t n =
        moved(f, sendmsg(c->net->fd[WIRE_DATA][c->first + rank], &m, MSG_DONTWAIT | MSG_NOSIGNAL));
    f->n_out += n;
    return n;
}

/* The letter is there: it must be ours, and of as many bytes. */
static bool check_record(const struct round *r, int rank)
{
    struct comm *c = r->c;
    struct flow *f = flow_of(c, rank);
    struct status st = {0};
    struct wire_head head;
    struct wire_letter l;
    if (!wire_get_head(f->in, &head, &st)) {
        status_wrap(&st, "from rank %d", c->first + rank);
        comm_abort(c, &st);
        return false;
    }
    wire_get_letter(f->in + WIRE_HEAD_BYTES, &l);
    comm_box(c, rank)->letter[c->round % 2] =
        (struct letter){.call = l.call, .root = l.root, .n_bytes = l.n_bytes, .value = l.value};
    if (!comm_check_letter(c, rank, r->mine, r->what))
        return false;
    f->is_checked =
        head.kind == WIRE_ROUND && head.number == c->round && head.n_bytes == r->parcel->in[rank].n;
    if (!f->is_checked) {
        status_fail(&st, STATUS_CORRUPT, "rank %d sent round %u of %u bytes, want %u of %zu",
                    c->first + rank, head.number, head.n_bytes, c->round, r->parcel->in[rank].n);
        comm_abort(c, &st);
    }
    return f->is_checked;
}

/* False: the group has failed. */
static bool receive_some(const struct round *r, int rank, size_t *n_moved)
{
    const struct comm *c = r->c;
    struct flow *f = flow_of(c, rank);
    const struct span *s = &r->parcel->in[rank];
    struct iovec iov[2];
    struct msghdr m = {.msg_iov = iov};
    m.msg_iovlen =
        (size_t)lay_out(iov, f->in, (char *)comm_piece(c, rank, c->round) + s->at, s->n, f->n_in);
    const size_t n = moved(f, recvmsg(c->net->fd[WIRE_DATA][c->first + rank], &m, MSG_DONTWAIT));
    f->n_in += n;
    *n_moved += n;
    return f->is_checked || f->n_in < NET_ROUND_BYTES || check_record(r, rank);
}

static bool is_out(const struct round *r, int rank)
{
    return flow_of(r->c, rank)->n_out == NET_ROUND_BYTES + r->parcel->out[rank].n;
}

static bool is_in(const struct round *r, int rank)
{
    return flow_of(r->c, rank)->n_in == NET_ROUND_BYTES + r->parcel->in[rank].n;
}

/* One pass; -1: the group has failed, 0: all is done, 1: something moved, 2: nothing did. */
static int move_all(const struct round *r)
{
    size_t n_moved = 0;
    bool is_done = true;
    for (int rank = 0; rank < r->c->n_ranks; rank++) {
        const struct flow *f = flow_of(r->c, rank);
        if (rank == r->c->rank)
            continue;
        if (!is_out(r, rank) && f->broken_ns == 0)
            n_moved += send_some(r, rank);
        if (!is_in(r, rank) && f->broken_ns == 0 && !receive_some(r, rank, &n_moved))
            return -1;
        is_done &= is_out(r, rank) && is_in(r, rank);
    }
    return is_done ? 0 : n_moved ? 1 : 2;
}

/* Whether the ranks that are missing may still come. */
static bool may_come(struct round *r)
{
    struct comm *c = r->c;
    const uint64_t now_ns = clock_now(&clock_real);
    const int64_t ms = (int64_t)((now_ns - r->start_ns) / NS_PER_MS);
    for (int rank = 0; rank < c->n_ranks; rank++) {
        struct status gone = {0};
        const struct flow *f = flow_of(c, rank);
        if (rank == c->rank || (is_in(r, rank) && is_out(r, rank)))
            continue;
        if (c->wait_ms && ms >= c->wait_ms)
            return comm_lost(c, rank, r->mine->call);
        if (comm_net_is_cut(c, c->first + rank, f->broken_ns, &gone) ||
            !comm_is_alive(c, c->first + rank, &r->suspect_ns[rank], &gone)) {
            comm_abort(c, &gone);
            return false;
        }
    }
    return !comm_has_failed(c);
}

static void sleep_for_news(const struct round *r)
{
    struct pollfd p[COMM_RANKS_MAX];
    nfds_t n = 0;
    for (int rank = 0; rank < r->c->n_ranks; rank++) {
        const short events =
            (short)((is_out(r, rank) ? 0 : POLLOUT) | (is_in(r, rank) ? 0 : POLLIN));
        if (rank != r->c->rank && events && flow_of(r->c, rank)->broken_ns == 0)
            p[n++] = (struct pollfd){.fd = r->c->net->fd[WIRE_DATA][r->c->first + rank],
                                     .events = events};
    }
    poll(p, n, COMM_LOOK_MS);
}

bool comm_net_round(struct comm *c, const struct letter *mine, const char *what,
                    const struct parcel *p)
{
    struct round r = {c, mine, what, p, clock_now(&clock_real), {0}};
    for (int rank = 0; rank < c->n_ranks; rank++)
        if (rank != c->rank)
            flow_begin(&r, rank);
    for (int n_idle = 0;;) {
        const int state = move_all(&r);
        if (state <= 0)
            return state == 0;
        n_idle = state == 1 ? 0 : n_idle + 1;
        if (n_idle > SPINS + YIELDS) {
            if (!may_come(&r))
                return false;
            sleep_for_news(&r);
        } else if (n_idle > SPINS) {
            sched_yield();
        }
    }
}
