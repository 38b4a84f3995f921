/* matmul_avx2.c - the tile multiply for AVX2, FMA and F16C: 8 lanes.
 *
 * Bytes multiply in pairs to 16 bits (vpmaddubsw).  With w <= 15 a whole block of 8 steps fits:
 * 8 * 2 * 15 * 127 = 30480; w <= 31 gives 4 steps, w <= 63 gives 2.  Signed weights move their
 * sign to x, so that a pair is at most 2 * 128 * 127 = 32512. */
#include "kernels/cpu/matmul_int.h"

#ifdef __AVX2__
#include <immintrin.h>

#define LANES          8
#define MATMUL_TILE    matmul_tile_avx2
#define VI             __m256i
#define VF             __m256
#define DOT_SPAN(bits) ((bits) <= 4 ? 8 : (bits) == 5 ? 4 : 2)

static inline VI vi_load(const void *p)
{
    return _mm256_loadu_si256(p);
}

static inline VI vi_set1(char v)
{
    return _mm256_set1_epi8(v);
}

static inline VI vi_bcast4(const int8_t *p)
{
    int32_t v;
    __builtin_memcpy(&v, p, 4);
    return _mm256_set1_epi32(v);
}

static inline VI vi_and(VI a, VI b)
{
    return _mm256_and_si256(a, b);
}

static inline VI vi_or(VI a, VI b)
{
    return _mm256_or_si256(a, b);
}

static inline VI vi_add32(VI a, VI b)
{
    return _mm256_add_epi32(a, b);
}

static inline VI vi_shr16(VI a, int n) /* left if n < 0 */
{
    return n >= 0 ? _mm256_srli_epi16(a, n) : _mm256_slli_epi16(a, -n);
}

static inline VI dot_u(VI sum, VI w, VI x)
{
    sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(w, x));
    __asm__("" : "+x"(sum)); /* else gcc regroups the sums into trees and runs out of registers */
    return sum;
}

static inline VI dot_widen(VI sum)
{
    return _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
}

static inline VI dot_s_weights(VI w)
{
    return w;
}

static inline VI dot_s_start(int32_t x_sum)
{
    (void)x_sum;
    return vi_set1(0);
}

static inline VI dot_s(VI sum, VI w, VI x)
{
    VI pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    return _mm256_add_epi32(sum, dot_widen(pairs));
}

static inline VF vf_load(const void *p)
{
    return _mm256_loadu_ps(p);
}

static inline void vf_store(float *p, VF v)
{
    _mm256_storeu_ps(p, v);
}

static inline VF vf_set1(float v)
{
    return _mm256_set1_ps(v);
}

static inline VF vf_add(VF a, VF b)
{
    return _mm256_add_ps(a, b);
}

static inline VF vf_mul(VF a, VF b)
{
    return _mm256_mul_ps(a, b);
}

static inline VF vf_fma(VF a, VF b, VF c)
{
    return _mm256_fmadd_ps(a, b, c);
}

static inline VF vf_from_i32(VI v)
{
    return _mm256_cvtepi32_ps(v);
}

static inline VF vf_from_f16(const uint8_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const void *)p));
}

static inline VF vf_from_bf16(const uint8_t *p)
{
    VI wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

static inline VF vf_from_u8(const uint8_t *p)
{
    return vf_from_i32(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)p)));
}

static inline VF vf_from_i8(const uint8_t *p)
{
    return vf_from_i32(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)p)));
}

static inline VF vf_from_u4(const uint8_t *p, int shift)
{
    VI wide = _mm256_srli_epi32(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)p)), shift);
    return vf_from_i32(_mm256_and_si256(wide, _mm256_set1_epi32(15)));
}

static inline VF vf_from_u8_of(VI v, int i) /* byte i of each lane */
{
    return vf_from_i32(_mm256_and_si256(_mm256_srli_epi32(v, 8 * i), _mm256_set1_epi32(255)));
}

static inline VF vf_from_s8_of(VI v, int i)
{
    return vf_from_i32(_mm256_srai_epi32(_mm256_slli_epi32(v, 24 - 8 * i), 24));
}

#include "kernels/cpu/matmul_tile.h"
#endif
