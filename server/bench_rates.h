/* bench_rates.h - what the device can do at best, asked in a process of its own: that it then
 * leaves no memory taken, and no device library in this one.
 *
 * Thread: main's, while it is the only one. */
#ifndef SERVER_BENCH_RATES_H
#define SERVER_BENCH_RATES_H

#include "engine/engine.h"

struct bench_rates {
    double copy_bytes_s, matmul_flops; /* 0 = the device does not say */
};

/* False when an engine with these options would not start, which takes less time to find than the
 * rates: they are not measured then. */
bool bench_rates_measure(struct bench_rates *r, const struct engine_options *o,
                         struct status *st) MUST_CHECK;

#endif
