/* jinja_math.c - Python's + - * / // % ** on the values of templates.
 *
 * Integers have 64 bits; a result that does not fit is an error, not a wrapped number. */
#include "engine/jinja_int.h"

#include <math.h>
#include <string.h>

#include "engine/jinja_lex.h" /* OP2 */

static bool overflow(struct jinja *j)
{
    return jinja_fail(j, STATUS_TOO_LARGE, "integer does not fit 64 bits");
}

static int64_t as_int(const struct value *v)
{
    return v->kind == VALUE_BOOL ? v->b : v->i;
}

static bool power_int(struct jinja *j, int64_t base, int64_t exponent, struct value *out)
{
    if (exponent < 0) {
        if (base == 0)
            return jinja_fail(j, STATUS_BAD_INPUT, "0 cannot be raised to a negative power");
        *out = value_float(pow((double)base, (double)exponent));
        return true;
    }
    int64_t result = 1;
    while (exponent > 0) {
        if ((exponent & 1) && __builtin_mul_overflow(result, base, &result))
            return overflow(j);
        exponent >>= 1;
        if (exponent > 0 && __builtin_mul_overflow(base, base, &base))
            return overflow(j);
    }
    *out = value_int(result);
    return true;
}

static bool divide_int(struct jinja *j, int op, int64_t a, int64_t b, struct value *out)
{
    if (b == 0)
        return jinja_fail(j, STATUS_BAD_INPUT, "division by zero");
    if (b == -1) { /* INT64_MIN / -1 does not fit */
        int64_t negated;
        if (op == '%')
            *out = value_int(0);
        else if (__builtin_sub_overflow((int64_t)0, a, &negated))
            return overflow(j);
        else
            *out = value_int(negated);
        return true;
    }
    int64_t quotient = a / b, rest = a % b;
    bool to_floor = rest != 0 && (rest < 0) != (b < 0);
    *out = value_int(op == '%' ? rest + (to_floor ? b : 0) : quotient - to_floor);
    return true;
}

static bool binary_int(struct jinja *j, int op, int64_t a, int64_t b, struct value *out)
{
    int64_t i = 0;
    bool over;
    switch (op) {
    case '+':
        over = __builtin_add_overflow(a, b, &i);
        break;
    case '-':
        over = __builtin_sub_overflow(a, b, &i);
        break;
    case '*':
        over = __builtin_mul_overflow(a, b, &i);
        break;
    case '/':
        if (b == 0)
            return jinja_fail(j, STATUS_BAD_INPUT, "division by zero");
        *out = value_float((double)a / (double)b);
        return true;
    case OP2('*', '*'):
        return power_int(j, a, b, out);
    default:
        return divide_int(j, op, a, b, out);
    }
    *out = value_int(i);
    return !over || overflow(j);
}

static bool binary_float(struct jinja *j, int op, double a, double b, struct value *out)
{
    bool divides = op == '/' || op == '%' || op == OP2('/', '/');
    if (divides && !(b < 0) && !(b > 0) && !isnan(b))
        return jinja_fail(j, STATUS_BAD_INPUT, "float division by zero");
    double f, rest = divides ? fmod(a, b) : 0;
    bool to_floor = (rest < 0 || rest > 0) && (rest < 0) != (b < 0);
    switch (op) {
    case '+':
        f = a + b;
        break;
    case '-':
        f = a - b;
        break;
    case '*':
        f = a * b;
        break;
    case '/':
        f = a / b;
        break;
    case '%':
        f = rest + (to_floor ? b : 0);
        break;
    case OP2('/', '/'):
        f = floor((a - rest) / b + 0.5) - (to_floor ? 1 : 0);
        break;
    default:
        if (a < 0 && floor(b) < b)
            return jinja_fail(j, STATUS_BAD_INPUT, "complex numbers are not supported");
        f = pow(a, b);
        if (isinf(f) && !isinf(a) && !isinf(b))
            return jinja_fail(j, STATUS_BAD_INPUT, "numerical result out of range");
    }
    *out = value_float(f);
    return true;
}

static bool repeat_text(struct jinja *j, struct text *t, int64_t n, struct value *out)
{
    struct build b;
    if (t->n > 0 && n > (int64_t)(JINJA_TEXT_MAX / t->n))
        return jinja_fail(j, STATUS_TOO_LARGE, "text is longer than %d bytes", JINJA_TEXT_MAX);
    if (!jinja_build_open(j, &b) || (t->n && n > 0 && !jinja_charge(j, (size_t)n / 4)))
        return false;
    for (int64_t i = 0; i < n && t->n; i++) {
        if (!jinja_build_text(&b, t, 0, t->n))
            return false;
    }
    *out = value_text(jinja_build_end(&b));
    return out->text != NULL;
}

static bool repeat_list(struct jinja *j, const struct value *of, int64_t n, struct value *out)
{
    size_t n_of = of->list->n;
    enum { ITEMS_MAX = JINJA_VALUES_MAX / sizeof(struct value) };
    if (n_of > 0 && n > (int64_t)(ITEMS_MAX / n_of))
        return jinja_fail(j, STATUS_TOO_LARGE, "list has more than %d items", ITEMS_MAX);
    if (n < 0 || n_of == 0)
        n = 0;
    struct list *l = jinja_list_new(j, n_of * (size_t)n);
    if (!l || !jinja_charge(j, n_of * (size_t)n / 16))
        return false;
    for (int64_t i = 0; i < n; i++) {
        memcpy(l->at + l->n, of->list->at, n_of * sizeof *l->at);
        l->n += n_of;
    }
    l->caller = of->list->caller;
    *out = value_list(of->kind, l);
    return true;
}

static bool add_lists(struct jinja *j, const struct value *a, const struct value *b,
                      struct value *out)
{
    struct list *l = jinja_list_new(j, a->list->n + b->list->n);
    if (!l || !jinja_charge(j, (a->list->n + b->list->n) / 16))
        return false;
    if (a->list->n)
        memcpy(l->at, a->list->at, a->list->n * sizeof *l->at);
    if (b->list->n)
        memcpy(l->at + a->list->n, b->list->at, b->list->n * sizeof *l->at);
    l->n = a->list->n + b->list->n;
    l->caller = a->list->caller && b->list->caller;
    *out = value_list(a->kind, l);
    return true;
}

static bool is_list(const struct value *v)
{
    return v->kind == VALUE_LIST || v->kind == VALUE_TUPLE;
}

static bool multiply(struct jinja *j, const struct value *a, const struct value *b,
                     struct value *out, bool *done)
{
    const struct value *many = value_is_integer(a) ? b : a, *n = value_is_integer(a) ? a : b;
    *done = value_is_integer(n) && (many->kind == VALUE_TEXT || is_list(many));
    if (!*done)
        return true;
    return many->kind == VALUE_TEXT ? repeat_text(j, many->text, as_int(n), out)
                                    : repeat_list(j, many, as_int(n), out);
}

static bool format_percent(struct jinja *j, const struct value *a, const struct value *b,
                           struct value *out)
{
    return b->kind == VALUE_TUPLE ? jinja_percent(j, a->text, b->list->at, b->list->n, out)
                                  : jinja_percent(j, a->text, b, 1, out);
}

bool jinja_binary(struct jinja *j, int op, const struct value *a, const struct value *b,
                  struct value *out)
{
    bool ok, done = false;
    if (value_is_number(a) && value_is_number(b)) {
        bool ints = value_is_integer(a) && value_is_integer(b);
        bool caller = a->caller || b->caller;
        ok = ints ? binary_int(j, op, as_int(a), as_int(b), out)
                  : binary_float(j, op, value_as_float(a), value_as_float(b), out);
        if (ok)
            out->caller = caller;
        return ok;
    }
    if (op == '+' && a->kind == VALUE_TEXT && b->kind == VALUE_TEXT) {
        *out = value_text(jinja_text_concat(j, a->text, b->text));
        return out->text != NULL;
    }
    if (op == '+' && a->kind == b->kind && is_list(a))
        return add_lists(j, a, b, out);
    if (op == '%' && a->kind == VALUE_TEXT)
        return format_percent(j, a, b, out);
    if (op == '*' && (!multiply(j, a, b, out, &done) || done))
        return done && j->st->code == STATUS_OK;
    if (a->kind == VALUE_UNDEFINED || b->kind == VALUE_UNDEFINED)
        return jinja_fail(j, STATUS_BAD_INPUT, "%s", a->kind == VALUE_UNDEFINED ? a->why : b->why);
    return jinja_fail(j, STATUS_BAD_INPUT, "unsupported operand types for %c%s: '%s' and '%s'",
                      op & 0xFF, op > 0xFF ? (op & 0xFF) == '*' ? "*" : "/" : "", value_type(a),
                      value_type(b));
}
