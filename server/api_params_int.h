/* api_params_int.h - what the readers of single parameters share.
 *
 * api_params.c has the table and the simple kinds, api_params_take.c the parameters with
 * a form of their own (stop, logit_bias, ...), api_params_input.c prompts and messages.
 *
 * Thread: as api_params.h. */
#ifndef SERVER_API_PARAMS_INT_H
#define SERVER_API_PARAMS_INT_H

#include <cjson/cJSON.h>

#include "server/api_params.h"

struct reader { /* one body being read */
    struct api_params *p;
    enum api_kind kind;
    const char *text; /* the body, valid JSON */
    const struct api_env *env;
    struct api_error *e;
    int32_t member; /* which member of the body is being read, from 0 */
};

enum { FOUND_BYTES = 64 };
/* "a string", "an array", "2.5": what was sent, without its content. */
const char *api_found(const cJSON *v, char text[FOUND_BYTES]);

/* All return false, so that a reader can end with them. */
bool api_refuse_type(struct reader *rd, const char *path, const char *want, const cJSON *v);
bool api_refuse_value(struct reader *rd, const char *path, const char *want, const cJSON *v);
bool api_refuse_unsupported(struct reader *rd, const char *path);
bool api_refuse_memory(struct reader *rd);

/* A whole number in [min, max]. */
bool api_read_int(struct reader *rd, const char *path, const cJSON *v, int64_t min, int64_t max,
                  int32_t *out);
bool api_read_bool(struct reader *rd, const char *path, const cJSON *v, bool *out);
/* A string of 0 to n_max bytes. */
bool api_read_text(struct reader *rd, const char *path, const cJSON *v, size_t n_max);

/* A parameter with a form of its own. */
typedef bool api_take(struct reader *rd, const char *name, const cJSON *v);
api_take api_take_model, api_take_n, api_take_logprobs, api_take_top_logprobs, api_take_seed,
    api_take_stop, api_take_stop_token_ids, api_take_logit_bias, api_take_stream_options,
    api_take_response_format, api_take_modalities, api_take_tools, api_take_tool_choice,
    api_take_cache_salt, api_take_metadata, api_take_logit_bias, api_take_template_args;
api_take api_take_prompt, api_take_messages, api_take_tokens;

#endif
