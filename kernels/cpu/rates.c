/* rates.c - what this CPU does at best: a copy by all threads, and a product of bf16 weights. */
#include "kernels/cpu/cpu_int.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/half.h"

enum { EDGE = 1024, ROWS = 256, REPEATS = 5, PARTS = 64 };

static const size_t COPY_BYTES = (size_t)128 << 20; /* more than caches hold */

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void copy_part(void *ctx, int part, int thread)
{
    char *const *at = ctx;
    const size_t n = COPY_BYTES / PARTS, from = (size_t)part * n;
    (void)thread;
    memcpy(at[1] + from, at[0] + from, n);
}

struct trial { /* what one time is taken of */
    struct device *d;
    char *copy[2];
    struct matmul_args product;
};

static void run_copy(struct trial *t)
{
    cpu_parallel(t->d, copy_part, t->copy, PARTS);
}

static void run_product(struct trial *t)
{
    cpu_linear(t->d, &t->product);
}

/* The least of some times, after one that does not count. */
static double least_s(struct trial *t, void (*run)(struct trial *))
{
    double least = 0;
    for (int i = 0; i <= REPEATS; i++) {
        const double start = now_s();
        run(t);
        const double s = now_s() - start;
        if (i == 1 || (i > 1 && s < least))
            least = s;
    }
    return least;
}

static float random_unit(uint32_t *state) /* [-1, 1) */
{
    *state = *state * 1664525u + 1013904223u;
    return (float)(int32_t)*state * 0x1p-31f;
}

/* x, w as a file has it, w as the device has it, y. */
static void make_product(struct trial *t, struct tensor *w, char *at)
{
    float *x = (float *)(void *)at;
    uint16_t *file = (uint16_t *)(void *)(x + (size_t)ROWS * EDGE);
    float *y = (float *)(void *)(file + (size_t)EDGE * EDGE);
    uint32_t state = 1;
    for (size_t i = 0; i < (size_t)ROWS * EDGE; i++)
        x[i] = random_unit(&state);
    for (size_t i = 0; i < (size_t)EDGE * EDGE; i++)
        file[i] = f32_to_bf16(random_unit(&state));
    *w = (struct tensor){
        .data = y + (size_t)ROWS * EDGE, .dtype = DT_BF16, .rows = EDGE, .cols = EDGE};
    cpu_weight_put(t->d, w, &(struct weight_source){.at = file, .fd = -1});
    t->product = (struct matmul_args){.x = x, .rows = ROWS, .n_outs = 1, .out = {{.y = y, .w = w}}};
}

static bool measure(struct device *d, double *copy_bytes_s, double *matmul_flops, struct status *st)
{
    const struct ops *ops = cpu_backend.ops;
    const struct device_limits limits = {.step_tokens_max = ROWS,
                                         .seqs_max = 1,
                                         .heads_max = 1,
                                         .step_heads_max = 1,
                                         .context_max = 16,
                                         .block_tokens = 16,
                                         .table_stride = 1,
                                         .vocab = 16,
                                         .hidden = EDGE,
                                         .ffn = EDGE,
                                         .n_heads = 1,
                                         .n_kv_heads = 1,
                                         .head_dim = 16,
                                         .in_max = EDGE};
    struct trial t = {.d = d};
    struct tensor w;
    void *work = ops->mem_take(d, ops->work_bytes(d, &limits), st);
    t.copy[0] = work ? ops->mem_take(d, COPY_BYTES, st) : NULL;
    t.copy[1] = t.copy[0] ? ops->mem_take(d, COPY_BYTES, st) : NULL;
    if (!t.copy[1] || !ops->work_set(d, &limits, work, st))
        return false;
    memset(t.copy[0], 1, COPY_BYTES); /* or all its pages are one */
    *copy_bytes_s = 2 * (double)COPY_BYTES / least_s(&t, run_copy);
    make_product(&t, &w, t.copy[0]);
    *matmul_flops = 2.0 * ROWS * EDGE * EDGE / least_s(&t, run_product);
    return true;
}

/* On a device like this one: work memory is set but once. */
bool cpu_rates(struct device *d, double *copy_bytes_s, double *matmul_flops, struct status *st)
{
    const struct device_options like = {.n_threads = d->n_threads, .precision = d->precision};
    struct device *own = cpu_backend.open(&like, st);
    const bool ok = own && measure(own, copy_bytes_s, matmul_flops, st);
    if (own)
        cpu_backend.ops->close(own);
    return ok;
}
