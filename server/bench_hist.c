#include "server/bench_hist.h"

enum { STEP_BITS = 6 };

static int bucket_of(uint64_t ns)
{
    if (ns < HIST_STEPS)
        return (int)ns;
    const int shift = 63 - __builtin_clzll(ns) - STEP_BITS;
    return HIST_STEPS * shift + (int)(ns >> shift);
}

static uint64_t bucket_last(int i)
{
    if (i < HIST_STEPS)
        return (uint64_t)i;
    const int shift = i / HIST_STEPS - 1;
    const uint64_t top = (uint64_t)(i % HIST_STEPS + HIST_STEPS);
    return (top << shift) + ((1ull << shift) - 1);
}

void hist_add(struct hist *h, uint64_t ns)
{
    h->n++;
    h->count[bucket_of(ns)]++;
    if (ns > h->max)
        h->max = ns;
}

uint64_t hist_quantile(const struct hist *h, double share)
{
    const double want = share * (double)h->n;
    uint64_t sum = 0;
    for (int i = 0; i < HIST_BUCKETS; i++) {
        sum += h->count[i];
        if (sum > 0 && (double)sum >= want)
            return bucket_last(i) < h->max ? bucket_last(i) : h->max;
    }
    return h->max;
}
