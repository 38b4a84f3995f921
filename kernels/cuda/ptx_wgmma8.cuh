/* ptx_wgmma8.cuh - wgmma of 8-bit operands, K-major, in shared memory, or a in registers; copies of
 * bytes.
 *
 * PTX ISA 8.0 and later, target sm_90a: docs.nvidia.com/cuda/parallel-thread-execution.  Sums of
 * int8 are exact; those of E4M3 keep about 14 bits below the largest term, which is why nobody
 * chains more than 128 k of them (act8.cuh). */
#ifndef KERNELS_CUDA_PTX_WGMMA8_CUH
#define KERNELS_CUDA_PTX_WGMMA8_CUH

#include "kernels/cuda/ptx_cluster.cuh"

/* Keeps the compiler from moving uses of a wgmma's registers over this place. */
template <int N> __device__ __forceinline__ void registers_pin(int (&r)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+r"(r[i])::"memory");
}

/* Descriptor of a matrix in shared memory whose rows have 32 bytes, with 32-byte swizzle: atoms of
 * 8 rows, one behind the other, each at a multiple of 256. */
__device__ __forceinline__ uint64_t matrix_descriptor_32(uint32_t address)
{
    return (uint64_t)((address & 0x3ffff) >> 4) | (uint64_t)1 << 16 | (uint64_t)(256 >> 4) << 32 |
           (uint64_t)3 << 62;
}

/* Operand lists of 16 registers, and values of either type. */
#define WGMMA_NAMES_16                                                                             \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define WGMMA8_V8(c, d, i)                                                                         \
    c(d[i]), c(d[i + 1]), c(d[i + 2]), c(d[i + 3]), c(d[i + 4]), c(d[i + 5]), c(d[i + 6]),         \
        c(d[i + 7])
#define WGMMA8_VALUES_16(c, d) WGMMA8_V8(c, d, 0), WGMMA8_V8(c, d, 8)
#define WGMMA8_VALUES_32(c, d) WGMMA8_VALUES_16(c, d), WGMMA8_V8(c, d, 16), WGMMA8_V8(c, d, 24)
#define WGMMA8_V32(c, d, i)                                                                        \
    WGMMA8_V8(c, d, i), WGMMA8_V8(c, d, i + 8), WGMMA8_V8(c, d, i + 16), WGMMA8_V8(c, d, i + 24)
#define WGMMA8_VALUES_64(c, d) WGMMA8_V32(c, d, 0), WGMMA8_V32(c, d, 32)
#define WGMMA8_VALUES_128(c, d)                                                                    \
    WGMMA8_VALUES_64(c, d), WGMMA8_V32(c, d, 64), WGMMA8_V32(c, d, 96)

/* d[64, N] = (ADD ? d : 0) + a[64, 32] b[N, 32]^T. */
#define WGMMA8(TYPE, C, NAME, TAIL, N, R, A, B, S)                                                 \
    __device__ __forceinline__ void wgmma8(TYPE(&d)[R], uint64_t a, uint64_t b, int add)           \
    {                                                                                              \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #S ", 0;\n"                              \
                     "wgmma.mma_async.sync.aligned.m64n" #N "k32." NAME                            \
                     " {" WGMMA_NAMES_##R "}, %" #A ", %" #B ", p" TAIL ";\n}"                     \
                     : WGMMA8_VALUES_##R(C, d)                                                     \
                     : "l"(a), "l"(b), "r"(add));                                                  \
    }
#define WGMMA8_BOTH(N, R, A, B, S)                                                                 \
    WGMMA8(int, "+r", "s32.s8.s8", "", N, R, A, B, S)                                              \
    WGMMA8(float, "+f", "f32.e4m3.e4m3", ", 1, 1", N, R, A, B, S)

WGMMA8_BOTH(32, 16, 16, 17, 18)
WGMMA8_BOTH(64, 32, 32, 33, 34)
WGMMA8_BOTH(128, 64, 64, 65, 66)
WGMMA8_BOTH(256, 128, 128, 129, 130)

/* d[64, N] = (add ? d : 0) + a[64, 32] b[N, 32]^T, a in registers: with g and t as for mma.sync,
 * those of mma_16832_s8 of a warp's 16 rows. */
#define WGMMA8_REGISTERS(N, R, A0, A1, A2, A3, B, S)                                               \
    __device__ __forceinline__ void wgmma8_registers(int(&d)[R], const uint32_t(&a)[4],            \
                                                     uint64_t b, int add)                          \
    {                                                                                              \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #S ", 0;\n"                              \
                     "wgmma.mma_async.sync.aligned.m64n" #N "k32.s32.s8.s8"                        \
                     " {" WGMMA_NAMES_##R "}, {%" #A0 ", %" #A1 ", %" #A2 ", %" #A3 "}, %" #B      \
                     ", p;\n}"                                                                     \
                     : WGMMA8_VALUES_##R("+r", d)                                                  \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));              \
    }
WGMMA8_REGISTERS(64, 32, 32, 33, 34, 35, 36, 37)
WGMMA8_REGISTERS(128, 64, 64, 65, 66, 67, 68, 69)

/* A box of four dimensions to the same place in each block of `mask`; each block's own barrier
 * counts the bytes. */
__device__ __forceinline__ void tensor_copy_4d_to_all(uint32_t to, const CUtensorMap *map,
                                                      uint32_t bar, uint16_t mask, int x0, int x1,
                                                      int x2, int x3)
{
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                 ".multicast::cluster [%0], [%1, {%4, %5, %6, %7}], [%2], %3;" ::"r"(to),
                 "l"((uint64_t)map), "r"(bar), "h"(mask), "r"(x0), "r"(x1), "r"(x2), "r"(x3)
                 : "memory");
}

/* cp.async.bulk: n_bytes as they lie, a multiple of 16 at multiples of 16. */
__device__ __forceinline__ void bulk_load(uint32_t to, const void *from, uint32_t n_bytes,
                                          uint32_t bar, uint64_t policy)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
                 "[%0], [%1], %2, [%3], %4;" ::"r"(to),
                 "l"(from), "r"(n_bytes), "r"(bar), "l"(policy)
                 : "memory");
}

#endif
