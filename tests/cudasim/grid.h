/* grid.h - runs a kernel's grid to its end.
 *
 * Clusters are independent, so a few threads of the host take them one by one.  CUDASIM_SEED, a
 * number, gives all draws another course.
 *
 * Thread: any; one grid runs at a time on one device, and devices have threads of their own. */
#ifndef TESTS_CUDASIM_GRID_H
#define TESTS_CUDASIM_GRID_H

#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "tests/cudasim/cluster.h"

namespace sim
{

class grid_runner
{
  public:
    explicit grid_runner(int n_workers);
    ~grid_runner();
    grid_runner(const grid_runner &) = delete;
    void run(launch);

  private:
    void work();

    std::vector<std::thread> workers;
    std::mutex lock, one; /* one: a grid at a time */
    std::condition_variable changed;
    const launch *in_hand = nullptr;
    unsigned next = 0, end = 0;
    int n_working = 0;
    uint64_t seed = 1, n_launches = 0;
    bool closing = false;
};

} // namespace sim

#endif
