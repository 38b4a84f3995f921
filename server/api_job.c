/* api_job.c - the hand-over of one exchange to a prep thread and back. */
#include "server/api_job.h"

#include <stdlib.h>
#include <string.h>

#include "engine/tokenizer.h"
#include "scheduler/scheduler.h"

static void mark_gone(void *ctx)
{
    struct api_job *job = ctx;
    job->x = NULL;
    atomic_store_explicit(&job->gone, true, memory_order_relaxed);
}

static void run_work(void *ctx)
{
    struct api_job *job = ctx;
    if (!atomic_load_explicit(&job->gone, memory_order_relaxed))
        job->failed = !job->work(job);
    free(job->body);
    job->body = NULL;
}

static void finish_work(void *ctx)
{
    struct api_job *job = ctx;
    if (job->x && !job->failed) {
        job->done(job);
        return;
    }
    if (job->x)
        api_job_fail(job, &job->error);
    job->close(job);
}

/* The smaller of the model's context and all of the KV cache: nothing longer can ever run. */
static int32_t find_context(const struct step_limits *l)
{
    const int64_t cache = (int64_t)l->n_blocks * l->block_tokens;
    return cache < l->context_max ? (int32_t)cache : l->context_max;
}

static void take_env(struct api_env *env, const struct server *sv, const struct step_limits *l)
{
    *env = (struct api_env){.model_name = sv->model_name,
                            .limits = sv->limits,
                            .vocab = tokenizer_vocab(sv->tok),
                            .context = find_context(l)};
    if (env->vocab > l->vocab)
        env->vocab = l->vocab;
    if (env->limits.logprobs_max > TOP_LOGPROBS_MAX)
        env->limits.logprobs_max = TOP_LOGPROBS_MAX;
    if (env->limits.logit_bias_max > STEP_BIAS_MAX - STOP_IDS_MAX)
        env->limits.logit_bias_max = STEP_BIAS_MAX - STOP_IDS_MAX;
}

static bool copy_body(struct api_job *job, struct exchange *x)
{
    size_t n = 0;
    const char *body = http_body(x, &n);
    job->body = malloc(n + 1);
    if (!job->body)
        return api_job_no_memory(job);
    if (n)
        memcpy(job->body, body, n);
    job->body[n] = '\0';
    job->n_body = n;
    return true;
}

static bool refuse_start(struct api_job *job)
{
    api_job_fail(job, &job->error);
    free(job->body);
    job->body = NULL;
    job->close(job);
    return false;
}

bool api_job_start(struct api_job *job, struct exchange *x, struct server *sv,
                   const struct scheduler_view *v)
{
    job->sv = sv;
    job->x = x;
    if (sv->draining) {
        api_error_set(&job->error, 503, "draining", "", "the server is shutting down");
        job->error.retry_after_s = v->retry_after_s > 0 ? v->retry_after_s : 1;
        return refuse_start(job);
    }
    if (v->facts.limits.context_max == 0) {
        api_error_set(&job->error, 503, "engine_starting", "", "the model is not loaded yet");
        job->error.retry_after_s = v->retry_after_s > 0 ? v->retry_after_s : 1;
        return refuse_start(job);
    }
    take_env(&job->env, sv, &v->facts.limits);
    if (!copy_body(job, x))
        return refuse_start(job);
    http_set_gone(x, mark_gone, job);
    if (prep_submit(sv, run_work, finish_work, job))
        return true;
    api_error_set(&job->error, 503, "overloaded", "", "too many requests are being prepared");
    job->error.retry_after_s = v->retry_after_s > 0 ? v->retry_after_s : 1;
    return refuse_start(job);
}

void api_job_fail(struct api_job *job, const struct api_error *e)
{
    struct exchange *x = job->x;
    job->x = NULL;
    http_set_gone(x, NULL, NULL);
    http_fail(x, e);
}

void api_job_answer(struct api_job *job, struct buf *body)
{
    struct exchange *x = job->x;
    job->x = NULL;
    http_set_gone(x, NULL, NULL);
    http_answer(x, 200, "application/json", body);
}

bool api_job_no_memory(struct api_job *job)
{
    api_error_set(&job->error, 503, "out_of_memory", "", "no memory for this request now");
    job->error.retry_after_s = 1;
    return false;
}
