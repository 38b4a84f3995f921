/* nccl.h - NCCL, for GPUs that cannot write each other's memory: bytes from each rank to each.
 *
 * The library is looked for when a group needs it, and only then.  Its communicator never blocks
 * the host: it is asked how far it is, and aborted when the group fails.  Only sends and receives
 * are used, so that sums are ours; what it may not use (NVLink multicast) is switched off.
 *
 * Thread: the device's. */
#ifndef KERNELS_CUDA_NCCL_H
#define KERNELS_CUDA_NCCL_H

#include <cuda_runtime.h>

extern "C" {
#include "kernels/comm.h"
}

struct nccl;

struct nccl_part { /* of an exchange with one rank */
    const void *from;
    size_t n_from;
    void *to;
    size_t n_to;
};

/* All ranks together, each with its device current.  NULL, and st says why. */
struct nccl *nccl_open(struct comm *, struct status *st) MUST_CHECK;
void nccl_close(struct nccl *); /* aborts what runs; accepts NULL */

/* Enqueues: the bytes of part[r] to and from each rank r but this one. */
bool nccl_exchange(struct nccl *, const struct nccl_part *part, cudaStream_t,
                   struct status *st) MUST_CHECK;
/* False <=> it has failed since. */
bool nccl_ok(struct nccl *, struct status *st);
/* Ends what runs on the device. */
void nccl_abort(struct nccl *);

#endif
