/* cublasLt.h - stands in for the library's header where a probe uses none of it. */
#ifndef TESTS_GPU_STUB_CUBLASLT_H
#define TESTS_GPU_STUB_CUBLASLT_H

typedef struct cublasLtContext *cublasLtHandle_t;

#endif
