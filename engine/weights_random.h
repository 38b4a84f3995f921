/* weights_random.h - weights that no file holds: what speed and memory need to be measured.
 *
 * Matrices are normal-like with sigma 0.02, never zero; vectors, the gains of norms, are near 1.
 * The values are 64 MiB in memory, mapped over and over: a weight begins somewhere in them, and
 * none is ever written out.  They are the same in each run.
 *
 * Thread: one, at start. */
#ifndef ENGINE_WEIGHTS_RANDOM_H
#define ENGINE_WEIGHTS_RANDOM_H

#include "base/status.h"
#include "engine/weight.h"

struct weights_random;

/* For at most n_max weights, none larger than bytes_max; `dtype` is DT_BF16 or DT_F16. */
struct weights_random *weights_random_open(enum dtype dtype, size_t n_max, size_t bytes_max,
                                           struct status *st) MUST_CHECK;
void weights_random_close(struct weights_random *w); /* accepts NULL */

/* One more weight; a vector has rows = 1.  `name` stays the caller's. */
const struct weight *weights_random_add(struct weights_random *w, const char *name, int64_t rows,
                                        int64_t cols);

size_t weights_random_n(const struct weights_random *w);
const struct weight *weights_random_at(const struct weights_random *w, size_t i);
size_t weights_random_bytes(const struct weights_random *w); /* of all, as a file would hold them */

#endif
