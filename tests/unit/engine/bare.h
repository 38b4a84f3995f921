/* bare.h - a decoder without a runner, to see whole distributions: for tests and benchmarks.
 *
 * One sequence on the CPU, in blocks that lie in order. */
#ifndef TESTS_BARE_H
#define TESTS_BARE_H

#include <math.h>

#include "base/arena.h"
#include "engine/decoder.h"
#include "engine/plan.h"
#include "engine/quant_load.h"
#include "tests/unit/engine/drive.h"

struct bare {
    struct device *dev;
    struct model_file file;
    struct model model;
    struct decoder decoder;
    struct plan plan;
};

static inline struct kv_cache bare_cache(const struct bare *b)
{
    const struct ops *ops = cpu_backend.ops;
    struct status st = {0};
    struct kv_cache kv = {
        .dtype = b->plan.kv_dtype,
        .n_layers = b->model.cfg.n_layers,
        .n_blocks = b->plan.limits.n_blocks,
        .block_tokens = b->plan.limits.block_tokens,
        .n_kv_heads = b->model.cfg.n_kv_heads,
        .head_dim = b->model.cfg.head_dim,
    };
    kv.k = ops->mem_take(b->dev, kv_bytes(&kv), &st);
    kv.v = ops->mem_take(b->dev, kv_bytes(&kv), &st);
    kv.k_scale = ops->mem_take(b->dev, kv_scale_bytes(&kv), &st);
    kv.v_scale = ops->mem_take(b->dev, kv_scale_bytes(&kv), &st);
    return kv;
}

static inline void bare_open(struct bare *b, const struct engine_options *o)
{
    const struct ops *ops = cpu_backend.ops;
    struct status st = {0};
    struct device_options device;
    *b = (struct bare){0};
    drive_must(model_file_open(&b->file, o->model_path, &st) && quant_load_apply(&b->file, o, &st),
               "file", &st);
    drive_must(plan_device_options(&b->file, o, &device, &st), "options", &st);
    b->dev = cpu_backend.open(&device, &st);
    drive_must(b->dev != NULL, "device", &st);
    drive_must(plan_make(&b->plan, &b->file, o, ops, b->dev,
                         (struct plan_memory){.device = UINT64_MAX}, &st),
               "plan", &st);
    drive_must(model_load(&b->model, &b->file, ops, b->dev, &(struct load_progress){0}, &st),
               "load", &st);
    b->decoder = (struct decoder){.ops = ops, .dev = b->dev, .model = &b->model};
    b->decoder.kv = bare_cache(b);
    struct arena arena;
    arena_init(&arena, ops->mem_take(b->dev, (size_t)b->plan.activation_bytes, &st),
               (size_t)b->plan.activation_bytes);
    drive_must(decoder_init(&b->decoder, &b->plan.limits, &arena), "activations", &st);
    void *work = ops->mem_take(b->dev, (size_t)b->plan.work_bytes, &st);
    drive_must(work && ops->work_set(b->dev, &b->plan.device, work, &st), "memory", &st);
}

static inline void bare_close(struct bare *b)
{
    model_close(&b->model);
    model_file_close(&b->file);
    cpu_backend.ops->close(b->dev);
}

/* All layers over the tokens [from, from + n) of ids, which the ones before are in the cache for;
 * the heads of the batch are all of them. */
static inline void bare_forward(struct bare *b, const int32_t *ids, int32_t from, int32_t n)
{
    const int32_t end = from + n, n_table = b->plan.device.table_stride;
    const struct sample_params greedy = drive_greedy(-1);
    int32_t *positions = calloc((size_t)n, sizeof *positions);
    int32_t *zero = calloc((size_t)n, sizeof *zero),
            *table = calloc((size_t)n_table, sizeof *table);
    struct batch_head *head = calloc((size_t)n, sizeof *head);
    struct status st = {0};
    drive_must(positions && zero && table && head, "a batch", &st);
    for (int32_t i = 0; i < n; i++) {
        positions[i] = from + i;
        head[i] = (struct batch_head){.row = i, .n_history = from + i + 1, .forced = 0};
    }
    for (int32_t i = 0; i < n_table; i++)
        table[i] = i;
    b->decoder.ops->step_begin(
        b->dev,
        &(struct batch){.n_tokens = n,
                        .n_seqs = 1,
                        .n_slots = from == 0,
                        .n_heads = n,
                        .token_ids = ids + from,
                        .positions = positions,
                        .token_seq = zero,
                        .seq_start = (int32_t[]){0, n},
                        .kv_len = &end,
                        .slot = zero,
                        .n_prompt = &end,
                        .block_table = table,
                        .set = &(struct batch_slot){.n_prompt = end, .params = &greedy},
                        .head = head},
        0);
    decoder_forward(&b->decoder, n);
    free(positions);
    free(zero);
    free(table);
    free(head);
}

/* After the heads that were wanted: the next step may begin. */
static inline void bare_end(struct bare *b, int32_t n)
{
    struct sample_out *none = calloc((size_t)n, sizeof *none);
    struct status st = {0};
    b->decoder.ops->step_end(b->dev);
    drive_must(none && b->decoder.ops->step_wait(b->dev, none, &st), "step", &st);
    free(none);
}

static inline double logits_log_sum(const float *logits, int n)
{
    double largest = -INFINITY, sum = 0;
    for (int i = 0; i < n; i++)
        largest = fmax(largest, logits[i]);
    for (int i = 0; i < n; i++)
        sum += exp(logits[i] - largest);
    return largest + log(sum);
}

/* Kullback-Leibler divergence of q from p, in nats. */
static inline double logits_divergence(const float *p, const float *q, int n)
{
    const double log_p = logits_log_sum(p, n), log_q = logits_log_sum(q, n);
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += exp(p[i] - log_p) * ((p[i] - log_p) - (q[i] - log_q));
    return sum;
}

static inline int logits_largest(const float *x, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        if (x[i] > x[best])
            best = i;
    return best;
}

#endif
