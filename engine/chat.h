/* chat.h - the model's own chat template: messages in, prompt text out.
 *
 * Templates are Jinja (the subset that chat templates of published models use) and
 * come from the model's file, so they are run by a bounded interpreter with no
 * access to anything but the values given: no attribute of the host, no import, no
 * file.  Limits: template 256 KiB, nesting 64, 2 M steps, 4 MiB output and 64 MiB of
 * values per render.  What passes a limit is an error, never a hang.
 *
 * Semantics are those of jinja2 as Hugging Face transformers sets it up
 * (ImmutableSandboxedEnvironment, trim_blocks, lstrip_blocks, loopcontrols, its
 * tojson, raise_exception and strftime_now): the oracle of the tests.
 *
 * The output carries which bytes the template wrote and which came from the caller's
 * values, so that only the template's own text may become control tokens.
 *
 * Thread: struct chat_template is immutable after open; any number of renders at once. */
#ifndef ENGINE_CHAT_H
#define ENGINE_CHAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "engine/tokenizer.h"

struct cJSON;
struct chat_template;

/* Compile; an unknown filter, test, function or tag is an error here with line:column. */
struct chat_template *chat_template_open(const char *source, size_t n, struct status *st) MUST_CHECK;
void chat_template_close(struct chat_template *t);

struct chat_input {
    const struct cJSON *messages;  /* array of objects, as the client sent them */
    const struct cJSON *tools;     /* array or NULL */
    const struct cJSON *extra;     /* object of further variables (chat_template_kwargs) or NULL */
    bool add_generation_prompt;
    const char *bos_token, *eos_token; /* text, "" when the model has none */
    int64_t now_unix_s;            /* for strftime_now, UTC */
};

struct chat_output {
    char *text; /* NUL-terminated, n bytes; owned: chat_output_close */
    size_t n;
    struct text_span *trusted; /* bytes the template wrote, ascending, merged */
    size_t n_trusted;
};

/* False with st: BAD_INPUT when the template itself refused (raise_exception: its text),
 * TOO_LARGE for a limit, BAD_INPUT for a type error in the template ("line 3: ..."). */
bool chat_template_render(const struct chat_template *t, const struct chat_input *in,
                          struct chat_output *out, struct status *st) MUST_CHECK;
void chat_output_close(struct chat_output *out);

#endif
