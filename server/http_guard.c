#include "server/http_guard.h"

#include <string.h>
#include <strings.h>

#include "base/json_scan.h"

static const struct guard_answer answers[GUARD_N] = {
    [GUARD_OK] = {200, NULL, ""},
    [GUARD_BAD_TARGET] = {400, "bad_target", "the request target is malformed"},
    [GUARD_TARGET_TOO_LONG] = {414, "target_too_long",
                               "the request target has more than 8192 bytes"},
    [GUARD_NO_ROUTE] = {404, "unknown_url", "no such path"},
    [GUARD_BAD_METHOD] = {400, "bad_method", "the request method is malformed"},
    [GUARD_UNKNOWN_METHOD] = {501, "unknown_method", "the request method is not supported"},
    [GUARD_BAD_VERSION] = {505, "bad_version", "only HTTP/1.0 and HTTP/1.1 are supported"},
    [GUARD_BAD_HEADER] = {400, "bad_header", "a header line is malformed"},
    [GUARD_TOO_MANY_HEADERS] = {431, "too_many_headers", "the request has more than 100 headers"},
    [GUARD_HEADER_TOO_LARGE] = {431, "header_too_large", "a header has more than 16384 bytes"},
    [GUARD_DUPLICATE_HEADER] = {400, "duplicate_header", "a header that may come once came twice"},
    [GUARD_BAD_FRAMING] = {400, "bad_framing", "the length of the body is ambiguous or malformed"},
    [GUARD_BAD_TRANSFER_CODING] = {501, "bad_transfer_coding",
                                   "the only transfer coding supported is chunked"},
    [GUARD_BAD_HOST] = {400, "bad_host", "the Host header is missing or malformed"},
    [GUARD_BAD_EXPECT] = {417, "bad_expect", "the only expectation supported is 100-continue"},
};

const struct guard_answer *guard_answer(enum guard_fault fault)
{
    return &answers[fault];
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* The byte at raw[*at], decoded; -1 when it may not stand in a target. */
static int take_byte(const char *raw, size_t n, size_t *at)
{
    unsigned char c = (unsigned char)raw[(*at)++];
    if (c <= 0x20 || c >= 0x7f || strchr("#\"<>\\^`{|}", c))
        return -1;
    if (c != '%')
        return c;
    if (n - *at < 2)
        return -1;
    int hi = hex_digit(raw[*at]), lo = hex_digit(raw[*at + 1]);
    if (hi < 0 || lo < 0)
        return -1;
    *at += 2;
    int byte = hi * 16 + lo;
    return byte < 0x20 || byte == 0x7f ? -1 : byte;
}

/* A path whose segments include "." or ".." would mean another path to someone else. */
static bool has_dot_segment(const char *path, size_t n)
{
    size_t first = 0;
    for (size_t i = 0; i <= n; i++) {
        if (i < n && path[i] != '/')
            continue;
        size_t len = i - first;
        if ((len == 1 && path[first] == '.') ||
            (len == 2 && path[first] == '.' && path[first + 1] == '.'))
            return true;
        first = i + 1;
    }
    return false;
}

enum guard_fault guard_target(const char *raw, size_t n, char *path)
{
    path[0] = '\0';
    if (n > GUARD_TARGET_MAX)
        return GUARD_TARGET_TOO_LONG;
    if (n == 1 && raw[0] == '*') {
        memcpy(path, "*", 2);
        return GUARD_OK;
    }
    if (n == 0 || raw[0] != '/')
        return GUARD_BAD_TARGET;
    char decoded[GUARD_TARGET_MAX + 1];
    size_t at = 0, n_path = 0;
    bool in_query = false;
    while (at < n) {
        bool mark = raw[at] == '?';
        int byte = take_byte(raw, n, &at);
        if (byte < 0)
            return GUARD_BAD_TARGET;
        in_query |= mark;
        if (!in_query)
            decoded[n_path++] = (char)byte;
    }
    if (!utf8_valid(decoded, n_path) || has_dot_segment(decoded, n_path))
        return GUARD_BAD_TARGET;
    if (n_path >= GUARD_PATH_MAX)
        return GUARD_NO_ROUTE;
    memcpy(path, decoded, n_path);
    path[n_path] = '\0';
    return GUARD_OK;
}

static bool is_token(const char *s, size_t n)
{
    if (n == 0)
        return false;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c <= 0x20 || c >= 0x7f || strchr("\"(),/:;<=>?@[\\]{}", c))
            return false;
    }
    return true;
}

enum guard_fault guard_method(const char *method)
{
    static const char *const known[] = {"GET",   "HEAD",    "POST",  "PUT",    "DELETE",
                                        "PATCH", "OPTIONS", "TRACE", "CONNECT"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(method, known[i]) == 0)
            return GUARD_OK;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcasecmp(method, known[i]) == 0)
            return GUARD_BAD_METHOD; /* methods are case-sensitive */
    size_t n = strlen(method);
    return is_token(method, n) && n <= 32 ? GUARD_UNKNOWN_METHOD : GUARD_BAD_METHOD;
}

enum guard_fault guard_version(const char *version)
{
    bool known = strcmp(version, "HTTP/1.1") == 0 || strcmp(version, "HTTP/1.0") == 0;
    return known ? GUARD_OK : GUARD_BAD_VERSION;
}

static bool value_ok(const char *value, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)value[i];
        if ((c < 0x20 && c != '\t') || c == 0x7f)
            return false;
    }
    return true;
}

static bool is_name(const char *name, size_t n, const char *want)
{
    return n == strlen(want) && strncasecmp(name, want, n) == 0;
}

static bool host_ok(const char *value, size_t n)
{
    if (n > GUARD_HOST_MAX)
        return false;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)value[i];
        bool alnum = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        if (!alnum && (c == 0 || !strchr("-._~:[]%!$&'()*+,;=", c)))
            return false;
    }
    return true;
}

/* Digits alone; a number too large for the type is as large as the type: over any limit. */
static bool parse_length(const char *value, size_t n, uint64_t *out)
{
    *out = 0;
    for (size_t i = 0; i < n; i++) {
        if (value[i] < '0' || value[i] > '9')
            return false;
        if (__builtin_mul_overflow(*out, 10u, out) ||
            __builtin_add_overflow(*out, (uint64_t)(value[i] - '0'), out))
            *out = UINT64_MAX;
    }
    return n > 0 && n <= 64;
}

static enum guard_fault check_framing(struct guard *g, const char *name, size_t n_name,
                                      const char *value, size_t n_value)
{
    if (is_name(name, n_name, "Content-Length")) {
        if (g->n_length++ > 0 || !parse_length(value, n_value, &g->length))
            return GUARD_BAD_FRAMING;
    } else if (is_name(name, n_name, "Transfer-Encoding")) {
        if (g->n_coding++ > 0)
            return GUARD_BAD_FRAMING;
        if (!is_name(value, n_value, "chunked"))
            return GUARD_BAD_TRANSFER_CODING;
        g->chunked = true;
    } else if (is_name(name, n_name, "Host")) {
        if (g->n_host++ > 0 || !host_ok(value, n_value))
            return GUARD_BAD_HOST;
    } else if (is_name(name, n_name, "Expect")) {
        if (g->n_expect++ > 0 || !is_name(value, n_value, "100-continue"))
            return GUARD_BAD_EXPECT;
    }
    return GUARD_OK;
}

enum guard_fault guard_header(struct guard *g, const char *name, size_t n_name, const char *value,
                              size_t n_value)
{
    static const char *const once[] = {"Authorization", "Content-Type", "Content-Encoding",
                                       "Upgrade"};
    if (++g->n_headers > GUARD_HEADERS_MAX)
        return GUARD_TOO_MANY_HEADERS;
    if (n_name + n_value > GUARD_HEADER_BYTES_MAX)
        return GUARD_HEADER_TOO_LARGE;
    while (n_value > 0 && (value[n_value - 1] == ' ' || value[n_value - 1] == '\t'))
        n_value--;
    if (!is_token(name, n_name) || !value_ok(value, n_value))
        return GUARD_BAD_HEADER;
    for (unsigned i = 0; i < sizeof once / sizeof *once; i++) {
        if (!is_name(name, n_name, once[i]))
            continue;
        if (g->seen & (1u << i))
            return GUARD_DUPLICATE_HEADER;
        g->seen |= 1u << i;
    }
    return check_framing(g, name, n_name, value, n_value);
}

enum guard_fault guard_finish(const struct guard *g, const char *version)
{
    bool v1_0 = strcmp(version, "HTTP/1.0") == 0;
    if (g->n_length > 0 && g->n_coding > 0)
        return GUARD_BAD_FRAMING;
    if (g->n_coding > 0 && v1_0)
        return GUARD_BAD_FRAMING;
    if (g->n_host == 0 && !v1_0)
        return GUARD_BAD_HOST;
    return GUARD_OK;
}
