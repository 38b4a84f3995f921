/* ring.c - a queue between exactly two threads or processes, in memory they share. */
#include "base/ring.h"

#include <assert.h>

#include "base/checked.h"
#include "base/event.h"

enum { LINE = 64 };

static char *cell_at(struct ring *r, uint64_t i)
{
    return (char *)r + sizeof *r + (size_t)(i & (r->n_cells - 1)) * r->cell_bytes;
}

size_t ring_bytes(uint32_t n_cells, uint32_t cell_bytes)
{
    size_t n;
    if (n_cells == 0 || (n_cells & (n_cells - 1)) || cell_bytes == 0 || cell_bytes % LINE)
        return 0;
    if (!size_mul(n_cells, cell_bytes, &n) || !size_add(n, sizeof(struct ring), &n))
        return 0;
    return n;
}

void ring_init(void *at, uint32_t n_cells, uint32_t cell_bytes)
{
    static_assert(sizeof(struct ring) % LINE == 0, "cells begin on a cache line");
    assert(ring_bytes(n_cells, cell_bytes) && (uintptr_t)at % LINE == 0);
    struct ring *r = at;
    r->n_cells = n_cells;
    r->cell_bytes = cell_bytes;
    atomic_init(&r->tail, 0);
    atomic_init(&r->head, 0);
    atomic_init(&r->asleep, 0);
}

bool ring_valid(const void *at, size_t n_bytes)
{
    const struct ring *r = at;
    if (n_bytes < sizeof *r)
        return false;
    const size_t want = ring_bytes(r->n_cells, r->cell_bytes);
    return want != 0 && want <= n_bytes;
}

void *ring_put_begin(struct ring *r)
{
    const uint64_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
    const uint64_t head = atomic_load_explicit(&r->head, memory_order_acquire);
    return tail - head < r->n_cells ? cell_at(r, tail) : NULL;
}

void ring_put_end(struct ring *r)
{
    const uint64_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
    /* Sequentially consistent, as are the accesses to `asleep`: either the reader, about to
     * sleep, sees this cell, or the writer sees that the reader is about to sleep. */
    atomic_store(&r->tail, tail + 1);
}

void ring_wake(struct ring *r, int event_fd)
{
    if (atomic_load(&r->asleep))
        event_wake(event_fd);
}

const void *ring_take_begin(struct ring *r)
{
    const uint64_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
    return atomic_load_explicit(&r->tail, memory_order_acquire) != head ? cell_at(r, head) : NULL;
}

void ring_take_end(struct ring *r)
{
    const uint64_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
    atomic_store_explicit(&r->head, head + 1, memory_order_release);
}

bool ring_sleep_begin(struct ring *r)
{
    atomic_store(&r->asleep, 1);
    if (atomic_load(&r->tail) == atomic_load_explicit(&r->head, memory_order_relaxed))
        return true;
    atomic_store(&r->asleep, 0);
    return false;
}

void ring_sleep_end(struct ring *r, int event_fd)
{
    atomic_store(&r->asleep, 0);
    event_drain(event_fd);
}
