/* attention_decode_load.cuh - keys and values to shared memory: each warp on its own, ahead of what
 * it computes. */
#ifndef KERNELS_CUDA_ATTENTION_DECODE_LOAD_CUH
#define KERNELS_CUDA_ATTENTION_DECODE_LOAD_CUH

#include "kernels/cuda/attention_decode.cuh"

namespace
{

struct loader {
    struct keys keys; /* of the task that is being copied */
    int stage;        /* of it, next */
    int ahead;        /* tasks before the one in hand: -1, 0 or 1 */
    int slot, n_slots_used;
    int kv_head, table_row;
    uint32_t row;       /* lane i: first row of stage i of this warp, in [blocks, heads, tokens] */
    int32_t next_block; /* lane i: block of the same of the task behind the one in hand */
};

__device__ __forceinline__ int32_t block_of(const struct decode_params &p, int table_row, int key)
{
    return __ldg(&p.block_table[(size_t)table_row * p.table_stride + key / p.block_tokens]);
}

/* Row of a key in the layer's cache. */
__device__ __forceinline__ uint32_t row_of(const struct decode_params &p, int32_t block,
                                           int kv_head, int key)
{
    return ((uint32_t)block * (uint32_t)p.n_kv_heads + (uint32_t)kv_head) *
               (uint32_t)p.block_tokens +
           (uint32_t)(key % p.block_tokens);
}

/* Asks early for the blocks of a task; nothing here waits for them. */
__device__ __forceinline__ int32_t ask_blocks(const struct decode_params &p,
                                              const struct task &task)
{
    if (task.part < 0)
        return 0;
    const struct keys k = keys_of(task.item, p.window);
    const int lane = threadIdx.x % 32, key = stage_key(k, lane);
    return lane < k.n_stages && key < k.end ? block_of(p, task.item.slot, key) : 0;
}

__device__ __forceinline__ void enter_task(struct loader *l, const struct decode_params &p,
                                           const struct task &task)
{
    l->keys = keys_of(task.item, p.window);
    l->kv_head = heads_of(p, task.part).kv;
    l->table_row = task.item.slot;
    l->stage = 0;
    l->row = row_of(p, l->next_block, l->kv_head, stage_key(l->keys, threadIdx.x % 32));
    l->ahead++;
}

/* The warp's codes and scales of a stage, of which the first n keys are there, side by side in a
 * page. */
template <int HEAD_DIM>
__device__ __forceinline__ void copy_codes(const struct decode_params &p, uint32_t to, int n,
                                           uint32_t first_row, uint64_t policy)
{
    using L = layout<HEAD_DIM, true>;
    const int lane = threadIdx.x % 32, first = lane % 4 * 4;
    const size_t from = (size_t)first_row * HEAD_DIM;
#pragma unroll
    for (int i = 0; i < (L::CODE_PIECES * WARP_KEYS + 31) / 32; i++) {
        const int at = i * 32 + lane, row = at / L::CODE_PIECES;
        const uint32_t place = to + L::code_at(row, at % L::CODE_PIECES);
        const int n_bytes = row < n ? 16 : 0;
        if (row >= WARP_KEYS)
            break;
        cp_async_16(place, (const char *)p.k + from + at * 16, n_bytes, policy);
        cp_async_16(place + L::CODE_BYTES, (const char *)p.v + from + at * 16, n_bytes, policy);
    }
    if (lane < 8) /* 4 lanes for the scales of K, 4 for those of V */
        cp_async_16(to + L::SCALES_AT + lane * 16,
                    (lane < 4 ? p.k_scale : p.v_scale) + first_row + first,
                    max(0, min(16, (n - first) * 4)), policy);
}

/* The same of keys from `key` on that may lie in several pages.  Scales are read at once, past L1,
 * which would keep what a neighbour of an old key had before the kernel before wrote it: copies of
 * 4 bytes cannot. */
template <int HEAD_DIM>
__device__ __noinline__ void copy_spread_codes(const struct decode_params &p, uint32_t to, int key,
                                               int n, int table_row, int kv_head, uint64_t policy)
{
    using L = layout<HEAD_DIM, true>;
    const int lane = threadIdx.x % 32;
    auto row_at = [&](int row) {
        const int at = key + min(row, n - 1);
        return row_of(p, block_of(p, table_row, at), kv_head, at);
    };
    for (int at = lane; at < L::CODE_PIECES * WARP_KEYS; at += 32) {
        const int row = at / L::CODE_PIECES, piece = at % L::CODE_PIECES;
        const int n_bytes = row < n ? 16 : 0;
        const size_t offset = (size_t)row_at(row) * HEAD_DIM + (size_t)piece * 16;
        const uint32_t place = to + L::code_at(row, piece);
        cp_async_16(place, (const char *)p.k + offset, n_bytes, policy);
        cp_async_16(place + L::CODE_BYTES, (const char *)p.v + offset, n_bytes, policy);
    }
    const int row = lane % WARP_KEYS;
    const float *from = (lane < WARP_KEYS ? p.k_scale : p.v_scale) + row_at(row);
    store_shared(to + L::SCALES_AT + lane * 4, row < n ? __ldcg(from) : 0.0f);
}

/* Starts the copy of one stage.  Rows behind the last key become 0: their weight is 0, but what
 * lies there may be no number. */
template <int HEAD_DIM, bool NARROW>
__device__ __forceinline__ void copy_stage(struct loader *l, const struct decode_params &p,
                                           uint32_t tiles, uint64_t policy)
{
    using L = layout<HEAD_DIM, NARROW>;
    const int lane = threadIdx.x % 32, key = stage_key(l->keys, l->stage);
    const int n = l->keys.end - key;
    const uint32_t first_row = __shfl_sync(~0u, l->row, l->stage);
    const uint32_t to = tiles + (uint32_t)l->slot * L::STAGE_BYTES;

    const bool one_page = p.block_tokens % WARP_KEYS == 0;

    if (n <= 0 || key + WARP_KEYS <= l->keys.seen) {
        /* nothing of this warp is seen */
    } else if (NARROW && one_page) {
        copy_codes<HEAD_DIM>(p, to, n, first_row, policy);
    } else if (NARROW) {
        copy_spread_codes<HEAD_DIM>(p, to, key, n, l->table_row, l->kv_head, policy);
    } else {
        const size_t from = (size_t)first_row * (HEAD_DIM * 2);
#pragma unroll(L::WIDE ? 4 : 8)
        for (int i = 0; i < L::PIECES * WARP_KEYS / 32; i++) {
            const int at = i * 32 + lane, row = at / L::PIECES, piece = at % L::PIECES;
            size_t offset = from + (size_t)at * 16;
            if (!one_page) {
                const int at_key = key + min(row, n - 1);
                const int32_t block = block_of(p, l->table_row, at_key);
                offset = (size_t)row_of(p, block, l->kv_head, at_key) * (HEAD_DIM * 2) +
                         (size_t)piece * 16;
            }
            const int n_bytes = row < n ? 16 : 0;
            cp_async_16(to + L::at(row, piece), (const char *)p.k + offset, n_bytes, policy);
            cp_async_16(to + L::TILE_BYTES + L::at(row, piece), (const char *)p.v + offset, n_bytes,
                        policy);
        }
    }
    cp_async_commit();
    l->stage++;
    l->slot = l->slot + 1 == L::STAGES ? 0 : l->slot + 1;
    l->n_slots_used++;
}

/* Copies ahead while there is room, up to the end of the task behind the one in hand. */
template <int HEAD_DIM, bool NARROW>
__device__ __forceinline__ void copy_ahead(struct loader *l, const struct decode_params &p,
                                           const struct task &next, uint32_t tiles, uint64_t policy)
{
    while (l->n_slots_used < layout<HEAD_DIM, NARROW>::STAGES) {
        if (l->stage == l->keys.n_stages) {
            if (l->ahead > 0 || next.part < 0)
                return;
            enter_task(l, p, next);
        } else {
            copy_stage<HEAD_DIM, NARROW>(l, p, tiles, policy);
        }
    }
}

/* Until the oldest of n stages on their way has arrived. */
template <int N> __device__ __forceinline__ void wait_oldest(int n)
{
    if (n >= N)
        cp_async_wait<N - 1>();
    else if constexpr (N > 1)
        wait_oldest<N - 1>(n);
}

} // namespace

#endif
