/* place.h - which layers each stage of a model has, by the bytes that devices may hold.
 *
 * A layer split cuts the layers into runs, one a stage.  The first stage also has the embedding,
 * the last one the final norm and the output; a tied table is in both.  A stage is one rank, or the
 * T ranks that divide its layers (shard.h): rank r is in stage r / T.
 *
 * place_layers() takes the cut whose fullest device is the least full: what a stage holds over what
 * its device may hold, at most, is as small as any cut makes it.
 *
 * place_view() shows one stage's layers as a model of their own, with a configuration of so many
 * layers, counted from 0: plan, load and forward treat it as a smaller model.
 *
 * Thread: one, at start. */
#ifndef ENGINE_PLACE_H
#define ENGINE_PLACE_H

#include "base/status.h"
#include "engine/model.h"

enum { STAGES_MAX = COMM_RANKS_MAX };

struct placement {
    int32_t n_stages;
    int32_t first[STAGES_MAX + 1]; /* stage s has the layers [first[s], first[s + 1]) */
};

struct place_costs { /* bytes */
    int32_t n_layers;
    uint64_t layer[LAYERS_MAX]; /* with its share of the cache */
    uint64_t first, last;       /* what the first and the last stage have besides */
};

/* kv_layer: bytes of cache that each layer is to have.  False when a size does not fit. */
bool place_count(struct place_costs *c, const struct model_file *f, const struct ops *ops,
                 const struct device *dev, uint64_t kv_layer) MUST_CHECK;
/* room: [n_stages] bytes that a device of the stage may hold.  UNSUPPORTED with more stages than
 * layers. */
bool place_layers(struct placement *p, const struct place_costs *c, const uint64_t *room,
                  int n_stages, struct status *st) MUST_CHECK;

/* The view shares all with f but the list of what is bound; f stays as long. */
bool place_view(struct model_file *view, const struct model_file *f, const struct placement *p,
                int stage, struct status *st) MUST_CHECK;
void place_view_close(struct model_file *view); /* accepts a zeroed one */

/* "0=20GiB,1=40GiB": cap[i] = what the device of rank i may hold; 0 = nothing is said of it.
 * *n = ranks up to the last named.  NULL and "" name none.  BAD_INPUT quotes what is wrong. */
bool place_caps_read(const char *text, uint64_t cap[COMM_RANKS_MAX], int *n,
                     struct status *st) MUST_CHECK;

#endif
