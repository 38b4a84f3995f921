/* probe_matmul.cu - three kernels, the same bits: every product by matmul_tiles.cu, matmul_sm90.cu
 * and matmul_skinny.cu, for each number of rows, against each other and against f64; and a norm
 * made in passing against norm.cu.
 *
 *     nvcc -std=c++17 -O3 -gencode=arch=compute_90a,code=sm_90a -I. tests/gpu/probe_matmul.cu \
 *          kernels/cuda/matmul*.cu kernels/cuda/tensor_map.cu kernels/cuda/norm.cu \
 *          kernels/cuda/choose.c */
#include "tests/gpu/matmul_bench.cuh"

namespace
{

enum { ROWS_MAX = 130 };

/* One value in f64, no rounding but the inputs'; abs_sum bounds what f32 sums may lose. */
template <class T>
__global__ void exact_kernel(double *y, double *abs_sum, const T *x, const T *w, int rows, int n,
                             int in)
{
    int col = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
    if (col >= n)
        return;
    double sum = 0, all = 0;
    for (int k = 0; k < in; k++) {
        double v = (double)(float)x[(size_t)row * in + k] * (double)(float)w[(size_t)col * in + k];
        sum += v;
        all += fabs(v);
    }
    y[(size_t)row * n + col] = sum;
    abs_sum[(size_t)row * n + col] = all;
}

__global__ void compare_kernel(unsigned long long *differ, const uint8_t *a, const uint8_t *b,
                               int row_bytes, int a_stride, int b_stride)
{
    for (int i = threadIdx.x; i < row_bytes; i += blockDim.x)
        if (a[(size_t)blockIdx.x * a_stride + i] != b[(size_t)blockIdx.x * b_stride + i])
            atomicAdd(differ, 1ull);
}

__global__ void exact_check_kernel(unsigned long long *wrong, const float *y, const double *want,
                                   const double *abs_sum, size_t n)
{
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n;
         i += (size_t)gridDim.x * blockDim.x)
        if (!(fabs(y[i] - want[i]) <= 1e-5 * abs_sum[i] + 1e-6 * fabs(want[i])))
            atomicAdd(wrong, 1ull);
}

struct kind {
    const char *name;
    bool gated, bias, add, y_f32;
    enum act_kind act;
};
const struct kind kinds[] = {
    {"plain", false, false, false, false, ACT_NONE},
    {"f32", false, false, false, true, ACT_NONE},
    {"add", false, false, true, false, ACT_NONE},
    {"bias", false, true, false, false, ACT_NONE},
    {"bias+add", false, true, true, false, ACT_NONE},
    {"gelu", false, true, false, false, ACT_GELU},
    {"silu*", true, false, false, false, ACT_SILU},
    {"bias gelu_tanh*", true, true, false, false, ACT_GELU_TANH},
};

template <class T> struct operands {
    T *x, *w, *w_up, *add;
    float *bias, *bias_up;
    int in, n;
};

template <class T>
struct product product_of(const operands<T> *o, const struct kind *k, int first, int rows, void *y)
{
    struct product p = {};
    p.x = o->x + (size_t)first * o->in;
    p.rows = rows;
    p.in = o->in;
    p.n = p.y_stride = o->n;
    p.w = o->w;
    p.w_up = k->gated ? o->w_up : nullptr;
    p.bias = k->bias ? o->bias : nullptr;
    p.bias_up = k->bias && k->gated ? o->bias_up : nullptr;
    p.act = k->act;
    p.y = y;
    p.y_f32 = k->y_f32;
    p.add = k->add ? o->add + (size_t)first * o->n : nullptr;
    return p;
}

unsigned long long *counter;

unsigned long long count_taken()
{
    unsigned long long n;
    OK(cudaDeviceSynchronize());
    OK(cudaMemcpy(&n, counter, sizeof n, cudaMemcpyDeviceToHost));
    OK(cudaMemset(counter, 0, sizeof n));
    return n;
}

int failures;

void verdict(const char *type, int in, int n, const char *kind, const char *what, int rows,
             unsigned long long bad)
{
    if (bad == 0)
        return;
    printf("FAIL %s in %d n %d %s: %s, %d rows: %llu bytes differ\n", type, in, n, kind, what, rows,
           bad);
    failures++;
}

/* Rows [first, first + rows) of one product, by the op's own choice, against want. */
template <class T>
void check_rows(struct device *d, const operands<T> *o, const struct kind *k, const char *type,
                int first, int rows, const uint8_t *want, uint8_t *y)
{
    size_t each = (size_t)o->n * (k->y_f32 ? 4 : 2);
    OK(cudaMemsetAsync(y, 0xff, (size_t)(rows + 1) * each, d->stream));
    struct product p = product_of(o, k, first, rows, y);
    matmul_product(d, &p);
    compare_kernel<<<(unsigned)rows, 256, 0, d->stream>>>(counter, y, want + (size_t)first * each,
                                                          (int)each, (int)each, (int)each);
    verdict(type, o->in, o->n, k->name, "chosen against tiles", rows, count_taken());
    uint8_t after[64];
    size_t n_after = each < sizeof after ? each : sizeof after;
    OK(cudaMemcpy(after, y + (size_t)rows * each, n_after, cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < n_after; i++)
        if (after[i] != 0xff) {
            verdict(type, o->in, o->n, k->name, "written past the last row", rows, 1);
            break;
        }
}

struct norm_case {
    const char *name;
    enum norm_kind kind;
    bool w, b;
};
const struct norm_case norm_cases[] = {
    {"rms", NORM_RMS, true, false},
    {"rms without weights", NORM_RMS, false, false},
    {"layer norm", NORM_LAYER, true, true},
};

/* Few rows: the norm inside of the product, against the norm kernel and tiles. */
template <class T>
void check_norm(struct device *d, const operands<T> *o, const char *type, const norm_case *c,
                uint8_t *want, uint8_t *y)
{
    float *w = random_matrix<float>(o->in, 1), *b = random_matrix<float>(o->in, 1);
    T *x = take<T>((size_t)SKINNY_NORM_ROWS_MAX * o->in);
    struct norm norm = {c->kind, c->w ? w : nullptr, c->b ? b : nullptr, 1e-5f};
    for (int rows = 1; rows <= SKINNY_NORM_ROWS_MAX; rows++) {
        struct product p = product_of(o, &kinds[0], 3, rows, y);
        p.norm = &norm;
        if (!matmul_fuses_norm(d, &p))
            continue;
        OK(cudaMemsetAsync(y, 0xff, (size_t)rows * o->n * 2, d->stream));
        matmul_product(d, &p);
        struct norm_args n = {x, p.x, rows, o->in, norm, nullptr};
        cuda_norm(d, &n);
        p.x = x, p.y = want, p.norm = nullptr;
        matmul_tiles(d, &p);
        compare_kernel<<<(unsigned)rows, 256, 0, d->stream>>>(counter, y, want, o->n * 2, o->n * 2,
                                                              o->n * 2);
        verdict(type, o->in, o->n, c->name, "norm in passing against norm.cu", rows, count_taken());
    }
    for (void *p : {(void *)w, (void *)b, (void *)x})
        OK(cudaFree(p));
}

template <class T> void check(struct device *d, const char *type, int in, int n)
{
    static const int some_rows[] = {1, 2, 3, 4, 5, 8, 9, 16, 17, 31, 33, 64, 65, 100, 130};
    operands<T> o = {random_matrix<T>((size_t)ROWS_MAX * in, 1),
                     random_matrix<T>((size_t)n * in, 1 / sqrtf((float)in)),
                     random_matrix<T>((size_t)n * in, 1 / sqrtf((float)in)),
                     random_matrix<T>((size_t)ROWS_MAX * n, 1),
                     random_matrix<float>(n, 1),
                     random_matrix<float>(n, 1),
                     in,
                     n};
    uint8_t *want = take<uint8_t>((size_t)ROWS_MAX * n * 4),
            *y = take<uint8_t>((size_t)(ROWS_MAX + 1) * n * 4);
    int before = failures;
    for (const struct kind &k : kinds) {
        struct product p = product_of(&o, &k, 0, ROWS_MAX, want);
        OK(cudaMemset(want, 0xff, (size_t)ROWS_MAX * n * 4));
        matmul_tiles(d, &p);
        OK(cudaDeviceSynchronize());
        if (k.y_f32) {
            double *exact = take<double>((size_t)ROWS_MAX * n),
                   *all = take<double>((size_t)ROWS_MAX * n);
            exact_kernel<T>
                <<<dim3((n + 127) / 128, ROWS_MAX), 128>>>(exact, all, o.x, o.w, ROWS_MAX, n, in);
            exact_check_kernel<<<256, 256>>>(counter, (float *)want, exact, all,
                                             (size_t)ROWS_MAX * n);
            verdict(type, in, n, k.name, "tiles against f64", ROWS_MAX, count_taken());
            OK(cudaFree(exact));
            OK(cudaFree(all));
        }
        for (int rows : some_rows)
            check_rows(d, &o, &k, type, rows == 1 ? 77 : (ROWS_MAX - rows) / 2, rows, want, y);
    }
    for (const struct norm_case &c : norm_cases)
        check_norm(d, &o, type, &c, want, y);
    printf("%s %-5s in %-5d n %d\n", failures == before ? "ok  " : "FAIL", type, in, n);
    for (void *p : {(void *)o.x, (void *)o.w, (void *)o.w_up, (void *)o.add, (void *)o.bias,
                    (void *)o.bias_up, (void *)want, (void *)y})
        OK(cudaFree(p));
}

template <class T> void check_all(const char *type, enum dtype act)
{
    static const int shapes[][2] = {
        /* in, n */
        {576, 576},    {576, 192},    {576, 960},   {576, 1536},  {1536, 576},  {576, 49152},
        {2048, 2048},  {2048, 3072},  {2048, 8192}, {8192, 2048}, {4096, 6144}, {4096, 4096},
        {4096, 14336}, {14336, 4096}, {8, 8},       {24, 17},     {200, 1001},  {1000, 56}};
    struct device d = device_bare(act);
    for (auto &s : shapes)
        check<T>(&d, type, s[0], s[1]);
    OK(cudaStreamDestroy(d.stream));
}

} // namespace

int main()
{
    counter = take<unsigned long long>(1);
    OK(cudaMemset(counter, 0, sizeof *counter));
    check_all<__nv_bfloat16>("bf16", DT_BF16);
    check_all<__half>("f16", DT_F16);
    printf("%d failures\n", failures);
    return failures != 0;
}
