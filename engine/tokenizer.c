/* tokenizer.c - puts the parts together: cut out added tokens, split, merge. */
#include "engine/tokenizer.h"

#include "engine/gguf.h"
#include "engine/tok_added.h"
#include "engine/tok_bpe.h"
#include "engine/tok_nfc.h"
#include "engine/tok_source.h"
#include "engine/tok_split.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Control tokens that end a turn in the models that have them; files often name only one. */
static const char *const end_texts[] = {
    "<|im_end|>",      "<|eot_id|>",    "<|eom_id|>", "<|endoftext|>",
    "<|end_of_text|>", "<end_of_turn>", "<EOT>",      "<｜end▁of▁sentence｜>",
};

enum { ENDS_MAX = sizeof end_texts / sizeof end_texts[0] + 3 + TOK_ENDS_MAX /* eos, eot, eom */ };

struct tokenizer {
    struct tok_vocab vocab;
    struct tok_bpe bpe;
    struct tok_added added, late; /* looked for before and after normalization */
    const struct tok_split *split;
    int32_t bos, eos;
    bool add_bos, add_eos, nfc;
    int32_t end[ENDS_MAX]; /* ascending */
    int32_t n_ends;
};

/* --- open --- */

static void add_end(struct tokenizer *t, int32_t id)
{
    int32_t at = t->n_ends;
    if (id < 0 || tokenizer_is_end(t, id))
        return;
    for (; at > 0 && t->end[at - 1] > id; at--)
        t->end[at] = t->end[at - 1];
    t->end[at] = id;
    t->n_ends++;
}

static bool check_id(const struct tokenizer *t, const char *name, int64_t id, struct status *st)
{
    if (id >= -1 && id < t->vocab.n)
        return true;
    return status_fail(st, STATUS_CORRUPT, "%s is %" PRId64 " of %d tokens", name, id, t->vocab.n);
}

static bool set_special(struct tokenizer *t, const struct tok_source *src, struct status *st)
{
    if (!check_id(t, "bos_token_id", src->bos, st) || !check_id(t, "eos_token_id", src->eos, st) ||
        !check_id(t, "eot_token_id", src->eot, st) || !check_id(t, "eom_token_id", src->eom, st))
        return false;
    if (src->n_ends > TOK_ENDS_MAX)
        return status_fail(st, STATUS_UNSUPPORTED, "%zu tokens end a generation, limit %d",
                           src->n_ends, TOK_ENDS_MAX);
    for (size_t i = 0; i < src->n_ends; i++)
        if (!check_id(t, "eos_token_id", src->ends[i], st))
            return false;
    t->bos = (int32_t)src->bos;
    t->eos = (int32_t)src->eos;
    if ((src->add_bos == 1 && t->bos < 0) || (src->add_eos == 1 && t->eos < 0))
        return status_fail(st, STATUS_CORRUPT, "add_%s_token is true but there is no such token",
                           src->add_bos == 1 && t->bos < 0 ? "bos" : "eos");
    t->add_bos = t->bos >= 0 && (src->add_bos < 0 ? t->split->add_bos : src->add_bos == 1);
    t->add_eos = src->add_eos == 1;
    add_end(t, t->eos);
    add_end(t, (int32_t)src->eot);
    add_end(t, (int32_t)src->eom);
    for (size_t i = 0; i < src->n_ends; i++)
        add_end(t, (int32_t)src->ends[i]);
    for (size_t i = 0; src->n_ends == 0 && i < sizeof end_texts / sizeof end_texts[0]; i++)
        add_end(t, tok_vocab_find(&t->vocab, end_texts[i], strlen(end_texts[i]), TOK_SPECIAL));
    return true;
}

static bool takes_whole(const struct tok_source *src, const struct tok_split *split)
{
    return src->whole == TOK_WHOLE_BY_PRE ? split->whole_words : src->whole == TOK_WHOLE_YES;
}

struct tokenizer *tokenizer_open_source(const struct tok_source *src, struct status *st)
{
    struct tokenizer *t = calloc(1, sizeof *t);
    if (!t) {
        status_fail(st, STATUS_BUSY, "no memory for a tokenizer");
        return NULL;
    }
    t->split = tok_split_find(src->pre.at, src->pre.n);
    if (!t->split) {
        status_fail(st, STATUS_UNSUPPORTED, "pre-tokenizer '%.*s' is not known",
                    src->pre.n > 60 ? 60 : (int)src->pre.n, src->pre.at);
        goto fail;
    }
    if (!tok_vocab_open(&t->vocab, src, st) ||
        !tok_bpe_open(&t->bpe, src, &t->vocab, takes_whole(src, t->split), st) ||
        !tok_added_open(&t->added, &t->vocab, src, false, st) ||
        !tok_added_open(&t->late, &t->vocab, src, true, st) || !set_special(t, src, st))
        goto fail;
    t->nfc = src->nfc;
    return t;

fail:
    tokenizer_close(t);
    return NULL;
}

void tokenizer_close(struct tokenizer *t)
{
    if (!t)
        return;
    tok_added_close(&t->added);
    tok_added_close(&t->late);
    tok_bpe_close(&t->bpe);
    tok_vocab_close(&t->vocab);
    free(t);
}

/* --- what a GGUF file says --- */

struct arrays { /* taken while opening; source points into them */
    struct str *tokens, *merges;
    float *scores;
    int32_t *types;
};

static bool read_id(const struct gguf *g, const char *key, int64_t *id, struct status *st)
{
    uint64_t v;
    *id = -1;
    if (gguf_u64(g, key, &v, st))
        *id = v > INT64_MAX ? INT64_MAX : (int64_t)v;
    return st->code == STATUS_OK;
}

static bool read_flag(const struct gguf *g, const char *key, int *flag, struct status *st)
{
    bool v;
    *flag = gguf_bool(g, key, &v, st) ? v : -1;
    return st->code == STATUS_OK;
}

/* The two kinds have the names of the models that first came with them. */
static bool read_kind(const struct gguf *g, struct tok_source *src, struct status *st)
{
    struct str model;
    if (!gguf_string(g, "tokenizer.ggml.model", &model, st))
        return st->code == STATUS_OK
                   ? status_fail(st, STATUS_CORRUPT, "no key tokenizer.ggml.model")
                   : false;
    src->chars = str_is(model, "llama");
    if (!src->chars && !str_is(model, "gpt2"))
        return status_fail(st, STATUS_UNSUPPORTED,
                           "tokenizer model '%.*s' is not known, want gpt2 or llama",
                           model.n > 60 ? 60 : (int)model.n, model.at);
    if (src->chars)
        src->pre = str_of("whole"); /* what the file says is for the other kind */
    else if (!gguf_string(g, "tokenizer.ggml.pre", &src->pre, st))
        src->pre = str_of("default");
    return st->code == STATUS_OK;
}

/* A vocabulary of characters has a space before a text unless the file says otherwise. */
static bool check_prefix(const struct gguf *g, const struct tok_source *src, struct status *st)
{
    int add_space;
    if (!read_flag(g, "tokenizer.ggml.add_space_prefix", &add_space, st))
        return false;
    if (add_space == 1 || (add_space < 0 && src->chars))
        return status_fail(st, STATUS_UNSUPPORTED,
                           "tokenizer.ggml.add_space_prefix is %s; only false is known",
                           add_space == 1 ? "true" : "not there");
    return true;
}

static bool read_model(const struct gguf *g, struct tok_source *src, struct status *st)
{
    return read_kind(g, src, st) && check_prefix(g, src, st) &&
           read_id(g, "tokenizer.ggml.bos_token_id", &src->bos, st) &&
           read_id(g, "tokenizer.ggml.eos_token_id", &src->eos, st) &&
           read_id(g, "tokenizer.ggml.eot_token_id", &src->eot, st) &&
           read_id(g, "tokenizer.ggml.eom_token_id", &src->eom, st) &&
           read_flag(g, "tokenizer.ggml.add_bos_token", &src->add_bos, st) &&
           read_flag(g, "tokenizer.ggml.add_eos_token", &src->add_eos, st);
}

static bool read_strings(const struct gguf *g, const char *key, struct str **out, size_t *n,
                         struct status *st)
{
    struct gguf_array a;
    if (!gguf_array(g, key, GGUF_STRINGS, &a, st))
        return st->code == STATUS_OK ? status_fail(st, STATUS_CORRUPT, "no key %s", key) : false;
    struct str *s = calloc(a.n + 1, sizeof *s); /* + 1: an empty array is not out of memory */
    if (!s)
        return status_fail(st, STATUS_BUSY, "no memory for %zu strings of %s", a.n, key);
    const void *cursor = NULL;
    for (size_t i = 0; i < a.n; i++)
        s[i] = gguf_array_next(&a, &cursor);
    *out = s;
    *n = a.n;
    return true;
}

static bool read_types(const struct gguf *g, size_t n_tokens, int32_t **out, struct status *st)
{
    static const char key[] = "tokenizer.ggml.token_type";
    struct gguf_array a;
    if (!gguf_array(g, key, GGUF_I32, &a, st))
        return st->code == STATUS_OK ? status_fail(st, STATUS_CORRUPT, "no key %s", key) : false;
    if (a.n != n_tokens)
        return status_fail(st, STATUS_CORRUPT, "%s has %zu elements for %zu tokens", key, a.n,
                           n_tokens);
    int32_t *types = calloc(a.n + 1, sizeof *types);
    if (!types)
        return status_fail(st, STATUS_BUSY, "no memory for %zu token types", a.n);
    for (size_t i = 0; i < a.n; i++)
        types[i] = gguf_array_i32(&a, i);
    *out = types;
    return true;
}

static bool read_scores(const struct gguf *g, size_t n_tokens, float **out, struct status *st)
{
    static const char key[] = "tokenizer.ggml.scores";
    struct gguf_array a;
    if (!gguf_array(g, key, GGUF_F32, &a, st))
        return st->code == STATUS_OK ? status_fail(st, STATUS_CORRUPT, "no key %s", key) : false;
    if (a.n != n_tokens)
        return status_fail(st, STATUS_CORRUPT, "%s has %zu elements for %zu tokens", key, a.n,
                           n_tokens);
    float *scores = calloc(a.n + 1, sizeof *scores);
    if (!scores)
        return status_fail(st, STATUS_BUSY, "no memory for %zu scores", a.n);
    for (size_t i = 0; i < a.n; i++)
        scores[i] = gguf_array_f32(&a, i);
    *out = scores;
    return true;
}

static bool read_strengths(const struct gguf *g, struct tok_source *src, struct arrays *a,
                           struct status *st)
{
    return src->chars ? read_scores(g, src->n_tokens, &a->scores, st)
                      : read_strings(g, "tokenizer.ggml.merges", &a->merges, &src->n_merges, st);
}

struct tokenizer *tokenizer_open(const struct gguf *g, struct status *st)
{
    struct tokenizer *t = NULL;
    struct arrays a = {0};
    struct tok_source src = {0};
    if (read_model(g, &src, st) &&
        read_strings(g, "tokenizer.ggml.tokens", &a.tokens, &src.n_tokens, st) &&
        read_strengths(g, &src, &a, st) && read_types(g, src.n_tokens, &a.types, st)) {
        src.tokens = a.tokens;
        src.merges = a.merges;
        src.scores = a.scores;
        src.types = a.types;
        t = tokenizer_open_source(&src, st);
    }
    free(a.tokens);
    free(a.merges);
    free(a.scores);
    free(a.types);
    return t;
}

/* --- encode --- */

static bool put_id(struct tok_ids *ids, int32_t id, struct status *st)
{
    if (ids->n == ids->n_max)
        return tok_ids_refuse(ids, st);
    ids->at[ids->n++] = id;
    return true;
}

static bool encode_plain(const struct tokenizer *t, const char *text, size_t n, struct tok_ids *ids,
                         struct status *st)
{
    for (size_t at = 0, end; at < n; at = end) {
        end = t->split->next(text, n, at);
        if (!tok_bpe_encode(&t->bpe, text + at, end - at, ids, st))
            return false;
    }
    return true;
}

struct encoding { /* one call */
    const struct tokenizer *t;
    const struct encode_options *opts;
    struct tok_ids ids;
    struct status *st;
};

/* `spans`: text is the caller's, so that its trusted spans mean something. */
static struct tok_scan scan_for(const struct encoding *e, const struct tok_added *added,
                                const char *text, struct text_span part, bool spans)
{
    return (struct tok_scan){.added = added,
                             .kind = e->t->vocab.kind,
                             .text = text,
                             .begin = part.first,
                             .n = part.end,
                             .trust_all = e->opts->parse_special,
                             .span = spans ? e->opts->trusted : NULL,
                             .n_spans = spans ? e->opts->n_trusted : 0};
}

static bool encode_late(struct encoding *e, const char *text, struct text_span part, bool spans)
{
    struct tok_scan scan = scan_for(e, &e->t->late, text, part, spans);
    size_t at = part.first;
    if (e->t->late.n_nodes)
        for (struct tok_match m; tok_scan_next(&scan, at, &m); at = m.end)
            if (!encode_plain(e->t, text + at, m.first - at, &e->ids, e->st) ||
                !put_id(&e->ids, m.id, e->st))
                return false;
    return encode_plain(e->t, text + at, part.end - at, &e->ids, e->st);
}

/* What lies between the tokens that were cut out first. */
static bool encode_between(struct encoding *e, const char *text, struct text_span part)
{
    struct str normal;
    char *owned = NULL;
    if (part.first == part.end)
        return true;
    if (e->t->nfc &&
        !tok_nfc((struct str){text + part.first, part.end - part.first}, &normal, &owned, e->st))
        return false;
    if (!owned)
        return encode_late(e, text, part, true);
    const bool ok = encode_late(e, normal.at, (struct text_span){0, normal.n}, false);
    free(owned);
    return ok;
}

static bool encode(struct encoding *e, const char *text, size_t n)
{
    const struct tokenizer *t = e->t;
    struct tok_scan scan = scan_for(e, &t->added, text, (struct text_span){0, n}, true);
    size_t at = 0;
    if (e->opts->add_special && t->add_bos && !put_id(&e->ids, t->bos, e->st))
        return false;
    for (struct tok_match m; tok_scan_next(&scan, at, &m); at = m.end)
        if (!encode_between(e, text, (struct text_span){at, m.first}) ||
            !put_id(&e->ids, m.id, e->st))
            return false;
    return encode_between(e, text, (struct text_span){at, n}) &&
           (!e->opts->add_special || !t->add_eos || put_id(&e->ids, t->eos, e->st));
}

int64_t tokenizer_encode(const struct tokenizer *t, const char *text, size_t n,
                         const struct encode_options *opts, int32_t *ids, size_t ids_max,
                         struct status *st)
{
    struct encoding e = {.t = t, .opts = opts, .ids = {ids, 0, ids_max}, .st = st};
    return encode(&e, text, n) ? (int64_t)e.ids.n : -1;
}

/* --- the vocabulary --- */

int32_t tokenizer_vocab(const struct tokenizer *t)
{
    return t->vocab.n;
}

const char *tokenizer_split(const struct tokenizer *t)
{
    return t->split->name;
}

int32_t tokenizer_bos(const struct tokenizer *t)
{
    return t->bos;
}

int32_t tokenizer_eos(const struct tokenizer *t)
{
    return t->eos;
}

bool tokenizer_is_end(const struct tokenizer *t, int32_t id)
{
    for (int32_t i = 0; i < t->n_ends; i++)
        if (t->end[i] == id)
            return true;
    return false;
}

const int32_t *tokenizer_ends(const struct tokenizer *t, int32_t *n)
{
    *n = t->n_ends;
    return t->end;
}

bool tokenizer_is_special(const struct tokenizer *t, int32_t id)
{
    return id >= 0 && id < t->vocab.n && t->vocab.kind[id] == TOK_SPECIAL;
}

const char *tokenizer_bytes(const struct tokenizer *t, int32_t id, bool special, size_t *n)
{
    *n = 0;
    if (id < 0 || id >= t->vocab.n)
        return "";
    if (special || t->vocab.kind[id] != TOK_SPECIAL)
        *n = t->vocab.first[id + 1] - t->vocab.first[id];
    return t->vocab.bytes + t->vocab.first[id];
}

int32_t tokenizer_find(const struct tokenizer *t, const char *text, size_t n)
{
    const int32_t id = tok_vocab_find(&t->vocab, text, n, TOK_USER | TOK_SPECIAL);
    return id >= 0 ? id : tok_vocab_find(&t->vocab, text, n, TOK_ANY);
}
