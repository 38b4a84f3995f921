/* sample_walk.cuh - the kernel that walks over all rows, and does the rest of those that few tokens
 * decide. */
#ifndef KERNELS_CUDA_SAMPLE_WALK_CUH
#define KERNELS_CUDA_SAMPLE_WALK_CUH

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/sample_few.cuh"

namespace
{

/* Has this block ended the row's walk?  Then all notes of the row may be read. */
__device__ inline bool is_last_of_row(const struct notes &notes, int n_walks)
{
    __shared__ uint32_t n_before;
    __threadfence();
    __syncthreads();
    if (thread() == 0)
        n_before = atomicAdd(notes.arrived, 1u);
    __syncthreads();
    if (n_before + 1 < (uint32_t)n_walks)
        return false;
    if (thread() == 0)
        *notes.arrived = 0;
    __threadfence();
    return true;
}

__device__ inline void do_rest(const struct sample_job &j, int i, const struct row &row,
                               const struct notes &notes, struct few *few)
{
    const struct asked &a = *row.asked;
    struct rest rest = {few, row, a, notes, count_chunks(j.vocab) * WARP, 0, RAW, 0, {}};
    double log_sum = 0;
    const int id = rest.find_token(out_of(j, i), &log_sum);
    if (thread() > 0)
        return;
    *notes.is_left = id == ID_LEFT;
    if (id != ID_LEFT)
        put_sample(j, i, id, a.is_scored, a.params.n_logprobs, log_sum);
}

/* The walk over all rows; a row's last block does the rest of it, or leaves it.
 * grid: [n * blocks of a walk]   block: [THREADS] */
__global__ void __launch_bounds__(THREADS, 3) walk_kernel(const struct sample_job j)
{
    __shared__ struct few few;
    __shared__ struct asked asked;
    __shared__ uint32_t bias_bits[WALK_IDS / 32];
    __shared__ __align__(16) float room[WARPS][GROUP];
    const int n_chunks = count_chunks(j.vocab), n_walks = (n_chunks + WARPS - 1) / WARPS;
    const int i = (int)blockIdx.x / n_walks, walk = (int)blockIdx.x % n_walks;
    const int chunk = walk * WARPS + warp();
    const struct notes notes = notes_of(j, i);
    struct group_on_its_way group;
    await_previous();
    /* Before it is known what is asked. */
    group.load_logits(j.logits + (size_t)i * j.vocab, chunk * CHUNK_IDS, j.vocab);
    if (thread() == 0)
        asked = ask(j, i);
    __syncthreads();
    if (is_beyond(asked, j.vocab)) {
        if (thread() == 0 && walk == 0)
            *notes.is_left = 1;
        return;
    }
    const struct row row = row_at(j, asked, i, bias_bits);
    const bool has_bias = asked.changes && asked.n_bias > 0;
    if (has_bias)
        mark_biased(bias_bits, row, walk * WALK_IDS, (walk + 1) * WALK_IDS);
    if (chunk < n_chunks)
        walk_chunk(notes, row, chunk, group, room[warp()]);
    if (!is_last_of_row(notes, n_walks))
        return;
    if (has_bias)
        mark_biased(bias_bits, row, 0, j.vocab);
    do_rest(j, i, row, notes, &few);
}

} /* namespace */

#endif
