/* tok_bpe.c - the merge table, and the two ways to merge. */
#include "engine/tok_bpe.h"

#include "engine/tok_scores.h"
#include "engine/tok_split.h"

#include <stdlib.h>
#include <string.h>

enum {
    SHORT_MAX = 192, /* from here on the heap is faster: measured on one run of CJK letters */
    NO_RANK = INT32_MAX,
};

#define PAIR_FREE UINT64_MAX /* no pair: ids stay below 2^20 - 1 */

/* --- the merge table --- */

static uint64_t pair_key(int32_t left, int32_t right)
{
    return (uint64_t)left << 20 | (uint64_t)right;
}

static inline uint64_t hash_pair(uint64_t key)
{
    key *= 0x9e3779b97f4a7c15u;
    return key ^ key >> 32;
}

static inline int32_t find_rank(const struct tok_bpe *b, int32_t left, int32_t right)
{
    const uint64_t key = pair_key(left, right);
    for (uint64_t at = hash_pair(key) & b->pair_mask;; at = (at + 1) & b->pair_mask) {
        const uint64_t cell = b->pair[at];
        if (cell >> 22 == key)
            return (int32_t)(cell & (((uint64_t)1 << 22) - 1));
        if (cell == PAIR_FREE)
            return NO_RANK;
    }
}

static void insert_pair(struct tok_bpe *b, int32_t left, int32_t right, size_t rank)
{
    const uint64_t key = pair_key(left, right);
    uint64_t at = hash_pair(key) & b->pair_mask;
    while (b->pair[at] != PAIR_FREE && b->pair[at] >> 22 != key)
        at = (at + 1) & b->pair_mask;
    b->pair[at] = key << 22 | rank; /* of two equal merges the last counts, as in the reference */
}

/* The token that a merge means by `text`: as bytes if it is of the alphabet, else literally. */
static int32_t find_part(const struct tok_vocab *v, struct str text, char *bytes)
{
    size_t n_bytes;
    int32_t id = -1;
    if (tok_vocab_decode(v, &text, bytes, &n_bytes))
        id = v->chars ? tok_vocab_symbol(v, bytes, n_bytes)
                      : tok_vocab_find(v, bytes, n_bytes, TOK_PIECE);
    return id >= 0 ? id : tok_vocab_find(v, text.at, text.n, TOK_ANY & ~TOK_PIECE);
}

struct parts {
    struct str left, right;
};

static bool cut_merge(const struct str *merge, struct parts *p)
{
    const char *space = merge->n > 1 ? memchr(merge->at + 1, ' ', merge->n - 1) : NULL;
    if (!space)
        return false;
    p->left = (struct str){merge->at, (size_t)(space - merge->at)};
    p->right = (struct str){space + 1, merge->n - p->left.n - 1};
    return p->right.n > 0 && !memchr(p->right.at, ' ', p->right.n);
}

struct scratch { /* for the texts of one merge */
    char joined[2 * TOK_BYTES_MAX], bytes[2 * TOK_BYTES_MAX];
};

static bool add_merge(struct tok_bpe *b, const struct tok_source *src, size_t rank,
                      struct scratch *s, struct status *st)
{
    static const char *const names[] = {"left part", "right part", "result"};
    const struct str *merge = &src->merges[rank];
    const int n_shown = merge->n > 60 ? 60 : (int)merge->n;
    struct parts p;
    if (merge->n > 2 * TOK_BYTES_MAX || !cut_merge(merge, &p))
        return status_fail(st, STATUS_CORRUPT, "merge %zu '%.*s' is not two tokens and a space",
                           rank, n_shown, merge->at);
    memcpy(s->joined, p.left.at, p.left.n);
    memcpy(s->joined + p.left.n, p.right.at, p.right.n);
    const struct str joined = {s->joined, p.left.n + p.right.n};
    const int32_t id[3] = {find_part(b->vocab, p.left, s->bytes),
                           find_part(b->vocab, p.right, s->bytes),
                           find_part(b->vocab, joined, s->bytes)};
    for (int i = 0; i < 3; i++)
        if (id[i] < 0)
            return status_fail(st, STATUS_CORRUPT, "merge %zu '%.*s': its %s is not a token", rank,
                               n_shown, merge->at, names[i]);
    b->result[rank] = id[2];
    if (b->vocab->kind[id[2]] != TOK_SPECIAL)
        insert_pair(b, id[0], id[1], rank);
    return true;
}

/* --- merging --- */

bool tok_ids_refuse(const struct tok_ids *ids, struct status *st)
{
    return status_fail(st, STATUS_TOO_LARGE, "prompt has more than %zu tokens", ids->n_max);
}

static inline bool put_id(struct tok_ids *ids, int32_t id, struct status *st)
{
    if (ids->n == ids->n_max)
        return tok_ids_refuse(ids, st);
    ids->at[ids->n++] = id;
    return true;
}

/* The lowest rank and its leftmost place, in two passes that compilers vectorize. */
static size_t find_lowest(const int32_t *rank, size_t n)
{
    int32_t low = NO_RANK;
    for (size_t i = 0; i < n; i++)
        low = rank[i] < low ? rank[i] : low;
    if (low == NO_RANK)
        return n;
    size_t at = 0;
    while (rank[at] != low)
        at++;
    return at;
}

/* id[0..n) are bytes' tokens; rank[i] is that of the pair (i, i + 1).  Returns what is left. */
static size_t merge_short(const struct tok_bpe *b, int32_t *id, size_t n)
{
    int32_t rank[SHORT_MAX];
    for (size_t i = 0; i + 1 < n; i++)
        rank[i] = find_rank(b, id[i], id[i + 1]);
    while (n > 1) {
        const size_t at = find_lowest(rank, n - 1);
        if (at == n - 1)
            break;
        id[at] = b->result[rank[at]];
        n--;
        memmove(id + at + 1, id + at + 2, (n - at - 1) * sizeof *id);
        if (at + 1 < n) {
            memmove(rank + at + 1, rank + at + 2, (n - at - 2) * sizeof *rank);
            rank[at] = find_rank(b, id[at], id[at + 1]);
        }
        if (at > 0)
            rank[at - 1] = find_rank(b, id[at - 1], id[at]);
    }
    return n;
}

/* The tokens of the character at piece[*at]: its own, or those of its bytes. */
static size_t take_char(const struct tok_bpe *b, const char *piece, size_t n, size_t *at,
                        int32_t id[4])
{
    const char *c = piece + *at;
    size_t width;
    tok_class_at(piece, n, *at, &width);
    *at += width;
    const bool is_space = width == TOK_SPACE_BYTES && memcmp(c, tok_space, width) == 0;
    id[0] = tok_vocab_symbol(b->vocab, is_space ? " " : c, is_space ? 1 : width);
    if (id[0] >= 0)
        return 1;
    for (size_t i = 0; i < width; i++)
        id[i] = b->byte_token[(unsigned char)c[i]];
    return width;
}

/* What merging begins with from piece[*at] on, for a step: no more tokens than bytes. */
static inline size_t take_symbols(const struct tok_bpe *b, const char *piece, size_t n, size_t *at,
                                  int32_t id[4])
{
    if (b->vocab->chars)
        return take_char(b, piece, n, at, id);
    id[0] = b->byte_token[(unsigned char)piece[(*at)++]];
    return id[0] >= 0;
}

static bool encode_short(const struct tok_bpe *b, const char *piece, size_t n, struct tok_ids *ids,
                         struct status *st)
{
    int32_t id[SHORT_MAX + 4];
    size_t n_ids = 0;
    for (size_t at = 0; at < n;)
        n_ids += take_symbols(b, piece, n, &at, id + n_ids);
    n_ids = merge_short(b, id, n_ids);
    if (n_ids > ids->n_max - ids->n)
        return tok_ids_refuse(ids, st);
    memcpy(ids->at + ids->n, id, n_ids * sizeof *id);
    ids->n += n_ids;
    return true;
}

struct symbol { /* of a long piece; merged ones stay where their first byte was */
    int32_t id;
    int32_t rank; /* of the pair with the next; NO_RANK if there is none */
    uint32_t prev, next;
};

struct merger {
    struct symbol *sym; /* [n + 1] the last is a guard */
    uint64_t *heap;     /* rank << 32 | place: the order in which merges happen */
    size_t n, n_heap;
};

static void sift_down(struct merger *m, size_t at)
{
    const uint64_t moved = m->heap[at];
    for (size_t child; (child = 2 * at + 1) < m->n_heap; at = child) {
        if (child + 1 < m->n_heap && m->heap[child + 1] < m->heap[child])
            child++;
        if (moved <= m->heap[child])
            break;
        m->heap[at] = m->heap[child];
    }
    m->heap[at] = moved;
}

static uint64_t pop(struct merger *m)
{
    const uint64_t top = m->heap[0];
    m->heap[0] = m->heap[--m->n_heap];
    if (m->n_heap)
        sift_down(m, 0);
    return top;
}

static void push(struct merger *m, uint64_t entry)
{
    size_t at = m->n_heap++;
    for (; at > 0 && entry < m->heap[(at - 1) / 2]; at = (at - 1) / 2)
        m->heap[at] = m->heap[(at - 1) / 2];
    m->heap[at] = entry;
}

static void rank_pair(const struct tok_bpe *b, struct merger *m, uint32_t at)
{
    struct symbol *s = &m->sym[at];
    s->rank = s->next < m->n ? find_rank(b, s->id, m->sym[s->next].id) : NO_RANK;
    if (s->rank != NO_RANK)
        push(m, (uint64_t)(uint32_t)s->rank << 32 | at);
}

static void merge_at(const struct tok_bpe *b, struct merger *m, uint32_t at)
{
    struct symbol *s = &m->sym[at];
    struct symbol *gone = &m->sym[s->next];
    s->id = b->result[s->rank];
    gone->rank = NO_RANK; /* entries of a merged symbol no longer agree with it */
    s->next = gone->next;
    m->sym[s->next].prev = at;
    rank_pair(b, m, at);
    if (at > 0)
        rank_pair(b, m, s->prev);
}

static void merge_long(const struct tok_bpe *b, struct merger *m)
{
    for (uint32_t i = 0; i < m->n; i++)
        rank_pair(b, m, i);
    while (m->n_heap) {
        const uint64_t top = pop(m);
        const uint32_t at = (uint32_t)top;
        if (m->sym[at].rank == (int32_t)(top >> 32))
            merge_at(b, m, at);
    }
}

static void fill_symbols(const struct tok_bpe *b, struct merger *m, const char *piece, size_t n)
{
    int32_t id[4];
    m->n = 0;
    for (size_t from = 0; from < n;) {
        const size_t n_ids = take_symbols(b, piece, n, &from, id);
        for (size_t i = 0; i < n_ids; i++, m->n++) {
            const uint32_t at = (uint32_t)m->n;
            m->sym[at] = (struct symbol){id[i], NO_RANK, at - 1, at + 1};
        }
    }
}

static bool encode_long(const struct tok_bpe *b, const char *piece, size_t n, struct tok_ids *ids,
                        struct status *st)
{
    if (n > INT32_MAX)
        return status_fail(st, STATUS_TOO_LARGE, "a word has %zu bytes, limit %d", n, INT32_MAX);
    /* Every merge takes one entry and puts in at most two, so there are never 2 n. */
    struct merger m = {.sym = malloc((n + 1) * sizeof *m.sym),
                       .heap = malloc(2 * n * sizeof *m.heap)};
    bool ok = m.sym && m.heap;
    if (!ok) {
        status_fail(st, STATUS_BUSY, "no memory to encode a word of %zu bytes", n);
        goto done;
    }
    fill_symbols(b, &m, piece, n);
    if (m.n / b->vocab->bytes_max > ids->n_max - ids->n) {
        ok = tok_ids_refuse(ids, st); /* even the longest tokens would be too many */
        goto done;
    }
    merge_long(b, &m);
    for (uint32_t i = 0; ok && i < m.n; i = m.sym[i].next)
        ok = put_id(ids, m.sym[i].id, st);

done:
    free(m.sym);
    free(m.heap);
    return ok;
}

static inline bool merge_piece(const struct tok_bpe *b, const char *piece, size_t n,
                               struct tok_ids *ids, struct status *st)
{
    return n <= SHORT_MAX ? encode_short(b, piece, n, ids, st) : encode_long(b, piece, n, ids, st);
}

bool tok_bpe_encode(const struct tok_bpe *b, const char *piece, size_t n, struct tok_ids *ids,
                    struct status *st)
{
    const int32_t id = tok_vocab_find(b->vocab, piece, n, TOK_PIECE);
    return id >= 0 && b->whole[id] ? put_id(ids, id, st) : merge_piece(b, piece, n, ids, st);
}

/* --- open --- */

static bool add_merges(struct tok_bpe *b, const struct tok_source *src, struct status *st)
{
    struct scratch *s = malloc(sizeof *s);
    bool ok = s || status_fail(st, STATUS_BUSY, "no memory to read merges");
    for (size_t i = 0; ok && i < src->n_merges; i++)
        ok = add_merge(b, src, i, s, st);
    free(s);
    return ok;
}

static bool take_memory(struct tok_bpe *b, size_t n_merges, struct status *st)
{
    if (n_merges > TOK_MERGES_MAX)
        return status_fail(st, STATUS_CORRUPT, "%zu merges, limit %d", n_merges, TOK_MERGES_MAX);
    size_t n_cells = 16;
    while (n_cells < 2 * n_merges)
        n_cells *= 2;
    b->pair_mask = n_cells - 1;
    b->pair = malloc(n_cells * sizeof *b->pair);
    if (b->pair)
        memset(b->pair, 0xFF, n_cells * sizeof *b->pair);
    b->result = calloc(n_merges + 1, sizeof *b->result);
    b->whole = calloc((size_t)b->vocab->n, 1);
    return (b->pair && b->result && b->whole) ||
           status_fail(st, STATUS_BUSY, "no memory for %zu merges", n_merges);
}

static bool find_byte_tokens(struct tok_bpe *b, struct status *st)
{
    const bool chars = b->vocab->chars;
    for (int c = 0; c < 256; c++) {
        const char byte = (char)c;
        b->byte_token[c] = tok_vocab_find(b->vocab, &byte, 1, chars ? TOK_BYTE : TOK_PIECE);
        if (chars && b->byte_token[c] < 0)
            return status_fail(st, STATUS_UNSUPPORTED, "no token <0x%02X> for a byte", (unsigned)c);
    }
    return true;
}

static bool read_merges(struct tok_bpe *b, const struct tok_source *src, struct status *st)
{
    return take_memory(b, src->n_merges, st) && find_byte_tokens(b, st) && add_merges(b, src, st);
}

static bool read_scores(struct tok_bpe *b, const struct tok_source *src, struct status *st)
{
    size_t n;
    struct tok_merge *merges = tok_scores_merges(b->vocab, src->scores, &n, st);
    const bool ok = merges && take_memory(b, n, st) && find_byte_tokens(b, st);
    for (size_t i = 0; ok && i < n; i++) {
        b->result[i] = merges[i].result;
        insert_pair(b, merges[i].left, merges[i].right, i);
    }
    free(merges);
    return ok;
}

/* A token can be beyond the reach of the merges: its bytes then come out as several others.  A
 * vocabulary of characters is for whole texts, which are no token. */
static bool mark_whole(struct tok_bpe *b, bool whole_words, struct status *st)
{
    const struct tok_vocab *v = b->vocab;
    for (int32_t id = 0; id < v->n; id++) {
        if (v->kind[id] != TOK_PIECE || (v->chars && !whole_words))
            continue;
        int32_t out[2];
        struct tok_ids ids = {out, 0, 2};
        struct status many = {0};
        const uint32_t first = v->first[id], n = v->first[id + 1] - first;
        b->whole[id] = whole_words || (merge_piece(b, v->bytes + first, n, &ids, &many) &&
                                       ids.n == 1 && out[0] == id);
        if (many.code == STATUS_BUSY)
            return status_fail(st, STATUS_BUSY, "%s", many.msg);
    }
    return true;
}

bool tok_bpe_open(struct tok_bpe *b, const struct tok_source *src, const struct tok_vocab *v,
                  bool whole_words, struct status *st)
{
    *b = (struct tok_bpe){.vocab = v};
    if ((src->scores ? read_scores(b, src, st) : read_merges(b, src, st)) &&
        mark_whole(b, whole_words, st))
        return true;
    tok_bpe_close(b);
    return false;
}

void tok_bpe_close(struct tok_bpe *b)
{
    free(b->pair);
    free(b->result);
    free(b->whole);
    *b = (struct tok_bpe){0};
}
