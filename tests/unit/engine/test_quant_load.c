/* Weights that are quantized on load come to the device as quantize_row makes them of the file's
 * rows, those that the options leave alone as they are, and what cannot be quantized is refused by
 * name.  The device is a stand-in that keeps what it was given. */
#include "engine/quant_load.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "engine/engine.h"
#include "engine/gguf.h"
#include "engine/model.h"
#include "kernels/quantize.h"
#include "tests/unit/engine/tiny_model.h"

enum { PUTS_MAX = 64, CHUNK = 7 };

struct device {
    void *memory;
    struct put {
        const struct tensor *w;
        float *values; /* [rows, cols] what the codes stand for; NULL: not of a scheme */
    } put[PUTS_MAX];
    int n_puts;
};

static size_t stand_in_bytes(const struct device *d, const struct tensor *w)
{
    size_t n = 0;
    (void)d;
    if (w->scheme)
        return scheme_bytes(w->scheme, w->rows, w->cols);
    assert_true(tensor_file_bytes(w->dtype, w->rows, w->cols, &n));
    return n;
}

static void *stand_in_take(struct device *d, size_t n_bytes, struct status *st)
{
    (void)st;
    d->memory = aligned_alloc(256, (n_bytes + 255) / 256 * 256);
    return memset(d->memory, 0, n_bytes);
}

static void stand_in_copy(struct device *d, void *to, const void *from, size_t n_bytes)
{
    (void)d;
    memcpy(to, from, n_bytes);
}

/* Rows are asked for in chunks, the last one first: each must not depend on the others. */
static void put_scheme(struct put *put, const struct tensor *w, const struct weight_source *src)
{
    const struct scheme *s = w->scheme;
    const int64_t cols = w->cols, n_groups = scheme_groups(s, cols);
    uint8_t *codes = malloc((size_t)(CHUNK * cols));
    float *scales = malloc((size_t)(CHUNK * n_groups) * sizeof *scales);
    int16_t *zeros = malloc((size_t)(CHUNK * n_groups) * sizeof *zeros);
    put->values = calloc((size_t)(w->rows * cols), sizeof *put->values);
    for (int64_t first = (w->rows - 1) / CHUNK * CHUNK; first >= 0; first -= CHUNK) {
        const int64_t n = w->rows - first < CHUNK ? w->rows - first : CHUNK;
        src->rows(src->ctx, first, n,
                  &(struct scheme_rows){codes, scales, s->has_zero ? zeros : NULL});
        for (int64_t i = 0; i < n; i++)
            scheme_dequantize_row(s,
                                  &(struct scheme_rows){codes + i * cols, scales + i * n_groups,
                                                        zeros + i * n_groups},
                                  cols, put->values + (first + i) * cols);
    }
    free(codes);
    free(scales);
    free(zeros);
}

static void stand_in_put(struct device *d, struct tensor *w, const struct weight_source *src)
{
    struct put *put = &d->put[d->n_puts++];
    assert_true(d->n_puts <= PUTS_MAX);
    *put = (struct put){.w = w};
    if (w->scheme)
        put_scheme(put, w, src);
    else
        memcpy(w->data, src->at, stand_in_bytes(d, w));
}

static bool stand_in_done(struct device *d, struct status *st)
{
    (void)d, (void)st;
    return true;
}

static const struct ops stand_in = {
    .name = "stand-in",
    .host_memory = true,
    .mem_take = stand_in_take,
    .copy_in = stand_in_copy,
    .weight_bytes = stand_in_bytes,
    .weight_put = stand_in_put,
    .weights_done = stand_in_done,
};

static void device_clear(struct device *d)
{
    for (int i = 0; i < d->n_puts; i++)
        free(d->put[i].values);
    free(d->memory);
    *d = (struct device){0};
}

struct loaded {
    struct make m;
    struct model_file f;
    struct model model;
    struct device dev;
};

static const struct tiny shape = {
    .hidden = 64,
    .n_layers = 2,
    .n_heads = 4,
    .n_kv_heads = 2,
    .head_dim = 16,
    .ffn = 128,
    .vocab = 160,
    .context = 128,
    .dtype = DT_F32,
};

static bool apply(struct loaded *l, const struct tiny *t, const struct engine_options *o,
                  struct status *st)
{
    *l = (struct loaded){0};
    tiny_make(&l->m, t);
    struct gguf *g = gguf_open_memory(l->m.at, l->m.n, st);
    assert_true(g && model_file_bind(&l->f, g, st));
    return quant_load_apply(&l->f, o, st);
}

static bool load(struct loaded *l, struct status *st)
{
    return model_load(&l->model, &l->f, &stand_in, &l->dev, &(struct load_progress){0}, st);
}

static void loaded_close(struct loaded *l)
{
    device_clear(&l->dev);
    model_close(&l->model);
    model_file_close(&l->f);
    make_close(&l->m);
}

static const float *values_of(const struct loaded *l, const struct tensor *w)
{
    for (int i = 0; i < l->dev.n_puts; i++)
        if (l->dev.put[i].w == w)
            return l->dev.put[i].values;
    return NULL;
}

/* What the values of a weight should be, from the definitions alone. */
static float *expect(const struct scheme *s, const struct weight *from)
{
    const int64_t rows = from->rows, cols = from->cols, n = scheme_groups(s, cols);
    const size_t row_bytes = from->n_bytes / (size_t)rows;
    float *values = malloc((size_t)(rows * cols) * sizeof *values), *x = malloc(cols * sizeof *x);
    float *scales = malloc((size_t)(rows * n) * sizeof *scales);
    uint8_t *codes = malloc((size_t)(rows * cols));
    int16_t *zeros = malloc((size_t)(rows * n) * sizeof *zeros);
    for (int64_t i = 0; i < rows; i++) {
        dequantize_row(from->dtype, (const char *)from->source.at + (size_t)i * row_bytes, x, cols);
        assert_true(quantize_row(s, x, cols,
                                 &(struct scheme_rows){codes + i * cols, scales + i * n,
                                                       s->has_zero ? zeros + i * n : NULL}));
    }
    float absmax[64];
    struct nested nested = {.absmax = absmax};
    if (s->nested) {
        nested_make(&nested, scales, rows * n);
        nested_round(&nested, 0, rows * n, scales, NULL);
    }
    for (int64_t i = 0; i < rows; i++)
        scheme_dequantize_row(
            s, &(struct scheme_rows){codes + i * cols, scales + i * n, zeros + i * n}, cols,
            values + i * cols);
    free(x), free(scales), free(codes), free(zeros);
    return values;
}

/* Every bound matrix: quantized as `o` says or left alone. */
static int check_all(const struct loaded *l, const struct scheme *layers, const struct scheme *head)
{
    int n_quantized = 0;
    for (size_t i = 0; i < l->f.n_bound; i++) {
        const struct bound *b = &l->f.bound[i];
        if (b->rule->rows == DIM_ONE)
            continue;
        const struct scheme *s = b->il < 0 ? head : layers;
        const struct tensor *w =
            b->il < 0 ? l->model.w[b->rule->slot] : l->model.layer[b->il].w[b->rule->slot];
        const float *got = values_of(l, w);
        assert_true((got != NULL) == (s != NULL));
        if (!s)
            continue;
        const struct weight *from = quant_load_file_weight(b);
        float *want = expect(s, from);
        assert_true(from->dtype < DT_N && w->dtype == s->codes);
        assert_memory_equal(got, want, (size_t)(from->rows * from->cols) * sizeof *want);
        free(want);
        n_quantized++;
    }
    return n_quantized;
}

static void every_scheme_loads_as_its_rows_are_made(void **state)
{
    static const char *const names[] = {"int8",       "w8a16",         "nf4",
                                        "nf4:nested", "fp4",           "fp4:nested",
                                        "fp8",        "int4:group=32", "int4:asymmetric:group=64"};
    static const enum dtype from[] = {DT_F32, DT_F16, DT_Q8_0};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        for (size_t k = 0; k < 3; k++) {
            struct loaded l;
            struct scheme s;
            struct status st = {0};
            struct tiny t = shape;
            t.dtype = from[k];
            const struct engine_options o = {.quantize = names[i], .n_threads = 2};
            assert_true(scheme_parse(&s, names[i], &st));
            if (!apply(&l, &t, &o, &st) || !load(&l, &st))
                fail_msg("%s: %s", names[i], st.msg);
            assert_int_equal(check_all(&l, &s, NULL), 2 * 7);
            loaded_close(&l);
        }
    }
}

static void the_head_has_a_scheme_of_its_own(void **state)
{
    (void)state;
    struct loaded l;
    struct status st = {0};
    struct scheme layers, head;
    assert_true(scheme_parse(&layers, "nf4", &st) && scheme_parse(&head, "int8", &st));
    assert_true(apply(&l, &shape,
                      &(struct engine_options){.quantize = "nf4", .quantize_head = "int8"}, &st));
    assert_true(load(&l, &st));
    assert_int_equal(check_all(&l, &layers, &head), 2 * 7 + 2);
    loaded_close(&l);
    assert_true(apply(&l, &shape,
                      &(struct engine_options){.quantize = "none", .quantize_head = "int8"}, &st));
    assert_true(load(&l, &st));
    assert_int_equal(check_all(&l, NULL, &head), 2);
    loaded_close(&l);
}

static bool is_quantized(const struct loaded *l, const char *name)
{
    for (size_t i = 0; i < l->f.n_bound; i++)
        if (str_is(l->f.bound[i].src->name, name))
            return l->f.bound[i].src->scheme != NULL;
    fail_msg("no %s", name);
    return false;
}

/* A device asks what its codes mean when the file is long closed. */
static void schemes_outlive_the_file(void **state)
{
    (void)state;
    struct loaded l;
    struct status st = {0};
    assert_true(apply(&l, &shape, &(struct engine_options){.quantize = "int8:threshold=3"}, &st));
    assert_true(load(&l, &st));
    model_file_close(&l.f);
    const struct scheme *s = l.model.layer[1].w[W_UP]->scheme;
    assert_true(s && s->codes == DT_INT8 && s->act == ACTS_OUTLIERS && s->threshold == 3);
    loaded_close(&l);
}

static void names_to_skip_are_left_alone(void **state)
{
    (void)state;
    struct loaded l;
    struct status st = {0};
    struct buf out;
    buf_init(&out, 1 << 16);
    const struct engine_options o = {.quantize = "int8", .quantize_skip = "ffn_down, blk.1.attn_q"};
    assert_true(apply(&l, &shape, &o, &st));
    assert_false(is_quantized(&l, "blk.0.ffn_down.weight"));
    assert_false(is_quantized(&l, "blk.1.ffn_down.weight"));
    assert_false(is_quantized(&l, "blk.1.attn_q.weight"));
    assert_true(is_quantized(&l, "blk.0.attn_q.weight"));
    assert_true(is_quantized(&l, "blk.1.ffn_up.weight"));
    assert_false(is_quantized(&l, "token_embd.weight"));
    quant_load_print(&l.f, &out);
    static const char *const words[] = {"layers       int8, a scale a row",
                                        "head         as in the file",
                                        "left alone   ",
                                        "blk.1.attn_q.weight",
                                        "blk.0.ffn_down.weight",
                                        "output.weight"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (!strstr(out.at, words[i]))
            fail_msg("no \"%s\" in:\n%s", words[i], out.at);
    buf_close(&out);
    loaded_close(&l);
}

static void without_options_nothing_changes(void **state)
{
    (void)state;
    static const char *const off[] = {NULL, "", "none"};
    for (int i = 0; i < 3; i++) {
        struct loaded l;
        struct status st = {0};
        assert_true(apply(&l, &shape, &(struct engine_options){.quantize = off[i]}, &st));
        assert_null(l.f.quant_load);
        assert_true(load(&l, &st));
        assert_int_equal(check_all(&l, NULL, NULL), 0);
        loaded_close(&l);
    }
}

static void what_cannot_be_quantized_is_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        struct engine_options o;
        enum status_code code;
        const char *message;
    } table[] = {
        {{.quantize = "int4"},
         STATUS_UNSUPPORTED,
         "tensor blk.0.attn_q.weight: int4: want a multiple of the group's 128 columns, found 64"},
        {{.quantize = "int5"}, STATUS_BAD_INPUT, "quantize: want int8, w8a16"},
        {{.quantize_head = "int8:nested"}, STATUS_BAD_INPUT, "quantize-head: int8: want"},
        {{.quantize = "int8", .quantize_skip = "attn_q,mlp.gate"},
         STATUS_BAD_INPUT,
         "quantize-skip: no weight has \"mlp.gate\" in its name"},
        {{.quantize_skip = "attn_q"}, STATUS_BAD_INPUT, "quantize-skip: nothing is quantized"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct loaded l;
        struct status st = {0};
        if (apply(&l, &shape, &table[i].o, &st) || st.code != table[i].code ||
            !strstr(st.msg, table[i].message))
            fail_msg("%zu: %s: %s", i, status_name(st.code), st.msg);
        loaded_close(&l);
    }
}

/* A value of blk.1.ffn_up.weight in the file's bytes. */
static void set_value(struct loaded *l, float v)
{
    for (size_t i = 0; i < l->f.n_bound; i++)
        if (l->f.bound[i].rule->slot == W_UP && l->f.bound[i].il == 1) {
            const struct weight *w = quant_load_file_weight(&l->f.bound[i]);
            const size_t at = (size_t)((const char *)w->source.at - (const char *)l->m.at);
            memcpy(l->m.at + at + 4 * 777, &v, 4);
        }
}

static void values_that_are_not_finite_are_refused_by_name(void **state)
{
    (void)state;
    static const char *const names[] = {"int8", "nf4", "nf4:nested", "int4:group=64", "fp8"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct loaded l;
        struct status st = {0};
        assert_true(apply(&l, &shape, &(struct engine_options){.quantize = names[i]}, &st));
        set_value(&l, i % 2 ? INFINITY : NAN);
        assert_false(load(&l, &st));
        assert_int_equal(st.code, STATUS_CORRUPT);
        assert_string_equal(st.msg, "tensor blk.1.ffn_up.weight: want finite values to quantize, "
                                    "found NaN or infinity");
        loaded_close(&l);
    }
}

static void codes_that_are_there_are_kept_or_refused(void **state)
{
    (void)state;
    static const struct scheme nf4 = {.codes = DT_NF4, .group = 64},
                               int8 = {.codes = DT_INT8, .act = ACTS_OUTLIERS, .threshold = 6};
    static const struct {
        const struct scheme *has;
        const char *quantize, *message; /* NULL: kept */
    } table[] = {
        {&nf4, "nf4", NULL},
        {&nf4, "nf4:nested", "nested scales of, found nf4, groups of 64, f32 scales"},
        {&nf4, "int8", "tensor blk.0.attn_q.weight: want plain numbers to make int8"},
        {&int8, "int8", NULL},
        {&int8, "int8:threshold=3",
         "tensor blk.0.attn_q.weight: want threshold=6, as its file has it, found 3"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct loaded l;
        struct status st = {0};
        assert_true(apply(&l, &shape, &(struct engine_options){0}, &st));
        struct bound *b = l.f.bound;
        while (b->rule->slot != W_Q)
            b++;
        struct weight coded = *b->src;
        coded.dtype = table[i].has->codes;
        coded.scheme = table[i].has;
        b->src = &coded;
        const bool ok =
            quant_load_apply(&l.f, &(struct engine_options){.quantize = table[i].quantize}, &st);
        assert_true(ok == !table[i].message);
        if (ok)
            assert_ptr_equal(b->src, &coded);
        else if (st.code != STATUS_UNSUPPORTED || !strstr(st.msg, table[i].message))
            fail_msg("%s: %s", table[i].quantize, st.msg);
        loaded_close(&l);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_scheme_loads_as_its_rows_are_made),
        cmocka_unit_test(the_head_has_a_scheme_of_its_own),
        cmocka_unit_test(schemes_outlive_the_file),
        cmocka_unit_test(names_to_skip_are_left_alone),
        cmocka_unit_test(without_options_nothing_changes),
        cmocka_unit_test(what_cannot_be_quantized_is_refused_by_name),
        cmocka_unit_test(values_that_are_not_finite_are_refused_by_name),
        cmocka_unit_test(codes_that_are_there_are_kept_or_refused),
    };
    return cmocka_run_group_tests_name("quant_load", tests, NULL, NULL);
}
