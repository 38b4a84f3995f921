/* attention_plan.c - cuts a batch into the work lists of attention.
 *
 * One pass over the batch's tokens for the tiles, one for each wave's counts and one for its
 * items, which a counting sort puts longest first.  No allocation. */
#include "kernels/cuda/attention_plan.h"

#include <assert.h>
#include <string.h>

enum {
    SORT_KEYS = 64, /* lengths of items are sorted by this many keys */
    SORT_CLASSES = ATTENTION_RUN / SORT_KEYS,
    ALIGNMENT = 16,
    ATTENTION_TURN = ATTENTION_PLACES * 5 / 8, /* tasks of a turn that is left as it is */
};

#define ALL_KEYS INT64_MAX /* in items of one split, and the kernel has no others */

static_assert(ATTENTION_SPLIT_MIN % SORT_KEYS == 0, "a full split is whole classes");

static int32_t smaller(int64_t a, int64_t b)
{
    return (int32_t)(a < b ? a : b);
}

static int32_t larger(int64_t a, int64_t b)
{
    return (int32_t)(a > b ? a : b);
}

static int32_t divide_up(int64_t a, int64_t b)
{
    return (int32_t)((a + b - 1) / b);
}

static size_t align_up(size_t n)
{
    return (n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

int32_t attention_split_size(int32_t kv_len, int32_t n_kv_heads)
{
    int32_t size = ATTENTION_SPLIT_MIN;
    while (size < ATTENTION_SPLIT_MAX &&
           (int64_t)kv_len * n_kv_heads > (int64_t)size * ATTENTION_PLACES)
        size *= 2;
    return size;
}

/* Most splits that a token can have: the longest context of each size of split is looked at. */
static int32_t token_splits_max(const struct device_limits *l)
{
    int32_t most = 1;
    for (int32_t size = ATTENTION_SPLIT_MIN; size <= ATTENTION_SPLIT_MAX; size *= 2) {
        int32_t kv_len = l->context_max;
        if (size < ATTENTION_SPLIT_MAX)
            kv_len = smaller(kv_len, (int64_t)size * ATTENTION_PLACES / l->n_kv_heads);
        most = larger(most, divide_up(kv_len, size));
    }
    return most;
}

int32_t attention_items_max(const struct device_limits *l)
{
    return l->step_tokens_max * token_splits_max(l);
}

static int32_t tiles_max(const struct device_limits *l)
{
    return l->step_tokens_max / ATTENTION_TILE + l->seqs_max;
}

int32_t attention_partials_max(const struct device_limits *l)
{
    /* A wave that is closed uses more than partials - splits of one token; with the second term
     * that leaves no more than ATTENTION_WAVES_MAX - 1 of them, and the last. */
    const int64_t splits = token_splits_max(l), all = splits * l->step_tokens_max;
    const int64_t decode = smaller(splits * l->seqs_max, ATTENTION_PARTIALS_MAX);
    return larger(decode, all / (ATTENTION_WAVES_MAX - 1) + splits);
}

/* Tokens that can merge in one wave: each has two partials or more. */
static int32_t wave_merges_max(const struct device_limits *l)
{
    return smaller(l->step_tokens_max, attention_partials_max(l) / 2);
}

int32_t attention_merges_max(const struct device_limits *l)
{
    return ATTENTION_QUEUE + wave_merges_max(l) * l->n_heads;
}

static size_t tiles_at(void)
{
    return align_up(sizeof(struct attention_counts));
}

static size_t items_at(const struct device_limits *l)
{
    return tiles_at() + align_up((size_t)tiles_max(l) * sizeof(struct attention_tile));
}

size_t attention_plan_bytes(const struct device_limits *l)
{
    return items_at(l) + (size_t)attention_items_max(l) * sizeof(struct attention_item);
}

void attention_plan_view(struct attention_plan *p, const struct device_limits *l, void *at)
{
    char *bytes = (char *)at;
    p->counts = (struct attention_counts *)at;
    p->tile = (struct attention_tile *)(bytes + tiles_at());
    p->item = (struct attention_item *)(bytes + items_at(l));
}

static void add_tiles(struct attention_plan *p, const struct batch *b, int seq)
{
    const int32_t first = b->seq_start[seq], end = b->seq_start[seq + 1];
    const int32_t position = b->kv_len[seq] - (end - first);
    const int32_t n_prompt = larger(0, smaller(end - first, b->n_prompt[seq] - position));

    for (int32_t at = 0; at < n_prompt; at += ATTENTION_TILE) {
        struct attention_tile *t = &p->tile[p->counts->n_tiles++];
        t->slot = b->slot[seq];
        t->first_token = first + at;
        t->n_tokens = smaller(ATTENTION_TILE, n_prompt - at);
        t->position = position + at;
        t->prompt_len = smaller(b->kv_len[seq], b->n_prompt[seq]);
    }
}

/* Shell's sort: those with most keys to see first, then by token. */
static void sort_tiles(struct attention_tile *tile, int32_t n)
{
    for (int32_t gap = n / 2; gap > 0; gap /= 2) {
        for (int32_t i = gap; i < n; i++) {
            const struct attention_tile t = tile[i];
            int32_t at = i;
            for (; at >= gap; at -= gap) {
                const struct attention_tile *before = &tile[at - gap];
                const int32_t more = t.position + t.n_tokens - before->position - before->n_tokens;
                if (more < 0 || (more == 0 && t.first_token > before->first_token))
                    break;
                tile[at] = *before;
            }
            tile[at] = t;
        }
    }
}

/* A token's keys as items. */
struct cut {
    int32_t token, kv_len, size, n_items;
    int32_t keys; /* of an item, but for the last */
};

/* Whether sums of a run find registers. */
static bool heads_allow_runs(const struct device_limits *l)
{
    return l->head_dim <= ATTENTION_RUNS_HEAD_DIM ||
           l->n_heads <= ATTENTION_RUNS_HEADS * l->n_kv_heads;
}

/* What blocks take of one item: a task for each tile of the query heads that share a kv head.  (In
 * 8 bits tiles of wide heads are smaller, but where they are two there are no runs.) */
static int32_t tasks_of_item(const struct device_limits *l)
{
    return l->n_kv_heads * divide_up(divide_up(l->n_heads, l->n_kv_heads), ATTENTION_TASK_HEADS);
}

/* Whether items may be runs.  A recorded step has the kernel of its width, so neither lengths nor
 * what is a prompt may matter.  Fewer tokens than would be left a turn are single splits anyway,
 * but for long contexts, and 1 to 16 are quicker in the kernel that has no others
 * (docs/performance.md). */
static bool may_have_runs(const struct device_limits *l, int32_t n_tokens)
{
    return heads_allow_runs(l) && (int64_t)n_tokens * tasks_of_item(l) >= ATTENTION_TURN;
}

/* False <=> the token is of the prompt.  `n_short` keys are still to go to short items. */
static bool cut_token(struct cut *c, int64_t *n_short, const struct device_limits *l,
                      const struct batch *b, int token)
{
    const int seq = b->token_seq[token];
    c->token = token;
    c->kv_len = b->kv_len[seq] - (b->seq_start[seq + 1] - token) + 1;
    if (c->kv_len <= b->n_prompt[seq])
        return false;
    c->size = attention_split_size(c->kv_len, l->n_kv_heads);
    c->keys = *n_short > 0 ? c->size : ATTENTION_RUN;
    c->n_items = divide_up(c->kv_len, c->keys);
    *n_short -= c->kv_len;
    return true;
}

static int32_t end_of_item(const struct cut *c, int32_t i)
{
    return smaller(c->kv_len, (int64_t)(i + 1) * c->keys);
}

/* The longest are class 0. */
static int32_t class_of_item(const struct cut *c, int32_t i)
{
    return SORT_CLASSES - divide_up(end_of_item(c, i) - i * c->keys, SORT_KEYS);
}

/* The first token after `first` that does not fit into its wave; counts the items by class. */
static int32_t count_wave(int32_t count[SORT_CLASSES], const struct device_limits *l,
                          const struct batch *b, int32_t first, int64_t n_short)
{
    const int32_t partials_max = attention_partials_max(l);
    int32_t n_partials = 0, token = first;

    memset(count, 0, SORT_CLASSES * sizeof count[0]);
    for (; token < b->n_tokens; token++) {
        struct cut c;
        if (!cut_token(&c, &n_short, l, b, token))
            continue;
        if (c.n_items > 1 && n_partials + c.n_items > partials_max)
            break;
        n_partials += c.n_items > 1 ? c.n_items : 0;
        for (int32_t i = 0; i < c.n_items; i++)
            count[class_of_item(&c, i)]++;
    }
    return token;
}

static void place_wave(struct attention_plan *p, int32_t at[SORT_CLASSES],
                       const struct device_limits *l, const struct batch *b, int32_t first,
                       int32_t end, int64_t n_short)
{
    int32_t n_partials = 0, n_merges = 0;
    for (int32_t token = first; token < end; token++) {
        struct cut c;
        if (!cut_token(&c, &n_short, l, b, token))
            continue;
        const int seq = b->token_seq[token];
        const bool merges = c.n_items > 1;
        for (int32_t i = 0; i < c.n_items; i++) {
            struct attention_item *s = &p->item[at[class_of_item(&c, i)]++];
            s->slot = b->slot[seq];
            s->token = token;
            s->first_key = i * c.keys;
            s->end_key = end_of_item(&c, i);
            s->kv_len = c.kv_len;
            s->old_keys = b->kv_len[seq] - (b->seq_start[seq + 1] - b->seq_start[seq]);
            s->size = c.size;
            s->partial = merges ? n_partials + i : -1;
            s->first_partial = n_partials;
            s->n_items = c.n_items;
            s->merge = n_merges;
        }
        n_partials += merges ? c.n_items : 0;
        n_merges += merges;
    }
}

/* Returns the first token of the next wave. */
static int32_t add_wave(struct attention_plan *p, const struct device_limits *l,
                        const struct batch *b, int32_t first, int64_t n_short)
{
    int32_t count[SORT_CLASSES], at[SORT_CLASSES];
    const int32_t end = count_wave(count, l, b, first, n_short);
    struct attention_counts *n = p->counts;
    const int32_t first_item = n->n_items;

    for (int i = 0; i < SORT_CLASSES; i++) {
        at[i] = n->n_items;
        n->n_items += count[i];
    }
    if (n->n_items == first_item)
        return end;
    place_wave(p, at, l, b, first, end, n_short);
    assert(n->n_waves < ATTENTION_WAVES_MAX);
    n->wave[n->n_waves].first_item = first_item;
    n->wave[n->n_waves++].end_item = n->n_items;
    return end;
}

/* How many keys go to items of one split, which run last, where there may be runs.  These take
 * turns on the places that a GPU has; what would be a last turn of a few goes to all places
 * instead.  A turn that is fuller is left: partials cost more than places that wait, and the few
 * that work have the memory for themselves.
 *
 * Five eighths are interpolated.  Measured, on an H200, was half a turn in single splits whatever
 * was left, against none (docs/performance.md): of copy it had 0.94 rather than 0.89, and 1.01
 * rather than 1.02, with a quarter of a turn left, 0.95 rather than 0.94 with three, and 0.01 to
 * 0.15 less where turns were full.
 *
 * ATTENTION_PLACES need not be the places of the GPU in hand: here it moves work, no bits.  An H100
 * has 264, and 396 for a cache of 8 bits, of which the plan does not know; 256 sequences of 1530
 * such keys and 8 kv heads, 5.2 turns of those, have 0.96 of copy: there is little to win. */
static int64_t short_keys(const struct device_limits *l, const struct batch *b)
{
    int64_t n_short = 0, n_keys = 0, n_tasks = 0;
    for (int token = 0; token < b->n_tokens; token++) {
        struct cut c;
        if (!cut_token(&c, &n_short, l, b, token))
            continue;
        n_keys += c.kv_len;
        n_tasks += c.n_items * tasks_of_item(l);
    }
    const int64_t rest = n_tasks % ATTENTION_PLACES;
    return rest < ATTENTION_TURN ? divide_up(n_keys * rest, larger(1, n_tasks)) : 0;
}

/* With at least `n_short` keys of each wave in items of one split. */
static size_t make_plan(struct attention_plan *p, const struct device_limits *l,
                        const struct batch *b, int64_t n_short)
{
    struct attention_counts *n = p->counts;
    n->n_tiles = n->n_items = n->n_waves = 0;
    p->has_runs = n_short < ALL_KEYS;
    for (int seq = 0; seq < b->n_seqs; seq++)
        add_tiles(p, b, seq);
    sort_tiles(p->tile, n->n_tiles);
    for (int32_t token = 0; token < b->n_tokens;)
        token = add_wave(p, l, b, token, n_short);
    return items_at(l) + (size_t)n->n_items * sizeof(struct attention_item);
}

size_t attention_plan_make(struct attention_plan *p, const struct device_limits *l,
                           const struct batch *b)
{
    return make_plan(p, l, b, may_have_runs(l, b->n_tokens) ? short_keys(l, b) : ALL_KEYS);
}
