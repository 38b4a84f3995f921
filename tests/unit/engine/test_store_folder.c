/* A quantized folder is there whole or not at all, its bytes do not depend on threads, its tensors
 * lie as its headers and index say, and they are what quantize_row makes.  (That other programs
 * read it: tests/golden/check_quantize.py.) */
#include "engine/store_folder.h"

#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cjson/cJSON.h>
#include <cmocka.h>

#include "engine/model.h"
#include "kernels/half.h"
#include "kernels/quantize.h"
#include "tests/unit/engine/tiny_model.h"

enum { HIDDEN = 64, HEADS = 4, KV_HEADS = 2, HEAD_DIM = 16, FFN = 128, VOCAB = 160, LAYERS = 2 };
enum { PATH = 256, FILE_MAX = 1 << 20 };

static char root[] = "/tmp/inferd-store-XXXXXX";

static const char *path_of(const char *name)
{
    static char paths[8][PATH];
    static int n;
    char *path = paths[n++ % 8];
    snprintf(path, PATH, "%s/%s", root, name);
    return path;
}

static void write_file(const char *path, const void *bytes, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
}

static char *read_file(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    char *bytes = malloc(FILE_MAX + 1);
    if (!f)
        fail_msg("no %s", path);
    *n = fread(bytes, 1, FILE_MAX, f);
    bytes[*n] = 0;
    fclose(f);
    return bytes;
}

/* ---- the source: a folder of f32 weights ---- */

static const char config[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":64,\"num_hidden_layers\":2,"
    "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":16,"
    "\"intermediate_size\":128,\"max_position_embeddings\":128,\"vocab_size\":160,"
    "\"rms_norm_eps\":1e-05,\"rope_theta\":10000.0,\"tie_word_embeddings\":%s%s}\n";

struct source {
    struct buf header, data;
    uint64_t random;
};

static float *values_at(const struct source *s, size_t at)
{
    return (float *)(void *)(s->data.at + at);
}

static void put_weight(struct source *s, const char *name, int rows, int cols)
{
    const size_t first = s->data.n;
    for (int i = 0; i < rows * cols; i++) {
        const float v =
            0.05f * (float)((double)(int64_t)make_random(&s->random) / 9223372036854775808.0);
        buf_put(&s->data, &v, sizeof v);
    }
    buf_printf(&s->header, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[", s->header.n ? "," : "{",
               name);
    if (rows > 1)
        buf_printf(&s->header, "%d,", rows);
    buf_printf(&s->header, "%d],\"data_offsets\":[%zu,%zu]}", cols, first, s->data.n);
}

static void put_layer(struct source *s, int il)
{
    static const struct {
        const char *name;
        int rows, cols;
    } list[] = {
        {"input_layernorm", 1, HIDDEN},
        {"self_attn.q_proj", HEADS * HEAD_DIM, HIDDEN},
        {"self_attn.k_proj", KV_HEADS * HEAD_DIM, HIDDEN},
        {"self_attn.v_proj", KV_HEADS * HEAD_DIM, HIDDEN},
        {"self_attn.o_proj", HIDDEN, HEADS * HEAD_DIM},
        {"post_attention_layernorm", 1, HIDDEN},
        {"mlp.gate_proj", FFN, HIDDEN},
        {"mlp.up_proj", FFN, HIDDEN},
        {"mlp.down_proj", HIDDEN, FFN},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        char name[96];
        snprintf(name, sizeof name, "model.layers.%d.%s.weight", il, list[i].name);
        put_weight(s, name, list[i].rows, list[i].cols);
    }
}

static void source_make(struct source *s)
{
    *s = (struct source){.random = 5};
    buf_init(&s->header, FILE_MAX);
    buf_init(&s->data, FILE_MAX);
    put_weight(s, "model.embed_tokens.weight", VOCAB, HIDDEN);
    for (int il = 0; il < LAYERS; il++)
        put_layer(s, il);
    put_weight(s, "model.norm.weight", 1, HIDDEN);
    put_weight(s, "lm_head.weight", VOCAB, HIDDEN);
    buf_put_str(&s->header, "}");
}

static void put_config(const char *folder, bool tied, const char *more)
{
    char path[PATH], text[1024];
    snprintf(path, sizeof path, "%s/config.json", folder);
    const int n = snprintf(text, sizeof text, config, tied ? "true" : "false", more);
    write_file(path, text, (size_t)n);
}

static void source_write(const struct source *s, const char *folder)
{
    char path[PATH];
    struct buf file;
    const uint64_t n = s->header.n;
    buf_init(&file, FILE_MAX);
    mkdir(folder, 0755);
    put_config(folder, false, "");
    buf_put(&file, &n, sizeof n);
    buf_put(&file, s->header.at, s->header.n);
    buf_put(&file, s->data.at, s->data.n);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    write_file(path, file.at, file.n);
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    write_file(path, "{\"a\": 1}\n", 9);
    buf_close(&file);
}

static void source_close(struct source *s)
{
    buf_close(&s->header);
    buf_close(&s->data);
}

static void make_plain(const char *folder)
{
    struct source s;
    source_make(&s);
    source_write(&s, folder);
    source_close(&s);
}

static void remove_folder(const char *folder)
{
    DIR *dir = opendir(folder);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        char path[PATH * 2];
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
            unlink(path);
    }
    if (dir)
        closedir(dir);
    rmdir(folder);
}

static int n_entries(const char *folder)
{
    DIR *dir = opendir(folder);
    int n = 0;
    while (dir && readdir(dir))
        n++;
    closedir(dir);
    return n - 2;
}

static bool store(struct store_options o, struct status *st)
{
    struct buf summary;
    buf_init(&summary, 1 << 16);
    const bool ok = store_folder(&o, &summary, st);
    assert_true(ok == (summary.n > 0));
    buf_close(&summary);
    return ok;
}

static void must_store(struct store_options o)
{
    struct status st = {0};
    if (!store(o, &st))
        fail_msg("%s: %s", o.scheme, st.msg);
}

/* ---- reading it back ---- */

struct file {
    char *bytes;
    size_t n;
    struct cJSON *header;
    const char *data;
};

static void file_open(struct file *f, const char *folder, const char *name)
{
    char path[PATH];
    uint64_t n;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    f->bytes = read_file(path, &f->n);
    memcpy(&n, f->bytes, sizeof n);
    assert_true(n % 8 == 0 && n + 8 <= f->n);
    f->header = cJSON_ParseWithLength(f->bytes + 8, n);
    assert_non_null(f->header);
    f->data = f->bytes + 8 + n;
}

static void file_close(struct file *f)
{
    cJSON_Delete(f->header);
    free(f->bytes);
}

static size_t offset_of(const struct cJSON *entry, int which)
{
    return (size_t)cJSON_GetArrayItem(cJSON_GetObjectItem(entry, "data_offsets"), which)
        ->valuedouble;
}

static const void *tensor(const struct file *f, const char *name, const char *dtype, size_t n)
{
    const struct cJSON *e = cJSON_GetObjectItemCaseSensitive(f->header, name);
    if (!e)
        fail_msg("no tensor %s", name);
    assert_string_equal(cJSON_GetObjectItem(e, "dtype")->valuestring, dtype);
    assert_int_equal(offset_of(e, 1) - offset_of(e, 0), n);
    return f->data + offset_of(e, 0);
}

/* ---- the tests ---- */

static void tensors_are_the_codes_of_the_rows(void **state)
{
    (void)state;
    enum { ROWS = KV_HEADS * HEAD_DIM, GROUPS = 2 };
    const char *in = path_of("in"), *out = path_of("out");
    struct source s;
    struct scheme scheme;
    struct status st = {0};
    struct file f;
    source_make(&s);
    source_write(&s, in);
    must_store((struct store_options){.from = in, .to = out, .scheme = "int4:asymmetric:group=32"});
    assert_true(scheme_parse(&scheme, "int4:asymmetric:group=32", &st));
    file_open(&f, out, "model.safetensors");
    const char *name = "model.layers.1.self_attn.k_proj";
    const char *entry = strstr(s.header.at, name);
    size_t at;
    assert_int_equal(sscanf(strstr(entry, "offsets\":["), "offsets\":[%zu", &at), 1);
    const float *x = values_at(&s, at);
    char part[128];
    snprintf(part, sizeof part, "%s.weight_packed", name);
    const uint8_t *packed = tensor(&f, part, "I32", ROWS * HIDDEN / 2);
    snprintf(part, sizeof part, "%s.weight_scale", name);
    const char *scales = tensor(&f, part, "F16", ROWS * GROUPS * 2);
    snprintf(part, sizeof part, "%s.weight_zero_point", name);
    const char *zeros = tensor(&f, part, "I32", ROWS / 8 * GROUPS * 4);
    snprintf(part, sizeof part, "%s.weight_shape", name);
    const int64_t want_shape[2] = {ROWS, HIDDEN};
    assert_memory_equal(tensor(&f, part, "I64", 16), want_shape, 16);
    for (int r = 0; r < ROWS; r++) {
        uint8_t codes[HIDDEN];
        float want[GROUPS];
        int16_t zero[GROUPS];
        assert_true(quantize_row(&scheme, x + r * HIDDEN, HIDDEN,
                                 &(struct scheme_rows){codes, want, zero}));
        for (int c = 0; c < HIDDEN; c++)
            assert_int_equal(packed[(r * HIDDEN + c) / 2] >> c % 2 * 4 & 15, codes[c]);
        for (int g = 0; g < GROUPS; g++) {
            uint16_t h;
            uint32_t word;
            memcpy(&h, scales + 2 * (r * GROUPS + g), 2);
            memcpy(&word, zeros + 4 * (r / 8 * GROUPS + g), 4);
            assert_true(f32_from_f16(h) == want[g]);
            assert_int_equal(word >> r % 8 * 4 & 15, zero[g]);
        }
    }
    assert_memory_equal(tensor(&f, "lm_head.weight", "F32", VOCAB * HIDDEN * 4),
                        s.data.at + s.data.n - VOCAB * HIDDEN * 4, VOCAB * HIDDEN * 4);
    file_close(&f);
    source_close(&s);
    remove_folder(in);
    remove_folder(out);
}

static void compare_folders(const char *a, const char *b)
{
    DIR *dir = opendir(a);
    int n = 0;
    for (struct dirent *e; (e = readdir(dir));) {
        char path[2][PATH * 2];
        size_t size[2];
        if (e->d_name[0] == '.')
            continue;
        snprintf(path[0], sizeof path[0], "%s/%s", a, e->d_name);
        snprintf(path[1], sizeof path[1], "%s/%s", b, e->d_name);
        char *bytes[2] = {read_file(path[0], &size[0]), read_file(path[1], &size[1])};
        assert_int_equal(size[0], size[1]);
        assert_memory_equal(bytes[0], bytes[1], size[0]);
        free(bytes[0]);
        free(bytes[1]);
        n++;
    }
    closedir(dir);
    assert_int_equal(n, n_entries(b));
}

static void bytes_do_not_depend_on_threads(void **state)
{
    (void)state;
    static const char *const schemes[] = {"int8", "int8:threshold=0", "w8a16",
                                          "nf4",  "nf4:nested",       "fp4:nested",
                                          "fp8",  "int4:group=64"};
    const char *in = path_of("in"), *one = path_of("one"), *many = path_of("many");
    make_plain(in);
    for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++) {
        must_store(
            (struct store_options){.from = in, .to = one, .scheme = schemes[i], .n_threads = 1});
        must_store(
            (struct store_options){.from = in, .to = many, .scheme = schemes[i], .n_threads = 7});
        compare_folders(one, many);
        remove_folder(one);
        remove_folder(many);
    }
    remove_folder(in);
}

/* Offsets of a file's tensors cover its data, aligned; returns how many there are. */
static int check_cover(const struct file *f)
{
    size_t sum = 0;
    int n = 0;
    for (const struct cJSON *e = f->header->child; e; e = e->next) {
        if (strcmp(e->string, "__metadata__") == 0)
            continue;
        const char *dtype = cJSON_GetObjectItem(e, "dtype")->valuestring;
        const size_t width = dtype[1] == '6' ? 8 : dtype[1] == '3' ? 4 : dtype[1] == '1' ? 2 : 1;
        assert_int_equal(offset_of(e, 0) % width, 0);
        sum += offset_of(e, 1) - offset_of(e, 0);
        n++;
    }
    assert_int_equal(sum, f->bytes + f->n - f->data);
    return n;
}

static void large_checkpoints_are_sharded(void **state)
{
    (void)state;
    enum { LIMIT = 60000 };
    const char *in = path_of("in"), *out = path_of("out");
    size_t n_index;
    int n_tensors = 0;
    make_plain(in);
    must_store((struct store_options){
        .from = in, .to = out, .scheme = "nf4:nested", .shard_bytes = LIMIT});
    char path[PATH];
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", out);
    char *text = read_file(path, &n_index);
    struct cJSON *index = cJSON_ParseWithLength(text, n_index);
    const struct cJSON *map = cJSON_GetObjectItem(index, "weight_map");
    const int n_shards = n_entries(out) - 3; /* config, tokenizer, index */
    assert_true(n_shards >= 3);
    for (int i = 0; i < n_shards; i++) {
        struct file f;
        char name[64];
        snprintf(name, sizeof name, "model-%05d-of-%05d.safetensors", i + 1, n_shards);
        file_open(&f, out, name);
        assert_true(f.bytes + f.n - f.data <= LIMIT);
        n_tensors += check_cover(&f);
        for (const struct cJSON *e = f.header->child; e; e = e->next)
            if (strcmp(e->string, "__metadata__"))
                assert_string_equal(cJSON_GetObjectItemCaseSensitive(map, e->string)->valuestring,
                                    name);
        file_close(&f);
    }
    assert_int_equal(n_tensors, cJSON_GetArraySize(map));
    assert_int_equal(n_tensors, 3 + 2 * LAYERS + 7 * LAYERS * 6);
    cJSON_Delete(index);
    free(text);
    remove_folder(in);
    remove_folder(out);
}

static void config_says_how_it_is_quantized(void **state)
{
    (void)state;
    const char *in = path_of("in"), *out = path_of("out");
    make_plain(in);
    must_store((struct store_options){
        .from = in, .to = out, .scheme = "fp8", .head = "fp8", .skip = "1.mlp.up_proj,embed"});
    size_t n;
    char path[PATH];
    snprintf(path, sizeof path, "%s/config.json", out);
    char *text = read_file(path, &n);
    struct cJSON *c = cJSON_ParseWithLength(text, n);
    const struct cJSON *q = cJSON_GetObjectItem(c, "quantization_config");
    assert_int_equal(cJSON_GetObjectItem(c, "hidden_size")->valueint, HIDDEN);
    assert_string_equal(cJSON_GetObjectItem(q, "format")->valuestring, "float-quantized");
    const struct cJSON *ignore = cJSON_GetObjectItem(q, "ignore");
    assert_int_equal(cJSON_GetArraySize(ignore), 1);
    assert_string_equal(ignore->child->valuestring, "model.layers.1.mlp.up_proj");
    cJSON_Delete(c);
    free(text);
    snprintf(path, sizeof path, "%s/tokenizer.json", out);
    text = read_file(path, &n);
    assert_string_equal(text, "{\"a\": 1}\n");
    free(text);
    remove_folder(in);
    remove_folder(out);
}

static void what_fails_leaves_nothing(void **state)
{
    (void)state;
    const char *in = path_of("in"), *out = path_of("out");
    static const volatile sig_atomic_t stop = 1;
    static const struct {
        const char *name;
        struct store_options o;
        float poison; /* the last value of the last down_proj */
        bool tied;
        const char *more; /* of config.json */
        enum status_code code;
        const char *message;
    } rows[] = {
        {"NaN",
         {.scheme = "int8"},
         NAN,
         false,
         "",
         STATUS_CORRUPT,
         "tensor model.layers.1.mlp.down_proj.weight: want finite values to quantize"},
        {"infinity, nested",
         {.scheme = "nf4:nested"},
         INFINITY,
         false,
         "",
         STATUS_CORRUPT,
         "tensor model.layers.1.mlp.down_proj.weight: want finite values"},
        {"stopped", {.scheme = "int8", .stop = &stop}, 0, false, "", STATUS_CANCELLED, "stopped"},
        {"columns",
         {.scheme = "int4"},
         0,
         false,
         "",
         STATUS_UNSUPPORTED,
         "tensor model.layers.0.self_attn.q_proj.weight: int4: want a multiple of the group's 128 "
         "columns, found 64"},
        {"no scheme", {.scheme = "int3"}, 0, false, "", STATUS_BAD_INPUT, "want int8, w8a16"},
        {"another head",
         {.scheme = "int8", .head = "nf4"},
         0,
         false,
         "",
         STATUS_UNSUPPORTED,
         "head: want none or int8, as the layers, found nf4"},
        {"tied head",
         {.scheme = "int8", .head = "int8"},
         0,
         true,
         "",
         STATUS_UNSUPPORTED,
         "head: the output of this model is its embedding"},
        {"skip",
         {.scheme = "int8", .skip = "q_porj"},
         0,
         false,
         "",
         STATUS_BAD_INPUT,
         "skip: no weight has \"q_porj\" in its name"},
        {"quantized already",
         {.scheme = "int8"},
         0,
         false,
         ",\"quantization_config\":{\"quant_method\":\"gptq\"}",
         STATUS_UNSUPPORTED,
         "is quantized already"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct source s;
        struct status st = {0};
        struct store_options o = rows[i].o;
        source_make(&s);
        if (rows[i].poison != 0) {
            const size_t end = s.data.n - (VOCAB * HIDDEN + HIDDEN) * 4;
            memcpy(s.data.at + end - 4, &rows[i].poison, 4);
        }
        source_write(&s, in);
        put_config(in, rows[i].tied, rows[i].more);
        o.from = in;
        o.to = out;
        if (store(o, &st) || st.code != rows[i].code || !strstr(st.msg, rows[i].message))
            fail_msg("%s: %s: %s", rows[i].name, status_name(st.code), st.msg);
        assert_int_equal(n_entries(root), 1); /* the source */
        source_close(&s);
        remove_folder(in);
    }
}

static void what_is_there_is_not_touched(void **state)
{
    (void)state;
    const char *in = path_of("in"), *out = path_of("out");
    struct status st = {0};
    make_plain(in);
    mkdir(out, 0755);
    assert_false(store((struct store_options){.from = in, .to = out, .scheme = "int8"}, &st));
    assert_int_equal(st.code, STATUS_BAD_INPUT);
    assert_non_null(strstr(st.msg, "is there already"));
    assert_int_equal(n_entries(out), 0);
    assert_int_equal(n_entries(root), 2);
    remove_folder(out);
    st = (struct status){0};
    assert_false(
        store((struct store_options){.from = in, .to = "/proc/no/where", .scheme = "int8"}, &st));
    assert_non_null(strstr(st.msg, "/proc/no"));
    remove_folder(in);
}

/* ---- from GGUF ---- */

static void make_gguf(struct make *m, const char *path, enum dtype dtype)
{
    const struct tiny t = {.hidden = HIDDEN,
                           .n_layers = LAYERS,
                           .n_heads = HEADS,
                           .n_kv_heads = KV_HEADS,
                           .head_dim = HEAD_DIM,
                           .ffn = FFN,
                           .vocab = VOCAB,
                           .context = 128,
                           .dtype = dtype};
    tiny_make(m, &t);
    make_write(m, path);
}

static void a_gguf_file_needs_a_folder_of_the_same_model(void **state)
{
    (void)state;
    struct make m;
    const char *in = path_of("in.gguf"), *out = path_of("out"), *texts = path_of("texts");
    struct status st = {0};
    make_gguf(&m, in, DT_F16);
    struct store_options o = {.from = in, .to = out, .scheme = "int8"};
    assert_false(store(o, &st));
    assert_int_equal(st.code, STATUS_BAD_INPUT);
    assert_non_null(strstr(st.msg, "no tokenizer.json: name a folder"));
    mkdir(texts, 0755);
    o.texts = texts;
    st = (struct status){0};
    assert_false(store(o, &st));
    assert_non_null(strstr(st.msg, "no config.json in the folder"));
    put_config(texts, true, "");
    st = (struct status){0};
    assert_false(store(o, &st));
    assert_non_null(strstr(st.msg, "tied output: want 0, as the weights, found 1"));
    put_config(texts, false, ",\"rope_scaling\":null");
    must_store(o);
    remove_folder(out);
    remove_folder(texts);
    unlink(in);
    make_close(&m);
}

/* The rows of q and k are pairs in the file, halves in the folder. */
static void rows_of_a_gguf_file_find_their_places(void **state)
{
    (void)state;
    struct make m;
    struct model_file f;
    struct file file;
    struct status st = {0};
    const char *in = path_of("in.gguf"), *out = path_of("out"), *texts = path_of("texts");
    make_gguf(&m, in, DT_Q8_0);
    mkdir(texts, 0755);
    put_config(texts, false, "");
    must_store((struct store_options){.from = in,
                                      .to = out,
                                      .texts = texts,
                                      .scheme = "int8:threshold=0",
                                      .skip = "blk.1.attn_k"});
    file_open(&file, out, "model.safetensors");
    assert_true(model_file_open(&f, in, &st));
    const struct weight *q = NULL, *k = NULL;
    for (size_t i = 0; i < f.n_bound; i++) {
        q = f.bound[i].rule->slot == W_Q && f.bound[i].il == 0 ? f.bound[i].src : q;
        k = f.bound[i].rule->slot == W_K && f.bound[i].il == 1 ? f.bound[i].src : k;
    }
    const uint8_t *codes =
        tensor(&file, "model.layers.0.self_attn.q_proj.weight", "I8", HEADS * HEAD_DIM * HIDDEN);
    const char *halves = tensor(&file, "model.layers.1.self_attn.k_proj.weight", "F16",
                                KV_HEADS * HEAD_DIM * HIDDEN * 2);
    const struct scheme scheme = {.codes = DT_INT8};
    for (int r = 0; r < HEADS * HEAD_DIM; r++) {
        const int i = r % HEAD_DIM, from = r - i + (i < 8 ? 2 * i : 2 * (i - 8) + 1);
        uint8_t want[HIDDEN];
        float x[HIDDEN], scale;
        dequantize_row(DT_Q8_0, (const char *)q->source.at + from * 68, x, HIDDEN);
        assert_true(quantize_row(&scheme, x, HIDDEN, &(struct scheme_rows){want, &scale, NULL}));
        for (int c = 0; c < HIDDEN; c++)
            assert_int_equal(codes[r * HIDDEN + c] ^ 0x80, want[c]);
        if (r >= KV_HEADS * HEAD_DIM)
            continue;
        dequantize_row(DT_Q8_0, (const char *)k->source.at + from * 68, x, HIDDEN);
        for (int c = 0; c < HIDDEN; c++) {
            uint16_t h;
            memcpy(&h, halves + 2 * (r * HIDDEN + c), 2);
            assert_int_equal(h, f32_to_f16(x[c]));
        }
    }
    tensor(&file, "model.embed_tokens.weight", "F16", VOCAB * HIDDEN * 2);
    tensor(&file, "model.norm.weight", "F32", HIDDEN * 4);
    model_file_close(&f);
    file_close(&file);
    remove_folder(out);
    remove_folder(texts);
    unlink(in);
    make_close(&m);
}

/* A family whose norms a GGUF file holds with 1 added. */
static void make_other_norms(struct make *m, const char *path)
{
    static const struct {
        const char *name;
        int rows, cols;
    } list[] = {
        {"token_embd", VOCAB, HIDDEN},
        {"output_norm", 1, HIDDEN},
        {"blk.0.attn_norm", 1, HIDDEN},
        {"blk.0.attn_q_norm", 1, HEAD_DIM},
        {"blk.0.attn_k_norm", 1, HEAD_DIM},
        {"blk.0.attn_q", HEADS * HEAD_DIM, HIDDEN},
        {"blk.0.attn_k", KV_HEADS * HEAD_DIM, HIDDEN},
        {"blk.0.attn_v", KV_HEADS * HEAD_DIM, HIDDEN},
        {"blk.0.attn_output", HIDDEN, HEADS * HEAD_DIM},
        {"blk.0.post_attention_norm", 1, HIDDEN},
        {"blk.0.ffn_norm", 1, HIDDEN},
        {"blk.0.post_ffw_norm", 1, HIDDEN},
        {"blk.0.ffn_gate", FFN, HIDDEN},
        {"blk.0.ffn_up", FFN, HIDDEN},
        {"blk.0.ffn_down", HIDDEN, FFN},
    };
    make_begin(m);
    make_key_str(m, "general.architecture", "gemma3");
    make_key_u32(m, "gemma3.embedding_length", HIDDEN);
    make_key_u32(m, "gemma3.block_count", 1);
    make_key_u32(m, "gemma3.attention.head_count", HEADS);
    make_key_u32(m, "gemma3.attention.head_count_kv", KV_HEADS);
    make_key_u32(m, "gemma3.attention.key_length", HEAD_DIM);
    make_key_u32(m, "gemma3.feed_forward_length", FFN);
    make_key_u32(m, "gemma3.context_length", 128);
    make_key_u32(m, "gemma3.attention.sliding_window", 64);
    make_key_f32(m, "gemma3.attention.layer_norm_rms_epsilon", 1e-6f);
    const size_t first_record = m->n;
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s.weight", list[i].name);
        make_tensor(m, name, DT_F32, (size_t)list[i].rows, (size_t)list[i].cols);
    }
    tiny_data(m, first_record);
    make_write(m, path);
}

static void norms_of_another_kind_are_refused(void **state)
{
    (void)state;
    struct make m;
    struct status st = {0};
    const char *in = path_of("in.gguf"), *out = path_of("out"), *texts = path_of("texts");
    make_other_norms(&m, in);
    mkdir(texts, 0755);
    put_config(texts, true, "");
    assert_false(store(
        (struct store_options){.from = in, .to = out, .texts = texts, .scheme = "int8"}, &st));
    assert_int_equal(st.code, STATUS_UNSUPPORTED);
    assert_non_null(strstr(st.msg, "the norms of gemma3 are others in a GGUF file"));
    remove_folder(texts);
    unlink(in);
    make_close(&m);
}

static int make_root(void **state)
{
    (void)state;
    return mkdtemp(root) ? 0 : -1;
}

static int remove_root(void **state)
{
    (void)state;
    return rmdir(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tensors_are_the_codes_of_the_rows),
        cmocka_unit_test(bytes_do_not_depend_on_threads),
        cmocka_unit_test(large_checkpoints_are_sharded),
        cmocka_unit_test(config_says_how_it_is_quantized),
        cmocka_unit_test(what_fails_leaves_nothing),
        cmocka_unit_test(what_is_there_is_not_touched),
        cmocka_unit_test(a_gguf_file_needs_a_folder_of_the_same_model),
        cmocka_unit_test(rows_of_a_gguf_file_find_their_places),
        cmocka_unit_test(norms_of_another_kind_are_refused),
    };
    return cmocka_run_group_tests_name("store_folder", tests, make_root, remove_root);
}
