/* embed.c - rows of the token table, as floats; zeros for a token whose row another rank has.
 *
 * The table may be PACKED: a model that ties its embeddings to its head keeps one copy. */
#include "kernels/cpu/matmul_int.h"

#include <string.h>

enum { EMBED_PART_ROWS = 8 };

struct embed {
    const struct embed_args *args;
    const struct batch *batch;
    size_t row_bytes; /* of a PLAIN table */
    int lanes;        /* of a PACKED one */
};

static void embed_part(void *ctx, int part, int thread)
{
    const struct embed *e = ctx;
    const struct embed_args *a = e->args;
    const struct tensor *table = a->table;
    (void)thread;
    for (int t = part * EMBED_PART_ROWS; t < (part + 1) * EMBED_PART_ROWS && t < e->batch->n_tokens;
         t++) {
        float *out = (float *)a->out + t * table->cols;
        const int32_t id = e->batch->token_ids[t] - a->first;
        if (id < 0 || id >= table->rows)
            memset(out, 0, (size_t)table->cols * sizeof *out);
        else if (table->layout == LAYOUT_PACKED)
            pack_row_read(table, e->lanes, id, out);
        else
            dequantize_row(table->dtype, (const char *)table->data + (size_t)id * e->row_bytes, out,
                           table->cols);
        if (a->scale != 1)
            for (int64_t i = 0; i < table->cols; i++)
                out[i] *= a->scale;
    }
}

void cpu_embed(struct device *d, const struct embed_args *a)
{
    const struct dtype_traits *t = &dtype_traits[a->table->dtype];
    struct embed e = {.args = a, .batch = &d->batch, .lanes = pack_lanes(d)};
    e.row_bytes = (size_t)(a->table->cols / t->block) * (size_t)t->block_bytes;
    cpu_parallel(d, embed_part, &e, (d->batch.n_tokens + EMBED_PART_ROWS - 1) / EMBED_PART_ROWS);
}
