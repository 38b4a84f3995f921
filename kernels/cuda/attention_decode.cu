/* attention_decode.cu - attention of generated tokens: one query against its pages.
 *
 * What is read: K and V once, which is all of the time; so the design keeps memory busy.  The plan
 * cut each token's keys into splits; an item is a split and the query heads that share a kv head,
 * at most 16 of them, which are the rows of one tensor core tile.  Blocks stay, take items from the
 * list in its order (longest first), and begin to copy the next item while the last is computed.
 *
 * A cache of 8 bits comes as codes, and each warp makes its keys, then its values, the numbers that
 * tensor cores take, in shared memory of its own.  Codes of keys are exact as they are, and their
 * scales go to the scores.
 *
 *     stage  64 keys: each of 4 warps copies and computes 16 of its own, without barriers between
 *     item   warps join at its end, in order; partial -> workspace, or the output if it is alone
 *     token  the last of its items to end joins all partials in order of position
 *
 * Nothing but the order of items depends on the batch: borders of splits, stages and warps lie at
 * fixed positions, and keys outside of the window weigh exactly 0.  The grid is fixed and the list
 * is in device memory, so that a recorded launch serves any lengths. */
#include "kernels/cuda/cache8.cuh"
#include "kernels/cuda/cuda_int.h"
#include "kernels/cuda/ptx.cuh"

#include <math.h>

namespace
{

enum {
    WARPS = 4,
    THREADS = WARPS * 32,
    WARP_KEYS = 16, /* the depth of a tensor core product */
    STAGE_KEYS = WARPS * WARP_KEYS,
    ROWS = 16,      /* of a tensor core tile */
    MERGE_ROWS = 8, /* rows that the warps of a block join at a time */
    RING = 3,       /* items known: in hand, next, on its way */
    STAGES_MAX = 6,
    SM_BYTES = 228 * 1024, /* shared memory of a multiprocessor, 1 KB a block is the system's */
};

static_assert(ATTENTION_SPLIT_MIN % STAGE_KEYS == 0, "splits begin where a stage does");
static_assert(ATTENTION_SPLIT_MAX / STAGE_KEYS <= 32, "a lane holds the page of each stage");

constexpr float LOG2_E = 1.44269504f;

struct decode_params {
    const void *q;     /* [n_tokens, n_heads, head_dim], rows q_stride apart */
    void *out;         /* [n_tokens, n_heads, head_dim] */
    const void *k, *v; /* of the layer: [n_blocks, n_kv_heads, block_tokens, head_dim] */
    const struct attention_wave *wave;
    const struct attention_split *split; /* [n_splits] from the wave's first on */
    const int32_t *block_table;          /* [seqs_max, table_stride] */
    float *values;                       /* [partials, n_heads, head_dim] weighted sums of V */
    float2 *sums;                        /* [partials, n_heads] running maximum, sum of weights */
    int32_t *counters;                   /* next item, blocks done; then [merges, n_heads] */
    const float *alibi;
    float scale; /* of q.k, in powers of 2 when there is no cap, else to units of the cap */
    float cap;   /* in powers of 2; 0 = none */
    int n_heads, n_kv_heads, group;
    int n_tiles; /* of a group: tiles of ROWS */
    int n_parts; /* items of a split: kv heads x tiles of their group */
    int q_stride, table_stride, block_tokens, window;
    int last_split; /* of the list's room */
    const float *k_scale,
        *v_scale; /* of the layer, in 8 bits: [n_blocks, n_kv_heads, block_tokens] */
    bool values_e4m3;
};

/* Sizes that follow from the head's, and from whether the cache is of 8 bits: */
template <int HEAD_DIM, bool NARROW = false> struct layout {
    static constexpr int PIECES = HEAD_DIM / 8; /* of 16 bytes, in a row */
    /* Rows that ldmatrix reads together lie in different banks: by exchange where a row is a
     * multiple of all banks, else by an odd number of pieces in a row. */
    static constexpr bool SWIZZLED = PIECES % 8 == 0;
    static constexpr int ROW_BYTES = HEAD_DIM * 2 + (SWIZZLED ? 0 : 16);
    static constexpr int TILE_BYTES = WARP_KEYS * ROW_BYTES; /* K or V of a warp's stage */
    static constexpr int CODE_BYTES = WARP_KEYS * HEAD_DIM;  /* the same in 8 bits */
    static constexpr int SCALES_AT = 2 * CODE_BYTES;         /* of K, then of V */
    static constexpr int WARP_BYTES =
        NARROW ? SCALES_AT + 2 * WARP_KEYS * (int)sizeof(float) : 2 * TILE_BYTES;
    static constexpr int STAGE_BYTES = WARPS * WARP_BYTES;
    static constexpr int WIDE_BYTES = NARROW ? WARPS * TILE_BYTES : 0; /* codes as numbers */
    static constexpr int JOIN_STRIDE = (HEAD_DIM + 31) / 32 * 32; /* floats */
    static constexpr int JOIN_BYTES = WARPS * MERGE_ROWS * JOIN_STRIDE * 4;
    static constexpr bool WIDE = HEAD_DIM > 128; /* registers are short */
    static constexpr int BLOCKS = WIDE ? 1 : 2;  /* of a multiprocessor */
    static constexpr int ROOM = SM_BYTES / BLOCKS - 2 * 1024 - JOIN_BYTES - WIDE_BYTES;
    static constexpr int STAGES = ROOM / STAGE_BYTES < STAGES_MAX ? ROOM / STAGE_BYTES : STAGES_MAX;
    static constexpr int BYTES = STAGES * STAGE_BYTES + JOIN_BYTES + WIDE_BYTES;

    static_assert(PIECES * WARP_KEYS % 32 == 0, "all lanes copy the same number of pieces");
    static_assert(HEAD_DIM % 16 == 0, "the depth of a tensor core product");
    static_assert(STAGES >= 3, "two stages on their way while one is computed");

    static __device__ __forceinline__ uint32_t at(int row, int piece)
    {
        return (uint32_t)(row * ROW_BYTES + (SWIZZLED ? piece ^ (row & 7) : piece) * 16);
    }
};

struct item { /* as it lies in shared memory, written by one warp */
    struct attention_split split;
    int32_t part; /* of n_parts; -1 <=> the list is at its end */
};

enum { SPLIT_WORDS = sizeof(struct attention_split) / 4 };
static_assert(SPLIT_WORDS < 32, "a lane copies a word of a split");

struct shared_state {
    struct item ring[RING];
    float2 sums[WARPS][MERGE_ROWS];
    int32_t is_last;
};
static_assert(sizeof(struct shared_state) <= 1024, "what ROOM leaves for it");

struct keys { /* of an item that are seen; all multiples of the stage but `end` and `seen` */
    int first, end, seen; /* keys from `seen` on are in the window */
    int n_stages;
};

__device__ __forceinline__ struct keys keys_of(const struct attention_split &s, int window)
{
    struct keys k;
    k.seen = window > 0 ? max(0, s.kv_len - window) : 0;
    k.first = max(s.first_key, k.seen / STAGE_KEYS * STAGE_KEYS);
    k.end = s.end_key;
    k.n_stages = k.end > k.seen ? (k.end - k.first + STAGE_KEYS - 1) / STAGE_KEYS : 0;
    return k;
}

/* The heads of an item: rows of the tile. */
struct heads {
    int kv, first, n;
};

__device__ __forceinline__ struct heads heads_of(const struct decode_params &p, int part)
{
    struct heads h;
    h.kv = p.n_tiles == 1 ? part : part / p.n_tiles;
    const int tile = part - h.kv * p.n_tiles;
    h.first = h.kv * p.group + tile * ROWS;
    h.n = min(ROWS, p.group - tile * ROWS);
    return h;
}

/* ---- Copying: each warp on its own, ahead of what it computes. ---- */

struct loader {
    struct keys keys; /* of the item that is being copied */
    int stage;        /* of it, next */
    int ahead;        /* items before the one in hand: -1, 0 or 1 */
    int slot, n_slots_used;
    int kv_head, table_row;
    uint32_t row;       /* lane i: first row of stage i of this warp, in [blocks, heads, tokens] */
    int32_t next_block; /* lane i: block of the same of the item behind the one in hand */
};

/* First key of this warp in a stage. */
__device__ __forceinline__ int stage_key(const struct keys &k, int stage)
{
    return k.first + stage * STAGE_KEYS + (int)threadIdx.x / 32 * WARP_KEYS;
}

__device__ __forceinline__ int32_t block_of(const struct decode_params &p, int table_row, int key)
{
    return __ldg(&p.block_table[(size_t)table_row * p.table_stride + key / p.block_tokens]);
}

/* Row of a key in the layer's cache. */
__device__ __forceinline__ uint32_t row_of(const struct decode_params &p, int32_t block,
                                           int kv_head, int key)
{
    return ((uint32_t)block * (uint32_t)p.n_kv_heads + (uint32_t)kv_head) *
               (uint32_t)p.block_tokens +
           (uint32_t)(key % p.block_tokens);
}

/* Asks early for the blocks of an item; nothing here waits for them. */
__device__ __forceinline__ int32_t ask_blocks(const struct decode_params &p, const struct item &it)
{
    if (it.part < 0)
        return 0;
    const struct keys k = keys_of(it.split, p.window);
    const int lane = threadIdx.x % 32, key = stage_key(k, lane);
    return lane < k.n_stages && key < k.end ? block_of(p, it.split.slot, key) : 0;
}

__device__ __forceinline__ void enter_item(struct loader *l, const struct decode_params &p,
                                           const struct item &it)
{
    l->keys = keys_of(it.split, p.window);
    l->kv_head = heads_of(p, it.part).kv;
    l->table_row = it.split.slot;
    l->stage = 0;
    l->row = row_of(p, l->next_block, l->kv_head, stage_key(l->keys, threadIdx.x % 32));
    l->ahead++;
}

/* The warp's codes and scales of a stage, of which n keys from `key` on are there. */
template <int HEAD_DIM>
__device__ __forceinline__ void copy_codes(const struct loader *l, const struct decode_params &p,
                                           uint32_t to, int key, int n, uint32_t first_row,
                                           uint64_t policy)
{
    using L = layout<HEAD_DIM, true>;
    constexpr int PIECES = HEAD_DIM / 16;
    const int lane = threadIdx.x % 32;
    const bool one_page = p.block_tokens % WARP_KEYS == 0;
    auto row_at = [&](int row) {
        const int at = key + min(row, n - 1);
        return one_page ? first_row + (uint32_t)(at - key)
                        : row_of(p, block_of(p, l->table_row, at), l->kv_head, at);
    };
#pragma unroll 4
    for (int at = lane; at < PIECES * WARP_KEYS; at += 32) {
        const int row = at / PIECES, n_bytes = row < n ? 16 : 0;
        const size_t offset = (size_t)row_at(row) * HEAD_DIM + (size_t)(at % PIECES) * 16;
        cp_async_16(to + at * 16, (const char *)p.k + offset, n_bytes, policy);
        cp_async_16(to + L::CODE_BYTES + at * 16, (const char *)p.v + offset, n_bytes, policy);
    }
    /* Past L1, which would keep what a neighbour of an old key had before the kernel before wrote
     * it: copies of 4 bytes cannot, so without whole pages scales are read at once. */
    if (one_page && lane < 8) {
        const int first = lane % 4 * 4; /* 4 lanes for the scales of K, 4 for those of V */
        cp_async_16(to + L::SCALES_AT + lane * 16,
                    (lane < 4 ? p.k_scale : p.v_scale) + first_row + first,
                    max(0, min(16, (n - first) * 4)), policy);
    } else if (!one_page) {
        const int row = lane % WARP_KEYS;
        const float *from = (lane < WARP_KEYS ? p.k_scale : p.v_scale) + row_at(row);
        store_shared(to + L::SCALES_AT + lane * 4, row < n ? __ldcg(from) : 0.0f);
    }
}

/* Starts the copy of one stage.  Rows behind the last key become 0: their weight is 0, but what
 * lies there may be no number. */
template <int HEAD_DIM, bool NARROW>
__device__ __forceinline__ void copy_stage(struct loader *l, const struct decode_params &p,
                                           uint32_t tiles, uint64_t policy)
{
    using L = layout<HEAD_DIM, NARROW>;
    const int lane = threadIdx.x % 32, key = stage_key(l->keys, l->stage);
    const int n = l->keys.end - key;
    const uint32_t first_row = __shfl_sync(~0u, l->row, l->stage);
    const uint32_t to = tiles + (uint32_t)l->slot * L::STAGE_BYTES;

    if (NARROW && n > 0 && key + WARP_KEYS > l->keys.seen) {
        copy_codes<HEAD_DIM>(l, p, to, key, n, first_row, policy);
    } else if (n > 0 && key + WARP_KEYS > l->keys.seen) {
        const bool one_page = p.block_tokens % WARP_KEYS == 0;
        const size_t from = (size_t)first_row * (HEAD_DIM * 2);
#pragma unroll(L::WIDE ? 4 : 8)
        for (int i = 0; i < L::PIECES * WARP_KEYS / 32; i++) {
            const int at = i * 32 + lane, row = at / L::PIECES, piece = at % L::PIECES;
            size_t offset = from + (size_t)at * 16;
            if (!one_page) {
                const int at_key = key + min(row, n - 1);
                const int32_t block = block_of(p, l->table_row, at_key);
                offset = (size_t)row_of(p, block, l->kv_head, at_key) * (HEAD_DIM * 2) +
                         (size_t)piece * 16;
            }
            const int n_bytes = row < n ? 16 : 0;
            cp_async_16(to + L::at(row, piece), (const char *)p.k + offset, n_bytes, policy);
            cp_async_16(to + L::TILE_BYTES + L::at(row, piece), (const char *)p.v + offset, n_bytes,
                        policy);
        }
    }
    cp_async_commit();
    l->stage++;
    l->slot = l->slot + 1 == L::STAGES ? 0 : l->slot + 1;
    l->n_slots_used++;
}

/* Copies ahead while there is room, up to the end of the item behind the one in hand. */
template <int HEAD_DIM, bool NARROW>
__device__ __forceinline__ void copy_ahead(struct loader *l, const struct decode_params &p,
                                           const struct item &next, uint32_t tiles, uint64_t policy)
{
    while (l->n_slots_used < layout<HEAD_DIM, NARROW>::STAGES) {
        if (l->stage == l->keys.n_stages) {
            if (l->ahead > 0 || next.part < 0)
                return;
            enter_item(l, p, next);
        } else {
            copy_stage<HEAD_DIM, NARROW>(l, p, tiles, policy);
        }
    }
}

/* Until the oldest of n stages on their way has arrived. */
template <int N> __device__ __forceinline__ void wait_oldest(int n)
{
    if (n >= N)
        cp_async_wait<N - 1>();
    else if constexpr (N > 1)
        wait_oldest<N - 1>(n);
}

/* ---- Computing. ---- */

template <class T> __device__ __forceinline__ uint32_t pack(float a, float b);

template <> __device__ __forceinline__ uint32_t pack<__nv_bfloat16>(float a, float b)
{
    const __nv_bfloat162 v = __floats2bfloat162_rn(a, b);
    return *(const uint32_t *)&v;
}

template <> __device__ __forceinline__ uint32_t pack<__half>(float a, float b)
{
    const __half2 v = __floats2half2_rn(a, b);
    return *(const uint32_t *)&v;
}

/* Rows g and g + 8 of the tile are lane 4g..4g+3's.  With no more than 8 heads (HALF) the second
 * do not exist. */
template <class T, int HEAD_DIM, bool HALF> struct rows {
    uint32_t q[layout<HEAD_DIM>::WIDE ? 1 : HEAD_DIM / 16][4]; /* else in shared memory */
    float out[HEAD_DIM / 8][4]; /* columns 8i + 2(lane % 4) and the next of both rows */
    float top[2], sum[2];       /* running maximum in powers of 2; the lane's part of the sum */
    float slope[2];             /* of ALiBi, in powers of 2 */
};

template <class T, int HEAD_DIM, bool HALF>
__device__ __forceinline__ void load_q(struct rows<T, HEAD_DIM, HALF> *r,
                                       const struct decode_params &p, const struct item &it)
{
    const int lane = threadIdx.x % 32, g = lane / 4;
    const struct heads h = heads_of(p, it.part);
    const T *q =
        (const T *)p.q + (size_t)it.split.token * p.q_stride + h.first * HEAD_DIM + lane % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = g + 8 * half;
        const bool there = !(HALF && half) && row < h.n;
        r->slope[half] = there && p.alibi ? p.alibi[h.first + row] * LOG2_E : 0.0f;
        if constexpr (!layout<HEAD_DIM>::WIDE) {
#pragma unroll
            for (int i = 0; i < HEAD_DIM / 16; i++) {
                const T *at = q + row * HEAD_DIM + i * 16;
                r->q[i][half] = there ? *(const uint32_t *)at : 0;
                r->q[i][half + 2] = there ? *(const uint32_t *)(at + 8) : 0;
            }
        }
    }
}

/* A wide head's queries to shared memory, where the warps joined and nobody does now. */
template <class T, int HEAD_DIM>
__device__ __forceinline__ void share_q(char *to, const struct decode_params &p,
                                        const struct item &it)
{
    using L = layout<HEAD_DIM>;
    const struct heads h = heads_of(p, it.part);
    const T *q = (const T *)p.q + (size_t)it.split.token * p.q_stride + h.first * HEAD_DIM;
    for (int i = threadIdx.x; i < ROWS * L::PIECES; i += THREADS) {
        const int row = i / L::PIECES, piece = i % L::PIECES;
        *(uint4 *)(to + L::at(row, piece)) =
            row < h.n ? *(const uint4 *)(q + i * 8) : make_uint4(0, 0, 0, 0);
    }
    __syncthreads();
}

template <class T, int HEAD_DIM, bool HALF>
__device__ __forceinline__ void clear_rows(struct rows<T, HEAD_DIM, HALF> *r)
{
#pragma unroll
    for (int i = 0; i < HEAD_DIM / 8; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++)
            r->out[i][j] = 0.0f;
    }
    r->top[0] = r->top[1] = -INFINITY;
    r->sum[0] = r->sum[1] = 0.0f;
}

/* Scores of 16 keys: s[i] is keys 8i + 2(lane % 4) and the next, of rows g and g + 8. */
template <class T, int HEAD_DIM, bool HALF>
__device__ __forceinline__ void make_scores(float s[2][4], const struct rows<T, HEAD_DIM, HALF> *r,
                                            uint32_t shared_q, uint32_t k)
{
    using L = layout<HEAD_DIM>;
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < HEAD_DIM / 16; i++) {
        uint32_t m[4], wide[4];
        const uint32_t *q = r->q[L::WIDE ? 0 : i];
        if constexpr (L::WIDE) {
            ldmatrix_x4(wide, shared_q + L::at(lane % 16, 2 * i + lane / 16));
            q = wide;
        }
        ldmatrix_x4(m, k + L::at(lane / 16 * 8 + lane % 8, 2 * i + lane / 8 % 2));
        mma_16816(s[0], q, m, T());
        mma_16816(s[1], q, m + 2, T());
    }
}

/* cap * tanh(x); tanh.approx would be off by more than the rounding of weights. */
__device__ __forceinline__ float cap_score(float x, float cap)
{
    return cap - 2.0f * cap / (1.0f + exp2_approx(x * (2.0f * LOG2_E)));
}

/* To powers of 2, what is not seen to -infinity.  `behind` = key of s[0][0] less the query's. */
template <bool HALF>
__device__ __forceinline__ void finish_scores(float s[2][4], const struct decode_params &p,
                                              const float slope[2], int key, const struct keys &k,
                                              int position)
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
#pragma unroll
        for (int j = 0; j < (HALF ? 2 : 4); j++) {
            const int at = key + 8 * i + j % 2;
            float x = s[i][j] * p.scale;
            if (p.cap > 0.0f)
                x = cap_score(x, p.cap);
            if (p.alibi)
                x += slope[j / 2] * (float)(at - position);
            s[i][j] = at < k.end && at >= k.seen ? x : -INFINITY;
        }
    }
}

/* One row's weights from its scores; what was summed before is scaled to the new maximum. */
template <class T, int HEAD_DIM, bool HALF, int HALF_INDEX>
__device__ __forceinline__ void weigh(struct rows<T, HEAD_DIM, HALF> *r, float s[2][4])
{
    constexpr int A = 2 * HALF_INDEX, B = A + 1;
    float top = fmaxf(fmaxf(s[0][A], s[0][B]), fmaxf(s[1][A], s[1][B]));
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
    top = fmaxf(top, r->top[HALF_INDEX]);
    const float decay = exp2_approx(r->top[HALF_INDEX] - top);
    r->top[HALF_INDEX] = top;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        s[i][A] = exp2_approx(s[i][A] - top);
        s[i][B] = exp2_approx(s[i][B] - top);
    }
    r->sum[HALF_INDEX] = r->sum[HALF_INDEX] * decay + ((s[0][A] + s[0][B]) + (s[1][A] + s[1][B]));
#pragma unroll
    for (int i = 0; i < HEAD_DIM / 8; i++) {
        r->out[i][A] *= decay;
        r->out[i][B] *= decay;
    }
}

template <class T, int HEAD_DIM, bool HALF>
__device__ __forceinline__ void add_values(struct rows<T, HEAD_DIM, HALF> *r, const float s[2][4],
                                           uint32_t v)
{
    const int lane = threadIdx.x % 32;
    const uint32_t weights[4] = {pack<T>(s[0][0], s[0][1]), HALF ? 0 : pack<T>(s[0][2], s[0][3]),
                                 pack<T>(s[1][0], s[1][1]), HALF ? 0 : pack<T>(s[1][2], s[1][3])};
#pragma unroll
    for (int i = 0; i < HEAD_DIM / 16; i++) {
        uint32_t m[4];
        ldmatrix_x4_trans(m, v + layout<HEAD_DIM>::at(lane % 16, 2 * i + lane / 16));
        mma_16816(r->out[2 * i], weights, m, T());
        mma_16816(r->out[2 * i + 1], weights, m + 2, T());
    }
}

/* This warp's 16 keys of a stage that has arrived. */
template <class T, int HEAD_DIM, bool HALF>
__device__ __forceinline__ void
compute_stage(struct rows<T, HEAD_DIM, HALF> *r, const struct decode_params &p,
              const struct keys &k, int stage, int position, uint32_t shared_q, uint32_t tile)
{
    const int key = stage_key(k, stage);
    if (key >= k.end || key + WARP_KEYS <= k.seen)
        return;
    float s[2][4] = {};
    make_scores(s, r, shared_q, tile);
    finish_scores<HALF>(s, p, r->slope, key + threadIdx.x % 4 * 2, k, position);
    weigh<T, HEAD_DIM, HALF, 0>(r, s);
    if constexpr (!HALF)
        weigh<T, HEAD_DIM, HALF, 1>(r, s);
    add_values(r, s, tile + layout<HEAD_DIM>::TILE_BYTES);
}

/* The warp's codes as numbers, which lie as a copy would have put them; with the scales of rows
 * where they are values. */
template <class T, int HEAD_DIM>
__device__ __forceinline__ void widen_codes(char *to, const char *codes, const float *scales,
                                            bool is_e4m3)
{
    using L = layout<HEAD_DIM>;
    __syncwarp();
#pragma unroll(L::WIDE ? 2 : 4)
    for (int i = 0; i < L::PIECES * WARP_KEYS / 32; i++) {
        const int at = i * 32 + threadIdx.x % 32, row = at / L::PIECES;
        const uint2 eight = *(const uint2 *)(codes + at * 8);
        float v[8];
        if (scales)
            values8_to_f32(v, eight, scales[row], is_e4m3);
        else
            keys8_to_f32(v, eight);
        *(uint4 *)(to + L::at(row, at % L::PIECES)) = make_uint4(
            pack<T>(v[0], v[1]), pack<T>(v[2], v[3]), pack<T>(v[4], v[5]), pack<T>(v[6], v[7]));
    }
    __syncwarp();
}

/* compute_stage of a cache in 8 bits: `codes` are the warp's of the stage, `wide` its room. */
template <class T, int HEAD_DIM, bool HALF>
__device__ __forceinline__ void compute_codes(struct rows<T, HEAD_DIM, HALF> *r,
                                              const struct decode_params &p, const struct keys &k,
                                              int stage, int position, uint32_t shared_q,
                                              const char *codes, char *wide)
{
    using L = layout<HEAD_DIM, true>;
    const int key = stage_key(k, stage), column = threadIdx.x % 4 * 2;
    if (key >= k.end || key + WARP_KEYS <= k.seen)
        return;
    const float *scales = (const float *)(codes + L::SCALES_AT);
    float s[2][4] = {};
    widen_codes<T, HEAD_DIM>(wide, codes, nullptr, false);
    make_scores(s, r, shared_q, shared_addr(wide));
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float2 by = *(const float2 *)(scales + 8 * i + column);
        s[i][0] *= by.x;
        s[i][1] *= by.y;
        s[i][2] *= by.x;
        s[i][3] *= by.y;
    }
    finish_scores<HALF>(s, p, r->slope, key + column, k, position);
    weigh<T, HEAD_DIM, HALF, 0>(r, s);
    if constexpr (!HALF)
        weigh<T, HEAD_DIM, HALF, 1>(r, s);
    widen_codes<T, HEAD_DIM>(wide, codes + L::CODE_BYTES, scales + WARP_KEYS, p.values_e4m3);
    add_values(r, s, shared_addr(wide));
}

/* ---- The end of an item. ---- */

/* Where 8-byte and 16-byte accesses of 4 rows meet different banks. */
__device__ __forceinline__ int join_column(int row, int column)
{
    return column ^ (row & 3) << 3;
}

/* Rows [8 HALF_INDEX, + 8) of this warp to shared memory. */
template <int HALF_INDEX, class T, int HEAD_DIM, bool HALF>
__device__ __forceinline__ void put_rows(struct rows<T, HEAD_DIM, HALF> *r, int n_rows, float *join,
                                         struct shared_state *st)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = lane / 4;
    float sum = r->sum[HALF_INDEX];
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    if (row >= n_rows)
        return;
    float *to = join + (warp * MERGE_ROWS + row) * layout<HEAD_DIM>::JOIN_STRIDE;
#pragma unroll
    for (int i = 0; i < HEAD_DIM / 8; i++)
        *(float2 *)&to[join_column(row, 8 * i + lane % 4 * 2)] =
            make_float2(r->out[i][2 * HALF_INDEX], r->out[i][2 * HALF_INDEX + 1]);
    if (lane % 4 == 0)
        st->sums[warp][row] = make_float2(r->top[HALF_INDEX], sum);
}

struct joined { /* 4 columns of a row, relative to the maximum `top` */
    float4 v;
    float top, sum;
};

__device__ __forceinline__ void join_add(struct joined *j, float4 v, float2 top_sum)
{
    const float top = fmaxf(j->top, top_sum.x);
    const float a = exp2_approx(j->top - top), b = exp2_approx(top_sum.x - top);
    j->v.x = j->v.x * a + v.x * b;
    j->v.y = j->v.y * a + v.y * b;
    j->v.z = j->v.z * a + v.z * b;
    j->v.w = j->v.w * a + v.w * b;
    j->sum = j->sum * a + top_sum.y * b;
    j->top = top;
}

template <class T>
__device__ __forceinline__ void put_out(const struct decode_params &p, size_t at,
                                        const struct joined &j)
{
    const float scale = 1.0f / j.sum;
    const uint2 v =
        make_uint2(pack<T>(j.v.x * scale, j.v.y * scale), pack<T>(j.v.z * scale, j.v.w * scale));
    *(uint2 *)((T *)p.out + at) = v;
}

/* The warps' rows, in order, to the output or to the split's partial. */
template <class T, int HEAD_DIM>
__device__ __forceinline__ void
join_warps(const struct decode_params &p, const struct attention_split &s, bool alone,
           int first_head, int n_rows, const float *join, const struct shared_state *st)
{
    constexpr int QUADS = HEAD_DIM / 4, STRIDE = layout<HEAD_DIM>::JOIN_STRIDE;
    for (int i = threadIdx.x; i < n_rows * QUADS; i += THREADS) {
        const int row = i / QUADS, column = i % QUADS * 4, head = first_head + row;
        float top = st->sums[0][row].x;
#pragma unroll
        for (int w = 1; w < WARPS; w++)
            top = fmaxf(top, st->sums[w][row].x);
        struct joined j = {make_float4(0.0f, 0.0f, 0.0f, 0.0f), top, 0.0f};
#pragma unroll
        for (int w = 0; w < WARPS; w++)
            join_add(
                &j,
                *(const float4 *)&join[(w * MERGE_ROWS + row) * STRIDE + join_column(row, column)],
                st->sums[w][row]);
        if (alone) {
            put_out<T>(p, ((size_t)s.token * p.n_heads + head) * HEAD_DIM + column, j);
        } else {
            const size_t at = (size_t)s.partial * p.n_heads + head;
            *(float4 *)&p.values[at * HEAD_DIM + column] = j.v;
            if (column == 0)
                p.sums[at] = make_float2(j.top, j.sum);
        }
    }
}

/* All partials of a token, in order of position, to the output.  They are read past L1, which may
 * hold lines of neighbours from before. */
template <class T, int HEAD_DIM>
__device__ __forceinline__ void join_splits(const struct decode_params &p,
                                            const struct attention_split &s, int n_skipped,
                                            const struct heads &h)
{
    constexpr int QUADS = HEAD_DIM / 4;
    for (int i = threadIdx.x; i < h.n * QUADS; i += THREADS) {
        const int head = h.first + i / QUADS, column = i % QUADS * 4;
        struct joined j = {make_float4(0.0f, 0.0f, 0.0f, 0.0f), -INFINITY, 0.0f};
        size_t at = (size_t)(s.first_partial + n_skipped) * p.n_heads + head;
#pragma unroll 8
        for (int split = n_skipped; split < s.n_splits; split++) {
            join_add(&j, __ldcg((const float4 *)&p.values[at * HEAD_DIM + column]),
                     __ldcg(&p.sums[at]));
            at += p.n_heads;
        }
        put_out<T>(p, ((size_t)s.token * p.n_heads + head) * HEAD_DIM + column, j);
    }
}

/* True for all threads <=> this item is the last of its token and heads. */
__device__ __forceinline__ bool arrive_last(const struct decode_params &p,
                                            const struct attention_split &s, int n_active,
                                            int first_head, struct shared_state *st)
{
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        int32_t *counter = &p.counters[ATTENTION_QUEUE + s.merge * p.n_heads + first_head];
        st->is_last = atomicAdd(counter, 1) == n_active - 1;
        if (st->is_last)
            *counter = 0;
    }
    __syncthreads();
    __threadfence();
    return st->is_last != 0;
}

template <class T, int HEAD_DIM, bool HALF>
__device__ __forceinline__ void
end_item(struct rows<T, HEAD_DIM, HALF> *r, const struct decode_params &p,
         const struct attention_split &s, int seen, const struct heads &h, float *join,
         struct shared_state *st)
{
    const int n_skipped = seen / s.size, n_active = s.n_splits - n_skipped;
    if constexpr (layout<HEAD_DIM>::WIDE)
        __syncthreads(); /* all have read the queries, which lie where rows go */
    put_rows<0>(r, min(h.n, MERGE_ROWS), join, st);
    __syncthreads();
    join_warps<T, HEAD_DIM>(p, s, n_active == 1, h.first, min(h.n, MERGE_ROWS), join, st);
    if constexpr (!HALF) {
        if (h.n > MERGE_ROWS) {
            __syncthreads();
            put_rows<1>(r, h.n - MERGE_ROWS, join, st);
            __syncthreads();
            join_warps<T, HEAD_DIM>(p, s, n_active == 1, h.first + MERGE_ROWS, h.n - MERGE_ROWS,
                                    join, st);
        }
    }
    if (n_active == 1)
        __syncthreads();
    else if (arrive_last(p, s, n_active, h.first, st))
        join_splits<T, HEAD_DIM>(p, s, n_skipped, h);
}

/* ---- The list. ---- */

/* Warp 0 alone: lane i holds word i of an item on its way. */
struct queue {
    int n_items, at; /* item that is fetched next */
    int word, part;
};

__device__ __forceinline__ void fetch_item(struct queue *q, const struct decode_params &p)
{
    const int lane = threadIdx.x % 32, split = q->at / p.n_parts;
    q->part = q->at < q->n_items ? q->at % p.n_parts : -1;
    if (lane < SPLIT_WORDS)
        q->word = ((const int32_t *)&p.split[min(split, p.last_split)])[lane];
}

__device__ __forceinline__ void put_item(const struct queue *q, struct item *to)
{
    const int lane = threadIdx.x % 32;
    if (lane < SPLIT_WORDS)
        ((int32_t *)&to->split)[lane] = q->word;
    if (lane == 0)
        to->part = q->part;
}

/* The first two items are the block's by its number, further ones are for whoever is free: lane 0
 * draws a number, which nothing waits for yet. */
__device__ __forceinline__ int draw_ticket(const struct queue *q, const struct decode_params &p)
{
    if (q->n_items > 2 * (int)gridDim.x && threadIdx.x == 0)
        return atomicAdd(&p.counters[0], 1);
    return 0;
}

__device__ __forceinline__ int item_of_ticket(int ticket)
{
    return 2 * (int)gridDim.x + __shfl_sync(~0u, ticket, 0);
}

/* The last block to end leaves the counters as it found them. */
__device__ __forceinline__ void close_queue(const struct queue *q, const struct decode_params &p)
{
    if (threadIdx.x != 0 || q->n_items <= 2 * (int)gridDim.x)
        return;
    __threadfence();
    if (atomicInc((unsigned *)&p.counters[1], gridDim.x - 1) == gridDim.x - 1)
        p.counters[0] = 0;
}

/* grid: BLOCKS a multiprocessor; block: 4 warps.  See above.  Old keys are copied before the wait
 * for the kernel before: they were written in earlier steps, as the lists and the block table were
 * by step_begin. */
template <class T, int HEAD_DIM, bool HALF, bool NARROW>
__global__ void __launch_bounds__(THREADS, layout<HEAD_DIM>::BLOCKS)
    attention_decode_kernel(const __grid_constant__ struct decode_params p)
{
    using L = layout<HEAD_DIM, NARROW>;
    extern __shared__ __align__(1024) char stages[];
    __shared__ struct shared_state st;
    float *join = (float *)(stages + L::STAGES * L::STAGE_BYTES);
    const int warp = threadIdx.x / 32;
    const uint32_t tiles = shared_addr(stages) + (uint32_t)warp * L::WARP_BYTES;
    const uint64_t policy = policy_evict_first();
    struct queue queue = {};
    struct loader l = {};
    struct rows<T, HEAD_DIM, HALF> r;

    if (warp == 0) {
        struct queue second = {};
        queue.n_items = second.n_items = (p.wave->end_split - p.wave->first_split) * p.n_parts;
        queue.at = (int)blockIdx.x;
        second.at = (int)(blockIdx.x + gridDim.x);
        fetch_item(&queue, p);
        fetch_item(&second, p);
        put_item(&queue, &st.ring[0]);
        put_item(&second, &st.ring[1]);
    }
    __syncthreads();
    l.ahead = -1;
    l.next_block = ask_blocks(p, st.ring[0]);
    if (st.ring[0].part >= 0) {
        enter_item(&l, p, st.ring[0]);
        const int n_old = max(0, st.ring[0].split.old_keys - l.keys.first) / STAGE_KEYS;
        while (l.stage < min(n_old, min(l.keys.n_stages, (int)L::STAGES)))
            copy_stage<HEAD_DIM, NARROW>(&l, p, tiles, policy);
    }
    depend_wait();
    depend_launch();
    if (st.ring[0].part >= 0) {
        load_q(&r, p, st.ring[0]);
        if constexpr (L::WIDE)
            share_q<T, HEAD_DIM>((char *)join, p, st.ring[0]);
    }
    if (warp == 0)
        queue.at = item_of_ticket(draw_ticket(&queue, p));

    int slot = 0;
    for (int n = 0; st.ring[n % RING].part >= 0; n++) {
        const struct attention_split s = st.ring[n % RING].split;
        const struct heads h = heads_of(p, st.ring[n % RING].part);
        const struct item &next = st.ring[(n + 1) % RING];
        const struct keys k = keys_of(s, p.window);
        int ticket = 0;

        if (l.ahead < 0)
            enter_item(&l, p, st.ring[n % RING]);
        l.next_block = ask_blocks(p, next);
        if (warp == 0) {
            fetch_item(&queue, p);
            ticket = queue.part < 0 ? 0 : draw_ticket(&queue, p);
        }
        clear_rows(&r);
        for (int stage = 0; stage < k.n_stages; stage++) {
            copy_ahead<HEAD_DIM, NARROW>(&l, p, next, tiles, policy);
            wait_oldest<L::STAGES>(l.n_slots_used);
            __syncwarp();
            if constexpr (NARROW)
                compute_codes(&r, p, k, stage, s.kv_len - 1, shared_addr(join),
                              stages + slot * L::STAGE_BYTES + warp * L::WARP_BYTES,
                              (char *)join + L::JOIN_BYTES + warp * L::TILE_BYTES);
            else
                compute_stage(&r, p, k, stage, s.kv_len - 1, shared_addr(join),
                              tiles + (uint32_t)slot * L::STAGE_BYTES);
            __syncwarp();
            slot = slot + 1 == L::STAGES ? 0 : slot + 1;
            l.n_slots_used--;
        }
        if (warp == 0) {
            put_item(&queue, &st.ring[(n + 2) % RING]);
            queue.at = queue.part < 0 ? queue.n_items : item_of_ticket(ticket);
        }
        if (next.part >= 0)
            load_q(&r, p, next);
        if (k.n_stages > 0)
            end_item(&r, p, s, k.seen, h, join, &st);
        else
            __syncthreads();
        if constexpr (L::WIDE) {
            if (next.part >= 0)
                share_q<T, HEAD_DIM>((char *)join, p, next);
        }
        l.ahead--;
    }
    if (warp == 0)
        close_queue(&queue, p);
}

template <class T, int HEAD_DIM, bool HALF, bool NARROW>
void launch_decode(struct device *d, const struct decode_params *p)
{
    using L = layout<HEAD_DIM, NARROW>;
    void (*kernel)(struct decode_params) = attention_decode_kernel<T, HEAD_DIM, HALF, NARROW>;
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)(d->sm_count * L::BLOCKS));
    config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes = L::BYTES;
    config.stream = d->stream;
    config.attrs = &attribute;
    config.numAttrs = d->cc >= 90;
    cuda_check(d,
               cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, L::BYTES),
               "attention_decode");
    cuda_check(d, cudaLaunchKernelEx(&config, kernel, *p), "attention_decode");
}

template <class T, bool HALF, bool NARROW>
void launch_head_dim(struct device *d, int head_dim, const struct decode_params *p)
{
    switch (head_dim) {
    case 64:
        launch_decode<T, 64, HALF, NARROW>(d, p);
        return;
    case 80:
        launch_decode<T, 80, HALF, NARROW>(d, p);
        return;
    case 96:
        launch_decode<T, 96, HALF, NARROW>(d, p);
        return;
    case 128:
        launch_decode<T, 128, HALF, NARROW>(d, p);
        return;
    case 256:
        launch_decode<T, 256, HALF, NARROW>(d, p);
        return;
    default:
        cuda_check(d, cudaErrorInvalidValue, "attention_decode: head_dim");
    }
}

template <class T, bool NARROW>
void launch_group(struct device *d, int head_dim, const struct decode_params *p)
{
    if (p->group <= MERGE_ROWS)
        launch_head_dim<T, true, NARROW>(d, head_dim, p);
    else
        launch_head_dim<T, false, NARROW>(d, head_dim, p);
}

template <class T> void launch_type(struct device *d, int head_dim, const struct decode_params *p)
{
    if (p->k_scale)
        launch_group<T, true>(d, head_dim, p);
    else
        launch_group<T, false>(d, head_dim, p);
}

void set_scores(struct decode_params *p, const struct attention_args *a)
{
    p->scale = a->soft_cap > 0.0f ? a->scale / a->soft_cap : a->scale * LOG2_E;
    p->cap = a->soft_cap * LOG2_E;
    p->alibi = a->alibi;
    p->window = a->window;
}

void set_shape(struct decode_params *p, const struct device *d, const struct attention_args *a)
{
    const struct kv_cache *kv = a->kv;
    const size_t layer_rows = (size_t)kv->n_blocks * kv->n_kv_heads * kv->block_tokens;
    const size_t layer_bytes = layer_rows * kv->head_dim * (kv_has_scales(kv->dtype) ? 1 : 2);
    p->k = (const char *)kv->k + (size_t)a->layer * layer_bytes;
    p->v = (const char *)kv->v + (size_t)a->layer * layer_bytes;
    p->k_scale = kv->k_scale ? kv->k_scale + a->layer * layer_rows : nullptr;
    p->v_scale = kv->v_scale ? kv->v_scale + a->layer * layer_rows : nullptr;
    p->values_e4m3 = kv->dtype == DT_FP8;
    p->n_heads = a->n_heads;
    p->n_kv_heads = kv->n_kv_heads;
    p->group = a->n_heads / kv->n_kv_heads;
    p->n_tiles = (p->group + ROWS - 1) / ROWS;
    p->n_parts = kv->n_kv_heads * p->n_tiles;
    p->block_tokens = kv->block_tokens;
    p->values = d->partials;
    p->sums = (float2 *)(d->partials +
                         (size_t)attention_partials_max(&d->limits) * a->n_heads * kv->head_dim);
}

} /* namespace */

/* ---- Launcher ---- */

void cuda_attention_decode(struct device *d, const struct attention_args *a)
{
    const struct cuda_batch *b = &d->batch;
    struct decode_params p = {};

    set_scores(&p, a);
    set_shape(&p, d, a);
    p.q = a->q;
    p.out = a->out;
    p.q_stride = a->q_stride;
    p.block_table = b->block_table;
    p.table_stride = d->limits.table_stride;
    p.counters = d->merges;
    for (int i = 0; i < b->n_waves; i++) {
        /* A graph has one wave, which begins at 0 whatever it is replayed for. */
        const int first = i > 0 ? b->attention_host->counts->wave[i].first_split : 0;
        p.wave = &b->attention.counts->wave[i];
        p.split = b->attention.split + first;
        p.last_split = attention_splits_max(&d->limits) - first - 1;
        if (d->act == DT_BF16)
            launch_type<__nv_bfloat16>(d, a->kv->head_dim, &p);
        else
            launch_type<__half>(d, a->kv->head_dim, &p);
    }
}
