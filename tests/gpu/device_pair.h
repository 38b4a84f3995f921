/* device_pair.h - the CPU device and the CUDA device side by side, for tests of one against the
 * other.
 *
 * Both get the same values: activations are rounded to what the CUDA device holds first.  Where
 * there is no CUDA device, pair_open says so and the tests are skipped. */
#ifndef TESTS_GPU_DEVICE_PAIR_H
#define TESTS_GPU_DEVICE_PAIR_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/backend.h"
#include "kernels/half.h"
#include "kernels/ops.h"

struct tested_device {
    const struct ops *ops;
    struct device *d;
    enum dtype act;
};

struct pair {
    struct tested_device dev[2]; /* CPU, CUDA */
};

static inline void pair_die(const char *what, const struct status *st)
{
    fprintf(stderr, "%s: %s\n", what, st->msg);
    exit(1);
}

static inline void *pair_take(const struct tested_device *t, size_t n_bytes)
{
    struct status st = {0};
    void *at = t->ops->mem_take(t->d, n_bytes, &st);
    if (!at)
        pair_die("mem_take", &st);
    return at;
}

/* Ends the test as skipped where no CUDA device is. */
static inline bool pair_open(struct pair *p, enum dtype act, const struct device_limits *limits)
{
    static const char *const name[2] = {"cpu", "cuda"};
    for (int i = 0; i < 2; i++) {
        struct status st = {0};
        struct tested_device *t = &p->dev[i];
        const struct backend *backend = backend_find(name[i], &st);
        const struct device_options options = {
            .precision = PRECISION_EXACT, .act = act, .memory_share = 0.5};
        if (!backend || !backend->probe(NULL, &st)) {
            printf("skipped: %s: %s\n", name[i], st.msg);
            exit(77);
        }
        if (!(t->d = backend->open(&options, &st)))
            pair_die(name[i], &st);
        t->ops = backend->ops;
        t->act = t->ops->act_dtype(t->d);
        void *work = pair_take(t, t->ops->work_bytes(t->d, limits));
        if (!t->ops->work_set(t->d, limits, work, &st))
            pair_die("work_set", &st);
    }
    return true;
}

static inline void pair_close(struct pair *p)
{
    for (int i = 0; i < 2; i++)
        p->dev[i].ops->close(p->dev[i].d);
}

static inline float round_act(float x, enum dtype act)
{
    if (act == DT_F16)
        return f32_from_f16(f32_to_f16(x));
    return act == DT_BF16 ? f32_from_bf16(f32_to_bf16(x)) : x;
}

/* n floats, which are exact in `type`, as values of it in device memory. */
static inline void put_values(const struct tested_device *t, void *to, const float *from, size_t n,
                              enum dtype type)
{
    uint16_t *half = malloc(n * sizeof *half);
    for (size_t i = 0; i < n; i++)
        half[i] = type == DT_F16 ? f32_to_f16(from[i]) : f32_to_bf16(from[i]);
    if (type == DT_F32)
        t->ops->copy_in(t->d, to, from, n * sizeof *from);
    else
        t->ops->copy_in(t->d, to, half, n * sizeof *half);
    free(half);
}

static inline void *take_values(const struct tested_device *t, const float *from, size_t n,
                                enum dtype type)
{
    void *at = pair_take(t, n * sizeof(float));
    put_values(t, at, from, n, type);
    return at;
}

static inline void get_values(const struct tested_device *t, float *to, const void *from, size_t n,
                              enum dtype type)
{
    uint16_t *half = malloc(n * sizeof *half);
    if (type == DT_F32)
        t->ops->copy_out(t->d, to, from, n * sizeof *to);
    else
        t->ops->copy_out(t->d, half, from, n * sizeof *half);
    for (size_t i = 0; type != DT_F32 && i < n; i++)
        to[i] = type == DT_F16 ? f32_from_f16(half[i]) : f32_from_bf16(half[i]);
    free(half);
}

/* Ends the step in hand and waits for it. */
static inline void end_step(const struct tested_device *t, struct sample_out *out)
{
    struct status st = {0};
    t->ops->step_end(t->d);
    if (!t->ops->step_wait(t->d, out, &st))
        pair_die("step_wait", &st);
}

static uint64_t pair_random_state = 88172645463325252ull;

static inline uint64_t random_bits(void)
{
    uint64_t x = pair_random_state;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return pair_random_state = x;
}

static inline int random_below(int n)
{
    return (int)((random_bits() >> 20) % (uint64_t)n);
}

static inline float random_normal(void)
{
    double u = ((double)(random_bits() >> 11) + 0.5) * 0x1p-53;
    double v = ((double)(random_bits() >> 11) + 0.5) * 0x1p-53;
    return (float)(sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
}

static inline float *random_acts(size_t n, float scale, enum dtype act)
{
    float *x = malloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = round_act(scale * random_normal(), act);
    return x;
}

#endif
