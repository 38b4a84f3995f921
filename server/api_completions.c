/* api_completions.c - POST /v1/completions: the handler, and the form of its answers.
 *
 * A token that is no whole text is written "bytes:\xNN...", as OpenAI does: its text would be
 * U+FFFD, like that of many others, and top_logprobs is a map by text. */
#include "server/api.h"

#include <string.h>

#include "base/json_scan.h"
#include "server/api_call.h"
#include "server/api_format.h"

void api_completions(struct exchange *x, struct server *sv)
{
    api_call_open(x, sv, API_COMPLETIONS);
}

static void put_token(const struct api_format *f, struct buf *out, int32_t id)
{
    size_t n;
    const char *bytes = tokenizer_bytes(f->tok, id, true, &n);
    buf_put_char(out, '"');
    if (utf8_valid(bytes, n)) {
        buf_put_json(out, bytes, n);
    } else {
        buf_put_str(out, "bytes:");
        for (size_t i = 0; i < n; i++)
            buf_printf(out, "\\\\x%02x", (unsigned char)bytes[i]);
    }
    buf_put_char(out, '"');
}

static bool same_text(const struct tokenizer *tok, int32_t a, int32_t b)
{
    size_t n_a, n_b;
    const char *text_a = tokenizer_bytes(tok, a, true, &n_a);
    const char *text_b = tokenizer_bytes(tok, b, true, &n_b);
    return n_a == n_b && memcmp(text_a, text_b, n_a) == 0;
}

/* The map of one token: the likely ones, and the token itself if it is not among them.  Of two
 * with the same text the first stays: a map has no place for both. */
static void put_top(const struct api_format *f, struct buf *out, const struct sample_out_slim *t,
                    const struct top_logprob *top, int32_t n_top)
{
    bool has_token = false;
    int32_t n = 0;
    buf_put_char(out, '{');
    for (int32_t i = 0; i < n_top && top[i].id >= 0; i++) {
        bool seen = false;
        for (int32_t k = 0; k < i && !seen; k++)
            seen = same_text(f->tok, top[k].id, top[i].id);
        has_token |= same_text(f->tok, top[i].id, t->id);
        if (seen)
            continue;
        if (n++)
            buf_put_char(out, ',');
        put_token(f, out, top[i].id);
        buf_put_char(out, ':');
        api_put_logprob(out, top[i].logprob);
    }
    if (!has_token) {
        if (n)
            buf_put_char(out, ',');
        put_token(f, out, t->id);
        buf_put_char(out, ':');
        api_put_logprob(out, t->logprob);
    }
    buf_put_char(out, '}');
}

/* One of the four parallel arrays for one token. */
static void put_entry(const struct api_format *f, struct buf *out, const struct api_run *run,
                      int32_t i, int array)
{
    const struct sample_out_slim *t = &run->token[i];
    const bool unknown = i == 0 && run->first_unknown;
    if (array == 0)
        put_token(f, out, t->id);
    else if (unknown)
        buf_put_str(out, "null");
    else if (array == 1)
        api_put_logprob(out, t->logprob);
    else
        put_top(f, out, t, run->top ? run->top + (size_t)i * (size_t)run->n_top : NULL,
                run->top ? run->n_top : 0);
}

static void put_offset(const struct api_format *f, struct buf *out, int32_t id,
                       struct api_offset *o)
{
    buf_put_i64(out, o->n_chars);
    size_t n, n_now;
    const char *bytes = tokenizer_bytes(f->tok, id, false, &n);
    for (size_t at = 0; at < n; at += n_now) {
        char text[DETOK_FACTOR * (64 + 4)];
        n_now = n - at < 64 ? n - at : 64;
        const size_t n_text = detok_feed(&o->detok, bytes + at, n_now, text);
        for (size_t k = 0; k < n_text; k++)
            o->n_chars += ((unsigned char)text[k] & 0xc0) != 0x80;
    }
}

static void put_logprobs(const struct api_format *f, struct buf *out, const struct api_run *run,
                         int n_runs, struct api_offset *offset)
{
    static const char *const open[] = {"{\"tokens\":[", "],\"token_logprobs\":[",
                                       "],\"top_logprobs\":[", "],\"text_offset\":["};
    for (int array = 0; array < 4; array++) {
        bool first = true;
        buf_put_str(out, open[array]);
        for (int r = 0; r < n_runs; r++) {
            for (int32_t i = 0; i < run[r].n; i++, first = false) {
                if (!first)
                    buf_put_char(out, ',');
                if (array < 3)
                    put_entry(f, out, &run[r], i, array);
                else
                    put_offset(f, out, run[r].token[i].id, offset);
            }
        }
    }
    buf_put_str(out, "]}");
}

const struct api_shape api_shape_completions = {
    .id = "cmpl-",
    .object = "text_completion",
    .chunk_object = "text_completion",
    .text_open = ",\"text\":\"",
    .text_close = "\"",
    .delta_open = ",\"text\":\"",
    .delta_close = "\"",
    .delta_last = ",\"text\":\"\"",
    .put_logprobs = put_logprobs,
};
