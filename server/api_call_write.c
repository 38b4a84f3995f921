/* api_call_write.c - the tokens of a call's choices become events, or one whole answer. */
#include "server/api_call_int.h"

enum { ECHO_RUN = 64 }; /* with 20 alternatives each, some 100 KiB of JSON */

static int32_t count_tokens(const struct choice *ch)
{
    return atomic_load_explicit(&ch->request.n_out, memory_order_acquire);
}

static enum finish how_finished(const struct choice *ch)
{
    return (enum finish)atomic_load_explicit(&ch->request.finish, memory_order_acquire);
}

/* The tokens that the text given out so far covers and whose log-probabilities were not written;
 * at the end, all that remain but those of a stop string. */
static void take_run(struct choice *ch, bool last, struct api_run *run)
{
    const struct request *r = &ch->request;
    const int32_t first = ch->n_covered;
    const bool all = last && !api_text_stopped(&ch->text);
    for (; ch->n_covered < ch->text.n_tokens; ch->n_covered++) {
        size_t n;
        if (!all && ch->covered_at >= ch->text.n_shown)
            break;
        tokenizer_bytes(ch->call->job.sv->tok, r->out[ch->n_covered].id, false, &n);
        ch->covered_at += n;
    }
    const int32_t n_top = r->top ? r->sample.n_logprobs : 0;
    *run = (struct api_run){.token = r->out + first,
                            .top = r->top ? r->top + (size_t)first * (size_t)n_top : NULL,
                            .n = ch->n_covered - first,
                            .n_top = n_top};
}

/* Tokens [first, end) of the prompt. */
static struct api_run prompt_run(const struct choice *ch, int32_t first, int32_t end)
{
    const struct request *r = ch->scores;
    const int32_t n_top = r->score_top ? r->sample.n_logprobs : 0;
    return (struct api_run){.token = r->score + first,
                            .top = n_top ? r->score_top + (size_t)first * (size_t)n_top : NULL,
                            .n = end - first,
                            .n_top = n_top,
                            .first_unknown = first == 0};
}

/* The prompt's text, with the log-probabilities of its first tokens; more of them go in events of
 * their own, so that no event grows with the prompt. */
static void write_echo(struct choice *ch, struct buf *out)
{
    struct call *c = ch->call;
    const struct api_prompt *prompt = &c->prompt[ch->prompt];
    const bool first = ch->n_echoed == 0;
    struct api_run run = {0};
    if (ch->scores) {
        const int32_t rest = prompt->n - ch->n_echoed;
        run = prompt_run(ch, ch->n_echoed, ch->n_echoed + (rest < ECHO_RUN ? rest : ECHO_RUN));
    }
    ch->n_echoed += ch->scores ? run.n : prompt->n;
    api_put_piece(&c->format, out,
                  &(struct api_piece){.index = ch->index,
                                      .text = first ? prompt->text : "",
                                      .n = first ? prompt->n_text : 0,
                                      .run = &run,
                                      .n_runs = ch->scores != NULL,
                                      .offset = &ch->offset});
}

static void write_opening(struct choice *ch, struct buf *out, size_t end)
{
    const bool echo = ch->call->params.echo;
    const int32_t n_prompt = ch->request.n_prompt;
    if (ch->n_echoed == 0)
        api_put_first(&ch->call->format, out, ch->index);
    while (echo && ch->n_echoed < n_prompt && out->n < end)
        write_echo(ch, out);
    ch->opened = !echo || ch->n_echoed == n_prompt;
}

/* An event for the text in `piece`, if there is any, or tokens that must not be lost. */
static void write_piece(struct choice *ch, bool last, struct buf *out)
{
    struct call *c = ch->call;
    struct api_run run = {0};
    const bool wants = c->params.wants_logprobs;
    if (!last && c->piece.n == 0)
        return;
    if (wants)
        take_run(ch, last, &run);
    if (c->piece.n == 0 && run.n == 0)
        return;
    api_put_piece(&c->format, out,
                  &(struct api_piece){.index = ch->index,
                                      .text = c->piece.at ? c->piece.at : "",
                                      .n = c->piece.n,
                                      .run = &run,
                                      .n_runs = wants,
                                      .offset = &ch->offset});
}

static void write_token(struct choice *ch, struct buf *out)
{
    buf_clear(&ch->call->piece);
    api_text_feed(&ch->text, ch->request.out[ch->text.n_tokens].id, &ch->call->piece);
    write_piece(ch, false, out);
}

static void write_ending(struct choice *ch, struct buf *out)
{
    buf_clear(&ch->call->piece);
    api_text_finish(&ch->text, &ch->call->piece);
    write_piece(ch, true, out);
    api_put_last(&ch->call->format, out, ch->index, how_finished(ch));
}

/* Is every log-probability of the prompt known that it echoes?  The first choice of a prompt, which
 * computes them, may have ended in an error, or be behind the others. */
static bool has_scores(const struct choice *ch)
{
    if (!ch->scores || atomic_load_explicit(&ch->scores->n_out, memory_order_acquire) > 0)
        return true;
    const int f = atomic_load_explicit(&ch->scores->finish, memory_order_acquire);
    return f == FINISH_STOP || f == FINISH_LENGTH;
}

/* Writes what is ready while out->n < end.  True once the choice has nothing more to say. */
static bool write_choice(struct choice *ch, struct buf *out, size_t end)
{
    const bool finished = ch->finished;
    const int32_t n = count_tokens(ch);
    if (ch->ended)
        return true;
    if (n == 0 && !finished)
        return false;
    if (!ch->opened && out->n < end && has_scores(ch))
        write_opening(ch, out, end);
    while (ch->opened && ch->text.n_tokens < n && out->n < end)
        write_token(ch, out);
    if (!ch->opened || !finished || ch->text.n_tokens < n || out->n >= end)
        return false;
    if (how_finished(ch) == FINISH_STOP || how_finished(ch) == FINISH_LENGTH)
        write_ending(ch, out);
    ch->ended = true;
    return true;
}

static void write_error_event(const struct api_error *e, struct buf *out)
{
    buf_put_str(out, "data: ");
    api_error_write(e, out);
    buf_put_str(out, "\n\n");
}

enum fill call_fill(void *ctx, struct buf *out, size_t room)
{
    struct call *c = ctx;
    const size_t end = out->n + room;
    bool all = true;
    for (int32_t i = 0; i < c->n_choices; i++)
        all &= write_choice(&c->choice[(c->turn + i) % c->n_choices], out, end);
    c->turn = (c->turn + 1) % c->n_choices;
    if (c->failed && out->n < end) {
        write_error_event(&c->job.error, out);
    } else if (all && !c->failed) {
        const struct api_usage usage = call_usage(c);
        if (c->params.include_usage)
            api_put_usage_event(&c->format, out, &usage);
        buf_put_str(out, "data: [DONE]\n\n");
    } else {
        return FILL_MORE_LATER;
    }
    call_log(c);
    http_set_gone(c->job.x, NULL, NULL);
    c->job.x = NULL;
    call_end(c);
    return FILL_END;
}

struct api_usage call_usage(const struct call *c)
{
    struct api_usage u = {0};
    for (int32_t i = 0; i < c->n_choices; i++) {
        const struct request *r = &c->choice[i].request;
        u.n_output += count_tokens(&c->choice[i]);
        if (i % c->params.n == 0) { /* a prompt counts once, whatever n is */
            u.n_prompt += r->n_prompt;
            u.n_cached += r->n_cached;
        }
    }
    return u;
}

static void write_whole_choice(struct choice *ch, struct buf *out)
{
    struct call *c = ch->call;
    const struct api_shape *shape = c->format.shape;
    buf_printf(out, "%s{\"index\":%d%s", ch->index ? "," : "", ch->index, shape->text_open);
    if (c->params.echo)
        buf_put_json(out, c->prompt[ch->prompt].text, c->prompt[ch->prompt].n_text);
    buf_clear(&c->piece);
    for (int32_t n = count_tokens(ch); ch->text.n_tokens < n;)
        api_text_feed(&ch->text, ch->request.out[ch->text.n_tokens].id, &c->piece);
    api_text_finish(&ch->text, &c->piece);
    buf_put_json(out, c->piece.at ? c->piece.at : "", c->piece.n);
    buf_put_str(out, shape->text_close);

    struct api_run run[2] = {0};
    int n_runs = 0;
    if (ch->scores)
        run[n_runs++] = prompt_run(ch, 0, ch->request.n_prompt);
    if (c->params.wants_logprobs)
        take_run(ch, true, &run[n_runs++]);
    api_put_logprobs(&c->format, out,
                     &(struct api_piece){.run = run, .n_runs = n_runs, .offset = &ch->offset});
    buf_printf(out, ",\"finish_reason\":\"%s\"}", api_finish_name(how_finished(ch)));
}

void call_write_whole(struct call *c, struct buf *out)
{
    buf_put(out, c->format.head.at, c->format.head.n);
    for (int32_t i = 0; i < c->n_choices; i++)
        write_whole_choice(&c->choice[i], out);
    const struct api_usage usage = call_usage(c);
    buf_put_str(out, "],\"usage\":");
    api_put_usage(out, &usage);
    buf_put_char(out, '}');
}
