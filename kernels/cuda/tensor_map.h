/* tensor_map.h - describes matrices to the copy engine.
 *
 * Thread: the device's. */
#ifndef KERNELS_CUDA_TENSOR_MAP_H
#define KERNELS_CUDA_TENSOR_MAP_H

#include <cuda.h>

#include "kernels/cuda/cuda_int.h"

/* A matrix of 16-bit values [rows, columns], rows `stride` values apart (a multiple of 8); copied
 * in boxes of box_rows x box_columns (64, 32 or 16), swizzle as wide as these; outside it is zero.
 */
void tensor_map_2d(struct device *d, CUtensorMap *map, const void *at, int columns, int rows,
                   int stride, int box_columns, int box_rows);

/* The same in boxes of `box_chunks` times 64 columns, each 64 with all rows behind the 64 before:
 * columns are a multiple of 64. */
void tensor_map_chunks(struct device *d, CUtensorMap *map, const void *at, int columns, int rows,
                       int box_chunks, int box_rows);

/* The same in boxes whose rows are runs of neighbours, each `apart` rows behind the run before:
 * places are (0, row of the first `apart`, how many times that, chunk). */
struct head_rows {
    const void *at;
    int columns, rows, apart; /* rows are a multiple of apart */
    int box_chunks, box_run, box_runs;
};
void tensor_map_heads(struct device *d, CUtensorMap *map, const struct head_rows *h);

/* Units of a scheme's weight (scheme_layout.h), copied `box_units` units by `box_tiles` tiles; a
 * tile lies as it is, a unit's tiles one behind the other, then the next unit's; what is not there
 * is zero. */
void tensor_map_units(struct device *d, CUtensorMap *map, const void *at, uint32_t tile_bytes,
                      int n_tiles, size_t unit_bytes, int units, int box_tiles, int box_units);

/* A matrix of bytes [rows, columns], rows `stride` bytes apart (a multiple of 16); copied in boxes
 * of box_rows x 128, 128-byte swizzle; outside it is zero. */
void tensor_map_bytes(struct device *d, CUtensorMap *map, const void *at, int columns, int rows,
                      int stride, int box_rows);

/* A matrix of bytes by column, `stride` rows of them (a multiple of 16); copied in boxes of
 * box_rows of 128 columns, as they lie; columns that are not there are zeros. */
void tensor_map_columns(struct device *d, CUtensorMap *map, const void *at, int columns, int stride,
                        int box_rows);

/* Groups of tiles of units (act8_layout.h), copied as they lie: box_units of a tile, of box_groups
 * groups; what is not there is zero. */
struct byte_groups {
    const void *at;
    uint32_t unit_bytes; /* 2048 at most */
    int units, tiles;    /* of a tile, of a group */
    size_t group_bytes;
    int groups;
    int box_units, box_groups;
};
void tensor_map_groups(struct device *d, CUtensorMap *map, const struct byte_groups *g);

#endif
