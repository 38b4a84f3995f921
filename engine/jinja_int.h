/* jinja_int.h - what the parts of the template interpreter share: the tree, the values, a render.
 *
 *   jinja_lex    template text -> tokens
 *   jinja_parse  tokens -> tree of struct node
 *   jinja_exec   runs statements, jinja_eval evaluates expressions
 *   jinja_value  lists, dicts, equality, order;  jinja_text  strings;  jinja_print  str, repr, JSON
 *   jinja_filter, jinja_list, jinja_test, jinja_method, jinja_global  what templates may call
 *
 * Every function that can fail returns false (or NULL) with the render's status set.
 * A string knows which of its bytes the template wrote ("trusted") and which came from the caller;
 * every operation on strings keeps that.  Numbers and containers from the caller are marked too, so
 * that their printed form counts as the caller's.
 *
 * Recursion in C follows the nesting of the template and of values, and both are bounded. */
#ifndef ENGINE_JINJA_INT_H
#define ENGINE_JINJA_INT_H

#include <locale.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "engine/jinja_mem.h"
#include "engine/tokenizer.h" /* struct text_span */

struct cJSON;

enum {
    JINJA_SOURCE_MAX = 256 << 10, /* bytes of a template */
    JINJA_NEST_MAX = 64,          /* tags and brackets in each other */
    JINJA_EVAL_MAX = 500,         /* nodes being evaluated at one time */
    JINJA_CALLS_MAX = 64,         /* macros and recursive loops being run at one time */
    JINJA_STEPS_MAX = 2000000,
    JINJA_TEXT_MAX = 4 << 20, /* bytes of one string, and of the output */
    JINJA_VALUES_MAX = 64 << 20,
    JINJA_RANGE_MAX = 100000, /* jinja2's own limit */
    JINJA_DEPTH_MAX = 100,    /* values in each other: above JSON_DEPTH_LIMIT */
    JINJA_PARAMS_MAX = 5,     /* of a built-in function */
};

/* --- Values --- */

enum value_kind {
    VALUE_MISSING, /* an argument that was not given; never seen by a template */
    VALUE_UNDEFINED,
    VALUE_NONE,
    VALUE_BOOL,
    VALUE_INT,
    VALUE_FLOAT,
    VALUE_TEXT,
    VALUE_LIST,
    VALUE_TUPLE,
    VALUE_VIEW, /* of a dict: keys(), values(), items() */
    VALUE_ITER, /* what map, select and the like give: can be read once */
    VALUE_DICT,
    VALUE_NAMESPACE,
    VALUE_RANGE,
    VALUE_LOOP,
    VALUE_MACRO,
    VALUE_FUNCTION,
    VALUE_METHOD,
};

struct value {
    uint8_t kind;
    bool caller; /* BOOL, INT, FLOAT: came from the caller's JSON */
    union {
        bool b;
        int64_t i;
        double f;
        const char *why; /* UNDEFINED: what using it says */
        struct text *text;
        struct list *list; /* LIST, TUPLE, VIEW, ITER */
        struct dict *dict; /* DICT, NAMESPACE */
        struct range *range;
        struct loop *loop;
        struct macro *macro;
        const struct builtin *function;
        struct method *method;
    };
};

/* Bytes that strings are views of.  A string that ends where the store ends can be continued in
 * place, so building text by `a = a + b` costs what it adds. */
struct text_store {
    char *at;
    size_t n, n_cap;
    struct text_span *span; /* trusted bytes, ascending, merged */
    size_t n_span, span_cap;
};

struct text {
    const char *at;
    size_t n;
    size_t n_chars;        /* SIZE_MAX = not counted yet */
    struct text_store *of; /* NULL <=> all bytes are as `trusted` says */
    bool trusted;
};

struct list {
    struct value *at;
    size_t n, n_cap;
    size_t first;     /* ITER: items read so far */
    bool caller;      /* came from the caller's JSON */
    const char *view; /* VIEW: "dict_keys" ... */
};

struct pair {
    struct value key, value;
};

struct dict {
    struct pair *at; /* in order of insertion */
    size_t n, n_cap;
    bool caller;
};

struct range {
    int64_t start, stop, step;
    size_t n;
};

struct method {
    const struct builtin *of;
    struct value self;
};

struct macro {
    const struct node *node; /* NODE_MACRO or NODE_CALL */
    struct scope *scope;     /* where it was defined */
};

struct loop {
    const struct node *node;
    struct scope *scope; /* around the loop */
    struct value source; /* what is iterated */
    struct list *from;   /* its items */
    size_t n_from;       /* items of `from` that the loop's `if` has judged */
    struct list *items;  /* those that passed */
    size_t index0, depth0;
    bool has_ended_turn;  /* some turn ran to its end, without break or continue */
    struct value changed; /* arguments of the last loop.changed(), a TUPLE */
};

/* --- The tree --- */

struct name {
    const char *at;
    size_t n;
    struct name *next; /* in the table of names */
    bool is_set;       /* some statement of the template sets it */
};

enum node_kind {
    /* expressions */
    NODE_CONST,   /* constant */
    NODE_NAME,    /* name */
    NODE_LIST,    /* list */
    NODE_TUPLE,   /* list */
    NODE_DICT,    /* list: key, value, key, value ... */
    NODE_ATTR,    /* a.name */
    NODE_ITEM,    /* a[b] */
    NODE_SLICE,   /* a[list[0]:list[1]:list[2]], NULL = not given */
    NODE_CALL,    /* a(args) */
    NODE_FILTER,  /* a | builtin(args); a is NULL in a filter block */
    NODE_TEST,    /* a is builtin(args) */
    NODE_NOT,     /* a */
    NODE_SIGN,    /* op a */
    NODE_BINARY,  /* a op b */
    NODE_AND,     /* a, b */
    NODE_OR,      /* a, b */
    NODE_COMPARE, /* a, then list with ops */
    NODE_CONCAT,  /* list */
    NODE_COND,    /* b if a else c; c may be NULL */
    /* statements */
    NODE_TEXT,         /* constant */
    NODE_PRINT,        /* a */
    NODE_IF,           /* a, body, list = more NODE_IF (elif), orelse */
    NODE_FOR,          /* target a, in b, if c, body, orelse; op = recursive */
    NODE_SET,          /* target a = b */
    NODE_SET_BLOCK,    /* target a, filters b or NULL, body */
    NODE_MACRO,        /* name, params, body */
    NODE_CALL_BLOCK,   /* a is a NODE_CALL, params, body */
    NODE_FILTER_BLOCK, /* filters b, body */
    NODE_WITH,         /* list: target, value, ...; body */
    NODE_GENERATION,   /* body */
    NODE_BREAK,
    NODE_CONTINUE,
};

enum compare_op { CMP_EQ, CMP_NE, CMP_LT, CMP_LE, CMP_GT, CMP_GE, CMP_IN, CMP_NOT_IN };

struct node_list {
    struct node **at;
    size_t n, n_cap;
};

struct call_args { /* as written */
    struct node_list pos, kw;
    struct name **kw_name;     /* [kw.n] */
    struct node *star, *star2; /* *a, **b or NULL */
};

struct node {
    uint8_t kind;
    uint16_t op; /* enum compare_op in NODE_COMPARE's list: in the operand's slot of `ops` */
    uint32_t line, column;
    struct name *name;
    struct node *a, *b, *c;
    struct node_list list;
    struct node_list body, orelse;
    struct node_list params, defaults; /* of a macro: NODE_NAME; the last defaults.n have one */
    const uint8_t *ops;                /* [list.n] */
    const struct builtin *builtin;
    struct call_args *args;
    struct value constant;
    bool wants_caller, wants_varargs, wants_kwargs; /* a macro's body names them */
};

enum name_word { WORD_LOOP, WORD_CALLER, WORD_VARARGS, WORD_KWARGS, WORD_N };

struct jinja_template {
    struct jinja_mem mem;
    struct node_list body;
    struct name *name[256]; /* hash table: each name once, so names compare as pointers */
    const struct name
        *word[WORD_N]; /* names with a meaning; NULL = the template has no use for it */
    locale_t locale;   /* of upper and lower; (locale_t)0 = ASCII only */
};

/* --- A render --- */

struct variable {
    const struct name *name;
    struct value value;
    struct variable *next;
};

struct scope {
    struct scope *parent;
    struct variable *first;
    bool captured; /* a macro may still look here */
};

struct jinja {
    const struct jinja_template *template;
    struct jinja_mem mem;
    struct status *st;
    struct scope *scope;
    struct build *out;
    struct dict *context; /* the variables that the caller gave */
    struct variable *spare;
    int64_t now_unix_s;
    uint32_t line; /* of the node in work, for messages */
    uint32_t n_steps, n_eval, n_calls, n_depth;
};

bool jinja_fail(struct jinja *j, enum status_code code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4), cold));
bool jinja_charge(struct jinja *j, size_t n_steps); /* false past JINJA_STEPS_MAX */
void *jinja_take(struct jinja *j, size_t n);        /* zeroed; NULL with st set */
bool jinja_enter(struct jinja *j);                  /* one value deeper; then jinja_leave */
void jinja_leave(struct jinja *j);

/* --- jinja_text --- */

/* Text under construction; at most JINJA_TEXT_MAX bytes. */
struct build {
    struct jinja *j;
    struct text_store *store;
};

struct text *jinja_text_new(struct jinja *j, const char *at, size_t n, bool trusted); /* no copy */
struct text *jinja_text_slice(struct jinja *j, const struct text *t, size_t first, size_t end);
struct text *jinja_text_concat(struct jinja *j, struct text *a, struct text *b);
/* Is byte `at` trusted?  *end is where that run of bytes ends. */
bool jinja_text_trusted(const struct text *t, size_t at, size_t *end);
size_t jinja_text_chars(struct text *t);
size_t jinja_text_offset(struct text *t, size_t i_char); /* i_char <= chars */
bool jinja_text_is(const struct text *t, const char *word);
bool jinja_text_equal(const struct text *a, const struct text *b);
size_t jinja_text_find(const struct text *in, size_t from, const struct text *what); /* SIZE_MAX */

bool jinja_build_open(struct jinja *j, struct build *b);
bool jinja_build_put(struct build *b, const char *bytes, size_t n, bool trusted);
bool jinja_build_text(struct build *b, const struct text *t, size_t first, size_t end);
struct text *jinja_build_end(struct build *b);

/* --- jinja_value --- */

struct value value_none(void);
struct value value_bool(bool b);
struct value value_int(int64_t i);
struct value value_float(double f);
struct value value_text(struct text *t);
struct value value_list(enum value_kind kind, struct list *l);
struct value value_undefined(const char *why);
bool value_from_word(struct jinja *j, const char *word, struct value *out); /* trusted text */

const char *value_type(const struct value *v); /* Python's name */
bool value_is_listlike(const struct value *v); /* LIST, TUPLE, VIEW, ITER */
bool value_is_number(const struct value *v);   /* BOOL, INT, FLOAT */
bool value_is_integer(const struct value *v);  /* BOOL, INT */
double value_as_float(const struct value *v);  /* of a number */
bool value_is_caller(const struct value *v);   /* would its printed form be the caller's? */

struct list *jinja_list_new(struct jinja *j, size_t n_cap);
bool jinja_list_add(struct jinja *j, struct list *l, struct value v);
struct dict *jinja_dict_new(struct jinja *j, size_t n_cap);
bool jinja_dict_set(struct jinja *j, struct dict *d, struct value key, struct value v);
bool jinja_dict_get(struct jinja *j, const struct dict *d, const struct value *key,
                    struct value **found); /* *found = NULL when absent */
struct value *jinja_dict_find(const struct dict *d, const char *at, size_t n);

bool jinja_truth(struct jinja *j, const struct value *v, bool *truth);
bool jinja_equal(struct jinja *j, const struct value *a, const struct value *b, bool *equal);
bool jinja_order(struct jinja *j, const struct value *a, const struct value *b, int *order);
bool jinja_contains(struct jinja *j, const struct value *in, const struct value *what, bool *is_in);
bool jinja_length(struct jinja *j, const struct value *v, size_t *n);
/* The items of anything that Python can iterate; an ITER is used up by it. */
bool jinja_items(struct jinja *j, const struct value *v, struct list **out);
bool jinja_is_iterable(const struct value *v);
uint64_t jinja_hash(const struct value *v);
bool jinja_from_json(struct jinja *j, const struct cJSON *json, struct value *out);

/* --- jinja_print --- */

struct json_style {
    bool ascii, sort_keys;
    bool has_indent;
    struct text *indent;
    struct text *item_separator, *key_separator;
};
bool jinja_put_value(struct build *b, const struct value *v); /* str(v) */
bool jinja_put_repr(struct build *b, const struct value *v);
bool jinja_put_json(struct build *b, const struct value *v, const struct json_style *style);
bool jinja_to_text(struct jinja *j, const struct value *v, struct text **out); /* str(v) */
size_t jinja_float_text(double f, char out[32]);                               /* Python's repr */

/* --- jinja_eval, jinja_exec --- */

bool jinja_eval(struct jinja *j, const struct node *node, struct value *out);
bool jinja_binary(struct jinja *j, int op, const struct value *a, const struct value *b,
                  struct value *out);
bool jinja_get_attr(struct jinja *j, const struct value *of, const struct text *name,
                    struct value *out); /* a.name */
bool jinja_get_item(struct jinja *j, const struct value *of, const struct value *key,
                    struct value *out); /* a[key] */
bool jinja_slice(struct jinja *j, const struct value *of, const struct value part[3],
                 struct value *out);

struct kwarg {
    const char *at; /* [n] */
    size_t n;
    struct value value;
};

struct args { /* evaluated */
    struct value *pos;
    size_t n;
    struct kwarg *kw;
    size_t n_kw;
};
bool jinja_call(struct jinja *j, const struct value *callee, struct args *args, struct value *out);

struct scope *jinja_scope_push(struct jinja *j, struct scope *parent);
bool jinja_set(struct jinja *j, const struct name *name, const struct value *v);
bool jinja_assign(struct jinja *j, const struct node *target, const struct value *v);
bool jinja_run(struct jinja *j); /* the whole template into j->out */
bool jinja_call_macro(struct jinja *j, struct macro *m, struct args *args, struct value *out);
bool jinja_loop_fill(struct jinja *j, struct loop *loop, size_t n); /* items.n >= n if it can */
bool jinja_loop_again(struct jinja *j, struct loop *loop, struct args *args, struct value *out);
bool jinja_loop_attr(struct jinja *j, struct loop *loop, const struct text *name, bool *found,
                     struct value *out);

/* --- What a template may call --- */

struct builtin {
    const char *name;
    /* `a` holds one value for each parameter (VALUE_MISSING = not given), unless `raw`. */
    bool (*call)(struct jinja *j, const struct value *self, struct args *a, struct value *out);
    const char *param[JINJA_PARAMS_MAX];
    uint8_t n_required;
    bool raw; /* takes arguments as they come */
};

bool jinja_call_builtin(struct jinja *j, const struct builtin *f, const struct value *self,
                        struct args *args, struct value *out);
const struct builtin *jinja_find(const struct builtin *table, const char *name, size_t n);
const struct builtin *jinja_filter_find(const char *name, size_t n);
const struct builtin *jinja_test_find(const char *name, size_t n);
const struct builtin *jinja_global_find(const char *name, size_t n);
const struct builtin *jinja_method_find(const struct value *of, const char *name, size_t n);
bool jinja_method_is_unsafe(const struct value *of, const char *name, size_t n);
extern const struct builtin jinja_list_filters[]; /* jinja_list.c; ends with an empty row */
bool jinja_arg_int(struct jinja *j, const struct value *v, int64_t fallback, int64_t *out);
bool jinja_arg_bool(struct jinja *j, const struct value *v, bool fallback, bool *out);

/* String operations that filters and methods share. */
bool jinja_strip(struct jinja *j, struct text *t, const struct value *chars, int sides,
                 struct value *out);
enum { STRIP_LEFT = 1, STRIP_RIGHT = 2 };
bool jinja_replace(struct jinja *j, struct text *t, struct text *from, struct text *to,
                   int64_t n_max, struct value *out);
enum text_case {
    CASE_UPPER,
    CASE_LOWER,
    CASE_CAPITAL,
    CASE_SWAP,
    CASE_TITLE,        /* the filter: words begin after spaces and brackets */
    CASE_TITLE_METHOD, /* str.title: words begin after what is not a letter */
};
bool jinja_recase(struct jinja *j, struct text *t, enum text_case to, struct value *out);
bool jinja_join(struct jinja *j, const struct value *items, struct text *between,
                const struct value *attribute, bool only_text, struct value *out);
bool jinja_split_lines(struct jinja *j, struct text *t, bool keep, struct list **out);
bool jinja_percent(struct jinja *j, struct text *format, const struct value *values,
                   size_t n_values, struct value *out);
bool jinja_format_braces(struct jinja *j, const struct value *self, struct args *args,
                         struct value *out); /* str.format */
bool jinja_path_get(struct jinja *j, const struct value *of, const struct value *path,
                    struct value *out); /* "a.b.0" as in map(attribute=...) */

#endif
