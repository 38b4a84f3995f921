/* bench_blocks.cu - microseconds of products with weights in block formats of GGUF, beside
 * cublasLt's in bf16.
 *
 * As bench_matmul.cu: weights rotate over more than the L2 cache, launches run in one graph.  Built
 * by pack.sh, where cublasLt is.
 *
 *     bench_blocks [FORMAT ...] [rows ...] */
#include "tests/gpu/lt_bench.cuh"

#include "kernels/cuda/block_layout.h"

namespace
{

enum { ROWS_MAX = 4096 };

const struct layer layers[] = {
    {"8B qkv", 4096, 6144, false, false, true, false},
    {"8B out", 4096, 4096, false, true, false, false},
    {"8B gate|up", 4096, 14336, true, false, true, false},
    {"8B down", 14336, 4096, false, true, false, false},
    {"8192^2", 8192, 8192, false, false, false, false},
};

/* Codes of all values; scales of about 1. */
__global__ void blocks_kernel(uint32_t *to, size_t n, uint32_t tile_bytes, uint32_t groups_at)
{
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n;
         i += (size_t)gridDim.x * blockDim.x)
        to[i] = i * 4 % tile_bytes >= groups_at ? 0x1c2b1c23 : mix(0x9e3779b97f4a7c15ull + i);
}

double our_us(struct bench *b, const struct layer *l, enum dtype f, int rows, uint8_t *const *w,
              int n_w, int launches)
{
    struct norm norm = {NORM_RMS, b->norm_w, nullptr, 1e-5f};
    struct product p = {};
    p.x = b->x;
    p.rows = rows;
    p.in = l->in;
    p.n = p.y_stride = l->n;
    p.blocks = f;
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
        p.w_up = l->gated ? w[i % n_w] + block_units_bytes(f, l->n, l->in) : nullptr;
        matmul_product(&b->d, &p);
    });
}

void bench_format(struct bench *b, const struct layer *l, enum dtype f, const int *rows, int n_rows,
                  const double *lt)
{
    const size_t bytes = block_units_bytes(f, l->gated ? 2 * l->n : l->n, l->in);
    int n_w = (int)(L2_TIMES / bytes) + 1;
    n_w = n_w > ROTATE_MAX ? ROTATE_MAX : n_w;
    uint8_t *w[ROTATE_MAX];
    for (int i = 0; i < n_w; i++) {
        w[i] = take<uint8_t>(bytes);
        blocks_kernel<<<1024, 256>>>((uint32_t *)w[i], bytes / 4, block_tile_bytes(f),
                                     block_groups_at(f));
    }
    OK(cudaDeviceSynchronize());
    printf("%-5s %-11s", dtype_traits[f].name, l->name);
    for (int i = 0; i < n_rows; i++) {
        const double us = our_us(b, l, f, rows[i], w, n_w, rows[i] > 256 ? 8 : n_w > 40 ? n_w : 40);
        printf(" | %2d: %6.2f us", rows[i], us);
        if (i == 0)
            printf(" %3.0f%%", 1e-1 * (double)bytes / us / b->copy_gbs);
        printf(" %.2fx", lt[i] / us);
        fflush(stdout);
    }
    printf("\n");
    for (int i = 0; i < n_w; i++)
        OK(cudaFree(w[i]));
}

bool is_chosen(enum dtype f, char **names, int n_names)
{
    bool is = n_names == 0;
    for (int i = 0; i < n_names; i++)
        is = is || strcmp(dtype_traits[f].name, names[i]) == 0;
    return is;
}

void bench_layer(struct bench *b, const struct layer *l, const int *rows, int n_rows, char **names,
                 int n_names)
{
    const size_t values = (size_t)l->in * l->n * (l->gated ? 2 : 1);
    const int n_w = (int)(L2_TIMES / (values * 2)) + 1;
    double lt[16];
    bf *w[ROTATE_MAX];
    for (int i = 0; i < n_w; i++)
        w[i] = random_matrix<bf>(values, 1 / sqrtf((float)l->in));
    printf("bf16  %-11s", l->name);
    for (int i = 0; i < n_rows; i++) {
        lt[i] = lt_us(b, l, rows[i], w, n_w, rows[i] > 256 ? 8 : 40);
        printf(" | %2d: %6.2f us", rows[i], lt[i]);
    }
    printf("  cublasLt\n");
    for (int i = 0; i < n_w; i++)
        OK(cudaFree(w[i]));
    for (int f = DT_Q4_0; f <= DT_Q6_K; f++)
        if (is_chosen((enum dtype)f, names, n_names))
            bench_format(b, l, (enum dtype)f, rows, n_rows, lt);
}

} // namespace

int main(int argc, char **argv)
{
    int rows[16] = {1, 4, 8, 16, 32, 64, 256, 2048}, n_rows = 8, n_names = 0;
    while (n_names + 1 < argc && atoi(argv[n_names + 1]) == 0)
        n_names++;
    if (n_names + 1 < argc)
        for (n_rows = 0; n_rows + n_names + 1 < argc && n_rows < 16; n_rows++)
            rows[n_rows] = atoi(argv[1 + n_names + n_rows]);
    struct bench b = bench_open(ROWS_MAX);
    b.d.act = DT_F16; /* what "auto" gives GGUF files */
    printf("%d SMs, copy %.0f GB/s\n", b.d.sm_count, b.copy_gbs);
    for (const struct layer &l : layers)
        bench_layer(&b, &l, rows, n_rows, argv + 1, n_names);
    return 0;
}
