/* check.h - what `inferd check MODEL` says: what is in the file and what it would take.
 *
 * Reads the header only; no weight is loaded.
 *
 * Thread: any. */
#ifndef ENGINE_CHECK_H
#define ENGINE_CHECK_H

#include "base/buf.h"
#include "base/status.h"
#include "engine/engine.h"

/* Options that can be wrong without any model: BAD_INPUT names the one that is. */
bool check_options(const struct engine_options *o, struct status *st) MUST_CHECK;

/* Options that were set and do nothing with the device and the ranks that the engine has: plan.h.
 */
void check_idle_options(const struct engine_options *o, const char *device, int n_ranks,
                        struct buf *names);

/* What check_model refuses, without a word of what it takes. */
bool check_fits(const struct engine_options *o, struct status *st) MUST_CHECK;

/* The configuration, the tensors by type, what is known of tokenizer and template, and the plan.
 * False when the file is refused or does not fit; `out` then holds what was found up to there. */
bool check_model(const struct engine_options *o, struct buf *out, struct status *st) MUST_CHECK;

#endif
