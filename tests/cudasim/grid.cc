/* grid.cc - hands the clusters of a grid to threads of the host. */
#include "tests/cudasim/grid.h"

#include <stdlib.h>

namespace sim
{

grid_runner::grid_runner(int n_workers)
{
    const char *text = getenv("CUDASIM_SEED");
    seed = text ? strtoull(text, NULL, 10) : 1;
    for (int i = 0; i < n_workers; i++)
        workers.emplace_back(&grid_runner::work, this);
}

grid_runner::~grid_runner()
{
    {
        std::lock_guard<std::mutex> hold(lock);
        closing = true;
    }
    changed.notify_all();
    for (std::thread &w : workers)
        w.join();
}

/* Kernels run on these threads alone: what is thread-local in their module is garbage there. */
void grid_runner::work()
{
    team own;
    std::unique_lock<std::mutex> hold(lock);
    for (;;) {
        while (!closing && next == end)
            changed.wait(hold);
        if (closing)
            return;
        n_working++;
        while (next < end) {
            const unsigned index = next++;
            const launch *l = in_hand;
            hold.unlock();
            own.run(*l, index);
            hold.lock();
        }
        n_working--;
        changed.notify_all();
    }
}

void grid_runner::run(launch l)
{
    std::lock_guard<std::mutex> only(one);
    std::unique_lock<std::mutex> hold(lock);
    const unsigned n_blocks = l.grid.x * l.grid.y * l.grid.z;
    l.seed = seed + 0x100000001b3 * ++n_launches;
    if (n_blocks % l.cluster != 0)
        fail("a grid of %u blocks in clusters of %u", n_blocks, l.cluster);
    in_hand = &l;
    next = 0;
    end = n_blocks / l.cluster;
    changed.notify_all();
    while (next < end || n_working > 0)
        changed.wait(hold);
    in_hand = nullptr;
}

} // namespace sim
