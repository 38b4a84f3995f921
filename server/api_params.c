/* api_params.c - the table of parameters, and the loop that reads a body by it. */
#include "server/api_params_int.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json_scan.h"

enum rule_kind {
    RULE_INT,        /* int32_t in [min, max] */
    RULE_REAL,       /* float in [min, max] */
    RULE_ABOVE_ZERO, /* float in (0, max] */
    RULE_BOOL,
    RULE_NO_EFFECT,    /* a bool that changes nothing here; its type is checked */
    RULE_TEXT,         /* a string that changes nothing here; at most max bytes */
    RULE_TAKE,         /* has a reader of its own */
    RULE_REFUSE,       /* known, not supported */
    RULE_REFUSE_TRUE,  /* a bool; true is not supported */
    RULE_REFUSE_FALSE, /* a bool; false is not supported */
};

struct rule {
    const char *name;
    uint8_t on; /* enum api_kind bits */
    uint8_t kind;
    double min, max;
    size_t at; /* offset in struct api_params */
    api_take *take;
};

/* clang-format off */
#define GEN (API_COMPLETIONS | API_CHAT)
#define CHAT (API_CHAT | API_TOKENIZE) /* where messages are rendered */
#define ALL (GEN | API_TOKENIZE | API_DETOKENIZE)
#define AT(field) offsetof(struct api_params, field)
#define INT(name, on, min, max, field) {name, on, RULE_INT, min, max, AT(field), NULL}
#define REAL(name, min, max, field) {name, GEN, RULE_REAL, min, max, AT(field), NULL}
#define BOOL(name, on, field) {name, on, RULE_BOOL, 0, 0, AT(field), NULL}
#define TAKE(name, on) {#name, on, RULE_TAKE, 0, 0, 0, api_take_##name}
#define REFUSE(name, on) {name, on, RULE_REFUSE, 0, 0, 0, NULL}
/* clang-format on */

/* OpenAI's first, then what vLLM added.  A penalty of 0.01 already multiplies by 100 for each
 * token seen: beyond that, and beyond 100, products leave the range of f32 logits. */
static const struct rule rules[] = {
    TAKE(model, ALL),
    TAKE(prompt, API_COMPLETIONS | API_TOKENIZE),
    TAKE(messages, CHAT),
    TAKE(tokens, API_DETOKENIZE),
    INT("max_tokens", GEN, 0, INT32_MAX, max_tokens),
    INT("max_completion_tokens", GEN, 0, INT32_MAX, max_completion_tokens),
    REAL("temperature", 0, 2, sample.temperature),
    {"top_p", GEN, RULE_ABOVE_ZERO, 0, 1, AT(sample.top_p), NULL},
    TAKE(n, GEN),
    INT("best_of", GEN, 1, INT32_MAX, best_of),
    BOOL("stream", GEN, stream),
    TAKE(stream_options, GEN),
    TAKE(stop, GEN),
    TAKE(seed, GEN),
    REAL("presence_penalty", -2, 2, sample.presence),
    REAL("frequency_penalty", -2, 2, sample.frequency),
    TAKE(logit_bias, GEN),
    TAKE(logprobs, GEN),
    TAKE(top_logprobs, API_CHAT),
    BOOL("echo", API_COMPLETIONS, echo),
    TAKE(response_format, GEN),
    TAKE(modalities, API_CHAT),
    TAKE(tools, CHAT),
    TAKE(tool_choice, API_CHAT),
    TAKE(metadata, GEN),
    {"user", GEN, RULE_TEXT, 0, API_USER_BYTES_MAX, 0, NULL},
    {"safety_identifier", GEN, RULE_TEXT, 0, API_USER_BYTES_MAX, 0, NULL},
    {"prompt_cache_key", GEN, RULE_TEXT, 0, API_USER_BYTES_MAX, 0, NULL},
    {"service_tier", GEN, RULE_TEXT, 0, API_NAME_BYTES_MAX, 0, NULL},
    {"store", GEN, RULE_NO_EFFECT, 0, 0, 0, NULL},
    {"parallel_tool_calls", API_CHAT, RULE_NO_EFFECT, 0, 0, 0, NULL},
    REFUSE("suffix", API_COMPLETIONS),
    REFUSE("functions", API_CHAT),
    REFUSE("function_call", API_CHAT),
    REFUSE("audio", API_CHAT),
    REFUSE("prediction", API_CHAT),
    REFUSE("reasoning_effort", API_CHAT),
    REFUSE("verbosity", API_CHAT),
    REFUSE("web_search_options", API_CHAT),

    {"top_k", GEN, RULE_INT, -1, INT32_MAX, AT(sample.top_k), NULL},
    REAL("min_p", 0, 1, sample.min_p),
    REAL("repetition_penalty", 0.01, 100, sample.repetition),
    INT("min_tokens", GEN, 0, INT32_MAX, min_tokens),
    BOOL("ignore_eos", GEN, ignore_eos),
    TAKE(stop_token_ids, GEN),
    TAKE(cache_salt, GEN),
    BOOL("add_special_tokens", GEN | API_TOKENIZE, add_special),
    BOOL("add_generation_prompt", CHAT, add_generation_prompt),
    BOOL("return_token_strs", API_TOKENIZE, return_token_strs),
    {"chat_template_kwargs", CHAT, RULE_TAKE, 0, 0, 0, api_take_template_args},
    REFUSE("chat_template", CHAT),
    REFUSE("documents", CHAT),
    {"continue_final_message", CHAT, RULE_REFUSE_TRUE, 0, 0, 0, NULL},
    {"include_reasoning", API_CHAT, RULE_NO_EFFECT, 0, 0, 0, NULL},
    {"use_beam_search", GEN, RULE_REFUSE_TRUE, 0, 0, 0, NULL},
    {"include_stop_str_in_output", GEN, RULE_REFUSE_TRUE, 0, 0, 0, NULL},
    {"skip_special_tokens", GEN, RULE_REFUSE_FALSE, 0, 0, 0, NULL},
    {"spaces_between_special_tokens", GEN, RULE_NO_EFFECT, 0, 0, 0, NULL},
    {"return_tokens_as_token_ids", GEN, RULE_REFUSE_TRUE, 0, 0, 0, NULL},
    {"return_token_ids", GEN, RULE_REFUSE_TRUE, 0, 0, 0, NULL},
    {"mm_processor_kwargs", ALL, RULE_REFUSE, 0, 0, 0, NULL},
    REFUSE("length_penalty", GEN),
    REFUSE("early_stopping", GEN),
    REFUSE("prompt_logprobs", GEN),
    REFUSE("prompt_embeds", API_COMPLETIONS),
    REFUSE("truncate_prompt_tokens", GEN),
    REFUSE("allowed_token_ids", GEN),
    REFUSE("bad_words", GEN),
    REFUSE("logprob_token_ids", GEN),
    REFUSE("logits_processors", GEN),
    REFUSE("structured_outputs", GEN),
    REFUSE("guided_json", GEN),
    REFUSE("guided_regex", GEN),
    REFUSE("guided_choice", GEN),
    REFUSE("guided_grammar", GEN),
    REFUSE("grammar", GEN),
    REFUSE("json_schema", GEN),
    REFUSE("regex", GEN),
    REFUSE("ebnf", GEN),
    REFUSE("priority", GEN),
    REFUSE("thinking_token_budget", GEN),
    REFUSE("repetition_detection", GEN),
    REFUSE("typical_p", GEN),
    REFUSE("lora_path", GEN),
    REFUSE("kv_transfer_params", GEN),
};

enum { N_RULES = sizeof rules / sizeof rules[0] };

const char *api_found(const cJSON *v, char text[FOUND_BYTES])
{
    if (cJSON_IsString(v))
        return v->valuestring[0] ? "a string" : "an empty string";
    if (cJSON_IsArray(v))
        return v->child ? "an array" : "an empty array";
    if (cJSON_IsObject(v))
        return "an object";
    if (cJSON_IsBool(v))
        return cJSON_IsTrue(v) ? "true" : "false";
    if (!cJSON_IsNumber(v))
        return "null";
    snprintf(text, FOUND_BYTES, "%.15g", v->valuedouble);
    return text;
}

bool api_refuse_type(struct reader *rd, const char *path, const char *want, const cJSON *v)
{
    char text[FOUND_BYTES];
    api_error_set(rd->e, 400, "invalid_type", path, "%s must be %s, found %s", path, want,
                  api_found(v, text));
    return false;
}

bool api_refuse_value(struct reader *rd, const char *path, const char *want, const cJSON *v)
{
    char text[FOUND_BYTES];
    api_error_set(rd->e, 400, "invalid_value", path, "%s must be %s, found %s", path, want,
                  api_found(v, text));
    return false;
}

bool api_refuse_unsupported(struct reader *rd, const char *path)
{
    api_error_set(rd->e, 400, "unsupported_parameter", path, "%s is not supported by this server",
                  path);
    return false;
}

bool api_refuse_memory(struct reader *rd)
{
    api_error_set(rd->e, 503, "out_of_memory", "", "no memory for this request now");
    rd->e->retry_after_s = 1;
    return false;
}

bool api_read_int(struct reader *rd, const char *path, const cJSON *v, int64_t min, int64_t max,
                  int32_t *out)
{
    char want[96];
    snprintf(want, sizeof want, "an integer from %lld to %lld", (long long)min, (long long)max);
    if (!cJSON_IsNumber(v) || v->valuedouble != floor(v->valuedouble))
        return api_refuse_type(rd, path, want, v);
    if (v->valuedouble < (double)min || v->valuedouble > (double)max)
        return api_refuse_value(rd, path, want, v);
    *out = (int32_t)v->valuedouble;
    return true;
}

bool api_read_bool(struct reader *rd, const char *path, const cJSON *v, bool *out)
{
    if (!cJSON_IsBool(v))
        return api_refuse_type(rd, path, "true or false", v);
    *out = cJSON_IsTrue(v);
    return true;
}

bool api_read_text(struct reader *rd, const char *path, const cJSON *v, size_t n_max)
{
    if (!cJSON_IsString(v))
        return api_refuse_type(rd, path, "a string", v);
    const size_t n = strlen(v->valuestring);
    if (n > n_max) {
        api_error_set(rd->e, 400, "string_too_long", path,
                      "%s must be at most %zu bytes, found %zu", path, n_max, n);
        return false;
    }
    return true;
}

static bool read_real(struct reader *rd, const struct rule *rule, const cJSON *v)
{
    const bool above = rule->kind == RULE_ABOVE_ZERO;
    char want[96];
    snprintf(want, sizeof want, "a number %s %g %s %g", above ? "above" : "from", rule->min,
             above ? "up to" : "to", rule->max);
    if (!cJSON_IsNumber(v))
        return api_refuse_type(rd, rule->name, want, v);
    const double d = v->valuedouble;
    if (!(above ? d > rule->min : d >= rule->min) || !(d <= rule->max))
        return api_refuse_value(rd, rule->name, want, v);
    float f = (float)d;
    if (above && f <= 0) /* a number that only a double can tell from 0 */
        f = 0x1p-126f;
    memcpy((char *)rd->p + rule->at, &f, sizeof f);
    return true;
}

static bool read_refused_bool(struct reader *rd, const struct rule *rule, const cJSON *v)
{
    bool on;
    if (!api_read_bool(rd, rule->name, v, &on))
        return false;
    if (on != (rule->kind == RULE_REFUSE_TRUE))
        return true;
    api_error_set(rd->e, 400, "unsupported_parameter", rule->name,
                  "%s: %s is not supported by this server", rule->name, on ? "true" : "false");
    return false;
}

static bool read_by_rule(struct reader *rd, const struct rule *rule, const cJSON *v)
{
    char *at = (char *)rd->p + rule->at;
    bool ignored;
    switch ((enum rule_kind)rule->kind) {
    case RULE_INT:
        return api_read_int(rd, rule->name, v, (int64_t)rule->min, (int64_t)rule->max,
                            (int32_t *)(void *)at);
    case RULE_REAL:
    case RULE_ABOVE_ZERO:
        return read_real(rd, rule, v);
    case RULE_BOOL:
        return api_read_bool(rd, rule->name, v, (bool *)at);
    case RULE_NO_EFFECT:
        return api_read_bool(rd, rule->name, v, &ignored);
    case RULE_TEXT:
        return api_read_text(rd, rule->name, v, (size_t)rule->max);
    case RULE_TAKE:
        return rule->take(rd, rule->name, v);
    case RULE_REFUSE_TRUE:
    case RULE_REFUSE_FALSE:
        return read_refused_bool(rd, rule, v);
    case RULE_REFUSE:
        break;
    }
    return api_refuse_unsupported(rd, rule->name);
}

static bool read_members(struct reader *rd)
{
    const cJSON *v;
    cJSON_ArrayForEach(v, rd->p->root)
    {
        for (int i = 0; i < N_RULES && !cJSON_IsNull(v); i++) {
            if (!(rules[i].on & rd->kind) || strcmp(rules[i].name, v->string) != 0)
                continue;
            if (!read_by_rule(rd, &rules[i], v))
                return false;
            break;
        }
        rd->member++;
    }
    return true;
}

static bool refuse_missing(struct reader *rd, const char *name)
{
    api_error_set(rd->e, 400, "missing_required_parameter", name, "%s is required", name);
    return false;
}

static bool check_present(struct reader *rd)
{
    const struct api_params *p = rd->p;
    if (!p->has_model && (rd->kind & GEN))
        return refuse_missing(rd, "model");
    if (rd->kind == API_COMPLETIONS && !p->prompt)
        return refuse_missing(rd, "prompt");
    if (rd->kind == API_CHAT && !p->messages)
        return refuse_missing(rd, "messages");
    if (rd->kind == API_DETOKENIZE && !p->prompt)
        return refuse_missing(rd, "tokens");
    if (rd->kind == API_TOKENIZE && !p->prompt == !p->messages) {
        api_error_set(rd->e, 400, "missing_required_parameter", "prompt",
                      "one of prompt and messages is required, found %s",
                      p->prompt ? "both" : "neither");
        return false;
    }
    return true;
}

static bool check_token_counts(struct reader *rd)
{
    struct api_params *p = rd->p;
    const bool by_new_name = p->max_completion_tokens != API_ABSENT;
    const char *name = by_new_name ? "max_completion_tokens" : "max_tokens";
    if (by_new_name) {
        if (p->max_tokens != API_ABSENT && p->max_tokens != p->max_completion_tokens) {
            api_error_set(rd->e, 400, "invalid_value", "max_tokens",
                          "max_tokens is %d and max_completion_tokens is %d: give one of them",
                          p->max_tokens, p->max_completion_tokens);
            return false;
        }
        p->max_tokens = p->max_completion_tokens;
    }
    if (p->max_tokens == 0 && !p->echo) {
        api_error_set(rd->e, 400, "invalid_value", name, "%s must be at least 1, found 0%s", name,
                      rd->kind == API_COMPLETIONS ? " (0 is for echo)" : "");
        return false;
    }
    const bool chat = rd->kind == API_CHAT;
    const int32_t most = p->max_tokens != API_ABSENT ? p->max_tokens
                         : chat                      ? rd->env->context - 1
                                                     : API_MAX_TOKENS_DEFAULT;
    if (p->min_tokens > most) {
        api_error_set(rd->e, 400, "invalid_value", "min_tokens",
                      "min_tokens must be at most %d, the most tokens to generate, found %d", most,
                      p->min_tokens);
        return false;
    }
    return true;
}

static bool check_choices(struct reader *rd)
{
    const struct api_params *p = rd->p;
    if (p->best_of != API_ABSENT && p->best_of != 1 && p->best_of != p->n) {
        api_error_set(rd->e, 400, "unsupported_parameter", "best_of",
                      "best_of must be 1 or equal to n, which is %d, found %d", p->n, p->best_of);
        return false;
    }
    const int64_t choices = (int64_t)p->n * (p->n_prompts ? p->n_prompts : 1);
    if (choices > rd->env->limits.choices_max) {
        api_error_set(rd->e, 400, "invalid_value", "n",
                      "n times the number of prompts must be at most %d, found %lld",
                      rd->env->limits.choices_max, (long long)choices);
        return false;
    }
    return true;
}

/* Rules that join several fields: after all of them were read, in any order. */
static bool check_together(struct reader *rd)
{
    const struct api_params *p = rd->p;
    if (!check_present(rd))
        return false;
    if (!(rd->kind & GEN))
        return true;
    if (p->has_stream_options && !p->stream) {
        api_error_set(rd->e, 400, "invalid_value", "stream_options",
                      "stream_options is only allowed with stream: true");
        return false;
    }
    if (rd->kind == API_CHAT && p->top_logprobs > 0 && !p->wants_logprobs) {
        api_error_set(rd->e, 400, "invalid_value", "top_logprobs",
                      "top_logprobs is only allowed with logprobs: true");
        return false;
    }
    return check_token_counts(rd) && check_choices(rd);
}

static void set_defaults(struct api_params *p, enum api_kind kind)
{
    *p = (struct api_params){
        .add_generation_prompt = true,
        .add_special = kind != API_CHAT,
        .n = 1,
        .max_tokens = API_ABSENT,
        .max_completion_tokens = API_ABSENT,
        .best_of = API_ABSENT,
        .sample = {.temperature = 1, .top_p = 1, .repetition = 1, .n_logprobs = -1},
    };
}

static bool parse_body(struct reader *rd, size_t n)
{
    struct status st = {0};
    enum json_fault fault = JSON_OK;
    if (!json_scan(rd->text, n, &json_limits_default, &fault, &st)) {
        api_error_set(rd->e, 400, json_fault_code(fault), "", "the body is not usable JSON: %s",
                      st.msg);
        return false;
    }
    rd->p->root = cJSON_ParseWithLength(rd->text, n);
    if (!rd->p->root)
        return api_refuse_memory(rd); /* the scan left nothing else that it can refuse */
    if (cJSON_IsObject(rd->p->root))
        return true;
    char text[FOUND_BYTES];
    api_error_set(rd->e, 400, "invalid_type", "", "the body must be a JSON object, found %s",
                  api_found(rd->p->root, text));
    return false;
}

static void settle(struct api_params *p, enum api_kind kind)
{
    if (p->sample.top_k < 0)
        p->sample.top_k = 0;
    if (p->wants_logprobs)
        p->sample.n_logprobs = p->top_logprobs;
    if (kind == API_TOKENIZE && p->messages) /* the template writes BOS itself */
        p->add_special =
            cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(p->root, "add_special_tokens"));
}

bool api_params_read(struct api_params *p, enum api_kind kind, const char *text, size_t n,
                     const struct api_env *env, struct api_error *e)
{
    set_defaults(p, kind);
    struct reader rd = {.p = p, .kind = kind, .text = text, .env = env, .e = e};
    if (!parse_body(&rd, n) || !read_members(&rd) || !check_together(&rd)) {
        api_params_close(p);
        return false;
    }
    settle(p, kind);
    return true;
}

void api_params_drop_body(struct api_params *p)
{
    cJSON_Delete(p->root);
    free(p->prompt);
    p->root = p->messages = NULL;
    p->template_args = NULL;
    p->prompt = NULL;
}

void api_params_close(struct api_params *p)
{
    api_params_drop_body(p);
    free(p->bias);
    *p = (struct api_params){0};
}
