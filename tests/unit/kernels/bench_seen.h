/* bench_seen.h - a sink that counts what was timed, by op, and looks at each figure.
 *
 * Thread: one. */
#ifndef TESTS_BENCH_SEEN_H
#define TESTS_BENCH_SEEN_H

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/bench.h"

enum { SEEN_OPS_MAX = 32 };

struct seen {
    int n_begun, n_times, n_bad, n_skipped;
    int n_vendor;           /* times with the vendor's beside them */
    int n_op[SEEN_OPS_MAX]; /* by place in kernel_bench_ops */
    char formats[4096];     /* of products: each once, ",NAME," */
    bool has_vendor;
};

static inline void seen_begin(void *ctx, const struct kernel_facts *f)
{
    struct seen *s = ctx;
    s->n_begun++;
    s->has_vendor = f->vendor != NULL;
}

static inline bool seen_is_good(const struct kernel_time *t)
{
    return isfinite(t->us) && t->us > 0 && isfinite(t->bytes) && t->bytes > 0 && t->flops >= 0 &&
           isfinite(t->vendor_us) && t->vendor_us >= 0 && t->rows > 0 && t->format[0];
}

static inline void seen_format(struct seen *s, const char *format)
{
    char name[64];
    snprintf(name, sizeof name, ",%s,", format);
    if (!strstr(s->formats, name))
        strncat(s->formats, name, sizeof s->formats - strlen(s->formats) - 1);
}

static inline void seen_time(void *ctx, const struct kernel_time *t)
{
    struct seen *s = ctx;
    bool is_known = false;
    for (int i = 0; kernel_bench_ops[i]; i++)
        if (strcmp(kernel_bench_ops[i], t->op) == 0) {
            s->n_op[i]++;
            is_known = true;
        }
    s->n_times++;
    s->n_vendor += t->vendor_us > 0;
    seen_format(s, t->format);
    if (is_known && seen_is_good(t))
        return;
    s->n_bad++;
    printf("%s %s %s, %d rows: %g us, %g bytes, vendor %g us\n", t->shape, t->op, t->format,
           t->rows, t->us, t->bytes, t->vendor_us);
}

static inline void seen_skip(void *ctx, const char *shape, const char *op, const char *format,
                             const char *why)
{
    struct seen *s = ctx;
    s->n_skipped++;
    printf("skipped: %s %s %s: %s\n", shape, op, format, why);
}

#endif
