/* tensor.h - what a block of numbers is: type, shape, and how it lies in memory.
 *
 * Storage types are those of GGUF (ggml-quants, docs/gguf.md): plain floats, and
 * block formats in which `block` consecutive values of a row share scales.  A row
 * of a block format always has a multiple of `block` values.
 *
 * Shapes are written [rows, cols], cols contiguous.  GGUF writes them the other
 * way round. */
#ifndef KERNELS_TENSOR_H
#define KERNELS_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum dtype {
    DT_F32, DT_F16, DT_BF16,
    DT_Q4_0, DT_Q4_1, DT_Q5_0, DT_Q5_1, DT_Q8_0,    /* 32 values a block */
    DT_Q2_K, DT_Q3_K, DT_Q4_K, DT_Q5_K, DT_Q6_K,    /* 256 values a block */
    DT_N, /* the types above have a file layout; those below are codes of a scheme (scheme.h) */
    DT_INT4 = DT_N, DT_INT8, DT_NF4, DT_FP4, DT_FP8,
    DT_ALL_N
};

struct dtype_traits {
    const char *name; /* "q4_1" */
    int block;        /* values per block; 1 for plain types */
    int block_bytes;  /* bytes per block in the file; of the codes alone where there is a scheme */
    int gguf_id;      /* ggml_type in a GGUF file; -1 = none */
};

extern const struct dtype_traits dtype_traits[DT_ALL_N];

/* The dtype of a ggml_type number, or DT_N when inferd has none. */
enum dtype dtype_from_gguf(uint32_t id);

/* Bytes of rows x cols values as they lie in a file; of a scheme's, the codes without their scales.
 * False when cols is not a multiple of the block, a dimension is negative, or the size does not
 * fit. */
bool tensor_file_bytes(enum dtype dtype, int64_t rows, int64_t cols, size_t *n_bytes);

/* Where the values are and what the device made of them. */
enum layout {
    LAYOUT_PLAIN,  /* row after row, as in the file */
    LAYOUT_PACKED, /* the device's own order for matmul; only its ops read it */
};

struct scheme; /* scheme.h */

struct tensor {
    void *data; /* in device memory */
    enum dtype dtype;
    enum layout layout;
    int64_t rows, cols;
    const struct scheme *scheme; /* of a type from DT_INT4 on, and lives as long; else NULL */
};

/* One row of `cols` values in file layout to float: the definition of every format that has one, in
 * plain C (scheme.h has the others').  The reference for all kernels, itself tested against the gguf Python package. */
void dequantize_row(enum dtype dtype, const void *src, float *dst, int64_t cols);

#ifdef __cplusplus
}
#endif

#endif
