/* vec.h - one vector of floats, as wide as this file's instruction set has it.
 *
 * The row kernels (*_rows.h) are written once against these names and compiled three times, by
 * rows_scalar.c, rows_avx2.c and rows_avx512.c.  A vector holds VEC_N floats: 1, 8 or 16.  The
 * scalar one is the plain C reference; it uses the C library's exp and no fused operations.
 *
 * Every operation treats each lane alone and alike, so the bits of a value do not depend on its
 * place in a vector; the sums (vf_sum) have one fixed order. */
#ifndef KERNELS_CPU_VEC_H
#define KERNELS_CPU_VEC_H

#include "kernels/half.h"
#include "kernels/tensor.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

/* The 7 bits of E4M3's exponent and fraction, put behind a clear upper bit of a half's exponent,
 * are a half of 2^-8 its value, subnormal ones too: what a sign-extended byte times 128 is under
 * this mask. */
enum { E4M3_AS_HALF = (int16_t)0xbfff };

static inline float load_i8(const char *p)
{
    return (float)*(const int8_t *)p;
}

static inline float load_e4m3(const char *p)
{
    return f32_from_f16((uint16_t)((*(const int8_t *)p * 128) & E4M3_AS_HALF));
}

#if defined(__AVX2__)
static inline __m256 load8_i8(const char *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
static inline __m256 load8_e4m3(const char *p)
{
    __m128i u = _mm_slli_epi16(_mm_cvtepi8_epi16(_mm_loadl_epi64((const __m128i *)p)), 7);
    return _mm256_cvtph_ps(_mm_and_si128(u, _mm_set1_epi16(E4M3_AS_HALF)));
}
#endif

#if defined(__AVX512F__)

enum { VEC_N = 16 };
typedef __m512 vf;

static inline __mmask16 vf_mask_(int n)
{
    return (__mmask16)((1u << n) - 1);
}
#define vf_load(p)                _mm512_loadu_ps(p)
#define vf_store(p, v)            _mm512_storeu_ps(p, v)
#define vf_load_n(p, n)           _mm512_maskz_loadu_ps(vf_mask_(n), p)
#define vf_store_n(p, v, n)       _mm512_mask_storeu_ps(p, vf_mask_(n), v)
#define vf_keep_n(v, n)           _mm512_maskz_mov_ps(vf_mask_(n), v)
#define vf_set(x)                 _mm512_set1_ps(x)
#define vf_add(a, b)              _mm512_add_ps(a, b)
#define vf_sub(a, b)              _mm512_sub_ps(a, b)
#define vf_mul(a, b)              _mm512_mul_ps(a, b)
#define vf_div(a, b)              _mm512_div_ps(a, b)
#define vf_fma(a, b, c)           _mm512_fmadd_ps(a, b, c)
#define vf_max(a, b)              _mm512_max_ps(a, b)
#define vf_round(a)               _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define vf_where_less(a, b, x, y) _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), x)
#define vf_swap_pairs(a)          _mm512_permute_ps(a, 0xb1)
/* acc with NaN put in each lane where x is NaN. */
#define vf_note_nan(acc, x) _mm512_mask_mov_ps(acc, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), x)
#define vf_any_nan(a)       (_mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q) != 0)

static inline __m256 vf_low_(vf a)
{
    return _mm512_castps512_ps256(a);
}
static inline __m256 vf_high_(vf a)
{
    return _mm512_extractf32x8_ps(a, 1);
}
static inline vf vf_pow2(vf n) /* 2^n for whole n in [-126, 127] */
{
    __m512i e = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(e, 23));
}
static inline vf vf_load_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
static inline void vf_store_f16(uint16_t *p, vf a)
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
static inline vf vf_load_bf16(const uint16_t *p)
{
    __m512i u = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(u, 16));
}
static inline vf vf_load_i8(const char *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
static inline vf vf_load_e4m3(const char *p)
{
    __m256i u = _mm256_slli_epi16(_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)p)), 7);
    return _mm512_cvtph_ps(_mm256_and_si256(u, _mm256_set1_epi16(E4M3_AS_HALF)));
}

#elif defined(__AVX2__)

enum { VEC_N = 8 };
typedef __m256 vf;

static inline __m256i vf_mask_(int n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
#define vf_load(p)                _mm256_loadu_ps(p)
#define vf_store(p, v)            _mm256_storeu_ps(p, v)
#define vf_load_n(p, n)           _mm256_maskload_ps(p, vf_mask_(n))
#define vf_store_n(p, v, n)       _mm256_maskstore_ps(p, vf_mask_(n), v)
#define vf_keep_n(v, n)           _mm256_and_ps(v, _mm256_castsi256_ps(vf_mask_(n)))
#define vf_set(x)                 _mm256_set1_ps(x)
#define vf_add(a, b)              _mm256_add_ps(a, b)
#define vf_sub(a, b)              _mm256_sub_ps(a, b)
#define vf_mul(a, b)              _mm256_mul_ps(a, b)
#define vf_div(a, b)              _mm256_div_ps(a, b)
#define vf_fma(a, b, c)           _mm256_fmadd_ps(a, b, c)
#define vf_max(a, b)              _mm256_max_ps(a, b)
#define vf_round(a)               _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define vf_where_less(a, b, x, y) _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ))
#define vf_swap_pairs(a)          _mm256_permute_ps(a, 0xb1)
#define vf_note_nan(acc, x)       _mm256_or_ps(acc, _mm256_cmp_ps(x, x, _CMP_UNORD_Q))
#define vf_any_nan(a)             (_mm256_movemask_ps(_mm256_cmp_ps(a, a, _CMP_UNORD_Q)) != 0)

static inline __m256 vf_low_(vf a)
{
    return a;
}
static inline vf vf_pow2(vf n)
{
    __m256i e = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(e, 23));
}
static inline vf vf_load_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
static inline void vf_store_f16(uint16_t *p, vf a)
{
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
static inline vf vf_load_bf16(const uint16_t *p)
{
    __m256i u = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(u, 16));
}
#define vf_load_i8(p)             load8_i8(p)
#define vf_load_e4m3(p)           load8_e4m3(p)

#else

enum { VEC_N = 1 };
typedef float vf;

#define vf_load(p)                (*(p))
#define vf_store(p, v)            (*(p) = (v))
#define vf_load_n(p, n)           ((n) > 0 ? *(p) : 0.0f)
#define vf_store_n(p, v, n)       ((void)((n) > 0 && (*(p) = (v)) == 0))
#define vf_keep_n(v, n)           ((n) > 0 ? (v) : 0.0f)
#define vf_set(x)                 (x)
#define vf_add(a, b)              ((a) + (b))
#define vf_sub(a, b)              ((a) - (b))
#define vf_mul(a, b)              ((a) * (b))
#define vf_div(a, b)              ((a) / (b))
#define vf_fma(a, b, c)           ((a) * (b) + (c))
#define vf_fma_exact(a, b, c)     fmaf(a, b, c)
#define vf_where_less(a, b, x, y) ((a) < (b) ? (x) : (y))
#define vf_any_nan(a)             isnan(a)
#define vf_load_f16(p)            f32_from_f16(*(p))
#define vf_store_f16(p, v)        (*(p) = f32_to_f16(v))
#define vf_load_bf16(p)           f32_from_bf16(*(p))
#define vf_load_i8(p)             load_i8(p)
#define vf_load_e4m3(p)           load_e4m3(p)

static inline float vf_max(float a, float b)
{
    return a > b ? a : b;
}
static inline float vf_note_nan(float acc, float x)
{
    return isnan(x) ? x : acc;
}
#define vf_sum(a)                 (a)
#define vf_top(a)                 (a)
#define vf_exp(a)                 expf(a)

#endif

#if defined(__AVX2__)

#define vf_fma_exact(a, b, c) vf_fma(a, b, c) /* rounded once, also in the scalar build */

/* The sum of all lanes: halves are added until one is left. */
static inline float vf_sum(vf a)
{
#if defined(__AVX512F__)
    __m256 b = _mm256_add_ps(vf_low_(a), vf_high_(a));
#else
    __m256 b = a;
#endif
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

static inline float vf_top(vf a) /* the largest lane */
{
#if defined(__AVX512F__)
    __m256 b = _mm256_max_ps(vf_low_(a), vf_high_(a));
#else
    __m256 b = a;
#endif
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}

/* e^x.  The argument is reduced by ln 2 in two parts (Cody and Waite), and e^r = 1 + r + r^2 q(r)
 * with q fitted over |r| <= ln 2 / 2 to a relative error of 1.1e-8.  e^0 is exactly 1; below
 * 2^-126 the result is 0, above 88.376 infinite. */
static inline vf vf_exp(vf x)
{
    vf n = vf_round(vf_mul(x, vf_set(0x1.715476p+0f)));
    vf r = vf_fma(n, vf_set(-0x1.62e4p-1f), x);
    r = vf_fma(n, vf_set(-0x1.7f7d1cp-20f), r);
    vf q = vf_fma(r, vf_set(0.0013934093f), vf_set(0.008363475f));
    q = vf_fma(q, r, vf_set(0.041666459f));
    q = vf_fma(q, r, vf_set(0.16666575f));
    q = vf_fma(q, r, vf_set(0.5f));
    vf p = vf_add(vf_fma(vf_mul(q, r), r, r), vf_set(1.0f));
    vf y = vf_mul(p, vf_pow2(n));
    y = vf_where_less(x, vf_set(-87.336544f), vf_set(0.0f), y);
    return vf_where_less(vf_set(88.376f), x, vf_set(INFINITY), y);
}

/* bf16 has the rounding of integers: no instruction for it below AVX512_BF16. */
static inline void vf_store_bf16(uint16_t *p, vf a)
{
    float x[VEC_N];
    vf_store(x, a);
    for (int i = 0; i < VEC_N; i++)
        p[i] = f32_to_bf16(x[i]);
}

#else

#define vf_store_bf16(p, v) (*(p) = f32_to_bf16(v))

#endif

static inline size_t
value_bytes(enum dtype dtype) /* of a cache type; for loops it is constant in */
{
    return dtype == DT_F32 ? 4 : dtype == DT_F16 || dtype == DT_BF16 ? 2 : 1;
}

/* What 1 of the numbers below is worth, before the scale. */
static inline float code_unit(enum dtype dtype)
{
    return dtype == DT_FP8 ? 256.0f : 1.0f;
}

/* VEC_N values of a cache type at p, and one; codes where the type has scales. */
static inline vf vf_load_as(enum dtype dtype, const char *p)
{
    if (dtype == DT_F16)
        return vf_load_f16((const uint16_t *)p);
    if (dtype == DT_BF16)
        return vf_load_bf16((const uint16_t *)p);
    if (dtype == DT_INT8)
        return vf_load_i8(p);
    if (dtype == DT_FP8)
        return vf_load_e4m3(p);
    return vf_load((const float *)p);
}

static inline float load_as(enum dtype dtype, const char *p)
{
    if (dtype == DT_F16)
        return f32_from_f16(*(const uint16_t *)p);
    if (dtype == DT_BF16)
        return f32_from_bf16(*(const uint16_t *)p);
    if (dtype == DT_INT8)
        return load_i8(p);
    if (dtype == DT_FP8)
        return load_e4m3(p);
    return *(const float *)p;
}

#endif
