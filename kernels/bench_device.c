/* bench_device.c - a device with the memory that a group of ops is timed in. */
#include <math.h>
#include <stdlib.h>

#include "kernels/bench_int.h"
#include "kernels/half.h"

enum {
    ROWS_MAX = 8192,
    ROWS_MAX_CPU = 256,
    HEADS_MAX_CPU = 16,
    KV_TOKENS_CPU = 4096,
    KV_LAYERS_CPU = 2,
    CONTEXT = 8192,
    OUTLIERS_APART = 512, /* columns; LLM.int8() finds some 0.1 % of them */
};

static const size_t PIECE_BYTES = (size_t)32 << 20; /* of random values, on their way to a device */

static int least(int a, int b)
{
    return a < b ? a : b;
}

/* ---- random memory ---- */

/* The piece over and over; whole rows of it, where that matters. */
static void *take_pieces(struct bench_device *b, size_t n_bytes, const void *piece, size_t n_piece,
                         struct status *st)
{
    char *at = b->ops->mem_take(b->dev, n_bytes, st);
    for (size_t done = 0; at && done < n_bytes; done += n_piece)
        b->ops->copy_in(b->dev, at + done, piece,
                        n_bytes - done < n_piece ? n_bytes - done : n_piece);
    return at;
}

static void *take_random(struct bench_device *b, size_t n_bytes, enum dtype dtype, float sigma,
                         struct status *st)
{
    const size_t n_piece = n_bytes < PIECE_BYTES ? n_bytes : PIECE_BYTES;
    void *piece = malloc(n_piece);
    if (!piece) {
        status_fail(st, STATUS_BUSY, "no memory for random values");
        return NULL;
    }
    bench_fill(piece, n_piece, dtype, sigma);
    void *at = take_pieces(b, n_bytes, piece, n_piece, st);
    free(piece);
    return at;
}

static void put_large(void *values, size_t i, enum dtype dtype)
{
    const float large = 12;
    if (dtype == DT_F32)
        ((float *)values)[i] = large;
    else
        ((uint16_t *)values)[i] = dtype == DT_F16 ? f32_to_f16(large) : f32_to_bf16(large);
}

void *bench_take_rows(struct bench_device *b, int width, bool outliers, struct status *st)
{
    const enum dtype act = b->ops->act_dtype(b->dev);
    const size_t row = (size_t)width * b->act_bytes, fit = PIECE_BYTES / row;
    const size_t n_rows = fit < (size_t)b->rows_max ? fit : (size_t)b->rows_max;
    void *piece = malloc(n_rows * row);
    if (!piece) {
        status_fail(st, STATUS_BUSY, "no memory for random values");
        return NULL;
    }
    bench_fill(piece, n_rows * row, act, 1);
    for (size_t i = 0; outliers && i < n_rows * (size_t)width; i++)
        if (i % (size_t)width % OUTLIERS_APART == OUTLIERS_APART / 4)
            put_large(piece, i, act);
    void *at = take_pieces(b, (size_t)b->rows_max * row, piece, n_rows * row, st);
    free(piece);
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
        .history_max = s->kv_tokens,
        .bias_max = SEQS_MAX,
        .bias_slot_max = 1,
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
    const bool all = b->out && b->ids && b->positions && b->token_seq && b->seq_start &&
                     b->kv_len && b->slot && b->n_prompt && b->table && b->block && b->set &&
                     b->head;
    return all || status_fail(st, STATUS_BUSY, "no memory for the host's part");
}

static bool take_work(struct bench_device *b, struct status *st)
{
    const struct device_limits limits = limits_of(b);
    void *work = b->ops->mem_take(b->dev, b->ops->work_bytes(b->dev, &limits), st);
    return work && b->ops->work_set(b->dev, &limits, work, st);
}

static float *take_scales(struct bench_device *b, struct status *st)
{
    const size_t n = kv_scale_bytes(&b->kv) / sizeof(float);
    float *host = malloc(n * sizeof *host), *at = NULL;
    if (!host)
        status_fail(st, STATUS_BUSY, "no memory for scales");
    for (size_t i = 0; host && i < n; i++)
        host[i] = 0.01f;
    if (host)
        at = take_pieces(b, n * sizeof *host, host, n * sizeof *host, st);
    free(host);
    return at;
}

static bool take_cache(struct bench_device *b, const struct bench_needs *needs, struct status *st)
{
    const struct bench_shape *s = b->shape;
    const enum dtype act = b->ops->act_dtype(b->dev), wide = act == DT_F32 ? DT_F16 : act;
    struct kv_cache *kv = &b->kv;
    const int layers = b->on_cpu ? least(s->kv_layers, KV_LAYERS_CPU) : s->kv_layers;
    *kv = (struct kv_cache){.dtype = needs->cache->dtype == DT_N ? wide : needs->cache->dtype,
                            .n_layers = least(layers, needs->cache_layers),
                            .n_blocks = b->kv_tokens_max / BLOCK_TOKENS + SEQS_MAX,
                            .block_tokens = BLOCK_TOKENS,
                            .n_kv_heads = s->n_kv_heads,
                            .head_dim = s->head_dim};
    kv->k = take_random(b, kv_bytes(kv), kv_key_dtype(kv->dtype), 1, st);
    kv->v = kv->k ? take_random(b, kv_bytes(kv), kv->dtype, 1, st) : NULL;
    if (!kv->v || !kv_has_scales(kv->dtype))
        return kv->v != NULL;
    kv->k_scale = take_scales(b, st);
    kv->v_scale = kv->k_scale ? take_scales(b, st) : NULL;
    return kv->v_scale != NULL;
}

static bool take_vectors(struct bench_device *b, struct status *st)
{
    const size_t n = (size_t)b->shape->ffn, n_freq = (size_t)b->shape->head_dim / 2;
    float *host = malloc(n * sizeof *host);
    b->gain = b->ops->mem_take(b->dev, n * sizeof(float), st);
    b->inv_freq = b->gain ? b->ops->mem_take(b->dev, n_freq * sizeof(float), st) : NULL;
    if (!host || !b->inv_freq) {
        free(host);
        return b->inv_freq ? status_fail(st, STATUS_BUSY, "no memory for gains") : false;
    }
    bench_fill(host, n * sizeof(float), DT_F32, 0.02f);
    for (size_t i = 0; i < n; i++)
        host[i] += 1;
    b->ops->copy_in(b->dev, b->gain, host, n * sizeof(float));
    for (size_t i = 0; i < n_freq; i++)
        host[i] = powf(500000, -(float)i / (float)n_freq);
    b->ops->copy_in(b->dev, b->inv_freq, host, n_freq * sizeof(float));
    free(host);
    return true;
}

static bool take_device(struct bench_device *b, const struct bench_needs *needs, struct status *st)
{
    const size_t rows = (size_t)b->rows_max;
    const size_t logits = (size_t)b->heads_max * (size_t)b->shape->vocab * sizeof(float);
    b->x = bench_take_rows(b, needs->x_width, false, st);
    b->y = b->x ? b->ops->mem_take(b->dev, rows * (size_t)needs->y_width * b->act_bytes, st) : NULL;
    if (!b->y || (needs->logits && !(b->logits = take_random(b, logits, DT_F32, 2, st))))
        return false;
    return take_vectors(b, st) && (!needs->cache || take_cache(b, needs, st)) && take_work(b, st);
}

bool bench_device_open(struct bench_device *b, const struct bench_run *r,
                       const struct bench_needs *needs, struct status *st)
{
    struct device_options o = r->wanted->options;
    const bool on_cpu = r->backend->ops->host_memory;
    const int rows = r->wanted->rows_max ? r->wanted->rows_max : on_cpu ? ROWS_MAX_CPU : ROWS_MAX;
    o.comm = r->comm;
    o.grid = r->grid;
    *b = (struct bench_device){.run = r, .ops = r->backend->ops, .shape = r->shape};
    b->on_cpu = on_cpu;
    b->rows_max = rows < SEQS_MAX ? SEQS_MAX : rows;
    b->rows_wanted = rows;
    b->heads_max = on_cpu ? HEADS_MAX_CPU : SEQS_MAX;
    b->kv_tokens_max = on_cpu ? least(r->shape->kv_tokens, KV_TOKENS_CPU) : r->shape->kv_tokens;
    b->ids_max = r->shape->vocab;
    b->params = (struct sample_params){.top_p = 1, .repetition = 1, .n_logprobs = -1};
    b->forced = -1;
    b->dev = r->backend->open(&o, st);
    if (!b->dev)
        return false;
    b->act_bytes = b->ops->act_dtype(b->dev) == DT_F32 ? 4 : 2;
    const bool has_vendor = needs->vendor && r->has_vendor;
    if (has_vendor && !(b->vendor = r->backend->vendor->open(b->dev, st)))
        return status_wrap(st, "%s", r->backend->vendor->name);
    return take_host(b, st) && take_device(b, needs, st);
}

void bench_device_close(struct bench_device *b)
{
    void *host[] = {b->out,  b->ids,      b->positions, b->token_seq, b->seq_start, b->kv_len,
                    b->slot, b->n_prompt, b->table,     b->block,     b->set,       b->head};
    for (size_t i = 0; i < sizeof host / sizeof host[0]; i++)
        free(host[i]);
    if (b->vendor)
        b->run->backend->vendor->close(b->vendor);
    if (b->dev)
        b->ops->close(b->dev);
}
