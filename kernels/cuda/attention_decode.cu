/* attention_decode.cu - attention of generated tokens: one query against its pages.
 *
 * What is read: K and V once, which is all of the time; so the design keeps memory busy.  The plan
 * cut each token's keys into items: splits, or runs of several.  A task is an item and the query
 * heads that share a kv head, at most 16 of them, which share a tensor core tile.  Blocks stay,
 * take tasks in the order of the list (longest first), and begin to copy the next one while the
 * last is computed.
 *
 * A cache of 8 bits comes as codes, and stays in codes as far as it can:
 * attention_decode_codes.cuh.
 *
 *     stage  64 keys: each of 4 warps copies and computes 16 of its own, without barriers between
 *     split  warps join at its end, in order, and then splits of the run
 *     item   partial -> workspace, or the output if it is alone
 *     token  the last of its items to end joins all partials in order of position, by runs
 *
 * Nothing but the order of items depends on the batch: borders of splits, stages and warps lie at
 * fixed positions, and keys outside of the window weigh exactly 0.  The grid is fixed and the list
 * is in device memory, so that a recorded launch serves any lengths. */
#include "kernels/cuda/archs.h"
#include "kernels/cuda/attention_decode_join.cuh"
#include "kernels/cuda/attention_decode_load.cuh"

namespace
{

/* ---- The list. ---- */

/* Warp 0 alone: lane i holds word i of an item on its way.  The first two tasks are the block's by
 * its number, further ones are for whoever is free: lane 0 draws a number, which nothing waits for
 * until that task is fetched. */
struct queue {
    int n_tasks, at; /* task that was fetched, or that is fetched next */
    int word, part;
};

/* All lanes load, as a branch would keep loads behind it. */
__device__ __forceinline__ int32_t word_of_task(const struct decode_params &p, int at)
{
    const int lane = threadIdx.x % 32, item = min(at / p.n_parts, p.last_item);
    return ((const int32_t *)&p.item[item])[min(lane, ITEM_WORDS - 1)];
}

__device__ __forceinline__ void fetch_task(struct queue *q, const struct decode_params &p)
{
    q->part = q->at < q->n_tasks ? q->at % p.n_parts : -1;
    q->word = word_of_task(p, q->at);
}

__device__ __forceinline__ void put_task(const struct queue *q, struct task *to)
{
    const int lane = threadIdx.x % 32;
    if (lane < ITEM_WORDS)
        ((int32_t *)&to->item)[lane] = q->word;
    if (lane == 0)
        to->part = q->part;
}

__device__ __forceinline__ int draw_ticket(const struct queue *q, const struct decode_params &p)
{
    if (q->n_tasks > 2 * (int)gridDim.x && threadIdx.x == 0)
        return atomicAdd(&p.counters[0], 1);
    return 0;
}

__device__ __forceinline__ int task_of_ticket(int ticket)
{
    return 2 * (int)gridDim.x + __shfl_sync(~0u, ticket, 0);
}

/* Short tasks: when one begins, the one behind the next is fetched, whose number was drawn a task
 * ago, and a number is drawn for the one behind that. */
__device__ __forceinline__ int fetch_early(struct queue *q, const struct decode_params &p)
{
    fetch_task(q, p);
    return q->part < 0 ? 0 : draw_ticket(q, p);
}

__device__ __forceinline__ void put_early(struct queue *q, int ticket, struct task *to)
{
    put_task(q, to);
    q->at = q->part < 0 ? q->n_tasks : task_of_ticket(ticket);
}

/* Long ones: late in a task the one behind the next is drawn, and then fetched, so that who is
 * late does not hold what others could do.  In between lane 0's word is the number. */
__device__ __forceinline__ void fetch_late(struct queue *q, const struct decode_params &p,
                                           int n_stages, int n_left)
{
    if (n_left == min(n_stages, (int)DRAW_STAGES) && q->at < q->n_tasks && threadIdx.x == 0)
        q->word = draw_ticket(q, p);
    if (n_left == min(n_stages, (int)FETCH_STAGES)) {
        if (q->at < q->n_tasks)
            q->at = task_of_ticket(q->word);
        fetch_task(q, p);
    }
}

/* The first two tasks, which are asked for before it is known how many there are: that is one
 * latency of memory at the begin rather than two or three. */
__device__ __forceinline__ void open_queue(struct queue *q, const struct decode_params &p,
                                           struct task ring[2])
{
    struct queue first = {};
    first.at = (int)blockIdx.x;
    q->at = (int)(blockIdx.x + gridDim.x);
    first.word = word_of_task(p, first.at);
    q->word = word_of_task(p, q->at);
    q->n_tasks = (p.wave->end_item - p.wave->first_item) * p.n_parts;
    first.part = first.at < q->n_tasks ? first.at % p.n_parts : -1;
    q->part = q->at < q->n_tasks ? q->at % p.n_parts : -1;
    put_task(&first, &ring[0]);
    put_task(q, &ring[1]);
}

/* The last block to end leaves the counters as it found them. */
__device__ __forceinline__ void close_queue(const struct queue *q, const struct decode_params &p)
{
    if (threadIdx.x != 0 || q->n_tasks <= 2 * (int)gridDim.x)
        return;
    __threadfence();
    if (atomicInc((unsigned *)&p.counters[1], gridDim.x - 1) == gridDim.x - 1)
        p.counters[0] = 0;
}

template <class T, int HEAD_DIM, bool HALF, bool NARROW> struct rows_of {
    using type = struct rows<T, HEAD_DIM, HALF>;
};
template <class T, int HEAD_DIM, bool HALF> struct rows_of<T, HEAD_DIM, HALF, true> {
    using type = struct code_rows<T, HEAD_DIM, HALF>;
};

template <class T_, int HEAD_DIM_, bool HALF_, bool NARROW_> struct kernel_of {
    using T = T_;
    using rows = typename rows_of<T_, HEAD_DIM_, HALF_, NARROW_>::type;
    static constexpr int HEAD_DIM = HEAD_DIM_;
    static constexpr bool HALF = HALF_, NARROW = NARROW_;
    /* As the plan has it: else an item is a split. */
    static constexpr bool HAS_RUNS = HALF_ || HEAD_DIM_ <= ATTENTION_RUNS_HEAD_DIM;
};

/* Blocks of a multiprocessor: with more than 8 heads registers are short. */
template <int HEAD_DIM, bool HALF, bool NARROW, bool SMALL = SMALL_CODE> constexpr int resident()
{
    constexpr int BLOCKS = layout<HEAD_DIM, NARROW, SMALL>::BLOCKS;
    return HALF || BLOCKS < 2 ? BLOCKS : 2;
}

/* The first stages of a block, as far as their keys are old. */
template <int HEAD_DIM, bool NARROW>
__device__ __forceinline__ void copy_old(struct loader *l, const struct decode_params &p,
                                         const struct task &first, uint32_t tiles, uint64_t policy)
{
    l->ahead = -1;
    l->next_block = ask_blocks(p, first);
    if (first.part < 0)
        return;
    enter_task(l, p, first);
    const int n_old = max(0, first.item.old_keys - l->keys.first) / STAGE_KEYS;
    while (l->stage < min(n_old, min(l->keys.n_stages, (int)layout<HEAD_DIM, NARROW>::STAGES)))
        copy_stage<HEAD_DIM, NARROW>(l, p, tiles, policy);
}

/* grid: `resident` blocks a multiprocessor; block: 4 warps.  See above.
 *
 * RUNS: there may be items of several splits, runs.  In small batches there are none, and a kernel
 * of its own is quicker (docs/performance.md: by 3.6 us a layer than one kernel for both): nothing
 * is kept from split to split, and all that it runs is soon in the caches.
 *
 * Old keys are copied before the wait for the kernel before: they were written in earlier steps, as
 * the lists and the block table were before any kernel of this step could begin (slots.cu). */
template <class V, bool RUNS>
__global__ void __launch_bounds__(THREADS, resident<V::HEAD_DIM, V::HALF, V::NARROW>())
    attention_decode_kernel(const __grid_constant__ struct decode_params p)
{
    using T = typename V::T;
    constexpr int HEAD_DIM = V::HEAD_DIM;
    constexpr bool HALF = V::HALF, NARROW = V::NARROW;
    using L = layout<HEAD_DIM, NARROW>;
    DYNAMIC_SHARED(__align__(1024) char, stages);
    __shared__ struct shared_state st;
    float *join = (float *)(stages + L::STAGES * L::STAGE_BYTES);
    const int warp = threadIdx.x / 32;
    const uint32_t tiles = shared_addr(stages) + (uint32_t)warp * L::WARP_BYTES;
    const uint64_t policy = policy_evict_first();
    struct queue queue = {};
    struct loader l = {};
    typename V::rows r;
    struct run_sums<HEAD_DIM, HALF> sums; /* with RUNS */

    if (warp == 0)
        open_queue(&queue, p, st.ring);
    __syncthreads();
    copy_old<HEAD_DIM, NARROW>(&l, p, st.ring[0], tiles, policy);
    depend_wait();
    depend_launch();
    if (st.ring[0].part >= 0) {
        load_q(&r, p, st.ring[0]);
        if constexpr (L::WIDE && !NARROW)
            share_q<T, HEAD_DIM>((char *)join, p, st.ring[0]);
    }
    if (!RUNS && warp == 0)
        queue.at = task_of_ticket(draw_ticket(&queue, p));

    int slot = 0;
    for (int n = 0; st.ring[n % RING].part >= 0; n++) {
        const struct attention_item it = st.ring[n % RING].item;
        const struct heads h = heads_of(p, st.ring[n % RING].part);
        const struct task &next = st.ring[(n + 1) % RING];
        const struct keys k = keys_of(it, p.window);
        int ticket = 0;

        if (l.ahead < 0)
            enter_task(&l, p, st.ring[n % RING]);
        l.next_block = ask_blocks(p, next);
        if (!RUNS && warp == 0)
            ticket = fetch_early(&queue, p);
        clear_rows(&r);
        if constexpr (RUNS)
            clear_sums(&sums);
        for (int stage = 0; stage < k.n_stages; stage++) {
            copy_ahead<HEAD_DIM, NARROW>(&l, p, next, tiles, policy);
            if (RUNS && warp == 0)
                fetch_late(&queue, p, k.n_stages, k.n_stages - stage);
            if (RUNS && split_begins(it, k, stage)) {
                end_split<HEAD_DIM, HALF>(&r, &sums, h.n, join, &st);
                __syncthreads();
                clear_rows(&r);
                if constexpr (L::WIDE && !NARROW)
                    share_q<T, HEAD_DIM>((char *)join, p, st.ring[n % RING]);
            }
            wait_oldest<L::STAGES>(l.n_slots_used);
            __syncwarp();
            if constexpr (NARROW)
                compute_codes(&r, p, k, stage, it.kv_len - 1,
                              stages + slot * L::STAGE_BYTES + warp * L::WARP_BYTES);
            else
                compute_stage(&r, p, k, stage, it.kv_len - 1, shared_addr(join),
                              tiles + (uint32_t)slot * L::STAGE_BYTES);
            __syncwarp();
            slot = slot + 1 == L::STAGES ? 0 : slot + 1;
            l.n_slots_used--;
        }
        if (RUNS && warp == 0) {
            if (k.n_stages == 0)
                fetch_late(&queue, p, 0, 0);
            put_task(&queue, &st.ring[(n + 2) % RING]);
        }
        if (!RUNS && warp == 0)
            put_early(&queue, ticket, &st.ring[(n + 2) % RING]);
        if (next.part >= 0)
            load_q(&r, p, next);
        if (k.n_stages > 0) {
            if constexpr (RUNS) {
                end_split<HEAD_DIM, HALF>(&r, &sums, h.n, join, &st);
                end_run<T, HEAD_DIM, HALF>(p, it, k.seen, &sums, h, &st);
            } else {
                end_item<T, HEAD_DIM, HALF>(&r, p, it, k.seen, h, join, &st);
            }
        } else {
            __syncthreads();
        }
        if constexpr (L::WIDE && !NARROW) {
            if (next.part >= 0)
                share_q<T, HEAD_DIM>((char *)join, p, next);
        }
        l.ahead--;
    }
    if (warp == 0)
        close_queue(&queue, p);
}

template <class V, bool RUNS, bool SMALL>
void launch_sized(struct device *d, const struct decode_params *p)
{
    using L = layout<V::HEAD_DIM, V::NARROW, SMALL>;
    constexpr int BLOCKS = resident<V::HEAD_DIM, V::HALF, V::NARROW, SMALL>();
    void (*kernel)(struct decode_params) = attention_decode_kernel<V, RUNS>;
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)(d->sm_count * BLOCKS));
    config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes = L::BYTES;
    config.stream = d->stream;
    config.attrs = &attribute;
    config.numAttrs = d->cc >= 90;
    cuda_check(d,
               cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, L::BYTES),
               "attention_decode");
    cuda_check(d, cudaLaunchKernelEx(&config, kernel, *p), "attention_decode");
}

template <class V, bool RUNS> void launch_kernel(struct device *d, const struct decode_params *p)
{
    if (arch_is_small(d->cc))
        launch_sized<V, RUNS, true>(d, p);
    else
        launch_sized<V, RUNS, false>(d, p);
}

/* Which kernel is the plan's choice, and the same for all steps of a recorded width. */
template <class T, int HEAD_DIM, bool HALF, bool NARROW>
void launch_decode(struct device *d, const struct decode_params *p)
{
    using V = kernel_of<T, HEAD_DIM, HALF, NARROW>;
    if (!d->batch.attention_host->has_runs)
        launch_kernel<V, false>(d, p);
    else if constexpr (V::HAS_RUNS)
        launch_kernel<V, true>(d, p);
    else
        cuda_check(d, cudaErrorInvalidValue, "attention_decode: a plan for other heads");
}

template <class T, bool HALF, bool NARROW>
void launch_head_dim(struct device *d, int head_dim, const struct decode_params *p)
{
    switch (head_dim) {
    case 64:
        launch_decode<T, 64, HALF, NARROW>(d, p);
        return;
    case 80:
        launch_decode<T, 80, HALF, NARROW>(d, p);
        return;
    case 96:
        launch_decode<T, 96, HALF, NARROW>(d, p);
        return;
    case 128:
        launch_decode<T, 128, HALF, NARROW>(d, p);
        return;
    case 256:
        launch_decode<T, 256, HALF || NARROW, NARROW>(d, p);
        return;
    default:
        cuda_check(d, cudaErrorInvalidValue, "attention_decode: head_dim");
    }
}

template <class T, bool NARROW>
void launch_group(struct device *d, int head_dim, const struct decode_params *p)
{
    if (min(p->group, p->tile_heads) <= MERGE_ROWS)
        launch_head_dim<T, true, NARROW>(d, head_dim, p);
    else
        launch_head_dim<T, false, NARROW>(d, head_dim, p);
}

template <class T> void launch_type(struct device *d, int head_dim, const struct decode_params *p)
{
    if (p->k_scale)
        launch_group<T, true>(d, head_dim, p);
    else
        launch_group<T, false>(d, head_dim, p);
}

void set_scores(struct decode_params *p, const struct attention_args *a)
{
    p->scale = a->soft_cap > 0.0f ? a->scale / a->soft_cap : a->scale * LOG2_E;
    p->cap = a->soft_cap * LOG2_E;
    p->alibi = a->alibi;
    p->window = a->window;
}

void set_shape(struct decode_params *p, const struct device *d, const struct attention_args *a)
{
    const struct kv_cache *kv = a->kv;
    const size_t layer_rows = (size_t)kv->n_blocks * kv->n_kv_heads * kv->block_tokens;
    const size_t layer_bytes = layer_rows * kv->head_dim * (kv_has_scales(kv->dtype) ? 1 : 2);
    p->k = (const char *)kv->k + (size_t)a->layer * layer_bytes;
    p->v = (const char *)kv->v + (size_t)a->layer * layer_bytes;
    p->k_scale = kv->k_scale ? kv->k_scale + a->layer * layer_rows : nullptr;
    p->v_scale = kv->v_scale ? kv->v_scale + a->layer * layer_rows : nullptr;
    p->values_e4m3 = kv->dtype == DT_FP8;
    p->n_heads = a->n_heads;
    p->n_kv_heads = kv->n_kv_heads;
    p->group = a->n_heads / kv->n_kv_heads;
    p->tile_heads = kv_has_scales(kv->dtype) && kv->head_dim > 128 ? MERGE_ROWS : ROWS;
    p->n_tiles = (p->group + p->tile_heads - 1) / p->tile_heads;
    p->n_parts = kv->n_kv_heads * p->n_tiles;
    p->block_tokens = kv->block_tokens;
    p->values = d->partials;
    p->sums = (float2 *)(d->partials +
                         (size_t)attention_partials_max(&d->limits) * a->n_heads * kv->head_dim);
}

} /* namespace */

/* ---- Launcher ---- */

void cuda_attention_decode(struct device *d, const struct attention_args *a)
{
    const struct cuda_batch *b = &d->batch;
    struct decode_params p = {};

    set_scores(&p, a);
    set_shape(&p, d, a);
    p.q = a->q;
    p.out = a->out;
    p.q_stride = a->q_stride;
    p.block_table = b->block_table;
    p.table_stride = d->limits.table_stride;
    p.counters = d->merges;
    for (int i = 0; i < b->n_waves; i++) {
        /* A graph has one wave, which begins at 0 whatever it is replayed for. */
        const int first = i > 0 ? b->attention_host->counts->wave[i].first_item : 0;
        p.wave = &b->attention.counts->wave[i];
        p.item = b->attention.item + first;
        p.last_item = attention_items_max(&d->limits) - first - 1;
        if (d->act == DT_BF16)
            launch_type<__nv_bfloat16>(d, a->kv->head_dim, &p);
        else
            launch_type<__half>(d, a->kv->head_dim, &p);
    }
}
