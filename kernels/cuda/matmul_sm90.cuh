/* matmul_sm90.cuh - what the wide products of matmul_sm90.cu and matmul_act8_sm90.cu share: tiles
 * and their order, the ring's turns, and the way from sums to y.
 *
 * SUMS is what a thread knows of its tile's sums: `two(part, j, high)` gives those of columns
 * 8 * j + 2 * (lane % 4) and the next, of the 8 lower or the 8 higher rows of a warp's 16; part 1
 * is a gated product's up. */
#ifndef KERNELS_CUDA_MATMUL_SM90_CUH
#define KERNELS_CUDA_MATMUL_SM90_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/act.cuh"
#include "kernels/cuda/matmul_sm90.h"
#include "kernels/cuda/ptx_cluster.cuh"
#include "kernels/cuda/tensor_map.h"

namespace
{

enum {
    TILE_M_MAX = 128,
    GROUP_M = 16, /* tiles of rows that run side by side, so that x and w stay in cache */
};

/* What happens to a tile before it is y.  The common ones hold no more code than they need: an
 * epilogue is unrolled over a tile, and one with every case in it outgrows the instruction cache,
 * at 18 us a tile. */
enum epilogue {
    EPILOGUE_STORE,
    EPILOGUE_ADD,   /* the residual */
    EPILOGUE_GATED, /* SiLU of one half times the other */
    EPILOGUE_F32,   /* the next three: TILE_RARE only */
    EPILOGUE_ANY,   /* bias, any activation, residual */
    EPILOGUE_GATED_ANY,
};
const int TILE_RARE = 128;

__host__ __device__ constexpr bool is_gated(epilogue e)
{
    return e == EPILOGUE_GATED || e == EPILOGUE_GATED_ANY;
}

struct operands {
    CUtensorMap x, x_last, w[2], y; /* x_last: of the last tile of rows, where it is not whole */
};

struct args {
    int rows, n, n_k; /* n_k: steps of TILE_K */
    int last_row;     /* of x's tiles: the first row of the last one, */
    int last_bytes;   /* and what a stage of it is; 0 <=> it is whole */
    int row_clusters; /* tiles of rows, of pairs of blocks pairs of tiles */
    int n_tiles;      /* of columns */
    const float *bias[2];
    const void *add;
    void *y;
    int y_stride;
    enum act_kind act;
};

struct tile {
    int row, n; /* first row, first column of y */
};

/* Tiles in order: GROUP_M of rows, all their columns, then the next. */
template <int TILE_M, int OUT_COLUMNS, int CLUSTER = 1>
__device__ tile tile_at(const args &a, int i, int rank = 0)
{
    const int group_rows = GROUP_M / CLUSTER;
    const int group_tiles = group_rows * a.n_tiles;
    const int group = i / group_tiles;
    const int first = group * group_rows;
    const int height = min(a.row_clusters - first, group_rows);
    const int in_group = i - group * group_tiles;
    const int row_cluster = first + in_group % height;
    return {(row_cluster * CLUSTER + rank) * TILE_M, in_group / height * OUT_COLUMNS};
}

__device__ __forceinline__ uint32_t pack(__nv_bfloat16, float lo, float hi)
{
    const __nv_bfloat162 v = __floats2bfloat162_rn(lo, hi);
    return reinterpret_cast<const uint32_t &>(v);
}
__device__ __forceinline__ uint32_t pack(__half, float lo, float hi)
{
    const __half2 v = __floats2half2_rn(lo, hi);
    return reinterpret_cast<const uint32_t &>(v);
}
__device__ __forceinline__ float2 unpack(__nv_bfloat16, uint32_t v)
{
    return {__uint_as_float(v << 16), __uint_as_float(v & 0xffff0000u)};
}
__device__ __forceinline__ float2 unpack(__half, uint32_t v)
{
    return __half22float2(reinterpret_cast<const __half2 &>(v));
}
template <typename T> __device__ __forceinline__ float2 round_two(float2 v)
{
    return unpack(T(), pack(T(), v.x, v.y));
}

/* Gives a stage back, to each block that writes into it: CLUSTER threads of those that call, whose
 * numbers t are. */
template <int CLUSTER> __device__ __forceinline__ void release(uint32_t empty, int stage, int t)
{
    if (CLUSTER == 1) {
        if (t == 0)
            mbarrier_arrive(empty + stage * 8);
    } else if (t < CLUSTER) {
        mbarrier_arrive_at(empty + stage * 8, t);
    }
}

/* By a warpgroup. */
template <int CLUSTER> __device__ __forceinline__ void release(uint32_t empty, int stage)
{
    release<CLUSTER>(empty, stage, threadIdx.x % 128);
}

struct ring {
    int stage, parity;
};

/* What is added to values `column` and the next of a row of y. */
__device__ __forceinline__ uint32_t load_add(const args &a, int row, int column)
{
    if (row >= a.rows || column >= a.n)
        return 0;
    const uint16_t *add = static_cast<const uint16_t *>(a.add) + (size_t)row * a.y_stride + column;
    return *reinterpret_cast<const uint32_t *>(add);
}

/* What is added to N columns of a thread's two rows: asked for together, as each is a wait for
 * memory. */
template <epilogue E, int N> struct added {
    uint32_t v[E == EPILOGUE_ADD ? N / 4 : 1];

    __device__ __forceinline__ void load(const args &a, tile t, int warpgroup)
    {
        const int lane = threadIdx.x % 32, warp = threadIdx.x % 128 / 32;
        const int row = t.row + warpgroup * 64 + warp * 16 + lane / 4;
        if (E == EPILOGUE_ADD)
#pragma unroll
            for (int i = 0; i < N / 4; i++)
                v[i] = load_add(a, row + i % 2 * 8, t.n + i / 2 * 8 + lane % 4 * 2);
    }

    __device__ __forceinline__ uint32_t at(const args &a, int j, int high, int row,
                                           int column) const
    {
        if (E == EPILOGUE_ADD)
            return v[2 * j + high];
        return E == EPILOGUE_ANY && a.add ? load_add(a, row, column) : 0;
    }
};

/* Values `column` and the next of a row of y, from their sums. */
template <typename T, epilogue E>
__device__ __forceinline__ float2 finish(const args &a, float2 v, uint32_t add, int column)
{
    if (E == EPILOGUE_ANY && a.bias[0]) {
        v.x += a.bias[0][min(column, a.n - 1)];
        v.y += a.bias[0][min(column + 1, a.n - 1)];
    }
    if (E == EPILOGUE_ANY && a.act != ACT_NONE) {
        v = round_two<T>(v);
        v = {activate(a.act, v.x), activate(a.act, v.y)};
    }
    if (E == EPILOGUE_ADD || (E == EPILOGUE_ANY && a.add)) {
        const float2 r = unpack(T(), add);
        v.x += r.x;
        v.y += r.y;
    }
    return v;
}

template <typename T, epilogue E>
__device__ __forceinline__ float2 finish_gated(const args &a, float2 gate, float2 up, int column)
{
    if (E == EPILOGUE_GATED_ANY && a.bias[0]) {
        gate.x += a.bias[0][min(column, a.n - 1)];
        gate.y += a.bias[0][min(column + 1, a.n - 1)];
    }
    if (E == EPILOGUE_GATED_ANY && a.bias[1]) {
        up.x += a.bias[1][min(column, a.n - 1)];
        up.y += a.bias[1][min(column + 1, a.n - 1)];
    }
    const enum act_kind act = E == EPILOGUE_GATED ? ACT_SILU : a.act;
    gate = round_two<T>(gate);
    up = round_two<T>(up);
    return {activate(act, gate.x) * up.x, activate(act, gate.y) * up.y};
}

/* Two values of one row of the tile. */
template <typename T, epilogue E, class SUMS>
__device__ __forceinline__ uint32_t value(const args &a, const SUMS &sums, int j, int high,
                                          uint32_t add, int column)
{
    const float2 v = sums.two(0, j, high);
    float2 y;
    if constexpr (is_gated(E))
        y = finish_gated<T, E>(a, v, sums.two(1, j, high), column);
    else
        y = finish<T, E>(a, v, add, column);
    return pack(T(), y.x, y.y);
}

/* Columns of a tile that leave at once, and of those the columns of a box: the widest swizzle that
 * divides them. */
__host__ __device__ constexpr int part_of(int out_columns)
{
    return out_columns <= 128 ? out_columns : out_columns / 2;
}
__host__ __device__ constexpr int box_of(int part)
{
    return part % 64 == 0 ? 64 : part % 32 == 0 ? 32 : 16;
}

/* y through shared memory, PART columns at a time in boxes of BOX columns by 64 rows, swizzled as
 * the copy engine wants: chunks of 16 bytes change places by the number of 128 bytes before them.
 */
template <typename T, int OUT_COLUMNS, int PART, epilogue E, class SUMS>
__device__ void store(const operands &o, const args &a, const SUMS &sums,
                      const added<E, OUT_COLUMNS> &add, tile t, uint32_t out, int warpgroup)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x % 128 / 32;
    const int row = t.row + warpgroup * 64 + warp * 16 + lane / 4;
    const int to_row = warp * 16 + lane % 16; /* of the matrix row this lane addresses */
    const uint32_t mine = out + warpgroup * 64 * PART * 2;
    const int BOX = box_of(PART), CHUNKS = BOX / 8;
    const int swizzle = to_row * CHUNKS / 8 % CHUNKS;
#pragma unroll
    for (int part = 0; part < OUT_COLUMNS / PART; part++) {
        if (threadIdx.x % 128 == 0)
            store_wait_read();
        barrier_sync(1 + warpgroup, 128);
#pragma unroll
        for (int jj = 0; jj < PART / 8; jj += 2) {
            const int j = part * PART / 8 + jj;
            const int column = t.n + j * 8 + lane % 4 * 2;
            const int chunk = jj + lane / 16; /* of 8 columns, that this lane addresses */
            const uint32_t to = mine + chunk / CHUNKS * (64 * BOX * 2) + to_row * BOX * 2 +
                                ((chunk % CHUNKS) ^ swizzle) * 16;
            uint32_t v[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int high = i % 2, right = i / 2, c = column + 8 * right;
                const uint32_t r = add.at(a, j + right, high, row + 8 * high, c);
                v[i] = value<T, E>(a, sums, j + right, high, r, c);
            }
            stmatrix_4(to, v[0], v[1], v[2], v[3]);
        }
        fence_proxy_async();
        barrier_sync(1 + warpgroup, 128);
        if (threadIdx.x % 128 == 0) {
#pragma unroll
            for (int c = 0; c < PART; c += BOX) {
                const int column = t.n + part * PART + c;
                if (column < a.n && t.row + warpgroup * 64 < a.rows)
                    tensor_store_2d(&o.y, mine + c * (64 * 2), column, t.row + warpgroup * 64);
            }
            store_commit();
        }
    }
}

/* y in f32, straight from registers. */
template <int TILE_N, class SUMS>
__device__ void store_f32(const args &a, const SUMS &sums, tile t, int warpgroup)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x % 128 / 32;
    const int row = t.row + warpgroup * 64 + warp * 16 + lane / 4;
    float *y = static_cast<float *>(a.y);
#pragma unroll
    for (int j = 0; j < TILE_N / 8; j++) {
        const int column = t.n + j * 8 + lane % 4 * 2;
#pragma unroll
        for (int high = 0; high < 2; high++) {
            const float2 v = sums.two(0, j, high);
            const int r = row + 8 * high;
            if (r < a.rows && column < a.n)
                y[(size_t)r * a.y_stride + column] = v.x + (a.bias[0] ? a.bias[0][column] : 0);
            if (r < a.rows && column + 1 < a.n)
                y[(size_t)r * a.y_stride + column + 1] =
                    v.y + (a.bias[0] ? a.bias[0][column + 1] : 0);
        }
    }
}

epilogue choose_epilogue(const wide_matmul *m)
{
    if (m->y_f32)
        return EPILOGUE_F32;
    if (m->w[1])
        return m->act == ACT_SILU && !m->bias[0] && !m->bias[1] ? EPILOGUE_GATED
                                                                : EPILOGUE_GATED_ANY;
    if (m->act != ACT_NONE || m->bias[0])
        return EPILOGUE_ANY;
    return m->add ? EPILOGUE_ADD : EPILOGUE_STORE;
}

} // namespace

#endif
