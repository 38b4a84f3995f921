/* cpu_test.h - what the tests of the CPU ops share: devices of each kind, and fresh numbers. */
#ifndef TESTS_UNIT_KERNELS_CPU_TEST_H
#define TESTS_UNIT_KERNELS_CPU_TEST_H

#include "kernels/cpu/cpu_int.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const char *const isa_names[] = {"scalar", "avx2", "avx512"};
enum { ISAS = 3 };

/* NULL when this machine lacks the instruction set; says so. */
static inline struct device *open_cpu(const char *isa, int n_threads)
{
    struct status st = {0};
    struct device_options opts = {.n_threads = n_threads, .isa_max = isa};
    struct device *d = cpu_backend.open(&opts, &st);
    if (!d)
        fail_msg("%s", st.msg);
    if (isa && strcmp(cpu_backend.variant(d), isa) != 0) {
        print_message("           %s: not on this machine, skipped\n", isa);
        cpu_backend.ops->close(d);
        return NULL;
    }
    return d;
}

static inline void *take(struct device *d, size_t n_bytes)
{
    struct status st = {0};
    void *p = cpu_backend.ops->mem_take(d, n_bytes, &st);
    if (!p)
        fail_msg("%s", st.msg);
    return p;
}

/* Limits that are wide enough for these tests; what a test varies it sets itself. */
static inline struct device_limits wide_limits(void)
{
    return (struct device_limits){.step_tokens_max = 1024,
                                  .seqs_max = 8,
                                  .heads_max = 64,
                                  .step_heads_max = 64,
                                  .context_max = 4096,
                                  .block_tokens = 16,
                                  .table_stride = 256,
                                  .bias_slot_max = 16,
                                  .vocab = 1000,
                                  .hidden = 64,
                                  .ffn = 64,
                                  .n_heads = 1,
                                  .n_kv_heads = 1,
                                  .head_dim = 64,
                                  .in_max = 64};
}

static inline void give_work(struct device *d, const struct device_limits *l)
{
    struct status st = {0};
    void *work = take(d, cpu_backend.ops->work_bytes(d, l));
    if (!cpu_backend.ops->work_set(d, l, work, &st))
        fail_msg("%s", st.msg);
    memset(d->scratch, 0xff, d->scratch_bytes); /* NaN: no op may count on zeros */
}

/* Take the batch in hand, of a step that has no heads. */
static inline void take_batch(struct device *d, const struct batch *b)
{
    struct status st = {0};
    cpu_backend.ops->step_begin(d, b, 0);
    cpu_backend.ops->step_end(d);
    if (!cpu_backend.ops->step_wait(d, NULL, &st))
        fail_msg("%s", st.msg);
}

struct random {
    uint64_t state;
};

static inline uint64_t random_bits(struct random *r) /* splitmix64 */
{
    uint64_t z = r->state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static inline double random_uniform(struct random *r) /* [0, 1) */
{
    return (double)(random_bits(r) >> 11) * 0x1p-53;
}

static inline int random_below(struct random *r, int n)
{
    return (int)(random_uniform(r) * n);
}

static inline float random_normal(struct random *r) /* nearly: twelve uniforms */
{
    double sum = -6;
    for (int i = 0; i < 12; i++)
        sum += random_uniform(r);
    return (float)sum;
}

static inline void fill_normal(struct random *r, float *x, size_t n, float scale)
{
    for (size_t i = 0; i < n; i++)
        x[i] = random_normal(r) * scale;
}

static inline float *new_floats(size_t n) /* poisoned: a value not written is NaN */
{
    float *x = malloc((n ? n : 1) * sizeof *x);
    assert_non_null(x);
    memset(x, 0xff, n * sizeof *x);
    return x;
}

static inline float *new_normal(struct random *r, size_t n, float scale)
{
    float *x = new_floats(n);
    fill_normal(r, x, n, scale);
    return x;
}

#endif
