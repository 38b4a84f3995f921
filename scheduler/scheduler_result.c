/* scheduler_result.c - what came out of a step: tokens to append, stops to see, blocks to seal. */
#include <string.h>

#include "scheduler/scheduler_int.h"

static void put_top(struct top_logprob *top, const struct sample_out *o, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        top[i] = i < o->n_top ? (struct top_logprob){o->top_id[i], o->top_logprob[i]}
                              : (struct top_logprob){.id = -1};
}

static void take_scores(struct seq *q, const struct flight_row *row, const struct sample_out *score)
{
    struct request *r = q->request;
    for (int32_t i = 0; i < row->n_scores; i++) {
        const int32_t at = row->position + i + 1;
        if (at < q->n_scored)
            continue; /* computed again after a preemption */
        r->score[at] = (struct sample_out_slim){score[i].id, score[i].logprob};
        if (r->score_top && r->sample.n_logprobs > 0)
            put_top(r->score_top + (size_t)at * (size_t)r->sample.n_logprobs, &score[i],
                    r->sample.n_logprobs);
        q->n_scored = at + 1;
    }
}

static bool is_stop_id(const struct request *r, int32_t id)
{
    for (int32_t i = 0; i < r->n_stop_ids; i++)
        if (r->stop_id[i] == id)
            return true;
    return false;
}

static void append(struct request *r, int32_t n_out, const struct sample_out *o)
{
    r->out[n_out] = (struct sample_out_slim){o->id, o->logprob};
    if (r->top && r->sample.n_logprobs > 0)
        put_top(r->top + (size_t)n_out * (size_t)r->sample.n_logprobs, o, r->sample.n_logprobs);
    atomic_store_explicit(&r->n_out, n_out + 1, memory_order_release);
}

static bool ends_in_stop(struct scheduler *s, struct seq *q, int32_t id)
{
    struct stop_match *m = &s->match[q->slot];
    if (m->n_stops == 0)
        return false;
    size_t n;
    const char *bytes = s->text.bytes(s->text.ctx, id, &n);
    return stop_match_feed(m, bytes, n);
}

/* One sample of a live sequence.  Returns how it ends the request, or FINISH_NONE. */
static enum finish take_token(struct scheduler *s, struct seq *q, const struct sample_out *o)
{
    struct request *r = q->request;
    const int32_t n_out = atomic_load_explicit(&r->n_out, memory_order_relaxed);
    if (n_out == 0)
        r->first_token_ns = s->now_ns;
    if (n_out >= r->n_min && is_stop_id(r, o->id)) {
        r->stop_token = o->id;
        return FINISH_STOP;
    }
    append(r, n_out, o);
    s->stat.n_output_tokens++;
    if (n_out >= r->n_min && ends_in_stop(s, q, o->id)) {
        r->stop_index = s->match[q->slot].hit;
        return FINISH_STOP;
    }
    return n_out + 1 == r->n_max ? FINISH_LENGTH : FINISH_NONE;
}

static void count_prefill(struct scheduler *s, struct seq *q)
{
    if (q->prefilled || q->n_done < q->request->n_prompt)
        return;
    q->prefilled = true;
    s->stat.n_prompt_tokens += (uint64_t)q->request->n_prompt;
    s->stat.n_cached_tokens += (uint64_t)q->request->n_cached;
}

static void fail_row(struct scheduler *s, int32_t id)
{
    struct status why = {0};
    status_fail(&why, STATUS_CORRUPT, "numeric error: the model's output is not a number");
    scheduler_seq_finish(s, id, FINISH_ERROR, &why);
}

static void take_row(struct scheduler *s, const struct flight_row *row,
                     const struct step_result_row *answer, const struct step_result *result)
{
    struct seq *q = &s->seq[row->seq];
    if (q->state == SEQ_ENDED)
        return; /* the token computed too many is dropped */
    if (answer->status != ROW_OK) {
        fail_row(s, row->seq);
        return;
    }
    q->n_crashes = 0;
    q->n_done += row->n_tokens;
    if (s->options.prefix_cache)
        scheduler_seq_seal(s, q);
    count_prefill(s, q);
    take_scores(q, row, step_result_scores(result) + answer->first_score);
    enum finish f = FINISH_NONE;
    if (row->flags & ROW_SAMPLE) {
        q->n_future--;
        f = take_token(s, q, step_result_tokens(result) + answer->first_token);
    } else if (q->request->n_max == 0 && q->n_done == q->request->n_prompt) {
        f = FINISH_LENGTH;
    }
    if (f != FINISH_NONE)
        scheduler_seq_finish(s, row->seq, f, NULL);
    else if (row->flags & ROW_SAMPLE)
        scheduler_news_put(s, q->request);
}

static bool check_answer(const struct flight *f, const struct step_result *r, struct status *st)
{
    if (r->id != f->step_id || r->n_rows != f->n_rows)
        return status_fail(
            st, STATUS_CORRUPT, "step %llu of %d rows was answered as step %llu of %d rows",
            (unsigned long long)f->step_id, f->n_rows, (unsigned long long)r->id, r->n_rows);
    const struct step_result_row *answer = step_result_rows(r);
    for (int32_t i = 0; i < f->n_rows; i++) {
        const struct flight_row *row = &f->row[i];
        const bool ok = answer[i].status == ROW_OK;
        if (answer[i].slot != row->slot ||
            (ok && (answer[i].n_tokens != ((row->flags & ROW_SAMPLE) != 0) ||
                    answer[i].n_scores != row->n_scores)))
            return status_fail(st, STATUS_CORRUPT,
                               "step %llu, row %d: slot %d gave %d tokens and %d scores",
                               (unsigned long long)r->id, i, answer[i].slot, answer[i].n_tokens,
                               answer[i].n_scores);
    }
    return true;
}

static void count_step(struct scheduler *s, const struct flight *f)
{
    static const int32_t bound[] = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};
    enum { N_BOUNDS = sizeof bound / sizeof bound[0] };
    int32_t i = 0;
    while (i < N_BOUNDS && f->n_tokens > bound[i])
        i++;
    s->stat.step_tokens_bucket[i]++;
    s->stat.n_steps++;
    s->stat.n_step_tokens += (uint64_t)f->n_tokens;
}

bool scheduler_take_result(struct scheduler *s, const struct step_result *r, struct status *st)
{
    if (s->n_flights == 0)
        return status_fail(st, STATUS_CORRUPT, "an answer came to no step");
    const struct flight f = s->flight[0];
    if (!check_answer(&f, r, st))
        return false;
    count_step(s, &f);
    const struct step_result_row *answer = step_result_rows(r);
    for (int32_t i = 0; i < f.n_rows; i++) {
        take_row(s, &f.row[i], &answer[i], r);
        scheduler_seq_landed(s, f.row[i].seq);
    }
    /* The oldest leaves; its row array serves the next step. */
    s->n_flights--;
    memmove(&s->flight[0], &s->flight[1], (size_t)(s->depth - 1) * sizeof s->flight[0]);
    s->flight[s->depth - 1] = f;
    return true;
}
