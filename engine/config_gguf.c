/* config_gguf.c - the numbers of a model from GGUF metadata. */
#include "engine/config_read.h"

#include <stdio.h>
#include <string.h>

#include "engine/gguf.h"

enum { KEY_MAX_BYTES = 128 };

static bool find_arch(const struct gguf *g, const struct arch **arch, struct status *st)
{
    struct str name;
    if (!gguf_string(g, "general.architecture", &name, st)) {
        if (st->code == STATUS_OK)
            status_fail(st, STATUS_CORRUPT, "key general.architecture is missing");
        return false;
    }
    for (size_t i = 0; arch_all[i]; i++) {
        if (str_is(name, arch_all[i]->gguf_name)) {
            *arch = arch_all[i];
            return true;
        }
    }
    return status_fail(st, STATUS_UNSUPPORTED, "model family \"%s\" is not supported",
                       str_show(name).text);
}

static void make_key(const struct arch *arch, const char *name, char key[KEY_MAX_BYTES])
{
    snprintf(key, KEY_MAX_BYTES, "%s.%s", arch->gguf_name, name);
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

static bool read_field(const struct gguf *g, const struct arch *arch,
                       const struct config_rule *rule, struct model_config *cfg, struct status *st)
{
    char key[KEY_MAX_BYTES];
    double v;
    make_key(arch, rule->gguf, key);
    if (read_number(g, key, rule->type, &v, st))
        return config_store(cfg, rule, key, v, st);
    if (st->code != STATUS_OK)
        return false;
    if (rule->need == REQUIRED)
        return status_fail(st, STATUS_CORRUPT, "key %s is missing", key);
    return true;
}

static bool read_rope_scaling(const struct gguf *g, const struct arch *arch,
                              struct model_config *cfg, struct status *st)
{
    char key[KEY_MAX_BYTES];
    struct str type;
    double factor = 1;
    make_key(arch, "rope.scaling.type", key);
    if (!gguf_string(g, key, &type, st) || (type.n == 4 && memcmp(type.at, "none", 4) == 0))
        return st->code == STATUS_OK;
    if (type.n != 6 || memcmp(type.at, "linear", 6) != 0)
        return status_fail(st, STATUS_UNSUPPORTED,
                           "key %s: want \"none\" or \"linear\", found another", key);
    make_key(arch, "rope.scaling.factor", key);
    if (!gguf_f64(g, key, &factor, st) && st->code != STATUS_OK)
        return false;
    if (!(factor >= 1 && factor <= 1024))
        return status_fail(st, STATUS_CORRUPT, "key %s: want a value from 1 to 1024, found %.9g",
                           key, factor);
    cfg->rope_scaling = (float)factor;
    return true;
}

bool config_read_gguf(const struct gguf *g, const struct arch **arch, struct model_config *cfg,
                      struct status *st)
{
    if (!find_arch(g, arch, st))
        return false;
    config_init(cfg, *arch);
    for (const struct config_rule *rule = (*arch)->config; rule->hf || rule->gguf; rule++)
        if (rule->gguf && !read_field(g, *arch, rule, cfg, st))
            return false;
    cfg->rope = (*arch)->gguf_rope;
    config_fill_local(cfg);
    if (cfg->n_layers == (*arch)->gguf_layers_scaled_by_share)
        cfg->attn_scalar = (float)(cfg->hidden / cfg->n_heads);
    return read_rope_scaling(g, *arch, cfg, st) && config_finish(cfg, *arch, st);
}
