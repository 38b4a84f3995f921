/* sample_number.cuh - the numbers of sampling: orders of logits, masses, bins.
 *
 * Equal on every block and in every batch: no function here depends on who asks. */
#ifndef KERNELS_CUDA_SAMPLE_NUMBER_CUH
#define KERNELS_CUDA_SAMPLE_NUMBER_CUH

#include <limits.h>

#include "kernels/cuda/cuda_int.h"
#include "kernels/cuda/ptx.cuh"

namespace
{

constexpr int CLUSTER = 8, THREADS = 256, WARP = 32, WARPS = THREADS / WARP;
constexpr int PART = 4 * WARP; /* tokens that a warp reads at once */
constexpr int GROUP_PARTS = 4, GROUP = GROUP_PARTS * PART;
constexpr int BINS_EACH = 3, BINS = BINS_EACH * THREADS; /* of a coarse histogram */
constexpr int FINE_BINS = THREADS;
constexpr int LIST_MAX = 384;
constexpr int STEPS = 64;     /* of a coarse bin, in which a token's place is known */
constexpr int MASS_BITS = 44; /* 2^19 tokens of weight 1 stay below 2^63 */
constexpr uint64_t ONE = 1ull << MASS_BITS;
constexpr float COUNT_RANGE = 32; /* logits below the top that bins of counts reach */
constexpr float LOG2_E = 1.44269504f;
constexpr unsigned ALL = 0xffffffffu;
constexpr uint64_t IS_NAN = ~0ull; /* above every (key, id) */

static_assert(LIST_MAX >= TOP_LOGPROBS_MAX, "the most likely tokens fit the list");

struct cut { /* kept: all above logit, and at it the ids up to `id` */
    float logit;
    int32_t id;
};

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

/* A token's weight; the same bits wherever it is asked. */
__device__ inline float weigh(float logit, float top, float rate)
{
    return exp2_approx(__fmul_rn(__fmul_rn(__fsub_rn(logit, top), rate), LOG2_E));
}

__device__ inline float top_of(float a, float b) /* NaN if one of them is */
{
    return max_nan(a, b);
}

__device__ inline float top_of(const float4 &v)
{
    return top_of(top_of(v.x, v.y), top_of(v.z, v.w));
}

/* The weights of a group that is whole, added; relative to its own largest logit, since the row's
 * may not be known yet. */
struct group_sum {
    float top, sum;

    __device__ uint64_t mass(float row_top, float rate) const
    {
        return mass_of(__fmul_rn(sum, weigh(top, row_top, rate)));
    }
};

/* To all lanes of the warp; part_at(part) gives the lane's four logits, `top` their largest. */
template <class V>
__device__ inline struct group_sum sum_whole_group(V part_at, float top, float rate)
{
    float sum = 0;
#pragma unroll
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2)
        top = fmaxf(top, __shfl_xor_sync(ALL, top, lanes));
    if (top == -INFINITY)
        return {top, 0};
#pragma unroll
    for (int part = 0; part < GROUP_PARTS; part++) {
        const float4 v = part_at(part);
        const float a = weigh(v.x, top, rate), b = weigh(v.y, top, rate);
        const float c = weigh(v.z, top, rate), d = weigh(v.w, top, rate);
        sum = __fadd_rn(sum, __fadd_rn(__fadd_rn(a, b), __fadd_rn(c, d)));
    }
    return {top, warp_sum(sum)};
}

/* The token of the GROUP ids from `first` on at which the mass comes to be more than `target`, to
 * all lanes of the warp.  The masses of tokens may come to a little less than the group's: then the
 * last has the rest. */
template <class V, class W>
__device__ inline int pick_in_group(int first, V four_at, W weight_of, uint64_t target)
{
    uint64_t before = 0, last = 0; /* id + 1 */
#pragma unroll 1
    for (int part = 0; part < GROUP_PARTS; part++) {
        const int id = first + part * PART + lane() * 4;
        const float4 logit = four_at(id);
        const float v[4] = {logit.x, logit.y, logit.z, logit.w};
        uint64_t mass[4], own = 0;
        int found = -1;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float w = weight_of(v[i], id + i);
            mass[i] = mass_of(w);
            own += mass[i];
            last = w > 0 ? (uint64_t)(id + i) + 1 : last;
        }
        const uint64_t sum = warp_scan(own, lane());
        uint64_t below = before + sum - own;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (below <= target && target - below < mass[i])
                found = id + i;
            below += mass[i];
        }
        const unsigned lanes = __ballot_sync(ALL, found >= 0);
        if (lanes != 0)
            return __shfl_sync(ALL, found, __ffs((int)lanes) - 1);
        before += __shfl_sync(ALL, sum, WARP - 1);
    }
    return (int)warp_max(last) - 1;
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

} /* namespace */

#endif
