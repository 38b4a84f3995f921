/* matmul_heads.cuh - the end of the product that makes q, k and v: rope, and k and v to their
 * pages.
 *
 * Its bits are those of the product and of rope_kv.cu behind it: a value is rounded, as y would
 * have it, before it is turned.  A unit's 8 columns are of one head and hold both of each pair: 8
 * neighbours where pairs are (2i, 2i + 1), else 4 and the 4 that lie half a head on.
 *
 * Angles and places depend on the batch alone, which is older than the kernel before (launch.cuh): a
 * warp finds them while it waits. */
#ifndef KERNELS_CUDA_MATMUL_HEADS_CUH
#define KERNELS_CUDA_MATMUL_HEADS_CUH

#include "kernels/cuda/matmul_epilogue.cuh"
#include "kernels/cuda/rope_kv.cuh"

enum { HEAD_UNIT = 8 };

/* Columns of a unit that are neighbours, and how many such runs there are. */
__host__ __device__ inline int head_run(const struct rope_job &j)
{
    return j.rope == ROPE_NEOX ? HEAD_UNIT / 2 : HEAD_UNIT;
}

__host__ __device__ inline int head_runs(const struct rope_job &j)
{
    return j.rope == ROPE_NEOX ? 2 : 1;
}

struct head_at { /* a unit: of which head of q, k and v, the how many-th of it */
    int head, part;

    __device__ head_at(const struct rope_job &j, int unit)
        : head(unit / (j.head_dim / HEAD_UNIT)), part(unit % (j.head_dim / HEAD_UNIT))
    {
    }

    __device__ void next(const struct rope_job &j)
    {
        if (++part == j.head_dim / HEAD_UNIT) {
            part = 0;
            head++;
        }
    }
};

/* What a lane needs at the end of a unit: of each of its rows of x, one in 8, what its columns, two
 * neighbours, are turned by, and where they go. */
template <class T, int ROWS> struct head_end {
    enum { N = ROWS / 8 };
    T *to[N]; /* NULL <=> no such row */
    float cos[N][2], sin[N][2];
    int col;    /* the first of the two, of y */
    bool turns; /* not v */

    __device__ void find(const struct product &p, const struct rope_job &j, int unit, int lane)
    {
        const head_at u(j, unit);
        const int run = head_run(j), in_unit = lane % 4 * 2;
        const int dim = u.part * run + in_unit % run + in_unit / run * (j.head_dim / head_runs(j));
        col = u.head * j.head_dim + dim;
        turns = u.head < j.n_heads + j.n_kv_heads;
        float inv_freq[2];
#pragma unroll
        for (int i = 0; i < 2; i++)
            inv_freq[i] = j.inv_freq[j.rope == ROPE_NEOX ? (dim + i) % (j.head_dim / 2) : dim / 2];
#pragma unroll
        for (int n = 0; n < N; n++) {
            const int row = 8 * n + lane / 4;
            to[n] = row < p.rows ? place(j, row, u.head, dim) : nullptr;
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const struct angle a =
                    angle_of(inv_freq[i], j.rope_scale, row < p.rows ? j.positions[row] : 0);
                const bool first = j.rope == ROPE_NEOX ? in_unit < run : i == 0;
                cos[n][i] = a.cos;
                sin[n][i] = first ? -a.sin : a.sin;
            }
        }
    }

    __device__ T *place(const struct rope_job &j, int row, int head, int dim)
    {
        if (head < j.n_heads)
            return (T *)j.q + (size_t)row * j.stride + head * j.head_dim + dim;
        const int of_kind = (head - j.n_heads) % j.n_kv_heads;
        return (T *)(turns ? j.cache_k : j.cache_v) + page_row(j, row, of_kind) + dim;
    }

    /* The lane's sums of row 8 n + lane / 4.  All lanes of the warp come here. */
    __device__ void store(const struct product &p, const struct rope_job &j, int n,
                          const float *sum) const
    {
        float v[2], out[2];
#pragma unroll
        for (int i = 0; i < 2; i++)
            v[i] = out[i] = round_to<T>(p.bias ? __fadd_rn(sum[i], p.bias[col + i]) : sum[i]);
        const float apart[2] = {__shfl_xor_sync(0xffffffffu, v[0], 2),
                                __shfl_xor_sync(0xffffffffu, v[1], 2)};
#pragma unroll
        for (int i = 0; i < 2 && turns; i++)
            out[i] =
                turn_one(v[i], cos[n][i], j.rope == ROPE_NEOX ? apart[i] : v[1 - i], sin[n][i]);
        if (to[n])
            store_two<T>(to[n], out, true, true);
    }
};

#endif
