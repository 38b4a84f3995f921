/* sample.cu - from rows of logits to tokens and their log-probabilities, in one launch.
 *
 * A cluster of eight blocks does a row.  Each keeps an eighth of it in shared memory, so that the
 * logits are read from memory once whatever the row asks for; what it asks for is read from its
 * slot, so that every batch of n rows is the same launch.  Where there are no clusters, or the
 * vocabulary is too wide for one, a single block does the row on a copy in device memory.
 *
 * Meaning and order of effects are those of kernels/cpu/sample.c.  A token's weight is
 * exp((logit - top) / temperature).  The vocabulary is cut into groups of 512 ids; a group's
 * weights are added in float in one order, and that sum, rounded down to a multiple of 2^-44, is an
 * integer: its mass.  Sums of masses are exact, so that no result depends on who added what, and a
 * border or a draw is decided by comparing integers.
 *
 * Nothing sorts the vocabulary, and where it can be helped nothing but a sum walks over it.
 *
 * top_k: the k-th largest of the threads' largest logits is no larger than the k-th largest logit,
 * so a histogram of 2048 numbers gives a bound that little more than k tokens pass.
 *
 * top_p: a histogram of nearly the masses, over bins of equal width in the logit, says which bin
 * the border is in.  If what lies above it is short, it is listed.  Else that bin and its
 * neighbours are divided by a second histogram, of exact masses, and the one bin in which the
 * border then is is listed.
 *
 * In a list each token finds its place by comparing itself with all others; equal logits: lower id
 * first.  When all candidates are there, the rest of the row's work is too.  Where bins fail (more
 * equal logits than the list holds, or a border far below the top) the bits of the border are
 * found one by one, which is slow and always right. */
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/sample_cut.cuh"
#include "kernels/philox.h"

namespace
{

constexpr float GREEDY_BELOW = 1e-5f;

struct sample_job {
    const float *logits;           /* [n, vocab] */
    float *copy;                   /* [n, slice_width] where a single block does a row */
    const struct batch_head *head; /* [n] */
    struct sample_out *out;        /* [n] */
    struct cuda_slots slots;
    int vocab, slice_width, bias_slot_max;
};

struct best { /* of one thread: ids come rising, so the first of equal logits stays */
    float logit;
    int id;
    bool is_nan;

    __device__ void note(float v, int v_id)
    {
        is_nan |= v != v;
        if (v > logit) {
            logit = v;
            id = v_id;
        }
    }
    __device__ void note(const float4 &v, int v_id)
    {
        note(v.x, v_id);
        note(v.y, v_id + 1);
        note(v.z, v_id + 2);
        note(v.w, v_id + 3);
    }
    __device__ uint64_t pack() const
    {
        return is_nan ? IS_NAN : pack_entry(logit, id);
    }
};

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

/* AHEAD parts are on their way at once. */
template <int AHEAD, int BLOCKS>
__device__ inline void load_parts(slice<BLOCKS> &s, struct best &best, const float *row)
{
    const int end = s.end_group * GROUP_PARTS;
#pragma unroll 1
    for (int part = s.first_group * GROUP_PARTS; part < end; part += AHEAD) {
        float4 v[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
            v[i] = load_four(row, s.first + (part + i) * PART + lane() * 4, s.vocab, AHEAD > 1);
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const int at = (part + i) * PART + lane() * 4;
            best.note(v[i], s.first + at);
            *reinterpret_cast<float4 *>(s.x + at) = v[i];
        }
    }
}

template <int BLOCKS> __device__ inline uint64_t load_slice(slice<BLOCKS> &s, const float *row)
{
    struct best best = {-INFINITY, 0, false};
    if (s.vocab % 4 == 0)
        load_parts<GROUP_PARTS>(s, best, row);
    else
        load_parts<1>(s, best, row); /* rows do not begin at 16 bytes */
    s.thread_top = best.logit;
    s.meet_end();
    return s.max_all(best.pack());
}

/* A thread adds all entries of an id, in order, where its first entry is the thread's. */
template <int BLOCKS>
__device__ inline void add_bias(slice<BLOCKS> &s, int width, const struct sample_bias *bias, int n,
                                int n_generated)
{
    for (int i = thread(); i < n; i += THREADS) {
        const int id = bias[i].id, at = id - s.first;
        bool is_first = at >= 0 && at < width;
        for (int k = 0; is_first && k < i; k++)
            is_first = bias[k].id != id;
        if (!is_first)
            continue;
        float v = s.x[at];
        for (int k = i; k < n; k++) {
            if (bias[k].id == id && n_generated < bias[k].until)
                v = __fadd_rn(v, bias[k].bias);
        }
        s.x[at] = v;
    }
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

/* Seen ones are rare: one after the other. */
__device__ inline void penalize_four(const struct sample_params &p, float *logit,
                                     const uint16_t *seen)
{
#pragma unroll 1
    for (int i = 0; i < 4; i++) {
        if (logit[i] > -INFINITY) /* which no penalty changes; so is what lies behind the row */
            logit[i] = penalize(p, logit[i], seen[i]);
    }
}

__device__ inline ushort4 load_seen(const uint16_t *seen, int id, int vocab)
{
    if (id >= vocab)
        return make_ushort4(0, 0, 0, 0);
    if (vocab % 4 == 0)
        return *reinterpret_cast<const ushort4 *>(seen + id);
    return make_ushort4(seen[id], id + 1 < vocab ? seen[id + 1] : 0,
                        id + 2 < vocab ? seen[id + 2] : 0, id + 3 < vocab ? seen[id + 3] : 0);
}

/* `seen` is wanted when the logits were read: brings it nearer meanwhile. */
template <int BLOCKS>
__device__ inline void prefetch_seen(const slice<BLOCKS> &s, int width, const uint16_t *seen)
{
    constexpr int LINE = 128 / sizeof *seen;
    for (int at = thread() * LINE; at < width && s.first + at < s.vocab; at += THREADS * LINE)
        prefetch_l2(seen + s.first + at);
}

/* Bias, then penalties; returns the best of what comes out. */
template <int BLOCKS>
__device__ inline uint64_t change_logits(slice<BLOCKS> &s, const struct sample_job &j,
                                         const struct cuda_slot &slot, int index, int n_history)
{
    const uint16_t *seen = j.slots.seen + (size_t)index * s.vocab;
    const struct sample_params &params = slot.params;
    struct best best = {-INFINITY, 0, false};
    if (slot.n_bias > 0) {
        __syncthreads(); /* other warps are through with the raw logits */
        add_bias(s, j.slice_width, j.slots.bias + (size_t)index * j.bias_slot_max, slot.n_bias,
                 n_history - slot.n_prompt);
        __syncthreads();
    }
    for (int group = s.first_group; group < s.end_group; group++) {
        ushort4 n[GROUP_PARTS];
#pragma unroll
        for (int i = 0; i < GROUP_PARTS; i++)
            n[i] = slot.has_penalty
                       ? load_seen(seen, s.first + group * GROUP + i * PART + lane() * 4, s.vocab)
                       : make_ushort4(0, 0, 0, 0);
#pragma unroll
        for (int i = 0; i < GROUP_PARTS; i++) {
            const int at = group * GROUP + i * PART + lane() * 4;
            if (n[i].x | n[i].y | n[i].z | n[i].w)
                penalize_four(params, s.x + at, seen + s.first + at);
            best.note(s.four(at), s.first + at);
        }
    }
    s.thread_top = best.logit;
    return s.max_all(best.pack());
}

/* The sum of the weights of raw logits, in log. */
template <int BLOCKS> __device__ inline double find_log_sum(slice<BLOCKS> &s)
{
    const uint64_t mass =
        s.template sum_all<GROUP_PARTS>([&](float logit, int) { return s.weight(logit); });
    return (double)s.top + log((double)mass) - MASS_BITS * 0.69314718055994530942;
}

template <int BLOCKS>
__device__ inline void list_top(slice<BLOCKS> &s, struct sample_out *out, int n_top)
{
    const struct cut c = s.take(find_count(s, n_top));
    int n = s.n_all;
    if (n == 0) {
        s.meet(); /* all have read what was gathered before */
        n = s.gather(true, [&](float logit, int id) { return keeps(c, logit, id); });
    }
    for (int e = thread(); s.rank() == 0 && e < n; e += THREADS) {
        const uint64_t mine = s.a->entry[e];
        int place = 0;
        for (int i = 0; i < n; i++)
            place += s.a->entry[i] > mine;
        if (place >= n_top)
            continue;
        out->top_id[place] = entry_id(mine);
        out->top_logprob[place] = (float)((double)entry_logit(mine) - s.a->log_sum);
    }
}

/* The cut at top_p; s.n_all says whether the candidates are in the list already. */
template <int BLOCKS>
__device__ inline struct cut cut_top_p(slice<BLOCKS> &s, const struct cut &limit, float top_p)
{
    if (s.n_all > 0) {
        const uint64_t total = s.weigh_list(s.n_all, [&](float logit, int id) {
            return keeps(limit, logit, id) ? s.weight(logit) : 0.0f;
        });
        s.cut_list(s.n_all, 0, share_of(top_p, total));
        return s.a->cut;
    }
    /* Tokens of less than (1 - top_p) / vocab are outside: the bins end there. */
    const float range = logf((float)s.vocab / (1.0f - top_p)) + 0.5f;
    const struct wish wish = {true, 0, top_p, limit, BINS * STEPS * s.rate / range};
    return s.take(find_cut(s, wish));
}

/* Leaves the token in a->picked of block 0. */
template <int BLOCKS>
__device__ inline void draw_token(slice<BLOCKS> &s, const struct sample_params &p, int n_history)
{
    struct cut c = {-INFINITY, INT_MAX};
    s.n_all = 0;
    if (p.top_k > 0 && p.top_k < s.vocab)
        c = s.take(find_count(s, p.top_k));
    if (p.top_p < 1)
        c = cut_top_p(s, c, p.top_p);
    const double u = philox_uniform(p.seed, (uint64_t)n_history);
    const float min_p = p.min_p;
    auto target = [u](uint64_t total) {
        const uint64_t at = (uint64_t)(u * (double)total);
        return at < total ? at : total - 1;
    };
    auto weight_of = [&](float logit, int id) {
        const float w = s.weight(logit);
        return w >= min_p && keeps(c, logit, id) ? w : 0.0f;
    };
    if (s.n_all > 0) {
        if (s.rank() == 0)
            s.pick_in_list(weight_of, target);
    } else if (c.id == INT_MAX && min_p <= 0) { /* all: the same without questions */
        s.template pick<GROUP_PARTS>([&](float logit, int) { return s.weight(logit); }, target);
    } else {
        s.template pick<GROUP_PARTS>(weight_of, target);
    }
}

/* Instead of an id: it is in a->best; it is in a->picked of block 0 when all have met. */
enum { ID_FAULT = -3, ID_BEST = -2, ID_DRAWN = -1 };

/* A best token is fine: its logit is the top from here on, and the token what greedy would take. */
template <int BLOCKS> __device__ inline bool take_best(slice<BLOCKS> &s, uint64_t best)
{
    s.top = entry_logit(best);
    if (thread() == 0)
        s.a->best = entry_id(best);
    return best != IS_NAN && isfinite(s.top);
}

/* The row's token; uniform in the cluster. */
template <int BLOCKS>
__device__ inline int sample_row(slice<BLOCKS> &s, const struct sample_job &j,
                                 const struct batch_head &head, const struct cuda_slot &slot, int i)
{
    const bool changes = head.forced < 0 && (slot.has_penalty || slot.n_bias > 0);
    const int n_logprobs = slot.params.n_logprobs;
    if (changes && slot.has_penalty)
        prefetch_seen(s, j.slice_width, j.slots.seen + (size_t)head.slot * s.vocab);
    if (!take_best(s, load_slice(s, j.logits + (size_t)i * s.vocab)))
        return ID_FAULT;
    s.rate = 1;
    if (n_logprobs >= 0 || head.forced >= 0) {
        const double log_sum = find_log_sum(s);
        if (thread() == 0)
            s.a->log_sum = log_sum;
    }
    if (n_logprobs > 0)
        list_top(s, j.out + i, min(n_logprobs, s.vocab));
    if (changes && !take_best(s, change_logits(s, j, slot, head.slot, head.n_history)))
        return ID_FAULT;
    if (head.forced >= 0)
        return head.forced;
    if (slot.params.temperature < GREEDY_BELOW)
        return ID_BEST;
    s.rate = __fdiv_rn(1.0f, slot.params.temperature);
    draw_token(s, slot.params, head.n_history);
    return ID_DRAWN;
}

template <int BLOCKS>
__device__ inline void place_slice(slice<BLOCKS> &s, const struct sample_job &j)
{
    const int n_groups = j.slice_width / GROUP, each = (n_groups + WARPS - 1) / WARPS;
    s.first = s.rank() * j.slice_width;
    s.vocab = j.vocab;
    s.first_group = min(warp() * each, n_groups);
    s.end_group = min(s.first_group + each, n_groups);
    s.turn = 0;
    s.n_all = 0;
}

/* grid: [n * BLOCKS], clusters of BLOCKS   block: [THREADS]
 * shared: struct area, then the slice where the row is cut into more than one */
template <int BLOCKS>
__global__ void __launch_bounds__(THREADS, 3) sample_kernel(const struct sample_job j)
{
    extern __shared__ __align__(16) char shared[];
    const int i = (int)blockIdx.x / BLOCKS;
    slice<BLOCKS> s;
    place_slice(s, j);
    s.a = reinterpret_cast<struct area *>(shared);
    s.x = BLOCKS > 1 ? reinterpret_cast<float *>(shared + sizeof(struct area))
                     : j.copy + (size_t)i * j.slice_width;
    s.meet_begin(); /* every block of the cluster runs before another writes to it */
    await_previous();
    const struct batch_head head = j.head[i];
    struct cuda_slot *slot = j.slots.slot + head.slot;
    int id = sample_row(s, j, head, *slot, i);
    const int n_logprobs = slot->params.n_logprobs;
    /* A block's shared memory stays until the others are through with it, which they are where all
     * met behind what they last asked of it. */
    if (id == ID_DRAWN || n_logprobs > 0)
        s.meet();
    if (s.rank() > 0 || thread() > 0)
        return;
    const bool is_fault = id == ID_FAULT, is_scored = n_logprobs >= 0 || head.forced >= 0;
    const float *row = j.logits + (size_t)i * j.vocab;
    struct sample_out *out = j.out + i;
    id = is_fault ? 0 : id == ID_BEST ? s.a->best : id == ID_DRAWN ? s.a->picked : id;
    out->id = id;
    out->fault = is_fault ? SAMPLE_NAN : SAMPLE_OK;
    out->n_top = is_fault || n_logprobs <= 0 ? 0 : min(n_logprobs, j.vocab);
    out->logprob = is_scored && !is_fault ? (float)((double)row[id] - s.a->log_sum) : 0.0f;
    if (head.forced < 0)
        slot->sampled = id;
}

int round_to_groups(int n)
{
    return (n + GROUP - 1) / GROUP * GROUP;
}

int cluster_width(int vocab)
{
    return round_to_groups((vocab + CLUSTER - 1) / CLUSTER);
}

size_t cluster_bytes(int vocab)
{
    return sizeof(struct area) + (size_t)cluster_width(vocab) * sizeof(float);
}

/* Of the current device. */
bool has_clusters_for(int vocab)
{
    int index = 0, major = 0, shared = 0;
    return cudaGetDevice(&index) == cudaSuccess &&
           cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index) ==
               cudaSuccess &&
           cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, index) ==
               cudaSuccess &&
           major >= 9 && cluster_bytes(vocab) <= (size_t)shared;
}

template <int BLOCKS>
void launch_sample(struct device *d, const struct sample_job &j, int n, size_t shared_bytes)
{
    cuda_check(d,
               cudaFuncSetAttribute(sample_kernel<BLOCKS>,
                                    cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes),
               "sample: shared memory");
    launch(d, "sample",
           {dim3((unsigned)(n * BLOCKS)), dim3(THREADS), shared_bytes, BLOCKS > 1 ? BLOCKS : 0},
           sample_kernel<BLOCKS>, j);
}

} /* namespace */

size_t cuda_sample_work_bytes(const struct device_limits *l)
{
    if (has_clusters_for(l->vocab))
        return 0;
    return (size_t)l->heads_max * (size_t)round_to_groups(l->vocab) * sizeof(float);
}

void cuda_sample(struct device *d, const struct sample_args *a)
{
    if (a->n <= 0)
        return;
    const bool clusters = has_clusters_for(a->vocab);
    struct sample_job j = {};
    j.logits = a->logits;
    j.copy = (float *)d->sample_work;
    j.head = d->batch.head + a->first;
    j.out = d->sample_out + a->first;
    j.slots = d->slots;
    j.vocab = a->vocab;
    j.slice_width = clusters ? cluster_width(a->vocab) : round_to_groups(a->vocab);
    j.bias_slot_max = d->limits.bias_slot_max;
    if (clusters)
        launch_sample<CLUSTER>(d, j, a->n, cluster_bytes(a->vocab));
    else
        launch_sample<1>(d, j, a->n, sizeof(struct area));
}
