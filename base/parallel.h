/* parallel.h - one function over many parts, on threads that live as long as the call.
 *
 * For work of milliseconds and more at start or in a tool; the step has a pool of its own.
 *
 * Thread: any; the parts run on the caller's and on new ones. */
#ifndef BASE_PARALLEL_H
#define BASE_PARALLEL_H

#include <stdint.h>

enum { PARALLEL_THREADS_MAX = 64 };

/* fn(ctx, part) for each part in [0, n_parts), in any order, and returns when all are done.
 * n_threads = 0: one for each core this process may use.  Where the system gives fewer threads,
 * fewer do the work. */
void parallel_for(int n_threads, int64_t n_parts, void (*fn)(void *ctx, int64_t part), void *ctx);

#endif
