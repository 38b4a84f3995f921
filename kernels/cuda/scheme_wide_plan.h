/* scheme_wide_plan.h - how the tiles of a wide product of quantized weights are given to workers.
 *
 * A worker is a block, or a cluster of two that has two tiles side by side along the weights and
 * brings their x once for both; here its tile is both.  Tiles are numbered along the rows of x,
 * SCHEME_WIDE_GROUP of them, then the next column, so that x and weights stay in cache.  The first
 * `whole` are taken in turns, by a worker each.  Those that are left, one to two for each worker,
 * are shared: they are a line of columns (of the weights, 128 at a time), of which each worker has
 * an equal part, its border inside a tile that the next worker goes on with.
 *
 * Plain C.  Thread: pure; any. */
#ifndef KERNELS_CUDA_SCHEME_WIDE_PLAN_H
#define KERNELS_CUDA_SCHEME_WIDE_PLAN_H

#include <stddef.h>

#ifdef __CUDACC__ /* kernels ask too */
#define SCHEME_WIDE_INLINE static inline __host__ __device__
#else
#define SCHEME_WIDE_INLINE static inline
#endif

enum {
    SCHEME_WIDE_GROUP = 8,
    SCHEME_WIDE_PARTS = 4,    /* a worker's of the line: of three tiles at most, and none after */
    SCHEME_WIDE_PART_MIN = 3, /* a shorter part of a tile is left to the other worker */
    /* What a block hands on at most: f32 sums, and words that say that its warps' are there. */
    SCHEME_WIDE_SUMS = 128 * 256,
    SCHEME_WIDE_WARPS = 12,
};

struct scheme_wide_plan {
    int tiles, workers; /* no more workers than tiles */
    int whole;          /* all tiles, or a multiple of workers that leaves one to two for each */
    int cluster;        /* blocks of a worker: 1 or 2 */
};

struct scheme_wide_part { /* of a tile: columns from 128 `first` up to 128 `end` */
    int tile, first, end; /* first = end: there is none */
};

/* Where a worker's part of the line begins. */
SCHEME_WIDE_INLINE int scheme_wide_border(const struct scheme_wide_plan *p, int n_k, int worker)
{
    const int at = (p->tiles - p->whole) * n_k * worker / p->workers, in_tile = at % n_k;
    return in_tile < SCHEME_WIDE_PART_MIN         ? at - in_tile
           : n_k - in_tile < SCHEME_WIDE_PART_MIN ? at - in_tile + n_k
                                                  : at;
}

/* The i-th part of the line that a worker has, of tiles of n_k; from the last tile to the first. */
SCHEME_WIDE_INLINE struct scheme_wide_part scheme_wide_line_part(const struct scheme_wide_plan *p,
                                                                 int n_k, int worker, int i)
{
    struct scheme_wide_part part = {0, 0, 0};
    if (p->whole == p->tiles)
        return part;
    const int begins = scheme_wide_border(p, n_k, worker),
              ends = scheme_wide_border(p, n_k, worker + 1);
    const int tile = (ends - 1) / n_k - i, at = tile * n_k; /* of the line */
    if (at + n_k <= begins)
        return part;
    part.tile = p->whole + tile;
    part.first = begins > at ? begins - at : 0;
    part.end = ends - at < n_k ? ends - at : n_k;
    return part;
}

static inline size_t scheme_wide_sums_bytes(int sm_count)
{
    return (size_t)sm_count * SCHEME_WIDE_SUMS * sizeof(float);
}

static inline size_t scheme_wide_given_words(int sm_count)
{
    return (size_t)sm_count * SCHEME_WIDE_WARPS;
}

#endif
