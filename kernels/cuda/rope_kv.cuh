/* rope_kv.cuh - what rope_kv.cu and the product that turns its own heads (matmul_heads.cuh) share:
 * an angle, the turn by it, and a head's row in its page.
 *
 * Whoever turns a head, its bits are the same: what the compiler might fuse or not is named. */
#ifndef KERNELS_CUDA_ROPE_KV_CUH
#define KERNELS_CUDA_ROPE_KV_CUH

#include "kernels/cuda/cuda_int.h"

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
    float *k_scale, *v_scale; /* of the layer, in 8 bits: [n_blocks, n_kv_heads, block_tokens] */
    float hadamard_scale;
    int hadamard; /* size of its blocks */
};

/* rope_kv.cu: what the op does, for the batch in hand. */
struct rope_job rope_job_of(const struct device *, const struct rope_kv_args *);

struct angle {
    float cos, sin;
};

/* The angle is rounded to f32 before its sine is taken, as on the CPU; it is then reduced in
 * double, so that the sine is right at any position. */
__device__ inline struct angle angle_of(float inv_freq, float scale, int position)
{
    const double PER_PI = 0.31830988618379067154;
    const double turns = (double)__fmul_rn((float)position, inv_freq) * PER_PI;
    float s, c; /* of half turns in [-1, 1] */
    sincospif((float)(turns - 2.0 * rint(0.5 * turns)), &s, &c);
    return {__fmul_rn(c, scale), __fmul_rn(s, scale)};
}

/* One of a pair, which `other` is the other of; for the first of the two the sine is negated. */
__device__ inline float turn_one(float v, float cos, float other, float sin)
{
    return __fmaf_rn(v, cos, __fmul_rn(other, sin));
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

#endif
