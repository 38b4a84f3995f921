/* quant_folder.c - finds the matrices of a quantized folder, and lists them with the plain weights.
 *
 * What the formats share at open is here too: taking parts and checking them. */
#include "engine/quant_folder.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "engine/json_file.h"
#include "engine/quant_int.h"

struct quant_folder {
    const struct safetensors *files;
    const struct quant_format *format;
    struct quant_rules rules;
    bool *taken;                 /* [safetensors_n] by a matrix */
    struct quant_matrix *matrix; /* [n_matrices] */
    size_t n_matrices;
    struct weight *weight; /* [n_weights], by name */
    size_t n_weights;
};

static const struct quant_format *const formats[] = {&quant_bnb, &quant_gptq, &quant_awq,
                                                     &quant_ct,  &quant_fp8,  NULL};

/* ---- names ---- */

static bool ends_with(struct str name, const char *end)
{
    const size_t n = strlen(end);
    return name.n > n && memcmp(name.at + name.n - n, end, n) == 0;
}

/* A plain weight's name may end as that of codes does; its type tells. */
static bool is_codes(const struct quant_folder *q, const struct weight *w)
{
    return ends_with(w->name, q->rules.codes) && w->dtype == DT_ALL_N;
}

static int by_name(struct str a, struct str b)
{
    const int order = memcmp(a.at, b.at, a.n < b.n ? a.n : b.n);
    return order ? order : (a.n > b.n) - (a.n < b.n);
}

static int by_weight_name(const void *a, const void *b)
{
    return by_name(((const struct weight *)a)->name, ((const struct weight *)b)->name);
}

/* ---- parts ---- */

const struct quant_rules *quant_rules_of(const struct quant_folder *q)
{
    return &q->rules;
}

static bool fail_part(const struct quant_matrix *m, const char *end, struct status *st)
{
    return status_wrap(st, "tensor %s%s", str_show(m->base).text, end);
}

static bool take(struct quant_folder *q, struct quant_matrix *m, const struct weight *w,
                 struct quant_part *out, struct status *st)
{
    const size_t i = (size_t)(w - safetensors_at(q->files, 0));
    if (q->taken[i])
        return status_fail(st, STATUS_CORRUPT, "it is a part of two matrices");
    q->taken[i] = true;
    m->weight.n_bytes += w->n_bytes; /* of mapped files: fits */
    *out = (struct quant_part){.at = w->source.at,
                               .element = safetensors_element(q->files, w),
                               .rows = w->rows,
                               .cols = w->cols};
    return true;
}

bool quant_want_type(const struct quant_matrix *m, const char *end, const struct quant_part *p,
                     unsigned want, struct status *st)
{
    char list[64] = "";
    if (want >> p->element & 1)
        return true;
    for (int i = 0; i < ELEMENT_N; i++)
        if (want >> i & 1)
            snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", *list ? " or " : "",
                     element_traits[i].name);
    status_fail(st, STATUS_CORRUPT, "want dtype %s, found %s", list,
                element_traits[p->element].name);
    return fail_part(m, end, st);
}

static const struct weight *find_part(const struct quant_folder *q, const struct quant_matrix *m,
                                      const char *end)
{
    char name[256];
    snprintf(name, sizeof name, "%.*s%s", (int)m->base.n, m->base.at, end);
    return safetensors_find(q->files, name);
}

bool quant_has(const struct quant_folder *q, const struct quant_matrix *m, const char *end)
{
    return find_part(q, m, end) != NULL;
}

bool quant_take(struct quant_folder *q, struct quant_matrix *m, const char *end, unsigned want,
                bool optional, struct quant_part *out, struct status *st)
{
    const struct weight *w = find_part(q, m, end);
    *out = (struct quant_part){0};
    if (!w && optional)
        return true;
    if (!w)
        return status_fail(st, STATUS_CORRUPT, "tensor %s%s is missing", str_show(m->base).text,
                           end);
    return (take(q, m, w, out, st) || fail_part(m, end, st)) &&
           quant_want_type(m, end, out, want, st);
}

bool quant_want_shape(const struct quant_matrix *m, const char *end, const struct quant_part *p,
                      int64_t rows, int64_t cols, struct status *st)
{
    if (p->rows == rows && p->cols == cols)
        return true;
    status_fail(st, STATUS_CORRUPT, "want [%lld, %lld], found [%lld, %lld]", (long long)rows,
                (long long)cols, (long long)p->rows, (long long)p->cols);
    return fail_part(m, end, st);
}

bool quant_want_count(const struct quant_matrix *m, const char *end, const struct quant_part *p,
                      int64_t n, struct status *st)
{
    if (p->rows * p->cols == n) /* each below 2^31 */
        return true;
    status_fail(st, STATUS_CORRUPT, "want %lld values, found [%lld, %lld]", (long long)n,
                (long long)p->rows, (long long)p->cols);
    return fail_part(m, end, st);
}

bool quant_want_finite(const struct quant_matrix *m, const char *end, const struct quant_part *p,
                       struct status *st)
{
    const int64_t n = p->rows * p->cols;
    int64_t i = 0;
    while (i < n && isfinite(quant_float(p, i)))
        i++;
    if (i == n)
        return true;
    status_fail(st, STATUS_CORRUPT, "want finite numbers, found %g at [%lld, %lld]",
                (double)quant_float(p, i), (long long)(i / p->cols), (long long)(i % p->cols));
    return fail_part(m, end, st);
}

bool quant_set_groups(struct quant_matrix *m, struct status *st)
{
    if (m->weight.cols > INT32_MAX)
        status_fail(st, STATUS_UNSUPPORTED, "want at most 2^31 - 1 columns, found %lld",
                    (long long)m->weight.cols);
    if (st->code != STATUS_OK || !scheme_check(&m->scheme, m->weight.cols, st))
        return fail_part(m, ".weight", st);
    m->n_groups = scheme_groups(&m->scheme, m->weight.cols);
    return true;
}

/* order[group of c * width + how many came before] = c: stable, and each group as wide as the
 * others or it is refused. */
static bool fill_order(struct quant_matrix *m, const struct quant_part *g_idx, int32_t *n_seen,
                       struct status *st)
{
    const int64_t cols = m->weight.cols, width = cols / m->n_groups;
    for (int64_t c = 0; c < cols; c++) {
        const int32_t g = (int32_t)quant_word_at(g_idx, c);
        if (g < 0 || g >= m->n_groups)
            return status_fail(st, STATUS_CORRUPT, "want groups from 0 to %lld, found %d at %lld",
                               (long long)m->n_groups - 1, g, (long long)c);
        if (n_seen[g] == width)
            return status_fail(st, STATUS_CORRUPT,
                               "want %lld columns in each group, found more in group %d",
                               (long long)width, g);
        const int32_t at = (int32_t)(g * width) + n_seen[g]++;
        m->order[at] = (int32_t)c;
        m->order[cols + c] = at;
    }
    return true;
}

bool quant_make_order(struct quant_matrix *m, const char *end, const struct quant_part *g_idx,
                      struct status *st)
{
    const int64_t cols = m->weight.cols;
    if (!quant_want_count(m, end, g_idx, cols, st))
        return false;
    int32_t *n_seen = calloc((size_t)m->n_groups, sizeof *n_seen);
    m->order = malloc(2 * (size_t)cols * sizeof *m->order);
    const bool ok = n_seen && m->order ? fill_order(m, g_idx, n_seen, st)
                                       : status_fail(st, STATUS_BUSY, "no memory for its order");
    free(n_seen);
    if (!ok)
        return fail_part(m, end, st);
    int64_t c = 0;
    while (c < cols && m->order[c] == c)
        c++;
    m->scheme.ordered = c < cols;
    if (!m->scheme.ordered) {
        free(m->order);
        m->order = NULL;
    }
    return true;
}

static bool has_zeros(const struct quant_matrix *m)
{
    const uint32_t plain = quant_code_bits(m) == 4 ? 0x88888888 : 0x80808080;
    const int64_t n = m->zeros.rows * m->zeros.cols;
    int64_t i = 0;
    while (i < n && quant_word_at(&m->zeros, i) + m->zero_add == plain)
        i++;
    return i < n;
}

bool quant_take_across(struct quant_folder *q, struct quant_matrix *m, int per, struct status *st)
{
    const int64_t words = (m->weight.rows + per - 1) / per;
    if (!quant_take(q, m, ".scales", WANT_FLOAT, false, &m->scales, st) ||
        !quant_want_shape(m, ".scales", &m->scales, m->n_groups, m->weight.rows, st) ||
        !quant_want_finite(m, ".scales", &m->scales, st) ||
        !quant_take(q, m, ".qzeros", WANT_I32, false, &m->zeros, st) ||
        !quant_want_shape(m, ".qzeros", &m->zeros, m->n_groups, words, st))
        return false;
    m->scheme.scale = m->scheme.value = element_traits[m->scales.element].dtype;
    m->scheme.has_zero = has_zeros(m);
    return true;
}

/* ---- the folder ---- */

static bool find_format(struct quant_folder *q, const struct cJSON *config, struct status *st)
{
    const char *words[sizeof formats / sizeof formats[0]] = {NULL};
    int which;
    for (size_t i = 0; formats[i]; i++)
        words[i] = formats[i]->method;
    if (!cJSON_IsObject(config))
        return status_fail(st, STATUS_CORRUPT, "want an object, found another value");
    if (!quant_word(config, "quant_method", words, -1, &which, st))
        return false;
    q->format = formats[which];
    return q->format->configure(&q->rules, config, st);
}

static bool make_matrix(struct quant_folder *q, const struct weight *codes, struct status *st)
{
    struct quant_matrix *m = &q->matrix[q->n_matrices++];
    const size_t n_base = codes->name.n - strlen(q->rules.codes);
    *m = (struct quant_matrix){.scheme = q->rules.scheme,
                               .base = {codes->name.at, n_base},
                               .scale_divisor = 1,
                               .zero_add = q->rules.zero_add};
    snprintf(m->name, sizeof m->name, "%.*s.weight", (int)n_base, codes->name.at);
    if (!take(q, m, codes, &m->codes, st))
        return fail_part(m, q->rules.codes, st);
    if (!q->format->make(q, m, st))
        return false;
    if (m->weight.rows < 2)
        return status_fail(st, STATUS_CORRUPT, "tensor %s: want a matrix, found one row",
                           str_show(str_of(m->name)).text);
    m->weight.name = str_of(m->name);
    m->weight.dtype = m->scheme.codes;
    m->weight.scheme = &m->scheme;
    m->weight.source.fd = -1;
    m->weight.source.ctx = m;
    m->weight.source.order = m->order;
    return true;
}

static bool make_matrices(struct quant_folder *q, struct status *st)
{
    const size_t n = safetensors_n(q->files);
    size_t n_codes = 0;
    for (size_t i = 0; i < n; i++)
        n_codes += is_codes(q, safetensors_at(q->files, i));
    if (n_codes == 0)
        return status_fail(st, STATUS_CORRUPT, "want tensors named X%s, found none",
                           q->rules.codes);
    q->matrix = calloc(n_codes, sizeof *q->matrix);
    if (!q->matrix)
        return status_fail(st, STATUS_BUSY, "no memory for %zu matrices", n_codes);
    for (size_t i = 0; i < n; i++) {
        const struct weight *w = safetensors_at(q->files, i);
        if (is_codes(q, w) && !make_matrix(q, w, st))
            return false;
    }
    return true;
}

static bool list_weights(struct quant_folder *q, struct status *st)
{
    const size_t n = safetensors_n(q->files);
    for (size_t i = 0; i < q->n_matrices; i++)
        q->weight[q->n_weights++] = q->matrix[i].weight;
    for (size_t i = 0; i < n; i++) {
        const struct weight *w = safetensors_at(q->files, i);
        if (q->taken[i])
            continue;
        if (!safetensors_check_plain(q->files, w, st))
            return false;
        q->weight[q->n_weights++] = *w;
    }
    qsort(q->weight, q->n_weights, sizeof *q->weight, by_weight_name);
    for (size_t i = 1; i < q->n_weights; i++)
        if (str_equal(q->weight[i - 1].name, q->weight[i].name))
            return status_fail(st, STATUS_CORRUPT,
                               "tensor %s: want it plain or quantized, found both",
                               str_show(q->weight[i].name).text);
    return true;
}

static bool check_skipped(const struct quant_folder *q, struct status *st)
{
    const struct cJSON *list = q->rules.skip, *name = list ? list->child : NULL;
    if (list && !cJSON_IsArray(list))
        return status_fail(st, STATUS_CORRUPT, "key %s: want a list of names", list->string);
    for (; name; name = name->next) {
        char weight[256];
        if (!cJSON_IsString(name))
            return status_fail(st, STATUS_CORRUPT, "key %s: want a list of names", list->string);
        snprintf(weight, sizeof weight, "%.*s.weight", 200, name->valuestring);
        const struct weight *w = quant_folder_find(q, weight);
        if (w && w->scheme)
            return status_fail(st, STATUS_CORRUPT, "tensor %s: want it plain, as key %s has it",
                               str_show(w->name).text, list->string);
    }
    return true;
}

static bool open_folder(struct quant_folder *q, const struct cJSON *config, struct status *st)
{
    if (!find_format(q, config, st) || !make_matrices(q, st))
        return status_wrap(st, "key quantization_config");
    const bool ok = list_weights(q, st) && check_skipped(q, st);
    q->rules.skip = NULL;
    return ok;
}

struct quant_folder *quant_folder_open(const struct safetensors *files, const struct cJSON *config,
                                       struct status *st)
{
    const size_t n = safetensors_n(files);
    struct quant_folder *q = calloc(1, sizeof *q);
    if (q) {
        q->files = files;
        q->taken = calloc(n + 1, sizeof *q->taken);
        q->weight = calloc(n + 1, sizeof *q->weight);
    }
    if (!q || !q->taken || !q->weight)
        status_fail(st, STATUS_BUSY, "no memory for %zu tensors", n);
    else if (open_folder(q, config, st))
        return q;
    quant_folder_close(q);
    return NULL;
}

void quant_folder_close(struct quant_folder *q)
{
    if (!q)
        return;
    for (size_t i = 0; i < q->n_matrices; i++)
        free(q->matrix[i].order);
    free(q->matrix);
    free(q->weight);
    free(q->taken);
    free(q);
}

size_t quant_folder_n(const struct quant_folder *q)
{
    return q->n_weights;
}

const struct weight *quant_folder_at(const struct quant_folder *q, size_t i)
{
    assert(i < q->n_weights);
    return &q->weight[i];
}

const struct weight *quant_folder_find(const struct quant_folder *q, const char *name)
{
    const struct weight key = {.name = str_of(name)};
    return bsearch(&key, q->weight, q->n_weights, sizeof *q->weight, by_weight_name);
}
