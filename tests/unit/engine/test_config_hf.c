/* A folder is bound only when its config.json is one this engine honours to the letter; what would
 * change the model and is not done here is refused by its key. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <cjson/cJSON.h>

#include "engine/config_read.h"
#include "engine/json_file.h"
#include "engine/model.h"
#include "engine/rope_freq.h"
#include "engine/safetensors.h"

static const char base[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":64,\"num_hidden_layers\":2,"
    "\"num_attention_heads\":4,\"intermediate_size\":96,\"max_position_embeddings\":256,"
    "\"rms_norm_eps\":1e-5,\"vocab_size\":160,\"head_dim\":null,\"rope_scaling\":null}";

#define BANDS                                                                                      \
    "\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4,"                                   \
    "\"original_max_position_embeddings\":32"

static const struct {
    const char *key, *value, *message; /* NULL = taken */
} keys[] = {
    {"hidden_act", "\"silu\"", NULL},
    {"hidden_act", "\"gelu\"", "key hidden_act: want silu, found gelu"},
    {"architectures", "[\"MambaForCausalLM\"]",
     "model family \"MambaForCausalLM\" is not supported"},
    {"architectures", "[]", "key architectures: want a list of names"},
    {"architectures", "[\"Qwen2ForCausalLM\"]", NULL},
    {"hidden_size", "\"64\"", "key hidden_size: want a whole number"},
    {"hidden_size", "63.5", "key hidden_size: want a whole number"},
    {"hidden_size", "4", "key hidden_size: want a value from 8 to 65536, found 4"},
    {"num_attention_heads", "-4", "key num_attention_heads: want a whole number"},
    {"num_attention_heads", "0", "want a value from 1 to 1024, found 0"},
    {"rms_norm_eps", "null", "key rms_norm_eps is missing"},
    {"num_key_value_heads", "3", "want query heads to be a multiple of key heads, found 4 and 3"},
    {"num_local_experts", "8", "key num_local_experts: want a value from 0 to 0, found 8"},
    {"use_sliding_window", "true", "key use_sliding_window: want false, found true"},
    {"use_sliding_window", "false", NULL},
    {"partial_rotary_factor", "0.5", "key partial_rotary_factor: want 1, found 0.5"},
    {"tie_word_embeddings", "1", "key tie_word_embeddings: want true or false"},
    {"rope_scaling", "{\"type\":\"linear\",\"factor\":2}", NULL},
    {"rope_scaling", "{\"type\":\"linear\"}", "key rope_scaling: key factor is missing"},
    {"rope_scaling", "{\"type\":\"linear\",\"factor\":0.5}",
     "key factor: want a value from 1 to 1024"},
    {"rope_scaling", "{\"rope_type\":\"yarn\",\"factor\":2}",
     "want rope_type default, linear or llama3, found yarn"},
    {"rope_scaling", "{\"rope_type\":\"llama3\"," BANDS "}", NULL},
    {"rope_scaling", "{\"rope_type\":\"llama3\",\"factor\":8}", "key low_freq_factor is missing"},
    {"rope_scaling",
     "{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,\"high_freq_factor\":4,"
     "\"original_max_position_embeddings\":32}",
     "want low_freq_factor below high_freq_factor"},
    {"rope_parameters", "{\"rope_type\":\"llama3\",\"rope_theta\":5e5," BANDS "}", NULL},
    {"rope_parameters", "{\"full_attention\":{\"rope_type\":\"default\"}}",
     "key rope_parameters: want one object for all layers"},
    {"rope_parameters", "{\"rope_theta\":0}", "key rope_theta: want a value from 1"},
};

/* A family whose layers differ: 0, 1, 3 see a window, 2 sees all. */
static const char windowed[] =
    "{\"architectures\":[\"Gemma3ForCausalLM\"],\"hidden_size\":64,\"num_hidden_layers\":4,"
    "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":16,"
    "\"query_pre_attn_scalar\":25,\"intermediate_size\":96,\"max_position_embeddings\":256,"
    "\"rms_norm_eps\":1e-6,\"vocab_size\":160,\"sliding_window\":7,\"sliding_window_pattern\":3,"
    "\"hidden_activation\":\"gelu_pytorch_tanh\",\"attn_logit_softcapping\":null}";

#define WINDOW "\"sliding_attention\""
#define ALL    "\"full_attention\""

static const struct {
    const char *key, *value, *message; /* NULL = taken */
} windowed_keys[] = {
    {"sliding_window", "1", NULL},
    {"sliding_window", "0", "key sliding_window: want a value from 1 to 16777216, found 0"},
    {"sliding_window", "null", "3 layers see a window, and no key sliding_window says how wide"},
    {"sliding_window_pattern", "1", NULL},
    {"sliding_window_pattern", "0", "key sliding_window_pattern: want a value from 1 to 1024"},
    {"layer_types", "[" WINDOW "," WINDOW "," ALL "," WINDOW "]", NULL},
    {"layer_types", "[" WINDOW "," ALL "," ALL "," WINDOW "]",
     "key layer_types: layer 1 is full_attention, which sliding_window_pattern = 3 does not say"},
    {"layer_types", "[" WINDOW "," WINDOW "," ALL "]", "key layer_types: want a list of 4 types"},
    {"layer_types", ALL, "key layer_types: want a list of 4 types"},
    {"layer_types", "[" WINDOW "," WINDOW "," ALL ",\"linear_attention\"]",
     "key layer_types: want full_attention or sliding_attention, found linear_attention"},
    {"layer_types", "[" WINDOW "," WINDOW "," ALL ",1]", "found no name"},
    {"hidden_activation", "\"gelu\"", "key hidden_activation: want gelu_pytorch_tanh, found gelu"},
    {"hidden_act", "\"silu\"", "key hidden_act: want gelu_pytorch_tanh, found silu"},
    {"query_pre_attn_scalar", "null", "key query_pre_attn_scalar is missing"},
    {"query_pre_attn_scalar", "0", "key query_pre_attn_scalar: want a value from 1 to 65536"},
    {"attn_logit_softcapping", "50", "key attn_logit_softcapping: want a value from 0 to 0"},
    {"final_logit_softcapping", "30", "key final_logit_softcapping: want a value from 0 to 0"},
    {"use_bidirectional_attention", "true",
     "key use_bidirectional_attention: want a value from 0 to 0, found 1"},
    {"use_bidirectional_attention", "false", NULL},
    {"rope_local_base_freq", "0", "key rope_local_base_freq: want a value from 1 to 1e+12"},
    {"rope_scaling", "{\"rope_type\":\"linear\",\"factor\":8}", NULL},
    {"rope_parameters", "{\"rope_theta\":1e6,\"rope_type\":\"default\"}",
     "key rope_parameters: want objects full_attention and sliding_attention, found rope_theta"},
    {"rope_parameters", "{" ALL ":{\"rope_theta\":1e6," BANDS ",\"rope_type\":\"llama3\"}}", NULL},
    {"rope_parameters", "{" WINDOW ":{\"rope_type\":\"linear\",\"factor\":2}}",
     "sliding_attention: want rope_type default where a window is seen"},
    {"rope_parameters", "{" WINDOW ":{\"rope_theta\":0}}", "key rope_theta: want a value from 1"},
    {"rope_parameters", "{\"chunked_attention\":{}}", "found chunked_attention"},
};

/* from with one key replaced or added */
static struct cJSON *config_with(const char *from, const char *key, const char *value)
{
    struct cJSON *config = cJSON_Parse(from);
    cJSON_DeleteItemFromObjectCaseSensitive(config, key);
    cJSON_AddItemToObject(config, key, cJSON_Parse(value));
    return config;
}

static void check_key(const char *from, const char *key, const char *value, const char *message)
{
    struct model_config cfg;
    const struct arch *arch;
    struct status st = {0};
    struct cJSON *config = config_with(from, key, value);
    const bool ok = config_read_hf(config, &arch, &cfg, &st);
    if (ok != !message || (!ok && !strstr(st.msg, message)))
        fail_msg("%s = %s: %s", key, value, st.msg);
    cJSON_Delete(config);
}

static void a_key_that_is_not_honoured_is_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        check_key(base, keys[i].key, keys[i].value, keys[i].message);
    for (size_t i = 0; i < sizeof windowed_keys / sizeof windowed_keys[0]; i++)
        check_key(windowed, windowed_keys[i].key, windowed_keys[i].value, windowed_keys[i].message);
}

/* Both ways to say which layers see a window, and how they turn. */
static void layers_differ_as_the_keys_say(void **state)
{
    (void)state;
    static const struct {
        const char *key, *value;
        bool local[4];
        float theta, theta_local, scaling;
        int32_t window;
    } rows[] = {
        {"rope_theta", "5e5", {1, 1, 0, 1}, 5e5f, 1e4f, 1, 7},
        {"rope_local_base_freq", "100", {1, 1, 0, 1}, 1e6f, 100, 1, 7},
        {"rope_scaling", "{\"rope_type\":\"linear\",\"factor\":8}", {1, 1, 0, 1}, 1e6f, 1e4f, 8, 7},
        {"sliding_window_pattern", "1", {0}, 1e6f, 1e4f, 1, 0},
        {"sliding_window_pattern", "null", {1, 1, 1, 1}, 1e6f, 1e4f, 1, 7},
        {"rope_parameters",
         "{" WINDOW ":{\"rope_theta\":200}," ALL
         ":{\"rope_theta\":300,\"rope_type\":\"linear\",\"factor\":2}}",
         {1, 1, 0, 1},
         300,
         200,
         2,
         7},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct model_config cfg;
        const struct arch *arch;
        struct status st = {0};
        struct cJSON *config = config_with(windowed, rows[i].key, rows[i].value);
        if (!config_read_hf(config, &arch, &cfg, &st))
            fail_msg("%s = %s: %s", rows[i].key, rows[i].value, st.msg);
        assert_memory_equal(cfg.is_local, rows[i].local, sizeof rows[i].local);
        assert_true(cfg.rope_theta == rows[i].theta && cfg.rope_theta_local == rows[i].theta_local);
        assert_true(cfg.rope_scaling == rows[i].scaling && cfg.window == rows[i].window);
        assert_true(cfg.attn_scale == 0.2f && cfg.embed_scale == 8 && cfg.tied);
        cJSON_Delete(config);
    }
}

static void numbers_come_out_as_they_went_in(void **state)
{
    (void)state;
    struct model_config cfg;
    const struct arch *arch;
    struct status st = {0};
    struct cJSON *config = config_with(base, "rope_parameters",
                                       "{\"rope_type\":\"llama3\",\"rope_theta\":5e5," BANDS "}");
    assert_true(config_read_hf(config, &arch, &cfg, &st));
    assert_string_equal(arch->hf_name, "LlamaForCausalLM");
    assert_int_equal(cfg.hidden, 64);
    assert_int_equal(cfg.n_kv_heads, 4);
    assert_int_equal(cfg.head_dim, 16);
    assert_int_equal(cfg.vocab, 160);
    assert_int_equal(cfg.rope, ROPE_NEOX);
    assert_false(cfg.tied);
    assert_true(cfg.rope_theta == 5e5f && cfg.rope_scaling == 8 && cfg.rope_context == 32);
    assert_true(cfg.rope_low_factor == 1 && cfg.rope_high_factor == 4);
    cJSON_Delete(config);
}

/* Of pairs that turn less than once in the first context an eighth is left, of those that turn more
 * than four times all of it, and between them it grows evenly with the turns. */
static void slow_pairs_alone_are_slowed(void **state)
{
    (void)state;
    const struct model_config cfg = {.rope_dims = 128,
                                     .rope_theta = 500000,
                                     .rope_scaling = 8,
                                     .rope_context = 8192,
                                     .rope_low_factor = 1,
                                     .rope_high_factor = 4};
    float got[64];
    int n_slow = 0, n_full = 0;
    rope_freq_make(&cfg, NULL, got);
    for (int i = 0; i < 64; i++) {
        const double f = pow(500000, -i / 64.0), turns = 8192 * f / (2 * M_PI);
        double want = f / 8;
        n_slow += turns < 1;
        n_full += turns > 4;
        if (turns > 4)
            want = f;
        else if (turns >= 1)
            want = (turns - 1) / 3 * f + (1 - (turns - 1) / 3) * f / 8;
        assert_true(fabs(got[i] - want) <= 1e-7 * want);
    }
    assert_true(n_slow > 10 && n_full > 20 && n_slow + n_full < 64);
}

/* --- binding --- */

struct checkpoint { /* a safetensors file of one layer, made of names and shapes */
    char header[8192], at[1 << 16];
    size_t n, n_data;
};

static void add_tensor(struct checkpoint *c, const char *name, int rows, int cols)
{
    const size_t n = strlen(c->header), n_bytes = (size_t)rows * (size_t)cols * 2;
    char shape[32];
    if (rows == 1)
        snprintf(shape, sizeof shape, "[%d]", cols);
    else
        snprintf(shape, sizeof shape, "[%d,%d]", rows, cols);
    snprintf(c->header + n, sizeof c->header - n,
             "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}", n ? "," : "",
             name, shape, c->n_data, c->n_data + n_bytes);
    c->n_data += n_bytes;
}

static void make_checkpoint(struct checkpoint *c, const char *without, const char *more)
{
    static const struct {
        const char *name;
        int rows, cols;
    } list[] = {{"model.embed_tokens.weight", 16, 8},
                {"model.norm.weight", 1, 8},
                {"lm_head.weight", 16, 8},
                {"model.layers.0.input_layernorm.weight", 1, 8},
                {"model.layers.0.self_attn.q_proj.weight", 8, 8},
                {"model.layers.0.self_attn.k_proj.weight", 8, 8},
                {"model.layers.0.self_attn.v_proj.weight", 8, 8},
                {"model.layers.0.self_attn.o_proj.weight", 8, 8},
                {"model.layers.0.post_attention_layernorm.weight", 1, 8},
                {"model.layers.0.mlp.gate_proj.weight", 12, 8},
                {"model.layers.0.mlp.up_proj.weight", 12, 8},
                {"model.layers.0.mlp.down_proj.weight", 8, 12}};
    *c = (struct checkpoint){0};
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++)
        if (strcmp(list[i].name, without) != 0)
            add_tensor(c, list[i].name, list[i].rows, list[i].cols);
    if (more)
        add_tensor(c, more, 1, 8);
    const uint64_t n_header = strlen(c->header) + 2;
    memcpy(c->at, &n_header, 8);
    snprintf(c->at + 8, sizeof c->at - 8, "{%s}", c->header);
    c->n = 8 + n_header + c->n_data;
    assert_true(c->n <= sizeof c->at);
}

#define Q_BIAS "model.layers.0.self_attn.q_proj.bias"

static const struct {
    const char *name, *key, *value, *without, *more, *message; /* NULL = bound */
} bindings[] = {
    {"output of its own", "tie_word_embeddings", "false", "", NULL, NULL},
    {"tied", "tie_word_embeddings", "true", "lm_head.weight", NULL, NULL},
    {"tied, and there all the same", "tie_word_embeddings", "true", "", NULL, NULL},
    {"not tied, and missing", "tie_word_embeddings", "false", "lm_head.weight", NULL,
     "tensor lm_head.weight is missing"},
    {"a buffer of old", "x", "1", "", "model.layers.0.self_attn.rotary_emb.inv_freq", NULL},
    {"unknown", "x", "1", "", "model.layers.0.self_attn.q_norm.weight",
     "tensor model.layers.0.self_attn.q_norm.weight: no weight of this family"},
    {"a layer more", "x", "1", "", "model.layers.1.input_layernorm.weight",
     "no weight of this family"},
    {"missing", "x", "1", "model.layers.0.mlp.up_proj.weight", NULL,
     "tensor model.layers.0.mlp.up_proj.weight is missing"},
    {"biases not promised", "x", "1", "", Q_BIAS, NULL},
    {"biases promised", "attention_bias", "true", "", Q_BIAS, NULL},
    {"biases promised, and missing", "attention_bias", "true", "", NULL,
     "key attention_bias is true, and tensors such as model.layers.0."},
    {"biases denied", "attention_bias", "false", "", Q_BIAS,
     "key attention_bias is false, and tensors such as model.layers.0."},
    {"another shape", "intermediate_size", "16", "", NULL,
     "tensor model.layers.0.mlp.gate_proj.weight: want [ffn, hidden] = [16, 8], found [12, 8]"},
    {"quantized, and plain", "quantization_config",
     "{\"quant_method\":\"awq\",\"bits\":4,\"group_size\":8}", "", NULL,
     "key quantization_config: want tensors named X.qweight, found none"},
    {"quantized by what is not known", "quantization_config", "{\"quant_method\":\"hqq\"}", "",
     NULL,
     "key quantization_config: key quant_method: want bitsandbytes, gptq, awq, compressed-tensors "
     "or "
     "fp8, found hqq"},
    {"not quantized", "quantization_config", "null", "", NULL, NULL},
    {"another vocabulary", "vocab_size", "17", "", NULL,
     "tensor model.embed_tokens.weight: want [vocab] = [17] rows, found 16"},
};

static void a_folder_is_bound_only_when_files_and_config_agree(void **state)
{
    (void)state;
    static struct checkpoint c;
    for (size_t i = 0; i < sizeof bindings / sizeof bindings[0]; i++) {
        struct model_file f;
        struct status st = {0};
        struct cJSON *config = cJSON_Parse(
            "{\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":8,\"num_hidden_layers\":1,"
            "\"num_attention_heads\":1,\"intermediate_size\":12,\"max_position_embeddings\":64,"
            "\"rms_norm_eps\":1e-5}");
        cJSON_DeleteItemFromObjectCaseSensitive(config, bindings[i].key);
        cJSON_AddItemToObject(config, bindings[i].key, cJSON_Parse(bindings[i].value));
        make_checkpoint(&c, bindings[i].without, bindings[i].more);
        struct safetensors *s = safetensors_open_memory(c.at, c.n, &st);
        if (!s)
            fail_msg("%s: %s", bindings[i].name, st.msg);
        const bool ok = model_file_bind_folder(&f, s, config, &st); /* takes s */
        if (ok != !bindings[i].message || (!ok && !strstr(st.msg, bindings[i].message)))
            fail_msg("%s: %s", bindings[i].name, st.msg);
        if (ok)
            assert_int_equal(
                f.n_bound,
                (f.cfg.tied ? 11 : 12) +
                    (bindings[i].more == NULL ? 0 : strstr(bindings[i].more, "bias") != NULL));
        model_file_close(&f);
        cJSON_Delete(config);
    }
}

static void a_folder_without_its_parts_says_so(void **state)
{
    (void)state;
    struct model_file f;
    struct status st = {0};
    assert_false(model_file_open(&f, "tests/golden/tok_json/qwen2", &st));
    assert_non_null(strstr(st.msg, "no config.json in the folder"));
    model_file_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_key_that_is_not_honoured_is_refused),
        cmocka_unit_test(layers_differ_as_the_keys_say),
        cmocka_unit_test(numbers_come_out_as_they_went_in),
        cmocka_unit_test(slow_pairs_alone_are_slowed),
        cmocka_unit_test(a_folder_is_bound_only_when_files_and_config_agree),
        cmocka_unit_test(a_folder_without_its_parts_says_so),
    };
    return cmocka_run_group_tests_name("config_hf", tests, NULL, NULL);
}
