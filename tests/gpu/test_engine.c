/* What the engine on CUDA promises: the log-probabilities of the CPU in float32, but for the
 * rounding of 16-bit activations; and the same bits for a sequence alone as among others, and for a
 * prompt in one step as in several.
 *
 *     gpu_test_engine [DEVICE [SHAPES]]      "cuda" and tests/gpu/shapes; "cpu" tries the test
 * itself */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "kernels/backend.h"
#include "tests/gpu/answers.h"

static const double SPREAD_MIN = 0.05; /* of log-probabilities: else a wrong model would pass */
/* Root mean square, in units of the spread; with activations in 8 bits, where a last bit of 16 may
 * decide on one of 8, more. */
static const double ERROR_MAX = 0.05, ERROR_MAX_8 = 0.15;

static const char *device = "cuda", *shapes = "tests/gpu/shapes";
static const struct {
    struct model model;
    const char *quantize;
} models[] = {{{"small", "auto"}, NULL},
              {{"wide-heads", "auto"}, NULL},
              {{"small", "int8"}, NULL},
              {{"wide-heads", "fp8"}, NULL},
              {{"small", "auto"}, "int8:threshold=0"},
              {{"wide-heads", "auto"}, "int8:threshold=1"},
              {{"small", "auto"}, "fp8"}};
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

static void open_engine(struct drive *d, const char *on, int i)
{
    char path[512];
    struct engine_options o = answers_options(on, shapes, &models[i].model, path);
    o.quantize = o.quantize_head = models[i].quantize;
    drive_open(d, &o);
}

static void scores_are_those_of_the_cpu(void **state)
{
    (void)state;
    for (int s = 0; s < N_MODELS; s++) {
        static struct answer want[1], got[1];
        struct drive d;
        double spread;
        open_engine(&d, "cpu", s);
        answer(&d, 1, PROMPT, want);
        drive_close(&d);
        open_engine(&d, device, s);
        answer(&d, 1, PROMPT, got);
        drive_close(&d);
        const double error = answers_error(want, got, &spread);
        printf("%s, kv %s, quantize %s: spread %.4f, error %.5f of it\n", models[s].model.name,
               models[s].model.kv_dtype, models[s].quantize ? models[s].quantize : "none", spread,
               error);
        assert_true(spread > SPREAD_MIN);
        assert_true(error < (models[s].quantize ? ERROR_MAX_8 : ERROR_MAX)); /* NaN fails too */
    }
}

static void company_and_cuts_change_no_bit(void **state)
{
    (void)state;
    for (int s = 0; s < N_MODELS; s++) {
        static struct answer all[SEQS], alone[1], cut[1];
        struct drive d;
        open_engine(&d, device, s);
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
