/* comm_mail.c - bytes from a rank to the one of its place in the next part, through a ring of the
 * receiver's.
 *
 * Without a memory in common it goes over a connection (comm_net_mail.c).
 *
 * Both ends count bytes since the start; what one of them waits for is the other's count to move.
 */
#include "kernels/comm_net.h"

#include <assert.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
    SPINS = 500, /* as in comm.c */
    YIELDS = 200
};

_Static_assert((COMM_MAIL_BYTES & (COMM_MAIL_BYTES - 1)) == 0, "counts wrap with the ring");

/* The rank of this one's place, n parts on. */
static int place_of(const struct comm *c, int n)
{
    const struct group *g = c->group;
    const int n_ranks = (int)g->n_ranks, each = n_ranks / (int)g->n_parts;
    assert(c->whole == c && g->n_parts > 1);
    return (c->rank + n * each + n_ranks) % n_ranks;
}

static void sleep_on(_Atomic uint32_t *count, uint32_t seen, _Atomic uint32_t *sleeps)
{
    const struct timespec longest = {.tv_nsec = COMM_LOOK_MS * 1000000L};
    atomic_store(sleeps, 1);
    if (atomic_load(count) == seen)
        syscall(SYS_futex, count, FUTEX_WAIT, seen, &longest, NULL, 0);
    atomic_store(sleeps, 0);
}

/* Until the other rank's count is no longer `seen`. */
static bool await(struct comm *c, int other, _Atomic uint32_t *count, uint32_t seen,
                  _Atomic uint32_t *sleeps)
{
    uint64_t suspect_ns = 0;
    struct status gone = {0};
    for (int i = 0; i < SPINS + YIELDS; i++) {
        if (atomic_load(count) != seen)
            return true;
        if (i < SPINS)
            __builtin_ia32_pause();
        else
            sched_yield();
    }
    while (atomic_load(count) == seen) {
        if (comm_has_failed(c))
            return false;
        if (!comm_is_alive(c, other, &suspect_ns, &gone)) {
            comm_abort(c, &gone);
            return false;
        }
        sleep_on(count, seen, sleeps);
    }
    return true;
}

static void move(_Atomic uint32_t *count, size_t n, _Atomic uint32_t *other_sleeps)
{
    atomic_fetch_add(count, (uint32_t)n);
    if (atomic_load(other_sleeps))
        syscall(SYS_futex, count, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Between the ring's bytes from `at` on and p. */
static void put_bytes(struct mail *m, uint32_t at, const char *p, size_t n)
{
    const size_t first = at % COMM_MAIL_BYTES, n_first = least(n, COMM_MAIL_BYTES - first);
    memcpy(m->bytes + first, p, n_first);
    memcpy(m->bytes, p + n_first, n - n_first);
}

static void take_bytes(const struct mail *m, uint32_t at, char *p, size_t n)
{
    const size_t first = at % COMM_MAIL_BYTES, n_first = least(n, COMM_MAIL_BYTES - first);
    memcpy(p, m->bytes + first, n_first);
    memcpy(p + n_first, m->bytes, n - n_first);
}

size_t comm_send_some(struct comm *c, const void *p, size_t n)
{
    if (c->net)
        return comm_net_send_some(c, place_of(c, 1), p, n);
    struct mail *m = comm_mail_of(c, place_of(c, 1));
    const uint32_t put = atomic_load_explicit(&m->n_put, memory_order_relaxed);
    const size_t room = COMM_MAIL_BYTES - (size_t)(put - atomic_load(&m->n_taken));
    n = comm_has_failed(c) ? 0 : least(n, room);
    if (n > 0) {
        put_bytes(m, put, p, n);
        move(&m->n_put, n, &m->receiver_sleeps);
    }
    return n;
}

bool comm_send(struct comm *c, const void *p, size_t n)
{
    const int to = place_of(c, 1);
    if (c->net)
        return comm_net_send(c, to, p, n);
    struct mail *m = comm_mail_of(c, to);
    for (size_t done = 0; done < n;) {
        const uint32_t taken = atomic_load(&m->n_taken);
        const size_t n_sent = comm_send_some(c, (const char *)p + done, n - done);
        done += n_sent;
        if (n_sent == 0 && !await(c, to, &m->n_taken, taken, &m->sender_sleeps))
            return false;
    }
    return !comm_has_failed(c);
}

size_t comm_mail(const struct comm *c)
{
    if (c->net)
        return comm_net_mail(c, place_of(c, -1));
    struct mail *m = comm_mail_of(c, c->rank);
    return (size_t)(atomic_load(&m->n_put) -
                    atomic_load_explicit(&m->n_taken, memory_order_relaxed));
}

bool comm_recv(struct comm *c, void *p, size_t n)
{
    const int from = place_of(c, -1);
    if (c->net)
        return comm_net_recv(c, from, p, n);
    struct mail *m = comm_mail_of(c, c->rank);
    for (size_t done = 0; done < n;) {
        const uint32_t put = atomic_load(&m->n_put);
        const uint32_t taken = atomic_load_explicit(&m->n_taken, memory_order_relaxed);
        const size_t n_piece = least(n - done, (size_t)(put - taken));
        if (n_piece == 0) {
            if (!await(c, from, &m->n_put, put, &m->receiver_sleeps))
                return false;
            continue;
        }
        take_bytes(m, taken, (char *)p + done, n_piece);
        move(&m->n_taken, n_piece, &m->sender_sleeps);
        done += n_piece;
    }
    return !comm_has_failed(c);
}
