/* act8_list.cu - the columns with high bytes by themselves, of activations and of weights.
 *
 * Behind act8_quantize.cu, which noted them in a bit mask.  Each block finds the list in the mask
 * (at most a few thousand bits) and copies these columns of some rows: of the weights 32 bytes are
 * fetched for each byte wanted, which for the few columns of outliers is still a small part of the
 * matrix. */
#include "kernels/cuda/act8.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matmul_int.h"

namespace
{

enum { THREADS = 128, WARPS = THREADS / 32, ROWS = 32 /* of a block */, STEP = 32 /* of wgmma */ };

struct list_args {
    struct act8_list list;
    const uint8_t *high; /* [rows, stride] */
    const uint8_t *w, *w_up;
    int rows, stride, words, in;
    int row_blocks, w_blocks; /* of the activations, of each w */
};

/* Sum of n of the threads before this one; *all = of all. */
__device__ inline int block_before(int n, int *all)
{
    __shared__ int warp_sum[WARPS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int sum = n, before = 0;
#pragma unroll
    for (int by = 1; by < 32; by *= 2) {
        const int from = __shfl_up_sync(0xffffffffu, sum, by);
        sum += lane >= by ? from : 0;
    }
    if (lane == 31)
        warp_sum[warp] = sum;
    __syncthreads();
    *all = 0;
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
        before += w < warp ? warp_sum[w] : 0;
        *all += warp_sum[w];
    }
    return before + sum - n;
}

/* Columns with a bit in the mask, ascending, as far as `column` goes; how many there are. */
__device__ inline int columns_of(const uint32_t *mask, int n_words, int *column)
{
    const int each = (n_words + THREADS - 1) / THREADS;
    const int first = min((int)threadIdx.x * each, n_words), end = min(first + each, n_words);
    int n = 0, all;
    for (int i = first; i < end; i++)
        n += __popc(mask[i]);
    int at = block_before(n, &all);
    for (int i = first; i < end && n > 0; i++)
        for (uint32_t bits = mask[i]; bits; bits &= bits - 1, at++)
            if (at < ACT8_LIST_MAX)
                column[at] = i * 32 + __ffs(bits) - 1;
    __syncthreads();
    return all;
}

__device__ void copy_high(const list_args &a, int first, const int *column, int n)
{
    const int width = (n + STEP - 1) / STEP * STEP;
    for (int i = threadIdx.x; i < ROWS * width; i += THREADS) {
        const int row = first + i / width, k = i % width;
        if (row < a.rows)
            a.list.high[(size_t)row * ACT8_LIST_MAX + k] =
                k < n ? a.high[(size_t)row * a.stride + column[k]] : 0;
    }
}

/* A warp has a column of 32 rows, which lie in 4 KiB of memory, and asks for several columns at a
 * time; rows are put together in shared memory.  Behind the last column is anything: it meets
 * zeros. */
__device__ void copy_weights(const uint8_t *w, uint8_t *to, const list_args &a, int first,
                             const int *column, int n)
{
    enum { PITCH = ACT8_LIST_MAX + 4 /* no two rows in a bank */, ASKED = 8 };
    __shared__ __align__(4) uint8_t listed[ROWS * PITCH];
    const uint8_t *group = w + act8_bytes(first / ACT8_GROUP * ACT8_GROUP, a.in);
    const int row = threadIdx.x % 32, words = (n + 3) / 4;
    for (int k = threadIdx.x / 32 * ASKED; k < n; k += WARPS * ASKED) {
        uint8_t code[ASKED];
#pragma unroll
        for (int i = 0; i < ASKED; i++)
            code[i] = k + i < n
                          ? __ldg(group + act8_code_at(first % ACT8_GROUP + row, column[k + i]))
                          : 0;
#pragma unroll
        for (int i = 0; i < ASKED; i++)
            if (k + i < n)
                listed[row * PITCH + k + i] = code[i];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < ROWS * words; i += THREADS) {
        const int r = i / words, at = i % words * 4;
        *(uint32_t *)(to + (size_t)(first + r) * ACT8_LIST_MAX + at) =
            *(const uint32_t *)(listed + r * PITCH + at);
    }
}

/* grid: [blocks of rows, then of the rows of each w]   block: [THREADS] */
__global__ void __launch_bounds__(THREADS) list_kernel(const list_args a)
{
    __shared__ int column[ACT8_LIST_MAX];
    depend_launch(); /* the product behind this waits before it reads anything */
    depend_wait();
    const int n = columns_of(a.list.mask, a.words, column), block = (int)blockIdx.x;
    if (block == 0 && threadIdx.x == 0)
        *a.list.n = n;
    if (n == 0 || n > ACT8_LIST_MAX)
        return;
    if (block < a.row_blocks) {
        copy_high(a, block * ROWS, column, n);
        return;
    }
    const int of_w = block - a.row_blocks, part = of_w / a.w_blocks;
    copy_weights(part ? a.w_up : a.w, part ? a.list.w_up : a.list.w, a, of_w % a.w_blocks * ROWS,
                 column, n);
}

int divide_up(int a, int b)
{
    return (a + b - 1) / b;
}

} // namespace

void act8_list_columns(struct device *d, const struct product *p, const struct act8_rows *rows)
{
    list_args a = {};
    a.list = *rows->list;
    a.rows = rows->rows;
    a.in = rows->in;
    a.stride = act8_stride(a.in);
    a.high = rows->codes + (size_t)a.rows * a.stride;
    a.w = (const uint8_t *)p->w;
    a.w_up = (const uint8_t *)p->w_up;
    a.words = act8_mask_words(a.in);
    a.row_blocks = divide_up(a.rows, ROWS);
    a.w_blocks = divide_up(p->n, ROWS);
    const int blocks = a.row_blocks + (p->w_up ? 2 : 1) * a.w_blocks;
    launch(d, "list columns of outliers", {dim3((unsigned)blocks), dim3(THREADS), 0, 0},
           list_kernel, a);
}
