/* tok_scores.h - the merges of a vocabulary that has scores in their place.
 *
 * SentencePiece joins the two neighbours whose join scores highest.  As a list of merges that is
 * every way to cut a token into two others, in the order of the whole's score, then of longer left
 * parts, then of longer right ones: the list that published tokenizer.json files have, whatever
 * a file says of the scores of user-defined tokens, which come first.
 *
 * Thread: any; no state. */
#ifndef ENGINE_TOK_SCORES_H
#define ENGINE_TOK_SCORES_H

#include "engine/tok_vocab.h"

struct tok_merge { /* two tokens that are neighbours become one */
    int32_t left, right, result;
};

/* scores: [v->n].  The strongest first; [*n], the caller frees it.  NULL with st CORRUPT or BUSY. */
struct tok_merge *tok_scores_merges(const struct tok_vocab *v, const float *scores, size_t *n,
                                    struct status *st) MUST_CHECK;

#endif
