/* What rope_kv promises: heads normed and turned as defined, K and V rounded to nearest even in
 * the right place of the right page, and nothing else in the cache touched. */
#include "cpu_test.h"

#include <math.h>

#include "kernels/half.h"
#include "kernels/cpu/kv_page.h"

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
    size_t kv_bytes;
};

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
    w->kv_bytes = (size_t)LAYERS * (size_t)n_blocks * (size_t)s->n_kv_heads *
                  (size_t)(s->block_tokens * s->head_dim) * kv_value_bytes(s->dtype);
    w->kv.k = malloc(w->kv_bytes);
    w->kv.v = malloc(w->kv_bytes);
    memset(w->kv.k, 0xff, w->kv_bytes);
    memset(w->kv.v, 0xff, w->kv_bytes);
    w->batch = (struct batch){.n_tokens = w->n_tokens,
                              .n_seqs = s->n_seqs,
                              .token_ids = w->ids,
                              .positions = w->positions,
                              .token_seq = w->token_seq,
                              .seq_start = w->seq_start,
                              .kv_len = s->kv_len,
                              .slot = w->slot,
                              .block_table = w->table};
}

static void free_world(struct world *w)
{
    free(w->table), free(w->qkv), free(w->q_norm), free(w->k_norm);
    free(w->inv_freq), free(w->kv.k), free(w->kv.v);
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

/* Each value of `from` lies rounded in its page; clears those places, so that what is left shows
 * whether anything else was written. */
static void check_pages(const char *isa, const struct world *w, char *cache, const float *from)
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
            for (int i = 0; i < s->head_dim; i++) {
                float x = from[t * w->stride + h * s->head_dim + i];
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
    for (size_t i = 0; i < w->kv_bytes; i++)
        assert_int_equal((unsigned char)cache[i], 0xff);
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
            check_pages(isa_names[isa], &w, w.kv.k, w.k);
            check_pages(isa_names[isa], &w, w.kv.v, w.v);
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
                                           .block_table = single.table};
                run_rope(d, &one);
            }
            size_t n = (size_t)all.n_tokens;
            assert_memory_equal(all.qkv, single.qkv, n * (size_t)all.stride * sizeof(float));
            assert_memory_equal(all.kv.k, single.kv.k, all.kv_bytes);
            assert_memory_equal(all.kv.v, single.kv.v, all.kv_bytes);
            free_world(&all);
            free_world(&single);
        }
        cpu_backend.ops->close(d);
        cpu_backend.ops->close(many);
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
        cmocka_unit_test(halves_are_rounded_to_nearest_even),
    };
    return cmocka_run_group_tests_name("rope_kv", tests, NULL, NULL);
}
