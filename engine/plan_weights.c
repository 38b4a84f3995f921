/* plan_weights.c - sums over the bound weights of a model. */
#include "engine/plan_weights.h"

#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "engine/model.h"
#include "engine/quant_load.h"

static const char *name_of(const struct weight *w, char *text, size_t size)
{
    if (w->scheme)
        return scheme_describe(w->scheme, text, size);
    return dtype_traits[w->dtype].name;
}

static struct plan_kind *find_kind(struct plan_weights *w, const char *name)
{
    int i = 0;
    while (i < w->n_kinds && strcmp(w->kind[i].name, name) != 0)
        i++;
    if (i == PLAN_KINDS_MAX) {
        i--;
        name = "other types";
    }
    if (i == w->n_kinds)
        w->n_kinds++;
    snprintf(w->kind[i].name, sizeof w->kind[i].name, "%s", name);
    return &w->kind[i];
}

bool plan_weights_count(struct plan_weights *w, const struct model_file *f, const struct ops *ops,
                        const struct device *dev)
{
    *w = (struct plan_weights){0};
    for (size_t i = 0; i < f->n_bound; i++) {
        const struct bound *b = &f->bound[i];
        char text[sizeof w->kind[0].name];
        size_t n;
        if (!model_one_weight_bytes(b, ops, dev, &n))
            return false;
        if (b->rule->rows == DIM_ONE) {
            w->n_vectors++;
            w->vector_bytes += n;
            continue;
        }
        struct plan_kind *kind = find_kind(w, name_of(b->src, text, sizeof text));
        kind->n++;
        kind->n_bytes += n;
    }
    return true;
}

static void print_kind(struct buf *out, uint64_t n_bytes, int n, const char *what, const char *in,
                       const char *name)
{
    buf_printf(out, "  %-12s %10.1f MiB  %d %s%s%s\n", "", (double)n_bytes / (1 << 20), n, what, in,
               name);
}

void plan_weights_print(const struct plan_weights *w, struct buf *out)
{
    for (int i = 0; i < w->n_kinds; i++) {
        const struct plan_kind *k = &w->kind[i];
        print_kind(out, k->n_bytes, k->n, k->n == 1 ? "matrix" : "matrices", ": ", k->name);
    }
    if (w->n_vectors)
        print_kind(out, w->vector_bytes, w->n_vectors, "vectors", "", "");
}

/* What takes the place of the weight, or NULL; *fits is cleared where it should and cannot. */
static const struct scheme *find_scheme(const struct quant_choice *c, const struct bound *b,
                                        bool *fits)
{
    struct status none = {0};
    const struct scheme *s = quant_choice_of(c, b);
    if (s)
        *fits = *fits && b->src->dtype < DT_N && scheme_check(s, b->src->cols, &none);
    return s;
}

uint64_t plan_weights_quantized(const struct model_file *f, const struct quant_choice *c,
                                const struct ops *ops, const struct device *dev)
{
    size_t total;
    bool fits = model_weight_bytes(f, ops, dev, &total);
    for (size_t i = 0; fits && i < f->n_bound; i++) {
        struct weight w = *f->bound[i].src;
        const struct bound as = {.rule = f->bound[i].rule, .src = &w, .il = f->bound[i].il};
        size_t before, after;
        const struct scheme *s = find_scheme(c, &f->bound[i], &fits);
        if (!s || !fits)
            continue;
        w.dtype = s->codes;
        w.scheme = s;
        fits = model_one_weight_bytes(&f->bound[i], ops, dev, &before) &&
               model_one_weight_bytes(&as, ops, dev, &after) &&
               size_add(total - before, after, &total);
    }
    return fits ? total : 0;
}
