/* ptx_pair.cuh - instructions on pairs of 16-bit floats in a register, and on its bits and bytes.
 *
 * Reference: https://docs.nvidia.com/cuda/parallel-thread-execution/ ; each function is one instruction
 * or says what it is made of. */
#ifndef KERNELS_CUDA_PTX_PAIR_CUH
#define KERNELS_CUDA_PTX_PAIR_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

/* ---- arithmetic ---- */

/* a * b + c, rounded once; subnormals are kept. */
__device__ __forceinline__ uint32_t pair_fma(uint32_t a, uint32_t b, uint32_t c, __nv_bfloat16)
{
    uint32_t d;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

__device__ __forceinline__ uint32_t pair_fma(uint32_t a, uint32_t b, uint32_t c, __half)
{
    uint32_t d;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900 /* which has no other arithmetic on bf16 */
__device__ __forceinline__ uint32_t pair_sub(uint32_t a, uint32_t b, __nv_bfloat16 type)
{
    return pair_fma(b, 0xbf80bf80, a, type);
}

__device__ __forceinline__ uint32_t pair_mul(uint32_t a, uint32_t b, __nv_bfloat16 type)
{
    return pair_fma(a, b, 0x80008000, type);
}
#else
__device__ __forceinline__ uint32_t pair_sub(uint32_t a, uint32_t b, __nv_bfloat16)
{
    uint32_t d;
    asm("sub.rn.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}

__device__ __forceinline__ uint32_t pair_mul(uint32_t a, uint32_t b, __nv_bfloat16)
{
    uint32_t d;
    asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}
#endif

__device__ __forceinline__ uint32_t pair_sub(uint32_t a, uint32_t b, __half)
{
    uint32_t d;
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}

__device__ __forceinline__ uint32_t pair_mul(uint32_t a, uint32_t b, __half)
{
    uint32_t d;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}

/* A pair of f16 in the type of the last argument. */
__device__ __forceinline__ uint32_t pair_from_halves(uint32_t v, __half)
{
    return v;
}

__device__ __forceinline__ uint32_t pair_from_halves(uint32_t v, __nv_bfloat16)
{
    uint32_t d;
    asm("{\n.reg .b16 l, h;\n.reg .f32 a, b;\nmov.b32 {l, h}, %1;\ncvt.f32.f16 a, l;\n"
        "cvt.f32.f16 b, h;\ncvt.rn.bf16x2.f32 %0, b, a;\n}"
        : "=r"(d)
        : "r"(v));
    return d;
}

/* ---- bits and bytes ---- */

/* (a & b) | c */
__device__ __forceinline__ uint32_t bits_and_or(uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t d;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

/* (a & b) ^ c */
__device__ __forceinline__ uint32_t bits_and_xor(uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t d;
    asm("lop3.b32 %0, %1, %2, %3, 0x6a;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

/* where ? a : b, bit by bit */
__device__ __forceinline__ uint32_t bits_choose(uint32_t where, uint32_t a, uint32_t b)
{
    uint32_t d;
    asm("lop3.b32 %0, %1, %2, %3, 0xca;" : "=r"(d) : "r"(where), "r"(a), "r"(b));
    return d;
}

/* prmt: byte i of the result is byte (nibble i of `select`) of b:a; with 8 added, its sign in all
 * bits.  Not __byte_perm, which masks the selectors. */
__device__ __forceinline__ uint32_t bytes_pick(uint32_t a, uint32_t b, uint32_t select)
{
    uint32_t d;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(select));
    return d;
}

#endif
