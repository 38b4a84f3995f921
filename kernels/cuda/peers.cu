/* peers.cu - finds out which GPUs reach each other, and maps their inboxes. */
#include "kernels/cuda/peers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/cuda/nccl.h"
#include "kernels/cuda/rank_device.h"

extern "C" {
#include "base/clock.h"
#include "base/hash.h"
}

namespace
{

const uint64_t LOOK_NS = 20 * NS_PER_MS; /* between two looks at the group */

struct card { /* what a rank tells the others of its GPU */
    uint64_t machine, process;
    char uuid[16];
    uint64_t address; /* of its inbox, in its process */
    cudaIpcMemHandle_t handle;
    uint32_t has_handle;
    uint32_t reaches; /* in the second round: it can write to all inboxes */
};

/* ---- who is where ---- */

uint64_t hash_file(const char *path)
{
    char text[128];
    FILE *f = fopen(path, "r");
    const size_t n = f ? fread(text, 1, sizeof text, f) : 0;
    if (f)
        fclose(f);
    return hash64(text, n, 1);
}

/* Process numbers are of a namespace. */
uint64_t process_id()
{
    struct stat info = {};
    stat("/proc/self/ns/pid", &info);
    return hash64(&info.st_ino, sizeof info.st_ino, (uint64_t)getpid());
}

bool share(struct comm *c, void *all, size_t n_bytes, status *st)
{
    size_t split[COMM_RANKS_MAX + 1];
    for (int i = 0; i <= comm_size(c); i++)
        split[i] = (size_t)i * n_bytes;
    return comm_all_gather(c, all, 1, split[comm_size(c)], split) || comm_ok(c, st);
}

bool failed(cudaError_t e, const char *what, int index, status *st)
{
    if (e == cudaSuccess)
        return false;
    cudaGetLastError();
    status_fail(st, STATUS_DEVICE, "CUDA device %d: %s: %s", index, what, cudaGetErrorString(e));
    return true;
}

/* ---- inboxes ---- */

/* Empty, before anybody can write to it. */
bool take_inbox(struct peers *p, int index, status *st)
{
    const size_t n_bytes = 2 * PEER_HALF_BYTES;
    char *at = NULL;
    if (failed(cudaMalloc(&at, n_bytes + sizeof(peer_state)), "take an inbox", index, st))
        return false;
    p->own = at;
    p->view.state = reinterpret_cast<peer_state *>(at + n_bytes);
    return !failed(cudaMemset(at, 0xff, n_bytes), "empty an inbox", index, st) &&
           !failed(cudaMemset(p->view.state, 0, sizeof(peer_state)), "empty an inbox", index, st) &&
           !failed(cudaHostAlloc((void **)&p->fault, sizeof *p->fault, cudaHostAllocMapped),
                   "take memory for faults", index, st) &&
           !failed(cudaHostGetDevicePointer((void **)&p->view.fault, p->fault, 0), "map memory",
                   index, st) &&
           !failed((memset((void *)p->fault, 0, sizeof *p->fault), cudaDeviceSynchronize()),
                   "empty an inbox", index, st);
}

void fill_card(card *c, const struct peers *p, int index)
{
    cudaDeviceProp prop;
    if (cudaGetDeviceProperties(&prop, index) == cudaSuccess)
        memcpy(c->uuid, &prop.uuid, sizeof c->uuid);
    c->machine = hash_file("/proc/sys/kernel/random/boot_id");
    c->process = process_id();
    c->address = (uint64_t)(uintptr_t)p->own;
    c->has_handle = cudaIpcGetMemHandle(&c->handle, p->own) == cudaSuccess;
    cudaGetLastError();
}

/* The visible device of that UUID, or -1. */
int find_device(const char uuid[16])
{
    cudaDeviceProp prop;
    int n = 0;
    cudaGetDeviceCount(&n);
    for (int i = 0; i < n; i++)
        if (cudaGetDeviceProperties(&prop, i) == cudaSuccess && memcmp(&prop.uuid, uuid, 16) == 0)
            return i;
    return -1;
}

bool reach_device(int index, int other)
{
    int can = 0;
    if (other == index)
        return true;
    if (other < 0 || cudaDeviceCanAccessPeer(&can, index, other) != cudaSuccess || !can)
        return false;
    const cudaError_t e = cudaDeviceEnablePeerAccess(other, 0);
    cudaGetLastError(); /* that it was enabled before is no fault */
    return e == cudaSuccess || e == cudaErrorPeerAccessAlreadyEnabled;
}

bool map_inbox(struct peers *p, int rank, const card *mine, const card *theirs, int index)
{
    if (theirs->machine != mine->machine || !reach_device(index, find_device(theirs->uuid)))
        return false;
    if (theirs->process == mine->process) {
        p->view.inbox[rank] = (char *)(uintptr_t)theirs->address;
        return true;
    }
    if (!theirs->has_handle ||
        cudaIpcOpenMemHandle(&p->mapped[rank], theirs->handle, cudaIpcMemLazyEnablePeerAccess) !=
            cudaSuccess) {
        cudaGetLastError();
        p->mapped[rank] = NULL;
        return false;
    }
    p->view.inbox[rank] = static_cast<char *>(p->mapped[rank]);
    return true;
}

/* All inboxes, or none is used by anybody. */
bool map_inboxes(struct peers *p, int index, bool wanted, bool *mapped, status *st)
{
    card cards[COMM_RANKS_MAX] = {};
    const int rank = p->view.rank, n = p->view.n_ranks;
    fill_card(&cards[rank], p, index);
    if (!share(p->comm, cards, sizeof *cards, st))
        return false;
    bool all = wanted;
    p->view.inbox[rank] = static_cast<char *>(p->own);
    for (int r = 0; r < n; r++) {
        if (r == rank)
            continue;
        p->same_gpu |= memcmp(cards[r].uuid, cards[rank].uuid, 16) == 0 &&
                       cards[r].machine == cards[rank].machine;
        all = all && map_inbox(p, r, &cards[rank], &cards[r], index);
    }
    cards[rank].reaches = all;
    if (!share(p->comm, cards, sizeof *cards, st))
        return false;
    *mapped = true;
    for (int r = 0; r < n; r++)
        *mapped = *mapped && cards[r].reaches;
    return true;
}

} // namespace

bool peers_choose_device(struct comm *c, const device_options *o, int *index, status *st)
{
    uint64_t machine[COMM_RANKS_MAX] = {};
    const int rank = comm_rank(c);
    rank_place place = {};
    place.index = o->index;
    place.has_local_rank = o->has_local_rank;
    place.local_rank = o->local_rank;
    machine[rank] = hash_file("/proc/sys/kernel/random/boot_id");
    if (!share(c, machine, sizeof *machine, st))
        return false;
    for (int r = 0; r < rank; r++)
        place.n_before += machine[r] == machine[rank];
    const cudaError_t e = cudaGetDeviceCount(&place.n_devices);
    if (e != cudaSuccess)
        return status_fail(st, STATUS_UNSUPPORTED, "rank %d has no CUDA device: %s", rank,
                           cudaGetErrorString(e));
    *index = rank_device(&place);
    return *index < place.n_devices ||
           status_fail(st, STATUS_BAD_INPUT, "rank %d wants CUDA device %d%s, and there are %d",
                       rank, *index, o->has_local_rank ? " by its local rank" : "",
                       place.n_devices);
}

struct peers *peers_open(struct device *d, struct comm *c, int n_tensor, bool by_nccl, status *st)
{
    bool mapped = false;
    struct peers *p = static_cast<struct peers *>(calloc(1, sizeof *p));
    if (!p) {
        status_fail(st, STATUS_BUSY, "no memory for the ranks' GPUs");
        return NULL;
    }
    p->comm = c;
    p->view.rank = comm_rank(c);
    p->view.n_ranks = comm_size(c);
    p->view.wait_ns = (n_tensor ? PASS_WAIT_MS : PEER_WAIT_MS) * NS_PER_MS;
    p->n_tensor = n_tensor;
    if (!take_inbox(p, d->index, st) || !map_inboxes(p, d->index, !by_nccl, &mapped, st))
        goto fail;
    if (!mapped && !(p->nccl = nccl_open(c, st)))
        goto fail;
    return p;

fail:
    peers_close(p);
    return NULL;
}

void peers_stop(struct peers *p)
{
    p->fault->stop = 1;
    if (p->nccl)
        nccl_abort(p->nccl);
}

void peers_close(struct peers *p)
{
    if (!p)
        return;
    nccl_close(p->nccl);
    for (int r = 0; r < COMM_RANKS_MAX; r++)
        if (p->mapped[r])
            cudaIpcCloseMemHandle(p->mapped[r]);
    cudaFree(p->own);
    cudaFreeHost(p->fault);
    free(p);
}

bool peers_look(struct peers *p, status *st)
{
    const uint32_t missing = p->fault->missing;
    const uint64_t now_ns = clock_now(&clock_real);
    bool ok = true;
    if (missing)
        ok = status_fail(st, STATUS_DEVICE, "rank %u's part of a %s did not come in %d ms",
                         missing - 1, p->n_tensor ? "pass" : "sum",
                         p->n_tensor ? PASS_WAIT_MS : PEER_WAIT_MS);
    if (ok && p->nccl)
        ok = nccl_ok(p->nccl, st);
    if (ok && now_ns - p->looked_ns >= LOOK_NS) {
        p->looked_ns = now_ns;
        ok = comm_look(p->comm, st);
    }
    if (!ok)
        p->fault->stop = 1;
    return ok;
}
