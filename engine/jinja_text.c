/* jinja_text.c - strings that know which of their bytes the template wrote. */
#include "engine/jinja_int.h"

#include <string.h>

#include "engine/jinja_utf8.h"

struct text *jinja_text_new(struct jinja *j, const char *at, size_t n, bool trusted)
{
    struct text *t = jinja_take(j, sizeof *t);
    if (t)
        *t = (struct text){.at = at, .n = n, .n_chars = SIZE_MAX, .trusted = trusted};
    return t;
}

struct text *jinja_text_slice(struct jinja *j, const struct text *t, size_t first, size_t end)
{
    struct text *slice = jinja_take(j, sizeof *slice);
    if (!slice)
        return NULL;
    *slice = *t;
    slice->at += first;
    slice->n = end - first;
    if (t->n_chars == t->n)
        slice->n_chars = slice->n; /* a part of ASCII is ASCII */
    else if (slice->n != t->n)
        slice->n_chars = SIZE_MAX;
    return slice;
}

/* Index of the first span that ends after byte `at` of the store. */
static size_t find_span(const struct text_store *of, size_t at)
{
    size_t low = 0, high = of->n_span;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (of->span[mid].end <= at)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

bool jinja_text_trusted(const struct text *t, size_t at, size_t *end)
{
    *end = t->n;
    if (!t->of)
        return t->trusted;
    size_t base = (size_t)(t->at - t->of->at), i = find_span(t->of, base + at);
    if (i == t->of->n_span)
        return false;
    const struct text_span *span = &t->of->span[i];
    bool trusted = span->first <= base + at;
    size_t stop = (trusted ? span->end : span->first) - base;
    if (stop < *end)
        *end = stop;
    return trusted;
}

size_t jinja_text_chars(struct text *t)
{
    if (t->n_chars == SIZE_MAX)
        t->n_chars = jinja_utf8_count(t->at, t->n);
    return t->n_chars;
}

size_t jinja_text_offset(struct text *t, size_t i_char)
{
    if (jinja_text_chars(t) == t->n)
        return i_char;
    size_t at = 0;
    uint32_t cp;
    while (i_char-- > 0)
        at += jinja_utf8_next(t->at + at, t->n - at, &cp);
    return at;
}

bool jinja_text_is(const struct text *t, const char *word)
{
    return t->n == strlen(word) && memcmp(t->at, word, t->n) == 0;
}

bool jinja_text_equal(const struct text *a, const struct text *b)
{
    return a->n == b->n && memcmp(a->at, b->at, a->n) == 0;
}

size_t jinja_text_find(const struct text *in, size_t from, const struct text *what)
{
    if (what->n > in->n - from)
        return SIZE_MAX;
    if (what->n == 0)
        return from;
    const char *at = memmem(in->at + from, in->n - from, what->at, what->n);
    return at ? (size_t)(at - in->at) : SIZE_MAX;
}

/* --- Building --- */

static bool reserve(struct jinja *j, struct text_store *s, size_t n)
{
    if (n > JINJA_TEXT_MAX - s->n)
        return jinja_fail(j, STATUS_TOO_LARGE, "text is longer than %d bytes", JINJA_TEXT_MAX);
    if (n <= s->n_cap - s->n)
        return true;
    size_t cap = s->n + n + (s->n + n) / 2 + 48;
    char *wider = jinja_mem_bytes(&j->mem, cap);
    if (!wider)
        return jinja_take(j, SIZE_MAX) != NULL;
    if (s->n)
        memcpy(wider, s->at, s->n);
    s->at = wider;
    s->n_cap = cap;
    return true;
}

static bool add_span(struct jinja *j, struct text_store *s, size_t first, size_t end)
{
    if (s->n_span && s->span[s->n_span - 1].end == first) {
        s->span[s->n_span - 1].end = end;
        return true;
    }
    if (s->n_span == s->span_cap) {
        size_t cap = s->span_cap ? s->span_cap * 2 : 4;
        struct text_span *wider = jinja_take(j, cap * sizeof *wider);
        if (!wider)
            return false;
        if (s->n_span)
            memcpy(wider, s->span, s->n_span * sizeof *wider);
        s->span = wider;
        s->span_cap = cap;
    }
    s->span[s->n_span++] = (struct text_span){first, end};
    return true;
}

static bool store_put(struct jinja *j, struct text_store *s, const char *bytes, size_t n,
                      bool trusted)
{
    if (n == 0)
        return true;
    if (!jinja_charge(j, n / 256) || !reserve(j, s, n))
        return false;
    memcpy(s->at + s->n, bytes, n);
    s->n += n;
    return !trusted || add_span(j, s, s->n - n, s->n);
}

static bool store_text(struct jinja *j, struct text_store *s, const struct text *t, size_t first,
                       size_t end)
{
    while (first < end) {
        size_t stop;
        bool trusted = jinja_text_trusted(t, first, &stop);
        if (stop > end)
            stop = end;
        if (!store_put(j, s, t->at + first, stop - first, trusted))
            return false;
        first = stop;
    }
    return true;
}

bool jinja_build_open(struct jinja *j, struct build *b)
{
    b->j = j;
    b->store = jinja_take(j, sizeof *b->store);
    return b->store != NULL;
}

bool jinja_build_put(struct build *b, const char *bytes, size_t n, bool trusted)
{
    return store_put(b->j, b->store, bytes, n, trusted);
}

bool jinja_build_text(struct build *b, const struct text *t, size_t first, size_t end)
{
    return store_text(b->j, b->store, t, first, end);
}

struct text *jinja_build_end(struct build *b)
{
    struct text *t = jinja_text_new(b->j, b->store->n ? b->store->at : "", b->store->n, false);
    if (t && b->store->n)
        t->of = b->store;
    return t;
}

struct text *jinja_text_concat(struct jinja *j, struct text *a, struct text *b)
{
    if (a->n == 0 || b->n == 0)
        return a->n ? a : b;
    struct text_store *s = a->of;
    bool in_place = s && a->at + a->n == s->at + s->n && b->n <= s->n_cap - s->n;
    size_t first = in_place ? (size_t)(a->at - s->at) : 0;
    if (a->n > JINJA_TEXT_MAX || b->n > JINJA_TEXT_MAX - a->n) {
        jinja_fail(j, STATUS_TOO_LARGE, "text is longer than %d bytes", JINJA_TEXT_MAX);
        return NULL;
    }
    if (!in_place) {
        s = jinja_take(j, sizeof *s);
        if (!s || !reserve(j, s, a->n + b->n) || !store_text(j, s, a, 0, a->n))
            return NULL;
    }
    if (!store_text(j, s, b, 0, b->n))
        return NULL;
    struct text *t = jinja_text_new(j, s->at + first, a->n + b->n, false);
    if (t)
        t->of = s;
    return t;
}
