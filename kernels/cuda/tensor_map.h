/* tensor_map.h - describes matrices to the copy engine.
 *
 * Thread: the device's. */
#ifndef KERNELS_CUDA_TENSOR_MAP_H
#define KERNELS_CUDA_TENSOR_MAP_H

#include <cuda.h>

#include "kernels/cuda/cuda_int.h"

/* A matrix of 16-bit values [rows, columns], rows `stride` values apart (a multiple of 8); copied in
 * boxes of box_rows x box_columns (64 at most), 128-byte swizzle; outside it is zero. */
void tensor_map_2d(struct device *d, CUtensorMap *map, const void *at, int columns, int rows,
                   int stride, int box_columns, int box_rows);

#endif
