/* A Hugging Face folder computes what transformers computes from it in float32: every shape of
 * checkpoint that tests/golden/make_tiny_hf.py makes, over every position, whole and divided among
 * ranks. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/engine/drive.h"

enum { TOKENS = 48, VOCAB = 160, PROMPT = 17, TOP = 20 };

static const double TOLERANCE = 2e-3,
                    TIE = 4e-3; /* closer than this, either token may come first */

static const struct {
    const char *name;
} folders[] = {
    {"tied-f32"},   {"bands-bf16"},  {"biases-f16"},     {"sharded-bf16"},
    {"qwen2-bf16"}, {"gemma3-bf16"}, {"gemma3-old-f16"},
};

struct golden {
    int32_t n, vocab, ids[TOKENS];
    float logprob[TOKENS][VOCAB]; /* of what follows each token */
};

static void read_golden(const char *name, struct golden *g)
{
    char path[256];
    snprintf(path, sizeof path, "tests/golden/hf/%s/logprobs.bin", name);
    FILE *f = fopen(path, "rb");
    if (!f || fread(g, sizeof *g, 1, f) != 1 || g->n != TOKENS || g->vocab != VOCAB)
        fail_msg("cannot read %s: run from the source root", path);
    fclose(f);
}

/* The first part as one prompt whose tokens are scored, the rest a token a step. */
static double worst_error(struct drive *d, const struct golden *g)
{
    double worst = 0;
    drive_begin(d);
    struct drive_seq seq = drive_set(d, 0, drive_greedy(TOP), PROMPT);
    drive_row(d, &seq, ROW_SAMPLE | ROW_SCORE_NEXT, g->ids, PROMPT);
    const struct step_result *r = drive_run(d);
    assert_int_equal(r->n_scores, PROMPT - 1);
    for (int i = 0; i < PROMPT - 1; i++)
        worst = fmax(worst, fabs(step_result_scores(r)[i].logprob - g->logprob[i][g->ids[i + 1]]));
    for (int i = PROMPT;; i++) {
        const struct sample_out *out = &step_result_tokens(r)[0];
        assert_int_equal(out->n_top, TOP);
        for (int k = 0; k < TOP; k++)
            worst = fmax(worst, fabs(out->top_logprob[k] - g->logprob[i - 1][out->top_id[k]]));
        for (int id = 0; id < VOCAB; id++)
            assert_true(g->logprob[i - 1][id] < g->logprob[i - 1][out->id] + (float)TIE);
        if (i == TOKENS)
            return worst;
        drive_begin(d);
        drive_row(d, &seq, ROW_SAMPLE, &g->ids[i], 1);
        r = drive_run(d);
    }
}

static void check_folder(const char *name, const struct golden *g, int n_ranks)
{
    char path[256];
    struct drive d;
    snprintf(path, sizeof path, "tests/golden/hf/%s", name);
    drive_open(&d, &(struct engine_options){.model_path = path,
                                            .cpu_precision = "exact",
                                            .device = "cpu",
                                            .tensor_parallel = n_ranks,
                                            .n_threads = 1,
                                            .seqs_max = 1,
                                            .step_tokens_max = 64,
                                            .context_max = 64,
                                            .kv_blocks = 8,
                                            .block_tokens = 16,
                                            .kv_dtype = "f32"});
    const double worst = worst_error(&d, g);
    print_message("%-14s %d ranks: largest error of a log-probability %.2g\n", name, n_ranks,
                  worst);
    assert_true(worst < TOLERANCE);
    drive_close(&d);
}

static void log_probabilities_are_those_of_transformers(void **state)
{
    (void)state;
    static struct golden g;
    for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++) {
        read_golden(folders[i].name, &g);
        for (int n_ranks = 1; n_ranks <= 4; n_ranks *= 2)
            check_folder(folders[i].name, &g, n_ranks);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(log_probabilities_are_those_of_transformers),
    };
    return cmocka_run_group_tests_name("golden hf", tests, NULL, NULL);
}
