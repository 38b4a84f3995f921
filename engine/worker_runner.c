/* worker_runner.c - the model's ranks as what a worker runs, in a child or in a thread. */
#include "engine/engine_int.h"
#include "engine/link.h"
#include "engine/ranks.h"

static void *open_runner(const struct engine_options *o, const struct load_watch *watch,
                         struct status *st)
{
    return ranks_open(o, watch, st);
}

static const struct engine_facts *runner_facts_of(void *runner)
{
    return ranks_facts(runner);
}

static bool submit_to_runner(void *runner, const struct step *step, struct status *st)
{
    return ranks_submit(runner, step, st);
}

static bool runner_is_ready(void *runner)
{
    return ranks_ready(runner);
}

static bool result_of_runner(void *runner, void *result, struct status *st)
{
    return ranks_result(runner, result, st);
}

static bool runner_is_healthy(void *runner, struct status *st)
{
    return ranks_healthy(runner, st);
}

static void close_runner(void *runner)
{
    ranks_close(runner);
}

const struct worker_backend worker_runner = {
    .open = open_runner,
    .facts = runner_facts_of,
    .submit = submit_to_runner,
    .ready = runner_is_ready,
    .result = result_of_runner,
    .healthy = runner_is_healthy,
    .close = close_runner,
};

int engine_worker_main(void)
{
    return engine_worker_run(&worker_runner);
}

struct engine *engine_local_open(const struct engine_options *o, const struct clock *clock,
                                 struct status *st)
{
    return engine_local_open_with(&worker_runner, o, clock, st);
}
