/* What the device promises: memory that is zeroed and aligned, refusals that name their limit,
 * and an instruction set never above the one asked for. */
#include "cpu_test.h"

#include <sched.h>

static void memory_is_zeroed_and_aligned(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 63, 64, 4096, 100000, (2 << 20) - 64, 2 << 20, 9000001};
    struct device *d = open_cpu(NULL, 1);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        unsigned char *p = take(d, sizes[i]);
        assert_int_equal((uintptr_t)p % 256, 0);
        for (size_t k = 0; k < sizes[i]; k++)
            assert_int_equal(p[k], 0);
        memset(p, 0xaa, sizes[i]); /* the next one must be zero all the same */
    }
    cpu_backend.ops->close(d);
}

static void memory_that_cannot_be_had_is_refused(void **state)
{
    (void)state;
    static const size_t sizes[] = {SIZE_MAX, SIZE_MAX - 100, SIZE_MAX - (2 << 20), SIZE_MAX / 4};
    struct device *d = open_cpu(NULL, 1);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct status st = {0};
        assert_null(cpu_backend.ops->mem_take(d, sizes[i], &st));
        assert_int_equal(st.code, STATUS_IO);
    }
    memset(take(d, 1000), 1, 1000); /* still works */
    cpu_backend.ops->close(d);
}

static void bad_options_are_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        struct device_options opts;
        const char *says;
    } cases[] = {
        {{.n_threads = -1}, "-1 threads is not in 0..64"},
        {{.n_threads = 65}, "65 threads is not in 0..64"},
        {{.n_threads = 1, .isa_max = "sse9"}, "\"sse9\""},
        {{.n_threads = 1, .isa_max = ""}, "avx512bf16, amx"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct status st = {0};
        assert_null(cpu_backend.open(&cases[i].opts, &st));
        assert_int_equal(st.code, STATUS_BAD_INPUT);
        if (!strstr(st.msg, cases[i].says))
            fail_msg("\"%s\" does not say %s", st.msg, cases[i].says);
    }
}

static void the_instruction_set_is_never_above_the_limit(void **state)
{
    (void)state;
    static const char *const order[] = {"scalar",     "avx2",       "avx512",
                                        "avx512vnni", "avx512bf16", "amx"};
    for (int limit = 0; limit < ISA_N; limit++) {
        struct status st = {0};
        struct device *d = cpu_backend.open(&(struct device_options){.isa_max = order[limit]}, &st);
        assert_non_null(d);
        int chosen = 0;
        while (strcmp(order[chosen], cpu_backend.variant(d)) != 0)
            assert_true(++chosen < ISA_N);
        assert_true(chosen <= limit);
        cpu_backend.ops->close(d);
    }
    struct device *d = open_cpu(NULL, 0);
    print_message("           best here: %s\n", cpu_backend.variant(d));
    cpu_backend.ops->close(d);
    cpu_backend.ops->close(NULL);
}

static void wait_reports_no_fault(void **state)
{
    (void)state;
    struct status st = {0};
    struct device *d = open_cpu(NULL, 2);
    const struct device_limits l = wide_limits();
    give_work(d, &l);
    take_batch(d, &(struct batch){.seq_start = (int32_t[]){0}});
    assert_true(cpu_backend.ops->step_ready(d));
    assert_true(cpu_backend.probe(NULL, &st));
    assert_int_equal(st.code, STATUS_OK);
    assert_string_equal(cpu_backend.ops->name, "cpu");
    assert_int_equal(cpu_backend.ops->act_dtype(d), DT_F32);
    cpu_backend.ops->close(d);
}

static void work_grows_with_each_limit(void **state)
{
    (void)state;
    struct device *d = open_cpu(NULL, 2);
    const struct device_limits l = wide_limits();
    const size_t least = cpu_backend.ops->work_bytes(d, &l);
    struct device_limits wide[] = {l, l, l, l, l, l, l};
    wide[0].vocab = 10000000;
    wide[1].in_max = 65536;
    wide[2].step_tokens_max = 65536;
    wide[3].seqs_max = 1024;
    wide[4].context_max = 1 << 24;
    wide[5].ffn = 65536;
    wide[6].step_heads_max = 65536;
    for (size_t i = 0; i < sizeof wide / sizeof *wide; i++)
        assert_true(cpu_backend.ops->work_bytes(d, &wide[i]) > least);
    assert_true(cpu_backend.ops->mem_free(d) > 1 << 20);
    cpu_backend.ops->close(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_zeroed_and_aligned),
        cmocka_unit_test(memory_that_cannot_be_had_is_refused),
        cmocka_unit_test(bad_options_are_refused_by_name),
        cmocka_unit_test(the_instruction_set_is_never_above_the_limit),
        cmocka_unit_test(wait_reports_no_fault),
        cmocka_unit_test(work_grows_with_each_limit),
    };
    return cmocka_run_group_tests_name("cpu", tests, NULL, NULL);
}
