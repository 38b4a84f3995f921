/* ptx_wgmma.cuh - kernels/cuda/ptx_wgmma.cuh for the simulation. */
#ifndef KERNELS_CUDA_PTX_WGMMA_CUH
#define KERNELS_CUDA_PTX_WGMMA_CUH

#include "kernels/cuda/ptx_sm90.cuh"

inline void bulk_load(uint32_t to, const void *from, uint32_t n_bytes, uint32_t bar)
{
    sim::bulk_copy(to, from, n_bytes, bar);
}

inline void stmatrix_4_trans(uint32_t to, uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    const uint32_t m[4] = {a, b, c, d};
    sim::stmatrix(to, m, true);
}

template <class T, int R>
void wgmma_rows(T type, float (&d)[R], const uint32_t *a, uint64_t b, int add)
{
    sim::wgmma({operand_of(type), 2 * R, d, a, 0, b, add != 0, false});
}

#endif
