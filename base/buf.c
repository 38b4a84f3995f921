/* buf.c - a growing run of bytes with a hard maximum. */
#include "base/buf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void buf_init(struct buf *b, size_t n_max)
{
    *b = (struct buf){.n_max = n_max};
}

void buf_close(struct buf *b)
{
    free(b->at);
    *b = (struct buf){.n_max = b->n_max};
}

void buf_clear(struct buf *b)
{
    b->n = 0;
    b->failed = false;
    if (b->at)
        b->at[0] = '\0';
}

/* Room for n more bytes and the terminator. */
static bool reserve(struct buf *b, size_t n)
{
    if (b->failed || n > b->n_max - b->n) {
        b->failed = true;
        return false;
    }
    const size_t want = b->n + n + 1;
    if (want <= b->n_cap)
        return true;
    size_t cap = b->n_cap ? b->n_cap : 64;
    while (cap < want)
        cap = cap > SIZE_MAX / 2 ? want : cap * 2;
    char *at = realloc(b->at, cap);
    if (!at) {
        b->failed = true;
        return false;
    }
    b->at = at;
    b->n_cap = cap;
    return true;
}

bool buf_put(struct buf *b, const void *bytes, size_t n)
{
    if (!reserve(b, n))
        return false;
    if (n)
        memcpy(b->at + b->n, bytes, n);
    b->n += n;
    b->at[b->n] = '\0';
    return true;
}

bool buf_put_str(struct buf *b, const char *s)
{
    return buf_put(b, s, strlen(s));
}

bool buf_put_char(struct buf *b, char c)
{
    return buf_put(b, &c, 1);
}

bool buf_put_u64(struct buf *b, uint64_t v)
{
    char digits[20];
    size_t at = sizeof digits;
    do {
        digits[--at] = (char)('0' + v % 10);
        v /= 10;
    } while (v);
    return buf_put(b, digits + at, sizeof digits - at);
}

bool buf_put_i64(struct buf *b, int64_t v)
{
    if (v < 0 && !buf_put_char(b, '-'))
        return false;
    return buf_put_u64(b, v < 0 ? 0 - (uint64_t)v : (uint64_t)v);
}

bool buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    const int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    bool ok = n >= 0 && reserve(b, (size_t)n);
    if (ok) {
        vsnprintf(b->at + b->n, (size_t)n + 1, fmt, again);
        b->n += (size_t)n;
    } else {
        b->failed = true;
    }
    va_end(again);
    return ok;
}

bool buf_put_f32(struct buf *b, float v)
{
    if (!isfinite(v))
        return buf_put_str(b, "null");
    char text[32];
    for (int digits = 6; digits <= 9; digits++) { /* 9 always reads back */
        snprintf(text, sizeof text, "%.*g", digits, (double)v);
        if (strtof(text, NULL) == v)
            break;
    }
    return buf_put_str(b, text);
}

/* Length of the valid UTF-8 character at s (n >= 1 bytes), or 0. */
static size_t utf8_char(const unsigned char *s, size_t n)
{
    if (s[0] < 0x80)
        return 1;
    if (s[0] >= 0xc2 && s[0] <= 0xdf)
        return n >= 2 && (s[1] & 0xc0) == 0x80 ? 2 : 0;
    if ((s[0] & 0xf0) == 0xe0) {
        if (n < 3 || (s[1] & 0xc0) != 0x80 || (s[2] & 0xc0) != 0x80)
            return 0;
        return (s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ? 0 : 3;
    }
    if (s[0] >= 0xf0 && s[0] <= 0xf4) {
        if (n < 4 || (s[1] & 0xc0) != 0x80 || (s[2] & 0xc0) != 0x80 || (s[3] & 0xc0) != 0x80)
            return 0;
        return (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f) ? 0 : 4;
    }
    return 0;
}

static bool put_json_escape(struct buf *b, unsigned char c)
{
    static const char hex[] = "0123456789abcdef";
    switch (c) {
    case '"':
        return buf_put(b, "\\\"", 2);
    case '\\':
        return buf_put(b, "\\\\", 2);
    case '\n':
        return buf_put(b, "\\n", 2);
    case '\r':
        return buf_put(b, "\\r", 2);
    case '\t':
        return buf_put(b, "\\t", 2);
    default: {
        const char text[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};
        return buf_put(b, text, sizeof text);
    }
    }
}

bool buf_put_json(struct buf *b, const char *s, size_t n)
{
    const unsigned char *at = (const unsigned char *)s;
    size_t plain = 0; /* first byte not yet copied */
    for (size_t i = 0; i < n;) {
        const unsigned char c = at[i];
        size_t len = utf8_char(at + i, n - i);
        if (len == 1 && (c < 0x20 || c == '"' || c == '\\' || c == 0x7f)) {
            buf_put(b, s + plain, i - plain);
            put_json_escape(b, c);
            plain = ++i;
        } else if (len == 0) {
            buf_put(b, s + plain, i - plain);
            buf_put(b, "\xef\xbf\xbd", 3);
            plain = ++i;
        } else {
            i += len;
        }
    }
    return buf_put(b, s + plain, n - plain);
}
