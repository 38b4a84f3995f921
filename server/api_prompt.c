/* api_prompt.c - rendering, encoding and decoding for the OpenAI surface. */
#include "server/api_prompt.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

#include "engine/chat.h"
#include "engine/tokenizer.h"

enum { SPECIALS_MAX = 16, SLICE = 256 }; /* ids that encoding adds beyond one for each byte */

static bool refuse_memory(struct api_error *e)
{
    api_error_set(e, 503, "out_of_memory", "", "no memory for this request now");
    e->retry_after_s = 1;
    return false;
}

static bool encode_text(struct api_prompt *out, const struct server *sv, const char *text, size_t n,
                        const struct encode_options *how, const struct api_env *env,
                        struct api_error *e)
{
    size_t n_max = (size_t)env->context;
    if (n + SPECIALS_MAX < n_max) /* a token stands for one byte at least */
        n_max = n + SPECIALS_MAX;
    out->id = malloc(n_max * sizeof *out->id);
    if (!out->id)
        return refuse_memory(e);
    struct status st = {0};
    const int64_t got = tokenizer_encode(sv->tok, text, n, how, out->id, n_max, &st);
    if (got >= 0) {
        out->n = (int32_t)got;
        int32_t *less = realloc(out->id, (size_t)(got ? got : 1) * sizeof *less);
        out->id = less ? less : out->id;
        return true;
    }
    if (st.code == STATUS_TOO_LARGE)
        api_error_set(e, 400, "context_length_exceeded", "",
                      "the context is %d tokens, but the prompt has more than %d", env->context,
                      env->context);
    else
        api_error_from_status(e, &st);
    return false;
}

static bool encode_ids(struct api_prompt *out, const struct api_prompt_text *from,
                       struct api_error *e)
{
    out->id = malloc((size_t)(from->n_ids ? from->n_ids : 1) * sizeof *out->id);
    if (!out->id)
        return refuse_memory(e);
    const cJSON *id;
    cJSON_ArrayForEach(id, from->ids)
    {
        out->id[out->n++] = (int32_t)id->valuedouble;
    }
    return true;
}

static bool encode_messages(struct api_prompt *out, const struct server *sv,
                            const struct api_params *p, const struct api_env *env,
                            struct api_error *e)
{
    if (!sv->chat) {
        api_error_set(e, 400, "unsupported", "messages", "this model has no chat template");
        return false;
    }
    const struct chat_input in = {.messages = p->messages,
                                  .extra = p->template_args,
                                  .add_generation_prompt = p->add_generation_prompt,
                                  .bos_token = sv->bos_text,
                                  .eos_token = sv->eos_text,
                                  .now_unix_s = clock_unix_s()};
    struct chat_output rendered = {0};
    struct status st = {0};
    bool ok = chat_template_render(sv->chat, &in, &rendered, &st);
    if (ok) {
        const struct encode_options how = {.add_special = p->add_special,
                                           .trusted = rendered.trusted,
                                           .n_trusted = rendered.n_trusted};
        ok = encode_text(out, sv, rendered.text, rendered.n, &how, env, e);
    } else if (st.code == STATUS_TOO_LARGE) {
        api_error_set(e, 400, "template_limit", "messages", "the chat template passed a limit: %s",
                      st.msg);
    } else {
        api_error_from_status(e, &st);
        memcpy(e->param, "messages", sizeof "messages");
    }
    chat_output_close(&rendered);
    return ok;
}

bool api_prompt_encode(struct api_prompt *out, const struct server *sv, const struct api_params *p,
                       int32_t i, const struct api_env *env, struct api_error *e)
{
    *out = (struct api_prompt){0};
    bool ok;
    const char *param = "messages";
    if (p->messages) {
        ok = encode_messages(out, sv, p, env, e);
    } else if (p->prompt[i].ids) {
        return encode_ids(out, &p->prompt[i], e); /* fails with nothing taken */
    } else {
        const struct encode_options how = {.add_special = p->add_special, .parse_special = true};
        ok = encode_text(out, sv, p->prompt[i].text, p->prompt[i].n_text, &how, env, e);
        param = "prompt";
    }
    if (ok)
        return true;
    if (e->http_status == 400 && !e->param[0])
        memcpy(e->param, param, strlen(param) + 1);
    api_prompt_close(out);
    return false;
}

bool api_ids_text(const struct tokenizer *tok, const int32_t *id, int32_t n, bool special,
                  struct buf *out)
{
    struct detok d = {0};
    char text[DETOK_FACTOR * (SLICE + 4)];
    for (int32_t i = 0; i < n; i++) {
        size_t n_bytes, n_now;
        const char *bytes = tokenizer_bytes(tok, id[i], special, &n_bytes);
        for (size_t at = 0; at < n_bytes; at += n_now) {
            n_now = n_bytes - at < SLICE ? n_bytes - at : SLICE;
            buf_put(out, text, detok_feed(&d, bytes + at, n_now, text));
        }
    }
    return buf_put(out, text, detok_finish(&d, text));
}

bool api_prompt_keep_text(struct api_prompt *out, const struct server *sv,
                          const struct api_prompt_text *from, struct api_error *e)
{
    struct buf text;
    buf_init(&text, (size_t)1 << 30);
    const bool ok = from->ids ? api_ids_text(sv->tok, out->id, out->n, false, &text)
                              : buf_put(&text, from->text, from->n_text);
    if (!ok) {
        buf_close(&text);
        return refuse_memory(e);
    }
    out->text = text.at; /* the buf is not closed: its bytes live on here */
    out->n_text = text.n;
    return true;
}

void api_prompt_close(struct api_prompt *p)
{
    free(p->id);
    free(p->text);
    *p = (struct api_prompt){0};
}
