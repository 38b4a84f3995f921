/* jinja_print.c - values as text: Python's str and repr, and json.dumps. */
#include "engine/jinja_int.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/jinja_utf8.h"

/* The fewest digits that read back as f, as "d.ddde+XX". */
static void shortest(double f, char *digits, size_t n)
{
    for (int precision = 0; precision <= 16; precision++) {
        snprintf(digits, n, "%.*e", precision, f);
        double back = strtod(digits, NULL);
        if (back >= f && back <= f)
            return;
    }
}

size_t jinja_float_text(double f, char out[32])
{
    if (isnan(f) || isinf(f))
        return (size_t)snprintf(out, 32, "%s", isnan(f) ? "nan" : f > 0 ? "inf" : "-inf");
    char digits[32];
    shortest(f, digits, sizeof digits);
    char *e = strchr(digits, 'e');
    const int exponent = (int)strtol(e + 1, NULL, 10); /* of text that printf wrote */
    if (exponent < -4 || exponent >= 16) {
        *e = 0;
        return (size_t)snprintf(out, 32, "%se%c%02d", digits, exponent < 0 ? '-' : '+',
                                abs(exponent));
    }
    int n_significant = 0;
    for (char *c = digits; c < e; c++)
        n_significant += *c >= '0' && *c <= '9';
    int n_after = n_significant - 1 - exponent;
    return (size_t)snprintf(out, 32, "%.*f", n_after > 1 ? n_after : 1, f);
}

static bool put_word(struct build *b, const char *word, bool trusted)
{
    return jinja_build_put(b, word, strlen(word), trusted);
}

static bool put_number(struct build *b, const struct value *v)
{
    char word[32];
    if (v->kind == VALUE_BOOL)
        return put_word(b, v->b ? "True" : "False", !v->caller);
    if (v->kind == VALUE_INT)
        snprintf(word, sizeof word, "%" PRId64, v->i);
    else
        jinja_float_text(v->f, word);
    return put_word(b, word, !v->caller);
}

/* --- repr --- */

/* What repr writes for character cp in `quote`s; 0 = the character itself. */
static size_t repr_escape(uint32_t cp, char quote, char out[12])
{
    if (cp == (unsigned char)quote || cp == '\\')
        return (size_t)snprintf(out, 12, "\\%c", (int)cp);
    if (cp == '\n' || cp == '\r' || cp == '\t')
        return (size_t)snprintf(out, 12, "\\%c", cp == '\n' ? 'n' : cp == '\r' ? 'r' : 't');
    if (jinja_utf8_is_printable(cp))
        return 0;
    return (size_t)snprintf(out, 12,
                            cp < 0x100     ? "\\x%02x"
                            : cp < 0x10000 ? "\\u%04x"
                                           : "\\U%08x",
                            cp);
}

static bool put_quoted(struct build *b, const struct text *t)
{
    char quote = memchr(t->at, '\'', t->n) && !memchr(t->at, '"', t->n) ? '"' : '\'';
    size_t end, whole = 0;
    bool trusted = t->n ? jinja_text_trusted(t, 0, &end) : (!t->of && t->trusted);
    if (!jinja_build_put(b, &quote, 1, trusted))
        return false;
    for (size_t at = 0; at < t->n;) {
        uint32_t cp;
        char escape[12];
        size_t len = jinja_utf8_next(t->at + at, t->n - at, &cp);
        size_t n = repr_escape(cp, quote, escape);
        if (n) {
            trusted = jinja_text_trusted(t, at, &end);
            if (!jinja_build_text(b, t, whole, at) || !jinja_build_put(b, escape, n, trusted))
                return false;
            whole = at + len;
        }
        at += len;
    }
    return jinja_build_text(b, t, whole, t->n) && jinja_build_put(b, &quote, 1, trusted);
}

static bool put_list(struct build *b, const struct list *l, const char *open, const char *close)
{
    bool trusted = !l->caller;
    if (!put_word(b, open, trusted))
        return false;
    for (size_t i = 0; i < l->n; i++) {
        if ((i && !put_word(b, ", ", trusted)) || !jinja_put_repr(b, &l->at[i]))
            return false;
    }
    return put_word(b, close, trusted);
}

static bool put_dict(struct build *b, const struct dict *d)
{
    bool trusted = !d->caller;
    if (!put_word(b, "{", trusted))
        return false;
    for (size_t i = 0; i < d->n; i++) {
        if ((i && !put_word(b, ", ", trusted)) || !jinja_put_repr(b, &d->at[i].key) ||
            !put_word(b, ": ", trusted) || !jinja_put_repr(b, &d->at[i].value))
            return false;
    }
    return put_word(b, "}", trusted);
}

static bool put_nested(struct build *b, const struct value *v)
{
    bool ok;
    if (!jinja_enter(b->j) || !jinja_charge(b->j, 1))
        return false;
    if (v->kind == VALUE_DICT)
        ok = put_dict(b, v->dict);
    else if (v->kind == VALUE_NAMESPACE)
        ok = put_word(b, "<Namespace ", true) && put_dict(b, v->dict) && put_word(b, ">", true);
    else if (v->kind == VALUE_LIST)
        ok = put_list(b, v->list, "[", "]");
    else if (v->kind == VALUE_TUPLE)
        ok = put_list(b, v->list, "(", v->list->n == 1 ? ",)" : ")");
    else
        ok = put_word(b, v->list->view, true) && put_list(b, v->list, "([", "])");
    jinja_leave(b->j);
    return ok;
}

static bool put_range(struct build *b, const struct range *r)
{
    char word[100];
    if (r->step == 1)
        snprintf(word, sizeof word, "range(%" PRId64 ", %" PRId64 ")", r->start, r->stop);
    else
        snprintf(word, sizeof word, "range(%" PRId64 ", %" PRId64 ", %" PRId64 ")", r->start,
                 r->stop, r->step);
    return put_word(b, word, true);
}

bool jinja_put_repr(struct build *b, const struct value *v)
{
    char word[64];
    switch (v->kind) {
    case VALUE_UNDEFINED:
        return put_word(b, "Undefined", true);
    case VALUE_NONE:
        return put_word(b, "None", true);
    case VALUE_BOOL:
    case VALUE_INT:
    case VALUE_FLOAT:
        return put_number(b, v);
    case VALUE_TEXT:
        return put_quoted(b, v->text);
    case VALUE_LIST:
    case VALUE_TUPLE:
    case VALUE_VIEW:
    case VALUE_DICT:
    case VALUE_NAMESPACE:
        return put_nested(b, v);
    case VALUE_RANGE:
        return put_range(b, v->range);
    default:
        snprintf(word, sizeof word, "<%s>", value_type(v));
        return put_word(b, word, true);
    }
}

bool jinja_put_value(struct build *b, const struct value *v)
{
    if (v->kind == VALUE_TEXT)
        return jinja_build_text(b, v->text, 0, v->text->n);
    return v->kind == VALUE_UNDEFINED || jinja_put_repr(b, v);
}

bool jinja_to_text(struct jinja *j, const struct value *v, struct text **out)
{
    if (v->kind == VALUE_TEXT) {
        *out = v->text;
        return true;
    }
    struct build b;
    return jinja_build_open(j, &b) && jinja_put_value(&b, v) && (*out = jinja_build_end(&b));
}

/* --- JSON --- */

/* What json.dumps writes for character cp; 0 = the character itself. */
static size_t json_escape(uint32_t cp, bool ascii, char out[16])
{
    static const char from[] = "\"\\\n\r\t\f\b", to[] = "\"\\nrtfb";
    const char *plain = cp && cp < 0x80 ? strchr(from, (int)cp) : NULL;
    if (plain)
        return (size_t)snprintf(out, 16, "\\%c", to[plain - from]);
    if (cp < 0x20 || (ascii && cp > 0x7E && cp < 0x10000))
        return cp == 0x7F ? 0 : (size_t)snprintf(out, 16, "\\u%04x", cp);
    if (ascii && cp >= 0x10000)
        return (size_t)snprintf(out, 16, "\\u%04x\\u%04x", 0xD7C0 + (cp >> 10),
                                0xDC00 + (cp & 0x3FF));
    return 0;
}

static bool put_json_text(struct build *b, const struct text *t, bool ascii)
{
    size_t end, whole = 0;
    bool trusted = t->n ? jinja_text_trusted(t, 0, &end) : (!t->of && t->trusted);
    if (!put_word(b, "\"", trusted))
        return false;
    for (size_t at = 0; at < t->n;) {
        uint32_t cp;
        char escape[16];
        size_t len = jinja_utf8_next(t->at + at, t->n - at, &cp);
        size_t n = json_escape(cp, ascii, escape);
        if (n) {
            trusted = jinja_text_trusted(t, at, &end);
            if (!jinja_build_text(b, t, whole, at) || !jinja_build_put(b, escape, n, trusted))
                return false;
            whole = at + len;
        }
        at += len;
    }
    return jinja_build_text(b, t, whole, t->n) && put_word(b, "\"", trusted);
}

static bool put_json_number(struct build *b, const struct value *v)
{
    if (v->kind == VALUE_BOOL)
        return put_word(b, v->b ? "true" : "false", !v->caller);
    if (v->kind == VALUE_FLOAT && (isnan(v->f) || isinf(v->f)))
        return put_word(b, isnan(v->f) ? "NaN" : v->f > 0 ? "Infinity" : "-Infinity", !v->caller);
    return put_number(b, v);
}

static bool put_json_key(struct build *b, const struct value *key, bool ascii)
{
    if (key->kind == VALUE_TEXT)
        return put_json_text(b, key->text, ascii);
    if (!value_is_number(key) && key->kind != VALUE_NONE)
        return jinja_fail(b->j, STATUS_BAD_INPUT,
                          "keys must be str, int, float, bool or None, not %s", value_type(key));
    return put_word(b, "\"", true) &&
           (key->kind == VALUE_NONE ? put_word(b, "null", true) : put_json_number(b, key)) &&
           put_word(b, "\"", true);
}

static bool put_json_separator(struct build *b, const struct text *separator, bool trusted)
{
    return trusted ? jinja_build_text(b, separator, 0, separator->n)
                   : jinja_build_put(b, separator->at, separator->n, false);
}

/* The start of a line inside the container of depth n_depth. */
static bool put_line(struct build *b, const struct json_style *style, bool trusted)
{
    if (!style->has_indent)
        return true;
    if (!put_word(b, "\n", trusted))
        return false;
    for (uint32_t i = 0; i < b->j->n_depth; i++) {
        if (!put_json_separator(b, style->indent, trusted))
            return false;
    }
    return true;
}

static bool put_json_list(struct build *b, const struct list *l, const struct json_style *style)
{
    bool trusted = !l->caller;
    if (l->n == 0)
        return put_word(b, "[]", trusted);
    if (!put_word(b, "[", trusted) || !jinja_enter(b->j))
        return false;
    for (size_t i = 0; i < l->n; i++) {
        if ((i && !put_json_separator(b, style->item_separator, trusted)) ||
            !put_line(b, style, trusted) || !jinja_put_json(b, &l->at[i], style))
            return false;
    }
    jinja_leave(b->j);
    return put_line(b, style, trusted) && put_word(b, "]", trusted);
}

/* Insertion sort is enough: the number of keys is small, and each move is charged. */
static bool sort_pairs(struct jinja *j, const struct dict *d, struct dict **out)
{
    struct dict *sorted = jinja_dict_new(j, d->n);
    if (!sorted)
        return false;
    sorted->caller = d->caller;
    for (size_t i = 0; i < d->n; i++) {
        size_t at = sorted->n++;
        for (; at > 0; at--) {
            int order;
            if (!jinja_charge(j, 1) ||
                !jinja_order(j, &d->at[i].key, &sorted->at[at - 1].key, &order))
                return false;
            if (order >= 0)
                break;
            sorted->at[at] = sorted->at[at - 1];
        }
        sorted->at[at] = d->at[i];
    }
    *out = sorted;
    return true;
}

static bool put_json_dict(struct build *b, struct dict *d, const struct json_style *style)
{
    bool trusted = !d->caller;
    if (d->n == 0)
        return put_word(b, "{}", trusted);
    if (style->sort_keys && !sort_pairs(b->j, d, &d))
        return false;
    if (!put_word(b, "{", trusted) || !jinja_enter(b->j))
        return false;
    for (size_t i = 0; i < d->n; i++) {
        if ((i && !put_json_separator(b, style->item_separator, trusted)) ||
            !put_line(b, style, trusted) || !put_json_key(b, &d->at[i].key, style->ascii) ||
            !put_json_separator(b, style->key_separator, trusted) ||
            !jinja_put_json(b, &d->at[i].value, style))
            return false;
    }
    jinja_leave(b->j);
    return put_line(b, style, trusted) && put_word(b, "}", trusted);
}

bool jinja_put_json(struct build *b, const struct value *v, const struct json_style *style)
{
    if (!jinja_charge(b->j, 1))
        return false;
    switch (v->kind) {
    case VALUE_NONE:
        return put_word(b, "null", true);
    case VALUE_BOOL:
    case VALUE_INT:
    case VALUE_FLOAT:
        return put_json_number(b, v);
    case VALUE_TEXT:
        return put_json_text(b, v->text, style->ascii);
    case VALUE_LIST:
    case VALUE_TUPLE:
        return put_json_list(b, v->list, style);
    case VALUE_DICT:
        return put_json_dict(b, v->dict, style);
    default:
        return jinja_fail(b->j, STATUS_BAD_INPUT, "Object of type %s is not JSON serializable",
                          value_type(v));
    }
}
