/* quantize.h - rows of floats become codes, scales and zero points: scheme.h backwards.
 *
 * Round to nearest, without data to calibrate on.  The rules are those of the libraries that made
 * the formats known, to the bit, so that a checkpoint comes out as theirs would:
 *
 *     INT8      bitsandbytes: a = largest magnitude; scale = a / 127 and
 *               code = 128 + round(x * (1 / a * 127)).  A row so small that 127 / a overflows is
 *               all zeros, as there
 *     NF4, FP4  bitsandbytes: scale = a = largest magnitude; the codebook's entry nearest to
 *               x * (1 / max(a, 1e-38)), of two equally near the lower
 *     INT4      compressed-tensors' min-max observer: symmetric, scale = a / 7.5; with zero
 *               points, scale = (max - min) / 15 and zero = round(-min / scale), 0 being within
 *               [min, max].  The scale is then rounded to the scheme's type (0 becomes its
 *               epsilon), and code = round(x / scale + zero), clamped
 *     FP8       the same observer: scale = a / 448 (0 becomes FLT_EPSILON),
 *               code = e4m3(x / scale)
 *
 * Rounding is to nearest, ties to even.  All of it is float arithmetic without contraction, so
 * every machine and every thread count gives the same bits.
 *
 * Thread: pure; any. */
#ifndef KERNELS_QUANTIZE_H
#define KERNELS_QUANTIZE_H

#include "kernels/scheme.h"

/* One row; of a nested scheme the scales are the largest magnitudes, which nested_round() rounds.
 * False when a value is NaN or infinite: `to` is then some row of the scheme. */
bool quantize_row(const struct scheme *s, const float *row, int64_t cols,
                  const struct scheme_rows *to);

/* The scales of a quantize_row of a nested scheme alone.  False as there. */
bool quantize_row_scales(const struct scheme *s, const float *row, int64_t cols, float *scales);

/* Nested scales (bitsandbytes' compress_statistics): the scales of a whole matrix, row after row,
 * less their mean, are 8-bit codes in blocks of NESTED_BLOCK:
 *
 *     scale = map[code] * absmax[block] + offset */
struct nested {
    float offset;
    float *absmax;           /* [nested_blocks(n)] the caller's */
    float map[NESTED_CODES]; /* ascending; the dynamic map of Dettmers 2015 */
};

/* Offset, absmax and map for the n > 0 scales of a matrix. */
void nested_make(struct nested *x, const float *scales, int64_t n);

/* Scales [first, first + n) of the matrix become what their codes stand for; `codes` may be NULL.
 */
void nested_round(const struct nested *x, int64_t first, int64_t n, float *scales, uint8_t *codes);

#endif
