/* peers_check.cu - one sum whose result is known, before any that matters.
 *
 * There are machines whose GPUs say that they reach each other and whose bus brings other words, or
 * none (an IOMMU that translates between them).  It also makes what NCCL makes at its first
 * exchange, before anything is timed or recorded. */
#include <sched.h>
#include <stdlib.h>

#include "kernels/cuda/peers.h"
#include "kernels/half.h"

namespace
{

const int N = 64 * 1024; /* values; all sums below 256, which 16-bit floats hold */

float part(int rank, int i)
{
    return (float)(rank + 1 + i % 7);
}

uint16_t act(const device *d, float v)
{
    return d->act == DT_F16 ? f32_to_f16(v) : f32_to_bf16(v);
}

bool is_sum(const device *d, const uint16_t *y)
{
    for (int i = 0; i < N; i++) {
        float sum = 0;
        for (int r = 0; r < d->peers->view.n_ranks; r++)
            sum += part(r, i);
        if (y[i] != act(d, sum))
            return false;
    }
    return true;
}

/* False: a rank was missed. */
bool await_stream(device *d, status *st)
{
    cudaError_t e;
    while ((e = cudaStreamQuery(d->stream)) == cudaErrorNotReady) {
        if (!peers_look(d->peers, st))
            return false;
        sched_yield();
    }
    cuda_check(d, e, "try a sum");
    return peers_look(d->peers, st);
}

bool check(device *d, uint16_t *host, void *at, status *st)
{
    const size_t n_bytes = N * sizeof *host;
    for (int i = 0; i < N; i++)
        host[i] = act(d, part(d->peers->view.rank, i));
    cuda_check(d, cudaMemcpyAsync(at, host, n_bytes, cudaMemcpyHostToDevice, d->stream), "copy in");
    all_reduce_args a = {};
    a.y = at;
    a.x = at;
    a.rows = 1;
    a.width = N;
    cuda_all_reduce(d, &a);
    cuda_check(d, cudaMemcpyAsync(host, at, n_bytes, cudaMemcpyDeviceToHost, d->stream),
               "copy out");
    if (!await_stream(d, st))
        return status_wrap(st, "try a sum%s", d->peers->nccl ? "" : " (peer-memory off uses NCCL)");
    return is_sum(d, host) ||
           status_fail(st, STATUS_DEVICE, "a sum of the ranks came out wrong: %s",
                       d->peers->nccl ? "by NCCL" : "peer-memory off would use NCCL");
}

} // namespace

bool peers_check(device *d, status *st)
{
    uint16_t *host = static_cast<uint16_t *>(malloc(N * sizeof *host));
    void *at = NULL;
    if (!host)
        return status_fail(st, STATUS_BUSY, "no memory to try a sum");
    cuda_check(d, cudaMalloc(&at, N * sizeof *host), "take memory to try a sum");
    const bool ok = d->fault == cudaSuccess && check(d, host, at, st);
    cudaFree(at);
    free(host);
    if (d->fault == cudaSuccess || st->code != STATUS_OK)
        return ok;
    return status_fail(st, STATUS_DEVICE, "CUDA device %d: %s: %s", d->index, d->fault_at,
                       cudaGetErrorString(d->fault));
}
