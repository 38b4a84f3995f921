/* ptx_sm90.cuh - what only Hopper has, one a function: setmaxnreg, tensor copies, wgmma.
 *
 * PTX ISA 8.0 and later, target sm_90a: docs.nvidia.com/cuda/parallel-thread-execution.
 * Shared memory addresses are 32-bit addresses of the shared window. */
#ifndef KERNELS_CUDA_PTX_SM90_CUH
#define KERNELS_CUDA_PTX_SM90_CUH

#include "kernels/cuda/ptx.cuh"

template <int N> __device__ __forceinline__ void registers_give()
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

template <int N> __device__ __forceinline__ void registers_take()
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

/* A box of a tensor to shared memory; what lies outside the tensor is zero, and counts too. */
__device__ __forceinline__ void tensor_copy_3d(uint32_t to, const CUtensorMap *map, uint32_t bar,
                                               int x0, int x1, int x2)
{
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4, %5}], [%2];" ::"r"(to),
                 "l"((uint64_t)map), "r"(bar), "r"(x0), "r"(x1), "r"(x2)
                 : "memory");
}

__device__ __forceinline__ void tensor_copy_4d(uint32_t to, const CUtensorMap *map, uint32_t bar,
                                               int x0, int x1, int x2, int x3)
{
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(to),
                 "l"((uint64_t)map), "r"(bar), "r"(x0), "r"(x1), "r"(x2), "r"(x3)
                 : "memory");
}

/* Register writes before it are seen by the wgmma after it. */
__device__ __forceinline__ void wgmma_fence()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void wgmma_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Until at most PENDING of the latest groups run. */
template <int PENDING> __device__ __forceinline__ void wgmma_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

/* Keeps the compiler from moving uses of a wgmma's registers over this place. */
template <int N> __device__ __forceinline__ void registers_pin(float (&r)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+f"(r[i])::"memory");
}

template <int N> __device__ __forceinline__ void registers_pin(uint32_t (&r)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+r"(r[i])::"memory");
}

/* Descriptor of a matrix in shared memory with 128-byte swizzle, 1024-byte aligned atoms of 8
 * rows.  Byte offsets: `lead` between atoms along the contiguous dimension (only where the matrix
 * is wider than an atom and transposed), `stride` between atoms along the other. */
__device__ __forceinline__ uint64_t matrix_descriptor(uint32_t address, uint32_t lead,
                                                      uint32_t stride)
{
    return (uint64_t)((address & 0x3ffff) >> 4) | (uint64_t)(lead >> 4) << 16 |
           (uint64_t)(stride >> 4) << 32 | (uint64_t)1 << 62;
}

/* Operand lists of 32 to 128 registers. */
#define WGMMA_NAMES_32                                                                             \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                       \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define WGMMA_NAMES_48                                                                             \
    WGMMA_NAMES_32 ", "                                                                            \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define WGMMA_NAMES_64                                                                             \
    WGMMA_NAMES_32 ", "                                                                            \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "             \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define WGMMA_NAMES_80                                                                             \
    WGMMA_NAMES_64 ", "                                                                            \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define WGMMA_NAMES_96                                                                             \
    WGMMA_NAMES_64 ", "                                                                            \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "             \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define WGMMA_NAMES_112                                                                            \
    WGMMA_NAMES_96 ", "                                                                            \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"
#define WGMMA_NAMES_128                                                                            \
    WGMMA_NAMES_96 ", "                                                                            \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define WGMMA_V8(d, i)                                                                             \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]),    \
        "+f"(d[i + 6]), "+f"(d[i + 7])
#define WGMMA_V16(d, i) WGMMA_V8(d, i), WGMMA_V8(d, i + 8)
#define WGMMA_V32(d, i) WGMMA_V16(d, i), WGMMA_V16(d, i + 16)
#define WGMMA_VALUES_32(d)  WGMMA_V32(d, 0)
#define WGMMA_VALUES_48(d)  WGMMA_V32(d, 0), WGMMA_V16(d, 32)
#define WGMMA_VALUES_64(d)  WGMMA_V32(d, 0), WGMMA_V32(d, 32)
#define WGMMA_VALUES_80(d)  WGMMA_VALUES_64(d), WGMMA_V16(d, 64)
#define WGMMA_VALUES_96(d)  WGMMA_VALUES_64(d), WGMMA_V32(d, 64)
#define WGMMA_VALUES_112(d) WGMMA_VALUES_96(d), WGMMA_V16(d, 96)
#define WGMMA_VALUES_128(d) WGMMA_VALUES_96(d), WGMMA_V32(d, 96)

/* d[64, N] = (ADD ? d : 0) + a[64, 16] b[N, 16]^T, a and b in shared memory, both K-major. */
#define WGMMA_SHARED(TYPE, NAME, N, R, A, B, S)                                                    \
    __device__ __forceinline__ void wgmma_shared(TYPE, float(&d)[R], uint64_t a, uint64_t b,       \
                                                 int add)                                          \
    {                                                                                              \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #S ", 0;\n"                              \
                     "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." NAME "." NAME               \
                     " {" WGMMA_NAMES_##R "}, %" #A ", %" #B ", p, 1, 1, 0, 0;\n}"                 \
                     : WGMMA_VALUES_##R(d)                                                         \
                     : "l"(a), "l"(b), "r"(add));                                                  \
    }

/* d[64, N] += a[64, 16] b[16, N], a in registers, b in shared memory, N contiguous. */
#define WGMMA_REGISTERS(TYPE, NAME, N, R, A0, A1, A2, A3, B)                                       \
    __device__ __forceinline__ void wgmma_registers(TYPE, float(&d)[R], const uint32_t *a,         \
                                                    uint64_t b)                                    \
    {                                                                                              \
        asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." NAME "." NAME               \
                     " {" WGMMA_NAMES_##R "}, {%" #A0 ", %" #A1 ", %" #A2 ", %" #A3 "}, %" #B      \
                     ", 1, 1, 1, 1;"                                                               \
                     : WGMMA_VALUES_##R(d)                                                         \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                        \
    }

WGMMA_SHARED(__nv_bfloat16, "bf16", 64, 32, 32, 33, 34)
WGMMA_SHARED(__half, "f16", 64, 32, 32, 33, 34)
WGMMA_SHARED(__nv_bfloat16, "bf16", 128, 64, 64, 65, 66)
WGMMA_SHARED(__half, "f16", 128, 64, 64, 65, 66)
WGMMA_REGISTERS(__nv_bfloat16, "bf16", 64, 32, 32, 33, 34, 35, 36)
WGMMA_REGISTERS(__half, "f16", 64, 32, 32, 33, 34, 35, 36)
WGMMA_REGISTERS(__nv_bfloat16, "bf16", 128, 64, 64, 65, 66, 67, 68)
WGMMA_REGISTERS(__half, "f16", 128, 64, 64, 65, 66, 67, 68)
WGMMA_REGISTERS(__nv_bfloat16, "bf16", 256, 128, 128, 129, 130, 131, 132)
WGMMA_REGISTERS(__half, "f16", 256, 128, 128, 129, 130, 131, 132)

#endif
