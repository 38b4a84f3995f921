/* quant_act.c - activations rounded to 8 bits, 32 at a time, in plain C.
 *
 * The largest magnitude of a block becomes 127.  Magnitudes are compared as integers, which
 * puts NaN above infinity above every number, so that neither can hide. */
#include <math.h>

#include "kernels/cpu/matmul_int.h"
#include "kernels/half.h"

static void quantize_block(const float *x, float d, struct act_block *out)
{
    /* Adding 1.5 * 2^23 rounds to a whole number, ties to even, and leaves it in the low bits. */
    const float round = 0x1.8p23f;
    float scale = d > 0 ? 1 / d : 0;
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

void act_quantize_scalar(const float *x, int cols, struct act_block *out)
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
            quantize_block(zeros, 0, out);
        else if (top >= 0x7f800000)
            quantize_block(zeros, NAN, out);
        else
            quantize_block(x, max / 127, out);
    }
}
