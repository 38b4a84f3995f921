/* What matmul promises of schemes: the product is that of the dequantized weights with the
 * activations their rule makes, in float64, to a few roundings, for every scheme, precision and
 * instruction set; the bits of a row depend neither on the rows beside it nor on the threads. */
#include "scheme_test.h"

#include "kernels/cpu/act_form.h"

#include <time.h>

enum { ROWS = 40 };

static struct random seed;

static const char *const isas[] = {"scalar", "avx2", "avx512", "avx512vnni", "avx512bf16", "amx"};
enum { N_ISAS = ISA_N };

static const struct mode {
    const char *name;
    enum precision precision;
    bool fine;
} modes[] = {
    {"fast", PRECISION_FAST, false},
    {"fine", PRECISION_FAST, true},
    {"exact", PRECISION_EXACT, false},
};

enum { THREADS_MAX = 4 };
static struct device *devices[N_ISAS][2][THREADS_MAX + 1];

static struct device *open_new(int isa, enum precision precision, int n_threads)
{
    struct status st = {0};
    struct device_options opts = {
        .n_threads = n_threads, .precision = precision, .isa_max = isas[isa]};
    struct device *d = cpu_backend.open(&opts, &st);
    struct device_limits l = wide_limits();
    assert_non_null(d);
    l.step_tokens_max = 200;
    l.in_max = 2048;
    give_work(d, &l);
    return d;
}

/* NULL if this processor lacks the instruction set; open until the tests end. */
static struct device *open_with(int isa, enum precision precision, int n_threads)
{
    struct device **at = &devices[isa][precision][n_threads];
    if (!*at)
        *at = open_new(isa, precision, n_threads);
    return strcmp(cpu_backend.variant(*at), isas[isa]) == 0 ? *at : NULL;
}

static int close_devices(void **state)
{
    struct device **all = &devices[0][0][0];
    (void)state;
    for (size_t i = 0; i < sizeof devices / sizeof *all; i++)
        cpu_backend.ops->close(all[i]);
    return 0;
}

/* ---- the reference ---- */

/* Rows like those of a model: few columns have most of the large values. */
static float *make_x(struct random *r, int rows, int64_t cols)
{
    float *x = new_normal(r, (size_t)rows * (size_t)cols, 1);
    for (int64_t i = 0; i < rows * cols; i++) {
        const int64_t row = i / cols, c = i % cols;
        if (c % 29 == 7 && random_below(r, 4) > 0)
            x[i] *= 12;
        if (row % 8 == 3 && c / 32 % 2)
            x[i] *= 1e-3f; /* rows of two sizes */
        if (row % 8 == 5)
            x[i] = 0;
        if (row % 8 == 4 && c % 17 == 0)
            x[i] = random_below(r, 2) ? 6 : -6; /* the threshold itself */
        if (row % 8 == 6)
            x[i] += 3; /* a mean, which zero points meet */
    }
    return x;
}

static double nearest_e4m3(double v)
{
    double best = 0;
    for (int c = 1; c < 0x7f; c++) {
        const double at = (double)scheme_e4m3((uint8_t)c), was = fabs(fabs(v) - best);
        const double is = fabs(fabs(v) - at);
        if (is < was || (is == was && c % 2 == 0))
            best = at;
    }
    return v < 0 ? -best : best;
}

static void rule_row(const struct scheme *s, double *x, int64_t cols)
{
    const float steps = s->act == ACTS_FP8 ? 448 : 127;
    double max = 0;
    for (int64_t i = 0; i < cols; i++)
        if (s->act != ACTS_OUTLIERS || fabs(x[i]) < (double)s->threshold)
            max = fmax(max, fabs(x[i]));
    if (max == 0 || s->act == ACTS_WIDE)
        return;
    const double up = (double)(steps / (float)max), down = (double)((float)max / steps);
    for (int64_t i = 0; i < cols; i++) {
        const double scaled = (double)(float)(x[i] * up); /* what is rounded is a float */
        if (s->act == ACTS_OUTLIERS && fabs(x[i]) >= (double)s->threshold)
            continue;
        x[i] = down * (s->act == ACTS_FP8 ? nearest_e4m3(scaled) : nearbyint(scaled));
    }
}

/* ACTS_WIDE in `fast`: blocks of 32 in the weight's order of columns. */
static void block_row(const struct scheme_weight *n, double *x, bool fine)
{
    for (int64_t first = 0; first < n->cols; first += 32) {
        struct act_block high, low;
        float values[32] = {0}, rest[32];
        for (int64_t i = first; i < n->cols && i < first + 32; i++)
            values[i - first] = (float)x[n->order ? n->order[i] : i];
        act_rounding_scalar.quantize(values, 32, &high);
        for (int i = 0; i < 32; i++)
            rest[i] = values[i] - high.d * (float)high.q[i];
        act_rounding_scalar.quantize(rest, 32, &low);
        for (int64_t i = first; i < n->cols && i < first + 32; i++) {
            double *to = &x[n->order ? n->order[i] : i];
            *to = (double)high.d * high.q[i - first];
            if (fine)
                *to += (double)low.d * low.q[i - first];
        }
    }
}

struct product {
    const struct scheme_weight *n;
    int rows;
    float *x, *bias, *add;
    double *want, *size; /* size: sum of magnitudes, the unit of rounding errors */
};

/* A weight's magnitude as it is summed: a zero point is subtracted after the sum. */
static double weight_size(const struct scheme_weight *n, int64_t row, int64_t i)
{
    const struct scheme *s = &n->scheme;
    const struct scheme_rows at = row_of_scheme(n, row);
    const int64_t g = s->group ? i / s->group : 0;
    const int zero = s->has_zero ? at.zeros[g] : s->codes == DT_INT4 ? 8 : 128;
    const int shift = s->codes == DT_INT8 ? 128 : 0;
    return fabs((double)at.scales[g]) * (abs(at.codes[i] - shift) + abs(zero - shift));
}

static void reference(const struct product *p, bool rounded, bool fine)
{
    const struct scheme_weight *n = p->n;
    const size_t cols = (size_t)n->cols;
    float *w = malloc(cols * sizeof *w);
    double *x = malloc((size_t)p->rows * cols * sizeof *x);
    for (size_t i = 0; i < (size_t)p->rows * cols; i++)
        x[i] = (double)p->x[i];
    for (int r = 0; r < p->rows; r++) {
        rule_row(&n->scheme, x + (size_t)r * cols, n->cols);
        if (rounded)
            block_row(n, x + (size_t)r * cols, fine);
    }
    for (int64_t o = 0; o < n->rows; o++) {
        dequantize_scheme(n, o, w);
        for (int r = 0; r < p->rows; r++) {
            const size_t at = (size_t)r * (size_t)n->rows + (size_t)o;
            double sum = p->bias ? (double)p->bias[o] : 0, size = fabs(sum);
            if (p->add)
                sum += (double)p->add[at], size += fabs((double)p->add[at]);
            for (int64_t i = 0; i < n->cols; i++) {
                const int64_t c = n->order ? n->order[i] : i;
                const double xc = x[(size_t)r * cols + (size_t)c], wc = (double)w[c];
                sum += xc * wc;
                size +=
                    fabs(xc) *
                    (n->scheme.codes <= DT_INT8 ? fmax(weight_size(n, o, i), fabs(wc)) : fabs(wc));
            }
            p->want[at] = sum;
            p->size[at] = size;
        }
    }
    free(w);
    free(x);
}

static void make_product(struct product *p, struct random *r, const struct scheme_weight *n,
                         int rows)
{
    const size_t n_out = (size_t)rows * (size_t)n->rows;
    *p = (struct product){.n = n, .rows = rows, .x = make_x(r, rows, n->cols)};
    p->bias = random_below(r, 2) ? new_normal(r, (size_t)n->rows, 1) : NULL;
    p->add = random_below(r, 2) ? new_normal(r, n_out, 1) : NULL;
    p->want = malloc(n_out * sizeof *p->want);
    p->size = malloc(n_out * sizeof *p->size);
}

static void free_product(struct product *p)
{
    free(p->x), free(p->bias), free(p->add), free(p->want), free(p->size);
}

static void check_error(const struct product *p, const float *y, double limit, const char *what)
{
    const int out = (int)p->n->rows;
    for (int i = 0; i < p->rows * out; i++) {
        const double error = fabs((double)y[i] - p->want[i]);
        if (!(error <= limit * p->size[i] + 1e-12))
            fail_msg("%s: row %d output %d: got %.9g, want %.9g (error %.3g of %.3g)", what,
                     i / out, i % out, (double)y[i], p->want[i], error, p->size[i]);
    }
}

/* ---- one weight ---- */

static void multiply(struct device *d, const struct product *p, bool fine, int first, int rows,
                     float *y)
{
    const size_t out = (size_t)p->n->rows, at = (size_t)first;
    cpu_matmul(d, &(struct matmul_args){
                      .x = p->x + at * (size_t)p->n->cols,
                      .rows = rows,
                      .fine = fine,
                      .n_outs = 1,
                      .out = {{.y = y,
                               .w = &p->n->w,
                               .bias = p->bias,
                               .add = p->add ? p->add + at * out : NULL}},
                  });
}

/* Each row alone, and a batch of each size here and there. */
static void check_batches(struct device *d, struct random *r, const struct product *p, bool fine,
                          const float *y, const char *what)
{
    const size_t width = (size_t)p->n->rows;
    float *part = new_floats((size_t)p->rows * width);
    for (int k = 0; k < 6; k++) {
        const int n = k == 0 ? 1 : 1 + random_below(r, p->rows);
        const int first = random_below(r, p->rows - n + 1);
        multiply(d, p, fine, first, n, part);
        if (memcmp(part, y + (size_t)first * width, (size_t)n * width * sizeof *y) != 0)
            fail_msg("%s: rows [%d, %d) alone have other bits", what, first, first + n);
    }
    free(part);
}

static void check_mode(struct scheme_weight *n, const struct product *p, struct random *r, int isa,
                       const struct mode *mode, const char *name)
{
    const size_t n_out = (size_t)p->rows * (size_t)n->rows;
    const bool rounded = mode->precision == PRECISION_FAST && n->scheme.act == ACTS_WIDE &&
                         n->scheme.codes <= DT_INT8;
    float *y[2] = {new_floats(n_out + 16), new_floats(n_out + 16)};
    char what[200];
    snprintf(what, sizeof what, "%s %s %s", isas[isa], mode->name, name);
    for (int k = 0; k < 2; k++) {
        struct device *d = open_with(isa, mode->precision, 1 + k * (1 + random_below(r, 3)));
        put_scheme_weight(d, n);
        multiply(d, p, mode->fine, 0, p->rows, y[k]);
        assert_true(isnan(y[k][n_out]));
        check_batches(d, r, p, mode->fine, y[k], what);
    }
    assert_memory_equal(y[0], y[1], n_out * sizeof(float));
    reference(p, rounded, mode->fine);
    check_error(p, y[0], 1e-6, what);
    free(y[0]);
    free(y[1]);
}

/* A number of columns that the scheme can have: short and long, some longer than what is decoded
 * at a time. */
static int64_t random_cols(struct random *r, const struct scheme *s)
{
    static const int few[] = {2, 6, 32, 34, 254, 770};
    const int step = s->group ? s->group : 1;
    if (s->group == 0 && random_below(r, 2))
        return few[random_below(r, 6)] + (dtype_traits[s->codes].block == 1);
    const int n = 1 + random_below(r, (random_below(r, 8) ? 320 : 1152) / step);
    return step == 1 ? (n + 1) / 2 * 2 : n * step;
}

static void check_scheme(const struct scheme *s, int isa)
{
    char name[160];
    for (size_t k = 0; k < sizeof modes / sizeof *modes; k++) {
        struct random r = {random_bits(&seed)};
        const int64_t out = 1 + random_below(&r, 40), cols = random_cols(&r, s);
        struct scheme_weight *n = new_scheme_weight(&r, s, out, cols);
        struct product p;
        make_product(&p, &r, n, random_below(&r, 30) ? 1 + random_below(&r, ROWS) : 130);
        scheme_describe(s, name, sizeof name);
        const size_t used = strlen(name);
        snprintf(name + used, sizeof name - used, ", %lldx%lld, %d rows", (long long)out,
                 (long long)cols, p.rows);
        check_mode(n, &p, &r, isa, &modes[k], name);
        free_product(&p);
        free_scheme_weight(n);
    }
}

/* Every combination that there is; how scales are stored goes round. */
static void each_scheme(void (*fn)(const struct scheme *s, int isa), int isa)
{
    static const int groups[] = {0, 32, 64, 128};
    static const enum dtype scales[] = {DT_F32, DT_F16, DT_BF16};
    for (int k = 0, i = 0; k < 5 * 4 * 2 * 2 * 4; k++) {
        const struct scheme s = {.codes = DT_INT4 + k % 5,
                                 .group = groups[k / 5 % 4],
                                 .has_zero = k / 20 % 2,
                                 .ordered = k / 40 % 2,
                                 .act = (enum act_rule)(k / 80),
                                 .threshold = k / 80 == ACTS_OUTLIERS ? 6 : 0,
                                 .scale = scales[i % 3],
                                 .nested = i % 9 == 0};
        if (s.has_zero && s.codes > DT_INT8)
            continue;
        i++;
        fn(&s, isa);
    }
}

static void check_isa(int isa)
{
    struct device *d = open_with(isa, PRECISION_FAST, 1);
    if (!d) {
        print_message("this processor lacks %s: not tested\n", isas[isa]);
        skip();
    }
    each_scheme(check_scheme, isa);
}

static void scalar_is_right_and_batch_invariant(void **state)
{
    (void)state;
    check_isa(0);
}

static void avx2_is_right_and_batch_invariant(void **state)
{
    (void)state;
    check_isa(1);
}

static void avx512_is_right_and_batch_invariant(void **state)
{
    (void)state;
    check_isa(2);
}

static void avx512vnni_is_right_and_batch_invariant(void **state)
{
    (void)state;
    check_isa(3);
}

static void amx_is_right_and_batch_invariant(void **state)
{
    (void)state;
    check_isa(ISA_AMX);
}

/* ---- what can go wrong in a row ---- */

static void spoil_one_row(const struct scheme *s, int isa)
{
    static const float bad[] = {NAN, -NAN, INFINITY, -INFINITY};
    enum { BAD = 2, N = 6 };
    struct random r = {random_bits(&seed)};
    struct scheme_weight *n = new_scheme_weight(&r, s, 20, s->group ? s->group * 2 : 78);
    for (size_t k = 0; k < sizeof modes / sizeof *modes; k++) {
        struct device *d = open_with(isa, modes[k].precision, 1);
        struct product p;
        make_product(&p, &r, n, N);
        put_scheme_weight(d, n);
        p.x[BAD * n->cols + random_below(&r, (int)n->cols)] = bad[random_below(&r, 4)];
        float *y = new_floats(N * 20);
        multiply(d, &p, modes[k].fine, 0, N, y);
        for (int i = 0; i < N * 20; i++)
            assert_int_equal(isfinite(y[i]) != 0, i / 20 != BAD);
        free(y);
        free_product(&p);
    }
    free_scheme_weight(n);
}

static void a_bad_activation_spoils_its_row_and_no_other(void **state)
{
    (void)state;
    for (int isa = 0; isa < N_ISAS; isa++) {
        struct device *d = open_with(isa, PRECISION_FAST, 1);
        if (!d)
            continue;
        each_scheme(spoil_one_row, isa);
    }
}

/* Every code at an end of its range and every activation at plus or minus its largest. */
static void the_largest_sums_do_not_saturate(void **state)
{
    (void)state;
    static const uint8_t fills[] = {0, 1, 15, 127, 128, 255};
    for (int i = 0; i < N_ISAS * 2 * 2 * 2 * 2 * 6; i++) {
        const int isa = i % N_ISAS, k = i / N_ISAS;
        const struct scheme s = {.codes = k / 2 % 2 ? DT_INT4 : DT_INT8,
                                 .act = k / 4 % 2 ? ACTS_INT8 : ACTS_WIDE,
                                 .has_zero = k / 8 % 2};
        struct random r = {random_bits(&seed)};
        struct device *d = open_with(isa, PRECISION_FAST, 1);
        if (!d)
            continue;
        struct scheme_weight *n = new_scheme_weight(&r, &s, 16, 256);
        struct product p;
        char what[64];
        make_product(&p, &r, n, 7);
        for (size_t c = 0; c < 16 * 256; c++)
            n->all.codes[c] = fills[k / 16 % 6] & (s.codes == DT_INT4 ? 15 : 255);
        for (int c = 0; c < 7 * 256; c++)
            p.x[c] = c / 256 % 2 || (k & 1 && c % 2) ? -2.5f : 2.5f;
        put_scheme_weight(d, n);
        float *y = new_floats(7 * 16), *one = new_floats(16);
        multiply(d, &p, false, 0, 7, y);
        multiply(d, &p, false, 6, 1, one);
        assert_memory_equal(one, y + 6 * 16, 16 * sizeof *y);
        reference(&p, false, false);
        snprintf(what, sizeof what, "%s %s code %d", isas[isa], dtype_traits[s.codes].name,
                 n->all.codes[0]);
        check_error(&p, y, 1e-6, what);
        free(y);
        free(one);
        free_product(&p);
        free_scheme_weight(n);
    }
}

/* A code that is no number makes what depends on it NaN, and nothing else. */
static void a_weight_that_is_nan_spoils_its_output(void **state)
{
    (void)state;
    for (int isa = 0; isa < N_ISAS; isa++) {
        const struct scheme s = {.codes = DT_FP8, .group = 32, .act = ACTS_FP8};
        struct random r = {random_bits(&seed)};
        struct device *d = open_with(isa, PRECISION_FAST, 1);
        if (!d)
            continue;
        struct scheme_weight *n = new_scheme_weight(&r, &s, 20, 96);
        struct product p;
        make_product(&p, &r, n, 3);
        n->all.codes[7 * 96 + 50] = 0xff;
        put_scheme_weight(d, n);
        float *y = new_floats(3 * 20);
        multiply(d, &p, false, 0, 3, y);
        for (int i = 0; i < 3 * 20; i++)
            assert_int_equal(isnan(y[i]) != 0, i % 20 == 7);
        free(y);
        free_product(&p);
        free_scheme_weight(n);
    }
}

/* ---- several weights ---- */

static void fill_plain(struct device *d, struct random *r, struct tensor *w, enum dtype dtype,
                       int64_t rows, int64_t cols)
{
    size_t n_bytes;
    *w = (struct tensor){.dtype = dtype, .rows = rows, .cols = cols};
    assert_true(tensor_file_bytes(dtype, rows, cols, &n_bytes));
    uint8_t *src = malloc(n_bytes);
    for (size_t i = 0; i < n_bytes; i++)
        src[i] = (uint8_t)(random_bits(r) & 0xbf); /* no 16 bits are infinite */
    w->data = take(d, cpu_backend.ops->weight_bytes(d, w));
    cpu_backend.ops->weight_put(d, w, &(struct weight_source){.at = src, .fd = -1});
    free(src);
}

/* Some outputs of one call, each of another kind. */
struct outs {
    struct device *d;
    struct scheme_weight *scheme[3];
    struct tensor plain[3];
    const struct tensor *w[3];
    int n;
};

static void make_outs(struct outs *o, struct random *r, int64_t cols, int64_t out)
{
    static const enum dtype kinds[] = {DT_INT4, DT_INT8, DT_NF4,  DT_FP4,
                                       DT_FP8,  DT_Q4_0, DT_Q8_0, DT_BF16};
    for (int i = 0; i < o->n; i++) {
        const enum dtype kind = kinds[random_below(r, 8)];
        const struct scheme s = {.codes = kind,
                                 .group = random_below(r, 2) * 32,
                                 .has_zero = kind <= DT_INT8 && random_below(r, 2),
                                 .ordered = random_below(r, 3) == 0,
                                 .act = (enum act_rule)random_below(r, 4),
                                 .threshold = 3};
        const int64_t rows = out ? out : 1 + random_below(r, 40);
        o->scheme[i] = kind >= DT_N ? new_scheme_weight(r, &s, rows, cols) : NULL;
        o->w[i] = o->scheme[i] ? &o->scheme[i]->w : &o->plain[i];
        if (o->scheme[i])
            put_scheme_weight(o->d, o->scheme[i]);
        else
            fill_plain(o->d, r, &o->plain[i], kind, rows, cols);
    }
}

static void free_outs(struct outs *o)
{
    for (int i = 0; i < o->n; i++)
        if (o->scheme[i])
            free_scheme_weight(o->scheme[i]);
}

/* The matmul of the table, with all it can do, against its parts one by one. */
static void several_outputs_behind_a_norm_are_as_each_alone(void **state)
{
    (void)state;
    enum { COLS = 192, STRIDE = 150, N_MAX = 33, OUT_MAX = 40 };
    for (int k = 0; k < 400; k++) {
        struct random r = {random_bits(&seed)};
        struct outs o = {.d = open_with(k % 4, (enum precision)(k / 4 % 2), 1 + k % 3)};
        if (!o.d)
            continue;
        const bool gated = k % 5 == 0, acts = k % 5 <= 1;
        const int rows = 1 + random_below(&r, N_MAX);
        o.n = gated ? 2 : acts ? 1 : 1 + random_below(&r, 3);
        make_outs(&o, &r, COLS, gated ? OUT_MAX : 0);
        float *x = make_x(&r, rows, COLS), *normed = new_floats((size_t)rows * COLS);
        float *norm_w = new_normal(&r, COLS, 1), *bias = new_normal(&r, OUT_MAX, 1);
        float *y = new_normal(&r, N_MAX * STRIDE, 1), *was = new_floats(N_MAX * STRIDE);
        float *want[3];
        const struct norm norm = {.kind = NORM_RMS, .w = norm_w, .eps = 1e-5f};
        struct matmul_args a = {.x = x, .rows = rows, .norm = &norm, .n_outs = o.n};
        a.act = acts ? ACT_SILU : ACT_NONE;
        memcpy(was, y, N_MAX * STRIDE * sizeof *y);
        cpu_norm(o.d, &(struct norm_args){
                          .y = normed, .x = x, .rows = rows, .width = COLS, .norm = norm});
        for (int i = 0; i < o.n; i++) {
            struct matmul_args one = {.x = normed, .rows = rows, .n_outs = 1};
            const bool adds = !acts && i == 1;
            want[i] = new_floats(N_MAX * STRIDE);
            memcpy(want[i], was, N_MAX * STRIDE * sizeof *y);
            one.out[0] = (struct matmul_out){.y = want[i] + i * 45,
                                             .y_stride = STRIDE,
                                             .w = o.w[i],
                                             .bias = i != 1 ? bias : NULL,
                                             .add = adds ? want[i] + i * 45 : NULL};
            cpu_matmul(o.d, &one);
            a.out[i] = one.out[0];
            a.out[i].y = y + i * 45;
            a.out[i].add = adds ? y + i * 45 : NULL;
        }
        float *up = new_floats((size_t)rows * OUT_MAX);
        for (int row = 0; gated && row < rows; row++)
            memcpy(up + row * OUT_MAX, want[1] + row * STRIDE + 45, OUT_MAX * sizeof *up);
        if (acts)
            cpu_act(o.d, &(struct act_args){want[0], want[0], gated ? up : NULL, rows,
                                            (int)o.w[0]->rows, STRIDE, ACT_SILU});
        cpu_backend.ops->matmul(o.d, &a);
        for (int i = 0; i < (gated ? 1 : o.n); i++)
            for (int row = 0; row < rows; row++)
                assert_memory_equal(y + row * STRIDE + i * 45, want[i] + row * STRIDE + i * 45,
                                    (size_t)o.w[i]->rows * sizeof *y);
        for (int i = 0; i < o.n; i++)
            free(want[i]);
        free(x), free(normed), free(norm_w), free(bias), free(y), free(was), free(up);
        free_outs(&o);
    }
}

/* ---- the parts ---- */

/* Each value of E4M3, what lies half-way between two, and their neighbours in float. */
static void activations_round_to_the_nearest_e4m3(void **state)
{
    (void)state;
    enum { N = 0x7e * 3 * 2 + 1, PADDED = (N + 31) / 32 * 32 };
    const struct act_form f = {.kind = FORM_FLOATS, .n_planes = 1, .rule = ACTS_FP8};
    float x[N], out[PADDED];
    int n = 0;
    for (int c = 0; c < 0x7e; c++)
        for (int k = 0; k < 6; k++) {
            const float half = (scheme_e4m3((uint8_t)c) + scheme_e4m3((uint8_t)(c + 1))) / 2;
            const float v = k / 2 == 0 ? half : nextafterf(half, k / 2 == 1 ? 0 : 1e9f);
            x[n++] = k % 2 ? -v : v;
        }
    x[n++] = 448; /* the scale is 1 */
    assert_int_equal(n, N);
    act_form_row(&f, &act_rounding_scalar, x, N, out);
    for (int i = 0; i < N; i++)
        if ((double)out[i] != nearest_e4m3((double)x[i]))
            fail_msg("%a: got %a, want %a", (double)x[i], (double)out[i],
                     nearest_e4m3((double)x[i]));
    for (int i = N; i < PADDED; i++)
        assert_true(out[i] == 0);
}

static void every_instruction_set_rounds_alike(void **state)
{
    (void)state;
    enum { COLS = 1000 };
    struct device *d = open_with(1, PRECISION_FAST, 1);
    if (!d)
        skip();
    for (int k = 0; k < 4 * 2 * 2; k++) {
        struct random r = {random_bits(&seed)};
        int32_t *order = random_order(&r, COLS);
        const struct act_form f = {.kind = k / 8 ? FORM_FLOATS : FORM_BLOCKS,
                                   .n_planes = k % 4 == 3 ? 2 : 1,
                                   .rule = k < 8 && k % 4 == 3 ? ACTS_WIDE : (enum act_rule)(k % 4),
                                   .threshold = 6,
                                   .order = k / 4 % 2 ? order : NULL};
        const size_t n_bytes = act_form_bytes(&f, COLS);
        float *x = make_x(&r, 1, COLS);
        void *a = calloc(1, n_bytes), *b = calloc(1, n_bytes);
        assert_true(n_bytes <= act_form_bytes_max(COLS));
        act_form_row(&f, &act_rounding_scalar, x, COLS, a);
        act_form_row(&f, &act_rounding_avx2, x, COLS, b);
        assert_memory_equal(a, b, n_bytes);
        free(a), free(b), free(x), free(order);
    }
}

/* A scale for each group and no more often, in the type that holds it. */
static void packed_weights_take_what_the_scheme_says(void **state)
{
    (void)state;
    static const struct {
        struct scheme s;
        size_t row_bytes; /* of 1024 columns */
    } table[] = {
        {{.codes = DT_INT4, .group = 128, .scale = DT_F16}, 512 + 8 * 2},
        {{.codes = DT_INT4, .group = 128, .scale = DT_F16, .has_zero = true}, 512 + 8 * 3},
        {{.codes = DT_INT4, .group = 32, .scale = DT_BF16}, 512 + 32 * 2},
        {{.codes = DT_INT8, .group = 64, .has_zero = true}, 1024 + 16 * 6},
        {{.codes = DT_INT8}, 1024 + 4},
        {{.codes = DT_NF4, .group = 64, .nested = true}, 512 + 16 * 4},
        {{.codes = DT_FP8, .scale = DT_BF16}, 1024 + 2},
    };
    for (size_t i = 0; i < 2 * sizeof table / sizeof *table; i++) {
        struct device *d = open_with(i % 2 ? 1 : 0, PRECISION_FAST, 1);
        if (!d)
            continue;
        struct scheme s = table[i / 2].s;
        struct tensor w = {.dtype = s.codes, .rows = 32, .cols = 1024, .scheme = &s};
        const size_t tile = (8 * table[i / 2].row_bytes + 63) / 64 * 64;
        assert_int_equal(cpu_backend.ops->weight_bytes(d, &w), 4 * tile);
        s.ordered = true;
        assert_int_equal(cpu_backend.ops->weight_bytes(d, &w), 4 * tile + 4096);
    }
}

static void embed_one_table(const struct scheme *s, int isa)
{
    enum { VOCAB = 37, IDS = 5 };
    struct random r = {random_bits(&seed)};
    const int64_t cols = random_cols(&r, s);
    struct scheme rounded = *s;
    rounded.value = (enum dtype)random_below(&r, 3);
    struct scheme_weight *n = new_scheme_weight(&r, &rounded, VOCAB, cols);
    struct device *d = open_with(isa, PRECISION_FAST, 1 + random_below(&r, 2));
    int32_t ids[IDS] = {VOCAB - 1};
    for (int i = 1; i < IDS; i++)
        ids[i] = random_below(&r, VOCAB);
    put_scheme_weight(d, n);
    float *out = new_floats(IDS * (size_t)cols), *want = new_floats((size_t)cols);
    d->batch = (struct batch){.n_tokens = IDS, .token_ids = ids};
    cpu_embed(d, &(struct embed_args){.out = out, .table = &n->w, .scale = 1});
    for (int i = 0; i < IDS; i++) {
        dequantize_scheme(n, ids[i], want);
        for (int64_t c = 0; c < cols; c++)
            assert_int_equal(f32_to_bits(out[i * cols + c]), f32_to_bits(want[c]));
    }
    free(out), free(want);
    free_scheme_weight(n);
}

static void a_table_gives_the_rows_it_was_made_of(void **state)
{
    (void)state;
    for (int isa = 0; isa < N_ISAS; isa++) {
        struct device *d = open_with(isa, PRECISION_FAST, 1);
        if (!d)
            continue;
        each_scheme(embed_one_table, isa);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scalar_is_right_and_batch_invariant),
        cmocka_unit_test(avx2_is_right_and_batch_invariant),
        cmocka_unit_test(avx512_is_right_and_batch_invariant),
        cmocka_unit_test(avx512vnni_is_right_and_batch_invariant),
        cmocka_unit_test(amx_is_right_and_batch_invariant),
        cmocka_unit_test(a_bad_activation_spoils_its_row_and_no_other),
        cmocka_unit_test(the_largest_sums_do_not_saturate),
        cmocka_unit_test(a_weight_that_is_nan_spoils_its_output),
        cmocka_unit_test(several_outputs_behind_a_norm_are_as_each_alone),
        cmocka_unit_test(activations_round_to_the_nearest_e4m3),
        cmocka_unit_test(every_instruction_set_rounds_alike),
        cmocka_unit_test(packed_weights_take_what_the_scheme_says),
        cmocka_unit_test(a_table_gives_the_rows_it_was_made_of),
    };
    seed.state = (uint64_t)time(NULL);
    print_message("seed %llu\n", (unsigned long long)seed.state);
    return cmocka_run_group_tests_name("matmul of schemes", tests, NULL, close_devices);
}
