/* peers_check.cu - one sum and one pass whose results are known, before any that matter.
 *
 * There are machines whose GPUs say that they reach each other and whose bus brings other words, or
 * none (an IOMMU that translates between them).  It also makes what NCCL makes at its first
 * exchange, before anything is timed or recorded, and before memory is counted. */
#include <sched.h>
#include <stdlib.h>

#include "kernels/cuda/peers.h"
#include "kernels/half.h"

namespace
{

const int N = 64 * 1024; /* values; all sums below 256, which 16-bit floats hold */
const size_t N_BYTES = N * sizeof(uint16_t);

struct trial {
    const struct peers *peers;
    uint16_t *host; /* [N] */
    void *at;       /* [N], of the device */
};

float part(int rank, int i)
{
    return (float)(rank + 1 + i % 7);
}

uint16_t act(const device *d, float v)
{
    return d->act == DT_F16 ? f32_to_f16(v) : f32_to_bf16(v);
}

/* What the ranks [first, end) have, added. */
bool is_sum(const device *d, const uint16_t *y, int first, int end)
{
    for (int i = 0; i < N; i++) {
        float sum = 0;
        for (int r = first; r < end; r++)
            sum += part(r, i);
        if (y[i] != act(d, sum))
            return false;
    }
    return true;
}

void put_part(device *d, const trial *t)
{
    for (int i = 0; i < N; i++)
        t->host[i] = act(d, part(t->peers->view.rank, i));
    cuda_check(d, cudaMemcpyAsync(t->at, t->host, N_BYTES, cudaMemcpyHostToDevice, d->stream),
               "copy in");
}

bool await_stream(device *d, struct peers *p, status *st)
{
    cudaError_t e;
    while ((e = cudaStreamQuery(d->stream)) == cudaErrorNotReady) {
        if (!peers_look(p, st))
            return false;
        sched_yield();
    }
    cuda_check(d, e, p->n_tensor ? "try a pass" : "try a sum");
    return peers_look(p, st);
}

/* False: a rank was missed. */
bool fetch(device *d, const trial *t, struct peers *p, status *st)
{
    cuda_check(d, cudaMemcpyAsync(t->host, t->at, N_BYTES, cudaMemcpyDeviceToHost, d->stream),
               "copy out");
    return await_stream(d, p, st);
}

bool judge(const struct peers *p, const char *what, bool good, status *st)
{
    return good || status_fail(st, STATUS_DEVICE, "a %s came out wrong: %s", what,
                               p->nccl ? "by NCCL" : "peer-memory off would use NCCL");
}

bool check_sum(device *d, trial *t, status *st)
{
    struct peers *p = d->peers;
    all_reduce_args a = {};
    a.y = t->at;
    a.x = t->at;
    a.rows = 1;
    a.width = N;
    t->peers = p;
    put_part(d, t);
    cuda_all_reduce(d, &a);
    if (!fetch(d, t, p, st))
        return status_wrap(st, "try a sum%s", p->nccl ? "" : " (peer-memory off uses NCCL)");
    return judge(p, "sum of the ranks", is_sum(d, t->host, 0, p->view.n_ranks), st);
}

/* Down the chain of stages. */
bool check_pass(device *d, trial *t, status *st)
{
    struct peers *p = d->grid;
    const int from = p->view.rank - p->n_tensor;
    const bool is_last = p->view.rank + p->n_tensor >= p->view.n_ranks;
    const pass_args a = {t->at, 1, N};
    bool good = true, came = true;
    t->peers = p;
    if (from >= 0) {
        cuda_recv(d, &a);
        came = fetch(d, t, p, st);
        good = came && is_sum(d, t->host, from, from + 1);
    }
    if (came && !is_last) {
        put_part(d, t);
        cuda_send(d, &a);
        came = await_stream(d, p, st);
    }
    if (!came)
        return status_wrap(st, "try a pass%s", p->nccl ? "" : " (peer-memory off uses NCCL)");
    return judge(p, "pass from stage to stage", good, st);
}

} // namespace

bool peers_check(device *d, status *st)
{
    trial t = {NULL, static_cast<uint16_t *>(malloc(N_BYTES)), NULL};
    if (!t.host)
        return status_fail(st, STATUS_BUSY, "no memory to try a sum");
    cuda_check(d, cudaMalloc(&t.at, N_BYTES), "take memory to try a sum");
    const bool ok = d->fault == cudaSuccess && (!d->peers || check_sum(d, &t, st)) &&
                    (!d->grid || check_pass(d, &t, st));
    cudaFree(t.at);
    free(t.host);
    if (d->fault == cudaSuccess || st->code != STATUS_OK)
        return ok;
    return status_fail(st, STATUS_DEVICE, "CUDA device %d: %s: %s", d->index, d->fault_at,
                       cudaGetErrorString(d->fault));
}
