/* ptx.cuh - kernels/cuda/ptx.cuh for the simulation: the same functions, by the host. */
#ifndef KERNELS_CUDA_PTX_CUH
#define KERNELS_CUDA_PTX_CUH

#include <float.h>

#include "tests/cudasim/async.h"
#include "tests/cudasim/mma.h"
#include "tests/cudasim/tensor_map.h"

#define DYNAMIC_SHARED(type, name)                                                                 \
    struct dynamic_##name {                                                                        \
        type first;                                                                                \
    };                                                                                             \
    auto *const name = &reinterpret_cast<dynamic_##name *>(                                        \
                            sim::self->block->shared.dynamic(alignof(dynamic_##name)))             \
                            ->first

inline uint32_t shared_addr(const void *p)
{
    return sim::self->block->shared.address(p);
}

inline char *shared_place(uint32_t at, size_t n_bytes)
{
    if (at % n_bytes != 0)
        sim::fail("%zu bytes of shared memory at %#x, which is no multiple", n_bytes, at);
    return sim::self->block->shared.at(at, n_bytes);
}

/* ---- programmatic dependent launch: grids run one behind the other ---- */

inline float reciprocal_near(float v)
{
    const float r = 1 / v;
    return fabsf(r) < FLT_MIN ? copysignf(0, r) : r; /* .ftz */
}

inline int32_t atomic_add_acq_rel(int32_t *at, int32_t v)
{
    return atomicAdd(at, v);
}

inline uint32_t computed_again(uint32_t v)
{
    return v;
}

/* Lets other threads run: who looks for a word in a loop waits for one of them, or for a thread of
 * the host. */
inline int32_t load_acquire(const int32_t *at)
{
    sim::thread_yield();
    return __atomic_load_n(at, __ATOMIC_ACQUIRE);
}

inline void store_release(int32_t *at, int32_t v)
{
    __atomic_store_n(at, v, __ATOMIC_RELEASE);
}

inline void depend_wait()
{
}

inline void depend_launch()
{
}

/* ---- barriers ---- */

inline void barrier_sync(int id, int n_threads)
{
    sim::barrier_come(id, n_threads, true, 0);
}

inline void barrier_arrive(int id, int n_threads)
{
    sim::barrier_come(id, n_threads, false, 0);
}

inline void mbarrier_init(uint32_t bar, uint32_t n_arrivals)
{
    sim::mbarrier_begin(sim::self->block, bar, n_arrivals);
}

inline void fence_mbarrier_init()
{
}

inline void fence_proxy_async()
{
}

inline void mbarrier_arrive(uint32_t bar)
{
    sim::mbarrier_come(sim::self->block, bar);
}

inline void mbarrier_arrive_expect(uint32_t bar, uint32_t n_bytes)
{
    sim::mbarrier_bytes(sim::self->block, bar, n_bytes);
    sim::mbarrier_come(sim::self->block, bar);
}

/* Looks twice, and sleeps between. */
inline bool mbarrier_try_wait(uint32_t bar, uint32_t parity)
{
    sim::block *const b = sim::self->block;
    if (!sim::mbarrier_has_passed(b, bar, parity))
        sim::mbarrier_sleep(b, bar);
    return sim::mbarrier_has_passed(b, bar, parity);
}

inline void mbarrier_wait(uint32_t bar, uint32_t parity)
{
    while (!mbarrier_try_wait(bar, parity)) {
    }
}

inline void mbarrier_wait_inside(uint32_t bar, uint32_t parity)
{
    mbarrier_wait(bar, parity);
}

/* ---- copies to shared memory ---- */

inline uint64_t policy_evict_first()
{
    return 1;
}

inline uint64_t policy_evict_last()
{
    return 2;
}

inline void cp_async_16(uint32_t to, const void *from, int n_bytes = 16)
{
    char *const at = shared_place(to, 16);
    if (n_bytes < 0 || n_bytes > 16 || reinterpret_cast<uintptr_t>(from) % 16 != 0)
        sim::fail("cp.async of %d bytes from %p", n_bytes, from);
    sim::defer(&sim::self->copies, [=] {
        memset(at, 0, 16);
        if (n_bytes > 0)
            memcpy(at, from, (size_t)n_bytes);
    });
}

inline void cp_async_16(uint32_t to, const void *from, int n_bytes, uint64_t)
{
    cp_async_16(to, from, n_bytes);
}

inline void cp_async_commit()
{
    sim::defer_commit(&sim::self->copies);
}

template <int N> void cp_async_wait()
{
    sim::defer_wait(&sim::self->copies, N);
}

inline void prefetch_l1(const void *)
{
}

inline void prefetch_l2(const void *)
{
}

inline void tensor_map_prefetch(const CUtensorMap *)
{
}

inline void tensor_load_2d(uint32_t to, const CUtensorMap *map, int x, int y, uint32_t bar,
                           uint64_t)
{
    sim::tensor_load(to, map, {2, {x, y}}, bar, 0);
}

inline void tensor_load_3d(uint32_t to, const CUtensorMap *map, int x, int y, int z, uint32_t bar,
                           uint64_t)
{
    sim::tensor_load(to, map, {3, {x, y, z}}, bar, 0);
}

inline void tensor_load_4d(uint32_t to, const CUtensorMap *map, int x, int y, int z, int v,
                           uint32_t bar, uint64_t)
{
    sim::tensor_load(to, map, {4, {x, y, z, v}}, bar, 0);
}

/* ---- shared memory by its address ---- */

template <class T> T load_shared_as(uint32_t at)
{
    T v;
    memcpy(&v, shared_place(at, sizeof v), sizeof v);
    return v;
}

inline uint4 load_shared_16(uint32_t at)
{
    return load_shared_as<uint4>(at);
}

inline uint2 load_shared_8(uint32_t at)
{
    return load_shared_as<uint2>(at);
}

inline uint32_t load_shared_4(uint32_t at)
{
    return load_shared_as<uint32_t>(at);
}

inline uint32_t load_shared_2(uint32_t at)
{
    return load_shared_as<uint16_t>(at);
}

inline uint32_t load_shared_2_signed(uint32_t at)
{
    return (uint32_t)(int32_t)load_shared_as<int16_t>(at);
}

inline void store_shared_16(uint32_t to, uint4 v)
{
    memcpy(shared_place(to, 16), &v, 16);
}

inline void store_shared(uint32_t to, float v)
{
    memcpy(shared_place(to, sizeof v), &v, sizeof v);
}

inline void store_shared(uint32_t to, const float v[4])
{
    memcpy(shared_place(to, 16), v, 16);
}

/* ---- fragments ---- */

inline void ldmatrix_x4(uint32_t m[4], uint32_t addr)
{
    sim::ldmatrix(m, addr, false);
}

inline void ldmatrix_x4_trans(uint32_t m[4], uint32_t addr)
{
    sim::ldmatrix(m, addr, true);
}

template <class T> T in_register(T v)
{
    return v;
}

inline uint32_t transpose_8x8(uint32_t two)
{
    return sim::movmatrix(two);
}

inline void mma_16832_s8(int32_t d[4], const uint32_t a[4], const uint32_t b[2])
{
    sim::mma_s8(d, a, b);
}

inline sim::operand operand_of(__nv_bfloat16)
{
    return sim::OPERAND_BF16;
}

inline sim::operand operand_of(__half)
{
    return sim::OPERAND_F16;
}

template <class T> void mma_16816(float d[4], const uint32_t a[4], const uint32_t b[2], T type)
{
    sim::mma(d, a, b, operand_of(type));
}

/* ---- arithmetic ---- */

inline float exp2_approx(float x)
{
    const float y = exp2f(x);
    return y < 0x1p-126f ? 0 : y;
}

inline float max_nan(float a, float b)
{
    return a != a || b != b ? __builtin_nanf("") : fmaxf(a, b);
}

#endif
