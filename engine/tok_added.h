/* tok_added.h - finds tokens that are cut out of a text before it is split: special and
 * user-defined ones.
 *
 * The leftmost match wins, and of those the longest.  User-defined tokens match anywhere;
 * special ones only within a trusted span, or anywhere if the caller says so.  Spans that
 * touch count as one.  A match that its token's rules refuse is skipped whole, and one that
 * takes the spaces beside it is longer than its token, as in the reference library.
 *
 * Thread: struct tok_added is immutable after open; a struct tok_scan has one owner. */
#ifndef ENGINE_TOK_ADDED_H
#define ENGINE_TOK_ADDED_H

#include "engine/tok_vocab.h"
#include "engine/tokenizer.h"

struct tok_node {           /* of a trie; children are a list */
    int32_t child, sibling; /* -1 = none */
    int32_t id;             /* the token that ends here, or -1 */
    char byte;
};

struct tok_added {
    struct tok_node *node;
    int32_t n_nodes;
    int32_t root[256]; /* by first byte; -1 = none */
    bool has_user;
    uint8_t *rules; /* [vocabulary] enum tok_rule; NULL <=> no token has any */
};

/* The tokens of src that are looked for before normalization, or those after it. */
bool tok_added_open(struct tok_added *a, const struct tok_vocab *v, const struct tok_source *src,
                    bool normalized, struct status *st) MUST_CHECK;
void tok_added_close(struct tok_added *a);

struct tok_scan {
    const struct tok_added *added;
    const uint8_t *kind;
    const char *text;
    size_t begin, n; /* [begin, n) is looked at, and is all that rules see */
    bool trust_all;
    const struct text_span *span; /* [n_spans] */
    size_t n_spans;

    size_t i_span;     /* the next span that was not looked at */
    size_t first, end; /* the trusted span now; empty before the first */
};

struct tok_match { /* token id stands for the bytes [first, end) */
    int32_t id;
    size_t first, end;
};

/* The first match that starts at `from` or later; `from` does not go back.  False = none. */
bool tok_scan_next(struct tok_scan *s, size_t from, struct tok_match *m);

#endif
