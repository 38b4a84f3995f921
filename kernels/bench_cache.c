/* bench_cache.c - what writes the KV cache and what reads it, for each type that the cache may
 * have. */
#include <stdlib.h>

#include "kernels/bench_int.h"

static const int prompt_lengths[] = {16, 128, 512, 2048, 8192, 0};
static const struct {
    int seqs, context;
} decodes[] = {{1, 128},   {1, 1024},  {1, 4000},  {8, 128},    {8, 1024},  {8, 4000}, {32, 128},
               {32, 1024}, {32, 4000}, {64, 1024}, {128, 1000}, {256, 128}, {256, 500}};

enum { LAYERS = 16, LAYERS_WRITTEN = 2 };

/* What a call of q, k and v writes of the cache, and what one of attention reads, of one token. */
static double token_bytes(const struct bench_device *b)
{
    const double value = dtype_traits[b->kv.dtype].block_bytes;
    const double scale = kv_has_scales(b->kv.dtype) ? sizeof(float) : 0;
    return 2.0 * b->kv.n_kv_heads * (b->kv.head_dim * value + scale);
}

/* ---- the writers ---- */

/* clang-format off: argument structs are read in lines, as a call is. */
static struct rope_kv_args rope_args(const struct bench_device *b, void *qkv, int i)
{
    const struct bench_shape *s = b->shape;
    char *q = qkv, *k = q + (size_t)bench_q_width(s) * b->act_bytes;
    return (struct rope_kv_args){.q = q,
                                 .k = k,
                                 .v = k + (size_t)bench_kv_width(s) * b->act_bytes,
                                 .stride = bench_qkv_width(s),
                                 .norm_eps = BENCH_EPS,
                                 .kv = &b->kv,
                                 .layer = i % b->kv.n_layers,
                                 .n_heads = s->n_heads,
                                 .rope = ROPE_NEOX,
                                 .rope_dims = s->head_dim,
                                 .inv_freq = b->inv_freq,
                                 .rope_scale = 1};
}
/* clang-format on */

static void call_rope(void *ctx, int i)
{
    const struct bench_device *b = ctx;
    const struct rope_kv_args a = rope_args(b, b->x, i);
    b->ops->rope_kv(b->dev, &a);
}

static void call_matmul_rope(void *call, int i)
{
    const struct bench_call *c = call;
    const struct matmul_args m = bench_matmul_args(c, i);
    const struct rope_kv_args r = rope_args(c->b, c->b->y, i);
    c->b->ops->matmul_rope_kv(c->b->dev, &m, &r);
}

static void batch_of_prompt(struct bench_device *b, int rows)
{
    bench_batch(b, 1, rows, rows, 0);
}

static int rows_in_cache(const struct bench_device *b)
{
    return b->rows_wanted < b->kv_tokens_max ? b->rows_wanted : b->kv_tokens_max;
}

static bool run_rope(struct bench_device *b, const char *format, struct status *st)
{
    const struct bench_shape *s = b->shape;
    const double row = (2.0 * bench_q_width(s) + 2 * bench_kv_width(s)) * (double)b->act_bytes;
    for (const int *rows = bench_row_counts; *rows && *rows <= rows_in_cache(b); rows++) {
        batch_of_prompt(b, *rows);
        const struct kernel_time t = {.op = "rope_kv",
                                      .format = format,
                                      .rows = *rows,
                                      .bytes = *rows * (row + token_bytes(b))};
        if (!bench_emit(b, t, call_rope, b, st))
            return false;
    }
    return true;
}

/* ---- attention ---- */

/* clang-format off: argument structs are read in lines, as a call is. */
static void call_attention(void *ctx, int i)
{
    const struct bench_device *b = ctx;
    b->ops->attention(b->dev, &(struct attention_args){.out = b->y,
                                                       .q = b->x,
                                                       .q_stride = bench_qkv_width(b->shape),
                                                       .kv = &b->kv,
                                                       .layer = i % b->kv.n_layers,
                                                       .n_heads = b->shape->n_heads,
                                                       .scale = 0.1f});
}
/* clang-format on */

static bool run_prefill(struct bench_device *b, const char *format, struct status *st)
{
    const double q = bench_q_width(b->shape);
    for (const int *n = prompt_lengths; *n && *n <= rows_in_cache(b); n++) {
        batch_of_prompt(b, *n);
        const struct kernel_time t = {.op = "attention.prefill",
                                      .format = format,
                                      .rows = *n,
                                      .context = *n,
                                      .bytes = *n * (2 * q * (double)b->act_bytes + token_bytes(b)),
                                      .flops = 2.0 * *n * *n * q};
        if (!bench_emit(b, t, call_attention, b, st))
            return false;
    }
    return true;
}

static bool run_decode(struct bench_device *b, const char *format, struct status *st)
{
    const double q = bench_q_width(b->shape);
    for (size_t i = 0; i < sizeof decodes / sizeof decodes[0]; i++) {
        const int seqs = decodes[i].seqs, context = decodes[i].context;
        if (seqs > b->rows_wanted || seqs * context > b->kv_tokens_max)
            continue;
        bench_batch(b, seqs, 1, context, 0);
        const struct kernel_time t = {
            .op = "attention.decode",
            .format = format,
            .rows = seqs,
            .context = context,
            .bytes = seqs * (2 * q * (double)b->act_bytes + context * token_bytes(b)),
            .flops = 4.0 * seqs * context * q};
        if (!bench_emit(b, t, call_attention, b, st))
            return false;
    }
    return true;
}

/* ---- of each type ---- */

static bool run_type(const struct bench_run *r, const struct bench_cache_format *f,
                     struct status *st)
{
    const struct bench_needs needs = {.x_width = bench_qkv_width(r->shape),
                                      .y_width = bench_q_width(r->shape),
                                      .cache = f,
                                      .cache_layers = LAYERS};
    struct bench_device b;
    bool ok = bench_device_open(&b, r, &needs, st);
    if (ok && !b.ops->kv_fits(b.dev, b.kv.dtype))
        r->sink->skip(r->sink->ctx, r->shape->name,
                      r->wanted->op ? r->wanted->op : "attention and rope_kv", f->name,
                      "the device has no such cache");
    else
        ok = ok && (!bench_wants(r, "rope_kv") || run_rope(&b, f->name, st)) &&
             (!bench_wants(r, "attention.prefill") || run_prefill(&b, f->name, st)) &&
             (!bench_wants(r, "attention.decode") || run_decode(&b, f->name, st));
    bench_device_close(&b);
    return ok || status_wrap(st, "%s", f->name);
}

/* q, k and v as a layer makes them, norm and all, with the cache as activations are. */
static bool run_matmul_rope(const struct bench_run *r, struct status *st)
{
    const struct bench_shape *s = r->shape;
    const int q = bench_q_width(s), kv = bench_kv_width(s);
    const struct bench_needs needs = {.x_width = s->hidden,
                                      .y_width = bench_qkv_width(s),
                                      .vendor = true,
                                      .cache = &bench_cache_formats[0],
                                      .cache_layers = LAYERS_WRITTEN};
    struct bench_device b;
    bool ok = bench_device_open(&b, r, &needs, st);
    const struct norm norm = {.kind = NORM_RMS, .w = b.gain, .eps = BENCH_EPS};
    struct bench_call c = {.b = &b, .p = {s->hidden, 3, {q, kv, kv}}, .norm = &norm};
    const struct bench_case k = {.op = "matmul_rope_kv",
                                 .counts = bench_row_counts,
                                 .rows_max = rows_in_cache(&b),
                                 .row_bytes =
                                     (s->hidden + q) * (double)b.act_bytes + token_bytes(&b),
                                 .batch = batch_of_prompt,
                                 .fn = call_matmul_rope};
    ok = ok && bench_product_case(&c, &k, st);
    bench_device_close(&b);
    return ok;
}

bool bench_cache(const struct bench_run *r, struct status *st)
{
    if (bench_wants(r, "matmul_rope_kv") && !run_matmul_rope(r, st))
        return false;
    if (!bench_wants(r, "rope_kv") && !bench_wants(r, "attention"))
        return true;
    for (int i = 0; i < CACHE_FORMATS; i++)
        if (bench_wants_format(r, bench_cache_formats[i].name, true) &&
            !run_type(r, &bench_cache_formats[i], st))
            return false;
    return true;
}
