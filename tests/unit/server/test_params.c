/* What api_params promises: every parameter is checked by name, type and range; an error says
 * which field, and unknown fields change nothing. */
#include "server/api_params.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <cjson/cJSON.h>

#include "base/buf.h"

static const struct api_env env = {
    .model_name = "m",
    .limits = {.body_bytes_max = 8 << 20,
               .prompts_max = 64,
               .choices_max = 128,
               .logprobs_max = 20,
               .logit_bias_max = 1024,
               .output_tokens_max = 4096},
    .vocab = 1000,
    .context = 512,
};

static bool read_body(enum api_kind kind, const char *body, struct api_params *p,
                      struct api_error *e)
{
    memset(e, 0, sizeof *e);
    return api_params_read(p, kind, body, strlen(body), &env, e);
}

#define COMP          "{\"model\":\"m\",\"prompt\":\"hi\","
#define CHAT          "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],"
#define MESSAGE(text) "{\"model\":\"m\",\"messages\":[" text "]}"

struct refused {
    const char *name;
    enum api_kind kind;
    const char *body;
    int status;
    const char *param, *code;
};

static const struct refused refused[] = {
    {"no object: null", API_CHAT, "null", 400, "", "invalid_type"},
    {"no object: array", API_CHAT, "[]", 400, "", "invalid_type"},
    {"no object: string", API_CHAT, "\"x\"", 400, "", "invalid_type"},
    {"empty body", API_CHAT, "", 400, "", "invalid_json"},
    {"text after the object", API_CHAT, CHAT "\"n\":1} x", 400, "", "invalid_json"},
    {"duplicate key", API_CHAT, CHAT "\"n\":1,\"\\u006e\":2}", 400, "", "duplicate_key"},
    {"NUL in a string", API_COMPLETIONS, "{\"prompt\":\"a\\u0000b\"}", 400, "", "nul_in_string"},
    {"1e999", API_COMPLETIONS, COMP "\"temperature\":1e999}", 400, "", "number_out_of_range"},

    {"model missing", API_COMPLETIONS, "{\"prompt\":\"a\"}", 400, "model",
     "missing_required_parameter"},
    {"model null", API_COMPLETIONS, "{\"model\":null,\"prompt\":\"a\"}", 400, "model",
     "missing_required_parameter"},
    {"model unknown", API_COMPLETIONS, "{\"model\":\"x\",\"prompt\":\"a\"}", 404, "model",
     "model_not_found"},
    {"model empty", API_COMPLETIONS, "{\"model\":\"\",\"prompt\":\"a\"}", 404, "model",
     "model_not_found"},
    {"model is case-sensitive", API_COMPLETIONS, "{\"model\":\"M\",\"prompt\":\"a\"}", 404, "model",
     "model_not_found"},
    {"names are case-sensitive", API_COMPLETIONS, "{\"model\":\"m\",\"Prompt\":\"a\"}", 400,
     "prompt", "missing_required_parameter"},

    {"prompt missing", API_COMPLETIONS, "{\"model\":\"m\"}", 400, "prompt",
     "missing_required_parameter"},
    {"prompt empty", API_COMPLETIONS, "{\"model\":\"m\",\"prompt\":\"\"}", 400, "prompt",
     "empty_prompt"},
    {"prompt []", API_COMPLETIONS, "{\"model\":\"m\",\"prompt\":[]}", 400, "prompt",
     "empty_prompt"},
    {"prompt [\"\"]", API_COMPLETIONS, "{\"model\":\"m\",\"prompt\":[\"\"]}", 400, "prompt[0]",
     "empty_prompt"},
    {"prompt [[]]", API_COMPLETIONS, "{\"model\":\"m\",\"prompt\":[[]]}", 400, "prompt[0]",
     "empty_prompt"},
    {"prompt mixed", API_COMPLETIONS, "{\"model\":\"m\",\"prompt\":[\"a\",1]}", 400, "prompt[1]",
     "invalid_type"},
    {"prompt ids then text", API_COMPLETIONS, "{\"model\":\"m\",\"prompt\":[1,\"a\"]}", 400,
     "prompt[1]", "invalid_type"},
    {"prompt id -1", API_COMPLETIONS, "{\"model\":\"m\",\"prompt\":[1,-1]}", 400, "prompt[1]",
     "invalid_value"},
    {"prompt id of no token", API_COMPLETIONS, "{\"model\":\"m\",\"prompt\":[[1],[1000]]}", 400,
     "prompt[1][0]", "invalid_value"},
    {"prompt id 2^32", API_COMPLETIONS, "{\"model\":\"m\",\"prompt\":[4294967296]}", 400,
     "prompt[0]", "invalid_value"},
    {"prompt id 1.5", API_COMPLETIONS, "{\"model\":\"m\",\"prompt\":[1.5]}", 400, "prompt[0]",
     "invalid_type"},
    {"prompt of objects", API_COMPLETIONS, "{\"model\":\"m\",\"prompt\":[{}]}", 400, "prompt",
     "invalid_type"},

    {"messages missing", API_CHAT, "{\"model\":\"m\"}", 400, "messages",
     "missing_required_parameter"},
    {"messages empty", API_CHAT, MESSAGE(""), 400, "messages", "empty_prompt"},
    {"message no object", API_CHAT, MESSAGE("1"), 400, "messages[0]", "invalid_type"},
    {"role missing", API_CHAT, MESSAGE("{\"content\":\"a\"}"), 400, "messages[0].role",
     "invalid_type"},
    {"role unknown", API_CHAT, MESSAGE("{\"role\":\"uesr\",\"content\":\"a\"}"), 400,
     "messages[0].role", "invalid_value"},
    {"content missing", API_CHAT, MESSAGE("{\"role\":\"user\"}"), 400, "messages[0].content",
     "invalid_type"},
    {"content null for a user", API_CHAT, MESSAGE("{\"role\":\"user\",\"content\":null}"), 400,
     "messages[0].content", "invalid_type"},
    {"content number", API_CHAT, MESSAGE("{\"role\":\"user\",\"content\":3}"), 400,
     "messages[0].content", "invalid_type"},
    {"content without parts", API_CHAT, MESSAGE("{\"role\":\"user\",\"content\":[]}"), 400,
     "messages[0].content", "empty_prompt"},
    {"part no object", API_CHAT, MESSAGE("{\"role\":\"user\",\"content\":[\"a\"]}"), 400,
     "messages[0].content[0]", "invalid_type"},
    {"part without type", API_CHAT, MESSAGE("{\"role\":\"user\",\"content\":[{\"text\":\"a\"}]}"),
     400, "messages[0].content[0]", "invalid_type"},
    {"part without text", API_CHAT,
     MESSAGE("{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}"), 400,
     "messages[0].content[0]", "invalid_type"},
    {"image", API_CHAT,
     MESSAGE("{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
             "{\"type\":\"image_url\",\"image_url\":{\"url\":\"file:///etc/passwd\"}}]}"),
     400, "messages[0].content[1]", "unsupported_content"},
    {"input audio", API_CHAT,
     MESSAGE("{\"role\":\"user\",\"content\":[{\"type\":\"input_audio\"}]}"), 400,
     "messages[0].content[0]", "unsupported_content"},
    {"name too long type", API_CHAT, MESSAGE("{\"role\":\"user\",\"content\":\"a\",\"name\":1}"),
     400, "messages[0].name", "invalid_type"},
    {"tool_calls no array", API_CHAT,
     MESSAGE("{\"role\":\"assistant\",\"content\":null,\"tool_calls\":{}}"), 400,
     "messages[0].tool_calls", "invalid_type"},
    {"audio of a message", API_CHAT,
     MESSAGE("{\"role\":\"assistant\",\"content\":\"\",\"audio\":{\"id\":\"a\"}}"), 400,
     "messages[0].audio", "unsupported_content"},

    {"max_tokens 0", API_COMPLETIONS, COMP "\"max_tokens\":0}", 400, "max_tokens", "invalid_value"},
    {"max_tokens -1", API_COMPLETIONS, COMP "\"max_tokens\":-1}", 400, "max_tokens",
     "invalid_value"},
    {"max_tokens 2^31", API_COMPLETIONS, COMP "\"max_tokens\":2147483648}", 400, "max_tokens",
     "invalid_value"},
    {"max_tokens 2^53 + 1", API_COMPLETIONS, COMP "\"max_tokens\":9007199254740993}", 400,
     "max_tokens", "invalid_value"},
    {"max_tokens 1e300", API_COMPLETIONS, COMP "\"max_tokens\":1e300}", 400, "max_tokens",
     "invalid_value"},
    {"max_completion_tokens 0", API_CHAT, CHAT "\"max_completion_tokens\":0}", 400,
     "max_completion_tokens", "invalid_value"},
    {"two different lengths", API_CHAT, CHAT "\"max_completion_tokens\":4,\"max_tokens\":5}", 400,
     "max_tokens", "invalid_value"},
    {"min_tokens above max_tokens", API_CHAT, CHAT "\"min_tokens\":6,\"max_tokens\":5}", 400,
     "min_tokens", "invalid_value"},
    {"min_tokens above the default", API_COMPLETIONS, COMP "\"min_tokens\":17}", 400, "min_tokens",
     "invalid_value"},
    {"min_tokens above the context", API_CHAT, CHAT "\"min_tokens\":100000}", 400, "min_tokens",
     "invalid_value"},
    {"temperature below", API_CHAT, CHAT "\"temperature\":-0.1}", 400, "temperature",
     "invalid_value"},
    {"temperature above", API_CHAT, CHAT "\"temperature\":2.01}", 400, "temperature",
     "invalid_value"},
    {"temperature 1e308", API_CHAT, CHAT "\"temperature\":1e308}", 400, "temperature",
     "invalid_value"},
    {"top_p 0", API_CHAT, CHAT "\"top_p\":0}", 400, "top_p", "invalid_value"},
    {"top_p above", API_CHAT, CHAT "\"top_p\":1.01}", 400, "top_p", "invalid_value"},
    {"top_k -2", API_CHAT, CHAT "\"top_k\":-2}", 400, "top_k", "invalid_value"},
    {"min_p above", API_CHAT, CHAT "\"min_p\":1.01}", 400, "min_p", "invalid_value"},
    {"min_p below", API_CHAT, CHAT "\"min_p\":-0.01}", 400, "min_p", "invalid_value"},
    {"presence above", API_CHAT, CHAT "\"presence_penalty\":2.01}", 400, "presence_penalty",
     "invalid_value"},
    {"presence below", API_CHAT, CHAT "\"presence_penalty\":-2.01}", 400, "presence_penalty",
     "invalid_value"},
    {"frequency above", API_CHAT, CHAT "\"frequency_penalty\":2.01}", 400, "frequency_penalty",
     "invalid_value"},
    {"frequency below", API_CHAT, CHAT "\"frequency_penalty\":-2.01}", 400, "frequency_penalty",
     "invalid_value"},
    {"repetition 0", API_CHAT, CHAT "\"repetition_penalty\":0}", 400, "repetition_penalty",
     "invalid_value"},
    {"repetition -1", API_CHAT, CHAT "\"repetition_penalty\":-1}", 400, "repetition_penalty",
     "invalid_value"},
    {"repetition 1e-30", API_CHAT, CHAT "\"repetition_penalty\":1e-30}", 400, "repetition_penalty",
     "invalid_value"},
    {"repetition 1e30", API_CHAT, CHAT "\"repetition_penalty\":1e30}", 400, "repetition_penalty",
     "invalid_value"},
    {"n 0", API_CHAT, CHAT "\"n\":0}", 400, "n", "invalid_value"},
    {"n 129", API_CHAT, CHAT "\"n\":129}", 400, "n", "invalid_value"},
    {"n 2^31 - 1", API_CHAT, CHAT "\"n\":2147483647}", 400, "n", "invalid_value"},
    {"n times prompts", API_COMPLETIONS, "{\"model\":\"m\",\"prompt\":[\"a\",\"b\"],\"n\":65}", 400,
     "n", "invalid_value"},
    {"best_of", API_COMPLETIONS, COMP "\"n\":2,\"best_of\":3}", 400, "best_of",
     "unsupported_parameter"},
    {"seed 2^63", API_CHAT, CHAT "\"seed\":9223372036854775808}", 400, "seed", "invalid_value"},
    {"seed below -2^63", API_CHAT, CHAT "\"seed\":-9223372036854775809}", 400, "seed",
     "invalid_value"},
    {"seed 1e18", API_CHAT, CHAT "\"seed\":1e18}", 400, "seed", "invalid_value"},
    {"seed 1.5", API_CHAT, CHAT "\"seed\":1.5}", 400, "seed", "invalid_type"},
    {"stop empty", API_CHAT, CHAT "\"stop\":\"\"}", 400, "stop", "invalid_value"},
    {"stop with an empty one", API_CHAT, CHAT "\"stop\":[\"a\",\"\"]}", 400, "stop[1]",
     "invalid_value"},
    {"stop with a number", API_CHAT, CHAT "\"stop\":[\"a\",1]}", 400, "stop[1]", "invalid_type"},
    {"stop token id", API_CHAT, CHAT "\"stop_token_ids\":[0,1000]}", 400, "stop_token_ids[1]",
     "invalid_value"},
    {"stop token no id", API_CHAT, CHAT "\"stop_token_ids\":[\"a\"]}", 400, "stop_token_ids[0]",
     "invalid_type"},
    {"bias key -1", API_CHAT, CHAT "\"logit_bias\":{\"-1\":1}}", 400, "logit_bias",
     "invalid_value"},
    {"bias key above", API_CHAT, CHAT "\"logit_bias\":{\"999999999\":1}}", 400, "logit_bias",
     "invalid_value"},
    {"bias key 1e3", API_CHAT, CHAT "\"logit_bias\":{\"1e3\":1}}", 400, "logit_bias",
     "invalid_value"},
    {"bias key text", API_CHAT, CHAT "\"logit_bias\":{\"abc\":1}}", 400, "logit_bias",
     "invalid_value"},
    {"bias key twice in two spellings", API_CHAT, CHAT "\"logit_bias\":{\"1\":1,\"01\":1}}", 400,
     "logit_bias", "invalid_value"},
    {"bias 101", API_CHAT, CHAT "\"logit_bias\":{\"7\":100.5}}", 400, "logit_bias.7",
     "invalid_value"},
    {"bias text", API_CHAT, CHAT "\"logit_bias\":{\"7\":\"a\"}}", 400, "logit_bias.7",
     "invalid_type"},
    {"logprobs 21", API_COMPLETIONS, COMP "\"logprobs\":21}", 400, "logprobs", "invalid_value"},
    {"logprobs true for completions", API_COMPLETIONS, COMP "\"logprobs\":true}", 400, "logprobs",
     "invalid_type"},
    {"logprobs 5 for chat", API_CHAT, CHAT "\"logprobs\":5}", 400, "logprobs", "invalid_type"},
    {"top_logprobs 21", API_CHAT, CHAT "\"logprobs\":true,\"top_logprobs\":21}", 400,
     "top_logprobs", "invalid_value"},
    {"top_logprobs without logprobs", API_CHAT, CHAT "\"top_logprobs\":2}", 400, "top_logprobs",
     "invalid_value"},
    {"stream_options without stream", API_CHAT, CHAT "\"stream_options\":{}}", 400,
     "stream_options", "invalid_value"},
    {"include_usage text", API_CHAT,
     CHAT "\"stream\":true,\"stream_options\":{\"include_usage\":\"yes\"}}", 400,
     "stream_options.include_usage", "invalid_type"},
    {"continuous usage", API_CHAT,
     CHAT "\"stream\":true,\"stream_options\":{\"continuous_usage_stats\":true}}", 400,
     "stream_options.continuous_usage_stats", "unsupported_parameter"},
    {"response_format json_object", API_CHAT,
     CHAT "\"response_format\":{\"type\":\"json_object\"}}", 400, "response_format.type",
     "unsupported_parameter"},
    {"response_format without type", API_CHAT, CHAT "\"response_format\":{}}", 400,
     "response_format.type", "invalid_type"},
    {"tools", API_CHAT, CHAT "\"tools\":[{\"type\":\"function\"}]}", 400, "tools",
     "unsupported_parameter"},
    {"tools empty", API_CHAT, CHAT "\"tools\":[]}", 400, "tools", "unsupported_parameter"},
    {"tool_choice auto", API_CHAT, CHAT "\"tool_choice\":\"auto\"}", 400, "tool_choice",
     "unsupported_parameter"},
    {"functions", API_CHAT, CHAT "\"functions\":[]}", 400, "functions", "unsupported_parameter"},
    {"suffix", API_COMPLETIONS, COMP "\"suffix\":\"a\"}", 400, "suffix", "unsupported_parameter"},
    {"chat_template", API_CHAT, CHAT "\"chat_template\":\"{{1}}\"}", 400, "chat_template",
     "unsupported_parameter"},
    {"chat_template of tokenize", API_TOKENIZE, CHAT "\"chat_template\":\"{{1}}\"}", 400,
     "chat_template", "unsupported_parameter"},
    {"kwargs nested", API_CHAT, CHAT "\"chat_template_kwargs\":{\"a\":[1]}}", 400,
     "chat_template_kwargs", "invalid_type"},
    {"kwargs shadow", API_CHAT, CHAT "\"chat_template_kwargs\":{\"messages\":1}}", 400,
     "chat_template_kwargs", "invalid_value"},
    {"kwargs key", API_CHAT, CHAT "\"chat_template_kwargs\":{\"a b\":1}}", 400,
     "chat_template_kwargs", "invalid_value"},
    {"continue_final_message", API_CHAT, CHAT "\"continue_final_message\":true}", 400,
     "continue_final_message", "unsupported_parameter"},
    {"skip_special_tokens", API_CHAT, CHAT "\"skip_special_tokens\":false}", 400,
     "skip_special_tokens", "unsupported_parameter"},
    {"reasoning_effort", API_CHAT, CHAT "\"reasoning_effort\":\"low\"}", 400, "reasoning_effort",
     "unsupported_parameter"},
    {"guided_json", API_COMPLETIONS, COMP "\"guided_json\":{}}", 400, "guided_json",
     "unsupported_parameter"},
    {"salt empty", API_COMPLETIONS, COMP "\"cache_salt\":\"\"}", 400, "cache_salt",
     "invalid_value"},
    {"salt with a control character", API_COMPLETIONS, COMP "\"cache_salt\":\"a\\n\"}", 400,
     "cache_salt", "invalid_value"},
    {"metadata with a number", API_CHAT, CHAT "\"metadata\":{\"a\":1}}", 400, "metadata",
     "invalid_type"},
    {"modalities", API_CHAT, CHAT "\"modalities\":[\"audio\"]}", 400, "modalities",
     "unsupported_parameter"},

    {"tokenize nothing", API_TOKENIZE, "{}", 400, "prompt", "missing_required_parameter"},
    {"tokenize both", API_TOKENIZE, CHAT "\"prompt\":\"a\"}", 400, "prompt",
     "missing_required_parameter"},
    {"tokenize ids", API_TOKENIZE, "{\"prompt\":[1]}", 400, "prompt", "invalid_type"},
    {"detokenize nothing", API_DETOKENIZE, "{}", 400, "tokens", "missing_required_parameter"},
    {"detokenize id", API_DETOKENIZE, "{\"tokens\":[1,1000]}", 400, "tokens[1]", "invalid_value"},
    {"detokenize text", API_DETOKENIZE, "{\"tokens\":\"a\"}", 400, "tokens", "invalid_type"},
};

static void every_fault_is_refused_by_name(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        const struct refused *t = &refused[i];
        struct api_params p;
        struct api_error e;
        if (read_body(t->kind, t->body, &p, &e) || e.http_status != t->status ||
            strcmp(e.param, t->param) != 0 || !e.code || strcmp(e.code, t->code) != 0)
            fail_msg("%s: got %d param \"%s\" code %s (%s)", t->name, e.http_status, e.param,
                     e.code ? e.code : "none", e.message);
        assert_true(e.message[0]);
        if (t->param[0] && !strstr(e.message, "model asked for") &&
            !strstr(e.message, "one of prompt and messages") &&
            strncmp(t->param, "messages[", 9) != 0) {
            char word[64];
            snprintf(word, sizeof word, "%.*s", (int)strcspn(t->param, "[."), t->param);
            if (!strstr(e.message, word))
                fail_msg("%s: the message does not name %s: %s", t->name, word, e.message);
        }
    }
}

struct taken {
    const char *name;
    enum api_kind kind;
    const char *body;
};

static const struct taken taken[] = {
    {"plain", API_CHAT, CHAT "\"n\":1}"},
    {"limits from below", API_CHAT,
     CHAT "\"temperature\":0,\"top_p\":1e-9,\"top_k\":-1,\"min_p\":0,\"n\":1,\"max_tokens\":1,"
          "\"presence_penalty\":-2,\"frequency_penalty\":-2,\"repetition_penalty\":0.01,"
          "\"min_tokens\":0,\"seed\":-9223372036854775808,\"logprobs\":true,\"top_logprobs\":0}"},
    {"limits from above", API_CHAT,
     CHAT "\"temperature\":2,\"top_p\":1,\"top_k\":2147483647,\"min_p\":1,\"n\":128,"
          "\"max_tokens\":2147483647,\"presence_penalty\":2,\"frequency_penalty\":2,"
          "\"repetition_penalty\":100,\"min_tokens\":2147483647,"
          "\"seed\":9223372036854775807,\"logprobs\":true,\"top_logprobs\":20}"},
    {"no effect", API_CHAT,
     CHAT "\"user\":\"u\",\"store\":true,\"metadata\":{\"a\":\"b\"},\"service_tier\":\"auto\","
          "\"parallel_tool_calls\":false,\"tool_choice\":\"none\",\"response_format\":"
          "{\"type\":\"text\"},\"modalities\":[\"text\"]}"},
    {"null is absent", API_CHAT,
     CHAT "\"temperature\":null,\"tools\":null,\"stop\":null,\"seed\":null,\"suffix\":null,"
          "\"functions\":null,\"logit_bias\":null,\"stream_options\":null}"},
    {"unknown fields", API_CHAT, CHAT "\"foo\":1,\"bar\":{\"n\":0},\"temperatur\":99}"},
    {"assistant without content", API_CHAT,
     MESSAGE("{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":null,"
             "\"tool_calls\":[]}")},
    {"a whole number written as a double", API_CHAT, CHAT "\"max_tokens\":1.0,\"n\":2e0}"},
    {"echo alone", API_COMPLETIONS, COMP "\"echo\":true,\"max_tokens\":0,\"logprobs\":0}"},
    {"best_of of one", API_COMPLETIONS, COMP "\"best_of\":1,\"n\":3}"},
    {"ids", API_COMPLETIONS, "{\"model\":\"m\",\"prompt\":[0,999]}"},
    {"several", API_COMPLETIONS, "{\"model\":\"m\",\"prompt\":[[1],[2,3]]}"},
    {"tokenize without model", API_TOKENIZE, "{\"prompt\":\"\"}"},
    {"detokenize nothing", API_DETOKENIZE, "{\"tokens\":[]}"},
};

static void what_is_inside_the_limits_is_taken(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof taken / sizeof taken[0]; i++) {
        struct api_params p;
        struct api_error e;
        if (!read_body(taken[i].kind, taken[i].body, &p, &e))
            fail_msg("%s: refused: %s", taken[i].name, e.message);
        api_params_close(&p);
    }
}

/* Which of s(tring) n(umber) b(ool) a(rray) o(bject) each field takes. */
static const struct {
    enum api_kind kind;
    const char *name, *takes;
} fields[] = {
    {API_CHAT, "model", "s"},
    {API_CHAT, "messages", "a"},
    {API_CHAT, "max_tokens", "n"},
    {API_CHAT, "max_completion_tokens", "n"},
    {API_CHAT, "temperature", "n"},
    {API_CHAT, "top_p", "n"},
    {API_CHAT, "top_k", "n"},
    {API_CHAT, "min_p", "n"},
    {API_CHAT, "n", "n"},
    {API_CHAT, "best_of", "n"},
    {API_CHAT, "stream", "b"},
    {API_CHAT, "stream_options", "o"},
    {API_CHAT, "stop", "sa"},
    {API_CHAT, "stop_token_ids", "a"},
    {API_CHAT, "seed", "n"},
    {API_CHAT, "presence_penalty", "n"},
    {API_CHAT, "frequency_penalty", "n"},
    {API_CHAT, "repetition_penalty", "n"},
    {API_CHAT, "logit_bias", "o"},
    {API_CHAT, "logprobs", "b"},
    {API_CHAT, "top_logprobs", "n"},
    {API_CHAT, "ignore_eos", "b"},
    {API_CHAT, "min_tokens", "n"},
    {API_CHAT, "user", "s"},
    {API_CHAT, "store", "b"},
    {API_CHAT, "metadata", "o"},
    {API_CHAT, "service_tier", "s"},
    {API_CHAT, "parallel_tool_calls", "b"},
    {API_CHAT, "tool_choice", "s"},
    {API_CHAT, "response_format", "o"},
    {API_CHAT, "modalities", "a"},
    {API_CHAT, "chat_template_kwargs", "o"},
    {API_CHAT, "add_generation_prompt", "b"},
    {API_CHAT, "add_special_tokens", "b"},
    {API_CHAT, "cache_salt", "s"},
    {API_CHAT, "safety_identifier", "s"},
    {API_COMPLETIONS, "prompt", "sa"},
    {API_COMPLETIONS, "logprobs", "n"},
    {API_COMPLETIONS, "echo", "b"},
    {API_TOKENIZE, "prompt", "s"},
    {API_TOKENIZE, "return_token_strs", "b"},
    {API_DETOKENIZE, "tokens", "a"},
};

static void every_field_refuses_every_wrong_type(void **state)
{
    (void)state;
    static const struct {
        char type;
        const char *text;
    } value[] = {{'s', "\"x\""}, {'n', "1"}, {'b', "true"}, {'a', "[true]"}, {'o', "{\"a\":true}"}};
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        for (size_t k = 0; k < sizeof value / sizeof value[0]; k++) {
            if (strchr(fields[i].takes, value[k].type))
                continue;
            char body[256];
            struct api_params p;
            struct api_error e;
            snprintf(body, sizeof body, "{\"%s\":%s}", fields[i].name, value[k].text);
            if (read_body(fields[i].kind, body, &p, &e) || e.http_status != 400 || !e.code ||
                strncmp(e.param, fields[i].name, strlen(fields[i].name)) != 0 ||
                (strcmp(e.code, "invalid_type") != 0 &&
                 strcmp(e.code, "unsupported_parameter") != 0))
                fail_msg("%s: %d param \"%s\" code %s (%s)", body, e.http_status, e.param,
                         e.code ? e.code : "none", e.message);
        }
    }
}

/* Bodies whose size is the limit: n elements each written by `each`, between `head` and `tail`. */
static void check_count(const char *head, const char *each, const char *tail, int n, bool ok,
                        const char *param)
{
    struct buf body;
    buf_init(&body, 64 << 20);
    buf_put_str(&body, head);
    for (int i = 0; i < n; i++) {
        if (i && each[0] != '-')
            buf_put_char(&body, ',');
        if (each[0] == '#')
            buf_printf(&body, "\"%d\":1", i % 1000);
        else if (each[0] == '@')
            buf_printf(&body, "\"k%d\":\"v\"", i);
        else
            buf_put_str(&body, each[0] == '-' ? "a" : each);
    }
    buf_put_str(&body, tail);
    struct api_params p;
    struct api_error e = {0};
    const bool got = api_params_read(&p, strstr(head, "prompt") ? API_COMPLETIONS : API_CHAT,
                                     body.at, body.n, &env, &e);
    if (got != ok || (!ok && strncmp(e.param, param, strlen(param)) != 0))
        fail_msg("%d of %s: %s (%s, param \"%s\")", n, param, got ? "taken" : "refused", e.message,
                 e.param);
    if (got)
        api_params_close(&p);
    buf_close(&body);
}

static void counts_are_held_at_the_limit(void **state)
{
    (void)state;
    static const struct {
        const char *head, *each, *tail;
        int n_max;
        const char *param;
    } t[] = {
        {CHAT "\"stop\":[", "\"a\"", "]}", 16, "stop"},
        {CHAT "\"stop\":\"", "-", "\"}", 256, "stop"},
        {CHAT "\"stop_token_ids\":[", "1", "]}", 32, "stop_token_ids"},
        {CHAT "\"metadata\":{", "@", "}}", 16, "metadata"},
        {CHAT "\"chat_template_kwargs\":{", "@", "}}", 16, "chat_template_kwargs"},
        {CHAT "\"user\":\"", "-", "\"}", 512, "user"},
        {CHAT "\"cache_salt\":\"", "-", "\"}", 128, "cache_salt"},
        {"{\"model\":\"m\",\"prompt\":[", "\"a\"", "]}", 64, "prompt"},
        {"{\"model\":\"m\",\"prompt\":[", "1", "]}", 512, "prompt"},
        {"{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"\",\"name\":\"", "-",
         "\"}]}", 256, "messages[0].name"},
    };
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        check_count(t[i].head, t[i].each, t[i].tail, t[i].n_max - 1, true, t[i].param);
        check_count(t[i].head, t[i].each, t[i].tail, t[i].n_max, true, t[i].param);
        check_count(t[i].head, t[i].each, t[i].tail, t[i].n_max + 1, false, t[i].param);
    }
}

static void logit_bias_holds_as_many_entries_as_its_limit(void **state)
{
    (void)state;
    struct api_env small = env;
    small.limits.logit_bias_max = 3;
    static const char *const body[] = {CHAT "\"logit_bias\":{\"1\":1,\"2\":-100,\"999\":100}}",
                                       CHAT "\"logit_bias\":{\"1\":1,\"2\":1,\"3\":1,\"4\":1}}"};
    struct api_params p;
    struct api_error e = {0};
    assert_true(api_params_read(&p, API_CHAT, body[0], strlen(body[0]), &small, &e));
    assert_int_equal(p.n_bias, 3);
    assert_int_equal(p.bias[1].id, 2);
    assert_true(p.bias[1].bias == -100.0f && p.bias[2].id == 999);
    api_params_close(&p);
    assert_false(api_params_read(&p, API_CHAT, body[1], strlen(body[1]), &small, &e));
    assert_string_equal(e.param, "logit_bias");
}

static void a_model_name_beyond_its_limit_is_refused_as_too_long(void **state)
{
    (void)state;
    check_count("{\"model\":\"", "-", "\",\"messages\":[]}", API_MODEL_BYTES_MAX + 1, false,
                "model");
}

static void seeds_are_exact_over_all_64_bits(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t seed;
    } t[] = {{"0", 0},
             {"-0", 0},
             {"1e3", 1000},
             {"9007199254740991", 9007199254740991},
             {"9007199254740993", 9007199254740993},
             {"-9007199254740993", -9007199254740993},
             {"9223372036854775807", INT64_MAX},
             {"-9223372036854775808", INT64_MIN}};
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        char body[512];
        struct api_params p;
        struct api_error e;
        /* The seed is found by its place, past strings that look like it. */
        snprintf(body, sizeof body,
                 "{\"model\":\"m\",\"x\":{\"seed\":[1,{}]},\"y\":\"\\\"seed\\\":5,{\", "
                 "\"\\u0073eed\" : %s ,\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}",
                 t[i].text);
        if (!read_body(API_CHAT, body, &p, &e))
            fail_msg("%s: %s", t[i].text, e.message);
        assert_true(p.has_seed);
        assert_true((int64_t)p.sample.seed == t[i].seed);
        api_params_close(&p);
    }
}

static void defaults_are_those_of_openai(void **state)
{
    (void)state;
    struct api_params p;
    struct api_error e;
    assert_true(read_body(API_CHAT, CHAT "\"n\":1}", &p, &e));
    assert_true(p.sample.temperature == 1.0f && p.sample.top_p == 1.0f);
    assert_true(p.sample.repetition == 1.0f && p.sample.presence == 0 && p.sample.frequency == 0);
    assert_int_equal(p.sample.n_logprobs, -1);
    assert_int_equal(p.sample.top_k, 0);
    assert_int_equal(p.n, 1);
    assert_int_equal(p.max_tokens, API_ABSENT);
    assert_false(p.has_seed || p.stream || p.echo || p.ignore_eos || p.add_special);
    assert_true(p.add_generation_prompt);
    api_params_close(&p);
    assert_true(read_body(API_COMPLETIONS, COMP "\"n\":1}", &p, &e));
    assert_true(p.add_special);
    api_params_close(&p);
}

static void text_parts_are_joined_with_newlines(void **state)
{
    (void)state;
    struct api_params p;
    struct api_error e;
    assert_true(read_body(API_CHAT,
                          MESSAGE("{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":"
                                  "\"a\"},{\"type\":\"text\",\"text\":\"b\"}],\"name\":\"z\"}"),
                          &p, &e));
    const cJSON *message = cJSON_GetArrayItem(p.messages, 0);
    const cJSON *content = cJSON_GetObjectItemCaseSensitive(message, "content");
    assert_string_equal(cJSON_GetStringValue(content), "a\nb");
    assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(message, "name")),
                        "z");
    api_params_close(&p);
}

static void a_body_cut_anywhere_is_refused(void **state)
{
    (void)state;
    static const char body[] = CHAT "\"stop\":[\"\\u00e9\",\"\xc3\xa9\"],\"seed\":123,\"n\":2}";
    for (size_t n = 0; n < sizeof body - 1; n++) {
        char *exact = malloc(n ? n : 1);
        struct api_params p;
        struct api_error e = {0};
        memcpy(exact, body, n);
        assert_false(api_params_read(&p, API_CHAT, exact, n, &env, &e));
        assert_int_equal(e.http_status, 400);
        free(exact);
    }
}

static void messages_to_the_client_never_repeat_what_was_sent(void **state)
{
    (void)state;
    static const char *const body[] = {
        "{\"model\":\"SECRET\",\"messages\":[]}",
        CHAT "\"stop\":{\"SECRET\":1}}",
        CHAT "\"logit_bias\":{\"SECRET\":1}}",
        CHAT "\"metadata\":{\"SECRET\":1}}",
        CHAT "\"user\":[\"SECRET\"]}",
        MESSAGE("{\"role\":\"SECRET\",\"content\":\"\"}"),
        MESSAGE("{\"role\":\"user\",\"content\":[{\"type\":\"SECRET\"}]}"),
    };
    for (size_t i = 0; i < sizeof body / sizeof body[0]; i++) {
        struct api_params p;
        struct api_error e;
        assert_false(read_body(API_CHAT, body[i], &p, &e));
        if (strstr(e.message, "SECRET") || strstr(e.param, "SECRET"))
            fail_msg("%s", e.message);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_fault_is_refused_by_name),
        cmocka_unit_test(what_is_inside_the_limits_is_taken),
        cmocka_unit_test(every_field_refuses_every_wrong_type),
        cmocka_unit_test(counts_are_held_at_the_limit),
        cmocka_unit_test(logit_bias_holds_as_many_entries_as_its_limit),
        cmocka_unit_test(a_model_name_beyond_its_limit_is_refused_as_too_long),
        cmocka_unit_test(seeds_are_exact_over_all_64_bits),
        cmocka_unit_test(defaults_are_those_of_openai),
        cmocka_unit_test(text_parts_are_joined_with_newlines),
        cmocka_unit_test(a_body_cut_anywhere_is_refused),
        cmocka_unit_test(messages_to_the_client_never_repeat_what_was_sent),
    };
    return cmocka_run_group_tests_name("api_params", tests, NULL, NULL);
}
