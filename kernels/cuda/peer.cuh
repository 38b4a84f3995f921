/* peer.cuh - words that cross from one GPU to another, and how one waits for them.
 *
 * Nothing orders words among each other, and nothing has to: each is waited for by itself (peers.h).
 */
#ifndef KERNELS_CUDA_PEER_CUH
#define KERNELS_CUDA_PEER_CUH

#include "kernels/cuda/peers.h"
#include "kernels/cuda/ptx_peer.cuh"

/* As two 16-bit floats, and as one f32: what crosses for a NaN that looks like EMPTY. */
constexpr uint32_t NAN_ACTS = 0x7fff7fffu, NAN_F32 = 0x7fffffffu;

/* ---- words ---- */

__device__ __forceinline__ bool has_come(uint32_t v)
{
    return v != PEER_EMPTY;
}

__device__ __forceinline__ bool has_come(uint4 v)
{
    return has_come(v.x) && has_come(v.y) && has_come(v.z) && has_come(v.w);
}

__device__ __forceinline__ void empty(uint32_t *at)
{
    peer_store(at, PEER_EMPTY);
}

__device__ __forceinline__ void empty(uint4 *at)
{
    peer_store(at, make_uint4(PEER_EMPTY, PEER_EMPTY, PEER_EMPTY, PEER_EMPTY));
}

/* What crosses for v: another NaN where v looks like EMPTY.  `nan` is of the type of the values. */
__device__ __forceinline__ uint32_t not_empty(uint32_t v, uint32_t nan)
{
    return has_come(v) ? v : nan;
}

__device__ __forceinline__ uint4 not_empty(uint4 v, uint32_t nan)
{
    return make_uint4(not_empty(v.x, nan), not_empty(v.y, nan), not_empty(v.z, nan),
                      not_empty(v.w, nan));
}

/* ---- waiting ---- */

/* Whether to go on waiting for a rank; *since_ns is 0 at first. */
static __device__ __noinline__ bool may_wait(const struct peer_view &v, int rank,
                                             uint64_t *since_ns)
{
    const uint64_t now_ns = global_ns();
    if (*since_ns == 0)
        *since_ns = now_ns;
    if (peer_load(&v.state->failed))
        return false;
    const bool late = now_ns - *since_ns > v.wait_ns;
    if (!late && !v.fault->stop)
        return true;
    if (late)
        v.fault->missing = (uint32_t)rank + 1;
    __threadfence_system();
    peer_store(&v.state->failed, 1);
    return false;
}

/* The word at `at`, which a look before found to be `v`. */
template <class W>
__device__ __forceinline__ W await_word(const struct peer_view &view, int rank, const W *at, W v)
{
    const uint32_t LOOKS = 1024; /* between two looks at the clock: under a millisecond */
    uint64_t since_ns = 0;
    for (uint32_t i = 1; !has_come(v); i++) {
        if (i % LOOKS == 0 && !may_wait(view, rank, &since_ns))
            break;
        v = peer_load(at);
    }
    return v;
}

/* ---- turns ---- */

__device__ __forceinline__ uint32_t turn_of(const struct peer_view &v)
{
    return peer_load(&v.state->turn);
}

/* Each block comes once, when all of its threads have; true for one thread of the last. */
__device__ __forceinline__ bool all_came(uint32_t *n_through)
{
    __syncthreads();
    if (threadIdx.x != 0)
        return false;
    if (gridDim.x > 1 && atomicAdd(n_through, 1) != gridDim.x - 1)
        return false;
    *n_through = 0;
    return true;
}

/* When all threads of a block know the turn. */
__device__ __forceinline__ void turn_taken(const struct peer_view &v, uint32_t turn)
{
    if (all_came(&v.state->n_through))
        v.state->turn = turn + 1;
}

__device__ __forceinline__ struct peer_state *state_of(const struct peer_view &v, int rank)
{
    return reinterpret_cast<struct peer_state *>(v.inbox[rank] + 2 * PEER_HALF_BYTES);
}

/* Where words from rank `from` begin in `to`'s inbox, when each rank has room for `pitch` there. */
template <class W>
__device__ __forceinline__ W *letters(const struct peer_view &v, uint32_t turn, int to, int from,
                                      int pitch)
{
    char *half = v.inbox[to] + (turn & 1) * PEER_HALF_BYTES;
    return reinterpret_cast<W *>(half) + (int64_t)(from < to ? from : from - 1) * pitch;
}

#endif
