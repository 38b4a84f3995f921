/* A tokenizer.json gives the ids of the library that wrote it, added tokens with their rules and
 * normal form C among them; what it asks for and nothing here does is refused by name. */
#include "engine/tok_json.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/stat.h>
#include <cmocka.h>

#include <cjson/cJSON.h>

#include "engine/json_file.h"
#include "engine/model_text.h"
#include "engine/tok_nfc.h"
#include "engine/tok_source.h"

enum { IDS_MAX = 8192, SAMPLE_MAX = 1 << 17 };

static size_t read_file(const char *path, char *out, size_t max)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        fail_msg("cannot read %s: run from the source root", path);
    const size_t n = fread(out, 1, max, f);
    fclose(f);
    return n;
}

static uint64_t hash_of(const int32_t *ids, int64_t n)
{
    uint64_t h = 0xCBF29CE484222325u;
    for (int64_t i = 0; i < n; i++)
        h = (h ^ (uint64_t)ids[i]) * 0x100000001B3u;
    return h;
}

static void check_ids(const struct tokenizer *t, const char *name)
{
    static char sample[SAMPLE_MAX];
    static int32_t ids[IDS_MAX];
    const struct encode_options how = {.add_special = true, .parse_special = true};
    const size_t n_sample = read_file("tests/golden/tok_json/sample.bin", sample, SAMPLE_MAX);
    char path[256];
    size_t first = 0, end;
    long long count;
    unsigned long long hash;
    snprintf(path, sizeof path, "tests/golden/tok_json/%s/ids.txt", name);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    for (; fscanf(f, "%zu %lld %llx", &end, &count, &hash) == 3; first = end) {
        struct status st = {0};
        const int64_t n = tokenizer_encode(t, sample + first, end - first, &how, ids, IDS_MAX, &st);
        if (n != count || hash_of(ids, n) != hash)
            fail_msg("%s: piece at byte %zu: other ids", name, first);
    }
    assert_int_equal(first, n_sample);
    fclose(f);
}

static void ids_are_those_of_the_reference(void **state)
{
    (void)state;
    static const char *const names[] = {"llama-bpe", "qwen2", "gpt-2", "smollm", "whole"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[256];
        struct status st = {0};
        snprintf(path, sizeof path, "tests/golden/tok_json/%s", names[i]);
        struct tokenizer *t = tokenizer_open_folder(path, &st);
        if (!t)
            fail_msg("%s: %s", names[i], st.msg);
        assert_string_equal(tokenizer_split(t), names[i]);
        check_ids(t, names[i]);
        tokenizer_close(t);
    }
}

/* The merges of that file were made of scores that fall with the id, as make_tok_json.py says. What
 * a file says of user-defined tokens does not count. */
static void merges_follow_from_scores(void **state)
{
    (void)state;
    static float scores[1024];
    struct status st = {0};
    struct tok_json t = {0};
    struct cJSON *json =
        json_file_read("tests/golden/tok_json/whole", "tokenizer.json", 1 << 20, &st);
    assert_true(json && tok_json_read(&t, json, &st));
    assert_true(t.src.chars && t.src.n_tokens <= 1024 && t.src.n_merges > 300);
    for (size_t i = 0; i < t.src.n_tokens; i++)
        scores[i] = t.types[i] == TOKEN_USER ? -1000 : -(float)i;
    t.src.scores = scores;
    t.src.n_merges = 0;
    struct tokenizer *tok = tokenizer_open_source(&t.src, &st);
    if (!tok)
        fail_msg("%s", st.msg);
    check_ids(tok, "whole");
    tokenizer_close(tok);
    scores[300] = NAN;
    assert_null(tokenizer_open_source(&t.src, &st));
    assert_string_equal(st.msg, "token 300 has no finite score");
    tok_json_close(&t);
    cJSON_Delete(json);
}

/* Spaces come back as spaces, bytes as bytes. */
static void tokens_of_characters_are_their_bytes(void **state)
{
    (void)state;
    static const char text[] = " the\u2581 \U00020BB7\x01 x";
    int32_t ids[32];
    char back[64] = {0};
    size_t n_back = 0, n;
    struct status st = {0};
    struct tokenizer *t = tokenizer_open_folder("tests/golden/tok_json/whole", &st);
    assert_non_null(t);
    const int64_t n_ids =
        tokenizer_encode(t, text, sizeof text - 1, &(struct encode_options){0}, ids, 32, &st);
    assert_true(n_ids > 0);
    for (int64_t i = 0; i < n_ids; i++) {
        const char *bytes = tokenizer_bytes(t, ids[i], false, &n);
        memcpy(back + n_back, bytes, n);
        n_back += n;
    }
    assert_string_equal(back, " the  \U00020BB7\x01 x");
    tokenizer_close(t);
}

/* --- what is refused --- */

#define BYTE_LEVEL "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true}"
#define ALONE      "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}"
#define MODEL                                                                                      \
    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}"
#define PRE "\"pre_tokenizer\":" BYTE_LEVEL
/* Over characters: the normalizer, the decoder, and what else there is. */
#define REPLACE(from, to)                                                                          \
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\"" from "\"},\"content\":\"" to "\"}"
#define SPACE_OUT REPLACE(" ", "\u2581")
#define SPACE_IN                                                                                   \
    "{\"type\":\"Sequence\",\"decoders\":[" REPLACE("\u2581", " ") ",{\"type\":\"ByteFallback\"}," \
                                                                   "{\"type\":\"Fuse\"}]}"
#define CHARS(normalizer, decoder, more)                                                           \
    "\"model\":{\"byte_fallback\":true,\"vocab\":{\"a\":0},\"merges\":[]},"                        \
    "\"normalizer\":" normalizer ",\"decoder\":" decoder more

static const struct {
    const char *name, *json, *message; /* NULL = taken */
} rows[] = {
    {"plain", "{" MODEL "," PRE "}", NULL},
    {"pairs",
     "{\"model\":{\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[[\"a\",\"b\"]]}," PRE "}", NULL},
    {"WordPiece", "{\"model\":{\"type\":\"WordPiece\",\"vocab\":{}}," PRE "}",
     "model: want type BPE, found WordPiece"},
    {"byte_fallback",
     "{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"a\":0},\"merges\":[]}," PRE
     "}",
     "pre_tokenizer: ByteLevel is not supported here"},
    {"characters without all bytes", "{" CHARS(SPACE_OUT, SPACE_IN, "") "}",
     "no token <0x00> for a byte"},
    {"characters, no decoder", "{" CHARS(SPACE_OUT, "null", "") "}",
     "decoder: with byte_fallback, want Replace"},
    {"characters, another decoder", "{" CHARS(SPACE_OUT, "{\"type\":\"Strip\"}", "") "}",
     "decoder: Strip is not supported here"},
    {"characters, no normalizer", "{" CHARS("null", SPACE_IN, "") "}",
     "normalizer: with byte_fallback, want Replace"},
    {"characters, another normalizer", "{" CHARS(REPLACE("x", "y"), SPACE_IN, "") "}",
     "normalizer: with byte_fallback, want Replace"},
    {"characters, another split",
     "{" CHARS(SPACE_OUT, SPACE_IN,
               ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"x\"}}") "}",
     "pre_tokenizer: with byte_fallback, want Split at ' '"},
    {"characters, normalized token",
     "{" CHARS(SPACE_OUT, SPACE_IN,
               ",\"added_tokens\":[{\"id\":1,\"content\":\"x\",\"normalized\":true}]") "}",
     "token 1: with byte_fallback, want normalized false"},
    {"unknown fused", "{\"model\":{\"fuse_unk\":true,\"vocab\":{\"a\":0},\"merges\":[]}," PRE "}",
     "model: fuse_unk is not supported"},
    {"suffix",
     "{\"model\":{\"end_of_word_suffix\":\"</w>\",\"vocab\":{\"a\":0},\"merges\":[]}," PRE "}",
     "model: end_of_word_suffix is not supported"},
    {"no merges", "{\"model\":{\"vocab\":{\"a\":0}}," PRE "}", "want an object vocab"},
    {"merge of three", "{\"model\":{\"vocab\":{\"a\":0},\"merges\":[[\"a\",\"a\",\"a\"]]}," PRE "}",
     "merge 0 is neither a string nor two"},
    {"merge of nothing", "{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"a z\"]}," PRE "}",
     "is not a token"},
    {"the same id", "{\"model\":{\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}," PRE "}",
     "'a' and 'b' both have id 0"},
    {"far id", "{\"model\":{\"vocab\":{\"a\":99999999},\"merges\":[]}," PRE "}",
     "token 'a': want an id below 1048575"},
    {"negative id", "{\"model\":{\"vocab\":{\"a\":-1},\"merges\":[]}," PRE "}", "want an id below"},
    {"added over another", "{\"added_tokens\":[{\"id\":1,\"content\":\"x\"}]," MODEL "," PRE "}",
     "added_tokens: 'b' and 'x' both have id 1"},
    {"added twice", "{\"added_tokens\":[{\"id\":3,\"content\":\"a\"}]," MODEL "," PRE "}",
     "tokens 0 and 3 are both 'a'"},
    {"added without text", "{\"added_tokens\":[{\"id\":3}]," MODEL "," PRE "}", "no content"},
    {"no pre-tokenizer", "{" MODEL "}", "pre_tokenizer: none is not supported"},
    {"Metaspace", "{\"pre_tokenizer\":{\"type\":\"Metaspace\"}," MODEL "}",
     "pre_tokenizer: Metaspace is not supported"},
    {"prefix space",
     "{\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true}," MODEL "}",
     "add_prefix_space: want false"},
    {"pattern",
     "{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":"
     "{\"Regex\":\"\\\\d+\"},\"behavior\":\"Isolated\"}," ALONE "]}," MODEL "}",
     "pre_tokenizer: unknown pattern '\\d+'"},
    {"behavior",
     "{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":"
     "{\"Regex\":\"'(?:[sdmt]|ll|ve|re)| ?\\\\p{L}+| ?\\\\p{N}+| ?[^\\\\s\\\\p{L}\\\\p{N}]+|"
     "\\\\s+(?!\\\\S)|\\\\s+\"},\"behavior\":\"MergedWithNext\"}," ALONE "]}," MODEL "}",
     "unknown Split behavior MergedWithNext"},
    {"two patterns",
     "{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":"
     "{\"Regex\":\"'(?:[sdmt]|ll|ve|re)| ?\\\\p{L}+| ?\\\\p{N}+| ?[^\\\\s\\\\p{L}\\\\p{N}]+|"
     "\\\\s+(?!\\\\S)|\\\\s+\"},\"behavior\":\"Isolated\"}," BYTE_LEVEL "]}," MODEL "}",
     "use_regex: want false, found true"},
    {"no pattern", "{\"pre_tokenizer\":" ALONE "," MODEL "}", "use_regex: want true, found false"},
    {"NFKC", "{\"normalizer\":{\"type\":\"NFKC\"}," MODEL "," PRE "}",
     "normalizer: NFKC is not supported"},
    {"decoder", "{\"decoder\":{\"type\":\"WordPiece\"}," MODEL "," PRE "}",
     "decoder: WordPiece is not supported"},
    {"post-processor", "{\"post_processor\":{\"type\":\"BertProcessing\"}," MODEL "," PRE "}",
     "post_processor: BertProcessing is not supported"},
    {"template of nothing",
     "{\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[]}," MODEL "," PRE "}",
     "want a template with the text"},
    {"template without its token",
     "{\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":"
     "\"<s>\"}},{\"Sequence\":{\"id\":\"A\"}}]}," MODEL "," PRE "}",
     "post_processor: no token '<s>'"},
    {"two at the front",
     "{\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":"
     "\"a\"}},{\"SpecialToken\":{\"id\":\"b\"}},{\"Sequence\":{\"id\":\"A\"}}]}," MODEL "," PRE "}",
     "want one token on each side"},
};

static void what_nothing_here_does_is_refused_by_name(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct status st = {0};
        struct tok_json t = {0};
        struct tokenizer *tok = NULL;
        struct cJSON *json = json_text_parse(str_of(rows[i].json), &st);
        if (json && tok_json_read(&t, json, &st))
            tok = tokenizer_open_source(&t.src, &st);
        if (rows[i].message ? tok || !strstr(st.msg, rows[i].message) : !tok)
            fail_msg("%s: %s", rows[i].name, st.msg);
        tokenizer_close(tok);
        tok_json_close(&t);
        cJSON_Delete(json);
    }
}

/* --- the files beside it --- */

static void put(const char *folder, const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (!text) {
        unlink(path);
        return;
    }
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

#define SPECIAL                                                                                    \
    "{\"added_tokens\":[{\"id\":3,\"content\":\"<s>\",\"special\":true},"                          \
    "{\"id\":4,\"content\":\"</s>\",\"special\":true},"                                            \
    "{\"id\":6,\"content\":\"<|im_end|>\",\"special\":true}]," MODEL "," PRE "}"

static const struct {
    const char *name, *text, *generation, *config, *jinja;
    int32_t bos, eos;
    int32_t ends[3]; /* 0 ends them */
    const char *template, *message;
} folders[] = {
    {.name = "nothing said", .bos = -1, .eos = -1, .ends = {6}},
    {.name = "ids in config.json",
     .config = "{\"bos_token_id\":3,\"eos_token_id\":4,\"vocab_size\":7}",
     .bos = 3,
     .eos = 4,
     .ends = {4}},
    {.name = "a list in generation_config.json, which goes first",
     .config = "{\"eos_token_id\":2}",
     .generation = "{\"eos_token_id\":[4,6]}",
     .text = "{\"bos_token\":\"<s>\",\"eos_token\":{\"content\":\"<|im_end|>\"},"
             "\"chat_template\":\"x{{ bos_token }}\"}",
     .bos = 3,
     .eos = 6,
     .ends = {4, 6},
     .template = "x{{ bos_token }}"},
    {.name = "a file goes before the key",
     .text = "{\"chat_template\":\"key\",\"bos_token\":null}",
     .config = "{\"bos_token_id\":3}",
     .jinja = "file",
     .bos = -1,
     .eos = -1,
     .ends = {6},
     .template = "file"},
    {.name = "several templates",
     .text = "{\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"t\"},"
             "{\"name\":\"default\",\"template\":\"d\"}]}",
     .bos = -1,
     .eos = -1,
     .ends = {6},
     .template = "d"},
    {.name = "template of a wrong type",
     .text = "{\"chat_template\":7}",
     .message = "chat_template: want a string"},
    {.name = "no such token",
     .text = "{\"bos_token\":\"<bos>\"}",
     .message = "tokenizer_config.json: bos_token: no token '<bos>'"},
    {.name = "no such id",
     .generation = "{\"eos_token_id\":7}",
     .message = "generation_config.json: eos_token_id: want ids below 7"},
    {.name = "text as an id",
     .config = "{\"eos_token_id\":\"4\"}",
     .message = "config.json: eos_token_id"},
    {.name = "an added token that the model does not have",
     .config = "{\"vocab_size\":6}",
     .text = "{\"bos_token\":\"<s>\"}",
     .bos = 3,
     .eos = -1,
     .ends = {0}},
    {.name = "more tokens than the model has",
     .config = "{\"vocab_size\":2}",
     .message = "want ids below vocab_size = 2, found 2"},
    {.name = "broken neighbour", .generation = "{", .message = "generation_config.json: byte 1"},
};

static void special_tokens_and_templates_come_from_the_files_beside_it(void **state)
{
    (void)state;
    char folder[] = "/tmp/inferd-test-XXXXXX";
    assert_non_null(mkdtemp(folder));
    put(folder, "tokenizer.json", SPECIAL);
    for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++) {
        struct model_text m;
        struct status st = {0};
        int32_t n_ends = 0, want = 0;
        put(folder, "tokenizer_config.json", folders[i].text);
        put(folder, "generation_config.json", folders[i].generation);
        put(folder, "config.json", folders[i].config);
        put(folder, "chat_template.jinja", folders[i].jinja);
        const bool ok = model_text_open(&m, folder, &st);
        if (ok != !folders[i].message || (!ok && !strstr(st.msg, folders[i].message)))
            fail_msg("%s: %s", folders[i].name, st.msg);
        if (!ok)
            continue;
        print_message("%s\n", folders[i].name);
        assert_int_equal(tokenizer_bos(m.tok), folders[i].bos);
        assert_int_equal(tokenizer_eos(m.tok), folders[i].eos);
        const int32_t *ends = tokenizer_ends(m.tok, &n_ends);
        while (want < 3 && folders[i].ends[want])
            want++;
        assert_int_equal(n_ends, want);
        assert_memory_equal(ends, folders[i].ends, (size_t)want * sizeof *ends);
        assert_int_equal(m.template != NULL, folders[i].template != NULL);
        if (m.template)
            assert_memory_equal(m.template, folders[i].template, m.n_template);
        model_text_close(&m);
    }
    static const char *const names[] = {"tokenizer.json", "tokenizer_config.json", "config.json",
                                        "generation_config.json", "chat_template.jinja"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        put(folder, names[i], NULL);
    rmdir(folder);
}

/* --- normal form C --- */

static const struct {
    const char *from, *to;
} forms[] = {
    {"plain", "plain"},
    {"e\u0301", "\u00e9"},
    {"a\u0323\u0302", "\u1ead"},
    {"a\u0302\u0323", "\u1ead"},      /* marks are put in order first */
    {"\u1100\u1161\u11a8", "\uac01"}, /* Hangul */
    {"\u212b", "\u00c5"},             /* a letter that has another form */
    {"\u0958", "\u0915\u093c"},       /* one that is never composed */
    {"\u1e69", "\u1e69"},
    {"x\u0301\u0301", "x\u0301\u0301"},
};

static void normal_form_c_is_that_of_unicode(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        struct str out;
        char *owned;
        struct status st = {0};
        assert_true(tok_nfc(str_of(forms[i].from), &out, &owned, &st));
        if (!str_is(out, forms[i].to))
            fail_msg("row %zu", i);
        free(owned);
    }
}

/* 2^20 marks in the worst order take no more than a moment. */
static void a_long_run_of_marks_takes_linear_time(void **state)
{
    (void)state;
    enum { N = 1 << 20 };
    char *text = malloc(2 * N + 1);
    struct str out;
    char *owned;
    struct status st = {0};
    for (int i = 0; i < N; i++)
        memcpy(text + 2 * i, i % 2 ? "\u0323" : "\u0301", 2);
    assert_true(tok_nfc((struct str){text, 2 * N}, &out, &owned, &st));
    assert_int_equal(out.n, 2 * N);
    assert_memory_equal(out.at, "\u0323", 2);
    assert_memory_equal(out.at + N, "\u0301", 2);
    free(owned);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_are_those_of_the_reference),
        cmocka_unit_test(merges_follow_from_scores),
        cmocka_unit_test(tokens_of_characters_are_their_bytes),
        cmocka_unit_test(what_nothing_here_does_is_refused_by_name),
        cmocka_unit_test(special_tokens_and_templates_come_from_the_files_beside_it),
        cmocka_unit_test(normal_form_c_is_that_of_unicode),
        cmocka_unit_test(a_long_run_of_marks_takes_linear_time),
    };
    return cmocka_run_group_tests_name("tok_json", tests, NULL, NULL);
}
