/* jinja_eval.c - expressions: names, attributes, subscripts, operators and calls. */
#include "engine/jinja_int.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static bool bad(struct jinja *j, const char *why)
{
    return jinja_fail(j, STATUS_BAD_INPUT, "%s", why);
}

/* --- Names --- */

static bool find_variable(struct jinja *j, const struct name *name, struct value *out)
{
    size_t n = 0;
    for (struct scope *s = j->scope; s; s = s->parent) {
        n++;
        for (struct variable *v = s->first; v; v = v->next, n++) {
            if (v->name == name) {
                *out = v->value;
                return true;
            }
        }
    }
    out->kind = VALUE_MISSING;
    return jinja_charge(j, n / 16);
}

static const char *explain(struct jinja *j, const char *fmt, const char *a, const char *b, size_t n)
{
    char *why = jinja_mem_bytes(&j->mem, 160);
    if (!why)
        return "undefined";
    snprintf(why, 160, fmt, a, (int)(n < 80 ? n : 80), b);
    return why;
}

static bool eval_name(struct jinja *j, const struct node *node, struct value *out)
{
    const struct name *name = node->name;
    if (!find_variable(j, name, out))
        return false;
    if (out->kind != VALUE_MISSING)
        return true;
    struct value *given = jinja_dict_find(j->context, name->at, name->n);
    const struct builtin *global = given ? NULL : jinja_global_find(name->at, name->n);
    if (given)
        *out = *given;
    else if (global)
        *out = (struct value){.kind = VALUE_FUNCTION, .function = global};
    else
        *out = value_undefined(explain(j, "%s'%.*s' is undefined", "", name->at, name->n));
    return true;
}

/* --- Attributes and subscripts --- */

static bool undefined_attr(struct jinja *j, const struct value *of, const struct text *name,
                           struct value *out)
{
    if (of->kind == VALUE_UNDEFINED)
        return bad(j, of->why);
    bool is_unsafe = jinja_method_is_unsafe(of, name->at, name->n);
    *out = value_undefined(explain(j,
                                   is_unsafe ? "access to an unsafe attribute of '%s': '%.*s'"
                                             : "'%s object' has no attribute '%.*s'",
                                   value_type(of), name->at, name->n));
    return true;
}

static bool find_method(struct jinja *j, const struct value *of, const struct text *name,
                        struct value *out)
{
    const struct builtin *method = jinja_method_find(of, name->at, name->n);
    if (!method)
        return true;
    struct method *m = jinja_take(j, sizeof *m);
    if (!m)
        return false;
    *m = (struct method){method, *of};
    *out = (struct value){.kind = VALUE_METHOD, .method = m};
    return true;
}

/* What Python's getattr finds; MISSING when it finds nothing. */
static bool find_attr(struct jinja *j, const struct value *of, const struct text *name,
                      struct value *out)
{
    out->kind = VALUE_MISSING;
    if (of->kind == VALUE_LOOP) {
        bool found;
        if (!jinja_loop_attr(j, of->loop, name, &found, out))
            return false;
        if (!found)
            out->kind = VALUE_MISSING;
    }
    if (of->kind == VALUE_MACRO && jinja_text_is(name, "name")) {
        const struct name *of_macro = of->macro->node->name;
        if (!of_macro)
            return value_from_word(j, "caller", out);
        *out = value_text(jinja_text_new(j, of_macro->at, of_macro->n, true));
        return out->text != NULL;
    }
    return out->kind != VALUE_MISSING || find_method(j, of, name, out);
}

bool jinja_get_attr(struct jinja *j, const struct value *of, const struct text *name,
                    struct value *out)
{
    if (!find_attr(j, of, name, out))
        return false;
    if (out->kind != VALUE_MISSING)
        return true;
    if (of->kind == VALUE_DICT || of->kind == VALUE_NAMESPACE) {
        bool is_unsafe = jinja_method_is_unsafe(of, name->at, name->n);
        struct value *found = is_unsafe ? NULL : jinja_dict_find(of->dict, name->at, name->n);
        if (found) {
            *out = *found;
            return jinja_charge(j, of->dict->n / 32);
        }
    }
    return undefined_attr(j, of, name, out);
}

static bool get_char(struct jinja *j, struct text *t, int64_t i, struct value *out)
{
    size_t n = jinja_text_chars(t);
    if (i < 0)
        i += (int64_t)n;
    if (i < 0 || i >= (int64_t)n) {
        *out = value_undefined("string index out of range");
        return true;
    }
    size_t first = jinja_text_offset(t, (size_t)i);
    size_t end = n == t->n ? first + 1 : jinja_text_offset(t, (size_t)i + 1);
    *out = value_text(jinja_text_slice(j, t, first, end));
    return out->text && jinja_charge(j, t->n / 256);
}

static bool get_nth(struct jinja *j, const struct value *of, int64_t i, struct value *out)
{
    if (of->kind == VALUE_TEXT)
        return get_char(j, of->text, i, out);
    int64_t n = of->kind == VALUE_RANGE ? (int64_t)of->range->n : (int64_t)of->list->n;
    if (i < 0)
        i += n;
    if (i < 0 || i >= n)
        *out =
            value_undefined(explain(j, "%s object has no such element%.*s", value_type(of), "", 0));
    else if (of->kind == VALUE_RANGE)
        *out = value_int(of->range->start + i * of->range->step);
    else
        *out = of->list->at[i];
    return true;
}

bool jinja_get_item(struct jinja *j, const struct value *of, const struct value *key,
                    struct value *out)
{
    bool is_sequence = of->kind == VALUE_LIST || of->kind == VALUE_TUPLE ||
                       of->kind == VALUE_TEXT || of->kind == VALUE_RANGE;
    if (of->kind == VALUE_UNDEFINED)
        return bad(j, of->why);
    if (is_sequence && value_is_integer(key))
        return get_nth(j, of, key->kind == VALUE_BOOL ? key->b : key->i, out);
    if (of->kind == VALUE_DICT && key->kind != VALUE_LIST && key->kind != VALUE_DICT) {
        struct value *found;
        if (!jinja_dict_get(j, of->dict, key, &found))
            return false;
        if (found) {
            *out = *found;
            return true;
        }
    }
    if (key->kind == VALUE_TEXT) {
        if (of->kind == VALUE_NAMESPACE)
            return jinja_get_attr(j, of, key->text, out);
        if (!find_attr(j, of, key->text, out))
            return false;
        return out->kind != VALUE_MISSING || undefined_attr(j, of, key->text, out);
    }
    *out = value_undefined(explain(j, "%s object has no such element%.*s", value_type(of), "", 0));
    return true;
}

/* --- Slices --- */

static bool slice_part(struct jinja *j, const struct value *v, int64_t fallback, int64_t *out)
{
    if (v->kind == VALUE_MISSING || v->kind == VALUE_NONE)
        *out = fallback;
    else if (value_is_integer(v))
        *out = v->kind == VALUE_BOOL ? v->b : v->i;
    else
        return bad(j, "slice indices must be integers or None");
    return true;
}

static int64_t clamp(int64_t i, int64_t n, int64_t low, int64_t high)
{
    if (i < 0)
        i = i < -n ? low : i + n;
    return i < low ? low : i > high ? high : i;
}

static bool slice_text(struct jinja *j, struct text *t, const int64_t at[3], struct value *out)
{
    int64_t start = at[0], stop = at[1], step = at[2];
    if (step == 1) {
        size_t first = jinja_text_offset(t, (size_t)start);
        size_t end = stop > start ? jinja_text_offset(t, (size_t)stop) : first;
        *out = value_text(jinja_text_slice(j, t, first, end));
        return out->text && jinja_charge(j, t->n / 256);
    }
    struct list *chars;
    struct build b;
    struct value whole = value_text(t);
    if (!jinja_items(j, &whole, &chars) || !jinja_build_open(j, &b))
        return false;
    for (int64_t i = start; step > 0 ? i < stop : i > stop; i += step) {
        const struct text *c = chars->at[i].text;
        if (!jinja_build_text(&b, c, 0, c->n))
            return false;
        if (__builtin_add_overflow(i, step, &(int64_t){0}))
            break;
    }
    *out = value_text(jinja_build_end(&b));
    return out->text != NULL;
}

static bool slice_list(struct jinja *j, const struct value *of, const int64_t at[3],
                       struct value *out)
{
    struct list *items, *part = jinja_list_new(j, 0);
    if (!part || !jinja_items(j, of, &items))
        return false;
    for (int64_t i = at[0]; at[2] > 0 ? i < at[1] : i > at[1]; i += at[2]) {
        if (!jinja_list_add(j, part, items->at[i]))
            return false;
        if (__builtin_add_overflow(i, at[2], &(int64_t){0}))
            break;
    }
    part->caller = items->caller;
    *out = value_list(of->kind == VALUE_TUPLE ? VALUE_TUPLE : VALUE_LIST, part);
    return jinja_charge(j, part->n / 16);
}

bool jinja_slice(struct jinja *j, const struct value *of, const struct value part[3],
                 struct value *out)
{
    int64_t at[3] = {0};
    if (of->kind == VALUE_UNDEFINED)
        return bad(j, of->why);
    if (of->kind != VALUE_TEXT && of->kind != VALUE_LIST && of->kind != VALUE_TUPLE &&
        of->kind != VALUE_RANGE) {
        *out = value_undefined("object cannot be sliced");
        return true;
    }
    size_t length;
    if (!jinja_length(j, of, &length) || !slice_part(j, &part[2], 1, &at[2]))
        return false;
    int64_t n = (int64_t)length;
    if (at[2] == 0)
        return bad(j, "slice step cannot be zero");
    bool forward = at[2] > 0;
    if (!slice_part(j, &part[0], forward ? 0 : n - 1, &at[0]) ||
        !slice_part(j, &part[1], forward ? n : INT64_MIN, &at[1]))
        return false;
    int64_t low = forward ? 0 : -1, high = forward ? n : n - 1;
    at[0] = clamp(at[0], n, low, high);
    at[1] = at[1] == INT64_MIN && !forward ? -1 : clamp(at[1], n, low, high);
    return of->kind == VALUE_TEXT ? slice_text(j, of->text, at, out) : slice_list(j, of, at, out);
}

static bool eval_slice(struct jinja *j, const struct node *node, struct value *out)
{
    struct value of, part[3] = {0};
    if (!jinja_eval(j, node->a, &of))
        return false;
    for (size_t i = 0; i < 3; i++) {
        if (node->list.at[i] && !jinja_eval(j, node->list.at[i], &part[i]))
            return false;
    }
    return jinja_slice(j, &of, part, out);
}

/* --- Literals --- */

static bool eval_list(struct jinja *j, const struct node *node, struct value *out)
{
    struct list *l = jinja_list_new(j, node->list.n);
    if (!l)
        return false;
    for (size_t i = 0; i < node->list.n; i++) {
        struct value v;
        if (!jinja_eval(j, node->list.at[i], &v) || !jinja_list_add(j, l, v))
            return false;
    }
    *out = value_list(node->kind == NODE_LIST ? VALUE_LIST : VALUE_TUPLE, l);
    return true;
}

static bool eval_dict(struct jinja *j, const struct node *node, struct value *out)
{
    struct dict *d = jinja_dict_new(j, node->list.n / 2);
    if (!d)
        return false;
    for (size_t i = 0; i < node->list.n; i += 2) {
        struct value key, v;
        if (!jinja_eval(j, node->list.at[i], &key) || !jinja_eval(j, node->list.at[i + 1], &v) ||
            !jinja_dict_set(j, d, key, v))
            return false;
    }
    *out = (struct value){.kind = VALUE_DICT, .dict = d};
    return true;
}

/* --- Operators that are not arithmetic --- */

static bool eval_concat(struct jinja *j, const struct node *node, struct value *out)
{
    struct text *whole = NULL, *part;
    for (size_t i = 0; i < node->list.n; i++) {
        struct value v;
        if (!jinja_eval(j, node->list.at[i], &v) || !jinja_to_text(j, &v, &part))
            return false;
        whole = whole ? jinja_text_concat(j, whole, part) : part;
        if (!whole)
            return false;
    }
    *out = value_text(whole);
    return true;
}

static bool compare(struct jinja *j, enum compare_op op, const struct value *a,
                    const struct value *b, bool *is)
{
    int order;
    switch (op) {
    case CMP_EQ:
        return jinja_equal(j, a, b, is);
    case CMP_NE:
        if (!jinja_equal(j, a, b, is))
            return false;
        *is = !*is;
        return true;
    case CMP_IN:
        return jinja_contains(j, b, a, is);
    case CMP_NOT_IN:
        if (!jinja_contains(j, b, a, is))
            return false;
        *is = !*is;
        return true;
    default:
        if (!jinja_order(j, a, b, &order))
            return false;
        *is = order != 2 && (op == CMP_LT   ? order < 0
                             : op == CMP_LE ? order <= 0
                             : op == CMP_GT ? order > 0
                                            : order >= 0);
        return true;
    }
}

static bool eval_compare(struct jinja *j, const struct node *node, struct value *out)
{
    struct value left, right;
    if (!jinja_eval(j, node->a, &left))
        return false;
    bool is = true;
    for (size_t i = 0; i < node->list.n && is; i++) {
        if (!jinja_eval(j, node->list.at[i], &right) ||
            !compare(j, node->ops[i], &left, &right, &is))
            return false;
        left = right;
    }
    *out = value_bool(is);
    return true;
}

/* The value that decides, as in Python. */
static bool eval_logic(struct jinja *j, const struct node *node, struct value *out)
{
    bool truth;
    if (!jinja_eval(j, node->a, out) || !jinja_truth(j, out, &truth))
        return false;
    return truth == (node->kind == NODE_OR) || jinja_eval(j, node->b, out);
}

static bool eval_not(struct jinja *j, const struct node *node, struct value *out)
{
    struct value v;
    bool truth;
    if (!jinja_eval(j, node->a, &v) || !jinja_truth(j, &v, &truth))
        return false;
    *out = value_bool(!truth);
    return true;
}

static bool eval_sign(struct jinja *j, const struct node *node, struct value *out)
{
    struct value v, zero = value_int(0);
    if (!jinja_eval(j, node->a, &v))
        return false;
    if (v.kind == VALUE_UNDEFINED)
        return bad(j, v.why);
    if (!value_is_number(&v))
        return jinja_fail(j, STATUS_BAD_INPUT, "bad operand type for unary %c: '%s'", node->op,
                          value_type(&v));
    if (v.kind == VALUE_FLOAT && node->op == '-') {
        v.f = -v.f;
        *out = v;
        return true;
    }
    return jinja_binary(j, node->op, &zero, &v, out);
}

static bool eval_cond(struct jinja *j, const struct node *node, struct value *out)
{
    struct value v;
    bool truth;
    if (!jinja_eval(j, node->a, &v) || !jinja_truth(j, &v, &truth))
        return false;
    if (truth)
        return jinja_eval(j, node->b, out);
    if (node->c)
        return jinja_eval(j, node->c, out);
    *out = value_undefined("the inline if-expression is false and has no else");
    return true;
}

/* --- Calls --- */

static bool add_kwargs(struct jinja *j, const struct call_args *from, struct args *args,
                       const struct dict *more)
{
    size_t n = from->kw.n + (more ? more->n : 0);
    args->kw = jinja_take(j, n * sizeof *args->kw);
    if (!args->kw)
        return false;
    for (size_t i = 0; i < from->kw.n; i++) {
        struct kwarg *kw = &args->kw[args->n_kw++];
        *kw = (struct kwarg){.at = from->kw_name[i]->at, .n = from->kw_name[i]->n};
        if (!jinja_eval(j, from->kw.at[i], &kw->value))
            return false;
    }
    for (size_t i = 0; more && i < more->n; i++) {
        const struct value *key = &more->at[i].key;
        if (key->kind != VALUE_TEXT)
            return bad(j, "keywords must be strings");
        args->kw[args->n_kw++] = (struct kwarg){key->text->at, key->text->n, more->at[i].value};
    }
    return true;
}

static bool eval_args(struct jinja *j, const struct call_args *from, struct args *args)
{
    *args = (struct args){0};
    if (!from)
        return true;
    struct list *l = jinja_list_new(j, from->pos.n);
    struct value more;
    if (!l)
        return false;
    for (size_t i = 0; i < from->pos.n; i++) {
        if (!jinja_eval(j, from->pos.at[i], &more) || !jinja_list_add(j, l, more))
            return false;
    }
    if (from->star) {
        struct list *items;
        if (!jinja_eval(j, from->star, &more) || !jinja_items(j, &more, &items))
            return false;
        for (size_t i = 0; i < items->n; i++) {
            if (!jinja_list_add(j, l, items->at[i]))
                return false;
        }
    }
    args->pos = l->at;
    args->n = l->n;
    if (from->star2 && (!jinja_eval(j, from->star2, &more) || more.kind != VALUE_DICT))
        return j->st->code == STATUS_OK ? bad(j, "argument after ** must be a mapping") : false;
    return (!from->kw.n && !from->star2) ||
           add_kwargs(j, from, args, from->star2 ? more.dict : NULL);
}

static bool find_param(const struct builtin *f, const struct kwarg *kw, size_t *at)
{
    for (*at = 0; *at < JINJA_PARAMS_MAX && f->param[*at]; ++*at) {
        if (strlen(f->param[*at]) == kw->n && memcmp(f->param[*at], kw->at, kw->n) == 0)
            return true;
    }
    return false;
}

bool jinja_call_builtin(struct jinja *j, const struct builtin *f, const struct value *self,
                        struct args *args, struct value *out)
{
    if (f->raw)
        return f->call(j, self, args, out);
    struct value bound[JINJA_PARAMS_MAX] = {0};
    size_t n = 0, at;
    while (n < JINJA_PARAMS_MAX && f->param[n])
        n++;
    if (args->n > n)
        return jinja_fail(j, STATUS_BAD_INPUT, "%s takes at most %zu arguments (%zu given)",
                          f->name, n, args->n);
    for (size_t i = 0; i < args->n; i++)
        bound[i] = args->pos[i];
    for (size_t i = 0; i < args->n_kw; i++) {
        if (!find_param(f, &args->kw[i], &at) || bound[at].kind != VALUE_MISSING)
            return jinja_fail(j, STATUS_BAD_INPUT, "%s got an unexpected keyword argument '%.*s'",
                              f->name, (int)(args->kw[i].n < 60 ? args->kw[i].n : 60),
                              args->kw[i].at);
        bound[at] = args->kw[i].value;
    }
    for (size_t i = 0; i < f->n_required; i++) {
        if (bound[i].kind == VALUE_MISSING)
            return jinja_fail(j, STATUS_BAD_INPUT, "%s needs argument '%s'", f->name, f->param[i]);
    }
    struct args whole = {.pos = bound, .n = n};
    return f->call(j, self, &whole, out);
}

bool jinja_call(struct jinja *j, const struct value *callee, struct args *args, struct value *out)
{
    switch (callee->kind) {
    case VALUE_FUNCTION:
        return jinja_call_builtin(j, callee->function, NULL, args, out);
    case VALUE_METHOD:
        return jinja_call_builtin(j, callee->method->of, &callee->method->self, args, out);
    case VALUE_MACRO:
        return jinja_call_macro(j, callee->macro, args, out);
    case VALUE_LOOP:
        return jinja_loop_again(j, callee->loop, args, out);
    case VALUE_UNDEFINED:
        return bad(j, callee->why);
    default:
        return jinja_fail(j, STATUS_BAD_INPUT, "'%s' object is not callable", value_type(callee));
    }
}

static bool eval_call(struct jinja *j, const struct node *node, struct value *out)
{
    struct value callee;
    struct args args;
    if (!jinja_eval(j, node->a, &callee) || !eval_args(j, node->args, &args))
        return false;
    j->line = node->line;
    return jinja_call(j, &callee, &args, out);
}

static bool eval_filter(struct jinja *j, const struct node *node, struct value *out)
{
    struct value of;
    struct args args;
    if (!jinja_eval(j, node->a, &of) || !eval_args(j, node->args, &args))
        return false;
    j->line = node->line;
    return jinja_call_builtin(j, node->builtin, &of, &args, out);
}

static bool eval_attr(struct jinja *j, const struct node *node, struct value *out)
{
    struct value of;
    if (!jinja_eval(j, node->a, &of))
        return false;
    struct text name = {.at = node->name->at, .n = node->name->n, .n_chars = SIZE_MAX};
    return jinja_get_attr(j, &of, &name, out);
}

static bool eval_pair(struct jinja *j, const struct node *node, struct value *out)
{
    struct value a, b;
    if (!jinja_eval(j, node->a, &a) || !jinja_eval(j, node->b, &b))
        return false;
    j->line = node->line;
    return node->kind == NODE_ITEM ? jinja_get_item(j, &a, &b, out)
                                   : jinja_binary(j, node->op, &a, &b, out);
}

static bool eval_kind(struct jinja *j, const struct node *node, struct value *out)
{
    switch (node->kind) {
    case NODE_CONST:
        *out = node->constant;
        return true;
    case NODE_NAME:
        return eval_name(j, node, out);
    case NODE_LIST:
    case NODE_TUPLE:
        return eval_list(j, node, out);
    case NODE_DICT:
        return eval_dict(j, node, out);
    case NODE_ATTR:
        return eval_attr(j, node, out);
    case NODE_ITEM:
    case NODE_BINARY:
        return eval_pair(j, node, out);
    case NODE_SLICE:
        return eval_slice(j, node, out);
    case NODE_CALL:
        return eval_call(j, node, out);
    case NODE_FILTER:
    case NODE_TEST:
        return eval_filter(j, node, out);
    case NODE_NOT:
        return eval_not(j, node, out);
    case NODE_SIGN:
        return eval_sign(j, node, out);
    case NODE_AND:
    case NODE_OR:
        return eval_logic(j, node, out);
    case NODE_COMPARE:
        return eval_compare(j, node, out);
    case NODE_CONCAT:
        return eval_concat(j, node, out);
    default:
        return eval_cond(j, node, out);
    }
}

bool jinja_eval(struct jinja *j, const struct node *node, struct value *out)
{
    j->line = node->line;
    if (j->n_eval == JINJA_EVAL_MAX)
        return jinja_fail(j, STATUS_TOO_LARGE, "evaluation is nested more than %d deep",
                          JINJA_EVAL_MAX);
    if (!jinja_charge(j, 1))
        return false;
    j->n_eval++;
    bool ok = eval_kind(j, node, out);
    j->n_eval--;
    return ok;
}
