/* jinja_global.c - the functions that every template may call. */
#include "engine/jinja_int.h"

#include <string.h>
#include <time.h>

#include "base/json_scan.h"

static bool range_length(struct jinja *j, struct range *r)
{
    bool up = r->step > 0;
    r->n = 0;
    if (up ? r->start >= r->stop : r->start <= r->stop)
        return true;
    uint64_t span =
        up ? (uint64_t)r->stop - (uint64_t)r->start : (uint64_t)r->start - (uint64_t)r->stop;
    uint64_t step = up ? (uint64_t)r->step : UINT64_C(0) - (uint64_t)r->step;
    uint64_t n = (span - 1) / step + 1;
    if (n > JINJA_RANGE_MAX)
        return jinja_fail(j, STATUS_TOO_LARGE, "range has more than %d items", JINJA_RANGE_MAX);
    r->n = (size_t)n;
    return true;
}

static bool call_range(struct jinja *j, const struct value *self, struct args *a, struct value *out)
{
    (void)self;
    int64_t part[3] = {0, 0, 1};
    if (a->n < 1 || a->n > 3 || a->n_kw)
        return jinja_fail(j, STATUS_BAD_INPUT, "range takes 1 to 3 arguments");
    for (size_t i = 0; i < a->n; i++) {
        if (!value_is_integer(&a->pos[i]))
            return jinja_fail(j, STATUS_BAD_INPUT,
                              "'%s' object cannot be interpreted as an integer",
                              value_type(&a->pos[i]));
        part[a->n == 1 ? 1 : i] = a->pos[i].kind == VALUE_BOOL ? a->pos[i].b : a->pos[i].i;
    }
    if (part[2] == 0)
        return jinja_fail(j, STATUS_BAD_INPUT, "range() arg 3 must not be zero");
    struct range *r = jinja_take(j, sizeof *r);
    if (!r)
        return false;
    *r = (struct range){.start = part[0], .stop = part[1], .step = part[2]};
    *out = (struct value){.kind = VALUE_RANGE, .range = r};
    return range_length(j, r);
}

static bool add_pairs(struct jinja *j, struct dict *d, const struct value *from)
{
    struct list *items, *pair;
    if (from->kind == VALUE_DICT || from->kind == VALUE_NAMESPACE) {
        for (size_t i = 0; i < from->dict->n; i++) {
            if (!jinja_dict_set(j, d, from->dict->at[i].key, from->dict->at[i].value))
                return false;
        }
        return true;
    }
    if (!jinja_items(j, from, &items))
        return false;
    for (size_t i = 0; i < items->n; i++) {
        if (!jinja_items(j, &items->at[i], &pair))
            return false;
        if (pair->n != 2)
            return jinja_fail(j, STATUS_BAD_INPUT, "dict needs pairs, item %zu has %zu parts", i,
                              pair->n);
        if (!jinja_dict_set(j, d, pair->at[0], pair->at[1]))
            return false;
    }
    return true;
}

static bool make_dict(struct jinja *j, struct args *a, enum value_kind kind, struct value *out)
{
    struct dict *d = jinja_dict_new(j, 0);
    if (!d)
        return false;
    if (a->n > 1)
        return jinja_fail(j, STATUS_BAD_INPUT, "dict expected at most 1 argument, got %zu", a->n);
    if (a->n == 1 && !add_pairs(j, d, &a->pos[0]))
        return false;
    for (size_t i = 0; i < a->n_kw; i++) {
        struct text *key = jinja_text_new(j, a->kw[i].at, a->kw[i].n, true);
        if (!key || !jinja_dict_set(j, d, value_text(key), a->kw[i].value))
            return false;
    }
    *out = (struct value){.kind = (uint8_t)kind, .dict = d};
    return true;
}

static bool call_dict(struct jinja *j, const struct value *self, struct args *a, struct value *out)
{
    (void)self;
    return make_dict(j, a, VALUE_DICT, out);
}

static bool call_namespace(struct jinja *j, const struct value *self, struct args *a,
                           struct value *out)
{
    (void)self;
    if (!make_dict(j, a, VALUE_NAMESPACE, out))
        return false;
    for (size_t i = 0; i < out->dict->n; i++) {
        const struct value *key = &out->dict->at[i].key;
        if (key->kind == VALUE_TEXT && key->text->n && key->text->at[0] == '_')
            return jinja_fail(j, STATUS_BAD_INPUT, "namespace attribute starts with _");
    }
    return true;
}

/* The template's own refusal: its words are the whole message. */
static bool call_raise(struct jinja *j, const struct value *self, struct args *a, struct value *out)
{
    (void)self;
    (void)out;
    struct text *t;
    if (!jinja_to_text(j, &a->pos[0], &t))
        return false;
    size_t n = t->n < sizeof j->st->msg ? t->n : sizeof j->st->msg - 1;
    n = utf8_complete(t->at, n);
    return status_fail(j->st, STATUS_BAD_INPUT, "%.*s", (int)n, t->n ? t->at : "");
}

static bool call_strftime_now(struct jinja *j, const struct value *self, struct args *a,
                              struct value *out)
{
    (void)self;
    char pattern[128], word[1024];
    struct tm tm;
    time_t now = (time_t)j->now_unix_s;
    if (a->pos[0].kind != VALUE_TEXT || a->pos[0].text->n >= sizeof pattern ||
        memchr(a->pos[0].text->at, 0, a->pos[0].text->n))
        return jinja_fail(j, STATUS_BAD_INPUT, "strftime_now needs a format under %zu bytes",
                          sizeof pattern);
    memcpy(pattern, a->pos[0].text->at, a->pos[0].text->n);
    pattern[a->pos[0].text->n] = 0;
    if (!gmtime_r(&now, &tm))
        return jinja_fail(j, STATUS_BAD_INPUT, "the time is out of range");
    size_t n = strftime(word, sizeof word, pattern, &tm);
    struct build b;
    if (!jinja_build_open(j, &b) || !jinja_build_put(&b, word, n, true))
        return false;
    *out = value_text(jinja_build_end(&b));
    return out->text != NULL;
}

const struct builtin *jinja_global_find(const char *name, size_t n)
{
    static const struct builtin globals[] = {
        {"range", call_range, {0}, 0, true},
        {"dict", call_dict, {0}, 0, true},
        {"namespace", call_namespace, {0}, 0, true},
        {"raise_exception", call_raise, {"message"}, 1, false},
        {"strftime_now", call_strftime_now, {"format"}, 1, false},
        {0},
    };
    return jinja_find(globals, name, n);
}
