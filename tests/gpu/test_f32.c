/* What a device promises whose activations are f32 (`--dtype f32`): weights of every format as the
 * values that its reader gives them; products, logits and attention within f32's rounding of
 * float64; and bits of a row that depend on nothing beside it.
 *
 * The rest of a layer: test_small_ops.c; whole models: test_engine.c, test_greedy.c.
 *
 *     gpu_test_f32 [small]      for sanitizers, and where a GPU is simulated */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "tests/gpu/paged_seqs.h"

static bool is_small;

static void free_all(void *const *at, int n)
{
    for (int i = 0; i < n; i++)
        free(at[i]);
}

static struct device_limits limits_of(int rows, int in_max, int vocab)
{
    return (struct device_limits){.step_tokens_max = rows,
                                  .seqs_max = 4,
                                  .heads_max = rows,
                                  .step_heads_max = rows,
                                  .context_max = 512,
                                  .block_tokens = 16,
                                  .table_stride = 32,
                                  .history_max = 16,
                                  .bias_max = 16,
                                  .bias_slot_max = 16,
                                  .vocab = vocab,
                                  .hidden = in_max,
                                  .ffn = in_max,
                                  .n_heads = 8,
                                  .n_kv_heads = 2,
                                  .head_dim = 64,
                                  .in_max = in_max};
}

static struct tensor put_matrix(const struct tested *t, void *to, const void *from,
                                enum dtype dtype, int rows, int cols)
{
    struct status st = {0};
    struct tensor w = {.data = to, .dtype = dtype, .rows = rows, .cols = cols};
    assert_int_equal(t->ops->weight_bytes(t->d, &w), (size_t)rows * (size_t)cols * sizeof(float));
    t->ops->weight_put(t->d, &w, &(struct weight_source){.at = from, .fd = -1});
    if (!t->ops->weights_done(t->d, &st))
        die("weights_done", &st);
    assert_int_equal(w.dtype, DT_F32);
    return w;
}

static struct tensor take_matrix(const struct tested *t, const float *from, int rows, int cols)
{
    return put_matrix(t, take_device(t, (size_t)rows * (size_t)cols * sizeof *from), from, DT_F32,
                      rows, cols);
}

/* ---- weights ---- */

static void weights_have_the_values_of_their_format(void **state)
{
    enum { ROWS = 37, COLS = 1536 };
    const struct device_limits limits = limits_of(4, COLS, 1000);
    struct tested t;
    (void)state;
    device_open(&t, DT_F32, &limits);
    assert_int_equal(t.act, DT_F32);
    for (int dtype = DT_F32; dtype < DT_N; dtype++) {
        size_t row_bytes;
        assert_true(tensor_file_bytes((enum dtype)dtype, 1, COLS, &row_bytes));
        uint8_t *file = take_host(ROWS * row_bytes);
        const size_t n = (size_t)ROWS * COLS;
        float *want = take_host(n * sizeof *want), *got = take_host(n * sizeof *got);
        for (size_t i = 0; i < ROWS * row_bytes; i++)
            file[i] = (uint8_t)random_below(256);
        for (int r = 0; r < ROWS; r++)
            dequantize_row((enum dtype)dtype, file + (size_t)r * row_bytes, want + (size_t)r * COLS,
                           COLS);
        const struct tensor w =
            put_matrix(&t, take_device(&t, n * sizeof *want), file, (enum dtype)dtype, ROWS, COLS);
        t.ops->copy_out(t.d, got, w.data, n * sizeof *got);
        assert_memory_equal(got, want, n * sizeof *got);
        free_all((void *[]){file, want, got}, 3);
    }
    t.ops->close(t.d);
}

enum { CODES_ROWS = 70, CODES_COLS = 320, CODES_GROUP = 32 };

static void give_codes(const void *ctx, int64_t first, int64_t n, const struct scheme_rows *to)
{
    (void)ctx;
    for (int64_t r = 0; r < n; r++) {
        for (int64_t i = 0; i < CODES_COLS; i++)
            to->codes[r * CODES_COLS + i] = (uint8_t)((first + r) * 7 + i * 3) & 15;
        for (int64_t g = 0; g < CODES_COLS / CODES_GROUP; g++) {
            const int64_t at = r * (CODES_COLS / CODES_GROUP) + g;
            to->scales[at] = 0.01f * (float)(first + r + g + 1);
            to->zeros[at] = (int16_t)(g % 16);
        }
    }
}

static void codes_of_a_scheme_become_values_with_columns_in_order(void **state)
{
    static const struct scheme unrounded = {
        .codes = DT_INT4, .group = CODES_GROUP, .scale = DT_F32, .has_zero = true, .ordered = true};
    struct scheme scheme = unrounded; /* whose reader rounds values: nobody does here */
    scheme.value = DT_F16;
    const struct device_limits limits = limits_of(4, CODES_COLS, 1000);
    static float got[CODES_ROWS * CODES_COLS], row[CODES_COLS];
    static uint8_t codes[CODES_COLS];
    float scales[CODES_COLS / CODES_GROUP];
    int16_t zeros[CODES_COLS / CODES_GROUP];
    int32_t order[CODES_COLS];
    struct tested t;
    struct status st = {0};
    (void)state;
    device_open(&t, DT_F32, &limits);
    for (int i = 0; i < CODES_COLS; i++)
        order[i] = i * 77 % CODES_COLS;
    struct tensor w = {.dtype = DT_INT4, .rows = CODES_ROWS, .cols = CODES_COLS, .scheme = &scheme};
    assert_int_equal(t.ops->weight_bytes(t.d, &w), sizeof got);
    w.data = take_device(&t, sizeof got);
    t.ops->weight_put(t.d, &w,
                      &(struct weight_source){.fd = -1, .rows = give_codes, .order = order});
    assert_true(t.ops->weights_done(t.d, &st));
    assert_null(w.scheme);
    t.ops->copy_out(t.d, got, w.data, sizeof got);
    for (int r = 0; r < CODES_ROWS; r++) {
        const struct scheme_rows one = {codes, scales, zeros};
        give_codes(NULL, r, 1, &one);
        scheme_dequantize_row(&unrounded, &one, CODES_COLS, row);
        for (int i = 0; i < CODES_COLS; i++)
            assert_true(got[r * CODES_COLS + order[i]] == row[i]);
    }
    t.ops->close(t.d);
}

/* ---- what it refuses ---- */

static void it_is_alone_and_its_cache_is_f32(void **state)
{
    const struct device_limits limits = limits_of(4, 64, 1000);
    struct status st = {0};
    struct tested t;
    char other[1]; /* of a group nothing is asked */
    (void)state;
    device_open(&t, DT_F32, &limits);
    for (int dtype = 0; dtype < DT_ALL_N; dtype++)
        assert_int_equal(t.ops->kv_fits(t.d, (enum dtype)dtype), dtype == DT_F32);
    t.ops->close(t.d);
    const struct backend *backend = backend_find("cuda", &st);
    const struct device_options o = {
        .act = DT_F32, .memory_share = 1, .comm = (struct comm *)(void *)other};
    assert_null(backend->open(&o, &st));
    assert_int_equal(st.code, STATUS_UNSUPPORTED);
    assert_non_null(strstr(st.msg, "dtype: f32 runs on one cuda device"));
}

/* ---- products ---- */

enum { ROWS_MAX = 200, OUTS = 3, SAMPLES = 100 };

static const int some_rows[] = {1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 64, 65, 130};
static const int some_small_rows[] = {1, 2, 4, 7, 16, 17, 33, 65};
static const int shapes[][2] = {{1000, 56},  {576, 576},   {320, 96},    {40, 72},
                                {1536, 576}, {2048, 2048}, {4096, 6144}, {14336, 4096}};
enum { N_SMALL_SHAPES = 4 };

struct kind {
    const char *name;
    int n_outs;
    bool gated, bias, add, apart, add_in_place;
    enum act_kind act;
    int norm; /* 0 = none, 1 + enum norm_kind */
};

static const struct kind kinds[] = {
    {.name = "plain", .n_outs = 1},
    {.name = "rms, three together", .n_outs = 3, .norm = 1 + NORM_RMS},
    {.name = "layer norm, bias, three apart",
     .n_outs = 3,
     .bias = true,
     .apart = true,
     .norm = 1 + NORM_LAYER},
    {.name = "bias, residual in place",
     .n_outs = 1,
     .bias = true,
     .add = true,
     .add_in_place = true},
    {.name = "residual", .n_outs = 1, .add = true},
    {.name = "gelu", .n_outs = 1, .bias = true, .act = ACT_GELU},
    {.name = "relu", .n_outs = 1, .act = ACT_RELU},
    {.name = "rms, silu gate", .n_outs = 2, .gated = true, .act = ACT_SILU, .norm = 1 + NORM_RMS},
    {.name = "bias, gelu_tanh gate",
     .n_outs = 2,
     .gated = true,
     .bias = true,
     .act = ACT_GELU_TANH},
};
enum { N_KINDS = sizeof kinds / sizeof kinds[0] };

struct operands {
    const struct kind *k;
    int in, n[OUTS], stride, n_written;
    float *x, *add, *w[OUTS], *bias[OUTS], *norm_w, *norm_b; /* on the host */
    char *x_at, *add_at, *y_at;                              /* on the device */
    float *bias_at[OUTS];
    struct tensor w_at[OUTS];
    struct norm norm;
};

static void make_operands(const struct tested *t, struct operands *o, const struct kind *k, int in,
                          int n)
{
    *o = (struct operands){
        .k = k, .in = in, .n = {n, k->gated ? n : n / 8 * 2, n / 8 * 2}, .n_written = k->n_outs};
    if (k->gated)
        o->n_written = 1;
    for (int i = 0; i < o->n_written; i++)
        o->stride += o->n[i];
    const size_t n_x = (size_t)ROWS_MAX * (size_t)in,
                 n_y = (size_t)(ROWS_MAX + 1) * (size_t)o->stride;
    int n_all = 0;
    for (int i = 0; i < k->n_outs; i++)
        n_all += o->n[i];
    float *w = random_floats((size_t)n_all * (size_t)in, 1 / sqrtf((float)in));
    char *to = take_device(t, ((size_t)n_all * (size_t)in + 3 * 64) * sizeof *w);
    for (int i = 0, before = 0; i < k->n_outs; before += o->n[i++]) {
        o->w[i] = w + (size_t)before * (size_t)in;
        o->w_at[i] = put_matrix(t, to, o->w[i], DT_F32, o->n[i], in);
        to += (size_t)o->n[i] * (size_t)in * sizeof *w + (k->apart ? 256 : 0);
        o->bias[i] = random_floats((size_t)o->n[i], 1);
        o->bias_at[i] = put(t, o->bias[i], (size_t)o->n[i] * sizeof(float));
    }
    o->x = random_floats(n_x, 1);
    o->add = random_floats(n_y, 1);
    o->x_at = put(t, o->x, n_x * sizeof(float));
    o->add_at = put(t, o->add, n_y * sizeof(float));
    o->y_at = take_device(t, n_y * sizeof(float));
    o->norm_w = random_floats((size_t)in, 1);
    o->norm_b = random_floats((size_t)in, 1);
    o->norm = (struct norm){.kind = k->norm == 1 + NORM_LAYER ? NORM_LAYER : NORM_RMS,
                            .w = put(t, o->norm_w, (size_t)in * sizeof(float)),
                            .eps = 1e-5f};
    if (k->norm == 1 + NORM_LAYER)
        o->norm.b = put(t, o->norm_b, (size_t)in * sizeof(float));
}

static void free_operands(struct operands *o)
{
    for (int i = 0; i < o->k->n_outs; i++)
        free(o->bias[i]);
    free_all((void *[]){o->w[0], o->x, o->add, o->norm_w, o->norm_b}, 5);
}

/* y of the rows of x from `first` on, and one row of what lies behind it. */
static float *multiply(const struct tested *t, const struct operands *o, int first, int rows)
{
    const struct kind *k = o->k;
    const size_t width = (size_t)o->stride, n = (size_t)rows * width;
    float *y = take_host((n + width) * sizeof *y);
    memset(y, 0xff, (n + width) * sizeof *y);
    if (k->add_in_place)
        memcpy(y, o->add + (size_t)first * width, n * sizeof *y);
    t->ops->copy_in(t->d, o->y_at, y, (n + width) * sizeof *y);
    struct matmul_args a = {.x = o->x_at + (size_t)first * (size_t)o->in * sizeof *y,
                            .rows = rows,
                            .norm = k->norm ? &o->norm : NULL,
                            .act = k->act,
                            .n_outs = k->n_outs};
    size_t column = 0;
    for (int i = 0; i < k->n_outs; i++) {
        char *to = o->y_at + column * sizeof *y;
        const char *add = o->add_at + ((size_t)first * width + column) * sizeof *y;
        a.out[i] = (struct matmul_out){.y = i < o->n_written ? to : NULL,
                                       .y_stride = i < o->n_written ? o->stride : 0,
                                       .w = &o->w_at[i],
                                       .bias = k->bias ? o->bias_at[i] : NULL,
                                       .add = !k->add           ? NULL
                                              : k->add_in_place ? to
                                                                : add};
        column += (size_t)o->n[i];
    }
    t->ops->matmul(t->d, &a);
    t->ops->copy_out(t->d, y, o->y_at, (n + width) * sizeof *y);
    return y;
}

/* x as the product sees it. */
static void norm_row(double *to, const float *x, int n, const struct norm *norm, const float *w,
                     const float *b)
{
    double mean = 0, squares = 0;
    for (int i = 0; i < n; i++)
        mean += (double)x[i] / n;
    mean = norm && norm->kind == NORM_LAYER ? mean : 0;
    for (int i = 0; i < n; i++)
        squares += pow((double)x[i] - mean, 2);
    const double scale = norm ? 1 / sqrt(squares / n + (double)norm->eps) : 1;
    for (int i = 0; i < n; i++) {
        to[i] = (double)x[i];
        if (norm)
            to[i] = (to[i] - mean) * scale * (double)w[i] + (norm->b ? (double)b[i] : 0);
    }
}

struct value {
    double v, slack;
};

/* Sums of f32: 8 chains, so a rounding for each of an eighth of the terms; and the norm's. */
static struct value sum_of(const double *x, const float *w, int n)
{
    double sum = 0, all = 0;
    for (int i = 0; i < n; i++) {
        sum += x[i] * (double)w[i];
        all += fabs(x[i] * (double)w[i]);
    }
    return (struct value){sum, 0x1p-24 * (sqrt(n) + 16) * all / 4};
}

static struct value reference(const struct operands *o, int row, int out, int col)
{
    const struct kind *k = o->k;
    double *x = take_host((size_t)o->in * sizeof *x);
    norm_row(x, o->x + (size_t)row * (size_t)o->in, o->in, k->norm ? &o->norm : NULL, o->norm_w,
             o->norm_b);
    struct value v = sum_of(x, o->w[out] + (size_t)col * (size_t)o->in, o->in);
    v.v += k->bias ? (double)o->bias[out][col] : 0;
    if (k->act != ACT_NONE) {
        v.slack = 1.2 * v.slack + 4 * 0x1p-24 * fabs(v.v); /* no activation is steeper */
        v.v = act_f64(k->act, v.v);
    }
    if (k->gated) {
        struct value up = sum_of(x, o->w[1] + (size_t)col * (size_t)o->in, o->in);
        up.v += k->bias ? (double)o->bias[1][col] : 0;
        v.slack = v.slack * (fabs(up.v) + up.slack) + fabs(v.v) * up.slack;
        v.v *= up.v;
    }
    if (k->add)
        v.v += (double)o->add[(size_t)row * (size_t)o->stride + (size_t)col];
    v.slack += 4 * 0x1p-24 * fabs(v.v) + 1e-7;
    free(x);
    return v;
}

static void check_values(const struct operands *o, const float *y)
{
    for (size_t i = 0; i < (size_t)ROWS_MAX * (size_t)o->stride; i++)
        if (!isfinite(y[i]))
            fail_msg("%s in %d n %d: value %zu is none", o->k->name, o->in, o->n[0], i);
    for (int i = 0; i < SAMPLES; i++) {
        const int row = random_below(ROWS_MAX), out = random_below(o->n_written);
        const int col = i < 8 ? o->n[out] - 1 - i % 4 : random_below(o->n[out]);
        int before = 0;
        for (int j = 0; j < out; j++)
            before += o->n[j];
        const struct value want = reference(o, row, out, col);
        const double got = (double)y[row * o->stride + before + col];
        if (!(fabs(got - want.v) <= want.slack))
            fail_msg("%s in %d n %d, row %d column %d: %.9g, want %.9g +- %g", o->k->name, o->in,
                     o->n[0], row, before + col, got, want.v, want.slack);
    }
}

static void check_bits(const struct tested *t, const struct operands *o, const float *all,
                       int first, int rows)
{
    const size_t n = (size_t)rows * (size_t)o->stride;
    float *y = multiply(t, o, first, rows);
    if (memcmp(y, all + (size_t)first * (size_t)o->stride, n * sizeof *y) != 0)
        fail_msg("%s in %d n %d: %d rows have other bits", o->k->name, o->in, o->n[0], rows);
    for (int i = 0; i < o->stride; i++)
        if (!isnan(y[n + (size_t)i]))
            fail_msg("%s in %d n %d: written past %d rows", o->k->name, o->in, o->n[0], rows);
    free(y);
}

static void products_are_those_of_float64_and_rows_their_own(void **state)
{
    const int n_shapes = is_small ? N_SMALL_SHAPES : sizeof shapes / sizeof shapes[0];
    const int *list = is_small ? some_small_rows : some_rows;
    const size_t n_rows =
        is_small ? sizeof some_small_rows / sizeof *list : sizeof some_rows / sizeof *list;
    (void)state;
    for (int s = 0; s < n_shapes; s++) {
        const struct device_limits limits = limits_of(ROWS_MAX, shapes[s][0], 1000);
        struct tested t;
        device_open(&t, DT_F32, &limits);
        for (int k = 0; k < N_KINDS; k++) {
            struct operands o;
            make_operands(&t, &o, &kinds[k], shapes[s][0], shapes[s][1]);
            float *all = multiply(&t, &o, 0, ROWS_MAX);
            check_values(&o, all);
            for (size_t i = 0; i < n_rows; i++) {
                check_bits(&t, &o, all, 0, list[i]);
                check_bits(&t, &o, all, ROWS_MAX - list[i], list[i]);
            }
            free(all);
            free_operands(&o);
        }
        t.ops->close(t.d);
    }
}

/* ---- attention ---- */

enum { GUARD = 2 }; /* rows behind the output */

static const struct seq mixed[] = {
    {4500, 24, 4476}, /* three runs; generated tokens computed again */
    {600, 130, 600},  /* behind keys of earlier steps, two tiles */
    {2049, 1, 2000},  {77, 77, 77}, {300, 40, 290}, /* a prompt's end, and what was generated */
    {2, 1, 1},        {1, 1, 1},    {257, 1, 200},  {700, 1, 700}, /* a prompt's last token alone */
};
/* Of few kv heads: enough tokens that items may be runs, and as many items as fill turns, so that
 * they are (attention_plan.c).  Alone and in pieces the same tokens have splits. */
static const struct seq many[] = {{4500, 90, 4410}, {2300, 60, 2240}, {515, 3, 515},
                                  {300, 100, 200},  {150, 1, 1},      {90, 90, 90}};
static const struct seq prompts[] = {
    {300, 300, 300}, {77, 77, 77}, {1, 1, 1}, {2500, 1, 2400}, {20, 20, 15}};
static const struct seq few[] = {{2400, 1, 2050}, {300, 22, 280}, {70, 40, 70}};
static const struct seq some_runs[] = {{2400, 210, 2190}}; /* the second run has two splits */
static const struct seq two[] = {{600, 1, 580}, {90, 70, 88}};

static const struct shape all_shapes[] = {
    {64, 9, 3, 16, 0, 0, false, false, SEQS(mixed)},
    {64, 8, 8, 16, 33, 0, false, false, SEQS(mixed)},
    {64, 20, 1, 16, 1000, 0, false, false, SEQS(many)},
    {80, 8, 2, 8, 0, 5, true, false, SEQS(many)},
    {96, 24, 3, 32, 1000, 8, true, false, SEQS(mixed)},
    {128, 32, 8, 16, 0, 0, false, false, SEQS(mixed)},
    {128, 8, 1, 128, 0, 0, false, false, SEQS(many)},
    {128, 40, 1, 16, 700, 0, true, false, SEQS(many)},
    {256, 8, 2, 16, 512, 7, false, false, SEQS(many)},
    {256, 4, 4, 16, 0, 0, true, false, SEQS(mixed)},
    {64, 4, 1, 16, 0, 0, false, true, SEQS(prompts)},
    {128, 8, 2, 16, 150, 6, false, true, SEQS(prompts)},
    {256, 4, 2, 32, 0, 0, true, true, SEQS(prompts)},
};
static const struct shape small_shapes[] = {
    {64, 9, 3, 16, 33, 0, false, false, SEQS(few)},
    {80, 4, 2, 16, 0, 4, true, false, SEQS(two)},
    {128, 6, 2, 8, 50, 5, true, false, SEQS(two)},
    {256, 18, 1, 16, 0, 5, false, false, SEQS(two)},
    {96, 2, 2, 8, 40, 0, true, true, SEQS(two)},
    {64, 1, 1, 16, 0, 0, false, false, SEQS(some_runs)},
};

struct world {
    const struct shape *s;
    struct tested t;
    int n_tokens, stride; /* stride: of q's rows */
    size_t width;
    struct pages pages;
    struct sample_params params;
    struct batch_slot set[SEQS_MAX];
    int first[SEQS_MAX + 1]; /* token of each sequence */
    float *q, *k, *v;        /* q: [n_tokens, width]; of the layer, as the device has it */
    float alibi[40];
    char *q_at, *out_at;
    float *alibi_at;
    struct kv_cache kv;
};

/* Layer 1 of two: NaN wherever no token of a sequence is. */
static void *make_cache(struct world *w, float **host)
{
    const struct shape *s = w->s;
    const size_t dim = (size_t)s->head_dim;
    const size_t n = pages_rows(&w->pages) * dim;
    float *rows = take_host(2 * n * sizeof *rows);
    memset(rows, 0xff, 2 * n * sizeof *rows);
    for (int i = 0; i < s->n_seqs; i++) {
        float *from = random_floats((size_t)(s->seq[i].kv_len * s->n_kv_heads) * dim, 1),
              *at = from;
        for (int key = 0; key < s->seq[i].kv_len; key++)
            for (int h = 0; h < s->n_kv_heads; h++, at += dim)
                memcpy(rows + n + pages_row(&w->pages, slot_of(i), h, key) * dim, at,
                       dim * sizeof *at);
        free(from);
    }
    void *device = put(&w->t, rows, 2 * n * sizeof *rows);
    *host = take_host(n * sizeof **host);
    memcpy(*host, rows + n, n * sizeof **host);
    free(rows);
    return device;
}

/* Of a deviation of 3, so that weights are neither equal nor one; the rest of the rows is NaN. */
static void make_queries(struct world *w)
{
    const size_t n = (size_t)w->n_tokens, stride = (size_t)w->stride;
    float *rows = take_host(n * stride * sizeof *rows);
    w->q = random_floats(n * w->width, 3);
    memset(rows, 0xff, n * stride * sizeof *rows);
    for (size_t t = 0; t < n; t++)
        memcpy(rows + t * stride, w->q + t * w->width, w->width * sizeof *rows);
    w->q_at = put(&w->t, rows, n * stride * sizeof *rows);
    free(rows);
}

static void open_world(struct world *w, const struct shape *s)
{
    struct device_limits limits = limits_of(TOKENS_MAX, 64, 1000);
    *w = (struct world){.s = s, .params = {.top_p = 1, .repetition = 1, .n_logprobs = -1}};
    limits.seqs_max = SEQS_MAX;
    limits.context_max = CONTEXT;
    limits.block_tokens = s->block_tokens;
    limits.table_stride = CONTEXT / s->block_tokens;
    limits.history_max = SEQS_MAX * CONTEXT; /* tables come whole with one step */
    limits.n_heads = s->n_heads;
    limits.n_kv_heads = s->n_kv_heads;
    limits.head_dim = s->head_dim;
    device_open(&w->t, DT_F32, &limits);
    w->width = (size_t)(s->n_heads * s->head_dim);
    w->stride = (s->n_heads + 2 * s->n_kv_heads) * s->head_dim;
    for (int i = 0; i < s->n_seqs; i++) {
        w->first[i] = w->n_tokens;
        w->n_tokens += s->seq[i].n_new;
        w->set[i] = (struct batch_slot){
            .slot = slot_of(i), .n_prompt = s->seq[i].n_prompt, .params = &w->params};
    }
    w->pages = pages_of(s);
    w->kv = (struct kv_cache){.k = make_cache(w, &w->k),
                              .v = make_cache(w, &w->v),
                              .dtype = DT_F32,
                              .n_layers = 2,
                              .n_blocks = w->pages.n_blocks,
                              .block_tokens = s->block_tokens,
                              .n_kv_heads = s->n_kv_heads,
                              .head_dim = s->head_dim};
    make_queries(w);
    for (int h = 0; h < s->n_heads; h++)
        w->alibi[h] = powf(2, -8.0f * (float)(h + 1) / (float)s->n_heads);
    w->alibi_at = put(&w->t, w->alibi, sizeof w->alibi);
    w->out_at = take_device(&w->t, ((size_t)w->n_tokens + GUARD) * w->width * sizeof(float));
}

static void close_world(struct world *w)
{
    w->t.ops->close(w->t.d);
    pages_free(&w->pages);
    free_all((void *[]){w->q, w->k, w->v}, 3);
}

/* Of the step's tokens, whose queries begin at token `first` of all. */
static float *attend(const struct world *w, const struct step *step, int first)
{
    const struct tested *t = &w->t;
    const struct shape *s = w->s;
    const size_t n = (size_t)step->batch.n_tokens * w->width, all = n + GUARD * w->width;
    float *out = take_host(all * sizeof *out);
    struct status st = {0};
    memset(out, 0xff, all * sizeof *out);
    t->ops->copy_in(t->d, w->out_at, out, all * sizeof *out);
    t->ops->step_begin(t->d, &step->batch, 0);
    t->ops->attention(t->d, &(struct attention_args){
                                .out = w->out_at,
                                .q = w->q_at + (size_t)first * (size_t)w->stride * sizeof *out,
                                .q_stride = w->stride,
                                .kv = &w->kv,
                                .layer = 1,
                                .n_heads = s->n_heads,
                                .scale = 1 / sqrtf((float)s->head_dim),
                                .soft_cap = s->soft_cap,
                                .window = s->window,
                                .alibi = s->alibi ? w->alibi_at : NULL,
                                .bidirectional = s->bidirectional});
    t->ops->step_end(t->d);
    if (!t->ops->step_wait(t->d, NULL, &st))
        die("step_wait", &st);
    t->ops->copy_out(t->d, out, w->out_at, all * sizeof *out);
    for (size_t i = n; i < all; i++)
        if (!isnan(out[i]))
            fail_msg("written past %d tokens", step->batch.n_tokens);
    return out;
}

static double score_of(const struct world *w, const float *q, const float *k, int head, int apart)
{
    const struct shape *s = w->s;
    double score = 0;
    for (int i = 0; i < s->head_dim; i++)
        score += (double)q[i] * (double)k[i];
    score /= sqrt(s->head_dim);
    if (s->soft_cap > 0)
        score = (double)s->soft_cap * tanh(score / (double)s->soft_cap);
    return s->alibi ? score + (double)w->alibi[head] * apart : score;
}

static void check_token(const struct world *w, int seq, int i, int head, const float *got)
{
    const struct shape *s = w->s;
    const struct seq *of = &s->seq[seq];
    const int position = of->kv_len - of->n_new + i, kv_head = head / (s->n_heads / s->n_kv_heads);
    const float *q = w->q + (size_t)(w->first[seq] + i) * w->width + head * s->head_dim;
    const int oldest = s->window > 0 && position + 1 > s->window ? position + 1 - s->window : 0;
    int end = position + 1;
    if (s->bidirectional && position < of->n_prompt)
        end = of->kv_len < of->n_prompt ? of->kv_len : of->n_prompt;
    double sum = 0, top = -INFINITY, v[256] = {0}, size[256] = {0};
    double *score = take_host((size_t)end * sizeof *score);
    for (int key = oldest; key < end; key++) {
        score[key] = score_of(
            w, q, w->k + pages_row(&w->pages, slot_of(seq), kv_head, key) * (size_t)s->head_dim,
            head, key - position);
        top = fmax(top, score[key]);
    }
    for (int key = oldest; key < end; key++) {
        const double weight = exp(score[key] - top);
        const float *value =
            w->v + pages_row(&w->pages, slot_of(seq), kv_head, key) * (size_t)s->head_dim;
        sum += weight;
        for (int d = 0; d < s->head_dim; d++) {
            v[d] += weight * (double)value[d];
            size[d] += weight * fabs((double)value[d]);
        }
    }
    free(score);
    for (int d = 0; d < s->head_dim; d++)
        if (!(fabs((double)got[d] - v[d] / sum) <= 4e-6 * size[d] / sum + 1e-7))
            fail_msg("heads %d of %d, sequence %d, token %d, head %d: value %d is %.9g, want %.9g, "
                     "error "
                     "%.3g of %.3g",
                     s->n_heads, s->head_dim, seq, i, head, d, (double)got[d], v[d] / sum,
                     fabs((double)got[d] - v[d] / sum), size[d] / sum);
}

/* A sequence alone, and in two steps of which the second sees more; what was computed again too. */
static void check_alone(const struct world *w, const float *all, int seq)
{
    const struct seq *q = &w->s->seq[seq];
    const int cuts[] = {q->n_new, q->n_new / 3, 1};
    for (int c = 0; c < (w->s->bidirectional ? 1 : 3); c++) {
        for (int from = 0; from < q->n_new && cuts[c] > 0;) {
            static struct step step;
            const int end = from == 0 ? cuts[c] : q->n_new;
            step_open(&step, w->pages.table);
            step_add(&step, q, slot_of(seq), from, end);
            float *out = attend(w, &step, w->first[seq] + from);
            if (memcmp(out, all + (size_t)(w->first[seq] + from) * w->width,
                       (size_t)(end - from) * w->width * sizeof *out) != 0)
                fail_msg("heads %d of %d, sequence %d, tokens %d to %d have other bits alone",
                         w->s->n_heads, w->s->head_dim, seq, from, end);
            free(out);
            from = end;
        }
    }
}

static void attention_is_that_of_float64_and_tokens_are_their_own(void **state)
{
    const struct shape *list = is_small ? small_shapes : all_shapes;
    const size_t n =
        is_small ? sizeof small_shapes / sizeof *list : sizeof all_shapes / sizeof *list;
    (void)state;
    for (size_t i = 0; i < n; i++) {
        static struct step step;
        struct world w;
        open_world(&w, &list[i]);
        step_open(&step, w.pages.table);
        for (int seq = 0; seq < w.s->n_seqs; seq++)
            step_add(&step, &w.s->seq[seq], slot_of(seq), 0, w.s->seq[seq].n_new);
        step.batch.n_slots = w.s->n_seqs;
        step.batch.set = w.set;
        step.batch.n_blocks = w.pages.n_table_blocks;
        step.batch.block = w.pages.block;
        float *all = attend(&w, &step, 0);
        for (int seq = 0; seq < w.s->n_seqs; seq++) {
            const int n_new = w.s->seq[seq].n_new;
            for (int k = 0; k < (is_small ? 8 : 24); k++) {
                const int at = k < 2 ? k * (n_new - 1) : random_below(n_new);
                const int head = random_below(w.s->n_heads);
                check_token(&w, seq, at, head,
                            all + (size_t)(w.first[seq] + at) * w.width + head * w.s->head_dim);
            }
            check_alone(&w, all, seq);
        }
        free(all);
        close_world(&w);
    }
}

/* ---- logits ---- */

enum { HEADS = 70, HEAD_TOKENS = 100, HIDDEN = 576 };

static float *logits_of(const struct tested *t, const struct head_args *a, const struct step *step)
{
    const size_t n = (size_t)a->n * (size_t)a->w->rows;
    float *logits = take_host(n * sizeof *logits);
    struct sample_out out[HEADS];
    struct status st = {0};
    t->ops->step_begin(t->d, &step->batch, 0);
    t->ops->head(t->d, a);
    t->ops->step_end(t->d);
    if (!t->ops->step_wait(t->d, out, &st))
        die("step_wait", &st);
    t->ops->copy_out(t->d, logits, a->logits, n * sizeof *logits);
    return logits;
}

static void logits_are_those_of_the_rows_named(void **state)
{
    const int vocab = is_small ? 1003 : 49152;
    const struct device_limits limits = limits_of(HEAD_TOKENS, HIDDEN, vocab);
    static struct step step;
    static int32_t table[4 * 32];
    struct batch_head head[HEADS];
    struct tested t;
    (void)state;
    device_open(&t, DT_F32, &limits);
    step_open(&step, table);
    step_add(&step, &(struct seq){HEAD_TOKENS, HEAD_TOKENS, HEAD_TOKENS}, 0, 0, HEAD_TOKENS);
    for (int i = 0; i < HEADS; i++)
        head[i] =
            (struct batch_head){.row = (i * 37 + 5) % HEAD_TOKENS, .n_history = 1, .forced = 0};
    step.batch.head = head;
    step.batch.n_heads = HEADS;
    float *x = random_floats(HEAD_TOKENS * HIDDEN, 1), *gain = random_floats(HIDDEN, 1);
    float *w = random_floats((size_t)vocab * HIDDEN, 1 / sqrtf(HIDDEN));
    const struct tensor matrix = take_matrix(&t, w, vocab, HIDDEN);
    const struct norm norm = {.w = put(&t, gain, HIDDEN * sizeof *gain), .eps = 1e-5f};
    struct head_args a = {.logits = take_device(&t, (size_t)HEADS * (size_t)vocab * sizeof(float)),
                          .x = put(&t, x, HEAD_TOKENS * HIDDEN * sizeof *x),
                          .n = HEADS,
                          .norm = &norm,
                          .w = &matrix};
    float *all = logits_of(&t, &a, &step);
    for (int i = 0; i < 200; i++) {
        const int at = random_below(HEADS), id = i < 8 ? vocab - 1 - i : random_below(vocab);
        double row[HIDDEN];
        norm_row(row, x + head[at].row * HIDDEN, HIDDEN, &norm, gain, NULL);
        const struct value want = sum_of(row, w + (size_t)id * HIDDEN, HIDDEN);
        const double got = (double)all[(size_t)at * (size_t)vocab + (size_t)id];
        if (!(fabs(got - want.v) <= want.slack + 1e-7))
            fail_msg("head %d, id %d: %.9g, want %.9g +- %g", at, id, got, want.v, want.slack);
    }
    for (int n = 1; n < HEADS; n += n < 5 ? 1 : 28) {
        a.first = HEADS - n;
        a.n = n;
        float *some = logits_of(&t, &a, &step);
        assert_memory_equal(some, all + (size_t)a.first * (size_t)vocab,
                            (size_t)n * (size_t)vocab * sizeof *some);
        free(some);
    }
    free_all((void *[]){x, gain, w, all}, 4);
    t.ops->close(t.d);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights_have_the_values_of_their_format),
        cmocka_unit_test(codes_of_a_scheme_become_values_with_columns_in_order),
        cmocka_unit_test(it_is_alone_and_its_cache_is_f32),
        cmocka_unit_test(products_are_those_of_float64_and_rows_their_own),
        cmocka_unit_test(attention_is_that_of_float64_and_tokens_are_their_own),
        cmocka_unit_test(logits_are_those_of_the_rows_named),
    };
    (void)argv;
    is_small = argc > 1;
    return cmocka_run_group_tests_name("f32", tests, NULL, NULL);
}
