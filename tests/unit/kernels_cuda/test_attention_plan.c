/* The work lists cover each query of a prompt once and each key of a generated token once, at
 * borders that the token alone decides, and no wave needs more partials than there are. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/attention_plan.h"

enum { TOKENS_MAX = 512, SEQS_MAX = 16, CONTEXT_MAX = 32768 };

struct bench {
    struct device_limits limits;
    struct attention_plan plan;
    struct batch batch;
    void *at;
    int32_t token_seq[TOKENS_MAX], seq_start[SEQS_MAX + 1], kv_len[SEQS_MAX], slot[SEQS_MAX],
        n_prompt[SEQS_MAX];
};

static void open_bench(struct bench *t, int32_t context_max, int32_t step_tokens_max,
                       int32_t seqs_max, int32_t n_kv_heads)
{
    memset(t, 0, sizeof *t);
    t->limits.step_tokens_max = step_tokens_max;
    t->limits.seqs_max = seqs_max;
    t->limits.context_max = context_max;
    t->limits.n_heads = 32;
    t->limits.n_kv_heads = n_kv_heads;
    t->limits.head_dim = 128;
    t->at = malloc(attention_plan_bytes(&t->limits));
    assert_non_null(t->at);
    memset(t->at, 0xa5, attention_plan_bytes(&t->limits));
    attention_plan_view(&t->plan, &t->limits, t->at);
    t->batch.token_seq = t->token_seq;
    t->batch.seq_start = t->seq_start;
    t->batch.kv_len = t->kv_len;
    t->batch.slot = t->slot;
    t->batch.n_prompt = t->n_prompt;
}

static void add_seq(struct bench *t, int32_t n_tokens, int32_t kv_len, int32_t n_prompt)
{
    const int seq = t->batch.n_seqs++;
    for (int i = 0; i < n_tokens; i++)
        t->token_seq[t->batch.n_tokens++] = seq;
    t->seq_start[seq + 1] = t->batch.n_tokens;
    t->kv_len[seq] = kv_len;
    t->slot[seq] = 3 * seq + 1;
    t->n_prompt[seq] = n_prompt;
}

static int32_t position_of(const struct bench *t, int token)
{
    const int seq = t->token_seq[token];
    return t->kv_len[seq] - (t->seq_start[seq + 1] - token);
}

static bool is_generated(const struct bench *t, int token)
{
    return position_of(t, token) >= t->n_prompt[t->token_seq[token]];
}

static int32_t prompt_len_of(const struct bench *t, int seq)
{
    return t->kv_len[seq] < t->n_prompt[seq] ? t->kv_len[seq] : t->n_prompt[seq];
}

static int32_t end_of_tile(const struct attention_tile *t)
{
    return t->position + t->n_tokens;
}

static void check_tiles(const struct bench *t)
{
    static int seen[TOKENS_MAX];
    const struct attention_counts *n = t->plan.counts;
    memset(seen, 0, sizeof seen);
    for (int i = 0; i < n->n_tiles; i++) {
        const struct attention_tile *tile = &t->plan.tile[i];
        const int seq = t->token_seq[tile->first_token];
        assert_in_range(tile->n_tokens, 1, ATTENTION_TILE);
        assert_int_equal(tile->slot, t->slot[seq]);
        assert_int_equal(tile->prompt_len, prompt_len_of(t, seq));
        assert_int_equal(tile->position, position_of(t, tile->first_token));
        for (int at = 0; at < tile->n_tokens; at++) {
            assert_int_equal(t->token_seq[tile->first_token + at], seq);
            seen[tile->first_token + at]++;
        }
        if (i > 0)
            assert_true(end_of_tile(tile - 1) >= end_of_tile(tile));
    }
    for (int token = 0; token < t->batch.n_tokens; token++)
        assert_int_equal(seen[token], !is_generated(t, token));
}

/* Keys of the token's items, but for the last. */
static int32_t keys_of_item(const struct attention_item *s)
{
    return s->n_items < (s->kv_len + s->size - 1) / s->size ? ATTENTION_RUN : s->size;
}

static void check_item(const struct bench *t, const struct attention_item *s)
{
    const int32_t keys = keys_of_item(s);
    const int seq = t->token_seq[s->token];
    const int32_t size = attention_split_size(s->kv_len, t->limits.n_kv_heads);
    assert_true(is_generated(t, s->token));
    assert_int_equal(s->slot, t->slot[seq]);
    assert_int_equal(s->kv_len, position_of(t, s->token) + 1);
    assert_int_equal(s->old_keys, t->kv_len[seq] - (t->seq_start[seq + 1] - t->seq_start[seq]));
    assert_int_equal(s->size, size);
    assert_true(keys == size || t->plan.has_runs);
    assert_int_equal(s->first_key % keys, 0);
    assert_int_equal(s->end_key, s->first_key + keys < s->kv_len ? s->first_key + keys : s->kv_len);
    assert_true(s->end_key > s->first_key);
    assert_int_equal(s->n_items, (s->kv_len + keys - 1) / keys);
    if (s->n_items == 1) {
        assert_int_equal(s->partial, -1);
        return;
    }
    assert_int_equal(s->partial, s->first_partial + s->first_key / keys);
}

/* Each partial and each counter is used by one token in a wave. */
static void check_wave(const struct bench *t, const struct attention_wave *w)
{
    static int32_t partial_of[1 << 16], merge_of[TOKENS_MAX];
    const int32_t partials_max = attention_partials_max(&t->limits);
    const int32_t merges_max =
        (attention_merges_max(&t->limits) - ATTENTION_QUEUE) / t->limits.n_heads;
    assert_true(partials_max <= 1 << 16 && merges_max <= TOKENS_MAX);
    memset(partial_of, 0xff, sizeof partial_of);
    memset(merge_of, 0xff, sizeof merge_of);
    assert_true(w->end_item > w->first_item);
    for (int i = w->first_item; i < w->end_item; i++) {
        const struct attention_item *s = &t->plan.item[i];
        if (i > w->first_item) {
            const int32_t before = s[-1].end_key - s[-1].first_key;
            assert_true((before + 63) / 64 >= (s->end_key - s->first_key + 63) / 64);
        }
        if (s->partial < 0)
            continue;
        assert_in_range(s->partial, 0, partials_max - 1);
        assert_int_equal(partial_of[s->partial], -1);
        partial_of[s->partial] = s->token;
        assert_in_range(s->merge, 0, merges_max - 1);
        assert_true(merge_of[s->merge] == -1 || merge_of[s->merge] == s->token);
        merge_of[s->merge] = s->token;
    }
}

static void check_items(const struct bench *t)
{
    static int32_t n_keys[TOKENS_MAX], wave_of[TOKENS_MAX];
    const struct attention_counts *n = t->plan.counts;
    int32_t first = 0;
    memset(n_keys, 0, sizeof n_keys);
    memset(wave_of, 0xff, sizeof wave_of);
    assert_in_range(n->n_items, 0, attention_items_max(&t->limits));
    assert_in_range(n->n_waves, 0, ATTENTION_WAVES_MAX);
    for (int w = 0; w < n->n_waves; w++) {
        assert_int_equal(n->wave[w].first_item, first);
        check_wave(t, &n->wave[w]);
        for (first = n->wave[w].first_item; first < n->wave[w].end_item; first++) {
            const struct attention_item *s = &t->plan.item[first];
            check_item(t, s);
            n_keys[s->token] += s->end_key - s->first_key;
            assert_true(wave_of[s->token] == -1 || wave_of[s->token] == w);
            wave_of[s->token] = w;
        }
    }
    assert_int_equal(first, n->n_items);
    for (int token = 0; token < t->batch.n_tokens; token++)
        assert_int_equal(n_keys[token], is_generated(t, token) ? position_of(t, token) + 1 : 0);
}

static void make_and_check(struct bench *t)
{
    const size_t n_bytes = attention_plan_make(&t->plan, &t->limits, &t->batch);
    assert_true(n_bytes <= attention_plan_bytes(&t->limits));
    assert_ptr_equal((char *)t->at + n_bytes, &t->plan.item[t->plan.counts->n_items]);
    check_tiles(t);
    check_items(t);
}

static int32_t keys_in_items_of(const struct bench *t, int32_t keys)
{
    int32_t n = 0;
    for (int i = 0; i < t->plan.counts->n_items; i++) {
        const struct attention_item *s = &t->plan.item[i];
        n += keys_of_item(s) == keys ? s->end_key - s->first_key : 0;
    }
    return n;
}

static void a_few_tokens_are_cut_into_single_splits(void **state)
{
    (void)state;
    struct bench t;
    open_bench(&t, 4096, TOKENS_MAX, SEQS_MAX, 2);
    for (int i = 0; i < SEQS_MAX; i++)
        add_seq(&t, 1, 1530, 5);
    make_and_check(&t);
    assert_int_equal(keys_in_items_of(&t, ATTENTION_SPLIT_MIN), SEQS_MAX * 1530);
    assert_false(t.plan.has_runs);
    free(t.at);
}

/* 29 * 64 items are 7 turns of 256, and 64 items: a quarter of 256. */
static void many_tokens_are_whole_runs_and_some_single_splits(void **state)
{
    (void)state;
    struct bench t;
    open_bench(&t, 4096, TOKENS_MAX, SEQS_MAX, 4);
    for (int i = 0; i < SEQS_MAX; i++)
        add_seq(&t, 29, 1530, 5);
    make_and_check(&t);
    assert_in_range(keys_in_items_of(&t, ATTENTION_SPLIT_MIN), 15 * 1530, 17 * 1530);
    assert_true(t.plan.has_runs);
    assert_int_equal(t.plan.item[0].first_key, 0);
    assert_int_equal(t.plan.item[0].end_key, t.plan.item[0].kv_len);
    assert_int_equal(t.plan.item[0].partial, -1);
    free(t.at);
}

/* A recorded step has the kernel of its width. */
static void neither_lengths_nor_prompts_choose_the_kernel(void **state)
{
    (void)state;
    enum { SHORT, LONG, PROMPT, N_KINDS };
    for (int n_tokens = 1; n_tokens <= 64; n_tokens++) {
        for (int kind = 0; kind < N_KINDS; kind++) {
            struct bench t;
            open_bench(&t, CONTEXT_MAX, TOKENS_MAX, SEQS_MAX, 8);
            for (int left = n_tokens, seq = 0; left > 0; seq++) {
                const int n = (left + SEQS_MAX - seq - 1) / (SEQS_MAX - seq);
                const int32_t kv_len = kind == SHORT ? n + seq : CONTEXT_MAX - 77 * seq;
                add_seq(&t, n, kv_len, kind == PROMPT ? kv_len : kind == LONG ? 5 : 0);
                left -= n;
            }
            make_and_check(&t);
            assert_int_equal(t.plan.counts->n_items > 0, kind != PROMPT);
            assert_int_equal(t.plan.has_runs, n_tokens >= 20); /* 160 tasks of 8 kv heads */
            free(t.at);
        }
    }
}

/* 20 heads share a kv head, and a block takes 16 at most: 2 kv heads are as 4 of fewer,
 * of which 29 tokens a sequence were above. */
static void tiles_of_a_large_group_count_apart(void **state)
{
    (void)state;
    static const int n_each[] = {2, 3, 29};
    for (int k = 0; k < 3; k++) {
        struct bench t;
        open_bench(&t, 4096, TOKENS_MAX, SEQS_MAX, 2);
        t.limits.n_heads = 40;
        for (int i = 0; i < SEQS_MAX; i++)
            add_seq(&t, n_each[k], 1530, 5);
        make_and_check(&t);
        assert_int_equal(t.plan.has_runs, n_each[k] > 2); /* 128 and 192 items */
        if (n_each[k] == 29)
            assert_in_range(keys_in_items_of(&t, ATTENTION_SPLIT_MIN), 15 * 1530, 17 * 1530);
        free(t.at);
    }
}

/* Where registers are short: heads of 256, 16 to a kv head. */
static void wide_heads_of_large_groups_have_single_splits(void **state)
{
    (void)state;
    struct bench t;
    open_bench(&t, 4096, TOKENS_MAX, SEQS_MAX, 2);
    t.limits.head_dim = 256;
    for (int i = 0; i < SEQS_MAX; i++)
        add_seq(&t, 32, 1530, 5);
    make_and_check(&t);
    assert_false(t.plan.has_runs);
    free(t.at);
}

/* 27 * 64 items are 6 turns of 256, and 192 items. */
static void a_turn_that_is_nearly_full_is_left(void **state)
{
    (void)state;
    struct bench t;
    open_bench(&t, 4096, TOKENS_MAX, SEQS_MAX, 4);
    for (int i = 0; i < SEQS_MAX; i++)
        add_seq(&t, 27, 1530, 5);
    make_and_check(&t);
    assert_int_equal(keys_in_items_of(&t, ATTENTION_SPLIT_MIN), 0);
    free(t.at);
}

static void an_empty_batch_has_no_work(void **state)
{
    (void)state;
    struct bench t;
    open_bench(&t, 4096, 64, SEQS_MAX, 8);
    make_and_check(&t);
    assert_int_equal(t.plan.counts->n_tiles, 0);
    assert_int_equal(t.plan.counts->n_waves, 0);
    free(t.at);
}

static void a_decode_step_of_full_sequences_is_one_wave(void **state)
{
    (void)state;
    struct bench t;
    open_bench(&t, CONTEXT_MAX, TOKENS_MAX, SEQS_MAX, 8);
    for (int i = 0; i < SEQS_MAX; i++)
        add_seq(&t, 1, CONTEXT_MAX, 5);
    make_and_check(&t);
    assert_int_equal(t.plan.counts->n_waves, 1);
    free(t.at);
}

static void a_step_of_generated_tokens_alone_fits_the_waves(void **state)
{
    (void)state;
    struct bench t;
    open_bench(&t, CONTEXT_MAX, TOKENS_MAX, 1, 8);
    add_seq(&t, TOKENS_MAX, CONTEXT_MAX, 1);
    make_and_check(&t);
    assert_true(t.plan.counts->n_waves > 1);
    free(t.at);
}

static void a_prompt_that_ends_inside_the_step_is_in_both_lists(void **state)
{
    (void)state;
    struct bench t;
    open_bench(&t, CONTEXT_MAX, TOKENS_MAX, SEQS_MAX, 8);
    add_seq(&t, 300, 1000, 900);
    make_and_check(&t);
    assert_int_equal(t.plan.counts->n_tiles, 2);
    assert_int_equal(t.plan.tile[0].n_tokens, 72);
    free(t.at);
}

static void splits_grow_with_the_context_and_stay_in_range(void **state)
{
    (void)state;
    int32_t before = 0;
    assert_int_equal(attention_split_size(1, 8), ATTENTION_SPLIT_MIN);
    assert_int_equal(attention_split_size(8192, 8), ATTENTION_SPLIT_MIN);
    assert_int_equal(attention_split_size(8193, 8), 2 * ATTENTION_SPLIT_MIN);
    for (int32_t kv_len = 1; kv_len < 1 << 20; kv_len += 977) {
        const int32_t size = attention_split_size(kv_len, 2);
        assert_in_range(size, ATTENTION_SPLIT_MIN, ATTENTION_SPLIT_MAX);
        assert_true(size >= before);
        before = size;
    }
}

static void lists_of_random_batches_are_whole(void **state)
{
    (void)state;
    srand(7);
    for (int round = 0; round < 300; round++) {
        struct bench t;
        open_bench(&t, 1 + rand() % CONTEXT_MAX, 1 + rand() % TOKENS_MAX, 1 + rand() % SEQS_MAX,
                   1 << rand() % 6);
        int left = t.limits.step_tokens_max;
        while (left > 0 && t.batch.n_seqs < t.limits.seqs_max) {
            int n = rand() % 3 ? 1 : 1 + rand() % left;
            n = n < t.limits.context_max ? n : t.limits.context_max;
            const int32_t kv_len = n + rand() % (t.limits.context_max - n + 1);
            add_seq(&t, n, kv_len, 1 + rand() % kv_len);
            left -= n;
        }
        make_and_check(&t);
        free(t.at);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_batch_has_no_work),
        cmocka_unit_test(a_decode_step_of_full_sequences_is_one_wave),
        cmocka_unit_test(a_step_of_generated_tokens_alone_fits_the_waves),
        cmocka_unit_test(a_prompt_that_ends_inside_the_step_is_in_both_lists),
        cmocka_unit_test(splits_grow_with_the_context_and_stay_in_range),
        cmocka_unit_test(a_few_tokens_are_cut_into_single_splits),
        cmocka_unit_test(many_tokens_are_whole_runs_and_some_single_splits),
        cmocka_unit_test(neither_lengths_nor_prompts_choose_the_kernel),
        cmocka_unit_test(tiles_of_a_large_group_count_apart),
        cmocka_unit_test(wide_heads_of_large_groups_have_single_splits),
        cmocka_unit_test(a_turn_that_is_nearly_full_is_left),
        cmocka_unit_test(lists_of_random_batches_are_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
