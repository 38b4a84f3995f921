/* api_chat.c - POST /v1/chat/completions: the handler, and the form of its answers. */
#include "server/api.h"
#include "server/api_call.h"
#include "server/api_format.h"

void api_chat(struct exchange *x, struct server *sv)
{
    api_call_open(x, sv, API_CHAT);
}

/* {"token":..,"logprob":..,"bytes":[..]: the brace stays open. */
static void put_token(const struct api_format *f, struct buf *out, int32_t id, float logprob)
{
    size_t n;
    const char *bytes = tokenizer_bytes(f->tok, id, true, &n);
    buf_put_str(out, "{\"token\":\"");
    buf_put_json(out, bytes, n);
    buf_put_str(out, "\",\"logprob\":");
    api_put_logprob(out, logprob);
    buf_put_str(out, ",\"bytes\":[");
    for (size_t i = 0; i < n; i++) {
        if (i)
            buf_put_char(out, ',');
        buf_put_u64(out, (unsigned char)bytes[i]);
    }
    buf_put_char(out, ']');
}

static void put_entry(const struct api_format *f, struct buf *out, const struct api_run *run,
                      int32_t i)
{
    put_token(f, out, run->token[i].id, run->token[i].logprob);
    buf_put_str(out, ",\"top_logprobs\":[");
    const struct top_logprob *top = run->top ? run->top + (size_t)i * (size_t)run->n_top : NULL;
    for (int32_t k = 0; top && k < run->n_top && top[k].id >= 0; k++) {
        if (k)
            buf_put_char(out, ',');
        put_token(f, out, top[k].id, top[k].logprob);
        buf_put_char(out, '}');
    }
    buf_put_str(out, "]}");
}

static void put_logprobs(const struct api_format *f, struct buf *out, const struct api_run *run,
                         int n_runs, struct api_offset *offset)
{
    (void)offset; /* this endpoint's tokens carry their bytes instead */
    bool first = true;
    buf_put_str(out, "{\"content\":[");
    for (int r = 0; r < n_runs; r++) {
        for (int32_t i = 0; i < run[r].n; i++, first = false) {
            if (!first)
                buf_put_char(out, ',');
            put_entry(f, out, &run[r], i);
        }
    }
    buf_put_str(out, "],\"refusal\":null}");
}

const struct api_shape api_shape_chat = {
    .id = "chatcmpl-",
    .object = "chat.completion",
    .chunk_object = "chat.completion.chunk",
    .text_open = ",\"message\":{\"role\":\"assistant\",\"content\":\"",
    .text_close = "\",\"refusal\":null}",
    .delta_open = ",\"delta\":{\"content\":\"",
    .delta_close = "\"}",
    .delta_first = ",\"delta\":{\"role\":\"assistant\",\"content\":\"\"}",
    .delta_last = ",\"delta\":{}",
    .put_logprobs = put_logprobs,
};
