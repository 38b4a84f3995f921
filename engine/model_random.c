/* model_random.c - a model of a given shape whose weights are random. */
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "engine/config_read.h"
#include "engine/json_file.h"
#include "engine/weights_random.h"

enum { CONFIG_BYTES_MAX = 1 << 20, VALUE_BYTES = 2, RULES_MAX = 64 };

/* path is a folder with a config.json, or that file by any name. */
static struct cJSON *read_config(const char *path, struct status *st)
{
    char folder[PATH_BYTES_MAX];
    if (model_path_is_folder(path))
        return json_file_read(path, "config.json", CONFIG_BYTES_MAX, st);
    const char *slash = strrchr(path, '/');
    const size_t n = slash ? (size_t)(slash - path) + 1 : 0;
    if (n >= sizeof folder) {
        status_fail(st, STATUS_BAD_INPUT, "the path is too long");
        return NULL;
    }
    memcpy(folder, path, n);
    folder[n] = '\0';
    return json_file_read(n ? folder : ".", path + n, CONFIG_BYTES_MAX, st);
}

static bool is_wanted(const struct model_file *f, const struct tensor_rule *rule)
{
    return rule->hf && (rule->slot == W_LM_HEAD ? !f->cfg.tied : rule->need == REQUIRED);
}

static int list_rules(const struct model_file *f, const struct tensor_rule *list[RULES_MAX])
{
    int n = 0;
    for (int i = 0; i < 3 && f->arch->tensors[i]; i++)
        for (const struct tensor_rule *r = f->arch->tensors[i]; r->hf || r->gguf; r++)
            if (is_wanted(f, r) && n < RULES_MAX)
                list[n++] = r;
    return n;
}

static size_t rule_bytes(const struct model_file *f, const struct tensor_rule *rule)
{
    return (size_t)model_dim(&f->cfg, rule->rows) * (size_t)model_dim(&f->cfg, rule->cols) *
           VALUE_BYTES; /* each dimension is below 2^30 */
}

static void bind(struct model_file *f, const struct tensor_rule *rule, int32_t il)
{
    const struct weight *w = weights_random_add(f->random, rule->hf, model_dim(&f->cfg, rule->rows),
                                                model_dim(&f->cfg, rule->cols));
    f->bound[f->n_bound++] = (struct bound){.rule = rule, .src = w, .il = il};
}

static bool bind_random(struct model_file *f, enum dtype dtype, struct status *st)
{
    const struct tensor_rule *list[RULES_MAX];
    const int n = list_rules(f, list);
    const size_t n_max = (size_t)n * (size_t)f->cfg.n_layers;
    size_t largest = 0;
    for (int i = 0; i < n; i++)
        if (rule_bytes(f, list[i]) > largest)
            largest = rule_bytes(f, list[i]);
    f->random = weights_random_open(dtype, n_max, largest, st);
    f->bound = calloc(n_max + 1, sizeof *f->bound);
    if (!f->random || !f->bound)
        return f->random ? status_fail(st, STATUS_BUSY, "no memory for %zu weights", n_max) : false;
    for (int i = 0; i < n; i++) {
        const bool once = list[i]->slot < W_FIRST_OF_LAYER;
        for (int32_t il = once ? -1 : 0; il < (once ? 0 : f->cfg.n_layers); il++)
            bind(f, list[i], il);
    }
    return true;
}

static enum dtype dtype_of(const struct cJSON *config)
{
    struct status none = {0};
    struct str name = str_of("");
    if (!json_text(config, "dtype", &name, &none))
        json_text(config, "torch_dtype", &name, &none);
    return str_is(name, "float16") ? DT_F16 : DT_BF16;
}

static bool open_shape(struct model_file *f, const struct cJSON *config, struct status *st)
{
    if (!config_read_hf(config, &f->arch, &f->cfg, st))
        return false;
    if (json_value(config, "quantization_config"))
        return status_fail(st, STATUS_UNSUPPORTED,
                           "key quantization_config: random weights are not quantized");
    if (f->cfg.vocab == 0)
        return status_fail(st, STATUS_CORRUPT, "key vocab_size is missing");
    return bind_random(f, dtype_of(config), st);
}

bool model_file_open_random(struct model_file *f, const char *path, struct status *st)
{
    *f = (struct model_file){0};
    struct cJSON *config = read_config(path, st);
    if (!config && st->code == STATUS_OK)
        status_fail(st, STATUS_IO, "no config.json there");
    const bool ok = config && open_shape(f, config, st);
    cJSON_Delete(config);
    if (ok)
        return true;
    model_file_close(f);
    return status_wrap(st, "%.100s", path);
}
