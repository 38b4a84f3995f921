/* tok_added.h - finds tokens that are cut out of a text before it is split: special and
 * user-defined ones.
 *
 * The leftmost match wins, and of those the longest.  User-defined tokens match anywhere;
 * special ones only within a trusted span, or anywhere if the caller says so.  Spans that
 * touch count as one.
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
};

bool tok_added_open(struct tok_added *a, const struct tok_vocab *v, const int32_t *types,
                    struct status *st) MUST_CHECK;
void tok_added_close(struct tok_added *a);

struct tok_scan {
    const struct tok_added *added;
    const uint8_t *kind;
    const char *text;
    size_t n;
    bool trust_all;
    const struct text_span *span; /* [n_spans] */
    size_t n_spans;

    size_t i_span;     /* the next span that was not looked at */
    size_t first, end; /* the trusted span now; empty before the first */
};

struct tok_match { /* token id is the bytes [first, end) */
    int32_t id;
    size_t first, end;
};

/* The first match that starts at `from` or later; `from` does not go back.  False = none. */
bool tok_scan_next(struct tok_scan *s, size_t from, struct tok_match *m);

#endif
