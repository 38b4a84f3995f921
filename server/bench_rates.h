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

void bench_rates_measure(struct bench_rates *r, const struct engine_options *o);

#endif
