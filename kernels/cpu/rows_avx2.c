/* rows_avx2.c - the row kernels for AVX2, FMA and F16C: 8 floats at a time. */
#define ROW_KERNELS row_kernels_avx2
#include "kernels/cpu/rows_body.h"
