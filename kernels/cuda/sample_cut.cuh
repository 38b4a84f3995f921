/* sample_cut.cuh - where the kept tokens of a row end: at a count, or at a share of the mass.
 *
 * Calls, so that the registers are the caller's. */
#ifndef KERNELS_CUDA_SAMPLE_CUT_CUH
#define KERNELS_CUDA_SAMPLE_CUT_CUH

#include "kernels/cuda/sample_slice.cuh"

namespace
{

template <int BLOCKS>
__device__ __noinline__ struct searched_cut find_cut(slice<BLOCKS> s, struct wish wish);

template <int BLOCKS>
__device__ __noinline__ struct searched_cut search_cut(slice<BLOCKS> s, uint64_t want,
                                                       struct wish wish);

/* The border of what was wished for. */
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
    auto is_border = [&](float logit, int id) {
        return logit == c.logit && keeps(wish.limit, logit, id) ? 1.0f : 0.0f;
    };
    s.pick([&](int group) { return s.template sum_group<1>(group, is_border); }, is_border,
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
    if (f.bin < 0) {
        s.meet(); /* all have read the histogram, which find_cut clears */
        return find_cut(s, wish);
    }
    const int n =
        s.gather(mine <= f.bin, [&](float logit, int) { return bins.coarse(logit) <= f.bin; });
    if (n > LIST_MAX)
        return find_cut(s, wish);
    s.weigh_list(n, [](float, int) { return 1.0f; });
    s.cut_list(n, 0, (uint64_t)k * ONE);
    return {s.a->cut, s.turn, n};
}

} /* namespace */

#endif
