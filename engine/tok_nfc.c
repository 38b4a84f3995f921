#include "engine/tok_nfc.h"

#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

enum {
    DECOMPOSED_MAX = 4, /* code points that one becomes at most, in form D (UAX 15) */
    SHORT_RUN = 16,     /* marks; longer runs are sorted by counting */
    N_CLASSES = 256,
    UTF8_MAX = 4, /* bytes of one code point */
};

struct codes {            /* the text in form D */
    int32_t *at, *sorted; /* [n_max] each */
    size_t n, n_max;
};

static bool is_surely_normal(struct str text)
{
    for (size_t i = 0; i < text.n; i++)
        if ((unsigned char)text.at[i] >= 0xCC) /* U+0300 and above begin so */
            return false;
    return true;
}

static int class_of(int32_t code)
{
    return utf8proc_get_property(code)->combining_class;
}

/* Without memory it counts.  False when the text is not UTF-8. */
static bool decompose(struct str text, struct codes *c)
{
    int32_t none[DECOMPOSED_MAX];
    int boundary = 0;
    c->n = 0;
    for (size_t at = 0; at < text.n;) {
        int32_t code;
        const ptrdiff_t width =
            utf8proc_iterate((const uint8_t *)text.at + at, (ptrdiff_t)(text.n - at), &code);
        if (width <= 0)
            return false;
        at += (size_t)width;
        const ptrdiff_t room = c->at ? (ptrdiff_t)(c->n_max - c->n) : DECOMPOSED_MAX;
        const ptrdiff_t n = utf8proc_decompose_char(code, c->at ? c->at + c->n : none, room,
                                                    UTF8PROC_DECOMPOSE, &boundary);
        if (n < 0 || n > room)
            return false;
        c->n += (size_t)n;
    }
    return true;
}

static bool take_memory(struct codes *c, char **text)
{
    c->n_max = c->n;
    c->at = malloc((c->n_max + 1) * sizeof *c->at); /* + 1: the library ends it with a zero */
    c->sorted = malloc(c->n_max * sizeof *c->sorted);
    *text = malloc(UTF8_MAX * c->n_max);
    return c->at && c->sorted && *text;
}

static void sort_short(int32_t *at, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        const int32_t moved = at[i];
        const int class = class_of(moved);
        size_t to = i;
        for (; to > 0 && class_of(at[to - 1]) > class; to--)
            at[to] = at[to - 1];
        at[to] = moved;
    }
}

static void sort_long(int32_t *at, int32_t *sorted, size_t n)
{
    size_t first[N_CLASSES + 1] = {0};
    for (size_t i = 0; i < n; i++)
        first[class_of(at[i]) + 1]++;
    for (int k = 0; k < N_CLASSES; k++)
        first[k + 1] += first[k];
    for (size_t i = 0; i < n; i++)
        sorted[first[class_of(at[i])]++] = at[i];
    memcpy(at, sorted, n * sizeof *at);
}

/* Marks between two starters stand in the order of their classes, else as they came. */
static void reorder(struct codes *c)
{
    for (size_t i = 0, end; i < c->n; i = end) {
        for (end = i; end < c->n && class_of(c->at[end]) != 0;)
            end++;
        if (end - i > SHORT_RUN)
            sort_long(c->at + i, c->sorted, end - i);
        else
            sort_short(c->at + i, end - i);
        end += end == i;
    }
}

static bool compose(struct codes *c, char *out, size_t *n_out)
{
    const ptrdiff_t n =
        utf8proc_normalize_utf32(c->at, (ptrdiff_t)c->n, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    *n_out = 0;
    for (ptrdiff_t i = 0; i < n; i++)
        *n_out += (size_t)utf8proc_encode_char(c->at[i], (uint8_t *)out + *n_out);
    return n >= 0;
}

bool tok_nfc(struct str text, struct str *out, char **owned, struct status *st)
{
    *out = text;
    *owned = NULL;
    if (is_surely_normal(text))
        return true;
    struct codes c = {0};
    char *made = NULL;
    if (!decompose(text, &c))
        return true;
    const bool ok = take_memory(&c, &made);
    if (!ok) {
        status_fail(st, STATUS_BUSY, "no memory to normalize %zu bytes", text.n);
    } else if (decompose(text, &c)) {
        reorder(&c);
        if (compose(&c, made, &out->n)) {
            out->at = *owned = made;
            made = NULL;
        }
    }
    free(c.at);
    free(c.sorted);
    free(made);
    return ok;
}
