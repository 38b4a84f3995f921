/* model_file.c - binds a checkpoint, a GGUF file or a folder, to its family's tables.
 *
 * What a family needs is in engine/arch; this file only reads tables. */
#include "engine/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cjson/cJSON.h>

#include "engine/config_read.h"
#include "engine/gguf.h"
#include "engine/json_file.h"
#include "engine/quant_folder.h"
#include "engine/quant_load.h"
#include "engine/safetensors.h"
#include "engine/weights_random.h"

enum { NAME_MAX_BYTES = 96, CONFIG_BYTES_MAX = 1 << 20, VOCAB_MAX = 1 << 24 };

static const char *const dim_names[DIM_N] = {
    [DIM_ONE] = "1",         [DIM_VOCAB] = "vocab",
    [DIM_HIDDEN] = "hidden", [DIM_Q] = "q",
    [DIM_KV] = "kv",         [DIM_FFN] = "ffn",
    [DIM_HEAD] = "head_dim", [DIM_ROPE_HALF] = "rope_dims / 2",
};

/* The kinds of file. */

size_t model_file_n_weights(const struct model_file *f)
{
    if (f->random)
        return weights_random_n(f->random);
    if (f->quant_folder)
        return quant_folder_n(f->quant_folder);
    return f->gguf ? gguf_n_tensors(f->gguf) : safetensors_n(f->folder);
}

const struct weight *model_file_weight(const struct model_file *f, size_t i)
{
    if (f->random)
        return weights_random_at(f->random, i);
    if (f->quant_folder)
        return quant_folder_at(f->quant_folder, i);
    return f->gguf ? gguf_tensor_at(f->gguf, i) : safetensors_at(f->folder, i);
}

size_t model_file_bytes(const struct model_file *f)
{
    if (f->random)
        return weights_random_bytes(f->random);
    return f->gguf ? gguf_file_bytes(f->gguf) : safetensors_file_bytes(f->folder);
}

void model_file_release(const struct model_file *f)
{
    if (f->gguf)
        gguf_release_pages(f->gguf);
    else if (f->folder)
        safetensors_release_pages(f->folder);
}

static const char *name_of(const struct model_file *f, const struct tensor_rule *rule)
{
    return f->gguf ? rule->gguf : rule->hf;
}

static const struct weight *find(const struct model_file *f, const char *name)
{
    if (f->quant_folder)
        return quant_folder_find(f->quant_folder, name);
    return f->gguf ? gguf_tensor_find(f->gguf, name) : safetensors_find(f->folder, name);
}

static const struct tensor_rule *rule_of(const struct model_file *f, enum slot slot)
{
    const struct tensor_rule *rule = f->arch->tensors[0];
    while (rule->slot != slot)
        rule++;
    return rule;
}

/* The embedding table says how many tokens there are; whatever else counts them must agree. */
static bool derive_vocab(struct model_file *f, struct status *st)
{
    struct model_config *cfg = &f->cfg;
    const char *name = name_of(f, rule_of(f, W_EMBED));
    const struct weight *embed = find(f, name);
    if (!embed)
        return status_fail(st, STATUS_CORRUPT, "tensor %s is missing", name);
    if (embed->rows > VOCAB_MAX)
        return status_fail(st, STATUS_UNSUPPORTED, "tensor %s: want at most %d rows, found %lld",
                           name, VOCAB_MAX, (long long)embed->rows);
    if (cfg->vocab != 0 && cfg->vocab != embed->rows)
        return status_fail(st, STATUS_CORRUPT, "tensor %s: want [vocab] = [%d] rows, found %lld",
                           name, cfg->vocab, (long long)embed->rows);
    cfg->vocab = (int32_t)embed->rows;
    return true;
}

static bool check_tokens(const struct model_file *f, struct status *st)
{
    struct gguf_array tokens;
    if (!f->gguf || !gguf_array(f->gguf, "tokenizer.ggml.tokens", GGUF_STRINGS, &tokens, st))
        return st->code == STATUS_OK;
    if (tokens.n > (size_t)f->cfg.vocab)
        return status_fail(st, STATUS_CORRUPT,
                           "key tokenizer.ggml.tokens: want at most vocab = %d, found %zu",
                           f->cfg.vocab, tokens.n);
    return true;
}

/* The tensors. */

int64_t model_dim(const struct model_config *cfg, enum dim dim)
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
                        const char *name, const struct weight *t, struct status *st)
{
    const long long rows = model_dim(cfg, rule->rows), cols = model_dim(cfg, rule->cols);
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
int model_name(const char *pattern, int32_t il, char *name, size_t size)
{
    const char *mark = strstr(pattern, "%d");
    if (!mark)
        return snprintf(name, size, "%s", pattern);
    return snprintf(name, size, "%.*s%d%s", (int)(mark - pattern), pattern, il, mark + 2);
}

static void make_name(const char *pattern, int32_t il, char name[NAME_MAX_BYTES])
{
    model_name(pattern, il, name, NAME_MAX_BYTES);
}

/* A GGUF file ties the output to the embedding by having no output.  config.json says whether it
 * does, and an output that the file then has all the same is that table again. */
static bool is_bound(const struct model_file *f, const struct tensor_rule *rule)
{
    return name_of(f, rule) && (f->gguf || rule->slot != W_LM_HEAD || !f->cfg.tied);
}

static bool is_required(const struct model_file *f, const struct tensor_rule *rule)
{
    return rule->need == REQUIRED || (!f->gguf && rule->slot == W_LM_HEAD);
}

static bool bind_one(struct model_file *f, const struct tensor_rule *rule, int32_t il,
                     struct status *st)
{
    char name[NAME_MAX_BYTES];
    make_name(name_of(f, rule), il, name);
    const struct weight *w = find(f, name);
    if (!w)
        return !is_required(f, rule) ||
               status_fail(st, STATUS_CORRUPT, "tensor %s is missing", name);
    if (!check_shape(&f->cfg, rule, name, w, st))
        return false;
    f->bound[f->n_bound++] = (struct bound){.rule = rule, .src = w, .il = il};
    return true;
}

static bool bind_rule(struct model_file *f, const struct tensor_rule *rule, struct status *st)
{
    if (!is_bound(f, rule))
        return true;
    if (rule->slot < W_FIRST_OF_LAYER)
        return bind_one(f, rule, -1, st);
    const size_t first = f->n_bound;
    for (int32_t il = 0; il < f->cfg.n_layers; il++)
        if (!bind_one(f, rule, il, st))
            return false;
    const size_t n = f->n_bound - first;
    if (n == 0 || n == (size_t)f->cfg.n_layers)
        return true;
    char name[NAME_MAX_BYTES];
    make_name(name_of(f, rule), 0, name);
    return status_fail(st, STATUS_CORRUPT,
                       "tensor %s: want it and its like in all %d layers or none, found %zu", name,
                       f->cfg.n_layers, n);
}

/* Buffers that old folders carry and that follow from the configuration, and a tied output. */
static bool is_known(const struct model_file *f, const struct weight *w)
{
    static const char end[] = "rotary_emb.inv_freq";
    const size_t n = sizeof end - 1;
    if (f->gguf)
        return false;
    return (w->name.n > n && memcmp(w->name.at + w->name.n - n, end, n) == 0) ||
           (f->cfg.tied && str_is(w->name, rule_of(f, W_LM_HEAD)->hf));
}

static bool refuse_unknown(const struct model_file *f, struct status *st)
{
    const size_t n = model_file_n_weights(f);
    char *known = calloc(n + 1, 1);
    if (!known)
        return status_fail(st, STATUS_BUSY, "no memory to check tensor names");
    const struct weight *first = model_file_weight(f, 0);
    for (size_t i = 0; i < f->n_bound; i++)
        known[f->bound[i].src - first] = 1;
    size_t i = 0;
    while (i < n && (known[i] || is_known(f, &first[i])))
        i++;
    free(known);
    if (i == n)
        return true;
    return status_fail(st, STATUS_UNSUPPORTED, "tensor %s: no weight of this family",
                       str_show(first[i].name).text);
}

static bool has_slot(const struct model_file *f, enum slot slot)
{
    for (size_t i = 0; i < f->n_bound; i++)
        if (f->bound[i].rule->slot == slot)
            return true;
    return false;
}

/* Each name of a table is bound at most once, so there are never more than the file has. */
static bool bind_tensors(struct model_file *f, struct status *st)
{
    const size_t n = model_file_n_weights(f);
    f->bound = calloc(n + 1, sizeof *f->bound);
    if (!f->bound)
        return status_fail(st, STATUS_BUSY, "no memory to bind %zu tensors", n);
    for (size_t i = 0; i < 3 && f->arch->tensors[i]; i++)
        for (const struct tensor_rule *rule = f->arch->tensors[i]; rule->hf || rule->gguf; rule++)
            if (!bind_rule(f, rule, st))
                return false;
    if (f->gguf)
        f->cfg.tied = !has_slot(f, W_LM_HEAD);
    return f->n_bound == n || refuse_unknown(f, st);
}

bool model_file_bind(struct model_file *f, struct gguf *g, struct status *st)
{
    *f = (struct model_file){.gguf = g};
    if (config_read_gguf(g, &f->arch, &f->cfg, st) && derive_vocab(f, st) && check_tokens(f, st) &&
        bind_tensors(f, st))
        return true;
    model_file_close(f);
    return false;
}

/* Where config.json says whether there are biases, the files must have them or not. */
static bool check_biases(const struct model_file *f, const struct cJSON *config, struct status *st)
{
    static const struct {
        const char *key;
        enum slot slot;
    } keys[] = {{"attention_bias", W_Q_BIAS}, {"mlp_bias", W_GATE_BIAS}};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        const bool has = has_slot(f, keys[i].slot);
        bool want;
        if (!json_flag(config, keys[i].key, has, &want, st))
            return false;
        if (want == has)
            continue;
        char name[NAME_MAX_BYTES];
        make_name(rule_of(f, keys[i].slot)->hf, 0, name);
        return status_fail(st, STATUS_CORRUPT, "key %s is %s, and tensors such as %s %s",
                           keys[i].key, want ? "true" : "false", name,
                           has ? "are there" : "are not there");
    }
    return true;
}

/* Quantized matrices become weights; without them, every tensor is a plain weight. */
static bool open_weights(struct model_file *f, const struct cJSON *config, struct status *st)
{
    const struct cJSON *quant = json_value(config, "quantization_config");
    if (quant) {
        f->quant_folder = quant_folder_open(f->folder, quant, st);
        return f->quant_folder != NULL;
    }
    for (size_t i = 0; i < safetensors_n(f->folder); i++)
        if (!safetensors_check_plain(f->folder, safetensors_at(f->folder, i), st))
            return false;
    return true;
}

bool model_file_bind_folder(struct model_file *f, struct safetensors *s, const struct cJSON *config,
                            struct status *st)
{
    *f = (struct model_file){.folder = s};
    if (!config_read_hf(config, &f->arch, &f->cfg, st))
        status_wrap(st, "config.json");
    else if (open_weights(f, config, st) && derive_vocab(f, st) && bind_tensors(f, st) &&
             check_biases(f, config, st))
        return true;
    model_file_close(f);
    return false;
}

static bool open_folder(struct model_file *f, const char *path, struct status *st)
{
    struct cJSON *config = json_file_read(path, "config.json", CONFIG_BYTES_MAX, st);
    if (!config)
        return st->code == STATUS_OK ? status_fail(st, STATUS_IO, "no config.json in the folder")
                                     : false;
    struct safetensors *s = safetensors_open(path, st);
    const bool ok = s && model_file_bind_folder(f, s, config, st);
    cJSON_Delete(config);
    return ok;
}

bool model_path_is_folder(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

bool model_file_open(struct model_file *f, const char *path, struct status *st)
{
    *f = (struct model_file){0};
    if (model_path_is_folder(path))
        return open_folder(f, path, st) || status_wrap(st, "%.100s", path);
    struct gguf *g = gguf_open(path, st);
    if (!g)
        return false;
    return model_file_bind(f, g, st) || status_wrap(st, "%s", path);
}

void model_file_close(struct model_file *f)
{
    gguf_close(f->gguf);
    quant_folder_close(f->quant_folder);
    safetensors_close(f->folder);
    weights_random_close(f->random);
    quant_load_close(f->quant_load);
    free(f->bound);
    free(f->part);
    free(f->scheme_part);
    *f = (struct model_file){0};
}
