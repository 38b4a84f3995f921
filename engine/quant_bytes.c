/* quant_bytes.c - matrices whose codes are a byte each: int8 and fp8, scaled by row or by tensor;
 * and the method fp8, which has nothing else. */
#include <string.h>

#include <cjson/cJSON.h>

#include "engine/json_file.h"
#include "engine/quant_int.h"

static bool has_one_scale(const struct quant_matrix *m)
{
    return m->scales.rows * m->scales.cols == 1;
}

static void bytes_rows(const void *ctx, int64_t first, int64_t n, const struct scheme_rows *to)
{
    const struct quant_matrix *m = ctx;
    const uint8_t *from = m->codes.at + first * m->weight.cols;
    const uint8_t flip = m->scheme.codes == DT_INT8 ? 0x80 : 0; /* signed to biased */
    for (int64_t i = 0; i < n * m->weight.cols; i++)
        to->codes[i] = from[i] ^ flip;
    for (int64_t r = 0; r < n; r++)
        to->scales[r] =
            quant_float(&m->scales, has_one_scale(m) ? 0 : first + r) / m->scale_divisor;
}

bool quant_make_bytes(struct quant_folder *q, struct quant_matrix *m, unsigned want,
                      const char *end, unsigned scale_want, struct status *st)
{
    struct quant_part *scales = &m->scales;
    m->weight.rows = m->codes.rows;
    m->weight.cols = m->codes.cols;
    if (!quant_want_type(m, ".weight", &m->codes, want, st) || !quant_set_groups(m, st) ||
        !quant_take(q, m, end, scale_want, false, scales, st))
        return false;
    /* Blocks of two dimensions may be as many as rows. */
    if (!has_one_scale(m) && !(scales->rows == 1 && scales->cols == m->weight.rows) &&
        !quant_want_shape(m, end, scales, m->weight.rows, 1, st))
        return false;
    m->scheme.scale = m->scale_divisor == 1 ? element_traits[scales->element].dtype : DT_F32;
    m->weight.source.rows = bytes_rows;
    return quant_want_finite(m, end, scales, st);
}

/* ---- fp8 ---- */

static bool configure(struct quant_rules *r, const struct cJSON *config, struct status *st)
{
    static const char *const schemes[] = {"dynamic", NULL};
    int which;
    *r = (struct quant_rules){.codes = ".weight",
                              .scheme = {.codes = DT_FP8, .act = ACTS_FP8},
                              .skip = json_value(config, "modules_to_not_convert")};
    if (!r->skip)
        r->skip = json_value(config, "ignored_layers");
    return quant_word(config, "activation_scheme", schemes, 0, &which, st) &&
           quant_none(config, "weight_block_size", st) &&
           quant_none(config, "modules_to_convert", st);
}

/* Both names are in use, and both mean the factor of the codes. */
static bool make(struct quant_folder *q, struct quant_matrix *m, struct status *st)
{
    static const char *const ends[] = {".weight_scale", ".weight_scale_inv"};
    const char *end = ends[quant_has(q, m, ends[1])];
    if (!quant_make_bytes(q, m, WANT_FP8, end, WANT_FLOAT, st))
        return false;
    m->scheme.value = m->scheme.scale;
    return true;
}

const struct quant_format quant_fp8 = {"fp8", configure, make};
