/* api_params.h - one table that knows every parameter of the OpenAI surface and its range.
 *
 * api_params_read() takes a body as it came and either fills struct api_params, every
 * value checked, or refuses with the error the client gets: it names the field, the
 * limit and what was found.  Fields nobody knows are ignored; fields that are known and
 * not supported are refused by name, so that no parameter is dropped in silence.  null
 * is the same as absent, as in OpenAI's clients.
 *
 * It reads only its arguments: no lock, no clock, no global state.
 *
 * Thread: any; the prep threads in the daemon, so that a large body never stops the loop. */
#ifndef SERVER_API_PARAMS_H
#define SERVER_API_PARAMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "scheduler/request.h"
#include "server/http.h"
#include "server/server.h"

struct cJSON;

enum api_kind { /* bits: a rule of the table says where it holds */
                API_COMPLETIONS = 1,
                API_CHAT = 2,
                API_TOKENIZE = 4,
                API_DETOKENIZE = 8,
};

enum {
    API_MODEL_BYTES_MAX = 4096,
    API_USER_BYTES_MAX = 512,
    API_NAME_BYTES_MAX = 256,
    API_SALT_BYTES_MAX = 128,
    API_STOP_IDS_MAX = 32,
    API_KWARGS_MAX = 16,
    API_KWARGS_BYTES_MAX = 4096,
    API_METADATA_MAX = 16,
    API_MAX_TOKENS_DEFAULT = 16, /* of completions, as OpenAI's */
    API_ABSENT = -1,
};

struct api_env { /* what a request is checked against */
    const char *model_name;
    struct server_limits limits;
    int32_t vocab; /* ids are below it */
    int32_t
        context; /* tokens of one sequence: the model's, or the whole KV cache if that is less */
};

struct api_prompt_text { /* borrowed from the parsed body; text or ids */
    const char *text;
    size_t n_text;
    const struct cJSON *ids;
    int32_t n_ids;
};

struct api_params {
    struct cJSON *root; /* the parsed body; owned */
    bool has_model;

    /* What to run on: n_prompts of `prompt`, or messages. */
    struct api_prompt_text *prompt; /* owned */
    int32_t n_prompts;
    struct cJSON *messages;
    const struct cJSON *template_args; /* chat_template_kwargs or NULL */
    bool add_generation_prompt;
    bool add_special; /* BOS as the model's file asks */

    /* How. */
    int32_t n;          /* choices of each prompt */
    int32_t max_tokens; /* API_ABSENT = the endpoint's default */
    int32_t max_completion_tokens, best_of;
    int32_t min_tokens;
    struct sample_params sample; /* seed: only if has_seed */
    bool has_seed;
    bool ignore_eos, echo;
    bool wants_logprobs; /* chat: logprobs; completions: logprobs present */
    int32_t top_logprobs;
    struct sample_bias *bias; /* [n_bias] owned */
    int32_t n_bias;
    int32_t stop_id[API_STOP_IDS_MAX];
    int32_t n_stop_ids;
    char stop[STOP_STRINGS_MAX][STOP_BYTES_MAX];
    int32_t stop_bytes[STOP_STRINGS_MAX];
    int32_t n_stops;
    char cache_salt[API_SALT_BYTES_MAX];
    int32_t n_cache_salt;

    /* How to answer. */
    bool stream, has_stream_options, include_usage;
    bool return_token_strs;
};

/* False with *e filled; *p then holds nothing. */
bool api_params_read(struct api_params *p, enum api_kind kind, const char *text, size_t n,
                     const struct api_env *env, struct api_error *e);
/* Frees the parsed body, and with it prompt and messages; the rest stays. */
void api_params_drop_body(struct api_params *p);
void api_params_close(struct api_params *p); /* accepts a zeroed one */

#endif
