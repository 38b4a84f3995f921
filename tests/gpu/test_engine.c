/* What the engine on CUDA promises: the log-probabilities of the CPU in float32, but for the
 * rounding of 16-bit activations (with `dtype f32` none); and the same bits for a sequence alone as
 * among others, for a prompt in one step as in several, and from a recorded step whatever its
 * lengths.
 *
 *     gpu_test_engine [small | DEVICE [SHAPES]]
 *
 * small: for compute-sanitizer, the schemes that round activations alone; DEVICE: "cuda"; "cpu"
 * tries the test itself; SHAPES: tests/gpu/shapes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "kernels/backend.h"
#include "tests/gpu/answers.h"
#include "tests/gpu/make_quant.h"

static const double SPREAD_MIN = 0.05; /* of log-probabilities: else a wrong model would pass */
/* Root mean square, in units of the spread; with activations in 8 bits, where a last bit of 16 may
 * decide on one of 8, more. */
static const double ERROR_MAX = 0.05, ERROR_MAX_8 = 0.15;
static const double ERROR_MAX_F32 = 2e-5; /* with activations in f32 */

static const char *device = "cuda", *shapes = "tests/gpu/shapes";
static char folder[] = "/tmp/inferd-quant-XXXXXX";
static const struct tried {
    struct model model;
    const char *quantize;
    enum made made;    /* a folder of that format, instead of random weights */
    const char *dtype; /* NULL = auto */
} models[] = {{{"small", "auto"}, NULL, MADE_NOTHING, NULL},
              {{"wide-heads", "auto"}, NULL, MADE_NOTHING, NULL},
              {{"small", "int8"}, NULL, MADE_NOTHING, NULL},
              {{"wide-heads", "fp8"}, NULL, MADE_NOTHING, NULL},
              {{"small", "auto"}, "int8:threshold=0", MADE_NOTHING, NULL},
              {{"wide-heads", "auto"}, "int8:threshold=1", MADE_NOTHING, NULL},
              {{"small", "auto"}, "fp8", MADE_NOTHING, NULL},
              {{"small", "auto"}, "int4", MADE_NOTHING, NULL},
              {{"wide-heads", "auto"}, "int4:asymmetric", MADE_NOTHING, NULL},
              {{"small", "auto"}, "nf4", MADE_NOTHING, NULL},
              {{"wide-heads", "auto"}, "w8a16", MADE_NOTHING, NULL},
              {{"small", "auto"}, "fp4", MADE_NOTHING, NULL},
              {{"", "auto"}, NULL, MADE_GPTQ, NULL},
              {{"", "auto"}, NULL, MADE_AWQ, NULL},
              {{"", "auto"}, NULL, MADE_CT, NULL},
              {{"", "auto"}, NULL, MADE_BNB_NF4, NULL},
              {{"", "auto"}, NULL, MADE_BNB_INT8, NULL},
              {{"small", "auto"}, NULL, MADE_NOTHING, "f32"},
              {{"wide-heads", "auto"}, "w8a16", MADE_NOTHING, "f32"},
              {{"", "auto"}, NULL, MADE_GPTQ, "f32"}};
enum { N_SMALL_MODELS = 7, N_MODELS = sizeof models / sizeof models[0] };
static int n_models = N_MODELS;

static void skip_without_device(void)
{
    struct status st = {0};
    const struct backend *backend = backend_find(device, &st);
    if (backend && backend->probe(NULL, &st))
        return;
    printf("skipped: %s\n", st.msg);
    exit(77);
}

static void open_engine(struct drive *d, const char *on, int i)
{
    const struct tried *m = &models[i];
    char path[512];
    struct engine_options o = answers_options(on, shapes, &m->model, path);
    o.quantize = o.quantize_head = m->quantize;
    o.dtype = strcmp(on, "cpu") == 0 ? NULL : m->dtype;
    if (m->made) {
        o.model_path = folder;
        o.random_weights = false;
    }
    drive_open(d, &o);
}

static void make_folder(int i)
{
    if (models[i].made)
        make_quant(folder, models[i].made);
}

static bool rounds_activations(const struct tried *m)
{
    return m->made == MADE_BNB_INT8 || (m->quantize && (strncmp(m->quantize, "int8", 4) == 0 ||
                                                        strcmp(m->quantize, "fp8") == 0));
}

static double error_max(const struct tried *m)
{
    return m->dtype ? ERROR_MAX_F32 : rounds_activations(m) ? ERROR_MAX_8 : ERROR_MAX;
}

static void scores_are_those_of_the_cpu(void **state)
{
    (void)state;
    for (int s = 0; s < n_models; s++) {
        static struct answer want[1], got[1];
        const struct tried *m = &models[s];
        struct drive d;
        double spread;
        make_folder(s);
        open_engine(&d, "cpu", s);
        answer(&d, 1, PROMPT, want);
        drive_close(&d);
        open_engine(&d, device, s);
        answer(&d, 1, PROMPT, got);
        drive_close(&d);
        const double error = answers_error(want, got, &spread);
        printf("%s, dtype %s, kv %s, quantize %s: spread %.4f, error %.7f of it\n",
               m->made ? made_names[m->made] : m->model.name, m->dtype ? m->dtype : "auto",
               m->model.kv_dtype, m->quantize ? m->quantize : "none", spread, error);
        assert_true(spread > SPREAD_MIN);
        assert_true(error < error_max(m)); /* NaN fails too */
    }
}

static void company_and_cuts_change_no_bit(void **state)
{
    (void)state;
    for (int s = 0; s < n_models; s++) {
        static struct answer all[SEQS], alone[1], cut[1];
        struct drive d;
        make_folder(s);
        open_engine(&d, device, s);
        answer(&d, SEQS, PROMPT, all);
        answer(&d, 1, PROMPT, alone);
        answer(&d, 1, 37, cut);
        drive_close(&d);
        assert_memory_equal(alone, &all[0], sizeof *alone);
        assert_memory_equal(cut, &all[0], sizeof *cut);
    }
}

/* With 8 kv heads, steps of 20 sequences have the kernel of decode attention that sums runs of 2048
 * keys in a block, and those of fewer the one that has single splits alone: attention_plan.c. Where
 * a GPU is simulated the long ones take half a minute a model. */
enum { WIDE = 20, STEPS = 5, LONG = 2100, LONG_CONTEXT = LONG + 2 * STEPS, CHUNK = 512 };

struct text {
    int32_t n_prompt, id[LONG_CONTEXT];
};

struct generated {
    int32_t id[STEPS];
    float logprob[STEPS];
};

static void open_wide_engine(struct drive *d, const char *kv_dtype, const char *dtype)
{
    const struct model m = {"many-kv-heads", kv_dtype};
    char path[512];
    struct engine_options o = answers_options(device, shapes, &m, path);
    o.dtype = dtype;
    o.seqs_max = WIDE;
    o.step_tokens_max = CHUNK;
    o.context_max = LONG_CONTEXT;
    o.kv_blocks = (LONG_CONTEXT + 16) / 16 * WIDE;
    drive_open(d, &o);
}

/* All short, or two of them longer than a run: one from the start, one while it answers. */
static void make_text(struct text *t, int seq, bool some_are_long)
{
    t->n_prompt = 5 + 9 * seq;
    if (some_are_long && seq == 3)
        t->n_prompt = LONG;
    if (some_are_long && seq == 11)
        t->n_prompt = 2048 - STEPS / 2;
    uint32_t seed = 7 * (uint32_t)seq + some_are_long;
    for (int i = 0; i < t->n_prompt + 1; i++) {
        seed = seed * 1664525u + 1013904223u;
        t->id[i] = (int32_t)((seed >> 8) % VOCAB_MAX);
    }
}

/* To the cache; the text's last token then counts as generated. */
static void read_prompt(struct drive *d, int slot, const struct text *t)
{
    struct drive_seq seq = {0};
    for (int from = 0; from < t->n_prompt; from += CHUNK) {
        const int left = t->n_prompt - from;
        drive_begin(d);
        if (from == 0)
            seq = drive_set(d, slot, drive_greedy(0), t->n_prompt);
        drive_row(d, &seq, 0, &t->id[from], left < CHUNK ? left : CHUNK);
        drive_run(d);
    }
}

/* A sequence whose prompt is in its blocks already; what it generated is written again. */
static struct drive_seq begin_again(struct drive *d, int slot, const struct text *t)
{
    struct step_slot *s = step_add_slot(&d->builder);
    *s = (struct step_slot){.slot = slot,
                            .n_prompt = t->n_prompt,
                            .first_history = step_add_history(&d->builder, t->id, t->n_prompt),
                            .n_history = t->n_prompt,
                            .params = drive_greedy(0)};
    return (struct drive_seq){.slot = slot, .position = t->n_prompt};
}

/* Steps of width n: sequences [first, first + n). */
static void generate(struct drive *d, const struct text *t, int first, int n, struct generated *g)
{
    struct drive_seq seq[WIDE];
    for (int step = 0; step < STEPS; step++) {
        drive_begin(d);
        for (int i = 0; i < n; i++) {
            if (step == 0)
                seq[i] = begin_again(d, first + i, &t[first + i]);
            drive_row(d, &seq[i], ROW_SAMPLE,
                      step == 0 ? &t[first + i].id[t[first + i].n_prompt] : NULL, 1);
        }
        const struct step_result *r = drive_run(d);
        for (int i = 0; i < n; i++) {
            const struct step_result_row *row = &step_result_rows(r)[i];
            g[i].id[step] = step_result_tokens(r)[row->first_token].id;
            g[i].logprob[step] = step_result_tokens(r)[row->first_token].logprob;
        }
    }
}

static void check_widths(struct drive *d, const struct text t[WIDE])
{
    static struct generated wide[WIDE], narrow[WIDE], alone[WIDE];
    for (int i = 0; i < WIDE; i++)
        read_prompt(d, i, &t[i]);
    generate(d, t, 0, WIDE, wide);
    generate(d, t, 0, WIDE - 1, narrow);
    for (int i = 0; i < WIDE; i++)
        generate(d, t, i, 1, &alone[i]);
    for (int i = 0; i < WIDE; i++) {
        assert_memory_equal(&wide[i], &alone[i], sizeof *alone);
        if (i < WIDE - 1)
            assert_memory_equal(&narrow[i], &alone[i], sizeof *alone);
    }
}

/* A step of a width is recorded once, with short sequences or with long ones among them. */
static void recorded_steps_serve_other_lengths(void **state)
{
    (void)state;
    static const char *const types[][2] = {{"auto", "auto"}, {"int8", "auto"}, {"auto", "f32"}};
    static struct text t[WIDE];
    for (int i = 0; i < 3; i++) {
        const bool some_are_long = i == 1;
        struct drive d;
        open_wide_engine(&d, types[i][0], types[i][1]);
        for (int round = 0; round < 2; round++) {
            for (int k = 0; k < WIDE; k++)
                make_text(&t[k], k, some_are_long != round);
            check_widths(&d, t);
        }
        drive_close(&d);
    }
}

/* How often a simulated GPU was asked what is free; one that is real does not tell. */
static long count_asked(void)
{
    void *sim = dlopen("libcudasim.so", RTLD_NOW | RTLD_NOLOAD);
    const long *n = sim ? dlsym(sim, "cudasim_n_asked") : NULL;
    const long found = n ? *n : 0;
    if (sim)
        dlclose(sim);
    return found;
}

/* Steps whose width is not recorded for want of memory run as they are, and ask again each second.
 * Only a simulated GPU can be told that it has none, and fails what asks for it. */
static void a_step_needs_no_memory_for_its_graph(void **state)
{
    (void)state;
    static struct answer want[1], got[1];
    struct drive d;
    open_engine(&d, device, 0);
    answer(&d, 1, PROMPT, want);
    drive_close(&d);
    open_engine(&d, device, 0);
    const long n_before = count_asked();
    const uint64_t start = clock_now(&clock_real);
    setenv("CUDASIM_FREE", "1000000", 1);
    answer(&d, 1, PROMPT, got);
    unsetenv("CUDASIM_FREE");
    const long n_seconds = (long)((clock_now(&clock_real) - start) / NS_PER_S);
    drive_close(&d);
    assert_memory_equal(got, want, sizeof *got);
    assert_true(count_asked() - n_before <= n_seconds + 1);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scores_are_those_of_the_cpu),
        cmocka_unit_test(company_and_cuts_change_no_bit),
        cmocka_unit_test(recorded_steps_serve_other_lengths),
        cmocka_unit_test(a_step_needs_no_memory_for_its_graph),
    };
    if (argc > 1 && strcmp(argv[1], "small") == 0)
        n_models = N_SMALL_MODELS;
    else if (argc > 1)
        device = argv[1];
    shapes = argc > 2 ? argv[2] : shapes;
    skip_without_device();
    if (!mkdtemp(folder))
        return 1;
    const int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    made_remove(folder);
    return n_failed;
}
