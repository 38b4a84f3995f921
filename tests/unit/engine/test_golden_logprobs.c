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

static int n_ranks = 1;

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
        .tensor_parallel = n_ranks,
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
static double text_nll(const char *precision, const char *kv_dtype, int32_t n)
{
    struct drive d;
    struct engine_options o = options(precision);
    double nll = 0;
    o.seqs_max = 1;
    o.kv_dtype = kv_dtype;
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
    const double exact = text_nll("exact", "auto", golden.n_text);
    const double fast = text_nll("fast", "auto", golden.n_text);
    print_message("%d tokens: perplexity %.6f, reference %.6f (%+.4f %%), fast %.6f (%+.4f %%)\n",
                  golden.n_text, exp(exact), exp(golden.nll), 100 * expm1(exact - golden.nll),
                  exp(fast), 100 * expm1(fast - golden.nll));
    assert_true(fabs(expm1(exact - golden.nll)) < 1e-3);
    assert_true(fabs(expm1(fast - golden.nll)) < 2e-2);
}

/* With exact products, so that nothing else rounds.  Each type moves the score of a token up or
 * down, by a sum that is still 0.05 % (int8) and 0.09 % (fp8) of chance over a text of this length:
 * what it costs in truth is the divergence, below. */
static void keys_and_values_in_8_bits_keep_the_perplexity(void **state)
{
    (void)state;
    if (!model_path() || golden.n_text > RUN_TEXT)
        skip();
    static const struct {
        const char *kv_dtype;
        double limit;
    } rows[] = {{"f16", 1e-3}, {"int8", 1e-3}, {"fp8", 3e-3}};
    const double wide = text_nll("exact", "f32", golden.n_text);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const double moved = text_nll("exact", rows[i].kv_dtype, golden.n_text) - wide;
        print_message("%d tokens: perplexity with %s KV %.6f, with f32 KV %.6f (%+.4f %%)\n",
                      golden.n_text, rows[i].kv_dtype, exp(wide + moved), exp(wide),
                      100 * expm1(moved));
        assert_true(fabs(expm1(moved)) < rows[i].limit);
    }
}

/* Mean divergence over the text when it is computed in a second way; says more. */
static double measure(const char *what, const char *precision[2], const char *kv_dtype[2],
                      int32_t n)
{
    struct bare way[2];
    double sum = 0, worst = 0;
    int n_same = 0;
    for (int i = 0; i < 2; i++) {
        struct engine_options o = options(precision[i]);
        o.seqs_max = 1;
        o.kv_dtype = kv_dtype[i];
        bare_open(&way[i], &o);
        bare_forward(&way[i], golden.text, 0, n);
    }
    const float *p = way[0].decoder.logits, *q = way[1].decoder.logits;
    for (int32_t i = 0; i < n; i++) {
        const int vocab = way[0].model.cfg.vocab;
        decoder_head(&way[0].decoder, i, 1);
        decoder_head(&way[1].decoder, i, 1);
        const double kl = logits_divergence(p, q, vocab);
        sum += kl;
        worst = fmax(worst, kl);
        n_same += logits_largest(p, vocab) == logits_largest(q, vocab);
    }
    print_message("%d tokens: KL of %s: mean %.6f, largest %.4f; same top token %.1f %%\n", n, what,
                  sum / n, worst, 100.0 * n_same / n);
    bare_close(&way[0]);
    bare_close(&way[1]);
    return sum / n;
}

static void the_fast_path_stays_close_to_the_exact_one(void **state)
{
    (void)state;
    if (!model_path())
        skip();
    const int32_t n = least(RUN_TEXT, KL_TOKENS);
    const double kl = measure("fast from exact", (const char *[]){"exact", "fast"},
                              (const char *[]){"auto", "auto"}, n);
    assert_true(kl < (n == KL_TOKENS ? model_golden()->kl_max : 0.01));
}

static void keys_and_values_in_8_bits_stay_close_to_wide_ones(void **state)
{
    (void)state;
    if (!model_path())
        skip();
    static const struct {
        const char *kv_dtype;
        double limit;
    } rows[] = {{"int8", 5e-4}, {"fp8", 1e-3}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const double kl = measure(rows[i].kv_dtype, (const char *[]){"exact", "exact"},
                                  (const char *[]){"f32", rows[i].kv_dtype},
                                  least(RUN_TEXT, KL_TOKENS));
        assert_true(kl < rows[i].limit);
    }
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
        cmocka_unit_test(keys_and_values_in_8_bits_keep_the_perplexity),
        cmocka_unit_test(the_fast_path_stays_close_to_the_exact_one),
        cmocka_unit_test(keys_and_values_in_8_bits_stay_close_to_wide_ones),
    };
    const struct CMUnitTest of_ranks[] = {
        cmocka_unit_test(log_probabilities_and_greedy_tokens_are_those_of_transformers),
        cmocka_unit_test(perplexity_of_a_text_is_that_of_transformers),
    };
    const int n_failed = cmocka_run_group_tests_name("golden logprobs", tests, NULL, NULL);
    n_ranks = 3; /* of 9 query and 3 key heads */
    return n_failed + cmocka_run_group_tests_name("three ranks", of_ranks, NULL, NULL);
}
