/* api_tokenize.c - POST /tokenize and /detokenize: what the model will see, as ids and back.
 *
 * The forms are vLLM's: a prompt or messages give {count, max_model_len, tokens, token_strs},
 * ids give {prompt}.  Both encode exactly as the endpoints that generate do. */
#include <stdlib.h>

#include "engine/tokenizer.h"
#include "server/api.h"
#include "server/api_job.h"
#include "server/api_prompt.h"

enum { ANSWER_BYTES_MAX = 64 << 20 };

struct token_job {
    struct api_job job; /* first */
    enum api_kind kind;
    struct buf body;
};

static void close_job(struct api_job *job)
{
    struct token_job *t = (struct token_job *)(void *)job;
    buf_close(&t->body);
    free(t);
}

static void put_token_strs(struct buf *out, const struct tokenizer *tok, const struct api_prompt *p)
{
    buf_put_char(out, '[');
    for (int32_t i = 0; i < p->n; i++) {
        size_t n;
        const char *bytes = tokenizer_bytes(tok, p->id[i], true, &n);
        buf_put_str(out, i ? ",\"" : "\"");
        buf_put_json(out, bytes, n);
        buf_put_char(out, '"');
    }
    buf_put_char(out, ']');
}

static void put_ids(struct token_job *t, const struct api_prompt *p, bool with_text)
{
    buf_printf(&t->body, "{\"count\":%d,\"max_model_len\":%d,\"tokens\":[", p->n,
               t->job.env.context);
    for (int32_t i = 0; i < p->n; i++) {
        if (i)
            buf_put_char(&t->body, ',');
        buf_put_i64(&t->body, p->id[i]);
    }
    buf_put_str(&t->body, "],\"token_strs\":");
    if (with_text)
        put_token_strs(&t->body, t->job.sv->tok, p);
    else
        buf_put_str(&t->body, "null");
    buf_put_char(&t->body, '}');
}

static bool put_text(struct token_job *t, const struct api_prompt *p)
{
    struct buf text;
    buf_init(&text, ANSWER_BYTES_MAX);
    bool ok = api_ids_text(t->job.sv->tok, p->id, p->n, true, &text);
    buf_put_str(&t->body, "{\"prompt\":\"");
    ok = ok && buf_put_json(&t->body, text.at ? text.at : "", text.n);
    buf_put_str(&t->body, "\"}");
    buf_close(&text);
    return ok;
}

static bool work(struct api_job *job)
{
    struct token_job *t = (struct token_job *)(void *)job;
    struct api_params params;
    if (!api_params_read(&params, t->kind, job->body, job->n_body, &job->env, &job->error))
        return false;
    struct api_prompt prompt;
    bool ok = api_prompt_encode(&prompt, job->sv, &params, 0, &job->env, &job->error);
    if (ok) {
        bool fits = true;
        if (t->kind == API_TOKENIZE)
            put_ids(t, &prompt, params.return_token_strs);
        else
            fits = put_text(t, &prompt);
        ok = (fits && !t->body.failed) || api_job_no_memory(job);
    }
    api_prompt_close(&prompt);
    api_params_close(&params);
    return ok;
}

static void done(struct api_job *job)
{
    struct token_job *t = (struct token_job *)(void *)job;
    api_job_answer(job, &t->body);
    close_job(job);
}

static void open_job(struct exchange *x, struct server *sv, enum api_kind kind)
{
    struct token_job *t = calloc(1, sizeof *t);
    if (!t) {
        struct api_error e;
        api_error_set(&e, 503, "out_of_memory", "", "no memory for this request now");
        e.retry_after_s = 1;
        http_fail(x, &e);
        return;
    }
    struct scheduler_view v;
    scheduler_view(sv->sched, &v);
    t->job.work = work;
    t->job.done = done;
    t->job.close = close_job;
    t->kind = kind;
    buf_init(&t->body, ANSWER_BYTES_MAX);
    api_job_start(&t->job, x, sv, &v);
}

void api_tokenize(struct exchange *x, struct server *sv)
{
    open_job(x, sv, API_TOKENIZE);
}

void api_detokenize(struct exchange *x, struct server *sv)
{
    open_job(x, sv, API_DETOKENIZE);
}
