/* answers.h - what engines say to the same random prompts: log-probabilities, and greedy tokens.
 *
 * Models have random weights, so logits are small: errors are measured against their spread. */
#ifndef TESTS_GPU_ANSWERS_H
#define TESTS_GPU_ANSWERS_H

#include <math.h>
#include <string.h>

#include "tests/unit/engine/drive.h"

#ifdef ANSWERS_SMALL /* where a GPU is simulated */
enum { PROMPT = 150, SEQS = 3, DECODES = 6, VOCAB_MAX = 1024 };
#else
enum { PROMPT = 300, SEQS = 8, DECODES = 24, VOCAB_MAX = 1024 };
#endif

struct model {
    const char *name, *kv_dtype;
};

/* Of the model in folder `shapes`; `path` keeps its name. */
static inline struct engine_options answers_options(const char *on, const char *shapes,
                                                    const struct model *m, char path[512])
{
    snprintf(path, 512, "%s/%s", shapes, m->name);
    return (struct engine_options){.model_path = path,
                                   .random_weights = true,
                                   .cpu_precision = strcmp(on, "cpu") == 0 ? "exact" : NULL,
                                   .kv_dtype = m->kv_dtype,
                                   .device = on,
                                   .gpu_memory = strcmp(on, "cpu") == 0 ? 0 : 0.3,
                                   .seqs_max = SEQS,
                                   .step_tokens_max = PROMPT * SEQS,
                                   .context_max = PROMPT + DECODES,
                                   .block_tokens = 16,
                                   .kv_blocks = (PROMPT + DECODES + 16) / 16 * SEQS};
}

static inline void make_prompt(int32_t ids[PROMPT], uint32_t seed)
{
    for (int i = 0; i < PROMPT; i++) {
        seed = seed * 1664525u + 1013904223u;
        ids[i] = (int32_t)((seed >> 8) % VOCAB_MAX);
    }
}

/* Log-probabilities of the prompt's tokens after the first, and of the greedy ones that follow. */
struct answer {
    float score[PROMPT - 1];
    int32_t id[DECODES];
    float logprob[DECODES];
};

static inline void take_scores(const struct step_result *r, const struct step_result_row *row,
                               float *to)
{
    for (int i = 0; i < row->n_scores; i++)
        to[i] = step_result_scores(r)[row->first_score + i].logprob;
}

static inline void take_token(const struct step_result *r, const struct step_result_row *row,
                              struct answer *a, int i)
{
    a->id[i] = step_result_tokens(r)[row->first_token].id;
    a->logprob[i] = step_result_tokens(r)[row->first_token].logprob;
}

/* The prompts of n sequences in one step, or the one's in pieces; then tokens, a step each. */
static inline void answer(struct drive *d, int n, int piece, struct answer a[])
{
    int32_t ids[SEQS][PROMPT];
    struct drive_seq seq[SEQS];
    const struct step_result *r = NULL;
    for (int from = 0; from < PROMPT; from += piece) {
        const int len = from + piece < PROMPT ? piece : PROMPT - from, last = from + len == PROMPT;
        drive_begin(d);
        for (int i = 0; i < n; i++) {
            make_prompt(ids[i], (uint32_t)i + 1);
            if (from == 0)
                seq[i] = drive_set(d, i, drive_greedy(0), PROMPT);
        }
        for (int i = 0; i < n; i++) {
            struct step_row *row =
                drive_row(d, &seq[i], ROW_SCORE_NEXT | (last ? ROW_SAMPLE : 0), &ids[i][from], len);
            row->next_token = last ? -1 : ids[i][from + len];
        }
        r = drive_run(d);
        for (int i = 0; i < n; i++)
            take_scores(r, &step_result_rows(r)[i], a[i].score + from);
    }
    for (int t = 0; t < DECODES; t++) {
        for (int i = 0; i < n; i++)
            take_token(r, &step_result_rows(r)[i], &a[i], t);
        if (t == DECODES - 1)
            break;
        drive_begin(d);
        for (int i = 0; i < n; i++)
            drive_row(d, &seq[i], ROW_SAMPLE, drive_last(d, &a[i].id[t]), 1);
        r = drive_run(d);
    }
}

/* Root mean square of the difference of scores, in units of their spread, which `spread` gets. */
static inline double answers_error(const struct answer *want, const struct answer *got,
                                   double *spread)
{
    double mean = 0, error = 0;
    *spread = 0;
    for (int i = 0; i < PROMPT - 1; i++)
        mean += want->score[i] / (PROMPT - 1);
    for (int i = 0; i < PROMPT - 1; i++) {
        *spread += pow(want->score[i] - mean, 2) / (PROMPT - 1);
        error += pow(got->score[i] - want->score[i], 2) / (PROMPT - 1);
    }
    *spread = sqrt(*spread);
    return sqrt(error) / *spread;
}

#endif
