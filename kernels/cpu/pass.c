/* pass.c - activations from stage to stage, through the memory that the ranks share. */
#include "kernels/comm.h"
#include "kernels/cpu/cpu_int.h"

static size_t pass_bytes(const struct pass_args *a)
{
    return (size_t)a->rows * (size_t)a->width * sizeof(float);
}

/* A group that failed stays so: step_wait says it. */
void cpu_send(struct device *d, const struct pass_args *a)
{
    comm_send(d->grid, a->x, pass_bytes(a));
}

void cpu_recv(struct device *d, const struct pass_args *a)
{
    comm_recv(d->grid, a->x, pass_bytes(a));
}
