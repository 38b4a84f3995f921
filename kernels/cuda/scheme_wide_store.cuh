/* scheme_wide_store.cuh - sums of wgmma whose rows are weights, to y: by a warp, without the
 * others.
 *
 * A warp has 16 columns of y (and where it has two blocks, 16 others, or gated the same of `up`).
 * A lane holds neighbours along the rows of y, and y wants neighbours along its columns: 16 by 16
 * values at a time are turned by stmatrix, and what is added to them by ldmatrix, in 512 bytes of
 * shared memory of the warp.  What is added is brought near before the products, and asked for a
 * part ahead.  The parts are a loop, which holds every case in little code. */
#ifndef KERNELS_CUDA_SCHEME_WIDE_STORE_CUH
#define KERNELS_CUDA_SCHEME_WIDE_STORE_CUH

#include "kernels/cuda/matmul_epilogue.cuh"
#include "kernels/cuda/ptx_wgmma.cuh"

enum { STORE_ROWS = 16, STORE_BYTES = STORE_ROWS * 32 };

/* Where 8 columns of a row of the 16 by 16 values lie: two rows apart, four banks apart. */
__device__ __forceinline__ uint32_t store_place(uint32_t piece, int row, int half)
{
    return piece + row * 32 + ((half ^ (row / 4 % 2)) << 4);
}

/* Rounded in one instruction: one by one takes the slow pipe. */
__device__ __forceinline__ uint32_t pair_of(float lo, float hi, __nv_bfloat16)
{
    const __nv_bfloat162 v = __floats2bfloat162_rn(lo, hi);
    return *(const uint32_t *)&v;
}
__device__ __forceinline__ uint32_t pair_of(float lo, float hi, __half)
{
    const __half2 v = __floats2half2_rn(lo, hi);
    return *(const uint32_t *)&v;
}
template <class T> __device__ __forceinline__ uint32_t pair_of(float lo, float hi)
{
    return pair_of(lo, hi, T());
}

template <class T> __device__ __forceinline__ float pair_value(uint32_t v, int i)
{
    alignas(4) const uint32_t w = v;
    return (float)((const T *)&w)[i];
}

/* y of 8 sums at once, by matmul_int.h's rule: asked once for eight and not at each.
 * bias: of columns g and g + 8; rest: pairs of what add or, where gate ran before, y has. */
template <class T>
__device__ __forceinline__ void store_values(const struct product &p, float (&v)[8],
                                             const float (&bias)[2], const uint32_t (&rest)[4])
{
    if (p.bias)
#pragma unroll
        for (int i = 0; i < 8; i++)
            v[i] = __fadd_rn(v[i], bias[i / 2 % 2]);
    if (p.gate_in_y)
#pragma unroll
        for (int i = 0; i < 8; i++)
            v[i] = __fmul_rn(activate(p.act, pair_value<T>(rest[i / 2], i % 2)), round_to<T>(v[i]));
    else if (p.act != ACT_NONE)
#pragma unroll
        for (int i = 0; i < 8; i++)
            v[i] = activate(p.act, round_to<T>(v[i]));
    if (p.add)
#pragma unroll
        for (int i = 0; i < 8; i++)
            v[i] = __fadd_rn(v[i], pair_value<T>(rest[i / 2], i % 2));
}

template <class T>
__device__ __forceinline__ void store_gated(const struct product &p, float (&gate)[8],
                                            const float (&up)[8], const float (&bias)[2],
                                            const float (&bias_up)[2])
{
    float u[8];
#pragma unroll
    for (int i = 0; i < 8; i++)
        u[i] = up[i];
    if (p.bias)
#pragma unroll
        for (int i = 0; i < 8; i++)
            gate[i] = __fadd_rn(gate[i], bias[i / 2 % 2]);
    if (p.bias_up)
#pragma unroll
        for (int i = 0; i < 8; i++)
            u[i] = __fadd_rn(u[i], bias_up[i / 2 % 2]);
    if (p.act == ACT_SILU)
#pragma unroll
        for (int i = 0; i < 8; i++)
            gate[i] = __fmul_rn(activate(ACT_SILU, round_to<T>(gate[i])), round_to<T>(u[i]));
    else
#pragma unroll
        for (int i = 0; i < 8; i++)
            gate[i] = __fmul_rn(activate(p.act, round_to<T>(gate[i])), round_to<T>(u[i]));
}

template <class T, int N, int BLOCKS> struct wide_store {
    static const int PARTS = N / STORE_ROWS;
    const struct product &p;
    uint32_t piece; /* this warp's */
    int row, lane;
    int col[BLOCKS]; /* first of 16 of y; gated, the same for both */
    bool gated;
    float bias[BLOCKS][2]; /* of this lane's columns, g and g + 8 */

    __device__ __forceinline__ wide_store(const struct product &of, uint32_t at, int first_row,
                                          int first_col, int warp, int in_warp)
        : p(of), piece(at), row(first_row), lane(in_warp), gated(BLOCKS == 2 && of.w_up)
    {
#pragma unroll
        for (int b = 0; b < BLOCKS; b++) {
            const float *from = gated && b == 1 ? p.bias_up : p.bias;
            col[b] = first_col + (gated ? 0 : b * 128) + warp * 16;
#pragma unroll
            for (int h = 0; h < 2; h++)
                bias[b][h] = from ? from[min(col[b] + lane / 4 + 8 * h, p.n - 1)] : 0;
        }
    }

    /* The 8 values that this lane moves between y's layout and the turned one. */
    __device__ __forceinline__ bool is_in(int part, int b) const
    {
        return row + part * STORE_ROWS + lane / 2 < p.rows && col[b] + lane % 2 * 8 < p.n;
    }
    __device__ __forceinline__ size_t place(int part, int b) const
    {
        return (size_t)(row + part * STORE_ROWS + lane / 2) * p.y_stride + col[b] + lane % 2 * 8;
    }

    /* v: in the layout of sums, this part's 16 rows; rest: this lane's 8 of y's layout. */
    __device__ __forceinline__ void put(int part, int b, const float (&v)[8])
    {
        const int m = lane / 8; /* of four matrices, whose row lane % 8 this lane addresses */
        stmatrix_4_trans(store_place(piece, m / 2 * 8 + lane % 8, m % 2), pair_of<T>(v[0], v[1]),
                         pair_of<T>(v[2], v[3]), pair_of<T>(v[4], v[5]), pair_of<T>(v[6], v[7]));
        __syncwarp();
        const uint4 y = load_shared_16(store_place(piece, lane / 2, lane % 2));
        if (is_in(part, b))
            *(uint4 *)((T *)p.y + place(part, b)) = y;
        __syncwarp();
    }

    __device__ __forceinline__ void finish(int part, int b, float (&v)[8], uint4 rest)
    {
        uint32_t r[4] = {};
        if (p.add || p.gate_in_y) {
            store_shared_16(store_place(piece, lane / 2, lane % 2), rest);
            __syncwarp();
            const int m = lane / 8;
            ldmatrix_x4_trans(r, store_place(piece, m / 2 * 8 + lane % 8, m % 2));
            __syncwarp();
        }
        store_values<T>(p, v, bias[b], r);
        put(part, b, v);
    }

    __device__ __forceinline__ void finish_f32(int part, int b, float (&v)[8])
    {
        const uint32_t none[4] = {};
        store_values<T>(p, v, bias[b], none);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const int r = row + part * STORE_ROWS + i / 4 * 8 + lane % 4 * 2 + i % 2;
            const int c = col[b] + i / 2 % 2 * 8 + lane / 4;
            if (r < p.rows && c < p.n)
                ((float *)p.y)[(size_t)r * p.y_stride + c] = v[i];
        }
    }

    __device__ __forceinline__ const T *rest_of(int part, int b) const
    {
        const T *from = (const T *)(p.gate_in_y ? p.y : p.add);
        return from && part < PARTS && is_in(part, b) ? from + place(part, b) : nullptr;
    }

    __device__ __forceinline__ void load_rest(uint4 (&rest)[BLOCKS], int part) const
    {
#pragma unroll
        for (int b = 0; b < BLOCKS; b++) {
            const T *at = rest_of(part, b);
            rest[b] = {0, 0, 0, 0};
            if (at)
                rest[b] = *(const uint4 *)at;
        }
    }

    __device__ __forceinline__ void finish_part(int part, float (&v)[BLOCKS][8],
                                                const uint4 (&rest)[BLOCKS])
    {
        if (gated) {
            store_gated<T>(p, v[0], v[BLOCKS - 1], bias[0], bias[BLOCKS - 1]);
            put(part, 0, v[0]);
            return;
        }
#pragma unroll
        for (int b = 0; b < BLOCKS; b++)
            if (p.y_f32)
                finish_f32(part, b, v[b]);
            else
                finish(part, b, v[b], rest[b]);
    }

    /* Brings what will be added near, long before run(). */
    __device__ __forceinline__ void prefetch() const
    {
        for (int part = 0; part < PARTS; part++)
#pragma unroll
            for (int b = 0; b < BLOCKS; b++)
                if (const T *at = rest_of(part, b))
                    prefetch_l2(at);
    }

    __device__ __forceinline__ void run(const float (&sum)[BLOCKS][N / 2])
    {
        uint4 next[BLOCKS];
        load_rest(next, 0);
#pragma unroll 1
        for (int part = 0; part < PARTS && row + part * STORE_ROWS < p.rows; part++) {
            float v[BLOCKS][8];
            uint4 rest[BLOCKS];
#pragma unroll
            for (int b = 0; b < BLOCKS; b++)
                rest[b] = next[b];
            load_rest(next, part + 1);
#pragma unroll
            for (int c = 0; c < PARTS; c++) /* registers have no index */
                if (c == part)
#pragma unroll
                    for (int b = 0; b < BLOCKS; b++)
#pragma unroll
                        for (int i = 0; i < 8; i++)
                            v[b][i] = sum[b][8 * c + i];
            finish_part(part, v, rest);
        }
    }
};

#endif
