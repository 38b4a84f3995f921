/* pool.h - a fixed number of equal slots, each named by an id that is never reused.
 *
 * An id is the slot number in the low 32 bits and the slot's use count above, so
 * an id kept too long is detected (pool_get answers NULL) instead of reaching
 * whatever lives in the slot now.  An id is never 0.
 *
 * Thread: one owner. */
#ifndef BASE_POOL_H
#define BASE_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct arena;

struct pool {
    char *slots;    /* [n_slots * slot_bytes] */
    uint32_t *uses; /* [n_slots] odd <=> taken */
    uint32_t *next; /* [n_slots] free list; the oldest freed slot is taken first */
    uint32_t n_slots, slot_bytes, n_free, head, tail;
};

bool pool_init(struct pool *p, struct arena *a, uint32_t n_slots, uint32_t slot_bytes);
void *pool_take(struct pool *p, uint64_t *id);     /* zeroed; NULL when all are taken */
void *pool_get(const struct pool *p, uint64_t id); /* NULL when id is stale or was never given */
void pool_drop(struct pool *p, uint64_t id);
bool pool_valid(const struct pool *p);

static inline uint32_t pool_slot(uint64_t id)
{
    return (uint32_t)id;
}

#endif
