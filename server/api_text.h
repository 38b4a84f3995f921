/* api_text.h - the tokens of one choice become the text its client sees.
 *
 * Fed token by token, it gives out whole characters, nothing that may yet turn out to
 * be the beginning of a stop string, and nothing from a stop string on.  A stream and a
 * whole answer both come from here, so their texts are equal by construction.
 *
 * Thread: one owner; nothing is allocated but what `out` grows by. */
#ifndef SERVER_API_TEXT_H
#define SERVER_API_TEXT_H

#include "base/buf.h"
#include "engine/tokenizer.h"
#include "scheduler/stop_match.h"

struct api_text {
    const struct tokenizer *tok;
    int32_t n_min;     /* tokens whose text cannot hold a stop string */
    int32_t n_tokens;  /* fed */
    uint64_t n_seen;   /* bytes fed */
    uint64_t n_shown;  /* of them, bytes given out: the answer ends before byte n_shown or later */
    uint64_t n_before; /* bytes of the first n_min tokens */
    char held[STOP_BYTES_MAX];
    size_t n_held; /* n_seen - n_shown, until a stop string is found */
    struct detok detok;
    struct stop_match match;
};

/* stop[n_stops] must live as long as t. */
void api_text_init(struct api_text *t, const struct tokenizer *tok, int32_t n_min,
                   const struct stop_string *stop, int32_t n_stops);
void api_text_feed(struct api_text *t, int32_t id, struct buf *out);
void api_text_finish(struct api_text *t, struct buf *out); /* what was held back */

static inline bool api_text_stopped(const struct api_text *t)
{
    return t->match.n_stops > 0 && t->match.hit >= 0;
}

#endif
