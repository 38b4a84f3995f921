/* tokenizer.h - text to token ids and back, exactly as the model was trained.
 *
 * Built from GGUF metadata (tokenizer.ggml.*) or from the tokenizer.json of a Hugging Face
 * folder: byte-level BPE with one of the pre-tokenizers of tok_split.h, or SentencePiece's BPE over
 * characters with bytes for what is left; added and special tokens, BOS and EOS rules.  Ids equal those of Hugging Face tokenizers on the same vocabulary.
 *
 * User text never becomes a control token: tokenizer_encode() maps the text of a
 * special token to its id only in the spans its caller marked as trusted (what the
 * chat template wrote), unless told otherwise.
 *
 * Encoding is linear in practice and O(n log n) at worst, whatever the text, and
 * does not recurse.
 *
 * Thread: immutable after open; any thread. */
#ifndef ENGINE_TOKENIZER_H
#define ENGINE_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

struct gguf;
struct tokenizer;

struct tokenizer *tokenizer_open(const struct gguf *g, struct status *st) MUST_CHECK;
/* From folder/tokenizer.json, with what tokenizer_config.json, generation_config.json and
 * config.json say about its special tokens. */
struct tokenizer *tokenizer_open_folder(const char *folder, struct status *st) MUST_CHECK;
void tokenizer_close(struct tokenizer *t);

struct text_span { /* bytes [first, end) of the text */
    size_t first, end;
};

struct encode_options {
    bool add_special;   /* BOS / EOS as the model's file asks */
    bool parse_special; /* special-token text becomes its id everywhere */
    const struct text_span *trusted; /* [n_trusted], ascending: or only there */
    size_t n_trusted;
};

/* Ids of text (valid UTF-8) into ids[0..ids_max).  Returns the count.  -1 with st TOO_LARGE when
 * there are more than ids_max ("prompt has more than N tokens"), BUSY when memory is out. */
int64_t tokenizer_encode(const struct tokenizer *t, const char *text, size_t n,
                         const struct encode_options *opts, int32_t *ids, size_t ids_max,
                         struct status *st) MUST_CHECK;

int32_t tokenizer_vocab(const struct tokenizer *t);
const char *tokenizer_split(const struct tokenizer *t); /* name of the pre-tokenizer */
int32_t tokenizer_bos(const struct tokenizer *t); /* -1 = none */
int32_t tokenizer_eos(const struct tokenizer *t); /* -1 = none */
bool tokenizer_is_end(const struct tokenizer *t, int32_t id);  /* ends a generation: EOS, EOT */
/* All ids that end a generation, ascending. */
const int32_t *tokenizer_ends(const struct tokenizer *t, int32_t *n);
bool tokenizer_is_special(const struct tokenizer *t, int32_t id); /* control: no text in answers */

/* The bytes token id stands for (a piece of UTF-8 that may split a character).  Special tokens
 * give their text only if `special`; else 0 bytes.  The pointer lives as long as t. */
const char *tokenizer_bytes(const struct tokenizer *t, int32_t id, bool special, size_t *n);
int32_t tokenizer_find(const struct tokenizer *t, const char *text, size_t n); /* token, or -1 */

/* Streaming decode: never gives out half a character.  Feed one token, get the bytes that are
 * whole now; up to 3 bytes wait inside.  Bytes that can never become a character come out as
 * U+FFFD, one for each maximal subpart (Unicode 3.9, as Python's errors="replace").  `finish`
 * gives what still waits, as U+FFFD.  The concatenation equals decoding all bytes at once. */
struct detok {
    char held[4];
    uint8_t n_held;
};
enum { DETOK_FACTOR = 3 }; /* out bytes <= DETOK_FACTOR * (in bytes + 4) */
size_t detok_feed(struct detok *d, const char *bytes, size_t n, char *out);
size_t detok_finish(struct detok *d, char *out); /* <= 12 bytes */

#endif
