/* What matmul promises on CUDA: values within rounding of f64, for every number of rows the same
 * bits of a row, and nothing written beside it. */
#include "tests/gpu/cuda_device.h"

enum { ROWS_MAX = 257, OUTS = MATMUL_OUTS_MAX, SAMPLES = 400 };

static const int some_rows[] = {1, 5, 16, 64, 65, ROWS_MAX, 2, 3, 4, 8, 9, 17, 33, 100};
enum { N_SOME_ROWS = sizeof some_rows / sizeof some_rows[0], N_SMALL_ROWS = 6 };

struct kind {
    const char *name;
    int n_outs;
    bool gated, bias, add, apart; /* apart: weights and results do not lie together */
    bool add_in_place;
    bool far; /* the gate's bias is where an activation ends */
    enum act_kind act;
    int norm; /* 0 = none, 1 + enum norm_kind */
};

static const struct kind kinds[] = {
    {.name = "plain", .n_outs = 1},
    {.name = "rms", .n_outs = 1, .norm = 1 + NORM_RMS},
    {.name = "layer norm, bias", .n_outs = 1, .bias = true, .norm = 1 + NORM_LAYER},
    {.name = "residual in place", .n_outs = 1, .add = true, .add_in_place = true},
    {.name = "bias, residual", .n_outs = 1, .bias = true, .add = true},
    {.name = "bias, gelu", .n_outs = 1, .bias = true, .act = ACT_GELU},
    {.name = "rms, silu gate", .n_outs = 2, .gated = true, .act = ACT_SILU, .norm = 1 + NORM_RMS},
    {.name = "bias, silu gate, far",
     .n_outs = 2,
     .gated = true,
     .bias = true,
     .far = true,
     .act = ACT_SILU},
    {.name = "bias, gelu_tanh gate, apart",
     .n_outs = 2,
     .gated = true,
     .bias = true,
     .apart = true,
     .act = ACT_GELU_TANH},
    {.name = "rms, three together", .n_outs = 3, .norm = 1 + NORM_RMS},
    {.name = "three apart, bias", .n_outs = 3, .bias = true, .apart = true},
};

static const int shapes[][2] = {/* in, n of the first out */
                                {1000, 56},   {576, 576},    {2048, 256},  {320, 96},
                                {320, 160},   {320, 448},    {576, 1536},  {1536, 576},
                                {2048, 2048}, {2048, 8192},  {8192, 2048}, {4096, 4096},
                                {4096, 6144}, {4096, 14336}, {14336, 4096}};
enum { N_SHAPES = sizeof shapes / sizeof shapes[0], N_SMALL_SHAPES = 6 };

/* Short ones for which 132 SMs choose tiles of 96, 128, 160, 192 and 256 columns, and of 224 gated, some of
 * them several a block. */
static const int waves[][2] = {{128, 3072}, {128, 4096}, {128, 5120}, {128, 6144}, {128, 8192}, {128, 14336}};
enum { N_WAVES = sizeof waves / sizeof waves[0], N_WAVES_ROWS = 2 };

/* The small parts are for compute-sanitizer, under which a launch takes a hundred times as long. */
static const int (*some_shapes)[2] = shapes;
static int n_shapes = N_SHAPES, n_some_rows = N_SOME_ROWS;

/* Random matrices of one shape, which all kinds take their rows from: making them is what takes
 * time. */
struct shape {
    int in, n;
    uint16_t *w[OUTS]; /* [n, in] */
};

struct operands {
    const struct kind *kind;
    int in, n[OUTS], stride; /* stride: of y's rows: all outs side by side */
    uint16_t *x, *add;
    uint16_t *const *w; /* the shape's */
    float *bias[OUTS], *norm_w, *norm_b;
    void *x_dev, *y_dev, *add_dev, *bias_dev[OUTS];
    struct tensor w_dev[OUTS];
    struct norm norm;
};

static int failures;

static void fail_case(const struct tested *t, const struct operands *o, const char *what, int rows,
                      int at)
{
    if (failures++ < 20)
        printf("FAIL %s in %d n %d %s: %s, %d rows, at %d\n", t->act == DT_F16 ? "f16" : "bf16",
               o->in, o->n[0], o->kind->name, what, rows, at);
}

static int outs_written(const struct operands *o)
{
    return o->kind->gated ? 1 : o->kind->n_outs;
}

/* Device memory is given back only on closing, so it is taken once for the largest case. */
struct pool {
    char *at, *next;
};

static void *pool_put(const struct tested *t, struct pool *p, const void *from, size_t n_bytes)
{
    void *at = p->next;
    p->next += (n_bytes + 255) / 256 * 256;
    if (from)
        t->ops->copy_in(t->d, at, from, n_bytes);
    return at;
}

/* Gates are rounded to the type: beyond its range they are infinite, and x / (1 + exp(-x)) is no
 * number. */
static void put_far(const struct tested *t, float *bias, int n)
{
    static const float ends[] = {-85, -89, -130, -1e4f, -1e30f, -3e38f, 60, 0};
    for (int i = 0; i < n; i++)
        bias[i] = t->act == DT_F16 ? fmaxf(ends[i % 8], -6e4f) : ends[i % 8];
}

static void make_weights(const struct tested *t, struct pool *pool, struct operands *o)
{
    for (int i = 0; i < o->kind->n_outs; i++) {
        o->bias[i] = random_floats((size_t)o->n[i], 1);
        if (o->kind->far && i == 0)
            put_far(t, o->bias[i], o->n[i]);
        o->bias_dev[i] = pool_put(t, pool, o->bias[i], (size_t)o->n[i] * sizeof(float));
    }
    for (int i = 0; i < o->kind->n_outs; i++) {
        size_t n_bytes = (size_t)o->n[i] * (size_t)o->in * 2;
        char *to = pool->next;
        pool->next += o->kind->apart ? n_bytes + 256 : n_bytes;
        o->w_dev[i] = put_weight(t, to, o->w[i], o->n[i], o->in);
    }
    pool->next = pool->at + (pool->next - pool->at + 255) / 256 * 256;
}

static struct operands make(const struct tested *t, struct pool *pool, const struct kind *kind,
                            const struct shape *s)
{
    const int in = s->in, n = s->n;
    struct operands o = {
        .kind = kind, .in = in, .n = {n, kind->gated ? n : n / 8 * 2, n / 8 * 2}, .w = s->w};
    pool->next = pool->at;
    make_weights(t, pool, &o);
    for (int i = 0; i < outs_written(&o); i++)
        o.stride += o.n[i];
    o.x = random_acts(t, (size_t)ROWS_MAX * (size_t)in, 1);
    o.add = random_acts(t, (size_t)ROWS_MAX * (size_t)o.stride, 1);
    o.norm_w = random_floats((size_t)in, 1);
    o.norm_b = random_floats((size_t)in, 1);
    o.x_dev = pool_put(t, pool, o.x, (size_t)ROWS_MAX * (size_t)in * 2);
    o.add_dev = pool_put(t, pool, o.add, (size_t)ROWS_MAX * (size_t)o.stride * 2);
    o.y_dev = pool_put(t, pool, NULL, (size_t)(ROWS_MAX + 1) * (size_t)o.stride * 2);
    if (kind->norm) {
        o.norm.kind = kind->norm == 1 + NORM_LAYER ? NORM_LAYER : NORM_RMS;
        o.norm.eps = 1e-5f;
        o.norm.w = pool_put(t, pool, o.norm_w, (size_t)in * sizeof(float));
        o.norm.b = o.norm.kind == NORM_LAYER
                       ? pool_put(t, pool, o.norm_b, (size_t)in * sizeof(float))
                       : NULL;
    }
    return o;
}

static void free_host(struct operands *o)
{
    for (int i = 0; i < o->kind->n_outs; i++)
        free(o->bias[i]);
    free(o->x);
    free(o->add);
    free(o->norm_w);
    free(o->norm_b);
}

/* y[rows, stride] of the rows of x from `first` on, and one row of what lies behind it. */
static uint16_t *run(const struct tested *t, const struct operands *o, int first, int rows)
{
    const struct kind *k = o->kind;
    size_t n = (size_t)rows * (size_t)o->stride, all = n + (size_t)o->stride;
    uint16_t *y = take_host(all * sizeof *y);
    memset(y, 0xff, all * sizeof *y); /* NaN */
    if (k->add_in_place)
        memcpy(y, o->add + (size_t)first * (size_t)o->stride, n * sizeof *y);
    t->ops->copy_in(t->d, o->y_dev, y, all * sizeof *y);
    struct matmul_args a = {.x = (const char *)o->x_dev + (size_t)first * (size_t)o->in * 2,
                            .rows = rows,
                            .norm = k->norm ? &o->norm : NULL,
                            .act = k->act,
                            .n_outs = k->n_outs};
    int column = 0;
    for (int i = 0; i < k->n_outs; i++) {
        size_t at = (size_t)(i < outs_written(o) ? column : 0);
        const char *add = (const char *)o->add_dev + ((size_t)first * (size_t)o->stride + at) * 2;
        char *y_i = (char *)o->y_dev + at * 2;
        a.out[i] = (struct matmul_out){.y = y_i,
                                       .y_stride = o->stride,
                                       .w = &o->w_dev[i],
                                       .bias = k->bias ? o->bias_dev[i] : NULL,
                                       .add = !k->add           ? NULL
                                              : k->add_in_place ? y_i
                                                                : add};
        column += o->n[i];
    }
    t->ops->matmul(t->d, &a);
    t->ops->copy_out(t->d, y, o->y_dev, all * sizeof *y);
    return y;
}

/* x as the product sees it: normalised and rounded. */
static void reference_row(const struct tested *t, const struct operands *o, int row, float *x)
{
    const uint16_t *from = o->x + (size_t)row * (size_t)o->in;
    double mean = 0, squares = 0;
    for (int i = 0; i < o->in; i++)
        mean += (double)act_to_f32(t, from[i]) / o->in;
    mean = o->norm.kind == NORM_LAYER ? mean : 0;
    for (int i = 0; i < o->in; i++)
        squares += pow((double)act_to_f32(t, from[i]) - mean, 2);
    double scale = 1 / sqrt(squares / o->in + (double)o->norm.eps);
    for (int i = 0; i < o->in; i++) {
        double v = (double)act_to_f32(t, from[i]);
        if (o->kind->norm)
            v = (v - mean) * scale * (double)o->norm_w[i] + (o->norm.b ? (double)o->norm_b[i] : 0);
        x[i] = act_rounded(t, (float)v);
    }
}

struct value {
    double v, slack; /* what rounding may cost */
};

static struct value reference_sum(const struct tested *t, const struct operands *o, const float *x,
                                  int out, int col)
{
    const uint16_t *w = o->w[out] + (size_t)col * (size_t)o->in;
    double sum = 0, all = 0;
    for (int i = 0; i < o->in; i++) {
        double v = (double)x[i] * (double)act_to_f32(t, w[i]);
        sum += v;
        all += fabs(v);
    }
    /* f32 sums; and with a norm a few x may have rounded the other way. */
    double slack = 1e-5 * all + (o->kind->norm ? act_unit(t) * all / sqrt(o->in) : 0);
    return (struct value){sum + (o->kind->bias ? (double)o->bias[out][col] : 0), slack};
}

static struct value reference(const struct tested *t, const struct operands *o, int row, int out,
                              int col)
{
    const struct kind *k = o->kind;
    float *x = take_host((size_t)o->in * sizeof *x);
    reference_row(t, o, row, x);
    struct value v = reference_sum(t, o, x, out, col);
    const double unit = act_unit(t), slope = 1.2; /* no activation is steeper */
    if (k->act != ACT_NONE) {
        v.slack = v.v < -50 ? 0 : slope * (v.slack + unit * fabs(v.v)); /* flat there */
        v.v = act_f64(k->act, v.v);
    }
    if (k->gated) {
        struct value up = reference_sum(t, o, x, 1, col);
        v.slack = v.slack * (fabs(up.v) + up.slack) + fabs(v.v) * (up.slack + unit * fabs(up.v));
        v.v *= up.v;
    }
    if (k->add)
        v.v += (double)act_to_f32(t, o->add[(size_t)row * (size_t)o->stride + (size_t)col]);
    v.slack += unit * fabs(v.v) + 1e-6;
    free(x);
    return v;
}

static void check_values(const struct tested *t, const struct operands *o, const uint16_t *y)
{
    for (int i = 0; i < ROWS_MAX * o->stride; i++)
        if (!isfinite(act_to_f32(t, y[i]))) {
            fail_case(t, o, "not a number", ROWS_MAX, i);
            return;
        }
    for (int i = 0; i < SAMPLES; i++) {
        int row = random_below(ROWS_MAX), out = random_below(outs_written(o));
        int col = i < 8 ? o->n[out] - 1 - i % 4 : random_below(o->n[out]), before = 0;
        for (int j = 0; j < out; j++)
            before += o->n[j];
        struct value want = reference(t, o, row, out, col);
        double got =
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
    int n = rows * o->stride;
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

static void check_case(const struct tested *t, struct pool *pool, const struct kind *kind,
                       const struct shape *shape)
{
    struct operands o = make(t, pool, kind, shape);
    uint16_t *all = run(t, &o, 0, ROWS_MAX);
    check_values(t, &o, all);
    for (int i = 0; i < n_some_rows; i++) {
        check_bits(t, &o, all, 0, some_rows[i]);
        check_bits(t, &o, all, ROWS_MAX - some_rows[i], some_rows[i]);
    }
    free(all);
    free_host(&o);
}

static void check_type(enum dtype act)
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
                                         .in_max = 14336};
    struct tested t;
    device_open(&t, act, &limits);
    struct pool pool = {.at = take_device(&t, (size_t)512 << 20)};
    for (int i = 0; i < n_shapes; i++) {
        struct shape s = {.in = some_shapes[i][0], .n = some_shapes[i][1]};
        for (int o = 0; o < OUTS; o++)
            s.w[o] = random_acts(&t, (size_t)s.n * (size_t)s.in, 1 / sqrtf((float)s.in));
        for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
            int before = failures;
            check_case(&t, &pool, &kinds[k], &s);
            printf("%s %s in %d n %d %s\n", failures == before ? "ok  " : "FAIL",
                   act == DT_F16 ? "f16 " : "bf16", s.in, s.n, kinds[k].name);
        }
        for (int o = 0; o < OUTS; o++)
            free(s.w[o]);
        fflush(stdout);
    }
    t.ops->close(t.d);
}

/*     gpu_test_matmul [small | waves] */
int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "waves") == 0) {
        some_shapes = waves;
        n_shapes = N_WAVES;
        n_some_rows = N_WAVES_ROWS;
    } else if (argc > 1) {
        n_shapes = N_SMALL_SHAPES;
        n_some_rows = N_SMALL_ROWS;
    }
    check_type(DT_BF16);
    check_type(DT_F16);
    return failures != 0;
}
