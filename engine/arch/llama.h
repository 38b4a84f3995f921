/* llama.h - the tables of the Llama block, for the families that are it but for a few rows.
 *
 * Thread: constant data; any thread. */
#ifndef ENGINE_ARCH_LLAMA_H
#define ENGINE_ARCH_LLAMA_H

#include "engine/arch.h"

#define LAYER "model.layers.%d."

extern const struct config_rule llama_config[];
extern const struct tensor_rule llama_products[]; /* embedding, projections, biases, output */
extern const struct tensor_rule llama_norms[];

#endif
