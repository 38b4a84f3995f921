/* jinja_exec.c - statements: output, conditions, loops, assignments, macros. */
#include "engine/jinja_int.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum flow { FLOW_NEXT, FLOW_BREAK, FLOW_CONTINUE, FLOW_FAIL };

static enum flow run_list(struct jinja *j, const struct node_list *list);

/* --- The render's limits --- */

bool jinja_fail(struct jinja *j, enum status_code code, const char *fmt, ...)
{
    if (j->st->code != STATUS_OK)
        return false;
    char what[200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    return status_fail(j->st, code, "line %u: %s", j->line, what);
}

bool jinja_charge(struct jinja *j, size_t n_steps)
{
    if (n_steps > JINJA_STEPS_MAX - j->n_steps) {
        j->n_steps = JINJA_STEPS_MAX;
        return jinja_fail(j, STATUS_TOO_LARGE, "template runs more than %d steps", JINJA_STEPS_MAX);
    }
    j->n_steps += (uint32_t)n_steps;
    return true;
}

void *jinja_take(struct jinja *j, size_t n)
{
    void *at = jinja_mem_take(&j->mem, n);
    if (!at)
        jinja_fail(j, STATUS_TOO_LARGE, "values need more than %d bytes", JINJA_VALUES_MAX);
    return at;
}

bool jinja_enter(struct jinja *j)
{
    if (j->n_depth == JINJA_DEPTH_MAX)
        return jinja_fail(j, STATUS_TOO_LARGE, "values are nested more than %d deep",
                          JINJA_DEPTH_MAX);
    j->n_depth++;
    return true;
}

void jinja_leave(struct jinja *j)
{
    j->n_depth--;
}

/* --- Scopes --- */

struct scope *jinja_scope_push(struct jinja *j, struct scope *parent)
{
    struct scope *s = jinja_take(j, sizeof *s);
    if (s)
        s->parent = parent;
    return s;
}

bool jinja_set(struct jinja *j, const struct name *name, const struct value *v)
{
    size_t n = 0;
    for (struct variable *old = j->scope->first; old; old = old->next, n++) {
        if (old->name == name) {
            old->value = *v;
            return true;
        }
    }
    struct variable *new = j->spare ? j->spare : jinja_take(j, sizeof *new);
    if (!new)
        return false;
    if (new == j->spare)
        j->spare = new->next;
    *new = (struct variable){name, *v, j->scope->first};
    j->scope->first = new;
    return jinja_charge(j, n / 16);
}

static void capture(struct scope *s)
{
    for (; s && !s->captured; s = s->parent)
        s->captured = true;
}

/* An empty scope in place of `s`, for the next turn of a loop. */
static struct scope *renew_scope(struct jinja *j, struct scope *s)
{
    if (s->captured)
        return jinja_scope_push(j, s->parent);
    while (s->first) {
        struct variable *v = s->first;
        s->first = v->next;
        v->next = j->spare;
        j->spare = v;
    }
    return s;
}

/* --- Assignment --- */

static bool set_namespace(struct jinja *j, const struct node *target, const struct value *v)
{
    struct value of;
    if (!jinja_eval(j, target->a, &of))
        return false;
    if (of.kind != VALUE_NAMESPACE)
        return jinja_fail(j, STATUS_BAD_INPUT, "cannot assign attribute on non-namespace object");
    const struct name *name = target->name;
    if (name->at[0] == '_')
        return jinja_fail(j, STATUS_BAD_INPUT, "namespace attribute '%.*s' starts with _",
                          (int)(name->n < 60 ? name->n : 60), name->at);
    struct text *key = jinja_text_new(j, name->at, name->n, true);
    return key && jinja_dict_set(j, of.dict, value_text(key), *v);
}

static bool unpack(struct jinja *j, const struct node *target, const struct value *v)
{
    struct list *items;
    if (!jinja_items(j, v, &items))
        return false;
    if (items->n != target->list.n)
        return jinja_fail(j, STATUS_BAD_INPUT, "%zu values to unpack, expected %zu", items->n,
                          target->list.n);
    for (size_t i = 0; i < items->n; i++) {
        if (!jinja_assign(j, target->list.at[i], &items->at[i]))
            return false;
    }
    return true;
}

bool jinja_assign(struct jinja *j, const struct node *target, const struct value *v)
{
    if (target->kind == NODE_TUPLE)
        return unpack(j, target, v);
    return target->kind == NODE_ATTR ? set_namespace(j, target, v) : jinja_set(j, target->name, v);
}

/* --- Capturing what statements write --- */

static enum flow run_captured(struct jinja *j, const struct node_list *body, struct value *out)
{
    struct build b, *outer = j->out;
    if (!jinja_build_open(j, &b))
        return FLOW_FAIL;
    j->out = &b;
    enum flow flow = run_list(j, body);
    j->out = outer;
    if (flow == FLOW_FAIL)
        return FLOW_FAIL;
    *out = value_text(jinja_build_end(&b));
    return out->text ? flow : FLOW_FAIL;
}

/* The filters of a set or filter block: the innermost has no operand. */
static bool apply_filters(struct jinja *j, const struct node *filters, struct value *v)
{
    if (!filters)
        return true;
    const struct node *chain[JINJA_NEST_MAX];
    size_t n = 0;
    for (const struct node *f = filters; f; f = f->a) {
        if (n == JINJA_NEST_MAX)
            return jinja_fail(j, STATUS_TOO_LARGE, "more than %d filters in a chain",
                              JINJA_NEST_MAX);
        chain[n++] = f;
    }
    while (n-- > 0) {
        struct node operand = {.kind = NODE_CONST, .line = chain[n]->line, .constant = *v};
        struct node filter = *chain[n];
        filter.a = &operand;
        if (!jinja_eval(j, &filter, v))
            return false;
    }
    return true;
}

/* --- Macros --- */

static const struct kwarg *find_kwarg(const struct args *args, const char *at, size_t n, size_t *i)
{
    for (*i = 0; *i < args->n_kw; ++*i) {
        if (args->kw[*i].n == n && memcmp(args->kw[*i].at, at, n) == 0)
            return &args->kw[*i];
    }
    return NULL;
}

static bool set_word(struct jinja *j, enum name_word word, const struct value *v)
{
    const struct name *name = j->template->word[word];
    return !name || jinja_set(j, name, v);
}

static bool bind_param(struct jinja *j, const struct node *node, size_t i, struct args *args,
                       uint64_t *used)
{
    const struct name *name = node->params.at[i]->name;
    size_t n_plain = node->params.n - node->defaults.n, at;
    const struct kwarg *kw = find_kwarg(args, name->at, name->n, &at);
    struct value v = value_undefined("a parameter of the macro was not provided");
    if (kw && i < args->n)
        return jinja_fail(j, STATUS_BAD_INPUT, "macro got two values for argument '%.*s'",
                          (int)(name->n < 60 ? name->n : 60), name->at);
    if (kw && at < 64)
        *used |= UINT64_C(1) << at;
    if (i < args->n)
        v = args->pos[i];
    else if (kw)
        v = kw->value;
    else if (i >= n_plain && !jinja_eval(j, node->defaults.at[i - n_plain], &v))
        return false;
    return jinja_set(j, name, &v);
}

/* Arguments that no parameter takes: varargs, kwargs and caller, when the body names them. */
static bool bind_rest(struct jinja *j, const struct node *node, const struct args *args,
                      uint64_t used)
{
    struct list *rest = jinja_list_new(j, 0);
    struct dict *named = jinja_dict_new(j, 0);
    struct value caller = value_undefined("no caller defined");
    if (!rest || !named)
        return false;
    for (size_t i = node->params.n; i < args->n; i++) {
        if (!node->wants_varargs)
            return jinja_fail(j, STATUS_BAD_INPUT, "macro takes not more than %zu arguments",
                              node->params.n);
        if (!jinja_list_add(j, rest, args->pos[i]))
            return false;
    }
    for (size_t i = 0; i < args->n_kw; i++) {
        const struct kwarg *kw = &args->kw[i];
        if (used & UINT64_C(1) << i)
            continue;
        if (node->wants_caller && kw->n == 6 && memcmp(kw->at, "caller", 6) == 0) {
            caller = kw->value;
            continue;
        }
        if (!node->wants_kwargs)
            return jinja_fail(j, STATUS_BAD_INPUT, "macro takes no keyword argument '%.*s'",
                              (int)(kw->n < 60 ? kw->n : 60), kw->at);
        struct text *key = jinja_text_new(j, kw->at, kw->n, true);
        if (!key || !jinja_dict_set(j, named, value_text(key), kw->value))
            return false;
    }
    struct value varargs = value_list(VALUE_TUPLE, rest);
    struct value kwargs = {.kind = VALUE_DICT, .dict = named};
    return (!node->wants_varargs || set_word(j, WORD_VARARGS, &varargs)) &&
           (!node->wants_kwargs || set_word(j, WORD_KWARGS, &kwargs)) &&
           (!node->wants_caller || set_word(j, WORD_CALLER, &caller));
}

static bool run_macro(struct jinja *j, struct macro *m, struct args *args, struct value *out)
{
    uint64_t used = 0;
    if (args->n_kw > 64)
        return jinja_fail(j, STATUS_TOO_LARGE, "more than 64 keyword arguments");
    for (size_t i = 0; i < m->node->params.n; i++) {
        if (!bind_param(j, m->node, i, args, &used))
            return false;
    }
    return bind_rest(j, m->node, args, used) && run_captured(j, &m->node->body, out) != FLOW_FAIL;
}

bool jinja_call_macro(struct jinja *j, struct macro *m, struct args *args, struct value *out)
{
    if (j->n_calls == JINJA_CALLS_MAX)
        return jinja_fail(j, STATUS_TOO_LARGE, "macros call each other more than %d deep",
                          JINJA_CALLS_MAX);
    struct scope *outer = j->scope;
    j->scope = jinja_scope_push(j, m->scope);
    if (!j->scope)
        return false;
    j->n_calls++;
    bool ok = run_macro(j, m, args, out);
    j->n_calls--;
    j->scope = outer;
    return ok;
}

static bool make_macro(struct jinja *j, const struct node *node, struct value *out)
{
    struct macro *m = jinja_take(j, sizeof *m);
    if (!m)
        return false;
    *m = (struct macro){node, j->scope};
    capture(j->scope);
    *out = (struct value){.kind = VALUE_MACRO, .macro = m};
    return true;
}

/* {% call f(a) %}: f(a, caller=the block) */
static bool run_call_block(struct jinja *j, const struct node *node)
{
    struct value caller, result;
    if (!make_macro(j, node, &caller))
        return false;
    static const struct name caller_name = {.at = "caller", .n = 6};
    struct node block = {.kind = NODE_CONST, .line = node->line, .constant = caller};
    const struct call_args *given = node->a->args;
    size_t n = given->kw.n;
    struct call_args *args = jinja_take(j, sizeof *args);
    struct node **kw = jinja_take(j, (n + 1) * sizeof *kw);
    const struct name **names = jinja_take(j, (n + 1) * sizeof *names);
    if (!args || !kw || !names)
        return false;
    for (size_t i = 0; i < n; i++) {
        kw[i] = given->kw.at[i];
        names[i] = given->kw_name[i];
    }
    kw[n] = &block;
    names[n] = &caller_name;
    *args = *given;
    args->kw = (struct node_list){.at = kw, .n = n + 1};
    args->kw_name = (struct name **)names;
    struct node call = *node->a;
    call.args = args;
    return jinja_eval(j, &call, &result) && jinja_put_value(j->out, &result);
}

/* --- Statements --- */

static enum flow run_if(struct jinja *j, const struct node *node)
{
    struct value v;
    bool truth;
    if (!jinja_eval(j, node->a, &v) || !jinja_truth(j, &v, &truth))
        return FLOW_FAIL;
    if (truth)
        return run_list(j, &node->body);
    for (size_t i = 0; i < node->list.n; i++) {
        const struct node *part = node->list.at[i];
        if (!jinja_eval(j, part->a, &v) || !jinja_truth(j, &v, &truth))
            return FLOW_FAIL;
        if (truth)
            return run_list(j, &part->body);
    }
    return run_list(j, &node->orelse);
}

static bool print(struct jinja *j, const struct node *node)
{
    struct value v;
    if (!jinja_eval(j, node->a, &v))
        return false;
    j->line = node->line;
    return jinja_put_value(j->out, &v);
}

static bool set(struct jinja *j, const struct node *node)
{
    struct value v;
    return jinja_eval(j, node->b, &v) && jinja_assign(j, node->a, &v);
}

static enum flow run_inner(struct jinja *j, const struct node *node, struct value *text)
{
    struct scope *outer = j->scope;
    j->scope = jinja_scope_push(j, outer);
    enum flow flow = FLOW_FAIL;
    if (j->scope)
        flow = text ? run_captured(j, &node->body, text) : run_list(j, &node->body);
    j->scope = outer;
    return flow;
}

static bool set_block(struct jinja *j, const struct node *node)
{
    struct value v;
    return run_inner(j, node, &v) != FLOW_FAIL && apply_filters(j, node->b, &v) &&
           jinja_assign(j, node->a, &v);
}

static bool filter_block(struct jinja *j, const struct node *node)
{
    struct value v;
    return run_inner(j, node, &v) != FLOW_FAIL && apply_filters(j, node->b, &v) &&
           jinja_put_value(j->out, &v);
}

static enum flow run_with(struct jinja *j, const struct node *node)
{
    struct scope *outer = j->scope, *inner = jinja_scope_push(j, outer);
    if (!inner)
        return FLOW_FAIL;
    for (size_t i = 0; i < node->list.n; i += 2) {
        struct value v;
        j->scope = outer;
        bool ok = jinja_eval(j, node->list.at[i + 1], &v);
        j->scope = inner;
        if (!ok || !jinja_assign(j, node->list.at[i], &v)) {
            j->scope = outer;
            return FLOW_FAIL;
        }
    }
    j->scope = inner;
    enum flow flow = run_list(j, &node->body);
    j->scope = outer;
    return flow;
}

static enum flow as_flow(bool ok)
{
    return ok ? FLOW_NEXT : FLOW_FAIL;
}

/* --- Loops --- */

/* Does the loop's `if` let this item pass? */
static bool judge_item(struct jinja *j, const struct loop *loop, const struct value *item,
                       bool *pass)
{
    struct scope *outer = j->scope;
    struct value v;
    j->scope = jinja_scope_push(j, loop->scope);
    bool ok = j->scope && jinja_assign(j, loop->node->a, item) &&
              jinja_eval(j, loop->node->c, &v) && jinja_truth(j, &v, pass);
    j->scope = outer;
    return ok;
}

bool jinja_loop_fill(struct jinja *j, struct loop *loop, size_t n)
{
    while (loop->items->n < n && loop->n_from < loop->from->n) {
        const struct value *item = &loop->from->at[loop->n_from++];
        bool pass;
        if (!judge_item(j, loop, item, &pass))
            return false;
        if (pass && !jinja_list_add(j, loop->items, *item))
            return false;
    }
    return true;
}

static bool loop_number(struct jinja *j, struct loop *loop, const struct text *name, bool *found,
                        struct value *out)
{
    int64_t i = (int64_t)loop->index0;
    *found = true;
    if (jinja_text_is(name, "index"))
        *out = value_int(i + 1);
    else if (jinja_text_is(name, "index0"))
        *out = value_int(i);
    else if (jinja_text_is(name, "first"))
        *out = value_bool(i == 0);
    else if (jinja_text_is(name, "depth"))
        *out = value_int((int64_t)loop->depth0 + 1);
    else if (jinja_text_is(name, "depth0"))
        *out = value_int((int64_t)loop->depth0);
    else
        *found = false;
    if (*found)
        return true;
    bool after = jinja_text_is(name, "revindex"), after0 = jinja_text_is(name, "revindex0");
    *found = after || after0 || jinja_text_is(name, "length");
    if (!*found)
        return true;
    if (!jinja_loop_fill(j, loop, SIZE_MAX))
        return false;
    int64_t n = (int64_t)loop->items->n;
    *out = value_int(after ? n - i : after0 ? n - i - 1 : n);
    return true;
}

bool jinja_loop_attr(struct jinja *j, struct loop *loop, const struct text *name, bool *found,
                     struct value *out)
{
    if (!loop_number(j, loop, name, found, out) || *found)
        return j->st->code == STATUS_OK;
    bool last = jinja_text_is(name, "last"), next = jinja_text_is(name, "nextitem");
    *found = last || next || jinja_text_is(name, "previtem");
    if (!*found)
        return true;
    if ((last || next) && !jinja_loop_fill(j, loop, loop->index0 + 2))
        return false;
    bool has_next = loop->index0 + 1 < loop->items->n;
    if (last)
        *out = value_bool(!has_next);
    else if (next)
        *out =
            has_next ? loop->items->at[loop->index0 + 1] : value_undefined("there is no next item");
    else
        *out = loop->index0 ? loop->items->at[loop->index0 - 1]
                            : value_undefined("there is no previous item");
    return true;
}

static enum flow run_turns(struct jinja *j, struct loop *loop)
{
    const struct value self = {.kind = VALUE_LOOP, .loop = loop};
    j->scope = jinja_scope_push(j, loop->scope);
    for (loop->index0 = 0; j->scope; loop->index0++) {
        if (!jinja_charge(j, 1) || !jinja_loop_fill(j, loop, loop->index0 + 1))
            return FLOW_FAIL;
        if (loop->index0 >= loop->items->n)
            return FLOW_NEXT;
        if (!jinja_assign(j, loop->node->a, &loop->items->at[loop->index0]) ||
            !set_word(j, WORD_LOOP, &self))
            return FLOW_FAIL;
        enum flow flow = run_list(j, &loop->node->body);
        if (flow == FLOW_FAIL || flow == FLOW_BREAK)
            return flow == FLOW_FAIL ? FLOW_FAIL : FLOW_NEXT;
        loop->has_ended_turn |= flow == FLOW_NEXT;
        j->scope = renew_scope(j, j->scope);
    }
    return FLOW_FAIL;
}

static bool run_loop(struct jinja *j, const struct node *node, const struct value *source,
                     struct scope *around, size_t depth0)
{
    struct loop *loop = jinja_take(j, sizeof *loop);
    if (!loop)
        return false;
    *loop = (struct loop){.node = node, .scope = around, .source = *source, .depth0 = depth0};
    if (!jinja_items(j, source, &loop->from))
        return false;
    loop->items = node->c ? jinja_list_new(j, 0) : loop->from;
    if (!loop->items)
        return false;
    if (!node->c)
        loop->n_from = loop->from->n;
    struct scope *outer = j->scope;
    bool ok = run_turns(j, loop) != FLOW_FAIL;
    j->scope = around;
    if (ok && !loop->has_ended_turn) /* jinja2's rule for else */
        ok = run_list(j, &node->orelse) != FLOW_FAIL;
    j->scope = outer;
    return ok;
}

static bool run_for(struct jinja *j, const struct node *node)
{
    struct value source;
    if (!jinja_eval(j, node->b, &source))
        return false;
    j->line = node->line;
    return run_loop(j, node, &source, j->scope, 0);
}

bool jinja_loop_again(struct jinja *j, struct loop *loop, struct args *args, struct value *out)
{
    if (!loop->node->op)
        return jinja_fail(j, STATUS_BAD_INPUT,
                          "the loop must have the 'recursive' marker to be called");
    if (args->n != 1 || args->n_kw)
        return jinja_fail(j, STATUS_BAD_INPUT, "loop takes one argument");
    if (j->n_calls == JINJA_CALLS_MAX)
        return jinja_fail(j, STATUS_TOO_LARGE, "loop is more than %d deep", JINJA_CALLS_MAX);
    struct build b, *outer = j->out;
    if (!jinja_build_open(j, &b))
        return false;
    j->n_calls++;
    j->out = &b;
    bool ok = run_loop(j, loop->node, &args->pos[0], loop->scope, loop->depth0 + 1);
    j->out = outer;
    j->n_calls--;
    *out = value_text(ok ? jinja_build_end(&b) : NULL);
    return out->text != NULL;
}

/* --- The whole --- */

static enum flow run_kind(struct jinja *j, const struct node *node)
{
    struct value v;
    switch (node->kind) {
    case NODE_TEXT:
        return as_flow(jinja_put_value(j->out, &node->constant));
    case NODE_PRINT:
        return as_flow(print(j, node));
    case NODE_IF:
        return run_if(j, node);
    case NODE_FOR:
        return as_flow(run_for(j, node));
    case NODE_SET:
        return as_flow(set(j, node));
    case NODE_SET_BLOCK:
        return as_flow(set_block(j, node));
    case NODE_MACRO:
        return as_flow(make_macro(j, node, &v) && jinja_set(j, node->name, &v));
    case NODE_CALL_BLOCK:
        return as_flow(run_call_block(j, node));
    case NODE_FILTER_BLOCK:
        return as_flow(filter_block(j, node));
    case NODE_WITH:
        return run_with(j, node);
    case NODE_GENERATION:
        return run_inner(j, node, NULL);
    case NODE_BREAK:
        return FLOW_BREAK;
    default:
        return FLOW_CONTINUE;
    }
}

static enum flow run_list(struct jinja *j, const struct node_list *list)
{
    if (j->n_eval == JINJA_EVAL_MAX) {
        jinja_fail(j, STATUS_TOO_LARGE, "evaluation is nested more than %d deep", JINJA_EVAL_MAX);
        return FLOW_FAIL;
    }
    j->n_eval++;
    enum flow flow = FLOW_NEXT;
    for (size_t i = 0; i < list->n && flow == FLOW_NEXT; i++) {
        j->line = list->at[i]->line;
        flow = jinja_charge(j, 1) ? run_kind(j, list->at[i]) : FLOW_FAIL;
    }
    j->n_eval--;
    return flow;
}

bool jinja_run(struct jinja *j)
{
    return run_list(j, &j->template->body) != FLOW_FAIL;
}
