/* matmul_avx512vnni.c - the tile multiply for AVX-512 with VNNI. */
#include "kernels/cpu/matmul_int.h"

#ifdef __AVX512VNNI__
#define MATMUL_TILE matmul_tile_avx512vnni
#include "kernels/cpu/matmul_lanes16.h"

#include "kernels/cpu/matmul_tile.h"
#endif
