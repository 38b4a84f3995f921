/* engine_int.h - what the engine's two processes agree on before they share memory.
 *
 * Thread: constants, and calls made once at start. */
#ifndef ENGINE_ENGINE_INT_H
#define ENGINE_ENGINE_INT_H

#include "engine/engine.h"
#include "engine/link.h"

enum { /* descriptors the child finds open */
       ENGINE_FD_SHM = 3,
       ENGINE_FD_STEP = 4,
       ENGINE_FD_RESULT = 5,
       ENGINE_FD_END = 6 /* everything from here on is closed */
};

enum { ENGINE_EXIT_FAILED = 70 }; /* of the child; the reason is in the control block */

/* engine_worker_main with another backend: for tests of the seam without a model. */
int engine_worker_run(const struct worker_backend *backend);
struct engine *engine_local_open_with(const struct worker_backend *backend,
                                      const struct engine_options *o, const struct clock *clock,
                                      struct status *st) MUST_CHECK;

#endif
