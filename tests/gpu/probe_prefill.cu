/* probe_prefill.cu - attention of prompts: against float64, bit for bit, and its speed.
 *
 * Two programs, as the bounded waits of the first cost the loading warp some registers
 *   N="nvcc -O3 -std=c++17 -gencode=arch=compute_90a,code=sm_90a -I. tests/gpu/probe_prefill.cu
 *       kernels/cuda/attention_prefill.cu kernels/cuda/attention_prefill_sm90.cu"
 *   $N -DMBARRIER_SPINS_MAX=1000000 -o check_prefill && ./check_prefill check
 *   $N -o bench_prefill && ./bench_prefill bench
 *
 * Everything a kernel must not use is NaN: unwritten cache, rows of no tile, the rest of q's rows.
 * Everything it must not write is poison that is looked at afterwards. */
#include "kernels/cuda/attention_prefill.cuh"

#include <algorithm>
#include <math.h>
#include <random>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <string>
#include <vector>

#define OK(call)                                                                                   \
    do {                                                                                           \
        cudaError_t e_ = (call);                                                                   \
        if (e_ != cudaSuccess) {                                                                   \
            printf("FAILED %s: %s\n", #call, cudaGetErrorString(e_));                              \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

void cuda_check(struct device *, cudaError_t e, const char *at)
{
    if (e != cudaSuccess) {
        printf("FAILED %s: %s\n", at, cudaGetErrorString(e));
        exit(1);
    }
}

typedef uint16_t half_bits;

enum { N_LAYERS = 2, LAYER = 1, GAP = 3, HEADS_MAX = 64 };

struct part { /* prompt tokens [first, first + n) of sequence `seq` in one step */
    int seq, first, n;
};

struct test {
    const char *name;
    int head_dim, n_heads, n_kv_heads, block_tokens;
    enum dtype dtype;
    std::vector<int> lens;   /* tokens of each sequence */
    std::vector<int> cached; /* of them in the cache before the step */
    int window;
    float soft_cap;
    bool alibi, bidirectional;
};

static half_bits to_bits(float x, enum dtype t)
{
    half_bits r;
    if (t == DT_BF16) {
        __nv_bfloat16 h = __float2bfloat16(x);
        memcpy(&r, &h, 2);
    } else {
        __half h = __float2half(x);
        memcpy(&r, &h, 2);
    }
    return r;
}

__host__ __device__ static float from_bits(half_bits b, enum dtype t)
{
    if (t == DT_BF16) {
        __nv_bfloat16_raw r;
        r.x = b;
        return __bfloat162float(__nv_bfloat16(r));
    }
    __half_raw r;
    r.x = b;
    return __half2float(__half(r));
}

struct inputs { /* dense, on the host: the truth that cache and q are made from */
    std::vector<std::vector<half_bits>> q, k, v; /* [seq][token, head, head_dim] */
    std::vector<float> slopes;
    std::vector<std::vector<int>> table; /* [slot] blocks, in shuffled order */
    int n_blocks;
};

static struct inputs make_inputs(const struct test &t, unsigned seed)
{
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal;
    struct inputs in;
    auto fill = [&](int n, float scale) {
        std::vector<half_bits> x((size_t)n);
        for (auto &b : x)
            b = to_bits(normal(rng) * scale, t.dtype);
        return x;
    };
    std::vector<int> blocks;
    in.n_blocks = 5;
    for (int len : t.lens) {
        in.q.push_back(fill(len * t.n_heads * t.head_dim, 2.0f));
        in.k.push_back(fill(len * t.n_kv_heads * t.head_dim, 1.0f));
        in.v.push_back(fill(len * t.n_kv_heads * t.head_dim, 1.0f));
        in.n_blocks += (len + t.block_tokens - 1) / t.block_tokens;
    }
    for (int i = 0; i < in.n_blocks; i++)
        blocks.push_back(i);
    std::shuffle(blocks.begin(), blocks.end(), rng);
    for (int len : t.lens) {
        int n = (len + t.block_tokens - 1) / t.block_tokens;
        in.table.emplace_back(blocks.end() - n, blocks.end());
        blocks.resize(blocks.size() - (size_t)n);
    }
    for (int h = 0; h < t.n_heads; h++)
        in.slopes.push_back(exp2f(-8.0f * (float)(h + 1) / (float)t.n_heads));
    return in;
}

template <typename T> struct on_device {
    T *at = nullptr;
    size_t n;
    explicit on_device(const std::vector<T> &x) : n(x.size())
    {
        OK(cudaMalloc(&at, n * sizeof(T) + 16));
        OK(cudaMemcpy(at, x.data(), n * sizeof(T), cudaMemcpyHostToDevice));
    }
    ~on_device()
    {
        cudaFree(at);
    }
    std::vector<T> read() const
    {
        std::vector<T> x(n);
        OK(cudaMemcpy(x.data(), at, n * sizeof(T), cudaMemcpyDeviceToHost));
        return x;
    }
};

struct fake { /* a device with a batch of tiles */
    struct device d = {};
    struct attention_counts counts = {};
    struct attention_plan host = {};
};

static void fake_init(struct fake *f, int cc, int sm_count)
{
    f->d.cc = cc;
    f->d.sm_count = sm_count;
    f->host.counts = &f->counts;
    f->d.batch.attention_host = &f->host;
}

/* Tiles of a part whose tokens lie at `row` of the batch. */
static void add_tiles(std::vector<struct attention_tile> *tiles, const struct part &p, int row,
                      int kv_len)
{
    for (int at = 0; at < p.n; at += ATTENTION_TILE) {
        struct attention_tile t;
        t.slot = p.seq;
        t.first_token = row + at;
        t.n_tokens = std::min((int)ATTENTION_TILE, p.n - at);
        t.position = p.first + at;
        t.prompt_len = kv_len;
        tiles->push_back(t);
    }
}

static void sort_tiles(std::vector<struct attention_tile> *tiles)
{
    std::stable_sort(tiles->begin(), tiles->end(), [](const auto &a, const auto &b) {
        return a.position + a.n_tokens > b.position + b.n_tokens;
    });
}

static std::vector<half_bits> make_cache(const struct test &t, const struct inputs &in,
                                         const std::vector<std::vector<half_bits>> &from,
                                         const std::vector<int> &kv_len)
{
    const size_t D = (size_t)t.head_dim;
    std::vector<half_bits> c((size_t)(N_LAYERS * in.n_blocks * t.n_kv_heads * t.block_tokens) * D,
                             0xffff);
    for (size_t s = 0; s < kv_len.size(); s++)
        for (int i = 0; i < kv_len[s]; i++)
            for (int h = 0; h < t.n_kv_heads; h++) {
                int block = LAYER * in.n_blocks + in.table[s][(size_t)(i / t.block_tokens)];
                size_t to =
                    (size_t)((block * t.n_kv_heads + h) * t.block_tokens + i % t.block_tokens) * D;
                size_t at = (size_t)(i * t.n_kv_heads + h) * D;
                std::copy_n(from[s].begin() + (long)at, D, c.begin() + (long)to);
            }
    return c;
}

/* Runs one step of parts; returns out rows [n_rows, n_heads, head_dim], GAP rows around each part.
 */
static std::vector<half_bits> run_step(const struct test &t, const struct inputs &in,
                                       const std::vector<struct part> &parts, int cc, bool *clean)
{
    const int D = t.head_dim, width = t.n_heads * D, stride = (t.n_heads + 2 * t.n_kv_heads) * D;
    std::vector<struct attention_tile> tiles;
    std::vector<int> kv_len(t.lens.size(), 0);
    int n_rows = GAP, blocks_max = 1;
    for (const auto &p : parts) {
        kv_len[(size_t)p.seq] = p.first + p.n;
        add_tiles(&tiles, p, n_rows, p.first + p.n);
        n_rows += p.n + GAP;
    }
    sort_tiles(&tiles);
    std::vector<half_bits> q((size_t)(n_rows * stride), 0xffff);
    int row = GAP;
    for (const auto &p : parts) {
        for (int i = 0; i < p.n; i++)
            std::copy_n(in.q[(size_t)p.seq].begin() + (long)(p.first + i) * width, width,
                        q.begin() + (long)(row + i) * stride);
        row += p.n + GAP;
    }
    for (const auto &b : in.table)
        blocks_max = std::max(blocks_max, (int)b.size() + 2);
    std::vector<int32_t> table(in.table.size() * (size_t)blocks_max, 0x3fffffff);
    for (size_t s = 0; s < in.table.size(); s++)
        for (int i = 0; i * t.block_tokens < kv_len[s]; i++)
            table[s * (size_t)blocks_max + (size_t)i] = in.table[s][(size_t)i];
    const size_t pad = (size_t)width;
    std::vector<half_bits> out((size_t)(n_rows * width) + 2 * pad, 0x5a5a);

    on_device<half_bits> dq(q), dk(make_cache(t, in, in.k, kv_len)),
        dv(make_cache(t, in, in.v, kv_len)), dout(out);
    on_device<int32_t> dtable(table);
    on_device<float> dslopes(in.slopes);
    on_device<struct attention_tile> dtiles(tiles);
    struct kv_cache kv = {};
    kv.k = dk.at;
    kv.v = dv.at;
    kv.dtype = t.dtype;
    kv.n_layers = N_LAYERS;
    kv.n_blocks = in.n_blocks;
    kv.block_tokens = t.block_tokens;
    kv.n_kv_heads = t.n_kv_heads;
    kv.head_dim = D;
    struct fake f;
    fake_init(&f, cc, 5); /* few SMs: each has several items */
    f.counts.n_tiles = (int)tiles.size();
    f.d.batch.attention.tile = dtiles.at;
    f.d.batch.block_table = dtable.at;
    f.d.batch.n_tokens = n_rows;
    f.d.limits.table_stride = blocks_max;
    struct attention_args a = {};
    a.out = dout.at + pad;
    a.q = dq.at;
    a.q_stride = stride;
    a.kv = &kv;
    a.layer = LAYER;
    a.n_heads = t.n_heads;
    a.scale = 1.0f / sqrtf((float)D);
    a.soft_cap = t.soft_cap;
    a.window = t.window;
    a.alibi = t.alibi ? dslopes.at : nullptr;
    a.bidirectional = t.bidirectional;
    cuda_attention_prefill(&f.d, &a);
    OK(cudaDeviceSynchronize());
    out = dout.read();

    std::vector<bool> live((size_t)n_rows, false);
    row = GAP;
    for (const auto &p : parts) {
        std::fill_n(live.begin() + row, p.n, true);
        row += p.n + GAP;
    }
    *clean = true;
    for (size_t i = 0; i < out.size(); i++) {
        bool inside = i >= pad && i < out.size() - pad && live[(i - pad) / (size_t)width];
        if (!inside && out[i] != 0x5a5a)
            *clean = false;
    }
    return std::vector<half_bits>(out.begin() + (long)pad, out.end() - (long)pad);
}

struct truth_args { /* one sequence, dense */
    const half_bits *q, *k, *v;
    const float *slopes;
    int head_dim, n_heads, n_kv_heads, window, len, first;
    float scale, soft_cap;
    enum dtype dtype;
    int bidirectional;
};

/* One row in float64; `score` is scratch for len values, out has head_dim. */
__host__ __device__ static void truth_row(const struct truth_args &a, int token, int head,
                                          double *score, double *out, int lane, int lanes)
{
    const int D = a.head_dim, kv_head = head / (a.n_heads / a.n_kv_heads);
    const half_bits *q = a.q + (size_t)(token * a.n_heads + head) * D;
    for (int j = lane; j < a.len; j += lanes) {
        const half_bits *k = a.k + (size_t)(j * a.n_kv_heads + kv_head) * D;
        double s = 0;
        for (int i = 0; i < D; i++)
            s += (double)from_bits(q[i], a.dtype) * (double)from_bits(k[i], a.dtype);
        s *= a.scale;
        if (a.soft_cap > 0)
            s = a.soft_cap * tanh(s / a.soft_cap);
        if (a.slopes)
            s += (double)a.slopes[head] * (j - token);
        bool hidden = (!a.bidirectional && j > token) || (a.window > 0 && j <= token - a.window);
        score[j] = hidden ? -INFINITY : s;
    }
#ifdef __CUDA_ARCH__
    __syncthreads();
#endif
    double top = -INFINITY, sum = 0;
    for (int j = 0; j < a.len; j++)
        top = fmax(top, score[j]);
    for (int j = 0; j < a.len; j++)
        sum += exp(score[j] - top);
    for (int i = lane; i < D; i += lanes) {
        double o = 0;
        for (int j = 0; j < a.len; j++)
            if (score[j] > -INFINITY)
                o += exp(score[j] - top) *
                     (double)from_bits(a.v[(size_t)(j * a.n_kv_heads + kv_head) * D + i], a.dtype);
        out[i] = o / sum;
    }
}

/* grid: [tokens, n_heads]   block: [128] */
__global__ void truth_kernel(struct truth_args a, float *out)
{
    __shared__ double score[4096], row[256];
    int token = a.first + (int)blockIdx.x, head = (int)blockIdx.y;
    truth_row(a, token, head, score, row, (int)threadIdx.x, (int)blockDim.x);
    __syncthreads();
    for (int i = (int)threadIdx.x; i < a.head_dim; i += (int)blockDim.x)
        out[((size_t)blockIdx.x * a.n_heads + head) * a.head_dim + i] = (float)row[i];
}

static struct truth_args truth_of(const struct test &t, int len, int first)
{
    struct truth_args a = {};
    a.head_dim = t.head_dim;
    a.n_heads = t.n_heads;
    a.n_kv_heads = t.n_kv_heads;
    a.window = t.window;
    a.len = len;
    a.first = first;
    a.scale = 1.0f / sqrtf((float)t.head_dim);
    a.soft_cap = t.soft_cap;
    a.dtype = t.dtype;
    a.bidirectional = t.bidirectional;
    return a;
}

/* [n, n_heads, head_dim] of tokens [first, first + n) of a sequence whose length is first + n. */
static std::vector<float> truth(const struct test &t, const struct inputs &in, const struct part &p)
{
    const size_t s = (size_t)p.seq;
    on_device<half_bits> q(in.q[s]), k(in.k[s]), v(in.v[s]);
    on_device<float> slopes(in.slopes);
    on_device<float> out(std::vector<float>((size_t)(p.n * t.n_heads * t.head_dim)));
    struct truth_args a = truth_of(t, p.first + p.n, p.first);
    a.q = q.at;
    a.k = k.at;
    a.v = v.at;
    a.slopes = t.alibi ? slopes.at : nullptr;
    truth_kernel<<<dim3((unsigned)p.n, (unsigned)t.n_heads), 128>>>(a, out.at);
    OK(cudaDeviceSynchronize());
    return out.read();
}

/* The device's float64 against the host's, for a few rows. */
static bool truth_is_true(const struct test &t, const struct inputs &in, const struct part &p,
                          const std::vector<float> &from)
{
    const size_t s = (size_t)p.seq;
    struct truth_args a = truth_of(t, p.first + p.n, p.first);
    a.q = in.q[s].data();
    a.k = in.k[s].data();
    a.v = in.v[s].data();
    a.slopes = t.alibi ? in.slopes.data() : nullptr;
    std::vector<double> score((size_t)a.len), out(256);
    for (int i = 0; i < 3; i++) {
        int token = i * (p.n - 1) / 2, head = i * (t.n_heads - 1) / 2;
        truth_row(a, p.first + token, head, score.data(), out.data(), 0, 1);
        for (int c = 0; c < t.head_dim; c++)
            if (!(fabs(out[(size_t)c] -
                       from[(size_t)((token * t.n_heads + head) * t.head_dim + c)]) < 1e-5))
                return false;
    }
    return true;
}

static int n_failed;

enum { BAD_LINES_MAX = 50 };

struct tally { /* of one kernel and head width */
    int n_values, n_bits;
    double worst[2], mean[2]; /* bf16, f16 */
};

static struct tally tally[2][257]; /* [cc 80, 90][head_dim] */

static struct tally *tally_of(const struct test &t, int cc)
{
    return &tally[cc == 90][t.head_dim];
}

static void print_bad(const struct test &t, int cc, const std::string &why)
{
    if (n_failed++ < BAD_LINES_MAX)
        printf("BAD cc%d hd%d %d/%d page %d %s %s:%s\n", cc, t.head_dim, t.n_heads, t.n_kv_heads,
               t.block_tokens, t.dtype == DT_BF16 ? "bf16" : "f16", t.name, why.c_str());
}

static void print_tally()
{
    for (int cc : {80, 90})
        for (int D : {64, 80, 96, 128, 256}) {
            const struct tally &a = tally[cc == 90][D];
            if (a.n_values)
                printf("cc%d hd%-3d %2d value checks, %d bit checks; max/mean error bf16 %.1e %.1e"
                       " f16 %.1e %.1e\n",
                       cc, D, a.n_values, a.n_bits, a.worst[0], a.mean[0], a.worst[1], a.mean[1]);
        }
}

struct verdict {
    double worst, mean;
    int bad;
};

static struct verdict compare(const struct test &t, const std::vector<half_bits> &out,
                              const std::vector<float> &want, int row)
{
    struct verdict v = {0, 0, 0};
    const double atol = t.dtype == DT_BF16 ? 8e-3 : 1e-3, rtol = t.dtype == DT_BF16 ? 6e-3 : 1e-3;
    const size_t at = (size_t)(row * t.n_heads * t.head_dim);
    for (size_t i = 0; i < want.size(); i++) {
        double e = fabs((double)from_bits(out[at + i], t.dtype) - (double)want[i]);
        if (!(e <= atol + rtol * fabs((double)want[i])))
            v.bad++;
        v.worst = e > v.worst || e != e ? e : v.worst;
        v.mean += e / (double)want.size();
    }
    return v;
}

static std::vector<struct part> whole_parts(const struct test &t)
{
    std::vector<struct part> parts;
    for (size_t s = 0; s < t.lens.size(); s++)
        parts.push_back({(int)s, t.cached[s], t.lens[s] - t.cached[s]});
    return parts;
}

static void check_values(const struct test &t, int cc)
{
    const struct inputs in = make_inputs(t, 17);
    const auto parts = whole_parts(t);
    bool clean;
    const auto out = run_step(t, in, parts, cc, &clean);
    int row = GAP, bad = 0, n_rows = 0;
    double worst = 0, mean = 0;
    bool is_true = true;
    for (const auto &p : parts) {
        const auto want = truth(t, in, p);
        is_true = is_true && truth_is_true(t, in, p, want);
        struct verdict v = compare(t, out, want, row);
        bad += v.bad;
        worst = v.worst > worst || v.worst != v.worst ? v.worst : worst;
        mean += v.mean * p.n;
        n_rows += p.n;
        row += p.n + GAP;
    }
    struct tally *sum = tally_of(t, cc);
    const int f16 = t.dtype == DT_F16;
    sum->n_values++;
    sum->worst[f16] = worst > sum->worst[f16] || worst != worst ? worst : sum->worst[f16];
    sum->mean[f16] = std::max(sum->mean[f16], mean / n_rows);
    if (bad || !clean || !is_true) {
        char why[128];
        snprintf(why, sizeof why, " %d wrong, max %.1e mean %.1e%s%s", bad, worst, mean / n_rows,
                 clean ? "" : " CANARY", is_true ? "" : " TRUTH");
        print_bad(t, cc, why);
    }
}

/* Are the rows of a part the bits of `whole`? They run alone, a step with nothing else. */
static bool same_rows(const struct test &t, const struct inputs &in, int cc,
                      const std::vector<half_bits> &whole, struct part p, int whole_row)
{
    bool clean;
    const size_t width = (size_t)(t.n_heads * t.head_dim);
    const auto out = run_step(t, in, {p}, cc, &clean);
    return clean && memcmp(out.data() + GAP * width, whole.data() + (size_t)whole_row * width,
                           (size_t)p.n * width * 2) == 0;
}

static void check_bits(const struct test &t, int cc)
{
    const struct inputs in = make_inputs(t, 23);
    const auto parts = whole_parts(t);
    bool clean, again_clean;
    const auto whole = run_step(t, in, parts, cc, &clean);
    const auto again = run_step(t, in, parts, cc, &again_clean);
    std::string bad;
    if (whole != again)
        bad += " REPEAT";
    static const int cuts[] = {0, 1, 2, 65, 100, 137, 265, 384, 700, 1 << 30};
    int row = GAP;
    for (const auto &p : parts) {
        if (!same_rows(t, in, cc, whole, p, row))
            bad += " ALONE";
        for (int i = 0; cuts[i] < p.n; i++) {
            int n = std::min(cuts[i + 1], p.n) - cuts[i];
            if (!same_rows(t, in, cc, whole, {p.seq, p.first + cuts[i], n}, row + cuts[i]))
                bad += " CUT" + std::to_string(cuts[i]);
        }
        row += p.n + GAP;
    }
    if (!clean || !again_clean)
        bad += " CANARY";
    tally_of(t, cc)->n_bits++;
    if (!bad.empty())
        print_bad(t, cc, " bits" + bad);
}

static std::vector<struct test> make_tests()
{
    const std::vector<int> lens = {1, 700, 128, 65, 301, 129}, none(6, 0);
    const std::vector<int> cached = {0, 333, 0, 64, 0, 128};
    std::vector<struct test> all;
    const int dims[] = {64, 80, 96, 128, 256}, pages[] = {16, 32, 64, 128, 256};
    for (int i = 0; i < 5; i++)
        for (int j = 0; j < 5; j++) {
            enum dtype dt = (i + j) % 2 ? DT_F16 : DT_BF16;
            all.push_back(
                {"ragged", dims[i], 4, 2, pages[j], dt, lens, cached, 0, 0, false, false});
        }
    for (int D : dims) {
        all.push_back({"mha", D, 2, 2, 16, DT_BF16, {513}, {0}, 0, 0, false, false});
        all.push_back({"mqa", D, 8, 1, 64, DT_F16, {513}, {0}, 0, 0, false, false});
        all.push_back({"window 100", D, 4, 2, 16, DT_BF16, lens, cached, 100, 0, false, false});
        all.push_back({"window 1", D, 4, 2, 64, DT_F16, lens, cached, 1, 0, false, false});
        all.push_back({"soft cap", D, 4, 2, 32, DT_BF16, lens, cached, 0, 3.0f, false, false});
        all.push_back({"alibi", D, 4, 2, 16, DT_F16, lens, cached, 0, 0, true, false});
        all.push_back({"bidirectional", D, 4, 2, 16, DT_BF16, lens, none, 0, 0, false, true});
        all.push_back(
            {"all but both ways", D, 4, 2, 128, DT_BF16, lens, cached, 90, 4.0f, true, false});
        all.push_back({"long", D, 2, 1, 16, DT_BF16, {2300}, {0}, 0, 0, false, false});
    }
    return all;
}

static void check_all()
{
    for (const auto &t : make_tests()) {
        bool own = t.head_dim == 64 || t.head_dim == 128 || t.head_dim == 256;
        if (own)
            check_values(t, 90);
        if (!own || t.block_tokens == 16)
            check_values(t, 80);
    }
    const std::vector<int> lens = {700, 65, 301}, cached = {0, 20, 0};
    for (int D : {64, 80, 96, 128, 256})
        for (int window : {0, 100})
            for (int cc : {90, 80}) {
                if (cc == 80 && D == 64)
                    continue;
                struct test t = {window ? "window" : "plain",
                                 D,
                                 4,
                                 2,
                                 D == 128 ? 16 : 64,
                                 DT_BF16,
                                 lens,
                                 cached,
                                 window,
                                 window ? 5.0f : 0.0f,
                                 window > 0,
                                 false};
                check_bits(t, cc);
            }
}

__global__ void noise_kernel(half_bits *x, size_t n, unsigned seed)
{
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n;
         i += (size_t)gridDim.x * blockDim.x) {
        unsigned h = (unsigned)i * 2654435761u + seed;
        float sum = 0;
        for (int k = 0; k < 4; k++) { /* four uniforms: nearly normal, variance 1 */
            h ^= h >> 16, h *= 0x85ebca6bu, h ^= h >> 13, h *= 0xc2b2ae35u, h ^= h >> 16;
            sum += (float)h * (1.0f / 4294967296.0f) - 0.5f;
        }
        __nv_bfloat16 b = __float2bfloat16(sum * 1.7320508f);
        x[i] = *reinterpret_cast<half_bits *>(&b);
    }
}

static half_bits *noise(size_t n, unsigned seed)
{
    half_bits *x;
    OK(cudaMalloc(&x, n * 2));
    noise_kernel<<<1024, 256>>>(x, n, seed);
    OK(cudaDeviceSynchronize());
    return x;
}

static double median_ms(struct device *d, const struct attention_args *a)
{
    cudaEvent_t start, stop;
    OK(cudaEventCreate(&start));
    OK(cudaEventCreate(&stop));
    auto timed = [&](int n) {
        float ms;
        OK(cudaEventRecord(start));
        for (int i = 0; i < n; i++)
            cuda_attention_prefill(d, a);
        OK(cudaEventRecord(stop));
        OK(cudaEventSynchronize(stop));
        OK(cudaEventElapsedTime(&ms, start, stop));
        return (double)ms / n;
    };
    timed(3);
    int n = std::max(1, (int)(8.0 / timed(2)));
    std::vector<double> ms;
    for (int i = 0; i < 9; i++)
        ms.push_back(timed(n));
    std::sort(ms.begin(), ms.end());
    return ms[4];
}

static double bench_one(int head_dim, int n_heads, int n_kv_heads, int block_tokens, int len,
                        int cc, int sm_count)
{
    struct test t = {"",    head_dim, n_heads, n_kv_heads, block_tokens, DT_BF16,
                     {len}, {0},      0,       0,          false,        false};
    const int stride = (n_heads + 2 * n_kv_heads) * head_dim, n_blocks = len / block_tokens;
    std::vector<int32_t> blocks((size_t)n_blocks);
    for (int i = 0; i < n_blocks; i++)
        blocks[(size_t)i] = i;
    std::shuffle(blocks.begin(), blocks.end(), std::mt19937(5));
    std::vector<struct attention_tile> tiles;
    add_tiles(&tiles, {0, 0, len}, 0, len);
    sort_tiles(&tiles);
    on_device<int32_t> table(blocks);
    on_device<struct attention_tile> dtiles(tiles);
    struct kv_cache kv = {};
    kv.dtype = DT_BF16;
    kv.n_layers = 1;
    kv.n_blocks = n_blocks;
    kv.block_tokens = block_tokens;
    kv.n_kv_heads = n_kv_heads;
    kv.head_dim = head_dim;
    const size_t kv_values = (size_t)len * (size_t)(n_kv_heads * head_dim);
    kv.k = noise(kv_values, 1);
    kv.v = noise(kv_values, 2);
    half_bits *q = noise((size_t)len * (size_t)stride, 3);
    half_bits *out = noise((size_t)len * (size_t)(n_heads * head_dim), 4);
    struct fake f;
    fake_init(&f, cc, sm_count);
    f.counts.n_tiles = (int)tiles.size();
    f.d.batch.attention.tile = dtiles.at;
    f.d.batch.block_table = table.at;
    f.d.batch.n_tokens = len;
    f.d.limits.table_stride = n_blocks;
    struct attention_args a = {};
    a.out = out;
    a.q = q;
    a.q_stride = stride;
    a.kv = &kv;
    a.n_heads = n_heads;
    a.scale = 1.0f / sqrtf((float)head_dim);
    double ms = median_ms(&f.d, &a);
    cudaFree(kv.k);
    cudaFree(kv.v);
    cudaFree(q);
    cudaFree(out);
    double flops = 2.0 * (double)len * (double)len * head_dim * n_heads; /* 4 / 2: causal */
    return flops / ms * 1e-9;
}

static void bench_all(int sm_count)
{
    static const struct {
        int head_dim, n_heads, n_kv_heads, block_tokens, cc;
    } shape[] = {{128, 32, 8, 16, 90}, {128, 32, 8, 64, 90}, {128, 64, 8, 16, 90},
                 {128, 64, 8, 64, 90}, {64, 32, 8, 16, 90},  {64, 32, 8, 64, 90},
                 {256, 16, 8, 64, 90}, {96, 32, 32, 64, 90}, {128, 32, 8, 64, 80}};
    printf("TFLOP/s, causal bf16, batch 1%14s", "");
    for (int len = 1024; len <= 32768; len *= 2)
        printf("%7d", len);
    printf("\n");
    for (const auto &s : shape) {
        printf("%-6s hd%-3d %2d/%-2d page %-14d", s.cc == 90 ? "ours" : "cc80", s.head_dim,
               s.n_heads, s.n_kv_heads, s.block_tokens);
        for (int len = 1024; len <= 32768; len *= 2)
            printf("%7.0f", bench_one(s.head_dim, s.n_heads, s.n_kv_heads, s.block_tokens, len,
                                      s.cc, sm_count));
        printf("\n");
        fflush(stdout);
    }
}

int main(int argc, char **argv)
{
    setvbuf(stdout, nullptr, _IOLBF, 0);
    const std::string what = argc > 1 ? argv[1] : "all";
    cudaDeviceProp prop;
    OK(cudaGetDeviceProperties(&prop, 0));
    printf("%s, %d SMs\n", prop.name, prop.multiProcessorCount);
    if (what != "bench")
        check_all();
    print_tally();
    printf(n_failed ? "FAILED: %d checks\n" : "checks ok (%d failed)\n", n_failed);
    if (what != "check" && n_failed == 0)
        bench_all(prop.multiProcessorCount);
    return n_failed ? 1 : 0;
}
