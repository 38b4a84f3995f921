/* Every tile of the wide products of quantized weights, by blocks alone and by two that bring x for
 * both, has the bits of the largest by blocks alone, which test_scheme.c holds to what they should
 * be.  That asks for products and has what is chosen for them; here each cut is asked for, of few
 * rows, on few SMs, so that a block has several tiles, and some that it shares.
 *
 *     gpu_test_wide [small]     small: bf16 alone, and of each product half of the cuts */
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "kernels/cuda/cuda_int.h"
#include "kernels/cuda/matmul_scheme_sm90.h"
#include "kernels/cuda/scheme_layout.h"
#include "kernels/half.h"
#include "tests/cudasim/random.h"

namespace
{

enum { ROWS_MAX = 300, SKIPPED = 77 };

const struct scheme schemes[] = {
    {.codes = DT_INT4, .group = 128, .scale = DT_F16},
    {.codes = DT_INT8, .scale = DT_F32},
    {.codes = DT_NF4, .group = 64, .scale = DT_F32},
    {.codes = DT_INT4, .group = 64, .scale = DT_BF16}, /* two chains a tile */
    {.codes = DT_INT8, .group = 128, .scale = DT_BF16},
    {.codes = DT_INT4, .group = 128, .scale = DT_F16, .has_zero = true},
    {.codes = DT_INT4, .group = 64, .scale = DT_F16, .has_zero = true},
    {.codes = DT_INT4},
    {.codes = DT_FP4, .group = 64, .scale = DT_F32},
};
enum { SCHEMES = sizeof schemes / sizeof schemes[0], SCHEMES_WHOLE = 4 /* of all shapes */ };

/* of x; of the weights: more tiles than SMs, the last of a pair with few rows or none */
struct shape {
    int rows, n, in;
};
const struct shape shapes[] = {{33, 1104, 128}, {200, 584, 640}, {ROWS_MAX, 200, 1152}};
/* Of which 31 of 56 cuts hand on sums on five SMs, all tiles of 144 rows and more among them. */
const struct shape shared = {161, 656, 4096};

void check(cudaError_t e)
{
    if (e == cudaSuccess)
        return;
    fprintf(stderr, "%s\n", cudaGetErrorString(e));
    abort();
}

template <class T> T *put(const std::vector<T> &from)
{
    T *at;
    check(cudaMalloc((void **)&at, from.size() * sizeof(T)));
    check(cudaMemcpy(at, from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice));
    check(cudaDeviceSynchronize()); /* a stream that does not block waits for no copy */
    return at;
}

template <class T> std::vector<T> get(const T *from, size_t n)
{
    std::vector<T> v(n);
    check(cudaMemcpy(v.data(), from, n * sizeof(T), cudaMemcpyDeviceToHost));
    return v;
}

sim::random_source random_bits;

uint16_t *random_values(enum dtype act, size_t n)
{
    std::vector<uint16_t> v(n);
    for (auto &one : v) {
        const float f = (float)random_bits.below(2001) * 0.001F - 1;
        one = act == DT_F16 ? f32_to_f16(f) : f32_to_bf16(f);
    }
    return put(v);
}

uint8_t *random_weight(const struct scheme *s, enum dtype act, const struct shape *of)
{
    std::vector<uint8_t> codes((size_t)of->n * of->in);
    std::vector<float> scales((size_t)of->n * (size_t)scheme_groups(s, of->in));
    std::vector<int16_t> zeros(s->has_zero ? scales.size() : 0);
    for (auto &v : codes)
        v = (uint8_t)random_bits.below(s->codes == DT_INT8 ? 256 : 16);
    for (auto &v : scales)
        v = 0.0001F * (float)(1 + random_bits.below(1000));
    for (auto &v : zeros)
        v = (int16_t)(5 + random_bits.below(6));
    const struct scheme_rows rows = {codes.data(), scales.data(),
                                     s->has_zero ? zeros.data() : nullptr};
    std::vector<uint8_t> w(scheme_units_bytes(s, of->n, of->in));
    scheme_pack(s, act, of->in, &rows, of->n, w.data());
    return put(w);
}

struct device device_of(const cudaDeviceProp &prop, enum dtype act, int sm_count)
{
    struct device d = {};
    d.sm_count = sm_count;
    d.cc = prop.major * 10 + prop.minor;
    d.act = act;
    check(cudaStreamCreateWithFlags(&d.stream, cudaStreamNonBlocking));
    d.partials = put(std::vector<float>(scheme_wide_sums_bytes(sm_count) / sizeof(float)));
    d.tiles_given = put(std::vector<int32_t>(scheme_wide_given_words(sm_count)));
    return d;
}

/* y of a cut, the same product twice: what one leaves, the next one finds. */
std::vector<uint16_t> product_of(struct device *d, struct product p, struct scheme_wide_cut cut)
{
    const size_t n = (size_t)p.rows * (size_t)p.n;
    uint16_t *y = put(std::vector<uint16_t>(n, 0xffff));
    p.y = y;
    for (int i = 0; i < 2; i++)
        matmul_scheme_sm90_cut(d, &p, cut);
    check(cudaStreamSynchronize(d->stream));
    check(d->fault);
    for (int32_t given : get(d->tiles_given, scheme_wide_given_words(d->sm_count)))
        if (given) {
            fprintf(stderr, "sums that nobody took\n");
            abort();
        }
    const std::vector<uint16_t> v = get(y, n);
    check(cudaFree(y));
    return v;
}

/* Of the cuts every one from the first on, or every second: those in pairs (0) or alone (1). */
int check_product(struct device *d, const struct scheme *s, const struct shape *of, bool gated,
                  int first, int every)
{
    struct product p = {};
    p.x = random_values(d->act, (size_t)of->rows * of->in);
    p.rows = of->rows;
    p.in = of->in;
    p.n = p.y_stride = of->n;
    p.scheme = s;
    p.w = random_weight(s, d->act, of);
    p.w_up = gated ? random_weight(s, d->act, of) : nullptr;
    p.act = gated ? ACT_SILU : ACT_NONE;
    p.add = gated ? nullptr : random_values(d->act, (size_t)of->rows * of->n);
    const std::vector<uint16_t> want = product_of(d, p, {SCHEME_TILE_128_256, 1});
    int bad = 0;
    for (int i = first; i < 2 * SCHEME_TILES; i += every) {
        const struct scheme_wide_cut cut = {(enum scheme_wide_tile)(i / 2), 2 - i % 2};
        if (!scheme_wide_has(cut.tile, gated) || product_of(d, p, cut) == want)
            continue;
        printf("FAIL %s %s, %d rows, n %d, in %d%s: tile %d, clusters of %d, %d SMs\n",
               dtype_traits[d->act].name, dtype_traits[s->codes].name, of->rows, of->n, of->in,
               gated ? ", gated" : "", cut.tile, cut.cluster, d->sm_count);
        bad++;
    }
    for (const void *at : {p.x, (const void *)p.w, (const void *)p.w_up, p.add})
        check(cudaFree((void *)at));
    return bad;
}

int check_act(const cudaDeviceProp &prop, enum dtype act, bool small)
{
    struct device d[] = {device_of(prop, act, 2), device_of(prop, act, 5)};
    int bad = 0;
    for (int s = 0; s < SCHEMES; s++) {
        if (!small || s == 1)
            bad += check_product(&d[1], &schemes[s], &shared, false, 0, 1);
        for (int i = 0; i < 3; i++)
            for (int gated = 0; gated <= 1; gated++)
                if (!small || s < SCHEMES_WHOLE || i == s % 3)
                    bad += check_product(&d[(i + gated) % 2], &schemes[s], &shapes[i], gated,
                                         small ? (s + i + gated) % 2 : 0, small ? 2 : 1);
    }
    printf("%s %s: every tile has the bits of the largest\n", bad ? "FAIL" : "ok  ",
           dtype_traits[act].name);
    return bad;
}

} // namespace

int main(int argc, char **argv)
{
    const bool small = argc > 1 && strcmp(argv[1], "small") == 0;
    cudaDeviceProp prop;
    if (cudaGetDeviceProperties(&prop, 0) != cudaSuccess || prop.major != 9) {
        printf("skipped: no GPU of compute capability 9.0\n");
        return SKIPPED;
    }
    int bad = check_act(prop, DT_BF16, small);
    if (!small)
        bad += check_act(prop, DT_F16, small);
    return bad != 0;
}
