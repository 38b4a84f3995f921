/* slots.cu - what the device remembers of each sequence: how it samples, its tokens, its blocks.
 *
 * `seen` counts a token when it enters the cache, a sampled one too: whichever step brings it,
 * with the history of a slot or as a token of the batch, it is counted there and once. */
#include "kernels/cuda/launch.cuh"

namespace
{

constexpr int THREADS = 1024, TOKEN_THREADS = 256;
constexpr uint16_t IN_PROMPT = 0x8000, TIMES_MAX = 0x7fff;

__device__ inline void note_token(uint16_t *seen, bool is_prompt)
{
    unsigned short now = *(volatile unsigned short *)seen, old;
    do {
        old = now;
        unsigned short next = old;
        if (is_prompt)
            next |= IN_PROMPT;
        else if ((old & TIMES_MAX) < TIMES_MAX)
            next++;
        if (next == old)
            return;
        now = atomicCAS((unsigned short *)seen, old, next);
    } while (now != old);
}

/* grid: [n_sets]   block: [THREADS]; one block a slot, since it clears before it counts */
__global__ void __launch_bounds__(THREADS)
    set_kernel(struct cuda_slots slots, const struct cuda_slot_set *sets, const int32_t *history,
               const struct sample_bias *bias, int bias_slot_max, int vocab)
{
    const struct cuda_slot_set *set = sets + blockIdx.x;
    const int t = (int)threadIdx.x;
    await_previous();
    const struct cuda_slot slot = set->slot;
    uint16_t *seen = slots.seen + (size_t)set->index * vocab;
    if (t == 0)
        slots.slot[set->index] = slot;
    for (int i = t; i < slot.n_bias; i += THREADS)
        slots.bias[(size_t)set->index * bias_slot_max + i] = bias[set->first_bias + i];
    if (!slot.has_penalty)
        return;
    for (int i = t; i < vocab; i += THREADS)
        seen[i] = 0;
    __syncthreads();
    for (int i = t; i < set->n_history; i += THREADS)
        note_token(seen + history[set->first_history + i], i < slot.n_prompt);
}

/* grid: tokens / TOKEN_THREADS   block: [TOKEN_THREADS] */
__global__ void __launch_bounds__(TOKEN_THREADS)
    tokens_kernel(struct cuda_slots slots, int32_t *ids, const int32_t *token_ids,
                  const int32_t *positions, const int32_t *token_slot, int n_tokens, int vocab)
{
    const int t = (int)(blockIdx.x * TOKEN_THREADS + threadIdx.x);
    await_previous();
    if (t >= n_tokens)
        return;
    const int index = token_slot[t];
    const struct cuda_slot *slot = slots.slot + index;
    const int id = token_ids[t] == TOKEN_SAMPLED ? slot->sampled : token_ids[t];
    ids[t] = id;
    if (slot->has_penalty)
        note_token(slots.seen + (size_t)index * vocab + id, positions[t] < slot->n_prompt);
}

/* grid: blocks / TOKEN_THREADS   block: [TOKEN_THREADS] */
__global__ void __launch_bounds__(TOKEN_THREADS)
    blocks_kernel(int32_t *table, const struct batch_block *block, int n_blocks, int table_stride)
{
    const int i = (int)(blockIdx.x * TOKEN_THREADS + threadIdx.x);
    await_previous();
    if (i < n_blocks)
        table[(size_t)block[i].slot * table_stride + block[i].at] = block[i].block;
}

unsigned count_grid(int n)
{
    return (unsigned)((n + TOKEN_THREADS - 1) / TOKEN_THREADS);
}

} /* namespace */

void cuda_slots_set(struct device *d, const struct cuda_slot_set *set, int n,
                    const int32_t *history, const struct sample_bias *bias)
{
    if (n > 0)
        launch(d, "slots_set", {dim3((unsigned)n), dim3(THREADS), 0, 0}, set_kernel, d->slots, set,
               history, bias, d->limits.bias_slot_max, d->limits.vocab);
}

void cuda_slots_tokens(struct device *d, const int32_t *token_ids, int n_tokens)
{
    if (n_tokens > 0)
        launch(d, "slots_tokens", {dim3(count_grid(n_tokens)), dim3(TOKEN_THREADS), 0, 0},
               tokens_kernel, d->slots, d->batch.ids, token_ids,
               (const int32_t *)d->batch.positions, (const int32_t *)d->batch.token_slot, n_tokens,
               d->limits.vocab);
}

void cuda_slots_blocks(struct device *d, const struct batch_block *block, int n_blocks)
{
    if (n_blocks > 0)
        launch(d, "slots_blocks", {dim3(count_grid(n_blocks)), dim3(TOKEN_THREADS), 0, 0},
               blocks_kernel, d->batch.block_table, block, n_blocks, d->limits.table_stride);
}
