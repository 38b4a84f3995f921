#include "engine/jinja_utf8.h"

static bool is_tail(char c)
{
    return ((unsigned char)c & 0xC0) == 0x80;
}

size_t jinja_utf8_next(const char *s, size_t n, uint32_t *cp)
{
    unsigned char c = (unsigned char)s[0];
    if (c < 0x80) {
        *cp = c;
        return 1;
    }
    size_t len = c >= 0xF0 && c < 0xF5   ? 4
                 : c >= 0xE0 && c < 0xF0 ? 3
                 : c >= 0xC2 && c < 0xE0 ? 2
                                         : 0;
    static const uint32_t first[5] = {0, 0, 0x80, 0x800, 0x10000};
    uint32_t v = len == 4 ? c & 7u : len == 3 ? c & 15u : c & 31u;
    *cp = 0xFFFD;
    if (len == 0 || len > n)
        return 1;
    for (size_t i = 1; i < len; i++) {
        if (!is_tail(s[i]))
            return 1;
        v = v << 6 | ((unsigned char)s[i] & 0x3Fu);
    }
    if (v < first[len] || v > 0x10FFFF || (v >= 0xD800 && v < 0xE000))
        return 1;
    *cp = v;
    return len;
}

size_t jinja_utf8_last(const char *s, size_t n, uint32_t *cp)
{
    for (size_t len = 2; len <= 4 && len <= n; len++) {
        if (is_tail(s[n - len + 1]) && jinja_utf8_next(s + n - len, len, cp) == len)
            return len;
    }
    return jinja_utf8_next(s + n - 1, 1, cp);
}

size_t jinja_utf8_put(char out[4], uint32_t cp)
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char)(0xC0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3F));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (char)(0xE0 | cp >> 12);
        out[1] = (char)(0x80 | (cp >> 6 & 0x3F));
        out[2] = (char)(0x80 | (cp & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | cp >> 18);
    out[1] = (char)(0x80 | (cp >> 12 & 0x3F));
    out[2] = (char)(0x80 | (cp >> 6 & 0x3F));
    out[3] = (char)(0x80 | (cp & 0x3F));
    return 4;
}

size_t jinja_utf8_count(const char *s, size_t n)
{
    size_t count = 0;
    uint32_t cp;
    for (size_t at = 0; at < n; count++)
        at += jinja_utf8_next(s + at, n - at, &cp);
    return count;
}

bool jinja_utf8_is_line_end(uint32_t cp)
{
    return (cp >= 0x0A && cp <= 0x0D) || (cp >= 0x1C && cp <= 0x1E) || cp == 0x85 || cp == 0x2028 ||
           cp == 0x2029;
}

bool jinja_utf8_is_space(uint32_t cp)
{
    return cp == ' ' || (cp >= 0x09 && cp <= 0x0D) || (cp >= 0x1C && cp <= 0x1F) || cp == 0x85 ||
           cp == 0xA0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 ||
           cp == 0x2029 || cp == 0x202F || cp == 0x205F || cp == 0x3000;
}

bool jinja_utf8_is_printable(uint32_t cp)
{
    if (cp < 0x7F)
        return cp >= 0x20;
    static const uint32_t hidden[][2] = {
        {0x7F, 0xA0},       {0xAD, 0xAD},        {0x600, 0x605},   {0x61C, 0x61C},
        {0x6DD, 0x6DD},     {0x70F, 0x70F},      {0x1680, 0x1680}, {0x180E, 0x180E},
        {0x2000, 0x200F},   {0x2028, 0x202F},    {0x205F, 0x206F}, {0x3000, 0x3000},
        {0xD800, 0xF8FF},   {0xFEFF, 0xFEFF},    {0xFFF0, 0xFFFB}, {0xFFFE, 0xFFFF},
        {0xE0000, 0xE00FF}, {0xE01F0, 0x10FFFF},
    };
    for (size_t i = 0; i < sizeof hidden / sizeof *hidden; i++) {
        if (cp >= hidden[i][0] && cp <= hidden[i][1])
            return false;
    }
    return true;
}

size_t jinja_utf8_space_first(const char *s, size_t n)
{
    uint32_t cp;
    size_t at = 0;
    while (at < n) {
        size_t len = jinja_utf8_next(s + at, n - at, &cp);
        if (!jinja_utf8_is_space(cp))
            break;
        at += len;
    }
    return at;
}

size_t jinja_utf8_space_last(const char *s, size_t n)
{
    uint32_t cp;
    size_t end = n;
    while (end > 0) {
        size_t len = jinja_utf8_last(s, end, &cp);
        if (!jinja_utf8_is_space(cp))
            break;
        end -= len;
    }
    return n - end;
}
