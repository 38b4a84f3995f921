/* rank_device.h - which of the visible GPUs is a rank's: a pure function.
 *
 * Plain C, tested without a GPU.  Thread: any. */
#ifndef KERNELS_CUDA_RANK_DEVICE_H
#define KERNELS_CUDA_RANK_DEVICE_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

struct rank_place {
    int index;           /* of the first rank of the machine */
    int n_devices;       /* that this process sees */
    int n_before;        /* lower ranks on its machine */
    bool has_local_rank; /* the launcher says which of its machine's it is: */
    int local_rank;
};

/* The one behind the first by the local rank, else by the ranks before; the only one where a
 * launcher shows each process its own.  May be one that there is not. */
int rank_device(const struct rank_place *p);

#ifdef __cplusplus
}
#endif

#endif
