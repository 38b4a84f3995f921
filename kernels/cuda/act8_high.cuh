/* act8_high.cuh - high bytes of outliers (act8.h) in a wide product: the few columns that have any,
 * brought while the tile is multiplied.
 *
 * The quantizing kernel notes these columns in a mask, of which every block makes the list, and
 * writes high bytes by column: those of a tile's rows are short copies, a lane's each.  Stages of w
 * lie in shared memory anyway: as each comes by, a warp copies the listed columns of it to a tile
 * of their own, two warps by turns.  HIGH_GROUP of them are one wgmma more for those who multiply,
 * with x from registers (act8_fragment.cuh).  So no weight is fetched twice, and those who multiply
 * do nothing for a stage. Which columns are a group is up to the list alone: everyone goes through
 * the groups in step, without a word but two barriers.
 *
 * With more columns than are listed, each meets its high bytes: the ring brings all of w again.
 *
 * The last block to have read a tile of rows clears its high bytes, and the last to have read the
 * mask clears that. */
#ifndef KERNELS_CUDA_ACT8_HIGH_CUH
#define KERNELS_CUDA_ACT8_HIGH_CUH

#include <limits.h>

#include "kernels/cuda/act8_ring.cuh"
#include "kernels/cuda/ptx_wgmma8.cuh"

namespace
{

enum { BARRIER_GATHERERS = 3 }; /* 1 and 2 are those of warpgroups that multiply */

struct high_args {
    uint8_t *columns;       /* [in, stride], of rows */
    uint32_t *tile_readers; /* blocks that have read a tile of rows, by halves of the columns */
    uint32_t *mask;         /* [chunks * 4] */
    uint32_t *readers;      /* blocks that have read the mask */
    int in, stride, chunks, listed_max, n_readers;
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

/* Where byte k of a row of a group of w lies, as wgmma reads it: rows of 32 bytes with 32-byte
 * swizzle. */
__device__ __forceinline__ int group_at(int row, int k)
{
    return row * HIGH_GROUP + (((k >> 4) ^ (row >> 2 & 1)) << 4) + (k & 15);
}

/* The groups as a thread of the block sees them. */
template <class S> struct high_side {
    uint8_t *shared;
    uint32_t address; /* of `shared` */
    int group;        /* in hand: its place, */
    uint32_t parity;  /* and that of its use */

    __device__ __forceinline__ explicit high_side(uint8_t *base)
        : shared(base), address(shared_addr(base)), group(0), parity(0)
    {
    }

    /* Barriers: the list is there; a group is; it may be made. */
    __device__ __forceinline__ uint32_t listed() const
    {
        return address + S::HIGH_BARS_AT;
    }
    __device__ __forceinline__ uint32_t full() const
    {
        return listed() + 8 + 16 * group;
    }
    __device__ __forceinline__ uint32_t empty() const
    {
        return full() + 8;
    }

    /* By one thread. */
    __device__ __forceinline__ void init() const
    {
        mbarrier_init(listed(), 32); /* the lanes that make it */
        for (int i = 0; i < S::GROUPS; i++) {
            mbarrier_init(full() + 16 * i, 1 + S::GATHERERS);
            mbarrier_init(empty() + 16 * i, S::MATHS);
        }
    }

    __device__ __forceinline__ high_list *list() const
    {
        return reinterpret_cast<high_list *>(shared + S::LIST_AT);
    }

    /* The high bytes of the group in hand. */
    __device__ __forceinline__ int x_at() const
    {
        return S::X_HIGH_AT + group * S::X_HIGH_BYTES;
    }
    /* And where w's columns are. */
    __device__ __forceinline__ int w_at() const
    {
        return S::W_HIGH_AT + group * S::W_HIGH_BYTES;
    }

    /* Columns with high bytes. */
    __device__ __forceinline__ int wait_count() const
    {
        mbarrier_wait(listed(), 0);
        return list()->n;
    }
    /* The same by a whole warp, for whom it is one value, as wgmma wants. */
    __device__ __forceinline__ int wait_list() const
    {
        return __shfl_sync(0xffffffffu, wait_count(), 0);
    }

    __device__ __forceinline__ void wait_full() const
    {
        mbarrier_wait(full(), parity);
    }
    /* Before a warp makes its part of the group. */
    __device__ __forceinline__ void wait_empty() const
    {
        mbarrier_wait(empty(), parity ^ 1);
    }
    __device__ __forceinline__ void next()
    {
        if (++group == S::GROUPS) {
            group = 0;
            parity ^= 1;
        }
    }
    /* By those that multiply, each for itself: racecheck does not follow a warp's loads to the
     * arrival of one lane here. */
    __device__ __forceinline__ void give_back()
    {
        mbarrier_arrive(empty());
        next();
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

/* A tile's listed columns, in order, as a warp sees them that gathers some of them. */
template <class S> struct column_walk {
    high_side<S> *h;
    int n, at, end; /* the at-th of n; the end of its group */
    int column;     /* INT_MAX behind the last */
    bool has_place; /* its group may be made */

    __device__ __forceinline__ column_walk(high_side<S> *side, int count)
        : h(side), n(count), at(0), end(min(count, (int)HIGH_GROUP)), has_place(false)
    {
        find();
    }
    __device__ __forceinline__ void find()
    {
        column = at < n ? h->list()->column[at] : INT_MAX;
    }
    __device__ __forceinline__ void want_place()
    {
        if (!has_place)
            h->wait_empty();
        has_place = true;
    }

    __device__ __forceinline__ void gather(const uint8_t *w)
    {
        want_place();
        gather_column<S>(w, column, h->shared + h->w_at(), at % HIGH_GROUP);
        next();
    }

    /* Behind the last of a group all warps say so, whoever gathered it. */
    __device__ __forceinline__ void next()
    {
        if (++at == end) {
            want_place();
            fence_proxy_async();
            __syncwarp();
            if (threadIdx.x % 32 == 0)
                mbarrier_arrive(h->full());
            h->next();
            end = min(n, end + HIGH_GROUP);
            has_place = false;
        }
        find();
    }
};

/* Warp `turn` of GATHERERS: the listed columns of one tile's w, out of its places of the ring as
 * stages come there, each of which it gives back; of `walks` times all stages, of which the first
 * has the columns.  Places are always the same warp's, which so sees each of their phases. */
template <class S, int CLUSTER>
__device__ __forceinline__ void gather_w(high_side<S> *h, pipe<S> *p, int n, int chunks, int walks,
                                         int turn)
{
    column_walk<S> walk(h, n);
#pragma unroll 1
    for (int k = 0; k < walks * chunks; k++, p->at.template next<S>()) {
        if (p->at.stage % S::GATHERERS != turn)
            continue;
        while (walk.column < k * TILE_K)
            walk.next();
        const uint8_t *w = h->shared + (p->wait() - p->stages) + S::A_BYTES;
        while (walk.column < (k + 1) * TILE_K)
            walk.gather(w);
        __syncwarp();
        release<CLUSTER>(p->empty, p->at.stage, threadIdx.x % 32);
    }
    while (walk.column != INT_MAX)
        walk.next();
}

/* A warp: the high bytes of one tile's x in the n listed columns, which are a lane's each; until
 * all are there. */
template <class S>
__device__ __forceinline__ void bring_x(high_side<S> *h, const high_args &a, int n, int row)
{
    const int lane = threadIdx.x % 32;
    const uint64_t policy = policy_evict_last();
#pragma unroll 1
    for (int first = 0; first < n; first += HIGH_GROUP) {
        const int count = min(n - first, (int)HIGH_GROUP);
        h->wait_empty();
        if (lane == 0)
            mbarrier_arrive_expect(h->full(), count * S::TILE_M);
        __syncwarp();
        if (lane < count)
            bulk_load(h->address + h->x_at() + lane * S::X_PITCH,
                      a.columns + (size_t)h->list()->column[first + lane] * a.stride + row,
                      S::TILE_M, h->full(), policy);
        h->wait_full();
        h->next();
    }
}

/* ---- behind the product ---- */

/* By a warp whose block has read high bytes of a tile of rows, in columns [first, end) of the list
 * or of all: half `half` of them. */
template <class S>
__device__ __forceinline__ void clear_tile(const high_args &a, const high_list *list, int first,
                                           int end, int row, int half)
{
    enum { PARTS = S::TILE_M / 16 };
    const int lane = threadIdx.x % 32;
    uint32_t *readers = a.tile_readers + 2 * (row / S::TILE_M) + half, before = 0;
    if (lane == 0) {
        __threadfence();
        before = atomicAdd(readers, 1u);
    }
    if (__shfl_sync(0xffffffffu, before, 0) != a.n_readers - 1)
        return;
    __threadfence();
    for (int i = first * PARTS + lane; i < end * PARTS; i += 32) {
        const int column = list ? list->column[i / PARTS] : i / PARTS;
        *reinterpret_cast<uint4 *>(a.columns + (size_t)column * a.stride + row + i % PARTS * 16) =
            uint4();
    }
    if (lane == 0)
        *readers = 0;
}

/* Both warps that gather, behind a tile's stages of all high bytes: half the columns each. */
template <class S> __device__ __forceinline__ void clear_all(const high_args &a, int row, int turn)
{
    const int half = a.in / 2;
    barrier_sync(BARRIER_GATHERERS, 32 * S::GATHERERS); /* every stage has come: each saw some */
    clear_tile<S>(a, nullptr, turn * half, turn ? a.in : half, row, turn);
}

} // namespace

#endif
