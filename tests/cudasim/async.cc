/* async.cc - when copies of a thread's own end; mbarriers, which lie in shared memory. */
#include "tests/cudasim/async.h"

#include <string.h>

namespace sim
{

/* ---- copies that a thread waits for itself ---- */

void defer(deferred *d, std::function<void()> op)
{
    if (self->block->now() && d->op.empty())
        op();
    else
        d->op.push_back(std::move(op));
}

void defer_commit(deferred *d)
{
    d->group_end.push_back(d->op.size());
}

static void run_first(deferred *d, size_t n)
{
    for (size_t i = 0; i < n; i++)
        d->op[i]();
    d->op.erase(d->op.begin(), d->op.begin() + static_cast<ptrdiff_t>(n));
}

void defer_wait(deferred *d, size_t n)
{
    if (d->group_end.size() <= n)
        return;
    const size_t n_groups = d->group_end.size() - n, n_ops = d->group_end[n_groups - 1];
    run_first(d, n_ops);
    d->group_end.erase(d->group_end.begin(),
                       d->group_end.begin() + static_cast<ptrdiff_t>(n_groups));
    for (size_t &end : d->group_end)
        end -= n_ops;
}

void thread_flush(thread *t)
{
    for (deferred *d : {&t->copies, &t->stores}) {
        run_first(d, d->op.size());
        d->group_end.clear();
    }
}

/* ---- mbarriers ---- */

namespace
{

/* The 64 bits of one.  Garbage, which is all ones, has no right tag. */
struct mbarrier {
    uint64_t n_arrivals : 20; /* of a phase */
    uint64_t missing : 20;    /* arrivals, in this one */
    uint64_t bytes : 22;      /* still to come, and BYTES_NONE */
    uint64_t phase : 1;       /* its parity */
    uint64_t tag : 1;         /* 0 */
};
static_assert(sizeof(mbarrier) == 8, "an mbarrier has 64 bits");

const int64_t BYTES_NONE = 1 << 21; /* some may come before they are expected */

mbarrier read_barrier(const block *b, uint32_t at)
{
    mbarrier m;
    if (at % 8 != 0)
        fail("an mbarrier at %#x, which is no multiple of 8", at);
    memcpy(&m, b->shared.at(at, sizeof m), sizeof m);
    if (m.tag != 0 || m.n_arrivals == 0 || m.missing > m.n_arrivals)
        fail("at %#x is no mbarrier, or none that was made", at);
    return m;
}

/* Ends the phase if nothing is missing. */
void write_barrier(block *b, uint32_t at, mbarrier m)
{
    const bool ends = m.missing == 0 && (int64_t)m.bytes == BYTES_NONE;
    if (ends) {
        m.missing = m.n_arrivals;
        m.phase ^= 1;
    }
    memcpy(b->shared.at(at, sizeof m), &m, sizeof m);
    if (!ends)
        return;
    size_t kept = 0;
    for (auto &waits : b->on_mbarrier)
        if (waits.first == at)
            thread_wake(waits.second);
        else
            b->on_mbarrier[kept++] = waits;
    b->on_mbarrier.resize(kept);
}

} // namespace

void mbarrier_begin(block *b, uint32_t at, uint32_t n_arrivals)
{
    const mbarrier m = {n_arrivals, n_arrivals, (uint64_t)BYTES_NONE, 0, 0};
    if (n_arrivals == 0 || n_arrivals >= 1 << 20)
        fail("an mbarrier of %u arrivals", n_arrivals);
    memcpy(b->shared.at(at, sizeof m), &m, sizeof m);
}

void mbarrier_come(block *b, uint32_t at)
{
    mbarrier m = read_barrier(b, at);
    if (m.missing == 0)
        fail("more arrivals at mbarrier %#x than it was made for", at);
    m.missing--;
    write_barrier(b, at, m);
}

void mbarrier_bytes(block *b, uint32_t at, int64_t n)
{
    mbarrier m = read_barrier(b, at);
    const int64_t bytes = (int64_t)m.bytes + n;
    if (bytes <= 0 || bytes >= 2 * BYTES_NONE)
        fail("mbarrier %#x waits for %lld bytes", at, (long long)(bytes - BYTES_NONE));
    m.bytes = (uint64_t)bytes & (2 * BYTES_NONE - 1);
    write_barrier(b, at, m);
}

bool mbarrier_has_passed(block *b, uint32_t at, uint32_t parity)
{
    return read_barrier(b, at).phase != (parity & 1);
}

void mbarrier_sleep(block *b, uint32_t at)
{
    b->on_mbarrier.push_back({at, self});
    thread_wait("an mbarrier");
}

} // namespace sim
