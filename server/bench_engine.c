#include "server/bench_engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "engine/engine.h"
#include "scheduler/scheduler.h"
#include "server/bench_rates.h"
#include "server/bench_requests.h"
#include "server/bench_table.h"
#include "server/config.h"

enum {
    PROMPT = 512,
    SHORT_PROMPT = 16,
    GENERATE = 128,
    REQUESTS_MAX = 32,
    REPEATS_MAX = 1000,
    READY_POLL_US = 500,
    REPORT_BYTES_MAX = 1 << 20,
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

/* Which rows of bench_table.h; AUTO = FULL on a device that is not the CPU, else FEW. */
enum tables { TABLES_AUTO, TABLES_FULL, TABLES_FEW, TABLES_NONE, N_TABLES };

static const char *const tables_names[N_TABLES] = {"auto", "full", "few", "none"};

struct bench {
    struct config cfg;
    int32_t n_repeats;
    int32_t parallel_max; /* measures of more requests are left out */
    bool json;
    bool random_weights;
    enum tables tables;
    struct bench_rows prefills, decodes; /* none of either = those of `tables` */
    struct bench_source source;
    struct bench_rates rates;
    uint64_t start_ns, ready_ns;
    double *rate[N_MEASURES]; /* [n_repeats] tokens per second */
};

/* ---- options ---- */

static bool set_number(const char *name, const char *text, int32_t min, int32_t max, int32_t *out,
                       struct status *st)
{
    char *end = NULL;
    const long v = text ? strtol(text, &end, 10) : min - 1;
    if (v < min || v > max || end == text || *end)
        return status_fail(st, STATUS_BAD_INPUT, "%s: want a number from %d to %d", name, min, max);
    *out = (int32_t)v;
    return true;
}

static bool set_tables(struct bench *b, const char *text, struct status *st)
{
    for (int i = 0; text && i < N_TABLES; i++)
        if (strcmp(text, tables_names[i]) == 0) {
            b->tables = (enum tables)i;
            return true;
        }
    return status_fail(st, STATUS_BAD_INPUT, "tables: want auto, full, few or none");
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
            ok = set_number("repeats", next, 1, REPEATS_MAX, &b->n_repeats, st);
        else if (strcmp(argv[i], "--parallel-max") == 0 && ++i)
            ok = set_number("parallel-max", next, 0, REQUESTS_MAX, &b->parallel_max, st);
        else if (strcmp(argv[i], "--tables") == 0 && ++i)
            ok = set_tables(b, next, st);
        else if (strcmp(argv[i], "--prefill") == 0 && ++i)
            ok = bench_rows_read(&b->prefills, next, false, st) || status_wrap(st, "prefill");
        else if (strcmp(argv[i], "--decode") == 0 && ++i)
            ok = bench_rows_read(&b->decodes, next, true, st) || status_wrap(st, "decode");
        else if (strcmp(argv[i], "--random") == 0)
            b->random_weights = true; /* its value stays: the model */
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
    if (b->cfg.max_seqs && b->cfg.max_seqs < b->parallel_max)
        return status_fail(st, STATUS_BAD_INPUT,
                           "max-seqs is %lld; this benchmark runs %d (parallel-max)",
                           (long long)b->cfg.max_seqs, b->parallel_max);
    if (b->tables == TABLES_NONE && b->prefills.n + b->decodes.n > 0)
        return status_fail(st, STATUS_BAD_INPUT,
                           "tables is none: prefill and decode are rows of its tables");
    if (b->cfg.engine[0] == 'f')
        return status_fail(st, STATUS_BAD_INPUT, "engine: the fake one has no speed to measure");
    return true;
}

/* ---- the measures ---- */

static double rate_of(const struct bench_requests *r, enum measure m)
{
    const struct request *first = &r->at[0];
    uint64_t end_ns = r->start_ns;
    for (int i = 0; i < r->n; i++)
        if (r->at[i].finished_ns > end_ns)
            end_ns = r->at[i].finished_ns;
    if (m == MEASURE_PROMPT)
        return PROMPT * 1e9 / (double)(first->first_token_ns - r->start_ns);
    if (m == MEASURE_ONE)
        return GENERATE * 1e9 / (double)(first->finished_ns - first->first_token_ns);
    return (double)r->n * GENERATE * 1e9 / (double)(end_ns - r->start_ns);
}

static bool measure(struct bench *b, enum measure m, double *rate, struct status *st)
{
    struct bench_requests r;
    if (!bench_requests_make(&r, &b->source, measures[m].n_requests, measures[m].n_prompt,
                             measures[m].n_max, st) ||
        !bench_requests_run(&r, &b->source, NULL, st))
        return false;
    *rate = rate_of(&r, m);
    bench_requests_close(&r);
    return true;
}

/* ---- open, run, report ---- */

static bool open_scheduler(struct bench *b, struct status *st)
{
    struct engine_options eo;
    config_engine(&b->cfg, &eo);
    eo.random_weights |= b->random_weights;
    if (b->tables != TABLES_NONE && !bench_rates_measure(&b->rates, &eo, st))
        return false;
    b->start_ns = clock_now(&clock_real);
    struct engine *e = b->cfg.engine[0] == 'l' ? engine_local_open(&eo, &clock_real, st)
                                               : engine_proc_open(&eo, &clock_real, st);
    if (!e)
        return status_wrap(st, "engine");
    const struct scheduler_options so = {
        .queue_max = REQUESTS_MAX,
        .prefill_chunk_max = (int32_t)b->cfg.prefill_chunk,
        /* A batch of the table is to be whole soon. */
        .mixed_tokens_max = b->cfg.mixed_step_tokens ? (int32_t)b->cfg.mixed_step_tokens : INT32_MAX,
        .prefix_cache = false,
    };
    b->source.sched = scheduler_open(&so, e, NULL, &clock_real, st);
    return b->source.sched && scheduler_start(b->source.sched, st);
}

static bool wait_ready(struct bench *b, struct status *st)
{
    struct scheduler_view v;
    for (;;) {
        scheduler_view(b->source.sched, &v);
        if (v.engine_state == ENGINE_READY)
            break;
        if (v.engine_deaths > 0)
            return status_fail(st, STATUS_DEVICE, "the engine did not start: %s", v.engine_why);
        usleep(READY_POLL_US);
    }
    b->ready_ns = clock_now(&clock_real) - b->start_ns;
    b->source.facts = v.facts;
    config_tell_idle(&b->cfg, &v.facts);
    return true;
}

static bool is_wanted(const struct bench *b, int m)
{
    return measures[m].n_requests <= b->parallel_max;
}

static bool run(struct bench *b, struct status *st)
{
    b->source.random = clock_now(&clock_real);
    if (!open_scheduler(b, st) || !wait_ready(b, st))
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

static void report_head(const struct bench *b, struct buf *out)
{
    const struct engine_facts *f = &b->source.facts;
    const double ready_ms = (double)b->ready_ns / 1e6, gb = (double)f->weight_bytes / 1e9;
    buf_printf(
        out,
        b->json ? "{\"device\":\"%s\",\"isa\":\"%s\",\"precision\":\"%s\",\"kv_dtype\":\"%s\","
                  "\"threads\":%lld,\"repeats\":%d,\"weight_gb\":%.3f,\"ready_ms\":%.1f,"
                  "\"copy_gb_per_s\":%.1f,\"matmul_tflops\":%.2f"
                : "%s, %s, %s, kv %s, %lld threads, median (least, most) of %d\n"
                  "%.3f GB of weights, ready after %.1f ms; copy %.1f GB/s, product %.2f "
                  "TFLOP/s\n",
        f->device, f->isa, b->cfg.cpu_precision, f->kv_dtype, (long long)b->cfg.threads,
        b->n_repeats, gb, ready_ms, b->rates.copy_bytes_s / 1e9, b->rates.matmul_flops / 1e12);
}

static void report_measures(struct bench *b, struct buf *out)
{
    for (int m = 0; m < N_MEASURES; m++) {
        double *rate = b->rate[m];
        if (!is_wanted(b, m))
            continue;
        qsort(rate, (size_t)b->n_repeats, sizeof *rate, compare);
        const double median = rate[b->n_repeats / 2];
        if (b->json)
            buf_printf(out, ",\"%s\":%.1f", measures[m].key, median);
        else
            buf_printf(out, "%-26s %10.1f tokens/s (%.1f, %.1f)\n", measures[m].name, median,
                       rate[0], rate[b->n_repeats - 1]);
    }
}

static bool run_table(struct bench *b, struct buf *out, struct status *st)
{
    const bool on_cpu = strcmp(b->source.facts.device, "cpu") == 0;
    const int n_devices = on_cpu ? 1 : b->source.facts.n_ranks; /* one was measured */
    const bool chosen = b->prefills.n + b->decodes.n > 0;
    struct bench_table t = {.full =
                                b->tables == TABLES_FULL || (b->tables == TABLES_AUTO && !on_cpu),
                            .prefills = chosen ? &b->prefills : NULL,
                            .decodes = chosen ? &b->decodes : NULL,
                            .copy_bytes_s = b->rates.copy_bytes_s * n_devices,
                            .json = b->json,
                            .out = out};
    return b->tables == TABLES_NONE || bench_table_run(&t, &b->source, st);
}

static bool run_and_report(struct bench *b, struct status *st)
{
    struct buf out;
    buf_init(&out, REPORT_BYTES_MAX);
    bool ok = run(b, st);
    if (ok) {
        report_head(b, &out);
        report_measures(b, &out);
        if (!b->json) { /* rows of the table follow as they are measured */
            fwrite(out.at, 1, out.n, stdout);
            buf_clear(&out);
        }
        ok = run_table(b, &out, st);
        if (ok && b->json && buf_put_str(&out, "}\n"))
            fwrite(out.at, 1, out.n, stdout);
    }
    buf_close(&out);
    return ok;
}

static void bench_close(struct bench *b)
{
    if (b->source.sched) {
        scheduler_stop(b->source.sched);
        scheduler_close(b->source.sched);
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
    config_warn_of_variables();
    if (!read_options(b, argc, argv, &st)) {
        code = 2;
    } else {
        log_init(LOG_WARN, config_log_format(&b->cfg));
        code = !run_and_report(b, &st);
    }
    if (code)
        fprintf(stderr, "inferd: bench engine: %s\n", st.msg);
    bench_close(b);
    return code;
}
