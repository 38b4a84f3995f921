/* runner.h - a loaded model that runs steps: what a worker, child or local, does.
 *
 * runner_open() plans memory (plan.h), takes it, loads weights, and makes the
 * device and its slots.  runner_submit() hands one checked step to the device - slots and tables,
 * decoder_forward over the flat batch, heads, samples - and does not wait for it.  runner_wait()
 * waits for the oldest, and finds its samples; runner_result() puts those into its result.  No
 * allocation after open.
 *
 * A runner may be a stage of several (place.h).  It then takes the same steps as the others, in the
 * same order, and meets them in send and recv of its ops.  Samples come out of runner_wait of the
 * last stage; whoever brings them to the first puts them into its runner_outs() before it asks for
 * the result.
 *
 * Thread: one. */
#ifndef ENGINE_RUNNER_H
#define ENGINE_RUNNER_H

#include "engine/engine.h"
#include "engine/load_watch.h"

struct comm;
struct runner;

/* watch: NULL = nobody.  With a comm the runner is one rank of several (ranks.h) that divide its
 * layers, with a grid one of all ranks of several stages: opening takes until all are loaded, and a
 * step meets the others. */
struct runner *runner_open(const struct engine_options *o, struct comm *comm, struct comm *grid,
                           const struct load_watch *watch, struct status *st) MUST_CHECK;
const struct engine_facts *runner_facts(const struct runner *r);
/* `step` has passed step_check and is the caller's again at return.  False with CORRUPT when it
 * contradicts the slots (wrong position, unset slot): the runner is then unusable. */
bool runner_submit(struct runner *r, const struct step *step, struct status *st) MUST_CHECK;
/* Steps that were submitted and not waited for; at most DEVICE_DEPTH. */
int runner_n_flying(const struct runner *r);
int runner_n_unanswered(const struct runner *r);
/* Whether runner_wait would not wait; a step is flying. */
bool runner_ready(struct runner *r);
/* Until the oldest flying step is done here.  False with DEVICE: the runner is unusable. */
bool runner_wait(struct runner *r, struct status *st) MUST_CHECK;
/* What the heads of the oldest unanswered step found: [*n]. */
struct sample_out *runner_outs(struct runner *r, int32_t *n);
/* Answers that step; result has step_result_bytes_max bytes. */
bool runner_result(struct runner *r, void *result, struct status *st) MUST_CHECK;
/* Instead of it, where another answers. */
void runner_answered(struct runner *r);
void runner_close(struct runner *r);

/* Host memory of a runner: slots and what it keeps of the steps in flight; for the plan. */
bool runner_host_bytes(const struct step_limits *limits, size_t *n_bytes) MUST_CHECK;

#endif
