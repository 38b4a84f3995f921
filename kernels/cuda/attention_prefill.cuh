/* attention_prefill.cuh - what both prefill kernels share: work items, what a row sees, softmax.
 *
 * A work item is one tile of queries times one head.  Key tiles start at multiples of a fixed
 * size from position 0 and are taken from the last to the first.  A key tile in which a row
 * sees nothing leaves that row's maximum, sum and values as they are to the bit (the old sum times
 * exp2(0) plus zeros), so a row's bits depend on its own position alone and not on its tile. */
#ifndef KERNELS_CUDA_ATTENTION_PREFILL_CUH
#define KERNELS_CUDA_ATTENTION_PREFILL_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <math.h>
#include <stdint.h>

#include "kernels/cuda/cuda_int.h"
#include "kernels/cuda/ptx.cuh"

struct prefill_params {                /* of one launch */
    const struct attention_tile *tile; /* [n_tiles], the longest first */
    const int32_t *block_table;        /* [slots, table_stride] */
    const void *q;                     /* [n_tokens, n_heads, head_dim], rows q_stride apart */
    void *out;                         /* [n_tokens, n_heads, head_dim] */
    const void *k, *v;                 /* of the whole cache */
    const float *alibi;                /* [n_heads] or NULL */
    int n_tiles, table_stride, q_stride, n_heads, n_kv_heads;
    int first_block; /* of the layer, among the blocks of all layers */
    int n_blocks;    /* of all layers: one past the last */
    int block_shift; /* log2 of block_tokens */
    int window;      /* 0 = none */
    float scale, soft_cap;
    float exponent; /* exp(score) = exp2(score * exponent) */
    bool bidirectional;
    const float *k_scale, *v_scale; /* of the whole cache, in 8 bits */
    bool values_e4m3;
};

/* False when a score is only q.k: then the scale is part of the exponent. */
inline bool prefill_is_shaped(const struct attention_args *a)
{
    return a->soft_cap > 0 || a->alibi;
}

inline int prefill_log2(int power)
{
    int shift = 0;
    while (1 << shift < power)
        shift++;
    return shift;
}

inline struct prefill_params prefill_params_of(const struct device *d,
                                               const struct attention_args *a)
{
    const float log2_e = 1.4426950408889634f;
    struct prefill_params p = {};
    p.tile = d->batch.attention.tile;
    p.n_tiles = d->batch.attention_host->counts->n_tiles;
    p.block_table = d->batch.block_table;
    p.table_stride = d->limits.table_stride;
    p.q = a->q;
    p.q_stride = a->q_stride;
    p.out = a->out;
    p.k = a->kv->k;
    p.v = a->kv->v;
    p.alibi = a->alibi;
    p.n_heads = a->n_heads;
    p.n_kv_heads = a->kv->n_kv_heads;
    p.first_block = a->layer * a->kv->n_blocks;
    p.n_blocks = a->kv->n_layers * a->kv->n_blocks;
    p.block_shift = prefill_log2(a->kv->block_tokens);
    p.window = a->window;
    p.scale = a->scale;
    p.soft_cap = a->soft_cap;
    p.exponent = prefill_is_shaped(a) ? log2_e : a->scale * log2_e;
    p.bidirectional = a->bidirectional;
    p.k_scale = a->kv->k_scale;
    p.v_scale = a->kv->v_scale;
    p.values_e4m3 = a->kv->dtype == DT_FP8;
    return p;
}

struct prefill_work { /* one item, as every thread of a block sees it */
    struct attention_tile tile;
    int head, kv_head;
    int key_end; /* no row sees a key from here on */
    int first_key_tile, n_key_tiles;
};

/* Item of a block in a round.  Costs fall with the index, so that going back and forth over the
 * blocks gives each about the same sum; neighbours are heads of one tile, which share K and V. */
__device__ __forceinline__ int prefill_item(int round)
{
    int across = (int)(round % 2 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
    return round * (int)gridDim.x + across;
}

__device__ __forceinline__ struct prefill_work prefill_work_of(const struct prefill_params &p,
                                                               int item, int key_tile)
{
    struct prefill_work w;
    w.tile = p.tile[item / p.n_heads];
    w.head = item % p.n_heads;
    w.kv_head = w.head / (p.n_heads / p.n_kv_heads);
    w.key_end = p.bidirectional ? w.tile.prompt_len : w.tile.position + w.tile.n_tokens;
    int first_key = p.window > 0 ? max(w.tile.position + 1 - p.window, 0) : 0;
    w.first_key_tile = first_key / key_tile;
    int end = (w.key_end + key_tile - 1) / key_tile;
    w.n_key_tiles = w.tile.n_tokens > 0 ? max(end - w.first_key_tile, 0) : 0;
    return w;
}

struct key_range { /* what a row sees, relative to the first key of a key tile: [first, end) */
    int first, end;
};

__device__ __forceinline__ struct key_range
keys_of_row(const struct prefill_params &p, const struct prefill_work &w, int row, int first_key)
{
    int position = w.tile.position + row;
    struct key_range r;
    r.first = p.window > 0 ? position + 1 - p.window - first_key : 0;
    r.end = (p.bidirectional ? w.tile.prompt_len : position + 1) - first_key;
    return r;
}

/* True <=> some row of [first_row, last_row] does not see the whole key tile. */
__device__ __forceinline__ bool key_tile_is_border(const struct prefill_params &p,
                                                   const struct prefill_work &w, int first_row,
                                                   int last_row, int first_key, int key_tile)
{
    return keys_of_row(p, w, first_row, first_key).end < key_tile ||
           keys_of_row(p, w, last_row, first_key).first > 0;
}

/* q.k to a score with soft cap and position slope: tanh(u) = 1 - 2 / (exp(2u) + 1). */
__device__ __forceinline__ float shape_score(const struct prefill_params &p, float dot, float slope,
                                             int distance)
{
    float score = __fmul_rn(dot, p.scale);
    if (p.soft_cap > 0) {
        float e = exp2_approx(score * (2.8853900817779268f / p.soft_cap));
        score = p.soft_cap * (1.0f - __fdividef(2.0f, e + 1.0f));
    }
    return __fmaf_rn(slope, (float)distance, score);
}

/* The four threads of a quad hold a row together. */
__device__ __forceinline__ float quad_max(float x)
{
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

__device__ __forceinline__ float quad_sum(float x)
{
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

struct row_state { /* running softmax of one row, as one thread of its quad has it */
    float top;     /* largest score yet */
    float sum;     /* of this thread's weights, relative to top */
};

__device__ __forceinline__ float finite_or_zero(float top)
{
    return top == -INFINITY ? 0.0f : top;
}

/* Moves the state to a new maximum; returns what older sums are worth then: exactly 1 when the
 * maximum stays. */
__device__ __forceinline__ float row_move(struct row_state &r, float top, float exponent)
{
    float now = fmaxf(r.top, top);
    float keep = exp2_approx((r.top - finite_or_zero(now)) * exponent);
    r.top = now;
    r.sum *= keep;
    return keep;
}

template <typename T> __device__ __forceinline__ uint32_t pack2(float low, float high);

template <> __device__ __forceinline__ uint32_t pack2<__nv_bfloat16>(float low, float high)
{
    __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<uint32_t *>(&both);
}

template <> __device__ __forceinline__ uint32_t pack2<__half>(float low, float high)
{
    __half2 both = __floats2half2_rn(low, high);
    return *reinterpret_cast<uint32_t *>(&both);
}

/* Scores of this thread's rows 0 and 1 lie as the tensor cores leave them: s[4i], s[4i + 1] are
 * columns 8i + 2 * (lane % 4) and the next of row 0, s[4i + 2], s[4i + 3] the same of row 1. */
template <int N>
__device__ __forceinline__ void shape_scores(const struct prefill_params &p, float (&s)[N],
                                             float slope, int distance)
{
#pragma unroll
    for (int i = 0; i < N; i++) /* distance: of column 0 from row 0 */
        s[i] =
            shape_score(p, s[i], slope,
                        distance + i / 4 * 8 + i % 2 + (int)(threadIdx.x % 4) * 2 - i / 2 % 2 * 8);
}

template <int N>
__device__ __forceinline__ void hide_scores(float (&s)[N], struct key_range row0,
                                            struct key_range row1)
{
#pragma unroll
    for (int i = 0; i < N; i++) {
        int column = i / 4 * 8 + i % 2 + (int)(threadIdx.x % 4) * 2;
        const struct key_range &row = i / 2 % 2 ? row1 : row0;
        if (column < row.first || column >= row.end)
            s[i] = -INFINITY;
    }
}

/* Scores become weights; keep[] is what the older sums of the two rows are worth. */
template <int N>
__device__ __forceinline__ void weigh_scores(float (&s)[N], struct row_state (&row)[2],
                                             float (&keep)[2], float exponent)
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float top = fmaxf(s[2 * r], s[2 * r + 1]);
#pragma unroll
        for (int i = 4; i < N; i += 4)
            top = fmaxf(top, fmaxf(s[i + 2 * r], s[i + 2 * r + 1]));
        keep[r] = row_move(row[r], quad_max(top), exponent);
        const float base = -__fmul_rn(finite_or_zero(row[r].top), exponent);
        float sum = 0;
#pragma unroll
        for (int i = 0; i < N; i += 4) {
            s[i + 2 * r] = exp2_approx(__fmaf_rn(s[i + 2 * r], exponent, base));
            s[i + 2 * r + 1] = exp2_approx(__fmaf_rn(s[i + 2 * r + 1], exponent, base));
            sum += s[i + 2 * r] + s[i + 2 * r + 1];
        }
        row[r].sum += sum;
    }
}

/* Weights as the left operand of the next product: four registers for 16 keys. */
template <typename T, int N>
__device__ __forceinline__ void pack_weights(uint32_t (&packed)[N / 2], const float (&s)[N])
{
#pragma unroll
    for (int i = 0; i < N / 2; i++)
        packed[i] = pack2<T>(s[2 * i], s[2 * i + 1]);
}

template <int N> __device__ __forceinline__ void scale_rows(float (&o)[N], const float (&by)[2])
{
#pragma unroll
    for (int i = 0; i < N; i++)
        o[i] = __fmul_rn(o[i], by[i / 2 % 2]);
}

/* Swaps between the four threads of a quad so that thread t, which held column pair t of each of
 * four groups of 8 columns, holds the whole of group t. */
__device__ __forceinline__ uint4 quad_transpose(uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    const bool odd = threadIdx.x % 2, high = threadIdx.x % 4 / 2;
    uint32_t ab = __shfl_xor_sync(0xffffffffu, odd ? a : b, 1);
    uint32_t cd = __shfl_xor_sync(0xffffffffu, odd ? c : d, 1);
    if (odd)
        a = ab, c = cd;
    else
        b = ab, d = cd;
    uint32_t ac = __shfl_xor_sync(0xffffffffu, high ? a : c, 2);
    uint32_t bd = __shfl_xor_sync(0xffffffffu, high ? b : d, 2);
    if (high)
        a = ac, b = bd;
    else
        c = ac, d = bd;
    return make_uint4(a, b, c, d);
}

/* Writes one of this thread's rows (0 or 1) of the output; `to` is the row's first value.  Adding 0
 * turns a -0 into 0: the sign of a zero is all that hidden keys could change. */
template <typename T, int D, int N>
__device__ __forceinline__ void write_row(T *to, const float (&o)[N], int row, float by, bool live)
{
    const int t = threadIdx.x % 4;
    uint32_t pair[D / 8];
#pragma unroll
    for (int i = 0; i < D / 8; i++)
        pair[i] = pack2<T>(o[4 * i + 2 * row] * by + 0.0f, o[4 * i + 2 * row + 1] * by + 0.0f);
#pragma unroll
    for (int i = 0; i + 4 <= D / 8; i += 4) {
        uint4 eight = quad_transpose(pair[i], pair[i + 1], pair[i + 2], pair[i + 3]);
        if (live)
            *reinterpret_cast<uint4 *>(to + (i + t) * 8) = eight;
    }
#pragma unroll
    for (int i = D / 32 * 4; i < D / 8; i++)
        if (live)
            *reinterpret_cast<uint32_t *>(to + i * 8 + t * 2) = pair[i];
}

template <typename T, int D, int N>
__device__ __forceinline__ void write_rows(const struct prefill_params &p,
                                           const struct prefill_work &w, const float (&o)[N],
                                           const struct row_state (&row)[2], int first_row)
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int at = first_row + 8 * r;
        size_t token = (size_t)(w.tile.first_token + at);
        T *to = (T *)p.out + (token * (size_t)p.n_heads + (size_t)w.head) * D;
        write_row<T, D>(to, o, r, 1.0f / quad_sum(row[r].sum), at < w.tile.n_tokens);
    }
}

/* attention_prefill_sm90.cu: false when it does not take these shapes. */
bool cuda_attention_prefill_sm90(struct device *d, const struct attention_args *a,
                                 const struct prefill_params *p);

#endif
