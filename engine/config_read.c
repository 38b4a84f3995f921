/* config_read.c - what config.json and GGUF metadata have in common. */
#include "engine/config_read.h"

#include <math.h>
#include <string.h>

static void put(struct model_config *cfg, const struct config_rule *rule, double v)
{
    char *at = (char *)cfg + rule->offset;
    const int32_t i = rule->type == F_INT ? (int32_t)v : 0;
    const float x = (float)v;
    if (rule->type == F_INT)
        memcpy(at, &i, sizeof i);
    else
        memcpy(at, &x, sizeof x);
}

void config_init(struct model_config *cfg, const struct arch *arch)
{
    *cfg = (struct model_config){.rope_scaling = 1};
    for (const struct config_rule *rule = arch->config; rule->hf || rule->gguf; rule++)
        put(cfg, rule, rule->absent);
}

bool config_store(struct model_config *cfg, const struct config_rule *rule, const char *key,
                  double v, struct status *st)
{
    if (!(v >= rule->min && v <= rule->max)) /* also refuses NaN */
        return status_fail(st, STATUS_UNSUPPORTED,
                           "key %s: want a value from %.9g to %.9g, found %.9g", key, rule->min,
                           rule->max, v);
    put(cfg, rule, v);
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

void config_fill_local(struct model_config *cfg)
{
    for (int32_t il = 0; il < cfg->n_layers; il++)
        cfg->is_local[il] = cfg->window_pattern > 0 && (il + 1) % cfg->window_pattern != 0;
}

/* A window that no layer looks through is as none. */
static bool check_window(struct model_config *cfg, struct status *st)
{
    int32_t n_local = 0;
    for (int32_t il = 0; il < cfg->n_layers; il++)
        n_local += cfg->is_local[il];
    if (n_local == 0)
        cfg->window = 0;
    return n_local == 0 || cfg->window > 0 ||
           status_fail(st, STATUS_CORRUPT,
                       "%d layers see a window, and no key sliding_window says how wide", n_local);
}

/* The scale is kept in float: where weights are rounded to 16 bits, some implementations round it
 * too, and the reference in float32 does not. */
bool config_finish(struct model_config *cfg, const struct arch *arch, struct status *st)
{
    if (!derive_heads(cfg, st) || !check_window(cfg, st))
        return false;
    cfg->act = arch->act;
    cfg->norm = arch->norm;
    cfg->embed_scale = arch->embed_by_width ? sqrtf((float)cfg->hidden) : 1;
    if (cfg->attn_scalar == 0)
        cfg->attn_scalar = (float)cfg->head_dim;
    cfg->attn_scale = 1 / sqrtf(cfg->attn_scalar);
    return true;
}
