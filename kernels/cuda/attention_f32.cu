/* attention_f32.cu - attention whose queries, keys, values and sums are all f32, without tensor
 * cores.
 *
 * A block takes up to 16 rows - (token, query head) pairs of one kv head - against 32 keys at a
 * time, which lie in shared memory.  A warp has two of the rows for itself: a lane is a key while
 * scores are made, and four columns of the values while they are summed.  Softmax is online
 * (Milakov and Gimelshein 2018): a row's chunks of 32 keys lie at fixed positions and come in
 * order, and one of which it sees no key leaves it as it is.  So its bits are its own, whatever
 * rows are beside it.
 *
 * Prompt tokens: a block for 16 rows of a tile (attention_plan.h), all keys in one sum.
 * Generated tokens: a block for an item and a kv head.  The splits of an item are summed apart and
 * joined in order; what the token has of items then, too, by the block that comes last, which
 * reads them from the workspace: splits to runs in order, and runs in order.  The grid is the
 * same for every step, and takes items as far as there are any.
 *
 * Requires: head_dim is a multiple of 4, and rows of q, K and V are aligned to 16 bytes. */
#include "kernels/cuda/launch.cuh"

namespace
{

constexpr int THREADS = 256, WARP = 32, WARPS = THREADS / WARP;
constexpr int OWN = 2, ROWS = OWN * WARPS; /* rows of a warp and of a block */
constexpr int CHUNK = WARP;                /* keys */
constexpr int BLOCKS_PER_SM = 4;           /* of generated tokens, at most */

static_assert(ATTENTION_SPLIT_MIN % CHUNK == 0, "a split is whole chunks");
static_assert(ROWS == ATTENTION_TASK_HEADS, "what a block takes of an item");

struct job {
    const float *q, *k, *v; /* k and v of the layer */
    float *out;
    const int32_t *block_table;
    int q_stride, table_stride, block_tokens, n_heads, n_kv_heads, head_dim;
    int group, n_parts; /* query heads of a kv head, and how many blocks have them */
    float scale, soft_cap;
    int window;
    const float *alibi;
    bool bidirectional;
    const struct attention_tile *tile;
    const struct attention_wave *wave;
    const struct attention_item *item; /* of the wave */
    float *values;     /* partials: [partial, n_heads, head_dim], to be divided by */
    float2 *sums;      /* [partial, n_heads]: the largest score, and the sum */
    int32_t *counters; /* [merge, n_heads], zero between launches */
};

template <int D> struct area {
    float q[ROWS][D];
    float k[CHUNK][D + 4]; /* 8 keys lie in different banks */
    float v[CHUNK][D];
    float weight[ROWS][CHUNK];
    int32_t is_last;
};

struct row {
    bool here;
    int token, head, position;
    int begin, end; /* keys that it sees */
};

template <int D> struct summed {
    static constexpr int QUADS = (D / 4 + WARP - 1) / WARP; /* of a lane */
    float top, sum;                                         /* top -INFINITY <=> nothing yet */
    float4 v[QUADS];
};

template <int D> __device__ inline struct summed<D> nothing() {
    struct summed<D> s = {
    };
    s.top = -INFINITY;
    return s;
}

/* to = to + more, as softmax adds. */
template <int D>
__device__ inline void join(struct summed<D> *to, const struct summed<D> &more)
{
    if (more.top == -INFINITY)
        return;
    const float top = fmaxf(to->top, more.top);
    const float a = expf(to->top - top), b = expf(more.top - top);
    to->top = top;
    to->sum = __fmaf_rn(to->sum, a, __fmul_rn(more.sum, b));
#pragma unroll
    for (int i = 0; i < summed<D>::QUADS; i++) {
        to->v[i].x = __fmaf_rn(to->v[i].x, a, __fmul_rn(more.v[i].x, b));
        to->v[i].y = __fmaf_rn(to->v[i].y, a, __fmul_rn(more.v[i].y, b));
        to->v[i].z = __fmaf_rn(to->v[i].z, a, __fmul_rn(more.v[i].z, b));
        to->v[i].w = __fmaf_rn(to->v[i].w, a, __fmul_rn(more.v[i].w, b));
    }
}

/* ---- a chunk of keys ---- */

/* K and V of the keys from `first` on; zeros from `end` on. */
template <int D>
__device__ inline void fetch(struct area<D> *to, const struct job &j, const int32_t *table,
                             int kv_head, int first, int end)
{
    constexpr int QUADS = D / 4;
    for (int i = (int)threadIdx.x; i < CHUNK * QUADS; i += THREADS) {
        const int at = i / QUADS, column = i % QUADS * 4, key = first + at;
        const bool here = key < end;
        const size_t block = here ? table[key / j.block_tokens] : 0;
        const size_t row = (block * j.n_kv_heads + kv_head) * j.block_tokens + key % j.block_tokens;
        cp_async_16(shared_addr(&to->k[at][column]), here ? j.k + row * D + column : j.k,
                    here ? 16 : 0);
        cp_async_16(shared_addr(&to->v[at][column]), here ? j.v + row * D + column : j.v,
                    here ? 16 : 0);
    }
    cp_async_commit();
    cp_async_wait<0>();
}

__device__ inline float add_up(float4 v)
{
    return __fadd_rn(__fadd_rn(v.x, v.y), __fadd_rn(v.z, v.w));
}

/* q.k of the warp's rows and the lane's key. */
template <int D> __device__ inline void multiply_keys(float score[OWN], const struct area<D> &a)
{
    const int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP;
    float4 sum[OWN] = {};
#pragma unroll 8
    for (int c = 0; c < D; c += 4) {
        const float4 k = *(const float4 *)&a.k[lane][c];
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            const float4 q = *(const float4 *)&a.q[warp + i * WARPS][c];
            sum[i].x = __fmaf_rn(q.x, k.x, sum[i].x);
            sum[i].y = __fmaf_rn(q.y, k.y, sum[i].y);
            sum[i].z = __fmaf_rn(q.z, k.z, sum[i].z);
            sum[i].w = __fmaf_rn(q.w, k.w, sum[i].w);
        }
    }
#pragma unroll
    for (int i = 0; i < OWN; i++)
        score[i] = add_up(sum[i]);
}

__device__ inline float shape_score(const struct job &j, const struct row &r, float score, int key)
{
    score = __fmul_rn(score, j.scale);
    if (j.soft_cap > 0)
        score = __fmul_rn(j.soft_cap, tanhf(__fdiv_rn(score, j.soft_cap)));
    if (j.alibi)
        score = __fmaf_rn(j.alibi[r.head], (float)(key - r.position), score);
    return key >= r.begin && key < r.end ? score : -INFINITY;
}

/* The lane's score becomes its key's weight; what was summed is scaled to the new largest. */
template <int D> __device__ inline float weigh(struct summed<D> *s, float score)
{
    float top = score;
#pragma unroll
    for (int apart = WARP / 2; apart > 0; apart /= 2)
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, apart));
    top = fmaxf(top, s->top);
    const float weight = expf(score - top), decay = expf(s->top - top);
    float sum = weight;
#pragma unroll
    for (int apart = WARP / 2; apart > 0; apart /= 2)
        sum = __fadd_rn(sum, __shfl_xor_sync(0xffffffffu, sum, apart));
    s->top = top;
    s->sum = __fmaf_rn(s->sum, decay, sum);
#pragma unroll
    for (int i = 0; i < summed<D>::QUADS; i++) {
        s->v[i].x = __fmul_rn(s->v[i].x, decay);
        s->v[i].y = __fmul_rn(s->v[i].y, decay);
        s->v[i].z = __fmul_rn(s->v[i].z, decay);
        s->v[i].w = __fmul_rn(s->v[i].w, decay);
    }
    return weight;
}

template <int D>
__device__ inline void add_values(struct summed<D> *s, const struct area<D> &a, const float *weight)
{
    const int lane = (int)threadIdx.x % WARP;
#pragma unroll 8
    for (int key = 0; key < CHUNK; key++) {
        const float w = weight[key];
#pragma unroll
        for (int i = 0; i < summed<D>::QUADS; i++) {
            const int column = (lane + i * WARP) * 4;
            if (column >= D)
                continue;
            const float4 v = *(const float4 *)&a.v[key][column];
            s->v[i].x = __fmaf_rn(w, v.x, s->v[i].x);
            s->v[i].y = __fmaf_rn(w, v.y, s->v[i].y);
            s->v[i].z = __fmaf_rn(w, v.z, s->v[i].z);
            s->v[i].w = __fmaf_rn(w, v.w, s->v[i].w);
        }
    }
}

/* Keys [first, end) of a sequence, for the block's rows; `first` is a multiple of CHUNK.  All
 * threads of the block. */
template <int D>
__device__ inline void attend(struct summed<D> s[OWN], struct area<D> *a, const struct job &j,
                              const struct row r[OWN], const int32_t *table, int kv_head, int first,
                              int end)
{
    const int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP;
    for (int chunk = first; chunk < end; chunk += CHUNK) {
        float score[OWN];
        bool sees[OWN];
        __syncthreads(); /* all have read the chunk before */
        fetch(a, j, table, kv_head, chunk, end);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < OWN; i++)
            sees[i] = r[i].here && chunk < r[i].end && chunk + CHUNK > r[i].begin;
        if (!sees[0] && !sees[1])
            continue;
        multiply_keys(score, *a);
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            if (!sees[i])
                continue;
            float *weight = a->weight[warp + i * WARPS];
            weight[lane] = weigh(&s[i], shape_score(j, r[i], score[i], chunk + lane));
            __syncwarp();
            add_values(&s[i], *a, weight);
            __syncwarp();
        }
    }
}

/* ---- rows ---- */

/* The warp's rows' queries, or zeros. */
template <int D>
__device__ inline void load_queries(struct area<D> *a, const struct job &j, const struct row r[OWN])
{
    const int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP;
#pragma unroll
    for (int i = 0; i < OWN; i++) {
        const float *q = j.q + (size_t)r[i].token * j.q_stride + r[i].head * D;
        for (int c = lane * 4; c < D; c += WARP * 4)
            *(float4 *)&a->q[warp + i * WARPS][c] = r[i].here ? *(const float4 *)(q + c) : float4();
    }
    __syncwarp();
}

template <int D>
__device__ inline void put_out(const struct job &j, const struct row &r, const struct summed<D> &s)
{
    float *out = j.out + ((size_t)r.token * j.n_heads + r.head) * D;
#pragma unroll
    for (int i = 0; i < summed<D>::QUADS; i++) {
        const int column = ((int)threadIdx.x % WARP + i * WARP) * 4;
        if (column < D)
            *(float4 *)(out + column) =
                make_float4(__fdiv_rn(s.v[i].x, s.sum), __fdiv_rn(s.v[i].y, s.sum),
                            __fdiv_rn(s.v[i].z, s.sum), __fdiv_rn(s.v[i].w, s.sum));
    }
}

__device__ inline int window_begin(const struct job &j, int position)
{
    return j.window > 0 ? max(0, position + 1 - j.window) : 0;
}

/* ---- prompt tokens ---- */

/* grid: [tiles * n_kv_heads, parts of a tile]   block: [THREADS] */
template <int D> __global__ void __launch_bounds__(THREADS) prompt_kernel(const struct job j)
{
    DYNAMIC_SHARED(__align__(16) uint8_t, bytes);
    struct area<D> *a = (struct area<D> *)bytes;
    const int kv_head = (int)blockIdx.x % j.n_kv_heads, first_row = (int)blockIdx.y * ROWS;
    struct row r[OWN];
    struct summed<D> s[OWN];
    await_previous();
    const struct attention_tile t = j.tile[blockIdx.x / j.n_kv_heads];
    const int n_rows = t.n_tokens * j.group, last_row = min(first_row + ROWS, n_rows) - 1;
    if (first_row >= n_rows)
        return;
#pragma unroll
    for (int i = 0; i < OWN; i++) {
        const int at = first_row + (int)threadIdx.x / WARP + i * WARPS;
        const int token = min(at, last_row) / j.group;
        r[i].here = at <= last_row;
        r[i].token = t.first_token + token;
        r[i].head = kv_head * j.group + min(at, last_row) % j.group;
        r[i].position = t.position + token;
        r[i].begin = window_begin(j, r[i].position);
        r[i].end = j.bidirectional ? max(r[i].position + 1, t.prompt_len) : r[i].position + 1;
        s[i] = nothing<D>();
    }
    load_queries(a, j, r);
    const int begin = window_begin(j, t.position + first_row / j.group);
    const int end = t.position + last_row / j.group + 1;
    attend(s, a, j, r, j.block_table + (size_t)t.slot * j.table_stride, kv_head,
           begin / CHUNK * CHUNK, j.bidirectional ? max(end, t.prompt_len) : end);
#pragma unroll
    for (int i = 0; i < OWN; i++)
        if (r[i].here)
            put_out(j, r[i], s[i]);
}

/* ---- generated tokens ---- */

template <int D>
__device__ inline void put_partial(const struct job &j, int partial, int head,
                                   const struct summed<D> &s)
{
    const size_t at = (size_t)partial * j.n_heads + head;
    const int lane = (int)threadIdx.x % WARP;
#pragma unroll
    for (int i = 0; i < summed<D>::QUADS; i++) {
        const int column = (lane + i * WARP) * 4;
        if (column < D)
            *(float4 *)(j.values + at * D + column) = s.v[i];
    }
    if (lane == 0)
        j.sums[at] = make_float2(s.top, s.sum);
}

/* Another block wrote it. */
template <int D>
__device__ inline struct summed<D> take_partial(const struct job &j, int partial, int head) {
    const size_t at = (size_t)partial * j.n_heads + head;
    const float2 sums = __ldcg(j.sums + at);
    struct summed<D> s = nothing<D>();
    s.top = sums.x;
    s.sum = sums.y;
#pragma unroll
    for (int i = 0; i < summed<D>::QUADS; i++) {
        const int column = ((int)threadIdx.x % WARP + i * WARP) * 4;
        if (column < D)
            s.v[i] = __ldcg((const float4 *)(j.values + at * D + column));
    }
    return s;
}

static_assert(ATTENTION_SPLIT_MAX < ATTENTION_RUN, "as many splits as runs are one");

/* All items of a token, for one head: splits to runs, unless the items are runs, and these. */
template <int D>
__device__ inline struct summed<D> join_items(const struct job &j, const struct attention_item &it,
                                              int head) {
    const bool are_splits = it.n_items == (it.kv_len + it.size - 1) / it.size;
    const int per_run = are_splits ? ATTENTION_RUN / it.size : 1;
    struct summed<D> all = nothing<D>(), run = nothing<D>();
    for (int i = 0; i < it.n_items; i++) {
        join(&run, take_partial<D>(j, it.first_partial + i, head));
        if ((i + 1) % per_run == 0 || i + 1 == it.n_items) {
            join(&all, run);
            run = nothing<D>();
        }
    }
    return all;
}

/* Whether this item is the last of its token to be here; all threads of the block. */
template <int D>
__device__ inline bool is_last_item(struct area<D> *a, const struct job &j,
                                    const struct attention_item &it, int part)
{
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        int32_t *counter = j.counters + (size_t)it.merge * j.n_heads + part;
        a->is_last = atomicAdd(counter, 1) == it.n_items - 1;
        if (a->is_last)
            *counter = 0;
    }
    __syncthreads();
    __threadfence();
    return a->is_last;
}

/* An item and up to ROWS of its query heads, those of `part`. */
template <int D>
__device__ inline void attend_item(struct area<D> *a, const struct job &j,
                                   const struct attention_item &it, int part)
{
    const int kv_head = part / j.n_parts, first_row = part % j.n_parts * ROWS;
    const int begin = window_begin(j, it.kv_len - 1);
    struct row r[OWN];
    struct summed<D> s[OWN];
#pragma unroll
    for (int i = 0; i < OWN; i++) {
        const int at = first_row + (int)threadIdx.x / WARP + i * WARPS;
        r[i].here = at < j.group;
        r[i].token = it.token;
        r[i].head = kv_head * j.group + min(at, j.group - 1);
        r[i].position = it.kv_len - 1;
        r[i].begin = begin;
        r[i].end = it.kv_len;
        s[i] = nothing<D>();
    }
    load_queries(a, j, r);
    for (int split = it.first_key; split < it.end_key; split += it.size) {
        struct summed<D> one[OWN];
        const int first = max(split, begin / CHUNK * CHUNK), end = min(split + it.size, it.end_key);
#pragma unroll
        for (int i = 0; i < OWN; i++)
            one[i] = nothing<D>();
        attend(one, a, j, r, j.block_table + (size_t)it.slot * j.table_stride, kv_head, first, end);
#pragma unroll
        for (int i = 0; i < OWN; i++)
            join(&s[i], one[i]);
    }
#pragma unroll
    for (int i = 0; i < OWN; i++) {
        if (r[i].here && it.partial < 0)
            put_out(j, r[i], s[i]);
        else if (r[i].here)
            put_partial(j, it.partial, r[i].head, s[i]);
    }
    if (it.partial < 0 || !is_last_item(a, j, it, part))
        return;
#pragma unroll
    for (int i = 0; i < OWN; i++)
        if (r[i].here)
            put_out(j, r[i], join_items<D>(j, it, r[i].head));
}

/* grid: [any]   block: [THREADS] */
template <int D> __global__ void __launch_bounds__(THREADS) item_kernel(const struct job j)
{
    DYNAMIC_SHARED(__align__(16) uint8_t, bytes);
    struct area<D> *a = (struct area<D> *)bytes;
    const int n_parts = j.n_kv_heads * j.n_parts;
    await_previous();
    const int n_tasks = (j.wave->end_item - j.wave->first_item) * n_parts;
    for (int task = (int)blockIdx.x; task < n_tasks; task += (int)gridDim.x) {
        attend_item(a, j, j.item[task / n_parts], task % n_parts);
        __syncthreads(); /* of `is_last` */
    }
}

/* ---- launches ---- */

struct job job_of(const struct device *d, const struct attention_args *a)
{
    const struct kv_cache *kv = a->kv;
    const size_t layer = (size_t)kv->n_blocks * kv->n_kv_heads * kv->block_tokens * kv->head_dim;
    const size_t n_partials = attention_partials_max(&d->limits);
    struct job j = {};
    j.q = (const float *)a->q;
    j.k = (const float *)kv->k + layer * a->layer;
    j.v = (const float *)kv->v + layer * a->layer;
    j.out = (float *)a->out;
    j.block_table = d->batch.block_table;
    j.q_stride = a->q_stride;
    j.table_stride = d->limits.table_stride;
    j.block_tokens = kv->block_tokens;
    j.n_heads = a->n_heads;
    j.n_kv_heads = kv->n_kv_heads;
    j.head_dim = kv->head_dim;
    j.group = a->n_heads / kv->n_kv_heads;
    j.n_parts = (j.group + ROWS - 1) / ROWS;
    j.scale = a->scale;
    j.soft_cap = a->soft_cap;
    j.window = a->window;
    j.alibi = a->alibi;
    j.bidirectional = a->bidirectional;
    j.tile = d->batch.attention.tile;
    j.values = d->partials;
    j.sums = (float2 *)(d->partials + n_partials * a->n_heads * kv->head_dim);
    j.counters = d->merges + ATTENTION_QUEUE;
    return j;
}

template <int D>
void launch_with(struct device *d, void (*kernel)(struct job), dim3 grid, const struct job &j)
{
    constexpr int BYTES = sizeof(struct area<D>);
    cuda_check(d, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, BYTES),
               "attention_f32");
    launch(d, "attention_f32", {grid, dim3(THREADS), BYTES, 0}, kernel, j);
}

template <int D> void launch_all(struct device *d, struct job j)
{
    const struct cuda_batch *b = &d->batch;
    const int n_tiles = b->has_tiles ? b->attention_host->counts->n_tiles : 0;
    const int tile_parts = (ATTENTION_TILE * j.group + ROWS - 1) / ROWS;
    if (n_tiles > 0)
        launch_with<D>(d, prompt_kernel<D>,
                       dim3((unsigned)(n_tiles * j.n_kv_heads), (unsigned)tile_parts), j);
    for (int i = 0; b->has_items && i < b->n_waves; i++) {
        /* A graph has one wave, which begins at 0 whatever it is replayed for. */
        j.wave = &b->attention.counts->wave[i];
        j.item = b->attention.item + (i > 0 ? b->attention_host->counts->wave[i].first_item : 0);
        launch_with<D>(d, item_kernel<D>, dim3((unsigned)(d->sm_count * BLOCKS_PER_SM)), j);
    }
}

} /* namespace */

void cuda_attention_f32(struct device *d, const struct attention_args *a)
{
    const struct job j = job_of(d, a);
    switch (j.head_dim) {
    case 64:
        return launch_all<64>(d, j);
    case 80:
        return launch_all<80>(d, j);
    case 96:
        return launch_all<96>(d, j);
    case 128:
        return launch_all<128>(d, j);
    case 256:
        return launch_all<256>(d, j);
    default:
        cuda_check(d, cudaErrorInvalidValue, "attention_f32: head_dim");
    }
}
