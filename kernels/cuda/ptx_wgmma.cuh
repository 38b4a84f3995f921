/* ptx_wgmma.cuh - wgmma with A in registers and B in shared memory along k, by its columns.
 *
 * PTX ISA 8.0 and later, target sm_90a: docs.nvidia.com/cuda/parallel-thread-execution. */
#ifndef KERNELS_CUDA_PTX_WGMMA_CUH
#define KERNELS_CUDA_PTX_WGMMA_CUH

#include "kernels/cuda/ptx_sm90.cuh"

/* bulk_load, as L2 likes. */
__device__ __forceinline__ void bulk_load(uint32_t to, const void *from, uint32_t n_bytes,
                                          uint32_t bar)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1], %2, [%3];" ::"r"(to),
                 "l"(from), "r"(n_bytes), "r"(bar)
                 : "memory");
}

/* stmatrix: as stmatrix_4, each matrix turned: a lane's values are neighbours in a column. */
__device__ __forceinline__ void stmatrix_4_trans(uint32_t to, uint32_t a, uint32_t b, uint32_t c,
                                                 uint32_t d)
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to),
                 "r"(a), "r"(b), "r"(c), "r"(d)
                 : "memory");
}

#define WGMMA_V4(d, i)     "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define WGMMA_NAMES_16     "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define WGMMA_VALUES_16(d) WGMMA_V8(d, 0), WGMMA_V8(d, 8)
#define WGMMA_NAMES_24     WGMMA_NAMES_16 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define WGMMA_VALUES_24(d) WGMMA_V16(d, 0), WGMMA_V8(d, 16)
#define WGMMA_NAMES_36     WGMMA_NAMES_32 ", %32, %33, %34, %35"
#define WGMMA_VALUES_36(d) WGMMA_V32(d, 0), WGMMA_V4(d, 32)
#define WGMMA_NAMES_40     WGMMA_NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define WGMMA_VALUES_40(d) WGMMA_V32(d, 0), WGMMA_V8(d, 32)
#define WGMMA_NAMES_44     WGMMA_NAMES_40 ", %40, %41, %42, %43"
#define WGMMA_VALUES_44(d) WGMMA_VALUES_40(d), WGMMA_V4(d, 40)
#define WGMMA_NAMES_56     WGMMA_NAMES_48 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define WGMMA_VALUES_56(d) WGMMA_VALUES_48(d), WGMMA_V8(d, 48)
#define WGMMA_NAMES_72     WGMMA_NAMES_64 ", %64, %65, %66, %67, %68, %69, %70, %71"
#define WGMMA_VALUES_72(d) WGMMA_VALUES_64(d), WGMMA_V8(d, 64)
#define WGMMA_NAMES_88     WGMMA_NAMES_80 ", %80, %81, %82, %83, %84, %85, %86, %87"
#define WGMMA_VALUES_88(d) WGMMA_VALUES_80(d), WGMMA_V8(d, 80)

/* d[64, N] = (ADD ? d : 0) + a[64, 16] b[N, 16]^T; a is what mma.m16n8k16 takes, 16 rows a warp. */
#define WGMMA_ROWS(TYPE, NAME, N, R, A0, A1, A2, A3, B, ADD)                                       \
    __device__ __forceinline__ void wgmma_rows(TYPE, float(&d)[R], const uint32_t *a, uint64_t b,  \
                                               int add)                                            \
    {                                                                                              \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #ADD ", 0;\n"                            \
                     "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." NAME "." NAME               \
                     " {" WGMMA_NAMES_##R "}, {%" #A0 ", %" #A1 ", %" #A2 ", %" #A3 "}, %" #B      \
                                          ", p, 1, 1, 0;\n}"                                       \
                     : WGMMA_VALUES_##R(d)                                                         \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));              \
    }

WGMMA_ROWS(__nv_bfloat16, "bf16", 32, 16, 16, 17, 18, 19, 20, 21)
WGMMA_ROWS(__half, "f16", 32, 16, 16, 17, 18, 19, 20, 21)
WGMMA_ROWS(__nv_bfloat16, "bf16", 48, 24, 24, 25, 26, 27, 28, 29)
WGMMA_ROWS(__half, "f16", 48, 24, 24, 25, 26, 27, 28, 29)
WGMMA_ROWS(__nv_bfloat16, "bf16", 64, 32, 32, 33, 34, 35, 36, 37)
WGMMA_ROWS(__half, "f16", 64, 32, 32, 33, 34, 35, 36, 37)
WGMMA_ROWS(__nv_bfloat16, "bf16", 72, 36, 36, 37, 38, 39, 40, 41)
WGMMA_ROWS(__half, "f16", 72, 36, 36, 37, 38, 39, 40, 41)
WGMMA_ROWS(__nv_bfloat16, "bf16", 80, 40, 40, 41, 42, 43, 44, 45)
WGMMA_ROWS(__half, "f16", 80, 40, 40, 41, 42, 43, 44, 45)
WGMMA_ROWS(__nv_bfloat16, "bf16", 88, 44, 44, 45, 46, 47, 48, 49)
WGMMA_ROWS(__half, "f16", 88, 44, 44, 45, 46, 47, 48, 49)
WGMMA_ROWS(__nv_bfloat16, "bf16", 96, 48, 48, 49, 50, 51, 52, 53)
WGMMA_ROWS(__half, "f16", 96, 48, 48, 49, 50, 51, 52, 53)
WGMMA_ROWS(__nv_bfloat16, "bf16", 112, 56, 56, 57, 58, 59, 60, 61)
WGMMA_ROWS(__half, "f16", 112, 56, 56, 57, 58, 59, 60, 61)
WGMMA_ROWS(__nv_bfloat16, "bf16", 128, 64, 64, 65, 66, 67, 68, 69)
WGMMA_ROWS(__half, "f16", 128, 64, 64, 65, 66, 67, 68, 69)
WGMMA_ROWS(__nv_bfloat16, "bf16", 144, 72, 72, 73, 74, 75, 76, 77)
WGMMA_ROWS(__half, "f16", 144, 72, 72, 73, 74, 75, 76, 77)
WGMMA_ROWS(__nv_bfloat16, "bf16", 160, 80, 80, 81, 82, 83, 84, 85)
WGMMA_ROWS(__half, "f16", 160, 80, 80, 81, 82, 83, 84, 85)
WGMMA_ROWS(__nv_bfloat16, "bf16", 176, 88, 88, 89, 90, 91, 92, 93)
WGMMA_ROWS(__half, "f16", 176, 88, 88, 89, 90, 91, 92, 93)

#endif
