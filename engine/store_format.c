/* store_format.c - codes and scales packed as compressed-tensors and bitsandbytes have them. */
#include "engine/store_format.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/half.h"

enum { STATE_BYTES = 256 /* of a quant_state, filled with blanks */ };

enum stored { PACKED, PLAIN, BNB_8, BNB_4 };

static enum stored layout_of(const struct scheme *s)
{
    if (s->codes == DT_NF4 || s->codes == DT_FP4)
        return BNB_4;
    if (s->codes == DT_INT4 || (s->codes == DT_INT8 && s->act == ACTS_WIDE))
        return PACKED;
    return s->act == ACTS_OUTLIERS ? BNB_8 : PLAIN;
}

/* ---- parts ---- */

static struct st_tensor vector(enum element type, int64_t n)
{
    return (struct st_tensor){.type = type, .n_dims = 1, .dim = {n}};
}

static struct st_tensor matrix(enum element type, int64_t rows, int64_t cols)
{
    return (struct st_tensor){.type = type, .n_dims = 2, .dim = {rows, cols}};
}

static int64_t codes_per_word(const struct scheme *s)
{
    return s->codes == DT_INT4 ? 8 : 4;
}

static int64_t words(const struct scheme *s, int64_t n_codes)
{
    return (n_codes + codes_per_word(s) - 1) / codes_per_word(s);
}

enum { PACKED_CODES, PACKED_SCALES, PACKED_SHAPE, PACKED_ZEROS };

static int packed_parts(const struct scheme *s, int64_t rows, int64_t cols,
                        struct store_part part[STORE_PARTS_MAX])
{
    const int64_t n_groups = scheme_groups(s, cols);
    const enum element scale = s->scale == DT_F16 ? ELEMENT_F16 : ELEMENT_F32;
    part[PACKED_CODES] =
        (struct store_part){".weight_packed", matrix(ELEMENT_I32, rows, words(s, cols))};
    part[PACKED_SCALES] = (struct store_part){".weight_scale", matrix(scale, rows, n_groups)};
    part[PACKED_SHAPE] = (struct store_part){".weight_shape", vector(ELEMENT_I64, 2)};
    if (!s->has_zero)
        return PACKED_ZEROS;
    part[PACKED_ZEROS] =
        (struct store_part){".weight_zero_point", matrix(ELEMENT_I32, words(s, rows), n_groups)};
    return PACKED_ZEROS + 1;
}

enum { BYTES_CODES, BYTES_SCALES, BYTES_FORMAT };

static int plain_parts(const struct scheme *s, int64_t rows, int64_t cols,
                       struct store_part part[STORE_PARTS_MAX])
{
    const enum element type = s->codes == DT_FP8 ? ELEMENT_F8_E4M3 : ELEMENT_I8;
    part[BYTES_CODES] = (struct store_part){".weight", matrix(type, rows, cols)};
    part[BYTES_SCALES] = (struct store_part){".weight_scale", matrix(ELEMENT_F32, rows, 1)};
    return 2;
}

static int bnb_8_parts(int64_t rows, int64_t cols, struct store_part part[STORE_PARTS_MAX])
{
    part[BYTES_CODES] = (struct store_part){".weight", matrix(ELEMENT_I8, rows, cols)};
    part[BYTES_SCALES] = (struct store_part){".SCB", vector(ELEMENT_F32, rows)};
    part[BYTES_FORMAT] = (struct store_part){".weight_format", {.type = ELEMENT_U8}};
    return 3;
}

enum { BNB_CODES, BNB_SCALES, BNB_MAP, BNB_STATE, BNB_NESTED, BNB_NESTED_MAP };

static int bnb_4_parts(const struct scheme *s, int64_t rows, int64_t cols,
                       struct store_part part[STORE_PARTS_MAX])
{
    const int64_t n_scales = rows * scheme_groups(s, cols);
    part[BNB_CODES] = (struct store_part){".weight", matrix(ELEMENT_U8, rows * cols / 2, 1)};
    part[BNB_SCALES] = (struct store_part){".weight.absmax",
                                           vector(s->nested ? ELEMENT_U8 : ELEMENT_F32, n_scales)};
    part[BNB_MAP] = (struct store_part){".weight.quant_map", vector(ELEMENT_F32, 16)};
    part[BNB_STATE] =
        (struct store_part){s->codes == DT_NF4 ? ".weight.quant_state.bitsandbytes__nf4"
                                               : ".weight.quant_state.bitsandbytes__fp4",
                            vector(ELEMENT_U8, STATE_BYTES)};
    if (!s->nested)
        return BNB_NESTED;
    part[BNB_NESTED] =
        (struct store_part){".weight.nested_absmax", vector(ELEMENT_F32, nested_blocks(n_scales))};
    part[BNB_NESTED_MAP] =
        (struct store_part){".weight.nested_quant_map", vector(ELEMENT_F32, NESTED_CODES)};
    return BNB_NESTED_MAP + 1;
}

int store_parts(const struct scheme *s, int64_t rows, int64_t cols,
                struct store_part part[STORE_PARTS_MAX])
{
    switch (layout_of(s)) {
    case PACKED:
        return packed_parts(s, rows, cols, part);
    case BNB_8:
        return bnb_8_parts(rows, cols, part);
    case BNB_4:
        return bnb_4_parts(s, rows, cols, part);
    default:
        return plain_parts(s, rows, cols, part);
    }
}

/* ---- rows ---- */

bool store_scratch_make(struct store_scratch *s, const struct quant_source *q, int64_t n)
{
    const int64_t cols = q->from->cols, n_scales = n * scheme_groups(q->scheme, cols);
    *s = (struct store_scratch){0};
    s->rows.codes = malloc((size_t)(n * cols));
    s->rows.scales = malloc((size_t)n_scales * sizeof *s->rows.scales);
    s->rows.zeros = q->scheme->has_zero ? malloc((size_t)n_scales * sizeof *s->rows.zeros) : NULL;
    s->nested = malloc((size_t)n_scales);
    s->magnitudes = malloc((size_t)n * sizeof *s->magnitudes);
    s->row = malloc((size_t)cols * sizeof *s->row);
    return s->rows.codes && s->rows.scales && (s->rows.zeros || !q->scheme->has_zero) &&
           s->nested && s->magnitudes && s->row;
}

void store_scratch_close(struct store_scratch *s)
{
    free(s->rows.codes);
    free(s->rows.scales);
    free(s->rows.zeros);
    free(s->nested);
    free(s->magnitudes);
    free(s->row);
}

static bool put(const struct store_sink *to, int part, uint64_t at, const void *bytes, size_t n)
{
    return to->put(to->ctx, part, at, bytes, n);
}

/* Pairs of codes become bytes, in place. */
static void pack_pairs(uint8_t *codes, int64_t n, bool first_is_low)
{
    for (int64_t i = 0; i < n / 2; i++) {
        const uint8_t a = codes[2 * i], b = codes[2 * i + 1];
        codes[i] = (uint8_t)(first_is_low ? a | b << 4 : a << 4 | b);
    }
}

static void narrow_scales(float *scales, int64_t n)
{
    uint8_t *to = (uint8_t *)scales;
    for (int64_t i = 0; i < n; i++) {
        const uint16_t h = f32_to_f16(scales[i]);
        memcpy(to + 2 * i, &h, sizeof h);
    }
}

/* Zero points of eight rows are a word for each group, the first row's lowest. */
static bool put_zeros(const struct quant_source *q, int64_t first, int64_t n, const int16_t *zeros,
                      const struct store_sink *to)
{
    const int64_t n_groups = scheme_groups(q->scheme, q->from->cols);
    for (int64_t r = 0; r < n; r += STORE_ROWS_ALIGN)
        for (int64_t g = 0; g < n_groups; g++) {
            uint32_t word = 0;
            for (int64_t i = 0; i < STORE_ROWS_ALIGN && r + i < n; i++)
                word |= (uint32_t)(zeros[(r + i) * n_groups + g] & 15) << (4 * i);
            const int64_t at = (first + r) / STORE_ROWS_ALIGN * n_groups + g;
            if (!put(to, PACKED_ZEROS, (uint64_t)at * sizeof word, &word, sizeof word))
                return false;
        }
    return true;
}

static bool put_packed_codes(const struct quant_source *q, int64_t first, int64_t n, uint8_t *codes,
                             const struct store_sink *to)
{
    const int64_t cols = q->from->cols, row_bytes = 4 * words(q->scheme, cols);
    const int64_t code_bytes = q->scheme->codes == DT_INT4 ? cols / 2 : cols;
    if (q->scheme->codes == DT_INT4)
        pack_pairs(codes, n * cols, true);
    if (code_bytes == row_bytes)
        return put(to, PACKED_CODES, (uint64_t)(first * row_bytes), codes, (size_t)(n * row_bytes));
    for (int64_t r = 0; r < n; r++) /* words that a row does not fill: the rest is zero already */
        if (!put(to, PACKED_CODES, (uint64_t)((first + r) * row_bytes), codes + r * code_bytes,
                 (size_t)code_bytes))
            return false;
    return true;
}

static bool put_packed(const struct quant_source *q, int64_t first, int64_t n,
                       struct store_scratch *s, const struct store_sink *to)
{
    const int64_t n_groups = scheme_groups(q->scheme, q->from->cols);
    const bool half = q->scheme->scale == DT_F16;
    const size_t scale_bytes = half ? 2 : 4;
    if (half)
        narrow_scales(s->rows.scales, n * n_groups);
    return put_packed_codes(q, first, n, s->rows.codes, to) &&
           put(to, PACKED_SCALES, (uint64_t)(first * n_groups) * scale_bytes, s->rows.scales,
               (size_t)(n * n_groups) * scale_bytes) &&
           (!q->scheme->has_zero || put_zeros(q, first, n, s->rows.zeros, to));
}

/* LLM.int8() keeps the magnitudes, of which scales are the 127th part. */
static const float *find_magnitudes(const struct quant_source *q, int64_t first, int64_t n,
                                    struct store_scratch *s)
{
    for (int64_t r = 0; r < n; r++) {
        quant_source_floats(q, first + r, s->row);
        if (!quantize_row_scales(q->scheme, s->row, q->from->cols, &s->magnitudes[r]))
            s->magnitudes[r] = 0; /* noted by the source */
    }
    return s->magnitudes;
}

static bool put_bytes(const struct quant_source *q, int64_t first, int64_t n,
                      struct store_scratch *s, const struct store_sink *to)
{
    const int64_t cols = q->from->cols;
    const float *scales =
        layout_of(q->scheme) == BNB_8 ? find_magnitudes(q, first, n, s) : s->rows.scales;
    if (q->scheme->codes == DT_INT8)
        for (int64_t i = 0; i < n * cols; i++)
            s->rows.codes[i] ^= 0x80;
    return put(to, BYTES_CODES, (uint64_t)(first * cols), s->rows.codes, (size_t)(n * cols)) &&
           put(to, BYTES_SCALES, (uint64_t)first * sizeof *scales, scales,
               (size_t)n * sizeof *scales);
}

static bool put_bnb_4(const struct quant_source *q, int64_t first, int64_t n,
                      struct store_scratch *s, const struct store_sink *to)
{
    const int64_t cols = q->from->cols, n_groups = scheme_groups(q->scheme, cols);
    const bool nested = q->scheme->nested;
    const size_t scale_bytes = nested ? 1 : sizeof(float);
    const void *scales = nested ? (const void *)s->nested : s->rows.scales;
    pack_pairs(s->rows.codes, n * cols, false);
    return put(to, BNB_CODES, (uint64_t)(first * cols / 2), s->rows.codes,
               (size_t)(n * cols / 2)) &&
           put(to, BNB_SCALES, (uint64_t)(first * n_groups) * scale_bytes, scales,
               (size_t)(n * n_groups) * scale_bytes);
}

bool store_rows(const struct quant_source *q, int64_t first, int64_t n, struct store_scratch *s,
                const struct store_sink *to)
{
    assert(first % STORE_ROWS_ALIGN == 0);
    quant_source_rows_nested(q, first, n, &s->rows, s->nested);
    switch (layout_of(q->scheme)) {
    case PACKED:
        return put_packed(q, first, n, s, to);
    case BNB_4:
        return put_bnb_4(q, first, n, s, to);
    default:
        return put_bytes(q, first, n, s, to);
    }
}

/* ---- the rest ---- */

/* What bitsandbytes rounds values to when it dequantizes them: the type they had. */
static const char *value_type(const struct weight *w)
{
    return w->dtype == DT_F32 ? "float32" : w->dtype == DT_BF16 ? "bfloat16" : "float16";
}

static bool put_state(const struct quant_source *q, const struct store_sink *to)
{
    char text[STATE_BYTES + 1], nested[96] = "";
    if (q->scheme->nested)
        snprintf(nested, sizeof nested,
                 ", \"nested_blocksize\": %d, \"nested_dtype\": \"float32\", \"nested_offset\": "
                 "%.9g",
                 NESTED_BLOCK, (double)q->nested.offset);
    const int n = snprintf(text, sizeof text,
                           "{\"quant_type\": \"%s\", \"blocksize\": %d, \"dtype\": \"%s\", "
                           "\"shape\": [%" PRId64 ", %" PRId64 "]%s}",
                           dtype_traits[q->scheme->codes].name, q->scheme->group,
                           value_type(q->from), q->from->rows, q->from->cols, nested);
    assert(n <= STATE_BYTES);
    memset(text + n, ' ', (size_t)(STATE_BYTES - n));
    return put(to, BNB_STATE, 0, text, STATE_BYTES);
}

static bool put_maps(const struct quant_source *q, const struct store_sink *to)
{
    const float *codebook = q->scheme->codes == DT_NF4 ? scheme_nf4 : scheme_fp4;
    const int64_t n_scales = q->from->rows * scheme_groups(q->scheme, q->from->cols);
    float map[16];
    for (int i = 0; i < 16; i++)
        map[i] = codebook[i] + 0.0F; /* of its two zeros none is negative, as in bitsandbytes */
    return put(to, BNB_MAP, 0, map, sizeof map) && put_state(q, to) &&
           (!q->scheme->nested ||
            (put(to, BNB_NESTED, 0, q->nested.absmax,
                 (size_t)nested_blocks(n_scales) * sizeof *q->nested.absmax) &&
             put(to, BNB_NESTED_MAP, 0, q->nested.map, sizeof q->nested.map)));
}

bool store_fixed(const struct quant_source *q, const struct store_sink *to)
{
    const int64_t shape[2] = {q->from->rows, q->from->cols};
    switch (layout_of(q->scheme)) {
    case PACKED:
        return put(to, PACKED_SHAPE, 0, shape, sizeof shape);
    case BNB_8:
        return put(to, BYTES_FORMAT, 0, "", 1);
    case BNB_4:
        return put_maps(q, to);
    default:
        return true;
    }
}

/* ---- config.json ---- */

static void put_names(const char *names, struct buf *out)
{
    buf_put_char(out, '[');
    for (const char *at = names; *at; at += strlen(at) + 1) {
        buf_put_str(out, at == names ? "\"" : ", \"");
        buf_put_json(out, at, strlen(at));
        buf_put_char(out, '"');
    }
    buf_put_char(out, ']');
}

static void put_weights(const struct scheme *s, struct buf *out)
{
    buf_printf(out,
               "{\"num_bits\": %d, \"type\": \"%s\", \"symmetric\": %s, \"strategy\": \"%s\", ",
               s->codes == DT_INT4 ? 4 : 8, s->codes == DT_FP8 ? "float" : "int",
               s->has_zero ? "false" : "true", s->group ? "group" : "channel");
    if (s->group)
        buf_printf(out, "\"group_size\": %d, ", s->group);
    buf_put_str(out, "\"dynamic\": false}");
}

static void put_acts(const struct scheme *s, struct buf *out)
{
    if (s->act == ACTS_WIDE)
        buf_put_str(out, "null");
    else
        buf_printf(out,
                   "{\"num_bits\": 8, \"type\": \"%s\", \"symmetric\": true, \"strategy\": "
                   "\"token\", \"dynamic\": true}",
                   s->act == ACTS_FP8 ? "float" : "int");
}

static void put_compressed_tensors(const struct scheme *s, const char *kept, struct buf *out)
{
    const char *format = layout_of(s) == PACKED ? "pack-quantized"
                         : s->codes == DT_FP8   ? "float-quantized"
                                                : "int-quantized";
    buf_printf(out,
               "{\"quant_method\": \"compressed-tensors\", \"format\": \"%s\", "
               "\"quantization_status\": \"compressed\", \"ignore\": ",
               format);
    put_names(kept, out);
    buf_put_str(out,
                ", \"config_groups\": {\"group_0\": {\"targets\": [\"Linear\"], \"weights\": ");
    put_weights(s, out);
    buf_put_str(out, ", \"input_activations\": ");
    put_acts(s, out);
    buf_put_str(out, ", \"output_activations\": null}}}");
}

static void put_bitsandbytes(const struct scheme *s, const char *kept, struct buf *out)
{
    const bool in_4 = layout_of(s) == BNB_4;
    buf_printf(out,
               "{\"quant_method\": \"bitsandbytes\", \"load_in_4bit\": %s, \"load_in_8bit\": %s, ",
               in_4 ? "true" : "false", in_4 ? "false" : "true");
    if (in_4)
        buf_printf(out,
                   "\"bnb_4bit_quant_type\": \"%s\", \"bnb_4bit_use_double_quant\": %s, "
                   "\"bnb_4bit_compute_dtype\": \"bfloat16\", \"bnb_4bit_quant_storage\": "
                   "\"uint8\", ",
                   dtype_traits[s->codes].name, s->nested ? "true" : "false");
    else /* some readers insist on a point */
        buf_printf(out, "\"llm_int8_threshold\": %.9g%s, ", (double)s->threshold,
                   s->threshold == floorf(s->threshold) ? ".0" : "");
    buf_put_str(out, "\"llm_int8_has_fp16_weight\": false, \"llm_int8_skip_modules\": ");
    put_names(kept, out);
    buf_put_char(out, '}');
}

void store_config(const struct scheme *s, const char *kept, struct buf *out)
{
    if (layout_of(s) == BNB_8 || layout_of(s) == BNB_4)
        put_bitsandbytes(s, kept, out);
    else
        put_compressed_tensors(s, kept, out);
}
