/* runner.h - a loaded model that runs steps: what a worker, child or local, does.
 *
 * runner_open() plans memory (plan.h), takes it, loads weights with progress, and makes the
 * device and its slots.  runner_step() runs one checked step and fills its result:
 * slots and tables, decoder_forward over the flat batch, sampling.  No allocation
 * after open.
 *
 * Thread: one. */
#ifndef ENGINE_RUNNER_H
#define ENGINE_RUNNER_H

#include "engine/engine.h"

struct runner;

/* progress may be NULL; it is called a few times while weights load. */
struct runner *runner_open(const struct engine_options *o,
                           void (*progress)(void *ctx, uint64_t n_done, uint64_t n_total),
                           void *ctx, struct status *st) MUST_CHECK;
const struct engine_facts *runner_facts(const struct runner *r);
/* `step` has passed step_check; result has step_result_bytes_max bytes.  False with DEVICE: the
 * runner is unusable.  CORRUPT: the step contradicts the slots (wrong position, unset slot). */
bool runner_step(struct runner *r, const struct step *step, void *result,
                 struct status *st) MUST_CHECK;
void runner_close(struct runner *r);

/* Host memory of a runner: slots and what it keeps of the step in hand; for the plan. */
bool runner_host_bytes(const struct step_limits *limits, size_t *n_bytes) MUST_CHECK;

#endif
