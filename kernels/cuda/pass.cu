/* pass.cu - activations on their way to the next stage.
 *
 * The sender writes them into the next stage's inbox as soon as the half is free, and goes on; the
 * receiver waits for the very words, copies and empties them, and then says so in the sender's
 * memory.  So a stage may be two passes ahead of the next, and neither host has a part in it: both
 * ops are recorded in graphs like any other. */
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/nccl.h"
#include "kernels/cuda/peer.cuh"

namespace
{

constexpr int PASS_THREADS = 256, PASS_BLOCKS_MAX = 64;

__device__ __forceinline__ uint4 *pass_inbox(const peer_view &v, int rank, uint32_t turn)
{
    return reinterpret_cast<uint4 *>(v.inbox[rank] + (turn & 1) * PEER_HALF_BYTES);
}

/* Until at most one pass before this one is not taken. */
__device__ void await_half(const peer_view &v, int next, uint32_t turn)
{
    const uint32_t LOOKS = 1024; /* between two looks at the clock */
    uint64_t since_ns = 0;
    for (uint32_t i = 1; (int32_t)(turn - peer_load(&v.state->n_taken)) >= 2; i++)
        if (i % LOOKS == 0 && !may_wait(v, next, &since_ns))
            break;
    __threadfence_system(); /* the half is written after it was found empty */
}

/* grid: any   block: [PASS_THREADS]   x: [n] chunks */
__global__ void __launch_bounds__(PASS_THREADS)
    send_kernel(const __grid_constant__ peer_view v, int next, const uint4 *x, int n)
{
    await_previous();
    const uint32_t turn = peer_load(&v.state->n_sent);
    if (threadIdx.x == 0)
        await_half(v, next, turn);
    __syncthreads();
    uint4 *inbox = pass_inbox(v, next, turn);
    for (int i = (int)(blockIdx.x * PASS_THREADS + threadIdx.x); i < n;
         i += (int)gridDim.x * PASS_THREADS)
        peer_store(inbox + i, not_empty(x[i], NAN_ACTS));
    if (all_came(&v.state->n_sending))
        v.state->n_sent = turn + 1;
}

/* grid: any   block: [PASS_THREADS] */
__global__ void __launch_bounds__(PASS_THREADS)
    recv_kernel(const __grid_constant__ peer_view v, int from, uint4 *x, int n)
{
    await_previous();
    const uint32_t turn = peer_load(&v.state->n_received);
    uint4 *inbox = pass_inbox(v, v.rank, turn);
    for (int i = (int)(blockIdx.x * PASS_THREADS + threadIdx.x); i < n;
         i += (int)gridDim.x * PASS_THREADS) {
        x[i] = await_word(v, from, inbox + i, peer_load(inbox + i));
        empty(inbox + i);
    }
    __threadfence_system(); /* empty before it is said to be taken */
    if (all_came(&v.state->n_receiving)) {
        v.state->n_received = turn + 1;
        __threadfence_system();
        peer_store(&state_of(v, from)->n_taken, turn + 1);
    }
}

/* The rank of this one's place, `by` stages on. */
int neighbour(const peers *p, int by)
{
    return (p->view.rank + by * p->n_tensor + p->view.n_ranks) % p->view.n_ranks;
}

int chunks_of(const pass_args *a)
{
    return (int)((int64_t)a->rows * a->width * 2 / (int64_t)sizeof(uint4));
}

launch_shape shape_for(int n)
{
    const int blocks = (n + PASS_THREADS - 1) / PASS_THREADS;
    return {dim3((unsigned)(blocks < PASS_BLOCKS_MAX ? blocks : PASS_BLOCKS_MAX)),
            dim3(PASS_THREADS), 0, 0};
}

void pass_by_nccl(struct device *d, int rank, const nccl_part *with)
{
    nccl_part part[COMM_RANKS_MAX] = {};
    status st = {};
    part[rank] = *with;
    if (d->fault == cudaSuccess && !nccl_exchange(d->grid->nccl, part, d->stream, &st))
        cuda_check(d, cudaErrorUnknown, st.msg);
}

} /* namespace */

void cuda_send(struct device *d, const struct pass_args *a)
{
    const int to = neighbour(d->grid, 1), n = chunks_of(a), most = PEER_HALF_BYTES / sizeof(uint4);
    const uint4 *x = (const uint4 *)a->x;
    const nccl_part all = {x, (size_t)n * sizeof *x, NULL, 0};
    if (d->grid->nccl) {
        pass_by_nccl(d, to, &all);
        return;
    }
    for (int i = 0; i < n; i += most) {
        const int part = n - i < most ? n - i : most;
        launch(d, "send", shape_for(part), send_kernel, d->grid->view, to, x + i, part);
    }
}

void cuda_recv(struct device *d, const struct pass_args *a)
{
    const int from = neighbour(d->grid, -1), n = chunks_of(a);
    const int most = PEER_HALF_BYTES / sizeof(uint4);
    uint4 *x = (uint4 *)a->x;
    const nccl_part all = {NULL, 0, x, (size_t)n * sizeof *x};
    if (d->grid->nccl) {
        pass_by_nccl(d, from, &all);
        return;
    }
    for (int i = 0; i < n; i += most) {
        const int part = n - i < most ? n - i : most;
        launch(d, "recv", shape_for(part), recv_kernel, d->grid->view, from, x + i, part);
    }
}
