/* tok_vocab.h - the tokens of a vocabulary: bytes by id, and id by bytes.
 *
 * A token of a byte-level vocabulary is written with one printable character for each
 * byte, one of a vocabulary of characters with U+2581 for each space; here that is undone, so that
 * everything after works on bytes.  Special and user-defined tokens are their own text, but
 * for the spaces of a vocabulary of characters.
 *
 * struct tok_source is what a file says, as plain arrays, still unchecked.  Limits: 1 to
 * 1048575 tokens, each of 1 to 65535 bytes, 256 MiB of text in all, 4194303 merges.
 *
 * Thread: immutable after open; any thread. */
#ifndef ENGINE_TOK_VOCAB_H
#define ENGINE_TOK_VOCAB_H

#include "base/status.h"
#include "base/str.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    TOK_VOCAB_MAX = (1 << 20) - 1, /* ids and ranks share one word in tok_bpe.c */
    TOK_MERGES_MAX = (1 << 22) - 1,
    TOK_BYTES_MAX = 65535,
    TOK_TEXT_MAX = 256 << 20,
    TOK_ENDS_MAX = 16,
};

enum token_type { /* as in tokenizer.ggml.token_type */
                  TOKEN_NORMAL = 1,
                  TOKEN_UNKNOWN,
                  TOKEN_CONTROL,
                  TOKEN_USER, /* found in any text, before everything else */
                  TOKEN_UNUSED,
                  TOKEN_BYTE, /* written <0xNN> */
};

enum tok_rule { /* how an added token is looked for; a set */
                TOK_SINGLE_WORD = 1, /* only where no letter of a word touches it */
                TOK_LSTRIP = 2,      /* the spaces before it belong to it */
                TOK_RSTRIP = 4,      /* the spaces behind it too */
                TOK_NORMALIZED = 8,  /* after the others, in what normalization made of the text */
};

enum tok_whole { /* is a piece that is a token that token, whatever the merges say? */
                 TOK_WHOLE_BY_PRE, /* as the models with this pre-tokenizer do */
                 TOK_WHOLE_YES,
                 TOK_WHOLE_NO,
};

struct tok_source {
    const struct str *tokens; /* [n_tokens] */
    const int32_t *types;          /* [n_tokens], or NULL: all are normal */
    const uint8_t *rules;     /* [n_tokens] enum tok_rule, or NULL: none */
    const struct str *merges; /* [n_merges] "LEFT RIGHT", the first is the strongest */
    size_t n_tokens, n_merges;
    bool chars; /* merging begins with characters, and a character that is no token comes as the
                   tokens of its bytes; else with bytes */
    const float *scores; /* [n_tokens] instead of merges, which follow from them; or NULL */
    struct str pre;        /* name of the pre-tokenizer */
    int64_t bos, eos, eot, eom; /* -1 = the file has none */
    int add_bos, add_eos;       /* 0, 1; -1 = the file does not say */
    const int64_t *ends;        /* [n_ends] what ends a generation; with none, known texts do */
    size_t n_ends;
    enum tok_whole whole;
    bool nfc; /* text is brought to normalization form C first */
};

enum {                  /* how a token got its bytes; also a set to look in */
       TOK_PIECE = 1,   /* normal, written as its kind of vocabulary is: what merges make */
       TOK_LITERAL = 2, /* normal, but written otherwise: its own text */
       TOK_USER = 4,
       TOK_SPECIAL = 8, /* control, unknown, unused: no text in answers */
       TOK_BYTE = 16,
       TOK_ANY = 31,
};

struct tok_cell { /* of the table from bytes to id */
    uint32_t tag; /* high half of the hash */
    int32_t id;   /* -1 = free */
    uint32_t first, n_bytes;
};

enum { TOK_ALPHABET_END = 0x100 + 68 }; /* the last characters stand for unprintable bytes */

struct tok_vocab {
    int16_t byte_of[TOK_ALPHABET_END]; /* by character; -1 = not of the alphabet */
    bool chars; /* as the source says */
    int32_t n;
    uint32_t bytes_max;    /* of one token */
    char *bytes;           /* all tokens, one after the other */
    uint32_t *first;       /* [n + 1] token id is bytes [first[id], first[id + 1]) */
    uint8_t *kind;         /* [n] TOK_PIECE ... */
    struct tok_cell *cell; /* [mask + 1] */
    uint32_t mask;
};

bool tok_vocab_open(struct tok_vocab *v, const struct tok_source *src,
                    struct status *st) MUST_CHECK;
void tok_vocab_close(struct tok_vocab *v);
int32_t tok_vocab_find(const struct tok_vocab *v, const char *bytes, size_t n,
                       unsigned kinds); /* or -1 */

/* The token of a vocabulary of characters that merges make of these bytes: a piece, or else a
 * user-defined one; or -1. */
int32_t tok_vocab_symbol(const struct tok_vocab *v, const char *bytes, size_t n);

enum { TOK_SPACE_BYTES = 3 };
extern const char tok_space[TOK_SPACE_BYTES + 1]; /* U+2581, which stands for a space */

/* The byte that a token written <0xNN> stands for.  False when it is not written so. */
bool tok_vocab_byte(const struct str *text, char *out);
/* Undoes how a piece is written.  False when none is written so; out has room for text->n. */
bool tok_vocab_decode(const struct tok_vocab *v, const struct str *text, char *out,
                      size_t *n_out);

#endif
