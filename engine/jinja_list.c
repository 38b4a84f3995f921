/* jinja_list.c - filters on sequences: select, map, sort, unique, join and their like. */
#include "engine/jinja_int.h"

#include <string.h>

static bool out_list(enum value_kind kind, struct list *l, struct value *out)
{
    *out = value_list(kind, l);
    return l != NULL;
}

static bool lower_key(struct jinja *j, const struct value *case_sensitive, struct value *key)
{
    bool keep;
    if (!jinja_arg_bool(j, case_sensitive, false, &keep))
        return false;
    return keep || key->kind != VALUE_TEXT || jinja_recase(j, key->text, CASE_LOWER, key);
}

/* The value that an item is compared by; attribute may be MISSING or None. */
static bool make_key(struct jinja *j, const struct value *item, const struct value *attribute,
                     const struct value *case_sensitive, struct value *key)
{
    *key = *item;
    bool has_path = attribute->kind != VALUE_MISSING && attribute->kind != VALUE_NONE;
    if (has_path && !jinja_path_get(j, item, attribute, key))
        return false;
    return lower_key(j, case_sensitive, key);
}

/* sort(attribute="a,b"): a list of keys */
static bool make_sort_key(struct jinja *j, const struct value *item, const struct value *attribute,
                          const struct value *case_sensitive, struct value *key)
{
    if (attribute->kind != VALUE_TEXT || !memchr(attribute->text->at, ',', attribute->text->n))
        return make_key(j, item, attribute, case_sensitive, key);
    struct list *keys = jinja_list_new(j, 0);
    if (!keys)
        return false;
    const struct text *t = attribute->text;
    for (size_t at = 0; at <= t->n;) {
        const char *comma = memchr(t->at + at, ',', t->n - at);
        size_t end = comma ? (size_t)(comma - t->at) : t->n;
        struct value path = value_text(jinja_text_slice(j, t, at, end)), part;
        if (!path.text || !make_key(j, item, &path, case_sensitive, &part) ||
            !jinja_list_add(j, keys, part))
            return false;
        at = end + 1;
    }
    *key = value_list(VALUE_LIST, keys);
    return true;
}

/* --- Sorting --- */

/* Merges [first, mid) and [mid, end) of from into to; equal keys keep their order. */
static bool merge(struct jinja *j, const struct pair *from, struct pair *to, const size_t at[3],
                  bool reverse)
{
    size_t a = at[0], b = at[1];
    for (size_t i = at[0]; i < at[2]; i++) {
        int order = 0;
        if (a < at[1] && b < at[2] && !jinja_order(j, &from[a].key, &from[b].key, &order))
            return false;
        if (reverse && order != 2)
            order = -order;
        bool take_a = b == at[2] || (a < at[1] && order <= 0);
        to[i] = take_a ? from[a++] : from[b++];
    }
    return true;
}

static bool sort_pairs(struct jinja *j, struct pair *at, size_t n, bool reverse)
{
    struct pair *from = at, *to = jinja_take(j, n * sizeof *to);
    if (!to)
        return false;
    for (size_t width = 1; width < n; width *= 2) {
        if (!jinja_charge(j, n / 8))
            return false;
        for (size_t i = 0; i < n; i += 2 * width) {
            size_t mid = i + width < n ? i + width : n, end = mid + width < n ? mid + width : n;
            if (!merge(j, from, to, (size_t[3]){i, mid, end}, reverse))
                return false;
        }
        struct pair *swap = from;
        from = to;
        to = swap;
    }
    if (from != at && n)
        memcpy(at, from, n * sizeof *at);
    return true;
}

static bool filter_sort(struct jinja *j, const struct value *self, struct args *a,
                        struct value *out)
{
    struct list *items, *sorted;
    bool reverse;
    if (!jinja_items(j, self, &items) || !jinja_arg_bool(j, &a->pos[0], false, &reverse))
        return false;
    struct pair *pairs = jinja_take(j, items->n * sizeof *pairs);
    sorted = jinja_list_new(j, items->n);
    if (!pairs || !sorted || !jinja_charge(j, items->n / 4))
        return false;
    for (size_t i = 0; i < items->n; i++) {
        pairs[i].value = items->at[i];
        if (!make_sort_key(j, &items->at[i], &a->pos[2], &a->pos[1], &pairs[i].key))
            return false;
    }
    if (!sort_pairs(j, pairs, items->n, reverse))
        return false;
    for (size_t i = 0; i < items->n; i++)
        sorted->at[i] = pairs[i].value;
    sorted->n = items->n;
    sorted->caller = items->caller;
    return out_list(VALUE_LIST, sorted, out);
}

static bool make_tuple(struct jinja *j, const struct value *a, const struct value *b,
                       struct value *out)
{
    struct list *l = jinja_list_new(j, 2);
    if (!l)
        return false;
    l->at[0] = *a;
    l->at[1] = *b;
    l->n = 2;
    return out_list(VALUE_TUPLE, l, out);
}

static bool filter_dictsort(struct jinja *j, const struct value *self, struct args *a,
                            struct value *out)
{
    if (self->kind != VALUE_DICT)
        return jinja_fail(j, STATUS_BAD_INPUT, "dictsort needs a mapping, not %s",
                          value_type(self));
    const struct dict *d = self->dict;
    const struct value *by = &a->pos[1];
    bool by_value = by->kind == VALUE_TEXT && jinja_text_is(by->text, "value"), reverse;
    if (!by_value && by->kind != VALUE_MISSING &&
        !(by->kind == VALUE_TEXT && jinja_text_is(by->text, "key")))
        return jinja_fail(j, STATUS_BAD_INPUT, "dictsort is by \"key\" or \"value\"");
    struct pair *pairs = jinja_take(j, d->n * sizeof *pairs);
    struct list *l = jinja_list_new(j, d->n);
    if (!pairs || !l || !jinja_arg_bool(j, &a->pos[2], false, &reverse))
        return false;
    for (size_t i = 0; i < d->n; i++) {
        pairs[i].key = by_value ? d->at[i].value : d->at[i].key;
        if (!lower_key(j, &a->pos[0], &pairs[i].key) ||
            !make_tuple(j, &d->at[i].key, &d->at[i].value, &pairs[i].value))
            return false;
    }
    if (!sort_pairs(j, pairs, d->n, reverse))
        return false;
    for (size_t i = 0; i < d->n; i++)
        l->at[i] = pairs[i].value;
    l->n = d->n;
    return out_list(VALUE_LIST, l, out);
}

/* --- Unique --- */

/* Adds key to the open hash table `slot` (size a power of two, 0 = empty, else index + 1). */
static bool add_key(struct jinja *j, struct list *keys, uint32_t *slot, size_t n_slots,
                    const struct value *key, bool *is_new)
{
    size_t i = jinja_hash(key) & (n_slots - 1);
    for (; slot[i]; i = (i + 1) & (n_slots - 1)) {
        bool equal;
        if (!jinja_charge(j, 1) || !jinja_equal(j, &keys->at[slot[i] - 1], key, &equal))
            return false;
        if (equal) {
            *is_new = false;
            return true;
        }
    }
    *is_new = true;
    slot[i] = (uint32_t)keys->n + 1;
    return jinja_list_add(j, keys, *key);
}

static bool filter_unique(struct jinja *j, const struct value *self, struct args *a,
                          struct value *out)
{
    struct list *items, *keys = jinja_list_new(j, 0), *kept = jinja_list_new(j, 0);
    size_t n_slots = 16;
    if (!keys || !kept || !jinja_items(j, self, &items))
        return false;
    while (n_slots < items->n * 2)
        n_slots *= 2;
    uint32_t *slot = jinja_take(j, n_slots * sizeof *slot);
    if (!slot || !jinja_charge(j, items->n / 4))
        return false;
    for (size_t i = 0; i < items->n; i++) {
        struct value key;
        bool is_new;
        if (!make_key(j, &items->at[i], &a->pos[1], &a->pos[0], &key))
            return false;
        if (key.kind == VALUE_LIST || key.kind == VALUE_DICT)
            return jinja_fail(j, STATUS_BAD_INPUT, "unhashable type: '%s'", value_type(&key));
        if (!add_key(j, keys, slot, n_slots, &key, &is_new) ||
            (is_new && !jinja_list_add(j, kept, items->at[i])))
            return false;
    }
    return out_list(VALUE_ITER, kept, out);
}

/* --- One of many --- */

static bool extreme(struct jinja *j, const struct value *self, struct args *a, int sign,
                    struct value *out)
{
    struct list *items;
    struct value best, key;
    if (!jinja_items(j, self, &items) || !jinja_charge(j, items->n / 8))
        return false;
    *out = value_undefined("no aggregated item, sequence was empty");
    for (size_t i = 0; i < items->n; i++) {
        int order = -1;
        if (!make_key(j, &items->at[i], &a->pos[1], &a->pos[0], &key) ||
            (i && !jinja_order(j, &key, &best, &order)))
            return false;
        if (i == 0 || (order != 2 && order * sign > 0)) {
            best = key;
            *out = items->at[i];
        }
    }
    return true;
}

static bool filter_min(struct jinja *j, const struct value *self, struct args *a, struct value *out)
{
    return extreme(j, self, a, -1, out);
}

static bool filter_max(struct jinja *j, const struct value *self, struct args *a, struct value *out)
{
    return extreme(j, self, a, 1, out);
}

static bool filter_first(struct jinja *j, const struct value *self, struct args *a,
                         struct value *out)
{
    (void)a;
    struct list *items;
    if (self->kind == VALUE_ITER) { /* takes one item and leaves the rest */
        struct list *l = self->list;
        *out = l->first < l->n ? l->at[l->first++] : value_undefined("sequence was empty");
        return true;
    }
    if (!jinja_items(j, self, &items))
        return false;
    *out = items->n ? items->at[0] : value_undefined("No first item, sequence was empty.");
    return true;
}

static bool filter_last(struct jinja *j, const struct value *self, struct args *a,
                        struct value *out)
{
    (void)a;
    struct list *items;
    if (self->kind == VALUE_ITER)
        return jinja_fail(j, STATUS_BAD_INPUT, "'generator' object is not reversible");
    if (!jinja_items(j, self, &items))
        return false;
    *out =
        items->n ? items->at[items->n - 1] : value_undefined("No last item, sequence was empty.");
    return true;
}

static bool filter_sum(struct jinja *j, const struct value *self, struct args *a, struct value *out)
{
    struct list *items;
    struct value key, no = {0}, keep = value_bool(true);
    if (!jinja_items(j, self, &items) || !jinja_charge(j, items->n / 8))
        return false;
    *out = a->pos[1].kind == VALUE_MISSING ? value_int(0) : a->pos[1];
    if (out->kind == VALUE_TEXT)
        return jinja_fail(j, STATUS_BAD_INPUT, "sum cannot add strings");
    const struct value *path = a->pos[0].kind == VALUE_MISSING ? &no : &a->pos[0];
    for (size_t i = 0; i < items->n; i++) {
        struct value total = *out;
        if (!make_key(j, &items->at[i], path, &keep, &key) ||
            !jinja_binary(j, '+', &total, &key, out))
            return false;
    }
    return true;
}

/* --- All of them, otherwise --- */

static bool filter_list(struct jinja *j, const struct value *self, struct args *a,
                        struct value *out)
{
    (void)a;
    struct list *items;
    if (!jinja_items(j, self, &items))
        return false;
    struct list *copy = jinja_list_new(j, items->n);
    if (!copy || !jinja_charge(j, items->n / 16))
        return false;
    if (items->n)
        memcpy(copy->at, items->at, items->n * sizeof *copy->at);
    copy->n = items->n;
    copy->caller = items->caller;
    return out_list(VALUE_LIST, copy, out);
}

static bool filter_reverse(struct jinja *j, const struct value *self, struct args *a,
                           struct value *out)
{
    (void)a;
    struct value all = {0}, by = value_int(-1), items;
    if (self->kind == VALUE_TEXT)
        return jinja_slice(j, self, (struct value[3]){all, all, by}, out);
    if (!filter_list(j, self, a, &items) ||
        !jinja_slice(j, &items, (struct value[3]){all, all, by}, out))
        return false;
    out->kind = VALUE_ITER;
    return true;
}

static bool filter_join(struct jinja *j, const struct value *self, struct args *a,
                        struct value *out)
{
    struct value nothing;
    struct text *between;
    if (!value_from_word(j, "", &nothing))
        return false;
    const struct value *attribute = a->pos[1].kind == VALUE_MISSING ? NULL : &a->pos[1];
    return jinja_to_text(j, a->pos[0].kind == VALUE_MISSING ? &nothing : &a->pos[0], &between) &&
           jinja_join(j, self, between, attribute, false, out);
}

static bool filter_items(struct jinja *j, const struct value *self, struct args *a,
                         struct value *out)
{
    (void)a;
    struct list *l = jinja_list_new(j, self->kind == VALUE_DICT ? self->dict->n : 0);
    if (self->kind != VALUE_DICT && self->kind != VALUE_UNDEFINED)
        return jinja_fail(j, STATUS_BAD_INPUT, "Can only get item pairs from a mapping.");
    for (size_t i = 0; l && self->kind == VALUE_DICT && i < self->dict->n; i++) {
        struct value pair;
        if (!make_tuple(j, &self->dict->at[i].key, &self->dict->at[i].value, &pair) ||
            !jinja_list_add(j, l, pair))
            return false;
    }
    return out_list(VALUE_ITER, l, out);
}

static bool filter_batch(struct jinja *j, const struct value *self, struct args *a,
                         struct value *out)
{
    struct list *items, *rows = jinja_list_new(j, 0), *row = NULL;
    int64_t n;
    if (!rows || !jinja_items(j, self, &items) || !jinja_arg_int(j, &a->pos[0], 1, &n))
        return false;
    if (n < 1)
        return jinja_fail(j, STATUS_BAD_INPUT, "batch needs a size of at least 1");
    for (size_t i = 0; i < items->n; i++) {
        if (i % (size_t)n == 0) {
            row = jinja_list_new(j, 0);
            if (!row || !jinja_list_add(j, rows, value_list(VALUE_LIST, row)))
                return false;
        }
        if (!jinja_list_add(j, row, items->at[i]))
            return false;
    }
    bool fills = a->pos[1].kind != VALUE_MISSING && a->pos[1].kind != VALUE_NONE;
    while (row && fills && row->n < (size_t)n) {
        if (!jinja_charge(j, 1) || !jinja_list_add(j, row, a->pos[1]))
            return false;
    }
    return out_list(VALUE_ITER, rows, out);
}

/* --- map, select, reject --- */

static struct kwarg *find_kwarg(struct args *a, const char *word)
{
    for (size_t i = 0; i < a->n_kw; i++) {
        if (a->kw[i].n == strlen(word) && memcmp(a->kw[i].at, word, a->kw[i].n) == 0)
            return &a->kw[i];
    }
    return NULL;
}

static bool map_attribute(struct jinja *j, const struct list *items, struct args *a,
                          struct list *to)
{
    const struct kwarg *path = find_kwarg(a, "attribute"), *fallback = find_kwarg(a, "default");
    if (!path || a->n_kw > 1u + (fallback != NULL))
        return jinja_fail(j, STATUS_BAD_INPUT, "map needs a filter or an attribute");
    for (size_t i = 0; i < items->n; i++) {
        struct value v;
        if (!jinja_charge(j, 1) || !jinja_path_get(j, &items->at[i], &path->value, &v))
            return false;
        if (v.kind == VALUE_UNDEFINED && fallback && fallback->value.kind != VALUE_NONE)
            v = fallback->value;
        if (!jinja_list_add(j, to, v))
            return false;
    }
    return true;
}

static bool map_filter(struct jinja *j, const struct list *items, struct args *a, struct list *to)
{
    const struct value *name = &a->pos[0];
    const struct builtin *f =
        name->kind == VALUE_TEXT ? jinja_filter_find(name->text->at, name->text->n) : NULL;
    if (!f)
        return jinja_fail(j, STATUS_BAD_INPUT, "map: no such filter");
    struct args rest = {.pos = a->pos + 1, .n = a->n - 1, .kw = a->kw, .n_kw = a->n_kw};
    for (size_t i = 0; i < items->n; i++) {
        struct value v;
        if (!jinja_charge(j, 1) || !jinja_call_builtin(j, f, &items->at[i], &rest, &v) ||
            !jinja_list_add(j, to, v))
            return false;
    }
    return true;
}

static bool filter_map(struct jinja *j, const struct value *self, struct args *a, struct value *out)
{
    struct list *items, *to = jinja_list_new(j, 0);
    bool truth;
    if (!to || !jinja_truth(j, self, &truth))
        return false;
    if (!truth)
        return out_list(VALUE_ITER, to, out);
    if (j->n_eval == JINJA_EVAL_MAX)
        return jinja_fail(j, STATUS_TOO_LARGE, "evaluation is nested more than %d deep",
                          JINJA_EVAL_MAX);
    j->n_eval++; /* map("map", "map", ...) calls itself */
    bool ok = jinja_items(j, self, &items) &&
              (a->n ? map_filter(j, items, a, to) : map_attribute(j, items, a, to));
    j->n_eval--;
    return ok && out_list(VALUE_ITER, to, out);
}

/* Keeps the items whose test (or, without one, whose truth) equals `keep`. */
static bool select_items(struct jinja *j, const struct value *self, struct args *a,
                         const struct value *path, bool keep, struct value *out)
{
    struct list *items, *to = jinja_list_new(j, 0);
    size_t n_used = path ? 1 : 0;
    const struct builtin *test = NULL;
    bool truth;
    if (!to || !jinja_truth(j, self, &truth))
        return false;
    if (!truth)
        return out_list(VALUE_ITER, to, out);
    if (a->n > n_used) {
        const struct value *name = &a->pos[n_used++];
        test = name->kind == VALUE_TEXT ? jinja_test_find(name->text->at, name->text->n) : NULL;
        if (!test)
            return jinja_fail(j, STATUS_BAD_INPUT, "select: no such test");
    }
    struct args rest = {
        .pos = n_used ? a->pos + n_used : NULL, .n = a->n - n_used, .kw = a->kw, .n_kw = a->n_kw};
    if (!jinja_items(j, self, &items))
        return false;
    for (size_t i = 0; i < items->n; i++) {
        struct value v = items->at[i], result;
        if (!jinja_charge(j, 1) || (path && !jinja_path_get(j, &items->at[i], path, &v)))
            return false;
        result = v;
        if ((test && !jinja_call_builtin(j, test, &v, &rest, &result)) ||
            !jinja_truth(j, &result, &truth) ||
            (truth == keep && !jinja_list_add(j, to, items->at[i])))
            return false;
    }
    return out_list(VALUE_ITER, to, out);
}

static bool filter_select(struct jinja *j, const struct value *self, struct args *a,
                          struct value *out)
{
    return select_items(j, self, a, NULL, true, out);
}

static bool filter_reject(struct jinja *j, const struct value *self, struct args *a,
                          struct value *out)
{
    return select_items(j, self, a, NULL, false, out);
}

static bool select_by_attribute(struct jinja *j, const struct value *self, struct args *a,
                                bool keep, struct value *out)
{
    if (a->n == 0)
        return jinja_fail(j, STATUS_BAD_INPUT, "missing parameter for attribute name");
    return select_items(j, self, a, &a->pos[0], keep, out);
}

static bool filter_selectattr(struct jinja *j, const struct value *self, struct args *a,
                              struct value *out)
{
    return select_by_attribute(j, self, a, true, out);
}

static bool filter_rejectattr(struct jinja *j, const struct value *self, struct args *a,
                              struct value *out)
{
    return select_by_attribute(j, self, a, false, out);
}

const struct builtin jinja_list_filters[] = {
    {"sort", filter_sort, {"reverse", "case_sensitive", "attribute"}, 0, false},
    {"dictsort", filter_dictsort, {"case_sensitive", "by", "reverse"}, 0, false},
    {"unique", filter_unique, {"case_sensitive", "attribute"}, 0, false},
    {"min", filter_min, {"case_sensitive", "attribute"}, 0, false},
    {"max", filter_max, {"case_sensitive", "attribute"}, 0, false},
    {"first", filter_first, {0}, 0, false},
    {"last", filter_last, {0}, 0, false},
    {"sum", filter_sum, {"attribute", "start"}, 0, false},
    {"list", filter_list, {0}, 0, false},
    {"reverse", filter_reverse, {0}, 0, false},
    {"join", filter_join, {"d", "attribute"}, 0, false},
    {"items", filter_items, {0}, 0, false},
    {"batch", filter_batch, {"linecount", "fill_with"}, 1, false},
    {"map", filter_map, {0}, 0, true},
    {"select", filter_select, {0}, 0, true},
    {"reject", filter_reject, {0}, 0, true},
    {"selectattr", filter_selectattr, {0}, 0, true},
    {"rejectattr", filter_rejectattr, {0}, 0, true},
    {0},
};
