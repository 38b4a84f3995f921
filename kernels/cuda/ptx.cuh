/* ptx.cuh - the PTX instructions that CUDA C++ has no word for, one a function.
 *
 * Reference: https://docs.nvidia.com/cuda/parallel-thread-execution/ ; each function names its
 * instruction.  Shared memory is addressed by 32 bits: shared_addr.  What needs sm_90 says so;
 * the rest runs from sm_80. */
#ifndef KERNELS_CUDA_PTX_CUH
#define KERNELS_CUDA_PTX_CUH

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

/* Declares the shared memory whose size the launch gives. */
#define DYNAMIC_SHARED(type, name) extern __shared__ type name[]

__device__ __forceinline__ uint32_t shared_addr(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* v in a register: what made it is not computed again where it is used. */
__device__ __forceinline__ uint32_t in_register(uint32_t v)
{
    asm("" : "+r"(v));
    return v;
}

/* v, and what is made from it is made here: not before a loop, to be kept in registers through it. */
__device__ __forceinline__ uint32_t computed_again(uint32_t v)
{
    asm volatile("" : "+r"(v));
    return v;
}

__device__ __forceinline__ float in_register(float v)
{
    asm("" : "+f"(v));
    return v;
}

/* rcp.approx.ftz: 1 / v, off by one unit in the last place at most. */
__device__ __forceinline__ float reciprocal_near(float v)
{
    float r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v));
    return r;
}

/* ---- programmatic dependent launch (sm_90) ---- */

/* griddepcontrol.wait: until the grids before this one are complete and their writes seen.  A no-op
 * in a kernel launched without the attribute. */
__device__ __forceinline__ void depend_wait()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* griddepcontrol.launch_dependents: the next grid may start once every block has said so. */
__device__ __forceinline__ void depend_launch()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* atom.acq_rel.gpu.add: what this thread, or one that met it at a barrier before, wrote is seen by
 * whoever adds later, and the other way round.  Returns what was there. */
__device__ __forceinline__ int32_t atomic_add_acq_rel(int32_t *at, int32_t v)
{
    int32_t before;
    asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], %2;"
                 : "=r"(before)
                 : "l"(at), "r"(v)
                 : "memory");
    return before;
}

/* ld.acquire.gpu: what was written before what it sees was released is seen after it. */
__device__ __forceinline__ int32_t load_acquire(const int32_t *at)
{
    int32_t v;
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(v) : "l"(at) : "memory");
    return v;
}

/* st.release.gpu: what this thread, or one that met it at a barrier before, wrote is seen by whoever
 * acquires v. */
__device__ __forceinline__ void store_release(int32_t *at, int32_t v)
{
    asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(at), "r"(v) : "memory");
}

/* ---- barriers ---- */

/* bar.sync: a barrier of `n_threads` of the block, which call with the same id in [1, 16). */
__device__ __forceinline__ void barrier_sync(int id, int n_threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(n_threads) : "memory");
}

/* bar.arrive: comes to such a barrier without waiting. */
__device__ __forceinline__ void barrier_arrive(int id, int n_threads)
{
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(n_threads) : "memory");
}

/* A phase ends after n_arrivals and all bytes that it was told to expect. */
__device__ __forceinline__ void mbarrier_init(uint32_t bar, uint32_t n_arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(n_arrivals) : "memory");
}

/* fence.mbarrier_init (sm_90): makes inits visible to the copy engine and to the cluster. */
__device__ __forceinline__ void fence_mbarrier_init()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/* fence.proxy.async (sm_90): ordinary writes to shared memory before what the copy engine or wgmma
 * read or write after. */
__device__ __forceinline__ void fence_proxy_async()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

__device__ __forceinline__ void mbarrier_arrive(uint32_t bar)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}

/* mbarrier.arrive.expect_tx (sm_90): arrive, and wait for `n_bytes` of copies too. */
__device__ __forceinline__ void mbarrier_arrive_expect(uint32_t bar, uint32_t n_bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(n_bytes)
                 : "memory");
}

/* mbarrier.try_wait.parity (sm_90): is the phase of that parity complete?  May suspend the thread
 * for a while. */
__device__ __forceinline__ bool mbarrier_try_wait(uint32_t bar, uint32_t parity)
{
    uint32_t done;
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                 "selp.u32 %0, 1, 0, p;\n"
                 "}"
                 : "=r"(done)
                 : "r"(bar), "r"(parity)
                 : "memory");
    return done != 0;
}

/* Until it is.  With MBARRIER_SPINS_MAX (tests) a wait without end becomes a fault. */
__device__ __forceinline__ void mbarrier_wait(uint32_t bar, uint32_t parity)
{
#ifdef MBARRIER_SPINS_MAX
    for (int spin = 0; !mbarrier_try_wait(bar, parity); spin++)
        if (spin > MBARRIER_SPINS_MAX)
            __trap();
#else
    while (!mbarrier_try_wait(bar, parity)) {
    }
#endif
}

/* The same wait with its loop inside: the compiler sees no branch, and schedules otherwise.  What
 * matmul_skinny.cu was measured with. */
__device__ __forceinline__ void mbarrier_wait_inside(uint32_t bar, uint32_t parity)
{
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n"
                 "}\n" ::"r"(bar),
                 "r"(parity)
                 : "memory");
}

/* ---- copies to shared memory ---- */

/* createpolicy.fractional.L2 (sm_80): for what is read once. */
__device__ __forceinline__ uint64_t policy_evict_first()
{
    uint64_t policy;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

/* For what every block reads. */
__device__ __forceinline__ uint64_t policy_evict_last()
{
    uint64_t policy;
    asm volatile("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

/* cp.async of 16 bytes, past L1; the bytes from n_bytes (0 .. 16) on become zero. */
__device__ __forceinline__ void cp_async_16(uint32_t to, const void *from, int n_bytes = 16)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(n_bytes)
                 : "memory");
}

/* The same with an L2 policy. */
__device__ __forceinline__ void cp_async_16(uint32_t to, const void *from, int n_bytes,
                                            uint64_t policy)
{
    asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;" ::"r"(to),
                 "l"(from), "r"(n_bytes), "l"(policy)
                 : "memory");
}

/* st.shared */
__device__ __forceinline__ void store_shared(uint32_t to, float v)
{
    asm volatile("st.shared.f32 [%0], %1;" ::"r"(to), "f"(v) : "memory");
}

__device__ __forceinline__ void cp_async_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* cp.async.wait_group: all but the last N committed groups of this thread are there. */
template <int N> __device__ __forceinline__ void cp_async_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* prefetch.global.L2: the line of an address. */
__device__ __forceinline__ void prefetch_l2(const void *at)
{
    asm volatile("prefetch.global.L2 [%0];" ::"l"(at));
}

/* The same into the SM's own cache. */
__device__ __forceinline__ void prefetch_l1(const void *at)
{
    asm volatile("prefetch.global.L1 [%0];" ::"l"(at));
}

/* prefetch.tensormap (sm_90). */
__device__ __forceinline__ void tensor_map_prefetch(const CUtensorMap *map)
{
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/* cp.async.bulk.tensor.2d (sm_90): the map's box at (x, y), x innermost; what lies outside of the
 * tensor becomes zero, and is counted. */
__device__ __forceinline__ void tensor_load_2d(uint32_t to, const CUtensorMap *map, int x, int y,
                                               uint32_t bar, uint64_t policy)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".L2::cache_hint [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
                 "l"(map), "r"(x), "r"(y), "r"(bar), "l"(policy)
                 : "memory");
}

/* The same of three and of four dimensions. */
__device__ __forceinline__ void tensor_load_3d(uint32_t to, const CUtensorMap *map, int x, int y,
                                               int z, uint32_t bar, uint64_t policy)
{
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".L2::cache_hint [%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(to),
                 "l"(map), "r"(x), "r"(y), "r"(z), "r"(bar), "l"(policy)
                 : "memory");
}

__device__ __forceinline__ void tensor_load_4d(uint32_t to, const CUtensorMap *map, int x, int y,
                                               int z, int v, uint32_t bar, uint64_t policy)
{
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".L2::cache_hint [%0], [%1, {%2, %3, %4, %5}], [%6], %7;" ::"r"(to),
                 "l"(map), "r"(x), "r"(y), "r"(z), "r"(v), "r"(bar), "l"(policy)
                 : "memory");
}

/* ld.shared, st.shared */
__device__ __forceinline__ uint4 load_shared_16(uint32_t at)
{
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(at));
    return v;
}

__device__ __forceinline__ uint2 load_shared_8(uint32_t at)
{
    uint2 v;
    asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(at));
    return v;
}

__device__ __forceinline__ uint32_t load_shared_4(uint32_t at)
{
    uint32_t v;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(at));
    return v;
}

__device__ __forceinline__ uint32_t load_shared_2(uint32_t at)
{
    uint16_t v;
    asm volatile("ld.shared.u16 %0, [%1];" : "=h"(v) : "r"(at));
    return v;
}

/* Of a signed number. */
__device__ __forceinline__ uint32_t load_shared_2_signed(uint32_t at)
{
    int32_t v;
    asm volatile("ld.shared.s16 %0, [%1];" : "=r"(v) : "r"(at));
    return (uint32_t)v;
}

__device__ __forceinline__ void store_shared_16(uint32_t to, uint4 v)
{
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(v.x), "r"(v.y), "r"(v.z),
                 "r"(v.w)
                 : "memory");
}

__device__ __forceinline__ void store_shared(uint32_t to, const float v[4])
{
    asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(to), "f"(v[0]), "f"(v[1]),
                 "f"(v[2]), "f"(v[3])
                 : "memory");
}

/* ---- fragments ---- */

/* ldmatrix: 8 rows of 16 bytes a matrix; lane 8i + r gives the address of row r of matrix i. */
__device__ __forceinline__ void ldmatrix_x4(uint32_t m[4], uint32_t addr)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(addr)
                 : "memory");
}

__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t m[4], uint32_t addr)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(addr)
                 : "memory");
}

/* movmatrix: row g, columns 2t and 2t + 1 of 8 x 8 halves become those of the transpose. */
__device__ __forceinline__ uint32_t transpose_8x8(uint32_t two)
{
    uint32_t turned;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(turned) : "r"(two));
    return turned;
}

/* mma.sync.m16n8k16: d[16, 8] += a[16, 16] b[16, 8], f32 sums.  With g = lane / 4 and t = lane % 4,
 * a holds rows g, g + 8 at k 2t, 2t + 1 (a0, a1) and k + 8 (a2, a3); b holds column g at k 2t, 2t +
 * 1 and k + 8; d holds row g (d0, d1) and g + 8 at columns 2t, 2t + 1. */
__device__ __forceinline__ void mma_16816(float d[4], const uint32_t a[4], const uint32_t b[2],
                                          __nv_bfloat16)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void mma_16816(float d[4], const uint32_t a[4], const uint32_t b[2],
                                          __half)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* mma.sync.m16n8k32: the same of 8-bit integers, a[16, 32] b[32, 8]: with g and t as above a
 * register holds k 4t .. 4t + 3, a2, a3 and b1 those 16 behind. */
__device__ __forceinline__ void mma_16832_s8(int32_t d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* ---- arithmetic ---- */

/* ex2.approx: 2^x within 2 units in the last place; 0 for -infinity. */
__device__ __forceinline__ float exp2_approx(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* max.NaN: the larger, or NaN if one of them is. */
__device__ __forceinline__ float max_nan(float a, float b)
{
    float c;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(c) : "f"(a), "f"(b));
    return c;
}

#endif
