/* fuzz_tokenizer.c - any text against a small vocabulary, and any vocabulary against a text.
 *
 * The first byte chooses.  Even: the rest is text; ids must give its bytes back, and none may be
 * control.  Odd: the rest is a vocabulary, one token or merge a line, over bytes, or over
 * characters with merges or with scores; if it opens, it must work. */
#include "tests/unit/engine/small_vocab.h"

#include <stdint.h>
#include <stdlib.h>

enum { LINES_MAX = 512, OF_CHARS = 2, OF_SCORES = 4 };

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static void require(bool ok)
{
    if (!ok)
        abort();
}

static void check_text(const struct tokenizer *t, const char *text, size_t n, bool all_bytes)
{
    struct status st = {0};
    const struct encode_options opts = {0};
    int32_t *ids = malloc((n + 1) * sizeof *ids);
    const int64_t n_ids = tokenizer_encode(t, text, n, &opts, ids, n, &st);
    require(n_ids >= 0);
    size_t at = 0;
    for (int64_t i = 0; i < n_ids; i++) {
        size_t n_token;
        const char *token = tokenizer_bytes(t, ids[i], true, &n_token);
        require(!tokenizer_is_special(t, ids[i]));
        require(!all_bytes || (n_token <= n - at && memcmp(text + at, token, n_token) == 0));
        at += n_token;
    }
    require(!all_bytes || at == n);
    if (n_ids > 0) {
        require(tokenizer_encode(t, text, n, &opts, ids, (size_t)n_ids - 1, &st) == -1);
        require(st.code == STATUS_TOO_LARGE);
    }
    free(ids);
}

static void fuzz_text(uint8_t choice, const char *text, size_t n)
{
    static const char *const names[] = {"gpt-2", "smollm", "llama-bpe", "qwen2"};
    static struct tokenizer *t[4];
    const int which = choice >> 1 & 3;
    if (!t[which]) {
        struct small_vocab v;
        struct status st = {0};
        small_vocab_init(&v);
        v.src.pre = (struct str){names[which], strlen(names[which])};
        t[which] = tokenizer_open_source(&v.src, &st);
        require(t[which] != NULL);
    }
    check_text(t[which], text, n, true);
}

/* What a vocabulary of characters cannot be without. */
static void add_bytes(struct tok_source *src, struct str *tokens, int32_t *types)
{
    static char text[256][8];
    for (int c = 0; c < 256; c++) {
        snprintf(text[c], sizeof text[c], "<0x%02X>", (unsigned)c);
        types[src->n_tokens] = TOKEN_BYTE;
        tokens[src->n_tokens++] = (struct str){text[c], 6};
    }
    src->chars = true;
    src->pre = (struct str){"whole", 5};
}

/* A line: its first byte chooses merge or token and the type, the rest is the text. */
static void fuzz_vocabulary(uint8_t choice, const char *at, size_t n)
{
    struct str tokens[LINES_MAX + 256], merges[LINES_MAX];
    int32_t types[LINES_MAX + 256];
    float scores[LINES_MAX + 256];
    struct tok_source src = {.tokens = tokens,
                             .merges = merges,
                             .types = types,
                             .pre = {"llama-bpe", 9},
                             .bos = -1,
                             .eos = 0,
                             .eot = -1,
                             .eom = 1,
                             .add_bos = -1,
                             .add_eos = 1};
    const char *const text = at;
    const char *const end = at + n;
    for (size_t lines = 0; at < end && lines < LINES_MAX; lines++) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        stop = stop ? stop : end;
        struct str rest = {at + 1, stop > at ? (size_t)(stop - at - 1) : 0};
        if (*at == 'm') {
            merges[src.n_merges++] = rest;
        } else {
            types[src.n_tokens] = *at >= '0' && *at <= '9' ? *at - '0' : TOKEN_NORMAL;
            tokens[src.n_tokens++] = rest;
        }
        at = stop + (stop < end);
    }
    if (choice & OF_CHARS)
        add_bytes(&src, tokens, types);
    for (size_t i = 0; i < src.n_tokens; i++)
        scores[i] = -(float)(i % 7);
    src.scores = choice & OF_CHARS && choice & OF_SCORES ? scores : NULL;
    struct status st = {0};
    struct tokenizer *t = tokenizer_open_source(&src, &st);
    require((t != NULL) == (st.code == STATUS_OK));
    if (t)
        check_text(t, text, n, false);
    tokenizer_close(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    if (n < 1)
        return 0;
    const char *rest = (const char *)bytes + 1;
    if (bytes[0] & 1)
        fuzz_vocabulary(bytes[0], rest, n - 1);
    else
        fuzz_text(bytes[0], rest, n - 1);
    return 0;
}
