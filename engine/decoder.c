/* decoder.c - embed, then attention and feed-forward per layer, then the head. */
#include "engine/decoder.h"

#include <string.h>

#include "base/arena.h"
#include "base/checked.h"

enum { ALIGN = 256, N_ARRAYS = 6, HEADS_MIN = 64, HEADS_MAX = 256 };

struct array {
    void **at;
    int64_t rows, width;
    enum dtype dtype;
};

/* A row for each sequence, within what logits may take; scoring a prompt wants many even so. */
int32_t decoder_heads_max(const struct step_limits *limits)
{
    const int32_t n = limits->seqs_max;
    return n < HEADS_MIN ? HEADS_MIN : n > HEADS_MAX ? HEADS_MAX : n;
}

static int64_t q_width(const struct model_config *cfg)
{
    return (int64_t)cfg->n_heads * cfg->head_dim;
}

static int64_t qkv_width(const struct model_config *cfg)
{
    return q_width(cfg) + 2 * (int64_t)cfg->n_kv_heads * cfg->head_dim;
}

static void list_arrays(struct decoder *d, const struct model_config *cfg,
                        const struct step_limits *limits, enum dtype act,
                        struct array list[N_ARRAYS])
{
    const int64_t n = limits->step_tokens_max;
    const struct array all[N_ARRAYS] = {
        {&d->x, n, cfg->hidden, act},
        {&d->qkv, n, qkv_width(cfg) > cfg->hidden ? qkv_width(cfg) : cfg->hidden, act},
        {&d->attn, n, q_width(cfg), act},
        {&d->gate, n, cfg->ffn, act},
        {&d->part, n, cfg->n_ranks > 1 ? cfg->hidden : 0, act},
        {(void **)&d->logits, decoder_heads_max(limits), model_is_last_stage(cfg) ? cfg->vocab : 0,
         DT_F32},
    };
    for (int i = 0; i < N_ARRAYS; i++)
        list[i] = all[i];
}

static bool array_bytes(const struct array *a, size_t *n_bytes)
{
    const size_t value = (size_t)dtype_traits[a->dtype].block_bytes;
    return size_mul((size_t)a->rows, (size_t)a->width * value, n_bytes) &&
           size_align(*n_bytes, ALIGN, n_bytes);
}

bool decoder_bytes(const struct model_config *cfg, const struct step_limits *limits, enum dtype act,
                   size_t *n_bytes)
{
    struct decoder none;
    struct array list[N_ARRAYS];
    list_arrays(&none, cfg, limits, act, list);
    *n_bytes = 0;
    for (int i = 0; i < N_ARRAYS; i++) {
        size_t n;
        if (!array_bytes(&list[i], &n) || !size_add(*n_bytes, n, n_bytes))
            return false;
    }
    return true;
}

bool decoder_init(struct decoder *d, const struct step_limits *limits, struct arena *activations)
{
    struct array list[N_ARRAYS];
    list_arrays(d, &d->model->cfg, limits, d->ops->act_dtype(d->dev), list);
    for (int i = 0; i < N_ARRAYS; i++) {
        size_t n;
        if (!array_bytes(&list[i], &n))
            return false;
        void *at = n > 0 ? arena_take(activations, n, ALIGN) : NULL;
        if (n > 0 && !at)
            return false;
        memcpy(list[i].at, &at, sizeof at);
    }
    return true;
}

/* Value i of an array of activations. */
static void *value_at(const struct decoder *d, void *x, int64_t i)
{
    return (char *)x + i * dtype_traits[d->ops->act_dtype(d->dev)].block_bytes;
}

static struct norm norm_by(const struct decoder *d, const struct tensor *w)
{
    const struct model_config *cfg = &d->model->cfg;
    return (struct norm){.kind = cfg->norm, .w = w ? w->data : NULL, .eps = cfg->norm_eps};
}

static const float *vector(const struct tensor *w)
{
    return w ? w->data : NULL;
}

/* clang-format off: argument structs are read in lines, as a call is. */

/* y = add + what the ranks have in `part`. */
static void sum_parts(struct decoder *d, int n, void *y, const void *add)
{
    d->ops->all_reduce(d->dev, &(struct all_reduce_args){
        .y = y, .x = d->part, .add = add, .rows = n, .width = d->model->cfg.hidden});
}

/* x += y w^T, or, where the family norms what a part puts out, x += norm(y w^T).  Ranks have some
 * columns of w each, and the first of them the bias. */
static void add_to_x(struct decoder *d, int n, const void *y, const struct tensor *w,
                     const struct tensor *bias, const struct tensor *out_norm)
{
    void *sum = out_norm ? d->qkv : d->x;
    const void *add = out_norm ? NULL : d->x;
    const bool alone = !d->part;
    d->ops->matmul(d->dev, &(struct matmul_args){
        .x = y, .rows = n, .n_outs = 1,
        .out = {{.y = alone ? sum : d->part, .w = w, .bias = vector(bias),
                 .add = alone ? add : NULL}}});
    if (!alone)
        sum_parts(d, n, sum, add);
    if (out_norm)
        d->ops->norm(d->dev, &(struct norm_args){
            .y = d->x, .x = sum, .rows = n, .width = d->model->cfg.hidden,
            .norm = norm_by(d, out_norm), .add = d->x});
}

/* x += attention(norm(x)) */
static void attend(struct decoder *d, int il, int n)
{
    const struct model_config *cfg = &d->model->cfg;
    const struct tensor *const *w = d->model->layer[il].w;
    const struct norm norm = norm_by(d, w[W_ATTN_NORM]);
    const bool is_local = cfg->is_local[il];
    const int stride = (int)qkv_width(cfg);
    void *q = d->qkv;
    void *k = value_at(d, q, q_width(cfg));
    void *v = value_at(d, k, (int64_t)cfg->n_kv_heads * cfg->head_dim);

    d->ops->matmul_rope_kv(d->dev, &(struct matmul_args){
        .x = d->x, .rows = n, .norm = &norm, .n_outs = 3,
        .out = {{.y = q, .y_stride = stride, .w = w[W_Q], .bias = vector(w[W_Q_BIAS])},
                {.y = k, .y_stride = stride, .w = w[W_K], .bias = vector(w[W_K_BIAS])},
                {.y = v, .y_stride = stride, .w = w[W_V], .bias = vector(w[W_V_BIAS])}}},
        &(struct rope_kv_args){
        .q = q, .k = k, .v = v, .stride = stride, .q_norm = vector(w[W_Q_NORM]),
        .k_norm = vector(w[W_K_NORM]), .norm_eps = cfg->norm_eps, .kv = &d->kv, .layer = il,
        .n_heads = cfg->n_heads, .rope = cfg->rope, .rope_dims = cfg->rope_dims,
        .inv_freq = is_local ? d->model->inv_freq_local : d->model->inv_freq, .rope_scale = 1});
    d->ops->attention(d->dev, &(struct attention_args){
        .out = d->attn, .q = q, .q_stride = stride, .kv = &d->kv, .layer = il,
        .n_heads = cfg->n_heads, .scale = cfg->attn_scale,
        .window = is_local ? cfg->window : 0});
    add_to_x(d, n, d->attn, w[W_O], w[W_O_BIAS], w[W_ATTN_OUT_NORM]);
}

/* x += feed_forward(norm(x)) */
static void feed_forward(struct decoder *d, int il, int n)
{
    const struct tensor *const *w = d->model->layer[il].w;
    const struct norm norm = norm_by(d, w[W_FFN_NORM]);

    d->ops->matmul(d->dev, &(struct matmul_args){
        .x = d->x, .rows = n, .norm = &norm, .act = d->model->cfg.act, .n_outs = 2,
        .out = {{.y = d->gate, .w = w[W_GATE], .bias = vector(w[W_GATE_BIAS])},
                {.w = w[W_UP], .bias = vector(w[W_UP_BIAS])}}});
    add_to_x(d, n, d->gate, w[W_DOWN], w[W_DOWN_BIAS], w[W_FFN_OUT_NORM]);
}

/* Each token's row of the table. */
static void embed(struct decoder *d, int n)
{
    const struct model_config *cfg = &d->model->cfg;
    d->ops->embed(d->dev, &(struct embed_args){
        .out = d->part ? d->part : d->x, .table = d->model->w[W_EMBED], .scale = cfg->embed_scale,
        .first = cfg->vocab_split[cfg->rank]});
    if (d->part) /* each token's row is in one part, zero in the others */
        sum_parts(d, n, d->x, NULL);
}

void decoder_forward(struct decoder *d, int n_tokens)
{
    const struct model_config *cfg = &d->model->cfg;
    const struct pass_args pass = {.x = d->x, .rows = n_tokens, .width = cfg->hidden};
    if (model_is_first_stage(cfg))
        embed(d, n_tokens);
    else
        d->ops->recv(d->dev, &pass);
    for (int il = 0; il < cfg->n_layers; il++) {
        attend(d, il, n_tokens);
        feed_forward(d, il, n_tokens);
    }
    if (!model_is_last_stage(cfg))
        d->ops->send(d->dev, &pass);
}

void decoder_head(struct decoder *d, int first, int n)
{
    const struct norm norm = norm_by(d, d->model->w[W_FINAL_NORM]);
    d->ops->head(d->dev, &(struct head_args){
        .logits = d->logits, .x = d->x, .first = first, .n = n, .norm = &norm,
        .w = d->model->w[W_LM_HEAD],
        .split = d->part ? d->model->cfg.vocab_split : NULL});
}
/* clang-format on */
