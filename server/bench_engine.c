#include "server/bench_engine.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "engine/engine.h"
#include "scheduler/scheduler.h"
#include "server/config.h"

enum {
    PROMPT = 512,
    SHORT_PROMPT = 16,
    GENERATE = 128,
    REQUESTS_MAX = 32,
    REPEATS_MAX = 1000,
    READY_POLL_US = 500,
    STUCK_MS = 300000, /* a measure without any news for so long has failed */
};

enum measure { MEASURE_PROMPT, MEASURE_ONE, MEASURE_16, MEASURE_32, N_MEASURES };

static const struct {
    const char *name, *key;
    int n_requests, n_prompt, n_max;
} measures[N_MEASURES] = {
    {"prompt of 512 tokens", "prompt_512", 1, PROMPT, 1},
    /* From its first token on: 128 tokens more. */
    {"generate 128 tokens", "generate_128", 1, SHORT_PROMPT, GENERATE + 1},
    {"16 requests x 128 tokens", "generate_16x128", 16, SHORT_PROMPT, GENERATE},
    {"32 requests x 128 tokens", "generate_32x128", 32, SHORT_PROMPT, GENERATE},
};

struct bench {
    struct config cfg;
    int32_t n_repeats;
    int32_t parallel_max; /* measures of more requests are left out */
    bool json;
    struct scheduler *sched;
    struct engine_facts facts;
    uint64_t ready_ns;
    uint64_t random;          /* state of the generator of prompts */
    double *rate[N_MEASURES]; /* [n_repeats] tokens per second */

    struct request request[REQUESTS_MAX];
    int32_t prompt[REQUESTS_MAX][PROMPT];
    struct sample_out_slim out[REQUESTS_MAX][GENERATE + 1];
};

/* ---- options ---- */

static bool set_number(const char *name, const char *text, int32_t max, int32_t *out,
                       struct status *st)
{
    char *end = NULL;
    const long v = text ? strtol(text, &end, 10) : 0;
    if (v < 1 || v > max || *end)
        return status_fail(st, STATUS_BAD_INPUT, "%s: want a number from 1 to %d", name, max);
    *out = (int32_t)v;
    return true;
}

/* Takes this benchmark's own flags out of argv; what is left is for config_read. */
static bool take_own_flags(struct bench *b, int *argc, char **argv, struct status *st)
{
    int n = 0;
    bool ok = true;
    for (int i = 0; i < *argc && ok; i++) {
        const char *next = i + 1 < *argc ? argv[i + 1] : NULL;
        if (strcmp(argv[i], "--json") == 0)
            b->json = true;
        else if (strcmp(argv[i], "--repeats") == 0 && ++i)
            ok = set_number("repeats", next, REPEATS_MAX, &b->n_repeats, st);
        else if (strcmp(argv[i], "--parallel-max") == 0 && ++i)
            ok = set_number("parallel-max", next, REQUESTS_MAX, &b->parallel_max, st);
        else
            argv[n++] = argv[i];
    }
    *argc = n;
    return ok;
}

static bool read_options(struct bench *b, int argc, char **argv, struct status *st)
{
    b->n_repeats = 5;
    b->parallel_max = REQUESTS_MAX;
    if (!take_own_flags(b, &argc, argv, st) || !config_read(&b->cfg, argc, argv, st))
        return false;
    if (!b->cfg.model[0])
        return status_fail(st, STATUS_BAD_INPUT,
                           "which model?  inferd bench engine FILE.gguf or FOLDER");
    if (b->cfg.max_seqs && b->cfg.max_seqs < REQUESTS_MAX)
        return status_fail(st, STATUS_BAD_INPUT, "max-seqs is %lld; this benchmark runs %d",
                           (long long)b->cfg.max_seqs, REQUESTS_MAX);
    if (b->cfg.engine[0] == 'f')
        return status_fail(st, STATUS_BAD_INPUT, "engine: the fake one has no speed to measure");
    return true;
}

/* ---- one request after another, or many at once ---- */

static uint64_t next_random(uint64_t *state) /* splitmix64 */
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static void make_request(struct bench *b, int i, enum measure m)
{
    const uint64_t vocab = (uint64_t)b->facts.limits.vocab;
    for (int j = 0; j < measures[m].n_prompt; j++)
        b->prompt[i][j] = (int32_t)(next_random(&b->random) % vocab);
    b->request[i] = (struct request){
        .id = (uint64_t)i + 1,
        .prompt = b->prompt[i],
        .n_prompt = measures[m].n_prompt,
        .n_max = measures[m].n_max,
        .sample = {.top_p = 1, .repetition = 1, .n_logprobs = -1},
        .arrived_ns = clock_now(&clock_real),
        .out = b->out[i],
    };
}

/* Hears the scheduler until n requests have finished. */
static bool wait_finished(struct bench *b, int n, struct status *st)
{
    struct pollfd news = {.fd = scheduler_news_fd(b->sched), .events = POLLIN};
    bool ok = true;
    for (int n_finished = 0; n_finished < n;) {
        for (struct request *r; (r = scheduler_news(b->sched));) {
            if (!request_finished(r))
                continue;
            n_finished++;
            if (ok && atomic_load(&r->finish) != FINISH_LENGTH)
                ok = status_fail(st, STATUS_DEVICE, "a request ended early: %s", r->why.msg);
        }
        scheduler_news_done(b->sched);
        if (n_finished < n && poll(&news, 1, STUCK_MS) == 0)
            return status_fail(st, STATUS_DEVICE, "no token in %d s", STUCK_MS / 1000);
    }
    return ok;
}

static bool measure(struct bench *b, enum measure m, double *rate, struct status *st)
{
    const int n = measures[m].n_requests;
    for (int i = 0; i < n; i++)
        make_request(b, i, m);
    const uint64_t start_ns = clock_now(&clock_real);
    for (int i = 0; i < n; i++) {
        if (scheduler_submit(b->sched, &b->request[i], st))
            continue;
        for (int j = 0; j < i; j++)
            scheduler_cancel(b->sched, &b->request[j]);
        return status_wrap(st, "submit request %d of %d", i + 1, n);
    }
    if (!wait_finished(b, n, st))
        return false;
    const struct request *r = &b->request[0];
    uint64_t end_ns = start_ns;
    for (int i = 0; i < n; i++)
        if (b->request[i].finished_ns > end_ns)
            end_ns = b->request[i].finished_ns;
    if (m == MEASURE_PROMPT)
        *rate = PROMPT * 1e9 / (double)(r->first_token_ns - start_ns);
    else if (m == MEASURE_ONE)
        *rate = GENERATE * 1e9 / (double)(r->finished_ns - r->first_token_ns);
    else
        *rate = (double)n * GENERATE * 1e9 / (double)(end_ns - start_ns);
    return true;
}

/* ---- open, run, report ---- */

static bool open_scheduler(struct bench *b, struct status *st)
{
    struct engine_options eo;
    config_engine(&b->cfg, &eo);
    struct engine *e = b->cfg.engine[0] == 'l' ? engine_local_open(&eo, &clock_real, st)
                                               : engine_proc_open(&eo, &clock_real, st);
    if (!e)
        return status_wrap(st, "engine");
    const struct scheduler_options so = {
        .queue_max = REQUESTS_MAX,
        .prefill_chunk_max = (int32_t)b->cfg.prefill_chunk,
        .prefix_cache = false,
    };
    b->sched = scheduler_open(&so, e, NULL, &clock_real, st);
    return b->sched && scheduler_start(b->sched, st);
}

static bool wait_ready(struct bench *b, uint64_t start_ns, struct status *st)
{
    struct scheduler_view v;
    for (;;) {
        scheduler_view(b->sched, &v);
        if (v.engine_state == ENGINE_READY)
            break;
        if (v.engine_deaths > 0)
            return status_fail(st, STATUS_DEVICE, "the engine did not start: %s", v.engine_why);
        usleep(READY_POLL_US);
    }
    b->ready_ns = clock_now(&clock_real) - start_ns;
    b->facts = v.facts;
    return true;
}

static bool is_wanted(const struct bench *b, int m)
{
    return measures[m].n_requests <= b->parallel_max;
}

static bool run(struct bench *b, struct status *st)
{
    const uint64_t start_ns = clock_now(&clock_real);
    b->random = start_ns;
    if (!open_scheduler(b, st) || !wait_ready(b, start_ns, st))
        return false;
    for (int m = 0; m < N_MEASURES; m++)
        if (!(b->rate[m] = calloc((size_t)b->n_repeats, sizeof *b->rate[m])))
            return status_fail(st, STATUS_BUSY, "no memory");
    for (int32_t r = -1; r < b->n_repeats; r++) /* the first warms up */
        for (int m = 0; m < N_MEASURES; m++)
            if (is_wanted(b, m) && !measure(b, (enum measure)m, &b->rate[m][r < 0 ? 0 : r], st))
                return status_wrap(st, "%s", measures[m].name);
    return true;
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void report(struct bench *b)
{
    const double ready_ms = (double)b->ready_ns / 1e6;
    if (b->json)
        printf("{\"device\":\"%s\",\"isa\":\"%s\",\"precision\":\"%s\",\"kv_dtype\":\"%s\",\"threads\":%lld,"
               "\"repeats\":%d,\"ready_ms\":%.1f",
               b->facts.device, b->facts.isa, b->cfg.cpu_precision, b->facts.kv_dtype, (long long)b->cfg.threads,
               b->n_repeats, ready_ms);
    else
        printf("%s, %s, kv %s, median (least, most) of %d\n%-26s %10.1f ms\n", b->facts.isa,
               b->cfg.cpu_precision, b->facts.kv_dtype, b->n_repeats, "ready after", ready_ms);
    for (int m = 0; m < N_MEASURES; m++) {
        double *rate = b->rate[m];
        if (!is_wanted(b, m))
            continue;
        qsort(rate, (size_t)b->n_repeats, sizeof *rate, compare);
        const double median = rate[b->n_repeats / 2];
        if (b->json)
            printf(",\"%s\":%.1f", measures[m].key, median);
        else
            printf("%-26s %10.1f tokens/s (%.1f, %.1f)\n", measures[m].name, median, rate[0],
                   rate[b->n_repeats - 1]);
    }
    puts(b->json ? "}" : "");
}

static void bench_close(struct bench *b)
{
    if (b->sched) {
        scheduler_stop(b->sched);
        scheduler_close(b->sched);
    }
    for (int m = 0; m < N_MEASURES; m++)
        free(b->rate[m]);
    config_close(&b->cfg);
    free(b);
}

int bench_engine_main(int argc, char **argv)
{
    struct status st = {0};
    struct bench *b = calloc(1, sizeof *b);
    int code = 0;
    if (!b)
        return 1;
    if (!read_options(b, argc, argv, &st)) {
        code = 2;
    } else {
        log_init(LOG_WARN, config_log_format(&b->cfg));
        if (run(b, &st))
            report(b);
        else
            code = 1;
    }
    if (code)
        fprintf(stderr, "inferd: bench engine: %s\n", st.msg);
    bench_close(b);
    return code;
}
