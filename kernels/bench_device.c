/* bench_device.c - a device with the memory that ops are timed in, and the timing. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/bench_int.h"
#include "kernels/half.h"

enum {
    PATTERN = 1 << 23, /* random values made; the rest repeats them */
    KV_TOKENS = 131072,
    KV_TOKENS_CPU = 4096,
    CONTEXT = 8192,
    CALLS_FEW = 2,
    CALLS_MORE_MAX = 400,
    TIMES = 7,
};

static const double MORE_S = 0.02; /* what the further calls should take */
static const size_t CACHES = (size_t)256 << 20,
                    CACHES_CPU = (size_t)64 << 20; /* more than they hold */

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- random memory ---- */

static float draw(uint64_t *state) /* sum of uniforms: deviation 1, never zero */
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z ^= z >> 27;
    const int32_t sum = (int32_t)(z & 0xffff) + (int32_t)(z >> 16 & 0xffff) +
                        (int32_t)(z >> 32 & 0xffff) + (int32_t)(z >> 48);
    return (float)(2 * (sum - 131070) + 1) * (0.8660254f / 65536);
}

static void put_value(void *to, size_t i, float v, enum dtype dtype)
{
    if (dtype == DT_F32)
        ((float *)to)[i] = v;
    else
        ((uint16_t *)to)[i] = dtype == DT_F16 ? f32_to_f16(v) : f32_to_bf16(v);
}

static void fill_host(void *to, size_t n_bytes, enum dtype dtype, float sigma, uint64_t seed)
{
    const size_t size = dtype == DT_F32 ? 4 : 2;
    const size_t n = n_bytes / size < PATTERN ? n_bytes / size : PATTERN;
    for (size_t i = 0; i < n; i++)
        put_value(to, i, sigma * draw(&seed), dtype);
    for (size_t done = n * size; done < n_bytes; done += n * size) {
        const size_t left = n_bytes - done;
        memcpy((char *)to + done, to, left < n * size ? left : n * size);
    }
}

/* Device memory of random values, filled from the host's piece after piece. */
static void *take_random(struct bench_device *b, size_t n_bytes, enum dtype dtype, float sigma,
                         struct status *st)
{
    char *at = b->ops->mem_take(b->dev, n_bytes, st);
    if (!at)
        return NULL;
    const size_t piece = b->source_bytes < n_bytes ? b->source_bytes : n_bytes;
    fill_host(b->source, piece, dtype, sigma, n_bytes);
    for (size_t done = 0; done < n_bytes; done += piece)
        b->ops->copy_in(b->dev, at + done, b->source,
                        n_bytes - done < piece ? n_bytes - done : piece);
    return at;
}

/* ---- opening ---- */

static struct device_limits limits_of(const struct bench_device *b)
{
    const struct bench_shape *s = b->shape;
    return (struct device_limits){
        .step_tokens_max = b->rows_max,
        .seqs_max = SEQS_MAX,
        .heads_max = b->heads_max,
        .step_heads_max = b->heads_max,
        .context_max = CONTEXT,
        .block_tokens = BLOCK_TOKENS,
        .table_stride = CONTEXT / BLOCK_TOKENS,
        .history_max = KV_TOKENS,
        .bias_max = 16,
        .bias_slot_max = 16,
        .vocab = s->vocab,
        .hidden = s->hidden,
        .ffn = s->ffn,
        .n_heads = s->n_heads,
        .n_kv_heads = s->n_kv_heads,
        .head_dim = s->head_dim,
        .in_max = s->ffn,
        .in_outliers_max = s->ffn,
    };
}

static bool take_host(struct bench_device *b, struct status *st)
{
    const size_t rows = (size_t)b->rows_max;
    const size_t blocks = (size_t)b->kv_tokens_max / BLOCK_TOKENS + SEQS_MAX;
    b->source_bytes = (size_t)b->shape->vocab * (size_t)b->shape->hidden * 2;
    b->source = malloc(b->source_bytes);
    b->out = calloc((size_t)b->heads_max, sizeof *b->out);
    b->ids = calloc(rows, sizeof *b->ids);
    b->positions = calloc(rows, sizeof *b->positions);
    b->token_seq = calloc(rows, sizeof *b->token_seq);
    b->seq_start = calloc(SEQS_MAX + 1, sizeof *b->seq_start);
    b->kv_len = calloc(SEQS_MAX, sizeof *b->kv_len);
    b->slot = calloc(SEQS_MAX, sizeof *b->slot);
    b->n_prompt = calloc(SEQS_MAX, sizeof *b->n_prompt);
    b->table = calloc((size_t)SEQS_MAX * (CONTEXT / BLOCK_TOKENS), sizeof *b->table);
    b->block = calloc(blocks, sizeof *b->block);
    b->set = calloc(SEQS_MAX, sizeof *b->set);
    b->head = calloc((size_t)b->heads_max, sizeof *b->head);
    const bool all = b->source && b->out && b->ids && b->positions && b->token_seq &&
                     b->seq_start && b->kv_len && b->slot && b->n_prompt && b->table && b->block &&
                     b->set && b->head;
    return all || status_fail(st, STATUS_BUSY, "no memory for the host's part");
}

static bool take_work(struct bench_device *b, struct status *st)
{
    const struct device_limits limits = limits_of(b);
    void *work = b->ops->mem_take(b->dev, b->ops->work_bytes(b->dev, &limits), st);
    return work && b->ops->work_set(b->dev, &limits, work, st);
}

static bool take_cache(struct bench_device *b, struct status *st)
{
    const struct bench_shape *s = b->shape;
    const enum dtype act = b->ops->act_dtype(b->dev);
    struct kv_cache *kv = &b->kv;
    *kv = (struct kv_cache){.dtype = act == DT_F32 ? DT_F16 : act,
                            .n_layers = b->on_cpu ? KV_LAYERS_CPU : KV_LAYERS,
                            .n_blocks = b->kv_tokens_max / BLOCK_TOKENS + SEQS_MAX,
                            .block_tokens = BLOCK_TOKENS,
                            .n_kv_heads = s->n_kv_heads,
                            .head_dim = s->head_dim};
    const size_t half = (size_t)kv->n_layers * (size_t)kv->n_blocks * BLOCK_TOKENS *
                        (size_t)s->n_kv_heads * (size_t)s->head_dim * 2;
    kv->k = take_random(b, half, kv->dtype, 1, st);
    kv->v = kv->k ? take_random(b, half, kv->dtype, 1, st) : NULL;
    return kv->v != NULL;
}

static bool take_vectors(struct bench_device *b, struct status *st)
{
    const size_t n = (size_t)b->shape->ffn, n_freq = (size_t)b->shape->head_dim / 2;
    float *host = b->source;
    b->gain = b->ops->mem_take(b->dev, n * sizeof(float), st);
    b->inv_freq = b->gain ? b->ops->mem_take(b->dev, n_freq * sizeof(float), st) : NULL;
    if (!b->inv_freq)
        return false;
    fill_host(host, n * sizeof(float), DT_F32, 0.02f, 3);
    for (size_t i = 0; i < n; i++)
        host[i] += 1;
    b->ops->copy_in(b->dev, b->gain, host, n * sizeof(float));
    for (size_t i = 0; i < n_freq; i++)
        host[i] = powf(500000, -(float)i / (float)n_freq);
    b->ops->copy_in(b->dev, b->inv_freq, host, n_freq * sizeof(float));
    return true;
}

static bool take_device(struct bench_device *b, struct status *st)
{
    const enum dtype act = b->ops->act_dtype(b->dev);
    const size_t values = (size_t)b->rows_max * 2 * (size_t)b->shape->ffn * b->act_bytes;
    const size_t head = b->source_bytes + (b->on_cpu ? b->source_bytes : 0);
    b->weights_bytes = head > 2 * CACHES ? head : 2 * CACHES;
    b->x = take_random(b, values, act, 1, st);
    b->y = b->x ? take_random(b, values, act, 1, st) : NULL;
    b->logits =
        b->y ? take_random(b, (size_t)b->heads_max * (size_t)b->shape->vocab * 4, DT_F32, 2, st)
             : NULL;
    b->weights = b->logits ? b->ops->mem_take(b->dev, b->weights_bytes, st) : NULL;
    return b->weights && take_vectors(b, st) && take_cache(b, st) && take_work(b, st);
}

bool bench_device_open(struct bench_device *b, const struct backend *backend,
                       const struct device_options *o, const struct bench_shape *shape,
                       int rows_max, struct status *st)
{
    b->ops = backend->ops;
    b->shape = shape;
    b->on_cpu = b->ops->host_memory;
    b->rows_max = rows_max < SEQS_MAX ? SEQS_MAX : rows_max;
    b->heads_max = b->on_cpu ? 16 : SEQS_MAX;
    b->kv_tokens_max = b->on_cpu ? KV_TOKENS_CPU : KV_TOKENS;
    b->params = (struct sample_params){.top_p = 1, .repetition = 1, .n_logprobs = -1};
    b->dev = backend->open(o, st);
    if (!b->dev)
        return false;
    b->act_bytes = b->ops->act_dtype(b->dev) == DT_F32 ? 4 : 2;
    return take_host(b, st) && take_device(b, st);
}

void bench_device_close(struct bench_device *b)
{
    void *host[] = {b->source,    b->out,    b->ids,  b->positions, b->token_seq,
                    b->seq_start, b->kv_len, b->slot, b->n_prompt,  b->table,
                    b->block,     b->set,    b->head};
    for (size_t i = 0; i < sizeof host / sizeof host[0]; i++)
        free(host[i]);
    if (b->dev)
        b->ops->close(b->dev);
}

/* ---- weights ---- */

static struct tensor part_of(const struct scheme *scheme, int n, int in)
{
    return (struct tensor){
        .dtype = scheme ? scheme->codes : DT_BF16, .rows = n, .cols = in, .scheme = scheme};
}

struct code_source { /* rows of random codes, whose scales are all alike */
    const struct bench_device *b;
    const struct scheme *scheme;
    int64_t cols;
};

static void make_codes(const void *ctx, int64_t first, int64_t n, const struct scheme_rows *to)
{
    const struct code_source *c = ctx;
    const struct scheme *s = c->scheme;
    const size_t n_codes = (size_t)(n * c->cols), n_scales = (size_t)(n * scheme_groups(s, c->cols));
    const uint8_t *from = c->b->source;
    const uint8_t mask = s->codes == DT_INT8 ? 0xff : s->codes == DT_FP8 ? 0xf7 : 0xf;
    const size_t skip = (size_t)(first * 4099) % (c->b->source_bytes - n_codes);
    for (size_t i = 0; i < n_codes; i++) /* the low bytes of floats are as good as random */
        to->codes[i] = (uint8_t)((from[skip + i] ^ from[skip + i] >> 4) & mask);
    for (size_t i = 0; i < n_scales; i++)
        to->scales[i] = 0.01f;
    for (size_t i = 0; s->has_zero && i < n_scales; i++)
        to->zeros[i] = 8;
}

bool bench_weights(struct bench_device *b, const struct scheme *scheme, const int *n, int parts, int in,
                   struct status *st)
{
    const struct code_source codes = {b, scheme, in};
    size_t one = 0, at = 0, part[PARTS_MAX];
    for (int i = 0; i < parts; i++) {
        const struct tensor w = part_of(scheme, n[i], in);
        part[i] = (b->ops->weight_bytes(b->dev, &w) + 63) / 64 * 64;
        one += part[i];
    }
    one = (one + 255) / 256 * 256;
    const size_t want = (b->on_cpu ? CACHES_CPU : CACHES) / one + 1;
    const size_t room = b->weights_bytes / one;
    b->n_copies = want < COPIES_MAX ? want : COPIES_MAX;
    if (b->n_copies > room)
        b->n_copies = room;
    if (b->n_copies == 0)
        return status_fail(st, STATUS_TOO_LARGE, "a weight of %zu bytes", one);
    fill_host(b->source, b->source_bytes, DT_BF16, 0.02f, 5);
    for (size_t c = 0; c < b->n_copies; c++, at = c * one)
        for (int i = 0; i < parts; i++, at += part[i - 1]) {
            struct tensor *w = &b->w[c][i];
            *w = part_of(scheme, n[i], in);
            w->data = b->weights + at;
            b->ops->weight_put(b->dev, w,
                               &(struct weight_source){.at = b->source,
                                                       .fd = -1,
                                                       .rows = scheme ? make_codes : NULL,
                                                       .ctx = &codes});
        }
    return b->ops->weights_done(b->dev, st);
}

/* ---- steps ---- */

static void put_sequence(struct bench_device *b, int seq, int tokens, int kv_len)
{
    const int blocks = (kv_len + BLOCK_TOKENS - 1) / BLOCK_TOKENS, first = seq * blocks;
    b->slot[seq] = seq;
    b->kv_len[seq] = kv_len;
    b->n_prompt[seq] = tokens > 1 ? kv_len : 0; /* one token is one that decodes */
    b->set[seq] =
        (struct batch_slot){.slot = seq, .n_prompt = b->n_prompt[seq], .params = &b->params};
    for (int i = 0; i < blocks; i++) {
        b->table[seq * (CONTEXT / BLOCK_TOKENS) + i] = first + i;
        b->block[first + i] = (struct batch_block){.slot = seq, .at = i, .block = first + i};
    }
    for (int i = 0; i < tokens; i++) {
        const int t = b->seq_start[seq] + i;
        b->ids[t] = (int32_t)(((uint32_t)t * 2654435761u >> 8) % (uint32_t)b->shape->vocab);
        b->positions[t] = kv_len - tokens + i;
        b->token_seq[t] = seq;
    }
    b->seq_start[seq + 1] = b->seq_start[seq] + tokens;
}

void bench_batch(struct bench_device *b, int seqs, int tokens, int kv_len, int heads)
{
    for (int i = 0; i < seqs; i++)
        put_sequence(b, i, tokens, kv_len);
    const int n_tokens = b->seq_start[seqs];
    for (int i = 0; i < heads; i++) {
        const int row = n_tokens - heads + i;
        b->head[i] = (struct batch_head){.row = row,
                                         .slot = b->token_seq[row],
                                         .n_history = b->positions[row] + 1,
                                         .forced = -1};
    }
    b->batch = (struct batch){.n_tokens = n_tokens,
                              .n_seqs = seqs,
                              .n_heads = heads,
                              .n_slots = seqs,
                              .n_blocks = seqs * ((kv_len + BLOCK_TOKENS - 1) / BLOCK_TOKENS),
                              .token_ids = b->ids,
                              .positions = b->positions,
                              .token_seq = b->token_seq,
                              .seq_start = b->seq_start,
                              .kv_len = b->kv_len,
                              .slot = b->slot,
                              .n_prompt = b->n_prompt,
                              .block_table = b->table,
                              .block = b->block,
                              .set = b->set,
                              .head = b->head};
}

struct calls {
    void (*fn)(void *ctx, int i);
    void *ctx;
    int n;
    uint64_t shape;
};

static bool run_step(struct bench_device *b, const struct calls *c, double *s, struct status *st)
{
    const double start = now_s();
    if (!b->ops->step_begin(b->dev, &b->batch, c->shape))
        for (int i = 0; i < c->n; i++)
            c->fn(c->ctx, i);
    b->ops->step_end(b->dev);
    if (!b->ops->step_wait(b->dev, b->out, st))
        return false;
    *s = now_s() - start;
    return true;
}

/* The least of some steps, after one that records and warms up. */
static bool least_step(struct bench_device *b, const struct calls *c, double *least,
                       struct status *st)
{
    for (int i = 0; i <= TIMES; i++) {
        double s;
        if (!run_step(b, c, &s, st))
            return false;
        if (i <= 1 || s < *least)
            *least = s;
    }
    return true;
}

bool bench_time(struct bench_device *b, void (*fn)(void *ctx, int i), void *ctx, double *s,
                struct status *st)
{
    struct calls c = {fn, ctx, CALLS_FEW, ++b->n_shapes};
    double few, many;
    if (!least_step(b, &c, &few, st))
        return false;
    const double want = MORE_S / (few / CALLS_FEW);
    const int more = want < CALLS_FEW        ? CALLS_FEW
                     : want > CALLS_MORE_MAX ? CALLS_MORE_MAX
                                             : (int)want;
    c.n += more;
    c.shape = ++b->n_shapes;
    if (!least_step(b, &c, &many, st))
        return false;
    *s = (many - few) / more;
    return true;
}
