/* jinja_filter.c - filters on one value: text, numbers, JSON; those on sequences are in
 * jinja_list.c. */
#include "engine/jinja_int.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool out_text(struct text *t, struct value *out)
{
    *out = value_text(t);
    return t != NULL;
}

/* --- Text --- */

static bool filter_string(struct jinja *j, const struct value *self, struct args *a,
                          struct value *out)
{
    (void)a;
    struct text *t;
    return jinja_to_text(j, self, &t) && out_text(t, out);
}

static bool filter_trim(struct jinja *j, const struct value *self, struct args *a,
                        struct value *out)
{
    struct text *t;
    return jinja_to_text(j, self, &t) &&
           jinja_strip(j, t, &a->pos[0], STRIP_LEFT | STRIP_RIGHT, out);
}

static bool recase(struct jinja *j, const struct value *self, enum text_case to, struct value *out)
{
    struct text *t;
    return jinja_to_text(j, self, &t) && jinja_recase(j, t, to, out);
}

static bool filter_upper(struct jinja *j, const struct value *self, struct args *a,
                         struct value *out)
{
    (void)a;
    return recase(j, self, CASE_UPPER, out);
}

static bool filter_lower(struct jinja *j, const struct value *self, struct args *a,
                         struct value *out)
{
    (void)a;
    return recase(j, self, CASE_LOWER, out);
}

static bool filter_title(struct jinja *j, const struct value *self, struct args *a,
                         struct value *out)
{
    (void)a;
    return recase(j, self, CASE_TITLE, out);
}

static bool filter_capitalize(struct jinja *j, const struct value *self, struct args *a,
                              struct value *out)
{
    (void)a;
    return recase(j, self, CASE_CAPITAL, out);
}

static bool filter_replace(struct jinja *j, const struct value *self, struct args *a,
                           struct value *out)
{
    struct text *t, *from, *to;
    int64_t n_max;
    return jinja_to_text(j, self, &t) && jinja_to_text(j, &a->pos[0], &from) &&
           jinja_to_text(j, &a->pos[1], &to) && jinja_arg_int(j, &a->pos[2], -1, &n_max) &&
           jinja_replace(j, t, from, to, n_max, out);
}

static bool make_spaces(struct jinja *j, int64_t n, struct text **out)
{
    struct build b;
    if (n > JINJA_TEXT_MAX)
        return jinja_fail(j, STATUS_TOO_LARGE, "text is longer than %d bytes", JINJA_TEXT_MAX);
    if (!jinja_build_open(j, &b) || (n > 0 && !jinja_charge(j, (size_t)n / 16)))
        return false;
    for (int64_t i = 0; i < n; i++) {
        if (!jinja_build_put(&b, " ", 1, true))
            return false;
    }
    return (*out = jinja_build_end(&b)) != NULL;
}

static bool indent_lines(struct build *b, const struct list *lines, const struct text *indent,
                         bool first, bool blank)
{
    for (size_t i = 0; i < lines->n; i++) {
        const struct text *line = lines->at[i].text;
        bool indents = i == 0 ? first : blank || line->n > 0;
        if ((i && !jinja_build_put(b, "\n", 1, true)) ||
            (indents && !jinja_build_text(b, indent, 0, indent->n)) ||
            !jinja_build_text(b, line, 0, line->n))
            return false;
    }
    return true;
}

static bool filter_indent(struct jinja *j, const struct value *self, struct args *a,
                          struct value *out)
{
    struct text *indent = a->pos[0].kind == VALUE_TEXT ? a->pos[0].text : NULL;
    struct text newline = {.at = "\n", .n = 1, .n_chars = 1, .trusted = true};
    struct list *lines;
    struct build b;
    int64_t width = 4;
    bool first, blank;
    if (self->kind != VALUE_TEXT)
        return jinja_fail(j, STATUS_BAD_INPUT, "indent needs a string, not %s", value_type(self));
    if ((!indent &&
         (!jinja_arg_int(j, &a->pos[0], 4, &width) || !make_spaces(j, width, &indent))) ||
        !jinja_arg_bool(j, &a->pos[1], false, &first) ||
        !jinja_arg_bool(j, &a->pos[2], false, &blank))
        return false;
    struct text *whole = jinja_text_concat(j, self->text, &newline);
    return whole && jinja_split_lines(j, whole, false, &lines) && jinja_build_open(j, &b) &&
           indent_lines(&b, lines, indent, first, blank) && out_text(jinja_build_end(&b), out);
}

static bool filter_center(struct jinja *j, const struct value *self, struct args *a,
                          struct value *out)
{
    struct text *t, *left, *right;
    int64_t width;
    struct build b;
    if (!jinja_to_text(j, self, &t) || !jinja_arg_int(j, &a->pos[0], 80, &width))
        return false;
    int64_t n = (int64_t)jinja_text_chars(t), pad = width > n ? width - n : 0;
    int64_t n_left = pad / 2 + (pad & width & 1);
    return make_spaces(j, n_left, &left) && make_spaces(j, pad - n_left, &right) &&
           jinja_build_open(j, &b) && jinja_build_text(&b, left, 0, left->n) &&
           jinja_build_text(&b, t, 0, t->n) && jinja_build_text(&b, right, 0, right->n) &&
           out_text(jinja_build_end(&b), out);
}

static bool filter_escape(struct jinja *j, const struct value *self, struct args *a,
                          struct value *out)
{
    static const char from[] = "&<>'\"";
    static const char *const to[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
    (void)a;
    struct text *t;
    struct build b;
    size_t plain = 0, end;
    if (!jinja_to_text(j, self, &t) || !jinja_build_open(j, &b) || !jinja_charge(j, t->n / 16))
        return false;
    for (size_t i = 0; i < t->n; i++) {
        const char *c = t->at[i] ? strchr(from, t->at[i]) : NULL;
        if (!c)
            continue;
        bool trusted = jinja_text_trusted(t, i, &end);
        if (!jinja_build_text(&b, t, plain, i) ||
            !jinja_build_put(&b, to[c - from], strlen(to[c - from]), trusted))
            return false;
        plain = i + 1;
    }
    return jinja_build_text(&b, t, plain, t->n) && out_text(jinja_build_end(&b), out);
}

static bool filter_wordcount(struct jinja *j, const struct value *self, struct args *a,
                             struct value *out)
{
    (void)a;
    struct text *t;
    if (!jinja_to_text(j, self, &t) || !jinja_charge(j, t->n / 16))
        return false;
    int64_t n = 0;
    bool in_word = false;
    for (size_t i = 0; i < t->n; i++) {
        char c = t->at[i];
        bool is = (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || c == '_' ||
                  (unsigned char)c >= 0x80;
        n += is && !in_word;
        in_word = is;
    }
    *out = value_int(n);
    return true;
}

static bool filter_format(struct jinja *j, const struct value *self, struct args *a,
                          struct value *out)
{
    struct text *t;
    if (a->n_kw)
        return jinja_fail(j, STATUS_BAD_INPUT, "format takes no keyword arguments here");
    return jinja_to_text(j, self, &t) && jinja_percent(j, t, a->pos, a->n, out);
}

/* --- Numbers --- */

/* Python's int(text, base): spaces around, a sign, underscores between digits. */
static bool parse_int(const struct text *t, int base, int64_t *out)
{
    char digits[80];
    size_t n = 0, first = 0, end = t->n;
    while (first < end && strchr(" \t\n\r\f\v", t->at[first]) && t->at[first])
        first++;
    while (end > first && strchr(" \t\n\r\f\v", t->at[end - 1]) && t->at[end - 1])
        end--;
    for (size_t i = first; i < end; i++) {
        bool inner = i > first && i + 1 < end && t->at[i - 1] != '_' && t->at[i + 1] != '_';
        if (t->at[i] == '_' && inner)
            continue;
        if (n + 1 == sizeof digits || t->at[i] == ' ' || t->at[i] == 0)
            return false;
        digits[n++] = t->at[i];
    }
    digits[n] = 0;
    char *start = digits + (digits[0] == '-' || digits[0] == '+');
    if (base == 8 && start[0] == '0' && (start[1] | 0x20) == 'o')
        memmove(start, start + 2, strlen(start + 2) + 1);
    if (base == 2 && start[0] == '0' && (start[1] | 0x20) == 'b')
        memmove(start, start + 2, strlen(start + 2) + 1);
    char *stop;
    if (start[0] == '-' || start[0] == '+')
        return false;
    long long v = strtoll(digits, &stop, base);
    *out = v;
    return stop != digits && stop == digits + strlen(digits) && v != INT64_MAX && v != INT64_MIN;
}

/* Python's float(text), of plain decimal forms, inf and nan. */
static bool parse_float(const struct text *t, double *out)
{
    char digits[400];
    size_t n = 0, first = 0, end = t->n;
    while (first < end && t->at[first] && strchr(" \t\n\r\f\v", t->at[first]))
        first++;
    while (end > first && t->at[end - 1] && strchr(" \t\n\r\f\v", t->at[end - 1]))
        end--;
    for (size_t i = first; i < end; i++) {
        bool inner = i > first && i + 1 < end && t->at[i - 1] != '_' && t->at[i + 1] != '_';
        if (t->at[i] == '_' && inner)
            continue;
        if (n + 1 == sizeof digits || !t->at[i] || !strchr("0123456789+-.eEinfatyINFATY", t->at[i]))
            return false;
        digits[n++] = t->at[i];
    }
    digits[n] = 0;
    char *stop;
    *out = strtod(digits, &stop);
    return n > 0 && stop == digits + n;
}

static bool float_to_int(struct jinja *j, double f, struct value *out)
{
    if (!(f > -0x1p63 && f < 0x1p63))
        return jinja_fail(j, STATUS_TOO_LARGE, "integer does not fit 64 bits");
    *out = value_int((int64_t)f);
    return true;
}

static bool filter_int(struct jinja *j, const struct value *self, struct args *a, struct value *out)
{
    int64_t i, base;
    double f;
    bool caller = value_is_caller(self), ok = true;
    if (!jinja_arg_int(j, &a->pos[1], 10, &base))
        return false;
    if (self->kind == VALUE_UNDEFINED)
        return jinja_fail(j, STATUS_BAD_INPUT, "%s", self->why);
    if (base != 0 && (base < 2 || base > 36))
        return jinja_fail(j, STATUS_BAD_INPUT, "int base must be 0 or 2 to 36");
    if (self->kind == VALUE_TEXT && parse_int(self->text, (int)base, &i)) {
        size_t end;
        caller = self->text->n && !jinja_text_trusted(self->text, 0, &end);
        *out = value_int(i);
    } else if (self->kind == VALUE_TEXT && parse_float(self->text, &f) && isfinite(f)) {
        caller = true;
        ok = float_to_int(j, f, out);
    } else if (value_is_integer(self)) {
        *out = value_int(self->kind == VALUE_BOOL ? self->b : self->i);
    } else if (self->kind == VALUE_FLOAT && !isnan(self->f)) {
        ok = float_to_int(j, self->f, out);
    } else {
        *out = a->pos[0].kind == VALUE_MISSING ? value_int(0) : a->pos[0];
        return true;
    }
    out->caller = caller;
    return ok;
}

static bool filter_float(struct jinja *j, const struct value *self, struct args *a,
                         struct value *out)
{
    double f;
    if (self->kind == VALUE_UNDEFINED)
        return jinja_fail(j, STATUS_BAD_INPUT, "%s", self->why);
    if (value_is_number(self)) {
        *out = value_float(value_as_float(self));
        out->caller = self->caller;
    } else if (self->kind == VALUE_TEXT && parse_float(self->text, &f)) {
        *out = value_float(f);
        out->caller = true;
    } else {
        *out = a->pos[0].kind == VALUE_MISSING ? value_float(0) : a->pos[0];
    }
    return true;
}

static bool filter_abs(struct jinja *j, const struct value *self, struct args *a, struct value *out)
{
    (void)a;
    if (self->kind == VALUE_UNDEFINED)
        return jinja_fail(j, STATUS_BAD_INPUT, "%s", self->why);
    if (!value_is_number(self))
        return jinja_fail(j, STATUS_BAD_INPUT, "bad operand type for abs(): '%s'",
                          value_type(self));
    *out = *self;
    if (self->kind == VALUE_FLOAT) {
        out->f = fabs(self->f);
        return true;
    }
    struct value zero = value_int(0);
    if (self->kind == VALUE_INT && self->i < 0)
        return jinja_binary(j, '-', &zero, self, out);
    out->kind = VALUE_INT;
    out->i = self->kind == VALUE_BOOL ? self->b : self->i;
    return true;
}

static double round_to(double f, int64_t precision)
{
    if (precision < 0)
        return nearbyint(f / pow(10, (double)-precision)) * pow(10, (double)-precision);
    char digits[700];
    if (!isfinite(f))
        return f;
    snprintf(digits, sizeof digits, "%.*f", (int)precision, f);
    return strtod(digits, NULL);
}

static bool filter_round(struct jinja *j, const struct value *self, struct args *a,
                         struct value *out)
{
    int64_t precision;
    if (!jinja_arg_int(j, &a->pos[0], 0, &precision))
        return false;
    if (!value_is_number(self))
        return jinja_fail(j, STATUS_BAD_INPUT, "round needs a number, not %s", value_type(self));
    if (precision < -300 || precision > 300)
        return jinja_fail(j, STATUS_TOO_LARGE, "round precision is over 300");
    const struct value *method = &a->pos[1];
    bool up = method->kind == VALUE_TEXT && jinja_text_is(method->text, "ceil");
    bool down = method->kind == VALUE_TEXT && jinja_text_is(method->text, "floor");
    bool common = method->kind == VALUE_MISSING ||
                  (method->kind == VALUE_TEXT && jinja_text_is(method->text, "common"));
    if (!up && !down && !common)
        return jinja_fail(j, STATUS_BAD_INPUT, "round method must be common, ceil or floor");
    double f = value_as_float(self), scale = pow(10, (double)precision);
    if (common && value_is_integer(self) && precision >= 0)
        *out = value_int(self->kind == VALUE_BOOL ? self->b : self->i);
    else if (common)
        *out = value_is_integer(self) ? value_int((int64_t)round_to(f, precision))
                                      : value_float(round_to(f, precision));
    else
        *out = value_float((up ? ceil(f * scale) : floor(f * scale)) / scale);
    out->caller = self->caller;
    return true;
}

/* --- Others --- */

static bool filter_default(struct jinja *j, const struct value *self, struct args *a,
                           struct value *out)
{
    bool by_truth, truth = true;
    if (!jinja_arg_bool(j, &a->pos[1], false, &by_truth) ||
        (by_truth && !jinja_truth(j, self, &truth)))
        return false;
    if (self->kind != VALUE_UNDEFINED && truth) {
        *out = *self;
        return true;
    }
    if (a->pos[0].kind == VALUE_MISSING)
        return value_from_word(j, "", out);
    *out = a->pos[0];
    return true;
}

static bool filter_length(struct jinja *j, const struct value *self, struct args *a,
                          struct value *out)
{
    (void)a;
    size_t n;
    if (!jinja_length(j, self, &n))
        return false;
    *out = value_int((int64_t)n);
    return true;
}

static bool read_separators(struct jinja *j, const struct value *v, struct json_style *style)
{
    if (v->kind == VALUE_MISSING || v->kind == VALUE_NONE) {
        struct value item, key;
        if (!value_from_word(j, style->has_indent ? "," : ", ", &item) ||
            !value_from_word(j, ": ", &key))
            return false;
        style->item_separator = item.text;
        style->key_separator = key.text;
        return true;
    }
    struct list *items;
    if (!jinja_items(j, v, &items))
        return false;
    if (items->n != 2 || items->at[0].kind != VALUE_TEXT || items->at[1].kind != VALUE_TEXT)
        return jinja_fail(j, STATUS_BAD_INPUT, "separators must be two strings");
    style->item_separator = items->at[0].text;
    style->key_separator = items->at[1].text;
    return true;
}

static bool filter_tojson(struct jinja *j, const struct value *self, struct args *a,
                          struct value *out)
{
    struct json_style style = {0};
    struct build b;
    int64_t width;
    const struct value *indent = &a->pos[1];
    if (!jinja_arg_bool(j, &a->pos[0], false, &style.ascii) ||
        !jinja_arg_bool(j, &a->pos[3], false, &style.sort_keys))
        return false;
    style.has_indent = indent->kind != VALUE_MISSING && indent->kind != VALUE_NONE;
    if (indent->kind == VALUE_TEXT)
        style.indent = indent->text;
    else if (style.has_indent &&
             (!jinja_arg_int(j, indent, 0, &width) || !make_spaces(j, width, &style.indent)))
        return false;
    return read_separators(j, &a->pos[2], &style) && jinja_build_open(j, &b) &&
           jinja_put_json(&b, self, &style) && out_text(jinja_build_end(&b), out);
}

static bool filter_attr(struct jinja *j, const struct value *self, struct args *a,
                        struct value *out)
{
    if (a->pos[0].kind != VALUE_TEXT)
        return jinja_fail(j, STATUS_BAD_INPUT, "attr needs a name");
    if (self->kind == VALUE_DICT &&
        !jinja_method_find(self, a->pos[0].text->at, a->pos[0].text->n)) {
        *out = value_undefined("dict has no such attribute");
        return true;
    }
    return jinja_get_attr(j, self, a->pos[0].text, out);
}

static const struct builtin filters[] = {
    {"string", filter_string, {0}, 0, false},
    {"safe", filter_string, {0}, 0, false},
    {"trim", filter_trim, {"chars"}, 0, false},
    {"upper", filter_upper, {0}, 0, false},
    {"lower", filter_lower, {0}, 0, false},
    {"title", filter_title, {0}, 0, false},
    {"capitalize", filter_capitalize, {0}, 0, false},
    {"replace", filter_replace, {"old", "new", "count"}, 2, false},
    {"indent", filter_indent, {"width", "first", "blank"}, 0, false},
    {"center", filter_center, {"width"}, 0, false},
    {"escape", filter_escape, {0}, 0, false},
    {"e", filter_escape, {0}, 0, false},
    {"forceescape", filter_escape, {0}, 0, false},
    {"wordcount", filter_wordcount, {0}, 0, false},
    {"format", filter_format, {0}, 0, true},
    {"int", filter_int, {"default", "base"}, 0, false},
    {"float", filter_float, {"default"}, 0, false},
    {"abs", filter_abs, {0}, 0, false},
    {"round", filter_round, {"precision", "method"}, 0, false},
    {"default", filter_default, {"default_value", "boolean"}, 0, false},
    {"d", filter_default, {"default_value", "boolean"}, 0, false},
    {"length", filter_length, {0}, 0, false},
    {"count", filter_length, {0}, 0, false},
    {"tojson", filter_tojson, {"ensure_ascii", "indent", "separators", "sort_keys"}, 0, false},
    {"attr", filter_attr, {"name"}, 1, false},
    {0},
};

const struct builtin *jinja_find(const struct builtin *table, const char *name, size_t n)
{
    for (; table->name; table++) {
        if (strlen(table->name) == n && memcmp(table->name, name, n) == 0)
            return table;
    }
    return NULL;
}

const struct builtin *jinja_filter_find(const char *name, size_t n)
{
    const struct builtin *found = jinja_find(filters, name, n);
    return found ? found : jinja_find(jinja_list_filters, name, n);
}

bool jinja_arg_int(struct jinja *j, const struct value *v, int64_t fallback, int64_t *out)
{
    *out = fallback;
    if (v->kind == VALUE_MISSING || v->kind == VALUE_NONE)
        return true;
    if (!value_is_integer(v))
        return jinja_fail(j, STATUS_BAD_INPUT, "'%s' cannot be interpreted as an integer",
                          value_type(v));
    *out = v->kind == VALUE_BOOL ? v->b : v->i;
    return true;
}

bool jinja_arg_bool(struct jinja *j, const struct value *v, bool fallback, bool *out)
{
    *out = fallback;
    return v->kind == VALUE_MISSING || jinja_truth(j, v, out);
}
