/* ptx_wgmma8.cuh - kernels/cuda/ptx_wgmma8.cuh for the simulation. */
#ifndef KERNELS_CUDA_PTX_WGMMA8_CUH
#define KERNELS_CUDA_PTX_WGMMA8_CUH

#include "kernels/cuda/ptx_cluster.cuh"

inline uint64_t matrix_descriptor_32(uint32_t address)
{
    return (uint64_t)((address & 0x3ffff) >> 4) | (uint64_t)1 << 16 | (uint64_t)(256 >> 4) << 32 |
           (uint64_t)3 << 62;
}

template <int R> void wgmma8(int (&d)[R], uint64_t a, uint64_t b, int add)
{
    sim::wgmma({sim::OPERAND_S8, 2 * R, d, NULL, a, b, add != 0, false});
}

template <int R> void wgmma8(float (&d)[R], uint64_t a, uint64_t b, int add)
{
    sim::wgmma({sim::OPERAND_E4M3, 2 * R, d, NULL, a, b, add != 0, false});
}

template <int R> void wgmma8_registers(int (&d)[R], const uint32_t (&a)[4], uint64_t b, int add)
{
    sim::wgmma({sim::OPERAND_S8, 2 * R, d, a, 0, b, add != 0, false});
}

inline void tensor_copy_4d_to_all(uint32_t to, const CUtensorMap *map, uint32_t bar, uint16_t mask,
                                  int x0, int x1, int x2, int x3)
{
    sim::tensor_load(to, map, {4, {x0, x1, x2, x3}}, bar, mask);
}

inline void bulk_load(uint32_t to, const void *from, uint32_t n_bytes, uint32_t bar, uint64_t)
{
    sim::bulk_copy(to, from, n_bytes, bar);
}

#endif
