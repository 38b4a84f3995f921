/* scheme_layout.h - how the device keeps a matrix of a scheme: codes in the order in which mma
 * takes them.
 *
 * 16 rows of the matrix are a unit, and a unit is whole: codes, scales and operands lie in it, so
 * matrices of one scheme and width that lie together in memory are one matrix (q, k and v). Rows
 * past the last fill the last unit, with code 0 and scale 0.
 *
 *     weight   unit 0, unit 1, ...                          and, ordered, int32 order[cols]
 *     unit     tile 0, tile 1, ... of 128 columns each      and, one scale a row, f32 scale[16]
 *     tile     codes;  scale[parts][16];  operand[parts][16]
 *
 * A part is part_k columns: 128; 64 or 32 where the group is not a multiple of 128 or 64; of a
 * codebook 64 or 32.  An operand is what its codes meet in registers: a zero point, or a codebook's
 * scale.  Columns past the last fill the last tile, with code 0 and scale 0: x must be 0 there, not
 * just any.  Scales and operands of a row r of 16 are at place 2 * (r % 8) + r / 8, so that one
 * load gives the two rows that a lane of mma has.
 *
 * Codes.  Weights are the A operand of mma.m16n8k16 (or of wgmma, each warp 16 of its 64 rows).  A
 * tile has 8 steps of 16 k.  A lane's A fragment of a step is 4 registers a[i] of 2 values: row g +
 * 8 * (i % 2), columns 2 * t + 8 * (i / 2) and the next, where g = lane / 4, t = lane % 4.
 *
 *     4 bits   [2 halves of 4 steps][32 lanes][4 words]   word s is step s of the half:
 *              INT4       a[i] = nibbles i and i + 4
 *              NF4, FP4   a[i] = nibbles 2i and 2i + 1: a byte, which a table of pairs is read by
 *     8 bits   [4 quarters of 2 steps][32 lanes][4 words]  words 2s and 2s + 1 are step s of the
 *              quarter: a[i] = bytes i % 2 and i % 2 + 2 of word 2s + i / 2
 *
 * A lane's words of a half or quarter are one 16-byte load.  scheme_expand.cuh makes the fragments.
 *
 * Values in registers are floats of the activation type, 16 bits: (code - zero) / ones exactly
 * (integers of at most 256), where ones is a power of two, scheme_ones, that scales are multiplied
 * with (2^119 and more would become infinite); E4M3 exactly; a codebook's
 *
 *     round(round(codebook[code]) * operand)     operand = round(scale / row scale)
 *
 * where the row scale is 1 in bf16.  In f16 it is the power of two that brings the largest scale of
 * the row (of a rank's part of it) to between 2^14 and 2^15, but at least 2^-126, and 2^-15 where
 * none is finite and not 0: scales down to 2^-28 of the largest keep all their bits, and others
 * that are lost are lost beside it.  Three roundings, of half a unit in the last place each; the
 * formats' own library makes the same three for few rows, and one for many.
 *
 * Order of summation, whichever kernel runs and however many rows x has:
 *
 *     chain = the mma of some columns, in order of k, in one f32 accumulator that begins at 0
 *     groups      sum = fma(scale, chain, sum), chain after chain in order of k; sum begins at 0
 *     row scale   sum = sum + chain, chain after chain;                 then sum = scale * sum
 *
 * A chain is a part; of a codebook, which has a row scale always, 128 columns: beside a wgmma there
 * is no time to add a chain for each 64.  Then as matmul_int.h says.
 *
 * Scales of groups are 16 bits: f16 and bf16 as they are (SCALE_F16, SCALE_BF16).  Those that a
 * checkpoint has as f32 are rounded to a sign, 6 bits of exponent (bias 45) and 9 of mantissa
 * (SCALE_WIDE; 0 is 0, subnormals below 2^-44): the error is at most 2^-10 of the scale, a half of
 * what rounding the products to bf16 would cost.  A scale of a row is f32, as it is.
 *
 * The block formats of GGUF have tiles and an order of their own: block_layout.h.
 *
 * Plain C, tested without a GPU.  Thread: any; pure. */
#ifndef KERNELS_CUDA_SCHEME_LAYOUT_H
#define KERNELS_CUDA_SCHEME_LAYOUT_H

#include "kernels/scheme.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    UNIT_ROWS = 16,
    TILE_COLS = 128,
    TILE_STEPS = TILE_COLS / 16,
    SCALE_WIDE_BIAS = 45,
};

/* In registers a 16-bit float of n least subnormals is made n / ones by one factor, the largest
 * power of two: 2^127 * 2^-133 in bf16, 2^15 * 2^-24 in f16. */
#define SCHEME_ONES_BF16 64.0f
#define SCHEME_ONES_F16 512.0f

enum scheme_kind { KIND_INT4, KIND_CODEBOOK, KIND_INT8, KIND_FP8, KINDS };

enum scheme_scale { SCALE_ROW, SCALE_F16, SCALE_BF16, SCALE_WIDE };

struct scheme_layout {
    enum scheme_kind kind;
    enum scheme_scale scale;
    int bits;           /* of a code */
    int part_k;         /* columns */
    int parts;          /* of a tile: 1, 2 or 4; FP8 has 1, a codebook 2 or 4 */
    int chains;         /* of a tile: as many as parts, of a codebook 1 */
    int operand_bytes;  /* 0 = none; 1 = INT4's zero point, 0..16; 2 = an activation: -INT8's zero
                           point / ones, exact, which several parts have always; a codebook's
                           scale */
    int n_tiles;        /* of a unit */
    uint32_t scales_at; /* in a tile: behind its codes */
    uint32_t operands_at;
    uint32_t tile_bytes;  /* multiple of 16 */
    size_t row_scales_at; /* in a unit: behind its tiles */
    size_t unit_bytes;    /* multiple of 16 */
};

/* Of a scheme that scheme_check found to fit the columns. */
void scheme_layout(struct scheme_layout *l, const struct scheme *s, int64_t cols);

/* What scales are multiplied with in the kernels. */
static inline float scheme_ones(const struct scheme_layout *l, enum dtype act)
{
    const float ones = act == DT_F16 ? SCHEME_ONES_F16 : SCHEME_ONES_BF16;
    return l->kind == KIND_INT4 || l->kind == KIND_INT8 ? ones : 1.0F;
}

static inline int64_t scheme_units(int64_t rows)
{
    return (rows + UNIT_ROWS - 1) / UNIT_ROWS;
}

/* Bytes of all units of a weight, behind which its order lies; and with it. */
size_t scheme_units_bytes(const struct scheme *s, int64_t rows, int64_t cols);
size_t scheme_weight_bytes(const struct scheme *s, int64_t rows, int64_t cols);

/* Whether units of both may be mixed: they differ in nothing that a kernel sees. */
bool scheme_same_units(const struct scheme *a, const struct scheme *b);

/* n rows, of which the first is the first of a unit, to scheme_units(n) units.  `act`: DT_BF16 or
 * DT_F16. */
void scheme_pack(const struct scheme *s, enum dtype act, int64_t cols,
                 const struct scheme_rows *from, int64_t n, void *to);

/* The value of row, col as the kernels see it (times scheme_ones), in units of the scale, and the
 * scale: what tests and the embedding read. */
float scheme_unpack(const struct scheme *s, enum dtype act, int64_t cols, const void *units,
                    int64_t row, int64_t col, float *scale);

/* 16 values of a codebook, by code, as f32. */
const float *scheme_codebook(enum dtype codes);

uint16_t scale_wide_from_f32(float v); /* beyond the largest: that */
float scale_wide_to_f32(uint16_t v);

#ifdef __cplusplus
}
#endif

#endif
