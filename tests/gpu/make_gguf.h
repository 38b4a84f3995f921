/* make_gguf.h - writes a small GGUF model of the Llama family whose matrices are random blocks of
 * one format; without a tokenizer, which engines do not ask for.
 *
 * Thread: one. */
#ifndef TESTS_GPU_MAKE_GGUF_H
#define TESTS_GPU_MAKE_GGUF_H

#include <stdio.h>

#include "tests/unit/kernels_cuda/random_blocks.h"

enum { GGUF_U32 = 4, GGUF_F32 = 6, GGUF_STRING = 8, GGUF_ALIGN = 32, GGUF_TENSORS_MAX = 64 };

struct gguf_shape {
    uint32_t hidden, heads, kv_heads, ffn, vocab, layers; /* heads of 64 */
};

struct gguf_tensor {
    char name[48];
    uint64_t rows, cols; /* rows 0 <=> a vector, in f32 */
};

static inline void gguf_put(FILE *f, const void *at, size_t n)
{
    if (fwrite(at, 1, n, f) != n)
        abort();
}

static inline void gguf_put_string(FILE *f, const char *s)
{
    const uint64_t n = strlen(s);
    gguf_put(f, &n, 8);
    gguf_put(f, s, n);
}

static inline void gguf_put_u32(FILE *f, const char *key, uint32_t v)
{
    const uint32_t type = GGUF_U32;
    gguf_put_string(f, key);
    gguf_put(f, &type, 4);
    gguf_put(f, &v, 4);
}

static inline int gguf_list(const struct gguf_shape *s, struct gguf_tensor *t)
{
    const uint64_t kv = 64 * s->kv_heads;
    int n = 0;
    t[n++] = (struct gguf_tensor){"token_embd.weight", s->vocab, s->hidden};
    t[n++] = (struct gguf_tensor){"output.weight", s->vocab, s->hidden};
    t[n++] = (struct gguf_tensor){"output_norm.weight", 0, s->hidden};
    for (uint32_t il = 0; il < s->layers; il++) {
        const struct gguf_tensor of[] = {
            {"attn_norm", 0, s->hidden},      {"ffn_norm", 0, s->hidden},
            {"attn_q", s->hidden, s->hidden}, {"attn_k", kv, s->hidden},
            {"attn_v", kv, s->hidden},        {"attn_output", s->hidden, s->hidden},
            {"ffn_gate", s->ffn, s->hidden},  {"ffn_up", s->ffn, s->hidden},
            {"ffn_down", s->hidden, s->ffn}};
        for (size_t i = 0; i < sizeof of / sizeof of[0]; i++, n++) {
            t[n] = of[i];
            snprintf(t[n].name, sizeof t[n].name, "blk.%u.%.16s.weight", il, of[i].name);
        }
    }
    return n;
}

static inline size_t gguf_bytes(enum dtype dtype, const struct gguf_tensor *t)
{
    size_t n;
    if (!tensor_file_bytes(t->rows ? dtype : DT_F32, t->rows ? (int64_t)t->rows : 1,
                           (int64_t)t->cols, &n))
        abort();
    return n;
}

static inline void gguf_put_tensor(FILE *f, enum dtype dtype, const struct gguf_tensor *t)
{
    const size_t n = gguf_bytes(dtype, t);
    uint8_t *at = random_blocks(dtype, t->rows ? n : (size_t)dtype_traits[dtype].block_bytes,
                                random_blocks_scale(dtype, (int64_t)t->cols));
    if (t->rows)
        gguf_put(f, at, n);
    for (uint64_t i = 0; !t->rows && i < t->cols; i++) {
        const float v = 0.75F + (float)(random_blocks_bits() % 1000) / 2000;
        gguf_put(f, &v, 4);
    }
    for (size_t end = n; end % GGUF_ALIGN; end++)
        fputc(0, f);
    free(at);
}

static inline void gguf_put_head(FILE *f, const struct gguf_shape *s, uint64_t n_tensors)
{
    const uint32_t version = 3, string = GGUF_STRING, f32 = GGUF_F32;
    const uint64_t n_keys = 8;
    const float eps = 1e-5F;
    gguf_put(f, "GGUF", 4);
    gguf_put(f, &version, 4);
    gguf_put(f, &n_tensors, 8);
    gguf_put(f, &n_keys, 8);
    gguf_put_string(f, "general.architecture");
    gguf_put(f, &string, 4);
    gguf_put_string(f, "llama");
    gguf_put_string(f, "llama.attention.layer_norm_rms_epsilon");
    gguf_put(f, &f32, 4);
    gguf_put(f, &eps, 4);
    gguf_put_u32(f, "llama.embedding_length", s->hidden);
    gguf_put_u32(f, "llama.block_count", s->layers);
    gguf_put_u32(f, "llama.attention.head_count", s->heads);
    gguf_put_u32(f, "llama.attention.head_count_kv", s->kv_heads);
    gguf_put_u32(f, "llama.feed_forward_length", s->ffn);
    gguf_put_u32(f, "llama.context_length", 2048);
}

static inline void make_gguf(const char *path, enum dtype dtype, const struct gguf_shape *s)
{
    struct gguf_tensor t[GGUF_TENSORS_MAX];
    const int n = gguf_list(s, t);
    uint64_t offset = 0;
    FILE *f = fopen(path, "wb");
    if (!f)
        abort();
    gguf_put_head(f, s, (uint64_t)n);
    for (int i = 0; i < n; i++) {
        const uint32_t dims = t[i].rows ? 2 : 1;
        const uint32_t type = (uint32_t)dtype_traits[t[i].rows ? dtype : DT_F32].gguf_id;
        gguf_put_string(f, t[i].name);
        gguf_put(f, &dims, 4);
        gguf_put(f, &t[i].cols, 8);
        if (t[i].rows)
            gguf_put(f, &t[i].rows, 8);
        gguf_put(f, &type, 4);
        gguf_put(f, &offset, 8);
        offset += (gguf_bytes(dtype, &t[i]) + GGUF_ALIGN - 1) / GGUF_ALIGN * GGUF_ALIGN;
    }
    while (ftell(f) % GGUF_ALIGN)
        fputc(0, f);
    for (int i = 0; i < n; i++)
        gguf_put_tensor(f, dtype, &t[i]);
    if (fclose(f) != 0)
        abort();
}

#endif
