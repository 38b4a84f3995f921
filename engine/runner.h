/* runner.h - a loaded model that runs steps: what a worker, child or local, does.
 *
 * runner_open() plans memory (plan.h), takes it, loads weights with progress, and makes the
 * device and its slots.  runner_submit() hands one checked step to the device - slots and tables,
 * decoder_forward over the flat batch, heads, samples - and does not wait for it; up to
 * ENGINE_DEPTH steps may be submitted and unanswered.  runner_result() waits for the oldest
 * and fills its result.  No allocation after open.
 *
 * Thread: one. */
#ifndef ENGINE_RUNNER_H
#define ENGINE_RUNNER_H

#include "engine/engine.h"

struct comm;
struct runner;

/* progress may be NULL; it is called a few times while weights load.  With a comm the runner is one
 * rank of several (ranks.h): opening takes until all are loaded, and a step meets the others. */
struct runner *runner_open(const struct engine_options *o, struct comm *comm,
                           void (*progress)(void *ctx, uint64_t n_done, uint64_t n_total),
                           void *ctx, struct status *st) MUST_CHECK;
const struct engine_facts *runner_facts(const struct runner *r);
/* `step` has passed step_check and is the caller's again at return.  False with CORRUPT when it
 * contradicts the slots (wrong position, unset slot): the runner is then unusable. */
bool runner_submit(struct runner *r, const struct step *step, struct status *st) MUST_CHECK;
/* Whether runner_result would not wait; a step is submitted and unanswered. */
bool runner_ready(struct runner *r);
/* result has step_result_bytes_max bytes.  False with DEVICE: the runner is unusable. */
bool runner_result(struct runner *r, void *result, struct status *st) MUST_CHECK;
void runner_close(struct runner *r);

/* Host memory of a runner: slots and what it keeps of the steps in flight; for the plan. */
bool runner_host_bytes(const struct step_limits *limits, size_t *n_bytes) MUST_CHECK;

#endif
