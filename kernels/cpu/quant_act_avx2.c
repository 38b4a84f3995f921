/* quant_act_avx2.c - activations rounded to 8 bits, as quant_act.c does it, with AVX2. */
#include "kernels/cpu/act_form.h"

#ifdef __AVX2__
#include <immintrin.h>
#include <math.h>

#include "kernels/half.h"

static inline __m256i abs_bits(const float *x)
{
    return _mm256_and_si256(_mm256_loadu_si256((const void *)x), _mm256_set1_epi32(0x7fffffff));
}

static inline uint32_t max_bits(const float *x)
{
    __m256i v = _mm256_max_epi32(_mm256_max_epi32(abs_bits(x), abs_bits(x + 8)),
                                 _mm256_max_epi32(abs_bits(x + 16), abs_bits(x + 24)));
    __m128i h = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    h = _mm_max_epi32(h, _mm_shuffle_epi32(h, 0x4e));
    h = _mm_max_epi32(h, _mm_shuffle_epi32(h, 0xb1));
    return (uint32_t)_mm_cvtsi128_si32(h);
}

static inline __m256i round_8(const float *x, __m256 scale)
{
    return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x), scale));
}

static inline int sum_4(__m128i v)
{
    v = _mm_add_epi32(v, _mm_shuffle_epi32(v, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(v, _mm_shuffle_epi32(v, 0xb1)));
}

static void round_block(const float *x, float by, float d, struct act_block *out)
{
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256 scale = _mm256_set1_ps(by);
    __m256i low = _mm256_packs_epi32(round_8(x, scale), round_8(x + 8, scale));
    __m256i high = _mm256_packs_epi32(round_8(x + 16, scale), round_8(x + 24, scale));
    __m256i q = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
    __m256i sums =
        _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), q), _mm256_set1_epi16(1));
    int first = sum_4(_mm256_castsi256_si128(sums));
    int second = sum_4(_mm256_extracti128_si256(sums, 1));
    out->d = d;
    out->q_sum = first + second;
    out->sum = d * (float)out->q_sum;
    out->half[0] = d * (float)first;
    out->half[1] = d * (float)second;
    _mm256_storeu_si256((void *)out->q, q);
}

static void quantize(const float *x, int cols, struct act_block *out)
{
    for (int b = 0; b < cols / QUANT_BLOCK; b++, x += QUANT_BLOCK, out++) {
        uint32_t top = max_bits(x);
        float max = f32_from_bits(top), d = max / 127;
        if (max < ACT_TINY || top >= 0x7f800000) {
            d = max < ACT_TINY ? 0 : NAN;
            *out = (struct act_block){.d = d, .sum = d, .half = {d, d}};
        } else {
            round_block(x, 1 / d, d, out);
        }
    }
}

static uint32_t split(const float *x, int32_t limit, float *rest)
{
    const __m256i below = _mm256_set1_epi32(limit - 1);
    uint32_t mask = 0;
    for (int i = 0; i < QUANT_BLOCK; i += 8) {
        const __m256 outliers = _mm256_castsi256_ps(_mm256_cmpgt_epi32(abs_bits(x + i), below));
        mask |= (uint32_t)_mm256_movemask_ps(outliers) << i;
        _mm256_storeu_ps(rest + i, _mm256_andnot_ps(outliers, _mm256_loadu_ps(x + i)));
    }
    return mask;
}

static void round_e4m3(const float *x, float scale, float d, float *out)
{
    const __m256i sign = _mm256_set1_epi32((int32_t)0x80000000);
    const __m256i largest = _mm256_set1_epi32(0x43e00000), least = _mm256_set1_epi32(121 << 23);
    for (int i = 0; i < QUANT_BLOCK; i += 8) {
        const __m256i bits =
            _mm256_castps_si256(_mm256_mul_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(scale)));
        const __m256i top = _mm256_min_epi32(_mm256_andnot_si256(sign, bits), largest);
        const __m256i power = _mm256_and_si256(top, _mm256_set1_epi32(0x7f800000));
        const __m256 shift = _mm256_castsi256_ps(
            _mm256_add_epi32(_mm256_max_epi32(power, least), _mm256_set1_epi32(20 << 23)));
        const __m256 near = _mm256_sub_ps(_mm256_add_ps(_mm256_castsi256_ps(top), shift), shift);
        const __m256 q = _mm256_or_ps(near, _mm256_castsi256_ps(_mm256_and_si256(bits, sign)));
        _mm256_storeu_ps(out + i, _mm256_mul_ps(q, _mm256_set1_ps(d)));
    }
}

const struct act_rounding act_rounding_avx2 = {
    .quantize = quantize, .round = round_block, .split = split, .e4m3 = round_e4m3};
#endif
