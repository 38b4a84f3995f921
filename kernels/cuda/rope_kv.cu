/* rope_kv.cu - the step between projections and attention: norms the heads of q and k where the
 * family does, rotates them by their position, and writes k and v to their pages.
 *
 * q is rotated in place; k and v are read once and written to the cache alone, which is all that
 * attention reads.  A block takes the sines of its token once, in shared memory, for all of its
 * heads.
 *
 * For a cache of 8 bits the heads of q and k are then turned by a Hadamard matrix, in the order of
 * the CPU's additions, and a row of K or V gets its scale.
 *
 * Heads of whole chunks go a chunk a lane; others a value at a time, a warp a
 * head.  The norm's sum is in f32 in an order that depends on the head's size alone. */
#include "kernels/cuda/act_type.cuh"
#include "kernels/cuda/cache8.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/rope_kv.cuh"

namespace
{

constexpr int THREADS = 256, WARP = 32, DIMS_MAX = 512;

struct angles {
    float cos[DIMS_MAX / 2], sin[DIMS_MAX / 2]; /* [dims / 2] */
};

/* All threads of the block; ends with a barrier. */
__device__ inline void find_angles(struct angles *to, const struct rope_job &j, int position)
{
    for (int i = (int)threadIdx.x; i < j.dims / 2; i += THREADS) {
        const struct angle a = angle_of(j.inv_freq[i], j.rope_scale, position);
        to->cos[i] = a.cos;
        to->sin[i] = a.sin;
    }
    __syncthreads();
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
                v[i] = turn_one(v[i], angles->cos[at], other,
                                low ? -angles->sin[at] : angles->sin[at]);
        }
    } else if (j.rope == ROPE_ADJACENT && c < j.dims / CHUNK) {
#pragma unroll
        for (int i = 0; i < CHUNK; i += 2) {
            const float s = angles->sin[(c * CHUNK + i) / 2], t = angles->cos[(c * CHUNK + i) / 2];
            const float a = v[i], b = v[i + 1];
            v[i] = turn_one(a, t, b, -s);
            v[i + 1] = turn_one(b, t, a, s);
        }
    }
}

/* Sums and differences of all pairs, the most distant ones first: between lanes, then within. */
template <int LANES> __device__ inline void hadamard_chunk(float v[CHUNK], const struct rope_job &j)
{
    const int lane = (int)threadIdx.x;
    for (int apart = j.hadamard / CHUNK / 2; apart > 0; apart /= 2) {
#pragma unroll
        for (int i = 0; i < CHUNK; i++) {
            const float other = __shfl_xor_sync(0xffffffffu, v[i], apart, LANES);
            v[i] = lane & apart ? other - v[i] : v[i] + other;
        }
    }
#pragma unroll
    for (int apart = CHUNK / 2; apart > 0; apart /= 2) {
#pragma unroll
        for (int i = 0; i < CHUNK; i++) {
            if (i & apart)
                continue;
            const float a = v[i], b = v[i + apart];
            v[i] = a + b;
            v[i + apart] = a - b;
        }
    }
#pragma unroll
    for (int i = 0; i < CHUNK; i++)
        v[i] = __fmul_rn(v[i], j.hadamard_scale);
}

/* The scale of the head that LANES lanes hold, to all of them; lanes behind its end hold zeros. */
template <int LANES> __device__ inline float chunk_scale(const float v[CHUNK], bool is_e4m3)
{
    float top = 0;
    int is_finite = 1;
#pragma unroll
    for (int i = 0; i < CHUNK; i++) {
        top = fmaxf(top, fabsf(v[i]));
        is_finite &= fabsf(v[i]) <= FLT_MAX;
    }
#pragma unroll
    for (int lanes = LANES / 2; lanes > 0; lanes /= 2) {
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, lanes));
        is_finite &= __shfl_xor_sync(0xffffffffu, is_finite, lanes);
    }
    return row_scale(top, is_finite, is_e4m3);
}

__device__ inline uint2 chunk_codes(const float v[CHUNK], float scale, bool is_e4m3)
{
    uint2 codes = make_uint2(0, 0);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        codes.x |= (uint32_t)code_of(v[i], scale, is_e4m3) << 8 * i;
        codes.y |= (uint32_t)code_of(v[i + 4], scale, is_e4m3) << 8 * i;
    }
    return codes;
}

/* A chunk of a head on its way to a cache of 8 bits; q goes to where it was.  All lanes of the warp
 * come here, those that are not `here` with zeros. */
template <class PAIR, int LANES>
__device__ inline void store_turned(const struct rope_job &j, const float read[CHUNK],
                                    float turned[CHUNK], int token, int head, size_t q_at,
                                    bool is_q, bool is_k, bool here)
{
    const int c = (int)threadIdx.x % LANES;
    hadamard_chunk<LANES>(turned, j);
    const bool is_e4m3 = !is_k && j.cache_dtype == DT_FP8;
    float v[CHUNK];
#pragma unroll
    for (int i = 0; i < CHUNK; i++)
        v[i] = is_k ? turned[i] : read[i];
    const float scale = chunk_scale<LANES>(v, is_e4m3);
    if (here && is_q) {
        ((chunk_of<PAIR> *)j.q)[q_at] = chunk_from_f32<PAIR>(turned);
    } else if (here) {
        const size_t at = page_row(j, token, head);
        *(uint2 *)((char *)(is_k ? j.cache_k : j.cache_v) + at + c * CHUNK) =
            chunk_codes(v, scale, is_e4m3);
        if (c == 0)
            (is_k ? j.k_scale : j.v_scale)[at / j.head_dim] = scale;
    }
}

/* grid: [n_tokens, parts]   block: [THREADS]
 * LANES lanes hold a head; heads are those of q, then k, then v.  NARROW: the cache is of 8 bits.
 */
template <class PAIR, int LANES, bool NARROW>
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
        const chunk_of<PAIR> *from = (const chunk_of<PAIR> *)(is_q ? j.q : is_k ? j.k : j.v);
        const size_t at = (row + (size_t)of_kind * j.head_dim) / CHUNK + c;
        float v[CHUNK];
        chunk_to_f32<PAIR>(v, here ? from[at] : chunk_of<PAIR>());
        /* A warp may hold heads of several kinds: all of it turns, and v keeps what it read. */
        float turned[CHUNK];
#pragma unroll
        for (int i = 0; i < CHUNK; i++)
            turned[i] = v[i];
        const float *norm = is_q ? j.q_norm : j.k_norm;
        turn_chunk<LANES>(turned, c, j, norm, &angles);
        if constexpr (NARROW) {
            store_turned<PAIR, LANES>(j, v, turned, token, of_kind, at, is_q, is_k, here);
            continue;
        }
        if (!here)
            continue;
        if (is_q)
            ((chunk_of<PAIR> *)j.q)[at] = chunk_from_f32<PAIR>(turned);
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

/* One head of 8 bits, which the warp has in shared memory: its end, as store_turned. */
template <class T>
__device__ inline void store_head(const struct rope_job &j, float *x, T *q, void *cache,
                                  float *scales, size_t to, bool is_e4m3)
{
    const int lane = (int)threadIdx.x % WARP;
    __syncwarp();
    for (int apart = q || cache == j.cache_k ? j.hadamard / 2 : 0; apart > 0; apart /= 2) {
        for (int i = lane; i < j.head_dim / 2; i += WARP) {
            const int low = i / apart * 2 * apart + i % apart;
            const float a = x[low], b = x[low + apart];
            x[low] = a + b;
            x[low + apart] = a - b;
        }
        __syncwarp();
    }
    const float turn = q || cache == j.cache_k ? j.hadamard_scale : 1.0f;
    float top = 0;
    bool is_finite = true;
    for (int i = lane; i < j.head_dim; i += WARP) {
        x[i] = __fmul_rn(x[i], turn);
        top = fmaxf(top, fabsf(x[i]));
        is_finite = is_finite && fabsf(x[i]) <= FLT_MAX;
    }
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2)
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, lanes));
    const float scale = row_scale(top, __all_sync(0xffffffffu, is_finite), is_e4m3);
    for (int i = lane; i < j.head_dim; i += WARP) {
        if (q)
            store_f32(q + to + i, x[i]);
        else
            ((uint8_t *)cache)[to + i] = code_of(x[i], scale, is_e4m3);
    }
    if (!q && lane == 0)
        scales[to / j.head_dim] = scale;
    __syncwarp();
}

/* grid: [n_tokens, parts]   block: [THREADS]; a warp a head, a value a lane */
template <class T, bool NARROW>
__global__ void __launch_bounds__(THREADS) rope_kv_any_kernel(const struct rope_job j)
{
    __shared__ struct angles angles;
    __shared__ float heads[NARROW ? THREADS / WARP : 1][NARROW ? DIMS_MAX : 1];
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
            if constexpr (NARROW) {
                heads[threadIdx.x / WARP][low] = turn_one(a, t, b, -s);
                heads[threadIdx.x / WARP][high] = turn_one(b, t, a, s);
                continue;
            }
            store_one(j, q, cache, to + low, turn_one(a, t, b, -s));
            store_one(j, q, cache, to + high, turn_one(b, t, a, s));
        }
        for (int i = dims + lane; i < j.head_dim; i += WARP) {
            if constexpr (NARROW)
                heads[threadIdx.x / WARP][i] = value(i);
            else
                store_one(j, q, cache, to + i, value(i));
        }
        if constexpr (NARROW)
            store_head(j, heads[threadIdx.x / WARP], q, cache, is_k ? j.k_scale : j.v_scale, to,
                       !is_k && j.cache_dtype == DT_FP8);
    }
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

template <class PAIR, bool NARROW> void launch_cache(struct device *d, const struct rope_job &j)
{
    const int chunks = j.head_dim / CHUNK;
    if (!fits_chunks(&j))
        launch_rope(d, rope_kv_any_kernel<typename single_of<PAIR>::type, NARROW>, j,
                    THREADS / WARP);
    else if (chunks <= 8)
        launch_rope(d, rope_kv_kernel<PAIR, 8, NARROW>, j, THREADS / 8);
    else if (chunks <= 16)
        launch_rope(d, rope_kv_kernel<PAIR, 16, NARROW>, j, THREADS / 16);
    else
        launch_rope(d, rope_kv_kernel<PAIR, 32, NARROW>, j, THREADS / 32);
}

} /* namespace */

struct rope_job rope_job_of(const struct device *d, const struct rope_kv_args *a)
{
    const struct kv_cache *kv = a->kv;
    const bool narrow = kv_has_scales(kv->dtype);
    const size_t layer_rows = (size_t)kv->n_blocks * kv->n_kv_heads * kv->block_tokens;
    const size_t layer_bytes = layer_rows * kv->head_dim *
                               (narrow                ? 1
                                : kv->dtype == DT_F32 ? 4
                                                      : 2);
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
    j.k_scale = narrow ? kv->k_scale + layer_rows * a->layer : nullptr;
    j.v_scale = narrow ? kv->v_scale + layer_rows * a->layer : nullptr;
    j.hadamard = kv->head_dim & -kv->head_dim;
    j.hadamard_scale = 1 / sqrtf((float)j.hadamard);
    return j;
}

void cuda_rope_kv(struct device *d, const struct rope_kv_args *a)
{
    if (d->batch.n_tokens <= 0)
        return;
    const struct rope_job j = rope_job_of(d, a);
    if (d->act == DT_F32) { /* whose cache is never of 8 bits: kv_fits */
        launch_cache<float2, false>(d, j);
        return;
    }
    with_act_type(d->act, [&](auto pair) {
        typedef decltype(pair) act;
        if (j.k_scale)
            launch_cache<act, true>(d, j);
        else
            launch_cache<act, false>(d, j);
    });
}
