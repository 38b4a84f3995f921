/* config_hf.c - the numbers of a model from the config.json of a Hugging Face folder.
 *
 * A key that would change what the model computes and that nothing here honours is refused.
 * quantization_config is quant_folder's, or whoever's the weights are. */
#include "engine/config_read.h"

#include <cjson/cJSON.h>

#include "engine/json_file.h"

#define GLOBAL_LAYER "full_attention"
#define LOCAL_LAYER  "sliding_attention"

static bool find_arch(const struct cJSON *config, const struct arch **arch, struct status *st)
{
    const struct cJSON *list = json_value(config, "architectures");
    const struct cJSON *name = cJSON_IsArray(list) ? list->child : NULL;
    if (!cJSON_IsString(name))
        return status_fail(st, STATUS_CORRUPT, "key architectures: want a list of names");
    for (size_t i = 0; arch_all[i]; i++) {
        if (arch_all[i]->hf_name && str_is(str_of(name->valuestring), arch_all[i]->hf_name)) {
            *arch = arch_all[i];
            return true;
        }
    }
    return status_fail(st, STATUS_UNSUPPORTED, "model family \"%.60s\" is not supported",
                       name->valuestring);
}

/* A number, or true and false as 1 and 0; *found is false when there is none. */
static bool read_number(const struct cJSON *object, const char *key, enum field_type type,
                        double *v, bool *found, struct status *st)
{
    const struct cJSON *at = json_value(object, key);
    uint64_t whole;
    *found = at != NULL;
    if (!at)
        return true;
    *v = cJSON_IsBool(at) ? cJSON_IsTrue(at) : at->valuedouble;
    if (cJSON_IsBool(at) || (cJSON_IsNumber(at) && (type == F_FLOAT || json_is_count(at, &whole))))
        return true;
    return status_fail(st, STATUS_CORRUPT, "key %s: want %s, found another value", key,
                       type == F_INT ? "a whole number of at least 0" : "a number");
}

static bool read_field(const struct cJSON *config, const struct config_rule *rule,
                       struct model_config *cfg, struct status *st)
{
    double v;
    bool found;
    if (!read_number(config, rule->hf, rule->type, &v, &found, st))
        return false;
    if (found)
        return config_store(cfg, rule, rule->hf, v, st);
    return rule->need == OPTIONAL || status_fail(st, STATUS_CORRUPT, "key %s is missing", rule->hf);
}

/* Positions. */

static bool read_float(const struct cJSON *rope, const char *key, double min, double max,
                       float *out, struct status *st)
{
    double v;
    bool found;
    if (!read_number(rope, key, F_FLOAT, &v, &found, st))
        return false;
    if (!found)
        return status_fail(st, STATUS_CORRUPT, "key %s is missing", key);
    if (!(v >= min && v <= max))
        return status_fail(st, STATUS_CORRUPT, "key %s: want a value from %.9g to %.9g, found %.9g",
                           key, min, max, v);
    *out = (float)v;
    return true;
}

static bool read_bands(const struct cJSON *rope, struct model_config *cfg, struct status *st)
{
    if (!read_float(rope, "low_freq_factor", 1e-3, 1024, &cfg->rope_low_factor, st) ||
        !read_float(rope, "high_freq_factor", 1e-3, 1024, &cfg->rope_high_factor, st) ||
        !read_float(rope, "original_max_position_embeddings", 1, 1 << 24, &cfg->rope_context, st))
        return false;
    return cfg->rope_low_factor < cfg->rope_high_factor ||
           status_fail(st, STATUS_CORRUPT, "want low_freq_factor below high_freq_factor");
}

static bool read_scaling(const struct cJSON *rope, struct model_config *cfg, struct status *st)
{
    struct str type = str_of("default");
    if (!json_text(rope, "rope_type", &type, st) && st->code == STATUS_OK)
        json_text(rope, "type", &type, st); /* as older files have it */
    if (st->code != STATUS_OK)
        return false;
    if (str_is(type, "default") || str_is(type, "none"))
        return true;
    const bool has_bands = str_is(type, "llama3"); /* the name of the method, in any family */
    if (!has_bands && !str_is(type, "linear"))
        return status_fail(st, STATUS_UNSUPPORTED,
                           "want rope_type default, linear or llama3, found %.40s", type.at);
    return read_float(rope, "factor", 1, 1024, &cfg->rope_scaling, st) &&
           (!has_bands || read_bands(rope, cfg, st));
}

static bool read_theta(const struct cJSON *rope, float *theta, struct status *st)
{
    return !json_value(rope, "rope_theta") || read_float(rope, "rope_theta", 1, 1e12, theta, st);
}

static bool read_local(const struct cJSON *rope, struct model_config *cfg, struct status *st)
{
    struct model_config scaled = {.rope_scaling = 1};
    if (!read_theta(rope, &cfg->rope_theta_local, st) || !read_scaling(rope, &scaled, st))
        return false;
    return scaled.rope_scaling == 1 ||
           status_fail(st, STATUS_UNSUPPORTED, "want rope_type default where a window is seen");
}

/* An object for each type of layer. */
static bool read_rope_by_type(const struct cJSON *types, struct model_config *cfg,
                              struct status *st)
{
    for (const struct cJSON *t = types->child; t; t = t->next) {
        const struct str type = str_of(t->string);
        const bool is_local = str_is(type, LOCAL_LAYER);
        if (!cJSON_IsObject(t) || !(is_local || str_is(type, GLOBAL_LAYER)))
            return status_fail(st, STATUS_UNSUPPORTED, "want objects %s and %s, found %.40s",
                               GLOBAL_LAYER, LOCAL_LAYER, type.at);
        if (is_local ? !read_local(t, cfg, st)
                     : !read_theta(t, &cfg->rope_theta, st) || !read_scaling(t, cfg, st))
            return status_wrap(st, "%s", type.at);
    }
    return true;
}

/* rope_parameters as transformers 5 writes it holds the base too; before, rope_scaling did not, and
 * was never for local layers. */
static bool read_rope(const struct cJSON *config, struct model_config *cfg, struct status *st)
{
    static const char *const keys[] = {"rope_parameters", "rope_scaling"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        const struct cJSON *rope = json_value(config, keys[i]);
        if (!rope)
            continue;
        const bool by_type = cfg->window_pattern > 0 && i == 0;
        if (!cJSON_IsObject(rope) || (!by_type && cJSON_IsObject(rope->child)))
            return status_fail(st, STATUS_UNSUPPORTED, "key %s: want one object for all layers",
                               keys[i]);
        if (by_type ? !read_rope_by_type(rope, cfg, st)
                    : !read_theta(rope, &cfg->rope_theta, st) || !read_scaling(rope, cfg, st))
            return status_wrap(st, "key %s", keys[i]);
        return true;
    }
    return true;
}

/* Which layers are local. */

static bool read_layer_type(const struct cJSON *type, bool *is_local, struct status *st)
{
    const struct str name = str_of(cJSON_IsString(type) ? type->valuestring : "no name");
    *is_local = str_is(name, LOCAL_LAYER);
    return *is_local || str_is(name, GLOBAL_LAYER) ||
           status_fail(st, STATUS_UNSUPPORTED, "key layer_types: want %s or %s, found %.40s",
                       GLOBAL_LAYER, LOCAL_LAYER, name.at);
}

/* In families whose layers may differ, a list of their types comes before the pattern, with which
 * it must agree if the file has both. */
static bool read_layer_types(const struct cJSON *config, struct model_config *cfg,
                             struct status *st)
{
    const struct cJSON *list = json_value(config, "layer_types");
    const bool has_pattern = json_value(config, "sliding_window_pattern") != NULL;
    config_fill_local(cfg);
    if (!list || cfg->window_pattern == 0)
        return true;
    if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) != cfg->n_layers)
        return status_fail(st, STATUS_CORRUPT, "key layer_types: want a list of %d types",
                           cfg->n_layers);
    int32_t il = 0;
    for (const struct cJSON *type = list->child; type; type = type->next, il++) {
        const bool by_pattern = cfg->is_local[il];
        if (!read_layer_type(type, &cfg->is_local[il], st))
            return false;
        if (has_pattern && cfg->is_local[il] != by_pattern)
            return status_fail(st, STATUS_CORRUPT,
                               "key layer_types: layer %d is %s, which sliding_window_pattern = %d "
                               "does not say",
                               il, type->valuestring, cfg->window_pattern);
    }
    return true;
}

/* What would change the model. */

/* The function has one of two names for a key; where the file has both, both must say it. */
static bool check_act_key(const struct cJSON *config, const char *key, const struct arch *arch,
                          struct status *st)
{
    static const char *const names[] = {[ACT_SILU] = "silu",
                                        [ACT_GELU] = "gelu",
                                        [ACT_GELU_TANH] = "gelu_pytorch_tanh",
                                        [ACT_RELU] = "relu"};
    struct str act = str_of(names[arch->act]);
    if (!json_text(config, key, &act, st) && st->code != STATUS_OK)
        return false;
    return str_is(act, names[arch->act]) ||
           status_fail(st, STATUS_UNSUPPORTED, "key %s: want %s, found %.40s", key,
                       names[arch->act], act.at);
}

static bool check_act(const struct cJSON *config, const struct arch *arch, struct status *st)
{
    return check_act_key(config, "hidden_act", arch, st) &&
           check_act_key(config, "hidden_activation", arch, st);
}

static bool check_keys(const struct cJSON *config, struct status *st)
{
    bool window;
    double part = 1;
    bool found;
    if (!json_flag(config, "use_sliding_window", false, &window, st) ||
        !read_number(config, "partial_rotary_factor", F_FLOAT, &part, &found, st))
        return false;
    if (window)
        return status_fail(st, STATUS_UNSUPPORTED,
                           "key use_sliding_window: want false, found true");
    return part == 1 || status_fail(st, STATUS_UNSUPPORTED,
                                    "key partial_rotary_factor: want 1, found %.9g", part);
}

bool config_read_hf(const struct cJSON *config, const struct arch **arch, struct model_config *cfg,
                    struct status *st)
{
    if (!find_arch(config, arch, st))
        return false;
    config_init(cfg, *arch);
    for (const struct config_rule *rule = (*arch)->config; rule->hf || rule->gguf; rule++)
        if (rule->hf && !read_field(config, rule, cfg, st))
            return false;
    cfg->rope = (*arch)->hf_rope;
    return check_act(config, *arch, st) && check_keys(config, st) &&
           json_flag(config, "tie_word_embeddings", (*arch)->tied, &cfg->tied, st) &&
           read_rope(config, cfg, st) && read_layer_types(config, cfg, st) &&
           config_finish(cfg, *arch, st);
}
