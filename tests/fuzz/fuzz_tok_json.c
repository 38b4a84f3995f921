/* fuzz_tok_json.c - any bytes as a tokenizer.json: read, opened, and used if it is one. */
#include <stdint.h>
#include <stdlib.h>

#include <cjson/cJSON.h>

#include "engine/json_file.h"
#include "engine/tok_json.h"
#include "engine/tok_source.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static void encode(const struct tokenizer *t)
{
    static const char text[] = "a e\xCC\x81<s> ab  <u>\xE4\xBA\xBA"
                               "12\n it's";
    const struct encode_options opts = {.add_special = true, .parse_special = true};
    int32_t ids[64];
    struct status st = {0};
    const int64_t n_ids = tokenizer_encode(t, text, sizeof text - 1, &opts, ids, 64, &st);
    if (n_ids < 0 && st.code == STATUS_OK)
        abort();
    for (int64_t i = 0; i < n_ids; i++)
        if (ids[i] < 0 || ids[i] >= tokenizer_vocab(t))
            abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct status st = {0};
    struct tok_json t = {0};
    struct tokenizer *tok = NULL;
    struct cJSON *json = json_text_parse((struct str){(const char *)bytes, n}, &st);
    if (json && tok_json_read(&t, json, &st))
        tok = tokenizer_open_source(&t.src, &st);
    if ((tok == NULL) == (st.code == STATUS_OK))
        abort();
    if (tok)
        encode(tok);
    tokenizer_close(tok);
    tok_json_close(&t);
    cJSON_Delete(json);
    return 0;
}
