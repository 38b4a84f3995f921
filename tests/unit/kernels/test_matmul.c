/* What matmul promises: for every storage type, shape, precision and instruction set, the product
 * is that of the dequantized weights in float64 to a few roundings; and the bits of a row depend
 * neither on the rows beside it nor on the number of threads. */
#include "kernels/cpu/matmul_int.h"
#include "kernels/half.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

enum { POISON = 0x7fa5a5a5, GUARD = 16 };

static uint64_t rng;

static uint32_t random_u32(void)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return (uint32_t)(rng >> 32);
}

static float random_float(void) /* about normal, sigma 1 */
{
    float sum = 0;
    for (int i = 0; i < 6; i++)
        sum += (float)random_u32() * 0x1p-32f - 0.5f;
    return sum * 1.41f;
}

/* Where a block of each format keeps its f16 numbers; -1: there is none. */
static const int half_at[DT_N][2] = {
    [DT_Q4_0] = {0, -1}, [DT_Q4_1] = {0, 2},    [DT_Q5_0] = {0, -1},   [DT_Q5_1] = {0, 2},
    [DT_Q8_0] = {0, -1}, [DT_Q2_K] = {80, 82},  [DT_Q3_K] = {108, -1}, [DT_Q4_K] = {0, 2},
    [DT_Q5_K] = {0, 2},  [DT_Q6_K] = {208, -1},
};

/* Random weights in file layout: all bits of q and of packed scales occur. */
static uint8_t *make_weights(enum dtype dtype, int64_t rows, int64_t cols)
{
    const struct dtype_traits *t = &dtype_traits[dtype];
    size_t n_bytes;
    assert_true(tensor_file_bytes(dtype, rows, cols, &n_bytes));
    uint8_t *src = malloc(n_bytes);
    if (t->block == 1) {
        for (size_t at = 0; at < n_bytes; at += (size_t)t->block_bytes) {
            float f = random_float() * 0.3f;
            uint16_t h = dtype == DT_F16 ? f32_to_f16(f) : f32_to_bf16(f);
            memcpy(src + at, dtype == DT_F32 ? (void *)&f : (void *)&h, (size_t)t->block_bytes);
        }
        return src;
    }
    for (size_t i = 0; i < n_bytes; i++)
        src[i] = (uint8_t)random_u32();
    for (size_t at = 0; at < n_bytes; at += (size_t)t->block_bytes)
        for (int k = 0; k < 2 && half_at[dtype][k] >= 0; k++) {
            uint16_t h = f32_to_f16(random_float() * 0.05f);
            memcpy(src + at + half_at[dtype][k], &h, 2);
        }
    return src;
}

/* Some blocks are zero, some tiny, some have a large mean: minima must not lose precision. */
static float *make_activations(int rows, int cols)
{
    float *x = malloc((size_t)rows * (size_t)cols * sizeof *x);
    for (int i = 0; i < rows * cols; i++) {
        uint32_t kind = (uint32_t)(i / 32 * 2654435761u) >> 28;
        float scale = kind == 0 ? 0 : kind == 1 ? 1e-4f : 1;
        x[i] = scale * (random_float() + (kind == 2 ? 3 : 0));
    }
    return x;
}

static const char *const isa_words[] = {"scalar",     "avx2",       "avx512",
                                        "avx512vnni", "avx512bf16", "amx"};

struct rig {
    struct device *dev;
    void *scratch;
};

/* False if this processor lacks the instruction set. */
static bool rig_open(struct rig *r, const char *isa, enum precision precision, int threads)
{
    struct status st = {0};
    struct device_options opts = {.n_threads = threads, .precision = precision, .isa_max = isa};
    *r = (struct rig){.dev = cpu_backend.open(&opts, &st)};
    assert_non_null(r->dev);
    if (strcmp(cpu_backend.variant(r->dev), isa) != 0) {
        cpu_backend.ops->close(r->dev);
        return false;
    }
    size_t n = cpu_matmul_scratch_bytes(r->dev, 300, 4096);
    r->scratch = aligned_alloc(64, (n + 63) / 64 * 64);
    r->dev->scratch = r->scratch;
    r->dev->scratch_bytes = n;
    return true;
}

static void rig_close(struct rig *r)
{
    cpu_backend.ops->close(r->dev);
    free(r->scratch);
}

static void put_weight(struct rig *r, struct tensor *w, enum dtype dtype, int64_t rows,
                       int64_t cols, const uint8_t *src)
{
    *w = (struct tensor){.dtype = dtype, .rows = rows, .cols = cols};
    size_t n = cpu_weight_bytes(r->dev, w);
    assert_int_equal(n % 64, 0);
    w->data = aligned_alloc(64, n);
    memset(w->data, 0xff, n);
    cpu_weight_put(r->dev, w, &(struct weight_source){.at = src, .fd = -1});
    assert_int_equal(w->layout, LAYOUT_PACKED);
}

static float *make_output(size_t n)
{
    float *y = malloc((n + GUARD) * sizeof *y);
    for (size_t i = 0; i < n + GUARD; i++)
        y[i] = f32_from_bits(POISON);
    return y;
}

static void check_guard(const float *y, size_t n)
{
    for (size_t i = n; i < n + GUARD; i++)
        assert_int_equal(f32_to_bits(y[i]), POISON);
}

struct shape {
    const char *name;
    int rows, out, in;
    bool bias, add;
};

static const struct mode {
    const char *name;
    enum precision precision;
    bool fine;
    double limit; /* of what rounding activations changes, when it does, in units of `size` */
} modes[] = {
    {"fast", PRECISION_FAST, false, 2e-2},
    {"fine", PRECISION_FAST, true, 1e-4},
    {"exact", PRECISION_EXACT, false, 1e-6},
};

/* Whether bf16 weights meet activations in bf16. */
static bool rounds_to_bf16(const char *isa, enum dtype dtype, const struct mode *mode)
{
    return strcmp(isa, "avx512bf16") == 0 && dtype == DT_BF16 &&
           mode->precision == PRECISION_FAST && !mode->fine;
}

struct product { /* operands in floats, and float64 results */
    float *w, *x, *bias, *add;
    double *want, *size; /* size: sum of magnitudes, the unit of rounding errors */
};

static float rounded(const struct act_block *blocks, int i)
{
    return blocks[i / 32].d * (float)blocks[i / 32].q[i % 32];
}

static void round_to_bf16(float *x, int n)
{
    for (int i = 0; i < n; i++)
        x[i] = f32_from_bf16(f32_to_bf16(x[i]));
}

/* The activations that fast precision multiplies, from the rounded blocks. */
static void round_activations(float *x, int rows, int cols, bool fine)
{
    struct act_block *high = malloc((size_t)(cols / 32) * sizeof *high);
    struct act_block *low = malloc((size_t)(cols / 32) * sizeof *low);
    float *rest = malloc((size_t)cols * sizeof *rest);
    for (int r = 0; r < rows; r++) {
        float *row = x + (size_t)r * (size_t)cols;
        act_rounding_scalar.quantize(row, cols, high);
        for (int i = 0; i < cols; i++)
            rest[i] = row[i] - rounded(high, i);
        act_rounding_scalar.quantize(rest, cols, low);
        for (int i = 0; i < cols; i++)
            row[i] = rounded(high, i) + (fine ? rounded(low, i) : 0);
    }
    free(high);
    free(low);
    free(rest);
}

static void reference(const struct shape *s, const struct product *p)
{
    for (int r = 0; r < s->rows; r++)
        for (int o = 0; o < s->out; o++) {
            double sum = 0, size = 0;
            const float *x = p->x + (size_t)r * (size_t)s->in,
                        *w = p->w + (size_t)o * (size_t)s->in;
            for (int i = 0; i < s->in; i++) {
                sum += (double)x[i] * (double)w[i];
                size += fabs((double)x[i] * (double)w[i]);
            }
            size_t at = (size_t)r * (size_t)s->out + (size_t)o;
            if (s->bias)
                sum += (double)p->bias[o], size += fabs((double)p->bias[o]);
            if (s->add)
                sum += (double)p->add[at], size += fabs((double)p->add[at]);
            p->want[at] = sum;
            p->size[at] = size;
        }
}

static void check_error(const struct shape *s, const struct product *p, const float *y,
                        double limit, const char *what)
{
    for (size_t i = 0, n = (size_t)s->rows * (size_t)s->out; i < n; i++) {
        double error = fabs((double)y[i] - p->want[i]);
        if (!(error <= limit * p->size[i] + 1e-12))
            fail_msg("%s, %s: row %zu output %zu: got %.9g, want %.9g (error %.3g of %.3g)", what,
                     s->name, i / (size_t)s->out, i % (size_t)s->out, (double)y[i], p->want[i],
                     error, p->size[i]);
    }
}

static void multiply(struct rig *r, const struct shape *s, const struct product *p,
                     const struct tensor *w, bool fine, int first, int rows, float *y)
{
    const float *add = s->add ? p->add + (size_t)first * (size_t)s->out : NULL;
    cpu_matmul(r->dev, &(struct matmul_args){
                           .x = p->x + (size_t)first * (size_t)s->in,
                           .rows = rows,
                           .fine = fine,
                           .n_outs = 1,
                           .out = {{.y = y, .w = w, .bias = s->bias ? p->bias : NULL, .add = add}},
                       });
}

/* The rows in batches of other sizes give the same bits. */
static void check_batches(struct rig *r, const struct shape *s, const struct product *p,
                          const struct tensor *w, bool fine, const float *y)
{
    static const int sizes[] = {1, 2, 3, 4, 5, 7, 33};
    size_t width = (size_t)s->out;
    float *part = make_output((size_t)s->rows * width);
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        if (sizes[k] >= s->rows && s->rows > 1)
            break;
        for (int first = 0; first < s->rows; first += sizes[k]) {
            int n = s->rows - first < sizes[k] ? s->rows - first : sizes[k];
            if (first > 12 && sizes[k] < 5 && s->rows - first > 8)
                continue; /* the first rows, the last ones, and all of the larger batches */
            multiply(r, s, p, w, fine, first, n, part);
            assert_memory_equal(part, y + (size_t)first * width, (size_t)n * width * sizeof *y);
        }
    }
    free(part);
}

static struct product make_product(enum dtype dtype, const struct shape *s, const uint8_t *src)
{
    size_t n_out = (size_t)s->rows * (size_t)s->out, row_bytes;
    struct product p = {.x = make_activations(s->rows, s->in)};
    assert_true(tensor_file_bytes(dtype, 1, s->in, &row_bytes));
    p.w = malloc((size_t)s->out * (size_t)s->in * sizeof *p.w);
    for (int o = 0; o < s->out; o++)
        dequantize_row(dtype, src + (size_t)o * row_bytes, p.w + (size_t)o * (size_t)s->in, s->in);
    p.bias = malloc((size_t)s->out * sizeof *p.bias);
    for (int i = 0; i < s->out; i++)
        p.bias[i] = random_float();
    p.add = malloc(n_out * sizeof *p.add);
    for (size_t i = 0; i < n_out; i++)
        p.add[i] = random_float();
    p.want = malloc(n_out * sizeof *p.want);
    p.size = malloc(n_out * sizeof *p.size);
    return p;
}

static void free_product(struct product *p)
{
    free(p->w);
    free(p->x);
    free(p->bias);
    free(p->add);
    free(p->want);
    free(p->size);
}

/* One shape of one type: every mode, one thread and two. */
static void check_shape(const char *isa, enum dtype dtype, const struct shape *s)
{
    char what[64];
    uint8_t *src = make_weights(dtype, s->out, s->in);
    struct product p = make_product(dtype, s, src);
    size_t n = (size_t)s->rows * (size_t)s->out;
    float *exact_x = malloc((size_t)s->rows * (size_t)s->in * sizeof *exact_x);
    memcpy(exact_x, p.x, (size_t)s->rows * (size_t)s->in * sizeof *exact_x);
    for (size_t k = 0; k < sizeof modes / sizeof *modes; k++) {
        const struct mode *mode = &modes[k];
        float *y[2] = {make_output(n), make_output(n)};
        bool rounded = (mode->precision == PRECISION_FAST && dtype_traits[dtype].block > 1) ||
                       rounds_to_bf16(isa, dtype, mode);
        for (int threads = 1; threads <= 2; threads++) {
            struct rig r;
            struct tensor w;
            assert_true(rig_open(&r, isa, mode->precision, threads));
            put_weight(&r, &w, dtype, s->out, s->in, src);
            multiply(&r, s, &p, &w, mode->fine, 0, s->rows, y[threads - 1]);
            check_guard(y[threads - 1], n);
            check_batches(&r, s, &p, &w, mode->fine, y[0]);
            free(w.data);
            rig_close(&r);
        }
        assert_memory_equal(y[0], y[1], n * sizeof(float));
        snprintf(what, sizeof what, "%s %s %s", isa, dtype_traits[dtype].name, mode->name);
        reference(s, &p);
        check_error(s, &p, y[0], rounded ? mode->limit : 1e-6, what);
        if (rounded) {
            if (dtype == DT_BF16)
                round_to_bf16(p.x, s->rows * s->in);
            else
                round_activations(p.x, s->rows, s->in, mode->fine);
            reference(s, &p);
            check_error(s, &p, y[0], 1e-6, what);
            memcpy(p.x, exact_x, (size_t)s->rows * (size_t)s->in * sizeof *exact_x);
        }
        free(y[0]);
        free(y[1]);
    }
    free(exact_x);
    free_product(&p);
    free(src);
}

static void check_shapes(const char *isa)
{
    static const struct shape shapes[] = {
        {"one output", 1, 1, 256, false, false},
        {"one row", 1, 40, 512, true, true},
        {"odd outputs", 2, 13, 256, true, false},
        {"three rows", 3, 17, 256, false, true},
        {"five rows", 5, 31, 768, true, true},
        {"longer than a decoded tile", 9, 24, 3584, false, false},
        {"many rows", 130, 24, 512, true, true},
    };
    static const struct shape narrow[] = {
        {"one block", 6, 9, 32, true, true},
        {"18 blocks", 1, 192, 576, false, false},
        {"18 blocks, many rows", 70, 20, 576, false, true},
    };
    static const struct shape odd[] = {
        {"one column", 5, 9, 1, true, true},
        {"odd columns", 1, 12, 259, false, false},
        {"odd columns, many rows", 66, 12, 259, false, true},
    };
    struct rig r;
    if (!rig_open(&r, isa, PRECISION_FAST, 1)) {
        print_message("this processor lacks %s: not tested\n", isa);
        skip();
    }
    rig_close(&r);
    for (int dtype = 0; dtype < DT_N; dtype++) {
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
            check_shape(isa, (enum dtype)dtype, &shapes[i]);
        for (size_t i = 0; i < 3; i++) {
            if (dtype_traits[dtype].block <= 32)
                check_shape(isa, (enum dtype)dtype, &narrow[i]);
            if (dtype_traits[dtype].block == 1)
                check_shape(isa, (enum dtype)dtype, &odd[i]);
        }
    }
}

static void scalar_is_right_and_batch_invariant(void **state)
{
    (void)state;
    check_shapes("scalar");
}

static void avx2_is_right_and_batch_invariant(void **state)
{
    (void)state;
    check_shapes("avx2");
}

static void avx512_is_right_and_batch_invariant(void **state)
{
    (void)state;
    check_shapes("avx512");
}

static void avx512vnni_is_right_and_batch_invariant(void **state)
{
    (void)state;
    check_shapes("avx512vnni");
}

static void avx512bf16_is_right_and_batch_invariant(void **state)
{
    (void)state;
    check_shapes("avx512bf16");
}

static void amx_is_right_and_batch_invariant(void **state)
{
    (void)state;
    check_shapes("amx");
}

/* So a machine may lose AMX, and a processor have none, and answers stay. */
static void amx_gives_the_bits_of_avx512vnni(void **state)
{
    (void)state;
    static const char *const isas[] = {"avx512vnni", "amx"};
    const struct shape s = {"both", 37, 40, 768, true, true};
    const size_t n = (size_t)(s.rows * s.out);
    for (int k = 0; k < 2; k++) {
        struct rig r;
        if (!rig_open(&r, isas[k], PRECISION_FAST, 1))
            skip();
        rig_close(&r);
    }
    for (int dtype = DT_Q4_0; dtype < DT_N; dtype++) {
        uint8_t *src = make_weights((enum dtype)dtype, s.out, s.in);
        struct product p = make_product((enum dtype)dtype, &s, src);
        float *y[2] = {make_output(n), make_output(n)};
        for (int k = 0; k < 2; k++) {
            struct rig r;
            struct tensor w;
            assert_true(rig_open(&r, isas[k], PRECISION_FAST, 1));
            put_weight(&r, &w, (enum dtype)dtype, s.out, s.in, src);
            multiply(&r, &s, &p, &w, dtype % 2, 0, s.rows, y[k]);
            free(w.data);
            rig_close(&r);
        }
        assert_memory_equal(y[0], y[1], n * sizeof **y);
        free(y[0]);
        free(y[1]);
        free(src);
        free_product(&p);
    }
}

/* Every q at an end of its range and every activation at plus or minus its largest: sums of 8- and
 * 16-bit products are as large as they can be, and must not saturate. */
static void check_extremes(const char *isa, enum dtype dtype, uint8_t fill, bool alternate)
{
    const struct shape s = {"extremes", 7, 16, 256, false, false};
    size_t n_bytes;
    char what[64];
    assert_true(tensor_file_bytes(dtype, s.out, s.in, &n_bytes));
    uint8_t *src = malloc(n_bytes);
    memset(src, fill, n_bytes);
    for (size_t at = 0; at < n_bytes; at += (size_t)dtype_traits[dtype].block_bytes)
        for (int k = 0; k < 2 && half_at[dtype][k] >= 0; k++)
            memcpy(src + at + half_at[dtype][k], &(uint16_t){0x3c00}, 2);
    struct product p = make_product(dtype, &s, src);
    for (int i = 0; i < s.rows * s.in; i++)
        p.x[i] = i / s.in % 2 || (alternate && i % 2) ? -2.5f : 2.5f;
    reference(&s, &p);
    float *y = make_output((size_t)(s.rows * s.out));
    for (int rows = 1; rows <= s.rows; rows += s.rows - 1) {
        struct rig r;
        struct tensor w;
        assert_true(rig_open(&r, isa, PRECISION_FAST, 1));
        put_weight(&r, &w, dtype, s.out, s.in, src);
        for (int first = 0; first < s.rows; first += rows)
            multiply(&r, &s, &p, &w, false, first, rows, y + first * s.out);
        snprintf(what, sizeof what, "%s %s fill %02x", isa, dtype_traits[dtype].name, fill);
        check_error(&s, &p, y, 1e-6, what);
        free(w.data);
        rig_close(&r);
    }
    free(y);
    free(src);
    free_product(&p);
}

static void the_largest_sums_do_not_saturate(void **state)
{
    (void)state;
    static const uint8_t fills[] = {0xff, 0x80, 0x7f, 0x81};
    for (size_t i = 0; i < sizeof isa_words / sizeof *isa_words; i++) {
        struct rig r;
        if (!rig_open(&r, isa_words[i], PRECISION_FAST, 1))
            continue;
        rig_close(&r);
        for (int dtype = DT_Q4_0; dtype < DT_N; dtype++)
            for (size_t k = 0; k < 2 * sizeof fills; k++)
                check_extremes(isa_words[i], (enum dtype)dtype, fills[k / 2], k % 2);
    }
}

static void a_bad_activation_spoils_its_row_and_no_other(void **state)
{
    (void)state;
    static const float bad[] = {NAN, -NAN, INFINITY, -INFINITY};
    const struct shape s = {"bad", 6, 20, 256, false, false};
    for (int k = 0; k < 4 * ISA_N * DT_N * 3; k++) {
        const struct mode *mode = &modes[k / (4 * ISA_N) / DT_N];
        struct rig r;
        struct tensor w;
        enum dtype dtype = (enum dtype)(k / (4 * ISA_N) % DT_N);
        if (!rig_open(&r, isa_words[k % ISA_N], mode->precision, 1))
            continue;
        uint8_t *src = make_weights(dtype, s.out, s.in);
        struct product p = make_product(dtype, &s, src);
        put_weight(&r, &w, dtype, s.out, s.in, src);
        p.x[2 * s.in + 77] = bad[k / ISA_N % 4];
        float *y = make_output((size_t)(s.rows * s.out));
        multiply(&r, &s, &p, &w, mode->fine, 0, s.rows, y);
        for (int i = 0; i < s.rows * s.out; i++)
            assert_int_equal(isfinite(y[i]) != 0, i / s.out != 2);
        free(y);
        free(w.data);
        free(src);
        free_product(&p);
        rig_close(&r);
    }
}

/* Several weights of different types and sizes that share x, one adding to what it overwrites. */
static void several_outputs_are_as_each_alone(void **state)
{
    (void)state;
    static const enum dtype dtypes[3] = {DT_Q4_1, DT_F16, DT_Q6_K};
    static const int outs[3] = {40, 7, 16};
    enum { ROWS = 37, IN = 512 };
    for (int k = 0; k < 4 * ISA_N; k++) {
        struct rig r;
        if (!rig_open(&r, isa_words[k / 4], (enum precision)(k & 1), 1 + (k >> 1 & 1)))
            continue;
        struct tensor w[3];
        float *alone[3], *together[3], *x = make_activations(ROWS, IN);
        struct matmul_args all = {.x = x, .rows = ROWS, .n_outs = 3};
        for (int i = 0; i < 3; i++) {
            uint8_t *src = make_weights(dtypes[i], outs[i], IN);
            size_t n = (size_t)(ROWS * outs[i]);
            put_weight(&r, &w[i], dtypes[i], outs[i], IN, src);
            alone[i] = make_output(n);
            together[i] = make_output(n);
            for (size_t j = 0; j < n; j++)
                alone[i][j] = together[i][j] = random_float();
            struct matmul_args one = {.x = x, .rows = ROWS, .n_outs = 1};
            one.out[0] = (struct matmul_out){.y = alone[i], .w = &w[i], .add = alone[i]};
            cpu_matmul(r.dev, &one);
            all.out[i] = (struct matmul_out){.y = together[i], .w = &w[i], .add = together[i]};
            free(src);
        }
        cpu_matmul(r.dev, &all);
        for (int i = 0; i < 3; i++) {
            size_t n = (size_t)(ROWS * outs[i]);
            assert_memory_equal(alone[i], together[i], (n + GUARD) * sizeof(float));
            free(alone[i]);
            free(together[i]);
            free(w[i].data);
        }
        free(x);
        rig_close(&r);
    }
}

static void rounding_is_within_half_a_step_and_the_same_everywhere(void **state)
{
    (void)state;
    enum { COLS = 3200 };
    struct act_block a[COLS / 32], b[COLS / 32];
    struct status st = {0};
    struct device *dev = cpu_backend.open(&(struct device_options){.n_threads = 1}, &st);
    assert_non_null(dev);
    bool has_avx2 = strcmp(cpu_backend.variant(dev), "scalar") != 0;
    cpu_backend.ops->close(dev);
    float *x = make_activations(1, COLS);
    x[100] = 1e30f;
    x[200] = -0x1p-140f;
    x[300] = 3e38f;
    memset(a, 0x55, sizeof a);
    memset(b, 0xaa, sizeof b);
    act_rounding_scalar.quantize(x, COLS, a);
    for (int i = 0; i < COLS; i++) {
        const struct act_block *block = &a[i / 32];
        double error = fabs((double)x[i] - (double)block->d * block->q[i % 32]);
        assert_true(error <= 0.5001 * (double)block->d + (double)ACT_TINY);
        assert_true(block->q[i % 32] >= -127);
    }
    if (has_avx2) {
        act_rounding_avx2.quantize(x, COLS, b);
        assert_memory_equal(a, b, sizeof a);
    }
    free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scalar_is_right_and_batch_invariant),
        cmocka_unit_test(avx2_is_right_and_batch_invariant),
        cmocka_unit_test(avx512_is_right_and_batch_invariant),
        cmocka_unit_test(avx512vnni_is_right_and_batch_invariant),
        cmocka_unit_test(avx512bf16_is_right_and_batch_invariant),
        cmocka_unit_test(amx_is_right_and_batch_invariant),
        cmocka_unit_test(amx_gives_the_bits_of_avx512vnni),
        cmocka_unit_test(the_largest_sums_do_not_saturate),
        cmocka_unit_test(a_bad_activation_spoils_its_row_and_no_other),
        cmocka_unit_test(several_outputs_are_as_each_alone),
        cmocka_unit_test(rounding_is_within_half_a_step_and_the_same_everywhere),
    };
    rng = (uint64_t)time(NULL) * 2654435761u + 88172645463325252u;
    print_message("seed %llu\n", (unsigned long long)rng);
    return cmocka_run_group_tests_name("matmul", tests, NULL, NULL);
}
