/* attention_prefill_sm90.cu - causal attention of prompts on Hopper: 64, 128 and 256 wide heads.
 *
 * The method is FlashAttention-3's (Shah et al. 2024).  A block stays on its SM and takes work
 * items (128 queries x one head) in turn.  One warp brings queries, keys and values by tensor
 * copies, a page or a part of one each, into rings in shared memory; two warpgroups of 64 queries
 * each multiply.  They take turns: while one has the tensor cores, the other does its softmax.
 * Within a warpgroup the scores of the next key tile are under way while this one's weights are
 * made, and weights go from registers into the second product.
 *
 * Read once an item: 128 queries, all keys and values they see.  Written once: 128 outputs. */
#include "kernels/cuda/attention_prefill.cuh"

#include <cudaTypedefs.h>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx_sm90.cuh"

namespace
{

constexpr int QUERIES = ATTENTION_TILE;
constexpr int GROUP = 128;         /* threads of a warpgroup, which has 64 queries */
constexpr int THREADS = 3 * GROUP; /* the first group loads */
constexpr int STAGES = 2;          /* of keys and of values */
constexpr int CHUNK = 64;          /* columns of 2 bytes that a swizzled row of 128 bytes has */
constexpr int ROW_BYTES = 128;
constexpr int ATOM_BYTES = 8 * ROW_BYTES;
constexpr int REGISTERS_LOAD = 24, REGISTERS_MULTIPLY = 240;
constexpr int TURN_BARRIER = 1, CLEAN_BARRIER = 3; /* + warpgroup; 0 is __syncthreads */

static_assert(QUERIES == 2 * 64, "a warpgroup's wgmma has 64 rows");
static_assert((REGISTERS_LOAD + 2 * REGISTERS_MULTIPLY) * GROUP <= 65536, "registers of an SM");

template <int D> struct layout { /* of shared memory, in bytes; each a multiple of 1024 */
    static constexpr int KEYS = D == 256 ? 64 : 128; /* of a key tile */
    static constexpr int CHUNKS = D / CHUNK;
    static constexpr int Q_STAGES = D == 256 ? 1 : 2;
    static constexpr int Q_BYTES = QUERIES * D * 2;
    static constexpr int KV_BYTES = KEYS * D * 2;
    static constexpr int K_AT = Q_STAGES * Q_BYTES;
    static constexpr int V_AT = K_AT + STAGES * KV_BYTES;
    static constexpr int BYTES = V_AT + STAGES * KV_BYTES;
    static constexpr int COPIES_MAX = KEYS / 16 * CHUNKS; /* of a key tile, by a lane each */
    static_assert(COPIES_MAX <= 32, "one warp brings a key tile at once");
};

struct barriers { /* full: bytes came; empty: the 8 multiplying warps are done */
    uint64_t q_full[2], q_empty[2];
    uint64_t k_full[STAGES], k_empty[STAGES];
    uint64_t v_full[STAGES], v_empty[STAGES];
};

template <int N> struct ring { /* place in a ring of N buffers */
    int stage = 0;
    uint32_t phase = 0;

    __device__ __forceinline__ void advance()
    {
        if (++stage == N) {
            stage = 0;
            phase ^= 1;
        }
    }
};

struct tensor_maps {
    CUtensorMap q; /* [n_tokens, n_heads, head_dim], boxes of 128 x 1 x 64 */
    CUtensorMap k,
        v; /* [n_layers * n_blocks, n_kv_heads, block_tokens, head_dim]: 1 x 1 x rows x 64 */
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

__device__ __forceinline__ uint32_t bar(const uint64_t &b)
{
    return shared_addr(&b);
}

__device__ __forceinline__ void barriers_init(struct barriers &b)
{
    constexpr int WARPS = 2 * GROUP / 32;
    for (int i = 0; i < 2; i++) {
        mbarrier_init(bar(b.q_full[i]), 1);
        mbarrier_init(bar(b.q_empty[i]), WARPS);
    }
    for (int i = 0; i < STAGES; i++) {
        mbarrier_init(bar(b.k_full[i]), 1);
        mbarrier_init(bar(b.k_empty[i]), WARPS);
        mbarrier_init(bar(b.v_full[i]), 1);
        mbarrier_init(bar(b.v_empty[i]), WARPS);
    }
    fence_mbarrier_init();
}

/* What one lane of the loading warp copies of each key tile: 64 columns of a page. */
struct lane_copy {
    int chunk, first_row; /* of the key tile */
    int to;               /* offset in the key tile's buffer */
    bool live;
};

template <int D>
__device__ __forceinline__ struct lane_copy lane_copy_of(const struct prefill_params &p, int lane)
{
    using L = layout<D>;
    const int rows = min(1 << p.block_shift, L::KEYS);
    struct lane_copy c;
    c.chunk = lane % L::CHUNKS;
    c.first_row = lane / L::CHUNKS * rows;
    c.to = c.chunk * L::KEYS * ROW_BYTES + c.first_row * ROW_BYTES;
    c.live = c.first_row < L::KEYS;
    return c;
}

/* The block that holds key `key`; one that does not exist, and reads as zeros, past the end. */
__device__ __forceinline__ int block_of(const struct prefill_params &p,
                                        const struct prefill_work &w, int key)
{
    if (key >= w.key_end)
        return p.n_blocks;
    return p.first_block + p.block_table[w.tile.slot * p.table_stride + (key >> p.block_shift)];
}

template <int D>
__device__ __forceinline__ void load_item(const struct prefill_params &p,
                                          const struct tensor_maps &maps, struct barriers &b,
                                          uint32_t shared, const struct prefill_work &w,
                                          ring<layout<D>::Q_STAGES> &q, ring<STAGES> &kv)
{
    using L = layout<D>;
    const int lane = threadIdx.x % 32;
    const struct lane_copy c = lane_copy_of<D>(p, lane);
    int tile = w.first_key_tile + w.n_key_tiles - 1;
    int block = c.live ? block_of(p, w, tile * L::KEYS + c.first_row) : 0;

    mbarrier_wait(bar(b.q_empty[q.stage]), q.phase ^ 1);
    if (lane == 0)
        mbarrier_arrive_expect(bar(b.q_full[q.stage]), L::Q_BYTES);
    __syncwarp();
    if (lane < L::CHUNKS)
        tensor_copy_3d(shared + q.stage * L::Q_BYTES + lane * QUERIES * ROW_BYTES, &maps.q,
                             bar(b.q_full[q.stage]), lane * CHUNK, w.head, w.tile.first_token);
    q.advance();

    for (; tile >= w.first_key_tile; tile--) {
        const int key = tile * L::KEYS + c.first_row;
        const int row = key & ((1 << p.block_shift) - 1);
        int next = c.live && tile > w.first_key_tile ? block_of(p, w, key - L::KEYS) : 0;
        const uint32_t to = shared + kv.stage * L::KV_BYTES + c.to;

        mbarrier_wait(bar(b.k_empty[kv.stage]), kv.phase ^ 1);
        if (lane == 0)
            mbarrier_arrive_expect(bar(b.k_full[kv.stage]), L::KV_BYTES);
        __syncwarp();
        if (c.live)
            tensor_copy_4d(to + L::K_AT, &maps.k, bar(b.k_full[kv.stage]), c.chunk * CHUNK,
                                 row, w.kv_head, block);
        mbarrier_wait(bar(b.v_empty[kv.stage]), kv.phase ^ 1);
        if (lane == 0)
            mbarrier_arrive_expect(bar(b.v_full[kv.stage]), L::KV_BYTES);
        __syncwarp();
        if (c.live)
            tensor_copy_4d(to + L::V_AT, &maps.v, bar(b.v_full[kv.stage]), c.chunk * CHUNK,
                                 row, w.kv_head, block);
        kv.advance();
        block = next;
    }
}

template <int D>
__device__ __forceinline__ void load_all(const struct prefill_params &p,
                                         const struct tensor_maps &maps, struct barriers &b,
                                         uint32_t shared)
{
    ring<layout<D>::Q_STAGES> q;
    ring<STAGES> kv;
    const int n_items = p.n_tiles * p.n_heads;
    for (int round = 0; round * (int)gridDim.x < n_items; round++) {
        int item = prefill_item(round);
        if (item >= n_items)
            continue;
        struct prefill_work w = prefill_work_of(p, item, layout<D>::KEYS);
        if (w.n_key_tiles > 0)
            load_item<D>(p, maps, b, shared, w, q, kv);
    }
}

/* s = queries . keys, 64 rows of this warpgroup; asynchronous. */
template <typename T, int D, int N>
__device__ __forceinline__ void start_scores(float (&s)[N], uint32_t queries, uint32_t keys)
{
    using L = layout<D>;
    const uint64_t a = matrix_descriptor(queries, 0, ATOM_BYTES);
    const uint64_t b = matrix_descriptor(keys, 0, ATOM_BYTES);
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        const int chunk = k * 16 / CHUNK, in_chunk = k % (CHUNK / 16) * 32;
        wgmma_shared(T(), s, a + ((chunk * QUERIES * ROW_BYTES + in_chunk) >> 4),
                           b + ((chunk * L::KEYS * ROW_BYTES + in_chunk) >> 4), k != 0);
    }
    wgmma_commit();
}

/* o += weights . values; asynchronous. */
template <typename T, int D, int N, int M>
__device__ __forceinline__ void start_values(float (&o)[N], const uint32_t (&weights)[M],
                                             uint32_t values)
{
    using L = layout<D>;
    const uint64_t b = matrix_descriptor(values, L::KEYS * ROW_BYTES, ATOM_BYTES);
#pragma unroll
    for (int k = 0; k < L::KEYS / 16; k++)
        wgmma_registers(T(), o, weights + 4 * k, b + ((k * 16 * ROW_BYTES) >> 4));
    wgmma_commit();
}

/* One arrival for each warp: every lane of it is done then. */
__device__ __forceinline__ void release(const uint64_t &b)
{
    if (threadIdx.x % 32 == 0)
        mbarrier_arrive(bar(b));
}

/* Zeros to the rows of a page that lie past the last key: what a page held before may be NaN, and
 * a weight of 0 would not hide that.  Both warpgroups write the same zeros. */
template <int D>
__device__ __forceinline__ void clean_values(const struct prefill_params &p, uint32_t values,
                                             unsigned char *generic, int n_live, int group)
{
    using L = layout<D>;
    const int rows = min(1 << p.block_shift, L::KEYS);
    const int end = (n_live + rows - 1) / rows * rows;
    constexpr int PIECES = L::CHUNKS * ROW_BYTES / 16; /* of a row */
    for (int i = threadIdx.x % GROUP; i < (end - n_live) * PIECES; i += GROUP) {
        int row = n_live + i / PIECES, piece = i % PIECES;
        int at = piece / 8 * L::KEYS * ROW_BYTES + row * ROW_BYTES + piece % 8 * 16;
        *reinterpret_cast<uint4 *>(generic + values + at) = make_uint4(0, 0, 0, 0);
    }
    fence_proxy_async();
    barrier_sync(CLEAN_BARRIER + group, GROUP);
}

/* Scores of key tile `tile` become weights. */
template <int D, bool SHAPED, int N>
__device__ __forceinline__ void
softmax_tile(const struct prefill_params &p, const struct prefill_work &w, float (&s)[N],
             struct row_state (&state)[2], float (&keep)[2], int row, int group, int tile)
{
    constexpr int KEYS = layout<D>::KEYS;
    const int first_key = tile * KEYS;
    if (SHAPED)
        shape_scores(p, s, p.alibi ? p.alibi[w.head] : 0.0f, first_key - w.tile.position - row);
    if (key_tile_is_border(p, w, group * 64, group * 64 + 63, first_key, KEYS))
        hide_scores(s, keys_of_row(p, w, row, first_key), keys_of_row(p, w, row + 8, first_key));
    weigh_scores(s, state, keep, p.exponent);
}

template <int D> struct consumer { /* where a warpgroup is in the rings */
    ring<layout<D>::Q_STAGES> q;
    ring<STAGES> k, v;
};

template <typename T, int D, bool SHAPED>
__device__ __forceinline__ void multiply_item(const struct prefill_params &p, struct barriers &b,
                                              uint32_t shared, unsigned char *generic,
                                              const struct prefill_work &w, struct consumer<D> &at,
                                              int group)
{
    using L = layout<D>;
    const int row = group * 64 + threadIdx.x % GROUP / 32 * 16 + threadIdx.x % 32 / 4;
    const uint32_t queries = shared + at.q.stage * L::Q_BYTES + group * 64 * ROW_BYTES;
    float s[L::KEYS / 2], o[D / 2], keep[2];
    uint32_t weights[L::KEYS / 4];
    struct row_state state[2] = {{-INFINITY, 0}, {-INFINITY, 0}};
#pragma unroll
    for (int i = 0; i < D / 2; i++)
        o[i] = 0;
    int tile = w.first_key_tile + w.n_key_tiles - 1;

    mbarrier_wait(bar(b.q_full[at.q.stage]), at.q.phase);
    mbarrier_wait(bar(b.k_full[at.k.stage]), at.k.phase);
    barrier_sync(TURN_BARRIER + group, 2 * GROUP);
    registers_pin(s);
    wgmma_fence();
    start_scores<T, D>(s, queries, shared + L::K_AT + at.k.stage * L::KV_BYTES);
    barrier_arrive(TURN_BARRIER + (group ^ 1), 2 * GROUP);
    wgmma_wait<0>();
    registers_pin(s);
    release(b.k_empty[at.k.stage]);
    at.k.advance();
    softmax_tile<D, SHAPED>(p, w, s, state, keep, row, group, tile);
    pack_weights<T>(weights, s);
    if (w.key_end < (tile + 1) * L::KEYS) {
        mbarrier_wait(bar(b.v_full[at.v.stage]), at.v.phase);
        clean_values<D>(p, L::V_AT + at.v.stage * L::KV_BYTES, generic, w.key_end - tile * L::KEYS,
                        group);
    }

    while (--tile >= w.first_key_tile) {
        mbarrier_wait(bar(b.k_full[at.k.stage]), at.k.phase);
        barrier_sync(TURN_BARRIER + group, 2 * GROUP);
        registers_pin(s);
        registers_pin(o);
        registers_pin(weights);
        wgmma_fence();
        start_scores<T, D>(s, queries, shared + L::K_AT + at.k.stage * L::KV_BYTES);
        mbarrier_wait(bar(b.v_full[at.v.stage]), at.v.phase);
        start_values<T, D>(o, weights, shared + L::V_AT + at.v.stage * L::KV_BYTES);
        barrier_arrive(TURN_BARRIER + (group ^ 1), 2 * GROUP);
        wgmma_wait<1>();
        registers_pin(s);
        release(b.k_empty[at.k.stage]);
        at.k.advance();
        softmax_tile<D, SHAPED>(p, w, s, state, keep, row, group, tile);
        wgmma_wait<0>();
        registers_pin(o);
        registers_pin(weights);
        release(b.v_empty[at.v.stage]);
        at.v.advance();
        scale_rows(o, keep);
        pack_weights<T>(weights, s);
    }

    release(b.q_empty[at.q.stage]);
    at.q.advance();
    mbarrier_wait(bar(b.v_full[at.v.stage]), at.v.phase);
    registers_pin(o);
    registers_pin(weights);
    wgmma_fence();
    start_values<T, D>(o, weights, shared + L::V_AT + at.v.stage * L::KV_BYTES);
    wgmma_wait<0>();
    registers_pin(o);
    release(b.v_empty[at.v.stage]);
    at.v.advance();
    write_rows<T, D>(p, w, o, state, row);
}

template <typename T, int D, bool SHAPED>
__device__ __forceinline__ void multiply_all(const struct prefill_params &p, struct barriers &b,
                                             uint32_t shared, unsigned char *generic, int group)
{
    struct consumer<D> at;
    const int n_items = p.n_tiles * p.n_heads;
    if (group == 1) /* the other has the first turn */
        barrier_arrive(TURN_BARRIER, 2 * GROUP);
    for (int round = 0; round * (int)gridDim.x < n_items; round++) {
        int item = prefill_item(round);
        if (item >= n_items)
            continue;
        struct prefill_work w = prefill_work_of(p, item, layout<D>::KEYS);
        if (w.n_key_tiles > 0)
            multiply_item<T, D, SHAPED>(p, b, shared, generic, w, at, group);
    }
}

#endif

/* grid: [at most one for each SM]   block: [THREADS]
 * warp 0 loads, warpgroups 1 and 2 have queries [0, 64) and [64, 128) of the item */
template <typename T, int D, bool SHAPED>
__global__ void __launch_bounds__(THREADS, 1)
    attention_prefill_sm90_kernel(const __grid_constant__ struct tensor_maps maps,
                                  const __grid_constant__ struct prefill_params p)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    DYNAMIC_SHARED(unsigned char, dynamic);
    __shared__ struct barriers b;
    const uint32_t unaligned = shared_addr(dynamic);
    const uint32_t shared = (unaligned + ATOM_BYTES - 1) / ATOM_BYTES * ATOM_BYTES;
    if (threadIdx.x == 0) {
        tensor_map_prefetch(&maps.q);
        tensor_map_prefetch(&maps.k);
        tensor_map_prefetch(&maps.v);
        barriers_init(b);
    }
    __syncthreads();
    const int group = __shfl_sync(0xffffffffu, (int)threadIdx.x / GROUP, 0);
    if (group == 0) {
        registers_give<REGISTERS_LOAD>();
        if (threadIdx.x < 32)
            load_all<D>(p, maps, b, shared);
    } else {
        registers_take<REGISTERS_MULTIPLY>();
        multiply_all<T, D, SHAPED>(p, b, shared, dynamic + (shared - unaligned), group - 1);
    }
#endif
}

PFN_cuTensorMapEncodeTiled_v12000 map_encoder(struct device *d)
{
    static thread_local PFN_cuTensorMapEncodeTiled_v12000 encode;
    if (!encode) {
        void *at = nullptr;
        cudaDriverEntryPointQueryResult found;
        cuda_check(d,
                   cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &at, 12000,
                                                    cudaEnableDefault, &found),
                   "find cuTensorMapEncodeTiled");
        encode = (PFN_cuTensorMapEncodeTiled_v12000)at;
    }
    return encode;
}

struct map_shape { /* innermost first; stride[i] is that of dimension i + 1 */
    cuuint32_t rank;
    cuuint64_t size[4], stride_bytes[3];
    cuuint32_t box[4];
};

void map_make(struct device *d, CUtensorMap *map, enum dtype dtype, const void *at,
              const struct map_shape *s)
{
    const cuuint32_t step[4] = {1, 1, 1, 1};
    CUtensorMapDataType type =
        dtype == DT_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
    PFN_cuTensorMapEncodeTiled_v12000 encode = map_encoder(d);
    CUresult r =
        !encode ? CUDA_ERROR_NOT_FOUND
                : encode(map, type, s->rank, const_cast<void *>(at), s->size, s->stride_bytes,
                         s->box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                         CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    cuda_check(d, r == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue, "encode a tensor map");
}

void map_queries(struct device *d, CUtensorMap *map, const struct attention_args *a)
{
    const cuuint64_t head_dim = (cuuint64_t)a->kv->head_dim;
    struct map_shape s = {3,
                          {head_dim, (cuuint64_t)a->n_heads, (cuuint64_t)d->batch.n_tokens},
                          {head_dim * 2, (cuuint64_t)a->q_stride * 2},
                          {CHUNK, 1, QUERIES}};
    map_make(d, map, a->kv->dtype, a->q, &s);
}

void map_cache(struct device *d, CUtensorMap *map, const struct kv_cache *kv, const void *at,
               int rows)
{
    const cuuint64_t head = (cuuint64_t)kv->block_tokens * (cuuint64_t)kv->head_dim * 2;
    struct map_shape s = {4,
                          {(cuuint64_t)kv->head_dim, (cuuint64_t)kv->block_tokens,
                           (cuuint64_t)kv->n_kv_heads,
                           (cuuint64_t)kv->n_layers * (cuuint64_t)kv->n_blocks},
                          {(cuuint64_t)kv->head_dim * 2, head, head * (cuuint64_t)kv->n_kv_heads},
                          {CHUNK, (cuuint32_t)rows, 1, 1}};
    map_make(d, map, kv->dtype, at, &s);
}

bool same_cache(const struct kv_cache *a, const struct kv_cache *b)
{
    return a->k == b->k && a->v == b->v && a->dtype == b->dtype && a->n_layers == b->n_layers &&
           a->n_blocks == b->n_blocks && a->block_tokens == b->block_tokens &&
           a->n_kv_heads == b->n_kv_heads && a->head_dim == b->head_dim;
}

/* Maps of the last cache seen: a device has one, and a thread. */
void map_last_cache(struct device *d, struct tensor_maps *maps, const struct kv_cache *kv, int keys)
{
    static thread_local struct kv_cache last;
    static thread_local CUtensorMap k, v;
    if (!same_cache(&last, kv)) {
        int rows = kv->block_tokens < keys ? kv->block_tokens : keys;
        map_cache(d, &k, kv, kv->k, rows);
        map_cache(d, &v, kv, kv->v, rows);
        last = *kv;
    }
    maps->k = k;
    maps->v = v;
}

template <typename T, int D, bool SHAPED>
void launch(struct device *d, const struct attention_args *a, const struct prefill_params *p)
{
    constexpr int BYTES = layout<D>::BYTES + ATOM_BYTES;
    static thread_local int set_on; /* 1 + the device whose function has it; a thread for each */
    auto kernel = attention_prefill_sm90_kernel<T, D, SHAPED>;
    if (set_on != d->index + 1) {
        cuda_check(d,
                   cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, BYTES),
                   "attention_prefill_sm90 shared memory");
        set_on = d->index + 1;
    }
    struct tensor_maps maps;
    map_queries(d, &maps.q, a);
    map_last_cache(d, &maps, a->kv, layout<D>::KEYS);
    const int n_items = p->n_tiles * p->n_heads;
    const int n_blocks = n_items < d->sm_count ? n_items : d->sm_count;
    launch_alone(d, "attention_prefill_sm90", {dim3(n_blocks), dim3(THREADS), BYTES, 0}, kernel,
                 maps, *p);
}

template <typename T, int D>
void launch_form(struct device *d, const struct attention_args *a, const struct prefill_params *p)
{
    if (prefill_is_shaped(a))
        launch<T, D, true>(d, a, p);
    else
        launch<T, D, false>(d, a, p);
}

template <typename T>
bool launch_width(struct device *d, const struct attention_args *a, const struct prefill_params *p)
{
    switch (a->kv->head_dim) {
    case 64:
        launch_form<T, 64>(d, a, p);
        return true;
    case 128:
        launch_form<T, 128>(d, a, p);
        return true;
    case 256:
        launch_form<T, 256>(d, a, p);
        return true;
    default:
        return false;
    }
}

} /* namespace */

bool cuda_attention_prefill_sm90(struct device *d, const struct attention_args *a,
                                 const struct prefill_params *p)
{
    if (d->cc != 90 || kv_has_scales(a->kv->dtype))
        return false;
    return a->kv->dtype == DT_BF16 ? launch_width<__nv_bfloat16>(d, a, p)
                                   : launch_width<__half>(d, a, p);
}
