/* What the ops promise to ranks: a part of a weight lies as its copy would; each rank's logits meet
 * in one row, with the bits of the whole head; sums are the group's; and a lost rank is a fault
 * that step_wait reports. */
#include "tests/unit/kernels/cpu_test.h"

#include <pthread.h>
#include <time.h>

#include "kernels/comm.h"
#include "kernels/half.h"

enum { RANKS = 3, WIDTH = 256, VOCAB = 101, TOKENS = 7, HEADS = 5 };

static uint64_t fresh_seed(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_nsec << 20 ^ (uint64_t)t.tv_sec;
}

/* Q8_0 rows in file layout. */
static uint8_t *new_q8(struct random *r, int64_t rows, int64_t cols)
{
    const size_t n_blocks = (size_t)(rows * cols / 32);
    uint8_t *w = malloc(n_blocks * 34);
    for (size_t b = 0; b < n_blocks; b++) {
        const uint16_t d = f32_to_f16(0.001f + 0.01f * (float)random_uniform(r));
        memcpy(w + b * 34, &d, 2);
        for (int i = 0; i < 32; i++)
            w[b * 34 + 2 + i] = (uint8_t)random_bits(r);
    }
    return w;
}

static struct tensor put(struct device *d, const uint8_t *at, int64_t rows, int64_t cols,
                         size_t row_bytes)
{
    struct tensor w = {.dtype = DT_Q8_0, .rows = rows, .cols = cols};
    w.data = take(d, cpu_backend.ops->weight_bytes(d, &w));
    cpu_backend.ops->weight_put(
        d, &w, &(struct weight_source){.at = at, .fd = -1, .row_bytes = row_bytes});
    return w;
}

static void some_columns_lie_as_their_copy_would(void **state)
{
    (void)state;
    enum { ROWS = 37, COLS = 96, SKIP = 64 };
    struct random r = {fresh_seed()};
    const size_t row = WIDTH / 32 * 34, part = COLS / 32 * 34;
    for (int i = 0; i < ISAS; i++) {
        struct device *d = open_cpu(isa_names[i], 1);
        if (!d)
            continue;
        uint8_t *src = new_q8(&r, ROWS, WIDTH), *copy = malloc(ROWS * part);
        for (int j = 0; j < ROWS; j++)
            memcpy(copy + j * part, src + j * row + SKIP / 32 * 34, part);
        const struct tensor a = put(d, src + SKIP / 32 * 34, ROWS, COLS, row);
        const struct tensor b = put(d, copy, ROWS, COLS, 0);
        assert_memory_equal(a.data, b.data, cpu_backend.ops->weight_bytes(d, &a));
        cpu_backend.ops->close(d);
        free(src);
        free(copy);
    }
}

static struct device_limits limits(void)
{
    struct device_limits l = wide_limits();
    l.vocab = VOCAB;
    l.hidden = l.in_max = l.ffn = WIDTH;
    return l;
}

static void begin(struct device *d)
{
    static const int32_t ids[TOKENS], zeros[TOKENS];
    static const int32_t start[] = {0, TOKENS}, n = TOKENS;
    struct batch_head head[HEADS];
    static const struct sample_params greedy = {.top_p = 1, .repetition = 1, .n_logprobs = -1};
    for (int i = 0; i < HEADS; i++)
        head[i] = (struct batch_head){.row = (i * 3 + 1) % TOKENS, .n_history = 1, .forced = -1};
    cpu_backend.ops->step_begin(
        d,
        &(struct batch){.n_tokens = TOKENS,
                        .n_seqs = 1,
                        .n_heads = HEADS,
                        .n_slots = 1,
                        .token_ids = ids,
                        .positions = zeros,
                        .token_seq = zeros,
                        .seq_start = start,
                        .kv_len = &n,
                        .slot = zeros,
                        .n_prompt = &n,
                        .block_table = zeros,
                        .set = &(struct batch_slot){.n_prompt = TOKENS, .params = &greedy},
                        .head = head},
        0);
}

static void run_head(struct device *d, const float *x, const struct tensor *w, const int32_t *split,
                     float *logits)
{
    static const struct norm norm = {.kind = NORM_RMS, .eps = 1e-5f};
    begin(d);
    cpu_backend.ops->head(
        d, &(struct head_args){
               .logits = logits, .x = x, .n = HEADS, .norm = &norm, .w = w, .split = split});
    cpu_backend.ops->step_end(d);
}

struct job {
    const uint8_t *table;
    const float *x;
    void *memory;
    const float *want;
};

struct rank {
    const struct job *job;
    int index;
    bool leaves, ok;
    pthread_t thread;
};

static const int32_t split[RANKS + 1] = {0, 50, 51, VOCAB};

/* The head, then twice the sum of logits; a rank that leaves does neither. */
static void *run_rank(void *arg)
{
    struct rank *r = arg;
    struct status st = {0};
    struct comm *c = comm_open(r->job->memory, r->index, &st);
    comm_wait_set(c, 500);
    struct device_options opts = {.n_threads = RANKS, .comm = c};
    struct device *d = cpu_backend.open(&opts, &st);
    const struct device_limits l = limits();
    void *work = cpu_backend.ops->mem_take(d, cpu_backend.ops->work_bytes(d, &l), &st);
    float *logits = new_floats(HEADS * VOCAB), *y = new_floats(HEADS * VOCAB);
    struct sample_out out[HEADS];
    if (cpu_backend.ops->work_set(d, &l, work, &st) && !r->leaves) {
        struct tensor w = {.dtype = DT_Q8_0, .rows = split[r->index + 1] - split[r->index]};
        w.cols = WIDTH;
        w.data = cpu_backend.ops->mem_take(d, cpu_backend.ops->weight_bytes(d, &w), &st);
        const uint8_t *at = r->job->table + (size_t)split[r->index] * (WIDTH / 32 * 34);
        cpu_backend.ops->weight_put(d, &w, &(struct weight_source){.at = at, .fd = -1});
        run_head(d, r->job->x, &w, split, logits);
        cpu_backend.ops->all_reduce(
            d, &(struct all_reduce_args){.y = y, .x = logits, .rows = HEADS, .width = VOCAB});
        r->ok = cpu_backend.ops->step_wait(d, out, &st);
        for (int i = 0; r->ok && i < HEADS * VOCAB; i++) {
            const float v = r->job->want[i];
            r->ok = memcmp(&logits[i], &v, sizeof v) == 0 && y[i] == v + v + v;
        }
    }
    if (!r->ok && !r->leaves)
        r->ok = r->job->want == NULL && strstr(st.msg, "rank 2 did not come") != NULL;
    free(logits);
    free(y);
    cpu_backend.ops->close(d);
    comm_close(c);
    return NULL;
}

static void run_ranks(struct job *job, bool last_leaves)
{
    struct rank rank[RANKS];
    struct status st = {0};
    job->memory = comm_memory_take(RANKS, 1, &st);
    assert_non_null(job->memory);
    for (int i = 0; i < RANKS; i++) {
        rank[i] = (struct rank){.job = job, .index = i, .leaves = last_leaves && i == RANKS - 1};
        assert_int_equal(pthread_create(&rank[i].thread, NULL, run_rank, &rank[i]), 0);
    }
    for (int i = 0; i < RANKS; i++) {
        pthread_join(rank[i].thread, NULL);
        assert_true(rank[i].ok || rank[i].leaves);
    }
    comm_memory_drop(job->memory);
}

static void logits_meet_with_the_bits_of_the_whole_head(void **state)
{
    (void)state;
    struct random r = {fresh_seed()};
    struct device *d = open_cpu(NULL, 1);
    const struct device_limits l = limits();
    give_work(d, &l);
    uint8_t *table = new_q8(&r, VOCAB, WIDTH);
    float *x = new_normal(&r, TOKENS * WIDTH, 1), *want = new_floats(HEADS * VOCAB);
    const struct tensor w = put(d, table, VOCAB, WIDTH, 0);
    run_head(d, x, &w, NULL, want);
    run_ranks(&(struct job){.table = table, .x = x, .want = want}, false);
    run_ranks(&(struct job){.table = table, .x = x, .want = NULL}, true);
    cpu_backend.ops->close(d);
    free(table);
    free(x);
    free(want);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(some_columns_lie_as_their_copy_would),
        cmocka_unit_test(logits_meet_with_the_bits_of_the_whole_head),
    };
    return cmocka_run_group_tests_name("rank ops", tests, NULL, NULL);
}
