/* act8_layout.h - how a matrix that meets 8-bit activations lies in device memory.
 *
 * Groups of 64 rows, one behind the other: tiles of 128 columns, a code (int8, or E4M3) a byte, row
 * after row; then the rows' scales, f32.  A row of a tile lies as the tensor cores read it from
 * shared memory, with 128-byte swizzle; so 8 rows, a unit, are a KiB that is copied as it is, and
 * neighbours are copied together.  Two matrices of whole groups that lie together are one, which is
 * how q, k and v run as one product.  Rows and columns that are not there are zeros.
 *
 * Plain C.  Thread: pure; any. */
#ifndef KERNELS_CUDA_ACT8_LAYOUT_H
#define KERNELS_CUDA_ACT8_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __CUDACC__ /* kernels ask too */
#define ACT8_INLINE static inline __host__ __device__
#else
#define ACT8_INLINE static inline
#endif

enum {
    ACT8_GROUP = 64, /* rows */
    ACT8_UNIT = 8,
    ACT8_GROUP_UNITS = ACT8_GROUP / ACT8_UNIT,
    ACT8_CHUNK = 128,                         /* columns of a tile */
    ACT8_UNIT_BYTES = ACT8_UNIT * ACT8_CHUNK, /* of a tile */
    ACT8_TILE_BYTES = ACT8_GROUP * ACT8_CHUNK,
};

/* GPUs that have such products, by compute capability; others hold the weights in 16 bits. */
ACT8_INLINE bool act8_runs_on(int cc)
{
    return cc == 90;
}

ACT8_INLINE int act8_chunks(int cols)
{
    return (cols + ACT8_CHUNK - 1) / ACT8_CHUNK;
}

/* Bytes of a group's codes: its scales lie behind them. */
ACT8_INLINE size_t act8_codes_bytes(int cols)
{
    return (size_t)act8_chunks(cols) * ACT8_TILE_BYTES;
}

ACT8_INLINE size_t act8_group_bytes(int cols)
{
    return act8_codes_bytes(cols) + ACT8_GROUP * sizeof(float);
}

/* Where the code of a row of a group and a column lies in the group; of columns below ACT8_CHUNK,
 * in any tile. */
ACT8_INLINE size_t act8_code_at(int row, int col)
{
    const int in_row = col % ACT8_CHUNK;
    return (size_t)(col / ACT8_CHUNK * ACT8_TILE_BYTES + row * ACT8_CHUNK +
                    (((in_row >> 4) ^ (row & 7)) << 4) + (in_row & 15));
}

ACT8_INLINE size_t act8_bytes(int64_t rows, int cols)
{
    return (size_t)((rows + ACT8_GROUP - 1) / ACT8_GROUP) * act8_group_bytes(cols);
}

#endif
