/* jinja_value.c - lists, dicts, and what Python's ==, <, in, len and iter say about values. */
#include "engine/jinja_int.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <string.h>

#include "base/hash.h"
#include "engine/jinja_utf8.h"

struct value value_none(void)
{
    return (struct value){.kind = VALUE_NONE};
}

struct value value_bool(bool b)
{
    return (struct value){.kind = VALUE_BOOL, .b = b};
}

struct value value_int(int64_t i)
{
    return (struct value){.kind = VALUE_INT, .i = i};
}

struct value value_float(double f)
{
    return (struct value){.kind = VALUE_FLOAT, .f = f};
}

struct value value_text(struct text *t)
{
    return (struct value){.kind = VALUE_TEXT, .text = t};
}

struct value value_list(enum value_kind kind, struct list *l)
{
    return (struct value){.kind = (uint8_t)kind, .list = l};
}

struct value value_undefined(const char *why)
{
    return (struct value){.kind = VALUE_UNDEFINED, .why = why};
}

bool value_from_word(struct jinja *j, const char *word, struct value *out)
{
    *out = value_text(jinja_text_new(j, word, strlen(word), true));
    return out->text != NULL;
}

const char *value_type(const struct value *v)
{
    static const char *const names[] = {
        [VALUE_MISSING] = "missing",
        [VALUE_UNDEFINED] = "Undefined",
        [VALUE_NONE] = "NoneType",
        [VALUE_BOOL] = "bool",
        [VALUE_INT] = "int",
        [VALUE_FLOAT] = "float",
        [VALUE_TEXT] = "str",
        [VALUE_LIST] = "list",
        [VALUE_TUPLE] = "tuple",
        [VALUE_VIEW] = "dict view",
        [VALUE_ITER] = "generator",
        [VALUE_DICT] = "dict",
        [VALUE_NAMESPACE] = "Namespace",
        [VALUE_RANGE] = "range",
        [VALUE_LOOP] = "LoopContext",
        [VALUE_MACRO] = "Macro",
        [VALUE_FUNCTION] = "function",
        [VALUE_METHOD] = "method",
    };
    return names[v->kind];
}

bool value_is_listlike(const struct value *v)
{
    return v->kind >= VALUE_LIST && v->kind <= VALUE_ITER;
}

bool value_is_integer(const struct value *v)
{
    return v->kind == VALUE_INT || v->kind == VALUE_BOOL;
}

bool value_is_number(const struct value *v)
{
    return v->kind == VALUE_FLOAT || value_is_integer(v);
}

double value_as_float(const struct value *v)
{
    return v->kind == VALUE_FLOAT ? v->f : v->kind == VALUE_BOOL ? v->b : (double)v->i;
}

static int64_t as_int(const struct value *v)
{
    return v->kind == VALUE_BOOL ? v->b : v->i;
}

bool value_is_caller(const struct value *v)
{
    if (v->kind == VALUE_DICT)
        return v->dict->caller;
    if (value_is_listlike(v))
        return v->list->caller;
    return value_is_number(v) && v->caller;
}

/* --- Lists and dicts --- */

struct list *jinja_list_new(struct jinja *j, size_t n_cap)
{
    struct list *l = jinja_take(j, sizeof *l);
    if (!l || n_cap == 0)
        return l;
    if (n_cap > JINJA_VALUES_MAX / sizeof *l->at) {
        jinja_take(j, SIZE_MAX);
        return NULL;
    }
    l->at = jinja_take(j, n_cap * sizeof *l->at);
    l->n_cap = n_cap;
    return l->at ? l : NULL;
}

bool jinja_list_add(struct jinja *j, struct list *l, struct value v)
{
    if (l->n == l->n_cap) {
        size_t cap = l->n_cap ? l->n_cap * 2 : 8;
        struct value *wider = jinja_take(j, cap * sizeof *wider);
        if (!wider)
            return false;
        if (l->n)
            memcpy(wider, l->at, l->n * sizeof *wider);
        l->at = wider;
        l->n_cap = cap;
    }
    l->at[l->n++] = v;
    return true;
}

struct dict *jinja_dict_new(struct jinja *j, size_t n_cap)
{
    struct dict *d = jinja_take(j, sizeof *d);
    if (!d || n_cap == 0)
        return d;
    if (n_cap > JINJA_VALUES_MAX / sizeof *d->at) {
        jinja_take(j, SIZE_MAX);
        return NULL;
    }
    d->at = jinja_take(j, n_cap * sizeof *d->at);
    d->n_cap = n_cap;
    return d->at ? d : NULL;
}

static bool add_pair(struct jinja *j, struct dict *d, struct value key, struct value v)
{
    if (d->n == d->n_cap) {
        size_t cap = d->n_cap ? d->n_cap * 2 : 4;
        struct pair *wider = jinja_take(j, cap * sizeof *wider);
        if (!wider)
            return false;
        if (d->n)
            memcpy(wider, d->at, d->n * sizeof *wider);
        d->at = wider;
        d->n_cap = cap;
    }
    d->at[d->n++] = (struct pair){key, v};
    return true;
}

struct value *jinja_dict_find(const struct dict *d, const char *at, size_t n)
{
    for (size_t i = 0; i < d->n; i++) {
        const struct value *key = &d->at[i].key;
        if (key->kind == VALUE_TEXT && key->text->n == n && memcmp(key->text->at, at, n) == 0)
            return &d->at[i].value;
    }
    return NULL;
}

bool jinja_dict_get(struct jinja *j, const struct dict *d, const struct value *key,
                    struct value **found)
{
    *found = NULL;
    if (key->kind == VALUE_LIST || key->kind == VALUE_DICT)
        return jinja_fail(j, STATUS_BAD_INPUT, "unhashable type: '%s'", value_type(key));
    if (!jinja_charge(j, d->n / 32))
        return false;
    if (key->kind == VALUE_TEXT) {
        *found = jinja_dict_find(d, key->text->at, key->text->n);
        return true;
    }
    for (size_t i = 0; i < d->n; i++) {
        bool equal;
        if (d->at[i].key.kind == VALUE_TEXT)
            continue;
        if (!jinja_equal(j, &d->at[i].key, key, &equal))
            return false;
        if (equal) {
            *found = &d->at[i].value;
            return true;
        }
    }
    return true;
}

bool jinja_dict_set(struct jinja *j, struct dict *d, struct value key, struct value v)
{
    struct value *found;
    if (!jinja_dict_get(j, d, &key, &found))
        return false;
    if (!found)
        return add_pair(j, d, key, v);
    *found = v;
    return true;
}

/* --- Truth, equality, order --- */

bool jinja_truth(struct jinja *j, const struct value *v, bool *truth)
{
    size_t n;
    switch (v->kind) {
    case VALUE_NONE:
    case VALUE_UNDEFINED:
        *truth = false;
        return true;
    case VALUE_BOOL:
        *truth = v->b;
        return true;
    case VALUE_INT:
        *truth = v->i != 0;
        return true;
    case VALUE_FLOAT:
        *truth = v->f != 0;
        return true;
    case VALUE_TEXT:
        *truth = v->text->n > 0;
        return true;
    case VALUE_LIST:
    case VALUE_TUPLE:
    case VALUE_VIEW:
    case VALUE_DICT:
    case VALUE_RANGE:
    case VALUE_LOOP:
        if (!jinja_length(j, v, &n))
            return false;
        *truth = n > 0;
        return true;
    default:
        *truth = true;
        return true;
    }
}

static bool equal_lists(struct jinja *j, const struct list *a, const struct list *b, bool *equal)
{
    *equal = a->n == b->n;
    for (size_t i = 0; i < a->n && *equal; i++) {
        if (!jinja_equal(j, &a->at[i], &b->at[i], equal))
            return false;
    }
    return true;
}

static bool equal_dicts(struct jinja *j, const struct dict *a, const struct dict *b, bool *equal)
{
    *equal = a->n == b->n;
    for (size_t i = 0; i < a->n && *equal; i++) {
        struct value *other;
        if (!jinja_dict_get(j, b, &a->at[i].key, &other))
            return false;
        *equal = other != NULL;
        if (other && !jinja_equal(j, &a->at[i].value, other, equal))
            return false;
    }
    return true;
}

static bool equal_numbers(const struct value *a, const struct value *b)
{
    if (value_is_integer(a) && value_is_integer(b))
        return as_int(a) == as_int(b);
    double x = value_as_float(a), y = value_as_float(b);
    return x >= y && x <= y;
}

static bool equal_nested(struct jinja *j, const struct value *a, const struct value *b, bool *equal)
{
    if (!jinja_enter(j) || !jinja_charge(j, 1))
        return false;
    bool ok = a->kind == VALUE_DICT ? equal_dicts(j, a->dict, b->dict, equal)
                                    : equal_lists(j, a->list, b->list, equal);
    jinja_leave(j);
    return ok;
}

bool jinja_equal(struct jinja *j, const struct value *a, const struct value *b, bool *equal)
{
    if (value_is_number(a) && value_is_number(b)) {
        *equal = equal_numbers(a, b);
        return true;
    }
    *equal = a->kind == b->kind;
    if (!*equal)
        return true;
    switch (a->kind) {
    case VALUE_UNDEFINED:
    case VALUE_NONE:
        return true;
    case VALUE_TEXT:
        *equal = jinja_text_equal(a->text, b->text);
        return jinja_charge(j, a->text->n / 256);
    case VALUE_DICT:
    case VALUE_LIST:
    case VALUE_TUPLE:
        return equal_nested(j, a, b, equal);
    case VALUE_RANGE:
        *equal = a->range->n == b->range->n &&
                 (a->range->n == 0 || (a->range->start == b->range->start &&
                                       (a->range->n == 1 || a->range->step == b->range->step)));
        return true;
    case VALUE_FUNCTION:
        *equal = a->function == b->function;
        return true;
    default:
        *equal = a->list == b->list; /* the same object */
        return true;
    }
}

static bool order_lists(struct jinja *j, const struct list *a, const struct list *b, int *order)
{
    for (size_t i = 0; i < a->n && i < b->n; i++) {
        bool equal;
        if (!jinja_equal(j, &a->at[i], &b->at[i], &equal))
            return false;
        if (!equal)
            return jinja_order(j, &a->at[i], &b->at[i], order);
    }
    *order = (a->n > b->n) - (a->n < b->n);
    return true;
}

static int order_text(const struct text *a, const struct text *b)
{
    int order = memcmp(a->at, b->at, a->n < b->n ? a->n : b->n); /* UTF-8 sorts as code points do */
    return order ? order : (a->n > b->n) - (a->n < b->n);
}

bool jinja_order(struct jinja *j, const struct value *a, const struct value *b, int *order)
{
    if (value_is_integer(a) && value_is_integer(b)) {
        *order = (as_int(a) > as_int(b)) - (as_int(a) < as_int(b));
        return true;
    }
    if (value_is_number(a) && value_is_number(b)) {
        double x = value_as_float(a), y = value_as_float(b);
        *order = isnan(x) || isnan(y) ? 2 : (x > y) - (x < y);
        return true;
    }
    if (a->kind == VALUE_TEXT && b->kind == VALUE_TEXT) {
        *order = order_text(a->text, b->text);
        return jinja_charge(j, (a->text->n < b->text->n ? a->text->n : b->text->n) / 256);
    }
    if (a->kind == b->kind && (a->kind == VALUE_LIST || a->kind == VALUE_TUPLE)) {
        if (!jinja_enter(j) || !jinja_charge(j, 1))
            return false;
        bool ok = order_lists(j, a->list, b->list, order);
        jinja_leave(j);
        return ok;
    }
    if (a->kind == VALUE_UNDEFINED || b->kind == VALUE_UNDEFINED)
        return jinja_fail(j, STATUS_BAD_INPUT, "%s", a->kind == VALUE_UNDEFINED ? a->why : b->why);
    return jinja_fail(j, STATUS_BAD_INPUT, "'%s' and '%s' have no order", value_type(a),
                      value_type(b));
}

bool jinja_contains(struct jinja *j, const struct value *in, const struct value *what, bool *is_in)
{
    if (in->kind == VALUE_TEXT) {
        if (what->kind != VALUE_TEXT)
            return jinja_fail(j, STATUS_BAD_INPUT,
                              "'in <string>' requires string as left operand, not %s",
                              value_type(what));
        *is_in = jinja_text_find(in->text, 0, what->text) != SIZE_MAX;
        return jinja_charge(j, in->text->n / 256);
    }
    if (in->kind == VALUE_DICT) {
        struct value *found;
        if (!jinja_dict_get(j, in->dict, what, &found))
            return false;
        *is_in = found != NULL;
        return true;
    }
    struct list *items;
    if (!jinja_items(j, in, &items) || !jinja_charge(j, items->n / 16))
        return false;
    *is_in = false;
    for (size_t i = 0; i < items->n && !*is_in; i++) {
        if (!jinja_equal(j, &items->at[i], what, is_in))
            return false;
    }
    return true;
}

uint64_t jinja_hash(const struct value *v)
{
    if (v->kind == VALUE_TEXT)
        return hash64(v->text->at, v->text->n, 1);
    if (value_is_number(v)) {
        double f = value_as_float(v);
        f = f == 0 ? 0 : f; /* -0.0 equals 0 */
        return hash64(&f, sizeof f, 2);
    }
    if (v->kind == VALUE_TUPLE)
        return hash64_mix(3 + v->list->n);
    return hash64_mix(v->kind);
}

/* --- Length and iteration --- */

bool jinja_length(struct jinja *j, const struct value *v, size_t *n)
{
    switch (v->kind) {
    case VALUE_UNDEFINED:
        *n = 0;
        return true;
    case VALUE_TEXT:
        *n = jinja_text_chars(v->text);
        return jinja_charge(j, v->text->n / 1024);
    case VALUE_LIST:
    case VALUE_TUPLE:
    case VALUE_VIEW:
        *n = v->list->n;
        return true;
    case VALUE_DICT:
        *n = v->dict->n;
        return true;
    case VALUE_RANGE:
        *n = v->range->n;
        return true;
    case VALUE_LOOP:
        if (!jinja_loop_fill(j, v->loop, SIZE_MAX))
            return false;
        *n = v->loop->items->n;
        return true;
    default:
        return jinja_fail(j, STATUS_BAD_INPUT, "object of type '%s' has no len()", value_type(v));
    }
}

bool jinja_is_iterable(const struct value *v)
{
    return v->kind == VALUE_UNDEFINED || v->kind == VALUE_TEXT || value_is_listlike(v) ||
           v->kind == VALUE_DICT || v->kind == VALUE_RANGE || v->kind == VALUE_LOOP;
}

static bool list_chars(struct jinja *j, struct text *t, struct list **out)
{
    *out = jinja_list_new(j, jinja_text_chars(t));
    if (!*out || !jinja_charge(j, t->n / 16))
        return false;
    uint32_t cp;
    for (size_t at = 0; at < t->n;) {
        size_t len = jinja_utf8_next(t->at + at, t->n - at, &cp);
        struct text *c = jinja_text_slice(j, t, at, at + len);
        if (!c || !jinja_list_add(j, *out, value_text(c)))
            return false;
        at += len;
    }
    return true;
}

static bool list_keys(struct jinja *j, const struct dict *d, struct list **out)
{
    *out = jinja_list_new(j, d->n);
    if (!*out || !jinja_charge(j, d->n / 16))
        return false;
    for (size_t i = 0; i < d->n; i++)
        (*out)->at[i] = d->at[i].key;
    (*out)->n = d->n;
    return true;
}

static bool list_range(struct jinja *j, const struct range *r, struct list **out)
{
    *out = jinja_list_new(j, r->n);
    if (!*out || !jinja_charge(j, r->n / 16))
        return false;
    for (size_t i = 0; i < r->n; i++)
        (*out)->at[i] = value_int(r->start + (int64_t)i * r->step);
    (*out)->n = r->n;
    return true;
}

bool jinja_items(struct jinja *j, const struct value *v, struct list **out)
{
    switch (v->kind) {
    case VALUE_UNDEFINED:
        *out = jinja_list_new(j, 0);
        return *out != NULL;
    case VALUE_TEXT:
        return list_chars(j, v->text, out);
    case VALUE_LIST:
    case VALUE_TUPLE:
    case VALUE_VIEW:
        *out = v->list;
        return true;
    case VALUE_ITER:
        *out = jinja_list_new(j, 0);
        if (!*out)
            return false;
        (*out)->at = v->list->n ? v->list->at + v->list->first : NULL;
        (*out)->n = (*out)->n_cap = v->list->n - v->list->first;
        v->list->first = v->list->n;
        return true;
    case VALUE_DICT:
        return list_keys(j, v->dict, out);
    case VALUE_RANGE:
        return list_range(j, v->range, out);
    default:
        return jinja_fail(j, STATUS_BAD_INPUT, "'%s' object is not iterable", value_type(v));
    }
}

/* --- From JSON --- */

static bool from_json_array(struct jinja *j, const struct cJSON *json, struct value *out)
{
    struct list *l = jinja_list_new(j, (size_t)cJSON_GetArraySize(json));
    if (!l)
        return false;
    l->caller = true;
    for (const struct cJSON *item = json->child; item; item = item->next) {
        struct value v;
        if (!jinja_from_json(j, item, &v) || !jinja_list_add(j, l, v))
            return false;
    }
    *out = value_list(VALUE_LIST, l);
    return true;
}

static bool from_json_object(struct jinja *j, const struct cJSON *json, struct value *out)
{
    struct dict *d = jinja_dict_new(j, (size_t)cJSON_GetArraySize(json));
    if (!d)
        return false;
    d->caller = true;
    for (const struct cJSON *item = json->child; item; item = item->next) {
        struct text *key = jinja_text_new(j, item->string, strlen(item->string), false);
        struct value v;
        if (!key || !jinja_from_json(j, item, &v) || !add_pair(j, d, value_text(key), v))
            return false;
    }
    *out = (struct value){.kind = VALUE_DICT, .dict = d};
    return true;
}

bool jinja_from_json(struct jinja *j, const struct cJSON *json, struct value *out)
{
    bool ok = true;
    if (cJSON_IsString(json)) {
        *out = value_text(jinja_text_new(j, json->valuestring, strlen(json->valuestring), false));
        ok = out->text != NULL;
    } else if (cJSON_IsBool(json)) {
        *out = value_bool(cJSON_IsTrue(json));
    } else if (cJSON_IsNumber(json)) {
        double f = json->valuedouble; /* cJSON keeps no difference between 1 and 1.0 */
        *out = fabs(f) < 0x1p63 && f == trunc(f) ? value_int((int64_t)f) : value_float(f);
    } else if (cJSON_IsArray(json) || cJSON_IsObject(json)) {
        if (!jinja_enter(j))
            return false;
        ok = cJSON_IsArray(json) ? from_json_array(j, json, out) : from_json_object(j, json, out);
        jinja_leave(j);
    } else {
        *out = value_none();
    }
    if (value_is_number(out))
        out->caller = true;
    return ok;
}
