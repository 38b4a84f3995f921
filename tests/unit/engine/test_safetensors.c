/* A safetensors file is taken only when every tensor lies where its header says, one behind the
 * other; an index only when it agrees with its files.  What is refused is named. */
#include "engine/safetensors.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

enum { FILE_MAX = 4096 };

struct file {
    char at[FILE_MAX];
    size_t n;
};

static void make_file(struct file *f, const char *header, size_t n_data)
{
    const uint64_t n = strlen(header);
    assert_true(8 + n + n_data <= FILE_MAX);
    memcpy(f->at, &n, 8);
    memcpy(f->at + 8, header, n);
    for (size_t i = 0; i < n_data; i++)
        f->at[8 + n + i] = (char)(i * 37 + 11);
    f->n = 8 + n + n_data;
}

#define A "\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}"
#define B "\"b\":{\"dtype\":\"BF16\",\"shape\":[5],\"data_offsets\":[24,34]}"

static void a_file_gives_its_weights_by_name(void **state)
{
    (void)state;
    struct file f;
    struct status st = {0};
    make_file(&f, "{\"__metadata__\":{\"format\":\"pt\"}," B "," A "}  ", 34);
    struct safetensors *s = safetensors_open_memory(f.at, f.n, &st);
    assert_non_null(s);
    assert_int_equal(safetensors_n(s), 2);
    const struct weight *a = safetensors_find(s, "a"), *b = safetensors_find(s, "b");
    assert_true(a && a->dtype == DT_F32 && a->rows == 2 && a->cols == 3 && a->n_bytes == 24);
    assert_true(b && b->dtype == DT_BF16 && b->rows == 1 && b->cols == 5 && b->n_bytes == 10);
    assert_ptr_equal(a->source.at, f.at + f.n - 34);
    assert_ptr_equal(b->source.at, f.at + f.n - 10);
    assert_int_equal(b->source.offset, f.n - 10);
    assert_int_equal(b->source.fd, -1);
    assert_null(safetensors_find(s, "c"));
    safetensors_close(s);
}

static const struct {
    const char *name, *header;
    size_t n_data;
    enum status_code code;
    const char *message;
} bad[] = {
    {"not JSON", "{\"a\":", 0, STATUS_CORRUPT, "header: byte"},
    {"a list", "[]", 0, STATUS_CORRUPT, "want a JSON object"},
    {"text behind", "{}{}", 0, STATUS_CORRUPT, "header"},
    {"twice", "{" A "," A "}", 24, STATUS_CORRUPT, "key appears twice"},
    {"empty name", "{\"\":{}}", 0, STATUS_CORRUPT, "want a tensor name of 1 to 127 bytes"},
    {"no object", "{\"a\":1}", 0, STATUS_CORRUPT, "tensor a: want an object"},
    {"no dtype", "{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, STATUS_CORRUPT,
     "tensor a: key dtype is missing"},
    {"U64", "{\"a\":{\"dtype\":\"U64\",\"shape\":[1],\"data_offsets\":[0,8]}}", 8,
     STATUS_UNSUPPORTED, "tensor a: want dtype F32, F16 or BF16, found U64"},
    {"float8 of another kind",
     "{\"a\":{\"dtype\":\"F8_E5M2\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, STATUS_UNSUPPORTED,
     "found F8_E5M2"},
    {"three dimensions", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1],\"data_offsets\":[0,4]}}", 4,
     STATUS_UNSUPPORTED, "found 3"},
    {"dimension 0", "{\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0,
     STATUS_CORRUPT, "want dimensions from 1"},
    {"dimension -1", "{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4,
     STATUS_CORRUPT, "want dimensions from 1"},
    {"half a dimension", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1.5],\"data_offsets\":[0,6]}}", 6,
     STATUS_CORRUPT, "want dimensions from 1"},
    {"sizes that overflow",
     "{\"a\":{\"dtype\":\"F32\",\"shape\":[2147483647,2147483647],\"data_offsets\":[0,4]}}", 4,
     STATUS_CORRUPT, "want the bytes of F32 [2147483647, 2147483647], found 4"},
    {"fewer bytes", "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4,
     STATUS_CORRUPT, "want the bytes of F32 [1, 2], found 4"},
    {"past the end", "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 4,
     STATUS_CORRUPT, "tensor a: want data in [0, 4) of the data section, found [0, 8)"},
    {"backwards", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4,
     STATUS_CORRUPT, "found [4, 0)"},
    {"offset 1e30", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,1e30]}}", 4,
     STATUS_CORRUPT, "want data_offsets of two whole numbers"},
    {"one offset", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4,
     STATUS_CORRUPT, "want data_offsets"},
    {"overlap", "{" A ",\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[20,24]}}", 24,
     STATUS_CORRUPT, "tensor b: want its data at 24, where the one before ends, found 20"},
    {"hole", "{" A ",\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[25,29]}}", 29,
     STATUS_CORRUPT, "tensor b: want its data at 24, where the one before ends, found 25"},
    {"bytes behind", "{" A "}", 25, STATUS_CORRUPT, "want the file to end with its last tensor"},
};

static void what_is_wrong_is_refused_by_name(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct file f;
        struct status st = {0};
        make_file(&f, bad[i].header, bad[i].n_data);
        struct safetensors *s = safetensors_open_memory(f.at, f.n, &st);
        if (s || st.code != bad[i].code || !strstr(st.msg, bad[i].message))
            fail_msg("%s: %s: %s", bad[i].name, status_name(st.code), st.msg);
    }
}

static const struct {
    const char *dtype, *shape;
    size_t n_bytes;
    enum element element;
    const char *message; /* as a plain weight */
} parts[] = {
    {"I64", "[2]", 16, ELEMENT_I64, "tensor a: want dtype F32, F16 or BF16, found I64"},
    {"I32", "[2,3]", 24, ELEMENT_I32, "found I32"},
    {"I8", "[2,3]", 6, ELEMENT_I8, "found I8"},
    {"U8", "[]", 1, ELEMENT_U8, "tensor a: want 1 or 2 dimensions, found 0"},
    {"F8_E4M3", "[1,5]", 5, ELEMENT_F8_E4M3, "found F8_E4M3"},
    {"F32", "[]", 4, ELEMENT_F32, "want 1 or 2 dimensions, found 0"},
    {"F32", "[1]", 4, ELEMENT_F32, NULL},
};

static void parts_of_matrices_are_no_plain_weights(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        struct file f;
        struct status st = {0};
        char header[256];
        snprintf(header, sizeof header,
                 "{\"a\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[0,%zu]}}", parts[i].dtype,
                 parts[i].shape, parts[i].n_bytes);
        make_file(&f, header, parts[i].n_bytes);
        struct safetensors *s = safetensors_open_memory(f.at, f.n, &st);
        if (!s)
            fail_msg("%s: %s", parts[i].dtype, st.msg);
        const struct weight *w = safetensors_find(s, "a");
        assert_int_equal(safetensors_element(s, w), parts[i].element);
        assert_int_equal(w->n_bytes, parts[i].n_bytes);
        assert_int_equal(w->dtype == DT_ALL_N, parts[i].message != NULL);
        assert_int_equal(safetensors_check_plain(s, w, &st), !parts[i].message);
        assert_true(!parts[i].message || strstr(st.msg, parts[i].message));
        safetensors_close(s);
    }
}

/* Each beginning of the file lies right before an unreadable page. */
static void every_truncation_is_refused(void **state)
{
    (void)state;
    struct file f;
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    make_file(&f, "{" A "," B "}", 34);
    char *map = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(map != MAP_FAILED && mprotect(map + page, page, PROT_NONE) == 0);
    for (size_t n = 0; n < f.n; n++) {
        struct status st = {0};
        char *at = map + page - n;
        memcpy(at, f.at, n);
        assert_null(safetensors_open_memory(at, n, &st));
        assert_int_equal(st.code, STATUS_CORRUPT);
    }
    munmap(map, 2 * page);
}

/* --- folders --- */

static void put(const char *folder, const char *name, const void *bytes, size_t n)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
}

static void drop(const char *folder, const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    unlink(path);
}

#define MAP(list) "{\"metadata\":{\"total_size\":34},\"weight_map\":{" list "}}"
#define C         "\"c\":{\"dtype\":\"BF16\",\"shape\":[5],\"data_offsets\":[0,10]}"

static const struct {
    const char *name, *index, *message; /* NULL = taken */
} indexes[] = {
    {"good", MAP("\"a\":\"1.safetensors\",\"c\":\"2.safetensors\""), NULL},
    {"no map", "{}", "want an object weight_map"},
    {"another file", MAP("\"a\":\"1.safetensors\",\"c\":\"1.safetensors\",\"x\":\"2.safetensors\""),
     "tensor c: want it in 1.safetensors, found it in another file"},
    {"missing tensor",
     MAP("\"a\":\"1.safetensors\",\"c\":\"2.safetensors\",\"d\":\"2.safetensors\""),
     "tensor d: want it in 2.safetensors, found it nowhere"},
    {"unlisted tensor", MAP("\"a\":\"1.safetensors\""), NULL},
    {"missing file", MAP("\"a\":\"1.safetensors\",\"c\":\"3.safetensors\""),
     "3.safetensors: No such file"},
    {"path", MAP("\"a\":\"../1.safetensors\""), "want the name of a .safetensors file"},
    {"no name", MAP("\"a\":7"), "want the name of a .safetensors file"},
    {"hidden", MAP("\"a\":\".safetensors\""), "want the name of a .safetensors file"},
    {"the same twice", MAP("\"a\":\"1.safetensors\",\"c\":\"both.safetensors\""),
     "tensor a: want it once, found it again"},
    {"one more in a file", MAP("\"c\":\"both.safetensors\""),
     "tensor a is in a file and not in the index"},
};

static void an_index_must_agree_with_its_files(void **state)
{
    (void)state;
    char folder[] = "/tmp/inferd-test-XXXXXX";
    struct file f;
    assert_non_null(mkdtemp(folder));
    make_file(&f, "{" A "}", 24);
    put(folder, "1.safetensors", f.at, f.n);
    make_file(&f, "{" C "}", 10);
    put(folder, "2.safetensors", f.at, f.n);
    make_file(&f, "{" A ",\"c\":{\"dtype\":\"BF16\",\"shape\":[5],\"data_offsets\":[24,34]}}", 34);
    put(folder, "both.safetensors", f.at, f.n);
    for (size_t i = 0; i < sizeof indexes / sizeof indexes[0]; i++) {
        struct status st = {0};
        put(folder, "model.safetensors.index.json", indexes[i].index, strlen(indexes[i].index));
        struct safetensors *s = safetensors_open(folder, &st);
        if (indexes[i].message ? s || !strstr(st.msg, indexes[i].message) : !s)
            fail_msg("%s: %s", indexes[i].name, st.msg);
        if (s && i == 0) {
            assert_int_equal(safetensors_n(s), 2);
            const struct weight *c = safetensors_find(s, "c");
            char bytes[10];
            assert_int_equal(pread(c->source.fd, bytes, 10, (off_t)c->source.offset), 10);
            assert_memory_equal(bytes, c->source.at, 10);
            assert_memory_equal(bytes, f.at + f.n - 34, 10);
        }
        safetensors_close(s);
    }
    struct status st = {0};
    drop(folder, "model.safetensors.index.json");
    assert_null(safetensors_open(folder, &st));
    assert_non_null(strstr(st.msg, "no model.safetensors and no model.safetensors.index.json"));
    drop(folder, "1.safetensors");
    drop(folder, "2.safetensors");
    drop(folder, "both.safetensors");
    rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_gives_its_weights_by_name),
        cmocka_unit_test(what_is_wrong_is_refused_by_name),
        cmocka_unit_test(parts_of_matrices_are_no_plain_weights),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(an_index_must_agree_with_its_files),
    };
    return cmocka_run_group_tests_name("safetensors", tests, NULL, NULL);
}
