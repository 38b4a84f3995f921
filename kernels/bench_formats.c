/* bench_formats.c - the formats of weights and caches that ops are timed with, and random rows of
 * them. */
#include <string.h>

#include "kernels/bench_int.h"
#include "kernels/half.h"

enum { VALUES = 1 << 20 }; /* made; the rest repeats them */

const struct bench_format bench_formats[] = {
    {.name = "16-bit", .dtype = DT_BF16, .usual = true, .in_head = true},
    {.name = "w8a16", .dtype = DT_N, .usual = true, .in_head = true},
    {.name = "int8:threshold=0", .dtype = DT_N, .usual = true},
    {.name = "int8", .dtype = DT_N, .usual = true},
    {.name = "fp8", .dtype = DT_N, .usual = true},
    {.name = "int4", .dtype = DT_N, .usual = true, .in_head = true},
    {.name = "int4:asymmetric", .dtype = DT_N},
    {.name = "nf4", .dtype = DT_N, .usual = true},
    {.name = "nf4:nested", .dtype = DT_N},
    {.name = "fp4", .dtype = DT_N, .usual = true},
    {.name = "q8_0", .dtype = DT_Q8_0, .usual = true},
    {.name = "q6_k", .dtype = DT_Q6_K, .usual = true, .in_head = true},
    {.name = "q5_k", .dtype = DT_Q5_K},
    {.name = "q4_k", .dtype = DT_Q4_K, .usual = true},
    {.name = "q3_k", .dtype = DT_Q3_K},
    {.name = "q2_k", .dtype = DT_Q2_K},
    {.name = "q5_1", .dtype = DT_Q5_1},
    {.name = "q5_0", .dtype = DT_Q5_0},
    {.name = "q4_1", .dtype = DT_Q4_1},
    {.name = "q4_0", .dtype = DT_Q4_0, .usual = true},
    {.name = NULL},
};
_Static_assert(sizeof bench_formats / sizeof bench_formats[0] <= FORMATS_MAX, "room for all");

const struct bench_cache_format bench_cache_formats[CACHE_FORMATS] = {
    {"kv-16-bit", DT_N}, {"kv-int8", DT_INT8}, {"kv-fp8", DT_FP8}};

/* ---- random values ---- */

static uint64_t next_bits(uint64_t *state) /* splitmix64 */
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    return z ^ z >> 27;
}

static float draw(uint64_t *state) /* sum of uniforms: deviation 1, never zero */
{
    const uint64_t z = next_bits(state);
    const int32_t sum = (int32_t)(z & 0xffff) + (int32_t)(z >> 16 & 0xffff) +
                        (int32_t)(z >> 32 & 0xffff) + (int32_t)(z >> 48);
    return (float)(2 * (sum - 131070) + 1) * (0.8660254f / 65536);
}

static uint8_t code_mask(enum dtype dtype) /* what no code is: NaN of E4M3, more than 4 bits */
{
    return dtype == DT_INT8 ? 0xff : dtype == DT_FP8 ? 0xf7 : 0xf;
}

static void put_value(void *to, size_t i, float sigma, enum dtype dtype, uint64_t *state)
{
    if (dtype == DT_F32)
        ((float *)to)[i] = sigma * draw(state);
    else if (dtype == DT_F16)
        ((uint16_t *)to)[i] = f32_to_f16(sigma * draw(state));
    else if (dtype == DT_BF16)
        ((uint16_t *)to)[i] = f32_to_bf16(sigma * draw(state));
    else
        ((uint8_t *)to)[i] = (uint8_t)(next_bits(state) >> 8) & code_mask(dtype);
}

/* The first bytes over and over. */
static void repeat(char *to, size_t n_first, size_t n_bytes)
{
    for (size_t done = n_first; done < n_bytes; done += n_first)
        memcpy(to + done, to, n_bytes - done < n_first ? n_bytes - done : n_first);
}

void bench_fill(void *to, size_t n_bytes, enum dtype dtype, float sigma)
{
    const size_t size = dtype == DT_F32 ? 4 : dtype == DT_F16 || dtype == DT_BF16 ? 2 : 1;
    const size_t n = n_bytes / size < VALUES ? n_bytes / size : VALUES;
    uint64_t state = 5;
    for (size_t i = 0; i < n; i++)
        put_value(to, i, sigma, dtype, &state);
    repeat(to, n * size, n_bytes);
}

/* ---- rows of weights ---- */

/* Where a block has its f16 scale, behind which the minimum is where the format has one. */
static size_t scale_at(enum dtype f)
{
    return f == DT_Q2_K ? 80 : f == DT_Q3_K ? 108 : f == DT_Q6_K ? 208 : 0;
}

static bool has_min(enum dtype f)
{
    return f == DT_Q4_1 || f == DT_Q5_1 || f == DT_Q2_K || f == DT_Q4_K || f == DT_Q5_K;
}

static void fill_blocks(char *to, size_t n_bytes, enum dtype f)
{
    const size_t block = (size_t)dtype_traits[f].block_bytes;
    const size_t some = VALUES / block * block, n = n_bytes < some ? n_bytes : some;
    const uint16_t scale = f32_to_f16(0.002f);
    bench_fill(to, n, DT_INT8, 1);
    for (size_t at = scale_at(f); at < n; at += block)
        for (size_t i = 0; i < (has_min(f) ? 2 : 1); i++)
            memcpy(to + at + 2 * i, &scale, sizeof scale);
    repeat(to, n, n_bytes);
}

void bench_fill_rows(const struct bench_format *f, void *to, int64_t n, int64_t cols)
{
    size_t n_bytes = 0;
    if (!tensor_file_bytes(f->dtype, n, cols, &n_bytes))
        return;
    if (f->dtype == DT_BF16)
        bench_fill(to, n_bytes, DT_BF16, 0.02f);
    else
        fill_blocks(to, n_bytes, f->dtype);
}

void bench_make_codes(const void *ctx, int64_t first, int64_t n, const struct scheme_rows *to)
{
    const struct bench_codes *c = ctx;
    const struct scheme *s = c->scheme;
    const size_t n_codes = (size_t)(n * c->cols),
                 n_scales = (size_t)(n * scheme_groups(s, c->cols));
    const uint8_t mask = code_mask(s->codes);
    uint64_t state = (uint64_t)first;
    size_t i = 0;
    for (; i + 8 <= n_codes; i += 8) {
        const uint64_t codes = next_bits(&state) & mask * 0x0101010101010101ull;
        memcpy(to->codes + i, &codes, 8);
    }
    for (; i < n_codes; i++)
        to->codes[i] = (uint8_t)(next_bits(&state) & mask);
    for (i = 0; i < n_scales; i++)
        to->scales[i] = 0.01f;
    for (i = 0; s->has_zero && i < n_scales; i++)
        to->zeros[i] = 8;
}
