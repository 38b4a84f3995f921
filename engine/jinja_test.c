/* jinja_test.c - what may follow `is`. */
#include "engine/jinja_int.h"

#include <math.h>
#include <string.h>

#define TEST(name, condition)                                                                      \
    static bool test_##name(struct jinja *j, const struct value *v, struct args *a,                \
                            struct value *out)                                                     \
    {                                                                                              \
        (void)j;                                                                                   \
        (void)a;                                                                                   \
        *out = value_bool(condition);                                                              \
        return true;                                                                               \
    }

static bool is_callable(const struct value *v)
{
    return v->kind == VALUE_FUNCTION || v->kind == VALUE_METHOD || v->kind == VALUE_MACRO ||
           v->kind == VALUE_LOOP || v->kind == VALUE_UNDEFINED;
}

static bool is_sequence(const struct value *v)
{
    return v->kind == VALUE_TEXT || v->kind == VALUE_LIST || v->kind == VALUE_TUPLE ||
           v->kind == VALUE_DICT || v->kind == VALUE_RANGE || v->kind == VALUE_UNDEFINED;
}

TEST(defined, v->kind != VALUE_UNDEFINED)
TEST(undefined, v->kind == VALUE_UNDEFINED)
TEST(none, v->kind == VALUE_NONE)
TEST(boolean, v->kind == VALUE_BOOL)
TEST(true, v->kind == VALUE_BOOL && v->b)
TEST(false, v->kind == VALUE_BOOL && !v->b)
TEST(integer, v->kind == VALUE_INT)
TEST(float, v->kind == VALUE_FLOAT)
TEST(number, value_is_number(v))
TEST(string, v->kind == VALUE_TEXT)
TEST(mapping, v->kind == VALUE_DICT)
TEST(iterable, jinja_is_iterable(v))
TEST(sequence, is_sequence(v))
TEST(callable, is_callable(v))
TEST(escaped, v->kind == VALUE_MISSING) /* there is no Markup here */

/* islower, isupper: some letter, and none of the other case */
static bool test_case(struct jinja *j, const struct value *v, enum text_case to, struct value *out)
{
    struct text *t;
    struct value same, other;
    if (!jinja_to_text(j, v, &t) || !jinja_recase(j, t, to, &same) ||
        !jinja_recase(j, t, to == CASE_UPPER ? CASE_LOWER : CASE_UPPER, &other))
        return false;
    *out = value_bool(jinja_text_equal(t, same.text) && !jinja_text_equal(t, other.text));
    return true;
}

static bool test_lower(struct jinja *j, const struct value *v, struct args *a, struct value *out)
{
    (void)a;
    return test_case(j, v, CASE_LOWER, out);
}

static bool test_upper(struct jinja *j, const struct value *v, struct args *a, struct value *out)
{
    (void)a;
    return test_case(j, v, CASE_UPPER, out);
}

static bool test_remainder(struct jinja *j, const struct value *v, const struct value *by,
                           int64_t want, struct value *out)
{
    struct value rest, wanted = value_int(want);
    bool equal;
    if (v->kind == VALUE_TEXT)
        return jinja_fail(j, STATUS_BAD_INPUT, "test needs a number, not str");
    if (!jinja_binary(j, '%', v, by, &rest) || !jinja_equal(j, &rest, &wanted, &equal))
        return false;
    *out = value_bool(equal);
    return true;
}

static bool test_odd(struct jinja *j, const struct value *v, struct args *a, struct value *out)
{
    (void)a;
    struct value two = value_int(2);
    return test_remainder(j, v, &two, 1, out);
}

static bool test_even(struct jinja *j, const struct value *v, struct args *a, struct value *out)
{
    (void)a;
    struct value two = value_int(2);
    return test_remainder(j, v, &two, 0, out);
}

static bool test_divisibleby(struct jinja *j, const struct value *v, struct args *a,
                             struct value *out)
{
    return test_remainder(j, v, &a->pos[0], 0, out);
}

static bool test_sameas(struct jinja *j, const struct value *v, struct args *a, struct value *out)
{
    const struct value *other = &a->pos[0];
    bool same = v->kind == other->kind;
    if (same && v->kind >= VALUE_LIST)
        same = v->list == other->list;
    else if (same && !jinja_equal(j, v, other, &same))
        return false;
    *out = value_bool(same);
    return true;
}

static bool test_in(struct jinja *j, const struct value *v, struct args *a, struct value *out)
{
    bool is;
    if (!jinja_contains(j, &a->pos[0], v, &is))
        return false;
    *out = value_bool(is);
    return true;
}

static bool test_eq(struct jinja *j, const struct value *v, struct args *a, struct value *out)
{
    bool equal;
    if (!jinja_equal(j, v, &a->pos[0], &equal))
        return false;
    *out = value_bool(equal);
    return true;
}

static bool test_ne(struct jinja *j, const struct value *v, struct args *a, struct value *out)
{
    if (!test_eq(j, v, a, out))
        return false;
    out->b = !out->b;
    return true;
}

#define TEST_ORDER(name, condition)                                                                \
    static bool test_##name(struct jinja *j, const struct value *v, struct args *a,                \
                            struct value *out)                                                     \
    {                                                                                              \
        int order;                                                                                 \
        if (!jinja_order(j, v, &a->pos[0], &order))                                                \
            return false;                                                                          \
        *out = value_bool(order != 2 && (condition));                                              \
        return true;                                                                               \
    }

TEST_ORDER(lt, order < 0)
TEST_ORDER(le, order <= 0)
TEST_ORDER(gt, order > 0)
TEST_ORDER(ge, order >= 0)

static bool test_filter(struct jinja *j, const struct value *v, struct args *a, struct value *out)
{
    (void)j;
    (void)a;
    *out = value_bool(v->kind == VALUE_TEXT && jinja_filter_find(v->text->at, v->text->n));
    return true;
}

static bool test_test(struct jinja *j, const struct value *v, struct args *a, struct value *out)
{
    (void)j;
    (void)a;
    *out = value_bool(v->kind == VALUE_TEXT && jinja_test_find(v->text->at, v->text->n));
    return true;
}

static const struct builtin tests[] = {
    {"defined", test_defined, {0}, 0, false},
    {"undefined", test_undefined, {0}, 0, false},
    {"none", test_none, {0}, 0, false},
    {"boolean", test_boolean, {0}, 0, false},
    {"true", test_true, {0}, 0, false},
    {"false", test_false, {0}, 0, false},
    {"integer", test_integer, {0}, 0, false},
    {"float", test_float, {0}, 0, false},
    {"number", test_number, {0}, 0, false},
    {"string", test_string, {0}, 0, false},
    {"mapping", test_mapping, {0}, 0, false},
    {"iterable", test_iterable, {0}, 0, false},
    {"sequence", test_sequence, {0}, 0, false},
    {"callable", test_callable, {0}, 0, false},
    {"escaped", test_escaped, {0}, 0, false},
    {"lower", test_lower, {0}, 0, false},
    {"upper", test_upper, {0}, 0, false},
    {"odd", test_odd, {0}, 0, false},
    {"even", test_even, {0}, 0, false},
    {"divisibleby", test_divisibleby, {"num"}, 1, false},
    {"sameas", test_sameas, {"other"}, 1, false},
    {"in", test_in, {"seq"}, 1, false},
    {"eq", test_eq, {"b"}, 1, false},
    {"equalto", test_eq, {"b"}, 1, false},
    {"==", test_eq, {"b"}, 1, false},
    {"ne", test_ne, {"b"}, 1, false},
    {"!=", test_ne, {"b"}, 1, false},
    {"lt", test_lt, {"b"}, 1, false},
    {"lessthan", test_lt, {"b"}, 1, false},
    {"<", test_lt, {"b"}, 1, false},
    {"le", test_le, {"b"}, 1, false},
    {"<=", test_le, {"b"}, 1, false},
    {"gt", test_gt, {"b"}, 1, false},
    {"greaterthan", test_gt, {"b"}, 1, false},
    {">", test_gt, {"b"}, 1, false},
    {"ge", test_ge, {"b"}, 1, false},
    {">=", test_ge, {"b"}, 1, false},
    {"filter", test_filter, {0}, 0, false},
    {"test", test_test, {0}, 0, false},
    {0},
};

const struct builtin *jinja_test_find(const char *name, size_t n)
{
    return jinja_find(tests, name, n);
}
