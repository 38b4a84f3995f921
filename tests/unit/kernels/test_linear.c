/* What the matmul of the table and head promise: the norm, the product and the activation that
 * stand alone elsewhere, to the bit, at any stride; a row alone as in a batch. */
#include "cpu_test.h"

#include <math.h>

enum { ROWS = 19, IN = 96, OUT = 40, GAP = 7 };

struct world {
    struct device *d;
    struct tensor w[3];
    float *x, *bias, norm_w[IN];
    struct norm norm;
};

static void put_weight(struct world *w, int i, struct random *r)
{
    float *src = new_normal(r, OUT * IN, 0.1f);
    w->w[i] = (struct tensor){.dtype = DT_F32, .rows = OUT, .cols = IN};
    w->w[i].data = take(w->d, cpu_backend.ops->weight_bytes(w->d, &w->w[i]));
    cpu_backend.ops->weight_put(w->d, &w->w[i], &(struct weight_source){.at = src, .fd = -1});
    free(src);
}

/* False when this machine lacks the instruction set. */
static bool open_world(struct world *w, int isa, int n_threads, uint64_t seed)
{
    struct random r = {seed};
    struct device_limits l = wide_limits();
    *w = (struct world){.d = open_cpu(isa_names[isa], n_threads)};
    if (!w->d)
        return false;
    l.in_max = IN;
    l.ffn = OUT;
    give_work(w->d, &l);
    for (int i = 0; i < 3; i++)
        put_weight(w, i, &r);
    w->x = new_normal(&r, ROWS * IN, 3);
    w->bias = new_normal(&r, OUT, 1);
    fill_normal(&r, w->norm_w, IN, 1);
    w->norm = (struct norm){.kind = NORM_RMS, .w = w->norm_w, .eps = 1e-5f};
    return true;
}

static void close_world(struct world *w)
{
    free(w->x), free(w->bias);
    cpu_backend.ops->close(w->d);
}

/* One product of rows that were normed before, contiguous. */
static float *multiply_alone(struct world *w, int i, bool normed)
{
    float *x = new_floats(ROWS * IN), *y = new_floats(ROWS * OUT);
    memcpy(x, w->x, ROWS * IN * sizeof *x);
    if (normed)
        cpu_norm(w->d,
                 &(struct norm_args){.y = x, .x = x, .rows = ROWS, .width = IN, .norm = w->norm});
    cpu_matmul(w->d, &(struct matmul_args){
                         .x = x,
                         .rows = ROWS,
                         .n_outs = 1,
                         .out = {{.y = y, .w = &w->w[i], .bias = i == 1 ? w->bias : NULL}}});
    free(x);
    return y;
}

static void activate(struct world *w, float *y, const float *up)
{
    cpu_act(w->d, &(struct act_args){.y = y,
                                     .gate = y,
                                     .up = up,
                                     .rows = ROWS,
                                     .width = OUT,
                                     .y_stride = OUT,
                                     .kind = ACT_SILU});
}

static void check_rows(const float *y, int stride, const float *want)
{
    for (int row = 0; row < ROWS; row++)
        assert_memory_equal(y + row * stride, want + row * OUT, OUT * sizeof *y);
}

static void outputs_lie_apart_behind_a_norm(void **state)
{
    (void)state;
    enum { STRIDE = 3 * OUT + GAP };
    for (int isa = 0; isa < ISAS; isa++) {
        struct world w;
        if (!open_world(&w, isa, 2, 11))
            continue;
        float *y = new_floats(ROWS * STRIDE);
        struct matmul_args a = {.x = w.x, .rows = ROWS, .norm = &w.norm, .n_outs = 3};
        for (int i = 0; i < 3; i++)
            a.out[i] = (struct matmul_out){
                .y = y + i * OUT, .y_stride = STRIDE, .w = &w.w[i], .bias = i == 1 ? w.bias : NULL};
        cpu_backend.ops->matmul(w.d, &a);
        for (int i = 0; i < 3; i++) {
            float *want = multiply_alone(&w, i, true);
            check_rows(y + i * OUT, STRIDE, want);
            free(want);
        }
        for (int row = 0; row < ROWS; row++)
            for (int i = 0; i < GAP; i++)
                assert_true(isnan(y[row * STRIDE + 3 * OUT + i]));
        free(y);
        close_world(&w);
    }
}

static void an_activation_follows_one_output_or_multiplies_two(void **state)
{
    (void)state;
    for (int k = 0; k < 2 * ISAS; k++) {
        const int n_outs = 1 + k % 2, stride = OUT + k % 2 * GAP;
        struct world w;
        if (!open_world(&w, k / 2, 3, 12 + (uint64_t)k))
            continue;
        float *y = new_floats(ROWS * (OUT + GAP)), unused = 0;
        cpu_backend.ops->matmul(
            w.d, &(struct matmul_args){.x = w.x,
                                       .rows = ROWS,
                                       .norm = n_outs == 2 ? &w.norm : NULL,
                                       .act = ACT_SILU,
                                       .n_outs = n_outs,
                                       .out = {{.y = y, .y_stride = stride, .w = &w.w[0]},
                                               {.y = &unused, .w = &w.w[1], .bias = w.bias}}});
        float *want = multiply_alone(&w, 0, n_outs == 2), *up = multiply_alone(&w, 1, true);
        activate(&w, want, n_outs == 2 ? up : NULL);
        check_rows(y, stride, want);
        assert_true(unused == 0);
        free(y), free(want), free(up);
        close_world(&w);
    }
}

static void a_row_alone_has_the_same_bits(void **state)
{
    (void)state;
    for (int isa = 0; isa < ISAS; isa++) {
        struct world w;
        if (!open_world(&w, isa, 2, 31))
            continue;
        float *y = new_floats(ROWS * OUT), one[OUT];
        struct matmul_args a = {.x = w.x,
                                .rows = ROWS,
                                .norm = &w.norm,
                                .act = ACT_GELU,
                                .n_outs = 2,
                                .out = {{.y = y, .w = &w.w[0]}, {.w = &w.w[1]}}};
        cpu_backend.ops->matmul(w.d, &a);
        for (int row = 0; row < ROWS; row++) {
            a.x = w.x + row * IN;
            a.rows = 1;
            a.out[0].y = one;
            cpu_backend.ops->matmul(w.d, &a);
            assert_memory_equal(one, y + row * OUT, sizeof one);
        }
        free(y);
        close_world(&w);
    }
}

static void head_takes_the_rows_of_its_heads(void **state)
{
    (void)state;
    enum { HEADS = 9, FIRST = 3, N = 5 };
    static const int32_t rows[HEADS] = {0, 1, 2, 17, 4, 4, 18, 0, 9};
    static int32_t zeros[ROWS], positions[ROWS];
    for (int isa = 0; isa < ISAS; isa++) {
        struct world w;
        struct batch_head head[HEADS];
        struct status st = {0};
        if (!open_world(&w, isa, 2, 41))
            continue;
        for (int i = 0; i < HEADS; i++)
            head[i] = (struct batch_head){.row = rows[i], .forced = 0};
        for (int i = 0; i < ROWS; i++)
            positions[i] = i;
        cpu_backend.ops->step_begin(w.d,
                                    &(struct batch){.n_tokens = ROWS,
                                                    .n_seqs = 1,
                                                    .n_heads = HEADS,
                                                    .token_ids = zeros,
                                                    .positions = positions,
                                                    .token_seq = zeros,
                                                    .seq_start = (int32_t[]){0, ROWS},
                                                    .kv_len = (int32_t[]){ROWS},
                                                    .slot = zeros,
                                                    .n_prompt = zeros,
                                                    .block_table = zeros,
                                                    .head = head},
                                    0);
        float *logits = new_floats(N * OUT + 1), *want = multiply_alone(&w, 0, true);
        cpu_backend.ops->head(
            w.d,
            &(struct head_args){
                .logits = logits, .x = w.x, .first = FIRST, .n = N, .norm = &w.norm, .w = &w.w[0]});
        for (int i = 0; i < N; i++)
            assert_memory_equal(logits + i * OUT, want + rows[FIRST + i] * OUT,
                                OUT * sizeof *logits);
        assert_true(isnan(logits[N * OUT]));
        assert_true(cpu_backend.ops->step_wait(w.d, (struct sample_out[HEADS]){0}, &st));
        free(logits), free(want);
        close_world(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(outputs_lie_apart_behind_a_norm),
        cmocka_unit_test(an_activation_follows_one_output_or_multiplies_two),
        cmocka_unit_test(a_row_alone_has_the_same_bits),
        cmocka_unit_test(head_takes_the_rows_of_its_heads),
    };
    return cmocka_run_group_tests_name("linear", tests, NULL, NULL);
}
