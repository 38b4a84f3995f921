/* plan.h - every byte the engine will take, counted before any is taken.
 *
 * Thread: any; pure. */
#ifndef ENGINE_PLAN_H
#define ENGINE_PLAN_H

#include "base/buf.h"
#include "base/status.h"
#include "engine/engine.h"
#include "engine/plan_weights.h"
#include "kernels/ops.h"

struct model_file;

struct plan {
    uint64_t weight_bytes; /* as the device holds them */
    struct plan_weights weights;
    uint64_t kv_bytes, kv_block_bytes;
    uint64_t activation_bytes, work_bytes; /* work: of the ops */
    uint64_t slot_bytes, record_bytes;     /* on the host */
    uint64_t total_bytes;
    uint64_t device_bytes; /* of them on the device; all, where host and device are one pool */
    uint64_t available_bytes; /* what the device had for them */
    struct step_limits limits;
    struct device_limits device;
    enum dtype act_dtype, kv_dtype;
    bool widened; /* weights lie on the device as f32, whatever the file has */
    enum precision precision;
    const char *kv_from, *context_from; /* what decided them, for people */
    int32_t rank;    /* that it is for */
    bool is_capped;  /* by max-memory */
    bool is_shorter; /* than asked for is the context, for want of cache */
    int32_t n_ranks; /* that share the model; 0 = it is whole, else all of the above is of one rank */
};

struct plan_rank { /* what a rank tells the others of its plan */
    int32_t rank, n_blocks;
    int32_t stage, n_stages, layer_first, n_layers;
    int32_t n_heads, n_kv_heads, ffn, n_tokens; /* that it has of the model */
    uint64_t weight_bytes, kv_bytes, device_bytes, total_bytes;
    uint64_t step_weight_bytes; /* filled in once the weights are there */
};

/* Options as numbers; BAD_INPUT names the one that is out of range. */
bool plan_device_options(const struct model_file *f, const struct engine_options *o,
                         struct device_options *out, struct status *st) MUST_CHECK;

/* Options that were set and do nothing on the device that was found ("cpu", "cuda"), or for want of
 * a second rank, by name with commas between: to be told.  Those of another device than a named one
 * are refused. */
void plan_idle_options(const struct engine_options *o, const char *device, int n_ranks,
                       struct buf *names);

struct plan_memory { /* bytes that a rank may take */
    uint64_t device;
    uint64_t host;  /* where that is another pool */
    int32_t rank;   /* whose they are, for people */
    bool is_capped; /* `device` is what max-memory says, not what is free */
};

/* Of a device's memory, what inferd may use: gpu-memory, or its default. */
double plan_memory_share(const struct engine_options *o);

/* What is left for rank `rank` of n: ranks whose device memory is the host's have a part of it each.
 * cap: of max-memory; 0 = none. */
struct plan_memory plan_memory_of(const struct ops *ops, uint64_t free_bytes, int rank, int n_ranks,
                                  uint64_t cap);

/* UNSUPPORTED when such devices cannot divide a model so, or not with these options, whatever the
 * model: what n_tensor ranks of each of n_stages can ask before they meet. */
bool plan_check_ranks(const struct engine_options *o, const struct ops *ops, int n_tensor,
                      int n_stages, struct status *st) MUST_CHECK;

/* What does not depend on which layers a stage has: bytes beside weights and cache, and those of the
 * cache that a layer is to have at least, so that what the options ask for fits. */
bool plan_shares(const struct model_file *f, const struct engine_options *o, const struct ops *ops,
                 const struct device *dev, uint64_t *rest, uint64_t *kv_layer,
                 struct status *st) MUST_CHECK;

/* UNSUPPORTED when the device has no kernels for the model's sizes, whatever memory there is.
 * TOO_LARGE with the numbers when the model, or one request of context_max tokens, does not fit;
 * and with the options that would make it fit, of those that are left open: a scheme for the
 * layers, one for the head, a cache of 8 bits. */
bool plan_make(struct plan *p, const struct model_file *f, const struct engine_options *o,
               const struct ops *ops, const struct device *dev, struct plan_memory available,
               struct status *st) MUST_CHECK;

/* Head of the table below: the device, and why it is not a GPU where it could have been one. */
void plan_print_device(const struct backend *b, const struct device *dev,
                       const struct status *against_cuda, struct buf *out);
/* The table `inferd check MODEL` prints and the log shows at start: one line per item with bytes,
 * what decided it, the total of what lies on the device, and the limits that follow (context,
 * blocks, concurrent sequences). */
void plan_print(const struct plan *p, struct buf *out);

struct plan_rank plan_rank(const struct plan *p, const struct model_file *f);
/* And a line for each of the n ranks. */
void plan_print_ranks(const struct plan_rank *r, int n, struct buf *out);

#endif
