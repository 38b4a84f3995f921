/* attention.cu - attention of a mixed batch: prompt tokens as tiles, generated ones as items. */
#include "kernels/cuda/cuda_int.h"

void cuda_attention(struct device *d, const struct attention_args *a)
{
    if (d->act == DT_F32) {
        cuda_attention_f32(d, a);
        return;
    }
    if (d->batch.has_tiles)
        cuda_attention_prefill(d, a);
    if (d->batch.has_items)
        cuda_attention_decode(d, a);
}
