/* barrier.cc - barriers of a block's threads, of a cluster's, and meetings of a warp's lanes. */
#include <string.h>

#include "tests/cudasim/block.h"
#include "tests/cudasim/cluster.h"

namespace sim
{

namespace
{

const char *const barrier_names[BARRIERS] = {
    "barrier 0",  "barrier 1",  "barrier 2",  "barrier 3", "barrier 4",  "barrier 5",
    "barrier 6",  "barrier 7",  "barrier 8",  "barrier 9", "barrier 10", "barrier 11",
    "barrier 12", "barrier 13", "barrier 14", "barrier 15"};

bool is_complete(const block *b, const named_barrier *bar)
{
    return bar->n_wanted != 0 &&
           bar->n_arrived == (bar->n_wanted == BARRIER_ALL ? b->n_alive : bar->n_wanted);
}

void open_barrier(named_barrier *bar)
{
    bar->last_vote = bar->vote;
    bar->n_arrived = bar->n_wanted = bar->vote = 0;
    for (thread *t : bar->waiting)
        thread_wake(t);
    bar->waiting.clear();
}

} // namespace

int barrier_come(int id, int n_wanted, bool waits, int vote)
{
    block *const b = self->block;
    const bool is_count = n_wanted > 0 && n_wanted % WARP == 0;
    if (id < 0 || id >= BARRIERS || (!is_count && n_wanted != BARRIER_ALL))
        fail("barrier %d of %d threads", id, n_wanted);
    named_barrier *const bar = &b->barrier[id];
    if (bar->n_wanted != 0 && bar->n_wanted != n_wanted)
        fail("barrier %d is of %d threads and of %d", id, bar->n_wanted, n_wanted);
    bar->n_wanted = n_wanted;
    bar->n_arrived++;
    bar->vote |= vote;
    if (waits)
        bar->waiting.push_back(self);
    if (is_complete(b, bar))
        open_barrier(bar);
    if (waits)
        thread_wait(barrier_names[id]);
    return bar->last_vote;
}

void barriers_leave(thread *t)
{
    for (named_barrier &bar : t->block->barrier)
        if (bar.n_wanted == BARRIER_ALL && bar.n_arrived > 0 && is_complete(t->block, &bar))
            open_barrier(&bar);
}

/* ---- barrier.cluster ---- */

namespace
{

/* Of the threads that have not ended all have arrived. */
void open_if_complete(cluster *c)
{
    int n_alive = 0;
    for (const block *b : c->block)
        n_alive += b->n_alive;
    if (c->n_arrived == 0 || c->n_arrived < n_alive)
        return;
    c->n_arrived = 0;
    c->phase++;
    for (thread *t : c->waiting)
        thread_wake(t);
    c->waiting.clear();
}

} // namespace

void cluster_arrive()
{
    cluster *const c = self->block->cluster;
    self->cluster_phase = c->phase;
    c->n_arrived++;
    open_if_complete(c);
}

void cluster_leave(thread *t)
{
    cluster *const c = t->block->cluster;
    if (t->cluster_phase == c->phase)
        c->n_arrived--;
    open_if_complete(c);
}

void cluster_wait()
{
    cluster *const c = self->block->cluster;
    if (c->phase != self->cluster_phase)
        return;
    c->waiting.push_back(self);
    thread_wait("barrier.cluster");
}

/* ---- warps ---- */

namespace
{

meeting *find_meeting(warp *w, uint32_t mask, const char *what)
{
    for (meeting &m : w->open) {
        if (m.mask == mask && (m.what == what || strcmp(m.what, what) == 0))
            return &m;
        if (m.mask & mask)
            fail("lanes %#x meet for %s, and of them %#x for %s", m.mask, m.what, mask, what);
    }
    w->open.push_back({});
    meeting *const m = &w->open.back();
    m->mask = mask;
    m->what = what;
    return m;
}

/* The last lane is there, or those that are missing have ended. */
void end_meeting(warp *w, meeting *open, void (*all)(warp *, void *const *, uint32_t))
{
    const meeting m = *open;
    *open = w->open.back();
    w->open.pop_back();
    all(w, m.at, m.arrived);
    for (int lane = 0; lane < WARP; lane++)
        if (m.arrived >> lane & 1 && w->lane[lane] != self)
            thread_wake(w->lane[lane]);
}

} // namespace

void warp_meet(uint32_t mask, const char *what, void *at,
               void (*all)(warp *, void *const *, uint32_t))
{
    warp *const w = self->warp;
    if (!(mask >> self->lane & 1))
        fail("%s: lane %d is not in its own mask %#x", what, self->lane, mask);
    meeting *const m = find_meeting(w, mask, what);
    m->at[self->lane] = at;
    m->arrived |= 1u << self->lane;
    if (m->arrived == (mask & w->alive))
        end_meeting(w, m, all);
    else
        thread_wait(what);
}

void warp_leave(thread *t)
{
    warp *const w = t->warp;
    w->alive &= ~(1u << t->lane);
    for (const meeting &m : w->open)
        if (m.mask >> t->lane & 1)
            fail("lane %d has ended, and others of %#x wait for it with %s", t->lane, m.mask,
                 m.what);
}

} // namespace sim
