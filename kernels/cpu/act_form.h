/* act_form.h - what a weight wants of activations before it meets them.
 *
 * Plain weights take them as they are; quantized ones mostly in blocks of 8-bit numbers.  A scheme
 * may ask for more: a rule by which a row is rounded (enum act_rule), or its columns in another
 * order.  A row is brought to its form by itself, so nothing here depends on the batch.
 *
 * Thread: pure; any. */
#ifndef KERNELS_CPU_ACT_FORM_H
#define KERNELS_CPU_ACT_FORM_H

#include "kernels/cpu/cpu_int.h"
#include "kernels/quant_block.h"

/* A block whose largest magnitude is below this counts as zero: 1 / d must stay finite. */
#define ACT_TINY 1e-30f

/* 32 activations rounded to 8 bits: x = d * q, with what minima are multiplied by. */
struct act_block {
    float d;
    float sum;     /* d * (sum of q) */
    float half[2]; /* the same of values 0..15 and 16..31 */
    int32_t q_sum; /* sum of q */
    int8_t q[QUANT_BLOCK];
};

enum { ACT_PANEL_ROWS = 16 };

/* The same block of 16 rows, as a matrix unit takes it. */
struct act_panel {
    int8_t q[ACT_PANEL_ROWS][QUANT_BLOCK];
    float d[ACT_PANEL_ROWS], sum[ACT_PANEL_ROWS], half[2][ACT_PANEL_ROWS];
};

/* Behind the blocks of a row under ACTS_OUTLIERS: which of its columns are not in them. */
struct act_outliers {
    int32_t n; /* blocks with outliers, <= blocks of the row */
    struct {
        int32_t block;
        uint32_t mask; /* bit i: column 32 * block + i */
    } at[];
};

struct act_form {
    enum { FORM_AS_IS, FORM_FLOATS, FORM_BLOCKS, FORM_BF16 } kind;
    int n_planes; /* of FORM_BLOCKS; 2: the second has what the rounding of the first left */
    enum act_rule rule;
    float threshold;
    const int32_t *order; /* [cols] or NULL */
};

/* The inner loops, by instruction set. */
struct act_rounding {
    /* One row of activations to act_blocks, each with its own d; cols is a multiple of 32.  A
     * block with a NaN or an infinity gets d = NaN, so that all that depends on it is NaN too. */
    void (*quantize)(const float *x, int cols, struct act_block *out);
    /* One block with a given d: q = x * scale to the nearest, which is within 127. */
    void (*round)(const float *x, float scale, float d, struct act_block *out);
    /* Of 32 values those whose magnitude has bits below `limit`, zeros for the others; a bit for
     * each of the others. */
    uint32_t (*split)(const float *x, int32_t limit, float *rest);
    /* 32 values to E4M3 and back: d * (x * scale to the nearest, ties to even, 448 at most). */
    void (*e4m3)(const float *x, float scale, float d, float *out);
};

/* A row to bf16, a zero behind an odd number of columns; with AVX512_BF16. */
void act_round_bf16(const float *x, int cols, uint16_t *out);

extern const struct act_rounding act_rounding_scalar, act_rounding_avx2;

/* Bytes of a row in its form; 0 for FORM_AS_IS. */
size_t act_form_bytes(const struct act_form *f, int cols);

/* The most that any form takes. */
size_t act_form_bytes_max(int cols);

/* One row to its form: act_blocks (n_planes times as many; then act_outliers), or floats.  Columns
 * are padded to whole blocks with zeros. */
void act_form_row(const struct act_form *f, const struct act_rounding *isa, const float *x,
                  int cols, void *out);

/* n <= 16 rows of act_blocks, `stride` bytes apart, as panels: [blocks of a row].  Rows that are
 * missing are zeros. */
void act_panels_make(const struct act_block *rows, size_t stride, int n, int cols,
                     struct act_panel *to);

#endif
