/* probe_small.cu - norm, embed, rope, activation, slots and sampling alone, against double.
 *
 * nvcc -std=c++17 -O3 -I. -gencode=arch=compute_90a,code=sm_90a -o probe_small \
 *   tests/gpu/probe_small.cu kernels/cuda/{norm,embed,rope_kv,slots,sample}.cu && ./probe_small
 *
 * Stands in for the device core; needs nothing else of inferd.  Prints one line a check and the
 * times; ends with 1 when a check failed.  `probe_small check` leaves the times out. */
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/cuda/cuda_int.h"
#include "kernels/half.h"
#include "kernels/philox.h"

using std::vector;

void cuda_check(struct device *, cudaError_t e, const char *at)
{
    if (e == cudaSuccess)
        return;
    printf("FAIL %s: %s\n", at, cudaGetErrorString(e));
    exit(1);
}

namespace
{

struct device dev;
int n_failed;

#define OK(e) cuda_check(&dev, (e), #e)

void report(const char *name, bool good, const char *detail)
{
    n_failed += !good;
    printf("%s %s  %s\n", good ? "ok  " : "FAIL", name, detail);
}

/* --- numbers ------------------------------------------------------------------------------- */

uint64_t random_state = 88172645463325252ull;
uint64_t random_bits()
{
    random_state += 0x9E3779B97F4A7C15ull;
    uint64_t z = random_state;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ z >> 27) * 0x94D049BB133111EBull;
    return z ^ z >> 31;
}
double uniform()
{
    return ((double)(random_bits() >> 11) + 0.5) * 0x1p-53;
}
float normal()
{
    return (float)(sqrt(-2 * log(uniform())) * cos(6.283185307179586 * uniform()));
}
int below(int n)
{
    return (int)(random_bits() % (uint64_t)n);
}

float to_f32(uint16_t h, enum dtype t)
{
    return t == DT_F16 ? f32_from_f16(h) : f32_from_bf16(h);
}
uint16_t from_f32(float f, enum dtype t)
{
    return t == DT_F16 ? f32_to_f16(f) : f32_to_bf16(f);
}
vector<uint16_t> random_acts(size_t n, float scale)
{
    vector<uint16_t> v(n);
    for (auto &x : v)
        x = from_f32(scale * normal(), dev.act);
    return v;
}
vector<float> random_floats(size_t n, float mean, float scale)
{
    vector<float> v(n);
    for (auto &x : v)
        x = mean + scale * normal();
    return v;
}

template <class T> struct buffer { /* device memory of n T */
    T *at = nullptr;
    size_t n = 0;
    explicit buffer(size_t count) : n(count)
    {
        OK(cudaMalloc((void **)&at, n * sizeof(T) + 256));
        OK(cudaMemset(at, 0xff, n * sizeof(T) + 256)); /* NaN: poison */
    }
    explicit buffer(const vector<T> &v) : buffer(v.size())
    {
        put(v);
    }
    ~buffer()
    {
        cudaFree(at);
    }
    buffer(const buffer &) = delete;
    void put(const vector<T> &v)
    {
        OK(cudaMemcpy(at, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice));
    }
    vector<T> get() const
    {
        vector<T> v(n);
        OK(cudaDeviceSynchronize());
        OK(cudaMemcpy(v.data(), at, n * sizeof(T), cudaMemcpyDeviceToHost));
        return v;
    }
};

double half_step(enum dtype t) /* what rounding to the type may cost, relative */
{
    return t == DT_F32 ? 0x1p-24 : t == DT_F16 ? 0x1p-11 : 0x1p-8;
}

/* One rounding to the type costs 1 unit at most; what f32 sums cost before it is a hundredth of
 * one. So truncation (2 units), or a variance over width - 1 in 16 bits, is beyond. */
constexpr double UNITS_MAX = 1.01;

struct worst { /* error in units of one rounding */
    double most = 0;
    void note(double got, double want)
    {
        note(got, want, dev.act, 1e-4);
    }
    void note(double got, double want, enum dtype t, double inexact)
    {
        const double e = fabs(got - want) / (half_step(t) * fabs(want) + inexact);
        most = e <= most ? most : std::isnan(e) ? 1e30 : e;
    }
};

/* --- norm, embed, act ---------------------------------------------------------------------- */

void check_norm(int rows, int width, enum norm_kind kind, bool has_weight)
{
    const auto x = random_acts((size_t)rows * width, 2);
    const auto w = random_floats(width, 1, 0.3f), b = random_floats(width, 0, 0.3f);
    const bool has_bias = kind == NORM_LAYER && has_weight;
    buffer<uint16_t> dx(x), dy(x.size()), alone(width);
    buffer<float> dw(w), db(b);
    struct norm_args a = {dy.at,
                          dx.at,
                          rows,
                          width,
                          {kind, has_weight ? dw.at : nullptr, has_bias ? db.at : nullptr, 1e-5f},
                          nullptr};
    cuda_norm(&dev, &a);
    const auto y = dy.get();
    worst e;
    for (int r = 0; r < rows; r++) {
        double mean = 0, var = 0;
        for (int i = 0; i < width; i++)
            mean +=
                kind == NORM_LAYER ? (double)to_f32(x[(size_t)r * width + i], dev.act) / width : 0;
        for (int i = 0; i < width; i++)
            var += pow(to_f32(x[(size_t)r * width + i], dev.act) - mean, 2) / width;
        for (int i = 0; i < width; i++) {
            double v =
                (to_f32(x[(size_t)r * width + i], dev.act) - mean) / sqrt(var + (double)1e-5f);
            v = v * (has_weight ? w[i] : 1) + (has_bias ? b[i] : 0);
            e.note(to_f32(y[(size_t)r * width + i], dev.act), v);
        }
    }
    const int row = rows / 2;
    struct norm_args one = a;
    one.y = alone.at;
    one.x = dx.at + (size_t)row * width;
    one.rows = 1;
    cuda_norm(&dev, &one);
    const auto y1 = alone.get();
    const bool same = memcmp(y1.data(), &y[(size_t)row * width], width * 2) == 0;
    a.y = dx.at; /* in place */
    cuda_norm(&dev, &a);
    const bool in_place = dx.get() == y;
    char text[128];
    snprintf(text, sizeof text, "%d x %d kind %d: error %.2f units, alone %d, in place %d", rows,
             width, kind, e.most, same, in_place);
    if (e.most > UNITS_MAX || !same || !in_place)
        report("norm", false, text);
}

void check_norms()
{
    const int before = n_failed;
    for (int width : {576, 768, 2048, 4096, 5120, 16384})
        for (int rows : {1, 3, 257})
            for (int k = 0; k < 4; k++)
                check_norm(rows, width, k & 1 ? NORM_LAYER : NORM_RMS, k < 2);
    report("norm", n_failed == before, "72 shapes");
}

void check_embed(enum dtype table_type)
{
    const int vocab = 777, hidden = 576, n = 257;
    const float scale = 1.5f;
    vector<float> f = random_floats((size_t)vocab * hidden, 0, 1);
    vector<uint16_t> h(f.size());
    for (size_t i = 0; i < f.size() && table_type != DT_F32; i++) {
        h[i] = from_f32(f[i], table_type);
        f[i] = to_f32(h[i], table_type);
    }
    vector<int32_t> ids(n);
    for (auto &id : ids)
        id = below(vocab);
    buffer<float> df(f);
    buffer<uint16_t> dh(h), out((size_t)n * hidden);
    buffer<int32_t> dids(ids);
    dev.batch.ids = dids.at;
    dev.batch.n_tokens = n;
    struct tensor table = {table_type == DT_F32 ? (void *)df.at : (void *)dh.at, table_type,
                           LAYOUT_PLAIN, vocab, hidden};
    struct embed_args a = {out.at, &table, scale};
    cuda_embed(&dev, &a);
    const auto got = out.get();
    int wrong = 0;
    for (int t = 0; t < n; t++)
        for (int i = 0; i < hidden; i++)
            wrong += got[(size_t)t * hidden + i] !=
                     from_f32(f[(size_t)ids[t] * hidden + i] * scale, dev.act);
    report("embed", wrong == 0, ("wrong values: " + std::to_string(wrong)).c_str());
}

/* --- rope ---------------------------------------------------------------------------------- */

struct rope_case {
    int head_dim, dims, n_heads, n_kv_heads, tokens;
    enum rope_kind rope;
    bool norm;
    enum dtype cache;
};

float cache_value(const vector<char> &c, size_t i, enum dtype t)
{
    if (t == DT_F32)
        return ((const float *)c.data())[i];
    return to_f32(((const uint16_t *)c.data())[i], t);
}

/* size: of the larger of the two values that each value is turned from. */
void turn_reference(vector<double> &v, vector<double> &size, const rope_case &c,
                    const vector<float> *norm, const vector<float> &inv_freq, int position,
                    float scale)
{
    if (norm) {
        double sum = 0;
        for (double x : v)
            sum += x * x / c.head_dim;
        for (int i = 0; i < c.head_dim; i++)
            v[i] = v[i] / sqrt(sum + (double)1e-6f) * (*norm)[i];
    }
    for (int i = 0; i < c.head_dim; i++)
        size[i] = fabs(v[i]);
    for (int i = 0; c.rope != ROPE_NONE && i < c.dims / 2; i++) {
        const int first = c.rope == ROPE_NEOX ? i : 2 * i;
        const int second = c.rope == ROPE_NEOX ? i + c.dims / 2 : 2 * i + 1;
        const double angle = (float)position * inv_freq[i], co = cos(angle) * scale,
                     si = sin(angle) * scale;
        double &a = v[first], &b = v[second];
        size[first] = size[second] = scale * fmax(fabs(a), fabs(b));
        const double x = a * co - b * si, y = b * co + a * si;
        a = x;
        b = y;
    }
}

bool check_rope_case(const rope_case &c, double *most)
{
    enum {
        BLOCK_TOKENS = 16,
        LAYERS = 2,
        LAYER = 1,
        SLOTS = 3,
        CONTEXT = 131072,
        STRIDE_BLOCKS = CONTEXT / BLOCK_TOKENS
    };
    const int n_blocks = 64, stride = (c.n_heads + 2 * c.n_kv_heads) * c.head_dim + 16;
    const float scale = 1.25f;
    const auto x = random_acts((size_t)c.tokens * stride, 1);
    const auto qn = random_floats(c.head_dim, 1, 0.2f), kn = random_floats(c.head_dim, 1, 0.2f);
    vector<float> inv_freq(c.dims / 2 + 1);
    for (int i = 0; i < c.dims / 2; i++)
        inv_freq[i] = (float)pow(10000.0, -2.0 * i / c.dims);
    vector<int32_t> positions(c.tokens), slot(c.tokens), table((size_t)SLOTS * STRIDE_BLOCKS, 0);
    vector<int> owner(n_blocks * BLOCK_TOKENS, -1); /* which token is in a place of the cache */
    for (int t = 0; t < c.tokens;
         t++) { /* each token has a block of 16 tokens, or shares its own */
        slot[t] = below(SLOTS);
        positions[t] = t == 0 ? CONTEXT - 1 : below(CONTEXT);
    }
    vector<int> place(c.tokens);
    for (int t = 0; t < c.tokens; t++) {
        const size_t at = (size_t)slot[t] * STRIDE_BLOCKS + positions[t] / BLOCK_TOKENS;
        table[at] = (int)((at * 2654435761u >> 7) % n_blocks);
        int p = table[at] * BLOCK_TOKENS + positions[t] % BLOCK_TOKENS;
        while (owner[p] >= 0) { /* taken: move on to a free place */
            positions[t] = (positions[t] + 1) % CONTEXT;
            const size_t next = (size_t)slot[t] * STRIDE_BLOCKS + positions[t] / BLOCK_TOKENS;
            table[next] = (int)((next * 2654435761u >> 7) % n_blocks);
            p = table[next] * BLOCK_TOKENS + positions[t] % BLOCK_TOKENS;
        }
        owner[p] = t;
        place[t] = p;
    }
    const size_t value_bytes = c.cache == DT_F32 ? 4 : 2;
    const size_t layer = (size_t)n_blocks * c.n_kv_heads * BLOCK_TOKENS * c.head_dim;
    buffer<uint16_t> dx(x);
    buffer<float> dqn(qn), dkn(kn), dfreq(inv_freq);
    buffer<int32_t> dpos(positions), dslot(slot), dtable(table);
    buffer<char> ck(LAYERS * layer * value_bytes), cv(LAYERS * layer * value_bytes);
    dev.batch.n_tokens = c.tokens;
    dev.batch.positions = dpos.at;
    dev.batch.token_slot = dslot.at;
    dev.batch.block_table = dtable.at;
    dev.limits.table_stride = STRIDE_BLOCKS;
    struct kv_cache kv = {ck.at,    cv.at,        c.cache,      LAYERS,
                          n_blocks, BLOCK_TOKENS, c.n_kv_heads, c.head_dim};
    struct rope_kv_args a = {};
    const int k_from = c.n_heads * c.head_dim, v_from = k_from + c.n_kv_heads * c.head_dim;
    a.q = dx.at, a.k = dx.at + k_from, a.v = dx.at + v_from, a.stride = stride;
    a.q_norm = c.norm ? dqn.at : nullptr, a.k_norm = c.norm ? dkn.at : nullptr, a.norm_eps = 1e-6f;
    a.kv = &kv, a.layer = LAYER, a.n_heads = c.n_heads, a.rope = c.rope, a.rope_dims = c.dims;
    a.inv_freq = dfreq.at, a.rope_scale = scale;
    cuda_rope_kv(&dev, &a);
    const auto y = dx.get();
    const auto gk = ck.get(), gv = cv.get();
    worst e;
    bool clean = true;
    for (int t = 0; t < c.tokens; t++) {
        for (int h = 0; h < c.n_heads + 2 * c.n_kv_heads; h++) {
            vector<double> v(c.head_dim), size(c.head_dim, 0);
            for (int i = 0; i < c.head_dim; i++)
                v[i] = to_f32(x[(size_t)t * stride + h * c.head_dim + i], dev.act);
            const bool is_q = h < c.n_heads, is_k = !is_q && h < c.n_heads + c.n_kv_heads;
            if (is_q || is_k)
                turn_reference(v, size, c, c.norm ? is_q ? &qn : &kn : nullptr, inv_freq,
                               positions[t], scale);
            const int head = (h - c.n_heads) % c.n_kv_heads;
            const size_t row =
                LAYER * layer +
                (((size_t)(place[t] / BLOCK_TOKENS) * c.n_kv_heads + head) * BLOCK_TOKENS +
                 place[t] % BLOCK_TOKENS) *
                    c.head_dim;
            for (int i = 0; i < c.head_dim; i++) {
                const double got = is_q
                                       ? to_f32(y[(size_t)t * stride + h * c.head_dim + i], dev.act)
                                       : cache_value(is_k ? gk : gv, row + i, c.cache);
                /* f32 before it is rounded: a sum of two products, a norm, an angle; and the
                 * least step of f16.  An angle that is not rounded to f32 is off by more. */
                e.note(got, v[i], is_q ? dev.act : c.cache, 0x1p-19 * size[i] + 0x1p-25);
            }
        }
        for (int i = stride - 16; i < stride; i++)
            clean &= y[(size_t)t * stride + i] == x[(size_t)t * stride + i];
    }
    for (size_t i = 0; i < LAYERS * layer; i++) { /* what no token wrote is poison yet */
        const size_t in = i % layer, b = in / ((size_t)c.n_kv_heads * BLOCK_TOKENS * c.head_dim);
        const int p = (int)(b * BLOCK_TOKENS + in / c.head_dim % BLOCK_TOKENS);
        if (i / layer != LAYER || owner[p] < 0)
            clean &=
                std::isnan(cache_value(gk, i, c.cache)) && std::isnan(cache_value(gv, i, c.cache));
    }
    *most = fmax(*most, e.most);
    return e.most <= UNITS_MAX && clean;
}

void check_rope()
{
    double most = 0;
    int n = 0, bad = 0;
    for (int head_dim : {64, 80, 96, 128, 256, 20, 288})
        for (int kind = ROPE_NONE; kind <= ROPE_ADJACENT; kind++)
            for (int share : {1, 2, 4}) /* of the head that turns */
                for (int tokens : {1, 3, 257}) {
                    const enum dtype cache = n % 3 == 0 ? DT_BF16 : n % 3 == 1 ? DT_F16 : DT_F32;
                    const rope_case c = {head_dim,
                                         head_dim / share / 2 * 2,
                                         5,
                                         1 + n % 2,
                                         tokens,
                                         (enum rope_kind)kind,
                                         n / 2 % 2 == 1,
                                         cache};
                    n++;
                    if (check_rope_case(c, &most))
                        continue;
                    bad++;
                    char text[160];
                    snprintf(
                        text, sizeof text,
                        "head_dim %d dims %d kind %d tokens %d norm %d cache %d: error to now %.2f",
                        c.head_dim, c.dims, kind, tokens, c.norm, cache, most);
                    if (bad < 6)
                        report("rope_kv", false, text);
                }
    char text[80];
    snprintf(text, sizeof text, "%d cases, error %.2f units", n, most);
    report("rope_kv", bad == 0, text);
}

/* --- slots --------------------------------------------------------------------------------- */

void check_slots()
{
    enum { SLOTS = 4, VOCAB = 1003, BIAS = 8, N = 300, TOKENS = 64 };
    vector<struct cuda_slot> slot(SLOTS);
    vector<uint16_t> seen(SLOTS * VOCAB, 7), want = seen;
    vector<int32_t> history(N), ids(TOKENS), positions(TOKENS), token_slot(TOKENS), out(TOKENS);
    for (auto &h : history)
        h = below(20);
    memset((void *)slot.data(), 0, slot.size() * sizeof slot[0]);
    slot[2].sampled = 77, slot[2].has_penalty = 1, slot[2].n_prompt = 10;
    struct cuda_slot_set set = {};
    set.slot.has_penalty = 1, set.slot.n_prompt = 200, set.slot.n_bias = 2, set.slot.sampled = 5;
    set.index = 1, set.n_history = 250, set.first_history = 50, set.first_bias = 1;
    const vector<struct sample_bias> bias = {{1, 1, 1}, {2, 2, 2}, {3, 3, 3}};
    for (int i = 0; i < VOCAB; i++)
        want[VOCAB + i] = 0;
    auto note = [&](int s, int id, bool prompt) {
        uint16_t &w = want[s * VOCAB + id];
        w = (uint16_t)(prompt ? w | 0x8000 : w + 1);
    };
    for (int i = 0; i < 250; i++)
        note(1, history[50 + i], i < 200);
    for (int t = 0; t < TOKENS; t++) {
        token_slot[t] = t % 3;
        positions[t] = t;
        ids[t] = t % 5 == 0 ? TOKEN_SAMPLED : below(20);
        const int s = t % 3, id = ids[t] >= 0 ? ids[t] : s == 1 ? 5 : s == 2 ? 77 : 0;
        out[t] = id;
        if (s > 0)
            note(s, id, t < (s == 1 ? 200 : 10));
    }
    buffer<struct cuda_slot> dslot(slot);
    buffer<struct sample_bias> dbias(SLOTS * BIAS), up_bias(bias);
    buffer<uint16_t> dseen(seen);
    buffer<int32_t> dhistory(history), dids(ids), dpos(positions), dts(token_slot), dout(TOKENS),
        table(SLOTS * 9);
    buffer<struct cuda_slot_set> dset(vector<struct cuda_slot_set>{set});
    buffer<struct batch_block> dblock(vector<struct batch_block>{{1, 3, 42}, {2, 8, 43}});
    dev.slots = {dslot.at, dbias.at, dseen.at};
    dev.limits.vocab = VOCAB, dev.limits.bias_slot_max = BIAS, dev.limits.table_stride = 9;
    dev.batch.ids = dout.at, dev.batch.block_table = table.at;
    cuda_slots_set(&dev, dset.at, 1, dhistory.at, up_bias.at);
    buffer<int32_t> moved(TOKENS);
    struct cuda_step step = {};
    step.segment[0] = {dpos.at, moved.at, TOKENS};
    step.n_segments = 1, step.n_tokens = TOKENS, step.n_blocks = 2;
    step.token_ids = dids.at, step.positions = dpos.at, step.token_slot = dts.at;
    step.block = dblock.at;
    cuda_slots_step(&dev, &step);
    const auto b = dbias.get();
    const auto tb = table.get();
    const bool good = dseen.get() == want && dout.get() == out && b[BIAS].id == 2 &&
                      b[BIAS + 1].id == 3 && tb[9 + 3] == 42 && tb[18 + 8] == 43 && tb[0] == -1 &&
                      moved.get() == positions;
    report("slots", good, "set, words, tokens, blocks");
}

/* --- sampling ------------------------------------------------------------------------------ */

struct row_case {
    struct sample_params p;
    vector<struct sample_bias> bias;
    int n_prompt, n_history, forced;
    bool fault;
};

struct sampler { /* the device's state for n rows, a slot each */
    int n, vocab;
    static constexpr int BIAS = 16;
    buffer<float> logits;
    buffer<struct cuda_slot> slot;
    buffer<struct sample_bias> bias;
    buffer<uint16_t> seen;
    buffer<struct batch_head> head;
    buffer<struct sample_out> out;
    buffer<struct sample_out *> out_at;
    buffer<char> *work;
    sampler(int rows, int v)
        : n(rows), vocab(v), logits((size_t)rows * v), slot(rows), bias((size_t)rows * BIAS),
          seen((size_t)rows * v), head(rows), out(rows), out_at(1)
    {
        dev.limits.vocab = v, dev.limits.heads_max = rows, dev.limits.bias_slot_max = BIAS;
        work = new buffer<char>(cuda_sample_work_bytes(&dev.limits) + 16);
        OK(cudaMemset(work->at, 0, work->n));
        OK(cudaMemset(seen.at, 0, seen.n * 2));
        dev.slots = {slot.at, bias.at, seen.at};
        dev.batch.head = head.at;
        OK(cudaMemcpy(out_at.at, &out.at, sizeof out.at, cudaMemcpyHostToDevice));
        dev.sample_out = out_at.at;
        dev.sample_work = work->at;
    }
    ~sampler()
    {
        delete work;
    }
    void put(const vector<row_case> &rows)
    {
        vector<struct cuda_slot> s(n);
        vector<struct sample_bias> b((size_t)n * BIAS);
        vector<struct batch_head> h(n);
        for (int i = 0; i < n; i++) {
            const row_case &r = rows[i];
            memset((void *)&s[i], 0, sizeof s[i]);
            s[i].params = r.p, s[i].n_prompt = r.n_prompt, s[i].n_bias = (int)r.bias.size();
            s[i].has_penalty = r.p.presence != 0 || r.p.frequency != 0 || r.p.repetition != 1;
            std::copy(r.bias.begin(), r.bias.end(), b.begin() + (size_t)i * BIAS);
            h[i] = {0, i, r.n_history, r.forced};
        }
        slot.put(s), bias.put(b), head.put(h);
    }
    void run(int first, int count)
    {
        struct sample_args a = {};
        a.logits = logits.at + (size_t)first * vocab, a.first = first, a.n = count, a.vocab = vocab;
        cuda_sample(&dev, &a);
    }
};

struct choice {
    float x;
    int id;
    double w;
};

/* The id that the meaning gives, with its borders moved a little (du, dp, dm). */
int reference_draw(const vector<choice> &sorted, const struct sample_params &p, int n_history,
                   double du, double dp, double dm)
{
    size_t n = sorted.size();
    if (p.top_k > 0 && (size_t)p.top_k < n)
        n = (size_t)p.top_k;
    double sum = 0, total = 0, at = 0;
    for (size_t i = 0; i < n; i++)
        sum += sorted[i].w;
    vector<choice> kept;
    for (size_t i = 0; i < n; i++) {
        if (p.top_p < 1 && at >= (double)p.top_p * sum * (1 + dp))
            break;
        at += sorted[i].w;
        if (sorted[i].w >= (double)p.min_p * (1 + dm))
            kept.push_back(sorted[i]);
    }
    std::sort(kept.begin(), kept.end(),
              [](const choice &a, const choice &b) { return a.id < b.id; });
    for (auto &c : kept)
        total += c.w;
    const double target = (philox_uniform(p.seed, (uint64_t)n_history) + du) * total;
    double cum = 0;
    int id = -1;
    for (auto &c : kept) {
        id = c.w > 0 ? c.id : id;
        cum += c.w;
        if (cum > target)
            break;
    }
    return id;
}

struct verdict {
    int wrong = 0, near = 0;
    double logprob_error = 0;
    std::string first;
};

void judge(verdict &v, const row_case &r, const float *raw, const uint16_t *seen, int vocab,
           const struct sample_out &got, int row)
{
    auto fail = [&](const char *why) {
        char text[200];
        snprintf(text, sizeof text, "row %d (T %g k %d p %g m %g): %s, id %d", row, r.p.temperature,
                 r.p.top_k, r.p.top_p, r.p.min_p, why, got.id);
        v.first = v.wrong++ ? v.first : text;
    };
    if (r.fault || got.fault) {
        if (!r.fault || got.fault != SAMPLE_NAN || got.id != 0 || got.n_top != 0)
            fail("fault");
        return;
    }
    if (got.id < 0 || got.id >= vocab)
        return fail("id out of range");
    const double top = *std::max_element(raw, raw + vocab);
    double sum = 0;
    for (int i = 0; i < vocab; i++)
        sum += exp(raw[i] - top);
    const double log_sum = top + log(sum);
    if (r.p.n_logprobs >= 0 || r.forced >= 0) {
        const double want = raw[got.id] - log_sum,
                     e = std::isinf(want) ? (got.logprob == want ? 0 : 1)
                                          : fabs(got.logprob - want) / (1 + 0.1 * fabs(want));
        v.logprob_error = fmax(v.logprob_error, e);
    }
    const int n_top = std::min(std::max(r.p.n_logprobs, 0), vocab);
    if (got.n_top != n_top)
        return fail("n_top");
    vector<choice> list(vocab);
    for (int i = 0; i < vocab; i++)
        list[i] = {raw[i] + 0.0f, i, 0};
    auto first_is = [](const choice &a, const choice &b) {
        return a.x > b.x || (a.x == b.x && a.id < b.id);
    };
    std::partial_sort(list.begin(), list.begin() + n_top, list.end(), first_is);
    for (int i = 0; i < n_top; i++) {
        if (got.top_id[i] != list[i].id)
            return fail("top id");
        const double want = list[i].x - log_sum;
        v.logprob_error = fmax(v.logprob_error, std::isinf(want) ? got.top_logprob[i] != want
                                                                 : fabs(got.top_logprob[i] - want) /
                                                                       (1 + 0.1 * fabs(want)));
    }
    if (r.forced >= 0) {
        if (got.id != r.forced)
            fail("forced");
        return;
    }
    vector<float> x(raw, raw + vocab);
    for (auto &b : r.bias)
        if (r.n_history - r.n_prompt < b.until)
            x[b.id] += b.bias;
    for (int i = 0; i < vocab; i++) {
        const int times = seen[i] & 0x7fff;
        if (seen[i] && r.p.repetition != 1)
            x[i] = x[i] > 0 ? x[i] / r.p.repetition : x[i] * r.p.repetition;
        if (times > 0) {
            const volatile float frequency = r.p.frequency * (float)times; /* no fused operation */
            x[i] -= r.p.presence + frequency;
        }
    }
    const float now_top = *std::max_element(x.begin(), x.end());
    for (int i = 0; i < vocab; i++)
        list[i] = {x[i] + 0.0f, i, 0};
    std::sort(list.begin(), list.end(), first_is);
    if (r.p.temperature < 1e-5f) {
        if (got.id != list[0].id)
            fail("greedy");
        return;
    }
    for (auto &c : list)
        c.w = exp((double)(c.x - now_top) * (double)(1.0f / r.p.temperature));
    if (got.id == reference_draw(list, r.p, r.n_history, 0, 0, 0))
        return;
    v.near++;
    const double moved[] = {0, -2e-7, 2e-7, -2e-6, 2e-6};
    for (int i = 0; i < 125; i++)
        if (got.id ==
            reference_draw(list, r.p, r.n_history, moved[i % 5], moved[i / 5 % 5], moved[i / 25]))
            return;
    fail("draw");
}

void fill_row(float *x, int vocab, int kind)
{
    const float spread[] = {1, 4, 30, 0.02f, 3, 3, 1000, 0};
    for (int i = 0; i < vocab; i++) {
        x[i] = spread[kind] * normal() + (kind == 4 ? -7 : 5);
        if (kind == 4)
            x[i] = rintf(x[i] * 4) / 4; /* many equal */
        if (kind == 5 && below(3) > 0)
            x[i] = -INFINITY;
        if (kind == 7)
            x[i] = i % 2 ? 1.5f : 1.5f - (float)(i % 7 == 0);
    }
    if (kind == 5)
        x[below(vocab)] = 4;
}

row_case random_case(int i, int vocab)
{
    const float temperatures[] = {0, 0.3f, 0.7f, 1, 1.5f, 5},
                ps[] = {1, 0.95f, 0.9f, 0.5f, 0.05f, 0.9999f, 1}, ms[] = {0, 0, 0.05f, 0.4f};
    const int ks[] = {0, 1, 5, 50, 300, 3000, vocab, 0}, logprobs[] = {-1, 0, 5, 20};
    row_case r = {};
    r.p.temperature = temperatures[below(6)], r.p.top_p = ps[below(7)], r.p.min_p = ms[below(4)];
    r.p.top_k = ks[below(8)], r.p.n_logprobs = logprobs[below(4)], r.p.repetition = 1,
    r.p.seed = random_bits();
    if (i % 3 == 1) {
        r.p.presence = below(2) * 0.5f, r.p.frequency = below(2) * 0.25f,
        r.p.repetition = below(2) ? 1.2f : 1;
    }
    r.n_prompt = 5, r.n_history = 5 + below(100), r.forced = i % 10 == 9 ? below(vocab) : -1;
    for (int k = 0; i % 4 == 2 && k < sampler::BIAS; k++) {
        const int id = k == 3 ? r.bias[0].id : below(vocab);
        r.bias.push_back({id, k % 4 == 0 ? -INFINITY : 3 * normal(), k % 5 == 0 ? 40 : 1 << 30});
    }
    return r;
}

void check_samples(int vocab, int rows)
{
    sampler s(rows, vocab);
    vector<float> logits((size_t)rows * vocab);
    vector<uint16_t> seen((size_t)rows * vocab);
    vector<row_case> cases(rows);
    for (int i = 0; i < rows; i++) {
        float *x = &logits[(size_t)i * vocab];
        cases[i] = random_case(i, vocab);
        fill_row(x, vocab, i % 8);
        for (int k = 0; k < 60; k++) {
            uint16_t &n = seen[(size_t)i * vocab + below(vocab)];
            n = (uint16_t)(k % 2 ? n | 0x8000 : n + 1);
        }
        if (i == 11 || i == 12)
            x[below(vocab)] = i == 11 ? NAN : INFINITY;
        if (i == 13)
            std::fill(x, x + vocab, -INFINITY);
        cases[i].fault = i >= 11 && i <= 13;
        for (auto &b : cases[i].bias) { /* a row where all is banned is a fault of its own */
            if (i % 8 == 5 && b.bias == -INFINITY)
                b.bias = -2;
        }
        if (vocab < 64 && !cases[i].fault)
            x[0] = fmaxf(x[0], -50), x[1] = fmaxf(x[1], -50);
    }
    s.logits.put(logits), s.seen.put(seen), s.put(cases);
    OK(cudaMemset(s.out.at, 0, rows * sizeof(struct sample_out)));
    s.run(0, rows);
    const auto out = s.out.get();
    verdict v;
    for (int i = 0; i < rows; i++)
        judge(v, cases[i], &logits[(size_t)i * vocab],
              cases[i].p.presence != 0 || cases[i].p.frequency != 0 || cases[i].p.repetition != 1
                  ? &seen[(size_t)i * vocab]
                  : vector<uint16_t>(vocab).data(),
              vocab, out[i], i);
    const auto slots = s.slot.get();
    int kept = 0;
    for (int i = 0; i < rows; i++)
        kept += slots[i].sampled == (cases[i].forced < 0 ? out[i].id : 0);
    OK(cudaMemset(s.out.at, 0, rows * sizeof(struct sample_out)));
    for (int i = rows - 1; i >= 0; i--)
        s.run(i, 1);
    const auto alone = s.out.get();
    const bool same = memcmp(out.data(), alone.data(), rows * sizeof out[0]) == 0;
    char text[400];
    snprintf(text, sizeof text,
             "vocab %d, %d rows: wrong %d, decided by rounding %d, logprob error %.1e, alone the "
             "same %d, slots %d  %s",
             vocab, rows, v.wrong, v.near, v.logprob_error, same, kept == rows, v.first.c_str());
    report("sample",
           v.wrong == 0 && v.near <= rows / 25 && v.logprob_error < 2e-6 && same && kept == rows,
           text);
}

void check_distribution(int vocab, int top_k, float top_p, float min_p, float temperature)
{
    const int draws = 20000;
    sampler s(draws, vocab);
    vector<float> row(vocab), logits;
    for (auto &x : row)
        x = 1.5f * normal();
    vector<row_case> cases(draws);
    for (int i = 0; i < draws; i++) {
        logits.insert(logits.end(), row.begin(), row.end());
        cases[i] = {
            {temperature, top_p, min_p, top_k, 0, 0, 1, 1234567, -1}, {}, 1, i + 1, -1, false};
    }
    s.logits.put(logits), s.put(cases);
    s.run(0, draws);
    vector<choice> list(vocab);
    for (int i = 0; i < vocab; i++)
        list[i] = {row[i], i, 0};
    std::sort(list.begin(), list.end(), [](const choice &a, const choice &b) { return a.x > b.x; });
    for (auto &c : list)
        c.w = exp((c.x - list[0].x) / temperature);
    double sum = 0, at = 0, kept_sum = 0;
    size_t n = top_k > 0 ? (size_t)top_k : list.size();
    for (size_t i = 0; i < n; i++)
        sum += list[i].w;
    vector<double> want(vocab, 0);
    for (size_t i = 0; i < n && at < top_p * sum; i++) {
        at += list[i].w;
        if (list[i].w >= min_p)
            kept_sum += want[list[i].id] = list[i].w;
    }
    vector<int> count(vocab, 0);
    int outside = 0;
    for (auto &o : s.out.get()) {
        count[o.id]++;
        outside += want[o.id] == 0;
    }
    double chi = 0, rest = 0, rest_count = 0;
    int freedom = -1;
    for (int i = 0; i < vocab; i++) {
        const double e = want[i] / kept_sum * draws;
        if (e < 5) {
            rest += e, rest_count += count[i];
            continue;
        }
        chi += (count[i] - e) * (count[i] - e) / e;
        freedom++;
    }
    if (rest > 5)
        chi += (rest_count - rest) * (rest_count - rest) / rest, freedom++;
    char text[128];
    snprintf(text, sizeof text, "vocab %d k %d p %g m %g T %g: chi2 %.1f of %d, outside %d", vocab,
             top_k, top_p, min_p, temperature, chi, freedom, outside);
    report("draws", outside == 0 && chi < freedom + 5 * sqrt(2.0 * freedom) && freedom > 3, text);
}

/* --- times --------------------------------------------------------------------------------- */

template <class F> float time_us(int calls, F f) /* f(i) launches call i; a graph of all of them */
{
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaEvent_t from, to;
    OK(cudaStreamBeginCapture(dev.stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < calls; i++)
        f(i);
    OK(cudaStreamEndCapture(dev.stream, &graph));
    OK(cudaGraphInstantiate(&exec, graph, 0));
    OK(cudaEventCreate(&from));
    OK(cudaEventCreate(&to));
    vector<float> ms(9);
    for (auto &m : ms) {
        OK(cudaGraphLaunch(exec, dev.stream));
        OK(cudaEventRecord(from, dev.stream));
        OK(cudaGraphLaunch(exec, dev.stream));
        OK(cudaEventRecord(to, dev.stream));
        OK(cudaEventSynchronize(to));
        OK(cudaEventElapsedTime(&m, from, to));
    }
    std::sort(ms.begin(), ms.end());
    OK(cudaGraphExecDestroy(exec));
    OK(cudaGraphDestroy(graph));
    return ms[ms.size() / 2] * 1000 / (float)calls;
}

enum { SETS = 8 }; /* sets of operands in turn, so that the cache does not hold them */

void time_norm(int rows, int width)
{
    const size_t n = (size_t)rows * width;
    buffer<uint16_t> x(random_acts(n, 1)), in(SETS * n), out(SETS * n);
    buffer<float> w(random_floats(width, 1, 0.1f));
    for (int i = 0; i < SETS; i++)
        OK(cudaMemcpy(in.at + i * n, x.at, n * 2, cudaMemcpyDeviceToDevice));
    const float copy = time_us(2 * SETS, [&](int i) {
        OK(cudaMemcpyAsync(out.at + i % SETS * n, in.at + i % SETS * n, n * 2,
                           cudaMemcpyDeviceToDevice, dev.stream));
    });
    float us[2];
    for (int kind = 0; kind < 2; kind++)
        us[kind] = time_us(2 * SETS, [&](int i) {
            struct norm_args a = {
                out.at + i % SETS * n,
                in.at + i % SETS * n,
                rows,
                width,
                {kind ? NORM_LAYER : NORM_RMS, w.at, kind ? w.at : nullptr, 1e-5f},
                nullptr};
            cuda_norm(&dev, &a);
        });
    printf("time norm %d x %d: rms %.2f us (%.1f%% of copy), layer %.2f us (%.1f%%), copy %.2f us "
           "= %.0f GB/s\n",
           rows, width, us[0], 100 * copy / us[0], us[1], 100 * copy / us[1], copy,
           4e-3 * (double)n / copy);
}

void time_embed(int rows)
{
    const int hidden = 4096;
    buffer<uint16_t> table(random_acts((size_t)32000 * hidden, 1)), out((size_t)rows * hidden);
    vector<int32_t> ids(rows);
    for (auto &id : ids)
        id = below(32000);
    buffer<int32_t> dids(ids);
    dev.batch.ids = dids.at, dev.batch.n_tokens = rows;
    struct tensor t = {table.at, dev.act, LAYOUT_PLAIN, 32000, hidden};
    struct embed_args a = {out.at, &t, 1};
    printf("time embed %d x %d: %.2f us\n", rows, hidden,
           time_us(8, [&](int) { cuda_embed(&dev, &a); }));
}

void time_rope(int tokens, bool norm)
{
    enum {
        HEADS = 32,
        KV_HEADS = 8,
        DIM = 128,
        BLOCK_TOKENS = 16,
        BLOCKS = 1024,
        STRIDE = (HEADS + 2 * KV_HEADS) * DIM
    };
    buffer<uint16_t> x(random_acts((size_t)tokens * STRIDE, 1));
    buffer<uint16_t> k((size_t)BLOCKS * KV_HEADS * BLOCK_TOKENS * DIM), v(k.n);
    vector<int32_t> positions(tokens), slot(tokens, 0), table(BLOCKS);
    for (int i = 0; i < tokens; i++)
        positions[i] = i;
    for (int i = 0; i < BLOCKS; i++)
        table[i] = i * 37 % BLOCKS;
    buffer<int32_t> dpos(positions), dslot(slot), dtable(table);
    buffer<float> freq(random_floats(DIM / 2, 0.01f, 0.001f)), w(random_floats(DIM, 1, 0.1f));
    dev.batch.n_tokens = tokens, dev.batch.positions = dpos.at, dev.batch.token_slot = dslot.at,
    dev.batch.block_table = dtable.at;
    dev.limits.table_stride = BLOCKS;
    struct kv_cache kv = {k.at, v.at, dev.act, 1, BLOCKS, BLOCK_TOKENS, KV_HEADS, DIM};
    struct rope_kv_args a = {};
    a.q = x.at, a.k = x.at + HEADS * DIM, a.v = x.at + (HEADS + KV_HEADS) * DIM, a.stride = STRIDE;
    a.q_norm = a.k_norm = norm ? w.at : nullptr, a.norm_eps = 1e-6f, a.kv = &kv, a.n_heads = HEADS;
    a.rope = ROPE_NEOX, a.rope_dims = DIM, a.inv_freq = freq.at, a.rope_scale = 1;
    const float us = time_us(16, [&](int) { cuda_rope_kv(&dev, &a); });
    printf("time rope_kv %d tokens 32/8 heads of 128, norm %d: %.2f us (%.0f GB/s)\n", tokens, norm,
           us, 4e-3 * tokens * STRIDE / us);
}

void time_samples(int rows)
{
    enum { VOCAB = 128256 };
    sampler s(rows, VOCAB);
    const char *name[] = {"greedy",     "temperature", "top_k 50", "top_p 0.9",
                          "min_p 0.05", "top_k+top_p", "all"};
    vector<float> logits((size_t)rows * VOCAB);
    vector<uint16_t> seen((size_t)rows * VOCAB, 0);
    for (size_t i = 0; i < seen.size(); i += 97)
        seen[i] = 1;
    s.seen.put(seen);
    for (int spread : {1, 3}) {
        for (size_t i = 0; i < logits.size(); i++)
            logits[i] =
                i < 4 * VOCAB ? (float)spread * normal() : logits[i - 4 * VOCAB + (i / VOCAB % 2)];
        s.logits.put(logits);
        printf("time sample %d x %d, logits N(0, %d), us:", rows, VOCAB, spread);
        for (int kind = 0; kind < 7; kind++) {
            vector<row_case> cases(rows);
            for (int i = 0; i < rows; i++) {
                row_case &r = cases[i];
                r = {{kind == 0 ? 0.0f : 0.8f, 1, 0, 0, 0, 0, 1, (uint64_t)i, -1},
                     {},
                     5,
                     50 + i,
                     -1,
                     false};
                if (kind == 2 || kind >= 5)
                    r.p.top_k = 50;
                if (kind == 3 || kind >= 5)
                    r.p.top_p = 0.9f;
                if (kind == 4 || kind == 6)
                    r.p.min_p = 0.05f;
                if (kind == 6)
                    r.p.presence = 0.5f, r.p.frequency = 0.1f, r.p.repetition = 1.1f,
                    r.p.n_logprobs = 20, r.bias = {{5, 1, 1 << 30}};
            }
            s.put(cases);
            printf("  %s %.1f", name[kind], time_us(16, [&](int) { s.run(0, rows); }));
        }
        printf("\n");
    }
}

} /* namespace */

int main(int argc, char **argv)
{
    cudaDeviceProp prop;
    OK(cudaGetDeviceProperties(&prop, 0));
    OK(cudaStreamCreate(&dev.stream)); /* in order with the copies of the default stream */
    dev.cc = prop.major * 10 + prop.minor;
    dev.sm_count = prop.multiProcessorCount;
    printf("%s, sm_%d\n", prop.name, dev.cc);
    for (enum dtype act : {DT_BF16, DT_F16}) {
        dev.act = act;
        check_norms();
        for (enum dtype table : {DT_F32, DT_F16, DT_BF16})
            check_embed(table);
        check_rope();
    }
    dev.act = DT_BF16;
    check_slots();
    for (int vocab : {50, 999, 49152, 128256, 151937})
        check_samples(vocab, 200);
    check_distribution(50, 0, 1, 0, 1);
    check_distribution(50, 20, 1, 0, 0.7f);
    check_distribution(1000, 0, 0.8f, 0, 1);
    check_distribution(1000, 400, 0.9f, 0.05f, 1.3f);
    if (argc < 2 || strcmp(argv[1], "check") != 0) {
        time_norm(2048, 4096);
        time_norm(8192, 4096);
        for (int rows : {1, 64, 2048})
            time_embed(rows);
        for (int tokens : {1, 64, 4096})
            for (bool norm : {false, true})
                time_rope(tokens, norm);
        for (int rows : {1, 16, 64, 256})
            time_samples(rows);
    }
    printf("%s\n", n_failed ? "FAILED" : "all passed");
    return n_failed > 0;
}
