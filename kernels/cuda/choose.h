/* choose.h - which kernel runs a product, and how it is cut: a pure function of the shape.
 *
 * A choice may change how fast a product is and never its bits: every variant adds one chain of
 * mma over k, 16 at a time, in order (tests/gpu/probe_numerics.cu).
 *
 * The skinny kernel streams weights once, for few rows of x.  Its unit is what one warp owns: 8
 * columns of y, or 16 (`unit_tiles` = 2: neighbours, or a gate's and its up's 8).  A block gets a
 * contiguous run of units, `warps` of them at a time, which walk k together in chunks of 64; the
 * chunks travel through a ring of `stages`.
 *
 * Plain C, tested without a GPU.  Thread: any. */
#ifndef KERNELS_CUDA_CHOOSE_H
#define KERNELS_CUDA_CHOOSE_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    SKINNY_ROWS_MAX = 32,
    SKINNY_NORM_ROWS_MAX = 2, /* with more, one norm kernel costs less than a norm in every block */
    SKINNY_WARPS_MAX = 8,
    SKINNY_STAGES_MAX = 32,   /* of 4 KiB and more */
    SKINNY_CHUNK = 64,        /* k values: 128 bytes, the widest swizzle of a tensor map */
    SKINNY_TILE_BYTES = 1024, /* 8 rows of a chunk */
    /* One block an SM, and room for those of the small kernels between products: the next product's
     * block begins to fill its ring when this one's has left the SM, while others still run.  Two
     * blocks with half of it each had the next ring full long before, and idle memory at each end. */
    SKINNY_SHARED_MAX = 216 * 1024,
    /* Of up to 8 rows, whose products wait most for what lies between them: its loads queue behind
     * those of a ring that fills.  Still more than half an SM's.  Where it has room for four stages. */
    SKINNY_SHARED_FEW = 150 * 1024,
    SKINNY_SPAN_MAX = 4, /* 1, 2 or 4 chunks a stage */
    SKINNY_STAGE_BYTES = 24 * 1024, /* a stage takes chunks up to here */
    SKINNY_RESIDENT_MAX = 32 * 1024, /* x stays whole in shared memory up to here */
};

enum matmul_variant {
    MATMUL_SKINNY, /* matmul_skinny.cu */
    MATMUL_WIDE,   /* matmul_sm90.cu, for results it can write; else as: */
    MATMUL_TILES,  /* matmul_tiles.cu */
};

struct matmul_shape {
    int rows, in, n; /* n: columns of y */
    bool has_norm, gated;
    int sm_count, cc;
};

struct matmul_choice {
    enum matmul_variant variant;
    bool fuse_norm; /* else a norm kernel runs before */

    /* MATMUL_SKINNY */
    bool resident;  /* x lies whole in shared memory; else its chunks travel with the weights' */
    int rows_tile;  /* rows of x computed: 8, 16 or 32 */
    int unit_tiles; /* 1 or 2 */
    int n_units, grid, warps, stages;
    int span;       /* chunks of a stage */
    size_t x_bytes, chunk_bytes, shared_bytes; /* x_bytes: with the weights of its norm */
};

void matmul_choose(struct matmul_choice *c, const struct matmul_shape *s);

/* A tile of MATMUL_WIDE, or of the wide product of 8-bit activations: rows of x by rows of w, half of
 * them the gate's if gated. */
struct matmul_tile {
    int rows, columns;
};

enum wide_kernels { WIDE_16_BITS, WIDE_8_BITS };

/* One that there is a kernel for:
 *   both: 128 by 64, 128, 256; of up to 128 rows 64 by 64; gated 128 by 128, 256
 *   16 bits: 128 by 96, 160, 192; gated 128 by 224
 * n: columns of y */
struct matmul_tile matmul_choose_tile(enum wide_kernels kernels, int rows, int n, bool gated,
                                      int sm_count);

/* May the product of q, k and v turn their heads and write them to the cache itself?  A lane has a
 * pair or two at its end, never a head, whose norm or scale would want all of it. */
struct heads_shape {
    int head_dim, rope_dims; /* rope_dims: 0 = no rope */
    bool has_norm;           /* of the heads of q or k */
    bool cache_is_act;       /* the cache is of the activations' type */
    bool aligned;            /* y may be written two values at a time */
};
bool heads_choose(const struct matmul_choice *c, const struct heads_shape *s);

#ifdef __cplusplus
}
#endif

#endif
