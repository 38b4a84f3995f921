/* matmul_int.h - how the CPU keeps weights, and who multiplies them.
 *
 * PACKED layout.  The rows of a weight are cut into tiles of `lanes` rows (8, or 16 with
 * AVX-512; missing rows are zero), and a tile is stored so that one vector holds the same
 * four columns of every row: lane r belongs to row r, and one broadcast of four
 * activations meets all rows at once.  No sum ever crosses lanes.
 *
 * A tile of a block format is three arrays, each in order of columns:
 *
 *     quants  for each 32 columns: the planes below, each vector = lanes x 4 bytes
 *     scales  for each 32 columns: d[lanes] f16, then m[lanes] f16 if there is a minimum;
 *             or with has_sc two rows of bytes: sc and mn (group 32), the sc of each half
 *             (group 16), or the pairs sc | mn << 4 of each half (group 16 with minima)
 *     supers  with has_sc, for each 256 columns: d[lanes] f16, then m[lanes] f16
 *
 * Planes of the q of 32 columns = 8 steps of 4 columns, by bits:
 *
 *     8     a vector for each step
 *     4     vector v = step v in the low nibbles, step v + 4 in the high ones
 *     5, 6  as 4, then: a vector with bit 4 of step s at bit s; or two vectors with
 *           bits 4 and 5 of step s at bits 2 (s % 4), the second one for steps 4..7
 *     2     two vectors as just described; 3 the same, then a vector with bit 2
 *
 * A tile of a plain type is [cols][lanes] values.  Tiles begin at multiples of 64 bytes. */
#ifndef KERNELS_CPU_MATMUL_INT_H
#define KERNELS_CPU_MATMUL_INT_H

#include "kernels/cpu/cpu_int.h"
#include "kernels/quant_block.h"

enum {
    MATMUL_TILES_MAX = 2,
    MATMUL_ROWS_MAX = 128, /* activation rows that meet a decoded tile before the next one */
    MATMUL_DIRECT_MAX = 4, /* up to this many rows a tile is decoded on the way, not first */
};

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

/* One or two neighbouring tiles of one weight with some rows of activations. */
struct matmul_tile {
    const uint8_t *w; /* the first tile */
    size_t tile_bytes;
    int n_tiles;
    enum dtype dtype;
    int cols;
    const void *x; /* [n_rows] rows of x_stride bytes: act_blocks, or floats when is_float */
    size_t x_stride;
    int n_rows;              /* <= MATMUL_ROWS_MAX */
    int n_planes;            /* 2: each pair of rows of x adds up to one row of activations */
    bool is_float;           /* plain types, and every type under PRECISION_EXACT */
    float *y;                /* first output of [n_rows / n_planes] rows, y_stride values apart */
    const float *bias, *add; /* as y; NULL if absent */
    int64_t y_stride;
    int n_lanes; /* outputs of each row that exist, in all tiles */
};

/* Bytes of the arrays of a tile; the rest follows. */
static inline size_t pack_quants_bytes(enum dtype dtype, int lanes) /* for 32 columns */
{
    return (size_t)lanes * 4 * quant_traits[dtype].bits;
}

static inline size_t pack_scales_bytes(enum dtype dtype, int lanes) /* for 32 columns */
{
    const struct quant_traits *t = &quant_traits[dtype];
    return (size_t)lanes * (t->has_min && !t->has_sc ? 4 : 2);
}

static inline size_t pack_supers_bytes(enum dtype dtype, int lanes) /* for 256 columns */
{
    const struct quant_traits *t = &quant_traits[dtype];
    return !t->has_sc ? 0 : (size_t)lanes * (t->has_min ? 4 : 2);
}

static inline int pack_lanes(const struct device *d)
{
    return d->isa >= ISA_AVX512 ? 16 : 8;
}

size_t pack_tile_bytes(enum dtype dtype, int64_t cols, int lanes);

/* One row out of a PACKED weight, to float: the bits of dequantize_row. */
void pack_row_read(const struct tensor *w, int lanes, int64_t row, float *dst);

/* One row of activations to act_blocks; cols is a multiple of 32.  A block with a NaN or an
 * infinity gets d = NaN, so that all that depends on it is NaN too. */
void act_quantize_scalar(const float *x, int cols, struct act_block *out);
void act_quantize_avx2(const float *x, int cols, struct act_block *out);

void matmul_tile_scalar(const struct matmul_tile *t);
void matmul_tile_avx2(const struct matmul_tile *t);
void matmul_tile_avx512(const struct matmul_tile *t);
void matmul_tile_avx512vnni(const struct matmul_tile *t);

#endif
