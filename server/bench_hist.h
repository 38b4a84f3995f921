/* bench_hist.h - a histogram of durations: constant memory, at most 1.6 % off.
 *
 * Buckets are 64 to each power of two of nanoseconds; shorter than 64 ns is exact. */
#ifndef SERVER_BENCH_HIST_H
#define SERVER_BENCH_HIST_H

#include <stdint.h>

enum { HIST_STEPS = 64, HIST_BUCKETS = HIST_STEPS * 59 };

struct hist {
    uint64_t n, max;
    uint64_t count[HIST_BUCKETS];
};

void hist_add(struct hist *h, uint64_t ns);
/* The smallest bucket's upper end that `share` (0..1) of all durations do not pass; 0 if none. */
uint64_t hist_quantile(const struct hist *h, double share);

#endif
