/* jinja_expr.c - the expressions of jinja_parse.h, with jinja2's precedence:
 *
 *     x if c else y < or < and < not < == != < <= > >= in, not in < + - < ~ < * / // % < ** < unary
 *
 * and filters and tests, which bind to the operand before them. */
#include "engine/jinja_parse.h"

#include <string.h>

static struct node *parse_unary(struct parser *p, bool with_filters);
static struct node *parse_postfix(struct parser *p, struct node *node);

static struct node *parse_constant(struct parser *p, const struct token *t, struct value v)
{
    struct node *node = parse_node(p, NODE_CONST, t);
    if (node)
        node->constant = v;
    return node;
}

/* 'a' "b" is 'ab' */
static struct node *parse_string(struct parser *p)
{
    const struct token *first = p->at;
    size_t n = 0;
    for (; p->at->kind == TOKEN_STRING; p->at++)
        n += p->at->n;
    struct text *text = parse_take(p, sizeof *text);
    char *bytes = text ? jinja_mem_bytes(&p->out->mem, n) : NULL;
    if (!bytes) {
        parse_take(p, SIZE_MAX); /* says that memory is out */
        return NULL;
    }
    *text = (struct text){.at = bytes, .n = n, .n_chars = SIZE_MAX, .trusted = true};
    for (const struct token *t = first; t < p->at; t++) {
        memcpy(bytes, t->at, t->n);
        bytes += t->n;
    }
    jinja_text_chars(text); /* counted now: renders, on any thread, only read it */
    return parse_constant(p, first, value_text(text));
}

static void note_name(struct parser *p, const struct name *name)
{
    if (!p->macro)
        return;
    p->macro->wants_caller |= name->n == 6 && memcmp(name->at, "caller", 6) == 0;
    p->macro->wants_varargs |= name->n == 7 && memcmp(name->at, "varargs", 7) == 0;
    p->macro->wants_kwargs |= name->n == 6 && memcmp(name->at, "kwargs", 6) == 0;
}

static struct node *parse_word(struct parser *p)
{
    static const char *const reserved[] = {"and", "or",   "not",  "in",   "is",
                                           "if",  "else", "elif", "endif"};
    const struct token *t = p->at;
    if (parse_skip_word(p, "true") || parse_skip_word(p, "True"))
        return parse_constant(p, t, value_bool(true));
    if (parse_skip_word(p, "false") || parse_skip_word(p, "False"))
        return parse_constant(p, t, value_bool(false));
    if (parse_skip_word(p, "none") || parse_skip_word(p, "None"))
        return parse_constant(p, t, value_none());
    for (size_t i = 0; i < sizeof reserved / sizeof *reserved; i++) {
        if (parse_is_word(p, reserved[i])) {
            parse_fail(p, t, "unexpected '%s'", reserved[i]);
            return NULL;
        }
    }
    struct node *node = parse_node(p, NODE_NAME, t);
    if (!node || !(node->name = parse_name(p)))
        return NULL;
    note_name(p, node->name);
    return node;
}

/* Items up to `close`; in a dict `key: value`. */
static struct node *parse_items(struct parser *p, enum node_kind kind, int close)
{
    struct node *node = parse_node(p, kind, p->at++);
    if (!node || !parse_nest(p))
        return NULL;
    while (!parse_is_op(p, close)) {
        if (node->list.n && !parse_expect_op(p, ','))
            return NULL;
        if (parse_is_op(p, close))
            break;
        struct node *item = parse_expression(p);
        if (!item || !parse_add(p, &node->list, item))
            return NULL;
        if (kind != NODE_DICT)
            continue;
        if (!parse_expect_op(p, ':') || !(item = parse_expression(p)) ||
            !parse_add(p, &node->list, item))
            return NULL;
    }
    p->at++;
    p->n_nest--;
    return node;
}

static struct node *parse_group(struct parser *p)
{
    const struct token *open = p->at++;
    if (parse_skip_op(p, ')'))
        return parse_node(p, NODE_TUPLE, open);
    if (!parse_nest(p))
        return NULL;
    struct node *node = parse_tuple(p, true);
    p->n_nest--;
    return node && parse_expect_op(p, ')') ? node : NULL;
}

static struct node *parse_primary(struct parser *p)
{
    const struct token *t = p->at;
    switch (t->kind) {
    case TOKEN_NAME:
        return parse_word(p);
    case TOKEN_STRING:
        return parse_string(p);
    case TOKEN_INT:
        p->at++;
        return parse_constant(p, t, value_int(t->i));
    case TOKEN_FLOAT:
        p->at++;
        return parse_constant(p, t, value_float(t->f));
    default:
        break;
    }
    if (parse_is_op(p, '('))
        return parse_group(p);
    if (parse_is_op(p, '['))
        return parse_items(p, NODE_LIST, ']');
    if (parse_is_op(p, '{'))
        return parse_items(p, NODE_DICT, '}');
    parse_fail(p, t, t->kind == TOKEN_OP ? "unexpected '%c'" : "expected an expression", t->op);
    return NULL;
}

/* --- Calls and subscripts --- */

static bool parse_arg(struct parser *p, struct call_args *args, struct node_list *names)
{
    const struct token *t = p->at;
    if (parse_skip_op(p, '*'))
        return !args->star && !args->star2 ? (args->star = parse_expression(p)) != NULL
                                           : parse_fail(p, t, "bad arguments");
    if (parse_skip_op(p, OP2('*', '*')))
        return !args->star2 ? (args->star2 = parse_expression(p)) != NULL
                            : parse_fail(p, t, "bad arguments");
    if (t->kind == TOKEN_NAME && t[1].kind == TOKEN_OP && t[1].op == '=') {
        struct node *name = parse_node(p, NODE_NAME, t);
        if (args->star2)
            return parse_fail(p, t, "bad arguments");
        if (!name || !(name->name = parse_name(p)) || !parse_add(p, names, name))
            return false;
        p->at++;
        struct node *value = parse_expression(p);
        return value && parse_add(p, &args->kw, value);
    }
    if (args->star || args->star2 || args->kw.n)
        return parse_fail(p, t, "positional argument after others");
    struct node *value = parse_expression(p);
    return value && parse_add(p, &args->pos, value);
}

static struct call_args *parse_args(struct parser *p)
{
    struct call_args *args = parse_take(p, sizeof *args);
    struct node_list names = {0};
    p->at++;
    if (!args || !parse_nest(p))
        return NULL;
    for (bool is_first = true; !parse_is_op(p, ')'); is_first = false) {
        if (!is_first && !parse_expect_op(p, ','))
            return NULL;
        if (!is_first && parse_is_op(p, ')'))
            break;
        if (!parse_arg(p, args, &names))
            return NULL;
    }
    p->at++;
    p->n_nest--;
    args->kw_name = parse_take(p, names.n * sizeof *args->kw_name);
    if (!args->kw_name)
        return NULL;
    for (size_t i = 0; i < names.n; i++)
        args->kw_name[i] = names.at[i]->name;
    return args;
}

static struct node *parse_call(struct parser *p, struct node *callee)
{
    struct node *node = parse_node(p, NODE_CALL, p->at);
    if (!node || !(node->args = parse_args(p)))
        return NULL;
    node->a = callee;
    if (callee->kind == NODE_NAME && !parse_add(p, &p->call_site, callee))
        return NULL;
    return node;
}

/* What is between [ and ]: an expression, or first:end:step. */
static struct node *parse_subscript(struct parser *p, struct node *of)
{
    const struct token *open = p->at++;
    if (!parse_nest(p))
        return NULL;
    struct node *part[3] = {0};
    int n_colons = 0;
    while (!parse_is_op(p, ']')) {
        if (n_colons < 2 && parse_skip_op(p, ':'))
            n_colons++;
        else if (part[n_colons] || !(part[n_colons] = parse_tuple(p, true)))
            break;
    }
    if (!parse_expect_op(p, ']'))
        return NULL;
    p->n_nest--;
    struct node *node = parse_node(p, n_colons ? NODE_SLICE : NODE_ITEM, open);
    if (!node)
        return NULL;
    node->a = of;
    node->b = part[0];
    if (!n_colons)
        return part[0] || parse_fail(p, open, "empty subscript") ? node : NULL;
    for (int i = 0; i < 3; i++) {
        if (!parse_add(p, &node->list, part[i]))
            return NULL;
    }
    return node;
}

static struct node *parse_dot(struct parser *p, struct node *of)
{
    const struct token *t = ++p->at;
    struct node *node = parse_node(p, t->kind == TOKEN_INT ? NODE_ITEM : NODE_ATTR, t);
    if (!node)
        return NULL;
    node->a = of;
    if (t->kind == TOKEN_INT) {
        p->at++;
        node->b = parse_constant(p, t, value_int(t->i));
        return node->b ? node : NULL;
    }
    return (node->name = parse_name(p)) ? node : NULL;
}

static struct node *parse_postfix(struct parser *p, struct node *node)
{
    while (node) {
        if (parse_is_op(p, '.'))
            node = parse_dot(p, node);
        else if (parse_is_op(p, '['))
            node = parse_subscript(p, node);
        else if (parse_is_op(p, '('))
            node = parse_call(p, node);
        else
            break;
    }
    return node;
}

/* --- Filters and tests --- */

static struct node *parse_filter(struct parser *p, struct node *of)
{
    const struct token *t = p->at;
    struct node *node = parse_node(p, NODE_FILTER, t);
    struct name *name = node ? parse_name(p) : NULL;
    if (!name)
        return NULL;
    node->a = of;
    node->builtin = jinja_filter_find(name->at, name->n);
    if (!node->builtin) {
        parse_fail(p, t, "unknown filter '%.*s'", (int)(name->n < 60 ? name->n : 60), name->at);
        return NULL;
    }
    if (parse_is_op(p, '(') && !(node->args = parse_args(p)))
        return NULL;
    return node;
}

struct node *parse_filters(struct parser *p, struct node *of, bool inline_first)
{
    struct node *node = of;
    if (inline_first && !(node = parse_filter(p, node)))
        return NULL;
    while (parse_skip_op(p, '|')) {
        if (!(node = parse_filter(p, node)))
            return NULL;
    }
    return node;
}

/* `is divisibleby 3`: one operand without brackets. */
static struct call_args *parse_test_operand(struct parser *p)
{
    struct call_args *args = parse_take(p, sizeof *args);
    struct node *operand = args && parse_nest(p) ? parse_postfix(p, parse_primary(p)) : NULL;
    if (!operand || !parse_add(p, &args->pos, operand))
        return NULL;
    p->n_nest--;
    return args;
}

static bool starts_operand(const struct parser *p)
{
    if (p->at->kind == TOKEN_NAME)
        return !parse_is_word(p, "else") && !parse_is_word(p, "or") && !parse_is_word(p, "and") &&
               !parse_is_word(p, "if") && !parse_is_word(p, "in") && !parse_is_word(p, "not") &&
               !parse_is_word(p, "recursive");
    return p->at->kind == TOKEN_STRING || p->at->kind == TOKEN_INT || p->at->kind == TOKEN_FLOAT ||
           parse_is_op(p, '[') || parse_is_op(p, '{');
}

static struct node *parse_test(struct parser *p, struct node *of)
{
    const struct token *t = p->at++;
    bool is_negated = parse_skip_word(p, "not");
    const struct token *word = p->at;
    struct node *node = parse_node(p, NODE_TEST, t);
    struct name *name = node ? parse_name(p) : NULL;
    if (!name)
        return NULL;
    node->a = of;
    node->builtin = jinja_test_find(name->at, name->n);
    if (!node->builtin) {
        parse_fail(p, word, "unknown test '%.*s'", (int)(name->n < 60 ? name->n : 60), name->at);
        return NULL;
    }
    if (parse_is_op(p, '(')) {
        if (!(node->args = parse_args(p)))
            return NULL;
    } else if (starts_operand(p)) {
        if (parse_is_word(p, "is")) {
            parse_fail(p, p->at, "tests cannot be chained with 'is'");
            return NULL;
        }
        if (!(node->args = parse_test_operand(p)))
            return NULL;
    }
    if (!is_negated)
        return node;
    struct node *negated = parse_node(p, NODE_NOT, t);
    if (negated)
        negated->a = node;
    return negated;
}

static struct node *parse_filters_and_tests(struct parser *p, struct node *node)
{
    while (node) {
        if (parse_is_op(p, '|'))
            node = parse_filters(p, node, false);
        else if (parse_is_word(p, "is"))
            node = parse_test(p, node);
        else if (parse_is_op(p, '('))
            node = parse_call(p, node);
        else
            break;
    }
    return node;
}

/* --- Operators --- */

static struct node *parse_unary(struct parser *p, bool with_filters)
{
    struct node *node;
    if (parse_is_op(p, '-') || parse_is_op(p, '+')) {
        node = parse_node(p, NODE_SIGN, p->at);
        if (!node || !parse_nest(p))
            return NULL;
        node->op = p->at++->op;
        node->a = parse_unary(p, false);
        p->n_nest--;
        if (!node->a)
            return NULL;
    } else {
        node = parse_primary(p);
    }
    node = parse_postfix(p, node);
    return with_filters ? parse_filters_and_tests(p, node) : node;
}

static struct node *make_binary(struct parser *p, enum node_kind kind, const struct token *op,
                                struct node *left, struct node *right)
{
    struct node *node = right ? parse_node(p, kind, op) : NULL;
    if (!node)
        return NULL;
    node->op = op->op;
    node->a = left;
    node->b = right;
    return node;
}

static struct node *parse_power(struct parser *p)
{
    struct node *left = parse_unary(p, true);
    while (left && parse_is_op(p, OP2('*', '*'))) {
        const struct token *op = p->at++;
        left = make_binary(p, NODE_BINARY, op, left, parse_unary(p, true));
    }
    return left;
}

static struct node *parse_product(struct parser *p)
{
    struct node *left = parse_power(p);
    while (left && (parse_is_op(p, '*') || parse_is_op(p, '/') || parse_is_op(p, '%') ||
                    parse_is_op(p, OP2('/', '/')))) {
        const struct token *op = p->at++;
        left = make_binary(p, NODE_BINARY, op, left, parse_power(p));
    }
    return left;
}

static struct node *parse_concat(struct parser *p)
{
    const struct token *t = p->at;
    struct node *first = parse_product(p);
    if (!first || !parse_is_op(p, '~'))
        return first;
    struct node *node = parse_node(p, NODE_CONCAT, t);
    if (!node || !parse_add(p, &node->list, first))
        return NULL;
    while (parse_skip_op(p, '~')) {
        struct node *next = parse_product(p);
        if (!next || !parse_add(p, &node->list, next))
            return NULL;
    }
    return node;
}

static struct node *parse_sum(struct parser *p)
{
    struct node *left = parse_concat(p);
    while (left && (parse_is_op(p, '+') || parse_is_op(p, '-'))) {
        const struct token *op = p->at++;
        left = make_binary(p, NODE_BINARY, op, left, parse_concat(p));
    }
    return left;
}

/* Takes a comparison operator; -1 when there is none. */
static int take_compare_op(struct parser *p)
{
    static const struct {
        int op;
        enum compare_op is;
    } row[] = {{OP2('=', '='), CMP_EQ}, {OP2('!', '='), CMP_NE}, {'<', CMP_LT},
               {OP2('<', '='), CMP_LE}, {'>', CMP_GT},           {OP2('>', '='), CMP_GE}};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        if (parse_skip_op(p, row[i].op))
            return (int)row[i].is;
    }
    if (parse_skip_word(p, "in"))
        return CMP_IN;
    if (parse_is_word(p, "not") && p->at[1].kind == TOKEN_NAME && p->at[1].n == 2 &&
        memcmp(p->at[1].at, "in", 2) == 0) {
        p->at += 2;
        return CMP_NOT_IN;
    }
    return -1;
}

static struct node *parse_compare(struct parser *p)
{
    enum { OPS_MAX = 32 };
    uint8_t ops[OPS_MAX];
    const struct token *t = p->at;
    struct node *left = parse_sum(p), *node = NULL;
    size_t n = 0;
    for (int op; left && (op = take_compare_op(p)) >= 0;) {
        if (!node && (node = parse_node(p, NODE_COMPARE, t)))
            node->a = left;
        if (n == OPS_MAX) {
            parse_fail(p, p->at, "more than %d comparisons in a chain", OPS_MAX);
            return NULL;
        }
        ops[n++] = (uint8_t)op;
        struct node *right = parse_sum(p);
        if (!node || !right || !parse_add(p, &node->list, right))
            return NULL;
    }
    if (!node)
        return left;
    uint8_t *copy = parse_take(p, n);
    if (!copy)
        return NULL;
    memcpy(copy, ops, n);
    node->ops = copy;
    return node;
}

static struct node *parse_not(struct parser *p)
{
    const struct token *t = p->at;
    if (!parse_skip_word(p, "not"))
        return parse_compare(p);
    struct node *node = parse_node(p, NODE_NOT, t);
    if (!node || !parse_nest(p))
        return NULL;
    node->a = parse_not(p);
    p->n_nest--;
    return node->a ? node : NULL;
}

static struct node *parse_and(struct parser *p)
{
    struct node *left = parse_not(p);
    while (left && parse_is_word(p, "and")) {
        const struct token *op = p->at++;
        left = make_binary(p, NODE_AND, op, left, parse_not(p));
    }
    return left;
}

struct node *parse_or(struct parser *p)
{
    struct node *left = parse_and(p);
    while (left && parse_is_word(p, "or")) {
        const struct token *op = p->at++;
        left = make_binary(p, NODE_OR, op, left, parse_and(p));
    }
    return left;
}

struct node *parse_expression(struct parser *p)
{
    struct node *left = parse_or(p);
    while (left && parse_is_word(p, "if")) {
        struct node *node = parse_node(p, NODE_COND, p->at++);
        if (!node || !(node->a = parse_or(p)))
            return NULL;
        node->b = left;
        if (parse_skip_word(p, "else")) {
            if (!parse_nest(p) || !(node->c = parse_expression(p)))
                return NULL;
            p->n_nest--;
        }
        left = node;
    }
    return left;
}

static bool is_tuple_end(const struct parser *p)
{
    return p->at->kind == TOKEN_PRINT_END || p->at->kind == TOKEN_TAG_END || parse_is_op(p, ')') ||
           parse_is_op(p, ']') || parse_is_word(p, "recursive");
}

struct node *parse_tuple(struct parser *p, bool with_cond)
{
    const struct token *t = p->at;
    struct node *first = with_cond ? parse_expression(p) : parse_or(p);
    if (!first || !parse_is_op(p, ','))
        return first;
    struct node *tuple = parse_node(p, NODE_TUPLE, t);
    if (!tuple || !parse_add(p, &tuple->list, first))
        return NULL;
    while (parse_skip_op(p, ',')) {
        if (is_tuple_end(p))
            break;
        struct node *next = with_cond ? parse_expression(p) : parse_or(p);
        if (!next || !parse_add(p, &tuple->list, next))
            return NULL;
    }
    return tuple;
}
