/* What GGUF files of every block format promise on CUDA: the log-probabilities and greedy tokens of
 * the CPU in float32, but for the rounding of 16 bits; the same bits for a sequence alone as among
 * others, and for a prompt in one step as in several.
 *
 *     gpu_test_gguf [small | DEVICE [FILE]]
 *
 * small: three formats, for compute-sanitizer; DEVICE "cpu" tries the test itself; FILE: that alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <unistd.h>

#include "kernels/backend.h"
#include "tests/gpu/answers.h"
#include "tests/gpu/make_gguf.h"

static const double SPREAD_MIN = 0.05; /* of log-probabilities: else a wrong model would pass */
static const double TIE = 0.05;        /* of the spread: two tokens this near may change places */

/* Errors: root mean square, in units of the spread.  In narrow models a token or two have keys that
 * nearly tie, between which the rounding to 16 bits decides. */
#ifdef ANSWERS_SMALL
static const double ERROR_MAX = 0.03;
static const struct gguf_shape wide = {256, 4, 2, 768, VOCAB_MAX, 2};
static const struct gguf_shape odd = {320, 5, 1, 416, VOCAB_MAX, 1}; /* rows are no whole tiles */
#else
static const double ERROR_MAX = 0.01;
static const struct gguf_shape wide = {512, 8, 2, 768, VOCAB_MAX, 2};
static const struct gguf_shape odd = {576, 9, 3, 1536, VOCAB_MAX, 2};
#endif

static const char *device = "cuda";
static bool is_small;
static char made[] = "/tmp/inferd-gguf-XXXXXX";
static const char *path = made;

static void open_engine(struct drive *d, const char *on)
{
    static const struct model any = {"", "auto"};
    char unused[512];
    struct engine_options o = answers_options(on, "", &any, unused);
    o.model_path = path;
    o.random_weights = false;
    drive_open(d, &o);
}

static void check_tokens(const struct answer *want, const struct answer *got, double tie)
{
    for (int i = 0; i < DECODES; i++) {
        if (fabs((double)(want->logprob[i] - got->logprob[i])) > tie)
            fail_msg("token %d: %d at %g, want %d at %g", i, got->id[i], (double)got->logprob[i],
                     want->id[i], (double)want->logprob[i]);
        if (want->id[i] != got->id[i])
            return; /* a tie: what follows is another text */
    }
}

static void check_file(const char *what)
{
    static struct answer want[1], all[SEQS], alone[1], cut[1];
    struct drive d;
    double spread;
    open_engine(&d, "cpu");
    answer(&d, 1, PROMPT, want);
    drive_close(&d);
    open_engine(&d, device);
    answer(&d, SEQS, PROMPT, all);
    answer(&d, 1, PROMPT, alone);
    answer(&d, 1, 37, cut);
    drive_close(&d);
    const double error = answers_error(want, alone, &spread);
    printf("%s: spread %.4f, error %.6f of it\n", what, spread, error);
    assert_true(spread > SPREAD_MIN);
    assert_true(error < ERROR_MAX); /* NaN fails too */
    check_tokens(want, alone, TIE * spread);
    assert_memory_equal(alone, &all[0], sizeof *alone);
    assert_memory_equal(cut, &all[0], sizeof *cut);
}

static void check_made(enum dtype dtype, const struct gguf_shape *shape)
{
    char what[64];
    snprintf(what, sizeof what, "%s, %u wide", dtype_traits[dtype].name, shape->hidden);
    make_gguf(made, dtype, shape);
    check_file(what);
}

static void the_file_answers_as_on_the_cpu(void **state)
{
    (void)state;
    check_file(path);
}

/* The plainest, one with minima, and the one of most bits. */
static bool is_wanted(int f)
{
    return !is_small || f == DT_Q4_0 || f == DT_Q5_K || f == DT_Q6_K;
}

static void every_block_format_answers_as_the_cpu(void **state)
{
    (void)state;
    for (int f = DT_Q4_0; f <= DT_Q6_K; f++)
        if (is_wanted(f))
            check_made((enum dtype)f, &wide);
}

static void rows_need_not_be_whole_tiles(void **state)
{
    (void)state;
    for (int f = DT_Q4_0; f <= DT_Q8_0; f++)
        if (is_wanted(f))
            check_made((enum dtype)f, &odd);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_block_format_answers_as_the_cpu),
        cmocka_unit_test(rows_need_not_be_whole_tiles),
    };
    const struct CMUnitTest file[] = {cmocka_unit_test(the_file_answers_as_on_the_cpu)};
    struct status st = {0};
    is_small = argc > 1 && strcmp(argv[1], "small") == 0;
    device = argc > 1 && !is_small ? argv[1] : device;
    const struct backend *backend = backend_find(device, &st);
    if (!backend || !backend->probe(NULL, &st)) {
        printf("skipped: %s\n", st.msg);
        return 77;
    }
    if (argc > 2) {
        path = argv[2];
        return cmocka_run_group_tests(file, NULL, NULL);
    }
    const int fd = mkstemp(made);
    if (fd < 0)
        return 1;
    close(fd);
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(made);
    return failed;
}
