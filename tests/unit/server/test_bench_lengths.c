/* What bench_lengths promises: means of 202 and 179, bounds, and the same pair for the same seed
 * and request. */
#include "server/bench_lengths.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

enum { N = 200000 };

static void lengths_have_their_means_and_bounds(void **state)
{
    (void)state;
    double prompt = 0, answer = 0;
    for (int32_t i = 0; i < N; i++) {
        const struct lengths l = lengths_sharegpt(7, i);
        assert_in_range(l.prompt, 4, 1024);
        assert_in_range(l.answer, 4, 900);
        prompt += l.prompt;
        answer += l.answer;
    }
    assert_true(fabs(prompt / N - 202) < 2);
    assert_true(fabs(answer / N - 179) < 2);
}

static void lengths_depend_on_seed_and_request_alone(void **state)
{
    (void)state;
    int n_alike = 0;
    for (int32_t i = 0; i < 1000; i++) {
        const struct lengths a = lengths_sharegpt(1, i), b = lengths_sharegpt(1, i);
        const struct lengths c = lengths_sharegpt(2, i);
        assert_true(a.prompt == b.prompt && a.answer == b.answer);
        n_alike += a.prompt == c.prompt && a.answer == c.answer;
    }
    assert_true(n_alike < 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lengths_have_their_means_and_bounds),
        cmocka_unit_test(lengths_depend_on_seed_and_request_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
