/* rows_scalar.c - the row kernels for any processor: the plain C reference. */
#define ROW_KERNELS row_kernels_scalar
#include "kernels/cpu/rows_body.h"
