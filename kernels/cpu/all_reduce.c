/* all_reduce.c - the sum of what the ranks have, through the memory they share. */
#include "kernels/comm.h"
#include "kernels/cpu/cpu_int.h"

/* A group that failed stays so: step_wait says it. */
void cpu_all_reduce(struct device *d, const struct all_reduce_args *a)
{
    comm_all_reduce(d->comm, a->y, a->x, a->add, (size_t)a->rows * (size_t)a->width);
}
