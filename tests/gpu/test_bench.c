/* What the benchmark of ops promises on CUDA: every op of one device is timed, products of 16 bits
 * with the vendor's beside them where its library is; each figure is a number above zero. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "tests/unit/kernels/bench_seen.h"

static struct seen run(const char *op, int rows_max)
{
    const struct kernel_bench b = {.device = "cuda",
                                   .options = {.act = DT_BF16, .memory_share = 1},
                                   .shape = "tiny",
                                   .op = op,
                                   .rows_max = rows_max,
                                   .no_rates = true};
    struct seen s = {0};
    struct status st = {0};
    const struct kernel_sink sink = {seen_begin, seen_time, seen_skip, &s};
    if (!kernel_bench_run(&b, &sink, &st))
        fail_msg("%s", st.msg);
    assert_int_equal(s.n_bad, 0);
    return s;
}

static void every_op_of_one_device_is_timed(void **state)
{
    (void)state;
    static const char *const of_many[] = {"attention.prefill", "all_reduce", "head_split", "send",
                                          "recv"};
    assert_true(run("attention.prefill", 16).n_times > 0);
    const struct seen s = run(NULL, 1);
    for (int i = 0; kernel_bench_ops[i]; i++) {
        bool is_of_many = false; /* ranks, or rows */
        for (size_t j = 0; j < sizeof of_many / sizeof of_many[0]; j++)
            is_of_many |= strcmp(kernel_bench_ops[i], of_many[j]) == 0;
        if ((s.n_op[i] == 0) != is_of_many)
            fail_msg("%s was timed %d times", kernel_bench_ops[i], s.n_op[i]);
    }
}

static void the_vendors_product_stands_beside_each_of_ours(void **state)
{
    (void)state;
    const struct seen s = run("matmul", 1);
    if (!s.has_vendor)
        skip();
    assert_true(s.n_times > 0);
    assert_int_equal(s.n_vendor, s.n_times);
}

int main(void)
{
    struct status st = {0};
    const struct backend *backend = backend_find("cuda", &st);
    if (!backend || !backend->probe(NULL, &st)) {
        printf("skipped: %s\n", st.msg);
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_op_of_one_device_is_timed),
        cmocka_unit_test(the_vendors_product_stands_beside_each_of_ours),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
