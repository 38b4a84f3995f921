/* quant_load.c - which weights are quantized on load, and what takes their place. */
#include "engine/quant_load.h"

#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "engine/model.h"
#include "engine/quant_source.h"

enum { SHOWN_MAX = 6 /* names of weights that stay, in a print */ };

struct quant_weight {
    struct weight weight; /* what the model is bound to */
    struct quant_source source;
    _Atomic int fault;
};

struct quant_load {
    struct quant_choice choice;
    char *skip; /* what choice.skip points to */
    int n_threads;
    struct quant_weight *weight; /* [n] */
    size_t n;
};

/* ---- options ---- */

static bool is_off(const char *text)
{
    return !text || !*text || strcmp(text, "none") == 0;
}

bool quant_choice_read(struct quant_choice *c, const struct engine_options *o, struct status *st)
{
    *c = (struct quant_choice){.has_layers = !is_off(o->quantize),
                               .has_head = !is_off(o->quantize_head),
                               .skip = o->quantize_skip ? o->quantize_skip : ""};
    if (c->has_layers && !scheme_parse(&c->layers, o->quantize, st))
        return status_wrap(st, "quantize");
    return !c->has_head || scheme_parse(&c->head, o->quantize_head, st) ||
           status_wrap(st, "quantize-head");
}

/* The next name of a list with commas; false at its end. */
static bool next_name(const char **at, struct str *name)
{
    *at += strspn(*at, ", ");
    *name = (struct str){*at, strcspn(*at, ", ")};
    *at += name->n;
    return name->n > 0;
}

static bool has_part(struct str name, struct str part)
{
    return memmem(name.at, name.n, part.at, part.n) != NULL;
}

static bool is_skipped(const struct quant_choice *c, struct str name)
{
    const char *at = c->skip;
    for (struct str part; next_name(&at, &part);)
        if (has_part(name, part))
            return true;
    return false;
}

const struct scheme *quant_choice_of(const struct quant_choice *c, const struct bound *b)
{
    const bool is_head = b->rule->slot == W_EMBED || b->rule->slot == W_LM_HEAD;
    const bool is_matrix = b->rule->rows != DIM_ONE && (is_head || b->il >= 0);
    if (!is_matrix || !(is_head ? c->has_head : c->has_layers) || is_skipped(c, b->src->name))
        return NULL;
    return is_head ? &c->head : &c->layers;
}

bool quant_choice_check(const struct quant_choice *c, const struct model_file *f, struct status *st)
{
    const char *at = c->skip;
    for (struct str part; next_name(&at, &part);) {
        size_t i = 0;
        while (i < f->n_bound && !has_part(f->bound[i].src->name, part))
            i++;
        if (i == f->n_bound)
            return status_fail(st, STATUS_BAD_INPUT, "no weight has \"%s\" in its name",
                               str_show(part).text);
    }
    return true;
}

/* ---- weights ---- */

static bool same_scheme(const struct scheme *a, const struct scheme *b)
{
    return a->codes == b->codes && a->group == b->group && a->has_zero == b->has_zero &&
           a->nested == b->nested && a->act == b->act;
}

static bool keep_codes(const struct weight *w, const struct scheme *s, struct status *st)
{
    return w->scheme->threshold == s->threshold ||
           status_fail(st, STATUS_UNSUPPORTED,
                       "tensor %s: want threshold=%.9g, as its file has it, found %.9g",
                       str_show(w->name).text, (double)w->scheme->threshold, (double)s->threshold);
}

static bool refuse_codes(const struct weight *w, const struct scheme *s, struct status *st)
{
    char has[128], want[128];
    return status_fail(st, STATUS_UNSUPPORTED,
                       "tensor %s: want plain numbers to make %s of, found %s",
                       str_show(w->name).text, scheme_describe(s, want, sizeof want),
                       scheme_describe(w->scheme, has, sizeof has));
}

static bool replace(struct quant_load *q, struct bound *b, const struct scheme *s,
                    struct status *st)
{
    const struct weight *from = b->src;
    struct quant_weight *to = &q->weight[q->n];
    if (from->dtype >= DT_N)
        return same_scheme(from->scheme, s) ? keep_codes(from, s, st) : refuse_codes(from, s, st);
    if (!quant_source_init(&to->source, from, s, &to->fault, st))
        return false;
    to->weight =
        (struct weight){.name = from->name,
                        .dtype = s->codes,
                        .rows = from->rows,
                        .cols = from->cols,
                        .n_bytes = from->n_bytes,
                        .scheme = s,
                        .source = {.fd = -1, .rows = quant_source_rows, .ctx = &to->source}};
    b->src = &to->weight;
    q->n++;
    return true;
}

static struct quant_load *make(const struct quant_choice *c, size_t n_max, int n_threads)
{
    struct quant_load *q = calloc(1, sizeof *q);
    if (!q)
        return NULL;
    q->choice = *c;
    q->n_threads = n_threads;
    q->skip = strdup(c->skip);
    q->choice.skip = q->skip;
    q->weight = calloc(n_max + 1, sizeof *q->weight);
    if (q->skip && q->weight)
        return q;
    quant_load_close(q);
    return NULL;
}

bool quant_load_apply(struct model_file *f, const struct engine_options *o, struct status *st)
{
    struct quant_choice c;
    if (!quant_choice_read(&c, o, st))
        return false;
    if (!c.has_layers && !c.has_head)
        return !o->quantize_skip || !*o->quantize_skip ||
               status_fail(st, STATUS_BAD_INPUT,
                           "quantize-skip: nothing is quantized: want quantize or quantize-head");
    if (!quant_choice_check(&c, f, st))
        return status_wrap(st, "quantize-skip");
    f->quant_load = make(&c, f->n_bound, o->n_threads);
    if (!f->quant_load)
        return status_fail(st, STATUS_BUSY, "no memory to quantize %zu tensors", f->n_bound);
    for (size_t i = 0; i < f->n_bound; i++) {
        const struct scheme *s = quant_choice_of(&f->quant_load->choice, &f->bound[i]);
        if (s && !replace(f->quant_load, &f->bound[i], s, st))
            return false;
    }
    return true;
}

/* What makes the rows of a weight that f is bound to, which may be some of all; NULL = its file. */
static struct quant_source *source_of(const struct model_file *f, size_t i)
{
    const struct weight_source *source = &f->bound[i].src->source;
    return source->rows == quant_source_rows ? (void *)(uintptr_t)source->ctx : NULL;
}

bool quant_load_prepare(const struct model_file *f, struct status *st)
{
    for (size_t i = 0; f->quant_load && i < f->n_bound; i++) {
        struct quant_source *source = source_of(f, i);
        if (source && !quant_source_prepare(source, f->quant_load->n_threads, st))
            return false;
    }
    return true;
}

bool quant_load_check(const struct model_file *f, struct status *st)
{
    for (size_t i = 0; f->quant_load && i < f->n_bound; i++) {
        const struct quant_source *source = source_of(f, i);
        if (source && !quant_source_check(source, st))
            return false;
    }
    return true;
}

void quant_load_close(struct quant_load *q)
{
    if (!q)
        return;
    for (size_t i = 0; i < q->n; i++)
        quant_source_close(&q->weight[i].source);
    free(q->weight);
    free(q->skip);
    free(q);
}

const struct weight *quant_load_file_weight(const struct bound *b)
{
    const struct weight_source *source = &b->src->source;
    return source->rows == quant_source_rows ? ((const struct quant_source *)source->ctx)->from
                                             : b->src;
}

/* ---- print ---- */

static void print_choice(const char *what, bool has, const struct scheme *s, struct buf *out)
{
    char text[128];
    buf_printf(out, "  %-12s %s\n", what,
               has ? scheme_describe(s, text, sizeof text) : "as in the file");
}

void quant_load_print(const struct model_file *f, struct buf *out)
{
    const struct quant_load *q = f->quant_load;
    size_t n_kept = 0;
    if (!q)
        return;
    buf_put_str(out, "quantized on load\n");
    print_choice("layers", q->choice.has_layers, &q->choice.layers, out);
    print_choice("head", q->choice.has_head, &q->choice.head, out);
    for (size_t i = 0; i < f->n_bound; i++) {
        const struct bound *b = &f->bound[i];
        if (b->rule->rows == DIM_ONE || b->src->dtype >= DT_N)
            continue;
        if (n_kept < SHOWN_MAX)
            buf_printf(out, "  %-12s %s\n", n_kept == 0 ? "left alone" : "",
                       str_show(b->src->name).text);
        n_kept++;
    }
    if (n_kept > SHOWN_MAX)
        buf_printf(out, "  %-12s and %zu more\n", "", n_kept - SHOWN_MAX);
}
