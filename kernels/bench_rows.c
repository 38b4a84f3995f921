/* bench_rows.c - norms of rows, and samples of rows of logits. */
#include "kernels/bench_int.h"

static const int sample_counts[] = {1, 64, 256, 0};

/* ---- norm ---- */

struct norm_call {
    struct bench_device *b;
    struct norm norm;
    bool add;
    int rows;
};

/* clang-format off: argument structs are read in lines, as a call is. */
static void call_norm(void *ctx, int i)
{
    const struct norm_call *c = ctx;
    (void)i;
    c->b->ops->norm(c->b->dev, &(struct norm_args){.y = c->b->y,
                                                   .x = c->b->x,
                                                   .rows = c->rows,
                                                   .width = c->b->shape->hidden,
                                                   .norm = c->norm,
                                                   .add = c->add ? c->b->y : NULL});
}
/* clang-format on */

static bool time_norm(struct norm_call *c, const char *op, struct status *st)
{
    struct bench_device *b = c->b;
    const double row = (double)b->shape->hidden * (double)b->act_bytes;
    bench_batch(b, 1, 1, 1, 0);
    for (const int *rows = bench_row_counts; *rows && *rows <= b->rows_wanted; rows++) {
        c->rows = *rows;
        const struct kernel_time t = {
            .op = op, .format = "-", .rows = *rows, .bytes = *rows * row * (c->add ? 3 : 2)};
        if (!bench_emit(b, t, call_norm, c, st))
            return false;
    }
    return true;
}

bool bench_rows(const struct bench_run *r, struct status *st)
{
    const struct bench_needs needs = {.x_width = r->shape->hidden, .y_width = r->shape->hidden};
    static const struct {
        const char *op;
        enum norm_kind kind;
        bool add;
    } kinds[] = {{"norm.rms", NORM_RMS, false},
                 {"norm.rms_add", NORM_RMS, true},
                 {"norm.layer", NORM_LAYER, false}};
    struct bench_device b;
    if (!bench_wants(r, "norm") || !bench_wants_format(r, "-", true))
        return true;
    bool ok = bench_device_open(&b, r, &needs, st);
    for (size_t i = 0; ok && i < sizeof kinds / sizeof kinds[0]; i++) {
        const bool is_layer = kinds[i].kind == NORM_LAYER;
        struct norm_call c = {.b = &b,
                              .norm = {kinds[i].kind, b.gain, is_layer ? b.gain : NULL, BENCH_EPS},
                              .add = kinds[i].add};
        if (bench_wants(r, kinds[i].op))
            ok = time_norm(&c, kinds[i].op, st);
    }
    bench_device_close(&b);
    return ok;
}

/* ---- samples ---- */

struct sample_call {
    struct bench_device *b;
    int rows;
};

static void call_sample(void *ctx, int i)
{
    const struct sample_call *c = ctx;
    (void)i;
    c->b->ops->sample(
        c->b->dev,
        &(struct sample_args){.logits = c->b->logits, .n = c->rows, .vocab = c->b->shape->vocab});
}

static bool time_sample(struct bench_device *b, const char *op, struct status *st)
{
    struct sample_call c = {.b = b};
    for (const int *rows = sample_counts; *rows && *rows <= b->heads_max && *rows <= b->rows_wanted;
         rows++) {
        c.rows = *rows;
        bench_batch(b, c.rows, 1, BLOCK_TOKENS, c.rows);
        const struct kernel_time t = {
            .op = op, .format = "-", .rows = c.rows, .bytes = 4.0 * c.rows * b->shape->vocab};
        if (!bench_emit(b, t, call_sample, &c, st))
            return false;
    }
    return true;
}

/* Temperature 1, since some devices change logits in place, and each call meets the last one's. */
static const struct {
    const char *op;
    struct sample_params params;
    int32_t forced;
} samples[] = {
    {"sample.greedy", {.top_p = 1, .repetition = 1, .n_logprobs = -1}, -1},
    {"sample.random",
     {.temperature = 1, .top_p = 1, .repetition = 1, .seed = 7, .n_logprobs = -1},
     -1},
    {"sample.cut",
     {.temperature = 1,
      .top_p = 0.9f,
      .min_p = 0.01f,
      .top_k = 50,
      .repetition = 1,
      .seed = 7,
      .n_logprobs = -1},
     -1},
    {"sample.top_p",
     {.temperature = 1, .top_p = 0.9f, .repetition = 1, .seed = 7, .n_logprobs = -1},
     -1},
    {"sample.all",
     {.temperature = 1,
      .top_p = 0.9f,
      .min_p = 0.01f,
      .top_k = 50,
      .presence = 0.1f,
      .frequency = 0.1f,
      .repetition = 1.1f,
      .seed = 7,
      .n_logprobs = TOP_LOGPROBS_MAX},
     -1},
    {"sample.score", {.top_p = 1, .repetition = 1, .n_logprobs = TOP_LOGPROBS_MAX}, 7},
};

bool bench_samples(const struct bench_run *r, struct status *st)
{
    const struct bench_needs needs = {.x_width = 1, .y_width = 1, .logits = true};
    struct bench_device b;
    if (!bench_wants(r, "sample") || !bench_wants_format(r, "-", true))
        return true;
    bool ok = bench_device_open(&b, r, &needs, st);
    for (size_t i = 0; ok && i < sizeof samples / sizeof samples[0]; i++) {
        b.params = samples[i].params;
        b.forced = samples[i].forced;
        if (bench_wants(r, samples[i].op))
            ok = time_sample(&b, samples[i].op, st);
    }
    bench_device_close(&b);
    return ok;
}
