/* pool.c - a fixed number of equal slots, each named by an id that is never reused. */
#include "base/pool.h"

#include <assert.h>
#include <string.h>

#include "base/arena.h"
#include "base/checked.h"

static const uint32_t SLOT_NONE = UINT32_MAX;

bool pool_init(struct pool *p, struct arena *a, uint32_t n_slots, uint32_t slot_bytes)
{
    assert(n_slots > 0 && n_slots < SLOT_NONE);
    size_t n;
    *p = (struct pool){.n_slots = n_slots, .slot_bytes = slot_bytes};
    if (!size_mul(n_slots, slot_bytes, &n))
        return false;
    p->slots = arena_take(a, n, _Alignof(max_align_t));
    p->uses = arena_take(a, n_slots * sizeof *p->uses, _Alignof(uint32_t));
    p->next = arena_take(a, n_slots * sizeof *p->next, _Alignof(uint32_t));
    if (!p->slots || !p->uses || !p->next)
        return false;
    for (uint32_t i = 0; i < n_slots; i++) {
        p->uses[i] = 0;
        p->next[i] = i + 1 < n_slots ? i + 1 : SLOT_NONE;
    }
    p->tail = n_slots - 1;
    p->n_free = n_slots;
    return true;
}

void *pool_take(struct pool *p, uint64_t *id)
{
    if (p->n_free == 0)
        return NULL;
    const uint32_t slot = p->head;
    p->head = p->next[slot];
    p->n_free--;
    p->uses[slot]++; /* now odd */
    *id = (uint64_t)p->uses[slot] << 32 | slot;
    return memset(p->slots + (size_t)slot * p->slot_bytes, 0, p->slot_bytes);
}

void *pool_get(const struct pool *p, uint64_t id)
{
    const uint32_t slot = pool_slot(id);
    const uint32_t use = (uint32_t)(id >> 32);
    if (slot >= p->n_slots || p->uses[slot] != use || use % 2 == 0)
        return NULL;
    return p->slots + (size_t)slot * p->slot_bytes;
}

void pool_drop(struct pool *p, uint64_t id)
{
    assert(pool_get(p, id));
    const uint32_t slot = pool_slot(id);
    p->uses[slot]++; /* now even: the id is stale */
    p->next[slot] = SLOT_NONE;
    if (p->n_free == 0)
        p->head = slot;
    else
        p->next[p->tail] = slot;
    p->tail = slot;
    p->n_free++;
}

bool pool_valid(const struct pool *p)
{
    uint32_t n_listed = 0, n_taken = 0;
    for (uint32_t slot = p->head; n_listed < p->n_free; slot = p->next[slot], n_listed++)
        if (slot >= p->n_slots || p->uses[slot] % 2)
            return false;
    for (uint32_t i = 0; i < p->n_slots; i++)
        n_taken += p->uses[i] % 2;
    return n_listed + n_taken == p->n_slots;
}
