/* place.c - the cut of layers into stages, and one stage's layers as a model. */
#include "engine/place.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

/* ---- bytes ---- */

static bool is_on_first(const struct bound *b)
{
    return b->rule->slot == W_EMBED;
}

static bool has_output(const struct model_file *f)
{
    for (size_t i = 0; i < f->n_bound; i++)
        if (f->bound[i].rule->slot == W_LM_HEAD)
            return true;
    return false;
}

/* The table serves as output where there is none. */
static bool is_on_last(const struct bound *b, bool has_out)
{
    const enum slot slot = b->rule->slot;
    return slot == W_LM_HEAD || slot == W_FINAL_NORM || (slot == W_EMBED && !has_out);
}

static bool add(uint64_t *to, size_t n)
{
    size_t sum;
    const bool fits = size_add((size_t)*to, n, &sum);
    *to = sum;
    return fits;
}

bool place_count(struct place_costs *c, const struct model_file *f, const struct ops *ops,
                 const struct device *dev, uint64_t kv_layer)
{
    const bool has_out = has_output(f);
    *c = (struct place_costs){.n_layers = f->cfg.n_layers};
    for (int32_t il = 0; il < c->n_layers; il++)
        c->layer[il] = kv_layer;
    for (size_t i = 0; i < f->n_bound; i++) {
        const struct bound *b = &f->bound[i];
        size_t n;
        if (!model_one_weight_bytes(b, ops, dev, &n) || (b->il >= 0 && !add(&c->layer[b->il], n)) ||
            (is_on_first(b) && !add(&c->first, n)) || (is_on_last(b, has_out) && !add(&c->last, n)))
            return false;
    }
    return true;
}

/* ---- the cut ---- */

struct cut { /* the best cuts of the first layers into the first stages */
    double share[STAGES_MAX + 1][LAYERS_MAX + 1];  /* of the fullest device */
    int16_t first[STAGES_MAX + 1][LAYERS_MAX + 1]; /* where the last of the stages begins */
};

/* What stage s of n is filled to by the layers whose bytes are given. */
static double fill(const struct place_costs *c, uint64_t layers, int s, int n, uint64_t room)
{
    const uint64_t bytes = layers + (s == 0 ? c->first : 0) + (s == n - 1 ? c->last : 0);
    return (double)bytes / (double)(room > 0 ? room : 1);
}

/* The best cut of layers [0, end) into stages 0 to s, of n. */
static void find_cut(struct cut *k, const struct place_costs *c, int s, int n, uint64_t room,
                     int32_t end)
{
    uint64_t layers = 0;
    k->share[s][end] = INFINITY;
    for (int32_t first = end - 1; first >= s; first--) {
        layers += c->layer[first];
        if (s == 0 && first > 0)
            continue;
        const double here = fill(c, layers, s, n, room);
        const double share = s > 0 ? fmax(here, k->share[s - 1][first]) : here;
        if (share < k->share[s][end]) {
            k->share[s][end] = share;
            k->first[s][end] = (int16_t)first;
        }
    }
}

static bool check_stages(const struct place_costs *c, int n_stages, struct status *st)
{
    if (n_stages > STAGES_MAX)
        return status_fail(st, STATUS_BAD_INPUT, "layer-split: want at most %d stages, found %d",
                           STAGES_MAX, n_stages);
    return n_stages <= c->n_layers ||
           status_fail(st, STATUS_UNSUPPORTED,
                       "layer-split: want at most the model's %d layers, found %d", c->n_layers,
                       n_stages);
}

bool place_layers(struct placement *p, const struct place_costs *c, const uint64_t *room,
                  int n_stages, struct status *st)
{
    if (!check_stages(c, n_stages, st))
        return false;
    struct cut *k = malloc(sizeof *k);
    if (!k)
        return status_fail(st, STATUS_BUSY, "no memory to place %d layers", c->n_layers);
    for (int s = 0; s < n_stages; s++)
        for (int32_t end = s + 1; end <= c->n_layers; end++)
            find_cut(k, c, s, n_stages, room[s], end);
    *p = (struct placement){.n_stages = n_stages};
    p->first[n_stages] = c->n_layers;
    for (int s = n_stages; s-- > 0;)
        p->first[s] = k->first[s][p->first[s + 1]];
    free(k);
    return true;
}

/* ---- one stage ---- */

static bool is_kept(const struct bound *b, const struct placement *p, int stage, bool has_out)
{
    if (b->il >= 0)
        return b->il >= p->first[stage] && b->il < p->first[stage + 1];
    if (is_on_first(b) && stage == 0)
        return true;
    if (is_on_last(b, has_out))
        return stage == p->n_stages - 1;
    return !is_on_first(b);
}

bool place_view(struct model_file *view, const struct model_file *f, const struct placement *p,
                int stage, struct status *st)
{
    struct model_config *cfg = &view->cfg;
    const int32_t first = p->first[stage];
    const bool has_out = has_output(f);
    *view = *f;
    view->bound = calloc(f->n_bound + 1, sizeof *view->bound);
    if (!view->bound)
        return status_fail(st, STATUS_BUSY, "no memory to place %zu tensors", f->n_bound);
    view->n_bound = 0;
    for (size_t i = 0; i < f->n_bound; i++) {
        struct bound b = f->bound[i];
        if (!is_kept(&b, p, stage, has_out))
            continue;
        b.il -= b.il >= 0 ? first : 0;
        view->bound[view->n_bound++] = b;
    }
    cfg->stage = stage;
    cfg->n_stages = p->n_stages > 1 ? p->n_stages : 0;
    cfg->layer_first = first;
    cfg->n_layers = p->first[stage + 1] - first;
    memmove(cfg->is_local, f->cfg.is_local + first, (size_t)cfg->n_layers * sizeof *cfg->is_local);
    return true;
}

void place_view_close(struct model_file *view)
{
    free(view->bound);
    view->bound = NULL;
}

/* ---- max-memory ---- */

static bool find_unit(const char *text, size_t n, double *unit)
{
    static const struct {
        const char *name;
        double bytes;
    } units[] = {{"", 1},     {"B", 1},    {"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30},
                 {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9},     {"TiB", 0x1p40}, {"TB", 1e12}};
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (strlen(units[i].name) == n && strncmp(text, units[i].name, n) == 0) {
            *unit = units[i].bytes;
            return true;
        }
    return false;
}

/* "20GiB", up to a comma or the end. */
static bool read_bytes(const char **at, uint64_t *bytes)
{
    char *end;
    double unit;
    if (!isdigit((unsigned char)**at))
        return false;
    const double v = strtod(*at, &end);
    const size_t n = strcspn(end, ", ");
    if (!find_unit(end, n, &unit) || !(v * unit >= 1 && v * unit < 0x1p60))
        return false;
    *bytes = (uint64_t)(v * unit);
    *at = end + n;
    return true;
}

/* "0=20GiB" */
static bool read_cap(const char **at, uint64_t cap[COMM_RANKS_MAX], int *n)
{
    char *end;
    if (!isdigit((unsigned char)**at))
        return false;
    const long i = strtol(*at, &end, 10);
    if (*end != '=' || i >= COMM_RANKS_MAX || cap[i] != 0)
        return false;
    *at = end + 1;
    *n = i >= *n ? (int)i + 1 : *n;
    return read_bytes(at, &cap[i]);
}

bool place_caps_read(const char *text, uint64_t cap[COMM_RANKS_MAX], int *n, struct status *st)
{
    const char *at = text ? text : "";
    memset(cap, 0, COMM_RANKS_MAX * sizeof *cap);
    *n = 0;
    for (at += strspn(at, ", "); *at; at += strspn(at, ", ")) {
        const char *here = at;
        if (!read_cap(&at, cap, n))
            return status_fail(st, STATUS_BAD_INPUT,
                               "max-memory: want DEVICE=BYTES with commas between, as "
                               "0=20GiB,1=40GiB, each device below %d and once, found \"%.60s\"",
                               COMM_RANKS_MAX, here);
    }
    return true;
}
