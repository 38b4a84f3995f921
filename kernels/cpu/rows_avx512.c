/* rows_avx512.c - the row kernels for AVX-512 F, BW, DQ and VL: 16 floats at a time. */
#define ROW_KERNELS row_kernels_avx512
#include "kernels/cpu/rows_body.h"
