/* tok_scores.c - cuts every token in two, and sorts what comes of it. */
#include "engine/tok_scores.h"

#include <math.h>
#include <stdlib.h>

/* A token of n bytes is cut and looked up n times: n^2 bytes are read.  Those of published
 * vocabularies have 93 at most. */
enum { CUT_BYTES_MAX = 256 };

struct cut {
    struct tok_merge merge;
    float score;              /* of the whole */
    uint16_t n_left, n_right; /* characters */
};

struct cuts {
    struct cut *at; /* NULL while they are only counted */
    size_t n;
};

static bool is_tail(char c)
{
    return ((unsigned char)c & 0xC0) == 0x80;
}

static uint16_t count_chars(const char *text, size_t n)
{
    uint16_t n_chars = 0;
    for (size_t i = 0; i < n; i++)
        n_chars = (uint16_t)(n_chars + !is_tail(text[i]));
    return n_chars;
}

static void cut_token(const struct tok_vocab *v, int32_t id, float score, struct cuts *cuts)
{
    const char *text = v->bytes + v->first[id];
    const size_t n = v->first[id + 1] - v->first[id];
    for (size_t i = 1; i < n; i++) {
        if (is_tail(text[i]))
            continue;
        const int32_t left = tok_vocab_symbol(v, text, i);
        const int32_t right = left < 0 ? -1 : tok_vocab_symbol(v, text + i, n - i);
        if (right < 0)
            continue;
        if (cuts->at)
            cuts->at[cuts->n] = (struct cut){.merge = {left, right, id},
                                             .score = score,
                                             .n_left = count_chars(text, i),
                                             .n_right = count_chars(text + i, n - i)};
        cuts->n++;
    }
}

static void cut_all(const struct tok_vocab *v, const float *scores, struct cuts *cuts)
{
    cuts->n = 0;
    for (int32_t id = 0; id < v->n; id++) {
        if (v->kind[id] == TOK_USER)
            cut_token(v, id, 0, cuts);
        else if (v->kind[id] == TOK_PIECE)
            cut_token(v, id, scores[id], cuts);
    }
}

/* A negative result: a goes before b. */
static int by_strength(const void *x, const void *y)
{
    const struct cut *a = x, *b = y;
    if (a->score > b->score || a->score < b->score)
        return a->score > b->score ? -1 : 1;
    if (a->n_left != b->n_left)
        return b->n_left - a->n_left;
    if (a->n_right != b->n_right)
        return b->n_right - a->n_right;
    return (a->merge.result > b->merge.result) - (a->merge.result < b->merge.result);
}

static bool check_tokens(const struct tok_vocab *v, const float *scores, struct status *st)
{
    for (int32_t id = 0; id < v->n; id++) {
        const uint32_t n = v->first[id + 1] - v->first[id];
        if (!isfinite(scores[id]))
            return status_fail(st, STATUS_CORRUPT, "token %d has no finite score", id);
        if (v->kind[id] & (TOK_PIECE | TOK_USER) && n > CUT_BYTES_MAX)
            return status_fail(st, STATUS_CORRUPT, "token %d has %u bytes and a score, limit %d",
                               id, n, CUT_BYTES_MAX);
    }
    return true;
}

struct tok_merge *tok_scores_merges(const struct tok_vocab *v, const float *scores, size_t *n,
                                    struct status *st)
{
    struct cuts cuts = {0};
    if (!check_tokens(v, scores, st))
        return NULL;
    cut_all(v, scores, &cuts);
    *n = cuts.n;
    if (cuts.n > TOK_MERGES_MAX) {
        status_fail(st, STATUS_CORRUPT, "%zu merges, limit %d", cuts.n, TOK_MERGES_MAX);
        return NULL;
    }
    struct tok_merge *merges = calloc(cuts.n + 1, sizeof *merges);
    cuts.at = calloc(cuts.n + 1, sizeof *cuts.at);
    if (!merges || !cuts.at) {
        status_fail(st, STATUS_BUSY, "no memory for %zu merges", cuts.n);
        free(merges);
        free(cuts.at);
        return NULL;
    }
    cut_all(v, scores, &cuts);
    qsort(cuts.at, cuts.n, sizeof *cuts.at, by_strength);
    for (size_t i = 0; i < cuts.n; i++)
        merges[i] = cuts.at[i].merge;
    free(cuts.at);
    return merges;
}
