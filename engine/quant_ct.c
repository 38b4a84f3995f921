/* quant_ct.c - compressed-tensors: what one group of its config.json says of all Linear modules.
 *
 * pack-quantized: X.weight_packed [rows, words], 32-bit words of four or eight codes, the lowest
 * bits first; X.weight_scale [rows, groups]; X.weight_shape; asymmetric, X.weight_zero_point,
 * packed along rows; act-order, X.weight_g_idx.  Codes and zero points are stored biased, as a
 * scheme has them.
 *
 * int-quantized and float-quantized: X.weight as int8 or E4M3 and X.weight_scale, a row or a
 * tensor. Activations are quantized token by token, or not at all.
 *
 * Format: compressed-tensors, PackedQuantizationCompressor and NaiveQuantizationCompressor. */
#include <string.h>

#include <cjson/cJSON.h>

#include "engine/json_file.h"
#include "engine/quant_int.h"

enum format { FORMAT_PACK, FORMAT_INT, FORMAT_FLOAT };

static const char *const formats[] = {
    [FORMAT_PACK] = "pack-quantized",
    [FORMAT_INT] = "int-quantized",
    [FORMAT_FLOAT] = "float-quantized",
    NULL,
};

static const char packed[] = ".weight_packed", scale[] = ".weight_scale";

/* ---- config.json ---- */

static const struct cJSON *one_group(const struct cJSON *config, struct status *st)
{
    const struct cJSON *all = json_value(config, "config_groups"), *group = all ? all->child : NULL;
    if (cJSON_IsObject(all) && cJSON_IsObject(group) && !group->next)
        return group;
    status_fail(st, STATUS_UNSUPPORTED, "key config_groups: want one group for all modules");
    return NULL;
}

static bool check_targets(const struct cJSON *group, struct status *st)
{
    const struct cJSON *list = json_value(group, "targets"), *name = list ? list->child : NULL;
    return (cJSON_IsArray(list) && cJSON_IsString(name) && !name->next &&
            strcmp(name->valuestring, "Linear") == 0) ||
           status_fail(st, STATUS_UNSUPPORTED, "key targets: want Linear alone");
}

/* A key of an object that must be one word. */
static bool want_word(const struct cJSON *object, const char *key, const char *word,
                      struct status *st)
{
    const char *const words[] = {word, NULL};
    int which;
    return quant_word(object, key, words, -1, &which, st);
}

static bool want_flag(const struct cJSON *object, const char *key, bool absent, bool want,
                      struct status *st)
{
    bool found;
    if (!json_flag(object, key, absent, &found, st))
        return false;
    return found == want || status_fail(st, STATUS_UNSUPPORTED, "key %s: want %s, found %s", key,
                                        want ? "true" : "false", found ? "true" : "false");
}

static bool want_8_bits(const struct cJSON *object, struct status *st)
{
    enum dtype codes;
    return quant_bits(object, "num_bits", &codes, st) &&
           (codes == DT_INT8 ||
            status_fail(st, STATUS_UNSUPPORTED, "key num_bits: want 8, found 4"));
}

/* Of each token by itself, symmetric: what a scheme's act_rule means. */
static bool read_acts(const struct cJSON *group, const char *type, enum act_rule rule,
                      struct scheme *s, struct status *st)
{
    const struct cJSON *acts = json_value(group, "input_activations");
    s->act = acts ? rule : ACTS_WIDE;
    return !acts ||
           (want_8_bits(acts, st) && want_word(acts, "type", type, st) &&
            want_flag(acts, "dynamic", false, true, st) &&
            want_word(acts, "strategy", "token", st) &&
            want_flag(acts, "symmetric", true, true, st)) ||
           status_wrap(st, "key input_activations");
}

static bool read_pack(const struct cJSON *group, const struct cJSON *weights, struct quant_rules *r,
                      struct status *st)
{
    static const char *const strategies[] = {"group", "channel", NULL};
    static const char *const orders[] = {"weight", "static", "group", "dynamic", NULL};
    struct scheme *s = &r->scheme;
    bool symmetric;
    int strategy, order;
    if (!quant_none(group, "input_activations", st) ||
        !quant_bits(weights, "num_bits", &s->codes, st) || !want_word(weights, "type", "int", st) ||
        !quant_word(weights, "strategy", strategies, -1, &strategy, st) ||
        !quant_word(weights, "actorder", orders, 0, &order, st) ||
        !json_flag(weights, "symmetric", true, &symmetric, st))
        return false;
    s->has_zero = !symmetric;
    r->need_order = order >= 2; /* the first two leave the columns where they were */
    return strategy == 1 || quant_group(weights, &s->group, st);
}

static bool read_plain(const struct cJSON *group, const struct cJSON *weights, bool is_float,
                       struct scheme *s, struct status *st)
{
    static const char *const strategies[] = {"channel", "tensor", NULL};
    const char *type = is_float ? "float" : "int";
    int strategy;
    s->codes = is_float ? DT_FP8 : DT_INT8;
    return want_8_bits(weights, st) && want_word(weights, "type", type, st) &&
           quant_word(weights, "strategy", strategies, -1, &strategy, st) &&
           want_flag(weights, "symmetric", true, true, st) &&
           read_acts(group, type, is_float ? ACTS_FP8 : ACTS_INT8, s, st);
}

static bool read_group(struct quant_rules *r, const struct cJSON *group, int format,
                       struct status *st)
{
    const struct cJSON *weights = json_value(group, "weights");
    const char *const same[] = {formats[format], NULL};
    int which;
    if (!check_targets(group, st) || !quant_none(group, "output_activations", st) ||
        !quant_word(group, "format", same, 0, &which, st))
        return false;
    if (!cJSON_IsObject(weights))
        return status_fail(st, STATUS_CORRUPT, "key weights: want an object");
    r->codes = format == FORMAT_PACK ? packed : ".weight";
    return format == FORMAT_PACK
               ? read_pack(group, weights, r, st)
               : read_plain(group, weights, format == FORMAT_FLOAT, &r->scheme, st);
}

static bool configure(struct quant_rules *r, const struct cJSON *config, struct status *st)
{
    static const char *const states[] = {"compressed", "frozen", NULL}; /* as older tools say */
    const struct cJSON *sparsity = json_value(config, "sparsity_config");
    int format, state;
    *r = (struct quant_rules){.skip = json_value(config, "ignore")};
    if (!quant_word(config, "format", formats, -1, &format, st) ||
        !quant_word(config, "quantization_status", states, 0, &state, st) ||
        !quant_none(config, "kv_cache_scheme", st) || !quant_none(config, "transform_config", st))
        return false;
    if (sparsity && sparsity->child && !want_word(sparsity, "format", "dense", st))
        return status_wrap(st, "key sparsity_config");
    const struct cJSON *group = one_group(config, st);
    return group && (read_group(r, group, format, st) || status_wrap(st, "key config_groups"));
}

/* ---- pack-quantized ---- */

static uint8_t code_at(const struct quant_matrix *m, const uint8_t *row, int64_t c)
{
    if (m->scheme.codes == DT_INT8)
        return row[c];
    return (uint8_t)(row[c / 2] >> c % 2 * 4 & 15);
}

static void read_row(const struct quant_matrix *m, const uint8_t *from, uint8_t *to)
{
    const int64_t cols = m->weight.cols;
    if (m->order) {
        for (int64_t i = 0; i < cols; i++)
            to[i] = code_at(m, from, m->order[i]);
    } else if (m->scheme.codes == DT_INT8) {
        memcpy(to, from, (size_t)cols);
    } else {
        for (int64_t i = 0; i < cols / 2; i++) {
            to[2 * i] = from[i] & 15;
            to[2 * i + 1] = from[i] >> 4;
        }
    }
}

static void read_zeros(const struct quant_matrix *m, int64_t first, int64_t n, int16_t *to)
{
    const int bits = quant_code_bits(m), per = 32 / bits;
    const uint32_t mask = (1u << bits) - 1;
    for (int64_t r = first; r < first + n; r++)
        for (int64_t g = 0; g < m->n_groups; g++)
            *to++ =
                (int16_t)(quant_word_at(&m->zeros, r / per * m->n_groups + g) >> r % per * bits &
                          mask);
}

static void packed_rows(const void *ctx, int64_t first, int64_t n, const struct scheme_rows *to)
{
    const struct quant_matrix *m = ctx;
    for (int64_t r = 0; r < n; r++)
        read_row(m, m->codes.at + (first + r) * m->codes.cols * 4, to->codes + r * m->weight.cols);
    quant_scales_along(m, first, n, to->scales);
    if (m->scheme.has_zero)
        read_zeros(m, first, n, to->zeros);
}

static int64_t int_at(const struct quant_part *p, int64_t i)
{
    int64_t v;
    if (p->element == ELEMENT_I32)
        return (int32_t)quant_word_at(p, i);
    memcpy(&v, p->at + i * 8, sizeof v);
    return v;
}

static bool take_shape(struct quant_folder *q, struct quant_matrix *m, struct status *st)
{
    static const char end[] = ".weight_shape";
    const int per = 32 / quant_code_bits(m);
    struct quant_part shape;
    if (!quant_take(q, m, end, WANT_I64 | WANT_I32, false, &shape, st) ||
        !quant_want_count(m, end, &shape, 2, st))
        return false;
    m->weight.rows = int_at(&shape, 0);
    m->weight.cols = int_at(&shape, 1);
    if (m->weight.cols <= 0 || m->weight.cols > INT32_MAX)
        return status_fail(st, STATUS_CORRUPT, "tensor %s%s: want columns from 1 to 2^31 - 1",
                           str_show(m->base).text, end);
    return quant_want_shape(m, packed, &m->codes, m->weight.rows, (m->weight.cols + per - 1) / per,
                            st);
}

static bool take_zeros(struct quant_folder *q, struct quant_matrix *m, struct status *st)
{
    static const char end[] = ".weight_zero_point";
    const int per = 32 / quant_code_bits(m);
    return quant_take(q, m, end, WANT_I32, false, &m->zeros, st) &&
           quant_want_shape(m, end, &m->zeros, (m->weight.rows + per - 1) / per, m->n_groups, st);
}

static bool make_packed(struct quant_folder *q, struct quant_matrix *m, struct status *st)
{
    static const char g_idx_end[] = ".weight_g_idx";
    struct quant_part g_idx;
    m->weight.source.rows = packed_rows;
    if (!quant_want_type(m, packed, &m->codes, WANT_I32, st) || !take_shape(q, m, st) ||
        !quant_set_groups(m, st) || !quant_take(q, m, scale, WANT_FLOAT, false, &m->scales, st) ||
        !quant_want_shape(m, scale, &m->scales, m->weight.rows, m->n_groups, st) ||
        !quant_want_finite(m, scale, &m->scales, st))
        return false;
    m->scheme.scale = m->scheme.value = element_traits[m->scales.element].dtype;
    if (m->scheme.has_zero && !take_zeros(q, m, st))
        return false;
    return quant_take(q, m, g_idx_end, WANT_I32, !quant_rules_of(q)->need_order, &g_idx, st) &&
           (!g_idx.at || quant_make_order(m, g_idx_end, &g_idx, st));
}

/* ---- int-quantized and float-quantized ---- */

static bool make(struct quant_folder *q, struct quant_matrix *m, struct status *st)
{
    if (quant_rules_of(q)->codes == packed)
        return make_packed(q, m, st);
    const unsigned want = m->scheme.codes == DT_FP8 ? WANT_FP8 : WANT_I8;
    if (!quant_make_bytes(q, m, want, scale, WANT_FLOAT, st))
        return false;
    m->scheme.value = m->scheme.scale;
    return true;
}

const struct quant_format quant_ct = {"compressed-tensors", configure, make};
