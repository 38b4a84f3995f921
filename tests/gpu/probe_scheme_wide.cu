/* probe_scheme_wide.cu - the wide product of quantized weights, tile by tile: right to the bit, and
 * how fast.
 *
 * Right: against the chains that scheme_layout.h defines, made here by mma.sync, and those against
 * f64; also as if there were few SMs, so that a block has several tiles, and some that it shares.
 * Fast: every tile beside cublasLt in bf16, and the one that is chosen. The gated product,
 * whose SwiGLU is fused, beside the product alone and beside it and a kernel of SwiGLU; `bare` is
 * the same weights' product without SwiGLU.  All take turns, so that clocks are alike: medians.
 * A turn is some launches, in which a large product is still at clocks that the power limit takes
 * from it a moment later; `steady` gives cublasLt and the chosen tile turns of 120 ms, and counts
 * their second halves, and `near` does so with the cuts that costs say are the likeliest, whose
 * costs stand behind them.  A turn of that length still feels the one before, so each round has an
 * order of its own.  Otherwise each tile has two times: by blocks alone, and by two that share x.
 *
 *     nvcc -std=c++17 -O3 -gencode=arch=compute_90a,code=sm_90a -I. tests/gpu/probe_scheme_wide.cu \
 *          kernels/cuda/{matmul_scheme_sm90{,_bf16,_f16},tensor_map}.cu kernels/scheme.c \
 *          kernels/tensor.c kernels/cuda/{scheme_layout,scheme_wide_choose}.c base/status.c \
 *          -lcublasLt
 *     probe_scheme_wide [check | [steady | near] rows ...]  without any: both; `steady` alone:
 *                                                         of all rows */
#include "tests/gpu/lt_bench.cuh"
#include "tests/gpu/units_bench.cuh"

#include <algorithm>
#include <vector>

#include "kernels/cuda/matmul_scheme_sm90.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/scheme_book.cuh"
#include "kernels/half.h"

namespace
{

enum { ROWS_MAX = 4096, CHECK_ROWS = 600, STEADY_MS = 120, NEAR_CUTS = 6 };

enum timing { ALL_CUTS, STEADY, NEAR }; /* what is timed of each product */

const struct scheme schemes[] = {
    {.codes = DT_INT4, .group = 128, .scale = DT_F16},
    {.codes = DT_INT8, .scale = DT_F32},
    {.codes = DT_INT4, .group = 256, .scale = DT_F32},
    {.codes = DT_INT8, .group = 128, .scale = DT_BF16},
    {.codes = DT_NF4, .group = 64, .scale = DT_F32},
    {.codes = DT_INT4, .group = 32, .scale = DT_F16, .has_zero = true},
    {.codes = DT_INT4, .group = 128, .scale = DT_F16, .has_zero = true},
    {.codes = DT_INT4, .group = 64, .scale = DT_BF16},
    {.codes = DT_INT4},
    {.codes = DT_INT8, .has_zero = true},
    {.codes = DT_INT8, .group = 32, .scale = DT_F16, .has_zero = true},
    {.codes = DT_FP8},
    {.codes = DT_FP4, .group = 64, .scale = DT_F32},
    {.codes = DT_NF4, .group = 32, .scale = DT_F16},
    {.codes = DT_NF4, .group = 256, .scale = DT_F32},
};

enum { CUTS = 2 * SCHEME_TILES }; /* each tile by blocks alone, then by two that share x */

struct scheme_wide_cut cut_of(int number)
{
    return {(enum scheme_wide_tile)(number / 2), number % 2 + 1};
}

int number_of(struct scheme_wide_cut c)
{
    return 2 * c.tile + c.cluster - 1;
}

uint32_t random_bits()
{
    static uint64_t state = 88172645463325252ull;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 20);
}

/* ---- right ---- */

/* grid: [units, rows of x / 8]   block: a warp, 16 rows of the weights by 8 of x */
template <int EXPAND>
__global__ void chain_kernel(float *y, const bf *x, const uint8_t *w, struct scheme_layout l,
                             expand_book book, int rows, int in, int n)
{
    const int lane = threadIdx.x, row0 = blockIdx.y * 8, place = lane / 4 * 2;
    const int words_of = expand_words(EXPAND), steps_of = 4 / words_of;
    const float ones = expand_ones<bf, EXPAND>();
    const uint8_t *unit = w + blockIdx.x * l.unit_bytes;
    float sum[4] = {}, chain[4] = {};
    for (int s = 0; s < l.n_tiles * TILE_STEPS; s++) {
        const uint8_t *tile = unit + (size_t)(s / TILE_STEPS) * l.tile_bytes;
        const int step = s % TILE_STEPS, part = step * 16 / l.part_k;
        const uint8_t *operands =
            tile + l.operands_at + (part * UNIT_ROWS + place) * l.operand_bytes;
        uint32_t a[4], b[2], words[2], operand[2], stored = 0;
        if (l.operand_bytes == 1)
            stored = *(const uint16_t *)operands;
        if (l.operand_bytes == 2)
            stored = *(const uint32_t *)operands;
        expand_operands<bf, EXPAND>(operand, stored);
        for (int i = 0; i < words_of; i++)
            words[i] = ((const uint32_t *)(tile + step / steps_of * 512 +
                                           lane * 16))[step % steps_of * words_of + i];
        expand_step<bf, EXPAND>(a, words, operand, book);
        for (int i = 0; i < 2; i++) {
            const int row = row0 + lane / 4, k = s * 16 + i * 8 + lane % 4 * 2;
            b[i] = row < rows && k < in ? *(const uint32_t *)(x + (size_t)row * in + k) : 0;
        }
        mma_16816(chain, a, b, bf());
        for (int i = 0; (step + 1) * l.chains % TILE_STEPS == 0 && i < 4; i++) {
            const uint16_t v =
                ((const uint16_t *)(tile + l.scales_at))[part * UNIT_ROWS + place + i / 2];
            sum[i] = l.scale == SCALE_ROW
                         ? __fadd_rn(sum[i], chain[i])
                         : __fmaf_rn(ones * scale_to_f32(v, l.scale), chain[i], sum[i]);
            chain[i] = 0;
        }
    }
    for (int i = 0; i < 4; i++) {
        const float scale = l.scale == SCALE_ROW
                                ? ((const float *)(unit + l.row_scales_at))[place + i / 2] * ones
                                : 1.0f;
        const int row = row0 + lane % 4 * 2 + i % 2, col = blockIdx.x * 16 + lane / 4 + i / 2 * 8;
        if (row < rows && col < n)
            y[(size_t)row * n + col] = __fmul_rn(scale, sum[i]);
    }
}

typedef void chain_function(float *, const bf *, const uint8_t *, struct scheme_layout, expand_book,
                            int, int, int);

struct checked {
    struct scheme s;
    struct scheme_layout l;
    int n, in;
    bool gated;
    std::vector<uint8_t> units[2];
    uint8_t *w[2];
    bf *x, *y, *add;
    float *y_f32, *bias;
    std::vector<uint16_t> host_x, host_y, host_add;
    std::vector<float> host_f32, host_bias, want[2]; /* want: the sums */
};

template <class T> std::vector<T> fetched(const void *from, size_t n)
{
    std::vector<T> to(n);
    OK(cudaMemcpy(to.data(), from, n * sizeof(T), cudaMemcpyDeviceToHost));
    return to;
}

void make_weight(checked *c, int which)
{
    const size_t n = (size_t)c->n * c->in;
    std::vector<uint8_t> codes(n);
    std::vector<float> scales((size_t)c->n * (size_t)scheme_groups(&c->s, c->in));
    for (auto &v : codes) /* of FP8 without NaN */
        v = (uint8_t)(random_bits() & (c->l.bits == 4 ? 15 : c->s.codes == DT_FP8 ? 0xb7 : 255));
    for (auto &v : scales)
        v = f32_from_f16(f32_to_f16(0.0001F * (float)(1 + random_bits() % 1000)));
    std::vector<int16_t> zeros(scales.size());
    for (auto &v : zeros)
        v = (int16_t)(random_bits() % (c->l.bits == 4 ? 17 : 257));
    const struct scheme_rows rows = {codes.data(), scales.data(),
                                     c->s.has_zero ? zeros.data() : nullptr};
    c->units[which].resize(scheme_units_bytes(&c->s, c->n, c->in));
    scheme_pack(&c->s, DT_BF16, c->in, &rows, c->n, c->units[which].data());
    c->w[which] = take<uint8_t>(c->units[which].size());
    OK(cudaMemcpy(c->w[which], c->units[which].data(), c->units[which].size(),
                  cudaMemcpyHostToDevice));
    OK(cudaDeviceSynchronize()); /* the copy may end after the call: streams do not wait for it */
}

void make_want(struct device *d, checked *c, int which)
{
    float *sums = take<float>((size_t)CHECK_ROWS * c->n);
    const dim3 grid((unsigned)(c->n + 15) / 16, (CHECK_ROWS + 7) / 8);
    static chain_function *const kernels[EXPANDS] = {
        chain_kernel<EXPAND_INT4>, chain_kernel<EXPAND_CODEBOOK>,  chain_kernel<EXPAND_INT8>,
        chain_kernel<EXPAND_FP8>,  chain_kernel<EXPAND_INT4_ZERO>, chain_kernel<EXPAND_INT8_ZERO>};
    kernels[expand_of(&c->l)]<<<grid, 32, 0, d->stream>>>(
        sums, c->x, c->w[which], c->l, scheme_book(DT_BF16, &c->s), CHECK_ROWS, c->in, c->n);
    OK(cudaStreamSynchronize(d->stream));
    c->want[which] = fetched<float>(sums, (size_t)CHECK_ROWS * c->n);
    OK(cudaFree(sums));
}

/* The largest error of some sums, as a part of the sum of magnitudes. */
double error_of_want(const checked *c)
{
    double worst = 0;
    for (int i = 0; i < 400; i++) {
        const int r = (int)(random_bits() % CHECK_ROWS), col = (int)(random_bits() % c->n);
        double sum = 0, all = 0;
        for (int k = 0; k < c->in; k++) {
            float scale;
            const float v =
                scheme_unpack(&c->s, DT_BF16, c->in, c->units[0].data(), col, k, &scale);
            const double p = (double)v * scale * f32_from_bf16(c->host_x[(size_t)r * c->in + k]);
            sum += p;
            all += fabs(p);
        }
        worst = fmax(worst, fabs(sum - c->want[0][(size_t)r * c->n + col]) / all);
    }
    return worst;
}

enum mode { PLAIN, ADD, BIAS_ADD, F32, MODES };

/* Is y's value at `at` what the sums and the rule of matmul_int.h give?  SiLU's within rounding. */
bool is_right(const checked *c, mode mode, size_t at, int col)
{
    float v = c->want[0][at];
    if (mode == F32)
        return c->host_f32[at] == v;
    if (mode == BIAS_ADD)
        v += c->host_bias[col];
    if (!c->gated) {
        if (mode == ADD || mode == BIAS_ADD)
            v += f32_from_bf16(c->host_add[at]);
        return c->host_y[at] == f32_to_bf16(v);
    }
    const double gate = f32_from_bf16(f32_to_bf16(v));
    const double want = gate / (1 + exp(-gate)) * f32_from_bf16(f32_to_bf16(c->want[1][at]));
    return fabs(f32_from_bf16(c->host_y[at]) - want) <= 0.005 * (fabs(want) + 1e-3);
}

int check_run(struct device *d, checked *c, int cut, int rows, mode mode, int sm_count)
{
    struct device some = *d;
    some.sm_count = sm_count;
    const size_t n = (size_t)CHECK_ROWS * c->n;
    struct product p = {};
    p.x = c->x;
    p.rows = rows;
    p.in = c->in;
    p.n = p.y_stride = c->n;
    p.scheme = &c->s;
    p.w = c->w[0];
    p.w_up = c->w[1];
    p.act = c->gated ? ACT_SILU : ACT_NONE;
    p.y = mode == F32 ? (void *)c->y_f32 : c->y;
    p.y_f32 = mode == F32;
    p.bias = mode == BIAS_ADD ? c->bias : nullptr;
    p.add = (mode == ADD || mode == BIAS_ADD) && !c->gated ? c->add : nullptr;
    const size_t words = scheme_wide_given_words(d->sm_count);
    OK(cudaMemsetAsync(d->partials, 0xff, scheme_wide_sums_bytes(d->sm_count), d->stream));
    OK(cudaMemsetAsync(c->y, 0xff, n * 2, d->stream));
    OK(cudaMemsetAsync(c->y_f32, 0xff, n * 4, d->stream));
    p.x = c->x + c->in; /* others, so that what is handed on there is not what is wanted */
    matmul_scheme_sm90_cut(&some, &p, cut_of(cut));
    p.x = c->x;
    matmul_scheme_sm90_cut(&some, &p, cut_of(cut));
    OK(some.fault);
    OK(cudaStreamSynchronize(d->stream));
    for (int32_t given : fetched<int32_t>(d->tiles_given, words))
        if (given) {
            printf("  cut %d rows %d: sums that nobody took\n", cut, rows);
            return 1;
        }
    c->host_y = fetched<uint16_t>(c->y, n);
    c->host_f32 = fetched<float>(c->y_f32, n);
    int wrong = 0, outside = 0;
    for (size_t at = 0; at < n; at++)
        if (at < (size_t)rows * c->n)
            wrong += !is_right(c, mode, at, (int)(at % c->n));
        else
            outside += mode == F32 ? f32_to_bits(c->host_f32[at]) != ~0u : c->host_y[at] != 0xffff;
    if (wrong || outside)
        printf("  cut %d rows %d mode %d, %d SMs: %d wrong, %d written outside\n", cut, rows, mode,
               sm_count, wrong, outside);
    return wrong || outside;
}

/* Every tile, of several numbers of rows, in every mode, also as if there were few SMs. */
int check_runs(struct device *d, checked *c)
{
    int bad = 0;
    for (int cut = 0; cut < CUTS; cut++)
        for (int rows : {1, 65, 129, 300, 600})
            for (int mode = 0; mode < (c->gated ? F32 : MODES); mode++)
                for (int sm_count : {d->sm_count, 5, 4})
                    if (scheme_wide_has(cut_of(cut).tile, c->gated))
                        bad += check_run(d, c, cut, rows, (enum mode)mode, sm_count);
    return bad;
}

/* Every tile, on all SMs. */
int check_run_of_all(struct device *d, checked *c)
{
    int bad = 0;
    for (int cut = 0; cut < CUTS; cut++)
        for (int rows : {144, (int)CHECK_ROWS})
            if (scheme_wide_has(cut_of(cut).tile, c->gated))
                bad += check_run(d, c, cut, rows, ADD, d->sm_count);
    return bad;
}

int check(struct device *d, const struct scheme *s, int n, int in, bool gated,
          int (*runs)(struct device *, checked *) = check_runs)
{
    checked c = {};
    c.s = *s;
    c.n = n;
    c.in = in;
    c.gated = gated;
    scheme_layout(&c.l, s, in);
    c.x = random_matrix<bf>((size_t)(CHECK_ROWS + 1) * in, 1);
    c.add = random_matrix<bf>((size_t)CHECK_ROWS * n, 1);
    c.bias = random_matrix<float>((size_t)n, 1);
    c.y = take<bf>((size_t)CHECK_ROWS * n);
    c.y_f32 = take<float>((size_t)CHECK_ROWS * n);
    c.host_x = fetched<uint16_t>(c.x, (size_t)(CHECK_ROWS + 1) * in);
    c.host_add = fetched<uint16_t>(c.add, (size_t)CHECK_ROWS * n);
    c.host_bias = fetched<float>(c.bias, (size_t)n);
    for (int g = 0; g <= gated; g++) {
        make_weight(&c, g);
        make_want(d, &c, g);
    }
    const double error = error_of_want(&c);
    const int bad = (error > 1e-6) + runs(d, &c);
    char text[96];
    printf("%s %s n %d in %d%s: sums within %.2g of f64\n", bad ? "FAIL" : "ok  ",
           scheme_describe(s, text, sizeof text), n, in, gated ? " gated" : "", error);
    for (void *at : {(void *)c.x, (void *)c.add, (void *)c.bias, (void *)c.y, (void *)c.y_f32,
                     (void *)c.w[0], (void *)c.w[1]})
        OK(cudaFree(at));
    return bad;
}

/* ---- fast ---- */

const struct layer layers[] = {
    {"qkv", 4096, 6144, false, false, false, false},
    {"out", 4096, 4096, false, true, false, false},
    {"gate|up", 4096, 14336, true, false, false, false},
    {"bare", 4096, 28672, false, false, false, false},
    {"down", 14336, 4096, false, true, false, false},
};

struct copies { /* of a weight, more than the second-level cache holds */
    const struct scheme *s;
    size_t half, bytes; /* of gate, of both */
    uint8_t *w;
    int n;
};

copies make_copies(const struct scheme *s, const struct layer *l)
{
    copies c = {s};
    c.half = scheme_units_bytes(s, l->n, l->in);
    c.bytes = c.half * (l->gated ? 2 : 1);
    c.n = (int)(L2_TIMES / c.bytes) + 1;
    c.w = random_units(s, l->n, l->in, c.n * (l->gated ? 2 : 1));
    return c;
}

struct turn { /* something that is timed */
    cudaGraphExec_t run;
    std::vector<double> us;

    double median() const
    {
        return us[us.size() / 2];
    }
};

/* Microseconds of a launch, in the second half of a turn. */
double steady_us(struct bench *b, const turn *t, int launches)
{
    double ms = 0;
    std::vector<double> us;
    while (ms < STEADY_MS) {
        const double one = run_us(b->d.stream, t->run);
        ms += one / 1000;
        if (ms > STEADY_MS / 2)
            us.push_back(one / launches);
    }
    std::sort(us.begin(), us.end());
    return us[us.size() / 2];
}

void take_turns(struct bench *b, std::vector<turn> *turns, int launches, enum timing timing)
{
    std::vector<turn *> order;
    for (turn &t : *turns)
        order.push_back(&t);
    for (int round = 0; round < (timing != ALL_CUTS ? 3 : 6); round++) {
        for (size_t i = order.size(); timing != ALL_CUTS && i > 1; i--)
            std::swap(order[i - 1], order[random_bits() % i]);
        for (turn *t : order) {
            const double us = timing != ALL_CUTS ? steady_us(b, t, launches)
                                                 : run_us(b->d.stream, t->run) / launches;
            if (timing != ALL_CUTS || round > 0)
                t->us.push_back(us);
        }
    }
    for (turn &t : *turns) {
        std::sort(t.us.begin(), t.us.end());
        OK(cudaGraphExecDestroy(t.run));
    }
}

struct product product_of(struct bench *b, const copies *c, const struct layer *l, int rows)
{
    struct product p = {};
    p.x = b->x;
    p.rows = rows;
    p.in = l->in;
    p.n = p.y_stride = l->n;
    p.scheme = c->s;
    p.w = c->w;
    p.w_up = l->gated ? c->w + c->half : nullptr;
    p.act = l->gated ? ACT_SILU : ACT_NONE;
    p.y = b->y;
    p.add = l->add ? b->add : nullptr;
    return p;
}

turn cut_turn(struct bench *b, const copies *c, const struct layer *l, int rows, int cut,
              int launches)
{
    struct product p = product_of(b, c, l, rows);
    return {graph_of(b->d.stream, launches, [&](int i) {
        const uint8_t *w = c->w + c->bytes * (size_t)(i % c->n);
        p.w = w;
        p.w_up = l->gated ? w + c->half : nullptr;
        matmul_scheme_sm90_cut(&b->d, &p, cut_of(cut));
    })};
}

/* y[rows, n] = silu(both[rows, n]) * both[rows, n + n], 8 values a thread. */
__global__ void swiglu_kernel(bf *y, const bf *both, size_t n_all, int n)
{
    const size_t at = (blockIdx.x * (size_t)blockDim.x + threadIdx.x) * 8;
    if (at >= n_all)
        return;
    const bf *from = both + at / n * 2 * n + at % n;
    uint4 gate = *(const uint4 *)from;
    const uint4 up = *(const uint4 *)(from + n);
    bf *g = (bf *)&gate;
    for (int i = 0; i < 8; i++) {
        const float v = (float)g[i];
        g[i] = (bf)(v / (1 + __expf(-v)) * (float)((const bf *)&up)[i]);
    }
    *(uint4 *)(y + at) = gate;
}

turn lt_turn(struct bench *b, const struct layer *l, int rows, const std::vector<bf *> &w,
             bool with_swiglu, int launches)
{
    static bf *gated = take<bf>((size_t)ROWS_MAX * 14336);
    struct lt_product p;
    if (!lt_find(b, l, rows, &p))
        exit(1);
    return {graph_of(b->d.stream, launches, [&](int i) {
        lt_launch(b, &p, w[(size_t)i % w.size()]);
        const size_t all = (size_t)rows * l->n;
        if (with_swiglu)
            swiglu_kernel<<<(unsigned)((all + 2047) / 2048), 256, 0, b->d.stream>>>(gated, b->y,
                                                                                    all, l->n);
    })};
}

/* Those that are timed, the likeliest first if not all. */
std::vector<int> cuts_of(const struct scheme_wide_shape *s, int chosen, enum timing timing)
{
    std::vector<int> cuts;
    for (int cut = 0; cut < CUTS; cut++)
        if (timing == STEADY ? cut == chosen : scheme_wide_has(cut_of(cut).tile, s->gated))
            cuts.push_back(cut);
    if (timing == NEAR) {
        std::sort(cuts.begin(), cuts.end(), [&](int a, int b) {
            return scheme_wide_cost(cut_of(a), s) < scheme_wide_cost(cut_of(b), s);
        });
        cuts.resize(NEAR_CUTS);
    }
    return cuts;
}

void print_name(int cut)
{
#define NAME(WEIGHTS, ROWS) #WEIGHTS "x" #ROWS,
    static const char *const names[] = {SCHEME_WIDE_TILES(NAME)};
#undef NAME
    printf(" %s%s", names[cut / 2], cut % 2 ? "p" : "");
}

void bench_rows(struct bench *b, const struct layer *l, int rows, const std::vector<bf *> &w,
                const std::vector<copies> &schemes, enum timing timing)
{
    const int launches = rows <= 256 ? 40 : 8;
    std::vector<turn> turns = {lt_turn(b, l, rows, w, false, launches)};
    if (l->gated)
        turns.push_back(lt_turn(b, l, rows, w, true, launches));
    size_t at = turns.size();
    std::vector<int> chosen;
    std::vector<std::vector<int>> cuts;
    std::vector<struct scheme_wide_shape> shapes;
    for (const copies &c : schemes) {
        const struct product p = product_of(b, &c, l, rows);
        shapes.push_back(matmul_scheme_sm90_shape(&b->d, &p));
        chosen.push_back(number_of(matmul_scheme_sm90_chosen(&b->d, &p)));
        cuts.push_back(cuts_of(&shapes.back(), chosen.back(), timing));
        for (int cut : cuts.back())
            turns.push_back(cut_turn(b, &c, l, rows, cut, launches));
    }
    take_turns(b, &turns, launches, timing);
    const double lt = turns[0].median();
    printf("%-7s M %-4d cublasLt %7.2f us", l->name, rows, lt);
    if (l->gated)
        printf(", SwiGLU too %7.2f", turns[1].median());
    for (size_t i = 0; i < schemes.size(); i++) {
        printf(" | %s", dtype_traits[schemes[i].s->codes].name);
        for (int cut : cuts[i]) {
            const double us = turns[at++].median();
            if (timing != ALL_CUTS)
                print_name(cut);
            printf(" %7.2f", us);
            if (timing == NEAR)
                printf(" (%.1f)", scheme_wide_cost(cut_of(cut), &shapes[i]) / 1000.0);
            if (cut == chosen[i])
                printf("* %4.2fx", lt / us);
        }
    }
    printf("\n");
    fflush(stdout);
}

void bench_layer(struct bench *b, const struct layer *l, const int *rows, int n_rows,
                 enum timing timing)
{
    const size_t values = (size_t)l->in * l->n * (l->gated ? 2 : 1);
    std::vector<bf *> w(L2_TIMES / (values * 2) + 1);
    for (bf *&one : w)
        one = random_matrix<bf>(values, 1 / sqrtf((float)l->in));
    const std::vector<copies> c = {make_copies(&schemes[0], l), make_copies(&schemes[1], l),
                                   make_copies(&schemes[4], l)};
    for (int i = 0; i < n_rows; i++)
        bench_rows(b, l, rows[i], w, c, timing);
    for (bf *one : w)
        OK(cudaFree(one));
    for (const copies &one : c)
        OK(cudaFree(one.w));
}

} // namespace

int main(int argc, char **argv)
{
    static int rows[16] = {65, 128, 256, 512, 1024, 2048, 4096};
    int n_rows = 7, bad = 0;
    struct device d = device_bare(DT_BF16);
    const bool only_check = argc > 1 && strcmp(argv[1], "check") == 0;
    const enum timing timing = argc > 1 && strcmp(argv[1], "steady") == 0 ? STEADY
                               : argc > 1 && strcmp(argv[1], "near") == 0 ? NEAR
                                                                          : ALL_CUTS;
    const int first = timing != ALL_CUTS ? 2 : 1; /* of the rows */
    for (const struct scheme &s : schemes) {
        if (argc > 1 && !only_check)
            break;
        bad += check(&d, &s, 200, 256, false);
        bad += check(&d, &s, 584, 1152, false);
        bad += check(&d, &s, 200, 1024, false);
        bad += check(&d, &s, 200, 4096, false); /* tiles that two blocks share */
        bad += check(&d, &s, 200, 4096, true);
        if (&s < schemes + 2 || s.codes == DT_NF4) {
            bad += check(&d, &s, 8976, 2048, false, check_run_of_all);
            bad += check(&d, &s, 8976, 2048, true, check_run_of_all);
        }
        bad += check(&d, &s, 328, s.group == 256 ? 768 : 640, true); /* tiles of k: an odd number */
    }
    if (argc < 2 || only_check)
        printf("right: %d bad\n", bad);
    if (only_check)
        return bad != 0;
    if (argc > first)
        for (n_rows = 0; n_rows + first < argc && n_rows < 16; n_rows++)
            rows[n_rows] = atoi(argv[n_rows + first]);
    struct bench b = bench_open(ROWS_MAX);
    printf(
        "microseconds of each tile, * the one chosen, and how much faster than cublasLt it is\n");
    for (const struct layer &l : layers)
        bench_layer(&b, &l, rows, n_rows, timing);
    return bad != 0;
}
