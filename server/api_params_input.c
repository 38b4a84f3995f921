/* api_params_input.c - what to run on: prompts as text or ids, and chat messages.
 *
 * A message's content is a string, or an array of text parts; the parts are joined with
 * newlines into one string, because most models' templates know strings alone. */
#include "server/api_params_int.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"

enum { PATH_BYTES = 64 };

static bool refuse_empty(struct reader *rd, const char *path, const char *of)
{
    api_error_set(rd->e, 400, "empty_prompt", path, "%s must have at least one %s, found none",
                  path, of);
    return false;
}

static bool take_text(struct reader *rd, const char *path, const cJSON *v)
{
    if (!v->valuestring[0] && rd->kind == API_COMPLETIONS)
        return refuse_empty(rd, path, "character");
    rd->p->prompt[rd->p->n_prompts++] =
        (struct api_prompt_text){.text = v->valuestring, .n_text = strlen(v->valuestring)};
    return true;
}

static bool take_ids(struct reader *rd, const char *path, const cJSON *v)
{
    const int n = cJSON_GetArraySize(v);
    if (n == 0 && rd->kind != API_DETOKENIZE)
        return refuse_empty(rd, path, "token");
    if (n > rd->env->context && rd->kind != API_DETOKENIZE) {
        api_error_set(rd->e, 400, "context_length_exceeded", path,
                      "the context is %d tokens, but %s has %d", rd->env->context, path, n);
        return false;
    }
    int32_t i = 0;
    const cJSON *id;
    cJSON_ArrayForEach(id, v)
    {
        const double d = cJSON_IsNumber(id) ? id->valuedouble : -1;
        if (d < 0 || d >= rd->env->vocab || d != floor(d)) {
            char at[PATH_BYTES];
            int32_t ignored;
            snprintf(at, sizeof at, "%s[%d]", path, i);
            return api_read_int(rd, at, id, 0, rd->env->vocab - 1, &ignored);
        }
        i++;
    }
    rd->p->prompt[rd->p->n_prompts++] = (struct api_prompt_text){.ids = v, .n_ids = n};
    return true;
}

static bool take_prompts(struct reader *rd, const char *name, const cJSON *v)
{
    const bool texts = cJSON_IsString(v->child);
    const cJSON *one;
    cJSON_ArrayForEach(one, v)
    {
        char path[PATH_BYTES];
        snprintf(path, sizeof path, "%s[%d]", name, rd->p->n_prompts);
        if (texts ? !cJSON_IsString(one) : !cJSON_IsArray(one))
            return api_refuse_type(
                rd, path, texts ? "a string, as the first" : "an array of token ids, as the first",
                one);
        if (!(texts ? take_text(rd, path, one) : take_ids(rd, path, one)))
            return false;
    }
    return true;
}

static bool make_prompts(struct reader *rd, int n)
{
    rd->p->prompt = calloc((size_t)n, sizeof *rd->p->prompt);
    return rd->p->prompt || api_refuse_memory(rd);
}

bool api_take_prompt(struct reader *rd, const char *name, const cJSON *v)
{
    const bool one = cJSON_IsString(v) || (cJSON_IsArray(v) && cJSON_IsNumber(v->child));
    if (rd->kind == API_TOKENIZE && !cJSON_IsString(v))
        return api_refuse_type(rd, name, "a string", v);
    if (one)
        return make_prompts(rd, 1) &&
               (cJSON_IsString(v) ? take_text(rd, name, v) : take_ids(rd, name, v));
    if (!cJSON_IsArray(v) || (v->child && !cJSON_IsString(v->child) && !cJSON_IsArray(v->child)))
        return api_refuse_type(rd, name,
                               "a string, an array of strings, an array of token ids or "
                               "an array of arrays of token ids",
                               v);
    const int n = cJSON_GetArraySize(v);
    if (n == 0)
        return refuse_empty(rd, name, "entry");
    if (n > rd->env->limits.prompts_max) {
        api_error_set(rd->e, 400, "invalid_value", name,
                      "%s must have at most %d entries, found %d", name,
                      rd->env->limits.prompts_max, n);
        return false;
    }
    return make_prompts(rd, n) && take_prompts(rd, name, v);
}

bool api_take_tokens(struct reader *rd, const char *name, const cJSON *v)
{
    if (!cJSON_IsArray(v))
        return api_refuse_type(rd, name, "an array of token ids", v);
    return make_prompts(rd, 1) && take_ids(rd, name, v);
}

static bool add_part(struct reader *rd, const char *path, const cJSON *part, struct buf *text)
{
    if (!cJSON_IsObject(part))
        return api_refuse_type(rd, path, "an object", part);
    const cJSON *type = cJSON_GetObjectItemCaseSensitive(part, "type");
    const cJSON *said = cJSON_GetObjectItemCaseSensitive(part, "text");
    if (!cJSON_IsString(type))
        return api_refuse_type(rd, path, "an object with a string `type`", part);
    if (strcmp(type->valuestring, "text") != 0) {
        api_error_set(rd->e, 400, "unsupported_content", path,
                      "%s must be of type \"text\": this server takes no other content", path);
        return false;
    }
    if (!cJSON_IsString(said))
        return api_refuse_type(rd, path, "an object with a string `text`", part);
    return buf_put_str(text, said->valuestring) || api_refuse_memory(rd);
}

static bool join_parts(struct reader *rd, int32_t i, const cJSON *parts, struct buf *text)
{
    int32_t n = 0;
    const cJSON *part;
    cJSON_ArrayForEach(part, parts)
    {
        char path[PATH_BYTES];
        snprintf(path, sizeof path, "messages[%d].content[%d]", i, n);
        if (n++ > 0 && !buf_put_char(text, '\n'))
            return api_refuse_memory(rd);
        if (!add_part(rd, path, part, text))
            return false;
    }
    return true;
}

static bool flatten_content(struct reader *rd, int32_t i, cJSON *message, const cJSON *parts)
{
    struct buf text;
    buf_init(&text, (size_t)rd->env->limits.body_bytes_max);
    bool ok = join_parts(rd, i, parts, &text);
    if (ok) {
        cJSON *whole = cJSON_CreateString(text.at ? text.at : "");
        ok = whole && cJSON_ReplaceItemInObjectCaseSensitive(message, "content", whole);
        if (!ok) {
            cJSON_Delete(whole);
            api_refuse_memory(rd);
        }
    }
    buf_close(&text);
    return ok;
}

static bool check_role(struct reader *rd, int32_t i, const cJSON *role, bool *assistant)
{
    static const char *const known[] = {"system",    "developer", "user",
                                        "assistant", "tool",      "function"};
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "messages[%d].role", i);
    if (!cJSON_IsString(role))
        return api_refuse_type(rd, path, "a string", role);
    *assistant = strcmp(role->valuestring, "assistant") == 0;
    for (size_t k = 0; k < sizeof known / sizeof known[0]; k++)
        if (strcmp(role->valuestring, known[k]) == 0)
            return true;
    api_error_set(rd->e, 400, "invalid_value", path,
                  "%s must be one of system, developer, user, assistant, tool and function", path);
    return false;
}

/* The message's fields beside role and content that are passed on to the template. */
static bool check_extras(struct reader *rd, int32_t i, const cJSON *message)
{
    char path[PATH_BYTES];
    static const char *const names[] = {"name", "tool_call_id"};
    for (size_t k = 0; k < sizeof names / sizeof names[0]; k++) {
        const cJSON *v = cJSON_GetObjectItemCaseSensitive(message, names[k]);
        snprintf(path, sizeof path, "messages[%d].%s", i, names[k]);
        if (v && !cJSON_IsNull(v) && !api_read_text(rd, path, v, API_NAME_BYTES_MAX))
            return false;
    }
    const cJSON *calls = cJSON_GetObjectItemCaseSensitive(message, "tool_calls");
    snprintf(path, sizeof path, "messages[%d].tool_calls", i);
    if (calls && !cJSON_IsNull(calls) && !cJSON_IsArray(calls))
        return api_refuse_type(rd, path, "an array", calls);
    const cJSON *audio = cJSON_GetObjectItemCaseSensitive(message, "audio");
    if (audio && !cJSON_IsNull(audio)) {
        snprintf(path, sizeof path, "messages[%d].audio", i);
        api_error_set(rd->e, 400, "unsupported_content", path, "%s: this server takes text alone",
                      path);
        return false;
    }
    return true;
}

static bool check_message(struct reader *rd, int32_t i, cJSON *message)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "messages[%d]", i);
    if (!cJSON_IsObject(message))
        return api_refuse_type(rd, path, "an object", message);
    bool assistant = false;
    if (!check_role(rd, i, cJSON_GetObjectItemCaseSensitive(message, "role"), &assistant) ||
        !check_extras(rd, i, message))
        return false;
    const cJSON *content = cJSON_GetObjectItemCaseSensitive(message, "content");
    snprintf(path, sizeof path, "messages[%d].content", i);
    if (cJSON_IsString(content))
        return true;
    if (cJSON_IsArray(content))
        return content->child ? flatten_content(rd, i, message, content)
                              : refuse_empty(rd, path, "part");
    if (assistant && (!content || cJSON_IsNull(content)))
        return true; /* beside tool_calls; the template says whether it takes it */
    return api_refuse_type(rd, path, "a string or an array of text parts", content);
}

bool api_take_messages(struct reader *rd, const char *name, const cJSON *v)
{
    if (!cJSON_IsArray(v))
        return api_refuse_type(rd, name, "an array of messages", v);
    if (!v->child)
        return refuse_empty(rd, name, "message");
    int32_t i = 0;
    cJSON *message;
    cJSON_ArrayForEach(message, v)
    {
        if (!check_message(rd, i++, message))
            return false;
    }
    rd->p->messages = cJSON_GetObjectItemCaseSensitive(rd->p->root, name);
    return true;
}
