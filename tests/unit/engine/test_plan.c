/* A plan counts what a model takes before anything is taken, bounds the context by the cache, and
 * refuses with numbers what does not fit. */
#include "engine/plan.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "engine/check.h"
#include "engine/gguf.h"
#include "engine/model.h"
#include "engine/quant_load.h"
#include "engine/shard.h"
#include "tests/unit/engine/tiny_model.h"

static const uint64_t GIB = 1ull << 30;

struct fixture {
    struct make m;
    struct model_file f;
    struct device *dev;
};

static int open_fixture(void **state)
{
    static struct fixture x;
    struct status st = {0};
    tiny_make(&x.m, &tiny_default);
    struct gguf *g = gguf_open_memory(x.m.at, x.m.n, &st);
    if (!g || !model_file_bind(&x.f, g, &st))
        return -1;
    x.dev = cpu_backend.open(&(struct device_options){.n_threads = 1}, &st);
    *state = &x;
    return x.dev ? 0 : -1;
}

static int close_fixture(void **state)
{
    struct fixture *x = *state;
    cpu_backend.ops->close(x->dev);
    model_file_close(&x->f);
    make_close(&x->m);
    return 0;
}

static bool plan(const struct fixture *x, struct plan *p, const struct engine_options *o,
                 uint64_t available, struct status *st)
{
    return plan_make(p, &x->f, o, cpu_backend.ops, x->dev,
                     (struct plan_memory){.device = available}, st);
}

/* 2 of (K, V) x 2 layers x 2 heads x 16 dimensions x 16 tokens x 2 bytes */
enum { BLOCK_BYTES = 2 * 2 * 2 * 16 * 16 * 2 };
/* ... x 16 tokens x (16 dimensions and a scale of 4 bytes) */
enum { BLOCK_BYTES_8 = 2 * 2 * 2 * 16 * (16 + 4) };

static void by_default_all_sequences_fit_at_full_context(void **state)
{
    struct plan p;
    struct status st = {0};
    assert_true(plan(*state, &p, &(struct engine_options){0}, GIB, &st));
    assert_int_equal(p.limits.seqs_max, 64);
    assert_int_equal(p.limits.step_tokens_max, 512);
    assert_int_equal(p.limits.block_tokens, 16);
    assert_int_equal(p.limits.context_max, 128);
    assert_int_equal(p.limits.vocab, 160);
    assert_int_equal(p.kv_dtype, DT_F16);
    assert_int_equal(p.kv_block_bytes, BLOCK_BYTES);
    assert_int_equal(p.limits.n_blocks, 64 * 128 / 16);
    assert_int_equal(p.kv_bytes, 512 * BLOCK_BYTES);
    assert_int_equal(p.total_bytes, p.weight_bytes + p.kv_bytes + p.activation_bytes +
                                        p.work_bytes + p.slot_bytes + p.record_bytes);
    assert_true(p.limits.history_max >= p.limits.context_max);
    assert_true(p.limits.bias_max >= STEP_BIAS_MAX);
}

static void each_stage_of_devices_has_sequences_of_its_own(void **state)
{
    static const struct {
        int n_stages, seqs;
    } rows[] = {{0, 256}, {2, 512}, {3, 768}, {16, 1024}};
    const struct fixture *x = *state;
    struct ops ops = *cpu_backend.ops;
    ops.host_memory = false;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct plan p;
        struct status st = {0};
        struct model_file f = x->f;
        f.cfg.n_stages = rows[i].n_stages;
        assert_true(plan_make(&p, &f, &(struct engine_options){0}, &ops, x->dev,
                              (struct plan_memory){.device = 8 * GIB, .host = 8 * GIB}, &st));
        assert_int_equal(p.limits.seqs_max, rows[i].seqs);
    }
}

static void the_cache_takes_at_most_a_quarter_of_memory(void **state)
{
    struct plan p;
    struct status st = {0};
    const struct engine_options o = {.seqs_max = 1024, .step_tokens_max = 16};
    const uint64_t available = 200 * (1 << 20);
    assert_true(plan(*state, &p, &o, available, &st));
    const int32_t wanted = 1024 * 8;
    assert_int_equal(p.limits.n_blocks, wanted); /* 64 MiB would be too much of 200 */
    assert_true(plan(*state, &p, &o, 100 * (1 << 20), &st));
    assert_int_equal(p.limits.n_blocks, 25 * (1 << 20) / BLOCK_BYTES);
    assert_string_equal(p.kv_from, "a quarter of free memory");
}

static void options_decide_over_defaults(void **state)
{
    struct plan p;
    struct status st = {0};
    struct engine_options o = {.kv_blocks = 7, .kv_bytes = GIB, .cpu_precision = "exact"};
    assert_true(plan(*state, &p, &o, GIB, &st));
    assert_int_equal(p.limits.n_blocks, 7);
    assert_int_equal(p.limits.context_max, 7 * 16); /* bounded by the cache */
    assert_string_equal(p.context_from, "the KV cache");
    assert_int_equal(p.kv_dtype, DT_F32);
    assert_int_equal(p.kv_block_bytes, 2 * BLOCK_BYTES);
    o = (struct engine_options){.kv_bytes = 10 * BLOCK_BYTES + 1, .kv_dtype = "bf16"};
    assert_true(plan(*state, &p, &o, GIB, &st));
    assert_int_equal(p.limits.n_blocks, 10);
    assert_int_equal(p.kv_dtype, DT_BF16);
    o = (struct engine_options){.kv_bytes = 10 * BLOCK_BYTES_8 + 1, .kv_dtype = "int8"};
    assert_true(plan(*state, &p, &o, GIB, &st));
    assert_int_equal(p.limits.n_blocks, 10);
    assert_int_equal(p.kv_dtype, DT_INT8);
    o.kv_dtype = "fp8";
    assert_true(plan(*state, &p, &o, GIB, &st));
    assert_int_equal(p.kv_block_bytes, BLOCK_BYTES_8);
    assert_int_equal(p.kv_dtype, DT_FP8);
    o = (struct engine_options){.context_max = 40, .seqs_max = 3, .block_tokens = 8};
    assert_true(plan(*state, &p, &o, GIB, &st));
    assert_int_equal(p.limits.n_blocks, 3 * 5);
    assert_int_equal(p.limits.context_max, 40);
}

static void words_for_another_device_are_refused(void **state)
{
    static const struct {
        struct engine_options o;
        const char *says; /* NULL = taken */
    } table[] = {
        {{.device = "cpu", .dtype = "bf16"}, "dtype: has a meaning on device cuda, not on cpu"},
        {{.device = "cpu", .dtype = "f32"}, "dtype: has a meaning on device cuda, not on cpu"},
        {{.device = "cuda", .dtype = "f32"}, NULL},
        {{.device = "cuda", .dtype = "float32"},
         "dtype: want auto, bf16, f16 or f32, found float32"},
        {{.device = "cpu", .device_index = 3}, "device-index"},
        {{.device = "cpu", .gpu_memory = 0.5}, "gpu-memory"},
        {{.device = "cuda", .cpu_precision = "exact"}, "cpu-precision"},
        {{.device = "cuda", .cpu_isa = "avx2"},
         "cpu-isa: has a meaning on device cpu, not on cuda"},
        {{.device = "cpu", .dtype = "auto", .gpu_memory = 0.92, .cpu_precision = "exact"}, NULL},
        {{.device = "auto", .dtype = "f16", .cpu_precision = "exact", .gpu_memory = 0.5}, NULL},
    };
    const struct fixture *x = *state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct device_options d;
        struct status st = {0};
        const bool ok = plan_device_options(&x->f, &table[i].o, &d, &st);
        assert_int_equal(ok, table[i].says == NULL);
        if (!ok && !strstr(st.msg, table[i].says))
            fail_msg("want \"%s\", got \"%s\"", table[i].says, st.msg);
    }
}

static void words_for_another_device_than_was_found_are_told(void **state)
{
    static const struct {
        struct engine_options o;
        const char *device;
        int n_ranks;
        const char *names;
    } table[] = {
        {{.device = "auto",
          .dtype = "f16",
          .gpu_memory = 0.1,
          .device_index = 7,
          .cpu_isa = "avx2"},
         "cpu",
         1,
         "dtype, device-index, gpu-memory"},
        {{.dtype = "f16", .cpu_precision = "exact", .cpu_isa = "avx2"},
         "cuda",
         2,
         "cpu-precision, cpu-isa"},
        {{.device = "cuda", .no_peer_memory = true}, "cuda", 1, "peer-memory"},
        {{.device = "cuda", .no_peer_memory = true}, "cuda", 2, ""},
        {{.device = "auto", .dtype = "auto", .gpu_memory = 0.92, .cpu_precision = "fast"},
         "cuda",
         1,
         ""},
    };
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct buf names;
        buf_init(&names, 512);
        plan_idle_options(&table[i].o, table[i].device, table[i].n_ranks, &names);
        assert_string_equal(names.at ? names.at : "", table[i].names);
        buf_close(&names);
    }
}

/* The CPU's ops stand for a device: their activations are f32, too. */
static void all_in_f32_is_for_one_device_and_activations_as_they_are(void **state)
{
    static const struct {
        int n_ranks, n_stages;
        const char *quantize, *says; /* NULL = taken */
    } rows[] = {
        {1, 1, NULL, NULL},
        {1, 1, "int4", NULL},
        {1, 1, "w8a16", NULL},
        {2, 1, NULL, "dtype: f32 runs on one cpu device, not with tensor-parallel or layer-split"},
        {1, 2, NULL, "dtype: f32 runs on one cpu device, not with tensor-parallel or layer-split"},
        {1, 1, "int8", "dtype: f32 rounds no activations, and the quantization of "},
        {1, 1, "fp8", "_proj.weight rounds them to 8 bits"},
    };
    const struct fixture *x = *state;
    struct ops ops = *cpu_backend.ops;
    ops.host_memory = false;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct plan p;
        struct model_file f;
        struct status st = {0};
        const struct engine_options o = {
            .dtype = "f32", .quantize = rows[i].quantize, .kv_blocks = 8, .seqs_max = 1};
        assert_true(model_file_open_random(&f, "tests/bench/shapes/llama-3.2-1b", &st));
        assert_true(quant_load_apply(&f, &o, &st));
        f.cfg.n_ranks = rows[i].n_ranks;
        f.cfg.n_stages = rows[i].n_stages;
        const bool ok = plan_make(&p, &f, &o, &ops, x->dev,
                                  (struct plan_memory){.device = 64 * GIB, .host = 8 * GIB}, &st);
        assert_int_equal(ok, rows[i].says == NULL);
        if (!ok && !strstr(st.msg, rows[i].says))
            fail_msg("want \"%s\", got \"%s\"", rows[i].says, st.msg);
        if (ok)
            assert_int_equal(p.kv_dtype, DT_F32);
        model_file_close(&f);
    }
}

static bool wants_wide_heads(const struct device *dev, const struct device_limits *l,
                             struct status *st)
{
    (void)dev;
    return l->head_dim > 16 ||
           status_fail(st, STATUS_UNSUPPORTED, "want heads of more than 16 values");
}

static void what_the_device_has_no_kernels_for_is_refused_whatever_memory_there_is(void **state)
{
    const struct fixture *x = *state;
    struct ops ops = *cpu_backend.ops;
    const struct engine_options o = {.kv_blocks = 8};
    ops.limits_fit = wants_wide_heads;
    for (uint64_t available = 1 << 20; available <= GIB; available <<= 10) {
        struct plan p;
        struct status st = {0};
        uint64_t rest, kv_layer;
        assert_false(
            plan_make(&p, &x->f, &o, &ops, x->dev, (struct plan_memory){.device = available}, &st));
        assert_int_equal(st.code, STATUS_UNSUPPORTED);
        assert_string_equal(st.msg, "want heads of more than 16 values");
        st = (struct status){0};
        assert_false(plan_shares(&x->f, &o, &ops, x->dev, &rest, &kv_layer, &st));
        assert_int_equal(st.code, STATUS_UNSUPPORTED);
    }
}

static void what_does_not_fit_is_refused_with_numbers(void **state)
{
    static const struct {
        const char *name;
        struct engine_options o;
        uint64_t available;
        enum status_code code;
        const char *message;
    } rows[] = {
        {"pool smaller than one request",
         {.kv_blocks = 3, .context_max = 49},
         1ull << 30,
         STATUS_TOO_LARGE,
         "KV cache (kv-blocks): want 49 tokens (1 MiB), room for 48; weights 0, the rest "},
        {"no block",
         {.kv_bytes = 100},
         1ull << 30,
         STATUS_TOO_LARGE,
         "KV cache (kv-memory): want 16 tokens (1 MiB), room for 0; weights 0, the rest "},
        {"no memory", {.kv_blocks = 8}, 1 << 20, STATUS_TOO_LARGE, "MiB (weights 0, KV cache 0"},
        {"more context than trained",
         {.context_max = 129},
         1ull << 30,
         STATUS_BAD_INPUT,
         "max-context: want 0 to 128, found 129"},
        {"sequences",
         {.seqs_max = 1025},
         1ull << 30,
         STATUS_BAD_INPUT,
         "max-seqs: want 0 to 1024, found 1025"},
        {"sequences below 0", {.seqs_max = -1}, 1ull << 30, STATUS_BAD_INPUT, "found -1"},
        {"step",
         {.step_tokens_max = 65537},
         1ull << 30,
         STATUS_BAD_INPUT,
         "max-step-tokens: want 0 to 65536, found 65537"},
        {"block",
         {.block_tokens = 257},
         1ull << 30,
         STATUS_BAD_INPUT,
         "block-tokens: want 0 to 256"},
        {"blocks", {.kv_blocks = INT32_MAX}, 1ull << 30, STATUS_BAD_INPUT, "kv-blocks: want 0 to"},
        {"precision",
         {.cpu_precision = "exactly"},
         1ull << 30,
         STATUS_BAD_INPUT,
         "cpu-precision: want fast or exact, found exactly"},
        {"dtype",
         {.kv_dtype = "q8_0"},
         1ull << 30,
         STATUS_BAD_INPUT,
         "kv-dtype: want auto, f32, f16, bf16, int8 or fp8, found q8_0"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct plan p;
        struct status st = {0};
        if (plan(*state, &p, &rows[i].o, rows[i].available, &st) || st.code != rows[i].code ||
            !strstr(st.msg, rows[i].message))
            fail_msg("%s: %s: %s", rows[i].name, status_name(st.code), st.msg);
    }
}

/* A device that holds weights as a checkpoint would. */
static size_t stored_bytes(const struct device *d, const struct tensor *w)
{
    size_t n = 0;
    (void)d;
    if (w->scheme)
        return scheme_bytes(w->scheme, w->rows, w->cols);
    assert_true(tensor_file_bytes(w->dtype, w->rows, w->cols, &n));
    return n;
}

static bool plan_1b_rank(struct plan *p, const struct engine_options *o, int n_ranks,
                         struct plan_memory available, struct status *st)
{
    struct model_file f;
    struct ops ops = *cpu_backend.ops;
    ops.weight_bytes = stored_bytes;
    assert_true(model_file_open_random(&f, "tests/bench/shapes/llama-3.2-1b", st));
    struct device *dev = cpu_backend.open(&(struct device_options){.n_threads = 1}, st);
    const bool fits = shard_model(&f, 0, n_ranks, st) && quant_load_apply(&f, o, st) &&
                      plan_make(p, &f, o, &ops, dev, available, st);
    ops.close(dev);
    model_file_close(&f);
    return fits;
}

static bool plan_1b(struct plan *p, const struct engine_options *o, uint64_t available,
                    struct status *st)
{
    return plan_1b_rank(p, o, 1, (struct plan_memory){.device = available}, st);
}

static void what_would_fit_is_offered(void **state)
{
    (void)state;
    static const struct {
        int n_blocks;
        const char *layers, *head, *kv, *says;
    } rows[] = {
        {8, "int8", NULL, NULL, "--quantize int8"},
        {8, "int4", NULL, NULL, "--quantize int4"},
        {8, NULL, "int8", NULL, "--quantize-head int8"},
        {8, "int8", "int8", NULL, "--quantize int8 --quantize-head int8"},
        {8, "int4", "int8", NULL, "--quantize int4 --quantize-head int8"},
        {4096, NULL, NULL, "int8", "--kv-dtype int8"},
        {4096, NULL, "int8", "int8", "--quantize-head int8 --kv-dtype int8"},
        {4096, "int8", "int8", "int8", "--quantize int8 --quantize-head int8 --kv-dtype int8"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct plan p, full;
        struct status st = {0};
        char want[128];
        struct engine_options o = {
            .kv_blocks = rows[i].n_blocks, .seqs_max = 1, .step_tokens_max = 16};
        struct engine_options with = o;
        with.quantize = rows[i].layers;
        with.quantize_head = rows[i].head;
        with.kv_dtype = rows[i].kv;
        if (!plan_1b(&p, &with, 8 * GIB, &st))
            fail_msg("%s", st.msg);
        /* With as many bytes as that takes, and no more, the full model does not fit. */
        assert_false(plan_1b(&full, &o, p.total_bytes, &st));
        snprintf(want, sizeof want, "; fits with %s (%llu MiB)", rows[i].says,
                 (unsigned long long)(p.total_bytes >> 20));
        if (!strstr(st.msg, want) || !strstr(st.msg, "MiB free"))
            fail_msg("no \"%s\" in: %s", want, st.msg);
    }
}

/* With numbers of seven digits, of a device that is one of many, in the front's context or in what
 * a rank tells the others. */
static void the_longest_offer_is_said_whole(void **state)
{
    (void)state;
    enum { TOLD_BYTES = 199 }; /* kernels/comm_wire.h */
    struct plan p;
    struct status st = {0};
    const struct engine_options o = {
        .kv_blocks = (8 << 20) - 1, .seqs_max = 1, .step_tokens_max = 16, .block_tokens = 32};
    struct engine_options all = o;
    all.quantize = "int4";
    all.quantize_head = all.kv_dtype = "int8";
    if (!plan_1b(&p, &all, UINT64_MAX / 2, &st))
        fail_msg("%s", st.msg);
    const struct plan_memory available = {
        .device = p.total_bytes, .rank = 15, .is_capped = true, .host = UINT64_MAX / 2};
    char end[128];
    snprintf(end, sizeof end,
             "; fits with --quantize int4 --quantize-head int8 --kv-dtype int8 (%llu MiB)",
             (unsigned long long)(p.total_bytes >> 20));
    assert_true(p.total_bytes >> 20 > 1000000);
    assert_false(plan_1b_rank(&p, &o, 1, available, &st));
    assert_non_null(strstr(st.msg, "device 15 may hold "));
    status_wrap(&st, "load model");
    assert_true(strlen(st.msg) <= TOLD_BYTES);
    status_wrap(&st, "layer-split auto: stage 15 of 16, layers 119 to 127");
    status_wrap(&st, "load model");
    status_wrap(&st, "engine");
    assert_string_equal(st.msg + strlen(st.msg) - strlen(end), end);
    /* And where the cache is all that has no room. */
    const struct engine_options long_one = {
        .context_max = 131072, .seqs_max = 1, .step_tokens_max = 16};
    st = (struct status){0};
    assert_false(plan_1b_rank(
        &p, &long_one, 1,
        (struct plan_memory){.device = 3072ull << 20, .rank = 15, .is_capped = true}, &st));
    assert_non_null(strstr(st.msg, "KV cache: want 131072 tokens"));
    assert_non_null(strstr(st.msg, ", device 15 may hold 3072 MiB; fits with --quantize int4 "
                                   "--quantize-head int8 --kv-dtype int8 ("));
    status_wrap(&st, "load model");
    assert_true(strlen(st.msg) <= TOLD_BYTES);
}

/* A cache for which nothing is left, or a part that is too small: what takes the rest is named, and
 * what would make room. */
static void a_cache_without_room_is_refused_with_the_weights_and_what_is_free(void **state)
{
    static const struct {
        bool on_host;
        struct engine_options o;
        uint64_t available_mib;
        const char *says[3];
    } rows[] = {
        {false,
         {.seqs_max = 1, .step_tokens_max = 16},
         2048,
         {"KV cache: want 16 tokens (1 MiB), room for 0; weights 2357, the rest ",
          ", found 2048 MiB free", "; fits with --quantize int8 ("}},
        {false,
         {.seqs_max = 1, .step_tokens_max = 16, .context_max = 131072},
         4096,
         {"KV cache: want 131072 tokens (8192 MiB), room for ", "; weights 2357, the rest ",
          ", found 4096 MiB free; fits with --quantize int8 --kv-dtype int8 ("}},
        {true,
         {.seqs_max = 1, .step_tokens_max = 16, .context_max = 131072},
         9216,
         {"KV cache: want 131072 tokens (4096 MiB), room for 73728; weights 2357, the rest ",
          ", a quarter of 9216 MiB free; fits with --kv-dtype int8 (", ""}},
    };
    (void)state;
    struct device *dev = cpu_backend.open(&(struct device_options){.n_threads = 1}, NULL);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct plan p;
        struct status st = {0};
        struct model_file f;
        struct ops ops = *cpu_backend.ops;
        ops.weight_bytes = stored_bytes;
        ops.host_memory = rows[i].on_host;
        assert_true(model_file_open_random(&f, "tests/bench/shapes/llama-3.2-1b", &st));
        assert_false(plan_make(
            &p, &f, &rows[i].o, &ops, dev,
            (struct plan_memory){.device = rows[i].available_mib << 20, .host = 8 * GIB}, &st));
        assert_int_equal(st.code, STATUS_TOO_LARGE);
        for (int k = 0; k < 3; k++)
            if (!strstr(st.msg, rows[i].says[k]))
                fail_msg("no \"%s\" in: %s", rows[i].says[k], st.msg);
        model_file_close(&f);
    }
    cpu_backend.ops->close(dev);
}

static void what_was_chosen_is_not_offered_again(void **state)
{
    (void)state;
    struct plan p;
    struct status st = {0};
    struct engine_options o = {
        .quantize = "int8", .kv_blocks = 4096, .seqs_max = 1, .step_tokens_max = 16};
    assert_true(plan_1b(&p, &o, 8 * GIB, &st));
    assert_false(plan_1b(&p, &o, p.total_bytes - 1, &st));
    assert_non_null(strstr(st.msg, "; fits with --kv-dtype int8 ("));
    o.kv_dtype = "fp8";
    st = (struct status){0};
    assert_true(plan_1b(&p, &o, 8 * GIB, &st));
    assert_false(plan_1b(&p, &o, p.total_bytes - 1, &st));
    assert_non_null(strstr(st.msg, "; fits with --quantize-head int8 ("));
    o.kv_dtype = "f16"; /* as exact as it is wanted */
    st = (struct status){0};
    assert_true(plan_1b(&p, &o, 8 * GIB, &st));
    assert_false(plan_1b(&p, &o, p.total_bytes - 1, &st));
    assert_non_null(strstr(st.msg, "; fits with --quantize-head int8 ("));
    o.quantize_head = "nf4";
    st = (struct status){0};
    assert_true(plan_1b(&p, &o, 8 * GIB, &st));
    assert_false(plan_1b(&p, &o, p.total_bytes - 1, &st));
    assert_null(strstr(st.msg, "fits with"));
    st = (struct status){0};
    assert_false(plan_1b(&p, &(struct engine_options){.kv_blocks = 8}, 1 << 20, &st));
    assert_null(strstr(st.msg, "fits with"));
}

static void weights_are_listed_by_scheme(void **state)
{
    (void)state;
    struct plan p;
    struct status st = {0};
    struct buf out;
    buf_init(&out, 1 << 16);
    const struct engine_options o = {.quantize = "int4", .quantize_skip = "v_proj"};
    assert_true(plan_1b(&p, &o, 4 * GIB, &st));
    uint64_t sum = p.weights.vector_bytes;
    for (int i = 0; i < p.weights.n_kinds; i++)
        sum += p.weights.kind[i].n_bytes;
    assert_true(sum <= p.weight_bytes && sum + 4096 > p.weight_bytes);
    plan_print(&p, &out);
    static const char *const words[] = {
        "533.0 MiB  17 matrices: bf16", /* 128256 x 2048, and v of 512 x 2048 sixteen times */
        "470.2 MiB  96 matrices: int4, groups of 128, f16 scales",
        "0.3 MiB  33 vectors",
    };
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (!strstr(out.at, words[i]))
            fail_msg("no \"%s\" in:\n%s", words[i], out.at);
    buf_close(&out);
}

static void the_widest_input_with_outliers_is_a_limit(void **state)
{
    enum { HIDDEN = 2048, FFN = 8192 };
    static const struct {
        const char *name;
        struct engine_options o;
        int n_ranks, columns;
    } rows[] = {
        {"nothing quantized", {.quantize = NULL}, 1, 0},
        {"all layers", {.quantize = "int8"}, 1, FFN},
        {"all but down", {.quantize = "int8", .quantize_skip = "down_proj"}, 1, HIDDEN},
        {"the head", {.quantize_head = "int8"}, 1, HIDDEN},
        {"down in other codes", {.quantize = "w8a16", .quantize_head = "int8"}, 1, HIDDEN},
        {"no value is an outlier", {.quantize = "int8:threshold=0"}, 1, 0},
        {"wide activations", {.quantize = "w8a16"}, 1, 0},
        {"half of down", {.quantize = "int8"}, 2, FFN / 2},
        {"an eighth of down, and all of gate", {.quantize = "int8"}, 8, HIDDEN},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct plan p;
        struct status st = {0};
        struct engine_options o = rows[i].o;
        o.kv_blocks = 8;
        o.seqs_max = 1;
        o.step_tokens_max = 16;
        if (!plan_1b_rank(&p, &o, rows[i].n_ranks, (struct plan_memory){.device = 4 * GIB}, &st))
            fail_msg("%s: %s", rows[i].name, st.msg);
        if (p.device.in_outliers_max != rows[i].columns)
            fail_msg("%s: want %d columns, found %d", rows[i].name, rows[i].columns,
                     p.device.in_outliers_max);
    }
}

static void the_table_names_every_part(void **state)
{
    struct plan p;
    struct status st = {0};
    struct buf out;
    buf_init(&out, 1 << 16);
    assert_true(plan(*state, &p, &(struct engine_options){0}, GIB, &st));
    plan_print(&p, &out);
    static const char *const words[] = {"weights",
                                        "KV cache",
                                        "512 blocks of 16 tokens, f16",
                                        "f32, 512 tokens a step, ",
                                        "work",
                                        "slots",
                                        "records",
                                        "total",
                                        "of 1024.0 MiB free",
                                        "context      128 tokens",
                                        "cache        8192 tokens",
                                        "sequences    64"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (!strstr(out.at, words[i]))
            fail_msg("no \"%s\" in:\n%s", words[i], out.at);
    buf_close(&out);
}

static enum dtype is_bf16(const struct device *dev)
{
    (void)dev;
    return DT_BF16;
}

/* A total of both would be more than the device has, and yet fit. */
static void what_a_device_has_is_compared_with_what_lies_there(void **state)
{
    const struct fixture *x = *state;
    struct plan p;
    struct status st = {0};
    struct buf out;
    struct ops ops = *cpu_backend.ops;
    char device[64], host[64];
    buf_init(&out, 1 << 16);
    ops.host_memory = false;
    ops.act_dtype = is_bf16;
    assert_true(plan_make(&p, &x->f,
                          &(struct engine_options){.kv_blocks = 8, .step_tokens_max = 512}, &ops,
                          x->dev, (struct plan_memory){.device = GIB, .host = GIB}, &st));
    plan_print(&p, &out);
    assert_int_equal(p.device_bytes,
                     p.weight_bytes + p.kv_bytes + p.activation_bytes + p.work_bytes);
    assert_true(p.record_bytes >> 20 > 0);
    snprintf(device, sizeof device, "  total        %10.1f MiB  of 1024.0 MiB free\n",
             (double)p.device_bytes / (1 << 20));
    snprintf(host, sizeof host, "  records      %10.1f MiB  2 steps in flight, on the host\n",
             (double)p.record_bytes / (1 << 20));
    const char *const words[] = {device, host, " sequences, on the host\n",
                                 "  bf16, 512 tokens a step, "};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (!strstr(out.at, words[i]))
            fail_msg("no \"%s\" in:\n%s", words[i], out.at);
    assert_true(strstr(out.at, "  total ") < strstr(out.at, "  slots "));
    buf_close(&out);
}

static void a_check_prints_the_file_and_the_plan(void **state)
{
    const struct fixture *x = *state;
    char path[] = "/tmp/inferd-check-XXXXXX";
    struct status st = {0};
    struct buf out;
    buf_init(&out, 1 << 16);
    close(mkstemp(path));
    make_write(&x->m, path);
    const struct engine_options o = {
        .model_path = path, .n_threads = 1, .device = "cpu", .cpu_isa = "scalar"};
    assert_true(check_model(&o, &out, &st));
    static const char *const words[] = {
        "family       llama",    "layers       2", "width        64",
        "4 query, 2 key, of 16", "output tied",    "f32       20",
        "template     none",     "KV cache",       "total",
        "cpu          scalar"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (!strstr(out.at, words[i]))
            fail_msg("no \"%s\" in:\n%s", words[i], out.at);
    buf_close(&out);
    unlink(path);
    assert_false(check_model(&o, &out, &st));
    assert_non_null(strstr(st.msg, path));
    buf_close(&out);
}

static void a_check_of_random_weights_reads_no_file_of_them(void **state)
{
    (void)state;
    static const char *const words[] = {"BF16", "weights are random", "  weights ",
                                        "sequences    1 at once"};
    for (int n_ranks = 1; n_ranks <= 2; n_ranks++) {
        struct status st = {0};
        struct buf out;
        buf_init(&out, 1 << 16);
        const struct engine_options o = {.model_path = "tests/bench/shapes/llama-3.2-1b",
                                         .random_weights = true,
                                         .device = "cpu",
                                         .tensor_parallel = n_ranks,
                                         .seqs_max = 1,
                                         .kv_blocks = 8,
                                         .n_threads = 1};
        if (!check_model(&o, &out, &st))
            fail_msg("%s", st.msg);
        for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
            if (!strcasestr(out.at, words[i]))
                fail_msg("no \"%s\" in:\n%s", words[i], out.at);
        buf_close(&out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(by_default_all_sequences_fit_at_full_context),
        cmocka_unit_test(each_stage_of_devices_has_sequences_of_its_own),
        cmocka_unit_test(the_cache_takes_at_most_a_quarter_of_memory),
        cmocka_unit_test(options_decide_over_defaults),
        cmocka_unit_test(words_for_another_device_are_refused),
        cmocka_unit_test(words_for_another_device_than_was_found_are_told),
        cmocka_unit_test(all_in_f32_is_for_one_device_and_activations_as_they_are),
        cmocka_unit_test(what_the_device_has_no_kernels_for_is_refused_whatever_memory_there_is),
        cmocka_unit_test(what_does_not_fit_is_refused_with_numbers),
        cmocka_unit_test(what_would_fit_is_offered),
        cmocka_unit_test(the_longest_offer_is_said_whole),
        cmocka_unit_test(a_cache_without_room_is_refused_with_the_weights_and_what_is_free),
        cmocka_unit_test(what_was_chosen_is_not_offered_again),
        cmocka_unit_test(weights_are_listed_by_scheme),
        cmocka_unit_test(the_widest_input_with_outliers_is_a_limit),
        cmocka_unit_test(the_table_names_every_part),
        cmocka_unit_test(what_a_device_has_is_compared_with_what_lies_there),
        cmocka_unit_test(a_check_prints_the_file_and_the_plan),
        cmocka_unit_test(a_check_of_random_weights_reads_no_file_of_them),
    };
    return cmocka_run_group_tests_name("plan", tests, open_fixture, close_fixture);
}
