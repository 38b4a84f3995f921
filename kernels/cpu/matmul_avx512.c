/* matmul_avx512.c - the tile multiply for AVX-512 (BW, VL). */
#include "kernels/cpu/matmul_int.h"

#ifdef __AVX512BW__
#define MATMUL_TILE matmul_tile_avx512
#include "kernels/cpu/matmul_lanes16.h"

#include "kernels/cpu/matmul_tile.h"
#endif
