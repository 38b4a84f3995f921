/* A checkpoint is bound only when its configuration is in range and every tensor has the shape its
 * family's rules ask for; what differs is named with what was wanted and what was found. */
#include "engine/model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "engine/config_read.h"
#include "engine/gguf.h"
#include "tests/unit/engine/tiny_model.h"

static bool bind(struct model_file *f, const struct make *m, struct status *st)
{
    struct gguf *g = gguf_open_memory(m->at, m->n, st);
    *f = (struct model_file){0};
    return g && model_file_bind(f, g, st);
}

static void a_model_is_bound_with_its_numbers(void **state)
{
    (void)state;
    struct make m;
    struct model_file f;
    struct status st = {0};
    tiny_make(&m, &tiny_default);
    assert_true(bind(&f, &m, &st));
    assert_int_equal(f.cfg.hidden, 64);
    assert_int_equal(f.cfg.n_layers, 2);
    assert_int_equal(f.cfg.n_heads, 4);
    assert_int_equal(f.cfg.n_kv_heads, 2);
    assert_int_equal(f.cfg.head_dim, 16);
    assert_int_equal(f.cfg.rope_dims, 16);
    assert_int_equal(f.cfg.vocab, 160);
    assert_int_equal(f.cfg.context, 128);
    assert_int_equal(f.cfg.rope, ROPE_ADJACENT);
    assert_true(f.cfg.tied);
    assert_true(fabsf(f.cfg.attn_scale - 0.25f) < 1e-7f);
    assert_true(f.cfg.rope_scaling == 1 && f.cfg.embed_scale == 1);
    assert_int_equal(f.n_bound, 2 + 2 * 9);
    model_file_close(&f);
    make_close(&m);
}

static void optional_parts_are_taken_when_they_are_there(void **state)
{
    (void)state;
    struct make m;
    struct model_file f;
    struct status st = {0};
    struct tiny t = tiny_default;
    t.tied = false;
    t.has_bias = t.has_factors = true;
    tiny_make(&m, &t);
    assert_true(bind(&f, &m, &st));
    assert_false(f.cfg.tied);
    assert_int_equal(f.n_bound, 4 + 2 * 12);
    model_file_close(&f);
    make_close(&m);
}

static const struct {
    const char *name;
    struct {
        const char *key;
        uint32_t type;
        double value;
        const char *text;
    } key;
    enum status_code code;
    const char *message; /* NULL = bound */
} keys[] = {
    {"heads 0",
     {"llama.attention.head_count", G_U32, 0, NULL},
     STATUS_UNSUPPORTED,
     "key llama.attention.head_count: want a value from 1 to 1024, found 0"},
    {"heads do not divide",
     {"llama.attention.head_count_kv", G_U32, 3, NULL},
     STATUS_CORRUPT,
     "want query heads to be a multiple of key heads, found 4 and 3"},
    {"key heads 0",
     {"llama.attention.head_count_kv", G_U32, 0, NULL},
     STATUS_UNSUPPORTED,
     "head_count_kv: want a value from 1 to 1024, found 0"},
    {"layers 0", {"llama.block_count", G_U32, 0, NULL}, STATUS_UNSUPPORTED, "block_count: want"},
    {"layers 10^9",
     {"llama.block_count", G_U32, 1e9, NULL},
     STATUS_UNSUPPORTED,
     "block_count: want a value from 1 to 1024, found 1e+09"},
    {"a layer more than the file has",
     {"llama.block_count", G_U32, 3, NULL},
     STATUS_CORRUPT,
     "tensor blk.2.attn_q.weight is missing"},
    {"a layer fewer",
     {"llama.block_count", G_U32, 1, NULL},
     STATUS_UNSUPPORTED,
     "tensor blk.1.attn_norm.weight: no weight of this family"},
    {"context 0",
     {"llama.context_length", G_U32, 0, NULL},
     STATUS_UNSUPPORTED,
     "context_length: want"},
    {"context 2^31",
     {"llama.context_length", G_U32, 2147483648.0, NULL},
     STATUS_UNSUPPORTED,
     "context_length: want a value from 1 to 16777216, found 2.14748365e+09"},
    {"epsilon NaN",
     {"llama.attention.layer_norm_rms_epsilon", G_F32, NAN, NULL},
     STATUS_UNSUPPORTED,
     "found nan"},
    {"epsilon 0",
     {"llama.attention.layer_norm_rms_epsilon", G_F32, 0, NULL},
     STATUS_UNSUPPORTED,
     "layer_norm_rms_epsilon: want a value from 1e-12 to 0.1, found 0"},
    {"width as text",
     {"llama.embedding_length", G_STRING, 0, "wide"},
     STATUS_CORRUPT,
     "key llama.embedding_length: want an integer, found string"},
    {"width other than the tensors",
     {"llama.embedding_length", G_U32, 128, NULL},
     STATUS_CORRUPT,
     "tensor token_embd.weight: want [vocab, hidden] = [160, 128], found [160, 64]"},
    {"width the heads do not divide",
     {"llama.embedding_length", G_U32, 62, NULL},
     STATUS_CORRUPT,
     "want a width that is a multiple of the heads, found 62 and 4"},
    {"feed-forward other than the tensors",
     {"llama.feed_forward_length", G_U32, 64, NULL},
     STATUS_CORRUPT,
     "tensor blk.0.ffn_gate.weight: want [ffn, hidden] = [64, 64], found [96, 64]"},
    {"heads wider than the tensors",
     {"llama.attention.key_length", G_U32, 32, NULL},
     STATUS_CORRUPT,
     "tensor blk.0.attn_q.weight: want [q, hidden] = [128, 64], found [64, 64]"},
    {"value heads of another width",
     {"llama.attention.value_length", G_U32, 32, NULL},
     STATUS_UNSUPPORTED,
     "want value heads as wide as key heads, found 32 and 16"},
    {"rotary dimensions odd",
     {"llama.rope.dimension_count", G_U32, 7, NULL},
     STATUS_CORRUPT,
     "want an even number of rotated dimensions of at most 16, found 7"},
    {"rotary dimensions too many",
     {"llama.rope.dimension_count", G_U32, 18, NULL},
     STATUS_CORRUPT,
     "rotated dimensions of at most 16, found 18"},
    {"rotary dimensions fewer", {"llama.rope.dimension_count", G_U32, 8, NULL}, STATUS_OK, NULL},
    {"rotary base 0",
     {"llama.rope.freq_base", G_F32, 0, NULL},
     STATUS_UNSUPPORTED,
     "rope.freq_base: want"},
    {"scaling yarn",
     {"llama.rope.scaling.type", G_STRING, 0, "yarn"},
     STATUS_UNSUPPORTED,
     "key llama.rope.scaling.type: want \"none\" or \"linear\""},
    {"scaling none", {"llama.rope.scaling.type", G_STRING, 0, "none"}, STATUS_OK, NULL},
    {"experts",
     {"llama.expert_count", G_U32, 8, NULL},
     STATUS_UNSUPPORTED,
     "key llama.expert_count: want a value from 0 to 0, found 8"},
    {"no experts", {"llama.expert_count", G_U32, 0, NULL}, STATUS_OK, NULL},
    {"vocabulary other than the table",
     {"llama.vocab_size", G_U32, 161, NULL},
     STATUS_CORRUPT,
     "tensor token_embd.weight: want [vocab] = [161] rows, found 160"},
    {"another family",
     {"general.architecture", G_STRING, 0, "mamba\n"},
     STATUS_UNSUPPORTED,
     "model family \"mamba?\" is not supported"},
};

/* The tiny model with one key replaced or added. */
static void make_with_key(struct make *m, size_t i)
{
    struct make plain;
    struct tiny t = tiny_default;
    make_begin(&plain);
    tiny_keys(&plain, &t);
    make_begin(m);
    /* Copy the keys one by one but for the one to replace. */
    size_t at = 24;
    while (at < plain.n) {
        uint64_t n, n_value = 4;
        uint32_t type;
        memcpy(&n, plain.at + at, 8);
        memcpy(&type, plain.at + at + 8 + n, 4);
        if (type == G_STRING) {
            memcpy(&n_value, plain.at + at + 12 + n, 8);
            n_value += 8;
        }
        if (n != strlen(keys[i].key.key) || memcmp(plain.at + at + 8, keys[i].key.key, n) != 0) {
            make_put(m, plain.at + at, 12 + n + n_value);
            m->n_keys++;
        }
        at += 12 + n + n_value;
    }
    if (keys[i].key.type == G_STRING)
        make_key_str(m, keys[i].key.key, keys[i].key.text);
    else if (keys[i].key.type == G_F32)
        make_key_f32(m, keys[i].key.key, (float)keys[i].key.value);
    else
        make_key_u32(m, keys[i].key.key, (uint32_t)keys[i].key.value);
    const size_t first_record = m->n;
    tiny_tensors(m, &t);
    tiny_data(m, first_record);
    make_close(&plain);
}

static void a_key_out_of_range_is_refused_by_name(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        struct make m;
        struct model_file f;
        struct status st = {0};
        make_with_key(&m, i);
        const bool bound = bind(&f, &m, &st);
        if (bound != !keys[i].message || st.code != keys[i].code ||
            (keys[i].message && !strstr(st.msg, keys[i].message)))
            fail_msg("%s: %s: %s", keys[i].name, status_name(st.code), st.msg);
        model_file_close(&f);
        make_close(&m);
    }
}

static void linear_scaling_divides_positions(void **state)
{
    (void)state;
    struct make m;
    struct model_file f;
    struct status st = {0};
    make_begin(&m);
    tiny_keys(&m, &tiny_default);
    make_key_str(&m, "llama.rope.scaling.type", "linear");
    make_key_f32(&m, "llama.rope.scaling.factor", 4);
    const size_t first_record = m.n;
    tiny_tensors(&m, &tiny_default);
    tiny_data(&m, first_record);
    assert_true(bind(&f, &m, &st));
    assert_true(f.cfg.rope_scaling == 4);
    model_file_close(&f);
    make_close(&m);
}

static void a_missing_key_is_named(void **state)
{
    (void)state;
    struct make m;
    struct model_file f;
    struct status st = {0};
    make_begin(&m);
    assert_false(bind(&f, &m, &st));
    assert_non_null(strstr(st.msg, "key general.architecture is missing"));
    make_key_str(&m, "general.architecture", "llama");
    st = (struct status){0};
    assert_false(bind(&f, &m, &st));
    assert_non_null(strstr(st.msg, "key llama.embedding_length is missing"));
    make_close(&m);
}

static void a_tensor_of_another_shape_or_name_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *instead, *name;
        int64_t rows, cols;
        const char *message;
    } rows[] = {
        {"output_norm.weight", "output_norm.weight", 1, 32,
         "tensor output_norm.weight: want [hidden] = [64], found [1, 32]"},
        {"output_norm.weight", "output_norm.weight", 64, 1,
         "tensor output_norm.weight: want [hidden] = [64], found [64, 1]"},
        {"output_norm.weight", "output_norm.bias", 1, 64, "tensor output_norm.weight is missing"},
        {"token_embd.weight", "embd.weight", 160, 64, "tensor token_embd.weight is missing"},
        {"blk.1.attn_output.weight", "blk.1.attn_output.weight", 64, 32,
         "tensor blk.1.attn_output.weight: want [hidden, q] = [64, 64], found [64, 32]"},
        {"blk.1.attn_k.weight", "blk.1.attn_k.weight", 64, 64,
         "tensor blk.1.attn_k.weight: want [kv, hidden] = [32, 64], found [64, 64]"},
        {"", "blk.0.ffn_gate_inp.weight", 8, 64,
         "tensor blk.0.ffn_gate_inp.weight: no weight of this family"},
        {"", "blk.2.attn_norm.weight", 1, 64,
         "tensor blk.2.attn_norm.weight: no weight of this family"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct make plain, m;
        struct model_file f;
        struct status st = {0};
        tiny_make(&plain, &tiny_default);
        struct gguf *g = gguf_open_memory(plain.at, plain.n, &st);
        make_begin(&m);
        tiny_keys(&m, &tiny_default);
        for (size_t j = 0; j < gguf_n_tensors(g); j++) {
            const struct weight *t = gguf_tensor_at(g, j);
            char name[64];
            snprintf(name, sizeof name, "%.*s", (int)t->name.n, t->name.at);
            if (strcmp(name, rows[i].instead) == 0)
                make_tensor(&m, rows[i].name, DT_F32, rows[i].rows, rows[i].cols);
            else
                make_tensor(&m, name, t->dtype, t->rows, t->cols);
        }
        if (!rows[i].instead[0])
            make_tensor(&m, rows[i].name, DT_F32, rows[i].rows, rows[i].cols);
        make_data(&m);
        if (bind(&f, &m, &st) || !strstr(st.msg, rows[i].message))
            fail_msg("%s: %s", rows[i].name, st.msg);
        model_file_close(&f);
        gguf_close(g);
        make_close(&m);
        make_close(&plain);
    }
}

static void more_tokens_than_the_table_has_rows_are_refused(void **state)
{
    (void)state;
    for (uint64_t n = 160; n <= 161; n++) {
        struct make m;
        struct model_file f;
        struct status st = {0};
        make_begin(&m);
        tiny_keys(&m, &tiny_default);
        make_key_array(&m, "tokenizer.ggml.tokens", G_STRING, n);
        for (uint64_t i = 0; i < n; i++)
            make_str(&m, "x");
        const size_t first_record = m.n;
        tiny_tensors(&m, &tiny_default);
        tiny_data(&m, first_record);
        assert_int_equal(bind(&f, &m, &st), n == 160);
        if (n > 160)
            assert_non_null(strstr(st.msg, "tokens: want at most vocab = 160, found 161"));
        model_file_close(&f);
        make_close(&m);
    }
}

struct told {
    int n_calls;
    uint64_t last, total;
    bool fell;
};

static void tell(void *ctx, uint64_t n_done, uint64_t n_total)
{
    struct told *t = ctx;
    t->n_calls++;
    t->fell |= n_done < t->last || n_done > n_total;
    t->last = n_done;
    t->total = n_total;
}

static void loading_takes_the_bytes_counted_and_fills_every_slot(void **state)
{
    (void)state;
    struct make m;
    struct model_file f;
    struct model model;
    struct status st = {0};
    struct told told = {0};
    size_t n_bytes;
    struct tiny t = tiny_default;
    t.has_bias = t.has_factors = true;
    t.dtype = DT_Q8_0;
    tiny_make(&m, &t);
    assert_true(bind(&f, &m, &st));
    struct device *dev = cpu_backend.open(&(struct device_options){.n_threads = 1}, &st);
    assert_non_null(dev);
    assert_true(model_weight_bytes(&f, cpu_backend.ops, dev, &n_bytes));
    assert_true(n_bytes >= f.bound[0].src->n_bytes);
    assert_true(
        model_load(&model, &f, cpu_backend.ops, dev, &(struct load_progress){tell, &told}, &st));
    assert_true(told.n_calls > 4 && !told.fell);
    assert_int_equal(told.last, n_bytes);
    assert_int_equal(told.total, n_bytes);
    assert_ptr_equal(model.w[W_LM_HEAD], model.w[W_EMBED]);
    for (int il = 0; il < 2; il++)
        for (int slot = W_FIRST_OF_LAYER; slot < W_N; slot++)
            assert_int_equal(model.layer[il].w[slot] == NULL,
                             slot == W_O_BIAS || slot == W_Q_NORM || slot == W_K_NORM ||
                                 slot == W_ATTN_OUT_NORM || slot >= W_GATE_BIAS);
    const struct tensor *norm = model.layer[1].w[W_FFN_NORM];
    assert_int_equal(norm->dtype, DT_F32);
    assert_memory_equal(norm->data, gguf_tensor_find(f.gguf, "blk.1.ffn_norm.weight")->source.at,
                        64 * sizeof(float));
    const float *factor = model.w[W_ROPE_FACTORS]->data;
    for (int i = 0; i < 8; i++) {
        const double want = pow(10000.0, -i / 8.0) / factor[i];
        assert_true(fabs(model.inv_freq[i] - want) <= 1e-7 * want);
    }
    model_close(&model);
    cpu_backend.ops->close(dev);
    model_file_close(&f);
    make_close(&m);
}

/* --- layers that differ --- */

struct windowed { /* what metadata says, and what must come of it; 0 = no key */
    const char *name;
    uint32_t n_layers, width, pattern, window;
    float theta_local;
    const char *message; /* NULL = taken */
    int32_t n_local;
    float attn_scale;
};

static const struct windowed windowed[] = {
    {"small", 18, 64, 0, 512, 0, NULL, 15, 0.25f},
    {"27B scales by a head's share of the width", 62, 5376, 0, 1024, 0, NULL, 52, 0.0771517f},
    {"keys of later files", 6, 64, 2, 7, 500, NULL, 3, 0.25f},
    {"every layer sees all", 6, 64, 1, 0, 0, NULL, 0, 0.25f},
    {"no window", 6, 64, 0, 0, 0, "5 layers see a window, and no key sliding_window", 0, 0},
    {"window 0", 6, 64, 0, UINT32_MAX, 0,
     "key gemma3.attention.sliding_window: want a value from 1 to 16777216, found 0", 0, 0},
};

static void make_windowed(struct make *m, const struct windowed *w)
{
    make_begin(m);
    make_key_str(m, "general.architecture", "gemma3");
    make_key_u32(m, "gemma3.embedding_length", w->width);
    make_key_u32(m, "gemma3.block_count", w->n_layers);
    make_key_u32(m, "gemma3.attention.head_count", w->width == 64 ? 4 : 32);
    make_key_u32(m, "gemma3.attention.head_count_kv", 2);
    make_key_u32(m, "gemma3.attention.key_length", 16);
    make_key_u32(m, "gemma3.feed_forward_length", 96);
    make_key_u32(m, "gemma3.context_length", 1024);
    make_key_f32(m, "gemma3.attention.layer_norm_rms_epsilon", 1e-6f);
    if (w->window)
        make_key_u32(m, "gemma3.attention.sliding_window", w->window == UINT32_MAX ? 0 : w->window);
    if (w->pattern)
        make_key_u32(m, "gemma3.attention.sliding_window_pattern", w->pattern);
    if (w->theta_local > 0)
        make_key_f32(m, "gemma3.rope.freq_base_swa", w->theta_local);
}

static void layers_differ_as_the_metadata_says(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof windowed / sizeof windowed[0]; i++) {
        const struct windowed *w = &windowed[i];
        struct make m;
        struct status st = {0};
        const struct arch *arch;
        struct model_config cfg;
        make_windowed(&m, w);
        struct gguf *g = gguf_open_memory(m.at, m.n, &st);
        const bool ok = g && config_read_gguf(g, &arch, &cfg, &st);
        if (ok != !w->message || (!ok && !strstr(st.msg, w->message)))
            fail_msg("%s: %s", w->name, st.msg);
        int32_t n_local = 0;
        for (int32_t il = 0; ok && il < cfg.n_layers; il++)
            n_local += cfg.is_local[il];
        if (ok) {
            assert_int_equal(n_local, w->n_local);
            assert_int_equal(cfg.window, w->window);
            assert_true(fabsf(cfg.attn_scale - w->attn_scale) < 1e-6f);
            assert_true(cfg.rope_theta == 1e6f && cfg.embed_scale == sqrtf((float)w->width));
            assert_true(cfg.rope_theta_local == (w->theta_local > 0 ? w->theta_local : 1e4f));
        }
        gguf_close(g);
        make_close(&m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_model_is_bound_with_its_numbers),
        cmocka_unit_test(optional_parts_are_taken_when_they_are_there),
        cmocka_unit_test(a_key_out_of_range_is_refused_by_name),
        cmocka_unit_test(linear_scaling_divides_positions),
        cmocka_unit_test(a_missing_key_is_named),
        cmocka_unit_test(layers_differ_as_the_metadata_says),
        cmocka_unit_test(a_tensor_of_another_shape_or_name_is_refused),
        cmocka_unit_test(more_tokens_than_the_table_has_rows_are_refused),
        cmocka_unit_test(loading_takes_the_bytes_counted_and_fills_every_slot),
    };
    return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
