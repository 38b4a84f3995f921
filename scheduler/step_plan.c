/* step_plan.c - the policy: a pure function of the scheduler. */
#include "scheduler/step_plan.h"

#include "scheduler/scheduler_int.h"

struct maker {
    const struct scheduler *s;
    struct step_plan *plan;
    int32_t n_keep; /* run[0 .. n_keep) keep their blocks */
    int32_t n_stages;
    int32_t decodes; /* rows that may yet go on from a sample */
    int32_t budget;  /* tokens left */
    int32_t avail;   /* blocks free now and promised to nobody */
    int32_t reserve; /* of the first in rank, while it prefills; not in avail */
    int32_t coming;  /* blocks that submitted steps still hold; -1 = not counted yet */
    int32_t claims;  /* blocks that running prompts will still need */
    int32_t n_new;   /* admissions */
    int32_t history_left, bias_left;
};

static int32_t min_i32(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static int32_t max_i32(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

/* Blocks to add to q's table for n more tokens. */
static int32_t count_blocks(const struct scheduler *s, const struct seq *q, int32_t n)
{
    return seq_blocks_for(q->n_sent + n, s->limits.block_tokens) - q->n_table;
}

/* Blocks that would be free if q gave up its table. */
static int32_t count_own(const struct scheduler *s, const struct seq *q)
{
    const block_id *table = scheduler_table(s, q->slot);
    int32_t n = 0;
    for (int32_t i = 0; i < q->n_table; i++)
        n += s->kv.block[table[i]].n_refs == 1;
    return n;
}

static int32_t count_coming(const struct scheduler *s)
{
    int32_t n = 0;
    for (int32_t slot = 0; slot < s->n_slots; slot++) {
        if (s->slot_seq[slot] == SEQ_NONE)
            continue;
        const struct seq *q = &s->seq[s->slot_seq[slot]];
        if (q->state == SEQ_LEAVING || q->state == SEQ_ENDED)
            n += count_own(s, q);
    }
    return n;
}

/* The sequence at run[at] needs n more blocks (0 or 1) to get on: preempt from the end until they
 * are free, or on their way.  True if they are free now. */
static bool find_blocks(struct maker *m, int32_t at, int32_t n)
{
    if (n <= m->avail)
        return true;
    if (m->coming < 0)
        m->coming = count_coming(m->s);
    while (m->avail < n && m->avail + m->coming < n && m->n_keep > at + 1) {
        const struct seq *victim = &m->s->seq[m->s->run[--m->n_keep]];
        if (victim->n_flight > 0)
            m->coming += count_own(m->s, victim);
        else
            m->avail += count_own(m->s, victim);
    }
    if (n <= m->avail)
        return true;
    m->coming -= min_i32(n, m->coming); /* spoken for */
    return false;
}

static struct plan_row *add_row(struct maker *m, int32_t seq, int32_t n_tokens, int32_t n_blocks)
{
    struct plan_row *row = &m->plan->row[m->plan->n_rows++];
    *row = (struct plan_row){.seq = seq, .n_tokens = n_tokens, .n_blocks = n_blocks};
    m->plan->n_tokens += n_tokens;
    m->plan->n_blocks += n_blocks;
    m->budget -= n_tokens;
    m->avail -= n_blocks;
    return row;
}

static int32_t share_of(int32_t n, int32_t n_stages)
{
    return (n + n_stages - 1) / n_stages;
}

static int32_t count_answers(const struct scheduler *s)
{
    int32_t n = 0;
    for (int32_t i = 0; i < s->n_run; i++)
        n += s->seq[s->run[i]].decoding;
    return n;
}

/* Rows of a step that may go on from a sample, of n_answers: with several stages, a micro-batch. */
static int32_t count_decodes(const struct scheduler *s, int32_t n_stages, int32_t n_answers)
{
    int32_t n_steps = 0;
    for (int32_t i = 0; i < s->n_flights; i++)
        n_steps += s->flight[i].n_decodes > 0;
    return n_stages == 1 || n_steps < n_stages ? share_of(n_answers, n_stages) : 0;
}

/* Tokens of a step: with several stages half of one's share, so that a long prompt is in more steps
 * than there are stages, which fill and empty quickly.  While answers go on, in this step or in
 * those ahead of it, few enough that they do not wait long, and as many for prompts as for them, so
 * that sequences begin as fast as others end: prompts, which compute, and answers, which read
 * memory, then share steps (Sarathi-Serve, arXiv:2403.02310). */
static int32_t count_budget(const struct scheduler *s, int32_t n_stages, int32_t n_answers)
{
    const int32_t share = share_of(n_answers, n_stages);
    int32_t n = s->limits.step_tokens_max;
    if (n_stages > 1)
        n = max_i32(share_of(n, 2 * n_stages), share);
    return n_answers == 0 ? n : min_i32(n, max_i32(s->options.mixed_tokens_max, 2 * share));
}

/* Whether the token that q goes on from is there, or the device's to know. */
static bool has_token(const struct maker *m, const struct seq *q)
{
    return m->n_stages == 1 || q->n_future == 0;
}

static void plan_decodes(struct maker *m)
{
    const struct scheduler *s = m->s;
    const uint32_t sampled = m->n_stages == 1 ? ROW_TOKEN_SAMPLED : 0;
    for (int32_t i = 0; i < m->n_keep; i++) {
        const struct seq *q = &s->seq[s->run[i]];
        if (!seq_is_runnable(q) || (!q->decoding && i > 0))
            continue;
        if (q->decoding && (m->decodes == 0 || !has_token(m, q)))
            continue;
        const int32_t n_blocks = count_blocks(s, q, 1);
        if (!find_blocks(m, i, n_blocks))
            continue;
        if (q->decoding) {
            add_row(m, s->run[i], 1, n_blocks)->flags = ROW_SAMPLE | sampled;
            m->decodes--;
        } else { /* the first in rank prefills: nobody may take the block it needs */
            m->reserve = n_blocks;
            m->avail -= n_blocks;
        }
    }
}

/* Flags of a prompt row [first, first + n) of q. */
static uint32_t choose_flags(const struct seq *q, int32_t first, int32_t n)
{
    const struct request *r = q->request;
    uint32_t flags = 0;
    if (first + n == seq_n_known(q) && r->n_max > 0)
        flags |= ROW_SAMPLE;
    if (r->score_prompt && first < r->n_prompt && q->n_scored < r->n_prompt)
        flags |= ROW_SCORE_NEXT;
    return flags;
}

/* The longest row of q from `first` on that the token limits allow. */
static int32_t choose_chunk(const struct maker *m, const struct seq *q, int32_t first)
{
    int32_t n = min_i32(m->budget, m->s->options.prefill_chunk_max);
    n = min_i32(n, seq_n_known(q) - first);
    /* A row is scored whole or not at all, and output is not scored. */
    if (q->request->score_prompt && first < q->request->n_prompt)
        n = min_i32(n, q->request->n_prompt - first);
    return n;
}

/* All the blocks q needs until its prefill gives a token that has a place. */
static int32_t count_whole(const struct scheduler *s, const struct seq *q)
{
    const int32_t n = seq_n_known(q) + (q->request->n_max > 0);
    return seq_blocks_for(n, s->limits.block_tokens);
}

static void plan_prefills(struct maker *m)
{
    const struct scheduler *s = m->s;
    const int32_t block_tokens = s->limits.block_tokens;
    m->avail += m->reserve;
    for (int32_t i = 0; i < m->n_keep; i++) {
        const struct seq *q = &s->seq[s->run[i]];
        if (!seq_is_runnable(q) || q->decoding)
            continue;
        const int32_t room = q->n_table + max_i32(0, m->avail - m->claims);
        int32_t n = choose_chunk(m, q, q->n_sent);
        n = (int32_t)min_i32(n, room * block_tokens - q->n_sent);
        int32_t n_blocks = 0;
        if (n > 0) {
            n_blocks = count_blocks(s, q, n);
            add_row(m, s->run[i], n, n_blocks)->flags = choose_flags(q, q->n_sent, n);
        }
        m->claims += max_i32(0, count_whole(s, q) - q->n_table - n_blocks);
    }
}

/* Is some other request of q's group computing the prompt blocks that q could share? */
static bool is_led(const struct maker *m, const struct seq *q)
{
    const struct scheduler *s = m->s;
    const struct request *r = q->request;
    const int32_t n_shared = (r->n_prompt - 1) / s->limits.block_tokens;
    if (r->group == 0 || n_shared == 0 || !s->options.prefix_cache || !seq_may_share(q))
        return false;
    for (int32_t i = 0; i < m->n_keep + m->plan->n_rows; i++) {
        const struct plan_row *row = i < m->n_keep ? NULL : &m->plan->row[i - m->n_keep];
        if (row && !row->is_new)
            continue;
        const struct seq *leader = &s->seq[row ? row->seq : s->run[i]];
        if (leader->request->group == r->group && leader->request->n_prompt == r->n_prompt &&
            (row ? row->n_hit : leader->n_sealed) < n_shared)
            return true;
    }
    return false;
}

/* Blocks of q's tokens in the prefix cache; *n_idle of them nobody holds.  At least one token is
 * left to compute, so that there are logits, and at most n_max blocks are taken. */
static int32_t count_hits(const struct maker *m, const struct seq *q, int32_t n_max,
                          int32_t *n_idle)
{
    const struct scheduler *s = m->s;
    const int32_t block_tokens = s->limits.block_tokens;
    *n_idle = 0;
    if (!s->options.prefix_cache || !seq_may_share(q))
        return 0;
    n_max = min_i32(n_max, (seq_n_known(q) - 1) / block_tokens);
    struct hash128 hash = prefix_cache_root(&s->cache, q->request->domain);
    int32_t n = 0;
    for (; n < n_max; n++) {
        seq_tokens(q, n * block_tokens, block_tokens, m->plan->tokens);
        hash = prefix_cache_next(&s->cache, hash, m->plan->tokens);
        const block_id id = prefix_cache_find(&s->cache, hash, m->plan->tokens);
        if (id == BLOCK_NONE)
            break;
        *n_idle += s->kv.block[id].n_refs == 0;
    }
    return n;
}

/* Admit q if it fits; false when the queue must wait for blocks or for the next step. */
static bool plan_admission(struct maker *m, int32_t id)
{
    const struct scheduler *s = m->s;
    const struct seq *q = &s->seq[id];
    const int32_t block_tokens = s->limits.block_tokens;
    int32_t n_idle;
    const int32_t n_hit = count_hits(m, q, m->history_left / block_tokens, &n_idle);
    const int32_t n_need = count_whole(s, q) - n_hit + n_idle;
    /* One block to grow for each that runs; none when nothing runs, so that whatever fits an empty
     * cache gets in. */
    const int32_t n_running = m->n_keep + m->n_new;
    if (n_need > m->avail - m->claims - n_running || q->request->n_bias > m->bias_left)
        return false;
    const int32_t first = n_hit * block_tokens;
    const int32_t n = choose_chunk(m, q, first);
    const int32_t n_blocks = seq_blocks_for(first + n, block_tokens) - n_hit;
    struct plan_row *row = add_row(m, id, n, n_blocks);
    row->is_new = true;
    row->n_hit = n_hit;
    row->flags = choose_flags(q, first, n);
    m->plan->n_blocks += n_idle;
    m->avail -= n_idle;
    m->claims += n_need - n_idle - n_blocks;
    m->n_new++;
    m->history_left -= first;
    m->bias_left -= q->request->n_bias;
    return true;
}

static void plan_admissions(struct maker *m)
{
    const struct scheduler *s = m->s;
    int32_t n_free_slots = s->n_free_slots;
    for (int32_t id = s->queue.head; id != SEQ_NONE; id = s->seq[id].next) {
        if (n_free_slots == 0 || m->budget == 0)
            return;
        if (is_led(m, &s->seq[id]))
            continue;
        if (!plan_admission(m, id))
            return;
        n_free_slots--;
    }
}

void step_plan_make(const struct scheduler *s, struct step_plan *plan)
{
    plan->n_rows = plan->n_tokens = plan->n_blocks = plan->n_preempt = 0;
    const int32_t n_stages = max_i32(1, s->limits.n_stages);
    const int32_t n_answers = count_answers(s);
    struct maker m = {
        .s = s,
        .plan = plan,
        .n_keep = s->n_run,
        .n_stages = n_stages,
        .decodes = count_decodes(s, n_stages, n_answers),
        .budget = count_budget(s, n_stages, n_answers),
        .avail = s->kv.n_free,
        .coming = -1,
        .history_left = s->limits.history_max,
        .bias_left = s->limits.bias_max,
    };
    plan_decodes(&m);
    plan_prefills(&m);
    plan->n_preempt = s->n_run - m.n_keep;
    /* Blocks are short while somebody is being preempted: nobody new gets in. */
    if (plan->n_preempt == 0 && s->n_leaving == 0)
        plan_admissions(&m);
}
