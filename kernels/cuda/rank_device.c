/* rank_device.c - see rank_device.h. */
#include "kernels/cuda/rank_device.h"

int rank_device(const struct rank_place *p)
{
    if (p->n_devices == 1 && p->index == 0)
        return 0;
    return p->index + (p->has_local_rank ? p->local_rank : p->n_before);
}
