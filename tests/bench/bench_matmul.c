/* bench_matmul.c - how near matmul comes to the memory (one row) and to the multipliers (many).
 *
 *     bench_matmul [threads [isa [type]]]
 *
 * For each storage type and scheme: GB/s of packed weights with one row of activations, beside the
 * read bandwidth of the same threads in the same run, and the weights they are, which compares
 * types; GFLOP/s with 256 rows, and how many rows of 768 x 1536 that are a second.  Then the
 * matmuls of one token and of a prompt of 512 with the shapes of a small model (30 layers, hidden
 * 576, q4_1, head q8_0).  Each figure is the best of several repeats, interleaved with the others.
 */
#include "kernels/cpu/cpu_int.h"
#include "kernels/half.h"

#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    REPEATS = 7,
    ROWS = 512,
    TYPE_ROWS = 256,
    TYPE_OUT = 768,
    IN = 1536,
    LAYERS = 30,
    HIDDEN = 576,
    FFN = 1536,
    KV = 192,
    VOCAB = 49152,
    READ_PARTS = 64
};

static const size_t GEMV_BYTES = (size_t)96 << 20, READ_BYTES = (size_t)128 << 20;

struct bench {
    struct device *dev;
    float *x, *y;
    uint64_t *read; /* READ_BYTES */
    uint64_t read_sum[READ_PARTS];
};

static double seconds(void)
{
    return (double)clock_now(&clock_real) * 1e-9;
}

static void *take(struct bench *b, size_t n)
{
    struct status st = {0};
    void *p = cpu_backend.ops->mem_take(b->dev, n, &st);
    if (!p) {
        fprintf(stderr, "%s\n", st.msg);
        exit(1);
    }
    return p;
}

static uint32_t random_u32(void)
{
    static uint64_t s = 88172645463325252u;
    s ^= s << 13;
    s ^= s >> 7;
    s ^= s << 17;
    return (uint32_t)(s >> 32);
}

/* One random weight.  Scales are whatever finite f16 falls out, which costs no time; plain types
 * get an exponent near 0, for some processors take a hundred cycles for a subnormal number. */
static struct tensor make_weight(struct bench *b, enum dtype dtype, int64_t rows, int64_t cols)
{
    struct tensor w = {.dtype = dtype, .rows = rows, .cols = cols};
    const uint32_t exponents = dtype_traits[dtype].block == 1 ? 0x38003800 : 0;
    size_t n_bytes;
    if (!tensor_file_bytes(dtype, rows, cols, &n_bytes))
        exit(1);
    uint8_t *src = malloc(n_bytes + 4);
    for (size_t i = 0; i < n_bytes; i += 4) {
        /* no exponent of ones in any of its 16 bits */
        uint32_t v = (random_u32() & 0x3b3f3b3f) | exponents;
        memcpy(src + i, &v, 4);
    }
    w.data = take(b, cpu_weight_bytes(b->dev, &w));
    cpu_weight_put(b->dev, &w, &(struct weight_source){.at = src, .fd = -1});
    free(src);
    return w;
}

static const struct named_scheme {
    const char *name;
    struct scheme s;
} schemes[] = {
    {"int4:32", {.codes = DT_INT4, .group = 32, .scale = DT_F16}},
    {"int4:128", {.codes = DT_INT4, .group = 128, .scale = DT_F16}},
    {"int4:128:zero", {.codes = DT_INT4, .group = 128, .scale = DT_F16, .has_zero = true}},
    {"int4:128:ordered", {.codes = DT_INT4, .group = 128, .scale = DT_F16, .ordered = true}},
    {"int8:128", {.codes = DT_INT8, .group = 128, .scale = DT_F16}},
    {"int8:128:zero", {.codes = DT_INT8, .group = 128, .scale = DT_F16, .has_zero = true}},
    {"w8a16", {.codes = DT_INT8}},
    {"w8a8", {.codes = DT_INT8, .act = ACTS_INT8}},
    {"int8:outliers", {.codes = DT_INT8, .act = ACTS_OUTLIERS, .threshold = 0.999f}},
    {"nf4", {.codes = DT_NF4, .group = 64}},
    {"fp4", {.codes = DT_FP4, .group = 64}},
    {"fp8", {.codes = DT_FP8, .act = ACTS_FP8}},
    {"fp8:128", {.codes = DT_FP8, .group = 128}},
    {"int4 wide", {.codes = DT_INT4, .group = 128, .scale = DT_F16, .act = ACTS_FP8}},
    {"int8 wide", {.codes = DT_INT8, .group = 128, .scale = DT_F16, .act = ACTS_FP8}},
};

/* Random codes; no E4M3 among them is NaN. */
static void make_rows(const void *ctx, int64_t first, int64_t n, const struct scheme_rows *to)
{
    const struct tensor *w = ctx;
    const size_t n_codes = (size_t)(n * w->cols);
    const size_t n_scales = (size_t)(n * scheme_groups(w->scheme, w->cols));
    const uint8_t mask = dtype_traits[w->dtype].block == 2 ? 15 : 0xf7;
    uint64_t s = 88172645463325252u + (uint64_t)first;
    for (size_t i = 0; i < n_codes; i++) {
        s = s * 6364136223846793005u + 1442695040888963407u;
        to->codes[i] = (uint8_t)(s >> 56) & mask;
    }
    for (size_t i = 0; i < n_scales; i++) {
        to->scales[i] = 0.25f;
        if (to->zeros)
            to->zeros[i] = 7;
    }
}

static struct tensor make_scheme_weight(struct bench *b, const struct scheme *s, int64_t rows,
                                        int64_t cols)
{
    struct tensor w = {.dtype = s->codes, .rows = rows, .cols = cols, .scheme = s};
    int32_t *order = malloc((size_t)cols * sizeof *order);
    for (int32_t i = 0; i < cols; i++) /* 769 is prime: a permutation of most widths */
        order[i] = (int32_t)((int64_t)i * 769 % cols);
    w.data = take(b, cpu_weight_bytes(b->dev, &w));
    cpu_weight_put(b->dev, &w,
                   &(struct weight_source){.fd = -1, .rows = make_rows, .ctx = &w, .order = order});
    free(order);
    return w;
}

static void read_part(void *ctx, int part, int thread)
{
    struct bench *b = ctx;
    (void)thread;
    size_t n = READ_BYTES / sizeof *b->read / READ_PARTS;
    const uint64_t *p = b->read + (size_t)part * n;
    uint64_t sum[8] = {0};
    for (size_t i = 0; i < n; i += 8)
        for (int k = 0; k < 8; k++)
            sum[k] += p[i + (size_t)k];
    for (int k = 0; k < 8; k++)
        b->read_sum[part] += sum[k];
}

static double time_read(struct bench *b)
{
    double start = seconds();
    cpu_parallel(b->dev, read_part, b, READ_PARTS);
    return (double)READ_BYTES / (seconds() - start);
}

static double time_matmul(struct bench *b, const struct tensor *w, int rows)
{
    double start = seconds();
    cpu_matmul(b->dev, &(struct matmul_args){
                           .x = b->x, .rows = rows, .n_outs = 1, .out = {{.y = b->y, .w = w}}});
    return seconds() - start;
}

static double least(double a, double b)
{
    return a < b ? a : b;
}

static void bench_weights(struct bench *b, const char *name, const struct tensor *big,
                          const struct tensor *small)
{
    double one = 1e9, many = 1e9, read = 0;
    for (int i = 0; i < REPEATS; i++) {
        double r = time_read(b);
        read = r > read ? r : read;
        one = least(one, time_matmul(b, big, 1));
        many = least(many, time_matmul(b, small, TYPE_ROWS));
    }
    double bytes = (double)cpu_weight_bytes(b->dev, big);
    double weights = (double)big->rows * IN, flops = 2.0 * TYPE_ROWS * IN * TYPE_OUT;
    printf("%-16s  %6.2f GB/s (%3.0f%% of %.2f)  %6.2f G weights/s  %7.1f GFLOP/s  %8.0f rows/s\n",
           name, bytes / one * 1e-9, 100 * bytes / one / read, read * 1e-9, weights / one * 1e-9,
           flops / many * 1e-9, TYPE_ROWS / many);
    fflush(stdout);
}

static void bench_type(struct bench *b, enum dtype dtype)
{
    size_t row_bytes;
    if (!tensor_file_bytes(dtype, 1, IN, &row_bytes))
        exit(1);
    struct tensor big = make_weight(b, dtype, (int64_t)(GEMV_BYTES / row_bytes), IN);
    struct tensor small = make_weight(b, dtype, TYPE_OUT, IN);
    bench_weights(b, dtype_traits[dtype].name, &big, &small);
}

static void bench_scheme(struct bench *b, const struct named_scheme *n)
{
    const int64_t rows = (int64_t)(GEMV_BYTES / (scheme_bytes(&n->s, 1024, IN) / 1024)) / 16 * 16;
    struct tensor big = make_scheme_weight(b, &n->s, rows, IN);
    struct tensor small = make_scheme_weight(b, &n->s, TYPE_OUT, IN);
    bench_weights(b, n->name, &big, &small);
}

struct layer {
    struct tensor q, k, v, o, gate, up, down;
};

static void run_layer(struct bench *b, const struct layer *l, int rows)
{
    float *y2 = b->y + ROWS * FFN, *y3 = y2 + ROWS * FFN;
    cpu_matmul(b->dev,
               &(struct matmul_args){
                   .x = b->x,
                   .rows = rows,
                   .n_outs = 3,
                   .out = {{.y = b->y, .w = &l->q}, {.y = y2, .w = &l->k}, {.y = y3, .w = &l->v}}});
    cpu_matmul(b->dev, &(struct matmul_args){.x = b->x,
                                             .rows = rows,
                                             .n_outs = 1,
                                             .out = {{.y = b->y, .w = &l->o, .add = b->y}}});
    cpu_matmul(b->dev,
               &(struct matmul_args){.x = b->x,
                                     .rows = rows,
                                     .n_outs = 2,
                                     .out = {{.y = b->y, .w = &l->gate}, {.y = y2, .w = &l->up}}});
    cpu_matmul(b->dev, &(struct matmul_args){.x = b->x,
                                             .rows = rows,
                                             .n_outs = 1,
                                             .out = {{.y = b->y, .w = &l->down, .add = b->y}}});
}

static double time_model(struct bench *b, const struct layer *l, const struct tensor *head,
                         int rows)
{
    double start = seconds();
    for (int i = 0; i < LAYERS; i++)
        run_layer(b, &l[i], rows);
    cpu_matmul(b->dev, &(struct matmul_args){
                           .x = b->x, .rows = 1, .n_outs = 1, .out = {{.y = b->y, .w = head}}});
    return seconds() - start;
}

static void bench_model(struct bench *b)
{
    struct layer l[LAYERS];
    double start = seconds();
    for (int i = 0; i < LAYERS; i++)
        l[i] = (struct layer){
            .q = make_weight(b, DT_Q4_1, HIDDEN, HIDDEN),
            .k = make_weight(b, DT_Q4_1, KV, HIDDEN),
            .v = make_weight(b, DT_Q4_1, KV, HIDDEN),
            .o = make_weight(b, DT_Q4_1, HIDDEN, HIDDEN),
            .gate = make_weight(b, DT_Q4_1, FFN, HIDDEN),
            .up = make_weight(b, DT_Q4_1, FFN, HIDDEN),
            .down = make_weight(b, DT_Q4_1, HIDDEN, FFN),
        };
    struct tensor head = make_weight(b, DT_Q8_0, VOCAB, HIDDEN);
    printf("model made in %.0f ms\n", (seconds() - start) * 1e3);
    double token = 1e9, four = 1e9, sixteen = 1e9, prompt = 1e9, read = 0;
    for (int i = 0; i < REPEATS; i++) {
        double r = time_read(b);
        read = r > read ? r : read;
        for (int k = 0; k < 5; k++)
            token = least(token, time_model(b, l, &head, 1));
        four = least(four, time_model(b, l, &head, 4));
        sixteen = least(sixteen, time_model(b, l, &head, 16));
        prompt = least(prompt, time_model(b, l, &head, ROWS));
    }
    double macs = (double)LAYERS * HIDDEN * (2 * HIDDEN + 2 * KV + 3 * FFN);
    double bytes = macs * 5 / 8 + (double)VOCAB * HIDDEN * 34 / 32;
    printf("1 token %.3f ms (%.2f GB/s, %.0f%% of %.2f)  4 rows %.3f ms  16 rows %.3f ms\n"
           "prompt of 512 %.1f ms (%.1f GFLOP/s)\n",
           token * 1e3, bytes / token * 1e-9, 100 * bytes / token / read, read * 1e-9, four * 1e3,
           sixteen * 1e3, prompt * 1e3, 2 * macs * ROWS / prompt * 1e-9);
}

static bool is_yardstick(enum dtype dtype)
{
    return dtype == DT_BF16 || dtype == DT_Q4_0 || dtype == DT_Q8_0;
}

int main(int argc, char **argv)
{
    struct status st = {0};
    struct bench b = {0};
    struct device_options opts = {.n_threads = argc > 1 ? (int)strtol(argv[1], NULL, 10) : 0,
                                  .isa_max = argc > 2 ? argv[2] : NULL};
    b.dev = cpu_backend.open(&opts, &st);
    if (!b.dev) {
        fprintf(stderr, "%s\n", st.msg);
        return 1;
    }
    size_t scratch = cpu_matmul_scratch_bytes(b.dev, ROWS, IN);
    b.dev->scratch = take(&b, scratch);
    b.dev->scratch_bytes = scratch;
    b.x = take(&b, (size_t)ROWS * IN * sizeof *b.x);
    b.y = take(&b, (GEMV_BYTES / 8 + 3 * (size_t)ROWS * FFN) * sizeof *b.y);
    b.read = take(&b, READ_BYTES);
    memset(b.read, 1, READ_BYTES);
    for (int i = 0; i < ROWS * IN; i++)
        b.x[i] = (float)random_u32() * 0x1p-31f - 1;
    printf("%s, %d threads\n", cpu_backend.variant(b.dev), b.dev->n_threads);
    for (int i = 0; i < DT_N; i++)
        if (argc <= 3 || strcmp(argv[3], dtype_traits[i].name) == 0 ||
            (strcmp(argv[3], "schemes") == 0 && is_yardstick((enum dtype)i)))
            bench_type(&b, (enum dtype)i);
    for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++)
        if (argc <= 3 || strcmp(argv[3], schemes[i].name) == 0 || strcmp(argv[3], "schemes") == 0)
            bench_scheme(&b, &schemes[i]);
    if (argc <= 3 || strcmp(argv[3], "model") == 0)
        bench_model(&b);
    cpu_backend.ops->close(b.dev);
    return 0;
}
