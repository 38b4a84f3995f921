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

static const char base[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":64,\"num_hidden_layers\":2,"
    "\"num_attention_heads\":4,\"intermediate_size\":96,\"max_position_embeddings\":256,"
    "\"rms_norm_eps\":1e-5,\"vocab_size\":160,\"head_dim\":null,\"rope_scaling\":null}";

#define BANDS                                                                                      \
    "\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4,"                                   \
    "\"original_max_position_embeddings\":32"

static const struct {
    const char *key, *value, *message; /* NULL = taken */
} rows[] = {
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
    {"quantization_config", "{\"quant_method\":\"awq\"}",
     "key quantization_config: weights quantized by awq are not supported"},
    {"quantization_config", "null", NULL},
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

/* base with one key replaced or added */
static struct cJSON *config_with(const char *key, const char *value)
{
    struct cJSON *config = cJSON_Parse(base);
    cJSON_DeleteItemFromObjectCaseSensitive(config, key);
    cJSON_AddItemToObject(config, key, cJSON_Parse(value));
    return config;
}

static void a_key_that_is_not_honoured_is_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct model_config cfg;
        const struct arch *arch;
        struct status st = {0};
        struct cJSON *config = config_with(rows[i].key, rows[i].value);
        const bool ok = config_read_hf(config, &arch, &cfg, &st);
        if (ok != !rows[i].message || (!ok && !strstr(st.msg, rows[i].message)))
            fail_msg("%s = %s: %s", rows[i].key, rows[i].value, st.msg);
        cJSON_Delete(config);
    }
}

static void numbers_come_out_as_they_went_in(void **state)
{
    (void)state;
    struct model_config cfg;
    const struct arch *arch;
    struct status st = {0};
    struct cJSON *config =
        config_with("rope_parameters", "{\"rope_type\":\"llama3\",\"rope_theta\":5e5," BANDS "}");
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
        cmocka_unit_test(numbers_come_out_as_they_went_in),
        cmocka_unit_test(slow_pairs_alone_are_slowed),
        cmocka_unit_test(a_folder_without_its_parts_says_so),
    };
    return cmocka_run_group_tests_name("config_hf", tests, NULL, NULL);
}
