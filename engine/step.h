/* step.h - the records that cross the seam between scheduler and engine.
 *
 * A step says what to run; a step_result says what came out.  Both are flat: a header
 * with a length, a version and the byte offsets of its arrays, and no pointer, so
 * they travel through shared memory between processes mapped at different addresses.
 * The reader trusts nothing: step_check() and step_result_check() refuse whatever
 * would lead outside the record or outside the engine's limits, before any use.
 *
 * The engine and its device keep, per slot (0 <= slot < seqs_max): the sampling parameters,
 * the token history, the block table, and the last sampled token.  A step changes them
 * only through its arrays, in this order: slots are set, then each row appends its
 * tokens and blocks to its slot, runs, and, if it samples, appends the sample.
 *
 *   struct step
 *     slot[n_slots]      sequences that begin (or begin again) in this step
 *     row[n_rows]        at most one row per slot
 *     token[n_tokens]    token ids the rows name
 *     block[n_blocks]    block numbers the rows append to their tables
 *     history[n_history] tokens already in the cache of a slot that is set (prefix hit)
 *     bias[n_bias]
 *
 * Pipelining: step N+1 may be submitted before the result of step N is read.  A row
 * of N+1 then takes ROW_TOKEN_SAMPLED: its one token is what its slot sampled last.  With
 * several stages it never does, for the first one does not know what the last one sampled: more
 * steps are in flight, each with other sequences, and rows name their tokens.
 *
 * Thread: a record belongs to the side that is filling or reading it. */
#ifndef ENGINE_STEP_H
#define ENGINE_STEP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "kernels/ops.h" /* sample_params, sample_bias, TOP_LOGPROBS_MAX */

enum { STEP_VERSION = 1, STEP_BIAS_MAX = 1088 /* one request: logit_bias and banned ends */ };

/* Sizes both sides agreed on at start; every record is checked against them. */
struct step_limits {
    int32_t vocab;
    int32_t seqs_max;        /* slots, and rows of one step */
    int32_t step_tokens_max; /* tokens of one step */
    int32_t context_max;     /* tokens of one sequence */
    int32_t n_blocks;        /* in the KV cache */
    int32_t block_tokens;
    int32_t history_max; /* history tokens of one step, over its slots */
    int32_t bias_max;    /* bias entries of one step, over its slots */
    int32_t n_stages;    /* that a step passes one after the other (layer split); 0 = 1 */
};

struct step {
    uint32_t n_bytes; /* of the whole record, this header included */
    uint32_t version; /* STEP_VERSION */
    uint64_t id;      /* 1, 2, 3, ... since the engine's start */
    int32_t n_slots, n_rows, n_tokens, n_blocks, n_history, n_bias;
    uint32_t at_slots, at_rows, at_tokens, at_blocks, at_history, at_bias; /* byte offsets */
};

struct step_slot {
    int32_t slot;
    int32_t n_prompt;      /* tokens of the request that are prompt (penalties, draws count) */
    int32_t first_history; /* the sequence's tokens that are in the cache already, because */
    int32_t n_history;     /*   a prefix hit skipped them: history[first .. first + n) */
    int32_t first_bias, n_bias;
    struct sample_params params;
};

enum row_flags {
    ROW_SAMPLE = 1,        /* sample after the row's last token */
    ROW_TOKEN_SAMPLED = 2, /* n_tokens = 1, first_token unused: the slot's last sample; with one
                              stage alone */
    ROW_SCORE_NEXT = 4,    /* score, at each position of the row, the prompt token that follows */
};

struct step_row {
    int32_t slot;
    uint32_t flags;
    int32_t first_token, n_tokens; /* token[first .. first + n); n >= 1 */
    int32_t position;              /* of the row's first token; = tokens in the cache before it */
    int32_t next_token; /* ROW_SCORE_NEXT: the prompt token after the row's last, or -1 */
    int32_t first_block, n_blocks; /* block[first .. first + n) are appended to the slot's table */
    int32_t block_at;              /* table length before; 0 for a slot set in this step, unless
                                      a prefix hit: then its shared blocks are in n_blocks too */
};

/* The answer to one step, rows in the order of the step. */
struct step_result {
    uint32_t n_bytes, version;
    uint64_t id;     /* of the step it answers */
    uint64_t run_ns; /* the engine's time for it */
    int32_t n_rows, n_tokens, n_scores;
    uint32_t at_rows, at_tokens, at_scores;
};

enum row_status { ROW_OK, ROW_FAILED_NAN };

struct step_result_row {
    int32_t slot;
    int32_t status;                /* enum row_status: one row can fail alone */
    int32_t first_token, n_tokens; /* 0 when the row did not sample; more than 1 with speculation */
    int32_t first_score, n_scores; /* ROW_SCORE_NEXT: score i is of the token at position + i + 1;
                                      n_tokens of the row, one less when next_token is -1 */
};

/* token[] and scores[] are struct sample_out (kernels/ops.h): id, logprob, top list. */

/* Scores that a row asks for. */
static inline int32_t step_row_scores(const struct step_row *row)
{
    if (!(row->flags & ROW_SCORE_NEXT))
        return 0;
    return row->next_token >= 0 ? row->n_tokens : row->n_tokens - 1;
}

size_t step_bytes_max(const struct step_limits *l);
size_t step_result_bytes_max(const struct step_limits *l);

/* Filling.  step_begin lays out an empty step over `at` (step_bytes_max bytes, 8-aligned); the
 * arrays have room for the limits.  Each step_add returns the index of the first new element, or
 * -1 when the limit is reached.  step_end closes gaps and sets n_bytes. */
struct step_builder {
    struct step *step;
    const struct step_limits *limits;
};
void step_begin(struct step_builder *b, void *at, const struct step_limits *l, uint64_t id);
struct step_slot *step_add_slot(struct step_builder *b); /* NULL when full, as the next */
struct step_row *step_add_row(struct step_builder *b);
int32_t step_add_tokens(struct step_builder *b, const int32_t *ids, int32_t n);
int32_t step_add_blocks(struct step_builder *b, const int32_t *ids, int32_t n);
int32_t step_add_history(struct step_builder *b, const int32_t *ids, int32_t n);
int32_t step_add_bias(struct step_builder *b, const struct sample_bias *bias, int32_t n);
void step_end(struct step_builder *b);

struct result_builder {
    struct step_result *result;
    const struct step_limits *limits;
};
void step_result_begin(struct result_builder *b, void *at, const struct step_limits *l,
                       uint64_t id);
struct step_result_row *step_result_add_row(struct result_builder *b);
struct sample_out *step_result_add_tokens(struct result_builder *b, int32_t n); /* first of n */
struct sample_out *step_result_add_scores(struct result_builder *b, int32_t n);
void step_result_end(struct result_builder *b);

/* Reading: CORRUPT with the field that is wrong.  n_bytes = bytes the record may span. */
bool step_check(const void *at, size_t n_bytes, const struct step_limits *l,
                struct status *st) MUST_CHECK;
bool step_result_check(const void *at, size_t n_bytes, const struct step_limits *l,
                       struct status *st) MUST_CHECK;

const struct step_slot *step_slots(const struct step *s);
const struct step_row *step_rows(const struct step *s);
const int32_t *step_tokens(const struct step *s);
const int32_t *step_blocks(const struct step *s);
const int32_t *step_history(const struct step *s);
const struct sample_bias *step_bias(const struct step *s);
const struct step_result_row *step_result_rows(const struct step_result *r);
const struct sample_out *step_result_tokens(const struct step_result *r);
const struct sample_out *step_result_scores(const struct step_result *r);

#endif
