#include "server/bench_requests.h"

#include <poll.h>
#include <stdlib.h>

#include "server/bench_random.h"

enum { STUCK_MS = 300000 /* without any news for so long, it has failed */ };

bool bench_requests_make(struct bench_requests *r, struct bench_source *from, int n,
                         int32_t n_prompt, int32_t n_max, struct status *st)
{
    const size_t count = (size_t)n;
    *r = (struct bench_requests){.n = n};
    r->at = calloc(count, sizeof *r->at);
    r->prompts = calloc(count * (size_t)n_prompt, sizeof *r->prompts);
    r->out = calloc(count * (size_t)n_max, sizeof *r->out);
    if (!r->at || !r->prompts || !r->out) {
        bench_requests_close(r);
        return status_fail(st, STATUS_BUSY, "no memory for %d requests", n);
    }
    for (size_t i = 0; i < count * (size_t)n_prompt; i++)
        r->prompts[i] = (int32_t)(random_next(&from->random) % (uint64_t)from->facts.limits.vocab);
    for (int i = 0; i < n; i++)
        r->at[i] = (struct request){
            .id = (uint64_t)i + 1,
            .prompt = r->prompts + (size_t)i * (size_t)n_prompt,
            .n_prompt = n_prompt,
            .n_max = n_max,
            .sample = {.top_p = 1, .repetition = 1, .n_logprobs = -1},
            .out = r->out + (size_t)i * (size_t)n_max,
        };
    return true;
}

void bench_requests_close(struct bench_requests *r)
{
    free(r->at);
    free(r->prompts);
    free(r->out);
    *r = (struct bench_requests){0};
}

static bool submit_all(struct bench_requests *r, struct bench_source *to, struct status *st)
{
    r->start_ns = clock_now(&clock_real);
    for (int i = 0; i < r->n; i++) {
        r->at[i].arrived_ns = r->start_ns;
        if (scheduler_submit(to->sched, &r->at[i], st))
            continue;
        for (int j = 0; j < i; j++)
            scheduler_cancel(to->sched, &r->at[j]);
        return status_wrap(st, "submit request %d of %d", i + 1, r->n);
    }
    return true;
}

static bool ended_well(const struct request *r, struct status *st)
{
    const int32_t finish = atomic_load(&r->finish);
    return finish == FINISH_LENGTH || finish == FINISH_CANCELLED ||
           status_fail(st, STATUS_DEVICE, "a request ended early: %s", r->why.msg);
}

bool bench_requests_run(struct bench_requests *r, struct bench_source *to,
                        const struct bench_watch *watch, struct status *st)
{
    struct pollfd news = {.fd = scheduler_news_fd(to->sched), .events = POLLIN};
    bool ok = true;
    if (!submit_all(r, to, st))
        return false;
    for (int n_finished = 0; n_finished < r->n;) {
        for (struct request *q; (q = scheduler_news(to->sched));) {
            if (watch)
                watch->fn(watch->ctx, q);
            if (!request_finished(q))
                continue;
            n_finished++;
            ok = ok && ended_well(q, st);
        }
        scheduler_news_done(to->sched);
        if (n_finished < r->n && poll(&news, 1, STUCK_MS) == 0)
            return status_fail(st, STATUS_DEVICE, "no token in %d s", STUCK_MS / 1000);
    }
    return ok;
}
