/* What the engine on CUDA promises: the log-probabilities of the CPU in float32, but for the
 * rounding of 16-bit activations; and the same bits for a sequence alone as among others, and for a
 * prompt in one step as in several.
 *
 *     gpu_test_engine [DEVICE [SHAPES]]      "cuda" and tests/gpu/shapes; "cpu" tries the test
 * itself
 *
 * Models have random weights, so logits are small: errors are measured against their spread. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "kernels/backend.h"
#include "tests/unit/engine/drive.h"

enum { PROMPT = 300, SEQS = 8, DECODES = 24, VOCAB_MAX = 1024 };

static const double SPREAD_MIN = 0.05; /* of log-probabilities: else a wrong model would pass */
static const double ERROR_MAX = 0.05;  /* root mean square, in units of the spread */

static const char *device = "cuda", *shapes = "tests/gpu/shapes";
static const struct model {
    const char *name, *kv_dtype;
} models[] = {{"small", "auto"}, {"wide-heads", "auto"}, {"small", "int8"}, {"wide-heads", "fp8"}};
enum { N_MODELS = sizeof models / sizeof models[0] };

static void skip_without_device(void)
{
    struct status st = {0};
    const struct backend *backend = backend_find(device, &st);
    if (backend && backend->probe(&st))
        return;
    printf("skipped: %s\n", st.msg);
    exit(77);
}

static void open_engine(struct drive *d, const char *on, const struct model *m)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", shapes, m->name);
    drive_open(d, &(struct engine_options){.model_path = path,
                                           .random_weights = true,
                                           .cpu_precision = strcmp(on, "cpu") == 0 ? "exact" : NULL,
                                           .kv_dtype = m->kv_dtype,
                                           .device = on,
                                           .gpu_memory = strcmp(on, "cpu") == 0 ? 0 : 0.3,
                                           .seqs_max = SEQS,
                                           .step_tokens_max = PROMPT * SEQS,
                                           .context_max = PROMPT + DECODES,
                                           .block_tokens = 16,
                                           .kv_blocks = (PROMPT + DECODES + 16) / 16 * SEQS});
}

static void make_prompt(int32_t ids[PROMPT], uint32_t seed)
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

static void take_scores(const struct step_result *r, const struct step_result_row *row, float *to)
{
    for (int i = 0; i < row->n_scores; i++)
        to[i] = step_result_scores(r)[row->first_score + i].logprob;
}

static void take_token(const struct step_result *r, const struct step_result_row *row,
                       struct answer *a, int i)
{
    a->id[i] = step_result_tokens(r)[row->first_token].id;
    a->logprob[i] = step_result_tokens(r)[row->first_token].logprob;
}

/* The prompts of n sequences in one step, or the one's in pieces; then tokens, a step each. */
static void answer(struct drive *d, int n, int piece, struct answer a[])
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
            drive_row(d, &seq[i], ROW_SAMPLE, NULL, 1);
        r = drive_run(d);
    }
}

static void scores_are_those_of_the_cpu(void **state)
{
    (void)state;
    for (int s = 0; s < N_MODELS; s++) {
        static struct answer want[1], got[1];
        struct drive d;
        double mean = 0, spread = 0, error = 0;
        open_engine(&d, "cpu", &models[s]);
        answer(&d, 1, PROMPT, want);
        drive_close(&d);
        open_engine(&d, device, &models[s]);
        answer(&d, 1, PROMPT, got);
        drive_close(&d);
        for (int i = 0; i < PROMPT - 1; i++)
            mean += want->score[i] / (PROMPT - 1);
        for (int i = 0; i < PROMPT - 1; i++) {
            spread += pow(want->score[i] - mean, 2) / (PROMPT - 1);
            error += pow(got->score[i] - want->score[i], 2) / (PROMPT - 1);
        }
        spread = sqrt(spread);
        error = sqrt(error) / spread;
        printf("%s, kv %s: spread %.4f, error %.5f of it\n", models[s].name, models[s].kv_dtype,
               spread, error);
        assert_true(spread > SPREAD_MIN);
        assert_true(error < ERROR_MAX); /* NaN fails too */
    }
}

static void company_and_cuts_change_no_bit(void **state)
{
    (void)state;
    for (int s = 0; s < N_MODELS; s++) {
        static struct answer all[SEQS], alone[1], cut[1];
        struct drive d;
        open_engine(&d, device, &models[s]);
        answer(&d, SEQS, PROMPT, all);
        answer(&d, 1, PROMPT, alone);
        answer(&d, 1, 37, cut);
        drive_close(&d);
        assert_memory_equal(alone, &all[0], sizeof *alone);
        assert_memory_equal(cut, &all[0], sizeof *cut);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scores_are_those_of_the_cpu),
        cmocka_unit_test(company_and_cuts_change_no_bit),
    };
    device = argc > 1 ? argv[1] : device;
    shapes = argc > 2 ? argv[2] : shapes;
    skip_without_device();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
