/* jinja_parse.h - tokens to tree: jinja2's grammar without inheritance and imports.
 *
 * Refused here, with line:column: nesting over 64, unknown tags, filters, tests and functions,
 * break outside a loop, and all that jinja2 calls a syntax error. */
#ifndef ENGINE_JINJA_PARSE_H
#define ENGINE_JINJA_PARSE_H

#include "engine/jinja_int.h"
#include "engine/jinja_lex.h"

struct parser {
    struct jinja_template *out;
    struct status *st;
    const struct token *at; /* the token in hand */
    uint32_t n_nest, n_loop;
    struct node *macro;         /* the macro whose body this is, or NULL */
    struct node_list call_site; /* calls of plain names, judged at the end */
};

bool jinja_parse(struct jinja_template *out, const char *source, size_t n,
                 struct status *st) MUST_CHECK;

/* Shared by jinja_parse.c (statements) and jinja_expr.c (expressions). */
bool parse_fail(struct parser *p, const struct token *t, const char *fmt, ...)
    __attribute__((format(printf, 3, 4), cold));
bool parse_is_op(const struct parser *p, int op);
bool parse_is_word(const struct parser *p, const char *word);
bool parse_skip_op(struct parser *p, int op);
bool parse_skip_word(struct parser *p, const char *word);
bool parse_expect_op(struct parser *p, int op);
bool parse_nest(struct parser *p); /* one deeper; then p->n_nest-- */
struct node *parse_node(struct parser *p, enum node_kind kind, const struct token *t);
bool parse_add(struct parser *p, struct node_list *l, struct node *node);
struct name *parse_name(struct parser *p); /* expects a name */
void *parse_take(struct parser *p, size_t n);

struct node *parse_expression(struct parser *p);
/* `a, b` makes a tuple.  No `x if y` when with_cond is false. */
struct node *parse_tuple(struct parser *p, bool with_cond);
struct node *parse_or(struct parser *p);
struct node *parse_target(struct parser *p, bool with_namespace);
struct node *parse_filters(struct parser *p, struct node *of, bool inline_first);

#endif
