/* slots.cu - what the device remembers of each sequence: how it samples, its tokens, its blocks;
 * and the kernel that a step begins with.
 *
 * `seen` counts a token when it enters the cache, a sampled one too: whichever step brings it,
 * with the history of a slot or as a token of the batch, it is counted there and once. */
#include "kernels/cuda/launch.cuh"

namespace
{

constexpr int THREADS = 1024, STEP_THREADS = 256;
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

__device__ inline void take_token(const struct cuda_slots &slots, int32_t *ids,
                                  const struct cuda_step &step, int vocab, int t)
{
    const int index = step.token_slot[t];
    const struct cuda_slot *slot = slots.slot + index;
    const int id = step.token_ids[t] == TOKEN_SAMPLED ? slot->sampled : step.token_ids[t];
    ids[t] = id;
    if (slot->has_penalty)
        note_token(slots.seen + (size_t)index * vocab + id, step.positions[t] < slot->n_prompt);
}

struct step_args {
    struct cuda_step step;
    struct cuda_slots slots;
    int32_t *ids;   /* [n_tokens] */
    int32_t *table; /* [seqs_max, table_stride] */
    int table_stride, vocab;
};

__device__ inline void move_segment(const struct cuda_segment &s, int first, int apart)
{
    for (int i = first; i < s.n; i += apart)
        ((int32_t *)s.to)[i] = ((const int32_t *)s.from)[i];
}

__device__ inline void take_rows(const struct step_args &a, int first, int apart)
{
    const struct batch_block *block = a.step.block;
    for (int t = first; t < a.step.n_tokens; t += apart)
        take_token(a.slots, a.ids, a.step, a.vocab, t);
    for (int i = first; i < a.step.n_blocks; i += apart)
        a.table[(size_t)block[i].slot * a.table_stride + block[i].at] = block[i].block;
}

/* grid: [blocks, segments + 1]   block: [STEP_THREADS]
 * Every thread moves words STEP_THREADS * blocks apart; behind the segments are tokens and blocks.
 *
 * The next kernel, and through it any of the step, may begin when all blocks have let it, and what
 * reads the batch before it waits (attention_decode.cu, matmul_heads.cuh) counts on all of it.  So
 * a block lets it when its writes are in memory; what its first thread says is said for all. */
__global__ void __launch_bounds__(STEP_THREADS)
    step_kernel(const __grid_constant__ struct step_args a)
{
    const int first = (int)(blockIdx.x * STEP_THREADS + threadIdx.x);
    const int apart = (int)gridDim.x * STEP_THREADS;
    if ((int)blockIdx.y < a.step.n_segments)
        move_segment(a.step.segment[blockIdx.y], first, apart);
    else
        take_rows(a, first, apart);
    __threadfence();
    __syncthreads();
    depend_launch();
}

/* Four words a thread of the longest part. */
dim3 step_grid(const struct device *d, const struct cuda_step *step)
{
    int most = step->n_tokens > step->n_blocks ? step->n_tokens : step->n_blocks;
    for (int i = 0; i < step->n_segments; i++)
        most = step->segment[i].n > most ? step->segment[i].n : most;
    int blocks = (most + STEP_THREADS * 4 - 1) / (STEP_THREADS * 4);
    blocks = blocks < 1 ? 1 : blocks > d->sm_count ? d->sm_count : blocks;
    return dim3((unsigned)blocks, (unsigned)step->n_segments + 1);
}

struct step_args step_args_of(const struct device *d, const struct cuda_step *step)
{
    return {*step,          d->slots, d->batch.ids, d->batch.block_table, d->limits.table_stride,
            d->limits.vocab};
}

} /* namespace */

void cuda_slots_set(struct device *d, const struct cuda_slot_set *set, int n,
                    const int32_t *history, const struct sample_bias *bias)
{
    if (n > 0)
        launch_alone(d, "slots_set", {dim3((unsigned)n), dim3(THREADS), 0, 0}, set_kernel, d->slots,
                     set, history, bias, d->limits.bias_slot_max, d->limits.vocab);
}

void cuda_slots_step(struct device *d, const struct cuda_step *step)
{
    launch_alone(d, "spread the step", {step_grid(d, step), dim3(STEP_THREADS), 0, 0}, step_kernel,
                 step_args_of(d, step));
}

void cuda_slots_step_again(struct device *d, const struct cuda_step *step, cudaGraphExec_t exec,
                           cudaGraphNode_t node)
{
    struct step_args a = step_args_of(d, step);
    void *args[] = {&a};
    cudaKernelNodeParams params = {};
    params.func = reinterpret_cast<void *>(step_kernel);
    params.gridDim = step_grid(d, step);
    params.blockDim = dim3(STEP_THREADS);
    params.kernelParams = args;
    cuda_check(d, cudaGraphExecKernelNodeSetParams(exec, node, &params), "change a graph's step");
}
