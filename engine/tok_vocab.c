/* tok_vocab.c - checks the tokens of a file and makes the two directions of the vocabulary. */
#include "engine/tok_vocab.h"

#include <stdlib.h>
#include <string.h>

/* The byte alphabet of GPT-2: printable bytes of Latin-1 stand for themselves, the other 68 for
 * U+0100, U+0101, ... in order. */
static bool stands_for_itself(int c)
{
    return (c >= '!' && c <= '~') || (c >= 0xA1 && c <= 0xAC) || c >= 0xAE;
}

static void fill_alphabet(int16_t byte_of[TOK_ALPHABET_END])
{
    int next = 0x100;
    for (int c = 0; c < 256; c++)
        byte_of[c] = -1;
    for (int c = 0; c < 256; c++)
        byte_of[stands_for_itself(c) ? c : next++] = (int16_t)c;
}

const char tok_space[TOK_SPACE_BYTES + 1] = "\xE2\x96\x81";

static size_t undo_spaces(const struct str *text, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < text->n;) {
        const bool is_space =
            text->n - i >= TOK_SPACE_BYTES && memcmp(text->at + i, tok_space, TOK_SPACE_BYTES) == 0;
        out[n++] = is_space ? ' ' : text->at[i];
        i += is_space ? TOK_SPACE_BYTES : 1;
    }
    return n;
}

bool tok_vocab_decode(const struct tok_vocab *v, const struct str *text, char *out, size_t *n_out)
{
    size_t n = 0;
    if (v->chars) {
        *n_out = undo_spaces(text, out);
        return !memchr(text->at, ' ', text->n); /* no text has one when it meets the pieces */
    }
    for (size_t i = 0; i < text->n;) {
        unsigned c = (unsigned char)text->at[i++];
        if (c >= 0xC0 && c < 0xE0 && i < text->n)
            c = (c & 0x1Fu) << 6 | ((unsigned char)text->at[i++] & 0x3Fu);
        else if (c >= 0x80)
            return false;
        if (c >= TOK_ALPHABET_END || v->byte_of[c] < 0)
            return false;
        out[n++] = (char)v->byte_of[c];
    }
    *n_out = n;
    return true;
}

/* Every word of every text is hashed once, most are shorter than 8 bytes, and a copy of unknown
 * length costs more than the hash: so words are read by overlapping loads of fixed sizes. */
static inline uint64_t load64(const char *at)
{
    uint64_t v;
    memcpy(&v, at, sizeof v);
    return v;
}

static inline uint64_t load32(const char *at)
{
    uint32_t v;
    memcpy(&v, at, sizeof v);
    return v;
}

static inline uint64_t hash_bytes(const char *at, size_t n)
{
    const uint64_t k = 0x9e3779b97f4a7c15u;
    uint64_t h = n * k, tail;
    for (; n > 8; n -= 8, at += 8) {
        h = (h ^ load64(at)) * k;
        h ^= h >> 32;
    }
    if (n == 8)
        tail = load64(at);
    else if (n >= 4)
        tail = load32(at) | load32(at + n - 4) << 32;
    else
        tail = (uint64_t)(unsigned char)at[0] | (uint64_t)(unsigned char)at[n / 2] << 8 |
               (uint64_t)(unsigned char)at[n - 1] << 16;
    h = (h ^ tail) * k;
    return h ^ h >> 29;
}

int32_t tok_vocab_find(const struct tok_vocab *v, const char *bytes, size_t n, unsigned kinds)
{
    if (n == 0 || n > v->bytes_max)
        return -1;
    const uint64_t h = hash_bytes(bytes, n);
    for (uint32_t at = (uint32_t)h & v->mask; v->cell[at].id >= 0; at = (at + 1) & v->mask) {
        const struct tok_cell *c = &v->cell[at];
        if (c->tag == (uint32_t)(h >> 32) && c->n_bytes == n &&
            memcmp(v->bytes + c->first, bytes, n) == 0 && v->kind[c->id] & kinds)
            return c->id;
    }
    return -1;
}

int32_t tok_vocab_symbol(const struct tok_vocab *v, const char *bytes, size_t n)
{
    const int32_t id = tok_vocab_find(v, bytes, n, TOK_PIECE);
    return id >= 0 ? id : tok_vocab_find(v, bytes, n, TOK_USER);
}

static bool check_source(const struct tok_source *src, size_t *n_text, struct status *st)
{
    if (src->n_tokens == 0 || src->n_tokens > TOK_VOCAB_MAX)
        return status_fail(st, STATUS_CORRUPT, "vocabulary has %zu tokens, want 1 to %d",
                           src->n_tokens, TOK_VOCAB_MAX);
    for (size_t i = 0; i < src->n_tokens; i++) {
        const size_t n = src->tokens[i].n;
        if (n == 0)
            return status_fail(st, STATUS_CORRUPT, "token %zu is empty", i);
        if (n > TOK_BYTES_MAX)
            return status_fail(st, STATUS_CORRUPT, "token %zu has %zu bytes, limit %d", i, n,
                               TOK_BYTES_MAX);
        *n_text += n; /* below 2^36 */
    }
    if (*n_text > TOK_TEXT_MAX)
        return status_fail(st, STATUS_CORRUPT, "tokens have %zu bytes in all, limit %d", *n_text,
                           TOK_TEXT_MAX);
    return true;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

bool tok_vocab_byte(const struct str *text, char *out)
{
    if (text->n != 6 || memcmp(text->at, "<0x", 3) != 0 || text->at[5] != '>')
        return false;
    const int high = hex_digit(text->at[3]), low = hex_digit(text->at[4]);
    if (high < 0 || low < 0)
        return false;
    *out = (char)(high << 4 | low);
    return true;
}

static bool decode_token(const struct tok_source *src, size_t i, struct tok_vocab *v,
                         struct status *st)
{
    char *out = v->bytes + v->first[i];
    size_t n = src->tokens[i].n;
    const int32_t type = src->types ? src->types[i] : TOKEN_NORMAL;
    switch (type) {
    case TOKEN_NORMAL:
        v->kind[i] = tok_vocab_decode(v, &src->tokens[i], out, &n) ? TOK_PIECE : TOK_LITERAL;
        break;
    case TOKEN_BYTE:
        v->kind[i] = TOK_BYTE;
        n = 1;
        if (!tok_vocab_byte(&src->tokens[i], out))
            return status_fail(st, STATUS_CORRUPT, "token %zu is of type byte but is not <0xNN>",
                               i);
        break;
    case TOKEN_USER:
        v->kind[i] = TOK_USER;
        break;
    case TOKEN_UNKNOWN:
    case TOKEN_CONTROL:
    case TOKEN_UNUSED:
        v->kind[i] = TOK_SPECIAL;
        break;
    default:
        return status_fail(st, STATUS_CORRUPT, "token %zu has type %d, want 1 to 6", i, type);
    }
    if (v->kind[i] & (TOK_LITERAL | TOK_USER | TOK_SPECIAL)) {
        n = src->tokens[i].n;
        memcpy(out, src->tokens[i].at, n);
    }
    if (v->chars && v->kind[i] == TOK_USER)
        n = undo_spaces(&src->tokens[i], out);
    v->first[i + 1] = v->first[i] + (uint32_t)n;
    v->bytes_max = n > v->bytes_max ? (uint32_t)n : v->bytes_max;
    return true;
}

/* Two tokens may have the same bytes (a space: "\xC4\xA0" of the alphabet, " " by itself), but not
 * the same text. */
static bool insert(struct tok_vocab *v, const struct tok_source *src, int32_t id, struct status *st)
{
    const struct str *text = &src->tokens[id];
    const uint32_t first = v->first[id], n = v->first[id + 1] - first;
    const uint64_t h = hash_bytes(v->bytes + first, n);
    uint32_t at = (uint32_t)h & v->mask;
    for (; v->cell[at].id >= 0; at = (at + 1) & v->mask) {
        const struct str *other = &src->tokens[v->cell[at].id];
        if (other->n == text->n && memcmp(other->at, text->at, text->n) == 0)
            return status_fail(st, STATUS_CORRUPT, "tokens %d and %d are both '%.*s'",
                               v->cell[at].id, id, text->n > 60 ? 60 : (int)text->n, text->at);
    }
    v->cell[at] = (struct tok_cell){(uint32_t)(h >> 32), id, first, n};
    return true;
}

static bool take_memory(struct tok_vocab *v, size_t n, size_t n_text)
{
    size_t n_cells = 16;
    while (n_cells < 2 * n)
        n_cells *= 2;
    v->mask = (uint32_t)(n_cells - 1);
    v->bytes = malloc(n_text);
    v->first = calloc(n + 1, sizeof *v->first);
    v->kind = calloc(n, sizeof *v->kind);
    v->cell = malloc(n_cells * sizeof *v->cell);
    for (size_t i = 0; v->cell && i < n_cells; i++)
        v->cell[i].id = -1;
    return v->bytes && v->first && v->kind && v->cell;
}

bool tok_vocab_open(struct tok_vocab *v, const struct tok_source *src, struct status *st)
{
    size_t n_text = 0;
    *v = (struct tok_vocab){.chars = src->chars};
    if (!check_source(src, &n_text, st))
        return false;
    if (!take_memory(v, src->n_tokens, n_text)) {
        status_fail(st, STATUS_BUSY, "no memory for a vocabulary of %zu bytes", n_text);
        goto fail;
    }
    fill_alphabet(v->byte_of);
    v->n = (int32_t)src->n_tokens;
    for (int32_t i = 0; i < v->n; i++)
        if (!decode_token(src, (size_t)i, v, st) || !insert(v, src, i, st))
            goto fail;
    return true;

fail:
    tok_vocab_close(v);
    return false;
}

void tok_vocab_close(struct tok_vocab *v)
{
    free(v->bytes);
    free(v->first);
    free(v->kind);
    free(v->cell);
    *v = (struct tok_vocab){0};
}
