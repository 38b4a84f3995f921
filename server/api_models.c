/* api_models.c - GET /v1/models and /v1/models/{id}: the one model this daemon serves. */
#include <string.h>

#include "server/api.h"

enum { MODEL_BYTES_MAX = 65536 };

static void put_model(struct buf *out, const struct server *sv)
{
    struct scheduler_view v;
    scheduler_view(sv->sched, &v);
    buf_put_str(out, "{\"id\":\"");
    buf_put_json(out, sv->model_name, strlen(sv->model_name));
    buf_printf(out,
               "\",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"inferd\","
               "\"max_model_len\":",
               (long long)sv->started_unix_s);
    if (v.facts.limits.context_max > 0)
        buf_put_i64(out, v.facts.limits.context_max);
    else
        buf_put_str(out, "null"); /* not loaded yet */
    buf_put_char(out, '}');
}

static void answer(struct exchange *x, struct buf *body)
{
    struct api_error e;
    if (body->failed) {
        api_error_set(&e, 503, "out_of_memory", "", "no memory for this request now");
        http_fail(x, &e);
    } else {
        http_answer(x, 200, "application/json", body);
    }
    buf_close(body);
}

void api_models(struct exchange *x, struct server *sv)
{
    struct buf body;
    buf_init(&body, MODEL_BYTES_MAX);
    buf_put_str(&body, "{\"object\":\"list\",\"data\":[");
    put_model(&body, sv);
    buf_put_str(&body, "]}");
    answer(x, &body);
}

void api_model(struct exchange *x, struct server *sv)
{
    if (strcmp(http_path_rest(x), sv->model_name) != 0) {
        struct api_error e;
        api_error_set(&e, 404, "model_not_found", "model",
                      "the model asked for does not exist: this server has `%s`", sv->model_name);
        http_fail(x, &e);
        return;
    }
    struct buf body;
    buf_init(&body, MODEL_BYTES_MAX);
    put_model(&body, sv);
    answer(x, &body);
}
