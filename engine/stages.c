/* stages.c - how many stages, and where they are cut. */
#include "engine/stages.h"

#include "engine/quant_load.h"
#include "engine/shard.h"
#include "kernels/backend.h"

static int at_least_one(int n)
{
    return n > 1 ? n : 1;
}

bool stages_place(struct placement *p, const struct model_file *f, const struct engine_options *o,
                  const struct ops *ops, const struct device *dev, const struct plan_memory *memory,
                  int n_stages, int n_tensor, struct status *st)
{
    uint64_t rest, kv_layer, room[STAGES_MAX];
    struct place_costs costs;
    struct model_file divided = *f;
    divided.cfg.n_stages = n_stages; /* which decides how many sequences there are */
    if (!plan_shares(&divided, o, ops, dev, &rest, &kv_layer, st))
        return false;
    if (!place_count(&costs, f, ops, dev, kv_layer))
        return status_fail(st, STATUS_TOO_LARGE, "the weights do not fit the address space");
    for (int s = 0; s < n_stages && s < STAGES_MAX; s++) {
        room[s] = UINT64_MAX;
        for (int i = s * n_tensor; i < (s + 1) * n_tensor; i++) {
            const uint64_t left = memory[i].device > rest ? memory[i].device - rest : 0;
            room[s] = left < room[s] ? left : room[s];
        }
    }
    return place_layers(p, &costs, room, n_stages, st);
}

/* What is free on each device that there is; all the same where they are one pool. */
static int count_free(const struct backend *backend, const struct device *dev,
                      const struct engine_options *o, uint64_t free_bytes[COMM_RANKS_MAX])
{
    const struct device_options options = {.index = o->device_index,
                                           .memory_share = plan_memory_share(o)};
    const uint64_t here = backend->ops->mem_free(dev);
    int n = 1;
    for (int i = 0; i < COMM_RANKS_MAX; i++)
        free_bytes[i] = here;
    if (!backend->ops->host_memory && backend->memory)
        n = backend->memory(&options, free_bytes, COMM_RANKS_MAX);
    return n < COMM_RANKS_MAX ? n : COMM_RANKS_MAX;
}

bool stages_memory(struct plan_memory memory[COMM_RANKS_MAX], const struct backend *backend,
                   const struct device *dev, const struct engine_options *o, int n_ranks,
                   struct status *st)
{
    uint64_t cap[COMM_RANKS_MAX], free_bytes[COMM_RANKS_MAX];
    int n_caps;
    if (!place_caps_read(o->max_memory, cap, &n_caps, st))
        return false;
    count_free(backend, dev, o, free_bytes);
    for (int i = 0; i < n_ranks; i++)
        memory[i] = plan_memory_of(backend->ops, free_bytes[i], i, n_ranks, cap[i]);
    return true;
}

/* ---- auto ---- */

struct choice {
    const struct engine_options *o;
    const struct backend *backend;
    struct device *dev;
    struct model_file file; /* the first rank's part of each layer */
    bool whole_context;     /* a request of it must fit */
};

static bool plan_fits(const struct choice *c, const struct model_file *f, struct plan_memory memory,
                      struct status *st)
{
    struct plan plan;
    return plan_make(&plan, f, c->o, c->backend->ops, c->dev, memory, st) &&
           (!plan.is_shorter || !c->whole_context ||
            status_fail(st, STATUS_TOO_LARGE, "the context does not fit"));
}

static bool stage_fits(const struct choice *c, const struct placement *p, int stage,
                       const struct plan_memory *memory, struct status *st)
{
    struct model_file view;
    if (!place_view(&view, &c->file, p, stage, st))
        return false;
    const bool fits = plan_fits(c, &view, memory[stage], st) ||
                      status_wrap(st, "layer-split auto: stage %d of %d, layers %d to %d", stage,
                                  p->n_stages, p->first[stage], p->first[stage + 1] - 1);
    place_view_close(&view);
    return fits;
}

/* Whether n stages of n_tensor ranks fit. */
static bool stages_fit(const struct choice *c, int n, int n_tensor, struct status *st)
{
    struct plan_memory memory[COMM_RANKS_MAX], of_stage[STAGES_MAX];
    struct placement p;
    if (!stages_memory(memory, c->backend, c->dev, c->o, n * n_tensor, st))
        return false;
    if (n == 1)
        return plan_fits(c, &c->file, memory[0], st);
    if (!stages_place(&p, &c->file, c->o, c->backend->ops, c->dev, memory, n, n_tensor, st))
        return false;
    for (int s = 0; s < n; s++) { /* by the rank of it that has the least */
        of_stage[s] = memory[s * n_tensor];
        for (int i = 1; i < n_tensor; i++)
            if (memory[s * n_tensor + i].device < of_stage[s].device)
                of_stage[s] = memory[s * n_tensor + i];
    }
    for (int s = 0; s < n; s++)
        if (!stage_fits(c, &p, s, of_stage, st))
            return false;
    return true;
}

/* Stages that the devices can make, at most. */
static bool count_most(const struct choice *c, int *n, struct status *st)
{
    uint64_t cap[COMM_RANKS_MAX], free_bytes[COMM_RANKS_MAX];
    const int n_tensor = at_least_one(c->o->tensor_parallel);
    int n_caps;
    if (!place_caps_read(c->o->max_memory, cap, &n_caps, st))
        return false;
    const int n_free = count_free(c->backend, c->dev, c->o, free_bytes);
    const bool is_host = c->backend->ops->host_memory;
    const int n_devices = is_host ? at_least_one(n_caps) : n_free;
    *n = at_least_one(n_devices / n_tensor);
    if (*n > c->file.cfg.n_layers)
        *n = c->file.cfg.n_layers;
    return true;
}

static bool choose_of(const struct choice *c, int n_max, int *n_stages, struct status *st)
{
    for (*n_stages = 1; *n_stages <= n_max; ++*n_stages) {
        *st = (struct status){0};
        if (stages_fit(c, *n_stages, at_least_one(c->o->tensor_parallel), st))
            return true;
        if (st->code != STATUS_TOO_LARGE)
            return false;
    }
    return false;
}

/* Those that hold a request of the whole context; if none do, those that hold a shorter one. */
static bool choose(struct choice *c, int *n_stages, struct status *st)
{
    int n_max;
    if (!count_most(c, &n_max, st))
        return false;
    c->whole_context = true;
    if (choose_of(c, n_max, n_stages, st))
        return true;
    c->whole_context = false;
    return st->code == STATUS_TOO_LARGE && choose_of(c, n_max, n_stages, st);
}

static bool open_choice(struct choice *c, struct status *st)
{
    struct device_options options;
    struct status against_cuda;
    const struct engine_options *o = c->o;
    const bool ok = o->random_weights ? model_file_open_random(&c->file, o->model_path, st)
                                      : model_file_open(&c->file, o->model_path, st);
    if (!ok || !plan_device_options(&c->file, o, &options, st))
        return false;
    c->dev = backend_open(o->device, &options, &c->backend, &against_cuda, st);
    return c->dev && shard_model(&c->file, 0, at_least_one(o->tensor_parallel), st) &&
           quant_load_apply(&c->file, o, st);
}

static bool check_caps(const struct engine_options *o, int n_ranks, struct status *st)
{
    uint64_t cap[COMM_RANKS_MAX];
    int n_caps;
    return place_caps_read(o->max_memory, cap, &n_caps, st) &&
           (n_caps <= n_ranks ||
            status_fail(st, STATUS_BAD_INPUT, "max-memory: device %d is not one of the %d used",
                        n_caps - 1, n_ranks));
}

bool stages_choose(const struct engine_options *o, int *n_stages, struct status *st)
{
    struct choice c = {.o = o};
    *n_stages = at_least_one(o->layer_split);
    if (o->layer_split != ENGINE_SPLIT_AUTO)
        return check_caps(o, *n_stages * at_least_one(o->tensor_parallel), st);
    const bool ok = open_choice(&c, st) && choose(&c, n_stages, st);
    if (c.dev)
        c.backend->ops->close(c.dev);
    model_file_close(&c.file);
    return ok || status_wrap(st, "load model");
}
