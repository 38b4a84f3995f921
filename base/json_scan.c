/* json_scan.c - is this text JSON, in UTF-8, and small enough to parse?
 *
 * One pass, a fixed amount of stack (about 90 KiB, most of it the keys of the objects
 * that are open), no recursion, no heap.  Keys are found again through a small hash table
 * with linear probing; an object's keys leave it in the reverse order of their arrival,
 * which keeps every probe chain whole. */
#include "base/json_scan.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

enum {
    KEYS_OPEN_MAX = 4096, /* keys of all open objects together */
    TABLE_SLOTS = 8192,   /* power of two, twice the keys */
    NUMBER_LIMIT = 64,    /* number_max never passes this */
    TABLE_EMPTY = UINT16_MAX
};

struct key {
    uint64_t hash;     /* of the unescaped bytes and the object */
    uint32_t first, n; /* bytes between the quotes */
};

struct level {
    bool is_object;
    uint32_t n_keys;
    uint32_t n_kept; /* of them in the table: all, but for large objects */
    uint32_t serial; /* tells the keys of one object from those of another */
};

struct scan {
    const char *text;
    size_t n, at;
    const struct json_limits *limits;
    enum json_fault *fault;
    struct status *st;
    uint32_t n_values, n_objects;
    int depth;
    struct level level[JSON_DEPTH_LIMIT];
    uint32_t n_keys;
    struct key key[KEYS_OPEN_MAX];
    uint16_t table[TABLE_SLOTS];
    uint64_t seed;
};

const struct json_limits json_limits_default = {
    .depth_max = 64, .values_max = 1 << 20, .keys_max = 1024, .number_max = 64};

const char *json_fault_code(enum json_fault fault)
{
    static const char *const codes[] = {
        [JSON_OK] = "ok",
        [JSON_SYNTAX] = "invalid_json",
        [JSON_UTF8] = "invalid_utf8",
        [JSON_TOO_DEEP] = "json_too_deep",
        [JSON_TOO_MANY_VALUES] = "json_too_many_values",
        [JSON_TOO_MANY_KEYS] = "json_too_many_keys",
        [JSON_DUPLICATE_KEY] = "duplicate_key",
        [JSON_NUL] = "nul_in_string",
        [JSON_NUMBER] = "number_out_of_range",
    };
    return codes[fault];
}

/* Length of the UTF-8 character at s, which has n >= 1 bytes: 1..4; 0 when no bytes after it
 * could make it one; -1 when it is cut short by the end. */
static int utf8_length(const unsigned char *s, size_t n)
{
    if (s[0] < 0x80)
        return 1;
    if (s[0] < 0xc2 || s[0] > 0xf4)
        return 0;
    const int want = s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    if (n > 1) { /* the second byte alone tells overlong forms, surrogates and > U+10FFFF */
        const unsigned char low = s[0] == 0xe0 ? 0xa0 : s[0] == 0xf0 ? 0x90 : 0x80;
        const unsigned char high = s[0] == 0xed ? 0x9f : s[0] == 0xf4 ? 0x8f : 0xbf;
        if (s[1] < low || s[1] > high)
            return 0;
    }
    for (int i = 2; i < want && (size_t)i < n; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    return n >= (size_t)want ? want : -1;
}

bool utf8_valid(const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        const int len = utf8_length((const unsigned char *)s + i, n - i);
        if (len <= 0)
            return false;
        i += (size_t)len;
    }
    return true;
}

size_t utf8_complete(const char *s, size_t n)
{
    const unsigned char *at = (const unsigned char *)s;
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        const unsigned char c = at[n - back];
        if (c < 0x80)
            return n;
        if (c >= 0xc0) /* the character that may be cut begins here */
            return utf8_length(at + n - back, back) == -1 ? n - back : n;
    }
    return n;
}

static bool refuse(struct scan *s, enum json_fault fault, const char *what)
{
    *s->fault = fault;
    return status_fail(s->st, STATUS_BAD_INPUT, "byte %zu: %s", s->at, what);
}

static bool refuse_limit(struct scan *s, enum json_fault fault, const char *what, uint32_t limit)
{
    *s->fault = fault;
    return status_fail(s->st, STATUS_TOO_LARGE, "byte %zu: more than %u %s", s->at, limit, what);
}

static void skip_spaces(struct scan *s)
{
    while (s->at < s->n && strchr(" \t\n\r", s->text[s->at]) && s->text[s->at])
        s->at++;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* The four digits after \u at text[at], or -1. */
static int32_t hex4(const char *text, size_t n, size_t at)
{
    int32_t v = 0;
    for (size_t i = 0; i < 4; i++) {
        const int digit = at + i < n ? hex_value(text[at + i]) : -1;
        if (digit < 0)
            return -1;
        v = v * 16 + digit;
    }
    return v;
}

static bool scan_escape(struct scan *s) /* at the backslash */
{
    const char c = s->at + 1 < s->n ? s->text[s->at + 1] : '\0';
    if (c != 'u') {
        if (!c || !strchr("\"\\/bfnrt", c))
            return refuse(s, JSON_SYNTAX, "unknown escape in a string");
        s->at += 2;
        return true;
    }
    const int32_t unit = hex4(s->text, s->n, s->at + 2);
    if (unit < 0)
        return refuse(s, JSON_SYNTAX, "\\u needs four hexadecimal digits");
    if (unit == 0)
        return refuse(s, JSON_NUL, "\\u0000 in a string");
    if (unit >= 0xdc00 && unit <= 0xdfff)
        return refuse(s, JSON_UTF8, "lone low surrogate in a string");
    if (unit < 0xd800 || unit > 0xdbff) {
        s->at += 6;
        return true;
    }
    const bool more = s->at + 7 < s->n && s->text[s->at + 6] == '\\' && s->text[s->at + 7] == 'u';
    const int32_t low = more ? hex4(s->text, s->n, s->at + 8) : -1;
    if (low < 0xdc00 || low > 0xdfff)
        return refuse(s, JSON_UTF8, "lone high surrogate in a string");
    s->at += 12;
    return true;
}

static bool scan_string(struct scan *s) /* at the opening quote; ends after the closing one */
{
    for (s->at++; s->at < s->n;) {
        const unsigned char c = (unsigned char)s->text[s->at];
        if (c == '"') {
            s->at++;
            return true;
        }
        if (c == '\\') {
            if (!scan_escape(s))
                return false;
        } else if (c == 0) {
            return refuse(s, JSON_NUL, "NUL in a string");
        } else if (c < 0x20) {
            return refuse(s, JSON_SYNTAX, "control character in a string");
        } else {
            const int len = utf8_length((const unsigned char *)s->text + s->at, s->n - s->at);
            if (len <= 0)
                return refuse(s, JSON_UTF8, "text is not UTF-8");
            s->at += (size_t)len;
        }
    }
    return refuse(s, JSON_SYNTAX, "string has no end");
}

/* Walks the bytes a string stands for; the string has passed scan_string. */
struct unescape {
    const char *at, *end;
    unsigned char left[4]; /* bytes of an escaped character still to give, last first */
    int n_left;
};

static void unescape_utf8(struct unescape *u, uint32_t cp)
{
    u->n_left = 0;
    if (cp < 0x80) {
        u->left[u->n_left++] = (unsigned char)cp;
        return;
    }
    uint32_t lead = 0xc0, room = 0x20; /* what the first byte has beside its marker */
    do {
        u->left[u->n_left++] = (unsigned char)(0x80 | (cp & 0x3f));
        cp >>= 6;
        if (cp >= room) {
            lead = lead >> 1 | 0x80;
            room >>= 1;
        } else {
            u->left[u->n_left++] = (unsigned char)((lead & 0xff) | cp);
            return;
        }
    } while (true);
}

static int unescape_next(struct unescape *u) /* a byte, or -1 at the end */
{
    if (u->n_left)
        return u->left[--u->n_left];
    if (u->at == u->end)
        return -1;
    if (*u->at != '\\')
        return (unsigned char)*u->at++;
    const char c = u->at[1];
    if (c != 'u') {
        u->at += 2;
        static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
        const char *found = strchr(from, c);
        return found ? to[found - from] : c;
    }
    uint32_t cp = (uint32_t)hex4(u->at, 6, 2);
    u->at += 6;
    if (cp >= 0xd800 && cp <= 0xdbff) {
        const uint32_t low = (uint32_t)hex4(u->at, 6, 2);
        cp = 0x10000 + ((cp - 0xd800) << 10) + (low - 0xdc00);
        u->at += 6;
    }
    unescape_utf8(u, cp);
    return u->left[--u->n_left];
}

static struct unescape unescape_key(const struct scan *s, const struct key *k)
{
    return (struct unescape){.at = s->text + k->first, .end = s->text + k->first + k->n};
}

static bool keys_equal(const struct scan *s, const struct key *a, const struct key *b)
{
    struct unescape ua = unescape_key(s, a), ub = unescape_key(s, b);
    for (;;) {
        const int ca = unescape_next(&ua), cb = unescape_next(&ub);
        if (ca != cb)
            return false;
        if (ca < 0)
            return true;
    }
}

static uint64_t key_hash(const struct scan *s, const struct key *k, uint32_t serial)
{
    uint64_t h = hash64_mix(s->seed ^ serial);
    struct unescape u = unescape_key(s, k);
    for (int c; (c = unescape_next(&u)) >= 0;)
        h = (h ^ (uint64_t)c) * 0x100000001b3u;
    return hash64_mix(h ^ s->seed);
}

static bool add_key(struct scan *s, uint32_t first, uint32_t n)
{
    struct level *l = &s->level[s->depth - 1];
    if (l->n_keys == s->limits->keys_max)
        return refuse_limit(s, JSON_TOO_MANY_KEYS, "keys in one object", s->limits->keys_max);
    if (s->n_keys == KEYS_OPEN_MAX && s->limits->large_objects) {
        l->n_keys++;
        return true;
    }
    if (s->n_keys == KEYS_OPEN_MAX)
        return refuse_limit(s, JSON_TOO_MANY_KEYS, "keys in open objects", KEYS_OPEN_MAX);
    struct key *k = &s->key[s->n_keys];
    *k = (struct key){.first = first, .n = n};
    k->hash = key_hash(s, k, l->serial);
    uint32_t at = (uint32_t)k->hash & (TABLE_SLOTS - 1);
    for (; s->table[at] != TABLE_EMPTY; at = (at + 1) & (TABLE_SLOTS - 1)) {
        const struct key *other = &s->key[s->table[at]];
        if (other->hash == k->hash && s->table[at] >= s->n_keys - l->n_kept &&
            keys_equal(s, other, k))
            return refuse(s, JSON_DUPLICATE_KEY, "key appears twice in one object");
    }
    s->table[at] = (uint16_t)s->n_keys++;
    l->n_keys++;
    l->n_kept++;
    return true;
}

static void drop_keys(struct scan *s, uint32_t n)
{
    for (; n > 0; n--) {
        const uint32_t last = --s->n_keys;
        uint32_t at = (uint32_t)s->key[last].hash & (TABLE_SLOTS - 1);
        while (s->table[at] != last)
            at = (at + 1) & (TABLE_SLOTS - 1);
        s->table[at] = TABLE_EMPTY;
    }
}

static size_t skip_digits(const struct scan *s, size_t at)
{
    while (at < s->n && s->text[at] >= '0' && s->text[at] <= '9')
        at++;
    return at;
}

static bool scan_number(struct scan *s)
{
    size_t at = s->at + (s->text[s->at] == '-');
    const size_t whole = at;
    at = skip_digits(s, at);
    if (at == whole || (s->text[whole] == '0' && at > whole + 1))
        return refuse(s, JSON_SYNTAX, "a number needs digits and no leading zero");
    if (at < s->n && s->text[at] == '.') {
        const size_t fraction = at + 1;
        at = skip_digits(s, fraction);
        if (at == fraction)
            return refuse(s, JSON_SYNTAX, "a number needs digits after its point");
    }
    if (at < s->n && (s->text[at] == 'e' || s->text[at] == 'E')) {
        size_t exponent = at + 1;
        exponent += exponent < s->n && (s->text[exponent] == '+' || s->text[exponent] == '-');
        at = skip_digits(s, exponent);
        if (at == exponent)
            return refuse(s, JSON_SYNTAX, "a number needs digits in its exponent");
    }
    const size_t n = at - s->at;
    const uint32_t max =
        s->limits->number_max < NUMBER_LIMIT ? s->limits->number_max : NUMBER_LIMIT;
    if (n > max)
        return refuse_limit(s, JSON_NUMBER, "bytes in a number", max);
    char text[NUMBER_LIMIT + 1];
    memcpy(text, s->text + s->at, n);
    text[n] = '\0';
    if (!isfinite(strtod(text, NULL)))
        return refuse(s, JSON_NUMBER, "number does not fit a double");
    s->at = at;
    return true;
}

static bool scan_word(struct scan *s, const char *word)
{
    const size_t n = strlen(word);
    if (s->n - s->at < n || memcmp(s->text + s->at, word, n) != 0)
        return refuse(s, JSON_SYNTAX, "want a value");
    s->at += n;
    return true;
}

static bool open_level(struct scan *s, bool is_object)
{
    const uint32_t max =
        s->limits->depth_max < JSON_DEPTH_LIMIT ? s->limits->depth_max : JSON_DEPTH_LIMIT;
    if ((uint32_t)s->depth == max)
        return refuse_limit(s, JSON_TOO_DEEP, "nested arrays and objects", max);
    s->level[s->depth++] = (struct level){.is_object = is_object, .serial = ++s->n_objects};
    s->at++;
    return true;
}

static void close_level(struct scan *s)
{
    drop_keys(s, s->level[--s->depth].n_kept);
    s->at++;
}

/* "key" : */
static bool scan_key(struct scan *s)
{
    if (s->at == s->n || s->text[s->at] != '"')
        return refuse(s, JSON_SYNTAX, "want a key in quotes");
    const size_t first = s->at + 1;
    if (!scan_string(s) || !add_key(s, (uint32_t)first, (uint32_t)(s->at - 1 - first)))
        return false;
    skip_spaces(s);
    if (s->at == s->n || s->text[s->at] != ':')
        return refuse(s, JSON_SYNTAX, "want ':' after a key");
    s->at++;
    return true;
}

/* One value; a container is only opened: *opened, and the caller goes on inside it. */
static bool scan_value(struct scan *s, bool *opened)
{
    *opened = false;
    if (s->at == s->n)
        return refuse(s, JSON_SYNTAX, "text ends where a value should be");
    if (s->n_values++ == s->limits->values_max)
        return refuse_limit(s, JSON_TOO_MANY_VALUES, "values", s->limits->values_max);
    const char c = s->text[s->at];
    switch (c) {
    case '{':
    case '[':
        *opened = true;
        return open_level(s, c == '{');
    case '"':
        return scan_string(s);
    case 't':
        return scan_word(s, "true");
    case 'f':
        return scan_word(s, "false");
    case 'n':
        return scan_word(s, "null");
    default:
        if (c == '-' || (c >= '0' && c <= '9'))
            return scan_number(s);
        return refuse(s, JSON_SYNTAX, "want a value");
    }
}

/* After a value: closes what ends here, and stops before the next value or at the text's end. */
static bool scan_after(struct scan *s, bool *done)
{
    for (;;) {
        skip_spaces(s);
        *done = s->depth == 0;
        if (*done)
            return true;
        const struct level *l = &s->level[s->depth - 1];
        const char c = s->at < s->n ? s->text[s->at] : '\0';
        if (c == (l->is_object ? '}' : ']')) {
            close_level(s);
            continue;
        }
        if (c != ',')
            return refuse(s, JSON_SYNTAX, l->is_object ? "want ',' or '}'" : "want ',' or ']'");
        s->at++;
        skip_spaces(s);
        return l->is_object ? scan_key(s) : true;
    }
}

/* Inside a container just opened: its end, or its first value's place. */
static bool scan_first(struct scan *s, bool *closed)
{
    const bool is_object = s->level[s->depth - 1].is_object;
    skip_spaces(s);
    *closed = s->at < s->n && s->text[s->at] == (is_object ? '}' : ']');
    if (*closed) {
        close_level(s);
        return true;
    }
    return is_object ? scan_key(s) : true;
}

static bool scan_document(struct scan *s)
{
    bool opened, closed, done = false;
    while (!done) {
        skip_spaces(s);
        if (!scan_value(s, &opened))
            return false;
        if (opened) {
            if (!scan_first(s, &closed))
                return false;
            if (!closed)
                continue;
        }
        if (!scan_after(s, &done))
            return false;
    }
    if (s->at != s->n)
        return refuse(s, JSON_SYNTAX, "text after the document");
    return true;
}

static uint64_t table_seed(void)
{
    static _Atomic uint64_t seed; /* random once, so that clients cannot aim at one probe chain */
    uint64_t now = seed;
    if (now == 0) {
        struct hash_key key;
        now = hash_key_random(&key) ? key.k0 | 1 : 1;
        seed = now;
    }
    return now;
}

bool json_scan(const char *text, size_t n, const struct json_limits *limits, enum json_fault *fault,
               struct status *st)
{
    struct scan s;
    s.text = text;
    s.n = n;
    s.at = 0;
    s.limits = limits;
    s.fault = fault;
    s.st = st;
    s.n_values = s.n_objects = s.n_keys = 0;
    s.depth = 0;
    s.seed = table_seed();
    memset(s.table, 0xff, sizeof s.table);
    *fault = JSON_OK;
    if (n > UINT32_MAX)
        return refuse_limit(&s, JSON_SYNTAX, "bytes", UINT32_MAX);
    return scan_document(&s);
}
