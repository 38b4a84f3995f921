/* load_watch.h - who is told while a model is opened.
 *
 * Thread: the one that opens. */
#ifndef ENGINE_LOAD_WATCH_H
#define ENGINE_LOAD_WATCH_H

#include <stdint.h>

struct engine_facts;

struct load_watch { /* each may be NULL */
    /* Once, when every byte is counted and no weight is read yet: of the facts there are the texts
     * and the number of ranks. */
    void (*planned)(void *ctx, const struct engine_facts *facts);
    void (*progress)(void *ctx, uint64_t n_done, uint64_t n_total); /* a few times, weight bytes */
    void *ctx;
};

#endif
