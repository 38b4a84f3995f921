/* head.c - logits for the rows that want them: gathered, normed, multiplied; and where each rank
 * has the logits of some tokens, exchanged.
 *
 * The input is rounded finely: nothing after it would even out the error, and of the fast path's
 * divergence from the exact one it was almost a third. */
#include "kernels/cpu/cpu_int.h"

#include <assert.h>
#include <string.h>

#include "kernels/comm.h"

/* Each rank has written its columns. */
static void exchange_logits(struct device *d, const struct head_args *a)
{
    size_t split[COMM_RANKS_MAX + 1];
    const int n_ranks = comm_size(d->comm);
    for (int r = 0; r <= n_ranks; r++)
        split[r] = (size_t)a->split[r] * sizeof *a->logits;
    comm_all_gather(d->comm, a->logits, (size_t)a->n, split[n_ranks], split);
}

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
    const int rank = a->split ? comm_rank(d->comm) : 0;
    const int first = a->split ? a->split[rank] : 0;
    assert(!a->split || a->split[rank + 1] - first == a->w->rows);
    cpu_matmul(
        d, &(struct matmul_args){.x = d->normed,
                                 .rows = a->n,
                                 .fine = true,
                                 .n_outs = 1,
                                 .out = {{.y = a->logits + first,
                                          .y_stride = a->split ? a->split[comm_size(d->comm)] : 0,
                                          .w = a->w}}});
    if (a->split)
        exchange_logits(d, a);
}
