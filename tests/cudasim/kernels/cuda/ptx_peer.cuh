/* ptx_peer.cuh - kernels/cuda/ptx_peer.cuh for the simulation.
 *
 * A load lets other threads run: who looks for a word in a loop waits for one of them, or for a
 * thread of the host. */
#ifndef KERNELS_CUDA_PTX_PEER_CUH
#define KERNELS_CUDA_PTX_PEER_CUH

#include <sched.h>
#include <time.h>

#include "tests/cudasim/block.h"

inline uint32_t peer_load(const uint32_t *at)
{
    sim::thread_yield();
    return __atomic_load_n(at, __ATOMIC_RELAXED);
}

inline uint4 peer_load(const uint4 *at)
{
    const uint32_t *w = reinterpret_cast<const uint32_t *>(at);
    sim::thread_yield();
    return make_uint4(
        __atomic_load_n(w, __ATOMIC_RELAXED), __atomic_load_n(w + 1, __ATOMIC_RELAXED),
        __atomic_load_n(w + 2, __ATOMIC_RELAXED), __atomic_load_n(w + 3, __ATOMIC_RELAXED));
}

inline void peer_store(uint32_t *at, uint32_t v)
{
    __atomic_store_n(at, v, __ATOMIC_RELAXED);
}

inline void peer_store(uint4 *at, uint4 v)
{
    uint32_t *w = reinterpret_cast<uint32_t *>(at);
    peer_store(w, v.x);
    peer_store(w + 1, v.y);
    peer_store(w + 2, v.z);
    peer_store(w + 3, v.w);
}

inline uint64_t global_ns()
{
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

#endif
