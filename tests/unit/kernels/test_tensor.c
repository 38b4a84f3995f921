/* What tensor promises: the bytes of every storage type mean what the gguf Python package says,
 * bit for bit, and sizes that do not fit are refused. */
#include "kernels/tensor.h"
#include "kernels/half.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* Compares one record of tests/golden/dequant/make.py; returns the bytes it took. */
static size_t check_record(const uint8_t *p, bool *seen)
{
    uint32_t head[3];
    memcpy(head, p, sizeof head);
    enum dtype dtype = dtype_from_gguf(head[0]);
    assert_true(dtype < DT_N);
    seen[dtype] = true;
    const uint8_t *want = p + sizeof head + head[2];
    float *got = malloc(head[1] * sizeof *got);
    uint8_t *src = malloc(head[2]); /* exactly sized, so that sanitizers see a read past the end */
    memcpy(src, p + sizeof head, head[2]);
    size_t n_bytes;
    assert_true(tensor_file_bytes(dtype, 1, head[1], &n_bytes));
    assert_int_equal(n_bytes, head[2]);
    memset(got, 0x5a, head[1] * sizeof *got);
    dequantize_row(dtype, src, got, head[1]);
    for (uint32_t i = 0; i < head[1]; i++)
        if (memcmp(got + i, want + i * sizeof *got, sizeof *got) != 0) {
            float w;
            memcpy(&w, want + i * sizeof w, sizeof w);
            fail_msg("%s value %u: got %a, want %a", dtype_traits[dtype].name, i, got[i], w);
        }
    free(got);
    free(src);
    return sizeof head + head[2] + head[1] * sizeof *got;
}

static void every_format_has_the_bits_of_the_gguf_package(void **state)
{
    (void)state;
    FILE *f = fopen("tests/golden/dequant/dequant.bin", "rb");
    assert_non_null(f);
    static uint8_t file[1 << 18];
    size_t n = fread(file, 1, sizeof file, f);
    assert_true(n > 0 && n < sizeof file);
    fclose(f);
    bool seen[DT_N] = {0};
    size_t at = 0;
    while (at < n)
        at += check_record(file + at, seen);
    assert_int_equal(at, n);
    for (int i = 0; i < DT_N; i++)
        assert_true(seen[i]);
}

static void a_number_that_is_no_type_is_none(void **state)
{
    (void)state;
    static const uint32_t none[] = {4, 5, 9, 15, 16, 24, 29, 31, 39, 1000, UINT32_MAX};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        assert_int_equal(dtype_from_gguf(none[i]), DT_N);
    for (int i = 0; i < DT_N; i++)
        assert_int_equal(dtype_from_gguf((uint32_t)dtype_traits[i].gguf_id), i);
}

static void sizes_are_checked(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        enum dtype dtype;
        int64_t rows, cols;
        bool ok;
        size_t n_bytes;
    } table[] = {
        {"f32", DT_F32, 3, 5, true, 60},
        {"no rows", DT_F32, 0, 5, true, 0},
        {"no columns", DT_Q4_1, 5, 0, true, 0},
        {"q4_1", DT_Q4_1, 576, 1536, true, 576 * 48 * 20},
        {"q6_k", DT_Q6_K, 2, 512, true, 4 * 210},
        {"half a block", DT_Q8_0, 1, 48, false, 0},
        {"half a super block", DT_Q4_K, 1, 128, false, 0},
        {"negative rows", DT_F32, -1, 4, false, 0},
        {"negative columns", DT_F32, 1, -4, false, 0},
        {"negative blocks", DT_Q8_0, 1, -32, false, 0},
        {"row too long", DT_F32, 1, INT64_MAX, false, 0},
        {"too many rows", DT_F32, INT64_MAX, 8, false, 0},
        {"too many blocks", DT_Q8_0, INT64_MAX / 32, 64, false, 0},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        size_t n = 77;
        bool ok = tensor_file_bytes(table[i].dtype, table[i].rows, table[i].cols, &n);
        if (ok != table[i].ok || (ok && n != table[i].n_bytes))
            fail_msg("%s: ok %d, %zu bytes", table[i].name, ok, n);
    }
}

static void halves_survive_the_way_to_float_and_back(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = f32_from_f16((uint16_t)h), b = f32_from_bf16((uint16_t)h);
        if (f == f)
            assert_int_equal(f32_to_f16(f), h);
        else
            assert_true(f32_from_f16(f32_to_f16(f)) != f32_from_f16(f32_to_f16(f)));
        if (b == b)
            assert_int_equal(f32_to_bf16(b), h);
    }
    static const struct {
        float f;
        uint16_t f16, bf16;
    } table[] = {
        {1 + 0x1p-11f, 0x3c00, 0x3f80},            /* a tie goes to even */
        {1 + 3 * 0x1p-11f, 0x3c02, 0x3f80},        /* in f16 up */
        {1 + 0x1p-11f + 0x1p-20f, 0x3c01, 0x3f80}, /* above a tie */
        {1 + 0x1p-8f, 0x3c04, 0x3f80},
        {65519.0f, 0x7bff, 0x4780},
        {65520.0f, 0x7c00, 0x4780},
        {0x1p-25f, 0x0000, 0x3300},
        {0x1.8p-25f, 0x0001, 0x3340},
        {-0x1p-24f, 0x8001, 0xb380},
        {3.0e38f, 0x7c00, 0x7f62},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        assert_int_equal(f32_to_f16(table[i].f), table[i].f16);
        assert_int_equal(f32_to_bf16(table[i].f), table[i].bf16);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_format_has_the_bits_of_the_gguf_package),
        cmocka_unit_test(a_number_that_is_no_type_is_none),
        cmocka_unit_test(sizes_are_checked),
        cmocka_unit_test(halves_survive_the_way_to_float_and_back),
    };
    return cmocka_run_group_tests_name("tensor", tests, NULL, NULL);
}
