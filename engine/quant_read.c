/* quant_read.c - numbers of parts that lie anywhere in a mapped file. */
#include <string.h>

#include "engine/quant_int.h"
#include "kernels/half.h"

float quant_float(const struct quant_part *p, int64_t i)
{
    float f;
    uint16_t h;
    if (p->element == ELEMENT_F32) {
        memcpy(&f, p->at + i * 4, sizeof f);
        return f;
    }
    memcpy(&h, p->at + i * 2, sizeof h);
    return p->element == ELEMENT_F16 ? f32_from_f16(h) : f32_from_bf16(h);
}

void quant_scales_across(const struct quant_matrix *m, int64_t first, int64_t n, float *to)
{
    for (int64_t g = 0; g < m->n_groups; g++)
        for (int64_t r = 0; r < n; r++)
            to[r * m->n_groups + g] = quant_float(&m->scales, g * m->weight.rows + first + r);
}

void quant_scales_along(const struct quant_matrix *m, int64_t first, int64_t n, float *to)
{
    for (int64_t i = 0; i < n * m->n_groups; i++)
        to[i] = quant_float(&m->scales, first * m->n_groups + i);
}

void quant_zeros_across(const struct quant_matrix *m, int64_t first, int64_t n,
                        const uint8_t slot[8], int16_t *to)
{
    const int bits = quant_code_bits(m), per = 32 / bits;
    const uint32_t mask = (1u << bits) - 1;
    for (int64_t g = 0; g < m->n_groups; g++) {
        for (int64_t r = first; r < first + n; r++) {
            const uint32_t word =
                quant_word_at(&m->zeros, g * m->zeros.cols + r / per) + m->zero_add;
            to[(r - first) * m->n_groups + g] = (int16_t)(word >> bits * slot[r % per] & mask);
        }
    }
}
