/* bench_matmul.cu - microseconds and bytes a second of products, beside cublasLt and a plain read.
 *
 * Shapes are the layers of 8B, 1B and 135M models, and a rank's share of the 70B of two.  Weights
 * rotate over more than the L2 cache; launches run in one graph, so that programmatic launches
 * overlap as they do in a step.  Per line: ours, bytes a second and their share
 * of this run's copy, TFLOP/s, cublasLt's first proposal.
 *
 *     nvcc -std=c++17 -O3 -gencode=arch=compute_90a,code=sm_90a -I. tests/gpu/bench_matmul.cu \
 *          kernels/cuda/matmul*.cu kernels/cuda/tensor_map.cu kernels/cuda/norm.cu \
 *          kernels/cuda/choose.c -lcublasLt
 *     bench_matmul [rows ...] */
#include "tests/gpu/lt_bench.cuh"

namespace {

enum { ROWS_MAX = 8192 };

const struct layer layers[] = {
    {"8B qkv", 4096, 6144, false, false, true, false},
    {"8B out", 4096, 4096, false, true, false, false},
    {"8B gate|up", 4096, 14336, true, false, true, false},
    {"8B down", 14336, 4096, false, true, false, false},
    {"8B head", 4096, 128256, false, false, true, true},
    {"70B/2 qkv", 8192, 5120, false, false, true, false},
    {"70B/2 out", 4096, 8192, false, true, false, false},
    {"70B/2 gate|up", 8192, 14336, true, false, true, false},
    {"70B/2 down", 14336, 8192, false, true, false, false},
    {"1B qkv", 2048, 3072, false, false, true, false},
    {"1B out", 2048, 2048, false, true, false, false},
    {"1B gate|up", 2048, 8192, true, false, true, false},
    {"1B down", 8192, 2048, false, true, false, false},
    {"135M qkv", 576, 960, false, false, true, false},
    {"135M gate|up", 576, 1536, true, false, true, false},
    {"135M down", 1536, 576, false, true, false, false},
};

double our_us(struct bench *b, const struct layer *l, int rows, bf *const *w, int n_w, int launches)
{
    struct norm norm = {NORM_RMS, b->norm_w, nullptr, 1e-5f};
    struct product p = {};
    p.x = b->x;
    p.rows = rows;
    p.in = l->in;
    p.n = p.y_stride = l->n;
    p.act = l->gated ? ACT_SILU : ACT_NONE;
    p.y = b->y;
    p.y_f32 = l->y_f32;
    p.add = l->add ? b->add : nullptr;
    p.norm = l->norm ? &norm : nullptr;
    if (l->norm && !matmul_fuses_norm(&b->d, &p))
        p.norm = nullptr; /* the norm kernel's time is not the product's */
    return graph_us(b->d.stream, launches, [&](int i) {
        p.w = w[i % n_w];
        p.w_up = l->gated ? w[i % n_w] + (size_t)l->n * l->in : nullptr;
        matmul_product(&b->d, &p);
    });
}

void bench_layer(struct bench *b, const struct layer *l, const int *rows, int n_rows)
{
    size_t values = (size_t)l->in * l->n * (l->gated ? 2 : 1);
    int n_w = (int)(L2_TIMES / (values * 2)) + 1;
    n_w = n_w > ROTATE_MAX ? ROTATE_MAX : n_w;
    bf *w[ROTATE_MAX];
    for (int i = 0; i < n_w; i++)
        w[i] = random_matrix<bf>(values, 1 / sqrtf((float)l->in));
    for (int i = 0; i < n_rows; i++) {
        int m = rows[i], launches = m <= 256 ? (n_w > 40 ? n_w : 40) : 8;
        if (l->y_f32 && m > 512)
            continue; /* heads are few */
        double us = our_us(b, l, m, w, n_w, launches), lt = lt_us(b, l, m, w, n_w, launches);
        double out = (double)m * l->n * (l->y_f32 ? 4 : 2);
        double bytes = 2.0 * values + 2.0 * m * l->in + out * (l->add ? 2 : 1);
        printf("%-13s M %-5d %8.2f us %5.0f GB/s %5.1f %% of copy %6.1f TF | cublasLt %8.2f us  "
               "%.2fx\n",
               l->name, m, us, 1e-3 * bytes / us, 1e-1 * bytes / us / b->copy_gbs,
               2e-6 * (double)m * (double)values / us, lt, lt / us);
    }
    for (int i = 0; i < n_w; i++)
        OK(cudaFree(w[i]));
}

} // namespace

int main(int argc, char **argv)
{
    static int rows[64] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 2048, 8192};
    int n_rows = 12;
    if (argc > 1)
        for (n_rows = 0; n_rows + 1 < argc && n_rows < 64; n_rows++)
            rows[n_rows] = atoi(argv[n_rows + 1]);
    struct bench b = bench_open(ROWS_MAX);
    printf("%d SMs, copy %.0f GB/s\n", b.d.sm_count, b.copy_gbs);
    for (const struct layer &l : layers)
        bench_layer(&b, &l, rows, n_rows);
    return 0;
}
