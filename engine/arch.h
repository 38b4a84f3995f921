/* arch.h - what one model family is, as data.
 *
 * A family is one file in engine/arch/ that fills one `struct arch`.  The loader reads
 * it to build a model_config and to bind tensors; the decoder reads only the
 * model_config and asks which weights are present.  Neither knows a family by name,
 * so a family that fits these tables needs no code. */
#ifndef ENGINE_ARCH_H
#define ENGINE_ARCH_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/ops.h"

/* A dimension is named here and given a number by the checkpoint's config, so
 * that a shape error can say "want [q, hidden] = [4096, 2560], found [4608, 2560]". */
enum dim { DIM_ONE, DIM_VOCAB, DIM_HIDDEN, DIM_Q, DIM_KV, DIM_FFN, DIM_HEAD, DIM_ROPE_HALF, DIM_N };

/* How tensor-parallel ranks divide a weight. */
enum shard {
    SHARD_NONE,  /* every rank holds all of it */
    SHARD_OUT,   /* each rank holds a range of rows:    its output is partial in width */
    SHARD_IN,    /* each rank holds a range of columns: its output must be summed over ranks */
    SHARD_FIRST, /* rank 0 alone has it: added to what is summed, so added once */
};

enum need { REQUIRED, OPTIONAL };

enum slot { /* where the decoder looks for a weight */
    W_EMBED, W_FINAL_NORM, W_LM_HEAD, W_ROPE_FACTORS, /* once per model; the rest once per layer */
    W_ATTN_NORM, W_Q, W_K, W_V, W_O, W_Q_BIAS, W_K_BIAS, W_V_BIAS, W_O_BIAS, W_Q_NORM, W_K_NORM,
    W_ATTN_OUT_NORM, /* of what attention gives, before it is added; as below */
    W_FFN_NORM, W_GATE, W_UP, W_DOWN, W_GATE_BIAS, W_UP_BIAS, W_DOWN_BIAS, W_FFN_OUT_NORM, W_N
};
#define W_FIRST_OF_LAYER W_ATTN_NORM

struct tensor_rule { /* rows = DIM_ONE <=> a vector, held as float32; else a matrix */
    const char *hf;   /* name in a safetensors file; %d is the layer; NULL = none */
    const char *gguf; /* name in a GGUF file */
    enum slot slot;
    enum dim rows, cols;
    enum shard shard;
    enum need need;
};

enum field_type { F_INT, F_FLOAT };

struct config_rule {
    const char *hf;   /* key in config.json */
    const char *gguf; /* key in GGUF metadata, after the family prefix */
    enum field_type type;
    size_t offset;    /* of the field in struct model_config */
    enum need need;
    double absent;    /* value when an OPTIONAL key is missing; 0 may mean "derive" */
    double min, max;  /* inclusive; outside is refused by name */
};

struct arch {
    const char *hf_name;   /* config.json "architectures"[0] */
    const char *gguf_name; /* GGUF "general.architecture" */
    const struct config_rule *config;     /* ends with a zero row, as the others do */
    const struct tensor_rule *tensors[3]; /* tables to bind in order; ends with NULL */
    enum rope_kind gguf_rope; /* how this family's GGUF files order q and k */
    enum rope_kind hf_rope;
    enum act_kind act;
    enum norm_kind norm;
    bool tied;           /* where config.json does not say */
    float hf_gain;       /* added to the norms' gains of a safetensors file: 1 where it has them less 1 */
    bool embed_by_width; /* embeddings are multiplied by the square root of their width */
    /* GGUF files do not say what attention is scaled by where that is not the heads' width: the
     * model of so many layers takes hidden / n_heads in its place.  0 = none does. */
    int32_t gguf_layers_scaled_by_share;
};

extern const struct arch *const arch_all[]; /* arch_table.c; ends with NULL */

#endif
