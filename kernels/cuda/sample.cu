/* sample.cu - from rows of logits to tokens and their log-probabilities.
 *
 * Two kernels, of which a row needs one; what it asks for is read from its slot, so that every
 * batch of n rows is the same launches.
 *
 * Many rows are walked over once, by blocks that keep nothing but notes of them (sample_walk.cuh);
 * the rest of a row is done from the notes where few tokens decide: greedy, top_k,
 * log-probabilities, and a draw among all.
 *
 * The rows that are left, or all where they are few, are sample_kernel's.  A cluster of eight
 * blocks does a row.  Each keeps an eighth of it in shared memory, so that the logits are read from
 * memory once whatever the row asks for.  Where there are no clusters, or the vocabulary is too
 * wide for one, a single block does the row on a copy in device memory.
 *
 * Meaning and order of effects are those of kernels/cpu/sample.c.  A token's weight is
 * exp((logit - top) / temperature).  The vocabulary is cut into groups of 512 ids; a group's
 * weights are added in float in one order, and that sum, rounded down to a multiple of 2^-44, is an
 * integer: its mass.  Sums of masses are exact, so that no result depends on who added what, or in
 * which kernel, and a border or a draw is decided by comparing integers.
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
#include "kernels/cuda/sample_walk.cuh"

namespace
{

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

/* AT_ONCE parts are on their way together. */
template <int AT_ONCE, int BLOCKS>
__device__ inline void load_parts(slice<BLOCKS> &s, struct best &best, const float *row)
{
    const int end = s.end_group * GROUP_PARTS;
#pragma unroll 1
    for (int part = s.first_group * GROUP_PARTS; part < end; part += AT_ONCE) {
        float4 v[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
            v[i] = load_four(row, s.first + (part + i) * PART + lane() * 4, s.vocab, AT_ONCE > 1);
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
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

/* Seen ones are rare: one after the other. */
__device__ inline void penalize_four(const struct sample_params &p, float *logit, seen_four times)
{
#pragma unroll 1
    for (int i = 0; i < 4; i++) {
        if (logit[i] > -INFINITY) /* which no penalty changes; so is what lies behind the row */
            logit[i] = penalize(p, logit[i], times.x & 0xffff);
        times = make_uint2(times.x >> 16 | times.y << 16, times.y >> 16);
    }
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
        seen_four n[GROUP_PARTS];
#pragma unroll
        for (int i = 0; i < GROUP_PARTS; i++)
            n[i] = slot.has_penalty
                       ? load_seen(seen, s.first + group * GROUP + i * PART + lane() * 4, s.vocab)
                       : make_uint2(0, 0);
#pragma unroll
        for (int i = 0; i < GROUP_PARTS; i++) {
            const int at = group * GROUP + i * PART + lane() * 4;
            if (n[i].x | n[i].y)
                penalize_four(params, s.x + at, n[i]);
            best.note(s.four(at), s.first + at);
        }
    }
    s.thread_top = best.logit;
    return s.max_all(best.pack());
}

/* The sum of the weights of raw logits, in log. */
template <int BLOCKS> __device__ inline double find_log_sum(slice<BLOCKS> &s)
{
    const uint64_t mass = s.sum_groups([&](int group) { return s.sum_whole(group); });
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
        s.pick([&](int group) { return s.sum_whole(group); },
               [&](float logit, int) { return s.weight(logit); }, target);
    } else {
        s.pick([&](int group) { return s.template sum_group<GROUP_PARTS>(group, weight_of); },
               weight_of, target);
    }
}

/* Instead of an id: it is in a->best; it is in a->picked of block 0 when all have met. */
enum { ID_BEST = -4, ID_DRAWN = -3 };

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
        list_top(s, out_of(j, i), min(n_logprobs, s.vocab));
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

/* A row that was left; the cluster's. */
template <int BLOCKS>
__device__ inline void sample_left(slice<BLOCKS> &s, const struct sample_job &j, int i)
{
    place_slice(s, j);
    s.meet_begin(); /* every block of the cluster is through with the row before */
    const struct batch_head head = j.head[i];
    const struct cuda_slot *slot = j.slots.slot + head.slot;
    int id = sample_row(s, j, head, *slot, i);
    const int n_logprobs = slot->params.n_logprobs;
    /* A block's shared memory stays until the others are through with it, which they are where all
     * met behind what they last asked of it. */
    if (id == ID_DRAWN || n_logprobs > 0)
        s.meet();
    if (s.rank() > 0 || thread() > 0)
        return;
    id = id == ID_BEST ? s.a->best : id == ID_DRAWN ? s.a->picked : id;
    put_sample(j, i, id, n_logprobs >= 0 || head.forced >= 0, n_logprobs, s.a->log_sum);
}

/* The cluster's first row behind `i` that was left, or one that is not there: a lane asks for each.
 */
template <int BLOCKS> __device__ __noinline__ int next_left(const struct sample_job &j, int i)
{
    const int n_clusters = (int)gridDim.x / BLOCKS, cluster = (int)blockIdx.x / BLOCKS;
    for (i = i < 0 ? cluster : i + n_clusters; i < j.n; i += WARP * n_clusters) {
        const int mine = i + lane() * n_clusters;
        const unsigned left =
            __ballot_sync(ALL, mine < j.n && (!j.has_notes || __ldcg(notes_of(j, mine).is_left)));
        if (left != 0)
            return i + (__ffs((int)left) - 1) * n_clusters;
    }
    return j.n;
}

/* Every row by eight blocks at most, which end at once when there is none.
 * grid: clusters of BLOCKS   block: [THREADS]
 * shared: struct area, then the slice where the row is cut into more than one */
template <int BLOCKS>
__global__ void __launch_bounds__(THREADS, 3)
    sample_kernel(const __grid_constant__ struct sample_job j)
{
    DYNAMIC_SHARED(__align__(16) char, shared);
    slice<BLOCKS> s;
    s.a = reinterpret_cast<struct area *>(shared);
    s.x = BLOCKS > 1 ? reinterpret_cast<float *>(shared + sizeof(struct area))
                     : j.copy + (size_t)blockIdx.x * j.slice_width;
    await_previous();
    for (int i = next_left<BLOCKS>(j, -1); i < j.n; i = next_left<BLOCKS>(j, i))
        sample_left(s, j, i);
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

/* A walk and two launches pay where rows outnumber the clusters that run at once. */
constexpr int WALK_ROWS_MIN = 33;

constexpr int COPIES_MAX = 128; /* rows at once where single blocks do them */

/* Clusters that run at once: one more would double the time. */
int count_clusters(struct device *d, size_t shared_bytes)
{
    /* Of the device that the thread has had last, and its first vocabulary, which is the model's.
     */
    static thread_local int n, counted_on; /* counted_on: 1 + the device */
    cudaLaunchAttribute size = {};
    size.id = cudaLaunchAttributeClusterDimension;
    size.val.clusterDim = {CLUSTER, 1, 1};
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(CLUSTER);
    config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes = shared_bytes;
    config.attrs = &size;
    config.numAttrs = 1;
    if (counted_on != d->index + 1) {
        cuda_check(d, cudaOccupancyMaxActiveClusters(&n, sample_kernel<CLUSTER>, &config),
                   "sample: clusters");
        counted_on = d->index + 1;
    }
    return n > 0 ? n : 1;
}

template <int BLOCKS>
void launch_left(struct device *d, const struct sample_job &j, size_t shared_bytes)
{
    cuda_check(d,
               cudaFuncSetAttribute(sample_kernel<BLOCKS>,
                                    cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes),
               "sample: shared memory");
    const int most = BLOCKS > 1 ? count_clusters(d, shared_bytes) : COPIES_MAX;
    launch(d, "sample",
           {dim3((unsigned)((j.n < most ? j.n : most) * BLOCKS)), dim3(THREADS), shared_bytes,
            BLOCKS > 1 ? BLOCKS : 0},
           sample_kernel<BLOCKS>, j);
}

} /* namespace */

/* Notes, zero at first; then copies of rows where there are no clusters. */
size_t cuda_sample_work_bytes(const struct device_limits *l)
{
    const size_t notes = (size_t)l->heads_max * notes_bytes(l->vocab);
    if (has_clusters_for(l->vocab))
        return notes;
    return notes + (size_t)COPIES_MAX * (size_t)round_to_groups(l->vocab) * sizeof(float);
}

void cuda_sample(struct device *d, const struct sample_args *a)
{
    if (a->n <= 0)
        return;
    const bool clusters = has_clusters_for(a->vocab);
    const int n_walks = (count_chunks(a->vocab) + WARPS - 1) / WARPS;
    struct sample_job j = {};
    j.logits = a->logits;
    j.notes = (char *)d->sample_work;
    j.copy = (float *)(j.notes + (size_t)d->limits.heads_max * notes_bytes(a->vocab));
    j.head = d->batch.head + a->first;
    j.out = d->sample_out;
    j.first = a->first;
    j.slots = d->slots;
    j.n = a->n;
    j.vocab = a->vocab;
    j.slice_width = clusters ? cluster_width(a->vocab) : round_to_groups(a->vocab);
    j.bias_slot_max = d->limits.bias_slot_max;
    j.has_notes = a->n >= WALK_ROWS_MIN;
    if (j.has_notes)
        launch(d, "sample: walk", {dim3((unsigned)(a->n * n_walks)), dim3(THREADS), 0, 0},
               walk_kernel, j);
    if (clusters)
        launch_left<CLUSTER>(d, j, cluster_bytes(a->vocab));
    else
        launch_left<1>(d, j, sizeof(struct area));
}
