/* bench.h - the time of each op alone, over shapes of real models, through the table of ops.
 *
 * An op is called R times inside of one step, recorded where the device records, and then more
 * times in another; the difference of the two is the time of a call, free of what a step costs.
 * Weights, keys and values are random, and enough copies take turns that no cache holds them.
 *
 * Thread: one; it owns the device meanwhile. */
#ifndef KERNELS_BENCH_H
#define KERNELS_BENCH_H

#include "kernels/backend.h"

struct kernel_bench {
    const char *device; /* "auto", "cpu", "cuda" */
    struct device_options options;
    const char *shape; /* "8b", "1b"; NULL = both, on the CPU the small one */
    int rows_max;      /* 0 = 8192, on the CPU 256 */
};

struct kernel_time {
    const char *shape, *op;
    int rows, context; /* context: of attention, else 0 */
    double us;
    double bytes; /* least to be read and written */
    double flops; /* of products and attention, else 0 */
};

struct kernel_sink {
    void (*begin)(void *ctx, const char *variant, double copy_bytes_s, double matmul_flops);
    void (*time)(void *ctx, const struct kernel_time *t);
    void *ctx;
};

bool kernel_bench_run(const struct kernel_bench *b, const struct kernel_sink *sink,
                      struct status *st) MUST_CHECK;

#endif
