/* bench_layer.cu - microseconds of whole layers in one graph: products and what lies between them.
 *
 * The ops of a decode step's layer, launched as the forward does, for an 8B and a 1B model, and for
 * the shares that a rank of several has of an 8B and a 70B (their sums are not here): norm and q,
 * k, v; rope and cache; attention over 128 keys; o; gate and up; down.  Weights rotate over more
 * than the L2 cache.  Per line: time of a layer, its bytes at the speed of this run's copy, and the
 * share of copy; then the time with rope and cache as a kernel of their own.
 *
 *     nvcc -std=c++17 -O3 -gencode=arch=compute_90a,code=sm_90a -I. tests/gpu/bench_layer.cu \
 *          kernels/cuda/{matmul*,act8_quantize,tensor_map,norm,qkv,rope_kv,attention_decode}.cu \
 *          kernels/cuda/{attention_plan,*choose*,weight_layout*,scheme_layout,block_layout}.c \
 *          kernels/{scheme,tensor}.c base/status.c
 *     bench_layer [rows ...] */
#include <algorithm>
#include <vector>

#include "tests/gpu/matmul_bench.cuh"

namespace
{

typedef __nv_bfloat16 bf;
enum { ROWS_MAX = 64, KEYS = 128, BLOCK_TOKENS = 16, LAYERS_MAX = 16, LAUNCHES = 24 };
const size_t L2_TIMES = 256 << 20; /* bytes that weights rotate over, at least */

struct shape {
    const char *name;
    int hidden, n_heads, n_kv_heads, head_dim, ffn;
};
const struct shape shapes[] = {
    {"8B", 4096, 32, 8, 128, 14336},       {"1B", 2048, 32, 8, 64, 8192},
    {"8B of 2", 4096, 16, 4, 128, 7168},   {"8B of 4", 4096, 8, 2, 128, 3584},
    {"70B of 2", 8192, 32, 4, 128, 14336}, {"70B of 4", 8192, 16, 2, 128, 7168},
};

struct layer {
    struct tensor q, k, v, o, gate, up, down;
};

struct bench {
    struct device d;
    struct shape s;
    struct kv_cache kv;
    struct norm norm;
    bf *x, *qkv, *attn, *gate;
    float *inv_freq;
    struct layer layer[LAYERS_MAX];
    int n_layers;
    std::vector<char> plan;
    struct attention_plan host;
};

struct tensor tensor_at(bf **at, int64_t rows, int64_t cols)
{
    struct tensor t = {*at, DT_BF16, LAYOUT_PACKED, rows, cols};
    *at += rows * cols;
    return t;
}

size_t layer_values(const struct shape *s)
{
    size_t q = (size_t)s->n_heads * s->head_dim, kv = (size_t)s->n_kv_heads * s->head_dim;
    return s->hidden * (2 * q + 2 * kv + 3 * (size_t)s->ffn);
}

void make_layers(struct bench *b)
{
    const struct shape *s = &b->s;
    const int q = s->n_heads * s->head_dim, kv = s->n_kv_heads * s->head_dim;
    b->n_layers = (int)(L2_TIMES / (layer_values(s) * 2)) + 1;
    for (int i = 0; i < b->n_layers; i++) {
        bf *at = random_matrix<bf>(layer_values(s), 1 / sqrtf((float)s->hidden));
        struct layer *l = &b->layer[i];
        l->q = tensor_at(&at, q, s->hidden);
        l->k = tensor_at(&at, kv, s->hidden);
        l->v = tensor_at(&at, kv, s->hidden);
        l->o = tensor_at(&at, s->hidden, q);
        l->gate = tensor_at(&at, s->ffn, s->hidden);
        l->up = tensor_at(&at, s->ffn, s->hidden);
        l->down = tensor_at(&at, s->hidden, s->ffn);
    }
}

template <class T> T *put(const std::vector<T> &v)
{
    T *p = take<T>(v.size());
    OK(cudaMemcpy(p, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice));
    return p;
}

/* Each of ROWS_MAX slots owns its pages. */
void make_pages(struct bench *b)
{
    struct device_limits *l = &b->d.limits;
    l->step_tokens_max = l->seqs_max = ROWS_MAX;
    l->context_max = KEYS;
    l->block_tokens = BLOCK_TOKENS;
    l->table_stride = KEYS / BLOCK_TOKENS;
    l->n_heads = b->s.n_heads;
    l->n_kv_heads = b->s.n_kv_heads;
    l->head_dim = b->s.head_dim;
    std::vector<int32_t> table(ROWS_MAX * l->table_stride), slot(ROWS_MAX);
    for (size_t i = 0; i < table.size(); i++)
        table[i] = (int32_t)i;
    for (int i = 0; i < ROWS_MAX; i++)
        slot[i] = i;
    b->d.batch.block_table = put(table);
    b->d.batch.token_slot = put(slot);
    b->d.batch.positions = put(std::vector<int32_t>(ROWS_MAX, KEYS - 1));
    b->kv.n_layers = 1;
    b->kv.n_blocks = (int)table.size();
    b->kv.block_tokens = BLOCK_TOKENS;
    b->kv.n_kv_heads = b->s.n_kv_heads;
    b->kv.head_dim = b->s.head_dim;
    b->kv.dtype = DT_BF16;
    size_t values = table.size() * BLOCK_TOKENS * b->s.n_kv_heads * b->s.head_dim;
    b->kv.k = random_matrix<bf>(values, 1);
    b->kv.v = random_matrix<bf>(values, 1);
    b->d.merges = take<int32_t>(attention_merges_max(l));
    OK(cudaMemset(b->d.merges, 0, attention_merges_max(l) * 4));
    const size_t partials = (size_t)attention_partials_max(l) * l->n_heads * (l->head_dim + 2);
    OK(cudaFree(b->d.partials)); /* of products alone */
    b->d.partials =
        take<float>(std::max(partials, scheme_wide_sums_bytes(b->d.sm_count) / sizeof(float)));
    b->plan.resize(attention_plan_bytes(l));
    attention_plan_view(&b->host, l, b->plan.data());
    attention_plan_view(&b->d.batch.attention, l, take<char>(b->plan.size()));
}

void make_batch(struct bench *b, int rows)
{
    std::vector<int32_t> seq(rows), start(rows + 1), kv_len(rows, KEYS), slot(rows),
        n_prompt(rows, KEYS - 1);
    for (int i = 0; i < rows; i++)
        seq[i] = slot[i] = i, start[i + 1] = i + 1;
    struct batch batch = {};
    batch.n_tokens = batch.n_seqs = rows;
    batch.token_seq = seq.data();
    batch.seq_start = start.data();
    batch.kv_len = kv_len.data();
    batch.slot = slot.data();
    batch.n_prompt = n_prompt.data();
    size_t n = attention_plan_make(&b->host, &b->d.limits, &batch);
    OK(cudaMemcpy(b->d.batch.attention.counts, b->plan.data(), n, cudaMemcpyHostToDevice));
    b->d.batch.attention_host = &b->host;
    b->d.batch.n_waves = b->host.counts->n_waves;
    b->d.batch.n_tokens = rows;
}

/* clang-format off: as in the forward */
void attend(struct bench *b, const struct layer *l, int rows, bool rope_apart)
{
    const int q_width = b->s.n_heads * b->s.head_dim, kv_width = b->s.n_kv_heads * b->s.head_dim;
    const int stride = q_width + 2 * kv_width;
    bf *k = b->qkv + q_width, *v = k + kv_width;
    struct matmul_args m = {};
    m.x = b->x, m.rows = rows, m.norm = &b->norm, m.n_outs = 3;
    m.out[0] = {b->qkv, stride, &l->q, nullptr, nullptr};
    m.out[1] = {k, stride, &l->k, nullptr, nullptr};
    m.out[2] = {v, stride, &l->v, nullptr, nullptr};
    struct rope_kv_args r = {};
    r.q = b->qkv, r.k = k, r.v = v, r.stride = stride, r.kv = &b->kv, r.n_heads = b->s.n_heads;
    r.rope = ROPE_NEOX, r.rope_dims = b->s.head_dim, r.inv_freq = b->inv_freq, r.rope_scale = 1;
    if (rope_apart) {
        cuda_matmul(&b->d, &m);
        cuda_rope_kv(&b->d, &r);
    } else {
        cuda_matmul_rope_kv(&b->d, &m, &r);
    }
    struct attention_args t = {};
    t.out = b->attn, t.q = b->qkv, t.q_stride = stride, t.kv = &b->kv, t.n_heads = b->s.n_heads;
    t.scale = 1 / sqrtf((float)b->s.head_dim);
    cuda_attention_decode(&b->d, &t);
    struct matmul_args o = {};
    o.x = b->attn, o.rows = rows, o.n_outs = 1;
    o.out[0] = {b->x, 0, &l->o, nullptr, b->x};
    cuda_matmul(&b->d, &o);
}

void feed_forward(struct bench *b, const struct layer *l, int rows)
{
    struct matmul_args m = {};
    m.x = b->x, m.rows = rows, m.norm = &b->norm, m.act = ACT_SILU, m.n_outs = 2;
    m.out[0] = {b->gate, 0, &l->gate, nullptr, nullptr};
    m.out[1] = {nullptr, 0, &l->up, nullptr, nullptr};
    cuda_matmul(&b->d, &m);
    struct matmul_args down = {};
    down.x = b->gate, down.rows = rows, down.n_outs = 1;
    down.out[0] = {b->x, 0, &l->down, nullptr, b->x};
    cuda_matmul(&b->d, &down);
}
/* clang-format on */

double copy_gbs(struct device *d)
{
    size_t n = (size_t)1 << 30;
    uint8_t *from = random_matrix<uint8_t>(n, 60), *to = take<uint8_t>(n);
    double us = graph_us(d->stream, 4, [&](int) {
        OK(cudaMemcpyAsync(to, from, n, cudaMemcpyDeviceToDevice, d->stream));
    });
    OK(cudaFree(from));
    OK(cudaFree(to));
    return 2e-3 * (double)n / us;
}

double layer_us(struct bench *b, int rows, bool rope_apart)
{
    return graph_us(b->d.stream, LAUNCHES, [&](int n) {
        attend(b, &b->layer[n % b->n_layers], rows, rope_apart);
        feed_forward(b, &b->layer[n % b->n_layers], rows);
    });
}

void bench_shape(const struct shape *s, const int *rows, int n_rows, double gbs)
{
    struct bench b = {};
    b.d = device_bare(DT_BF16);
    b.s = *s;
    b.norm = {NORM_RMS, random_matrix<float>(s->hidden, 1), nullptr, 1e-5f};
    b.inv_freq = random_matrix<float>(s->head_dim / 2, 0.1f);
    b.x = random_matrix<bf>((size_t)ROWS_MAX * s->hidden, 1);
    b.qkv = take<bf>((size_t)ROWS_MAX * (s->n_heads + 2 * s->n_kv_heads) * s->head_dim);
    b.attn = take<bf>((size_t)ROWS_MAX * s->n_heads * s->head_dim);
    b.gate = take<bf>((size_t)ROWS_MAX * s->ffn);
    b.d.scratch_norm = take<bf>((size_t)ROWS_MAX * s->ffn);
    make_layers(&b);
    make_pages(&b);
    for (int i = 0; i < n_rows; i++) {
        make_batch(&b, rows[i]);
        const double us = layer_us(&b, rows[i], false), apart = layer_us(&b, rows[i], true);
        double ideal = 2e-3 * (double)layer_values(s) / gbs;
        printf("%-8s layer M %-3d %8.2f us, weights alone at copy's speed %7.2f us, %5.1f %%; rope "
               "apart %8.2f us\n",
               s->name, rows[i], us, ideal, 100 * ideal / us, apart);
    }
    for (int i = 0; i < b.n_layers; i++)
        OK(cudaFree(b.layer[i].q.data));
}

} // namespace

int main(int argc, char **argv)
{
    static int rows[16] = {1, 2, 4, 8, 16, 32};
    int n_rows = 6;
    if (argc > 1)
        for (n_rows = 0; n_rows + 1 < argc && n_rows < 16; n_rows++) {
            rows[n_rows] = atoi(argv[n_rows + 1]);
            if (rows[n_rows] < 1 || rows[n_rows] > ROWS_MAX)
                return 1;
        }
    struct device d = device_bare(DT_BF16);
    double gbs = copy_gbs(&d);
    printf("copy %.0f GB/s\n", gbs);
    for (const struct shape &s : shapes)
        bench_shape(&s, rows, n_rows, gbs);
    return 0;
}
