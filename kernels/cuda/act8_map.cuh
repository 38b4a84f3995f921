/* act8_map.cuh - matrices of 8-bit codes as the copy engine sees them. */
#ifndef KERNELS_CUDA_ACT8_MAP_CUH
#define KERNELS_CUDA_ACT8_MAP_CUH

#include "kernels/cuda/act8.h"
#include "kernels/cuda/tensor_map.h"

/* Weights, copied `rows` rows of one tile of columns at a time: whole groups, or units of one. */
inline void act8_map_weights(struct device *d, CUtensorMap *map, const void *w, int in, int n,
                             int rows)
{
    const struct byte_groups g = {w,
                                  ACT8_UNIT_BYTES,
                                  ACT8_GROUP_UNITS,
                                  act8_chunks(in),
                                  act8_group_bytes(in),
                                  (n + ACT8_GROUP - 1) / ACT8_GROUP,
                                  rows < ACT8_GROUP ? rows / ACT8_UNIT : ACT8_GROUP_UNITS,
                                  rows < ACT8_GROUP ? 1 : rows / ACT8_GROUP};
    tensor_map_groups(d, map, &g);
}

/* One plane of activations: a box is 128 k of `rows` rows. */
inline void act8_map_rows(struct device *d, CUtensorMap *map, const struct act8_rows *x, int plane,
                          int rows)
{
    const int stride = act8_stride(x->in);
    tensor_map_bytes(d, map, x->codes + (size_t)plane * x->rows * stride, x->in, x->rows, stride,
                     rows);
}

/* High bytes by column: a box is `rows` rows of 128 k. */
inline void act8_map_high(struct device *d, CUtensorMap *map, const struct act8_rows *x, int rows)
{
    tensor_map_columns(d, map, x->high, x->in, act8_high_stride(x->rows), rows);
}

#endif
