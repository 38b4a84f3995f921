/* embed_block.cu - rows of a token table in a block format, as activations.
 *
 * As embed_scheme.cu: a thread makes the four values of one step that a lane of mma would have of
 * the row, exactly (block_layout.h), scales and rounds them. */
#include "kernels/cuda/act_type.cuh"
#include "kernels/cuda/block_expand.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matmul_int.h"

namespace
{

enum { THREADS = 256, LANES_OF_ROW = 4 };

struct embed_block_args {
    uint16_t *out; /* [n_tokens, cols] */
    const uint8_t *units;
    const int32_t *ids;
    int cols, first, n_tiles;
    int64_t rows;
    float scale;
    size_t unit_bytes;
};

/* A code of 16 rows by 128 columns, of BITS bits that lie at `from`. */
template <int BITS> __device__ int code_bits(const uint8_t *from, int lane, int step, int i, int j)
{
    constexpr int STEPS = BITS == 8 ? 1 : 4 / BITS, TOGETHER = BITS == 1 ? 1 : BITS / 2;
    const int word = BITS == 8 ? 2 * step + i / 2 : step / STEPS;
    const uint32_t w = __ldg((const uint32_t *)from + word / TOGETHER * 32 * TOGETHER +
                             lane * TOGETHER + word % TOGETHER);
    const int at = BITS == 8 ? 8 * (i % 2) + 16 * j : block_bit_at(BITS, step % STEPS, i, j);
    return (int)(w >> at) & ((1 << BITS) - 1);
}

template <int FORMAT>
__device__ float code_at(const uint8_t *tile, int lane, int step, int i, int j)
{
    constexpr enum dtype f = (enum dtype)FORMAT;
    constexpr int LOW = block_low_bits(f), HIGH = block_high_bits(f);
    int code = code_bits<LOW>(tile, lane, step, i, j);
    if constexpr (HIGH > 0)
        code |= code_bits<HIGH>(tile + block_high_at(f), lane, step, i, j) << LOW;
    return (float)(LOW == 8 ? (int8_t)code : code - block_offset(f));
}

__device__ float f16_at(const uint8_t *at)
{
    return __half2float(__ushort_as_half(__ldg((const uint16_t *)at)));
}

/* Scale and minimum of row r of 16 at a step; the products are exact. */
template <int FORMAT> __device__ float2 group_at(const uint8_t *tile, int r, int step)
{
    constexpr enum dtype f = (enum dtype)FORMAT;
    const uint8_t *group =
        tile + block_groups_at(f) + (8 * (step / 2) + r % 8) * block_group_bytes(f);
    const uint8_t *super = tile + block_supers_at(f) + r % 8 * block_super_bytes(f);
    const uint8_t *scales = (block_has_super(f) ? super : group) + 2 * (r / 8);
    const float d = f16_at(scales), m = block_has_min(f) ? f16_at(scales + 4) : 0.0f;
    if constexpr (!block_has_super(f))
        return make_float2(d, m);
    const int sc = __ldg(group + r / 8 + (block_has_16(f) ? step % 2 * 2 : 0));
    if constexpr (f == DT_Q2_K)
        return make_float2(d * (float)(sc & 15), -m * (float)(sc >> 4));
    if constexpr (!block_has_min(f))
        return make_float2(d * (float)(int8_t)sc, 0.0f);
    return make_float2(d * (float)sc, -m * (float)__ldg(group + 2 + r / 8));
}

/* grid: [n_tokens, parts of a row]   block: [THREADS] */
template <class PAIR, int FORMAT>
__global__ void __launch_bounds__(THREADS) embed_block_kernel(const embed_block_args a)
{
    constexpr enum dtype f = (enum dtype)FORMAT;
    const int n = (int)(blockIdx.y * THREADS + threadIdx.x);
    const int t = n % LANES_OF_ROW, step = n / LANES_OF_ROW % TILE_STEPS;
    const int tile_index = n / LANES_OF_ROW / TILE_STEPS;
    await_previous();
    const int64_t row = (int64_t)a.ids[blockIdx.x] - a.first;
    if (tile_index >= a.n_tiles)
        return;
    const bool has_row = row >= 0 && row < a.rows;
    const int r = has_row ? (int)(row % UNIT_ROWS) : 0;
    const uint8_t *tile = a.units + (size_t)(has_row ? row / UNIT_ROWS : 0) * a.unit_bytes +
                          (size_t)tile_index * block_tile_bytes(f);
    const float2 group = group_at<FORMAT>(tile, r, step);
    const int lane = r % 8 * LANES_OF_ROW + t;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float v[2];
#pragma unroll
        for (int j = 0; j < 2; j++)
            v[j] =
                __fmaf_rn(group.x, code_at<FORMAT>(tile, lane, step, r / 8 + 2 * half, j), group.y);
        PAIR to;
        pair_from_f32(&to, has_row ? v[0] * a.scale : 0.0f, has_row ? v[1] * a.scale : 0.0f);
        const int at = tile_index * TILE_COLS + step * 16 + 2 * t + 8 * half;
        if (at < a.cols) /* and so is the next: blocks are whole */
            *(PAIR *)(a.out + (size_t)blockIdx.x * a.cols + at) = to;
    }
}

template <class PAIR, int FORMAT> void run(struct device *d, const embed_block_args *a)
{
    const int threads = a->n_tiles * TILE_STEPS * LANES_OF_ROW;
    const dim3 grid((unsigned)d->batch.n_tokens, (unsigned)((threads + THREADS - 1) / THREADS));
    launch(d, "embed", {grid, dim3(THREADS), 0, 0}, embed_block_kernel<PAIR, FORMAT>, *a);
}

template <class PAIR> void run_format(struct device *d, enum dtype f, const embed_block_args *a)
{
    static void (*const runs[DT_N])(struct device *,
                                    const embed_block_args *) = {nullptr,
                                                                 nullptr,
                                                                 nullptr,
                                                                 run<PAIR, DT_Q4_0>,
                                                                 run<PAIR, DT_Q4_1>,
                                                                 run<PAIR, DT_Q5_0>,
                                                                 run<PAIR, DT_Q5_1>,
                                                                 run<PAIR, DT_Q8_0>,
                                                                 run<PAIR, DT_Q2_K>,
                                                                 run<PAIR, DT_Q3_K>,
                                                                 run<PAIR, DT_Q4_K>,
                                                                 run<PAIR, DT_Q5_K>,
                                                                 run<PAIR, DT_Q6_K>};
    static_assert(DT_Q4_0 == 3 && DT_Q6_K == 12, "the order of enum dtype");
    runs[f](d, a);
}

} // namespace

void cuda_embed_block(struct device *d, const struct embed_args *args)
{
    struct block_layout l;
    embed_block_args a = {};
    block_layout(&l, args->table->dtype, args->table->cols);
    a.out = (uint16_t *)args->out;
    a.units = (const uint8_t *)args->table->data;
    a.ids = d->batch.ids;
    a.cols = (int)args->table->cols;
    a.first = args->first;
    a.n_tiles = l.n_tiles;
    a.rows = args->table->rows;
    a.scale = args->scale;
    a.unit_bytes = l.unit_bytes;
    with_act_type(d->act,
                  [&](auto pair) { run_format<decltype(pair)>(d, args->table->dtype, &a); });
}
