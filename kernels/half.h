/* half.h - floats of 16 bits to float and back, and float to E4M3, in plain C.
 *
 * f16 is IEEE 754 binary16, bf16 the upper half of a float, E4M3 the float of 8 bits that scheme.h
 * reads.  Rounding is to nearest, ties to even; a NaN of 16 bits stays one, and quiet.  Kernels
 * with hardware conversion give the same bits. */
#ifndef KERNELS_HALF_H
#define KERNELS_HALF_H

#include <stdint.h>
#include <string.h>

static inline float f32_from_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline uint32_t f32_to_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static inline float f32_from_bf16(uint16_t h)
{
    return f32_from_bits((uint32_t)h << 16);
}

static inline float f32_from_f16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = h & 0x7fff;
    if (rest >= 0x7c00) /* infinity and NaN: the exponent is all ones in both */
        return f32_from_bits(sign | 0x7f800000 | rest << 13 | (rest > 0x7c00 ? 0x400000 : 0));
    if (rest < 0x0400) /* subnormal: a whole number of 2^-24, exact in a float */
        return f32_from_bits(sign | f32_to_bits((float)rest * 0x1p-24f));
    return f32_from_bits(sign | ((rest << 13) + ((127 - 15) << 23)));
}

static inline uint16_t f32_to_bf16(float f)
{
    uint32_t bits = f32_to_bits(f);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline uint16_t f32_to_f16(float f)
{
    uint32_t bits = f32_to_bits(f), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
    if (rest > 0x7f800000)
        return (uint16_t)(sign | 0x7e00 | (rest >> 13 & 0x3ff));
    if (rest >= 0x477ff000) /* 65520 and more round to infinity */
        return (uint16_t)(sign | 0x7c00);
    if (rest < 0x38800000) { /* below 2^-14: adding 0.5 leaves multiples of 2^-24 in the fraction */
        float shifted = f32_from_bits(rest) + 0.5f;
        return (uint16_t)(sign | (f32_to_bits(shifted) - 0x3f000000));
    }
    return (uint16_t)(sign | ((rest + 0xfff + (rest >> 13 & 1) - (112u << 23)) >> 13));
}

/* Of a magnitude of at most 448.  From 2^-6 on three bits of mantissa are left of a float's; below,
 * codes are multiples of 2^-9, which is what is left of a float near 2^14.  No branch: loops over
 * it become vectors. */
static inline uint8_t f32_to_e4m3(float f)
{
    const uint32_t bits = f32_to_bits(f), rest = bits & 0x7fffffff;
    const uint32_t normal = ((rest + 0x7ffff + (rest >> 20 & 1)) >> 20) - (120u << 3);
    const uint32_t tiny = f32_to_bits(f32_from_bits(rest) + 0x1p14f) - f32_to_bits(0x1p14f);
    return (uint8_t)((bits >> 24 & 0x80) | (rest < f32_to_bits(0x1p-6f) ? tiny : normal));
}

#endif
