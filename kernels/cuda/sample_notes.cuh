/* sample_notes.cuh - one walk over the logits, and what it leaves in memory of each row.
 *
 * A warp walks a chunk of 2048 ids.  A lane's 64 ids there are a unit, of which the largest logit
 * is noted, before and after the change; and of each group of 512 ids, where the row asks for it,
 * the sum of exp((logit - m) * rate), m the group's largest.  From the units' maxima a bound
 * follows that little more than k tokens pass, without another look at the rest; from the groups'
 * sums, which group a draw is in.
 *
 * A row's last block to end finds `arrived` full, leaves it 0, and goes on with the row. */
#ifndef KERNELS_CUDA_SAMPLE_NOTES_CUH
#define KERNELS_CUDA_SAMPLE_NOTES_CUH

#include "kernels/cuda/sample_row.cuh"

namespace
{

constexpr int CHUNK_GROUPS = 4, CHUNK_PARTS = CHUNK_GROUPS * GROUP_PARTS,
              CHUNK_IDS = CHUNK_GROUPS * GROUP;
constexpr int WALK_IDS = WARPS * CHUNK_IDS; /* of a block */
enum { RAW, CHANGED, N_STATES };

__host__ __device__ inline int count_chunks(int vocab)
{
    return (vocab + CHUNK_IDS - 1) / CHUNK_IDS;
}

/* A row's notes: counters, then tops, then sums. */
struct notes {
    uint32_t *arrived;               /* blocks of the walk */
    int32_t *is_left;                /* to sample_kernel */
    float *top[N_STATES];            /* [n_chunks * WARP] */
    struct group_sum *sum[N_STATES]; /* [n_chunks * CHUNK_GROUPS] */
};

constexpr size_t NOTES_HEAD = 128;

__host__ __device__ inline size_t notes_bytes(int vocab)
{
    const size_t of_chunk =
        N_STATES * (WARP * sizeof(float) + CHUNK_GROUPS * sizeof(struct group_sum));
    return (NOTES_HEAD + (size_t)count_chunks(vocab) * of_chunk + 127) / 128 * 128;
}

__device__ inline struct notes notes_of(const struct sample_job &j, int i)
{
    char *at = j.notes + (size_t)i * notes_bytes(j.vocab);
    const int n_chunks = count_chunks(j.vocab);
    struct notes n;
    n.arrived = reinterpret_cast<uint32_t *>(at);
    n.is_left = reinterpret_cast<int32_t *>(at + 4);
    n.top[RAW] = reinterpret_cast<float *>(at + NOTES_HEAD);
    n.top[CHANGED] = n.top[RAW] + n_chunks * WARP;
    n.sum[RAW] = reinterpret_cast<struct group_sum *>(n.top[CHANGED] + n_chunks * WARP);
    n.sum[CHANGED] = n.sum[RAW] + n_chunks * CHUNK_GROUPS;
    return n;
}

/* What a row asks for; uniform in the block. */
struct asked {
    struct batch_head head;
    struct sample_params params;
    int n_bias, n_generated;
    bool has_penalty, changes, is_scored;
    bool draws, cuts_top_k, draws_of_all; /* of_all: no token is cut off */
    float rate;                           /* of the draw's weights */
};

__device__ inline struct asked ask(const struct sample_job &j, int i)
{
    struct asked a;
    a.head = j.head[i];
    const struct cuda_slot *slot = j.slots.slot + a.head.slot;
    const bool is_forced = a.head.forced >= 0;
    a.params = slot->params;
    a.n_bias = slot->n_bias;
    a.n_generated = a.head.n_history - slot->n_prompt;
    a.has_penalty = slot->has_penalty && !is_forced;
    a.changes = !is_forced && (slot->has_penalty || a.n_bias > 0);
    a.is_scored = a.params.n_logprobs >= 0 || is_forced;
    a.draws = !is_forced && a.params.temperature >= GREEDY_BELOW;
    a.cuts_top_k = a.draws && a.params.top_k > 0 && a.params.top_k < j.vocab;
    a.draws_of_all = a.draws && !a.cuts_top_k && a.params.top_p >= 1 && a.params.min_p <= 0;
    a.rate = a.draws ? __fdiv_rn(1.0f, a.params.temperature) : 1;
    return a;
}

/* A row's logits in either state. */
struct row {
    const float *logits;
    const uint16_t *seen; /* of the slot, where there is a penalty */
    const struct sample_bias *bias;
    const uint32_t *bias_bits; /* shared: has an id of that place, modulo WALK_IDS, a bias? */
    const struct asked *asked;
    int vocab;

    /* A token's biases are added in order. */
    __device__ __noinline__ static float add_bias(const struct sample_bias *bias, int n_bias,
                                                  int n_generated, float v, int id)
    {
        for (int i = 0; i < n_bias; i++) {
            if (bias[i].id == id && n_generated < bias[i].until)
                v = __fadd_rn(v, bias[i].bias);
        }
        return v;
    }

    __device__ uint32_t bias_bits_of(int id) const /* and of the three behind */
    {
        const int place = id % WALK_IDS;
        return asked->n_bias > 0 ? bias_bits[place / 32] >> place % 32 & 15 : 0;
    }

    /* Which of the four from id on may change; behind the row none does. */
    __device__ uint32_t changed_of(int id, seen_four times) const
    {
        return bias_bits_of(id) | (times.x << 16 ? 1 : 0) | (times.x >> 16 ? 2 : 0) |
               (times.y << 16 ? 4 : 0) | (times.y >> 16 ? 8 : 0);
    }

    __device__ void change(float *v, int id) const
    {
        const uint32_t times = asked->has_penalty ? seen[id] : 0;
        if (bias_bits_of(id) & 1)
            *v = add_bias(bias, asked->n_bias, asked->n_generated, *v, id);
        if (*v > -INFINITY) /* which no penalty changes */
            *v = penalize(asked->params, *v, times);
    }

    __device__ float4 raw_four(int id) const
    {
        return load_four(logits, id, vocab, vocab % 4 == 0);
    }

    __device__ seen_four load_times(int id) const
    {
        return asked->has_penalty ? load_seen(seen, id, vocab) : make_uint2(0, 0);
    }

    __device__ void change_four(float4 *v, int id, seen_four times) const
    {
        float *each = &v->x;
        const uint32_t changed = changed_of(id, times);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (changed >> i & 1)
                change(each + i, id + i);
        }
    }

    __device__ float4 four(int state, int id) const
    {
        float4 v = raw_four(id);
        if (state == CHANGED)
            change_four(&v, id, load_times(id));
        return v;
    }
};

__device__ inline struct row row_at(const struct sample_job &j, const struct asked &a, int i,
                                    const uint32_t *bias_bits)
{
    struct row r;
    r.logits = j.logits + (size_t)i * j.vocab;
    r.seen = j.slots.seen + (size_t)a.head.slot * j.vocab;
    r.bias = j.slots.bias + (size_t)a.head.slot * j.bias_slot_max;
    r.bias_bits = bias_bits;
    r.asked = &a;
    r.vocab = j.vocab;
    return r;
}

/* Of the ids in [first, end); all threads of the block, which then meet. */
__device__ inline void mark_biased(uint32_t *bits, const struct row &r, int first, int end)
{
    for (int i = thread(); i < WALK_IDS / 32; i += THREADS)
        bits[i] = 0;
    __syncthreads();
    for (int i = thread(); i < r.asked->n_bias; i += THREADS) {
        const int id = r.bias[i].id, place = id % WALK_IDS;
        if (id >= first && id < end)
            atomicOr(&bits[place / 32], 1u << place % 32);
    }
    __syncthreads();
}

/* ---- the walk ---- */

struct group_on_its_way {
    float4 v[GROUP_PARTS];
    seen_four seen[GROUP_PARTS];

    __device__ void load_logits(const float *logits, int first, int vocab)
    {
#pragma unroll
        for (int part = 0; part < GROUP_PARTS; part++)
            v[part] = load_four(logits, first + part * PART + lane() * 4, vocab, vocab % 4 == 0);
    }

    __device__ float top() const
    {
        float most = -INFINITY;
#pragma unroll
        for (int part = 0; part < GROUP_PARTS; part++)
            most = top_of(most, top_of(v[part]));
        return most;
    }

    __device__ void load_seen_of(const struct row &r, int first)
    {
#pragma unroll
        for (int part = 0; part < GROUP_PARTS; part++)
            seen[part] = r.load_times(first + part * PART + lane() * 4);
    }
};

/* Few tokens of a group change: a lane takes its own one after the other, in shared memory, since
 * registers have no index. */
__device__ inline void change_group(float4 (&v)[GROUP_PARTS], const struct row &r, int first,
                                    const seen_four (&seen)[GROUP_PARTS], float *room)
{
    uint32_t left = 0;
#pragma unroll
    for (int part = 0; part < GROUP_PARTS; part++)
        left |= r.changed_of(first + part * PART + lane() * 4, seen[part]) << 4 * part;
    if (!__any_sync(ALL, left != 0))
        return;
#pragma unroll
    for (int part = 0; part < GROUP_PARTS; part++)
        *reinterpret_cast<float4 *>(room + part * PART + lane() * 4) = v[part];
    for (; left != 0; left &= left - 1) {
        const int bit = __ffs((int)left) - 1, at = bit / 4 * PART + lane() * 4 + bit % 4;
        r.change(room + at, first + at);
    }
#pragma unroll
    for (int part = 0; part < GROUP_PARTS; part++)
        v[part] = *reinterpret_cast<const float4 *>(room + part * PART + lane() * 4);
}

/* A warp's chunk, of which the first group's logits are on their way; `room` is the warp's. */
__device__ inline void walk_chunk(const struct notes &to, const struct row &r, int chunk,
                                  struct group_on_its_way next, float *room)
{
    const struct asked &a = *r.asked;
    float tops[N_STATES] = {-INFINITY, -INFINITY};
    next.load_seen_of(r, chunk * CHUNK_IDS);
#pragma unroll 1
    for (int g = 0; g < CHUNK_GROUPS; g++) {
        const int group = chunk * CHUNK_GROUPS + g;
        struct group_on_its_way now = next;
        if (g + 1 < CHUNK_GROUPS) {
            next.load_logits(r.logits, (group + 1) * GROUP, r.vocab);
            next.load_seen_of(r, (group + 1) * GROUP);
        }
        auto part_at = [&](int part) { return now.v[part]; };
        float top = now.top();
        tops[RAW] = top_of(tops[RAW], top);
        if (a.is_scored)
            to.sum[RAW][group] = sum_whole_group(part_at, top, 1);
        if (a.changes) {
            change_group(now.v, r, group * GROUP, now.seen, room);
            top = now.top();
            tops[CHANGED] = top_of(tops[CHANGED], top);
        }
        if (a.draws_of_all)
            to.sum[CHANGED][group] = sum_whole_group(part_at, top, a.rate);
    }
    to.top[RAW][chunk * WARP + lane()] = tops[RAW];
    if (a.changes)
        to.top[CHANGED][chunk * WARP + lane()] = tops[CHANGED];
}

} /* namespace */

#endif
