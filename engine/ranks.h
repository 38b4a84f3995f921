/* ranks.h - a model run by one rank, or by several in step with the first.
 *
 * The ranks are a grid: S stages (layer_split) that have some of the layers each, of T ranks
 * (tensor_parallel) that divide every one of them; rank r is number r % T of stage r / T.  Each is a
 * runner (runner.h) over its part of the model: rank 0 in the caller's thread, the others in threads
 * of their own.  With rank_group each is a process that calls ranks_open with its number; those but
 * rank 0's take no steps from their caller, and end when the group does.  How steps go through the
 * grid: stage.h.  The results are rank 0's.
 *
 * A rank that fails or does not keep up fails them all: the call in hand, or the next, returns
 * false with a reason that names it, within COMM_WAIT_MS.
 *
 * Calls and errors are those of runner.h.
 *
 * Thread: one, rank 0's. */
#ifndef ENGINE_RANKS_H
#define ENGINE_RANKS_H

#include "engine/engine.h"
#include "engine/load_watch.h"

struct ranks;

/* watch is told of the rank that this process speaks for; NULL = nobody is told. */
struct ranks *ranks_open(const struct engine_options *o, const struct load_watch *watch,
                         struct status *st) MUST_CHECK;
const struct engine_facts *ranks_facts(const struct ranks *r);
bool ranks_submit(struct ranks *r, const struct step *step, struct status *st) MUST_CHECK;
bool ranks_ready(struct ranks *r);
bool ranks_result(struct ranks *r, void *result, struct status *st) MUST_CHECK;
/* False <=> the group has failed; it looks whether the other processes run. */
bool ranks_healthy(struct ranks *r, struct status *st) MUST_CHECK;
void ranks_close(struct ranks *r);

/* For who watches process `pid`, a rank's, and sees it gone: its group is over, and the ranks should
 * come again; or, with `for_good` and rank 0, end.  Nothing when `o` has no group. */
void ranks_retire(const struct engine_options *o, int64_t pid, bool for_good);

#endif
