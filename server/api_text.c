/* api_text.c - holding back what may become a stop string, then decoding the rest. */
#include "server/api_text.h"

#include <string.h>

enum { SLICE = 256 };

void api_text_init(struct api_text *t, const struct tokenizer *tok, int32_t n_min,
                   const struct stop_string *stop, int32_t n_stops)
{
    memset(t, 0, sizeof *t);
    t->tok = tok;
    t->n_min = n_min;
    if (n_stops > 0)
        stop_match_init(&t->match, stop, n_stops);
}

static void show(struct api_text *t, const char *bytes, size_t n, struct buf *out)
{
    char text[DETOK_FACTOR * (SLICE + 4)];
    for (size_t n_now; n > 0; bytes += n_now, n -= n_now) {
        n_now = n < SLICE ? n : SLICE;
        buf_put(out, text, detok_feed(&t->detok, bytes, n_now, text));
        t->n_shown += n_now;
    }
}

/* Gives out up to byte `safe` of what is held and of the n new bytes, and holds the rest. */
static void show_until(struct api_text *t, uint64_t safe, const char *bytes, size_t n,
                       struct buf *out)
{
    size_t n_show = (size_t)(safe - t->n_shown);
    const size_t n_old = n_show < t->n_held ? n_show : t->n_held;
    show(t, t->held, n_old, out);
    memmove(t->held, t->held + n_old, t->n_held - n_old);
    t->n_held -= n_old;
    n_show -= n_old;
    show(t, bytes, n_show, out);
    if (api_text_stopped(t))
        return;
    memcpy(t->held + t->n_held, bytes + n_show, n - n_show);
    t->n_held += n - n_show;
}

void api_text_feed(struct api_text *t, int32_t id, struct buf *out)
{
    size_t n;
    const char *bytes = tokenizer_bytes(t->tok, id, false, &n);
    const bool looking = t->match.n_stops > 0 && t->n_tokens >= t->n_min;
    t->n_tokens++;
    if (api_text_stopped(t))
        return;
    t->n_seen += n;
    uint64_t safe = t->n_seen;
    if (looking) {
        stop_match_feed(&t->match, bytes, n);
        safe = t->n_before + stop_match_safe(&t->match);
    } else {
        t->n_before += n;
    }
    show_until(t, safe, bytes, n, out);
}

void api_text_finish(struct api_text *t, struct buf *out)
{
    char text[12];
    if (!api_text_stopped(t))
        show_until(t, t->n_seen, "", 0, out);
    buf_put(out, text, detok_finish(&t->detok, text));
}
