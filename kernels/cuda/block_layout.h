/* block_layout.h - how the device keeps the block formats of GGUF: in units of 16 rows, as matrices
 * of a scheme (scheme_layout.h), their codes with as many bits as the file has.
 *
 *     weight   unit 0, unit 1, ...
 *     unit     tile 0, tile 1, ... of 128 columns each; columns past the last: code and scale 0
 *     tile     low bits of the codes;  high bits;  groups[4 quarters][8 rows g];  supers[8 rows g]
 *
 *                   bits: low  high   a group, of 32 columns, rows g and g + 8     a super
 *     q4_0, q8_0          4, 8        f16 d[2]
 *     q5_0                4    1      f16 d[2]
 *     q4_1, q5_1          4    0, 1   f16 d[2], m[2]
 *     q4_k, q5_k          4    0, 1   bytes sc[2], mn[2]                           f16 d[2], m[2]
 *     q6_k, q3_k          4, 2  2, 1  bytes sc[2] of 16 columns, sc[2] of 16       f16 d[2]
 *     q2_k                2           bytes sc + 16 * mn, likewise                 f16 d[2], m[2]
 *
 * Scales of 6 bits take 8, and a super, of 256 columns, lies in both its tiles: K formats take 0.06
 * to 0.25 bits a weight more than in the file, the others as many.
 *
 * Codes lie as mma takes them: a lane's fragment of a step (scheme_layout.h) are 4 registers a[i]
 * of 2 values.  Of `b` bits (1, 2 or 4) a word of a lane holds 4 / b steps (block_bit_at): a[1]
 * lies 4 bits above a[0], and a[3] above a[2], so that one shift serves two.  A lane's words of a
 * quarter, 32 columns, lie together: [4 quarters][32 lanes][b / 2 words]; of 1 bit, [2 halves][32
 * lanes].  Of 8 bits they lie as INT8's do, signed.
 *
 * Values.  A fragment holds 16-bit floats; they are made in f16 arithmetic, each step rounded once:
 *
 *     q4_0, q5_0, q8_0    d * (q - offset)                exact but for the last rounding
 *     q4_1, q5_1          fma(q, d, m)                    the same
 *     q3_k, q6_k          d * (sc * (q - offset))         the same; q6_k's integers above 2048 are
 *                                                         rounded as well, by 2^-12 at most
 *     q2_k, q4_k, q5_k    fma(sc * q, d, -(m * mn))       the same, and the minimum rounded to f16
 *
 * Activations in bf16 meet these f16 rounded to bf16.  So a weight differs from the file's by what
 * rounding it to 16 bits costs, plus, in the last line, 2^-11 of its minimum.  Order of summation:
 * that of 16-bit weights.
 *
 * Plain C, tested without a GPU; kernels use the inline functions.  Thread: any; pure. */
#ifndef KERNELS_CUDA_BLOCK_LAYOUT_H
#define KERNELS_CUDA_BLOCK_LAYOUT_H

#include "kernels/cuda/scheme_layout.h"

#ifdef __CUDACC__
#define BLOCK_FUNCTION __host__ __device__ constexpr
#else
#define BLOCK_FUNCTION static inline
#endif

BLOCK_FUNCTION int block_low_bits(enum dtype f)
{
    return f == DT_Q8_0 ? 8 : f == DT_Q2_K || f == DT_Q3_K ? 2 : 4;
}

BLOCK_FUNCTION int block_high_bits(enum dtype f)
{
    return f == DT_Q6_K ? 2 : f == DT_Q5_0 || f == DT_Q5_1 || f == DT_Q5_K || f == DT_Q3_K ? 1 : 0;
}

BLOCK_FUNCTION int block_offset(enum dtype f) /* subtracted from a code; q8_0's are signed */
{
    return f == DT_Q4_0 ? 8 : f == DT_Q5_0 ? 16 : f == DT_Q3_K ? 4 : f == DT_Q6_K ? 32 : 0;
}

BLOCK_FUNCTION bool block_has_super(enum dtype f)
{
    return f >= DT_Q2_K && f <= DT_Q6_K;
}

BLOCK_FUNCTION bool block_has_min(enum dtype f)
{
    return f == DT_Q4_1 || f == DT_Q5_1 || f == DT_Q2_K || f == DT_Q4_K || f == DT_Q5_K;
}

BLOCK_FUNCTION bool block_has_16(enum dtype f) /* groups of 16 columns, two in a quarter */
{
    return f == DT_Q2_K || f == DT_Q3_K || f == DT_Q6_K;
}

/* Where value j of a[i] of a word's p-th step begins in it, of so many bits a code. */
BLOCK_FUNCTION int block_bit_at(int bits, int p, int i, int j)
{
    return i % 2 * 4 + 16 * j +
           (bits == 4   ? 16 * p + i / 2 * 8
            : bits == 2 ? 8 * p + i / 2 * 2
                        : (2 * p + i / 2) % 4 + p / 2 * 8);
}

/* Bytes of a group and of a super of two rows; places in a tile, and its size. */
BLOCK_FUNCTION uint32_t block_group_bytes(enum dtype f)
{
    return !block_has_super(f) && block_has_min(f) ? 8 : 4;
}

BLOCK_FUNCTION uint32_t block_super_bytes(enum dtype f)
{
    return !block_has_super(f) ? 0 : block_has_min(f) ? 8 : 4;
}

BLOCK_FUNCTION uint32_t block_high_at(enum dtype f)
{
    return (uint32_t)(UNIT_ROWS * TILE_COLS / 8 * block_low_bits(f));
}

BLOCK_FUNCTION uint32_t block_groups_at(enum dtype f)
{
    return block_high_at(f) + (uint32_t)(UNIT_ROWS * TILE_COLS / 8 * block_high_bits(f));
}

BLOCK_FUNCTION uint32_t block_supers_at(enum dtype f)
{
    return block_groups_at(f) + 4 * 8 * block_group_bytes(f);
}

BLOCK_FUNCTION uint32_t block_tile_bytes(enum dtype f)
{
    return block_supers_at(f) + 8 * block_super_bytes(f);
}

#ifdef __cplusplus
extern "C" {
#endif

struct block_layout {
    enum dtype format;
    int n_tiles; /* of a unit */
    uint32_t tile_bytes;
    size_t unit_bytes; /* multiple of 16 */
};

static inline bool block_has_units(enum dtype f)
{
    return f >= DT_Q4_0 && f <= DT_Q6_K;
}

/* Of a format that has units; cols are whole blocks. */
void block_layout(struct block_layout *l, enum dtype f, int64_t cols);

size_t block_units_bytes(enum dtype f, int64_t rows, int64_t cols);

/* n rows in file layout, of which the first is the first of a unit, to scheme_units(n) units. */
void block_pack(enum dtype f, int64_t cols, const void *rows, int64_t n, void *to);

/* One value, as it lies in the units: dequantize_row's. */
float block_unpack(enum dtype f, int64_t cols, const void *units, int64_t row, int64_t col);

#ifdef __cplusplus
}
#endif

#endif
