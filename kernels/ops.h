/* ops.h - everything the engine asks of a device.
 *
 * Backends: kernels/cpu (the embedded default, and the reference every op of every
 * other backend is tested against) and kernels/cuda.  The engine holds a
 * `const struct ops *` and does not know which.
 *
 * An op takes one argument struct, so that a call names every operand and a new
 * operand breaks no call (absent is NULL or 0).  Ops are asynchronous and run in
 * call order.  They cannot fail at the call: shapes were checked when the model was
 * bound, and a device fault is sticky and comes out of wait().  No op allocates.
 *
 * Activations are f32 on the CPU.  Small integer arrays (positions, tables, ids) are
 * read before the call returns or live until wait(): callers keep them until then.
 *
 * Batch invariance is part of the contract: the bits of a row depend on that row
 * alone, never on how many rows or sequences run beside it, nor on the number of
 * threads.  Reductions have one fixed order.
 *
 * Shapes are written [outer, ..., inner], inner contiguous.
 *
 * Thread: all calls on one device come from one thread (its rank). */
#ifndef KERNELS_OPS_H
#define KERNELS_OPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "kernels/tensor.h"

struct device; /* opaque; made by a backend's open() */

enum { MATMUL_OUTS_MAX = 3, TOP_LOGPROBS_MAX = 20 };

/* The ragged batch of one step.  Sequence i has the tokens [seq_start[i], seq_start[i+1]), which
 * are the last ones of its kv_len[i] tokens in the cache: token t of it is at position
 * kv_len[i] - (seq_start[i+1] - t).  No padding exists anywhere. */
struct batch {
    int n_tokens, n_seqs;
    const int32_t *token_ids;   /* [n_tokens] */
    const int32_t *positions;   /* [n_tokens] */
    const int32_t *token_seq;   /* [n_tokens] which sequence of the batch */
    const int32_t *seq_start;   /* [n_seqs + 1]; [0] = 0, [n_seqs] = n_tokens */
    const int32_t *kv_len;      /* [n_seqs] tokens in the cache after this step */
    const int32_t *block_table; /* [n_seqs, table_stride]; row i valid to ceil(kv_len / block) */
    int table_stride;
};

/* The paged KV cache of all layers: K and V each are
 * [n_layers, n_blocks, n_kv_heads, block_tokens, head_dim]. */
struct kv_cache {
    void *k, *v;
    enum dtype dtype; /* DT_F32, DT_F16 or DT_BF16 */
    int n_layers, n_blocks, block_tokens, n_kv_heads, head_dim;
};

struct embed_args { /* out[t] = table[ids[t]] * scale */
    float *out;                 /* [n, hidden] */
    const struct tensor *table; /* [vocab, hidden], PLAIN or PACKED */
    const int32_t *ids;         /* [n], each < vocab */
    int n;
    float scale;                /* 1 for most families */
};

struct matmul_args { /* out[i].y = x @ out[i].w^T (+ bias) (+ add): several weights share one x */
    const float *x; /* [rows, in] */
    int rows;
    bool fine; /* where x would be rounded to 8 bits, it is rounded to twice 8 */
    int n_outs;
    struct matmul_out {
        float *y;               /* [rows, w->rows] */
        const struct tensor *w; /* [out, in], PACKED */
        const float *bias;      /* [out] or NULL */
        const float *add;       /* [rows, out] or NULL; may be y: the residual */
    } out[MATMUL_OUTS_MAX];
};

enum norm_kind { NORM_RMS, NORM_LAYER };

struct norm_args { /* y = w * norm(x) + b, over the last `width` values */
    float *y;       /* [rows, width]; may be x */
    const float *x; /* [rows, width] */
    const float *w; /* [width] or NULL */
    const float *b; /* [width] or NULL; NORM_LAYER only */
    int rows, width;
    enum norm_kind kind;
    float eps;
};

enum rope_kind {
    ROPE_NONE,
    ROPE_NEOX,     /* pairs (i, i + dims/2): Hugging Face's rotate_half */
    ROPE_ADJACENT, /* pairs (2i, 2i + 1): what GGUF files of the Llama family are permuted for */
};

struct rope_kv_args { /* rotate q and k in place, then write k and v to their pages */
    float *q;       /* [n_tokens, n_heads, head_dim] */
    float *k;       /* [n_tokens, n_kv_heads, head_dim] */
    const float *v; /* [n_tokens, n_kv_heads, head_dim] */
    const float *q_norm, *k_norm; /* [head_dim] or NULL: RMS norm per head before rope */
    float norm_eps;
    const struct batch *batch;
    const struct kv_cache *kv;
    int layer, n_heads;
    enum rope_kind rope;
    int rope_dims;           /* even, <= head_dim: the rest passes through */
    const float *inv_freq;   /* [rope_dims / 2] radians per position */
    float rope_scale;        /* multiplies cos and sin; 1 unless the family scales attention */
};

struct attention_args { /* causal, paged, ragged: one call for prefill and decode together */
    float *out;     /* [n_tokens, n_heads, head_dim] */
    const float *q; /* [n_tokens, n_heads, head_dim] */
    const struct batch *batch;
    const struct kv_cache *kv;
    int layer, n_heads;
    float scale;    /* of q.k, usually 1/sqrt(head_dim) */
    float soft_cap; /* 0 = none; else s = cap * tanh(s / cap) */
    int window;     /* 0 = none; else a token sees itself and the window - 1 before it */
};

enum act_kind { ACT_SILU, ACT_GELU, ACT_GELU_TANH, ACT_RELU };

struct act_args { /* y = act(gate) * up, or act(gate) when up is NULL */
    float *y; /* [rows, width]; may be gate */
    const float *gate, *up;
    int rows, width;
    enum act_kind kind;
};

/* Copy chosen rows to the front of a dense matrix: lm_head runs only for rows that sample. */
struct gather_args {
    float *y;            /* [n, width] */
    const float *x;      /* [*, width] */
    const int32_t *rows; /* [n] */
    int n, width;
};

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

struct sample_row { /* one row of logits to sample */
    const struct sample_params *params;
    const int32_t *history; /* [n_history] prompt and answer so far */
    int32_t n_history, n_prompt; /* the first n_prompt of history are the prompt */
    const struct sample_bias *bias; /* [n_bias] */
    int32_t n_bias;
    int32_t forced; /* -1 = sample; else score this id (log-probability of a given token) */
};

enum sample_fault { SAMPLE_OK, SAMPLE_NAN }; /* NaN or no finite logit in the row */

struct sample_out {
    int32_t id; /* < vocab */
    int32_t fault; /* enum sample_fault; id is 0 when not OK */
    float logprob; /* log softmax of the raw logits, before bias, penalties and temperature */
    int32_t n_top; /* <= params->n_logprobs */
    int32_t top_id[TOP_LOGPROBS_MAX]; /* most likely first; equal logits: lower id first */
    float top_logprob[TOP_LOGPROBS_MAX];
};

struct sample_args {
    float *logits; /* [n, vocab]; overwritten */
    int n, vocab;
    const struct sample_row *row; /* [n] */
    struct sample_out *out;       /* [n] */
};

/* Random numbers: Philox4x32-10 (Salmon et al. 2011) keyed by seed, counter = number of tokens
 * before this one (n_history), so a draw depends on the request alone. */

struct ops {
    const char *name; /* "cpu", "cuda" */

    /* Memory, at start only. */
    void *(*mem_take)(struct device *, size_t n_bytes, struct status *st); /* zeroed, 64-aligned */
    /* Bytes of a weight once put; checked against tensor_file_bytes by the caller. */
    size_t (*weight_bytes)(const struct device *, enum dtype, int64_t rows, int64_t cols);
    /* Bring one weight from file layout at src into w->data (weight_bytes of it).  w has dtype,
     * rows and cols; put sets layout.  Blocks until src is no longer needed. */
    void (*weight_put)(struct device *, struct tensor *w, const void *src);
    /* Bytes of scratch that the ops need for steps of at most `rows_max` rows; 64-aligned. */
    size_t (*scratch_bytes)(const struct device *, int rows_max, int in_max, int vocab);
    void (*scratch_set)(struct device *, void *scratch, size_t n_bytes);

    void (*embed)(struct device *, const struct embed_args *);
    void (*matmul)(struct device *, const struct matmul_args *);
    void (*norm)(struct device *, const struct norm_args *);
    void (*rope_kv)(struct device *, const struct rope_kv_args *);
    void (*attention)(struct device *, const struct attention_args *);
    void (*act)(struct device *, const struct act_args *);
    void (*gather)(struct device *, const struct gather_args *);
    void (*sample)(struct device *, const struct sample_args *);
    bool (*wait)(struct device *, struct status *st); /* until idle; reports a sticky fault */
    void (*close)(struct device *);
};

enum precision {
    PRECISION_FAST,  /* quantized weights meet activations rounded to 8 bits, block by block */
    PRECISION_EXACT, /* weights are dequantized, activations stay f32: the reference */
};

struct device_options {
    int n_threads;       /* 1..64; 0 = one for each core this process may use */
    enum precision precision;
    const char *isa_max; /* NULL = best; "scalar", "avx2", "avx512": never above this */
};

/* kernels/cpu: the ops table, and a device with its thread pool. */
const struct ops *cpu_ops(void);
struct device *cpu_open(const struct device_options *opts, struct status *st);
const char *cpu_isa(const struct device *); /* the variant chosen: "avx2", "avx512vnni", ... */

#endif
