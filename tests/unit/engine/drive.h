/* drive.h - plays the scheduler's part before a runner, for tests and benchmarks. */
#ifndef TESTS_DRIVE_H
#define TESTS_DRIVE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/ranks.h"
#include "engine/step.h"

struct drive {
    struct ranks *ranks;
    struct step_limits limits;
    void *step, *result;
    uint64_t id;
    struct step_builder builder;
};

struct drive_seq { /* one sequence as its scheduler knows it */
    int32_t slot, position, n_blocks;
};

static inline void drive_must(bool ok, const char *what, const struct status *st)
{
    if (ok)
        return;
    fprintf(stderr, "%s: %s: %s\n", what, status_name(st->code), st->msg);
    abort();
}

static inline void drive_open(struct drive *d, const struct engine_options *o)
{
    struct status st = {0};
    *d = (struct drive){0};
    d->ranks = ranks_open(o, NULL, &st);
    drive_must(d->ranks != NULL, "open", &st);
    d->limits = ranks_facts(d->ranks)->limits;
    d->step = calloc(1, step_bytes_max(&d->limits));
    d->result = calloc(1, step_result_bytes_max(&d->limits));
    drive_must(d->step && d->result, "records", &st);
}

static inline void drive_close(struct drive *d)
{
    ranks_close(d->ranks);
    free(d->step);
    free(d->result);
    *d = (struct drive){0};
}

static inline void drive_begin(struct drive *d)
{
    step_begin(&d->builder, d->step, &d->limits, ++d->id);
}

static inline struct sample_params drive_greedy(int32_t n_logprobs)
{
    return (struct sample_params){.top_p = 1, .repetition = 1, .n_logprobs = n_logprobs};
}

static inline struct drive_seq drive_set(struct drive *d, int32_t slot, struct sample_params params,
                                         int32_t n_prompt)
{
    struct step_slot *s = step_add_slot(&d->builder);
    *s = (struct step_slot){.slot = slot, .n_prompt = n_prompt, .params = params};
    return (struct drive_seq){.slot = slot};
}

/* The blocks of a slot lie apart and in falling order, so that a table that is read wrongly shows.
 */
static inline int32_t drive_block(const struct drive *d, int32_t slot, int32_t i)
{
    const int32_t per_seq = d->limits.n_blocks / d->limits.seqs_max;
    return (per_seq - 1 - i) * d->limits.seqs_max + slot;
}

/* Append n tokens (ids NULL: the one sampled last). */
static inline struct step_row *drive_row(struct drive *d, struct drive_seq *seq, uint32_t flags,
                                         const int32_t *ids, int32_t n)
{
    struct step_row *row = step_add_row(&d->builder);
    const int32_t need = (seq->position + n + d->limits.block_tokens - 1) / d->limits.block_tokens;
    row->slot = seq->slot;
    row->flags = flags | (ids ? 0 : ROW_TOKEN_SAMPLED);
    row->first_token = ids ? step_add_tokens(&d->builder, ids, n) : 0;
    row->n_tokens = n;
    row->position = seq->position;
    row->block_at = seq->n_blocks;
    row->n_blocks = need - seq->n_blocks;
    for (int32_t i = seq->n_blocks; i < need; i++) {
        const int32_t block = drive_block(d, seq->slot, i);
        const int32_t at = step_add_blocks(&d->builder, &block, 1);
        if (i == seq->n_blocks)
            row->first_block = at;
    }
    seq->n_blocks = need;
    seq->position += n;
    return row;
}

/* The ids of a row that goes on from its last sample: with stages it must name it. */
static inline const int32_t *drive_last(const struct drive *d, const int32_t *sampled)
{
    return d->limits.n_stages > 1 ? sampled : NULL;
}

static inline const struct step_result *drive_try(struct drive *d, struct status *st)
{
    step_end(&d->builder);
    if (!step_check(d->step, step_bytes_max(&d->limits), &d->limits, st) ||
        !ranks_submit(d->ranks, d->step, st) || !ranks_result(d->ranks, d->result, st))
        return NULL;
    drive_must(step_result_check(d->result, step_result_bytes_max(&d->limits), &d->limits, st),
               "result", st);
    return d->result;
}

static inline const struct step_result *drive_run(struct drive *d)
{
    struct status st = {0};
    const struct step_result *r = drive_try(d, &st);
    drive_must(r != NULL, "step", &st);
    return r;
}

#endif
