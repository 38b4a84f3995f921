/* comm_int.h - what lies in a group's memory, and what an end of it is.
 *
 * The memory is laid out alike in all its ranks: LAYOUT changes with it, and with PIECE_BYTES.
 *
 * Only kernels/comm*.c include this. */
#ifndef KERNELS_COMM_INT_H
#define KERNELS_COMM_INT_H

#include <pthread.h>
#include <stdatomic.h>

#include "kernels/comm.h"

enum {
    COMM_MAGIC = 0x6b6e6172, /* "rank" */
    COMM_LAYOUT = 2,
    COMM_LINE = 64,
    COMM_PIECE_BYTES = 256 * 1024,
    COMM_WHY_BYTES = 200,
    /* Of `failed`, when it was no rank that ended the group. */
    COMM_RESTARTED = 1000,
    COMM_ENDED,
    COMM_LEFT /* + the rank whose process is gone */
};

struct letter { /* must be the same from all ranks */
    uint32_t call;
    uint32_t root;
    uint64_t n_bytes; /* of the whole call */
    uint64_t value;   /* CALL_AGREE */
};

struct mailbox {
    /* The rank writes. */
    _Alignas(COMM_LINE) _Atomic uint32_t round; /* rounds it has come to; its waiters' futex */
    struct letter letter[2];                    /* of the last two */
    uint32_t code; /* enum status_code; final once `failed` names the rank */
    char why[COMM_WHY_BYTES];
    /* Its waiters write. */
    _Alignas(COMM_LINE) _Atomic uint32_t n_asleep;
};

struct mail { /* bytes on their way to a rank, from the one before it */
    /* The sender writes; its waiter's futex. */
    _Alignas(COMM_LINE) _Atomic uint32_t n_put; /* since the start; wraps */
    _Atomic uint32_t sender_sleeps;
    /* The receiver writes. */
    _Alignas(COMM_LINE) _Atomic uint32_t n_taken;
    _Atomic uint32_t receiver_sleeps;
    _Alignas(COMM_LINE) char bytes[COMM_MAIL_BYTES];
};

struct group {
    uint32_t magic, layout, n_ranks, n_parts;
    _Atomic uint32_t failed; /* 0, or 1 + the rank whose mailbox says why, or one of the above */
    _Atomic uint64_t
        beat_ns[COMM_RANKS_MAX]; /* when a rank's process last ran; 0 = it has no beat */
    _Atomic uint32_t joined[COMM_RANKS_MAX];
    _Atomic int64_t pid[COMM_RANKS_MAX]; /* of a rank that is a process */
    /* [n_boxes]: a box for each rank, and another one for what it does in its part, where there are
     * parts; behind them the pieces, [n_boxes, 2, COMM_PIECE_BYTES], and the mail, [n_ranks]. */
    struct mailbox box[];
};

struct span { /* bytes of a piece */
    size_t at, n;
};

struct parcel { /* what of the pieces of a round goes to each rank, and comes from it */
    struct span out[COMM_RANKS_MAX], in[COMM_RANKS_MAX];
};

struct net;

struct comm {
    struct group *group;
    struct net *net; /* NULL <=> the group's memory is shared; else it is this rank's own */
    struct comm *whole; /* of the end of a part; else itself */
    int rank, n_ranks;  /* in the part */
    int first;          /* what its rank 0 is in the whole group */
    int first_box;      /*   and which box that has */
    uint32_t round;     /* the last one this rank came to */
    int64_t wait_ms;    /* 0 = no limit */
    _Atomic bool reported;

    /* Of a process (comm_process.c). */
    bool owns_memory;
    pthread_t beat;
    bool has_beat;
    _Atomic bool stop;
    uint64_t suspect_ns[COMM_RANKS_MAX]; /* comm_look's */
};

size_t comm_memory_bytes(int n_ranks, int n_parts);
void comm_memory_init(struct group *g, int n_ranks, int n_parts);
struct mail *comm_mail_of(const struct comm *c, int rank);
bool comm_has_failed(const struct comm *c);
struct mailbox *comm_box(const struct comm *c, int rank);
void *comm_piece(const struct comm *c, int rank, uint32_t round); /* where its data is */
/* Both fail the group, and return false. */
bool comm_lost(struct comm *c, int rank, uint32_t call);
bool comm_check_letter(struct comm *c, int rank, const struct letter *mine, const char *what);
/* False, and `why` is set, when another rank's process has not run for a while; looked at twice,
 * some time apart, so that a pause of this process is not taken for the other's.  *suspect_ns: 0
 * at first. */
bool comm_is_alive(const struct comm *c, int rank, uint64_t *suspect_ns, struct status *why);
void comm_beat_stop(struct comm *c);

#endif
