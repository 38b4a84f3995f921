#include "engine/model_text.h"

#include <stdlib.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "engine/file_map.h"
#include "engine/gguf.h"
#include "engine/json_file.h"
#include "engine/model.h"

enum { CONFIG_BYTES_MAX = 16 << 20 };

static bool copy_template(struct model_text *out, struct str source, struct status *st)
{
    out->template = malloc(source.n + 1);
    if (!out->template)
        return status_fail(st, STATUS_BUSY, "no memory for a chat template");
    memcpy(out->template, source.at, source.n);
    out->n_template = source.n;
    return true;
}

static bool open_gguf(struct model_text *out, const char *path, struct status *st)
{
    struct str source;
    struct gguf *g = gguf_open(path, st);
    if (!g)
        return status_wrap(st, "model");
    out->tok = tokenizer_open(g, st);
    if (!out->tok)
        status_wrap(st, "tokenizer of %.100s", path);
    else if (gguf_string(g, "tokenizer.chat_template", &source, st))
        copy_template(out, source, st);
    gguf_close(g);
    return st->code == STATUS_OK;
}

/* True when the folder has the file, and then the answer is in st. */
static bool read_template_file(struct model_text *out, const char *folder, struct status *st)
{
    char path[PATH_BYTES_MAX];
    struct file_map file;
    if (!path_join(path, folder, "chat_template.jinja", st))
        return true;
    if (access(path, F_OK) != 0)
        return false;
    if (!file_map_open(&file, path, st)) {
        status_wrap(st, "chat_template.jinja");
        return true;
    }
    copy_template(out, (struct str){file.bytes, file.n}, st);
    file_map_close(&file);
    return true;
}

static const char *text_of(const struct cJSON *v)
{
    return cJSON_IsString(v) ? v->valuestring : "";
}

static const struct cJSON *find_default(const struct cJSON *list)
{
    for (const struct cJSON *v = list->child; v; v = v->next)
        if (strcmp(text_of(json_value(v, "name")), "default") == 0)
            return json_value(v, "template");
    return NULL;
}

static bool read_template_key(struct model_text *out, const char *folder, struct status *st)
{
    struct cJSON *config = json_file_read(folder, "tokenizer_config.json", CONFIG_BYTES_MAX, st);
    const struct cJSON *v = json_value(config, "chat_template");
    if (cJSON_IsArray(v))
        v = find_default(v);
    if (cJSON_IsString(v))
        copy_template(out, str_of(v->valuestring), st);
    else if (v)
        status_fail(st, STATUS_CORRUPT,
                    "tokenizer_config.json: chat_template: want a string or a "
                    "list of templates");
    cJSON_Delete(config);
    return st->code == STATUS_OK;
}

static bool open_folder(struct model_text *out, const char *path, struct status *st)
{
    out->tok = tokenizer_open_folder(path, st);
    if (!out->tok)
        return status_wrap(st, "tokenizer of %.100s", path);
    return (read_template_file(out, path, st) ? st->code == STATUS_OK
                                              : read_template_key(out, path, st)) ||
           status_wrap(st, "%.100s", path);
}

bool model_text_open(struct model_text *out, const char *path, struct status *st)
{
    *out = (struct model_text){0};
    if (model_path_is_folder(path) ? open_folder(out, path, st) : open_gguf(out, path, st))
        return true;
    model_text_close(out);
    return false;
}

void model_text_close(struct model_text *t)
{
    tokenizer_close(t->tok);
    free(t->template);
    *t = (struct model_text){0};
}
