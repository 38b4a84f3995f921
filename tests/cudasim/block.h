/* block.h - a block of a kernel that runs: its threads, who of them may go on, and what they wait
 * for.
 *
 * Each thread is a fiber and runs until it has to wait: for lanes of its warp, at a barrier, for a
 * copy. Who runs next is drawn from all that may, so that code which leans on an order that nothing
 * guarantees goes wrong.  When nobody may run, a copy that is under way ends; if there is none,
 * blocks of the cluster have a turn; when all are stuck, the simulation says who waits for what and
 * aborts.
 *
 * Thread: blocks of a cluster run in turns (cluster.h), so none of this is locked. */
#ifndef TESTS_CUDASIM_BLOCK_H
#define TESTS_CUDASIM_BLOCK_H

#include <stdint.h>

#include <functional>
#include <memory>
#include <vector>

#include <vector_types.h>

#include "tests/cudasim/fiber.h"
#include "tests/cudasim/random.h"
#include "tests/cudasim/shared.h"

namespace sim
{

struct block;
struct cluster;
struct warpgroup;

enum { WARP = 32, THREADS_MAX = 1024, WARPS_MAX = THREADS_MAX / WARP, BARRIERS = 16 };

/* Copies of 16 bytes by a thread itself (cp.async), and boxes that it stores. */
struct deferred {
    std::vector<std::function<void()>> op;
    std::vector<size_t> group_end; /* a committed group: how many ops it and those before have */
};

struct thread {
    fiber context;
    uint3 index; /* threadIdx */
    int number, lane;
    struct warp *warp;
    struct block *block;
    const char *waits; /* for what; NULL: it may run, or has ended */
    bool ended;
    uint32_t cluster_phase; /* of the cluster's barrier, when this thread arrived; or ~0 */
    deferred copies, stores;
};

struct meeting { /* lanes of a warp that do one thing together */
    uint32_t mask, arrived;
    const char *what;
    void *at[WARP]; /* what each brought, on its stack */
};

struct warp {
    uint32_t alive; /* lanes that have not ended */
    std::vector<meeting> open;
    warpgroup *group; /* wgmma.cc */
    thread *lane[WARP];
};

struct named_barrier {       /* bar.sync */
    int n_arrived, n_wanted; /* n_wanted 0: nobody is there; BARRIER_ALL: all that have not ended */
    int vote;                /* of __syncthreads_or */
    int last_vote;
    std::vector<thread *> waiting;
};
enum { BARRIER_ALL = -1 };

/* How eager what runs beside the threads is. */
enum pace { PACE_EAGER, PACE_MIXED, PACE_LAZY };

struct block {
    uint3 index; /* blockIdx */
    dim3 size, grid;
    struct cluster *cluster;
    int rank; /* in its cluster */
    random_source random;
    enum pace pace;
    shared_memory shared;
    std::vector<thread> threads;
    std::vector<warp> warps;
    std::vector<thread *> ready;
    int n_alive;
    uint32_t n_switches; /* of threads, before something else has a turn */
    named_barrier barrier[BARRIERS];
    std::vector<std::pair<uint32_t, thread *>> on_mbarrier; /* address; who waits there */
    std::vector<std::function<void()>> under_way;       /* copies of the copy engine, in no order */
    fiber outside;                                      /* of the thread that runs the block */
    std::vector<std::shared_ptr<warpgroup>> warpgroups; /* that it ever had; wgmma.cc */

    /* Whether something that need not be now is. */
    bool now()
    {
        return pace == PACE_EAGER || (pace == PACE_MIXED && random.below(2));
    }
};

/* The thread that runs; NULL outside of kernels. */
extern __thread thread *self __attribute__((tls_model("initial-exec")));

/* Begins a block: all threads may run, shared memory is garbage. */
void block_begin(block *, const stacks &);
/* Runs it until all threads have ended (true) or it can do no more for now; in a cluster also now
 * and then before.  *has_moved: something happened. */
bool block_run(block *b, bool *has_moved);
/* Who waits for what. */
void block_describe(const block *b);

/* By the thread that runs: until somebody calls thread_wake for it. */
void thread_wait(const char *what);
void thread_wake(thread *);
/* Lets others run. */
void thread_yield();

/* Says what is wrong with the kernel, where, and ends the program. */
[[noreturn]] void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- what threads do together ---- */

/* Comes to the barrier; waits there, or not.  The vote of all, where somebody voted. */
int barrier_come(int id, int n_wanted, bool waits, int vote);
void cluster_arrive();
void cluster_leave(struct thread *); /* it has ended */
void cluster_wait();

/* The lanes of `mask` bring what `at` points to; the last to come runs `all` for everybody. */
void warp_meet(uint32_t mask, const char *what, void *at,
               void (*all)(struct warp *, void *const *at, uint32_t lanes));

/* A thread has ended: who waits for it does no more. */
void barriers_leave(thread *);
void warp_leave(thread *);

} // namespace sim

#endif
