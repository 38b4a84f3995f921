/* scheme.c - what the codes of a quantized matrix stand for, and what schemes are called. */
#include "kernels/scheme.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/half.h"

enum { NF4_GROUP = 64, INT4_GROUP = 128, GROUP_MAX = 1 << 16, GROUP_STEP = 32 };

/* Quantiles of the normal distribution, each half of them scaled to reach 1 (QLoRA, appendix E). */
const float scheme_nf4[16] = {
    -1.0F,
    -0.6961928009986877F,
    -0.5250730514526367F,
    -0.39491748809814453F,
    -0.28444138169288635F,
    -0.18477343022823334F,
    -0.09105003625154495F,
    0.0F,
    0.07958029955625534F,
    0.16093020141124725F,
    0.24611230194568634F,
    0.33791524171829224F,
    0.44070982933044434F,
    0.5626170039176941F,
    0.7229568362236023F,
    1.0F,
};

/* A sign, two bits of exponent and one of mantissa, scaled so that the largest is 1. */
const float scheme_fp4[16] = {
    0.0F,  0.0052083333F,  0.66666667F,  1.0F,  0.33333333F,  0.5F,  0.16666667F,  0.25F,
    -0.0F, -0.0052083333F, -0.66666667F, -1.0F, -0.33333333F, -0.5F, -0.16666667F, -0.25F,
};

float scheme_e4m3(uint8_t code)
{
    const int exponent = code >> 3 & 15, mantissa = code & 7;
    float v;
    if ((code & 0x7f) == 0x7f)
        return NAN;
    v = exponent == 0 ? ldexpf((float)mantissa, -9) : ldexpf((float)(8 + mantissa), exponent - 10);
    return code & 0x80 ? -v : v;
}

bool scheme_check(const struct scheme *s, int64_t cols, struct status *st)
{
    const int pack = dtype_traits[s->codes].block;
    if (s->group % GROUP_STEP != 0)
        return status_fail(st, STATUS_UNSUPPORTED,
                           "%s: want groups of a multiple of %d columns, found %d",
                           dtype_traits[s->codes].name, GROUP_STEP, s->group);
    if (s->group != 0 && cols % s->group != 0)
        return status_fail(st, STATUS_UNSUPPORTED,
                           "%s: want a multiple of the group's %d columns, found %lld",
                           dtype_traits[s->codes].name, s->group, (long long)cols);
    return cols % pack == 0 ||
           status_fail(st, STATUS_UNSUPPORTED, "%s: want a multiple of %d columns, found %lld",
                       dtype_traits[s->codes].name, pack, (long long)cols);
}

size_t scheme_bytes(const struct scheme *s, int64_t rows, int64_t cols)
{
    const size_t n_scales = (size_t)rows * (size_t)scheme_groups(s, cols);
    const size_t code_bits = 8 / (size_t)dtype_traits[s->codes].block;
    const size_t codes = (size_t)rows * (size_t)cols * code_bits / 8;
    const size_t scales = s->nested ? n_scales + (n_scales / NESTED_BLOCK + 1) * sizeof(float)
                                    : n_scales * (size_t)dtype_traits[s->scale].block_bytes;
    const size_t order = s->ordered ? (size_t)cols * sizeof(int32_t) : 0;
    return codes + scales + order + (s->has_zero ? n_scales * code_bits / 8 : 0);
}

static float round_value(enum dtype value, float v)
{
    if (value == DT_F16)
        return f32_from_f16(f32_to_f16(v));
    return value == DT_BF16 ? f32_from_bf16(f32_to_bf16(v)) : v;
}

static float code_value(const struct scheme *s, uint8_t code, int zero)
{
    switch (s->codes) {
    case DT_NF4:
        return scheme_nf4[code & 15];
    case DT_FP4:
        return scheme_fp4[code & 15];
    case DT_FP8:
        return scheme_e4m3(code);
    default:
        return (float)(code - zero);
    }
}

void scheme_dequantize_row(const struct scheme *s, const struct scheme_rows *row, int64_t cols,
                           float *dst)
{
    const int64_t n_groups = scheme_groups(s, cols), width = cols / n_groups;
    for (int64_t g = 0; g < n_groups; g++) {
        const int zero = s->has_zero ? row->zeros[g] : s->codes == DT_INT4 ? 8 : 128;
        for (int64_t c = g * width; c < (g + 1) * width; c++)
            dst[c] = round_value(s->value, row->scales[g] * code_value(s, row->codes[c], zero));
    }
}

/* ---- names ---- */

static const struct named {
    const char *name;
    struct scheme scheme;
} named[] = {
    {"int8", {.codes = DT_INT8, .act = ACTS_OUTLIERS, .threshold = 6}},
    {"w8a16", {.codes = DT_INT8}},
    {"nf4", {.codes = DT_NF4, .group = NF4_GROUP}},
    {"fp4", {.codes = DT_FP4, .group = NF4_GROUP}},
    {"int4", {.codes = DT_INT4, .group = INT4_GROUP, .scale = DT_F16}},
    {"fp8", {.codes = DT_FP8, .act = ACTS_FP8}},
};

static bool is_option(const char *at, size_t n, const char *name)
{
    return n == strlen(name) && memcmp(at, name, n) == 0;
}

/* `name=` at the start of the option, and a number in [min, max] that fills the rest. */
static bool number_option(const char *at, size_t n, const char *name, double min, double max,
                          double *v)
{
    const size_t skip = strlen(name);
    char text[32], *end;
    if (n <= skip || n - skip >= sizeof text || memcmp(at, name, skip) != 0)
        return false;
    memcpy(text, at + skip, n - skip);
    text[n - skip] = 0;
    *v = strtod(text, &end);
    return *end == 0 && *v >= min && *v <= max;
}

static bool take_option(struct scheme *s, const char *at, size_t n)
{
    const bool table = s->codes == DT_NF4 || s->codes == DT_FP4;
    double v;
    if (table && is_option(at, n, "nested")) {
        s->nested = true;
    } else if (s->codes == DT_INT4 && is_option(at, n, "asymmetric")) {
        s->has_zero = true;
    } else if (s->codes == DT_INT4 && number_option(at, n, "group=", GROUP_STEP, GROUP_MAX, &v) &&
               v == floor(v) && (int32_t)v % GROUP_STEP == 0) {
        s->group = (int32_t)v;
    } else if (s->act == ACTS_OUTLIERS && number_option(at, n, "threshold=", 0, 1e6, &v)) {
        s->threshold = (float)v;
    } else {
        return false;
    }
    return true;
}

static const struct named *find_named(const char *text, size_t n)
{
    for (size_t i = 0; i < sizeof named / sizeof *named; i++)
        if (is_option(text, n, named[i].name))
            return &named[i];
    return NULL;
}

bool scheme_parse(struct scheme *s, const char *text, struct status *st)
{
    size_t n = strcspn(text, ":");
    const struct named *found = find_named(text, n);
    if (!found)
        return status_fail(st, STATUS_BAD_INPUT,
                           "want int8, w8a16, nf4, fp4, int4 or fp8, found \"%.32s\"", text);
    *s = found->scheme;
    while (text[n] == ':') {
        text += n + 1;
        n = strcspn(text, ":");
        if (!take_option(s, text, n))
            return status_fail(st, STATUS_BAD_INPUT,
                               "%s: want threshold=0..1000000 (int8), nested (nf4, fp4), "
                               "asymmetric or group=32..65536 (int4), found \"%.32s\"",
                               found->name, text);
    }
    if (s->act == ACTS_OUTLIERS && s->threshold == 0)
        s->act = ACTS_INT8;
    return true;
}

const char *scheme_describe(const struct scheme *s, char *text, size_t size)
{
    static const char *const acts[] = {
        [ACTS_WIDE] = "",
        [ACTS_INT8] = ", activations in 8 bits",
        [ACTS_OUTLIERS] = ", activations in 8 bits but outliers",
        [ACTS_FP8] = ", activations in fp8",
    };
    char group[32] = "a scale a row";
    if (s->group)
        snprintf(group, sizeof group, "groups of %d", s->group);
    snprintf(text, size, "%s, %s, %s scales%s%s%s", dtype_traits[s->codes].name, group,
             s->nested ? "nested" : dtype_traits[s->scale].name, s->has_zero ? ", zero points" : "",
             s->ordered ? ", ordered columns" : "", acts[s->act]);
    return text;
}
