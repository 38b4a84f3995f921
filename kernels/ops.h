/* ops.h - everything the engine asks of a device.
 *
 * Backends: kernels/cpu (the embedded default, and the reference every op of every
 * other backend is tested against) and kernels/cuda.  The engine holds a
 * `const struct ops *` and does not know which.
 *
 * An op takes one argument struct, so that a call names every operand and a new
 * operand breaks no call (absent is NULL or 0).  Ops are asynchronous and run in
 * call order.  They cannot fail at the call: shapes were checked when the model was
 * bound, and a device fault is sticky and comes out of step_wait().  No op allocates.
 *
 * A step is step_begin(batch), ops, step_end().  Everything about its rows is in the
 * batch, which is host memory and is read before step_begin returns; the ops then work on
 * "the batch in hand".  Up to DEVICE_DEPTH steps may have ended and not been waited for, and
 * a token of a step may be TOKEN_SAMPLED: what its slot sampled in the step before, which
 * only the device knows yet.
 *
 * Activations have the device's activation type (`act_dtype`): f32 on the CPU, bf16, f16 or f32 on
 * CUDA, where f32 means that every weight is held in f32, too; norm weights, biases and logits are
 * f32 everywhere.  All pointers to them are device memory: on the CPU that is ordinary memory,
 * elsewhere only copy_in and copy_out reach it.
 *
 * Batch invariance is part of the contract: the bits of a row depend on that row
 * alone, never on how many rows or sequences run beside it, nor on the number of
 * threads, nor on how its prompt was cut into steps.  Reductions have one fixed order.
 *
 * A model may be divided among several ranks (tensor parallelism): each has a device, opened with
 * its end of the group (comm.h), and asks it for the same ops in the same order.  all_reduce, and
 * head with a split, are where they meet.  Bits then depend on the number of ranks too.  A rank
 * that is lost is a device fault to the others.
 *
 * Its layers may be divided among stages (layer split): each stage is a device, or the devices of so
 * many ranks, with a run of the layers.  All see the same batches, in the same order; the first one
 * embeds, each hands its activations to the next (send, recv), and the last has the head and samples.
 * The first stage's device never learns what was sampled: no token is TOKEN_SAMPLED then.  Bits do
 * not depend on the number of stages.
 *
 * Shapes are written [outer, ..., inner], inner contiguous; a stride is in values.
 *
 * Thread: all calls on one device come from one thread (its rank). */
#ifndef KERNELS_OPS_H
#define KERNELS_OPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "kernels/scheme.h"
#include "kernels/tensor.h"

struct comm;   /* comm.h */
struct device; /* opaque; made by a backend's open() */

enum { MATMUL_OUTS_MAX = 3, TOP_LOGPROBS_MAX = 20, DEVICE_DEPTH = 2, TOKEN_SAMPLED = -1 };

/* How one sequence samples; set once when it starts.  Order of effects, as in the OpenAI and
 * Hugging Face conventions: bias, penalties, temperature, top_k, top_p, min_p. */
struct sample_params {
    float temperature; /* < 1e-5 <=> greedy: the largest logit, the lowest id among equals */
    float top_p;       /* (0, 1] */
    float min_p;       /* [0, 1] */
    int32_t top_k;     /* 0 = all */
    float presence, frequency; /* subtract once / per earlier occurrence among generated tokens */
    float repetition;  /* > 0; divides positive and multiplies negative logits of tokens seen in
                          prompt or answer; 1 = none */
    uint64_t seed;
    int32_t n_logprobs; /* -1 = none; 0 = the chosen token's; k = and the k most likely */
};

struct sample_bias {
    int32_t id;
    float bias;         /* added; -INFINITY bans */
    int32_t until;      /* holds while fewer than `until` tokens were generated */
};

struct batch_slot { /* a slot that begins a sequence with this step */
    int32_t slot;
    int32_t n_prompt;  /* tokens of the sequence that are prompt; what follows was generated */
    int32_t n_history; /* tokens that are in the cache already: positions [0, n_history) */
    const int32_t *history;               /* [n_history] */
    const struct sample_params *params;
    const struct sample_bias *bias;       /* [n_bias] */
    int32_t n_bias;
};

struct batch_block { /* a block that a slot's table gains: table[slot][at] = block */
    int32_t slot, at, block;
};

struct batch_head { /* a row of logits to make, and to sample or score */
    int32_t row;       /* token of the batch whose logits these are */
    int32_t slot;
    int32_t n_history; /* tokens of the sequence up to and with that row: the draw's counter */
    int32_t forced;    /* -1 = sample, and the slot keeps the sample; else score this id */
};

enum sample_fault { SAMPLE_OK, SAMPLE_NAN }; /* NaN or no finite logit in the row */

struct sample_out {
    int32_t id; /* < vocab */
    int32_t fault; /* enum sample_fault; id is 0 when not OK */
    float logprob; /* log softmax of the raw logits, before bias, penalties and temperature; 0
                      where it was neither forced nor asked for */
    int32_t n_top; /* <= params->n_logprobs */
    int32_t top_id[TOP_LOGPROBS_MAX]; /* most likely first; equal logits: lower id first */
    float top_logprob[TOP_LOGPROBS_MAX];
};

/* The ragged batch of one step.  Sequence i has the tokens [seq_start[i], seq_start[i+1]), which
 * are the last ones of its kv_len[i] tokens in the cache: token t of it is at position
 * kv_len[i] - (seq_start[i+1] - t).  No padding exists anywhere. */
struct batch {
    int n_tokens, n_seqs, n_heads, n_slots, n_blocks;
    const int32_t *token_ids; /* [n_tokens] id < vocab, or TOKEN_SAMPLED: what the slot sampled last */
    const int32_t *positions; /* [n_tokens] */
    const int32_t *token_seq; /* [n_tokens] which sequence of the batch */
    const int32_t *seq_start; /* [n_seqs + 1]; [0] = 0, [n_seqs] = n_tokens */
    const int32_t *kv_len;    /* [n_seqs] tokens in the cache after this step */
    const int32_t *slot;      /* [n_seqs] */
    const int32_t *n_prompt;  /* [n_seqs] tokens at positions >= n_prompt were generated: attention
                                 treats each by itself, so that its bits are those of the step
                                 that decoded it, also when it is computed again */
    const int32_t *block_table; /* [seqs_max, table_stride] by slot; row valid to ceil(kv_len /
                                   block_tokens); the blocks gained since the last step are: */
    const struct batch_block *block; /* [n_blocks] no more than the new and history tokens fill */
    const struct batch_slot *set;    /* [n_slots] take effect before anything else of the step */
    const struct batch_head *head;   /* [n_heads] */
};

/* Sizes known at start; what a device plans its own memory by. */
struct device_limits {
    int32_t step_tokens_max; /* rows of one step */
    int32_t seqs_max;        /* slots, and sequences of one step */
    int32_t heads_max;       /* rows of one head or sample call */
    int32_t step_heads_max;  /* heads of one step */
    int32_t context_max, block_tokens, table_stride; /* table_stride = blocks of a full sequence */
    int32_t history_max, bias_max; /* tokens and bias entries that slots bring in one step */
    int32_t bias_slot_max;         /* bias entries of one slot */
    int32_t vocab, hidden, ffn, n_heads, n_kv_heads, head_dim;
    int32_t in_max;          /* widest input of any matmul, */
    int32_t in_outliers_max; /* and of any under ACTS_OUTLIERS; 0 = there is none */
};

/* The paged KV cache of all layers: K and V each are
 * [n_layers, n_blocks, n_kv_heads, block_tokens, head_dim].
 *
 * In 8 bits each row - one token, one kv head, of K or V - has a scale of its own:
 *
 *     DT_INT8   value = scale * code, codes -127..127     scale = largest magnitude / 127
 *     DT_FP8    V: value = scale * e4m3(code)             scale = largest magnitude / 448
 *               K: as DT_INT8
 *
 * computed in float; a code is x / scale, rounded to nearest even.  A row whose scale would be
 * below the normal floats is 0; one with NaN or an infinity has a NaN for its scale, and codes 0.
 *
 * Before that, q and k are turned by the same Hadamard matrix (in blocks of the largest power of 2
 * that divides head_dim), which leaves q.k as it is: the few dimensions in which models put large
 * values would take the range from all others.  The divergence (KL, in thousandths of a nat: about
 * what perplexity grows by, in thousandths) of SmolLM2 135M's next tokens: K and V in int8 1.0,
 * turned 0.27; K and V in E4M3 and turned 5.3, with K in int8 0.71.
 *
 * Scales lie apart from the codes, in the same order: the codes of a (layer, block, head) stay one
 * piece of block_tokens * head_dim bytes, aligned as that is, and its scales are another; the
 * number of a row finds both.  They are f32: an f16 has not the range, and any 16 bits would save
 * 1.5 % at a head of 128. */
struct kv_cache {
    void *k, *v;
    enum dtype dtype; /* DT_F32, DT_F16, DT_BF16, DT_INT8 or DT_FP8 */
    int n_layers, n_blocks, block_tokens, n_kv_heads, head_dim;
    float *k_scale, *v_scale; /* [n_layers, n_blocks, n_kv_heads, block_tokens]; else NULL */
};

static inline bool kv_has_scales(enum dtype dtype)
{
    return dtype == DT_INT8 || dtype == DT_FP8;
}

static inline enum dtype kv_key_dtype(enum dtype dtype)
{
    return dtype == DT_FP8 ? DT_INT8 : dtype;
}

/* Bytes of `k`, or of `v`. */
static inline size_t kv_bytes(const struct kv_cache *kv)
{
    return (size_t)kv->n_layers * (size_t)kv->n_blocks * (size_t)kv->n_kv_heads *
           (size_t)kv->block_tokens * (size_t)kv->head_dim *
           (size_t)dtype_traits[kv->dtype].block_bytes;
}

/* Bytes of `k_scale`, or of `v_scale`; 0 where there are none. */
static inline size_t kv_scale_bytes(const struct kv_cache *kv)
{
    return !kv_has_scales(kv->dtype)
               ? 0
               : (size_t)kv->n_layers * (size_t)kv->n_blocks * (size_t)kv->n_kv_heads *
                     (size_t)kv->block_tokens * sizeof(float);
}

struct embed_args { /* out[t] = table[id of token t] * scale, for the tokens of the batch */
    void *out;                  /* [n_tokens, hidden] */
    const struct tensor *table; /* [vocab, hidden], PLAIN or PACKED; or the rows from `first` on */
    float scale;                /* 1 for most families */
    int32_t first;              /* a token that the table has no row for gives zeros */
};

struct all_reduce_args { /* y = add + (sum of the ranks' x, in order of rank); on every rank */
    void *y;         /* [rows, width]; may be x or add */
    const void *x;   /* [rows, width] what this rank has of the sum */
    const void *add; /* [rows, width] or NULL: the residual, the same on every rank */
    int rows, width;
};

/* Rows on their way from a stage to the next, to the rank of the same place there.  What is sent is
 * what the ops before it made, and x may be written by the ops after it; what is received is there
 * for the ops after it.  Each send meets one recv, in order of steps, of the same rows and width. */
struct pass_args {
    void *x; /* [rows, width] activations */
    int rows, width;
};

enum norm_kind { NORM_RMS, NORM_LAYER };

struct norm { /* w * norm(x) + b, over a row; sums in f32 */
    enum norm_kind kind;
    const float *w; /* [width] or NULL */
    const float *b; /* [width] or NULL; NORM_LAYER only */
    float eps;
};

struct norm_args { /* y = norm(x) (+ add) */
    void *y;         /* [rows, width]; may be x or add */
    const void *x;   /* [rows, width] */
    int rows, width;
    struct norm norm;
    const void *add; /* [rows, width] or NULL: the residual; the sum alone is rounded */
};

enum act_kind { ACT_NONE, ACT_SILU, ACT_GELU, ACT_GELU_TANH, ACT_RELU };

/* y_i = norm(x) @ w_i^T (+ bias_i) (+ add_i): several weights share one x.  With act and one out:
 * y_0 = act(y_0).  With act and two: y_0 = act(y_0) * y_1, and out[1].y is not written.  Not act and
 * add together: which would be first?  Weights of one call that lie one behind the other in memory
 * (the loader sees to it) may be run as one. */
struct matmul_args {
    const void *x; /* [rows, in] */
    int rows;
    const struct norm *norm; /* of x, before the product; or NULL */
    enum act_kind act;
    bool fine; /* where x would be rounded to 8 bits, it is rounded to twice 8 */
    int n_outs;
    struct matmul_out {
        void *y;                /* [rows, w->rows], rows y_stride apart */
        int y_stride;           /* 0 = w->rows */
        const struct tensor *w; /* [out, in], PACKED */
        const float *bias;      /* [out] or NULL */
        const void *add;        /* [rows, out], as y, or NULL; may be y: the residual */
    } out[MATMUL_OUTS_MAX];
};

enum rope_kind {
    ROPE_NONE,
    ROPE_NEOX,     /* pairs (i, i + dims/2): Hugging Face's rotate_half */
    ROPE_ADJACENT, /* pairs (2i, 2i + 1): what GGUF files of the Llama family are permuted for */
};

struct rope_kv_args { /* rotate q in place; write k, rotated, and v to their pages; in 8 bits the
                         heads of q and k are turned by a Hadamard matrix behind that */
    void *q;       /* [n_tokens, n_heads, head_dim], rows `stride` apart, as k and v */
    void *k;       /* [n_tokens, n_kv_heads, head_dim]; may be overwritten */
    const void *v; /* [n_tokens, n_kv_heads, head_dim] */
    int stride;
    const float *q_norm, *k_norm; /* [head_dim] or NULL: RMS norm per head before rope */
    float norm_eps;
    const struct kv_cache *kv;
    int layer, n_heads;
    enum rope_kind rope;
    int rope_dims;           /* even, <= head_dim: the rest passes through */
    const float *inv_freq;   /* [rope_dims / 2] radians per position */
    float rope_scale;        /* multiplies cos and sin; 1 unless the family scales attention */
};

struct attention_args { /* paged, ragged: one call for prefill and decode together */
    void *out;     /* [n_tokens, n_heads, head_dim] */
    const void *q; /* [n_tokens, n_heads, head_dim], rows q_stride apart */
    int q_stride;
    const struct kv_cache *kv;
    int layer, n_heads;
    float scale;        /* of q.k, usually 1/sqrt(head_dim) */
    float soft_cap;     /* 0 = none; else s = cap * tanh(s / cap) */
    int window;         /* 0 = none; else a token sees itself and the window - 1 before it */
    const float *alibi; /* [n_heads] slopes or NULL: s += slope * (key position - query position) */
    /* A token of a prompt also sees the later ones of the prompt, as far as they are in the cache: a
     * prompt in one step.  One that was generated sees what there was then, also when it is computed
     * again, and no token of the prompt sees it: their bits are those of the first time. */
    bool bidirectional;
};

/* logits[i] = w @ norm(x[head[first + i].row]), i < n: for the heads of the batch alone. */
struct head_args {
    float *logits; /* [n, vocab] */
    const void *x; /* [n_tokens, hidden] */
    int first, n;  /* n <= heads_max */
    const struct norm *norm;
    const struct tensor *w; /* [vocab, hidden], PACKED */
    /* NULL, or [ranks + 1]: w of rank r has the rows [split[r], split[r + 1]) of the vocabulary, and
     * every rank gets all logits. */
    const int32_t *split;
};

/* Sample or score the heads [first, first + n) of the batch; step_wait gives what was found.  Random
 * numbers: Philox4x32-10 (Salmon et al. 2011) keyed by seed, counter = n_history, so a draw depends
 * on the request alone. */
struct sample_args {
    float *logits; /* [n, vocab]; overwritten */
    int first, n, vocab;
};

/* One weight as a checkpoint has it: in file layout, or, of a scheme, as something that makes its
 * rows. */
struct weight_source {
    const void *at;    /* mapped */
    int fd;            /* the same bytes through read(2): [offset, offset + bytes); -1 = only mapped */
    uint64_t offset;
    size_t row_bytes; /* from row to row: a part of the columns of a wider matrix; 0 = no gap */
    /* NULL <=> the fields above.  Makes the rows [first, first + n); any thread, several at once;
     * cannot fail: what there is to check was checked when the weight was found. */
    void (*rows)(const void *ctx, int64_t first, int64_t n, const struct scheme_rows *to);
    const void *ctx;
    const int32_t *order; /* [cols] where the scheme is ordered: code i of a row multiplies x[order[i]] */
};

struct ops {
    const char *name; /* "cpu", "cuda" */
    bool host_memory; /* device memory is the process's own: one pool with all else it takes */
    enum dtype (*act_dtype)(const struct device *);
    /* Whether a KV cache may have this type. */
    bool (*kv_fits)(const struct device *, enum dtype);

    /* Memory, at start only. */
    uint64_t (*mem_free)(const struct device *); /* bytes mem_take can still give, at most */
    void *(*mem_take)(struct device *, size_t n_bytes, struct status *st); /* zeroed, 256-aligned */
    /* From the host; `from` is the caller's again at return. */
    void (*copy_in)(struct device *, void *to, const void *from, size_t n_bytes);
    void (*copy_out)(struct device *, void *to, const void *from, size_t n_bytes); /* to it; waits */
    /* Bytes of a weight once put, of which w has dtype, rows, cols and scheme; the caller has checked
     * the shape (tensor_file_bytes, scheme_check). */
    size_t (*weight_bytes)(const struct device *, const struct tensor *w);
    /* Bring one weight to w->data (weight_bytes of it).  Put sets layout, and dtype and scheme where
     * the device holds another.  The source must stay until weights_done. */
    void (*weight_put)(struct device *, struct tensor *w, const struct weight_source *src);
    bool (*weights_done)(struct device *, struct status *st); /* until all are there */
    /* Whether there are kernels for a model of these sizes; UNSUPPORTED names the one that has
     * none, and what may be.  NULL = whatever the engine takes. */
    bool (*limits_fit)(const struct device *, const struct device_limits *, struct status *st);
    /* Memory of the ops themselves: scratch, slots, staging; device and pinned host bytes. */
    size_t (*work_bytes)(const struct device *, const struct device_limits *);
    /* `work` is work_bytes of device memory, zeroed; the limits fit. */
    bool (*work_set)(struct device *, const struct device_limits *, void *work, struct status *st);

    /* Steps of equal `shape` > 0 ask for the same ops with the same arguments.  True <=> those were
     * recorded before and are now asked to run: the caller asks for none.  Always false for 0. */
    bool (*step_begin)(struct device *, const struct batch *, uint64_t shape);
    void (*embed)(struct device *, const struct embed_args *);
    void (*norm)(struct device *, const struct norm_args *);
    void (*matmul)(struct device *, const struct matmul_args *);
    void (*rope_kv)(struct device *, const struct rope_kv_args *);
    /* Both, the outs being q, k and v; y of k and of v is then anything. */
    void (*matmul_rope_kv)(struct device *, const struct matmul_args *, const struct rope_kv_args *);
    void (*attention)(struct device *, const struct attention_args *);
    /* Only with a comm; NULL = no such device can be one rank of several. */
    void (*all_reduce)(struct device *, const struct all_reduce_args *);
    /* Only with a grid; NULL = no such device can be one stage of several. */
    void (*send)(struct device *, const struct pass_args *);
    void (*recv)(struct device *, const struct pass_args *);
    void (*head)(struct device *, const struct head_args *);
    void (*sample)(struct device *, const struct sample_args *);
    void (*step_end)(struct device *);
    /* Whether step_wait would return at once; without waiting. */
    bool (*step_ready)(struct device *);
    /* Until the oldest step that ended and was not waited for is done; reports a sticky fault.
     * out[i] = what head i of that step's batch gave, for all its heads. */
    bool (*step_wait)(struct device *, struct sample_out *out, struct status *st);
    void (*close)(struct device *);
};

enum precision {
    PRECISION_FAST,  /* quantized weights meet activations rounded to 8 bits, block by block */
    PRECISION_EXACT, /* weights are dequantized, activations stay f32: the reference */
};

struct device_options {
    int n_threads;       /* CPU: 1..64, divided among the ranks; 0 = one for each core this process
                            may use */
    enum precision precision; /* CPU */
    const char *isa_max; /* CPU: at most this one of cpu/isa.h, by name; NULL = best */
    int index;           /* CUDA: which device; of ranks on a machine the first's, others follow it */
    bool has_local_rank; /* CUDA: which rank of its machine this one is, is known: */
    int local_rank;      /*   it has the device index + local_rank; else they are counted */
    enum dtype act;      /* CUDA: DT_BF16, DT_F16, or of the only rank DT_F32 */
    double memory_share; /* CUDA: of the device's memory that may be used, (0, 1] */
    bool no_peers;       /* CUDA: ranks exchange through NCCL also where their GPUs reach each other */
    struct comm *comm;   /* this rank's end, open as long as the device; NULL = the only rank */
    struct comm *grid;   /* its end of the group of all stages, of which `comm` is its part, likewise;
                            NULL = the only stage */
};

/* Products of the vendor's own library, for benchmarks to set beside the device's: y = x w^T of values
 * of the device's activation type, summed in f32.  Nothing else asks for them. */
struct vendor; /* the library with one device; opaque */

struct vendor_product {
    int rows, in, n;
    bool y_f32; /* y is f32, as logits are; else as x */
};

struct vendor_ops {
    const char *name; /* the library's, for people */
    /* Loads the library, and takes memory of the device until close.  NULL, and `why` says why: no
     * failure of the device. */
    struct vendor *(*open)(struct device *, struct status *why);
    /* What the library proposes first for such a product; false <=> nothing. */
    bool (*choose)(struct vendor *, const struct vendor_product *);
    /* The product chosen last, within a step, as an op: device memory y [rows, n], x [rows, in] and
     * w [n, in], one row behind the other.  A failure is the device's. */
    void (*multiply)(struct vendor *, void *y, const void *x, const void *w);
    void (*close)(struct vendor *); /* before the device; accepts NULL */
};

/* What a kind of device is before one is open. */
struct backend {
    uint32_t abi; /* OPS_ABI: a module built from other headers is refused */
    const struct ops *ops;
    /* Is there such a device, and code for it?  NULL = the first. */
    bool (*probe)(const struct device_options *, struct status *why);
    struct device *(*open)(const struct device_options *, struct status *st);
    const char *(*variant)(const struct device *); /* for people: "amx", "sm_90 NVIDIA H100" */
    /* Devices that a process may open beside each other, n_max at most, and what mem_free would say
     * of each; none is opened.  NULL = one. */
    int (*memory)(const struct device_options *, uint64_t *free_bytes, int n_max);
    /* What the device can do at best, measured in some hundred milliseconds with memory of its own:
     * bytes that a copy reads and writes, and 2 * m * n * k of the device's own product of large
     * random matrices, a second.  NULL = it cannot say. */
    bool (*rates)(struct device *, double *copy_bytes_s, double *matmul_flops, struct status *st);
    const struct vendor_ops *vendor; /* NULL = there is no such library */
};

enum { OPS_ABI = 15 };

extern const struct backend cpu_backend; /* kernels/cpu */

#endif
