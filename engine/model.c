/* model.c - binds a checkpoint to its family's tables, and loads it.
 *
 * What a family needs is in engine/arch; this file only reads tables. */
#include "engine/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/checked.h"
#include "engine/gguf.h"

enum { NAME_MAX_BYTES = 64, KEY_MAX_BYTES = 128, WEIGHT_ALIGN = 64, PROGRESS_CALLS = 64 };

static const char *const dim_names[DIM_N] = {
    [DIM_ONE] = "1",         [DIM_VOCAB] = "vocab",
    [DIM_HIDDEN] = "hidden", [DIM_Q] = "q",
    [DIM_KV] = "kv",         [DIM_FFN] = "ffn",
    [DIM_HEAD] = "head_dim", [DIM_ROPE_HALF] = "rope_dims / 2",
};

/* The family. */

static bool find_arch(struct model_file *f, struct status *st)
{
    struct gguf_str name;
    if (!gguf_string(f->gguf, "general.architecture", &name, st)) {
        if (st->code == STATUS_OK)
            status_fail(st, STATUS_CORRUPT, "key general.architecture is missing");
        return false;
    }
    for (size_t i = 0; arch_all[i]; i++) {
        const char *have = arch_all[i]->gguf_name;
        if (name.n == strlen(have) && memcmp(name.at, have, name.n) == 0) {
            f->arch = arch_all[i];
            return true;
        }
    }
    char shown[32] = "";
    for (size_t i = 0; i < name.n && i < sizeof shown - 1; i++)
        shown[i] = name.at[i] >= ' ' && name.at[i] <= '~' ? name.at[i] : '?';
    return status_fail(st, STATUS_UNSUPPORTED, "model family \"%s\" is not supported", shown);
}

/* The configuration. */

static void make_key(const struct model_file *f, const char *name, char key[KEY_MAX_BYTES])
{
    snprintf(key, KEY_MAX_BYTES, "%s.%s", f->arch->gguf_name, name);
}

static void store_field(struct model_config *cfg, const struct config_rule *rule, double v)
{
    char *at = (char *)cfg + rule->offset;
    const int32_t i = rule->type == F_INT ? (int32_t)v : 0;
    const float x = (float)v;
    if (rule->type == F_INT)
        memcpy(at, &i, sizeof i);
    else
        memcpy(at, &x, sizeof x);
}

static bool read_number(const struct gguf *g, const char *key, enum field_type type, double *v,
                        struct status *st)
{
    uint64_t i;
    if (type == F_FLOAT)
        return gguf_f64(g, key, v, st);
    if (!gguf_u64(g, key, &i, st))
        return false;
    *v = (double)i;
    return true;
}

static bool read_field(struct model_file *f, const struct config_rule *rule, struct status *st)
{
    char key[KEY_MAX_BYTES];
    double v;
    make_key(f, rule->gguf, key);
    if (!read_number(f->gguf, key, rule->type, &v, st)) {
        if (st->code != STATUS_OK)
            return false;
        if (rule->need == REQUIRED)
            return status_fail(st, STATUS_CORRUPT, "key %s is missing", key);
        store_field(&f->cfg, rule, rule->absent);
        return true;
    }
    if (!(v >= rule->min && v <= rule->max)) /* also refuses NaN */
        return status_fail(st, STATUS_UNSUPPORTED,
                           "key %s: want a value from %.9g to %.9g, found %.9g", key, rule->min,
                           rule->max, v);
    store_field(&f->cfg, rule, v);
    return true;
}

static bool read_rope_scaling(struct model_file *f, struct status *st)
{
    char key[KEY_MAX_BYTES];
    struct gguf_str type;
    double factor = 1;
    f->cfg.rope_scaling = 1;
    make_key(f, "rope.scaling.type", key);
    if (!gguf_string(f->gguf, key, &type, st) || (type.n == 4 && memcmp(type.at, "none", 4) == 0))
        return st->code == STATUS_OK;
    if (type.n != 6 || memcmp(type.at, "linear", 6) != 0)
        return status_fail(st, STATUS_UNSUPPORTED,
                           "key %s: want \"none\" or \"linear\", found another", key);
    make_key(f, "rope.scaling.factor", key);
    if (!gguf_f64(f->gguf, key, &factor, st) && st->code != STATUS_OK)
        return false;
    if (!(factor >= 1 && factor <= 1024))
        return status_fail(st, STATUS_CORRUPT, "key %s: want a value from 1 to 1024, found %.9g",
                           key, factor);
    f->cfg.rope_scaling = (float)factor;
    return true;
}

/* The embedding table says how many tokens there are; whatever else counts them must agree. */
static bool derive_vocab(struct model_file *f, struct status *st)
{
    struct model_config *cfg = &f->cfg;
    const struct tensor_rule *rule = f->arch->tensors[0];
    while (rule->gguf && rule->slot != W_EMBED)
        rule++;
    const struct gguf_tensor *embed = gguf_tensor_find(f->gguf, rule->gguf);
    if (!embed)
        return status_fail(st, STATUS_CORRUPT, "tensor %s is missing", rule->gguf);
    if (embed->rows > 1 << 24)
        return status_fail(st, STATUS_UNSUPPORTED, "tensor %s: want at most %d rows, found %lld",
                           rule->gguf, 1 << 24, (long long)embed->rows);
    if (cfg->vocab != 0 && cfg->vocab != embed->rows)
        return status_fail(st, STATUS_CORRUPT, "tensor %s: want [vocab] = [%d] rows, found %lld",
                           rule->gguf, cfg->vocab, (long long)embed->rows);
    cfg->vocab = (int32_t)embed->rows;

    struct gguf_array tokens;
    if (!gguf_array(f->gguf, "tokenizer.ggml.tokens", GGUF_STRINGS, &tokens, st))
        return st->code == STATUS_OK;
    if (tokens.n > (size_t)cfg->vocab)
        return status_fail(st, STATUS_CORRUPT,
                           "key tokenizer.ggml.tokens: want at most vocab = %d, found %zu",
                           cfg->vocab, tokens.n);
    return true;
}

static bool derive_heads(struct model_config *cfg, struct status *st)
{
    if (cfg->n_kv_heads == 0)
        cfg->n_kv_heads = cfg->n_heads;
    if (cfg->n_heads % cfg->n_kv_heads != 0)
        return status_fail(st, STATUS_CORRUPT,
                           "want query heads to be a multiple of key heads, found %d and %d",
                           cfg->n_heads, cfg->n_kv_heads);
    if (cfg->head_dim == 0 && cfg->hidden % cfg->n_heads != 0)
        return status_fail(st, STATUS_CORRUPT,
                           "want a width that is a multiple of the heads, found %d and %d",
                           cfg->hidden, cfg->n_heads);
    if (cfg->head_dim == 0)
        cfg->head_dim = cfg->hidden / cfg->n_heads;
    if (cfg->head_dim % 2 != 0 || cfg->head_dim > 512)
        return status_fail(st, STATUS_UNSUPPORTED,
                           "want an even head width of at most 512, found %d", cfg->head_dim);
    if (cfg->value_dim == 0)
        cfg->value_dim = cfg->head_dim;
    if (cfg->value_dim != cfg->head_dim)
        return status_fail(st, STATUS_UNSUPPORTED,
                           "want value heads as wide as key heads, found %d and %d", cfg->value_dim,
                           cfg->head_dim);
    if (cfg->rope_dims == 0)
        cfg->rope_dims = cfg->head_dim;
    if (cfg->rope_dims % 2 != 0 || cfg->rope_dims > cfg->head_dim)
        return status_fail(st, STATUS_CORRUPT,
                           "want an even number of rotated dimensions of at most %d, found %d",
                           cfg->head_dim, cfg->rope_dims);
    return true;
}

static bool read_config(struct model_file *f, struct status *st)
{
    struct model_config *cfg = &f->cfg;
    for (const struct config_rule *rule = f->arch->config; rule->gguf; rule++)
        if (!read_field(f, rule, st))
            return false;
    if (!derive_heads(cfg, st) || !derive_vocab(f, st) || !read_rope_scaling(f, st))
        return false;
    cfg->rope = f->arch->gguf_rope;
    cfg->act = f->arch->act;
    cfg->norm = f->arch->norm;
    if (cfg->embed_scale == 0)
        cfg->embed_scale = 1;
    if (cfg->attn_scale == 0)
        cfg->attn_scale = 1 / sqrtf((float)cfg->head_dim);
    return true;
}

/* The tensors. */

static int64_t dim_size(const struct model_config *cfg, enum dim dim)
{
    switch (dim) {
    case DIM_VOCAB:
        return cfg->vocab;
    case DIM_HIDDEN:
        return cfg->hidden;
    case DIM_Q:
        return (int64_t)cfg->n_heads * cfg->head_dim;
    case DIM_KV:
        return (int64_t)cfg->n_kv_heads * cfg->head_dim;
    case DIM_FFN:
        return cfg->ffn;
    case DIM_HEAD:
        return cfg->head_dim;
    case DIM_ROPE_HALF:
        return cfg->rope_dims / 2;
    default:
        return 1;
    }
}

static bool check_shape(const struct model_config *cfg, const struct tensor_rule *rule,
                        const char *name, const struct gguf_tensor *t, struct status *st)
{
    const long long rows = dim_size(cfg, rule->rows), cols = dim_size(cfg, rule->cols);
    if (t->rows == rows && t->cols == cols)
        return true;
    if (rule->rows == DIM_ONE)
        return status_fail(st, STATUS_CORRUPT, "tensor %s: want [%s] = [%lld], found [%lld, %lld]",
                           name, dim_names[rule->cols], cols, (long long)t->rows,
                           (long long)t->cols);
    return status_fail(st, STATUS_CORRUPT,
                       "tensor %s: want [%s, %s] = [%lld, %lld], found [%lld, %lld]", name,
                       dim_names[rule->rows], dim_names[rule->cols], rows, cols, (long long)t->rows,
                       (long long)t->cols);
}

/* Names come from the family's table, not from outside, and hold at most one %d. */
static void make_name(const struct tensor_rule *rule, int32_t il, char name[NAME_MAX_BYTES])
{
    const char *mark = strstr(rule->gguf, "%d");
    if (mark)
        snprintf(name, NAME_MAX_BYTES, "%.*s%d%s", (int)(mark - rule->gguf), rule->gguf, il,
                 mark + 2);
    else
        snprintf(name, NAME_MAX_BYTES, "%s", rule->gguf);
}

static bool bind_one(struct model_file *f, const struct tensor_rule *rule, int32_t il,
                     struct status *st)
{
    char name[NAME_MAX_BYTES];
    make_name(rule, il, name);
    const struct gguf_tensor *t = gguf_tensor_find(f->gguf, name);
    if (!t && rule->need == OPTIONAL)
        return true;
    if (!t)
        return status_fail(st, STATUS_CORRUPT, "tensor %s is missing", name);
    if (!check_shape(&f->cfg, rule, name, t, st))
        return false;
    f->bound[f->n_bound++] = (struct bound){.rule = rule, .src = t, .il = il};
    return true;
}

static bool bind_rule(struct model_file *f, const struct tensor_rule *rule, struct status *st)
{
    if (rule->slot < W_FIRST_OF_LAYER)
        return bind_one(f, rule, -1, st);
    for (int32_t il = 0; il < f->cfg.n_layers; il++)
        if (!bind_one(f, rule, il, st))
            return false;
    return true;
}

static bool refuse_unknown(const struct model_file *f, struct status *st)
{
    char *known = calloc(gguf_n_tensors(f->gguf), 1);
    if (!known)
        return status_fail(st, STATUS_BUSY, "no memory to check tensor names");
    const struct gguf_tensor *first = gguf_tensor_at(f->gguf, 0);
    for (size_t i = 0; i < f->n_bound; i++)
        known[f->bound[i].src - first] = 1;
    size_t i = 0;
    while (known[i])
        i++;
    free(known);
    return status_fail(st, STATUS_UNSUPPORTED, "tensor %.*s: no weight of this family",
                       (int)first[i].name.n, first[i].name.at);
}

/* Each name of a table is bound at most once, so there are never more than the file has. */
static bool bind_tensors(struct model_file *f, struct status *st)
{
    f->bound = calloc(gguf_n_tensors(f->gguf) + 1, sizeof *f->bound);
    if (!f->bound)
        return status_fail(st, STATUS_BUSY, "no memory to bind %zu tensors",
                           gguf_n_tensors(f->gguf));
    for (size_t i = 0; i < 3 && f->arch->tensors[i]; i++)
        for (const struct tensor_rule *rule = f->arch->tensors[i]; rule->gguf; rule++)
            if (!bind_rule(f, rule, st))
                return false;
    f->cfg.tied = true;
    for (size_t i = 0; i < f->n_bound; i++)
        if (f->bound[i].rule->slot == W_LM_HEAD)
            f->cfg.tied = false;
    return f->n_bound == gguf_n_tensors(f->gguf) || refuse_unknown(f, st);
}

bool model_file_bind(struct model_file *f, struct gguf *g, struct status *st)
{
    *f = (struct model_file){.gguf = g};
    if (find_arch(f, st) && read_config(f, st) && bind_tensors(f, st))
        return true;
    model_file_close(f);
    return false;
}

bool model_file_open(struct model_file *f, const char *path, struct status *st)
{
    *f = (struct model_file){0};
    struct gguf *g = gguf_open(path, st);
    if (!g)
        return false;
    return model_file_bind(f, g, st) || status_wrap(st, "%s", path);
}

void model_file_close(struct model_file *f)
{
    gguf_close(f->gguf);
    free(f->bound);
    *f = (struct model_file){0};
}

/* Loading. */

static bool is_vector(const struct tensor_rule *rule)
{
    return rule->rows == DIM_ONE;
}

static bool one_weight_bytes(const struct bound *b, const struct ops *ops, const struct device *dev,
                             size_t *n_bytes)
{
    if (!is_vector(b->rule))
        *n_bytes = ops->weight_bytes(dev, b->src->dtype, b->src->rows, b->src->cols);
    else if (!size_mul((size_t)b->src->cols, sizeof(float), n_bytes))
        return false;
    return size_align(*n_bytes, WEIGHT_ALIGN, n_bytes);
}

static size_t inv_freq_bytes(const struct model_config *cfg)
{
    return (size_t)cfg->rope_dims / 2 * sizeof(float);
}

bool model_weight_bytes(const struct model_file *f, const struct ops *ops, const struct device *dev,
                        size_t *n_bytes)
{
    if (!size_align(inv_freq_bytes(&f->cfg), WEIGHT_ALIGN, n_bytes))
        return false;
    for (size_t i = 0; i < f->n_bound; i++) {
        size_t n;
        if (!one_weight_bytes(&f->bound[i], ops, dev, &n) || !size_add(*n_bytes, n, n_bytes))
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
    if (!l->order || !l->vector || !l->m->layer || !l->m->tensor)
        return status_fail(st, STATUS_BUSY, "no memory for %zu tensors", n);
    for (size_t i = 0; i < n; i++)
        l->order[i] = &l->f->bound[i];
    qsort(l->order, n, sizeof(const struct bound *), by_place);
    return true;
}

static void load_vector(struct load *l, struct tensor *t, const struct bound *b)
{
    dequantize_row(b->src->dtype, b->src->data, l->vector, b->src->cols);
    l->ops->copy_in(l->dev, t->data, l->vector, (size_t)b->src->cols * sizeof *l->vector);
    t->dtype = DT_F32;
    t->layout = LAYOUT_PLAIN;
}

static void load_one(struct load *l, struct tensor *t, const struct bound *b, void *at)
{
    *t = (struct tensor){
        .data = at, .dtype = b->src->dtype, .rows = b->src->rows, .cols = b->src->cols};
    if (is_vector(b->rule))
        load_vector(l, t, b);
    else
        l->ops->weight_put(l->dev, t, &(struct weight_source){.at = b->src->data, .fd = -1});
    place(l->m, b, t);
}

static bool load_weights(struct load *l, const struct load_progress *progress)
{
    const uint64_t n_total = l->memory.n_total;
    uint64_t told = 0;
    for (size_t i = 0; i < l->f->n_bound; i++) {
        size_t n;
        void *at = one_weight_bytes(l->order[i], l->ops, l->dev, &n)
                       ? arena_take(&l->memory, n, WEIGHT_ALIGN)
                       : NULL;
        if (!at)
            return false;
        load_one(l, &l->m->tensor[i], l->order[i], at);
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
        dequantize_row(b->src->dtype, b->src->data, l->vector, b->src->cols);
        return l->vector;
    }
    return NULL;
}

/* Frequencies in double: at long contexts a position multiplies their error. */
static bool load_inv_freq(struct load *l)
{
    const struct model_config *cfg = &l->f->cfg;
    const float *factor = rope_factors(l);
    void *at = arena_take(&l->memory, inv_freq_bytes(cfg), WEIGHT_ALIGN);
    if (!at)
        return false;
    for (int i = 0; i < cfg->rope_dims / 2; i++) {
        const double f = pow((double)cfg->rope_theta, -2.0 * i / cfg->rope_dims);
        const double scale = (double)cfg->rope_scaling * (factor ? (double)factor[i] : 1.0);
        l->vector[i] = (float)(f / scale);
    }
    l->ops->copy_in(l->dev, at, l->vector, inv_freq_bytes(cfg));
    l->m->inv_freq = at;
    return true;
}

static bool load_all(struct load *l, const struct load_progress *progress, struct status *st)
{
    size_t n_bytes;
    if (!model_weight_bytes(l->f, l->ops, l->dev, &n_bytes))
        return status_fail(st, STATUS_CORRUPT, "the weights do not fit the address space");
    if (!load_prepare(l, st))
        return false;
    void *at = l->ops->mem_take(l->dev, n_bytes, st);
    if (!at)
        return false;
    arena_init(&l->memory, at, n_bytes);
    if (!load_inv_freq(l) || !load_weights(l, progress))
        return status_fail(st, STATUS_CORRUPT, "weights need more than the %zu bytes planned",
                           n_bytes);
    if (!l->ops->weights_done(l->dev, st))
        return false;
    if (!l->m->w[W_LM_HEAD])
        l->m->w[W_LM_HEAD] = l->m->w[W_EMBED];
    gguf_release_pages(l->f->gguf);
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
    *m = (struct model){0};
}
