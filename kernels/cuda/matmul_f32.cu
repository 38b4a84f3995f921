/* matmul_f32.cu - products whose weights, activations and results are all f32, without tensor
 * cores.
 *
 * k is dealt out in fours to 8 lanes: lane i has k % 32 in [4 i, 4 i + 4), and sums its products in
 * order of k by fused multiply-adds; the lanes' sums are then added as ((0 + 1) + (2 + 3)) +
 * ((4 + 5) + (6 + 7)).  A width that is no multiple of 32 ends in zeros.  That is the order of both
 * kernels, so a row has the same bits whatever the number of rows:
 *
 *   few     8 neighbouring threads are the lanes of one column of y, for up to 16 rows of x: each
 *           weight is read once, 128 bytes of a row of w together
 *   many    8 warps are the lanes of a tile of 64 x 64, so that each has all of the tile's sums
 * over its part of k in registers; they meet in shared memory at the end
 *
 * Requires: `in` is a multiple of 4, and rows of x and w are aligned to 16 bytes. */
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matmul_int.h"

namespace
{

constexpr int LANES = 8, STEP = 4 * LANES; /* of k */
constexpr int FEW_THREADS = 128, FEW_COLS = FEW_THREADS / LANES;
constexpr int FEW_ROWS_MAX = 16, FEW_PASSES = 2; /* more rows than these are many */

constexpr int THREADS = 256, WARP = 32, EDGE = 64, STAGES = 2;
constexpr int PITCH = STEP + 4; /* floats from row to row: 8 rows lie in different banks */
constexpr int ROW_LANES = 8, COL_LANES = WARP / ROW_LANES; /* of a warp, over a tile */
constexpr int THREAD_ROWS = EDGE / ROW_LANES, THREAD_COLS = EDGE / COL_LANES;
constexpr int ROUND = EDGE * EDGE / THREAD_ROWS; /* sums of a tile that meet at a time */

static_assert(THREADS == WARP * LANES, "a warp is a lane");
static_assert(LANES * ROUND <= STAGES * 2 * EDGE * PITCH, "sums meet where x and w were");

/* ---- the end of a sum ---- */

/* Not inlined: both kernels are to have the same bits.  0.5 + 0.5 erf would lose what is left of
 * large negative values, and tanh likewise. */
__device__ __noinline__ float activate_f32(enum act_kind kind, float x)
{
    switch (kind) {
    case ACT_SILU:
        return __fdiv_rn(x, __fadd_rn(1, expf(-x)));
    case ACT_GELU:
        return __fmul_rn(__fmul_rn(0.5f, x), erfcf(__fmul_rn(x, -0.70710678f)));
    case ACT_GELU_TANH: {
        const float cubic = __fmaf_rn(__fmul_rn(x, x), 0.044715f, 1);
        return __fdiv_rn(x, __fadd_rn(1, expf(__fmul_rn(__fmul_rn(x, cubic), -1.5957691f))));
    }
    case ACT_RELU:
        return x < 0 ? 0 : x;
    default:
        return x;
    }
}

/* The rule of matmul_int.h. */
__device__ inline void finish(const struct product &p, int row, int col, float sum)
{
    const size_t at = (size_t)row * p.y_stride + col;
    float *y = (float *)p.y + at;
    if (p.bias)
        sum = __fadd_rn(sum, p.bias[col]);
    if (p.gate_in_y)
        sum = __fmul_rn(activate_f32(p.act, *y), sum);
    else if (p.act != ACT_NONE)
        sum = activate_f32(p.act, sum);
    if (p.add)
        sum = __fadd_rn(sum, ((const float *)p.add)[at]);
    *y = sum;
}

__device__ inline float add_four(float sum, float4 x, float4 w)
{
    sum = __fmaf_rn(x.x, w.x, sum);
    sum = __fmaf_rn(x.y, w.y, sum);
    sum = __fmaf_rn(x.z, w.z, sum);
    return __fmaf_rn(x.w, w.w, sum);
}

/* ---- few rows ---- */

/* grid: [columns / FEW_COLS, rows / ROWS]   block: [FEW_THREADS]
 * 8 threads have a column; rows and columns beyond the last ones are the last ones, and not written
 */
template <int ROWS>
__global__ void __launch_bounds__(FEW_THREADS, 4) few_kernel(const struct product p)
{
    constexpr int AHEAD = ROWS <= 4 ? 8 : 4; /* steps whose weights are asked for together */
    const int lane = (int)threadIdx.x % LANES, first = (int)blockIdx.y * ROWS;
    const int col = (int)blockIdx.x * FEW_COLS + (int)threadIdx.x / LANES;
    const float *w = (const float *)p.w + (size_t)min(col, p.n - 1) * p.in;
    const float *x = (const float *)p.x + (size_t)first * p.in;
    const int last = p.rows - 1 - first;
    float sum[ROWS] = {};
    await_previous();
    for (int step = 0; step < p.in; step += AHEAD * STEP) {
        float4 v[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const int k = step + i * STEP + lane * 4;
            v[i] = k < p.in ? __ldcs((const float4 *)(w + k)) : float4();
        }
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const int k = step + i * STEP + lane * 4;
            if (step + i * STEP >= p.in)
                break;
#pragma unroll
            for (int r = 0; r < ROWS; r++)
                sum[r] = add_four(
                    sum[r], k < p.in ? *(const float4 *)(x + min(r, last) * p.in + k) : float4(),
                    v[i]);
        }
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
#pragma unroll
        for (int apart = 1; apart < LANES; apart *= 2)
            sum[r] = __fadd_rn(sum[r], __shfl_xor_sync(0xffffffffu, sum[r], apart));
        if (lane == r % LANES && first + r < p.rows && col < p.n)
            finish(p, first + r, col, sum[r]);
    }
}

template <int ROWS> void launch_few(struct device *d, const struct product *p)
{
    const dim3 grid((unsigned)((p->n + FEW_COLS - 1) / FEW_COLS),
                    (unsigned)((p->rows + ROWS - 1) / ROWS));
    launch(d, "matmul_f32", {grid, dim3(FEW_THREADS), 0, 0}, few_kernel<ROWS>, *p);
}

/* ---- many rows ---- */

struct tiles {
    float x[EDGE][PITCH], w[EDGE][PITCH]; /* STEP of k */
};

union many_shared {
    struct tiles stage[STAGES];
    float sum[LANES][ROUND];
};

/* Rows from `first` on, STEP of k: zeros beyond `rows` and `in`. */
__device__ inline void fetch(float (*to)[PITCH], const float *from, int first, int rows, int k,
                             int in)
{
    for (int i = (int)threadIdx.x; i < EDGE * LANES; i += THREADS) {
        const int row = i / LANES, at = k + i % LANES * 4;
        const bool here = first + row < rows && at < in;
        cp_async_16(shared_addr(&to[row][i % LANES * 4]),
                    here ? from + (size_t)(first + row) * in + at : from, here ? 16 : 0);
    }
}

/* A lane's four of k: rows ty, ty + 8, ... and columns tx, tx + 4, ... of the tile. */
__device__ inline void multiply(float sum[THREAD_ROWS][THREAD_COLS], const struct tiles &t,
                                int lane, int ty, int tx)
{
    float4 x[THREAD_ROWS];
#pragma unroll
    for (int i = 0; i < THREAD_ROWS; i++)
        x[i] = *(const float4 *)&t.x[ty + i * ROW_LANES][lane * 4];
#pragma unroll
    for (int j = 0; j < THREAD_COLS; j++) {
        const float4 w = *(const float4 *)&t.w[tx + j * COL_LANES][lane * 4];
#pragma unroll
        for (int i = 0; i < THREAD_ROWS; i++)
            sum[i][j] = __fmaf_rn(x[i].x, w.x, sum[i][j]);
#pragma unroll
        for (int i = 0; i < THREAD_ROWS; i++)
            sum[i][j] = __fmaf_rn(x[i].y, w.y, sum[i][j]);
#pragma unroll
        for (int i = 0; i < THREAD_ROWS; i++)
            sum[i][j] = __fmaf_rn(x[i].z, w.z, sum[i][j]);
#pragma unroll
        for (int i = 0; i < THREAD_ROWS; i++)
            sum[i][j] = __fmaf_rn(x[i].w, w.w, sum[i][j]);
    }
}

/* The lanes' sums of value `at` of a round, in their order. */
__device__ inline float join(const float sum[LANES][ROUND], int at)
{
    float v[LANES];
#pragma unroll
    for (int i = 0; i < LANES; i++)
        v[i] = sum[i][at];
#pragma unroll
    for (int apart = 1; apart < LANES; apart *= 2)
#pragma unroll
        for (int i = 0; i < LANES; i += 2 * apart)
            v[i] = __fadd_rn(v[i], v[i + apart]);
    return v[0];
}

/* grid: [rows / EDGE, columns / EDGE]   block: [THREADS]
 * neighbouring blocks share their part of w */
__global__ void __launch_bounds__(THREADS) many_kernel(const struct product p)
{
    __shared__ __align__(16) union many_shared shared;
    const int lane = (int)threadIdx.x / WARP; /* of k */
    const int ty = (int)threadIdx.x % ROW_LANES, tx = (int)threadIdx.x % WARP / ROW_LANES;
    const int row = (int)blockIdx.x * EDGE, col = (int)blockIdx.y * EDGE;
    const int n_steps = (p.in + STEP - 1) / STEP;
    float sum[THREAD_ROWS][THREAD_COLS] = {};

    await_previous();
    auto fetch_step = [&](int i) {
        struct tiles &t = shared.stage[i % STAGES];
        if (i < n_steps) {
            fetch(t.x, (const float *)p.x, row, p.rows, i * STEP, p.in);
            fetch(t.w, (const float *)p.w, col, p.n, i * STEP, p.in);
        }
        cp_async_commit();
    };
    for (int i = 0; i < STAGES - 1; i++)
        fetch_step(i);
    for (int i = 0; i < n_steps; i++) {
        fetch_step(i + STAGES - 1);
        cp_async_wait<STAGES - 1>();
        __syncthreads();
        multiply(sum, shared.stage[i % STAGES], lane, ty, tx);
        __syncthreads(); /* before it is fetched over */
    }
    cp_async_wait<0>();
#pragma unroll
    for (int i = 0; i < THREAD_ROWS; i++) {
        __syncthreads();
#pragma unroll
        for (int j = 0; j < THREAD_COLS; j++)
            shared.sum[lane][j * WARP + (int)threadIdx.x % WARP] = sum[i][j];
        __syncthreads();
        for (int at = (int)threadIdx.x; at < ROUND; at += THREADS) {
            const int r = row + i * ROW_LANES + at % ROW_LANES;
            const int c = col + at / WARP * COL_LANES + at % WARP / ROW_LANES;
            if (r < p.rows && c < p.n)
                finish(p, r, c, join(shared.sum, at));
        }
    }
}

void launch_many(struct device *d, const struct product *p)
{
    const dim3 grid((unsigned)((p->rows + EDGE - 1) / EDGE), (unsigned)((p->n + EDGE - 1) / EDGE));
    launch(d, "matmul_f32", {grid, dim3(THREADS), 0, 0}, many_kernel, *p);
}

} /* namespace */

/* ---- launcher ---- */

void matmul_f32(struct device *d, const struct product *p)
{
    if (p->rows <= 0)
        return;
    if (p->rows == 1)
        launch_few<1>(d, p);
    else if (p->rows == 2)
        launch_few<2>(d, p);
    else if (p->rows <= 4)
        launch_few<4>(d, p);
    else if (p->rows <= 8)
        launch_few<8>(d, p);
    else if (p->rows <= FEW_PASSES * FEW_ROWS_MAX)
        launch_few<FEW_ROWS_MAX>(d, p);
    else
        launch_many(d, p);
}
