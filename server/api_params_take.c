/* api_params_take.c - the parameters that have a form of their own: lists, maps, options. */
#include "server/api_params_int.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_BYTES = 64 };

bool api_take_model(struct reader *rd, const char *name, const cJSON *v)
{
    if (!api_read_text(rd, name, v, API_MODEL_BYTES_MAX))
        return false;
    rd->p->has_model = true;
    if (strcmp(v->valuestring, rd->env->model_name) == 0)
        return true;
    api_error_set(rd->e, 404, "model_not_found", name,
                  "the model asked for does not exist: this server has `%s`", rd->env->model_name);
    return false;
}

bool api_take_n(struct reader *rd, const char *name, const cJSON *v)
{
    return api_read_int(rd, name, v, 1, rd->env->limits.choices_max, &rd->p->n);
}

/* Completions: how many alternatives.  Chat: whether; top_logprobs says how many. */
bool api_take_logprobs(struct reader *rd, const char *name, const cJSON *v)
{
    if (rd->kind == API_CHAT)
        return api_read_bool(rd, name, v, &rd->p->wants_logprobs);
    rd->p->wants_logprobs = true;
    return api_read_int(rd, name, v, 0, rd->env->limits.logprobs_max, &rd->p->top_logprobs);
}

bool api_take_top_logprobs(struct reader *rd, const char *name, const cJSON *v)
{
    return api_read_int(rd, name, v, 0, rd->env->limits.logprobs_max, &rd->p->top_logprobs);
}

/* The text of the value of member `index` of the object that is the whole (valid) body. */
static const char *find_member_text(const char *at, int32_t index)
{
    int32_t depth = 0, member = 0;
    for (; *at; at++) {
        if (*at == '"') {
            for (at++; *at != '"'; at++)
                at += *at == '\\';
        } else if (*at == '{' || *at == '[') {
            depth++;
        } else if (*at == '}' || *at == ']') {
            depth--;
        } else if (*at == ',' && depth == 1) {
            member++;
        } else if (*at == ':' && depth == 1 && member == index) {
            return at + 1 + strspn(at + 1, " \t\r\n");
        }
    }
    return NULL;
}

/* A double cannot tell neighbours beyond 2^53, so larger seeds are read from the body's text. */
bool api_take_seed(struct reader *rd, const char *name, const cJSON *v)
{
    static const char want[] = "an integer from -9223372036854775808 to 9223372036854775807";
    if (!cJSON_IsNumber(v) || v->valuedouble != floor(v->valuedouble))
        return api_refuse_type(rd, name, want, v);
    rd->p->has_seed = true;
    if (fabs(v->valuedouble) < 0x1p53) {
        rd->p->sample.seed = (uint64_t)(int64_t)v->valuedouble;
        return true;
    }
    const char *text = find_member_text(rd->text, rd->member);
    char *end;
    errno = 0;
    const long long seed = text ? strtoll(text, &end, 10) : 0;
    if (!text || errno == ERANGE || strchr(".eE", *end))
        return api_refuse_value(rd, name, want, v);
    rd->p->sample.seed = (uint64_t)seed;
    return true;
}

static bool add_stop(struct reader *rd, const char *path, const cJSON *v)
{
    if (!cJSON_IsString(v))
        return api_refuse_type(rd, path, "a string", v);
    const size_t n = strlen(v->valuestring);
    if (n < 1 || n > STOP_BYTES_MAX) {
        api_error_set(rd->e, 400, "invalid_value", path, "%s must be 1 to %d bytes, found %zu",
                      path, STOP_BYTES_MAX, n);
        return false;
    }
    memcpy(rd->p->stop[rd->p->n_stops], v->valuestring, n);
    rd->p->stop_bytes[rd->p->n_stops++] = (int32_t)n;
    return true;
}

static bool refuse_count(struct reader *rd, const char *path, const char *of, int32_t n_max)
{
    api_error_set(rd->e, 400, "invalid_value", path, "%s must have at most %d %s, found more", path,
                  n_max, of);
    return false;
}

bool api_take_stop(struct reader *rd, const char *name, const cJSON *v)
{
    if (cJSON_IsString(v))
        return add_stop(rd, name, v);
    if (!cJSON_IsArray(v))
        return api_refuse_type(rd, name, "a string or an array of strings", v);
    const cJSON *s;
    cJSON_ArrayForEach(s, v)
    {
        if (rd->p->n_stops == STOP_STRINGS_MAX)
            return refuse_count(rd, name, "strings", STOP_STRINGS_MAX);
        char path[PATH_BYTES];
        snprintf(path, sizeof path, "%s[%d]", name, rd->p->n_stops);
        if (!add_stop(rd, path, s))
            return false;
    }
    return true;
}

bool api_take_stop_token_ids(struct reader *rd, const char *name, const cJSON *v)
{
    if (!cJSON_IsArray(v))
        return api_refuse_type(rd, name, "an array of token ids", v);
    struct api_params *p = rd->p;
    const cJSON *id;
    cJSON_ArrayForEach(id, v)
    {
        if (p->n_stop_ids == API_STOP_IDS_MAX)
            return refuse_count(rd, name, "ids", API_STOP_IDS_MAX);
        char path[PATH_BYTES];
        snprintf(path, sizeof path, "%s[%d]", name, p->n_stop_ids);
        if (!api_read_int(rd, path, id, 0, rd->env->vocab - 1, &p->stop_id[p->n_stop_ids]))
            return false;
        p->n_stop_ids++;
    }
    return true;
}

/* A key of logit_bias: decimal digits alone, below the vocabulary.  -1 = it is not one. */
static int32_t read_token_key(const char *key, int32_t vocab)
{
    const size_t n = strlen(key);
    if (n < 1 || n > 9 || strspn(key, "0123456789") != n || (n > 1 && key[0] == '0'))
        return -1;
    const long id = strtol(key, NULL, 10);
    return id < vocab ? (int32_t)id : -1;
}

static bool add_bias(struct reader *rd, const char *name, const cJSON *v)
{
    struct sample_bias *b = &rd->p->bias[rd->p->n_bias];
    b->id = read_token_key(v->string, rd->env->vocab);
    if (b->id < 0) {
        api_error_set(rd->e, 400, "invalid_value", name,
                      "the keys of %s must be token ids from 0 to %d, entry %d is not", name,
                      rd->env->vocab - 1, rd->p->n_bias);
        return false;
    }
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s.%d", name, b->id);
    if (!cJSON_IsNumber(v))
        return api_refuse_type(rd, path, "a number from -100 to 100", v);
    if (!(fabs(v->valuedouble) <= 100))
        return api_refuse_value(rd, path, "a number from -100 to 100", v);
    b->bias = (float)v->valuedouble;
    b->until = INT32_MAX;
    rd->p->n_bias++;
    return true;
}

bool api_take_logit_bias(struct reader *rd, const char *name, const cJSON *v)
{
    if (!cJSON_IsObject(v))
        return api_refuse_type(rd, name, "an object from token ids to numbers", v);
    const int n = cJSON_GetArraySize(v);
    if (n == 0)
        return true;
    if (n > rd->env->limits.logit_bias_max) {
        api_error_set(rd->e, 400, "invalid_value", name,
                      "%s must have at most %d entries, found %d", name,
                      rd->env->limits.logit_bias_max, n);
        return false;
    }
    rd->p->bias = calloc((size_t)n, sizeof *rd->p->bias);
    if (!rd->p->bias)
        return api_refuse_memory(rd);
    const cJSON *entry;
    cJSON_ArrayForEach(entry, v)
    {
        if (!add_bias(rd, name, entry))
            return false;
    }
    return true;
}

bool api_take_stream_options(struct reader *rd, const char *name, const cJSON *v)
{
    if (!cJSON_IsObject(v))
        return api_refuse_type(rd, name, "an object", v);
    rd->p->has_stream_options = true;
    static const struct {
        const char *key, *path;
        bool supported;
    } option[] = {
        {"include_usage", "stream_options.include_usage", true},
        {"continuous_usage_stats", "stream_options.continuous_usage_stats", false},
        {"include_obfuscation", "stream_options.include_obfuscation", false},
    };
    for (size_t i = 0; i < sizeof option / sizeof option[0]; i++) {
        const cJSON *o = cJSON_GetObjectItemCaseSensitive(v, option[i].key);
        bool on = false;
        if (!o || cJSON_IsNull(o))
            continue;
        if (!api_read_bool(rd, option[i].path, o, &on))
            return false;
        if (on && !option[i].supported)
            return api_refuse_unsupported(rd, option[i].path);
        if (option[i].supported)
            rd->p->include_usage = on;
    }
    return true;
}

bool api_take_response_format(struct reader *rd, const char *name, const cJSON *v)
{
    if (!cJSON_IsObject(v))
        return api_refuse_type(rd, name, "an object", v);
    const cJSON *type = cJSON_GetObjectItemCaseSensitive(v, "type");
    if (!cJSON_IsString(type))
        return api_refuse_type(rd, "response_format.type", "a string", type);
    if (strcmp(type->valuestring, "text") == 0)
        return true;
    api_error_set(rd->e, 400, "unsupported_parameter", "response_format.type",
                  "response_format.type must be \"text\": this server has no other format");
    return false;
}

bool api_take_modalities(struct reader *rd, const char *name, const cJSON *v)
{
    if (!cJSON_IsArray(v))
        return api_refuse_type(rd, name, "an array", v);
    const cJSON *m;
    cJSON_ArrayForEach(m, v)
    {
        if (!cJSON_IsString(m))
            return api_refuse_type(rd, name, "an array of strings", m);
        if (strcmp(m->valuestring, "text") != 0) {
            api_error_set(rd->e, 400, "unsupported_parameter", name,
                          "modalities must be [\"text\"]: this server has no other output");
            return false;
        }
    }
    return true;
}

bool api_take_tools(struct reader *rd, const char *name, const cJSON *v)
{
    return cJSON_IsArray(v) ? api_refuse_unsupported(rd, name)
                            : api_refuse_type(rd, name, "an array", v);
}

bool api_take_tool_choice(struct reader *rd, const char *name, const cJSON *v)
{
    if (cJSON_IsString(v) && strcmp(v->valuestring, "none") == 0)
        return true;
    if (!cJSON_IsString(v) && !cJSON_IsObject(v))
        return api_refuse_type(rd, name, "a string or an object", v);
    api_error_set(rd->e, 400, "unsupported_parameter", name,
                  "tool_choice must be \"none\": this server does not support tools");
    return false;
}

/* Requests with different salts never share cached prefixes, even under one key. */
bool api_take_cache_salt(struct reader *rd, const char *name, const cJSON *v)
{
    if (!api_read_text(rd, name, v, API_SALT_BYTES_MAX))
        return false;
    const size_t n = strlen(v->valuestring);
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)v->valuestring[i] < 0x20 || v->valuestring[i] == 0x7f)
            return api_refuse_value(rd, name, "free of control characters", v);
    if (n == 0)
        return api_refuse_value(rd, name, "1 to 128 bytes", v);
    memcpy(rd->p->cache_salt, v->valuestring, n);
    rd->p->n_cache_salt = (int32_t)n;
    return true;
}

bool api_take_metadata(struct reader *rd, const char *name, const cJSON *v)
{
    if (!cJSON_IsObject(v))
        return api_refuse_type(rd, name, "an object from strings to strings", v);
    int32_t n = 0;
    const cJSON *entry;
    cJSON_ArrayForEach(entry, v)
    {
        if (++n > API_METADATA_MAX)
            return refuse_count(rd, name, "keys", API_METADATA_MAX);
        if (strlen(entry->string) > 64) {
            api_error_set(rd->e, 400, "string_too_long", name,
                          "the keys of %s must be at most 64 bytes, found %zu", name,
                          strlen(entry->string));
            return false;
        }
        if (!api_read_text(rd, name, entry, 512))
            return false;
    }
    return true;
}

static bool is_variable_name(const char *s)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789";
    static const char *const taken[] = {"messages",        "tools",        "documents",
                                        "bos_token",       "eos_token",    "add_generation_prompt",
                                        "raise_exception", "strftime_now", "loop",
                                        "namespace",       "range"};
    const size_t n = strlen(s);
    if (n < 1 || n > 64 || strspn(s, letters) != n || (s[0] >= '0' && s[0] <= '9'))
        return false;
    for (size_t i = 0; i < sizeof taken / sizeof taken[0]; i++)
        if (strcmp(s, taken[i]) == 0)
            return false;
    return true;
}

/* Further variables of the template: names that shadow nothing, values without structure. */
bool api_take_template_args(struct reader *rd, const char *name, const cJSON *v)
{
    if (!cJSON_IsObject(v))
        return api_refuse_type(rd, name, "an object", v);
    int32_t n = 0;
    size_t n_bytes = 0;
    const cJSON *arg;
    cJSON_ArrayForEach(arg, v)
    {
        if (++n > API_KWARGS_MAX)
            return refuse_count(rd, name, "keys", API_KWARGS_MAX);
        if (!is_variable_name(arg->string)) {
            api_error_set(rd->e, 400, "invalid_value", name,
                          "the keys of %s must be free variable names of 1 to 64 letters, digits "
                          "and _, key %d is not",
                          name, n);
            return false;
        }
        if (cJSON_IsArray(arg) || cJSON_IsObject(arg))
            return api_refuse_type(rd, name, "an object of strings, numbers and booleans", arg);
        n_bytes += strlen(arg->string) + (cJSON_IsString(arg) ? strlen(arg->valuestring) : 8);
    }
    if (n_bytes > API_KWARGS_BYTES_MAX) {
        api_error_set(rd->e, 400, "invalid_value", name, "%s must be at most %d bytes, found %zu",
                      name, API_KWARGS_BYTES_MAX, n_bytes);
        return false;
    }
    rd->p->template_args = v;
    return true;
}
