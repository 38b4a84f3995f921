/* linear.c - matmul as the table has it: a norm in front of the product, an activation behind it.
 *
 * Both are passes of their own over rows that lie in the cache; the product is matmul.c's. */
#include "kernels/cpu/cpu_int.h"

#include <assert.h>

static void normalize(struct device *d, const struct matmul_args *a, struct matmul_args *product)
{
    const int width = (int)a->out[0].w->cols;
    cpu_norm(d, &(struct norm_args){
                    .y = d->normed, .x = a->x, .rows = a->rows, .width = width, .norm = *a->norm});
    product->x = d->normed;
}

void cpu_linear(struct device *d, const struct matmul_args *a)
{
    struct matmul_args product = *a;
    const struct matmul_out *gate = &a->out[0];
    const bool gated = a->act != ACT_NONE && a->n_outs == 2;
    assert(a->act == ACT_NONE || (a->n_outs <= 2 && !gate->add));
    if (a->norm)
        normalize(d, a, &product);
    if (gated) {
        product.out[1].y = d->up;
        product.out[1].y_stride = 0;
    }
    cpu_matmul(d, &product);
    if (a->act == ACT_NONE)
        return;
    const int width = (int)gate->w->rows;
    cpu_act(d, &(struct act_args){.y = gate->y,
                                  .gate = gate->y,
                                  .up = gated ? d->up : NULL,
                                  .rows = a->rows,
                                  .width = width,
                                  .y_stride = gate->y_stride ? gate->y_stride : width,
                                  .kind = a->act});
}
