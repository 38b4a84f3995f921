/* What embed promises: a row of the table, PLAIN or PACKED, has the bits of dequantize_row, times
 * the scale, in the order of the ids, whatever the instruction set and the number of threads; a
 * token whose row another rank has is zeros. */
#include "kernels/cpu/cpu_int.h"
#include "kernels/half.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

enum { VOCAB = 37, N_IDS = 19 };

static uint64_t rng;

static uint32_t random_u32(void)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return (uint32_t)(rng >> 32);
}

/* Random bytes without a 16-bit half whose exponent is all ones: every f16 in them is finite. */
static uint8_t *make_table(size_t n_bytes)
{
    uint8_t *src = malloc(n_bytes);
    for (size_t i = 0; i < n_bytes; i++)
        src[i] = (uint8_t)(random_u32() & 0xbf);
    return src;
}

static void check_rows(const struct embed_args *a, const struct batch *b, const uint8_t *src,
                       size_t row_bytes, const char *what)
{
    int64_t width = a->table->cols;
    const float *out = a->out;
    float *want = malloc((size_t)width * sizeof *want);
    for (int t = 0; t < b->n_tokens; t++) {
        const int64_t row = b->token_ids[t] - a->first;
        memset(want, 0, (size_t)width * sizeof *want);
        if (row >= 0 && row < a->table->rows)
            dequantize_row(a->table->dtype, src + (size_t)row * row_bytes, want, width);
        for (int64_t i = 0; i < width; i++) {
            float scaled = want[i] * a->scale, got = out[t * width + i];
            if (f32_to_bits(got) != f32_to_bits(scaled))
                fail_msg("%s: token %d (id %d) value %d: got %a, want %a", what, t, b->token_ids[t],
                         (int)i, (double)got, (double)scaled);
        }
    }
    for (int i = 0; i < 16; i++)
        assert_true(out[b->n_tokens * width + i] == 12345);
    free(want);
}

static void check_table(struct device *dev, enum dtype dtype, int64_t cols)
{
    size_t n_bytes;
    assert_true(tensor_file_bytes(dtype, VOCAB, cols, &n_bytes));
    uint8_t *src = make_table(n_bytes);
    struct tensor plain = {.data = src, .dtype = dtype, .rows = VOCAB, .cols = cols};
    struct tensor packed = plain;
    packed.data = aligned_alloc(64, cpu_weight_bytes(dev, &packed));
    cpu_weight_put(dev, &packed, &(struct weight_source){.at = src, .fd = -1});
    int32_t ids[N_IDS];
    for (int i = 0; i < N_IDS; i++)
        ids[i] = (int32_t)(random_u32() % VOCAB);
    ids[0] = VOCAB - 1;
    size_t n = N_IDS * (size_t)cols + 16;
    float *out = malloc(n * sizeof *out);
    static const struct {
        const char *name;
        int n;
        float scale;
        int32_t first;
    } table[] = {{"one", 1, 1, 0},
                 {"many", N_IDS, 1, 0},
                 {"scaled", N_IDS, 24.5f, 0},
                 {"part", N_IDS, 1, 9}};
    for (size_t k = 0; k < 8; k++) {
        char what[80];
        snprintf(what, sizeof what, "%s %s %s %s", cpu_backend.variant(dev),
                 dtype_traits[dtype].name, k % 2 ? "packed" : "plain", table[k / 2].name);
        for (size_t i = 0; i < n; i++)
            out[i] = 12345;
        struct embed_args a = {.out = out, .table = k % 2 ? &packed : &plain};
        a.scale = table[k / 2].scale;
        a.first = table[k / 2].first;
        dev->batch = (struct batch){.n_tokens = table[k / 2].n, .token_ids = ids};
        cpu_embed(dev, &a);
        check_rows(&a, &dev->batch, src, n_bytes / VOCAB, what);
    }
    free(packed.data);
    free(src);
    free(out);
}

static void rows_have_the_bits_of_dequantize_row(void **state)
{
    (void)state;
    static const char *const isas[] = {"scalar",     "avx2",       "avx512",
                                       "avx512vnni", "avx512bf16", "amx"};
    for (int i = 0; i < 2 * ISA_N; i++) {
        struct status st = {0};
        struct device_options opts = {.n_threads = 1 + i % 2, .isa_max = isas[i / 2]};
        struct device *dev = cpu_backend.open(&opts, &st);
        assert_non_null(dev);
        if (strcmp(cpu_backend.variant(dev), isas[i / 2]) == 0) {
            for (int dtype = 0; dtype < DT_N; dtype++)
                check_table(dev, (enum dtype)dtype, 512);
            check_table(dev, DT_Q8_0, 576);
            check_table(dev, DT_BF16, 33);
        } else if (i % 2 == 0) {
            print_message("this processor lacks %s: not tested\n", isas[i / 2]);
        }
        cpu_backend.ops->close(dev);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_have_the_bits_of_dequantize_row),
    };
    rng = (uint64_t)time(NULL) * 2654435761u + 88172645463325252u;
    print_message("seed %llu\n", (unsigned long long)rng);
    return cmocka_run_group_tests_name("embed", tests, NULL, NULL);
}
