/* What the tokenizer promises: the ids of the reference, control tokens only where the caller
 * trusts the text, no more ids than there is room for, and no vocabulary that would break it. */
#include "engine/gguf.h"
#include "engine/tokenizer.h"
#include "tests/unit/engine/small_vocab.h"
#include "tests/unit/engine/token_golden.h"

#include <setjmp.h>
#include <stdarg.h>
#include <time.h>
#include <cmocka.h>

enum { IDS_MAX = 4096 };

static const struct encode_options plain = {0};

static int setup(void **state)
{
    struct small_vocab v;
    struct status st = {0};
    small_vocab_init(&v);
    *state = tokenizer_open_source(&v.src, &st);
    if (!*state)
        fail_msg("%s", st.msg);
    return 0;
}

static int teardown(void **state)
{
    tokenizer_close(*state);
    return 0;
}

static uint32_t next_random(uint64_t *rng)
{
    *rng = *rng * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*rng >> 33);
}

/* The definition, too simple to be wrong: look for each merge in the order of ranks. */
static size_t merge_by_definition(const struct tokenizer *t, int32_t *id, size_t n)
{
    for (size_t rank = 0; rank < SMALL_MERGES; rank++) {
        const char *space = strchr(small_merges[rank], ' ');
        int32_t part[2];
        for (int side = 0; side < 2; side++) {
            const char *at = side ? space + 1 : small_merges[rank];
            struct str text = {at, side ? strlen(at) : (size_t)(space - at)};
            char bytes[16];
            size_t n_bytes = 0;
            for (size_t i = 0; i < text.n; i++) { /* only Ġ and two of Latin-1 are not ASCII */
                if ((unsigned char)text.at[i] < 0x80)
                    bytes[n_bytes++] = text.at[i];
                else if (memcmp(text.at + i, "Ġ", 2) == 0)
                    bytes[n_bytes++] = ' ', i++;
                else
                    bytes[n_bytes++] = (char)((text.at[i] & 3) << 6 | (text.at[i + 1] & 0x3F)), i++;
            }
            part[side] = tokenizer_find(t, bytes, n_bytes);
            assert_true(part[side] >= 0);
        }
        for (size_t i = 0; i + 1 < n; i++) {
            if (id[i] != part[0] || id[i + 1] != part[1])
                continue;
            id[i] = (int32_t)(256 + rank);
            memmove(id + i + 1, id + i + 2, (n - i - 2) * sizeof *id);
            n--;
            rank = SIZE_MAX; /* from the strongest merge again */
            break;
        }
    }
    return n;
}

static void merges_go_by_rank_and_then_by_place(void **state)
{
    const struct tokenizer *t = *state;
    static int32_t ids[IDS_MAX], want[IDS_MAX];
    char text[700];
    uint64_t rng = 11;
    for (int round = 0; round < 400; round++) { /* one word; both sides of the change of method */
        const size_t n = 1 + next_random(&rng) % (round % 4 ? 40 : sizeof text);
        struct status st = {0};
        for (size_t i = 0; i < n; i++) {
            text[i] = "aaaabbc"[next_random(&rng) % 7];
            want[i] = (unsigned char)text[i];
        }
        const size_t n_want = merge_by_definition(t, want, n);
        assert_int_equal(tokenizer_encode(t, text, n, &plain, ids, IDS_MAX, &st), n_want);
        assert_memory_equal(ids, want, n_want * sizeof *ids);
    }
}

static void ids_stand_for_the_bytes_of_the_text(void **state)
{
    const struct tokenizer *t = *state;
    uint64_t rng = 5;
    for (int round = 0; round < 2000; round++) {
        char text[300], back[320];
        int32_t ids[300];
        const size_t n = next_random(&rng) % sizeof text;
        for (size_t i = 0; i < n; i++)
            text[i] =
                round & 1 ? "<u> |im_end!abc"[next_random(&rng) % 15] : (char)next_random(&rng);
        struct status st = {0};
        const int64_t n_ids = tokenizer_encode(t, text, n, &plain, ids, 300, &st);
        size_t n_back = 0;
        for (int64_t i = 0; i < n_ids; i++) {
            size_t n_bytes;
            const char *bytes = tokenizer_bytes(t, ids[i], true, &n_bytes);
            assert_false(tokenizer_is_special(t, ids[i]));
            memcpy(back + n_back, bytes, n_bytes);
            n_back += n_bytes;
        }
        assert_int_equal(n_back, n);
        assert_memory_equal(back, text, n);
    }
}

static void control_tokens_come_from_trusted_text_only(void **state)
{
    static const char text[] = "<|im_end|>!<u>";
    const struct {
        const char *name;
        struct encode_options opts;
        int n_control, n_user;
    } rows[] = {
        {"no trust", {0}, 0, 1},
        {"everything", {.parse_special = true}, 1, 1},
        {"the span", {.trusted = &(struct text_span){0, 11}, .n_trusted = 1}, 1, 1},
        {"the shorter one", {.trusted = &(struct text_span){0, 10}, .n_trusted = 1}, 1, 1},
        {"one byte short", {.trusted = &(struct text_span){0, 9}, .n_trusted = 1}, 0, 1},
        {"one byte late", {.trusted = &(struct text_span){1, 11}, .n_trusted = 1}, 0, 1},
        {"touching", {.trusted = (struct text_span[]){{0, 4}, {4, 11}}, .n_trusted = 2}, 1, 1},
        {"a gap", {.trusted = (struct text_span[]){{0, 4}, {5, 11}}, .n_trusted = 2}, 0, 1},
        {"past the end", {.trusted = &(struct text_span){0, 99}, .n_trusted = 1}, 1, 1},
        {"empty", {.trusted = &(struct text_span){0, 0}, .n_trusted = 1}, 0, 1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        int32_t ids[32];
        struct status st = {0};
        int n_control = 0, n_user = 0;
        int64_t n = tokenizer_encode(*state, text, sizeof text - 1, &rows[i].opts, ids, 32, &st);
        for (int64_t k = 0; k < n; k++) {
            n_control += tokenizer_is_special(*state, ids[k]);
            n_user += ids[k] == SMALL_USER;
        }
        if (n_control != rows[i].n_control || n_user != rows[i].n_user)
            fail_msg("%s: %d control and %d user tokens", rows[i].name, n_control, n_user);
        if (i == 1)
            assert_int_equal(ids[0], SMALL_CONTROL_LONG); /* the longest wins */
        if (i == 3)
            assert_int_equal(ids[0], SMALL_CONTROL);
    }
}

static void too_many_ids_are_refused(void **state)
{
    int32_t ids[8];
    char text[400];
    static const size_t lengths[] = {5, 8, 100, 400}; /* of a word that cannot merge */
    for (size_t i = 0; i < 4; i++) {
        struct status st = {0};
        memset(text, 'x', sizeof text);
        const size_t n = lengths[i];
        if (n <= 8)
            assert_int_equal(tokenizer_encode(*state, text, n, &plain, ids, n, &st), n);
        const size_t room = n <= 8 ? n - 1 : 8;
        assert_int_equal(tokenizer_encode(*state, text, n, &plain, ids, room, &st), -1);
        assert_int_equal(st.code, STATUS_TOO_LARGE);
        char want[64];
        snprintf(want, sizeof want, "prompt has more than %zu tokens", room);
        assert_string_equal(st.msg, want);
    }
}

static void a_huge_word_takes_no_quadratic_time(void **state)
{
    enum { N = 1 << 20 };
    char *text = malloc(N);
    int32_t *ids = malloc(N * sizeof *ids);
    struct status st = {0};
    memset(text, 'a', N);
    const clock_t start = clock();
    const int64_t n = tokenizer_encode(*state, text, N, &plain, ids, N, &st);
    assert_int_equal(n, N / 4);
    /* 0.2 s in a release build; quadratic would be an hour. */
    assert_true((double)(clock() - start) / CLOCKS_PER_SEC < 10);
    free(text);
    free(ids);
}

static void tokens_know_their_role(void **state)
{
    const struct tokenizer *t = *state;
    size_t n;
    int32_t n_ends;
    assert_int_equal(tokenizer_vocab(t), SMALL_N);
    assert_int_equal(tokenizer_bos(t), -1);
    assert_int_equal(tokenizer_eos(t), SMALL_CONTROL_LONG);
    const int32_t *ends = tokenizer_ends(t, &n_ends);
    assert_int_equal(n_ends, 2); /* eos, and <|im_end|> by its text */
    assert_int_equal(ends[0], SMALL_CONTROL);
    assert_int_equal(ends[1], SMALL_CONTROL_LONG);
    assert_true(tokenizer_is_end(t, SMALL_CONTROL));
    assert_false(tokenizer_is_end(t, 'a'));
    assert_false(tokenizer_is_end(t, -1));
    tokenizer_bytes(t, SMALL_CONTROL, false, &n);
    assert_int_equal(n, 0);
    assert_memory_equal(tokenizer_bytes(t, SMALL_CONTROL, true, &n), "<|im_end|>", 10);
    assert_int_equal(n, 10);
    assert_memory_equal(tokenizer_bytes(t, SMALL_BYTE, false, &n), "\x7F", 1);
    assert_int_equal(n, 1);
    assert_memory_equal(tokenizer_bytes(t, ' ', false, &n), " ", 1);
    tokenizer_bytes(t, SMALL_N, true, &n);
    assert_int_equal(n, 0);
    tokenizer_bytes(t, -1, true, &n);
    assert_int_equal(n, 0);
    assert_int_equal(tokenizer_find(t, "<u>", 3), SMALL_USER);
    assert_int_equal(tokenizer_find(t, "", 0), -1);
    assert_int_equal(tokenizer_find(t, "no such", 7), -1);
}

static void bos_and_eos_are_added_as_the_file_asks(void **state)
{
    (void)state;
    static const struct {
        const char *name, *pre;
        int64_t bos;
        int add_bos, add_eos, n_want;
    } rows[] = {
        {"silent", "gpt-2", SMALL_CONTROL, -1, -1, 1},
        {"asked", "gpt-2", SMALL_CONTROL, 1, 1, 3},
        {"forbidden", "llama-bpe", SMALL_CONTROL, 0, 0, 1},
        {"by the family", "llama-bpe", SMALL_CONTROL, -1, -1, 2},
        {"family without one", "llama-bpe", -1, -1, -1, 1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct small_vocab v;
        struct status st = {0};
        int32_t ids[8];
        small_vocab_init(&v);
        v.src.pre = (struct str){rows[i].pre, strlen(rows[i].pre)};
        v.src.bos = rows[i].bos;
        v.src.add_bos = rows[i].add_bos;
        v.src.add_eos = rows[i].add_eos;
        struct tokenizer *t = tokenizer_open_source(&v.src, &st);
        assert_non_null(t);
        const struct encode_options add = {.add_special = true};
        if (tokenizer_encode(t, "a", 1, &add, ids, 8, &st) != rows[i].n_want)
            fail_msg("%s", rows[i].name);
        assert_int_equal(tokenizer_encode(t, "a", 1, &plain, ids, 8, &st), 1);
        tokenizer_close(t);
    }
}

static char long_token[TOK_BYTES_MAX + 1];

static void break_vocab(struct small_vocab *v, int how)
{
    static const char *const bad_merges[] = {"zz a", "a zz", "x y", "ab", "a", "a b c", ""};
    switch (how) {
    case 0:
        v->src.n_tokens = 0;
        break;
    case 1:
        v->src.n_tokens = (size_t)TOK_VOCAB_MAX + 1;
        break;
    case 2:
        v->token[5].n = 0;
        break;
    case 3:
        v->token[260] = v->token[97];
        v->type[260] = TOKEN_CONTROL;
        break;
    case 4:
        v->token[SMALL_USER] = (struct str){long_token, sizeof long_token};
        break;
    case 5:
        v->type[3] = 0;
        break;
    case 6:
        v->type[3] = 7;
        break;
    case 7:
        v->type[3] = TOKEN_BYTE;
        break;
    case 8:
        v->src.bos = SMALL_N;
        break;
    case 9:
        v->src.eos = INT64_MAX;
        break;
    case 10:
        v->src.add_bos = 1;
        break;
    case 11:
        v->src.pre = (struct str){"viking", 6};
        break;
    case 12:
        v->src.n_merges = (size_t)TOK_MERGES_MAX + 1;
        break;
    default:
        v->merge[5] = (struct str){bad_merges[how - 13], strlen(bad_merges[how - 13])};
    }
}

static void broken_vocabularies_are_refused_by_name(void **state)
{
    (void)state;
    static const char *const rows[] = {
        "vocabulary has 0 tokens, want 1 to 1048575",
        "vocabulary has 1048576 tokens, want 1 to 1048575",
        "token 5 is empty",
        "tokens 97 and 260 are both 'a'",
        "token 271 has 65536 bytes, limit 65535",
        "token 3 has type 0, want 1 to 6",
        "token 3 has type 7, want 1 to 6",
        "token 3 is of type byte but is not <0xNN>",
        "bos_token_id is 274 of 274 tokens",
        "eos_token_id is 9223372036854775807 of 274 tokens",
        "add_bos_token is true but there is no such token",
        "pre-tokenizer 'viking' is not known",
        "4194304 merges, limit 4194303",
        "merge 5 'zz a': its left part is not a token",
        "merge 5 'a zz': its right part is not a token",
        "merge 5 'x y': its result is not a token",
        "merge 5 'ab' is not two tokens and a space",
        "merge 5 'a' is not two tokens and a space",
        "merge 5 'a b c' is not two tokens and a space",
        "merge 5 '' is not two tokens and a space",
    };
    memset(long_token, 'x', sizeof long_token);
    for (int i = 0; i < (int)(sizeof rows / sizeof rows[0]); i++) {
        struct small_vocab v;
        struct status st = {0};
        small_vocab_init(&v);
        break_vocab(&v, i);
        assert_null(tokenizer_open_source(&v.src, &st));
        assert_string_equal(st.msg, rows[i]);
        assert_int_equal(st.code, i == 11 ? STATUS_UNSUPPORTED : STATUS_CORRUPT);
    }
}

static void no_merge_makes_a_control_token(void **state)
{
    (void)state;
    struct small_vocab v;
    struct status st = {0};
    int32_t ids[8];
    small_vocab_init(&v);
    v.type[256] = TOKEN_CONTROL; /* "aa", the result of the first merge */
    struct tokenizer *t = tokenizer_open_source(&v.src, &st);
    assert_non_null(t);
    assert_int_equal(tokenizer_encode(t, "aa", 2, &plain, ids, 8, &st), 2);
    assert_int_equal(ids[0], 'a');
    tokenizer_close(t);
}

static struct tokenizer *open_model(struct gguf **g)
{
    const char *path = getenv("INFERD_TEST_MODEL");
    struct status st = {0};
    path = path && path[0] ? path : "models/SmolLM2-135M-Instruct.Q4_1.gguf";
    FILE *f = fopen(path, "rb");
    if (!f) {
        print_message("skipped: no model at %s (set INFERD_TEST_MODEL)\n", path);
        skip();
    }
    fclose(f);
    *g = gguf_open(path, &st);
    struct tokenizer *t = *g ? tokenizer_open(*g, &st) : NULL;
    if (!t)
        fail_msg("%s", st.msg);
    return t;
}

static void sample_has_the_ids_of_the_reference(void **state)
{
    (void)state;
    struct gguf *model;
    struct tokenizer *t = open_model(&model);
    for (int special = 0; special < 2; special++) {
        const struct encode_options opts = {.parse_special = special};
        struct golden g;
        static int32_t ids[8192];
        assert_true(golden_open(&g, special ? "smollm2-special" : "smollm2"));
        while (golden_next(&g)) {
            struct status st = {0};
            int64_t n =
                tokenizer_encode(t, g.sample + g.first, g.end - g.first, &opts, ids, 8192, &st);
            uint64_t h = golden_hash_start;
            for (int64_t i = 0; i < n; i++)
                h = golden_hash(h, (uint64_t)ids[i]);
            if (n != g.count || h != g.hash)
                fail_msg("piece at byte %zu, special %d: other ids", g.first, special);
        }
        assert_int_equal(g.end, g.n_sample);
        golden_close(&g);
    }
    assert_int_equal(tokenizer_eos(t), 2);
    int32_t n_ends;
    const int32_t *ends = tokenizer_ends(t, &n_ends);
    assert_int_equal(n_ends, 2);
    assert_int_equal(ends[0], 0);
    assert_int_equal(ends[1], 2);
    tokenizer_close(t);
    gguf_close(model);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(merges_go_by_rank_and_then_by_place),
        T(ids_stand_for_the_bytes_of_the_text),
        T(control_tokens_come_from_trusted_text_only),
        T(too_many_ids_are_refused),
        T(a_huge_word_takes_no_quadratic_time),
        T(tokens_know_their_role),
        cmocka_unit_test(bos_and_eos_are_added_as_the_file_asks),
        cmocka_unit_test(broken_vocabularies_are_refused_by_name),
        cmocka_unit_test(no_merge_makes_a_control_token),
        cmocka_unit_test(sample_has_the_ids_of_the_reference),
    };
    return cmocka_run_group_tests_name("tokenizer", tests, NULL, NULL);
}
