/* bench_scheme.cu - microseconds of products with quantized weights, beside cublasLt's in bf16.
 *
 * As bench_matmul.cu: weights rotate over more than the L2 cache, launches run in one graph.  With
 * `ways` the cuts that scheme_choose.h knows are compared.  Built by pack.sh, where cublasLt is.
 *
 *     bench_scheme [ways] [rows ...] */
#include "tests/gpu/lt_bench.cuh"

extern "C" {
#include "kernels/cuda/scheme_choose.h"
#include "kernels/cuda/scheme_layout.h"
}
#include "tests/gpu/units_bench.cuh"

static int forced_k, forced_rows; /* ways; 0 = as chosen */

/* The linker gives the kernels this one in the place of scheme_choose. */
extern "C" void __real_scheme_choose(struct scheme_choice *c, const struct scheme_shape *s);
extern "C" void __wrap_scheme_choose(struct scheme_choice *c, const struct scheme_shape *s)
{
    if (!forced_k || !scheme_choose_ways(c, s, forced_k, forced_rows))
        __real_scheme_choose(c, s);
}

namespace {

enum { ROWS_MAX = 4096 };

const struct layer layers[] = {
    {"8B qkv", 4096, 6144, false, false, true, false},
    {"8B out", 4096, 4096, false, true, false, false},
    {"8B gate|up", 4096, 14336, true, false, true, false},
    {"8B down", 14336, 4096, false, true, false, false},
    {"8192^2", 8192, 8192, false, false, false, false},
};

const struct form {
    const char *name;
    struct scheme scheme;
} forms[] = {
    {"int4", {.codes = DT_INT4, .group = 128, .scale = DT_F16}},
    {"int8", {.codes = DT_INT8}},
    {"nf4", {.codes = DT_NF4, .group = 64}},
};

double our_us(struct bench *b, const struct layer *l, const struct scheme *s, int rows,
              uint8_t *const *w, int n_w, int launches)
{
    struct norm norm = {NORM_RMS, b->norm_w, nullptr, 1e-5f};
    struct product p = {};
    p.x = b->x;
    p.rows = rows;
    p.in = l->in;
    p.n = p.y_stride = l->n;
    p.scheme = s;
    p.act = l->gated ? ACT_SILU : ACT_NONE;
    p.y = b->y;
    p.add = l->add ? b->add : nullptr;
    p.norm = l->norm ? &norm : nullptr;
    p.w = w[0];
    p.w_up = l->gated ? w[0] : nullptr;
    if (l->norm && !matmul_fuses_norm(&b->d, &p))
        p.norm = nullptr; /* the norm kernel's time is not the product's */
    return graph_us(b->d.stream, launches, [&](int i) {
        p.w = w[i % n_w];
        p.w_up = l->gated ? w[i % n_w] + scheme_units_bytes(s, l->n, l->in) : nullptr;
        matmul_product(&b->d, &p);
    });
}

bool is_possible(const struct layer *l, const struct scheme *s, int rows, int k, int by_rows,
                 int sms)
{
    struct scheme_layout lay;
    struct scheme_choice c;
    scheme_layout(&lay, s, l->in);
    struct scheme_shape shape = {};
    shape.rows = rows;
    shape.in = l->in;
    shape.n = l->n;
    shape.gated = l->gated;
    shape.bits = lay.bits;
    shape.chains = lay.chains;
    shape.has_book = lay.kind == KIND_CODEBOOK;
    shape.is_rare = !matmul_scheme_pairs(s, l->in);
    shape.tile_bytes = lay.tile_bytes;
    shape.sm_count = sms;
    return scheme_choose_ways(&c, &shape, k, by_rows);
}

void compare_ways(struct bench *b, const struct layer *l, const struct form *f, int rows,
                  uint8_t *const *w, int n_w, int launches)
{
    static const int ways[][2] = {{8, 1}, {4, 2}, {1, 8}, {4, 1}, {2, 2},
                                  {1, 4}, {2, 1}, {1, 2}, {1, 1}};
    printf("   ");
    for (const auto &k : ways) {
        if (!is_possible(l, &f->scheme, rows, k[0], k[1], b->d.sm_count))
            continue;
        forced_k = k[0];
        forced_rows = k[1];
        printf(" %dx%d %.2f", k[0], k[1], our_us(b, l, &f->scheme, rows, w, n_w, launches));
    }
    forced_k = 0;
    printf("\n");
}

void bench_form(struct bench *b, const struct layer *l, const struct form *f, const int *rows,
                int n_rows, const double *lt, bool ways)
{
    const size_t bytes = scheme_units_bytes(&f->scheme, l->gated ? 2 * l->n : l->n, l->in);
    int n_w = (int)(L2_TIMES / bytes) + 1;
    n_w = n_w > ROTATE_MAX ? ROTATE_MAX : n_w;
    uint8_t *w[ROTATE_MAX];
    for (int i = 0; i < n_w; i++)
        w[i] = random_units(&f->scheme, l->n, l->in, l->gated ? 2 : 1);
    const int launches = n_w > 40 ? n_w : 40;
    printf("%-5s %-11s", f->name, l->name);
    for (int i = 0; i < n_rows; i++) {
        const double us =
            our_us(b, l, &f->scheme, rows[i], w, n_w, rows[i] <= 256 ? launches : 8);
        printf(" | %2d: %6.2f us", rows[i], us);
        if (i == 0)
            printf(" %3.0f%%", 1e-1 * (double)bytes / us / b->copy_gbs);
        printf(" %.2fx", lt[i] / us);
        fflush(stdout);
    }
    printf("\n");
    for (int i = 0; ways && i < n_rows; i++)
        compare_ways(b, l, f, rows[i], w, n_w, launches);
    for (int i = 0; i < n_w; i++)
        OK(cudaFree(w[i]));
}

void bench_layer(struct bench *b, const struct layer *l, const int *rows, int n_rows, bool ways)
{
    const size_t values = (size_t)l->in * l->n * (l->gated ? 2 : 1);
    const int n_w = (int)(L2_TIMES / (values * 2)) + 1;
    double lt[16];
    bf *w[ROTATE_MAX];
    for (int i = 0; i < n_w; i++)
        w[i] = random_matrix<bf>(values, 1 / sqrtf((float)l->in));
    printf("bf16  %-11s", l->name);
    for (int i = 0; i < n_rows; i++) {
        lt[i] = lt_us(b, l, rows[i], w, n_w, rows[i] <= 256 ? 40 : 8);
        printf(" | %2d: %6.2f us", rows[i], lt[i]);
    }
    printf("  cublasLt\n");
    for (int i = 0; i < n_w; i++)
        OK(cudaFree(w[i]));
    for (const struct form &f : forms)
        bench_form(b, l, &f, rows, n_rows, lt, ways);
}

} // namespace

int main(int argc, char **argv)
{
    int rows[16] = {1, 4, 8, 16, 32, 64, 128, 256, 1024, 4096}, n_rows = 10;
    const bool ways = argc > 1 && strcmp(argv[1], "ways") == 0;
    const int first = ways ? 2 : 1;
    if (argc > first)
        for (n_rows = 0; first + n_rows < argc && n_rows < 16; n_rows++)
            rows[n_rows] = atoi(argv[first + n_rows]);
    struct bench b = bench_open(ROWS_MAX);
    printf("%d SMs, copy %.0f GB/s\n", b.d.sm_count, b.copy_gbs);
    for (const struct layer &l : layers)
        bench_layer(&b, &l, rows, n_rows, ways);
    return 0;
}
