/* jinja_mem.h - the memory of one compiled template or one render: taken in pieces, freed at once.
 *
 * Nothing is given back before the end, so values may point at each other freely.  The sum of all
 * pieces has a limit.  In sanitizer builds every piece is its own allocation, so that a read past
 * its end is seen.
 *
 * Thread: one owner at a time. */
#ifndef ENGINE_JINJA_MEM_H
#define ENGINE_JINJA_MEM_H

#include <stddef.h>

struct mem_chunk;

struct jinja_mem {
    struct mem_chunk *newest;
    size_t n_total; /* bytes taken from the heap */
    size_t n_max;   /* n_total never passes this */
};

void jinja_mem_init(struct jinja_mem *m, size_t n_max);
void jinja_mem_close(struct jinja_mem *m);

/* Zeroed and aligned for any type; NULL when over n_max or the heap is out. */
void *jinja_mem_take(struct jinja_mem *m, size_t n);
/* The same, not zeroed: for bytes that are written at once. */
char *jinja_mem_bytes(struct jinja_mem *m, size_t n);

#endif
