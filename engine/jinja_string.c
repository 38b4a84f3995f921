/* jinja_string.c - what filters and methods do to strings: strip, replace, change case, join,
 * split.
 *
 * Each result is built from parts of its operands, so every byte keeps its origin. */
#include "engine/jinja_int.h"

#include <string.h>
#include <wctype.h>

#include "engine/jinja_utf8.h"

/* --- Strip --- */

static bool is_in(uint32_t cp, const struct text *set)
{
    uint32_t c;
    for (size_t at = 0; at < set->n;) {
        at += jinja_utf8_next(set->at + at, set->n - at, &c);
        if (c == cp)
            return true;
    }
    return false;
}

static bool strips(uint32_t cp, const struct text *set)
{
    return set ? is_in(cp, set) : jinja_utf8_is_space(cp);
}

bool jinja_strip(struct jinja *j, struct text *t, const struct value *chars, int sides,
                 struct value *out)
{
    const struct text *set = NULL;
    if (chars->kind == VALUE_TEXT)
        set = chars->text;
    else if (chars->kind != VALUE_MISSING && chars->kind != VALUE_NONE)
        return jinja_fail(j, STATUS_BAD_INPUT, "strip arg must be None or str");
    size_t first = 0, end = t->n, n_set = set ? set->n : 0;
    uint32_t cp;
    while ((sides & STRIP_LEFT) && first < end) {
        size_t len = jinja_utf8_next(t->at + first, end - first, &cp);
        if (!strips(cp, set))
            break;
        first += len;
    }
    while ((sides & STRIP_RIGHT) && first < end) {
        size_t len = jinja_utf8_last(t->at + first, end - first, &cp);
        if (!strips(cp, set))
            break;
        end -= len;
    }
    size_t n_gone = t->n - (end - first);
    *out = value_text(jinja_text_slice(j, t, first, end));
    return out->text && jinja_charge(j, n_gone / 64 + n_gone / 64 * n_set);
}

/* --- Replace --- */

/* An empty `from` matches before every character and at the end. */
static bool replace_empty(struct build *b, struct text *t, struct text *to, int64_t n_max)
{
    size_t at = 0;
    uint32_t cp;
    for (int64_t i = 0; n_max < 0 || i < n_max; i++) {
        if (!jinja_charge(b->j, 1) || !jinja_build_text(b, to, 0, to->n))
            return false;
        if (at == t->n)
            return true;
        size_t len = jinja_utf8_next(t->at + at, t->n - at, &cp);
        if (!jinja_build_text(b, t, at, at + len))
            return false;
        at += len;
    }
    return jinja_build_text(b, t, at, t->n);
}

bool jinja_replace(struct jinja *j, struct text *t, struct text *from, struct text *to,
                   int64_t n_max, struct value *out)
{
    struct build b;
    if (!jinja_build_open(j, &b) || !jinja_charge(j, t->n / 128))
        return false;
    if (from->n == 0) {
        *out = value_text(replace_empty(&b, t, to, n_max) ? jinja_build_end(&b) : NULL);
        return out->text != NULL;
    }
    size_t at = 0;
    for (int64_t i = 0; n_max < 0 || i < n_max; i++) {
        size_t next = jinja_text_find(t, at, from);
        if (next == SIZE_MAX)
            break;
        if (!jinja_build_text(&b, t, at, next) || !jinja_build_text(&b, to, 0, to->n) ||
            !jinja_charge(j, (i & 15) == 0))
            return false;
        at = next + from->n;
    }
    if (at == 0) {
        *out = value_text(t);
        return true;
    }
    *out = value_text(jinja_build_text(&b, t, at, t->n) ? jinja_build_end(&b) : NULL);
    return out->text != NULL;
}

/* --- Case --- */

static uint32_t to_upper(struct jinja *j, uint32_t cp)
{
    if (cp < 0x80)
        return cp >= 'a' && cp <= 'z' ? cp - 32 : cp;
    return j->template->locale ? (uint32_t)towupper_l((wint_t)cp, j->template->locale) : cp;
}

static uint32_t to_lower(struct jinja *j, uint32_t cp)
{
    if (cp < 0x80)
        return cp >= 'A' && cp <= 'Z' ? cp + 32 : cp;
    return j->template->locale ? (uint32_t)towlower_l((wint_t)cp, j->template->locale) : cp;
}

static bool is_alpha(struct jinja *j, uint32_t cp)
{
    if (cp < 0x80)
        return (cp | 0x20) >= 'a' && (cp | 0x20) <= 'z';
    return j->template->locale && iswalpha_l((wint_t)cp, j->template->locale);
}

/* jinja2's title filter starts words after these. */
static bool is_word_break(uint32_t cp)
{
    return jinja_utf8_is_space(cp) || cp == '-' || cp == '(' || cp == '{' || cp == '[' || cp == '<';
}

static bool put_char(struct build *b, const struct text *t, size_t at, uint32_t cp, bool upper)
{
    char bytes[4];
    size_t end;
    bool trusted = jinja_text_trusted(t, at, &end);
    if (cp == 0xDF && upper) /* the one letter of common texts whose capital is two */
        return jinja_build_put(b, "SS", 2, trusted);
    return jinja_build_put(b, bytes, jinja_utf8_put(bytes, cp), trusted);
}

bool jinja_recase(struct jinja *j, struct text *t, enum text_case to, struct value *out)
{
    struct build b;
    if (!jinja_build_open(j, &b) || !jinja_charge(j, t->n / 16))
        return false;
    bool at_start = true;
    for (size_t at = 0; at < t->n;) {
        uint32_t cp;
        size_t len = jinja_utf8_next(t->at + at, t->n - at, &cp);
        bool upper =
            to == CASE_UPPER ||
            (at_start && (to == CASE_TITLE || to == CASE_CAPITAL || to == CASE_TITLE_METHOD)) ||
            (to == CASE_SWAP && to_lower(j, cp) != cp ? false : to == CASE_SWAP);
        if (!put_char(&b, t, at, upper ? to_upper(j, cp) : to_lower(j, cp), upper))
            return false;
        at_start = to == CASE_TITLE          ? is_word_break(cp)
                   : to == CASE_TITLE_METHOD ? !is_alpha(j, cp)
                                             : false;
        at += len;
    }
    *out = value_text(jinja_build_end(&b));
    return out->text != NULL;
}

/* --- Join and split --- */

bool jinja_join(struct jinja *j, const struct value *of, struct text *between,
                const struct value *attribute, bool only_text, struct value *out)
{
    struct list *items;
    struct build b;
    if (!jinja_items(j, of, &items) || !jinja_build_open(j, &b) || !jinja_charge(j, items->n / 4))
        return false;
    for (size_t i = 0; i < items->n; i++) {
        struct value v = items->at[i];
        if (only_text && v.kind != VALUE_TEXT)
            return jinja_fail(j, STATUS_BAD_INPUT, "join: item %zu: expected str, found %s", i,
                              value_type(&v));
        if (attribute && !jinja_path_get(j, &items->at[i], attribute, &v))
            return false;
        if ((i && !jinja_build_text(&b, between, 0, between->n)) || !jinja_put_value(&b, &v))
            return false;
    }
    *out = value_text(jinja_build_end(&b));
    return out->text != NULL;
}

bool jinja_split_lines(struct jinja *j, struct text *t, bool keep, struct list **out)
{
    *out = jinja_list_new(j, 0);
    if (!*out || !jinja_charge(j, t->n / 64))
        return false;
    for (size_t first = 0, at = 0; at < t->n;) {
        uint32_t cp;
        size_t end = at, len = jinja_utf8_next(t->at + at, t->n - at, &cp);
        at += len;
        bool ends = jinja_utf8_is_line_end(cp);
        if (cp == '\r' && at < t->n && t->at[at] == '\n')
            at++;
        if (!ends && at < t->n)
            continue;
        struct text *line = jinja_text_slice(j, t, first, !ends || keep ? at : end);
        if (!line || !jinja_charge(j, 1) || !jinja_list_add(j, *out, value_text(line)))
            return false;
        first = at;
    }
    return true;
}

bool jinja_path_get(struct jinja *j, const struct value *of, const struct value *path,
                    struct value *out)
{
    if (path->kind != VALUE_TEXT)
        return jinja_get_item(j, of, path, out);
    *out = *of;
    for (size_t at = 0; at <= path->text->n;) {
        const char *start = path->text->at + at;
        const char *dot = memchr(start, '.', path->text->n - at);
        size_t n = dot ? (size_t)(dot - start) : path->text->n - at;
        struct value key = value_text(jinja_text_slice(j, path->text, at, at + n)), next;
        int64_t index = 0;
        bool is_index = n > 0 && n < 10;
        for (size_t i = 0; i < n && is_index; i++) {
            is_index = start[i] >= '0' && start[i] <= '9';
            index = index * 10 + (start[i] - '0');
        }
        if (is_index)
            key = value_int(index);
        else if (!key.text)
            return false;
        if (!jinja_charge(j, 1) || !jinja_get_item(j, out, &key, &next))
            return false;
        *out = next;
        at += n + 1;
    }
    return true;
}
