#include "server/bench_table.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    PREFILL_TIMES = 5, /* after one that does not count */
    STEPS = 64,        /* of which the median is taken, on a GPU */
    STEPS_FEW = 12,
    WARM_STEPS = 4, /* of the full batch, which do not count */
    N_MAX = 1 << 16 /* that no request reaches: it is cancelled before */
};

static const int32_t prefill_full[] = {128, 512, 1024, 2048, 8192, 0},
                     prefill_few[] = {128, 512, 0};
static const int32_t batch_full[] = {1, 8, 32, 64, 128, 256, 512, 0}, batch_few[] = {1, 8, 0};
static const int32_t context_full[] = {128, 1024, 4096, 8192, 0}, context_few[] = {128, 512, 0};
static const int32_t one[] = {1, 0};

/* ---- rows ---- */

static bool read_number(const char **at, int32_t *out)
{
    char *end;
    const long v = strtol(*at, &end, 10);
    if (end == *at || v < 1 || v > N_MAX)
        return false;
    *out = (int32_t)v;
    *at = end;
    return true;
}

static bool read_row(const char **at, bool have_batch, struct bench_row *row)
{
    if (have_batch && (!read_number(at, &row->batch) || *(*at)++ != 'x'))
        return false;
    row->batch = have_batch ? row->batch : 1;
    return read_number(at, &row->tokens);
}

bool bench_rows_read(struct bench_rows *rows, const char *text, bool have_batch, struct status *st)
{
    const char *at = text ? text : "";
    rows->n = 0;
    while (rows->n < BENCH_ROWS_MAX && read_row(&at, have_batch, &rows->at[rows->n])) {
        rows->n++;
        if (*at == '\0')
            return true;
        if (*at++ != ',')
            break;
    }
    return status_fail(st, STATUS_BAD_INPUT, "want %s, at most %d of them",
                       have_batch ? "BATCHxTOKENS,BATCHxTOKENS,..." : "TOKENS,TOKENS,...",
                       BENCH_ROWS_MAX);
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, int n)
{
    qsort(x, (size_t)n, sizeof *x, compare);
    return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

/* ---- prefill ---- */

static bool prefill_once(struct bench_source *from, int32_t n_prompt, double *ms, struct status *st)
{
    struct bench_requests r;
    if (!bench_requests_make(&r, from, 1, n_prompt, 1, st) ||
        !bench_requests_run(&r, from, NULL, st))
        return false;
    *ms = (double)(r.at[0].first_token_ns - r.start_ns) / 1e6;
    bench_requests_close(&r);
    return true;
}

static void put_prefill(struct bench_table *t, int32_t n_prompt, double ms, const char *comma)
{
    const double per_s = n_prompt / ms * 1e3;
    if (t->json)
        buf_printf(t->out, "%s{\"tokens\":%d,\"ms\":%.3f,\"tokens_per_s\":%.1f}", comma, n_prompt,
                   ms, per_s);
    else
        printf("%-8s %6s %8d %10.3f %12.1f\n", "prefill", "", n_prompt, ms, per_s);
}

static bool prefill(struct bench_table *t, struct bench_source *from, int32_t n_prompt,
                    const char *comma, struct status *st)
{
    double ms[PREFILL_TIMES];
    for (int i = -1; i < PREFILL_TIMES; i++)
        if (!prefill_once(from, n_prompt, &ms[i < 0 ? 0 : i], st))
            return status_wrap(st, "a prompt of %d tokens", n_prompt);
    put_prefill(t, n_prompt, median(ms, PREFILL_TIMES), comma);
    return true;
}

/* ---- decode ---- */

struct decode { /* a batch that generates, and is cancelled when enough was seen */
    struct bench_source *from;
    struct bench_requests requests;
    int32_t n_started, n_seen; /* requests with a token; tokens of the last request at last_ns */
    uint64_t last_ns;
    int n_steps, n_wanted;
    bool cancelled;
    double ms[STEPS], kv_tokens; /* in the cache, about the middle of what was timed */
};

static int32_t n_out(const struct request *r)
{
    return atomic_load_explicit(&r->n_out, memory_order_acquire);
}

/* What the cache holds when the last timed step is seen, less half of the timed ones. */
static void count_kv(struct decode *d)
{
    const struct bench_requests *r = &d->requests;
    for (int i = 0; i < r->n; i++)
        d->kv_tokens += r->at[i].n_prompt + n_out(&r->at[i]) - (d->n_seen - WARM_STEPS) / 2;
}

static void end_batch(struct decode *d)
{
    const struct bench_requests *r = &d->requests;
    count_kv(d);
    for (int i = 0; i < r->n; i++)
        scheduler_cancel(d->from->sched, &r->at[i]);
    d->cancelled = true;
}

/* Time passes with the last request's tokens: it was the last to begin. */
static void see_news(void *ctx, struct request *q)
{
    struct decode *d = ctx;
    const struct bench_requests *r = &d->requests;
    const int32_t n = n_out(&r->at[r->n - 1]);
    if (d->cancelled || q != &r->at[r->n - 1] || n <= d->n_seen)
        return;
    const uint64_t now = clock_now(&clock_real);
    if (d->n_seen > WARM_STEPS && d->n_steps < d->n_wanted)
        d->ms[d->n_steps++] = (double)(now - d->last_ns) / 1e6 / (n - d->n_seen);
    d->n_seen = n;
    d->last_ns = now;
    /* Beyond these tokens those who began first are done. */
    if (d->n_steps == d->n_wanted || n >= d->n_wanted + 3 * WARM_STEPS)
        end_batch(d);
}

/* Requests that begin early generate while the others' prompts run: room for that too. */
static int32_t tokens_most(const struct bench_table *t, const struct bench_source *from,
                           int32_t batch, int32_t context)
{
    const struct step_limits *l = &from->facts.limits;
    const int32_t lead = batch * ((2 * context + l->step_tokens_max - 1) / l->step_tokens_max);
    const int32_t n = lead + (t->full ? STEPS : STEPS_FEW) + 4 * WARM_STEPS;
    return n < N_MAX ? n : N_MAX;
}

static bool fits(const struct bench_table *t, const struct bench_source *from, int32_t batch,
                 int32_t context)
{
    const struct step_limits *l = &from->facts.limits;
    const int64_t n = (int64_t)context + tokens_most(t, from, batch, context);
    const int64_t blocks = (n + l->block_tokens - 1) / l->block_tokens;
    return batch <= l->seqs_max && n <= l->context_max && blocks * batch <= l->n_blocks;
}

static void put_decode(struct bench_table *t, const struct decode *d, int32_t context, double ms,
                       const char *comma)
{
    const struct engine_facts *f = &d->from->facts;
    const double kv_bytes =
        (double)f->kv_bytes / ((double)f->limits.n_blocks * f->limits.block_tokens);
    const double bytes_s = ((double)f->step_weight_bytes + d->kv_tokens * kv_bytes) / ms * 1e3;
    const double per_s = d->requests.n / ms * 1e3;
    const double share = t->copy_bytes_s > 0 ? 100 * bytes_s / t->copy_bytes_s : 0;
    if (t->json)
        buf_printf(t->out,
                   "%s{\"batch\":%d,\"context\":%d,\"ms\":%.4f,\"tokens_per_s\":%.1f,"
                   "\"gb_per_s\":%.1f,\"copy_share\":%.1f}",
                   comma, d->requests.n, context, ms, per_s, bytes_s / 1e9, share);
    else
        printf("%-8s %6d %8d %10.3f %12.1f %9.1f %6.1f\n", "decode", d->requests.n, context, ms,
               per_s, bytes_s / 1e9, share);
}

static bool decode(struct bench_table *t, struct bench_source *from, int32_t batch, int32_t context,
                   const char *comma, struct status *st)
{
    struct decode d = {.from = from, .n_wanted = t->full ? STEPS : STEPS_FEW};
    const struct bench_watch watch = {see_news, &d};
    if (!bench_requests_make(&d.requests, from, batch, context,
                             tokens_most(t, from, batch, context), st) ||
        !bench_requests_run(&d.requests, from, &watch, st))
        return status_wrap(st, "%d x %d tokens", batch, context);
    /* A reader that is late sees several steps at once, and has fewer times. */
    if (!d.cancelled || d.n_steps < d.n_wanted / 4)
        return status_fail(st, STATUS_DEVICE, "%d x %d tokens: %d steps of the full batch, want %d",
                           batch, context, d.n_steps, d.n_wanted / 4);
    put_decode(t, &d, context, median(d.ms, d.n_steps), comma);
    bench_requests_close(&d.requests);
    return true;
}

/* ---- both ---- */

/* Each of `batch` with each of `tokens`; both end with 0. */
static void add_rows(struct bench_rows *rows, const int32_t *batch, const int32_t *tokens)
{
    for (; *batch; batch++)
        for (const int32_t *n = tokens; *n; n++)
            rows->at[rows->n++] = (struct bench_row){.batch = *batch, .tokens = *n};
}

static bool refuse(const struct bench_source *from, const struct bench_row *row, struct status *st)
{
    const struct step_limits *l = &from->facts.limits;
    return status_fail(st, STATUS_TOO_LARGE,
                       "%d x %d tokens and what is generated do not fit: %d sequences of at most "
                       "%d tokens, %d blocks of %d",
                       row->batch, row->tokens, l->seqs_max, l->context_max, l->n_blocks,
                       l->block_tokens);
}

static bool run_prefills(struct bench_table *t, struct bench_source *from, struct status *st)
{
    struct bench_rows all = {0};
    const char *comma = "";
    add_rows(&all, one, t->full ? prefill_full : prefill_few);
    const struct bench_rows *rows = t->prefills ? t->prefills : &all;
    for (int i = 0; i < rows->n; i++) {
        if (rows->at[i].tokens + 1 > from->facts.limits.context_max) {
            if (t->prefills)
                return refuse(from, &rows->at[i], st);
            continue;
        }
        if (!prefill(t, from, rows->at[i].tokens, comma, st))
            return false;
        comma = ",";
    }
    return true;
}

static bool run_decodes(struct bench_table *t, struct bench_source *from, struct status *st)
{
    struct bench_rows all = {0};
    const char *comma = "";
    add_rows(&all, t->full ? batch_full : batch_few, t->full ? context_full : context_few);
    const struct bench_rows *rows = t->decodes ? t->decodes : &all;
    for (int i = 0; i < rows->n; i++) {
        const struct bench_row *row = &rows->at[i];
        if (!fits(t, from, row->batch, row->tokens)) {
            if (t->decodes)
                return refuse(from, row, st);
            continue;
        }
        if (!decode(t, from, row->batch, row->tokens, comma, st))
            return false;
        comma = ",";
    }
    return true;
}

bool bench_table_run(struct bench_table *t, struct bench_source *from, struct status *st)
{
    setvbuf(stdout, NULL, _IOLBF, 0); /* a row is out when it is measured */
    if (t->json)
        buf_put_str(t->out, ",\"prefill\":[");
    else
        printf("%-8s %6s %8s %10s %12s %9s %6s\n", "", "batch", "tokens", "ms", "tokens/s", "GB/s",
               "% copy");
    if (!run_prefills(t, from, st))
        return false;
    if (t->json)
        buf_put_str(t->out, "],\"decode\":[");
    if (!run_decodes(t, from, st))
        return false;
    if (t->json)
        buf_put_str(t->out, "]");
    return true;
}
