/* plan.c - counts what a model and its options need, and refuses what does not fit. */
#include "engine/plan.h"

#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/memory.h"
#include "engine/decoder.h"
#include "engine/gguf.h"
#include "engine/model.h"
#include "engine/quant_load.h"
#include "engine/runner.h"

enum {
    SEQS_MAX = 1024,
    STEP_TOKENS_MAX = 65536,
    BLOCK_TOKENS_DEFAULT = 16,
    BLOCK_TOKENS_MAX = 256,
    KV_SHARE = 4,        /* by default the cache takes at most 1 / KV_SHARE of the host's memory */
    MEM_ALIGN = 2 << 20, /* a device may round what it gives */
    HISTORY_MAX = 1 << 20,         /* tokens that prefix hits bring in one step, over all slots */
    BIAS_MAX = 64 * STEP_BIAS_MAX, /* bias entries one step brings */
};

static const double GPU_MEMORY_DEFAULT = 0.92;

static const struct defaults { /* what keeps a device busy: each stage has sequences of its own */
    int32_t seqs, step_tokens;
} of_host = {64, 512}, of_device = {256, 8192};

/* Options. */

static bool check_range(const char *name, int64_t v, int64_t max, struct status *st)
{
    return (v >= 0 && v <= max) ||
           status_fail(st, STATUS_BAD_INPUT, "%s: want 0 to %lld, found %lld", name, (long long)max,
                       (long long)v);
}

static bool is_word(const char *s, const char *word)
{
    return s && strcmp(s, word) == 0;
}

/* The type of a layer's first matrix stands for all of them; where that is codes, what was not
 * quantized says what the model's values were. */
static enum dtype matrix_dtype(const struct model_file *f)
{
    enum dtype plain = DT_F32;
    for (size_t i = 0; i < f->n_bound; i++) {
        const struct weight *w = quant_load_file_weight(&f->bound[i]);
        if (w->scheme)
            continue;
        if (f->bound[i].rule->slot == W_Q)
            return w->dtype;
        plain = w->dtype;
    }
    return plain;
}

static bool choose_act(const struct model_file *f, const struct engine_options *o,
                       struct device_options *out, struct status *st)
{
    const enum dtype file = matrix_dtype(f);
    if (!o->dtype || is_word(o->dtype, "auto"))
        out->act = file == DT_F32 || file == DT_BF16 ? DT_BF16 : DT_F16;
    else if (is_word(o->dtype, "bf16"))
        out->act = DT_BF16;
    else if (is_word(o->dtype, "f16"))
        out->act = DT_F16;
    else if (is_word(o->dtype, "f32"))
        out->act = DT_F32;
    else
        return status_fail(st, STATUS_BAD_INPUT, "dtype: want auto, bf16, f16 or f32, found %.32s",
                           o->dtype);
    return true;
}

struct device_word { /* an option that has a meaning on one device alone */
    const char *name, *device;
    bool is_set;
};
enum { N_DEVICE_WORDS = 6 };

static void list_device_words(const struct engine_options *o,
                              struct device_word words[N_DEVICE_WORDS])
{
    const struct device_word list[N_DEVICE_WORDS] = {
        {"dtype", "cuda", o->dtype && !is_word(o->dtype, "auto")},
        {"device-index", "cuda", o->device_index != 0},
        {"gpu-memory", "cuda", o->gpu_memory > 0 && o->gpu_memory != GPU_MEMORY_DEFAULT},
        {"peer-memory", "cuda", o->no_peer_memory},
        {"cpu-precision", "cpu", o->cpu_precision && !is_word(o->cpu_precision, "fast")},
        {"cpu-isa", "cpu", o->cpu_isa && *o->cpu_isa},
    };
    memcpy(words, list, sizeof list);
}

/* Words for a device that the options name another than. */
static bool check_device_words(const struct engine_options *o, struct status *st)
{
    struct device_word words[N_DEVICE_WORDS];
    list_device_words(o, words);
    if (!o->device || is_word(o->device, "auto"))
        return true;
    for (size_t i = 0; i < N_DEVICE_WORDS; i++)
        if (words[i].is_set && !is_word(o->device, words[i].device))
            return status_fail(st, STATUS_BAD_INPUT, "%s: has a meaning on device %s, not on %.16s",
                               words[i].name, words[i].device, o->device);
    return true;
}

void plan_idle_options(const struct engine_options *o, const char *device, int n_ranks,
                       struct buf *names)
{
    struct device_word words[N_DEVICE_WORDS];
    list_device_words(o, words);
    for (size_t i = 0; i < N_DEVICE_WORDS; i++) {
        const bool is_alone = n_ranks < 2 && is_word(words[i].name, "peer-memory");
        if (words[i].is_set && (is_alone || !is_word(device, words[i].device)))
            buf_printf(names, "%s%s", names->n ? ", " : "", words[i].name);
    }
}

double plan_memory_share(const struct engine_options *o)
{
    return o->gpu_memory > 0 ? o->gpu_memory : GPU_MEMORY_DEFAULT;
}

bool plan_device_options(const struct model_file *f, const struct engine_options *o,
                         struct device_options *out, struct status *st)
{
    *out = (struct device_options){
        .n_threads = o->n_threads,
        .isa_max = o->cpu_isa,
        .index = o->device_index,
        .has_local_rank = o->has_local_rank,
        .local_rank = o->local_rank,
        .memory_share = plan_memory_share(o),
        .no_peers = o->no_peer_memory,
    };
    if (!check_device_words(o, st))
        return false;
    if (out->memory_share > 1)
        return status_fail(st, STATUS_BAD_INPUT, "gpu-memory: want a share of at most 1, found %g",
                           o->gpu_memory);
    if (is_word(o->cpu_precision, "exact"))
        out->precision = PRECISION_EXACT;
    else if (!o->cpu_precision || is_word(o->cpu_precision, "fast"))
        out->precision = PRECISION_FAST;
    else
        return status_fail(st, STATUS_BAD_INPUT, "cpu-precision: want fast or exact, found %.32s",
                           o->cpu_precision);
    return choose_act(f, o, out, st);
}

static bool find_kv_dtype(const char *name, enum dtype *out, struct status *st)
{
    static const enum dtype types[] = {DT_F32, DT_F16, DT_BF16, DT_INT8, DT_FP8};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        *out = types[i];
        if (is_word(name, dtype_traits[types[i]].name))
            return true;
    }
    return status_fail(st, STATUS_BAD_INPUT,
                       "kv-dtype: want auto, f32, f16, bf16, int8 or fp8, found %.32s", name);
}

static bool choose_kv_dtype(struct plan *p, const struct engine_options *o, const struct ops *ops,
                            const struct device *dev, struct status *st)
{
    const enum dtype act = p->act_dtype;
    if (!o->kv_dtype || is_word(o->kv_dtype, "auto")) {
        const bool narrow = ops->host_memory && p->precision == PRECISION_FAST;
        p->kv_dtype = act == DT_F32 && narrow ? DT_F16 : act;
        return true;
    }
    return find_kv_dtype(o->kv_dtype, &p->kv_dtype, st) &&
           (ops->kv_fits(dev, p->kv_dtype) ||
            status_fail(st, STATUS_UNSUPPORTED,
                        "kv-dtype: %s with %s activations does not run on %s; auto does",
                        o->kv_dtype, dtype_traits[act].name, ops->name));
}

static int32_t least(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

/* A step has room for one token of each sequence. */
static void choose_widths(struct plan *p, const struct engine_options *o, const struct ops *ops)
{
    const struct defaults *d = ops->host_memory ? &of_host : &of_device;
    struct step_limits *l = &p->limits;
    const int32_t n_parts = !ops->host_memory && l->n_stages > 1 ? l->n_stages : 1;
    l->seqs_max = o->seqs_max ? o->seqs_max : least(d->seqs * n_parts, SEQS_MAX);
    l->step_tokens_max = o->step_tokens_max ? o->step_tokens_max : d->step_tokens;
    if (!o->seqs_max)
        l->seqs_max = least(l->seqs_max, l->step_tokens_max);
    else if (!o->step_tokens_max && l->step_tokens_max < l->seqs_max)
        l->step_tokens_max = l->seqs_max;
}

static bool read_options(struct plan *p, const struct model_file *f, const struct engine_options *o,
                         const struct ops *ops, const struct device *dev, struct status *st)
{
    struct device_options device;
    if (!plan_device_options(f, o, &device, st))
        return false;
    p->precision = device.precision;
    p->act_dtype = ops->act_dtype(dev);
    if (!choose_kv_dtype(p, o, ops, dev, st) ||
        !check_range("max-seqs", o->seqs_max, SEQS_MAX, st) ||
        !check_range("max-step-tokens", o->step_tokens_max, STEP_TOKENS_MAX, st) ||
        !check_range("block-tokens", o->block_tokens, BLOCK_TOKENS_MAX, st) ||
        !check_range("max-context", o->context_max, f->cfg.context, st) ||
        !check_range("kv-blocks", o->kv_blocks, INT32_MAX / BLOCK_TOKENS_MAX, st))
        return false;
    p->limits.vocab = f->cfg.vocab;
    p->limits.n_stages = f->cfg.n_stages;
    choose_widths(p, o, ops);
    p->limits.block_tokens = o->block_tokens ? o->block_tokens : BLOCK_TOKENS_DEFAULT;
    p->limits.context_max = o->context_max ? o->context_max : f->cfg.context;
    p->context_from = o->context_max ? "max-context" : "the model";
    return true;
}

/* The cache. */

static size_t count_block_bytes(const struct plan *p, const struct model_config *cfg)
{
    /* Each factor has a limit: 1024 layers, 1024 heads of 512, 256 tokens: below 2^42. */
    const struct kv_cache block = {.dtype = p->kv_dtype,
                                   .n_layers = cfg->n_layers,
                                   .n_blocks = 1,
                                   .block_tokens = p->limits.block_tokens,
                                   .n_kv_heads = cfg->n_kv_heads,
                                   .head_dim = cfg->head_dim};
    return 2 * (kv_bytes(&block) + kv_scale_bytes(&block));
}

static uint64_t count_blocks_wanted(const struct step_limits *l)
{
    const int64_t per_seq = ((int64_t)l->context_max + l->block_tokens - 1) / l->block_tokens;
    return (uint64_t)per_seq * (uint64_t)l->seqs_max;
}

/* On the device beside weights and cache. */
static uint64_t count_rest(const struct plan *p, const struct ops *ops)
{
    const uint64_t host = ops->host_memory ? p->slot_bytes + p->record_bytes : 0;
    return p->activation_bytes + p->work_bytes + host + 4 * MEM_ALIGN;
}

/* What all else leaves of a device that runs nothing else, or of what it may hold. */
static uint64_t count_blocks_left(const struct plan *p, const struct ops *ops)
{
    const uint64_t taken = p->weight_bytes + count_rest(p, ops);
    return p->available_bytes > taken ? (p->available_bytes - taken) / p->kv_block_bytes : 0;
}

static uint64_t choose_blocks(struct plan *p, const struct engine_options *o, const struct ops *ops)
{
    const uint64_t wanted = count_blocks_wanted(&p->limits);
    const uint64_t share = p->is_capped ? count_blocks_left(p, ops)
                                        : p->available_bytes / KV_SHARE / p->kv_block_bytes;
    if (o->kv_blocks) {
        p->kv_from = "kv-blocks";
        return (uint64_t)o->kv_blocks;
    }
    if (o->kv_bytes) {
        p->kv_from = "kv-memory";
        return o->kv_bytes / p->kv_block_bytes;
    }
    if (!ops->host_memory) {
        p->kv_from = "what the device has left";
        return count_blocks_left(p, ops);
    }
    p->kv_from = share >= wanted ? "all sequences at full context"
                 : p->is_capped  ? "what max-memory leaves"
                                 : "a quarter of free memory";
    return share < wanted ? share : wanted;
}

static unsigned long long mib(uint64_t n_bytes)
{
    return (unsigned long long)(n_bytes >> 20);
}

struct has_text {
    char at[64];
};

/* What there is of memory, after words for a part of it. */
static struct has_text show_memory(const struct plan *p, const char *of)
{
    struct has_text t;
    if (p->is_capped)
        snprintf(t.at, sizeof t.at, "device %d may hold %llu MiB", p->rank,
                 mib(p->available_bytes));
    else
        snprintf(t.at, sizeof t.at, "%s %llu MiB free", of, mib(p->available_bytes));
    return t;
}

/* Blocks without which the plan refuses the options. */
static uint64_t count_blocks_least(const struct plan *p, const struct engine_options *o)
{
    const int64_t context = o->context_max > 0 ? o->context_max : 1;
    return (uint64_t)((context + p->limits.block_tokens - 1) / p->limits.block_tokens);
}

/* Short, so that what would fit can be said behind it: COMM_WHY_BYTES. */
static bool refuse_cache(const struct plan *p, const struct engine_options *o,
                         const struct ops *ops, uint64_t n_blocks, struct status *st)
{
    const bool is_asked = o->kv_blocks || o->kv_bytes;
    const uint64_t n_least = count_blocks_least(p, o);
    return status_fail(
        st, STATUS_TOO_LARGE,
        "KV cache%s%s%s: want %lld tokens (%llu MiB), room for %lld; weights %llu, the rest "
        "%llu, %s",
        is_asked ? " (" : "", is_asked ? p->kv_from : "", is_asked ? ")" : "",
        o->context_max ? (long long)o->context_max : (long long)p->limits.block_tokens,
        mib(n_least * p->kv_block_bytes + (1 << 20) - 1),
        (long long)n_blocks * p->limits.block_tokens, mib(p->weight_bytes), mib(count_rest(p, ops)),
        show_memory(p, is_asked || !ops->host_memory ? "found" : "a quarter of").at);
}

static bool plan_cache(struct plan *p, const struct model_file *f, const struct engine_options *o,
                       const struct ops *ops, struct status *st)
{
    struct step_limits *l = &p->limits;
    p->kv_block_bytes = count_block_bytes(p, &f->cfg);
    uint64_t n_blocks = choose_blocks(p, o, ops);
    if (n_blocks > (uint64_t)(INT32_MAX / l->block_tokens))
        n_blocks = (uint64_t)(INT32_MAX / l->block_tokens);
    const int64_t n_tokens = (int64_t)n_blocks * l->block_tokens;
    if (n_blocks == 0 || (o->context_max && n_tokens < o->context_max))
        return refuse_cache(p, o, ops, n_blocks, st);
    if (n_tokens < l->context_max) {
        l->context_max = (int32_t)n_tokens;
        p->context_from = "the KV cache";
        p->is_shorter = true;
    }
    l->n_blocks = (int32_t)n_blocks;
    p->kv_bytes = n_blocks * p->kv_block_bytes;
    return true;
}

/* A step must be able to carry the history of at least one sequence and the bias of one request. */
static void plan_records(struct plan *p)
{
    struct step_limits *l = &p->limits;
    const int64_t history = (int64_t)l->seqs_max * l->context_max;
    const int64_t bias = (int64_t)l->seqs_max * STEP_BIAS_MAX;
    const int64_t history_cap = l->context_max > HISTORY_MAX ? l->context_max : HISTORY_MAX;
    l->history_max = (int32_t)(history < history_cap ? history : history_cap);
    l->bias_max = (int32_t)(bias < BIAS_MAX ? bias : BIAS_MAX);
    p->record_bytes = (uint64_t)engine_depth(l) * (step_bytes_max(l) + step_result_bytes_max(l));
}

static int32_t widest_input(const struct model_file *f)
{
    int64_t widest = 0;
    for (size_t i = 0; i < f->n_bound; i++)
        if (f->bound[i].src->cols > widest)
            widest = f->bound[i].src->cols;
    return (int32_t)widest;
}

static int32_t widest_input_of_outliers(const struct model_file *f)
{
    int64_t widest = 0;
    for (size_t i = 0; i < f->n_bound; i++) {
        const struct weight *w = f->bound[i].src;
        if (w->scheme && w->scheme->act == ACTS_OUTLIERS && w->cols > widest)
            widest = w->cols;
    }
    return (int32_t)widest;
}

static void plan_device_limits(struct plan *p, const struct model_file *f)
{
    const struct step_limits *l = &p->limits;
    const struct model_config *cfg = &f->cfg;
    p->device = (struct device_limits){
        .step_tokens_max = l->step_tokens_max,
        .seqs_max = l->seqs_max,
        .heads_max = decoder_heads_max(l),
        .step_heads_max = l->step_tokens_max + l->seqs_max,
        .context_max = l->context_max,
        .block_tokens = l->block_tokens,
        .table_stride =
            (int32_t)(((int64_t)l->context_max + l->block_tokens - 1) / l->block_tokens),
        .history_max = l->history_max,
        .bias_max = l->bias_max,
        .bias_slot_max = STEP_BIAS_MAX,
        .vocab = cfg->vocab,
        .hidden = cfg->hidden,
        .ffn = cfg->ffn,
        .n_heads = cfg->n_heads,
        .n_kv_heads = cfg->n_kv_heads,
        .head_dim = cfg->head_dim,
        .in_max = widest_input(f),
        .in_outliers_max = widest_input_of_outliers(f),
    };
}

/* All but the cache. */
static bool plan_parts(struct plan *p, const struct model_file *f, const struct ops *ops,
                       const struct device *dev, struct status *st)
{
    size_t activations, slots;
    plan_records(p);
    plan_device_limits(p, f);
    if (ops->limits_fit && !ops->limits_fit(dev, &p->device, st))
        return false;
    if (!decoder_bytes(&f->cfg, &p->limits, ops->act_dtype(dev), &activations) ||
        !runner_host_bytes(&p->limits, &slots))
        return status_fail(st, STATUS_TOO_LARGE, "the plan does not fit the address space");
    p->activation_bytes = activations;
    p->slot_bytes = slots;
    p->work_bytes = ops->work_bytes(dev, &p->device);
    return true;
}

static bool sum(const uint64_t *parts, size_t n, uint64_t *out)
{
    size_t total = 0;
    for (size_t i = 0; i < n; i++)
        if (!size_add(total, parts[i], &total))
            return false;
    *out = total;
    return true;
}

static bool add_up(struct plan *p, const struct ops *ops)
{
    const uint64_t device[] = {p->weight_bytes, p->kv_bytes, p->activation_bytes, p->work_bytes};
    const uint64_t host[] = {p->slot_bytes, p->record_bytes};
    uint64_t on_host;
    if (!sum(device, 4, &p->device_bytes) || !sum(host, 2, &on_host) ||
        !sum((uint64_t[]){p->device_bytes, on_host}, 2, &p->total_bytes))
        return false;
    if (ops->host_memory)
        p->device_bytes = p->total_bytes;
    return true;
}

static bool plan_weights(struct plan *p, const struct model_file *f, const struct ops *ops,
                         const struct device *dev, struct status *st)
{
    size_t weights;
    if (!model_weight_bytes(f, ops, dev, &weights) || !plan_weights_count(&p->weights, f, ops, dev))
        return status_fail(st, STATUS_TOO_LARGE, "the weights do not fit the address space");
    p->weight_bytes = weights;
    return true;
}

static bool refuse_size(const struct plan *p, struct status *st)
{
    return status_fail(
        st, STATUS_TOO_LARGE, "want %llu MiB (weights %llu, KV cache %llu, the rest %llu), %s",
        mib(p->device_bytes), mib(p->weight_bytes), mib(p->kv_bytes),
        mib(p->device_bytes - p->weight_bytes - p->kv_bytes), show_memory(p, "found").at);
}

/* With the weights counted. */
static bool plan_rest(struct plan *p, const struct model_file *f, const struct engine_options *o,
                      const struct ops *ops, const struct device *dev, struct plan_memory available,
                      struct status *st)
{
    /* The parts twice: the cache takes what they leave, and then may bound the context. */
    if (!read_options(p, f, o, ops, dev, st) || !plan_parts(p, f, ops, dev, st) ||
        !plan_cache(p, f, o, ops, st) || !plan_parts(p, f, ops, dev, st))
        return false;
    if (!add_up(p, ops) || p->device_bytes > available.device)
        return refuse_size(p, st);
    const uint64_t on_host = p->total_bytes - p->device_bytes;
    return on_host <= available.host || ops->host_memory ||
           status_fail(st, STATUS_TOO_LARGE, "want %llu MiB of the host, found %llu MiB free",
                       mib(on_host), mib(available.host));
}

/* What would fit. */

struct refused { /* what a plan was made of that did not fit */
    const struct model_file *f;
    const struct engine_options *o;
    const struct ops *ops;
    const struct device *dev;
    struct plan_memory available;
};

struct offer {
    const char *layers; /* a scheme; NULL = as they are */
    bool head, kv;      /* in int8 */
};

/* Of what the options leave open. */
static bool is_open(const struct offer *t, const struct engine_options *o)
{
    struct quant_choice chosen;
    struct status none = {0};
    return quant_choice_read(&chosen, o, &none) && !(t->layers && chosen.has_layers) &&
           !(t->head && chosen.has_head) && !(t->kv && o->kv_dtype && !is_word(o->kv_dtype, "auto"));
}

static bool offer_fits(const struct refused *r, const struct offer *t, struct plan *p)
{
    struct engine_options with = *r->o;
    struct quant_choice more;
    struct status none = {0};
    with.quantize = t->layers;
    with.quantize_head = t->head ? "int8" : NULL;
    if (t->kv)
        with.kv_dtype = "int8";
    *p = (struct plan){.available_bytes = r->available.device,
                       .rank = r->available.rank,
                       .is_capped = r->available.is_capped};
    if (!quant_choice_read(&more, &with, &none))
        return false;
    p->weight_bytes = plan_weights_quantized(r->f, &more, r->ops, r->dev);
    return p->weight_bytes > 0 && plan_rest(p, r->f, &with, r->ops, r->dev, r->available, &none);
}

/* Adds to a refusal the first of what is there, from the most exact to the smallest, that would
 * fit. */
static bool offer_less(const struct refused *r, struct status *st)
{
    static const struct offer offers[] = {
        {NULL, false, true},   {NULL, true, false},   {NULL, true, true},   {"int8", false, false},
        {"int8", false, true}, {"int8", true, false}, {"int8", true, true}, {"int4", false, false},
        {"int4", false, true}, {"int4", true, false}, {"int4", true, true}, {"nf4", false, false},
        {"nf4", false, true},  {"nf4", true, false},  {"nf4", true, true},
    };
    const struct status refusal = *st;
    for (size_t i = 0; i < sizeof offers / sizeof offers[0]; i++) {
        const struct offer *t = &offers[i];
        struct plan p;
        if (!is_open(t, r->o) || !offer_fits(r, t, &p))
            continue;
        *st = (struct status){0};
        return status_fail(st, refusal.code, "%s; fits with%s%s%s%s (%llu MiB)", refusal.msg,
                           t->layers ? " --quantize " : "", t->layers ? t->layers : "",
                           t->head ? " --quantize-head int8" : "", t->kv ? " --kv-dtype int8" : "",
                           mib(p.device_bytes));
    }
    return false;
}

struct plan_memory plan_memory_of(const struct ops *ops, uint64_t free_bytes, int rank, int n_ranks,
                                  uint64_t cap)
{
    const uint64_t share = ops->host_memory ? free_bytes / (uint64_t)n_ranks : free_bytes;
    const bool is_capped = cap > 0 && cap < share;
    return (struct plan_memory){.device = is_capped ? cap : share,
                                .host = memory_available_bytes(""),
                                .rank = rank,
                                .is_capped = is_capped};
}

bool plan_shares(const struct model_file *f, const struct engine_options *o, const struct ops *ops,
                 const struct device *dev, uint64_t *rest, uint64_t *kv_layer, struct status *st)
{
    struct plan p = {0};
    if (!read_options(&p, f, o, ops, dev, st) || !plan_parts(&p, f, ops, dev, st))
        return false;
    *rest = count_rest(&p, ops);
    const uint64_t n_blocks = o->kv_blocks > 0 ? (uint64_t)o->kv_blocks : count_blocks_least(&p, o);
    *kv_layer = count_block_bytes(&p, &f->cfg) / (uint64_t)f->cfg.n_layers * n_blocks;
    return true;
}

/* What all in f32 on a device means to a model. */
static bool check_f32(const struct model_file *f, const struct engine_options *o,
                      const struct ops *ops, struct status *st)
{
    if (!is_word(o->dtype, "f32") || ops->host_memory)
        return true;
    for (size_t i = 0; i < f->n_bound; i++) {
        const struct weight *w = f->bound[i].src;
        if (w->scheme && w->scheme->act != ACTS_WIDE)
            return status_fail(
                st, STATUS_UNSUPPORTED,
                "dtype: f32 rounds no activations, and the quantization of %s rounds "
                "them to 8 bits",
                str_show(w->name).text);
    }
    return true;
}

bool plan_check_ranks(const struct engine_options *o, const struct ops *ops, int n_tensor,
                      int n_stages, struct status *st)
{
    if (n_tensor > 1 && !ops->all_reduce)
        return status_fail(st, STATUS_UNSUPPORTED, "tensor-parallel: %s devices are one rank alone",
                           ops->name);
    if (n_stages > 1 && !ops->send)
        return status_fail(st, STATUS_UNSUPPORTED, "layer-split: %s devices are one stage alone",
                           ops->name);
    if ((n_tensor > 1 || n_stages > 1) && is_word(o->dtype, "f32") && !ops->host_memory)
        return status_fail(st, STATUS_UNSUPPORTED,
                           "dtype: f32 runs on one %s device, not with tensor-parallel or "
                           "layer-split",
                           ops->name);
    return true;
}

bool plan_make(struct plan *p, const struct model_file *f, const struct engine_options *o,
               const struct ops *ops, const struct device *dev, struct plan_memory available,
               struct status *st)
{
    if (!plan_check_ranks(o, ops, f->cfg.n_ranks, f->cfg.n_stages, st) || !check_f32(f, o, ops, st))
        return false;
    *p = (struct plan){.available_bytes = available.device,
                       .rank = available.rank,
                       .is_capped = available.is_capped,
                       .widened = !ops->host_memory && ops->act_dtype(dev) == DT_F32,
                       .n_ranks = f->cfg.n_ranks};
    if (!plan_weights(p, f, ops, dev, st))
        return false;
    if (plan_rest(p, f, o, ops, dev, available, st))
        return true;
    return st->code == STATUS_TOO_LARGE &&
           offer_less(&(struct refused){f, o, ops, dev, available}, st);
}

/* The table. */

static void print_line(struct buf *out, const char *what, uint64_t n_bytes, const char *why)
{
    buf_printf(out, "  %-12s %10.1f MiB  %s\n", what, (double)n_bytes / (1 << 20), why);
}

void plan_print_device(const struct backend *b, const struct device *dev,
                       const struct status *against_cuda, struct buf *out)
{
    buf_printf(out, "device\n  %-12s %s\n", b->ops->name, b->variant(dev));
    if (against_cuda->code != STATUS_OK)
        buf_printf(out, "  %-12s not used: %s\n", "cuda", against_cuda->msg);
}

static void print_host_parts(const struct plan *p, const char *where, struct buf *out)
{
    char why[128];
    snprintf(why, sizeof why, "%d sequences%s", p->limits.seqs_max, where);
    print_line(out, "slots", p->slot_bytes, why);
    snprintf(why, sizeof why, "%d steps in flight%s", engine_depth(&p->limits), where);
    print_line(out, "records", p->record_bytes, why);
}

void plan_print(const struct plan *p, struct buf *out)
{
    const struct step_limits *l = &p->limits;
    const bool is_apart = p->device_bytes < p->total_bytes;
    char why[128];
    buf_put_str(out, p->n_ranks > 1 || l->n_stages > 1 ? "memory of rank 0\n" : "memory\n");
    print_line(out, "weights", p->weight_bytes,
               p->widened ? "as the device holds them: all as f32" : "as the device holds them");
    plan_weights_print(&p->weights, out);
    snprintf(why, sizeof why, "%d blocks of %d tokens, %s%s, %llu bytes a block: %s", l->n_blocks,
             l->block_tokens, dtype_traits[p->kv_dtype].name,
             kv_has_scales(p->kv_dtype) ? " with scales" : "",
             (unsigned long long)p->kv_block_bytes, p->kv_from);
    print_line(out, "KV cache", p->kv_bytes, why);
    snprintf(why, sizeof why, "%s, %d tokens a step, %d rows of logits",
             dtype_traits[p->act_dtype].name, l->step_tokens_max, p->device.heads_max);
    print_line(out, "activations", p->activation_bytes, why);
    print_line(out, "work", p->work_bytes, "of the kernels");
    if (!is_apart)
        print_host_parts(p, "", out);
    snprintf(why, sizeof why, "of %.1f MiB %s", (double)p->available_bytes / (1 << 20),
             p->is_capped ? "that max-memory allows" : "free");
    print_line(out, "total", p->device_bytes, why);
    if (is_apart)
        print_host_parts(p, ", on the host", out);
    buf_put_str(out, "limits\n");
    buf_printf(out, "  context      %d tokens a sequence: %s\n", l->context_max, p->context_from);
    buf_printf(out, "  cache        %lld tokens over all sequences\n",
               (long long)l->n_blocks * l->block_tokens);
    buf_printf(out, "  sequences    %d at once\n", l->seqs_max);
    buf_printf(out, "  step         %d tokens\n", l->step_tokens_max);
}

/* The ranks. */

struct plan_rank plan_rank(const struct plan *p, const struct model_file *f)
{
    const struct model_config *cfg = &f->cfg;
    const int32_t *split = cfg->vocab_split + cfg->rank;
    return (struct plan_rank){
        .rank = cfg->stage * (cfg->n_ranks > 1 ? cfg->n_ranks : 1) + cfg->rank,
        .n_blocks = p->limits.n_blocks,
        .stage = cfg->stage,
        .n_stages = cfg->n_stages,
        .layer_first = cfg->layer_first,
        .n_layers = cfg->n_layers,
        .n_heads = cfg->n_heads,
        .n_kv_heads = cfg->n_kv_heads,
        .ffn = cfg->ffn,
        .n_tokens = cfg->n_ranks > 1 ? split[1] - split[0] : cfg->vocab,
        .weight_bytes = p->weight_bytes,
        .kv_bytes = p->kv_bytes,
        .device_bytes = p->device_bytes,
        .total_bytes = p->total_bytes,
    };
}

/* Its layers, and what more the first and the last stage have. */
static void print_layers(const struct plan_rank *r, char *text, size_t size)
{
    const char *more = r->stage == 0                 ? ", embedding"
                       : r->stage == r->n_stages - 1 ? ", output"
                                                     : "";
    if (r->n_stages > 1)
        snprintf(text, size, ", KV cache %.1f: layers %d to %d%s", (double)r->kv_bytes / (1 << 20),
                 r->layer_first, r->layer_first + r->n_layers - 1, more);
    else
        *text = '\0';
}

void plan_print_ranks(const struct plan_rank *r, int n, struct buf *out)
{
    uint64_t total = 0;
    buf_put_str(out, "ranks\n");
    for (int i = 0; i < n; i++) {
        char what[16], layers[96], why[256];
        snprintf(what, sizeof what, "rank %d", r[i].rank);
        print_layers(&r[i], layers, sizeof layers);
        snprintf(why, sizeof why,
                 "weights %.1f%s: %d query and %d key heads, feed-forward %d, %d tokens",
                 (double)r[i].weight_bytes / (1 << 20), layers, r[i].n_heads, r[i].n_kv_heads,
                 r[i].ffn, r[i].n_tokens);
        print_line(out, what, r[i].device_bytes, why);
        total += r[i].device_bytes;
    }
    print_line(out, "all", total, "of all ranks");
}
