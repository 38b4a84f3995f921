/* attention_prefill.cu - attention of prompts: chooses the kernel, and has the portable one.
 *
 * The portable kernel runs from compute capability 8.0 on, for all head widths.  A block does one
 * work item: 8 warps of 16 queries each.  Keys and values come by cp.async, row by row through
 * the block table; the values of a key tile are under way during its scores, the keys of the next
 * during its softmax.  Rows in shared memory are 16 bytes longer than a head, so that
 * ldmatrix meets no bank twice.
 *
 * A cache of 8 bits runs here on every GPU: codes go through registers, which make them the numbers
 * that tensor cores take; scales of values go with them, those of keys to the scores.
 *
 * Read once an item: 128 queries, all keys and values they see.  Written once: 128 outputs. */
#include "kernels/cuda/attention_prefill.cuh"

#include "kernels/cuda/cache8.cuh"
#include "kernels/cuda/launch.cuh"

namespace
{

constexpr int QUERIES = ATTENTION_TILE;
constexpr int THREADS = 256;

static_assert(QUERIES == THREADS / 32 * 16, "a warp has 16 queries");

template <int D, bool NARROW = false> struct tiles {
    static constexpr int KEYS = D == 256 ? 32 : 64;
    static constexpr int ROW = D + 8; /* values of a row in shared memory */
    static constexpr int TILES_BYTES = (QUERIES + 2 * KEYS) * ROW * 2;
    /* Scales of the keys: behind the tiles; where these take all that small devices have, each in
     * the room behind its key. */
    static constexpr bool SCALES_BEHIND = D < 256;
    static constexpr int SCALES_AT = SCALES_BEHIND ? TILES_BYTES : (QUERIES * ROW + D) * 2;
    static constexpr int SCALE_STEP = SCALES_BEHIND ? (int)sizeof(float) : ROW * 2;
    static constexpr int BYTES =
        TILES_BYTES + (NARROW && SCALES_BEHIND ? KEYS * (int)sizeof(float) : 0);
    static_assert(BYTES <= 99 * 1024, "what a block may have on the smallest devices");
    static_assert(D % 16 == 0 && ROW / 8 % 2 == 1, "rows of 8 fall on different banks");
};

/* Rows [0, n_rows) of head_dim values; row r comes from at(r), or is zeros when that is NULL. */
template <int D, int N_ROWS, typename AT>
__device__ __forceinline__ void copy_rows(uint32_t to, const void *any, AT at)
{
    constexpr int PIECES = D / 8;
    for (int i = threadIdx.x; i < N_ROWS * PIECES; i += THREADS) {
        int row = i / PIECES, piece = i % PIECES;
        const char *from = (const char *)at(row);
        cp_async_16(to + (row * tiles<D>::ROW + piece * 8) * 2,
                    from ? from + piece * 16 : (const char *)any, from ? 16 : 0);
    }
}

template <typename T, int D>
__device__ __forceinline__ void copy_queries(const struct prefill_params &p,
                                             const struct prefill_work &w, uint32_t to)
{
    const T *q = (const T *)p.q + (size_t)w.tile.first_token * (size_t)p.q_stride + w.head * D;
    copy_rows<D, QUERIES>(to, p.q, [&](int row) -> const T * {
        return row < w.tile.n_tokens ? q + (size_t)row * (size_t)p.q_stride : nullptr;
    });
}

template <typename T, int D>
__device__ __forceinline__ void copy_keys(const struct prefill_params &p,
                                          const struct prefill_work &w, uint32_t to,
                                          const void *cache, int tile)
{
    constexpr int KEYS = tiles<D>::KEYS;
    const int32_t *table = p.block_table + (size_t)w.tile.slot * (size_t)p.table_stride;
    copy_rows<D, KEYS>(to, cache, [&](int row) -> const T * {
        int key = tile * KEYS + row;
        if (key >= w.key_end)
            return nullptr;
        size_t block = (size_t)(p.first_block + table[key >> p.block_shift]);
        size_t head = block * (size_t)p.n_kv_heads + (size_t)w.kv_head;
        size_t in_block = (size_t)(key & ((1 << p.block_shift) - 1));
        return (const T *)cache + ((head << p.block_shift) + in_block) * D;
    });
}

/* The row of a key among those of all layers. */
__device__ __forceinline__ size_t cache_row(const struct prefill_params &p,
                                            const struct prefill_work &w, int key)
{
    const int32_t *table = p.block_table + (size_t)w.tile.slot * (size_t)p.table_stride;
    const size_t block = (size_t)(p.first_block + table[key >> p.block_shift]);
    const size_t head = block * (size_t)p.n_kv_heads + (size_t)w.kv_head;
    return (head << p.block_shift) + (size_t)(key & ((1 << p.block_shift) - 1));
}

/* A tile of codes as numbers, zeros behind the last key; keys leave their scales to key_scales,
 * values take them along. */
template <typename T, int D, bool KEYS_ELSE_VALUES>
__device__ __forceinline__ void widen_codes(const struct prefill_params &p,
                                            const struct prefill_work &w, unsigned char *to,
                                            unsigned char *key_scales, int tile)
{
    constexpr int KEYS = tiles<D>::KEYS, PIECES = D / 8;
    const uint2 *cache = (const uint2 *)(KEYS_ELSE_VALUES ? p.k : p.v);
    const float *scales = KEYS_ELSE_VALUES ? p.k_scale : p.v_scale;
#pragma unroll(D == 64 ? 2 : 4) /* registers are short where two blocks share them */
    for (int i = threadIdx.x; i < KEYS * PIECES; i += THREADS) {
        const int row = i / PIECES, piece = i % PIECES, key = tile * KEYS + row;
        uint2 codes = make_uint2(0, 0);
        float scale = 0, v[8];
        if (key < w.key_end) {
            const size_t at = cache_row(p, w, key);
            codes = cache[at * PIECES + piece];
            scale = scales[at];
        }
        if (!KEYS_ELSE_VALUES)
            values8_to_f32(v, codes, scale, p.values_e4m3);
        else
            keys8_to_f32(v, codes);
        if (KEYS_ELSE_VALUES && piece == 0)
            *(float *)(key_scales + row * tiles<D>::SCALE_STEP) = scale;
        *(uint4 *)(to + (row * tiles<D>::ROW + piece * 8) * 2) = make_uint4(
            pack2<T>(v[0], v[1]), pack2<T>(v[2], v[3]), pack2<T>(v[4], v[5]), pack2<T>(v[6], v[7]));
    }
}

/* Scores of codes become those of keys. */
template <int D, int N>
__device__ __forceinline__ void scale_scores(float (&s)[N], const unsigned char *scales)
{
#pragma unroll
    for (int i = 0; i < N; i++) {
        const int key = i / 4 * 8 + i % 2 + threadIdx.x % 4 * 2;
        s[i] *= *(const float *)(scales + key * tiles<D>::SCALE_STEP);
    }
}

/* s = queries . keys for this warp's 16 queries. */
template <typename T, int D, int N>
__device__ __forceinline__ void make_scores(float (&s)[N], uint32_t queries, uint32_t keys)
{
    constexpr int ROW_BYTES = tiles<D>::ROW * 2;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t a_at = queries + (warp * 16 + lane % 16) * ROW_BYTES + lane / 16 * 16;
    const uint32_t b_at = keys + (lane / 16 * 8 + lane % 8) * ROW_BYTES + lane / 8 % 2 * 16;
#pragma unroll
    for (int i = 0; i < N; i++)
        s[i] = 0;
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        uint32_t a[4];
        ldmatrix_x4(a, a_at + k * 32);
#pragma unroll
        for (int n = 0; n < N / 8; n++) {
            uint32_t b[4];
            ldmatrix_x4(b, b_at + n * 16 * ROW_BYTES + k * 32);
            mma_16816(s + 8 * n, a, b, T());
            mma_16816(s + 8 * n + 4, a, b + 2, T());
        }
    }
}

/* o += weights . values */
template <typename T, int D, int N, int M>
__device__ __forceinline__ void add_values(float (&o)[N], const uint32_t (&weights)[M],
                                           uint32_t values)
{
    constexpr int ROW_BYTES = tiles<D>::ROW * 2;
    const int lane = threadIdx.x % 32;
    const uint32_t at = values + lane % 16 * ROW_BYTES + lane / 16 * 16;
#pragma unroll
    for (int k = 0; k < M / 4; k++) {
#pragma unroll
        for (int n = 0; n < D / 16; n++) {
            uint32_t b[4];
            ldmatrix_x4_trans(b, at + k * 16 * ROW_BYTES + n * 32);
            mma_16816(o + 8 * n, weights + 4 * k, b, T());
            mma_16816(o + 8 * n + 4, weights + 4 * k, b + 2, T());
        }
    }
}

/* grid: [n_tiles * n_heads], the longest first   block: [THREADS], warp i has queries 16i.. */
template <typename T, int D, bool SHAPED, bool NARROW>
__global__ void __launch_bounds__(THREADS, D == 64 ? 2 : 1)
    attention_prefill_kernel(const __grid_constant__ struct prefill_params p)
{
    constexpr int KEYS = tiles<D>::KEYS, ROW_BYTES = tiles<D>::ROW * 2;
    DYNAMIC_SHARED(__align__(16) unsigned char, dynamic);
    const uint32_t queries = shared_addr(dynamic);
    const uint32_t keys = queries + QUERIES * ROW_BYTES, values = keys + KEYS * ROW_BYTES;
    const int first_row = threadIdx.x / 32 * 16, row = first_row + threadIdx.x % 32 / 4;
    const struct prefill_work w = prefill_work_of(p, blockIdx.x, KEYS);
    if (w.n_key_tiles == 0)
        return;
    float s[KEYS / 2], o[D / 2], keep[2];
    uint32_t weights[KEYS / 4];
    /* Of 8 bits: the same places by their addresses. */
    unsigned char *wide_keys = dynamic + QUERIES * ROW_BYTES;
    unsigned char *wide_values = wide_keys + KEYS * ROW_BYTES;
    unsigned char *key_scales = dynamic + tiles<D>::SCALES_AT;
    struct row_state state[2] = {{-INFINITY, 0}, {-INFINITY, 0}};
#pragma unroll
    for (int i = 0; i < D / 2; i++)
        o[i] = 0;

    int tile = w.first_key_tile + w.n_key_tiles - 1;
    copy_queries<T, D>(p, w, queries);
    if constexpr (NARROW)
        widen_codes<T, D, true>(p, w, wide_keys, key_scales, tile);
    else
        copy_keys<T, D>(p, w, keys, p.k, tile);
    cp_async_commit();
    for (; tile >= w.first_key_tile; tile--) {
        const int first_key = tile * KEYS;
        if constexpr (NARROW)
            widen_codes<T, D, false>(p, w, wide_values, nullptr, tile);
        else
            copy_keys<T, D>(p, w, values, p.v, tile);
        cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();
        make_scores<T, D>(s, queries, keys);
        if constexpr (NARROW)
            scale_scores<D>(s, key_scales);
        __syncthreads();
        if (tile > w.first_key_tile) {
            if constexpr (NARROW)
                widen_codes<T, D, true>(p, w, wide_keys, key_scales, tile - 1);
            else
                copy_keys<T, D>(p, w, keys, p.k, tile - 1);
        }
        cp_async_commit();
        if (SHAPED)
            shape_scores(p, s, p.alibi ? p.alibi[w.head] : 0.0f, first_key - w.tile.position - row);
        if (key_tile_is_border(p, w, first_row, first_row + 15, first_key, KEYS))
            hide_scores(s, keys_of_row(p, w, row, first_key),
                        keys_of_row(p, w, row + 8, first_key));
        weigh_scores(s, state, keep, p.exponent);
        scale_rows(o, keep);
        pack_weights<T>(weights, s);
        cp_async_wait<1>();
        __syncthreads();
        add_values<T, D>(o, weights, values);
        __syncthreads();
    }
    cp_async_wait<0>();
    write_rows<T, D>(p, w, o, state, row);
}

template <typename T, int D, bool SHAPED, bool NARROW>
void launch(struct device *d, const struct prefill_params *p)
{
    constexpr int BYTES = tiles<D, NARROW>::BYTES;
    static thread_local int set_on; /* 1 + the device whose function has it; a thread for each */
    auto kernel = attention_prefill_kernel<T, D, SHAPED, NARROW>;
    if (set_on != d->index + 1) {
        cuda_check(d,
                   cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, BYTES),
                   "attention_prefill shared memory");
        set_on = d->index + 1;
    }
    launch_alone(d, "attention_prefill", {dim3(p->n_tiles * p->n_heads), dim3(THREADS), BYTES, 0},
                 kernel, *p);
}

template <typename T, int D, bool SHAPED>
void launch_cache(struct device *d, const struct prefill_params *p)
{
    if (p->k_scale)
        launch<T, D, SHAPED, true>(d, p);
    else
        launch<T, D, SHAPED, false>(d, p);
}

template <typename T, int D>
void launch_shape(struct device *d, const struct attention_args *a, const struct prefill_params *p)
{
    if (prefill_is_shaped(a))
        launch_cache<T, D, true>(d, p);
    else
        launch_cache<T, D, false>(d, p);
}

template <typename T>
void launch_width(struct device *d, const struct attention_args *a, const struct prefill_params *p)
{
    switch (a->kv->head_dim) {
    case 64:
        return launch_shape<T, 64>(d, a, p);
    case 80:
        return launch_shape<T, 80>(d, a, p);
    case 96:
        return launch_shape<T, 96>(d, a, p);
    case 128:
        return launch_shape<T, 128>(d, a, p);
    case 256:
        return launch_shape<T, 256>(d, a, p);
    default:
        cuda_check(d, cudaErrorInvalidValue, "attention_prefill: head width");
    }
}

} /* namespace */

void cuda_attention_prefill(struct device *d, const struct attention_args *a)
{
    const struct prefill_params p = prefill_params_of(d, a);
    if (p.n_tiles == 0 || cuda_attention_prefill_sm90(d, a, &p))
        return;
    const enum dtype act = kv_has_scales(a->kv->dtype) ? d->act : a->kv->dtype;
    if (act == DT_BF16)
        launch_width<__nv_bfloat16>(d, a, &p);
    else
        launch_width<__half>(d, a, &p);
}
