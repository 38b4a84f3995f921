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

struct group {
    uint32_t magic, layout, n_ranks;
    _Atomic uint32_t failed; /* 0, or 1 + the rank whose mailbox says why, or one of the above */
    _Atomic uint64_t
        beat_ns[COMM_RANKS_MAX]; /* when a rank's process last ran; 0 = it has no beat */
    _Atomic uint32_t joined[COMM_RANKS_MAX];
    _Atomic int64_t pid[COMM_RANKS_MAX]; /* of a rank that is a process */
    struct mailbox box[]; /* [n_ranks]; behind them the pieces: [n_ranks, 2, COMM_PIECE_BYTES] */
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
    int rank, n_ranks;
    uint32_t round;  /* the last one this rank came to */
    int64_t wait_ms; /* 0 = no limit */
    _Atomic bool reported;

    /* Of a process (comm_process.c). */
    bool owns_memory;
    pthread_t beat;
    bool has_beat;
    _Atomic bool stop;
    uint64_t suspect_ns[COMM_RANKS_MAX]; /* comm_look's */
};

size_t comm_memory_bytes(int n_ranks);
void comm_memory_init(struct group *g, int n_ranks);
void *comm_piece(const struct comm *c, int rank, uint32_t round); /* where its data is */
bool comm_has_failed(const struct comm *c);
/* Both fail the group, and return false. */
bool comm_lost(struct comm *c, int rank, uint32_t call);
bool comm_check_letter(struct comm *c, int rank, const struct letter *mine, const char *what);
/* False, and `why` is set, when another rank's process has not run for a while; looked at twice,
 * some time apart, so that a pause of this process is not taken for the other's.  *suspect_ns: 0
 * at first. */
bool comm_is_alive(const struct comm *c, int rank, uint64_t *suspect_ns, struct status *why);
void comm_beat_stop(struct comm *c);

#endif
