/* tok_split.h - pre-tokenizers: where a text may be cut before its pieces are merged.
 *
 * Each is the published regular expression of its tokenizer, written by hand over the
 * classes of tok_unicode.h: one pass, no backtracking, no allocation.  Together the
 * pieces are the text.
 *
 *   gpt-2      's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 *   smollm     each digit alone first, then gpt-2 on what lies between
 *   llama-bpe  (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}
 *              | ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
 *   qwen2      llama-bpe with \p{N} in place of \p{N}{1,3}
 *   whole      all of it: a vocabulary of characters has its words by its merges alone
 *
 * Bytes that are not UTF-8 count as characters of no class, one byte each.
 *
 * Thread: constant data; any thread. */
#ifndef ENGINE_TOK_SPLIT_H
#define ENGINE_TOK_SPLIT_H

#include <stdbool.h>
#include <stddef.h>

struct tok_split {
    const char *name; /* the value of tokenizer.ggml.pre */
    /* The end of the piece that starts at `at`; at < n, result in (at, n]. */
    size_t (*next)(const char *text, size_t n, size_t at);
    bool whole_words; /* a piece that is a token is that token, whatever the merges say */
    bool add_bos;     /* unless the file says otherwise */
};

const struct tok_split *tok_split_find(const char *name, size_t n); /* or NULL */
/* The splitter that does what this regular expression says: one of those that published
 * tokenizers have, letter for letter.  Or NULL. */
const struct tok_split *tok_split_find_regex(const char *regex);

/* Classes (tok_unicode.h) and width in bytes of the character at `at` < n. */
unsigned tok_class_at(const char *text, size_t n, size_t at, size_t *width);

#endif
