/* decoder.h - the forward pass of a decoder-only model over a ragged batch.
 *
 * decoder_forward() brings the batch's tokens through all layers and writes their keys
 * and values to the cache.  decoder_head() then makes logits for the rows that want them.
 * Everything about the model comes from model_config and from which weights are there.
 * Ranks (shard.h) run the same calls on their parts, and meet in the sums over them.  A stage
 * (place.h) begins with what the one before it hands on, and hands on what it has made.
 *
 * Thread: the device's. */
#ifndef ENGINE_DECODER_H
#define ENGINE_DECODER_H

#include "engine/model.h"
#include "engine/step.h"

struct arena;

struct decoder {
    const struct ops *ops;
    struct device *dev;
    const struct model *model;
    struct kv_cache kv;

    /* Activations; T = step_tokens_max. */
    void *x;       /* [T, hidden] the residual stream */
    void *qkv;     /* [T, (n_heads + 2 n_kv_heads) head_dim] a token's q, k and v together; then, where
                      it is normed, [T, hidden] what attention and feed-forward put out */
    void *attn;    /* [T, n_heads, head_dim] */
    void *gate;    /* [T, ffn] */
    void *part;    /* [T, hidden] what this rank has of a sum; NULL <=> the only rank */
    float *logits; /* [decoder_heads_max, vocab]; the last stage's */
};

/* Rows of logits that are made at a time. */
int32_t decoder_heads_max(const struct step_limits *limits);

/* Bytes of activations decoder_init takes from its arena.  False when they do not fit. */
bool decoder_bytes(const struct model_config *cfg, const struct step_limits *limits, enum dtype act,
                   size_t *n_bytes) MUST_CHECK;
/* ops, dev, model and kv are set by the caller.  False when the arena is too small. */
bool decoder_init(struct decoder *d, const struct step_limits *limits,
                  struct arena *activations) MUST_CHECK;

/* The n_tokens of the batch in hand. */
void decoder_forward(struct decoder *d, int n_tokens);
/* d->logits[i] = the logits of the batch's head first + i, i < n <= decoder_heads_max. */
void decoder_head(struct decoder *d, int first, int n);

#endif
