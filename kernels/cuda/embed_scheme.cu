/* embed_scheme.cu - rows of a quantized token table, as activations.
 *
 * The table lies in units (scheme_layout.h), as the head that it may be wants it: a row is a
 * quarter of the lanes' words of each piece, of which a thread takes one, 16 bytes. */
#include "kernels/cuda/act_type.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matmul_int.h"
#include "kernels/cuda/scheme_book.cuh"
#include "kernels/cuda/scheme_expand.cuh"

namespace {

enum { THREADS = 256, LANES_OF_ROW = 4, PIECE_BYTES = 512 };

struct embed_scheme_args {
    uint16_t *out; /* [n_tokens, cols] */
    const uint8_t *units;
    const int32_t *ids;
    const int32_t *order; /* [cols] or NULL */
    int cols, first;
    int64_t rows;
    float scale;
    struct scheme_layout l;
    expand_book book;
};

__device__ float scale_at(const embed_scheme_args &a, const uint8_t *unit, const uint8_t *tile,
                          int part, int place)
{
    if (a.l.scale == SCALE_ROW)
        return __ldg((const float *)(unit + a.l.row_scales_at) + place);
    return scale_to_f32(__ldg((const uint16_t *)(tile + a.l.scales_at) + part * UNIT_ROWS + place),
                        a.l.scale);
}

template <class PAIR, int EXPAND>
__device__ void operands_at(uint32_t operand[2], const embed_scheme_args &a, const uint8_t *tile,
                            int part, int g)
{
    uint32_t stored = 0;
    const uint8_t *at = tile + a.l.operands_at + (part * UNIT_ROWS + 2 * g) * a.l.operand_bytes;
    if (expand_operand_bytes(EXPAND) == 1)
        stored = __ldg((const uint16_t *)at);
    if (expand_operand_bytes(EXPAND) == 2)
        stored = __ldg((const uint32_t *)at);
    expand_operands<typename single_of<PAIR>::type, EXPAND>(operand, stored);
}

/* grid: [n_tokens, parts of a row]   block: [THREADS] */
template <class PAIR, int EXPAND>
__global__ void __launch_bounds__(THREADS)
    embed_scheme_kernel(const __grid_constant__ embed_scheme_args a)
{
    typedef typename single_of<PAIR>::type act;
    enum { STEPS = 4 / expand_words(EXPAND), PIECES = TILE_STEPS / STEPS };
    const int i = (int)(blockIdx.y * THREADS + threadIdx.x);
    const int t = i % LANES_OF_ROW, piece = i / LANES_OF_ROW % PIECES;
    const int tile_index = i / LANES_OF_ROW / PIECES;
    await_previous();
    const int64_t row = (int64_t)a.ids[blockIdx.x] - a.first;
    if (tile_index >= a.l.n_tiles)
        return;
    const bool has_row = row >= 0 && row < a.rows;
    const int r = has_row ? (int)(row % UNIT_ROWS) : 0, g = r % 8;
    const uint8_t *unit = a.units + (size_t)(has_row ? row / UNIT_ROWS : 0) * a.l.unit_bytes;
    const uint8_t *tile = unit + (size_t)tile_index * a.l.tile_bytes;
    const uint4 words = __ldg((const uint4 *)(tile + piece * PIECE_BYTES) + g * LANES_OF_ROW + t);
    const uint32_t w[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
        const int col = tile_index * TILE_COLS + (piece * STEPS + step) * 16 + 2 * t;
        const int part = (piece * STEPS + step) * 16 / a.l.part_k;
        const float scale =
            scale_at(a, unit, tile, part, 2 * g + r / 8) * expand_ones<act, EXPAND>();
        uint32_t operand[2], f[4];
        operands_at<PAIR, EXPAND>(operand, a, tile, part, g);
        expand_step<act, EXPAND>(f, w + step * expand_words(EXPAND), operand, a.book);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const uint32_t both = r < 8 ? f[2 * half] : f[2 * half + 1];
            const float2 v = pair_to_f32(*(const PAIR *)&both);
            PAIR to;
            pair_from_f32(&to, has_row ? scale * v.x * a.scale : 0.0f,
                          has_row ? scale * v.y * a.scale : 0.0f);
            const uint32_t bits = *(const uint32_t *)&to;
            uint16_t *out = a.out + (size_t)blockIdx.x * a.cols;
            const int at = col + 8 * half;
            if (at < a.cols)
                out[a.order ? a.order[at] : at] = (uint16_t)bits;
            if (at + 1 < a.cols)
                out[a.order ? a.order[at + 1] : at + 1] = (uint16_t)(bits >> 16);
        }
    }
}

template <class PAIR> void run(struct device *d, const embed_scheme_args *a)
{
    static void (*const kernels[EXPANDS])(embed_scheme_args) = {
        embed_scheme_kernel<PAIR, EXPAND_INT4>, embed_scheme_kernel<PAIR, EXPAND_CODEBOOK>,
        embed_scheme_kernel<PAIR, EXPAND_INT8>, embed_scheme_kernel<PAIR, EXPAND_FP8>,
        embed_scheme_kernel<PAIR, EXPAND_INT4_ZERO>, embed_scheme_kernel<PAIR, EXPAND_INT8_ZERO>};
    const int pieces = a->l.n_tiles * (TILE_COLS * a->l.bits / 64); /* 16 bytes of two rows each */
    const dim3 grid((unsigned)d->batch.n_tokens, (unsigned)((pieces + THREADS - 1) / THREADS));
    launch(d, "embed", {grid, dim3(THREADS), 0, 0}, kernels[expand_of(&a->l)], *a);
}

} // namespace

void cuda_embed_scheme(struct device *d, const struct embed_args *args)
{
    struct product p = {};
    embed_scheme_args a = {};
    matmul_take_weight(d, &p, args->table);
    scheme_layout(&a.l, p.scheme, p.in);
    a.out = (uint16_t *)args->out;
    a.units = (const uint8_t *)p.w;
    a.ids = d->batch.ids;
    a.order = p.order;
    a.cols = p.in;
    a.first = args->first;
    a.rows = p.n;
    a.scale = args->scale;
    a.book = scheme_book(d->act, p.scheme);
    with_act_type(d->act, [&](auto pair) { run<decltype(pair)>(d, &a); });
}
