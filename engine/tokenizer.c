/* tokenizer.c - puts the parts together: cut out added tokens, split, merge. */
#include "engine/tokenizer.h"

#include "engine/gguf.h"
#include "engine/tok_added.h"
#include "engine/tok_bpe.h"
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

enum { ENDS_MAX = sizeof end_texts / sizeof end_texts[0] + 3 /* eos, eot, eom */ };

struct tokenizer {
    struct tok_vocab vocab;
    struct tok_bpe bpe;
    struct tok_added added;
    const struct tok_split *split;
    int32_t bos, eos;
    bool add_bos, add_eos;
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
    return status_fail(st, STATUS_CORRUPT, "tokenizer.ggml.%s is %" PRId64 " of %d tokens", name,
                       id, t->vocab.n);
}

static bool set_special(struct tokenizer *t, const struct tok_source *src, struct status *st)
{
    if (!check_id(t, "bos_token_id", src->bos, st) || !check_id(t, "eos_token_id", src->eos, st) ||
        !check_id(t, "eot_token_id", src->eot, st) || !check_id(t, "eom_token_id", src->eom, st))
        return false;
    t->bos = (int32_t)src->bos;
    t->eos = (int32_t)src->eos;
    if ((src->add_bos == 1 && t->bos < 0) || (src->add_eos == 1 && t->eos < 0))
        return status_fail(st, STATUS_CORRUPT,
                           "tokenizer.ggml.add_%s_token is true but there is no such token",
                           src->add_bos == 1 && t->bos < 0 ? "bos" : "eos");
    t->add_bos = t->bos >= 0 && (src->add_bos < 0 ? t->split->add_bos : src->add_bos == 1);
    t->add_eos = src->add_eos == 1;
    add_end(t, t->eos);
    add_end(t, (int32_t)src->eot);
    add_end(t, (int32_t)src->eom);
    for (size_t i = 0; i < sizeof end_texts / sizeof end_texts[0]; i++)
        add_end(t, tok_vocab_find(&t->vocab, end_texts[i], strlen(end_texts[i]), TOK_SPECIAL));
    return true;
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
        !tok_bpe_open(&t->bpe, src, &t->vocab, t->split->whole_words, st) ||
        !tok_added_open(&t->added, &t->vocab, src->types, st) || !set_special(t, src, st))
        goto fail;
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
    tok_bpe_close(&t->bpe);
    tok_vocab_close(&t->vocab);
    free(t);
}

/* --- what a GGUF file says --- */

struct arrays { /* taken while opening; source points into them */
    struct str *tokens, *merges;
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

static bool read_model(const struct gguf *g, struct tok_source *src, struct status *st)
{
    struct str model;
    if (!gguf_string(g, "tokenizer.ggml.model", &model, st))
        return st->code == STATUS_OK
                   ? status_fail(st, STATUS_CORRUPT, "no key tokenizer.ggml.model")
                   : false;
    if (model.n != 4 || memcmp(model.at, "gpt2", 4) != 0)
        return status_fail(st, STATUS_UNSUPPORTED, "tokenizer model '%.*s' is not known, want gpt2",
                           model.n > 60 ? 60 : (int)model.n, model.at);
    if (!gguf_string(g, "tokenizer.ggml.pre", &src->pre, st))
        src->pre = (struct str){"default", 7};
    int add_space;
    if (st->code != STATUS_OK || !read_flag(g, "tokenizer.ggml.add_space_prefix", &add_space, st))
        return false;
    if (add_space == 1)
        return status_fail(st, STATUS_UNSUPPORTED,
                           "tokenizer.ggml.add_space_prefix is true; for gpt2 only false is known");
    return read_id(g, "tokenizer.ggml.bos_token_id", &src->bos, st) &&
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

struct tokenizer *tokenizer_open(const struct gguf *g, struct status *st)
{
    struct tokenizer *t = NULL;
    struct arrays a = {0};
    struct tok_source src = {0};
    if (read_model(g, &src, st) &&
        read_strings(g, "tokenizer.ggml.tokens", &a.tokens, &src.n_tokens, st) &&
        read_strings(g, "tokenizer.ggml.merges", &a.merges, &src.n_merges, st) &&
        read_types(g, src.n_tokens, &a.types, st)) {
        src.tokens = a.tokens;
        src.merges = a.merges;
        src.types = a.types;
        t = tokenizer_open_source(&src, st);
    }
    free(a.tokens);
    free(a.merges);
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

int64_t tokenizer_encode(const struct tokenizer *t, const char *text, size_t n,
                         const struct encode_options *opts, int32_t *ids, size_t ids_max,
                         struct status *st)
{
    struct tok_ids out = {ids, 0, ids_max};
    struct tok_scan scan = {.added = &t->added,
                            .kind = t->vocab.kind,
                            .text = text,
                            .n = n,
                            .trust_all = opts->parse_special,
                            .span = opts->trusted,
                            .n_spans = opts->n_trusted};
    if (opts->add_special && t->add_bos && !put_id(&out, t->bos, st))
        return -1;
    size_t at = 0;
    for (struct tok_match m; tok_scan_next(&scan, at, &m); at = m.end)
        if (!encode_plain(t, text + at, m.first - at, &out, st) || !put_id(&out, m.id, st))
            return -1;
    if (!encode_plain(t, text + at, n - at, &out, st))
        return -1;
    if (opts->add_special && t->add_eos && !put_id(&out, t->eos, st))
        return -1;
    return (int64_t)out.n;
}

/* --- the vocabulary --- */

int32_t tokenizer_vocab(const struct tokenizer *t)
{
    return t->vocab.n;
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
