/* probe_decode.cu - decode attention alone on a GPU: is it right, and how fast?
 *
 *   nvcc -std=c++17 -O3 -gencode=arch=compute_90a,code=sm_90a -I. \
 *        tests/gpu/probe_decode.cu -o probe_decode && ./probe_decode [check|bench]
 *
 * check: against sums in double, over head sizes, groups, lengths, pages and masks.  The cache is
 * NaN wherever no key was written, the output is poisoned, and each token alone must give the bits
 * that it has in a batch.  Ends with 1 on the first kind of failure. bench: random values, layers
 * rotated and L2 flushed, launches inside of one graph; the share is of a device-to-device copy in
 * the same run, read and write counted. */
#include "kernels/cuda/attention_decode.cu"
#include "kernels/cuda/attention_plan.c"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#define TRY(call) try_cuda(call, #call)

static void try_cuda(cudaError_t e, const char *what)
{
    if (e == cudaSuccess)
        return;
    printf("FAILED %s: %s\n", what, cudaGetErrorString(e));
    exit(1);
}

void cuda_check(struct device *, cudaError_t e, const char *at)
{
    try_cuda(e, at);
}

static int n_failed;

static void fail(const char *what, const char *at)
{
    if (n_failed++ < 20)
        printf("FAILED %s: %s\n", what, at);
}

/* ---- Values ---- */

__device__ uint32_t hash32(uint64_t x)
{
    x = (x ^ x >> 31) * 0x9e3779b97f4a7c15ull;
    x = (x ^ x >> 29) * 0xbf58476d1ce4e5b9ull;
    return (uint32_t)(x >> 32);
}

/* About normal, of variance 1. */
__device__ float random_value(uint64_t key)
{
    const uint32_t a = hash32(key), b = hash32(key ^ 0x5555555555555555ull);
    const float sum = (a & 0xffff) + (a >> 16) + (b & 0xffff) + (b >> 16);
    return (sum / 65536.0f - 2.0f) * 1.7320508f;
}

template <class T> __global__ void fill_kernel(T *to, size_t n, uint64_t seed)
{
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n;
         i += (size_t)gridDim.x * blockDim.x)
        to[i] = (T)random_value(seed + i);
}

struct cache_shape {
    int block_tokens, n_kv_heads, head_dim, table_stride;
};

__device__ size_t cache_at(struct cache_shape c, const int32_t *table, int slot, int head, int key)
{
    const size_t block = table[(size_t)slot * c.table_stride + key / c.block_tokens];
    return ((block * c.n_kv_heads + head) * c.block_tokens + key % c.block_tokens) * c.head_dim;
}

/* Keys [first, kv_len) of one sequence; grid.x = keys. */
template <class T>
__global__ void fill_keys_kernel(T *k, T *v, struct cache_shape c, const int32_t *table, int slot,
                                 int first, uint64_t seed)
{
    const int key = first + (int)blockIdx.x;
    for (int head = 0; head < c.n_kv_heads; head++) {
        for (int i = threadIdx.x; i < c.head_dim; i += blockDim.x) {
            const size_t at = cache_at(c, table, slot, head, key) + i;
            const uint64_t id = seed + (((uint64_t)slot * 65536 + key) * 64 + head) * 256 + i;
            k[at] = (T)random_value(2 * id);
            v[at] = (T)random_value(2 * id + 1);
        }
    }
}

/* ---- Reference: one block for each (query, head), sums in double. ---- */

struct query {
    int slot, token, kv_len;
};

struct reference_args {
    struct cache_shape cache;
    const int32_t *table;
    const struct query *query;
    const float *alibi;
    int q_stride, n_heads, scores_stride, window;
    float scale, soft_cap;
    double *scores, *out, *size; /* size: root of the sum of (weight * v)^2 */
};

template <class T>
__global__ void reference_kernel(struct reference_args a, const T *q, const T *k, const T *v)
{
    const struct query x = a.query[blockIdx.x / a.n_heads];
    const int head = blockIdx.x % a.n_heads, hd = a.cache.head_dim;
    const int kv_head = head / (a.n_heads / a.cache.n_kv_heads);
    const int first = a.window > 0 ? max(0, x.kv_len - a.window) : 0;
    double *s = a.scores + (size_t)blockIdx.x * a.scores_stride;
    __shared__ double part[256];

    double top = -1e300;
    for (int key = first + (int)threadIdx.x; key < x.kv_len; key += blockDim.x) {
        const T *row = k + cache_at(a.cache, a.table, x.slot, kv_head, key);
        double sum = 0;
        for (int i = 0; i < hd; i++)
            sum += (double)(float)row[i] *
                   (double)(float)q[(size_t)x.token * a.q_stride + head * hd + i];
        sum *= a.scale;
        if (a.soft_cap > 0)
            sum = a.soft_cap * tanh(sum / a.soft_cap);
        if (a.alibi)
            sum += (double)a.alibi[head] * (key - (x.kv_len - 1));
        s[key] = sum;
        top = fmax(top, sum);
    }
    part[threadIdx.x] = top;
    __syncthreads();
    for (int i = 0; i < (int)blockDim.x; i++)
        top = fmax(top, part[i]);
    for (int i = threadIdx.x; i < hd; i += blockDim.x) {
        double sum = 0, out = 0, size = 0;
        for (int key = first; key < x.kv_len; key++) {
            const double w = exp(s[key] - top);
            const double value =
                (double)(float)v[cache_at(a.cache, a.table, x.slot, kv_head, key) + i];
            sum += w;
            out += w * value;
            size += w * value * w * value;
        }
        a.out[(size_t)blockIdx.x * hd + i] = out / sum;
        a.size[(size_t)blockIdx.x * hd + i] = sqrt(size) / sum;
    }
}

/* ---- A device without the rest ---- */

struct seq {
    int n_tokens, kv_len, n_prompt, slot;
};

struct shape {
    int head_dim, n_heads, n_kv_heads, block_tokens;
};

struct bench {
    struct device d;
    struct kv_cache kv;
    struct attention_args args;
    std::vector<char> plan_host;
    struct attention_plan host;
    std::vector<int32_t> table;
    size_t plan_room, partials_room, merges_room, table_room;
    char *plan;
};

static void open_bench(struct bench *b)
{
    cudaDeviceProp prop;
    TRY(cudaGetDeviceProperties(&prop, 0));
    b->d = {};
    b->d.sm_count = prop.multiProcessorCount;
    b->d.cc = prop.major * 10 + prop.minor;
    TRY(cudaStreamCreate(&b->d.stream));
    b->plan_room = 64 << 20;
    b->partials_room = (size_t)1 << 30;
    b->merges_room = 4 << 20;
    b->table_room = 16 << 20;
    TRY(cudaMalloc((void **)&b->plan, b->plan_room));
    TRY(cudaMalloc((void **)&b->d.partials, b->partials_room));
    TRY(cudaMalloc((void **)&b->d.merges, b->merges_room));
    TRY(cudaMalloc((void **)&b->d.batch.block_table, b->table_room));
    TRY(cudaMemset(b->d.merges, 0, b->merges_room));
    printf("%s, %d multiprocessors\n", prop.name, b->d.sm_count);
}

static void need(size_t bytes, size_t room, const char *what)
{
    if (bytes > room) {
        printf("FAILED probe: %s needs %zu bytes of %zu\n", what, bytes, room);
        exit(1);
    }
}

/* Pages of a cache, each once, in random order, to the slots. */
static void set_pages(struct bench *b, const struct shape *s, const std::vector<struct seq> &seqs,
                      int seqs_max, int context_max, int spare)
{
    struct device_limits *l = &b->d.limits;
    *l = {};
    l->seqs_max = seqs_max;
    l->context_max = context_max;
    l->block_tokens = s->block_tokens;
    l->table_stride = (context_max + s->block_tokens - 1) / s->block_tokens + 3;
    l->n_heads = s->n_heads;
    l->n_kv_heads = s->n_kv_heads;
    l->head_dim = s->head_dim;
    int n_blocks = spare, slots = 0;
    for (const struct seq &q : seqs) {
        n_blocks += (q.kv_len + s->block_tokens - 1) / s->block_tokens;
        l->step_tokens_max += q.n_tokens;
        slots = std::max(slots, q.slot + 1);
    }
    std::vector<int32_t> block(n_blocks);
    for (int i = 0; i < n_blocks; i++)
        block[i] = i;
    std::shuffle(block.begin(), block.end(), std::mt19937(n_blocks));
    b->table.assign((size_t)slots * l->table_stride, 0x7ffffff0);
    int next = 0;
    for (const struct seq &q : seqs)
        for (int i = 0; i * s->block_tokens < q.kv_len; i++)
            b->table[(size_t)q.slot * l->table_stride + i] = block[next++];
    need(b->table.size() * 4, b->table_room, "block table");
    TRY(cudaMemcpy(b->d.batch.block_table, b->table.data(), b->table.size() * 4,
                   cudaMemcpyHostToDevice));
    b->kv.n_blocks = n_blocks;
    b->kv.block_tokens = s->block_tokens;
    b->kv.n_kv_heads = s->n_kv_heads;
    b->kv.head_dim = s->head_dim;
    b->kv.dtype = b->d.act;
    b->args = {};
    b->args.kv = &b->kv;
    b->args.n_heads = s->n_heads;
    b->args.q_stride = (s->n_heads + 2 * s->n_kv_heads) * s->head_dim;
    b->args.scale = 1 / sqrtf((float)s->head_dim);
}

/* Plans a batch, with `n_short` keys in items of one split, or as the plan chooses; returns the
 * queries of the decode list. */
static std::vector<struct query> set_batch(struct bench *b, const std::vector<struct seq> &seqs,
                                           int64_t n_short = -1)
{
    std::vector<int32_t> token_seq, start = {0}, kv_len, slot, n_prompt;
    std::vector<struct query> queries;
    for (const struct seq &q : seqs) {
        for (int i = 0; i < q.n_tokens; i++) {
            const int position = q.kv_len - q.n_tokens + i;
            if (position >= q.n_prompt)
                queries.push_back({q.slot, (int)token_seq.size(), position + 1});
            token_seq.push_back((int32_t)kv_len.size());
        }
        start.push_back((int32_t)token_seq.size());
        kv_len.push_back(q.kv_len);
        slot.push_back(q.slot);
        n_prompt.push_back(q.n_prompt);
    }
    struct batch batch = {};
    batch.n_tokens = (int)token_seq.size();
    batch.n_seqs = (int)seqs.size();
    batch.token_seq = token_seq.data();
    batch.seq_start = start.data();
    batch.kv_len = kv_len.data();
    batch.slot = slot.data();
    batch.n_prompt = n_prompt.data();
    const struct device_limits *l = &b->d.limits;
    b->plan_host.resize(attention_plan_bytes(l));
    attention_plan_view(&b->host, l, b->plan_host.data());
    attention_plan_view(&b->d.batch.attention, l, b->plan);
    const size_t n_bytes = n_short < 0 ? attention_plan_make(&b->host, l, &batch)
                                       : make_plan(&b->host, l, &batch, n_short);
    need(attention_plan_bytes(l), b->plan_room, "plan");
    need((size_t)attention_partials_max(l) * l->n_heads * (l->head_dim + 2) * 4, b->partials_room,
         "partials");
    need((size_t)attention_merges_max(l) * 4, b->merges_room, "merges");
    TRY(cudaMemcpy(b->plan, b->plan_host.data(), n_bytes, cudaMemcpyHostToDevice));
    b->d.batch.attention_host = &b->host;
    b->d.batch.n_waves = b->host.counts->n_waves;
    b->d.batch.n_tokens = batch.n_tokens;
    return queries;
}

/* ---- Check ---- */

enum { CANARY = 4096 }; /* values behind the output */

struct variant {
    const char *name;
    int window;
    float soft_cap;
    bool alibi;
};

static const struct variant variants[] = {
    {"plain", 0, 0, false}, {"window 300", 300, 0, false},     {"cap 8", 0, 8, false},
    {"alibi", 0, 0, true},  {"window 17 cap 8", 17, 8, false},
};

struct check_memory {
    char *k, *v, *q, *out;
    double *scores, *ref, *size;
    struct query *query;
    float *alibi;
    size_t pool_bytes;
};

static double to_double(uint16_t bits, bool bf16)
{
    if (bf16) {
        const uint32_t wide = (uint32_t)bits << 16;
        float f;
        memcpy(&f, &wide, 4);
        return f;
    }
    __half_raw raw;
    raw.x = bits;
    return (double)__half2float(__half(raw));
}

static std::vector<uint16_t> run_decode(struct bench *b, struct check_memory *m, int n_tokens)
{
    const size_t n = (size_t)n_tokens * b->args.n_heads * b->kv.head_dim;
    std::vector<uint16_t> out(n + CANARY);
    TRY(cudaMemsetAsync(m->out, 0xa5, out.size() * 2, b->d.stream));
    cuda_attention_decode(&b->d, &b->args);
    TRY(cudaStreamSynchronize(b->d.stream));
    TRY(cudaMemcpy(out.data(), m->out, out.size() * 2, cudaMemcpyDeviceToHost));
    return out;
}

static double compare(const char *name, const struct bench *b, const std::vector<uint16_t> &out,
                      const std::vector<struct query> &queries, const std::vector<double> &ref,
                      const std::vector<double> &size, bool bf16)
{
    const int width = b->args.n_heads * b->kv.head_dim;
    std::vector<bool> is_query(out.size() / width + 1);
    /* The output is rounded to the type, and so are weights before the product with V, each by half
     * of a last place at most.  The latter errors are independent: 4 `size` is what 16 can come to
     * and seven times the deviation of more.  The rest is f32. */
    const double unit = 1.01 * (bf16 ? 0x1p-8 : 0x1p-11);
    double worst = 0;
    char at[200];
    for (size_t i = 0; i < queries.size(); i++) {
        is_query[queries[i].token] = true;
        for (int j = 0; j < width; j++) {
            const double y = to_double(out[(size_t)queries[i].token * width + j], bf16);
            const double off = fabs(y - ref[i * width + j]) /
                               (unit * (fabs(ref[i * width + j]) + 4 * size[i * width + j]) + 1e-5);
            if (off <= 1) {
                worst = std::max(worst, off);
                continue;
            }
            snprintf(at, sizeof at, "%s kv_len %d head %d dim %d: %g, not %g", name,
                     queries[i].kv_len, j / b->kv.head_dim, j % b->kv.head_dim, y,
                     ref[i * width + j]);
            fail("values", at);
            return off;
        }
    }
    for (size_t i = 0; i < out.size(); i++) {
        if (!is_query[std::min(i / width, is_query.size() - 1)] && out[i] != 0xa5a5) {
            fail("written outside of the list", name);
            break;
        }
    }
    return worst;
}

static void check_counters(const char *name, struct bench *b)
{
    std::vector<int32_t> counters(attention_merges_max(&b->d.limits));
    TRY(cudaMemcpy(counters.data(), b->d.merges, counters.size() * 4, cudaMemcpyDeviceToHost));
    for (int32_t c : counters) {
        if (c != 0) {
            fail("counters are not zero", name);
            TRY(cudaMemset(b->d.merges, 0, b->merges_room));
            return;
        }
    }
}

template <class T>
static void make_reference(struct bench *b, struct check_memory *m, int context_max,
                           const std::vector<struct query> &queries, std::vector<double> *ref,
                           std::vector<double> *size)
{
    const struct attention_args *a = &b->args;
    const size_t n = queries.size() * a->n_heads * b->kv.head_dim;
    struct reference_args r = {};
    r.cache = {b->kv.block_tokens, b->kv.n_kv_heads, b->kv.head_dim, b->d.limits.table_stride};
    r.table = b->d.batch.block_table;
    r.query = m->query;
    r.alibi = a->alibi;
    r.q_stride = a->q_stride;
    r.n_heads = a->n_heads;
    r.scores_stride = context_max;
    r.window = a->window;
    r.scale = a->scale;
    r.soft_cap = a->soft_cap;
    r.scores = m->scores;
    r.out = m->ref;
    r.size = m->size;
    const size_t layer =
        (size_t)b->kv.n_blocks * b->kv.n_kv_heads * b->kv.block_tokens * b->kv.head_dim * a->layer;
    TRY(cudaMemcpy(m->query, queries.data(), queries.size() * sizeof queries[0],
                   cudaMemcpyHostToDevice));
    reference_kernel<T><<<(unsigned)queries.size() * a->n_heads, 256>>>(
        r, (const T *)a->q, (const T *)b->kv.k + layer, (const T *)b->kv.v + layer);
    TRY(cudaGetLastError());
    ref->resize(n);
    size->resize(n);
    TRY(cudaMemcpy(ref->data(), m->ref, n * 8, cudaMemcpyDeviceToHost));
    TRY(cudaMemcpy(size->data(), m->size, n * 8, cudaMemcpyDeviceToHost));
}

/* The cache of two layers is NaN but for the keys of the second. */
template <class T>
static void fill_cache(struct bench *b, struct check_memory *m, const std::vector<struct seq> &seqs)
{
    const size_t layer =
        (size_t)b->kv.n_blocks * b->kv.n_kv_heads * b->kv.block_tokens * b->kv.head_dim;
    need(layer * 4, m->pool_bytes, "cache");
    TRY(cudaMemset(m->k, 0xff, layer * 4));
    TRY(cudaMemset(m->v, 0xff, layer * 4));
    b->kv.k = m->k;
    b->kv.v = m->v;
    b->kv.n_layers = 2;
    b->args.layer = 1;
    const struct cache_shape c = {b->kv.block_tokens, b->kv.n_kv_heads, b->kv.head_dim,
                                  b->d.limits.table_stride};
    for (const struct seq &q : seqs)
        fill_keys_kernel<T><<<q.kv_len, 64>>>((T *)m->k + layer, (T *)m->v + layer, c,
                                              b->d.batch.block_table, q.slot, 0, 1 + q.kv_len);
    int n_tokens = 0;
    for (const struct seq &q : seqs)
        n_tokens += q.n_tokens;
    fill_kernel<T><<<256, 256>>>((T *)m->q, (size_t)n_tokens * b->args.q_stride, 77);
    TRY(cudaGetLastError());
    b->args.q = m->q;
    b->args.out = m->out;
}

/* Each token by itself has the bits that it has in the batch. */
static void check_alone(const char *name, struct bench *b, struct check_memory *m,
                        const std::vector<struct seq> &seqs, const std::vector<uint16_t> &together)
{
    const int width = b->args.n_heads * b->kv.head_dim;
    const char *q = (const char *)b->args.q;
    size_t first = 0;
    for (const struct seq &one : seqs) {
        set_batch(b, {one});
        b->args.q = q + first * b->args.q_stride * 2;
        const std::vector<uint16_t> out = run_decode(b, m, one.n_tokens);
        if (memcmp(out.data(), together.data() + first * width, (size_t)one.n_tokens * width * 2) !=
            0)
            fail("bits differ alone", name);
        first += one.n_tokens;
    }
    b->args.q = q;
}

template <class T>
static double check_case(struct bench *b, struct check_memory *m, const struct shape *s,
                         const std::vector<struct seq> &seqs, int seqs_max, int context_max,
                         const struct variant *v, bool alone)
{
    const bool bf16 = std::is_same<T, __nv_bfloat16>::value;
    char name[160];
    snprintf(name, sizeof name, "%s hd %d heads %d/%d page %d %s", bf16 ? "bf16" : "f16",
             s->head_dim, s->n_heads, s->n_kv_heads, s->block_tokens, v->name);
    b->d.act = bf16 ? DT_BF16 : DT_F16;
    set_pages(b, s, seqs, seqs_max, context_max, 5);
    b->args.window = v->window;
    b->args.soft_cap = v->soft_cap;
    b->args.alibi = v->alibi ? m->alibi : NULL;
    fill_cache<T>(b, m, seqs);
    const std::vector<struct query> queries = set_batch(b, seqs);
    std::vector<double> ref, size;
    make_reference<T>(b, m, context_max, queries, &ref, &size);
    const std::vector<uint16_t> out = run_decode(b, m, b->d.batch.n_tokens);
    const double worst = compare(name, b, out, queries, ref, size, bf16);
    if (run_decode(b, m, b->d.batch.n_tokens) != out)
        fail("bits differ in a second run", name);
    /* Runs, single splits in the same kernel, and in their own. */
    for (int64_t n_short : {(int64_t)0, ALL_KEYS - 1, ALL_KEYS}) {
        if (n_short < ALL_KEYS && !heads_allow_runs(&b->d.limits))
            continue;
        set_batch(b, seqs, n_short);
        if (run_decode(b, m, b->d.batch.n_tokens) != out)
            fail("bits differ with other items", name);
        check_counters(name, b);
    }
    if (alone)
        check_alone(name, b, m, seqs, out);
    check_counters(name, b);
    return worst;
}

/* The kernel before writes the last key and the query late, and lets the next start early. */
template <class T>
__global__ void late_writer_kernel(T *k, T *v, T *q, const T *new_q, size_t n_q,
                                   struct cache_shape c, const int32_t *table, int slot, int key,
                                   uint64_t seed)
{
    depend_wait();
    depend_launch();
    const long long start = clock64();
    while (clock64() - start < 100000)
        __nanosleep(1000);
    for (int head = 0; head < c.n_kv_heads; head++) {
        for (int i = threadIdx.x; i < c.head_dim; i += blockDim.x) {
            const size_t at = cache_at(c, table, slot, head, key) + i;
            const uint64_t id = seed + (((uint64_t)slot * 65536 + key) * 64 + head) * 256 + i;
            k[at] = (T)random_value(2 * id);
            v[at] = (T)random_value(2 * id + 1);
        }
    }
    for (size_t i = threadIdx.x; i < n_q; i += blockDim.x)
        q[i] = new_q[i];
}

static void check_late_writer(struct bench *b, struct check_memory *m)
{
    typedef __nv_bfloat16 T;
    const struct shape s = {128, 32, 8, 16};
    for (int kv_len : {1, 63, 64, 65, 700, 5000}) {
        const std::vector<struct seq> seqs = {{1, kv_len, kv_len == 1 ? 0 : 1, 2}};
        b->d.act = DT_BF16;
        set_pages(b, &s, seqs, 1, 8192, 5);
        fill_cache<T>(b, m, seqs);
        set_batch(b, seqs);
        const std::vector<uint16_t> good = run_decode(b, m, 1);
        const size_t n_q = (size_t)b->args.q_stride;
        T *new_q = (T *)m->q + n_q;
        TRY(cudaMemcpy(new_q, m->q, n_q * 2, cudaMemcpyDeviceToDevice));
        TRY(cudaMemset(m->q, 0xff, n_q * 2));
        const struct cache_shape c = {16, 8, 128, b->d.limits.table_stride};
        const size_t layer = (size_t)b->kv.n_blocks * 8 * 16 * 128;
        const int32_t block = b->table[2 * (size_t)b->d.limits.table_stride + (kv_len - 1) / 16];
        for (int head = 0; head < 8; head++) {
            const size_t at = layer + (((size_t)block * 8 + head) * 16 + (kv_len - 1) % 16) * 128;
            TRY(cudaMemset(m->k + at * 2, 0xff, 256));
            TRY(cudaMemset(m->v + at * 2, 0xff, 256));
        }
        TRY(cudaMemset(m->out, 0xa5, good.size() * 2));
        TRY(cudaDeviceSynchronize());
        late_writer_kernel<T>
            <<<1, 128, 0, b->d.stream>>>((T *)m->k + layer, (T *)m->v + layer, (T *)m->q, new_q,
                                         n_q, c, b->d.batch.block_table, 2, kv_len - 1, 1 + kv_len);
        cuda_attention_decode(&b->d, &b->args);
        TRY(cudaStreamSynchronize(b->d.stream));
        std::vector<uint16_t> out(good.size());
        TRY(cudaMemcpy(out.data(), m->out, out.size() * 2, cudaMemcpyDeviceToHost));
        if (out != good)
            fail("read before it was written", "late writer");
    }
}

static void open_check(struct check_memory *m)
{
    m->pool_bytes = (size_t)3 << 30;
    TRY(cudaMalloc((void **)&m->k, m->pool_bytes));
    TRY(cudaMalloc((void **)&m->v, m->pool_bytes));
    TRY(cudaMalloc((void **)&m->q, 64 << 20));
    TRY(cudaMalloc((void **)&m->out, 64 << 20));
    TRY(cudaMalloc((void **)&m->scores, (size_t)1 << 30));
    TRY(cudaMalloc((void **)&m->ref, 64 << 20));
    TRY(cudaMalloc((void **)&m->size, 64 << 20));
    TRY(cudaMalloc((void **)&m->query, 1 << 20));
    TRY(cudaMalloc((void **)&m->alibi, 256 * 4));
    std::vector<float> slope(256);
    for (int i = 0; i < 256; i++)
        slope[i] = exp2f(-(float)(i % 16 + 1) * 0.5f);
    TRY(cudaMemcpy(m->alibi, slope.data(), 256 * 4, cudaMemcpyHostToDevice));
}

static void close_check(struct check_memory *m)
{
    for (void *p : {(void *)m->k, (void *)m->v, (void *)m->q, (void *)m->out, (void *)m->scores,
                    (void *)m->ref, (void *)m->size, (void *)m->query, (void *)m->alibi})
        TRY(cudaFree(p));
}

static void check_table(struct bench *b, struct check_memory *m)
{
    /* The last sequence has prompt tokens, which are not of this list, and two lengths of splits.
     */
    const std::vector<struct seq> seqs = {
        {1, 1, 0, 3},   {1, 15, 1, 0},  {1, 16, 16 - 1, 7}, {1, 17, 1, 1},     {1, 511, 3, 2},
        {1, 512, 3, 5}, {1, 513, 3, 4}, {1, 4095, 9, 6},    {1, 8192, 100, 9}, {6, 300, 297, 8},
    };
    const int groups[][2] = {{1, 32}, {2, 8}, {3, 4}, {4, 8}, {7, 2}, {8, 2}, {16, 2}, {32, 1}};
    for (int hd : {64, 80, 96, 128, 256}) {
        double worst[2] = {0, 0};
        int n = 0;
        for (const int *g : groups) {
            for (int page : {16, 64}) {
                for (const struct variant &v : variants) {
                    const struct shape s = {hd, g[0] * g[1], g[1], page};
                    const bool alone = page == 16;
                    worst[0] = std::max(
                        worst[0], check_case<__nv_bfloat16>(b, m, &s, seqs, 16, 8192, &v, alone));
                    worst[1] =
                        std::max(worst[1], check_case<__half>(b, m, &s, seqs, 16, 8192, &v, alone));
                    n += 2;
                }
            }
        }
        printf("check hd %d: %d cases, error of its limit bf16 %.2f f16 %.2f, failures %d\n", hd, n,
               worst[0], worst[1], n_failed);
    }
    for (int page : {1, 8, 48, 256}) {
        const struct shape s = {128, 32, 8, page};
        check_case<__nv_bfloat16>(b, m, &s, seqs, 16, 8192, &variants[0], true);
    }
    printf("check pages 1 8 48 256: failures %d\n", n_failed);
}

static void check_all(struct bench *b)
{
    struct check_memory m;
    open_check(&m);
    check_table(b, &m);
    const struct shape s = {128, 32, 8, 16};
    check_case<__nv_bfloat16>(b, &m, &s, {{48, 5000, 4952, 0}}, 1, 8192, &variants[0], true);
    printf("check %d waves: failures %d\n", b->d.batch.n_waves, n_failed);
    /* More items than blocks, so that tickets are drawn. */
    std::vector<struct seq> many;
    for (int i = 0; i < 100; i++)
        many.push_back({1, 1 + (i * 37) % 2500, 0, i});
    check_case<__nv_bfloat16>(b, &m, &s, many, 100, 2500, &variants[0], true);
    check_case<__half>(b, &m, &s, many, 100, 2500, &variants[1], false);
    check_case<__nv_bfloat16>(b, &m, &s, {{1, 40000, 3, 0}, {1, 20000, 3, 1}}, 2, 40000,
                              &variants[0], true);
    printf("check 100 sequences, long ones: failures %d\n", n_failed);
    check_late_writer(b, &m);
    printf("check late writer: failures %d\n", n_failed);
    close_check(&m);
}

/* ---- Bench ---- */

struct pool {
    char *at, *q, *out, *flush;
    size_t n_bytes, flush_bytes;
    double copy_gbs;
};

static float time_ms(cudaStream_t stream, cudaEvent_t a, cudaEvent_t b)
{
    float ms;
    TRY(cudaStreamSynchronize(stream));
    TRY(cudaEventElapsedTime(&ms, a, b));
    return ms;
}

static void open_pool(struct pool *p, struct bench *b)
{
    size_t free_bytes, total;
    TRY(cudaMemGetInfo(&free_bytes, &total));
    p->flush_bytes = 256 << 20;
    p->n_bytes = std::min((size_t)60 << 30, free_bytes - ((size_t)2 << 30)) / 4096 * 4096;
    TRY(cudaMalloc((void **)&p->at, p->n_bytes));
    TRY(cudaMalloc((void **)&p->flush, p->flush_bytes));
    TRY(cudaMalloc((void **)&p->q, 16 << 20));
    TRY(cudaMalloc((void **)&p->out, 16 << 20));
    fill_kernel<__nv_bfloat16><<<4096, 256>>>((__nv_bfloat16 *)p->at, p->n_bytes / 2, 3);
    fill_kernel<__nv_bfloat16><<<256, 256>>>((__nv_bfloat16 *)p->q, 8 << 20, 5);
    cudaEvent_t start, end;
    TRY(cudaEventCreate(&start));
    TRY(cudaEventCreate(&end));
    const size_t n = (size_t)4 << 30;
    std::vector<float> ms;
    for (int i = 0; i < 8; i++) {
        TRY(cudaEventRecord(start, b->d.stream));
        TRY(cudaMemcpyAsync(p->at + n, p->at, n, cudaMemcpyDeviceToDevice, b->d.stream));
        TRY(cudaEventRecord(end, b->d.stream));
        ms.push_back(time_ms(b->d.stream, start, end));
    }
    std::sort(ms.begin(), ms.end());
    p->copy_gbs = 2.0 * (double)n / ms[2] / 1e6;
    printf("copy of 4 GiB: %.0f GB/s read and written; pool %.1f GB\n", p->copy_gbs,
           (double)p->n_bytes / 1e9);
}

/* Microseconds of one launch, the median of graphs. */
static double time_decode(struct bench *b, struct pool *p, int n_launches, int n_layers)
{
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaEvent_t start, end;
    TRY(cudaEventCreate(&start));
    TRY(cudaEventCreate(&end));
    TRY(cudaStreamBeginCapture(b->d.stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < n_launches; i++) {
        b->args.layer = i % n_layers;
        cuda_attention_decode(&b->d, &b->args);
    }
    TRY(cudaStreamEndCapture(b->d.stream, &graph));
    TRY(cudaGraphInstantiate(&exec, graph, 0));
    std::vector<float> ms;
    for (int i = 0; i < 7; i++) {
        TRY(cudaMemsetAsync(p->flush, i, p->flush_bytes, b->d.stream));
        TRY(cudaEventRecord(start, b->d.stream));
        TRY(cudaGraphLaunch(exec, b->d.stream));
        TRY(cudaEventRecord(end, b->d.stream));
        ms.push_back(time_ms(b->d.stream, start, end));
    }
    ms.erase(ms.begin(), ms.begin() + 2);
    std::sort(ms.begin(), ms.end());
    TRY(cudaGraphExecDestroy(exec));
    TRY(cudaGraphDestroy(graph));
    TRY(cudaEventDestroy(start));
    TRY(cudaEventDestroy(end));
    return ms[ms.size() / 2] * 1e3 / n_launches;
}

static void bench_case(struct bench *b, struct pool *p, const struct shape *s, const char *name,
                       const std::vector<int> &kv_len, enum dtype cache = DT_BF16)
{
    std::vector<struct seq> seqs;
    double keys = 0;
    for (size_t i = 0; i < kv_len.size(); i++) {
        seqs.push_back({1, kv_len[i], 1, (int)i});
        keys += kv_len[i];
    }
    b->d.act = DT_BF16;
    set_pages(b, s, seqs, (int)seqs.size(), *std::max_element(kv_len.begin(), kv_len.end()), 0);
    const size_t rows = (size_t)b->kv.n_blocks * s->block_tokens * s->n_kv_heads;
    const size_t row_bytes = kv_has_scales(cache) ? s->head_dim + 4 : s->head_dim * 2;
    const size_t layer = rows * row_bytes;
    if (2 * layer > p->n_bytes)
        return;
    const int n_launches = layer < (32 << 20) ? 64 : 16;
    const int n_layers = (int)std::min((size_t)n_launches, p->n_bytes / 2 / layer);
    b->kv.n_layers = n_layers;
    b->kv.k = p->at;
    b->kv.v = p->at + p->n_bytes / 2;
    b->kv.dtype = cache;
    if (kv_has_scales(cache)) { /* behind the codes of all layers */
        b->kv.k_scale = (float *)(p->at + rows * s->head_dim * n_layers);
        b->kv.v_scale = (float *)(p->at + p->n_bytes / 2 + rows * s->head_dim * n_layers);
    }
    b->args.q = p->q;
    b->args.out = p->out;
    set_batch(b, seqs);
    const double us = time_decode(b, p, n_launches, n_layers);
    const double bytes =
        2 * keys * s->n_kv_heads * row_bytes + (double)kv_len.size() * s->n_heads * s->head_dim * 4;
    printf("%-22s %6d items %9.1f us %6.0f GB/s %5.1f %%\n", name, b->host.counts->n_items, us,
           bytes / us / 1e3, bytes / us / 1e3 / p->copy_gbs * 100);
    fflush(stdout);
    b->kv.k_scale = b->kv.v_scale = NULL;
}

static std::vector<int> mix(std::initializer_list<std::pair<int, int>> parts)
{
    std::vector<int> v;
    for (const std::pair<int, int> &part : parts)
        v.insert(v.end(), part.first, part.second);
    return v;
}

/* Steps of a server with as many sequences as fit. */
static void bench_full(struct bench *b, struct pool *p)
{
    std::vector<int> mixed;
    for (int i = 0; i < 232; i++)
        mixed.push_back(500 + i * 677 % 1501);
    printf("head size 128, page 16: full steps\n");
    const struct shape of_8b = {128, 32, 8, 16}, of_70b = {128, 32, 4, 16};
    bench_case(b, p, &of_8b, "32/8 232 x 1530", mix({{232, 1530}}));
    bench_case(b, p, &of_8b, "32/8 232 x 500-2000", mixed);
    bench_case(b, p, &of_8b, "32/8 256 x 1530 int8", mix({{256, 1530}}), DT_INT8);
    bench_case(b, p, &of_70b, "32/4 208 x 1530", mix({{208, 1530}}));
    bench_case(b, p, &of_70b, "32/4 240 x 1530", mix({{240, 1530}}));
}

static void bench_all(struct bench *b)
{
    struct pool p = {};
    open_pool(&p, b);
    char name[64];
    bench_full(b, &p);
    const struct shape shapes[] = {{128, 32, 8, 16}, {64, 32, 8, 16}};
    for (const struct shape &s : shapes) {
        printf("heads 32/8, head size %d, page 16: batch x context\n", s.head_dim);
        for (int batch : {1, 16, 64, 256}) {
            for (int context : {128, 1024, 4096, 8192, 32768, 65536}) {
                if (context == 65536 && batch > 1)
                    continue;
                snprintf(name, sizeof name, "%d x %d", batch, context);
                bench_case(b, &p, &s, name, std::vector<int>(batch, context));
            }
        }
    }
    printf("heads 32/8, head size 128: mixes\n");
    const struct shape *s = &shapes[0];
    bench_case(b, &p, s, "64x512", mix({{64, 512}}));
    bench_case(b, &p, s, "32x128+32x4K", mix({{32, 128}, {32, 4096}}));
    bench_case(b, &p, s, "2x32K+30x4K", mix({{2, 32768}, {30, 4096}}));
    bench_case(b, &p, s, "1x64K+15x4K", mix({{1, 65536}, {15, 4096}}));
    bench_case(b, &p, s, "1x128K+31x4K", mix({{1, 131072}, {31, 4096}}));
    bench_case(b, &p, s, "63x4K, equal bytes", mix({{63, 4096}}));
}

int main(int argc, char **argv)
{
    struct bench b = {};
    open_bench(&b);
    if (argc < 2 || strcmp(argv[1], "check") == 0)
        check_all(&b);
    if (argc < 2 || strcmp(argv[1], "bench") == 0)
        bench_all(&b);
    printf(n_failed > 0 ? "FAILED\n" : "passed\n");
    return n_failed > 0;
}
