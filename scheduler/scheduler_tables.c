/* scheduler_tables.c - every table of the scheduler, in one piece of memory. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/scheduler_int.h"

enum { CELL_BYTES = 64, LINE = 64, QUEUE_LIMIT = 1 << 24, MIXED_TOKENS = 1024 };
static_assert(sizeof(struct news_cell) <= CELL_BYTES, "news fit their cell");

static uint32_t ring_cells(int32_t n)
{
    uint32_t cells = 1;
    while (cells < (uint32_t)n)
        cells *= 2;
    return cells;
}

/* Every table but the blocks and the cache, which write as they take. */
static bool take_tables(struct scheduler *s, struct arena *a)
{
    const size_t n_slots = (size_t)s->n_slots;
    const size_t n_tokens = (size_t)s->limits.context_max + (size_t)s->limits.block_tokens;
    const uint32_t n_cells = ring_cells(s->lent_max);
    s->inbox = arena_take(a, ring_bytes(n_cells, CELL_BYTES), LINE);
    s->news = arena_take(a, ring_bytes(2 * n_cells, CELL_BYTES), LINE);
    s->seq = arena_take(a, (size_t)s->n_seqs * sizeof *s->seq, LINE);
    s->run = arena_take(a, n_slots * sizeof *s->run, LINE);
    s->slot_seq = arena_take(a, n_slots * sizeof *s->slot_seq, LINE);
    s->free_slot = arena_take(a, n_slots * sizeof *s->free_slot, LINE);
    s->table = arena_take(a, n_slots * (size_t)s->table_max * sizeof *s->table, LINE);
    s->match = arena_take(a, n_slots * sizeof *s->match, LINE);
    s->plan.row = arena_take(a, n_slots * sizeof *s->plan.row, LINE);
    s->plan.tokens = arena_take(a, n_tokens * sizeof *s->plan.tokens, LINE);
    s->tokens = arena_take(a, n_tokens * sizeof *s->tokens, LINE);
    bool ok = s->inbox && s->news && s->seq && s->run && s->slot_seq && s->free_slot && s->table &&
              s->match && s->plan.row && s->plan.tokens && s->tokens;
    for (int i = 0; i < s->depth; i++) {
        s->flight[i].row = arena_take(a, n_slots * sizeof *s->flight[i].row, LINE);
        ok = ok && s->flight[i].row;
    }
    return ok;
}

/* Take everything once for its size alone: from an arena that nobody writes to. */
static size_t count_bytes(struct scheduler *s)
{
    static _Alignas(LINE) char nothing[LINE];
    struct arena a;
    arena_init(&a, nothing, SIZE_MAX / 4);
    if (!take_tables(s, &a))
        return 0;
    const size_t n_blocks = (size_t)s->limits.n_blocks * sizeof(struct kv_block);
    return a.n_used + n_blocks + prefix_cache_bytes(s->limits.n_blocks, s->limits.block_tokens) +
           2 * (size_t)LINE;
}

static void init_tables(struct scheduler *s)
{
    s->free_seq = SEQ_NONE;
    for (int32_t id = s->n_seqs; id-- > 0;) {
        s->seq[id] = (struct seq){.slot = SEQ_NONE, .next = s->free_seq};
        s->free_seq = id;
    }
    s->n_free_slots = 0;
    for (int32_t slot = s->n_slots; slot-- > 0;) {
        s->slot_seq[slot] = SEQ_NONE;
        s->free_slot[s->n_free_slots++] = slot;
    }
    queue_init(&s->queue, s->seq);
    const uint32_t n_cells = ring_cells(s->lent_max);
    ring_init(s->inbox, n_cells, CELL_BYTES);
    ring_init(s->news, 2 * n_cells, CELL_BYTES);
    ring_sleep_begin(s->news); /* the loop sleeps on news_fd from the start */
}

static bool choose_sizes(struct scheduler *s, const struct step_limits *l, struct status *st)
{
    int32_t n;
    s->limits = *l;
    s->depth = engine_depth(l);
    /* One token for each running sequence must fit a step, or decodes would starve. */
    s->n_slots = l->seqs_max < l->step_tokens_max ? l->seqs_max : l->step_tokens_max;
    if (s->options.queue_max < 0)
        s->options.queue_max = 4 * s->n_slots;
    if (s->options.prefill_chunk_max == 0)
        s->options.prefill_chunk_max = (l->step_tokens_max + 1) / 2;
    if (s->options.mixed_tokens_max == 0)
        s->options.mixed_tokens_max = MIXED_TOKENS;
    if (__builtin_add_overflow(s->options.queue_max, s->n_slots, &n) || n > QUEUE_LIMIT)
        return status_fail(st, STATUS_TOO_LARGE, "queue_max is %d; the limit is %d",
                           s->options.queue_max, QUEUE_LIMIT - s->n_slots);
    s->lent_max = n;
    s->n_seqs = n + s->n_slots; /* ended ones may keep every slot for a step */
    s->table_max = seq_blocks_for(l->context_max, l->block_tokens);
    return true;
}

bool scheduler_tables_open(struct scheduler *s, const struct step_limits *l, struct status *st)
{
    if (!choose_sizes(s, l, st))
        return false;
    const size_t n_bytes = count_bytes(s);
    s->mem = n_bytes ? aligned_alloc(LINE, (n_bytes + LINE - 1) / LINE * LINE) : NULL;
    if (!s->mem)
        return status_fail(st, STATUS_TOO_LARGE, "no memory for the scheduler's tables");
    struct arena a;
    arena_init(&a, s->mem, n_bytes);
    memset(s->mem, 0, n_bytes);
    const bool ok =
        take_tables(s, &a) && kv_blocks_init(&s->kv, &a, l->n_blocks) &&
        prefix_cache_init(&s->cache, &a, &s->options.hash_key, l->n_blocks, l->block_tokens);
    assert(ok); /* counted above */
    init_tables(s);
    s->has_tables = true;
    return ok;
}

void scheduler_tables_close(struct scheduler *s)
{
    free(s->mem);
    s->mem = NULL;
    s->has_tables = false;
}
