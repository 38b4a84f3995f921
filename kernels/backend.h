/* backend.h - finds the backend that an option names.
 *
 * "cpu" is linked in.  "cuda" is a module, libinferd_cuda.so, beside the program or in
 * ../lib/inferd from it; it is loaded only when asked for, so that a machine without the CUDA
 * libraries runs the same program.  "auto" is cuda where the module loads and a device answers,
 * else cpu.
 *
 * Thread: one, at start. */
#ifndef KERNELS_BACKEND_H
#define KERNELS_BACKEND_H

#include "base/status.h"
#include "kernels/ops.h"

/* `name`: "auto", "cpu" or "cuda"; NULL = "auto".  UNSUPPORTED says why there is none; with "auto" there always is one, and
 * `why`, if not NULL, says what spoke against cuda. */
const struct backend *backend_find(const char *name, struct status *why,
                                   struct status *st) MUST_CHECK;

#endif
