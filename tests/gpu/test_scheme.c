/* What products of quantized weights promise on CUDA: values within rounding of f64 over the codes,
 * for every number of rows the same bits of a row, every value written, and nothing beside them. */
#include "tests/gpu/scheme_matrix.h"

enum { ROWS_MAX = 194, OUTS = MATMUL_OUTS_MAX, SAMPLES = 100 };

static const int some_rows[] = {1, 2, 3, 7, 8, 9, 16, 17, 24, 32, 33, 64, 65, 129, 161, 193};

struct form {
    const char *name;
    struct scheme scheme; /* codes of a block format, which has a layout in files: only that */
};

static const struct form forms[] = {
    {"int4", {.codes = DT_INT4, .group = 128, .scale = DT_F16}},
    {"int4 asymmetric", {.codes = DT_INT4, .group = 128, .scale = DT_F16, .has_zero = true}},
    {"int4 by 64", {.codes = DT_INT4, .group = 64, .scale = DT_BF16}},
    {"int4 by 32 asymmetric", {.codes = DT_INT4, .group = 32, .scale = DT_F16, .has_zero = true}},
    {"int4 by 96", {.codes = DT_INT4, .group = 96, .scale = DT_F16}},
    {"int4 by 256", {.codes = DT_INT4, .group = 256, .scale = DT_F32}},
    {"int4 rows", {.codes = DT_INT4}},
    {"int4 rows asymmetric", {.codes = DT_INT4, .has_zero = true}},
    {"int4 ordered",
     {.codes = DT_INT4, .group = 128, .scale = DT_F16, .has_zero = true, .ordered = true}},
    {"int8 rows", {.codes = DT_INT8}},
    {"int8 rows asymmetric", {.codes = DT_INT8, .has_zero = true}},
    {"int8 by 128", {.codes = DT_INT8, .group = 128, .scale = DT_F16}},
    {"int8 by 32 asymmetric", {.codes = DT_INT8, .group = 32, .scale = DT_F16, .has_zero = true}},
    {"nf4", {.codes = DT_NF4, .group = 64}},
    {"nf4 nested", {.codes = DT_NF4, .group = 64, .nested = true}},
    {"nf4 by 32", {.codes = DT_NF4, .group = 32, .scale = DT_BF16}},
    {"nf4 by 128", {.codes = DT_NF4, .group = 128}},
    {"fp4", {.codes = DT_FP4, .group = 64}},
    {"fp8 rows", {.codes = DT_FP8}},
    {"q4_0", {.codes = DT_Q4_0}},
    {"q4_1", {.codes = DT_Q4_1}},
    {"q5_0", {.codes = DT_Q5_0}},
    {"q5_1", {.codes = DT_Q5_1}},
    {"q8_0", {.codes = DT_Q8_0}},
    {"q2_k", {.codes = DT_Q2_K}},
    {"q3_k", {.codes = DT_Q3_K}},
    {"q4_k", {.codes = DT_Q4_K}},
    {"q5_k", {.codes = DT_Q5_K}},
    {"q6_k", {.codes = DT_Q6_K}},
};

struct kind {
    const char *name;
    int n_outs;
    bool gated, bias, add, apart, norm;
};

static const struct kind kinds[] = {
    {.name = "plain", .n_outs = 1},
    {.name = "norm, bias, residual in place", .n_outs = 1, .norm = true, .bias = true, .add = true},
    {.name = "norm, gate", .n_outs = 2, .gated = true, .norm = true},
    {.name = "norm, three together", .n_outs = 3, .norm = true},
    {.name = "bias, gate, apart", .n_outs = 2, .gated = true, .bias = true, .apart = true},
};

static const int shapes[][2] = {/* in, n of the first out */
                                {384, 56}, {1000, 40},  {256, 1280}, {2176, 200}, {1024, 528},
                                {128, 56}, {768, 4240}, {576, 208},  {4096, 272}, {2304, 1040}};
/* Short ones for which 132 SMs choose the larger tiles of wide products, some of them several a
 * block, or shared; and a long one, for which most bring x in pairs. */
static const int waves[][2] = {{256, 4240},  {640, 7168},  {256, 14336},
                               {1024, 8704}, {256, 16960}, {16384, 264}};

static const int (*some_shapes)[2] = shapes;
static int n_shapes = sizeof shapes / sizeof shapes[0];

struct operands {
    const struct form *form;
    const struct kind *kind;
    int in, n[OUTS], stride; /* stride: of y's rows, all outs side by side */
    struct matrix m[OUTS];
    uint16_t *x, *add;
    float *bias[OUTS], *norm_w;
    void *x_dev, *y_dev, *bias_dev[OUTS];
    struct norm norm;
};

static int failures;

static void fail_case(const struct tested *t, const struct operands *o, const char *what, int rows,
                      int at)
{
    if (failures++ < 20)
        printf("FAIL %s %s in %d n %d %s: %s, %d rows, at %d\n", t->act == DT_F16 ? "f16" : "bf16",
               o->form->name, o->in, o->n[0], o->kind->name, what, rows, at);
}

static int outs_written(const struct operands *o)
{
    return o->kind->gated ? 1 : o->kind->n_outs;
}

/* ---- matrices ---- */

/* The value of a row's code, and what the device's way of holding it may cost. */
static double value_of(const struct matrix *m, const float *row, int col, double *slack)
{
    const double v = (double)row[col];
    const bool wide =
        m->scheme->group != 0 && m->scheme->scale == DT_F32 && !has_codebook(m->scheme);
    *slack = wide ? fabs(v) * 0x1p-10 : 0;
    return v;
}

/* ---- operands ---- */

static struct operands make(const struct tested *t, struct pool *pool, const struct form *form,
                            const struct kind *kind, const int shape[2])
{
    const int in = shape[0], n = shape[1], more = n / 16 / 2 * 16 + 16;
    struct operands o = {
        .form = form, .kind = kind, .in = in, .n = {n, kind->gated ? n : more, more}};
    pool->next = pool->at;
    for (int i = 0; i < kind->n_outs; i++) {
        o.m[i] = make_matrix(&form->scheme, o.n[i], in);
        put_matrix(t, pool, &o.m[i], kind->apart);
    }
    for (int i = 0; i < outs_written(&o); i++)
        o.stride += o.n[i];
    pool->next = pool->at + (pool->next - pool->at + 255) / 256 * 256;
    for (int i = 0; i < kind->n_outs; i++) {
        o.bias[i] = random_floats((size_t)o.n[i], 1);
        o.bias_dev[i] = pool_put(t, pool, o.bias[i], (size_t)o.n[i] * sizeof(float));
    }
    o.x = random_acts(t, (size_t)ROWS_MAX * (size_t)in, 1);
    o.add = random_acts(t, (size_t)ROWS_MAX * (size_t)o.stride, 1);
    o.norm_w = random_floats((size_t)in, 1);
    o.x_dev = pool_put(t, pool, o.x, (size_t)ROWS_MAX * (size_t)in * 2);
    o.y_dev = pool_put(t, pool, NULL, (size_t)(ROWS_MAX + 1) * (size_t)o.stride * 2);
    o.norm = (struct norm){.kind = NORM_RMS,
                           .eps = 1e-5f,
                           .w = pool_put(t, pool, o.norm_w, (size_t)in * sizeof(float))};
    return o;
}

static void free_host(struct operands *o)
{
    for (int i = 0; i < o->kind->n_outs; i++) {
        free_matrix(&o->m[i]);
        free(o->bias[i]);
    }
    free(o->x);
    free(o->add);
    free(o->norm_w);
}

/* y[rows, stride] of the rows of x from `first` on, and one row of what lies behind it. */
static uint16_t *run(const struct tested *t, const struct operands *o, int first, int rows)
{
    const struct kind *k = o->kind;
    const size_t n = (size_t)rows * (size_t)o->stride, all = n + (size_t)o->stride;
    uint16_t *y = take_host(all * sizeof *y);
    memset(y, 0xff, all * sizeof *y); /* NaN */
    if (k->add)
        memcpy(y, o->add + (size_t)first * (size_t)o->stride, n * sizeof *y);
    t->ops->copy_in(t->d, o->y_dev, y, all * sizeof *y);
    struct matmul_args a = {.x = (const char *)o->x_dev + (size_t)first * (size_t)o->in * 2,
                            .rows = rows,
                            .norm = k->norm ? &o->norm : NULL,
                            .act = k->gated ? ACT_SILU : ACT_NONE,
                            .n_outs = k->n_outs};
    int column = 0;
    for (int i = 0; i < k->n_outs; i++) {
        char *y_i = (char *)o->y_dev + (size_t)(i < outs_written(o) ? column : 0) * 2;
        a.out[i] = (struct matmul_out){.y = y_i,
                                       .y_stride = o->stride,
                                       .w = &o->m[i].w,
                                       .bias = k->bias ? o->bias_dev[i] : NULL,
                                       .add = k->add ? y_i : NULL};
        column += o->n[i];
    }
    t->ops->matmul(t->d, &a);
    t->ops->copy_out(t->d, y, o->y_dev, all * sizeof *y);
    return y;
}

/* ---- the reference ---- */

struct value {
    double v, slack; /* what rounding may cost */
};

/* x as the product sees it: normalised and rounded. */
static float *reference_row(const struct tested *t, const struct operands *o, int row)
{
    const uint16_t *from = o->x + (size_t)row * (size_t)o->in;
    float *x = take_host((size_t)o->in * sizeof *x);
    double squares = 0;
    for (int i = 0; i < o->in; i++)
        squares += pow((double)act_to_f32(t, from[i]), 2);
    const double scale = 1 / sqrt(squares / o->in + (double)o->norm.eps);
    for (int i = 0; i < o->in; i++) {
        const double v = (double)act_to_f32(t, from[i]);
        x[i] = o->kind->norm ? act_rounded(t, (float)(v * scale * (double)o->norm_w[i])) : (float)v;
    }
    return x;
}

static struct value reference_sum(const struct tested *t, const struct operands *o, const float *x,
                                  int out, int col)
{
    const struct matrix *m = &o->m[out];
    float *w = row_values(t, m, col);
    double sum = 0, all = 0, lost = 0, largest = 0;
    for (int i = 0; i < o->in; i++) {
        double slack;
        const double xv = (double)x[m->order[i]], v = value_of(m, w, i, &slack) * xv;
        sum += v;
        all += fabs(v);
        largest = fmax(largest, fabs(v));
        lost += pow(slack * xv, 2);
    }
    free(w);
    /* f32 sums; values that are held rounded, each its own way; with a norm a few x may have
     * rounded the other way, be it the one that counts most. */
    const double flips = act_unit(t) * (all / sqrt(o->in) + 2 * largest);
    const double slack = 1e-5 * all + 4 * sqrt(lost) + (o->kind->norm ? flips : 0);
    return (struct value){sum + (o->kind->bias ? (double)o->bias[out][col] : 0), slack};
}

static struct value reference(const struct tested *t, const struct operands *o, int row, int out,
                              int col)
{
    const struct kind *k = o->kind;
    const double unit = act_unit(t);
    float *x = reference_row(t, o, row);
    struct value v = reference_sum(t, o, x, out, col);
    if (k->gated) {
        const struct value up = reference_sum(t, o, x, 1, col);
        v.slack = 1.2 * (v.slack + unit * fabs(v.v)); /* no activation is steeper */
        v.v = v.v / (1 + exp(-v.v));
        v.slack = v.slack * (fabs(up.v) + up.slack) + fabs(v.v) * (up.slack + unit * fabs(up.v));
        v.v *= up.v;
    }
    if (k->add)
        v.v += (double)act_to_f32(t, o->add[(size_t)row * (size_t)o->stride + (size_t)col]);
    v.slack += unit * fabs(v.v) + 1e-6;
    free(x);
    return v;
}

/* ---- checks ---- */

static void check_values(const struct tested *t, const struct operands *o, const uint16_t *y)
{
    for (int i = 0; i < ROWS_MAX * o->stride; i++)
        if (!isfinite(act_to_f32(t, y[i]))) {
            fail_case(t, o, "not a number", ROWS_MAX, i);
            return;
        }
    for (int i = 0; i < SAMPLES; i++) {
        const int row = random_below(ROWS_MAX), out = random_below(outs_written(o));
        const int col = i < 8 ? o->n[out] - 1 - i % 4 : random_below(o->n[out]);
        int before = 0;
        for (int j = 0; j < out; j++)
            before += o->n[j];
        const struct value want = reference(t, o, row, out, col);
        const double got =
            (double)act_to_f32(t, y[(size_t)row * (size_t)o->stride + (size_t)(before + col)]);
        if (!(fabs(got - want.v) <= want.slack)) {
            fail_case(t, o, "far from f64", row, before + col);
            printf("     %g, want %g +- %g\n", got, want.v, want.slack);
            return;
        }
    }
}

static void check_bits(const struct tested *t, const struct operands *o, const uint16_t *all,
                       int first, int rows)
{
    uint16_t *y = run(t, o, first, rows);
    const uint16_t *want = all + (size_t)first * (size_t)o->stride;
    const int n = rows * o->stride;
    for (int i = 0; i < n; i++)
        if (y[i] != want[i]) {
            fail_case(t, o, "bits differ", rows, i);
            break;
        }
    for (int i = n; i < n + o->stride; i++)
        if (y[i] != 0xffff) {
            fail_case(t, o, "written past the rows", rows, i);
            break;
        }
    free(y);
}

/* Of the numbers of rows every second, in turn. */
static void check_case(const struct tested *t, struct pool *pool, const struct form *form,
                       const struct kind *kind, const int shape[2])
{
    static size_t turn;
    struct operands o = make(t, pool, form, kind, shape);
    uint16_t *all = run(t, &o, 0, ROWS_MAX);
    check_values(t, &o, all);
    for (size_t i = turn++ % 2; i < sizeof some_rows / sizeof some_rows[0]; i += 2)
        check_bits(t, &o, all, turn % 3 ? ROWS_MAX - some_rows[i] : 0, some_rows[i]);
    free(all);
    free_host(&o);
}

/* A shape meets two kinds, so that a form meets every kind in two shapes. */
static void check_form(const struct tested *t, struct pool *pool, const struct form *form)
{
    enum { KINDS_N = sizeof kinds / sizeof kinds[0] };
    const int before = failures;
    for (int i = 0; i < n_shapes; i++) {
        struct status st = {0};
        size_t n_bytes;
        const bool fits =
            is_block_format(&form->scheme)
                ? tensor_file_bytes(form->scheme.codes, 1, some_shapes[i][0], &n_bytes)
                : scheme_check(&form->scheme, some_shapes[i][0], &st);
        for (int k = 0; fits && k < 2; k++)
            check_case(t, pool, form, &kinds[(form - forms + 2 * i + k) % KINDS_N], some_shapes[i]);
    }
    printf("%s %s %s\n", failures == before ? "ok  " : "FAIL", t->act == DT_F16 ? "f16 " : "bf16",
           form->name);
    fflush(stdout);
}

/* `only`: the forms whose names begin so. */
static void check_type(enum dtype act, const char *only)
{
    const struct device_limits limits = {.step_tokens_max = ROWS_MAX,
                                         .seqs_max = 4,
                                         .heads_max = 4,
                                         .step_heads_max = 4,
                                         .context_max = 64,
                                         .block_tokens = 16,
                                         .table_stride = 4,
                                         .history_max = 16,
                                         .bias_max = 16,
                                         .bias_slot_max = 16,
                                         .vocab = 1000,
                                         .hidden = 4096,
                                         .ffn = 14336,
                                         .n_heads = 32,
                                         .n_kv_heads = 8,
                                         .head_dim = 128,
                                         .in_max = 16384};
    struct tested t;
    device_open(&t, act, &limits);
    struct pool pool = {.at = take_device(&t, (size_t)128 << 20)};
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++)
        if (strncmp(forms[i].name, only, strlen(only)) == 0)
            check_form(&t, &pool, &forms[i]);
    t.ops->close(t.d);
}

/*     gpu_test_scheme [small | waves] [NAME]
 *
 * small, waves: some shapes alone, for compute-sanitizer; NAME: the forms that begin so alone. */
int main(int argc, char **argv)
{
    const bool small = argc > 1 && strcmp(argv[1], "small") == 0,
               is_waves = argc > 1 && strcmp(argv[1], "waves") == 0;
    if (small)
        n_shapes = 6; /* on four SMs several tiles a block, and some that two share */
    if (is_waves) {
        some_shapes = waves;
        n_shapes = sizeof waves / sizeof waves[0];
    }
    const char *only = argc > 1 + (small || is_waves) ? argv[1 + (small || is_waves)] : "";
    check_type(DT_BF16, only);
    check_type(DT_F16, only);
    return failures != 0;
}
