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
 * A tile of a plain type is [cols][lanes] values; of bf16 [cols / 2][lanes][2], a zero behind an
 * odd number of columns.  Tiles begin at multiples of 64 bytes.
 *
 * A tile of a scheme (scheme.h) is three arrays too, its columns padded to 32 with zeros:
 *
 *     quants  the planes of 4 or 8 bits above; INT8 as code - 128, a signed byte
 *             FP8: each vector is two columns, the bytes of lanes 16-bit words
 *     scales  for each group: [lanes] of the scheme's `scale`, or of floats if they are nested
 *     zeros   for each group, if there are zero points: [lanes] bytes
 *             INT8: [lanes] bf16 of zero - 128
 *
 * and behind its tiles an ordered weight has order[cols], int32.  What it multiplies is x in that
 * order (act_form.h). */
#ifndef KERNELS_CPU_MATMUL_INT_H
#define KERNELS_CPU_MATMUL_INT_H

#include "kernels/cpu/act_form.h"
#include "kernels/cpu/cpu_int.h"
#include "kernels/quant_block.h"

enum {
    MATMUL_TILES_MAX = 2,
    MATMUL_ROWS_MAX = 128, /* activation rows that meet a decoded tile before the next one */
    MATMUL_DIRECT_MAX = 4, /* up to this many rows a tile is decoded on the way, not first */
};

/* One or two neighbouring tiles of one weight with some rows of activations. */
struct matmul_tile {
    const uint8_t *w; /* the first tile */
    size_t tile_bytes;
    int n_tiles;
    enum dtype dtype;
    const struct scheme *scheme; /* of a type from DT_INT4 on */
    int cols;
    const void *x; /* [n_rows] rows of x_stride bytes: act_blocks, floats if is_float, or bf16 */
    size_t x_stride;
    bool is_bf16;                   /* x is rows of bf16, a zero behind an odd number of columns */
    const struct act_panel *panels; /* the same act_blocks, 16 rows a panel, or NULL */
    const float *x_wide;  /* [n_rows, cols] the activations themselves; NULL <=> no outliers in x */
    const int32_t *order; /* [cols] of x_wide, or NULL */
    int n_rows;           /* <= MATMUL_ROWS_MAX */
    int n_planes;         /* 2: each pair of rows of x adds up to one row of activations */
    bool is_float;        /* x is floats; else act_blocks */
    float *y;             /* first output of [n_rows / n_planes] rows, y_stride values apart */
    const float *bias, *add; /* as y; NULL if absent */
    int64_t y_stride;
    int n_lanes; /* outputs of each row that exist, in all tiles */
};

static inline size_t pack_blocks(int64_t cols) /* of 32 columns; the last may be part of one */
{
    return (size_t)((cols + QUANT_BLOCK - 1) / QUANT_BLOCK);
}

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

/* The same of a scheme, for one group. */
static inline size_t pack_group_scale_bytes(const struct scheme *s, int lanes)
{
    return (size_t)lanes * (s->nested ? 4 : (size_t)dtype_traits[s->scale].block_bytes);
}

static inline size_t pack_group_zero_bytes(const struct scheme *s, int lanes)
{
    return !s->has_zero || s->codes > DT_INT8 ? 0 : (size_t)lanes * (s->codes == DT_INT8 ? 2 : 1);
}

/* Where lane r of column c lies in a tile of a plain type, in values. */
static inline size_t pack_plain_at(enum dtype dtype, int lanes, int64_t c, int r)
{
    const size_t col = (size_t)c, lane = (size_t)r, n = (size_t)lanes;
    return dtype == DT_BF16 ? (col / 2 * n + lane) * 2 + col % 2 : col * n + lane;
}

static inline int pack_lanes(const struct device *d)
{
    return d->isa >= ISA_AVX512 ? 16 : 8;
}

size_t pack_tile_bytes(const struct tensor *w, int lanes);

/* One row out of a PACKED weight, to float: the bits of dequantize_row or scheme_dequantize_row. */
void pack_row_read(const struct tensor *w, int lanes, int64_t row, float *dst);

/* Planes of 32 columns of one row, w[8]; words of the row are `stride` words apart. */
void pack_quants(int bits, const uint32_t *w, uint32_t *out, int stride);
void unpack_quants(int bits, const uint32_t *in, int stride, uint32_t *w);

/* scheme_pack.c: the same for weights of a scheme.  Put is false where memory is short. */
size_t scheme_tile_bytes(const struct tensor *w, int lanes);
const int32_t *scheme_order(const struct tensor *w, int lanes); /* NULL where it is not ordered */
bool scheme_put(struct device *d, struct tensor *w, const struct weight_source *src);
void scheme_row_read(const struct tensor *w, int lanes, int64_t row, float *dst);

void matmul_tile_scalar(const struct matmul_tile *t);
void matmul_tile_avx2(const struct matmul_tile *t);
void matmul_tile_avx512(const struct matmul_tile *t);
void matmul_tile_avx512vnni(const struct matmul_tile *t);
void matmul_tile_avx512bf16(const struct matmul_tile *t);
void matmul_tile_amx(const struct matmul_tile *t);

#endif
