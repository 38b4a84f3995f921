#include "engine/jinja_lex.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/jinja_utf8.h"

enum { BRACKETS_MAX = 256 };

struct lexer {
    struct jinja_mem *mem;
    struct token_list *out;
    struct status *st;
    const char *s; /* [n], line ends already \n */
    size_t n, at;
    uint32_t line; /* of counted_to */
    size_t line_first;
    size_t counted_to;          /* lines are counted up to here */
    char bracket[BRACKETS_MAX]; /* the closing ones that are awaited */
    size_t n_bracket;
};

/* Moves the line counter to byte `to`; calls come in ascending order. */
static void count_lines(struct lexer *x, size_t to)
{
    for (; x->counted_to < to; x->counted_to++) {
        if (x->s[x->counted_to] == '\n') {
            x->line++;
            x->line_first = x->counted_to + 1;
        }
    }
}

static bool fail_at(struct lexer *x, size_t at, const char *what)
{
    count_lines(x, at);
    return status_fail(x->st, STATUS_BAD_INPUT, "template %u:%zu: %s", x->line,
                       at - x->line_first + 1, what);
}

static bool out_of_memory(struct lexer *x)
{
    return status_fail(x->st, STATUS_TOO_LARGE, "template needs more than %zu bytes to compile",
                       x->mem->n_max);
}

static struct token *add_token(struct lexer *x, enum token_kind kind, size_t at)
{
    struct token_list *out = x->out;
    if (out->n == out->n_cap) {
        size_t cap = out->n_cap ? out->n_cap * 2 : 64;
        struct token *wider = (struct token *)jinja_mem_bytes(x->mem, cap * sizeof *wider);
        if (!wider) {
            out_of_memory(x);
            return NULL;
        }
        if (out->n)
            memcpy(wider, out->at, out->n * sizeof *wider);
        out->at = wider;
        out->n_cap = cap;
    }
    count_lines(x, at);
    struct token *t = &out->at[out->n++];
    *t = (struct token){
        .kind = (uint8_t)kind, .line = x->line, .column = (uint32_t)(at - x->line_first + 1)};
    return t;
}

static bool add_text(struct lexer *x, size_t first, size_t end)
{
    if (first == end)
        return true;
    struct token *t = add_token(x, TOKEN_TEXT, first);
    if (!t)
        return false;
    t->at = x->s + first;
    t->n = end - first;
    return true;
}

static bool starts(const struct lexer *x, size_t at, const char *word)
{
    size_t n = strlen(word);
    return x->n - at >= n && memcmp(x->s + at, word, n) == 0;
}

static size_t skip_space(const struct lexer *x, size_t at)
{
    return at + jinja_utf8_space_first(x->s + at, x->n - at);
}

/* The end of text [first, end) before a tag whose sign is `sign`. */
static size_t strip_before_tag(const struct lexer *x, size_t first, size_t end, char sign,
                               bool is_print)
{
    if (sign == '-')
        return end - jinja_utf8_space_last(x->s + first, end - first);
    if (sign == '+' || is_print)
        return end;
    const char *newline = memrchr(x->s + first, '\n', end - first);
    size_t line = newline ? (size_t)(newline - x->s) + 1 : first;
    bool at_line_start = newline || first == 0 || x->s[first - 1] == '\n';
    return at_line_start && skip_space(x, line) >= end ? line : end;
}

static size_t find_tag(const struct lexer *x, size_t from)
{
    for (size_t i = from; i + 1 < x->n; i++) {
        const char *brace = memchr(x->s + i, '{', x->n - i - 1);
        if (!brace)
            break;
        i = (size_t)(brace - x->s);
        if (x->s[i + 1] == '%' || x->s[i + 1] == '{' || x->s[i + 1] == '#')
            return i;
    }
    return x->n;
}

static char sign_at(const struct lexer *x, size_t at)
{
    return at < x->n && (x->s[at] == '-' || x->s[at] == '+') ? x->s[at] : 0;
}

/* The place after `{%`-sign, spaces and `word` when they are at `at`; else 0. */
static size_t match_tag_word(const struct lexer *x, size_t at, const char *word)
{
    at += 2;
    at = skip_space(x, at + (sign_at(x, at) != 0));
    return starts(x, at, word) ? skip_space(x, at + strlen(word)) : 0;
}

/* The place after the tag end (`close` is "%}" or "#}") at `at`, trimmed as its sign asks; else 0.
 */
static size_t match_end(const struct lexer *x, size_t at, const char *close)
{
    char sign = sign_at(x, at);
    if (!starts(x, at + (sign != 0), close))
        return 0;
    at += 2u + (sign != 0);
    if (sign == '-')
        return skip_space(x, at);
    return at + (!sign && at < x->n && x->s[at] == '\n');
}

static bool lex_comment(struct lexer *x)
{
    for (size_t i = x->at + 2; i < x->n; i++) {
        size_t end = match_end(x, i, "#}");
        if (end) {
            x->at = end;
            return true;
        }
    }
    return fail_at(x, x->at, "comment is not closed");
}

/* {% raw %} at x->at; `body` is the place after the word. */
static bool lex_raw(struct lexer *x, size_t body)
{
    size_t open = x->at;
    body = starts(x, body, "-") ? skip_space(x, body + 3) : body + 2;
    for (size_t i = body; i + 1 < x->n; i++) {
        const char *brace = memchr(x->s + i, '{', x->n - i - 1);
        if (!brace)
            break;
        i = (size_t)(brace - x->s);
        size_t close = x->s[i + 1] == '%' ? match_tag_word(x, i, "endraw") : 0;
        size_t end = close ? match_end(x, close, "%}") : 0;
        if (end) {
            x->at = end;
            return add_text(x, body, strip_before_tag(x, body, i, sign_at(x, i + 2), false));
        }
    }
    return fail_at(x, open, "raw block is not closed");
}

static bool is_name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool lex_name(struct lexer *x)
{
    struct token *t = add_token(x, TOKEN_NAME, x->at);
    if (!t)
        return false;
    size_t first = x->at;
    while (x->at < x->n && is_name_char(x->s[x->at]))
        x->at++;
    t->at = x->s + first;
    t->n = x->at - first;
    return true;
}

/* Digits of `base` with single underscores between them; copies them to word. */
static size_t take_digits(struct lexer *x, int base, char *word, size_t n, size_t n_max)
{
    while (x->at < x->n && n < n_max) {
        size_t at = x->at + (n > 0 && x->s[x->at] == '_' && x->at + 1 < x->n);
        char c = x->s[at] | 0x20;
        int v = is_digit(x->s[at]) ? x->s[at] - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : 99;
        if (v >= base)
            break;
        word[n++] = x->s[at];
        x->at = at + 1;
    }
    return n;
}

static bool digit_at(const struct lexer *x, size_t at)
{
    return at < x->n && is_digit(x->s[at]);
}

/* The fraction and the exponent, when they are there and the number is not behind a dot. */
static size_t take_float_tail(struct lexer *x, char *word, size_t n, size_t n_max)
{
    if (x->at < x->n && x->s[x->at] == '.' && digit_at(x, x->at + 1)) {
        word[n++] = '.';
        x->at++;
        n = take_digits(x, 10, word, n, n_max);
    }
    size_t e = x->at;
    if (e < x->n && (x->s[e] | 0x20) == 'e') {
        char sign = sign_at(x, e + 1);
        if (digit_at(x, e + 1 + (sign != 0)) && n + 2 < n_max) {
            word[n++] = 'e';
            if (sign)
                word[n++] = sign;
            x->at = e + 1 + (sign != 0);
            n = take_digits(x, 10, word, n, n_max);
        }
    }
    return n;
}

static bool lex_number(struct lexer *x)
{
    enum { DIGITS_MAX = 300 };
    char word[DIGITS_MAX + 8];
    size_t first = x->at, n = 0;
    char kind = x->s[first] == '0' && first + 1 < x->n ? (char)(x->s[first + 1] | 0x20) : 0;
    int base = kind == 'x' ? 16 : kind == 'o' ? 8 : kind == 'b' ? 2 : 10;
    x->at += base == 10 ? 0 : 2;
    n = take_digits(x, base, word, 0, DIGITS_MAX);
    size_t n_int = n;
    if (base == 10 && !(first > 0 && x->s[first - 1] == '.'))
        n = take_float_tail(x, word, n, DIGITS_MAX);
    word[n] = 0;
    if (n == 0 || n >= DIGITS_MAX)
        return fail_at(x, first, "bad number");
    struct token *t = add_token(x, n > n_int ? TOKEN_FLOAT : TOKEN_INT, first);
    if (!t)
        return false;
    errno = 0;
    if (n > n_int) {
        t->f = strtod(word, NULL);
        return true;
    }
    t->i = strtoll(word, NULL, base);
    if (errno)
        return fail_at(x, first, "integer does not fit 64 bits");
    if (base == 10 && word[0] == '0' && strspn(word, "0") != n)
        return fail_at(x, first, "integer starts with 0");
    return true;
}

/* Hex digits after a backslash escape: exactly n_digits, a code point. */
static bool read_hex(struct lexer *x, size_t at, size_t end, size_t n_digits, uint32_t *cp)
{
    uint32_t v = 0;
    for (size_t i = 0; i < n_digits; i++) {
        char c = at + i < end ? x->s[at + i] : 0;
        char low = c | 0x20;
        if (!is_digit(c) && !(low >= 'a' && low <= 'f'))
            return fail_at(x, at, "bad escape in a string");
        v = v << 4 | (uint32_t)(is_digit(c) ? c - '0' : low - 'a' + 10);
    }
    if (v > 0x10FFFF || (v >= 0xD800 && v < 0xE000))
        return fail_at(x, at, "escape in a string is not a character");
    *cp = v;
    return true;
}

/* The escape after a backslash at `at`: its bytes to out, the bytes read to *n_read. */
static bool read_escape(struct lexer *x, size_t at, size_t end, char out[4], size_t *n_out,
                        size_t *n_read)
{
    static const char from[] = "abfnrtv\\'\"", to[] = "\a\b\f\n\r\t\v\\'\"";
    char c = x->s[at];
    const char *plain = c ? strchr(from, c) : NULL;
    uint32_t cp = 0;
    *n_read = 1;
    *n_out = 1;
    if (plain) {
        out[0] = to[plain - from];
        return true;
    }
    if (c == '\n') {
        *n_out = 0;
        return true;
    }
    if (c >= '0' && c <= '7') {
        size_t n = 0;
        while (n < 3 && at + n < end && x->s[at + n] >= '0' && x->s[at + n] <= '7')
            cp = cp << 3 | (uint32_t)(x->s[at + n++] - '0');
        *n_read = n;
    } else if (c == 'x' || c == 'u' || c == 'U') {
        size_t n = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        if (!read_hex(x, at + 1, end, n, &cp))
            return false;
        *n_read = n + 1;
    } else if (c == 'N') {
        return fail_at(x, at, "\\N escapes are not supported");
    } else {
        out[0] = '\\';
        *n_read = 0; /* an unknown escape stays as it is written */
        return true;
    }
    *n_out = jinja_utf8_put(out, cp);
    return true;
}

static bool lex_string(struct lexer *x)
{
    char quote = x->s[x->at];
    size_t first = x->at + 1, end = first;
    while (end < x->n && x->s[end] != quote)
        end += 1u + (x->s[end] == '\\');
    if (end >= x->n)
        return fail_at(x, x->at, "string is not closed");
    struct token *t = add_token(x, TOKEN_STRING, x->at);
    if (!t)
        return false;
    char *bytes = jinja_mem_bytes(x->mem, end - first + 4);
    if (!bytes)
        return out_of_memory(x);
    size_t n = 0;
    for (size_t i = first; i < end;) {
        if (x->s[i] != '\\') {
            bytes[n++] = x->s[i++];
            continue;
        }
        size_t n_out, n_read;
        if (!read_escape(x, i + 1, end, bytes + n, &n_out, &n_read))
            return false;
        n += n_out;
        i += 1 + n_read;
    }
    t->at = bytes;
    t->n = n;
    x->at = end + 1;
    return true;
}

static bool balance(struct lexer *x, char c, size_t at)
{
    char close = c == '(' ? ')' : c == '[' ? ']' : c == '{' ? '}' : 0;
    if (close) {
        if (x->n_bracket == BRACKETS_MAX)
            return fail_at(x, at, "brackets are nested too deeply");
        x->bracket[x->n_bracket++] = close;
    } else if (c == ')' || c == ']' || c == '}') {
        if (x->n_bracket == 0 || x->bracket[--x->n_bracket] != c)
            return fail_at(x, at, "bracket does not match");
    }
    return true;
}

static bool lex_operator(struct lexer *x)
{
    static const char twos[][3] = {"//", "**", "==", "!=", ">=", "<="};
    for (size_t i = 0; i < sizeof twos / sizeof *twos; i++) {
        if (starts(x, x->at, twos[i])) {
            struct token *t = add_token(x, TOKEN_OP, x->at);
            if (!t)
                return false;
            t->op = (uint16_t)OP2(twos[i][0], twos[i][1]);
            x->at += 2;
            return true;
        }
    }
    char c = x->s[x->at];
    if (!c || !strchr("+-/*%~[](){}><=.:|,;", c))
        return fail_at(x, x->at, "unexpected character");
    struct token *t = add_token(x, TOKEN_OP, x->at);
    if (!t || !balance(x, c, x->at))
        return false;
    t->op = (unsigned char)c;
    x->at++;
    return true;
}

/* The place after the end of the tag, when it is here; else 0. */
static size_t match_tag_end(const struct lexer *x, bool is_print)
{
    if (x->n_bracket > 0)
        return 0;
    if (!is_print)
        return match_end(x, x->at, "%}");
    if (starts(x, x->at, "-}}"))
        return skip_space(x, x->at + 3);
    return starts(x, x->at, "}}") ? x->at + 2 : 0;
}

static bool lex_tag_inside(struct lexer *x, size_t open, bool is_print)
{
    x->n_bracket = 0;
    while (x->at < x->n) {
        size_t end = match_tag_end(x, is_print);
        if (end) {
            bool ok = add_token(x, is_print ? TOKEN_PRINT_END : TOKEN_TAG_END, x->at) != NULL;
            x->at = end;
            return ok;
        }
        char c = x->s[x->at];
        size_t space = jinja_utf8_space_first(x->s + x->at, x->n - x->at);
        bool ok = true;
        if (space)
            x->at += space;
        else if (is_digit(c))
            ok = lex_number(x);
        else if (is_name_char(c))
            ok = lex_name(x);
        else if (c == '\'' || c == '"')
            ok = lex_string(x);
        else
            ok = lex_operator(x);
        if (!ok)
            return false;
    }
    return fail_at(x, open, is_print ? "{{ is not closed" : "{% is not closed");
}

static bool lex_tag(struct lexer *x)
{
    size_t open = x->at;
    if (x->s[open + 1] == '#')
        return lex_comment(x);
    bool is_print = x->s[open + 1] == '{';
    size_t body = is_print ? 0 : match_tag_word(x, open, "raw");
    if (body && (starts(x, body, "%}") || starts(x, body, "-%}")))
        return lex_raw(x, body);
    if (!add_token(x, is_print ? TOKEN_PRINT_BEGIN : TOKEN_TAG_BEGIN, open))
        return false;
    x->at += 2u + (sign_at(x, open + 2) != 0);
    return lex_tag_inside(x, open, is_print);
}

/* A copy with \r\n and \r as \n, and without the last line end. */
static bool copy_source(struct lexer *x, const char *source, size_t n)
{
    char *s = jinja_mem_bytes(x->mem, n + 1);
    if (!s)
        return out_of_memory(x);
    size_t out = 0;
    for (size_t i = 0; i < n; i++) {
        if (source[i] != '\r')
            s[out++] = source[i];
        else if (i + 1 == n || source[i + 1] != '\n')
            s[out++] = '\n';
    }
    if (out > 0 && s[out - 1] == '\n')
        out--;
    x->s = s;
    x->n = out;
    return true;
}

bool jinja_lex(struct jinja_mem *mem, const char *source, size_t n, struct token_list *out,
               struct status *st)
{
    struct lexer x = {.mem = mem, .out = out, .st = st, .line = 1};
    *out = (struct token_list){0};
    if (!copy_source(&x, source, n))
        return false;
    while (x.at < x.n) {
        size_t tag = find_tag(&x, x.at);
        bool is_print = tag < x.n && x.s[tag + 1] == '{';
        size_t end =
            tag == x.n ? tag : strip_before_tag(&x, x.at, tag, sign_at(&x, tag + 2), is_print);
        if (!add_text(&x, x.at, end))
            return false;
        x.at = tag;
        if (tag < x.n && !lex_tag(&x))
            return false;
    }
    return add_token(&x, TOKEN_END, x.n) != NULL;
}
