/* model.c - brings the weights of a bound checkpoint to the device. */
#include "engine/model.h"

#include <stdlib.h>

#include "base/arena.h"
#include "base/checked.h"
#include "engine/quant_load.h"
#include "engine/rope_freq.h"

enum { WEIGHT_ALIGN = 64, PROGRESS_CALLS = 64 };

static bool is_vector(const struct tensor_rule *rule)
{
    return rule->rows == DIM_ONE;
}

static struct tensor tensor_of(const struct weight *w)
{
    return (struct tensor){
        .dtype = w->dtype, .rows = w->rows, .cols = w->cols, .scheme = w->scheme};
}

bool model_one_weight_bytes(const struct bound *b, const struct ops *ops, const struct device *dev,
                            size_t *n_bytes)
{
    const struct tensor t = tensor_of(b->src);
    if (!is_vector(b->rule))
        *n_bytes = ops->weight_bytes(dev, &t);
    else if (!size_mul((size_t)b->src->cols, sizeof(float), n_bytes))
        return false;
    return size_align(*n_bytes, WEIGHT_ALIGN, n_bytes);
}

static size_t inv_freq_bytes(const struct model_config *cfg)
{
    return (size_t)cfg->rope_dims / 2 * sizeof(float);
}

/* With those of local layers, where there are any. */
static bool inv_freqs_bytes(const struct model_config *cfg, size_t *n_bytes)
{
    return size_align(inv_freq_bytes(cfg), WEIGHT_ALIGN, n_bytes) &&
           size_mul(*n_bytes, cfg->window > 0 ? 2 : 1, n_bytes);
}

bool model_weight_bytes(const struct model_file *f, const struct ops *ops, const struct device *dev,
                        size_t *n_bytes)
{
    if (!inv_freqs_bytes(&f->cfg, n_bytes))
        return false;
    for (size_t i = 0; i < f->n_bound; i++) {
        size_t n;
        if (!model_one_weight_bytes(&f->bound[i], ops, dev, &n) || !size_add(*n_bytes, n, n_bytes))
            return false;
    }
    return true;
}

static void place(struct model *m, const struct bound *b, const struct tensor *t)
{
    if (b->il < 0)
        m->w[b->rule->slot] = t;
    else
        m->layer[b->il].w[b->rule->slot] = t;
}

/* A load under way. */
struct load {
    struct model *m;
    const struct model_file *f;
    const struct ops *ops;
    struct device *dev;
    const struct bound **order; /* [n_bound] as the weights will lie in memory */
    float *vector;              /* [vector_max] one vector on its way */
    struct arena memory;
};

static int by_place(const void *a, const void *b)
{
    const struct bound *x = *(const struct bound *const *)a, *y = *(const struct bound *const *)b;
    return x->il != y->il ? x->il - y->il : (int)x->rule->slot - (int)y->rule->slot;
}

static size_t longest_vector(const struct model_file *f)
{
    size_t n = (size_t)f->cfg.rope_dims / 2;
    for (size_t i = 0; i < f->n_bound; i++)
        if (is_vector(f->bound[i].rule) && (size_t)f->bound[i].src->cols > n)
            n = (size_t)f->bound[i].src->cols;
    return n;
}

/* Weights are placed in the order (layer, slot).  So q, k and v, and gate and up, lie one behind
 * the other, without a gap when their sizes are multiples of WEIGHT_ALIGN: a device may then
 * multiply by them as by one weight. */
static bool load_prepare(struct load *l, struct status *st)
{
    const size_t n = l->f->n_bound;
    l->order = calloc(n + 1, sizeof(const struct bound *));
    l->vector = calloc(longest_vector(l->f) + 1, sizeof *l->vector);
    l->m->layer = calloc((size_t)l->f->cfg.n_layers, sizeof *l->m->layer);
    l->m->tensor = calloc(n + 1, sizeof *l->m->tensor);
    l->m->scheme = calloc(n + 1, sizeof *l->m->scheme);
    if (!l->order || !l->vector || !l->m->layer || !l->m->tensor || !l->m->scheme)
        return status_fail(st, STATUS_BUSY, "no memory for %zu tensors", n);
    for (size_t i = 0; i < n; i++)
        l->order[i] = &l->f->bound[i];
    qsort(l->order, n, sizeof(const struct bound *), by_place);
    return true;
}

static bool is_gain(enum slot slot)
{
    switch (slot) {
    case W_FINAL_NORM:
    case W_ATTN_NORM:
    case W_Q_NORM:
    case W_K_NORM:
    case W_ATTN_OUT_NORM:
    case W_FFN_NORM:
    case W_FFN_OUT_NORM:
        return true;
    default:
        return false;
    }
}

static void load_vector(struct load *l, struct tensor *t, const struct bound *b)
{
    dequantize_row(b->src->dtype, b->src->source.at, l->vector, b->src->cols);
    if (l->f->folder && l->f->arch->hf_gain != 0 && is_gain(b->rule->slot))
        for (int64_t i = 0; i < b->src->cols; i++)
            l->vector[i] += l->f->arch->hf_gain;
    l->ops->copy_in(l->dev, t->data, l->vector, (size_t)b->src->cols * sizeof *l->vector);
    t->dtype = DT_F32;
    t->layout = LAYOUT_PLAIN;
}

static void load_one(struct load *l, size_t i, const struct bound *b, void *at)
{
    struct tensor *t = &l->m->tensor[i];
    *t = tensor_of(b->src);
    if (t->scheme) {
        l->m->scheme[i] = *t->scheme;
        t->scheme = &l->m->scheme[i];
    }
    t->data = at;
    if (is_vector(b->rule))
        load_vector(l, t, b);
    else
        l->ops->weight_put(l->dev, t, &b->src->source);
    place(l->m, b, t);
}

static bool load_weights(struct load *l, const struct load_progress *progress)
{
    const uint64_t n_total = l->memory.n_total;
    uint64_t told = 0;
    for (size_t i = 0; i < l->f->n_bound; i++) {
        size_t n;
        void *at = model_one_weight_bytes(l->order[i], l->ops, l->dev, &n)
                       ? arena_take(&l->memory, n, WEIGHT_ALIGN)
                       : NULL;
        if (!at)
            return false;
        load_one(l, i, l->order[i], at);
        if (progress->fn && l->memory.n_used - told >= n_total / PROGRESS_CALLS) {
            told = l->memory.n_used;
            progress->fn(progress->ctx, told, n_total);
        }
    }
    return true;
}

/* Factors of the frequencies, from the file: the model's copy may be out of reach. */
static const float *rope_factors(struct load *l)
{
    for (size_t i = 0; i < l->f->n_bound; i++) {
        const struct bound *b = &l->f->bound[i];
        if (b->rule->slot != W_ROPE_FACTORS)
            continue;
        dequantize_row(b->src->dtype, b->src->source.at, l->vector, b->src->cols);
        return l->vector;
    }
    return NULL;
}

/* Brings the frequencies in l->vector to the device; NULL when there is no room. */
static const float *put_inv_freq(struct load *l)
{
    const size_t n_bytes = inv_freq_bytes(&l->f->cfg);
    void *at = arena_take(&l->memory, n_bytes, WEIGHT_ALIGN);
    if (at)
        l->ops->copy_in(l->dev, at, l->vector, n_bytes);
    return at;
}

static bool load_inv_freq(struct load *l)
{
    const struct model_config *cfg = &l->f->cfg;
    rope_freq_make(cfg, rope_factors(l), l->vector); /* the factors may be l->vector */
    l->m->inv_freq = put_inv_freq(l);
    if (cfg->window == 0)
        return l->m->inv_freq != NULL;
    rope_freq_make_local(cfg, l->vector);
    l->m->inv_freq_local = put_inv_freq(l);
    return l->m->inv_freq && l->m->inv_freq_local;
}

static bool load_all(struct load *l, const struct load_progress *progress, struct status *st)
{
    size_t n_bytes;
    if (!model_weight_bytes(l->f, l->ops, l->dev, &n_bytes))
        return status_fail(st, STATUS_CORRUPT, "the weights do not fit the address space");
    if (!load_prepare(l, st) || !quant_load_prepare(l->f, st))
        return false;
    void *at = l->ops->mem_take(l->dev, n_bytes, st);
    if (!at)
        return false;
    arena_init(&l->memory, at, n_bytes);
    if (!load_inv_freq(l) || !load_weights(l, progress))
        return status_fail(st, STATUS_CORRUPT, "weights need more than the %zu bytes planned",
                           n_bytes);
    if (!l->ops->weights_done(l->dev, st) || !quant_load_check(l->f, st))
        return false;
    if (!l->m->w[W_LM_HEAD])
        l->m->w[W_LM_HEAD] = l->m->w[W_EMBED];
    model_file_release(l->f);
    if (progress->fn)
        progress->fn(progress->ctx, n_bytes, n_bytes);
    return true;
}

bool model_load(struct model *m, const struct model_file *f, const struct ops *ops,
                struct device *dev, const struct load_progress *progress, struct status *st)
{
    struct load l = {.m = m, .f = f, .ops = ops, .dev = dev};
    *m = (struct model){.cfg = f->cfg};
    const bool ok = load_all(&l, progress, st);
    free(l.order);
    free(l.vector);
    if (!ok)
        model_close(m);
    return ok;
}

void model_close(struct model *m)
{
    free(m->layer);
    free(m->tensor);
    free(m->scheme);
    *m = (struct model){0};
}
