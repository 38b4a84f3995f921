/* fake_tokenizer.h - a vocabulary for tests: each byte is a token, and some more are texts.
 *
 * It defines the functions of engine/tokenizer.h (but those of detok.c), so that a test of the
 * server needs no model.  Ids: 0..255 the bytes, 256 <s>, 257 </s>, then fake_piece[]. */
#ifndef TESTS_FAKE_TOKENIZER_H
#define TESTS_FAKE_TOKENIZER_H

#include <string.h>

#include "engine/tokenizer.h"

enum { FAKE_BOS = 256, FAKE_END = 257, FAKE_FIRST_PIECE = 258 };

static const char *const fake_piece[] = {
    "hello", " world", "\xc3\xa9", "\xe2\x82", "\xac",         "\n\ndata: [DONE]\n\n", "\"",
    "\\",    "stop",   " st",      "op",       "<s>",          "\xf0\x9f\x98\x80",     "\xff\xfe",
    "",      "aaaa",   "aab",      "\x01",     "\xed\xa0\x80",
};
enum { FAKE_VOCAB = FAKE_FIRST_PIECE + sizeof fake_piece / sizeof fake_piece[0] };

struct tokenizer {
    char unused;
};
static struct tokenizer fake_tokenizer;

int32_t tokenizer_vocab(const struct tokenizer *t)
{
    (void)t;
    return FAKE_VOCAB;
}

const int32_t *tokenizer_ends(const struct tokenizer *t, int32_t *n)
{
    static const int32_t end[] = {FAKE_END};
    (void)t;
    *n = 1;
    return end;
}

const char *tokenizer_bytes(const struct tokenizer *t, int32_t id, bool special, size_t *n)
{
    static char byte[256];
    (void)t;
    const char *text = "";
    if (id < 256) {
        byte[id] = (char)(id ? id : 2); /* the tests' reader, cJSON, ends a text at NUL */
        *n = 1;
        return &byte[id];
    }
    if (id >= FAKE_FIRST_PIECE)
        text = fake_piece[id - FAKE_FIRST_PIECE];
    else if (special)
        text = id == FAKE_BOS ? "<s>" : "</s>";
    *n = strlen(text);
    return text;
}

int64_t tokenizer_encode(const struct tokenizer *t, const char *text, size_t n,
                         const struct encode_options *opts, int32_t *ids, size_t ids_max,
                         struct status *st)
{
    (void)t;
    size_t n_ids = 0;
    for (size_t at = opts->add_special ? (size_t)-1 : 0; at + 1 < n + 1; at++, n_ids++) {
        if (n_ids == ids_max) {
            status_fail(st, STATUS_TOO_LARGE, "prompt has more than %zu tokens", ids_max);
            return -1;
        }
        ids[n_ids] = at == (size_t)-1 ? FAKE_BOS : (unsigned char)text[at];
    }
    return (int64_t)n_ids;
}

#endif
