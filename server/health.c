/* health.c - /livez says that the loop turns; /readyz, that a request would be served now. */
#include <stdio.h>
#include <string.h>

#include "server/api.h"
#include "server/metrics.h"

/* A heartbeat older than this, with work waiting, is not readiness.  Long prompts make long steps;
 * the engine's own watchdog decides about those and kills what hangs. */
enum { STEP_AGE_MS_MAX = 60000 };

static const char *engine_word(const struct scheduler_view *v)
{
    switch (v->engine_state) {
    case ENGINE_READY:
        return "ready";
    case ENGINE_STARTING:
        return "starting";
    default:
        return "down";
    }
}

/* True when ready; else `reason` says why not. */
static bool is_ready(const struct server *sv, const struct scheduler_view *v, char *reason,
                     size_t max)
{
    uint64_t total = v->progress.n_total;
    reason[0] = '\0';
    if (sv->draining)
        snprintf(reason, max, "draining");
    else if (v->engine_state == ENGINE_STARTING && total > 0)
        snprintf(reason, max, "loading %u %%",
                 (unsigned)(v->progress.n_done >= total ? 100 : v->progress.n_done * 100 / total));
    else if (v->engine_state == ENGINE_STARTING)
        snprintf(reason, max, "loading");
    else if (v->engine_state != ENGINE_READY)
        snprintf(reason, max, "engine down: %s", v->engine_why[0] ? v->engine_why : "restarting");
    else if (v->engine_stalled)
        snprintf(reason, max, "the engine's process does not run");
    else if (v->last_step_age_ms > STEP_AGE_MS_MAX)
        snprintf(reason, max, "no step for %llu ms", (unsigned long long)v->last_step_age_ms);
    return reason[0] == '\0';
}

void api_livez(struct exchange *x, struct server *sv)
{
    struct buf body;
    (void)sv;
    buf_init(&body, 256);
    buf_put_str(&body, "{\"status\":\"ok\"}\n");
    http_answer(x, 200, "application/json", &body);
}

void api_readyz(struct exchange *x, struct server *sv)
{
    struct scheduler_view v;
    struct buf body;
    char reason[32 + STATUS_MSG_BYTES];
    scheduler_view(sv->sched, &v);
    bool ready = is_ready(sv, &v, reason, sizeof reason);
    buf_init(&body, 4096);
    buf_printf(&body,
               "{\"status\":\"%s\",\"engine\":\"%s\",\"reason\":", ready ? "ok" : "unavailable",
               engine_word(&v));
    if (ready) {
        buf_put_str(&body, "null");
    } else {
        buf_put_char(&body, '"');
        buf_put_json(&body, reason, strlen(reason));
        buf_put_char(&body, '"');
    }
    buf_printf(&body, ",\"queue\":%d,\"running\":%d,\"last_step_age_ms\":%llu}\n", v.n_waiting,
               v.n_running, (unsigned long long)v.last_step_age_ms);
    http_answer(x, ready ? 200 : 503, "application/json", &body);
}

void api_health(struct exchange *x, struct server *sv)
{
    api_readyz(x, sv);
}

void api_version(struct exchange *x, struct server *sv)
{
    struct buf body;
    (void)sv;
    buf_init(&body, 256);
    buf_put_str(&body, "{\"version\":\"" INFERD_VERSION "\"}\n");
    http_answer(x, 200, "application/json", &body);
}

void api_metrics(struct exchange *x, struct server *sv)
{
    struct buf body;
    buf_init(&body, (size_t)1 << 20);
    metrics_write(sv->metrics, sv, &body);
    http_answer(x, 200, "text/plain; version=0.0.4; charset=utf-8", &body);
}
