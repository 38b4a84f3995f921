/* stage.cu - packs a step on the host, and sends it. */
#include "kernels/cuda/stage.h"

#include <assert.h>
#include <string.h>

namespace {

size_t align_up(size_t n)
{
    return (n + STAGE_ALIGN - 1) / STAGE_ALIGN * STAGE_ALIGN;
}

/* Where the next n bytes of the stage are; the limits say that they fit. */
void *stage_take(stage *s, size_t n)
{
    void *at = s->host + s->n_used;
    s->n_used += align_up(n);
    assert(s->n_used <= s->n_bytes);
    return at;
}

void *stage_put(stage *s, const void *from, size_t n)
{
    void *at = stage_take(s, n);
    if (n > 0)
        memcpy(at, from, n);
    return at;
}

template <typename T> const T *on_device(const stage *s, const T *host)
{
    return reinterpret_cast<const T *>(s->device + (reinterpret_cast<const char *>(host) - s->host));
}

struct packed {
    const cuda_slot_set *set; /* these are host addresses in the stage */
    const int32_t *history;
    const sample_bias *bias;
    cuda_step step;
};

void add_segment(packed *p, const stage *s, const void *host, void *to, size_t n_bytes)
{
    const int32_t n = static_cast<int32_t>(n_bytes / sizeof(int32_t));
    if (n == 0)
        return;
    assert(p->step.n_segments < CUDA_SEGMENTS_MAX);
    p->step.segment[p->step.n_segments++] = {on_device(s, static_cast<const char *>(host)), to, n};
}

bool has_penalty(const sample_params *p)
{
    return p->presence != 0 || p->frequency != 0 || p->repetition != 1;
}

/* Histories matter to the device only for penalties: they go into its counts. */
void pack_slots(stage *s, packed *p, const batch *b)
{
    int32_t n_history = 0, n_bias = 0;
    cuda_slot_set *set = static_cast<cuda_slot_set *>(stage_take(s, b->n_slots * sizeof *set));
    for (int i = 0; i < b->n_slots; i++) {
        const batch_slot *from = &b->set[i];
        const bool counts = has_penalty(from->params);
        set[i] = {};
        set[i].slot.params = *from->params;
        set[i].slot.n_prompt = from->n_prompt;
        set[i].slot.n_bias = from->n_bias;
        set[i].slot.has_penalty = counts;
        set[i].index = from->slot;
        set[i].n_history = counts ? from->n_history : 0;
        set[i].first_history = n_history;
        set[i].first_bias = n_bias;
        n_history += set[i].n_history;
        n_bias += from->n_bias;
    }
    int32_t *history = static_cast<int32_t *>(stage_take(s, n_history * sizeof *history));
    sample_bias *bias = static_cast<sample_bias *>(stage_take(s, n_bias * sizeof *bias));
    for (int i = 0; i < b->n_slots; i++) {
        memcpy(history + set[i].first_history, b->set[i].history,
               set[i].n_history * sizeof *history);
        memcpy(bias + set[i].first_bias, b->set[i].bias, b->set[i].n_bias * sizeof *bias);
    }
    p->set = set;
    p->history = history;
    p->bias = bias;
}

void pack_out(device *d, stage *s, packed *p, sample_out *out)
{
    add_segment(p, s, stage_put(s, &out, sizeof out), d->sample_out, sizeof out);
}

void pack_tokens(device *d, stage *s, packed *p, const batch *b)
{
    const size_t n = b->n_tokens * sizeof(int32_t);
    const void *ids = stage_put(s, b->token_ids, n), *positions = stage_put(s, b->positions, n);
    add_segment(p, s, positions, d->batch.positions, n);
    int32_t *slot = static_cast<int32_t *>(stage_take(s, n));
    for (int t = 0; t < b->n_tokens; t++)
        slot[t] = b->slot[b->token_seq[t]];
    add_segment(p, s, slot, d->batch.token_slot, n);
    const size_t heads = b->n_heads * sizeof *b->head;
    add_segment(p, s, stage_put(s, b->head, heads), d->batch.head, heads);
    const void *block = stage_put(s, b->block, b->n_blocks * sizeof *b->block);
    p->step.n_tokens = b->n_tokens;
    p->step.n_blocks = b->n_blocks;
    p->step.token_ids = on_device(s, static_cast<const int32_t *>(ids));
    p->step.positions = on_device(s, static_cast<const int32_t *>(positions));
    p->step.token_slot = on_device(s, slot);
    p->step.block = on_device(s, static_cast<const batch_block *>(block));
}

void pack_attention(device *d, stage *s, packed *p, const batch *b)
{
    attention_plan *plan = &d->host_attention;
    void *at = stage_take(s, attention_plan_bytes(&d->limits));
    attention_plan_view(plan, &d->limits, at);
    const size_t n = attention_plan_make(plan, &d->limits, b);
    s->n_used = static_cast<size_t>(static_cast<char *>(at) - s->host) + align_up(n);
    add_segment(p, s, at, d->batch.attention.counts, n);
    d->batch.attention_host = plan;
    d->batch.has_tiles = plan->counts->n_tiles > 0;
    d->batch.has_items = plan->counts->n_items > 0;
    d->batch.n_waves = plan->counts->n_waves;
}

} // namespace

size_t stage_bytes(const device_limits *l)
{
    const size_t tokens = align_up(l->step_tokens_max * sizeof(int32_t));
    /* New tokens, and those that prefix hits bring, each with a block begun before. */
    const size_t blocks =
        ((size_t)l->step_tokens_max + l->history_max) / l->block_tokens + 2 * (size_t)l->seqs_max;
    return 3 * tokens + align_up(l->step_heads_max * sizeof(batch_head)) +
           align_up(sizeof(sample_out *)) +
           align_up(l->seqs_max * sizeof(cuda_slot_set)) +
           align_up((size_t)l->history_max * sizeof(int32_t)) +
           align_up((size_t)l->bias_max * sizeof(sample_bias)) +
           align_up(blocks * sizeof(batch_block)) + align_up(attention_plan_bytes(l));
}

bool stage_open(stage *s, const device_limits *l, void *device, status *st)
{
    *s = {};
    s->n_bytes = stage_bytes(l);
    s->device = static_cast<char *>(device);
    cudaError_t e = cudaHostAlloc(reinterpret_cast<void **>(&s->host), s->n_bytes, cudaHostAllocDefault);
    if (e == cudaSuccess)
        e = cudaEventCreateWithFlags(&s->copied, cudaEventDisableTiming);
    return e == cudaSuccess || status_fail(st, STATUS_DEVICE, "take %zu bytes to stage a step: %s",
                                           s->n_bytes, cudaGetErrorString(e));
}

void stage_close(stage *s)
{
    cudaFreeHost(s->host);
    if (s->copied)
        cudaEventDestroy(s->copied);
    *s = {};
}

void stage_send(device *d, stage *s, cudaStream_t copies, const batch *b, sample_out *out,
                cuda_step *step)
{
    packed p = {};
    s->n_used = 0;
    d->batch.n_tokens = b->n_tokens;
    d->batch.n_seqs = b->n_seqs;
    d->batch.n_heads = b->n_heads;
    pack_slots(s, &p, b);
    pack_out(d, s, &p, out);
    pack_tokens(d, s, &p, b);
    pack_attention(d, s, &p, b);
    cuda_check(d, cudaMemcpyAsync(s->device, s->host, s->n_used, cudaMemcpyHostToDevice, copies),
               "send the step");
    cuda_check(d, cudaEventRecord(s->copied, copies), "mark the step sent");
    cuda_check(d, cudaStreamWaitEvent(d->stream, s->copied, 0), "wait for the step");
    cuda_slots_set(d, on_device(s, p.set), b->n_slots, on_device(s, p.history),
                   on_device(s, p.bias));
    *step = p.step;
}
