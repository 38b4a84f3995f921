/* ptx_sm90.cuh - kernels/cuda/ptx_sm90.cuh for the simulation. */
#ifndef KERNELS_CUDA_PTX_SM90_CUH
#define KERNELS_CUDA_PTX_SM90_CUH

#include "kernels/cuda/ptx.cuh"

template <int N> void registers_give()
{
}

template <int N> void registers_take()
{
}

inline void tensor_copy_3d(uint32_t to, const CUtensorMap *map, uint32_t bar, int x0, int x1,
                           int x2)
{
    sim::tensor_load(to, map, {3, {x0, x1, x2}}, bar, 0);
}

inline void tensor_copy_4d(uint32_t to, const CUtensorMap *map, uint32_t bar, int x0, int x1,
                           int x2, int x3)
{
    sim::tensor_load(to, map, {4, {x0, x1, x2, x3}}, bar, 0);
}

inline void wgmma_fence()
{
}

inline void wgmma_commit()
{
    sim::wgmma_commit_group();
}

template <int PENDING> void wgmma_wait()
{
    sim::wgmma_wait_group(PENDING);
}

template <class T, int N> void registers_pin(T (&)[N])
{
}

inline uint64_t matrix_descriptor(uint32_t address, uint32_t lead, uint32_t stride)
{
    return (uint64_t)((address & 0x3ffff) >> 4) | (uint64_t)(lead >> 4) << 16 |
           (uint64_t)(stride >> 4) << 32 | (uint64_t)1 << 62;
}

/* A lane has a 64th of d[64, n]. */
template <class T, int R> void wgmma_shared(T type, float (&d)[R], uint64_t a, uint64_t b, int add)
{
    sim::wgmma({operand_of(type), 2 * R, d, NULL, a, b, add != 0, false});
}

template <class T, int R> void wgmma_registers(T type, float (&d)[R], const uint32_t *a, uint64_t b)
{
    sim::wgmma({operand_of(type), 2 * R, d, a, 0, b, true, true});
}

#endif
