/* tok_split.c - the pre-tokenizers, each as one function from a start to an end. */
#include "engine/tok_split.h"

#include "engine/tok_unicode.h"

#include <stdint.h>
#include <string.h>

enum { UNICODE_WORD = UNICODE_L | UNICODE_N | UNICODE_SPACE };

struct chr { /* the character at some place of the text */
    uint32_t code;
    uint8_t classes;
    uint8_t width; /* bytes; 0 <=> the text ends here */
};

static bool is_tail(unsigned char c)
{
    return (c & 0xC0) == 0x80;
}

static struct chr wide(uint32_t code, uint8_t width)
{
    return (struct chr){code, tok_unicode_class(code), width};
}

/* Only lengths are checked here: the caller promised UTF-8, and this must merely stay inside the
 * text and the table if it was wrong. */
static struct chr read_wide(const unsigned char *s, size_t n)
{
    if (s[0] >= 0xC0 && s[0] < 0xE0 && n >= 2 && is_tail(s[1]))
        return wide((s[0] & 0x1Fu) << 6 | (s[1] & 0x3Fu), 2);
    if (s[0] >= 0xE0 && s[0] < 0xF0 && n >= 3 && is_tail(s[1]) && is_tail(s[2]))
        return wide((s[0] & 0x0Fu) << 12 | (s[1] & 0x3Fu) << 6 | (s[2] & 0x3Fu), 3);
    if (s[0] >= 0xF0 && s[0] < 0xF5 && n >= 4 && is_tail(s[1]) && is_tail(s[2]) && is_tail(s[3])) {
        uint32_t code =
            (s[0] & 0x07u) << 18 | (s[1] & 0x3Fu) << 12 | (s[2] & 0x3Fu) << 6 | (s[3] & 0x3Fu);
        if (code < 0x110000)
            return wide(code, 4);
    }
    return (struct chr){UINT32_MAX, 0, 1};
}

static inline struct chr read_at(const char *text, size_t n, size_t at)
{
    if (at >= n)
        return (struct chr){UINT32_MAX, 0, 0};
    unsigned char c = (unsigned char)text[at];
    if (c < 0x80)
        return (struct chr){c, tok_unicode_classes[0][c], 1};
    return read_wide((const unsigned char *)text + at, n - at);
}

/* The first place from `at` on whose character has (classes & mask) != 0, or has none of mask. */
static inline size_t skip_with(const char *text, size_t n, size_t at, unsigned mask)
{
    for (struct chr c; (c = read_at(text, n, at)).classes & mask;)
        at += c.width;
    return at;
}

static inline size_t skip_without(const char *text, size_t n, size_t at, unsigned mask)
{
    for (struct chr c; (c = read_at(text, n, at)).width && !(c.classes & mask);)
        at += c.width;
    return at;
}

/* \s+(?!\S)|\s+ : a run of spaces leaves its last one to the piece that follows. */
static size_t cut_spaces(const char *text, size_t n, size_t at, unsigned no_lend)
{
    size_t end = at, last = at;
    struct chr c;
    while ((c = read_at(text, n, end)).classes & UNICODE_SPACE) {
        last = end;
        end += c.width;
    }
    return end == n || last == at || c.classes & no_lend ? end : last;
}

/* 's 't 're 've 'm 'll 'd after the apostrophe at `at`; its bytes, or 0. */
static size_t match_suffix(const char *text, size_t n, size_t at)
{
    char a = at + 1 < n ? text[at + 1] : 0, b = at + 2 < n ? text[at + 2] : 0;
    if (a == 's' || a == 't' || a == 'm' || a == 'd')
        return 2;
    return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
}

static inline char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

/* The same in any case; U+017F (long s) is an s in any case. */
static size_t match_suffix_any_case(const char *text, size_t n, size_t at)
{
    char folded[3] = {'\''};
    for (size_t i = 1; i < 3 && at + i < n; i++)
        folded[i] = lower(text[at + i]);
    if (n - at >= 3 && memcmp(text + at + 1, "\xC5\xBF", 2) == 0)
        return 3;
    return match_suffix(folded, 3, 0);
}

/* `alone`: classes of which each character is a piece, at which the text counts as ended. */
static inline size_t next_gpt2(const char *text, size_t n, size_t at, unsigned alone)
{
    struct chr c = read_at(text, n, at);
    if (c.classes & alone)
        return at + c.width;
    if (c.code == '\'') {
        size_t n_suffix = match_suffix(text, n, at);
        if (n_suffix)
            return at + n_suffix;
    }
    size_t body = at;
    if (c.code == ' ') {
        c = read_at(text, n, at + 1);
        body = c.width && !(c.classes & alone) ? at + 1 : at;
    }
    if (body == at && c.classes & alone)
        return cut_spaces(text, n, at, alone);
    if (c.classes & UNICODE_L)
        return skip_with(text, n, body + c.width, UNICODE_L);
    if (c.classes & UNICODE_N)
        return skip_with(text, n, body + c.width, UNICODE_N);
    if (c.width && !(c.classes & UNICODE_SPACE))
        return skip_without(text, n, body + c.width, UNICODE_WORD | alone);
    return cut_spaces(text, n, at, alone);
}

static size_t next_gpt_2(const char *text, size_t n, size_t at)
{
    return next_gpt2(text, n, at, 0);
}

static size_t next_smollm(const char *text, size_t n, size_t at)
{
    return next_gpt2(text, n, at, UNICODE_DIGIT);
}

static inline bool is_newline(uint32_t c)
{
    return c == '\r' || c == '\n';
}

/* \s*[\r\n]+|\s+(?!\S)|\s+ : a run of spaces goes up to its last line end, if it has one. */
static size_t cut_lines(const char *text, size_t n, size_t at)
{
    size_t end = at, line_end = at;
    for (struct chr c; (c = read_at(text, n, end)).classes & UNICODE_SPACE;) {
        end += c.width;
        if (is_newline(c.code))
            line_end = end;
    }
    return line_end > at ? line_end : cut_spaces(text, n, at, 0);
}

static size_t cut_digits(const char *text, size_t n, size_t at, int n_max)
{
    for (struct chr c; n_max > 0 && (c = read_at(text, n, at)).classes & UNICODE_N; n_max--)
        at += c.width;
    return at;
}

static inline size_t next_cl100k(const char *text, size_t n, size_t at, int digits_max)
{
    struct chr c = read_at(text, n, at);
    if (c.classes & UNICODE_L)
        return skip_with(text, n, at + c.width, UNICODE_L);
    if (c.classes & UNICODE_N)
        return cut_digits(text, n, at, digits_max);
    if (c.code == '\'') {
        size_t n_suffix = match_suffix_any_case(text, n, at);
        if (n_suffix)
            return at + n_suffix;
    }
    struct chr after = read_at(text, n, at + c.width);
    if (after.classes & UNICODE_L && !is_newline(c.code))
        return skip_with(text, n, at + c.width + after.width, UNICODE_L);
    size_t body = c.code == ' ' ? at + 1 : at;
    size_t end = skip_without(text, n, body, UNICODE_WORD);
    if (end == body)
        return cut_lines(text, n, at);
    while (end < n && is_newline((unsigned char)text[end]))
        end++;
    return end;
}

static size_t next_llama_bpe(const char *text, size_t n, size_t at)
{
    return next_cl100k(text, n, at, 3);
}

static size_t next_qwen2(const char *text, size_t n, size_t at)
{
    return next_cl100k(text, n, at, 1);
}

static size_t next_whole(const char *text, size_t n, size_t at)
{
    (void)text;
    (void)at;
    return n;
}

static const struct tok_split splits[] = {
    {"gpt-2", next_gpt_2, false, false},
    {"default", next_gpt_2, false, false},
    {"smollm", next_smollm, false, false},
    {"starcoder", next_smollm, false, false},
    {"llama-bpe", next_llama_bpe, true, true},
    {"llama3", next_llama_bpe, true, true},
    {"llama-v3", next_llama_bpe, true, true},
    {"qwen2", next_qwen2, false, false},
    {"deepseek-r1-qwen", next_qwen2, false, false},
    {"whole", next_whole, false, true},
};

#define WORD_SUFFIX  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
#define SIGNS_SPACES "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define GPT2_TAIL    "| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

static const struct {
    const char *regex, *name;
} regexes[] = {
    {"'s|'t|'re|'ve|'m|'ll|'d" GPT2_TAIL, "gpt-2"},
    {"'(?:[sdmt]|ll|ve|re)" GPT2_TAIL, "gpt-2"},
    {WORD_SUFFIX "\\p{N}{1,3}" SIGNS_SPACES, "llama-bpe"},
    {WORD_SUFFIX "\\p{N}" SIGNS_SPACES, "qwen2"},
};

const struct tok_split *tok_split_find_regex(const char *regex)
{
    for (size_t i = 0; i < sizeof regexes / sizeof regexes[0]; i++)
        if (strcmp(regexes[i].regex, regex) == 0)
            return tok_split_find(regexes[i].name, strlen(regexes[i].name));
    return NULL;
}

unsigned tok_class_at(const char *text, size_t n, size_t at, size_t *width)
{
    const struct chr c = read_at(text, n, at);
    *width = c.width;
    return c.classes;
}

const struct tok_split *tok_split_find(const char *name, size_t n)
{
    for (size_t i = 0; i < sizeof splits / sizeof splits[0]; i++)
        if (strlen(splits[i].name) == n && memcmp(splits[i].name, name, n) == 0)
            return &splits[i];
    return NULL;
}
