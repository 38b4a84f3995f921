/* bench_weights.c - random weights of each format on the device, and copies that take turns.
 *
 * The loader makes one of each, for all formats at once; the copies are of what it made. */
#include <stdlib.h>
#include <string.h>

#include "kernels/bench_int.h"

/* More than caches hold. */
static const size_t CACHES = (size_t)192 << 20, CACHES_CPU = (size_t)64 << 20;

struct bench_matrix *bench_matrices(const struct bench_device *b, bool of_head, int *n,
                                    struct status *st)
{
    struct bench_matrix *m = calloc(FORMATS_MAX, sizeof *m);
    *n = 0;
    if (!m)
        status_fail(st, STATUS_BUSY, "no memory for matrices");
    for (const struct bench_format *f = bench_formats; m && f->name; f++) {
        const bool usual = f->usual && (!of_head || f->in_head);
        const bool is_shown = bench_wants_format(b->run, f->name, usual);
        if (is_shown || (b->vendor && f == bench_formats))
            m[(*n)++] = (struct bench_matrix){.format = f, .is_shown = is_shown};
    }
    return m;
}

static bool set_scheme(struct bench_matrix *m, const struct bench_product *p, struct status *st)
{
    return m->format->dtype != DT_N ||
           (scheme_parse(&m->scheme, m->format->name, st) && scheme_check(&m->scheme, p->in, st));
}

static struct tensor part_of(const struct bench_matrix *m, int n, int in)
{
    const bool has_scheme = m->format->dtype == DT_N;
    return (struct tensor){.dtype = has_scheme ? m->scheme.codes : m->format->dtype,
                           .rows = n,
                           .cols = in,
                           .scheme = has_scheme ? &m->scheme : NULL};
}

static size_t aligned(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

/* Bytes of one copy; where its parts begin. */
static size_t lay_parts(const struct bench_device *b, const struct bench_matrix *m,
                        const struct bench_product *p, size_t at[PARTS_MAX])
{
    size_t n = 0;
    for (int i = 0; i < p->parts; i++) {
        const struct tensor w = part_of(m, p->n[i], p->in);
        at[i] = n;
        n += aligned(b->ops->weight_bytes(b->dev, &w), 64);
    }
    return aligned(n, 256);
}

static size_t count_copies(const struct bench_device *b, size_t one)
{
    const size_t want = (b->on_cpu ? CACHES_CPU : CACHES) / one + 1;
    return want < COPIES_MAX ? want : COPIES_MAX;
}

/* The first copy, into memory for all; *file is what it is made of until weights_done. */
static bool put_first(struct bench_device *b, const struct bench_product *p, struct bench_matrix *m,
                      struct bench_codes *codes, void **file, struct status *st)
{
    size_t at[PARTS_MAX], n_bytes = 0;
    const size_t one = lay_parts(b, m, p, at);
    int widest = 0;
    m->n_copies = count_copies(b, one);
    char *memory = b->ops->mem_take(b->dev, one * m->n_copies, st);
    if (!memory)
        return false;
    for (int i = 0; i < p->parts; i++)
        widest = p->n[i] > widest ? p->n[i] : widest;
    if (m->format->dtype == DT_N)
        *codes = (struct bench_codes){&m->scheme, p->in};
    else if (!tensor_file_bytes(m->format->dtype, widest, p->in, &n_bytes) ||
             !(*file = malloc(n_bytes)))
        return status_fail(st, STATUS_BUSY, "no memory for weights of %d by %d", widest, p->in);
    if (*file)
        bench_fill_rows(m->format, *file, widest, p->in);
    for (int i = 0; i < p->parts; i++) {
        m->w[0][i] = part_of(m, p->n[i], p->in);
        m->w[0][i].data = memory + at[i];
        b->ops->weight_put(
            b->dev, &m->w[0][i],
            &(struct weight_source){
                .at = *file, .fd = -1, .rows = *file ? NULL : bench_make_codes, .ctx = codes});
    }
    return true;
}

static bool is_held(const struct bench_matrix *m)
{
    const struct tensor *w = &m->w[0][0];
    return m->format->dtype == DT_N ? w->scheme != NULL
                                    : m->format == bench_formats || w->dtype == m->format->dtype;
}

/* The others, of what the device holds. */
static bool copy_first(struct bench_device *b, const struct bench_product *p,
                       struct bench_matrix *m, struct status *st)
{
    size_t at[PARTS_MAX];
    const size_t one = lay_parts(b, m, p, at);
    char *first = m->w[0][0].data;
    void *host = malloc(one);
    if (!host)
        return status_fail(st, STATUS_BUSY, "no memory for a copy of weights");
    if (m->n_copies > 1)
        b->ops->copy_out(b->dev, host, first, one);
    for (size_t c = 1; c < m->n_copies; c++) {
        b->ops->copy_in(b->dev, first + c * one, host, one);
        for (int i = 0; i < p->parts; i++) {
            m->w[c][i] = m->w[0][i];
            m->w[c][i].data = first + c * one + at[i];
        }
    }
    free(host);
    return true;
}

bool bench_weights(struct bench_device *b, const struct bench_product *p, struct bench_matrix *m,
                   int n, struct status *st)
{
    struct bench_codes codes[FORMATS_MAX];
    void *file[FORMATS_MAX] = {NULL};
    struct status late = {0};
    bool ok = true;
    for (int i = 0; ok && i < n; i++)
        ok = (set_scheme(&m[i], p, st) && put_first(b, p, &m[i], &codes[i], &file[i], st)) ||
             status_wrap(st, "%s", m[i].format->name);
    /* Also after a failure: the loader reads the files until then. */
    if (!b->ops->weights_done(b->dev, ok ? st : &late))
        ok = false;
    for (int i = 0; i < n; i++)
        free(file[i]);
    for (int i = 0; ok && i < n; i++) {
        m[i].is_held = is_held(&m[i]);
        ok = copy_first(b, p, &m[i], st);
    }
    return ok;
}

double bench_weight_bytes(const struct bench_matrix *m, const struct bench_product *p)
{
    double n_bytes = 0;
    for (int i = 0; i < p->parts; i++) {
        size_t n = 0;
        if (m->format->dtype == DT_N)
            n = scheme_bytes(&m->scheme, p->n[i], p->in);
        else if (!tensor_file_bytes(m->format->dtype, p->n[i], p->in, &n))
            n = 0;
        n_bytes += (double)n;
    }
    return n_bytes;
}
