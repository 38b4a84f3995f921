/* attention.c - attention over the paged cache, prefill and decode in one call.
 *
 * A tile is up to ATTEND_ROWS query rows - (token, head) pairs of one sequence and one kv head -
 * so that each chunk of K and V is read and converted once for all heads of a group and for some
 * tokens.  Softmax is computed online (Milakov and Gimelshein 2018; Dao et al. 2022), in chunks of
 * ATTEND_CHUNK cached tokens; the chunks of each ATTEND_SPAN tokens are summed alone, and the
 * spans join in order.  Chunks and spans lie at fixed positions of the sequence, so the bits of
 * a token do not depend on how its prompt was cut or on who runs beside it.
 *
 * When there are too few tiles for the threads, as in decoding one long sequence, the spans of a
 * tile become parts of their own, kept in scratch and joined in the same order: the same bits. */
#include "kernels/cpu/kv_page.h"
#include "kernels/cpu/rows.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum {
    WORK_FLOATS = 3 * ATTEND_ROWS * HEAD_DIM_MAX    /* q, span and total */
                  + 2 * ATTEND_CHUNK * HEAD_DIM_MAX /* kt, v */
                  + ATTEND_ROWS * ATTEND_CHUNK      /* s */
                  + 5 * ATTEND_ROWS                 /* decay, tops, norms */
                  + HEAD_DIM_MAX,                   /* zeros */
    SPANS_FLOATS = 1 << 19, /* 2 MiB: 32 heads of 128 at 31 thousand tokens */
    PARTS_PER_THREAD = 4,   /* fewer tiles than this for each thread: cut them into spans */
};

_Static_assert(WORK_FLOATS % 16 == 0, "the areas of all threads are aligned");
_Static_assert(ATTEND_SPAN % ATTEND_CHUNK == 0, "a span is whole chunks");
_Static_assert(ATTEND_CHUNK % ATTEND_LANES == 0, "chunks are rounded up to lanes inside a chunk");

struct attend_job {
    const struct attention_args *args;
    const struct batch *batch;
    int table_stride;
    const struct row_kernels *kernels;
    const int32_t *tile_start; /* [n_seqs + 1] tiles before each sequence */
    float *work;               /* [n_threads, WORK_FLOATS] */
    float *spans;              /* [n_tiles, n_kv_heads, n_spans, slot] when split */
    int n_tiles, group, stride;
    int n_spans;   /* most spans that a tile sees */
    int slot_rows; /* most rows that a tile has */
};

struct attend_part {
    struct attend_tile tile;
    const int32_t *table;
    const float *zeros; /* [head_dim]: the K and V of a column that no row sees */
    int kv_head, seq;
    int begin, end; /* positions that some row sees */
};

size_t cpu_attention_scratch_bytes(const struct device *d, int n_seqs)
{
    size_t work = (size_t)d->n_threads * WORK_FLOATS * sizeof(float);
    return work + SPANS_FLOATS * sizeof(float) + ((size_t)n_seqs + 1) * sizeof(int32_t);
}

static int row_position(const struct attend_tile *t, int row)
{
    return t->pos_first + (t->row_first + row) / t->group;
}

/* The sequence that owns a tile: the last one that starts at or before it. */
static int find_seq(const struct attend_job *job, int tile)
{
    int low = 0, high = job->batch->n_seqs;
    while (high - low > 1) {
        int middle = low + (high - low) / 2;
        if (job->tile_start[middle] <= tile)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static float *take_floats(float **at, int n)
{
    float *p = *at;
    *at += n;
    return p;
}

static void lay_sum(struct attend_sum *sum, float **at, int n_rows, int stride)
{
    sum->acc = take_floats(at, n_rows * stride);
    sum->top = take_floats(at, ATTEND_ROWS);
    sum->norm = take_floats(at, ATTEND_ROWS);
}

static void clear_sum(const struct attend_sum *sum, int n_rows, int stride)
{
    memset(sum->acc, 0, (size_t)(n_rows * stride) * sizeof(float));
    for (int row = 0; row < n_rows; row++) {
        sum->top[row] = -INFINITY;
        sum->norm[row] = 0;
    }
}

/* Finds out what the part (tile, kv_head) is, and lays its arrays out in the thread's area. */
static void open_part(struct attend_part *p, const struct attend_job *job, int part, int thread)
{
    const struct attention_args *a = job->args;
    const struct batch *b = job->batch;
    int tile = part / a->kv->n_kv_heads;
    int seq = find_seq(job, tile);
    int n_tokens = b->seq_start[seq + 1] - b->seq_start[seq];
    struct attend_tile *t = &p->tile;

    *t = (struct attend_tile){.row_first = (tile - job->tile_start[seq]) * ATTEND_ROWS,
                              .pos_first = b->kv_len[seq] - n_tokens,
                              .group = job->group,
                              .head_dim = a->kv->head_dim,
                              .stride = job->stride,
                              .window = a->window,
                              .prompt_len =
                                  a->bidirectional ? smaller(b->kv_len[seq], b->n_prompt[seq]) : 0,
                              .soft_cap = a->soft_cap};
    t->n_rows = smaller(ATTEND_ROWS, n_tokens * job->group - t->row_first);
    float *at = job->work + (size_t)thread * WORK_FLOATS;
    float *zeros = take_floats(&at, t->stride);
    memset(zeros, 0, (size_t)t->stride * sizeof *zeros);
    t->q = take_floats(&at, t->n_rows * t->stride);
    t->kt = take_floats(&at, t->head_dim * ATTEND_CHUNK);
    t->v = take_floats(&at, ATTEND_CHUNK * t->stride);
    t->s = take_floats(&at, t->n_rows * ATTEND_CHUNK);
    t->decay = take_floats(&at, ATTEND_ROWS);
    lay_sum(&t->span, &at, t->n_rows, t->stride);
    lay_sum(&t->total, &at, t->n_rows, t->stride);

    p->table = batch_table(b, job->table_stride, seq);
    p->zeros = zeros;
    p->kv_head = part % a->kv->n_kv_heads;
    t->slope = a->alibi ? a->alibi + p->kv_head * job->group : NULL;
    p->seq = seq;
    p->end = row_position(t, t->n_rows - 1) + 1;
    if (p->end < t->prompt_len)
        p->end = t->prompt_len;
    int oldest = row_position(t, 0) + 1 - a->window;
    p->begin = a->window > 0 && oldest > 0 ? oldest : 0;
}

/* Index of row's first value in q or out, whose tokens are `stride` values apart. */
static size_t row_offset(const struct attend_job *job, const struct attend_part *p, int row,
                         int stride)
{
    int flat = p->tile.row_first + row;
    int token = job->batch->seq_start[p->seq] + flat / job->group;
    int head = p->kv_head * job->group + flat % job->group;
    return (size_t)token * (size_t)stride + (size_t)head * (size_t)p->tile.head_dim;
}

static void load_queries(const struct attend_job *job, const struct attend_part *p)
{
    const struct attend_tile *t = &p->tile;
    for (int row = 0; row < t->n_rows; row++) {
        const float *from =
            (const float *)job->args->q + row_offset(job, p, row, job->args->q_stride);
        for (int d = 0; d < t->head_dim; d++)
            t->q[row * t->stride + d] = from[d] * job->args->scale;
    }
}

/* The chunk's columns from `first` on; unseen ones are zeros, whatever their pages hold. */
static void find_columns(struct attend_source *from, const struct attend_job *job,
                         const struct attend_part *p, int first, int n_cols)
{
    const struct kv_cache *kv = job->args->kv;
    const size_t row_bytes = kv_row_bytes(kv);
    size_t row = 0;
    bool known = false;
    for (int c = 0; c < n_cols; c++) {
        int position = first + c;
        if (position < p->begin || position >= p->end) {
            from->k[c] = from->v[c] = (const char *)p->zeros;
            from->k_scale[c] = from->v_scale[c] = 0;
            continue;
        }
        if (!known || position % kv->block_tokens == 0)
            row = kv_row(kv, job->args->layer, p->table, p->kv_head, position);
        else
            row++;
        known = true;
        from->k[c] = (const char *)kv->k + row * row_bytes;
        from->v[c] = (const char *)kv->v + row * row_bytes;
        if (kv_has_scales(kv->dtype)) {
            from->k_scale[c] = kv->k_scale[row];
            from->v_scale[c] = kv->v_scale[row];
        }
    }
}

/* Sums the part of one span that the tile sees into tile.span. */
static void sum_span(const struct attend_job *job, const struct attend_part *p, int span)
{
    struct attend_source from = {.dtype = job->args->kv->dtype};
    int first = span * ATTEND_SPAN, end = smaller(first + ATTEND_SPAN, p->end);
    if (first < p->begin)
        first = p->begin / ATTEND_CHUNK * ATTEND_CHUNK;
    clear_sum(&p->tile.span, p->tile.n_rows, p->tile.stride);
    for (; first < end; first += ATTEND_CHUNK) {
        int n = smaller(end - first, ATTEND_CHUNK);
        int n_cols = divide_up(n, ATTEND_LANES) * ATTEND_LANES;
        find_columns(&from, job, p, first, n_cols);
        job->kernels->attend_load(&p->tile, &from, n_cols);
        job->kernels->attend_chunk(&p->tile, first, n_cols);
    }
}

static void finish_part(const struct attend_job *job, const struct attend_part *p)
{
    int stride = job->args->n_heads * p->tile.head_dim;
    for (int row = 0; row < p->tile.n_rows; row++)
        job->kernels->attend_finish((float *)job->args->out + row_offset(job, p, row, stride),
                                    &p->tile, row);
}

static int first_span(const struct attend_part *p)
{
    return p->begin / ATTEND_SPAN;
}

static int end_span(const struct attend_part *p)
{
    return divide_up(p->end, ATTEND_SPAN);
}

static void attend_whole(void *ctx, int part, int thread)
{
    const struct attend_job *job = ctx;
    struct attend_part p;
    open_part(&p, job, part, thread);
    load_queries(job, &p);
    clear_sum(&p.tile.total, p.tile.n_rows, p.tile.stride);
    for (int span = first_span(&p); span < end_span(&p); span++) {
        sum_span(job, &p, span);
        job->kernels->attend_merge(&p.tile);
    }
    finish_part(job, &p);
}

static size_t slot_floats(int slot_rows, int stride)
{
    return (size_t)(slot_rows * stride + 2 * ATTEND_ROWS);
}

/* Puts tile.span where the sums of this part's span are kept. */
static void use_slot(struct attend_part *p, const struct attend_job *job, int part, int span)
{
    size_t slot = (size_t)part * (size_t)job->n_spans + (size_t)(span - first_span(p));
    float *at = job->spans + slot * slot_floats(job->slot_rows, job->stride);
    lay_sum(&p->tile.span, &at, job->slot_rows, job->stride);
}

static void attend_one_span(void *ctx, int part, int thread)
{
    const struct attend_job *job = ctx;
    struct attend_part p;
    open_part(&p, job, part / job->n_spans, thread);
    int span = first_span(&p) + part % job->n_spans;
    if (span >= end_span(&p))
        return;
    load_queries(job, &p);
    use_slot(&p, job, part / job->n_spans, span);
    sum_span(job, &p, span);
}

static void join_spans(void *ctx, int part, int thread)
{
    const struct attend_job *job = ctx;
    struct attend_part p;
    open_part(&p, job, part, thread);
    clear_sum(&p.tile.total, p.tile.n_rows, p.tile.stride);
    for (int span = first_span(&p); span < end_span(&p); span++) {
        use_slot(&p, job, part, span);
        job->kernels->attend_merge(&p.tile);
    }
    finish_part(job, &p);
}

/* Fills tile_start and what the shapes decide. */
static void plan_tiles(struct attend_job *job, int32_t *tile_start)
{
    const struct batch *b = job->batch;
    int window = job->args->bidirectional ? 0 : job->args->window;
    tile_start[0] = 0;
    for (int seq = 0; seq < b->n_seqs; seq++) {
        int n_tokens = b->seq_start[seq + 1] - b->seq_start[seq];
        int n_rows = n_tokens * job->group;
        tile_start[seq + 1] = tile_start[seq] + divide_up(n_rows, ATTEND_ROWS);
        if (job->slot_rows < smaller(n_rows, ATTEND_ROWS))
            job->slot_rows = smaller(n_rows, ATTEND_ROWS);
        int n_seen = b->kv_len[seq];
        if (window > 0 && n_seen > window + ATTEND_ROWS)
            n_seen = window + ATTEND_ROWS;
        int n_spans = divide_up(n_seen, ATTEND_SPAN) + (window > 0); /* it may start inside one */
        if (job->n_spans < n_spans)
            job->n_spans = n_spans;
    }
    job->tile_start = tile_start;
    job->n_tiles = tile_start[b->n_seqs];
}

static bool worth_splitting(const struct attend_job *job, const struct device *d, int n_parts)
{
    if (d->n_threads == 1 || n_parts >= PARTS_PER_THREAD * d->n_threads || job->n_spans < 2)
        return false;
    size_t slot = slot_floats(job->slot_rows, job->stride);
    return (size_t)n_parts * (size_t)job->n_spans * slot <= SPANS_FLOATS;
}

void cpu_attention(struct device *d, const struct attention_args *a)
{
    const struct kv_cache *kv = a->kv;
    assert(kv->head_dim <= HEAD_DIM_MAX && a->n_heads % kv->n_kv_heads == 0);
    assert(cpu_backend.ops->kv_fits(d, kv->dtype));
    assert(d->scratch_bytes >= cpu_attention_scratch_bytes(d, d->batch.n_seqs));
    float *spans = (float *)d->scratch + (size_t)d->n_threads * WORK_FLOATS;
    struct attend_job job = {.args = a,
                             .batch = &d->batch,
                             .table_stride = d->limits.table_stride,
                             .kernels = cpu_rows(d),
                             .work = d->scratch,
                             .spans = spans,
                             .group = a->n_heads / kv->n_kv_heads,
                             .stride = divide_up(kv->head_dim, ATTEND_LANES) * ATTEND_LANES};
    plan_tiles(&job, (int32_t *)(spans + SPANS_FLOATS));
    int n_parts = job.n_tiles * kv->n_kv_heads;
    if (worth_splitting(&job, d, n_parts)) {
        cpu_parallel(d, attend_one_span, &job, n_parts * job.n_spans);
        cpu_parallel(d, join_spans, &job, n_parts);
    } else {
        cpu_parallel(d, attend_whole, &job, n_parts);
    }
}
