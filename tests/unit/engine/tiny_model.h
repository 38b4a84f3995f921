/* tiny_model.h - a whole model of a few thousand random weights, as a GGUF file, for tests. */
#ifndef TESTS_TINY_MODEL_H
#define TESTS_TINY_MODEL_H

#include <math.h>

#include "tests/unit/engine/gguf_make.h"

struct tiny {
    int hidden, n_layers, n_heads, n_kv_heads, head_dim, ffn, vocab, context;
    enum dtype dtype; /* of the matrices */
    bool tied, has_bias, has_factors;
    float rope_base;      /* 0 = 10000 */
    uint64_t more_random; /* other values in the same shapes; 0 = the usual ones */
};

static const struct tiny tiny_default = {
    .hidden = 64,
    .n_layers = 2,
    .n_heads = 4,
    .n_kv_heads = 2,
    .head_dim = 16,
    .ffn = 96,
    .vocab = 160,
    .context = 128,
    .dtype = DT_F32,
    .tied = true,
};

static inline void tiny_keys(struct make *m, const struct tiny *t)
{
    make_key_str(m, "general.architecture", "llama");
    make_key_u32(m, "llama.embedding_length", (uint32_t)t->hidden);
    make_key_u32(m, "llama.block_count", (uint32_t)t->n_layers);
    make_key_u32(m, "llama.attention.head_count", (uint32_t)t->n_heads);
    make_key_u32(m, "llama.attention.head_count_kv", (uint32_t)t->n_kv_heads);
    if (t->hidden != t->n_heads * t->head_dim)
        make_key_u32(m, "llama.attention.key_length", (uint32_t)t->head_dim);
    make_key_u32(m, "llama.feed_forward_length", (uint32_t)t->ffn);
    make_key_u32(m, "llama.context_length", (uint32_t)t->context);
    make_key_f32(m, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    make_key_f32(m, "llama.rope.freq_base", t->rope_base > 0 ? t->rope_base : 10000.0f);
}

static inline void tiny_layer(struct make *m, const struct tiny *t, int il)
{
    const int q = t->n_heads * t->head_dim, kv = t->n_kv_heads * t->head_dim;
    const struct {
        const char *name;
        enum dtype dtype;
        int rows, cols;
        bool is_bias;
    } list[] = {
        {"attn_norm.weight", DT_F32, 1, t->hidden, false},
        {"attn_q.weight", t->dtype, q, t->hidden, false},
        {"attn_k.weight", t->dtype, kv, t->hidden, false},
        {"attn_v.weight", t->dtype, kv, t->hidden, false},
        {"attn_output.weight", t->dtype, t->hidden, q, false},
        {"attn_q.bias", DT_F32, 1, q, true},
        {"attn_k.bias", DT_F32, 1, kv, true},
        {"attn_v.bias", DT_F16, 1, kv, true},
        {"ffn_norm.weight", DT_F32, 1, t->hidden, false},
        {"ffn_gate.weight", t->dtype, t->ffn, t->hidden, false},
        {"ffn_up.weight", t->dtype, t->ffn, t->hidden, false},
        {"ffn_down.weight", t->dtype, t->hidden, t->ffn, false},
    };
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        char name[64];
        snprintf(name, sizeof name, "blk.%d.%s", il, list[i].name);
        if (!list[i].is_bias || t->has_bias)
            make_tensor(m, name, list[i].dtype, list[i].rows, list[i].cols);
    }
}

static inline void tiny_tensors(struct make *m, const struct tiny *t)
{
    make_tensor(m, "token_embd.weight", t->dtype, t->vocab, t->hidden);
    make_tensor(m, "output_norm.weight", DT_F32, 1, t->hidden);
    if (!t->tied)
        make_tensor(m, "output.weight", t->dtype, t->vocab, t->hidden);
    if (t->has_factors)
        make_tensor(m, "rope_freqs.weight", DT_F32, 1, t->head_dim / 2);
    for (int il = 0; il < t->n_layers; il++)
        tiny_layer(m, t, il);
}

static inline float tiny_uniform(struct make *m) /* [-1, 1) */
{
    return (float)((double)(int64_t)make_random(&m->random) / 9223372036854775808.0);
}

/* The block formats but Q8_0: where d and the minimum lie, the deviation of their values in units
 * of d when all other bits are random, and the minimum that centres them. */
static const struct tiny_block {
    int d_at, m_at; /* -1 = none */
    float deviation, m;
} tiny_blocks[DT_N] = {
    [DT_Q4_0] = {0, -1, 4.6f, 0},   [DT_Q4_1] = {0, 2, 4.6f, -7.5f},
    [DT_Q5_0] = {0, -1, 9.2f, 0},   [DT_Q5_1] = {0, 2, 9.2f, -15.5f},
    [DT_Q2_K] = {80, 82, 14, 1.5f}, [DT_Q3_K] = {108, -1, 42, 0},
    [DT_Q4_K] = {0, 2, 258, 7.5f},  [DT_Q5_K] = {0, 2, 530, 15.5f},
    [DT_Q6_K] = {208, -1, 1340, 0},
};

static inline void tiny_put_block(struct make *m, enum dtype dtype, float deviation)
{
    const struct tiny_block *b = &tiny_blocks[dtype];
    const float d = deviation / b->deviation * (1 + 0.3f * tiny_uniform(m));
    const _Float16 halves[2] = {(_Float16)d, (_Float16)(d * b->m)};
    uint8_t block[256];
    for (int i = 0; i < dtype_traits[dtype].block_bytes; i++)
        block[i] = (uint8_t)(make_random(&m->random) >> 40);
    memcpy(block + b->d_at, &halves[0], 2);
    if (b->m_at >= 0)
        memcpy(block + b->m_at, &halves[1], 2);
    make_put(m, block, (size_t)dtype_traits[dtype].block_bytes);
}

/* Weights of a size that keeps activations near 1; no BF16 is made. */
static inline void tiny_values(struct make *m, const char *name, enum dtype dtype, size_t rows,
                               size_t cols)
{
    const bool is_gain = strstr(name, "norm") || strstr(name, "rope_freqs");
    const float size = strstr(name, "token_embd") ? 1.0f : 1.7f / sqrtf((float)cols);
    const bool is_block = dtype_traits[dtype].block > 1 && dtype != DT_Q8_0;
    for (size_t i = 0; is_block && i < rows * cols; i += (size_t)dtype_traits[dtype].block)
        tiny_put_block(m, dtype, size * 0.58f);
    for (size_t i = 0; !is_block && i < rows * cols; i++) {
        if (dtype == DT_Q8_0) {
            const _Float16 scale = (_Float16)(size / 127 * (1.5f + 0.4f * tiny_uniform(m)) / 2);
            if (i % 32 == 0)
                make_put(m, &scale, 2);
            const int8_t v = (int8_t)(127 * tiny_uniform(m));
            make_put(m, &v, 1);
            continue;
        }
        const float v = is_gain ? 1.2f + 0.2f * tiny_uniform(m) : size * tiny_uniform(m);
        const _Float16 half = (_Float16)v;
        make_put(m, dtype == DT_F16 ? (const void *)&half : &v, dtype == DT_F16 ? 2 : 4);
    }
}

/* Fill the data section by reading the records back, so that names and values never part. */
static inline void tiny_data(struct make *m, size_t first_record)
{
    size_t at = first_record;
    make_pad(m);
    const size_t first = m->n;
    for (uint64_t i = 0; i < m->n_tensors; i++) {
        char name[64];
        uint64_t n, dim[2] = {1, 1}, offset;
        uint32_t n_dims, type;
        memcpy(&n, m->at + at, 8);
        memcpy(name, m->at + at + 8, n);
        name[n] = 0;
        at += 8 + n;
        memcpy(&n_dims, m->at + at, 4);
        memcpy(dim, m->at + at + 4, 8 * n_dims);
        at += 4 + 8 * n_dims;
        memcpy(&type, m->at + at, 4);
        memcpy(&offset, m->at + at + 4, 8);
        at += 12;
        while (m->n < first + offset)
            make_put(m, "", 1);
        tiny_values(m, name, dtype_from_gguf(type), dim[1], dim[0]);
    }
    make_pad(m);
}

static inline void tiny_make(struct make *m, const struct tiny *t)
{
    make_begin(m);
    m->random += t->more_random;
    tiny_keys(m, t);
    const size_t first_record = m->n;
    tiny_tensors(m, t);
    tiny_data(m, first_record);
}

#endif
