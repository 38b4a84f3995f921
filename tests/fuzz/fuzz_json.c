/* fuzz_json.c - json_scan on any bytes; what it takes, cJSON takes too, whole. */
#include <cjson/cJSON.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/json_scan.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct status st = {0};
    enum json_fault fault;
    const char *text = (const char *)bytes;
    const bool ok = json_scan(text, n, &json_limits_default, &fault, &st);
    if (ok != (fault == JSON_OK) || ok != (st.code == STATUS_OK))
        abort();
    if (ok && !utf8_valid(text, n))
        abort();
    if (utf8_complete(text, n) > n || n - utf8_complete(text, n) > 3)
        abort();
    if (ok && n < 65536) {
        cJSON *root = cJSON_ParseWithLength(text, n);
        if (!root)
            abort();
        cJSON_Delete(root);
    }
    return 0;
}
