/* cluster.cc - whose turn it is among the blocks of a cluster. */
#include "tests/cudasim/cluster.h"

#include <stdlib.h>

namespace sim
{

namespace
{

[[noreturn]] void fail_stuck(const struct cluster &c)
{
    for (const struct block *b : c.block)
        block_describe(b);
    fail("no thread can go on");
}

} // namespace

team::~team()
{
    {
        std::lock_guard<std::mutex> hold(lock);
        closing = true;
    }
    changed.notify_all();
    for (auto &s : seats)
        if (s->host.joinable())
            s->host.join();
}

/* Makes rank's seat; static shared memory is of the thread that begins the block. */
void team::sit(int rank)
{
    seats.emplace_back(new seat);
    if (rank > 0)
        seats.back()->host = std::thread(&team::work, this, rank);
}

void team::begin(int rank)
{
    seat *s = seats[rank].get();
    const int n_threads = static_cast<int>(launch->size.x * launch->size.y * launch->size.z);
    if (!s->block)
        s->block.reset(new struct block);
    if (!s->stack || s->stack->count() < n_threads)
        s->stack.reset(new stacks(n_threads));
    struct block *b = s->block.get();
    const unsigned number = index * launch->cluster + static_cast<unsigned>(rank);
    b->grid = launch->grid;
    b->size = launch->size;
    b->index = {number % b->grid.x, number / b->grid.x % b->grid.y, number / b->grid.x / b->grid.y};
    b->cluster = &cluster;
    b->rank = rank;
    b->random = random_source(launch->seed + number * 0x9e3779b97f4a7c15u);
    b->pace = static_cast<enum pace>(b->random.below(3));
    b->shared.begin(launch->code, launch->shared_bytes);
    cluster.block[rank] = b;
    block_begin(b, *s->stack);
}

void team::run(const struct launch &l, unsigned at)
{
    launch = &l;
    index = at;
    const int n = static_cast<int>(l.cluster);
    cluster.launch = &l;
    cluster.block.assign(n, NULL);
    cluster.phase = 0;
    cluster.n_arrived = 0;
    cluster.waiting.clear();
    if (n == 1) {
        if (seats.empty())
            sit(0);
        begin(0);
        bool has_moved;
        while (!block_run(cluster.block[0], &has_moved))
            if (!has_moved)
                fail_stuck(cluster);
        return;
    }
    std::unique_lock<std::mutex> hold(lock);
    while (static_cast<int>(seats.size()) < n)
        sit(static_cast<int>(seats.size()));
    has_ended.assign(n, false);
    n_ended = n_idle = 0;
    turn = 0;
    hold.unlock();
    run_turns(0);
    hold.lock();
    while (n_ended < n)
        changed.wait(hold);
}

/* A seat's thread: a block has its first turn when its cluster begins. */
void team::work(int rank)
{
    for (;;) {
        {
            std::unique_lock<std::mutex> hold(lock);
            while (!closing && turn != rank)
                changed.wait(hold);
            if (closing)
                return;
        }
        run_turns(rank);
    }
}

void team::run_turns(int rank)
{
    bool ended = false, has_begun = false;
    while (!ended) {
        std::unique_lock<std::mutex> hold(lock);
        while (turn != rank)
            changed.wait(hold);
        hold.unlock();
        bool has_moved = true;
        if (!has_begun)
            begin(rank);
        else
            ended = block_run(cluster.block[rank], &has_moved);
        has_begun = true;
        pass_turn(rank, ended, has_moved);
    }
}

/* To the next block that has not ended.  Nobody has moved for a whole round: they never will. */
void team::pass_turn(int rank, bool ended, bool has_moved)
{
    const int n = static_cast<int>(launch->cluster);
    std::lock_guard<std::mutex> hold(lock);
    if (ended) {
        has_ended[rank] = true;
        n_ended++;
    }
    n_idle = has_moved ? 0 : n_idle + 1;
    if (n_idle > n)
        fail_stuck(cluster);
    int next = rank;
    do
        next = (next + 1) % n;
    while (has_ended[next] && next != rank);
    turn = n_ended < n ? next : -1;
    changed.notify_all();
}

} // namespace sim
