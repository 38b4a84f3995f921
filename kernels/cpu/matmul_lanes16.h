/* matmul_lanes16.h - what matmul_tile.h needs, for AVX-512 with and without VNNI: 16 lanes.
 *
 * Without VNNI the arithmetic is that of matmul_avx2.c; with it four products go straight to
 * 32 bits and nothing can overflow. */
#ifndef KERNELS_CPU_MATMUL_LANES16_H
#define KERNELS_CPU_MATMUL_LANES16_H

#include <immintrin.h>

#define LANES 16
#define VI    __m512i
#define VF    __m512

static inline VI vi_load(const void *p)
{
    return _mm512_loadu_si512(p);
}

static inline VI vi_set1(char v)
{
    return _mm512_set1_epi8(v);
}

static inline VI vi_bcast4(const int8_t *p)
{
    int32_t v;
    __builtin_memcpy(&v, p, 4);
    return _mm512_set1_epi32(v);
}

static inline VI vi_and(VI a, VI b)
{
    return _mm512_and_si512(a, b);
}

static inline VI vi_or(VI a, VI b)
{
    return _mm512_or_si512(a, b);
}

static inline VI vi_add32(VI a, VI b)
{
    return _mm512_add_epi32(a, b);
}

static inline VI vi_shr16(VI a, int n) /* left if n < 0 */
{
    return n >= 0 ? _mm512_srl_epi16(a, _mm_cvtsi32_si128(n))
                  : _mm512_sll_epi16(a, _mm_cvtsi32_si128(-n));
}

#ifdef __AVX512VNNI__
#define DOT_SPAN(bits) 8

static inline VI dot_u(VI sum, VI w, VI x)
{
    return _mm512_dpbusd_epi32(sum, w, x);
}

static inline VI dot_widen(VI sum)
{
    return sum;
}

/* Signed weights are made unsigned by adding 128, which the start of the sum takes back. */
static inline VI dot_s_weights(VI w)
{
    return _mm512_xor_si512(w, vi_set1((char)0x80));
}

static inline VI dot_s_start(int32_t x_sum)
{
    return _mm512_set1_epi32(-128 * x_sum);
}

static inline VI dot_s(VI sum, VI w, VI x)
{
    return dot_u(sum, w, x);
}
#else
#define DOT_SPAN(bits) ((bits) <= 4 ? 8 : (bits) == 5 ? 4 : 2)

static inline VI dot_u(VI sum, VI w, VI x)
{
    sum = _mm512_add_epi16(sum, _mm512_maddubs_epi16(w, x));
    __asm__("" : "+v"(sum)); /* else gcc regroups the sums into trees and runs out of registers */
    return sum;
}

static inline VI dot_widen(VI sum)
{
    return _mm512_madd_epi16(sum, _mm512_set1_epi16(1));
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
    VI negated = _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(w), _mm512_setzero_si512(), x);
    return _mm512_add_epi32(sum,
                            dot_widen(dot_u(_mm512_setzero_si512(), _mm512_abs_epi8(w), negated)));
}
#endif

static inline VF vf_load(const void *p)
{
    return _mm512_loadu_ps(p);
}

static inline void vf_store(float *p, VF v)
{
    _mm512_storeu_ps(p, v);
}

static inline VF vf_set1(float v)
{
    return _mm512_set1_ps(v);
}

static inline VF vf_add(VF a, VF b)
{
    return _mm512_add_ps(a, b);
}

static inline VF vf_mul(VF a, VF b)
{
    return _mm512_mul_ps(a, b);
}

static inline VF vf_fma(VF a, VF b, VF c)
{
    return _mm512_fmadd_ps(a, b, c);
}

static inline VF vf_from_i32(VI v)
{
    return _mm512_cvtepi32_ps(v);
}

static inline VF vf_from_f16(const uint8_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p));
}

static inline VF vf_from_bf16(const uint8_t *p)
{
    VI wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

static inline VF vf_from_bf16_of(VI v, int i)
{
    return _mm512_castsi512_ps(i == 0 ? _mm512_slli_epi32(v, 16)
                                      : _mm512_and_si512(v, _mm512_set1_epi32((int)0xffff0000)));
}

static inline VF vf_from_u8(const uint8_t *p)
{
    return vf_from_i32(_mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)p)));
}

static inline VF vf_from_i8(const uint8_t *p)
{
    return vf_from_i32(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)p)));
}

static inline VF vf_from_u4(const uint8_t *p, int shift)
{
    VI wide = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)p));
    wide = _mm512_srl_epi32(wide, _mm_cvtsi32_si128(shift));
    return vf_from_i32(_mm512_and_si512(wide, _mm512_set1_epi32(15)));
}

static inline VF vf_from_u8_of(VI v, int i) /* byte i of each lane */
{
    VI moved = _mm512_srl_epi32(v, _mm_cvtsi32_si128(8 * i));
    return vf_from_i32(_mm512_and_si512(moved, _mm512_set1_epi32(255)));
}

static inline VF vf_from_s8_of(VI v, int i)
{
    VI moved = _mm512_sll_epi32(v, _mm_cvtsi32_si128(24 - 8 * i));
    return vf_from_i32(_mm512_srai_epi32(moved, 24));
}

static inline VF vf_from_nibble(VI v, int shift)
{
    VI moved = _mm512_srl_epi32(v, _mm_cvtsi32_si128(shift));
    return vf_from_i32(_mm512_and_si512(moved, _mm512_set1_epi32(15)));
}

struct book {
    VF values;
};

static inline struct book book_open(const float *values)
{
    return (struct book){_mm512_loadu_ps(values)};
}

static inline void book_read(const struct book *b, VI v, int high, VF *to)
{
    for (int i = 0; i < 4; i++) { /* the permute reads 4 bits alone */
        VI moved = _mm512_srl_epi32(v, _mm_cvtsi32_si128(8 * i + 4 * high));
        to[i] = _mm512_permutexvar_ps(moved, b->values);
    }
}

/* As f16, whose exponent begins 8 lower; its subnormals cost nothing to convert. */
#define E4M3_UNIT 256.0f

static inline VF vf_from_e4m3(const uint8_t *p, int i)
{
    __m256i v = _mm256_loadu_si256((const void *)p);
    v = _mm256_srai_epi16(i == 0 ? _mm256_slli_epi16(v, 8) : v, 1);
    return _mm512_cvtph_ps(_mm256_and_si256(v, _mm256_set1_epi16((short)0xbf80)));
}

#endif
