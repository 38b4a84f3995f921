/* norm.c - RMS norm and layer norm over rows. */
#include "kernels/cpu/rows.h"

#include <assert.h>

struct norm_job {
    const struct norm_args *args;
    const struct row_kernels *kernels;
    int rows_each;
};

static void norm_part(void *ctx, int part, int thread)
{
    (void)thread;
    const struct norm_job *job = ctx;
    const struct norm_args *a = job->args;
    int end = smaller((part + 1) * job->rows_each, a->rows);
    for (int row = part * job->rows_each; row < end; row++) {
        size_t at = (size_t)row * (size_t)a->width;
        float *y = (float *)a->y + at;
        const float *x = (const float *)a->x + at;
        const float *add = a->add ? (const float *)a->add + at : NULL;
        if (a->norm.kind == NORM_LAYER)
            job->kernels->norm_layer(y, x, add, &a->norm, a->width);
        else
            job->kernels->norm_rms(y, x, add, a->norm.w, a->width, a->norm.eps);
    }
}

void cpu_norm(struct device *d, const struct norm_args *a)
{
    assert(a->norm.kind == NORM_LAYER || !a->norm.b);
    struct norm_job job = {a, cpu_rows(d), rows_per_part(a->width)};
    cpu_parallel(d, norm_part, &job, divide_up(a->rows, job.rows_each));
}
