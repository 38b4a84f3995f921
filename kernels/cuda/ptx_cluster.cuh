/* ptx_cluster.cuh - what blocks of a cluster share, and tensor copies out of shared memory.
 *
 * PTX ISA 8.0 and later, target sm_90a: docs.nvidia.com/cuda/parallel-thread-execution. */
#ifndef KERNELS_CUDA_PTX_CLUSTER_CUH
#define KERNELS_CUDA_PTX_CLUSTER_CUH

#include "kernels/cuda/ptx_sm90.cuh"

WGMMA_SHARED(__nv_bfloat16, "bf16", 96, 48, 48, 49, 50)
WGMMA_SHARED(__half, "f16", 96, 48, 48, 49, 50)
WGMMA_SHARED(__nv_bfloat16, "bf16", 160, 80, 80, 81, 82)
WGMMA_SHARED(__half, "f16", 160, 80, 80, 81, 82)
WGMMA_SHARED(__nv_bfloat16, "bf16", 192, 96, 96, 97, 98)
WGMMA_SHARED(__half, "f16", 192, 96, 96, 97, 98)
WGMMA_SHARED(__nv_bfloat16, "bf16", 224, 112, 112, 113, 114)
WGMMA_SHARED(__half, "f16", 224, 112, 112, 113, 114)
WGMMA_SHARED(__nv_bfloat16, "bf16", 256, 128, 128, 129, 130)
WGMMA_SHARED(__half, "f16", 256, 128, 128, 129, 130)

__device__ __forceinline__ uint32_t cluster_rank()
{
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

/* All threads of all blocks of the cluster. */
__device__ __forceinline__ void cluster_sync()
{
    asm volatile("barrier.cluster.arrive.release.aligned;\n"
                 "barrier.cluster.wait.acquire.aligned;" ::
                     : "memory");
}

/* The same in two steps: a thread that needs nobody else need not wait; those of one warp wait all
 * or have ended.  Of what was written before only barriers are seen after it, where
 * fence_mbarrier_init came between: a release would be a fence of the whole GPU. */
__device__ __forceinline__ void cluster_arrive()
{
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}

__device__ __forceinline__ void cluster_wait()
{
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
}

/* Arrives at the barrier that lies at the same place in block `rank`. */
__device__ __forceinline__ void mbarrier_arrive_at(uint32_t bar, uint32_t rank)
{
    asm volatile("{\n"
                 ".reg .b32 remote;\n"
                 "mapa.shared::cluster.u32 remote, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [remote];\n"
                 "}" ::"r"(bar),
                 "r"(rank)
                 : "memory");
}

__device__ __forceinline__ void tensor_copy_2d(uint32_t to, const CUtensorMap *map, uint32_t bar,
                                               int x0, int x1)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4}], [%2];" ::"r"(to),
                 "l"((uint64_t)map), "r"(bar), "r"(x0), "r"(x1)
                 : "memory");
}

/* To the same place in each block of `mask`; each block's own barrier counts the bytes. */
__device__ __forceinline__ void tensor_copy_2d_to_all(uint32_t to, const CUtensorMap *map,
                                                      uint32_t bar, uint16_t mask, int x0, int x1)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                 ".multicast::cluster [%0], [%1, {%4, %5}], [%2], %3;" ::"r"(to),
                 "l"((uint64_t)map), "r"(bar), "h"(mask), "r"(x0), "r"(x1)
                 : "memory");
}

/* A box of shared memory to a tensor; what lies outside the tensor is dropped. */
__device__ __forceinline__ void tensor_store_2d(const CUtensorMap *map, uint32_t from, int x0,
                                                int x1)
{
    asm volatile(
        "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(
            (uint64_t)map),
        "r"(from), "r"(x0), "r"(x1)
        : "memory");
}

__device__ __forceinline__ void store_commit()
{
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

/* Until shared memory that was being stored may be written again. */
__device__ __forceinline__ void store_wait_read()
{
    asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

/* The same of all but the last commit. */
__device__ __forceinline__ void store_wait_read_but_one()
{
    asm volatile("cp.async.bulk.wait_group.read 1;" ::: "memory");
}

/* Until all stores of this thread are done. */
__device__ __forceinline__ void store_wait()
{
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

/* Four 8x8 matrices of 16-bit values; lane l gives the address of row l % 8 of matrix l / 8. */
__device__ __forceinline__ void stmatrix_4(uint32_t to, uint32_t a, uint32_t b, uint32_t c,
                                           uint32_t d)
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to),
                 "r"(a), "r"(b), "r"(c), "r"(d)
                 : "memory");
}

#endif
