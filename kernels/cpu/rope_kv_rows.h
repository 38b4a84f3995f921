/* rope_kv_rows.h - turns one head, and writes one row to the cache. */
#include "kernels/cpu/rows.h"
#include "kernels/cpu/vec.h"

#include <float.h>

static void rope_neox(float *x, const struct rope_angles *angles, int half)
{
    for (int i = 0; i < half; i += VEC_N) {
        int n = smaller(half - i, VEC_N);
        vf a = vf_load_n(x + i, n), b = vf_load_n(x + half + i, n);
        vf c = vf_load_n(angles->cos + i, n), s = vf_load_n(angles->sin + i, n);
        vf_store_n(x + i, vf_sub(vf_mul(a, c), vf_mul(b, s)), n);
        vf_store_n(x + half + i, vf_add(vf_mul(b, c), vf_mul(a, s)), n);
    }
}

static void rope_adjacent(float *x, const struct rope_angles *angles, int dims)
{
#if defined(__AVX2__)
    for (int i = 0; i < dims; i += VEC_N) {
        int n = smaller(dims - i, VEC_N);
        vf a = vf_load_n(x + i, n);
        vf c = vf_load_n(angles->cos + i, n), s = vf_load_n(angles->sin + i, n);
        vf_store_n(x + i, vf_add(vf_mul(a, c), vf_mul(vf_swap_pairs(a), s)), n);
    }
#else
    for (int i = 0; i < dims; i += 2) {
        float a = x[i], b = x[i + 1];
        x[i] = a * angles->cos[i] + b * angles->sin[i];
        x[i + 1] = b * angles->cos[i + 1] + a * angles->sin[i + 1];
    }
#endif
}

static void rope(float *x, const struct rope_angles *angles, enum rope_kind kind, int dims)
{
    if (kind == ROPE_NEOX)
        rope_neox(x, angles, dims / 2);
    else
        rope_adjacent(x, angles, dims);
}

static void kv_store(char *dst, const float *src, int n, enum dtype dtype)
{
    if (dtype == DT_F32) {
        memcpy(dst, src, (size_t)n * sizeof *src);
        return;
    }
    uint16_t *out = (uint16_t *)dst;
    int i = 0;
    for (; i + VEC_N <= n; i += VEC_N) {
        if (dtype == DT_F16)
            vf_store_f16(out + i, vf_load(src + i));
        else
            vf_store_bf16(out + i, vf_load(src + i));
    }
    for (; i < n; i++)
        out[i] = dtype == DT_F16 ? f32_to_f16(src[i]) : f32_to_bf16(src[i]);
}

/* log2 of 2 `half` such steps multiply by the Hadamard matrix, all in the same places. */
static void add_halves(float *restrict y, const float *restrict x, int half)
{
    for (int i = 0; i < half; i++) {
        y[2 * i] = x[i] + x[i + half];
        y[2 * i + 1] = x[i] - x[i + half];
    }
}

/* In blocks, and over the root of their size: the turn that ops.h defines. */
static void hadamard(float *x, int n)
{
    const int block = n & -n;
    const float scale = 1 / sqrtf((float)block);
    float step[2][HEAD_DIM_MAX];
    for (int first = 0; first < n; first += block) {
        const float *from = x + first;
        for (int i = 0; 1 << i < block; i++) {
            add_halves(step[i % 2], from, block / 2);
            from = step[i % 2];
        }
        for (int i = 0; i < block; i++)
            x[first + i] = from[i] * scale;
    }
}

/* A number's place as an integer: what is added makes the last place of the sum 1. */
static uint8_t int8_code(float x) /* |x| <= 127 */
{
    return (uint8_t)f32_to_bits(x + 0x1.8p23f);
}

/* The scale of a row by which its largest magnitude becomes `limit`. */
static float kv_scale(const float *x, int n, float limit)
{
    vf top = vf_set(0.0f), nan = vf_set(0.0f);
    for (int i = 0; i < n; i += VEC_N) {
        vf v = vf_load_n(x + i, smaller(n - i, VEC_N));
        top = vf_max(top, vf_max(v, vf_sub(vf_set(0.0f), v)));
        nan = vf_note_nan(nan, v);
    }
    float scale = vf_top(top) / limit;
    if (vf_any_nan(nan) || isinf(scale))
        return NAN;
    return scale < FLT_MIN ? 0 : scale;
}

static float kv_quantize(char *dst, const float *src, int n, enum dtype dtype)
{
    uint8_t *out = (uint8_t *)dst;
    float scale = kv_scale(src, n, dtype == DT_INT8 ? 127.0f : 448.0f);
    if (!(scale > 0)) {
        memset(out, 0, (size_t)n);
    } else if (dtype == DT_INT8) {
        for (int i = 0; i < n; i++)
            out[i] = int8_code(src[i] / scale);
    } else {
        for (int i = 0; i < n; i++)
            out[i] = f32_to_e4m3(src[i] / scale);
    }
    return scale;
}
