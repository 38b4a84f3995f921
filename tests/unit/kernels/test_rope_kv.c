/* What rope_kv promises: heads normed and turned as defined, K and V rounded to nearest even in
 * the right place of the right page, in 8 bits by the row's own scale behind a Hadamard turn of q
 * and k, and nothing else in the cache touched. */
#include "cpu_test.h"

#include <math.h>

#include "kernels/half.h"
#include "kernels/scheme.h"
#include "kernels/cpu/kv_page.h"
#include "kernels/cpu/rows.h"

struct shape {
    const char *name;
    int n_heads, n_kv_heads, head_dim, rope_dims, block_tokens;
    enum rope_kind rope;
    enum dtype dtype;
    bool norms;
    float rope_scale;
    int n_seqs, kv_len[3], n_new[3];
};

static const struct shape shapes[] = {
    {"adjacent, small model",
     9,
     3,
     64,
     64,
     16,
     ROPE_ADJACENT,
     DT_F16,
     false,
     1,
     2,
     {40, 3},
     {21, 1}},
    {"neox", 8, 2, 128, 128, 32, ROPE_NEOX, DT_F16, false, 1, 1, {33}, {33}},
    {"neox, part of the head", 4, 4, 80, 20, 16, ROPE_NEOX, DT_F32, false, 1, 2, {9, 700}, {9, 5}},
    {"adjacent, odd part", 2, 1, 20, 6, 5, ROPE_ADJACENT, DT_BF16, false, 1, 1, {17}, {12}},
    {"norms and scale", 4, 2, 64, 64, 16, ROPE_NEOX, DT_BF16, true, 1.3f, 1, {100}, {10}},
    {"int8", 9, 3, 64, 64, 16, ROPE_NEOX, DT_INT8, false, 1, 2, {40, 3}, {21, 1}},
    {"int8, odd head", 2, 1, 21, 6, 5, ROPE_ADJACENT, DT_INT8, true, 1, 1, {17}, {12}},
    {"fp8", 9, 3, 64, 64, 16, ROPE_NEOX, DT_FP8, false, 1, 2, {40, 3}, {21, 1}},
    {"fp8, odd head", 2, 1, 21, 6, 5, ROPE_ADJACENT, DT_FP8, true, 1, 1, {17}, {12}},
    {"no rope, norms", 2, 2, 48, 0, 16, ROPE_NONE, DT_F16, true, 1, 1, {5}, {5}},
    {"far away", 2, 1, 64, 64, 16, ROPE_NEOX, DT_F32, false, 1, 1, {131072}, {3}},
};
enum { SHAPES = sizeof shapes / sizeof *shapes, LAYER = 1, LAYERS = 3, SLOTS = 8, GAP = 5 };

struct world {
    const struct shape *s;
    int n_tokens;
    int table_stride; /* blocks */
    int stride;       /* of q, k and v: values of a token */
    int32_t seq_start[4], token_seq[64], positions[64], ids[64], slot[3];
    int32_t *table;
    float *qkv, *q, *k, *v, *inv_freq, *q_norm, *k_norm; /* q, k, v in qkv */
    struct kv_cache kv;
    struct batch batch;
};

static void *new_spoiled(size_t n_bytes)
{
    return memset(malloc(n_bytes + 1), 0xff, n_bytes);
}

static void build_world(struct world *w, const struct shape *s, uint64_t seed)
{
    struct random r = {seed};
    *w = (struct world){.s = s};
    int n_blocks = 1;
    for (int i = 0; i < s->n_seqs; i++) {
        int n = (s->kv_len[i] + s->block_tokens - 1) / s->block_tokens;
        w->table_stride = n > w->table_stride ? n : w->table_stride;
        w->slot[i] = (i * 3 + 4) % SLOTS;
        w->seq_start[i] = w->n_tokens;
        for (int t = 0; t < s->n_new[i]; t++) {
            w->token_seq[w->n_tokens] = i;
            w->positions[w->n_tokens++] = s->kv_len[i] - s->n_new[i] + t;
        }
        w->seq_start[i + 1] = w->n_tokens;
        n_blocks += n;
    }
    w->table = calloc((size_t)(SLOTS * w->table_stride), sizeof *w->table);
    int next = n_blocks - 1;
    for (int i = 0; i < s->n_seqs; i++)
        for (int k = 0; k * s->block_tokens < s->kv_len[i]; k++)
            w->table[w->slot[i] * w->table_stride + k] = next--; /* backwards */
    const int q_width = s->n_heads * s->head_dim, kv_width = s->n_kv_heads * s->head_dim;
    w->stride = q_width + 2 * kv_width + GAP;
    w->qkv = new_normal(&r, (size_t)(w->n_tokens * w->stride), 2);
    w->q = w->qkv;
    w->k = w->q + q_width;
    w->v = w->k + kv_width;
    for (int t = 0; t < w->n_tokens; t++)
        for (int i = 0; i < kv_width; i++)
            w->v[t * w->stride + i] *= 25;
    w->q_norm = new_normal(&r, (size_t)s->head_dim, 1);
    w->k_norm = new_normal(&r, (size_t)s->head_dim, 1);
    w->inv_freq = new_floats((size_t)s->rope_dims / 2);
    for (int i = 0; i < s->rope_dims / 2; i++)
        w->inv_freq[i] = (float)pow(10000, -2.0 * i / s->rope_dims);
    w->kv = (struct kv_cache){.dtype = s->dtype,
                              .n_layers = LAYERS,
                              .n_blocks = n_blocks,
                              .block_tokens = s->block_tokens,
                              .n_kv_heads = s->n_kv_heads,
                              .head_dim = s->head_dim};
    w->kv.k = new_spoiled(kv_bytes(&w->kv));
    w->kv.v = new_spoiled(kv_bytes(&w->kv));
    w->kv.k_scale = new_spoiled(kv_scale_bytes(&w->kv));
    w->kv.v_scale = new_spoiled(kv_scale_bytes(&w->kv));
    w->batch = (struct batch){.n_tokens = w->n_tokens,
                              .n_seqs = s->n_seqs,
                              .token_ids = w->ids,
                              .positions = w->positions,
                              .token_seq = w->token_seq,
                              .seq_start = w->seq_start,
                              .kv_len = s->kv_len,
                              .slot = w->slot,
                              .n_prompt = s->kv_len,
                              .block_table = w->table};
}

static void free_world(struct world *w)
{
    free(w->table), free(w->qkv), free(w->q_norm), free(w->k_norm);
    free(w->inv_freq), free(w->kv.k), free(w->kv.v), free(w->kv.k_scale), free(w->kv.v_scale);
}

static void give_world(struct device *d, const struct world *w)
{
    struct device_limits l = wide_limits();
    l.block_tokens = w->s->block_tokens;
    l.table_stride = w->table_stride;
    l.context_max = 1 << 18;
    give_work(d, &l);
}

static void run_rope(struct device *d, struct world *w)
{
    const struct shape *s = w->s;
    take_batch(d, &w->batch);
    cpu_backend.ops->rope_kv(d, &(struct rope_kv_args){.q = w->q,
                                                       .k = w->k,
                                                       .v = w->v,
                                                       .stride = w->stride,
                                                       .q_norm = s->norms ? w->q_norm : NULL,
                                                       .k_norm = s->norms ? w->k_norm : NULL,
                                                       .norm_eps = 1e-6f,
                                                       .kv = &w->kv,
                                                       .layer = LAYER,
                                                       .n_heads = s->n_heads,
                                                       .rope = s->rope,
                                                       .rope_dims = s->rope_dims,
                                                       .inv_freq = w->inv_freq,
                                                       .rope_scale = s->rope_scale});
}

/* Entry (i, j) of a block is -1 to the number of ones that i and j share, over the root of its
 * size. */
static void turn_by_hadamard(double *y, int n)
{
    double x[512];
    int block = 1;
    while (n % (2 * block) == 0)
        block *= 2;
    memcpy(x, y, (size_t)n * sizeof *x);
    for (int i = 0; i < n; i++) {
        const double *of = x + i / block * block;
        y[i] = 0;
        for (int j = 0; j < block; j++)
            y[i] += (__builtin_popcount((unsigned)(i % block & j)) % 2 ? -of[j] : of[j]);
        y[i] /= sqrt(block);
    }
}

/* One head, in double but for the angle, which is rounded to float by contract. */
static void turn_exactly(const struct world *w, const float *x, const float *norm, int position,
                         double *y)
{
    const struct shape *s = w->s;
    double squares = 0;
    for (int i = 0; i < s->head_dim; i++)
        squares += (double)x[i] * (double)x[i];
    double scale = 1 / sqrt(squares / s->head_dim + 1e-6);
    for (int i = 0; i < s->head_dim; i++)
        y[i] = s->norms ? (double)x[i] * scale * (double)norm[i] : (double)x[i];
    for (int i = 0; i < s->rope_dims / 2; i++) {
        bool neox = s->rope == ROPE_NEOX;
        int a = neox ? i : 2 * i, b = neox ? i + s->rope_dims / 2 : 2 * i + 1;
        float angle = (float)position * w->inv_freq[i];
        double c = cos((double)angle) * (double)s->rope_scale;
        double sine = sin((double)angle) * (double)s->rope_scale;
        double ya = y[a] * c - y[b] * sine, yb = y[b] * c + y[a] * sine;
        y[a] = ya;
        y[b] = yb;
    }
    if (kv_has_scales(s->dtype))
        turn_by_hadamard(y, s->head_dim);
}

static void check_heads(const char *isa, const struct world *w, const float *before,
                        const float *after, const float *norm, int n_heads)
{
    double want[512];
    for (int row = 0; row < w->n_tokens * n_heads; row++) {
        int at = row / n_heads * w->stride + row % n_heads * w->s->head_dim;
        turn_exactly(w, before + at, norm, w->positions[row / n_heads], want);
        for (int i = 0; i < w->s->head_dim; i++) {
            if (!(fabs((double)after[at + i] - want[i]) < 3e-6))
                fail_msg("%s, %s: row %d value %d: got %.9g, want %.9g", isa, w->s->name, row, i,
                         (double)after[at + i], want[i]);
        }
    }
}

/* The code of x by its definition, for x that is its row's largest or smaller. */
static uint8_t nearest_code(float x, enum dtype dtype)
{
    if (dtype == DT_INT8)
        return (uint8_t)(int)nearbyint((double)x);
    uint8_t best = 0;
    for (uint8_t c = 1; c < 0x7f; c++) {
        double error = fabs((double)scheme_e4m3(c) - fabs((double)x));
        double least = fabs((double)scheme_e4m3(best) - fabs((double)x));
        if (error < least || (error == least && c % 2 == 0))
            best = c;
    }
    return (uint8_t)(best | (signbit(x) ? 0x80 : 0));
}

static float expected_scale(const float *x, int n, enum dtype dtype)
{
    float top = 0;
    for (int i = 0; i < n; i++)
        top = fmaxf(top, fabsf(x[i]));
    return top / (dtype == DT_INT8 ? 127 : 448);
}

/* One row in 8 bits; clears its place. */
static void check_codes(const char *name, uint8_t *codes, float *scale, const float *x, int n,
                        enum dtype dtype)
{
    const float want = expected_scale(x, n, dtype);
    if (*scale != want)
        fail_msg("%s: scale %.9g, want %.9g", name, (double)*scale, (double)want);
    for (int i = 0; i < n; i++)
        if (codes[i] != nearest_code(x[i] / want, dtype))
            fail_msg("%s: value %d of %d, %.9g / %.9g: code %02x, want %02x", name, i, n,
                     (double)x[i], (double)want, codes[i], nearest_code(x[i] / want, dtype));
    memset(codes, 0xff, (size_t)n);
    memset(scale, 0xff, sizeof *scale);
}

/* Each value of `from` lies rounded in its page; clears those places, so that what is left shows
 * whether anything else was written. */
static void check_pages(const char *isa, const struct world *w, char *cache, float *scales,
                        enum dtype dtype, const float *from)
{
    const struct shape *s = w->s;
    for (int t = 0; t < w->n_tokens; t++) {
        const int32_t *table = w->table + w->slot[w->token_seq[t]] * w->table_stride;
        for (int h = 0; h < s->n_kv_heads; h++) {
            int p = w->positions[t], block = table[p / s->block_tokens];
            size_t row =
                (((size_t)LAYER * (size_t)w->kv.n_blocks + (size_t)block) * (size_t)s->n_kv_heads +
                 (size_t)h) *
                    (size_t)s->block_tokens +
                (size_t)(p % s->block_tokens);
            const float *head = from + t * w->stride + h * s->head_dim;
            if (kv_has_scales(s->dtype)) {
                check_codes(s->name, (uint8_t *)cache + row * (size_t)s->head_dim, scales + row,
                            head, s->head_dim, dtype);
                continue;
            }
            for (int i = 0; i < s->head_dim; i++) {
                float x = head[i];
                size_t bytes = s->dtype == DT_F32 ? 4 : 2;
                char *at = cache + (row * (size_t)s->head_dim + (size_t)i) * bytes;
                uint16_t half = s->dtype == DT_F16 ? f32_to_f16(x) : f32_to_bf16(x);
                if (memcmp(at, bytes == 4 ? (void *)&x : (void *)&half, bytes) != 0)
                    fail_msg("%s, %s: token %d head %d value %d is not in its page", isa, s->name,
                             t, h, i);
                memset(at, 0xff, bytes);
            }
        }
    }
    for (size_t i = 0; i < kv_bytes(&w->kv); i++)
        assert_int_equal((unsigned char)cache[i], 0xff);
    for (size_t i = 0; i < kv_scale_bytes(&w->kv); i++)
        assert_int_equal(((unsigned char *)scales)[i], 0xff);
}

static float *copy_floats(const float *x, size_t n)
{
    float *y = new_floats(n);
    memcpy(y, x, n * sizeof *x);
    return y;
}

static void heads_turn_and_pages_fill_as_defined(void **state)
{
    (void)state;
    for (int isa = 0; isa < ISAS; isa++) {
        struct device *d = open_cpu(isa_names[isa], 2);
        if (!d)
            continue;
        for (int i = 0; i < SHAPES; i++) {
            struct world w;
            build_world(&w, &shapes[i], 300 + (uint64_t)i);
            const struct shape *s = w.s;
            float *before = copy_floats(w.qkv, (size_t)(w.n_tokens * w.stride));
            give_world(d, &w);
            run_rope(d, &w);
            check_heads(isa_names[isa], &w, before, w.q, w.q_norm, s->n_heads);
            check_heads(isa_names[isa], &w, before + (w.k - w.q), w.k, w.k_norm, s->n_kv_heads);
            check_pages(isa_names[isa], &w, w.kv.k, w.kv.k_scale, kv_key_dtype(s->dtype), w.k);
            check_pages(isa_names[isa], &w, w.kv.v, w.kv.v_scale, s->dtype, w.v);
            free(before);
            free_world(&w);
        }
        cpu_backend.ops->close(d);
    }
}

static void a_token_alone_has_the_same_bits(void **state)
{
    (void)state;
    for (int isa = 0; isa < ISAS; isa++) {
        struct device *d = open_cpu(isa_names[isa], 1);
        if (!d)
            continue;
        struct device *many = open_cpu(isa_names[isa], 4);
        for (int i = 0; i < SHAPES; i++) {
            struct world all, single;
            build_world(&all, &shapes[i], 400 + (uint64_t)i);
            build_world(&single, &shapes[i], 400 + (uint64_t)i);
            give_world(d, &single);
            give_world(many, &all);
            run_rope(many, &all);
            for (int t = 0; t < all.n_tokens; t++) {
                struct world one = single;
                int32_t kv_len = single.positions[t] + 1, start[2] = {0, 1}, zero = 0;
                one.q += t * one.stride;
                one.k += t * one.stride;
                one.v += t * one.stride;
                one.batch = (struct batch){.n_tokens = 1,
                                           .n_seqs = 1,
                                           .token_ids = &zero,
                                           .positions = &single.positions[t],
                                           .token_seq = &zero,
                                           .seq_start = start,
                                           .kv_len = &kv_len,
                                           .slot = &single.slot[single.token_seq[t]],
                                           .n_prompt = &kv_len,
                                           .block_table = single.table};
                run_rope(d, &one);
            }
            size_t n = (size_t)all.n_tokens;
            assert_memory_equal(all.qkv, single.qkv, n * (size_t)all.stride * sizeof(float));
            assert_memory_equal(all.kv.k, single.kv.k, kv_bytes(&all.kv));
            assert_memory_equal(all.kv.v, single.kv.v, kv_bytes(&all.kv));
            assert_memory_equal(all.kv.k_scale, single.kv.k_scale, kv_scale_bytes(&all.kv));
            assert_memory_equal(all.kv.v_scale, single.kv.v_scale, kv_scale_bytes(&all.kv));
            free_world(&all);
            free_world(&single);
        }
        cpu_backend.ops->close(d);
        cpu_backend.ops->close(many);
    }
}

/* Rows that a scale does not fit, by the contract in ops.h; and every code, met exactly and in the
 * middle between two. */
static void rows_of_8_bits_are_rounded_as_defined_at_their_edges(void **state)
{
    (void)state;
    enum { N = 20, SET_N = 6 };
    static const struct {
        const char *name;
        float set[SET_N], scale; /* NAN, 0, or 1: as defined */
    } rows[] = {
        {"zeros", {0}, 0},
        {"negative zeros", {-0.0f, -0.0f}, 0},
        {"a NaN", {1, 2, NAN, 3}, NAN},
        {"a NaN in front", {NAN, 2}, NAN},
        {"an infinity", {1, INFINITY, 3}, NAN},
        {"minus infinity", {-INFINITY}, NAN},
        {"largest floats", {3.4e38f, -3.4e38f, 1e38f, 1}, 1},
        {"small", {1e-35f, -3e-36f, 2e-37f}, 1},
        {"too small for a scale", {1e-37f, -1e-38f}, 0},
        {"subnormal", {1e-42f, 1e-45f}, 0},
        {"one value", {0, 0, -7}, 1},
        {"far apart", {1e10f, 1, -1e-10f, 4e7f, -3e6f, 2e5f}, 1},
    };
    static const enum dtype types[] = {DT_INT8, DT_FP8};
    for (int isa = 0; isa < 2 * ISAS; isa++) {
        const enum dtype dtype = types[isa % 2];
        struct device *d = open_cpu(isa_names[isa / 2], 1);
        if (!d)
            continue;
        const struct row_kernels *k = cpu_rows(d);
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            float x[N] = {0};
            uint8_t codes[N];
            for (int at = 0; at < SET_N; at++)
                x[at * 3] = rows[i].set[at];
            float scale = k->kv_quantize((char *)codes, x, N, dtype);
            if (rows[i].scale == 1) {
                check_codes(rows[i].name, codes, &scale, x, N, dtype);
                continue;
            }
            assert_true(isnan(rows[i].scale) ? isnan(scale) : scale == 0);
            for (int at = 0; at < N; at++)
                assert_int_equal(codes[at], 0);
        }
        const float limit = dtype == DT_INT8 ? 127 : 448;
        for (int c = 0; c < 126; c++) {
            const float low = dtype == DT_INT8 ? (float)c : scheme_e4m3((uint8_t)c);
            const float high = dtype == DT_INT8 ? (float)(c + 1) : scheme_e4m3((uint8_t)(c + 1));
            const float middle = (low + high) / 2;
            const float x[N] = {limit,
                                low,
                                -high,
                                middle,
                                -middle,
                                nextafterf(middle, 0),
                                nextafterf(middle, 1000),
                                -nextafterf(middle, 1000)};
            uint8_t codes[N];
            float scale = k->kv_quantize((char *)codes, x, N, dtype);
            assert_true(scale == 1);
            check_codes("codes", codes, &scale, x, N, dtype);
        }
        cpu_backend.ops->close(d);
    }
}

/* The nearest half by search over all of them: a definition that shares nothing with half.h. */
static void halves_are_rounded_to_nearest_even(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x7c00; h++) {
        int exponent = (int)(h >> 10), fraction = (int)(h & 1023);
        double exact = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
        double next = h == 0x7bff ? 65536 : (double)f32_from_f16((uint16_t)(h + 1));
        float middle = (float)((exact + next) / 2);
        uint16_t even = (uint16_t)(h & 1 ? h + 1 : h);
        assert_true((double)f32_from_f16((uint16_t)h) == exact);
        assert_int_equal(f32_to_f16((float)exact), h);
        assert_int_equal(f32_to_f16(-(float)exact), h | 0x8000);
        assert_int_equal(f32_to_f16(middle), even);
        assert_int_equal(f32_to_f16(nextafterf(middle, 0)), h);
        assert_int_equal(f32_to_f16(nextafterf(middle, INFINITY)), h + 1);
    }
    static const struct {
        uint32_t bits;
        uint16_t bf16;
    } cases[] = {{0x3f800000, 0x3f80}, {0x3f808000, 0x3f80}, {0x3f818000, 0x3f82},
                 {0x3f808001, 0x3f81}, {0x7f7fffff, 0x7f80}, {0xff800000, 0xff80},
                 {0x7f800001, 0x7fc0}, {0x80000001, 0x8000}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(f32_to_bf16(f32_from_bits(cases[i].bits)), cases[i].bf16);
    assert_true(isnan(f32_from_f16(f32_to_f16(NAN))));
    assert_true(isinf(f32_from_f16(f32_to_f16(1e9f))));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heads_turn_and_pages_fill_as_defined),
        cmocka_unit_test(a_token_alone_has_the_same_bits),
        cmocka_unit_test(rows_of_8_bits_are_rounded_as_defined_at_their_edges),
        cmocka_unit_test(halves_are_rounded_to_nearest_even),
    };
    return cmocka_run_group_tests_name("rope_kv", tests, NULL, NULL);
}
