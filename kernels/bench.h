/* bench.h - the time of each op alone, over shapes of real models, through the table of ops.
 *
 * An op is called some times inside of one step, recorded where the device records, and then more
 * times in another; the difference of the two is the time of a call, free of what a step costs.
 * Weights, keys and values are random, and enough copies take turns that no cache holds them.
 *
 * Beside a product stands the vendor's library, where there is one: the same rows, inputs and
 * outputs in 16 bits, bare (no norm, residual, activation or cache), timed in the same way over the
 * same copies.  Beside a quantized product it is that of 16 bits too, and beside a gated one the
 * product of both halves.
 *
 * Thread: one; it owns the device meanwhile.  With ranks, the sink is called from it alone. */
#ifndef KERNELS_BENCH_H
#define KERNELS_BENCH_H

#include "kernels/backend.h"

/* What --op may say, each also without what stands behind the dot; NULL ends them. */
extern const char *const kernel_bench_ops[];

struct kernel_bench {
    const char *device; /* "auto", "cpu", "cuda" */
    struct device_options options;
    const char *shape;  /* NULL = those of models, on the CPU the smallest of them */
    const char *op;     /* NULL = every one; those of ranks, where there are any */
    const char *format; /* of weights, or of the cache; "all"; NULL = the usual ones */
    int rows_max;       /* 0 = 8192, on the CPU 256 */
    int n_ranks;        /* from 2 on: devices that ops of ranks are measured on */
    bool no_rates;      /* leave out what the device does at best */
};

struct kernel_facts { /* before the first time; texts but the vendor's until begin returns */
    const char *variant;
    double copy_bytes_s, matmul_flops; /* 0 = unknown */
    const char *vendor;                /* the library's name; NULL = not there, */
    const char *no_vendor;             /*   and why */
};

struct kernel_time {
    const char *shape, *op, *format; /* format: "-" where there is none */
    int rows, context;               /* context: of attention, else 0 */
    double us;
    double bytes;     /* least to be read and written */
    double flops;     /* of products and attention, else 0 */
    double vendor_us; /* of the vendor's product; 0 = there is none */
};

struct kernel_sink {
    void (*begin)(void *ctx, const struct kernel_facts *f);
    void (*time)(void *ctx, const struct kernel_time *t);
    /* The device has no such thing. */
    void (*skip)(void *ctx, const char *shape, const char *op, const char *format, const char *why);
    void *ctx;
};

/* BAD_INPUT for a name that is none: the message lists those there are. */
bool kernel_bench_run(const struct kernel_bench *b, const struct kernel_sink *sink,
                      struct status *st) MUST_CHECK;

#endif
