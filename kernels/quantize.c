/* quantize.c - one row of floats to the codes of a scheme.
 *
 * The inner loops have no calls and no branches, so that a compiler makes vectors of them. */
#include "kernels/quantize.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "kernels/half.h"

enum { INFINITE_BITS = 0x7f800000 };

/* A float between 2^23 and 2^24 has no fraction, so adding this rounds to an even whole number. */
static const float ROUNDER = 12582912.0F; /* 1.5 * 2^23 */

/* The bits of the largest magnitude; INFINITE_BITS or more <=> some value is not finite.  Floats
 * that are not negative are ordered as their bits are. */
static int32_t largest_bits(const float *x, int64_t n)
{
    int32_t largest = 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bits &= 0x7fffffff;
        largest = bits > largest ? bits : largest;
    }
    return largest;
}

/* ---- INT8 ---- */

static void code_int8(const float *x, int64_t n, float largest, uint8_t *codes, float *scale)
{
    const float by = 1.0F / largest * 127.0F;
    *scale = largest / 127.0F;
    if (!isfinite(by)) {
        memset(codes, 128, (size_t)n);
        return;
    }
    for (int64_t i = 0; i < n; i++)
        codes[i] = (uint8_t)((int32_t)(x[i] * by + ROUNDER - ROUNDER) + 128);
}

/* ---- NF4 and FP4 ---- */

/* The codes of FP4 by value.  Its two zeros: what is above 0 and nearest to it is the negative one,
 * because that is where a sort of the codebook puts it. */
static const uint8_t fp4_order[16] = {11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3};

/* The middles between neighbours, to which a value must be greater to pass. */
static void find_bounds(enum dtype codebook, float bounds[15])
{
    for (int i = 0; i < 15; i++) {
        const float low = codebook == DT_NF4 ? scheme_nf4[i] : scheme_fp4[fp4_order[i]];
        const float high = codebook == DT_NF4 ? scheme_nf4[i + 1] : scheme_fp4[fp4_order[i + 1]];
        bounds[i] = (low + high) / 2;
    }
}

static void code_by_bounds(const float *x, int64_t n, float largest, const float bounds[15],
                           uint8_t *codes)
{
    const float by = 1.0F / (largest < 1e-38F ? 1e-38F : largest);
    for (int64_t i = 0; i < n; i++) {
        const float v = x[i] * by;
        int32_t code = 0;
        for (int b = 0; b < 15; b++)
            code += v > bounds[b];
        codes[i] = (uint8_t)code;
    }
}

static void code_codebook(enum dtype codebook, const float *x, int64_t n, float largest,
                          uint8_t *codes, float *scale)
{
    float bounds[15];
    find_bounds(codebook, bounds);
    code_by_bounds(x, n, largest, bounds, codes);
    if (codebook == DT_FP4)
        for (int64_t i = 0; i < n; i++)
            codes[i] = fp4_order[codes[i]];
    *scale = largest;
}

/* ---- INT4 ---- */

static float round_scale(enum dtype type, float v)
{
    const float f16_max = 65504, f16_epsilon = 0x1p-10F, bf16_epsilon = 0x1p-7F;
    if (type == DT_F16) {
        v = f32_from_f16(f32_to_f16(v < f16_max ? v : f16_max));
        return v > 0 ? v : f16_epsilon;
    }
    if (type == DT_BF16) {
        v = f32_from_bf16(f32_to_bf16(v));
        return v > 0 ? v : bf16_epsilon;
    }
    return v > 0 ? v : FLT_EPSILON;
}

static void find_range(const float *x, int64_t n, float *min, float *max)
{
    float low = 0, high = 0;
    for (int64_t i = 0; i < n; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    *min = low;
    *max = high;
}

/* Codes are the observer's -8..7, plus 8. */
static void code_int4(const struct scheme *s, const float *x, int64_t n, float largest,
                      uint8_t *codes, float *scale, int16_t *zero)
{
    float wide = largest / 7.5F, z = 0, min, max;
    if (s->has_zero) {
        find_range(x, n, &min, &max);
        wide = (max - min) / 15.0F;
        z = wide > 0 ? -8.0F - min / wide : 0;
        z = (z < -8 ? -8 : z > 7 ? 7 : z) + ROUNDER - ROUNDER;
        *zero = (int16_t)(z + 8);
    }
    const float by = *scale = round_scale(s->scale, wide);
    for (int64_t i = 0; i < n; i++) {
        float v = x[i] / by + z;
        v = v < -8 ? -8 : v;
        v = v > 7 ? 7 : v;
        codes[i] = (uint8_t)((int32_t)(v + ROUNDER - ROUNDER) + 8);
    }
}

/* ---- FP8 ---- */

static void code_fp8(const float *x, int64_t n, float largest, uint8_t *codes, float *scale)
{
    const float max = 448;
    const float by = *scale = round_scale(DT_F32, largest / max);
    for (int64_t i = 0; i < n; i++) {
        float v = x[i] / by;
        v = v < -max ? -max : v;
        v = v > max ? max : v;
        codes[i] = f32_to_e4m3(v);
    }
}

/* ---- rows ---- */

static void code_group(const struct scheme *s, const float *x, int64_t n, float largest,
                       uint8_t *codes, float *scale, int16_t *zero)
{
    switch (s->codes) {
    case DT_INT8:
        code_int8(x, n, largest, codes, scale);
        break;
    case DT_INT4:
        code_int4(s, x, n, largest, codes, scale, zero);
        break;
    case DT_FP8:
        code_fp8(x, n, largest, codes, scale);
        break;
    default:
        code_codebook(s->codes, x, n, largest, codes, scale);
        break;
    }
}

/* What stands where a value is not finite: zeros. */
static void code_nothing(const struct scheme *s, int64_t n, uint8_t *codes, float *scale,
                         int16_t *zero)
{
    memset(codes, s->codes == DT_INT8 ? 128 : s->codes == DT_INT4 ? 8 : 0, (size_t)n);
    *scale = 0;
    if (zero)
        *zero = 8;
}

bool quantize_row(const struct scheme *s, const float *row, int64_t cols,
                  const struct scheme_rows *to)
{
    const int64_t n_groups = scheme_groups(s, cols), n = cols / n_groups;
    bool finite = true;
    for (int64_t g = 0; g < n_groups; g++) {
        const int32_t bits = largest_bits(row + g * n, n);
        int16_t *zero = to->zeros ? &to->zeros[g] : NULL;
        if (bits < INFINITE_BITS)
            code_group(s, row + g * n, n, f32_from_bits((uint32_t)bits), to->codes + g * n,
                       &to->scales[g], zero);
        else
            code_nothing(s, n, to->codes + g * n, &to->scales[g], zero);
        finite = finite && bits < INFINITE_BITS;
    }
    return finite;
}

bool quantize_row_scales(const struct scheme *s, const float *row, int64_t cols, float *scales)
{
    const int64_t n_groups = scheme_groups(s, cols), n = cols / n_groups;
    int32_t largest = 0;
    for (int64_t g = 0; g < n_groups; g++) {
        const int32_t bits = largest_bits(row + g * n, n);
        scales[g] = f32_from_bits((uint32_t)bits);
        largest = bits > largest ? bits : largest;
    }
    return largest < INFINITE_BITS;
}
