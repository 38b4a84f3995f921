/* scheme.h - how the numbers of a quantized matrix are stored: codes, and what each stands for.
 *
 * A matrix of a scheme is rows of codes.  `group` consecutive codes of a row share a scale:
 *
 *     value = scale * (code - zero)          INT4 (codes 0..15), INT8 (codes 0..255)
 *     value = scale * codebook[code]         NF4, FP4 (codes 0..15)
 *     value = scale * e4m3(code)             FP8 (codes are the bytes of OCP FP8 E4M3)
 *
 * computed in float, in that order.
 * What a checkpoint packs in which words is its reader's to know (engine/); what a device
 * makes of it, the device's.  Between them a matrix is struct scheme_rows.
 *
 * Sources.  NF4: Dettmers et al. 2023 (QLoRA); FP4 and nested scales: bitsandbytes; INT8 with outliers:
 * Dettmers et al. 2022 (LLM.int8()); INT4 and INT8 in groups: Frantar et al. 2023 (GPTQ), Lin et al.
 * 2024 (AWQ); FP8: Micikevicius et al. 2022.  The block formats of GGUF are in quant_block.h.
 *
 * Thread: pure; any. */
#ifndef KERNELS_SCHEME_H
#define KERNELS_SCHEME_H

#include "base/status.h"
#include "kernels/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a row of activations becomes before it meets the matrix. */
enum act_rule {
    ACTS_WIDE,     /* nothing: it stays as wide as the device's activations are */
    ACTS_INT8,     /* 8 bits, symmetric: scale = largest magnitude / 127 */
    ACTS_OUTLIERS, /* values of magnitude >= threshold stay wide and meet the dequantized column;
                      the others as ACTS_INT8; decided row by row */
    ACTS_FP8,      /* E4M3: scale = largest magnitude / 448 */
};

struct scheme {
    enum dtype codes;   /* DT_INT4 .. DT_FP8 */
    int32_t group;      /* codes of a row that share a scale; 0 = all of them */
    enum dtype scale;   /* DT_F32, DT_F16 or DT_BF16: what holds its scales without loss */
    enum dtype value;   /* DT_F32; or DT_F16, DT_BF16: what the format's own reader rounds values to,
                           and scheme_dequantize_row too; kernels need not */
    bool has_zero;      /* a zero point for each group; without, INT4 has 8 and INT8 128 */
    bool nested;        /* the scales are themselves 8-bit codes, in blocks, plus an offset */
    bool ordered;       /* the columns are permuted so that groups are consecutive (act-order) */
    enum act_rule act;
    float threshold;    /* ACTS_OUTLIERS; > 0 */
};

/* Some rows of a matrix of `cols` columns, in host memory. */
struct scheme_rows {
    uint8_t *codes;  /* [n, cols] one code a byte */
    float *scales;   /* [n, groups] nested ones too as the float they stand for */
    int16_t *zeros;  /* [n, groups] 0..256; NULL <=> !has_zero */
};

extern const float scheme_nf4[16], scheme_fp4[16]; /* codebooks, by code */

float scheme_e4m3(uint8_t code); /* NaN for 0x7f and 0xff */

/* Nested scales: how many share a scale of their own, and what their codes stand for. */
enum { NESTED_BLOCK = 256, NESTED_CODES = 256 };

/* Scales in a row. */
static inline int64_t scheme_groups(const struct scheme *s, int64_t cols)
{
    return s->group == 0 ? 1 : cols / s->group;
}

static inline int64_t nested_blocks(int64_t n_scales)
{
    return (n_scales + NESTED_BLOCK - 1) / NESTED_BLOCK;
}

/* UNSUPPORTED unless rows of `cols` fit the scheme: whole groups of a multiple of 32 columns, and an
 * even number of 4-bit codes.  The message names both numbers. */
bool scheme_check(const struct scheme *s, int64_t cols, struct status *st) MUST_CHECK;

/* Bytes of a matrix as a checkpoint would store it: codes, scales and zero points packed. */
size_t scheme_bytes(const struct scheme *s, int64_t rows, int64_t cols);

/* One row to float: the definition, and the reference for all kernels. */
void scheme_dequantize_row(const struct scheme *s, const struct scheme_rows *row, int64_t cols,
                           float *dst);

/* What a person writes, `NAME[:OPTION[=VALUE]...]`, as a scheme for quantizing on load:
 *
 *     int8[:threshold=6.0]   LLM.int8(): INT8 a row, ACTS_OUTLIERS; threshold=0 for none: ACTS_INT8
 *     w8a16                  INT8 a row, activations wide
 *     nf4[:nested], fp4[:nested]   blocks of 64
 *     int4[:asymmetric][:group=N]  groups of 128
 *     fp8                    E4M3 a row, ACTS_FP8
 *
 * BAD_INPUT lists what there is. */
bool scheme_parse(struct scheme *s, const char *text, struct status *st) MUST_CHECK;

/* For people: "int4, groups of 128, f16 scales, zero points".  Returns `text`. */
const char *scheme_describe(const struct scheme *s, char *text, size_t size);

#ifdef __cplusplus
}
#endif

#endif
