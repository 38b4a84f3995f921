#include "engine/json_file.h"

#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "base/json_scan.h"
#include "engine/file_map.h"

static const struct json_limits limits = {.depth_max = 32,
                                          .values_max = 8 << 20,
                                          .keys_max = UINT32_MAX,
                                          .number_max = 64,
                                          .large_objects = true};

bool path_join(char path[PATH_BYTES_MAX], const char *folder, const char *name, struct status *st)
{
    const int n = snprintf(path, PATH_BYTES_MAX, "%s/%s", folder, name);
    return n < PATH_BYTES_MAX ||
           status_fail(st, STATUS_BAD_INPUT, "a path of %d bytes, limit %d", n, PATH_BYTES_MAX - 1);
}

struct cJSON *json_text_parse(struct str text, struct status *st)
{
    enum json_fault fault;
    struct status why = {0};
    if (!json_scan(text.at, text.n, &limits, &fault, &why)) {
        status_fail(st, STATUS_CORRUPT, "%s", why.msg); /* a file, not a request */
        return NULL;
    }
    struct cJSON *json = cJSON_ParseWithLength(text.at, text.n);
    if (json && cJSON_IsObject(json))
        return json;
    if (json)
        status_fail(st, STATUS_CORRUPT, "want a JSON object, found another value");
    else
        status_fail(st, STATUS_BUSY, "no memory for %zu bytes of JSON", text.n);
    cJSON_Delete(json);
    return NULL;
}

struct cJSON *json_file_read(const char *folder, const char *name, size_t bytes_max,
                             struct status *st)
{
    char path[PATH_BYTES_MAX];
    struct file_map file;
    struct cJSON *json = NULL;
    if (!path_join(path, folder, name, st) || access(path, F_OK) != 0)
        return NULL;
    if (!file_map_open(&file, path, st))
        goto fail;
    if (file.n > bytes_max)
        status_fail(st, STATUS_TOO_LARGE, "%zu bytes, limit %zu", file.n, bytes_max);
    else
        json = json_text_parse((struct str){file.bytes, file.n}, st);
    file_map_close(&file);
    if (json)
        return json;

fail:
    status_wrap(st, "%s", name);
    return NULL;
}

const struct cJSON *json_value(const struct cJSON *object, const char *key)
{
    const struct cJSON *v = cJSON_GetObjectItemCaseSensitive(object, key);
    return v && !cJSON_IsNull(v) ? v : NULL;
}

bool json_text(const struct cJSON *object, const char *key, struct str *out, struct status *st)
{
    const struct cJSON *v = json_value(object, key);
    if (!v)
        return false;
    if (!cJSON_IsString(v))
        return status_fail(st, STATUS_CORRUPT, "key %s: want a string, found another value", key);
    *out = str_of(v->valuestring);
    return true;
}

bool json_flag(const struct cJSON *object, const char *key, bool absent, bool *out,
               struct status *st)
{
    const struct cJSON *v = json_value(object, key);
    *out = v ? cJSON_IsTrue(v) : absent;
    return !v || cJSON_IsBool(v) ||
           status_fail(st, STATUS_CORRUPT, "key %s: want true or false, found another value", key);
}

bool json_is_count(const struct cJSON *v, uint64_t *out)
{
    if (!cJSON_IsNumber(v) || v->valuedouble < 0 || v->valuedouble > 0x1p53 ||
        v->valuedouble != floor(v->valuedouble))
        return false;
    *out = (uint64_t)v->valuedouble;
    return true;
}
