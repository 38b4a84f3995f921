/* What norm promises: rows normed as defined, alone or in a batch to the same bits. */
#include "cpu_test.h"

#include <math.h>

struct norm_case {
    const char *name;
    int rows, width;
    enum norm_kind kind;
    bool has_w, has_b, in_place;
    float offset; /* mean of x */
    enum { ADD_NONE, ADD_ROW, ADD_Y } add;
};

static const struct norm_case cases[] = {
    {"rms, small model", 7, 576, NORM_RMS, true, false, false, 0, ADD_NONE},
    {"rms, one value", 3, 1, NORM_RMS, true, false, false, 0, ADD_NONE},
    {"rms, odd width, in place", 5, 37, NORM_RMS, true, false, true, 1, ADD_NONE},
    {"rms without weight", 4, 128, NORM_RMS, false, false, false, 0, ADD_NONE},
    {"rms, wide, many rows", 60, 4096, NORM_RMS, true, false, false, 0, ADD_NONE},
    {"layer", 9, 768, NORM_LAYER, true, true, false, 0.5f, ADD_NONE},
    {"layer, far from zero", 3, 100, NORM_LAYER, true, true, true, 30, ADD_NONE},
    {"layer, plain", 2, 61, NORM_LAYER, false, false, false, 2, ADD_NONE},
    {"layer, bias alone", 2, 16, NORM_LAYER, false, true, false, 2, ADD_NONE},
    {"rms and residual", 5, 640, NORM_RMS, true, false, false, 0, ADD_ROW},
    {"rms, onto the residual", 7, 83, NORM_RMS, true, false, false, 0, ADD_Y},
    {"layer, onto the residual", 3, 100, NORM_LAYER, true, true, false, 1, ADD_Y},
};

/* add: a row, or NULL */
static void norm_exactly(const struct norm_args *a, const float *x, const float *add, double *y)
{
    double mean = 0, squares = 0;
    for (int i = 0; i < a->width && a->norm.kind == NORM_LAYER; i++)
        mean += (double)x[i] / a->width;
    for (int i = 0; i < a->width; i++)
        squares += ((double)x[i] - mean) * ((double)x[i] - mean);
    double scale = 1 / sqrt(squares / a->width + (double)a->norm.eps);
    for (int i = 0; i < a->width; i++)
        y[i] = ((double)x[i] - mean) * scale * (a->norm.w ? (double)a->norm.w[i] : 1) +
               (a->norm.b ? (double)a->norm.b[i] : 0) + (add ? (double)add[i] : 0);
}

static void check_case(struct device *d, const char *isa, const struct norm_case *c, uint64_t seed)
{
    struct random r = {seed};
    size_t n = (size_t)c->rows * (size_t)c->width;
    float *x = new_normal(&r, n, 3), *y = new_floats(n + 1);
    float *w = new_normal(&r, (size_t)c->width, 1), *b = new_normal(&r, (size_t)c->width, 1);
    float *residual = new_normal(&r, n, 2);
    double *want = malloc((size_t)c->width * sizeof *want);
    for (size_t i = 0; i < n; i++)
        x[i] += c->offset;
    if (c->in_place)
        memcpy(y, x, n * sizeof *x);
    if (c->add == ADD_Y)
        memcpy(y, residual, n * sizeof *y);
    struct norm_args a = {
        .y = y,
        .x = c->in_place ? y : x,
        .rows = c->rows,
        .width = c->width,
        .norm = {.kind = c->kind, .w = c->has_w ? w : NULL, .b = c->has_b ? b : NULL, .eps = 1e-5f},
        .add = c->add == ADD_NONE ? NULL
               : c->add == ADD_Y  ? y
                                  : residual};
    cpu_backend.ops->norm(d, &a);
    assert_true(isnan(y[n]));
    double limit = 2e-6 * (1 + fabs((double)c->offset));
    for (int row = 0; row < c->rows; row++) {
        const float *add = c->add == ADD_NONE ? NULL : residual + row * c->width;
        norm_exactly(&a, x + row * c->width, add, want);
        for (int i = 0; i < c->width; i++) {
            double got = (double)y[row * c->width + i];
            if (!(fabs(got - want[i]) < limit * (1 + fabs(want[i]))))
                fail_msg("%s, %s: row %d value %d: got %.9g, want %.9g", isa, c->name, row, i, got,
                         want[i]);
        }
        float *alone = new_floats((size_t)c->width);
        struct norm_args one = a;
        one.rows = 1;
        one.x = x + row * c->width;
        one.y = alone;
        one.add = add;
        cpu_backend.ops->norm(d, &one);
        assert_memory_equal(alone, y + row * c->width, (size_t)c->width * sizeof *alone);
        free(alone);
    }
    free(x), free(y), free(w), free(b), free(residual), free(want);
}

static void rows_are_normed_as_defined_and_alone_alike(void **state)
{
    (void)state;
    for (int isa = 0; isa < ISAS; isa++) {
        struct device *d = open_cpu(isa_names[isa], 3);
        if (!d)
            continue;
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
            check_case(d, isa_names[isa], &cases[i], 40 + i);
        cpu_backend.ops->close(d);
    }
}

static void threads_do_not_change_bits(void **state)
{
    (void)state;
    enum { ROWS = 200, WIDTH = 576 };
    struct random r = {9};
    float *x = new_normal(&r, ROWS * WIDTH, 1), *y[2];
    for (int i = 0; i < 2; i++) {
        struct device *d = open_cpu(NULL, 1 + 3 * i);
        y[i] = new_floats(ROWS * WIDTH);
        cpu_backend.ops->norm(
            d, &(struct norm_args){
                   .y = y[i], .x = x, .rows = ROWS, .width = WIDTH, .norm = {.eps = 1e-6f}});
        cpu_backend.ops->close(d);
    }
    assert_memory_equal(y[0], y[1], ROWS * WIDTH * sizeof(float));
    free(x), free(y[0]), free(y[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_normed_as_defined_and_alone_alike),
        cmocka_unit_test(threads_do_not_change_bits),
    };
    return cmocka_run_group_tests_name("norm", tests, NULL, NULL);
}
