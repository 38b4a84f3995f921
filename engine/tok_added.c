/* tok_added.c - a trie over the special and user-defined tokens, walked where one may begin. */
#include "engine/tok_added.h"

#include <stdlib.h>
#include <string.h>

#include "engine/tok_split.h"
#include "engine/tok_unicode.h"

static bool is_added(const struct tok_vocab *v, const struct tok_source *src, int32_t id,
                     bool normalized)
{
    const bool is_late = src->rules && src->rules[id] & TOK_NORMALIZED;
    return is_late == normalized && (v->kind[id] == TOK_USER || (v->kind[id] == TOK_SPECIAL &&
                                                                 src->types[id] != TOKEN_UNUSED));
}

static int32_t take_node(struct tok_added *a, char byte)
{
    a->node[a->n_nodes] = (struct tok_node){-1, -1, -1, byte};
    return a->n_nodes++;
}

/* How a text writes the token.  Texts are searched as they come, where a token of a vocabulary of
 * characters is written with U+2581 itself, also if the file shows it as a space. */
static size_t spell(const struct tok_source *src, int32_t id, char *out)
{
    const struct str *text = &src->tokens[id];
    size_t n = 0;
    for (size_t i = 0; i < text->n; i++) {
        if (src->chars && text->at[i] == ' ') {
            memcpy(out + n, tok_space, TOK_SPACE_BYTES);
            n += TOK_SPACE_BYTES;
        } else {
            out[n++] = text->at[i];
        }
    }
    return n;
}

static void insert(struct tok_added *a, const char *bytes, size_t n, int32_t id)
{
    int32_t *link = &a->root[(unsigned char)bytes[0]];
    for (size_t i = 0;; i++) {
        while (*link >= 0 && a->node[*link].byte != bytes[i])
            link = &a->node[*link].sibling;
        if (*link < 0)
            *link = take_node(a, bytes[i]);
        if (i + 1 == n)
            break;
        link = &a->node[*link].child;
    }
    a->node[*link].id = id;
}

static bool copy_rules(struct tok_added *a, const struct tok_source *src, struct status *st)
{
    if (!src->rules)
        return true;
    a->rules = malloc(src->n_tokens);
    if (!a->rules)
        return status_fail(st, STATUS_BUSY, "no memory for the rules of special tokens");
    memcpy(a->rules, src->rules, src->n_tokens);
    return true;
}

static void insert_all(struct tok_added *a, const struct tok_vocab *v, const struct tok_source *src,
                       bool normalized, char *spelled)
{
    for (int32_t id = 0; id < v->n; id++) {
        if (!is_added(v, src, id, normalized))
            continue;
        a->has_user |= v->kind[id] == TOK_USER;
        insert(a, spelled, spell(src, id, spelled), id);
    }
}

static bool take_memory(struct tok_added *a, const struct tok_vocab *v,
                        const struct tok_source *src, bool normalized, char *spelled,
                        struct status *st)
{
    size_t n_nodes = 0; /* at most TOK_SPACE_BYTES * TOK_TEXT_MAX */
    for (int32_t id = 0; id < v->n; id++)
        if (is_added(v, src, id, normalized))
            n_nodes += spell(src, id, spelled);
    if (n_nodes == 0)
        return true;
    a->node = malloc(n_nodes * sizeof *a->node);
    if (!a->node)
        return status_fail(st, STATUS_BUSY, "no memory for %zu bytes of special tokens", n_nodes);
    return copy_rules(a, src, st);
}

bool tok_added_open(struct tok_added *a, const struct tok_vocab *v, const struct tok_source *src,
                    bool normalized, struct status *st)
{
    *a = (struct tok_added){0};
    for (int c = 0; c < 256; c++)
        a->root[c] = -1;
    char *spelled = malloc(TOK_SPACE_BYTES * TOK_BYTES_MAX);
    const bool ok = spelled ? take_memory(a, v, src, normalized, spelled, st)
                            : status_fail(st, STATUS_BUSY, "no memory to read special tokens");
    if (ok)
        insert_all(a, v, src, normalized, spelled);
    free(spelled);
    return ok;
}

void tok_added_close(struct tok_added *a)
{
    free(a->node);
    free(a->rules);
    *a = (struct tok_added){0};
}

/* Makes [first, end) the trusted span that holds `at` or comes next after it. */
static void seek_span(struct tok_scan *s, size_t at)
{
    while (at >= s->end && s->i_span < s->n_spans) {
        s->first = s->span[s->i_span].first;
        s->end = s->span[s->i_span++].end;
        for (; s->i_span < s->n_spans && s->span[s->i_span].first <= s->end; s->i_span++)
            if (s->span[s->i_span].end > s->end)
                s->end = s->span[s->i_span].end;
    }
}

static bool match_at(const struct tok_scan *s, size_t at, size_t trusted_end, struct tok_match *m)
{
    bool found = false;
    const struct tok_node *nodes = s->added->node;
    int32_t node = s->added->root[(unsigned char)s->text[at]];
    for (size_t i = at; node >= 0;) {
        const struct tok_node *here = &nodes[node];
        i++;
        if (here->id >= 0 && (s->kind[here->id] == TOK_USER || i <= trusted_end)) {
            *m = (struct tok_match){here->id, at, i};
            found = true;
        }
        if (i == s->n)
            break;
        for (node = here->child; node >= 0 && nodes[node].byte != s->text[i];)
            node = nodes[node].sibling;
    }
    return found;
}

/* --- rules --- */

static unsigned class_before(const struct tok_scan *s, size_t at, size_t *width)
{
    size_t first = at - 1;
    while (first > s->begin && at - first < 4 && ((unsigned char)s->text[first] & 0xC0) == 0x80)
        first--;
    *width = at - first;
    size_t n;
    return tok_class_at(s->text, at, first, &n);
}

static bool is_in_word(const struct tok_scan *s, const struct tok_match *m)
{
    size_t width;
    return (m->first > s->begin && class_before(s, m->first, &width) & UNICODE_WORDS) ||
           (m->end < s->n && tok_class_at(s->text, s->n, m->end, &width) & UNICODE_WORDS);
}

/* Applies the rules of m's token; what lies before `from` is another token's.  False = no match. */
static bool follow_rules(const struct tok_scan *s, size_t from, struct tok_match *m)
{
    const unsigned rules = s->added->rules ? s->added->rules[m->id] : 0;
    size_t width;
    if (rules & TOK_SINGLE_WORD && is_in_word(s, m))
        return false;
    if (rules & TOK_LSTRIP)
        while (m->first > from && class_before(s, m->first, &width) & UNICODE_SPACE)
            m->first -= width;
    if (rules & TOK_RSTRIP)
        while (m->end < s->n && tok_class_at(s->text, s->n, m->end, &width) & UNICODE_SPACE)
            m->end += width;
    return true;
}

bool tok_scan_next(struct tok_scan *s, size_t from, struct tok_match *m)
{
    for (size_t at = from; at < s->n; at++) {
        size_t trusted_end = s->n;
        if (!s->trust_all) {
            seek_span(s, at);
            bool inside = at >= s->first && at < s->end;
            if (!inside && !s->added->has_user) { /* nothing can match before the next span */
                if (s->first < at || s->first >= s->n)
                    return false;
                at = s->first;
                inside = at < s->end;
            }
            trusted_end = inside ? s->end : 0;
        }
        if (s->added->root[(unsigned char)s->text[at]] < 0 || !match_at(s, at, trusted_end, m))
            continue;
        if (follow_rules(s, from, m))
            return true;
        at = m->end - 1;
    }
    return false;
}
