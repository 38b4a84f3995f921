/* Ranks compute what one rank computes, but for the order of sums: in every format of weights, with
 * shares of different sizes; what cannot be divided is refused with its numbers. */
#include "engine/ranks.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "engine/model.h"
#include "engine/shard.h"
#include "tests/unit/engine/drive.h"
#include "tests/unit/engine/tiny_model.h"

enum { PROMPT = 23, N_NEW = 9, TOP = 20, OUTS = PROMPT - 1 + N_NEW };

/* The largest difference of a log-probability.  In `exact` all but the order of sums is the same.
 * In `fast` a sum that differs in its last bit may round an activation to the next of 254 steps,
 * and that goes on through the layers: no more than rounding itself does. */
static const double EXACT_BOUND = 1e-4;

struct found {
    struct sample_out out[OUTS];
};

static void write_tiny(char path[64], const struct tiny *t)
{
    struct make m;
    strcpy(path, "/tmp/inferd-ranks-XXXXXX");
    close(mkstemp(path));
    tiny_make(&m, t);
    make_write(&m, path);
    make_close(&m);
}

static struct engine_options options(const char *path, const char *precision, int n_ranks)
{
    return (struct engine_options){.model_path = path,
                                   .cpu_precision = precision,
                                   .device = "cpu",
                                   .tensor_parallel = n_ranks,
                                   .kv_dtype = "f32",
                                   .n_threads = 1,
                                   .seqs_max = 2,
                                   .step_tokens_max = 64,
                                   .block_tokens = 16,
                                   .kv_blocks = 16};
}

static void run_with(const struct engine_options *o, struct found *found)
{
    struct drive d;
    int32_t ids[PROMPT];
    for (int i = 0; i < PROMPT; i++)
        ids[i] = (i * i * 7 + 3) % 160;
    drive_open(&d, o);
    drive_begin(&d);
    struct drive_seq seq = drive_set(&d, 1, drive_greedy(TOP), PROMPT);
    drive_row(&d, &seq, ROW_SCORE_NEXT | ROW_SAMPLE, ids, PROMPT);
    for (int i = 0; i < N_NEW; i++) {
        const struct step_result *r = drive_run(&d);
        if (i == 0)
            memcpy(found->out, step_result_scores(r), (PROMPT - 1) * sizeof *found->out);
        found->out[PROMPT - 1 + i] = step_result_tokens(r)[0];
        const int32_t next = ids[i]; /* the same to all, whatever they sampled */
        drive_begin(&d);
        drive_row(&d, &seq, ROW_SAMPLE, &next, 1);
    }
    drive_close(&d);
}

static void run(const char *path, const char *precision, int n_ranks, struct found *found)
{
    const struct engine_options o = options(path, precision, n_ranks);
    run_with(&o, found);
}

/* Of the log-probabilities that both have. */
static double difference(const struct found *a, const struct found *b)
{
    double worst = 0;
    for (int i = 0; i < OUTS; i++) {
        const struct sample_out *x = &a->out[i], *y = &b->out[i];
        if (x->id == y->id)
            worst = fmax(worst, fabs((double)x->logprob - (double)y->logprob));
        for (int j = 0; j < x->n_top; j++)
            for (int k = 0; k < y->n_top; k++)
                if (x->top_id[j] == y->top_id[k])
                    worst =
                        fmax(worst, fabs((double)x->top_logprob[j] - (double)y->top_logprob[k]));
    }
    return worst;
}

static const enum dtype formats[] = {DT_F32,  DT_F16,  DT_Q4_0, DT_Q4_1, DT_Q5_0, DT_Q5_1,
                                     DT_Q8_0, DT_Q2_K, DT_Q3_K, DT_Q4_K, DT_Q5_K, DT_Q6_K};

/* Shares that differ: the feed-forward has 7 blocks, the vocabulary 163 tokens. */
static struct tiny shape_for(enum dtype dtype)
{
    const int block = dtype_traits[dtype].block > 32 ? 256 : 32;
    return (struct tiny){.hidden = 2 * block,
                         .n_layers = 2,
                         .n_heads = 4,
                         .n_kv_heads = 2, /* N = 4: two ranks have the same one */
                         .head_dim = block,
                         .ffn = 7 * block,
                         .vocab = 163,
                         .context = 64,
                         .dtype = dtype,
                         .tied = dtype % 2 == 0,
                         .has_bias = true,
                         .has_factors = dtype % 2 == 1};
}

static void check_format(enum dtype dtype)
{
    char path[64];
    const struct tiny t = shape_for(dtype);
    struct found exact, fast, some;
    write_tiny(path, &t);
    run(path, "exact", 1, &exact);
    run(path, "fast", 1, &fast);
    const double rounding = difference(&exact, &fast);
    for (int n_ranks = 2; n_ranks <= 4; n_ranks *= 2) {
        run(path, "exact", n_ranks, &some);
        const double of_exact = difference(&exact, &some);
        run(path, "fast", n_ranks, &some);
        const double of_fast = difference(&fast, &some);
        print_message("%-5s %d ranks: largest difference %.2g, fast %.2g (rounding alone %.2g)\n",
                      dtype_traits[dtype].name, n_ranks, of_exact, of_fast, rounding);
        assert_true(of_exact > 0 && of_exact < EXACT_BOUND);
        assert_true(of_fast < fmax(rounding, EXACT_BOUND));
    }
    unlink(path);
}

static void every_format_gives_what_one_rank_gives(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        check_format(formats[i]);
}

/* Groups of 32 columns lie in one rank, so each rank makes the codes that one would make. */
static void weights_are_quantized_on_load_as_one_rank_does(void **state)
{
    (void)state;
    char path[64];
    const struct tiny t = shape_for(DT_F16);
    struct found one, some;
    write_tiny(path, &t);
    for (int n_ranks = 1; n_ranks <= 4; n_ranks *= 2) {
        struct engine_options o = options(path, "exact", n_ranks);
        o.quantize = "int4:asymmetric:group=32";
        run_with(&o, n_ranks == 1 ? &one : &some);
        if (n_ranks > 1)
            print_message("int4  %d ranks: largest difference %.2g\n", n_ranks,
                          difference(&one, &some));
        assert_true(n_ranks == 1 || difference(&one, &some) < EXACT_BOUND);
    }
    unlink(path);
}

static void every_run_gives_the_same_bits(void **state)
{
    (void)state;
    char path[64];
    const struct tiny t = shape_for(DT_Q4_1);
    struct found first, again;
    write_tiny(path, &t);
    for (int n_threads = 4; n_threads <= 8; n_threads += 4) {
        struct engine_options o = options(path, "fast", 4);
        o.n_threads = n_threads;
        run_with(&o, n_threads == 4 ? &first : &again);
    }
    for (int i = 0; i < OUTS; i++) {
        assert_int_equal(first.out[i].id, again.out[i].id);
        assert_memory_equal(&first.out[i].logprob, &again.out[i].logprob, sizeof(float));
        assert_memory_equal(first.out[i].top_logprob, again.out[i].top_logprob,
                            sizeof(float) * (size_t)first.out[i].n_top);
    }
    unlink(path);
}

/* --- what each rank has --------------------------------------------------------------------- */

static void shares_cover_the_model_once(void **state)
{
    (void)state;
    char path[64];
    const struct tiny t = shape_for(DT_Q8_0);
    struct status st = {0};
    write_tiny(path, &t);
    int32_t ffn = 0, heads = 0;
    for (int rank = 0; rank < 4; rank++) {
        struct model_file f;
        assert_true(model_file_open(&f, path, &st));
        assert_true(shard_model(&f, rank, 4, &st));
        ffn += f.cfg.ffn;
        heads += f.cfg.n_heads;
        assert_int_equal(f.cfg.ffn, rank < 3 ? 64 : 32);
        assert_int_equal(f.cfg.n_kv_heads, 1);
        assert_int_equal(f.cfg.vocab, 163);
        assert_int_equal(f.cfg.vocab_split[rank], rank < 3 ? rank * 41 : 123);
        assert_int_equal(f.cfg.vocab_split[4], 163);
        for (size_t i = 0; i < f.n_bound; i++)
            if (f.bound[i].rule->slot == W_DOWN) {
                assert_int_equal(f.bound[i].src->cols, f.cfg.ffn);
                assert_int_equal(f.bound[i].src->source.row_bytes, 7 * 34);
            }
        model_file_close(&f);
    }
    assert_int_equal(ffn, t.ffn);
    assert_int_equal(heads, t.n_heads);
    unlink(path);
}

static const struct {
    const char *name;
    int n_heads, n_kv_heads, head_dim, ffn;
    enum dtype dtype;
    int n_ranks;
    const char *message;
} refused[] = {
    {"query heads", 4, 2, 32, 224, DT_F32, 3,
     "tensor-parallel: want a divisor of the model's 4 query heads, found 3"},
    {"key heads", 6, 3, 32, 224, DT_F32, 2,
     "tensor-parallel: want a divisor or a multiple of the model's 3 key heads, found 2"},
    {"feed-forward", 4, 4, 256, 768, DT_Q4_K, 4,
     "tensor-parallel: want at most the 3 blocks of 256 values that the feed-forward's 768 are, "
     "found 4"},
    {"columns of a head", 16, 4, 64, 1024, DT_Q6_K, 8,
     "tensor-parallel: want at most the 4 blocks of 256 values that the feed-forward's 1024 are, "
     "found 8"},
    {"columns of heads", 4, 4, 64, 512, DT_Q6_K, 2,
     "tensor-parallel 2: tensor blk.0.attn_output.weight: columns [0, 128) are no whole q6_k "
     "blocks of 256"},
    {"ranks", 4, 4, 32, 224, DT_F32, 17, "tensor-parallel: want at most 16, found 17"},
};

static void what_cannot_be_divided_is_refused_with_its_numbers(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        const struct tiny t = {.hidden = refused[i].n_heads * refused[i].head_dim,
                               .n_layers = 1,
                               .n_heads = refused[i].n_heads,
                               .n_kv_heads = refused[i].n_kv_heads,
                               .head_dim = refused[i].head_dim,
                               .ffn = refused[i].ffn,
                               .vocab = 160,
                               .context = 64,
                               .dtype = refused[i].dtype};
        char path[64];
        struct model_file f;
        struct status st = {0};
        write_tiny(path, &t);
        assert_true(model_file_open(&f, path, &st));
        assert_false(shard_model(&f, refused[i].n_ranks - 1, refused[i].n_ranks, &st) &&
                     shard_model(&f, 0, refused[i].n_ranks, &st));
        model_file_close(&f);
        st = (struct status){0};
        const struct engine_options o = options(path, "fast", refused[i].n_ranks);
        assert_null(ranks_open(&o, NULL, &st));
        if (!strstr(st.msg, refused[i].message))
            fail_msg("%s: %s", refused[i].name, st.msg);
        unlink(path);
    }
}

/* --- what they say of it ---------------------------------------------------------------------- */

struct told {
    int32_t n_blocks;
    uint64_t total_bytes, kv_bytes; /* of all ranks */
    char table[1024];               /* at start: its lines of ranks */
};

static void open_and_hear(const struct engine_options *o, struct told *told)
{
    struct drive d;
    drive_open(&d, o);
    const struct engine_facts *facts = ranks_facts(d.ranks);
    const char *lines = strstr(facts->plan, "ranks\n");
    assert_non_null(lines);
    snprintf(told->table, sizeof told->table, "%s", lines);
    told->n_blocks = facts->limits.n_blocks;
    told->total_bytes = facts->total_bytes;
    told->kv_bytes = facts->kv_bytes;
    drive_close(&d);
}

/* One that may hold less decides for all: the others' caches are not those they proposed. */
static void the_table_has_what_ranks_agreed_on(void **state)
{
    (void)state;
    const struct tiny t = {.hidden = 64,
                           .n_layers = 2,
                           .n_heads = 4,
                           .n_kv_heads = 2,
                           .head_dim = 32,
                           .ffn = 64,
                           .vocab = 160,
                           .context = 32768,
                           .dtype = DT_F32};
    char path[64], caps[64];
    struct told most, agreed, want;
    write_tiny(path, &t);
    struct engine_options o = options(path, "exact", 2);
    o.kv_blocks = 0;
    open_and_hear(&o, &most);
    for (int rank = 0; rank < 2; rank++) { /* half a cache fits beside the rest */
        snprintf(caps, sizeof caps, "%d=%llu", rank,
                 (unsigned long long)(most.total_bytes - most.kv_bytes / 2) / 2);
        o.kv_blocks = 0;
        o.max_memory = caps;
        open_and_hear(&o, &agreed);
        assert_true(agreed.n_blocks < most.n_blocks);
        o.kv_blocks = agreed.n_blocks;
        o.max_memory = NULL;
        open_and_hear(&o, &want);
        assert_int_equal(agreed.n_blocks, want.n_blocks);
        assert_string_equal(agreed.table, want.table);
    }
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_format_gives_what_one_rank_gives),
        cmocka_unit_test(weights_are_quantized_on_load_as_one_rank_does),
        cmocka_unit_test(every_run_gives_the_same_bits),
        cmocka_unit_test(shares_cover_the_model_once),
        cmocka_unit_test(what_cannot_be_divided_is_refused_with_its_numbers),
        cmocka_unit_test(the_table_has_what_ranks_agreed_on),
    };
    return cmocka_run_group_tests_name("ranks", tests, NULL, NULL);
}
