/* plan.h - every byte the engine will take, counted before any is taken.
 *
 * Thread: any; pure. */
#ifndef ENGINE_PLAN_H
#define ENGINE_PLAN_H

#include "base/buf.h"
#include "base/status.h"
#include "engine/engine.h"
#include "kernels/ops.h"

struct model_file;

struct plan {
    uint64_t weight_bytes; /* as the device holds them */
    uint64_t kv_bytes, kv_block_bytes;
    uint64_t activation_bytes, scratch_bytes, slot_bytes, record_bytes;
    uint64_t total_bytes, available_bytes;
    struct step_limits limits;
    enum dtype kv_dtype;
    enum precision precision;
    const char *kv_from, *context_from; /* what decided them, for people */
};

/* Options as numbers; BAD_INPUT names the one that is out of range. */
bool plan_device_options(const struct engine_options *o, struct device_options *out,
                         struct status *st) MUST_CHECK;

/* TOO_LARGE with the numbers when the model, or one request of context_max tokens, does not fit
 * into available_bytes. */
bool plan_make(struct plan *p, const struct model_file *f, const struct engine_options *o,
               const struct ops *ops, const struct device *dev, uint64_t available_bytes,
               struct status *st) MUST_CHECK;

/* The table `inferd check MODEL` prints and the log shows at start: one line per item with bytes,
 * what decided it, and the limits that follow (context, blocks, concurrent sequences). */
void plan_print(const struct plan *p, struct buf *out);

/* Memory this process may still take: the least of what the machine has and what each control
 * group above the process (versions 1 and 2) leaves.  Files in the page cache count as free.
 * `root` is "" but in tests.  UINT64_MAX when nothing can be read. */
uint64_t plan_available_bytes(const char *root);

#endif
