/* fuzz_template.c - bytes up to the first NUL are a template, the rest is JSON: messages, or an
 * object of variables.  Whatever they are, compiling and rendering ends inside the limits, and the
 * spans of the output are in order. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "base/json_scan.h"
#include "engine/chat.h"

static void check(bool holds)
{
    if (!holds)
        abort();
}

static void render(const struct chat_template *t, const cJSON *messages, const cJSON *extra)
{
    struct chat_output out;
    struct status st = {0};
    const struct chat_input in = {
        .messages = messages,
        .extra = extra,
        .bos_token = "<s>",
        .eos_token = "</s>",
        .add_generation_prompt = true,
        .now_unix_s = 1767323045,
    };
    if (!chat_template_render(t, &in, &out, &st)) {
        check(st.code == STATUS_BAD_INPUT || st.code == STATUS_TOO_LARGE);
        return;
    }
    check(st.code == STATUS_OK && out.n <= 4 << 20 && out.text[out.n] == 0);
    size_t end = 0;
    for (size_t i = 0; i < out.n_trusted; i++) {
        check(out.trusted[i].first >= end && out.trusted[i].first < out.trusted[i].end);
        end = out.trusted[i].end;
    }
    check(end <= out.n && utf8_valid(out.text, out.n));
    chat_output_close(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    const char *text = (const char *)bytes;
    const char *nul = n ? memchr(text, 0, n) : NULL;
    const size_t n_template = nul ? (size_t)(nul - text) : n;
    const char *rest = nul ? nul + 1 : "";
    const size_t n_rest = nul ? n - n_template - 1 : 0;
    struct status st = {0};
    struct chat_template *t = chat_template_open(text, n_template, &st);
    if (!t) {
        check(st.code == STATUS_BAD_INPUT || st.code == STATUS_TOO_LARGE);
        return 0;
    }
    cJSON *json = NULL;
    enum json_fault fault;
    st = (struct status){0};
    if (json_scan(rest, n_rest, &json_limits_default, &fault, &st))
        json = cJSON_ParseWithLength(rest, n_rest);
    render(t, cJSON_IsArray(json) ? json : NULL, cJSON_IsObject(json) ? json : NULL);
    cJSON_Delete(json);
    chat_template_close(t);
    return 0;
}
