/* shard.c - cuts a bound checkpoint down to what one rank holds. */
#include "engine/shard.h"

#include <assert.h>
#include <stdlib.h>

#include "engine/shard_scheme.h"

struct range {
    int64_t first, end;
};

struct shard_ranges { /* of each dimension that ranks divide */
    int rank, n_ranks;
    struct range of[DIM_N];
};

/* n things in `n_ranks` parts whose sizes differ by one at most, the larger ones first. */
static struct range part_of(int64_t n, int rank, int n_ranks)
{
    const int64_t each = n / n_ranks, rest = n % n_ranks;
    const int64_t first = rank * each + (rank < rest ? rank : rest);
    return (struct range){first, first + each + (rank < rest)};
}

static struct range times(struct range r, int64_t unit)
{
    return (struct range){r.first * unit, r.end * unit};
}

static int64_t length(struct range r)
{
    return r.end - r.first;
}

/* Attention: whole heads, and each query head beside its key head. */
static bool cut_heads(struct shard_ranges *s, const struct model_config *cfg, struct status *st)
{
    const int n = s->n_ranks;
    if (cfg->n_heads % n != 0)
        return status_fail(
            st, STATUS_UNSUPPORTED,
            "tensor-parallel: want a divisor of the model's %d query heads, found %d", cfg->n_heads,
            n);
    if (cfg->n_kv_heads % n != 0 && n % cfg->n_kv_heads != 0)
        return status_fail(
            st, STATUS_UNSUPPORTED,
            "tensor-parallel: want a divisor or a multiple of the model's %d key heads, found %d",
            cfg->n_kv_heads, n);
    const int64_t first = (int64_t)s->rank * cfg->n_kv_heads / n;
    const int64_t end = first + (cfg->n_kv_heads > n ? cfg->n_kv_heads / n : 1);
    s->of[DIM_Q] = times(part_of(cfg->n_heads, s->rank, n), cfg->head_dim);
    s->of[DIM_KV] = times((struct range){first, end}, cfg->head_dim);
    return true;
}

/* The feed-forward: whole blocks of the matrices whose columns it cuts. */
static bool cut_ffn(struct shard_ranges *s, const struct model_file *f, struct status *st)
{
    enum { GOOD_UNIT = 32 }; /* values: kernels like rows that begin at a multiple of it */
    const int32_t ffn = f->cfg.ffn;
    int unit = ffn % GOOD_UNIT == 0 && ffn / GOOD_UNIT >= s->n_ranks ? GOOD_UNIT : 1;
    for (size_t i = 0; i < f->n_bound; i++) {
        const struct bound *b = &f->bound[i];
        const int group = b->src->scheme ? b->src->scheme->group : 0;
        const int block = group > 0 ? group : dtype_traits[b->src->dtype].block;
        if (b->rule->shard == SHARD_IN && b->rule->cols == DIM_FFN && block > unit)
            unit = block;
    }
    const int64_t n_units = ffn / unit;
    if (n_units < s->n_ranks)
        return status_fail(st, STATUS_UNSUPPORTED,
                           "tensor-parallel: want at most the %lld blocks of %d values that the "
                           "feed-forward's %d are, found %d",
                           (long long)n_units, unit, ffn, s->n_ranks);
    s->of[DIM_FFN] = times(part_of(n_units, s->rank, s->n_ranks), unit);
    return true;
}

static bool cut_vocab(struct shard_ranges *s, struct model_config *cfg, struct status *st)
{
    if (cfg->vocab < s->n_ranks)
        return status_fail(st, STATUS_UNSUPPORTED,
                           "tensor-parallel: want at most the model's %d tokens, found %d",
                           cfg->vocab, s->n_ranks);
    for (int r = 0; r < s->n_ranks; r++)
        cfg->vocab_split[r + 1] = (int32_t)part_of(cfg->vocab, r, s->n_ranks).end;
    s->of[DIM_VOCAB] = part_of(cfg->vocab, s->rank, s->n_ranks);
    return true;
}

/* Rows that are one behind the other stay so. */
static void cut_rows(struct weight *w, struct range r)
{
    const size_t row_bytes = w->n_bytes / (size_t)w->rows;
    w->source.at = (const char *)w->source.at + (size_t)r.first * row_bytes;
    w->source.offset += (uint64_t)r.first * row_bytes;
    w->rows = length(r);
    w->n_bytes = (size_t)w->rows * row_bytes;
}

static bool cut_cols(struct weight *w, struct range r, struct status *st)
{
    const struct dtype_traits *t = &dtype_traits[w->dtype];
    const size_t skip = (size_t)(r.first / t->block) * (size_t)t->block_bytes;
    if (r.first % t->block != 0 || r.end % t->block != 0)
        return status_fail(st, STATUS_UNSUPPORTED,
                           "columns [%lld, %lld) are no whole %s blocks of %d", (long long)r.first,
                           (long long)r.end, t->name, t->block);
    if (w->rows > 1)
        w->source.row_bytes = w->n_bytes / (size_t)w->rows;
    w->source.at = (const char *)w->source.at + skip;
    w->source.offset += skip;
    w->cols = length(r);
    w->n_bytes = (size_t)w->rows * (size_t)(w->cols / t->block) * (size_t)t->block_bytes;
    return true;
}

static bool cut_weight(const struct shard_ranges *s, const struct tensor_rule *rule,
                       struct weight *w, struct scheme_part *part, struct status *st)
{
    if (rule->shard == SHARD_NONE || rule->shard == SHARD_FIRST)
        return true;
    const bool by_rows = rule->shard == SHARD_OUT && rule->rows != DIM_ONE;
    const struct range r = s->of[by_rows ? rule->rows : rule->cols];
    assert(length(r) > 0); /* the tables divide by dimensions that have a range */
    if (w->scheme)
        return by_rows ? shard_scheme(w, part, r.first, r.end, 0, w->cols, st)
                       : shard_scheme(w, part, 0, w->rows, r.first, r.end, st);
    if (!by_rows)
        return cut_cols(w, r, st);
    cut_rows(w, r);
    return true;
}

static bool cut_weights(struct model_file *f, const struct shard_ranges *s, struct status *st)
{
    size_t n = 0;
    f->part = calloc(f->n_bound + 1, sizeof *f->part);
    f->scheme_part = calloc(f->n_bound + 1, sizeof *f->scheme_part);
    if (!f->part || !f->scheme_part)
        return status_fail(st, STATUS_BUSY, "no memory to divide %zu tensors", f->n_bound);
    for (size_t i = 0; i < f->n_bound; i++) {
        struct bound b = f->bound[i];
        if (b.rule->shard == SHARD_FIRST && s->rank > 0)
            continue;
        f->part[n] = *b.src;
        if (!cut_weight(s, b.rule, &f->part[n], &f->scheme_part[n], st))
            return status_wrap(st, "tensor-parallel %d: tensor %s", s->n_ranks,
                               str_show(b.src->name).text);
        b.src = &f->part[n];
        f->bound[n++] = b;
    }
    f->n_bound = n;
    return true;
}

bool shard_model(struct model_file *f, int rank, int n_ranks, struct status *st)
{
    struct model_config cfg = f->cfg;
    struct shard_ranges s = {.rank = rank, .n_ranks = n_ranks};
    if (n_ranks <= 1)
        return true;
    if (n_ranks > COMM_RANKS_MAX)
        return status_fail(st, STATUS_BAD_INPUT, "tensor-parallel: want at most %d, found %d",
                           COMM_RANKS_MAX, n_ranks);
    if (!cut_heads(&s, &cfg, st) || !cut_ffn(&s, f, st) || !cut_vocab(&s, &cfg, st) ||
        !cut_weights(f, &s, st))
        return false;
    cfg.rank = rank;
    cfg.n_ranks = n_ranks;
    cfg.n_heads = (int32_t)length(s.of[DIM_Q]) / cfg.head_dim;
    cfg.n_kv_heads = (int32_t)length(s.of[DIM_KV]) / cfg.head_dim;
    cfg.ffn = (int32_t)length(s.of[DIM_FFN]);
    f->cfg = cfg;
    return true;
}
