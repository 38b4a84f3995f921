/* The engine computes what transformers computes in float32 over the same dequantized weights:
 * log-probabilities, greedy tokens and perplexity (tests/golden/make_logprobs.py made the values).
 *
 * Needs the model file: INFERD_TEST_MODEL, one of models[] by name, or the first of them in models/
 * in the source root. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/unit/engine/bare.h"
#include "tests/unit/engine/drive.h"

static const struct model_golden {
    const char *name; /* of the files, before .gguf and .txt */
    double kl_max;    /* of the fast path, mean over KL_TOKENS */
} models[] = {
    /* llama.cpp's own is 0.00276 with AVX2 and 0.00290 with AVX-512 (tests/golden/peer_kl.py). */
    {"SmolLM2-135M-Instruct.Q4_1", 0.00276},
    {"gemma-3-270m-q4_k_m", 0.0027},
};

enum { PROMPTS_MAX = 32, STEPS_MAX = 32, PROMPT_TOKENS_MAX = 256, TOP = 20, TEXT_MAX = 4096 };
enum { KL_TOKENS = 512, CHUNK = 256 };

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { RUN_PROMPTS = 8, RUN_STEPS = 6, RUN_TEXT = 64 }; /* all of it takes minutes there */
#else
enum { RUN_PROMPTS = PROMPTS_MAX, RUN_STEPS = STEPS_MAX, RUN_TEXT = TEXT_MAX };
#endif

static const double TOLERANCE = 2e-3;

struct golden_step {
    int32_t id;
    bool tie;
    int32_t top_id[TOP];
    double top[TOP];
};

struct golden_prompt {
    char name[32];
    int32_t n, ids[PROMPT_TOKENS_MAX];
    double score[PROMPT_TOKENS_MAX]; /* [n - 1] of ids[i + 1] */
    struct golden_step step[STEPS_MAX];
};

static struct golden {
    int n_prompts, n_steps;
    struct golden_prompt prompt[PROMPTS_MAX];
    int32_t n_text, text[TEXT_MAX];
    double nll;
} golden;

static const char *model_path(void)
{
    static char path[256];
    const char *given = getenv("INFERD_TEST_MODEL");
    snprintf(path, sizeof path, "models/%s.gguf", models[0].name);
    if (!given)
        given = path;
    return access(given, R_OK) == 0 ? given : NULL;
}

/* That of a file's name; of any other name, the first. */
static const struct model_golden *model_golden(void)
{
    const char *path = model_path(), *slash = strrchr(path, '/');
    const char *file = slash ? slash + 1 : path;
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++)
        if (strncmp(file, models[i].name, strlen(models[i].name)) == 0)
            return &models[i];
    return &models[0];
}

static int least(int a, int b)
{
    return a < b ? a : b;
}

static FILE *open_golden(const char *folder)
{
    char path[256];
    snprintf(path, sizeof path, "tests/golden/%s/%s.txt", folder, model_golden()->name);
    FILE *f = fopen(path, "r");
    if (!f) {
        fprintf(stderr, "cannot open %s: run from the source root\n", path);
        abort();
    }
    return f;
}

static void must(bool ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "golden file: bad %s\n", what);
        abort();
    }
}

static void read_prompt(FILE *f, struct golden_prompt *p, int n_steps)
{
    char tie[8];
    must(fscanf(f, " ids") == 0, "ids");
    for (int i = 0; i < p->n; i++)
        must(fscanf(f, "%d", &p->ids[i]) == 1, "id");
    must(fscanf(f, " scores") == 0, "scores");
    for (int i = 0; i < p->n - 1; i++)
        must(fscanf(f, "%lf", &p->score[i]) == 1, "score");
    for (int i = 0; i < n_steps; i++) {
        struct golden_step *s = &p->step[i];
        must(fscanf(f, " step %d %7s", &s->id, tie) == 2, "step");
        s->tie = strcmp(tie, "tie") == 0;
        for (int j = 0; j < TOP; j++)
            must(fscanf(f, " %d:%lf", &s->top_id[j], &s->top[j]) == 2, "top list");
    }
}

static void read_golden(void)
{
    FILE *f = open_golden("logprobs");
    must(fscanf(f, "# %*[^\n] model %*s %*s steps %d", &golden.n_steps) == 1, "head");
    must(golden.n_steps >= 1 && golden.n_steps <= STEPS_MAX, "number of steps");
    struct golden_prompt *p = golden.prompt;
    while (golden.n_prompts < PROMPTS_MAX && fscanf(f, " prompt %31s %d", p->name, &p->n) == 2) {
        must(p->n >= 1 && p->n <= PROMPT_TOKENS_MAX, "prompt length");
        read_prompt(f, p++, golden.n_steps);
        golden.n_prompts++;
    }
    fclose(f);
    must(golden.n_prompts >= 20, "number of prompts");
    golden.n_prompts = least(golden.n_prompts, RUN_PROMPTS);
    golden.n_steps = least(golden.n_steps, RUN_STEPS);
    f = open_golden("ppl");
    must(fscanf(f, "# %*[^\n] model %*s %*s tokens %d nll %lf perplexity %*f ids", &golden.n_text,
                &golden.nll) == 2,
         "text head");
    must(golden.n_text >= 2000 && golden.n_text <= TEXT_MAX, "text length");
    for (int i = 0; i < golden.n_text; i++)
        must(fscanf(f, "%d", &golden.text[i]) == 1, "text id");
    fclose(f);
}

static struct engine_options options(const char *precision)
{
    return (struct engine_options){
        .model_path = model_path(),
        .cpu_precision = precision,
        .device = "cpu",
        .seqs_max = PROMPTS_MAX,
        .step_tokens_max = 512,
        .context_max = TEXT_MAX,
        .kv_blocks = PROMPTS_MAX * 320 / 16 + TEXT_MAX / 16 * 2,
        .block_tokens = 16,
    };
}

static double top_error(const struct sample_out *out, const struct golden_step *want,
                        const char *name, int i)
{
    double worst = 0;
    for (int j = 0; j < TOP; j++) {
        /* Ids may change places where two values lie within the tolerance. */
        worst = fmax(worst, fabs(out->top_logprob[j] - want->top[j]));
        for (int k = 0; k < TOP; k++)
            if (out->top_id[j] == want->top_id[k])
                worst = fmax(worst, fabs(out->top_logprob[j] - want->top[k]));
    }
    if (out->id != want->id && !want->tie)
        fail_msg("prompt %s, step %d: want token %d, found %d", name, i, want->id, out->id);
    return worst;
}

static double score_error(const struct step_result *r, const struct step_result_row *row,
                          const struct golden_prompt *p)
{
    double worst = 0;
    assert_int_equal(row->n_scores, p->n - 1);
    for (int i = 0; i < p->n - 1; i++) {
        const struct sample_out *out = &step_result_scores(r)[row->first_score + i];
        assert_int_equal(out->id, p->ids[i + 1]);
        worst = fmax(worst, fabs(out->logprob - p->score[i]));
    }
    return worst;
}

/* All prompts at once: first each prompt whole, as many to a step as fit, then a token a step. */
static void log_probabilities_and_greedy_tokens_are_those_of_transformers(void **state)
{
    (void)state;
    if (!model_path())
        skip();
    struct drive d;
    struct engine_options o = options("exact");
    struct drive_seq seq[PROMPTS_MAX];
    int32_t last[PROMPTS_MAX];
    double worst_top = 0, worst_score = 0;
    drive_open(&d, &o);
    for (int first = 0, end; first < golden.n_prompts; first = end) {
        drive_begin(&d);
        for (end = first; end < golden.n_prompts; end++) {
            const struct golden_prompt *p = &golden.prompt[end];
            if (d.builder.step->n_tokens + p->n > d.limits.step_tokens_max)
                break;
            seq[end] = drive_set(&d, end, drive_greedy(TOP), p->n);
            drive_row(&d, &seq[end], ROW_SAMPLE | ROW_SCORE_NEXT, p->ids, p->n);
        }
        const struct step_result *r = drive_run(&d);
        for (int i = first; i < end; i++) {
            const struct step_result_row *row = &step_result_rows(r)[i - first];
            const struct sample_out *out = &step_result_tokens(r)[row->first_token];
            worst_score = fmax(worst_score, score_error(r, row, &golden.prompt[i]));
            worst_top = fmax(worst_top,
                             top_error(out, &golden.prompt[i].step[0], golden.prompt[i].name, 0));
            last[i] = out->id;
        }
    }
    for (int step = 1; step < golden.n_steps; step++) {
        drive_begin(&d);
        for (int i = 0; i < golden.n_prompts; i++) {
            const int32_t *want = &golden.prompt[i].step[step - 1].id;
            drive_row(&d, &seq[i], ROW_SAMPLE, last[i] == *want ? NULL : want, 1);
        }
        const struct step_result *r = drive_run(&d);
        for (int i = 0; i < golden.n_prompts; i++) {
            const struct sample_out *out = &step_result_tokens(r)[i];
            worst_top = fmax(worst_top, top_error(out, &golden.prompt[i].step[step],
                                                  golden.prompt[i].name, step));
            last[i] = out->id;
        }
    }
    print_message("%d prompts of %d steps: largest error of a log-probability: prompt %.2g, "
                  "top %d %.2g\n",
                  golden.n_prompts, golden.n_steps, worst_score, TOP, worst_top);
    assert_true(worst_score < TOLERANCE && worst_top < TOLERANCE);
    drive_close(&d);
}

/* Mean negative log-likelihood of the first n tokens of the text. */
static double text_nll(const char *precision, int32_t n)
{
    struct drive d;
    struct engine_options o = options(precision);
    double nll = 0;
    o.seqs_max = 1;
    drive_open(&d, &o);
    struct drive_seq seq;
    for (int32_t at = 0; at < n - 1; at += CHUNK) {
        const int32_t n_row = n - 1 - at < CHUNK ? n - 1 - at : CHUNK;
        drive_begin(&d);
        if (at == 0)
            seq = drive_set(&d, 0, drive_greedy(0), n);
        drive_row(&d, &seq, ROW_SCORE_NEXT, golden.text + at, n_row)->next_token =
            golden.text[at + n_row];
        const struct step_result *r = drive_run(&d);
        assert_int_equal(r->n_scores, n_row);
        for (int32_t i = 0; i < n_row; i++)
            nll -= (double)step_result_scores(r)[i].logprob;
    }
    drive_close(&d);
    return nll / (n - 1);
}

static void perplexity_of_a_text_is_that_of_transformers(void **state)
{
    (void)state;
    if (!model_path() || golden.n_text > RUN_TEXT)
        skip();
    const double exact = text_nll("exact", golden.n_text);
    const double fast = text_nll("fast", golden.n_text);
    print_message("%d tokens: perplexity %.6f, reference %.6f (%+.4f %%), fast %.6f (%+.4f %%)\n",
                  golden.n_text, exp(exact), exp(golden.nll), 100 * expm1(exact - golden.nll),
                  exp(fast), 100 * expm1(fast - golden.nll));
    assert_true(fabs(expm1(exact - golden.nll)) < 1e-3);
    assert_true(fabs(expm1(fast - golden.nll)) < 2e-2);
}

static struct engine_options bare_options(const char *precision)
{
    struct engine_options o = options(precision);
    o.seqs_max = 1;
    return o;
}

static void the_fast_path_stays_close_to_the_exact_one(void **state)
{
    (void)state;
    if (!model_path())
        skip();
    const int32_t n = least(RUN_TEXT, KL_TOKENS);
    struct bare exact, fast;
    double sum = 0, worst = 0;
    int n_same = 0;
    const struct engine_options as_exact = bare_options("exact"), as_fast = bare_options("fast");
    bare_open(&exact, &as_exact);
    bare_open(&fast, &as_fast);
    bare_forward(&exact, golden.text, 0, n);
    bare_forward(&fast, golden.text, 0, n);
    for (int32_t i = 0; i < n; i++) {
        const int vocab = exact.model.cfg.vocab;
        decoder_head(&exact.decoder, i, 1);
        decoder_head(&fast.decoder, i, 1);
        const double kl = logits_divergence(exact.decoder.logits, fast.decoder.logits, vocab);
        sum += kl;
        worst = fmax(worst, kl);
        n_same += logits_largest(exact.decoder.logits, vocab) ==
                  logits_largest(fast.decoder.logits, vocab);
    }
    print_message("%d tokens: KL of fast from exact: mean %.5f, largest %.4f; same top token %.1f "
                  "%%\n",
                  n, sum / n, worst, 100.0 * n_same / n);
    assert_true(sum / n < (n == KL_TOKENS ? model_golden()->kl_max : 0.01));
    bare_close(&exact);
    bare_close(&fast);
}

int main(void)
{
    if (model_path())
        read_golden();
    else
        printf("SKIPPED: no model file; set INFERD_TEST_MODEL or put %s.gguf in models/\n",
               models[0].name);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(log_probabilities_and_greedy_tokens_are_those_of_transformers),
        cmocka_unit_test(perplexity_of_a_text_is_that_of_transformers),
        cmocka_unit_test(the_fast_path_stays_close_to_the_exact_one),
    };
    return cmocka_run_group_tests_name("golden logprobs", tests, NULL, NULL);
}
