/* peers.h - what the GPUs of one model have of each other: memory, or NCCL where that cannot be.
 *
 * Each rank has an inbox in its GPU's memory, which the others write to over NVLink or PCIe: mapped
 * directly between threads of a process, through CUDA IPC between processes.  Where one pair of
 * GPUs cannot reach each other, all ranks exchange through NCCL instead; the sums are ours either
 * way (all_reduce.cu), and so are their bits.
 *
 * An inbox is two halves, used in turn.  A word of it that nobody has written is EMPTY, which no
 * data is: who waits for data looks at the data itself, and empties what it has read.  A rank that
 * writes into a half for the second time has had all data of the turn between, which the others
 * sent behind the emptying of this half: so one trip over the link is enough, and no flag.
 *
 * Stages pass rows the same way, to inboxes of a group of their own (pass.cu); there nothing comes
 * back, so the receiver counts what it has taken in the sender's memory.
 *
 * No GPU waits for ever: after PEER_WAIT_MS for a sum and PASS_WAIT_MS for a pass, or once the host
 * says so, a kernel stops waiting, notes whom it missed and ends with garbage, as do all after it;
 * step_wait then reports the rank.
 *
 * Thread: the device's. */
#ifndef KERNELS_CUDA_PEERS_H
#define KERNELS_CUDA_PEERS_H

#include "kernels/cuda/cuda_int.h"

extern "C" {
#include "kernels/comm.h"
}

struct nccl; /* nccl.h */

enum {
    PEER_WAIT_MS = COMM_WAIT_MS,
    PASS_WAIT_MS = 60000 /* a stage computes between two passes, also for the first time */
};

static const uint32_t PEER_EMPTY = 0xffffffffu; /* as two 16-bit floats or one f32: a NaN that no
                                                   arithmetic makes */
static const size_t PEER_HALF_BYTES = 32 << 20;

struct peer_state {              /* device memory, of one rank */
    uint32_t turn;               /* exchanges that have ended; its parity says which half is next */
    uint32_t n_through;          /* blocks of the one that runs that know their turn */
    uint32_t failed;             /* nobody waits any more */
    uint32_t n_sent, n_received; /* passes to the next stage, and from the one before */
    uint32_t n_sending, n_receiving; /* blocks of the one that runs, as n_through */
    uint32_t n_taken; /* passes that the next stage has taken: it writes this */
};

struct peer_fault {            /* host memory, mapped */
    volatile uint32_t stop;    /* the host sets it: the group has failed */
    volatile uint32_t missing; /* a kernel sets it: 1 + the rank whose data did not come */
};

struct peer_view {               /* what a kernel is told */
    char *inbox[COMM_RANKS_MAX]; /* of each rank, as this GPU addresses it */
    struct peer_state *state;
    struct peer_fault *fault; /* the device's address */
    uint64_t wait_ns;
    int rank, n_ranks;
};

struct peers {
    struct comm *comm;
    struct peer_view view;
    struct peer_fault *fault;     /* the host's address */
    void *own;                    /* inbox and state */
    void *mapped[COMM_RANKS_MAX]; /* other processes' inboxes, to be unmapped */
    struct nccl *nccl;            /* NULL <=> all GPUs reach each other */
    int n_tensor;                 /* where they are stages: the ranks of each; else 0 */
    bool same_gpu;                /* two ranks have one GPU */
    uint64_t looked_ns;           /* when the host last looked at the group */
};

/* Which of the visible devices is this rank's, by rank_device.h.  All ranks call these two together. */
bool peers_choose_device(struct comm *, const struct device_options *, int *index,
                         struct status *st) MUST_CHECK;
/* d->index is chosen.  n_tensor: 0 <=> they sum; else the ranks are stages of so many ranks each.
 * With `by_nccl` peers are not tried.  NULL, and st says why. */
struct peers *peers_open(struct device *d, struct comm *, int n_tensor, bool by_nccl,
                         struct status *st) MUST_CHECK;
/* peers_check.cu: what d has of peers and grid is open; all ranks together.  False: sums or passes
 * come out wrong, or not at all. */
bool peers_check(struct device *d, struct status *st) MUST_CHECK;
/* What runs on the device ends soon, and is not to be used.  NCCL's part waits until no recorded
 * graph that has it is left. */
void peers_stop(struct peers *);
/* The device is idle.  Accepts NULL. */
void peers_close(struct peers *);

/* From the host, now and then, while the device runs: false <=> the group has failed, or a kernel
 * missed a rank; kernels of ours then stop waiting.  peers_stop should follow. */
bool peers_look(struct peers *, struct status *st);

/* pass.cu */
void cuda_send(struct device *, const struct pass_args *);
void cuda_recv(struct device *, const struct pass_args *);

/* all_reduce.cu */
void cuda_all_reduce(struct device *, const struct all_reduce_args *);
/* Row i of `rows` has width split[n_ranks] f32s, of which this rank has made [split[rank],
 * split[rank + 1]); in the end it has them all. */
void cuda_gather_rows(struct device *, float *rows, int n_rows, const int32_t *split);

#endif
