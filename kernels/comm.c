/* comm.c - the mailboxes in which ranks meet, and the calls made of rounds through them.
 *
 * Everything is rounds.  In round k a rank writes a piece of data and a letter, which says what
 * call it is in, into its mailbox, counts its `round` up to k, waits until all others have done so,
 * and reads what it wants of theirs.  Data and letters have two places, by the parity of k: a rank
 * that writes for round k has seen all others arrive at k - 1, so they have read what they wanted
 * of k - 2.  One wait a round is enough.
 *
 * Ranks without a memory in common send what the others read of a piece, their parcel
 * (comm_socket.c), and all else is the same.
 *
 * A sum of a few values is one round: all read all.  Of many it is two: each rank sums its share,
 * then all read the shares.  Which of them never changes a bit. */
#include "kernels/comm_net.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

enum {
    PIECE_FLOATS = COMM_PIECE_BYTES / sizeof(float),
    ONE_ROUND_FLOATS = 4096, /* up to here a second round costs more than it saves */
    BLOCK_FLOATS = 512,      /* summed at a time: stays in the first-level cache */
    SPINS = 500,             /* looks before a waiter gives way: some 20 us */
    YIELDS = 200,            /*   and before it sleeps */
};

enum call { CALL_BARRIER = 1, CALL_AGREE, CALL_BROADCAST, CALL_ALL_GATHER, CALL_ALL_REDUCE };

static const char *const call_names[] = {
    [0] = "nothing",
    [CALL_BARRIER] = "barrier",
    [CALL_AGREE] = "agree",
    [CALL_BROADCAST] = "broadcast",
    [CALL_ALL_GATHER] = "all_gather",
    [CALL_ALL_REDUCE] = "all_reduce",
};

/* --- memory --------------------------------------------------------------------------------- */

static size_t count_boxes(int n_ranks, int n_parts)
{
    return (size_t)n_ranks * (n_parts > 1 ? 2 : 1);
}

static size_t pieces_at(const struct group *g)
{
    return sizeof *g + count_boxes((int)g->n_ranks, (int)g->n_parts) * sizeof(struct mailbox);
}

size_t comm_memory_bytes(int n_ranks, int n_parts)
{
    const size_t box = sizeof(struct mailbox) + 2 * (size_t)COMM_PIECE_BYTES;
    return sizeof(struct group) + count_boxes(n_ranks, n_parts) * box +
           (n_parts > 1 ? (size_t)n_ranks * sizeof(struct mail) : 0);
}

void comm_memory_init(struct group *g, int n_ranks, int n_parts)
{
    g->magic = COMM_MAGIC;
    g->layout = COMM_LAYOUT;
    g->n_ranks = (uint32_t)n_ranks;
    g->n_parts = (uint32_t)n_parts;
}

struct mail *comm_mail_of(const struct comm *c, int rank)
{
    const struct group *g = c->group;
    const size_t n_boxes = count_boxes((int)g->n_ranks, (int)g->n_parts);
    char *mail = (char *)c->group + pieces_at(g) + n_boxes * 2 * COMM_PIECE_BYTES;
    return (struct mail *)mail + rank;
}

void *comm_memory_take(int n_ranks, int n_parts, struct status *st)
{
    assert(n_ranks >= 1 && n_ranks <= COMM_RANKS_MAX && n_parts >= 1 && n_ranks % n_parts == 0);
    struct group *g = mmap(NULL, comm_memory_bytes(n_ranks, n_parts), PROT_READ | PROT_WRITE,
                           MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (g == MAP_FAILED) {
        status_fail(st, STATUS_BUSY, "no memory for a group of %d ranks: %s", n_ranks,
                    strerror(errno));
        return NULL;
    }
    comm_memory_init(g, n_ranks, n_parts);
    return g;
}

void comm_memory_drop(void *memory)
{
    const struct group *g = memory;
    if (g)
        munmap(memory, comm_memory_bytes((int)g->n_ranks, (int)g->n_parts));
}

struct comm *comm_open(void *memory, int rank, struct status *st)
{
    struct group *g = memory;
    uint32_t none = 0;
    if (g->magic != COMM_MAGIC || rank < 0 || rank >= (int)g->n_ranks ||
        !atomic_compare_exchange_strong(&g->joined[rank], &none, 1)) {
        status_fail(st, STATUS_CORRUPT, "rank %d is not one of a group of %u, or there twice", rank,
                    g->n_ranks);
        return NULL;
    }
    struct comm *c = calloc(1, sizeof *c);
    if (!c) {
        status_fail(st, STATUS_BUSY, "no memory for rank %d", rank);
        return NULL;
    }
    c->group = g;
    c->whole = c;
    c->rank = rank;
    c->n_ranks = (int)g->n_ranks;
    c->wait_ms = COMM_WAIT_MS;
    return c;
}

struct comm *comm_part(struct comm *c, struct status *st)
{
    struct comm *part = calloc(1, sizeof *part);
    if (!part) {
        status_fail(st, STATUS_BUSY, "no memory for the part of rank %d", c->rank);
        return NULL;
    }
    assert(c->whole == c && c->group->n_parts > 1);
    part->group = c->group;
    part->net = c->net;
    part->whole = c;
    part->n_ranks = c->n_ranks / (int)c->group->n_parts;
    part->rank = c->rank % part->n_ranks;
    part->first = c->rank - part->rank;
    part->first_box = c->n_ranks + part->first;
    part->wait_ms = COMM_WAIT_MS;
    return part;
}

void comm_close(struct comm *c)
{
    if (!c)
        return;
    comm_beat_stop(c);
    if (c->net && c->whole == c)
        comm_net_close(c);
    if (c->owns_memory)
        comm_memory_drop(c->group);
    free(c);
}

int comm_rank(const struct comm *c)
{
    return c->rank;
}

int comm_size(const struct comm *c)
{
    return c->n_ranks;
}

void comm_wait_set(struct comm *c, int64_t wait_ms)
{
    c->wait_ms = wait_ms;
}

/* --- failure -------------------------------------------------------------------------------- */

bool comm_has_failed(const struct comm *c)
{
    return atomic_load_explicit(&c->group->failed, memory_order_acquire) != 0;
}

/* Sleepers look by themselves; other machines are told. */
void comm_abort(struct comm *c, const struct status *why)
{
    uint32_t none = 0;
    c = c->whole;
    struct mailbox *box = &c->group->box[c->rank];
    if (comm_has_failed(c) || atomic_exchange(&c->reported, true))
        return;
    box->code = (uint32_t)why->code;
    memcpy(box->why, why->msg, COMM_WHY_BYTES - 1);
    atomic_compare_exchange_strong(&c->group->failed, &none, (uint32_t)c->rank + 1);
    if (c->net)
        comm_net_wake(c);
}

void comm_end(struct comm *c)
{
    uint32_t none = 0;
    atomic_compare_exchange_strong(&c->group->failed, &none, COMM_ENDED);
    if (c->net)
        comm_net_wake(c);
}

bool comm_ok(struct comm *c, struct status *st)
{
    const uint32_t failed = atomic_load_explicit(&c->group->failed, memory_order_acquire);
    if (failed == 0)
        return true;
    if (failed == COMM_ENDED)
        return status_fail(st, STATUS_CANCELLED, "the group of ranks has ended");
    if (failed == COMM_RESTARTED)
        return status_fail(st, STATUS_DEVICE, "rank 0 starts again");
    if (failed >= COMM_LEFT)
        return status_fail(st, STATUS_DEVICE, "the process of rank %u is gone", failed - COMM_LEFT);
    const int by = (int)((failed - 1) % c->group->n_ranks);
    const struct mailbox *box = &c->group->box[by];
    const bool sane = box->code > STATUS_OK && box->code < STATUS_N;
    status_fail(st, sane ? (enum status_code)box->code : STATUS_DEVICE, "rank %d: %.*s", by,
                COMM_WHY_BYTES - 1, box->why);
    return false;
}

/* --- waiting -------------------------------------------------------------------------------- */

struct mailbox *comm_box(const struct comm *c, int rank)
{
    return &c->group->box[c->first_box + rank];
}

static bool has_come(const struct comm *c, int rank)
{
    const uint32_t at = atomic_load_explicit(&comm_box(c, rank)->round, memory_order_acquire);
    return (int32_t)(at - c->round) >= 0; /* rounds wrap */
}

/* Until the rank comes to a round or some milliseconds are over. */
static void sleep_on(struct comm *c, int rank, int64_t ms)
{
    struct mailbox *box = comm_box(c, rank);
    const struct timespec longest = {.tv_nsec = (long)ms * 1000000};
    atomic_fetch_add(&box->n_asleep, 1);
    const uint32_t at = atomic_load(&box->round);
    if (!has_come(c, rank))
        syscall(SYS_futex, &box->round, FUTEX_WAIT, at, &longest, NULL, 0);
    atomic_fetch_sub(&box->n_asleep, 1);
}

bool comm_lost(struct comm *c, int rank, uint32_t call)
{
    struct status st = {0};
    status_fail(&st, STATUS_DEVICE, "rank %d did not come to %s %u in %lld ms", c->first + rank,
                call_names[call], c->round, (long long)c->wait_ms);
    comm_abort(c, &st);
    return false;
}

static bool wait_long(struct comm *c, int rank, enum call call)
{
    const uint64_t start = clock_now(&clock_real);
    uint64_t suspect_ns = 0;
    struct status gone = {0};
    while (!has_come(c, rank)) {
        const int64_t ms = (int64_t)((clock_now(&clock_real) - start) / NS_PER_MS);
        if (comm_has_failed(c))
            return false;
        if (c->wait_ms && ms >= c->wait_ms)
            return comm_lost(c, rank, call);
        if (!comm_is_alive(c, c->first + rank, &suspect_ns, &gone)) {
            comm_abort(c, &gone);
            return false;
        }
        const int64_t left = c->wait_ms ? c->wait_ms - ms : COMM_LOOK_MS;
        sleep_on(c, rank, left < COMM_LOOK_MS ? left : COMM_LOOK_MS);
    }
    return true;
}

static bool wait_for(struct comm *c, int rank, enum call call)
{
    for (int i = 0; i < SPINS; i++) {
        if (has_come(c, rank))
            return true;
        __builtin_ia32_pause();
    }
    for (int i = 0; i < YIELDS && !has_come(c, rank); i++)
        sched_yield();
    return wait_long(c, rank, call);
}

/* --- rounds --------------------------------------------------------------------------------- */

/* Where a rank's data of a round is. */
void *comm_piece(const struct comm *c, int rank, uint32_t round)
{
    return (char *)c->group + pieces_at(c->group) +
           ((size_t)(c->first_box + rank) * 2 + round % 2) * COMM_PIECE_BYTES;
}

/* What this rank has to say in the next round. */
static void *next_piece(const struct comm *c)
{
    return comm_piece(c, c->rank, c->round + 1);
}

static const void *piece_of(const struct comm *c, int rank)
{
    return comm_piece(c, rank, c->round);
}

bool comm_check_letter(struct comm *c, int rank, const struct letter *mine, const char *what)
{
    const struct letter *theirs = &comm_box(c, rank)->letter[c->round % 2];
    struct status st = {0};
    if (memcmp(theirs, mine, sizeof *mine) == 0)
        return true;
    if (theirs->call == CALL_AGREE && mine->call == CALL_AGREE)
        status_fail(&st, STATUS_CORRUPT, "ranks %d and %d differ in %s", c->first + c->rank,
                    c->first + rank, what);
    else
        status_fail(&st, STATUS_CORRUPT, "in %s of %llu bytes, where rank %d is in %s of %llu",
                    call_names[mine->call], (unsigned long long)mine->n_bytes, c->first + rank,
                    call_names[theirs->call <= CALL_ALL_REDUCE ? theirs->call : 0],
                    (unsigned long long)theirs->n_bytes);
    comm_abort(c, &st);
    return false;
}

/* What next_piece holds is out, and so is what the others have; of it the parcel alone where
 * memory is not shared. */
static bool meet(struct comm *c, const struct letter *mine, const char *what,
                 const struct parcel *parcel)
{
    struct mailbox *box = comm_box(c, c->rank);
    if (comm_has_failed(c))
        return false;
    c->round++;
    if (c->net)
        return comm_net_round(c, mine, what, parcel);
    box->letter[c->round % 2] = *mine;
    atomic_store(&box->round, c->round);
    if (atomic_load(&box->n_asleep) > 0)
        syscall(SYS_futex, &box->round, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    for (int r = 0; r < c->n_ranks; r++)
        if (r != c->rank &&
            (!wait_for(c, r, (enum call)mine->call) || !comm_check_letter(c, r, mine, what)))
            return false;
    return true;
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* --- the calls ------------------------------------------------------------------------------ */

static const struct parcel nothing;

bool comm_barrier(struct comm *c)
{
    return meet(c, &(struct letter){.call = CALL_BARRIER}, "", &nothing);
}

bool comm_agree(struct comm *c, const char *what, uint64_t value)
{
    return meet(c, &(struct letter){.call = CALL_AGREE, .value = value}, what, &nothing);
}

bool comm_broadcast(struct comm *c, void *p, size_t n, int root)
{
    const struct letter letter = {.call = CALL_BROADCAST, .root = (uint32_t)root, .n_bytes = n};
    for (size_t at = 0; at < n; at += COMM_PIECE_BYTES) {
        const size_t n_piece = least(n - at, COMM_PIECE_BYTES);
        struct parcel parcel = {0};
        if (c->rank == root) {
            memcpy(next_piece(c), (char *)p + at, n_piece);
            for (int r = 0; r < c->n_ranks; r++)
                parcel.out[r].n = n_piece;
        } else {
            parcel.in[root].n = n_piece;
        }
        if (!meet(c, &letter, "", &parcel))
            return false;
        if (c->rank != root)
            memcpy((char *)p + at, piece_of(c, root), n_piece);
    }
    return true;
}

/* A rank's parts of the rows, one behind the other, are a stream.  Copies its bytes
 * [at, at + n) between the rows and a piece. */
struct stream {
    char *rows; /* the rank's part of the first row */
    size_t row_bytes, width;
};

static void copy_stream(const struct stream *s, size_t at, size_t n, char *to, const char *from)
{
    for (size_t done = 0; done < n;) {
        const size_t in_row = (at + done) % s->width;
        const size_t n_bytes = least(s->width - in_row, n - done);
        char *row = s->rows + (at + done) / s->width * s->row_bytes + in_row;
        memcpy(to ? to + done : row, to ? row : from + done, n_bytes);
        done += n_bytes;
    }
}

static size_t widest(const struct comm *c, const size_t *split)
{
    size_t width = 0;
    for (int r = 0; r < c->n_ranks; r++)
        if (split[r + 1] - split[r] > width)
            width = split[r + 1] - split[r];
    return width;
}

/* Bytes [at, ...) of a stream of n that are its next piece. */
static size_t piece_bytes(size_t n, size_t at)
{
    return at < n ? least(n - at, COMM_PIECE_BYTES) : 0;
}

bool comm_all_gather(struct comm *c, void *rows, size_t n_rows, size_t row_bytes,
                     const size_t *split)
{
    const struct letter letter = {.call = CALL_ALL_GATHER, .n_bytes = n_rows * row_bytes};
    const size_t longest = n_rows * widest(c, split);
    for (size_t at = 0; at < longest; at += COMM_PIECE_BYTES) {
        struct parcel parcel = {0};
        for (int r = 0; r < c->n_ranks; r++) {
            parcel.in[r].n = piece_bytes(n_rows * (split[r + 1] - split[r]), at);
            parcel.out[r].n = piece_bytes(n_rows * (split[c->rank + 1] - split[c->rank]), at);
        }
        for (int i = 0; i <= c->n_ranks; i++) { /* own part out, then the others' in */
            const int r = i == 0 ? c->rank : i - 1;
            const struct stream s = {(char *)rows + split[r], row_bytes, split[r + 1] - split[r]};
            const size_t n = parcel.in[r].n;
            if (i == 0)
                copy_stream(&s, at, n, next_piece(c), NULL);
            if (i == 0 && !meet(c, &letter, "", &parcel))
                return false;
            if (i > 0 && r != c->rank)
                copy_stream(&s, at, n, NULL, piece_of(c, r));
        }
    }
    return true;
}

/* to[i] = x0[first + i] + x1[first + i] + ... of the pieces of the round, i < n. */
static void sum_pieces(const struct comm *c, float *to, size_t first, size_t n)
{
    memcpy(to, (const float *)piece_of(c, 0) + first, n * sizeof *to);
    for (int r = 1; r < c->n_ranks; r++) {
        const float *x = (const float *)piece_of(c, r) + first;
        for (size_t i = 0; i < n; i++)
            to[i] += x[i];
    }
}

static void put_sum(float *y, const float *add, const float *sum, size_t n)
{
    if (!add)
        memcpy(y, sum, n * sizeof *y);
    for (size_t i = 0; add && i < n; i++)
        y[i] = add[i] + sum[i];
}

static void sum_all(const struct comm *c, float *y, const float *add, size_t n)
{
    float sum[BLOCK_FLOATS];
    for (size_t at = 0; at < n; at += BLOCK_FLOATS) {
        const size_t n_block = least(n - at, BLOCK_FLOATS);
        sum_pieces(c, sum, at, n_block);
        put_sum(y + at, add ? add + at : NULL, sum, n_block);
    }
}

/* Rank r sums the values [share(r), share(r + 1)) of n. */
static size_t share(const struct comm *c, int rank, size_t n)
{
    return n * (size_t)rank / (size_t)c->n_ranks;
}

static void take_shares(const struct comm *c, float *y, const float *add, size_t n)
{
    for (int r = 0; r < c->n_ranks; r++) {
        const size_t first = share(c, r, n), end = share(c, r + 1, n);
        put_sum(y + first, add ? add + first : NULL, (const float *)piece_of(c, r) + first,
                end - first);
    }
}

static struct span share_span(const struct comm *c, int rank, size_t n)
{
    const size_t first = share(c, rank, n), end = share(c, rank + 1, n);
    return (struct span){first * sizeof(float), (end - first) * sizeof(float)};
}

/* Each rank gets its share of all; then all get all shares. */
static void address_shares(const struct comm *c, size_t n, struct parcel *to_sum,
                           struct parcel *sums)
{
    for (int r = 0; r < c->n_ranks; r++) {
        to_sum->out[r] = sums->in[r] = share_span(c, r, n);
        to_sum->in[r] = sums->out[r] = share_span(c, c->rank, n);
    }
}

static void address_all(const struct comm *c, size_t n, struct parcel *all)
{
    for (int r = 0; r < c->n_ranks; r++)
        all->out[r].n = all->in[r].n = n * sizeof(float);
}

static bool reduce_piece(struct comm *c, const struct letter *letter, float *y, const float *x,
                         const float *add, size_t n)
{
    struct parcel parcel = {0}, sums = {0};
    memcpy(next_piece(c), x, n * sizeof *x);
    if (n <= ONE_ROUND_FLOATS) {
        address_all(c, n, &parcel);
        if (!meet(c, letter, "", &parcel))
            return false;
        sum_all(c, y, add, n);
        return true;
    }
    address_shares(c, n, &parcel, &sums);
    if (!meet(c, letter, "", &parcel))
        return false;
    const size_t first = share(c, c->rank, n), end = share(c, c->rank + 1, n);
    sum_pieces(c, (float *)next_piece(c) + first, first, end - first);
    if (!meet(c, letter, "", &sums))
        return false;
    take_shares(c, y, add, n);
    return true;
}

bool comm_all_reduce(struct comm *c, float *y, const float *x, const float *add, size_t n)
{
    const struct letter letter = {.call = CALL_ALL_REDUCE, .n_bytes = n * sizeof *x};
    for (size_t at = 0; at < n; at += PIECE_FLOATS)
        if (!reduce_piece(c, &letter, y + at, x + at, add ? add + at : NULL,
                          least(n - at, PIECE_FLOATS)))
            return false;
    return true;
}
