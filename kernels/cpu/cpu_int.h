/* cpu_int.h - what the CPU ops share: the device, its threads, its instruction set.
 *
 * Only kernels/cpu and its tests include this.
 *
 * Work is cut into parts whose content depends on the shape alone, never on the number
 * of threads; threads take parts from a shared counter.  So the bits of a result do
 * not depend on who computed it.
 *
 * Thread: the device's owner calls; cpu_parallel spreads. */
#ifndef KERNELS_CPU_CPU_INT_H
#define KERNELS_CPU_CPU_INT_H

#include "kernels/cpu/isa.h"
#include "kernels/ops.h"

struct thread_pool;

struct cpu_slot { /* the sequence in a slot, as sampling needs it */
    struct sample_params params;
    int32_t n_prompt;
    int32_t n_bias;
    int32_t sampled;          /* the last sample: what TOKEN_SAMPLED means */
    int32_t *history;         /* [context_max] tokens by position */
    struct sample_bias *bias; /* [bias_slot_max] */
};

struct device {
    enum isa isa;
    enum precision precision;
    int n_threads;
    struct thread_pool *pool;
    struct comm *comm; /* NULL = the only rank */
    struct comm *grid; /* NULL = the only stage */
    void *mem;       /* list of mem_take allocations */
    bool put_failed; /* a weight did not find the memory to be packed in */

    /* work_set: from here on all is planned. */
    struct device_limits limits;
    void *scratch; /* shared by ops, valid within one op */
    size_t scratch_bytes;
    float *normed;         /* [most rows, in_max] what a matmul reads behind its norm */
    float *up;             /* [step_tokens_max, ffn] the second output of a matmul with act */
    struct cpu_slot *slot; /* [seqs_max] */

    struct batch batch; /* in hand; its arrays are the device's own, but `set` and `block` */

    struct cpu_flight { /* what steps found that were not waited for; step n is in n % DEVICE_DEPTH
                         */
        struct sample_out *out; /* [step_heads_max] */
        int n_heads;
    } flight[DEVICE_DEPTH];
    uint64_t n_begun, n_waited;
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

/* step.c: the device's work memory, its slots, and the batch in hand. */
size_t cpu_work_bytes(const struct device *d, const struct device_limits *l);
bool cpu_work_set(struct device *d, const struct device_limits *l, void *work, struct status *st);
bool cpu_step_begin(struct device *d, const struct batch *b, uint64_t shape); /* records nothing */
struct sample_out *cpu_step_out(struct device *d); /* of the batch in hand */
bool cpu_step_wait(struct device *d, struct sample_out *out, struct status *st);

/* One file each. */
bool cpu_rates(struct device *d, double *copy_bytes_s, double *matmul_flops, struct status *st);
size_t cpu_weight_bytes(const struct device *d, const struct tensor *w);
void cpu_weight_put(struct device *d, struct tensor *w, const struct weight_source *src);
void cpu_embed(struct device *d, const struct embed_args *a);
void cpu_norm(struct device *d, const struct norm_args *a);
void cpu_rope_kv(struct device *d, const struct rope_kv_args *a);
size_t cpu_attention_scratch_bytes(const struct device *d, int n_seqs);
void cpu_attention(struct device *d, const struct attention_args *a);
void cpu_all_reduce(struct device *d, const struct all_reduce_args *a);
void cpu_send(struct device *d, const struct pass_args *a);
void cpu_recv(struct device *d, const struct pass_args *a);
void cpu_head(struct device *d, const struct head_args *a);
void cpu_sample(struct device *d, const struct sample_args *a);

/* linear.c: the matmul of the table, around the product that matmul.c knows. */
void cpu_linear(struct device *d, const struct matmul_args *a);
size_t cpu_matmul_scratch_bytes(const struct device *d, int rows_max, int in_max);
void cpu_matmul(struct device *d, const struct matmul_args *a); /* without norm and act */

struct act_args {      /* y = act(gate) * up, or act(gate) when up is NULL */
    float *y;          /* [rows, width] rows y_stride apart; may be gate */
    const float *gate; /* as y */
    const float *up;   /* [rows, width] */
    int rows, width, y_stride;
    enum act_kind kind;
};
void cpu_act(struct device *d, const struct act_args *a);

struct sample_row { /* one row of logits to sample */
    const struct sample_params *params;
    const int32_t *history;         /* [n_history] prompt and answer so far */
    int32_t n_history, n_prompt;    /* the first n_prompt of history are the prompt */
    const struct sample_bias *bias; /* [n_bias] */
    int32_t n_bias;
    int32_t forced; /* -1 = sample; else score this id (log-probability of a given token) */
};

struct sample_rows {
    float *logits; /* [n, vocab]; overwritten */
    int n, vocab;
    const struct sample_row *row; /* [n] */
    struct sample_out *out;       /* [n] */
};
size_t cpu_sample_scratch_bytes(const struct device *d, int vocab);
void cpu_sample_rows(struct device *d, const struct sample_rows *a);

#endif
