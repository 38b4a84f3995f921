/* model.h - one model, bound: its configuration as numbers and its weights by slot.
 *
 * model_file_open() reads the header only (config checked, every tensor found and its
 * shape compared with the family's rules): enough for `inferd check` and for the plan.
 * model_load() brings the weights to the device.
 *
 * Thread: one, at start. */
#ifndef ENGINE_MODEL_H
#define ENGINE_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "engine/arch.h"
#include "kernels/ops.h"

struct gguf;

struct model_config {
    int32_t hidden;     /* width of the residual stream */
    int32_t n_layers;
    int32_t n_heads;    /* query heads */
    int32_t n_kv_heads; /* divides n_heads */
    int32_t head_dim;
    int32_t ffn;
    int32_t vocab;
    int32_t context;    /* positions the model was trained for */
    int32_t rope_dims;
    float norm_eps;
    float rope_theta;
    float rope_scaling; /* linear position scale; 1 = none */
    float embed_scale;  /* 1 = none */
    float attn_scale;   /* of q.k; 0 in the tables = 1/sqrt(head_dim) */
    enum rope_kind rope;
    enum act_kind act;
    enum norm_kind norm;
    bool tied;          /* lm_head is the embedding table */
};

struct layer {
    const struct tensor *w[W_N]; /* NULL = the family or the file has none */
};

struct model_file { /* a checkpoint on disk, checked, not loaded */
    struct gguf *gguf;
    const struct arch *arch;
    struct model_config cfg;
};

struct model {
    struct model_config cfg;
    const struct tensor *w[W_N]; /* the once-per-model slots */
    struct layer *layer;         /* [n_layers] */
    float *inv_freq;             /* [rope_dims / 2] */
};

bool model_file_open(struct model_file *f, const char *path, struct status *st) MUST_CHECK;
void model_file_close(struct model_file *f);

#endif
