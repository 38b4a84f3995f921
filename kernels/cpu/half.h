/* half.h - 16-bit floats in plain C: the meaning of the vector conversions.
 *
 * Rounding is to nearest, ties to even (IEEE 754); a value too large becomes infinite. */
#ifndef KERNELS_CPU_HALF_H
#define KERNELS_CPU_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint32_t float_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline float bits_float(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static inline uint16_t float_to_bf16(float x)
{
    uint32_t u = float_bits(x);
    if ((u & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(u >> 16 | 0x40); /* NaN stays NaN */
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static inline float bf16_to_float(uint16_t h)
{
    return bits_float((uint32_t)h << 16);
}

static inline uint16_t float_to_f16(float x)
{
    uint32_t u = float_bits(x), sign = u >> 16 & 0x8000;
    u &= 0x7fffffff;
    if (u > 0x7f800000)
        return (uint16_t)(sign | 0x7e00 | (u >> 13 & 0x1ff));
    if (u >= 0x477ff000) /* 65520, halfway from the largest to the next */
        return (uint16_t)(sign | 0x7c00);
    if (u < 0x38800000) /* below 2^-14: adding 0.5 leaves units of 2^-24 in the last bits */
        return (uint16_t)(sign | (float_bits(bits_float(u) + 0.5f) - 0x3f000000));
    return (uint16_t)(sign | (u - 0x38000000 + 0xfff + (u >> 13 & 1)) >> 13);
}

static inline float f16_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, u = h & 0x7fff;
    if (u >= 0x7c00) /* infinite, or NaN made quiet */
        return bits_float(sign | 0x7f800000 | u << 13 | (u > 0x7c00 ? 0x400000 : 0));
    if (u < 0x400) /* a multiple of 2^-24 */
        return bits_float(sign | float_bits((float)u * 0x1p-24f));
    return bits_float(sign | ((u << 13) + 0x38000000));
}

#endif
