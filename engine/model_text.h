/* model_text.h - what a checkpoint says about text: its tokenizer and its chat template.
 *
 * From GGUF metadata, or from the files of a Hugging Face folder: chat_template.jinja, else
 * "chat_template" of tokenizer_config.json (of several, the one named "default").
 *
 * Thread: one, at start; what it opens is immutable. */
#ifndef ENGINE_MODEL_TEXT_H
#define ENGINE_MODEL_TEXT_H

#include "base/str.h"
#include "engine/tokenizer.h"

struct model_text {
    struct tokenizer *tok;
    char *template; /* [n_template]; NULL <=> the checkpoint has none */
    size_t n_template;
};

/* False with st; `out` is then empty. */
bool model_text_open(struct model_text *out, const char *path, struct status *st) MUST_CHECK;
void model_text_close(struct model_text *t); /* accepts an empty one */

#endif
