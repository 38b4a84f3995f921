/* tok_bpe.h - byte pair encoding of one piece of text.
 *
 * The pair whose merge has the lowest rank is merged first, of equal ones the leftmost,
 * until no pair can merge (Sennrich et al. 2016, in the order of the published
 * tokenizers).  Merging begins with bytes, of which those that no token stands for are left out, as
 * the reference library does; or with characters, of which those that are no token come as
 * their bytes.  Most pieces of a byte-level text are tokens themselves: those are one table look-up.
 *
 * No merge makes a special token, whatever the file says: text cannot become control.
 * Short pieces are merged by scanning, in O(n^2) with a small constant; long ones with a
 * heap, in O(n log n).
 *
 * Thread: immutable after open; any thread. */
#ifndef ENGINE_TOK_BPE_H
#define ENGINE_TOK_BPE_H

#include "engine/tok_vocab.h"

struct tok_bpe {
    const struct tok_vocab *vocab;
    int32_t byte_token[256]; /* -1 = no token stands for it; in a vocabulary of characters all do */
    uint64_t *pair;          /* [pair_mask + 1] left << 42 | right << 22 | rank */
    uint64_t pair_mask;
    int32_t *result; /* [n_merges] by rank */
    uint8_t *whole;  /* [vocab->n] a piece with these bytes is this token alone */
};

struct tok_ids { /* where ids go */
    int32_t *at;
    size_t n, n_max;
};

/* `whole_words`: a piece that is a token is that token, even where merges would end elsewhere. */
bool tok_bpe_open(struct tok_bpe *b, const struct tok_source *src, const struct tok_vocab *v,
                  bool whole_words, struct status *st) MUST_CHECK;
void tok_bpe_close(struct tok_bpe *b);

/* Appends the ids of one piece.  False with TOO_LARGE when they do not fit, BUSY without memory;
 * what was appended before is then meaningless. */
bool tok_bpe_encode(const struct tok_bpe *b, const char *piece, size_t n, struct tok_ids *ids,
                    struct status *st) MUST_CHECK;
bool tok_ids_refuse(const struct tok_ids *ids, struct status *st); /* TOO_LARGE */

#endif
