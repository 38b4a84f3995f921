/* comm_meet.c - how ranks on several machines find each other.
 *
 * Rank 0 listens; the others call it, once for each connection, and say where they listen
 * themselves.  When all are there, rank 0 sends the roster of those places, and each rank calls
 * those below it and waits for those above.  A group of these connections is one life, with a
 * number of its own (epoch): a rank that comes late for one joins the next.
 *
 * A caller that may not join is told why.  What is wrong with it and cannot mend (its version, the
 * size of its group) ends the meeting for both; of one that is no rank, or has not the secret,
 * rank 0 thinks no more. */
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "kernels/comm_dial.h"
#include "kernels/comm_net.h"
#include "kernels/ops.h"

enum {
    CALLERS_MAX = 32,  /* that have not said who they are */
    HELLO_MS = 3000,   /* for them to do so, and for an answer */
    MESH_MS = 3000,    /* for the others to find each other: less than a beat may be missed */
    IN_USE_MS = 10000, /* for an earlier life to leave the port */
    AGAIN_MS = 100,    /* between two calls */
    LISTEN_MS = 250    /* at most, between two looks at who is gone */
};

struct caller { /* has connected, and not yet said who it is */
    int fd;
    uint64_t end_ns;
    struct hash128 challenge;
    unsigned char bytes[WIRE_HEAD_BYTES + WIRE_HELLO_BYTES];
    size_t n;
};

struct meeting {
    const struct comm_place *place;
    int rank, n_ranks, n_parts, n_channels;
    uint64_t end_ns, epoch;
    int listen_fd;
    uint16_t port; /* of listen_fd, of a rank but the first */
    int fd[WIRE_CHANNELS][COMM_RANKS_MAX];
    struct wire_place where[COMM_RANKS_MAX];
    struct caller caller[CALLERS_MAX];
    int n_callers;
    struct status last; /* why somebody was not taken, or not heard */
};

static uint64_t now_ns(void)
{
    return clock_now(&clock_real);
}

static uint64_t in_ms(int64_t ms)
{
    return now_ns() + (uint64_t)ms * NS_PER_MS;
}

static void sleep_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL);
}

static bool random_hash(struct hash128 *h, struct status *st)
{
    struct hash_key key;
    if (!hash_key_random(&key))
        return status_fail(st, STATUS_IO, "no random bytes for a group of ranks");
    *h = (struct hash128){key.k0, key.k1};
    return true;
}

static bool send_record(int fd, enum wire_kind kind, uint32_t number, const void *body, size_t n)
{
    unsigned char record[WIRE_HEAD_BYTES + WIRE_BODY_MAX];
    wire_put_head(record, &(struct wire_head){kind, (uint32_t)n, number});
    memcpy(record + WIRE_HEAD_BYTES, body, n);
    return dial_write(fd, record, WIRE_HEAD_BYTES + n, in_ms(HELLO_MS));
}

static void forget_rank(struct meeting *m, int rank)
{
    for (int channel = 0; channel < WIRE_CHANNELS; channel++)
        dial_close(&m->fd[channel][rank]);
}

/* As if nobody had been met. */
static void leave(struct meeting *m)
{
    for (int r = 0; r < COMM_RANKS_MAX; r++)
        forget_rank(m, r);
    for (int i = 0; i < m->n_callers; i++)
        dial_close(&m->caller[i].fd);
    m->n_callers = 0;
    dial_close(&m->listen_fd);
    m->epoch = 0;
}

/* --- taking calls --------------------------------------------------------------------------- */

static void take_call(struct meeting *m)
{
    unsigned char nonce[WIRE_CHALLENGE_BYTES];
    struct status st = {0};
    struct caller *c = &m->caller[m->n_callers];
    *c = (struct caller){.fd = dial_accept(m->listen_fd), .end_ns = in_ms(HELLO_MS)};
    if (c->fd < 0)
        return;
    if (!random_hash(&c->challenge, &st)) {
        dial_close(&c->fd);
        return;
    }
    wire_put_nonce(nonce, c->challenge);
    if (send_record(c->fd, WIRE_CHALLENGE, 0, nonce, sizeof nonce))
        m->n_callers++;
    else
        dial_close(&c->fd);
}

static bool same_version(const struct wire_hello *h)
{
    return h->protocol == WIRE_PROTOCOL && h->abi == OPS_ABI &&
           strcmp(h->version, INFERD_VERSION) == 0;
}

/* Whether the caller may have the channel it asks for; else why not.  BUSY: it may call again. */
static bool judge(const struct meeting *m, const struct caller *c, const struct wire_hello *h,
                  struct status *why)
{
    const struct hash128 proof = wire_hello_proof(&m->place->secret, h, c->challenge);
    const bool is_control = h->channel == WIRE_CONTROL;
    if (!same_version(h))
        return status_fail(why, STATUS_UNSUPPORTED,
                           "rank %u is of inferd %s (kernels %u, records %u), rank %d of %s "
                           "(%d, %d)",
                           h->rank, h->version, h->abi, h->protocol, m->rank, INFERD_VERSION,
                           (int)OPS_ABI, (int)WIRE_PROTOCOL);
    if (!hash128_equal(proof, h->proof))
        return status_fail(why, STATUS_BAD_INPUT, "ranks %d and %u have different secrets", m->rank,
                           h->rank);
    if (strcmp(h->group, m->place->group) != 0)
        return status_fail(why, STATUS_BAD_INPUT, "rank %u is of group %s, rank %d of %s", h->rank,
                           h->group, m->rank, m->place->group);
    if (h->n_ranks != (uint32_t)m->n_ranks)
        return status_fail(why, STATUS_BAD_INPUT, "rank %d wants %d ranks, rank %u %u", m->rank,
                           m->n_ranks, h->rank, h->n_ranks);
    if (h->n_parts != (uint32_t)m->n_parts)
        return status_fail(why, STATUS_BAD_INPUT, "rank %d wants %d stages, rank %u %u", m->rank,
                           m->n_parts, h->rank, h->n_parts);
    if ((int)h->rank <= m->rank)
        return status_fail(why, STATUS_BAD_INPUT, "there are two processes of rank %u", h->rank);
    if (is_control && m->fd[WIRE_CONTROL][h->rank] >= 0 &&
        !dial_is_closed(m->fd[WIRE_CONTROL][h->rank]))
        return status_fail(why, STATUS_BUSY, "a process of rank %u is here already", h->rank);
    if (h->epoch != (m->rank == 0 && is_control ? 0 : m->epoch) ||
        (!is_control && (m->fd[WIRE_CONTROL][h->rank] < 0 || m->fd[h->channel][h->rank] >= 0)))
        return status_fail(why, STATUS_BUSY, "rank %u comes from another life of its group",
                           h->rank);
    return true;
}

static bool ends_meeting(const struct meeting *m, const struct wire_hello *h,
                         const struct status *why)
{
    return why->code == STATUS_UNSUPPORTED ||
           (why->code == STATUS_BAD_INPUT &&
            (h->n_ranks != (uint32_t)m->n_ranks || h->n_parts != (uint32_t)m->n_parts) &&
            strcmp(h->group, m->place->group) == 0);
}

static bool welcome(struct meeting *m, const struct caller *c, const struct wire_hello *h)
{
    unsigned char body[WIRE_WELCOME_BYTES];
    const struct wire_welcome w = {
        .epoch = m->epoch, .proof = wire_welcome_proof(&m->place->secret, m->epoch, h->nonce)};
    wire_put_welcome(body, &w);
    if (h->channel == WIRE_CONTROL) {
        forget_rank(m, (int)h->rank); /* of a process that is gone */
        if (!dial_place(c->fd, (uint16_t)h->port, &m->where[h->rank]))
            return false;
    }
    if (!send_record(c->fd, WIRE_WELCOME, 0, body, sizeof body))
        return false;
    m->fd[h->channel][h->rank] = c->fd;
    return true;
}

/* The hello is whole.  False: the meeting is over. */
static bool answer(struct meeting *m, struct caller *c, struct status *st)
{
    struct wire_head head;
    struct wire_hello h;
    struct status why = {0};
    bool goes_on = true;
    if (!wire_get_head(c->bytes, &head, &why) || head.kind != WIRE_HELLO ||
        !wire_get_hello(c->bytes + WIRE_HEAD_BYTES, &h, &why)) {
        dial_close(&c->fd);
        return true;
    }
    if (judge(m, c, &h, &why)) {
        if (welcome(m, c, &h))
            c->fd = -1; /* the meeting's */
    } else {
        (void)!send_record(c->fd, WIRE_REFUSE, why.code, why.msg, strnlen(why.msg, WIRE_TEXT_MAX));
        goes_on = !ends_meeting(m, &h, &why);
        m->last = why;
        if (!goes_on)
            *st = why;
    }
    dial_close(&c->fd);
    return goes_on;
}

static bool hear_caller(struct meeting *m, struct caller *c, struct status *st)
{
    const ssize_t n = recv(c->fd, c->bytes + c->n, sizeof c->bytes - c->n, MSG_DONTWAIT);
    if (n > 0)
        c->n += (size_t)n;
    else if (n == 0 || (errno != EAGAIN && errno != EINTR) || now_ns() >= c->end_ns)
        dial_close(&c->fd);
    return c->fd < 0 || c->n < sizeof c->bytes || answer(m, c, st);
}

static bool hear_callers(struct meeting *m, struct status *st)
{
    int n_left = 0;
    for (int i = 0; i < m->n_callers; i++) {
        if (!hear_caller(m, &m->caller[i], st))
            return false;
        if (m->caller[i].fd >= 0)
            m->caller[n_left++] = m->caller[i];
    }
    m->n_callers = n_left;
    return true;
}

/* The first rank above this one that is not wholly here; n_ranks: none. */
static int missing_rank(const struct meeting *m)
{
    for (int r = m->rank + 1; r < m->n_ranks; r++)
        for (int channel = 0; channel < m->n_channels; channel++)
            if (m->fd[channel][r] < 0)
                return r;
    return m->n_ranks;
}

static void forget_the_gone(struct meeting *m)
{
    for (int r = m->rank + 1; r < m->n_ranks; r++)
        if (m->fd[WIRE_CONTROL][r] >= 0 && dial_is_closed(m->fd[WIRE_CONTROL][r]))
            forget_rank(m, r);
}

static void await_callers(const struct meeting *m)
{
    struct pollfd p[CALLERS_MAX + 1];
    for (int i = 0; i < m->n_callers; i++)
        p[i] = (struct pollfd){.fd = m->caller[i].fd, .events = POLLIN};
    p[m->n_callers] = (struct pollfd){.fd = m->listen_fd, .events = POLLIN};
    poll(p, (nfds_t)m->n_callers + (m->n_callers < CALLERS_MAX), LISTEN_MS);
}

/* Until all ranks above this one are here. */
static bool gather(struct meeting *m, uint64_t end_ns, struct status *st)
{
    while (missing_rank(m) < m->n_ranks) {
        if (now_ns() >= end_ns)
            return status_fail(st, STATUS_DEVICE, "rank %d did not come to rank %d%s%.150s",
                               missing_rank(m), m->rank, m->last.code ? "; " : "", m->last.msg);
        await_callers(m);
        if (m->n_callers < CALLERS_MAX)
            take_call(m);
        if (!hear_callers(m, st))
            return false;
        forget_the_gone(m);
    }
    return true;
}

/* --- calling -------------------------------------------------------------------------------- */

static bool say_hello(const struct meeting *m, int fd, enum wire_channel channel,
                      struct hash128 nonce, struct hash128 challenge)
{
    unsigned char body[WIRE_HELLO_BYTES];
    struct wire_hello h = {.protocol = WIRE_PROTOCOL,
                           .abi = OPS_ABI,
                           .rank = (uint32_t)m->rank,
                           .n_ranks = (uint32_t)m->n_ranks,
                           .n_parts = (uint32_t)m->n_parts,
                           .channel = channel,
                           .port = m->port,
                           .epoch = m->epoch,
                           .nonce = nonce};
    snprintf(h.version, sizeof h.version, "%s", INFERD_VERSION);
    snprintf(h.group, sizeof h.group, "%s", m->place->group);
    h.proof = wire_hello_proof(&m->place->secret, &h, challenge);
    wire_put_hello(body, &h);
    return send_record(fd, WIRE_HELLO, 0, body, sizeof body);
}

/* The body of a record of the kind that should come; a refusal is st. */
static bool read_record(int fd, enum wire_kind kind, void *body, uint64_t end_ns, struct status *st)
{
    unsigned char head_bytes[WIRE_HEAD_BYTES], text[WIRE_TEXT_MAX];
    struct wire_head head;
    if (!dial_read(fd, head_bytes, sizeof head_bytes, end_ns))
        return status_fail(st, STATUS_DEVICE, "no answer");
    if (!wire_get_head(head_bytes, &head, st))
        return false;
    const bool is_refusal = head.kind == WIRE_REFUSE;
    if (!is_refusal && head.kind != kind)
        return status_fail(st, STATUS_CORRUPT, "an answer of kind %d, want %d", (int)head.kind,
                           (int)kind);
    if (!dial_read(fd, is_refusal ? text : body, head.n_bytes, end_ns))
        return status_fail(st, STATUS_DEVICE, "half an answer");
    if (is_refusal)
        wire_get_text(&head, text, st);
    return !is_refusal;
}

/* From the challenge to the welcome. */
static bool shake_hands(struct meeting *m, int fd, enum wire_channel channel, struct status *st)
{
    unsigned char bytes[WIRE_BODY_MAX];
    const uint64_t end_ns = in_ms(HELLO_MS);
    struct wire_welcome w;
    struct hash128 nonce = {0};
    if (!random_hash(&nonce, st) || !read_record(fd, WIRE_CHALLENGE, bytes, end_ns, st))
        return false;
    if (!say_hello(m, fd, channel, nonce, wire_get_nonce(bytes)))
        return status_fail(st, STATUS_DEVICE, "the connection broke");
    if (!read_record(fd, WIRE_WELCOME, bytes, end_ns, st))
        return false;
    wire_get_welcome(bytes, &w);
    if (!hash128_equal(w.proof, wire_welcome_proof(&m->place->secret, w.epoch, nonce)))
        return status_fail(st, STATUS_BAD_INPUT, "who answers has not the ranks' secret");
    m->epoch = w.epoch;
    return true;
}

static bool call_rank(struct meeting *m, const struct sockaddr *to, socklen_t n, int rank,
                      struct status *st)
{
    for (int channel = 0; channel < m->n_channels; channel++) {
        int *fd = &m->fd[channel][rank];
        *fd = dial_call(to, n, in_ms(HELLO_MS), st);
        if (*fd >= 0 && m->listen_fd < 0)
            m->listen_fd = dial_listen_beside(*fd, &m->port, st);
        if (*fd < 0 || m->listen_fd < 0 || !shake_hands(m, *fd, (enum wire_channel)channel, st))
            return status_wrap(st, "call rank %d", rank);
    }
    return true;
}

static bool call_first(struct meeting *m, struct status *st)
{
    bool ok = false;
    struct addrinfo *found = dial_find(m->place->host, m->place->port, st);
    for (const struct addrinfo *a = found; a && !ok; a = a->ai_next) {
        leave(m);
        *st = (struct status){0};
        ok = call_rank(m, a->ai_addr, a->ai_addrlen, 0, st);
        if (st->code != STATUS_OK && st->code != STATUS_DEVICE)
            break; /* it answered */
    }
    if (found)
        freeaddrinfo(found);
    return ok;
}

static bool call_roster(struct meeting *m, struct status *st)
{
    unsigned char bytes[WIRE_BODY_MAX];
    if (!read_record(m->fd[WIRE_CONTROL][0], WIRE_ROSTER, bytes, m->end_ns, st) ||
        !wire_get_roster(bytes, m->n_ranks, m->where, st))
        return status_wrap(st, "wait for all ranks");
    for (int r = 1; r < m->rank; r++) {
        struct sockaddr_storage to;
        const socklen_t n = dial_address(&m->where[r], &to);
        if (!call_rank(m, (struct sockaddr *)&to, n, r, st))
            return false;
    }
    return gather(m, in_ms(MESH_MS), st);
}

/* --- both ----------------------------------------------------------------------------------- */

static bool listen_for_all(struct meeting *m, struct status *st)
{
    const uint64_t end_ns = in_ms(IN_USE_MS);
    m->listen_fd = -1;
    while (m->listen_fd < 0) {
        struct status why = {0};
        m->listen_fd = dial_listen(m->place->host, m->place->port, &why);
        if (m->listen_fd < 0 && now_ns() >= end_ns) {
            *st = why;
            return false;
        }
        if (m->listen_fd < 0)
            sleep_ms(AGAIN_MS);
    }
    return true;
}

static bool meet_as_first(struct meeting *m, struct status *st)
{
    unsigned char roster[WIRE_ROSTER_BYTES];
    struct hash128 life = {0};
    if (!listen_for_all(m, st) || !random_hash(&life, st))
        return false;
    m->epoch = life.lo | 1; /* never 0 */
    if (!gather(m, m->end_ns, st))
        return false;
    wire_put_roster(roster, m->where);
    for (int r = 1; r < m->n_ranks; r++)
        if (!send_record(m->fd[WIRE_CONTROL][r], WIRE_ROSTER, 0, roster, sizeof roster))
            return status_fail(st, STATUS_DEVICE, "rank %d is gone", r);
    return true;
}

/* What another call may mend. */
static bool may_mend(enum status_code code)
{
    return code == STATUS_DEVICE || code == STATUS_BUSY;
}

static bool meet_as_other(struct meeting *m, struct status *st)
{
    for (;;) {
        struct status why = {0};
        if (call_first(m, &why) && call_roster(m, &why))
            return true;
        leave(m);
        if (!may_mend(why.code)) {
            *st = why;
            return false;
        }
        if (now_ns() >= m->end_ns)
            return status_fail(st, STATUS_DEVICE, "no group of ranks at %.60s, port %d: %.150s",
                               m->place->host, (int)m->place->port, why.msg);
        sleep_ms(AGAIN_MS);
    }
}

/* The connections become a rank's end. */
static struct comm *make_end(struct meeting *m, struct status *st)
{
    void *memory = comm_memory_take(m->n_ranks, m->n_parts, st);
    struct comm *c = memory ? comm_open(memory, m->rank, st) : NULL;
    struct net *net = c ? calloc(1, sizeof *net) : NULL;
    if (!net) {
        comm_close(c);
        comm_memory_drop(memory);
        if (st->code == STATUS_OK)
            status_fail(st, STATUS_BUSY, "no memory for a group of ranks");
        return NULL;
    }
    c->owns_memory = true;
    c->net = net;
    memcpy(net->fd, m->fd, sizeof net->fd);
    net->listen_fd = m->listen_fd;
    net->wake_fd = -1;
    memset(m->fd, 0xff, sizeof m->fd); /* -1: the end's now */
    m->listen_fd = -1;
    if (comm_net_start(c, st))
        return c;
    comm_close(c);
    return NULL;
}

struct comm *comm_connect(const struct comm_place *place, int rank, int n_ranks, int n_parts,
                          int64_t wait_ms, struct status *st)
{
    struct meeting *m = calloc(1, sizeof *m);
    struct comm *c = NULL;
    if (!m) {
        status_fail(st, STATUS_BUSY, "no memory for a group of ranks");
        return NULL;
    }
    *m = (struct meeting){.place = place,
                          .rank = rank,
                          .n_ranks = n_ranks,
                          .n_parts = n_parts,
                          .n_channels = n_parts > 1 ? WIRE_CHANNELS : WIRE_MAIL,
                          .end_ns = in_ms(wait_ms),
                          .listen_fd = -1};
    memset(m->fd, 0xff, sizeof m->fd);
    if (rank == 0 ? meet_as_first(m, st) : meet_as_other(m, st))
        c = make_end(m, st);
    leave(m);
    free(m);
    return c;
}
