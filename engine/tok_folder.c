/* tok_folder.c - the tokenizer of a Hugging Face folder: tokenizer.json, and the special tokens
 * that its neighbours name. */
#include "engine/tokenizer.h"

#include <string.h>

#include <cjson/cJSON.h>

#include "engine/json_file.h"
#include "engine/tok_json.h"
#include "engine/tok_source.h"

enum { TOKENIZER_BYTES_MAX = 128 << 20, CONFIG_BYTES_MAX = 16 << 20 };

struct folder { /* what was read; NULL where there is no such file */
    struct cJSON *tokenizer, *text, *generation, *config;
    struct tok_json t;
    int64_t ends[TOK_ENDS_MAX];
};

static bool read_file(const char *path, const char *name, size_t bytes_max, struct cJSON **out,
                      struct status *st)
{
    *out = json_file_read(path, name, bytes_max, st);
    return st->code == STATUS_OK;
}

/* A token is written as its text, or as an object with its text. */
static bool find_named(const struct folder *f, const char *key, int64_t *id, struct status *st)
{
    const struct cJSON *v = json_value(f->text, key);
    struct str text;
    if (!v)
        return true;
    if (cJSON_IsString(v))
        text = str_of(v->valuestring);
    else if (!json_text(v, "content", &text, st))
        return st->code == STATUS_OK
                   ? status_fail(st, STATUS_CORRUPT, "tokenizer_config.json: %s: want a token", key)
                   : false;
    *id = tok_json_find(&f->t, text);
    return *id >= 0 || status_fail(st, STATUS_CORRUPT,
                                   "tokenizer_config.json: %s: no token '%.60s'", key, text.at);
}

static bool add_end(struct folder *f, const struct cJSON *v, const char *file, struct status *st)
{
    uint64_t id;
    if (!json_is_count(v, &id) || id >= f->t.src.n_tokens)
        return status_fail(st, STATUS_CORRUPT, "%s: eos_token_id: want ids below %zu", file,
                           f->t.src.n_tokens);
    if (f->t.src.n_ends == TOK_ENDS_MAX)
        return status_fail(st, STATUS_UNSUPPORTED, "%s: eos_token_id: want at most %d ids", file,
                           TOK_ENDS_MAX);
    f->ends[f->t.src.n_ends++] = (int64_t)id;
    return true;
}

/* How to generate comes before what the model is. */
static bool read_ends(struct folder *f, struct status *st)
{
    const char *file = "generation_config.json";
    const struct cJSON *ends = json_value(f->generation, "eos_token_id");
    if (!ends) {
        file = "config.json";
        ends = json_value(f->config, "eos_token_id");
    }
    f->t.src.ends = f->ends;
    if (!ends || !cJSON_IsArray(ends))
        return !ends || add_end(f, ends, file, st);
    for (const struct cJSON *v = ends->child; v; v = v->next)
        if (!add_end(f, v, file, st))
            return false;
    return true;
}

static bool read_special(struct folder *f, struct status *st)
{
    struct tok_source *src = &f->t.src;
    uint64_t id;
    int64_t bos = -1, eos = -1;
    if (!find_named(f, "bos_token", &bos, st) || !find_named(f, "eos_token", &eos, st) ||
        !read_ends(f, st))
        return false;
    if (!f->text && json_is_count(json_value(f->config, "bos_token_id"), &id))
        bos = (int64_t)id;
    if (eos < 0 && src->n_ends > 0)
        eos = f->ends[0];
    src->bos = src->add_bos == 1 ? src->bos : bos; /* the template's own tokens go first */
    src->eos = src->add_eos == 1 ? src->eos : eos;
    return true;
}

/* A token beyond the embedding table is one that the model cannot take.  Added ones may be there
 * for a larger model of the family, and are then no tokens here. */
static bool cut_vocab(struct folder *f, struct status *st)
{
    uint64_t n;
    size_t end = f->t.src.n_tokens;
    if (!json_is_count(json_value(f->config, "vocab_size"), &n) || end <= n)
        return true;
    while (end > n && f->t.types[end - 1] != TOKEN_NORMAL && f->t.types[end - 1] != TOKEN_BYTE)
        end--;
    f->t.src.n_tokens = end;
    return end <= n || status_fail(st, STATUS_CORRUPT,
                                   "tokenizer.json: want ids below vocab_size = %llu, found %zu",
                                   (unsigned long long)n, end - 1);
}

struct tokenizer *tokenizer_open_folder(const char *folder, struct status *st)
{
    struct folder f = {0};
    struct tokenizer *t = NULL;
    if (!read_file(folder, "tokenizer.json", TOKENIZER_BYTES_MAX, &f.tokenizer, st) ||
        !read_file(folder, "tokenizer_config.json", CONFIG_BYTES_MAX, &f.text, st) ||
        !read_file(folder, "generation_config.json", CONFIG_BYTES_MAX, &f.generation, st) ||
        !read_file(folder, "config.json", CONFIG_BYTES_MAX, &f.config, st))
        goto done;
    if (!f.tokenizer)
        status_fail(st, STATUS_UNSUPPORTED, "no tokenizer.json in the folder");
    else if (!tok_json_read(&f.t, f.tokenizer, st))
        status_wrap(st, "tokenizer.json");
    else if (read_special(&f, st) && cut_vocab(&f, st))
        t = tokenizer_open_source(&f.t.src, st);

done:
    tok_json_close(&f.t);
    cJSON_Delete(f.tokenizer);
    cJSON_Delete(f.text);
    cJSON_Delete(f.generation);
    cJSON_Delete(f.config);
    return t;
}
