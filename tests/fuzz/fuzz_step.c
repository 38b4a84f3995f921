/* fuzz_step.c - records of the seam from a peer gone wild: checked, then read all through. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/step.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static const struct step_limits limits = {.vocab = 1000,
                                          .seqs_max = 8,
                                          .step_tokens_max = 64,
                                          .context_max = 128,
                                          .n_blocks = 32,
                                          .block_tokens = 16,
                                          .history_max = 128,
                                          .bias_max = 64};

static int64_t sum;

static void read_step(const struct step *s)
{
    for (int i = 0; i < s->n_slots; i++) {
        const struct step_slot *slot = &step_slots(s)[i];
        for (int k = 0; k < slot->n_history; k++)
            sum += step_history(s)[slot->first_history + k];
        for (int k = 0; k < slot->n_bias; k++)
            sum += step_bias(s)[slot->first_bias + k].id;
    }
    for (int i = 0; i < s->n_rows; i++) {
        const struct step_row *row = &step_rows(s)[i];
        for (int k = 0; k < row->n_tokens && !(row->flags & ROW_TOKEN_SAMPLED); k++)
            sum += step_tokens(s)[row->first_token + k];
        for (int k = 0; k < row->n_blocks; k++)
            sum += step_blocks(s)[row->first_block + k];
    }
}

static void read_result(const struct step_result *r)
{
    for (int i = 0; i < r->n_rows; i++) {
        const struct step_result_row *row = &step_result_rows(r)[i];
        for (int k = 0; k < row->n_tokens; k++)
            sum += step_result_tokens(r)[row->first_token + k].id;
        for (int k = 0; k < row->n_scores; k++)
            sum += step_result_scores(r)[row->first_score + k].n_top;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    if (n < 1)
        return 0;
    void *record = aligned_alloc(64, (n - 1 + 63) / 64 * 64 + 64);
    if (!record)
        return 0;
    memcpy(record, bytes + 1, n - 1);
    struct status st = {0};
    if (bytes[0] & 1) {
        if (step_check(record, n - 1, &limits, &st))
            read_step(record);
    } else if (step_result_check(record, n - 1, &limits, &st)) {
        read_result(record);
    }
    free(record);
    return 0;
}
