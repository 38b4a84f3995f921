/* model_hash.h - whether two checkpoints are the same model, in two numbers.
 *
 * Ranks that are processes open their files one by one.  What they compare must tell apart all that
 * changes an answer, and be cheap before a load: model_hash_config() has every number that a family
 * reads; model_hash_weights() has the names, types and sizes of all tensors and of each the first
 * and last few KiB, so that a fine-tune of the same shape is another model.  A change in the middle
 * of tensors alone is not seen.
 *
 * Thread: any; reads a checkpoint that model_file_open() opened. */
#ifndef ENGINE_MODEL_HASH_H
#define ENGINE_MODEL_HASH_H

#include <stdint.h>

#include "engine/model.h"

/* Of a model that is not cut for a rank or a stage yet. */
uint64_t model_hash_config(const struct model_file *f);
uint64_t model_hash_weights(const struct model_file *f);

#endif
