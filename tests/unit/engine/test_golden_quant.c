/* A quantized folder has the weights that its own tool reads from it, bit for bit, and computes
 * with them what transformers does: every format that tests/golden/make_quant_hf.py writes. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "engine/model.h"
#include "engine/quant_folder.h"
#include "engine/shard.h"
#include "kernels/scheme.h"
#include "tests/unit/engine/drive.h"

enum { TOKENS = 16, VOCAB = 24, TOP = 20, COLS_MAX = 64, ROWS_MAX = 64, NAME = 64 };

static const struct {
    const char *name, *scheme;
} folders[] = {
    {"bnb-nf4-nested", "nf4, groups of 64, nested scales"},
    {"bnb-fp4", "fp4, groups of 64, f32 scales"},
    {"bnb-int8", "int8, a scale a row, f32 scales, activations in 8 bits but outliers"},
    {"gptq-int4", "int4, groups of 32, f16 scales"},
    {"gptq-int4-order", "int4, groups of 32, f16 scales, zero points, ordered columns"},
    {"gptq-int8-zeros", "int8, a scale a row, f16 scales, zero points"},
    {"gptq-int4-zeros", "int4, groups of 32, f16 scales, zero points"},
    {"awq-int4", "int4, groups of 32, f16 scales, zero points"},
    {"ct-int4-zeros", "int4, groups of 32, bf16 scales, zero points"},
    {"ct-int8", "int8, a scale a row, bf16 scales"},
    {"ct-w8a8", "int8, a scale a row, bf16 scales, activations in 8 bits"},
    {"ct-fp8", "fp8, a scale a row, bf16 scales, activations in fp8"},
    {"fp8-tensor", "fp8, a scale a row, f32 scales, activations in fp8"},
};
enum { N_FOLDERS = sizeof folders / sizeof folders[0] };

static void open_golden(struct model_file *f, const char *name)
{
    char path[256];
    struct status st = {0};
    snprintf(path, sizeof path, "tests/golden/quant/%s", name);
    if (!model_file_open(f, path, &st))
        fail_msg("%s", st.msg);
}

static FILE *open_file(const char *folder, const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "tests/golden/quant/%s/%s", folder, name);
    FILE *in = fopen(path, "rb");
    if (!in)
        fail_msg("cannot read %s: run from the source root", path);
    return in;
}

static void read_exactly(FILE *in, void *to, size_t n)
{
    assert_int_equal(fread(to, 1, n, in), n);
}

/* ---- rows ---- */

/* Rows [first, first + n) as floats rounded to `value`, columns in the model's order. */
static void read_rows_as(const struct weight *w, enum dtype value, int64_t first, int64_t n,
                         float *to)
{
    struct scheme scheme = *w->scheme;
    scheme.value = value;
    static uint8_t codes[ROWS_MAX * COLS_MAX];
    static float scales[ROWS_MAX * COLS_MAX], row[COLS_MAX];
    static int16_t zeros[ROWS_MAX * COLS_MAX];
    const int64_t groups = scheme_groups(w->scheme, w->cols);
    assert_true(n <= ROWS_MAX && w->cols <= COLS_MAX);
    memset(codes, 0xff, sizeof codes); /* what is not written is seen */
    const struct scheme_rows all = {codes, scales, w->scheme->has_zero ? zeros : NULL};
    w->source.rows(w->source.ctx, first, n, &all);
    for (int64_t r = 0; r < n; r++) {
        const struct scheme_rows one = {codes + r * w->cols, scales + r * groups,
                                        all.zeros ? zeros + r * groups : NULL};
        scheme_dequantize_row(&scheme, &one, w->cols, row);
        for (int64_t c = 0; c < w->cols; c++)
            to[r * w->cols + (w->source.order ? w->source.order[c] : c)] = row[c];
    }
}

static void read_rows(const struct weight *w, int64_t first, int64_t n, float *to)
{
    read_rows_as(w, w->scheme->value, first, n, to);
}

static uint64_t fnv1a(const float *row, int64_t n)
{
    uint64_t h = 0xcbf29ce484222325;
    for (int64_t c = 0; c < n; c++) {
        const float v = row[c] + 0; /* no negative zero */
        uint8_t bytes[4];
        memcpy(bytes, &v, 4);
        for (int i = 0; i < 4; i++)
            h = (h ^ bytes[i]) * 0x100000001b3;
    }
    return h;
}

static const struct weight *find(const struct model_file *f, const char *name)
{
    for (size_t i = 0; i < model_file_n_weights(f); i++)
        if (str_is(model_file_weight(f, i)->name, name))
            return model_file_weight(f, i);
    return NULL;
}

/* The tool multiplies by a rounded 1/127 after the scale, a scheme by the scale over 127. */
static void compare_values(FILE *in, const struct weight *w, const float *got)
{
    float want[COLS_MAX];
    for (int64_t r = 0; r < w->rows; r++) {
        read_exactly(in, want, (size_t)w->cols * sizeof *want);
        for (int64_t c = 0; c < w->cols; c++)
            assert_true(fabsf(got[r * w->cols + c] - want[c]) <= 0x1p-22f * fabsf(want[c]));
    }
}

static void compare_hashes(FILE *in, const struct weight *w, const float *got)
{
    for (int64_t r = 0; r < w->rows; r++) {
        uint64_t want;
        read_exactly(in, &want, sizeof want);
        if (fnv1a(got + r * w->cols, w->cols) != want)
            fail_msg("%.*s: row %lld differs", (int)w->name.n, w->name.at, (long long)r);
    }
}

static void compare_matrix(FILE *in, const struct model_file *f)
{
    static float all[ROWS_MAX * COLS_MAX], part[ROWS_MAX * COLS_MAX];
    struct {
        char name[NAME];
        int32_t rows, cols, values;
    } head;
    read_exactly(in, &head, sizeof head);
    const struct weight *w = find(f, head.name);
    assert_true(w && w->scheme && w->rows == head.rows && w->cols == head.cols);
    read_rows(w, 0, w->rows, all);
    if (head.values)
        compare_values(in, w, all);
    else
        compare_hashes(in, w, all);
    for (int64_t first = 0, n = 1; first < w->rows; first += n, n = n % 11 + 1) {
        n = n < w->rows - first ? n : w->rows - first;
        read_rows(w, first, n, part);
        assert_memory_equal(part, all + first * w->cols, (size_t)(n * w->cols) * sizeof *part);
    }
}

static void rows_are_those_of_the_tool_that_made_them(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_FOLDERS; i++) {
        struct model_file f;
        int32_t n;
        open_golden(&f, folders[i].name);
        FILE *in = open_file(folders[i].name, "rows.bin");
        read_exactly(in, &n, sizeof n);
        print_message("%-16s %d matrices\n", folders[i].name, n);
        while (n-- > 0)
            compare_matrix(in, &f);
        assert_int_equal(fgetc(in), EOF);
        fclose(in);
        model_file_close(&f);
    }
}

static void a_scheme_says_what_its_folder_has(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_FOLDERS; i++) {
        struct model_file f;
        char text[128];
        open_golden(&f, folders[i].name);
        const struct weight *w = find(&f, "model.layers.0.self_attn.q_proj.weight");
        assert_string_equal(scheme_describe(w->scheme, text, sizeof text), folders[i].scheme);
        assert_int_equal(w->dtype, w->scheme->codes);
        assert_true(w->scheme->act != ACTS_OUTLIERS || w->scheme->threshold == 5);
        assert_true(w->n_bytes < (size_t)(w->rows * w->cols) * 2); /* the parts, all of them */
        assert_true(w->n_bytes >= (size_t)(w->rows * w->cols) / 2);
        model_file_close(&f);
    }
}

static void skipped_modules_stay_plain(void **state)
{
    (void)state;
    static const struct {
        const char *folder, *name;
        enum dtype dtype;
    } plain[] = {
        {"bnb-fp4", "model.layers.0.mlp.up_proj.weight", DT_F16},
        {"ct-int4-zeros", "model.layers.0.self_attn.o_proj.weight", DT_BF16},
        {"awq-int4", "model.embed_tokens.weight", DT_F16},
    };
    for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++) {
        struct model_file f;
        open_golden(&f, plain[i].folder);
        const struct weight *w = find(&f, plain[i].name);
        assert_true(w && !w->scheme && w->dtype == plain[i].dtype);
        model_file_close(&f);
    }
}

/* ---- parts ---- */

/* Halves: of the rows or of the columns. */
static void compare_part(const struct weight *part, const struct weight *whole, int rank)
{
    static float all[ROWS_MAX * COLS_MAX], some[ROWS_MAX * COLS_MAX];
    const int64_t row = part->rows < whole->rows ? rank * part->rows : 0;
    const int64_t col = part->cols < whole->cols ? rank * part->cols : 0;
    assert_true(part->rows * part->cols * 2 == whole->rows * whole->cols);
    read_rows(whole, 0, whole->rows, all);
    read_rows(part, 0, part->rows, some);
    for (int64_t r = 0; r < part->rows; r++)
        assert_memory_equal(some + r * part->cols, all + (row + r) * whole->cols + col,
                            (size_t)part->cols * sizeof *some);
}

static int compare_parts(const struct model_file *f, const struct model_file *whole, int rank)
{
    int n = 0;
    for (size_t i = 0; i < f->n_bound; i++) {
        const struct weight *part = f->bound[i].src;
        for (size_t j = 0; part->scheme && j < whole->n_bound; j++)
            if (str_equal(whole->bound[j].src->name, part->name)) {
                compare_part(part, whole->bound[j].src, rank);
                n++;
            }
    }
    return n;
}

static void parts_have_the_values_of_the_whole(void **state)
{
    int n_divided = 0;
    (void)state;
    for (size_t i = 0; i < N_FOLDERS; i++) {
        for (int rank = 0; rank < 2; rank++) {
            struct model_file f, whole;
            struct status st = {0};
            open_golden(&f, folders[i].name);
            open_golden(&whole, folders[i].name);
            if (shard_model(&f, rank, 2, &st)) {
                assert_true(compare_parts(&f, &whole, rank) > 0);
                n_divided++;
            } else if (!strstr(st.msg, "are no whole groups of 64") &&
                       !strstr(st.msg, "in another order") && !strstr(st.msg, "want at most the 1 blocks")) {
                fail_msg("%s", st.msg);
            } else {
                print_message("%-16s rank %d: %s\n", folders[i].name, rank, st.msg);
            }
            model_file_close(&whole);
            model_file_close(&f);
        }
    }
    assert_true(n_divided >= 2 * 6);
}

/* ---- the whole model ---- */

/* The model's weights as float32, in a folder that is not quantized: how the readers are tested
 * whatever a device makes of schemes. */

static void write_config(const char *from, const char *to)
{
    char text[8192], path[256];
    FILE *in = open_file(from, "config.json");
    const size_t n = fread(text, 1, sizeof text - 1, in);
    fclose(in);
    text[n] = 0;
    char *key = strstr(text, "\"quantization_config\"");
    assert_non_null(key);
    memcpy(key, "\"quantization_before\"", 21); /* as long, and no key that anyone reads */
    snprintf(path, sizeof path, "%s/config.json", to);
    FILE *out = fopen(path, "wb");
    assert_true(out && fwrite(text, 1, n, out) == n && fclose(out) == 0);
}

static void write_header(FILE *out, const struct model_file *f)
{
    static char header[16384];
    size_t at = 0, n = 1;
    header[0] = '{';
    for (size_t i = 0; i < model_file_n_weights(f); i++) {
        const struct weight *w = model_file_weight(f, i);
        const size_t n_bytes = (size_t)(w->rows * w->cols) * sizeof(float);
        char shape[32];
        if (w->rows == 1)
            snprintf(shape, sizeof shape, "[%d]", (int)w->cols);
        else
            snprintf(shape, sizeof shape, "[%d,%d]", (int)w->rows, (int)w->cols);
        n += (size_t)snprintf(header + n, sizeof header - n,
                              "%s\"%.*s\":{\"dtype\":\"F32\",\"shape\":%s,"
                              "\"data_offsets\":[%zu,%zu]}",
                              i ? "," : "", (int)w->name.n, w->name.at, shape, at, at + n_bytes);
        at += n_bytes;
    }
    header[n++] = '}';
    const uint64_t length = n;
    assert_true(n < sizeof header && fwrite(&length, 8, 1, out) == 1 &&
                fwrite(header, n, 1, out) == 1);
}

static void write_weight(FILE *out, const struct weight *w, bool rounded)
{
    static float row[ROWS_MAX * COLS_MAX];
    const size_t row_bytes = w->scheme ? 0 : w->n_bytes / (size_t)w->rows;
    for (int64_t r = 0; r < w->rows; r++) {
        if (w->scheme)
            read_rows_as(w, rounded ? w->scheme->value : DT_F32, r, 1, row);
        else
            dequantize_row(w->dtype, (const char *)w->source.at + (size_t)r * row_bytes, row,
                           w->cols);
        assert_int_equal(fwrite(row, sizeof *row, (size_t)w->cols, out), w->cols);
    }
}

static void write_plain(const char *from, const char *to, bool rounded)
{
    struct model_file f;
    char path[256];
    open_golden(&f, from);
    write_config(from, to);
    snprintf(path, sizeof path, "%s/model.safetensors", to);
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    write_header(out, &f);
    for (size_t i = 0; i < model_file_n_weights(&f); i++)
        write_weight(out, model_file_weight(&f, i), rounded);
    assert_int_equal(fclose(out), 0);
    model_file_close(&f);
}

static void drop_plain(const char *folder)
{
    static const char *const names[] = {"config.json", "model.safetensors"};
    for (size_t i = 0; i < 2; i++) {
        char path[256];
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
    rmdir(folder);
}

struct golden {
    int32_t n, vocab, ids[TOKENS];
    float logprob[TOKENS][VOCAB]; /* of what follows each token */
};

struct run {                              /* what an engine says of the golden's tokens */
    double score[TOKENS - 1], top[VOCAB]; /* top: by id, 0 where there is none */
};

/* One prompt whose tokens are scored, and what comes after it. */
static void run_model(const char *folder, const struct golden *g, struct run *out)
{
    struct drive d;
    *out = (struct run){0};
    drive_open(&d, &(struct engine_options){.model_path = folder,
                                            .cpu_precision = "exact",
                                            .n_threads = 1,
                                            .seqs_max = 1,
                                            .step_tokens_max = 64,
                                            .context_max = 64,
                                            .kv_blocks = 8,
                                            .block_tokens = 16,
                                            .kv_dtype = "f32"});
    drive_begin(&d);
    struct drive_seq seq = drive_set(&d, 0, drive_greedy(TOP), TOKENS);
    drive_row(&d, &seq, ROW_SAMPLE | ROW_SCORE_NEXT, g->ids, TOKENS);
    const struct step_result *r = drive_run(&d);
    assert_int_equal(r->n_scores, TOKENS - 1);
    for (int i = 0; i < TOKENS - 1; i++)
        out->score[i] = step_result_scores(r)[i].logprob;
    const struct sample_out *token = &step_result_tokens(r)[0];
    assert_int_equal(token->n_top, TOP);
    for (int k = 0; k < TOP; k++)
        out->top[token->top_id[k]] = token->top_logprob[k];
    drive_close(&d);
}

/* What the same engine says of the model's weights as float32. */
static void run_plain(const char *name, bool rounded, const struct golden *g, struct run *out)
{
    char folder[] = "/tmp/inferd-test-XXXXXX";
    assert_non_null(mkdtemp(folder));
    write_plain(name, folder, rounded);
    run_model(folder, g, out);
    drop_plain(folder);
}

static void read_golden(const char *name, struct golden *g)
{
    FILE *in = open_file(name, "logprobs.bin");
    read_exactly(in, g, sizeof *g);
    fclose(in);
}

static void log_probabilities_are_those_of_transformers(void **state)
{
    (void)state;
    static struct golden g;
    for (size_t i = 0; i < N_FOLDERS; i++) {
        struct run r;
        double worst = 0;
        read_golden(folders[i].name, &g);
        run_plain(folders[i].name, true, &g, &r);
        for (int k = 0; k < TOKENS - 1; k++)
            worst = fmax(worst, fabs(r.score[k] - g.logprob[k][g.ids[k + 1]]));
        for (int id = 0; id < VOCAB; id++)
            if (r.top[id] != 0)
                worst = fmax(worst, fabs(r.top[id] - g.logprob[TOKENS - 1][id]));
        print_message("%-16s largest error of a log-probability %.2g\n", folders[i].name, worst);
        assert_true(worst < 1e-3);
    }
}

/* A device multiplies by values that are not rounded; where activations stay wide it must say what
 * float32 weights say.  Where they become 8 bits it is another computation, whose rounding these
 * small models make large: near is enough to see that the matrix arrived (a wrong one is off by
 * 40). */
static void a_device_computes_with_what_was_read(void **state)
{
    (void)state;
    static struct golden g;
    for (size_t i = 0; i < N_FOLDERS; i++) {
        struct run want, got;
        char path[256];
        double worst = 0;
        const double limit = strstr(folders[i].scheme, "activations") ? 2 : 1e-3;
        read_golden(folders[i].name, &g);
        run_plain(folders[i].name, false, &g, &want);
        snprintf(path, sizeof path, "tests/golden/quant/%s", folders[i].name);
        run_model(path, &g, &got);
        for (int k = 0; k < TOKENS - 1; k++)
            worst = fmax(worst, fabs(want.score[k] - got.score[k]));
        for (int id = 0; id < VOCAB; id++)
            if (want.top[id] != 0 && got.top[id] != 0)
                worst = fmax(worst, fabs(want.top[id] - got.top[id]));
        print_message("%-16s largest difference of a log-probability %.2g\n", folders[i].name,
                      worst);
        assert_true(worst < limit);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_scheme_says_what_its_folder_has),
        cmocka_unit_test(rows_are_those_of_the_tool_that_made_them),
        cmocka_unit_test(skipped_modules_stay_plain),
        cmocka_unit_test(parts_have_the_values_of_the_whole),
        cmocka_unit_test(log_probabilities_are_those_of_transformers),
        cmocka_unit_test(a_device_computes_with_what_was_read),
    };
    return cmocka_run_group_tests_name("golden quant", tests, NULL, NULL);
}
