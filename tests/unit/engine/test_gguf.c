/* A GGUF file is checked whole at open: a file that is refused says where and why, and on a file
 * that is accepted every accessor is safe. */
#include "engine/gguf.h"

#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <cmocka.h>

#include "tests/unit/engine/gguf_make.h"

static void put_all_keys(struct make *m)
{
    const int8_t i8 = -5;
    const int16_t i16 = -300;
    const int32_t i32 = -70000;
    const int64_t i64 = -5000000000;
    const uint64_t u64 = 1ull << 63;
    const double f64 = 1e300;
    make_key_str(m, "general.architecture", "llama");
    make_key(m, "u8", G_U8), make_put(m, "\xff", 1);
    make_key(m, "i8", G_I8), make_put(m, &i8, 1);
    make_key(m, "u16", G_U16), make_put(m, "\x34\x12", 2);
    make_key(m, "i16", G_I16), make_put(m, &i16, 2);
    make_key_u32(m, "u32", 0xfffffff0u);
    make_key(m, "i32", G_I32), make_put(m, &i32, 4);
    make_key_f32(m, "f32", 0.1f);
    make_key(m, "yes", G_BOOL), make_put(m, "\1", 1);
    make_key(m, "no", G_BOOL), make_put(m, "\0", 1);
    make_key(m, "u64", G_U64), make_u64(m, u64);
    make_key(m, "i64", G_I64), make_put(m, &i64, 8);
    make_key(m, "f64", G_F64), make_put(m, &f64, 8);
    make_key_str(m, "empty", "");
    make_key_array(m, "words", G_STRING, 3);
    make_str(m, "one"), make_str(m, ""), make_str(m, "three");
    make_key_array(m, "ints", G_I32, 2);
    make_u32(m, 7), make_u32(m, (uint32_t)-7);
    make_key_array(m, "floats", G_F32, 2);
    make_put(m, &(float[]){1.5f, -2.5f}, 8);
    make_key_array(m, "unsigned", G_U32, 1);
    make_u32(m, 0x7fffffff);
    make_key_array(m, "too_big", G_U32, 1);
    make_u32(m, 0x80000000u);
    make_key_array(m, "none", G_STRING, 0);
}

static void make_small(struct make *m)
{
    make_begin(m);
    put_all_keys(m);
    make_tensor(m, "a.weight", DT_F32, 3, 5);
    make_tensor(m, "b.weight", DT_Q8_0, 2, 64);
    make_tensor(m, "c.bias", DT_F16, 1, 7);
    make_data(m);
}

/* Calls everything there is on an open file; for the sake of what it must not do. */
static void use_everything(const struct gguf *g)
{
    static const char *const keys[] = {"general.architecture",
                                       "u8",
                                       "i8",
                                       "f32",
                                       "yes",
                                       "u64",
                                       "i64",
                                       "f64",
                                       "empty",
                                       "words",
                                       "ints",
                                       "floats",
                                       "unsigned",
                                       "too_big",
                                       "none",
                                       "nothing"};
    uint64_t sum = gguf_file_bytes(g) + gguf_trailing_bytes(g);
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        uint64_t u;
        double f;
        bool b;
        struct str s;
        struct gguf_array a;
        sum += gguf_u64(g, keys[i], &u, &(struct status){0});
        sum += gguf_f64(g, keys[i], &f, &(struct status){0});
        sum += gguf_bool(g, keys[i], &b, &(struct status){0});
        if (gguf_string(g, keys[i], &s, &(struct status){0}))
            for (size_t j = 0; j < s.n; j++)
                sum += (uint8_t)s.at[j];
        for (int want = GGUF_STRINGS; want <= GGUF_F32; want++) {
            if (!gguf_array(g, keys[i], want, &a, &(struct status){0}))
                continue;
            const void *cursor = NULL;
            for (size_t j = 0; j < a.n; j++) {
                if (want == GGUF_STRINGS) {
                    s = gguf_array_next(&a, &cursor);
                    for (size_t k = 0; k < s.n; k++)
                        sum += (uint8_t)s.at[k];
                } else if (want == GGUF_I32) {
                    sum += (uint64_t)gguf_array_i32(&a, j);
                } else {
                    sum += gguf_array_f32(&a, j) > 0;
                }
            }
        }
    }
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct weight *t = gguf_tensor_at(g, i);
        for (size_t j = 0; j < t->n_bytes; j++)
            sum += ((const uint8_t *)t->source.at)[j];
    }
    gguf_release_pages(g);
    volatile uint64_t sink = sum;
    (void)sink;
}

static void every_value_reads_back(void **state)
{
    (void)state;
    struct make m;
    struct status st = {0};
    make_small(&m);
    struct gguf *g = gguf_open_memory(m.at, m.n, &st);
    assert_string_equal(st.msg, "");
    uint64_t u;
    double f;
    bool b;
    assert_true(gguf_u64(g, "u8", &u, &st) && u == 255);
    assert_true(gguf_u64(g, "u16", &u, &st) && u == 0x1234);
    assert_true(gguf_u64(g, "u32", &u, &st) && u == 0xfffffff0u);
    assert_true(gguf_u64(g, "u64", &u, &st) && u == 1ull << 63);
    assert_true(gguf_f64(g, "i8", &f, &st) && f == -5);
    assert_true(gguf_f64(g, "i16", &f, &st) && f == -300);
    assert_true(gguf_f64(g, "i32", &f, &st) && f == -70000);
    assert_true(gguf_f64(g, "i64", &f, &st) && f == -5e9);
    assert_true(gguf_f64(g, "u32", &f, &st) && f == 4294967280.0);
    assert_true(gguf_f64(g, "f32", &f, &st) && f == (double)0.1f);
    assert_true(gguf_f64(g, "f64", &f, &st) && f == 1e300);
    assert_true(gguf_bool(g, "yes", &b, &st) && b);
    assert_true(gguf_bool(g, "no", &b, &st) && !b);
    struct str s;
    assert_true(gguf_string(g, "general.architecture", &s, &st));
    assert_int_equal(s.n, 5);
    assert_memory_equal(s.at, "llama", 5);
    assert_true(gguf_string(g, "empty", &s, &st) && s.n == 0);
    assert_string_equal(st.msg, "");
    gguf_close(g);
    make_close(&m);
}

static void arrays_read_back_element_by_element(void **state)
{
    (void)state;
    struct make m;
    struct status st = {0};
    struct gguf_array a;
    make_small(&m);
    struct gguf *g = gguf_open_memory(m.at, m.n, &st);
    assert_non_null(g);
    assert_true(gguf_array(g, "ints", GGUF_I32, &a, &st) && a.n == 2);
    assert_int_equal(gguf_array_i32(&a, 0), 7);
    assert_int_equal(gguf_array_i32(&a, 1), -7);
    assert_true(gguf_array(g, "unsigned", GGUF_I32, &a, &st));
    assert_int_equal(gguf_array_i32(&a, 0), INT32_MAX);
    assert_true(gguf_array(g, "floats", GGUF_F32, &a, &st));
    assert_true(gguf_array_f32(&a, 0) == 1.5f && gguf_array_f32(&a, 1) == -2.5f);
    assert_true(gguf_array(g, "none", GGUF_STRINGS, &a, &st) && a.n == 0);
    assert_true(gguf_array(g, "words", GGUF_STRINGS, &a, &st) && a.n == 3);
    const char *const want[] = {"one", "", "three"};
    const void *cursor = NULL;
    for (int i = 0; i < 3; i++) {
        const struct str s = gguf_array_next(&a, &cursor);
        assert_int_equal(s.n, strlen(want[i]));
        assert_memory_equal(s.at, want[i], s.n);
    }
    gguf_close(g);
    make_close(&m);
}

static void tensors_are_found_by_name_with_their_bytes(void **state)
{
    (void)state;
    struct make m;
    struct status st = {0};
    make_small(&m);
    struct gguf *g = gguf_open_memory(m.at, m.n, &st);
    assert_non_null(g);
    assert_int_equal(gguf_n_tensors(g), 3);
    const struct weight *t = gguf_tensor_find(g, "b.weight");
    assert_non_null(t);
    assert_ptr_equal(t, gguf_tensor_at(g, 1));
    assert_int_equal(t->rows, 2);
    assert_int_equal(t->cols, 64);
    assert_int_equal(t->dtype, DT_Q8_0);
    assert_int_equal(t->n_bytes, 4 * 34);
    assert_int_equal(((uintptr_t)t->source.at - (uintptr_t)m.at) % 32, 0);
    t = gguf_tensor_find(g, "c.bias");
    assert_true(t->rows == 1 && t->cols == 7 && t->n_bytes == 14);
    assert_null(gguf_tensor_find(g, "c.bia"));
    assert_null(gguf_tensor_find(g, ""));
    gguf_close(g);
    make_close(&m);
}

static void a_key_of_another_type_is_named_with_both_types(void **state)
{
    (void)state;
    struct make m;
    make_small(&m);
    struct gguf *g = gguf_open_memory(m.at, m.n, &(struct status){0});
    assert_non_null(g);
    uint64_t u = 1;
    double f;
    bool b;
    struct str s;
    struct gguf_array a;
    struct status st = {0};
    assert_false(gguf_u64(g, "missing", &u, &st));
    assert_int_equal(st.code, STATUS_OK);
#define REFUSED(call, text)                                                                        \
    do {                                                                                           \
        st = (struct status){0};                                                                   \
        assert_false(call);                                                                        \
        assert_int_equal(st.code, STATUS_CORRUPT);                                                 \
        assert_non_null(strstr(st.msg, text));                                                     \
    } while (0)
    REFUSED(gguf_u64(g, "f32", &u, &st), "key f32: want an integer, found float32");
    REFUSED(gguf_u64(g, "i64", &u, &st),
            "key i64: want an integer of at least 0, found -5000000000");
    REFUSED(gguf_u64(g, "yes", &u, &st), "key yes: want an integer, found bool");
    REFUSED(gguf_f64(g, "u64", &f, &st), "key u64: want a number that a float64 can hold");
    REFUSED(gguf_f64(g, "ints", &f, &st), "key ints: want a number, found array of int32");
    REFUSED(gguf_bool(g, "u8", &b, &st), "key u8: want a bool, found uint8");
    REFUSED(gguf_string(g, "words", &s, &st), "key words: want a string, found array of string");
    REFUSED(gguf_array(g, "words", GGUF_F32, &a, &st),
            "want array of float32, found array of string");
    REFUSED(gguf_array(g, "u8", GGUF_I32, &a, &st), "key u8: want array of int32, found uint8");
    REFUSED(gguf_array(g, "too_big", GGUF_I32, &a, &st),
            "want elements below 2^31, found 2147483648");
    gguf_close(g);
    make_close(&m);
}

static void a_file_cut_at_any_byte_is_refused(void **state)
{
    (void)state;
    struct make m;
    make_small(&m);
    const size_t end = m.n - (32 - 14); /* the last tensor's padding may be missing */
    for (size_t n = 0; n <= m.n; n++) {
        struct guarded at = guard(m.at, n);
        struct status st = {0};
        struct gguf *g = gguf_open_memory(at.at, n, &st);
        if (n < end) {
            assert_null(g);
            assert_int_equal(st.code, STATUS_CORRUPT);
            assert_non_null(strstr(st.msg, "offset "));
        } else {
            assert_non_null(g);
            use_everything(g);
        }
        gguf_close(g);
        unguard(&at);
    }
    make_close(&m);
}

static void a_file_with_any_byte_changed_is_refused_or_safe(void **state)
{
    (void)state;
    static const uint8_t flips[] = {0x01, 0x80, 0xff, 0x20};
    struct make m;
    make_small(&m);
    struct guarded at = guard(m.at, m.n);
    int n_refused = 0;
    for (size_t i = 0; i < m.n; i++) {
        for (size_t j = 0; j < sizeof flips; j++) {
            struct status st = {0};
            at.at[i] ^= flips[j];
            struct gguf *g = gguf_open_memory(at.at, m.n, &st);
            if (g)
                use_everything(g);
            else
                n_refused += st.code != STATUS_OK && st.msg[0] != 0;
            gguf_close(g);
            at.at[i] ^= flips[j];
        }
    }
    assert_true(n_refused > 500);
    unguard(&at);
    make_close(&m);
}

static void a_file_at_an_odd_address_reads_the_same(void **state)
{
    (void)state;
    struct make m;
    struct status st = {0};
    make_small(&m);
    uint8_t *odd = malloc(m.n + 1);
    memcpy(odd + 1, m.at, m.n);
    struct gguf *g = gguf_open_memory(odd + 1, m.n, &st);
    assert_non_null(g);
    use_everything(g);
    gguf_close(g);
    free(odd);
    make_close(&m);
}

/* Bad files: each begins as a good one. */

static void bad_magic(struct make *m)
{
    memcpy(m->at, "GGML", 4);
}
static void bad_version_1(struct make *m)
{
    m->at[4] = 1;
}
static void bad_version_4(struct make *m)
{
    m->at[4] = 4;
}
static void bad_version_swapped(struct make *m)
{
    memcpy(m->at + 4, "\0\0\0\3", 4);
}
static void patch(struct make *m, size_t at, uint64_t v)
{
    memcpy(m->at + at, &v, 8);
}
static void tensors_minus_one(struct make *m)
{
    patch(m, MAKE_AT_TENSORS, UINT64_MAX);
}
static void tensors_2_63(struct make *m)
{
    patch(m, MAKE_AT_TENSORS, 1ull << 63);
}
static void tensors_billion(struct make *m)
{
    patch(m, MAKE_AT_TENSORS, 1000000000);
}
static void tensors_limit(struct make *m)
{
    patch(m, MAKE_AT_TENSORS, 65536);
}
static void keys_minus_one(struct make *m)
{
    patch(m, MAKE_AT_KEYS, UINT64_MAX);
}
static void keys_2_63(struct make *m)
{
    patch(m, MAKE_AT_KEYS, 1ull << 63);
}
static void keys_billion(struct make *m)
{
    patch(m, MAKE_AT_KEYS, 1000000000);
}
static void keys_limit(struct make *m)
{
    patch(m, MAKE_AT_KEYS, 65536);
}
static void type_13(struct make *m)
{
    make_key(m, "k", 13), make_u64(m, 0);
}
static void type_huge(struct make *m)
{
    make_key(m, "k", UINT32_MAX), make_u64(m, 0);
}
static void array_of_arrays(struct make *m)
{
    make_key_array(m, "k", G_ARRAY, 1), make_u64(m, 0), make_u64(m, 0);
}
static void array_type_bad(struct make *m)
{
    make_key_array(m, "k", 77, 1), make_u64(m, 0);
}
static void array_too_long(struct make *m)
{
    make_key_array(m, "k", G_U8, 1 << 20);
}
static void array_overflow(struct make *m)
{
    make_key_array(m, "k", G_U64, 1ull << 61);
}
static void array_minus_one(struct make *m)
{
    make_key_array(m, "k", G_STRING, UINT64_MAX);
}
static void string_too_long(struct make *m)
{
    make_key(m, "k", G_STRING), make_u64(m, 1 << 24), make_u64(m, 0);
}
static void string_minus_one(struct make *m)
{
    make_key(m, "k", G_STRING), make_u64(m, UINT64_MAX);
}
static void string_in_array(struct make *m)
{
    make_key_array(m, "k", G_STRING, 2), make_str(m, "x"), make_u64(m, 1ull << 62);
}
static void key_empty(struct make *m)
{
    make_key_u32(m, "", 1);
}
static void key_nul(struct make *m)
{
    make_key_u32(m, "kx", 1);
    m->at[m->n - 9] = 0;
}
static void key_twice(struct make *m)
{
    make_key_u32(m, "k", 1), make_key_u32(m, "k", 1);
}
static void bool_2(struct make *m)
{
    make_key(m, "k", G_BOOL), make_put(m, "\2", 1);
}
static void align_0(struct make *m)
{
    make_key_u32(m, "general.alignment", 0);
}
static void align_3(struct make *m)
{
    make_key_u32(m, "general.alignment", 3);
}
static void align_4(struct make *m)
{
    make_key_u32(m, "general.alignment", 4);
}
static void align_13(struct make *m)
{
    make_key_u32(m, "general.alignment", 13);
}
static void align_8192(struct make *m)
{
    make_key_u32(m, "general.alignment", 8192);
}
static void align_2_31(struct make *m)
{
    make_key_u32(m, "general.alignment", 1u << 31);
}
static void align_i32(struct make *m)
{
    make_key(m, "general.alignment", G_I32), make_u32(m, 32);
}
static void align_other(struct make *m)
{
    make_key_u32(m, "general.alignment", 64);
    make_tensor(m, "t", DT_F32, 1, 8), make_tensor(m, "u", DT_F32, 1, 8);
    make_data(m);
}

static void raw_tensor(struct make *m, const char *name, uint32_t n_dims, const uint64_t *dims,
                       uint32_t type, uint64_t offset)
{
    make_str(m, name);
    make_u32(m, n_dims);
    for (uint32_t i = 0; i < n_dims && i < 5; i++)
        make_u64(m, dims[i]);
    make_u32(m, type);
    make_u64(m, offset);
    make_count_tensor(m);
    for (int i = 0; i < 64; i++)
        make_u64(m, 0);
}

#define DIMS(...) (sizeof((uint64_t[]){__VA_ARGS__}) / 8), ((uint64_t[]){__VA_ARGS__})
static void name_64(struct make *m)
{
    char name[65];
    memset(name, 'n', 64);
    name[64] = 0;
    raw_tensor(m, name, DIMS(4), 0, 0);
}
static void name_empty(struct make *m)
{
    raw_tensor(m, "", DIMS(4), 0, 0);
}
static void name_twice(struct make *m)
{
    make_tensor(m, "t", DT_F32, 1, 8), make_tensor(m, "t", DT_F32, 1, 8);
    make_data(m);
}
static void name_nul(struct make *m)
{
    const size_t at = m->n;
    raw_tensor(m, "tt", DIMS(4), 0, 0);
    m->at[at + 9] = 0;
}
static void dims_5(struct make *m)
{
    raw_tensor(m, "t", DIMS(1, 1, 1, 1, 1), 0, 0);
}
static void dims_0(struct make *m)
{
    raw_tensor(m, "t", DIMS(4, 0), 0, 0);
}
static void dims_minus_one(struct make *m)
{
    raw_tensor(m, "t", DIMS(UINT64_MAX), 0, 0);
}
static void dims_product(struct make *m)
{
    raw_tensor(m, "t", DIMS(1ull << 32, 1ull << 16, 1ull << 16, 2), 0, 0);
}
static void dims_product_rows(struct make *m)
{
    raw_tensor(m, "t", DIMS(1, 1ull << 40, 1ull << 40), 0, 0);
}
static void dims_bytes(struct make *m)
{
    raw_tensor(m, "t", DIMS(1ull << 62), 0, 0);
}
static void dims_bytes_wrap(struct make *m)
{
    raw_tensor(m, "t", DIMS((1ull << 62) + 1), 0, 0);
}
static void dims_bytes_top(struct make *m)
{
    raw_tensor(m, "t", DIMS(INT64_MAX), 24, 0);
}
static void size_past_end(struct make *m)
{
    raw_tensor(m, "t", DIMS(1000), 0, 0);
}
static void sizes_sum(struct make *m)
{
    raw_tensor(m, "t", DIMS(1ull << 60), 0, 0);
    m->n -= 512;
    raw_tensor(m, "u", DIMS(1ull << 60), 0, 1ull << 62);
    m->n -= 512;
    raw_tensor(m, "v", DIMS(1ull << 60), 0, 1ull << 63);
    m->n -= 512;
    raw_tensor(m, "w", DIMS(1ull << 60), 0, 3ull << 62);
    m->n -= 512;
    raw_tensor(m, "x", DIMS(1ull << 60), 0, 0);
}
static void offset_other(struct make *m)
{
    raw_tensor(m, "t", DIMS(4), 0, 32);
}
static void offset_overlap(struct make *m)
{
    raw_tensor(m, "t", DIMS(4), 0, 0);
    m->n -= 512;
    raw_tensor(m, "u", DIMS(4), 0, 0);
}
static void type_unknown(struct make *m)
{
    raw_tensor(m, "t", DIMS(4), 99, 0);
}
static void type_removed(struct make *m)
{
    raw_tensor(m, "t", DIMS(32), 4, 0);
}
static void row_of_half_a_block(struct make *m)
{
    raw_tensor(m, "t", DIMS(48, 2), 8, 0);
}

static const struct {
    const char *name;
    void (*spoil)(struct make *m);
    enum status_code code;
    const char *message;
} bad[] = {
    {"F01 magic", bad_magic, STATUS_CORRUPT,
     "offset 0: want the magic GGUF, found bytes 47 47 4d 4c"},
    {"version 1", bad_version_1, STATUS_UNSUPPORTED, "offset 4: want version 2 or 3, found 1"},
    {"version 4", bad_version_4, STATUS_UNSUPPORTED, "want version 2 or 3, found 4"},
    {"big endian", bad_version_swapped, STATUS_UNSUPPORTED, "found version 3 byte-swapped"},
    {"F04 tensors -1", tensors_minus_one, STATUS_CORRUPT,
     "want at most 65536 as the number of tensors"},
    {"F04 tensors 2^63", tensors_2_63, STATUS_CORRUPT, "found 9223372036854775808"},
    {"F04 tensors 10^9", tensors_billion, STATUS_CORRUPT, "found 1000000000"},
    {"tensors 65536", tensors_limit, STATUS_CORRUPT,
     "want room for 65536 as the number of tensors"},
    {"F05 keys -1", keys_minus_one, STATUS_CORRUPT, "want at most 65536 as the number of keys"},
    {"F05 keys 2^63", keys_2_63, STATUS_CORRUPT, "found 9223372036854775808"},
    {"F05 keys 10^9", keys_billion, STATUS_CORRUPT, "found 1000000000"},
    {"keys 65536", keys_limit, STATUS_CORRUPT, "want room for 65536 as the number of keys"},
    {"F07 type 13", type_13, STATUS_CORRUPT, "key k: want a value type below 13, found 13"},
    {"F07 type 2^32 - 1", type_huge, STATUS_CORRUPT, "found 4294967295"},
    {"F07 array of arrays", array_of_arrays, STATUS_CORRUPT, "key k: want no array of arrays"},
    {"F07 array of type 77", array_type_bad, STATUS_CORRUPT,
     "want an element type below 13, found 77"},
    {"F08 alignment 0", align_0, STATUS_CORRUPT, "want a power of two from 8 to 4096, found 0"},
    {"F08 alignment 3", align_3, STATUS_CORRUPT, "found 3"},
    {"F08 alignment 4", align_4, STATUS_CORRUPT, "found 4"},
    {"F08 alignment 13", align_13, STATUS_CORRUPT, "found 13"},
    {"F08 alignment 8192", align_8192, STATUS_CORRUPT, "found 8192"},
    {"F08 alignment 2^31", align_2_31, STATUS_CORRUPT, "found 2147483648"},
    {"F08 alignment as int32", align_i32, STATUS_CORRUPT,
     "general.alignment: want uint32, found int32"},
    {"F10 alignment against offsets", align_other, STATUS_CORRUPT,
     "tensor u: want its data at 64 (alignment 64), found 32"},
    {"F11 name of 64 bytes", name_64, STATUS_CORRUPT,
     "want a tensor name of at most 63 bytes, found 64"},
    {"F11 name empty", name_empty, STATUS_CORRUPT, "want a tensor name, found an empty one"},
    {"F11 name twice", name_twice, STATUS_CORRUPT, "want each tensor once, found \"t\" again"},
    {"F11 name with NUL", name_nul, STATUS_CORRUPT, "want a tensor name without NUL"},
    {"F13 dimension 0", dims_0, STATUS_CORRUPT,
     "tensor t: want a dimension of at least 1, found 0"},
    {"F13 dimension -1", dims_minus_one, STATUS_CORRUPT,
     "want a dimension of at least 1, found -1"},
    {"five dimensions", dims_5, STATUS_CORRUPT, "tensor t: want at most 4 dimensions, found 5"},
    {"F14 product", dims_product, STATUS_CORRUPT, "tensor t: want a size below 2^63"},
    {"F14 product of rows", dims_product_rows, STATUS_CORRUPT, "tensor t: want a size below 2^63"},
    {"F16 bytes of 2^62 floats", dims_bytes, STATUS_CORRUPT, "tensor t: "},
    {"F16 bytes wrap to 4", dims_bytes_wrap, STATUS_CORRUPT, "tensor t: "},
    {"F16 bytes near the top", dims_bytes_top, STATUS_UNSUPPORTED, "type 24 is not supported"},
    {"F17 sum of sizes", sizes_sum, STATUS_CORRUPT, "tensor "},
    {"F19 past the end", size_past_end, STATUS_CORRUPT, "tensor t: want 4000 bytes of data at"},
    {"F19 offset too high", offset_other, STATUS_CORRUPT, "tensor t: want its data at 0"},
    {"F19 overlap", offset_overlap, STATUS_CORRUPT, "tensor u: want its data at 32"},
    {"F20 array", array_too_long, STATUS_CORRUPT,
     "key k: want an array of 1048576 elements, found"},
    {"F20 array whose bytes wrap", array_overflow, STATUS_CORRUPT, "key k: want an array of"},
    {"F20 array -1", array_minus_one, STATUS_CORRUPT,
     "key k: want an array of 18446744073709551615"},
    {"F20 string", string_too_long, STATUS_CORRUPT, "want a string of 16777216 bytes, found"},
    {"F20 string -1", string_minus_one, STATUS_CORRUPT, "want a string of 18446744073709551615"},
    {"F20 string in an array", string_in_array, STATUS_CORRUPT, "key k: element 1: offset"},
    {"key empty", key_empty, STATUS_CORRUPT, "want a key, found an empty one"},
    {"key with NUL", key_nul, STATUS_CORRUPT, "want a key without NUL"},
    {"key twice", key_twice, STATUS_CORRUPT, "want each key once, found \"k\" again"},
    {"bool of 2", bool_2, STATUS_CORRUPT, "key k: want 0 or 1, found 2"},
    {"F26 unknown type", type_unknown, STATUS_UNSUPPORTED,
     "tensor t: ggml type 99 is not supported"},
    {"F26 removed type", type_removed, STATUS_UNSUPPORTED, "ggml type 4 is not supported"},
    {"F26 half a block", row_of_half_a_block, STATUS_CORRUPT,
     "tensor t: want rows of a multiple of 32 values (q8_0)"},
};

static void a_bad_file_is_refused_with_what_and_where(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct make m;
        struct status st = {0};
        make_begin(&m);
        make_key_str(&m, "general.architecture", "llama");
        bad[i].spoil(&m);
        struct guarded at = guard(m.at, m.n);
        struct gguf *g = gguf_open_memory(at.at, m.n, &st);
        if (g || st.code != bad[i].code || !strstr(st.msg, bad[i].message))
            fail_msg("%s: %s: %s", bad[i].name, status_name(st.code), st.msg);
        unguard(&at);
        make_close(&m);
    }
}

static void control_bytes_of_the_file_stay_out_of_messages(void **state)
{
    (void)state;
    struct make m;
    struct status st = {0};
    make_begin(&m);
    make_key(&m, "\x1b[31mred\n", 13);
    make_u64(&m, 0);
    assert_null(gguf_open_memory(m.at, m.n, &st));
    assert_non_null(strstr(st.msg, "key ?[31mred?:"));
    make_close(&m);
}

static void many_keys_are_found_each(void **state)
{
    (void)state;
    struct make m;
    struct status st = {0};
    char key[32];
    make_begin(&m);
    for (uint32_t i = 0; i < 65536; i++) {
        snprintf(key, sizeof key, "key.%u", i);
        make_key_u32(&m, key, i * 3);
    }
    struct gguf *g = gguf_open_memory(m.at, m.n, &st);
    assert_non_null(g);
    for (uint32_t i = 0; i < 65536; i += 97) {
        uint64_t v;
        snprintf(key, sizeof key, "key.%u", i);
        assert_true(gguf_u64(g, key, &v, &st) && v == i * 3);
    }
    gguf_close(g);
    make_close(&m);
}

static void bytes_behind_the_last_tensor_are_counted(void **state)
{
    (void)state;
    struct make m;
    struct status st = {0};
    make_small(&m);
    struct gguf *g = gguf_open_memory(m.at, m.n, &st);
    assert_int_equal(gguf_trailing_bytes(g), 0);
    gguf_close(g);
    make_put(&m, "PK\3\4", 4);
    g = gguf_open_memory(m.at, m.n, &st);
    assert_int_equal(gguf_trailing_bytes(g), 4);
    gguf_close(g);
    make_close(&m);
}

static void only_regular_files_are_opened(void **state)
{
    (void)state;
    char folder[] = "/tmp/inferd-gguf-XXXXXX", path[64], link[64];
    struct status st = {0};
    assert_non_null(mkdtemp(folder));
    assert_null(gguf_open(folder, &st));
    assert_non_null(strstr(st.msg, "not a regular file"));
    st = (struct status){0};
    assert_null(gguf_open("/dev/zero", &st));
    assert_non_null(strstr(st.msg, "not a regular file"));
    snprintf(path, sizeof path, "%s/fifo", folder);
    assert_int_equal(mkfifo(path, 0600), 0);
    st = (struct status){0};
    assert_null(gguf_open(path, &st)); /* and does not wait for a writer */
    assert_non_null(strstr(st.msg, "not a regular file"));
    unlink(path);
    snprintf(link, sizeof link, "%s/loop", folder);
    assert_int_equal(symlink(link, link), 0);
    st = (struct status){0};
    assert_null(gguf_open(link, &st));
    assert_int_equal(st.code, STATUS_IO);
    unlink(link);
    st = (struct status){0};
    assert_null(gguf_open(path, &st));
    assert_non_null(strstr(st.msg, "No such file"));
    FILE *f = fopen(path, "wb");
    fclose(f);
    st = (struct status){0};
    assert_null(gguf_open(path, &st));
    assert_non_null(strstr(st.msg, "found an empty file"));
    unlink(path);
    rmdir(folder);
}

static void a_file_on_disk_reads_as_the_same_bytes_do(void **state)
{
    (void)state;
    char path[] = "/tmp/inferd-gguf-XXXXXX";
    struct make m;
    struct status st = {0};
    make_small(&m);
    close(mkstemp(path));
    make_write(&m, path);
    struct gguf *g = gguf_open(path, &st);
    assert_non_null(g);
    assert_int_equal(gguf_file_bytes(g), m.n);
    use_everything(g);
    use_everything(g); /* also after its pages were let go */
    assert_memory_equal(gguf_tensor_at(g, 1)->source.at,
                        m.at +
                            ((const uint8_t *)gguf_tensor_at(g, 1)->source.at -
                             (const uint8_t *)gguf_tensor_at(g, 0)->source.at) +
                            (m.n - m.n_data),
                        gguf_tensor_at(g, 1)->n_bytes);
    gguf_close(g);
    unlink(path);
    make_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_value_reads_back),
        cmocka_unit_test(arrays_read_back_element_by_element),
        cmocka_unit_test(tensors_are_found_by_name_with_their_bytes),
        cmocka_unit_test(a_key_of_another_type_is_named_with_both_types),
        cmocka_unit_test(a_file_cut_at_any_byte_is_refused),
        cmocka_unit_test(a_file_with_any_byte_changed_is_refused_or_safe),
        cmocka_unit_test(a_file_at_an_odd_address_reads_the_same),
        cmocka_unit_test(a_bad_file_is_refused_with_what_and_where),
        cmocka_unit_test(control_bytes_of_the_file_stay_out_of_messages),
        cmocka_unit_test(many_keys_are_found_each),
        cmocka_unit_test(bytes_behind_the_last_tensor_are_counted),
        cmocka_unit_test(only_regular_files_are_opened),
        cmocka_unit_test(a_file_on_disk_reads_as_the_same_bytes_do),
    };
    return cmocka_run_group_tests_name("gguf", tests, NULL, NULL);
}
