/* backend.h - finds the backend that an option names, and opens a device of it.
 *
 * "cpu" is linked in.  "cuda" is a module, libinferd_cuda.so, beside the program or in
 * ../lib/inferd from it; it is loaded only when asked for, so that a machine without the CUDA
 * libraries runs the same program.  "auto" is cuda where the module loads, a device answers and the
 * module has code for it, else cpu.
 *
 * Thread: one, at start. */
#ifndef KERNELS_BACKEND_H
#define KERNELS_BACKEND_H

#include "base/status.h"
#include "kernels/ops.h"

/* `name`: "cpu" or "cuda".  NULL, and st says why: BAD_INPUT for another name, UNSUPPORTED when the
 * module is missing, does not load, or was built from other headers.  A module stays loaded. */
const struct backend *backend_find(const char *name, struct status *st) MUST_CHECK;

/* The backend that `name` says: "auto", "cpu" or "cuda"; NULL = "auto".  With "auto" `against_cuda`
 * says why it is not cuda; its code is OK when it is.  No device is opened. */
const struct backend *backend_choose(const char *name, const struct device_options *opts,
                                     struct status *against_cuda, struct status *st) MUST_CHECK;

/* A device of that backend, and in *found whose it is. */
struct device *backend_open(const char *name, const struct device_options *opts,
                            const struct backend **found, struct status *against_cuda,
                            struct status *st) MUST_CHECK;

#endif
