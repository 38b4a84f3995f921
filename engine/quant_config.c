/* quant_config.c - keys of quantization_config that several formats have. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include <cjson/cJSON.h>

#include "engine/json_file.h"
#include "engine/quant_int.h"

static void join(const char *const *words, char *list, size_t size)
{
    *list = 0;
    for (int i = 0; words[i]; i++) {
        const char *between = i == 0 ? "" : words[i + 1] ? ", " : " or ";
        const size_t n = strlen(list);
        snprintf(list + n, size - n, "%s%s", between, words[i]);
    }
}

bool quant_word(const struct cJSON *config, const char *key, const char *const *words, int absent,
                int *out, struct status *st)
{
    struct str text;
    char list[96];
    *out = absent;
    if (!json_text(config, key, &text, st)) {
        if (st->code != STATUS_OK)
            return false;
        return absent >= 0 || status_fail(st, STATUS_CORRUPT, "key %s is missing", key);
    }
    for (*out = 0; words[*out]; (*out)++)
        if (strcasecmp(text.at, words[*out]) == 0)
            return true;
    join(words, list, sizeof list);
    return status_fail(st, STATUS_UNSUPPORTED, "key %s: want %s, found %s", key, list,
                       str_show(text).text);
}

static bool is_empty(const struct cJSON *v)
{
    return !v || cJSON_IsFalse(v) || ((cJSON_IsObject(v) || cJSON_IsArray(v)) && !v->child);
}

bool quant_none(const struct cJSON *config, const char *key, struct status *st)
{
    return is_empty(json_value(config, key)) ||
           status_fail(st, STATUS_UNSUPPORTED, "key %s: want none, found a value", key);
}

bool quant_group(const struct cJSON *config, int32_t *group, struct status *st)
{
    const struct cJSON *v = json_value(config, "group_size");
    uint64_t n = 0;
    *group = 0;
    if (cJSON_IsNumber(v) && v->valuedouble == -1)
        return true;
    if (!v || !json_is_count(v, &n) || n == 0 || n > INT32_MAX)
        return status_fail(st, STATUS_CORRUPT, "key group_size: want -1 or at least 1, found %s",
                           v ? "another value" : "none");
    *group = (int32_t)n;
    return true;
}

bool quant_bits(const struct cJSON *config, const char *key, enum dtype *codes, struct status *st)
{
    const struct cJSON *v = json_value(config, key);
    if (!cJSON_IsNumber(v))
        return status_fail(st, STATUS_CORRUPT, "key %s: want a number of bits", key);
    *codes = v->valuedouble == 4 ? DT_INT4 : DT_INT8;
    return v->valuedouble == 4 || v->valuedouble == 8 ||
           status_fail(st, STATUS_UNSUPPORTED, "key %s: want 4 or 8, found %.9g", key,
                       v->valuedouble);
}
