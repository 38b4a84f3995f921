/* scheme_wide_args.cuh - what a wide product of quantized weights is told, and which kernels there
 * are. */
#ifndef KERNELS_CUDA_SCHEME_WIDE_ARGS_CUH
#define KERNELS_CUDA_SCHEME_WIDE_ARGS_CUH

#include "kernels/cuda/matmul_int.h"
#include "kernels/cuda/scheme_wide_choose.h"
#include "kernels/cuda/scheme_wide_tile.cuh"

struct wide_args {
    struct product p;
    struct wide_codes codes;
    size_t unit_bytes, row_scales_at;
    int n_units, n_k;         /* units of each weight; tiles of a unit */
    int row_tiles, col_tiles; /* of y, of workers */
    int last_rows;            /* of x in the last pass of those that have any; a multiple of 8 */
    struct scheme_wide_plan plan;
    int waves; /* turns in which all workers have a whole tile */
    int stages, stage_bytes;
    float *shared_sums;    /* [blocks, sums of a tile] on their way from one block to the next */
    int32_t *shared_given; /* [blocks, warps] are they there?  0 between launches */
};

/* What becomes of a tile's sums: kernels of their own, as one with every case in it outgrows the
 * instruction cache. */
enum wide_ending {
    ENDING_ADD,  /* bias and residual, or without */
    ENDING_SILU, /* gated */
    ENDING_ANY,
};

inline wide_ending wide_ending_of(const struct product *p)
{
    if (p->y_f32 || p->gate_in_y || p->act != (p->w_up ? ACT_SILU : ACT_NONE))
        return ENDING_ANY;
    return p->w_up ? ENDING_SILU : ENDING_ADD;
}

/* All shapes of tiles and quick ends for the schemes that weights commonly have; for the others the
 * largest tile, and an end that does everything. */
constexpr bool wide_is_common(int expand, int parts)
{
    return expand_is_int4(expand)      ? parts <= 2
           : expand == EXPAND_CODEBOOK ? parts == 2
                                       : expand == EXPAND_INT8;
}

/* With p, codes, unit_bytes, row_scales_at, n_units and n_k set: the rest is the tile's.
 * matmul_scheme_sm90_bf16.cu and _f16.cu. */
void wide_launch_bf16(struct device *, struct wide_args *, int expand, int parts,
                      enum scheme_wide_tile);
void wide_launch_f16(struct device *, struct wide_args *, int expand, int parts,
                     enum scheme_wide_tile);

#endif
