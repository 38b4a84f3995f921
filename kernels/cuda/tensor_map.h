/* tensor_map.h - descriptors of matrices for the copy engine (sm_90).
 *
 * Thread: any. */
#ifndef KERNELS_CUDA_TENSOR_MAP_H
#define KERNELS_CUDA_TENSOR_MAP_H

#include <cuda.h>
#include <cuda_runtime.h>

#include "kernels/tensor.h"

/* A row-major matrix of DT_F16 or DT_BF16, 16-byte aligned, cols a multiple of 8, fetched in boxes
 * of [box_rows, box_cols]; box_cols is 64 (128 bytes), swizzled: the 16-byte piece j of a
 * box's row r lies at j ^ (r % 8).  Outside of the matrix is zero. */
cudaError_t tensor_map_2d(CUtensorMap *map, enum dtype dtype, const void *at, int rows, int cols,
                          int box_rows, int box_cols);

#endif
