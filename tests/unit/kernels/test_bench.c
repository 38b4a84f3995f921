/* What the benchmark of ops promises: every op of its list is timed on a CPU, with each format, and
 * each figure is a number above zero; what is chosen by name is timed alone; a name that is none is
 * refused with those there are. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/kernels/bench_seen.h"

static struct kernel_bench tiny(void)
{
    return (struct kernel_bench){.device = "cpu",
                                 .options = {.n_threads = 2},
                                 .shape = "tiny",
                                 .rows_max = 16,
                                 .no_rates = true};
}

static struct seen run(const struct kernel_bench *b)
{
    struct seen s = {0};
    struct status st = {0};
    const struct kernel_sink sink = {seen_begin, seen_time, seen_skip, &s};
    if (!kernel_bench_run(b, &sink, &st))
        fail_msg("%s", st.msg);
    assert_int_equal(s.n_begun, 1);
    assert_int_equal(s.n_bad, 0);
    return s;
}

static void every_op_is_timed(void **state)
{
    (void)state;
    struct kernel_bench b = tiny();
    b.n_ranks = 2;
    const struct seen s = run(&b);
    for (int i = 0; kernel_bench_ops[i]; i++)
        if (s.n_op[i] == 0)
            fail_msg("%s was not timed", kernel_bench_ops[i]);
    assert_int_equal(s.n_skipped, 0);
    assert_int_equal(s.n_vendor, 0);
}

static void every_format_is_timed(void **state)
{
    (void)state;
    static const char *const want[] = {"16-bit",
                                       "w8a16",
                                       "int8:threshold=0",
                                       "int8",
                                       "fp8",
                                       "int4",
                                       "int4:asymmetric",
                                       "nf4",
                                       "nf4:nested",
                                       "fp4",
                                       "q8_0",
                                       "q6_k",
                                       "q5_k",
                                       "q4_k",
                                       "q3_k",
                                       "q2_k",
                                       "q5_1",
                                       "q5_0",
                                       "q4_1",
                                       "q4_0"};
    struct kernel_bench b = tiny();
    b.op = "matmul";
    b.format = "all";
    const struct seen s = run(&b);
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        char name[64];
        snprintf(name, sizeof name, ",%s,", want[i]);
        if (!strstr(s.formats, name))
            fail_msg("%s was not timed", want[i]);
    }
}

static void what_is_chosen_is_timed_alone(void **state)
{
    (void)state;
    struct kernel_bench b = tiny();
    b.op = "matmul.o";
    b.format = "int4";
    const struct seen s = run(&b);
    assert_string_equal(s.formats, ",int4,");
    for (int i = 0; kernel_bench_ops[i]; i++)
        assert_int_equal(s.n_op[i] > 0, strcmp(kernel_bench_ops[i], "matmul.o") == 0);
    b.op = "attention";
    b.format = "kv-int8";
    assert_string_equal(run(&b).formats, ",kv-int8,");
    b.op = NULL;
    b.format = "q4_k";
    assert_string_equal(run(&b).formats, ",q4_k,");
}

static void refused(struct kernel_bench b, const char *message)
{
    struct seen s = {0};
    struct status st = {0};
    const struct kernel_sink sink = {seen_begin, seen_time, seen_skip, &s};
    assert_false(kernel_bench_run(&b, &sink, &st));
    assert_int_equal(st.code, STATUS_BAD_INPUT);
    assert_int_equal(s.n_begun, 0);
    if (!strstr(st.msg, message))
        fail_msg("want \"%s\" in \"%s\"", message, st.msg);
}

static void names_that_are_none_are_refused(void **state)
{
    (void)state;
    struct kernel_bench b = tiny();
    b.shape = "9b";
    refused(b, "shape \"9b\": want 8b, 1b, 70b/2, tiny");
    b = tiny();
    b.op = "matmul.q";
    refused(b, "op \"matmul.q\": want matmul.qkv|.o|.gated|.down, matmul_rope_kv,");
    refused(b, ", head_split, send, recv");
    b.op = "mat";
    refused(b, "op \"mat\": want ");
    b = tiny();
    b.format = "int3";
    refused(b, "format \"int3\": want 16-bit, ");
    refused(b, "kv-fp8, all");
    b = tiny();
    b.n_ranks = 17;
    refused(b, "ranks: want at most 16, found 17");
    b = tiny();
    b.op = "all_reduce";
    refused(b, "op: all_reduce wants ranks, 2 or more");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_op_is_timed),
        cmocka_unit_test(every_format_is_timed),
        cmocka_unit_test(what_is_chosen_is_timed_alone),
        cmocka_unit_test(names_that_are_none_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
