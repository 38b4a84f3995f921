/* stage.h - the inputs of one step on their way to the device.
 *
 * The host packs a step's arrays one behind the other into pinned memory; one copy on a stream
 * of its own brings them over while the step before still runs; the step's first kernel spreads
 * them to the fixed addresses that recorded graphs read.  There are STAGES of them, so that a stage is
 * free again before it is needed: DEVICE_DEPTH steps run ahead, one is being packed.
 *
 * Thread: the device's. */
#ifndef KERNELS_CUDA_STAGE_H
#define KERNELS_CUDA_STAGE_H

#include "kernels/cuda/cuda_int.h"

enum { STAGES = DEVICE_DEPTH + 1, STAGE_ALIGN = 16 };

struct stage {
    char *host;         /* pinned, `n_bytes` */
    char *device;       /* as many */
    size_t n_bytes, n_used;
    cudaEvent_t copied; /* the device has it */
};

/* The largest step's bytes. */
size_t stage_bytes(const struct device_limits *l);
/* `device`: stage_bytes of device memory. */
bool stage_open(struct stage *s, const struct device_limits *l, void *device,
                struct status *st) MUST_CHECK;
void stage_close(struct stage *s);

/* Pack `b` and send it; then, in the order of d->stream, slots are set and the rest is there for
 * cuda_slots_step: after `step` blocks are in the tables, ids resolved, work lists made, samples
 * told to go to `out`. */
void stage_send(struct device *d, struct stage *s, cudaStream_t copies, const struct batch *b,
                struct sample_out *out, struct cuda_step *step);

#endif
