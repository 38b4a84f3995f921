/* scheme_choose.h - how a product of few rows with weights of a scheme is cut: pure, of the shape.
 *
 * A block gets a contiguous run of units (scheme_layout.h; of a gated pair, a unit of each),
 * `units` of them at a time, and walks k tile by tile.  A unit is the work of ways_k * ways_rows
 * warps: tiles in turn, and rows of x divided.  `span` tiles travel together through a ring of
 * `stages`.
 *
 * What bounds few rows of 4 bits is the work of making fragments: a 16 x 16 of INT4 takes a part of
 * an SM 16 clocks and more, and memory brings one in 28.  So units' warps are many and share the
 * SM's four parts alike, and rows are not divided where codes would be expanded twice.
 *
 * Where several warps take a unit's tiles in turn, their chains meet in shared memory
 * (`exchange_bytes`) and are added in order there.
 *
 * A choice changes how fast a product is and never its bits.  Plain C, tested without a GPU.
 * Thread: any. */
#ifndef KERNELS_CUDA_SCHEME_CHOOSE_H
#define KERNELS_CUDA_SCHEME_CHOOSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    SCHEME_ROWS_MAX = 64,
    SCHEME_NORM_ROWS_MAX = 1, /* with more, a norm kernel costs less than a norm in every block */
    SCHEME_WARPS_FEW = 16, /* up to SCHEME_FEW_ROWS, whose time is that of making fragments, once */
    SCHEME_WARPS_MANY = 8,
    SCHEME_FEW_ROWS = 16,
    SCHEME_STAGES_MAX = 32,
    /* A block has an SM to itself: two of one product on one SM leave another idle, and it takes as
     * long as both.  Room is left for small kernels; their loads wait behind those of a ring that
     * fills. */
    SCHEME_SHARED_MAX = 150 * 1024,
    SCHEME_STAGES_WANTED = 3, /* of a ring: one is worked on */
    SCHEME_STAGES_LEAST = 2,
    SCHEME_RESIDENT_MAX = 32 * 1024, /* x stays whole in shared memory up to here */
    SCHEME_NORM_MAX = 32 * 1024,     /* its norm's weights, f32, too */
    SCHEME_EXCHANGE_MAX = 48 * 1024,
    SCHEME_BOOK_BYTES = 32 * 1024, /* pairs of a codebook's values; the block is larger by them */
};

struct scheme_shape {
    int rows, in, n; /* n: columns of y */
    bool has_norm, gated;
    int bits, chains; /* of a code; of a tile */
    bool has_book;    /* codes are looked up */
    bool is_rare;     /* the format has no kernels for several ways along k, nor for pairs */
    uint32_t tile_bytes;
    int sm_count;
};

struct scheme_choice {
    bool fuse_norm; /* else a norm kernel runs before */
    bool resident;  /* x lies whole in shared memory; else its columns travel with the tiles */
    int row_groups; /* of 8 rows, of a warp: 1, 2 or 4 */
    int pairs;      /* of x's rows that a chain keeps where several ways meet, of a row group */
    int in_hand;    /* tiles of a warp and stage: 1 or 2 */
    int warps;      /* of a block that may work */
    int n_units, grid, units, passes, ways_k, ways_rows, span, stages;
    uint32_t x_box;   /* bytes of x's 64 columns, rows to whole groups */
    uint32_t w_bytes; /* of a stage's units; up's lie behind them */
    uint32_t x_at;    /* in a stage */
    uint32_t norm_at; /* of the norm's weights in x_bytes, behind x; 0 = they are not there */
    uint32_t stage_bytes, x_bytes, exchange_bytes, book_bytes;
    size_t shared_bytes;
};

/* Tiles of a warp and stage (gated: of each of two), and chains that run side by side, which hides
 * their latency where there are registers. */
#define scheme_in_hand(bits, row_groups, tiles)                                                    \
    ((bits) == 4 && (row_groups) == 1 && (tiles) == 1 ? 2 : 1)

void scheme_choose(struct scheme_choice *c, const struct scheme_shape *s);

/* The same with given ways, what a benchmark compares; false when that does not fit. */
bool scheme_choose_ways(struct scheme_choice *c, const struct scheme_shape *s, int ways_k,
                        int ways_rows);

#ifdef __cplusplus
}
#endif

#endif
