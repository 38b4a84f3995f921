/* act8.h - products of 8-bit activations with 8-bit weights (ACTS_INT8, ACTS_OUTLIERS, ACTS_FP8).
 *
 * A row of activations becomes codes and a scale.  Sums of int8 are of integers, exact in any
 * order, so neither the rows beside it nor the way that a product takes can change a row's bits:
 *
 *     t = (float)sum(code w) * scale
 *
 * Under ACTS_OUTLIERS the scale is that of the values below the threshold, and the others are
 * integers of the same step, with 16 bits: code = 256 * high + low, of which low is -128 .. 127. So
 * an outlier is off by half a step at most, like every value beside it; less than bf16 tells apart
 * from three times the threshold on.  Where the largest outlier would not fit, or the sum of a row
 * with many of them not 32 bits, the step is larger (act8_row_scale).  The high bytes are a second
 * product, of the few columns that have any (act8_high.cuh):
 *
 *     t = (float)(256 * sum(high w) + sum(low w)) * scale
 *
 * E4M3 is no such luck: the tensor cores drop bits.  A sum is one wgmma chain over each 128 k, from
 * zero, and these are added in f32 in order.  (mma.sync of E4M3 is made of other instructions and
 * gives other bits; nobody uses it.)
 *
 *     t = (((0 + c0) + c1) + ...) * scale
 *
 * Then v = t * scale of the column, and matmul_int.h says what becomes of v.  A row with a NaN or
 * an infinity is NaN.
 *
 * Thread: the device's. */
#ifndef KERNELS_CUDA_ACT8_H
#define KERNELS_CUDA_ACT8_H

#include "kernels/cuda/act8_layout.h"
#include "kernels/cuda/cuda_int.h"

enum { ACT8_CODE_MAX = 127 * 256 + 127 };

/* Bytes from one row of codes to the next: what the copy engine can step over. */
ACT8_INLINE int act8_stride(int in)
{
    return (in + 15) / 16 * 16;
}

/* Words of a mask of columns: those of whole chunks. */
ACT8_INLINE int act8_mask_words(int in)
{
    return act8_chunks(in) * (ACT8_CHUNK / 32);
}

/* Rows from one column of high bytes to the next: whole tiles, and pairs of them where there are
 * several. */
ACT8_INLINE int act8_high_stride(int rows)
{
    return rows <= 128 ? 128 : (rows + 255) / 256 * 256;
}

/* Words that count readers: of the mask, and two of each tile of rows. */
ACT8_INLINE int act8_readers_words(int rows)
{
    return 1 + 2 * (act8_high_stride(rows) / 64);
}

/* Activations in 8 bits; device memory. */
struct act8_rows {
    uint8_t
        *codes;   /* [planes, rows, act8_stride(in)]: the codes or their low bytes; the high ones */
    float *scale; /* [rows] */
    int planes, rows, in;
    /* Outliers of many rows: one plane, and these, all of which are zeros before and behind a
     * product.  Else NULL. */
    uint8_t *high;     /* [in, act8_high_stride(rows)]: high bytes by column */
    uint32_t *mask;    /* [act8_mask_words(in)] of columns with high bytes */
    uint32_t *readers; /* [act8_readers_words(rows)] */
};

/* What of x becomes codes: act8_quantize.cu. */
struct act8_source {
    const void *x;                   /* [rows, in] */
    const struct norm *norm;         /* of x, or NULL */
    const struct batch_head *gather; /* row i is x[gather[i].row]; NULL <=> x[i] */
    enum act_rule rule;
    float threshold; /* ACTS_OUTLIERS */
};
void act8_quantize(struct device *, const struct act8_source *, const struct act8_rows *to);

struct product;
/* matmul_act8_skinny.cu: up to ACT8_SKINNY_ROWS_MAX rows. */
void matmul_act8_skinny(struct device *, const struct product *, const struct act8_rows *,
                        enum act_rule);
/* matmul_act8_sm90.cu: any rows; y as matmul_fits_sm90 wants it. */
void matmul_act8_sm90(struct device *, const struct product *, const struct act8_rows *,
                      enum act_rule);

#endif
