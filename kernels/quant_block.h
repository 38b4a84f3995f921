/* quant_block.h - the block formats of GGUF, taken apart 32 values at a time.
 *
 * Every block format is the same thing stored in different ways: small unsigned numbers
 * q, and for each group of 32 or 16 of them a scale and perhaps a minimum:
 *
 *     value = d * sc * (q - offset)              formats without a minimum
 *     value = d * sc * q + m                     q4_1, q5_1 (sc = 1)
 *     value = d * sc * q - m * mn                q2_k, q4_k, q5_k
 *
 * The products d * sc * q are exact in a float for all of them.  What the bytes mean is known
 * here and nowhere else: dequantize_row and the repacking of weights both read through this.
 *
 * Formats: GGUF specification (ggml-org/ggml, docs/gguf.md) and the `gguf` Python package. */
#ifndef KERNELS_QUANT_BLOCK_H
#define KERNELS_QUANT_BLOCK_H

#include "kernels/tensor.h"

enum { QUANT_BLOCK = 32 };

struct quant_traits {
    uint8_t bits;   /* of q; 8 means signed bytes; 0 means a plain type */
    uint8_t offset; /* subtracted from q */
    uint8_t group;  /* values that share sc and mn: 32 or 16 */
    bool has_min;   /* there is an m */
    bool has_sc;    /* d and m hold for 256 values, sc and mn for a group */
};

struct quant_block {
    uint8_t q[QUANT_BLOCK]; /* in order; signed bytes for q8_0 */
    uint16_t d, m;          /* f16 */
    int8_t sc[2];           /* of values 0..15 and 16..31; equal when the group is 32 */
    uint8_t mn[2];
};

/* In the header, so that a kernel made for one format knows it when it is compiled. */
static const struct quant_traits quant_traits[DT_ALL_N] = {
    [DT_Q4_0] = {.bits = 4, .offset = 8, .group = 32},
    [DT_Q4_1] = {.bits = 4, .group = 32, .has_min = true},
    [DT_Q5_0] = {.bits = 5, .offset = 16, .group = 32},
    [DT_Q5_1] = {.bits = 5, .group = 32, .has_min = true},
    [DT_Q8_0] = {.bits = 8, .group = 32},
    [DT_Q2_K] = {.bits = 2, .group = 16, .has_min = true, .has_sc = true},
    [DT_Q3_K] = {.bits = 3, .offset = 4, .group = 16, .has_sc = true},
    [DT_Q4_K] = {.bits = 4, .group = 32, .has_min = true, .has_sc = true},
    [DT_Q5_K] = {.bits = 5, .group = 32, .has_min = true, .has_sc = true},
    [DT_Q6_K] = {.bits = 6, .offset = 32, .group = 16, .has_sc = true},
    /* Codes of a scheme (scheme.h), whose scales lie elsewhere: how wide they are is all that holds. */
    [DT_INT4] = {.bits = 4, .group = 32},
    [DT_INT8] = {.bits = 8, .group = 32},
    [DT_NF4] = {.bits = 4, .group = 32},
    [DT_FP4] = {.bits = 4, .group = 32},
    [DT_FP8] = {.bits = 8, .group = 32},
};

/* The b-th 32 values of a row in file layout. */
void quant_block_read(enum dtype dtype, const void *row, int64_t b, struct quant_block *out);

/* Its 32 values as floats. */
void quant_block_dequantize(enum dtype dtype, const struct quant_block *b, float *dst);

#endif
