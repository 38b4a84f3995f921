/* seq.c - what a sequence is and wants, from its counts. */
#include "scheduler/seq.h"

static int32_t n_out(const struct seq *q)
{
    return atomic_load_explicit(&q->request->n_out, memory_order_relaxed);
}

int32_t seq_n_known(const struct seq *q)
{
    return q->request->n_prompt + n_out(q);
}

static int32_t token_at(const struct seq *q, int32_t i)
{
    const struct request *r = q->request;
    return i < r->n_prompt ? r->prompt[i] : r->out[i - r->n_prompt].id;
}

void seq_tokens(const struct seq *q, int32_t first, int32_t n, int32_t *out)
{
    for (int32_t i = 0; i < n; i++)
        out[i] = token_at(q, first + i);
}

bool seq_is_runnable(const struct seq *q)
{
    if (q->state != SEQ_RUNNING)
        return false;
    if (q->request->n_max == 0)
        return q->n_sent < q->request->n_prompt;
    return n_out(q) + q->n_future < q->request->n_max;
}

static bool is_pinned(const struct seq *q)
{
    return q->request->n_preempted > SEQ_PREEMPTIONS_MAX;
}

bool seq_ranks_before(const struct seq *a, const struct seq *b)
{
    const bool pa = is_pinned(a), pb = is_pinned(b);
    return pa != pb ? pa : a->ticket < b->ticket;
}

bool seq_may_share(const struct seq *q)
{
    return !q->request->score_prompt || q->n_scored >= q->request->n_prompt;
}

int32_t seq_blocks_for(int32_t n_tokens, int32_t block_tokens)
{
    return (n_tokens + block_tokens - 1) / block_tokens;
}
