/* bench_int.h - what kernels/bench*.c share: one device, its memory, and how a call is timed.
 *
 * Thread: one. */
#ifndef KERNELS_BENCH_INT_H
#define KERNELS_BENCH_INT_H

#include "kernels/bench.h"

enum {
    COPIES_MAX = 32,
    PARTS_MAX = 3,
    BLOCK_TOKENS = 16,
    SEQS_MAX = 256,
    KV_LAYERS = 16,
    KV_LAYERS_CPU = 2
};

struct bench_shape {
    const char *name;
    int hidden, ffn, n_heads, n_kv_heads, head_dim, vocab;
};

struct bench_device {
    const struct ops *ops;
    struct device *dev;
    const struct bench_shape *shape;
    const struct kernel_sink *sink;
    bool on_cpu;
    size_t act_bytes;
    int rows_max, heads_max, kv_tokens_max;
    void *x, *y;             /* [rows_max, widest] activations, random; y is written */
    float *logits;           /* [heads_max, vocab] */
    float *gain, *inv_freq;  /* [widest] ones or so; [head_dim / 2] */
    struct kv_cache kv;
    char *weights;           /* weights_bytes */
    size_t weights_bytes, n_copies;
    struct tensor w[COPIES_MAX][PARTS_MAX];
    void *source;            /* host: random values, source_bytes */
    size_t source_bytes;
    uint64_t n_shapes; /* of steps: each is timed alone */
    struct sample_out *out;  /* host, [heads_max] */

    struct batch batch;      /* of the next step; its arrays: */
    int32_t *ids, *positions, *token_seq, *seq_start, *kv_len, *slot, *n_prompt, *table;
    struct batch_block *block;
    struct batch_slot *set;
    struct batch_head *head;
    struct sample_params params;
};

/* bench_device.c */
bool bench_device_open(struct bench_device *b, const struct backend *backend,
                       const struct device_options *o, const struct bench_shape *shape,
                       int rows_max, struct status *st) MUST_CHECK;
void bench_device_close(struct bench_device *b); /* accepts a half-open one */
/* Copies of `parts` matrices of n[i] rows and `in` columns, one behind the other: of codes where there
 * is a scheme, which lives as long as they, else of 16-bit floats. */
bool bench_weights(struct bench_device *b, const struct scheme *scheme, const int *n, int parts, int in,
                   struct status *st) MUST_CHECK;
/* The next step's batch: seqs sequences of `tokens` tokens, the last of kv_len; heads of the last
 * rows. */
void bench_batch(struct bench_device *b, int seqs, int tokens, int kv_len, int heads);
/* Seconds of one call of fn, which is told how many came before it. */
bool bench_time(struct bench_device *b, void (*fn)(void *ctx, int i), void *ctx, double *s,
                struct status *st) MUST_CHECK;

/* bench_ops.c: every op of a shape, into the sink. */
bool bench_ops(struct bench_device *b, struct status *st) MUST_CHECK;

#endif
