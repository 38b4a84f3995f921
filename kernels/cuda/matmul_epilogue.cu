/* matmul_epilogue.cu - what follows a product that cublasLt made.
 *
 * Bytes: what the product wrote, once; y once; add once. */
#include "kernels/cuda/matmul_epilogue.cuh"
#include "kernels/cuda/norm_row.cuh"

namespace
{

enum { THREADS = 256 };

/* grid: (columns / THREADS, rows), block: THREADS; a thread makes one value. */
template <class T> __global__ void finish_kernel(const struct product p, const float *sums)
{
    int col = blockIdx.x * THREADS + threadIdx.x, row = blockIdx.y;
    if (col >= p.n)
        return;
    size_t at = (size_t)row * p.y_stride + col;
    const float *sum = sums + (size_t)row * (p.gated ? 2 * p.n : p.n) + col;
    float v = p.gated ? epilogue_gated<T>(p, sum[0], sum[p.n], col)
                      : epilogue_value<T>(p, sum[0], at, col);
    if (p.y_f32)
        ((float *)p.y)[at] = v;
    else
        act_store(&((T *)p.y)[at], v);
}

/* grid: (columns / (THREADS * VEC), rows), block: THREADS; a thread makes VEC values. */
template <class T, int VEC>
__global__ void gate_kernel(T *y, const T *gate_up, int n, int y_stride, enum act_kind act)
{
    int col = (blockIdx.x * THREADS + threadIdx.x) * VEC;
    if (col >= n)
        return;
    const T *from = gate_up + (size_t)blockIdx.y * 2 * n + col;
    alignas(16) T gate[VEC], up[VEC], out[VEC];
    if (VEC == 8) {
        *(uint4 *)gate = *(const uint4 *)from;
        *(uint4 *)up = *(const uint4 *)(from + n);
    } else {
        gate[0] = from[0];
        up[0] = from[n];
    }
#pragma unroll
    for (int i = 0; i < VEC; i++)
        act_store(&out[i], epilogue_gate(act, act_load(gate[i]), act_load(up[i])));
    T *to = y + (size_t)blockIdx.y * y_stride + col;
    if (VEC == 8)
        *(uint4 *)to = *(const uint4 *)out;
    else
        to[0] = out[0];
}

dim3 grid_of(const struct product *p, int vec)
{
    return dim3((unsigned)((p->n + THREADS * vec - 1) / (THREADS * vec)), (unsigned)p->rows);
}

template <class T> void gate(struct device *d, const struct product *p, const void *gate_up)
{
    if (p->n % 8 == 0 && p->y_stride % 8 == 0 && (uintptr_t)p->y % 16 == 0)
        gate_kernel<T, 8><<<grid_of(p, 8), THREADS, 0, d->stream>>>((T *)p->y, (const T *)gate_up,
                                                                    p->n, p->y_stride, p->act);
    else
        gate_kernel<T, 1><<<grid_of(p, 1), THREADS, 0, d->stream>>>((T *)p->y, (const T *)gate_up,
                                                                    p->n, p->y_stride, p->act);
}

} // namespace

/* ---- launchers ---- */

void matmul_finish(struct device *d, const struct product *p, const float *sums)
{
    if (d->act == DT_F16)
        finish_kernel<__half><<<grid_of(p, 1), THREADS, 0, d->stream>>>(*p, sums);
    else
        finish_kernel<__nv_bfloat16><<<grid_of(p, 1), THREADS, 0, d->stream>>>(*p, sums);
    CUDA_LAUNCHED(d, "product's epilogue");
}

void matmul_gate(struct device *d, const struct product *p, const void *gate_up)
{
    if (d->act == DT_F16)
        gate<__half>(d, p, gate_up);
    else
        gate<__nv_bfloat16>(d, p, gate_up);
    CUDA_LAUNCHED(d, "gated activation");
}
