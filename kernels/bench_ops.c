/* bench_ops.c - the calls that a decoder of a shape makes, each alone. */
#include "kernels/bench_int.h"

static const int row_counts[] = {1, 4, 16, 64, 256, 2048, 8192, 0};
static const int head_counts[] = {1, 16, 64, 256, 0};
static const int prompt_lengths[] = {128, 512, 2048, 8192, 0};
static const struct {
    int seqs, context;
} decodes[] = {{1, 128},   {1, 1024},  {1, 4000},  {8, 128},    {8, 1024},  {8, 4000}, {32, 128},
               {32, 1024}, {32, 4000}, {64, 1024}, {128, 1000}, {256, 128}, {256, 500}};

static const float EPS = 1e-5f;

struct op_case { /* what one call needs */
    struct bench_device *b;
    int rows, parts, in, n[PARTS_MAX];
    const struct scheme *scheme; /* of the weights; NULL = 16 bits */
    enum act_kind act;
    bool add;
    struct norm norm;
};

static bool emit(struct bench_device *b, struct kernel_time t, void (*fn)(void *ctx, int i),
                 void *ctx, struct status *st)
{
    double s;
    if (!bench_time(b, fn, ctx, &s, st))
        return status_wrap(st, "%s, %d rows", t.op, t.rows);
    t.shape = b->shape->name;
    t.us = 1e6 * s;
    b->sink->time(b->sink->ctx, &t);
    return true;
}

/* ---- products ---- */

/* clang-format off: argument structs are read in lines, as a call is. */
static void call_matmul(void *ctx, int i)
{
    struct op_case *c = ctx;
    struct bench_device *b = c->b;
    struct tensor *w = b->w[(size_t)i % b->n_copies];
    struct matmul_args a = {.x = b->x, .rows = c->rows, .act = c->act, .n_outs = c->parts};
    int stride = 0, at = 0;
    for (int p = 0; p < c->parts; p++)
        stride += c->act == ACT_NONE ? c->n[p] : 0;
    for (int p = 0; p < c->parts; p++) {
        a.out[p] = (struct matmul_out){.y = (char *)b->y + (size_t)at * b->act_bytes,
                                       .y_stride = stride,
                                       .w = &w[p],
                                       .add = c->add ? b->y : NULL};
        at += c->act == ACT_NONE ? c->n[p] : 0;
    }
    b->ops->matmul(b->dev, &a);
}

static void call_head(void *ctx, int i)
{
    struct op_case *c = ctx;
    struct bench_device *b = c->b;
    b->ops->head(b->dev, &(struct head_args){.logits = b->logits,
                                             .x = b->x,
                                             .first = 0,
                                             .n = c->rows,
                                             .norm = &c->norm,
                                             .w = &b->w[(size_t)i % b->n_copies][0]});
}
/* clang-format on */

static double product_bytes(const struct op_case *c)
{
    double n = 0, y = 0;
    for (int p = 0; p < c->parts; p++)
        n += c->n[p];
    y = c->act == ACT_NONE ? n : n / 2;
    return (c->scheme ? (double)scheme_bytes(c->scheme, (int64_t)n, c->in) : n * c->in * 2) +
           (double)c->rows * (c->in + y * (c->add ? 2 : 1)) * (double)c->b->act_bytes;
}

static double product_flops(const struct op_case *c)
{
    double n = 0;
    for (int p = 0; p < c->parts; p++)
        n += c->n[p];
    return 2.0 * c->rows * c->in * n;
}

static bool run_matmul(struct op_case *c, const char *name, struct status *st)
{
    struct bench_device *b = c->b;
    if (!bench_weights(b, c->scheme, c->n, c->parts, c->in, st))
        return status_wrap(st, "%s", name);
    bench_batch(b, 1, 1, 1, 0);
    for (const int *rows = row_counts; *rows && *rows <= b->rows_max; rows++) {
        c->rows = *rows;
        if (!emit(b,
                  (struct kernel_time){.op = name,
                                       .rows = *rows,
                                       .bytes = product_bytes(c),
                                       .flops = product_flops(c)},
                  call_matmul, c, st))
            return false;
    }
    return true;
}

static bool run_matmuls_of(struct bench_device *b, const struct scheme *of, const char *const name[4],
                           struct status *st)
{
    const struct bench_shape *s = b->shape;
    const int q = s->n_heads * s->head_dim, kv = s->n_kv_heads * s->head_dim;
    struct op_case qkv = {
        .b = b, .scheme = of, .parts = 3, .in = s->hidden, .n = {q, kv, kv}};
    struct op_case o = {
        .b = b, .scheme = of, .parts = 1, .in = q, .n = {s->hidden}, .add = true};
    struct op_case gated = {
        .b = b, .scheme = of, .parts = 2, .in = s->hidden, .n = {s->ffn, s->ffn}, .act = ACT_SILU};
    struct op_case down = {
        .b = b, .scheme = of, .parts = 1, .in = s->ffn, .n = {s->hidden}, .add = true};
    return run_matmul(&qkv, name[0], st) && run_matmul(&o, name[1], st) &&
           run_matmul(&gated, name[2], st) && run_matmul(&down, name[3], st);
}

static bool run_matmuls(struct bench_device *b, struct status *st)
{
    static const struct scheme w4 = {.codes = DT_INT4, .group = 128, .scale = DT_F16};
    static const struct scheme w8 = {.codes = DT_INT8};
    static const struct {
        const struct scheme *scheme;
        const char *name[4];
    } of[] = {{NULL, {"qkv", "o", "gated", "down"}},
              {&w4, {"qkv w4", "o w4", "gated w4", "down w4"}},
              {&w8, {"qkv w8", "o w8", "gated w8", "down w8"}}};
    for (size_t i = 0; i < sizeof of / sizeof of[0]; i++)
        if (!run_matmuls_of(b, of[i].scheme, of[i].name, st))
            return false;
    return true;
}

static bool run_head(struct bench_device *b, struct status *st)
{
    struct op_case c = {.b = b,
                        .parts = 1,
                        .in = b->shape->hidden,
                        .n = {b->shape->vocab},
                        .norm = {.kind = NORM_RMS, .w = b->gain, .eps = EPS}};
    if (!bench_weights(b, NULL, c.n, 1, c.in, st))
        return status_wrap(st, "head");
    for (const int *rows = head_counts; *rows && *rows <= b->heads_max; rows++) {
        c.rows = *rows;
        bench_batch(b, *rows, 1, 64, *rows);
        const double bytes =
            product_bytes(&c) + (double)*rows * b->shape->vocab * (4.0 - (double)b->act_bytes);
        if (!emit(b,
                  (struct kernel_time){
                      .op = "head", .rows = *rows, .bytes = bytes, .flops = product_flops(&c)},
                  call_head, &c, st))
            return false;
    }
    return true;
}

/* ---- rows ---- */

static int qkv_width(const struct bench_shape *s)
{
    return (s->n_heads + 2 * s->n_kv_heads) * s->head_dim;
}

/* clang-format off: argument structs are read in lines, as a call is. */
static void call_norm(void *ctx, int i)
{
    struct op_case *c = ctx;
    struct bench_device *b = c->b;
    (void)i;
    b->ops->norm(
        b->dev,
        &(struct norm_args){
            .y = b->y, .x = b->x, .rows = c->rows, .width = b->shape->hidden, .norm = c->norm});
}

static void call_rope(void *ctx, int i)
{
    struct op_case *c = ctx;
    struct bench_device *b = c->b;
    const struct bench_shape *s = b->shape;
    char *q = b->y;
    char *k = q + (size_t)(s->n_heads * s->head_dim) * b->act_bytes;
    char *v = k + (size_t)(s->n_kv_heads * s->head_dim) * b->act_bytes;
    b->ops->rope_kv(b->dev, &(struct rope_kv_args){.q = q,
                                                   .k = k,
                                                   .v = v,
                                                   .stride = qkv_width(s),
                                                   .norm_eps = EPS,
                                                   .kv = &b->kv,
                                                   .layer = i % b->kv.n_layers,
                                                   .n_heads = s->n_heads,
                                                   .rope = ROPE_NEOX,
                                                   .rope_dims = s->head_dim,
                                                   .inv_freq = b->inv_freq,
                                                   .rope_scale = 1});
}

static void call_attention(void *ctx, int i)
{
    struct op_case *c = ctx;
    struct bench_device *b = c->b;
    const struct bench_shape *s = b->shape;
    b->ops->attention(b->dev, &(struct attention_args){.out = b->y,
                                                       .q = b->x,
                                                       .q_stride = qkv_width(s),
                                                       .kv = &b->kv,
                                                       .layer = i % b->kv.n_layers,
                                                       .n_heads = s->n_heads,
                                                       .scale = 0.1f});
}

static void call_sample(void *ctx, int i)
{
    struct op_case *c = ctx;
    struct bench_device *b = c->b;
    (void)i;
    b->ops->sample(b->dev,
                   &(struct sample_args){
                       .logits = b->logits, .first = 0, .n = c->rows, .vocab = b->shape->vocab});
}
/* clang-format on */

static bool run_rows(struct bench_device *b, struct status *st)
{
    const struct bench_shape *s = b->shape;
    const double width = qkv_width(s), kv = 2.0 * s->n_kv_heads * s->head_dim;
    struct op_case c = {.b = b, .norm = {.kind = NORM_RMS, .w = b->gain, .eps = EPS}};
    for (const int *rows = row_counts; *rows && *rows <= b->rows_max; rows++) {
        c.rows = *rows;
        if (*rows > b->kv_tokens_max)
            break;
        bench_batch(b, 1, *rows, *rows, 0);
        const double act = (double)*rows * (double)b->act_bytes;
        if (!emit(b,
                  (struct kernel_time){.op = "norm", .rows = *rows, .bytes = 2 * act * s->hidden},
                  call_norm, &c, st) ||
            !emit(b,
                  (struct kernel_time){.op = "rope_kv",
                                       .rows = *rows,
                                       .bytes = act * (2 * width - kv / 2) + 2.0 * *rows * kv},
                  call_rope, &c, st))
            return false;
    }
    return true;
}

/* ---- attention ---- */

static bool run_prefill(struct bench_device *b, struct status *st)
{
    const struct bench_shape *s = b->shape;
    const double q = (double)s->n_heads * s->head_dim, kv = 2.0 * s->n_kv_heads * s->head_dim;
    struct op_case c = {.b = b};
    for (const int *n = prompt_lengths; *n && *n <= b->rows_max && *n <= b->kv_tokens_max; n++) {
        c.rows = *n;
        bench_batch(b, 1, *n, *n, 0);
        const struct kernel_time t = {.op = "prefill",
                                      .rows = *n,
                                      .context = *n,
                                      .bytes = *n * (2 * q * (double)b->act_bytes + 2 * kv),
                                      .flops = 2.0 * *n * *n * q};
        if (!emit(b, t, call_attention, &c, st))
            return false;
    }
    return true;
}

static bool run_decode(struct bench_device *b, struct status *st)
{
    const struct bench_shape *s = b->shape;
    const double q = (double)s->n_heads * s->head_dim, kv = 2.0 * s->n_kv_heads * s->head_dim;
    struct op_case c = {.b = b};
    for (size_t i = 0; i < sizeof decodes / sizeof decodes[0]; i++) {
        const int seqs = decodes[i].seqs, context = decodes[i].context;
        if (seqs * context > b->kv_tokens_max)
            continue;
        c.rows = seqs;
        bench_batch(b, seqs, 1, context, 0);
        const struct kernel_time t = {.op = "decode",
                                      .rows = seqs,
                                      .context = context,
                                      .bytes =
                                          seqs * (2 * q * (double)b->act_bytes + 2 * kv * context),
                                      .flops = 4.0 * seqs * context * q};
        if (!emit(b, t, call_attention, &c, st))
            return false;
    }
    return true;
}

/* ---- sampling ---- */

static bool run_sample(struct bench_device *b, const char *name, struct sample_params params,
                       struct status *st)
{
    static const int batches[] = {1, 64, 256};
    struct op_case c = {.b = b};
    b->params = params;
    for (int i = 0; i < 3 && batches[i] <= b->heads_max; i++) {
        c.rows = batches[i];
        bench_batch(b, c.rows, 1, 64, c.rows);
        const struct kernel_time t = {
            .op = name, .rows = c.rows, .bytes = 4.0 * c.rows * b->shape->vocab};
        if (!emit(b, t, call_sample, &c, st))
            return false;
    }
    return true;
}

/* Temperature 1, since some devices change logits in place, and each call meets the last one's. */
static bool run_samples(struct bench_device *b, struct status *st)
{
    const struct sample_params greedy = {.top_p = 1, .repetition = 1, .n_logprobs = -1};
    const struct sample_params all = {.temperature = 1,
                                      .top_p = 0.9f,
                                      .min_p = 0.01f,
                                      .top_k = 50,
                                      .presence = 0.1f,
                                      .frequency = 0.1f,
                                      .repetition = 1.1f,
                                      .seed = 7,
                                      .n_logprobs = TOP_LOGPROBS_MAX};
    return run_sample(b, "greedy", greedy, st) && run_sample(b, "sample", all, st);
}

bool bench_ops(struct bench_device *b, struct status *st)
{
    return run_matmuls(b, st) && run_rows(b, st) && run_prefill(b, st) && run_decode(b, st) &&
           run_samples(b, st) && run_head(b, st);
}
