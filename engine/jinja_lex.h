/* jinja_lex.h - template text to tokens, with jinja2's whitespace rules already applied.
 *
 * trim_blocks and lstrip_blocks are on, the last newline of the template is dropped,
 * line ends become \n, `-` and `+` at a tag's border do what they do in jinja2, raw blocks come
 * out as text and comments not at all.  Text and string literals are final; brackets inside a tag
 * are balanced.
 *
 * Errors name line:column (columns count bytes from 1). */
#ifndef ENGINE_JINJA_LEX_H
#define ENGINE_JINJA_LEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "engine/jinja_mem.h"

enum token_kind {
    TOKEN_END, /* of the template */
    TOKEN_TEXT,
    TOKEN_PRINT_BEGIN,
    TOKEN_PRINT_END,
    TOKEN_TAG_BEGIN,
    TOKEN_TAG_END,
    TOKEN_NAME,
    TOKEN_STRING,
    TOKEN_INT,
    TOKEN_FLOAT,
    TOKEN_OP,
};

#define OP2(a, b) ((a) | (b) << 8) /* the operator of two characters, e.g. OP2('/', '/') */

struct token {
    uint8_t kind;
    uint16_t op; /* TOKEN_OP: the character, or OP2 */
    uint32_t line, column;
    const char *at; /* TEXT, NAME, STRING: n bytes */
    size_t n;
    union {
        int64_t i;
        double f;
    };
};

struct token_list {
    struct token *at; /* [n], the last one is TOKEN_END */
    size_t n, n_cap;
};

bool jinja_lex(struct jinja_mem *mem, const char *source, size_t n, struct token_list *out,
               struct status *st) MUST_CHECK;

#endif
