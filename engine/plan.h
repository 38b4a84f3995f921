/* plan.h - every byte the engine will take, counted before any is taken.
 *
 * Thread: any; pure. */
#ifndef ENGINE_PLAN_H
#define ENGINE_PLAN_H

#include "base/buf.h"
#include "base/status.h"
#include "engine/engine.h"

struct model_file;

struct plan {
    uint64_t weight_bytes;  /* as the device holds them */
    uint64_t kv_bytes, kv_block_bytes;
    uint64_t activation_bytes, scratch_bytes, slot_bytes;
    uint64_t total_bytes, available_bytes;
    struct step_limits limits;
    enum dtype kv_dtype;
};

/* The table `inferd check MODEL` prints and the log shows at start: one line per item with bytes,
 * what decided it, and the limits that follow (context, blocks, concurrent sequences). */
void plan_print(const struct plan *p, struct buf *out);

#endif
