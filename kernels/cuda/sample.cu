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
 * Nothing sorts the vocabulary, and where it can be helped nothing but a sum walks over it:
 *
 *     top_k   The k-th largest of the threads' largest logits is no larger than the k-th largest
 *             logit: a histogram of 2048 numbers gives a bound that little more than k tokens pass.
 *     top_p   A histogram of nearly the masses, over bins of equal width in the logit, says which
 *             bin the border is in.  If what lies above it is short, it is listed.  Else that bin
 * and its neighbours are divided by a second histogram, of exact masses, and the one bin in which
 * the border is then is listed. list    Each token of it finds its place by comparing itself with
 * all others; equal logits: lower id first.  When all candidates are there, the rest of the row's
 * work is too.
 *
 * Where bins fail (more equal logits than the list holds, or a border far below the top) the bits
 * of the border are found one by one, which is slow and always right. */
#include <cooperative_groups.h>
#include <limits.h>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/philox.h"

namespace
{

namespace cg = cooperative_groups;

constexpr int CLUSTER = 8, THREADS = 256, WARP = 32, WARPS = THREADS / WARP;
constexpr int PART = 4 * WARP; /* tokens that a warp reads at once */
constexpr int GROUP_PARTS = 4, GROUP = GROUP_PARTS * PART;
constexpr int BINS_EACH = 3, BINS = BINS_EACH * THREADS; /* of a coarse histogram */
constexpr int FINE_BINS = THREADS;
constexpr int LIST_MAX = 384;
constexpr int STEPS = 64;     /* of a coarse bin, in which a token's place is known */
constexpr int MASS_BITS = 44; /* 2^19 tokens of weight 1 stay below 2^63 */
constexpr uint64_t ONE = 1ull << MASS_BITS;
constexpr float GREEDY_BELOW = 1e-5f;
constexpr float COUNT_RANGE = 32; /* logits below the top that bins of counts reach */
constexpr float LOG2_E = 1.44269504f;
constexpr unsigned ALL = 0xffffffffu;
constexpr uint64_t IS_NAN = ~0ull; /* above every (key, id) */

static_assert(LIST_MAX >= TOP_LOGPROBS_MAX, "the most likely tokens fit the list");

struct cut { /* kept: all above logit, and at it the ids up to `id` */
    float logit;
    int32_t id;
};

struct found_bin {
    int bin;         /* -1: none of the bins */
    uint32_t n;      /* tokens in it; of a coarse bin: in it and before, about */
    uint64_t before; /* amount */
};

/* What a block needs beside its slice. */
struct alignas(16) area { /* the slice lies behind it */
    union {
        uint32_t coarse[BINS];
        struct {
            uint64_t mass[FINE_BINS];
            uint32_t count[FINE_BINS];
        } fine;
        uint64_t amount[LIST_MAX]; /* of the entries */
    };
    uint64_t list[LIST_MAX];           /* of this block: order key, ~id */
    uint64_t entry[LIST_MAX];          /* of all blocks */
    uint64_t sums[2][CLUSTER * WARPS]; /* of all warps; turns, so that one sync a sum is enough */
    uint64_t warp_amount[WARPS];
    uint32_t warp_count[WARPS];
    uint32_t n_list;
    int32_t picked;
    bool has_cut;
    double log_sum; /* of the raw weights; thread 0's */
    struct found_bin found;
    struct cut cut;
};

static_assert(sizeof(struct area) <= 228 * 1024 / 3 - 1024 - (1 << 14) * sizeof(float),
              "three slices of a vocabulary of 2^17 fit a multiprocessor");

__device__ inline int thread()
{
    return (int)threadIdx.x;
}

__device__ inline int lane()
{
    return thread() % WARP;
}

__device__ inline int warp()
{
    return thread() / WARP;
}

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

__device__ inline float entry_logit(uint64_t entry)
{
    return key_logit((uint32_t)(entry >> 32));
}

__device__ inline int entry_id(uint64_t entry)
{
    return (int)~(uint32_t)entry;
}

__device__ inline bool keeps(const struct cut &c, float logit, int id)
{
    return logit > c.logit || (logit == c.logit && id <= c.id);
}

__device__ inline uint64_t mass_of(float weight)
{
    return __float2ull_rz(__fmul_rn(weight, (float)ONE)); /* a power of 2: exact */
}

__device__ inline float warp_sum(float v)
{
#pragma unroll
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2)
        v = __fadd_rn(v, __shfl_xor_sync(ALL, v, lanes));
    return v;
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

__device__ inline uint64_t share_of(double share, uint64_t total) /* rounded up, 1 to total */
{
    const double exact = ceil(share * (double)total);
    const uint64_t want = exact < 1 ? 1 : (uint64_t)exact;
    return want < total ? want : total;
}

/* Where a logit is among bins of equal width below the top: monotone functions of it. */
struct bins {
    float top, steps_rate; /* steps in a unit of the logit */
    int first, last;       /* the coarse bins that fine ones divide */
    float fine_rate;

    __device__ float steps(float x) const
    {
        return __fmul_rn(__fsub_rn(top, x), steps_rate);
    }
    __device__ int step(float x) const
    {
        return __float2int_rz(steps(x)); /* saturates */
    }
    __device__ int coarse(float x) const
    {
        return step(x) / STEPS;
    }
    __device__ void divide(int from, int to)
    {
        first = from;
        last = to;
        fine_rate = (float)FINE_BINS / (float)((to - from + 1) * STEPS);
    }
    __device__ int fine(float x) const /* of a logit in [first, last] */
    {
        const float from = (float)(first * STEPS);
        const int bin = __float2int_rz(__fmul_rn(__fsub_rn(steps(x), from), fine_rate));
        return bin < FINE_BINS ? bin : FINE_BINS - 1;
    }
};

/* What a coarse histogram counts: tokens, or nearly their weights.  A token adds `most` less twice
 * its step in the bin: its weight, on a straight line between those of the bin's borders, in units
 * of the first border's.  Errors are the line's, some 1e-4, which is why a border is looked for in
 * the neighbours too.  Sums of 2^19 tokens fit 32 bits, as bins are that wide for so many. */
struct coarse_unit {
    uint32_t most, step_mask;
    float to_count, to_mass; /* of a sum of units, about */
    float decay;             /* of a bin's weight to the next, as a power of 2 */

    __device__ uint32_t add(int step) const
    {
        return most - 2 * ((uint32_t)step & step_mask);
    }
    __device__ uint64_t mass(int bin, uint64_t sum) const
    {
        return __float2ull_rz((float)sum * to_mass * exp2_approx((float)bin * decay));
    }
};

__device__ inline struct coarse_unit count_unit()
{
    return {1, 0, 1, (float)ONE, 0};
}

__device__ inline struct coarse_unit weight_unit(float rate, float steps_rate)
{
    const float width = rate * (float)STEPS / steps_rate; /* of a bin, in ln of the weight */
    const uint32_t unit = (uint32_t)(2 * STEPS / -expm1f(-width));
    return {unit - 1, STEPS - 1, 1 / (float)(unit - STEPS), (float)ONE / (float)unit,
            -width * LOG2_E};
}

/* The fewest of the kept tokens, most likely first, that are `count`, or that have `share` of the
 * mass of all kept ones. */
struct wish {
    bool by_mass;
    int count;
    float share;
    struct cut limit;
    float steps_rate;
};

template <int BLOCKS> struct slice;

struct searched_cut {
    struct cut cut;
    int turn, n_all; /* of the slice, afterwards */
};

template <int BLOCKS>
__device__ __noinline__ struct searched_cut find_cut(slice<BLOCKS> s, struct wish wish);

template <int BLOCKS>
__device__ __noinline__ struct searched_cut search_cut(slice<BLOCKS> s, uint64_t want,
                                                       struct wish wish);

/* One block's share of a row.  All threads of the cluster make the same calls. */
template <int BLOCKS> struct slice {
    struct area *a;
    float *x;  /* whole groups; -INFINITY where there is no token */
    int first; /* id of x[0] */
    int vocab;
    int first_group, end_group; /* of this warp */
    int turn;
    float top, rate;  /* of the weights */
    float thread_top; /* the largest logit that this thread reads in `each` */
    int n_all;        /* > 0 <=> a->entry has every candidate */

    __device__ int rank() const
    {
        return (int)blockIdx.x % BLOCKS;
    }

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

    /* Together a meet(). */
    __device__ void meet_begin()
    {
#if __CUDA_ARCH__ >= 900
        if (BLOCKS > 1)
            cg::this_cluster().barrier_arrive();
#endif
    }
    __device__ void meet_end()
    {
#if __CUDA_ARCH__ >= 900
        if (BLOCKS > 1)
            cg::this_cluster().barrier_wait();
#endif
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

    __device__ float4 four(int at) const
    {
        return *reinterpret_cast<const float4 *>(x + at);
    }

    template <class F> __device__ void each(F f) /* f(logit, id) */
    {
#pragma unroll 2
        for (int part = first_group * GROUP_PARTS; part < end_group * GROUP_PARTS; part++) {
            const int at = part * PART + lane() * 4;
            const float4 v = four(at);
            f(v.x, first + at);
            f(v.y, first + at + 1);
            f(v.z, first + at + 2);
            f(v.w, first + at + 3);
        }
    }

    /* The mass of a group, to all lanes, of which f(logit, id) gives the weights.  AT_ONCE parts
     * are code side by side: all of them where it is worth that. */
    template <int AT_ONCE, class F> __device__ uint64_t sum_group(int group, F f)
    {
        float sum = 0;
#pragma unroll(AT_ONCE)
        for (int part = 0; part < GROUP_PARTS; part++) {
            const int at = group * GROUP + part * PART + lane() * 4;
            const float4 v = four(at);
            const float a = f(v.x, first + at), b = f(v.y, first + at + 1);
            const float c = f(v.z, first + at + 2), d = f(v.w, first + at + 3);
            sum = __fadd_rn(sum, __fadd_rn(__fadd_rn(a, b), __fadd_rn(c, d)));
        }
        return mass_of(warp_sum(sum));
    }

    template <int AT_ONCE, class F> __device__ uint64_t sum_warp(F f)
    {
        uint64_t sum = 0;
#pragma unroll 1
        for (int group = first_group; group < end_group; group++)
            sum += sum_group<AT_ONCE>(group, f);
        return sum;
    }

    /* All warps' values, of the cluster, to each of its blocks. */
    __device__ const uint64_t *exchange(uint64_t of_warp)
    {
        uint64_t *to = a->sums[turn];
        turn ^= 1;
        if (lane() < BLOCKS)
            *of_block(to + rank() * WARPS + warp(), lane()) = of_warp;
        meet();
        return to;
    }

    template <int AT_ONCE, class F> __device__ uint64_t sum_all(F f)
    {
        const uint64_t *sums = exchange(sum_warp<AT_ONCE>(f));
        uint64_t sum = 0;
        for (int i = lane(); i < BLOCKS * WARPS; i += WARP)
            sum += sums[i];
        return warp_sum(sum);
    }

    __device__ uint64_t max_all(uint64_t v)
    {
        const uint64_t *tops = exchange(warp_max(v));
        uint64_t best = 0;
        for (int i = lane(); i < BLOCKS * WARPS; i += WARP)
            best = tops[i] > best ? tops[i] : best;
        return warp_max(best);
    }

    __device__ float weight(float logit) const /* the same bits wherever it is asked */
    {
        return exp2_approx(__fmul_rn(__fmul_rn(__fsub_rn(logit, top), rate), LOG2_E));
    }

    __device__ void clear_coarse()
    {
        __syncthreads(); /* what lay there was read */
        for (int i = thread(); i < BINS; i += THREADS)
            a->coarse[i] = 0;
        __syncthreads();
    }

    /* The sum of v over the threads before. */
    template <class T> __device__ T sum_before(T v, T *of_warps)
    {
        const T upto = warp_scan(v, lane());
        if (lane() == WARP - 1)
            of_warps[warp()] = upto;
        if (thread() == 0)
            a->found.bin = -1;
        __syncthreads();
        T before = upto - v;
        for (int w = 0; w < warp(); w++)
            before += of_warps[w];
        return before;
    }

    __device__ void note_found(int bin, uint64_t before, uint64_t in, uint64_t want, uint32_t n)
    {
        if (before < want && want <= before + in)
            a->found = {bin, n, before};
    }

    /* The bin of the coarse histograms of all blocks in which the mass reaches `want`. */
    __device__ struct found_bin find_coarse(uint64_t want, const struct coarse_unit &unit)
    {
        uint64_t in[BINS_EACH], sum = 0;
        uint32_t n[BINS_EACH], n_sum = 0;
#pragma unroll
        for (int i = 0; i < BINS_EACH; i++) {
            const int bin = thread() * BINS_EACH + i;
            uint64_t units = 0;
#pragma unroll
            for (int b = 0; b < BLOCKS; b++)
                units += *of_block(&a->coarse[bin], b);
            in[i] = unit.mass(bin, units);
            n[i] = (uint32_t)((float)units * unit.to_count);
            sum += in[i];
            n_sum += n[i];
        }
        uint64_t before = sum_before(sum, a->warp_amount);
        uint32_t n_upto = sum_before(n_sum, a->warp_count);
#pragma unroll
        for (int i = 0; i < BINS_EACH; i++) {
            n_upto += n[i];
            note_found(thread() * BINS_EACH + i, before, in[i], want, n_upto);
            before += in[i];
        }
        __syncthreads();
        return a->found;
    }

    __device__ void clear_fine()
    {
        a->fine.mass[thread()] = 0;
        a->fine.count[thread()] = 0;
        __syncthreads();
    }

    __device__ void add_fine(int bin, uint64_t mass)
    {
        uint32_t *halves = reinterpret_cast<uint32_t *>(&a->fine.mass[bin]);
        const uint32_t low = (uint32_t)mass, old = atomicAdd(&halves[0], low);
        const uint32_t high = (uint32_t)(mass >> 32) + (old + low < low);
        if (high > 0)
            atomicAdd(&halves[1], high);
        atomicAdd(&a->fine.count[bin], 1u);
    }

    __device__ struct found_bin find_fine(uint64_t want)
    {
        uint64_t in = 0;
        uint32_t n_in = 0;
#pragma unroll
        for (int b = 0; b < BLOCKS; b++) {
            n_in += *of_block(&a->fine.count[thread()], b);
            in += *of_block(&a->fine.mass[thread()], b);
        }
        note_found(thread(), sum_before(in, a->warp_amount), in, want, n_in);
        __syncthreads();
        return a->found;
    }

    /* Puts the tokens that pass, of all blocks, to a->entry of each block, and returns how many
     * they are: if more than LIST_MAX, the entries are of no use.  Only threads that `look` have
     * any. Between two calls the cluster meets elsewhere. */
    template <class F> __device__ int gather(bool look, F passes)
    {
        if (thread() == 0)
            a->n_list = 0;
        __syncthreads();
        if (look)
            each([&](float logit, int id) {
                if (!passes(logit, id))
                    return;
                const uint32_t at = atomicAdd(&a->n_list, 1u);
                if (at < LIST_MAX)
                    a->list[at] = pack_entry(logit, id);
            });
        meet();
        const int of_lane = lane() < BLOCKS ? (int)*of_block(&a->n_list, lane()) : 0;
        const int upto = warp_scan(of_lane, lane()), n = __shfl_sync(ALL, upto, BLOCKS - 1);
        for (int first_entry = 0; first_entry < min(n, LIST_MAX); first_entry += THREADS) {
            const int i = first_entry + thread();
            int block = 0, from = 0;
#pragma unroll
            for (int b = 0; b + 1 < BLOCKS; b++) {
                const int end = __shfl_sync(ALL, upto, b);
                block += i >= end;
                from = i >= end ? end : from;
            }
            if (i < min(n, LIST_MAX))
                a->entry[i] = *of_block(&a->list[i - from], block);
        }
        __syncthreads();
        return n;
    }

    /* Puts what f(logit, id) weighs beside the n entries; returns the mass of all. */
    template <class F> __device__ uint64_t weigh_list(int n, F f)
    {
        __syncthreads(); /* earlier amounts were read */
        for (int i = thread(); i < n; i += THREADS)
            a->amount[i] = mass_of(f(entry_logit(a->entry[i]), entry_id(a->entry[i])));
        __syncthreads();
        uint64_t sum = 0;
        for (int i = lane(); i < n; i += WARP)
            sum += a->amount[i];
        return warp_sum(sum);
    }

    /* Finds the entry at which the amounts, most likely first, behind `above` reach `want`. */
    __device__ bool cut_list(int n, uint64_t above, uint64_t want)
    {
        if (thread() == 0)
            a->has_cut = false;
        __syncthreads();
        for (int e = thread(); e < n; e += THREADS) {
            const uint64_t mine = a->entry[e];
            uint64_t sum = above;
#pragma unroll 4
            for (int i = 0; i < n; i++)
                sum += a->entry[i] > mine ? a->amount[i] : 0;
            if (sum < want && want <= sum + a->amount[e]) {
                a->cut = {entry_logit(mine), entry_id(mine)};
                a->has_cut = true;
            }
        }
        __syncthreads();
        return a->has_cut;
    }

    /* The token, in order of id, at which the mass comes to be more than target(mass of all): in
     * a->picked of each block when the cluster has met again. */
    template <int AT_ONCE, class F, class G> __device__ void pick(F weight_of, G target_of)
    {
        const uint64_t *sums = exchange(sum_warp<AT_ONCE>(weight_of));
        const int index = rank() * WARPS + warp();
        uint64_t before = 0, total = 0;
        for (int i = lane(); i < BLOCKS * WARPS; i += WARP) {
            before += i < index ? sums[i] : 0;
            total += sums[i];
        }
        before = warp_sum(before);
        const uint64_t target = target_of(warp_sum(total));
        if (before > target || target - before >= sums[index])
            return;
#pragma unroll 1
        for (int group = first_group; group < end_group; group++) {
            const uint64_t mass = sum_group<1>(group, weight_of);
            if (target - before < mass) {
                pick_in_group(group, weight_of, target - before);
                return;
            }
            before += mass;
        }
    }

    /* The masses of tokens may come to a little less than the group's: then the last has the rest.
     */
    template <class F> __device__ void pick_in_group(int group, F weight_of, uint64_t target)
    {
        uint64_t before = 0, last = 0; /* id + 1 */
#pragma unroll 1
        for (int part = 0; part < GROUP_PARTS; part++) {
            const int at = group * GROUP + part * PART + lane() * 4;
            const float4 logit = four(at);
            const float v[4] = {logit.x, logit.y, logit.z, logit.w};
            uint64_t mass[4], own = 0;
            bool found = false;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float w = weight_of(v[i], first + at + i);
                mass[i] = mass_of(w);
                own += mass[i];
                last = w > 0 ? (uint64_t)(first + at + i) + 1 : last;
            }
            const uint64_t sum = warp_scan(own, lane());
            uint64_t below = before + sum - own;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if (below <= target && target - below < mass[i]) {
                    set_picked(first + at + i);
                    found = true;
                }
                below += mass[i];
            }
            if (__any_sync(ALL, found))
                return;
            before += __shfl_sync(ALL, sum, WARP - 1);
        }
        last = warp_max(last);
        if (lane() == 0)
            set_picked((int)last - 1);
    }

    __device__ void set_picked(int id)
    {
#pragma unroll 1
        for (int b = 0; b < BLOCKS; b++)
            *of_block(&a->picked, b) = id;
    }

    /* The same among the entries: in a->picked of this block. */
    template <class F, class G> __device__ void pick_in_list(F weight_of, G target_of)
    {
        const uint64_t target = target_of(weigh_list(n_all, weight_of));
        for (int e = thread(); e < n_all; e += THREADS) {
            const uint32_t mine = (uint32_t)a->entry[e];
            uint64_t before = 0;
#pragma unroll 4
            for (int i = 0; i < n_all; i++)
                before += (uint32_t)a->entry[i] > mine ? a->amount[i] : 0;
            if (before <= target && target - before < a->amount[e])
                a->picked = entry_id(a->entry[e]);
        }
    }

    __device__ struct cut take(const struct searched_cut &found)
    {
        turn = found.turn;
        n_all = found.n_all;
        return found.cut;
    }
};

/* The border of what was wished for.  A call, so that the registers are the caller's. */
template <int BLOCKS> __device__ struct searched_cut find_cut(slice<BLOCKS> s, struct wish wish)
{
    struct bins bins = {s.top, wish.steps_rate, 0, 0, 0};
    const struct coarse_unit unit =
        wish.by_mass ? weight_unit(s.rate, wish.steps_rate) : count_unit();
    auto weight_of = [&](float logit, int id) {
        return !keeps(wish.limit, logit, id) ? 0.0f : wish.by_mass ? s.weight(logit) : 1.0f;
    };
    s.clear_coarse();
    const uint64_t total = s.template sum_all<GROUP_PARTS>([&](float logit, int id) {
        const int step = bins.step(logit);
        const float w = weight_of(logit, id);
        if (step < BINS * STEPS && w > 0)
            atomicAdd(&s.a->coarse[step / STEPS], unit.add(step));
        return w;
    });
    const uint64_t want = wish.by_mass ? share_of(wish.share, total) : (uint64_t)wish.count * ONE;
    struct found_bin f = s.find_coarse(want, unit);
    if (f.bin < 0)
        return search_cut(s, want, wish);
    const int beside = wish.by_mass ? 1 : 0;
    bins.divide(max(f.bin - beside, 0), f.bin + beside);
    s.meet(); /* all have read the coarse histogram */
    if (f.n <= LIST_MAX) {
        const int n = s.gather(true, [&](float logit, int id) {
            return bins.coarse(logit) <= bins.last && keeps(wish.limit, logit, id);
        });
        if (n <= LIST_MAX) {
            s.weigh_list(n, weight_of);
            if (s.cut_list(n, 0, want))
                return {s.a->cut, s.turn, n};
        }
    }
    __syncthreads(); /* amounts were read */
    s.clear_fine();
    const uint64_t above = s.template sum_all<2>([&](float logit, int id) {
        const int bin = bins.coarse(logit);
        const float w = bin <= bins.last ? weight_of(logit, id) : 0.0f;
        if (bin < bins.first)
            return w;
        if (w > 0)
            s.add_fine(bins.fine(logit), mass_of(w));
        return 0.0f;
    });
    if (above >= want)
        return search_cut(s, want, wish);
    f = s.find_fine(want - above);
    if (f.bin < 0 || f.n > LIST_MAX)
        return search_cut(s, want, wish);
    const int n = s.gather(true, [&](float logit, int id) {
        const int bin = bins.coarse(logit);
        return bin >= bins.first && bin <= bins.last && bins.fine(logit) == f.bin &&
               weight_of(logit, id) > 0;
    });
    s.weigh_list(n, weight_of);
    if (!s.cut_list(n, above + f.before, want))
        return search_cut(s, want, wish);
    return {s.a->cut, s.turn, 0};
}

/* The same, bit by bit. */
template <int BLOCKS>
__device__ struct searched_cut search_cut(slice<BLOCKS> s, uint64_t want, struct wish wish)
{
    auto weight_of = [&](float logit, int id) {
        return !keeps(wish.limit, logit, id) ? 0.0f : wish.by_mass ? s.weight(logit) : 1.0f;
    };
    auto sum_from = [&](uint32_t least) {
        return s.template sum_all<1>([&](float logit, int id) {
            return order_key(logit) >= least ? weight_of(logit, id) : 0.0f;
        });
    };
    uint32_t key = 0;
    for (int bit = 31; bit >= 0; bit--) {
        const uint32_t trial = key | 1u << bit;
        if (sum_from(trial) >= want)
            key = trial;
    }
    struct cut c = {key_logit(key), 0};
    const uint64_t above = sum_from(key + 1), rest = want > above ? want - above : 1;
    const uint64_t each_adds = max(wish.by_mass ? mass_of(s.weight(c.logit)) : ONE, (uint64_t)1);
    const uint64_t n_equal = (rest + each_adds - 1) / each_adds;
    s.template pick<1>(
        [&](float logit, int id) {
            return logit == c.logit && keeps(wish.limit, logit, id) ? 1.0f : 0.0f;
        },
        [&](uint64_t total) { return min((n_equal - 1) * ONE, total - 1); });
    s.meet();
    c.id = s.a->picked;
    return {c, s.turn, 0};
}

/* The k most likely; usually all candidates come to the list. */
template <int BLOCKS> __device__ __noinline__ struct searched_cut find_count(slice<BLOCKS> s, int k)
{
    const struct wish wish = {false, k, 0, {-INFINITY, INT_MAX}, BINS * STEPS / COUNT_RANGE};
    const struct bins bins = {s.top, wish.steps_rate, 0, 0, 0};
    const int mine = bins.coarse(s.thread_top);
    s.clear_coarse();
    if (mine < BINS)
        atomicAdd(&s.a->coarse[mine], 1u);
    s.meet();
    const struct found_bin f = s.find_coarse((uint64_t)k * ONE, count_unit());
    if (f.bin < 0)
        return find_cut(s, wish);
    const int n =
        s.gather(mine <= f.bin, [&](float logit, int) { return bins.coarse(logit) <= f.bin; });
    if (n > LIST_MAX)
        return find_cut(s, wish);
    s.weigh_list(n, [](float, int) { return 1.0f; });
    s.cut_list(n, 0, (uint64_t)k * ONE);
    return {s.a->cut, s.turn, n};
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

/* Instead of an id: it is in a->picked of block 0, and for DRAWN when all have met. */
enum { ID_FAULT = -3, ID_BEST = -2, ID_DRAWN = -1 };

/* A best token is fine: its logit is the top from here on, and the token what greedy would take. */
template <int BLOCKS> __device__ inline bool take_best(slice<BLOCKS> &s, uint64_t best)
{
    s.top = entry_logit(best);
    if (thread() == 0)
        s.a->picked = entry_id(best);
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
    id = is_fault ? 0 : id < 0 ? s.a->picked : id;
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
