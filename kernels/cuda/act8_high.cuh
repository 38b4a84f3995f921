/* act8_high.cuh - high bytes of outliers (act8.h) in a wide product: the few columns that have any,
 * gathered while the tile is multiplied.
 *
 * The quantizing kernel notes these columns in a mask, of which every block makes the list.  Stages
 * of w lie in shared memory anyway: as each comes by, one warp copies the listed columns of it to a
 * tile of their own, and two warps bring the high bytes of x in these columns.  HIGH_GROUP of them
 * are one wgmma more for those who multiply.  So no weight is fetched twice.  Which columns are a
 * group is up to the list alone: everyone goes through the groups in step, without a word but two
 * barriers.
 *
 * With more columns than are listed, each meets its high bytes: the ring brings all of w again. */
#ifndef KERNELS_CUDA_ACT8_HIGH_CUH
#define KERNELS_CUDA_ACT8_HIGH_CUH

#include "kernels/cuda/act8_ring.cuh"

namespace
{

struct high_args {
    const uint8_t *codes; /* [rows, stride] */
    uint32_t *mask;       /* [chunks * 4] */
    uint32_t *readers;    /* blocks that have read the mask */
    int rows, stride, chunks, listed_max;
};

/* ---- the list ---- */

/* Sum of n of the lanes before this one; *all = of all. */
__device__ inline int warp_before(int n, int *all)
{
    const int lane = threadIdx.x % 32;
    int sum = n;
#pragma unroll
    for (int by = 1; by < 32; by *= 2) {
        const int from = __shfl_up_sync(0xffffffffu, sum, by);
        sum += lane >= by ? from : 0;
    }
    *all = __shfl_sync(0xffffffffu, sum, 31);
    return sum - n;
}

/* Each lane's 128 columns of the mask behind the first n of the list; how many there are then. */
__device__ inline int list_append(high_list *list, int n, uint4 bits, int chunk)
{
    const uint32_t word[4] = {bits.x, bits.y, bits.z, bits.w};
    const int mine = __popc(word[0]) + __popc(word[1]) + __popc(word[2]) + __popc(word[3]);
    if (!__any_sync(0xffffffffu, mine > 0))
        return n;
    int all, at = n + warp_before(mine, &all);
#pragma unroll
    for (int i = 0; i < 4; i++)
        for (uint32_t left = word[i]; left; left &= left - 1, at++)
            if (at < ACT8_LIST_MAX)
                list->column[at] = (uint16_t)(chunk * TILE_K + i * 32 + __ffs(left) - 1);
    return n + all;
}

/* A warp. */
__device__ inline void list_make(high_list *list, const high_args &a)
{
    enum { ASKED = 4 }; /* chunks of a lane that are on their way together */
    const int lane = threadIdx.x % 32;
    int n = 0;
    for (int first = 0; first < a.chunks; first += 32 * ASKED) {
        uint4 bits[ASKED];
#pragma unroll
        for (int i = 0; i < ASKED; i++) {
            const int chunk = first + 32 * i + lane;
            bits[i] = chunk < a.chunks ? __ldcg(reinterpret_cast<const uint4 *>(a.mask) + chunk)
                                       : uint4();
        }
#pragma unroll
        for (int i = 0; i < ASKED; i++)
            n = list_append(list, n, bits[i], first + 32 * i + lane);
    }
    if (lane == 0)
        list->n = n;
    __syncwarp();
}

/* The block that is the last to have read the mask clears it for the next product. */
__device__ inline void mask_clear(const high_args &a)
{
    const int lane = threadIdx.x % 32;
    uint32_t before = 0;
    if (lane == 0) {
        __threadfence();
        before = atomicAdd(a.readers, 1u);
    }
    if (__shfl_sync(0xffffffffu, before, 0) != gridDim.x - 1)
        return;
    __threadfence();
    for (int i = lane; i < a.chunks; i += 32)
        reinterpret_cast<uint4 *>(a.mask)[i] = uint4();
    if (lane == 0)
        *a.readers = 0;
}

/* ---- the groups ---- */

/* Where byte k of a row of a group lies, as wgmma reads it: rows of 32 bytes with 32-byte swizzle.
 */
__device__ __forceinline__ int group_at(int row, int k)
{
    return row * HIGH_GROUP + (((k >> 4) ^ (row >> 2 & 1)) << 4) + (k & 15);
}

/* The listed columns as a thread of the block sees them. */
template <class S> struct high_side {
    uint8_t *shared;
    uint32_t address;             /* of `shared` */
    uint32_t listed, full, empty; /* barriers: the list is there; a group is; it may be made */
    uint32_t parity;              /* of the group in hand */

    __device__ __forceinline__ explicit high_side(uint8_t *base)
        : shared(base), address(shared_addr(base)), listed(address + S::HIGH_BARS_AT),
          full(listed + 8), empty(listed + 16), parity(0)
    {
    }

    /* By one thread. */
    __device__ __forceinline__ void init() const
    {
        mbarrier_init(listed, 32); /* the lanes that make it */
        mbarrier_init(full, 3);    /* the warps that gather */
        mbarrier_init(empty, S::MATHS / 128);
    }

    __device__ __forceinline__ high_list *list() const
    {
        return reinterpret_cast<high_list *>(shared + S::LIST_AT);
    }

    /* Columns with high bytes. */
    __device__ __forceinline__ int wait_count() const
    {
        mbarrier_wait(listed, 0);
        return list()->n;
    }
    /* The same by a whole warp, for whom it is one value, as wgmma wants. */
    __device__ __forceinline__ int wait_list() const
    {
        return __shfl_sync(0xffffffffu, wait_count(), 0);
    }

    /* Before a warp makes its part of the next group, and behind it. */
    __device__ __forceinline__ void make_begin() const
    {
        mbarrier_wait(empty, parity ^ 1);
    }
    __device__ __forceinline__ void make_end()
    {
        fence_proxy_async();
        __syncwarp();
        if (threadIdx.x % 32 == 0)
            mbarrier_arrive(full);
        parity ^= 1;
    }
};

/* Column j of a group, from a stage's w: lane l has the rows l, l + 32, ... */
template <class S>
__device__ __forceinline__ void gather_column(const uint8_t *w, int column, uint8_t *to, int j)
{
    const int lane = threadIdx.x % 32, in_row = column % TILE_K;
    const uint8_t *from = w + lane * TILE_K + (((in_row >> 4) ^ (lane & 7)) << 4) + (in_row & 15);
    uint8_t code[S::TILE_N / 32];
    to += group_at(lane, j);
#pragma unroll
    for (int i = 0; i < S::TILE_N / 32; i++)
        code[i] = from[i * 32 * TILE_K];
#pragma unroll
    for (int i = 0; i < S::TILE_N / 32; i++)
        to[i * 32 * HIGH_GROUP] = code[i];
}

/* A warp: the listed columns of one tile's w, out of the stages as they come, each of which it
 * gives back; of `walks` times all stages, of which the first has the columns. */
template <class S, int CLUSTER>
__device__ __forceinline__ void gather_w(high_side<S> *h, pipe<S> *p, int n, int chunks, int walks)
{
    const high_list *list = h->list();
    int next = 0, column = n > 0 ? list->column[0] : INT32_MAX;
#pragma unroll 1
    for (int k = 0; k < walks * chunks; k++) {
        const uint8_t *stage = h->shared + (p->wait() - p->stages);
        while (column / TILE_K == k) {
            const int j = next % HIGH_GROUP;
            if (j == 0)
                h->make_begin();
            gather_column<S>(stage + S::A_BYTES, column, h->shared + S::W_HIGH_AT, j);
            if (++next == n || j == HIGH_GROUP - 1)
                h->make_end();
            column = next < n ? list->column[next] : INT32_MAX;
        }
        __syncwarp();
        release<CLUSTER>(p->empty, p->at.stage, threadIdx.x % 32);
        p->at.template next<S>();
    }
}

/* Warp `part` of two: the high bytes of one tile's x in the n listed columns, which are a lane's
 * each.  Loads have no condition, or each would be a branch of its own behind the one before it:
 * rows behind the last are that one's, and of nobody; columns that are not there are zeros. */
template <class S>
__device__ __forceinline__ void gather_x(high_side<S> *h, const high_args &a, int n, int row,
                                         int part)
{
    enum { ASKED = 16, ROWS = S::TILE_M / 2 };
    const int lane = threadIdx.x % 32;
    uint8_t *to = h->shared + S::X_HIGH_AT;
#pragma unroll 1
    for (int first = 0; first < n; first += HIGH_GROUP) {
        const bool has_column = first + lane < n;
        const uint8_t *from = a.codes + (has_column ? h->list()->column[first + lane] : 0);
#pragma unroll 1
        for (int r = part * ROWS; r < (part + 1) * ROWS; r += ASKED) {
            uint32_t code[ASKED];
#pragma unroll
            for (int i = 0; i < ASKED; i++)
                code[i] = __ldcg(from + (size_t)min(row + r + i, a.rows - 1) * a.stride);
            if (r == part * ROWS)
                h->make_begin(); /* while the first are on their way */
#pragma unroll
            for (int i = 0; i < ASKED; i++)
                to[group_at(r + i, lane)] = has_column ? (uint8_t)code[i] : 0;
        }
        h->make_end();
    }
}

} // namespace

#endif
