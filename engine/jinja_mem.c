#include "engine/jinja_mem.h"

#include <stdalign.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

#if defined(__SANITIZE_ADDRESS__)
enum { CHUNK_BYTES = 0 };
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
enum { CHUNK_BYTES = 0 };
#else
enum { CHUNK_BYTES = 32 << 10 };
#endif
#else
enum { CHUNK_BYTES = 32 << 10 };
#endif

struct mem_chunk {
    struct mem_chunk *older;
    size_t n_used, n_cap;
    alignas(max_align_t) char bytes[];
};

void jinja_mem_init(struct jinja_mem *m, size_t n_max)
{
    *m = (struct jinja_mem){.n_max = n_max};
}

void jinja_mem_close(struct jinja_mem *m)
{
    for (struct mem_chunk *c = m->newest, *older; c; c = older) {
        older = c->older;
        free(c);
    }
    m->newest = NULL;
    m->n_total = 0;
}

static struct mem_chunk *add_chunk(struct jinja_mem *m, size_t n)
{
    size_t want = n > CHUNK_BYTES ? n : CHUNK_BYTES, whole;
    if (!size_add(want, sizeof(struct mem_chunk), &whole) || whole > m->n_max - m->n_total)
        return NULL;
    struct mem_chunk *c = malloc(whole);
    if (!c)
        return NULL;
    c->n_used = 0;
    c->n_cap = want;
    m->n_total += whole;
    c->older = m->newest;
    m->newest = c;
    return c;
}

char *jinja_mem_bytes(struct jinja_mem *m, size_t n)
{
    if (!size_align(n ? n : 1, alignof(max_align_t), &n))
        return NULL;
    struct mem_chunk *c = m->newest;
    if (!c || n > c->n_cap - c->n_used) {
        c = add_chunk(m, n);
        if (!c)
            return NULL;
    }
    char *at = c->bytes + c->n_used;
    c->n_used += n;
    return at;
}

void *jinja_mem_take(struct jinja_mem *m, size_t n)
{
    char *at = jinja_mem_bytes(m, n);
    return at ? memset(at, 0, n) : NULL;
}
