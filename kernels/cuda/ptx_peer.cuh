/* ptx_peer.cuh - loads and stores that other GPUs see, and a clock.
 *
 * Relaxed at system scope: they go past the first-level cache, and each 32-bit word arrives whole. */
#ifndef KERNELS_CUDA_PTX_PEER_CUH
#define KERNELS_CUDA_PTX_PEER_CUH

#include <stdint.h>

__device__ __forceinline__ uint4 peer_load(const uint4 *at)
{
    uint4 v;
    asm volatile("ld.relaxed.sys.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(at)
                 : "memory");
    return v;
}

__device__ __forceinline__ void peer_store(uint4 *at, uint4 v)
{
    asm volatile("st.relaxed.sys.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(at), "r"(v.x),
                 "r"(v.y), "r"(v.z), "r"(v.w)
                 : "memory");
}

__device__ __forceinline__ uint32_t peer_load(const uint32_t *at)
{
    uint32_t v;
    asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(at) : "memory");
    return v;
}

__device__ __forceinline__ void peer_store(uint32_t *at, uint32_t v)
{
    asm volatile("st.relaxed.sys.global.u32 [%0], %1;" ::"l"(at), "r"(v) : "memory");
}

/* Nanoseconds, by a clock that all multiprocessors share. */
__device__ __forceinline__ uint64_t global_ns()
{
    uint64_t ns;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns));
    return ns;
}

#endif
