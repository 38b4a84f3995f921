/* bench_products.c - the products of a layer, each alone, with weights of every format. */
#include <stdlib.h>

#include "kernels/bench_int.h"

const int bench_row_counts[] = {1, 4, 16, 64, 256, 2048, 8192, 0};
static const int some_counts[] = {1, 16, 64, 256, 2048, 0}; /* of quantized weights */

/* ---- ours ---- */

static int sum_outs(const struct bench_product *p)
{
    int n = 0;
    for (int i = 0; i < p->parts; i++)
        n += p->n[i];
    return n;
}

/* clang-format off: argument structs are read in lines, as a call is. */
struct matmul_args bench_matmul_args(const struct bench_call *c, int i)
{
    const struct bench_device *b = c->b;
    const struct tensor *w = c->m->w[(size_t)i % c->m->n_copies];
    const bool gated = c->act != ACT_NONE;
    struct matmul_args a = {
        .x = c->x, .rows = c->rows, .norm = c->norm, .act = c->act, .n_outs = c->p.parts};
    char *y = b->y;
    for (int p = 0; p < c->p.parts; p++) {
        a.out[p] = (struct matmul_out){
            .y = y, .y_stride = gated ? 0 : sum_outs(&c->p), .w = &w[p], .add = c->add ? y : NULL};
        y += gated ? 0 : (size_t)c->p.n[p] * b->act_bytes;
    }
    return a;
}
/* clang-format on */

static void call_matmul(void *call, int i)
{
    const struct bench_call *c = call;
    const struct matmul_args a = bench_matmul_args(c, i);
    c->b->ops->matmul(c->b->dev, &a);
}

static double count_flops(const struct bench_call *c)
{
    return 2.0 * c->rows * c->p.in * sum_outs(&c->p);
}

/* ---- the vendor's ---- */

static void call_vendor(void *call, int i)
{
    const struct bench_call *c = call;
    const struct bench_device *b = c->b;
    b->run->backend->vendor->multiply(b->vendor, c->y_f32 ? (void *)b->logits : b->y, c->x,
                                      c->m->w[(size_t)i % c->m->n_copies][0].data);
}

/* Microseconds for each of the counts; 0 where there is none.  The parts lie one behind the other.
 */
static bool time_vendor(struct bench_call *c, const struct bench_case *k, double us[COUNTS_MAX],
                        struct status *st)
{
    struct bench_device *b = c->b;
    for (int i = 0; b->vendor && k->counts[i] && k->counts[i] <= k->rows_max; i++) {
        const struct vendor_product p = {
            .rows = k->counts[i], .in = c->p.in, .n = sum_outs(&c->p), .y_f32 = c->y_f32};
        double s;
        if (!b->run->backend->vendor->choose(b->vendor, &p))
            continue;
        k->batch(b, k->counts[i]);
        if (!bench_time(b, call_vendor, c, &s, st))
            return status_wrap(st, "%s of %d rows", b->run->backend->vendor->name, k->counts[i]);
        us[i] = 1e6 * s;
    }
    return true;
}

static double vendor_us(const struct bench_case *k, const double us[COUNTS_MAX], int rows)
{
    for (int i = 0; k->counts[i]; i++)
        if (k->counts[i] == rows)
            return us[i];
    return 0;
}

/* ---- beside each other ---- */

static bool time_format(struct bench_call *c, const struct bench_case *k,
                        const double us[COUNTS_MAX], struct status *st)
{
    const bool is_wide = c->m->format == bench_formats;
    const struct kernel_sink *sink = c->b->run->sink;
    if (!c->m->is_held) {
        sink->skip(sink->ctx, c->b->shape->name, k->op, c->m->format->name,
                   "the device holds it in 16 bits");
        return true;
    }
    for (const int *rows = is_wide || k->of_head ? k->counts : some_counts;
         *rows && *rows <= k->rows_max; rows++) {
        c->rows = *rows;
        const struct kernel_time t = {.op = k->op,
                                      .format = c->m->format->name,
                                      .rows = *rows,
                                      .bytes =
                                          bench_weight_bytes(c->m, &c->p) + *rows * k->row_bytes,
                                      .flops = count_flops(c),
                                      .vendor_us = vendor_us(k, us, *rows)};
        k->batch(c->b, *rows);
        if (!bench_emit(c->b, t, k->fn, c, st))
            return false;
    }
    return true;
}

static bool time_formats(struct bench_call *c, const struct bench_case *k, struct bench_matrix *m,
                         int n, void *outliers, struct status *st)
{
    double us[COUNTS_MAX] = {0};
    void *x = c->b->x;
    c->x = x;
    c->m = m; /* the first is of 16 bits where there is a vendor */
    if (!time_vendor(c, k, us, st))
        return false;
    for (int i = 0; i < n; i++) {
        c->m = &m[i];
        c->x = m[i].scheme.act == ACTS_OUTLIERS ? outliers : x;
        if (m[i].is_shown && !time_format(c, k, us, st))
            return false;
    }
    return true;
}

bool bench_product_case(struct bench_call *c, const struct bench_case *k, struct status *st)
{
    int n = 0;
    struct bench_matrix *m = bench_matrices(c->b, k->of_head, &n, st);
    bool ok = m != NULL && bench_weights(c->b, &c->p, m, n, st);
    void *outliers = c->b->x;
    for (int i = 0; ok && i < n; i++)
        if (m[i].scheme.act == ACTS_OUTLIERS)
            ok = (outliers = bench_take_rows(c->b, c->p.in, true, st)) != NULL;
    ok = ok && time_formats(c, k, m, n, outliers, st);
    free(m);
    return ok || status_wrap(st, "%s", k->op);
}

/* ---- those of a layer ---- */

static void any_batch(struct bench_device *b, int rows)
{
    (void)rows;
    bench_batch(b, 1, 1, 1, 0);
}

static bool run_matmul(const struct bench_run *r, const char *op, const struct bench_call *of,
                       struct status *st)
{
    const bool gated = of->act != ACT_NONE;
    const int n = sum_outs(&of->p);
    const struct bench_needs needs = {.x_width = of->p.in, .y_width = n, .vendor = true};
    struct bench_device b;
    struct bench_call c = *of;
    bool ok = bench_device_open(&b, r, &needs, st);
    const struct bench_case k = {
        .op = op,
        .counts = bench_row_counts,
        .rows_max = b.rows_wanted,
        .row_bytes = (of->p.in + (gated ? n / 2.0 : n) * (of->add ? 2 : 1)) * (double)b.act_bytes,
        .batch = any_batch,
        .fn = call_matmul};
    c.b = &b;
    ok = ok && bench_product_case(&c, &k, st);
    bench_device_close(&b);
    return ok;
}

bool bench_products(const struct bench_run *r, struct status *st)
{
    const struct bench_shape *s = r->shape;
    const int q = bench_q_width(s), kv = bench_kv_width(s);
    const struct {
        const char *op;
        struct bench_call call;
    } all[] = {
        {"matmul.qkv", {.p = {s->hidden, 3, {q, kv, kv}}}},
        {"matmul.o", {.p = {q, 1, {s->hidden}}, .add = true}},
        {"matmul.gated", {.p = {s->hidden, 2, {s->ffn, s->ffn}}, .act = ACT_SILU}},
        {"matmul.down", {.p = {s->ffn, 1, {s->hidden}}, .add = true}},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (bench_wants(r, all[i].op) && !run_matmul(r, all[i].op, &all[i].call, st))
            return false;
    return true;
}
