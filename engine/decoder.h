/* decoder.h - the forward pass of a decoder-only model over a ragged batch.
 *
 * decoder_forward() brings the batch's tokens through all layers and writes their keys
 * and values to the cache.  decoder_logits() then runs the head for chosen rows alone.
 * Everything about the model comes from model_config and from which weights are there.
 *
 * Thread: the device's. */
#ifndef ENGINE_DECODER_H
#define ENGINE_DECODER_H

#include "engine/model.h"
#include "engine/step.h"

struct arena;

enum { DECODER_LOGIT_ROWS_MAX = 64 }; /* rows of one decoder_logits call */

struct decoder {
    const struct ops *ops;
    struct device *dev;
    const struct model *model;
    struct kv_cache kv;

    /* Activations; T = step_tokens_max. */
    float *x;         /* [T, hidden] the residual stream */
    float *norm;      /* [T, hidden] */
    float *q, *attn;  /* [T, n_heads, head_dim] */
    float *k, *v;     /* [T, n_kv_heads, head_dim] */
    float *gate, *up; /* [T, ffn] */
    float *head;      /* [DECODER_LOGIT_ROWS_MAX, hidden] rows chosen for the head */
    float *logits;    /* [DECODER_LOGIT_ROWS_MAX, vocab] */
};

/* Bytes of activations decoder_init takes from its arena.  False when they do not fit. */
bool decoder_bytes(const struct model_config *cfg, const struct step_limits *limits,
                   size_t *n_bytes) MUST_CHECK;
/* ops, dev, model and kv are set by the caller.  False when the arena is too small. */
bool decoder_init(struct decoder *d, const struct step_limits *limits,
                  struct arena *activations) MUST_CHECK;

void decoder_forward(struct decoder *d, const struct batch *b);
/* d->logits[i] = the logits after the batch's token rows[i]; n <= DECODER_LOGIT_ROWS_MAX. */
void decoder_logits(struct decoder *d, const int32_t *rows, int n);

#endif
