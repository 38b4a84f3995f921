/* bench_steps.c - the steps that calls of an op are timed in. */
#include <time.h>

#include "kernels/bench_int.h"
#include "kernels/comm.h"

enum { CALLS_MORE_MAX = 400, CONTEXT_BLOCKS = 8192 / BLOCK_TOKENS };

static const double MORE_S = 0.003; /* what the further calls should take */

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- batches ---- */

static void put_sequence(struct bench_device *b, int seq, int tokens, int kv_len)
{
    const int blocks = (kv_len + BLOCK_TOKENS - 1) / BLOCK_TOKENS, first = seq * blocks;
    b->slot[seq] = seq;
    b->kv_len[seq] = kv_len;
    b->n_prompt[seq] = tokens > 1 ? kv_len : 0; /* one token is one that decodes */
    b->set[seq] =
        (struct batch_slot){.slot = seq, .n_prompt = b->n_prompt[seq], .params = &b->params};
    for (int i = 0; i < blocks; i++) {
        b->table[seq * CONTEXT_BLOCKS + i] = first + i;
        b->block[first + i] = (struct batch_block){.slot = seq, .at = i, .block = first + i};
    }
    for (int i = 0; i < tokens; i++) {
        const int t = b->seq_start[seq] + i;
        b->ids[t] = (int32_t)(((uint32_t)t * 2654435761u >> 8) % (uint32_t)b->ids_max);
        b->positions[t] = kv_len - tokens + i;
        b->token_seq[t] = seq;
    }
    b->seq_start[seq + 1] = b->seq_start[seq] + tokens;
}

void bench_batch(struct bench_device *b, int seqs, int tokens, int kv_len, int heads)
{
    for (int i = 0; i < seqs; i++)
        put_sequence(b, i, tokens, kv_len);
    const int n_tokens = b->seq_start[seqs];
    for (int i = 0; i < heads; i++) {
        const int row = n_tokens - heads + i;
        b->head[i] = (struct batch_head){.row = row,
                                         .slot = b->token_seq[row],
                                         .n_history = b->positions[row] + 1,
                                         .forced = b->forced};
    }
    b->batch = (struct batch){.n_tokens = n_tokens,
                              .n_seqs = seqs,
                              .n_heads = heads,
                              .n_slots = seqs,
                              .n_blocks = seqs * ((kv_len + BLOCK_TOKENS - 1) / BLOCK_TOKENS),
                              .token_ids = b->ids,
                              .positions = b->positions,
                              .token_seq = b->token_seq,
                              .seq_start = b->seq_start,
                              .kv_len = b->kv_len,
                              .slot = b->slot,
                              .n_prompt = b->n_prompt,
                              .block_table = b->table,
                              .block = b->block,
                              .set = b->set,
                              .head = b->head};
}

/* ---- time ---- */

struct calls {
    void (*fn)(void *ctx, int i);
    void *ctx;
    int n;
    uint64_t shape;
};

static struct comm *group_of(const struct bench_device *b)
{
    return b->run->grid ? b->run->grid : b->run->comm;
}

/* Of a call of the group that failed: false, and why. */
static bool report(struct comm *group, struct status *st)
{
    return comm_ok(group, st) && status_fail(st, STATUS_DEVICE, "the ranks do not meet");
}

bool bench_meet(struct bench_device *b, struct status *st)
{
    struct comm *group = group_of(b);
    return !group || comm_barrier(group) || report(group, st);
}

static bool run_step(struct bench_device *b, const struct calls *c, double *s, struct status *st)
{
    if (!bench_meet(b, st))
        return false;
    const double start = now_s();
    if (!b->ops->step_begin(b->dev, &b->batch, c->shape))
        for (int i = 0; i < c->n; i++)
            c->fn(c->ctx, i);
    b->ops->step_end(b->dev);
    if (!b->ops->step_wait(b->dev, b->out, st))
        return false;
    *s = now_s() - start;
    return true;
}

/* The least of some steps, after one that records and warms up. */
static bool least_step(struct bench_device *b, const struct calls *c, double *least,
                       struct status *st)
{
    const int times = b->on_cpu ? 3 : 5;
    for (int i = 0; i <= times; i++) {
        double s = 0;
        if (!run_step(b, c, &s, st))
            return false;
        if (i <= 1 || s < *least)
            *least = s;
    }
    return true;
}

/* Ranks make as many calls as the first of them. */
static bool agree(struct bench_device *b, int *n, struct status *st)
{
    struct comm *group = group_of(b);
    return !group || comm_broadcast(group, n, sizeof *n, 0) || report(group, st);
}

bool bench_time(struct bench_device *b, void (*fn)(void *ctx, int i), void *ctx, double *s,
                struct status *st)
{
    const int calls_few = b->on_cpu ? 1 : 2;
    struct calls c = {fn, ctx, calls_few, ++b->n_shapes};
    double few, many;
    if (!least_step(b, &c, &few, st))
        return false;
    const double want = MORE_S / (few / calls_few);
    int more = want < calls_few ? calls_few : want > CALLS_MORE_MAX ? CALLS_MORE_MAX : (int)want;
    if (!agree(b, &more, st))
        return false;
    c.n += more;
    c.shape = ++b->n_shapes;
    if (!least_step(b, &c, &many, st))
        return false;
    /* On a CPU a step costs next to nothing, and who else runs may take more than the difference.
     */
    *s = b->on_cpu || many <= few ? many / c.n : (many - few) / more;
    return true;
}

bool bench_emit(struct bench_device *b, struct kernel_time t, void (*fn)(void *ctx, int i),
                void *ctx, struct status *st)
{
    double s;
    if (!bench_time(b, fn, ctx, &s, st))
        return status_wrap(st, "%s, %s, %d rows", t.op, t.format, t.rows);
    t.shape = b->shape->name;
    t.us = 1e6 * s;
    b->run->sink->time(b->run->sink->ctx, &t);
    return true;
}
