/* cluster.h - blocks that run at the same time and reach each other's shared memory.
 *
 * Each block has a thread of the host, for its static shared memory, but one of them runs at a
 * time: the turn passes when a block can do no more, and now and then before.  So a cluster's
 * course is a function of its seed.
 *
 * Thread: seats are made by the thread that runs grids; within a cluster the turn is a lock. */
#ifndef TESTS_CUDASIM_CLUSTER_H
#define TESTS_CUDASIM_CLUSTER_H

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "tests/cudasim/block.h"

namespace sim
{

enum { CLUSTER_MAX = 16 };

struct launch {
    dim3 grid, size;
    unsigned cluster; /* blocks of one; 1: none */
    size_t shared_bytes;
    const void *code;             /* the kernel */
    std::function<void()> kernel; /* with its arguments */
    uint64_t seed;
};

struct cluster { /* while it runs */
    const struct launch *launch;
    std::vector<struct block *> block; /* by rank */
    uint32_t phase;                    /* of barrier.cluster: how often all had arrived */
    int n_arrived;
    std::vector<struct thread *> waiting;
};

/* Threads of the host that run clusters, one after the other. */
class team
{
  public:
    team() = default;
    ~team();
    team(const team &) = delete;
    /* Cluster number `index` of a grid, to its end.  The calling thread is rank 0. */
    void run(const struct launch &, unsigned index);

  private:
    struct seat {
        std::unique_ptr<struct block> block;
        std::unique_ptr<stacks> stack;
        std::thread host; /* none at rank 0 */
    };
    void sit(int rank);
    void work(int rank);
    void run_turns(int rank);
    void pass_turn(int rank, bool ended, bool has_moved);
    void begin(int rank);

    struct cluster cluster;
    std::vector<std::unique_ptr<seat>> seats;
    const struct launch *launch = nullptr;
    unsigned index = 0;

    std::mutex lock;
    std::condition_variable changed;
    int turn = -1, n_ended = 0, n_idle = 0;
    bool closing = false;
    std::vector<bool> has_ended;
};

} // namespace sim

#endif
