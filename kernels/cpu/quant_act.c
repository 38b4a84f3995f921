/* quant_act.c - activations rounded to 8 bits, 32 at a time, in plain C.
 *
 * The largest magnitude of a block becomes 127.  Magnitudes are compared as integers, which
 * puts NaN above infinity above every number, so that neither can hide. */
#include <math.h>

#include "kernels/cpu/act_form.h"
#include "kernels/half.h"

static void round_block(const float *x, float scale, float d, struct act_block *out)
{
    /* Adding 1.5 * 2^23 rounds to a whole number, ties to even, and leaves it in the low bits. */
    const float round = 0x1.8p23f;
    int sum[2] = {0, 0};
    for (int i = 0; i < QUANT_BLOCK; i++) {
        int q = (int)(f32_to_bits(x[i] * scale + round) - f32_to_bits(round));
        out->q[i] = (int8_t)q;
        sum[i / 16] += q;
    }
    out->d = d;
    out->q_sum = sum[0] + sum[1];
    out->sum = d * (float)out->q_sum;
    out->half[0] = d * (float)sum[0];
    out->half[1] = d * (float)sum[1];
}

static void quantize(const float *x, int cols, struct act_block *out)
{
    static const float zeros[QUANT_BLOCK];
    for (int b = 0; b < cols / QUANT_BLOCK; b++, x += QUANT_BLOCK, out++) {
        uint32_t top = 0;
        for (int i = 0; i < QUANT_BLOCK; i++) {
            uint32_t bits = f32_to_bits(x[i]) & 0x7fffffff;
            top = bits > top ? bits : top;
        }
        float max = f32_from_bits(top);
        if (max < ACT_TINY)
            round_block(zeros, 0, 0, out);
        else if (top >= 0x7f800000)
            round_block(zeros, 0, NAN, out);
        else
            round_block(x, 1 / (max / 127), max / 127, out);
    }
}

static uint32_t split(const float *x, int32_t limit, float *rest)
{
    uint32_t mask = 0;
    for (int i = 0; i < QUANT_BLOCK; i++) {
        const bool is_outlier = (int32_t)(f32_to_bits(x[i]) & 0x7fffffff) >= limit;
        mask |= (uint32_t)is_outlier << i;
        rest[i] = is_outlier ? 0 : x[i];
    }
    return mask;
}

/* Adding 2^20 times a value's power of two leaves three bits behind the point; below 2^-6 the steps
 * stay those of 2^-6. */
static void round_e4m3(const float *x, float scale, float d, float *out)
{
    const uint32_t largest = 0x43e00000, least = 121U << 23; /* 448 and 2^-6 */
    for (int i = 0; i < QUANT_BLOCK; i++) {
        const uint32_t bits = f32_to_bits(x[i] * scale), sign = bits & 0x80000000;
        const uint32_t top = bits - sign < largest ? bits - sign : largest;
        const uint32_t power = top & 0x7f800000;
        const float shift = f32_from_bits((power < least ? least : power) + (20U << 23));
        const float near = f32_from_bits(top) + shift - shift;
        out[i] = f32_from_bits(f32_to_bits(near) | sign) * d;
    }
}

const struct act_rounding act_rounding_scalar = {
    .quantize = quantize, .round = round_block, .split = split, .e4m3 = round_e4m3};
