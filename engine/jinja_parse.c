#include "engine/jinja_parse.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "base/json_scan.h"

bool parse_fail(struct parser *p, const struct token *t, const char *fmt, ...)
{
    char what[160];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    if (p->st->code != STATUS_OK)
        return false;
    return status_fail(p->st, STATUS_BAD_INPUT, "template %u:%u: %s", t->line, t->column, what);
}

void *parse_take(struct parser *p, size_t n)
{
    void *at = jinja_mem_take(&p->out->mem, n);
    if (!at && p->st->code == STATUS_OK)
        status_fail(p->st, STATUS_TOO_LARGE, "template needs more than %zu bytes to compile",
                    p->out->mem.n_max);
    return at;
}

bool parse_is_op(const struct parser *p, int op)
{
    return p->at->kind == TOKEN_OP && p->at->op == op;
}

static bool is_word(const struct token *t, const char *word)
{
    return t->kind == TOKEN_NAME && t->n == strlen(word) && memcmp(t->at, word, t->n) == 0;
}

bool parse_is_word(const struct parser *p, const char *word)
{
    return is_word(p->at, word);
}

bool parse_skip_op(struct parser *p, int op)
{
    bool is = parse_is_op(p, op);
    p->at += is;
    return is;
}

bool parse_skip_word(struct parser *p, const char *word)
{
    bool is = parse_is_word(p, word);
    p->at += is;
    return is;
}

bool parse_expect_op(struct parser *p, int op)
{
    if (parse_skip_op(p, op))
        return true;
    return parse_fail(p, p->at, "expected '%c%s'", op & 0xFF, op >> 8 ? "=" : "");
}

bool parse_nest(struct parser *p)
{
    if (p->n_nest == JINJA_NEST_MAX)
        return parse_fail(p, p->at, "nested more than %d deep", JINJA_NEST_MAX);
    p->n_nest++;
    return true;
}

struct node *parse_node(struct parser *p, enum node_kind kind, const struct token *t)
{
    struct node *node = parse_take(p, sizeof *node);
    if (!node)
        return NULL;
    node->kind = (uint8_t)kind;
    node->line = t->line;
    node->column = t->column;
    return node;
}

bool parse_add(struct parser *p, struct node_list *l, struct node *node)
{
    if (l->n == l->n_cap) {
        size_t cap = l->n_cap ? l->n_cap * 2 : 4;
        struct node **wider = parse_take(p, cap * sizeof *wider);
        if (!wider)
            return false;
        if (l->n)
            memcpy(wider, l->at, l->n * sizeof *wider);
        l->at = wider;
        l->n_cap = cap;
    }
    l->at[l->n++] = node;
    return true;
}

struct name *parse_name(struct parser *p)
{
    const struct token *t = p->at;
    if (t->kind != TOKEN_NAME) {
        parse_fail(p, t, "expected a name");
        return NULL;
    }
    p->at++;
    struct name **slot = &p->out->name[hash64(t->at, t->n, 0) % 256];
    for (; *slot; slot = &(*slot)->next) {
        if ((*slot)->n == t->n && memcmp((*slot)->at, t->at, t->n) == 0)
            return *slot;
    }
    struct name *name = parse_take(p, sizeof *name);
    if (!name)
        return NULL;
    name->at = t->at;
    name->n = t->n;
    *slot = name;
    return name;
}

/* --- Targets --- */

static struct node *parse_target_one(struct parser *p, bool with_namespace)
{
    const struct token *t = p->at;
    if (parse_skip_op(p, '(')) {
        if (!parse_nest(p))
            return NULL;
        struct node *inner = parse_target(p, with_namespace);
        p->n_nest--;
        return inner && parse_expect_op(p, ')') ? inner : NULL;
    }
    static const char *const constant[] = {"true", "false", "none", "True", "False", "None"};
    for (size_t i = 0; i < sizeof constant / sizeof *constant; i++) {
        if (parse_is_word(p, constant[i])) {
            parse_fail(p, t, "cannot assign to %s", constant[i]);
            return NULL;
        }
    }
    struct node *node = parse_node(p, NODE_NAME, t);
    if (!node || !(node->name = parse_name(p)))
        return NULL;
    if (with_namespace && parse_skip_op(p, '.')) {
        struct node *attr = parse_node(p, NODE_ATTR, t);
        if (!attr || !(attr->name = parse_name(p)))
            return NULL;
        attr->a = node;
        return attr;
    }
    node->name->is_set = true;
    return node;
}

struct node *parse_target(struct parser *p, bool with_namespace)
{
    const struct token *t = p->at;
    struct node *first = parse_target_one(p, with_namespace);
    if (!first || !parse_is_op(p, ','))
        return first;
    struct node *tuple = parse_node(p, NODE_TUPLE, t);
    if (!tuple || !parse_add(p, &tuple->list, first))
        return NULL;
    while (parse_skip_op(p, ',')) {
        if (p->at->kind == TOKEN_TAG_END || parse_is_op(p, ')') || parse_is_op(p, '=') ||
            parse_is_word(p, "in"))
            break;
        struct node *next = parse_target_one(p, with_namespace);
        if (!next || !parse_add(p, &tuple->list, next))
            return NULL;
    }
    return tuple;
}

/* --- Statements --- */

static bool parse_statement(struct parser *p, struct node_list *out);

static bool is_any(const struct token *t, const char *const *words)
{
    for (; words && *words; words++) {
        if (is_word(t, *words))
            return true;
    }
    return false;
}

static bool parse_text(struct parser *p, struct node_list *out)
{
    struct node *node = parse_node(p, NODE_TEXT, p->at);
    struct text *text = parse_take(p, sizeof *text);
    if (!node || !text)
        return false;
    *text = (struct text){.at = p->at->at, .n = p->at->n, .n_chars = SIZE_MAX, .trusted = true};
    node->constant = value_text(text);
    p->at++;
    return parse_add(p, out, node);
}

static bool parse_print(struct parser *p, struct node_list *out)
{
    struct node *node = parse_node(p, NODE_PRINT, p->at++);
    if (!node || !(node->a = parse_tuple(p, true)))
        return false;
    if (p->at->kind != TOKEN_PRINT_END)
        return parse_fail(p, p->at, "expected the end of the print statement");
    p->at++;
    return parse_add(p, out, node);
}

/* Up to a tag whose name is in `ends` (NULL = the end of the template); that name is then in hand.
 */
static bool parse_until(struct parser *p, const char *const *ends, struct node_list *out)
{
    for (;;) {
        bool ok;
        switch (p->at->kind) {
        case TOKEN_END:
            return true;
        case TOKEN_TEXT:
            ok = parse_text(p, out);
            break;
        case TOKEN_PRINT_BEGIN:
            ok = parse_print(p, out);
            break;
        default:
            p->at++;
            if (is_any(p->at, ends))
                return true;
            ok = parse_statement(p, out);
            if (ok && p->at->kind != TOKEN_TAG_END)
                ok = parse_fail(p, p->at, "expected the end of the tag");
            p->at += ok;
        }
        if (!ok)
            return false;
    }
}

/* The body of the tag `open`, which is in hand just before its end. */
static bool parse_body(struct parser *p, const struct token *open, const char *const *ends,
                       struct node_list *out)
{
    parse_skip_op(p, ':');
    if (p->at->kind != TOKEN_TAG_END)
        return parse_fail(p, p->at, "expected the end of the tag");
    if (!parse_nest(p))
        return false;
    p->at++;
    if (!parse_until(p, ends, out))
        return false;
    p->n_nest--;
    if (p->at->kind == TOKEN_END)
        return parse_fail(p, open, "tag '%.*s' has no '%s'", (int)open->n, open->at, ends[0]);
    return true;
}

/* A body in which break and continue have no loop. */
static bool parse_closed_body(struct parser *p, const struct token *open, const char *end,
                              struct node_list *out)
{
    const char *const ends[] = {end, NULL};
    uint32_t n_loop = p->n_loop;
    p->n_loop = 0;
    bool ok = parse_body(p, open, ends, out);
    p->n_loop = n_loop;
    p->at += ok;
    return ok;
}

static bool parse_if_part(struct parser *p, struct node *node, const struct token *open)
{
    static const char *const ends[] = {"endif", "elif", "else", NULL};
    return (node->a = parse_tuple(p, false)) && parse_body(p, open, ends, &node->body);
}

static bool parse_if(struct parser *p, struct node *node, const struct token *open)
{
    static const char *const ends[] = {"endif", NULL};
    if (!parse_if_part(p, node, open))
        return false;
    while (parse_is_word(p, "elif")) {
        const struct token *t = p->at++;
        struct node *part = parse_node(p, NODE_IF, t);
        if (!part || !parse_if_part(p, part, open) || !parse_add(p, &node->list, part))
            return false;
    }
    if (parse_skip_word(p, "else") && !parse_body(p, open, ends, &node->orelse))
        return false;
    return parse_skip_word(p, "endif") || parse_fail(p, p->at, "expected endif");
}

static bool parse_for(struct parser *p, struct node *node, const struct token *open)
{
    static const char *const ends[] = {"endfor", "else", NULL}, *const last[] = {"endfor", NULL};
    if (!(node->a = parse_target(p, false)))
        return false;
    if (!parse_skip_word(p, "in"))
        return parse_fail(p, p->at, "expected 'in'");
    if (!(node->b = parse_tuple(p, false)))
        return false;
    if (parse_skip_word(p, "if") && !(node->c = parse_expression(p)))
        return false;
    node->op = parse_skip_word(p, "recursive");
    p->n_loop++;
    bool ok = parse_body(p, open, ends, &node->body);
    p->n_loop--;
    if (ok && parse_skip_word(p, "else"))
        ok = parse_body(p, open, last, &node->orelse);
    return ok && (parse_skip_word(p, "endfor") || parse_fail(p, p->at, "expected endfor"));
}

static bool parse_set(struct parser *p, struct node *node, const struct token *open)
{
    if (!(node->a = parse_target(p, true)))
        return false;
    if (parse_skip_op(p, '='))
        return (node->b = parse_tuple(p, true)) != NULL;
    node->kind = NODE_SET_BLOCK;
    if (parse_is_op(p, '|') && !(node->b = parse_filters(p, NULL, false)))
        return false;
    return parse_closed_body(p, open, "endset", &node->body);
}

static bool parse_params(struct parser *p, struct node *node)
{
    if (!parse_expect_op(p, '('))
        return false;
    while (!parse_is_op(p, ')')) {
        if (node->params.n && !parse_expect_op(p, ','))
            return false;
        struct node *param = parse_node(p, NODE_NAME, p->at);
        if (!param || !(param->name = parse_name(p)) || !parse_add(p, &node->params, param))
            return false;
        param->name->is_set = true;
        struct node *fallback = NULL;
        if (parse_skip_op(p, '=')) {
            if (!(fallback = parse_expression(p)) || !parse_add(p, &node->defaults, fallback))
                return false;
        } else if (node->defaults.n) {
            return parse_fail(p, p->at, "parameter without default after one with");
        }
    }
    p->at++;
    return true;
}

static bool parse_macro(struct parser *p, struct node *node, const struct token *open)
{
    if (!(node->name = parse_name(p)))
        return false;
    node->name->is_set = true;
    struct node *outer = p->macro;
    p->macro = node;
    bool ok = parse_params(p, node) && parse_closed_body(p, open, "endmacro", &node->body);
    p->macro = outer;
    return ok;
}

static bool parse_call_block(struct parser *p, struct node *node, const struct token *open)
{
    if (parse_is_op(p, '(') && !parse_params(p, node))
        return false;
    const struct token *t = p->at;
    if (!(node->a = parse_expression(p)))
        return false;
    if (node->a->kind != NODE_CALL)
        return parse_fail(p, t, "expected a call");
    struct node *outer = p->macro;
    p->macro = node;
    bool ok = parse_closed_body(p, open, "endcall", &node->body);
    p->macro = outer;
    return ok;
}

static bool parse_filter_block(struct parser *p, struct node *node, const struct token *open)
{
    return (node->b = parse_filters(p, NULL, true)) &&
           parse_closed_body(p, open, "endfilter", &node->body);
}

static bool parse_with(struct parser *p, struct node *node, const struct token *open)
{
    static const char *const ends[] = {"endwith", NULL};
    while (p->at->kind != TOKEN_TAG_END && !parse_is_op(p, ':')) {
        if (node->list.n && !parse_expect_op(p, ','))
            return false;
        struct node *target = parse_target(p, false);
        if (!target || !parse_expect_op(p, '=') || !parse_add(p, &node->list, target))
            return false;
        struct node *value = parse_expression(p);
        if (!value || !parse_add(p, &node->list, value))
            return false;
    }
    bool ok = parse_body(p, open, ends, &node->body);
    p->at += ok;
    return ok;
}

static bool parse_generation(struct parser *p, struct node *node, const struct token *open)
{
    return parse_closed_body(p, open, "endgeneration", &node->body);
}

static bool parse_jump(struct parser *p, struct node *node, const struct token *open)
{
    (void)node;
    return p->n_loop > 0 || parse_fail(p, open, "'%.*s' outside a loop", (int)open->n, open->at);
}

static bool parse_statement(struct parser *p, struct node_list *out)
{
    static const struct {
        const char *word;
        enum node_kind kind;
        bool (*parse)(struct parser *p, struct node *node, const struct token *open);
    } tag[] = {
        {"if", NODE_IF, parse_if},
        {"for", NODE_FOR, parse_for},
        {"set", NODE_SET, parse_set},
        {"macro", NODE_MACRO, parse_macro},
        {"call", NODE_CALL_BLOCK, parse_call_block},
        {"filter", NODE_FILTER_BLOCK, parse_filter_block},
        {"with", NODE_WITH, parse_with},
        {"generation", NODE_GENERATION, parse_generation},
        {"break", NODE_BREAK, parse_jump},
        {"continue", NODE_CONTINUE, parse_jump},
    };
    const struct token *open = p->at;
    if (open->kind != TOKEN_NAME)
        return parse_fail(p, open, "expected the name of a tag");
    for (size_t i = 0; i < sizeof tag / sizeof *tag; i++) {
        if (!is_word(open, tag[i].word))
            continue;
        p->at++;
        struct node *node = parse_node(p, tag[i].kind, open);
        return node && tag[i].parse(p, node, open) && parse_add(p, out, node);
    }
    return parse_fail(p, open, "unknown tag '%.*s'", (int)(open->n < 60 ? open->n : 60), open->at);
}

/* A plain name that is called must be a global, or be set somewhere in the template: what the
 * caller gives is never a function. */
static bool check_call_sites(struct parser *p)
{
    for (size_t i = 0; i < p->call_site.n; i++) {
        const struct node *node = p->call_site.at[i];
        const struct name *name = node->name;
        bool is_known = name->is_set || jinja_global_find(name->at, name->n) ||
                        (name->n == 6 && memcmp(name->at, "caller", 6) == 0) ||
                        (name->n == 4 && memcmp(name->at, "loop", 4) == 0);
        const struct token at = {.line = node->line, .column = node->column};
        if (!is_known)
            return parse_fail(p, &at, "unknown function '%.*s'", (int)(name->n < 60 ? name->n : 60),
                              name->at);
    }
    return true;
}

static void find_words(struct jinja_template *out)
{
    static const char *const word[WORD_N] = {
        [WORD_LOOP] = "loop",
        [WORD_CALLER] = "caller",
        [WORD_VARARGS] = "varargs",
        [WORD_KWARGS] = "kwargs",
    };
    for (size_t i = 0; i < WORD_N; i++) {
        const struct name *name = out->name[hash64(word[i], strlen(word[i]), 0) % 256];
        while (name && (name->n != strlen(word[i]) || memcmp(name->at, word[i], name->n) != 0))
            name = name->next;
        out->word[i] = name;
    }
}

bool jinja_parse(struct jinja_template *out, const char *source, size_t n, struct status *st)
{
    if (n > JINJA_SOURCE_MAX)
        return status_fail(st, STATUS_TOO_LARGE, "template has %zu bytes, at most %d are allowed",
                           n, JINJA_SOURCE_MAX);
    if (!utf8_valid(source, n))
        return status_fail(st, STATUS_BAD_INPUT, "template is not UTF-8");
    struct token_list tokens;
    if (!jinja_lex(&out->mem, source, n, &tokens, st))
        return false;
    struct parser p = {.out = out, .st = st, .at = tokens.at};
    if (!parse_until(&p, NULL, &out->body) || !check_call_sites(&p))
        return false;
    find_words(out);
    return true;
}
