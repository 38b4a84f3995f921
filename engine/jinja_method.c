/* jinja_method.c - the methods of str, list, tuple and dict that change nothing, and of loop. */
#include "engine/jinja_int.h"

#include <string.h>
#include <wctype.h>

#include "engine/jinja_utf8.h"

#define METHOD(name)                                                                               \
    static bool name(struct jinja *j, const struct value *self, struct args *a, struct value *out)

static bool need_text(struct jinja *j, const struct value *v)
{
    return v->kind == VALUE_TEXT ||
           jinja_fail(j, STATUS_BAD_INPUT, "expected str, got %s", value_type(v));
}

static bool add_part(struct jinja *j, struct list *l, struct text *t, size_t first, size_t end)
{
    struct text *part = jinja_text_slice(j, t, first, end);
    return part && jinja_charge(j, 1) && jinja_list_add(j, l, value_text(part));
}

/* --- str: case and stripping --- */

METHOD(text_upper)
{
    (void)a;
    return jinja_recase(j, self->text, CASE_UPPER, out);
}

METHOD(text_lower)
{
    (void)a;
    return jinja_recase(j, self->text, CASE_LOWER, out);
}

METHOD(text_title)
{
    (void)a;
    return jinja_recase(j, self->text, CASE_TITLE_METHOD, out);
}

METHOD(text_capitalize)
{
    (void)a;
    return jinja_recase(j, self->text, CASE_CAPITAL, out);
}

METHOD(text_swapcase)
{
    (void)a;
    return jinja_recase(j, self->text, CASE_SWAP, out);
}

METHOD(text_strip)
{
    return jinja_strip(j, self->text, &a->pos[0], STRIP_LEFT | STRIP_RIGHT, out);
}

METHOD(text_lstrip)
{
    return jinja_strip(j, self->text, &a->pos[0], STRIP_LEFT, out);
}

METHOD(text_rstrip)
{
    return jinja_strip(j, self->text, &a->pos[0], STRIP_RIGHT, out);
}

/* --- str: splitting --- */

static bool split_by(struct jinja *j, struct text *t, const struct text *sep, int64_t n_max,
                     struct list *l)
{
    size_t at = 0;
    for (int64_t i = 0; n_max < 0 || i < n_max; i++) {
        size_t next = jinja_text_find(t, at, sep);
        if (next == SIZE_MAX)
            break;
        if (!add_part(j, l, t, at, next))
            return false;
        at = next + sep->n;
    }
    return add_part(j, l, t, at, t->n);
}

static bool split_spaces(struct jinja *j, struct text *t, int64_t n_max, struct list *l)
{
    size_t at = jinja_utf8_space_first(t->at, t->n);
    uint32_t cp;
    for (int64_t i = 0; at < t->n; i++) {
        if (n_max >= 0 && i >= n_max)
            return add_part(j, l, t, at, t->n); /* the rest keeps its last spaces */
        size_t end = at;
        while (end < t->n) {
            size_t len = jinja_utf8_next(t->at + end, t->n - end, &cp);
            if (jinja_utf8_is_space(cp))
                break;
            end += len;
        }
        if (!add_part(j, l, t, at, end))
            return false;
        at = end + jinja_utf8_space_first(t->at + end, t->n - end);
    }
    return true;
}

static void reverse(struct list *l)
{
    for (size_t i = 0; i < l->n / 2; i++) {
        struct value v = l->at[i];
        l->at[i] = l->at[l->n - 1 - i];
        l->at[l->n - 1 - i] = v;
    }
}

static size_t find_last(const struct text *t, size_t end, const struct text *what)
{
    for (size_t at = end; at >= what->n; at--) {
        if (memcmp(t->at + at - what->n, what->at, what->n) == 0)
            return at - what->n;
        if (at == 0)
            break;
    }
    return SIZE_MAX;
}

static bool rsplit_by(struct jinja *j, struct text *t, const struct text *sep, int64_t n_max,
                      struct list *l)
{
    size_t end = t->n;
    for (int64_t i = 0; n_max < 0 || i < n_max; i++) {
        size_t next = find_last(t, end, sep);
        if (next == SIZE_MAX)
            break;
        if (!add_part(j, l, t, next + sep->n, end))
            return false;
        end = next;
    }
    if (!add_part(j, l, t, 0, end))
        return false;
    reverse(l);
    return true;
}

static bool rsplit_spaces(struct jinja *j, struct text *t, int64_t n_max, struct list *l)
{
    size_t end = t->n - jinja_utf8_space_last(t->at, t->n);
    uint32_t cp;
    for (int64_t i = 0; end > 0; i++) {
        size_t first = n_max >= 0 && i >= n_max ? 0 : end;
        while (first > 0) {
            size_t len = jinja_utf8_last(t->at, first, &cp);
            if (jinja_utf8_is_space(cp))
                break;
            first -= len;
        }
        if (!add_part(j, l, t, first, end))
            return false;
        end = first - jinja_utf8_space_last(t->at, first);
    }
    reverse(l);
    return true;
}

static bool split(struct jinja *j, const struct value *self, struct args *a, bool from_right,
                  struct value *out)
{
    struct list *l = jinja_list_new(j, 0);
    int64_t n_max;
    if (!l || !jinja_arg_int(j, &a->pos[1], -1, &n_max) || !jinja_charge(j, self->text->n / 64))
        return false;
    *out = value_list(VALUE_LIST, l);
    if (a->pos[0].kind == VALUE_MISSING || a->pos[0].kind == VALUE_NONE)
        return from_right && n_max >= 0 ? rsplit_spaces(j, self->text, n_max, l)
                                        : split_spaces(j, self->text, n_max, l);
    if (!need_text(j, &a->pos[0]))
        return false;
    const struct text *sep = a->pos[0].text;
    if (sep->n == 0)
        return jinja_fail(j, STATUS_BAD_INPUT, "empty separator");
    return from_right && n_max >= 0
               ? jinja_charge(j, self->text->n / 16) && rsplit_by(j, self->text, sep, n_max, l)
               : split_by(j, self->text, sep, n_max, l);
}

METHOD(text_split)
{
    return split(j, self, a, false, out);
}

METHOD(text_rsplit)
{
    return split(j, self, a, true, out);
}

METHOD(text_splitlines)
{
    bool keep;
    struct list *l;
    if (!jinja_arg_bool(j, &a->pos[0], false, &keep) || !jinja_split_lines(j, self->text, keep, &l))
        return false;
    *out = value_list(VALUE_LIST, l);
    return true;
}

static bool partition(struct jinja *j, const struct value *self, struct args *a, bool last,
                      struct value *out)
{
    struct list *l = jinja_list_new(j, 3);
    if (!l || !need_text(j, &a->pos[0]))
        return false;
    struct text *t = self->text;
    const struct text *sep = a->pos[0].text;
    if (sep->n == 0)
        return jinja_fail(j, STATUS_BAD_INPUT, "empty separator");
    if (!jinja_charge(j, t->n / 16))
        return false;
    size_t at = last ? find_last(t, t->n, sep) : jinja_text_find(t, 0, sep);
    bool found = at != SIZE_MAX;
    size_t first = found ? at : last ? 0 : t->n, second = found ? at + sep->n : first;
    *out = value_list(VALUE_TUPLE, l);
    return add_part(j, l, t, 0, first) && add_part(j, l, t, first, second) &&
           add_part(j, l, t, second, t->n);
}

METHOD(text_partition)
{
    return partition(j, self, a, false, out);
}

METHOD(text_rpartition)
{
    return partition(j, self, a, true, out);
}

/* --- str: searching --- */

static bool has_affix(const struct text *t, const struct text *affix, bool at_end)
{
    return affix->n <= t->n &&
           memcmp(t->at + (at_end ? t->n - affix->n : 0), affix->at, affix->n) == 0;
}

static bool test_affix(struct jinja *j, const struct value *self, const struct value *affix,
                       bool at_end, struct value *out)
{
    *out = value_bool(false);
    if (affix->kind == VALUE_TUPLE) {
        for (size_t i = 0; i < affix->list->n && !out->b; i++) {
            if (!need_text(j, &affix->list->at[i]))
                return false;
            out->b = has_affix(self->text, affix->list->at[i].text, at_end);
        }
        return jinja_charge(j, affix->list->n / 8);
    }
    if (!need_text(j, affix))
        return false;
    out->b = has_affix(self->text, affix->text, at_end);
    return jinja_charge(j, affix->text->n / 256);
}

METHOD(text_startswith)
{
    return test_affix(j, self, &a->pos[0], false, out);
}

METHOD(text_endswith)
{
    return test_affix(j, self, &a->pos[0], true, out);
}

static bool remove_affix(struct jinja *j, const struct value *self, const struct value *affix,
                         bool at_end, struct value *out)
{
    if (!need_text(j, affix))
        return false;
    struct text *t = self->text;
    size_t n = has_affix(t, affix->text, at_end) ? affix->text->n : 0;
    *out = value_text(jinja_text_slice(j, t, at_end ? 0 : n, at_end ? t->n - n : t->n));
    return out->text != NULL;
}

METHOD(text_removeprefix)
{
    return remove_affix(j, self, &a->pos[0], false, out);
}

METHOD(text_removesuffix)
{
    return remove_affix(j, self, &a->pos[0], true, out);
}

/* The position of a->pos[0] in characters, -1 when it is not there. */
static bool search(struct jinja *j, const struct value *self, struct args *a, bool last,
                   int64_t *found)
{
    int64_t start, stop;
    struct text *t = self->text;
    int64_t n = (int64_t)jinja_text_chars(t);
    if (!need_text(j, &a->pos[0]) || !jinja_arg_int(j, &a->pos[1], 0, &start) ||
        !jinja_arg_int(j, &a->pos[2], n, &stop) || !jinja_charge(j, t->n / (last ? 16 : 256)))
        return false;
    start = start < 0 ? (start + n < 0 ? 0 : start + n) : start;
    stop = stop < 0 ? (stop + n < 0 ? 0 : stop + n) : stop > n ? n : stop;
    *found = -1;
    if (start > stop)
        return true;
    size_t first = jinja_text_offset(t, (size_t)start), end = jinja_text_offset(t, (size_t)stop);
    struct text part = {.at = t->at + first, .n = end - first};
    size_t at =
        last ? find_last(&part, part.n, a->pos[0].text) : jinja_text_find(&part, 0, a->pos[0].text);
    if (at != SIZE_MAX)
        *found = start + (int64_t)jinja_utf8_count(part.at, at);
    return true;
}

METHOD(text_find)
{
    int64_t found;
    if (!search(j, self, a, false, &found))
        return false;
    *out = value_int(found);
    return true;
}

METHOD(text_rfind)
{
    int64_t found;
    if (!search(j, self, a, true, &found))
        return false;
    *out = value_int(found);
    return true;
}

METHOD(text_index)
{
    int64_t found;
    if (!search(j, self, a, false, &found))
        return false;
    *out = value_int(found);
    return found >= 0 || jinja_fail(j, STATUS_BAD_INPUT, "substring not found");
}

METHOD(text_count)
{
    if (!need_text(j, &a->pos[0]) || !jinja_charge(j, self->text->n / 64))
        return false;
    const struct text *what = a->pos[0].text;
    int64_t n = 0;
    if (what->n == 0)
        n = (int64_t)jinja_text_chars(self->text) + 1;
    for (size_t at = 0; what->n; n++) {
        at = jinja_text_find(self->text, at, what);
        if (at == SIZE_MAX)
            break;
        at += what->n;
    }
    *out = value_int(n);
    return true;
}

METHOD(text_replace)
{
    int64_t n_max;
    return need_text(j, &a->pos[0]) && need_text(j, &a->pos[1]) &&
           jinja_arg_int(j, &a->pos[2], -1, &n_max) &&
           jinja_replace(j, self->text, a->pos[0].text, a->pos[1].text, n_max, out);
}

METHOD(text_join)
{
    return jinja_join(j, &a->pos[0], self->text, NULL, true, out);
}

/* --- str: kinds of characters --- */

static bool every_char(struct jinja *j, const struct value *self,
                       bool (*is)(struct jinja *, uint32_t), struct value *out)
{
    const struct text *t = self->text;
    *out = value_bool(t->n > 0);
    for (size_t at = 0; at < t->n && out->b;) {
        uint32_t cp;
        at += jinja_utf8_next(t->at + at, t->n - at, &cp);
        out->b = is(j, cp);
    }
    return jinja_charge(j, t->n / 64);
}

static bool is_digit(struct jinja *j, uint32_t cp)
{
    (void)j;
    return cp >= '0' && cp <= '9';
}

static bool is_letter(struct jinja *j, uint32_t cp)
{
    if (cp < 0x80)
        return (cp | 0x20) >= 'a' && (cp | 0x20) <= 'z';
    return j->template->locale && iswalpha_l((wint_t)cp, j->template->locale);
}

static bool is_letter_or_digit(struct jinja *j, uint32_t cp)
{
    return is_digit(j, cp) || is_letter(j, cp);
}

static bool is_space(struct jinja *j, uint32_t cp)
{
    (void)j;
    return jinja_utf8_is_space(cp);
}

METHOD(text_isdigit)
{
    (void)a;
    return every_char(j, self, is_digit, out);
}

METHOD(text_isalpha)
{
    (void)a;
    return every_char(j, self, is_letter, out);
}

METHOD(text_isalnum)
{
    (void)a;
    return every_char(j, self, is_letter_or_digit, out);
}

METHOD(text_isspace)
{
    (void)a;
    return every_char(j, self, is_space, out);
}

METHOD(text_islower)
{
    return jinja_call_builtin(j, jinja_test_find("lower", 5), self, &(struct args){.pos = a->pos},
                              out);
}

METHOD(text_isupper)
{
    return jinja_call_builtin(j, jinja_test_find("upper", 5), self, &(struct args){.pos = a->pos},
                              out);
}

/* --- list, tuple --- */

METHOD(list_index)
{
    for (size_t i = 0; i < self->list->n; i++) {
        bool equal;
        if (!jinja_equal(j, &self->list->at[i], &a->pos[0], &equal))
            return false;
        if (equal) {
            *out = value_int((int64_t)i);
            return jinja_charge(j, i / 16);
        }
    }
    return jinja_fail(j, STATUS_BAD_INPUT, "value is not in list");
}

METHOD(list_count)
{
    int64_t n = 0;
    for (size_t i = 0; i < self->list->n; i++) {
        bool equal;
        if (!jinja_equal(j, &self->list->at[i], &a->pos[0], &equal))
            return false;
        n += equal;
    }
    *out = value_int(n);
    return jinja_charge(j, self->list->n / 16);
}

METHOD(copy_self)
{
    (void)j;
    (void)a;
    *out = *self; /* nothing can change it */
    return true;
}

/* --- dict --- */

METHOD(dict_get)
{
    struct value *found;
    if (!jinja_dict_get(j, self->dict, &a->pos[0], &found))
        return false;
    *out = found ? *found : a->pos[1].kind == VALUE_MISSING ? value_none() : a->pos[1];
    return true;
}

static bool make_view(struct jinja *j, const struct value *self, const char *name,
                      struct value *out)
{
    const struct dict *d = self->dict;
    struct list *l = jinja_list_new(j, d->n);
    if (!l || !jinja_charge(j, d->n / 8))
        return false;
    l->view = name;
    *out = value_list(VALUE_VIEW, l);
    for (size_t i = 0; i < d->n; i++) {
        struct value v = strcmp(name, "dict_keys") == 0 ? d->at[i].key : d->at[i].value;
        if (strcmp(name, "dict_items") == 0) {
            struct list *pair = jinja_list_new(j, 2);
            if (!pair)
                return false;
            pair->at[0] = d->at[i].key;
            pair->at[1] = d->at[i].value;
            pair->n = 2;
            v = value_list(VALUE_TUPLE, pair);
        }
        l->at[l->n++] = v;
    }
    return true;
}

METHOD(dict_items)
{
    (void)a;
    return make_view(j, self, "dict_items", out);
}

METHOD(dict_keys)
{
    (void)a;
    return make_view(j, self, "dict_keys", out);
}

METHOD(dict_values)
{
    (void)a;
    return make_view(j, self, "dict_values", out);
}

/* --- loop --- */

METHOD(loop_cycle)
{
    if (a->n == 0)
        return jinja_fail(j, STATUS_BAD_INPUT, "no items for cycling given");
    *out = a->pos[self->loop->index0 % a->n];
    return true;
}

METHOD(loop_changed)
{
    struct list *now = jinja_list_new(j, a->n);
    bool same = false;
    if (!now)
        return false;
    for (size_t i = 0; i < a->n; i++)
        now->at[now->n++] = a->pos[i];
    struct value tuple = value_list(VALUE_TUPLE, now);
    if (self->loop->changed.kind != VALUE_MISSING &&
        !jinja_equal(j, &self->loop->changed, &tuple, &same))
        return false;
    self->loop->changed = tuple;
    *out = value_bool(!same);
    return true;
}

static const struct builtin text_methods[] = {
    {"upper", text_upper, {0}, 0, false},
    {"lower", text_lower, {0}, 0, false},
    {"casefold", text_lower, {0}, 0, false},
    {"title", text_title, {0}, 0, false},
    {"capitalize", text_capitalize, {0}, 0, false},
    {"swapcase", text_swapcase, {0}, 0, false},
    {"strip", text_strip, {"chars"}, 0, false},
    {"lstrip", text_lstrip, {"chars"}, 0, false},
    {"rstrip", text_rstrip, {"chars"}, 0, false},
    {"split", text_split, {"sep", "maxsplit"}, 0, false},
    {"rsplit", text_rsplit, {"sep", "maxsplit"}, 0, false},
    {"splitlines", text_splitlines, {"keepends"}, 0, false},
    {"partition", text_partition, {"sep"}, 1, false},
    {"rpartition", text_rpartition, {"sep"}, 1, false},
    {"startswith", text_startswith, {"prefix"}, 1, false},
    {"endswith", text_endswith, {"suffix"}, 1, false},
    {"removeprefix", text_removeprefix, {"prefix"}, 1, false},
    {"removesuffix", text_removesuffix, {"suffix"}, 1, false},
    {"find", text_find, {"sub", "start", "end"}, 1, false},
    {"rfind", text_rfind, {"sub", "start", "end"}, 1, false},
    {"index", text_index, {"sub", "start", "end"}, 1, false},
    {"count", text_count, {"sub"}, 1, false},
    {"replace", text_replace, {"old", "new", "count"}, 2, false},
    {"join", text_join, {"iterable"}, 1, false},
    {"format", jinja_format_braces, {0}, 0, true},
    {"isdigit", text_isdigit, {0}, 0, false},
    {"isdecimal", text_isdigit, {0}, 0, false},
    {"isnumeric", text_isdigit, {0}, 0, false},
    {"isalpha", text_isalpha, {0}, 0, false},
    {"isalnum", text_isalnum, {0}, 0, false},
    {"isspace", text_isspace, {0}, 0, false},
    {"islower", text_islower, {0}, 0, false},
    {"isupper", text_isupper, {0}, 0, false},
    {0},
};

static const struct builtin list_methods[] = {
    {"index", list_index, {"value"}, 1, false},
    {"count", list_count, {"value"}, 1, false},
    {"copy", copy_self, {0}, 0, false},
    {0},
};

static const struct builtin dict_methods[] = {
    {"get", dict_get, {"key", "default"}, 1, false},
    {"items", dict_items, {0}, 0, false},
    {"keys", dict_keys, {0}, 0, false},
    {"values", dict_values, {0}, 0, false},
    {"copy", copy_self, {0}, 0, false},
    {0},
};

static const struct builtin loop_methods[] = {
    {"cycle", loop_cycle, {0}, 0, true},
    {"changed", loop_changed, {0}, 0, true},
    {0},
};

const struct builtin *jinja_method_find(const struct value *of, const char *name, size_t n)
{
    switch (of->kind) {
    case VALUE_TEXT:
        return jinja_find(text_methods, name, n);
    case VALUE_LIST:
        return jinja_find(list_methods, name, n);
    case VALUE_TUPLE:
        return n == 4 ? NULL : jinja_find(list_methods, name, n); /* a tuple has no copy() */
    case VALUE_DICT:
        return jinja_find(dict_methods, name, n);
    case VALUE_LOOP:
        return jinja_find(loop_methods, name, n);
    default:
        return NULL;
    }
}

bool jinja_method_is_unsafe(const struct value *of, const char *name, size_t n)
{
    static const char *const of_list[] = {"append", "clear",  "extend",  "insert",
                                          "pop",    "remove", "reverse", "sort"};
    static const char *const of_dict[] = {"clear", "pop", "popitem", "setdefault", "update"};
    const char *const *words = of->kind == VALUE_DICT ? of_dict : of_list;
    size_t n_words = of->kind == VALUE_DICT   ? sizeof of_dict / sizeof *of_dict
                     : of->kind == VALUE_LIST ? sizeof of_list / sizeof *of_list
                                              : 0;
    for (size_t i = 0; i < n_words; i++) {
        if (strlen(words[i]) == n && memcmp(words[i], name, n) == 0)
            return true;
    }
    return false;
}
