/* sample_row.cuh - what sampling is asked for, and the logits of a row before and after their
 * change.
 *
 * The change is bias, then penalties: of few tokens, by whoever holds a token's logit. */
#ifndef KERNELS_CUDA_SAMPLE_ROW_CUH
#define KERNELS_CUDA_SAMPLE_ROW_CUH

#include "kernels/cuda/sample_number.cuh"

namespace
{

constexpr float GREEDY_BELOW = 1e-5f;

struct sample_job {
    const float *logits;           /* [n, vocab] */
    char *notes;                   /* [n] of notes_bytes: sample_notes.cuh */
    bool has_notes;                /* else all rows are sample_kernel's */
    float *copy;                   /* [n, slice_width] where a single block does a whole row */
    const struct batch_head *head; /* [n] */
    struct sample_out *const *out; /* [1], of the step's heads, of which [first, first + n) */
    struct cuda_slots slots;
    int first, n, vocab, slice_width, bias_slot_max;
};

__device__ inline struct sample_out *out_of(const struct sample_job &j, int i)
{
    return *j.out + j.first + i;
}

/* The logits of id and the three behind; whole <=> there is no end of the row among any four. */
__device__ inline float4 load_four(const float *row, int id, int vocab, bool whole)
{
    float4 v = make_float4(-INFINITY, -INFINITY, -INFINITY, -INFINITY);
    if (id >= vocab)
        return v;
    if (whole)
        return __ldcs(reinterpret_cast<const float4 *>(row + id));
    v.x = row[id];
    v.y = id + 1 < vocab ? row[id + 1] : v.y;
    v.z = id + 2 < vocab ? row[id + 2] : v.z;
    v.w = id + 3 < vocab ? row[id + 3] : v.w;
    return v;
}

typedef uint2 seen_four; /* 16 bits each of four neighbours, the first lowest */

__device__ inline seen_four load_seen(const uint16_t *seen, int id, int vocab)
{
    if (id >= vocab)
        return make_uint2(0, 0);
    if (vocab % 4 == 0)
        return *reinterpret_cast<const uint2 *>(seen + id);
    const uint32_t b = id + 1 < vocab ? seen[id + 1] : 0, c = id + 2 < vocab ? seen[id + 2] : 0;
    const uint32_t d = id + 3 < vocab ? seen[id + 3] : 0;
    return make_uint2(seen[id] | b << 16, c | d << 16);
}

__device__ inline float penalize(const struct sample_params &p, float logit, uint32_t seen)
{
    const uint32_t times = seen & 0x7fffu;
    if (seen == 0)
        return logit;
    if (p.repetition != 1.0f)
        logit = logit > 0 ? __fdiv_rn(logit, p.repetition) : __fmul_rn(logit, p.repetition);
    if (times > 0)
        logit = __fsub_rn(logit, __fadd_rn(p.presence, __fmul_rn(p.frequency, (float)times)));
    return logit;
}

/* Instead of an id. */
enum { ID_LEFT = -2, ID_FAULT = -1 };

/* Thread 0's. */
__device__ inline void put_sample(const struct sample_job &j, int i, int id, bool is_scored,
                                  int n_logprobs, double log_sum)
{
    const bool is_fault = id == ID_FAULT;
    struct sample_out *out = out_of(j, i);
    id = is_fault ? 0 : id;
    out->id = id;
    out->fault = is_fault ? SAMPLE_NAN : SAMPLE_OK;
    out->n_top = is_fault || n_logprobs <= 0 ? 0 : min(n_logprobs, j.vocab);
    out->logprob = is_scored && !is_fault
                       ? (float)((double)j.logits[(size_t)i * j.vocab + id] - log_sum)
                       : 0.0f;
    if (j.head[i].forced < 0)
        j.slots.slot[j.head[i].slot].sampled = id;
}

} /* namespace */

#endif
