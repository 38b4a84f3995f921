/* What the metrics promise: the names, labels and buckets that dashboards read, histograms that add
 * up, and a bounded number of series whatever clients send. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/scheduler.h"
#include "server/metrics.h"
#include "server/server.h"

struct fixture {
    struct metrics *m;
    struct server sv;
    struct buf text;
};

static struct scheduler *open_scheduler(void)
{
    struct status st = {0};
    struct engine_fake_options fake = {.end_id = -1,
                                       .limits = {.vocab = 100,
                                                  .seqs_max = 4,
                                                  .step_tokens_max = 64,
                                                  .context_max = 256,
                                                  .n_blocks = 64,
                                                  .block_tokens = 16,
                                                  .history_max = 1024,
                                                  .bias_max = STEP_BIAS_MAX * 4}};
    struct scheduler_options o = {.queue_max = 16, .prefill_chunk_max = 32};
    struct engine *e = engine_fake_open(&fake, &clock_real, &st);
    if (!e)
        fail_msg("%s", st.msg);
    struct scheduler *s = scheduler_open(&o, e, NULL, &clock_real, &st);
    if (!s)
        fail_msg("%s", st.msg);
    for (int i = 0; i < 10; i++)
        scheduler_turn(s);
    return s;
}

static int setup_named(void **state, const char *model)
{
    struct fixture *f = test_calloc(1, sizeof *f);
    f->m = metrics_open(model);
    f->sv.sched = open_scheduler();
    f->sv.metrics = f->m;
    buf_init(&f->text, 1 << 20);
    *state = f;
    return f->m == NULL;
}

static int setup(void **state)
{
    return setup_named(state, "m");
}

static int setup_hostile(void **state)
{
    return setup_named(state, "a\"b\\c\nd");
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    scheduler_close(f->sv.sched);
    metrics_close(f->m);
    buf_close(&f->text);
    test_free(f);
    return 0;
}

static const char *scrape(struct fixture *f)
{
    buf_clear(&f->text);
    metrics_write(f->m, &f->sv, &f->text);
    assert_false(f->text.failed);
    return f->text.at;
}

/* The value of the series written exactly so; fails when it is not there. */
static double value_of(const char *text, const char *series)
{
    size_t n = strlen(series);
    for (const char *s = text; s; s = strchr(s, '\n')) {
        s += *s == '\n';
        if (strncmp(s, series, n) == 0 && s[n] == ' ')
            return strtod(s + n + 1, NULL);
    }
    fail_msg("no series %s", series);
    return 0;
}

#define S 1000000000ull

static void finish_one(struct metrics *m, int finish, int32_t n_out)
{
    struct request r = {.n_prompt = 100,
                        .n_max = 64,
                        .n_cached = 40,
                        .arrived_ns = 10 * S,
                        .scheduled_ns = 11 * S,
                        .first_token_ns = 13 * S,
                        .finished_ns = 23 * S};
    atomic_init(&r.n_out, n_out);
    atomic_init(&r.finish, finish);
    metrics_request(m, &r, 24 * S);
}

static void a_request_is_counted_where_its_times_belong(void **state)
{
    struct fixture *f = *state;
    finish_one(f->m, FINISH_STOP, 11);
    const char *t = scrape(f);
#define L "{model_name=\"m\",engine=\"0\"}"
    assert_true(value_of(t, "vllm:time_to_first_token_seconds_sum" L) == 3);
    assert_true(value_of(t, "vllm:request_queue_time_seconds_sum" L) == 1);
    assert_true(value_of(t, "vllm:request_prefill_time_seconds_sum" L) == 2);
    assert_true(value_of(t, "vllm:request_decode_time_seconds_sum" L) == 10);
    assert_true(value_of(t, "vllm:request_inference_time_seconds_sum" L) == 12);
    assert_true(value_of(t, "vllm:e2e_request_latency_seconds_sum" L) == 13);
    assert_true(value_of(t, "vllm:request_time_per_output_token_seconds_sum" L) == 1);
    assert_true(value_of(t, "vllm:request_prompt_tokens_sum" L) == 100);
    assert_true(value_of(t, "vllm:request_generation_tokens_sum" L) == 11);
    assert_true(value_of(t, "vllm:request_prefill_kv_computed_tokens_sum" L) == 60);
    assert_true(value_of(t, "inferd_time_to_first_token_seconds_sum") == 3);
    assert_true(value_of(t, "vllm:time_to_first_token_seconds_bucket{model_name=\"m\","
                            "engine=\"0\",le=\"2.5\"}") == 0);
    assert_true(value_of(t, "vllm:time_to_first_token_seconds_bucket{model_name=\"m\","
                            "engine=\"0\",le=\"5\"}") == 1);
}

static void requests_are_counted_by_how_they_ended(void **state)
{
    struct fixture *f = *state;
    finish_one(f->m, FINISH_STOP, 5);
    finish_one(f->m, FINISH_LENGTH, 5);
    finish_one(f->m, FINISH_LENGTH, 5);
    finish_one(f->m, FINISH_CANCELLED, 0);
    finish_one(f->m, FINISH_ERROR, 0);
    const char *t = scrape(f);
    assert_true(value_of(t, "inferd_requests_finished_total{reason=\"stop\"}") == 1);
    assert_true(value_of(t, "inferd_requests_finished_total{reason=\"length\"}") == 2);
    assert_true(value_of(t, "vllm:request_success_total{model_name=\"m\",engine=\"0\","
                            "finished_reason=\"abort\"}") == 1);
    assert_true(value_of(t, "vllm:request_success_total{model_name=\"m\",engine=\"0\","
                            "finished_reason=\"error\"}") == 1);
}

static void tokens_of_one_publication_share_its_gap(void **state)
{
    struct fixture *f = *state;
    metrics_inter_token(f->m, 30000000, 3); /* 30 ms for 3 tokens */
    metrics_inter_token(f->m, 1, 0);        /* nothing came */
    const char *t = scrape(f);
    assert_true(value_of(t, "vllm:inter_token_latency_seconds_count" L) == 3);
    assert_true(value_of(t, "vllm:inter_token_latency_seconds_bucket{model_name=\"m\","
                            "engine=\"0\",le=\"0.01\"}") == 3);
    assert_true(value_of(t, "inferd_inter_token_latency_seconds_bucket{le=\"0.005\"}") == 0);
}

static void the_buckets_are_those_that_dashboards_know(void **state)
{
    static const struct {
        const char *name, *bounds;
    } table[] = {
        {"vllm:time_to_first_token_seconds",
         "0.001 0.005 0.01 0.02 0.04 0.06 0.08 0.1 0.25 0.5 0.75 1 2.5 5 7.5 10 20 40 80 160 640 "
         "2560 +Inf "},
        {"vllm:inter_token_latency_seconds",
         "0.01 0.025 0.05 0.075 0.1 0.15 0.2 0.3 0.4 0.5 0.75 1 2.5 5 7.5 10 20 40 80 +Inf "},
        {"vllm:e2e_request_latency_seconds",
         "0.3 0.5 0.8 1 1.5 2 2.5 5 10 15 20 30 40 50 60 120 240 480 960 1920 7680 +Inf "},
        {"vllm:request_prompt_tokens", "1 2 5 10 20 50 100 200 +Inf "}, /* context is 256 */
        {"vllm:iteration_tokens_total", "1 8 16 32 64 128 256 512 1024 2048 4096 8192 16384 +Inf "},
    };
    const char *t = scrape(*state);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        char start[96], found[512] = "";
        size_t n = 0;
        snprintf(start, sizeof start, "\n%s_bucket{", table[i].name);
        for (const char *s = t; (s = strstr(s, start)); s++) {
            const char *le = strstr(s, "le=\"") + 4;
            n += (size_t)snprintf(found + n, sizeof found - n, "%.*s ", (int)strcspn(le, "\""), le);
        }
        assert_string_equal(found, table[i].bounds);
    }
}

static void every_histogram_adds_up(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < 50; i++) {
        finish_one(f->m, FINISH_STOP, i);
        metrics_inter_token(f->m, (uint64_t)i * 7777777, i % 3);
        metrics_http(f->m, "/x", "GET", 200, (uint64_t)i * 99999999);
    }
    double last = 0, inf = -1;
    int n_histograms = 0;
    char *save = NULL;
    for (char *line = strtok_r((char *)(uintptr_t)scrape(f), "\n", &save); line;
         line = strtok_r(NULL, "\n", &save)) {
        double v = strtod(strrchr(line, ' ') + 1, NULL);
        if (strstr(line, "_bucket{")) {
            assert_true(v >= last);
            last = strstr(line, "le=\"+Inf\"") ? 0 : v;
            inf = strstr(line, "le=\"+Inf\"") ? v : -1;
            n_histograms += inf >= 0;
        } else if (strstr(line, "_count") && line[0] != '#') {
            assert_true(v >= 0);
        } else if (strstr(line, "_sum") && line[0] != '#') {
            assert_true(inf >= 0); /* +Inf stood just before */
        }
    }
    assert_true(n_histograms > 25);
}

static void clients_cannot_make_series_without_end(void **state)
{
    struct fixture *f = *state;
    char word[32];
    for (int i = 0; i < 1000; i++) {
        snprintf(word, sizeof word, "/path%d", i);
        metrics_http(f->m, word, "GET", 200, 1000);
        metrics_rejected(f->m, word + 1);
    }
    const char *t = scrape(f);
    int n_http = 0, n_codes = 0, n_routes = 0;
    double http = 0, codes = 0;
    for (const char *s = t; (s = strchr(s, '\n')) && s[1];) {
        s++;
        bool is_http = strncmp(s, "inferd_http_requests_total{", 27) == 0;
        bool is_code = strncmp(s, "inferd_rejected_total{", 22) == 0;
        n_http += is_http;
        n_codes += is_code;
        n_routes += strncmp(s, "inferd_http_request_seconds_count{", 34) == 0;
        if (is_http)
            http += strtod(strstr(s, "} ") + 2, NULL);
        if (is_code)
            codes += strtod(strstr(s, "} ") + 2, NULL);
    }
    assert_int_equal(n_http, 64);
    assert_int_equal(n_codes, 64);
    assert_int_equal(n_routes, 24);
    assert_true(http == 1000 && codes == 1000); /* and none is lost */
}

static void a_label_cannot_leave_its_quotes(void **state)
{
    const char *t = scrape(*state);
    assert_true(
        value_of(t, "vllm:num_requests_running{model_name=\"a\\\"b\\\\c\\nd\",engine=\"0\"}") == 0);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_request_is_counted_where_its_times_belong),
        TEST(requests_are_counted_by_how_they_ended),
        TEST(tokens_of_one_publication_share_its_gap),
        TEST(the_buckets_are_those_that_dashboards_know),
        TEST(every_histogram_adds_up),
        TEST(clients_cannot_make_series_without_end),
        cmocka_unit_test_setup_teardown(a_label_cannot_leave_its_quotes, setup_hostile, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
