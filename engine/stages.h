/* stages.h - how many stages a model is cut into, and where, on the devices there are.
 *
 * A stage's plan is that of its view (place.h); all of them must fit.
 *
 * Thread: one, at start. */
#ifndef ENGINE_STAGES_H
#define ENGINE_STAGES_H

#include "base/status.h"
#include "engine/place.h"
#include "engine/plan.h"

struct backend;

/* The cut of f, a rank's part of each layer, into n_stages; memory[i] is what rank i has, and a
 * stage has n_tensor ranks. */
bool stages_place(struct placement *p, const struct model_file *f, const struct engine_options *o,
                  const struct ops *ops, const struct device *dev, const struct plan_memory *memory,
                  int n_stages, int n_tensor, struct status *st) MUST_CHECK;

/* What the ranks of one process have: devices beside each other, or parts of the host's memory. */
bool stages_memory(struct plan_memory memory[COMM_RANKS_MAX], const struct backend *backend,
                   const struct device *dev, const struct engine_options *o, int n_ranks,
                   struct status *st) MUST_CHECK;

/* Stages that the options ask for; of `auto` the fewest whose plans fit the devices of this
 * process, or the parts of the host's memory that max-memory names, with the whole context if any
 * number gives that; the others stay empty.  TOO_LARGE with the numbers of the most when none fits;
 * BAD_INPUT when max-memory names a rank that there is not. */
bool stages_choose(const struct engine_options *o, int *n_stages, struct status *st) MUST_CHECK;

#endif
