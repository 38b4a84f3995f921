/* fuzz_config.c - a configuration file of any bytes is read or refused with a reason. */
#include <stdlib.h>
#include <string.h>

#include "server/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct config c;
    struct status st = {0};
    if (!config_defaults(&c, &st))
        abort();
    if (!config_parse_text(&c, (const char *)bytes, n, &st) &&
        (st.code == STATUS_OK || st.msg[0] == '\0'))
        abort();
    config_close(&c);
    return 0;
}
