/* api_prompt.h - what a checked body asks to run on, as token ids.
 *
 * Messages are rendered by the model's template; only what the template wrote can become
 * control tokens, never the text of a message.  A completion's prompt is the whole input,
 * written by whoever holds the key, so there the text of a control token is that token,
 * as it would be if the caller had sent ids.
 *
 * Thread: any; the prep threads in the daemon. */
#ifndef SERVER_API_PROMPT_H
#define SERVER_API_PROMPT_H

#include "server/api_params.h"

struct api_prompt {
    int32_t *id; /* [n] owned */
    int32_t n;
    char *text; /* [n_text] what echo shows; owned; NULL unless asked for */
    size_t n_text;
};

/* Prompt i (0 for messages) in at most env->context tokens. */
bool api_prompt_encode(struct api_prompt *out, const struct server *sv, const struct api_params *p,
                       int32_t i, const struct api_env *env, struct api_error *e);
/* Fills text: the prompt as it was sent, or what its ids stand for. */
bool api_prompt_keep_text(struct api_prompt *out, const struct server *sv,
                          const struct api_prompt_text *from, struct api_error *e);
void api_prompt_close(struct api_prompt *p);

/* The text of ids, whole characters only. */
bool api_ids_text(const struct tokenizer *tok, const int32_t *id, int32_t n, bool special,
                  struct buf *out);

#endif
