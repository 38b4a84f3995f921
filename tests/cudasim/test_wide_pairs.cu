/* What the wide products of quantized weights promise where two blocks bring x for both: the bits
 * of blocks that bring their own.  These the programs of tests/gpu hold to what they should be; few
 * SMs and short products, which those have here, take no pairs, so they are asked for. */
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "kernels/cuda/cuda_int.h"
#include "kernels/cuda/matmul_scheme_sm90.h"
#include "kernels/cuda/scheme_layout.h"
#include "kernels/half.h"
#include "tests/cudasim/random.h"

namespace
{

enum { ROWS_MAX = 300 };

const struct scheme schemes[] = {
    {.codes = DT_INT4, .group = 128, .scale = DT_F16},
    {.codes = DT_INT8, .scale = DT_F32},
    {.codes = DT_NF4, .group = 64, .scale = DT_F32},
    {.codes = DT_INT4, .group = 64, .scale = DT_BF16}, /* two chains a tile */
};

/* of x; of the weights: more tiles than SMs, the last of a pair with few rows or none */
struct shape {
    int rows, n, in;
};
const struct shape shapes[] = {{33, 1104, 256}, {200, 584, 640}, {ROWS_MAX, 200, 1152}};
const struct shape shared = {33, 1104, 2048}; /* whose pairs hand on sums */

void check(cudaError_t e)
{
    if (e == cudaSuccess)
        return;
    fprintf(stderr, "%s\n", cudaGetErrorString(e));
    abort();
}

template <class T> T *take(size_t n)
{
    T *at;
    check(cudaMalloc((void **)&at, n * sizeof(T)));
    check(cudaMemset(at, 0, n * sizeof(T)));
    return at;
}

sim::random_source random_bits;

uint16_t *random_values(size_t n)
{
    uint16_t *at = take<uint16_t>(n);
    for (size_t i = 0; i < n; i++)
        at[i] = f32_to_bf16((float)(random_bits.below(2001)) * 0.001F - 1);
    return at;
}

uint8_t *random_weight(const struct scheme *s, const struct shape *of)
{
    std::vector<uint8_t> codes((size_t)of->n * of->in);
    std::vector<float> scales((size_t)of->n * (size_t)scheme_groups(s, of->in));
    for (auto &v : codes)
        v = (uint8_t)(random_bits.below(s->codes == DT_INT8 ? 256 : 16));
    for (auto &v : scales)
        v = 0.0001F * (float)(1 + random_bits.below(1000));
    const struct scheme_rows rows = {codes.data(), scales.data(), nullptr};
    uint8_t *w = take<uint8_t>(scheme_units_bytes(s, of->n, of->in));
    scheme_pack(s, DT_BF16, of->in, &rows, of->n, w);
    return w;
}

struct device device_of(int sm_count)
{
    struct device d = {};
    d.sm_count = sm_count;
    d.cc = 90;
    d.act = DT_BF16;
    check(cudaStreamCreateWithFlags(&d.stream, cudaStreamNonBlocking));
    d.partials = take<float>(scheme_wide_sums_bytes(sm_count) / sizeof(float));
    d.tiles_given = take<int32_t>(scheme_wide_given_words(sm_count));
    return d;
}

/* y of a cut, the same product twice: what one leaves, the next one finds. */
std::vector<uint16_t> product_of(struct device *d, struct product p, struct scheme_wide_cut cut)
{
    const size_t n = (size_t)p.rows * (size_t)p.n;
    uint16_t *y = take<uint16_t>(n);
    p.y = y;
    for (int i = 0; i < 2; i++)
        matmul_scheme_sm90_cut(d, &p, cut);
    check(cudaStreamSynchronize(d->stream));
    check(d->fault);
    for (size_t i = 0; i < scheme_wide_given_words(d->sm_count); i++)
        if (d->tiles_given[i]) {
            fprintf(stderr, "sums that nobody took\n");
            abort();
        }
    const std::vector<uint16_t> v(y, y + n);
    check(cudaFree(y));
    return v;
}

/* Every tile by pairs of blocks, beside the largest by blocks alone. */
int check_product(struct device *d, const struct scheme *s, const struct shape *of, bool gated)
{
    struct product p = {};
    p.x = random_values((size_t)of->rows * of->in);
    p.rows = of->rows;
    p.in = of->in;
    p.n = p.y_stride = of->n;
    p.scheme = s;
    p.w = random_weight(s, of);
    p.w_up = gated ? random_weight(s, of) : nullptr;
    p.act = gated ? ACT_SILU : ACT_NONE;
    p.add = gated ? nullptr : random_values((size_t)of->rows * of->n);
    const std::vector<uint16_t> want = product_of(d, p, {SCHEME_TILE_128_256, 1});
    int bad = 0;
    for (int tile = 0; tile < SCHEME_TILES; tile++) {
        const struct scheme_wide_cut cut = {(enum scheme_wide_tile)tile, 2};
        if (!scheme_wide_has(cut.tile, gated) || product_of(d, p, cut) == want)
            continue;
        printf("FAIL %s, %d rows, n %d, in %d%s: tile %d, %d SMs\n", dtype_traits[s->codes].name,
               of->rows, of->n, of->in, gated ? ", gated" : "", tile, d->sm_count);
        bad++;
    }
    for (const void *at : {p.x, (const void *)p.w, (const void *)p.w_up, p.add})
        check(cudaFree((void *)at));
    return bad;
}

} // namespace

int main(void)
{
    int bad = 0;
    struct device d[] = {device_of(2), device_of(5)};
    bad += check_product(&d[1], &schemes[0], &shared, false);
    for (const struct scheme &s : schemes)
        for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
            for (int gated = 0; gated <= 1; gated++)
                bad += check_product(&d[(i + gated) % 2], &s, &shapes[i], gated);
    printf("%s pairs of blocks have the bits of blocks alone\n", bad ? "FAIL" : "ok  ");
    return bad != 0;
}
