/* runner.c - plan, load, and then step after step: slots, forward, heads, samples. */
#include "engine/runner.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/arena.h"
#include "base/checked.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/memory.h"
#include "engine/decoder.h"
#include "engine/model_hash.h"
#include "engine/place.h"
#include "engine/plan.h"
#include "engine/quant_load.h"
#include "engine/shard.h"
#include "engine/slots.h"
#include "engine/stages.h"
#include "kernels/backend.h"
#include "kernels/comm.h"
#include "kernels/half.h"

struct flight_row { /* what the result will say of a row */
    int32_t slot, n_scores, n_tokens;
};

struct flight { /* a step that was submitted and is not answered */
    uint64_t id, submit_ns;
    int32_t n_rows, n_heads;
    struct flight_row *row; /* [seqs_max] */
};

struct runner {
    const struct backend *backend;
    const struct ops *ops;
    struct device *dev;
    struct status against_cuda; /* why it is not a GPU with device `auto` */
    struct comm *comm; /* not owned; of the ranks that divide its layers; NULL <=> the only one */
    struct comm *grid; /* not owned; of all ranks of all stages; NULL <=> the only stage */
    struct placement placement;
    struct plan_rank rank[COMM_RANKS_MAX]; /* what each rank planned, once they agreed */
    struct model model;
    struct decoder decoder;
    struct plan plan;
    struct slots slots;
    struct engine_facts facts;
    void *host; /* slots and flights */

    struct flight flight[ENGINE_DEPTH_MAX]; /* step n is in n % depth */
    int depth;
    uint64_t n_submitted, n_waited, n_answered;
    struct sample_out *out; /* [slots_heads_max] of the step being answered, by rows */
    uint64_t answered_ns;   /* the last result's end */
};

_Static_assert((int)ENGINE_DEPTH <= (int)DEVICE_DEPTH, "a device runs as far ahead as steps come");

enum { HOST_ALIGN = 64, LOAD_WAIT_MS = 580000 /* for the slowest rank, while models load */ };

/* Opening. */

static size_t flight_bytes(const struct step_limits *l)
{
    const size_t n = (size_t)l->seqs_max * sizeof(struct flight_row);
    return (n + HOST_ALIGN - 1) / HOST_ALIGN * HOST_ALIGN;
}

bool runner_host_bytes(const struct step_limits *limits, size_t *n_bytes)
{
    size_t outs;
    return slots_bytes(limits, n_bytes) &&
           size_align(slots_heads_max(limits) * sizeof(struct sample_out), HOST_ALIGN, &outs) &&
           size_add(*n_bytes, outs, n_bytes) &&
           size_add(*n_bytes, (size_t)engine_depth(limits) * flight_bytes(limits), n_bytes);
}

/* Of all that take part in a step; NULL <=> this one alone. */
static struct comm *all_of(const struct runner *r)
{
    return r->grid ? r->grid : r->comm;
}

static int count_all(const struct runner *r)
{
    return all_of(r) ? comm_size(all_of(r)) : 1;
}

static int count_tensor(const struct runner *r)
{
    return r->comm ? comm_size(r->comm) : 1;
}

/* Ranks that are processes were started one by one: they may not be alike. */
static bool agree(struct runner *r, const char *what, uint64_t value, struct status *st)
{
    struct comm *all = all_of(r);
    return !all || comm_agree(all, what, value) || comm_ok(all, st);
}

static uint64_t hash_text(const char *s, uint64_t h)
{
    return s ? hash64(s, strlen(s), h) : h;
}

/* What decides bits; the sizes are compared as the plan has them. */
static uint64_t hash_options(const struct engine_options *o)
{
    const char *const texts[] = {o->cpu_precision, o->kv_dtype,      o->dtype,
                                 o->quantize,      o->quantize_head, o->quantize_skip};
    uint64_t h = (uint64_t)o->random_weights + 2 * (uint64_t)o->no_peer_memory;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        h = hash_text(texts[i], h + i);
    return h;
}

static bool agree_on_start(struct runner *r, const struct model_file *f,
                           const struct engine_options *o, struct status *st)
{
    return !all_of(r) ||
           (agree(r, "the version of inferd", hash_text(INFERD_VERSION, OPS_ABI), st) &&
            agree(r, "the model's configuration", model_hash_config(f), st) &&
            agree(r, "the model's weights", model_hash_weights(f), st) &&
            agree(r, "the options", hash_options(o), st));
}

static bool open_file(struct runner *r, struct model_file *f, const struct engine_options *o,
                      struct status *st)
{
    const bool ok = o->random_weights ? model_file_open_random(f, o->model_path, st)
                                      : model_file_open(f, o->model_path, st);
    return ok && agree_on_start(r, f, o, st);
}

static bool cut_tensors(const struct runner *r, struct model_file *f,
                        const struct engine_options *o, struct status *st)
{
    return (!r->comm || shard_model(f, comm_rank(r->comm), comm_size(r->comm), st)) &&
           quant_load_apply(f, o, st);
}

static bool open_device(struct runner *r, const struct model_file *f,
                        const struct engine_options *o, struct status *st)
{
    struct device_options device;
    if (!plan_device_options(f, o, &device, st))
        return false;
    device.comm = r->comm;
    device.grid = r->grid;
    r->dev = backend_open(o->device, &device, &r->backend, &r->against_cuda, st);
    r->ops = r->dev ? r->backend->ops : NULL;
    return r->dev && agree(r, "the kind of device", hash_text(r->backend->variant(r->dev), 1), st);
}

/* n_bytes of each rank, from each to all. */
static bool share(struct runner *r, void *of_ranks, size_t n_bytes, struct status *st)
{
    size_t split[COMM_RANKS_MAX + 1];
    const int n = count_all(r);
    for (int i = 0; i <= n; i++)
        split[i] = (size_t)i * n_bytes;
    return comm_all_gather(all_of(r), of_ranks, 1, split[n], split) || comm_ok(all_of(r), st);
}

/* What the ranks planned. */
static bool share_plan(struct runner *r, const struct plan_rank *mine, struct status *st)
{
    r->rank[comm_rank(all_of(r))] = *mine;
    return share(r, r->rank, sizeof *r->rank, st);
}

/* What this rank's device may hold. */
static bool count_memory(const struct runner *r, const struct engine_options *o,
                         struct plan_memory *available, struct status *st)
{
    uint64_t cap[COMM_RANKS_MAX];
    int n_caps;
    const int rank = all_of(r) ? comm_rank(all_of(r)) : 0;
    if (!place_caps_read(o->max_memory, cap, &n_caps, st))
        return false;
    *available = plan_memory_of(r->ops, r->ops->mem_free(r->dev), rank, count_all(r), cap[rank]);
    return true;
}

/* The first rank places the layers, by what each has. */
static bool agree_on_placement(struct runner *r, const struct model_file *f,
                               const struct engine_options *o, const struct plan_memory *mine,
                               struct status *st)
{
    struct plan_memory memory[COMM_RANKS_MAX];
    const int rank = comm_rank(r->grid), n_tensor = count_tensor(r);
    memory[rank] = *mine;
    if (!share(r, memory, sizeof *memory, st))
        return false;
    if (rank == 0 && !stages_place(&r->placement, f, o, r->ops, r->dev, memory,
                                   comm_size(r->grid) / n_tensor, n_tensor, st))
        return false;
    return comm_broadcast(r->grid, &r->placement, sizeof r->placement, 0) || comm_ok(r->grid, st);
}

/* The weights that this stage has of f, which must stay. */
static bool take_stage(struct runner *r, const struct model_file *f, const struct engine_options *o,
                       const struct plan_memory *mine, struct model_file *view, struct status *st)
{
    if (r->grid)
        return agree_on_placement(r, f, o, mine, st) &&
               place_view(view, f, &r->placement, comm_rank(r->grid) / count_tensor(r), st);
    r->placement = (struct placement){.n_stages = 1, .first = {0, f->cfg.n_layers}};
    return place_view(view, f, &r->placement, 0, st);
}

static int32_t least_blocks(const struct runner *r)
{
    int32_t least = INT32_MAX;
    for (int i = 0; i < count_all(r); i++)
        if (r->rank[i].n_blocks < least)
            least = r->rank[i].n_blocks;
    return least;
}

/* All ranks have a block, or none has. */
static bool agree_on_plan(struct runner *r, const struct model_file *f,
                          const struct engine_options *o, struct plan_memory available,
                          struct status *st)
{
    struct engine_options agreed = *o;
    const char *kv_from = r->plan.kv_from;
    struct plan_rank mine = plan_rank(&r->plan, f);
    if (!share_plan(r, &mine, st))
        return false;
    agreed.kv_blocks = least_blocks(r);
    if (!plan_make(&r->plan, f, &agreed, r->ops, r->dev, available, st))
        return false;
    r->plan.kv_from = kv_from;
    mine = plan_rank(&r->plan, f);
    return share_plan(r, &mine, st) && /* as they are now, for who is told */
           agree(r, "the limits of a step",
                 hash64(&r->plan.limits, sizeof r->plan.limits, (uint64_t)r->plan.kv_dtype), st);
}

static bool make_plan(struct runner *r, const struct model_file *f, const struct engine_options *o,
                      struct plan_memory available, struct status *st)
{
    return plan_make(&r->plan, f, o, r->ops, r->dev, available, st) &&
           (!all_of(r) || agree_on_plan(r, f, o, available, st));
}

static bool take_cache(struct runner *r, struct status *st)
{
    const struct model_config *cfg = &r->model.cfg;
    struct kv_cache *kv = &r->decoder.kv;
    *kv = (struct kv_cache){
        .dtype = r->plan.kv_dtype,
        .n_layers = cfg->n_layers,
        .n_blocks = r->plan.limits.n_blocks,
        .block_tokens = r->plan.limits.block_tokens,
        .n_kv_heads = cfg->n_kv_heads,
        .head_dim = cfg->head_dim,
    };
    kv->k = r->ops->mem_take(r->dev, kv_bytes(kv), st);
    kv->v = kv->k ? r->ops->mem_take(r->dev, kv_bytes(kv), st) : NULL;
    if (!kv->v || !kv_has_scales(kv->dtype))
        return kv->v != NULL;
    kv->k_scale = r->ops->mem_take(r->dev, kv_scale_bytes(kv), st);
    kv->v_scale = kv->k_scale ? r->ops->mem_take(r->dev, kv_scale_bytes(kv), st) : NULL;
    return kv->v_scale != NULL;
}

static bool take_activations(struct runner *r, struct status *st)
{
    struct arena arena;
    void *at = r->ops->mem_take(r->dev, (size_t)r->plan.activation_bytes, st);
    if (!at)
        return false;
    arena_init(&arena, at, (size_t)r->plan.activation_bytes);
    r->decoder.ops = r->ops;
    r->decoder.dev = r->dev;
    r->decoder.model = &r->model;
    if (!decoder_init(&r->decoder, &r->plan.limits, &arena))
        return status_fail(st, STATUS_TOO_LARGE, "activations need more than was planned");
    void *work = r->ops->mem_take(r->dev, (size_t)r->plan.work_bytes, st);
    return work && r->ops->work_set(r->dev, &r->plan.device, work, st);
}

static bool take_slots(struct runner *r, struct status *st)
{
    const struct step_limits *l = &r->plan.limits;
    struct arena arena;
    r->host = aligned_alloc(HOST_ALIGN, (size_t)r->plan.slot_bytes);
    if (!r->host)
        return status_fail(st, STATUS_BUSY, "no memory for %d slots", l->seqs_max);
    memset(r->host, 0, (size_t)r->plan.slot_bytes);
    arena_init(&arena, r->host, (size_t)r->plan.slot_bytes);
    r->out = arena_take(&arena, slots_heads_max(l) * sizeof *r->out, HOST_ALIGN);
    bool ok = r->out && slots_init(&r->slots, l, &arena);
    r->depth = engine_depth(l);
    for (int i = 0; ok && i < r->depth; i++) {
        r->flight[i].row = arena_take(&arena, flight_bytes(l), HOST_ALIGN);
        ok = r->flight[i].row != NULL;
    }
    return ok || status_fail(st, STATUS_TOO_LARGE, "slots need more than was planned");
}

static void print_plan(struct runner *r)
{
    struct buf table;
    buf_init(&table, sizeof r->facts.plan - 1);
    plan_print_device(r->backend, r->dev, &r->against_cuda, &table);
    plan_print(&r->plan, &table);
    if (all_of(r))
        plan_print_ranks(r->rank, count_all(r), &table);
    if (!table.failed)
        memcpy(r->facts.plan, table.at, table.n);
    buf_close(&table);
}

static uint64_t step_weight_bytes(const struct runner *r)
{
    const struct tensor *embed = r->model.w[W_EMBED];
    const bool is_head = embed == r->model.w[W_LM_HEAD] && model_is_last_stage(&r->model.cfg);
    if (!embed || is_head)
        return r->plan.weight_bytes;
    return r->plan.weight_bytes - r->ops->weight_bytes(r->dev, embed);
}

static void set_wait(const struct runner *r, int64_t wait_ms)
{
    if (r->comm)
        comm_wait_set(r->comm, wait_ms);
    if (r->grid)
        comm_wait_set(r->grid, wait_ms);
}

/* Every rank is loaded, or none is. */
static bool meet_loaded(struct runner *r, const struct model_file *f, struct status *st)
{
    struct plan_rank mine = plan_rank(&r->plan, f);
    mine.step_weight_bytes = step_weight_bytes(r);
    if (!all_of(r)) {
        r->rank[0] = mine;
        return true;
    }
    const bool ok = share_plan(r, &mine, st);
    set_wait(r, COMM_WAIT_MS);
    return ok;
}

/* What is known before any weight is read. */
static void tell_plan(struct runner *r, const struct model_file *f, const struct load_watch *watch)
{
    struct engine_facts *facts = &r->facts;
    *facts = (struct engine_facts){.limits = r->plan.limits, .n_ranks = count_all(r)};
    snprintf(facts->arch, sizeof facts->arch, "%s", f->arch->gguf_name);
    snprintf(facts->device, sizeof facts->device, "%s", r->ops->name);
    snprintf(facts->isa, sizeof facts->isa, "%s", r->backend->variant(r->dev));
    snprintf(facts->activations, sizeof facts->activations, "%s",
             dtype_traits[r->plan.act_dtype].name);
    snprintf(facts->kv_dtype, sizeof facts->kv_dtype, "%s", dtype_traits[r->plan.kv_dtype].name);
    print_plan(r);
    if (watch->planned)
        watch->planned(watch->ctx, facts);
}

static void add_up_ranks(struct runner *r, uint64_t load_ms)
{
    struct engine_facts *facts = &r->facts;
    facts->load_ms = load_ms;
    for (int i = 0; i < facts->n_ranks; i++) {
        facts->weight_bytes += r->rank[i].weight_bytes;
        facts->kv_bytes += r->rank[i].kv_bytes;
        facts->total_bytes += r->rank[i].total_bytes;
        facts->step_weight_bytes += r->rank[i].step_weight_bytes;
    }
}

static bool load(struct runner *r, const struct model_file *f, const struct engine_options *o,
                 struct plan_memory available, const struct load_watch *watch, struct status *st)
{
    const struct load_progress progress = {watch->progress, watch->ctx};
    if (!make_plan(r, f, o, available, st))
        return false;
    tell_plan(r, f, watch);
    return model_load(&r->model, f, r->ops, r->dev, &progress, st) && take_cache(r, st) &&
           take_activations(r, st) && take_slots(r, st) && meet_loaded(r, f, st);
}

struct runner *runner_open(const struct engine_options *o, struct comm *comm, struct comm *grid,
                           const struct load_watch *watch, struct status *st)
{
    static const struct load_watch nobody;
    const uint64_t start = clock_now(&clock_real);
    struct model_file file = {0}, view = {0};
    struct plan_memory available;
    struct runner *r = calloc(1, sizeof *r);
    if (!r) {
        status_fail(st, STATUS_BUSY, "no memory for a runner");
        return NULL;
    }
    r->comm = comm;
    r->grid = grid;
    set_wait(r, LOAD_WAIT_MS);
    const bool ok = open_file(r, &file, o, st) && open_device(r, &file, o, st) &&
                    cut_tensors(r, &file, o, st) && count_memory(r, o, &available, st) &&
                    take_stage(r, &file, o, &available, &view, st) &&
                    load(r, &view, o, available, watch ? watch : &nobody, st);
    if (ok)
        add_up_ranks(r, (clock_now(&clock_real) - start) / NS_PER_MS);
    place_view_close(&view);
    model_file_close(&file);
    if (ok)
        return r;
    status_wrap(st, "load model");
    runner_close(r);
    return NULL;
}

void runner_close(struct runner *r)
{
    if (!r)
        return;
    model_close(&r->model);
    if (r->dev)
        r->ops->close(r->dev);
    free(r->host);
    free(r);
}

const struct engine_facts *runner_facts(const struct runner *r)
{
    return &r->facts;
}

/* Stepping. */

static struct flight *flight_of(struct runner *r, uint64_t n)
{
    return &r->flight[n % (uint64_t)r->depth];
}

static void note_flight(struct flight *f, const struct step *step)
{
    const struct step_row *row = step_rows(step);
    f->id = step->id;
    f->n_rows = step->n_rows;
    f->n_heads = 0;
    for (int32_t i = 0; i < step->n_rows; i++) {
        f->row[i] = (struct flight_row){.slot = row[i].slot,
                                        .n_scores = step_row_scores(&row[i]),
                                        .n_tokens = row[i].flags & ROW_SAMPLE ? 1 : 0};
        f->n_heads += f->row[i].n_scores + f->row[i].n_tokens;
    }
}

/* Each row goes on from one generated token and samples once: all such steps of a width ask for
 * the same ops. */
static bool only_decodes(const struct step *step, const struct batch *b, int32_t heads_max)
{
    const struct step_row *row = step_rows(step);
    if (b->n_tokens == 0 || b->n_tokens > heads_max || b->n_tokens != b->n_seqs ||
        b->n_heads != b->n_seqs)
        return false;
    for (int32_t i = 0; i < step->n_rows; i++) {
        const bool generated =
            (row[i].flags & ROW_TOKEN_SAMPLED) || row[i].position >= b->n_prompt[i];
        if (!generated || !(row[i].flags & ROW_SAMPLE) || step_row_scores(&row[i]) > 0)
            return false;
    }
    return true;
}

static void run_ops(struct runner *r, const struct batch *b)
{
    const int32_t heads_max = r->plan.device.heads_max;
    if (b->n_tokens == 0)
        return;
    decoder_forward(&r->decoder, b->n_tokens);
    for (int32_t first = 0; first < b->n_heads; first += heads_max) {
        const int32_t left = b->n_heads - first, n = left < heads_max ? left : heads_max;
        decoder_head(&r->decoder, first, n);
        r->ops->sample(r->dev, &(struct sample_args){.logits = r->decoder.logits,
                                                     .first = first,
                                                     .n = n,
                                                     .vocab = r->model.cfg.vocab});
    }
}

bool runner_submit(struct runner *r, const struct step *step, struct status *st)
{
    struct flight *f = flight_of(r, r->n_submitted);
    struct batch batch;
    assert(r->n_submitted - r->n_waited < DEVICE_DEPTH);
    f->submit_ns = clock_now(&clock_real);
    if (!slots_apply(&r->slots, step, &batch, st))
        return false;
    note_flight(f, step);
    const bool may_record = only_decodes(step, &batch, r->plan.device.heads_max);
    if (!model_is_last_stage(&r->model.cfg))
        batch.n_heads = 0;
    const uint64_t shape = may_record ? (uint64_t)batch.n_tokens : 0;
    if (!r->ops->step_begin(r->dev, &batch, shape))
        run_ops(r, &batch);
    r->ops->step_end(r->dev);
    r->n_submitted++;
    return true;
}

int runner_n_flying(const struct runner *r)
{
    return (int)(r->n_submitted - r->n_waited);
}

int runner_n_unanswered(const struct runner *r)
{
    return (int)(r->n_submitted - r->n_answered);
}

bool runner_ready(struct runner *r)
{
    return r->ops->step_ready(r->dev);
}

/* What a step found, in one number. */
static uint64_t digest(const struct sample_out *out, int32_t n)
{
    uint64_t h = 0;
    for (int32_t i = 0; i < n; i++) {
        const uint32_t value[2] = {(uint32_t)out[i].id, f32_to_bits(out[i].logprob)};
        h = hash64(value, sizeof value, h);
    }
    return h;
}

/* Each rank goes on from its own samples, so they must be the same.  They are, unless a machine
 * computes wrongly or ranks were built differently; then an end is better than a wrong answer. */
static bool agree_on_samples(struct runner *r, const struct flight *f, struct status *st)
{
    return !r->comm || comm_agree(r->comm, "the samples of a step", digest(r->out, f->n_heads)) ||
           comm_ok(r->comm, st);
}

bool runner_wait(struct runner *r, struct status *st)
{
    assert(r->n_waited < r->n_submitted);
    const struct flight *f = flight_of(r, r->n_waited++);
    return r->ops->step_wait(r->dev, r->out, st) &&
           (!model_is_last_stage(&r->model.cfg) || agree_on_samples(r, f, st));
}

struct sample_out *runner_outs(struct runner *r, int32_t *n)
{
    assert(r->n_answered < r->n_submitted);
    *n = flight_of(r, r->n_answered)->n_heads;
    return r->out;
}

void runner_answered(struct runner *r)
{
    r->n_answered++;
}

/* Adds n outs to the result, and says whether any is a NaN.  A row with a NaN fails alone: its
 * slot goes on from token 0 until the scheduler ends it. */
static bool put_outs(struct sample_out *to, const struct sample_out *from, int32_t n,
                     int32_t *status)
{
    if (!to)
        return false;
    memcpy(to, from, (size_t)n * sizeof *to);
    for (int32_t i = 0; i < n; i++)
        if (from[i].fault != SAMPLE_OK)
            *status = ROW_FAILED_NAN;
    return true;
}

/* The row and what its heads found, from `out` on. */
static bool put_row(struct result_builder *b, const struct flight_row *row,
                    const struct sample_out *out)
{
    struct step_result_row *to = step_result_add_row(b);
    if (!to)
        return false;
    to->slot = row->slot;
    if (row->n_scores > 0) {
        to->first_score = b->result->n_scores;
        to->n_scores = row->n_scores;
        if (!put_outs(step_result_add_scores(b, row->n_scores), out, row->n_scores, &to->status))
            return false;
    }
    if (row->n_tokens > 0) {
        to->first_token = b->result->n_tokens;
        to->n_tokens = row->n_tokens;
        if (!put_outs(step_result_add_tokens(b, row->n_tokens), out + row->n_scores, row->n_tokens,
                      &to->status))
            return false;
    }
    return true;
}

bool runner_result(struct runner *r, void *result, struct status *st)
{
    struct flight *f = flight_of(r, r->n_answered);
    struct result_builder b;
    const struct sample_out *out = r->out;
    assert(r->n_submitted > r->n_answered);
    step_result_begin(&b, result, &r->plan.limits, f->id);
    for (int32_t i = 0; i < f->n_rows; i++) {
        if (!put_row(&b, &f->row[i], out))
            return status_fail(st, STATUS_CORRUPT, "step %llu asks for more than a result holds",
                               (unsigned long long)f->id);
        out += f->row[i].n_scores + f->row[i].n_tokens;
    }
    const uint64_t end = clock_now(&clock_real);
    b.result->run_ns = end - (f->submit_ns > r->answered_ns ? f->submit_ns : r->answered_ns);
    step_result_end(&b);
    r->answered_ns = end;
    runner_answered(r);
    return true;
}
