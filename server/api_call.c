/* api_call.c - opening, submitting, hearing of, ending and freeing a call. */
#include "server/api_call_int.h"

#include <stdlib.h>
#include <string.h>

#include "scheduler/scheduler.h"
#include "server/api.h"
#include "server/metrics.h"

enum { ANSWER_BYTES_MAX = 64 << 20, PIECE_BYTES_MAX = 64 << 20 };

/* Loop thread: for logs and for `group`. */
static uint64_t n_requests;
static uint32_t n_groups;

static void close_call(struct api_job *job)
{
    struct call *c = (struct call *)(void *)job;
    for (int32_t i = 0; i < c->n_choices; i++) {
        struct request *r = &c->choice[i].request;
        free(r->out);
        free(r->top);
        free(r->score);
        free(r->score_top);
    }
    for (int32_t i = 0; i < c->n_prompts; i++)
        api_prompt_close(&c->prompt[i]);
    free(c->choice);
    free(c->prompt);
    free(c->bias);
    api_params_close(&c->params);
    api_format_close(&c->format);
    buf_close(&c->piece);
    free(job->body);
    free(c);
}

void call_end(struct call *c)
{
    if (!c->job.x && c->n_finished == c->n_submitted)
        close_call(&c->job);
}

static void cancel_all(struct call *c)
{
    for (int32_t i = 0; i < c->n_submitted; i++)
        if (!c->choice[i].finished)
            scheduler_cancel(c->job.sv->sched, &c->choice[i].request);
}

void call_log(struct call *c)
{
    const struct api_usage u = call_usage(c);
    const enum finish why = (enum finish)atomic_load(&c->choice[0].request.finish);
    http_log_tokens(c->job.x, (int32_t)u.n_prompt, (int32_t)u.n_cached, (int32_t)u.n_output,
                    c->failed ? "error" : api_finish_name(why));
}

static void leave(void *ctx)
{
    struct call *c = ctx;
    call_log(c);
    c->job.x = NULL;
    cancel_all(c);
    call_end(c);
}

static void answer_error(struct call *c)
{
    if (c->n_submitted > 0)
        call_log(c);
    api_job_fail(&c->job, &c->job.error);
    call_end(c);
}

static void answer_whole(struct call *c)
{
    struct buf body;
    buf_init(&body, ANSWER_BYTES_MAX);
    call_write_whole(c, &body);
    if (body.failed || c->piece.failed) {
        api_error_set(&c->job.error, 500, "answer_too_large", "",
                      "the answer is more than %d bytes, or memory is out", ANSWER_BYTES_MAX);
        answer_error(c);
    } else {
        call_log(c);
        api_job_answer(&c->job, &body);
        call_end(c);
    }
    buf_close(&body);
}

static void set_error(struct call *c, const struct status *why)
{
    struct scheduler_view v;
    scheduler_view(c->job.sv->sched, &v);
    api_error_from_status(&c->job.error, why);
    if (c->job.error.retry_after_s > 0 && v.retry_after_s > 0)
        c->job.error.retry_after_s = v.retry_after_s;
    c->failed = true;
    cancel_all(c);
}

static void submit(struct api_job *job)
{
    struct call *c = (struct call *)(void *)job;
    http_set_gone(job->x, leave, c);
    uint32_t group = 0;
    for (int32_t i = 0; i < c->n_choices; i++) {
        struct request *r = &c->choice[i].request;
        struct status st = {0};
        if (i % c->params.n == 0 && c->params.n > 1)
            group = ++n_groups ? n_groups : ++n_groups;
        r->id = ++n_requests;
        r->group = group;
        if (!scheduler_submit(job->sv->sched, r, &st)) {
            set_error(c, &st);
            answer_error(c);
            return;
        }
        c->n_submitted++;
    }
}

static bool work(struct api_job *job)
{
    return call_build((struct call *)(void *)job);
}

static uint64_t fingerprint(const struct server *sv, const struct engine_facts *f)
{
    uint64_t h = hash64(sv->model_name, strlen(sv->model_name), f->weight_bytes);
    h = hash64(f->arch, strlen(f->arch), h);
    h = hash64(f->isa, strlen(f->isa), h);
    h = hash64(f->kv_dtype, strlen(f->kv_dtype), h);
    for (size_t i = 0; i < sizeof sv->weights_as / sizeof *sv->weights_as; i++)
        if (sv->weights_as[i])
            h = hash64(sv->weights_as[i], strlen(sv->weights_as[i]) + 1, h);
    if (f->n_ranks > 1)
        h = hash64(&f->n_ranks, sizeof f->n_ranks, h);
    return hash64(INFERD_VERSION, strlen(INFERD_VERSION), h);
}

void api_call_open(struct exchange *x, struct server *sv, enum api_kind kind)
{
    struct call *c = calloc(1, sizeof *c);
    struct hash_key random = {0};
    if (!c || !hash_key_random(&random)) {
        struct api_error e;
        api_error_set(&e, 503, "out_of_memory", "", "no memory for this request now");
        e.retry_after_s = 1;
        free(c);
        http_fail(x, &e);
        return;
    }
    struct scheduler_view v;
    scheduler_view(sv->sched, &v);
    c->job.work = work;
    c->job.done = submit;
    c->job.close = close_call;
    c->kind = kind;
    c->domain = http_domain(x);
    c->arrived_ns = http_arrived_ns(x);
    c->who = (struct api_identity){.model = sv->model_name,
                                   .id = {random.k0, random.k1},
                                   .created = clock_unix_s(),
                                   .fingerprint = fingerprint(sv, &v.facts)};
    buf_init(&c->piece, PIECE_BYTES_MAX);
    api_job_start(&c->job, x, sv, &v);
}

/* What one news says, counted: gaps between tokens, and the end. */
static void count_news(struct choice *ch, uint64_t now)
{
    struct call *c = ch->call;
    const int32_t n = atomic_load_explicit(&ch->request.n_out, memory_order_acquire);
    const int32_t n_new = n - ch->n_noted;
    if (n_new > 0) {
        if (ch->n_noted > 0)
            metrics_inter_token(c->job.sv->metrics, now - ch->noted_ns, n_new);
        ch->n_noted = n;
        ch->noted_ns = now;
    }
    if (!request_finished(&ch->request))
        return;
    ch->finished = true;
    c->n_finished++;
    metrics_request(c->job.sv->metrics, &ch->request, now);
    if (c->failed || !c->job.x)
        return;
    const enum finish why = (enum finish)atomic_load(&ch->request.finish);
    if (why == FINISH_ERROR)
        set_error(c, &ch->request.why);
    else if (why == FINISH_CANCELLED)
        set_error(c,
                  &(struct status){.code = STATUS_CANCELLED, .msg = "the request was cancelled"});
}

/* The last thing done with the call in each branch may free it. */
static void tell_call(struct call *c)
{
    if (!c->job.x) {
        call_end(c);
    } else if (c->streaming) {
        http_stream_wake(c->job.x);
    } else if (c->failed) {
        answer_error(c);
    } else if (c->params.stream) {
        c->streaming = true;
        http_stream(c->job.x, 200, "text/event-stream", call_fill, c);
    } else if (c->n_finished == c->n_choices) {
        answer_whole(c);
    }
}

void api_news(struct server *sv)
{
    const uint64_t now = clock_now(sv->clock);
    for (struct request *r; (r = scheduler_news(sv->sched));) {
        struct choice *ch = r->owner;
        count_news(ch, now);
        tell_call(ch->call);
    }
    scheduler_news_done(sv->sched);
}
