/* comm.h - what the ranks of one model say to each other.
 *
 * A group is N ranks that make the same calls in the same order; a call returns when every rank has
 * come to it.  Sums are taken in order of rank, value by value: ((x0 + x1) + x2) + ...  So the bits
 * of a result depend on N alone, not on who came first, on how a message was cut, or on what
 * carries it.
 *
 * Ranks meet in one piece of shared memory, where each has a mailbox: threads of a process and
 * processes of a machine alike; or, on several machines, over TCP.  The CPU device sums activations
 * here; a device with links of its own uses it to set them up, and for what its host must agree on.
 *
 * The ranks of a group may be divided into parts, equal runs of ranks (stages of a model): a part is
 * a group of its own for the calls, and fails with the whole.  From part to part goes mail: bytes in
 * order from a rank to the one of its place in the next part, where the last part's next is the first.
 *
 * Nobody waits for ever: a rank that does not come in the time that comm_wait_set allows fails the
 * group, and so does comm_abort.  A failure is final and shared: the calls of all ranks return
 * false from then on, at once or when their wait is over (within COMM_LOOK_MS), and comm_ok gives
 * the reason, which names the rank; the one reason of all, or over TCP the first that each heard.
 * Mail is waited for as long as the group stands and the other rank's heart beats: what a part does
 * between two letters has no limit here.  What a failed call should have written is undefined.
 *
 * Thread: one for each rank, but comm_abort and comm_ok: any. */
#ifndef KERNELS_COMM_H
#define KERNELS_COMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/hash.h"
#include "base/status.h"

enum {
    COMM_RANKS_MAX = 16,
    COMM_WAIT_MS = 5000, /* for another rank, until comm_wait_set says otherwise */
    COMM_LOOK_MS = 50,   /* between two looks of a sleeper at the group's state */
    COMM_MAIL_BYTES = 1 << 20 /* on their way to a rank, at most */
};

struct comm; /* one rank's end of a group */

/* The memory of one group of this process and its children.  NULL when there is none. */
void *comm_memory_take(int n_ranks, int n_parts, struct status *st) MUST_CHECK;
void comm_memory_drop(void *memory); /* accepts NULL; no end may be open */

/* Rank `rank` of the group in `memory`; each rank is opened once. */
struct comm *comm_open(void *memory, int rank, struct status *st) MUST_CHECK;
/* Fails no call that this rank was in, even where others still are, before another rank wants more of
 * it; who ends a group for a reason says it first, by comm_abort or comm_end.  Accepts NULL. */
void comm_close(struct comm *c);

/* Processes of one machine meet by the name of their group: letters, digits, - and .; at most
 * COMM_NAME_MAX bytes.  Rank 0 makes it anew, and the ranks of an earlier one of that name fail,
 * but IO while that has a rank 0 that runs; the others wait for one that takes them.  A rank here has
 * a heartbeat, and is given up when it stops.  BAD_INPUT where sizes differ, UNSUPPORTED where versions
 * do. */
enum { COMM_NAME_MAX = 63 };
struct comm *comm_join(const char *name, int rank, int n_ranks, int n_parts, int64_t wait_ms,
                       struct status *st) MUST_CHECK;
/* For who knows that a process is gone: ends the group in which it was that rank, if there is one.
 * With `ended` and rank 0 for good (CANCELLED), else the ranks should come again. */
void comm_retire(const char *name, int rank, int64_t pid, bool ended);
/* Processes of several machines meet where rank 0 listens, and then any two of them.
 * They too have a heartbeat.  Rank 0 waits for all the others, up to wait_ms; the others call until
 * it answers.  BAD_INPUT where sizes, secrets or names of groups differ, UNSUPPORTED where versions
 * do: both sides are told. */
struct comm_place {
    const char *group; /* who means another one is refused; at most COMM_NAME_MAX bytes */
    const char *host;  /* of rank 0: a name, or an address of IPv4 or IPv6 */
    int32_t port;
    struct hash_key secret; /* that all have: who has not is refused.  What follows is neither
                               encrypted nor signed */
};
struct comm *comm_connect(const struct comm_place *place, int rank, int n_ranks, int n_parts,
                          int64_t wait_ms, struct status *st) MUST_CHECK;
/* Rank 0's: this was for good (CANCELLED); with shared memory comm_retire is enough. */
void comm_end(struct comm *c);
/* For a rank that waits for something else: as comm_ok, once it has looked at the others' hearts. */
bool comm_look(struct comm *c, struct status *st);

/* This rank's end of its part, for the calls among the part's ranks, which are numbered from 0
 * there.  Closed before c. */
struct comm *comm_part(struct comm *c, struct status *st) MUST_CHECK;

int comm_rank(const struct comm *c);
int comm_size(const struct comm *c); /* N */

/* How long the calls from now on wait for each other rank; 0 = until it comes or the group fails. */
void comm_wait_set(struct comm *c, int64_t wait_ms);

bool comm_barrier(struct comm *c);
/* A barrier that fails the group, with `what` and the rank in the reason, unless all ranks have
 * rank 0's value. */
bool comm_agree(struct comm *c, const char *what, uint64_t value);
/* p[0 .. n) of all ranks becomes that of `root`. */
bool comm_broadcast(struct comm *c, void *p, size_t n, int root);
/* Rank r has the bytes [split[r], split[r + 1]) of each row; in the end all ranks have all of the
 * rows.  split: [N + 1], the same on all ranks; [0] = 0, [N] = row_bytes. */
bool comm_all_gather(struct comm *c, void *rows, size_t n_rows, size_t row_bytes,
                     const size_t *split);
/* y[i] = add[i] + (x0[i] + x1[i] + ...), i < n, on all ranks.  add may be NULL; y may be x or add. */
bool comm_all_reduce(struct comm *c, float *y, const float *x, const float *add, size_t n);

/* Mail, on an end of the whole group that has parts: waits for room, or for all n bytes. */
bool comm_send(struct comm *c, const void *p, size_t n);
bool comm_recv(struct comm *c, void *p, size_t n);
/* Bytes there is room for now, which are sent; bytes that have come and are not received. */
size_t comm_send_some(struct comm *c, const void *p, size_t n);
size_t comm_mail(const struct comm *c);

/* This rank cannot go on, and so nobody can.  The first reason stays. */
void comm_abort(struct comm *c, const struct status *why);
/* False <=> the group has failed; st says why. */
bool comm_ok(struct comm *c, struct status *st);

#endif
