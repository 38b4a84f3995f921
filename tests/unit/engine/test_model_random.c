/* What models of random weights promise: the shape of their config.json, values that are never
 * zero, with sigma 0.02 or near 1, and other values in each weight. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "engine/model.h"
#include "engine/weights_random.h"
#include "kernels/half.h"

static const struct weight *find(const struct model_file *f, enum slot slot, int32_t il)
{
    for (size_t i = 0; i < f->n_bound; i++)
        if (f->bound[i].rule->slot == slot && f->bound[i].il == il)
            return f->bound[i].src;
    return NULL;
}

static void open_shape(struct model_file *f, const char *path)
{
    struct status st = {0};
    if (!model_file_open_random(f, path, &st))
        fail_msg("%s", st.msg);
}

static void a_shape_is_that_of_its_config(void **state)
{
    (void)state;
    struct model_file f;
    open_shape(&f, "tests/bench/shapes/llama-3.1-8b");
    assert_int_equal(f.n_bound, 3 + 32 * 9);
    assert_int_equal(model_file_bytes(&f), 2 * 8030261248ull);
    assert_int_equal(find(&f, W_K, 31)->rows, 1024);
    assert_non_null(find(&f, W_LM_HEAD, -1));
    model_file_close(&f);
    open_shape(&f, "tests/bench/shapes/llama-3.2-1b/config.json");
    assert_int_equal(model_file_bytes(&f), 2 * 1235814400ull);
    assert_null(find(&f, W_LM_HEAD, -1));
    model_file_close(&f);
}

static void check_values(const struct weight *w, double mean, double sigma)
{
    const uint16_t *v = w->source.at;
    const size_t n = (size_t)(w->rows * w->cols);
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++) {
        const double x = f32_from_bf16(v[i]);
        assert_true(x != 0);
        sum += x;
        squares += (x - mean) * (x - mean);
    }
    assert_true(fabs(sum / (double)n - mean) < 6 * sigma / sqrt((double)n) + 1e-3 * mean);
    assert_true(fabs(sqrt(squares / (double)n) / sigma - 1) < 0.05);
}

static void values_are_random_and_never_zero(void **state)
{
    (void)state;
    struct model_file f;
    open_shape(&f, "tests/bench/shapes/llama-3.2-1b");
    const struct weight *a = find(&f, W_UP, 0), *b = find(&f, W_UP, 1);
    check_values(a, 0, 0.02);
    check_values(find(&f, W_FFN_NORM, 0), 1, 0.02);
    assert_memory_not_equal(a->source.at, b->source.at, 4096);
    /* The largest is read to its end. */
    const struct weight *embed = find(&f, W_EMBED, -1);
    assert_int_not_equal(((const uint16_t *)embed->source.at)[embed->rows * embed->cols - 1], 0);
    model_file_close(&f);
}

static void what_is_no_shape_is_refused(void **state)
{
    (void)state;
    struct model_file f;
    struct status st = {0};
    assert_false(model_file_open_random(&f, "tests/bench", &st));
    st = (struct status){0};
    assert_false(model_file_open_random(&f, "tests/bench/peer.sh", &st));
    assert_int_equal(st.code, STATUS_CORRUPT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_shape_is_that_of_its_config),
        cmocka_unit_test(values_are_random_and_never_zero),
        cmocka_unit_test(what_is_no_shape_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
