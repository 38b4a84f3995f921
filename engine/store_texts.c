/* store_texts.c - config.json gets one key more, at its beginning; everything else is copied. */
#include "engine/store_texts.h"

#include <string.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "base/buf.h"
#include "engine/config_read.h"
#include "engine/file_map.h"
#include "engine/json_file.h"
#include "engine/safetensors_write.h"

enum { CONFIG_BYTES_MAX = 1 << 20 };

static const char config_name[] = "config.json", key[] = "quantization_config";

static const char *const copied[] = {
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
};

/* ---- checks ---- */

static struct cJSON *read_config(const char *folder, struct status *st)
{
    struct cJSON *config = json_file_read(folder, config_name, CONFIG_BYTES_MAX, st);
    if (!config && st->code == STATUS_OK)
        status_fail(st, STATUS_IO, "%.150s: no %s in the folder", folder, config_name);
    return config;
}

bool store_texts_check(const char *from, const char *texts, struct status *st)
{
    if (!texts && !model_path_is_folder(from))
        return status_fail(st, STATUS_BAD_INPUT,
                           "%.100s: no folder, so it has no %s and no tokenizer.json: name a "
                           "folder of the same model that has them",
                           from, config_name);
    struct cJSON *config = read_config(texts ? texts : from, st);
    const bool has = json_value(config, key);
    cJSON_Delete(config);
    if (!config)
        return false;
    return !has || status_fail(st, STATUS_UNSUPPORTED, "%.150s: is quantized already",
                               texts ? texts : from);
}

struct number {
    const char *name;
    double in_file, in_config;
};

static bool match(const struct model_config *a, const struct model_config *b, struct status *st)
{
    const struct number numbers[] = {
        {"width", a->hidden, b->hidden},
        {"layers", a->n_layers, b->n_layers},
        {"heads", a->n_heads, b->n_heads},
        {"key heads", a->n_kv_heads, b->n_kv_heads},
        {"head_dim", a->head_dim, b->head_dim},
        {"feed-forward", a->ffn, b->ffn},
        {"vocabulary", a->vocab, b->vocab ? b->vocab : a->vocab},
        {"rotated dimensions", a->rope_dims, b->rope_dims},
        {"rotary base", (double)a->rope_theta, (double)b->rope_theta},
        {"norm epsilon", (double)a->norm_eps, (double)b->norm_eps},
        {"tied output", a->tied, b->tied},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        if (numbers[i].in_file != numbers[i].in_config)
            return status_fail(st, STATUS_CORRUPT, "%s: %s: want %.9g, as the weights, found %.9g",
                               config_name, numbers[i].name, numbers[i].in_file,
                               numbers[i].in_config);
    return true;
}

bool store_texts_match(const char *texts, const struct model_file *f, struct status *st)
{
    const struct arch *arch;
    struct model_config cfg;
    struct cJSON *config = read_config(texts, st);
    const bool ok = config && config_read_hf(config, &arch, &cfg, st);
    cJSON_Delete(config);
    if (!ok)
        return false;
    if (arch != f->arch)
        return status_fail(st, STATUS_CORRUPT, "%s: want the family %s, found %s", config_name,
                           f->arch->hf_name, arch->hf_name);
    return match(&f->cfg, &cfg, st);
}

/* ---- files ---- */

/* The object's text is as it was, but for one key more before all others. */
static bool put_config(const struct file_map *file, int folder_fd, const char *config,
                       size_t n_config, struct status *st)
{
    const char *brace = memchr(file->bytes, '{', file->n);
    struct buf b;
    if (!brace)
        return status_fail(st, STATUS_CORRUPT, "%s: want an object", config_name);
    const size_t n_before = (size_t)(brace - file->bytes) + 1;
    buf_init(&b, 2 * CONFIG_BYTES_MAX);
    buf_put(&b, file->bytes, n_before);
    buf_printf(&b, "\n  \"%s\": ", key);
    buf_put(&b, config, n_config);
    buf_put_str(&b, ",");
    buf_put(&b, file->bytes + n_before, file->n - n_before);
    const bool ok = b.failed ? status_fail(st, STATUS_TOO_LARGE, "%s: too large", config_name)
                             : file_put(folder_fd, config_name, b.at, b.n, st);
    buf_close(&b);
    return ok;
}

static bool copy_file(const char *folder, const char *name, int folder_fd, struct status *st)
{
    char path[PATH_BYTES_MAX];
    struct file_map file;
    if (!path_join(path, folder, name, st))
        return false;
    if (access(path, F_OK) != 0)
        return true;
    const bool ok =
        file_map_open(&file, path, st) && file_put(folder_fd, name, file.bytes, file.n, st);
    file_map_close(&file);
    return ok || status_wrap(st, "%s", name);
}

bool store_texts_put(const char *texts, int folder_fd, const char *config, size_t n_config,
                     struct status *st)
{
    char path[PATH_BYTES_MAX];
    struct file_map file;
    if (!path_join(path, texts, config_name, st))
        return false;
    bool ok = file_map_open(&file, path, st) && put_config(&file, folder_fd, config, n_config, st);
    file_map_close(&file);
    for (size_t i = 0; ok && i < sizeof copied / sizeof copied[0]; i++)
        ok = copy_file(texts, copied[i], folder_fd, st);
    return ok;
}
