/* plan_weights.h - what a model's weights take on a device, by how they are stored.
 *
 * Thread: any; pure. */
#ifndef ENGINE_PLAN_WEIGHTS_H
#define ENGINE_PLAN_WEIGHTS_H

#include "base/buf.h"
#include "kernels/ops.h"

struct model_file;
struct quant_choice;

enum { PLAN_KINDS_MAX = 8 };

struct plan_weights {
    struct plan_kind {
        char name[96]; /* a type or a scheme, for people; the last one may be "other types" */
        int n;         /* matrices */
        uint64_t n_bytes;
    } kind[PLAN_KINDS_MAX];
    int n_kinds;
    int n_vectors;
    uint64_t vector_bytes;
};

/* False when a size does not fit. */
bool plan_weights_count(struct plan_weights *w, const struct model_file *f, const struct ops *ops,
                        const struct device *dev) MUST_CHECK;

/* One line a kind. */
void plan_weights_print(const struct plan_weights *w, struct buf *out);

/* What all weights would take with those that c names in its schemes; 0 when one of them does not
 * fit its scheme or has codes already. */
uint64_t plan_weights_quantized(const struct model_file *f, const struct quant_choice *c,
                                const struct ops *ops, const struct device *dev);

#endif
