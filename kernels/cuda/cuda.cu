/* cuda.cu - the CUDA device: its memory, its steps, its recorded graphs, and its faults.
 *
 * The first failure of any call is kept and comes out of step_wait; most of them are sticky in the
 * driver too, so the process that owns the device ends with that reason and another takes over.
 * Memory is taken at start and goes back when the device closes. */
#include <assert.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/act8.h"
#include "kernels/cuda/archs.h"
#include "kernels/cuda/cuda_host.h"
#include "kernels/cuda/peers.h"
#include "kernels/cuda/scheme_wide_plan.h"

extern "C" {
#include "base/clock.h"
}

void cuda_check(device *d, cudaError_t e, const char *at)
{
    if (e == cudaSuccess || d->fault != cudaSuccess)
        return;
    d->fault = e;
    snprintf(d->fault_at, sizeof d->fault_at, "%s", at);
}

namespace {

const size_t ALIGN = 256;
const char ARCHS[] = INFERD_CUDA_ARCHS; /* cmake/cuda.cmake */

bool report(const device *d, status *st)
{
    if (d->fault == cudaSuccess)
        return true;
    status_fail(st, STATUS_DEVICE, "CUDA device %d: %s: %s", d->index, d->fault_at,
                cudaGetErrorString(d->fault));
    st->sys = d->fault;
    return false;
}

/* Opening and closing. */

void drop_graph(cuda_graph *g)
{
    if (g->exec)
        cudaGraphExecDestroy(g->exec);
    if (g->recorded)
        cudaGraphDestroy(g->recorded);
    *g = {};
}

void drop_graphs(cuda_host *h)
{
    for (int i = 0; i < GRAPHS_MAX; i++)
        drop_graph(&h->graph[i]);
}

/* The step in hand ends soon, and no other will run. */
void stop_ranks(device *d)
{
    drop_graphs(d->host);
    if (d->peers)
        peers_stop(d->peers);
    if (d->grid)
        peers_stop(d->grid);
}

/* The thread may be another rank's. */
void close_device(device *d)
{
    int current = 0;
    if (!d)
        return;
    cudaGetDevice(&current);
    cudaSetDevice(d->index);
    cuda_host *h = d->host;
    if (h)
        stop_ranks(d);
    if (d->stream)
        cudaStreamSynchronize(d->stream);
    if (h) {
        cuda_loader_close(h->loader);
        for (int i = 0; i < STAGES; i++) {
            stage_close(&h->stage[i]);
            cudaFreeHost(h->flight[i].out);
            if (h->flight[i].done)
                cudaEventDestroy(h->flight[i].done);
        }
        for (int i = 0; i < h->n_mem; i++)
            cudaFree(h->mem[i]);
        if (h->copies)
            cudaStreamDestroy(h->copies);
        free(h->mem);
        free(h);
    }
    peers_close(d->peers);
    peers_close(d->grid);
    if (d->stream)
        cudaStreamDestroy(d->stream);
    free(d);
    cudaSetDevice(current);
}

bool open_streams(device *d, status *st)
{
    cuda_check(d, cudaSetDevice(d->index), "choose the device");
    cuda_check(d, cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking), "make a stream");
    cuda_check(d, cudaStreamCreateWithFlags(&d->host->copies, cudaStreamNonBlocking),
               "make a stream");
    return report(d, st);
}

bool count_devices(int *n, status *st)
{
    const cudaError_t e = cudaGetDeviceCount(n);
    return (e == cudaSuccess && *n > 0) ||
           status_fail(st, STATUS_UNSUPPORTED, "no CUDA device: %s",
                       e == cudaSuccess ? "none is there" : cudaGetErrorString(e));
}

/* Whether the device can run what the module has; asks for no context, which would take memory. */
bool check_code(int index, int cc, status *st)
{
    if (cc < 80)
        return status_fail(st, STATUS_UNSUPPORTED,
                           "CUDA device %d: want compute capability 8.0 or later, found %d.%d",
                           index, cc / 10, cc % 10);
    return archs_have(ARCHS, cc) ||
           status_fail(st, STATUS_UNSUPPORTED,
                       "CUDA device %d: the module has no code for sm_%d: it was built with "
                       "INFERD_CUDA_ARCHS=\"%s\"",
                       index, cc, ARCHS);
}

bool read_cc(int index, int *cc, status *st)
{
    int major = 0, minor = 0;
    cudaError_t e = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index);
    if (e == cudaSuccess)
        e = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index);
    *cc = major * 10 + minor;
    return e == cudaSuccess || status_fail(st, STATUS_UNSUPPORTED, "CUDA device %d: %s", index,
                                           cudaGetErrorString(e));
}

bool read_properties(device *d, status *st)
{
    cudaDeviceProp prop;
    int n = 0;
    if (!count_devices(&n, st))
        return false;
    if (d->index < 0 || d->index >= n)
        return status_fail(st, STATUS_BAD_INPUT, "CUDA device %d: want 0 to %d", d->index, n - 1);
    cuda_check(d, cudaGetDeviceProperties(&prop, d->index), "read the device's properties");
    if (!report(d, st))
        return false;
    d->sm_count = prop.multiProcessorCount;
    d->cc = prop.major * 10 + prop.minor;
    snprintf(d->host->variant, sizeof d->host->variant, "sm_%d %.60s", d->cc, prop.name);
    return check_code(d->index, d->cc, st);
}

__global__ void any_kernel()
{
}

/* The driver has the last word on what it can run. */
bool find_code(device *d, status *st)
{
    cudaFuncAttributes a;
    const cudaError_t e = cudaFuncGetAttributes(&a, any_kernel);
    return e == cudaSuccess ||
           status_fail(st, STATUS_UNSUPPORTED,
                       "CUDA device %d: the module has no code for sm_%d (INFERD_CUDA_ARCHS=%s): %s",
                       d->index, d->cc, ARCHS, cudaGetErrorString(e));
}

/* A kernel that waits for a rank keeps the GPU from running that rank. */
bool check_own(const device *d, const struct peers *p, status *st)
{
    return !p->same_gpu ||
           status_fail(st, STATUS_BAD_INPUT, "rank %d: CUDA device %d is another rank's too",
                       p->view.rank, d->index);
}

bool meet_ranks(device *d, const device_options *o, status *st)
{
    if (o->comm && !(d->peers = peers_open(d, o->comm, 0, o->no_peers, st)))
        return false;
    const int n_tensor = o->comm ? comm_size(o->comm) : 1;
    if (o->grid && !(d->grid = peers_open(d, o->grid, n_tensor, o->no_peers, st)))
        return false;
    return check_own(d, d->grid ? d->grid : d->peers, st) && peers_check(d, st);
}

device *open_device(const device_options *o, status *st)
{
    struct comm *all = o->grid ? o->grid : o->comm;
    if (all && o->act == DT_F32) { /* sums of ranks and what stages pass on are of 16 bits */
        status_fail(st, STATUS_UNSUPPORTED,
                    "dtype: f32 runs on one cuda device, not with tensor-parallel or layer-split");
        return NULL;
    }
    device *d = static_cast<device *>(calloc(1, sizeof *d));
    cuda_host *h = static_cast<cuda_host *>(calloc(1, sizeof *h));
    if (!d || !h) {
        free(d);
        free(h);
        status_fail(st, STATUS_BUSY, "no memory for a device");
        return NULL;
    }
    d->host = h;
    d->index = o->index;
    d->act = o->act == DT_F16 || o->act == DT_F32 ? o->act : DT_BF16;
    h->memory_share = o->memory_share;
    if ((!all || peers_choose_device(all, o, &d->index, st)) && read_properties(d, st) &&
        open_streams(d, st) && find_code(d, st) && (!all || meet_ranks(d, o, st)))
        return d;
    close_device(d);
    return NULL;
}

const char *variant(const device *d)
{
    return d->host->variant;
}

/* What a share of all memory, 0 = all of it, leaves of the free. */
uint64_t usable_bytes(size_t n_free, size_t n_total, double share)
{
    const double kept = (1 - (share > 0 ? share : 1)) * (double)n_total;
    return kept < (double)n_free ? (uint64_t)((double)n_free - kept) : 0;
}

/* What mem_free would say of the devices from an index on; each has its context then. */
int count_memory(const device_options *o, uint64_t *free_bytes, int n_max)
{
    int n_devices = 0, n = 0, current = 0;
    cudaGetDevice(&current);
    cudaGetDeviceCount(&n_devices);
    for (int i = o->index; i < n_devices && n < n_max; i++) {
        size_t n_free = 0, n_total = 0;
        if (cudaSetDevice(i) != cudaSuccess || cudaMemGetInfo(&n_free, &n_total) != cudaSuccess)
            break;
        free_bytes[n++] = usable_bytes(n_free, n_total, o->memory_share);
    }
    cudaSetDevice(current);
    cudaGetLastError(); /* one that cannot be asked is not counted */
    return n;
}

enum dtype act_dtype(const device *d)
{
    return d->act;
}

bool kv_fits(const device *d, enum dtype dtype)
{
    return dtype == d->act || (kv_has_scales(dtype) && d->act != DT_F32);
}

/* Memory. */

uint64_t mem_free(const device *d)
{
    size_t n_free = 0, n_total = 0;
    if (cudaMemGetInfo(&n_free, &n_total) != cudaSuccess)
        return 0;
    return usable_bytes(n_free, n_total, d->host->memory_share);
}

bool note_mem(cuda_host *h, void *at)
{
    if (h->n_mem == h->mem_max) {
        const int max = h->mem_max ? 2 * h->mem_max : 16;
        void **grown = static_cast<void **>(realloc(h->mem, max * sizeof *grown));
        if (!grown)
            return false;
        h->mem = grown;
        h->mem_max = max;
    }
    h->mem[h->n_mem++] = at;
    return true;
}

void *mem_take(device *d, size_t n_bytes, status *st)
{
    void *at = NULL;
    cudaError_t e = cudaMalloc(&at, n_bytes ? n_bytes : 1);
    if (e == cudaSuccess && !note_mem(d->host, at))
        e = cudaErrorMemoryAllocation;
    if (e != cudaSuccess) {
        cudaFree(at);
        cudaGetLastError(); /* running out is not sticky */
        status_fail(st, STATUS_TOO_LARGE, "CUDA device %d: take %zu MiB: %s", d->index,
                    n_bytes >> 20, cudaGetErrorString(e));
        return NULL;
    }
    /* Waited for: weights come on other streams, which nothing else would keep behind it. */
    cuda_check(d, cudaMemsetAsync(at, 0, n_bytes, d->stream), "zero memory");
    cuda_check(d, cudaStreamSynchronize(d->stream), "zero memory");
    return at;
}

void copy_in(device *d, void *to, const void *from, size_t n_bytes)
{
    cuda_check(d, cudaMemcpyAsync(to, from, n_bytes, cudaMemcpyHostToDevice, d->stream), "copy in");
    cuda_check(d, cudaStreamSynchronize(d->stream), "copy in");
}

void copy_out(device *d, void *to, const void *from, size_t n_bytes)
{
    cuda_check(d, cudaMemcpyAsync(to, from, n_bytes, cudaMemcpyDeviceToHost, d->stream),
               "copy out");
    cuda_check(d, cudaStreamSynchronize(d->stream), "copy out");
}

/* What the ops need for themselves. */

struct part { /* one array of the work memory */
    void **at;
    size_t n_bytes;
};

enum { N_PARTS = 18 };

void list_parts(device *d, const device_limits *l, part list[N_PARTS])
{
    const size_t word = sizeof(int32_t);
    const size_t tokens = l->step_tokens_max, seqs = l->seqs_max;
    const bool has_act8 = act8_runs_on(d->cc) && d->act != DT_F32;
    const int outliers = has_act8 ? l->in_outliers_max : 0; /* columns with them */
    const size_t partial = (size_t)l->n_heads * (l->head_dim + 2) * sizeof(float);
    const size_t partials = attention_partials_max(l) * partial;
    const bool has_wide = d->cc == 90 && d->act != DT_F32;
    const size_t shared = has_wide ? scheme_wide_sums_bytes(d->sm_count) : 0;
    const part all[N_PARTS] = {
        {(void **)&d->batch.ids, tokens * word},
        {(void **)&d->batch.positions, tokens * word},
        {(void **)&d->batch.token_slot, tokens * word},
        {(void **)&d->batch.block_table, seqs * l->table_stride * word},
        {(void **)&d->batch.head, l->step_heads_max * sizeof(batch_head)},
        {(void **)&d->batch.attention.counts, attention_plan_bytes(l)},
        {(void **)&d->slots.slot, seqs * sizeof(cuda_slot)},
        {(void **)&d->slots.bias, seqs * l->bias_slot_max * sizeof(sample_bias)},
        {(void **)&d->slots.seen, seqs * l->vocab * sizeof(uint16_t)},
        {&d->scratch_norm, scratch_norm_bytes(l, d->act)},
        {(void **)&d->act8_high, (size_t)outliers * act8_high_stride(l->step_tokens_max)},
        {(void **)&d->act8_mask, act8_mask_words(outliers) * word},
        {(void **)&d->act8_readers, act8_readers_words(l->step_tokens_max) * word},
        {(void **)&d->partials, partials > shared ? partials : shared},
        {(void **)&d->tiles_given, has_wide ? scheme_wide_given_words(d->sm_count) * word : 0},
        {(void **)&d->merges, attention_merges_max(l) * word},
        {(void **)&d->sample_out, sizeof(sample_out *)},
        {&d->sample_work, cuda_sample_work_bytes(l)},
    };
    memcpy(list, all, sizeof all);
}

size_t align_up(size_t n)
{
    return (n + ALIGN - 1) / ALIGN * ALIGN;
}

size_t work_bytes(const device *d, const device_limits *l)
{
    device none = *d;
    part list[N_PARTS];
    size_t n = 0;
    list_parts(&none, l, list);
    for (int i = 0; i < N_PARTS; i++)
        n += align_up(list[i].n_bytes);
    return n + STAGES * align_up(stage_bytes(l));
}

/* The engine asks when it plans, benchmarks when they set the work memory. */
bool limits_fit(const device *, const device_limits *l, status *st)
{
    static const int dims[] = {64, 80, 96, 128, 256};
    const int widths[] = {l->hidden, l->ffn, l->in_max};
    const int HIDDEN_MAX = 16384; /* norm.cu keeps a row in the registers of a block */
    for (int width : widths)
        if (width % 8 != 0)
            return status_fail(st, STATUS_UNSUPPORTED,
                               "CUDA: want widths that are multiples of 8, found %d", width);
    if (l->hidden > HIDDEN_MAX)
        return status_fail(st, STATUS_UNSUPPORTED, "CUDA: want a width of at most %d, found %d",
                           HIDDEN_MAX, l->hidden);
    for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++)
        if (l->head_dim == dims[i])
            return true;
    return status_fail(st, STATUS_UNSUPPORTED,
                       "CUDA: want heads of 64, 80, 96, 128 or 256 values, found %d", l->head_dim);
}

bool open_flights(device *d, char *stages, status *st)
{
    cuda_host *h = d->host;
    for (int i = 0; i < STAGES; i++) {
        if (!stage_open(&h->stage[i], &d->limits, stages + i * align_up(stage_bytes(&d->limits)), st))
            return false;
        cuda_check(d, cudaHostAlloc((void **)&h->flight[i].out,
                                    d->limits.step_heads_max * sizeof(sample_out),
                                    cudaHostAllocDefault),
                   "take memory for samples");
        cuda_check(d, cudaEventCreateWithFlags(&h->flight[i].done, cudaEventDisableTiming),
                   "make an event");
    }
    return report(d, st);
}

bool work_set(device *d, const device_limits *l, void *work, status *st)
{
    part list[N_PARTS];
    char *at = static_cast<char *>(work);
    if (!limits_fit(d, l, st))
        return false;
    d->limits = *l;
    list_parts(d, l, list);
    for (int i = 0; i < N_PARTS; i++) {
        *list[i].at = at;
        at += align_up(list[i].n_bytes);
    }
    attention_plan_view(&d->batch.attention, l, d->batch.attention.counts);
    return open_flights(d, at, st);
}

/* Graphs: a step from the kernel that spreads it to its last op. */

bool may_record(const device *d, uint64_t shape)
{
    return shape > 0 && shape < GRAPHS_MAX && d->batch.n_waves <= 1 && d->fault == cudaSuccess;
}

/* A graph takes memory of the device that no plan knows (2 MiB for 80 layers): so that no step
 * fails for want of it, those of new shapes run unrecorded once little is left.  Each of them would
 * ask the driver, so that it is short holds for a second.  Not where NCCL is in them: all ranks
 * record a step with its calls, or none does (NCCL, "Using NCCL with CUDA Graphs"). */
bool has_memory_to_record(const device *d)
{
    const size_t LEFT_MIN = (size_t)64 << 20;
    const uint64_t SHORT_NS = 1000 * NS_PER_MS, now = clock_now(&clock_real);
    size_t n_free, n_total;
    if ((d->peers && d->peers->nccl) || (d->grid && d->grid->nccl))
        return true;
    if (now < d->host->short_until_ns)
        return false;
    if (cudaMemGetInfo(&n_free, &n_total) == cudaSuccess && n_free >= LEFT_MIN)
        return true;
    d->host->short_until_ns = now + SHORT_NS;
    return false;
}

void replay(device *d, const cuda_graph *g, const cuda_step *step)
{
    cuda_slots_step_again(d, step, g->exec, g->first);
    if (d->fault == cudaSuccess) /* else it would be the step before, again */
        cuda_check(d, cudaGraphLaunch(g->exec, d->stream), "run a graph");
}

/* The node is asked for while it is the only one: NCCL may add others that follow none. */
void begin_recording(device *d, uint64_t shape, const cuda_step *step)
{
    cuda_graph *g = &d->host->graph[shape];
    cudaGraphNode_t node[2] = {};
    size_t n_nodes = 2; /* room for one too many */
    d->host->recording = shape;
    cuda_check(d, cudaGraphCreate(&g->recorded, 0), "record a graph");
    cuda_check(d,
               cudaStreamBeginCaptureToGraph(d->stream, g->recorded, NULL, NULL, 0,
                                             cudaStreamCaptureModeThreadLocal),
               "record a graph");
    cuda_slots_step(d, step);
    cuda_check(d, cudaGraphGetRootNodes(g->recorded, node, &n_nodes), "find a graph's step");
    assert(n_nodes == 1 || d->fault != cudaSuccess);
    g->first = node[0];
}

/* What was recorded runs as it is: it is this step's. */
void end_recording(device *d)
{
    cuda_host *h = d->host;
    cuda_graph *g = &h->graph[h->recording];
    h->recording = 0;
    cuda_check(d, cudaStreamEndCapture(d->stream, &g->recorded), "record a graph");
    if (d->fault == cudaSuccess)
        cuda_check(d, cudaGraphInstantiate(&g->exec, g->recorded, 0), "make a graph");
    if (d->fault == cudaSuccess)
        cuda_check(d, cudaGraphLaunch(g->exec, d->stream), "run a graph");
}

/* Steps. */

/* A thread that did not open the device may run its steps. */
bool step_begin(device *d, const batch *b, uint64_t shape)
{
    cuda_host *h = d->host;
    cuda_step step;
    cuda_check(d, cudaSetDevice(d->index), "choose the device");
    const uint64_t i = h->n_begun++ % STAGES;
    h->flight[i].n_heads = b->n_heads;
    if (d->fault != cudaSuccess)
        return false;
    stage_send(d, &h->stage[i], h->copies, b, h->flight[i].out, &step);
    const bool may = may_record(d, shape), recorded = may && h->graph[shape].exec;
    if (recorded)
        replay(d, &h->graph[shape], &step);
    else if (may && has_memory_to_record(d))
        begin_recording(d, shape, &step);
    else
        cuda_slots_step(d, &step);
    return recorded;
}

void step_end(device *d)
{
    if (d->host->recording > 0)
        end_recording(d);
    cuda_check(d, cudaEventRecord(d->host->flight[(d->host->n_begun - 1) % STAGES].done, d->stream),
               "mark the step's end");
}

bool step_ready(device *d)
{
    cuda_host *h = d->host;
    return d->fault != cudaSuccess ||
           cudaEventQuery(h->flight[h->n_waited % STAGES].done) != cudaErrorNotReady;
}

bool look_at_ranks(device *d, status *st)
{
    return (!d->peers || peers_look(d->peers, st)) && (!d->grid || peers_look(d->grid, st));
}

/* With other ranks: until the step is done or they are lost.  A device that is told to stop waiting
 * does so within milliseconds; one that does not is not waited for. */
bool await_ranks(device *d, cudaEvent_t done, status *st)
{
    const uint64_t STOP_NS = 2000 * NS_PER_MS;
    uint64_t stopped_ns = 0;
    cudaError_t e;
    while ((e = cudaEventQuery(done)) == cudaErrorNotReady) {
        if (stopped_ns && clock_now(&clock_real) - stopped_ns > STOP_NS)
            break;
        if (!stopped_ns && !look_at_ranks(d, st)) {
            stopped_ns = clock_now(&clock_real);
            stop_ranks(d);
        }
        sched_yield();
    }
    if (stopped_ns || !look_at_ranks(d, st))
        return false;
    cuda_check(d, e, "run a step");
    return true;
}

bool step_wait(device *d, sample_out *out, status *st)
{
    cuda_host *h = d->host;
    cuda_flight *f = &h->flight[h->n_waited++ % STAGES];
    cuda_check(d, cudaSetDevice(d->index), "choose the device");
    const bool meets = d->peers || d->grid;
    if (d->fault == cudaSuccess && meets && !await_ranks(d, f->done, st))
        return false;
    if (d->fault == cudaSuccess && !meets)
        cuda_check(d, cudaEventSynchronize(f->done), "run a step");
    if (!report(d, st))
        return false;
    memcpy(out, f->out, f->n_heads * sizeof *out);
    return true;
}

/* Of a rank it is the first one's device, whose neighbours are mostly like it; open looks at its own. */
bool probe(const device_options *o, status *why)
{
    int n = 0, cc = 0;
    if (!count_devices(&n, why))
        return false;
    const int index = o && o->index < n ? o->index : 0;
    return read_cc(index, &cc, why) && check_code(index, cc, why);
}

const ops table = {
    .name = "cuda",
    .host_memory = false,
    .act_dtype = act_dtype,
    .kv_fits = kv_fits,
    .mem_free = mem_free,
    .mem_take = mem_take,
    .copy_in = copy_in,
    .copy_out = copy_out,
    .weight_bytes = cuda_weight_bytes,
    .weight_put = cuda_weight_put,
    .weights_done = cuda_weights_done,
    .limits_fit = limits_fit,
    .work_bytes = work_bytes,
    .work_set = work_set,
    .step_begin = step_begin,
    .embed = cuda_embed,
    .norm = cuda_norm,
    .matmul = cuda_matmul,
    .rope_kv = cuda_rope_kv,
    .matmul_rope_kv = cuda_matmul_rope_kv,
    .attention = cuda_attention,
    .all_reduce = cuda_all_reduce,
    .send = cuda_send,
    .recv = cuda_recv,
    .head = cuda_head,
    .sample = cuda_sample,
    .step_end = step_end,
    .step_ready = step_ready,
    .step_wait = step_wait,
    .close = close_device,
};

} // namespace

/* What backend_find looks for in the module. */
extern "C" __attribute__((visibility("default"))) const backend inferd_backend = {
    .abi = OPS_ABI,
    .ops = &table,
    .probe = probe,
    .open = open_device,
    .variant = variant,
    .memory = count_memory,
    .rates = cuda_rates,
    .vendor = &cuda_vendor,
};
