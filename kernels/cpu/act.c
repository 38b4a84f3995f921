/* act.c - activation functions, with or without a gate's partner. */
#include "kernels/cpu/rows.h"

#include <assert.h>

struct act_job {
    const struct act_args *args;
    const struct row_kernels *kernels;
    int rows_each;
};

static void act_part(void *ctx, int part, int thread)
{
    (void)thread;
    const struct act_job *job = ctx;
    const struct act_args *a = job->args;
    int end = smaller((part + 1) * job->rows_each, a->rows);
    for (int row = part * job->rows_each; row < end; row++) {
        size_t at = (size_t)row * (size_t)a->y_stride;
        const float *up = a->up ? a->up + (size_t)row * (size_t)a->width : NULL;
        job->kernels->act(a->y + at, a->gate + at, up, a->width, a->kind);
    }
}

void cpu_act(struct device *d, const struct act_args *a)
{
    assert(a->kind >= ACT_SILU && a->kind <= ACT_RELU && a->y_stride >= a->width);
    struct act_job job = {a, cpu_rows(d), rows_per_part(a->width)};
    cpu_parallel(d, act_part, &job, divide_up(a->rows, job.rows_each));
}
