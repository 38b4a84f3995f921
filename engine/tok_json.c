#include "engine/tok_json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "base/checked.h"
#include "engine/json_file.h"
#include "engine/tok_split.h"

enum { HOLE_BYTES = 24, STEPS_MAX = 8 };

/* --- the pipeline --- */

struct steps { /* a stage, or the stages of a Sequence */
    const struct cJSON *at[STEPS_MAX];
    const char *type[STEPS_MAX];
    int n;
};

static bool add_step(struct steps *s, const struct cJSON *step, const char *what, struct status *st)
{
    struct str type;
    if (s->n == STEPS_MAX)
        return status_fail(st, STATUS_UNSUPPORTED, "%s: want at most %d steps", what, STEPS_MAX);
    if (!json_text(step, "type", &type, st))
        return st->code == STATUS_OK ? status_fail(st, STATUS_CORRUPT, "%s: want a type", what)
                                     : false;
    s->at[s->n] = step;
    s->type[s->n++] = type.at;
    return true;
}

/* `list` is the key under which a Sequence of this kind has its members. */
static bool read_steps(const struct cJSON *json, const char *what, const char *list,
                       struct steps *s, struct status *st)
{
    const struct cJSON *stage = json_value(json, what);
    *s = (struct steps){0};
    if (!stage)
        return true;
    if (!add_step(s, stage, what, st) || strcmp(s->type[0], "Sequence") != 0)
        return st->code == STATUS_OK;
    s->n = 0;
    const struct cJSON *members = json_value(stage, list), *m;
    if (!cJSON_IsArray(members))
        return status_fail(st, STATUS_CORRUPT, "%s: want a list %s", what, list);
    for (m = members->child; m; m = m->next)
        if (!add_step(s, m, what, st))
            return false;
    return true;
}

static bool is_type(const struct steps *s, int i, const char *type)
{
    return i < s->n && strcmp(s->type[i], type) == 0;
}

static bool refuse_step(const char *what, const char *type, struct status *st)
{
    return status_fail(st, STATUS_UNSUPPORTED, "%s: %.60s is not supported here", what, type);
}

static bool read_byte_level(const struct cJSON *step, bool *has_regex, struct status *st)
{
    bool prefix;
    if (!json_flag(step, "add_prefix_space", true, &prefix, st) ||
        !json_flag(step, "use_regex", true, has_regex, st))
        return false;
    return !prefix || status_fail(st, STATUS_UNSUPPORTED,
                                  "pre_tokenizer: add_prefix_space: want false, found true");
}

/* Every pattern known covers the text, so that what it cuts out and what it keeps are the same. */
static bool read_split(const struct cJSON *step, const struct tok_split **split, struct status *st)
{
    struct str regex, behavior = {"", 0};
    bool invert;
    if (!json_text(json_value(step, "pattern"), "Regex", &regex, st))
        return st->code == STATUS_OK
                   ? status_fail(st, STATUS_UNSUPPORTED, "pre_tokenizer: want Split by a Regex")
                   : false;
    if ((!json_text(step, "behavior", &behavior, st) && st->code != STATUS_OK) ||
        !json_flag(step, "invert", false, &invert, st))
        return false;
    *split = tok_split_find_regex(regex.at);
    if (!*split)
        return status_fail(st, STATUS_UNSUPPORTED, "pre_tokenizer: unknown pattern '%.160s'",
                           regex.at);
    return str_is(behavior, invert ? "Removed" : "Isolated") ||
           status_fail(st, STATUS_UNSUPPORTED, "pre_tokenizer: unknown Split behavior %.40s",
                       behavior.at);
}

static bool read_first_step(const struct steps *s, const struct tok_split **split,
                            struct status *st)
{
    bool each;
    if (is_type(s, 0, "Split"))
        return read_split(s->at[0], split, st);
    if (!is_type(s, 0, "Digits"))
        return refuse_step("pre_tokenizer", s->type[0], st);
    *split = tok_split_find("smollm", 6);
    return json_flag(s->at[0], "individual_digits", false, &each, st) &&
           (each || status_fail(st, STATUS_UNSUPPORTED,
                                "pre_tokenizer: individual_digits: want true, found false"));
}

/* ByteLevel with its own pattern, alone or behind Digits, or without one behind a Split. */
static bool read_pre_tokenizer(const struct cJSON *json, struct str *pre, struct status *st)
{
    struct steps s;
    const struct tok_split *split = tok_split_find("gpt-2", 5);
    bool has_regex;
    if (!read_steps(json, "pre_tokenizer", "pretokenizers", &s, st))
        return false;
    if (s.n < 1 || s.n > 2 || !is_type(&s, s.n - 1, "ByteLevel"))
        return refuse_step("pre_tokenizer", s.n ? s.type[s.n - 1] : "none", st);
    if (!read_byte_level(s.at[s.n - 1], &has_regex, st) ||
        (s.n == 2 && !read_first_step(&s, &split, st)))
        return false;
    if (has_regex == is_type(&s, 0, "Split"))
        return status_fail(st, STATUS_UNSUPPORTED, "pre_tokenizer: use_regex: want %s, found %s",
                           has_regex ? "false" : "true", has_regex ? "true" : "false");
    *pre = str_of(split->name);
    return true;
}

/* A Replace of one text by another, in the normalizer or the decoder. */
static bool is_replace(const struct cJSON *step, const char *from, const char *to)
{
    struct status none = {0};
    struct str text, content;
    return json_text(json_value(step, "pattern"), "String", &text, &none) && str_is(text, from) &&
           json_text(step, "content", &content, &none) && str_is(content, to);
}

static bool read_normalizer(const struct cJSON *json, struct tok_source *src, struct status *st)
{
    struct steps s;
    if (!read_steps(json, "normalizer", "normalizers", &s, st))
        return false;
    if (src->chars)
        return (s.n == 1 && is_type(&s, 0, "Replace") && is_replace(s.at[0], " ", tok_space)) ||
               status_fail(st, STATUS_UNSUPPORTED,
                           "normalizer: with byte_fallback, want Replace of ' ' by U+2581 alone");
    for (int i = 0; i < s.n; i++)
        if (!is_type(&s, i, "NFC"))
            return refuse_step("normalizer", s.type[i], st);
    src->nfc = s.n > 0;
    return true;
}

/* What the normalizer left no space for: a Split at spaces. */
static bool check_no_split(const struct cJSON *json, struct tok_source *src, struct status *st)
{
    struct steps s;
    struct str at;
    if (!read_steps(json, "pre_tokenizer", "pretokenizers", &s, st))
        return false;
    for (int i = 0; i < s.n; i++) {
        if (!is_type(&s, i, "Split"))
            return refuse_step("pre_tokenizer", s.type[i], st);
        if (!json_text(json_value(s.at[i], "pattern"), "String", &at, st) || !str_is(at, " "))
            return st->code == STATUS_OK
                       ? status_fail(st, STATUS_UNSUPPORTED,
                                     "pre_tokenizer: with byte_fallback, want Split at ' '")
                       : false;
    }
    src->pre = str_of("whole");
    return true;
}

static bool check_char_decoder(const struct steps *s, struct status *st)
{
    static const char *const types[] = {"Replace", "ByteFallback", "Fuse"};
    for (int i = 0; i < s->n; i++)
        if (i >= 3 || !is_type(s, i, types[i]))
            return refuse_step("decoder", s->type[i], st);
    return (s->n == 3 && is_replace(s->at[0], tok_space, " ")) ||
           status_fail(st, STATUS_UNSUPPORTED,
                       "decoder: with byte_fallback, want Replace of U+2581 by ' ', ByteFallback "
                       "and Fuse");
}

static bool check_decoder(const struct cJSON *json, const struct tok_source *src, struct status *st)
{
    struct steps s;
    if (!read_steps(json, "decoder", "decoders", &s, st))
        return false;
    if (src->chars)
        return check_char_decoder(&s, st);
    for (int i = 0; i < s.n; i++)
        if (!is_type(&s, i, "ByteLevel"))
            return refuse_step("decoder", s.type[i], st);
    return true;
}

/* --- tokens --- */

static bool take_tokens(struct tok_json *t, const struct cJSON *vocab, const struct cJSON *added,
                        struct status *st)
{
    uint64_t id = 0, last = 0;
    for (const struct cJSON *e = vocab->child; e; e = e->next) {
        if (!json_is_count(e, &id) || id >= TOK_VOCAB_MAX)
            return status_fail(st, STATUS_CORRUPT, "vocab: token '%.60s': want an id below %d",
                               e->string, TOK_VOCAB_MAX);
        last = id > last ? id : last;
    }
    for (const struct cJSON *e = added ? added->child : NULL; e; e = e->next) {
        if (!json_is_count(json_value(e, "id"), &id) || id >= TOK_VOCAB_MAX)
            return status_fail(st, STATUS_CORRUPT, "added_tokens: want an id below %d",
                               TOK_VOCAB_MAX);
        last = id > last ? id : last;
    }
    t->src.n_tokens = (size_t)last + 1;
    t->tokens = calloc(t->src.n_tokens, sizeof *t->tokens);
    t->types = calloc(t->src.n_tokens, sizeof *t->types);
    t->rules = calloc(t->src.n_tokens, 1);
    return (t->tokens && t->types && t->rules) ||
           status_fail(st, STATUS_BUSY, "no memory for %zu tokens", t->src.n_tokens);
}

static bool read_vocab(struct tok_json *t, const struct cJSON *vocab, struct status *st)
{
    for (const struct cJSON *e = vocab->child; e; e = e->next) {
        const size_t id = (size_t)e->valuedouble;
        if (t->tokens[id].at)
            return status_fail(st, STATUS_CORRUPT, "vocab: '%.60s' and '%.60s' both have id %zu",
                               t->tokens[id].at, e->string, id);
        char byte;
        t->tokens[id] = str_of(e->string);
        t->types[id] =
            t->src.chars && tok_vocab_byte(&t->tokens[id], &byte) ? TOKEN_BYTE : TOKEN_NORMAL;
    }
    return true;
}

static bool read_added(struct tok_json *t, const struct cJSON *e, struct status *st)
{
    static const struct {
        const char *key;
        enum tok_rule rule;
    } flags[] = {{"single_word", TOK_SINGLE_WORD},
                 {"lstrip", TOK_LSTRIP},
                 {"rstrip", TOK_RSTRIP},
                 {"normalized", TOK_NORMALIZED}};
    const size_t id = (size_t)json_value(e, "id")->valuedouble;
    struct str text;
    bool is_special, is_set;
    if (!json_text(e, "content", &text, st))
        return st->code == STATUS_OK ? status_fail(st, STATUS_CORRUPT, "token %zu: no content", id)
                                     : false;
    if (t->tokens[id].at && !str_equal(t->tokens[id], text))
        return status_fail(st, STATUS_CORRUPT, "'%.60s' and '%.60s' both have id %zu",
                           t->tokens[id].at, text.at, id);
    if (!json_flag(e, "special", false, &is_special, st))
        return false;
    t->tokens[id] = text;
    t->types[id] = is_special ? TOKEN_CONTROL : TOKEN_USER;
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        const bool absent = flags[i].rule == TOK_NORMALIZED && !is_special;
        if (!json_flag(e, flags[i].key, absent, &is_set, st))
            return false;
        t->rules[id] = (uint8_t)(t->rules[id] | (is_set ? flags[i].rule : 0));
    }
    return !(t->src.chars && t->rules[id] & TOK_NORMALIZED) ||
           status_fail(st, STATUS_UNSUPPORTED,
                       "token %zu: with byte_fallback, want normalized false, found true", id);
}

/* --- merges --- */

struct pair {
    struct str left, right; /* right.at = NULL <=> left is both, as one string */
};

static bool read_pair(const struct cJSON *e, struct pair *p)
{
    *p = (struct pair){0};
    if (cJSON_IsString(e)) {
        p->left = str_of(e->valuestring);
        return true;
    }
    if (!cJSON_IsArray(e) || cJSON_GetArraySize(e) != 2 || !cJSON_IsString(e->child) ||
        !cJSON_IsString(e->child->next))
        return false;
    p->left = str_of(e->child->valuestring);
    p->right = str_of(e->child->next->valuestring);
    return true;
}

/* Bytes of own text that holes and merges in two parts need. */
static bool take_text(struct tok_json *t, const struct cJSON *merges, struct status *st)
{
    size_t n = 1, n_merges = 0;
    struct pair p;
    for (size_t id = 0; id < t->src.n_tokens; id++)
        n += t->tokens[id].at ? 0 : HOLE_BYTES;
    for (const struct cJSON *e = merges->child; e; e = e->next, n_merges++) {
        if (!read_pair(e, &p))
            return status_fail(st, STATUS_CORRUPT, "merge %zu is neither a string nor two",
                               n_merges);
        if (!size_add(n, p.right.at ? p.left.n + p.right.n + 1 : 0, &n))
            return status_fail(st, STATUS_CORRUPT, "merges are too long");
    }
    t->text = malloc(n);
    t->merges = calloc(n_merges + 1, sizeof *t->merges);
    return (t->text && t->merges) ||
           status_fail(st, STATUS_BUSY, "no memory for %zu merges", n_merges);
}

static void fill_text(struct tok_json *t, const struct cJSON *merges)
{
    char *at = t->text;
    struct pair p;
    for (size_t id = 0; id < t->src.n_tokens; id++) {
        if (t->tokens[id].at)
            continue;
        const int n = snprintf(at, HOLE_BYTES, "[no token %zu]", id);
        t->tokens[id] = (struct str){at, (size_t)n};
        t->types[id] = TOKEN_UNUSED;
        at += n;
    }
    for (const struct cJSON *e = merges->child; e; e = e->next) {
        struct str *m = &t->merges[t->src.n_merges++];
        if (!read_pair(e, &p))
            continue;
        *m = p.left;
        if (!p.right.at)
            continue;
        *m = (struct str){at, p.left.n + 1 + p.right.n};
        memcpy(at, p.left.at, p.left.n);
        at[p.left.n] = ' ';
        memcpy(at + p.left.n + 1, p.right.at, p.right.n);
        at += m->n;
    }
}

/* --- the model --- */

static bool refuse_key(const char *key, struct status *st)
{
    return status_fail(st, STATUS_UNSUPPORTED, "model: %s is not supported", key);
}

/* With tokens for all bytes, which tok_bpe.c asks for, nothing is ever unknown. */
static bool check_unknown(const struct cJSON *model, bool chars, struct status *st)
{
    bool fuse;
    const struct cJSON *unknown = json_value(model, "unk_token");
    if (!json_flag(model, "fuse_unk", false, &fuse, st))
        return false;
    if (!chars && fuse)
        return refuse_key("fuse_unk", st);
    return chars || !unknown || (cJSON_IsString(unknown) && !unknown->valuestring[0]) ||
           refuse_key("unk_token", st);
}

static bool check_model(const struct cJSON *model, bool *chars, struct status *st)
{
    static const char *const empty[] = {"dropout", "continuing_subword_prefix",
                                        "end_of_word_suffix"};
    struct str type = str_of("BPE");
    if (!json_text(model, "type", &type, st) && st->code != STATUS_OK)
        return false;
    if (!str_is(type, "BPE"))
        return status_fail(st, STATUS_UNSUPPORTED, "model: want type BPE, found %.40s", type.at);
    for (size_t i = 0; i < sizeof empty / sizeof empty[0]; i++) {
        const struct cJSON *v = json_value(model, empty[i]);
        if (v && !(cJSON_IsString(v) && !v->valuestring[0]))
            return refuse_key(empty[i], st);
    }
    return json_flag(model, "byte_fallback", false, chars, st) && check_unknown(model, *chars, st);
}

static bool read_model(struct tok_json *t, const struct cJSON *json, struct status *st)
{
    const struct cJSON *model = json_value(json, "model");
    const struct cJSON *added = json_value(json, "added_tokens");
    const struct cJSON *vocab = json_value(model, "vocab"), *merges = json_value(model, "merges");
    bool whole;
    if (!check_model(model, &t->src.chars, st) ||
        !json_flag(model, "ignore_merges", false, &whole, st))
        return false;
    if (!cJSON_IsObject(vocab) || !cJSON_IsArray(merges) || (added && !cJSON_IsArray(added)))
        return status_fail(st, STATUS_CORRUPT,
                           "want an object vocab and lists of merges and "
                           "added_tokens");
    if (!take_tokens(t, vocab, added, st) || !read_vocab(t, vocab, st))
        return false;
    for (const struct cJSON *e = added ? added->child : NULL; e; e = e->next)
        if (!read_added(t, e, st))
            return status_wrap(st, "added_tokens");
    if (!take_text(t, merges, st))
        return false;
    fill_text(t, merges);
    t->src.whole = whole ? TOK_WHOLE_YES : TOK_WHOLE_NO;
    return true;
}

int64_t tok_json_find(const struct tok_json *t, struct str text)
{
    for (size_t id = t->src.n_tokens; id-- > 0;) /* special ones are the last */
        if (str_equal(t->tokens[id], text))
            return (int64_t)id;
    return -1;
}

/* --- the template --- */

/* One piece of a template: a special token, or the text ("A"). */
static bool read_piece(struct tok_json *t, const struct cJSON *piece, bool *seen_text,
                       struct status *st)
{
    const struct cJSON *special = json_value(piece, "SpecialToken");
    struct str name;
    if (!special) {
        const bool again = *seen_text;
        *seen_text = true;
        return (!again && json_value(piece, "Sequence")) ||
               status_fail(st, STATUS_UNSUPPORTED, "post_processor: want the text once");
    }
    int64_t *id = *seen_text ? &t->src.eos : &t->src.bos;
    int *add = *seen_text ? &t->src.add_eos : &t->src.add_bos;
    if (!json_text(special, "id", &name, st) || *add == 1)
        return st->code == STATUS_OK ? status_fail(st, STATUS_UNSUPPORTED,
                                                   "post_processor: want one token on each side")
                                     : false;
    *id = tok_json_find(t, name);
    *add = 1;
    return *id >= 0 || status_fail(st, STATUS_CORRUPT, "post_processor: no token '%.60s'", name.at);
}

static bool read_template(struct tok_json *t, const struct cJSON *step, struct status *st)
{
    const struct cJSON *single = json_value(step, "single");
    bool seen_text = false;
    for (const struct cJSON *p = cJSON_IsArray(single) ? single->child : NULL; p; p = p->next)
        if (!read_piece(t, p, &seen_text, st))
            return false;
    return seen_text ||
           status_fail(st, STATUS_UNSUPPORTED, "post_processor: want a template with the text");
}

static bool read_post_processor(struct tok_json *t, const struct cJSON *json, struct status *st)
{
    struct steps s;
    t->src.add_bos = t->src.add_eos = 0;
    if (!read_steps(json, "post_processor", "processors", &s, st))
        return false;
    for (int i = 0; i < s.n; i++) {
        if (is_type(&s, i, "ByteLevel")) /* offsets alone */
            continue;
        if (!is_type(&s, i, "TemplateProcessing"))
            return refuse_step("post_processor", s.type[i], st);
        if (!read_template(t, s.at[i], st))
            return false;
    }
    return true;
}

bool tok_json_read(struct tok_json *t, const struct cJSON *json, struct status *st)
{
    *t = (struct tok_json){.src = {.bos = -1, .eos = -1, .eot = -1, .eom = -1}};
    struct tok_source *src = &t->src;
    if (!read_model(t, json, st) ||
        !(src->chars ? check_no_split(json, src, st) : read_pre_tokenizer(json, &src->pre, st)) ||
        !read_normalizer(json, src, st) || !check_decoder(json, src, st) ||
        !read_post_processor(t, json, st))
        return false;
    t->src.tokens = t->tokens;
    t->src.merges = t->merges;
    t->src.types = t->types;
    t->src.rules = t->rules;
    return true;
}

void tok_json_close(struct tok_json *t)
{
    free(t->tokens);
    free(t->merges);
    free(t->types);
    free(t->rules);
    free(t->text);
    *t = (struct tok_json){0};
}
