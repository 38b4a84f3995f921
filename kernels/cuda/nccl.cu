/* nccl.cu - finds NCCL, makes a communicator, and exchanges bytes by it.
 *
 * The few declarations are NCCL's own API, which is stable since 2.14: it builds where NCCL is not
 * installed. */
#include "kernels/cuda/nccl.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

extern "C" {
#include "base/clock.h"
}

namespace
{

const char LIBRARY[] = "libnccl.so.2";

/* ---- the API ---- */

typedef struct ncclComm *comm_t;
enum { SUCCESS = 0, IN_PROGRESS = 7, TYPE_UINT8 = 1 };

struct unique_id {
    char bytes[128];
};

struct config { /* ncclConfig_t as of 2.14; later fields take their defaults */
    size_t size;
    unsigned magic, version;
    int blocking;
};

struct api {
    int (*get_unique_id)(unique_id *);
    int (*init_rank)(comm_t *, int n_ranks, unique_id, int rank, config *);
    int (*async_error)(comm_t, int *);
    int (*abort)(comm_t);
    int (*send)(const void *, size_t, int type, int peer, comm_t, cudaStream_t);
    int (*recv)(void *, size_t, int type, int peer, comm_t, cudaStream_t);
    int (*group_start)(void);
    int (*group_end)(void);
    const char *(*error_string)(int);
};

pthread_once_t load_once = PTHREAD_ONCE_INIT;
api lib;
char load_error[160];

bool find(void *library, const char *name, void *to)
{
    void *at = dlsym(library, name);
    memcpy(to, &at, sizeof at);
    if (!at)
        snprintf(load_error, sizeof load_error, "%s has no %s", LIBRARY, name);
    return at != NULL;
}

/* NVLink multicast is never used: a communicator would set it up where there is some. */
void load()
{
    setenv("NCCL_NVLS_ENABLE", "0", 1);
    void *l = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!l) {
        snprintf(load_error, sizeof load_error, "%s", dlerror());
        return;
    }
    const bool found =
        find(l, "ncclGetUniqueId", &lib.get_unique_id) &&
        find(l, "ncclCommInitRankConfig", &lib.init_rank) &&
        find(l, "ncclCommGetAsyncError", &lib.async_error) &&
        find(l, "ncclCommAbort", &lib.abort) && find(l, "ncclSend", &lib.send) &&
        find(l, "ncclRecv", &lib.recv) && find(l, "ncclGroupStart", &lib.group_start) &&
        find(l, "ncclGroupEnd", &lib.group_end) && find(l, "ncclGetErrorString", &lib.error_string);
    if (found)
        load_error[0] = '\0';
}

} // namespace

struct nccl {
    struct comm *group;
    comm_t comm;
    int error; /* the first */
};

namespace
{

bool report(const struct nccl *n, status *st)
{
    return n->error == SUCCESS ||
           status_fail(st, STATUS_DEVICE, "NCCL: %s", lib.error_string(n->error));
}

void note(struct nccl *n, int error)
{
    if (error != SUCCESS && error != IN_PROGRESS && n->error == SUCCESS)
        n->error = error;
}

/* Until what was begun is through, or failed, or the group has. */
bool settle(struct nccl *n, status *st)
{
    int state = IN_PROGRESS;
    const uint64_t start = clock_now(&clock_real);
    while (n->error == SUCCESS) {
        note(n, lib.async_error(n->comm, &state));
        note(n, state);
        if (state != IN_PROGRESS)
            break;
        if (clock_now(&clock_real) - start > NS_PER_MS) {
            const timespec pause = {0, 200000};
            nanosleep(&pause, NULL);
            if (!comm_look(n->group, st))
                return false;
        }
    }
    return report(n, st);
}

bool make(struct nccl *n, status *st)
{
    unique_id id = {};
    config c = {sizeof c, 0xcafebeef, 21400, 0};
    if (comm_rank(n->group) == 0)
        note(n, lib.get_unique_id(&id));
    if (!report(n, st))
        return false;
    if (!comm_broadcast(n->group, &id, sizeof id, 0))
        return comm_ok(n->group, st);
    note(n, lib.init_rank(&n->comm, comm_size(n->group), id, comm_rank(n->group), &c));
    return report(n, st) && settle(n, st);
}

} // namespace

struct nccl *nccl_open(struct comm *group, status *st)
{
    pthread_once(&load_once, load);
    if (!lib.error_string) {
        status_fail(st, STATUS_UNSUPPORTED,
                    "the GPUs of these ranks cannot reach each other, so NCCL is needed: %s",
                    load_error);
        return NULL;
    }
    struct nccl *n = static_cast<struct nccl *>(calloc(1, sizeof *n));
    if (!n) {
        status_fail(st, STATUS_BUSY, "no memory for NCCL");
        return NULL;
    }
    n->group = group;
    if (make(n, st))
        return n;
    nccl_close(n);
    return NULL;
}

void nccl_abort(struct nccl *n)
{
    if (n->comm)
        lib.abort(n->comm);
    n->comm = NULL;
}

void nccl_close(struct nccl *n)
{
    if (!n)
        return;
    nccl_abort(n);
    free(n);
}

bool nccl_exchange(struct nccl *n, const struct nccl_part *part, cudaStream_t stream, status *st)
{
    const int rank = comm_rank(n->group), n_ranks = comm_size(n->group);
    if (!n->comm || !report(n, st))
        return false;
    note(n, lib.group_start());
    for (int i = 1; i < n_ranks; i++) { /* each pair in the same place of both */
        const int to = (rank + i) % n_ranks, from = (rank + n_ranks - i) % n_ranks;
        if (part[to].n_from > 0)
            note(n, lib.send(part[to].from, part[to].n_from, TYPE_UINT8, to, n->comm, stream));
        if (part[from].n_to > 0)
            note(n, lib.recv(part[from].to, part[from].n_to, TYPE_UINT8, from, n->comm, stream));
    }
    note(n, lib.group_end());
    return settle(n, st);
}

bool nccl_ok(struct nccl *n, status *st)
{
    int state = SUCCESS;
    if (n->comm)
        note(n, lib.async_error(n->comm, &state));
    note(n, state);
    return report(n, st);
}
