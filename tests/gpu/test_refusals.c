/* What a GPU cannot run is refused before any weight is read, and `inferd check` says it in the
 * words of the engine; and what several cannot run before the ranks meet.
 *
 *     gpu_test_refusals */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/check.h"
#include "engine/load_watch.h"
#include "engine/ranks.h"
#include "kernels/backend.h"

enum { ALONE_S = 30 };

static char folder[] = "/tmp/inferd-refusals-XXXXXX";
static char config_path[64];

struct shape {
    int hidden, ffn, head_dim;
};

static void write_config(const struct shape *s)
{
    FILE *f = fopen(config_path, "w");
    assert_non_null(f);
    fprintf(
        f,
        "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"torch_dtype\": "
        "\"bfloat16\", \"hidden_act\": \"silu\", \"rms_norm_eps\": 1e-05, \"rope_theta\": 10000.0, "
        "\"max_position_embeddings\": 512, \"vocab_size\": 64, \"hidden_size\": %d, "
        "\"num_hidden_layers\": 1, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, "
        "\"head_dim\": %d, \"intermediate_size\": %d, \"tie_word_embeddings\": true}",
        s->hidden, s->head_dim, s->ffn);
    assert_int_equal(fclose(f), 0);
}

static struct engine_options options_on(const char *device)
{
    return (struct engine_options){.model_path = folder,
                                   .random_weights = true,
                                   .device = device,
                                   .n_threads = 1,
                                   .seqs_max = 1,
                                   .step_tokens_max = 16,
                                   .kv_blocks = 8};
}

static void note_read(void *ctx, uint64_t n_done, uint64_t n_total)
{
    (void)n_done, (void)n_total;
    *(bool *)ctx = true;
}

/* The engine's words; false when it starts. */
static bool engine_refuses(const struct engine_options *o, struct status *st)
{
    bool has_read = false;
    const struct load_watch watch = {.progress = note_read, .ctx = &has_read};
    struct ranks *r = ranks_open(o, &watch, st);
    ranks_close(r);
    if (!r && has_read)
        fail_msg("weights were read before: %s", st->msg);
    return !r;
}

static bool check_refuses(const struct engine_options *o, struct status *st)
{
    struct buf out;
    buf_init(&out, 1 << 16);
    const bool is_taken = check_model(o, &out, st);
    buf_close(&out);
    return !is_taken;
}

static void shapes_without_kernels_are_refused_alike_and_early(void **state)
{
    static const struct {
        struct shape shape;
        const char *says; /* NULL = taken */
    } rows[] = {
        {{64, 128, 64}, NULL},
        {{64, 128, 256}, NULL},
        {{64, 128, 72}, "CUDA: want heads of 64, 80, 96, 128 or 256 values, found 72"},
        {{60, 128, 64}, "CUDA: want widths that are multiples of 8, found 60"},
        {{64, 124, 64}, "CUDA: want widths that are multiples of 8, found 124"},
        {{64, 1028, 64}, "CUDA: want widths that are multiples of 8, found 1028"},
        {{16392, 128, 64}, "CUDA: want a width of at most 16384, found 16392"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct engine_options o = options_on("cuda"), cpu = options_on("cpu");
        struct status checked = {0}, opened = {0};
        char want[256] = "";
        write_config(&rows[i].shape);
        assert_false(check_refuses(&cpu, &checked)); /* a device that has no such limit */
        assert_int_equal(check_refuses(&o, &checked), rows[i].says != NULL);
        assert_int_equal(engine_refuses(&o, &opened), rows[i].says != NULL);
        if (rows[i].says)
            snprintf(want, sizeof want, "load model: %s", rows[i].says);
        assert_string_equal(checked.msg, rows[i].says ? rows[i].says : "");
        assert_string_equal(opened.msg, want);
        assert_int_equal(checked.code, rows[i].says ? STATUS_UNSUPPORTED : STATUS_OK);
    }
}

/* Nobody else comes to the group: a rank that met first would wait for minutes. */
static void all_in_f32_is_refused_before_ranks_meet(void **state)
{
    static const struct {
        const char *device, *rank_group;
        int n_tensor, n_stages, rank;
    } rows[] = {
        {"cuda", "refusals", 2, 1, 0}, {"cuda", "refusals", 2, 1, 1}, {"cuda", "refusals", 1, 2, 1},
        {"auto", "refusals", 1, 2, 0}, {"cuda", NULL, 2, 1, 0}, /* threads */
    };
    (void)state;
    write_config(&(struct shape){64, 128, 64});
    alarm(ALONE_S);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct status st = {0};
        struct engine_options o = options_on(rows[i].device);
        o.dtype = "f32";
        o.rank_group = rows[i].rank_group;
        o.rank = rows[i].rank;
        o.tensor_parallel = rows[i].n_tensor;
        o.layer_split = rows[i].n_stages;
        assert_true(engine_refuses(&o, &st));
        assert_int_equal(st.code, STATUS_UNSUPPORTED);
        assert_string_equal(st.msg,
                            "dtype: f32 runs on one cuda device, not with tensor-parallel or "
                            "layer-split");
    }
    alarm(0);
}

static void skip_without_device(void)
{
    struct status st = {0};
    const struct backend *backend = backend_find("cuda", &st);
    if (backend && backend->probe(NULL, &st))
        return;
    printf("skipped: %s\n", st.msg);
    exit(77);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shapes_without_kernels_are_refused_alike_and_early),
        cmocka_unit_test(all_in_f32_is_refused_before_ranks_meet),
    };
    skip_without_device();
    if (!mkdtemp(folder))
        return 1;
    snprintf(config_path, sizeof config_path, "%s/config.json", folder);
    const int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(config_path);
    rmdir(folder);
    return n_failed;
}
