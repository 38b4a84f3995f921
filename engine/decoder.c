/* decoder.c - embed, then attention and feed-forward per layer, then the head. */
#include "engine/decoder.h"

#include <assert.h>

#include "base/arena.h"
#include "base/checked.h"

enum { ALIGN = 64, N_ARRAYS = 10 };

struct array { /* one activation */
    float **at;
    int64_t rows, width;
};

static void list_arrays(struct decoder *d, const struct model_config *cfg,
                        const struct step_limits *limits, struct array list[N_ARRAYS])
{
    const int64_t n = limits->step_tokens_max;
    const int64_t q = (int64_t)cfg->n_heads * cfg->head_dim;
    const int64_t kv = (int64_t)cfg->n_kv_heads * cfg->head_dim;
    const struct array all[N_ARRAYS] = {
        {&d->x, n, cfg->hidden},
        {&d->norm, n, cfg->hidden},
        {&d->q, n, q},
        {&d->attn, n, q},
        {&d->k, n, kv},
        {&d->v, n, kv},
        {&d->gate, n, cfg->ffn},
        {&d->up, n, cfg->ffn},
        {&d->head, DECODER_LOGIT_ROWS_MAX, cfg->hidden},
        {&d->logits, DECODER_LOGIT_ROWS_MAX, cfg->vocab},
    };
    for (int i = 0; i < N_ARRAYS; i++)
        list[i] = all[i];
}

static bool array_bytes(const struct array *a, size_t *n_bytes)
{
    return size_mul((size_t)a->rows, (size_t)a->width * sizeof(float), n_bytes) &&
           size_align(*n_bytes, ALIGN, n_bytes);
}

bool decoder_bytes(const struct model_config *cfg, const struct step_limits *limits,
                   size_t *n_bytes)
{
    struct decoder none;
    struct array list[N_ARRAYS];
    list_arrays(&none, cfg, limits, list);
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
    list_arrays(d, &d->model->cfg, limits, list);
    for (int i = 0; i < N_ARRAYS; i++) {
        size_t n;
        if (!array_bytes(&list[i], &n))
            return false;
        *list[i].at = arena_take(activations, n, ALIGN);
        if (!*list[i].at)
            return false;
    }
    return true;
}

static const float *vector(const struct tensor *w)
{
    return w ? w->data : NULL;
}

/* clang-format off: argument structs are read in lines, as a call is. */

static void normalize(struct decoder *d, float *y, const float *x, const struct tensor *w, int rows)
{
    const struct model_config *cfg = &d->model->cfg;
    d->ops->norm(d->dev, &(struct norm_args){
        .y = y, .x = x, .w = vector(w), .rows = rows, .width = cfg->hidden, .kind = cfg->norm,
        .eps = cfg->norm_eps});
}

/* x += attention(norm(x)) */
static void attend(struct decoder *d, int il, const struct batch *b)
{
    const struct model_config *cfg = &d->model->cfg;
    const struct tensor *const *w = d->model->layer[il].w;
    const int n = b->n_tokens;

    normalize(d, d->norm, d->x, w[W_ATTN_NORM], n);
    d->ops->matmul(d->dev, &(struct matmul_args){
        .x = d->norm, .rows = n, .n_outs = 3,
        .out = {{.y = d->q, .w = w[W_Q], .bias = vector(w[W_Q_BIAS])},
                {.y = d->k, .w = w[W_K], .bias = vector(w[W_K_BIAS])},
                {.y = d->v, .w = w[W_V], .bias = vector(w[W_V_BIAS])}}});
    d->ops->rope_kv(d->dev, &(struct rope_kv_args){
        .q = d->q, .k = d->k, .v = d->v, .q_norm = vector(w[W_Q_NORM]),
        .k_norm = vector(w[W_K_NORM]), .norm_eps = cfg->norm_eps, .batch = b, .kv = &d->kv,
        .layer = il, .n_heads = cfg->n_heads, .rope = cfg->rope, .rope_dims = cfg->rope_dims,
        .inv_freq = d->model->inv_freq, .rope_scale = 1});
    d->ops->attention(d->dev, &(struct attention_args){
        .out = d->attn, .q = d->q, .batch = b, .kv = &d->kv, .layer = il,
        .n_heads = cfg->n_heads, .scale = cfg->attn_scale});
    d->ops->matmul(d->dev, &(struct matmul_args){
        .x = d->attn, .rows = n, .n_outs = 1,
        .out = {{.y = d->x, .w = w[W_O], .bias = vector(w[W_O_BIAS]), .add = d->x}}});
}

/* x += feed_forward(norm(x)) */
static void feed_forward(struct decoder *d, int il, int n)
{
    const struct model_config *cfg = &d->model->cfg;
    const struct tensor *const *w = d->model->layer[il].w;

    normalize(d, d->norm, d->x, w[W_FFN_NORM], n);
    d->ops->matmul(d->dev, &(struct matmul_args){
        .x = d->norm, .rows = n, .n_outs = 2,
        .out = {{.y = d->gate, .w = w[W_GATE]}, {.y = d->up, .w = w[W_UP]}}});
    d->ops->act(d->dev, &(struct act_args){
        .y = d->gate, .gate = d->gate, .up = d->up, .rows = n, .width = cfg->ffn,
        .kind = cfg->act});
    d->ops->matmul(d->dev, &(struct matmul_args){
        .x = d->gate, .rows = n, .n_outs = 1,
        .out = {{.y = d->x, .w = w[W_DOWN], .add = d->x}}});
}

void decoder_forward(struct decoder *d, const struct batch *b)
{
    const struct model_config *cfg = &d->model->cfg;
    d->ops->embed(d->dev, &(struct embed_args){
        .out = d->x, .table = d->model->w[W_EMBED], .ids = b->token_ids, .n = b->n_tokens,
        .scale = cfg->embed_scale});
    for (int il = 0; il < cfg->n_layers; il++) {
        attend(d, il, b);
        feed_forward(d, il, b->n_tokens);
    }
}

/* The head's input is rounded finely: nothing after it would even out the error, and of the fast
 * path's divergence from the exact one it was almost a third. */
void decoder_logits(struct decoder *d, const int32_t *rows, int n)
{
    const struct model_config *cfg = &d->model->cfg;
    assert(n <= DECODER_LOGIT_ROWS_MAX);
    d->ops->gather(d->dev, &(struct gather_args){
        .y = d->head, .x = d->x, .rows = rows, .n = n, .width = cfg->hidden});
    normalize(d, d->head, d->head, d->model->w[W_FINAL_NORM], n);
    d->ops->matmul(d->dev, &(struct matmul_args){
        .x = d->head, .rows = n, .fine = true, .n_outs = 1,
        .out = {{.y = d->logits, .w = d->model->w[W_LM_HEAD]}}});
}
/* clang-format on */
