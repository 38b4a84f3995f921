/* sample_few.cuh - the rest of a row's work, where few tokens decide: by the block that ended its
 * walk.
 *
 * Of the units' maxima the k-th largest is no larger than the k-th largest logit, so that the
 * tokens of at least that are all that top_k or the log-probabilities can keep.  Only units with
 * such tokens are read again.
 *
 * In the list each token finds its place, and the mass before it, by comparing itself with all
 * others; equal logits: lower id first.  A row is left to sample_kernel when the list is too short
 * for it, and before the walk where top_p or min_p cuts among all tokens.  What both kernels can do
 * has the same bits from both. */
#ifndef KERNELS_CUDA_SAMPLE_FEW_CUH
#define KERNELS_CUDA_SAMPLE_FEW_CUH

#include "kernels/cuda/sample_notes.cuh"
#include "kernels/philox.h"

namespace
{

constexpr int UNITS_EACH = 20, UNITS_MAX = UNITS_EACH * THREADS; /* vocabularies of up to 327680 */
constexpr int ENTRIES_EACH = 2, FEW_MAX = ENTRIES_EACH * THREADS;
constexpr int AHEAD = 4; /* loads on their way */

struct few { /* shared memory of a block */
    uint64_t entry[FEW_MAX];
    uint64_t amount[FEW_MAX];
    uint64_t sums[2][WARPS]; /* of the warps; turns, so that one sync a sum is enough */
    uint32_t counts[2][WARPS];
    uint16_t look[UNITS_MAX]; /* units that are read again */
    uint32_t n_look, n_entries;
    int picked, group; /* group: in which the draw is, at `target` of its mass */
    uint64_t target;
};

/* All threads of the block make the same calls. */
struct rest {
    struct few *f;
    const struct row &r;
    const struct asked &a;
    const struct notes &notes;
    int n_units, turn;
    int state;
    float top;                /* of the state */
    uint32_t key[UNITS_EACH]; /* of this thread's units: i * THREADS + thread() */

    /* ---- together ---- */

    __device__ uint32_t max_all(uint32_t v)
    {
        uint32_t *to = f->counts[turn];
        turn ^= 1;
        v = __reduce_max_sync(ALL, v);
        if (lane() == 0)
            to[warp()] = v;
        __syncthreads();
        return __reduce_max_sync(ALL, to[lane() % WARPS]);
    }

    __device__ uint32_t count_all(uint32_t v)
    {
        uint32_t *to = f->counts[turn], sum = 0;
        turn ^= 1;
        v = __reduce_add_sync(ALL, v);
        if (lane() == 0)
            to[warp()] = v;
        __syncthreads();
#pragma unroll
        for (int i = 0; i < WARPS; i++)
            sum += to[i];
        return sum;
    }

    /* The sum of v of all; *before: of the threads before. */
    __device__ uint64_t sum_all(uint64_t v, uint64_t *before)
    {
        uint64_t *to = f->sums[turn], sum = 0;
        turn ^= 1;
        const uint64_t upto = warp_scan(v, lane());
        if (lane() == WARP - 1)
            to[warp()] = upto;
        __syncthreads();
        *before = upto - v;
#pragma unroll
        for (int i = 0; i < WARPS; i++) {
            *before += i < warp() ? to[i] : 0;
            sum += to[i];
        }
        return sum;
    }

    /* ---- units ---- */

    __device__ bool has(int i) const
    {
        return i * THREADS + thread() < n_units;
    }

    /* False: NaN, or none is finite.  The notes are other blocks': not from the first-level cache.
     */
    __device__ bool load_tops(int of_state)
    {
        uint32_t most = 0;
        state = of_state;
#pragma unroll
        for (int i = 0; i < UNITS_EACH; i++) {
            key[i] = has(i) ? order_key(__ldcg(notes.top[state] + i * THREADS + thread())) : 0;
            most = max(most, key[i]);
        }
        most = max_all(most);
        top = key_logit(most);
        return isfinite(top);
    }

    /* A bound that at least k tokens reach, in bits of order_key: the k-th largest unit's, or a
     * little less.  False: there are not so many units. */
    __device__ bool find_bound(int k, uint32_t *bound)
    {
        *bound = 1; /* that all reach */
        if (r.vocab <= FEW_MAX)
            return true;
        if (k > n_units)
            return false;
        uint32_t least = 0;
        for (int bit = 31; bit >= 0; bit--) {
            const uint32_t trial = least | 1u << bit;
            uint32_t n = 0;
#pragma unroll
            for (int i = 0; i < UNITS_EACH; i++) {
                if (i * THREADS >= n_units)
                    break;
                n += key[i] >= trial;
            }
            n = count_all(n);
            if ((int)n < k)
                continue;
            least = trial;
            if ((int)n <= k + k / 4)
                break;
        }
        *bound = least;
        return true;
    }

    /* f(logit, id) for the tokens of units whose maximum passes. */
    template <class P, class F> __device__ void each_token(P passes, F use)
    {
        if (thread() == 0)
            f->n_look = 0;
        __syncthreads();
#pragma unroll
        for (int i = 0; i < UNITS_EACH; i++) {
            if (has(i) && passes(key[i]))
                f->look[atomicAdd(&f->n_look, 1u)] = (uint16_t)(i * THREADS + thread());
        }
        __syncthreads();
        const int end = (int)f->n_look * CHUNK_PARTS;
        for (int first = thread(); first < end; first += AHEAD * THREADS) {
            float4 v[AHEAD];
            seen_four seen[AHEAD];
#pragma unroll
            for (int i = 0; i < AHEAD; i++) {
                const int at = first + i * THREADS, id = at < end ? id_of(at) : r.vocab;
                v[i] = r.raw_four(id);
                seen[i] = state == CHANGED ? r.load_times(id) : make_uint2(0, 0);
            }
#pragma unroll
            for (int i = 0; i < AHEAD; i++) {
                const int at = first + i * THREADS;
                if (at >= end)
                    break;
                const int id = id_of(at);
                if (state == CHANGED)
                    r.change_four(&v[i], id, seen[i]);
                use(v[i].x, id);
                use(v[i].y, id + 1);
                use(v[i].z, id + 2);
                use(v[i].w, id + 3);
            }
        }
        __syncthreads();
    }

    __device__ int id_of(int at) const
    {
        const int unit = f->look[at / CHUNK_PARTS], part = at % CHUNK_PARTS;
        return unit / WARP * CHUNK_IDS + part * PART + unit % WARP * 4;
    }

    /* ---- the list ---- */

    /* How many tokens pass, which are in the list if that holds so many. */
    template <class P> __device__ int gather(P passes)
    {
        if (thread() == 0)
            f->n_entries = 0;
        each_token(passes, [&](float logit, int id) {
            if (id >= r.vocab || !passes(order_key(logit)))
                return;
            const uint32_t at = atomicAdd(&f->n_entries, 1u);
            if (at < FEW_MAX)
                f->entry[at] = pack_entry(logit, id);
        });
        return (int)f->n_entries;
    }

    __device__ int gather_likeliest(int k)
    {
        uint32_t bound;
        if (!find_bound(k, &bound))
            return FEW_MAX + 1;
        return gather([=](uint32_t key_of) { return key_of >= bound; });
    }

    __device__ float weight(uint64_t entry) const
    {
        return weigh(entry_logit(entry), top, a.rate);
    }

    /* ---- what a row asks for ---- */

    __device__ uint64_t mass(int of_state, float rate, int group) const
    {
        const float2 s = __ldcg(reinterpret_cast<const float2 *>(notes.sum[of_state] + group));
        return ((struct group_sum){s.x, s.y}).mass(top, rate);
    }

    /* Groups of this thread, in order of id. */
    __device__ int first_group(int t) const
    {
        const int n = n_units / WARP * CHUNK_GROUPS;
        return min(t * ((n + THREADS - 1) / THREADS), n);
    }

    /* The mass of all tokens. */
    __device__ uint64_t weigh_all(int of_state, float rate, uint64_t *before)
    {
        uint64_t own = 0;
        for (int g = first_group(thread()); g < first_group(thread() + 1); g++)
            own += mass(of_state, rate, g);
        return sum_all(own, before);
    }

    /* The sum of the weights of raw logits, in log. */
    __device__ double find_log_sum()
    {
        uint64_t before;
        const uint64_t all = weigh_all(RAW, 1, &before);
        return (double)top + log((double)all) - MASS_BITS * 0.69314718055994530942;
    }

    __device__ bool list_top(struct sample_out *out, int n_top, double log_sum)
    {
        const int n = gather_likeliest(n_top);
        if (n > FEW_MAX)
            return false;
        for (int e = thread(); e < n; e += THREADS) {
            const uint64_t mine = f->entry[e];
            int place = 0;
            for (int i = 0; i < n; i++)
                place += f->entry[i] > mine;
            if (place >= n_top)
                continue;
            out->top_id[place] = entry_id(mine);
            out->top_logprob[place] = (float)((double)entry_logit(mine) - log_sum);
        }
        return true;
    }

    __device__ int find_best()
    {
        const uint32_t most = order_key(top);
        uint32_t best = 0; /* ~id */
        each_token([=](uint32_t key_of) { return key_of == most; },
                   [&](float logit, int id) {
                       if (order_key(logit) == most)
                           best = max(best, ~(uint32_t)id);
                   });
        return (int)~max_all(best);
    }

    __device__ uint64_t target_of(uint64_t total) const
    {
        const double u = philox_uniform(a.params.seed, (uint64_t)a.head.n_history);
        const uint64_t at = (uint64_t)(u * (double)total);
        return at < total ? at : total - 1;
    }

    __device__ int draw_of_all()
    {
        uint64_t before;
        const uint64_t target = target_of(weigh_all(CHANGED, a.rate, &before));
        for (int g = first_group(thread()); g < first_group(thread() + 1); g++) {
            const uint64_t in = mass(CHANGED, a.rate, g);
            if (before <= target && target - before < in) {
                f->group = g;
                f->target = target - before;
            }
            before += in;
        }
        __syncthreads();
        if (warp() == 0) {
            const int id = pick_in_group(
                f->group * GROUP, [&](int at) { return r.four(state, at); },
                [&](float logit, int) { return weigh(logit, top, a.rate); }, f->target);
            if (lane() == 0)
                f->picked = id;
        }
        __syncthreads();
        return f->picked;
    }

    struct place { /* of a token in the list */
        int rank;
        uint64_t before; /* mass of those in front of it */
    };

    __device__ struct place find_place(uint64_t mine, int n) const
    {
        struct place p = {0, 0};
#pragma unroll 4
        for (int i = 0; i < n; i++) {
            const bool is_before = f->entry[i] > mine;
            p.rank += is_before;
            p.before += is_before ? f->amount[i] : 0;
        }
        return p;
    }

    /* Of the first top_k.  Leaves 0 as the amount of those that top_p and min_p cut off, and
     * returns the mass of the others. */
    __device__ uint64_t cut_list(int n)
    {
        const struct sample_params &p = a.params;
        struct place place[ENTRIES_EACH];
        uint64_t amount[ENTRIES_EACH], own = 0, before;
#pragma unroll
        for (int i = 0; i < ENTRIES_EACH; i++) {
            const int e = i * THREADS + thread();
            if (e < n)
                f->amount[e] = mass_of(weight(f->entry[e]));
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < ENTRIES_EACH; i++) {
            const int e = i * THREADS + thread();
            place[i] = e < n ? find_place(f->entry[e], n) : (struct place){INT_MAX, 0};
            amount[i] = place[i].rank < p.top_k ? f->amount[e] : 0;
            own += amount[i];
        }
        const uint64_t want = share_of(p.top_p, sum_all(own, &before));
        own = 0;
#pragma unroll
        for (int i = 0; i < ENTRIES_EACH; i++) {
            const int e = i * THREADS + thread();
            if (e >= n)
                break;
            if ((p.top_p < 1 && place[i].before >= want) || weight(f->entry[e]) < p.min_p)
                amount[i] = 0;
            f->amount[e] = amount[i];
            own += amount[i];
        }
        return sum_all(own, &before);
    }

    __device__ int draw_token()
    {
        if (a.draws_of_all)
            return draw_of_all();
        const int n = gather_likeliest(a.params.top_k);
        if (n > FEW_MAX)
            return ID_LEFT;
        const uint64_t target = target_of(cut_list(n));
        for (int e = thread(); e < n; e += THREADS) {
            const uint32_t mine = (uint32_t)f->entry[e];
            uint64_t before = 0;
#pragma unroll 4
            for (int i = 0; i < n; i++)
                before += (uint32_t)f->entry[i] > mine ? f->amount[i] : 0;
            if (before <= target && target - before < f->amount[e])
                f->picked = entry_id(f->entry[e]);
        }
        __syncthreads();
        return f->picked;
    }

    /* The row's token; *log_sum where it is scored. */
    __device__ int find_token(struct sample_out *out, double *log_sum)
    {
        const int n_logprobs = a.params.n_logprobs;
        if (!load_tops(RAW))
            return ID_FAULT;
        if (a.is_scored)
            *log_sum = find_log_sum();
        if (n_logprobs > 0 && !list_top(out, min(n_logprobs, r.vocab), *log_sum))
            return ID_LEFT;
        if (a.changes && !load_tops(CHANGED))
            return ID_FAULT;
        if (a.head.forced >= 0)
            return a.head.forced;
        return a.draws ? draw_token() : find_best();
    }
};

/* What is left to sample_kernel without a walk. */
__device__ inline bool is_beyond(const struct asked &a, int vocab)
{
    return (a.draws && !a.cuts_top_k && !a.draws_of_all) ||
           (a.cuts_top_k && a.params.top_k > FEW_MAX) || count_chunks(vocab) * WARP > UNITS_MAX;
}

} /* namespace */

#endif
