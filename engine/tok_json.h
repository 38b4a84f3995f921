/* tok_json.h - what a tokenizer.json says, as a tok_source.
 *
 * Taken: BPE as the tokenizers library writes it, with added tokens and their rules, and a template
 * that puts one token before or behind the text; over bytes with the split patterns of
 * tok_split.h and normal form C or none, or over characters with U+2581 for a space and bytes for
 * what is left.  Everything else is refused by name.
 *
 * Thread: one, at start. */
#ifndef ENGINE_TOK_JSON_H
#define ENGINE_TOK_JSON_H

#include "engine/tok_vocab.h"

struct cJSON;

struct tok_json { /* owns what src points to, beside the JSON itself */
    struct tok_source src;
    struct str *tokens, *merges;
    int32_t *types;
    uint8_t *rules;
    char *text; /* of merges in two parts, and of ids that no token has */
};

/* False with st; close t all the same.  `json` must outlive t. */
bool tok_json_read(struct tok_json *t, const struct cJSON *json, struct status *st) MUST_CHECK;
void tok_json_close(struct tok_json *t);
/* The id of the token with this text, or -1. */
int64_t tok_json_find(const struct tok_json *t, struct str text);

#endif
