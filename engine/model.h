/* model.h - one model, bound: its configuration as numbers and its weights by slot.
 *
 * A checkpoint is a GGUF file, or a Hugging Face folder: config.json and safetensors files.
 * model_file_open() reads headers only (config checked, every tensor found and its
 * shape compared with the family's rules): enough for `inferd check` and for the plan.
 * A tensor that no rule of the family names is refused, because a model that ignored it
 * would compute something else.  model_load() brings the weights to the device.
 *
 * Thread: one, at start. */
#ifndef ENGINE_MODEL_H
#define ENGINE_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "engine/arch.h"
#include "engine/weight.h"
#include "kernels/comm.h"
#include "kernels/ops.h"

struct cJSON;
struct gguf;
struct quant_folder;
struct quant_load;
struct safetensors;
struct weights_random;
struct scheme_part;

enum { LAYERS_MAX = 1024 };

struct model_config {
    int32_t hidden;     /* width of the residual stream */
    int32_t n_layers;
    int32_t n_heads;    /* query heads */
    int32_t n_kv_heads; /* divides n_heads */
    int32_t head_dim;
    int32_t value_dim;  /* of a value head; equals head_dim */
    int32_t ffn;
    int32_t vocab;
    int32_t context;    /* positions the model was trained for */
    int32_t rope_dims;
    int32_t n_experts;  /* 0 <=> one feed-forward for all tokens */
    int32_t window;     /* tokens that a local layer sees, with its own; 0 <=> no layer is local */
    int32_t window_pattern; /* where no key lists the layers: each n-th one sees all; 0 = each does */
    int32_t bidirectional;  /* 0 */
    float attn_cap, logit_cap; /* 0: neither is done */
    float norm_eps;
    float rope_theta;
    float rope_scaling; /* positions are divided by it; 1 = none */
    float rope_context; /* 0 <=> for all pairs; else see rope_freq.h, as for the next two */
    float rope_low_factor, rope_high_factor;
    float rope_theta_local; /* the base of local layers, whose positions are not divided */
    float embed_scale;  /* 1 = none */
    float attn_scalar;  /* attn_scale^-2; 0 in the tables = head_dim */
    float attn_scale;   /* of q.k */
    enum rope_kind rope;
    enum act_kind act;
    enum norm_kind norm;
    bool tied;          /* lm_head is the embedding table */
    bool is_local[LAYERS_MAX]; /* [n_layers] sees a window, by rotary frequencies of its own */

    /* Of a rank of several (shard.h), whose n_heads, n_kv_heads and ffn the fields above then are. */
    int32_t rank, n_ranks; /* n_ranks = 0: all of the model is here */
    int32_t vocab_split[COMM_RANKS_MAX + 1]; /* rank r has the tokens [split[r], split[r + 1]) of the
                                                embedding table and of the head */

    /* Of a stage of several (place.h), whose n_layers and is_local the fields above then are. */
    int32_t stage, n_stages; /* n_stages = 0: all layers are here */
    int32_t layer_first;     /* what layer 0 is in the model */
};

static inline bool model_is_first_stage(const struct model_config *cfg)
{
    return cfg->stage == 0;
}

static inline bool model_is_last_stage(const struct model_config *cfg)
{
    return cfg->n_stages == 0 || cfg->stage == cfg->n_stages - 1;
}

struct layer {
    const struct tensor *w[W_N]; /* NULL = the family or the file has none */
};

struct bound { /* one weight: the rule that names it and what the checkpoint has for it */
    const struct tensor_rule *rule;
    const struct weight *src;
    int32_t il; /* layer, or -1 for a once-per-model slot */
};

struct model_file { /* a checkpoint on disk, checked, not loaded */
    struct gguf *gguf;          /* two of these three are NULL */
    struct safetensors *folder;
    struct weights_random *random;
    struct quant_folder *quant_folder; /* the weights, where the folder is quantized; else NULL */
    const struct arch *arch;
    struct model_config cfg;
    struct bound *bound; /* [n_bound] every weight that the model reads */
    size_t n_bound;
    struct quant_load *quant_load; /* NULL <=> all weights are as the file has them */
    struct weight *part; /* [n_bound] once cut for a rank: what `bound` points to; else NULL */
    struct scheme_part *scheme_part; /* [n_bound] where those of a scheme are cut from */
};

struct model {
    struct model_config cfg;
    const struct tensor *w[W_N]; /* the once-per-model slots */
    struct layer *layer;         /* [n_layers] */
    const float *inv_freq;       /* [rope_dims / 2] radians per position; device memory */
    const float *inv_freq_local; /* the same for local layers; NULL <=> there are none */
    struct tensor *tensor;       /* [n_bound] what the slots point to */
    struct scheme *scheme;       /* [n_bound] what those of a scheme point to: the file may go */
};

bool model_path_is_folder(const char *path);
bool model_file_open(struct model_file *f, const char *path, struct status *st) MUST_CHECK;
/* The same over an open file; f owns g from here on, also on failure. */
bool model_file_bind(struct model_file *f, struct gguf *g, struct status *st) MUST_CHECK;
bool model_file_bind_folder(struct model_file *f, struct safetensors *s, const struct cJSON *config,
                            struct status *st) MUST_CHECK;
/* The shape of a config.json, given by itself or by its folder, with random weights; what is
 * optional in the family, as biases, is left out.  For benchmarks. */
bool model_file_open_random(struct model_file *f, const char *path, struct status *st) MUST_CHECK;
void model_file_close(struct model_file *f); /* accepts a zeroed or half-open one */

size_t model_file_n_weights(const struct model_file *f); /* in the checkpoint, bound or not */
const struct weight *model_file_weight(const struct model_file *f, size_t i);
size_t model_file_bytes(const struct model_file *f); /* of all files */
void model_file_release(const struct model_file *f); /* their pages may go: weights were copied */

/* A name from a tensor_rule with the layer's number in it, as snprintf does. */
int model_name(const char *pattern, int32_t il, char *name, size_t size);
int64_t model_dim(const struct model_config *cfg, enum dim dim);

/* Device bytes of one weight; false when they do not fit size_t. */
bool model_one_weight_bytes(const struct bound *b, const struct ops *ops, const struct device *dev,
                            size_t *n_bytes) MUST_CHECK;
/* Device bytes model_load takes.  False when they do not fit size_t. */
bool model_weight_bytes(const struct model_file *f, const struct ops *ops,
                        const struct device *dev, size_t *n_bytes) MUST_CHECK;

struct load_progress { /* called a few times, with weight bytes done */
    void (*fn)(void *ctx, uint64_t n_done, uint64_t n_total); /* or NULL */
    void *ctx;
};

/* Takes device memory, brings every weight to it, and lets go of the file's pages. */
bool model_load(struct model *m, const struct model_file *f, const struct ops *ops,
                struct device *dev, const struct load_progress *progress,
                struct status *st) MUST_CHECK;
void model_close(struct model *m); /* the host's part; device memory goes with the device */

#endif
