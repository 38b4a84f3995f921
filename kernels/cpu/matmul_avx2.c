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

static inline VF vf_from_bf16_of(VI v, int i)
{
    return _mm256_castsi256_ps(i == 0 ? _mm256_slli_epi32(v, 16)
                                      : _mm256_and_si256(v, _mm256_set1_epi32((int)0xffff0000)));
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

static inline VF vf_from_nibble(VI v, int shift)
{
    return vf_from_i32(_mm256_and_si256(_mm256_srli_epi32(v, shift), _mm256_set1_epi32(15)));
}

/* The bytes of 16 floats apart: one shuffle looks up a byte of 32 values.  Two permutes of floats
 * and a blend take half as many instructions again. */
struct book {
    VI byte[4];
};

static inline struct book book_open(const float *values)
{
    uint8_t bytes[4][16], of[4];
    struct book b;
    for (int i = 0; i < 16; i++) {
        __builtin_memcpy(of, values + i, 4);
        for (int k = 0; k < 4; k++)
            bytes[k][i] = of[k];
    }
    for (int k = 0; k < 4; k++)
        b.byte[k] = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)bytes[k]));
    return b;
}

static inline void book_read(const struct book *b, VI v, int high, VF *to)
{
    /* Of each half: byte i of its four lanes together, so that widening gives columns. */
    const VI columns = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    VI index = vi_and(high ? _mm256_srli_epi16(v, 4) : v, vi_set1(15)), byte[4];
    index = _mm256_shuffle_epi8(index, columns);
    for (int k = 0; k < 4; k++)
        byte[k] = _mm256_shuffle_epi8(b->byte[k], index);
    const VI low01 = _mm256_unpacklo_epi8(byte[0], byte[1]);
    const VI low23 = _mm256_unpacklo_epi8(byte[2], byte[3]);
    const VI high01 = _mm256_unpackhi_epi8(byte[0], byte[1]);
    const VI high23 = _mm256_unpackhi_epi8(byte[2], byte[3]);
    to[0] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(low01, low23));
    to[1] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(low01, low23));
    to[2] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(high01, high23));
    to[3] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(high01, high23));
}

/* As f16, whose exponent begins 8 lower; its subnormals cost nothing to convert. */
#define E4M3_UNIT 256.0f

static inline VF vf_from_e4m3(const uint8_t *p, int i)
{
    __m128i v = _mm_loadu_si128((const void *)p);
    v = _mm_srai_epi16(i == 0 ? _mm_slli_epi16(v, 8) : v, 1);
    return _mm256_cvtph_ps(_mm_and_si128(v, _mm_set1_epi16((short)0xbf80)));
}

#include "kernels/cpu/matmul_tile.h"
#endif
