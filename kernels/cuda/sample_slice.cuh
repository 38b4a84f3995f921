/* sample_slice.cuh - one block's share of a row, and what the blocks of a row do together.
 *
 * All threads of the cluster make the same calls.  Blocks write to each other's shared memory and
 * read it; between a write and a read, and before what was read is written again, all meet. */
#ifndef KERNELS_CUDA_SAMPLE_SLICE_CUH
#define KERNELS_CUDA_SAMPLE_SLICE_CUH

#include <cooperative_groups.h>

#include "kernels/cuda/sample_number.cuh"

namespace
{

namespace cg = cooperative_groups;

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
    int32_t best, picked; /* ids: of the largest logit; drawn */
    bool has_cut;
    double log_sum; /* of the raw weights; thread 0's */
    struct found_bin found;
    struct cut cut;
};

static_assert(sizeof(struct area) <= 228 * 1024 / 3 - 1024 - (1 << 14) * sizeof(float),
              "three slices of a vocabulary of 2^17 fit a multiprocessor");

struct searched_cut {
    struct cut cut;
    int turn, n_all; /* of the slice, afterwards */
};

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

    /* The same of all tokens' weights. */
    __device__ uint64_t sum_whole(int group)
    {
        auto part_at = [&](int part) { return four(group * GROUP + part * PART + lane() * 4); };
        float most = -INFINITY;
#pragma unroll
        for (int part = 0; part < GROUP_PARTS; part++)
            most = top_of(most, top_of(part_at(part)));
        return sum_whole_group(part_at, most, rate).mass(top, rate);
    }

    template <class M> __device__ uint64_t sum_warp(M mass_of_group)
    {
        uint64_t sum = 0;
#pragma unroll 1
        for (int group = first_group; group < end_group; group++)
            sum += mass_of_group(group);
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

    template <class M> __device__ uint64_t sum_groups(M mass_of_group)
    {
        const uint64_t *sums = exchange(sum_warp(mass_of_group));
        uint64_t sum = 0;
        for (int i = lane(); i < BLOCKS * WARPS; i += WARP)
            sum += sums[i];
        return warp_sum(sum);
    }

    template <int AT_ONCE, class F> __device__ uint64_t sum_all(F f)
    {
        return sum_groups([&](int group) { return sum_group<AT_ONCE>(group, f); });
    }

    __device__ uint64_t max_all(uint64_t v)
    {
        const uint64_t *tops = exchange(warp_max(v));
        uint64_t best = 0;
        for (int i = lane(); i < BLOCKS * WARPS; i += WARP)
            best = tops[i] > best ? tops[i] : best;
        return warp_max(best);
    }

    __device__ float weight(float logit) const
    {
        return weigh(logit, top, rate);
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
    template <class M, class F, class G>
    __device__ void pick(M mass_of_group, F weight_of, G target_of)
    {
        const uint64_t *sums = exchange(sum_warp(mass_of_group));
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
            const uint64_t mass = mass_of_group(group);
            if (target - before < mass) {
                const int id = pick_in_group(
                    first + group * GROUP, [&](int at) { return four(at - first); }, weight_of,
                    target - before);
                if (lane() == 0)
                    set_picked(id);
                return;
            }
            before += mass;
        }
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

} /* namespace */

#endif
