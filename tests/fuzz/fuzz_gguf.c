/* fuzz_gguf.c - any bytes as a model file: opened, read through every accessor, and bound. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/gguf.h"
#include "engine/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static uint64_t read_array(const struct gguf_array *a)
{
    uint64_t sum = 0;
    const void *cursor = NULL;
    for (size_t i = 0; i < a->n; i++) {
        if (a->elem == GGUF_I32) {
            sum += (uint64_t)gguf_array_i32(a, i);
        } else if (a->elem == GGUF_F32) {
            sum += gguf_array_f32(a, i) > 0;
        } else {
            const struct str s = gguf_array_next(a, &cursor);
            for (size_t j = 0; j < s.n; j++)
                sum += (uint8_t)s.at[j];
        }
    }
    return sum;
}

static uint64_t read_key(const struct gguf *g, const char *key)
{
    uint64_t u = 0;
    double f = 0;
    bool b = false;
    struct str s = {0};
    struct gguf_array a;
    uint64_t sum = gguf_u64(g, key, &u, &(struct status){0});
    sum += u + (gguf_f64(g, key, &f, &(struct status){0}) && f > 0);
    sum += gguf_bool(g, key, &b, &(struct status){0}) && b;
    if (gguf_string(g, key, &s, &(struct status){0}))
        for (size_t i = 0; i < s.n; i++)
            sum += (uint8_t)s.at[i];
    for (enum gguf_elem want = GGUF_STRINGS; want <= GGUF_F32; want++)
        if (gguf_array(g, key, want, &a, &(struct status){0}))
            sum += read_array(&a);
    return sum;
}

static uint64_t read_tensors(const struct gguf *g)
{
    uint64_t sum = gguf_file_bytes(g) + gguf_trailing_bytes(g);
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct weight *t = gguf_tensor_at(g, i);
        char name[64];
        if (t->name.n >= sizeof name)
            abort();
        memcpy(name, t->name.at, t->name.n);
        name[t->name.n] = 0;
        if (gguf_tensor_find(g, name) != t)
            abort();
        for (size_t j = 0; j < t->n_bytes; j++)
            sum += ((const uint8_t *)t->source.at)[j];
    }
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static const char *const keys[] = {
        "general.architecture",
        "general.alignment",
        "llama.block_count",
        "llama.rope.freq_base",
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.scores",
        "tokenizer.ggml.merges",
        "tokenizer.ggml.token_type",
        "tokenizer.chat_template",
        "tokenizer.ggml.add_bos_token",
        "k",
        "",
    };
    struct status st = {0};
    struct gguf *g = gguf_open_memory(bytes, n, &st);
    if (!g) {
        if (st.code == STATUS_OK || !st.msg[0])
            abort();
        return 0;
    }
    uint64_t sum = read_tensors(g);
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        sum += read_key(g, keys[i]);
    volatile uint64_t sink = sum;
    (void)sink;
    struct model_file f;
    if (model_file_bind(&f, g, &st)) /* takes g */
        model_file_close(&f);
    else if (st.code == STATUS_OK)
        abort();
    return 0;
}
