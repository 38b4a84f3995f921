/* ops_module.cu - the CUDA module with a clock at each op, for tests/gpu/op_times.sh: where the
 * device's time of a step goes.
 *
 * Events in the stream stand behind each op, and steps are not recorded as graphs.  Steps of a kind
 * (tokens, sequences) are added up by op, products also by the widths of their outs and input;
 * after 4, 8, 16, ... of them, less those that warm up, a table says: calls, microseconds and share
 * of a step.  Not at the end: an engine is killed as often as it closes.
 *
 * A kernel cannot begin before the event in front of it has been passed, so what kernels gain by
 * beginning early is missing: the sum is more than an undisturbed step takes, by microseconds an
 * op. What the host takes to send a step is not in it: the device waits until all of it is sent
 * (but not for ever: a stream that is full holds the host).
 *
 * Of tensor-parallel ranks the first prints.  The sum behind the embedding has a line of its own:
 * in it ranks that began later are waited for. */
#include <assert.h>
#include <stdarg.h>
#include <stdlib.h>

#include "kernels/cuda/peers.h"
#include "kernels/cuda/ptx_peer.cuh"
#include "tests/gpu/wrap_module.cuh"

namespace
{

enum { DEVICES_MAX = 16, OPS_MAX = 4096, KINDS_MAX = 1024, ROWS_MAX = 32, WARM = 2, PRINT_MIN = 4 };
const uint64_t HOLD_NS = 5000000; /* longer than 500 ops take to be sent */

struct op {
    const char *name;
    int n_outs, out[MATMUL_OUTS_MAX], in; /* of products; else 0 */
};

struct flight { /* a step that was begun and not waited for */
    int n_tokens, n_seqs, n;
    op ops[OPS_MAX];                /* [n] */
    cudaEvent_t event[OPS_MAX + 1]; /* [n + 1] around each; made when first needed */
};

struct row {
    op what;
    long n_calls;
    double ms;
};

struct kind { /* of steps */
    int n_tokens, n_seqs, n_rows;
    long n_seen, n_steps; /* with those that warm up, and without */
    double ms;
    row rows[ROWS_MAX]; /* [n_rows] in order of the step */
};

struct watch { /* of a device: its thread's */
    flight flights[DEVICE_DEPTH];
    uint64_t n_begun, n_waited;
    uint32_t *sent; /* host memory that the device reads: the step that was sent last, from 1 on */
    int n_kinds;
    kind kinds[KINDS_MAX]; /* [n_kinds] */
};

watch watches[DEVICES_MAX];

void must(cudaError_t e)
{
    if (e == cudaSuccess)
        return;
    fprintf(stderr, "ops module: %s\n", cudaGetErrorString(e));
    abort();
}

watch *watch_of(const device *d)
{
    assert(d->index < DEVICES_MAX);
    return &watches[d->index];
}

/* Marks. */

flight *in_hand(watch *w)
{
    return &w->flights[(w->n_begun - 1) % DEVICE_DEPTH];
}

void mark(device *d, flight *f)
{
    cudaEvent_t *e = &f->event[f->n];
    if (!*e)
        must(cudaEventCreate(e));
    must(cudaEventRecord(*e, d->stream));
}

void end_op(device *d, const op &what)
{
    flight *f = in_hand(watch_of(d));
    assert(f->n < OPS_MAX);
    f->ops[f->n++] = what;
    mark(d, f);
}

op product(const char *name, const matmul_args *a)
{
    op o = {name, a->n_outs, {}, (int)a->out[0].w->cols};
    for (int i = 0; i < a->n_outs; i++)
        o.out[i] = (int)a->out[i].w->rows;
    return o;
}

bool is_after_embed(const device *d)
{
    const flight *f = in_hand(watch_of(d));
    return f->n > 0 && strcmp(f->ops[f->n - 1].name, "embed") == 0;
}

/* Until `step` is sent. */
__global__ void hold_kernel(const uint32_t *sent, uint32_t step)
{
    const uint64_t start = global_ns();
    while ((int32_t)(peer_load(sent) - step) < 0 && global_ns() - start < HOLD_NS) {
    }
}

void hold(device *d, const watch *w)
{
    cudaLaunchConfig_t config = {};
    config.gridDim = config.blockDim = dim3(1);
    config.stream = d->stream;
    must(cudaLaunchKernelEx(&config, hold_kernel, (const uint32_t *)w->sent, (uint32_t)w->n_begun));
}

/* Sums. */

bool is_same(const op *a, const op *b)
{
    return strcmp(a->name, b->name) == 0 && a->n_outs == b->n_outs && a->in == b->in &&
           memcmp(a->out, b->out, sizeof a->out) == 0;
}

/* NULL <=> there are too many. */
kind *kind_of(watch *w, const flight *f)
{
    for (int i = 0; i < w->n_kinds; i++)
        if (w->kinds[i].n_tokens == f->n_tokens && w->kinds[i].n_seqs == f->n_seqs)
            return &w->kinds[i];
    if (w->n_kinds == KINDS_MAX)
        return NULL;
    kind *k = &w->kinds[w->n_kinds++];
    k->n_tokens = f->n_tokens;
    k->n_seqs = f->n_seqs;
    return k;
}

row *row_of(kind *k, const op *what)
{
    int i = 0;
    while (i < k->n_rows && !is_same(&k->rows[i].what, what))
        i++;
    assert(i < ROWS_MAX);
    if (i == k->n_rows)
        k->rows[k->n_rows++].what = *what;
    return &k->rows[i];
}

float between(cudaEvent_t from, cudaEvent_t to)
{
    float ms;
    must(cudaEventElapsedTime(&ms, from, to));
    return ms;
}

void add(kind *k, const flight *f)
{
    k->n_steps++;
    k->ms += between(f->event[0], f->event[f->n]);
    for (int i = 0; i < f->n; i++) {
        row *r = row_of(k, &f->ops[i]);
        r->n_calls++;
        r->ms += between(f->event[i], f->event[i + 1]);
    }
}

/* The table. */

struct text {
    char at[8192];
    int n;
};

__attribute__((format(printf, 2, 3))) void put(text *t, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    const int n = vsnprintf(t->at + t->n, sizeof t->at - t->n, format, args);
    va_end(args);
    assert(n >= 0 && (size_t)n < sizeof t->at - t->n);
    t->n += n;
}

/* matmul 2x14336x4096, or with outs that are not alike 4096+1024+1024x4096 */
void put_name(text *t, const op *o)
{
    const int start = t->n;
    bool alike = o->n_outs > 1;
    for (int i = 1; i < o->n_outs; i++)
        alike = alike && o->out[i] == o->out[0];
    put(t, "ops:   %s", o->name);
    if (alike)
        put(t, " %dx%d", o->n_outs, o->out[0]);
    for (int i = 0; !alike && i < o->n_outs; i++)
        put(t, "%c%d", i == 0 ? ' ' : '+', o->out[i]);
    if (o->n_outs > 0)
        put(t, "x%d", o->in);
    put(t, "%*s", start + 50 - t->n, "");
}

/* In one piece: other devices print too. */
void print(const device *d, const kind *k)
{
    text t;
    t.n = 0;
    put(&t, "ops: device %d, %d tokens of %d sequences: %ld steps, %.1f us a step\n", d->index,
        k->n_tokens, k->n_seqs, k->n_steps, 1e3 * k->ms / (double)k->n_steps);
    for (int i = 0; i < k->n_rows; i++) {
        const row *r = &k->rows[i];
        put_name(&t, &r->what);
        put(&t, "%7.1f calls %10.1f us %6.2f %%\n", (double)r->n_calls / (double)k->n_steps,
            1e3 * r->ms / (double)k->n_steps, 100 * r->ms / k->ms);
    }
    fputs(t.at, stderr);
}

bool is_power_of_2(long n)
{
    return (n & (n - 1)) == 0;
}

void note(const device *d, watch *w, const flight *f)
{
    kind *k = kind_of(w, f);
    if (!k || k->n_seen++ < WARM)
        return;
    add(k, f);
    if (k->n_steps >= PRINT_MIN && is_power_of_2(k->n_steps))
        print(d, k);
}

/* Steps. */

/* Before any rank runs a step: what waits for another rank would keep memory from being taken, and
 * a kernel from being loaded. */
bool work_set(device *d, const device_limits *l, void *work, status *st)
{
    watch *w = watch_of(d);
    if (!real->ops->work_set(d, l, work, st))
        return false;
    must(cudaSetDevice(d->index));
    if (!w->sent)
        must(cudaHostAlloc((void **)&w->sent, sizeof *w->sent, cudaHostAllocMapped));
    *w->sent = 0;
    w->n_begun = w->n_waited = 0;
    hold(d, w);
    must(cudaStreamSynchronize(d->stream));
    return true;
}

bool step_begin(device *d, const batch *b, uint64_t)
{
    watch *w = watch_of(d);
    must(cudaSetDevice(d->index)); /* the thread may not have opened it */
    w->n_begun++;
    flight *f = in_hand(w);
    f->n_tokens = b->n_tokens;
    f->n_seqs = b->n_seqs;
    f->n = 0;
    hold(d, w);
    mark(d, f);
    real->ops->step_begin(d, b, 0);
    end_op(d, {"begin"});
    return false;
}

void step_end(device *d)
{
    watch *w = watch_of(d);
    real->ops->step_end(d);
    end_op(d, {"end"});
    __atomic_store_n(w->sent, (uint32_t)w->n_begun, __ATOMIC_RELEASE);
}

bool step_wait(device *d, sample_out *out, status *st)
{
    watch *w = watch_of(d);
    const flight *f = &w->flights[w->n_waited++ % DEVICE_DEPTH];
    const bool prints = !d->peers || d->peers->view.rank == 0;
    if (!real->ops->step_wait(d, out, st))
        return false;
    must(cudaSetDevice(d->index));
    must(cudaEventSynchronize(f->event[f->n]));
    if (prints && f->n_tokens > 0)
        note(d, w, f);
    return true;
}

/* Ops. */

void embed(device *d, const embed_args *a)
{
    real->ops->embed(d, a);
    end_op(d, {"embed"});
}

void norm(device *d, const norm_args *a)
{
    real->ops->norm(d, a);
    end_op(d, {"norm"});
}

void matmul(device *d, const matmul_args *a)
{
    real->ops->matmul(d, a);
    end_op(d, product("matmul", a));
}

void rope_kv(device *d, const rope_kv_args *a)
{
    real->ops->rope_kv(d, a);
    end_op(d, {"rope_kv"});
}

void matmul_rope_kv(device *d, const matmul_args *m, const rope_kv_args *r)
{
    real->ops->matmul_rope_kv(d, m, r);
    end_op(d, product("matmul_rope_kv", m));
}

void attention(device *d, const attention_args *a)
{
    real->ops->attention(d, a);
    end_op(d, {"attention"});
}

void all_reduce(device *d, const all_reduce_args *a)
{
    real->ops->all_reduce(d, a);
    end_op(d, {is_after_embed(d) ? "all_reduce of embed" : "all_reduce"});
}

void send(device *d, const pass_args *a)
{
    real->ops->send(d, a);
    end_op(d, {"send"});
}

void recv(device *d, const pass_args *a)
{
    real->ops->recv(d, a);
    end_op(d, {"recv"});
}

void head(device *d, const head_args *a)
{
    real->ops->head(d, a);
    end_op(d, {"head", 1, {(int)a->w->rows}, (int)a->w->cols});
}

void sample(device *d, const sample_args *a)
{
    real->ops->sample(d, a);
    end_op(d, {"sample"});
}

void change(ops *table, const char *)
{
    table->work_set = work_set;
    table->step_begin = step_begin;
    table->embed = embed;
    table->norm = norm;
    table->matmul = matmul;
    table->rope_kv = rope_kv;
    table->matmul_rope_kv = matmul_rope_kv;
    table->attention = attention;
    table->all_reduce = all_reduce;
    table->send = send;
    table->recv = recv;
    table->head = head;
    table->sample = sample;
    table->step_end = step_end;
    table->step_wait = step_wait;
}

} // namespace
