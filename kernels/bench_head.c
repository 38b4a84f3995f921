/* bench_head.c - logits of a batch's heads, and the rows of a token table, with weights of the
 * formats that a model's embedding and output may have. */
#include <stdlib.h>

#include "kernels/bench_int.h"

enum {
    TABLE_ROWS = 16384
}; /* of the token table: copies take turns, and no token finds its row in a cache */

static const int head_counts[] = {1, 16, 64, 256, 0};

/* ---- head ---- */

/* clang-format off: argument structs are read in lines, as a call is. */
static void call_head(void *call, int i)
{
    const struct bench_call *c = call;
    const struct bench_device *b = c->b;
    b->ops->head(b->dev, &(struct head_args){.logits = b->logits,
                                             .x = c->x,
                                             .n = c->rows,
                                             .norm = c->norm,
                                             .w = &c->m->w[(size_t)i % c->m->n_copies][0]});
}
/* clang-format on */

static void batch_of_heads(struct bench_device *b, int rows)
{
    bench_batch(b, rows, 1, BLOCK_TOKENS, rows);
}

static bool run_head(const struct bench_run *r, struct status *st)
{
    const struct bench_shape *s = r->shape;
    const struct bench_needs needs = {
        .x_width = s->hidden, .y_width = 1, .logits = true, .vendor = true};
    struct bench_device b;
    bool ok = bench_device_open(&b, r, &needs, st);
    const struct norm norm = {.kind = NORM_RMS, .w = b.gain, .eps = BENCH_EPS};
    struct bench_call c = {
        .b = &b, .p = {s->hidden, 1, {s->head_rows}}, .y_f32 = true, .norm = &norm};
    const int heads = b.rows_wanted < b.heads_max ? b.rows_wanted : b.heads_max;
    const struct bench_case k = {.op = "head",
                                 .counts = head_counts,
                                 .rows_max = heads,
                                 .of_head = true,
                                 .row_bytes =
                                     (double)s->hidden * (double)b.act_bytes + 4.0 * s->head_rows,
                                 .batch = batch_of_heads,
                                 .fn = call_head};
    ok = ok && bench_product_case(&c, &k, st);
    bench_device_close(&b);
    return ok;
}

/* ---- embed ---- */

/* clang-format off: argument structs are read in lines, as a call is. */
static void call_embed(void *call, int i)
{
    const struct bench_call *c = call;
    const struct bench_device *b = c->b;
    b->ops->embed(b->dev, &(struct embed_args){.out = b->y,
                                               .table = &c->m->w[(size_t)i % c->m->n_copies][0],
                                               .scale = 1});
}
/* clang-format on */

static bool time_embed(struct bench_call *c, struct status *st)
{
    struct bench_device *b = c->b;
    const double table_row = bench_weight_bytes(c->m, &c->p) / c->p.n[0];
    const double out_row = (double)c->p.in * (double)b->act_bytes;
    for (const int *rows = bench_row_counts; *rows && *rows <= b->rows_wanted; rows++) {
        bench_batch(b, 1, *rows, *rows, 0);
        const struct kernel_time t = {.op = "embed",
                                      .format = c->m->format->name,
                                      .rows = *rows,
                                      .bytes = *rows * (table_row + out_row)};
        if (!bench_emit(b, t, call_embed, c, st))
            return false;
    }
    return true;
}

static bool time_embeds(struct bench_device *b, struct status *st)
{
    struct bench_call c = {.b = b, .p = {b->shape->hidden, 1, {b->ids_max}}};
    const struct kernel_sink *sink = b->run->sink;
    int n = 0;
    struct bench_matrix *m = bench_matrices(b, true, &n, st);
    bool ok = m && bench_weights(b, &c.p, m, n, st);
    for (int i = 0; ok && i < n; i++) {
        c.m = &m[i];
        if (m[i].is_held)
            ok = time_embed(&c, st);
        else
            sink->skip(sink->ctx, b->shape->name, "embed", m[i].format->name,
                       "the device holds it in 16 bits");
    }
    free(m);
    return ok;
}

static bool run_embed(const struct bench_run *r, struct status *st)
{
    const struct bench_shape *s = r->shape;
    const struct bench_needs needs = {.x_width = s->hidden, .y_width = s->hidden};
    struct bench_device b;
    bool ok = bench_device_open(&b, r, &needs, st);
    b.ids_max = s->vocab < TABLE_ROWS ? s->vocab : TABLE_ROWS;
    ok = ok && time_embeds(&b, st);
    bench_device_close(&b);
    return ok || status_wrap(st, "embed");
}

bool bench_head(const struct bench_run *r, struct status *st)
{
    return (!bench_wants(r, "embed") || run_embed(r, st)) &&
           (!bench_wants(r, "head") || run_head(r, st));
}
