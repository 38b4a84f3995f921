/* head.c - logits for the rows that want them: gathered, normed, multiplied.
 *
 * The input is rounded finely: nothing after it would even out the error, and of the fast path's
 * divergence from the exact one it was almost a third. */
#include "kernels/cpu/cpu_int.h"

#include <string.h>

void cpu_head(struct device *d, const struct head_args *a)
{
    const size_t width = (size_t)a->w->cols;
    const float *x = a->x;
    for (int i = 0; i < a->n; i++) /* one row a sequence: too little to share */
        memcpy(d->normed + (size_t)i * width, x + (size_t)d->batch.head[a->first + i].row * width,
               width * sizeof *x);
    cpu_norm(
        d,
        &(struct norm_args){
            .y = d->normed, .x = d->normed, .rows = a->n, .width = (int)width, .norm = *a->norm});
    cpu_matmul(d, &(struct matmul_args){.x = d->normed,
                                        .rows = a->n,
                                        .fine = true,
                                        .n_outs = 1,
                                        .out = {{.y = a->logits, .w = a->w}}});
}
