/* quant_bnb.c - bitsandbytes: 4-bit codebooks in blocks, and LLM.int8().
 *
 * 4 bits: X.weight holds two codes a byte, the first in the high half, row after row;
 * X.weight.absmax a scale a block; X.weight.quant_map the codebook;
 * X.weight.quant_state.bitsandbytes__nf4 JSON as bytes: shape, size of a block, what values are
 * rounded to.  Nested, absmax holds codes of X.weight.nested_quant_map, scaled by
 * X.weight.nested_absmax in blocks of 256 and shifted by nested_offset of that JSON.
 *
 * 8 bits: X.weight int8 and X.SCB, the largest magnitude of each row: value = code * SCB / 127.
 *
 * Format: bitsandbytes, QuantState.as_dict and Linear8bitLt. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "engine/json_file.h"
#include "engine/quant_int.h"

#define STATE ".weight.quant_state.bitsandbytes__"

static const float SCB_UNIT = 127, CODEBOOK_ERROR = 1e-6f;

/* ---- config.json ---- */

static bool configure_8(struct quant_rules *r, const struct cJSON *config, struct status *st)
{
    const struct cJSON *v = json_value(config, "llm_int8_threshold");
    const double threshold = cJSON_IsNumber(v) ? v->valuedouble : v ? -1 : 6;
    if (!(threshold >= 0 && threshold <= 1e6))
        return status_fail(st, STATUS_UNSUPPORTED,
                           "key llm_int8_threshold: want a number from 0 to 1000000");
    r->scheme = (struct scheme){.codes = DT_INT8,
                                .act = threshold > 0 ? ACTS_OUTLIERS : ACTS_INT8,
                                .threshold = (float)threshold};
    return quant_none(config, "llm_int8_has_fp16_weight", st);
}

static bool configure_4(struct quant_rules *r, const struct cJSON *config, struct status *st)
{
    static const char *const types[] = {"fp4", "nf4", NULL}, *const stores[] = {"uint8", NULL};
    int type, store;
    if (!quant_word(config, "bnb_4bit_quant_type", types, 0, &type, st) ||
        !quant_word(config, "bnb_4bit_quant_storage", stores, 0, &store, st))
        return false;
    r->scheme = (struct scheme){.codes = type == 0 ? DT_FP4 : DT_NF4};
    return json_flag(config, "bnb_4bit_use_double_quant", false, &r->scheme.nested, st);
}

static bool configure(struct quant_rules *r, const struct cJSON *config, struct status *st)
{
    bool in_4, in_8;
    *r = (struct quant_rules){.codes = ".weight",
                              .skip = json_value(config, "llm_int8_skip_modules")};
    if (!json_flag(config, "load_in_4bit", false, &in_4, st) ||
        !json_flag(config, "load_in_8bit", false, &in_8, st))
        return false;
    if (in_4 == in_8)
        return status_fail(st, STATUS_CORRUPT,
                           "want one of the keys load_in_4bit and load_in_8bit to be true");
    return in_4 ? configure_4(r, config, st) : configure_8(r, config, st);
}

/* ---- 4 bits ---- */

static void read_scales(const struct quant_matrix *m, int64_t first, int64_t n, float *to)
{
    if (!m->scheme.nested) {
        quant_scales_along(m, first, n, to);
        return;
    }
    for (int64_t i = 0, at = first * m->n_groups; i < n * m->n_groups; i++, at++) {
        const float unit = quant_float(&m->nested, at / NESTED_BLOCK);
        to[i] = quant_float(&m->nested_map, m->scales.at[at]) * unit + m->scale_offset;
    }
}

static void rows_4(const void *ctx, int64_t first, int64_t n, const struct scheme_rows *to)
{
    const struct quant_matrix *m = ctx;
    const int64_t half = m->weight.cols / 2;
    const uint8_t *from = m->codes.at + first * half;
    for (int64_t i = 0; i < n * half; i++) {
        to->codes[2 * i] = from[i] >> 4;
        to->codes[2 * i + 1] = from[i] & 15;
    }
    read_scales(m, first, n, to->scales);
}

static bool read_shape(const struct cJSON *state, struct quant_matrix *m, struct status *st)
{
    const struct cJSON *shape = json_value(state, "shape");
    uint64_t rows, cols;
    if (!cJSON_IsArray(shape) || cJSON_GetArraySize(shape) != 2 ||
        !json_is_count(shape->child, &rows) || !json_is_count(shape->child->next, &cols) ||
        rows - 1 >= INT32_MAX || cols - 1 >= INT32_MAX)
        return status_fail(st, STATUS_CORRUPT, "key shape: want two dimensions from 1 to 2^31 - 1");
    m->weight.rows = (int64_t)rows;
    m->weight.cols = (int64_t)cols;
    return true;
}

static bool read_nested(const struct cJSON *state, struct quant_matrix *m, struct status *st)
{
    static const char *const types[] = {"float32", NULL};
    const struct cJSON *offset = json_value(state, "nested_offset");
    uint64_t group;
    int type;
    if (!quant_word(state, "nested_dtype", types, -1, &type, st))
        return false;
    if (!json_is_count(json_value(state, "nested_blocksize"), &group) || group != NESTED_BLOCK)
        return status_fail(st, STATUS_UNSUPPORTED, "key nested_blocksize: want %d", NESTED_BLOCK);
    m->scale_offset = cJSON_IsNumber(offset) ? (float)offset->valuedouble : NAN;
    return isfinite(m->scale_offset) ||
           status_fail(st, STATUS_CORRUPT, "key nested_offset: want a finite number");
}

static bool read_state(const struct cJSON *state, const char *type, struct quant_matrix *m,
                       struct status *st)
{
    static const char *const values[] = {"float32", "float16", "bfloat16", NULL};
    static const enum dtype dtypes[] = {DT_F32, DT_F16, DT_BF16};
    const char *const types[] = {type, NULL};
    uint64_t group;
    int i;
    if (!quant_word(state, "quant_type", types, -1, &i, st) ||
        !quant_word(state, "dtype", values, -1, &i, st) || !read_shape(state, m, st))
        return false;
    m->scheme.value = dtypes[i];
    if (!json_is_count(json_value(state, "blocksize"), &group) || group == 0 || group > INT32_MAX)
        return status_fail(st, STATUS_CORRUPT, "key blocksize: want a number of at least 1");
    m->scheme.group = (int32_t)group;
    return !m->scheme.nested || read_nested(state, m, st);
}

static bool take_state(struct quant_folder *q, struct quant_matrix *m, struct status *st)
{
    const bool normal = m->scheme.codes == DT_NF4;
    const char *end = normal ? STATE "nf4" : STATE "fp4";
    struct quant_part part;
    if (!quant_take(q, m, end, WANT_U8, false, &part, st))
        return false;
    const struct str text = {(const char *)part.at, (size_t)(part.rows * part.cols)};
    struct cJSON *state = json_text_parse(text, st);
    const bool ok = state && read_state(state, normal ? "nf4" : "fp4", m, st);
    cJSON_Delete(state);
    return ok || status_wrap(st, "tensor %s%s", str_show(m->base).text, end);
}

/* The devices' codebook is the only one: the file's must be that one. */
static bool take_codebook(struct quant_folder *q, struct quant_matrix *m, struct status *st)
{
    static const char end[] = ".weight.quant_map";
    const float *codebook = m->scheme.codes == DT_NF4 ? scheme_nf4 : scheme_fp4;
    struct quant_part map;
    if (!quant_take(q, m, end, WANT_F32, false, &map, st) ||
        !quant_want_count(m, end, &map, 16, st))
        return false;
    for (int i = 0; i < 16; i++)
        if (!(fabsf(quant_float(&map, i) - codebook[i]) <= CODEBOOK_ERROR))
            return status_fail(st, STATUS_UNSUPPORTED, "tensor %s%s: want %.9g at %d, found %.9g",
                               str_show(m->base).text, end, (double)codebook[i], i,
                               (double)quant_float(&map, i));
    return true;
}

/* Nothing that the parts can give may overflow. */
static bool check_nested(const struct quant_matrix *m, struct status *st)
{
    float map = 0, unit = 0;
    for (int64_t i = 0; i < NESTED_CODES; i++)
        map = fmaxf(map, fabsf(quant_float(&m->nested_map, i)));
    for (int64_t i = 0; i < m->nested.rows * m->nested.cols; i++)
        unit = fmaxf(unit, fabsf(quant_float(&m->nested, i)));
    return isfinite(map * unit + fabsf(m->scale_offset)) ||
           status_fail(st, STATUS_CORRUPT, "tensor %s.weight.absmax: want finite scales",
                       str_show(m->base).text);
}

static bool take_nested(struct quant_folder *q, struct quant_matrix *m, int64_t n,
                        struct status *st)
{
    static const char map[] = ".weight.nested_quant_map", unit[] = ".weight.nested_absmax";
    return quant_take(q, m, map, WANT_F32, false, &m->nested_map, st) &&
           quant_want_count(m, map, &m->nested_map, NESTED_CODES, st) &&
           quant_want_finite(m, map, &m->nested_map, st) &&
           quant_take(q, m, unit, WANT_F32, false, &m->nested, st) &&
           quant_want_count(m, unit, &m->nested, nested_blocks(n), st) &&
           quant_want_finite(m, unit, &m->nested, st) && check_nested(m, st);
}

static bool take_scales(struct quant_folder *q, struct quant_matrix *m, struct status *st)
{
    static const char end[] = ".weight.absmax";
    const int64_t n = m->weight.rows * m->n_groups; /* each below 2^31 */
    const bool nested = m->scheme.nested;
    if (!quant_take(q, m, end, nested ? WANT_U8 : WANT_F32, false, &m->scales, st) ||
        !quant_want_count(m, end, &m->scales, n, st))
        return false;
    return nested ? take_nested(q, m, n, st) : quant_want_finite(m, end, &m->scales, st);
}

static bool make_4(struct quant_folder *q, struct quant_matrix *m, struct status *st)
{
    m->weight.source.rows = rows_4;
    return quant_want_type(m, ".weight", &m->codes, WANT_U8, st) && take_state(q, m, st) &&
           quant_set_groups(m, st) &&
           quant_want_count(m, ".weight", &m->codes, m->weight.rows * (m->weight.cols / 2), st) &&
           take_codebook(q, m, st) && take_scales(q, m, st);
}

/* ---- 8 bits ---- */

static bool make_8(struct quant_folder *q, struct quant_matrix *m, struct status *st)
{
    static const char end[] = ".weight_format";
    struct quant_part layout;
    m->scale_divisor = SCB_UNIT;
    if (!quant_make_bytes(q, m, WANT_I8, ".SCB", WANT_F32, st) ||
        !quant_want_count(m, ".SCB", &m->scales, m->weight.rows, st) ||
        !quant_take(q, m, end, WANT_U8, true, &layout, st))
        return false;
    if (!layout.at)
        return true;
    if (!quant_want_count(m, end, &layout, 1, st))
        return false;
    return *layout.at == 0 ||
           status_fail(st, STATUS_UNSUPPORTED, "tensor %s%s: want 0, rows, found %d",
                       str_show(m->base).text, end, *layout.at);
}

static bool make(struct quant_folder *q, struct quant_matrix *m, struct status *st)
{
    return m->scheme.codes == DT_INT8 ? make_8(q, m, st) : make_4(q, m, st);
}

const struct quant_format quant_bnb = {"bitsandbytes", configure, make};
