/* runner.c - plan, load, and then step after step: slots, forward, head, samples. */
#include "engine/runner.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/arena.h"
#include "base/checked.h"
#include "base/clock.h"
#include "engine/decoder.h"
#include "engine/plan.h"
#include "engine/slots.h"

struct head {       /* one row of logits to make: where it comes from and where its sample goes */
    int32_t row;    /* of the batch's tokens */
    int32_t forced; /* -1 = sample; else the id to score */
    int32_t n_history;
    int32_t seq; /* row of the step */
    struct sample_out *out;
};

struct runner {
    const struct ops *ops;
    struct device *dev;
    struct model model;
    struct decoder decoder;
    struct plan plan;
    struct slots slots;
    struct engine_facts facts;
    void *host; /* slots and heads */

    /* The step in hand. */
    struct head *head; /* [count_heads] */
    int32_t n_heads;
    int32_t head_row[DECODER_LOGIT_ROWS_MAX];
    struct sample_row sample[DECODER_LOGIT_ROWS_MAX];
    struct sample_out out[DECODER_LOGIT_ROWS_MAX];
};

enum { HOST_ALIGN = 64 };

/* Opening. */

/* At most one score for each token, and one sample for each row. */
static size_t count_heads(const struct step_limits *l)
{
    return (size_t)l->step_tokens_max + (size_t)l->seqs_max;
}

bool runner_host_bytes(const struct step_limits *limits, size_t *n_bytes)
{
    size_t heads;
    return slots_bytes(limits, n_bytes) &&
           size_align(count_heads(limits) * sizeof(struct head), HOST_ALIGN, &heads) &&
           size_add(*n_bytes, heads, n_bytes);
}

static bool open_device(struct runner *r, const struct engine_options *o, struct status *st)
{
    struct device_options device;
    if (!plan_device_options(o, &device, st))
        return false;
    r->ops = cpu_ops();
    r->dev = cpu_open(&device, st);
    return r->dev != NULL;
}

static bool take_cache(struct runner *r, struct status *st)
{
    const struct model_config *cfg = &r->model.cfg;
    const size_t half = (size_t)r->plan.kv_bytes / 2;
    struct kv_cache *kv = &r->decoder.kv;
    *kv = (struct kv_cache){
        .dtype = r->plan.kv_dtype,
        .n_layers = cfg->n_layers,
        .n_blocks = r->plan.limits.n_blocks,
        .block_tokens = r->plan.limits.block_tokens,
        .n_kv_heads = cfg->n_kv_heads,
        .head_dim = cfg->head_dim,
    };
    kv->k = r->ops->mem_take(r->dev, half, st);
    if (!kv->k)
        return false;
    kv->v = r->ops->mem_take(r->dev, half, st);
    return kv->v != NULL;
}

static bool take_activations(struct runner *r, struct status *st)
{
    struct arena arena;
    void *at = r->ops->mem_take(r->dev, (size_t)r->plan.activation_bytes, st);
    if (!at)
        return false;
    arena_init(&arena, at, (size_t)r->plan.activation_bytes);
    r->decoder.ops = r->ops;
    r->decoder.dev = r->dev;
    r->decoder.model = &r->model;
    if (!decoder_init(&r->decoder, &r->plan.limits, &arena))
        return status_fail(st, STATUS_TOO_LARGE, "activations need more than was planned");
    if (r->plan.scratch_bytes == 0)
        return true;
    void *scratch = r->ops->mem_take(r->dev, (size_t)r->plan.scratch_bytes, st);
    if (!scratch)
        return false;
    r->ops->scratch_set(r->dev, scratch, (size_t)r->plan.scratch_bytes);
    return true;
}

static bool take_slots(struct runner *r, struct status *st)
{
    const struct step_limits *l = &r->plan.limits;
    struct arena arena;
    r->host = aligned_alloc(HOST_ALIGN, (size_t)r->plan.slot_bytes);
    if (!r->host)
        return status_fail(st, STATUS_BUSY, "no memory for %d slots", l->seqs_max);
    memset(r->host, 0, (size_t)r->plan.slot_bytes);
    arena_init(&arena, r->host, (size_t)r->plan.slot_bytes);
    r->head = arena_take(&arena, count_heads(l) * sizeof *r->head, HOST_ALIGN);
    return (r->head && slots_init(&r->slots, l, &arena)) ||
           status_fail(st, STATUS_TOO_LARGE, "slots need more than was planned");
}

static void print_plan(struct runner *r)
{
    struct buf table;
    buf_init(&table, sizeof r->facts.plan - 1);
    plan_print(&r->plan, &table);
    if (!table.failed)
        memcpy(r->facts.plan, table.at, table.n);
    buf_close(&table);
}

static void fill_facts(struct runner *r, const struct model_file *f, uint64_t load_ms)
{
    struct engine_facts *facts = &r->facts;
    *facts = (struct engine_facts){
        .limits = r->plan.limits,
        .weight_bytes = r->plan.weight_bytes,
        .kv_bytes = r->plan.kv_bytes,
        .total_bytes = r->plan.total_bytes,
        .load_ms = load_ms,
    };
    snprintf(facts->arch, sizeof facts->arch, "%s", f->arch->gguf_name);
    snprintf(facts->isa, sizeof facts->isa, "%s", cpu_isa(r->dev));
    snprintf(facts->kv_dtype, sizeof facts->kv_dtype, "%s", dtype_traits[r->plan.kv_dtype].name);
    print_plan(r);
}

struct runner *runner_open(const struct engine_options *o,
                           void (*progress)(void *ctx, uint64_t n_done, uint64_t n_total),
                           void *ctx, struct status *st)
{
    const uint64_t start = clock_now(&clock_real);
    struct model_file file = {0};
    struct runner *r = calloc(1, sizeof *r);
    if (!r) {
        status_fail(st, STATUS_BUSY, "no memory for a runner");
        return NULL;
    }
    if (!model_file_open(&file, o->model_path, st) || !open_device(r, o, st) ||
        !plan_make(&r->plan, &file, o, r->ops, r->dev, plan_available_bytes(""), st) ||
        !model_load(&r->model, &file, r->ops, r->dev, &(struct load_progress){progress, ctx}, st) ||
        !take_cache(r, st) || !take_activations(r, st) || !take_slots(r, st))
        goto fail;
    fill_facts(r, &file, (clock_now(&clock_real) - start) / NS_PER_MS);
    model_file_close(&file);
    return r;

fail:
    status_wrap(st, "load model");
    model_file_close(&file);
    runner_close(r);
    return NULL;
}

void runner_close(struct runner *r)
{
    if (!r)
        return;
    model_close(&r->model);
    if (r->dev)
        r->ops->close(r->dev);
    free(r->host);
    free(r);
}

const struct engine_facts *runner_facts(const struct runner *r)
{
    return &r->facts;
}

/* Stepping. */

static const struct seq_slot *slot_of(const struct runner *r, const struct step *step, int32_t seq)
{
    return &r->slots.slot[step_rows(step)[seq].slot];
}

static void add_head(struct runner *r, struct head head)
{
    r->head[r->n_heads++] = head;
}

/* Score, after each position of the row, the prompt token that follows it. */
static bool add_scores(struct runner *r, const struct step *step, int32_t seq,
                       struct result_builder *result, struct step_result_row *to)
{
    const struct step_row *row = &step_rows(step)[seq];
    const struct seq_slot *slot = slot_of(r, step, seq);
    const int32_t first = r->slots.seq_start[seq];
    const int32_t n = row->next_token >= 0 ? row->n_tokens : row->n_tokens - 1;
    struct sample_out *out = step_result_add_scores(result, n);
    if (!out)
        return false;
    to->first_score = result->result->n_scores - n;
    to->n_scores = n;
    for (int32_t i = 0; i < n; i++) {
        const int32_t after = row->position + i + 1;
        const bool is_last = i == row->n_tokens - 1;
        add_head(r, (struct head){.row = first + i,
                                  .forced = is_last ? row->next_token : slot->history[after],
                                  .n_history = after,
                                  .seq = seq,
                                  .out = &out[i]});
    }
    return true;
}

static bool add_sample(struct runner *r, const struct step *step, int32_t seq,
                       struct result_builder *result, struct step_result_row *to)
{
    struct sample_out *out = step_result_add_tokens(result, 1);
    if (!out)
        return false;
    to->first_token = result->result->n_tokens - 1;
    to->n_tokens = 1;
    add_head(r, (struct head){.row = r->slots.seq_start[seq + 1] - 1,
                              .forced = -1,
                              .n_history = slot_of(r, step, seq)->n_cached,
                              .seq = seq,
                              .out = out});
    return true;
}

/* The rows of the result, each with room for what its heads will say. */
static bool lay_out_result(struct runner *r, const struct step *step, struct result_builder *result)
{
    const struct step_row *row = step_rows(step);
    r->n_heads = 0;
    for (int32_t i = 0; i < step->n_rows; i++) {
        struct step_result_row *to = step_result_add_row(result);
        if (!to)
            return false;
        to->slot = row[i].slot;
        if ((row[i].flags & ROW_SCORE_NEXT) && !add_scores(r, step, i, result, to))
            return false;
        if ((row[i].flags & ROW_SAMPLE) && !add_sample(r, step, i, result, to))
            return false;
    }
    return true;
}

static bool run_heads(struct runner *r, const struct step *step, const struct head *head, int n,
                      struct status *st)
{
    for (int i = 0; i < n; i++) {
        const struct seq_slot *slot = slot_of(r, step, head[i].seq);
        r->head_row[i] = head[i].row;
        r->sample[i] = (struct sample_row){
            .params = &slot->params,
            .history = slot->history,
            .n_history = head[i].n_history,
            .n_prompt = slot->n_prompt,
            .bias = slot->bias,
            .n_bias = slot->n_bias,
            .forced = head[i].forced,
        };
    }
    decoder_logits(&r->decoder, r->head_row, n);
    r->ops->sample(r->dev, &(struct sample_args){.logits = r->decoder.logits,
                                                 .n = n,
                                                 .vocab = r->model.cfg.vocab,
                                                 .row = r->sample,
                                                 .out = r->out});
    if (!r->ops->wait(r->dev, st))
        return false;
    for (int i = 0; i < n; i++)
        *head[i].out = r->out[i];
    return true;
}

/* A row with a NaN fails alone: its samples say so, and its slot goes on from token 0 until the
 * scheduler ends it. */
static void take_samples(struct runner *r, const struct step *step, const struct result_builder *b)
{
    struct step_result_row *to = (struct step_result_row *)((char *)b->result + b->result->at_rows);
    for (int32_t i = 0; i < r->n_heads; i++) {
        const struct head *head = &r->head[i];
        if (head->out->fault != SAMPLE_OK)
            to[head->seq].status = ROW_FAILED_NAN;
        if (head->forced < 0)
            slots_put_sample(&r->slots, step_rows(step)[head->seq].slot, head->out->id);
    }
}

bool runner_step(struct runner *r, const struct step *step, void *result, struct status *st)
{
    const uint64_t start = clock_now(&clock_real);
    struct batch batch;
    struct result_builder b;
    if (!slots_apply(&r->slots, step, &batch, st))
        return false;
    step_result_begin(&b, result, &r->plan.limits, step->id);
    if (!lay_out_result(r, step, &b))
        return status_fail(st, STATUS_CORRUPT, "step %llu asks for more than a result holds",
                           (unsigned long long)step->id);
    if (batch.n_tokens > 0)
        decoder_forward(&r->decoder, &batch);
    for (int32_t i = 0; i < r->n_heads; i += DECODER_LOGIT_ROWS_MAX) {
        const int32_t left = r->n_heads - i;
        const int32_t n = left < DECODER_LOGIT_ROWS_MAX ? left : DECODER_LOGIT_ROWS_MAX;
        if (!run_heads(r, step, &r->head[i], n, st))
            return false;
    }
    if (!r->ops->wait(r->dev, st))
        return false;
    take_samples(r, step, &b);
    b.result->run_ns = clock_now(&clock_real) - start;
    step_result_end(&b);
    return true;
}
