/* cpu_int.h - what the CPU ops share: the device, its threads, its instruction set.
 *
 * Only kernels/cpu includes this.
 *
 * Work is cut into parts whose content depends on the shape alone, never on the number
 * of threads; threads take parts from a shared counter.  So the bits of a result do
 * not depend on who computed it.
 *
 * Thread: the device's owner calls; cpu_parallel spreads. */
#ifndef KERNELS_CPU_CPU_INT_H
#define KERNELS_CPU_CPU_INT_H

#include "kernels/ops.h"

enum isa { ISA_SCALAR, ISA_AVX2, ISA_AVX512, ISA_AVX512VNNI, ISA_N };

struct thread_pool;

struct device {
    enum isa isa;
    enum precision precision;
    int n_threads;
    struct thread_pool *pool;
    void *scratch; /* scratch_set: planned at start, shared by ops, valid within one op */
    size_t scratch_bytes;
    void *mem; /* list of mem_take allocations */
};

/* Run fn(ctx, part, thread) for each part in [0, n_parts), on all threads of the device; returns
 * when all are done.  thread is in [0, n_threads).  n_parts = 1 runs in the caller. */
void cpu_parallel(struct device *d, void (*fn)(void *ctx, int part, int thread), void *ctx,
                  int n_parts);

/* thread_pool.c: workers spin for some 50 us after the last work and then sleep on a futex. */
struct thread_pool *thread_pool_open(int n_threads, struct status *st);
void thread_pool_close(struct thread_pool *p);
void thread_pool_run(struct thread_pool *p, void (*fn)(void *ctx, int part, int thread), void *ctx,
                     int n_parts);

/* One file each. */
size_t cpu_weight_bytes(const struct device *d, enum dtype dtype, int64_t rows, int64_t cols);
void cpu_weight_put(struct device *d, struct tensor *w, const void *src);
size_t cpu_matmul_scratch_bytes(const struct device *d, int rows_max, int in_max);
void cpu_matmul(struct device *d, const struct matmul_args *a);
void cpu_embed(struct device *d, const struct embed_args *a);
void cpu_norm(struct device *d, const struct norm_args *a);
void cpu_rope_kv(struct device *d, const struct rope_kv_args *a);
size_t cpu_attention_scratch_bytes(const struct device *d, int rows_max);
void cpu_attention(struct device *d, const struct attention_args *a);
void cpu_act(struct device *d, const struct act_args *a);
void cpu_gather(struct device *d, const struct gather_args *a);
size_t cpu_sample_scratch_bytes(const struct device *d, int vocab);
void cpu_sample(struct device *d, const struct sample_args *a);

#endif
