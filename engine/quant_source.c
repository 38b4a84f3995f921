/* quant_source.c - file rows to floats to codes. */
#include "engine/quant_source.h"

#include <stdlib.h>

#include "base/parallel.h"

enum { ROWS_PER_PART = 32 };
enum fault { FAULT_NONE, FAULT_NOT_FINITE, FAULT_MEMORY };

bool quant_source_init(struct quant_source *q, const struct weight *from,
                       const struct scheme *scheme, _Atomic int *fault, struct status *st)
{
    char has[128];
    *q = (struct quant_source){.from = from, .scheme = scheme, .fault = fault};
    *fault = FAULT_NONE;
    if (from->dtype >= DT_N)
        return status_fail(st, STATUS_UNSUPPORTED, "tensor %s: want plain numbers, found %s",
                           str_show(from->name).text,
                           scheme_describe(from->scheme, has, sizeof has));
    return scheme_check(scheme, from->cols, st) ||
           status_wrap(st, "tensor %s", str_show(from->name).text);
}

void quant_source_close(struct quant_source *q)
{
    free(q->nested.absmax);
    q->nested.absmax = NULL;
}

/* ---- rows ---- */

static int64_t file_row(const struct quant_source *q, int64_t row)
{
    if (!q->paired)
        return row;
    const int64_t head = row / q->paired, half = q->paired / 2, at = row % q->paired;
    return head * q->paired + at % half * 2 + at / half;
}

void quant_source_floats(const struct quant_source *q, int64_t row, float *dst)
{
    const struct weight *w = q->from;
    const size_t row_bytes =
        w->source.row_bytes ? w->source.row_bytes : w->n_bytes / (size_t)w->rows;
    const char *at = w->source.at;
    dequantize_row(w->dtype, at + (size_t)file_row(q, row) * row_bytes, dst, w->cols);
}

static float *take_row(const struct quant_source *q)
{
    float *row = malloc((size_t)q->from->cols * sizeof *row);
    if (!row)
        atomic_store(q->fault, FAULT_MEMORY);
    return row;
}

static void note(const struct quant_source *q, bool finite)
{
    if (!finite)
        atomic_store(q->fault, FAULT_NOT_FINITE);
}

void quant_source_rows_nested(const struct quant_source *q, int64_t first, int64_t n,
                              const struct scheme_rows *to, uint8_t *nested_codes)
{
    const int64_t cols = q->from->cols, n_groups = scheme_groups(q->scheme, cols);
    float *row = take_row(q);
    for (int64_t i = 0; row && i < n; i++) {
        const struct scheme_rows at = {to->codes + i * cols, to->scales + i * n_groups,
                                       to->zeros ? to->zeros + i * n_groups : NULL};
        quant_source_floats(q, first + i, row);
        note(q, quantize_row(q->scheme, row, cols, &at));
        if (q->scheme->nested)
            nested_round(&q->nested, (first + i) * n_groups, n_groups, at.scales,
                         nested_codes ? nested_codes + i * n_groups : NULL);
    }
    free(row);
}

void quant_source_rows(const void *ctx, int64_t first, int64_t n, const struct scheme_rows *to)
{
    quant_source_rows_nested(ctx, first, n, to, NULL);
}

bool quant_source_check(const struct quant_source *q, struct status *st)
{
    const int fault = atomic_load(q->fault);
    if (fault == FAULT_MEMORY)
        return status_fail(st, STATUS_BUSY, "tensor %s: no memory to quantize it",
                           str_show(q->from->name).text);
    return fault == FAULT_NONE ||
           status_fail(st, STATUS_CORRUPT,
                       "tensor %s: want finite values to quantize, found NaN or infinity",
                       str_show(q->from->name).text);
}

/* ---- nested scales ---- */

struct scales { /* of a whole matrix, for as long as it is prepared */
    const struct quant_source *q;
    int64_t per_row;
    float *at; /* [rows, per_row] */
};

static void find_scales(void *ctx, int64_t part)
{
    const struct scales *s = ctx;
    const struct quant_source *q = s->q;
    const int64_t first = part * ROWS_PER_PART, rows = q->from->rows;
    const int64_t end = first + ROWS_PER_PART < rows ? first + ROWS_PER_PART : rows;
    float *row = take_row(q);
    for (int64_t i = first; row && i < end; i++) {
        quant_source_floats(q, i, row);
        note(q, quantize_row_scales(q->scheme, row, q->from->cols, s->at + i * s->per_row));
    }
    free(row);
}

bool quant_source_prepare(struct quant_source *q, int n_threads, struct status *st)
{
    const int64_t rows = q->from->rows;
    struct scales s = {.q = q, .per_row = scheme_groups(q->scheme, q->from->cols)};
    if (!q->scheme->nested || q->nested.absmax)
        return true;
    const size_t n = (size_t)(rows * s.per_row);
    s.at = malloc(n * sizeof *s.at);
    q->nested.absmax = malloc((size_t)nested_blocks((int64_t)n) * sizeof *q->nested.absmax);
    if (!s.at || !q->nested.absmax) {
        free(s.at);
        return status_fail(st, STATUS_BUSY, "tensor %s: no memory for its %zu scales",
                           str_show(q->from->name).text, n);
    }
    parallel_for(n_threads, (rows + ROWS_PER_PART - 1) / ROWS_PER_PART, find_scales, &s);
    const bool ok = quant_source_check(q, st);
    if (ok)
        nested_make(&q->nested, s.at, (int64_t)n);
    free(s.at);
    return ok;
}
