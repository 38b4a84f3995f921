/* sample.cu - from rows of logits to tokens and their log-probabilities, in one launch.
 *
 * A cluster of eight blocks does a row.  Each keeps an eighth of it in shared memory, so that the
 * logits are read from memory once whatever the row asks for; what it asks for is read from its
 * slot, so that every batch of n rows is the same launch.  Where there are no clusters, or the
 * vocabulary is too wide for one, a single block does the row on a copy in device memory.
 *
 * Meaning and order of effects are those of kernels/cpu/sample.c.  A token's weight is
 * exp((logit - top) / temperature), rounded down to a multiple of 2^-44 and kept as an integer, its
 * mass.  Sums of masses are exact, so no result depends on the order of a sum, and a border or a
 * draw is decided by comparing integers.
 *
 * Nothing sorts the vocabulary.  The border of top_k or top_p is first found to one of 256 bins of
 * equal width in the logit, by a histogram; if more tokens are at stake than a short list holds, a
 * second histogram divides that bin.  The tokens of the bin then go to a list, and each finds its
 * place by comparing itself with all others; equal logits: lower id first.  Where bins fail (more
 * equal logits than the list holds, or a border far below the top) the bits of the border are
 * found one by one, which is slow and always right.  When all candidates fit the list, the rest of
 * the row's work is done there.
 *
 * A warp has a run of whole 128-token parts of the slice, so that walks in order of id need the
 * warps' sums alone. */
#include <cooperative_groups.h>
#include <limits.h>

#include "kernels/cuda/launch.cuh"
#include "kernels/philox.h"

namespace
{

namespace cg = cooperative_groups;

constexpr int CLUSTER = 8, THREADS = 256, WARP = 32, WARPS = THREADS / WARP;
constexpr int PART = 4 * WARP;    /* tokens that a warp handles at once */
constexpr int BINS = THREADS;     /* one a thread when they are summed */
constexpr int LIST_MAX = THREADS; /* each is compared with all others */
constexpr int MASS_BITS = 44;     /* 2^19 tokens of weight 1 stay below 2^63 */
constexpr float GREEDY_BELOW = 1e-5f;
constexpr float COUNT_RANGE = 32; /* logits below the top that bins of counts reach */
constexpr unsigned ALL = 0xffffffffu;
constexpr uint64_t IS_NAN = ~0ull; /* above every (key, id) */

static_assert(LIST_MAX >= TOP_LOGPROBS_MAX && LIST_MAX <= THREADS,
              "the most likely tokens fit the list");

struct cut { /* kept: all above key, and at it the ids up to `id` */
    uint32_t key;
    int32_t id;
};

struct found_bin {
    int bin; /* -1: none of the bins */
    uint32_t n_before, n_in;
    uint64_t before; /* amount */
};

/* What a block needs beside its slice. */
struct alignas(16) area { /* the slice lies behind it */
    union {
        uint64_t mass[BINS];
        struct {                      /* after the histogram was read */
            uint64_t entry[LIST_MAX]; /* of all blocks */
            uint64_t amount[LIST_MAX];
        } all;
    };
    uint32_t count[BINS];
    uint64_t list[LIST_MAX];           /* of this block: order key, ~id */
    uint64_t sums[2][CLUSTER * WARPS]; /* of all warps; turns, so that one sync a sum is enough */
    uint64_t warp_amount[WARPS];
    uint32_t warp_count[WARPS];
    uint32_t n_list;
    int32_t picked;
    struct found_bin found;
    struct cut cut;
};

__device__ inline uint32_t order_key(float x) /* -0 and 0 are one */
{
    const uint32_t u = __float_as_uint(x + 0.0f);
    return u >> 31 ? ~u : u | 0x80000000u;
}

__device__ inline float key_logit(uint32_t key)
{
    return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key);
}

/* Larger is more likely; among equal logits the lower id. */
__device__ inline uint64_t pack_entry(float x, int id)
{
    return (uint64_t)order_key(x) << 32 | (uint32_t)~id;
}

__device__ inline int entry_id(uint64_t entry)
{
    return (int)~(uint32_t)entry;
}

__device__ inline bool keeps(const struct cut &c, uint32_t key, int id)
{
    return key > c.key || (key == c.key && id <= c.id);
}

__device__ inline uint64_t mass_of(float weight) /* <= 1 */
{
    const uint32_t u = __float_as_uint(weight);
    const int down = 127 - (int)(u >> 23);
    const uint64_t one = (uint64_t)((u & 0x7fffffu) | 0x800000u) << (MASS_BITS - 23);
    return down > MASS_BITS ? 0 : one >> down;
}

__device__ inline uint64_t warp_sum(uint64_t v)
{
#pragma unroll
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2)
        v += __shfl_xor_sync(ALL, v, lanes);
    return v;
}

__device__ inline uint64_t warp_max(uint64_t v)
{
#pragma unroll
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2) {
        const uint64_t other = __shfl_xor_sync(ALL, v, lanes);
        v = other > v ? other : v;
    }
    return v;
}

template <class T> __device__ inline T warp_scan(T v, int lane) /* inclusive */
{
#pragma unroll
    for (int lanes = 1; lanes < WARP; lanes *= 2) {
        const T other = __shfl_up_sync(ALL, v, lanes);
        v += lane >= lanes ? other : 0;
    }
    return v;
}

/* Which bin a logit is in; a monotone function of it.  A fine one divides bin `coarse`. */
struct bins {
    float top, scale;
    bool is_fine;
    int coarse;
    float edge, fine_scale;

    __device__ int place(float x) const /* -1: before them, BINS: behind */
    {
        const int b = __float2int_rz(__fmul_rn(__fsub_rn(top, x), scale)); /* saturates */
        if (!is_fine)
            return b < BINS ? b : BINS;
        if (b != coarse)
            return b < coarse ? -1 : BINS;
        const int f = __float2int_rz(__fmul_rn(__fsub_rn(edge, x), fine_scale));
        return f < 0 ? 0 : f < BINS ? f : BINS - 1;
    }
};

template <int BLOCKS> struct slice;

struct searched_cut {
    struct cut cut;
    int turn; /* of the slice, afterwards */
};

template <int BLOCKS>
__device__ __noinline__ struct searched_cut search_cut(slice<BLOCKS> s, uint64_t want, bool by_mass,
                                                       struct cut limit);

/* One block's share of a row.  All threads of the cluster make the same calls. */
template <int BLOCKS> struct slice {
    struct area *a;
    float *x; /* [width]; -INFINITY where there is no token */
    int rank, t, lane, warp;
    int first, width; /* id of x[0]; tokens of the slice, whole parts */
    int vocab;
    int first_part, end_part; /* of this warp */
    int turn;
    float top, rate; /* of the weights */
    int n_all;       /* > 0 <=> all.entry has every candidate */

    __device__ void meet()
    {
#if __CUDA_ARCH__ >= 900
        if (BLOCKS > 1) {
            cg::this_cluster().sync();
            return;
        }
#endif
        __syncthreads();
    }

    template <class T> __device__ T *of_block(T *p, int block)
    {
#if __CUDA_ARCH__ >= 900
        if (BLOCKS > 1)
            return cg::this_cluster().map_shared_rank(p, block);
#endif
        (void)block;
        return p;
    }

    template <class F> __device__ void each(F f) /* f(logit, id) */
    {
#pragma unroll 2
        for (int part = first_part; part < end_part; part++) {
            const int at = part * PART + lane * 4;
            const float4 v = *reinterpret_cast<const float4 *>(x + at);
            f(v.x, first + at);
            f(v.y, first + at + 1);
            f(v.z, first + at + 2);
            f(v.w, first + at + 3);
        }
    }

    /* All warps' values, of the cluster, to each of its blocks. */
    __device__ const uint64_t *exchange(uint64_t of_warp)
    {
        uint64_t *to = a->sums[turn];
        turn ^= 1;
        if (lane < BLOCKS)
            *of_block(to + rank * WARPS + warp, lane) = of_warp;
        meet();
        return to;
    }

    __device__ uint64_t sum_all(uint64_t v)
    {
        const uint64_t *sums = exchange(warp_sum(v));
        uint64_t sum = 0;
        for (int i = lane; i < BLOCKS * WARPS; i += WARP)
            sum += sums[i];
        return warp_sum(sum);
    }

    __device__ uint64_t max_all(uint64_t v)
    {
        const uint64_t *tops = exchange(warp_max(v));
        uint64_t best = 0;
        for (int i = lane; i < BLOCKS * WARPS; i += WARP)
            best = tops[i] > best ? tops[i] : best;
        return warp_max(best);
    }

    __device__ float weight(float logit) const
    {
        return expf(
            __fmul_rn(__fsub_rn(logit, top), rate)); /* the same bits wherever it is asked */
    }

    __device__ uint64_t amount(bool by_mass, float logit) const
    {
        return by_mass ? mass_of(weight(logit)) : 1;
    }

    __device__ void add_mass(int bin, uint64_t mass)
    {
        uint32_t *halves = reinterpret_cast<uint32_t *>(&a->mass[bin]);
        const uint32_t low = (uint32_t)mass, old = atomicAdd(&halves[0], low);
        const uint32_t high = (uint32_t)(mass >> 32) + (old + low < low);
        if (high > 0)
            atomicAdd(&halves[1], high);
    }

    /* Ends with the histograms of all blocks ready to be read. */
    __device__ void make_histogram(const struct bins &bins, bool by_mass, const struct cut &limit)
    {
        __syncthreads(); /* the list that lay there was read */
        a->mass[t] = 0;
        a->count[t] = 0;
        if (t == 0)
            a->found.bin = -1;
        __syncthreads();
        each([&](float logit, int id) {
            const int bin = bins.place(logit);
            if (bin < 0 || bin >= BINS || !keeps(limit, order_key(logit), id))
                return;
            atomicAdd(&a->count[bin], 1u);
            if (by_mass)
                add_mass(bin, mass_of(weight(logit)));
        });
        meet();
    }

    /* The bin in which the amount from the top reaches `want`. */
    __device__ struct found_bin find_bin(uint64_t want, bool by_mass)
    {
        uint64_t in = 0;
        uint32_t n_in = 0;
#pragma unroll 4
        for (int b = 0; b < BLOCKS; b++) {
            n_in += *of_block(&a->count[t], b);
            if (by_mass)
                in += *of_block(&a->mass[t], b);
        }
        if (!by_mass)
            in = n_in;
        uint64_t sum = warp_scan(in, lane);
        uint32_t n = warp_scan(n_in, lane);
        if (lane == WARP - 1) {
            a->warp_amount[warp] = sum;
            a->warp_count[warp] = n;
        }
        __syncthreads();
        for (int w = 0; w < warp; w++) {
            sum += a->warp_amount[w];
            n += a->warp_count[w];
        }
        if (sum - in < want && want <= sum) {
            a->found.bin = t;
            a->found.n_before = n - n_in;
            a->found.n_in = n_in;
            a->found.before = sum - in;
        }
        __syncthreads();
        return a->found;
    }

    /* The tokens that pass, of all blocks, to all.entry of each block; there must be no more than
     * LIST_MAX.  Between two calls the cluster meets elsewhere. */
    template <class F> __device__ int gather(F passes)
    {
        if (t == 0)
            a->n_list = 0;
        __syncthreads();
        each([&](float logit, int id) {
            if (passes(logit, id))
                a->list[atomicAdd(&a->n_list, 1u)] = pack_entry(logit, id);
        });
        meet();
        int n = 0;
        for (int b = 0; b < BLOCKS; b++) {
            const int more = (int)*of_block(&a->n_list, b);
            if (t < more)
                a->all.entry[n + t] = *of_block(&a->list[t], b);
            n += more;
        }
        __syncthreads();
        return n;
    }

    /* The cut at `want` among the n entries of the list, before which lies `above`. */
    __device__ struct cut cut_list(int n, uint64_t above, uint64_t want, bool by_mass,
                                   const struct cut &limit)
    {
        const uint64_t mine = t < n ? a->all.entry[t] : 0;
        const float logit = key_logit((uint32_t)(mine >> 32));
        const bool kept = t < n && keeps(limit, (uint32_t)(mine >> 32), entry_id(mine));
        const uint64_t own = kept ? amount(by_mass, logit) : 0;
        __syncthreads(); /* earlier amounts were read */
        if (t < n)
            a->all.amount[t] = own;
        __syncthreads();
        uint64_t sum = above;
        for (int i = 0; t < n && i < n; i++)
            sum += a->all.entry[i] > mine ? a->all.amount[i] : 0;
        if (sum < want && want <= sum + own) {
            a->cut.key = (uint32_t)(mine >> 32);
            a->cut.id = entry_id(mine);
        }
        __syncthreads();
        return a->cut;
    }

    /* The token, in order of id, at which the sum of amount(logit, id) comes to be more than
     * target(sum of all). */
    template <class F, class G> __device__ int pick(F amount_of, G target_of)
    {
        uint64_t own = 0;
        each([&](float logit, int id) { own += amount_of(logit, id); });
        const uint64_t *sums = exchange(warp_sum(own));
        const int index = rank * WARPS + warp;
        uint64_t before = 0, total = 0;
        for (int i = lane; i < BLOCKS * WARPS; i += WARP) {
            before += i < index ? sums[i] : 0;
            total += sums[i];
        }
        before = warp_sum(before);
        const uint64_t target = target_of(warp_sum(total));
        if (before <= target && target - before < sums[index])
            pick_in_warp(amount_of, before, target);
        meet();
        return a->picked;
    }

    template <class F> __device__ void pick_in_warp(F amount_of, uint64_t before, uint64_t target)
    {
        for (int part = first_part; part < end_part; part++) {
            const int at = part * PART + lane * 4;
            uint64_t v[4], own = 0;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                v[i] = amount_of(x[at + i], first + at + i);
                own += v[i];
            }
            const uint64_t sum = warp_scan(own, lane);
            uint64_t below = before + sum - own;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if (below <= target && target - below < v[i])
                    set_picked(first + at + i);
                below += v[i];
            }
            before += __shfl_sync(ALL, sum, WARP - 1);
            if (before > target)
                break;
        }
    }

    __device__ void set_picked(int id)
    {
        for (int b = 0; b < BLOCKS; b++)
            *of_block(&a->picked, b) = id;
    }

    /* The cut that leaves the fewest of the kept tokens, most likely first, whose amount reaches
     * `want` (which that of all kept ones does).  Sets n_all. */
    __device__ struct cut find_cut(uint64_t want, bool by_mass, const struct cut &limit,
                                   float scale)
    {
        struct bins bins = {top, scale, false, 0, 0, 0};
        uint64_t above = 0;
        uint32_t n_above = 0;
        n_all = 0;
#pragma unroll 1
        for (int level = 0; level < 2; level++) {
            if (level > 0)
                meet(); /* all have read the coarse histogram */
            make_histogram(bins, by_mass, limit);
            const struct found_bin f = find_bin(want - above, by_mass);
            if (f.bin < 0)
                break;
            above += f.before;
            n_above += f.n_before;
            const bool whole = n_above + f.n_in <= LIST_MAX;
            if (whole || f.n_in <= LIST_MAX) {
                const int n = gather([&](float logit, int id) {
                    const int place = bins.place(logit);
                    return (place == f.bin || (whole && place < f.bin)) &&
                           keeps(limit, order_key(logit), id);
                });
                n_all = whole ? n : 0;
                return cut_list(n, whole ? 0 : above, want, by_mass, limit);
            }
            bins.is_fine = true;
            bins.coarse = f.bin;
            bins.edge = top - (float)f.bin / scale;
            bins.fine_scale = scale * BINS;
        }
        const struct searched_cut found = search_cut(*this, want, by_mass, limit);
        turn = found.turn;
        return found.cut;
    }

    __device__ uint64_t list_sum()
    {
        uint64_t sum = 0;
        for (int i = lane; i < n_all; i += WARP)
            sum += a->all.amount[i];
        return warp_sum(sum);
    }

    /* Puts the masses of what cut and min_p leave beside the entries; returns the thread's own. */
    __device__ uint64_t weigh_list(const struct cut &c, float min_p)
    {
        const uint64_t mine = t < n_all ? a->all.entry[t] : 0;
        const float w = weight(key_logit((uint32_t)(mine >> 32)));
        const bool kept =
            t < n_all && w >= min_p && keeps(c, (uint32_t)(mine >> 32), entry_id(mine));
        const uint64_t own = kept ? mass_of(w) : 0;
        __syncthreads(); /* earlier amounts were read */
        if (t < n_all)
            a->all.amount[t] = own;
        __syncthreads();
        return own;
    }

    template <class G> __device__ int pick_in_list(const struct cut &c, float min_p, G target_of)
    {
        const uint64_t own = weigh_list(c, min_p), target = target_of(list_sum());
        const uint32_t mine = t < n_all ? (uint32_t)a->all.entry[t] : 0;
        uint64_t before = 0;
        for (int i = 0; t < n_all && i < n_all; i++)
            before += (uint32_t)a->all.entry[i] > mine ? a->all.amount[i] : 0;
        if (before <= target && target - before < own)
            a->picked = entry_id(mine);
        __syncthreads();
        return a->picked;
    }
};

/* The same as find_cut, bit by bit.  Rare, so a call: the registers are the others'. */
template <int BLOCKS>
__device__ struct searched_cut search_cut(slice<BLOCKS> s, uint64_t want, bool by_mass,
                                          struct cut limit)
{
    struct cut c = {0, INT_MAX};
    auto sum_from = [&](uint32_t least) {
        uint64_t sum = 0;
        s.each([&](float logit, int id) {
            const uint32_t key = order_key(logit);
            if (key >= least && keeps(limit, key, id))
                sum += s.amount(by_mass, logit);
        });
        return s.sum_all(sum);
    };
    for (int bit = 31; bit >= 0; bit--) {
        const uint32_t trial = c.key | 1u << bit;
        if (sum_from(trial) >= want)
            c.key = trial;
    }
    const uint64_t rest = want - sum_from(c.key + 1);
    const uint64_t each_adds = s.amount(by_mass, key_logit(c.key));
    const uint64_t n_equal = (rest + each_adds - 1) / each_adds;
    c.id = s.pick(
        [&](float logit, int id) -> uint64_t {
            return order_key(logit) == c.key && keeps(limit, c.key, id);
        },
        [&](uint64_t) { return n_equal - 1; });
    return {c, s.turn};
}

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
    __device__ uint64_t pack() const
    {
        return is_nan ? IS_NAN : pack_entry(logit, id);
    }
};

__device__ inline bool is_fault(uint64_t best)
{
    return best == IS_NAN || !isfinite(key_logit((uint32_t)(best >> 32)));
}

__device__ inline float4 load_four(const float *row, int id, int vocab)
{
    if (vocab % 4 == 0)
        return id < vocab ? __ldcs(reinterpret_cast<const float4 *>(row + id))
                          : make_float4(-INFINITY, -INFINITY, -INFINITY, -INFINITY);
    return make_float4(id < vocab ? row[id] : -INFINITY, id + 1 < vocab ? row[id + 1] : -INFINITY,
                       id + 2 < vocab ? row[id + 2] : -INFINITY,
                       id + 3 < vocab ? row[id + 3] : -INFINITY);
}

template <int BLOCKS> __device__ inline uint64_t load_slice(slice<BLOCKS> &s, const float *row)
{
    struct best best = {-INFINITY, 0, false};
#pragma unroll 4
    for (int part = s.first_part; part < s.end_part; part++) {
        const int at = part * PART + s.lane * 4;
        const float4 v = load_four(row, s.first + at, s.vocab);
        *reinterpret_cast<float4 *>(s.x + at) = v;
        best.note(v.x, s.first + at);
        best.note(v.y, s.first + at + 1);
        best.note(v.z, s.first + at + 2);
        best.note(v.w, s.first + at + 3);
    }
    return s.max_all(best.pack());
}

/* A thread adds all entries of an id, in order, where its first entry is the thread's. */
template <int BLOCKS>
__device__ inline void add_bias(slice<BLOCKS> &s, const struct sample_bias *bias, int n,
                                int n_generated)
{
    for (int i = s.t; i < n; i += THREADS) {
        const int id = bias[i].id, at = id - s.first;
        bool is_first = at >= 0 && at < s.width;
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
    if (seen != 0 && p.repetition != 1.0f)
        logit = logit > 0 ? __fdiv_rn(logit, p.repetition) : __fmul_rn(logit, p.repetition);
    if (times > 0)
        logit = __fsub_rn(logit, __fadd_rn(p.presence, __fmul_rn(p.frequency, (float)times)));
    return logit;
}

__device__ inline ushort4 load_seen(const uint16_t *seen, int id, int vocab)
{
    if (vocab % 4 == 0)
        return id < vocab ? *reinterpret_cast<const ushort4 *>(seen + id)
                          : make_ushort4(0, 0, 0, 0);
    return make_ushort4(id < vocab ? seen[id] : 0, id + 1 < vocab ? seen[id + 1] : 0,
                        id + 2 < vocab ? seen[id + 2] : 0, id + 3 < vocab ? seen[id + 3] : 0);
}

/* Bias, then penalties; returns the best of what comes out. */
template <int BLOCKS>
__device__ inline uint64_t change_logits(slice<BLOCKS> &s, const struct sample_job &j,
                                         const struct cuda_slot &slot, int index, int n_history)
{
    const uint16_t *seen = j.slots.seen + (size_t)index * s.vocab;
    struct best best = {-INFINITY, 0, false};
    __syncthreads(); /* other warps are through with the raw logits */
    add_bias(s, j.slots.bias + (size_t)index * j.bias_slot_max, slot.n_bias,
             n_history - slot.n_prompt);
    __syncthreads();
#pragma unroll 2
    for (int part = s.first_part; part < s.end_part; part++) {
        const int at = part * PART + s.lane * 4;
        float4 v = *reinterpret_cast<const float4 *>(s.x + at);
        if (slot.has_penalty) {
            const ushort4 n = load_seen(seen, s.first + at, s.vocab);
            v.x = penalize(slot.params, v.x, n.x);
            v.y = penalize(slot.params, v.y, n.y);
            v.z = penalize(slot.params, v.z, n.z);
            v.w = penalize(slot.params, v.w, n.w);
            *reinterpret_cast<float4 *>(s.x + at) = v;
        }
        best.note(v.x, s.first + at);
        best.note(v.y, s.first + at + 1);
        best.note(v.z, s.first + at + 2);
        best.note(v.w, s.first + at + 3);
    }
    return s.max_all(best.pack());
}

/* The sum of the weights of raw logits, in log. */
template <int BLOCKS> __device__ inline double find_log_sum(slice<BLOCKS> &s)
{
    uint64_t own = 0;
    s.each([&](float logit, int) { own += mass_of(s.weight(logit)); });
    const uint64_t mass = s.sum_all(own);
    return (double)s.top + log((double)mass) - MASS_BITS * 0.69314718055994530942;
}

template <int BLOCKS>
__device__ inline void list_top(slice<BLOCKS> &s, struct sample_out *out, int n_top, double log_sum)
{
    const struct cut all = {0, INT_MAX};
    const struct cut c = s.find_cut((uint64_t)n_top, false, all, BINS / COUNT_RANGE);
    int n = s.n_all;
    if (n == 0) {
        s.meet(); /* all have read what find_cut gathered */
        n = s.gather([&](float logit, int id) { return keeps(c, order_key(logit), id); });
    }
    if (s.rank > 0 || s.t >= n)
        return;
    const uint64_t mine = s.a->all.entry[s.t];
    int place = 0;
    for (int i = 0; i < n; i++)
        place += s.a->all.entry[i] > mine;
    if (place >= n_top)
        return;
    out->top_id[place] = entry_id(mine);
    out->top_logprob[place] = (float)((double)key_logit((uint32_t)(mine >> 32)) - log_sum);
}

__device__ inline uint64_t share_of(double share, uint64_t total) /* rounded up, 1 to total */
{
    const double exact = ceil(share * (double)total);
    const uint64_t want = exact < 1 ? 1 : (uint64_t)exact;
    return want < total ? want : total;
}

/* The cut at top_p; s.n_all says whether the candidates are in the list already. */
template <int BLOCKS>
__device__ inline struct cut cut_top_p(slice<BLOCKS> &s, const struct cut &limit, float top_p)
{
    if (s.n_all > 0) {
        s.weigh_list(limit, 0);
        const uint64_t want = share_of(top_p, s.list_sum());
        return s.cut_list(s.n_all, 0, want, true, limit);
    }
    uint64_t own = 0;
    s.each([&](float logit, int id) {
        if (keeps(limit, order_key(logit), id))
            own += mass_of(s.weight(logit));
    });
    const uint64_t want = share_of(top_p, s.sum_all(own));
    /* Tokens of less than (1 - top_p) / vocab are outside: the bins end there. */
    const float range = logf((float)s.vocab / (1.0f - top_p)) + 0.5f;
    return s.find_cut(want, true, limit, BINS * s.rate / range);
}

template <int BLOCKS>
__device__ inline int draw_token(slice<BLOCKS> &s, const struct sample_params &p, int n_history)
{
    struct cut c = {0, INT_MAX};
    s.n_all = 0;
    if (p.top_k > 0 && p.top_k < s.vocab)
        c = s.find_cut((uint64_t)p.top_k, false, c, BINS / COUNT_RANGE);
    if (p.top_p < 1)
        c = cut_top_p(s, c, p.top_p);
    const double u = philox_uniform(p.seed, (uint64_t)n_history);
    auto target = [u](uint64_t total) {
        const uint64_t at = (uint64_t)(u * (double)total);
        return at < total ? at : total - 1;
    };
    if (s.n_all > 0)
        return s.pick_in_list(c, p.min_p, target);
    return s.pick(
        [&](float logit, int id) -> uint64_t {
            const float w = s.weight(logit);
            return w >= p.min_p && keeps(c, order_key(logit), id) ? mass_of(w) : 0;
        },
        target);
}

/* What a row comes to; uniform in the cluster. */
struct result {
    int id;
    bool is_fault;
    double log_sum;
};

template <int BLOCKS>
__device__ inline struct result
sample_row(slice<BLOCKS> &s, const struct sample_job &j, const struct batch_head &head,
           const struct cuda_slot &slot, const float *row, struct sample_out *out)
{
    const struct sample_params &p = slot.params;
    struct result r = {0, true, 0};
    uint64_t best = load_slice(s, row);
    if (is_fault(best))
        return r;
    s.top = key_logit((uint32_t)(best >> 32));
    s.rate = 1;
    if (p.n_logprobs >= 0 || head.forced >= 0)
        r.log_sum = find_log_sum(s);
    if (p.n_logprobs > 0)
        list_top(s, out, min(p.n_logprobs, s.vocab), r.log_sum);
    if (head.forced < 0 && (slot.has_penalty || slot.n_bias > 0)) {
        best = change_logits(s, j, slot, head.slot, head.n_history);
        if (is_fault(best))
            return r;
        s.top = key_logit((uint32_t)(best >> 32));
    }
    r.is_fault = false;
    if (head.forced >= 0) {
        r.id = head.forced;
    } else if (p.temperature < GREEDY_BELOW) {
        r.id = entry_id(best);
    } else {
        s.rate = __fdiv_rn(1.0f, p.temperature);
        r.id = draw_token(s, p, head.n_history);
    }
    return r;
}

template <int BLOCKS>
__device__ inline void place_slice(slice<BLOCKS> &s, const struct sample_job &j)
{
    const int n_parts = j.slice_width / PART, each = (n_parts + WARPS - 1) / WARPS;
    s.rank = (int)blockIdx.x % BLOCKS;
    s.t = (int)threadIdx.x;
    s.lane = s.t % WARP;
    s.warp = s.t / WARP;
    s.width = j.slice_width;
    s.first = s.rank * j.slice_width;
    s.vocab = j.vocab;
    s.first_part = min(s.warp * each, n_parts);
    s.end_part = min(s.first_part + each, n_parts);
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
    s.meet(); /* every block of the cluster runs before another writes to it */
    await_previous();
    const struct batch_head head = j.head[i];
    struct cuda_slot *slot = j.slots.slot + head.slot;
    const float *row = j.logits + (size_t)i * j.vocab;
    struct sample_out *out = j.out + i;
    const struct result r = sample_row(s, j, head, *slot, row, out);
    if (s.rank == 0 && s.t == 0) {
        const int n_logprobs = slot->params.n_logprobs;
        const bool scored = n_logprobs >= 0 || head.forced >= 0;
        out->id = r.id;
        out->fault = r.is_fault ? SAMPLE_NAN : SAMPLE_OK;
        out->n_top = r.is_fault || n_logprobs <= 0 ? 0 : min(n_logprobs, j.vocab);
        out->logprob = scored && !r.is_fault ? (float)((double)row[r.id] - r.log_sum) : 0.0f;
        if (head.forced < 0)
            slot->sampled = r.id;
    }
    s.meet(); /* a block's shared memory stays until the others have read it */
}

int round_to_parts(int n)
{
    return (n + PART - 1) / PART * PART;
}

int cluster_width(int vocab)
{
    return round_to_parts((vocab + CLUSTER - 1) / CLUSTER);
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
    return (size_t)l->heads_max * (size_t)round_to_parts(l->vocab) * sizeof(float);
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
    j.slice_width = clusters ? cluster_width(a->vocab) : round_to_parts(a->vocab);
    j.bias_slot_max = d->limits.bias_slot_max;
    if (clusters)
        launch_sample<CLUSTER>(d, j, a->n, cluster_bytes(a->vocab));
    else
        launch_sample<1>(d, j, a->n, sizeof(struct area));
}
