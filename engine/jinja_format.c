/* jinja_format.c - "%s" % x and "{}".format(x), without the parts that make text of any size.
 *
 * Widths and precisions are at most FORMAT_WIDTH_MAX. */
#include "engine/jinja_int.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { FORMAT_WIDTH_MAX = 1000 };

static bool bad(struct jinja *j, const char *why)
{
    return jinja_fail(j, STATUS_BAD_INPUT, "%s", why);
}

struct directive {
    bool left, zero, plus;
    int width, precision; /* precision -1 = not given */
    char kind;
};

static bool read_number(struct jinja *j, const struct text *t, size_t *at, int *out)
{
    *out = 0;
    for (; *at < t->n && t->at[*at] >= '0' && t->at[*at] <= '9'; ++*at) {
        *out = *out * 10 + (t->at[*at] - '0');
        if (*out > FORMAT_WIDTH_MAX)
            return jinja_fail(j, STATUS_TOO_LARGE, "format width is over %d", FORMAT_WIDTH_MAX);
    }
    return true;
}

/* What follows a % at *at. */
static bool read_directive(struct jinja *j, const struct text *t, size_t *at, struct directive *d)
{
    *d = (struct directive){.precision = -1};
    for (; *at < t->n; ++*at) {
        char c = t->at[*at];
        d->left |= c == '-';
        d->zero |= c == '0';
        d->plus |= c == '+';
        if (c != '-' && c != '0' && c != '+')
            break;
    }
    if (!read_number(j, t, at, &d->width))
        return false;
    if (*at < t->n && t->at[*at] == '.') {
        ++*at;
        if (!read_number(j, t, at, &d->precision))
            return false;
    }
    if (*at == t->n)
        return bad(j, "incomplete format");
    d->kind = t->at[(*at)++];
    return true;
}

static bool put_padded(struct build *b, const struct text *t, const struct directive *d)
{
    struct text copy = *t;
    size_t chars = jinja_text_chars(&copy), n_pad = 0, n = copy.n;
    if (d->precision >= 0 && (size_t)d->precision < chars) {
        n = jinja_text_offset(&copy, (size_t)d->precision);
        chars = (size_t)d->precision;
    }
    if ((size_t)d->width > chars)
        n_pad = (size_t)d->width - chars;
    char pad[FORMAT_WIDTH_MAX];
    memset(pad, ' ', n_pad);
    return (d->left || jinja_build_put(b, pad, n_pad, true)) && jinja_build_text(b, t, 0, n) &&
           (!d->left || jinja_build_put(b, pad, n_pad, true));
}

static bool put_formatted_number(struct build *b, const struct directive *d, const struct value *v)
{
    char word[FORMAT_WIDTH_MAX * 2 + 400];
    if (!value_is_number(v))
        return jinja_fail(b->j, STATUS_BAD_INPUT, "%%%c format: a number is required, not %s",
                          d->kind, value_type(v));
    int width = d->left ? -d->width : d->width, n;
    double f = value_as_float(v);
    if (strchr("fFeEgG", d->kind)) {
        char pattern[8] = "%";
        snprintf(pattern + 1, sizeof pattern - 1, "%s%s*.*%c", d->plus ? "+" : "",
                 d->zero ? "0" : "", d->kind);
        n = snprintf(word, sizeof word, pattern, width, d->precision < 0 ? 6 : d->precision, f);
    } else {
        if (v->kind == VALUE_FLOAT && !(f > -0x1p63 && f < 0x1p63))
            return jinja_fail(b->j, STATUS_TOO_LARGE, "integer does not fit 64 bits");
        int64_t i = v->kind == VALUE_FLOAT ? (int64_t)f : v->kind == VALUE_BOOL ? v->b : v->i;
        char pattern[16] = "%";
        bool hex = d->kind == 'x' || d->kind == 'X' || d->kind == 'o';
        if (hex && i < 0)
            return bad(b->j, "negative numbers have no %x form here");
        snprintf(pattern + 1, sizeof pattern - 1, "%s%s*l%c", d->plus && !hex ? "+" : "",
                 d->zero ? "0" : "", hex ? d->kind : 'd');
        n = snprintf(word, sizeof word, pattern, width, (long)i);
    }
    return n > 0 && jinja_build_put(b, word, (size_t)n, !v->caller);
}

static bool put_directive(struct build *b, const struct directive *d, const struct value *v)
{
    struct text *text;
    if (d->kind == 's')
        return jinja_to_text(b->j, v, &text) && put_padded(b, text, d);
    if (d->kind == 'r') {
        struct build repr;
        return jinja_build_open(b->j, &repr) && jinja_put_repr(&repr, v) &&
               (text = jinja_build_end(&repr)) && put_padded(b, text, d);
    }
    if (!strchr("dixXofFeEgG", d->kind))
        return jinja_fail(b->j, STATUS_BAD_INPUT, "unsupported format character '%c'", d->kind);
    return put_formatted_number(b, d, v);
}

bool jinja_percent(struct jinja *j, struct text *t, const struct value *values, size_t n_values,
                   struct value *out)
{
    struct build b;
    struct directive d;
    size_t used = 0, plain = 0;
    if (!jinja_build_open(j, &b))
        return false;
    for (size_t at = 0; at < t->n;) {
        if (t->at[at] != '%') {
            at++;
            continue;
        }
        if (!jinja_build_text(&b, t, plain, at++) || !jinja_charge(j, 1) ||
            !read_directive(j, t, &at, &d))
            return false;
        plain = at;
        if (d.kind == '%') {
            plain--;
            continue;
        }
        if (used == n_values)
            return bad(j, "not enough arguments for format string");
        if (!put_directive(&b, &d, &values[used++]))
            return false;
    }
    bool all = used == n_values || (n_values == 1 && values[0].kind == VALUE_DICT);
    if (!all)
        return bad(j, "not all arguments converted during string formatting");
    *out = value_text(jinja_build_text(&b, t, plain, t->n) ? jinja_build_end(&b) : NULL);
    return out->text != NULL;
}

/* --- str.format --- */

/* The value that the field [at, end) names: empty, a number or a keyword. */
static const struct value *find_field(const struct text *t, size_t at, size_t end,
                                      const struct args *args, size_t *next)
{
    size_t n = end - at, index = 0;
    if (n == 0)
        index = (*next)++;
    for (size_t i = at; i < end; i++) {
        char c = t->at[i];
        if (c < '0' || c > '9' || n > 6) {
            for (size_t k = 0; k < args->n_kw; k++) {
                if (args->kw[k].n == n && memcmp(args->kw[k].at, t->at + at, n) == 0)
                    return &args->kw[k].value;
            }
            return NULL;
        }
        index = index * 10 + (size_t)(c - '0');
    }
    return index < args->n ? &args->pos[index] : NULL;
}

bool jinja_format_braces(struct jinja *j, const struct value *self, struct args *args,
                         struct value *out)
{
    struct text *t = self->text;
    struct build b;
    size_t plain = 0, next = 0;
    if (!jinja_build_open(j, &b))
        return false;
    for (size_t at = 0; at < t->n; at++) {
        char c = t->at[at];
        if (c != '{' && c != '}')
            continue;
        if (!jinja_charge(j, 1) || !jinja_build_text(&b, t, plain, at))
            return false;
        plain = at + 1;
        if (at + 1 < t->n && t->at[at + 1] == c) {
            at++; /* a doubled brace stands for itself */
            continue;
        }
        const char *close = c == '{' ? memchr(t->at + at, '}', t->n - at) : NULL;
        if (!close)
            return bad(j, "single brace in format string");
        size_t end = (size_t)(close - t->at);
        if (memchr(t->at + at, ':', end - at) || memchr(t->at + at, '!', end - at) ||
            memchr(t->at + at, '.', end - at) || memchr(t->at + at, '[', end - at))
            return bad(j, "format fields with specifications are not supported");
        const struct value *v = find_field(t, at + 1, end, args, &next);
        if (!v)
            return bad(j, "format field has no argument");
        if (!jinja_put_value(&b, v))
            return false;
        at = end;
        plain = end + 1;
    }
    *out = value_text(jinja_build_text(&b, t, plain, t->n) ? jinja_build_end(&b) : NULL);
    return out->text != NULL;
}
