/* make_quant.h - writes a small quantized Hugging Face folder of the Llama family, as a library
 * that made its format would lay it out: matrices are random codes, so that no library is asked for
 * one.
 *
 * What the codes mean is held by tests/golden/quant, whose models are too narrow for a GPU; here
 * they are the same for both devices.  Without a tokenizer, which engines do not ask for.
 *
 * Thread: one. */
#ifndef TESTS_GPU_MAKE_QUANT_H
#define TESTS_GPU_MAKE_QUANT_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/half.h"
#include "kernels/scheme.h"

enum {
    MADE_HIDDEN = 256,
    MADE_KV = 128,
    MADE_FFN = 512,
    MADE_LAYERS = 2,
    MADE_VOCAB = 1024,
    MADE_GROUP = 64,
};

enum made { MADE_NOTHING, MADE_GPTQ, MADE_AWQ, MADE_CT, MADE_BNB_NF4, MADE_BNB_INT8, MADE_N };

static const char *const made_names[MADE_N] = {"",
                                               "gptq int4, act-order",
                                               "awq",
                                               "compressed-tensors int4",
                                               "bitsandbytes nf4",
                                               "bitsandbytes int8"};

static const char *const made_configs[MADE_N] = {
    [MADE_GPTQ] = "{\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":64,\"desc_act\":true,"
                  "\"sym\":false,\"checkpoint_format\":\"gptq\",\"pack_dtype\":\"int32\"}",
    [MADE_AWQ] = "{\"quant_method\":\"awq\",\"bits\":4,\"group_size\":64,\"zero_point\":true,"
                 "\"version\":\"gemm\"}",
    [MADE_CT] =
        "{\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\","
        "\"quantization_status\":\"compressed\",\"ignore\":[\"lm_head\"],\"config_groups\":"
        "{\"group_0\":{\"targets\":[\"Linear\"],\"weights\":{\"num_bits\":4,\"type\":\"int\","
        "\"strategy\":\"group\",\"group_size\":64,\"symmetric\":false}}}}",
    [MADE_BNB_NF4] = "{\"quant_method\":\"bitsandbytes\",\"load_in_4bit\":true,"
                     "\"load_in_8bit\":false,\"bnb_4bit_quant_type\":\"nf4\"}",
    [MADE_BNB_INT8] = "{\"quant_method\":\"bitsandbytes\",\"load_in_4bit\":false,"
                      "\"load_in_8bit\":true,\"llm_int8_threshold\":3.0}",
};

struct made_file { /* a safetensors file on its way */
    FILE *head, *body;
    size_t n_bytes; /* of the body */
};

static inline uint32_t made_bits(void)
{
    static uint64_t x = 88172645463325252ull;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return (uint32_t)(x >> 16);
}

static inline float made_between(float low, float high)
{
    return low + (high - low) * (float)(made_bits() % 65536) / 65535;
}

static inline void *made_take(size_t n_bytes)
{
    void *at = malloc(n_bytes);
    if (!at)
        abort();
    return at;
}

/* One tensor; cols 0 <=> it is a vector.  Takes `at`. */
static inline void made_put(struct made_file *f, const char *name, const char *part,
                            const char *type, size_t value_bytes, int rows, int cols, void *at)
{
    const size_t n = (size_t)rows * (size_t)(cols ? cols : 1) * value_bytes;
    char more[16] = "";
    if (cols)
        snprintf(more, sizeof more, ",%d", cols);
    fprintf(f->head, "%s\"%s%s\":{\"dtype\":\"%s\",\"shape\":[%d%s],\"data_offsets\":[%zu,%zu]}",
            f->n_bytes ? "," : "{", name, part, type, rows, more, f->n_bytes, f->n_bytes + n);
    if (fwrite(at, 1, n, f->body) != n)
        abort();
    f->n_bytes += n;
    free(at);
}

static inline void made_put_words(struct made_file *f, const char *name, const char *part, int rows,
                                  int cols)
{
    const size_t n = (size_t)rows * (size_t)cols;
    uint32_t *at = made_take(n * sizeof *at);
    for (size_t i = 0; i < n; i++)
        at[i] = made_bits();
    made_put(f, name, part, "I32", sizeof *at, rows, cols, at);
}

/* Zero points near the middle of the codes. */
static inline void made_put_zeros(struct made_file *f, const char *name, const char *part, int rows,
                                  int cols)
{
    const size_t n = (size_t)rows * (size_t)cols;
    uint32_t *at = made_take(n * sizeof *at);
    for (size_t i = 0; i < n; i++)
        at[i] = 0x55555555u + (made_bits() & 0x33333333u);
    made_put(f, name, part, "I32", sizeof *at, rows, cols, at);
}

static inline void made_put_f16(struct made_file *f, const char *name, const char *part, int rows,
                                int cols, float low, float high)
{
    const size_t n = (size_t)rows * (size_t)(cols ? cols : 1);
    uint16_t *at = made_take(n * sizeof *at);
    for (size_t i = 0; i < n; i++)
        at[i] = f32_to_f16(made_between(low, high));
    made_put(f, name, part, "F16", sizeof *at, rows, cols, at);
}

static inline void made_put_f32(struct made_file *f, const char *name, const char *part, int n,
                                float low, float high)
{
    float *at = made_take((size_t)n * sizeof *at);
    for (int i = 0; i < n; i++)
        at[i] = made_between(low, high);
    made_put(f, name, part, "F32", sizeof *at, n, 0, at);
}

/* The group of each column, in any order. */
static inline void made_put_order(struct made_file *f, const char *name, int cols)
{
    int32_t *at = made_take((size_t)cols * sizeof *at);
    for (int i = 0; i < cols; i++) {
        const int j = (int)(made_bits() % (uint32_t)(i + 1));
        at[i] = at[j];
        at[j] = i / MADE_GROUP;
    }
    made_put(f, name, ".g_idx", "I32", sizeof *at, cols, 0, at);
}

static inline void made_put_nf4(struct made_file *f, const char *name, int rows, int cols,
                                float scale)
{
    char state[128];
    float *map = made_take(16 * sizeof *map);
    uint8_t *codes = made_take((size_t)(rows * cols / 2));
    for (int i = 0; i < rows * cols / 2; i++)
        codes[i] = (uint8_t)made_bits();
    memcpy(map, scheme_nf4, 16 * sizeof *map);
    const int n = snprintf(state, sizeof state,
                           "{\"quant_type\":\"nf4\",\"blocksize\":64,\"dtype\":\"float16\","
                           "\"shape\":[%d,%d]}",
                           rows, cols);
    made_put(f, name, ".weight", "U8", 1, rows * cols / 2, 1, codes);
    made_put_f32(f, name, ".weight.absmax", rows * cols / 64, scale, 2 * scale);
    made_put(f, name, ".weight.quant_map", "F32", sizeof *map, 16, 0, map);
    void *text = made_take((size_t)n);
    memcpy(text, state, (size_t)n);
    made_put(f, name, ".weight.quant_state.bitsandbytes__nf4", "U8", 1, n, 0, text);
}

static inline void made_put_int8(struct made_file *f, const char *name, int rows, int cols,
                                 float scale)
{
    int8_t *codes = made_take((size_t)(rows * cols));
    for (int i = 0; i < rows * cols; i++)
        codes[i] = (int8_t)((int)(made_bits() % 255) - 127);
    made_put(f, name, ".weight", "I8", 1, rows, cols, codes);
    made_put_f32(f, name, ".SCB", rows, scale, 2 * scale);
}

/* Values have a deviation near 1 / sqrt(cols): int4 spreads over 16 scales, the others over 2. */
static inline void made_put_matrix(struct made_file *f, enum made kind, const char *name, int rows,
                                   int cols)
{
    const int groups = cols / MADE_GROUP;
    const float four = 0.15f / sqrtf((float)cols), one = 1.2f / sqrtf((float)cols);
    int64_t *shape;
    switch (kind) {
    case MADE_GPTQ:
        made_put_words(f, name, ".qweight", cols / 8, rows);
        made_put_zeros(f, name, ".qzeros", groups, rows / 8);
        made_put_f16(f, name, ".scales", groups, rows, four, 2 * four);
        made_put_order(f, name, cols);
        return;
    case MADE_AWQ:
        made_put_words(f, name, ".qweight", cols, rows / 8);
        made_put_zeros(f, name, ".qzeros", groups, rows / 8);
        made_put_f16(f, name, ".scales", groups, rows, four, 2 * four);
        return;
    case MADE_CT:
        shape = made_take(2 * sizeof *shape);
        shape[0] = rows, shape[1] = cols;
        made_put_words(f, name, ".weight_packed", rows, cols / 8);
        made_put_zeros(f, name, ".weight_zero_point", rows / 8, groups);
        made_put_f16(f, name, ".weight_scale", rows, groups, four, 2 * four);
        made_put(f, name, ".weight_shape", "I64", sizeof *shape, 2, 0, shape);
        return;
    case MADE_BNB_NF4:
        made_put_nf4(f, name, rows, cols, one);
        return;
    default:
        made_put_int8(f, name, rows, cols, one);
    }
}

static inline void made_put_layer(struct made_file *f, enum made kind, int il)
{
    static const struct {
        const char *name;
        int rows, cols;
    } of[] = {{"self_attn.q_proj", MADE_HIDDEN, MADE_HIDDEN},
              {"self_attn.k_proj", MADE_KV, MADE_HIDDEN},
              {"self_attn.v_proj", MADE_KV, MADE_HIDDEN},
              {"self_attn.o_proj", MADE_HIDDEN, MADE_HIDDEN},
              {"mlp.gate_proj", MADE_FFN, MADE_HIDDEN},
              {"mlp.up_proj", MADE_FFN, MADE_HIDDEN},
              {"mlp.down_proj", MADE_HIDDEN, MADE_FFN}};
    char name[64];
    for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
        snprintf(name, sizeof name, "model.layers.%d.%s", il, of[i].name);
        made_put_matrix(f, kind, name, of[i].rows, of[i].cols);
    }
    snprintf(name, sizeof name, "model.layers.%d.", il);
    made_put_f16(f, name, "input_layernorm.weight", MADE_HIDDEN, 0, 0.75f, 1.25f);
    made_put_f16(f, name, "post_attention_layernorm.weight", MADE_HIDDEN, 0, 0.75f, 1.25f);
}

static inline void made_write_config(const char *folder, enum made kind)
{
    char path[300];
    snprintf(path, sizeof path, "%s/config.json", folder);
    FILE *f = fopen(path, "w");
    if (!f)
        abort();
    fprintf(f,
            "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\","
            "\"torch_dtype\":\"float16\",\"hidden_act\":\"silu\",\"rms_norm_eps\":1e-05,"
            "\"rope_theta\":10000.0,\"max_position_embeddings\":2048,\"vocab_size\":%d,"
            "\"hidden_size\":%d,\"num_hidden_layers\":%d,\"num_attention_heads\":%d,"
            "\"num_key_value_heads\":%d,\"head_dim\":64,\"intermediate_size\":%d,"
            "\"tie_word_embeddings\":true,\"quantization_config\":%s}\n",
            MADE_VOCAB, MADE_HIDDEN, MADE_LAYERS, MADE_HIDDEN / 64, MADE_KV / 64, MADE_FFN,
            made_configs[kind]);
    fclose(f);
}

/* Into a folder that is there; what one of the same name had is written over. */
static inline void make_quant(const char *folder, enum made kind)
{
    char path[300], *head = NULL, *body = NULL;
    size_t n_head = 0, n_body = 0;
    struct made_file f = {open_memstream(&head, &n_head), open_memstream(&body, &n_body), 0};
    if (!f.head || !f.body)
        abort();
    made_put_f16(&f, "model.embed_tokens", ".weight", MADE_VOCAB, MADE_HIDDEN, -0.1f, 0.1f);
    made_put_f16(&f, "model.norm", ".weight", MADE_HIDDEN, 0, 0.75f, 1.25f);
    for (int il = 0; il < MADE_LAYERS; il++)
        made_put_layer(&f, kind, il);
    fputc('}', f.head);
    fclose(f.head), fclose(f.body);
    made_write_config(folder, kind);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    FILE *to = fopen(path, "wb");
    const uint64_t n = n_head;
    if (!to || fwrite(&n, sizeof n, 1, to) != 1 || fwrite(head, 1, n_head, to) != n_head ||
        fwrite(body, 1, n_body, to) != n_body || fclose(to) != 0)
        abort();
    free(head), free(body);
}

static inline void made_remove(const char *folder)
{
    char path[300];
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    remove(path);
    snprintf(path, sizeof path, "%s/config.json", folder);
    remove(path);
    remove(folder);
}

#endif
