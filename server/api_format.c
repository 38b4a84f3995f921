/* api_format.c - the frame that both endpoints' answers share. */
#include "server/api_format.h"

#include <math.h>
#include <string.h>

enum { HEAD_BYTES_MAX = 65536 };

bool api_format_init(struct api_format *f, const struct api_shape *shape, bool stream,
                     const struct api_identity *who)
{
    f->shape = shape;
    buf_init(&f->head, HEAD_BYTES_MAX);
    buf_printf(&f->head, "%s{\"id\":\"%s%016llx%016llx\",\"object\":\"%s\",\"created\":%lld,",
               stream ? "data: " : "", shape->id, (unsigned long long)who->id[0],
               (unsigned long long)who->id[1], stream ? shape->chunk_object : shape->object,
               (long long)who->created);
    buf_put_str(&f->head, "\"model\":\"");
    buf_put_json(&f->head, who->model, strlen(who->model));
    return buf_printf(&f->head, "\",\"system_fingerprint\":\"fp_%016llx\",\"choices\":[",
                      (unsigned long long)who->fingerprint);
}

void api_format_close(struct api_format *f)
{
    buf_close(&f->head);
}

static void open_event(const struct api_format *f, struct buf *out, int32_t index)
{
    buf_put(out, f->head.at, f->head.n);
    buf_put(out, "{\"index\":", 9);
    buf_put_i64(out, index);
}

static void close_event(const struct api_format *f, struct buf *out)
{
    buf_put_str(out, f->include_usage ? "}],\"usage\":null}\n\n" : "}]}\n\n");
}

void api_put_first(const struct api_format *f, struct buf *out, int32_t index)
{
    if (!f->shape->delta_first)
        return;
    open_event(f, out, index);
    buf_put_str(out, f->shape->delta_first);
    buf_put_str(out, ",\"logprobs\":null,\"finish_reason\":null");
    close_event(f, out);
}

void api_put_logprobs(const struct api_format *f, struct buf *out, const struct api_piece *p)
{
    buf_put_str(out, ",\"logprobs\":");
    if (p->n_runs > 0)
        f->shape->put_logprobs(f, out, p->run, p->n_runs, p->offset);
    else
        buf_put_str(out, "null");
}

void api_put_piece(const struct api_format *f, struct buf *out, const struct api_piece *p)
{
    open_event(f, out, p->index);
    buf_put_str(out, f->shape->delta_open);
    buf_put_json(out, p->text, p->n);
    buf_put_str(out, f->shape->delta_close);
    api_put_logprobs(f, out, p);
    buf_put_str(out, ",\"finish_reason\":null");
    close_event(f, out);
}

void api_put_last(const struct api_format *f, struct buf *out, int32_t index, enum finish why)
{
    open_event(f, out, index);
    buf_put_str(out, f->shape->delta_last);
    buf_printf(out, ",\"logprobs\":null,\"finish_reason\":\"%s\"", api_finish_name(why));
    close_event(f, out);
}

void api_put_usage_event(const struct api_format *f, struct buf *out, const struct api_usage *u)
{
    buf_put(out, f->head.at, f->head.n);
    buf_put_str(out, "],\"usage\":");
    api_put_usage(out, u);
    buf_put_str(out, "}\n\n");
}

void api_put_usage(struct buf *out, const struct api_usage *u)
{
    buf_printf(out,
               "{\"prompt_tokens\":%lld,\"completion_tokens\":%lld,\"total_tokens\":%lld,"
               "\"prompt_tokens_details\":{\"cached_tokens\":%lld}}",
               (long long)u->n_prompt, (long long)u->n_output,
               (long long)(u->n_prompt + u->n_output), (long long)u->n_cached);
}

const char *api_finish_name(enum finish why)
{
    static const char *const name[] = {"none", "stop", "length", "cancelled", "error"};
    return name[why];
}

void api_put_logprob(struct buf *out, float logprob)
{
    /* JSON has no infinity; -9999 is what OpenAI's answers say for "next to impossible". */
    buf_put_f32(out, isfinite(logprob) ? logprob : -9999.0f);
}
