/* random_blocks.h - rows of GGUF's block formats from random bits, their f16 scales of a given
 * size; and the 16-bit values that block_layout.h says are made of them.
 *
 * Thread: one. */
#ifndef TESTS_RANDOM_BLOCKS_H
#define TESTS_RANDOM_BLOCKS_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/half.h"
#include "kernels/quant_block.h"
#include "kernels/tensor.h"

static inline uint32_t random_blocks_bits(void)
{
    static uint64_t x = 88172645463325252ull;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return (uint32_t)(x >> 32);
}

/* Where a block has its f16 scale, behind which the minimum is where the format has one. */
static inline size_t random_blocks_scale_at(enum dtype f)
{
    return f == DT_Q2_K ? 80 : f == DT_Q3_K ? 108 : f == DT_Q6_K ? 208 : 0;
}

static inline bool random_blocks_has_min(enum dtype f)
{
    return f == DT_Q4_1 || f == DT_Q5_1 || f == DT_Q2_K || f == DT_Q4_K || f == DT_Q5_K;
}

/* n_bytes of whole blocks, the caller's to free; scales and minima of either sign, up to `scale`.
 */
static inline uint8_t *random_blocks(enum dtype f, size_t n_bytes, float scale)
{
    uint8_t *to = malloc(n_bytes);
    const size_t block = (size_t)dtype_traits[f].block_bytes;
    if (!to)
        abort();
    for (size_t i = 0; i < n_bytes; i++)
        to[i] = (uint8_t)random_blocks_bits();
    for (size_t b = 0; b < n_bytes; b += block)
        for (int i = 0; i < (random_blocks_has_min(f) ? 2 : 1); i++) {
            const float part = (float)(random_blocks_bits() % 2000) / 1000 - 1;
            const uint16_t v = f32_to_f16(scale * part);
            memcpy(to + b + random_blocks_scale_at(f) + 2 * i, &v, sizeof v);
        }
    return to;
}

/* A scale with which rows of `cols` values times normal ones make sums of about 1. */
static inline float random_blocks_scale(enum dtype f, int64_t cols)
{
    const float largest = f == DT_Q8_0                   ? 64.0F
                          : f == DT_Q4_0 || f == DT_Q4_1 ? 8.0F
                          : f == DT_Q5_0 || f == DT_Q5_1 ? 16.0F
                          : f == DT_Q2_K                 ? 15.0F
                          : f == DT_Q3_K                 ? 50.0F
                          : f == DT_Q5_K                 ? 400.0F
                          : f == DT_Q6_K                 ? 2000.0F
                                                         : 200.0F;
    return 2 / largest / sqrtf((float)cols);
}

static inline double half_rounded(double v)
{
    return (double)f32_from_f16(f32_to_f16((float)v));
}

/* Value i of a block as f16 arithmetic makes it. */
static inline double random_blocks_half(enum dtype f, const struct quant_block *b, int i)
{
    const struct quant_traits *t = &quant_traits[f];
    const double d = (double)f32_from_f16(b->d), m = t->has_min ? (double)f32_from_f16(b->m) : 0;
    const int q = t->bits == 8 ? (int8_t)b->q[i] : b->q[i] - t->offset;
    if (!t->has_sc)
        return half_rounded(d * q + m);
    return half_rounded(d * half_rounded((double)b->sc[i / 16] * q) -
                        (t->has_min ? half_rounded(m * b->mn[i / 16]) : 0));
}

/* A row as fragments hold it, for activations in bf16 or f16. */
static inline void random_blocks_values(enum dtype f, bool bf16, const void *row, int64_t cols,
                                        float *dst)
{
    for (int64_t i = 0; i < cols; i++) {
        struct quant_block b;
        quant_block_read(f, row, i / QUANT_BLOCK, &b);
        const float v = (float)random_blocks_half(f, &b, (int)(i % QUANT_BLOCK));
        dst[i] = bf16 ? f32_from_bf16(f32_to_bf16(v)) : v;
    }
}

#endif
