/* What bench_rates promises: options that the engine would refuse are refused in its words, and no
 * rate is measured for them. */
#include "server/bench_rates.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static struct engine_options options_of(const char *path)
{
    return (struct engine_options){.model_path = path,
                                   .random_weights = true,
                                   .device = "cpu",
                                   .n_threads = 1,
                                   .quantize = "int4",
                                   .quantize_head = "int8",
                                   .seqs_max = 1,
                                   .step_tokens_max = 16,
                                   .kv_blocks = 8};
}

static void options_are_refused_before_rates_are_measured(void **state)
{
    static const struct {
        const char *shape, *kv_dtype;
        int32_t context_max, seqs_max;
        const char *says; /* NULL = taken */
    } rows[] = {
        {"llama-3.2-1b", NULL, 0, 1, NULL},
        {"llama-3.2-1b", NULL, 131073, 1, "max-context: want 0 to 131072, found 131073"},
        {"llama-3.2-1b", "int9", 0, 1, "kv-dtype: want auto, f32, "},
        {"llama-3.2-1b", NULL, 0, 2000, "max-seqs: want 0 to 1024, found 2000"},
        {"no-such-shape", NULL, 0, 1, "no-such-shape"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct bench_rates r;
        struct status st = {0};
        char path[64];
        snprintf(path, sizeof path, "tests/bench/shapes/%s", rows[i].shape);
        struct engine_options o = options_of(path);
        o.kv_dtype = rows[i].kv_dtype;
        o.context_max = rows[i].context_max;
        o.seqs_max = rows[i].seqs_max;
        const bool ok = bench_rates_measure(&r, &o, &st);
        assert_int_equal(ok, rows[i].says == NULL);
        assert_int_equal(r.copy_bytes_s > 0, ok);
        assert_int_equal(r.matmul_flops > 0, ok);
        if (!ok && !strstr(st.msg, rows[i].says))
            fail_msg("want \"%s\", got \"%s\"", rows[i].says, st.msg);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_are_refused_before_rates_are_measured),
    };
    return cmocka_run_group_tests_name("bench_rates", tests, NULL, NULL);
}
