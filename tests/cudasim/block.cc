/* block.cc - runs the threads of a block, in an order that is drawn. */
#include "tests/cudasim/block.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/cudasim/async.h"
#include "tests/cudasim/cluster.h"

namespace sim
{

__thread thread *self;

namespace
{

const uint32_t SWITCHES = 128; /* of threads at most, before a copy may end */
const int TURNS = 8;           /* of those, before another block of the cluster has its turn */

/* Who runs next; NULL: nobody can, or something else has its turn. */
thread *draw_ready(block *b)
{
    if (b->ready.empty())
        return NULL;
    if (b->n_switches-- == 0) {
        b->n_switches = b->random.below(SWITCHES);
        return NULL;
    }
    const uint32_t i = b->random.below(static_cast<uint32_t>(b->ready.size()));
    thread *t = b->ready[i];
    b->ready[i] = b->ready.back();
    b->ready.pop_back();
    return t;
}

/* On the thread's own stack; `arg` is the thread. */
void run_thread(void *arg)
{
    thread *t = static_cast<thread *>(arg);
    fiber_begin();
    t->block->cluster->launch->kernel();
    thread_flush(t);
    t->ended = true;
    t->block->n_alive--;
    warp_leave(t);
    barriers_leave(t);
    cluster_leave(t);
    thread *const next = draw_ready(t->block);
    self = next;
    fiber_end(&t->context, next ? &next->context : &t->block->outside);
}

void make_warps(block *b)
{
    const int n = static_cast<int>(b->threads.size());
    b->warps.resize((n + WARP - 1) / WARP);
    for (warp &w : b->warps) {
        w.alive = 0;
        w.open.clear();
    }
    for (thread &t : b->threads) {
        t.warp = &b->warps[t.number / WARP];
        t.warp->lane[t.lane] = &t;
        t.warp->alive |= 1u << t.lane;
    }
    wgmma_begin(b);
}

/* Something that is under way ends. */
void end_one(block *b)
{
    const uint32_t i = b->random.below(static_cast<uint32_t>(b->under_way.size()));
    const std::function<void()> op = std::move(b->under_way[i]);
    b->under_way[i] = std::move(b->under_way.back());
    b->under_way.pop_back();
    op();
}

bool check_end(const block *b)
{
    if (!b->under_way.empty())
        fail("a block ended while %zu copies to its shared memory were under way",
             b->under_way.size());
    wgmma_check_end(b);
    return true;
}

/* From a thread that cannot go on to the next, or to block_run. */
void leave(thread *t)
{
    thread *const next = draw_ready(t->block);
    if (next == t)
        return;
    self = next;
    fiber_switch(&t->context, next ? &next->context : &t->block->outside);
}

} // namespace

void fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fflush(stdout);
    fputs("cudasim: ", stderr);
    vfprintf(stderr, format, args);
    va_end(args);
    fputs("\n", stderr);
    if (self) {
        fprintf(stderr, "cudasim: by thread %d of block %u, %u\n", self->number,
                self->block->index.x, self->block->index.y);
        block_describe(self->block);
    }
    abort();
}

void block_begin(block *b, const stacks &stack)
{
    const int n = static_cast<int>(b->size.x * b->size.y * b->size.z);
    if (n < 1 || n > THREADS_MAX)
        fail("a block of %d threads", n);
    b->threads.resize(n);
    b->n_alive = n;
    b->n_switches = b->random.below(SWITCHES);
    b->ready.clear();
    b->on_mbarrier.clear();
    b->under_way.clear();
    for (named_barrier &bar : b->barrier)
        bar = {};
    for (int i = 0; i < n; i++) {
        thread &t = b->threads[i];
        const unsigned x = i % b->size.x, yz = i / b->size.x;
        t.index = {x, yz % b->size.y, yz / b->size.y};
        t.number = i;
        t.lane = i % WARP;
        t.block = b;
        t.waits = NULL;
        t.ended = false;
        t.cluster_phase = UINT32_MAX;
        stack.make(&t.context, i, run_thread, &t);
        b->ready.push_back(&t);
    }
    make_warps(b);
}

bool block_run(block *b, bool *has_moved)
{
    const bool in_cluster = b->cluster->block.size() > 1;
    *has_moved = false;
    fiber_of_thread(&b->outside);
    for (int turn = 0; b->n_alive > 0; turn++) {
        if ((b->ready.empty() && b->under_way.empty()) || (in_cluster && turn == TURNS))
            return false;
        *has_moved = true;
        thread *const next = draw_ready(b);
        if (next) {
            self = next;
            fiber_switch(&b->outside, &next->context);
            self = NULL;
        } else if (!b->under_way.empty() && (b->ready.empty() || b->pace != PACE_LAZY)) {
            end_one(b);
        }
    }
    *has_moved = true;
    return check_end(b);
}

void block_describe(const block *b)
{
    fprintf(stderr, "cudasim: block %u, %u: %d of %zu threads have not ended\n", b->index.x,
            b->index.y, b->n_alive, b->threads.size());
    for (const warp &w : b->warps) {
        const char *said = NULL;
        for (int lane = 0; lane < WARP; lane++) {
            const thread *t = w.alive >> lane & 1 ? w.lane[lane] : NULL;
            if (t && t->waits && t->waits != said)
                fprintf(stderr, "cudasim:   thread %d waits for %s\n", t->number, said = t->waits);
        }
    }
}

void thread_wait(const char *what)
{
    thread *const t = self;
    t->waits = what;
    leave(t);
}

void thread_wake(thread *t)
{
    t->waits = NULL;
    t->block->ready.push_back(t);
}

void thread_yield()
{
    thread_wake(self);
    leave(self);
}

} // namespace sim
