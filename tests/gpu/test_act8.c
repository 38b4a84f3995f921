/* What products of 8-bit activations promise on CUDA: a row is rounded as the CPU rounds it, to the
 * bit, but for outliers, which are half a step off at most; sums are within rounding of f64 over
 * what was rounded; a row has the same bits alone and in any batch, whatever the rows beside it
 * hold; every value is written, and nothing beside them. */
#include "kernels/cpu/act_form.h"
#include "tests/gpu/scheme_matrix.h"

enum { ROWS_MAX = 300, OUTS = MATMUL_OUTS_MAX, SAMPLES = 50, POISONED = 5 };

static const int some_rows[] = {1,  2,  3,  4,  5,   8,   9,   16,  17, 31,
                                32, 33, 64, 65, 100, 128, 129, 200, 257};
static int rows_step = 1; /* a small run takes every so manyth of them, in turn */

struct form {
    const char *name;
    struct scheme scheme;
    int large_step; /* each so many-th column of x is large; 0 = none */
    int large_end;  /*   of those before this one; 0 = all */
};

static const struct form forms[] = {
    {"int8", {.codes = DT_INT8, .act = ACTS_INT8}, 0, 0},
    {"fp8", {.codes = DT_FP8, .act = ACTS_FP8}, 0, 0},
    {"no outliers", {.codes = DT_INT8, .act = ACTS_OUTLIERS, .threshold = 100}, 0, 0},
    {"some outliers", {.codes = DT_INT8, .act = ACTS_OUTLIERS, .threshold = 6}, 97, 0},
    {"outliers side by side", {.codes = DT_INT8, .act = ACTS_OUTLIERS, .threshold = 6}, 1, 53},
    {"outliers everywhere", {.codes = DT_INT8, .act = ACTS_OUTLIERS, .threshold = 2}, 0, 0},
    {"all outliers", {.codes = DT_INT8, .act = ACTS_OUTLIERS, .threshold = 1e-30f}, 0, 0},
};

struct kind {
    const char *name;
    int n_outs;
    bool gated, bias, add, apart, norm;
    enum act_kind act;
};

static const struct kind kinds[] = {
    {.name = "plain", .n_outs = 1},
    {.name = "norm, bias, residual in place", .n_outs = 1, .norm = true, .bias = true, .add = true},
    {.name = "residual", .n_outs = 1, .add = true},
    {.name = "norm, gate", .n_outs = 2, .gated = true, .norm = true, .act = ACT_SILU},
    {.name = "norm, three together", .n_outs = 3, .norm = true},
    {.name = "bias, gelu gate, apart",
     .n_outs = 2,
     .gated = true,
     .bias = true,
     .apart = true,
     .act = ACT_GELU},
};

static const int shapes[][2] = {/* in, n of the first out: the last but one has no rows that a wide
                                   kernel could write */
                                {384, 56},
                                {1000, 136},
                                {72, 8},
                                {768, 1101},
                                {4096, 1040}};

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

/* ---- operands ---- */

static void make_x(const struct tested *t, struct operands *o)
{
    o->x = random_acts(t, (size_t)ROWS_MAX * (size_t)o->in, 1);
    const int end = o->form->large_end ? o->form->large_end : o->in;
    for (int row = 0; row < ROWS_MAX && o->form->large_step; row++)
        for (int c = 3; c < end; c += o->form->large_step)
            if (random_below(4)) /* not in every row */
                o->x[row * o->in + c] = act_from_f32(t, 30 + (float)random_below(1000) / 10);
}

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
    make_x(t, &o);
    o.add = random_acts(t, (size_t)ROWS_MAX * (size_t)o.stride, 1);
    o.norm_w = random_floats((size_t)in, 1);
    o.x_dev = pool_put(t, pool, NULL, (size_t)ROWS_MAX * (size_t)in * 2);
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
    t->ops->copy_in(t->d, o->x_dev, o->x + (size_t)first * (size_t)o->in,
                    (size_t)rows * (size_t)o->in * 2);
    t->ops->copy_in(t->d, o->y_dev, y, all * sizeof *y);
    struct matmul_args a = {.x = o->x_dev,
                            .rows = rows,
                            .norm = k->norm ? &o->norm : NULL,
                            .act = k->act,
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

/* A row as the rule rounds it, in floats; columns are padded to whole blocks. */
static float *rounded_row(const struct scheme *s, const float *x, int in)
{
    const struct act_form form = {
        .kind = FORM_FLOATS, .n_planes = 1, .rule = s->act, .threshold = s->threshold};
    float *to = take_host(act_form_bytes(&form, in));
    act_form_row(&form, &act_rounding_scalar, x, in, to);
    return to;
}

static bool is_outlier(const struct scheme *s, float x)
{
    return s->act == ACTS_OUTLIERS && fabsf(x) >= s->threshold;
}

/* The step of a row with outliers: of the others, or the least with which outliers have 16 bits and
 * their sums 31 (kernels/cuda/act8.h).  *fits <=> it is the others'. */
static float step_of(const struct scheme *s, const float *x, int in, bool *fits)
{
    float top = 0, out_top = 0;
    int n = 0;
    for (int i = 0; i < in; i++) {
        const bool out = is_outlier(s, x[i]);
        n += out;
        out_top = out ? fmaxf(out_top, fabsf(x[i])) : out_top;
        top = out ? top : fmaxf(top, fabsf(x[i]));
    }
    const float least = n ? out_top / fminf(127 * 256 + 127, (float)((1 << 23) / n)) : 0;
    *fits = least <= top / 127;
    return fmaxf(top / 127, least);
}

/* x as the product sees it: normalised, rounded to the type of activations, and by the rule. */
static float *reference_row(const struct tested *t, const struct operands *o, int row, float *step)
{
    bool fits;
    const uint16_t *from = o->x + (size_t)row * (size_t)o->in;
    float *x = take_host((size_t)o->in * sizeof *x);
    double squares = 0;
    for (int i = 0; i < o->in; i++)
        squares += (double)act_to_f32(t, from[i]) * (double)act_to_f32(t, from[i]);
    const double scale = 1 / sqrt(squares / o->in + (double)o->norm.eps);
    for (int i = 0; i < o->in; i++) {
        const double v = (double)act_to_f32(t, from[i]);
        x[i] = o->kind->norm ? act_rounded(t, (float)(v * scale * (double)o->norm_w[i])) : (float)v;
    }
    float *to = rounded_row(&o->form->scheme, x, o->in);
    *step = step_of(&o->form->scheme, x, o->in, &fits);
    for (int i = 0; i < o->in && !fits; i++)
        to[i] = x[i]; /* all are off by half a step of the outliers' */
    free(x);
    return to;
}

/* step: of what of x is off by half of it; 0 = nothing is. */
static struct value reference_sum(const struct tested *t, const struct operands *o, const float *x,
                                  float step, int out, int col)
{
    const struct matrix *m = &o->m[out];
    const struct scheme_rows row = {m->made.codes + (size_t)col * (size_t)m->cols,
                                    m->made.scales + col, NULL};
    float *w = take_host((size_t)m->cols * sizeof *w);
    double sum = 0, all = 0, off = 0;
    scheme_dequantize_row(m->scheme, &row, m->cols, w);
    for (int i = 0; i < o->in; i++) {
        const double v = (double)x[i] * (double)w[i];
        sum += v;
        all += fabs(v);
        if (m->scheme->act == ACTS_OUTLIERS)
            off += pow((double)step * (double)w[i], 2);
    }
    free(w);
    /* f32 behind sums of integers; sums of E4M3, of which the tensor cores keep 14 bits; and with a
     * norm some x may have rounded the other way, by a unit of 16 bits and then one of 8. */
    const double of_fp8 = m->scheme->codes == DT_FP8 ? 0x1p-8 : 0;
    const double of_norm = o->kind->norm ? act_unit(t) + 0x1p-6 : 0;
    const double slack = 1e-6 * all + (of_fp8 + of_norm) * all / sqrt(o->in) + 2 * sqrt(off);
    return (struct value){sum + (o->kind->bias ? (double)o->bias[out][col] : 0), slack};
}

static double reference_act(enum act_kind act, double x)
{
    return act == ACT_SILU ? x / (1 + exp(-x)) : x * 0.5 * erfc(-x / sqrt(2));
}

static struct value reference(const struct tested *t, const struct operands *o, int row, int out,
                              int col)
{
    const struct kind *k = o->kind;
    const double unit = act_unit(t);
    float step, *x = reference_row(t, o, row, &step);
    struct value v = reference_sum(t, o, x, step, out, col);
    if (k->gated) {
        const struct value up = reference_sum(t, o, x, step, 1, col);
        v.slack = 1.2 * (v.slack + unit * fabs(v.v)); /* no activation is steeper */
        v.v = reference_act(k->act, v.v);
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

/* An infinity or a NaN is its row's alone, and all of it. */
static void check_poison(const struct tested *t, struct operands *o, const uint16_t *all, int rows,
                         float value)
{
    uint16_t *at = o->x + POISONED * o->in + o->in / 2, keep = *at;
    *at = act_from_f32(t, value);
    uint16_t *y = run(t, o, 0, rows);
    *at = keep;
    for (int i = 0; i < rows * o->stride; i++) {
        const bool poisoned = i / o->stride == POISONED;
        if (poisoned ? isfinite(act_to_f32(t, y[i])) : y[i] != all[i]) {
            fail_case(t, o, poisoned ? "an infinity is lost" : "an infinity spreads", rows, i);
            break;
        }
    }
    free(y);
}

static void check_case(const struct tested *t, struct pool *pool, const struct form *form,
                       const struct kind *kind, const int shape[2])
{
    struct operands o = make(t, pool, form, kind, shape);
    uint16_t *all = run(t, &o, 0, ROWS_MAX);
    check_values(t, &o, all);
    static int turn;
    for (size_t i = (size_t)(turn++ % rows_step); i < sizeof some_rows / sizeof some_rows[0];
         i += (size_t)rows_step)
        check_bits(t, &o, all, i % 2 ? ROWS_MAX - some_rows[i] : 0, some_rows[i]);
    check_poison(t, &o, all, 7, INFINITY);
    check_poison(t, &o, all, 140, NAN);
    free(all);
    free_host(&o);
}

/* ---- codes: a product with the identity is the rounded row ---- */

enum { IDENTITY = 640 };

static void make_identity(struct matrix *m)
{
    const bool fp8 = m->scheme->codes == DT_FP8;
    memset(m->made.codes, fp8 ? 0 : 128, (size_t)IDENTITY * IDENTITY);
    for (int i = 0; i < IDENTITY; i++) {
        m->made.codes[i * IDENTITY + i] = fp8 ? 0x38 : 129; /* 1 */
        m->made.scales[i] = 1;
    }
}

static void check_row(const struct tested *t, const struct operands *o, const uint16_t *y, int row)
{
    const struct scheme *s = &o->form->scheme;
    float x[IDENTITY];
    bool fits;
    for (int c = 0; c < IDENTITY; c++)
        x[c] = act_to_f32(t, o->x[row * IDENTITY + c]);
    const float step = step_of(s, x, IDENTITY, &fits);
    float *want = rounded_row(s, x, IDENTITY);
    for (int c = 0; c < IDENTITY; c++) {
        const float got = act_to_f32(t, y[row * IDENTITY + c]);
        const bool exact = fits && !is_outlier(s, x[c]);
        const float by = exact ? act_rounded(t, want[c]) : x[c];
        const float off = exact ? 0 : 0.5001f * step + (float)act_unit(t) * fabsf(x[c]);
        if (!(fabsf(got - by) <= off)) {
            fail_case(t, o, "not rounded as the CPU does", row, c);
            printf("     %g, want %g +- %g of %g\n", (double)got, (double)by, (double)off,
                   (double)x[c]);
            break;
        }
    }
    free(want);
}

static void check_codes(const struct tested *t, struct pool *pool, const struct form *form)
{
    static const struct kind plain = {.name = "identity", .n_outs = 1};
    static const int shape[2] = {IDENTITY, IDENTITY}, row_counts[] = {1, 20, 100};
    struct operands o = make(t, pool, form, &plain, shape);
    make_identity(&o.m[0]);
    pool->next = pool->at;
    put_matrix(t, pool, &o.m[0], false);
    for (int row = 0; row < ROWS_MAX; row++) /* of all sizes; some zero */
        for (int c = 0; c < IDENTITY; c++) {
            const float by = row % 7 == 6 ? 0 : ldexpf(1, row % 11 - 5);
            uint16_t *x = &o.x[row * IDENTITY + c];
            *x = act_from_f32(t, by * act_to_f32(t, *x));
        }
    for (size_t i = 0; i < sizeof row_counts / sizeof row_counts[0]; i++) {
        uint16_t *y = run(t, &o, 0, row_counts[i]);
        for (int row = 0; row < row_counts[i]; row++)
            check_row(t, &o, y, row);
        free(y);
    }
    free_host(&o);
}

static void check_form(const struct tested *t, struct pool *pool, const struct form *form,
                       int n_shapes)
{
    const int before = failures;
    check_codes(t, pool, form);
    for (int i = 0; i < n_shapes; i++)
        for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++)
            check_case(t, pool, form, &kinds[k], shapes[i]);
    printf("%s %s %s\n", failures == before ? "ok  " : "FAIL", t->act == DT_F16 ? "f16 " : "bf16",
           form->name);
    fflush(stdout);
}

/* only: of the forms whose names begin so. */
static void check_type(enum dtype act, int n_shapes, const char *only)
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
                                         .in_max = 4096,
                                         .in_outliers_max = 4096};
    struct tested t;
    device_open(&t, act, &limits);
    struct pool pool = {.at = take_device(&t, (size_t)64 << 20)};
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++)
        if (strncmp(forms[i].name, only, strlen(only)) == 0)
            check_form(&t, &pool, &forms[i], n_shapes);
    t.ops->close(t.d);
}

/* small [FORM]: the small shapes and fewer numbers of rows, for compute-sanitizer; of one form. */
int main(int argc, char **argv)
{
    const int n_shapes = argc > 1 ? 2 : (int)(sizeof shapes / sizeof shapes[0]);
    const char *only = argc > 2 ? argv[2] : "";
    rows_step = argc > 1 ? 4 : 1;
    check_type(DT_BF16, n_shapes, only);
    check_type(DT_F16, n_shapes, only);
    return failures != 0;
}
