/* bench_ranks.c - what ranks and stages do together, each rank a device and a thread.
 *
 * All ranks make the same calls as often as rank 0; its clock says how long sums and rows of logits
 * took.  A pass has two ends: the first stage's clock is that of sends, the last one's of receives.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/bench_int.h"
#include "kernels/comm.h"

enum { WAIT_MS = 60000 }; /* for a rank that makes its weights */

static const int head_counts[] = {1, 16, 64, 256, 0};

struct team {
    const struct bench_run *run;
    int n;
    bool is_grid;                   /* they are stages of one rank each; else ranks of one stage */
    void *memory;                   /* of the group */
    double pass_us[COMM_RANKS_MAX]; /* each its own; read behind a barrier */
    int32_t split[COMM_RANKS_MAX + 1]; /* of the vocabulary */
};

struct rank {
    struct team *team;
    int index;
    pthread_t thread;
    struct status st;
};

struct rank_call {
    struct bench_device *b;
    const struct team *team;
    const struct bench_matrix *m;
    struct norm norm;
    int index, rows;
};

/* Rank 0 tells. */
static bool emit(const struct rank_call *c, struct kernel_time t, void (*fn)(void *ctx, int i),
                 struct status *st)
{
    double s;
    void *ctx = (void *)(uintptr_t)c;
    t.rows = c->rows;
    return c->index == 0 ? bench_emit(c->b, t, fn, ctx, st) : bench_time(c->b, fn, ctx, &s, st);
}

/* ---- sums ---- */

/* clang-format off: argument structs are read in lines, as a call is. */
static void call_all_reduce(void *ctx, int i)
{
    const struct rank_call *c = ctx;
    const struct bench_device *b = c->b;
    (void)i;
    b->ops->all_reduce(
        b->dev, &(struct all_reduce_args){
                    .y = b->y, .x = b->x, .add = b->y, .rows = c->rows, .width = b->shape->hidden});
}
/* clang-format on */

static bool run_all_reduce(struct rank_call *c, struct status *st)
{
    struct bench_device *b = c->b;
    bench_batch(b, 1, 1, 1, 0);
    for (const int *rows = bench_row_counts; *rows && *rows <= b->rows_wanted; rows++) {
        c->rows = *rows;
        const double bytes = 3.0 * *rows * b->shape->hidden * (double)b->act_bytes;
        const struct kernel_time t = {.op = "all_reduce", .format = "-", .bytes = bytes};
        if (!emit(c, t, call_all_reduce, st))
            return false;
    }
    return true;
}

/* ---- rows of logits ---- */

/* clang-format off: argument structs are read in lines, as a call is. */
static void call_head(void *ctx, int i)
{
    const struct rank_call *c = ctx;
    const struct bench_device *b = c->b;
    b->ops->head(b->dev, &(struct head_args){.logits = b->logits,
                                             .x = b->x,
                                             .n = c->rows,
                                             .norm = &c->norm,
                                             .w = &c->m->w[(size_t)i % c->m->n_copies][0],
                                             .split = c->team->split});
}
/* clang-format on */

static bool time_heads(struct rank_call *c, const struct bench_product *p, struct status *st)
{
    struct bench_device *b = c->b;
    for (const int *rows = head_counts; *rows && *rows <= b->heads_max && *rows <= b->rows_wanted;
         rows++) {
        c->rows = *rows;
        bench_batch(b, *rows, 1, BLOCK_TOKENS, *rows);
        const double row = p->in * (double)b->act_bytes + 4.0 * b->shape->vocab;
        const struct kernel_time t = {.op = "head_split",
                                      .format = bench_formats[0].name,
                                      .bytes = bench_weight_bytes(c->m, p) + *rows * row,
                                      .flops = 2.0 * *rows * p->in * p->n[0]};
        if (!emit(c, t, call_head, st))
            return false;
    }
    return true;
}

static bool run_head(struct rank_call *c, struct status *st)
{
    const struct team *t = c->team;
    const int rows = t->split[c->index + 1] - t->split[c->index];
    const struct bench_product p = {c->b->shape->hidden, 1, {rows}};
    struct bench_matrix *m = calloc(1, sizeof *m);
    if (!m)
        return status_fail(st, STATUS_BUSY, "no memory for matrices");
    m->format = bench_formats;
    c->m = m;
    c->norm = (struct norm){.kind = NORM_RMS, .w = c->b->gain, .eps = BENCH_EPS};
    const bool ok = bench_weights(c->b, &p, m, 1, st) && time_heads(c, &p, st);
    free(m);
    return ok;
}

/* ---- passes ---- */

static void call_pass(void *ctx, int i)
{
    const struct rank_call *c = ctx;
    const struct bench_device *b = c->b;
    const struct pass_args a = {.x = b->x, .rows = c->rows, .width = b->shape->hidden};
    (void)i;
    if (c->index > 0)
        b->ops->recv(b->dev, &a);
    if (c->index < c->team->n - 1)
        b->ops->send(b->dev, &a);
}

static void tell_pass(const struct rank_call *c, const char *op, int index)
{
    const struct bench_device *b = c->b;
    const struct kernel_sink *sink = b->run->sink;
    if (!bench_wants(b->run, op))
        return;
    sink->time(sink->ctx, &(struct kernel_time){.shape = b->shape->name,
                                                .op = op,
                                                .format = "-",
                                                .rows = c->rows,
                                                .us = c->team->pass_us[index],
                                                .bytes = 2.0 * c->rows * b->shape->hidden *
                                                         (double)b->act_bytes});
}

static bool run_pass(struct rank_call *c, struct team *team, struct status *st)
{
    struct bench_device *b = c->b;
    bench_batch(b, 1, 1, 1, 0);
    for (const int *rows = bench_row_counts; *rows && *rows <= b->rows_wanted; rows++) {
        double s;
        c->rows = *rows;
        if (!bench_time(b, call_pass, c, &s, st))
            return false;
        team->pass_us[c->index] = 1e6 * s;
        if (!bench_meet(b, st))
            return false;
        if (c->index == 0) {
            tell_pass(c, "send", 0);
            tell_pass(c, "recv", team->n - 1);
        }
    }
    return true;
}

/* ---- a rank, and all of them ---- */

static bool run_device(struct rank *r, struct comm *group)
{
    struct team *t = r->team;
    struct bench_run run = *t->run;
    const bool wants_head = !t->is_grid && bench_wants(&run, "head_split");
    const struct bench_needs needs = {
        .x_width = run.shape->hidden, .y_width = run.shape->hidden, .logits = wants_head};
    struct bench_device b;
    run.has_vendor = false;
    run.comm = t->is_grid ? NULL : group;
    run.grid = t->is_grid ? group : NULL;
    struct rank_call c = {.b = &b, .team = t, .index = r->index};
    bool ok = bench_device_open(&b, &run, &needs, &r->st);
    if (t->is_grid)
        ok = ok && run_pass(&c, t, &r->st);
    else
        ok = ok && (!bench_wants(&run, "all_reduce") || run_all_reduce(&c, &r->st)) &&
             (!wants_head || run_head(&c, &r->st));
    bench_device_close(&b);
    return ok;
}

static void *rank_main(void *arg)
{
    struct rank *r = arg;
    struct comm *group = comm_open(r->team->memory, r->index, &r->st);
    if (!group)
        return NULL;
    comm_wait_set(group, WAIT_MS);
    if (!run_device(r, group))
        comm_abort(group, &r->st);
    comm_close(group);
    return NULL;
}

static bool run_threads(struct team *t, struct status *st)
{
    struct rank rank[COMM_RANKS_MAX] = {{0}};
    int n = 1;
    for (int i = 0; i < t->n; i++) {
        rank[i].team = t;
        rank[i].index = i;
    }
    while (n < t->n && pthread_create(&rank[n].thread, NULL, rank_main, &rank[n]) == 0)
        n++;
    rank_main(&rank[0]); /* where a thread is missing, the others give it up */
    for (int i = 1; i < n; i++)
        pthread_join(rank[i].thread, NULL);
    for (int i = 0; i < n; i++)
        if (rank[i].st.code != STATUS_OK) {
            *st = rank[i].st;
            return false;
        }
    return n == t->n || status_fail(st, STATUS_BUSY, "start the thread of rank %d", n);
}

static bool run_team(const struct bench_run *r, bool is_grid, struct status *st)
{
    struct team t = {.run = r, .n = r->wanted->n_ranks, .is_grid = is_grid};
    for (int i = 0; i <= t.n; i++)
        t.split[i] = (int32_t)((int64_t)r->shape->vocab * i / t.n);
    t.memory = comm_memory_take(t.n, is_grid ? t.n : 1, st);
    const bool ok = t.memory && run_threads(&t, st);
    comm_memory_drop(t.memory);
    return ok || status_wrap(st, "%d %s", t.n, is_grid ? "stages" : "ranks");
}

bool bench_ranks(const struct bench_run *r, struct status *st)
{
    if (r->wanted->n_ranks < 2 || !bench_wants_format(r, "-", true))
        return true;
    if ((bench_wants(r, "all_reduce") || bench_wants(r, "head_split")) && !run_team(r, false, st))
        return false;
    return !(bench_wants(r, "send") || bench_wants(r, "recv")) || run_team(r, true, st);
}
