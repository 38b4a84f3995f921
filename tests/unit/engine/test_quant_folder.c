/* A quantized folder is taken only when each matrix has the parts its format says, in types and
 * shapes that agree; what is refused is named.  What the codes mean is test_golden_quant's to show.
 */
#include "engine/quant_folder.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <cjson/cJSON.h>

#include "engine/safetensors.h"

enum { TENSORS_MAX = 8, FILE_MAX = 16384, ROWS = 8, COLS = 64 };

struct entry {
    const char *name, *dtype, *shape;
    size_t n;          /* bytes */
    const char *bytes; /* NULL = some, finite as floats of any kind */
};

#define STATE(shape, rest)                                                                         \
    "{\"quant_type\":\"nf4\",\"blocksize\":32,\"dtype\":\"bfloat16\",\"shape\":" shape rest "}"
#define NESTED     ",\"nested_blocksize\":256,\"nested_dtype\":\"float32\",\"nested_offset\":0.5"
#define STATE_NAME "m.weight.quant_state.bitsandbytes__nf4"
#define STATE_OF(text)                                                                             \
    {                                                                                              \
        STATE_NAME, "U8", NULL, sizeof(text) - 1, text                                             \
    }

static float nf4_map[16], nested_map[256]; /* filled in main, as are these: */
static int32_t plain_idx[COLS], swapped_idx[COLS], far_idx[COLS], uneven_idx[COLS];
static const int64_t shape_8_64[2] = {8, 64}, shape_8_63[2] = {8, 63}, shape_0[2] = {8, 0};
static const uint16_t inf_f16[16] = {[5] = 0x7c00}, nan_bf16[8] = {[7] = 0xffc0};
static const float inf_f32[16] = {[3] = -1 / 0.0f}, huge_f32[1] = {3e38f};

#define BYTES(x) sizeof(x), (const char *)(x)

/* One matrix [8, 64] of each format. */
static const struct format {
    const char *config;
    struct entry tensor[TENSORS_MAX];
} formats[] = {
#define BNB4 0
    {"{\"quant_method\":\"bitsandbytes\",\"load_in_4bit\":true,\"bnb_4bit_quant_type\":\"nf4\","
     "\"bnb_4bit_use_double_quant\":true}",
     {{"m.weight", "U8", "[256,1]", 256, NULL},
      {"m.weight.absmax", "U8", "[16]", 16, NULL},
      {"m.weight.quant_map", "F32", "[16]", BYTES(nf4_map)},
      {"m.weight.nested_absmax", "F32", "[1]", 4, NULL},
      {"m.weight.nested_quant_map", "F32", "[256]", BYTES(nested_map)},
      STATE_OF(STATE("[8,64]", NESTED))}},
#define BNB8 1
    {"{\"quant_method\":\"bitsandbytes\",\"load_in_8bit\":true,\"llm_int8_skip_modules\":[\"x\"]}",
     {{"m.weight", "I8", "[8,64]", 512, NULL},
      {"m.SCB", "F32", "[8]", 32, NULL},
      {"m.weight_format", "U8", "[]", 1, "\0"}}},
#define GPTQ 2
    {"{\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":32,\"desc_act\":true}",
     {{"m.qweight", "I32", "[8,8]", 256, NULL},
      {"m.qzeros", "I32", "[2,1]", 8, NULL},
      {"m.scales", "F16", "[2,8]", 32, NULL},
      {"m.g_idx", "I32", "[64]", BYTES(plain_idx)}}},
#define AWQ 3
    {"{\"quant_method\":\"awq\",\"bits\":4,\"group_size\":32,\"version\":\"GEMM\"}",
     {{"m.qweight", "I32", "[64,1]", 256, NULL},
      {"m.qzeros", "I32", "[2,1]", 8, NULL},
      {"m.scales", "F16", "[2,8]", 32, NULL}}},
#define PACK 4
    {"{\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\",\"config_groups\":{"
     "\"g\":"
     "{\"targets\":[\"Linear\"],\"weights\":{\"num_bits\":4,\"type\":\"int\",\"strategy\":"
     "\"group\","
     "\"group_size\":32,\"symmetric\":false}}}}",
     {{"m.weight_packed", "I32", "[8,8]", 256, NULL},
      {"m.weight_scale", "BF16", "[8,2]", 32, NULL},
      {"m.weight_zero_point", "I32", "[1,2]", 8, NULL},
      {"m.weight_shape", "I64", "[2]", BYTES(shape_8_64)},
      {"m.weight_g_idx", "I32", "[64]", BYTES(swapped_idx)}}},
#define W8A8 5
    {"{\"quant_method\":\"compressed-tensors\",\"format\":\"int-quantized\",\"config_groups\":{"
     "\"g\":"
     "{\"targets\":[\"Linear\"],\"weights\":{\"num_bits\":8,\"type\":\"int\",\"strategy\":"
     "\"channel\"},"
     "\"input_activations\":{\"num_bits\":8,\"type\":\"int\",\"strategy\":\"token\",\"dynamic\":"
     "true}}}}",
     {{"m.weight", "I8", "[8,64]", 512, NULL}, {"m.weight_scale", "BF16", "[8,1]", 16, NULL}}},
#define FP8 6
    {"{\"quant_method\":\"fp8\",\"activation_scheme\":\"dynamic\"}",
     {{"m.weight", "F8_E4M3", "[8,64]", 512, NULL}, {"m.weight_scale_inv", "F32", "[]", 4, NULL}}},
};
enum { N_FORMATS = sizeof formats / sizeof formats[0] };

/* ---- files ---- */

struct folder {
    char at[FILE_MAX];
    size_t n;
    struct safetensors *files;
    struct cJSON *config;
    struct quant_folder *q;
};

static size_t put_header(char *to, const struct entry *list, int n)
{
    size_t at = 0, data = 0;
    to[at++] = '{';
    for (int i = 0; i < n; i++) {
        char shape[32];
        if (list[i].shape)
            snprintf(shape, sizeof shape, "%s", list[i].shape);
        else
            snprintf(shape, sizeof shape, "[%zu]", list[i].n);
        at += (size_t)sprintf(to + at,
                              "%s\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":"
                              "[%zu,%zu]}",
                              i ? "," : "", list[i].name, list[i].dtype, shape, data,
                              data + list[i].n);
        data += list[i].n;
    }
    to[at++] = '}';
    return at;
}

/* Bytes of finite numbers, in float32 and in both 16-bit types. */
static void put_bytes(char *to, const struct entry *t)
{
    if (t->bytes)
        memcpy(to, t->bytes, t->n);
    else
        for (size_t i = 0; i < t->n; i++)
            to[i] = (char)(i % 2 ? 0x30 + i % 7 : i * 37 + 11);
}

static bool open_list(struct folder *f, const char *config, const struct entry *list, int n,
                      struct status *st)
{
    const uint64_t header = put_header(f->at + 8, list, n);
    memcpy(f->at, &header, 8);
    f->n = 8 + header;
    for (int i = 0; i < n; i++) {
        put_bytes(f->at + f->n, &list[i]);
        f->n += list[i].n;
    }
    assert_true(f->n <= FILE_MAX);
    f->q = NULL;
    f->config = cJSON_Parse(config);
    f->files = safetensors_open_memory(f->at, f->n, st);
    if (!f->config || !f->files)
        fail_msg("%s: %s", config, st->msg);
    f->q = quant_folder_open(f->files, f->config, st);
    return f->q != NULL;
}

static void close_folder(struct folder *f)
{
    quant_folder_close(f->q);
    safetensors_close(f->files);
    cJSON_Delete(f->config);
}

static int copy_list(const struct format *format, struct entry *to)
{
    int n = 0;
    for (; n < TENSORS_MAX - 1 && format->tensor[n].name; n++)
        to[n] = format->tensor[n];
    return n;
}

static void each_format_gives_one_matrix(void **state)
{
    (void)state;
    static struct folder f;
    for (size_t i = 0; i < N_FORMATS; i++) {
        struct entry list[TENSORS_MAX];
        struct status st = {0};
        int n = copy_list(&formats[i], list);
        size_t n_bytes = 0;
        for (int k = 0; k < n; k++)
            n_bytes += list[k].n;
        list[n++] = (struct entry){"m.bias", "F16", "[8]", 16, NULL};
        if (!open_list(&f, formats[i].config, list, n, &st))
            fail_msg("format %zu: %s", i, st.msg);
        assert_int_equal(quant_folder_n(f.q), 2);
        const struct weight *w = quant_folder_find(f.q, "m.weight");
        assert_true(w && w->scheme && w->rows == ROWS && w->cols == COLS && w->n_bytes == n_bytes);
        assert_ptr_equal(w, quant_folder_at(f.q, 1));
        const struct weight *bias = quant_folder_find(f.q, "m.bias");
        assert_true(bias && !bias->scheme && bias->dtype == DT_F16);
        assert_null(quant_folder_find(f.q, "m.scales"));
        close_folder(&f);
    }
}

/* ---- what is refused ---- */

enum change { DROP, REPLACE, ADD, CONFIG };

static const struct {
    const char *name;
    int format;
    enum change change;
    struct entry tensor; /* of the name that is dropped or replaced; its name is CONFIG's text */
    const char *message;
} bad[] = {
    {"no codebook",
     BNB4,
     DROP,
     {.name = "m.weight.quant_map"},
     "tensor m.weight.quant_map is missing"},
    {"no scales", BNB4, DROP, {.name = "m.weight.absmax"}, "tensor m.weight.absmax is missing"},
    {"no state", BNB4, DROP, {.name = STATE_NAME}, "tensor " STATE_NAME " is missing"},
    {"no scales of scales",
     BNB4,
     DROP,
     {.name = "m.weight.nested_absmax"},
     "nested_absmax is missing"},
    {"codes too few",
     BNB4,
     REPLACE,
     {"m.weight", "U8", "[255,1]", 255, NULL},
     "tensor m.weight: want 256 values, found [255, 1]"},
    {"codes of 32 bits",
     BNB4,
     REPLACE,
     {"m.weight", "I32", "[64,1]", 256, NULL},
     "tensor m.weight: want dtype U8, found I32"},
    {"scales not nested",
     BNB4,
     REPLACE,
     {"m.weight.absmax", "F32", "[16]", 64, NULL},
     "tensor m.weight.absmax: want dtype U8, found F32"},
    {"scales too many",
     BNB4,
     REPLACE,
     {"m.weight.absmax", "U8", "[17]", 17, NULL},
     "tensor m.weight.absmax: want 16 values, found [1, 17]"},
    {"scales of scales too many",
     BNB4,
     REPLACE,
     {"m.weight.nested_absmax", "F32", "[2]", 8, NULL},
     "tensor m.weight.nested_absmax: want 1 values, found [1, 2]"},
    {"scales that overflow",
     BNB4,
     REPLACE,
     {"m.weight.nested_absmax", "F32", "[1]", BYTES(huge_f32)},
     "tensor m.weight.absmax: want finite scales"},
    {"another codebook",
     BNB4,
     REPLACE,
     {"m.weight.quant_map", "F32", "[16]", 64, NULL},
     "tensor m.weight.quant_map: want -1 at 0, found"},
    {"state is no JSON", BNB4, REPLACE, STATE_OF("{\"quant_type\":"), STATE_NAME ": byte"},
    {"state of another type", BNB4, REPLACE, STATE_OF("{\"quant_type\":\"fp4\"}"),
     "key quant_type: want nf4, found fp4"},
    {"three dimensions", BNB4, REPLACE, STATE_OF(STATE("[8,8,8]", NESTED)),
     "key shape: want two dimensions"},
    {"dimension 0", BNB4, REPLACE, STATE_OF(STATE("[0,64]", NESTED)), "key shape: want two"},
    {"rows without end", BNB4, REPLACE, STATE_OF(STATE("[2147483647,64]", NESTED)),
     "tensor m.weight: want 68719476704 values, found [256, 1]"},
    {"blocks over the ends of rows", BNB4, REPLACE, STATE_OF(STATE("[16,48]", NESTED)),
     "tensor m.weight: nf4: want a multiple of the group's 32 columns, found 48"},
    {"no offset", BNB4, REPLACE,
     STATE_OF(STATE("[8,64]", ",\"nested_blocksize\":256,\"nested_dtype\":\"float32\"")),
     "key nested_offset: want a finite number"},
    {"other nested blocks", BNB4, REPLACE,
     STATE_OF(STATE("[8,64]", ",\"nested_blocksize\":64,\"nested_dtype\":\"float32\"")),
     "key nested_blocksize: want 256"},
    {"storage",
     BNB4,
     CONFIG,
     {.name = "{\"quant_method\":\"bitsandbytes\",\"load_in_4bit\":true,\"bnb_4bit_quant_storage\":"
              "\"bfloat16\"}"},
     "key bnb_4bit_quant_storage: want uint8, found bfloat16"},
    {"4 and 8 bits",
     BNB4,
     CONFIG,
     {.name = "{\"quant_method\":\"bitsandbytes\",\"load_in_4bit\":true,\"load_in_8bit\":true}"},
     "want one of the keys load_in_4bit and load_in_8bit to be true"},

    {"no scale", BNB8, DROP, {.name = "m.SCB"}, "tensor m.SCB is missing"},
    {"one scale for all",
     BNB8,
     REPLACE,
     {"m.SCB", "F32", "[1]", 4, NULL},
     "tensor m.SCB: want 8 values, found [1, 1]"},
    {"scale without end",
     BNB8,
     REPLACE,
     {"m.SCB", "F32", "[8]", 32, (const char *)inf_f32},
     "tensor m.SCB: want finite numbers, found -inf at [0, 3]"},
    {"tiled codes",
     BNB8,
     REPLACE,
     {"m.weight_format", "U8", "[]", 1, "\2"},
     "tensor m.weight_format: want 0, rows, found 2"},
    {"skipped and quantized",
     BNB8,
     CONFIG,
     {.name = "{\"quant_method\":\"bitsandbytes\",\"load_in_8bit\":true,\"llm_int8_skip_modules\":["
              "\"m\"]"
              "}"},
     "tensor m.weight: want it plain, as key llm_int8_skip_modules has it"},
    {"threshold",
     BNB8,
     CONFIG,
     {.name =
          "{\"quant_method\":\"bitsandbytes\",\"load_in_8bit\":true,\"llm_int8_threshold\":-1}"},
     "key llm_int8_threshold: want a number from 0"},
    {"one row", BNB8, REPLACE, {"m.weight", "I8", "[1,64]", 64, NULL}, "tensor m.SCB: want"},

    {"no zero points", GPTQ, DROP, {.name = "m.qzeros"}, "tensor m.qzeros is missing"},
    {"no order", GPTQ, DROP, {.name = "m.g_idx"}, "tensor m.g_idx is missing"},
    {"groups too few",
     GPTQ,
     REPLACE,
     {"m.scales", "F16", "[1,8]", 16, NULL},
     "tensor m.scales: want [2, 8], found [1, 8]"},
    {"zero points too wide",
     GPTQ,
     REPLACE,
     {"m.qzeros", "I32", "[2,8]", 64, NULL},
     "tensor m.qzeros: want [2, 1], found [2, 8]"},
    {"scales as integers",
     GPTQ,
     REPLACE,
     {"m.scales", "I32", "[2,8]", 64, NULL},
     "tensor m.scales: want dtype F32 or F16 or BF16, found I32"},
    {"a scale without end",
     GPTQ,
     REPLACE,
     {"m.scales", "F16", "[2,8]", BYTES(inf_f16)},
     "tensor m.scales: want finite numbers, found inf at [0, 5]"},
    {"order too short",
     GPTQ,
     REPLACE,
     {"m.g_idx", "I32", "[8]", 32, (const char *)plain_idx},
     "tensor m.g_idx: want 64 values, found [1, 8]"},
    {"a group that is not there",
     GPTQ,
     REPLACE,
     {"m.g_idx", "I32", "[64]", BYTES(far_idx)},
     "tensor m.g_idx: want groups from 0 to 1, found -1 at 63"},
    {"groups of unequal size",
     GPTQ,
     REPLACE,
     {"m.g_idx", "I32", "[64]", BYTES(uneven_idx)},
     "tensor m.g_idx: want 32 columns in each group, found more in group 0"},
    {"a group that does not divide",
     GPTQ,
     CONFIG,
     {.name = "{\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":96}"},
     "tensor m.weight: int4: want a multiple of the group's 96 columns, found 64"},
    {"3 bits",
     GPTQ,
     CONFIG,
     {.name = "{\"quant_method\":\"gptq\",\"bits\":3,\"group_size\":32}"},
     "key bits: want 4 or 8, found 3"},
    {"group size 0",
     GPTQ,
     CONFIG,
     {.name = "{\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":0}"},
     "key group_size: want -1 or at least 1"},
    {"no group size",
     GPTQ,
     CONFIG,
     {.name = "{\"quant_method\":\"gptq\",\"bits\":4}"},
     "key group_size: want -1 or at least 1, found none"},
    {"marlin",
     GPTQ,
     CONFIG,
     {.name = "{\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":32,\"checkpoint_format\":"
              "\"marlin\"}"},
     "key checkpoint_format: want gptq or gptq_v2, found marlin"},
    {"rules by module",
     GPTQ,
     CONFIG,
     {.name = "{\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":32,\"dynamic\":{\"-:x\":{}}}"},
     "key dynamic: want none"},
    {"plain as well",
     GPTQ,
     ADD,
     {"m.weight", "F16", "[8,64]", 1024, NULL},
     "tensor m.weight: want it plain or quantized, found both"},
    {"a part too many",
     GPTQ,
     ADD,
     {"m.codes", "I32", "[8]", 32, NULL},
     "tensor m.codes: want dtype F32, F16 or BF16, found I32"},

    {"packed the other way",
     AWQ,
     REPLACE,
     {"m.qweight", "I32", "[8,8]", 256, NULL},
     "tensor m.weight: int4: want a multiple of the group's 32 columns, found 8"},
    {"8 bits",
     AWQ,
     CONFIG,
     {.name = "{\"quant_method\":\"awq\",\"bits\":8,\"group_size\":32}"},
     "key bits: want 4, found 8"},
    {"gemv",
     AWQ,
     CONFIG,
     {.name = "{\"quant_method\":\"awq\",\"bits\":4,\"group_size\":32,\"version\":\"gemv\"}"},
     "key version: want gemm, found gemv"},
    {"no zero points",
     AWQ,
     CONFIG,
     {.name = "{\"quant_method\":\"awq\",\"bits\":4,\"group_size\":32,\"zero_point\":false}"},
     "tensor m.qzeros: want 8, as key zero_point is false"},

    {"no shape", PACK, DROP, {.name = "m.weight_shape"}, "tensor m.weight_shape is missing"},
    {"odd columns",
     PACK,
     REPLACE,
     {"m.weight_shape", "I64", "[2]", BYTES(shape_8_63)},
     "want a multiple of"},
    {"no columns",
     PACK,
     REPLACE,
     {"m.weight_shape", "I64", "[2]", BYTES(shape_0)},
     "tensor m.weight_shape: want columns from 1"},
    {"zero points not packed",
     PACK,
     REPLACE,
     {"m.weight_zero_point", "I8", "[8,2]", 16, NULL},
     "tensor m.weight_zero_point: want dtype I32, found I8"},
    {"scales too few",
     PACK,
     REPLACE,
     {"m.weight_scale", "BF16", "[8,1]", 16, NULL},
     "tensor m.weight_scale: want [8, 2], found [8, 1]"},

    {"a scale that is no number",
     W8A8,
     REPLACE,
     {"m.weight_scale", "BF16", "[8,1]", BYTES(nan_bf16)},
     "tensor m.weight_scale: want finite numbers, found"},
    {"static activations",
     W8A8,
     ADD,
     {"m.input_scale", "I32", "[1]", 4, NULL},
     "tensor m.input_scale: want dtype F32, F16 or BF16, found I32"},

    {"blocks",
     FP8,
     REPLACE,
     {"m.weight_scale_inv", "F32", "[2,4]", 32, NULL},
     "tensor m.weight_scale_inv: want [8, 1], found [2, 4]"},
    {"blocks, as the config has them",
     FP8,
     CONFIG,
     {.name = "{\"quant_method\":\"fp8\",\"weight_block_size\":[128,128]}"},
     "key weight_block_size: want none"},
    {"static activations",
     FP8,
     CONFIG,
     {.name = "{\"quant_method\":\"fp8\",\"activation_scheme\":\"static\"}"},
     "key activation_scheme: want dynamic, found static"},
    {"another method",
     FP8,
     CONFIG,
     {.name = "{\"quant_method\":\"hqq\"}"},
     "key quant_method: want"},
    {"not compressed",
     PACK,
     CONFIG,
     {.name = "{\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\","
              "\"quantization_status\":\"calibration\"}"},
     "key quantization_status: want compressed or frozen, found calibration"},
    {"rotated",
     PACK,
     CONFIG,
     {.name = "{\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\","
              "\"transform_config\":{\"config_groups\":{}}}"},
     "key transform_config: want none"},
    {"no method", FP8, CONFIG, {.name = "{}"}, "key quant_method is missing"},
    {"no object", FP8, CONFIG, {.name = "[]"}, "key quantization_config: want an object"},
};

static int find_tensor(const struct entry *list, int n, const char *name)
{
    for (int i = 0; i < n; i++)
        if (strcmp(list[i].name, name) == 0)
            return i;
    fail_msg("no tensor %s in the table", name);
    return 0;
}

static void drop(struct entry *list, int *n, const char *name)
{
    const int i = find_tensor(list, *n, name);
    list[i] = list[--*n];
}

static void what_is_wrong_is_refused_by_name(void **state)
{
    (void)state;
    static struct folder f;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct entry list[TENSORS_MAX];
        struct status st = {0};
        const char *config = formats[bad[i].format].config;
        int n = copy_list(&formats[bad[i].format], list);
        if (bad[i].change == CONFIG)
            config = bad[i].tensor.name;
        else if (bad[i].change == ADD)
            list[n++] = bad[i].tensor;
        else if (bad[i].change == REPLACE)
            list[find_tensor(list, n, bad[i].tensor.name)] = bad[i].tensor;
        else
            drop(list, &n, bad[i].tensor.name);
        if (open_list(&f, config, list, n, &st) || !strstr(st.msg, bad[i].message))
            fail_msg("%s: %s: %s", bad[i].name, status_name(st.code), st.msg);
        close_folder(&f);
    }
}

/* What compressed-tensors says of its one group, a key at a time. */
static const struct {
    const char *format, *targets, *weights, *rest, *message; /* NULL = taken */
} groups[] = {
#define PACKED_WEIGHTS "\"num_bits\":4,\"type\":\"int\",\"strategy\":\"group\",\"group_size\":32"
#define INT_WEIGHTS    "\"num_bits\":8,\"type\":\"int\",\"strategy\":\"channel\""
    {"pack-quantized", "[\"Linear\"]", PACKED_WEIGHTS, "", NULL},
    {"pack-quantized", "[\"Linear\"]", PACKED_WEIGHTS ",\"actorder\":\"weight\"", "", NULL},
    {"marlin-24", "[\"Linear\"]", PACKED_WEIGHTS, "",
     "key format: want pack-quantized, int-quantized or float-quantized, found marlin-24"},
    {"pack-quantized", "[\"re:.*q_proj\"]", PACKED_WEIGHTS, "", "key targets: want Linear alone"},
    {"pack-quantized", "[\"Linear\",\"Embedding\"]", PACKED_WEIGHTS, "",
     "key targets: want Linear alone"},
    {"pack-quantized", "[\"Linear\"]", "\"num_bits\":3,\"type\":\"int\",\"strategy\":\"group\"", "",
     "key num_bits: want 4 or 8, found 3"},
    {"pack-quantized", "[\"Linear\"]", PACKED_WEIGHTS, ",\"input_activations\":{\"num_bits\":8}",
     "key input_activations: want none"},
    {"pack-quantized", "[\"Linear\"]", PACKED_WEIGHTS, ",\"output_activations\":{\"num_bits\":8}",
     "key output_activations: want none"},
    {"int-quantized", "[\"Linear\"]", INT_WEIGHTS ",\"symmetric\":false", "",
     "key symmetric: want true, found false"},
    {"int-quantized", "[\"Linear\"]", INT_WEIGHTS,
     ",\"input_activations\":{\"num_bits\":8,\"type\":\"int\",\"strategy\":\"tensor\","
     "\"dynamic\":false}",
     "key input_activations: key dynamic: want true, found false"},
    {"int-quantized", "[\"Linear\"]", INT_WEIGHTS,
     ",\"input_activations\":{\"num_bits\":8,\"type\":\"int\",\"strategy\":\"token\","
     "\"dynamic\":true,\"symmetric\":false}",
     "key input_activations: key symmetric: want true, found false"},
    {"int-quantized", "[\"Linear\"]", INT_WEIGHTS,
     ",\"input_activations\":{\"num_bits\":8,\"type\":\"int\",\"strategy\":\"tensor\","
     "\"dynamic\":true}",
     "key input_activations: key strategy: want token, found tensor"},
    {"float-quantized", "[\"Linear\"]",
     "\"num_bits\":8,\"type\":\"float\",\"strategy\":\"block\",\"block_structure\":[128,128]", "",
     "key strategy: want channel or tensor, found block"},
    {"float-quantized", "[\"Linear\"]", INT_WEIGHTS, "", "key type: want float, found int"},
};

static void one_group_of_linear_modules_is_read(void **state)
{
    (void)state;
    static struct folder f;
    static const struct entry parts[] = {{"m.weight_packed", "I32", "[8,8]", 256, NULL},
                                         {"m.weight_scale", "BF16", "[8,2]", 32, NULL},
                                         {"m.weight_shape", "I64", "[2]", BYTES(shape_8_64)}};
    for (size_t i = 0; i < sizeof groups / sizeof groups[0]; i++) {
        struct status st = {0};
        char config[1024];
        snprintf(config, sizeof config,
                 "{\"quant_method\":\"compressed-tensors\",\"format\":\"%s\",\"config_groups\":"
                 "{\"g\":{\"targets\":%s,\"weights\":{%s}%s}}}",
                 groups[i].format, groups[i].targets, groups[i].weights, groups[i].rest);
        const bool ok = open_list(&f, config, parts, 3, &st);
        if (ok != !groups[i].message || (!ok && !strstr(st.msg, groups[i].message)))
            fail_msg("%s: %s", config, st.msg);
        close_folder(&f);
    }
}

/* ---- act-order ---- */

static void columns_of_a_group_come_together(void **state)
{
    (void)state;
    static struct folder f;
    static uint8_t codes[2][ROWS * COLS];
    float scales[2][ROWS * 2];
    int16_t zeros[2][ROWS * 2];
    for (int ordered = 0; ordered < 2; ordered++) {
        struct entry list[TENSORS_MAX];
        struct status st = {0};
        const int n = copy_list(&formats[PACK], list); /* its last part is the order */
        assert_true(open_list(&f, formats[PACK].config, list, n - !ordered, &st));
        const struct weight *w = quant_folder_find(f.q, "m.weight");
        assert_int_equal(w->scheme->ordered, ordered);
        assert_int_equal(w->source.order != NULL, ordered);
        w->source.rows(w->source.ctx, 0, ROWS,
                       &(struct scheme_rows){codes[ordered], scales[ordered], zeros[ordered]});
        for (int i = 0; ordered && i < COLS; i++) {
            const int32_t c = w->source.order[i];
            assert_int_equal(swapped_idx[c], i / 32);
            assert_true(i % 32 == 0 || c > w->source.order[i - 1]); /* stable */
            for (int r = 0; r < ROWS; r++)
                assert_int_equal(codes[1][r * COLS + i], codes[0][r * COLS + c]);
        }
        close_folder(&f);
    }
    assert_memory_equal(scales[0], scales[1], sizeof scales[0]);
    assert_memory_equal(zeros[0], zeros[1], sizeof zeros[0]);
}

/* Stored 7 in each of eight is the default, 8, and is no zero point; one that differs makes all.  A
 * 0 is stored as 15, and the next less one more. */
static void symmetric_zero_points_are_none(void **state)
{
    (void)state;
    static struct folder f;
    static const uint32_t plain[2] = {0x77777777, 0x77777777}, one[2] = {0x77777777, 0x46f66677};
    const uint32_t *const zeros[] = {plain, one};
    for (int i = 0; i < 2; i++) {
        struct entry list[TENSORS_MAX];
        struct status st = {0};
        const int n = copy_list(&formats[GPTQ], list);
        list[1].bytes = (const char *)zeros[i];
        assert_true(open_list(&f, formats[GPTQ].config, list, n, &st));
        const struct weight *w = quant_folder_find(f.q, "m.weight");
        assert_int_equal(w->scheme->has_zero, i);
        if (i == 1) {
            uint8_t codes[COLS];
            float scales[2];
            int16_t got[2];
            w->source.rows(w->source.ctx, 5, 1, &(struct scheme_rows){codes, scales, got});
            assert_int_equal(got[0], 8);
            assert_int_equal(got[1], 0);
            w->source.rows(w->source.ctx, 6, 1, &(struct scheme_rows){codes, scales, got});
            assert_int_equal(got[1], 8);
        }
        close_folder(&f);
    }
}

/* The scale of block i is map[absmax[i]] * nested_absmax[i / 256] + offset, over all rows. */
enum { TALL_BLOCKS = 160 * 2 };

static void scales_of_scales_go_by_256_blocks(void **state)
{
    (void)state;
    static struct folder f;
    static const float units[2] = {3, 5};
    static uint8_t absmax[TALL_BLOCKS], codes[3 * COLS];
    static float got[3 * 2];
    static const char text[] = "{\"quant_type\":\"nf4\",\"blocksize\":32,\"dtype\":\"float16\","
                               "\"shape\":[160,64]" NESTED "}";
    struct entry list[TENSORS_MAX];
    struct status st = {0};
    const int n = copy_list(&formats[BNB4], list);
    for (int i = 0; i < TALL_BLOCKS; i++)
        absmax[i] = (uint8_t)(i * 7);
    list[1] = (struct entry){"m.weight.absmax", "U8", "[320]", sizeof absmax, (char *)absmax};
    list[0] = (struct entry){"m.weight", "U8", "[5120]", 5120, NULL};
    list[3] = (struct entry){"m.weight.nested_absmax", "F32", "[2]", BYTES(units)};
    list[5] = (struct entry)STATE_OF(text);
    assert_true(open_list(&f, formats[BNB4].config, list, n, &st));
    const struct weight *w = quant_folder_find(f.q, "m.weight");
    for (int r = 0; r < 160; r += 3) {
        const int rows = r + 3 < 160 ? 3 : 160 - r;
        w->source.rows(w->source.ctx, r, rows, &(struct scheme_rows){codes, got, NULL});
        for (int i = 0; i < rows * 2; i++) {
            const int at = r * 2 + i;
            assert_true(got[i] == nested_map[absmax[at]] * units[at / 256] + 0.5f);
        }
    }
    close_folder(&f);
}

/* ---- packed across: more than a tile, and parts of one, against the definition ---- */

enum { WIDE = 224, TALL = 40 };

static uint32_t words[WIDE * TALL / 8];

/* The code of row r, column c. */
static int gptq_code(int r, int c)
{
    return words[c / 8 * TALL + r] >> c % 8 * 4 & 15;
}

static int awq_code(int r, int c)
{
    static const int row_of_slot[8] = {0, 2, 4, 6, 1, 3, 5, 7};
    int slot = 0;
    while (row_of_slot[slot] != r % 8)
        slot++;
    return words[c * TALL / 8 + r / 8] >> slot * 4 & 15;
}

static void compare_chunks(const struct weight *w, int (*code)(int r, int c))
{
    static uint8_t got[WIDE * TALL];
    float scales[TALL * 7];
    int16_t zeros[TALL * 7];
    for (int first = 0, n = 1; first < TALL; first += n, n = n * 3 % 31) {
        n = n < TALL - first ? n : TALL - first;
        memset(got, 0xff, sizeof got);
        w->source.rows(w->source.ctx, first, n, &(struct scheme_rows){got, scales, zeros});
        for (int r = 0; r < n; r++)
            for (int i = 0; i < WIDE; i++)
                assert_int_equal(got[r * WIDE + i],
                                 code(first + r, w->source.order ? w->source.order[i] : i));
        assert_true(n == TALL || got[n * WIDE] == 0xff);
    }
}

static void columns_beyond_a_tile_are_read(void **state)
{
    (void)state;
    static struct folder f;
    static int32_t g_idx[WIDE];
    static const struct {
        const char *config, *shape;
        int n_parts; /* the last one is the order */
        int (*code)(int r, int c);
    } cases[] = {
        {"{\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":32}", "[28,40]", 3, gptq_code},
        {"{\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":32}", "[28,40]", 4, gptq_code},
        {"{\"quant_method\":\"awq\",\"bits\":4,\"group_size\":32}", "[224,5]", 3, awq_code},
    };
    uint32_t seed = 1;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        words[i] = seed = seed * 1664525 + 1013904223;
    for (int c = 0; c < WIDE; c++)
        g_idx[c] = c * 27 % WIDE / 32;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct status st = {0};
        const struct entry list[] = {{"m.qweight", "I32", cases[i].shape, BYTES(words)},
                                     {"m.qzeros", "I32", "[7,5]", 140, NULL},
                                     {"m.scales", "F16", "[7,40]", 560, NULL},
                                     {"m.g_idx", "I32", "[224]", BYTES(g_idx)}};
        if (!open_list(&f, cases[i].config, list, cases[i].n_parts, &st))
            fail_msg("case %zu: %s", i, st.msg);
        const struct weight *w = quant_folder_find(f.q, "m.weight");
        assert_true(w->rows == TALL && w->cols == WIDE);
        assert_int_equal(w->scheme->ordered, cases[i].n_parts == 4);
        compare_chunks(w, cases[i].code);
        close_folder(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_format_gives_one_matrix),
        cmocka_unit_test(what_is_wrong_is_refused_by_name),
        cmocka_unit_test(one_group_of_linear_modules_is_read),
        cmocka_unit_test(columns_of_a_group_come_together),
        cmocka_unit_test(symmetric_zero_points_are_none),
        cmocka_unit_test(scales_of_scales_go_by_256_blocks),
        cmocka_unit_test(columns_beyond_a_tile_are_read),
    };
    memcpy(nf4_map, scheme_nf4, sizeof nf4_map);
    for (int i = 0; i < 256; i++)
        nested_map[i] = (float)(i - 128) / 64;
    for (int c = 0; c < COLS; c++) {
        plain_idx[c] = far_idx[c] = c / 32;
        swapped_idx[c] = c * 29 % COLS / 32;
        uneven_idx[c] = c > 32;
    }
    far_idx[COLS - 1] = -1;
    return cmocka_run_group_tests_name("quant folder", tests, NULL, NULL);
}
