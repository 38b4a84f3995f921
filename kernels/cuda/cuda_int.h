/* cuda_int.h - the CUDA device as its ops see it.
 *
 * Everything an op needs of the batch is in device memory at addresses that never change, so
 * that a recorded graph reads the step it is replayed for.  Counts are host numbers: they are part of a
 * graph's shape.  An op launches on `stream` and never synchronises.
 *
 * Thread: the device's. */
#ifndef KERNELS_CUDA_CUDA_INT_H
#define KERNELS_CUDA_CUDA_INT_H

#include <cuda_runtime.h>

extern "C" {
#include "kernels/cuda/attention_plan.h"
#include "kernels/ops.h"
}

struct cuda_slot { /* how the sequence in a slot samples; device memory */
    struct sample_params params;
    int32_t n_prompt;
    int32_t n_bias;
    int32_t has_penalty; /* its row of `seen` is kept */
    int32_t sampled;     /* last sample: what TOKEN_SAMPLED means */
};

struct cuda_batch { /* the batch in hand */
    int n_tokens, n_seqs, n_heads;   /* host */
    bool has_tiles, has_items;      /* host: which attention kernels have work */
    int n_waves;                     /* host */
    int32_t *ids;              /* [step_tokens_max] TOKEN_SAMPLED resolved */
    int32_t *positions;        /* [step_tokens_max] */
    int32_t *token_slot;       /* [step_tokens_max] */
    int32_t *block_table;      /* [seqs_max, table_stride] by slot */
    struct batch_head *head;   /* [step_heads_max] */
    struct attention_plan attention; /* device views */
    const struct attention_plan *attention_host; /* the same on the host, for the waves */
};

struct cuda_slots { /* device memory */
    struct cuda_slot *slot;    /* [seqs_max] */
    struct sample_bias *bias;  /* [seqs_max, bias_slot_max] */
    uint16_t *seen;            /* [seqs_max, vocab] bit 15: in the prompt; the rest: times generated, at most 32767 */
};

struct device {
    int index;
    int sm_count;
    int cc;               /* compute capability, 90 = 9.0 */
    enum dtype act;       /* DT_BF16, DT_F16, or DT_F32, which has kernels of its own: *_f32.cu */
    cudaStream_t stream;
    cudaError_t fault;    /* sticky: the first, with where */
    char fault_at[96];
    struct device_limits limits;
    struct cuda_batch batch;
    struct attention_plan host_attention; /* of the batch in hand, in its stage */
    struct cuda_slots slots;

    /* Scratch, valid within one op. */
    void *scratch_norm; /* [step_tokens_max, in_max] activations, or codes and scales of so many */
    /* Zeros between products (act8.h); in_outliers_max columns where those run, else none. */
    uint8_t *act8_high;     /* [columns, act8_high_stride(step_tokens_max)] */
    uint32_t *act8_mask;    /* [act8_mask_words(columns)] */
    uint32_t *act8_readers; /* [act8_readers_words(step_tokens_max)] */

    float *partials;      /* of attention, attention_partials_max * n_heads * (head_dim + 2), or of
                             products, scheme_wide_sums_bytes */
    int32_t *tiles_given; /* [scheme_wide_given_words], zero between launches */
    int32_t *merges;      /* [attention_merges_max], zero between launches */
    struct sample_out **sample_out; /* [1] where the samples of the step in hand go: the host's memory */
    void *sample_work;    /* cuda_sample_work_bytes */

    struct cuda_host *host; /* streams, stages, graphs, loading: cuda_host.h */
    struct peers *peers;    /* the other ranks: peers.h; NULL <=> the only rank */
    struct peers *grid;     /* the ranks of all stages; NULL <=> the only stage */
};

static inline size_t scratch_norm_bytes(const struct device_limits *l, enum dtype act)
{
    const size_t scales = 32; /* of a row: its scale, and codes padded to whole 16 bytes */
    const size_t row = (size_t)l->in_max * (size_t)dtype_traits[act].block_bytes;
    return (size_t)l->step_tokens_max * (row + scales) + 4096;
}

/* Notes the first failure, which step_wait reports; ops after it may still be launched. */
void cuda_check(struct device *d, cudaError_t e, const char *at);

/* One file each; the ops of the table. */
void cuda_embed(struct device *, const struct embed_args *);        /* embed.cu */
void cuda_embed_scheme(struct device *, const struct embed_args *); /* embed_scheme.cu: of a quantized table */
void cuda_embed_act8(struct device *, const struct embed_args *);   /* embed_act8.cu: of one that lies as act8_layout.h has it */
void cuda_embed_block(struct device *, const struct embed_args *);  /* embed_block.cu: of a block format */
void cuda_norm(struct device *, const struct norm_args *);          /* norm.cu */
void cuda_matmul(struct device *, const struct matmul_args *);      /* matmul.cu: which kernel, see matmul_int.h */
void cuda_rope_kv(struct device *, const struct rope_kv_args *);    /* rope_kv.cu */
void cuda_matmul_rope_kv(struct device *, const struct matmul_args *,
                         const struct rope_kv_args *); /* qkv.cu: both, in one kernel where it can be */
void cuda_attention(struct device *, const struct attention_args *); /* attention.cu: both lists */
void cuda_head(struct device *, const struct head_args *);          /* head.cu: gather + norm, then matmul.cu's product to f32 */
void cuda_sample(struct device *, const struct sample_args *);      /* sample.cu: into (*d->sample_out)[first..] */
size_t cuda_sample_work_bytes(const struct device_limits *);

/* attention_prefill*.cu, attention_decode.cu, attention_f32.cu: the launchers that cuda_attention
 * calls. */
void cuda_attention_prefill(struct device *, const struct attention_args *);
void cuda_attention_decode(struct device *, const struct attention_args *);
void cuda_attention_f32(struct device *, const struct attention_args *);

/* slots.cu: at step_begin, in stream order: `set` and history are in device memory. */
struct cuda_slot_set { /* one batch_slot, flat */
    struct cuda_slot slot;
    int32_t index;
    int32_t n_history, first_history; /* in the uploaded history */
    int32_t first_bias;               /* in the uploaded bias */
};
void cuda_slots_set(struct device *, const struct cuda_slot_set *set, int n, const int32_t *history,
                    const struct sample_bias *bias);
enum { CUDA_SEGMENTS_MAX = 5 };
struct cuda_segment { /* words of the stage on their way to where recorded graphs read them */
    const void *from;
    void *to;
    int32_t n; /* of 4 bytes */
};
struct cuda_step { /* in device memory, in the stage */
    struct cuda_segment segment[CUDA_SEGMENTS_MAX];
    int n_segments, n_tokens, n_blocks;
    const int32_t *token_ids, *positions, *token_slot; /* [n_tokens] */
    const struct batch_block *block;                   /* [n_blocks] */
};
/* Then, in one kernel: the segments; `ids` resolved, and the batch's tokens noted in `seen` of slots with
 * a penalty; blocks in the table.  Its writes are in memory before the next kernel may begin. */
void cuda_slots_step(struct device *, const struct cuda_step *);
/* Where a graph has that kernel as a node: this step's, when the graph is launched next. */
void cuda_slots_step_again(struct device *, const struct cuda_step *, cudaGraphExec_t, cudaGraphNode_t);

#endif
