/* probe_act8.cu - products of 8-bit activations: the same bits by every way, and how fast.
 *
 * `check` compares the skinny kernel with plain loops on the device over the same codes, and the
 * wide one with the skinny one, some rows at a time: bits that any batch must have.  `bench` prints
 * microseconds beside our own 16-bit product, of the layers of an 8B model, without what makes
 * codes of the activations and (+q) with it; beside which 16 bits have their norm.  Outliers are in
 * 0.1 % and 1 % of the columns, or everywhere.  A bare product finds those of the one before it,
 * which leaves them; those with (+q) clear them, as in a model.
 *
 *     tests/gpu/pack.sh builds it
 *     probe_act8 check | bench [rows ...] */
#include "kernels/cuda/act8.h"
#include "kernels/cuda/choose_act8.h"
#include "tests/gpu/matmul_bench.cuh"

namespace
{

typedef __nv_bfloat16 bf;

enum { ROWS_MAX = 8192, CHECK_ROWS_MAX = 640 };

template <class T> T *take_zeros(size_t n)
{
    T *at = take<T>(n);
    OK(cudaMemset(at, 0, n * sizeof(T)));
    return at;
}

__device__ float e4m3_value(uint8_t c)
{
    const int e = c >> 3 & 15, m = c & 7;
    const float v = e ? ldexpf(1 + m / 8.0f, e - 7) : ldexpf((float)m, -9);
    return (c & 0x7f) == 0x7f ? __int_as_float(0x7fc00000) : c & 0x80 ? -v : v;
}

/* Random codes and scales in units. */
__global__ void fill_kernel8(uint8_t *w, int n, int in, bool fp8, uint64_t seed)
{
    const size_t total = (size_t)n * in;
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < total;
         i += (size_t)gridDim.x * blockDim.x) {
        const int row = (int)(i / in), c = (int)(i % in);
        const uint32_t r = mix(seed + i);
        float v = ((int)(r & 0xff) + (int)(r >> 8 & 0xff) + (int)(r >> 16 & 0xff) - 382) / 3.0f;
        uint8_t code = (uint8_t)(int8_t)max(-127, min(127, (int)v));
        if (fp8)
            code = (r & 0x7f) >= 0x70 ? r & 0xbf : r & 0xff;
        w[row / 64 * act8_group_bytes(in) + act8_code_at(row % 64, c)] = code;
        if (c == 0)
            *(float *)(w + row / 64 * act8_group_bytes(in) + act8_codes_bytes(in) + row % 64 * 4) =
                (1 + (mix(seed * 7 + row) & 255) / 256.0f) / (fp8 ? 100.0f : 64.0f) /
                sqrtf((float)in);
    }
}

void fill_weights(cudaStream_t stream, uint8_t *w, int n, int in, bool fp8, uint64_t seed)
{
    OK(cudaMemsetAsync(w, 0, act8_bytes(n, in), stream));
    fill_kernel8<<<1024, 256, 0, stream>>>(w, n, in, fp8, seed);
}

__global__ void fill_one(float *to, int n)
{
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
        to[i] = 1;
}

/* y[rows, n] by plain loops: what act8.h says; E4M3 in double. */
__global__ void plain_kernel(double *y, const act8_rows x, const uint8_t *w, int n, bool fp8)
{
    const int col = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y, in = x.in;
    if (col >= n)
        return;
    const int stride = act8_stride(in);
    const uint8_t *wr = w + col / 64 * act8_group_bytes(in), *xr = x.codes + (size_t)row * stride;
    const uint8_t *high = xr + (size_t)x.rows * stride;
    const float column_scale = *(const float *)(wr + act8_codes_bytes(in) + col % 64 * 4);
    double sum = 0;
    int whole = 0;
    for (int k = 0; k < in; k++) {
        const uint8_t code = wr[act8_code_at(col % 64, k)];
        const int q = (int8_t)xr[k] + (x.planes > 1 ? 256 * (int8_t)high[k] : 0);
        sum += fp8 ? (double)e4m3_value(xr[k]) * e4m3_value(code) : 0;
        whole += fp8 ? 0 : q * (int8_t)code;
    }
    y[(size_t)row * n + col] = fp8 ? sum * x.scale[row] * column_scale
                                   : __fmul_rn(__fmul_rn((float)whole, x.scale[row]), column_scale);
}

/* Activations with outliers: each `step`-th column is large, `most` of them if that is not 0, in
 * three rows of four. */
struct kind {
    const char *name;
    enum act_rule rule;
    float threshold;
    int step, most;
};

struct rig {
    struct device d;
    act8_rows rows;
    uint8_t *high;
    uint32_t *mask, *readers;
    bf *x, *y[2], *add;
    float *bias, *norm_w;
    double *ref;
    uint8_t *w;
};

/* With a mask or without. */
void quantize(rig *r, const bf *x, int rows, int in, const kind *k, const struct norm *norm,
              bool has_mask)
{
    struct act8_source s = {};
    s.x = x;
    s.norm = norm;
    s.rule = k->rule;
    s.threshold = k->threshold;
    r->rows.rows = rows;
    r->rows.in = in;
    const bool outliers = k->rule == ACTS_OUTLIERS;
    r->rows.planes = outliers && !has_mask ? 2 : 1;
    r->rows.high = outliers && has_mask ? r->high : nullptr;
    r->rows.mask = outliers && has_mask ? r->mask : nullptr;
    r->rows.readers = r->readers;
    act8_quantize(&r->d, &s, &r->rows);
}

__global__ void outlier_kernel(bf *x, int rows, int in, int step, int most)
{
    const int per_row = min((in - 7 + step - 1) / step, most);
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < rows * per_row;
         i += gridDim.x * blockDim.x) {
        const int row = i / per_row, c = 7 + i % per_row * step;
        if (mix(i * 5 + 2) % 4)
            x[(size_t)row * in + c] =
                (bf)((mix(i) & 1 ? 1 : -1) * (16 + (mix(i * 3 + 1) & 1023) / 16.0f));
    }
}

void make_x(rig *r, int rows, int in, const kind *k)
{
    fill_kernel<bf><<<1024, 256, 0, r->d.stream>>>(r->x, (size_t)rows * in, 1, in * 7 + rows);
    if (k->step)
        outlier_kernel<<<256, 256, 0, r->d.stream>>>(r->x, rows, in, k->step,
                                                     k->most ? k->most : in);
}

/* ---- check ---- */

struct epilogue_case {
    const char *name;
    bool f32, gated, add, bias;
    enum act_kind act;
};
const epilogue_case epilogues[] = {{"f32", true, false, false, false, ACT_NONE},
                                   {"store", false, false, false, false, ACT_NONE},
                                   {"add", false, false, true, false, ACT_NONE},
                                   {"silu gate", false, true, false, false, ACT_SILU},
                                   {"bias gelu gate", false, true, false, true, ACT_GELU},
                                   {"bias relu", false, false, false, true, ACT_RELU}};

struct product product_of(rig *r, int rows, int in, int n, const epilogue_case *e, void *y)
{
    struct product p = {};
    p.x = r->x;
    p.rows = rows;
    p.in = in;
    p.n = p.y_stride = n;
    p.w = r->w;
    p.w_up = e->gated ? r->w + act8_bytes(n, in) : nullptr;
    p.y = y;
    p.y_f32 = e->f32;
    p.act = e->act;
    p.add = e->add ? r->add : nullptr;
    p.bias = e->bias ? r->bias : nullptr;
    p.bias_up = e->bias && e->gated ? r->bias + n : nullptr;
    return p;
}

void run_skinny(rig *r, const struct product *p, const kind *k)
{
    const int step = ACT8_SKINNY_ROWS_MAX;
    for (int first = 0; first < p->rows; first += step) {
        struct product s = *p;
        s.rows = p->rows - first < step ? p->rows - first : step;
        s.y = (char *)p->y + (size_t)first * p->y_stride * (p->y_f32 ? 4 : 2);
        s.add = p->add ? (const bf *)p->add + (size_t)first * p->y_stride : nullptr;
        quantize(r, (const bf *)p->x + (size_t)first * p->in, s.rows, p->in, k, nullptr, false);
        matmul_act8_skinny(&r->d, &s, &r->rows, k->rule);
    }
}

void run_wide(rig *r, const struct product *p, const kind *k, const struct norm *norm)
{
    quantize(r, (const bf *)p->x, p->rows, p->in, k, norm, true);
    matmul_act8_sm90(&r->d, p, &r->rows, k->rule);
}

/* The skinny kernel's f32 against plain loops. */
int check_plain(rig *r, int rows, int in, int n, const kind *k)
{
    const size_t total = (size_t)rows * n;
    float *host = (float *)malloc(total * 4);
    double *ref = (double *)malloc(total * 8), worst = 0;
    size_t wrong = 0, at = 0;
    struct product p = product_of(r, rows, in, n, &epilogues[0], r->y[0]);
    OK(cudaMemset(r->y[0], 0xff, total * 4));
    run_skinny(r, &p, k);
    plain_kernel<<<dim3((n + 127) / 128, rows), 128, 0, r->d.stream>>>(r->ref, r->rows, r->w, n,
                                                                       k->rule == ACTS_FP8);
    OK(cudaStreamSynchronize(r->d.stream));
    OK(cudaMemcpy(ref, r->ref, total * 8, cudaMemcpyDeviceToHost));
    OK(cudaMemcpy(host, r->y[0], total * 4, cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < total; i++) {
        const double e = fabs(host[i] - ref[i]);
        worst = e > worst ? e : worst;
        if (k->rule == ACTS_FP8 ? !(e < 0.02) : !((double)host[i] == ref[i])) {
            at = wrong++ ? at : i;
        }
    }
    if (wrong)
        printf("FAIL %s rows %d in %d n %d: %zu of %zu wrong, worst %g, first at %zu (%g, "
               "want %g)\n",
               k->name, rows, in, n, wrong, total, worst, at, host[at], ref[at]);
    free(host);
    free(ref);
    return wrong != 0;
}

/* The wide kernel's bits against the skinny one's. */
int check_ways(rig *r, int rows, int in, int n, const kind *k, const epilogue_case *e)
{
    const size_t n_bytes = (size_t)rows * n * (e->f32 ? 4 : 2);
    uint8_t *host[2];
    size_t differ = 0, at = 0;
    for (int way = 0; way < 2; way++) {
        struct product p = product_of(r, rows, in, n, e, r->y[way]);
        OK(cudaMemset(r->y[way], 0xff, n_bytes + 64));
        if (way == 0)
            run_skinny(r, &p, k);
        else
            run_wide(r, &p, k, nullptr);
        OK(cudaStreamSynchronize(r->d.stream));
        host[way] = (uint8_t *)malloc(n_bytes + 64);
        OK(cudaMemcpy(host[way], r->y[way], n_bytes + 64, cudaMemcpyDeviceToHost));
    }
    const bool same = memcmp(host[0], host[1], n_bytes + 64) == 0; /* at once, as it mostly is */
    for (size_t i = 0; !same && i < n_bytes + 64; i++)
        if (host[0][i] != host[1][i])
            at = differ++ ? at : i;
    if (differ)
        printf("FAIL %s rows %d in %d n %d %s: %zu of %zu bytes differ, first at row %zu column "
               "%zu\n",
               k->name, rows, in, n, e->name, differ, n_bytes, at / (n_bytes / rows),
               at % (n_bytes / rows) / (e->f32 ? 4 : 2));
    free(host[0]);
    free(host[1]);
    return differ != 0;
}

/* A product leaves zeros behind it. */
template <class T> int check_zeros(rig *r, const char *what, const T *at, size_t n, const kind *k)
{
    T *host = (T *)malloc(n * sizeof(T));
    size_t wrong = 0, first = 0;
    OK(cudaStreamSynchronize(r->d.stream));
    OK(cudaMemcpy(host, at, n * sizeof(T), cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < n; i++)
        if (host[i] != 0)
            first = wrong++ ? first : i;
    if (wrong)
        printf("FAIL %s: %zu of %s are not zero, first at %zu\n", k->name, wrong, what, first);
    free(host);
    return wrong != 0;
}

int check_left(rig *r, int in, const kind *k)
{
    const size_t high = (size_t)in * act8_high_stride(CHECK_ROWS_MAX);
    return check_zeros(r, "the high bytes", r->high, high, k) +
           check_zeros(r, "the mask", r->mask, (size_t)act8_mask_words(in), k) +
           check_zeros(r, "the readers", r->readers, (size_t)act8_readers_words(ROWS_MAX), k);
}

/* Outliers nowhere, in columns that are listed (most groups of many chunks, several of one), in
 * more than are listed. */
const kind kinds[] = {{"int8", ACTS_INT8, 0, 0},
                      {"fp8", ACTS_FP8, 0, 0},
                      {"no outliers", ACTS_OUTLIERS, 100, 0},
                      {"outliers in 0.1 %", ACTS_OUTLIERS, 6, 1000},
                      {"outliers in 1 %", ACTS_OUTLIERS, 6, 100},
                      {"outliers in 4 %", ACTS_OUTLIERS, 6, 25},
                      {"outliers in one column", ACTS_OUTLIERS, 6, 1, 1},
                      {"outliers side by side", ACTS_OUTLIERS, 6, 1, 130},
                      {"outliers everywhere", ACTS_OUTLIERS, 2, 0},
                      {"all outliers", ACTS_OUTLIERS, 1e-3, 0}};

int check(rig *r)
{
    const int few[] = {1, 2, 5, 8, 9, 16, 17, 31, 32};
    const int many[] = {17, 33, 64, 65, 128, 129, 300, 600};
    const int shapes[][2] = {{4096, 4096},  {576, 960}, {1000, 56},
                             {14336, 1024}, {72, 8},    {4096, 6144}};
    int bad = 0, n = 0;
    for (auto &s : shapes)
        for (const kind &k : kinds) {
            fill_weights(r->d.stream, r->w, s[1], s[0], k.rule == ACTS_FP8, s[0] * 31 + s[1]);
            fill_weights(r->d.stream, r->w + act8_bytes(s[1], s[0]), s[1], s[0], k.rule == ACTS_FP8,
                         s[0]);
            make_x(r, 600, s[0], &k);
            for (int m : few) {
                bad += check_plain(r, m, s[0], s[1], &k);
                n++;
            }
            for (int m : many)
                for (auto &e : epilogues) {
                    if (k.rule == ACTS_OUTLIERS && (m % 2 == 0 && m != 600)) /* some are enough */
                        continue;
                    bad += check_ways(r, m, s[0], s[1], &k, &e);
                    n++;
                }
            bad += check_left(r, s[0], &k);
            n++;
        }
    printf("%s: %d of %d cases wrong\n", bad ? "FAIL" : "check ok", bad, n);
    return bad;
}

/* ---- bench ---- */

struct layer {
    const char *name;
    int in, n;
    bool gated, add, norm;
};
const layer layers[] = {{"8B qkv", 4096, 6144, false, false, true},
                        {"8B out", 4096, 4096, false, true, false},
                        {"8B gate|up", 4096, 14336, true, false, true},
                        {"8B down", 14336, 4096, false, true, false}};

enum { N_WAYS = 5, ROTATE8 = 10, ROTATE16 = 5 };
const kind ways[N_WAYS] = {{"int8", ACTS_INT8, 0, 0},
                           {"0.1 %", ACTS_OUTLIERS, 6, 1000},
                           {"1 %", ACTS_OUTLIERS, 6, 100},
                           {"everywhere", ACTS_OUTLIERS, 2, 0},
                           {"fp8", ACTS_FP8, 0, 0}};

struct weights_of_bench {
    uint8_t *w8;
    bf *w16;
};

/* Microseconds, without what comes before the product and with it. */
struct two_us {
    double bare, all;
};

two_us bench_16_bits(rig *r, const weights_of_bench *b, const layer *l, struct product p,
                     const struct norm *norm, int launches)
{
    const size_t values = (size_t)l->n * l->in * (l->gated ? 2 : 1);
    const bool fused = (p.norm = norm) && matmul_fuses_norm(&r->d, &p);
    two_us us;
    for (int with = 0; with < 2; with++)
        (with ? us.all : us.bare) = graph_us(r->d.stream, launches, [&](int i) {
            struct norm_args n = {};
            n.y = r->d.scratch_norm;
            n.x = r->x;
            n.rows = p.rows;
            n.width = p.in;
            p.norm = fused ? norm : nullptr;
            if (with && norm && !fused) {
                n.norm = *norm;
                cuda_norm(&r->d, &n);
            }
            p.x = with && norm && !fused ? r->d.scratch_norm : r->x;
            p.w = b->w16 + (i % ROTATE16) * values;
            p.w_up = l->gated ? (const bf *)p.w + values / 2 : nullptr;
            matmul_product(&r->d, &p);
        });
    return us;
}

/* Whether products leave high bytes and mask as they are: no block is then the last to have read
 * them. */
void keep_high(rig *r, bool keep)
{
    OK(cudaMemsetAsync(r->readers, keep ? 0x40 : 0, 4 * act8_readers_words(ROWS_MAX), r->d.stream));
}

/* By the kernel of so many rows; of new codes, or of those that are there. */
void run_8_bits(rig *r, const struct product *p, const kind *k, const struct norm *norm,
                bool quantizes)
{
    const bool skinny = p->rows <= ACT8_SKINNY_ROWS_MAX;
    if (quantizes)
        quantize(r, r->x, p->rows, p->in, k, norm, !skinny);
    if (skinny)
        matmul_act8_skinny(&r->d, p, &r->rows, k->rule);
    else
        matmul_act8_sm90(&r->d, p, &r->rows, k->rule);
}

two_us bench_8_bits(rig *r, const weights_of_bench *b, const layer *l, struct product p,
                    const struct norm *norm, const kind *k, int launches)
{
    const size_t part_bytes = act8_bytes((int64_t)l->n, l->in);
    const auto run = [&](int i, bool quantizes) {
        const uint8_t *w = b->w8 + i % ROTATE8 * (l->gated ? 2 : 1) * part_bytes;
        p.w = w;
        p.w_up = l->gated ? w + part_bytes : nullptr;
        run_8_bits(r, &p, k, norm, quantizes);
    };
    two_us us;
    make_x(r, p.rows, l->in, k);
    keep_high(r, true);
    run(0, true); /* what the bare ones find */
    us.bare = graph_us(r->d.stream, launches, [&](int i) { run(i, false); });
    keep_high(r, false);
    run(0, true); /* clears it */
    us.all = graph_us(r->d.stream, launches, [&](int i) { run(i, true); });
    return us;
}

void bench_layer(rig *r, const weights_of_bench *b, const layer *l, int m, two_us us[1 + N_WAYS])
{
    const struct norm rms = {NORM_RMS, r->norm_w, nullptr, 1e-5f}, *norm = l->norm ? &rms : nullptr;
    const int parts = l->gated ? 2 : 1, launches = m <= 256 ? 2 * ROTATE8 : 8;
    struct product p = {};
    p.rows = m;
    p.in = l->in;
    p.n = p.y_stride = l->n;
    p.act = l->gated ? ACT_SILU : ACT_NONE;
    p.y = r->y[0];
    p.add = l->add ? r->add : nullptr;
    p.x = r->x;
    make_x(r, m, l->in, &ways[0]);
    us[0] = bench_16_bits(r, b, l, p, norm, launches);
    for (int k = 0; k < N_WAYS; k++) {
        const bool fp8 = ways[k].rule == ACTS_FP8;
        for (int i = 0; (k == 0 || fp8) && i < ROTATE8 * parts; i++)
            fill_weights(r->d.stream, b->w8 + i * act8_bytes(l->n, l->in), l->n, l->in, fp8, i);
        us[1 + k] = bench_8_bits(r, b, l, p, norm, &ways[k], launches);
    }
}

void bench_rows(rig *r, const weights_of_bench *b, int m)
{
    two_us sum[1 + N_WAYS] = {};
    for (const layer &l : layers) {
        two_us us[1 + N_WAYS];
        bench_layer(r, b, &l, m, us);
        const double values = (double)l.in * l.n * (l.gated ? 2 : 1);
        printf("%-10s M %-4d bf16 %.1f +n %.1f us %.0f TF", l.name, m, us[0].bare, us[0].all,
               2e-6 * m * values / us[0].bare);
        for (int k = 1; k <= N_WAYS; k++)
            printf(" | %s %.1f +q %.1f %.0f %s", ways[k - 1].name, us[k].bare, us[k].all,
                   m <= 64 ? 1e-3 * values / us[k].bare : 2e-6 * m * values / us[k].bare,
                   m <= 64 ? "GB/s" : "T");
        printf("\n");
        for (int i = 0; i <= N_WAYS; i++) {
            sum[i].bare += us[i].bare;
            sum[i].all += us[i].all;
        }
    }
    printf("M %-4d, bf16 = 1:", m);
    for (int k = 1; k <= N_WAYS; k++)
        printf(" %s %.2fx, all %.2fx |", ways[k - 1].name, sum[0].bare / sum[k].bare,
               sum[0].all / sum[k].all);
    printf(" outliers / int8");
    for (int k = 1; k <= N_WAYS; k++)
        if (ways[k - 1].rule == ACTS_OUTLIERS)
            printf(" %s %.2f, %.2f", ways[k - 1].name, sum[1].bare / sum[k].bare,
                   sum[1].all / sum[k].all);
    printf("\n");
}

} // namespace

int main(int argc, char **argv)
{
    rig r = {};
    r.d = device_bare(DT_BF16);
    const bool is_check = argc < 2 || !strcmp(argv[1], "check");
    const size_t m_max = is_check ? CHECK_ROWS_MAX : ROWS_MAX;
    r.x = take<bf>(m_max * 14336);
    r.norm_w = take<float>(14336);
    fill_one<<<64, 256>>>(r.norm_w, 14336);
    r.bias = random_matrix<float>(2 * 14336, 1);
    r.rows.codes = take<uint8_t>(2 * m_max * 14336);
    r.rows.scale = take<float>(m_max);
    r.d.scratch_norm = take<bf>(m_max * 14336);
    r.high = take_zeros<uint8_t>((size_t)14336 * act8_high_stride(m_max));
    r.mask = take_zeros<uint32_t>(act8_mask_words(14336));
    r.readers = take_zeros<uint32_t>(act8_readers_words(ROWS_MAX));
    for (int i = 0; i < 2; i++)
        r.y[i] = take<bf>(m_max * 14336 * (is_check ? 2 : 1));
    r.add = random_matrix<bf>(m_max * 6144, 1);
    if (is_check) {
        r.ref = take<double>(64 * 8192);
        r.w = take<uint8_t>(2 * act8_bytes(8192, 14336));
        return check(&r) != 0;
    }
    weights_of_bench b = {};
    b.w8 = take<uint8_t>((size_t)ROTATE8 * 2 * act8_bytes(14336, 4096));
    b.w16 = random_matrix<bf>((size_t)ROTATE16 * 2 * 14336 * 4096, 0.02f);
    static const int all[] = {1, 4, 16, 32, 64, 128, 256, 512, 2048, 8192};
    for (int i = 2; i < argc; i++)
        bench_rows(&r, &b, atoi(argv[i]));
    for (int m : all)
        if (argc < 3)
            bench_rows(&r, &b, m);
    return 0;
}
