/* step.c - the records that cross the seam: laid out, filled, and checked. */
#include "engine/step.h"

#include <assert.h>
#include <math.h>
#include <string.h>

/* Arrays follow the header in a fixed order, each at the largest size the limits allow while
 * the record is filled.  Every element is a multiple of 4 bytes and the ones with 8-byte members
 * come first, so offsets are aligned when each array's start is. */
enum { ALIGN = 8 };

static size_t aligned(size_t n)
{
    return (n + ALIGN - 1) & ~(size_t)(ALIGN - 1);
}

static int32_t table_max(const struct step_limits *l)
{
    return (int32_t)(((int64_t)l->context_max + l->block_tokens - 1) / l->block_tokens);
}

static int32_t step_blocks_max(const struct step_limits *l)
{
    /* A step appends at most one block per block_tokens tokens and one more for each row, and
     * gives whole tables to the slots it sets. */
    const int64_t n = (int64_t)l->seqs_max * table_max(l);
    return n < INT32_MAX ? (int32_t)n : INT32_MAX; /* far beyond what a link lets pass */
}

struct step_layout {
    size_t slots, rows, tokens, blocks, history, bias, n_bytes;
};

static struct step_layout layout_step(const struct step_limits *l)
{
    struct step_layout at;
    at.slots = aligned(sizeof(struct step));
    at.rows = aligned(at.slots + (size_t)l->seqs_max * sizeof(struct step_slot));
    at.tokens = aligned(at.rows + (size_t)l->seqs_max * sizeof(struct step_row));
    at.blocks = aligned(at.tokens + (size_t)l->step_tokens_max * sizeof(int32_t));
    at.history = aligned(at.blocks + (size_t)step_blocks_max(l) * sizeof(int32_t));
    at.bias = aligned(at.history + (size_t)l->history_max * sizeof(int32_t));
    at.n_bytes = aligned(at.bias + (size_t)l->bias_max * sizeof(struct sample_bias));
    return at;
}

struct result_layout {
    size_t rows, tokens, scores, n_bytes;
};

static struct result_layout layout_result(const struct step_limits *l)
{
    struct result_layout at;
    at.rows = aligned(sizeof(struct step_result));
    at.tokens = aligned(at.rows + (size_t)l->seqs_max * sizeof(struct step_result_row));
    at.scores = aligned(at.tokens + (size_t)l->seqs_max * sizeof(struct sample_out));
    at.n_bytes = aligned(at.scores + (size_t)l->step_tokens_max * sizeof(struct sample_out));
    return at;
}

size_t step_bytes_max(const struct step_limits *l)
{
    return layout_step(l).n_bytes;
}

size_t step_result_bytes_max(const struct step_limits *l)
{
    return layout_result(l).n_bytes;
}

void step_begin(struct step_builder *b, void *at, const struct step_limits *l, uint64_t id)
{
    assert((uintptr_t)at % ALIGN == 0);
    const struct step_layout lay = layout_step(l);
    b->limits = l;
    b->step = at;
    *b->step = (struct step){
        .n_bytes = (uint32_t)lay.n_bytes,
        .version = STEP_VERSION,
        .id = id,
        .at_slots = (uint32_t)lay.slots,
        .at_rows = (uint32_t)lay.rows,
        .at_tokens = (uint32_t)lay.tokens,
        .at_blocks = (uint32_t)lay.blocks,
        .at_history = (uint32_t)lay.history,
        .at_bias = (uint32_t)lay.bias,
    };
}

static void *part(void *record, uint32_t at)
{
    return (char *)record + at;
}

struct step_slot *step_add_slot(struct step_builder *b)
{
    struct step *s = b->step;
    if (s->n_slots == b->limits->seqs_max)
        return NULL;
    struct step_slot *slot = (struct step_slot *)part(s, s->at_slots) + s->n_slots++;
    memset(slot, 0, sizeof *slot);
    return slot;
}

struct step_row *step_add_row(struct step_builder *b)
{
    struct step *s = b->step;
    if (s->n_rows == b->limits->seqs_max)
        return NULL;
    struct step_row *row = (struct step_row *)part(s, s->at_rows) + s->n_rows++;
    memset(row, 0, sizeof *row);
    row->next_token = -1;
    return row;
}

/* Append n elements to the array at `at`; the index of the first, or -1 past max. */
static int32_t append(void *array, int32_t *count, int32_t max, const void *from, int32_t n,
                      size_t elem)
{
    if (n < 0 || n > max - *count)
        return -1;
    if (n > 0)
        memcpy((char *)array + (size_t)*count * elem, from, (size_t)n * elem);
    *count += n;
    return *count - n;
}

int32_t step_add_tokens(struct step_builder *b, const int32_t *ids, int32_t n)
{
    struct step *s = b->step;
    return append(part(s, s->at_tokens), &s->n_tokens, b->limits->step_tokens_max, ids, n,
                  sizeof *ids);
}

int32_t step_add_blocks(struct step_builder *b, const int32_t *ids, int32_t n)
{
    struct step *s = b->step;
    return append(part(s, s->at_blocks), &s->n_blocks, step_blocks_max(b->limits), ids, n,
                  sizeof *ids);
}

int32_t step_add_history(struct step_builder *b, const int32_t *ids, int32_t n)
{
    struct step *s = b->step;
    return append(part(s, s->at_history), &s->n_history, b->limits->history_max, ids, n,
                  sizeof *ids);
}

int32_t step_add_bias(struct step_builder *b, const struct sample_bias *bias, int32_t n)
{
    struct step *s = b->step;
    return append(part(s, s->at_bias), &s->n_bias, b->limits->bias_max, bias, n, sizeof *bias);
}

/* Move an array down to `to`; returns where the next may begin. */
static uint32_t close_gap(void *record, uint32_t *at, size_t to, int32_t n, size_t elem)
{
    const size_t n_bytes = (size_t)n * elem;
    memmove(part(record, (uint32_t)to), part(record, *at), n_bytes);
    *at = (uint32_t)to;
    return (uint32_t)aligned(to + n_bytes);
}

void step_end(struct step_builder *b)
{
    struct step *s = b->step;
    size_t to = s->at_slots;
    to = close_gap(s, &s->at_slots, to, s->n_slots, sizeof(struct step_slot));
    to = close_gap(s, &s->at_rows, to, s->n_rows, sizeof(struct step_row));
    to = close_gap(s, &s->at_tokens, to, s->n_tokens, sizeof(int32_t));
    to = close_gap(s, &s->at_blocks, to, s->n_blocks, sizeof(int32_t));
    to = close_gap(s, &s->at_history, to, s->n_history, sizeof(int32_t));
    to = close_gap(s, &s->at_bias, to, s->n_bias, sizeof(struct sample_bias));
    s->n_bytes = (uint32_t)to;
}

void step_result_begin(struct result_builder *b, void *at, const struct step_limits *l, uint64_t id)
{
    assert((uintptr_t)at % ALIGN == 0);
    const struct result_layout lay = layout_result(l);
    b->limits = l;
    b->result = at;
    *b->result = (struct step_result){
        .n_bytes = (uint32_t)lay.n_bytes,
        .version = STEP_VERSION,
        .id = id,
        .at_rows = (uint32_t)lay.rows,
        .at_tokens = (uint32_t)lay.tokens,
        .at_scores = (uint32_t)lay.scores,
    };
}

struct step_result_row *step_result_add_row(struct result_builder *b)
{
    struct step_result *r = b->result;
    if (r->n_rows == b->limits->seqs_max)
        return NULL;
    struct step_result_row *row = (struct step_result_row *)part(r, r->at_rows) + r->n_rows++;
    memset(row, 0, sizeof *row);
    return row;
}

static struct sample_out *add_outs(struct step_result *r, uint32_t at, int32_t *count, int32_t n,
                                   int32_t max)
{
    if (n < 0 || n > max - *count)
        return NULL;
    struct sample_out *first = (struct sample_out *)part(r, at) + *count;
    *count += n;
    return first;
}

struct sample_out *step_result_add_tokens(struct result_builder *b, int32_t n)
{
    struct step_result *r = b->result;
    return add_outs(r, r->at_tokens, &r->n_tokens, n, b->limits->seqs_max);
}

struct sample_out *step_result_add_scores(struct result_builder *b, int32_t n)
{
    struct step_result *r = b->result;
    return add_outs(r, r->at_scores, &r->n_scores, n, b->limits->step_tokens_max);
}

void step_result_end(struct result_builder *b)
{
    struct step_result *r = b->result;
    size_t to = r->at_rows;
    to = close_gap(r, &r->at_rows, to, r->n_rows, sizeof(struct step_result_row));
    to = close_gap(r, &r->at_tokens, to, r->n_tokens, sizeof(struct sample_out));
    to = close_gap(r, &r->at_scores, to, r->n_scores, sizeof(struct sample_out));
    r->n_bytes = (uint32_t)to;
}

/* --- reading ------------------------------------------------------------------------------ */

static bool refuse(struct status *st, const char *what, int64_t found)
{
    return status_fail(st, STATUS_CORRUPT, "%s: found %lld", what, (long long)found);
}

static bool array_inside(uint32_t at, int32_t n, int32_t max, size_t elem, size_t n_bytes)
{
    return n >= 0 && n <= max && at % ALIGN == 0 && at <= n_bytes &&
           (size_t)n <= (n_bytes - at) / elem;
}

/* [first, first + n) lies in [0, total). */
static bool range_inside(int32_t first, int32_t n, int32_t total)
{
    return first >= 0 && n >= 0 && first <= total && n <= total - first;
}

static bool slot_inside(int32_t slot, const struct step_limits *l)
{
    return slot >= 0 && slot < l->seqs_max;
}

static bool ids_inside(const int32_t *ids, int32_t n, int32_t end)
{
    for (int32_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= end)
            return false;
    return true;
}

static bool check_params(const struct sample_params *p, struct status *st)
{
    const bool finite = isfinite(p->temperature) && isfinite(p->top_p) && isfinite(p->min_p) &&
                        isfinite(p->presence) && isfinite(p->frequency) && isfinite(p->repetition);
    if (!finite || p->temperature < 0 || p->repetition <= 0)
        return refuse(st, "sampling parameters are out of range", 0);
    if (p->n_logprobs < -1 || p->n_logprobs > TOP_LOGPROBS_MAX)
        return refuse(st, "n_logprobs", p->n_logprobs);
    return true;
}

static bool check_slots(const struct step *s, const struct step_limits *l, struct status *st)
{
    const struct step_slot *slot = step_slots(s);
    int64_t n_history = 0, n_bias = 0;
    for (int32_t i = 0; i < s->n_slots; i++, slot++) {
        if (!slot_inside(slot->slot, l))
            return refuse(st, "slot to set", slot->slot);
        if (slot->n_prompt < 0 || slot->n_prompt > l->context_max)
            return refuse(st, "n_prompt", slot->n_prompt);
        if (!range_inside(slot->first_history, slot->n_history, s->n_history) ||
            slot->n_history > l->context_max)
            return refuse(st, "history range", slot->first_history);
        if (!range_inside(slot->first_bias, slot->n_bias, s->n_bias) ||
            slot->n_bias > STEP_BIAS_MAX)
            return refuse(st, "bias range", slot->first_bias);
        if (!check_params(&slot->params, st))
            return false;
        n_history += slot->n_history;
        n_bias += slot->n_bias;
    }
    if (n_history > l->history_max)
        return refuse(st, "history of all slots", n_history);
    if (n_bias > l->bias_max)
        return refuse(st, "bias of all slots", n_bias);
    return true;
}

static bool check_row(const struct step *s, const struct step_row *row, const struct step_limits *l,
                      struct status *st)
{
    const bool sampled = row->flags & ROW_TOKEN_SAMPLED;
    if (!slot_inside(row->slot, l))
        return refuse(st, "row slot", row->slot);
    if (row->flags & ~(uint32_t)(ROW_SAMPLE | ROW_TOKEN_SAMPLED | ROW_SCORE_NEXT))
        return refuse(st, "row flags", row->flags);
    if (sampled && l->n_stages > 1)
        return refuse(st, "a sample that the first of stages", l->n_stages);
    if (row->n_tokens < 1 || (sampled && row->n_tokens != 1) ||
        (!sampled && !range_inside(row->first_token, row->n_tokens, s->n_tokens)))
        return refuse(st, "row tokens", row->n_tokens);
    if (row->position < 0 || row->position > l->context_max - row->n_tokens)
        return refuse(st, "row position", row->position);
    if (!range_inside(row->first_block, row->n_blocks, s->n_blocks) ||
        !range_inside(row->block_at, row->n_blocks, table_max(l)))
        return refuse(st, "row blocks", row->n_blocks);
    if (row->next_token < -1 || row->next_token >= l->vocab)
        return refuse(st, "next token", row->next_token);
    return true;
}

static bool check_rows(const struct step *s, const struct step_limits *l, struct status *st)
{
    const struct step_row *row = step_rows(s);
    int64_t n_tokens = 0;
    for (int32_t i = 0; i < s->n_rows; i++) {
        if (!check_row(s, &row[i], l, st))
            return false;
        n_tokens += row[i].n_tokens;
    }
    if (n_tokens > l->step_tokens_max)
        return refuse(st, "tokens of all rows", n_tokens);
    return true;
}

static bool check_step_header(const struct step *s, size_t n_bytes, const struct step_limits *l,
                              struct status *st)
{
    if (s->version != STEP_VERSION)
        return refuse(st, "step version", s->version);
    if (s->n_bytes < sizeof *s || s->n_bytes > n_bytes)
        return refuse(st, "step length", s->n_bytes);
    const size_t n = s->n_bytes;
    if (!array_inside(s->at_slots, s->n_slots, l->seqs_max, sizeof(struct step_slot), n) ||
        !array_inside(s->at_rows, s->n_rows, l->seqs_max, sizeof(struct step_row), n) ||
        !array_inside(s->at_tokens, s->n_tokens, l->step_tokens_max, sizeof(int32_t), n) ||
        !array_inside(s->at_blocks, s->n_blocks, step_blocks_max(l), sizeof(int32_t), n) ||
        !array_inside(s->at_history, s->n_history, l->history_max, sizeof(int32_t), n) ||
        !array_inside(s->at_bias, s->n_bias, l->bias_max, sizeof(struct sample_bias), n))
        return refuse(st, "step arrays lead outside the record", s->n_bytes);
    return true;
}

bool step_check(const void *at, size_t n_bytes, const struct step_limits *l, struct status *st)
{
    const struct step *s = at;
    if (n_bytes < sizeof *s)
        return refuse(st, "step is shorter than its header", (int64_t)n_bytes);
    if (!check_step_header(s, n_bytes, l, st) || !check_slots(s, l, st) || !check_rows(s, l, st))
        return false;
    if (!ids_inside(step_tokens(s), s->n_tokens, l->vocab))
        return refuse(st, "a token id is outside the vocabulary", l->vocab);
    if (!ids_inside(step_history(s), s->n_history, l->vocab))
        return refuse(st, "a history id is outside the vocabulary", l->vocab);
    if (!ids_inside(step_blocks(s), s->n_blocks, l->n_blocks))
        return refuse(st, "a block number is outside the cache", l->n_blocks);
    const struct sample_bias *bias = step_bias(s);
    for (int32_t i = 0; i < s->n_bias; i++)
        if (bias[i].id < 0 || bias[i].id >= l->vocab || isnan(bias[i].bias))
            return refuse(st, "bias entry", bias[i].id);
    return true;
}

static bool check_outs(const struct sample_out *out, int32_t n, const struct step_limits *l,
                       struct status *st)
{
    for (int32_t i = 0; i < n; i++) {
        if (out[i].id < 0 || out[i].id >= l->vocab)
            return refuse(st, "sampled id", out[i].id);
        if (out[i].n_top < 0 || out[i].n_top > TOP_LOGPROBS_MAX ||
            !ids_inside(out[i].top_id, out[i].n_top, l->vocab))
            return refuse(st, "top list", out[i].n_top);
    }
    return true;
}

bool step_result_check(const void *at, size_t n_bytes, const struct step_limits *l,
                       struct status *st)
{
    const struct step_result *r = at;
    if (n_bytes < sizeof *r)
        return refuse(st, "result is shorter than its header", (int64_t)n_bytes);
    if (r->version != STEP_VERSION)
        return refuse(st, "result version", r->version);
    if (r->n_bytes < sizeof *r || r->n_bytes > n_bytes)
        return refuse(st, "result length", r->n_bytes);
    const size_t n = r->n_bytes;
    if (!array_inside(r->at_rows, r->n_rows, l->seqs_max, sizeof(struct step_result_row), n) ||
        !array_inside(r->at_tokens, r->n_tokens, l->seqs_max, sizeof(struct sample_out), n) ||
        !array_inside(r->at_scores, r->n_scores, l->step_tokens_max, sizeof(struct sample_out), n))
        return refuse(st, "result arrays lead outside the record", r->n_bytes);
    const struct step_result_row *row = step_result_rows(r);
    for (int32_t i = 0; i < r->n_rows; i++, row++) {
        if (!slot_inside(row->slot, l) || row->status < ROW_OK || row->status > ROW_FAILED_NAN)
            return refuse(st, "result row", row->slot);
        if (!range_inside(row->first_token, row->n_tokens, r->n_tokens) ||
            !range_inside(row->first_score, row->n_scores, r->n_scores))
            return refuse(st, "result row range", row->first_token);
    }
    return check_outs(step_result_tokens(r), r->n_tokens, l, st) &&
           check_outs(step_result_scores(r), r->n_scores, l, st);
}

static const void *view(const void *record, uint32_t at)
{
    return (const char *)record + at;
}

const struct step_slot *step_slots(const struct step *s)
{
    return view(s, s->at_slots);
}

const struct step_row *step_rows(const struct step *s)
{
    return view(s, s->at_rows);
}

const int32_t *step_tokens(const struct step *s)
{
    return view(s, s->at_tokens);
}

const int32_t *step_blocks(const struct step *s)
{
    return view(s, s->at_blocks);
}

const int32_t *step_history(const struct step *s)
{
    return view(s, s->at_history);
}

const struct sample_bias *step_bias(const struct step *s)
{
    return view(s, s->at_bias);
}

const struct step_result_row *step_result_rows(const struct step_result *r)
{
    return view(r, r->at_rows);
}

const struct sample_out *step_result_tokens(const struct step_result *r)
{
    return view(r, r->at_tokens);
}

const struct sample_out *step_result_scores(const struct step_result *r)
{
    return view(r, r->at_scores);
}
