/* cuda_device.h - the CUDA device through the table of ops, for tests that compare it with f64.
 *
 * Host copies of activations are 16-bit values of the device's type.  Random values are drawn from
 * a pool of normals at a random place, so that large matrices cost no logarithms.  Without a CUDA
 * device device_open says so, and the test passes as skipped (exit status 77).
 *
 * Tests make and free megabytes at every turn.  Freed memory stays here: pages that come anew are
 * what took most of the time of products' tests. */
#ifndef TESTS_GPU_CUDA_DEVICE_H
#define TESTS_GPU_CUDA_DEVICE_H

#include <malloc.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/backend.h"
#include "kernels/half.h"
#include "kernels/ops.h"

struct tested {
    const struct ops *ops;
    struct device *d;
    enum dtype act;
};

static inline void die(const char *what, const struct status *st)
{
    fprintf(stderr, "%s: %s\n", what, st->msg);
    exit(1);
}

static inline void *take_device(const struct tested *t, size_t n_bytes)
{
    struct status st = {0};
    void *at = t->ops->mem_take(t->d, n_bytes, &st);
    if (!at)
        die("mem_take", &st);
    return at;
}

static inline void *take_host(size_t n_bytes)
{
    void *at = malloc(n_bytes);
    if (!at)
        abort();
    return at;
}

static inline void device_open(struct tested *t, enum dtype act, const struct device_limits *limits)
{
    struct status st = {0};
    mallopt(M_MMAP_MAX, 0);
    mallopt(M_TRIM_THRESHOLD, -1);
    const struct backend *backend = backend_find("cuda", &st);
    if (!backend || !backend->probe(NULL, &st)) {
        printf("skipped: %s\n", st.msg);
        exit(77);
    }
    const struct device_options options = {.act = act, .memory_share = 1};
    t->ops = backend->ops;
    if (!(t->d = backend->open(&options, &st)))
        die("open", &st);
    t->act = t->ops->act_dtype(t->d);
    if (!t->ops->work_set(t->d, limits, take_device(t, t->ops->work_bytes(t->d, limits)), &st))
        die("work_set", &st);
}

static inline float act_to_f32(const struct tested *t, uint16_t v)
{
    return t->act == DT_F16 ? f32_from_f16(v) : f32_from_bf16(v);
}

static inline uint16_t act_from_f32(const struct tested *t, float v)
{
    return t->act == DT_F16 ? f32_to_f16(v) : f32_to_bf16(v);
}

static inline float act_rounded(const struct tested *t, float v)
{
    return act_to_f32(t, act_from_f32(t, v));
}

/* Half the distance of neighbours around 1. */
static inline double act_unit(const struct tested *t)
{
    return t->act == DT_F16 ? 0x1p-11 : 0x1p-8;
}

static inline double act_f64(enum act_kind act, double x)
{
    switch (act) {
    case ACT_SILU:
        return x / (1 + exp(-x));
    case ACT_GELU:
        return x * 0.5 * erfc(-x / sqrt(2));
    case ACT_GELU_TANH:
        return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
    case ACT_RELU:
        return x < 0 ? 0 : x;
    default:
        return x;
    }
}

static inline uint64_t random_bits(void)
{
    static uint64_t x = 88172645463325252ull;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return x;
}

static inline int random_below(int n)
{
    return (int)((random_bits() >> 20) % (uint64_t)n);
}

enum { NORMALS = (1 << 20) - 3 };

static inline const float *random_normals(void)
{
    static float *pool;
    if (pool)
        return pool;
    pool = take_host(NORMALS * sizeof *pool);
    for (int i = 0; i < NORMALS; i++) {
        double u = ((double)(random_bits() >> 11) + 0.5) * 0x1p-53;
        double v = ((double)(random_bits() >> 11) + 0.5) * 0x1p-53;
        pool[i] = (float)(sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
    }
    return pool;
}

static inline float *random_floats(size_t n, float scale)
{
    const float *pool = random_normals();
    float *v = take_host(n * sizeof *v);
    int at = random_below(NORMALS);
    for (size_t i = 0; i < n; i++) {
        v[i] = scale * pool[at];
        at = i % 509 == 508 ? random_below(NORMALS) : at + 1 == NORMALS ? 0 : at + 1;
    }
    return v;
}

/* The pool of normals times `scale`, as values of the device's type; rounded when that changes. */
static inline const uint16_t *random_rounded(const struct tested *t, float scale)
{
    static uint16_t *rounded;
    static float of_scale;
    static enum dtype of_act;
    if (rounded && of_scale == scale && of_act == t->act)
        return rounded;
    const float *pool = random_normals();
    if (!rounded)
        rounded = take_host(NORMALS * sizeof *rounded);
    for (int i = 0; i < NORMALS; i++)
        rounded[i] = act_from_f32(t, scale * pool[i]);
    of_scale = scale;
    of_act = t->act;
    return rounded;
}

static inline uint16_t *random_acts(const struct tested *t, size_t n, float scale)
{
    enum { RUN = 509 }; /* copied together: making values is what takes a test's time */
    const uint16_t *rounded = random_rounded(t, scale);
    uint16_t *v = take_host(n * sizeof *v);
    for (size_t i = 0; i < n; i += RUN)
        memcpy(v + i, rounded + random_below(NORMALS - RUN),
               (n - i < RUN ? n - i : RUN) * sizeof *v);
    return v;
}

static inline void *put(const struct tested *t, const void *from, size_t n_bytes)
{
    void *at = take_device(t, n_bytes);
    t->ops->copy_in(t->d, at, from, n_bytes);
    return at;
}

/* A weight of the device's type at `to`, as the loader brings it. */
static inline struct tensor put_weight(const struct tested *t, void *to, const uint16_t *from,
                                       int rows, int cols)
{
    struct status st = {0};
    struct tensor w = {.data = to, .dtype = t->act, .rows = rows, .cols = cols};
    const struct weight_source src = {.at = from, .fd = -1};
    t->ops->weight_put(t->d, &w, &src);
    if (!t->ops->weights_done(t->d, &st))
        die("weights_done", &st);
    return w;
}

#endif
