/* rope_kv.cu - the step between projections and attention: norms the heads of q and k where the
 * family does, rotates them by their position, and writes k and v to their pages.
 *
 * q is rotated in place; k and v are read once and written to the cache alone, which is all that
 * attention reads.  The angle position * inv_freq is rounded to f32 before its sine is taken, as
 * on the CPU; it is then reduced in double, so that the sine is right at any position.  A block
 * takes the sines of its token once, in shared memory, for all of its heads.
 *
 * Heads of whole chunks go 16 bytes at a time, a chunk a lane; others a value at a time, a warp a
 * head.  The norm's sum is in f32 in an order that depends on the head's size alone. */
#include "kernels/cuda/act_type.cuh"
#include "kernels/cuda/launch.cuh"

namespace
{

constexpr int THREADS = 256, WARP = 32, DIMS_MAX = 512;

struct rope_job {
    void *q;
    const void *k, *v;
    void *cache_k, *cache_v; /* of the layer */
    const float *q_norm, *k_norm, *inv_freq;
    const int32_t *positions, *token_slot, *block_table;
    int stride, table_stride, block_tokens;
    int n_heads, n_kv_heads, head_dim, dims; /* dims: 0 = no rope */
    enum rope_kind rope;
    enum dtype cache_dtype;
    float norm_eps, rope_scale;
};

struct angles {
    float cos[DIMS_MAX / 2], sin[DIMS_MAX / 2]; /* [dims / 2] */
};

/* All threads of the block; ends with a barrier. */
__device__ inline void find_angles(struct angles *to, const struct rope_job &j, int position)
{
    const double PER_PI = 0.31830988618379067154;
    for (int i = (int)threadIdx.x; i < j.dims / 2; i += THREADS) {
        const double turns = (double)__fmul_rn((float)position, j.inv_freq[i]) * PER_PI;
        float s, c; /* of half turns in [-1, 1] */
        sincospif((float)(turns - 2.0 * rint(0.5 * turns)), &s, &c);
        to->cos[i] = c * j.rope_scale;
        to->sin[i] = s * j.rope_scale;
    }
    __syncthreads();
}

/* The row of a head in its page, in values from the layer's start. */
__device__ inline size_t page_row(const struct rope_job &j, int token, int head)
{
    const int position = j.positions[token];
    const int32_t *table = j.block_table + (size_t)j.token_slot[token] * j.table_stride;
    const size_t block = (size_t)table[position / j.block_tokens];
    return ((block * j.n_kv_heads + head) * j.block_tokens + position % j.block_tokens) *
           j.head_dim;
}

template <class PAIR>
__device__ inline void store_cache(void *cache, size_t at, enum dtype dtype, const float v[CHUNK])
{
    if (dtype == DT_F32) {
        float4 *to = reinterpret_cast<float4 *>((float *)cache + at);
        to[0] = make_float4(v[0], v[1], v[2], v[3]);
        to[1] = make_float4(v[4], v[5], v[6], v[7]);
    } else {
        *reinterpret_cast<uint4 *>((__half *)cache + at) =
            dtype == DT_F16 ? chunk_from_f32<__half2>(v) : chunk_from_f32<__nv_bfloat162>(v);
    }
}

/* One chunk of one head, which LANES neighbouring lanes hold; `c` is its place in the head and
 * n_chunks <= LANES.  All lanes of the warp come here. */
template <int LANES>
__device__ inline void turn_chunk(float v[CHUNK], int c, const struct rope_job &j,
                                  const float *norm, const struct angles *angles)
{
    const int n_chunks = j.head_dim / CHUNK;
    if (j.q_norm || j.k_norm) { /* by all lanes, whatever their head */
        float sum = 0;
#pragma unroll
        for (int i = 0; i < CHUNK; i++)
            sum = __fmaf_rn(v[i], v[i], sum);
#pragma unroll
        for (int lanes = LANES / 2; lanes > 0; lanes /= 2)
            sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
        const float scale = norm_scale(sum, j.head_dim, j.norm_eps);
#pragma unroll
        for (int i = 0; i < CHUNK; i++)
            v[i] = norm && c < n_chunks ? v[i] * scale * __ldg(norm + c * CHUNK + i) : v[i];
    }
    if (j.rope == ROPE_NEOX) {
        const int half = j.dims / 2 / CHUNK; /* chunks */
        const bool low = c < half, turns = c < 2 * half;
        const int partner = low ? c + half : c - half;
#pragma unroll
        for (int i = 0; i < CHUNK; i++) {
            const float other = __shfl_sync(0xffffffffu, v[i], turns ? partner : c, LANES);
            const int at = (low ? c : partner) * CHUNK + i;
            if (turns)
                v[i] = v[i] * angles->cos[at] + (low ? -other : other) * angles->sin[at];
        }
    } else if (j.rope == ROPE_ADJACENT && c < j.dims / CHUNK) {
#pragma unroll
        for (int i = 0; i < CHUNK; i += 2) {
            const float s = angles->sin[(c * CHUNK + i) / 2], t = angles->cos[(c * CHUNK + i) / 2];
            const float a = v[i], b = v[i + 1];
            v[i] = a * t - b * s;
            v[i + 1] = b * t + a * s;
        }
    }
}

/* grid: [n_tokens, parts]   block: [THREADS]
 * LANES lanes hold a head; heads are those of q, then k, then v. */
template <class PAIR, int LANES>
__global__ void __launch_bounds__(THREADS) rope_kv_kernel(const struct rope_job j)
{
    __shared__ struct angles angles;
    const int token = (int)blockIdx.x, c = (int)threadIdx.x % LANES;
    const int n_all = j.n_heads + 2 * j.n_kv_heads, per_block = THREADS / LANES;
    const size_t row = (size_t)token * j.stride;
    await_previous();
    find_angles(&angles, j, j.positions[token]);
    for (int first = (int)blockIdx.y * per_block; first < n_all;
         first += (int)gridDim.y * per_block) {
        const int head = first + (int)threadIdx.x / LANES;
        const bool is_q = head < j.n_heads, is_k = !is_q && head < j.n_heads + j.n_kv_heads;
        const bool here = head < n_all && c < j.head_dim / CHUNK;
        const int of_kind = is_q ? head : (head - j.n_heads) % j.n_kv_heads;
        const uint4 *from = (const uint4 *)(is_q ? j.q : is_k ? j.k : j.v);
        const size_t at = (row + (size_t)of_kind * j.head_dim) / CHUNK + c;
        float v[CHUNK];
        chunk_to_f32<PAIR>(v, here ? from[at] : uint4());
        /* A warp may hold heads of several kinds: all of it turns, and v keeps what it read. */
        float turned[CHUNK];
#pragma unroll
        for (int i = 0; i < CHUNK; i++)
            turned[i] = v[i];
        const float *norm = is_q ? j.q_norm : j.k_norm;
        turn_chunk<LANES>(turned, c, j, norm, &angles);
        if (!here)
            continue;
        if (is_q)
            ((uint4 *)j.q)[at] = chunk_from_f32<PAIR>(turned);
        else
            store_cache<PAIR>(is_k ? j.cache_k : j.cache_v, page_row(j, token, of_kind) + c * CHUNK,
                              j.cache_dtype, is_k ? turned : v);
    }
}

template <class T>
__device__ inline void store_one(const struct rope_job &j, T *q, void *cache, size_t at, float v)
{
    if (q)
        store_f32(q + at, v);
    else if (j.cache_dtype == DT_F32)
        ((float *)cache)[at] = v;
    else if (j.cache_dtype == DT_F16)
        store_f32((__half *)cache + at, v);
    else
        store_f32((__nv_bfloat16 *)cache + at, v);
}

/* grid: [n_tokens, parts]   block: [THREADS]; a warp a head, a value a lane */
template <class T>
__global__ void __launch_bounds__(THREADS) rope_kv_any_kernel(const struct rope_job j)
{
    __shared__ struct angles angles;
    const int token = (int)blockIdx.x, lane = (int)threadIdx.x % WARP;
    const int n_all = j.n_heads + 2 * j.n_kv_heads, warps = THREADS / WARP;
    await_previous();
    find_angles(&angles, j, j.positions[token]);
    for (int head = (int)blockIdx.y * warps + (int)threadIdx.x / WARP; head < n_all;
         head += (int)gridDim.y * warps) {
        const bool is_q = head < j.n_heads, is_k = !is_q && head < j.n_heads + j.n_kv_heads;
        const int of_kind = is_q ? head : (head - j.n_heads) % j.n_kv_heads;
        const size_t from_at = (size_t)token * j.stride + (size_t)of_kind * j.head_dim;
        const T *from = (const T *)(is_q ? j.q : is_k ? j.k : j.v) + from_at;
        const float *norm = is_q ? j.q_norm : is_k ? j.k_norm : nullptr;
        T *q = is_q ? (T *)j.q : nullptr;
        void *cache = is_k ? j.cache_k : j.cache_v;
        const size_t to = is_q ? from_at : page_row(j, token, of_kind);
        float scale = 1;
        if (norm) {
            float sum = 0;
            for (int i = lane; i < j.head_dim; i += WARP)
                sum = __fmaf_rn(load_f32(from + i), load_f32(from + i), sum);
            scale = norm_scale(norm_warp_sum(sum), j.head_dim, j.norm_eps);
        }
        auto value = [&](int i) {
            return norm ? load_f32(from + i) * scale * norm[i] : load_f32(from + i);
        };
        const int dims = is_q || is_k ? j.dims : 0, half = dims / 2;
        for (int i = lane; i < half; i += WARP) {
            const int low = j.rope == ROPE_NEOX ? i : 2 * i,
                      high = j.rope == ROPE_NEOX ? i + half : low + 1;
            const float a = value(low), b = value(high), t = angles.cos[i], s = angles.sin[i];
            store_one(j, q, cache, to + low, a * t - b * s);
            store_one(j, q, cache, to + high, b * t + a * s);
        }
        for (int i = dims + lane; i < j.head_dim; i += WARP)
            store_one(j, q, cache, to + i, value(i));
    }
}

struct rope_job make_job(const struct device *d, const struct rope_kv_args *a)
{
    const struct kv_cache *kv = a->kv;
    const size_t layer_bytes = (size_t)kv->n_blocks * kv->n_kv_heads * kv->block_tokens *
                               kv->head_dim * (kv->dtype == DT_F32 ? 4 : 2);
    struct rope_job j = {};
    j.q = a->q;
    j.k = a->k;
    j.v = a->v;
    j.cache_k = (char *)kv->k + layer_bytes * a->layer;
    j.cache_v = (char *)kv->v + layer_bytes * a->layer;
    j.q_norm = a->q_norm;
    j.k_norm = a->k_norm;
    j.inv_freq = a->inv_freq;
    j.positions = d->batch.positions;
    j.token_slot = d->batch.token_slot;
    j.block_table = d->batch.block_table;
    j.stride = a->stride;
    j.table_stride = d->limits.table_stride;
    j.block_tokens = kv->block_tokens;
    j.n_heads = a->n_heads;
    j.n_kv_heads = kv->n_kv_heads;
    j.head_dim = kv->head_dim;
    j.rope = a->rope;
    j.dims = a->rope == ROPE_NONE ? 0 : a->rope_dims;
    j.cache_dtype = kv->dtype;
    j.norm_eps = a->norm_eps;
    j.rope_scale = a->rope_scale;
    return j;
}

bool fits_chunks(const struct rope_job *j)
{
    const uintptr_t at = (uintptr_t)j->q | (uintptr_t)j->k | (uintptr_t)j->v |
                         (uintptr_t)j->cache_k | (uintptr_t)j->cache_v;
    const int step = j->rope == ROPE_NEOX ? 2 * CHUNK : CHUNK;
    return at % 16 == 0 && j->head_dim % CHUNK == 0 && j->head_dim <= WARP * CHUNK &&
           j->stride % CHUNK == 0 && j->dims % step == 0;
}

/* Few tokens spread their heads over blocks; many take the sines once. */
void launch_rope(struct device *d, void (*kernel)(struct rope_job), const struct rope_job &j,
                 int heads_per_block)
{
    enum { FEW_TOKENS = 128 };
    const int n_all = j.n_heads + 2 * j.n_kv_heads;
    const int parts = (n_all + heads_per_block - 1) / heads_per_block;
    const int tokens = d->batch.n_tokens;
    launch(
        d, "rope_kv",
        {dim3((unsigned)tokens, (unsigned)(tokens <= FEW_TOKENS ? parts : 1)), dim3(THREADS), 0, 0},
        kernel, j);
}

} /* namespace */

void cuda_rope_kv(struct device *d, const struct rope_kv_args *a)
{
    if (d->batch.n_tokens <= 0)
        return;
    const struct rope_job j = make_job(d, a);
    with_act_type(d->act, [&](auto pair) {
        typedef decltype(pair) act;
        const int chunks = j.head_dim / CHUNK;
        if (!fits_chunks(&j))
            launch_rope(d, rope_kv_any_kernel<typename single_of<act>::type>, j, THREADS / WARP);
        else if (chunks <= 8)
            launch_rope(d, rope_kv_kernel<act, 8>, j, THREADS / 8);
        else if (chunks <= 16)
            launch_rope(d, rope_kv_kernel<act, 16>, j, THREADS / 16);
        else
            launch_rope(d, rope_kv_kernel<act, 32>, j, THREADS / 32);
    });
}
