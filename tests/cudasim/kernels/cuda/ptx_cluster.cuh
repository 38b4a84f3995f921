/* ptx_cluster.cuh - kernels/cuda/ptx_cluster.cuh for the simulation. */
#ifndef KERNELS_CUDA_PTX_CLUSTER_CUH
#define KERNELS_CUDA_PTX_CLUSTER_CUH

#include "kernels/cuda/ptx_sm90.cuh"
#include "tests/cudasim/cluster.h"

inline uint32_t cluster_rank()
{
    return (uint32_t)sim::self->block->rank;
}

inline void cluster_sync()
{
    sim::cluster_arrive();
    sim::cluster_wait();
}

inline void cluster_arrive()
{
    sim::cluster_arrive();
}

inline void cluster_wait()
{
    sim::cluster_wait();
}

inline void mbarrier_arrive_at(uint32_t bar, uint32_t rank)
{
    sim::mbarrier_come(sim::self->block->cluster->block.at(rank), bar);
}

inline void tensor_copy_2d(uint32_t to, const CUtensorMap *map, uint32_t bar, int x0, int x1)
{
    sim::tensor_load(to, map, {2, {x0, x1}}, bar, 0);
}

inline void tensor_copy_2d_to_all(uint32_t to, const CUtensorMap *map, uint32_t bar, uint16_t mask,
                                  int x0, int x1)
{
    sim::tensor_load(to, map, {2, {x0, x1}}, bar, mask);
}

inline void tensor_store_2d(const CUtensorMap *map, uint32_t from, int x0, int x1)
{
    sim::tensor_store(map, {2, {x0, x1}}, from);
}

inline void store_commit()
{
    sim::defer_commit(&sim::self->stores);
}

inline void store_wait_read()
{
    sim::defer_wait(&sim::self->stores, 0);
}

inline void store_wait_read_but_one()
{
    sim::defer_wait(&sim::self->stores, 1);
}

inline void store_wait()
{
    sim::defer_wait(&sim::self->stores, 0);
}

inline void stmatrix_4(uint32_t to, uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    const uint32_t m[4] = {a, b, c, d};
    sim::stmatrix(to, m, false);
}

#endif
