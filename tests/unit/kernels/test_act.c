/* What act promises: each value within some 1e-6 of the definition, whatever lies around it. */
#include "cpu_test.h"

#include <math.h>

static const char *const kind_names[] = {"none", "silu", "gelu", "gelu_tanh", "relu"};

static double act_exactly(enum act_kind kind, double x)
{
    double u = 0.79788456080286535588 * (x + 0.044715 * x * x * x);
    switch (kind) {
    case ACT_SILU:
        return x / (1 + exp(-x));
    case ACT_GELU:
        return 0.5 * x * erfc(-x * 0.70710678118654752440);
    case ACT_GELU_TANH:
        return x / (1 + exp(-2 * u)); /* 0.5 x (1 + tanh u), without its cancellation */
    case ACT_RELU:
    case ACT_NONE:
        break;
    }
    return x > 0 ? x : 0;
}

/* The exponent of gelu_tanh takes five roundings of 6e-8, and exp() multiplies them by its size. */
static double error_limit(enum act_kind kind, double x, double want)
{
    double exponent = kind == ACT_GELU_TANH ? fabs(1.6 * x) + 0.0714 * fabs(x * x * x) : 0;
    return fabs(want) * (1e-6 + 3e-7 * exponent) + 1e-36;
}

static void values_are_close_to_their_definition(void **state)
{
    (void)state;
    enum { N = 40001 };
    for (int isa = 0; isa < ISAS; isa++) {
        struct device *d = open_cpu(isa_names[isa], 2);
        if (!d)
            continue;
        float *x = new_floats(N), *y = new_floats(N + 1);
        for (int kind = ACT_SILU; kind <= ACT_RELU; kind++) {
            double worst = 0, range = kind == ACT_SILU ? 80 : kind == ACT_GELU ? 12 : 8;
            for (int i = 0; i < N; i++)
                x[i] = (float)((2.0 * i / (N - 1) - 1) * range);
            cpu_act(d, &(struct act_args){.y = y,
                                          .gate = x,
                                          .rows = 1,
                                          .width = N,
                                          .y_stride = N,
                                          .kind = (enum act_kind)kind});
            for (int i = 0; i < N; i++) {
                double want = act_exactly((enum act_kind)kind, (double)x[i]);
                double error = fabs((double)y[i] - want);
                if (!(error <= error_limit((enum act_kind)kind, (double)x[i], want)))
                    fail_msg("%s, %s(%.9g): got %.9g, want %.9g", isa_names[isa], kind_names[kind],
                             (double)x[i], (double)y[i], want);
                if (fabs(want) > 1e-30 && error / fabs(want) > worst)
                    worst = error / fabs(want);
            }
            assert_true(isnan(y[N]));
            print_message("           %s %s: largest relative error %.2g\n", isa_names[isa],
                          kind_names[kind], worst);
        }
        free(x), free(y);
        cpu_backend.ops->close(d);
    }
}

static void extremes_stay_in_bounds(void **state)
{
    (void)state;
    static const float x[] = {-1e30f, -1000, -100, -0.0f, 0, 1e-30f, 100, 1000, 1e30f};
    enum { N = sizeof x / sizeof *x };
    for (int isa = 0; isa < ISAS; isa++) {
        struct device *d = open_cpu(isa_names[isa], 1);
        if (!d)
            continue;
        for (int kind = ACT_SILU; kind <= ACT_RELU; kind++) {
            float y[N];
            cpu_act(d, &(struct act_args){.y = y,
                                          .gate = x,
                                          .rows = 1,
                                          .width = N,
                                          .y_stride = N,
                                          .kind = (enum act_kind)kind});
            for (int i = 0; i < N; i++) {
                if (x[i] < -50)
                    assert_true(y[i] <= 0 && y[i] > -1e-20f);
                else if (x[i] > 50)
                    assert_true(y[i] == x[i]);
                else
                    assert_true(fabsf(y[i]) <= fabsf(x[i]));
            }
            float nan = NAN, out = 0;
            cpu_act(d, &(struct act_args){.y = &out,
                                          .gate = &nan,
                                          .rows = 1,
                                          .width = 1,
                                          .y_stride = 1,
                                          .kind = (enum act_kind)kind});
            assert_true(isnan(out)); /* a broken value must show, not become 0 */
        }
        cpu_backend.ops->close(d);
    }
}

static void a_partner_multiplies_and_place_and_threads_change_nothing(void **state)
{
    (void)state;
    enum { ROWS = 67, WIDTH = 1539 };
    size_t n = ROWS * WIDTH;
    struct random r = {77};
    float *gate = new_normal(&r, n, 3), *up = new_normal(&r, n, 2);
    for (int isa = 0; isa < ISAS; isa++) {
        struct device *one = open_cpu(isa_names[isa], 1);
        if (!one)
            continue;
        struct device *many = open_cpu(isa_names[isa], 4);
        for (int kind = ACT_SILU; kind <= ACT_RELU; kind++) {
            float *plain = new_floats(n), *both = new_floats(n), *alone = new_floats(WIDTH);
            struct act_args a = {.y = plain,
                                 .gate = gate,
                                 .rows = ROWS,
                                 .width = WIDTH,
                                 .y_stride = WIDTH,
                                 .kind = (enum act_kind)kind};
            cpu_act(many, &a);
            memcpy(both, gate, n * sizeof *gate);
            a.y = both;
            a.gate = both; /* in place */
            a.up = up;
            cpu_act(one, &a);
            for (size_t i = 0; i < n; i++)
                assert_true(both[i] == plain[i] * up[i]);
            /* One row from a pointer that is not a vector's multiple. */
            a = (struct act_args){.y = alone,
                                  .gate = gate + WIDTH * 3,
                                  .rows = 1,
                                  .width = WIDTH,
                                  .y_stride = WIDTH,
                                  .kind = (enum act_kind)kind};
            cpu_act(one, &a);
            assert_memory_equal(alone, plain + WIDTH * 3, WIDTH * sizeof *alone);
            free(plain), free(both), free(alone);
        }
        cpu_backend.ops->close(one);
        cpu_backend.ops->close(many);
    }
    free(gate), free(up);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_close_to_their_definition),
        cmocka_unit_test(extremes_stay_in_bounds),
        cmocka_unit_test(a_partner_multiplies_and_place_and_threads_change_nothing),
    };
    return cmocka_run_group_tests_name("act", tests, NULL, NULL);
}
